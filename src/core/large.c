#include "core/large.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/check.h"
#include "core/error.h"
#include "core/fault_internal.h"
#include "core/machine.h"

#define FILL_AGAIN_NS UINT64_C(100000000) /* there was no huge page: no more for so long; */
#define FILL_PAUSE 1u                     /* it took long to get one: for so many times as long, */
#define FILL_PAUSE_TOUCH 64u      /* or where small pages do nearly as well: for first touches */
#define SOON_NS UINT64_C(4000000) /* so long a fault waits for a section before it goes by pages */
#define FILLING_NS UINT64_C(20000000) /* after a first touch, memory is being filled for so long */
#define IDLE_PASSES 4u                /* of ageing without a section: none are expected any more */
#define KEEP_SHARE 32u /* one part of memory in so many is kept for sections to come */
#define WRITE_AGAIN_NS UINT64_C(1000000000)
#define TRIMS_MAX 4u /* sections that are on their way out at a time; */
#define AHEAD_MAX ((TRIMS_MAX - 1) * SECTION_PAGES) /* more are not asked for in advance */

/* ---- buffers ---- */

int large_init(struct machine *m)
{
    if (m->mapper->larges == 0)
        return 0;
    m->large.buffers = m->platform->reserve(m->mapper->larges * sizeof(struct large));
    if (m->large.buffers == NULL)
        return error_set(-ENOMEM, "no memory for the tables of large pages");
    m->large.count = m->mapper->larges;
    atomic_init(&m->large.idle, IDLE_PASSES);
    return 0;
}

uint64_t large_bytes(const struct machine *m)
{
    return table_bytes(m, m->large.buffers, m->large.count * sizeof(struct large));
}

static unsigned number_of(const struct machine *m, const struct large *l)
{
    return (unsigned)(l - m->large.buffers);
}

static struct large *large_get(struct machine *m)
{
    uint32_t all = (uint32_t)(UINT64_C(1) << m->large.count) - 1;
    uint32_t taken = atomic_load(&m->large.taken), bit;

    do {
        if (taken == all)
            return NULL;
        bit = ~taken & (taken + 1);
        sync_yield(&m->sync, SYNC_AT_ATOMIC);
    } while (!atomic_compare_exchange_strong(&m->large.taken, &taken, taken | bit));
    return &m->large.buffers[__builtin_ctz(bit)];
}

/* Its memory goes first: who gives frames back next has none under them. */
static void large_put(struct machine *m, struct large *l)
{
    m->mapper->ops->large_empty(m->mapper, number_of(m, l));
    atomic_fetch_and(&m->large.taken, ~(UINT32_C(1) << number_of(m, l)));
}

unsigned large_kept(const struct machine *m)
{
    return (unsigned)__builtin_popcount(atomic_load(&m->large.kept)) * SECTION_PAGES;
}

/* Keep a buffer that is full, with the rights that go with it; false: there are enough. */
static bool keep(struct machine *m, struct large *l)
{
    if (large_kept(m) > m->active_max / KEEP_SHARE ||
        large_kept(m) / SECTION_PAGES + TRIMS_MAX >= m->large.count)
        return false;
    sync_yield(&m->sync, SYNC_AT_ATOMIC);
    atomic_fetch_or(&m->large.kept, UINT32_C(1) << number_of(m, l));
    sync_event_signal(&m->sync, &m->frames_event);
    return true;
}

static struct large *take_kept(struct machine *m)
{
    uint32_t kept = atomic_load(&m->large.kept), bit;

    do {
        if (kept == 0)
            return NULL;
        bit = kept & -kept;
        sync_yield(&m->sync, SYNC_AT_ATOMIC);
    } while (!atomic_compare_exchange_strong(&m->large.kept, &kept, kept & ~bit));
    return &m->large.buffers[__builtin_ctz(bit)];
}

unsigned large_give_up(struct machine *m, unsigned sections)
{
    unsigned n = 0;

    for (struct large *l; n < sections && (l = take_kept(m)) != NULL; n++) {
        large_put(m, l);
        frame_unreserve(m, SECTION_PAGES);
    }
    return n;
}

