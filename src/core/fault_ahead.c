/*
 * Speculation: what a fault brings in beyond the page that was asked for.
 *
 * A window may be longer than a run: what lies side by side and is alike goes by runs, each with
 * reads of its own, all sent together. Pages of it that are there already are passed over; trimmed
 * ones that still have their frame are mapped, unless they are being written. The run with the page
 * that was asked for is mapped as soon as its own reads are back, so that its thread goes on while
 * the rest arrives.
 */
#include <stdlib.h>

#include "core/fault_internal.h"
#include "core/machine.h"

#define RUNS_AHEAD 16u        /* begun by one fault; pages that are apart are runs of their own */
#define LARGE_AFTER 128u      /* pages: a stream that has gone so far goes by sections, if it can */
#define LARGE_AHEAD_SHARE 32u /* sections read ahead are one part in so many of memory, at most */
#define LARGE_AHEAD_MAX 2u
#define SKIP_MAX 64u /* valid pages after a window, through which its stream goes without a fault */

/* Pages mapped ahead that the stream has passed: used, as far as anybody can know. */
static void mark_used(struct machine *m, const struct region *region,
                      const struct stream_plan *plan)
{
    unsigned hits = 0;

    for (unsigned i = 0; i < plan->passed_pages; i++) {
        uintptr_t va = plan->passed_from + i * (uintptr_t)plan->stride * PAGE_SIZE;
        pte_t *pte;
        uint64_t word;

        if (va < region->start || va >= region->end)
            continue;
        pte = pagetable_pte(region->table, va);
        word = pte_load(pte);
        if ((word & (PTE_VALID | PTE_BUSY | PTE_READAHEAD)) == (PTE_VALID | PTE_READAHEAD))
            hits +=
                pte_cas(&m->sync, pte, &word, (word & ~(PTE_READAHEAD | PTE_AGE)) | PTE_ACCESSED);
    }
    count(m, COUNTER_readahead_hits, hits);
}

static void note_passed(struct machine *m, const struct region *region,
                        const struct stream_plan *plan)
{
    if (plan->passed_pages > 0)
        mark_used(m, region, plan);
    if (plan->trim_pages > 0 && m->tunables.deferred)
        trim_behind_add(m, plan->trim_from, plan->trim_pages);
}

/* A window is never more than a small share of what the machine has, a long one less. */
static unsigned window_share(const struct machine *m, unsigned most)
{
    unsigned share = m->active_max / 16 > 0 ? m->active_max / 16 : 1;
    unsigned long_share = m->active_max / 64 > RUN_MAX ? m->active_max / 64 : RUN_MAX;

    if (share > long_share)
        share = long_share;
    return most < share ? most : share;
}

/* The word of a page that could be mapped now, or one with BUSY where no page can. */
static uint64_t look(const struct region *region, uintptr_t va)
{
    if (va < region->start || va >= region->end)
        return PTE_BUSY;
    return pte_load(pagetable_pte(region->table, va));
}

/* How many pages next to va, `most` at most, could be read with it, which is in `slot`, by one
 * request? */
static unsigned adjoining(const struct region *region, uintptr_t va, uint32_t slot, int stride,
                          unsigned most)
{
    unsigned pages = 0;

    while (pages < most) {
        uint64_t word = look(region, va + (pages + 1) * (uintptr_t)stride * PAGE_SIZE);

        slot += (uint32_t)stride;
        if ((word & (PTE_FORMAT | PTE_BUSY | PTE_BAD)) != PTE_PAGEFILE || pte_number(word) != slot)
            break;
        pages++;
    }
    return pages;
}

void plan_window(struct machine *m, const struct region *region, uintptr_t va, uint32_t thread,
                 bool touching, struct stream_plan *plan)
{
    unsigned most = (unsigned)(touching ? m->tunables.touch_window : m->tunables.read_window);
    unsigned advice = pagetable_advice(region->table, va);

    if (!m->tunables.batching || advice == VMSM_RANDOM || thread == 0)
        most = 1;
    most = window_share(m, most);
    stream_plan(m, va, thread, touching, most, plan);
    if (advice == VMSM_SEQUENTIAL && plan->stride == 1)
        plan->window = most;
    if (advice == VMSM_SEQUENTIAL && plan->stride == 1 && plan->length < LARGE_AFTER && most > 1)
        plan->length = LARGE_AFTER;
    note_passed(m, region, plan);
}

void plan_around(const struct machine *m, const struct region *region, uintptr_t va, uint32_t slot,
                 struct stream_plan *plan)
{
    unsigned group = (unsigned)m->tunables.around, place;

    if (!plan->of_stream || plan->window > 1 || plan->stride != 1 || group == 0 ||
        window_share(m, (unsigned)m->tunables.read_window) < group ||
        !around_brings(m, region->table, va))
        return;
    place = (unsigned)(pagetable_index(region->table, va) % group);
    plan->before = adjoining(region, va, slot, -1, place);
    plan->behind = adjoining(region, va, slot, 1, group - 1 - place);
}

