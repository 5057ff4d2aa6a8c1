/*
 * The mapper `copy` (Linux 5.7): pages are copied under their addresses and out again.
 *
 * Page-in needs no TLB flush: a run is copied from staging by one UFFDIO_COPY. A trim costs two
 * flushes a section: one to write-protect it, one to drop it. Staging is in huge pages, so that a
 * large I/O is one physical piece. The cache is in small ones, which can be given back one by one.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/bitmap.h"
#include "core/error.h"
#include "core/platform.h"
#include "mapper/huge.h"
#include "mapper/uffd.h"
#include "mapper/watch.h"

struct copy_mapper {
    struct mapper mapper;
    struct uffd uffd;
    struct take_watch watch; /* not with trap sigbus, where reading does not wait */
    struct huge_buffers huge;
    struct bitmap stage_map; /* pages of staging that are taken */
    uint32_t buffers, stage_pages;
    bool vm_read;                         /* process_vm_readv() is allowed */
    unsigned char present[SECTION_PAGES]; /* who is in take() */
    int memory_fd;                        /* /proc/thread-self/mem, or -1 */
    struct iovec from[SECTION_PAGES],
        to[SECTION_PAGES]; /* of take(): its caller's, the trimmer's */
};

static struct copy_mapper *copy_of(struct mapper *mapper)
{
    return (struct copy_mapper *)(void *)mapper;
}

static int copy_region_open(struct mapper *mapper, size_t length, uintptr_t *base)
{
    return uffd_region_open(&copy_of(mapper)->uffd, length, true, base);
}

static void copy_region_close(struct mapper *mapper, uintptr_t base, size_t length)
{
    uffd_region_close(&copy_of(mapper)->uffd, base, length);
}

static unsigned copy_stage_take(struct mapper *mapper, unsigned want, const uint32_t *frames,
                                struct mapper_stage *stage)
{
    uint64_t first = 0;

    (void)frames;
    stage->count = bitmap_take_run(&copy_of(mapper)->stage_map, want, &first);
    stage->first = (uint32_t)first;
    return stage->count;
}

static void copy_stage_give(struct mapper *mapper, struct mapper_stage *stage)
{
    if (stage->count > 0)
        bitmap_release(&copy_of(mapper)->stage_map, stage->first, stage->count);
    stage->count = 0;
}

/* Memory of our own goes back to the system. Linux before 5.18 does not take it if the program has
 * locked all its memory. */
static bool give_back(const struct copy_mapper *copy, void *memory, unsigned pages)
{
    return madvise(memory, pages * PAGE_SIZE, copy->uffd.drop_advice) == 0;
}

static bool copy_stage_lend(struct mapper *mapper, unsigned pages, struct mapper_stage *stage)
{
    struct copy_mapper *copy = copy_of(mapper);

    for (uint32_t first = 0; first + pages <= copy->stage_pages; first += pages) {
        uint32_t n = 0;

        while (n < pages && bitmap_take_bit(&copy->stage_map, first + n))
            n++;
        if (n == pages) {
            *stage = (struct mapper_stage){.first = first, .count = pages};
            if (give_back(copy, mapper->stage + first * PAGE_SIZE, pages))
                return true;
            copy_stage_give(mapper, stage);
            return false;
        }
        bitmap_release(&copy->stage_map, first, n);
    }
    return false;
}

static bool copy_vacate(struct mapper *mapper, unsigned count, const uint32_t *buffers)
{
    for (unsigned i = 0, run; i < count; i += run) {
        for (run = 1; i + run < count && buffers[i + run] == buffers[i] + run;)
            run++;
        if (!give_back(copy_of(mapper), mapper_buffer(mapper, buffers[i]), run))
            return false;
    }
    return true;
}

/* The cache: populated page by page, as it is used, so that each buffer can be vacated. */
static char *cache_memory(size_t length)
{
    char *base = platform_linux.reserve(length);

    if (base != NULL)
        madvise(base, length, MADV_DONTFORK);
    return base;
}

