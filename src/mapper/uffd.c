#include "mapper/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/check.h"
#include "core/error.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#define NO_MEMORY_TRIES 100u
#define DROP_FEW 32u /* runs that are dropped at once without the large array */
#define USERFAULTFD_IOC_NEW_NR _IO(0xAA, 0x00)

static int open_descriptor(bool user_only)
{
    int flags = O_CLOEXEC | O_NONBLOCK, error, device;
    int fd = -1;

    /* Faults of user code only: any user may have that. (Linux 5.11; older ones know no such flag,
     * and may permit the other.) */
    if (user_only)
        fd = (int)syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY);
    if (fd < 0)
        fd = (int)syscall(SYS_userfaultfd, flags);
    if (fd >= 0)
        return fd;
    error = errno;
    if (error == EMFILE || error == ENFILE)
        return error_set(-error, "too few file descriptors for userfaultfd: raise `ulimit -n`");
    if (error == ENOSYS)
        return error_set(-ENOSYS,
                         "this kernel (or container) has no userfaultfd: use a kernel with "
                         "CONFIG_USERFAULTFD, or the mapper soft; see `vmsm doctor`");
    device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device >= 0) {
        fd = ioctl(device, USERFAULTFD_IOC_NEW_NR, flags);
        close(device);
        if (fd >= 0)
            return fd;
    }
    return error_set(error == ENOSYS ? -ENOSYS : -EPERM,
                     "userfaultfd is not permitted (%s): run as root, or let root run "
                     "`sysctl vm.unprivileged_userfaultfd=1`, or use --kernel-faults off, or "
                     "--trap sigbus, or the mapper soft; see `vmsm doctor`",
                     strerror(error));
}

/* The features that the kernel offers; a descriptor can be asked only once, so this one is thrown
 * away. */
static int offered(int fd, uint64_t *features)
{
    struct uffdio_api api = {.api = UFFD_API};

    if (ioctl(fd, UFFDIO_API, &api) != 0)
        return error_set(-errno, "userfaultfd refused its interface version: %s", strerror(errno));
    *features = api.features;
    return 0;
}

static const char *feature_name(uint64_t missing)
{
    if (missing & UFFD_FEATURE_MOVE)
        return "UFFDIO_MOVE (Linux 6.8): use the mapper copy";
    if (missing & UFFD_FEATURE_PAGEFAULT_FLAG_WP)
        return "write protection (Linux 5.7)";
    if (missing & UFFD_FEATURE_SIGBUS)
        return "UFFD_FEATURE_SIGBUS (Linux 4.14): use --trap thread";
    return "a feature that is needed";
}

/*
 * How to drop pages, tried on one of our own. MADV_DONTNEED_LOCKED (Linux 5.18) also drops pages
 * that the program has locked with mlock() or mlockall(), which MADV_DONTNEED refuses.
 */
static void probe_drop(struct uffd *uffd)
{
    char *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct iovec range = {.iov_base = page, .iov_len = PAGE_SIZE};

    uffd->drop_advice = MADV_DONTNEED;
    uffd->vector_drop = false;
    if (page == MAP_FAILED)
        return;
    if (madvise(page, PAGE_SIZE, MADV_DONTNEED_LOCKED) == 0)
        uffd->drop_advice = MADV_DONTNEED_LOCKED;
    page[0] = 1;
    uffd->vector_drop = syscall(SYS_process_madvise, PIDFD_SELF_THREAD_GROUP, &range, 1,
                                uffd->drop_advice, 0) == (long)PAGE_SIZE &&
                        *(volatile char *)page == 0;
    munmap(page, PAGE_SIZE);
}

