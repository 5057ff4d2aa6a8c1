#include "core/fault.h"

#include <errno.h>

#include "core/check.h"
#include "core/error.h"
#include "core/machine.h"

#define READ_TRIES 3u

/* ---- queues ---- */

int fault_queue_open(struct machine *m, struct fault_queue *queue)
{
    int error;

    queue->faults = m->platform->reserve(FAULT_QUEUE_DEPTH_MAX * sizeof(struct fault));
    if (queue->faults == NULL)
        return error_set(-ENOMEM, "no memory for a fault queue");
    error = m->pagefile.store->ops->queue_open(m->pagefile.store, (unsigned)m->tunables.store_depth,
                                               &queue->store);
    if (error != 0) {
        m->platform->release(queue->faults, FAULT_QUEUE_DEPTH_MAX * sizeof(struct fault));
        queue->faults = NULL;
        return error;
    }
    queue->free = NULL;
    for (unsigned i = FAULT_QUEUE_DEPTH_MAX; i-- > 0;) {
        queue->faults[i].next = queue->free;
        queue->free = &queue->faults[i];
    }
    return 0;
}

void fault_queue_close(struct machine *m, struct fault_queue *queue)
{
    if (queue->faults == NULL)
        return;
    check_always(queue->in_flight == 0);
    m->pagefile.store->ops->queue_close(queue->store);
    m->platform->release(queue->faults, FAULT_QUEUE_DEPTH_MAX * sizeof(struct fault));
    queue->faults = NULL;
}

void fault_queue_enter(struct machine *m, struct fault_queue *queue)
{
    if (queue->gate_held)
        return;
    machine_enter(m);
    queue->gate_held = true;
}

void fault_queue_leave(struct machine *m, struct fault_queue *queue)
{
    if (!queue->gate_held || queue->in_flight > 0)
        return;
    queue->gate_held = false;
    sync_rwlock_unread(&m->sync, &m->gate, SYNC_GATE);
}

struct fault_queue *fault_queue_get(struct machine *m)
{
    for (;;) {
        uint32_t key = sync_event_prepare(&m->sync, &m->queues_event);
        struct fault_queue *queue;

        sync_mutex_lock(&m->sync, &m->pool_lock, SYNC_QUEUES);
        queue = m->pool_free;
        if (queue != NULL)
            m->pool_free = queue->next;
        sync_mutex_unlock(&m->sync, &m->pool_lock, SYNC_QUEUES);
        if (queue != NULL) {
            sync_event_cancel(&m->queues_event);
            return queue;
        }
        sync_event_wait(&m->sync, &m->queues_event, key, 0);
    }
}

void fault_queue_put(struct machine *m, struct fault_queue *queue)
{
    sync_mutex_lock(&m->sync, &m->pool_lock, SYNC_QUEUES);
    queue->next = m->pool_free;
    m->pool_free = queue;
    sync_mutex_unlock(&m->sync, &m->pool_lock, SYNC_QUEUES);
    sync_event_signal(&m->sync, &m->queues_event);
}

static struct fault *fault_get(struct fault_queue *queue)
{
    struct fault *fault = queue->free;

    check_always(fault != NULL);
    queue->free = fault->next;
    return fault;
}

static void fault_put(struct fault_queue *queue, struct fault *fault)
{
    fault->next = queue->free;
    queue->free = fault;
}

/* ---- helpers of all kinds of faults ---- */

static void fault_timed(struct machine *m, enum fault_kind kind, uint64_t started)
{
    histogram_add(&m->counters->faults[kind], sync_now(&m->sync) - started);
}

/* A TRANSIT frame becomes Active under va. The page is BUSY by us. */
static void frame_attach(struct machine *m, uint32_t number, pte_t *pte, uintptr_t va,
                         uint32_t slot)
{
    struct frame *frame = &m->frames[number];

    sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
    check_always(frame->state == FRAME_TRANSIT);
    frame->pte = pte;
    frame->va = va;
    frame->slot = slot;
    frame->state = FRAME_ACTIVE;
    frame_assert_state(m, frame);
    sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
}

static void section_add_valid(struct pagetable *table, uintptr_t va, unsigned pages)
{
    for (unsigned i = 0; i < pages; i++)
        atomic_fetch_add_explicit(&pagetable_section(table, va + i * PAGE_SIZE)->valid, 1,
                                  memory_order_relaxed);
}

