/*
 * The smallest pagers: threads read single pages at random, of which a share is in memory. A fault
 * reads the page with O_DIRECT, puts it there, and every so often the oldest are dropped together.
 * No page is written, none is looked up, nothing is kept but the order in which pages came.
 */
#include <errno.h>
#include <liburing.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "bound.h"
#include "draw.h"

#define DROP 256u         /* pages dropped together */
#define FAULTS_MOST 32u   /* that the handler has in hand */
#define RUN 64u           /* pages that are put there at once before it begins */
#define WARM_UP_PART 5    /* of the measured time */
#define NAP_NS 1000000L   /* while it runs, and to see threads end */
#define MARK_FAULTS 1000u /* what a completion is, if not a read's buffer */
#define MARK_STOP 1001u

const unsigned bound_threads[BOUND_CROWDS] = {1, 2, 8, 16};

/* (o) guards itself or atomic; the rest is constant while threads run */
static struct pager {
    struct range range;
    int file;
    uint32_t *order;          /* the page that came n-th is at n % pages; its owner's */
    _Atomic uint64_t arrived; /* (o) pages that came */
    uint64_t most;            /* pages in memory */
    _Atomic uint64_t touches; /* (o) */
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

struct handler {
    struct io_uring ring;
    bool polls;
    int stop; /* eventfd */
    char *buffers;
    unsigned spare[FAULTS_MOST], spare_count;
    size_t pages[FAULTS_MOST]; /* what is read into each buffer */
};

static void watch_send(struct handler *h, int fd, unsigned mark)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&h->ring);

    io_uring_prep_poll_add(sqe, fd, POLLIN);
    io_uring_sqe_set_data64(sqe, mark);
}

/* Send a read for each fault that waits. */
static void faults_take(struct handler *h)
{
    size_t pages[FAULTS_MOST];
    unsigned count = range_faults(&pager.range, pages, h->spare_count);

    for (unsigned i = 0; i < count; i++) {
        unsigned n = h->spare[--h->spare_count];
        struct io_uring_sqe *sqe = io_uring_get_sqe(&h->ring);

        h->pages[n] = pages[i];
        io_uring_prep_read(sqe, pager.file, h->buffers + (size_t)n * BOUND_PAGE, BOUND_PAGE,
                           pages[i] * BOUND_PAGE);
        io_uring_sqe_set_data64(sqe, n);
    }
}

/* True: the faults' descriptor has something. */
static bool completions_take(struct handler *h, bool *stopped)
{
    struct io_uring_cqe *cqe;
    bool faults = false;

    while (io_uring_peek_cqe(&h->ring, &cqe) == 0) {
        uint64_t n = io_uring_cqe_get_data64(cqe);
        int result = cqe->res;

        io_uring_cqe_seen(&h->ring, cqe);
        if (n == MARK_STOP) {
            *stopped = true;
        } else if (n == MARK_FAULTS) {
            faults = true;
        } else {
            if (result != (int)BOUND_PAGE)
                failure_note(result < 0 ? result : -EIO);
            page_put(h->pages[n], h->buffers + n * BOUND_PAGE);
            h->spare[h->spare_count++] = (unsigned)n;
        }
    }
    return faults;
}

static void *handler_main(void *argument)
{
    struct handler *h = argument;
    bool stopped = false;

    watch_send(h, h->stop, MARK_STOP);
    if (!h->polls)
        watch_send(h, pager.range.fd, MARK_FAULTS);
    while (!stopped || h->spare_count < FAULTS_MOST) {
        if (h->polls)
            io_uring_submit(&h->ring);
        else
            io_uring_submit_and_wait(&h->ring, 1);
        if (completions_take(h, &stopped))
            watch_send(h, pager.range.fd, MARK_FAULTS);
        else if (!h->polls)
            continue;
        faults_take(h);
    }
    return NULL;
}

static int handler_start(struct handler *h, bool polls, pthread_t *thread)
{
    int error;

    *h = (struct handler){.polls = polls, .spare_count = FAULTS_MOST};
    for (unsigned i = 0; i < FAULTS_MOST; i++)
        h->spare[i] = i;
    h->stop = eventfd(0, EFD_CLOEXEC);
    h->buffers = buffer_make(FAULTS_MOST * (size_t)BOUND_PAGE);
    error = h->stop < 0 || h->buffers == NULL ? -ENOMEM
                                              : io_uring_queue_init(2 * FAULTS_MOST, &h->ring, 0);
    if (error < 0)
        return error;
    return -pthread_create(thread, NULL, handler_main, h);
}

static void handler_stop(struct handler *h, pthread_t thread)
{
    uint64_t one = 1;

    if (write(h->stop, &one, sizeof(one)) == (ssize_t)sizeof(one))
        pthread_join(thread, NULL);
    io_uring_queue_exit(&h->ring);
    close(h->stop);
    buffer_free(h->buffers, FAULTS_MOST * (size_t)BOUND_PAGE);
}

/* ---- The threads that touch ---- */

static void *toucher_main(void *argument)
{
    uint64_t random = (uintptr_t)argument;

    own_page = aligned_alloc(BOUND_PAGE, BOUND_PAGE);
    if (own_page == NULL)
        failure_note(-ENOMEM);
    while (!atomic_load_explicit(&pager.stop, memory_order_relaxed)) {
        uint64_t page = random_below(&random, pager.range.pages);

        if (*(volatile uint64_t *)(void *)(pager.range.base + page * BOUND_PAGE) !=
            bound_word(page))
            atomic_store(&pager.wrong, true);
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

static int touchers_run(struct bound *b, unsigned threads, struct bound_speed *speed)
{
    pthread_t touchers[16];
    double begin, cpu;
    uint64_t touches, arrived;
    unsigned started = 0;
    int error = 0;

    while (started < threads && error == 0) {
        error = -pthread_create(&touchers[started], NULL, toucher_main,
                                (void *)(uintptr_t)(started + 1 + 100 * b->round));
        started += error == 0;
    }
    sleep_for(b->options.seconds / WARM_UP_PART);
    begin = seconds_now();
    cpu = cpu_now();
    touches = atomic_load(&pager.touches);
    arrived = atomic_load(&pager.arrived);
    sleep_for(b->options.seconds);
    touches = atomic_load(&pager.touches) - touches;
    arrived = atomic_load(&pager.arrived) - arrived;
    speed->rate.rounds[b->round] = (double)touches / (seconds_now() - begin);
    speed->cpu.rounds[b->round] = arrived > 0 ? (cpu_now() - cpu) / (double)arrived : NAN;
    atomic_store(&pager.stop, true);
    while (started > 0)
        pthread_join(touchers[--started], NULL);
    return error;
}

static int pager_run(struct bound *b, enum bound_trap trap, unsigned threads,
                     struct bound_speed *speed)
{
    struct sigaction action = {.sa_sigaction = sigbus_handle, .sa_flags = SA_SIGINFO}, before;
    uint64_t pages = b->options.region / BOUND_PAGE;
    struct handler handler;
    pthread_t thread;
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
        error = handler_start(&handler, trap == BOUND_POLL, &thread);
        if (error == 0) {
            error = touchers_run(b, threads, speed);
            handler_stop(&handler, thread);
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
