/*
 * The smallest pagers: threads read single pages at random, of which a share is in memory. A fault
 * reads the page with O_DIRECT, puts it there, and every so often the oldest are dropped together.
 * No page is written, none is looked up, nothing is kept but the order in which pages came.
 */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bound.h"
#include "draw.h"

#define DROP 256u       /* pages dropped together */
#define RUN 64u         /* pages that are put there at once before it begins */
#define WARM_UP_PART 5  /* of the measured time */
#define NAP_NS 1000000L /* while it runs, and to see threads end */

const unsigned bound_threads[BOUND_CROWDS] = {1, 2, 8, 16};

/* (o) guards itself or atomic; the rest is constant while threads run */
static struct pager {
    struct range range;
    int file;
    uint32_t *order;          /* the page that came n-th is at n % pages; its owner's */
    _Atomic uint64_t arrived; /* (o) pages that came */
    uint64_t most;            /* pages in memory */
    _Atomic uint64_t touches; /* (o) */
    _Atomic bool counts;      /* (o) the touches, for their time */
    _Atomic bool stop, wrong; /* (o) */
    _Atomic int error;        /* (o) */
} pager;

static __thread char *own_page; /* where a thread reads into, in its signal handler */

static void failure_note(int error)
{
    atomic_store(&pager.error, error);
    atomic_store(&pager.stop, true);
}

/* The page has come. Who completes a batch drops the one that is oldest by then. */
static void order_push(size_t page)
{
    uint64_t n = atomic_fetch_add(&pager.arrived, 1);
    struct iovec pieces[DROP];

    pager.order[n % pager.range.pages] = (uint32_t)page;
    if ((n + 1) % DROP != 0 || n + 1 < pager.most + DROP)
        return;
    for (uint64_t i = 0; i < DROP; i++) {
        uint64_t old = n + 1 - pager.most - DROP + i;

        pieces[i] =
            (struct iovec){.iov_base = pager.range.base +
                                       (size_t)pager.order[old % pager.range.pages] * BOUND_PAGE,
                           .iov_len = BOUND_PAGE};
    }
    if (range_drop(pieces, DROP) < 0)
        failure_note(-EIO);
}

/* Another thread may have been as quick. */
static void page_put(size_t page, const void *content)
{
    int error = range_copy(&pager.range, page, content, 1);

    if (error == 0)
        order_push(page);
    else if (error != -EEXIST)
        failure_note(error);
}

/* ---- In the faulting thread ---- */

static void sigbus_handle(int signal, siginfo_t *info, void *context)
{
    size_t page = (size_t)((char *)info->si_addr - pager.range.base) / BOUND_PAGE;
    int saved = errno;

    (void)signal;
    (void)context;
    if (page >= pager.range.pages ||
        pread(pager.file, own_page, BOUND_PAGE, (off_t)(page * BOUND_PAGE)) != BOUND_PAGE)
        _exit(1); /* the access would fault for ever */
    page_put(page, own_page);
    errno = saved;
}

/* ---- In a handler thread ---- */

static size_t faults[HANDLER_READS]; /* what each of the handler's reads is for */

static bool fault_take(size_t page, unsigned slot, struct handler_read *read)
{
    faults[slot] = page;
    *read = (struct handler_read){.page = page, .count = 1};
    return true;
}

static void fault_answer(unsigned slot, const char *content)
{
    page_put(faults[slot], content);
}

/* ---- The threads that touch ---- */

struct toucher {
    pthread_t thread;
    uint64_t seed;
    struct latency latency;
};

static void *toucher_main(void *argument)
{
    struct toucher *t = argument;
    uint64_t random = t->seed;

    own_page = aligned_alloc(BOUND_PAGE, BOUND_PAGE);
    if (own_page == NULL)
        failure_note(-ENOMEM);
    while (!atomic_load_explicit(&pager.stop, memory_order_relaxed)) {
        uint64_t page = random_below(&random, pager.range.pages), begin = ticks_now();

        if (*(volatile uint64_t *)(void *)(pager.range.base + page * BOUND_PAGE) !=
            bound_word(page))
            atomic_store(&pager.wrong, true);
        if (atomic_load_explicit(&pager.counts, memory_order_relaxed))
            latency_add(&t->latency, begin, ticks_now());
        atomic_fetch_add_explicit(&pager.touches, 1, memory_order_relaxed);
    }
    free(own_page);
    return NULL;
}

static void sleep_for(double seconds)
{
    double until = seconds_now() + seconds;
    const struct timespec nap = {.tv_nsec = NAP_NS};

    while (seconds_now() < until && !atomic_load(&pager.stop))
        nanosleep(&nap, NULL);
}

