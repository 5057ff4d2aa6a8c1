/*
 * Memory for the manager's own objects and for what the C library allocates for its threads: handed
 * out in order from one area of the kernel's. What the manager frees is used again for what it
 * needs of that size; the rest is never given back. It is a few tens of KiB for each manager that a
 * process, or a parent of it by fork(), has made.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

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

/* ---- what the manager frees ---- */

/* The length of a piece is a power of two, and stands before it. */
#define HEADER 16u
#define CLASS_LEAST 5u /* 32 bytes */
#define CLASSES 12u

struct piece {
    size_t class;       /* CLASSES: too large to be kept */
    struct piece *next; /* (lock) while nobody has it; what is handed out begins behind HEADER */
};

static struct {
    atomic_flag lock;
    struct piece *free[CLASSES]; /* (lock) */
} pieces = {.lock = ATOMIC_FLAG_INIT};

/* No lock of the C library. It is held for some instructions, with all signals blocked: who comes
 * here is in the gate, or is a thread of the manager's. */
static void pieces_lock(void)
{
    while (atomic_flag_test_and_set_explicit(&pieces.lock, memory_order_acquire))
        kernel_call(SYS_sched_yield);
}

static void pieces_unlock(void)
{
    atomic_flag_clear_explicit(&pieces.lock, memory_order_release);
}

static size_t class_of(size_t length)
{
    size_t class = 0;

    while (class < CLASSES && length > (size_t)1 << (class + CLASS_LEAST))
        class ++;
    return class;
}

/* Not cleared, if it was used before. */
static void *piece_take(size_t length)
{
    size_t class = class_of(length + HEADER);
    struct piece *piece = NULL;

    if (class < CLASSES) {
        pieces_lock();
        piece = pieces.free[class];
        if (piece != NULL)
            pieces.free[class] = piece->next;
        pieces_unlock();
        length = ((size_t)1 << (class + CLASS_LEAST)) - HEADER;
    }
    if (piece == NULL)
        piece = own_alloc(HEADER, length + HEADER);
    if (piece == NULL)
        return NULL;
    piece->class = class;
    return (char *)piece + HEADER;
}

void own_free(void *pointer)
{
    struct piece *piece;

    if (pointer == NULL)
        return;
    piece = (struct piece *)(void *)((char *)pointer - HEADER);
    if (piece->class == CLASSES)
        return;
    pieces_lock();
    piece->next = pieces.free[piece->class];
    pieces.free[piece->class] = piece;
    pieces_unlock();
}

void *own_calloc(size_t count, size_t size)
{
    size_t length;
    void *memory;

    if (__builtin_mul_overflow(count, size, &length) || length > OWN_SIZE) {
        errno = ENOMEM;
        return NULL;
    }
    memory = piece_take(length);
    return memory != NULL ? memset(memory, 0, length) : NULL;
}

char *own_strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = piece_take(size);

    return copy != NULL ? memcpy(copy, text, size) : NULL;
}

int own_asprintf(char **out, const char *format, ...)
{
    va_list args, again;
    int length;

    va_start(args, format);
    va_copy(again, args);
    length = own_vsnprintf(NULL, 0, format, args);
    *out = length >= 0 ? piece_take((size_t)length + 1) : NULL;
    if (*out != NULL)
        own_vsnprintf(*out, (size_t)length + 1, format, again);
    else
        length = -1;
    va_end(again);
    va_end(args);
    return length;
}
