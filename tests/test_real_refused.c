/*
 * What the kernel refuses does not lose or falsify a page. Pages that the program has locked with
 * mlock() go all the same; where a drop is refused for good, the page stays what it was, and
 * decommit says so; protection is lifted as soon as there is memory for it; without poison a page
 * that cannot be read raises another signal, and can be had again.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "mapper/uffd.h"
#include "real_fixture.h"

#define PAGES 1024u

/* Refuse what gives memory back, as a kernel does that cannot. */
static _Atomic bool refuse;
static _Atomic unsigned refused;

static bool gives_back(int advice)
{
    if (!refuse || (advice != MADV_DONTNEED && advice != 24 /* MADV_DONTNEED_LOCKED */))
        return false;
    refused++;
    errno = EINVAL;
    return true;
}

/* These two stand before the C library's for everything in this program. */
int madvise(void *address, size_t length, int advice)
{
    static int (*real)(void *, size_t, int);

    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "madvise");
    return gives_back(advice) ? -1 : real(address, length, advice);
}

long syscall(long number, ...)
{
    static long (*real)(long, ...);
    long a[6];
    va_list args;

    va_start(args, number);
    for (unsigned i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_process_madvise && gives_back((int)a[3]))
        return -1;
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* Refuse to read another process's memory, and one's own, as containers do. */
static _Atomic bool refuse_vm_read;

ssize_t process_vm_readv(pid_t pid, const struct iovec *to, unsigned long to_count,
                         const struct iovec *from, unsigned long from_count, unsigned long flags)
{
    static ssize_t (*real)(pid_t, const struct iovec *, unsigned long, const struct iovec *,
                           unsigned long, unsigned long);

    if (refuse_vm_read) {
        errno = EPERM;
        return -1;
    }
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "process_vm_readv");
    return real(pid, to, to_count, from, from_count, flags);
}

/* Refuse to lift protection so often, and to poison. */
static _Atomic int refuse_lifts;
static _Atomic bool refuse_poison;

int ioctl(int fd, unsigned long request, ...)
{
    static int (*real)(int, unsigned long, ...);
    void *argument;
    va_list args;

    va_start(args, request);
    argument = va_arg(args, void *);
    va_end(args);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "ioctl");
    if (request == UFFDIO_WRITEPROTECT && refuse_lifts > 0 &&
        ((struct uffdio_writeprotect *)argument)->mode == 0) {
        refuse_lifts--;
        errno = ENOMEM;
        return -1;
    }
    if (request == UFFDIO_POISON && refuse_poison) {
        errno = EINVAL;
        return -1;
    }
    return real(fd, request, argument);
}

/* Locked by the program page by page as they come (MLOCK_ONFAULT), and those that are there now. */
static void locked(const char *kind)
{
    size_t wrong = 0;
    struct real r;

    if (SANITIZED) {
        skip("%s: under %s mlock() and munlock() do nothing", kind, SANITIZER);
        return;
    }
    if (!real_open(&r, PAGES, "%s,memory:1M", kind))
        return;
    for (size_t p = 0; p < 20; p++)
        real_fill(r.base, p, 1);
    if (mlock(r.base, 20 * PAGE) != 0) {
        skip("%s: mlock: %s", kind, strerror(errno));
        real_close(&r);
        return;
    }
    is(vmsm_decommit(r.m, r.base + 5 * PAGE, 10 * PAGE), 0, "%s: locked pages are decommitted",
       kind);
    for (size_t p = 5; p < 15; p++)
        wrong += !real_right(r.base, p, 0);
    is(wrong, 0, "%s: and read as zeroes", kind);
    is(mlock2(r.base, PAGES * PAGE, MLOCK_ONFAULT), 0, "%s: all of it is locked", kind);
    real_fill_all(&r, 2);
    is(real_count_wrong(&r, 0, PAGES, 2), 0, "%s: four times memory goes out and comes back", kind);
    real_close(&r);
}

/* Nothing can be dropped for a while: every page stays right, and afterwards all goes on. */
static void refusal(const char *kind)
{
    struct real r;

    if (!real_open(&r, PAGES, "%s,memory:1M", kind))
        return;
    for (size_t p = 0; p < 40; p++)
        real_fill(r.base, p, 1);
    refuse = true;
    is(vmsm_decommit(r.m, r.base, 20 * PAGE), -EBUSY, "%s: pages that stay are not decommitted",
       kind);
    ok(strstr(vmsm_last_error(), "20 of the pages") != NULL, "in words: %s", vmsm_last_error());
    is(real_count_wrong(&r, 0, 40, 1), 0, "%s: they are as they were", kind);
    is(vmsm_check(r.m), 0, "%s: books balanced", kind);
    refuse = false;
    is(vmsm_decommit(r.m, r.base, 20 * PAGE), 0, "%s: when they can be, they are", kind);
    is(real_count_wrong(&r, 0, 20, 0), 0, "%s: they read as zeroes", kind);
    real_close(&r);
}

/* What the kernel does not take back of the cache and of staging is not lent to mapped pages: the
 * budget holds. */