/* The word of a page that has just been mapped: by demand, or on speculation. */
static uint64_t mapped_word(uint32_t frame, bool wanted, bool protected)
{
    uint64_t word = pte_make(PTE_VALID, frame);

    word |= wanted ? PTE_ACCESSED : PTE_READAHEAD;
    return protected ? word | PTE_PROTECTED : word;
}

/* Pages mapped ahead that the stream has passed: used, as far as anybody can know. */
static void mark_used(struct machine *m, struct pagetable *table, uintptr_t from, unsigned pages)
{
    unsigned hits = 0;

    for (unsigned i = 0; i < pages; i++) {
        uintptr_t va = from + i * PAGE_SIZE;
        pte_t *pte;
        uint64_t word;

        if (va < table->base || pagetable_index(table, va) >= table->pages)
            continue;
        pte = pagetable_pte(table, va);
        word = pte_load(pte);
        if ((word & (PTE_VALID | PTE_BUSY | PTE_READAHEAD)) == (PTE_VALID | PTE_READAHEAD))
            hits +=
                pte_cas(&m->sync, pte, &word, (word & ~(PTE_READAHEAD | PTE_AGE)) | PTE_ACCESSED);
    }
    count(m, COUNTER_readahead_hits, hits);
}

static void plan_window(struct machine *m, const struct region *region, uintptr_t va,
                        uint32_t thread, bool touching, struct stream_plan *plan)
{
    unsigned most = (unsigned)(touching ? m->tunables.touch_window : m->tunables.read_window);
    unsigned advice = pagetable_advice(region->table, va);
    /* A window is never more than a small share of what the machine has. */
    unsigned share = m->active_max / 16 > 0 ? m->active_max / 16 : 1;

    if (!m->tunables.batching || advice == VMSM_RANDOM || thread == 0)
        most = 1;
    if (most > share)
        most = share;
    stream_plan(m, va, thread, touching, most, plan);
    if (advice == VMSM_SEQUENTIAL && plan->direction > 0)
        plan->window = most;
    if (plan->passed_pages > 0)
        mark_used(m, region->table, plan->passed_from, plan->passed_pages);
    if (plan->trim_pages > 0 && m->tunables.deferred)
        trim_behind_add(m, plan->trim_from, plan->trim_pages);
}

/*
 * Own pages next to va, which is BUSY by us already, while they are of the wanted format, up to
 * count in all. *first becomes the lowest address. Returns how many, va included.
 */
static unsigned extend_run(struct machine *m, const struct region *region, uintptr_t va,
                           int direction, unsigned count, uint64_t format, uintptr_t *first)
{
    unsigned got = 1;

    *first = va;
    while (got < count) {
        uintptr_t next = direction > 0 ? va + got * PAGE_SIZE : va - got * PAGE_SIZE;
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
        if (direction < 0)
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

/* Map zeroes under `pages` pages from `first` on, all BUSY by us. */
static enum fault_result touch_run(struct machine *m, struct region *region, uintptr_t first,
                                   unsigned pages, uintptr_t va)
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
        pte_release(m, pagetable_pte(table, at), at, mapped_word(frames[i], at == va, false));
    }
    atomic_fetch_add(&m->touched, done);
    count(m, COUNTER_pages_first_touch, done);
    count(m, COUNTER_map_calls, 1);
    batch_stats_add(&m->counters->touches, done);
    if (done > 1)
        count(m, COUNTER_readahead_pages, done - 1);
    if (done == pages)
        return FAULT_DONE;
    frame_free(m, pages - done, frames + done, true);
    uncharge_touch(m, region, pages - done);
    for (unsigned i = done; i < pages; i++)
        pte_release(m, pagetable_pte(table, first + i * PAGE_SIZE), first + i * PAGE_SIZE, 0);
    return va < first + done * PAGE_SIZE ? FAULT_DONE : FAULT_NO_FRAME;
}

