#include "core/machine.h"

#include <errno.h>

#include "core/check.h"
#include "core/error.h"

#define WRITE_SHARE 64u  /* of the budget, at most one part in so many is the writer's buffer */
#define STAGE_SHARE 16u  /* and staging */
#define WRITE_SOME 64u   /* pages that the writer may have, if they are no more than STAGE_SHARE */
#define LEAST_SHARE 128u /* of the budget, what the cache keeps and never lends; more, */
#define LEAST_SOME 256u  /* pages, for the sake of batches, where that is no more than */
#define LEAST_MOST 32u   /* one part in so many; and never more than */
#define LEAST_MAX 512u   /* pages */
#define HUGE_PAGES 512u  /* pages in a huge page */
#define STAGE_MAX 2048u  /* pages */
#define SOME 8u          /* pages: the least of cache and staging, where the budget allows it */
#define RECLAIM_PAUSE_NS UINT64_C(10000000)

/* ---- workers ---- */

void worker_kick(struct worker *worker)
{
    struct machine *m = worker->m;

    if (!atomic_load_explicit(&worker->running, memory_order_relaxed))
        return;
    sync_yield(&m->sync, SYNC_AT_ATOMIC);
    if (atomic_exchange(&worker->kicked, 1) != 0)
        return;
    sync_event_signal(&m->sync, &worker->event);
}

void worker_pause(struct machine *m)
{
    if (m->tunables.workers && atomic_load(&m->waiting) == 0 &&
        frames_at_hand(m) > atomic_load(&m->low) / 2)
        sync_give_way(&m->sync);
}

static void worker_main(void *argument)
{
    struct worker *worker = argument;
    struct machine *m = worker->m;

    while (!atomic_load(&m->stopping)) {
        uint32_t key;
        bool more;

        atomic_store(&worker->kicked, 0);
        sync_rwlock_read(&m->sync, &m->gate, SYNC_GATE);
        more = worker->step(m);
        sync_rwlock_unread(&m->sync, &m->gate, SYNC_GATE);
        if (more)
            continue;
        key = sync_event_prepare(&m->sync, &worker->event);
        if (atomic_load(&worker->kicked) || atomic_load(&m->stopping))
            sync_event_cancel(&worker->event);
        else
            sync_event_wait(&m->sync, &worker->event, key, 0);
    }
}

static int worker_start(struct machine *m, struct worker *worker, const char *name,
                        bool (*step)(struct machine *))
{
    worker->step = step;
    atomic_store(&worker->running, true);
    return m->sync.backend->thread_start(&m->sync, name, worker_main, worker, &worker->thread);
}

static void worker_stop(struct machine *m, struct worker *worker)
{
    if (worker->thread == NULL)
        return;
    worker_kick(worker);
    sync_event_signal(&m->sync, &worker->event);
    m->sync.backend->thread_join(&m->sync, worker->thread);
    worker->thread = NULL;
}

/* A worker that goes to sleep must not wake itself: that it may go on is what its step returns. */
static void kick_other(struct worker *worker, const struct worker *self)
{
    if (worker != self)
        worker_kick(worker);
}

void machine_balance(struct machine *m, const struct worker *self)
{
    if (frames_soon(m) < atomic_load(&m->low))
        kick_other(&m->trim_worker, self);
    if (refill_needed(m)) {
        if (atomic_load_explicit(&m->refill_worker.running, memory_order_relaxed))
            kick_other(&m->refill_worker, self);
        else if (atomic_load(&m->waiting) > 0)
            refill_standby(m, RUN_MAX);
    }
    if (writer_needed(m))
        kick_other(&m->write_worker, self);
    if (atomic_load_explicit(&m->zero_worker.running, memory_order_relaxed) && zero_needed(m))
        worker_kick(&m->zero_worker);
    if (age_due(m))
        worker_kick(&m->age_worker);
}

void reclaim_inline(struct machine *m)
{
    sync_mutex_lock(&m->sync, &m->reclaim_lock, SYNC_RECLAIM);
    if (atomic_load(&m->available) <= 0) {
        unsigned freed = 0;

        if (!m->mapper->has_cache)
            freed = refill_standby(m, 1);
        if (freed == 0)
            trim_step(m);
        while (atomic_load(&m->available) <= 0 && writer_step(m))
            continue;
        writer_drain(m);
        refill_step(m);
        if (m->mapper->real_frames)
            zero_step(m);
        if (atomic_load(&m->available) <= 0 && atomic_load(&m->writer.failing_since) != 0) {
            uint32_t key = sync_event_prepare(&m->sync, &m->frames_event);

            sync_event_wait(&m->sync, &m->frames_event, key, RECLAIM_PAUSE_NS);
        }
    }
    sync_mutex_unlock(&m->sync, &m->reclaim_lock, SYNC_RECLAIM);
}

