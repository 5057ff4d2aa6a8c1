/*
 * Calls that are made often, or that a signal would spoil: with the guard they are made here, without
 * one.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "preload/guard.h"
#include "preload/kernel.h"
#include "preload/preload.h"

/* The C library's own, for programs without the guard. */
static struct {
    ssize_t (*write)(int, const void *, size_t);
    ssize_t (*pwrite)(int, const void *, size_t, off_t);
    ssize_t (*writev)(int, const struct iovec *, int);
    ssize_t (*sendto)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    ssize_t (*recvfrom)(int, void *, size_t, int, struct sockaddr *, socklen_t *);
    int (*epoll_wait)(int, struct epoll_event *, int, int);
    int (*poll)(struct pollfd *, nfds_t, int);
} libc;

__attribute__((constructor(102))) static void find_all(void)
{
    kernel_find(&libc.write, "write");
    kernel_find(&libc.pwrite, "pwrite");
    kernel_find(&libc.writev, "writev");
    kernel_find(&libc.sendto, "sendto");
    kernel_find(&libc.recvfrom, "recvfrom");
    kernel_find(&libc.epoll_wait, "epoll_wait");
    kernel_find(&libc.poll, "poll");
}

/* libc.NAME, also for a library that is initialized before this one. */
#define LIBC(name) (libc.name != NULL ? libc.name : (find_all(), libc.name))

PRELOAD_API ssize_t write(int fd, const void *buffer, size_t length)
{
    if (!guard_active)
        return LIBC(write)(fd, buffer, length);
    return guard_cancelable_call(SYS_write,
                                 (uintptr_t[6]){(uintptr_t)fd, (uintptr_t)buffer, length});
}

PRELOAD_API ssize_t pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
    if (!guard_active)
        return LIBC(pwrite)(fd, buffer, length, offset);
    return guard_cancelable_call(
        SYS_pwrite64, (uintptr_t[6]){(uintptr_t)fd, (uintptr_t)buffer, length, (uintptr_t)offset});
}

PRELOAD_API ssize_t pwrite64(int fd, const void *buffer, size_t length, off_t offset)
    __attribute__((alias("pwrite")));

PRELOAD_API ssize_t writev(int fd, const struct iovec *iov, int count)
{
    if (!guard_active)
        return LIBC(writev)(fd, iov, count);
    return guard_cancelable_call(SYS_writev,
                                 (uintptr_t[6]){(uintptr_t)fd, (uintptr_t)iov, (uintptr_t)count});
}

PRELOAD_API ssize_t sendto(int fd, const void *buffer, size_t length, int flags,
                           const struct sockaddr *address, socklen_t address_length)
{
    if (!guard_active)
        return LIBC(sendto)(fd, buffer, length, flags, address, address_length);
    return guard_cancelable_call(SYS_sendto, (uintptr_t[6]){(uintptr_t)fd, (uintptr_t)buffer,
                                                            length, (uintptr_t)flags,
                                                            (uintptr_t)address, address_length});
}

PRELOAD_API ssize_t send(int fd, const void *buffer, size_t length, int flags)
{
    return sendto(fd, buffer, length, flags, NULL, 0);
}

PRELOAD_API ssize_t recvfrom(int fd, void *buffer, size_t length, int flags,
                             struct sockaddr *address, socklen_t *address_length)
{
    if (!guard_active)
        return LIBC(recvfrom)(fd, buffer, length, flags, address, address_length);
    return guard_cancelable_call(
        SYS_recvfrom, (uintptr_t[6]){(uintptr_t)fd, (uintptr_t)buffer, length, (uintptr_t)flags,
                                     (uintptr_t)address, (uintptr_t)address_length});
}

PRELOAD_API ssize_t recv(int fd, void *buffer, size_t length, int flags)
{
    return recvfrom(fd, buffer, length, flags, NULL, NULL);
}

PRELOAD_API int epoll_wait(int fd, struct epoll_event *events, int count, int milliseconds)
{
    if (!guard_active)
        return LIBC(epoll_wait)(fd, events, count, milliseconds);
    return (int)guard_cancelable_call(SYS_epoll_wait,
                                      (uintptr_t[6]){(uintptr_t)fd, (uintptr_t)events,
                                                     (uintptr_t)count, (uintptr_t)milliseconds});
}

/* A new key's rights are set for this thread; a signal's end would put back what they were. */
PRELOAD_API int pkey_alloc(unsigned flags, unsigned rights)
{
    return (int)guard_function_call(SYS_pkey_alloc, (uintptr_t[6]){flags, rights});
}

PRELOAD_API int poll(struct pollfd *fds, nfds_t count, int milliseconds)
{
    if (!guard_active)
        return LIBC(poll)(fds, count, milliseconds);
    return (int)guard_cancelable_call(
        SYS_poll, (uintptr_t[6]){(uintptr_t)fds, count, (uintptr_t)milliseconds});
}
