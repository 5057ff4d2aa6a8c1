/*
 * The program's heap: jemalloc, whose memory is mapped as the program's own is.
 *
 * While a thread makes a manager (own_depth), what the C library allocates for it is served from
 * own.c instead: jemalloc may be the caller that made the manager necessary, holding its locks, and
 * a handler thread's records must not be managed memory.
 */
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "preload/preload.h"
#include "preload/renamed.h"

#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/*
 * What jemalloc is told. Freed memory is given back after a second, since what stays is written to
 * the pagefile; huge pages there are none; and the break is the program's.
 */
__attribute__((visibility("default"), used)) const char *malloc_conf =
    "dirty_decay_ms:1000,muzzy_decay_ms:0,dss:disabled,thp:never,metadata_thp:disabled";

/* What jemalloc maps is promised, whatever it says of reserving. If it cannot have what it begins
 * with, it crashes (5.3). */
void *heap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    void *memory = memory_map(address, length, protection, flags & ~MAP_NORESERVE, fd, offset);

    if (memory == MAP_FAILED && process.unmanageable)
        _exit(125);
    return memory;
}

int heap_munmap(void *address, size_t length)
{
    return memory_unmap(address, length);
}

int heap_madvise(void *address, size_t length, int advice)
{
    return memory_advise(address, length, advice);
}

int heap_mprotect(void *address, size_t length, int protection)
{
    return mprotect(address, length, protection);
}

void *heap_sbrk(intptr_t increment)
{
    (void)increment;
    errno = ENOMEM;
    return (void *)-1;
}

PRELOAD_API void *malloc(size_t size)
{
    return UNLIKELY(own_depth) ? own_alloc(16, size) : jemalloc_malloc(size);
}

PRELOAD_API void *calloc(size_t count, size_t size)
{
    return UNLIKELY(own_depth) ? own_calloc(count, size) : jemalloc_calloc(count, size);
}

PRELOAD_API void free(void *pointer)
{
    if (UNLIKELY(own_depth || own_contains(pointer)))
        return;
    jemalloc_free(pointer);
}

/* Its length is not known, but what lies behind it is ours as well, and may be read. */
static void *own_grow(void *pointer, size_t size)
{
    void *new = malloc(size);

    return new != NULL ? memmove(new, pointer, size) : NULL;
}

PRELOAD_API void *realloc(void *pointer, size_t size)
{
    if (UNLIKELY(own_contains(pointer)))
        return own_grow(pointer, size);
    if (UNLIKELY(own_depth))
        return pointer == NULL ? own_alloc(16, size) : NULL;
    return jemalloc_realloc(pointer, size);
}

PRELOAD_API int posix_memalign(void **out, size_t alignment, size_t size)
{
    if (UNLIKELY(own_depth)) {
        *out = own_alloc(alignment, size);
        return *out != NULL ? 0 : ENOMEM;
    }
    return jemalloc_posix_memalign(out, alignment, size);
}

PRELOAD_API void *aligned_alloc(size_t alignment, size_t size)
{
    return UNLIKELY(own_depth) ? own_alloc(alignment, size)
                               : jemalloc_aligned_alloc(alignment, size);
}

PRELOAD_API void *memalign(size_t alignment, size_t size)
{
    return UNLIKELY(own_depth) ? own_alloc(alignment, size) : jemalloc_memalign(alignment, size);
}

PRELOAD_API void *valloc(size_t size)
{
    return memalign(VMSM_PAGE_SIZE, size);
}

PRELOAD_API void *pvalloc(size_t size)
{
    return memalign(VMSM_PAGE_SIZE, (size + VMSM_PAGE_SIZE - 1) & ~(size_t)(VMSM_PAGE_SIZE - 1));
}

PRELOAD_API size_t malloc_usable_size(void *pointer)
{
    return own_contains(pointer) ? 0 : jemalloc_malloc_usable_size(pointer);
}
