/*
 * The smallest pagers in cells of bench: its workloads touch the memory and verify what they read.
 * A fault knows what no pager can: how long the run is that the thread has begun (with a fill, that
 * it goes on), so that each run is one read and, as far as pages are missing side by side, one
 * mapping. The same by SIGBUS without that: it brings a first window, and others when the run goes
 * on.
 *
 * In moving a run is a page, and pages leave in their order, as the window that slides leaves them
 * behind: by then each has been touched for the last time. Who reads more brings all of a group of
 * neighbours, which lie together in the file, as each page has its own place there.
 */
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bound_cell.h"
#include "plan.h"
#include "workload.h"

#define WARM_UP_MOST 2 /* seconds */
#define BUFFERS 32u    /* for faulting threads */

/* In bench's order. */
const enum bound_cell bound_writer_cells[BOUND_WRITER_CELLS] = {
    CELL_fill, CELL_run32, CELL_run32w10, CELL_run32w50, CELL_moving};

const struct bound_window bound_windows[BOUND_WINDOWS] = {
    {4, 4}, {8, 8}, {16, 16}, {24, 8}, {32, 32}};

static struct pagers {
    struct stock stock;
    const struct bound_window
        *window; /* NULL: it is known how long runs are. Nobody touches then */
    bool groups; /* in moving: window->first pages are one. Nobody touches then */
    _Atomic uint64_t runs[BOUND_CELL_THREADS]; /* that are touched: first page << 32 | end */
    char *buffers;                             /* of STOCK_RUN pages, for faulting threads */
    _Atomic unsigned taken;                    /* of them */
    struct stock_claim claims[HANDLER_READS];  /* the handler's */
} pagers;

/* Where a thread reads into, in its signal handler; the threads of a cell are new ones. */
static __thread char *own_buffer;
static __thread size_t own_page, own_end; /* its last window */

/* The end of the run that the page is in. */
static size_t run_end(size_t page)
{
    for (unsigned i = 0; i < BOUND_CELL_THREADS; i++) {
        uint64_t run = atomic_load_explicit(&pagers.runs[i], memory_order_relaxed);

        if (page >= run >> 32 && page < (uint32_t)run)
            return (uint32_t)run;
    }
    return page + 1;
}

/* ---- In the faulting thread ---- */

static size_t window_end(size_t page, const struct bound_window *window)
{
    bool goes_on = page > own_page && page <= own_end;

    own_page = page;
    own_end = page + (goes_on ? window->next : window->first);
    return own_end;
}

/* The pages that come with this one. */
static void neighbours_find(size_t page, size_t *begin, size_t *end)
{
    const struct bound_window *window = pagers.window;

    *begin = page;
    if (window == NULL) {
        *end = run_end(page);
    } else if (pagers.groups) {
        *begin = page - page % window->first;
        *end = *begin + window->first;
    } else {
        *end = window_end(page, window);
    }
}

static void fault_serve(size_t page)
{
    struct stock_claim claim;
    enum stock_answer answer;
    size_t begin, end, length;

    neighbours_find(page, &begin, &end);
    answer = stock_claim(&pagers.stock, page, begin, end, &claim);
    if (answer == STOCK_BUSY)
        sched_yield();
    if (answer != STOCK_READ)
        return;
    if (own_buffer == NULL)
        own_buffer = pagers.buffers +
                     atomic_fetch_add(&pagers.taken, 1) % BUFFERS * STOCK_RUN * (size_t)BOUND_PAGE;
    length = claim.count * BOUND_PAGE;
    if (pread(pagers.stock.file, own_buffer, length, (off_t)(claim.page * BOUND_PAGE)) !=
        (ssize_t)length)
        stock_fail(-EIO);
    stock_put(&pagers.stock, &claim, own_buffer);
}

static void sigbus_handle(int signal, siginfo_t *info, void *context)
{
    size_t page = (size_t)((char *)info->si_addr - pagers.stock.range.base) / BOUND_PAGE;
    int saved = errno;

    (void)signal;
    (void)context;
    if (page >= pagers.stock.range.pages)
        stock_fail(-EFAULT);
    fault_serve(page);
    errno = saved;
}

/* ---- In a handler thread ---- */

/* What another is at, and what is there by now, is looked at again. */
static bool fault_take(size_t page, unsigned slot, struct handler_read *read)
{
    struct stock_claim *claim = &pagers.claims[slot];

    if (stock_claim(&pagers.stock, page, page, run_end(page), claim) != STOCK_READ) {
        range_wake(&pagers.stock.range, page);
        return false;
    }
    *read = (struct handler_read){.page = claim->page, .count = claim->count};
    return true;
}

static void fault_answer(unsigned slot, const char *content)
{
    stock_put(&pagers.stock, &pagers.claims[slot], content);
}

/* ---- Cells ---- */

static int touch(struct bound *b, const struct workload_run *run, struct workload_result *result)
{
    int error = workload_run(run, result);

    for (unsigned i = 0; i < BOUND_CELL_THREADS; i++)
        atomic_store(&pagers.runs[i], 0);
    b->wrong = b->wrong || result->wrong > 0;
    return error;
}

