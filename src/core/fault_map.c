/* Faults that need no I/O, first touch and rescue, and what all kinds of faults share. */
#include <stdlib.h>

#include "core/check.h"
#include "core/fault_internal.h"
#include "core/machine.h"

/* ---- helpers of all kinds of faults ---- */

void fault_timed(struct machine *m, enum fault_kind kind, uint64_t started)
{
    histogram_add(&m->counters->faults[kind], sync_now(&m->sync) - started);
}

void frame_attach(struct machine *m, uint32_t number, pte_t *pte, uintptr_t va, uint32_t slot)
{
    struct frame *frame = &m->frames[number];

    sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
    check_always(frame->state == FRAME_TRANSIT);
    frame->pte = pte;
    frame->va = va;
    frame->slot = slot;
    frame_set_state(frame, FRAME_ACTIVE);
    frame_assert_state(m, frame);
    sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
}

void section_add_valid(struct pagetable *table, uintptr_t va, unsigned pages)
{
    size_t i = pagetable_index(table, va), end = i + pages;

    while (i < end) {
        struct section *section = &table->sections[i / SECTION_PAGES];
        size_t stop = (i / SECTION_PAGES + 1) * SECTION_PAGES;
        uint64_t groups = 0;

        if (stop > end)
            stop = end;
        atomic_fetch_add_explicit(&section->valid, (int32_t)(stop - i), memory_order_relaxed);
        for (; i < stop; i++)
            groups |= group_bit(i);
        atomic_fetch_or(&section->groups, groups);
    }
}

uint64_t mapped_word(struct machine *m, uint64_t was, uint32_t frame, bool wanted, bool protected)
{
    uint64_t word = pte_make(PTE_VALID, frame);

    if (was & PTE_FORMAT)
        word |= age_returned(m, was, wanted);
    word |= wanted ? PTE_ACCESSED : PTE_READAHEAD;
    return protected ? word | PTE_PROTECTED : word;
}

unsigned extend_run(struct machine *m, const struct region *region, uintptr_t va, int stride,
                    unsigned count, uint64_t format, uintptr_t *first)
{
    unsigned got = 1;

    *first = va;
    while (got < count) {
        uintptr_t next = stride > 0 ? va + got * PAGE_SIZE : va - got * PAGE_SIZE;
        pte_t *pte;
        uint64_t word;

        if (next < region->start || next >= region->end)
            break;
        pte = pagetable_pte(region->table, next);
        word = pte_load(pte);
        if ((word & (PTE_FORMAT | PTE_BUSY | PTE_BAD)) != format)
            break;
        pagetable_populate(region->table, next);
        if (!pte_try_busy(&m->sync, pte, word))
            break;
        if (stride < 0)
            *first = next;
        got++;
    }
    return got;
}

/* ---- first touch ---- */

static unsigned charge_touch(struct machine *m, const struct region *region, unsigned want)
{
    if (!region->table->overcommit || pagefile_commit(m, want) == 0)
        return want;
    return want > 1 && pagefile_commit(m, 1) == 0 ? 1 : 0;
}

static void uncharge_touch(struct machine *m, const struct region *region, unsigned pages)
{
    if (region->table->overcommit && pages > 0)
        pagefile_uncommit(m, pages);
}

/*
 * Own a run of up to `want` untouched pages, from va, which reads `word`, on by the stride; each
 * is charged, and has a right to a frame. *first becomes the lowest address, *pages how many.
 */
static enum fault_result own_untouched(struct machine *m, struct region *region, uintptr_t va,
                                       uint64_t word, int stride, unsigned want, uintptr_t *first,
                                       unsigned *pages)
{
    unsigned got = frame_reserve(m, want), charged;

    if (got == 0)
        return FAULT_NO_FRAME;
    charged = charge_touch(m, region, got);
    frame_unreserve(m, got - charged);
    if (charged == 0)
        return FAULT_FAILED;
    pagetable_populate(region->table, va);
    if (!pte_try_busy(&m->sync, pagetable_pte(region->table, va), word)) {
        frame_unreserve(m, charged);
        uncharge_touch(m, region, charged);
        return FAULT_BUSY;
    }
    *pages = extend_run(m, region, va, stride, charged, 0, first);
    frame_unreserve(m, charged - *pages);
    uncharge_touch(m, region, charged - *pages);
    return FAULT_DONE;
}

/*
 * Map zeroes under `pages` pages from `first` on, all BUSY by us. va was asked for, or is none of
 * them. Returns how many are mapped, from `first` on; the others are untouched again.
 */
