/*
 * The mapper `soft`: a software MMU. Regions are addresses without memory behind them; an access
 * goes through vmsm_read() and vmsm_write(), which look at the PTE and copy from or to the frame's
 * buffer while they hold the page BUSY. It needs nothing of the kernel and runs
 * under Valgrind and every sanitizer.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/error.h"
#include "core/platform.h"
#include "mapper/mapper.h"

struct soft_mapper {
    struct mapper mapper;
    uint32_t frames;
    uint8_t *clean; /* of each frame: its buffer is all zero; owned by who owns the frame */
};

static struct soft_mapper *soft_of(struct mapper *mapper)
{
    return (struct soft_mapper *)(void *)mapper;
}

static int soft_region_open(struct mapper *mapper, size_t length, uintptr_t *base)
{
    void *memory =
        mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    (void)mapper;
    if (memory == MAP_FAILED)
        return error_set(-ENOMEM, "no address space for %zu MiB (is `ulimit -v` set?)",
                         length >> 20);
    *base = (uintptr_t)memory;
    return 0;
}

static void soft_region_close(struct mapper *mapper, uintptr_t base, size_t length)
{
    (void)mapper;
    mapper_region_unmap(base, length);
}

static unsigned soft_stage_take(struct mapper *mapper, unsigned want, const uint32_t *frames,
                                struct mapper_stage *stage)
{
    stage->count = 0;
    for (unsigned i = 0; i < want; i++)
        soft_of(mapper)->clean[frames[i]] = 0;
    return want;
}

static void soft_stage_give(struct mapper *mapper, struct mapper_stage *stage)
{
    (void)mapper;
    stage->count = 0;
}

static int soft_map(struct mapper *mapper, uintptr_t va, unsigned count, const uint32_t *frames,
                    void *const *content, unsigned flags, unsigned *done)
{
    (void)mapper;
    (void)va;
    (void)frames;
    (void)content; /* it is in the frames' buffers, where accesses look for it */
    (void)flags;
    *done = count;
    return 0;
}

static void soft_zero(struct mapper *mapper, uint32_t frame)
{
    struct soft_mapper *soft = soft_of(mapper);

    if (!soft->clean[frame])
        memset(mapper_buffer(mapper, frame), 0, PAGE_SIZE);
    soft->clean[frame] = 1;
}

static int soft_map_zero(struct mapper *mapper, uintptr_t va, unsigned count,
                         const uint32_t *frames, unsigned flags, unsigned *done)
{
    (void)va;
    (void)flags;
    for (unsigned i = 0; i < count; i++) {
        soft_zero(mapper, frames[i]);
        soft_of(mapper)->clean[frames[i]] = 0; /* it is about to be written */
    }
    *done = count;
    return 0;
}

/* The PTE is the MMU: BUSY keeps accesses out. */
static int soft_protect(struct mapper *mapper, uintptr_t va, size_t length)
{
    (void)mapper;
    (void)va;
    (void)length;
    return 0;
}

static void soft_range_nothing(struct mapper *mapper, uintptr_t va, size_t length)
{
    (void)mapper;
    (void)va;
    (void)length;
}

static void soft_take(struct mapper *mapper, unsigned count, const uintptr_t *va,
                      const uint32_t *buffers, int *status)
{
    (void)mapper;
    (void)va;
    (void)buffers;
    memset(status, 0, count * sizeof(*status));
}

static int soft_drop(struct mapper *mapper, unsigned count, const uintptr_t *va,
                     const uint32_t *frames, int *status)
{
    (void)mapper;
    (void)va;
    (void)frames;
    memset(status, 0, count * sizeof(*status));
    return 0;
}

static int soft_fail(struct mapper *mapper, uintptr_t va)
{
    (void)mapper;
    (void)va;
    return 0; /* the access learns it from fault_resolve() */
}

static void soft_unfail(struct mapper *mapper, uintptr_t va)
{
    (void)mapper;
    (void)va;
}

static void soft_close(struct mapper *mapper)
{
    struct soft_mapper *soft = soft_of(mapper);

    platform_linux.release(soft->clean, soft->frames);
    platform_linux.release(mapper->buffers, soft->frames * PAGE_SIZE);
    platform_linux.release(soft, sizeof(*soft));
}

static const struct mapper_ops soft_ops = {
    .name = "soft",
    .region_open = soft_region_open,
    .region_split = mapper_region_split,
    .region_close = soft_region_close,
    .stage_take = soft_stage_take,
    .stage_give = soft_stage_give,
    .map = soft_map,
    .map_zero = soft_map_zero,
    .protect = soft_protect,
    .lift = soft_range_nothing,
    .take = soft_take,
    .drop = soft_drop,
    .fail = soft_fail,
    .unfail = soft_unfail,
    .wake = soft_range_nothing,
    .zero = soft_zero,
    .close = soft_close,
};

int mapper_soft_open(struct sync *sync, const struct mapper_options *options,
                     struct mapper **mapper)
{
    struct soft_mapper *soft = platform_linux.reserve(sizeof(*soft));

    if (soft == NULL)
        return error_set(-ENOMEM, "no memory for the mapper soft");
    soft->frames = options->frames;
    soft->mapper = (struct mapper){
        .ops = &soft_ops, .sync = sync, .real_frames = true, .protects = true, .fd = -1};
    soft->mapper.buffers = platform_linux.reserve(soft->frames * PAGE_SIZE);
    soft->clean = platform_linux.reserve(soft->frames);
    if (soft->mapper.buffers != NULL)
        madvise(soft->mapper.buffers, soft->frames * PAGE_SIZE, MADV_DONTFORK);
    if (soft->mapper.buffers == NULL || soft->clean == NULL) {
        soft_close(&soft->mapper);
        return error_set(-ENOMEM, "no memory for %u frames", options->frames);
    }
    *mapper = &soft->mapper;
    return 0;
}
