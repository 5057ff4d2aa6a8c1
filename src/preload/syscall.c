/*
 * syscall(): the calls that this library has functions for go there, others to the kernel.
 *
 * Calls that a program makes without the C library (from assembly) are not seen.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "preload/guard.h"
#include "preload/kernel.h"
#include "preload/preload.h"
#include "preload/renamed.h"

#define PIDFD_SELF (-10000)
#define PIDFD_SELF_GROUP (-10001)

/* A child with memory of its own, which is to go on where this thread is. */
static bool is_fork(uintptr_t flags, uintptr_t stack)
{
    return process.active && (flags & (CLONE_VM | CLONE_THREAD)) == 0 && stack == 0;
}

/* clone3, by clone; what that one lacks is refused as by a kernel that has no clone3. */
static long call_clone3(const struct clone_args *a, size_t size)
{
    bool needs_pidfd = (a->flags & CLONE_PIDFD) != 0;
    struct clone_call call = {.flags = (uintptr_t)(a->flags | a->exit_signal),
                              .parent_id = needs_pidfd ? a->pidfd : a->parent_tid,
                              .child_id = a->child_tid,
                              .tls = a->tls};

    if (a->flags >> 32 != 0 || (needs_pidfd && (a->flags & CLONE_PARENT_SETTID)) ||
        (size >= CLONE_ARGS_SIZE_VER1 && a->set_tid_size != 0)) {
        errno = ENOSYS;
        return -1;
    }
    return fork_by_call(&call);
}

static long call_processes(long number, const uintptr_t *a)
{
    const struct clone_args *args = (const struct clone_args *)a[0];
    struct clone_call call = {.flags = SIGCHLD};

    if (number == SYS_fork && is_fork(0, 0))
        return fork_by_call(&call);
    if (number == SYS_clone && is_fork(a[0], a[1])) {
        call = (struct clone_call){.flags = a[0], .parent_id = a[2], .child_id = a[3], .tls = a[4]};
        return fork_by_call(&call);
    }
    if (number == SYS_clone3 && args != NULL && a[1] >= CLONE_ARGS_SIZE_VER0 &&
        is_fork((uintptr_t)args->flags, (uintptr_t)args->stack))
        return call_clone3(args, a[1]);
    return guard_function_call(number, a);
}

/* Is it this process? What is not known is somebody else. */
static bool is_self(int pidfd)
{
    char text[512], name[64];
    const char *line;
    ssize_t got = -1;
    int fd;

    if (pidfd == PIDFD_SELF || pidfd == PIDFD_SELF_GROUP)
        return true;
    own_snprintf(name, sizeof(name), "/proc/self/fdinfo/%d", pidfd);
    fd = (int)kernel_call(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC, 0);
    if (fd >= 0) {
        got = kernel_read(fd, text, sizeof(text) - 1);
        kernel_call(SYS_close, fd);
    }
    text[got > 0 ? got : 0] = '\0';
    line = strstr(text, "\nPid:");
    return line != NULL && atoi(line + strlen("\nPid:")) == getpid();
}

/* On other processes it only asks for what keeps their content. */
PRELOAD_API ssize_t process_madvise(int pidfd, const struct iovec *ranges, size_t count, int advice,
                                    unsigned flags)
{
    bool ours = false;
    ssize_t done = 0;

    for (size_t i = 0; i < count && count <= IOV_MAX && !ours; i++)
        ours = arena_overlaps((uintptr_t)ranges[i].iov_base, ranges[i].iov_len);
    if (!ours || flags != 0 || !is_self(pidfd))
        return guard_function_call(
            SYS_process_madvise,
            (uintptr_t[6]){(uintptr_t)pidfd, (uintptr_t)ranges, count, (uintptr_t)advice, flags});
    for (size_t i = 0; i < count; i++) {
        if (memory_advise(ranges[i].iov_base, ranges[i].iov_len, advice) != 0)
            return done > 0 ? done : -1;
        done += (ssize_t)ranges[i].iov_len;
    }
    return done;
}

static long call_descriptors(long number, const uintptr_t *a)
{
    switch (number) {
    case SYS_close:
        return close((int)a[0]);
    case SYS_dup2:
        return dup2((int)a[0], (int)a[1]);
    case SYS_dup3:
        return dup3((int)a[0], (int)a[1], (int)a[2]);
    case SYS_close_range:
        return close_range((unsigned)a[0], (unsigned)a[1], (int)a[2]);
    case SYS_read:
        return read((int)a[0], (void *)a[1], a[2]);
    case SYS_pread64:
        return pread((int)a[0], (void *)a[1], a[2], (off_t)a[3]);
    case SYS_readv:
        return readv((int)a[0], (const struct iovec *)a[1], (int)a[2]);
    case SYS_preadv:
        return preadv((int)a[0], (const struct iovec *)a[1], (int)a[2], (off_t)a[3]);
    case SYS_preadv2:
        return preadv2((int)a[0], (const struct iovec *)a[1], (int)a[2], (off_t)a[3], (int)a[5]);
    default:
        return call_processes(number, a);
    }
}

PRELOAD_API long syscall(long number, ...)
{
    uintptr_t a[6];
    va_list args;

    va_start(args, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(args, uintptr_t);
    va_end(args);
    switch (number) {
    case SYS_mmap:
        return (long)mmap((void *)a[0], a[1], (int)a[2], (int)a[3], (int)a[4], (off_t)a[5]);
    case SYS_munmap:
        return munmap((void *)a[0], a[1]);
    case SYS_mremap:
        return (long)mremap((void *)a[0], a[1], a[2], (int)a[3], (void *)a[4]);
    case SYS_mprotect:
        return mprotect((void *)a[0], a[1], (int)a[2]);
    case SYS_pkey_mprotect:
        return pkey_mprotect((void *)a[0], a[1], (int)a[2], (int)a[3]);
    case SYS_mseal:
        return mseal((void *)a[0], a[1], a[2]);
    case SYS_madvise:
        return madvise((void *)a[0], a[1], (int)a[2]);
    case SYS_mincore:
        return mincore((void *)a[0], a[1], (unsigned char *)a[2]);
    case SYS_mlock:
        return mlock((const void *)a[0], a[1]);
    case SYS_mlock2:
        return mlock2((const void *)a[0], a[1], (unsigned)a[2]);
    case SYS_munlock:
        return munlock((const void *)a[0], a[1]);
    case SYS_mlockall:
        return mlockall((int)a[0]);
    case SYS_prctl:
        return prctl((int)a[0], a[1], a[2], a[3], a[4]);
    case SYS_process_madvise:
        return process_madvise((int)a[0], (const struct iovec *)a[1], a[2], (int)a[3],
                               (unsigned)a[4]);
    case SYS_brk:
        return process.active ? (long)memory_break(a[0]) : kernel_call(number, a[0]);
    default:
        return call_descriptors(number, a);
    }
}
