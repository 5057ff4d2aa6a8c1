#include "core/fault.h"

#include <errno.h>
#include <string.h>

#include "core/error.h"
#include "core/fault_internal.h"
#include "core/machine.h"

#define STALE_FAULTS 64u /* of which one is looked into: is the page there? */

/* ---- faults on valid pages ---- */

/*
 * A thread that finds a valid page missing is told to look again, for it has mostly been mapped
 * since the fault. If it comes again and again, the page may be gone: the program has dropped it by
 * a system call that nobody saw. True: that is to be found out. (Pages share counts: if the fault
 * that is looked into is another's, the next will be in turn.)
 */
static bool keeps_faulting(struct machine *m, uintptr_t va)
{
    _Atomic uint32_t *stale = &m->stale[va / PAGE_SIZE % STALE_COUNTS];

    return m->mapper->ops->restore != NULL &&
           atomic_fetch_add_explicit(stale, 1, memory_order_relaxed) % STALE_FAULTS ==
               STALE_FAULTS - 1;
}

/* Who asks holds it BUSY. A page that is there stays as it is. */
static bool restore(struct machine *m, uintptr_t va)
{
    if (!m->mapper->ops->restore(m->mapper, va))
        return false;
    log_repeated(&m->said_dropped, LOG_ERROR,
                 "the page at %p has been dropped by a system call of the program's own: it reads "
                 "as zeroes",
                 (void *)va);
    return true;
}

/* Somebody else has made the page valid, or it is write-protected by a trim or to notice a change.
 */
static enum fault_result fault_valid(struct machine *m, struct region *region, uintptr_t va,
                                     uint64_t word, unsigned flags, uint64_t started)
{
    pte_t *pte = pagetable_pte(region->table, va);
    struct frame *frame = &m->frames[pte_number(word)];
    bool missing = !(flags & (FAULT_PROTECT | FAULT_EXPLICIT)) && keeps_faulting(m, va);

    if (!(flags & FAULT_PROTECT) && !missing) {
        if (flags & FAULT_TRAP)
            m->mapper->ops->wake(m->mapper, va, PAGE_SIZE);
        count(m, COUNTER_faults_stale, 1);
        fault_timed(m, FAULT_KIND_STALE, started);
        return FAULT_DONE;
    }
    if (!pte_try_busy(&m->sync, pte, word))
        return FAULT_BUSY;
    if (missing && !restore(m, va)) {
        pte_release(m, pte, va, word);
        return FAULT_DONE;
    }
    /* A page that has been restored is as one that has been written. */
    if ((word & PTE_PROTECTED) && m->tunables.dirty == DIRTY_PROTECT) {
        slot_release(m, frame->slot);
        frame->slot = 0;
    }
    if (word & PTE_PROTECTED)
        protect_written(m, region, va);
    else
        protect_met(m, region, va);
    word = (word & ~(PTE_PROTECTED | PTE_READAHEAD | PTE_AGE)) | PTE_ACCESSED;
    pte_release(m, pte, va, word);
    count(m, COUNTER_faults_protect, 1);
    fault_timed(m, FAULT_KIND_PROTECT, started);
    return FAULT_DONE;
}

void fault_fail_page(struct machine *m, uintptr_t va)
{
    int error = m->mapper->ops->fail(m->mapper, va);

    if (error != 0)
        log_line(LOG_ERROR,
                 "the page at %p should raise a signal, but the kernel has no means for it now "
                 "(%s): the thread faults again until it has",
                 (void *)va, strerror(-error));
}

/* Raise a signal in who faults on a page, which is BUSY by us and reads `word`, from now on. */
static void fail_owned(struct machine *m, pte_t *pte, uintptr_t va, uint64_t word)
{
    log_repeated(&m->said_fault, LOG_ERROR, "fault at %p: %s", (void *)va, error_last());
    count(m, COUNTER_faults_failed, 1);
    fault_fail_page(m, va);
    pte_release(m, pte, va, word | PTE_BAD);
}

/*
 * SIGBUS has been due here since another fault failed. A handler sees to it while it owns the page:
 * later (fault_give_up()) the page could have been decommitted, and be as good as any.
 */
static enum fault_result fault_bad(struct machine *m, pte_t *pte, uintptr_t va, uint64_t word,
                                   unsigned flags)
{
    error_set(-EIO, "the page at %p could not be had before", (void *)va);
    if (!(flags & FAULT_TRAP))
        return FAULT_FAILED;
    if (!pte_try_busy(&m->sync, pte, word))
        return FAULT_BUSY;
    fail_owned(m, pte, va, word);
    m->mapper->ops->wake(m->mapper, va, PAGE_SIZE);
    return FAULT_DONE;
}

/* ---- the entrance ---- */

static enum fault_result fetch(struct machine *m, struct fault_queue *queue, struct region *region,
                               uintptr_t va, uint64_t word, unsigned flags, uint32_t thread,
                               uint64_t started)
{
    queue->others++;
    if (word & PTE_TRANSITION)
        return fault_rescue(m, queue, region, va, word, flags, thread, started);
    return fault_read_begin(m, queue, region, va, word, flags, thread, started);
}

