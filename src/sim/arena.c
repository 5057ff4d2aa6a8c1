#include "sim/arena.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "core/check.h"

/* Above what the address sanitizer takes for itself. */
#define SMALL_BASE ((void *)UINT64_C(0x200000000000))
#define SMALL_SIZE (UINT64_C(256) << 20)
#define LARGE_BASE ((void *)UINT64_C(0x210000000000))
#define LARGE_SIZE (UINT64_C(384) << 20)
#define LARGE_FROM (UINT64_C(1) << 20) /* bytes: tables that are mostly never touched */
#define LARGE_MOST (UINT64_C(80) << 20)
#define ALIGNMENT 64u
#define RELEASED 0xdb

/* One simulation runs at a time in a process, and it has all of this. */
static struct {
    char *small, *large;
    size_t small_used, large_used, live;
} arena;

static char *map_at(void *base, size_t size)
{
    void *memory = mmap(base, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

    check_always(memory == base);
    return memory;
}

static void *arena_reserve(size_t length)
{
    size_t size = (length + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    char *memory;

    if (arena.small == NULL) {
        arena.small = map_at(SMALL_BASE, SMALL_SIZE);
        arena.large = map_at(LARGE_BASE, LARGE_SIZE);
    }
    if (size > LARGE_MOST)
        return NULL; /* as where address space is short */
    if (size >= LARGE_FROM) {
        memory = arena.large + arena.large_used;
        arena.large_used += size;
        check_always(arena.large_used <= LARGE_SIZE);
    } else {
        memory = arena.small + arena.small_used;
        arena.small_used += size;
        check_always(arena.small_used <= SMALL_SIZE);
    }
    arena.live += length;
    return memory;
}

static void arena_release(void *base, size_t length)
{
    check_always(arena.live >= length);
    arena.live -= length;
    if (length < LARGE_FROM)
        memset(base, RELEASED, length);
}

/* As if all of it had been touched. */
static size_t arena_resident(void *base, size_t length)
{
    (void)base;
    return length;
}

static unsigned long arena_secret(void)
{
    return 1;
}

void arena_reset(void)
{
    if (arena.small != NULL)
        memset(arena.small, 0, arena.small_used);
    if (arena.large_used > 0)
        check_always(madvise(arena.large, arena.large_used, MADV_DONTNEED) == 0);
    arena.small_used = arena.large_used = arena.live = 0;
}

void arena_restore(size_t used, size_t live)
{
    arena.small_used = used;
    arena.live = live;
}

size_t arena_live(void)
{
    return arena.live;
}

void *arena_base(void)
{
    return arena.small;
}

size_t arena_used(void)
{
    return arena.small_used;
}

const struct platform platform_sim = {
    .reserve = arena_reserve,
    .buffer = arena_reserve,
    .release = arena_release,
    .resident = arena_resident,
    .secret = arena_secret,
};
