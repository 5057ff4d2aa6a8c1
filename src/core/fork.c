#include "core/fork.h"

#include <errno.h>
#include <string.h>

#include "core/check.h"
#include "core/error.h"
#include "core/machine.h"

#define COPY_SLOTS 512u /* at once, at most */

/* ---- in the parent ---- */

/* One transfer, to its end. */
static int transfer(struct store *store, struct store_queue *queue, struct store_io *io)
{
    struct store_io *done = NULL;

    store->ops->submit(queue, &io, 1);
    while (store->ops->reap(queue, &done, 1, true) == 0)
        continue;
    return io->result;
}

/* A slot that cannot be read is the end of it: the child might have no other copy of its page, or
 * drop the one that it has. */
static int copy_run(struct machine *m, struct store *copy, struct store_queue *to, uint64_t slot,
                    unsigned count)
{
    struct iovec iov = {.iov_base = m->writer.buffer, .iov_len = count * PAGE_SIZE};
    struct store_io io = {.slot = slot, .count = count, .iovcnt = 1, .iov = &iov};
    int error = transfer(m->pagefile.store, m->writer.queue, &io);

    if (error != 0)
        return error_set(error, "fork: the pagefile cannot be read (slots %llu to %llu): %s",
                         (unsigned long long)slot, (unsigned long long)slot + count - 1,
                         strerror(-error));
    io.write = true;
    error = transfer(copy, to, &io);
    return error == 0 ? 0
                      : error_set(error, "fork: the child's pagefile cannot be written: %s",
                                  strerror(-error));
}

/* Does a slot hold what some page may need? One that was withdrawn need not be readable. */
static bool slot_needed(const struct machine *m, uint64_t slot)
{
    return bitmap_test(&m->pagefile.slots, slot) && !pagefile_is_bad(m, slot);
}

/* Copy the slots that are needed, in runs; the writer's buffer is free while nothing runs. */
static int copy_slots(struct machine *m, struct store *copy)
{
    struct pagefile *pf = &m->pagefile;
    uint64_t limit = atomic_load(&pf->slots.limit), slot = 1;
    unsigned most = m->writer.batch_pages < COPY_SLOTS ? m->writer.batch_pages : COPY_SLOTS;
    struct store_queue *to;
    int error = copy->ops->grow(copy, pf->store->slots);

    if (error == 0)
        error = copy->ops->queue_open(copy, 0, &to);
    if (error != 0)
        return error;
    while (slot < limit && error == 0) {
        unsigned count = 0;

        while (count < most && slot + count < limit && slot_needed(m, slot + count))
            count++;
        if (count > 0)
            error = copy_run(m, copy, to, slot, count);
        slot += count > 0 ? count : 1;
    }
    copy->ops->queue_close(to);
    return error;
}

static int set_inherited(struct machine *m, bool inherited)
{
    int error = m->mapper->ops->fork_prepare(m->mapper, inherited);
    size_t buffer = m->tunables.write_depth * m->writer.batch_pages * PAGE_SIZE;

    if (error == 0)
        error = m->platform->inherit(m->writer.buffer, buffer, inherited);
    for (unsigned i = 0; i < m->region_count && error == 0; i++)
        error = m->platform->inherit((void *)m->regions[i]->start,
                                     m->regions[i]->end - m->regions[i]->start, inherited);
    return error;
}

int machine_fork_prepare(struct machine *m, struct store *copy)
{
    int error;

    if (m->mapper->ops->fork_prepare == NULL || m->platform->inherit == NULL)
        return error_set(-ENOTSUP, "fork: the mapper %s cannot be inherited", m->mapper->ops->name);
    if (m->tunables.encrypt || m->tunables.dirty == DIRTY_PROTECT)
        return error_set(-ENOTSUP, "fork: with encrypt=on or dirty=protect a child cannot have its "
                                   "parent's memory");
    machine_stop(m);
    large_split_all(m);
    large_give_up(m, LARGE_MAX);
    slot_release_deferred(m);
    error = copy_slots(m, copy);
    if (error == 0) {
        error = set_inherited(m, true);
        if (error != 0)
            set_inherited(m, false);
    }
    if (error != 0)
        machine_go(m);
    return error;
}

void machine_fork_parent(struct machine *m)
{
    if (set_inherited(m, false) != 0)
        log_line(LOG_ERROR, "after a fork managed memory stays inheritable: a child that is made "
                            "without fork() could find zeroes in it");
    machine_go(m);
}

/* ---- in the child ---- */

/* Nobody else is here: what others waited for, or were about to do, is not. */
static void forget_others(struct machine *m)
{
    m->gate = m->regions_lock = (struct sync_rwlock){0};
    SYNC_RANK_POP(SYNC_GATE); /* this thread's, since machine_fork_prepare() */
    m->reclaim_lock = m->pool_lock = (struct sync_mutex){0};
    m->pagefile.lock = m->pagefile.commit_lock = (struct sync_mutex){0};
    m->trim_behind.lock = m->slot_ring.lock = m->large.lock = (struct sync_mutex){0};
    m->frames_event = m->stage_event = m->queues_event = m->writer.idle = (struct sync_event){0};
    atomic_store(&m->gate_closing, 0);
    atomic_store(&m->waiting, 0);
    atomic_store(&m->pinning, 0);
    memset(m->counters, 0, sizeof(*m->counters)); /* what the parent did is in its own */
    check_always(m->writer.in_flight == 0);
}

static void forget_pins(struct machine *m)
{
    for (uint32_t n = 0; n < m->frame_count; n++) {
        struct frame *frame = &m->frames[n];

        if (atomic_exchange(&frame->pins, 0) == 0)
            continue;
        atomic_fetch_and(frame->pte, ~PTE_PINNED);
    }
    atomic_store(&m->pinned, 0);
}

/* The kernel does not pass protection on: what is written here first is not noticed. Slots stay,
 * and their hashes tell. */
static void forget_protection(struct machine *m)
{
    for (uint32_t n = 0; n < m->frame_count; n++) {
        if (m->frames[n].state == FRAME_ACTIVE)
            atomic_fetch_and(m->frames[n].pte, ~PTE_PROTECTED);
    }
    for (unsigned r = 0; r < m->region_count; r++) {
        const struct pagetable *table = m->regions[r]->table;
        size_t n = 0;

        for (; pagetable_next_section(table, &n, table->section_count); n++)
            atomic_store(&table->sections[n].guarded, 0);
    }
    atomic_store(&m->guarded, 0);
}

int machine_fork_child(struct machine *m, struct store *store)
{
    int error;

    forget_others(m);
    forget_pins(m);
    forget_protection(m);
    m->pagefile.store = store;
    error = set_inherited(m, false);
    if (error == 0)
        error = m->mapper->ops->fork_child(m->mapper);
    for (unsigned i = 0; i < m->region_count && error == 0; i++)
        error = m->mapper->ops->region_adopt(m->mapper, m->regions[i]->start,
                                             m->regions[i]->end - m->regions[i]->start);
    if (error == 0)
        error = store->ops->queue_open(store, (unsigned)m->tunables.store_depth, &m->writer.queue);
    if (error == 0)
        error = machine_open_pool(m, m->pool_count);
    if (error == 0)
        error = machine_start_workers(m);
    return error;
}
