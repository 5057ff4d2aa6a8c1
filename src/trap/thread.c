/*
 * Handler threads: the loop of handler.h, fed by the userfaultfd. Each sleeps in one epoll_wait()
 * for new faults, completed reads, and the end.
 *
 * There are few of them, one for every two processors, for two reasons: faults that one handler
 * finds together cost one wake-up of a handler and one call for all their reads; and what a handler
 * does for a fault costs no more than what the faulting thread and the kernel do on their side.
 * First touches are the exception, and what the spare is for (handler.h). The userfaultfd is in its
 * epoll set only from a call until it leaves.
 *
 * A processor that goes idle is dear to wake, dearest in a virtual machine: a page-in has two such
 * wake-ups more here than in the kernel, the handler's for the fault and for the read. So a
 * handler polls for `fault_poll` before it sleeps, letting others run between two looks. It does
 * so only in a stream of faults (its last wait was shorter) of several threads: for one thread,
 * nothing runs that a fault could meet awake, and a processor that polls must be interrupted for
 * every TLB flush; and with many reads in flight one comes back soon, and the processors are busy.
 * (A hypervisor does the same for its guests: the kernel's documentation, virt/kvm/halt-polling.)
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/check.h"
#include "core/error.h"
#include "mapper/uffd.h"
#include "trap/handler.h"
#include "trap/trap.h"

#define HANDLERS_MAX 64u
#define HANDLERS_AUTOMATIC 8u /* at most, if their number is not given */
#define POLL_READS_MAX 2u
#define JUDGED_AFTER 16u /* first touches: a millisecond, if each is of 64 pages */

struct handler_thread {
    struct handler handler;
    struct trap_thread *trap;
    struct sync_thread *thread;
    int epoll_fd;
    bool faults_wait; /* owned by the thread: the descriptor has faults, as far as is known */
};

struct trap_thread {
    int stop_fd; /* eventfd: readable when handlers must end */
    unsigned count;
    struct handler_thread handlers[HANDLERS_MAX];
    struct handler_thread spare; /* no thread: there is none. Closed when no other can call it */
    /* Hints; changed by all handlers without a lock: no harm if one gets the better of another. */
    _Atomic uint32_t faulted_last; /* thread that had the last fault */
    _Atomic uint64_t faulted_both; /* ns; when two faults in a row were of different threads */
};

enum { FROM_UFFD, FROM_STORE, FROM_STOP };

static struct handler_thread *thread_of(struct handler *h)
{
    return (struct handler_thread *)(void *)h; /* its first member */
}

static void note_thread(struct trap_thread *trap, uint32_t thread, uint64_t now)
{
    if (atomic_load_explicit(&trap->faulted_last, memory_order_relaxed) == thread)
        return;
    atomic_store_explicit(&trap->faulted_last, thread, memory_order_relaxed);
    atomic_store_explicit(&trap->faulted_both, now, memory_order_relaxed);
}

static unsigned take_messages(struct handler *h, struct pending_fault *faults, unsigned max)
{
    struct uffd_msg messages[HANDLER_BACKLOG];
    unsigned taken = 0;
    uint64_t now;
    ssize_t got;

    /* While there is work, nobody has looked. */
    if (max == 0 || !(thread_of(h)->faults_wait || fault_queue_read(&h->queue) ||
                      atomic_load(&h->help) == SPARE_LEAVING))
        return 0;
    thread_of(h)->faults_wait = false; /* if there are more, the next sleep ends at once */
    got = read(h->m->mapper->fd, messages, max * sizeof(messages[0]));
    if (got < 0) {
        check_always(errno == EAGAIN || errno == EINTR);
        return 0;
    }
    now = sync_now(&h->m->sync);
    for (size_t i = 0; i < (size_t)got / sizeof(messages[0]); i++) {
        const struct uffd_msg *message = &messages[i];
        uint64_t flags = message->arg.pagefault.flags;
        struct pending_fault *fault = &faults[taken];

        if (message->event != UFFD_EVENT_PAGEFAULT)
            continue;
        fault->va = message->arg.pagefault.address;
        fault->thread = message->arg.pagefault.feat.ptid;
        fault->flags = FAULT_TRAP;
        if (flags & UFFD_PAGEFAULT_FLAG_WRITE)
            fault->flags |= FAULT_WRITE;
        if (flags & UFFD_PAGEFAULT_FLAG_WP)
            fault->flags |= FAULT_WRITE | FAULT_PROTECT;
        note_thread(thread_of(h)->trap, fault->thread, now);
        taken++;
    }
    return taken;
}

/* Wait for events, polling first if that is likely to be worth it. Returns how many came. */
static int wait_events(struct handler_thread *h, struct epoll_event *events, int max)
{
    struct machine *m = h->handler.m;
    uint64_t poll = m->tunables.fault_poll, started = sync_now(&m->sync);
    uint64_t both = atomic_load_explicit(&h->trap->faulted_both, memory_order_relaxed);
    bool asleep = h == &h->trap->spare && atomic_load(&h->handler.help) == SPARE_ASLEEP;
    bool polling = !asleep && h->handler.last_sleep < poll && started < both + poll &&
                   h->handler.queue.in_flight <= POLL_READS_MAX;
    int count = 0;

    while (polling && count == 0) {
        count = epoll_wait(h->epoll_fd, events, max, 0);
        if (count == 0)
            sched_yield();
        polling = sync_now(&m->sync) - started < poll;
    }
    if (count == 0)
        count = epoll_wait(h->epoll_fd, events, max, -1);
    check_always(count >= 0 || errno == EINTR);
    return count;
}

