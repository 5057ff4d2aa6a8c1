/*
 * The modified-page writer: takes modified frames in batches, sorts them by
 * address, gives them one run of slots, and writes them like a log: few, large writes.
 *
 * A batch copies its pages into a buffer of its own before it writes, each under its
 * frame's lock. So a page may be rescued at any time without waiting for the write: the
 * rescue sets frame.slot to 0, and when the write is done the writer finds that the frame is no
 * longer WRITING with the batch's slot, and gives the slot back. A slot that is being written
 * belongs to the batch, so it cannot be given to another page meanwhile, which makes that test
 * exact.
 *
 * A write that fails is repeated page by page; a page that fails alone is kept (its frame goes back
 * to modified), its slot is withdrawn, and another slot is tried. If that fails as well, or the
 * disk is full, the store as a whole is failing: no more slots are withdrawn, the writer tries
 * again every 100 ms, and faults that need frames wait (frame_wait()). On a full disk it tries
 * slots that were written before.
 */
#include <errno.h>

#include "core/check.h"
#include "core/error.h"
#include "core/machine.h"

#define RETRY_NS UINT64_C(100000000)
#define BATCH_MAX 512u
#define TOGETHER_LEAST 4u /* neighbours for which slots side by side are looked for */

struct write_item {
    uintptr_t va; /* for sorting */
    uint32_t frame;
    uint32_t slot;
    uint32_t home; /* the slot to be tried first, or 0 */
    uint8_t priority;
    bool failed;
    bool bad; /* the slot has been withdrawn */
};

struct write_batch {
    struct large *large; /* a section that is written from its own buffer; NULL: the items are */
    unsigned count;
    unsigned pending; /* writes not yet reaped; 0: the batch is free */
    unsigned pieces;
    bool singly; /* second round: page by page */
    char *buffer;
    struct write_item items[BATCH_MAX];
    struct store_io ios[BATCH_MAX];
    struct iovec iovs[BATCH_MAX];
    uint16_t first[BATCH_MAX]; /* item of each piece's first page */
};

/* What is taken from lists, or put on one: of the batch that the writer is at. */
struct write_scratch {
    uint32_t frames[BATCH_MAX];
    uint32_t slots[BATCH_MAX];
    bool kept[BATCH_MAX];
    bool bad[BATCH_MAX];
};

int writer_init(struct machine *m)
{
    struct writer *w = &m->writer;
    unsigned depth = (unsigned)m->tunables.write_depth;

    w->batches = m->platform->reserve(depth * sizeof(*w->batches));
    w->scratch = m->platform->reserve(sizeof(*w->scratch));
    w->buffer = m->platform->buffer(depth * w->batch_pages * PAGE_SIZE);
    if (w->batches == NULL || w->scratch == NULL || w->buffer == NULL)
        return error_set(-ENOMEM, "no memory for the writer's buffers");
    for (unsigned i = 0; i < depth; i++)
        w->batches[i].buffer = w->buffer + i * w->batch_pages * PAGE_SIZE;
    return m->pagefile.store->ops->queue_open(m->pagefile.store, (unsigned)m->tunables.store_depth,
                                              &w->queue);
}

uint64_t writer_bytes(const struct machine *m)
{
    return table_bytes(m, m->writer.batches,
                       (size_t)m->tunables.write_depth * sizeof(*m->writer.batches)) +
           table_bytes(m, m->writer.scratch, sizeof(*m->writer.scratch));
}

void writer_fini(struct machine *m)
{
    struct writer *w = &m->writer;
    unsigned depth = (unsigned)m->tunables.write_depth;

    if (w->queue != NULL)
        m->pagefile.store->ops->queue_close(w->queue);
    if (w->buffer != NULL)
        m->platform->release(w->buffer, depth * w->batch_pages * PAGE_SIZE);
    if (w->scratch != NULL)
        m->platform->release(w->scratch, sizeof(*w->scratch));
    if (w->batches != NULL)
        m->platform->release(w->batches, depth * sizeof(*w->batches));
}

/* ---- is the store failing? ---- */

/* From now on faults that wait may lose patience. False: that was known. */
static bool begin_failing(struct machine *m, int error)
{
    struct writer *w = &m->writer;

    atomic_store(&w->error, error);
    atomic_store(&w->failed_at, sync_now(&m->sync));
    if (atomic_load(&w->failing_since) != 0)
        return false;
    atomic_store(&w->failing_since, sync_now(&m->sync));
    return true;
}

