/*
 * Descriptors of the manager, out of the program's way: they have high numbers, and the program's
 * calls that would close or replace them meet what they would if there were none.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "core/error.h"
#include "mapper/uffd.h"
#include "preload/kernel.h"
#include "preload/preload.h"
#include "preload/renamed.h"

#define OURS_MAX 512
#define HIGH_FROM 800 /* under the usual limit of 1024 */
#define HIGH_ROOM 128 /* or so many under a lower limit */

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4u
#endif
#define DEVICE "/dev/userfaultfd"

static _Atomic int ours[OURS_MAX]; /* number + 1; 0: none */

/* For as long as the process lives, and its children by fork(): who has changed its user or its
 * root directory would get neither again. -1: none. Constant after start. */
static int device = -1, directory = -1;
static const char *directory_path;

bool descriptor_is_ours(int fd)
{
    if (fd < 0)
        return false;
    if (fd == log_descriptor() && fd > STDERR_FILENO)
        return true;
    for (int i = 0; i < OURS_MAX; i++) {
        if (atomic_load_explicit(&ours[i], memory_order_relaxed) == fd + 1)
            return true;
    }
    return false;
}

static void remember(int fd)
{
    for (int i = 0; i < OURS_MAX; i++) {
        int none = 0;

        if (atomic_compare_exchange_strong(&ours[i], &none, fd + 1))
            return;
    }
}

void descriptor_forget(int fd)
{
    for (int i = 0; i < OURS_MAX; i++) {
        int mine = fd + 1;

        if (atomic_compare_exchange_strong(&ours[i], &mine, 0))
            return;
    }
}

int descriptor_keep(int fd)
{
    struct rlimit limit = {.rlim_cur = HIGH_FROM};
    int from = HIGH_FROM, high;

    if (fd < 0)
        return fd;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < HIGH_FROM + HIGH_ROOM)
        from = limit.rlim_cur > HIGH_ROOM ? (int)limit.rlim_cur - HIGH_ROOM : 3;
    high = fcntl(fd, F_DUPFD_CLOEXEC, from);
    if (high >= 0) {
        kernel_call(SYS_close, fd);
        fd = high;
    }
    remember(fd);
    return fd;
}

void descriptor_start(const char *pagefile_directory)
{
    device = descriptor_keep((int)kernel_call(SYS_openat, AT_FDCWD, DEVICE, O_RDWR | O_CLOEXEC, 0));
    directory_path = pagefile_directory;
    directory = descriptor_keep((int)kernel_call(SYS_openat, AT_FDCWD, pagefile_directory,
                                                 O_PATH | O_DIRECTORY | O_CLOEXEC, 0));
}

bool descriptor_may_watch(bool user_only)
{
    int flags = O_CLOEXEC | O_NONBLOCK | (user_only ? UFFD_USER_MODE_ONLY : 0), fd;

    if (device >= 0)
        return true;
    fd = (int)kernel_call(SYS_userfaultfd, flags);
    if (fd < 0)
        return false;
    kernel_call(SYS_close, fd);
    return true;
}

int descriptor_directory(void)
{
    return directory;
}

static int marked[OURS_MAX]; /* with the gate held */

void descriptor_mark(void)
{
    for (int i = 0; i < OURS_MAX; i++) {
        int fd = atomic_load(&ours[i]) - 1;

        marked[i] = fd == device || fd == directory ? -1 : fd;
    }
}

void descriptor_close_marked(void)
{
    for (int i = 0; i < OURS_MAX; i++) {
        if (marked[i] >= 0)
            own_close(marked[i]);
    }
}

/* ---- what the manager calls ---- */

int own_open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    int from = AT_FDCWD;
    va_list args;

    va_start(args, flags);
    if (flags & (O_CREAT | __O_TMPFILE))
        mode = va_arg(args, mode_t);
    va_end(args);
    if (device >= 0 && strcmp(path, DEVICE) == 0)
        return descriptor_keep(fcntl(device, F_DUPFD_CLOEXEC, 0));
    if (directory >= 0 && strcmp(path, directory_path) == 0) {
        from = directory;
        path = ".";
    }
    return descriptor_keep((int)kernel_call(SYS_openat, from, path, flags, mode));
}

int own_mkostemp(char *name, int flags)
{
    return descriptor_keep(mkostemp(name, flags));
}

int own_close(int fd)
{
    descriptor_forget(fd);
    return (int)kernel_call(SYS_close, fd);
}

int own_epoll_create1(int flags)
{
    return descriptor_keep(epoll_create1(flags));
}

int own_eventfd(unsigned value, int flags)
{
    return descriptor_keep(eventfd(value, flags));
}

int own_timerfd_create(int clock, int flags)
{
    return descriptor_keep(timerfd_create(clock, flags));
}

long own_syscall(long number, ...)
{
    va_list args;
    long a[6], result;

    va_start(args, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    result = kernel_call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    return number == SYS_userfaultfd ? descriptor_keep((int)result) : result;
}

/* ---- what the program calls ---- */

static int refuse(int error)
{
    errno = error;
    return -1;
}

/* Who waits for the end of a pipe does not wait for our copy of its descriptor. */
static int changed(int fd, int result)
{
    if (fd == STDERR_FILENO && result >= 0 && !process.stats)
        log_follow();
    return result;
}

PRELOAD_API int close(int fd)
{
    return descriptor_is_ours(fd) ? refuse(EBADF) : changed(fd, (int)kernel_call(SYS_close, fd));
}

PRELOAD_API int dup2(int from, int to)
{
    if (descriptor_is_ours(from))
        return refuse(EBADF);
    return descriptor_is_ours(to) ? refuse(EBUSY)
                                  : changed(to, (int)kernel_call(SYS_dup2, from, to));
}

PRELOAD_API int dup3(int from, int to, int flags)
{
    if (descriptor_is_ours(from))
        return refuse(EBADF);
    return descriptor_is_ours(to) ? refuse(EBUSY)
                                  : changed(to, (int)kernel_call(SYS_dup3, from, to, flags));
}

/* The lowest of ours in [first, last], or last + 1. */
static long first_of_ours(long first, long last)
{
    long lowest = last + 1, log = log_descriptor();

    if (log > STDERR_FILENO && log >= first && log < lowest)
        lowest = log;
    for (int i = 0; i < OURS_MAX; i++) {
        long fd = (long)atomic_load_explicit(&ours[i], memory_order_relaxed) - 1;

        if (fd >= first && fd < lowest)
            lowest = fd;
    }
    return lowest;
}

PRELOAD_API int close_range(unsigned first, unsigned last, int flags)
{
    long at = first;

    if (first > last || (flags & ~7) != 0)
        return (int)kernel_call(SYS_close_range, first, last, flags);
    while (at <= (long)last) {
        long stop = first_of_ours(at, last);

        if (stop > at &&
            kernel_call(SYS_close_range, (unsigned)at, (unsigned)(stop - 1), flags) != 0)
            return -1;
        at = stop + 1;
    }
    if (first <= STDERR_FILENO && last >= STDERR_FILENO && (flags & (int)CLOSE_RANGE_CLOEXEC) == 0)
        changed(STDERR_FILENO, 0);
    return 0;
}

PRELOAD_API void closefrom(int lowest)
{
    close_range(lowest > 0 ? (unsigned)lowest : 0, UINT_MAX, 0);
}
