#include "core/frame.h"

#include "core/check.h"
#include "core/error.h"
#include "core/framelist.h"
#include "core/machine.h"

#define WAIT_SLICE_NS                                                                              \
    UINT64_C(20000000) /* how often a waiting fault looks at the writer's health */
#define BRIEF_WAIT_NS UINT64_C(20000000) /* how long a fault waits when patience has run out */
#define OVERDRAFT_MAX 16                 /* rights */
#define STAGE_WAIT_NS UINT64_C(1000000)
#define STAGE_WAITS 8u     /* after so many waits in vain each is twice as long, */
#define STAGE_SHIFT_MAX 6u /* so many times at most */

static const char *const state_names[FRAME_STATE_COUNT] = {
    "free", "zero", "transit", "active", "standby", "modified", "writing",
};

const char *frame_state_name(enum frame_state state)
{
    return state_names[state];
}

void frame_assert_state(const struct machine *m, const struct frame *frame)
{
    bool cached = m->mapper->has_cache;
    uint8_t list = atomic_load(&frame->list);

    (void)cached;
    (void)list;
    switch ((enum frame_state)frame->state) {
    case FRAME_FREE:
    case FRAME_ZERO:
        check_debug(frame->pte == NULL && frame->slot == 0);
        check_debug(!cached || frame->buffer == BUFFER_NONE);
        check_debug(atomic_load(&frame->pins) == 0);
        break;
    case FRAME_TRANSIT:
        check_debug(list == LIST_NONE);
        break;
    case FRAME_ACTIVE:
        check_debug(list == LIST_NONE && frame->pte != NULL);
        check_debug(!cached || frame->buffer == BUFFER_NONE);
        break;
    case FRAME_STANDBY:
        check_debug(list >= LIST_STANDBY && list < LIST_MODIFIED);
        check_debug(frame->slot != 0 && frame->buffer != BUFFER_NONE && frame->pte != NULL);
        break;
    case FRAME_MODIFIED:
        check_debug(list == LIST_MODIFIED && frame->slot == 0);
        check_debug(frame->buffer != BUFFER_NONE && frame->pte != NULL);
        break;
    case FRAME_WRITING:
        check_debug(list == LIST_NONE && frame->slot != 0 && frame->pte != NULL);
        check_debug(frame->buffer != BUFFER_NONE);
        break;
    case FRAME_STATE_COUNT:
        check_always(false);
    }
}

/* Take up to want from a counter of rights. */
static unsigned take_rights(struct machine *m, _Atomic int64_t *rights, unsigned want)
{
    sync_yield(&m->sync, SYNC_AT_ATOMIC);
    int64_t have = atomic_load_explicit(rights, memory_order_relaxed);

    while (have > 0) {
        int64_t got = have < (int64_t)want ? have : (int64_t)want;

        if (atomic_compare_exchange_weak(rights, &have, have - got))
            return (unsigned)got;
    }
    return 0;
}

static void give_rights(struct machine *m, _Atomic int64_t *rights, unsigned count)
{
    if (count == 0)
        return;
    sync_yield(&m->sync, SYNC_AT_ATOMIC);
    atomic_fetch_add(rights, count);
    if (rights == &m->available)
        sync_event_signal(&m->sync, &m->frames_event);
}

unsigned frame_reserve(struct machine *m, unsigned want)
{
    unsigned got = take_rights(m, &m->available, want);
    int64_t low = atomic_load_explicit(&m->low, memory_order_relaxed);

    if (got == 0 && !m->mapper->has_cache && refill_standby(m, RUN_MAX) > 0)
        got = take_rights(m, &m->available, want);
    if (got == 0 && large_kept(m) > 0 && large_give_up(m, 1) > 0)
        got = take_rights(m, &m->available, want);
    if (atomic_load_explicit(&m->available, memory_order_relaxed) < low && frames_soon(m) < low)
        worker_kick(&m->trim_worker);
    return got;
}

unsigned frame_reserve_ahead(struct machine *m, unsigned want)
{
    unsigned room = take_rights(m, &m->ahead_room, want);
    unsigned got = room > 0 ? frame_reserve(m, room) : 0;

    if (room < want)
        atomic_store_explicit(&m->lent.stage_short, 1, memory_order_relaxed);
    give_rights(m, &m->ahead_room, room - got);
    return got;
}

bool frame_ahead_less(struct machine *m, unsigned count)
{
    unsigned got = take_rights(m, &m->ahead_room, count);

    if (got == count)
        return true;
    give_rights(m, &m->ahead_room, got);
    return false;
}