static void note_failure(struct machine *m, int error)
{
    if (begin_failing(m, error))
        log_line(
            LOG_ERROR,
            "pagefile %s does not accept writes: %s. Pages stay in memory and nothing is lost; "
            "faults that need a frame wait. %s",
            m->pagefile.store->where,
            error == -ENOSPC ? "no space left on the device" : "input/output error",
            error == -ENOSPC ? "Make room on its disk." : "Check its disk.");
}

/* A fault waits for a frame, and there is no slot for the page that should give it up. */
static void note_no_slot(struct machine *m)
{
    if (begin_failing(m, -ENOSPC))
        log_line(
            LOG_ERROR,
            "pagefile %s has no slot left; %llu could not be written and are withdrawn. Pages stay "
            "in memory and nothing is lost; faults that need a frame wait. Unmap what is not "
            "needed; check its disk, or use another pagefile.",
            m->pagefile.store->where, (unsigned long long)atomic_load(&m->pagefile.bad));
}

static void note_success(struct machine *m)
{
    struct writer *w = &m->writer;

    w->failures = 0;
    if (atomic_load(&w->failing_since) == 0)
        return;
    atomic_store(&w->failing_since, 0);
    atomic_store(&m->said_fault, 0);
    log_line(LOG_WARNING, "pagefile %s accepts writes again", m->pagefile.store->where);
}

/* ---- making a batch ---- */

/* Shell sort: no library call that might allocate. */
static void sort_items(struct write_item *items, unsigned count)
{
    static const unsigned gaps[] = {301, 132, 57, 23, 10, 4, 1};

    for (unsigned g = 0; g < sizeof(gaps) / sizeof(gaps[0]); g++) {
        unsigned gap = gaps[g];

        for (unsigned i = gap; i < count; i++) {
            struct write_item item = items[i];
            unsigned j = i;

            for (; j >= gap && items[j - gap].va > item.va; j -= gap)
                items[j] = items[j - gap];
            items[j] = item;
        }
    }
}

/* Take frames off modified; they are WRITING, without a slot yet. */
static unsigned collect(struct machine *m, struct write_batch *b)
{
    unsigned most = m->tunables.batching ? m->writer.batch_pages : 1;
    uint32_t *frames = m->writer.scratch->frames;

    b->count = framelist_pop(m, LIST_MODIFIED, FRAME_WRITING, most, frames, NULL);
    for (unsigned i = 0; i < b->count; i++) {
        struct frame *frame = &m->frames[frames[i]];

        sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
        b->items[i] =
            (struct write_item){.frame = frames[i], .va = frame->va, .priority = frame->priority};
        /* It may have been rescued, and is its page's again. A home that cannot be written is not
         * tried twice. */
        if (frame->state == FRAME_WRITING) {
            b->items[i].home = frame->home;
            frame->home = 0;
        }
        sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
    }
    atomic_fetch_add(&m->writing, b->count);
    sort_items(b->items, b->count);
    return b->count;
}

/* Frames of items [from, count) that are still WRITING without a slot go back to modified. */
static void put_back(struct machine *m, struct write_batch *b, unsigned from)
{
    struct write_scratch *s = m->writer.scratch;
    unsigned n = 0;

    for (unsigned i = from; i < b->count; i++) {
        s->frames[n] = b->items[i].frame;
        s->slots[n++] = b->items[i].slot;
    }
    framelist_return(m, LIST_MODIFIED, FRAME_MODIFIED, n, s->frames, s->slots, s->kept);
    atomic_fetch_sub(&m->writing, n);
    b->count = from;
}

/* Copy item i's page into the buffer and tie the slot to the frame; false if it has been rescued.
 */
static bool copy_out(struct machine *m, struct write_batch *b, unsigned i)
{
    struct write_item *item = &b->items[i];
    struct frame *frame = &m->frames[item->frame];
    bool ours;

    sync_mutex_lock(&m->sync, &frame->lock, SYNC_FRAME);
    ours = frame->state == FRAME_WRITING && frame->slot == 0;
    if (ours) {
        const char *content = mapper_buffer(m->mapper, frame->buffer);

        __builtin_memcpy(b->buffer + i * PAGE_SIZE, content, PAGE_SIZE);
        m->pagefile.hashes[item->slot] = frame->hash;
        frame->slot = item->slot;
        frame_assert_state(m, frame);
    }
    sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
    return ours;
}

/* Add item i to the last piece if its slot and its place in the buffer follow on, or begin another.
 */