static enum fault_result fault_touch(struct machine *m, struct region *region, uintptr_t va,
                                     uint64_t word, uint32_t thread, uint64_t started)
{
    pte_t *pte = pagetable_pte(region->table, va);
    struct stream_plan plan;
    enum fault_result result;
    unsigned got, pages;
    uintptr_t first;

    plan_window(m, region, va, thread, true, &plan);
    got = frame_reserve(m, plan.window);
    if (got == 0)
        return FAULT_NO_FRAME;
    pages = charge_touch(m, region, got);
    frame_unreserve(m, got - pages);
    if (pages == 0)
        return FAULT_FAILED;
    pagetable_populate(region->table, va);
    if (!pte_try_busy(&m->sync, pte, word)) {
        frame_unreserve(m, pages);
        uncharge_touch(m, region, pages);
        return FAULT_BUSY;
    }
    if (word & PTE_BAD)
        m->mapper->ops->unfail(m->mapper, va);
    got = pages;
    pages = extend_run(m, region, va, plan.direction, got, 0, &first);
    frame_unreserve(m, got - pages);
    uncharge_touch(m, region, got - pages);
    result = touch_run(m, region, first, pages, va);
    if (result == FAULT_DONE) {
        stream_mapped(m, va, thread, pages);
        count(m, COUNTER_faults_first_touch, 1);
        fault_timed(m, FAULT_KIND_FIRST_TOUCH, started);
    }
    return result;
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
static void rescue_undo(struct machine *m, uint32_t number, pte_t *pte, uintptr_t va)
{
    struct frame *frame = &m->frames[number];

    if (frame->slot != 0)
        framelist_push(m, LIST_STANDBY + STANDBY_PRIORITIES - 1, FRAME_STANDBY, 1, &number);
    else
        framelist_push(m, LIST_MODIFIED, FRAME_MODIFIED, 1, &number);
    pte_release(m, pte, va, pte_make(PTE_TRANSITION, number));
}

/* Whether the page keeps its slot now that it is valid again, and is mapped protected to know when
 * it must not. */
static bool keep_slot(struct machine *m, struct frame *frame, unsigned flags)
{
    bool protect = m->tunables.dirty == DIRTY_PROTECT;

    if (frame->slot == 0)
        return false;
    if (m->tunables.preserve && !(protect && (flags & FAULT_WRITE)))
        return protect;
    slot_release(m, frame->slot);
    frame->slot = 0;
    return false;
}

static enum fault_result fault_rescue(struct machine *m, struct region *region, uintptr_t va,
                                      uint64_t word, unsigned flags, uint64_t started)
{
    pte_t *pte = pagetable_pte(region->table, va);
    uint32_t number = pte_number(word);
    struct frame *frame = &m->frames[number];
    bool cached = m->mapper->has_cache, protected;
    enum frame_state from;
    unsigned done = 0;
    void *content;

    if (cached && frame_reserve(m, 1) == 0)
        return FAULT_NO_FRAME;
    if (!pte_try_busy(&m->sync, pte, word)) {
        if (cached)
            frame_unreserve(m, 1);
        return FAULT_BUSY;
    }
    framelist_remove(m, frame);
    from = frame->state;
    check_always(frame->pte == pte &&
                 (from == FRAME_STANDBY || from == FRAME_MODIFIED || from == FRAME_WRITING));
    if (from == FRAME_WRITING)
        frame->slot = 0; /* the writer gives it back */
    frame->state = FRAME_TRANSIT;
    sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);

    content = mapper_buffer(m->mapper, frame->buffer);
    protected = m->tunables.dirty == DIRTY_PROTECT && m->tunables.preserve && frame->slot != 0 &&
                !(flags & FAULT_WRITE);
    m->mapper->ops->map(m->mapper, va, 1, &number, &content, protected ? MAP_PROTECTED : 0, &done);
    count(m, COUNTER_map_calls, 1);
    if (done == 0) {
        rescue_undo(m, number, pte, va);
        if (cached)
            frame_unreserve(m, 1);
        return FAULT_NO_FRAME;
    }
    keep_slot(m, frame, flags);
    frame_activated(m, frame);
    sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
    frame->state = FRAME_ACTIVE;
    if (frame->rescued < UINT8_MAX)
        frame->rescued++;
    frame_assert_state(m, frame);
    sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
    section_add_valid(region->table, va, 1);
    atomic_fetch_add_explicit(&pagetable_section(region->table, va)->rescues, 1,
                              memory_order_relaxed);
    pte_release(m, pte, va, mapped_word(number, true, protected));
    count_rescue(m, from, started);
    return FAULT_DONE;
}

/* ---- reading from the pagefile ---- */

/* Add page i to the last piece if it continues it and is not to be read alone, or begin another.
 * False: no piece is left. */