static void unlent(const char *kind)
{
    uint64_t all;
    struct real r;

    if (!real_open(&r, PAGES, "%s,memory:16M", kind))
        return;
    all = counters_of(r.m).frames_available;
    real_close(&r);
    refuse = true;
    if (real_open(&r, PAGES, "%s,memory:16M", kind)) {
        is(all, 3844, "%s: all that can be lent is", kind);
        is(counters_of(r.m).frames_available, 3300, "%s: nothing is where memory is locked", kind);
        real_close(&r);
    }
    refuse = false;
}

/* Trims that cannot drop their victims are undone. */
static void *fill(void *argument)
{
    real_fill_all(argument, 3);
    return NULL;
}

static void undone(const char *kind)
{
    struct real r;
    pthread_t id;

    if (!real_open(&r, PAGES, "%s,memory:1M", kind))
        return;
    refused = 0;
    refuse = true;
    pthread_create(&id, NULL, fill, &r);
    while (refused < 20)
        sched_yield();
    refuse = false;
    pthread_join(id, NULL);
    ok(counters_of(r.m).pages_trim_undone > 0, "%s: trims are undone: %llu pages", kind,
       (unsigned long long)counters_of(r.m).pages_trim_undone);
    is(real_count_wrong(&r, 0, PAGES, 3), 0, "%s: every page is right", kind);
    real_close(&r);
}

/* Each page is read, so that it is mapped protected where changes are noticed so, then written. */
static void *rewrite(void *argument)
{
    struct real *r = argument;

    for (size_t p = 0; p < r->pages; p++) {
        (void)*(volatile char *)(r->base + p * PAGE);
        real_fill(r->base, p, 3);
    }
    return NULL;
}

/* The kernel has no memory to lift a protection: who runs into it waits, and is not forgotten. */
static void lifts(void)
{
    struct real r;
    pthread_t id;

    if (!real_open(&r, PAGES, "mapper:copy,trap:thread,memory:1M,dirty:protect"))
        return;
    real_fill_all(&r, 1);
    is(real_count_wrong(&r, 0, PAGES, 1), 0, "%s: filled and read back", r.conf);
    refuse_lifts = 200;
    pthread_create(&id, NULL, rewrite, &r);
    pthread_join(id, NULL);
    ok(refuse_lifts < 200, "%s: protection could not be lifted %d times", r.conf,
       200 - refuse_lifts);
    refuse_lifts = 0;
    is(real_count_wrong(&r, 0, PAGES, 3), 0, "%s: every write was made", r.conf);
    real_close(&r);
}

/* A page that cannot be read, and cannot be poisoned, is made inaccessible; then it is had again.
 */
static void no_poison(const char *kind)
{
    struct sigaction action = {.sa_handler = touch_failed, .sa_flags = SA_NODEFER}, before;
    size_t lost = SIZE_MAX;
    struct real r;

    if (!real_open(&r, PAGES, "%s,memory:1M,store_read_error:1", kind))
        return;
    sigaction(SIGSEGV, &action, &before);
    real_fill_all(&r, 1);
    refuse_poison = true;
    for (size_t p = 0; p < PAGES && lost == SIZE_MAX; p++) {
        if (!touch(r.base + p * PAGE))
            lost = p;
    }
    refuse_poison = false;
    ok(lost < PAGES, "%s: a page that cannot be read raises a signal", kind);
    if (lost < PAGES) {
        is(vmsm_decommit(r.m, r.base + lost * PAGE, PAGE), 0, "%s: it can be decommitted", kind);
        ok(touch(r.base + lost * PAGE), "%s: then it can be touched", kind);
        ok(real_try_fill(r.base, lost, 2) && real_look(r.base, lost, 2) == PAGE_RIGHT,
           "%s: and used", kind);
    }
    sigaction(SIGSEGV, &before, NULL);
    real_close(&r);
}

/* Pages that the program has made inaccessible stay what they are, whoever may read them. */
static void inaccessible(const char *kind, bool forbidden)
{
    const size_t first = PAGES - 4;
    struct real r;

    refuse_vm_read = forbidden;
    if (!real_open(&r, PAGES, "%s,memory:1M", kind))
        return;
    for (uint64_t generation = 1; generation <= 3; generation++) {
        real_fill_all(&r, generation);
        mprotect(r.base + first * PAGE, 4 * PAGE, PROT_NONE);
        vmsm_advise(r.m, r.base + first * PAGE, 4 * PAGE, VMSM_DONTNEED);
        is(real_count_wrong(&r, 0, first, generation), 0, "%s: other pages are right", r.conf);
        mprotect(r.base + first * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE);
        is(real_count_wrong(&r, first, PAGES, generation), 0,
           "%s: pages that were inaccessible are as they were", r.conf);
    }
    real_close(&r);
    refuse_vm_read = false;
}

int main(void)
{
    int log = log_catch();

    for (size_t k = 0; k < REAL_KINDS; k++) {
        locked(real_kinds[k]);
        refusal(real_kinds[k]);
        if (real_is_copy(real_kinds[k])) {
            undone(real_kinds[k]);
            unlent(real_kinds[k]);
        }
    }
    lifts();
    inaccessible("mapper:copy,trap:thread", false);
    inaccessible("mapper:copy,trap:thread", true);
    no_poison("mapper:copy,trap:thread");
    no_poison("mapper:move,trap:thread");
    ok(log_has(log, "they stay"), "what stays is told in the log");
    return done_testing();
}