int uffd_open(struct uffd *uffd, struct sync *sync, const struct mapper_options *options,
              uint64_t needed, uint64_t optional)
{
    struct uffdio_api api = {.api = UFFD_API};
    uint64_t features = 0;
    int fd, error;
    void *zeroes;

    if (options->sigbus)
        needed |= UFFD_FEATURE_SIGBUS;
    fd = open_descriptor(options->user_only);
    if (fd < 0)
        return fd;
    error = offered(fd, &features);
    close(fd);
    if (error != 0)
        return error;
    if ((features & needed) != needed)
        return error_set(-ENOSYS, "this kernel's userfaultfd lacks %s; see `vmsm doctor`",
                         feature_name(needed & ~features));
    fd = open_descriptor(options->user_only);
    if (fd < 0)
        return fd;
    api.features = needed | (features & optional);
    if (ioctl(fd, UFFDIO_API, &api) != 0) {
        error = error_set(-errno, "userfaultfd refused its features: %s", strerror(errno));
        close(fd);
        return error;
    }
    /* Only ever read, so that the kernel backs all of it with its one page of zeroes. */
    zeroes = mmap(NULL, RUN_MAX * PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (zeroes == MAP_FAILED) {
        close(fd);
        return error_set(-ENOMEM, "no address space for a page of zeroes");
    }
    madvise(zeroes, RUN_MAX * PAGE_SIZE, MADV_NOHUGEPAGE);
    uffd->fd = fd;
    uffd->features = needed | (features & optional);
    uffd->memory_lock = options->memory_lock;
    uffd->sigbus = options->sigbus;
    uffd->user_only = options->user_only;
    probe_drop(uffd);
    uffd->zeroes = zeroes;
    uffd->sync = sync;
    return 0;
}

void uffd_close(struct uffd *uffd)
{
    munmap((void *)(uintptr_t)uffd->zeroes, RUN_MAX * PAGE_SIZE);
    close(uffd->fd);
}

int uffd_may_reopen(const struct uffd *uffd)
{
    int fd = open_descriptor(uffd->user_only);

    if (fd < 0)
        return fd;
    close(fd);
    return 0;
}

int uffd_reopen(struct uffd *uffd)
{
    struct uffdio_api api = {.api = UFFD_API, .features = uffd->features};
    int fd = open_descriptor(uffd->user_only);

    if (fd < 0)
        return fd;
    uffd->fd = fd;
    if (ioctl(fd, UFFDIO_API, &api) == 0)
        return 0;
    return error_set(-errno, "userfaultfd refused its features: %s", strerror(errno));
}

int uffd_watch(struct uffd *uffd, uintptr_t base, size_t length, bool protect)
{
    struct uffdio_register registration = {.mode = UFFDIO_REGISTER_MODE_MISSING,
                                           .range = {.start = base, .len = length}};

    if (protect)
        registration.mode |= UFFDIO_REGISTER_MODE_WP;
    if (ioctl(uffd->fd, UFFDIO_REGISTER, &registration) == 0)
        return 0;
    return error_set(-errno, "userfaultfd cannot watch %zu MiB: %s", length >> 20, strerror(errno));
}

void *uffd_map_aligned(size_t length)
{
    size_t extra = length >= LARGE_SIZE ? LARGE_SIZE : 0, front;
    char *base = mmap(NULL, length + extra, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (base == MAP_FAILED)
        return NULL;
    if (extra == 0)
        return base;
    front = (LARGE_SIZE - (uintptr_t)base % LARGE_SIZE) % LARGE_SIZE;
    if (front > 0)
        munmap(base, front);
    munmap(base + front + length, extra - front);
    return base + front;
}

int uffd_region_open(struct uffd *uffd, size_t length, bool protect, uintptr_t *base)
{
    void *memory = uffd_map_aligned(length);
    int error;

    if (memory == NULL)
        return error_set(-ENOMEM,
                         "no address space for %zu MiB (is `ulimit -v` set, or "
                         "vm.overcommit_memory 2?)",
                         length >> 20);
    madvise(memory, length, MADV_NOHUGEPAGE);
    /* Merging takes write protection away unseen. A process may have it for all its mappings
     * (PR_SET_MEMORY_MERGE); a kernel that cannot merge refuses. */
    madvise(memory, length, MADV_UNMERGEABLE);
    madvise(memory, length, MADV_DONTDUMP);
    madvise(memory, length, MADV_DONTFORK);
    if (uffd->memory_lock && mlock2(memory, length, MLOCK_ONFAULT) != 0) {
        error = error_set(-errno, "cannot lock %zu MiB of memory: raise `ulimit -l`", length >> 20);
        goto fail;
    }
    error = uffd_watch(uffd, (uintptr_t)memory, length, protect);
    if (error != 0)
        goto fail;
    *base = (uintptr_t)memory;
    return 0;
fail:
    munmap(memory, length);
    return error;
}

void uffd_region_close(struct uffd *uffd, uintptr_t base, size_t length)
{
    mapper_region_unmap(base, length);
    uffd_wake(uffd, base, length);
}

int uffd_copy(struct uffd *uffd, uintptr_t va, const void *content, size_t length, bool protect,
              size_t *done)
{
    size_t most = length;
    unsigned tries = 0;

    *done = 0;
    while (*done < length) {
        struct uffdio_copy copy = {.dst = va + *done,
                                   .src = (uintptr_t)content + *done,
                                   .len = most < length - *done ? most : length - *done,
                                   .mode = protect ? UFFDIO_COPY_MODE_WP : 0};
        int error = ioctl(uffd->fd, UFFDIO_COPY, &copy) == 0 ? 0 : errno;

        if (copy.copy > 0)
            *done += (size_t)copy.copy;
        if (error == 0 || error == EAGAIN || error == EINTR)
            continue;
        if (error == ENOENT || error == ESRCH || error == EINVAL) {
            /* The kernel fills one mapping at a time, and the region may be in many. A page that
             * cannot be had alone the program has unmapped behind our back, or it is ending. */
            if (most == PAGE_SIZE) {
                uffd_wake(uffd, va + *done, PAGE_SIZE); /* to meet the SIGSEGV that is due */
                *done += PAGE_SIZE;
            }
            most = PAGE_SIZE;
            continue;
        }
        check_always(error != EEXIST); /* a page is there that the page table knows nothing of */
        if (error != ENOMEM || ++tries == NO_MEMORY_TRIES)
            return -ENOMEM;
        sync_give_way(uffd->sync);
    }
    return 0;
}

static int write_protect(const struct uffd *uffd, uintptr_t va, size_t length, uint64_t mode)
{
    struct uffdio_writeprotect wp = {.range = {.start = va, .len = length}, .mode = mode};

    while (ioctl(uffd->fd, UFFDIO_WRITEPROTECT, &wp) != 0) {
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
    }
    return 0;
}

/* Kernels before 6.4 or so protect within one mapping only, and the region may be in many. */
int uffd_protect(struct uffd *uffd, uintptr_t va, size_t length)
{
    int error = write_protect(uffd, va, length, UFFDIO_WRITEPROTECT_MODE_WP);

    if (error != -ENOENT)
        return error;
    error = 0;
    for (size_t at = 0; at < length && error == 0; at += PAGE_SIZE) {
        error = write_protect(uffd, va + at, PAGE_SIZE, UFFDIO_WRITEPROTECT_MODE_WP);
        if (error == -ENOENT) /* not the region's: a part of it has been unmapped */
            error = 0;
    }
    return error;
}

/*
 * It may lack memory for a moment; any other error means that (a part of) the range is not mapped
 * any more: the program has unmapped it behind our back.
 */
void uffd_lift(struct uffd *uffd, uintptr_t va, size_t length)
{
    size_t step = length;

    for (size_t at = 0; at < length;) {
        int error = write_protect(uffd, va + at, step, 0);

        if (error == -ENOMEM) {
            sync_give_way(uffd->sync);
        } else if (error != 0 && step > PAGE_SIZE) {
            step = PAGE_SIZE; /* page by page, what is left of it */
        } else {
            if (error != 0)
                uffd_wake(uffd, va + at, step);
            at += step;
        }
    }
}

void uffd_wake(struct uffd *uffd, uintptr_t va, size_t length)
{
    struct uffdio_range range = {.start = va, .len = length};

    while (ioctl(uffd->fd, UFFDIO_WAKE, &range) != 0 && (errno == EAGAIN || errno == EINTR))
        continue;
}

bool uffd_restore(struct uffd *uffd, uintptr_t va, bool protect)
{
    struct uffdio_copy copy = {.dst = va,
                               .src = (uintptr_t)uffd->zeroes,
                               .len = PAGE_SIZE,
                               .mode = protect ? UFFDIO_COPY_MODE_WP : 0};
    int error;

    do
        error = ioctl(uffd->fd, UFFDIO_COPY, &copy) == 0 ? 0 : errno;
    while (error == EAGAIN || error == EINTR);
    if (error != 0)
        uffd_wake(uffd, va, PAGE_SIZE);
    return error == 0;
}

/* Drop a run; of one that the kernel refuses, page by page, what can be. Dropping twice is
 * harmless.
 */
static int drop_run(const struct uffd *uffd, const struct iovec *run, int *status)
{
    unsigned pages = (unsigned)(run->iov_len / PAGE_SIZE);
    int error = 0;

    memset(status, 0, pages * sizeof(*status));
    if (madvise(run->iov_base, run->iov_len, uffd->drop_advice) == 0)
        return 0;
    for (unsigned i = 0; i < pages; i++) {
        if (madvise((char *)run->iov_base + i * PAGE_SIZE, PAGE_SIZE, uffd->drop_advice) != 0)
            status[i] = -errno;
        if (error == 0)
            error = status[i];
    }
    return error;
}

/* The first `most` runs of the pages; *pages is how many they have. Returns how many they are. */
static unsigned make_runs(unsigned count, const uintptr_t *va, struct iovec *runs, unsigned most,
                          unsigned *pages)
{
    unsigned n = 0, i;

    for (i = 0; i < count; i++) {
        if (n > 0 && (uintptr_t)runs[n - 1].iov_base + runs[n - 1].iov_len == va[i])
            runs[n - 1].iov_len += PAGE_SIZE;
        else if (n < most)
            runs[n++] = (struct iovec){.iov_base = (void *)va[i], .iov_len = PAGE_SIZE};
        else
            break;
    }
    *pages = i;
    return n;
}

static int drop_runs(const struct uffd *uffd, const struct iovec *runs, unsigned count,
                     unsigned pages, int *status)
{
    int error = 0;

    if (count > 1 && uffd->vector_drop &&
        syscall(SYS_process_madvise, PIDFD_SELF_THREAD_GROUP, runs, count, uffd->drop_advice, 0) ==
            (long)(pages * PAGE_SIZE)) {
        memset(status, 0, pages * sizeof(*status));
        return 0;
    }
    for (unsigned i = 0; i < count; i++) {
        int one = drop_run(uffd, &runs[i], status);

        status += runs[i].iov_len / PAGE_SIZE;
        if (error == 0)
            error = one;
    }
    return error;
}

/* The trimmer's many runs find room in the one large array; others, if it is taken, go on with few
 * at a time, for this may run in a signal handler, on a small stack. */
int uffd_drop(struct uffd *uffd, unsigned count, const uintptr_t *va, int *status)
{
    struct iovec few[DROP_FEW];
    bool large = count > DROP_FEW && !atomic_exchange(&uffd->runs_taken, true);
    int error = 0;

    for (unsigned i = 0, pages; i < count; i += pages) {
        struct iovec *runs = large ? uffd->runs : few;
        unsigned n = make_runs(count - i, va + i, runs, large ? SECTION_PAGES : DROP_FEW, &pages);
        int one = drop_runs(uffd, runs, n, pages, status + i);

        if (error == 0)
            error = one;
    }
    if (large)
        atomic_store(&uffd->runs_taken, false);
    return error;
}

static int poison(const struct uffd *uffd, uintptr_t va)
{
    struct uffdio_poison request = {.range = {.start = va, .len = PAGE_SIZE}};
    unsigned tries = 0;

    if (!(uffd->features & UFFD_FEATURE_POISON))
        return -ENOSYS;
    while (ioctl(uffd->fd, UFFDIO_POISON, &request) != 0) {
        if (errno == EEXIST) /* it is poisoned: another fault on the page failed before */
            return 0;
        if (errno == ENOMEM && ++tries < NO_MEMORY_TRIES)
            sync_give_way(uffd->sync);
        else if (errno != EAGAIN && errno != EINTR)
            return -errno;
    }
    return 0;
}

int uffd_fail(struct uffd *uffd, uintptr_t va)
{
    int error;

    if (uffd->sigbus)
        return 0; /* the faulting thread is in the signal handler and learns it there */
    error = poison(uffd, va);
    /* Linux before 6.6: a signal still, if the wrong one. */
    if (error != 0) {
        atomic_store(&uffd->barred, true);
        error = mprotect((void *)va, PAGE_SIZE, PROT_NONE) == 0 ? 0 : -errno;
    }
    uffd_wake(uffd, va, PAGE_SIZE);
    return error;
}

void uffd_unfail(struct uffd *uffd, uintptr_t va)
{
    int status = 0;

    if (uffd->sigbus)
        return;
    /* A page that was poisoned has the protection that the program gave it. */
    if (atomic_load(&uffd->barred) && mprotect((void *)va, PAGE_SIZE, PROT_READ | PROT_WRITE) != 0)
        status = -errno;
    if (status != 0 || uffd_drop(uffd, 1, &va, &status) != 0)
        log_line(LOG_ERROR, "the page at %p can be had again, but not be shown: %s", (void *)va,
                 strerror(-status));
}
