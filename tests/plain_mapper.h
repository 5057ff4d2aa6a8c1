/*
 * A mapper with a cache whose regions are plain memory: nothing faults, the test touches pages by
 * access_page() alone. Large pages are memory as well; what the kernel may refuse, a test asks for.
 * Memory that should not be there any more reads as PLAIN_GONE.
 */
#ifndef TESTS_PLAIN_MAPPER_H
#define TESTS_PLAIN_MAPPER_H

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/machine.h"

#define PLAIN_GONE 0xa5

/* One machine at a time. */
static struct plain {
    struct mapper mapper; /* first */
    size_t buffer_bytes, stage_bytes;
    uint32_t stage_pages;
    char *larges;
    bool *stage_taken;
    bool filled[LARGE_MAX];
    /* What goes wrong from now on. */
    bool no_huge_page; /* large_fill() */
    unsigned
        map_most; /* large_map(): so many pages, and small ones; SECTION_PAGES + 1: all is well */
    int take_error, split_refused;
    unsigned most_at_once;         /* map(): pages in a call */
    void (*taken)(uintptr_t va);   /* a section has been moved away */
    void (*mapping)(uintptr_t va); /* one is about to be mapped */
    void (*emptying)(void);        /* the memory of a large buffer is about to be given back */
    /* What was done. */
    unsigned fills, empties, maps, takes, splits;
    unsigned dropped; /* pages, of sections that are large */
} plain;

static inline int plain_region_open(struct mapper *mapper, size_t length, uintptr_t *base)
{
    char *memory = mmap(NULL, length + LARGE_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    (void)mapper;
    if (memory == MAP_FAILED)
        return -ENOMEM;
    *base = ((uintptr_t)memory + LARGE_SIZE - 1) / LARGE_SIZE * LARGE_SIZE;
    return 0;
}

static inline int plain_region_split(struct mapper *mapper, uintptr_t base, size_t length)
{
    (void)mapper, (void)base, (void)length;
    return 0;
}

static inline void plain_region_close(struct mapper *mapper, uintptr_t base, size_t length)
{
    (void)mapper;
    munmap((void *)base, length);
}

static inline unsigned plain_stage_take(struct mapper *mapper, unsigned want,
                                        const uint32_t *frames, struct mapper_stage *stage)
{
    uint32_t first = 0;

    (void)mapper, (void)frames;
    while (first < plain.stage_pages && plain.stage_taken[first])
        first++;
    *stage = (struct mapper_stage){.first = first};
    while (stage->count < want && first < plain.stage_pages && !plain.stage_taken[first]) {
        plain.stage_taken[first++] = true;
        stage->count++;
    }
    return stage->count;
}

static inline void plain_stage_give(struct mapper *mapper, struct mapper_stage *stage)
{
    (void)mapper;
    for (uint32_t i = 0; i < stage->count; i++)
        plain.stage_taken[stage->first + i] = false;
    stage->count = 0;
}

static inline bool plain_stage_lend(struct mapper *mapper, unsigned pages,
                                    struct mapper_stage *stage)
{
    (void)mapper, (void)pages, (void)stage;
    return false;
}

static inline bool plain_vacate(struct mapper *mapper, unsigned count, const uint32_t *buffers)
{
    (void)mapper, (void)count, (void)buffers;
    return false;
}

static inline int plain_map(struct mapper *mapper, uintptr_t va, unsigned count,
                            const uint32_t *frames, void *const *content, unsigned flags,
                            unsigned *done)
{
    unsigned most = count < plain.most_at_once ? count : plain.most_at_once;

    (void)mapper, (void)frames, (void)flags;
    for (*done = 0; *done < most; ++*done)
        memcpy((char *)va + *done * PAGE_SIZE, content[*done], PAGE_SIZE);
    return most < count ? -ENOMEM : 0;
}

static inline int plain_map_zero(struct mapper *mapper, uintptr_t va, unsigned count,
                                 const uint32_t *frames, unsigned flags, unsigned *done)
{
    (void)mapper, (void)frames, (void)flags;
    memset((void *)va, 0, count * PAGE_SIZE);
    *done = count;
    return 0;
}

static inline int plain_protect(struct mapper *mapper, uintptr_t va, size_t length)
{
    (void)mapper, (void)va, (void)length;
    return 0;
}

static inline void plain_lift(struct mapper *mapper, uintptr_t va, size_t length)
{
    (void)mapper, (void)va, (void)length;
}

static inline void plain_take(struct mapper *mapper, unsigned count, const uintptr_t *va,
                              const uint32_t *buffers, int *status)
{
    for (unsigned i = 0; i < count; i++) {
        memcpy(mapper_buffer(mapper, buffers[i]), (void *)va[i], PAGE_SIZE);
        status[i] = 0;
    }
}

static inline int plain_drop(struct mapper *mapper, unsigned count, const uintptr_t *va,
                             const uint32_t *frames, int *status)
{
    (void)mapper, (void)frames;
    for (unsigned i = 0; i < count; i++) {
        memset((void *)va[i], PLAIN_GONE, PAGE_SIZE);
        status[i] = 0;
    }
    return 0;
}

static inline int plain_fail(struct mapper *mapper, uintptr_t va)
{
    (void)mapper, (void)va;
    return 0;
}

static inline void plain_unfail(struct mapper *mapper, uintptr_t va)
{
    (void)mapper, (void)va;
}

static inline void plain_wake(struct mapper *mapper, uintptr_t va, size_t length)
{
    (void)mapper, (void)va, (void)length;
}

static inline void plain_zero(struct mapper *mapper, uint32_t frame)
{
    (void)mapper, (void)frame;
}

static inline void *plain_large_content(struct mapper *mapper, unsigned buffer)
{
    (void)mapper;
    return plain.larges + buffer * LARGE_SIZE;
}

static inline int plain_large_fill(struct mapper *mapper, unsigned buffer)
{
    if (plain.no_huge_page)
        return -ENOMEM;
    plain.fills++;
    plain.filled[buffer] = true;
    memset(plain_large_content(mapper, buffer), 0, LARGE_SIZE);
    return 0;
}

static inline void plain_large_empty(struct mapper *mapper, unsigned buffer)
{
    if (!plain.filled[buffer])
        return;
    if (plain.emptying != NULL)
        plain.emptying();
    plain.empties++;
    plain.filled[buffer] = false;
    memset(plain_large_content(mapper, buffer), PLAIN_GONE, LARGE_SIZE);
}

static inline bool plain_large_map(struct mapper *mapper, uintptr_t va, unsigned buffer,
                                   unsigned *done)
{
    if (plain.mapping != NULL)
        plain.mapping(va);
    *done = plain.map_most < SECTION_PAGES ? plain.map_most : SECTION_PAGES;
    memcpy((void *)va, plain_large_content(mapper, buffer), *done * PAGE_SIZE);
    plain.maps++;
    if (*done == SECTION_PAGES)
        plain_large_empty(mapper, buffer);
    return plain.map_most > SECTION_PAGES;
}

static inline int plain_large_take(struct mapper *mapper, uintptr_t va, unsigned buffer)
{
    if (plain.take_error != 0)
        return plain.take_error;
    memcpy(plain_large_content(mapper, buffer), (void *)va, LARGE_SIZE);
    memset((void *)va, PLAIN_GONE, LARGE_SIZE);
    plain.filled[buffer] = true;
    plain.takes++;
    if (plain.taken != NULL)
        plain.taken(va);
    return 0;
}

static inline bool plain_large_split(struct mapper *mapper, uintptr_t va)
{
    (void)mapper, (void)va;
    plain.splits++;
    return !plain.split_refused;
}

/* Large buffers that hold memory. */
static inline unsigned plain_full(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < LARGE_MAX; i++)
        n += plain.filled[i];
    return n;
}

