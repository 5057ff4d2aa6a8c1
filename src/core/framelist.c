#include "core/framelist.h"

#include "core/check.h"
#include "core/machine.h"

void framelist_init(struct machine *m, enum framelist_id id)
{
    uint32_t sentinel = m->frame_count + (uint32_t)id;
    struct frame *head = &m->frames[sentinel];

    m->lists[id].sentinel = sentinel;
    atomic_init(&m->lists[id].count, 0);
    atomic_init(&head->next, sentinel);
    atomic_init(&head->prev, sentinel);
    atomic_init(&head->list, (uint8_t)id);
}

static uint32_t link_next(const struct frame *frame)
{
    return atomic_load_explicit(&frame->next, memory_order_relaxed);
}

static uint32_t link_prev(const struct frame *frame)
{
    return atomic_load_explicit(&frame->prev, memory_order_relaxed);
}

static void set_next(struct frame *frame, uint32_t number)
{
    atomic_store_explicit(&frame->next, number, memory_order_relaxed);
}

static void set_prev(struct frame *frame, uint32_t number)
{
    atomic_store_explicit(&frame->prev, number, memory_order_relaxed);
}

/*
 * Walk the list: every frame says that it is on it, every neighbour points back, and as many are
 * met as are counted. Returns the number of faults. The list's lock is held exclusive.
 */
static unsigned list_faults(struct machine *m, enum framelist_id id)
{
    struct framelist *list = &m->lists[id];
    uint32_t met = 0, n = list->sentinel;
    unsigned wrong = 0;

    SYNC_ASSERT_HELD(SYNC_LIST);
    do {
        uint32_t next = link_next(&m->frames[n]);

        if (next >= m->frame_count + LIST_COUNT)
            return wrong + 1;
        wrong += link_prev(&m->frames[next]) != n;
        wrong += atomic_load(&m->frames[next].list) != id;
        n = next;
    } while (n != list->sentinel && met++ <= m->frame_count);
    return wrong + (met != atomic_load(&list->count));
}

/* Link frames among themselves and mark them; their neighbours at the ends come later. */
static void chain(struct machine *m, enum framelist_id id, enum frame_state state, unsigned count,
                  const uint32_t *frames)
{
    for (unsigned i = 0; i < count; i++) {
        struct frame *frame = &m->frames[frames[i]];

        sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
        check_always(atomic_load(&frame->list) == LIST_NONE);
        if (i > 0)
            set_prev(frame, frames[i - 1]);
        if (i + 1 < count)
            set_next(frame, frames[i + 1]);
        frame_set_state(frame, state);
        atomic_store(&frame->list, (uint8_t)id);
        frame_assert_state(m, frame);
        sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
    }
}

static void splice(struct machine *m, struct framelist *list, struct frame *last, unsigned count,
                   const uint32_t *frames)
{
    struct frame *head = &m->frames[list->sentinel];
    uint32_t last_number = link_prev(head);

    set_prev(&m->frames[frames[0]], last_number);
    set_next(&m->frames[frames[count - 1]], list->sentinel);
    set_next(last, frames[0]);
    set_prev(head, frames[count - 1]);
    atomic_fetch_add(&list->count, count);
}

/*
 * Shared push: the frames' own locks are held for as long as their links are not complete, since
 * as soon as they are marked somebody may come to rescue them. So only short chains go this way.
 */
#define SHARED_PUSH_MAX 1u

static bool push_shared(struct machine *m, enum framelist_id id, enum frame_state state,
                        uint32_t number)
{
    struct framelist *list = &m->lists[id];
    struct frame *head = &m->frames[list->sentinel];
    struct frame *frame = &m->frames[number];
    struct frame *last;
    bool done = false;

    sync_rwlock_read(&m->sync, &list->lock, SYNC_LIST);
    sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
    if (!sync_mutex_trylock(&m->sync, &head->lock, SYNC_FRAME))
        goto out;
    last = &m->frames[link_prev(head)];
    if (last != head && !sync_mutex_trylock(&m->sync, &last->lock, SYNC_FRAME)) {
        sync_mutex_unlock(&m->sync, &head->lock, SYNC_FRAME);
        goto out;
    }
    check_always(atomic_load(&frame->list) == LIST_NONE);
    frame_set_state(frame, state);
    atomic_store(&frame->list, (uint8_t)id);
    frame_assert_state(m, frame);
    splice(m, list, last, 1, &number);
    if (last != head)
        sync_mutex_unlock(&m->sync, &last->lock, SYNC_FRAME);
    sync_mutex_unlock(&m->sync, &head->lock, SYNC_FRAME);
    done = true;
out:
    sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
    sync_rwlock_unread(&m->sync, &list->lock, SYNC_LIST);
    return done;
}

void framelist_push(struct machine *m, enum framelist_id id, enum frame_state state, unsigned count,
                    const uint32_t *frames)
{
    struct framelist *list = &m->lists[id];

    if (count == 0)
        return;
    if (m->tunables.shared_locks && count <= SHARED_PUSH_MAX &&
        push_shared(m, id, state, frames[0]))
        return;
    sync_rwlock_write(&m->sync, &list->lock, SYNC_LIST);
    chain(m, id, state, count, frames);
    splice(m, list, &m->frames[link_prev(&m->frames[list->sentinel])], count, frames);
    check_expensive(list_faults(m, id) == 0);
    sync_rwlock_unwrite(&m->sync, &list->lock, SYNC_LIST);
}

