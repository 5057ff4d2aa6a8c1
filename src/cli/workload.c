#include "cli/workload.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "core/error.h"

#define SWEEP_CHUNK ORACLE_CHUNK        /* pages that a thread takes at a time */
#define STACK_SIZE (1024UL * 1024)      /* several times what a thread uses, trap sigbus included */
#define SWEEP_WHOLE (UINT64_C(1) << 20) /* a region of so many pages is swept whole */
#define SWEEP_SAMPLES 4096
#define SWEEP_FAILURES_MAX 256 /* then it gives up */
#define REWRITE_SHARE 64       /* one write in so many changes nothing */

static uint64_t random_next(uint64_t *state)
{
    *state += UINT64_C(0x9e3779b97f4a7c15);
    return oracle_mix(*state);
}

/* Less than bound; the bias is below bound / 2^64. */
static uint64_t random_below(uint64_t *state, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)random_next(state) * bound) >> 64);
}

/* Counters have one writer each, so no locked instruction is needed. */
static void count_one(_Atomic uint64_t *counter)
{
    uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);

    atomic_store_explicit(counter, value + 1, memory_order_relaxed);
}

static void complain(struct workload *w, const struct oracle_hold *hold, unsigned position,
                     uint64_t expected, uint64_t found)
{
    uint64_t second[ACCESS_PAGE_WORDS];
    struct oracle_mismatch mismatch = {.hold = hold,
                                       .address = access_address(&w->access, hold->page),
                                       .position = position,
                                       .expected = expected,
                                       .found = found};

    if (access_load_page(&w->access, hold->page, second) == 0)
        mismatch.second = second;
    oracle_complain(w->oracle, &mismatch);
}

/* The page is held; whether it could be had. */
static bool page_verify(struct workload *w, const struct oracle_hold *hold, uint64_t salt)
{
    struct oracle_content content;
    uint64_t found[ORACLE_WORDS];

    oracle_content(w->oracle, hold->page, hold->generation, salt, &content);
    if (access_load(&w->access, hold->page, content.positions, found, ORACLE_WORDS) != 0)
        return false;
    for (unsigned i = 0; i < ORACLE_WORDS && !hold->torn; i++) {
        if (found[i] == content.values[i])
            continue;
        complain(w, hold, content.positions[i], content.values[i], found[i]);
        break;
    }
    return true;
}

static bool page_read(struct workload *w, uint64_t page, uint64_t salt)
{
    struct oracle_hold hold = oracle_read_begin(w->oracle, page);
    bool had = page_verify(w, &hold, salt);

    oracle_read_end(w->oracle, &hold);
    return had;
}

static bool page_write(struct workload *w, uint64_t page, bool rewrite)
{
    struct oracle_hold hold = oracle_write_begin(w->oracle, page);
    uint32_t generation = hold.generation;
    struct oracle_content content;
    bool failed;

    if (!rewrite || hold.torn)
        generation = oracle_next(w->oracle, &hold);
    oracle_content(w->oracle, page, generation, 0, &content);
    if (content.clear)
        failed = access_clear(&w->access, page) != 0;
    else
        failed =
            access_store(&w->access, page, content.positions, content.values, ORACLE_WORDS) != 0;
    if (failed && generation != hold.generation)
        atomic_fetch_add_explicit(&w->torn, 1, memory_order_relaxed);
    oracle_write_end(w->oracle, &hold, generation, failed && generation != hold.generation);
    return !failed;
}

static bool access_one(struct worker *worker, uint64_t page)
{
    struct workload *w = worker->load;
    uint64_t draw = random_next(&worker->random);
    bool write = (draw >> 32) * 100 >> 32 < w->write_percent;

    if (!write)
        return page_read(w, page, draw);
    count_one(&worker->writes);
    return page_write(w, page, (uint32_t)draw % REWRITE_SHARE == 0);
}

static void give_up(struct workload *w)
{
    atomic_store(&w->gave_up, true);
    workload_stop(w);
}

/* Each failure may take long: a run that has no other end ends when there have been too many. */
static void run_failed(struct worker *worker)
{
    struct workload *w = worker->load;

    count_one(&worker->failed);
    if (w->failures_max > 0 && workload_totals(w).failed >= w->failures_max)
        give_up(w);
}

static void run(struct worker *worker)
{
    struct workload *w = worker->load;
    uint64_t left = worker->quota;

    while (left > 0) {
        uint64_t page = random_below(&worker->random, w->pages);
        uint64_t length = 1 + random_below(&worker->random, w->run_max);

        if (length > w->pages - page)
            length = w->pages - page;
        for (; length > 0 && left > 0; length--, left--, page++) {
            if (atomic_load_explicit(&w->stop, memory_order_relaxed))
                return;
            if (!access_one(worker, page))
                run_failed(worker);
            count_one(&worker->accesses);
        }
    }
}

/* Every word of the page is checked; only a torn page is merely touched. */
static bool page_sweep(struct workload *w, uint64_t page)
{
    struct oracle_hold hold = oracle_read_begin(w->oracle, page);
    uint64_t expected[ACCESS_PAGE_WORDS], found[ACCESS_PAGE_WORDS];
    bool had = access_load_page(&w->access, page, found) == 0;

    if (had && !hold.torn) {
        oracle_page(w->oracle, page, hold.generation, expected);
        if (memcmp(expected, found, sizeof(expected)) != 0) {
            unsigned i = 0;

            while (expected[i] == found[i])
                i++;
            complain(w, &hold, i, expected[i], found[i]);
        }
    }
    oracle_read_end(w->oracle, &hold);
    return had;
}

