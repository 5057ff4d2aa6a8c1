#include "mapper/watch.h"

#define LOOK_NS UINT64_C(20000000)

/*
 * The take with this number has gone on for long. It cannot end while `restoring` is set, so that
 * the pages are its own, BUSY, all the time: a page of zeroes never lands where another owner has
 * something else in mind. Pages that are there stay as they are.
 */
static void restore_taken(struct take_watch *watch, uint64_t serial)
{
    atomic_store(&watch->restoring, true);
    if (atomic_load(&watch->serial) == serial) {
        for (unsigned i = 0; i < watch->count; i++)
            uffd_restore(watch->uffd, watch->va[i], true);
    }
    atomic_store(&watch->restoring, false);
}

static void watch_main(void *argument)
{
    struct take_watch *watch = argument;
    uint64_t seen = 0;

    while (!atomic_load(&watch->stopping)) {
        uint32_t key = sync_event_prepare(watch->sync, &watch->event);
        uint64_t now = atomic_load(&watch->serial);
        bool idle = now == seen && now % 2 == 0;

        if (now == seen && now % 2 != 0)
            restore_taken(watch, now);
        seen = now;
        atomic_store(&watch->asleep, idle);
        /* A take that has not seen `asleep` is seen here. */
        if (atomic_load(&watch->stopping) || (idle && atomic_load(&watch->serial) != now))
            sync_event_cancel(&watch->event);
        else
            sync_event_wait(watch->sync, &watch->event, key, idle ? 0 : LOOK_NS);
    }
}

int take_watch_open(struct take_watch *watch, struct sync *sync, struct uffd *uffd)
{
    *watch = (struct take_watch){.sync = sync, .uffd = uffd};
    return sync->backend->thread_start(sync, "vmsm-watch", watch_main, watch, &watch->thread);
}

void take_watch_close(struct take_watch *watch)
{
    if (watch->thread == NULL)
        return;
    atomic_store(&watch->stopping, true);
    sync_event_signal(watch->sync, &watch->event);
    watch->sync->backend->thread_join(watch->sync, watch->thread);
    watch->thread = NULL;
}

void take_watch_begin(struct take_watch *watch, unsigned count, const uintptr_t *va)
{
    if (watch->thread == NULL)
        return;
    watch->count = count;
    watch->va = va;
    atomic_fetch_add(&watch->serial, 1);
    if (atomic_load(&watch->asleep)) {
        atomic_store(&watch->asleep, false);
        sync_event_signal(watch->sync, &watch->event);
    }
}

void take_watch_end(struct take_watch *watch)
{
    if (watch->thread == NULL)
        return;
    atomic_fetch_add(&watch->serial, 1);
    while (atomic_load(&watch->restoring))
        sync_give_way(watch->sync);
}