void framelist_return(struct machine *m, enum framelist_id id, enum frame_state state,
                      unsigned count, const uint32_t *frames, const uint32_t *slots, bool *kept)
{
    struct framelist *list = &m->lists[id];

    if (count == 0)
        return;
    sync_rwlock_write(&m->sync, &list->lock, SYNC_LIST);
    for (unsigned i = 0; i < count; i++) {
        struct frame *frame = &m->frames[frames[i]];

        sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
        kept[i] = frame->state == FRAME_WRITING && frame->slot == slots[i];
        if (kept[i]) {
            check_always(atomic_load(&frame->list) == LIST_NONE);
            if (id == LIST_MODIFIED)
                frame->slot = 0;
            frame_set_state(frame, state);
            atomic_store(&frame->list, (uint8_t)id);
            frame_assert_state(m, frame);
            splice(m, list, &m->frames[link_prev(&m->frames[list->sentinel])], 1, &frames[i]);
        }
        sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
    }
    check_expensive(list_faults(m, id) == 0);
    sync_rwlock_unwrite(&m->sync, &list->lock, SYNC_LIST);
}

static void unlink_frame(struct machine *m, struct framelist *list, struct frame *frame)
{
    set_next(&m->frames[link_prev(frame)], link_next(frame));
    set_prev(&m->frames[link_next(frame)], link_prev(frame));
    atomic_store(&frame->list, LIST_NONE);
    atomic_fetch_sub(&list->count, 1);
}

/* With the list shared and the frame locked: lock the neighbours and unlink, or fail. */
static bool unlink_shared(struct machine *m, struct framelist *list, struct frame *frame)
{
    struct frame *prev = &m->frames[link_prev(frame)];
    struct frame *next = &m->frames[link_next(frame)];

    if (!sync_mutex_trylock(&m->sync, &prev->lock, SYNC_FRAME))
        return false;
    if (next != prev && !sync_mutex_trylock(&m->sync, &next->lock, SYNC_FRAME)) {
        sync_mutex_unlock(&m->sync, &prev->lock, SYNC_FRAME);
        return false;
    }
    unlink_frame(m, list, frame);
    if (next != prev)
        sync_mutex_unlock(&m->sync, &next->lock, SYNC_FRAME);
    sync_mutex_unlock(&m->sync, &prev->lock, SYNC_FRAME);
    return true;
}

static bool remove_shared(struct machine *m, struct framelist *list, struct frame *frame,
                          uint8_t id)
{
    bool done = false;

    sync_rwlock_read(&m->sync, &list->lock, SYNC_LIST);
    sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
    if (atomic_load(&frame->list) == id)
        done = unlink_shared(m, list, frame);
    if (!done)
        sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
    sync_rwlock_unread(&m->sync, &list->lock, SYNC_LIST);
    return done;
}

static bool remove_exclusive(struct machine *m, struct framelist *list, struct frame *frame,
                             uint8_t id)
{
    bool done = false;

    sync_rwlock_write(&m->sync, &list->lock, SYNC_LIST);
    sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
    if (atomic_load(&frame->list) == id) {
        unlink_frame(m, list, frame);
        check_expensive(list_faults(m, id) == 0);
        done = true;
    } else {
        sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
    }
    sync_rwlock_unwrite(&m->sync, &list->lock, SYNC_LIST);
    return done;
}

void framelist_remove(struct machine *m, struct frame *frame)
{
    for (;;) {
        uint8_t id = atomic_load(&frame->list);

        if (id == LIST_NONE) {
            sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
            if (atomic_load(&frame->list) == LIST_NONE)
                return;
            sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
            continue;
        }
        if (m->tunables.shared_locks && remove_shared(m, &m->lists[id], frame, id))
            return;
        if (remove_exclusive(m, &m->lists[id], frame, id))
            return;
    }
}

unsigned framelist_pop(struct machine *m, enum framelist_id id, enum frame_state state,
                       unsigned count, uint32_t *frames,
                       bool (*claim)(struct machine *m, struct frame *frame))
{
    struct framelist *list = &m->lists[id];
    unsigned got = 0, looks = 4 * count + 64;
    uint32_t number;

    sync_rwlock_write(&m->sync, &list->lock, SYNC_LIST);
    number = link_next(&m->frames[list->sentinel]);
    while (got < count && number != list->sentinel && looks-- > 0) {
        struct frame *frame = &m->frames[number];
        uint32_t next = link_next(frame);

        sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
        if (claim == NULL || claim(m, frame)) {
            unlink_frame(m, list, frame);
            frame_set_state(frame, state);
            frames[got++] = number;
        }
        sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
        number = next;
    }
    check_expensive(list_faults(m, id) == 0);
    sync_rwlock_unwrite(&m->sync, &list->lock, SYNC_LIST);
    return got;
}

unsigned framelist_check(struct machine *m, enum framelist_id id)
{
    struct framelist *list = &m->lists[id];
    unsigned wrong;

    sync_rwlock_write(&m->sync, &list->lock, SYNC_LIST);
    wrong = list_faults(m, id);
    sync_rwlock_unwrite(&m->sync, &list->lock, SYNC_LIST);
    return wrong;
}
