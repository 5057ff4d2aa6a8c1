/*
 * The trimmer: takes pages from under their addresses, oldest first, a section at a time.
 *
 * A trim of a section:
 *   1. trim_collect  room in the cache is reserved, then BUSY is set on each victim
 *   2. protect       with a cache: writes to the victims' range trap from here on, reads still hit
 *   3. take          the victims' content comes into their buffers; without a cache they are
 *                    unmapped by this
 *   4. trim_judge    zero, clean or modified? A victim that somebody has asked for meanwhile is let
 *                    off. place_victims: where they are written, so that runs stay together
 *   5. trim_drop     with a cache: victims are unmapped and their memory is given back
 *   6. trim_publish  frames go to their lists; trim_lift: protection ends; trim_release: the PTEs
 *                    are released, and who waits is woken
 *
 * Before steps 3, 4 and 5, the long ones, other threads may go first (worker_pause()), although the
 * victims are BUSY meanwhile: most faults are on others.
 *
 * A page that is PROTECTED (protect.c) and needs no second chance leaves at once: steps 1, 5 and 6
 * alone, with others like it, before those of its section that go the long way. Its frame is free
 * then, and its PTE names its slot. It needs no room in the cache: where there is none, because all
 * of it waits to be written, these pages alone are trimmed. That there are any is known by
 * machine.guarded: it is not 0 while a section has PROTECTED pages.
 *
 * Protection catches pages of the range that are no victims; lift() frees them again after the
 * drop, unless pages of the section are PROTECTED: then their next write does. A section's
 * `trimming` mark makes sure that no other trim relies on protection in the same section at that
 * time; a fault's own lift is for one page that is BUSY by it, so never a victim.
 */
#include <errno.h>
#include <string.h>

#include "core/error.h"
#include "core/trim_internal.h"

#define LARGE_WORTH 384u /* victims for whose sake a large section is trimmed as a whole */

int trim_init(struct machine *m)
{
    m->trimmer.victims = m->platform->reserve(sizeof(struct trim_victims));
    return m->trimmer.victims != NULL ? 0 : error_set(-ENOMEM, "no memory for the trimmer");
}

void trim_fini(struct machine *m)
{
    if (m->trimmer.victims != NULL)
        m->platform->release(m->trimmer.victims, sizeof(struct trim_victims));
    m->trimmer.victims = NULL;
}

uint64_t trim_bytes(const struct machine *m)
{
    return table_bytes(m, m->trimmer.victims, sizeof(struct trim_victims));
}

static bool is_victim(uint64_t word, unsigned min_age)
{
    return (word & (PTE_VALID | PTE_BUSY | PTE_PINNED)) == PTE_VALID && pte_age(word) >= min_age;
}

/* Pages [low, high) of a table that are in the section and the region. */
struct span {
    struct pagetable *table;
    struct section *section;
    size_t low, high;
};

/* Has the span at least `worth` victims? */
static bool has_victims(const struct span *span, unsigned min_age, unsigned worth)
{
    int32_t valid = atomic_load_explicit(&span->section->valid, memory_order_relaxed);
    unsigned victims = 0;

    if (valid < (int32_t)worth)
        return false;
    for (size_t i = pagetable_next_page(span->table, span->low, span->high);
         i < span->high && victims < worth; i = pagetable_next_page(span->table, i + 1, span->high))
        victims += is_victim(pte_load(&span->table->ptes[i]), min_age);
    return victims >= worth;
}

/*
 * May the page leave at once? It is PROTECTED, so its slot has its content; and nothing says that
 * it will be wanted soon, so that it needs no second chance on standby.
 */
static bool leaves_at_once(uint64_t word)
{
    return (word & PTE_PROTECTED) && (pte_level(word) == 0 || (word & PTE_READAHEAD));
}