void large_fini(struct machine *m)
{
    for (struct large *l; m->large.count > 0 && (l = take_kept(m)) != NULL;)
        large_put(m, l);
    if (m->large.buffers != NULL)
        m->platform->release(m->large.buffers, m->large.count * sizeof(struct large));
}

void large_fit(struct machine *m)
{
    if (atomic_load(&m->large.idle) < IDLE_PASSES)
        atomic_fetch_add(&m->large.idle, 1);
    else
        large_give_up(m, LARGE_MAX);
}

/* There is no memory for a section. Will there be soon, and is the fault not too old to wait? */
static enum large_result soon(struct machine *m, uint64_t started)
{
    if (!m->tunables.workers || large_leaving(m) == 0 || sync_now(&m->sync) - started > SOON_NS)
        return LARGE_NOT;
    atomic_store(&m->large.awaited, true);
    return LARGE_SOON;
}

bool large_wait(struct machine *m)
{
    uint32_t key;

    if (m->large.count == 0 || !atomic_exchange(&m->large.awaited, false))
        return false;
    key = sync_event_prepare(&m->sync, &m->frames_event);
    if (large_kept(m) > 0 || large_leaving(m) == 0 ||
        atomic_load(&m->available) >= (int64_t)SECTION_PAGES)
        sync_event_cancel(&m->frames_event);
    else
        sync_event_wait(&m->sync, &m->frames_event, key, SOON_NS);
    return true;
}

/* Memory from the system, and rights for it. A virtual machine may have to get it from its host,
 * which takes longer than all that is won by it, unless it is used many times. */
static bool fill(struct machine *m, struct large *l)
{
    uint64_t started = sync_now(&m->sync), now, took;
    int slow = m->mapper->ops->large_fill(m->mapper, number_of(m, l));

    if (slow == 0)
        return true;
    now = sync_now(&m->sync);
    took = now - started;
    atomic_store(&m->large.fill_at, now + (slow > 0 ? FILL_PAUSE * took : FILL_AGAIN_NS));
    atomic_store(&m->large.touch_at, now + (slow > 0 ? FILL_PAUSE_TOUCH * took : FILL_AGAIN_NS));
    return slow > 0;
}

static struct large *get_new(struct machine *m, bool touch)
{
    unsigned rights;
    struct large *l = NULL;

    if (sync_now(&m->sync) < atomic_load(touch ? &m->large.touch_at : &m->large.fill_at))
        return NULL;
    rights = frame_reserve(m, SECTION_PAGES);
    if (rights == SECTION_PAGES)
        l = large_get(m);
    if (l != NULL) {
        if (fill(m, l))
            return l;
        large_put(m, l);
    }
    frame_unreserve(m, rights);
    return NULL;
}

/* A buffer with memory, and rights to as many frames; NULL: not now. */
static struct large *large_get_filled(struct machine *m, bool zero)
{
    struct large *l = take_kept(m);

    if (l != NULL && frames_soon(m) < atomic_load_explicit(&m->low, memory_order_relaxed))
        worker_kick(&m->trim_worker);
    if (atomic_load_explicit(&m->large.idle, memory_order_relaxed) != 0)
        atomic_store(&m->large.idle, 0);
    if (l == NULL)
        return get_new(m, zero);
    if (zero)
        memset(m->mapper->ops->large_content(m->mapper, number_of(m, l)), 0, LARGE_SIZE);
    return l;
}

/* ---- sections ---- */

static uintptr_t section_start(const struct pagetable *table, uintptr_t va)
{
    return table->base + pagetable_index(table, va) / SECTION_PAGES * LARGE_SIZE;
}

/* May the section at va be large, as far as its place goes? */
static bool fits(const struct machine *m, const struct region *region, uintptr_t va)
{
    return m->large.count > 0 && va % LARGE_SIZE == 0 && va >= region->start && va < region->end &&
           region->end - va >= LARGE_SIZE;
}

