/*
 * Forbid the process io_uring, as containers and sysctl do.
 */
#ifndef TESTS_NO_IO_URING_H
#define TESTS_NO_IO_URING_H

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* This cannot be undone. False: it cannot be done either. */
static inline bool forbid_call(unsigned call, unsigned flags)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) == 0;
}

/* To the calling thread. */
static inline bool forbid_io_uring(void)
{
    return forbid_call(__NR_io_uring_setup, 0);
}

/* To all threads, and for rings that exist. */
static inline bool forbid_io_uring_enter(void)
{
    return forbid_call(__NR_io_uring_enter, SECCOMP_FILTER_FLAG_TSYNC);
}

#endif