static int copy_map(struct mapper *mapper, uintptr_t va, unsigned count, const uint32_t *frames,
                    void *const *content, unsigned flags, unsigned *done)
{
    struct copy_mapper *copy = copy_of(mapper);

    (void)frames;
    *done = 0;
    while (*done < count) {
        unsigned from = *done, to = from + 1;
        size_t bytes;
        int error;

        while (to < count && (char *)content[to] == (char *)content[to - 1] + PAGE_SIZE)
            to++;
        error = uffd_copy(&copy->uffd, va + from * PAGE_SIZE, content[from],
                          (to - from) * PAGE_SIZE, flags & MAP_PROTECTED, &bytes);
        *done += (unsigned)(bytes / PAGE_SIZE);
        if (error != 0)
            return error;
    }
    return 0;
}

static int copy_map_zero(struct mapper *mapper, uintptr_t va, unsigned count,
                         const uint32_t *frames, unsigned flags, unsigned *done)
{
    struct copy_mapper *copy = copy_of(mapper);
    size_t bytes;
    int error = uffd_copy(&copy->uffd, va, copy->uffd.zeroes, count * PAGE_SIZE,
                          flags & MAP_PROTECTED, &bytes);

    (void)frames;
    *done = (unsigned)(bytes / PAGE_SIZE);
    return error;
}

static int copy_protect(struct mapper *mapper, uintptr_t va, size_t length)
{
    return uffd_protect(&copy_of(mapper)->uffd, va, length);
}

static void copy_lift(struct mapper *mapper, uintptr_t va, size_t length)
{
    uffd_lift(&copy_of(mapper)->uffd, va, length);
}

static unsigned append(struct iovec *iov, unsigned n, void *base)
{
    if (n > 0 && (char *)iov[n - 1].iov_base + iov[n - 1].iov_len == base) {
        iov[n - 1].iov_len += PAGE_SIZE;
        return n;
    }
    iov[n] = (struct iovec){.iov_base = base, .iov_len = PAGE_SIZE};
    return n + 1;
}

/*
 * A page that the program has protected from reading is read past its protection. One that cannot
 * be read at all is one that the program unmapped behind our back. Who may neither do that nor read
 * by process_vm_readv() can only hope that pages are readable.
 */
static int take_alone(const struct copy_mapper *copy, uintptr_t va, void *buffer)
{
    if (copy->memory_fd < 0 && !copy->vm_read) {
        memcpy(buffer, (const void *)va, PAGE_SIZE);
        return 0;
    }
    return pread(copy->memory_fd, buffer, PAGE_SIZE, (off_t)va) == (ssize_t)PAGE_SIZE ? 0 : -EFAULT;
}

/* Read pages [first, count), as far as goes at once; returns the first that is not read: the first
 * of all where process_vm_readv() is forbidden. (By the thread's number: the first thread may have
 * ended, and then the process's finds no memory.) */
static unsigned take_run(struct copy_mapper *copy, unsigned first, unsigned count,
                         const uintptr_t *va, const uint32_t *buffers)
{
    struct iovec *from = copy->from, *to = copy->to; /* too large for a signal handler's stack */
    unsigned from_count = 0, to_count = 0;
    ssize_t got;

    if (!copy->vm_read)
        return first;
    for (unsigned i = first; i < count; i++) {
        from_count = append(from, from_count, (void *)va[i]);
        to_count = append(to, to_count, mapper_buffer(&copy->mapper, buffers[i]));
    }
    got = process_vm_readv((pid_t)syscall(SYS_gettid), to, to_count, from, from_count, 0);
    return first + (got > 0 ? (unsigned)((size_t)got / PAGE_SIZE) : 0);
}

/*
 * Put zeroes where the program has dropped pages, so that reading them does not wait. They are
 * protected, as all victims are: a write before the drop would be lost. What is dropped after this
 * look is the watch's.
 */
static void restore_missing(struct copy_mapper *copy, unsigned count, const uintptr_t *va)
{
    uintptr_t first = va[0], last = va[count - 1];

    if (last < first || last - first >= SECTION_PAGES * PAGE_SIZE ||
        mincore((void *)first, last - first + PAGE_SIZE, copy->present) != 0)
        return;
    for (unsigned i = 0; i < count; i++) {
        if (va[i] >= first && va[i] <= last && !(copy->present[(va[i] - first) / PAGE_SIZE] & 1))
            uffd_restore(&copy->uffd, va[i], true);
    }
}