static bool add_piece(struct fault *f, unsigned i, bool alone, unsigned *iovs)
{
    struct store_io *io = f->pieces > 0 ? &f->ios[f->pieces - 1] : NULL;
    struct iovec *last = io != NULL ? &io->iov[io->iovcnt - 1] : NULL;

    if (io == NULL || alone || io->slot + io->count != f->slots[i]) {
        if (f->pieces == FAULT_PIECES)
            return false;
        io = &f->ios[f->pieces++];
        *io = (struct store_io){.slot = f->slots[i], .iov = &f->iovs[*iovs], .owner = f};
        last = NULL;
    }
    io->count++;
    if (last != NULL && (char *)last->iov_base + last->iov_len == f->content[i]) {
        last->iov_len += PAGE_SIZE;
        return true;
    }
    f->iovs[(*iovs)++] = (struct iovec){.iov_base = f->content[i], .iov_len = PAGE_SIZE};
    io->iovcnt++;
    return true;
}

static void send_pieces(struct machine *m, struct fault_queue *queue, struct fault *f)
{
    struct store_io *ios[FAULT_PIECES];

    for (unsigned i = 0; i < f->pieces; i++)
        ios[i] = &f->ios[i];
    f->pending = f->pieces;
    m->pagefile.store->ops->submit(queue->store, ios, f->pieces);
    count(m, COUNTER_read_ios, f->pieces);
}

/* Give up the pages of the run from `from` on: they stay in the pagefile. */
static void give_up_pages(struct machine *m, struct fault *f, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        uintptr_t va = f->va + i * PAGE_SIZE;

        pte_release(m, pagetable_pte(f->table, va), va, pte_make(PTE_PAGEFILE, f->slots[i]));
    }
}

/* How many slots, from page `wanted` outwards, can be read in FAULT_PIECES pieces. */
static void limit_pieces(struct machine *m, struct fault *f)
{
    unsigned low = f->wanted < f->count ? f->wanted : 0, high = low, pieces = 1;

    while (high + 1 < f->count) {
        pieces += f->slots[high + 1] != f->slots[high] + 1;
        if (pieces > FAULT_PIECES)
            break;
        high++;
    }
    while (low > 0) {
        pieces += f->slots[low] != f->slots[low - 1] + 1;
        if (pieces > FAULT_PIECES)
            break;
        low--;
    }
    give_up_pages(m, f, high + 1, f->count);
    give_up_pages(m, f, 0, low);
    for (unsigned i = low; low > 0 && i <= high; i++)
        f->slots[i - low] = f->slots[i];
    f->va += low * PAGE_SIZE;
    f->count = high - low + 1;
    if (f->wanted < RUN_MAX)
        f->wanted -= low;
}

/* There is staging for `room` pages only: give up the others, and of the page that is wanted last.
 */
static void keep_pages(struct machine *m, struct fault *f, unsigned room)
{
    unsigned front = f->wanted < RUN_MAX && f->wanted >= room ? f->count - room : 0;

    give_up_pages(m, f, 0, front);
    give_up_pages(m, f, front + room, f->count);
    frame_free(m, f->count - room, f->frames + room, true);
    for (unsigned i = 0; front > 0 && i < room; i++)
        f->slots[i] = f->slots[i + front];
    f->va += front * PAGE_SIZE;
    f->count = room;
    if (f->wanted < RUN_MAX)
        f->wanted -= front;
}

/*
 * The run f->va, f->count is BUSY by us and `rights` frames have been reserved for it: find out the
 * slots, get frames and staging, send the reads. What there is no room for is given up.
 */
static enum fault_result read_run(struct machine *m, struct fault_queue *queue, struct fault *f,
                                  unsigned rights)
{
    unsigned room, iovs = 0;

    for (unsigned i = 0; i < f->count; i++)
        f->slots[i] = pte_number(pte_load(pagetable_pte(f->table, f->va + i * PAGE_SIZE)));
    limit_pieces(m, f);
    frame_unreserve(m, rights - f->count);
    frame_take(m, f->count, f->frames, false);
    room = m->mapper->ops->stage_take(m->mapper, f->count, f->frames, &f->stage, f->content);
    if (room < f->count) {
        keep_pages(m, f, room);
        if (room == 0) {
            m->mapper->ops->stage_give(m->mapper, &f->stage);
            fault_put(queue, f);
            return FAULT_NO_FRAME;
        }
    }
    f->pieces = 0;
    f->tries = 0;
    for (unsigned i = 0; i < f->count; i++) {
        f->broken[i] = false;
        check_always(add_piece(f, i, false, &iovs));
    }
    queue->in_flight++;
    send_pieces(m, queue, f);
    return FAULT_PENDING;
}

