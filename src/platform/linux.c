/*
 * The core's surroundings on Linux: futexes, POSIX threads, the monotonic
 * clock and anonymous memory.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "core/platform.h"
#include "core/sync.h"

#define HUGE_PAGE (2UL * 1024 * 1024)
#define SPINS_BEFORE_SLEEP 64
#define DELAY_SHARE 64u /* at one yield point in so many, a thread sleeps */
#define DELAY_SPREAD 8u /* and mostly shorter than it might: half as long, down to 1/2^8 */
#define STACK_SIZE (1024UL * 1024) /* of a worker: several times what it uses */

struct sync_thread {
    pthread_t id;
    void (*run)(void *);
    void *argument;
    char name[16];
};

static void linux_park(struct sync *s, _Atomic uint32_t *word, uint32_t expected,
                       uint64_t timeout_ns)
{
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000),
                               .tv_nsec = (long)(timeout_ns % 1000000000)};
    int saved = errno;

    (void)s;
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, timeout_ns > 0 ? &timeout : NULL);
    errno = saved;
}

static void linux_unpark(struct sync *s, _Atomic uint32_t *word, int count)
{
    int saved = errno;

    (void)s;
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count);
    errno = saved;
}

static void linux_relax(struct sync *s, unsigned round)
{
    (void)s;
    if (round % SYNC_ROUND_YIELDS == SYNC_ROUND_YIELDS - 1)
        sched_yield();
    else
        __builtin_ia32_pause();
}

static uint64_t linux_now(struct sync *s)
{
    struct timespec now;

    (void)s;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/*
 * Most points do nothing, some give the processor away, a few sleep. May run in a signal handler:
 * only system calls and this thread's own state. A handler that comes between the reading and the
 * writing of the state merely repeats a number.
 */
static void linux_yield_delayed(struct sync *s, enum sync_point point)
{
    static _Thread_local uint64_t state __attribute__((tls_model("initial-exec")));
    struct timespec time = {0};
    uint64_t x = state != 0 ? state : linux_now(s) * 2 + 1;
    int saved = errno;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    state = x + point;
    if (x % 8 != 0)
        return;
    if (x / 8 % (DELAY_SHARE / 8) == 0)
        time.tv_nsec = (long)((x >> 32) % s->yield_delay_ns >> (x >> 16) % DELAY_SPREAD);
    if (time.tv_nsec > 0)
        syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &time, NULL);
    else
        sched_yield();
    errno = saved;
}

/* A number for each thread, drawn when it first asks. */
static unsigned linux_shard(struct sync *s)
{
    static _Atomic unsigned next;
    static _Thread_local unsigned mine __attribute__((tls_model("initial-exec")));

    (void)s;
    if (mine == 0)
        mine = 1 + atomic_fetch_add_explicit(&next, 1, memory_order_relaxed) % SYNC_SHARDS;
    return mine - 1;
}

static void *thread_main(void *argument)
{
    struct sync_thread *thread = argument;

    prctl(PR_SET_NAME, thread->name);
    thread->run(thread->argument);
    return NULL;
}

static int linux_thread_start(struct sync *s, const char *name, void (*run)(void *), void *argument,
                              struct sync_thread **out)
{
    struct sync_thread *thread;
    pthread_attr_t attributes;
    sigset_t all, old;
    int error;

