/*
 * What the pages of a workload contain, and the check of it.
 *
 * A page has eight sectors of 512 bytes. Word 0 of the page is its link: the next page of a cycle
 * through all pages, which pointer chasing follows. Every other word derives from the page's
 * number. In each sector one word, the stamp, its place differing by page and sector, derives from
 * the page's generation too, which every write raises. The generations lie outside of the memory
 * that is measured. No word is ever 0: a page that comes back as zeroes must not pass.
 *
 * Incompressible content has a different word in each place; compressible content repeats one word
 * in most of each sector, which leaves about a third for a compressor.
 */
#ifndef VMSM_BENCH_CONTENT_H
#define VMSM_BENCH_CONTENT_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "draw.h"

#define PAGE_BYTES 4096
#define PAGE_WORDS (PAGE_BYTES / 8)
#define SECTORS 8
#define SECTOR_WORDS (PAGE_WORDS / SECTORS)
#define STAMP_PLACES (SECTOR_WORDS - 2) /* neither the link nor the last word */
#define COMPRESSED_WORDS 20             /* of a sector, that differ in compressible content */
#define PAGE_LOCKED UINT32_C(0x80000000)

struct content {
    bool compressible;
    struct permutation cycle; /* of the links */
};

static inline uint64_t word_at(uint64_t base, unsigned index)
{
    return (base + index * GOLDEN) | 1;
}

static inline uint64_t content_word(const struct content *c, uint64_t base, unsigned index)
{
    unsigned in_sector = index % SECTOR_WORDS;

    if (c->compressible && in_sector > COMPRESSED_WORDS)
        index -= in_sector - COMPRESSED_WORDS;
    return word_at(base, index);
}

static inline uint64_t link_word(const struct content *c, uint64_t page)
{
    return cycle_next(&c->cycle, page) + 1;
}

static inline unsigned stamp_place(uint64_t base, unsigned sector)
{
    return sector * SECTOR_WORDS + 1 + (unsigned)((base >> (sector * 6)) & 63) % STAMP_PLACES;
}

static inline void page_stamp(uint64_t *words, uint64_t page, uint32_t generation)
{
    uint64_t base = mix(page), stamp = mix(base ^ generation);

    for (unsigned s = 0; s < SECTORS; s++)
        words[stamp_place(base, s)] = word_at(stamp, s);
}

/* Generation 1. */
static inline void page_fill(const struct content *c, uint64_t *words, uint64_t page)
{
    uint64_t base = mix(page);

    words[0] = link_word(c, page);
    for (unsigned i = 1; i < PAGE_WORDS; i++)
        words[i] = content_word(c, base, i);
    page_stamp(words, page, 1);
}

__attribute__((cold)) static inline bool page_wrong(const uint64_t *words, uint64_t page,
                                                    unsigned index, uint64_t expected,
                                                    uint32_t generation)
{
    fprintf(stderr,
            "bench: WRONG DATA in page %llu, word %u, generation %u: found %016llx, expected "
            "%016llx\n",
            (unsigned long long)page, index, generation, (unsigned long long)words[index],
            (unsigned long long)expected);
    return false;
}

/* Sixteen words: in each sector the stamp, and the word after it, which only the fill wrote. */
static inline bool page_verify(const struct content *c, const uint64_t *words, uint64_t page,
                               uint32_t generation)
{
    uint64_t base = mix(page), stamp = mix(base ^ generation);

    for (unsigned s = 0; s < SECTORS; s++) {
        unsigned at = stamp_place(base, s);
        uint64_t stamped = word_at(stamp, s), filled = content_word(c, base, at + 1);

        if (words[at] != stamped)
            return page_wrong(words, page, at, stamped, generation);
        if (words[at + 1] != filled)
            return page_wrong(words, page, at + 1, filled, generation);
    }
    return true;
}

/* Two threads seldom meet on a page, but then they must not mistake each other for a defect. */
static inline uint32_t page_lock(_Atomic uint32_t *generation)
{
    uint32_t found = atomic_load_explicit(generation, memory_order_relaxed);

    for (;;) {
        found &= ~PAGE_LOCKED;
        if (atomic_compare_exchange_weak_explicit(generation, &found, found | PAGE_LOCKED,
                                                  memory_order_acquire, memory_order_relaxed))
            return found;
        if (found & PAGE_LOCKED)
            sched_yield();
    }
}

static inline void page_unlock(_Atomic uint32_t *generation, uint32_t value)
{
    atomic_store_explicit(generation, value & ~PAGE_LOCKED, memory_order_release);
}

#endif
