/*
 * Lending: what the cache and staging do not need now is room for Active frames.
 *
 * With a cache, its buffers and staging are parts of the budget that are needed while pages are
 * written, or read in long runs, and lie idle otherwise. So each has a least part that it always
 * keeps; of the rest, what has not been needed of late is lent: it is taken as any user of it would
 * take it, its memory goes back to the system, and as many frames more may be Active. What the
 * system does not take is not lent. When it is needed the rights are taken back first, wherever
 * there are some, and then it is free again.
 *
 * The trimmer does all that, at each of its steps:
 *   the cache grows    by half, when more than half of it waits to be written
 *              shrinks by a quarter of what it has above its least, when less than a quarter of
 *                      it did since the last look
 *   staging grows      by a piece, a quarter of it, when a fault found less than it wanted
 *           shrinks    by one, when none did in the last CALM looks
 * A look is due as often as an ageing pass.
 */
#include <errno.h>

#include "core/error.h"
#include "core/machine.h"

#define CALM 8u
#define BATCH 64u /* buffers lent together */

uint32_t cache_size(struct machine *m)
{
    return m->buffer_count - atomic_load_explicit(&m->lent.buffers, memory_order_relaxed);
}

uint32_t lent_frames(struct machine *m)
{
    return atomic_load(&m->lent.buffers) + atomic_load(&m->lent.stage);
}

/* Rights are moved by (t) only, and never waited for. */
static void lend_buffers(struct machine *m, unsigned want)
{
    struct lending *l = &m->lent;

    while (want > 0) {
        uint32_t *numbers = l->numbers + atomic_load(&l->buffers);
        unsigned got = cache_reserve(m, want < BATCH ? want : BATCH);

        if (got == 0)
            return;
        buffer_numbers_take(m, got, numbers);
        if (!m->mapper->ops->vacate(m->mapper, got, numbers)) {
            freestack_give(&m->buffers, got, numbers);
            cache_unreserve(m, got);
            return;
        }
        atomic_fetch_add(&l->buffers, got);
        frame_unreserve(m, got);
        want -= got;
    }
}

static void take_back_buffers(struct machine *m, unsigned want)
{
    struct lending *l = &m->lent;
    uint32_t lent = atomic_load(&l->buffers);
    unsigned got = frame_take_back(m, want < lent ? want : lent);

    atomic_fetch_sub(&l->buffers, got);
    freestack_give(&m->buffers, got, l->numbers + (lent - got));
    cache_unreserve(m, got);
}

/* Lend a piece of staging, if so much of it is free now. Reads ahead have half of what is left. */
static void lend_stage(struct machine *m)
{
    struct lending *l = &m->lent;
    struct mapper_stage piece;

    if (l->piece_count == STAGE_PIECES - 1 || !frame_ahead_less(m, ahead_piece(m)))
        return;
    if (!m->mapper->ops->stage_lend(m->mapper, m->stage_pages / STAGE_PIECES, &piece)) {
        frame_ahead_done(m, ahead_piece(m));
        return;
    }
    l->pieces[l->piece_count++] = piece;
    atomic_fetch_add(&l->stage, piece.count);
    frame_unreserve(m, piece.count);
}

static void take_back_stage(struct machine *m)
{
    struct lending *l = &m->lent;
    uint32_t count = l->piece_count > 0 ? l->pieces[l->piece_count - 1].count : 0;
    unsigned got = frame_take_back(m, count);

    if (got < count || count == 0) {
        frame_unreserve(m, got);
        return;
    }
    atomic_fetch_sub(&l->stage, count);
    m->mapper->ops->stage_give(m->mapper, &l->pieces[--l->piece_count]);
    stage_given(m);
    frame_ahead_done(m, ahead_piece(m));
}

void lend_fit(struct machine *m)
{
    struct lending *l = &m->lent;
    uint32_t size = cache_size(m), busy;
    uint64_t consumed = atomic_load(&m->consumed);

    if (l->numbers == NULL)
        return;
    busy = list_count(m, LIST_MODIFIED) + (uint32_t)atomic_load(&m->writing);
    if (busy > l->busiest)
        l->busiest = busy;
    if (busy > size / 2)
        take_back_buffers(m, size / 2 + 1);
    if (atomic_exchange(&l->stage_short, 0) != 0) {
        l->calm = 0;
        take_back_stage(m);
    }
    if (consumed - l->looked_at <= m->active_max / AGE_PART)
        return;
    l->looked_at = consumed;
    if (l->busiest < size / 4 && size > m->buffer_least)
        lend_buffers(m, (size - m->buffer_least) / 4 + 1);
    if (++l->calm >= CALM)
        lend_stage(m);
    l->busiest = 0;
}

int lend_init(struct machine *m)
{
    struct lending *l = &m->lent;

    if (!m->mapper->has_cache || m->mapper->ops->vacate == NULL)
        return 0;
    l->numbers = m->platform->reserve(m->buffer_count * sizeof(*l->numbers));
    if (l->numbers == NULL)
        return error_set(-ENOMEM, "no memory for the table of the cache");
    lend_buffers(m, m->buffer_count - m->buffer_least);
    for (unsigned i = 1; i < STAGE_PIECES; i++)
        lend_stage(m);
    return 0;
}

void lend_fini(struct machine *m)
{
    struct lending *l = &m->lent;

    if (l->numbers != NULL)
        m->platform->release(l->numbers, m->buffer_count * sizeof(*l->numbers));
    l->numbers = NULL;
}
