#include "workload.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "content.h"
#include "latency.h"
#include "vmsm.h"

#define PREFAULT_VECTOR 64
#define PROGRESS_STEP 64  /* touches after which a thread tells the others */
#define MOVING_TOUCHES 16 /* while the window slides by a page */
#define HOT_PERCENT 90    /* of the touches */
#define WRONG_MAX 10      /* complaints of a thread before it stops */

/*
 * Those that only read come first, and of the others those that scatter pages' places in swap or
 * pagefile least: cells are measured in this order, and what one has scattered the next one reads.
 */
const struct workload workload_table[] = {
    {.name = "fill", .sweeps = true, .help = "first write of every page", .pattern = FILL},
    {.name = "scan",
     .sweeps = true,
     .help = "sequential reads, again and again",
     .pattern = SCAN,
     .step = 1,
     .warm = 1},
    {.name = "scanback", .help = "the same backward", .pattern = SCAN, .step = -1, .warm = 1},
    {.name = "stride", .help = "reads of every 16th page", .pattern = SCAN, .step = 16, .warm = 1},
    {.name = "flood",
     .help = "a hot set of 1/2 of memory, and a scan of the rest, in turn",
     .pattern = FLOOD,
     .random = true,
     .warm = 8},
    {.name = "run64",
     .help = "random runs of 1 to 64 pages, reads",
     .pattern = RUNS,
     .run_max = 64,
     .random = true,
     .warm = 0.5},
    {.name = "run32",
     .sweeps = true,
     .help = "random runs of 1 to 32 pages, reads",
     .pattern = RUNS,
     .run_max = 32,
     .random = true,
     .warm = 0.5},
    {.name = "rand",
     .sweeps = true,
     .help = "random reads of one page",
     .pattern = RUNS,
     .run_max = 1,
     .random = true,
     .warm = 0.5},
    {.name = "chase",
     .help = "pointer chasing through all pages, in random order",
     .pattern = CHASE,
     .random = true,
     .warm = 0.5},
    {.name = "prefault",
     .help = "vmsm_prefault() of 64 random pages at a time (managed)",
     .pattern = PREFAULT,
     .managed_only = true,
     .random = true,
     .threads = 1,
     .warm = 0.5},
    {.name = "hits",
     .help = "random reads where all of it fits",
     .pattern = RUNS,
     .run_max = 1,
     .fits = true,
     .warm = 1},
    {.name = "scanw50",
     .help = "scan, 50 % writes",
     .pattern = SCAN,
     .step = 1,
     .write_percent = 50,
     .warm = 2},
    {.name = "run64w10",
     .help = "runs to 64, 10 % writes",
     .pattern = RUNS,
     .run_max = 64,
     .write_percent = 10,
     .random = true,
     .warm = 1},
    {.name = "run64w50",
     .help = "runs to 64, 50 % writes",
     .pattern = RUNS,
     .run_max = 64,
     .write_percent = 50,
     .random = true,
     .warm = 1},
    {.name = "run32w10",
     .help = "runs to 32, 10 % writes",
     .pattern = RUNS,
     .run_max = 32,
     .write_percent = 10,
     .random = true,
     .warm = 1},
    {.name = "run32w50",
     .sweeps = true,
     .help = "runs to 32, 50 % writes",
     .pattern = RUNS,
     .run_max = 32,
     .write_percent = 50,
     .random = true,
     .warm = 1},
    {.name = "zipf0.9",
     .sweeps = true,
     .help = "pages of Zipf popularity 0.9, 10 % writes",
     .pattern = ZIPF,
     .skew = 0.9,
     .write_percent = 10,
     .random = true,
     .warm = 6},
    {.name = "zipf1.2",
     .help = "the same, 1.2",
     .pattern = ZIPF,
     .skew = 1.2,
     .write_percent = 10,
     .random = true,
     .warm = 12},
    {.name = "hot",
     .help = "90 % of the touches in a tenth of the pages, 10 % writes",
     .pattern = HOT,
     .write_percent = 10,
     .random = true,
     .warm = 10},
    {.name = "moving",
     .help = "a working set of 3/4 of memory that slides, 10 % writes",
     .pattern = MOVING,
     .write_percent = 10,
     .random = true,
     .warm = 16},
    {.name = "rmw",
     .sweeps = true,
     .help = "random read-modify-writes of one page",
     .pattern = RUNS,
     .run_max = 1,
     .write_percent = 100,
     .modify = true,
     .random = true,
     .warm = 1.5},
    {.name = "run1w50",
     .help = "random pages, 50 % writes",
     .pattern = RUNS,
     .run_max = 1,
     .write_percent = 50,
     .random = true,
     .warm = 1.5},
    {.name = "fill-c", .help = "fill, compressible content", .pattern = FILL, .compressible = true},
    {.name = "scan-c",
     .help = "scan, compressible content",
     .pattern = SCAN,
     .step = 1,
     .compressible = true,
     .warm = 1},
    {.name = "rand-c",
     .help = "rand, compressible content",
     .pattern = RUNS,
     .run_max = 1,
     .compressible = true,
     .random = true,
     .warm = 0.5},
    {.name = "run32w50-c",
     .help = "run32w50, compressible content",
     .pattern = RUNS,
     .run_max = 32,
     .write_percent = 50,
     .compressible = true,
     .random = true,
     .warm = 1},
};