void machine_enter(struct machine *m)
{
    uint32_t closing;

    sync_yield(&m->sync, SYNC_AT_ATOMIC);
    while ((closing = atomic_load(&m->gate_closing)) != 0)
        sync_park(&m->sync, &m->gate_closing, closing, 0);
    sync_rwlock_read(&m->sync, &m->gate, SYNC_GATE);
}

/* ---- making and ending ---- */

static uint32_t at_most(uint64_t value, uint32_t most)
{
    return value < most ? (uint32_t)value : most;
}

/* The least for a buffer or staging of a small budget: a few pages, but not most of it. */
static uint32_t at_least_some(uint64_t pages)
{
    return pages / 4 > 0 ? at_most(pages / 4, SOME) : 1;
}

static uint32_t stage_share(uint64_t pages)
{
    uint32_t share = at_most(pages / STAGE_SHARE, STAGE_MAX), least = at_least_some(pages);

    share = share < least ? least : share;
    /* Pieces are whole huge pages where they are large enough. */
    return share >= STAGE_PIECES * HUGE_PAGES ? share - share % (STAGE_PIECES * HUGE_PAGES) : share;
}

static uint32_t cache_share(const struct machine *m, uint64_t pages)
{
    uint32_t share = (uint32_t)(pages * m->tunables.cache / 100), least = at_least_some(pages);

    return share < least ? least : share;
}

/* Of the cache, what is never lent. */
static uint32_t cache_least(const struct machine *m, uint64_t pages)
{
    uint32_t least = at_most(pages / LEAST_SHARE, LEAST_MAX);
    uint32_t batch = at_most(pages / LEAST_MOST, LEAST_SOME), some = at_least_some(pages);

    least = least < batch ? batch : least;
    return at_most(least < some ? some : least, m->buffer_count);
}

/* Pages in one batch of the writer, so that its buffers are a small share of the budget. */
static uint32_t batch_share(const struct machine *m, uint64_t pages)
{
    uint64_t share = pages / WRITE_SHARE, some = at_most(pages / STAGE_SHARE, WRITE_SOME);

    share = (share < some ? some : share) / m->tunables.write_depth;
    if (!m->tunables.batching || share < 1)
        return 1;
    return at_most(share, (uint32_t)m->tunables.write_batch);
}

/* May sections be large pages? One is to be a small part of what there is. */
static bool large_possible(const struct machine *m)
{
    uint64_t share = m->tunables.large_share;

    return share > 0 && m->tunables.batching && m->active_max / share >= SECTION_PAGES;
}

/* Divide the budget: staging and the writer's buffer come off first, the rest is frames. */
static int divide_budget(struct machine *m, bool cached, struct mapper_options *mo)
{
    uint64_t pages = m->tunables.memory / PAGE_SIZE, overhead;
    uint32_t batch = batch_share(m, pages), most, lendable;

    m->stage_pages = cached ? stage_share(pages) : 0;
    lendable = m->stage_pages / STAGE_PIECES * (STAGE_PIECES - 1);
    overhead = m->stage_pages - lendable + batch * m->tunables.write_depth;
    if (pages < overhead + lendable + (cached ? 2 : 1))
        return error_set(-EINVAL, "memory: %llu pages are too few; buffers alone take %llu",
                         (unsigned long long)pages, (unsigned long long)overhead + lendable);
    pages -= overhead;
    if (pages > UINT32_MAX - LIST_COUNT - 1)
        return error_set(-EINVAL, "memory: more than %u frames cannot be managed", UINT32_MAX);
    m->frame_count = (uint32_t)pages;
    m->buffer_count = cached ? cache_share(m, pages) : 0;
    m->buffer_least = cache_least(m, pages);
    m->active_max = m->frame_count - m->buffer_count - lendable;
    /* A batch is no more than a part of what can be trimmed, or the writer would wait for ever. */
    most = (cached ? m->buffer_count : m->frame_count) / 4;
    m->writer.batch_pages = at_most(most > 0 ? most : 1, batch);
    mo->frames = m->frame_count;
    mo->buffers = m->buffer_count;
    mo->active = m->active_max;
    mo->stage = m->stage_pages;
    mo->larges = large_possible(m) ? LARGE_MAX : 0;
    mo->sigbus = m->tunables.trap == TRAP_SIGBUS;
    m->user_only = mo->sigbus || !m->tunables.kernel_faults;
    mo->user_only = m->user_only;
    mo->memory_lock = m->tunables.memory_lock;
    return 0;
}