bool large_wanted(const struct machine *m)
{
    return m->large.count > 0 &&
           atomic_load_explicit(&m->large.idle, memory_order_relaxed) < IDLE_PASSES;
}

bool large_begins(const struct machine *m, const struct region *region, uintptr_t va,
                  int32_t stride)
{
    size_t i = pagetable_index(region->table, va) % SECTION_PAGES;

    return abs(stride) == 1 && i == (stride > 0 ? 0 : SECTION_PAGES - 1) &&
           fits(m, region, section_start(region->table, va));
}

/* The first `pages` pages of a section, BUSY by us, are as they were. */
static void disown(struct machine *m, struct pagetable *table, uintptr_t va, unsigned pages)
{
    for (unsigned i = 0; i < pages; i++) {
        uintptr_t at = va + i * PAGE_SIZE;
        pte_t *pte = pagetable_pte(table, at);

        pte_release(m, pte, at, pte_load(pte) & ~(PTE_BUSY | PTE_WANTED));
    }
}

/* Own all pages of a section, if all are of that format. */
static bool own(struct machine *m, struct pagetable *table, uintptr_t va, uint64_t format)
{
    for (unsigned i = 0; i < SECTION_PAGES; i++) {
        pte_t *pte = pagetable_pte(table, va + i * PAGE_SIZE);
        uint64_t word = pte_load(pte);

        if ((word & (PTE_FORMAT | PTE_BUSY | PTE_BAD | PTE_PINNED | PTE_PROTECTED)) == format &&
            pte_try_busy(&m->sync, pte, word))
            continue;
        disown(m, table, va, i);
        return false;
    }
    return true;
}

/* Map the buffer; returns how many pages are mapped. Who is asleep in a fault on the others is
 * woken. */
static unsigned map_section(struct machine *m, struct large *l)
{
    unsigned done = 0;
    bool large = m->mapper->ops->large_map(m->mapper, l->va, number_of(m, l), &done);

    count(m, COUNTER_map_calls, 1);
    section_add_valid(l->table, l->va, done);
    atomic_store(&pagetable_section(l->table, l->va)->large, large);
    if (done < SECTION_PAGES)
        m->mapper->ops->wake(m->mapper, l->va, LARGE_SIZE);
    return done;
}

bool large_split(struct machine *m, struct pagetable *table, size_t n)
{
    struct section *section = &table->sections[n];

    if (!atomic_load(&section->large))
        return true;
    if (!m->mapper->ops->large_split(m->mapper, table->base + n * LARGE_SIZE))
        return false;
    atomic_store(&section->large, false);
    count(m, COUNTER_large_splits, 1);
    return true;
}

void large_forget(struct pagetable *table, size_t n)
{
    atomic_store(&table->sections[n].large, false);
}

void large_split_all(struct machine *m)
{
    for (unsigned r = 0; r < m->region_count && m->large.count > 0; r++) {
        struct pagetable *table = m->regions[r]->table;
        size_t n = 0;

        for (; pagetable_next_section(table, &n, table->section_count); n++) {
            large_split(m, table, n);
            large_forget(table, n);
        }
    }
}

/* ---- first touch ---- */

static bool charge(struct machine *m, const struct pagetable *table)
{
    return !table->overcommit || pagefile_commit(m, SECTION_PAGES) == 0;
}

static void uncharge(struct machine *m, const struct pagetable *table, unsigned pages)
{
    if (table->overcommit && pages > 0)
        pagefile_uncommit(m, pages);
}

