/*
 * Numbers 0 to capacity - 1 that are free, in no order: the buffers of the cache. The last given
 * back is the first to be taken, since it may still be in the processor's cache. Without a lock:
 * the head is a word of the first free number and a tag that every change moves on, so that a
 * thread whose view of the chain is out of date cannot put it in place. (A tag comes again after
 * 2^32 changes; nobody sleeps through exactly so many.)
 */
#ifndef VMSM_CORE_FREESTACK_H
#define VMSM_CORE_FREESTACK_H

#include <stdatomic.h>
#include <stdint.h>

#include "core/platform.h"
#include "core/sync.h"

struct freestack {
    const struct platform *platform;
    struct sync *sync;      /* for yield points only */
    _Atomic uint64_t head;  /* tag in the upper half, first free number below (a) */
    _Atomic uint32_t *next; /* of each number: the next free one; or that it is taken (a) */
    uint32_t capacity;
};
/* (a) atomic */

/* All are free. 0 or -ENOMEM. */
int freestack_init(struct freestack *stack, const struct platform *platform, struct sync *sync,
                   uint32_t capacity);
void freestack_fini(struct freestack *stack);

/* Bytes of its table that are populated. */
uint64_t freestack_resident(const struct freestack *stack);

/* Take up to `want` numbers; returns how many there were. */
unsigned freestack_take(struct freestack *stack, unsigned want, uint32_t *numbers);
/* Give numbers back; each must have been taken. */
void freestack_give(struct freestack *stack, unsigned count, const uint32_t *numbers);
/* How many are taken; counted one by one, while nobody takes or gives. */
uint32_t freestack_taken(const struct freestack *stack);

#endif