static void add_item(struct write_batch *b, unsigned i)
{
    struct store_io *io = b->pieces > 0 ? &b->ios[b->pieces - 1] : NULL;

    if (io != NULL && !b->singly && io->slot + io->count == b->items[i].slot &&
        b->first[b->pieces - 1] + io->count == i) {
        io->count++;
        io->iov->iov_len += PAGE_SIZE;
        return;
    }
    b->first[b->pieces] = (uint16_t)i;
    b->iovs[b->pieces] =
        (struct iovec){.iov_base = b->buffer + i * PAGE_SIZE, .iov_len = PAGE_SIZE};
    b->ios[b->pieces] = (struct store_io){.slot = b->items[i].slot,
                                          .count = 1,
                                          .write = true,
                                          .iov = &b->iovs[b->pieces],
                                          .iovcnt = 1,
                                          .owner = b};
    b->pieces++;
}

static void send(struct machine *m, struct write_batch *b)
{
    struct store_io *ios[BATCH_MAX];

    for (unsigned i = 0; i < b->pieces; i++)
        ios[i] = &b->ios[i];
    b->pending = b->pieces;
    count(m, COUNTER_write_ios, b->pieces);
    m->pagefile.store->ops->submit(m->writer.queue, ios, b->pieces);
}

/* A run of up to `want` slots, if need be of those that valid pages own beside their frames: then
 * of `rest` of them, which are needed in all, since looking for them is dear. */
static unsigned take_run(struct machine *m, unsigned want, unsigned rest, bool together,
                         uint32_t *first)
{
    unsigned run = pagefile_take(m, want, together, first);

    if (run == 0) {
        slot_release_deferred(m);
        run = pagefile_take(m, want, together, first);
    }
    if (run == 0 && pagefile_reclaim(m, rest) > 0) {
        slot_release_deferred(m);
        run = pagefile_take(m, want, together, first);
    }
    return run;
}

/* As many of the items from i on as have a home that is free go there. */
static unsigned take_homes(struct machine *m, struct write_batch *b, unsigned i)
{
    unsigned n = 0;

    for (; i + n < b->count && b->items[i + n].home != 0; n++) {
        struct write_item *item = &b->items[i + n];

        if (!pagefile_take_slot(m, item->home))
            break;
        item->slot = item->home;
    }
    return n;
}

/* Pages from item i on that lie side by side and go to the same place, as far as one request may
 * read them back. */
static unsigned neighbours(const struct write_batch *b, unsigned i)
{
    unsigned n = 1;

    while (n < RUN_MAX && i + n < b->count && b->items[i + n].home == 0 &&
           b->items[i + n].va == b->items[i].va + n * PAGE_SIZE)
        n++;
    return n;
}

/* Give each item a slot, neighbours neighbouring ones. Returns how many got one. */
static unsigned take_slots(struct machine *m, struct write_batch *b)
{
    unsigned got = 0;

    while (got < b->count) {
        unsigned run = take_homes(m, b, got), want;
        uint32_t first;
        bool together;

        got += run;
        if (got == b->count)
            break;
        want = neighbours(b, got);
        together = want >= TOGETHER_LEAST;
        while (!together && got + want < b->count && b->items[got + want].home == 0 &&
               neighbours(b, got + want) < TOGETHER_LEAST)
            want++;
        run = take_run(m, want, b->count - got, together, &first);
        if (run == 0)
            break;
        for (unsigned i = 0; i < run; i++)
            b->items[got + i].slot = first + i;
        got += run;
    }
    return got;
}

static bool write_begin(struct machine *m, struct write_batch *b)
{
    unsigned with_slot;

    if (collect(m, b) == 0)
        return false;
    slot_release_deferred(m); /* homes, too */
    with_slot = take_slots(m, b);
    put_back(m, b, with_slot);
    /* A batch under way may give slots back; without a fault that waits there is time. */
    if (with_slot == 0 && m->writer.in_flight == 0 && atomic_load(&m->waiting) > 0)
        note_no_slot(m);
    b->pieces = 0;
    b->singly = false;
    for (unsigned i = 0; i < b->count; i++) {
        b->items[i].failed = false;
        if (copy_out(m, b, i)) {
            add_item(b, i);
            continue;
        }
        slot_release(m, b->items[i].slot);
        b->items[i].frame = FRAME_NONE;
        atomic_fetch_sub(&m->writing, 1);
    }
    if (b->pieces == 0)
        return with_slot > 0;
    m->writer.in_flight++;
    count(m, COUNTER_write_batches, 1);
    send(m, b);
    return true;
}

/* Give the large section a slot for each page, and write it; it is put back if there are too few,
 * or if they are in too many places. */
