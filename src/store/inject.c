/*
 * A store that is slow or faulty on purpose, around another one.
 *
 * Every request is given a due time when it is submitted. One that is to fail
 * goes straight to the queue's `held` list; the others go to the inner store
 * and come to `held` when they are complete there. `held` is sorted by due
 * time, and reap() hands out what is due.
 *
 * A poller gets an epoll descriptor over the inner queue's and a timer that is
 * armed for the first due time in `held`. The timer costs system calls, so it
 * is kept up only once somebody has asked for the descriptor.
 *
 * Faults are counted over all queues of the store: the counters are atomic,
 * all else belongs to the thread that uses the queue.
 */
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "store/store.h"

#define SLOT_SIZE 4096u
#define NS_PER_S 1000000000ull
#define BATCH 64

struct inject_store {
    struct store base;
    struct store *inner;
    struct store_inject_options faults;
    _Atomic uint64_t reads, writes, completed_reads, written_slots;
};

struct inject_queue {
    struct inject_store *store;
    struct store_queue *inner;
    unsigned inner_pending; /* requests that the inner queue has */
    struct store_io *held;  /* complete, waiting for their time; the earliest first */
    struct store_io *held_last;
    int inner_fd; /* -1: the inner queue completes everything in submit */
    int timer;
    int poller;
    bool polled;       /* the descriptor was asked for */
    uint64_t random;   /* of jitter; never 0 */
    uint64_t armed_ns; /* what the timer is set to; 0: off */
};

