/*
 * Explicit control of what is in memory: prefault, advice, pins.
 */
#include <errno.h>
#include <string.h>

#include "core/check.h"
#include "core/error.h"
#include "core/machine.h"

#define RANGES_AT_ONCE 128 /* ranges of a prefault that are brought in together */
/* Reads: the disk is to have some soon, and what has come back is mapped while it reads others. */
#define SENT_TOGETHER 8u

/* ---- prefault ---- */

/* Begin what the page at va needs; returns how many pages have been dealt with (0: try again). */
static unsigned prefault_begin(struct machine *m, struct fault_queue *queue, uintptr_t va,
                               unsigned pages, unsigned *failed)
{
    unsigned passed = 1;
    enum fault_result result = fault_begin_run(m, queue, va, pages, &passed);

    if (result == FAULT_BUSY)
        result = fault_begin(m, queue, va, FAULT_EXPLICIT, 0, sync_now(&m->sync));
    switch (result) {
    case FAULT_DONE:
    case FAULT_PENDING:
    case FAULT_OUTSIDE:
        return passed > 0 ? passed : 1;
    case FAULT_FAILED:
        ++*failed;
        return 1;
    case FAULT_BUSY:
        if (fault_reap(m, queue, true, failed) == 0)
            fault_wait_busy(m, va);
        return 0;
    case FAULT_NO_FRAME:
        if (fault_reap(m, queue, true, failed) == 0 && frame_wait(m) != 0) {
            ++*failed;
            return 1;
        }
        return 0;
    }
    return 1;
}

/* Bring in ranges that are mapped; returns how many pages could not be had. */
static unsigned prefault_ranges(struct machine *m, const struct iovec *ranges, int range_count)
{
    struct fault_queue *queue = fault_queue_get(m);
    unsigned failed = 0;

    fault_queue_enter(m, queue);
    for (int i = 0; i < range_count; i++) {
        uintptr_t va = (uintptr_t)ranges[i].iov_base & ~(PAGE_SIZE - 1);
        uintptr_t end = (uintptr_t)ranges[i].iov_base + ranges[i].iov_len;

        while (va < end) {
            size_t pages = (end - va + PAGE_SIZE - 1) >> PAGE_SHIFT;

            if (queue->free == NULL || queue->unsent_count >= SENT_TOGETHER)
                fault_reap(m, queue, queue->free == NULL, &failed);
            va += PAGE_SIZE * prefault_begin(m, queue, va,
                                             pages < RUN_MAX ? (unsigned)pages : RUN_MAX, &failed);
        }
    }
    while (queue->in_flight > 0)
        fault_reap(m, queue, true, &failed);
    fault_queue_leave(m, queue);
    fault_queue_put(m, queue);
    return failed;
}

static int check_range(struct machine *m, const char *what, struct iovec range)
{
    bool covered;

    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    covered = range.iov_len == 0 || region_covers(m, (uintptr_t)range.iov_base, range.iov_len);
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    if (covered)
        return 0;
    return error_set(-EINVAL, "%s: %zu bytes at %p are not all mapped by this manager", what,
                     range.iov_len, range.iov_base);
}

/*
 * The array may itself be managed memory, even a part of what it asks for. So it is read while
 * nothing is held and no page is busy by us: a piece at a time.
 */
int machine_prefault(struct machine *m, const struct iovec *ranges, int range_count)
{
    struct iovec piece[RANGES_AT_ONCE];
    unsigned failed = 0;

    if (range_count < 0 || (range_count > 0 && ranges == NULL))
        return error_set(-EINVAL, "prefault: %d ranges", range_count);
    for (int i = 0; i < range_count; i++) {
        int error = check_range(m, "prefault", ranges[i]);

        if (error != 0)
            return error;
    }
    for (int i = 0; i < range_count;) {
        int n = range_count - i < RANGES_AT_ONCE ? range_count - i : RANGES_AT_ONCE;

        memcpy(piece, ranges + i, (size_t)n * sizeof(*ranges));
        failed += prefault_ranges(m, piece, n);
        i += n;
    }
    return failed > 0 ? error_set(-EIO, "prefault: %u pages could not be had", failed) : 0;
}

/* ---- advice ---- */

