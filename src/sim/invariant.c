/*
 * What must be true after every step, whoever is in the midst of what: a page that is not BUSY is
 * in exactly one place, and that place has its content.
 *
 * A lock that is held excuses what it guards; a page that is BUSY excuses itself.
 */
#include <stdlib.h>
#include <string.h>

#include "core/check.h"
#include "sim/world.h"

struct invariants {
    struct world *w;
    uint64_t round;
    uint64_t frame_seen[16384];         /* round in which a page named the frame */
    uint64_t slot_seen[DISK_SLOTS_MAX]; /* round in which somebody owned the slot */
    const char *broken;
};

struct invariants *invariants_new(struct world *w)
{
    struct invariants *v = calloc(1, sizeof(*v));

    check_always(v != NULL);
    v->w = w;
    return v;
}

void invariants_free(struct invariants *v)
{
    free(v);
}

static void require(struct invariants *v, bool condition, const char *what)
{
    if (!condition && v->broken == NULL)
        v->broken = what;
}

static bool is_free(const struct sync_mutex *lock)
{
    return atomic_load(&lock->word) == 0;
}

static void check_slot(struct invariants *v, uint32_t slot)
{
    struct machine *m = v->w->machine;

    require(v, slot > 0 && slot < DISK_SLOTS_MAX, "a slot that cannot be");
    if (v->broken != NULL)
        return;
    require(v, bitmap_test(&m->pagefile.slots, slot), "a slot is owned but not taken");
    require(v, v->slot_seen[slot] != v->round, "a slot has two owners");
    v->slot_seen[slot] = v->round;
}

/* Content that lies outside of its address must be what the oracle says. */
static void check_content(struct invariants *v, uintptr_t va, const void *content)
{
    const struct world_page *page = world_page(v->w, va);

    if (!page->live || page->unknown || page->dropping > 0 || page->user != 0)
        return;
    if (memcmp(content, page->content, PAGE_SIZE) == 0)
        return;
    require(v, page->maybe_zero, "a page's content is not what it must be");
}

static void check_frame(struct invariants *v, pte_t *pte, uintptr_t va, uint64_t word,
                        bool thorough)
{
    struct machine *m = v->w->machine;
    const struct frame *frame;
    bool valid = (word & PTE_VALID) != 0;

    require(v, pte_number(word) < m->frame_count, "a page names a frame that cannot be");
    if (v->broken != NULL)
        return;
    require(v, v->frame_seen[pte_number(word)] != v->round, "a frame has two pages");
    v->frame_seen[pte_number(word)] = v->round;
    frame = &m->frames[pte_number(word)];
    if (!is_free(&frame->lock))
        return;
    require(v, frame->pte == pte && frame->va == va, "a page names a frame that is another's");
    require(v, valid == (frame->state == FRAME_ACTIVE), "a page and its frame disagree");
    require(v,
            valid || frame->state == FRAME_STANDBY || frame->state == FRAME_MODIFIED ||
                frame->state == FRAME_WRITING,
            "a trimmed page's frame is in no state for it");
    require(v, valid == (atomic_load(&frame->list) == LIST_NONE) || frame->state == FRAME_WRITING,
            "a frame is on a list that it should not be on, or on none");
    if (valid)
        require(v, ((word & PTE_PINNED) != 0) == (atomic_load(&frame->pins) > 0),
                "a page is pinned, and its frame is not, or the other way round");
    if (frame->slot != 0 && frame->state != FRAME_WRITING)
        check_slot(v, frame->slot);
    if (frame->state == FRAME_STANDBY || (word & PTE_PROTECTED))
        require(v, frame->slot != 0, "a page that is unchanged has no slot");
    if ((word & PTE_PROTECTED) && thorough && v->broken == NULL &&
        !disk_harmed(v->w->disk, frame->slot))
        check_content(v, va, disk_content(v->w->disk, frame->slot));
    if (!valid && thorough && v->broken == NULL)
        check_content(v, va, mapper_buffer(m->mapper, frame->buffer));
}

static void check_place(struct invariants *v, uintptr_t va, uint64_t word)
{
    struct mmu *mmu = mmu_of(v->w->machine);
    const struct mmu_page *page = mmu_page(mmu, va);

    if (mmu->kind == MAPPER_SOFT)
        return;
    require(v, ((word & PTE_VALID) != 0) == (page->memory != NULL),
            "a page is valid and not there, or there and not valid");
    require(v, !page->failed || (word & PTE_BAD), "SIGBUS is due where no page is bad");
    require(v, !(word & PTE_PROTECTED) || page->read_only,
            "a page is marked unchanged, and can be written");
}

