#include "trap/handler.h"

#include <string.h>

static bool spare_is(const struct handler *h, enum handler_help help)
{
    return h->spare == h && atomic_load_explicit(&h->help, memory_order_relaxed) == help;
}

/* True if the fault is dealt with, false if it lacks a frame. */
static bool begin(struct handler *h, const struct pending_fault *fault)
{
    struct machine *m = h->m;

    switch (fault_begin(m, &h->queue, fault->va, fault->flags, fault->thread, fault->started)) {
    case FAULT_NO_FRAME:
        return false;
    case FAULT_FAILED:
        fault_give_up(m, fault->va);
        return true;
    case FAULT_OUTSIDE:
        /* It is being unmapped: woken, the thread meets the SIGSEGV that is its due, or faults
         * again if the addresses have not gone yet. */
        sync_give_way(&m->sync);
        m->mapper->ops->wake(m->mapper, fault->va & ~(PAGE_SIZE - 1), PAGE_SIZE);
        return true;
    case FAULT_DONE:
    case FAULT_PENDING:
    case FAULT_BUSY:
        return true;
    }
    return true;
}

/* Begin what is in the backlog, in order, as far as frames go. False: it is stuck for a frame. */
static bool begin_backlog(struct handler *h)
{
    unsigned done = 0;
    bool stuck = false;

    while (done < h->backlog_count &&
           fault_queue_room(&h->queue, (unsigned)h->m->tunables.fault_depth)) {
        stuck = !begin(h, &h->backlog[done]);
        if (stuck)
            break;
        done++;
    }
    h->backlog_count -= done;
    memmove(h->backlog, h->backlog + done, h->backlog_count * sizeof(h->backlog[0]));
    return !stuck;
}

/* Faults that wait now come to the end of the backlog. */
static void take_faults(struct handler *h)
{
    unsigned room = HANDLER_BACKLOG - h->backlog_count, taken;
    uint64_t now;

    if (spare_is(h, SPARE_ASLEEP))
        return;
    taken = h->source->take(h, h->backlog + h->backlog_count, room);
    if (taken == 0 && room > 0 && spare_is(h, SPARE_LEAVING))
        atomic_store(&h->help, SPARE_ASLEEP);
    now = taken > 0 ? sync_now(&h->m->sync) : 0;
    for (; taken > 0; taken--)
        h->backlog[h->backlog_count++].started = now;
}

static void call_spare(struct handler *spare, const struct handler_source *source)
{
    unsigned asleep = SPARE_ASLEEP;

    if (atomic_compare_exchange_strong(&spare->help, &asleep, SPARE_CALLED))
        atomic_store(&spare->help, source->attend(spare, true) ? SPARE_HELPING : SPARE_ASLEEP);
}

static void leave(struct handler *h)
{
    if (h->source->attend(h, false))
        atomic_store(&h->help, SPARE_LEAVING);
}

static void begin_judging(struct handler *h, uint64_t now)
{
    h->queue.touches = h->queue.others = 0;
    h->judged = now;
    h->slept = 0;
}

/* Is the spare needed, or is this one, which is the spare, not needed any more? */
static void judge(struct handler *h)
{
    bool filling = h->queue.others == 0;
    uint64_t now, passed;

    if (filling && h->queue.touches < h->judged_after)
        return;
    now = sync_now(&h->m->sync);
    passed = now - h->judged;
    if (spare_is(h, SPARE_HELPING)) {
        if (!filling || h->slept > passed / 4 * 3)
            leave(h);
    } else if (h->spare != h && filling && h->slept < passed / 8) {
        call_spare(h->spare, h->source);
    }
    begin_judging(h, now);
}

/* Nothing is in flight and there is no frame: wait for one, or give the first fault up. */
static void wait_for_frame(struct handler *h)
{
    if (frame_wait(h->m) == 0)
        return;
    fault_give_up(h->m, h->backlog[0].va);
    h->backlog_count--;
    memmove(h->backlog, h->backlog + 1, h->backlog_count * sizeof(h->backlog[0]));
}

/* True: it is time to end. */
static bool go_to_sleep(struct handler *h)
{
    bool called_first = spare_is(h, SPARE_ASLEEP);
    uint64_t started = sync_now(&h->m->sync), now;
    bool end = h->source->sleep(h);

    now = sync_now(&h->m->sync);
    h->last_sleep = now - started;
    h->slept += h->last_sleep;
    if (called_first)
        begin_judging(h, now);
    return end;
}

void handler_run(struct handler *h)
{
    struct machine *m = h->m;

    h->queue.serves = true;
    h->last_sleep = UINT64_MAX;
    begin_judging(h, sync_now(&m->sync));
    for (;;) {
        bool closing = atomic_load(&m->gate_closing) != 0;
        bool stuck;

        if (closing)
            fault_queue_leave(m, &h->queue); /* if nothing is in flight */
        fault_queue_enter(m, &h->queue);
        if (!closing || h->queue.in_flight == 0)
            take_faults(h);
        stuck = !begin_backlog(h);
        fault_reap(m, &h->queue, false, NULL);
        if (stuck && h->queue.in_flight == 0) {
            wait_for_frame(h);
            continue;
        }
        if (h->queue.in_flight == 0 && h->backlog_count > 0)
            continue;
        /* Frames or places come from here; and who closes the gate waits for it, while new faults
         * are left where they are and would end every sleep at once. */
        if (stuck || h->backlog_count > 0 || (closing && h->queue.in_flight > 0)) {
            fault_reap(m, &h->queue, true, NULL);
            continue;
        }
        if (h->spare != NULL)
            judge(h);
        if (fault_queue_read(&h->queue) || spare_is(h, SPARE_LEAVING))
            continue;
        check_debug(h->queue.unsent_count == 0);
        fault_queue_leave(m, &h->queue);
        if (go_to_sleep(h) && h->queue.in_flight == 0)
            return;
    }
}
