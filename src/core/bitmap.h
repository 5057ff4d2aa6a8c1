/*
 * A bitmap whose bits are taken and released by atomic operations, no lock:
 * slots of the pagefile, buffers of the cache, pages of staging. A set bit is
 * taken. Memory comes from the platform, zero-filled, and costs only what is
 * touched.
 *
 * Runs are found first-fit from a cursor that moves on, so that what is taken together lies
 * together, as in a log. Each block of 4096 bits has a count of taken bits, so that one
 * with too few free is passed over without being read.
 */
#ifndef VMSM_CORE_BITMAP_H
#define VMSM_CORE_BITMAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/platform.h"
#include "core/sync.h"

#define BITMAP_BLOCK 4096u

struct bitmap {
    const struct platform *platform;
    struct sync *sync;           /* for yield points only */
    _Atomic uint64_t *words;     /* 64 bits each (a) */
    _Atomic int32_t *block_used; /* taken bits of each block (a) */
    uint64_t capacity;           /* bits there are tables for */
    _Atomic uint64_t limit;      /* bits that may be taken: [0, limit); grows (a) */
    _Atomic uint64_t used;       /* taken bits (a) */
    _Atomic uint64_t cursor;     /* where the last search ended; a hint (a) */
};
/* (a) atomic */

/* 0 or -ENOMEM. */
int bitmap_init(struct bitmap *map, const struct platform *platform, struct sync *sync,
                uint64_t capacity, uint64_t limit);
void bitmap_fini(struct bitmap *map);

/* Allow bits up to limit (never less than before). */
void bitmap_grow(struct bitmap *map, uint64_t limit);

/*
 * Take a run of up to `want` bits; the longest that a bounded search finds, but at least one
 * if there is any. Returns its length and *first; 0 if all are taken.
 */
unsigned bitmap_take_run(struct bitmap *map, unsigned want, uint64_t *first);
/* The same from the bits below `end` only. */
unsigned bitmap_take_run_below(struct bitmap *map, uint64_t end, unsigned want, uint64_t *first);
/* Take this very bit; false if it was taken. */
bool bitmap_take_bit(struct bitmap *map, uint64_t bit);
void bitmap_release(struct bitmap *map, uint64_t first, unsigned count);
bool bitmap_test(const struct bitmap *map, uint64_t bit);

#endif