static inline void plain_close(struct mapper *mapper)
{
    munmap(mapper->buffers, plain.buffer_bytes);
    munmap(mapper->stage, plain.stage_bytes);
    munmap(plain.larges, LARGE_MAX * LARGE_SIZE);
    free(plain.stage_taken);
}

static inline char *plain_memory(size_t length)
{
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

static inline int plain_mapper_open(struct sync *sync, const struct mapper_options *options,
                                    struct mapper **mapper)
{
    static const struct mapper_ops ops = {.name = "plain",
                                          .region_open = plain_region_open,
                                          .region_split = plain_region_split,
                                          .region_close = plain_region_close,
                                          .stage_take = plain_stage_take,
                                          .stage_give = plain_stage_give,
                                          .stage_lend = plain_stage_lend,
                                          .vacate = plain_vacate,
                                          .map = plain_map,
                                          .map_zero = plain_map_zero,
                                          .protect = plain_protect,
                                          .lift = plain_lift,
                                          .take = plain_take,
                                          .drop = plain_drop,
                                          .fail = plain_fail,
                                          .unfail = plain_unfail,
                                          .wake = plain_wake,
                                          .zero = plain_zero,
                                          .large_fill = plain_large_fill,
                                          .large_content = plain_large_content,
                                          .large_empty = plain_large_empty,
                                          .large_map = plain_large_map,
                                          .large_take = plain_large_take,
                                          .large_split = plain_large_split,
                                          .close = plain_close};

    plain = (struct plain){.map_most = SECTION_PAGES + 1, .most_at_once = RUN_MAX};
    plain.mapper = (struct mapper){.ops = &ops,
                                   .sync = sync,
                                   .has_cache = true,
                                   .in_place = true,
                                   .protects = true,
                                   .larges = options->larges,
                                   .fd = -1};
    plain.stage_pages = options->stage;
    plain.buffer_bytes = options->buffers * PAGE_SIZE;
    plain.stage_bytes = options->stage * PAGE_SIZE;
    plain.mapper.buffers = plain_memory(plain.buffer_bytes);
    plain.mapper.stage = plain_memory(plain.stage_bytes);
    plain.larges = plain_memory(LARGE_MAX * LARGE_SIZE);
    plain.stage_taken = calloc(options->stage, sizeof(bool));
    *mapper = &plain.mapper;
    return 0;
}

#endif
