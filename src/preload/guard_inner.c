/*
 * Pointers in what calls are pointed to, of those calls that programs make: what they point to is
 * made to be there just before the call. Nothing keeps it there, but it will mostly be there still;
 * if not, the call says EFAULT, has done nothing, and is made again.
 */
#include <linux/fiemap.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "preload/guard.h"
#include "preload/guard_table.h"
#include "preload/kernel.h"
#include "preload/preload.h"

#define MOST (1024UL * 1024) /* to touch: more might not stay in memory until the call */

static bool touch(uintptr_t start, size_t length)
{
    length = length < MOST ? length : MOST;
    if (length == 0 || !arena_overlaps(start, length))
        return false;
    guard_touch(start, length);
    return true;
}

static bool touch_filter(uintptr_t at)
{
    struct sock_fprog program;

    return guard_read(&program, at, sizeof(program)) == 0 &&
           touch((uintptr_t)program.filter, program.len * sizeof(*program.filter));
}

static bool touch_vector(uintptr_t at)
{
    struct iovec iov;

    return guard_read(&iov, at, sizeof(iov)) == 0 && touch((uintptr_t)iov.iov_base, iov.iov_len);
}

static bool touch_of_ioctl(uintptr_t request, uintptr_t at)
{
    struct fiemap map;
    struct ifconf list;
    struct ifreq interface;

    switch (request) {
    case FS_IOC_FIEMAP:
        return guard_read(&map, at, sizeof(map)) == 0 &&
               touch(at + sizeof(map), map.fm_extent_count * sizeof(struct fiemap_extent));
    case SIOCGIFCONF:
        return guard_read(&list, at, sizeof(list)) == 0 && list.ifc_len > 0 &&
               touch((uintptr_t)list.ifc_buf, (size_t)list.ifc_len);
    case SIOCETHTOOL:
        return guard_read(&interface, at, sizeof(interface)) == 0 &&
               touch((uintptr_t)interface.ifr_data, VMSM_PAGE_SIZE);
    default:
        return false;
    }
}

static bool touch_semaphores(uintptr_t id, int command, uintptr_t values)
{
    struct semid_ds set;

    return (command == GETALL || command == SETALL) &&
           kernel_raw(SYS_semctl, id, 0, IPC_STAT, &set) == 0 &&
           touch(values, set.sem_nsems * sizeof(unsigned short));
}

static bool touch_key(uintptr_t operation, uintptr_t buffer, size_t length)
{
    switch (operation) {
    case KEYCTL_UPDATE:
    case KEYCTL_DESCRIBE:
    case KEYCTL_READ:
    case KEYCTL_INSTANTIATE:
    case KEYCTL_GET_SECURITY:
        return touch(buffer, length);
    default:
        return false;
    }
}

bool guard_touch_inner(long number, const uintptr_t *a)
{
    switch (number) {
    case SYS_seccomp:
        return a[0] == SECCOMP_SET_MODE_FILTER && touch_filter(a[2]);
    case SYS_prctl:
        return a[0] == PR_SET_SECCOMP && touch_filter(a[2]);
    case SYS_setsockopt:
        return a[1] == SOL_SOCKET &&
               (a[2] == SO_ATTACH_FILTER || a[2] == SO_ATTACH_REUSEPORT_CBPF) && touch_filter(a[3]);
    case SYS_ioctl:
        return touch_of_ioctl(a[1], a[2]);
    case SYS_semctl:
        return touch_semaphores(a[0], (int)a[2], a[3]);
    case SYS_keyctl:
        return touch_key(a[0], a[2], a[3]);
    case SYS_ptrace:
        return (a[0] == PTRACE_GETREGSET || a[0] == PTRACE_SETREGSET) && touch_vector(a[3]);
    default:
        return false;
    }
}