/* Whole tables get the advice in one word; parts get it section by section. */
static void set_advice(struct machine *m, uintptr_t start, uintptr_t end, unsigned advice)
{
    while (start < end) {
        const struct region *region = region_find(m, start);
        struct pagetable *table = region->table;
        uintptr_t stop = region->end < end ? region->end : end;

        if (start == table->base && stop == table->base + table->pages * PAGE_SIZE) {
            atomic_store(&table->advice, advice);
        } else {
            size_t last = pagetable_index(table, stop - 1) / SECTION_PAGES;

            for (size_t n = pagetable_index(table, start) / SECTION_PAGES; n <= last; n++)
                atomic_store(&table->sections[n].advice, (uint8_t)(advice + 1));
        }
        start = stop;
    }
}

/* The range is the oldest there is, and what the next trim looks at first. An offer is for one
 * region. */
static void dont_need(struct machine *m, uintptr_t start, size_t length)
{
    uintptr_t end = start + length;

    age_range(m, start, length, PTE_AGE_MAX);
    while (start < end) {
        const struct region *region = region_find(m, start);
        uintptr_t stop = region->end < end ? region->end : end;
        size_t pages = (stop - start) >> PAGE_SHIFT;

        trim_offer(m, start, pages < UINT32_MAX ? (unsigned)pages : UINT32_MAX, PTE_AGE_MAX);
        start = stop;
    }
}

int machine_advise(struct machine *m, uintptr_t start, size_t length, enum vmsm_advice advice)
{
    struct iovec range = {.iov_base = (void *)start, .iov_len = length};
    int error = 0;

    if (start % PAGE_SIZE != 0 || length % PAGE_SIZE != 0)
        return error_set(-EINVAL, "advise: %zu bytes at %p are not whole pages", length,
                         (void *)start);
    if (advice == VMSM_WILLNEED)
        return machine_prefault(m, &range, 1);
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    if (!region_covers(m, start, length))
        error = error_set(-EINVAL, "advise: %zu bytes at %p are not all mapped by this manager",
                          length, (void *)start);
    else if (advice == VMSM_DONTNEED)
        dont_need(m, start, length);
    else if (advice == VMSM_NORMAL || advice == VMSM_RANDOM || advice == VMSM_SEQUENTIAL)
        set_advice(m, start, start + length, advice);
    else
        error = error_set(-EINVAL, "advise: %d is no advice", (int)advice);
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    return error;
}

/* ---- pins ---- */

/*
 * Where system calls are not served, a pinned page is one that they can use: it is not protected. A
 * trim that began before the page was PINNED may protect it, as a bystander, and has done so when
 * its mark goes; a later one lets pinned pages off (trim_protect()).
 */
static void pin_settle(struct machine *m, struct region *region, uintptr_t va)
{
    struct section *section = pagetable_section(region->table, va);

    if (!m->user_only)
        return;
    for (unsigned round = 0; atomic_load(&section->trimming) != 0; round++)
        sync_relax(&m->sync, round);
    m->mapper->ops->lift(m->mapper, va, PAGE_SIZE);
}

/* Pin the page if it is valid now. 0, -EAGAIN (not valid, or busy), -EOVERFLOW. */
static int try_pin(struct machine *m, uintptr_t va)
{
    int error = -EAGAIN;
    struct region *region;

    machine_enter(m);
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    region = region_find(m, va);
    if (region == NULL) {
        error = error_set(-EINVAL, "pin: %p is not mapped any more", (void *)va);
    } else {
        pte_t *pte = pagetable_pte(region->table, va);
        uint64_t word = pte_load(pte);

        if ((word & PTE_VALID) && !(word & PTE_BUSY) && pte_try_busy(&m->sync, pte, word)) {
            struct frame *frame = &m->frames[pte_number(word)];
            uint32_t pins = atomic_load(&frame->pins);

            error = 0;
            /* One page must not keep 511 others in memory. */
            large_split(m, region->table, pagetable_index(region->table, va) / SECTION_PAGES);
            if (pins == UINT16_MAX) {
                error = error_set(-EOVERFLOW, "pin: %p is pinned 65535 times", (void *)va);
            } else {
                atomic_store(&frame->pins, pins + 1);
                atomic_fetch_add(&m->pinned, 1);
                atomic_fetch_sub(&m->pinning, 1);
                /* A device may write to it: it is as good as changed. */
                if (word & PTE_PROTECTED) {
                    slot_release(m, frame->slot);
                    frame->slot = 0;
                    word &= ~PTE_PROTECTED;
                    m->mapper->ops->lift(m->mapper, va, PAGE_SIZE);
                    protect_end(m, region->table, va, 1);
                }
                word |= PTE_PINNED;
            }
            pte_release(m, pte, va, word);
            if (error == 0)
                pin_settle(m, region, va);
        }
    }
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    sync_rwlock_unread(&m->sync, &m->gate, SYNC_GATE);
    return error;
}