static enum fault_result fault_read_begin(struct machine *m, struct fault_queue *queue,
                                          struct region *region, uintptr_t va, uint64_t word,
                                          unsigned flags, uint32_t thread, uint64_t started)
{
    struct stream_plan plan;
    struct fault *f;
    unsigned rights;

    if ((word & PTE_BAD) && !(flags & FAULT_EXPLICIT)) {
        error_set(-EIO, "the page at %p could not be read before", (void *)va);
        return FAULT_FAILED;
    }
    plan_window(m, region, va, thread, false, &plan);
    rights = frame_reserve(m, plan.window);
    if (rights == 0)
        return FAULT_NO_FRAME;
    if (!pte_try_busy(&m->sync, pagetable_pte(region->table, va), word)) {
        frame_unreserve(m, rights);
        return FAULT_BUSY;
    }
    if (word & PTE_BAD)
        m->mapper->ops->unfail(m->mapper, va);
    f = fault_get(queue);
    f->table = region->table;
    f->flags = flags;
    f->thread = thread;
    f->started = started;
    f->count = extend_run(m, region, va, plan.direction, rights, PTE_PAGEFILE, &f->va);
    f->wanted = (unsigned)((va - f->va) >> PAGE_SHIFT);
    return read_run(m, queue, f, rights);
}

/* Note which pages of a finished round of reads are not what was written. */
static void verify(struct machine *m, struct fault *f)
{
    for (unsigned p = 0; p < f->pieces; p++) {
        const struct store_io *io = &f->ios[p];

        for (unsigned i = 0; i < f->count; i++) {
            if (f->slots[i] < io->slot || f->slots[i] >= io->slot + io->count)
                continue;
            f->broken[i] = io->result != 0;
            if (io->result == 0 &&
                !hash_equal(hash_page(&m->key, f->content[i]), m->pagefile.hashes[f->slots[i]])) {
                f->broken[i] = true;
                count(m, COUNTER_hash_errors, 1);
            }
        }
    }
}

/* Read broken pages once more, each alone: one bad slot must not fail its neighbours, least of all
 * the page that was asked for. True if reads have been sent. */
static bool retry_broken(struct machine *m, struct fault_queue *queue, struct fault *f)
{
    unsigned iovs = 0;

    if (++f->tries >= READ_TRIES)
        return false;
    f->pieces = 0;
    if (f->wanted < f->count && f->broken[f->wanted])
        add_piece(f, f->wanted, true, &iovs);
    for (unsigned i = 0; i < f->count && f->pieces < FAULT_PIECES; i++) {
        if (f->broken[i] && i != f->wanted)
            add_piece(f, i, true, &iovs);
    }
    if (f->pieces == 0)
        return false;
    count(m, COUNTER_read_retries, f->pieces);
    send_pieces(m, queue, f);
    return true;
}

/* The content of a page can't be had. What was asked for gets SIGBUS; the rest is left for another
 * try. */
static bool read_failed(struct machine *m, struct fault *f, unsigned i)
{
    uintptr_t va = f->va + i * PAGE_SIZE;
    uint64_t word = pte_make(PTE_PAGEFILE, f->slots[i]);
    int result = 0;

    for (unsigned p = 0; p < f->pieces; p++) {
        if (f->ios[p].slot <= f->slots[i] && f->slots[i] < f->ios[p].slot + f->ios[p].count)
            result = f->ios[p].result;
    }
    if (i == f->wanted) {
        count(m, COUNTER_read_errors, 1);
        count(m, COUNTER_pages_lost, 1);
        count(m, COUNTER_faults_failed, (f->flags & FAULT_TRAP) != 0);
        error_set(-EIO, "the page at %p cannot be read back from slot %u of pagefile %s: %s",
                  (void *)va, f->slots[i], m->pagefile.store->where,
                  result == 0 ? "its content is not what was written (hash differs)"
                              : "input/output error");
        log_line(LOG_ERROR, "%s; after %u attempts the program gets SIGBUS for this page",
                 error_last(), f->tries);
        m->mapper->ops->fail(m->mapper, va);
        word |= PTE_BAD;
    }
    pte_release(m, pagetable_pte(f->table, va), va, word);
    return i == f->wanted;
}