    (void)s;
    thread = platform_linux.reserve(sizeof(*thread));
    if (thread == NULL)
        return error_set(-ENOMEM, "no memory for the thread %s", name);
    thread->run = run;
    thread->argument = argument;
    for (unsigned i = 0; i < sizeof(thread->name) - 1 && name[i] != '\0'; i++)
        thread->name[i] = name[i];
    /* The program's signals are for the program's threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    error = pthread_create(&thread->id, &attributes, thread_main, thread);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error != 0) {
        platform_linux.release(thread, sizeof(*thread));
        return error_set(
            -error, "cannot start the thread %s: %s (is `ulimit -u`, or `ulimit -v`, too low?)",
            name, strerrordesc_np(error));
    }
    *out = thread;
    return 0;
}

static void linux_thread_join(struct sync *s, struct sync_thread *thread)
{
    (void)s;
    pthread_join(thread->id, NULL);
    platform_linux.release(thread, sizeof(*thread));
}

static void *linux_reserve(size_t length)
{
    void *base = mmap(NULL, length, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (base == MAP_FAILED)
        return NULL;
    madvise(base, length, MADV_NOHUGEPAGE);
    madvise(base, length, MADV_DONTDUMP);
    return base;
}

/* Huge pages need an aligned start: map more, and give back what sticks out. */
static void *linux_buffer(size_t length)
{
    bool huge = length >= HUGE_PAGE;
    size_t extra = huge ? HUGE_PAGE : 0;
    char *base = mmap(NULL, length + extra, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (base == MAP_FAILED)
        return NULL;
    if (huge) {
        size_t front = (HUGE_PAGE - (uintptr_t)base % HUGE_PAGE) % HUGE_PAGE;

        if (front > 0)
            munmap(base, front);
        base += front;
        if (extra > front)
            munmap(base + length, extra - front);
        /* Only whole huge pages, so that no more is populated than was asked for. */
        madvise(base, length / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    }
    madvise(base, length, MADV_DONTDUMP);
    madvise(base, length, MADV_DONTFORK);
    for (size_t at = 0; at < length; at += 4096)
        *(volatile char *)(base + at) = 0;
    return base;
}

static void linux_release(void *base, size_t length)
{
    if (base != NULL)
        munmap(base, length);
}

static size_t linux_resident(void *base, size_t length)
{
    enum { PAGE = 4096, PAGES = 1024 }; /* pages looked at by a call */
    unsigned char present[PAGES];
    uintptr_t at = (uintptr_t)base / PAGE * PAGE;
    uintptr_t end = ((uintptr_t)base + length + PAGE - 1) / PAGE * PAGE;
    size_t resident = 0;

    for (; at < end; at += PAGES * PAGE) {
        size_t pages = end - at < PAGES * PAGE ? (end - at) / PAGE : PAGES;

        if (mincore((void *)at, pages * PAGE, present) < 0)
            return resident + (end - at); /* it cannot be seen: no less than there is */
        for (size_t i = 0; i < pages; i++)
            resident += (size_t)(present[i] & 1) * PAGE;
    }
    return resident;
}

static int linux_inherit(void *base, size_t length, bool inherited)
{
    if (length == 0 || madvise(base, length, inherited ? MADV_DOFORK : MADV_DONTFORK) == 0)
        return 0;
    return error_set(-errno, "fork: %zu KiB at %p cannot be %s a child: %s", length >> 10, base,
                     inherited ? "had by" : "kept from", strerror(errno));
}

static unsigned long linux_secret(void)
{
    unsigned long secret = 0;

    if (getrandom(&secret, sizeof(secret), 0) != (ssize_t)sizeof(secret))
        secret = (unsigned long)linux_now(NULL) ^ (unsigned long)(uintptr_t)&secret;
    return secret;
}

const struct platform platform_linux = {
    .reserve = linux_reserve,
    .buffer = linux_buffer,
    .release = linux_release,
    .inherit = linux_inherit,
    .resident = linux_resident,
    .secret = linux_secret,
};

#define LINUX_BACKEND                                                                              \
    .park = linux_park, .unpark = linux_unpark, .relax = linux_relax, .now = linux_now,            \
    .thread_start = linux_thread_start, .thread_join = linux_thread_join, .shard = linux_shard,    \
    .spin_rounds = SPINS_BEFORE_SLEEP

const struct sync_backend sync_backend_linux = {LINUX_BACKEND};
const struct sync_backend sync_backend_linux_delayed = {LINUX_BACKEND,
                                                        .yield = linux_yield_delayed};
