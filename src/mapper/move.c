/*
 * The mapper `move` (Linux 6.8): frame f has its home at pool + f * 4096; UFFDIO_MOVE puts the very
 * page under the user's address and takes it back. Nothing is copied; the kernel refuses to move a
 * page that a device is using.
 *
 * A home is `backed` while a page is there: always for trimmed frames, for Active ones only if the
 * kernel would not take it back, and for free ones once they have been used. A frame that never was
 * used has no memory yet: its first page is made under the user's address directly.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "core/check.h"
#include "core/error.h"
#include "core/platform.h"
#include "mapper/uffd.h"

#define BUSY_TRIES 50u

struct move_mapper {
    struct mapper mapper;
    struct uffd uffd;
    uint32_t frames;
    /* Of each frame; owned by who owns the frame. */
    uint8_t *backed;
    uint8_t *clean; /* the home, if backed, is all zero */
};

static struct move_mapper *move_of(struct mapper *mapper)
{
    return (struct move_mapper *)(void *)mapper;
}

static char *home(const struct move_mapper *move, uint32_t frame)
{
    return move->mapper.buffers + (size_t)frame * PAGE_SIZE;
}

static int move_region_open(struct mapper *mapper, size_t length, uintptr_t *base)
{
    return uffd_region_open(&move_of(mapper)->uffd, length, false, base);
}

static void move_region_close(struct mapper *mapper, uintptr_t base, size_t length)
{
    uffd_region_close(&move_of(mapper)->uffd, base, length);
}

static bool is_present(uintptr_t va)
{
    unsigned char present = 0;

    return mincore((void *)va, PAGE_SIZE, &present) == 0 && (present & 1);
}

/*
 * Seen on Linux 6.18 under load: the call moves the page, yet reports EEXIST and nothing moved, as
 * if it had tried again afterwards. The page is there, the source is empty, nobody has been woken.
 */
static bool moved_after_all(struct move_mapper *move, uintptr_t to, uintptr_t from)
{
    if (is_present(from) || !is_present(to))
        return false;
    uffd_wake(&move->uffd, to, PAGE_SIZE);
    return true;
}

/* UFFDIO_MOVE of a run; *done in bytes. 0, or the errno that stopped it (-EBUSY, -ENOENT, …). */
static int move_run(struct move_mapper *move, uintptr_t to, uintptr_t from, size_t length,
                    size_t *done)
{
    size_t most = length;

    *done = 0;
    while (*done < length) {
        struct uffdio_move arg = {.dst = to + *done,
                                  .src = from + *done,
                                  .len = most < length - *done ? most : length - *done};
        int error = ioctl(move->uffd.fd, UFFDIO_MOVE, &arg) == 0 ? 0 : errno;

        if (arg.move > 0)
            *done += (size_t)arg.move;
        if (error == EEXIST && moved_after_all(move, to + *done, from + *done)) {
            *done += PAGE_SIZE;
            continue;
        }
        /* The kernel moves within one mapping, and a region may be in many. */
        if ((error == ENOENT || error == EINVAL) && most > PAGE_SIZE) {
            most = PAGE_SIZE;
            continue;
        }
        if (error != 0 && error != EAGAIN && error != EINTR)
            return -error;
    }
    return 0;
}

/* Length of the run from i on in which frames are consecutive and backed alike. */
static unsigned run_length(const struct move_mapper *move, unsigned count, const uint32_t *frames,
                           unsigned i)
{
    unsigned n = 1;

    while (i + n < count && frames[i + n] == frames[i] + n &&
           move->backed[frames[i + n]] == move->backed[frames[i]])
        n++;
    return n;
}

/* Give homes that have no page one of zeroes. Returns how many of the frames, from the first on,
 * have one. */
static unsigned back_homes(struct move_mapper *move, unsigned count, const uint32_t *frames)
{
    for (unsigned i = 0; i < count;) {
        unsigned n = run_length(move, count, frames, i);
        size_t bytes = n * PAGE_SIZE;

        if (!move->backed[frames[i]])
            uffd_copy(&move->uffd, (uintptr_t)home(move, frames[i]), move->uffd.zeroes,
                      n * PAGE_SIZE, false, &bytes);
        for (unsigned k = 0; k < bytes / PAGE_SIZE; k++)
            move->backed[frames[i + k]] = 1;
        if (bytes < n * PAGE_SIZE)
            return i + (unsigned)(bytes / PAGE_SIZE);
        i += n;
    }
    return count;
}

static unsigned move_stage_take(struct mapper *mapper, unsigned want, const uint32_t *frames,
                                struct mapper_stage *stage)
{
    struct move_mapper *move = move_of(mapper);
    unsigned got = back_homes(move, want, frames);

