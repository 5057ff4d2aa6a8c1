/*
 * What memory.c, remap.c and break.c share: changes to the arena, made with the gate held.
 * Arguments are words, so that gate_call() can make them; 0 or more, or a negative errno.
 */
#ifndef VMSM_PRELOAD_MEMORY_H
#define VMSM_PRELOAD_MEMORY_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmsm.h"

#define MEMORY_PAGE ((uintptr_t)VMSM_PAGE_SIZE)
#define MEMORY_ADDRESS_END (1UL << 47)   /* of a program, but for what it asks for by address */
#define MEMORY_LARGE (2UL * 1024 * 1024) /* aligned to that: sections, and what allocators like */

static inline uintptr_t memory_page_up(size_t length)
{
    return (length + MEMORY_PAGE - 1) & ~(MEMORY_PAGE - 1);
}

/* -1, and errno. */
static inline int memory_failed(long error)
{
    errno = (int)-error;
    return -1;
}

/* As the program would, but nothing is changed, whatever other threads write there. (Of an atomic `or`
 * of nothing clang makes a read.) */
static inline void memory_touch(uintptr_t at, bool write)
{
    volatile char *byte = (volatile char *)at;

    if (write)
        __asm__ volatile("lock orb $0, %0" : "+m"(*byte) : : "cc");
    else
        (void)*byte;
}

/* (gate) Bytes that are promised where they are, and will be elsewhere. */
extern size_t memory_moving;
/* May so many bytes more be promised? What is promised can be kept: memory and pagefile suffice. */
int memory_may_charge(size_t bytes);

/* length, protection, space flags: anywhere. Returns the address. */
long memory_map_anywhere(const uintptr_t *a);
/* start, end, protection, space flags: in the arena, over what is there. */
long memory_map_fixed(const uintptr_t *a);
/* start, end, protection, flags, fd, offset, 1: it is for us to manage: where MAP_FIXED says. */
long memory_map_at(const uintptr_t *a);
/* start, end, protection. -ENOMEM also if it has a hole. */
long memory_protect_inside(const uintptr_t *a);
/* The part of [start, end) that lies in the arena. */
long memory_unmap_inside(const uintptr_t *a);
/* populate.c: [start, end) of the arena, by MADV_POPULATE_READ or MADV_POPULATE_WRITE; without the
 * gate. */
long memory_populate(uintptr_t start, uintptr_t end, int advice);
/* Back to zeroes. Waits for pins. 0, or what the kernel says that does not give pages up. */
int memory_discard(uintptr_t start, uintptr_t end);

#endif
