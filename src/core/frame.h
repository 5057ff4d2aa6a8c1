/*
 * The frame database: one entry for each page of the budget.
 *
 * States, and what holds in each:
 *
 *   FREE      on the free list. No page, no buffer (cache), no slot. Its memory may hold anything.
 *   ZERO      on the zero list. As FREE, and its memory is zero (mappers with real frames).
 *   TRANSIT   on no list, owned by one thread: a fault that has taken it and not mapped it yet, a
 *             rescue, the refiller that repurposes it, the zeroer, or who discards its page. What
 *             else holds (page, slot, buffer) is that thread's business.
 *   ACTIVE    on no list. Under the address `va`; pte is V with this frame's number.
 *             slot, if not 0, holds what the page held when it was last read or written back; if
 *             its PTE says PROTECTED there is one, and it holds what the page holds now.
 *   STANDBY   on a standby list. pte is T; the buffer has the content; slot has the same content.
 *   MODIFIED  on the modified list. pte is T; the buffer has the only copy; slot is 0; hash is
 *             the content's.
 *   WRITING   on no list. pte is T; the buffer has the content; `slot` is being written with it.
 *             A rescue sets slot to 0: the writer, when it is done, finds that the frame is no
 *             longer WRITING with its slot, and gives the slot back.
 *
 *                attach                     trimmed, changed
 *   FREE, ZERO ─▶ TRANSIT ─▶ ACTIVE ──────────────────────────▶ MODIFIED
 *      ▲            ▲ │  ▲                 │                       │ ▲
 *      │      freed │ │  │ rescued from    │ trimmed, clean  write │ │ write failed
 *      └────────────┴─┘  │ STANDBY,        ▼                       ▼ │
 *                   ▲    │ MODIFIED,    STANDBY ◀────────────── WRITING
 *                   │    │ WRITING         │        written
 *                   └────┴─────────────────┘ repurposed
 *
 * All rows, and the function that makes each: FRAME_TRANSITIONS in transitions.h.
 *
 * Who may read and write a field:
 *   (f) the frame's lock
 *   (b) the owner of the page's BUSY bit while the frame is ACTIVE, the owner of the frame while it
 *       is TRANSIT; (f) otherwise
 *   (l) for links: this frame's lock and the lock of the neighbour concerned, with the list
 *       locked shared; or the list locked exclusive
 *   (c) constant while a page is attached; changed under (b) and (f) when it changes
 *
 * The frame lock is held for as long as a page takes to copy, at most.
 */
#ifndef VMSM_CORE_FRAME_H
#define VMSM_CORE_FRAME_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/check.h"
#include "core/hash.h"
#include "core/pte.h"
#include "core/sync.h"
#include "core/transitions.h"

enum frame_state {
    FRAME_FREE,
    FRAME_ZERO,
    FRAME_TRANSIT,
    FRAME_ACTIVE,
    FRAME_STANDBY,
    FRAME_MODIFIED,
    FRAME_WRITING,
    FRAME_STATE_COUNT
};

#define FRAME_NONE UINT32_MAX
#define BUFFER_NONE UINT32_MAX

struct frame {
    struct sync_mutex lock;
    uint8_t state;         /* (f) enum frame_state; changed by frame_set_state() */
    _Atomic uint8_t list;  /* (f) framelist_id it is on, or LIST_NONE; without lock: a hint */
    uint8_t priority;      /* (b) standby list to go to: 0 is repurposed first */
    _Atomic uint32_t next; /* (l) frame numbers */
    _Atomic uint32_t prev; /* (l) */
    uint32_t slot;         /* (b) 0: none */
    uint32_t buffer;       /* (b) number of the buffer that has the content, or BUFFER_NONE */
    _Atomic uint32_t pins; /* (b) pins of the page; changed only while BUSY */
    uint32_t home;         /* slot for the writer to try first, or 0: (b) when trimmed, then (f) */
    pte_t *pte;            /* (c) the PTE of the page it holds; NULL while FREE or ZERO */
    uintptr_t va;          /* (c) address of that page */
    struct page_hash hash; /* the content's if MODIFIED or WRITING: (b) when trimmed, then (f) */
};

_Static_assert(sizeof(struct frame) <= 64, "a frame entry is a cache line at most");

struct machine;

