/*
 * userfaultfd: what the mappers copy and move share. Constants that the installed kernel headers
 * lack are carried here and probed at run time.
 */
#ifndef VMSM_MAPPER_UFFD_H
#define VMSM_MAPPER_UFFD_H

#include <linux/userfaultfd.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "mapper/mapper.h"

#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#define UFFDIO_POISON_MODE_DONTWAKE ((__u64)1 << 0)
struct uffdio_poison {
    struct uffdio_range range;
    __u64 mode;
    __s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
#endif

#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
struct uffdio_move {
    __u64 dst;
    __u64 src;
    __u64 len;
    __u64 mode;
    __s64 move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#endif

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#ifndef PIDFD_SELF_THREAD_GROUP
#define PIDFD_SELF_THREAD_GROUP (-10000) /* Linux 6.14; older kernels need a real pidfd */
#endif

struct uffd {
    int fd;
    uint64_t features; /* in force */
    bool memory_lock;
    bool sigbus, user_only;
    int drop_advice;         /* MADV_DONTNEED_LOCKED where the kernel has it, else MADV_DONTNEED */
    bool vector_drop;        /* process_madvise(drop_advice) works on oneself */
    _Atomic bool barred;     /* a page has been made inaccessible, since it could not be poisoned */
    _Atomic bool runs_taken; /* whoever takes it may use runs[] */
    struct iovec runs[SECTION_PAGES];
    const void *zeroes; /* RUN_MAX pages of zeroes that cost no memory */
    struct sync *sync;
};

/*
 * Open with the features needed; `optional` ones are asked for where the kernel has them. -ENOSYS,
 * -EPERM, -EMFILE with words.
 */
int uffd_open(struct uffd *uffd, struct sync *sync, const struct mapper_options *options,
              uint64_t needed, uint64_t optional);
void uffd_close(struct uffd *uffd);
/* In a child of fork(): the same again, for this process. The old descriptor is the caller's. */
int uffd_reopen(struct uffd *uffd);
/* Before the fork: could it? The program may have given its rights away. */
int uffd_may_reopen(const struct uffd *uffd);
/* Watch a range that is mapped. */
int uffd_watch(struct uffd *uffd, uintptr_t base, size_t length, bool protect);

/* Address space for anonymous memory, aligned for huge pages if it is long enough; or NULL. */
void *uffd_map_aligned(size_t length);

/* Anonymous memory at its full length, registered for missing faults and, where wanted, write
 * protection. */
int uffd_region_open(struct uffd *uffd, size_t length, bool protect, uintptr_t *base);
void uffd_region_close(struct uffd *uffd, uintptr_t base, size_t length);

/*
 * UFFDIO_COPY of a contiguous run, with retries; *done is in bytes. 0, or -ENOMEM. An address that
 * is not mapped any more counts as done: nobody can ask for it.
 */
int uffd_copy(struct uffd *uffd, uintptr_t va, const void *content, size_t length, bool protect,
              size_t *done);
int uffd_protect(struct uffd *uffd, uintptr_t va, size_t length);
void uffd_lift(struct uffd *uffd, uintptr_t va, size_t length);
/* A page of zeroes, if none is there; was there none? */
bool uffd_restore(struct uffd *uffd, uintptr_t va, bool protect);
void uffd_wake(struct uffd *uffd, uintptr_t va, size_t length);
/* Unmap pages: one vectored call where the kernel can, else run by run. status[] as drop() of
 * mapper.h. */
int uffd_drop(struct uffd *uffd, unsigned count, const uintptr_t *va, int *status);
int uffd_fail(struct uffd *uffd, uintptr_t va);
void uffd_unfail(struct uffd *uffd, uintptr_t va);

#endif
