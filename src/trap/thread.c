/*
 * Handler threads. Each keeps many faults in flight: it takes what waits at the descriptor,
 * begins all of them, and maps what completes. It sleeps in one epoll_wait() for new faults,
 * completed reads, and the end.
 *
 * A handler must not wait for anything that needs a handler. A fault on a busy page is marked in
 * its PTE and forgotten (who is busy wakes it); a fault that finds no frame is kept in the backlog,
 * and the handler waits for a frame only when it has no read in flight.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/check.h"
#include "core/error.h"
#include "mapper/uffd.h"
#include "trap/trap.h"

#define HANDLERS_MAX 64u
#define MESSAGES 16u

struct pending_fault {
    uintptr_t va;
    unsigned flags;
    uint32_t thread;
};

struct handler {
    struct machine *m;
    struct trap_thread *trap;
    struct fault_queue queue;
    struct sync_thread *thread;
    int epoll_fd;
    unsigned backlog_count;
    struct pending_fault backlog[MESSAGES];
};

struct trap_thread {
    int stop_fd; /* eventfd: readable when handlers must end */
    unsigned count;
    struct handler handlers[HANDLERS_MAX];
};

enum { FROM_UFFD, FROM_STORE, FROM_STOP };

/* Take what waits at the descriptor, as far as the backlog has room. */
static void read_messages(struct handler *h)
{
    struct uffd_msg messages[MESSAGES];
    ssize_t got;

    if (h->backlog_count == MESSAGES)
        return;
    got = read(h->m->mapper->fd, messages, (MESSAGES - h->backlog_count) * sizeof(messages[0]));
    if (got < 0) {
        check_always(errno == EAGAIN || errno == EINTR);
        return;
    }
    for (size_t i = 0; i < (size_t)got / sizeof(messages[0]); i++) {
        const struct uffd_msg *message = &messages[i];
        struct pending_fault *fault = &h->backlog[h->backlog_count];
        uint64_t flags = message->arg.pagefault.flags;

        if (message->event != UFFD_EVENT_PAGEFAULT)
            continue;
        fault->va = message->arg.pagefault.address;
        fault->thread = message->arg.pagefault.feat.ptid;
        fault->flags = FAULT_TRAP;
        if (flags & UFFD_PAGEFAULT_FLAG_WRITE)
            fault->flags |= FAULT_WRITE;
        if (flags & UFFD_PAGEFAULT_FLAG_WP)
            fault->flags |= FAULT_WRITE | FAULT_PROTECT;
        h->backlog_count++;
    }
}

/* True if the fault is dealt with, false if it lacks a frame. */
static bool begin(struct handler *h, const struct pending_fault *fault)
{
    struct machine *m = h->m;

    switch (fault_begin(m, &h->queue, fault->va, fault->flags, fault->thread)) {
    case FAULT_NO_FRAME:
        return false;
    case FAULT_FAILED:
        fault_give_up(m, fault->va);
        return true;
    case FAULT_OUTSIDE:
        /* Unmapped a moment ago: woken, the thread meets the SIGSEGV that is its due. */
        m->mapper->ops->wake(m->mapper, fault->va & ~(PAGE_SIZE - 1), PAGE_SIZE);
        return true;
    case FAULT_DONE:
    case FAULT_PENDING:
    case FAULT_BUSY:
        return true;
    }
    return true;
}

/* Begin what is in the backlog, in order, as far as frames go. False: it is stuck for a frame. */
static bool begin_backlog(struct handler *h)
{
    unsigned done = 0;
    bool stuck = false;

    while (done < h->backlog_count && h->queue.in_flight < h->m->tunables.fault_depth) {
        stuck = !begin(h, &h->backlog[done]);
        if (stuck)
            break;
        done++;
    }
    h->backlog_count -= done;
    memmove(h->backlog, h->backlog + done, h->backlog_count * sizeof(h->backlog[0]));
    return !stuck;
}

/* Nothing is in flight and there is no frame: wait for one, or give the first fault up. */
static void wait_for_frame(struct handler *h)
{
    if (frame_wait(h->m) == 0)
        return;
    fault_give_up(h->m, h->backlog[0].va);
    h->backlog_count--;
    memmove(h->backlog, h->backlog + 1, h->backlog_count * sizeof(h->backlog[0]));
}

