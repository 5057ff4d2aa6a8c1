#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bound.h"
#include "core/platform.h"
#include "mapper/uffd.h"

#define MESSAGES 64u

double cpu_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

bool processor_take(int processor)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    for (unsigned i = 0; i < CPU_SETSIZE; i++)
        if (processor < 0 || i == (unsigned)processor)
            CPU_SET(i, &set);
    return sched_setaffinity(0, sizeof(set), &set) == 0;
}

void *buffer_make(size_t length)
{
    void *buffer = platform_linux.buffer(length);

    if (buffer == NULL)
        fprintf(stderr, "bound: no memory for %zu bytes\n", length);
    return buffer;
}

void buffer_free(void *buffer, size_t length)
{
    if (buffer != NULL)
        platform_linux.release(buffer, length);
}

/* Faults of user code are all there are, so that any user may. */
static int descriptor_open(bool sigbus)
{
    struct uffdio_api api = {.api = UFFD_API,
                             .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP |
                                         (sigbus ? UFFD_FEATURE_SIGBUS : 0)};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    int error;

    if (fd < 0)
        return -errno;
    if (ioctl(fd, UFFDIO_API, &api) == 0)
        return fd;
    error = -errno;
    close(fd);
    return error;
}

int range_open(struct range *range, size_t pages, bool sigbus)
{
    struct uffdio_register registered = {.mode = UFFDIO_REGISTER_MODE_MISSING |
                                                 UFFDIO_REGISTER_MODE_WP};
    void *base;
    int error = 0;

    range->pages = pages;
    range->fd = descriptor_open(sigbus);
    base = mmap(NULL, pages * BOUND_PAGE, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    range->base = base == MAP_FAILED ? NULL : base;
    if (range->fd < 0) {
        error = range->fd;
    } else if (range->base == NULL) {
        error = -ENOMEM;
    } else {
        madvise(base, pages * BOUND_PAGE, MADV_NOHUGEPAGE);
        registered.range.start = (uintptr_t)base;
        registered.range.len = pages * BOUND_PAGE;
        if (ioctl(range->fd, UFFDIO_REGISTER, &registered) < 0)
            error = -errno;
    }
    if (error == 0)
        return 0;
    fprintf(stderr, "bound: no userfaultfd with write protection: %s\n", strerror(-error));
    range_close(range);
    return error;
}

void range_close(struct range *range)
{
    if (range->base != NULL)
        munmap(range->base, range->pages * BOUND_PAGE);
    if (range->fd >= 0)
        close(range->fd);
    range->base = NULL;
    range->fd = -1;
}

int range_copy(const struct range *range, size_t page, const void *content, size_t count)
{
    for (;;) {
        struct uffdio_copy copy = {.dst = (uintptr_t)range->base + page * BOUND_PAGE,
                                   .src = (uintptr_t)content,
                                   .len = count * BOUND_PAGE};

        if (ioctl(range->fd, UFFDIO_COPY, &copy) == 0)
            return 0;
        if (errno != EAGAIN)
            return -errno;
    }
}

int range_protect(const struct range *range, size_t page, size_t count, bool on)
{
    struct uffdio_writeprotect protect = {
        .range = {.start = (uintptr_t)range->base + page * BOUND_PAGE, .len = count * BOUND_PAGE},
        .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};

    while (ioctl(range->fd, UFFDIO_WRITEPROTECT, &protect) < 0)
        if (errno != EAGAIN)
            return -errno;
    return 0;
}

void range_wake(const struct range *range, size_t page)
{
    struct uffdio_range wake = {.start = (uintptr_t)range->base + page * BOUND_PAGE,
                                .len = BOUND_PAGE};

    ioctl(range->fd, UFFDIO_WAKE, &wake);
}

int range_drop(const struct iovec *pieces, unsigned count)
{
    if (syscall(SYS_process_madvise, PIDFD_SELF_THREAD_GROUP, pieces, count, MADV_DONTNEED, 0) > 0)
        return 0;
    for (unsigned i = 0; i < count; i++)
        if (madvise(pieces[i].iov_base, pieces[i].iov_len, MADV_DONTNEED) < 0)
            return -errno;
    return 0;
}

unsigned range_faults(const struct range *range, size_t *pages, unsigned most)
{
    struct uffd_msg messages[MESSAGES];
    ssize_t got =
        read(range->fd, messages, sizeof(messages[0]) * (most < MESSAGES ? most : MESSAGES));
    unsigned count = got > 0 ? (unsigned)((size_t)got / sizeof(messages[0])) : 0;

    for (unsigned i = 0; i < count; i++)
        pages[i] =
            (size_t)(messages[i].arg.pagefault.address - (uintptr_t)range->base) / BOUND_PAGE;
    return count;
}
