#include "core/pagefile.h"

#include <errno.h>

#include "core/check.h"
#include "core/error.h"
#include "core/machine.h"

#define GROW_STEP UINT64_C(16384) /* slots: 64 MiB */

static uint64_t round_up(uint64_t value, uint64_t step)
{
    return (value + step - 1) / step * step;
}

/* Tables for capacity slots. 0 or -ENOMEM, and then nothing is left. */
static int tables_init(struct machine *m, uint64_t capacity, uint64_t limit)
{
    struct pagefile *pf = &m->pagefile;
    int error = bitmap_init(&pf->slots, m->platform, &m->sync, capacity, limit);

    if (error != 0)
        return error;
    pf->hash_capacity = capacity;
    pf->hashes = m->platform->reserve(capacity * sizeof(*pf->hashes));
    if (pf->hashes != NULL)
        return 0;
    bitmap_fini(&pf->slots);
    return -ENOMEM;
}

int pagefile_init(struct machine *m, struct store *store)
{
    struct pagefile *pf = &m->pagefile;
    uint64_t fixed = m->tunables.pagefile_size / PAGE_SIZE;
    uint64_t capacity, limit;
    int error;

    pf->store = store;
    if (!store->can_grow)
        fixed = store->slots;
    pf->size_fixed = fixed;
    /* The tables are address space only until they are used. */
    capacity = fixed > 0 ? fixed : PAGEFILE_SLOTS_MAX;
    if (capacity > PAGEFILE_SLOTS_MAX)
        capacity = PAGEFILE_SLOTS_MAX;
    limit = store->slots < capacity ? store->slots : capacity;
    if (limit == 0)
        limit = 1;
    error = tables_init(m, capacity, limit);
    /* Little address space (ulimit -v, Valgrind): a pagefile that grows may be promised less. */
    while (error != 0 && fixed == 0 && capacity / 16 >= GROW_STEP && capacity / 16 >= limit) {
        capacity /= 16;
        error = tables_init(m, capacity, limit);
    }
    if (error != 0)
        return error_set(error, "no address space for the tables of the pagefile");
    check_always(bitmap_take_bit(&pf->slots, 0));
    pf->commit_slots = limit - 1;
    return 0;
}

void pagefile_fini(struct machine *m)
{
    struct pagefile *pf = &m->pagefile;

    bitmap_fini(&pf->slots);
    if (pf->hashes != NULL)
        m->platform->release(pf->hashes, pf->hash_capacity * sizeof(*pf->hashes));
    pf->hashes = NULL;
}

uint64_t pagefile_bytes(const struct machine *m)
{
    const struct pagefile *pf = &m->pagefile;
    uint64_t slots = atomic_load(&pf->slots.limit);

    return bitmap_resident(&pf->slots) + table_bytes(m, pf->hashes, slots * sizeof(*pf->hashes));
}

/* Frames that may be counted on for commit: a quarter stays out, so that pages can always move. */
static uint64_t frames_for_commit(const struct machine *m)
{
    return m->frame_count - m->frame_count / 4;
}

static uint64_t limit_with(const struct machine *m, uint64_t slots)
{
    uint64_t bad = atomic_load(&m->pagefile.bad);

    return frames_for_commit(m) + (slots > bad ? slots - bad : 0);
}

uint64_t pagefile_commit_limit(const struct machine *m)
{
    return limit_with(m, m->pagefile.commit_slots);
}

/* Grow the store to `slots` usable ones. commit_lock held. */
static int grow_to(struct machine *m, uint64_t slots)
{
    struct pagefile *pf = &m->pagefile;
    int error;

    SYNC_ASSERT_HELD(SYNC_COMMIT);
    if (slots + 1 > pf->slots.capacity)
        return error_set(-ENOMEM, "the pagefile cannot have more than %llu slots",
                         (unsigned long long)pf->slots.capacity);
    error = pf->store->ops->grow(pf->store, slots + 1);
    if (error != 0)
        return error;
    bitmap_grow(&pf->slots, slots + 1);
    pf->commit_slots = slots;
    return 0;
}

/*
 * Make the limit at least `pages`. A log needs free space to be written in long runs, so half as
 * much again is asked for first; what is strictly needed is enough.
 */
static int grow_for(struct machine *m, uint64_t pages)
{
    struct pagefile *pf = &m->pagefile;
    uint64_t bad = atomic_load(&pf->bad);
    uint64_t generous = round_up(pages + pages / 2 + bad, GROW_STEP);
    uint64_t least = round_up(pages + bad - frames_for_commit(m), GROW_STEP / 16);

    if (generous <= pf->commit_slots)
        return 0;
    if (generous + 1 <= pf->slots.capacity && grow_to(m, generous) == 0)
        return 0;
    return limit_with(m, pf->commit_slots) >= pages ? 0 : grow_to(m, least);
}

int pagefile_commit(struct machine *m, uint64_t pages)
{
    struct pagefile *pf = &m->pagefile;
    uint64_t wanted, limit;
    int error = 0;

    sync_mutex_lock(&m->sync, &pf->commit_lock, SYNC_COMMIT);
    wanted = pf->commit + pages;
    /* Even what fits in frames alone is given slots, as long as the disk has room. */
    if (pf->size_fixed == 0 && pf->store->can_grow && wanted > pf->commit_slots)
        error = grow_for(m, wanted);
    limit = limit_with(m, pf->commit_slots);
    if (error == 0 && wanted > limit)
        error = error_set(
            -ENOMEM,
            "a commit of %llu MiB more would make %llu MiB, but there is room for %llu MiB only: "
            "%llu MiB in frames (a quarter of the %u is kept free, so that pages can move) and "
            "%llu "
            "MiB in slots of pagefile %s; give more memory, or a larger pagefile_size",
            (unsigned long long)(pages >> 8), (unsigned long long)(wanted >> 8),
            (unsigned long long)(limit >> 8), (unsigned long long)(frames_for_commit(m) >> 8),
            m->frame_count, (unsigned long long)((limit - frames_for_commit(m)) >> 8),
            pf->store->where);
    if (error == 0)
        pf->commit = wanted;
    sync_mutex_unlock(&m->sync, &pf->commit_lock, SYNC_COMMIT);
    return error;
}