/* Memory is full from the start: its first pages, in order. */
static int memory_fill(void)
{
    char *buffer = buffer_make(RUN * (size_t)BOUND_PAGE);
    int error = buffer == NULL ? -ENOMEM : 0;

    for (size_t page = 0; page < pager.most / RUN * RUN && error == 0; page += RUN) {
        if (pread(pager.file, buffer, RUN * (size_t)BOUND_PAGE, (off_t)(page * BOUND_PAGE)) !=
            (ssize_t)(RUN * BOUND_PAGE))
            error = -EIO;
        else
            error = range_copy(&pager.range, page, buffer, RUN);
        for (size_t i = 0; i < RUN; i++)
            order_push(page + i);
    }
    buffer_free(buffer, RUN * (size_t)BOUND_PAGE);
    return error;
}

static int touchers_start(struct toucher *touchers, unsigned threads, uint64_t seed,
                          unsigned *started)
{
    for (*started = 0; *started < threads; ++*started) {
        struct toucher *t = &touchers[*started];
        int error;

        t->seed = *started + 1 + seed;
        error = pthread_create(&t->thread, NULL, toucher_main, t);
        if (error != 0)
            return -error;
    }
    return 0;
}

/* Warm up, then count. */
static void touchers_measure(struct bound *b, struct bound_speed *speed, struct toucher *touchers,
                             unsigned threads)
{
    double begin, cpu, seconds;
    uint64_t touches, arrived, ticks;

    sleep_for(b->options.seconds / WARM_UP_PART);
    begin = seconds_now();
    ticks = ticks_now();
    cpu = cpu_now();
    touches = atomic_load(&pager.touches);
    arrived = atomic_load(&pager.arrived);
    atomic_store(&pager.counts, true);
    sleep_for(b->options.seconds);
    touches = atomic_load(&pager.touches) - touches;
    arrived = atomic_load(&pager.arrived) - arrived;
    seconds = seconds_now() - begin;
    ticks = ticks_now() - ticks;
    speed->rate.rounds[b->round] = (double)touches / seconds;
    speed->cpu.rounds[b->round] = arrived > 0 ? (cpu_now() - cpu) / (double)arrived : NAN;
    atomic_store(&pager.stop, true);
    for (unsigned i = 0; i < threads; i++)
        pthread_join(touchers[i].thread, NULL);
    for (unsigned i = 1; i < threads; i++)
        latency_merge(&touchers[0].latency, &touchers[i].latency);
    speed->p99.rounds[b->round] =
        latency_percentile(&touchers[0].latency, 0.99) * seconds / (double)ticks;
    speed->p999.rounds[b->round] =
        latency_percentile(&touchers[0].latency, 0.999) * seconds / (double)ticks;
}

static int touchers_run(struct bound *b, unsigned threads, struct bound_speed *speed)
{
    struct toucher *touchers = calloc(threads, sizeof(*touchers));
    unsigned started;
    int error =
        touchers == NULL ? -ENOMEM : touchers_start(touchers, threads, 100 * b->round, &started);

    if (error < 0)
        atomic_store(&pager.stop, true);
    if (touchers != NULL)
        touchers_measure(b, speed, touchers, started);
    free(touchers);
    return error;
}

static int pager_run(struct bound *b, enum bound_trap trap, unsigned threads,
                     struct bound_speed *speed)
{
    struct sigaction action = {.sa_sigaction = sigbus_handle, .sa_flags = SA_SIGINFO}, before;
    uint64_t pages = b->options.region / BOUND_PAGE;
    const struct handler_job job = {.range = &pager.range,
                                    .file = b->file,
                                    .most = 1,
                                    .polls = trap == BOUND_POLL,
                                    .take = fault_take,
                                    .answer = fault_answer,
                                    .fail = failure_note};
    struct handler *handler;
    int error;

    pager =
        (struct pager){.file = b->file, .most = (pages * b->options.share / 100 / DROP - 1) * DROP};
    pager.order = calloc(pages, sizeof(*pager.order));
    error = pager.order == NULL ? -ENOMEM : range_open(&pager.range, pages, trap == BOUND_SIGBUS);
    if (error < 0) {
        free(pager.order);
        return error;
    }
    sigaction(SIGBUS, &action, &before);
    error = memory_fill();
    if (error == 0 && trap == BOUND_SIGBUS) {
        error = touchers_run(b, threads, speed);
    } else if (error == 0) {
        error = handler_start(&handler, &job);
        if (error == 0) {
            error = touchers_run(b, threads, speed);
            handler_stop(handler);
        }
    }
    sigaction(SIGBUS, &before, NULL);
    range_close(&pager.range);
    free(pager.order);
    b->wrong = b->wrong || atomic_load(&pager.wrong);
    return error == 0 ? atomic_load(&pager.error) : error;
}

int bound_pagers(struct bound *b)
{
    for (unsigned c = 0; c < BOUND_CROWDS; c++)
        for (enum bound_trap trap = 0; trap < BOUND_TRAPS; trap++) {
            int error = pager_run(b, trap, bound_threads[c], &b->pagers[trap][c]);

            if (error < 0) {
                fprintf(stderr, "bound: the pager failed: %s\n", strerror(-error));
                return error;
            }
        }
    return 0;
}
