/*
 * The system calls themselves, past what this library puts in their place. The manager's objects
 * are linked in with their calls renamed to these (core.syms).
 */
#ifndef VMSM_PRELOAD_KERNEL_H
#define VMSM_PRELOAD_KERNEL_H

#include <poll.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Headers are older than kernels. */
#ifndef SYS_mseal
#define SYS_mseal 462
#endif
int mseal(void *address, size_t length, unsigned long flags);
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

/* What syscall() of the C library is; that one, too, has ours in its place (syscall.c). */
long kernel_call(long number, ...);
/* The same, but returns a negative errno. */
long kernel_raw(long number, ...);

/* Where this library makes system calls: calls from elsewhere are the guard's (guard.h). */
extern const char kernel_start[], kernel_end[];
extern const char kernel_signal_return[], kernel_clone_here[], kernel_clone_there[];

/* The C library's own function of this name, past ours; *pointer, a pointer to a function, receives
 * it, and stays as it is if there is none. */
void kernel_find(void *pointer, const char *name);

/* As those without the prefix: -1 and errno. */
void *kernel_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
/* In the arena it leaves a mapping without access behind, so that the addresses stay ours. */
int kernel_munmap(void *address, size_t length);
int kernel_mprotect(void *address, size_t length, int protection);
int kernel_madvise(void *address, size_t length, int advice);
int kernel_mincore(void *address, size_t length, unsigned char *vector);
int kernel_mlock(const void *address, size_t length);
int kernel_mlock2(const void *address, size_t length, unsigned flags);
int kernel_munlock(const void *address, size_t length);
int kernel_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
void *kernel_mremap(void *address, size_t old_length, size_t new_length, int flags, void *target);
int kernel_dup3(int from, int to, int flags);
ssize_t kernel_read(int fd, void *buffer, size_t length);
ssize_t kernel_write(int fd, const void *buffer, size_t length);
ssize_t kernel_pwrite(int fd, const void *buffer, size_t length, off_t offset);
int kernel_poll(struct pollfd *fds, nfds_t count, int milliseconds);
int kernel_epoll_wait(int fd, struct epoll_event *events, int count, int milliseconds);
ssize_t kernel_pread(int fd, void *buffer, size_t length, off_t offset);
ssize_t kernel_preadv(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t kernel_readv(int fd, const struct iovec *iov, int count);
ssize_t kernel_preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags);

#endif