static enum fault_result met(struct machine *m, struct fault_queue *queue, struct region *region,
                             uintptr_t va, uint64_t word, unsigned flags, uint64_t started)
{
    queue->others += (flags & FAULT_PROTECT) != 0;
    return fault_valid(m, region, va, word, flags, started);
}

static enum fault_result touch(struct machine *m, struct fault_queue *queue, struct region *region,
                               uintptr_t va, uint64_t word, uint32_t thread, uint64_t started)
{
    enum fault_result result = fault_touch(m, region, va, word, thread, started);

    queue->touches += result == FAULT_DONE;
    queue->others += result == FAULT_NO_FRAME;
    return result;
}

static enum fault_result fault_dispatch(struct machine *m, struct fault_queue *queue,
                                        struct region *region, uintptr_t va, unsigned flags,
                                        uint32_t thread, uint64_t started)
{
    pte_t *pte = pagetable_pte(region->table, va);

    for (;;) {
        uint64_t word = pte_load(pte);
        enum fault_result result;

        if (word & PTE_BUSY) {
            if ((flags & FAULT_TRAP) && !pte_want(m, pte, PTE_WANTED_TRAP))
                continue;
            count(m, COUNTER_faults_busy, 1);
            return FAULT_BUSY;
        }
        if (word & PTE_VALID)
            result = met(m, queue, region, va, word, flags, started);
        else if ((word & PTE_BAD) && !(flags & FAULT_EXPLICIT))
            result = fault_bad(m, pte, va, word, flags);
        else if ((word & PTE_FORMAT) == PTE_UNTOUCHED)
            result = touch(m, queue, region, va, word, thread, started);
        else
            result = fetch(m, queue, region, va, word, flags, thread, started);
        if (result != FAULT_BUSY) /* lost a race: look again */
            return result;
    }
}

enum fault_result fault_begin(struct machine *m, struct fault_queue *queue, uintptr_t va,
                              unsigned flags, uint32_t thread, uint64_t started)
{
    enum fault_result result = FAULT_OUTSIDE;
    struct section *section = NULL;
    struct region *region;

    va &= ~(PAGE_SIZE - 1);
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    region = region_find(m, va);
    if (region != NULL) {
        if (!m->tunables.fine_locks) {
            section = pagetable_section(region->table, va);
            sync_mutex_lock(&m->sync, &section->lock, SYNC_SECTION);
        }
        result = fault_dispatch(m, queue, region, va, flags, thread, started);
        if (section != NULL)
            sync_mutex_unlock(&m->sync, &section->lock, SYNC_SECTION);
    }
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    return result;
}

void fault_wait_busy(struct machine *m, uintptr_t va)
{
    struct region *region;

    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    region = region_find(m, va);
    if (region != NULL)
        pte_wait(m, pagetable_pte(region->table, va));
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
}

enum fault_result fault_resolve(struct machine *m, uintptr_t va, unsigned flags, uint32_t thread)
{
    uint64_t started = sync_now(&m->sync);
    struct fault_queue *queue = fault_queue_get(m);
    enum fault_result result;
    unsigned failed = 0;

    fault_queue_enter(m, queue);
    do {
        result = fault_begin(m, queue, va, flags, thread, started);
        if (result == FAULT_PENDING) {
            while (queue->in_flight > 0)
                fault_reap(m, queue, true, &failed);
            result = failed > 0 ? FAULT_FAILED : FAULT_DONE;
        } else if (result == FAULT_BUSY) {
            fault_wait_busy(m, va);
        } else if (result == FAULT_NO_FRAME && frame_wait(m) != 0) {
            result = FAULT_FAILED;
        }
    } while (result == FAULT_BUSY || result == FAULT_NO_FRAME);
    while (queue->in_flight > 0) /* ahead of a rescue */
        fault_reap(m, queue, true, NULL);
    if (result == FAULT_FAILED && !(flags & FAULT_EXPLICIT))
        count(m, COUNTER_faults_failed, 1);
    fault_queue_leave(m, queue);
    fault_queue_put(m, queue);
    return result;
}

void fault_give_up(struct machine *m, uintptr_t va)
{
    struct region *region;
    uint64_t word = 0;
    pte_t *pte;

    va &= ~(PAGE_SIZE - 1);
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    region = region_find(m, va);
    pte = region != NULL ? pagetable_pte(region->table, va) : NULL;
    word = pte != NULL ? pte_load(pte) : PTE_BUSY;
    /* A page whose content is in a frame needs no more than another look, if it can be mapped. */
    if ((word & PTE_TRANSITION) && atomic_load(&m->available) > 0)
        word = PTE_BUSY;
    if (!(word & (PTE_BUSY | PTE_VALID)) && pte_try_busy(&m->sync, pte, word)) {
        pagetable_populate(region->table, va);
        fail_owned(m, pte, va, word);
    }
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    m->mapper->ops->wake(m->mapper, va, PAGE_SIZE);
}