const size_t workload_count = sizeof(workload_table) / sizeof(workload_table[0]);

const struct workload *workload_find(const char *name)
{
    for (size_t i = 0; i < workload_count; i++)
        if (strcmp(workload_table[i].name, name) == 0)
            return &workload_table[i];
    return NULL;
}

static uint64_t moving_window(uint64_t pages, uint64_t budget_pages)
{
    return budget_pages * 3 / 4 < pages ? budget_pages * 3 / 4 : pages;
}

/* The pages that the window begins with come in all at once, and those that come in together tend
 * to go together: hits swing until it has moved by its own length, and again after that. */
uint64_t workload_phases(const struct workload *w, uint64_t pages, uint64_t budget_pages)
{
    return w->pattern == MOVING ? moving_window(pages, budget_pages) * MOVING_TOUCHES : 0;
}

/* What the threads of a run share. */
struct crew {
    const struct workload_run *run;
    struct content content;
    struct zipf zipf;
    pthread_mutex_t gate; /* held until all threads are there */
    unsigned at_work;     /* threads; under the gate's lock */
    pthread_cond_t ended; /* the last of them has */
    atomic_bool stop;
    _Atomic uint64_t progress; /* touches, told in steps */
};

struct worker {
    struct crew *crew;
    struct latency *latency;
    pthread_t thread;
    unsigned index;
    uint64_t random, touches, wrong;
    uint64_t most; /* touches */
    uint64_t link; /* the last page's */
    uint64_t base; /* moving: of the window */
    struct {
        uint64_t first, next, end;
    } scan; /* flood: this thread's pages */
    int error;
};

static bool worker_goes_on(const struct worker *w)
{
    return !atomic_load_explicit(&w->crew->stop, memory_order_relaxed) && w->touches < w->most &&
           w->wrong < WRONG_MAX && w->error == 0;
}

/* One read, write or read-modify-write of a page. */
static void touch(struct worker *w, uint64_t page, bool write)
{
    const struct workload_run *r = w->crew->run;
    const struct content *content = &w->crew->content;
    uint64_t *words = (uint64_t *)(void *)(r->base + page * PAGE_BYTES);
    uint32_t generation = page_lock(&r->generations[page]);
    uint64_t begin = ticks_now();

    if ((!write || r->workload->modify) && !page_verify(content, words, page, generation))
        w->wrong++;
    if (write) {
        generation = (generation + 1) & ~PAGE_LOCKED;
        page_stamp(words, page, generation);
    } else {
        w->link = words[0];
    }
    latency_add(w->latency, begin, ticks_now());
    page_unlock(&r->generations[page], generation);
    w->touches++;
}

static bool write_drawn(struct worker *w)
{
    unsigned percent = w->crew->run->workload->write_percent;

    return percent > 0 && random_below(&w->random, 100) < percent;
}

/* Touches that this thread has behind it, had all been equally quick. */
static uint64_t passed(const struct worker *w)
{
    return w->crew->run->passed / w->crew->run->threads;
}

/* Of `pages`, those from *begin to *end are this thread's. */
static void share_find(const struct worker *w, uint64_t pages, uint64_t *begin, uint64_t *end)
{
    unsigned threads = w->crew->run->threads;

    *begin = pages * w->index / threads;
    *end = pages * (w->index + 1) / threads;
}

