/*
 * Lists of frames: zero, free, standby (one for each priority), modified.
 *
 * A list is a ring through a sentinel, which is an entry of the frame database after the last
 * frame. Links are frame numbers.
 *
 * Shared editing (tunable shared_locks): who takes a frame out of the middle, or adds
 * one at the tail, holds the list's lock shared, the frame's own lock, and the
 * locks of the two neighbours. A frame's links change only with its own lock held, so
 * neighbours stay neighbours while the frame is locked. Neighbours are locked by trylock, since
 * two neighbours may be leaving at the same time; if that fails, the list is locked exclusive
 * instead. Batches are taken from the head with the list locked exclusive.
 *
 * Order of locks: list, then frame. Nobody waits for a list while holding a frame.
 */
#ifndef VMSM_CORE_FRAMELIST_H
#define VMSM_CORE_FRAMELIST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/frame.h"
#include "core/sync.h"

#define STANDBY_PRIORITIES 4

enum framelist_id {
    LIST_FREE,
    LIST_ZERO,
    LIST_STANDBY, /* lowest priority: repurposed first */
    LIST_MODIFIED = LIST_STANDBY + STANDBY_PRIORITIES,
    LIST_COUNT,
    LIST_NONE = 255
};

struct framelist {
    _Alignas(64) struct sync_rwlock lock; /* a cache line each */
    _Atomic uint32_t count; /* frames on it; changed with the lock held, shared or exclusive */
    uint32_t sentinel;      /* constant: its entry in the frame database */
};

void framelist_init(struct machine *m, enum framelist_id id);

/* Add frames at the tail, in order; their locks must not be held. Sets list and state. */
void framelist_push(struct machine *m, enum framelist_id id, enum frame_state state, unsigned count,
                    const uint32_t *frames);

/*
 * What becomes of frames whose write has ended: those that are still WRITING with slots[i] go to
 * the tail of the list, in one step that no rescue can come between. kept[i] says which did. For
 * LIST_MODIFIED their slot is set to 0.
 */
void framelist_return(struct machine *m, enum framelist_id id, enum frame_state state,
                      unsigned count, const uint32_t *frames, const uint32_t *slots, bool *kept);

/*
 * Lock the frame and take it off whatever list it is on. Returns with the frame
 * locked; its state still says where it was.
 */
void framelist_remove(struct machine *m, struct frame *frame);

/*
 * Take up to count frames from the head. For each, `claim` (may be NULL) is called with the list
 * exclusive and the frame locked; where it returns false the frame stays. Looks at no more
 * than 4 * count + 64 frames.
 */
unsigned framelist_pop(struct machine *m, enum framelist_id id, enum frame_state state,
                       unsigned count, uint32_t *frames,
                       bool (*claim)(struct machine *m, struct frame *frame));

/* Walk the list, compare links both ways and the count; returns the number of faults found. */
unsigned framelist_check(struct machine *m, enum framelist_id id);

#endif