uint32_t ahead_piece(const struct machine *m)
{
    return m->stage_pages / STAGE_PIECES / 2;
}

uint32_t ahead_most(const struct machine *m)
{
    if (!m->mapper->has_cache)
        return m->active_max / STAGE_SHARE;
    return m->stage_pages / 2 - m->lent.piece_count * ahead_piece(m);
}

static int frames_init(struct machine *m)
{
    size_t entries = m->frame_count + LIST_COUNT;
    uint32_t *all;

    m->frames = m->platform->reserve(entries * sizeof(struct frame));
    all = m->platform->reserve(m->frame_count * sizeof(*all));
    if (m->frames == NULL || all == NULL)
        goto no_memory;
    for (uint32_t n = 0; n < entries; n++) {
        struct frame *frame = &m->frames[n];

        atomic_init(&frame->list, LIST_NONE);
        frame->state = FRAME_TRANSIT;
        frame->buffer = m->mapper->has_cache ? BUFFER_NONE : n;
        if (n < m->frame_count)
            all[n] = n;
    }
    for (unsigned id = 0; id < LIST_COUNT; id++)
        framelist_init(m, id);
    framelist_push(m, LIST_FREE, FRAME_FREE, m->frame_count, all);
    m->platform->release(all, m->frame_count * sizeof(*all));
    atomic_init(&m->available, m->active_max); /* lend_init() adds what is lent */
    atomic_init(&m->cache_room, m->buffer_count);
    atomic_init(&m->ahead_room, ahead_most(m));
    atomic_init(&m->low, (int32_t)(m->active_max / 64 + 2));
    atomic_init(&m->high, (int32_t)(m->active_max / 32 + 4));
    if (!m->mapper->has_cache ||
        freestack_init(&m->buffers, m->platform, &m->sync, m->buffer_count) == 0)
        return 0;
    return error_set(-ENOMEM, "no memory for the table of the cache");
no_memory:
    if (all != NULL)
        m->platform->release(all, m->frame_count * sizeof(*all));
    return error_set(-ENOMEM, "no address space for the database of %u frames", m->frame_count);
}

int machine_open_pool(struct machine *m, unsigned queues)
{
    m->pool_free = NULL;
    m->pool_count = 0;
    for (unsigned i = 0; i < queues && i < FAULT_POOL_MAX; i++) {
        int error = fault_queue_open(m, &m->pool[i]);

        if (error != 0)
            return error;
        m->pool[i].next = m->pool_free;
        m->pool_free = &m->pool[i];
        m->pool_count++;
    }
    return 0;
}

int machine_start_workers(struct machine *m)
{
    int error;

    m->trim_worker = m->age_worker = m->write_worker = (struct worker){0};
    m->refill_worker = m->zero_worker = (struct worker){0};
    /* Set before any worker runs: they kick each other. */
    m->trim_worker.m = m->age_worker.m = m->write_worker.m = m;
    m->refill_worker.m = m->zero_worker.m = m;
    if (!m->tunables.workers)
        return 0;
    error = worker_start(m, &m->trim_worker, "vmsm-trim", trim_step);
    if (error == 0)
        error = worker_start(m, &m->age_worker, "vmsm-age", age_step);
    if (error == 0)
        error = worker_start(m, &m->write_worker, "vmsm-write", writer_step);
    if (error == 0 && m->tunables.more_workers)
        error = worker_start(m, &m->refill_worker, "vmsm-refill", refill_step);
    if (error == 0 && m->tunables.more_workers && m->mapper->real_frames)
        error = worker_start(m, &m->zero_worker, "vmsm-zero", zero_step);
    return error;
}

int machine_create(const struct machine_options *options, struct machine **out)
{
    const struct platform *platform = options->platform;
    struct machine *m = platform->reserve(sizeof(*m));
    struct mapper_options mo;
    int error;

    if (m == NULL) {
        options->store->ops->close(options->store);
        return error_set(-ENOMEM, "no memory for a manager");
    }
    m->platform = platform;
    m->tunables = *options->tunables;
    m->sync.backend = options->backend;
    m->sync.spin = m->tunables.spinning_locks;
    m->sync.yield_delay_ns = m->tunables.yield_delay;
    m->pagefile.store = options->store;
    hash_key_init(&m->key, m->tunables.hash_seed != 0 ? m->tunables.hash_seed : platform->secret());
    streams_init(&m->streams);
    error = -ENOMEM;
    m->counters = platform->reserve(sizeof(*m->counters));
    if (m->counters == NULL) {
        error_set(error, "no memory for counters");
        goto fail;
    }
    error = divide_budget(m, options->mapper_has_cache, &mo);
    if (error == 0)
        error = options->mapper_open(&m->sync, &mo, &m->mapper);
    if (error == 0)
        check_always(m->mapper->has_cache == options->mapper_has_cache);
    if (error == 0)
        error = frames_init(m);
    if (error == 0)
        error = lend_init(m);
    if (error == 0)
        error = large_init(m);
    if (error == 0)
        error = pagefile_init(m, options->store);
    if (error == 0)
        error = trim_init(m);
    if (error == 0)
        error = writer_init(m);
    if (error == 0)
        error = machine_open_pool(m, options->pool_queues);
    if (error == 0)
        error = machine_start_workers(m);
    if (error == 0) {
        *out = m;
        return 0;
    }
fail:
    machine_destroy(m);
    return error;
}