unsigned plan_run(const struct machine *m, const struct region *region, uintptr_t va,
                  const struct stream_plan *plan)
{
    if (is_around(plan))
        return plan->before + 1 + plan->behind;
    if (abs(plan->stride) != 1)
        return 1;
    return within_section(m, region, va, plan, plan->window < RUN_MAX ? plan->window : RUN_MAX);
}

bool goes_by_sections(const struct stream_plan *plan)
{
    return abs(plan->stride) == 1 && plan->length >= LARGE_AFTER;
}

static bool begins_section(const struct machine *m, const struct region *region, uintptr_t va,
                           const struct stream_plan *plan)
{
    return goes_by_sections(plan) && large_begins(m, region, va, plan->stride);
}

unsigned within_section(const struct machine *m, const struct region *region, uintptr_t va,
                        const struct stream_plan *plan, unsigned pages)
{
    unsigned before = (unsigned)(pagetable_index(region->table, va) % SECTION_PAGES);
    unsigned left = plan->stride > 0 ? SECTION_PAGES - before : before + 1;
    uintptr_t next = va + left * (uintptr_t)plan->stride * PAGE_SIZE;

    return pages > left && begins_section(m, region, next, plan) ? left : pages;
}

/* Sections that are read ahead at once: no more than a small part of memory. */
static unsigned sections_ahead(const struct machine *m)
{
    unsigned sections = m->active_max / (SECTION_PAGES * LARGE_AHEAD_SHARE);

    return sections < LARGE_AHEAD_MAX ? sections : LARGE_AHEAD_MAX;
}

/* Is the trimmed page not being written just now? A rescue makes the write worth nothing. */
static bool on_list(const struct machine *m, uint64_t word)
{
    return atomic_load_explicit(&m->frames[pte_number(word)].list, memory_order_relaxed) !=
           LIST_NONE;
}

/* Begin reading the section that begins with `next`, if it may be read as a whole. */
static bool section_ahead(struct machine *m, struct fault_queue *queue, struct region *region,
                          uintptr_t next, uint32_t thread)
{
    if (queue->ahead == FAULT_AHEAD_MAX ||
        large_read_begin(m, queue, region, next, FAULT_AHEAD, thread, 0) != LARGE_DONE)
        return false;
    queue->ahead++;
    return true;
}

void window_read(struct machine *m, struct fault_queue *queue, struct region *region, uintptr_t va,
                 uint32_t thread, const struct stream_plan *plan, unsigned covered)
{
    uintptr_t step = (uintptr_t)plan->stride * PAGE_SIZE, next;
    unsigned most = abs(plan->stride) > 1 ? STEPS_MAX : RUNS_AHEAD, runs = 0, skipped = 0;
    unsigned sections = sections_ahead(m);

    for (;;) {
        uint64_t word;
        unsigned got = 1;

        next = va + covered * step;
        word = look(region, next);
        if (begins_section(m, region, next, plan)) {
            /* What is begun page by page would not be read at once. */
            if (sections == 0 || (word & PTE_BUSY) ||
                !section_ahead(m, queue, region, next, thread))
                break;
            covered += SECTION_PAGES;
            sections--;
            continue;
        }
        if (covered >= plan->window || runs == most)
            break;
        if ((word & PTE_FORMAT) == 0 || (word & PTE_BAD))
            break;
        if ((word & (PTE_PAGEFILE | PTE_BUSY)) == PTE_PAGEFILE) {
            unsigned pages = abs(plan->stride) == 1 ? plan->window - covered : 1;

            got = read_ahead(m, queue, region, next, plan->stride,
                             within_section(m, region, next, plan, pages));
            runs++;
        } else if ((word & (PTE_TRANSITION | PTE_BUSY)) == PTE_TRANSITION && on_list(m, word)) {
            got = rescue_ahead(m, region, next, word);
        }
        if (got == 0)
            break;
        covered += got;
    }
    if (!plan->of_stream)
        return;
    next = va + (covered + plan->behind) * step;
    while (skipped < SKIP_MAX && (look(region, next) & PTE_VALID)) {
        next += step;
        skipped++;
    }
    stream_covered(m, va, thread, covered, va - plan->before * PAGE_SIZE, next);
}

void window_go_on(struct machine *m, struct fault_queue *queue, uintptr_t va, uint32_t thread)
{
    struct stream_plan plan;
    struct region *region;

    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    region = region_find(m, va);
    if (region != NULL && stream_passes(m, va, thread, &plan)) {
        note_passed(m, region, &plan);
        while (plan.left <= sections_ahead(m) * SECTION_PAGES &&
               begins_section(m, region, plan.next, &plan) &&
               section_ahead(m, queue, region, plan.next, thread)) {
            stream_longer(m, plan.next, thread, SECTION_PAGES);
            plan.next += (uintptr_t)plan.stride * LARGE_SIZE;
            plan.left += SECTION_PAGES;
        }
    }
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
}