/* The section, all BUSY by us, is mapped full of zeroes. Returns how many pages are mapped. */
static unsigned touch_section(struct machine *m, struct large *l)
{
    unsigned done;

    frame_take(m, SECTION_PAGES, l->frames, true);
    atomic_store(&pagetable_section(l->table, l->va)->mistrusted, false);
    done = map_section(m, l);
    m->mapper->ops->large_empty(m->mapper, number_of(m, l));
    for (unsigned i = 0; i < done; i++) {
        uintptr_t at = l->va + i * PAGE_SIZE;
        pte_t *pte = pagetable_pte(l->table, at);

        frame_attach(m, l->frames[i], pte, at, 0);
        pte_release(m, pte, at, mapped_word(m, 0, l->frames[i], i == l->wanted, false));
    }
    atomic_fetch_add(&m->touched, done);
    count(m, COUNTER_pages_first_touch, done);
    count(m, COUNTER_pages_large, done);
    count(m, COUNTER_readahead_pages, done - (l->wanted < done));
    batch_stats_add(&m->counters->touches, done);
    if (done == SECTION_PAGES)
        return done;
    frame_free(m, SECTION_PAGES - done, l->frames + done, true);
    uncharge(m, l->table, SECTION_PAGES - done);
    for (unsigned i = done; i < SECTION_PAGES; i++) {
        uintptr_t at = l->va + i * PAGE_SIZE;

        pte_release(m, pagetable_pte(l->table, at), at, PTE_UNTOUCHED);
    }
    return done;
}

/* Is the section as good as certainly untouched? */
static bool seems_untouched(struct pagetable *table, uintptr_t va)
{
    for (unsigned i = 0; i < SECTION_PAGES; i += SECTION_PAGES / 8 - 1) {
        if (pte_load(pagetable_pte(table, va + i * PAGE_SIZE)) != PTE_UNTOUCHED)
            return false;
    }
    return true;
}

enum large_result large_touch(struct machine *m, struct region *region, uintptr_t va,
                              uint64_t started)
{
    struct pagetable *table = region->table;
    uintptr_t start = section_start(table, va);
    struct large *l;
    unsigned done = 0;

    if (!fits(m, region, start) || !seems_untouched(table, start))
        return LARGE_NOT;
    atomic_store_explicit(&m->large.touched_at, started, memory_order_relaxed);
    l = large_get_filled(m, true);
    if (l == NULL)
        return soon(m, started);
    l->table = table;
    l->va = start;
    l->wanted = (unsigned)((va - start) >> PAGE_SHIFT);
    pagetable_populate(table, start);
    if (charge(m, table)) {
        if (own(m, table, start, PTE_UNTOUCHED)) {
            done = touch_section(m, l);
            large_put(m, l);
            return l->wanted < done ? LARGE_DONE : LARGE_NOT;
        }
        uncharge(m, table, SECTION_PAGES);
    }
    large_put(m, l);
    frame_unreserve(m, SECTION_PAGES);
    return LARGE_NOT;
}

/* ---- reading ---- */

/* Can the section be read as a whole, in FAULT_PIECES pieces? */
static bool seems_readable(struct pagetable *table, uintptr_t va)
{
    unsigned pieces = 1;
    uint32_t next = 0;

    if (atomic_load(&pagetable_section(table, va)->mistrusted))
        return false;
    for (unsigned i = 0; i < SECTION_PAGES && pieces <= FAULT_PIECES; i++) {
        uint64_t word = pte_load(pagetable_pte(table, va + i * PAGE_SIZE));

        if ((word & (PTE_FORMAT | PTE_BUSY | PTE_BAD)) != PTE_PAGEFILE)
            return false;
        pieces += i > 0 && pte_number(word) != next;
        next = pte_number(word) + 1;
    }
    return pieces <= FAULT_PIECES;
}

unsigned large_pieces(struct machine *m, const struct large *l, bool write, void *owner,
                      struct store_io *ios, struct iovec *iovs)
{
    char *content = m->mapper->ops->large_content(m->mapper, number_of(m, l));
    unsigned n = 0;

    for (unsigned i = 0; i < SECTION_PAGES; i++) {
        struct store_io *last = n > 0 ? &ios[n - 1] : NULL;

        if (last != NULL && last->slot + last->count == l->slots[i]) {
            last->count++;
            last->iov->iov_len += PAGE_SIZE;
            continue;
        }
        if (n == FAULT_PIECES)
            return 0;
        iovs[n] = (struct iovec){.iov_base = content + i * PAGE_SIZE, .iov_len = PAGE_SIZE};
        ios[n] = (struct store_io){.slot = l->slots[i],
                                   .count = 1,
                                   .write = write,
                                   .iov = &iovs[n],
                                   .iovcnt = 1,
                                   .owner = owner};
        n++;
    }
    return n;
}