    stage->count = 0;
    for (unsigned i = 0; i < got; i++)
        move->clean[frames[i]] = 0;
    return got;
}

static void move_stage_give(struct mapper *mapper, struct mapper_stage *stage)
{
    (void)mapper;
    stage->count = 0;
}

/*
 * A home that cannot be moved (a device, or the kernel itself, still holds a reference to it): its
 * content is copied into a page of its own and the home gives up its page, so that the budget
 * holds. If the kernel does not take that either, the home stays backed until clear_homes().
 */
static int copy_instead(struct move_mapper *move, uintptr_t va, uint32_t frame)
{
    uintptr_t from = (uintptr_t)home(move, frame);
    size_t bytes;
    int error = uffd_copy(&move->uffd, va, (const void *)from, PAGE_SIZE, false, &bytes), status;

    if (error == 0)
        move->backed[frame] = uffd_drop(&move->uffd, 1, &from, &status) != 0;
    return error;
}

/* Move a run of homes under va; they are backed and consecutive. *pages: how many are there now. */
static int map_homes(struct move_mapper *move, uintptr_t va, uint32_t frame, unsigned count,
                     unsigned *pages)
{
    unsigned tries = 0;

    *pages = 0;
    while (*pages < count) {
        size_t done;
        int error = move_run(move, va + *pages * PAGE_SIZE, (uintptr_t)home(move, frame + *pages),
                             (count - *pages) * PAGE_SIZE, &done);

        for (unsigned i = 0; i < done / PAGE_SIZE; i++)
            move->backed[frame + *pages + i] = 0;
        *pages += (unsigned)(done / PAGE_SIZE);
        if (error == 0)
            continue;
        check_always(error != -EEXIST);
        if (error == -EBUSY && ++tries < BUSY_TRIES) {
            sync_relax(move->mapper.sync, tries);
            continue;
        }
        error = copy_instead(move, va + *pages * PAGE_SIZE, frame + *pages);
        if (error != 0)
            return error;
        ++*pages;
    }
    return 0;
}

static int move_map(struct mapper *mapper, uintptr_t va, unsigned count, const uint32_t *frames,
                    void *const *content, unsigned flags, unsigned *done)
{
    struct move_mapper *move = move_of(mapper);

    (void)content; /* it is in the frames' homes */
    (void)flags;
    *done = 0;
    while (*done < count) {
        unsigned n = run_length(move, count, frames, *done), pages;
        int error = map_homes(move, va + *done * PAGE_SIZE, frames[*done], n, &pages);

        *done += pages;
        if (error != 0)
            return error;
    }
    return 0; /* UFFDIO_MOVE wakes who waits at its destination */
}

static void move_zero(struct mapper *mapper, uint32_t frame)
{
    struct move_mapper *move = move_of(mapper);

    if (move->backed[frame] && !move->clean[frame])
        memset(home(move, frame), 0, PAGE_SIZE);
    move->clean[frame] = 1;
}

static int move_map_zero(struct mapper *mapper, uintptr_t va, unsigned count,
                         const uint32_t *frames, unsigned flags, unsigned *done)
{
    struct move_mapper *move = move_of(mapper);

    (void)flags;
    *done = 0;
    while (*done < count) {
        unsigned n = run_length(move, count, frames, *done), pages;
        uintptr_t at = va + *done * PAGE_SIZE;
        size_t bytes;
        int error;

        if (move->backed[frames[*done]]) {
            for (unsigned i = 0; i < n; i++)
                move_zero(mapper, frames[*done + i]);
            error = map_homes(move, at, frames[*done], n, &pages);
        } else {
            error = uffd_copy(&move->uffd, at, move->uffd.zeroes, n * PAGE_SIZE, false, &bytes);
            pages = (unsigned)(bytes / PAGE_SIZE);
        }
        for (unsigned i = 0; i < pages; i++)
            move->clean[frames[*done + i]] = 0;
        *done += pages;
        if (error != 0)
            return error;
    }
    return 0;
}

static int move_protect(struct mapper *mapper, uintptr_t va, size_t length)
{
    (void)mapper;
    (void)va;
    (void)length;
    return 0;
}

static void move_lift(struct mapper *mapper, uintptr_t va, size_t length)
{
    uffd_wake(&move_of(mapper)->uffd, va, length);
}

/* Homes that pages are to be moved to must have none: see copy_instead(). */
static int clear_homes(struct move_mapper *move, const uint32_t *frames, unsigned count)
{
    int error = 0, status;

    for (unsigned i = 0; i < count && error == 0; i++) {
        uintptr_t at = (uintptr_t)home(move, frames[i]);

        if (!move->backed[frames[i]])
            continue;
        error = uffd_drop(&move->uffd, 1, &at, &status);
        move->backed[frames[i]] = error != 0;
    }
    return error;
}