static void worker_fill(struct worker *w)
{
    const struct workload_run *r = w->crew->run;
    uint64_t page, end;

    for (share_find(w, r->pages, &page, &end); page < end && worker_goes_on(w); page++) {
        uint64_t *words = (uint64_t *)(void *)(r->base + page * PAGE_BYTES);
        uint64_t start = ticks_now();

        page_fill(&w->crew->content, words, page);
        latency_add(w->latency, start, ticks_now());
        page_unlock(&r->generations[page], 1);
        w->touches++;
    }
}

static void worker_scan(struct worker *w)
{
    uint64_t step = (uint64_t)abs(w->crew->run->workload->step);
    bool backward = w->crew->run->workload->step < 0;
    uint64_t begin, end, length, skip;

    share_find(w, w->crew->run->pages, &begin, &end);
    length = (end - begin) / step > 0 ? (end - begin) / step : 1;
    skip = passed(w) % length;
    /* Each pass starts a page later, so that a stride reaches all pages in the end. */
    for (uint64_t pass = passed(w) / length; worker_goes_on(w) && begin < end; pass++) {
        for (uint64_t i = begin + pass % step + skip * step; i < end && worker_goes_on(w);
             i += step)
            touch(w, backward ? begin + end - 1 - i : i, write_drawn(w));
        skip = 0;
    }
}

static void worker_runs(struct worker *w)
{
    const struct workload_run *r = w->crew->run;
    unsigned most = r->workload->run_max < r->pages ? r->workload->run_max : (unsigned)r->pages;

    while (worker_goes_on(w)) {
        uint64_t length = 1 + random_below(&w->random, most);
        uint64_t page = random_below(&w->random, r->pages - length + 1);

        if (r->runs != NULL)
            atomic_store_explicit(&r->runs[w->index], page << 32 | (page + length),
                                  memory_order_relaxed);
        for (uint64_t i = 0; i < length; i++)
            touch(w, page + i, write_drawn(w));
    }
}

/* ---- Workloads of single pages: each is drawn by itself, whether it is touched or not ---- */

static uint64_t zipf_page(struct worker *w)
{
    const struct crew *c = w->crew;

    return permutation_at(&c->content.cycle, zipf_draw(&c->zipf, &w->random) - 1);
}

static uint64_t hot_page(struct worker *w)
{
    const struct crew *c = w->crew;
    uint64_t pages = c->run->pages, hot = pages / 10 + 1;
    uint64_t index = random_below(&w->random, 100) < HOT_PERCENT
                         ? random_below(&w->random, hot)
                         : hot + random_below(&w->random, pages - hot);

    return permutation_at(&c->content.cycle, index);
}

static uint64_t moving_page(struct worker *w)
{
    const struct workload_run *r = w->crew->run;

    if (w->touches % PROGRESS_STEP == 0)
        w->base =
            atomic_fetch_add_explicit(&w->crew->progress, PROGRESS_STEP, memory_order_relaxed) /
            MOVING_TOUCHES;
    return (w->base + random_below(&w->random, moving_window(r->pages, r->budget_pages))) %
           r->pages;
}

static uint64_t flood_page(struct worker *w)
{
    const struct workload_run *r = w->crew->run;
    uint64_t hot = r->budget_pages < r->pages ? r->budget_pages / 2 : r->pages / 2, page;

    if (w->touches == 0) {
        share_find(w, r->pages - hot, &w->scan.first, &w->scan.end);
        w->scan.first += hot;
        w->scan.end += hot;
        w->scan.next = w->scan.first + passed(w) / 2 % (w->scan.end - w->scan.first);
    }
    if (w->touches % 2 == 0)
        return random_below(&w->random, hot);
    page = w->scan.next++;
    if (w->scan.next == w->scan.end)
        w->scan.next = w->scan.first;
    return page;
}

typedef uint64_t page_draw(struct worker *w);

static page_draw *const page_draws[] = {
    [ZIPF] = zipf_page, [HOT] = hot_page, [MOVING] = moving_page, [FLOOD] = flood_page};

static void worker_draws(struct worker *w)
{
    page_draw *draw = page_draws[w->crew->run->workload->pattern];

    while (worker_goes_on(w)) {
        uint64_t page = draw(w);

        touch(w, page, write_drawn(w));
    }
}