/* The section, all BUSY by us, has rights and a buffer. False: its slots are in too many places. */
static bool read_section(struct machine *m, struct fault_queue *queue, struct fault *f)
{
    struct large *l = f->large;

    for (unsigned i = 0; i < SECTION_PAGES; i++)
        l->slots[i] = pte_number(pte_load(pagetable_pte(l->table, l->va + i * PAGE_SIZE)));
    f->pieces = large_pieces(m, l, false, f, f->ios, f->iovs);
    if (f->pieces == 0)
        return false;
    frame_take(m, SECTION_PAGES, l->frames, false);
    queue->in_flight++;
    fault_add_reads(m, queue, f);
    return true;
}

enum large_result large_read_begin(struct machine *m, struct fault_queue *queue,
                                   struct region *region, uintptr_t va, unsigned flags,
                                   uint32_t thread, uint64_t started)
{
    struct pagetable *table = region->table;
    uintptr_t start = section_start(table, va);
    struct fault *f;
    struct large *l;

    if (!fits(m, region, start) || m->tunables.dirty == DIRTY_PROTECT || queue->free == NULL ||
        !seems_readable(table, start))
        return LARGE_NOT;
    l = large_get_filled(m, false);
    if (l == NULL)
        return flags & FAULT_AHEAD ? LARGE_NOT : soon(m, started);
    l->table = table;
    l->va = start;
    l->wanted = flags & FAULT_AHEAD ? SECTION_PAGES : (unsigned)((va - start) >> PAGE_SHIFT);
    if (own(m, table, start, PTE_PAGEFILE)) {
        f = fault_get(m, queue);
        f->large = l;
        f->table = table;
        f->va = start;
        f->count = SECTION_PAGES;
        f->flags = flags;
        f->thread = thread;
        f->started = started;
        if (read_section(m, queue, f))
            return LARGE_DONE;
        f->large = NULL;
        fault_put(queue, f);
        disown(m, table, start, SECTION_PAGES);
    }
    large_put(m, l);
    frame_unreserve(m, SECTION_PAGES);
    return LARGE_NOT;
}

/* Has somebody asked for a page of the section? *at: the first of these. */
static bool wanted(const struct large *l, uintptr_t *at)
{
    for (unsigned i = 0; i < SECTION_PAGES; i++) {
        *at = l->va + i * PAGE_SIZE;
        if (pte_load(pagetable_pte(l->table, *at)) & PTE_WANTED)
            return true;
    }
    return false;
}

/* Is what has been read what was written? */
static bool verify(struct machine *m, const struct fault *f)
{
    struct large *l = f->large;
    const char *content = m->mapper->ops->large_content(m->mapper, number_of(m, l));
    bool good = true;

    for (unsigned p = 0; p < f->pieces; p++) {
        count(m, COUNTER_decrypt_errors, f->ios[p].result == -EBADMSG);
        good = good && f->ios[p].result == 0;
    }
    for (unsigned i = 0; i < SECTION_PAGES && good; i++)
        good = hash_equal(hash_page(&m->key, content + i * PAGE_SIZE),
                          m->pagefile.hashes[l->slots[i]]);
    return good;
}