static void trim_collect(struct machine *m, const struct span *span, unsigned min_age,
                         unsigned room, bool at_once, struct trim_victims *v)
{
    unsigned others = 0;

    v->count = v->bystanders = 0;
    for (size_t i = pagetable_next_page(span->table, span->low, span->high);
         i < span->high && v->count < room;
         i = pagetable_next_page(span->table, i + 1, span->high)) {
        pte_t *pte = &span->table->ptes[i];
        uint64_t word = pte_load(pte);

        if (!is_victim(word, min_age) || (at_once && !leaves_at_once(word)) ||
            !pte_try_busy(&m->sync, pte, word)) {
            others += v->count > 0 && (word & PTE_VALID);
            continue;
        }
        v->bystanders += others;
        others = 0;
        v->pte[v->count] = pte;
        v->word[v->count] = word;
        v->va[v->count] = span->table->base + i * PAGE_SIZE;
        v->frames[v->count] = pte_number(word);
        v->count++;
    }
}

/* The victims are to leave alone. While one page is BUSY by us the section does not become large;
 * if it is and cannot be split now, there are no victims. */
static void split_for(struct machine *m, const struct span *span, struct trim_victims *v)
{
    if (v->count == 0 || large_split(m, span->table, span->low / SECTION_PAGES))
        return;
    for (unsigned i = 0; i < v->count; i++)
        pte_release(m, v->pte[i], v->va[i], v->word[i]);
    v->count = 0;
}

/* What becomes of victim i, now that its content is in its buffer? */
static enum verdict trim_judge(struct machine *m, struct trim_victims *v, unsigned i)
{
    struct frame *frame = &m->frames[v->frames[i]];
    const void *content = mapper_buffer(m->mapper, v->buffers[i]);
    bool changed = true;

    if (v->status[i] != 0 || (pte_load(v->pte[i]) & PTE_WANTED))
        return TRIM_UNDO;
    /* A PROTECTED page of zeroes is one that the program has dropped unseen (mapper.h, restore()):
     * slots have none. */
    if (page_is_zero(content))
        return TRIM_ZERO;
    if (v->word[i] & PTE_PROTECTED)
        return TRIM_CLEAN;
    frame->hash = hash_page(&m->key, content);
    if (frame->slot != 0)
        changed = !hash_equal(frame->hash, m->pagefile.hashes[frame->slot]);
    return changed ? TRIM_MODIFIED : TRIM_CLEAN;
}

/* Select the victims of a verdict into v->some. */
static unsigned select_verdict(struct trim_victims *v, enum verdict verdict)
{
    unsigned n = 0;

    for (unsigned i = 0; i < v->count; i++) {
        if (v->verdict[i] == verdict)
            v->some[n++] = v->frames[i];
    }
    return n;
}

/* Some pages that should have been dropped (v->status has them in order) are still under their
 * addresses: they stay there. */
static void let_off(struct machine *m, struct trim_victims *v, int error)
{
    unsigned n = 0, left = 0;

    for (unsigned i = 0; i < v->count; i++) {
        if (v->verdict[i] == TRIM_UNDO || v->status[n++] == 0)
            continue;
        v->verdict[i] = TRIM_UNDO;
        left++;
    }
    if (m->trimmer.refused)
        return;
    m->trimmer.refused = true;
    log_line(LOG_WARNING,
             "the kernel does not take %u of %u pages from memory (%s): they stay, and the budget "
             "is short of them. Has the program locked them (mlock() before Linux 5.18)?",
             left, n, strerror(-error));
}

static void drop_victims(struct machine *m, struct trim_victims *v)
{
    unsigned n = 0;
    int error;

    for (unsigned i = 0; i < v->count; i++) {
        if (v->verdict[i] == TRIM_UNDO)
            continue;
        v->some_va[n] = v->va[i];
        v->some[n++] = v->frames[i];
    }
    if (n == 0)
        return;
    count(m, COUNTER_tlb_flushes, 1);
    error = m->mapper->ops->drop(m->mapper, n, v->some_va, v->some, v->status);
    if (error != 0)
        let_off(m, v, error);
}

/* Step 5, and for mappers that unmap in take(): put back what is let off. */
static void trim_drop(struct machine *m, struct trim_victims *v)
{
    if (!m->mapper->has_cache) {
        for (unsigned i = 0; i < v->count; i++) {
            void *content = mapper_buffer(m->mapper, v->buffers[i]);
            unsigned done = 0;

            if (v->verdict[i] != TRIM_UNDO || v->status[i] != 0)
                continue;
            m->mapper->ops->map(m->mapper, v->va[i], 1, &v->frames[i], &content, 0, &done);
            if (done == 0) { /* it could not go back: then it is trimmed after all */
                m->frames[v->frames[i]].hash = hash_page(&m->key, content);
                v->verdict[i] = TRIM_MODIFIED;
            }
        }
        return;
    }
    drop_victims(m, v);
}