static void write_begin_large(struct machine *m, struct write_batch *b, struct large *l)
{
    unsigned got = 0;

    if (large_call_back(m, l))
        return;
    while (got < SECTION_PAGES) {
        uint32_t first;
        unsigned run = take_run(m, SECTION_PAGES - got, SECTION_PAGES - got, false, &first);

        if (run == 0)
            break;
        for (unsigned i = 0; i < run; i++)
            l->slots[got + i] = first + i;
        got += run;
    }
    b->pieces = got == SECTION_PAGES ? large_pieces(m, l, true, b, b->ios, b->iovs) : 0;
    if (b->pieces == 0) {
        for (unsigned i = 0; i < got; i++)
            slot_release(m, l->slots[i]);
        large_write_end(m, l, false);
        return;
    }
    large_write_begin(m, l);
    b->large = l;
    m->writer.in_flight++;
    count(m, COUNTER_write_batches, 1);
    send(m, b);
}

/* ---- ending a batch ---- */

/* The section goes back under its address, if it could not all be written: its pages are tried
 * again one by one. */
static void write_finish_large(struct machine *m, struct write_batch *b)
{
    struct large *l = b->large;
    bool written = true;

    for (unsigned p = 0; p < b->pieces; p++) {
        const struct store_io *io = &b->ios[p];

        if (io->result == 0) {
            pagefile_note_written(m, io->slot, io->count);
            continue;
        }
        if (io->result == -ENOSPC)
            pagefile_note_full(m);
        written = false;
    }
    for (unsigned i = 0; i < SECTION_PAGES && !written; i++)
        slot_release(m, l->slots[i]);
    b->large = NULL;
    large_write_end(m, l, written);
    if (!written)
        return;
    note_success(m);
    count(m, COUNTER_pages_written, SECTION_PAGES);
    count(m, COUNTER_pages_written_large, SECTION_PAGES);
    batch_stats_add(&m->counters->writes, SECTION_PAGES);
}

/* Items of pieces that failed, or of those that did not, go to `id`. Gives back slots of rescued
 * ones. */
static unsigned return_items(struct machine *m, struct write_batch *b, enum framelist_id id,
                             bool failed, int priority)
{
    struct write_scratch *s = m->writer.scratch;
    unsigned n = 0, kept = 0;

    for (unsigned i = 0; i < b->count; i++) {
        const struct write_item *item = &b->items[i];

        if (item->frame == FRAME_NONE || item->failed != failed ||
            (priority >= 0 && item->priority != priority))
            continue;
        s->frames[n] = item->frame;
        s->bad[n] = item->bad;
        s->slots[n++] = item->slot;
    }
    framelist_return(m, id, failed ? FRAME_MODIFIED : FRAME_STANDBY, n, s->frames, s->slots,
                     s->kept);
    for (unsigned i = 0; i < n; i++) {
        kept += s->kept[i];
        /* A page that failed keeps no slot; a page that was rescued has given it up. */
        if ((failed || !s->kept[i]) && !s->bad[i])
            slot_release(m, s->slots[i]);
    }
    atomic_fetch_sub(&m->writing, n);
    return kept;
}

/* One page could not be written to one slot: withdraw the slot, unless the whole store seems to
 * fail. */
static void page_failed(struct machine *m, struct write_item *item, int error)
{
    struct writer *w = &m->writer;

    count(m, COUNTER_write_errors, 1);
    if (error == -ENOSPC)
        pagefile_note_full(m);
    if (error == -ENOSPC || w->failures > 0) {
        note_failure(m, error);
        return;
    }
    w->failures++;
    log_repeated(&m->said_slot, LOG_WARNING,
                 "slot %u of pagefile %s cannot be written (error %d): the page is kept, another "
                 "slot is tried",
                 item->slot, m->pagefile.store->where, -error);
    pagefile_mark_bad(m, item->slot);
    item->bad = true;
}

/* Mark the items of failed pieces. Returns true if another round, page by page, has been sent. */
static bool sort_out_failures(struct machine *m, struct write_batch *b)
{
    unsigned failed = 0, pieces = b->pieces;
    int errors[BATCH_MAX];

    for (unsigned p = 0; p < pieces; p++) {
        errors[p] = b->ios[p].result;
        for (unsigned i = 0; i < b->ios[p].count && errors[p] != 0; i++)
            b->items[b->first[p] + i].failed = true;
        failed += errors[p] != 0;
        if (errors[p] == 0) {
            pagefile_note_written(m, b->ios[p].slot, b->ios[p].count);
            note_success(m);
        }
    }
    if (failed == 0)
        return false;
    if (b->singly || pieces == b->count) {
        for (unsigned p = 0; p < pieces; p++) {
            if (errors[p] != 0)
                page_failed(m, &b->items[b->first[p]], errors[p]);
        }
        return false;
    }
    b->singly = true;
    b->pieces = 0;
    for (unsigned i = 0; i < b->count; i++) {
        if (b->items[i].frame == FRAME_NONE || !b->items[i].failed)
            continue;
        b->items[i].failed = false;
        add_item(b, i);
    }
    send(m, b);
    return true;
}

