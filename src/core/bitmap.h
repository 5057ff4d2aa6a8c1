/*
 * A bitmap whose bits are taken and released by atomic operations, no lock:
 * slots of the pagefile, pages of staging. A set bit is taken. Memory comes from the platform,
 * zero-filled, and costs only what is touched.
 *
 * There are three ways to take a run, each from a cursor that moves on, so that what is taken
 * together lies together. Staging is small, and wants the longest run there is: it is searched for.
 * The pagefile is a log: whatever is free in one block of 1024 bits is taken, in order, and then
 * the freest block is next. So no bit is looked at twice before those of a whole block are used
 * up, and free space grows in the other blocks meanwhile, where it will be found in longer runs.
 * Each block has a count of its taken bits, for that choice. What is to stay together would be torn
 * by that: for it the first run that is long enough is taken, among some that follow.
 */
#ifndef VMSM_CORE_BITMAP_H
#define VMSM_CORE_BITMAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/platform.h"
#include "core/sync.h"

#define BITMAP_BLOCK 1024u

struct bitmap {
    const struct platform *platform;
    struct sync *sync;           /* for yield points only */
    _Atomic uint64_t *words;     /* 64 bits each (a) */
    _Atomic int32_t *block_used; /* taken bits of each block (a) */
    uint64_t capacity;           /* bits there are tables for */
    _Atomic uint64_t limit;      /* bits that may be taken: [0, limit); grows (a) */
    _Atomic uint64_t used;       /* taken bits (a) */
    _Atomic uint64_t cursor;     /* where the last take ended; a hint (a) */
    _Atomic uint64_t near;       /* the same for bitmap_take_near() (a) */
};
/* (a) atomic */

/* 0 or -ENOMEM. */
int bitmap_init(struct bitmap *map, const struct platform *platform, struct sync *sync,
                uint64_t capacity, uint64_t limit);
void bitmap_fini(struct bitmap *map);

/* Bytes of its tables that are populated. */
uint64_t bitmap_resident(const struct bitmap *map);

/* Allow bits up to limit (never less than before). */
void bitmap_grow(struct bitmap *map, uint64_t limit);

/*
 * Take a run of up to `want` bits; the longest there is, but at least one if there is any. Returns
 * its length and *first; 0 if all are taken.
 */
unsigned bitmap_take_run(struct bitmap *map, unsigned want, uint64_t *first);
/*
 * Take what is free next in the block that is being filled, up to `want` bits below `end`; from a
 * block with the most free ones when it is full. As above, but often shorter than could be had.
 */
unsigned bitmap_take_log(struct bitmap *map, uint64_t end, unsigned want, uint64_t *first);
/*
 * Take the next run of `want` bits below `end`, or the longest of those near by; 0: there are none
 * near by.
 */
unsigned bitmap_take_near(struct bitmap *map, uint64_t end, unsigned want, uint64_t *first);
/* Take this very bit; false if it was taken. */
bool bitmap_take_bit(struct bitmap *map, uint64_t bit);
void bitmap_release(struct bitmap *map, uint64_t first, unsigned count);
bool bitmap_test(const struct bitmap *map, uint64_t bit);

#endif