static uint8_t standby_priority(uint64_t word)
{
    unsigned level = pte_level(word);

    if ((word & PTE_READAHEAD) || (level == 0 && pte_age(word) == PTE_AGE_MAX))
        return 0;
    return level < STANDBY_PRIORITIES - 1 ? (uint8_t)(level + 1) : STANDBY_PRIORITIES - 1;
}

/* Frames of a clean or modified verdict lose their address: slot and priority are set here. */
static void detach(struct machine *m, struct trim_victims *v)
{
    for (unsigned i = 0; i < v->count; i++) {
        struct frame *frame = &m->frames[v->frames[i]];

        if (v->verdict[i] == TRIM_UNDO) {
            if (m->mapper->has_cache)
                buffer_give(m, frame);
            continue;
        }
        frame->priority = standby_priority(v->word[i]);
        if (v->verdict[i] == TRIM_CLEAN)
            continue;
        if (frame->slot != 0)
            slot_release(m, frame->slot);
        frame->slot = 0;
        frame->home = v->slots[i];
        if (v->verdict[i] == TRIM_ZERO)
            buffer_give(m, frame);
    }
}

static void push_clean(struct machine *m, struct trim_victims *v)
{
    for (unsigned priority = 0; priority < STANDBY_PRIORITIES; priority++) {
        unsigned n = 0;

        for (unsigned i = 0; i < v->count; i++) {
            if (v->verdict[i] == TRIM_CLEAN && m->frames[v->frames[i]].priority == priority)
                v->some[n++] = v->frames[i];
        }
        framelist_push(m, LIST_STANDBY + priority, FRAME_STANDBY, n, v->some);
    }
}

static void trim_release(struct machine *m, struct trim_victims *v)
{
    for (unsigned i = 0; i < v->count; i++) {
        uint64_t word = pte_make(PTE_TRANSITION, v->frames[i]) | age_trimmed(m, v->word[i]);

        if (v->verdict[i] == TRIM_ZERO)
            word = 0;
        else if (v->verdict[i] == TRIM_DROP)
            word = pte_make(PTE_PAGEFILE, v->slots[i]) | age_trimmed(m, v->word[i]);
        else if (v->verdict[i] == TRIM_UNDO)
            word = (v->word[i] & ~(PTE_AGE | PTE_READAHEAD)) | PTE_ACCESSED;
        pte_release(m, v->pte[i], v->va[i], word);
    }
}

static void count_trim(struct machine *m, struct trim_victims *v, unsigned gone, unsigned zero,
                       unsigned clean)
{
    unsigned waste = 0;

    for (unsigned i = 0; i < v->count; i++) {
        unsigned age = pte_age(v->word[i]);
        uint32_t left = atomic_load_explicit(&m->trimmer.ages[age], memory_order_relaxed);

        if (v->verdict[i] == TRIM_UNDO)
            continue;
        waste += (v->word[i] & PTE_READAHEAD) && v->verdict[i] != TRIM_ZERO;
        if (left > 0)
            atomic_store_explicit(&m->trimmer.ages[age], left - 1, memory_order_relaxed);
    }
    count(m, COUNTER_readahead_waste, waste);
    count(m, COUNTER_pages_trimmed, gone);
    count(m, COUNTER_pages_trimmed_zero, zero);
    count(m, COUNTER_pages_trimmed_clean, clean);
    count(m, COUNTER_pages_trim_undone, v->count - gone);
    count(m, COUNTER_trim_batches, 1);
    batch_stats_add(&m->counters->trims, gone);
}

/* The section counts the victims no more that have left. */
static void trim_leave(struct machine *m, const struct span *span, struct trim_victims *v)
{
    int32_t valid = 0;
    unsigned guarded = 0;

    for (unsigned i = 0; i < v->count; i++) {
        if (v->verdict[i] == TRIM_UNDO)
            continue;
        valid++;
        guarded += (v->word[i] & PTE_PROTECTED) != 0;
    }
    atomic_fetch_sub_explicit(&span->section->valid, valid, memory_order_relaxed);
    protect_left(m, span->section, guarded);
}

