/*
 * Regions and their page tables.
 *
 * A region is a range of managed addresses. Its page table is one flat array
 * of PTEs and one of sections, both of the platform's untouched memory, so that they cost only
 * what is used. When part of a region is unmapped, what is left becomes one
 * or two regions that share the page table; the last one to go frees it.
 *
 * A section is 512 pages (2 MiB aligned to the page table's start): the unit of trimming and of
 * ageing. Bit n of `populated` is set before a page of section n first leaves the untouched format,
 * and never cleared: what walks a vast sparse region walks only those sections. Of a section, it
 * looks at groups of eight pages, a cache line of PTEs, of which one may be valid: a group's bit is
 * set by who has a page of it BUSY, before that page becomes valid, and taken back by the ager. The
 * ager looks at the group again afterwards: whoever has made a page BUSY before that is seen, and
 * who comes later sets the bit after it was taken back.
 *
 * The set of regions is guarded by machine.regions_lock. A fault holds it shared
 * until it has set BUSY; from then on BUSY keeps the page table alive, since an
 * unmap waits for every BUSY in its range after it has taken the region off.
 */
#ifndef VMSM_CORE_REGION_H
#define VMSM_CORE_REGION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/pte.h"
#include "core/sync.h"
#include "mapper/mapper.h"

#define GROUP_PAGES 8u /* SECTION_PAGES of them are 64 groups */

struct section {
    struct sync_mutex lock; /* coarse locks only: guards the section's PTEs in faults and trims */
    _Atomic uint32_t trimming; /* 1: a trimmer owns the right to protect, lift and drop here (a) */
    _Atomic uint64_t groups;   /* bit n: of pages 8n to 8n + 7 one may be valid (a) */
    _Atomic int32_t valid;   /* valid pages (a); lags the PTEs, but not while the gate is closed */
    _Atomic uint32_t asked;  /* pages that were asked for and not there, fading: around.c (a) */
    _Atomic int32_t guarded; /* PROTECTED pages, and those about to be: at least so many (a) */
    _Atomic int32_t clean; /* pages trimmed unchanged, less what is to be charged for writes (a) */
    _Atomic uint8_t protect; /* dirty=auto: map pages from the pagefile protected; becomes 1 only */
                             /* under `trimming` (a) */
    _Atomic bool large; /* all pages are valid, and one huge page: large.h; changed by who has them
                              * BUSY (a) */
    _Atomic bool mistrusted; /* a read of all of it failed: never again at once (a) */
    _Atomic uint8_t advice;  /* enum vmsm_advice + 1, or 0: as the table's (a) */
};

/* (a) atomic; (c) constant; (r) regions_lock: exclusive to change, shared to read */

struct pagetable {
    uintptr_t base;              /* (c) address of page 0 */
    size_t pages;                /* (c) */
    pte_t *ptes;                 /* (c) pages of them; each word: pte.h */
    struct section *sections;    /* (c) section_count of them */
    _Atomic uint64_t *populated; /* (c) a bit for each section (a) */
    size_t section_count;        /* (c) */
    unsigned references;         /* (r) regions that share it, and cuts not yet discarded */
    bool overcommit;             /* (c) commit is charged at first touch */
    _Atomic unsigned advice;     /* (a) enum vmsm_advice for the whole table, as a section's */
};

struct region {
    uintptr_t start, end;    /* (r) page-aligned */
    struct pagetable *table; /* (c) */
};

#define REGIONS_MAX 4096u /* most regions of a machine */

struct machine;

static inline size_t pagetable_index(const struct pagetable *table, uintptr_t va)
{
    return (va - table->base) >> PAGE_SHIFT;
}

static inline pte_t *pagetable_pte(const struct pagetable *table, uintptr_t va)
{
    return &table->ptes[pagetable_index(table, va)];
}

static inline struct section *pagetable_section(const struct pagetable *table, uintptr_t va)
{
    return &table->sections[pagetable_index(table, va) / SECTION_PAGES];
}

/* Of `pages` pages from va on, how many lie in va's section? */
static inline unsigned pagetable_in_section(const struct pagetable *table, uintptr_t va,
                                            unsigned pages)
{
    unsigned left = SECTION_PAGES - (unsigned)(pagetable_index(table, va) % SECTION_PAGES);

    return pages < left ? pages : left;
}

/* Mark the section of va as one that has valid pages. */
static inline void pagetable_populate(struct pagetable *table, uintptr_t va)
{
    size_t n = pagetable_index(table, va) / SECTION_PAGES;
    uint64_t mask = UINT64_C(1) << (n % 64);

    if (!(atomic_load_explicit(&table->populated[n / 64], memory_order_relaxed) & mask))
        atomic_fetch_or(&table->populated[n / 64], mask);
}

/* Advance *n to the next section in [*n, end) that may have pages; false if there is none. */
static inline bool pagetable_next_section(const struct pagetable *table, size_t *n, size_t end)
{
    while (*n < end) {
        uint64_t bits =
            atomic_load_explicit(&table->populated[*n / 64], memory_order_relaxed) >> (*n % 64);

        if (bits != 0) {
            *n += (size_t)__builtin_ctzll(bits);
            return *n < end;
        }
        *n = (*n / 64 + 1) * 64;
    }
    return false;
}

static inline uint64_t group_bit(size_t i)
{
    return UINT64_C(1) << (i % SECTION_PAGES / GROUP_PAGES);
}

/* The first page in [i, end), all of one section, that may be valid; `end` if there is none. i is
 * where a search begins, or the next after a page that was found. */
static inline size_t pagetable_next_page(const struct pagetable *table, size_t i, size_t end)
{
    uint64_t bits;

    if (i >= end || i % GROUP_PAGES != 0)
        return i;
    bits = atomic_load_explicit(&table->sections[i / SECTION_PAGES].groups, memory_order_relaxed) >>
           (i % SECTION_PAGES / GROUP_PAGES);
    i += bits != 0 ? (size_t)__builtin_ctzll(bits) * GROUP_PAGES : SECTION_PAGES;
    return i < end ? i : end;
}

/* What the program said about the page at va: VMSM_NORMAL, _RANDOM or _SEQUENTIAL. */
static inline unsigned pagetable_advice(const struct pagetable *table, uintptr_t va)
{
    unsigned own =
        atomic_load_explicit(&pagetable_section(table, va)->advice, memory_order_relaxed);

    return own != 0 ? own - 1 : atomic_load_explicit(&table->advice, memory_order_relaxed);
}

/* The region that holds va, or NULL. regions_lock held, shared or exclusive. */
struct region *region_find(struct machine *m, uintptr_t va);

/* As the functions of vmsm.h; with the gate held shared where machine_check() may be called. */
int region_map(struct machine *m, size_t length, bool overcommit, uintptr_t *base);
int region_unmap(struct machine *m, uintptr_t start, size_t length);
int region_decommit(struct machine *m, uintptr_t start, size_t length);
/* The same; *refused: why the kernel does not give up pages, which is no matter of pins; else 0. */
int region_discard(struct machine *m, uintptr_t start, size_t length, int *refused);
void region_unmap_all(struct machine *m);

/* Bytes of the page tables that are populated. regions_lock held. */
uint64_t region_table_bytes(const struct machine *m);

/* The first page of [start, end) that has content, in a frame or a slot; end if there is none. */
uintptr_t region_next_content(struct machine *m, uintptr_t start, uintptr_t end);

/* Is [start, start + length) wholly mapped? regions_lock held. */
bool region_covers(struct machine *m, uintptr_t start, size_t length);

#endif