void large_read_finish(struct machine *m, struct fault_queue *queue, struct fault *f)
{
    struct large *l = f->large;
    struct pagetable *table = l->table;
    bool preserve = pagefile_has_plenty(m), good = verify(m, f), waited;
    uintptr_t at;
    unsigned done = 0;

    /* Page by page, errors are seen to. */
    if (!good)
        atomic_store(&pagetable_section(table, l->va)->mistrusted, true);
    if (good)
        done = map_section(m, l);
    waited = (f->flags & FAULT_AHEAD) && wanted(l, &at);
    for (unsigned i = 0; i < done; i++) {
        uintptr_t va = l->va + i * PAGE_SIZE;
        pte_t *pte = pagetable_pte(table, va);
        uint64_t was = pte_make(PTE_PAGEFILE, l->slots[i]) | (pte_load(pte) & PTE_HISTORY);

        frame_attach(m, l->frames[i], pte, va, preserve ? l->slots[i] : 0);
        pte_release(m, pte, va, mapped_word(m, was, l->frames[i], i == l->wanted, false));
        if (!preserve)
            slot_release(m, l->slots[i]);
    }
    m->mapper->ops->large_empty(m->mapper, number_of(m, l));
    frame_free(m, SECTION_PAGES - done, l->frames + done, true);
    for (unsigned i = done; i < SECTION_PAGES; i++) {
        uintptr_t va = l->va + i * PAGE_SIZE;
        pte_t *pte = pagetable_pte(table, va);

        pte_release(m, pte, va, pte_load(pte) & ~(PTE_BUSY | PTE_WANTED));
    }
    if (done < SECTION_PAGES)
        m->mapper->ops->wake(m->mapper, l->va, LARGE_SIZE);
    count(m, COUNTER_pages_read, done);
    count(m, COUNTER_pages_read_large, done);
    count(m, COUNTER_pages_large, done);
    count(m, COUNTER_readahead_pages, done - (l->wanted < done));
    batch_stats_add(&m->counters->reads, SECTION_PAGES);
    batch_stats_add(&m->counters->maps, done);
    if (f->flags & FAULT_AHEAD) {
        queue->ahead--;
    } else {
        count(m, COUNTER_faults_hard, 1);
        fault_timed(m, FAULT_KIND_HARD, f->started);
    }
    large_put(m, l);
    f->large = NULL;
    if (waited && queue->serves)
        window_go_on(m, queue, at, f->thread);
}

/* ---- trimming ---- */

static bool may_write(struct machine *m)
{
    return atomic_load(&m->writer.failing_since) == 0 &&
           sync_now(&m->sync) >= atomic_load(&m->large.write_at);
}

bool large_trims_full(const struct machine *m)
{
    return atomic_load(&m->large.pending) >= TRIMS_MAX;
}

unsigned large_leaving(const struct machine *m)
{
    return atomic_load(&m->large.pending) * SECTION_PAGES;
}

uint64_t large_ahead(struct machine *m, uint64_t rate)
{
    uint64_t leave_us = atomic_load_explicit(&m->large.leave_ns, memory_order_relaxed) / 1000;
    uint64_t touched_at = atomic_load_explicit(&m->large.touched_at, memory_order_relaxed), ahead;

    if (touched_at == 0 || sync_now(&m->sync) - touched_at > FILLING_NS)
        return 0;
    ahead = rate * leave_us / 1000000;
    return ahead < AHEAD_MAX ? ahead : AHEAD_MAX;
}

/* A section has left, after so long. (If trimmer and writer do this at once, one is forgotten.) */
static void note_leave(struct machine *m, uint64_t ns)
{
    uint64_t average = atomic_load_explicit(&m->large.leave_ns, memory_order_relaxed);

    atomic_store_explicit(&m->large.leave_ns, (average * 3 + ns) / 4, memory_order_relaxed);
}

/* Pages of a section are about to leave: they count by their age no more. */
static void note_ages(struct machine *m, const struct large *l)
{
    unsigned waste = 0;

    for (unsigned i = 0; i < SECTION_PAGES; i++) {
        _Atomic uint32_t *age = &m->trimmer.ages[pte_age(l->word[i])];
        uint32_t left = atomic_load_explicit(age, memory_order_relaxed);

        waste += (l->word[i] & PTE_READAHEAD) && !l->zero[i];
        if (left > 0)
            atomic_store_explicit(age, left - 1, memory_order_relaxed);
    }
    count(m, COUNTER_readahead_waste, waste);
}