void frame_ahead_done(struct machine *m, unsigned count)
{
    give_rights(m, &m->ahead_room, count);
}

unsigned frame_take_back(struct machine *m, unsigned want)
{
    return take_rights(m, &m->available, want);
}

bool frame_reserve_rescue(struct machine *m)
{
    int64_t most = m->active_max / 16 < OVERDRAFT_MAX ? m->active_max / 16 : OVERDRAFT_MAX;
    int64_t have;

    if (frame_reserve(m, 1) > 0)
        return true;
    if (atomic_load(&m->writer.failing_since) == 0)
        return false;
    sync_yield(&m->sync, SYNC_AT_ATOMIC);
    have = atomic_load_explicit(&m->available, memory_order_relaxed);
    while (have > -most) {
        if (atomic_compare_exchange_weak(&m->available, &have, have - 1))
            return true;
    }
    return false;
}

void frame_overdraw(struct machine *m, unsigned count)
{
    sync_yield(&m->sync, SYNC_AT_ATOMIC);
    atomic_fetch_sub(&m->available, count);
}

void frame_unreserve(struct machine *m, unsigned count)
{
    give_rights(m, &m->available, count);
}

/*
 * Has the pagefile refused writes for so long that a fault which has waited since must give up?
 * Patience is for the pagefile, not for each fault anew: when it has run out, a fault that comes
 * later waits until the writer, which each such fault kicks, has tried once more and failed, and no
 * less than a frame may take that somebody is about to give back.
 */
static int out_of_patience(struct machine *m, uint64_t since)
{
    uint64_t failing = atomic_load(&m->writer.failing_since);
    uint64_t now = sync_now(&m->sync), patience = m->tunables.patience;

    if (failing == 0 || now - failing < patience)
        return 0;
    if (since > failing && since - failing >= patience && patience > BRIEF_WAIT_NS &&
        atomic_load(&m->writer.failed_at) > since)
        patience = BRIEF_WAIT_NS;
    return now - since < patience ? 0 : atomic_load(&m->writer.error);
}

void stage_given(struct machine *m)
{
    if (atomic_load_explicit(&m->stage_waits, memory_order_relaxed) != 0)
        atomic_store(&m->stage_waits, 0);
    sync_event_signal(&m->sync, &m->stage_event);
}

/* Wait until staging is given back, or a while: it may have been in between. If nothing has been
 * for long, as when the disk keeps the reads that have it, there is less reason to look. */
static void stage_wait(struct machine *m)
{
    uint32_t key = sync_event_prepare(&m->sync, &m->stage_event);
    uint32_t before = atomic_fetch_add(&m->stage_waits, 1) / STAGE_WAITS;

    sync_event_wait(&m->sync, &m->stage_event, key,
                    STAGE_WAIT_NS << (before < STAGE_SHIFT_MAX ? before : STAGE_SHIFT_MAX));
}

int frame_wait(struct machine *m)
{
    uint64_t since = sync_now(&m->sync);
    int error = 0;

    count(m, COUNTER_fault_waits, 1);
    atomic_fetch_add(&m->waiting, 1);
    if (large_wait(m)) {
        atomic_fetch_sub(&m->waiting, 1);
        return 0;
    }
    /* It was staging that was short, which is given back very soon. The frames that others who wait
     * for it give back, when they find none, are no reason to look. */
    if (atomic_load(&m->available) > 0)
        stage_wait(m);
    while (atomic_load(&m->available) <= 0 && !atomic_load(&m->stopping)) {
        uint32_t key;

        if (large_kept(m) > 0)
            break; /* a fault that finds no frame gives it up */
        error = out_of_patience(m, since);
        if (error != 0)
            break;
        if (!m->tunables.workers) {
            reclaim_inline(m);
            continue;
        }
        key = sync_event_prepare(&m->sync, &m->frames_event);
        machine_balance(m, NULL);
        if (atomic_load(&m->available) > 0 || large_kept(m) > 0)
            sync_event_cancel(&m->frames_event);
        else
            sync_event_wait(&m->sync, &m->frames_event, key, WAIT_SLICE_NS);
    }
    atomic_fetch_sub(&m->waiting, 1);
    count(m, COUNTER_fault_wait_ns, sync_now(&m->sync) - since);
    if (error != 0)
        error_set(
            error,
            "no frame can be had: the pagefile %s has refused writes for %llu ms (see above); "
            "pages stay in memory until it accepts them",
            m->pagefile.store->where, (unsigned long long)(m->tunables.patience / 1000000));
    return error;
}

