/*
 * Memory for the manager's own objects and for what the C library allocates for its threads: handed
 * out in order from one area of the kernel's, and never given back. It is a few tens of KiB for each
 * manager that a process, or a parent of it by fork(), has made.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "preload/kernel.h"
#include "preload/preload.h"
#include "preload/renamed.h"

#define OWN_SIZE (64UL * 1024 * 1024) /* address space; what is not handed out costs nothing */

_Thread_local int own_depth __attribute__((tls_model("initial-exec")));

static _Atomic uintptr_t own_base; /* 0: not mapped yet */
static _Atomic size_t own_used;

/* Only the thread that makes a manager comes here first, with the gate held. */
static uintptr_t own_area(void)
{
    uintptr_t base = atomic_load(&own_base);
    void *area;

    if (base != 0)
        return base;
    area = kernel_mmap(NULL, OWN_SIZE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED)
        return 0;
    atomic_store(&own_base, (uintptr_t)area);
    return (uintptr_t)area;
}

void *own_alloc(size_t alignment, size_t length)
{
    uintptr_t base = own_area();
    size_t used = atomic_load(&own_used), start;

    if (alignment < 16)
        alignment = 16;
    do {
        start = (used + alignment - 1) & ~(alignment - 1);
        if (base == 0 || length > OWN_SIZE || start + length > OWN_SIZE) {
            errno = ENOMEM;
            return NULL;
        }
    } while (!atomic_compare_exchange_weak(&own_used, &used, start + length));
    return (void *)(base + start);
}

bool own_contains(const void *address)
{
    uintptr_t base = atomic_load_explicit(&own_base, memory_order_relaxed);

    return base != 0 && (uintptr_t)address - base < OWN_SIZE;
}

void *own_calloc(size_t count, size_t size)
{
    size_t length;

    if (__builtin_mul_overflow(count, size, &length)) {
        errno = ENOMEM;
        return NULL;
    }
    return own_alloc(16, length); /* never used before: zeroes */
}

void own_free(void *pointer)
{
    (void)pointer;
}

char *own_strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = own_alloc(1, size);

    return copy != NULL ? memcpy(copy, text, size) : NULL;
}

int own_asprintf(char **out, const char *format, ...)
{
    va_list args, again;
    int length;

    va_start(args, format);
    va_copy(again, args);
    length = own_vsnprintf(NULL, 0, format, args);
    *out = length >= 0 ? own_alloc(1, (size_t)length + 1) : NULL;
    if (*out != NULL)
        own_vsnprintf(*out, (size_t)length + 1, format, again);
    else
        length = -1;
    va_end(again);
    va_end(args);
    return length;
}