/* Move a run of pages home; *done in bytes. */
static int take_run(struct move_mapper *move, uintptr_t va, const uint32_t *frames, unsigned count,
                    size_t *done)
{
    size_t length = count * PAGE_SIZE;
    int error = clear_homes(move, frames, count);

    *done = 0;
    if (error == 0)
        error = move_run(move, (uintptr_t)home(move, frames[0]), va, length, done);
    /* The program has locked its memory (mlock()), and the pool is not: the kernel does not move
     * pages between the two. */
    if (error == -EINVAL && !move->uffd.memory_lock &&
        munlock((const void *)(va + *done), length - *done) == 0) {
        size_t before = *done;

        error = move_run(move, (uintptr_t)home(move, frames[0]) + before, va + before,
                         length - before, done);
        *done += before;
    }
    return error;
}

static void move_take(struct mapper *mapper, unsigned count, const uintptr_t *va,
                      const uint32_t *buffers, int *status)
{
    struct move_mapper *move = move_of(mapper);

    for (unsigned i = 0; i < count;) {
        unsigned n = 1;
        size_t done;
        int error;

        while (i + n < count && va[i + n] == va[i] + n * PAGE_SIZE &&
               buffers[i + n] == buffers[i] + n)
            n++;
        error = take_run(move, va[i], buffers + i, n, &done);
        for (unsigned k = 0; k < done / PAGE_SIZE; k++) {
            move->backed[buffers[i + k]] = 1;
            move->clean[buffers[i + k]] = 0;
            status[i + k] = 0;
        }
        i += (unsigned)(done / PAGE_SIZE);
        if (error != 0)
            status[i++] = error;
    }
}

static int move_drop(struct mapper *mapper, unsigned count, const uintptr_t *va,
                     const uint32_t *frames, int *status)
{
    (void)frames; /* Active frames: their homes are not backed, or hold what nobody needs */
    return uffd_drop(&move_of(mapper)->uffd, count, va, status);
}

static int move_fail(struct mapper *mapper, uintptr_t va)
{
    return uffd_fail(&move_of(mapper)->uffd, va);
}

static void move_unfail(struct mapper *mapper, uintptr_t va)
{
    uffd_unfail(&move_of(mapper)->uffd, va);
}

static void move_wake(struct mapper *mapper, uintptr_t va, size_t length)
{
    uffd_wake(&move_of(mapper)->uffd, va, length);
}

static void move_close(struct mapper *mapper)
{
    struct move_mapper *move = move_of(mapper);

    if (move->mapper.buffers != NULL)
        uffd_region_close(&move->uffd, (uintptr_t)move->mapper.buffers, move->frames * PAGE_SIZE);
    if (move->backed != NULL)
        platform_linux.release(move->backed, move->frames);
    if (move->clean != NULL)
        platform_linux.release(move->clean, move->frames);
    uffd_close(&move->uffd);
    platform_linux.release(move, sizeof(*move));
}

static const struct mapper_ops move_ops = {
    .name = "move",
    .region_open = move_region_open,
    .region_split = mapper_region_split,
    .region_close = move_region_close,
    .stage_take = move_stage_take,
    .stage_give = move_stage_give,
    .map = move_map,
    .map_zero = move_map_zero,
    .protect = move_protect,
    .lift = move_lift,
    .take = move_take,
    .drop = move_drop,
    .fail = move_fail,
    .unfail = move_unfail,
    .wake = move_wake,
    .zero = move_zero,
    .close = move_close,
};

int mapper_move_open(struct sync *sync, const struct mapper_options *options,
                     struct mapper **mapper)
{
    struct move_mapper *move = platform_linux.reserve(sizeof(*move));
    uintptr_t pool;
    int error;

    if (move == NULL)
        return error_set(-ENOMEM, "no memory for the mapper move");
    error = uffd_open(&move->uffd, sync, options, UFFD_FEATURE_MOVE,
                      UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_POISON);
    if (error != 0) {
        platform_linux.release(move, sizeof(*move));
        return error;
    }
    move->frames = options->frames;
    move->mapper = (struct mapper){
        .ops = &move_ops, .in_place = true, .sync = sync, .real_frames = true, .fd = move->uffd.fd};
    move->backed = platform_linux.reserve(move->frames);
    move->clean = platform_linux.reserve(move->frames);
    error = uffd_region_open(&move->uffd, move->frames * PAGE_SIZE, false, &pool);
    if (error == 0)
        move->mapper.buffers = (char *)pool;
    if (error == 0 && (move->backed == NULL || move->clean == NULL))
        error = error_set(-ENOMEM, "no memory for the mapper move");
    if (error != 0) {
        move_close(&move->mapper);
        return error;
    }
    *mapper = &move->mapper;
    return 0;
}
