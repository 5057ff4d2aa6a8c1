/*
 * The page-table entry: one 64-bit word for each virtual page, changed only by compare-and-swap.
 *
 *   63..51 50..48 47..16        15     14  13 12   11  10 9..7  6   5      4      3  2  1  0
 *   STAMP  LEVEL  frame or slot UNREAD BAD -  PROT PIN RA AGE   ACC W-PARK W-TRAP B  P  T  V
 *
 * Formats (exactly one of V, T, P, or none of them):
 *   untouched   0                   never had content, or was given back: reads as zeroes
 *   valid       V {frame}           under its address
 *   transition  T {frame}           content in a frame: on standby, on modified, or being written
 *   pagefile    P {slot}            content in a slot only
 *
 * BUSY may be added to each. Whoever sets it by compare-and-swap owns the page's identity (its
 * format and its frame or slot) until it clears it with pte_release(). Nobody else changes a busy
 * word but to add a WANTED bit. Flags of a valid page that is not busy are changed by one
 * compare-and-swap (the ager, streams).
 *
 * Rules for the owner, by which nobody waits in a circle:
 *   1. frames (and stage and cache room) are reserved before BUSY is set;
 *   2. while holding BUSY a thread waits for I/O and for locks only, never for frames, and never
 *      for another page's BUSY unless at a higher address (decommit and unmap take several, in
 *      ascending order);
 *   3. workers only try to set BUSY, and pass over the page if they cannot.
 *
 * Who finds BUSY set and needs the page leaves a mark and is woken by the release:
 *   WANTED_TRAP  a thread sleeps in its fault; a handler has seen it and gone on
 *   WANTED_PARK  a thread sleeps on the low half of the word
 *
 * STAMP and LEVEL are the page's history, which outlives its frame: how slowly it is to grow old,
 * and, while it is not valid, when it was trimmed (age.c). An untouched page has none.
 *
 * Which format may follow which, and who sets and clears BUSY for it: transitions.h.
 */
#ifndef VMSM_CORE_PTE_H
#define VMSM_CORE_PTE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/check.h"
#include "core/sync.h"
#include "core/transitions.h"

typedef _Atomic uint64_t pte_t;

#define PTE_UNTOUCHED UINT64_C(0)
#define PTE_VALID UINT64_C(0x0001)
#define PTE_TRANSITION UINT64_C(0x0002)
#define PTE_PAGEFILE UINT64_C(0x0004)
#define PTE_FORMAT (PTE_VALID | PTE_TRANSITION | PTE_PAGEFILE)
#define PTE_BUSY UINT64_C(0x0008)
#define PTE_WANTED_TRAP UINT64_C(0x0010)
#define PTE_WANTED_PARK UINT64_C(0x0020)
#define PTE_WANTED (PTE_WANTED_TRAP | PTE_WANTED_PARK)
#define PTE_ACCESSED UINT64_C(0x0040)
#define PTE_AGE_SHIFT 7
#define PTE_AGE_MAX UINT64_C(7)
#define PTE_AGE (PTE_AGE_MAX << PTE_AGE_SHIFT)
#define PTE_READAHEAD UINT64_C(0x0400) /* mapped on speculation, no sign of use yet */
#define PTE_PINNED UINT64_C(0x0800)    /* the frame's pin count is above 0 */
#define PTE_PROTECTED UINT64_C(0x1000) /* it is what its slot holds; the first write faults */
#define PTE_BAD UINT64_C(0x4000)       /* it could not be had; touching it is SIGBUS */
#define PTE_UNREAD                                                                                 \
    UINT64_C(0x8000) /* BAD, since its slot could not be read: never use that again */
#define PTE_NUMBER_SHIFT 16
#define PTE_LEVEL_SHIFT 48
#define PTE_LEVEL_MAX UINT64_C(7)
#define PTE_LEVEL (PTE_LEVEL_MAX << PTE_LEVEL_SHIFT)
#define PTE_STAMP_SHIFT 51
#define PTE_STAMP_MAX UINT64_C(0x1fff)
#define PTE_HISTORY (PTE_LEVEL | PTE_STAMP_MAX << PTE_STAMP_SHIFT)

