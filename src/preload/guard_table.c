#include "preload/guard_table.h"

#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <time.h>

#include "preload/kernel.h"

#define BYTES(index, size)                                                                         \
    {                                                                                              \
        index, GUARD_BYTES, 0, size                                                                \
    }
#define ARRAY(index, of, size)                                                                     \
    {                                                                                              \
        index, GUARD_ARRAY, of, size                                                               \
    }
#define RESULT(index, of, size)                                                                    \
    {                                                                                              \
        index, GUARD_RESULT, of, size                                                              \
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
#define LETTER(index, of)                                                                          \
    {                                                                                              \
        index, GUARD_LETTER, of, 0                                                                 \
    }
#define PAGES(index, of)                                                                           \
    {                                                                                              \
        index, GUARD_PAGES, of, 0                                                                  \
    }
#define IOCTL(index, of)                                                                           \
    {                                                                                              \
        index, GUARD_IOCTL, of, 0                                                                  \
    }

#define OFFSET ((uint16_t)sizeof(off_t))
#define INTERVAL ((uint16_t)sizeof(struct itimerspec))
#define QUEUE 64u /* struct mq_attr */
#define WORD 4u   /* of a futex, a semaphore, … */
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
    [SYS_getdents] = {RESULT(1, 2, 1)},
    [SYS_getdents64] = {RESULT(1, 2, 1)},
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

    [SYS_ioctl] = {IOCTL(2, 1)},
    [SYS_mincore] = {PAGES(2, 1)},
    [SYS_move_pages] = {ARRAY(2, 1, sizeof(void *)), ARRAY(3, 1, sizeof(int)),
                        ARRAY(4, 1, sizeof(int))},
    [SYS_mbind] = {BITS(3, 4)},
    [SYS_set_mempolicy] = {BITS(1, 2)},
    [SYS_get_mempolicy] = {BYTES(0, WORD), BITS(1, 2)},
    [SYS_get_robust_list] = {BYTES(1, 8), BYTES(2, 8)},
    [SYS_init_module] = {LENGTH(0, 1), TEXT(2)},
    [SYS_sched_getattr] = {LENGTH(1, 2)},

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
    [SYS_epoll_wait] = {RESULT(1, 2, sizeof(struct epoll_event))},
    [SYS_epoll_pwait] = {RESULT(1, 2, sizeof(struct epoll_event))},
    [SYS_epoll_pwait2] = {RESULT(1, 2, sizeof(struct epoll_event)), BYTES(3, TIME)},
    [SYS_nanosleep] = {BYTES(0, TIME), BYTES(1, TIME)},
    /* They act before they write: made again on a page that has gone meanwhile, they would act twice. */
    [SYS_sendfile] = {BYTES(2, OFFSET)},
    [SYS_splice] = {BYTES(1, OFFSET), BYTES(3, OFFSET)},
    [SYS_copy_file_range] = {BYTES(1, OFFSET), BYTES(3, OFFSET)},
    [SYS_setitimer] = {BYTES(1, INTERVAL), BYTES(2, INTERVAL)},
    [SYS_timer_settime] = {BYTES(2, INTERVAL), BYTES(3, INTERVAL)},
    [SYS_timerfd_settime] = {BYTES(2, INTERVAL), BYTES(3, INTERVAL)},
    [SYS_prlimit64] = {BYTES(2, sizeof(struct rlimit)), BYTES(3, sizeof(struct rlimit))},
    [SYS_mq_getsetattr] = {BYTES(1, QUEUE), BYTES(2, QUEUE)},
    [SYS_adjtimex] = {BYTES(0, sizeof(struct timex))},
    [SYS_clock_adjtime] = {BYTES(1, sizeof(struct timex))},
    [SYS_clock_nanosleep] = {BYTES(2, TIME), BYTES(3, TIME)},
    [SYS_wait4] = {BYTES(1, WORD), BYTES(3, USAGE)},
    [SYS_waitid] = {BYTES(2, SIGNAL_INFO), BYTES(4, USAGE)},
    [SYS_rt_sigtimedwait] = {BYTES(0, 8), BYTES(1, SIGNAL_INFO), BYTES(2, TIME)},
    [SYS_semop] = {ARRAY(1, 2, 6)},
    [SYS_semtimedop] = {ARRAY(1, 2, 6), BYTES(3, TIME)},
    [SYS_msgsnd] = {LETTER(1, 2)},
    [SYS_msgrcv] = {LETTER(1, 2)},
    [SYS_mq_timedsend] = {LENGTH(1, 2), BYTES(4, TIME)},
    [SYS_mq_timedreceive] = {LENGTH(1, 2), BYTES(3, WORD), BYTES(4, TIME)},
};