static void copy_take(struct mapper *mapper, unsigned count, const uintptr_t *va,
                      const uint32_t *buffers, int *status)
{
    struct copy_mapper *copy = copy_of(mapper);
    unsigned done = 0;

    memset(status, 0, count * sizeof(*status));
    take_watch_begin(&copy->watch, count, va);
    restore_missing(copy, count, va);
    /* The kernel reads through the page table; touching just-protected pages ourselves costs more,
     * and the program may have made them unreadable. */
    while (done < count && (done = take_run(copy, done, count, va, buffers)) < count) {
        status[done] = take_alone(copy, va[done], mapper_buffer(mapper, buffers[done]));
        done++;
    }
    take_watch_end(&copy->watch);
}

static int copy_drop(struct mapper *mapper, unsigned count, const uintptr_t *va,
                     const uint32_t *frames, int *status)
{
    (void)frames;
    return uffd_drop(&copy_of(mapper)->uffd, count, va, status);
}

static int copy_fail(struct mapper *mapper, uintptr_t va)
{
    return uffd_fail(&copy_of(mapper)->uffd, va);
}

static void copy_unfail(struct mapper *mapper, uintptr_t va)
{
    uffd_unfail(&copy_of(mapper)->uffd, va);
}

static bool copy_restore(struct mapper *mapper, uintptr_t va)
{
    return uffd_restore(&copy_of(mapper)->uffd, va, false);
}

static void copy_wake(struct mapper *mapper, uintptr_t va, size_t length)
{
    uffd_wake(&copy_of(mapper)->uffd, va, length);
}

static void copy_zero(struct mapper *mapper, uint32_t frame)
{
    (void)mapper;
    (void)frame;
}

static int copy_large_fill(struct mapper *mapper, unsigned buffer)
{
    return huge_fill(&copy_of(mapper)->huge, buffer);
}

static void *copy_large_content(struct mapper *mapper, unsigned buffer)
{
    return huge_content(&copy_of(mapper)->huge, buffer);
}

static void copy_large_empty(struct mapper *mapper, unsigned buffer)
{
    huge_empty(&copy_of(mapper)->huge, buffer);
}

static bool copy_large_map(struct mapper *mapper, uintptr_t va, unsigned buffer, unsigned *done)
{
    return huge_map(&copy_of(mapper)->huge, va, buffer, done);
}

static int copy_large_take(struct mapper *mapper, uintptr_t va, unsigned buffer)
{
    return huge_take(&copy_of(mapper)->huge, va, buffer);
}

static bool copy_large_split(struct mapper *mapper, uintptr_t va)
{
    return huge_split(&copy_of(mapper)->huge, va);
}

static int open_memory(void)
{
    return open("/proc/thread-self/mem", O_RDONLY | O_CLOEXEC); /* "self" may have ended */
}

static int copy_fork_prepare(struct mapper *mapper, bool inherited)
{
    struct copy_mapper *copy = copy_of(mapper);
    int error = inherited ? uffd_may_reopen(&copy->uffd) : 0;

    if (error == 0)
        error = platform_linux.inherit(mapper->buffers, copy->buffers * PAGE_SIZE, inherited);
    if (error == 0)
        error = platform_linux.inherit(mapper->stage, copy->stage_pages * PAGE_SIZE, inherited);
    if (error == 0)
        error = huge_inherit(&copy->huge, inherited);
    return error;
}

static int copy_fork_child(struct mapper *mapper)
{
    struct copy_mapper *copy = copy_of(mapper);
    int error = uffd_reopen(&copy->uffd);
    bool watched = copy->watch.thread != NULL;

    copy->watch.thread = NULL;       /* it is the parent's */
    copy->memory_fd = open_memory(); /* the old one is the parent's memory */
    mapper->fd = copy->uffd.fd;
    if (error == 0)
        error = huge_reopen(&copy->huge);
    if (error == 0 && watched)
        error = take_watch_open(&copy->watch, mapper->sync, &copy->uffd);
    return error;
}

static int copy_region_adopt(struct mapper *mapper, uintptr_t base, size_t length)
{
    return uffd_watch(&copy_of(mapper)->uffd, base, length, true);
}