/*
 * What is let off is known unchanged no more: it may be a page that the program has dropped unseen,
 * and reads as zeroes now. (If it is wanted, it is mostly to be written.)
 */
static void trim_unguard(struct machine *m, const struct span *span, struct trim_victims *v)
{
    unsigned guarded = 0;

    for (unsigned i = 0; i < v->count; i++) {
        struct frame *frame = &m->frames[v->frames[i]];

        if (v->verdict[i] != TRIM_UNDO || !(v->word[i] & PTE_PROTECTED))
            continue;
        if (m->tunables.dirty == DIRTY_PROTECT) {
            slot_release(m, frame->slot);
            frame->slot = 0;
        }
        v->word[i] &= ~PTE_PROTECTED;
        guarded++;
    }
    protect_left(m, span->section, guarded);
}

/* Step 6. Returns how many pages left their address. */
static unsigned trim_publish(struct machine *m, const struct span *span, struct trim_victims *v)
{
    unsigned zero, clean = 0, modified, undone = 0;

    detach(m, v);
    for (unsigned i = 0; i < v->count; i++) {
        clean += v->verdict[i] == TRIM_CLEAN;
        undone += v->verdict[i] == TRIM_UNDO;
    }
    push_clean(m, v);
    modified = select_verdict(v, TRIM_MODIFIED);
    framelist_push(m, LIST_MODIFIED, FRAME_MODIFIED, modified, v->some);
    zero = select_verdict(v, TRIM_ZERO);
    frame_free(m, zero, v->some, true);
    if (zero > 0) {
        atomic_fetch_sub(&m->touched, zero);
        if (span->table->overcommit)
            pagefile_uncommit(m, zero);
    }
    frame_deactivated(m, clean + modified);
    trim_leave(m, span, v);
    trim_unguard(m, span, v);
    count_trim(m, v, v->count - undone, zero, clean);
    return v->count - undone;
}

/* Those let off may be written again, and bystanders, unless one of them may have to notice its
 * first write. */
static void trim_lift(struct machine *m, const struct span *span, struct trim_victims *v,
                      unsigned undone)
{
    uintptr_t first = v->va[0], last = v->va[v->count - 1];

    if (!m->mapper->has_cache || (v->bystanders == 0 && undone == 0))
        return;
    if (protect_none(m, span->section)) {
        m->mapper->ops->lift(m->mapper, first, last + PAGE_SIZE - first);
        return;
    }
    for (unsigned i = 0; i < v->count; i++) {
        if (v->verdict[i] == TRIM_UNDO)
            m->mapper->ops->lift(m->mapper, v->va[i], PAGE_SIZE);
    }
}

/* Of victims that have slots: which were changed since they were read? */
static void trim_learn(struct machine *m, const struct span *span, const struct trim_victims *v)
{
    unsigned clean = 0, changed = 0;

    for (unsigned i = 0; i < v->count; i++) {
        if (m->frames[v->frames[i]].slot == 0)
            continue;
        clean += v->verdict[i] == TRIM_CLEAN;
        changed += v->verdict[i] == TRIM_MODIFIED;
    }
    protect_trimmed(m, span->section, clean, changed);
}

/*
 * Trim up to limit victims that may leave at once (leaves_at_once()): no room in the cache, no
 * protecting, no copy, no hash. While a page is PROTECTED nobody can write it, and who would lift
 * that must own the page. As trim_span().
 */