/*
 * In which registers a call has pointers at all, whose memory it reads or writes. What else is in
 * registers is left over from before, or an address that is only named (mlock(), rseq()).
 */
#define P(index) (1u << (index))
#define NONE P(7) /* 0: the call is not known */
static const uint8_t pointers[] = {
    [SYS_read] = P(1),
    [SYS_write] = P(1),
    [SYS_open] = P(0),
    [SYS_close] = NONE,
    [SYS_stat] = P(0) | P(1),
    [SYS_fstat] = P(1),
    [SYS_lstat] = P(0) | P(1),
    [SYS_poll] = P(0),
    [SYS_lseek] = NONE,
    [SYS_mmap] = NONE,
    [SYS_mprotect] = NONE,
    [SYS_munmap] = NONE,
    [SYS_brk] = NONE,
    [SYS_rt_sigaction] = P(1) | P(2),
    [SYS_rt_sigprocmask] = P(1) | P(2),
    [SYS_rt_sigreturn] = NONE,
    [SYS_ioctl] = P(2),
    [SYS_pread64] = P(1),
    [SYS_pwrite64] = P(1),
    [SYS_readv] = P(1),
    [SYS_writev] = P(1),
    [SYS_access] = P(0),
    [SYS_pipe] = P(0),
    [SYS_select] = P(1) | P(2) | P(3) | P(4),
    [SYS_sched_yield] = NONE,
    [SYS_mremap] = NONE,
    [SYS_msync] = NONE,
    [SYS_mincore] = P(2),
    [SYS_madvise] = NONE,
    [SYS_shmget] = NONE,
    [SYS_shmat] = NONE,
    [SYS_shmctl] = P(2),
    [SYS_dup] = NONE,
    [SYS_dup2] = NONE,
    [SYS_pause] = NONE,
    [SYS_nanosleep] = P(0) | P(1),
    [SYS_getitimer] = P(1),
    [SYS_alarm] = NONE,
    [SYS_setitimer] = P(1) | P(2),
    [SYS_getpid] = NONE,
    [SYS_sendfile] = P(2),
    [SYS_socket] = NONE,
    [SYS_connect] = P(1),
    [SYS_accept] = P(1) | P(2),
    [SYS_sendto] = P(1) | P(4),
    [SYS_recvfrom] = P(1) | P(4) | P(5),
    [SYS_sendmsg] = P(1),
    [SYS_recvmsg] = P(1),
    [SYS_shutdown] = NONE,
    [SYS_bind] = P(1),
    [SYS_listen] = NONE,
    [SYS_getsockname] = P(1) | P(2),
    [SYS_getpeername] = P(1) | P(2),
    [SYS_socketpair] = P(3),
    [SYS_setsockopt] = P(3),
    [SYS_getsockopt] = P(3) | P(4),
    [SYS_fork] = NONE,
    [SYS_vfork] = NONE,
    [SYS_execve] = P(0) | P(1) | P(2),
    [SYS_exit] = NONE,
    [SYS_wait4] = P(1) | P(3),
    [SYS_kill] = NONE,
    [SYS_uname] = P(0),
    [SYS_semget] = NONE,
    [SYS_semop] = P(1),
    [SYS_semctl] = P(3),
    [SYS_shmdt] = NONE,
    [SYS_msgget] = NONE,
    [SYS_msgsnd] = P(1),
    [SYS_msgrcv] = P(1),
    [SYS_msgctl] = P(2),
    [SYS_fcntl] = P(2),
    [SYS_flock] = NONE,
    [SYS_fsync] = NONE,
    [SYS_fdatasync] = NONE,
    [SYS_truncate] = P(0),
    [SYS_ftruncate] = NONE,
    [SYS_getdents] = P(1),
    [SYS_getcwd] = P(0),
    [SYS_chdir] = P(0),
    [SYS_fchdir] = NONE,
    [SYS_rename] = P(0) | P(1),
    [SYS_mkdir] = P(0),
    [SYS_rmdir] = P(0),
    [SYS_creat] = P(0),
    [SYS_link] = P(0) | P(1),
    [SYS_unlink] = P(0),
    [SYS_symlink] = P(0) | P(1),
    [SYS_readlink] = P(0) | P(1),
    [SYS_chmod] = P(0),
    [SYS_fchmod] = NONE,
    [SYS_chown] = P(0),
    [SYS_fchown] = NONE,
    [SYS_lchown] = P(0),
    [SYS_umask] = NONE,
    [SYS_gettimeofday] = P(0) | P(1),
    [SYS_getrlimit] = P(1),
    [SYS_getrusage] = P(1),
    [SYS_sysinfo] = P(0),
    [SYS_times] = P(0),
    [SYS_ptrace] = P(2) | P(3),
    [SYS_getuid] = NONE,
    [SYS_syslog] = P(1),
    [SYS_getgid] = NONE,
    [SYS_setuid] = NONE,
    [SYS_setgid] = NONE,
    [SYS_geteuid] = NONE,
    [SYS_getegid] = NONE,
    [SYS_setpgid] = NONE,
    [SYS_getppid] = NONE,
    [SYS_getpgrp] = NONE,
    [SYS_setsid] = NONE,
    [SYS_setreuid] = NONE,
    [SYS_setregid] = NONE,
    [SYS_getgroups] = P(1),
    [SYS_setgroups] = P(1),
    [SYS_setresuid] = NONE,
    [SYS_getresuid] = P(0) | P(1) | P(2),
    [SYS_setresgid] = NONE,
    [SYS_getresgid] = P(0) | P(1) | P(2),
    [SYS_getpgid] = NONE,
    [SYS_setfsuid] = NONE,
    [SYS_setfsgid] = NONE,
    [SYS_getsid] = NONE,
    [SYS_capget] = P(0) | P(1),
    [SYS_capset] = P(0) | P(1),
    [SYS_rt_sigpending] = P(0),
    [SYS_rt_sigtimedwait] = P(0) | P(1) | P(2),
    [SYS_rt_sigqueueinfo] = P(2),
    [SYS_rt_sigsuspend] = P(0),
    [SYS_sigaltstack] = P(0) | P(1),
    [SYS_utime] = P(0) | P(1),
    [SYS_mknod] = P(0),
    [SYS_uselib] = P(0),
    [SYS_personality] = NONE,
    [SYS_ustat] = P(1),
    [SYS_statfs] = P(0) | P(1),
    [SYS_fstatfs] = P(1),
    [SYS_sysfs] = P(1) | P(2),
    [SYS_getpriority] = NONE,
    [SYS_setpriority] = NONE,
    [SYS_sched_setparam] = P(1),
    [SYS_sched_getparam] = P(1),
    [SYS_sched_setscheduler] = P(2),
    [SYS_sched_getscheduler] = NONE,
    [SYS_sched_get_priority_max] = NONE,
    [SYS_sched_get_priority_min] = NONE,
    [SYS_sched_rr_get_interval] = P(1),
    [SYS_mlock] = NONE,
    [SYS_munlock] = NONE,
    [SYS_mlockall] = NONE,
    [SYS_munlockall] = NONE,
    [SYS_vhangup] = NONE,
    [SYS_modify_ldt] = P(1),
    [SYS_pivot_root] = P(0) | P(1),
    [SYS__sysctl] = P(0),
    [SYS_arch_prctl] = P(1),
    [SYS_adjtimex] = P(0),
    [SYS_setrlimit] = P(1),
    [SYS_chroot] = P(0),
    [SYS_sync] = NONE,
    [SYS_acct] = P(0),
    [SYS_settimeofday] = P(0) | P(1),
    [SYS_mount] = P(0) | P(1) | P(2) | P(4),
    [SYS_umount2] = P(0),
    [SYS_swapon] = P(0),
    [SYS_swapoff] = P(0),
    [SYS_reboot] = P(3),
    [SYS_sethostname] = P(0),
    [SYS_setdomainname] = P(0),
    [SYS_iopl] = NONE,
    [SYS_ioperm] = NONE,
    [SYS_init_module] = P(0) | P(2),
    [SYS_delete_module] = P(0),
    [SYS_quotactl] = P(1) | P(3),
    [SYS_gettid] = NONE,
    [SYS_readahead] = NONE,
    [SYS_setxattr] = P(0) | P(1) | P(2),
    [SYS_lsetxattr] = P(0) | P(1) | P(2),
    [SYS_fsetxattr] = P(1) | P(2),
    [SYS_getxattr] = P(0) | P(1) | P(2),
    [SYS_lgetxattr] = P(0) | P(1) | P(2),
    [SYS_fgetxattr] = P(1) | P(2),
    [SYS_listxattr] = P(0) | P(1),
    [SYS_llistxattr] = P(0) | P(1),
    [SYS_flistxattr] = P(1),
    [SYS_removexattr] = P(0) | P(1),
    [SYS_lremovexattr] = P(0) | P(1),
    [SYS_fremovexattr] = P(1),
    [SYS_tkill] = NONE,
    [SYS_time] = P(0),
    [SYS_futex] = P(0) | P(3) | P(4),
    [SYS_sched_setaffinity] = P(2),
    [SYS_sched_getaffinity] = P(2),
    [SYS_epoll_create] = NONE,
    [SYS_remap_file_pages] = NONE,
    [SYS_getdents64] = P(1),
    [SYS_set_tid_address] = NONE,
    [SYS_restart_syscall] = NONE,
    [SYS_semtimedop] = P(1) | P(3),
    [SYS_fadvise64] = NONE,
    [SYS_timer_create] = P(1) | P(2),
    [SYS_timer_settime] = P(2) | P(3),
    [SYS_timer_gettime] = P(1),
    [SYS_timer_getoverrun] = NONE,
    [SYS_timer_delete] = NONE,
    [SYS_clock_settime] = P(1),
    [SYS_clock_gettime] = P(1),
    [SYS_clock_getres] = P(1),
    [SYS_clock_nanosleep] = P(2) | P(3),
    [SYS_exit_group] = NONE,
    [SYS_epoll_wait] = P(1),
    [SYS_epoll_ctl] = P(3),
    [SYS_tgkill] = NONE,
    [SYS_utimes] = P(0) | P(1),
    [SYS_mbind] = P(3),
    [SYS_set_mempolicy] = P(1),
    [SYS_get_mempolicy] = P(0),
    [SYS_mq_open] = P(0) | P(3),
    [SYS_mq_unlink] = P(0),
    [SYS_mq_timedsend] = P(1) | P(4),
    [SYS_mq_timedreceive] = P(1) | P(3) | P(4),
    [SYS_mq_notify] = P(1),
    [SYS_mq_getsetattr] = P(1) | P(2),
    [SYS_kexec_load] = P(2),
    [SYS_waitid] = P(2) | P(4),
    [SYS_add_key] = P(0) | P(1) | P(2),
    [SYS_request_key] = P(0) | P(1) | P(2),
    [SYS_ioprio_set] = NONE,
    [SYS_ioprio_get] = NONE,
    [SYS_inotify_init] = NONE,
    [SYS_inotify_add_watch] = P(1),
    [SYS_inotify_rm_watch] = NONE,
    [SYS_migrate_pages] = P(2) | P(3),
    [SYS_openat] = P(1),
    [SYS_mkdirat] = P(1),
    [SYS_mknodat] = P(1),
    [SYS_fchownat] = P(1),
    [SYS_futimesat] = P(1) | P(2),
    [SYS_newfstatat] = P(1) | P(2),
    [SYS_unlinkat] = P(1),
    [SYS_renameat] = P(1) | P(3),
    [SYS_linkat] = P(1) | P(3),
    [SYS_symlinkat] = P(0) | P(2),
    [SYS_readlinkat] = P(1) | P(2),
    [SYS_fchmodat] = P(1),
    [SYS_faccessat] = P(1),
    [SYS_pselect6] = P(1) | P(2) | P(3) | P(4) | P(5),
    [SYS_ppoll] = P(0) | P(2) | P(3),
    [SYS_unshare] = NONE,
    [SYS_set_robust_list] = NONE,
    [SYS_get_robust_list] = P(1) | P(2),
    [SYS_splice] = P(1) | P(3),
    [SYS_tee] = NONE,
    [SYS_sync_file_range] = NONE,
    [SYS_vmsplice] = P(1),
    [SYS_move_pages] = P(2) | P(3) | P(4),
    [SYS_utimensat] = P(1) | P(2),
    [SYS_epoll_pwait] = P(1) | P(4),
    [SYS_signalfd] = P(1),
    [SYS_timerfd_create] = NONE,
    [SYS_eventfd] = NONE,
    [SYS_fallocate] = NONE,
    [SYS_timerfd_settime] = P(2) | P(3),
    [SYS_timerfd_gettime] = P(1),
    [SYS_accept4] = P(1) | P(2),
    [SYS_signalfd4] = P(1),
    [SYS_eventfd2] = NONE,
    [SYS_epoll_create1] = NONE,
    [SYS_dup3] = NONE,
    [SYS_pipe2] = P(0),
    [SYS_inotify_init1] = NONE,
    [SYS_preadv] = P(1),
    [SYS_pwritev] = P(1),
    [SYS_rt_tgsigqueueinfo] = P(3),
    [SYS_perf_event_open] = P(0),
    [SYS_recvmmsg] = P(1) | P(4),
    [SYS_fanotify_init] = NONE,
    [SYS_fanotify_mark] = P(4),
    [SYS_prlimit64] = P(2) | P(3),
    [SYS_name_to_handle_at] = P(1) | P(2) | P(3),
    [SYS_open_by_handle_at] = P(1),
    [SYS_clock_adjtime] = P(1),
    [SYS_syncfs] = NONE,
    [SYS_sendmmsg] = P(1),
    [SYS_setns] = NONE,
    [SYS_getcpu] = P(0) | P(1),
    [SYS_process_vm_readv] = P(1) | P(3),
    [SYS_process_vm_writev] = P(1) | P(3),
    [SYS_finit_module] = P(1),
    [SYS_sched_setattr] = P(1),
    [SYS_sched_getattr] = P(1),
    [SYS_renameat2] = P(1) | P(3),
    [SYS_seccomp] = P(2),
    [SYS_getrandom] = P(0),
    [SYS_memfd_create] = P(0),
    [SYS_kexec_file_load] = P(3),
    [SYS_bpf] = P(1),
    [SYS_execveat] = P(1) | P(2) | P(3),
    [SYS_userfaultfd] = NONE,
    [SYS_membarrier] = NONE,
    [SYS_mlock2] = NONE,
    [SYS_copy_file_range] = P(1) | P(3),
    [SYS_preadv2] = P(1),
    [SYS_pwritev2] = P(1),
    [SYS_pkey_mprotect] = NONE,
    [SYS_pkey_alloc] = NONE,
    [SYS_pkey_free] = NONE,
    [SYS_statx] = P(1) | P(4),
    [SYS_rseq] = NONE,
    [SYS_pidfd_send_signal] = P(2),
    [SYS_open_tree] = P(1),
    [SYS_move_mount] = P(1) | P(3),
    [SYS_fsopen] = P(0),
    [SYS_fsconfig] = P(2) | P(3),
    [SYS_fsmount] = NONE,
    [SYS_fspick] = P(1),
    [SYS_pidfd_open] = NONE,
    [SYS_close_range] = NONE,
    [SYS_openat2] = P(1) | P(2),
    [SYS_pidfd_getfd] = NONE,
    [SYS_faccessat2] = P(1),
    [SYS_process_madvise] = P(1),
    [SYS_epoll_pwait2] = P(1) | P(3) | P(4),
    [SYS_mount_setattr] = P(1) | P(3),
    [SYS_quotactl_fd] = P(3),
    [SYS_landlock_create_ruleset] = P(0),
    [SYS_landlock_add_rule] = P(2),
    [SYS_landlock_restrict_self] = NONE,
    [SYS_memfd_secret] = NONE,
    [SYS_process_mrelease] = NONE,
    [SYS_futex_waitv] = P(0) | P(3),
    [SYS_set_mempolicy_home_node] = NONE,
    [SYS_mseal] = NONE,
};

unsigned guard_pointers(long number)
{
    unsigned which = 0;

    if (number >= 0 && (size_t)number < sizeof(pointers))
        which = pointers[number];
    return (which != 0 ? which : ~0u) & 0x3fu;
}

const struct guard_argument *guard_arguments(long number)
{
    static const struct guard_argument none[GUARD_ARGUMENTS];

    if (number < 0 || (size_t)number >= sizeof(table) / sizeof(table[0]))
        return none;
    return table[number];
}

/* Old requests do not say; they take structures of less. */
size_t guard_ioctl_size(uintptr_t request)
{
    size_t says = _IOC_SIZE(request);

    return says > GUARD_STRUCTURE ? says : GUARD_STRUCTURE;
}