static struct workload_run run_make(const struct bound *b, const struct workload *workload,
                                    const struct options *options)
{
    return (struct workload_run){.workload = workload,
                                 .base = pagers.stock.range.base,
                                 .pages = pagers.stock.range.pages,
                                 .budget_pages =
                                     plan_budget(options, b->options.share) / BOUND_PAGE,
                                 .generations = pagers.stock.generations,
                                 .threads = BOUND_CELL_THREADS,
                                 .runs = pagers.runs};
}

static int warm_up(struct bound *b, struct workload_run *run, const struct options *options)
{
    struct workload_result result;
    int error;

    run->most = plan_warm_up(options, run->workload, b->options.share);
    if (run->most == 0)
        return 0;
    run->seconds = options->warm_up;
    run->seed = 2 * b->round + 1;
    error = touch(b, run, &result);
    run->passed = result.touches;
    return error;
}

static void speed_put(const struct bound *b, struct bound_speed *speed,
                      const struct workload_result *result, const struct stock_counts *before,
                      double cpu)
{
    struct stock_counts after = stock_count(&pagers.stock);
    uint64_t moved = after.in + after.out - before->in - before->out;

    speed->rate.rounds[b->round] = (double)result->touches / result->seconds;
    speed->cpu.rounds[b->round] = moved > 0 ? cpu / (double)moved : NAN;
    speed->p99.rounds[b->round] = result->p99;
    speed->p999.rounds[b->round] = result->p999;
    speed->hits.rounds[b->round] =
        1 - (double)(after.claims - before->claims) / (double)result->touches;
}

/* By as many touches as bench's, before and then. */
static int cell_measure(struct bound *b, enum bound_cell cell, struct bound_speed *speed)
{
    const struct workload *workload = workload_find(bound_cell_names[cell]);
    const struct options options = {
        .region = b->options.region, .seconds = b->options.seconds, .warm_up = WARM_UP_MOST};
    struct workload_run run = run_make(b, workload, &options);
    struct stock_counts before;
    struct workload_result result;
    double cpu;
    int error;

    stock_protect(&pagers.stock, workload->pattern == FILL || workload->write_percent > 0);
    /* The window begins at page 0, and is smaller than memory. */
    if (workload->pattern == MOVING)
        stock_sweep(&pagers.stock, run.budget_pages);
    error = warm_up(b, &run, &options);
    if (error < 0)
        return error;
    run.most = plan_touches(&options, workload, b->options.share);
    run.seconds = plan_seconds(&options, workload, b->options.share);
    run.seed = 2 * b->round;
    before = stock_count(&pagers.stock);
    cpu = cpu_now();
    error = touch(b, &run, &result);
    if (error == 0)
        speed_put(b, speed, &result, &before, cpu_now() - cpu);
    return error;
}

/* A cell of runs by who does not know how long they are; moving by groups. */
static int guessers_measure(struct bound *b, enum bound_cell cell)
{
    int error = 0;

    pagers.groups = cell == CELL_moving;
    for (unsigned i = 0; i < BOUND_WINDOWS && error == 0; i++) {
        pagers.window = &bound_windows[i];
        error = cell_measure(b, cell, &b->guessers[i][cell]);
    }
    pagers.window = NULL;
    pagers.groups = false;
    return error;
}

static int cells_measure(struct bound *b, enum bound_trap trap)
{
    int error = 0;

    for (size_t i = 0; i < BOUND_WRITER_CELLS && error == 0; i++) {
        enum bound_cell cell = bound_writer_cells[i];

        error = cell_measure(b, cell, &b->writers[trap][cell]);
        if (error == 0 && cell != CELL_fill && trap == BOUND_SIGBUS)
            error = guessers_measure(b, cell);
        if (error == 0 && cell == CELL_run32 && trap == BOUND_SIGBUS)
            error = bound_prefault(b, &pagers.stock);
    }
    return error;
}

static int trap_measure(struct bound *b, enum bound_trap trap)
{
    struct sigaction action = {.sa_sigaction = sigbus_handle, .sa_flags = SA_SIGINFO}, before;
    const struct handler_job job = {.range = &pagers.stock.range,
                                    .file = b->content,
                                    .most = STOCK_RUN,
                                    .polls = trap == BOUND_POLL,
                                    .take = fault_take,
                                    .answer = fault_answer,
                                    .fail = stock_fail};
    struct handler *handler = NULL;
    int error = stock_open(&pagers.stock, b, trap == BOUND_SIGBUS);

    if (error < 0)
        return error;
    sigaction(SIGBUS, &action, &before);
    if (trap != BOUND_SIGBUS)
        error = handler_start(&handler, &job);
    if (error == 0)
        error = cells_measure(b, trap);
    if (handler != NULL)
        handler_stop(handler);
    sigaction(SIGBUS, &before, NULL);
    stock_close(&pagers.stock);
    return error;
}

int bound_cells(struct bound *b)
{
    size_t size = BUFFERS * STOCK_RUN * (size_t)BOUND_PAGE;
    int error;

    pagers.buffers = buffer_make(size);
    error = pagers.buffers == NULL ? -ENOMEM : 0;
    for (enum bound_trap trap = 0; trap < BOUND_TRAPS && error == 0 && bound_interrupted == 0;
         trap++)
        error = trap_measure(b, trap);
    if (error < 0)
        fprintf(stderr, "bound: the cells could not be measured: %s\n", strerror(-error));
    buffer_free(pagers.buffers, size);
    return error;
}