/* The pages of a chunk to check: [*page, *end). */
static void chunk_plan(const struct workload *w, uint64_t chunk, uint64_t *page, uint64_t *end)
{
    *page = chunk * SWEEP_CHUNK;
    *end = *page + SWEEP_CHUNK < w->pages ? *page + SWEEP_CHUNK : w->pages;
    if (w->sample_every == 1 || oracle_chunk_held(w->oracle, chunk))
        return;
    if (chunk % w->sample_every == 0) {
        *page += oracle_mix(w->seed + chunk) % (*end - *page);
        *end = *page + 1;
    } else {
        *end = *page;
    }
}

static void sweep(struct worker *worker)
{
    struct workload *w = worker->load;

    for (;;) {
        uint64_t page = atomic_fetch_add_explicit(&w->cursor, SWEEP_CHUNK, memory_order_relaxed);
        uint64_t end;

        if (page >= w->pages)
            return;
        for (chunk_plan(w, page / SWEEP_CHUNK, &page, &end); page < end; page++) {
            if (atomic_load_explicit(&w->stop, memory_order_relaxed))
                return;
            if (page_sweep(w, page)) {
                count_one(&worker->swept);
                continue;
            }
            count_one(&worker->failed);
            if (atomic_fetch_add(&w->sweep_failed, 1) + 1 >= SWEEP_FAILURES_MAX)
                give_up(w);
        }
    }
}

void workload_plan_sweep(struct workload *w)
{
    uint64_t chunks = oracle_chunks(w->oracle), others = chunks - oracle_chunks_held(w->oracle);

    w->sample_every = 1;
    w->sweep_pages = w->pages;
    w->sampled = 0;
    if (w->pages <= SWEEP_WHOLE || others <= SWEEP_SAMPLES)
        return;
    w->sample_every = (chunks + SWEEP_SAMPLES - 1) / SWEEP_SAMPLES;
    w->sweep_pages = 0;
    for (uint64_t chunk = 0; chunk < chunks; chunk++) {
        uint64_t page, end;

        chunk_plan(w, chunk, &page, &end);
        w->sweep_pages += end - page;
        w->sampled += end - page == 1 && !oracle_chunk_held(w->oracle, chunk);
    }
}

static void thread_end(struct workload *w)
{
    if (atomic_fetch_sub(&w->running, 1) == 1)
        pthread_kill(w->waiter, SIGUSR1);
}

static void *thread_run(void *argument)
{
    struct worker *worker = argument;

    access_guard_thread();
    run(worker);
    thread_end(worker->load);
    return NULL;
}

static void *thread_sweep(void *argument)
{
    struct worker *worker = argument;

    access_guard_thread();
    sweep(worker);
    thread_end(worker->load);
    return NULL;
}

static int workers_make(struct workload *w)
{
    w->workers = aligned_alloc(_Alignof(struct worker), w->threads * sizeof(*w->workers));
    if (w->workers == NULL)
        return error_set(-ENOMEM, "no memory for %u threads", w->threads);
    memset(w->workers, 0, w->threads * sizeof(*w->workers));
    for (unsigned i = 0; i < w->threads; i++) {
        struct worker *worker = &w->workers[i];

        worker->load = w;
        worker->number = i;
        worker->random = oracle_mix(w->seed ^ oracle_mix(i + 1));
        worker->quota = UINT64_MAX;
        if (w->accesses > 0)
            worker->quota = w->accesses / w->threads + (i < w->accesses % w->threads);
    }
    return 0;
}

/* What keeps a thread from starting: the kernel says EAGAIN for each. */
static const char *thread_remedy(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        return "address space is limited: raise `ulimit -v`, or give fewer --threads";
    return "raise `ulimit -u`, or give fewer --threads";
}

int workload_start(struct workload *w, enum workload_phase phase)
{
    int result = w->workers == NULL ? workers_make(w) : 0;
    pthread_attr_t attributes;

    if (result != 0)
        return result;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    w->waiter = pthread_self();
    atomic_store(&w->stop, false);
    atomic_store(&w->gave_up, false);
    /* One more than threads, given back below, so that none that ends early is the last. */
    atomic_store(&w->running, w->threads + 1);
    for (w->started = 0; w->started < w->threads; w->started++) {
        struct worker *worker = &w->workers[w->started];

        result = pthread_create(&worker->thread, &attributes,
                                phase == WORKLOAD_RUN ? thread_run : thread_sweep, worker);
        if (result != 0)
            break;
    }
    pthread_attr_destroy(&attributes);
    if (result != 0) {
        workload_stop(w);
        workload_join(w);
        return error_set(-result, "cannot start thread %u of %u: %s; %s", w->started + 1,
                         w->threads, strerror(result), thread_remedy());
    }
    thread_end(w);
    return 0;
}

void workload_stop(struct workload *w)
{
    atomic_store(&w->stop, true);
}

bool workload_running(const struct workload *w)
{
    return atomic_load(&w->running) > 0;
}

void workload_join(struct workload *w)
{
    for (unsigned i = 0; i < w->started; i++)
        pthread_join(w->workers[i].thread, NULL);
    atomic_store(&w->cursor, 0);
}

struct workload_totals workload_totals(const struct workload *w)
{
    struct workload_totals totals = {0};

    for (unsigned i = 0; w->workers != NULL && i < w->threads; i++) {
        const struct worker *worker = &w->workers[i];

        totals.accesses += atomic_load_explicit(&worker->accesses, memory_order_relaxed);
        totals.writes += atomic_load_explicit(&worker->writes, memory_order_relaxed);
        totals.failed += atomic_load_explicit(&worker->failed, memory_order_relaxed);
        totals.swept += atomic_load_explicit(&worker->swept, memory_order_relaxed);
    }
    return totals;
}

void workload_free(struct workload *w)
{
    free(w->workers);
    w->workers = NULL;
}
