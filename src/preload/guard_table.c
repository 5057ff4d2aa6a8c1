#include "preload/guard_table.h"

#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

#define BYTES(index, size)                                                                         \
    {                                                                                              \
        index, GUARD_BYTES, 0, size                                                                \
    }
#define ARRAY(index, of, size)                                                                     \
    {                                                                                              \
        index, GUARD_ARRAY, of, size                                                               \
    }
#define LENGTH(index, of)                                                                          \
    {                                                                                              \
        index, GUARD_ARRAY, of, 1                                                                  \
    }
#define TEXT(index)                                                                                \
    {                                                                                              \
        index, GUARD_TEXT, 0, 0                                                                    \
    }
#define SIZED(index, of)                                                                           \
    {                                                                                              \
        index, GUARD_SIZED, of, 0                                                                  \
    }
#define VECTOR(index, of)                                                                          \
    {                                                                                              \
        index, GUARD_VECTOR, of, 0                                                                 \
    }
#define BITS(index, of)                                                                            \
    {                                                                                              \
        index, GUARD_BITS, of, 0                                                                   \
    }
#define MESSAGE(index)                                                                             \
    {                                                                                              \
        index, GUARD_MESSAGE, 0, 0                                                                 \
    }

#define WORD 4u /* of a futex, a semaphore, … */
#define TIME ((uint16_t)sizeof(struct timespec))
#define SIGNAL_INFO ((uint16_t)sizeof(siginfo_t))
#define USAGE ((uint16_t)sizeof(struct rusage))