/* A section that was on its way out is no more. */
static void no_longer_pending(struct machine *m)
{
    if (atomic_fetch_sub(&m->large.pending, 1) != 1)
        return;
    sync_event_signal(&m->sync, &m->writer.idle);
    sync_event_signal(&m->sync, &m->frames_event);
}

/* The content of the section is in the buffer, and is put back. */
static void put_back(struct machine *m, struct large *l)
{
    unsigned done = 0, copies;
    bool large = m->mapper->ops->large_map(m->mapper, l->va, number_of(m, l), &done);

    /* What cannot be moved is there twice until the buffer is given up. */
    copies = SECTION_PAGES - done;
    frame_overdraw(m, copies);
    for (unsigned n = 0; done < SECTION_PAGES; done += n) {
        void *content[RUN_MAX];
        char *at =
            (char *)m->mapper->ops->large_content(m->mapper, number_of(m, l)) + done * PAGE_SIZE;
        unsigned run = SECTION_PAGES - done < RUN_MAX ? SECTION_PAGES - done : RUN_MAX;

        for (unsigned i = 0; i < run; i++)
            content[i] = at + i * PAGE_SIZE;
        m->mapper->ops->map(m->mapper, l->va + done * PAGE_SIZE, run, l->frames + done, content, 0,
                            &n);
        if (n == 0) /* the system lacks memory, for a moment */
            sync_give_way(&m->sync);
    }
    atomic_store(&pagetable_section(l->table, l->va)->large, large);
    for (unsigned i = 0; i < SECTION_PAGES; i++) {
        uintptr_t at = l->va + i * PAGE_SIZE;

        pte_release(m, pagetable_pte(l->table, at), at,
                    (l->word[i] & ~(PTE_AGE | PTE_READAHEAD)) | PTE_ACCESSED);
    }
    count(m, COUNTER_pages_trim_undone, SECTION_PAGES);
    large_put(m, l);
    frame_unreserve(m, copies);
    no_longer_pending(m);
}

/* All pages are in slots[], or zero, and leave. */
static void leave(struct machine *m, struct large *l)
{
    unsigned zero = 0;

    atomic_fetch_sub_explicit(&pagetable_section(l->table, l->va)->valid, (int32_t)SECTION_PAGES,
                              memory_order_relaxed);
    frame_free_without_rights(m, SECTION_PAGES, l->frames);
    for (unsigned i = 0; i < SECTION_PAGES; i++) {
        if (!l->zero[i])
            continue;
        if (l->slots[i] != 0)
            slot_release(m, l->slots[i]);
        zero++;
    }
    if (zero > 0) {
        atomic_fetch_sub(&m->touched, zero);
        uncharge(m, l->table, zero);
    }
    for (unsigned i = 0; i < SECTION_PAGES; i++) {
        uintptr_t at = l->va + i * PAGE_SIZE;
        uint64_t word = pte_make(PTE_PAGEFILE, l->slots[i]) | age_trimmed(m, l->word[i]);

        pte_release(m, pagetable_pte(l->table, at), at, l->zero[i] ? PTE_UNTOUCHED : word);
    }
    count(m, COUNTER_pages_trimmed, SECTION_PAGES);
    count(m, COUNTER_pages_trimmed_zero, zero);
    count(m, COUNTER_pages_trimmed_large, SECTION_PAGES);
    count(m, COUNTER_trim_batches, 1);
    batch_stats_add(&m->counters->trims, SECTION_PAGES);
    if (!keep(m, l)) {
        large_put(m, l);
        frame_unreserve(m, SECTION_PAGES);
    }
    no_longer_pending(m);
}

/* Which pages are zero, and is any other not what its slot holds? */
static bool judge(struct machine *m, struct large *l)
{
    const char *content = m->mapper->ops->large_content(m->mapper, number_of(m, l));
    bool changed = false;

    for (unsigned i = 0; i < SECTION_PAGES; i++) {
        struct frame *frame = &m->frames[l->frames[i]];

        l->slots[i] = frame->slot;
        l->zero[i] = page_is_zero(content + i * PAGE_SIZE);
        frame->hash = hash_page(&m->key, content + i * PAGE_SIZE);
        if (l->zero[i])
            continue;
        changed = changed || frame->slot == 0 ||
                  !hash_equal(frame->hash, m->pagefile.hashes[frame->slot]);
    }
    return changed;
}