static unsigned trim_at_once(struct machine *m, const struct span *span, unsigned min_age,
                             unsigned limit)
{
    struct trim_victims *v = m->trimmer.victims;
    unsigned gone;

    if (atomic_load(&span->section->guarded) == 0)
        return 0;
    trim_collect(m, span, min_age, limit, true, v);
    split_for(m, span, v);
    for (unsigned i = 0; i < v->count; i++) {
        v->slots[i] = m->frames[v->frames[i]].slot;
        check_always(v->slots[i] != 0);
    }
    spare_pieces(m, v);
    if (v->count == 0)
        return 0;
    sync_yield(&m->sync, SYNC_AT_STEP);
    /* Who wants to write a page has found it BUSY, left a mark and sleeps. */
    for (unsigned i = 0; i < v->count; i++)
        v->verdict[i] = pte_load(v->pte[i]) & PTE_WANTED ? TRIM_UNDO : TRIM_DROP;
    drop_victims(m, v);
    gone = select_verdict(v, TRIM_DROP);
    frame_free(m, gone, v->some, true);
    trim_leave(m, span, v);
    protect_trimmed(m, span->section, gone, 0);
    count_trim(m, v, gone, 0, gone);
    count(m, COUNTER_pages_trimmed_at_once, gone);
    trim_release(m, v);
    return gone;
}

static bool has_pinned(const struct span *span, uintptr_t from, uintptr_t to)
{
    for (uintptr_t va = from; va < to; va += PAGE_SIZE) {
        if (pte_load(pagetable_pte(span->table, va)) & PTE_PINNED)
            return true;
    }
    return false;
}

/*
 * Protect the range of the victims, but no pinned page where system calls are not served: one that
 * writes to it would fail. Who pins a page from now on waits for the `trimming` mark to go
 * (pin_settle()).
 */
static int trim_protect(struct machine *m, const struct span *span, const struct trim_victims *v)
{
    int error = 0;

    for (unsigned first = 0, next; first < v->count && error == 0; first = next) {
        uintptr_t end;

        next = m->user_only ? first + 1 : v->count;
        while (next < v->count && !has_pinned(span, v->va[next - 1] + PAGE_SIZE, v->va[next]))
            next++;
        end = v->va[next - 1] + PAGE_SIZE;
        error = m->mapper->ops->protect(m->mapper, v->va[first], end - v->va[first]);
    }
    return error;
}

/*
 * Trim up to limit victims of a span, as far as the cache has room. Returns how many pages left
 * their address. regions_lock held shared; the section's trimming mark is ours.
 */
static unsigned trim_span(struct machine *m, const struct span *span, unsigned min_age,
                          unsigned limit)
{
    struct trim_victims *v = m->trimmer.victims;
    unsigned room = cache_reserve(m, limit), gone;
    int error;

    SYNC_ASSERT_HELD(SYNC_REGIONS);
    trim_collect(m, span, min_age, room, false, v);
    split_for(m, span, v);
    cache_unreserve(m, room - v->count);
    if (v->count == 0)
        return 0;
    buffer_take(m, v->count, v->frames, v->buffers);
    error = trim_protect(m, span, v);
    sync_yield(&m->sync, SYNC_AT_STEP);
    worker_pause(m);
    m->mapper->ops->take(m->mapper, v->count, v->va, v->buffers, v->status);
    for (unsigned i = 0; i < v->count && error != 0; i++)
        v->status[i] = error; /* not protected: a write now would be lost by the drop */
    sync_yield(&m->sync, SYNC_AT_STEP);
    worker_pause(m);
    for (unsigned i = 0; i < v->count; i++)
        v->verdict[i] = (uint8_t)trim_judge(m, v, i);
    trim_learn(m, span, v);
    place_victims(m, v);
    count(m, COUNTER_tlb_flushes, 1);
    worker_pause(m);
    trim_drop(m, v);
    gone = trim_publish(m, span, v);
    trim_lift(m, span, v, v->count - gone);
    trim_release(m, v);
    return gone;
}

static bool cache_has_room(struct machine *m)
{
    return !m->mapper->has_cache || atomic_load(&m->cache_room) > 0;
}

/* What becomes of a section that may be large? */
enum large_verdict { LARGE_STAYS, LARGE_GOES, LARGE_IS_SMALL };

/* All of a large section goes, if most of it is old enough, or else its pages leave one by one. It
 * stays where others are on their way, and if a stream has left only a part of it. */
static enum large_verdict trim_large(struct machine *m, const struct span *span, size_t n,
                                     unsigned min_age, bool passed)
{
    bool whole = span->high - span->low == SECTION_PAGES;

    if (!atomic_load(&span->section->large))
        return LARGE_IS_SMALL;
    if (large_trims_full(m) || (passed && !whole))
        return LARGE_STAYS;
    if (whole && has_victims(span, min_age, LARGE_WORTH) && large_trim(m, span->table, n))
        return LARGE_GOES;
    return LARGE_IS_SMALL;
}