static int pin_page(struct machine *m, uintptr_t va)
{
    for (;;) {
        int error = try_pin(m, va);

        if (error != -EAGAIN)
            return error;
        if (fault_resolve(m, va, FAULT_EXPLICIT, 0) == FAULT_FAILED)
            return error_set(-EIO, "pin: the page at %p could not be had", (void *)va);
    }
}

/* Take one pin off the page at va; false if it has none (any more). regions_lock held shared. */
static bool unpin_page(struct machine *m, uintptr_t va)
{
    const struct region *region = region_find(m, va);
    struct frame *frame;
    uint64_t word;
    pte_t *pte;

    SYNC_ASSERT_HELD(SYNC_REGIONS);
    if (region == NULL)
        return false;
    pte = pagetable_pte(region->table, va);
    do {
        word = pte_wait(m, pte);
        if (!(word & PTE_PINNED))
            return false;
    } while (!pte_try_busy(&m->sync, pte, word));
    frame = &m->frames[pte_number(word)];
    check_always(atomic_load(&frame->pins) > 0);
    if (atomic_fetch_sub(&frame->pins, 1) == 1)
        word &= ~PTE_PINNED;
    pte_release(m, pte, va, word | PTE_ACCESSED);
    atomic_fetch_sub(&m->pinned, 1);
    return true;
}

static int unpin_range(struct machine *m, uintptr_t start, uintptr_t end)
{
    int error = 0;

    machine_enter(m);
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    for (uintptr_t va = start; va < end && error == 0; va += PAGE_SIZE) {
        const struct region *region = region_find(m, va);

        if (region == NULL || !(pte_load(pagetable_pte(region->table, va)) & PTE_PINNED))
            error = error_set(-EINVAL, "unpin: %p is not pinned", (void *)va);
    }
    for (uintptr_t va = start; va < end && error == 0; va += PAGE_SIZE) {
        if (!unpin_page(m, va)) /* another thread took the last one off meanwhile */
            error = error_set(-EINVAL, "unpin: %p is not pinned", (void *)va);
    }
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    sync_rwlock_unread(&m->sync, &m->gate, SYNC_GATE);
    return error;
}

/* Undo the pins of a pin that failed, but for those that the program has taken off, or unmapped,
 * meanwhile: they are counted out already. */
static void unpin_left(struct machine *m, uintptr_t start, uintptr_t end)
{
    machine_enter(m);
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    for (uintptr_t va = start; va < end; va += PAGE_SIZE)
        unpin_page(m, va);
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    sync_rwlock_unread(&m->sync, &m->gate, SYNC_GATE);
}

int machine_pin(struct machine *m, uintptr_t start, size_t length)
{
    int64_t most = m->active_max - m->active_max / 8 - 1, pages;
    uintptr_t end = (start + length + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
    struct iovec range = {.iov_base = (void *)start, .iov_len = length};
    uintptr_t va;
    int error = 0;

    start &= ~(PAGE_SIZE - 1);
    pages = (int64_t)((end - start) >> PAGE_SHIFT);
    if (length == 0)
        return error_set(-EINVAL, "pin: 0 bytes at %p", (void *)start);
    if (atomic_fetch_add(&m->pinning, pages) + pages + atomic_load(&m->pinned) > most) {
        atomic_fetch_sub(&m->pinning, pages);
        return error_set(-ENOMEM,
                         "pin: with %lld pages more, more than %lld would be pinned: an eighth of "
                         "the %u frames for mapped pages (frames_total less the cache and what "
                         "staging may lend) must stay free; pin less, or give more memory",
                         (long long)pages, (long long)most, m->active_max);
    }
    error = machine_prefault(m, &range, 1);
    if (error == -EINVAL) {
        atomic_fetch_sub(&m->pinning, pages);
        return error;
    }
    for (va = start, error = 0; va < end && error == 0; va += PAGE_SIZE)
        error = pin_page(m, va);
    if (error != 0) {
        uintptr_t failed = va - PAGE_SIZE;

        atomic_fetch_sub(&m->pinning, (int64_t)((end - failed) >> PAGE_SHIFT));
        unpin_left(m, start, failed);
    }
    return error;
}

int machine_unpin(struct machine *m, uintptr_t start, size_t length)
{
    uintptr_t end = (start + length + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);

    if (length == 0 || end <= start)
        return error_set(-EINVAL, "unpin: %zu bytes at %p", length, (void *)start);
    return unpin_range(m, start & ~(PAGE_SIZE - 1), end);
}