/* All writes of the batch have been reaped. False: the failed ones have been sent again. */
static bool write_finish(struct machine *m, struct write_batch *b)
{
    unsigned written = 0;

    if (b->large != NULL) {
        write_finish_large(m, b);
    } else {
        if (sort_out_failures(m, b))
            return false;
        for (int p = 0; p < STANDBY_PRIORITIES; p++)
            written += return_items(m, b, LIST_STANDBY + (unsigned)p, false, p);
        return_items(m, b, LIST_MODIFIED, true, -1);
        count(m, COUNTER_pages_written, written);
        batch_stats_add(&m->counters->writes, b->count);
        b->count = 0;
    }
    if (--m->writer.in_flight == 0)
        sync_event_signal(&m->sync, &m->writer.idle);
    return true;
}

/* Returns whether a batch has ended, which gives frames, or room, that somebody may wait for. */
static bool reap(struct machine *m, bool wait)
{
    struct store_io *done[64];
    unsigned n = m->pagefile.store->ops->reap(m->writer.queue, done, 64, wait);
    bool ended = false;

    for (unsigned i = 0; i < n; i++) {
        struct write_batch *b = done[i]->owner;

        check_always(b->pending > 0);
        if (--b->pending == 0)
            ended |= write_finish(m, b);
    }
    return ended;
}

static struct write_batch *free_batch(struct machine *m)
{
    for (unsigned i = 0; i < m->tunables.write_depth; i++) {
        if (m->writer.batches[i].pending == 0)
            return &m->writer.batches[i];
    }
    return NULL;
}

/* Write a section that waits for it, if one does and there is a batch for it. */
static bool write_large(struct machine *m)
{
    struct write_batch *b = free_batch(m);
    struct large *l = b != NULL ? large_to_write(m) : NULL;

    if (l == NULL)
        return false;
    write_begin_large(m, b, l);
    return true;
}

void writer_drain(struct machine *m)
{
    while (write_large(m))
        continue;
    while (m->writer.in_flight > 0) {
        reap(m, true);
        while (write_large(m))
            continue;
    }
}

/* ---- when ---- */

/* Is what can be had at once so little that even a small batch should be written? */
static bool pressed(struct machine *m)
{
    int64_t stock = standby_count(m);
    int64_t most = m->mapper->has_cache ? cache_size(m) : m->frame_count;

    stock += atomic_load(m->mapper->has_cache ? &m->cache_room : &m->available);
    return stock < most / 8 + 2 || atomic_load(&m->waiting) > 0;
}

/* Are there small pages to be written? */
static bool small_needed(struct machine *m)
{
    uint32_t modified = list_count(m, LIST_MODIFIED);

    if (modified == 0 || (atomic_load(&m->writer.failing_since) != 0 &&
                          sync_now(&m->sync) - atomic_load(&m->writer.tried_at) < RETRY_NS))
        return false;
    return modified >= m->writer.batch_pages || pressed(m);
}

bool writer_needed(struct machine *m)
{
    return large_waits(m) || small_needed(m);
}

bool writer_step(struct machine *m)
{
    struct write_batch *b = free_batch(m);
    unsigned before = m->writer.in_flight;
    /* Who wants the gate waits for faults that are inside, and those may wait for a write. */
    bool small = b != NULL && small_needed(m) &&
                 (!atomic_load(&m->gate_closing) || atomic_load(&m->waiting) > 0);

    /* The pages of sections are BUSY: these go first. But if some always wait, they take turns. */
    if (small && (m->writer.small_next || !large_waits(m))) {
        atomic_store(&m->writer.tried_at, sync_now(&m->sync));
        m->writer.small_next = false;
        if (write_begin(m, b)) {
            worker_pause(m);
            if (reap(m, false))
                machine_balance(m, &m->write_worker);
            return true;
        }
    }
    if (write_large(m)) {
        m->writer.small_next = true;
        reap(m, false);
        machine_balance(m, &m->write_worker);
        return true;
    }
    if (before == 0)
        return false;
    reap(m, true);
    machine_balance(m, &m->write_worker);
    return true;
}