void pagefile_uncommit(struct machine *m, uint64_t pages)
{
    struct pagefile *pf = &m->pagefile;

    sync_mutex_lock(&m->sync, &pf->commit_lock, SYNC_COMMIT);
    check_always(pf->commit >= pages);
    pf->commit -= pages;
    sync_mutex_unlock(&m->sync, &pf->commit_lock, SYNC_COMMIT);
}

bool pagefile_has_plenty(const struct machine *m)
{
    const struct bitmap *slots = &m->pagefile.slots;
    uint64_t used = atomic_load_explicit(&slots->used, memory_order_relaxed);

    return m->tunables.preserve && used + m->writer.batch_pages <=
                                       atomic_load_explicit(&slots->limit, memory_order_relaxed);
}

unsigned pagefile_take(struct machine *m, unsigned want, bool together, uint32_t *first)
{
    struct pagefile *pf = &m->pagefile;
    bool coarse = !m->tunables.fine_locks;
    uint64_t bit = 0;
    unsigned got = 0;

    if (coarse)
        sync_mutex_lock(&m->sync, &pf->lock, SYNC_PAGEFILE);
    if (together)
        got =
            bitmap_take_near(&pf->slots, pf->disk_full ? pf->written_end : UINT64_MAX, want, &bit);
    if (got == 0 && pf->disk_full)
        got = bitmap_take_log(&pf->slots, pf->written_end, want, &bit);
    if (got == 0)
        got = bitmap_take_log(&pf->slots, UINT64_MAX, want, &bit);
    if (coarse)
        sync_mutex_unlock(&m->sync, &pf->lock, SYNC_PAGEFILE);
    *first = (uint32_t)bit;
    return got;
}

bool pagefile_take_slot(struct machine *m, uint32_t slot)
{
    struct pagefile *pf = &m->pagefile;
    bool coarse = !m->tunables.fine_locks, taken;

    if (coarse)
        sync_mutex_lock(&m->sync, &pf->lock, SYNC_PAGEFILE);
    taken = bitmap_take_bit(&pf->slots, slot);
    if (coarse)
        sync_mutex_unlock(&m->sync, &pf->lock, SYNC_PAGEFILE);
    return taken;
}

void pagefile_release(struct machine *m, uint32_t slot)
{
    struct pagefile *pf = &m->pagefile;
    bool coarse = !m->tunables.fine_locks;

    check_always(slot != 0);
    if (coarse)
        sync_mutex_lock(&m->sync, &pf->lock, SYNC_PAGEFILE);
    bitmap_release(&pf->slots, slot, 1);
    if (coarse)
        sync_mutex_unlock(&m->sync, &pf->lock, SYNC_PAGEFILE);
    count(m, COUNTER_slots_released, 1);
}

void pagefile_note_written(struct machine *m, uint64_t first, unsigned count)
{
    struct pagefile *pf = &m->pagefile;

    if (first + count <= pf->written_end)
        return;
    pf->written_end = first + count;
    pf->disk_full = false;
}

void pagefile_note_full(struct machine *m)
{
    m->pagefile.disk_full = true;
}

void pagefile_mark_bad(struct machine *m, uint32_t slot)
{
    check_always(bitmap_test(&m->pagefile.slots, slot));
    m->pagefile.hashes[slot] = (struct page_hash){0};
    atomic_fetch_add(&m->pagefile.bad, 1);
}

bool pagefile_is_bad(const struct machine *m, uint64_t slot)
{
    return hash_equal(m->pagefile.hashes[slot], (struct page_hash){0});
}

unsigned pagefile_reclaim(struct machine *m, unsigned want)
{
    unsigned got = 0;

    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    /* From where the last search ended: what is before that has been looked at longest ago. */
    for (uint32_t looked = 0; looked < m->frame_count && got < want; looked++) {
        uint32_t n = m->pagefile.reclaim_at;
        struct frame *frame = &m->frames[n];
        const struct region *region = NULL;
        pte_t *pte = NULL;
        uint64_t word;
        uint32_t slot;

        m->pagefile.reclaim_at = n + 1 < m->frame_count ? n + 1 : 0;
        /* The lock keeps pte from changing, and with it the page table alive. */
        sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
        if (frame->state == FRAME_ACTIVE) {
            pte = frame->pte;
            region = region_find(m, frame->va);
        }
        word = pte != NULL ? pte_load(pte) : 0;
        if (region == NULL || (word & PTE_BUSY) || !(word & PTE_VALID) || pte_number(word) != n ||
            !pte_try_busy(&m->sync, pte, word))
            pte = NULL;
        sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
        if (pte == NULL)
            continue;
        slot = frame->slot;
        frame->slot = 0;
        /* Without a slot it cannot be known unchanged; its next write lifts the protection. */
        if (word & PTE_PROTECTED)
            protect_end(m, region->table, frame->va, 1);
        pte_release(m, pte, frame->va, word & ~PTE_PROTECTED);
        if (slot == 0)
            continue;
        pagefile_release(m, slot);
        got++;
    }
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    count(m, COUNTER_slots_reclaimed, got);
    return got;
}