static unsigned touch_run(struct machine *m, struct region *region, uintptr_t first, unsigned pages,
                          uintptr_t va)
{
    struct pagetable *table = region->table;
    uint32_t frames[RUN_MAX];
    unsigned done = 0;

    frame_take(m, pages, frames, true);
    m->mapper->ops->map_zero(m->mapper, first, pages, frames, 0, &done);
    section_add_valid(table, first, done);
    for (unsigned i = 0; i < done; i++) {
        uintptr_t at = first + i * PAGE_SIZE;

        frame_attach(m, frames[i], pagetable_pte(table, at), at, 0);
        pte_release(m, pagetable_pte(table, at), at, mapped_word(m, 0, frames[i], at == va, false));
    }
    atomic_fetch_add(&m->touched, done);
    count(m, COUNTER_pages_first_touch, done);
    count(m, COUNTER_map_calls, 1);
    batch_stats_add(&m->counters->touches, done);
    count(m, COUNTER_readahead_pages, done - (va >= first && va < first + done * PAGE_SIZE));
    if (done == pages)
        return done;
    frame_free(m, pages - done, frames + done, true);
    uncharge_touch(m, region, pages - done);
    for (unsigned i = done; i < pages; i++)
        pte_release(m, pagetable_pte(table, first + i * PAGE_SIZE), first + i * PAGE_SIZE, 0);
    return done;
}

/* The runs of the window after the first `covered` pages, until one cannot be mapped whole. Returns
 * how many pages, without a gap, were mapped. */
static unsigned touch_ahead(struct machine *m, struct region *region, uintptr_t va,
                            const struct stream_plan *plan, unsigned covered)
{
    unsigned before = covered;

    while (covered < plan->window) {
        uintptr_t next = va + covered * (uintptr_t)plan->stride * PAGE_SIZE, first;
        unsigned left = within_section(m, region, next, plan, plan->window - covered), pages, done;

        if (goes_by_sections(plan) && large_begins(m, region, next, plan->stride))
            break; /* if possible, all of it at once */
        if (next < region->start || next >= region->end ||
            pte_load(pagetable_pte(region->table, next)) != PTE_UNTOUCHED)
            break;
        if (own_untouched(m, region, next, PTE_UNTOUCHED, plan->stride,
                          left < RUN_MAX ? left : RUN_MAX, &first, &pages) != FAULT_DONE)
            break;
        done = touch_run(m, region, first, pages, 0);
        if (done == pages || plan->stride > 0)
            covered += done;
        if (done < pages)
            break;
    }
    return covered - before;
}

/* Map all of the section of va at once, if it may be. */
static enum large_result touch_large(struct machine *m, struct region *region, uintptr_t va,
                                     uint32_t thread, const struct stream_plan *plan,
                                     uint64_t started)
{
    unsigned before = (unsigned)(pagetable_index(region->table, va) % SECTION_PAGES);
    unsigned pages = plan->stride > 0 ? SECTION_PAGES - before : before + 1;
    enum large_result result = large_touch(m, region, va, started);

    if (result != LARGE_DONE)
        return result;
    if (plan->of_stream)
        stream_covered(m, va, thread, pages, va, va + pages * (uintptr_t)plan->stride * PAGE_SIZE);
    count(m, COUNTER_faults_first_touch, 1);
    fault_timed(m, FAULT_KIND_FIRST_TOUCH, started);
    return LARGE_DONE;
}

enum fault_result fault_touch(struct machine *m, struct region *region, uintptr_t va, uint64_t word,
                              uint32_t thread, uint64_t started)
{
    struct stream_plan plan;
    enum fault_result result;
    unsigned pages, done;
    uintptr_t first;

    plan_window(m, region, va, thread, true, &plan);
    if (!(word & PTE_BAD) && goes_by_sections(&plan)) {
        enum large_result large = touch_large(m, region, va, thread, &plan, started);

        if (large != LARGE_NOT)
            return large == LARGE_DONE ? FAULT_DONE : FAULT_NO_FRAME;
    }
    result = own_untouched(m, region, va, word, plan.stride, plan_run(m, region, va, &plan), &first,
                           &pages);
    if (result != FAULT_DONE)
        return result;
    if (word & PTE_BAD)
        m->mapper->ops->unfail(m->mapper, va);
    done = touch_run(m, region, first, pages, va);
    if (va >= first + done * PAGE_SIZE)
        return FAULT_NO_FRAME;
    if (done == pages)
        done += touch_ahead(m, region, va, &plan, done);
    if (plan.of_stream)
        stream_covered(m, va, thread, done, va, va + done * (uintptr_t)plan.stride * PAGE_SIZE);
    count(m, COUNTER_faults_first_touch, 1);
    fault_timed(m, FAULT_KIND_FIRST_TOUCH, started);
    return FAULT_DONE;
}

/* ---- rescue ---- */

static void count_rescue(struct machine *m, enum frame_state from, uint64_t started)
{
    if (from == FRAME_STANDBY) {
        count(m, COUNTER_faults_standby, 1);
        fault_timed(m, FAULT_KIND_STANDBY, started);
    } else if (from == FRAME_MODIFIED) {
        count(m, COUNTER_faults_modified, 1);
        fault_timed(m, FAULT_KIND_MODIFIED, started);
    } else {
        count(m, COUNTER_faults_writing, 1);
        fault_timed(m, FAULT_KIND_WRITING, started);
    }
}