static void copy_close(struct mapper *mapper)
{
    struct copy_mapper *copy = copy_of(mapper);

    take_watch_close(&copy->watch);
    if (copy->mapper.buffers != NULL)
        platform_linux.release(copy->mapper.buffers, copy->buffers * PAGE_SIZE);
    if (copy->mapper.stage != NULL)
        platform_linux.release(copy->mapper.stage, copy->stage_pages * PAGE_SIZE);
    huge_close(&copy->huge);
    bitmap_fini(&copy->stage_map);
    if (copy->memory_fd >= 0)
        close(copy->memory_fd);
    uffd_close(&copy->uffd);
    platform_linux.release(copy, sizeof(*copy));
}

static const struct mapper_ops copy_ops = {
    .name = "copy",
    .region_open = copy_region_open,
    .region_split = mapper_region_split,
    .region_close = copy_region_close,
    .stage_take = copy_stage_take,
    .stage_give = copy_stage_give,
    .stage_lend = copy_stage_lend,
    .vacate = copy_vacate,
    .map = copy_map,
    .map_zero = copy_map_zero,
    .protect = copy_protect,
    .lift = copy_lift,
    .take = copy_take,
    .drop = copy_drop,
    .fail = copy_fail,
    .unfail = copy_unfail,
    .restore = copy_restore,
    .wake = copy_wake,
    .zero = copy_zero,
    .large_fill = copy_large_fill,
    .large_content = copy_large_content,
    .large_empty = copy_large_empty,
    .large_map = copy_large_map,
    .large_take = copy_large_take,
    .large_split = copy_large_split,
    .fork_prepare = copy_fork_prepare,
    .fork_child = copy_fork_child,
    .region_adopt = copy_region_adopt,
    .close = copy_close,
};

/* A container may forbid process_vm_readv() even on oneself. */
static bool probe_vm_read(void)
{
    char source = 1, target = 0;
    struct iovec from = {.iov_base = &source, .iov_len = 1};
    struct iovec to = {.iov_base = &target, .iov_len = 1};

    return process_vm_readv((pid_t)syscall(SYS_gettid), &to, 1, &from, 1, 0) == 1;
}

int mapper_copy_open(struct sync *sync, const struct mapper_options *options,
                     struct mapper **mapper)
{
    struct copy_mapper *copy = platform_linux.reserve(sizeof(*copy));
    int error;

    if (copy == NULL)
        return error_set(-ENOMEM, "no memory for the mapper copy");
    error = uffd_open(&copy->uffd, sync, options, UFFD_FEATURE_PAGEFAULT_FLAG_WP,
                      UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_POISON | UFFD_FEATURE_MOVE);
    if (error != 0) {
        platform_linux.release(copy, sizeof(*copy));
        return error;
    }
    copy->mapper = (struct mapper){.ops = &copy_ops,
                                   .sync = sync,
                                   .has_cache = true,
                                   .in_place = true,
                                   .protects = true,
                                   .fd = copy->uffd.fd};
    copy->buffers = options->buffers;
    copy->stage_pages = options->stage;
    copy->vm_read = probe_vm_read();
    copy->memory_fd = open_memory();
    error = huge_open(&copy->huge, &copy->uffd, options->larges);
    if (error != 0) {
        copy_close(&copy->mapper);
        return error;
    }
    copy->mapper.larges = copy->huge.count;
    copy->mapper.buffers = cache_memory(copy->buffers * PAGE_SIZE);
    copy->mapper.stage = platform_linux.buffer(copy->stage_pages * PAGE_SIZE);
    if (copy->mapper.buffers == NULL || copy->mapper.stage == NULL ||
        bitmap_init(&copy->stage_map, &platform_linux, sync, copy->stage_pages,
                    copy->stage_pages) != 0) {
        copy_close(&copy->mapper);
        return error_set(-ENOMEM, "no memory for the cache of %u pages", options->buffers);
    }
    error = options->sigbus ? 0 : take_watch_open(&copy->watch, sync, &copy->uffd);
    if (error != 0) {
        copy_close(&copy->mapper);
        return error;
    }
    *mapper = &copy->mapper;
    return 0;
}
