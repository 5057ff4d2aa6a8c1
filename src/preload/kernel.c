#include "preload/kernel.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload/preload.h"

/* Where kernel_call() ends after an error; returns -1. */
long kernel_failed(long result);

__attribute__((used)) long kernel_failed(long result)
{
    errno = (int)-result;
    return -1;
}

/*
 * All system calls of this library are made between kernel_start and kernel_end, where the guard
 * does not look (guard.h). Of the two calls for a clone, guard_clone.c tells.
 */
#define CLONED(there)                                                                              \
    "    push %rax\n"                                                                              \
    "    push %rdi\n"                                                                              \
    "    push %rsi\n"                                                                              \
    "    push %rdx\n"                                                                              \
    "    push %r8\n"                                                                               \
    "    push %r9\n"                                                                               \
    "    push %r10\n"                                                                              \
    "    push %rbx\n"                                                                              \
    "    mov $" there ", %esi\n"                                                                   \
    "    mov %rsp, %rdi\n"                                                                         \
    "    mov %rsp, %rbx\n"                                                                         \
    "    and $-16, %rsp\n"                                                                         \
    "    call guard_cloned\n"                                                                      \
    "    mov %rbx, %rsp\n"                                                                         \
    "    pop %rbx\n"                                                                               \
    "    pop %r10\n"                                                                               \
    "    pop %r9\n"                                                                                \
    "    pop %r8\n"                                                                                \
    "    pop %rdx\n"                                                                               \
    "    pop %rsi\n"                                                                               \
    "    pop %rdi\n"                                                                               \
    "    pop %rax\n"                                                                               \
    "    ret $128\n"

__asm__(".text\n"
        ".hidden kernel_start, kernel_end, kernel_signal_return\n"
        ".hidden kernel_clone_here, kernel_clone_there, guard_cloned\n"
        ".globl kernel_start, kernel_end, kernel_signal_return\n"
        ".globl kernel_clone_here, kernel_clone_there\n"
        "kernel_start:\n"
        "    nop\n" /* unwinders look one byte before a return address */
        /* Just these bytes, and nothing that describes them: so unwinders know it. */
        "kernel_signal_return:\n"
        "    mov $15, %rax\n"
        "    syscall\n"
        /* A clone on the caller's stack; the 128 bytes below that are the caller's. */
        "kernel_clone_here:\n"
        "    syscall\n"
        "    lea -136(%rsp), %rsp\n" CLONED("0")
        /* On a stack of the child's. */
        "kernel_clone_there:\n"
        "    syscall\n"
        "    lea -136(%rsp), %rsp\n" CLONED("1") ".hidden kernel_raw\n"
                                                 ".globl kernel_raw\n"
                                                 ".type kernel_raw, @function\n"
                                                 "kernel_raw:\n"
                                                 "    .cfi_startproc\n"
                                                 "    mov %rdi, %rax\n"
                                                 "    mov %rsi, %rdi\n"
                                                 "    mov %rdx, %rsi\n"
                                                 "    mov %rcx, %rdx\n"
                                                 "    mov %r8, %r10\n"
                                                 "    mov %r9, %r8\n"
                                                 "    mov 8(%rsp), %r9\n"
                                                 "    syscall\n"
                                                 "    ret\n"
                                                 "    .cfi_endproc\n"
                                                 ".size kernel_raw, . - kernel_raw\n"
                                                 ".hidden kernel_call\n"
                                                 ".globl kernel_call\n"
                                                 ".type kernel_call, @function\n"
                                                 "kernel_call:\n"
                                                 "    .cfi_startproc\n"
                                                 "    mov %rdi, %rax\n"
                                                 "    mov %rsi, %rdi\n"
                                                 "    mov %rdx, %rsi\n"
                                                 "    mov %rcx, %rdx\n"
                                                 "    mov %r8, %r10\n"
                                                 "    mov %r9, %r8\n"
                                                 "    mov 8(%rsp), %r9\n"
                                                 "    syscall\n"
                                                 "    cmp $-4095, %rax\n"
                                                 "    jae 1f\n"
                                                 "    ret\n"
                                                 "1:  mov %rax, %rdi\n"
                                                 "    jmp kernel_failed\n"
                                                 "    .cfi_endproc\n"
                                                 ".size kernel_call, . - kernel_call\n"
                                                 "kernel_end:\n");

void kernel_find(void *pointer, const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);

    if (found != NULL)
        memcpy(pointer, &found, sizeof(found));
}

void *kernel_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return (void *)kernel_call(SYS_mmap, address, length, protection, flags, fd, offset);
}

int kernel_munmap(void *address, size_t length)
{
    void *left;

    if (!arena_overlaps((uintptr_t)address, length))
        return (int)kernel_call(SYS_munmap, address, length);
    left = kernel_mmap(address, length, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return left == MAP_FAILED ? -1 : 0;
}

int kernel_mprotect(void *address, size_t length, int protection)
{
    return (int)kernel_call(SYS_mprotect, address, length, protection);
}

int kernel_madvise(void *address, size_t length, int advice)
{
    return (int)kernel_call(SYS_madvise, address, length, advice);
}

int kernel_mincore(void *address, size_t length, unsigned char *vector)
{
    return (int)kernel_call(SYS_mincore, address, length, vector);
}

int kernel_mlock(const void *address, size_t length)
{
    return (int)kernel_call(SYS_mlock, address, length);
}

int kernel_mlock2(const void *address, size_t length, unsigned flags)
{
    return (int)kernel_call(SYS_mlock2, address, length, flags);
}

int kernel_munlock(const void *address, size_t length)
{
    return (int)kernel_call(SYS_munlock, address, length);
}

int kernel_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
    return (int)kernel_call(SYS_prctl, option, a, b, c, d);
}

void *kernel_mremap(void *address, size_t old_length, size_t new_length, int flags, void *target)
{
    return (void *)kernel_call(SYS_mremap, address, old_length, new_length, flags, target);
}

int kernel_dup3(int from, int to, int flags)
{
    return (int)kernel_call(SYS_dup3, from, to, flags);
}

ssize_t kernel_read(int fd, void *buffer, size_t length)
{
    return kernel_call(SYS_read, fd, buffer, length);
}

ssize_t kernel_write(int fd, const void *buffer, size_t length)
{
    return kernel_call(SYS_write, fd, buffer, length);
}

ssize_t kernel_pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
    return kernel_call(SYS_pwrite64, fd, buffer, length, offset);
}

int kernel_poll(struct pollfd *fds, nfds_t count, int milliseconds)
{
    return (int)kernel_call(SYS_poll, fds, count, milliseconds);
}

int kernel_epoll_wait(int fd, struct epoll_event *events, int count, int milliseconds)
{
    return (int)kernel_call(SYS_epoll_wait, fd, events, count, milliseconds);
}

ssize_t kernel_pread(int fd, void *buffer, size_t length, off_t offset)
{
    return kernel_call(SYS_pread64, fd, buffer, length, offset);
}

ssize_t kernel_preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
    return kernel_call(SYS_preadv, fd, iov, count, offset, 0);
}

ssize_t kernel_readv(int fd, const struct iovec *iov, int count)
{
    return kernel_call(SYS_readv, fd, iov, count);
}

ssize_t kernel_preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    return kernel_call(SYS_preadv2, fd, iov, count, offset, 0, flags);
}