/* The kernel had no page for us: the frame goes back to where its content is safe. */
static void rescue_undo(struct machine *m, uint32_t number, pte_t *pte, uintptr_t va, uint64_t word)
{
    struct frame *frame = &m->frames[number];

    if (frame->slot != 0)
        framelist_push(m, LIST_STANDBY + STANDBY_PRIORITIES - 1, FRAME_STANDBY, 1, &number);
    else
        framelist_push(m, LIST_MODIFIED, FRAME_MODIFIED, 1, &number);
    pte_release(m, pte, va, pte_make(PTE_TRANSITION, number) | (word & PTE_HISTORY));
}

/* Does the page keep its slot now that it is valid again? Not if it may be written unnoticed. */
static bool keeps_slot(const struct machine *m, const struct frame *frame, unsigned flags)
{
    bool unnoticed = m->tunables.dirty == DIRTY_PROTECT && (flags & FAULT_WRITE);

    return frame->slot != 0 && m->tunables.preserve && !unnoticed;
}

/* A right to rescue a page: with a cache it becomes Active only now. */
static bool rescue_reserve(struct machine *m, bool wanted)
{
    if (!m->mapper->has_cache)
        return true;
    return wanted ? frame_reserve_rescue(m) : frame_reserve(m, 1) > 0;
}

/* The page reads `word`; *from becomes the state of its frame. */
static enum fault_result rescue(struct machine *m, struct region *region, uintptr_t va,
                                uint64_t word, unsigned flags, enum frame_state *from)
{
    pte_t *pte = pagetable_pte(region->table, va);
    uint32_t number = pte_number(word);
    struct frame *frame = &m->frames[number];
    bool cached = m->mapper->has_cache, wanted = !(flags & FAULT_AHEAD), keep, protected;
    unsigned done = 0;
    void *content;

    if (!rescue_reserve(m, wanted))
        return FAULT_NO_FRAME;
    if (!pte_try_busy(&m->sync, pte, word)) {
        if (cached)
            frame_unreserve(m, 1);
        return FAULT_BUSY;
    }
    framelist_remove(m, frame);
    *from = frame->state;
    check_always(frame->pte == pte &&
                 (*from == FRAME_STANDBY || *from == FRAME_MODIFIED || *from == FRAME_WRITING));
    if (*from == FRAME_WRITING)
        frame->slot = 0; /* the writer gives it back */
    frame_set_state(frame, FRAME_TRANSIT);
    sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);

    if (word & PTE_BAD)
        m->mapper->ops->unfail(m->mapper, va);
    content = mapper_buffer(m->mapper, frame->buffer);
    keep = keeps_slot(m, frame, flags);
    protected = keep && !(flags & FAULT_WRITE) && protect_begin(m, region->table, va, 1);
    m->mapper->ops->map(m->mapper, va, 1, &number, &content, protected ? MAP_PROTECTED : 0, &done);
    count(m, COUNTER_map_calls, 1);
    if (done == 0) {
        if (protected)
            protect_end(m, region->table, va, 1);
        rescue_undo(m, number, pte, va, word);
        if (cached)
            frame_unreserve(m, 1);
        return FAULT_NO_FRAME;
    }
    if (!keep && frame->slot != 0) {
        slot_release(m, frame->slot);
        frame->slot = 0;
    }
    frame_activated(m, frame);
    sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
    frame_set_state(frame, FRAME_ACTIVE);
    frame_assert_state(m, frame);
    sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
    section_add_valid(region->table, va, 1);
    pte_release(m, pte, va, mapped_word(m, word, number, wanted, protected));
    return FAULT_DONE;
}

enum fault_result fault_rescue(struct machine *m, struct fault_queue *queue, struct region *region,
                               uintptr_t va, uint64_t word, unsigned flags, uint32_t thread,
                               uint64_t started)
{
    enum frame_state from = FRAME_STANDBY;
    enum fault_result result = rescue(m, region, va, word, flags, &from);
    struct stream_plan plan;

    if (result != FAULT_DONE)
        return result;
    count_rescue(m, from, started);
    around_asked(region->table, va, flags);
    plan_window(m, region, va, thread, false, &plan);
    window_read(m, queue, region, va, thread, &plan, 1);
    return FAULT_DONE;
}

unsigned rescue_ahead(struct machine *m, struct region *region, uintptr_t va, uint64_t word)
{
    enum frame_state from;

    if ((word & PTE_BAD) || rescue(m, region, va, word, FAULT_AHEAD, &from) != FAULT_DONE)
        return 0;
    count(m, COUNTER_readahead_pages, 1);
    count(m, COUNTER_pages_rescued_ahead, 1);
    return 1;
}