/* Reads and writes are in guard.c. */
static const struct guard_argument table[][GUARD_ARGUMENTS] = {
    /* strings */
    [SYS_open] = {TEXT(0)},
    [SYS_creat] = {TEXT(0)},
    [SYS_stat] = {TEXT(0)},
    [SYS_lstat] = {TEXT(0)},
    [SYS_access] = {TEXT(0)},
    [SYS_truncate] = {TEXT(0)},
    [SYS_chdir] = {TEXT(0)},
    [SYS_chroot] = {TEXT(0)},
    [SYS_mkdir] = {TEXT(0)},
    [SYS_rmdir] = {TEXT(0)},
    [SYS_unlink] = {TEXT(0)},
    [SYS_chmod] = {TEXT(0)},
    [SYS_chown] = {TEXT(0)},
    [SYS_lchown] = {TEXT(0)},
    [SYS_mknod] = {TEXT(0)},
    [SYS_utime] = {TEXT(0)},
    [SYS_utimes] = {TEXT(0)},
    [SYS_statfs] = {TEXT(0)},
    [SYS_memfd_create] = {TEXT(0)},
    [SYS_rename] = {TEXT(0), TEXT(1)},
    [SYS_link] = {TEXT(0), TEXT(1)},
    [SYS_symlink] = {TEXT(0), TEXT(1)},
    [SYS_readlink] = {TEXT(0), LENGTH(1, 2)},
    [SYS_openat] = {TEXT(1)},
    [SYS_openat2] = {TEXT(1), LENGTH(2, 3)},
    [SYS_mkdirat] = {TEXT(1)},
    [SYS_mknodat] = {TEXT(1)},
    [SYS_fchownat] = {TEXT(1)},
    [SYS_futimesat] = {TEXT(1)},
    [SYS_newfstatat] = {TEXT(1)},
    [SYS_statx] = {TEXT(1)},
    [SYS_unlinkat] = {TEXT(1)},
    [SYS_fchmodat] = {TEXT(1)},
    [SYS_faccessat] = {TEXT(1)},
    [SYS_faccessat2] = {TEXT(1)},
    [SYS_utimensat] = {TEXT(1)},
    [SYS_renameat] = {TEXT(1), TEXT(3)},
    [SYS_renameat2] = {TEXT(1), TEXT(3)},
    [SYS_linkat] = {TEXT(1), TEXT(3)},
    [SYS_symlinkat] = {TEXT(0), TEXT(2)},
    [SYS_readlinkat] = {TEXT(1), LENGTH(2, 3)},
    [SYS_inotify_add_watch] = {TEXT(1)},
    [SYS_fanotify_mark] = {TEXT(4)},
    [SYS_name_to_handle_at] = {TEXT(1)},
    [SYS_mount] = {TEXT(0), TEXT(1), TEXT(2), TEXT(4)},
    [SYS_umount2] = {TEXT(0)},
    [SYS_pivot_root] = {TEXT(0), TEXT(1)},
    [SYS_mq_open] = {TEXT(0)},
    [SYS_mq_unlink] = {TEXT(0)},
    [SYS_setxattr] = {TEXT(0), TEXT(1), LENGTH(2, 3)},
    [SYS_lsetxattr] = {TEXT(0), TEXT(1), LENGTH(2, 3)},
    [SYS_fsetxattr] = {TEXT(1), LENGTH(2, 3)},
    [SYS_getxattr] = {TEXT(0), TEXT(1), LENGTH(2, 3)},
    [SYS_lgetxattr] = {TEXT(0), TEXT(1), LENGTH(2, 3)},
    [SYS_fgetxattr] = {TEXT(1), LENGTH(2, 3)},
    [SYS_listxattr] = {TEXT(0), LENGTH(1, 2)},
    [SYS_llistxattr] = {TEXT(0), LENGTH(1, 2)},
    [SYS_flistxattr] = {LENGTH(1, 2)},
    [SYS_removexattr] = {TEXT(0), TEXT(1)},
    [SYS_lremovexattr] = {TEXT(0), TEXT(1)},
    [SYS_fremovexattr] = {TEXT(1)},
    [SYS_add_key] = {TEXT(0), TEXT(1), LENGTH(2, 3)},
    [SYS_request_key] = {TEXT(0), TEXT(1), TEXT(2)},

    /* buffers of a given length */
    [SYS_getdents] = {LENGTH(1, 2)},
    [SYS_getdents64] = {LENGTH(1, 2)},
    [SYS_getcwd] = {LENGTH(0, 1)},
    [SYS_sethostname] = {LENGTH(0, 1)},
    [SYS_setdomainname] = {LENGTH(0, 1)},
    [SYS_syslog] = {LENGTH(1, 2)},
    [SYS_getgroups] = {ARRAY(1, 0, sizeof(gid_t))},
    [SYS_setgroups] = {ARRAY(1, 0, sizeof(gid_t))},
    [SYS_sched_setaffinity] = {LENGTH(2, 1)},
    [SYS_sched_getaffinity] = {LENGTH(2, 1)},
    [SYS_bpf] = {LENGTH(1, 2)},
    [SYS_vmsplice] = {VECTOR(1, 2)},
    [SYS_process_vm_readv] = {VECTOR(1, 2), ARRAY(3, 4, sizeof(struct iovec))},
    [SYS_process_vm_writev] = {VECTOR(1, 2), ARRAY(3, 4, sizeof(struct iovec))},
    [SYS_process_madvise] = {ARRAY(1, 2, sizeof(struct iovec))},

    /* sockets */
    [SYS_bind] = {LENGTH(1, 2)},
    [SYS_connect] = {LENGTH(1, 2)},
    [SYS_accept] = {SIZED(1, 2)},
    [SYS_accept4] = {SIZED(1, 2)},
    [SYS_getsockname] = {SIZED(1, 2)},
    [SYS_getpeername] = {SIZED(1, 2)},
    [SYS_getsockopt] = {SIZED(3, 4)},
    [SYS_setsockopt] = {LENGTH(3, 4)},
    [SYS_sendmsg] = {MESSAGE(1)},
    [SYS_recvmsg] = {MESSAGE(1)},

    /* what waits */
    [SYS_futex] = {BYTES(0, WORD), BYTES(3, TIME), BYTES(4, WORD)},
    [SYS_poll] = {ARRAY(0, 1, sizeof(struct pollfd))},
    [SYS_ppoll] = {ARRAY(0, 1, sizeof(struct pollfd)), BYTES(2, TIME)},
    [SYS_select] = {BITS(1, 0), BITS(2, 0), BITS(3, 0), BYTES(4, TIME)},
    [SYS_pselect6] = {BITS(1, 0), BITS(2, 0), BITS(3, 0), BYTES(4, TIME)},
    [SYS_epoll_wait] = {ARRAY(1, 2, sizeof(struct epoll_event))},
    [SYS_epoll_pwait] = {ARRAY(1, 2, sizeof(struct epoll_event))},
    [SYS_epoll_pwait2] = {ARRAY(1, 2, sizeof(struct epoll_event)), BYTES(3, TIME)},
    [SYS_nanosleep] = {BYTES(0, TIME), BYTES(1, TIME)},
    [SYS_clock_nanosleep] = {BYTES(2, TIME), BYTES(3, TIME)},
    [SYS_wait4] = {BYTES(1, WORD), BYTES(3, USAGE)},
    [SYS_waitid] = {BYTES(2, SIGNAL_INFO), BYTES(4, USAGE)},
    [SYS_rt_sigtimedwait] = {BYTES(0, 8), BYTES(1, SIGNAL_INFO), BYTES(2, TIME)},
    [SYS_semop] = {ARRAY(1, 2, 6)},
    [SYS_semtimedop] = {ARRAY(1, 2, 6), BYTES(3, TIME)},
    [SYS_msgsnd] = {LENGTH(1, 2), BYTES(1, 8)},
    [SYS_msgrcv] = {LENGTH(1, 2), BYTES(1, 8)},
    [SYS_mq_timedsend] = {LENGTH(1, 2), BYTES(4, TIME)},
    [SYS_mq_timedreceive] = {LENGTH(1, 2), BYTES(3, WORD), BYTES(4, TIME)},
};

const struct guard_argument *guard_arguments(long number)
{
    static const struct guard_argument none[GUARD_ARGUMENTS];

    if (number < 0 || (size_t)number >= sizeof(table) / sizeof(table[0]))
        return none;
    return table[number];
}