static void hand_over(struct machine *m, struct large *l)
{
    sync_mutex_lock(&m->sync, &m->large.lock, SYNC_HANDOVER);
    m->large.to_write[atomic_load(&m->large.to_write_count)] = l;
    atomic_fetch_add(&m->large.to_write_count, 1);
    sync_mutex_unlock(&m->sync, &m->large.lock, SYNC_HANDOVER);
    worker_kick(&m->write_worker);
}

bool large_waits(const struct machine *m)
{
    return atomic_load(&m->large.to_write_count) > 0;
}

struct large *large_to_write(struct machine *m)
{
    struct large *l = NULL;

    if (!large_waits(m))
        return NULL;
    sync_mutex_lock(&m->sync, &m->large.lock, SYNC_HANDOVER);
    if (large_waits(m)) {
        unsigned left = atomic_load(&m->large.to_write_count) - 1;

        l = m->large.to_write[0];
        for (unsigned i = 0; i < left; i++)
            m->large.to_write[i] = m->large.to_write[i + 1];
        atomic_store(&m->large.to_write_count, left);
    }
    sync_mutex_unlock(&m->sync, &m->large.lock, SYNC_HANDOVER);
    return l;
}

bool large_trim(struct machine *m, struct pagetable *table, size_t n)
{
    uintptr_t va = table->base + n * LARGE_SIZE, at;
    struct large *l = may_write(m) ? large_get(m) : NULL;

    if (l == NULL)
        return false;
    l->table = table;
    l->va = va;
    l->began = sync_now(&m->sync);
    if (!own(m, table, va, PTE_VALID))
        goto not_owned;
    for (unsigned i = 0; i < SECTION_PAGES; i++) {
        l->word[i] = pte_load(pagetable_pte(table, va + i * PAGE_SIZE)) & ~(PTE_BUSY | PTE_WANTED);
        l->frames[i] = pte_number(l->word[i]);
    }
    sync_yield(&m->sync, SYNC_AT_STEP);
    if (m->mapper->ops->large_take(m->mapper, va, number_of(m, l)) != 0)
        goto not_taken;
    count(m, COUNTER_tlb_flushes, 1);
    atomic_fetch_add(&m->large.pending, 1);
    atomic_store(&table->sections[n].large, false);
    worker_pause(m);
    if (!wanted(l, &at)) {
        bool changed = judge(m, l);

        note_ages(m, l);
        worker_pause(m);
        if (!changed) {
            count(m, COUNTER_pages_trimmed_clean, SECTION_PAGES);
            note_leave(m, 0);
            leave(m, l);
        } else {
            hand_over(m, l);
        }
        return true;
    }
    put_back(m, l);
    return false;
not_taken:
    disown(m, table, va, SECTION_PAGES);
not_owned:
    large_put(m, l);
    return false;
}

bool large_call_back(struct machine *m, struct large *l)
{
    uintptr_t at;

    if (!wanted(l, &at))
        return false;
    put_back(m, l);
    return true;
}

void large_write_begin(struct machine *m, struct large *l)
{
    for (unsigned i = 0; i < SECTION_PAGES; i++)
        m->pagefile.hashes[l->slots[i]] = m->frames[l->frames[i]].hash;
}

void large_write_end(struct machine *m, struct large *l, bool written)
{
    if (!written) {
        atomic_store(&m->large.write_at, sync_now(&m->sync) + WRITE_AGAIN_NS);
        put_back(m, l);
        return;
    }
    for (unsigned i = 0; i < SECTION_PAGES; i++) {
        struct frame *frame = &m->frames[l->frames[i]];

        if (frame->slot != 0)
            slot_release(m, frame->slot);
    }
    note_leave(m, sync_now(&m->sync) - l->began);
    leave(m, l);
}