static void check_page(struct invariants *v, pte_t *pte, uintptr_t va, bool thorough)
{
    uint64_t word = pte_load(pte);

    if (word & PTE_BUSY)
        return;
    require(v, !(word & PTE_WANTED), "somebody wants a page that nobody is busy with");
    check_place(v, va, word);
    if (word & (PTE_VALID | PTE_TRANSITION))
        check_frame(v, pte, va, word, thorough);
    if (!(word & PTE_PAGEFILE))
        return;
    check_slot(v, pte_number(word));
    if (thorough && v->broken == NULL && !disk_harmed(v->w->disk, pte_number(word)))
        check_content(v, va, disk_content(v->w->disk, pte_number(word)));
}

/* All pages of a large section are valid, or somebody is busy with them. */
static void check_large(struct invariants *v, const struct region *region)
{
    const struct pagetable *table = region->table;

    for (size_t i = 0; i < table->pages; i++) {
        if (!atomic_load(&table->sections[i / SECTION_PAGES].large))
            i += SECTION_PAGES - 1;
        else
            require(v, pte_load(&table->ptes[i]) & (PTE_VALID | PTE_BUSY),
                    "a page of a large section is not valid");
    }
}

/* As many pages as are PROTECTED are counted, at least. */
static void check_guarded(struct invariants *v, const struct region *region)
{
    const struct pagetable *table = region->table;
    int32_t guarded = 0;

    for (size_t i = 0; i < table->pages; i++) {
        uint64_t word = pte_load(&table->ptes[i]);

        if (i % SECTION_PAGES == 0)
            guarded = 0;
        guarded += (word & (PTE_PROTECTED | PTE_BUSY)) == PTE_PROTECTED;
        require(v, guarded <= atomic_load(&table->sections[i / SECTION_PAGES].guarded),
                "more pages are marked unchanged than are counted");
    }
}

static void check_lists(struct invariants *v)
{
    struct machine *m = v->w->machine;

    for (unsigned id = 0; id < LIST_COUNT; id++) {
        const struct framelist *list = &m->lists[id];
        uint32_t n = list->sentinel, count = 0;

        if (atomic_load(&list->lock.word) != 0)
            continue;
        do {
            uint32_t next = atomic_load(&m->frames[n].next);

            require(v, atomic_load(&m->frames[next].prev) == n, "a list's links do not match");
            require(v, atomic_load(&m->frames[n].list) == id, "a frame is on another's list");
            n = next;
        } while (n != list->sentinel && ++count <= m->frame_count && v->broken == NULL);
        require(v, count == atomic_load(&list->count), "a list is not as long as it says");
    }
}

/* Who has unmapped a region wakes its sleepers. */
static void check_sleepers(struct invariants *v)
{
    struct machine *m = v->w->machine;
    struct mmu *mmu = mmu_of(m);

    for (unsigned i = 0; i < mmu->sleeper_count; i++) {
        const struct mmu_sleeper *sleeper = &mmu->sleepers[i];

        for (unsigned r = 0; r < m->region_count; r++) {
            const struct region *region = m->regions[r];

            if (sleeper->va < region->start || sleeper->va >= region->end)
                continue;
            require(v,
                    !mmu_sleeper_lost(mmu, sleeper,
                                      pte_load(pagetable_pte(region->table, sleeper->va))),
                    "a thread sleeps in a fault, and nobody will wake it");
        }
    }
}

const char *invariants_check_budget(struct invariants *v)
{
    struct machine *m = v->w->machine;
    const struct mmu *mmu = mmu_of(m);
    int64_t rights = (int64_t)m->active_max + lent_frames(m);

    v->broken = NULL;
    if (m->mapper->has_cache && m->frames != NULL)
        require(v, (int64_t)mmu->present + mmu->held + atomic_load(&m->available) <= rights,
                "a right is given back before the memory that it stands for");
    return v->broken;
}

const char *invariants_check(struct invariants *v, bool thorough)
{
    struct machine *m = v->w->machine;

    v->round++;
    v->broken = NULL;
    if (m->frames == NULL || atomic_load(&m->regions_lock.word) & SYNC_RW_WRITER)
        return NULL;
    for (unsigned r = 0; r < m->region_count; r++) {
        const struct region *region = m->regions[r];

        for (uintptr_t va = region->start; va < region->end; va += PAGE_SIZE)
            check_page(v, pagetable_pte(region->table, va), va, thorough);
        check_large(v, region);
        if (thorough)
            check_guarded(v, region);
    }
    check_sleepers(v);
    if (thorough)
        check_lists(v);
    return v->broken;
}