void frame_take(struct machine *m, unsigned count, uint32_t *frames, bool zeroed)
{
    enum framelist_id first = zeroed ? LIST_ZERO : LIST_FREE;
    enum framelist_id second = zeroed ? LIST_FREE : LIST_ZERO;
    unsigned got = 0;

    /* The rights guarantee that the frames are on these lists, or about to be pushed. */
    for (unsigned round = 0; got < count; round++) {
        if (list_count(m, first) > 0)
            got += framelist_pop(m, first, FRAME_TRANSIT, count - got, frames + got, NULL);
        if (got < count && list_count(m, second) > 0)
            got += framelist_pop(m, second, FRAME_TRANSIT, count - got, frames + got, NULL);
        if (got < count)
            sync_relax(&m->sync, round);
    }
    atomic_fetch_add(&m->active, count);
    atomic_fetch_add_explicit(&m->consumed, count, memory_order_relaxed);
}

/* They belong to no page from now on. */
static void frames_detach(struct machine *m, unsigned count, const uint32_t *frames)
{
    for (unsigned i = 0; i < count; i++) {
        struct frame *frame = &m->frames[frames[i]];

        sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
        check_always(atomic_load(&frame->pins) == 0);
        frame->pte = NULL;
        frame->va = 0;
        frame->slot = 0;
        if (frame->state == FRAME_ACTIVE)
            frame_set_state(frame, FRAME_TRANSIT);
        check_always(frame->state == FRAME_TRANSIT);
        sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
    }
}

void frame_free_without_rights(struct machine *m, unsigned count, const uint32_t *frames)
{
    frames_detach(m, count, frames);
    atomic_fetch_sub(&m->active, count);
    framelist_push(m, LIST_FREE, FRAME_FREE, count, frames);
}

void frame_free(struct machine *m, unsigned count, const uint32_t *frames, bool active)
{
    if (count == 0)
        return;
    frames_detach(m, count, frames);
    if (active)
        atomic_fetch_sub(&m->active, count);
    if (m->mapper->has_cache && !active) {
        uint32_t buffers[SECTION_PAGES];

        for (unsigned i = 0; i < count; i++) {
            buffers[i] = m->frames[frames[i]].buffer;
            m->frames[frames[i]].buffer = BUFFER_NONE;
        }
        framelist_push(m, LIST_FREE, FRAME_FREE, count, frames);
        freestack_give(&m->buffers, count, buffers);
        give_rights(m, &m->cache_room, count);
        return;
    }
    framelist_push(m, LIST_FREE, FRAME_FREE, count, frames);
    give_rights(m, &m->available, count);
}

void frame_deactivated(struct machine *m, unsigned count)
{
    atomic_fetch_sub(&m->active, count);
    if (m->mapper->has_cache)
        give_rights(m, &m->available, count);
}

void frame_activated(struct machine *m, struct frame *frame)
{
    atomic_fetch_add(&m->active, 1);
    buffer_give(m, frame);
}

unsigned cache_reserve(struct machine *m, unsigned want)
{
    return m->mapper->has_cache ? take_rights(m, &m->cache_room, want) : want;
}

void cache_unreserve(struct machine *m, unsigned count)
{
    if (m->mapper->has_cache)
        give_rights(m, &m->cache_room, count);
}

void buffer_numbers_take(struct machine *m, unsigned count, uint32_t *buffers)
{
    unsigned got = 0;

    /* Room was reserved: what is not there yet, somebody is about to give back. */
    for (unsigned round = 0; got < count; round++) {
        got += freestack_take(&m->buffers, count - got, buffers + got);
        if (got < count)
            sync_relax(&m->sync, round);
    }
}

void buffer_take(struct machine *m, unsigned count, const uint32_t *frames, uint32_t *buffers)
{
    if (!m->mapper->has_cache) {
        for (unsigned i = 0; i < count; i++)
            buffers[i] = frames[i];
        return;
    }
    buffer_numbers_take(m, count, buffers);
    for (unsigned i = 0; i < count; i++)
        m->frames[frames[i]].buffer = buffers[i];
}

void buffer_give(struct machine *m, struct frame *frame)
{
    if (!m->mapper->has_cache)
        return;
    check_always(frame->buffer != BUFFER_NONE);
    freestack_give(&m->buffers, 1, &frame->buffer);
    frame->buffer = BUFFER_NONE;
    give_rights(m, &m->cache_room, 1);
}