static struct inject_queue *queue_of(struct store_queue *queue)
{
    return (struct inject_queue *)(void *)queue;
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static struct timespec to_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

static bool includes(const struct store_io *io, uint64_t slot)
{
    return slot != 0 && slot >= io->slot && slot - io->slot < io->count;
}

/* Is this one the Nth? */
static bool is_turn(_Atomic uint64_t *counter, uint64_t every)
{
    uint64_t n;

    if (every == 0)
        return false;
    n = atomic_fetch_add_explicit(counter, 1, memory_order_relaxed) + 1;
    return n % every == 0;
}

/* The error that a request is to meet, or 0. */
static int fault_of(struct inject_store *store, const struct store_io *io)
{
    const struct store_inject_options *faults = &store->faults;

    if (!io->write) {
        if (is_turn(&store->reads, faults->read_error_every) || includes(io, faults->bad_slot))
            return -EIO;
        return 0;
    }
    if (is_turn(&store->writes, faults->write_error_every) || includes(io, faults->bad_write_slot))
        return -EIO;
    if (faults->full_after == 0)
        return 0;
    if (atomic_fetch_add_explicit(&store->written_slots, io->count, memory_order_relaxed) +
            io->count >
        faults->full_after)
        return -ENOSPC;
    return 0;
}

/* Flip one bit of what was read; which one varies from one to the next. */
static void corrupt(struct store_io *io, uint64_t seed)
{
    uint64_t mixed = (seed + 1) * 0x9E3779B97F4A7C15ull;
    size_t at = (size_t)((mixed >> 16) % ((uint64_t)io->count * SLOT_SIZE));

    for (int i = 0; i < io->iovcnt; i++) {
        if (at < io->iov[i].iov_len) {
            ((unsigned char *)io->iov[i].iov_base)[at] ^= (unsigned char)(1u << (mixed & 7));
            return;
        }
        at -= io->iov[i].iov_len;
    }
}

static void corrupt_in_turn(struct inject_store *store, struct store_io *io)
{
    uint64_t every = store->faults.corrupt_every, n;

    if (every == 0 || io->write || io->result != 0)
        return;
    n = atomic_fetch_add_explicit(&store->completed_reads, 1, memory_order_relaxed) + 1;
    if (n % every == 0)
        corrupt(io, n);
}

static uint64_t jitter(struct inject_queue *queue)
{
    uint64_t most = queue->store->faults.jitter_ns;

    if (most == 0)
        return 0;
    queue->random ^= queue->random << 13;
    queue->random ^= queue->random >> 7;
    queue->random ^= queue->random << 17;
    return queue->random % (most + 1);
}

static void hold(struct inject_queue *queue, struct store_io *io)
{
    struct store_io **link = &queue->held;

    if (queue->held != NULL && queue->held_last->due_ns <= io->due_ns)
        link = &queue->held_last->next; /* nearly always */
    while (*link != NULL && (*link)->due_ns <= io->due_ns)
        link = &(*link)->next;
    io->next = *link;
    *link = io;
    if (io->next == NULL)
        queue->held_last = io;
}

/* Bring what the inner queue has completed into held. */
static void collect(struct inject_queue *queue)
{
    const struct store_ops *ops = queue->store->inner->ops;
    struct store_io *done[BATCH];
    unsigned n;

    do {
        n = queue->inner_pending == 0 ? 0 : ops->reap(queue->inner, done, BATCH, false);
        queue->inner_pending -= n;
        for (unsigned i = 0; i < n; i++) {
            corrupt_in_turn(queue->store, done[i]);
            hold(queue, done[i]);
        }
    } while (n == BATCH);
}

static unsigned deliver(struct inject_queue *queue, struct store_io **done, unsigned max)
{
    uint64_t now;
    unsigned n = 0;

    if (queue->held == NULL)
        return 0;
    now = now_ns();
    while (n < max && queue->held != NULL && queue->held->due_ns <= now) {
        done[n++] = queue->held;
        queue->held = queue->held->next;
    }
    return n;
}

/* Set the timer to the first due time, or off, if it is not so already. */
static void arm(struct inject_queue *queue)
{
    uint64_t due = queue->held == NULL ? 0 : queue->held->due_ns;
    struct itimerspec when = {.it_value = to_timespec(due)};

    if (!queue->polled || due == queue->armed_ns)
        return;
    timerfd_settime(queue->timer, TFD_TIMER_ABSTIME, &when, NULL);
    queue->armed_ns = due;
}

/* Sleep until something may be due. */
static void pause_queue(struct inject_queue *queue)
{
    struct pollfd inner = {.fd = queue->inner_pending > 0 ? queue->inner_fd : -1, .events = POLLIN};
    struct timespec left = {.tv_sec = 3600};
    uint64_t now = now_ns();

    if (queue->held != NULL && queue->held->due_ns <= now)
        return;
    if (queue->held != NULL)
        left = to_timespec(queue->held->due_ns - now);
    ppoll(&inner, 1, &left, NULL);
}

static int inject_grow(struct store *base, uint64_t slots)
{
    struct inject_store *store = (struct inject_store *)base;
    int err = store->inner->ops->grow(store->inner, slots);

    base->slots = store->inner->slots;
    return err;
}

static void free_queue(struct inject_queue *queue)
{
    if (queue->poller >= 0)
        close(queue->poller);
    if (queue->timer >= 0)
        close(queue->timer);
    if (queue->inner != NULL)
        queue->store->inner->ops->queue_close(queue->inner);
    free(queue);
}

static int open_poller(struct inject_queue *queue)
{
    struct epoll_event readable = {.events = EPOLLIN};

    queue->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    queue->poller = epoll_create1(EPOLL_CLOEXEC);
    if (queue->timer < 0 || queue->poller < 0)
        return -errno;
    if (epoll_ctl(queue->poller, EPOLL_CTL_ADD, queue->timer, &readable) != 0)
        return -errno;
    if (queue->inner_fd >= 0 &&
        epoll_ctl(queue->poller, EPOLL_CTL_ADD, queue->inner_fd, &readable) != 0)
        return -errno;
    return 0;
}

static int inject_queue_open(struct store *base, unsigned depth, struct store_queue **out)
{
    struct inject_store *store = (struct inject_store *)base;
    struct inject_queue *queue = calloc(1, sizeof(*queue));
    int err;

    if (queue == NULL)
        return error_set(-ENOMEM, "pagefile %s: out of memory for a queue", base->where);
    queue->store = store;
    queue->random = now_ns() | 1;
    queue->timer = -1;
    queue->poller = -1;
    err = store->inner->ops->queue_open(store->inner, depth, &queue->inner);
    if (err != 0)
        goto out;
    queue->inner_fd = store->inner->ops->queue_fd(queue->inner);
    err = open_poller(queue);
    if (err != 0)
        error_set(err,
                  "pagefile %s: no descriptor for an injecting queue (%s); raise the limit "
                  "(ulimit -n), or use fewer threads",
                  base->where, strerror(-err));
out:
    if (err != 0)
        free_queue(queue);
    else
        *out = (struct store_queue *)queue;
    return err;
}

static void inject_submit(struct store_queue *base, struct store_io **ios, unsigned count)
{
    struct inject_queue *queue = queue_of(base);
    struct inject_store *store = queue->store;
    struct store_io *pass[BATCH];
    uint64_t due = now_ns() + store->faults.delay_ns;
    unsigned n = 0;

    for (unsigned i = 0; i < count; i++) {
        struct store_io *io = ios[i];

        io->due_ns = due + jitter(queue);
        io->result = fault_of(store, io);
        if (io->result != 0)
            hold(queue, io);
        else
            pass[n++] = io;
        if (n == BATCH || (n > 0 && i + 1 == count)) {
            store->inner->ops->submit(queue->inner, pass, n);
            queue->inner_pending += n;
            n = 0;
        }
    }
    collect(queue); /* nothing else would tell a poller of what is complete already */
    arm(queue);
}

static unsigned inject_reap(struct store_queue *base, struct store_io **done, unsigned max,
                            bool wait)
{
    struct inject_queue *queue = queue_of(base);
    unsigned n;

    for (;;) {
        collect(queue);
        n = deliver(queue, done, max);
        if (n > 0 || !wait || max == 0 || (queue->held == NULL && queue->inner_pending == 0))
            break;
        pause_queue(queue);
    }
    arm(queue);
    return n;
}

static int inject_queue_fd(struct store_queue *base)
{
    struct inject_queue *queue = queue_of(base);

    queue->polled = true;
    arm(queue);
    return queue->poller;
}

static void inject_queue_close(struct store_queue *base)
{
    free_queue(queue_of(base));
}

static void inject_close(struct store *base)
{
    struct inject_store *store = (struct inject_store *)base;

    store->inner->ops->close(store->inner);
    free(store);
}

static const struct store_ops inject_ops = {
    .name = "inject",
    .grow = inject_grow,
    .queue_open = inject_queue_open,
    .queue_close = inject_queue_close,
    .submit = inject_submit,
    .reap = inject_reap,
    .queue_fd = inject_queue_fd,
    .close = inject_close,
};

int store_inject_open(struct store *inner, const struct store_inject_options *options,
                      struct store **out)
{
    struct inject_store *store = calloc(1, sizeof(*store));

    if (store == NULL)
        return error_set(-ENOMEM, "pagefile %s: out of memory", inner->where);
    store->base = *inner;
    store->base.ops = &inject_ops;
    store->inner = inner;
    store->faults = *options;
    *out = &store->base;
    return 0;
}
