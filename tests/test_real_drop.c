/*
 * Pages that the kernel does not let go: those that the program has locked with mlock() go all the
 * same; where a drop is refused for good, the page stays what it was, and decommit says so.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/syscall.h>

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

/* Locked by the program page by page as they come (MLOCK_ONFAULT), and those that are there now. */
static void locked(const char *kind)
{
    size_t wrong = 0;
    struct real r;

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

int main(void)
{
    int log = log_catch();

    for (size_t k = 0; k < REAL_KINDS; k++) {
        locked(real_kinds[k]);
        refusal(real_kinds[k]);
        if (real_is_copy(real_kinds[k]))
            undone(real_kinds[k]);
    }
    ok(log_has(log, "they stay"), "what stays is told in the log");
    return done_testing();
}