/* Sleep until there is something to do; true if that is to end. */
static bool told_to_stop(struct handler *h)
{
    struct epoll_event events[3];
    int count = epoll_wait(h->epoll_fd, events, 3, -1);
    bool stop = false;

    for (int i = 0; i < count; i++)
        stop |= events[i].data.u32 == FROM_STOP;
    return stop;
}

static void handler_main(void *argument)
{
    struct handler *h = argument;
    struct machine *m = h->m;

    for (;;) {
        bool closing = atomic_load(&m->gate_closing) != 0;
        bool stuck;

        if (closing)
            fault_queue_leave(m, &h->queue); /* if nothing is in flight */
        fault_queue_enter(m, &h->queue);
        if (!closing || h->queue.in_flight == 0)
            read_messages(h);
        stuck = !begin_backlog(h);
        fault_reap(m, &h->queue, false, NULL);
        if (stuck && h->queue.in_flight == 0) {
            wait_for_frame(h);
            continue;
        }
        if (h->queue.in_flight == 0 && h->backlog_count > 0)
            continue;
        if (stuck || h->backlog_count > 0) {
            fault_reap(m, &h->queue, true, NULL); /* frames or places come from here */
            continue;
        }
        fault_queue_leave(m, &h->queue);
        if (told_to_stop(h) && h->queue.in_flight == 0)
            return;
    }
}

static int watch(int epoll_fd, int fd, uint32_t from, uint32_t flags)
{
    struct epoll_event event = {.events = EPOLLIN | flags, .data.u32 = from};

    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0)
        return 0;
    return error_set(-errno, "cannot watch for faults: %s", strerror(errno));
}

static int handler_open(struct machine *m, struct trap_thread *trap, struct handler *h,
                        unsigned number)
{
    char name[16] = "vmsm-fault-";
    int error, store_fd;

    h->m = m;
    h->trap = trap;
    h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (h->epoll_fd < 0)
        return error_set(-errno, "too few file descriptors for handler threads: raise `ulimit -n`");
    error = fault_queue_open(m, &h->queue);
    if (error != 0)
        return error;
    store_fd = m->pagefile.store->ops->queue_fd(h->queue.store);
    error = watch(h->epoll_fd, trap->stop_fd, FROM_STOP, 0);
    if (error == 0) /* a fault wakes one handler, not all */
        error = watch(h->epoll_fd, m->mapper->fd, FROM_UFFD, EPOLLEXCLUSIVE);
    if (error == 0 && store_fd >= 0)
        error = watch(h->epoll_fd, store_fd, FROM_STORE, 0);
    if (error != 0)
        return error;
    name[11] = (char)('0' + number / 10);
    name[12] = (char)('0' + number % 10);
    return m->sync.backend->thread_start(&m->sync, name, handler_main, h, &h->thread);
}

int trap_thread_open(struct machine *m, struct trap_thread **out)
{
    struct trap_thread *trap = m->platform->reserve(sizeof(*trap));
    int error = 0;

    if (trap == NULL)
        return error_set(-ENOMEM, "no memory for handler threads");
    for (unsigned i = 0; i < HANDLERS_MAX; i++)
        trap->handlers[i].epoll_fd = -1;
    trap->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (trap->stop_fd < 0)
        error = error_set(-errno, "too few file descriptors: raise `ulimit -n`");
    while (error == 0 && trap->count < m->tunables.fault_threads) {
        error = handler_open(m, trap, &trap->handlers[trap->count], trap->count);
        trap->count++;
    }
    if (error == 0) {
        *out = trap;
        return 0;
    }
    trap_thread_close(m, trap);
    return error;
}

void trap_thread_close(struct machine *m, struct trap_thread *trap)
{
    uint64_t one = 1;

    if (trap->stop_fd >= 0 && write(trap->stop_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
        log_line(LOG_ERROR, "cannot stop handler threads: %s", strerror(errno));
    for (unsigned i = 0; i < trap->count; i++) {
        struct handler *h = &trap->handlers[i];

        if (h->thread != NULL)
            m->sync.backend->thread_join(&m->sync, h->thread);
        if (h->epoll_fd >= 0)
            close(h->epoll_fd);
        fault_queue_close(m, &h->queue);
    }
    if (trap->stop_fd >= 0)
        close(trap->stop_fd);
    m->platform->release(trap, sizeof(*trap));
}