static unsigned trim_small(struct machine *m, const struct span *span, size_t n, unsigned min_age,
                           unsigned limit)
{
    unsigned gone = trim_at_once(m, span, min_age, limit);

    if (gone == limit)
        return gone;
    protect_settle(m, span->table, n);
    return gone + trim_span(m, span, min_age, limit - gone);
}

/* Trim one section (the part of it in [from, to)) if it has at least `worth` victims. */
static unsigned trim_section(struct machine *m, const struct region *region, size_t n,
                             uintptr_t from, uintptr_t to, unsigned min_age, unsigned worth,
                             unsigned limit, bool passed)
{
    struct pagetable *table = region->table;
    struct span span = {.table = table, .section = &table->sections[n]};
    uint32_t idle = 0;
    enum large_verdict large;
    unsigned gone = 0;

    span.low = n * SECTION_PAGES;
    span.high = span.low + SECTION_PAGES;
    if (span.low < pagetable_index(table, from))
        span.low = pagetable_index(table, from);
    if (span.high > pagetable_index(table, to))
        span.high = pagetable_index(table, to);
    if (!cache_has_room(m) && atomic_load(&span.section->guarded) == 0 &&
        !atomic_load(&span.section->large))
        return 0;
    if (!has_victims(&span, min_age, worth))
        return 0;
    sync_yield(&m->sync, SYNC_AT_ATOMIC);
    if (!atomic_compare_exchange_strong(&span.section->trimming, &idle, 1))
        return 0;
    if (!m->tunables.fine_locks)
        sync_mutex_lock(&m->sync, &span.section->lock, SYNC_SECTION);
    large = trim_large(m, &span, n, min_age, passed);
    if (large == LARGE_GOES)
        gone = SECTION_PAGES;
    else if (large == LARGE_IS_SMALL)
        gone = trim_small(m, &span, n, min_age, limit);
    if (!m->tunables.fine_locks)
        sync_mutex_unlock(&m->sync, &span.section->lock, SYNC_SECTION);
    atomic_store(&span.section->trimming, 0);
    worker_pause(m);
    return gone;
}

/* ---- which pages ---- */

/* How old must victims be, so that there are at least `want` of them and a fair share to choose
 * from? */
static unsigned age_threshold(struct machine *m, unsigned want)
{
    uint32_t enough = want > m->active_max / 4 ? want : m->active_max / 4, sum = 0;

    for (unsigned age = PTE_AGE_MAX; age > 0; age--) {
        sum += atomic_load_explicit(&m->trimmer.ages[age], memory_order_relaxed);
        if (sum >= enough)
            return age;
    }
    return 0;
}

static unsigned section_limit(const struct machine *m, unsigned want)
{
    unsigned least = m->active_max / 8 > 0 ? m->active_max / 8 : 1;
    unsigned limit = want > least ? want : least;

    if (!m->tunables.batching)
        return 1;
    return limit < m->tunables.trim_batch ? limit : (unsigned)m->tunables.trim_batch;
}

/* Make room in the cache for another trim of some size, if need be by taking standby frames. May
 * the trimmer go on? If there is no room, only pages that leave at once can go: they need none. */
static bool may_go_on(struct machine *m)
{
    int64_t room = atomic_load(&m->cache_room), wanted = cache_size(m) / 2 + 1;

    if (!m->mapper->has_cache)
        return true;
    if (wanted > SECTION_PAGES)
        wanted = SECTION_PAGES;
    if (room < wanted)
        refill_standby(m, (unsigned)(wanted - room));
    return cache_has_room(m) || atomic_load(&m->guarded) > 0;
}