/* Map pages [from, to) of the run, all read well. Returns how many were mapped. */
static unsigned read_map(struct machine *m, struct fault *f, unsigned from, unsigned to)
{
    bool protect = m->tunables.dirty == DIRTY_PROTECT && m->tunables.preserve &&
                   !(f->flags & FAULT_WRITE && f->wanted >= from && f->wanted < to);
    uintptr_t va = f->va + from * PAGE_SIZE;
    unsigned done = 0;

    m->mapper->ops->map(m->mapper, va, to - from, f->frames + from, f->content + from,
                        protect ? MAP_PROTECTED : 0, &done);
    count(m, COUNTER_map_calls, 1);
    batch_stats_add(&m->counters->maps, done);
    section_add_valid(f->table, va, done);
    for (unsigned i = from; i < from + done; i++) {
        uintptr_t at = f->va + i * PAGE_SIZE;
        bool keep = m->tunables.preserve && (protect || m->tunables.dirty == DIRTY_HASH);

        frame_attach(m, f->frames[i], pagetable_pte(f->table, at), at, keep ? f->slots[i] : 0);
        pte_release(m, pagetable_pte(f->table, at), at,
                    mapped_word(f->frames[i], i == f->wanted || f->wanted == RUN_MAX, protect));
        if (!keep)
            slot_release(m, f->slots[i]);
    }
    return done;
}

/* All reads of f have been reaped. False: sent again, or else the outcome is in *failed. */
static bool fault_read_finish(struct machine *m, struct fault_queue *queue, struct fault *f,
                              unsigned *failed)
{
    unsigned i = 0, mapped = 0;
    bool any_broken = false;

    verify(m, f);
    for (unsigned n = 0; n < f->count; n++)
        any_broken |= f->broken[n];
    if (any_broken && retry_broken(m, queue, f))
        return false;
    while (i < f->count) {
        unsigned to = i, done;

        while (to < f->count && !f->broken[to])
            to++;
        if (to > i) {
            done = read_map(m, f, i, to);
            mapped += done;
            frame_free(m, to - i - done, f->frames + i + done, true);
            give_up_pages(m, f, i + done, to);
            /* No memory: who sleeps in the fault was not mapped, so nothing else wakes it. */
            if (done < to - i && (f->flags & FAULT_TRAP))
                m->mapper->ops->wake(m->mapper, f->va, f->count * PAGE_SIZE);
            i = to;
            continue;
        }
        frame_free(m, 1, f->frames + i, true);
        if (read_failed(m, f, i) || f->wanted == RUN_MAX)
            ++*failed;
        i++;
    }
    m->mapper->ops->stage_give(m->mapper, &f->stage);
    sync_event_signal(&m->sync, &m->frames_event);
    count(m, COUNTER_pages_read, mapped);
    batch_stats_add(&m->counters->reads, f->count);
    if (f->wanted < f->count) {
        count(m, COUNTER_faults_hard, 1);
        if (mapped > 1)
            count(m, COUNTER_readahead_pages, mapped - 1);
        stream_mapped(m, f->va + f->wanted * PAGE_SIZE, f->thread, f->count);
        fault_timed(m, FAULT_KIND_HARD, f->started);
    }
    return true;
}

unsigned fault_reap(struct machine *m, struct fault_queue *queue, bool wait, unsigned *failed)
{
    struct store_io *done[32];
    unsigned finished = 0, failures = 0;

    while (queue->in_flight > 0) {
        unsigned n = m->pagefile.store->ops->reap(queue->store, done, 32, wait && finished == 0);

        if (n == 0 && (finished > 0 || !wait))
            break;
        for (unsigned i = 0; i < n; i++) {
            struct fault *f = done[i]->owner;

            check_always(f->pending > 0);
            if (--f->pending > 0 || !fault_read_finish(m, queue, f, &failures))
                continue;
            fault_put(queue, f);
            queue->in_flight--;
            finished++;
        }
    }
    if (failed != NULL)
        *failed += failures;
    return finished;
}

/* ---- faults on valid pages ---- */

/* Somebody else has made the page valid, or it is write-protected by a trim or to notice a change.
 */