static inline uint32_t pte_number(uint64_t word)
{
    return (uint32_t)(word >> PTE_NUMBER_SHIFT);
}

static inline uint64_t pte_make(uint64_t format, uint32_t number)
{
    return format | ((uint64_t)number << PTE_NUMBER_SHIFT);
}

static inline unsigned pte_age(uint64_t word)
{
    return (unsigned)((word & PTE_AGE) >> PTE_AGE_SHIFT);
}

static inline unsigned pte_level(uint64_t word)
{
    return (unsigned)((word & PTE_LEVEL) >> PTE_LEVEL_SHIFT);
}

static inline uint64_t pte_with_age(uint64_t word, unsigned age)
{
    return (word & ~PTE_AGE) | ((uint64_t)age << PTE_AGE_SHIFT);
}

static inline uint64_t pte_load(pte_t *pte)
{
    return atomic_load_explicit(pte, memory_order_acquire);
}

static inline void pte_assert_state(uint64_t word)
{
    uint64_t format = word & PTE_FORMAT;

    check_debug((format & (format - 1)) == 0);
    check_debug(format != 0 || (word & ~(PTE_BUSY | PTE_WANTED | PTE_BAD)) == 0);
    check_debug(!(word & (PTE_TRANSITION | PTE_PAGEFILE)) ||
                !(word & (PTE_PINNED | PTE_PROTECTED | PTE_READAHEAD)));
    check_debug(!(word & PTE_BAD) || format != PTE_VALID);
    check_debug(!(word & PTE_UNREAD) || (format == PTE_PAGEFILE && (word & PTE_BAD)));
    check_debug((word & PTE_BUSY) || !(word & PTE_WANTED));
    check_debug(format != PTE_PAGEFILE || pte_number(word) != 0);
    check_debug(format != PTE_VALID || (word & PTE_HISTORY & ~PTE_LEVEL) == 0);
}

/* A bit for each pair of formats that a row of PTE_TRANSITIONS allows. */
#define PTE_TRANSITION_BIT(name, from, to, function, when)                                         \
    | UINT64_C(1) << (PTE_##from * 8 + PTE_##to)

static inline bool pte_may_become(uint64_t old, uint64_t word)
{
    return ((0 PTE_TRANSITIONS(PTE_TRANSITION_BIT)) >>
            ((old & PTE_FORMAT) * 8 + (word & PTE_FORMAT))) &
           1;
}

/* One attempt; on failure *seen is the word found. */
static inline bool pte_cas(struct sync *s, pte_t *pte, uint64_t *seen, uint64_t word)
{
    pte_assert_state(word);
    check_debug(pte_may_become(*seen, word));
    sync_yield(s, SYNC_AT_PTE);
    return atomic_compare_exchange_strong_explicit(pte, seen, word, memory_order_acq_rel,
                                                   memory_order_acquire);
}

/* Own the page if it still reads `seen` (not busy). */
static inline bool pte_try_busy(struct sync *s, pte_t *pte, uint64_t seen)
{
    check_debug(!(seen & PTE_BUSY));
    return pte_cas(s, pte, &seen, seen | PTE_BUSY);
}

struct machine;

/*
 * Sleep until the PTE is no longer BUSY; returns a word without BUSY. No lock may be held but the
 * gate and regions_lock, both shared, and no page BUSY but lower ones.
 */
uint64_t pte_wait(struct machine *m, pte_t *pte);

/* End ownership: store `word` (without BUSY) and wake who wants the page at va. */
void pte_release(struct machine *m, pte_t *pte, uintptr_t va, uint64_t word);

/* Leave a WANTED mark on a busy PTE. False if it is not busy any more. */
bool pte_want(struct machine *m, pte_t *pte, uint64_t mark);

#endif
