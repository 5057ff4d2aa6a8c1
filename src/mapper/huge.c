#include "mapper/huge.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/check.h"
#include "core/error.h"
#include "core/platform.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLD
#define MADV_COLD 20
#endif

/* Linux 6.7; this machine's headers may be older. */
struct scan_range {
    uint64_t start, end, categories;
};

struct scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN_PAGEMAP _IOWR('f', 16, struct scan)
#define SCAN_PRESENT (UINT64_C(1) << 3)
#define SCAN_SWAPPED (UINT64_C(1) << 4)
#define SCAN_HUGE (UINT64_C(1) << 6)

#define SLOW_NS UINT64_C(1000000) /* a virtual machine gets its memory from its host now */
#define BUSY_TRIES 100u

static char *place_of(struct huge_buffers *huge, unsigned buffer, enum huge_place place)
{
    return (place == HUGE_TAKEN ? huge->taken : huge->fresh) + buffer * LARGE_SIZE;
}

/* Has all of a range one of these properties, as the page tables have it? */
static bool has(const struct huge_buffers *huge, uintptr_t at, size_t length, uint64_t properties)
{
    struct scan_range range = {0};
    struct scan scan = {.size = sizeof(scan),
                        .start = at,
                        .end = at + length,
                        .vec = (uintptr_t)&range,
                        .vec_len = 1,
                        .category_anyof_mask = properties,
                        .return_mask = 0};

    return ioctl(huge->pagemap, SCAN_PAGEMAP, &scan) > 0 && range.start == at &&
           range.end == at + length;
}

static bool is_huge(const struct huge_buffers *huge, uintptr_t at)
{
    return has(huge, at, LARGE_SIZE, SCAN_HUGE);
}

static bool is_there(const struct huge_buffers *huge, uintptr_t va)
{
    return has(huge, va, PAGE_SIZE, SCAN_PRESENT | SCAN_SWAPPED);
}

/* Address space of which nothing is populated, nor is to be in a child. */
static char *reserve(size_t length)
{
    char *base = uffd_map_aligned(length);

    if (base == NULL)
        return NULL;
    madvise(base, length, MADV_DONTDUMP);
    madvise(base, length, MADV_DONTFORK);
    return base;
}

int huge_reopen(struct huge_buffers *huge)
{
    if (huge->count == 0)
        return 0;
    huge->pagemap = open("/proc/thread-self/pagemap", O_RDONLY | O_CLOEXEC);
    return uffd_watch(huge->uffd, (uintptr_t)huge->taken, huge->count * LARGE_SIZE, false);
}

int huge_open(struct huge_buffers *huge, struct uffd *uffd, unsigned count)
{
    int error;

    *huge = (struct huge_buffers){.uffd = uffd, .pagemap = -1};
    /* Locked memory moves only into memory that is locked as well. */
    if (count == 0 || !(uffd->features & UFFD_FEATURE_MOVE) || uffd->memory_lock)
        return 0;
    huge->count = count < LARGE_MAX ? count : LARGE_MAX;
    huge->fresh = reserve(huge->count * LARGE_SIZE);
    huge->taken = reserve(huge->count * LARGE_SIZE);
    if (huge->fresh == NULL || huge->taken == NULL) {
        huge_close(huge);
        return error_set(-ENOMEM, "no address space for %u huge buffers", count);
    }
    madvise(huge->fresh, huge->count * LARGE_SIZE, MADV_HUGEPAGE);
    error = huge_reopen(huge);
    /* A kernel that cannot tell what is huge is no error. */
    if (error != 0 || !is_there(huge, (uintptr_t)&error / PAGE_SIZE * PAGE_SIZE))
        huge_close(huge);
    return error;
}

void huge_close(struct huge_buffers *huge)
{
    if (huge->fresh != NULL)
        munmap(huge->fresh, huge->count * LARGE_SIZE);
    if (huge->taken != NULL)
        munmap(huge->taken, huge->count * LARGE_SIZE);
    if (huge->pagemap >= 0)
        close(huge->pagemap);
    *huge = (struct huge_buffers){.pagemap = -1};
}

int huge_inherit(struct huge_buffers *huge, bool inherited)
{
    int error;

    if (huge->count == 0)
        return 0;
    error = platform_linux.inherit(huge->fresh, huge->count * LARGE_SIZE, inherited);
    if (error == 0)
        error = platform_linux.inherit(huge->taken, huge->count * LARGE_SIZE, inherited);
    return error;
}