/* Ranges that readers have passed, and ranges that will not be used soon. */
static unsigned trim_offered(struct machine *m, unsigned want)
{
    struct trim_behind *ring = &m->trim_behind;
    unsigned gone = 0;

    while (gone < want && may_go_on(m) && !large_trims_full(m)) {
        const struct region *region;
        uintptr_t va = 0, end = 0;
        unsigned min_age = 0;

        sync_mutex_lock(&m->sync, &ring->lock, SYNC_HANDOVER);
        if (ring->head != ring->tail) {
            va = ring->ranges[ring->tail % TRIM_BEHIND_RING].va;
            end = va + ring->ranges[ring->tail % TRIM_BEHIND_RING].pages * PAGE_SIZE;
            min_age = ring->ranges[ring->tail % TRIM_BEHIND_RING].min_age;
            ring->tail++;
        }
        sync_mutex_unlock(&m->sync, &ring->lock, SYNC_HANDOVER);
        region = va != 0 ? region_find(m, va) : NULL;
        if (va == 0)
            break;
        if (region != NULL) {
            uintptr_t to = end < region->end ? end : region->end;
            size_t n = pagetable_index(region->table, va) / SECTION_PAGES;
            size_t last = pagetable_index(region->table, to - 1) / SECTION_PAGES;

            for (; pagetable_next_section(region->table, &n, last + 1); n++)
                gone += trim_section(m, region, n, va, to, min_age, 1, section_limit(m, want),
                                     min_age == 0);
        }
    }
    return gone;
}

/* One lap of the hand over all sections. */
static unsigned trim_lap(struct machine *m, unsigned want, unsigned min_age, unsigned worth)
{
    uintptr_t hand = m->trimmer.hand;
    unsigned gone = 0, start = 0;

    while (start < m->region_count && m->regions[start]->end <= hand)
        start++;
    /* The first region is visited twice: from the hand on, and at last up to the hand. */
    for (unsigned i = 0; i <= m->region_count && m->region_count > 0; i++) {
        const struct region *region = m->regions[(start + i) % m->region_count];
        const struct pagetable *table = region->table;
        size_t n = pagetable_index(table, region->start) / SECTION_PAGES;
        size_t end = (pagetable_index(table, region->end) + SECTION_PAGES - 1) / SECTION_PAGES;

        if (i == 0 && hand > region->start && hand < region->end)
            n = pagetable_index(table, hand) / SECTION_PAGES;
        while (pagetable_next_section(table, &n, end)) {
            gone += trim_section(m, region, n, region->start, region->end, min_age, worth,
                                 section_limit(m, want), false);
            n++;
            m->trimmer.hand = table->base + n * SECTION_PAGES * PAGE_SIZE;
            if (gone >= want || !may_go_on(m))
                return gone;
        }
    }
    return gone;
}

unsigned trim_pages(struct machine *m, unsigned want)
{
    unsigned gone;

    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    gone = trim_offered(m, want);
    for (unsigned age = age_threshold(m, want); gone < want && may_go_on(m); age--) {
        unsigned most = want < SECTION_PAGES ? want : SECTION_PAGES, before;

        do {
            before = gone;
            if (m->tunables.batching && atomic_load(&m->trimmer.dense) > 0)
                gone += trim_lap(m, want - gone, age, TRIM_WORTH);
            if (gone < want && may_go_on(m))
                gone += trim_lap(m, want - gone, age, 1);
            /* Where a visit takes only some of a section's victims, there are more as old. */
        } while (gone > before && gone < want && section_limit(m, want) < most);
        if (age == 0)
            break;
    }
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    return gone;
}

void trim_offer(struct machine *m, uintptr_t va, unsigned pages, unsigned min_age)
{
    struct trim_behind *ring = &m->trim_behind;

    if (!sync_mutex_trylock(&m->sync, &ring->lock, SYNC_HANDOVER))
        return;
    if (ring->head - ring->tail == TRIM_BEHIND_RING)
        ring->tail++; /* the oldest offer is the least useful */
    ring->ranges[ring->head % TRIM_BEHIND_RING].va = va;
    ring->ranges[ring->head % TRIM_BEHIND_RING].pages = pages;
    ring->ranges[ring->head % TRIM_BEHIND_RING].min_age = min_age;
    ring->head++;
    sync_mutex_unlock(&m->sync, &ring->lock, SYNC_HANDOVER);
}

void trim_behind_add(struct machine *m, uintptr_t va, unsigned pages)
{
    trim_offer(m, va, pages, 0);
    count(m, COUNTER_trim_behind, pages);
}
