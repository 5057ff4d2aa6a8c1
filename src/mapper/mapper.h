/*
 * A mapper puts frames under addresses and takes them away. The core decides
 * what, when and in which order; a mapper only does it.
 *
 * A frame that is not Active has its content, if any, in a *buffer* that the
 * mapper keeps mapped:
 *   - with a cache (copy), buffers are fewer than frames; the core hands them out
 *     (buffer numbers 0 to buffers - 1) and an Active frame has none;
 *   - without (move, soft), buffer number f belongs to frame f for good.
 *
 * Who may call: the thread that holds the busy bit of every page in the range,
 * except protect() and lift(), whose range may hold other pages too (docs/architecture.md,
 * "Trim"). No call blocks on a fault, allocates, or takes a lock that
 * the program could hold.
 */
#ifndef VMSM_MAPPER_H
#define VMSM_MAPPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/sync.h"

#define PAGE_SIZE ((uintptr_t)4096)
#define PAGE_SHIFT 12
#define RUN_MAX 64u        /* most pages mapped, or read, at once */
#define SECTION_PAGES 512u /* most pages trimmed at once */
#define LARGE_SIZE (SECTION_PAGES * PAGE_SIZE)
#define LARGE_MAX 16u /* large buffers, at most */

enum mapper_flags {
    MAP_PROTECTED = 1 /* the first write faults; not with mapper move */
};

/* A piece of staging memory: contiguous pages to read into before they are mapped. */
struct mapper_stage {
    uint32_t first;
    uint32_t count; /* 0: none held */
};

struct mapper;

struct mapper_ops {
    const char *name;

    /* Address space for a region. 0, -ENOMEM, -ENOSYS, … with words. */
    int (*region_open)(struct mapper *mapper, size_t length, uintptr_t *base);
    /* Prepare a part of it to be given back by itself: 0, or -ENOMEM with words, and nothing has
     * changed but how the kernel holds it. */
    int (*region_split)(struct mapper *mapper, uintptr_t base, size_t length);
    /* Give back any part of it, after region_split(); threads asleep in a fault there are woken to
     * meet their SIGSEGV. */
    void (*region_close)(struct mapper *mapper, uintptr_t base, size_t length);

    /* Memory to read `want` pages into, where stage_content() says; returns how many there is room
     * for now. */
    unsigned (*stage_take)(struct mapper *mapper, unsigned want, const uint32_t *frames,
                           struct mapper_stage *stage);
    void (*stage_give)(struct mapper *mapper, struct mapper_stage *stage);

    /* Take a piece of staging that begins at a multiple of its size, and give its memory back to
     * the system until stage_give(); false if none is free, or the system does not take it. NULL,
     * as vacate, without a cache. */
    bool (*stage_lend)(struct mapper *mapper, unsigned pages, struct mapper_stage *stage);
    /* Give the memory of buffers that are not in use back to the system, until they are used. False
     * if it does not take all of it. */
    bool (*vacate)(struct mapper *mapper, unsigned count, const uint32_t *buffers);

    /*
     * Put count pages, content[i] each (frame frames[i]), under va, va + 4096, …
     * and wake who waits for them. *done says how many are mapped, from the
     * first on, when it fails: -ENOMEM (the system has no page for us now).
     */
    int (*map)(struct mapper *mapper, uintptr_t va, unsigned count, const uint32_t *frames,
               void *const *content, unsigned flags, unsigned *done);
    /* The same with pages of zeroes. */
    int (*map_zero)(struct mapper *mapper, uintptr_t va, unsigned count, const uint32_t *frames,
                    unsigned flags, unsigned *done);

    /* Make writes to [va, va + length) trap (copy); nothing where take() unmaps atomically. */
    int (*protect)(struct mapper *mapper, uintptr_t va, size_t length);
    /* End that, and wake. It goes on until it is done: who is caught by the protection would fault
     * for ever. */
    void (*lift)(struct mapper *mapper, uintptr_t va, size_t length);
    /*
     * Bring the content of each va[i] into buffers[i]. status[i] is 0, or a negative errno if that
     * page must stay (-EBUSY: a device uses it). With a cache the page stays mapped until
     * drop(); without, it is unmapped by this call. For one thread at a time.
     */
    void (*take)(struct mapper *mapper, unsigned count, const uintptr_t *va,
                 const uint32_t *buffers, int *status);
    /*
     * Unmap pages and give their memory back (after take() with a cache; decommit). status[i] is 0,
     * or a negative errno: that page is where it was, with its content. Returns the first of them.
     */
    int (*drop)(struct mapper *mapper, unsigned count, const uintptr_t *va, const uint32_t *frames,
                int *status);