/* ---- And those that depend on what they find ---- */

static void worker_chase(struct worker *w)
{
    const struct workload_run *r = w->crew->run;
    uint64_t page = random_below(&w->random, r->pages);

    while (worker_goes_on(w)) {
        touch(w, page, false);
        if (w->link != link_word(&w->crew->content, page)) {
            page_wrong((uint64_t *)(void *)(r->base + page * PAGE_BYTES), page, 0,
                       link_word(&w->crew->content, page), 0);
            w->wrong++;
            return;
        }
        page = w->link - 1;
    }
}

static void worker_prefault(struct worker *w)
{
    const struct workload_run *r = w->crew->run;
    struct iovec ranges[PREFAULT_VECTOR];
    uint64_t pages[PREFAULT_VECTOR];
    struct latency ignored = {0}, *latency = w->latency;

    while (worker_goes_on(w)) {
        uint64_t begin;

        for (unsigned i = 0; i < PREFAULT_VECTOR; i++) {
            pages[i] = random_below(&w->random, r->pages);
            ranges[i] = (struct iovec){r->base + pages[i] * PAGE_BYTES, PAGE_BYTES};
        }
        begin = ticks_now();
        w->error = vmsm_prefault(r->vmsm, ranges, PREFAULT_VECTOR);
        latency_add(latency, begin, ticks_now());
        w->latency = &ignored;
        for (unsigned i = 0; i < PREFAULT_VECTOR && w->error == 0; i++)
            touch(w, pages[i], false);
        w->latency = latency;
    }
    if (w->error < 0)
        fprintf(stderr, "bench: prefault: %s\n", vmsm_last_error());
}

static void *worker_main(void *arg)
{
    static void (*const patterns[])(struct worker *) = {
        [FILL] = worker_fill,   [SCAN] = worker_scan,   [RUNS] = worker_runs,
        [ZIPF] = worker_draws,  [HOT] = worker_draws,   [MOVING] = worker_draws,
        [FLOOD] = worker_draws, [CHASE] = worker_chase, [PREFAULT] = worker_prefault,
    };
    struct worker *w = arg;

    pthread_mutex_lock(&w->crew->gate);
    pthread_mutex_unlock(&w->crew->gate);
    patterns[w->crew->run->workload->pattern](w);
    pthread_mutex_lock(&w->crew->gate);
    if (--w->crew->at_work == 0)
        pthread_cond_signal(&w->crew->ended);
    pthread_mutex_unlock(&w->crew->gate);
    return NULL;
}

static struct timespec time_in(double seconds)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += (time_t)seconds;
    at.tv_nsec += (long)((seconds - floor(seconds)) * 1e9);
    if (at.tv_nsec >= 1000000000) {
        at.tv_nsec -= 1000000000;
        at.tv_sec++;
    }
    return at;
}

static void crew_init(struct crew *c, const struct workload_run *run)
{
    *c = (struct crew){.run = run,
                       .content = {.compressible = run->workload->compressible,
                                   .cycle = permutation_make(run->pages)},
                       .gate = PTHREAD_MUTEX_INITIALIZER,
                       .ended = PTHREAD_COND_INITIALIZER,
                       .progress = run->passed};
    if (run->workload->pattern == ZIPF)
        c->zipf = zipf_make(run->pages, run->workload->skew);
}

/* Each cell draws numbers of its own: with those of the cell before it, a slow kind of memory would be
 * asked for the places that it has just read, and a quick one, which got farther, for others. */
static uint64_t draws_begin(const struct workload_run *run, unsigned index)
{
    uint64_t cell = run->threads;

    for (const char *c = run->workload->name; *c != '\0'; c++)
        cell = mix(cell + GOLDEN) ^ (unsigned char)*c;
    return mix(mix(run->seed) + cell) ^ mix(index + 1);
}

static struct worker worker_make(struct crew *c, unsigned index)
{
    return (struct worker){
        .crew = c, .index = index, .random = draws_begin(c->run, index), .most = UINT64_MAX};
}