static void workers_stop(struct machine *m)
{
    atomic_store(&m->stopping, true);
    worker_stop(m, &m->trim_worker);
    worker_stop(m, &m->age_worker);
    worker_stop(m, &m->refill_worker);
    worker_stop(m, &m->zero_worker);
    worker_stop(m, &m->write_worker);
    if (m->writer.queue != NULL)
        writer_drain(m);
}

void machine_destroy(struct machine *m)
{
    const struct platform *platform = m->platform;

    workers_stop(m);
    if (m->region_count > 0)
        region_unmap_all(m);
    for (unsigned i = 0; i < m->pool_count; i++)
        fault_queue_close(m, &m->pool[i]);
    writer_fini(m);
    trim_fini(m);
    pagefile_fini(m);
    large_fini(m);
    if (m->mapper != NULL)
        m->mapper->ops->close(m->mapper);
    lend_fini(m);
    freestack_fini(&m->buffers);
    if (m->frames != NULL)
        platform->release(m->frames, (m->frame_count + LIST_COUNT) * sizeof(struct frame));
    if (m->counters != NULL)
        platform->release(m->counters, sizeof(*m->counters));
    m->pagefile.store->ops->close(m->pagefile.store);
    platform->release(m, sizeof(*m));
}

/* ---- counters ---- */

/* What is neither frames, nor buffers for what pages contain. regions_lock held shared. */
static void metadata_count(struct machine *m, struct vmsm_counters *now)
{
    uint64_t fixed =
        table_bytes(m, m, sizeof(*m)) + trim_bytes(m) + writer_bytes(m) + large_bytes(m);

    fixed += table_bytes(m, m->counters, sizeof(*m->counters));
    fixed += table_bytes(m, m->frames, (m->frame_count + LIST_COUNT) * sizeof(struct frame));
    if (m->mapper->has_cache)
        fixed += freestack_resident(&m->buffers) +
                 table_bytes(m, m->lent.numbers, m->buffer_count * sizeof(*m->lent.numbers));
    for (unsigned i = 0; i < m->pool_count; i++)
        fixed += fault_queue_bytes(m, &m->pool[i]);
    now->metadata_page_bytes = region_table_bytes(m) + pagefile_bytes(m);
    now->metadata_bytes = fixed + now->metadata_page_bytes;
}

void machine_get_counters(struct machine *m, struct vmsm_counters *out)
{
    int64_t available = atomic_load(&m->available), touched = atomic_load(&m->touched);
    struct vmsm_counters now; /* *out may be managed memory: nothing is held when it is written */

    counters_collect(m->counters, &now);
    now.frames_total = m->frame_count;
    now.frames_active = (uint64_t)atomic_load(&m->active);
    now.frames_standby = standby_count(m);
    now.frames_modified = list_count(m, LIST_MODIFIED);
    now.frames_writing = (uint64_t)atomic_load(&m->writing);
    now.frames_free = list_count(m, LIST_FREE);
    now.frames_zero = list_count(m, LIST_ZERO);
    now.frames_available = available > 0 ? (uint64_t)available : 0;
    now.slots_bad = atomic_load(&m->pagefile.bad);
    now.slots_used = atomic_load(&m->pagefile.slots.used) - 1;
    sync_mutex_lock(&m->sync, &m->pagefile.commit_lock, SYNC_COMMIT);
    now.slots_total = m->pagefile.commit_slots;
    now.commit_pages = m->pagefile.commit;
    now.commit_limit = pagefile_commit_limit(m);
    sync_mutex_unlock(&m->sync, &m->pagefile.commit_lock, SYNC_COMMIT);
    now.pinned_pages = (uint64_t)atomic_load(&m->pinned);
    now.touched_pages = touched > 0 ? (uint64_t)touched : 0;
    now.mapped_pages = 0;
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    for (unsigned r = 0; r < m->region_count; r++)
        now.mapped_pages += (m->regions[r]->end - m->regions[r]->start) >> PAGE_SHIFT;
    metadata_count(m, &now);
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    *out = now;
}