int huge_fill(struct huge_buffers *huge, unsigned buffer)
{
    char *at = place_of(huge, buffer, HUGE_FRESH);

    uint64_t started = sync_now(huge->uffd->sync);

    check_debug(huge->place[buffer] == HUGE_EMPTY);
    if (madvise(at, LARGE_SIZE, MADV_POPULATE_WRITE) == 0 && is_huge(huge, (uintptr_t)at)) {
        huge->place[buffer] = HUGE_FRESH;
        return sync_now(huge->uffd->sync) - started > SLOW_NS;
    }
    madvise(at, LARGE_SIZE, huge->uffd->drop_advice);
    return -ENOMEM;
}

void *huge_content(struct huge_buffers *huge, unsigned buffer)
{
    return place_of(huge, buffer, huge->place[buffer]);
}

void huge_empty(struct huge_buffers *huge, unsigned buffer)
{
    if (huge->place[buffer] != HUGE_EMPTY)
        madvise(place_of(huge, buffer, huge->place[buffer]), LARGE_SIZE, huge->uffd->drop_advice);
    huge->place[buffer] = HUGE_EMPTY;
}

/*
 * Move a section from one place to another, as far as it goes; *done in bytes. 0, or the errno that
 * stopped it. The kernel may say EEXIST of what it has just moved itself, if it had to try again.
 */
static int move(const struct huge_buffers *huge, uintptr_t to, uintptr_t from, size_t length,
                size_t *done)
{
    unsigned tries = 0;

    *done = 0;
    while (*done < length) {
        struct uffdio_move arg = {.dst = to + *done, .src = from + *done, .len = length - *done};
        int error = ioctl(huge->uffd->fd, UFFDIO_MOVE, &arg) == 0 ? 0 : errno;

        if (arg.move > 0)
            *done += (size_t)arg.move;
        if (*done >= length || error == 0 || error == EAGAIN || error == EINTR)
            continue;
        if (error == EEXIST && is_there(huge, to + *done) && !is_there(huge, from + *done)) {
            *done += is_huge(huge, to + *done) ? length - *done : PAGE_SIZE;
            uffd_wake(huge->uffd, to, *done);
            continue;
        }
        if (error == EBUSY && ++tries < BUSY_TRIES) {
            sync_relax(huge->uffd->sync, tries);
            continue;
        }
        return -error;
    }
    return 0;
}

/* Put what is at `from` under va, by moves as far as they go, and by copies. */
static int put(const struct huge_buffers *huge, uintptr_t va, uintptr_t from, size_t length,
               size_t *done)
{
    size_t copied = 0;
    int error = move(huge, va, from, length, done);

    if (error == 0)
        return 0;
    error = uffd_copy(huge->uffd, va + *done, (const void *)(from + *done), length - *done, false,
                      &copied);
    *done += copied;
    return error;
}

bool huge_map(struct huge_buffers *huge, uintptr_t va, unsigned buffer, unsigned *done)
{
    uintptr_t from = (uintptr_t)huge_content(huge, buffer);
    size_t bytes;

    check_debug(huge->place[buffer] != HUGE_EMPTY && va % LARGE_SIZE == 0);
    /* Tables of small pages that were here would make 512 of the huge one. The kernel frees them
     * when nothing of the section is left (Linux 6.14). */
    madvise((void *)va, LARGE_SIZE, huge->uffd->drop_advice);
    /* As far as it goes: copies take memory of their own, for which the caller has to see. */
    move(huge, va, from, LARGE_SIZE, &bytes);
    *done = (unsigned)(bytes / PAGE_SIZE);
    if (*done < SECTION_PAGES)
        return false;
    huge_empty(huge, buffer);
    return is_huge(huge, va);
}

int huge_take(struct huge_buffers *huge, uintptr_t va, unsigned buffer)
{
    uintptr_t to = (uintptr_t)place_of(huge, buffer, HUGE_TAKEN);
    size_t done, back;
    int error;

    check_debug(huge->place[buffer] == HUGE_EMPTY);
    error = move(huge, to, va, LARGE_SIZE, &done);
    if (error == 0) {
        huge->place[buffer] = HUGE_TAKEN;
        return 0;
    }
    /* What has been moved goes back. It lacks no memory but what a copy needs for a moment. */
    for (size_t at = 0; at < done; at += back) {
        put(huge, va + at, to + at, done - at, &back);
        if (back == 0)
            sync_give_way(huge->uffd->sync);
    }
    madvise((void *)to, LARGE_SIZE, huge->uffd->drop_advice);
    return error;
}

bool huge_split(struct huge_buffers *huge, uintptr_t va)
{
    /* Of a whole huge page the kernel would split none: all but the last small page. It splits none
     * that the program has locked, either; but locking does not keep managed memory in frames. */
    if (madvise((void *)va, LARGE_SIZE - PAGE_SIZE, MADV_COLD) != 0) {
        munlock((void *)va, LARGE_SIZE);
        madvise((void *)va, LARGE_SIZE - PAGE_SIZE, MADV_COLD);
    }
    return !is_huge(huge, va);
}
