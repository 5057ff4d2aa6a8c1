/* Each call by itself, as often as gives some milliseconds. */
#include <errno.h>
#include <linux/futex.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bound.h"
#include "content.h"
#include "core/hash.h"

#define SYSCALLS 50000u
#define TOUCHES 16384u /* pages */
#define FAULTS 2000u
#define WAKES 2000u
#define COPIES 8192u /* pages */
#define SECTIONS 16u /* trimmed */
#define SPARSE 4u    /* every so manieth page of a section */
#define RUN_LONGEST 64u

static void syscall_measure(struct bound *b)
{
    double begin = seconds_now();

    for (unsigned i = 0; i < SYSCALLS; i++)
        syscall(SYS_getppid);
    bound_put(b, BOUND_SYSCALL, (seconds_now() - begin) / SYSCALLS);
}

/* The touch, and what a touch of a page that is there takes: all of it written, or checked. */
static int touches_measure(struct bound *b)
{
    struct content content = {.cycle = permutation_make(TOUCHES)};
    char *base = mmap(NULL, TOUCHES * (size_t)BOUND_PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct hash_key key;
    uint64_t sum = 0;
    double begin;

    if (base == MAP_FAILED)
        return -errno;
    madvise(base, TOUCHES * (size_t)BOUND_PAGE, MADV_NOHUGEPAGE);
    begin = seconds_now();
    for (size_t i = 0; i < TOUCHES; i++)
        ((volatile char *)base)[i * BOUND_PAGE] = 1;
    bound_put(b, BOUND_FIRST_TOUCH, (seconds_now() - begin) / TOUCHES);
    begin = seconds_now();
    for (size_t i = 0; i < TOUCHES; i++)
        page_fill(&content, (uint64_t *)(void *)(base + i * BOUND_PAGE), i);
    bound_put(b, BOUND_FILL_PAGE, (seconds_now() - begin) / TOUCHES);
    begin = seconds_now();
    for (size_t i = 0; i < TOUCHES; i++)
        b->wrong =
            !page_verify(&content, (uint64_t *)(void *)(base + i * BOUND_PAGE), i, 1) || b->wrong;
    bound_put(b, BOUND_CHECK_PAGE, (seconds_now() - begin) / TOUCHES);
    hash_key_init(&key, 1);
    begin = seconds_now();
    for (size_t i = 0; i < TOUCHES; i++)
        sum += hash_page(&key, base + i * BOUND_PAGE).word[0];
    bound_put(b, BOUND_HASH, sum != 0 ? (seconds_now() - begin) / TOUCHES : NAN);
    munmap(base, TOUCHES * (size_t)BOUND_PAGE);
    return 0;
}

/* ---- Faults ---- */

static struct fault_site {
    struct range range;
    char *zeroes;
    int processor; /* the handler's */
    bool poll;
    _Atomic int error;
} site;

static void *handler_main(void *argument)
{
    unsigned left = FAULTS;

    (void)argument;
    if (!processor_take(site.processor))
        atomic_store(&site.error, -errno);
    while (left > 0) {
        struct pollfd fd = {.fd = site.range.fd, .events = POLLIN};
        size_t page;

        if (!site.poll)
            poll(&fd, 1, -1);
        if (range_faults(&site.range, &page, 1) == 0)
            continue;
        if (range_copy(&site.range, page, site.zeroes, 1) < 0)
            atomic_store(&site.error, -EIO);
        left--;
    }
    return NULL;
}

static double faults_touch(void)
{
    double begin = seconds_now();

    for (size_t i = 0; i < FAULTS; i++)
        ((volatile char *)site.range.base)[i * BOUND_PAGE] = 1;
    return (seconds_now() - begin) / FAULTS;
}

static int fault_measure(struct bound *b, enum bound_figure figure, int processor, bool polls)
{
    pthread_t thread;
    double seconds;
    int error;

    site = (struct fault_site){.zeroes = site.zeroes, .processor = processor, .poll = polls};
    error = range_open(&site.range, FAULTS, false);
    if (error < 0)
        return error;
    error = -pthread_create(&thread, NULL, handler_main, NULL);
    if (error == 0) {
        processor_take(0);
        seconds = faults_touch();
        pthread_join(thread, NULL);
        processor_take(-1);
        bound_put(b, figure, atomic_load(&site.error) == 0 ? seconds : NAN);
    }
    range_close(&site.range);
    return error;
}

static void sigbus_handle(int signal, siginfo_t *info, void *context)
{
    size_t page = (size_t)((char *)info->si_addr - site.range.base) / BOUND_PAGE;
    int saved = errno;

    (void)signal;
    (void)context;
    if (page >= site.range.pages || range_copy(&site.range, page, site.zeroes, 1) < 0)
        _exit(1);
    errno = saved;
}

static int sigbus_measure(struct bound *b)
{
    struct sigaction action = {.sa_sigaction = sigbus_handle, .sa_flags = SA_SIGINFO}, before;
    int error = range_open(&site.range, FAULTS, true);

    if (error < 0)
        return error;
    sigaction(SIGBUS, &action, &before);
    bound_put(b, BOUND_FAULT_SIGBUS, faults_touch());
    sigaction(SIGBUS, &before, NULL);
    range_close(&site.range);
    return 0;
}

static int faults_measure(struct bound *b)
{
    bool two = sysconf(_SC_NPROCESSORS_ONLN) > 1;
    int error = fault_measure(b, BOUND_FAULT_SAME, 0, false);

    if (error == 0 && two)
        error = fault_measure(b, BOUND_FAULT_OTHER, 1, false);
    if (error == 0 && two)
        error = fault_measure(b, BOUND_FAULT_POLL, 1, true);
    return error == 0 ? sigbus_measure(b) : error;
}

/* ---- Wake-ups ---- */

static struct table {
    _Atomic uint32_t turn; /* whose: odd the other's */
    int processor;         /* the other's */
} table;

static void turn_pass(uint32_t next)
{
    atomic_store(&table.turn, next);
    syscall(SYS_futex, &table.turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void turn_await(uint32_t wanted)
{
    uint32_t found;

    while ((found = atomic_load(&table.turn)) != wanted)
        syscall(SYS_futex, &table.turn, FUTEX_WAIT_PRIVATE, found, NULL, NULL, 0);
}

static void *other_main(void *argument)
{
    (void)argument;
    processor_take(table.processor);
    for (uint32_t i = 0; i < WAKES; i++) {
        turn_await(2 * i + 1);
        turn_pass(2 * i + 2);
    }
    return NULL;
}

static int wake_measure(struct bound *b, enum bound_figure figure, int processor)
{
    pthread_t thread;
    double begin;
    int error;

    atomic_store(&table.turn, 0);
    table.processor = processor;
    error = -pthread_create(&thread, NULL, other_main, NULL);
    if (error < 0)
        return error;
    processor_take(0);
    begin = seconds_now();
    for (uint32_t i = 0; i < WAKES; i++) {
        turn_pass(2 * i + 1);
        turn_await(2 * i + 2);
    }
    bound_put(b, figure, (seconds_now() - begin) / WAKES / 2);
    pthread_join(thread, NULL);
    processor_take(-1);
    return 0;
}

static int wakes_measure(struct bound *b)
{
    int error = wake_measure(b, BOUND_WAKE_SAME, 0);

    return error == 0 && sysconf(_SC_NPROCESSORS_ONLN) > 1 ? wake_measure(b, BOUND_WAKE_OTHER, 1)
                                                           : error;
}

/* ---- Mapping and trimming ---- */

static int copies_measure(struct bound *b, const struct range *range)
{
    static const struct {
        enum bound_figure figure;
        unsigned run;
    } runs[] = {{BOUND_COPY_1, 1}, {BOUND_COPY_4, 4}, {BOUND_COPY_16, 16}, {BOUND_COPY_64, 64}};
    struct iovec all = {.iov_base = range->base, .iov_len = COPIES * (size_t)BOUND_PAGE};
    int error = 0;

    for (size_t r = 0; r < sizeof(runs) / sizeof(runs[0]) && error == 0; r++) {
        double begin;

        error = range_drop(&all, 1);
        begin = seconds_now();
        for (size_t page = 0; page < COPIES && error == 0; page += runs[r].run)
            error = range_copy(range, page, site.zeroes, runs[r].run);
        bound_put(b, runs[r].figure, (seconds_now() - begin) / COPIES);
    }
    return error;
}

static _Atomic bool busy;

static void *busy_main(void *argument)
{
    (void)argument;
    while (atomic_load_explicit(&busy, memory_order_relaxed))
        continue;
    return NULL;
}

/* Every `step`th page of some sections is taken; the pieces must be written to be there in the
 * processor's tables. Figures: protect, and the two after it. */
static int trims_measure(struct bound *b, const struct range *range, char *out, unsigned step,
                         enum bound_figure figure)
{
    unsigned count = BOUND_SECTION / step, pieces = step == 1 ? 1 : count;
    double seconds[3] = {0};
    struct iovec remote[BOUND_SECTION],
        local = {.iov_base = out, .iov_len = count * (size_t)BOUND_PAGE};

    for (size_t s = 0; s < SECTIONS; s++) {
        char *base = range->base + s * BOUND_SECTION * BOUND_PAGE;
        double at[4];

        for (size_t page = 0; page < BOUND_SECTION; page += RUN_LONGEST)
            range_copy(range, s * BOUND_SECTION + page, site.zeroes, RUN_LONGEST);
        for (size_t page = 0; page < BOUND_SECTION; page++)
            ((volatile char *)base)[page * BOUND_PAGE] = 1;
        for (unsigned i = 0; i < pieces; i++)
            remote[i] = (struct iovec){.iov_base = base + (size_t)i * step * BOUND_PAGE,
                                       .iov_len = local.iov_len / pieces};
        at[0] = seconds_now();
        if (range_protect(range, s * BOUND_SECTION, BOUND_SECTION, true) < 0)
            return -EIO;
        at[1] = seconds_now();
        if (process_vm_readv(getpid(), &local, 1, remote, pieces, 0) != (ssize_t)local.iov_len)
            return -EIO;
        at[2] = seconds_now();
        if (range_drop(remote, pieces) < 0)
            return -EIO;
        at[3] = seconds_now();
        for (unsigned i = 0; i < 3; i++)
            seconds[i] += at[i + 1] - at[i];
    }
    for (unsigned i = 0; i < 3; i++)
        bound_put(b, figure + i, seconds[i] / (SECTIONS * count));
    return 0;
}

static int mappings_measure(struct bound *b)
{
    struct iovec all = {.iov_len = COPIES * (size_t)BOUND_PAGE};
    char *out = buffer_make(BOUND_SECTION * (size_t)BOUND_PAGE);
    struct range range;
    pthread_t thread;
    int error = out == NULL ? -ENOMEM : range_open(&range, COPIES, false);

    if (error < 0)
        goto out;
    all.iov_base = range.base;
    error = copies_measure(b, &range);
    atomic_store(&busy, true);
    if (error == 0)
        error = -pthread_create(&thread, NULL, busy_main, NULL);
    if (error == 0) {
        range_drop(&all, 1);
        error = trims_measure(b, &range, out, 1, BOUND_PROTECT_DENSE);
        range_drop(&all, 1);
        if (error == 0)
            error = trims_measure(b, &range, out, SPARSE, BOUND_PROTECT_SPARSE);
        atomic_store(&busy, false);
        pthread_join(thread, NULL);
    }
    range_close(&range);
out:
    buffer_free(out, BOUND_SECTION * (size_t)BOUND_PAGE);
    return error;
}

int bound_primitives(struct bound *b)
{
    size_t size = RUN_LONGEST * (size_t)BOUND_PAGE;
    int error;

    site.zeroes = buffer_make(size);
    error = site.zeroes == NULL ? -ENOMEM : touches_measure(b);
    syscall_measure(b);
    if (error == 0)
        error = faults_measure(b);
    if (error == 0)
        error = wakes_measure(b);
    if (error == 0)
        error = mappings_measure(b);
    buffer_free(site.zeroes, size);
    if (error < 0)
        fprintf(stderr, "bound: the calls could not be measured: %s\n", strerror(-error));
    return error;
}