    /* The page can't be had: whoever touches va gets SIGBUS (SIGSEGV, if the kernel has no better),
     * and who sleeps there is woken. 0, or a negative errno: it would fault again, for another try.
     */
    int (*fail)(struct mapper *mapper, uintptr_t va);
    /* Undo fail(). */
    void (*unfail)(struct mapper *mapper, uintptr_t va);
    /* Put a page of zeroes under va, unless a page is there. True: none was, since the program has
     * dropped it by a system call of its own (MADV_DONTNEED), which means zeroes. NULL where that
     * cannot be. */
    bool (*restore)(struct mapper *mapper, uintptr_t va);
    /* Wake threads asleep in a fault in the range: they look again. */
    void (*wake)(struct mapper *mapper, uintptr_t va, size_t length);
    /* Fill a frame's buffer with zeroes (mappers whose free frames are real). */
    void (*zero)(struct mapper *mapper, uint32_t frame);

    /*
     * Sections as large pages; NULL where mapper.larges is 0. A large buffer is memory for a
     * section, empty while it has no owner. What it holds, its owner has frames for.
     */
    /* Fill an empty one with zeroes. 1: it took so long that small pages would have done better,
     * unless it is used often; -ENOMEM: the system has no huge page now. */
    int (*large_fill)(struct mapper *mapper, unsigned buffer);
    void *(*large_content)(struct mapper *mapper, unsigned buffer);
    /* Its memory goes back to the system. */
    void (*large_empty)(struct mapper *mapper, unsigned buffer);
    /* Put its content under the section at va, of which nothing is mapped, and wake. *done says how
     * many pages are mapped, as of map(); if it is all, the buffer is empty. True: as a large
     * page. */
    bool (*large_map)(struct mapper *mapper, uintptr_t va, unsigned buffer, unsigned *done);
    /* Unmap all pages of a section at once: an empty buffer has them then. 0, or a negative errno,
     * and all are where they were. */
    int (*large_take)(struct mapper *mapper, uintptr_t va, unsigned buffer);
    /* Make small pages of a large one, so that memory of some can be given back; any number of
     * threads at a time. False: it cannot be now (a device uses it). */
    bool (*large_split)(struct mapper *mapper, uintptr_t va);

    /* For fork(); NULL where pages cannot be inherited (core/fork.h). Buffers and staging are to be
     * in a child, or not to be. */
    int (*fork_prepare)(struct mapper *mapper, bool inherited);
    /* In the child: begin anew; then each region is watched again. 0 or a negative errno, with
     * words. */
    int (*fork_child)(struct mapper *mapper);
    int (*region_adopt)(struct mapper *mapper, uintptr_t base, size_t length);

    void (*close)(struct mapper *mapper);
};

struct mapper {
    const struct mapper_ops *ops;
    struct sync *sync;
    bool has_cache;   /* Active memory is not the frame's own buffer */
    bool in_place;    /* Active pages are under their addresses; else only the buffers are */
    bool real_frames; /* free frames have memory: the zeroer has work */
    bool protects;    /* MAP_PROTECTED works */
    int fd;           /* userfaultfd, or -1 */
    unsigned larges;  /* large buffers; 0: sections cannot be large pages */
    char *buffers;    /* buffer n is at buffers + n * 4096 */
    char *stage;      /* with a cache: so is page n of staging */
};

static inline void *mapper_buffer(const struct mapper *mapper, uint32_t buffer)
{
    return mapper->buffers + (size_t)buffer * PAGE_SIZE;
}

/* Where page i of those that stage_take() was called for is read into. */
static inline void *stage_content(const struct mapper *mapper, const struct mapper_stage *stage,
                                  const uint32_t *frames, unsigned i)
{
    if (mapper->has_cache)
        return mapper->stage + (size_t)(stage->first + i) * PAGE_SIZE;
    return mapper_buffer(mapper, frames[i]);
}

struct mapper_options {
    uint32_t frames;  /* frames of the machine */
    uint32_t buffers; /* cache: buffers wanted (ignored without one) */
    uint32_t active;  /* most frames that are Active while nothing is lent */
    uint32_t stage;   /* cache: pages of staging */
    unsigned larges;  /* cache: large buffers wanted */
    bool sigbus;      /* faults come as SIGBUS to the faulting thread */
    bool user_only;   /* faults of user code will do; so they do for sigbus */
    bool memory_lock;
};

/* region_split() of regions that are mappings of the kernel's, and what unmaps a part of them. */
int mapper_region_split(struct mapper *mapper, uintptr_t base, size_t length);
void mapper_region_unmap(uintptr_t base, size_t length);

/* 0 or a negative errno with words: -ENOSYS (the kernel), -EPERM (the user), -ENOMEM, -EMFILE. */
int mapper_copy_open(struct sync *sync, const struct mapper_options *options,
                     struct mapper **mapper);
int mapper_move_open(struct sync *sync, const struct mapper_options *options,
                     struct mapper **mapper);
int mapper_soft_open(struct sync *sync, const struct mapper_options *options,
                     struct mapper **mapper);

#endif
