#include "core/region.h"

#include <errno.h>
#include <string.h>

#include "core/check.h"
#include "core/error.h"
#include "core/machine.h"

#define REGION_PAGES_MAX (UINT64_C(1) << 34) /* 64 TiB */

/* ---- finding ---- */

/* Index of the first region that ends after va. */
static unsigned lower_bound(struct machine *m, uintptr_t va)
{
    unsigned low = 0, high = m->region_count;

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (m->regions[middle]->end > va)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

struct region *region_find(struct machine *m, uintptr_t va)
{
    unsigned at = lower_bound(m, va);

    SYNC_ASSERT_HELD(SYNC_REGIONS);
    return at < m->region_count && m->regions[at]->start <= va ? m->regions[at] : NULL;
}

bool region_covers(struct machine *m, uintptr_t start, size_t length)
{
    uintptr_t end = start + length;

    SYNC_ASSERT_HELD(SYNC_REGIONS);
    if (length == 0 || end < start)
        return false;
    while (start < end) {
        const struct region *region = region_find(m, start);

        if (region == NULL)
            return false;
        start = region->end;
    }
    return true;
}

/* The same in one table, in which [start, end) lies. */
static uintptr_t next_content(const struct pagetable *table, uintptr_t start, uintptr_t end)
{
    size_t i = pagetable_index(table, start), stop = pagetable_index(table, end);
    size_t n = i / SECTION_PAGES, sections = (stop + SECTION_PAGES - 1) / SECTION_PAGES;

    for (; pagetable_next_section(table, &n, sections); n++) {
        if (i < n * SECTION_PAGES)
            i = n * SECTION_PAGES;
        for (; i < (n + 1) * SECTION_PAGES && i < stop; i++) {
            if (pte_load(&table->ptes[i]) & (PTE_FORMAT | PTE_BUSY))
                return table->base + i * PAGE_SIZE;
        }
    }
    return end;
}

uintptr_t region_next_content(struct machine *m, uintptr_t start, uintptr_t end)
{
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    while (start < end) {
        const struct region *region = region_find(m, start);
        uintptr_t stop = region != NULL && region->end < end ? region->end : end;
        uintptr_t found = region != NULL ? next_content(region->table, start, stop) : stop;

        start = found;
        if (found < stop || region == NULL)
            break;
    }
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    return start;
}

/* ---- page tables ---- */

static size_t bitmap_bytes(const struct pagetable *table)
{
    return (table->section_count + 63) / 64 * sizeof(uint64_t);
}

static void pagetable_free(struct machine *m, struct pagetable *table)
{
    const struct platform *platform = m->platform;

    if (table->ptes != NULL)
        platform->release(table->ptes, table->pages * sizeof(pte_t));
    if (table->sections != NULL)
        platform->release(table->sections, table->section_count * sizeof(struct section));
    if (table->populated != NULL)
        platform->release(table->populated, bitmap_bytes(table));
    platform->release(table, sizeof(*table));
}

static struct pagetable *pagetable_new(struct machine *m, size_t pages)
{
    const struct platform *platform = m->platform;
    struct pagetable *table = platform->reserve(sizeof(*table));

    if (table == NULL)
        return NULL;
    table->pages = pages;
    table->section_count = (pages + SECTION_PAGES - 1) / SECTION_PAGES;
    table->ptes = platform->reserve(pages * sizeof(pte_t));
    table->sections = platform->reserve(table->section_count * sizeof(struct section));
    table->populated = platform->reserve(bitmap_bytes(table));
    if (table->ptes != NULL && table->sections != NULL && table->populated != NULL)
        return table;
    pagetable_free(m, table);
    return NULL;
}

/* Regions that share a table are looked at each for its own part. */
uint64_t region_table_bytes(const struct machine *m)
{
    uint64_t bytes = 0;

    for (unsigned r = 0; r < m->region_count; r++) {
        const struct region *region = m->regions[r];
        const struct pagetable *table = region->table;
        size_t first = pagetable_index(table, region->start);
        size_t pages = (region->end - region->start) >> PAGE_SHIFT;
        size_t section = first / SECTION_PAGES, word = section / 64;
        size_t sections = (first + pages - 1) / SECTION_PAGES + 1 - section;

        bytes += table_bytes(m, &table->ptes[first], pages * sizeof(pte_t));
        bytes += table_bytes(m, &table->sections[section], sections * sizeof(struct section));
        bytes += table_bytes(m, &table->populated[word],
                             ((section + sections - 1) / 64 + 1 - word) * sizeof(uint64_t));
    }
    return bytes;
}

/* ---- mapping ---- */

/* Insert in order. regions_lock held exclusive; there is room. */
static void insert(struct machine *m, struct region *region)
{
    unsigned at = lower_bound(m, region->start);

    SYNC_ASSERT_HELD(SYNC_REGIONS);
    for (unsigned i = m->region_count; i > at; i--)
        m->regions[i] = m->regions[i - 1];
    m->regions[at] = region;
    m->region_count++;
}

static void take_out(struct machine *m, unsigned at)
{
    SYNC_ASSERT_HELD(SYNC_REGIONS);
    m->region_count--;
    for (unsigned i = at; i < m->region_count; i++)
        m->regions[i] = m->regions[i + 1];
}

static int too_many_regions(const char *what)
{
    return error_set(-ENOMEM,
                     "%s: a manager has at most %u regions; map fewer, larger ones, and unmap "
                     "them whole",
                     what, REGIONS_MAX);
}

int region_map(struct machine *m, size_t length, bool overcommit, uintptr_t *base)
{
    size_t pages = length / PAGE_SIZE + (length % PAGE_SIZE != 0);
    struct pagetable *table = NULL;
    struct region *region = NULL;
    int error;

    if (length == 0)
        return error_set(-EINVAL, "a region of 0 bytes cannot be mapped");
    if (pages > REGION_PAGES_MAX)
        return error_set(-EINVAL, "a region of %zu bytes is larger than can be (64T)", length);
    if (!overcommit) {
        error = pagefile_commit(m, pages);
        if (error != 0)
            return error;
    }
    error = -ENOMEM;
    table = pagetable_new(m, pages);
    region = m->platform->reserve(sizeof(*region));
    if (table == NULL || region == NULL) {
        error_set(error, "no address space for the page table of %zu MiB", length >> 20);
        goto out;
    }
    error = m->mapper->ops->region_open(m->mapper, pages * PAGE_SIZE, &region->start);
    if (error != 0)
        goto out;
    region->end = region->start + pages * PAGE_SIZE;
    region->table = table;
    table->base = region->start;
    table->references = 1;
    table->overcommit = overcommit;
    sync_rwlock_write(&m->sync, &m->regions_lock, SYNC_REGIONS);
    if (m->region_count < REGIONS_MAX)
        insert(m, region);
    else
        error = too_many_regions("map");
    sync_rwlock_unwrite(&m->sync, &m->regions_lock, SYNC_REGIONS);
    if (error == 0) {
        *base = region->start;
        return 0;
    }
    m->mapper->ops->region_close(m->mapper, region->start, pages * PAGE_SIZE);
out:
    if (table != NULL)
        pagetable_free(m, table);
    if (region != NULL)
        m->platform->release(region, sizeof(*region));
    if (!overcommit)
        pagefile_uncommit(m, pages);
    return error;
}

/* ---- discarding content ---- */

/* Pages of a section that are being discarded together. */
struct discard {
    unsigned busy;    /* entries of word[] and va[]: pages BUSY by us */
    unsigned content; /* of those, pages that had content */
    unsigned valid;   /* entries of active[] */
    unsigned cached;  /* entries of trimmed[] */
    unsigned pinned;  /* pages left as they are: pinned since the range was checked */
    unsigned refused; /* pages left as they are: they could not be dropped */
    int error;        /* why */
    bool force;       /* pins end too: the region has been cut out, and its addresses go next */
    uint64_t word[SECTION_PAGES]; /* what the PTE becomes */
    uintptr_t va[SECTION_PAGES];
    uintptr_t valid_va[SECTION_PAGES];
    uint32_t active[SECTION_PAGES];
    uint32_t trimmed[SECTION_PAGES];
    int status[SECTION_PAGES]; /* of active[]: could it be dropped? */
};

/* Own the page at va and note what must become of its frame; untouched pages are passed over. */
static void region_discard_page(struct machine *m, struct pagetable *table, uintptr_t va,
                                struct discard *d)
{
    pte_t *pte = pagetable_pte(table, va);
    struct frame *frame;
    uint64_t word;

    do {
        word = pte_wait(m, pte);
        if (word == 0)
            return;
        if ((word & PTE_PINNED) && !d->force) {
            d->pinned++;
            return;
        }
    } while (!pte_try_busy(&m->sync, pte, word));
    d->word[d->busy] = 0;
    d->va[d->busy++] = va;
    if (word & PTE_BAD)
        m->mapper->ops->unfail(m->mapper, va);
    if (!(word & PTE_FORMAT))
        return;
    d->content++;
    if (word & PTE_UNREAD) {
        pagefile_mark_bad(m, pte_number(word));
        return;
    }
    if (word & PTE_PAGEFILE) {
        slot_release(m, pte_number(word));
        return;
    }
    frame = &m->frames[pte_number(word)];
    if (word & PTE_VALID) {
        atomic_fetch_sub(&m->pinned, atomic_exchange(&frame->pins, 0));
        d->valid_va[d->valid] = va;
        d->active[d->valid++] = pte_number(word);
        return;
    }
    framelist_remove(m, frame);
    check_always(frame->pte == pte);
    if (frame->state == FRAME_WRITING)
        frame->slot = 0; /* the writer gives the slot back when the write is done */
    frame_set_state(frame, FRAME_TRANSIT);
    sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
    if (frame->slot != 0)
        slot_release(m, frame->slot);
    d->trimmed[d->cached++] = pte_number(word);
}

/* Take the pages that could not be dropped out of valid_va[] and active[]: they stay as they are.
 */
static void keep_refused(struct pagetable *table, struct discard *d)
{
    unsigned left = 0;

    for (unsigned i = 0, b = 0; i < d->valid; i++) {
        if (d->status[i] == 0) {
            d->active[left++] = d->active[i];
            continue;
        }
        while (d->va[b] != d->valid_va[i]) /* both ascend */
            b++;
        d->word[b] = pte_load(pagetable_pte(table, d->va[b])) & ~(PTE_BUSY | PTE_WANTED);
    }
    d->refused += d->valid - left;
    d->content -= d->valid - left;
    d->valid = left;
}

static void discard_drop(struct machine *m, struct pagetable *table, struct discard *d)
{
    size_t n = pagetable_index(table, d->va[0]) / SECTION_PAGES;
    int error;

    if (d->valid < SECTION_PAGES)
        large_split(m, table, n);
    large_forget(table, n);
    error = m->mapper->ops->drop(m->mapper, d->valid, d->valid_va, d->active, d->status);
    count(m, COUNTER_tlb_flushes, 1);
    if (error == 0 || d->force)
        return;
    d->error = error;
    keep_refused(table, d);
}

static void discard_flush(struct machine *m, struct pagetable *table, struct discard *d)
{
    if (d->busy == 0)
        return;
    if (d->valid > 0)
        discard_drop(m, table, d);
    for (unsigned i = 0; i < d->valid; i++) {
        struct frame *frame = &m->frames[d->active[i]];

        if (frame->slot != 0)
            slot_release(m, frame->slot);
    }
    atomic_fetch_sub(&pagetable_section(table, d->va[0])->valid, (int32_t)d->valid);
    frame_free(m, d->valid, d->active, true);
    frame_free(m, d->cached, d->trimmed, false);
    atomic_fetch_sub(&m->touched, d->content);
    if (table->overcommit)
        pagefile_uncommit(m, d->content);
    count(m, COUNTER_pages_decommitted, d->content);
    for (unsigned i = 0; i < d->busy; i++) {
        pte_t *pte = pagetable_pte(table, d->va[i]);

        if (pte_load(pte) & ~d->word[i] & PTE_PROTECTED)
            protect_end(m, table, d->va[i], 1);
        pte_release(m, pte, d->va[i], d->word[i]);
    }
    d->busy = d->content = d->valid = d->cached = 0;
}

/*
 * Discard [start, end) of one table, section by section, passing over sections never touched.
 * -EBUSY with words if it left pages as they are: pinned, or not to be had from the kernel, and then
 * *refused is why. With `force` (the region is cut out) it leaves none.
 */
static int discard_range(struct machine *m, struct pagetable *table, uintptr_t start, uintptr_t end,
                         bool force, int *refused)
{
    struct discard d;
    uintptr_t va = start;

    d.busy = d.content = d.valid = d.cached = d.pinned = d.refused = 0;
    d.error = 0;
    d.force = force;
    while (va < end) {
        size_t n = pagetable_index(table, va) / SECTION_PAGES;
        uint64_t bits = atomic_load(&table->populated[n / 64]) >> (n % 64);
        uintptr_t section_end = table->base + (n + 1) * SECTION_PAGES * PAGE_SIZE;

        if (bits == 0) { /* the rest of the word's sections */
            va = table->base + (n / 64 + 1) * 64 * SECTION_PAGES * PAGE_SIZE;
            continue;
        }
        if (!(bits & 1)) {
            va = section_end;
            continue;
        }
        for (; va < section_end && va < end; va += PAGE_SIZE)
            region_discard_page(m, table, va, &d);
        discard_flush(m, table, &d);
    }
    *refused = d.error;
    if (d.refused > 0)
        return error_set(
            -EBUSY,
            "decommit: the kernel does not give up %u of the pages from %p to %p (%s); "
            "they stay as they are. Has the program locked them?",
            d.refused, (void *)start, (void *)end, strerror(-d.error));
    if (d.pinned > 0)
        return error_set(-EBUSY, "decommit: a page before %p was pinned meanwhile", (void *)end);
    return 0;
}

/* Is a page of [start, end), which lies in one region, pinned? */
static bool pinned_in(const struct pagetable *table, uintptr_t start, uintptr_t end)
{
    size_t low = pagetable_index(table, start), high = pagetable_index(table, end);
    size_t n = low / SECTION_PAGES, stop = (high + SECTION_PAGES - 1) / SECTION_PAGES;

    for (; pagetable_next_section(table, &n, stop); n++) {
        size_t first = n * SECTION_PAGES, last = first + SECTION_PAGES;

        for (size_t i = first > low ? first : low; i < last && i < high; i++) {
            if (pte_load(&table->ptes[i]) & PTE_PINNED)
                return true;
        }
    }
    return false;
}

static bool pinned_inside(struct machine *m, uintptr_t start, uintptr_t end)
{
    if (atomic_load(&m->pinned) == 0)
        return false;
    while (start < end) {
        const struct region *region = region_find(m, start);
        uintptr_t stop = region->end < end ? region->end : end;

        if (pinned_in(region->table, start, stop))
            return true;
        start = stop;
    }
    return false;
}

/* The checks that decommit and unmap share. regions_lock held. */
static int check_range(struct machine *m, const char *what, uintptr_t start, size_t length)
{
    SYNC_ASSERT_HELD(SYNC_REGIONS);
    if (start % PAGE_SIZE != 0 || length % PAGE_SIZE != 0 || length == 0)
        return error_set(-EINVAL, "%s: %zu bytes at %p are not whole pages", what, length,
                         (void *)start);
    if (!region_covers(m, start, length))
        return error_set(-EINVAL, "%s: %zu bytes at %p are not all mapped by this manager", what,
                         length, (void *)start);
    if (pinned_inside(m, start, start + length))
        return error_set(-EBUSY, "%s: a page in the %zu bytes at %p is pinned", what, length,
                         (void *)start);
    return 0;
}

int region_discard(struct machine *m, uintptr_t start, size_t length, int *refused)
{
    uintptr_t end = start + length;
    int error;

    *refused = 0;
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    error = check_range(m, "decommit", start, length);
    while (error == 0 && start < end) {
        struct region *region = region_find(m, start);
        uintptr_t stop = region->end < end ? region->end : end;

        error = discard_range(m, region->table, start, stop, false, refused);
        start = stop;
    }
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    return error;
}

int region_decommit(struct machine *m, uintptr_t start, size_t length)
{
    int refused;

    return region_discard(m, start, length, &refused);
}

/*
 * Cut [start, end), which lies in one region, out of the set. regions_lock held exclusive.
 * *gone is what to free when nothing of the region is left.
 */
static struct pagetable *cut(struct machine *m, uintptr_t start, uintptr_t end,
                             struct region **spare, struct region **gone)
{
    unsigned at = lower_bound(m, start);
    struct region *region = m->regions[at];
    struct pagetable *table = region->table;

    SYNC_ASSERT_HELD(SYNC_REGIONS);
    *gone = NULL;
    if (region->start == start && region->end == end) {
        take_out(m, at);
        *gone = region; /* its reference goes with the discard */
    } else if (region->start == start) {
        region->start = end;
        table->references++;
    } else if (region->end == end) {
        region->end = start;
        table->references++;
    } else {
        struct region *rest = *spare;

        *spare = NULL;
        rest->start = end;
        rest->end = region->end;
        rest->table = table;
        region->end = start;
        table->references += 2;
        insert(m, rest);
    }
    return table;
}

/* Unmap [start, end) of one region that has been cut out: content, addresses, table. */
static void unmap_cut(struct machine *m, struct pagetable *table, uintptr_t start, uintptr_t end)
{
    int refused;
    bool last;

    discard_range(m, table, start, end, true, &refused);
    m->mapper->ops->region_close(m->mapper, start, end - start);
    if (!table->overcommit)
        pagefile_uncommit(m, (end - start) / PAGE_SIZE);
    sync_rwlock_write(&m->sync, &m->regions_lock, SYNC_REGIONS);
    last = --table->references == 0;
    sync_rwlock_unwrite(&m->sync, &m->regions_lock, SYNC_REGIONS);
    if (last)
        pagetable_free(m, table);
}

int region_unmap(struct machine *m, uintptr_t start, size_t length)
{
    uintptr_t end = start + length;
    int error;

    do { /* at least once: a range that wraps around is refused */
        struct region *spare = m->platform->reserve(sizeof(*spare)), *gone = NULL;
        struct pagetable *table = NULL;
        uintptr_t stop = start;

        if (spare == NULL)
            return error_set(-ENOMEM, "no memory to split a region");
        sync_rwlock_write(&m->sync, &m->regions_lock, SYNC_REGIONS);
        error = check_range(m, "unmap", start, end - start);
        if (error == 0) {
            const struct region *region = region_find(m, start);

            stop = region->end < end ? region->end : end;
            if (region->start < start && stop < region->end && m->region_count == REGIONS_MAX)
                error = too_many_regions("unmap from the middle of a region");
            else
                error = m->mapper->ops->region_split(m->mapper, start, stop - start);
            if (error == 0)
                table = cut(m, start, stop, &spare, &gone);
        }
        sync_rwlock_unwrite(&m->sync, &m->regions_lock, SYNC_REGIONS);
        if (spare != NULL)
            m->platform->release(spare, sizeof(*spare));
        if (table == NULL)
            return error;
        unmap_cut(m, table, start, stop);
        if (gone != NULL)
            m->platform->release(gone, sizeof(*gone));
        start = stop;
    } while (start < end);
    return 0;
}

void region_unmap_all(struct machine *m)
{
    for (;;) {
        struct region *region = NULL;

        sync_rwlock_write(&m->sync, &m->regions_lock, SYNC_REGIONS);
        if (m->region_count > 0) {
            region = m->regions[m->region_count - 1];
            take_out(m, m->region_count - 1);
        }
        sync_rwlock_unwrite(&m->sync, &m->regions_lock, SYNC_REGIONS);
        if (region == NULL)
            return;
        unmap_cut(m, region->table, region->start, region->end);
        m->platform->release(region, sizeof(*region));
    }
}