/* Sleep until there is something to do; true if that is to end. */
static bool told_to_stop(struct handler *h)
{
    struct epoll_event events[3];
    int count = wait_events(thread_of(h), events, 3);
    bool stop = false;

    for (int i = 0; i < count; i++) {
        stop |= events[i].data.u32 == FROM_STOP;
        thread_of(h)->faults_wait |= events[i].data.u32 == FROM_UFFD;
    }
    return stop;
}

static void handler_main(void *argument)
{
    struct handler_thread *h = argument;

    handler_run(&h->handler);
}

static int watch(int epoll_fd, int fd, uint32_t from, uint32_t flags)
{
    struct epoll_event event = {.events = EPOLLIN | flags, .data.u32 = from};

    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0)
        return 0;
    return error_set(-errno, "cannot watch for faults: %s", strerror(errno));
}

/* A fault wakes one of those that watch, not all. */
static int watch_faults(struct handler_thread *h)
{
    return watch(h->epoll_fd, h->handler.m->mapper->fd, FROM_UFFD, EPOLLEXCLUSIVE);
}

static bool attend(struct handler *spare, bool on)
{
    struct handler_thread *h = thread_of(spare);

    if (on)
        return watch_faults(h) == 0;
    return epoll_ctl(h->epoll_fd, EPOLL_CTL_DEL, spare->m->mapper->fd, NULL) == 0;
}

static const struct handler_source uffd_source = {
    .take = take_messages, .sleep = told_to_stop, .attend = attend};

static int handler_open(struct machine *m, struct trap_thread *trap, struct handler_thread *h,
                        const char *name)
{
    int error, store_fd;

    h->handler.m = m;
    h->handler.source = &uffd_source;
    h->trap = trap;
    h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (h->epoll_fd < 0)
        return error_set(-errno, "too few file descriptors for handler threads: raise `ulimit -n`");
    error = fault_queue_open(m, &h->handler.queue);
    if (error != 0)
        return error;
    store_fd = m->pagefile.store->ops->queue_fd(h->handler.queue.store);
    error = watch(h->epoll_fd, trap->stop_fd, FROM_STOP, 0);
    if (error == 0 && h->handler.spare != &h->handler)
        error = watch_faults(h);
    if (error == 0 && store_fd >= 0)
        error = watch(h->epoll_fd, store_fd, FROM_STORE, 0);
    if (error != 0)
        return error;
    return m->sync.backend->thread_start(&m->sync, name, handler_main, h, &h->thread);
}

/* How many handlers, and is there to be a spare beside them? */
static unsigned handler_count(const struct machine *m, bool *spare)
{
    unsigned processors = 2 * HANDLERS_AUTOMATIC;
    cpu_set_t allowed;

    *spare = false;
    if (m->tunables.fault_threads > 0)
        return (unsigned)m->tunables.fault_threads;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) /* fails beyond 1024 processors */
        processors = (unsigned)CPU_COUNT(&allowed);
    if (processors < 2)
        return 1;
    *spare = true;
    return processors < 2 * HANDLERS_AUTOMATIC ? processors / 2 : HANDLERS_AUTOMATIC;
}

static void handler_close(struct machine *m, struct handler_thread *h)
{
    if (h->thread != NULL)
        m->sync.backend->thread_join(&m->sync, h->thread);
    if (h->epoll_fd >= 0)
        close(h->epoll_fd);
    fault_queue_close(m, &h->handler.queue);
}

/* It is there before who may call it. Without one, filling is slower. */
static struct handler *spare_open(struct machine *m, struct trap_thread *trap)
{
    struct handler_thread *h = &trap->spare;

    h->handler.judged_after = JUDGED_AFTER;
    h->handler.spare = &h->handler;
    if (handler_open(m, trap, h, "vmsm-spare") == 0)
        return &h->handler;
    log_line(LOG_ADVICE, "no spare handler of faults, memory is filled slower: %s", error_last());
    handler_close(m, h);
    *h = (struct handler_thread){.epoll_fd = -1};
    return NULL;
}

static int handlers_open(struct machine *m, struct trap_thread *trap)
{
    bool wants_spare;
    unsigned count = handler_count(m, &wants_spare);
    struct handler *spare = wants_spare ? spare_open(m, trap) : NULL;
    int error = 0;

    while (trap->count < count && error == 0) {
        struct handler_thread *h = &trap->handlers[trap->count];
        char name[16] = "vmsm-fault-";

        name[11] = (char)('0' + trap->count / 10);
        name[12] = (char)('0' + trap->count % 10);
        h->handler.judged_after = JUDGED_AFTER;
        h->handler.spare = spare;
        error = handler_open(m, trap, h, name);
        trap->count++;
    }
    return error;
}

int trap_thread_open(struct machine *m, struct trap_thread **out)
{
    struct trap_thread *trap = m->platform->reserve(sizeof(*trap));
    int error = 0;

    if (trap == NULL)
        return error_set(-ENOMEM, "no memory for handler threads");
    for (unsigned i = 0; i < HANDLERS_MAX; i++)
        trap->handlers[i].epoll_fd = -1;
    trap->spare.epoll_fd = -1;
    trap->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (trap->stop_fd < 0)
        error = error_set(-errno, "too few file descriptors: raise `ulimit -n`");
    if (error == 0)
        error = handlers_open(m, trap);
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
    for (unsigned i = 0; i < trap->count; i++)
        handler_close(m, &trap->handlers[i]);
    handler_close(m, &trap->spare);
    if (trap->stop_fd >= 0)
        close(trap->stop_fd);
    m->platform->release(trap, sizeof(*trap));
}