static enum fault_result fault_valid(struct machine *m, struct region *region, uintptr_t va,
                                     uint64_t word, unsigned flags, uint64_t started)
{
    pte_t *pte = pagetable_pte(region->table, va);
    struct frame *frame = &m->frames[pte_number(word)];

    if (!(flags & FAULT_PROTECT)) {
        if (flags & FAULT_TRAP)
            m->mapper->ops->wake(m->mapper, va, PAGE_SIZE);
        count(m, COUNTER_faults_stale, 1);
        fault_timed(m, FAULT_KIND_STALE, started);
        return FAULT_DONE;
    }
    if (!pte_try_busy(&m->sync, pte, word))
        return FAULT_BUSY;
    if ((word & PTE_PROTECTED) && frame->slot != 0) {
        slot_release(m, frame->slot);
        frame->slot = 0;
    }
    m->mapper->ops->lift(m->mapper, va, PAGE_SIZE);
    word = (word & ~(PTE_PROTECTED | PTE_READAHEAD | PTE_AGE)) | PTE_ACCESSED;
    pte_release(m, pte, va, word);
    count(m, COUNTER_faults_protect, 1);
    fault_timed(m, FAULT_KIND_PROTECT, started);
    return FAULT_DONE;
}

/* ---- the entrance ---- */

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
            result = fault_valid(m, region, va, word, flags, started);
        else if (word & PTE_TRANSITION)
            result = fault_rescue(m, region, va, word, flags, started);
        else if (word & PTE_PAGEFILE)
            return fault_read_begin(m, queue, region, va, word, flags, thread, started);
        else if (word & PTE_BAD && !(flags & FAULT_EXPLICIT))
            return FAULT_FAILED;
        else
            result = fault_touch(m, region, va, word, thread, started);
        if (result != FAULT_BUSY) /* lost a race: look again */
            return result;
    }
}

enum fault_result fault_begin(struct machine *m, struct fault_queue *queue, uintptr_t va,
                              unsigned flags, uint32_t thread)
{
    uint64_t started = sync_now(&m->sync);
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

enum fault_result fault_begin_run(struct machine *m, struct fault_queue *queue, uintptr_t va,
                                  unsigned pages, unsigned *passed)
{
    enum fault_result result = FAULT_OUTSIDE;
    struct region *region;
    unsigned rights;
    struct fault *f;
    uint64_t word;
    pte_t *pte;

    *passed = 0;
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    region = region_find(m, va);
    if (region == NULL)
        goto out;
    pte = pagetable_pte(region->table, va);
    word = pte_load(pte);
    result = FAULT_BUSY;
    if ((word & PTE_BUSY) || !(word & PTE_PAGEFILE) || (word & PTE_BAD))
        goto out;
    result = FAULT_NO_FRAME;
    rights = frame_reserve(m, pages < RUN_MAX ? pages : RUN_MAX);
    if (rights == 0)
        goto out;
    if (!pte_try_busy(&m->sync, pte, word)) {
        frame_unreserve(m, rights);
        result = FAULT_BUSY;
        goto out;
    }
    f = fault_get(queue);
    f->table = region->table;
    f->flags = FAULT_EXPLICIT;
    f->thread = 0;
    f->wanted = RUN_MAX;
    f->started = sync_now(&m->sync);
    f->count = extend_run(m, region, va, 1, rights, PTE_PAGEFILE, &f->va);
    result = read_run(m, queue, f, rights);
    if (result == FAULT_PENDING)
        *passed = f->count;
out:
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
    struct fault_queue *queue = fault_queue_get(m);
    enum fault_result result;
    unsigned failed = 0;

    fault_queue_enter(m, queue);
    do {
        result = fault_begin(m, queue, va, flags, thread);
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
    log_line(LOG_ERROR, "fault at %p: %s", (void *)va, error_last());
    count(m, COUNTER_faults_failed, 1);
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    region = region_find(m, va);
    pte = region != NULL ? pagetable_pte(region->table, va) : NULL;
    word = pte != NULL ? pte_load(pte) : PTE_BUSY;
    /* A page whose content is in a frame needs no more than another look. */
    if (!(word & (PTE_BUSY | PTE_VALID | PTE_TRANSITION)) && pte_try_busy(&m->sync, pte, word)) {
        pagetable_populate(region->table, va);
        m->mapper->ops->fail(m->mapper, va);
        pte_release(m, pte, va, word | PTE_BAD);
    }
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    m->mapper->ops->wake(m->mapper, va, PAGE_SIZE);
}