/* Start the threads behind the gate; how many there are now. */
static unsigned workers_start(struct crew *c, struct worker *workers, struct latency *latencies)
{
    const struct workload_run *r = c->run;

    for (unsigned i = 0; i < r->threads; i++) {
        int error;

        workers[i] = worker_make(c, i);
        workers[i].latency = &latencies[i];
        if (r->most > 0)
            workers[i].most = (r->most + r->threads - 1) / r->threads;
        error = pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]);
        if (error != 0) {
            fprintf(stderr, "bench: cannot start thread %u of %u: %s; use fewer (--threads)\n",
                    i + 1, r->threads, strerror(error));
            return i;
        }
    }
    return r->threads;
}

/* Until all have ended, or so many seconds are over. */
static void workers_wait(struct crew *c, double seconds)
{
    struct timespec until = time_in(seconds);
    int error = 0;

    pthread_mutex_lock(&c->gate);
    while (c->at_work > 0 && error == 0)
        error = pthread_cond_clockwait(&c->ended, &c->gate, CLOCK_MONOTONIC, &until);
    pthread_mutex_unlock(&c->gate);
}

static void result_make(struct workload_result *out, const struct latency *merged,
                        double ticks_a_second)
{
    out->p50 = latency_percentile(merged, 0.5) / ticks_a_second;
    out->p99 = latency_percentile(merged, 0.99) / ticks_a_second;
    out->p999 = latency_percentile(merged, 0.999) / ticks_a_second;
    out->worst = (double)merged->most / ticks_a_second;
}

/* Let them go, wait for them, add up. */
static int crew_run(struct crew *c, struct worker *workers, struct latency *latencies,
                    struct workload_result *out)
{
    const struct workload_run *r = c->run;
    uint64_t ticks;
    unsigned started;
    double begin;
    int result = 0;

    pthread_mutex_lock(&c->gate);
    started = workers_start(c, workers, latencies);
    c->at_work = started;
    if (started < r->threads) {
        atomic_store(&c->stop, true);
        result = -EAGAIN;
    }
    begin = seconds_now();
    ticks = ticks_now();
    pthread_mutex_unlock(&c->gate);
    if (r->workload->pattern != FILL) {
        workers_wait(c, r->seconds);
        atomic_store(&c->stop, true);
    }
    for (unsigned i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
        out->touches += workers[i].touches;
        out->wrong += workers[i].wrong;
        if (workers[i].error < 0)
            result = workers[i].error;
        if (i > 0)
            latency_merge(&latencies[0], &latencies[i]);
    }
    out->seconds = seconds_now() - begin;
    result_make(out, &latencies[0], (double)(ticks_now() - ticks) / out->seconds);
    return result;
}

int workload_run(const struct workload_run *run, struct workload_result *result)
{
    struct crew crew;
    size_t size = run->threads * sizeof(struct latency);
    struct worker *workers = calloc(run->threads, sizeof(*workers));
    struct latency *latencies =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    int status = -ENOMEM;

    memset(result, 0, sizeof(*result));
    if (workers == NULL || latencies == MAP_FAILED) {
        fprintf(stderr, "bench: no memory for %u threads; use fewer (--threads)\n", run->threads);
        goto out;
    }
    /* Without the right to lock it stays where it is anyway: it is used all the time. */
    mlock(latencies, size);
    crew_init(&crew, run);
    status = crew_run(&crew, workers, latencies, result);
out:
    if (latencies != MAP_FAILED)
        munmap(latencies, size);
    free(workers);
    return status;
}

int workload_trace(const struct workload_run *run, uint32_t *pages, size_t count)
{
    page_draw *draw = page_draws[run->workload->pattern];
    struct worker *workers = calloc(run->threads, sizeof(*workers));
    struct crew crew;

    if (workers == NULL)
        return -ENOMEM;
    crew_init(&crew, run);
    for (unsigned i = 0; i < run->threads; i++)
        workers[i] = worker_make(&crew, i);
    for (size_t i = 0; i < count; i++) {
        struct worker *w = &workers[i % run->threads];

        pages[i] = (uint32_t)draw(w);
        write_drawn(w);
        w->touches++;
    }
    free(workers);
    return 0;
}

bool workload_popular(const struct workload_run *run, uint64_t rank, uint64_t *page)
{
    struct permutation cycle = permutation_make(run->pages);
    enum workload_pattern pattern = run->workload->pattern;

    *page = pattern == FLOOD ? rank : permutation_at(&cycle, rank);
    return pattern == ZIPF || pattern == HOT || pattern == FLOOD;
}