/* A bit for each pair of states that a row of FRAME_TRANSITIONS allows. */
#define FRAME_TRANSITION_BIT(name, from, to, function, when)                                       \
    | UINT64_C(1) << (FRAME_##from * 8 + FRAME_##to)

static inline bool frame_may_become(enum frame_state from, enum frame_state to)
{
    return ((0 FRAME_TRANSITIONS(FRAME_TRANSITION_BIT)) >> (from * 8u + to)) & 1;
}

/* Every change of a frame's state. The frame's lock is held. */
static inline void frame_set_state(struct frame *frame, enum frame_state to)
{
    SYNC_ASSERT_HELD(SYNC_FRAME);
    check_debug(frame_may_become(frame->state, to));
    frame->state = (uint8_t)to;
}

const char *frame_state_name(enum frame_state state);

/* Assert what the table above says; the frame's lock is held or it is owned. */
void frame_assert_state(const struct machine *m, const struct frame *frame);

/*
 * The right to make frames Active. frame_reserve() takes up to `want` at
 * once and never waits; it returns how many. What is not used goes back by
 * frame_unreserve(). docs/architecture.md, "Room".
 */
unsigned frame_reserve(struct machine *m, unsigned want);
/*
 * One right for a rescue (cache only), which gives a buffer back in return. While the pagefile
 * refuses writes, every buffer may hold a modified page, and nothing can be trimmed until one is
 * free: then a rescue may overdraw the rights by a few, until a page is trimmed into its buffer.
 */
bool frame_reserve_rescue(struct machine *m);
/* Rights that are taken whether there are any or not, for what is done already: until they are
 * given back nobody gets any that are not there. */
void frame_overdraw(struct machine *m, unsigned count);
void frame_unreserve(struct machine *m, unsigned count);
/* frame_reserve() by the trimmer, for what was lent: it must not wake itself. */
unsigned frame_take_back(struct machine *m, unsigned want);
/*
 * Rights for pages that nobody has asked for yet: of these no more than a part of staging may be in
 * flight. With frame_ahead_done() they cease to count, be they used or given back.
 */
unsigned frame_reserve_ahead(struct machine *m, unsigned want);
void frame_ahead_done(struct machine *m, unsigned count);
/* So many fewer pages may be read ahead, since staging is lent; false: so many are in flight that
 * it cannot be now. frame_ahead_done() gives them back. */
bool frame_ahead_less(struct machine *m, unsigned count);
/*
 * Sleep until a frame may be had. -ENOSPC / -EIO after `patience` without one. No lock may be held
 * but the gate, shared, and no page BUSY by the caller.
 */
int frame_wait(struct machine *m);
/* Staging has been given back. */
void stage_given(struct machine *m);

/* Turn reserved rights into TRANSIT frames; zeroed ones are preferred (or avoided) as said. */
void frame_take(struct machine *m, unsigned count, uint32_t *frames, bool zeroed);
/*
 * Put frames on the free list: TRANSIT ones that turned out not to be needed and ACTIVE ones whose
 * page is gone (active), or trimmed ones that were taken off their list (not active). Buffers and
 * rights go back with them; their slots have been dealt with.
 */
void frame_free(struct machine *m, unsigned count, const uint32_t *frames, bool active);
/* The same for ACTIVE ones, but the rights become the caller's. */
void frame_free_without_rights(struct machine *m, unsigned count, const uint32_t *frames);
/* Frames cease to be Active by a trim that keeps their content: rights go back (cache only). */
void frame_deactivated(struct machine *m, unsigned count);
/* A trimmed frame becomes Active by a rescue; with a cache its right has been reserved. */
void frame_activated(struct machine *m, struct frame *frame);

/*
 * Room in the mapper's cache, the counterpart for trimmed pages. Without a cache there is always
 * room. buffer_take() turns it into buffers and cannot fail.
 */
unsigned cache_reserve(struct machine *m, unsigned want);
void cache_unreserve(struct machine *m, unsigned count);
void buffer_take(struct machine *m, unsigned count, const uint32_t *frames, uint32_t *buffers);
/* The same, for no frame yet. */
void buffer_numbers_take(struct machine *m, unsigned count, uint32_t *buffers);
/* Give back the buffer of a frame that becomes Active or free. */
void buffer_give(struct machine *m, struct frame *frame);

#endif
