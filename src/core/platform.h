/*
 * What the core needs of its surroundings besides synchronization: address
 * space for its tables. Tables are reserved at their full size and cost memory
 * only where they are touched, so a table for a terabyte is cheap.
 */
#ifndef VMSM_CORE_PLATFORM_H
#define VMSM_CORE_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>

struct platform {
    /*
     * length bytes that read as zero and are populated when touched; NULL if there is no room. For
     * tables: they are left out of core dumps, and a child has a copy of its own.
     */
    void *(*reserve)(size_t length);
    /* As reserve(), but populated now, in huge pages where length allows it: buffers for I/O, which
     * a child does not have. */
    void *(*buffer)(size_t length);
    void (*release)(void *base, size_t length);
    /* Bytes of a range of what reserve() gave that are populated, in whole pages. */
    size_t (*resident)(void *base, size_t length);
    /* Shall a child of fork() have a copy of it? 0 or a negative errno with words. May be NULL. */
    int (*inherit)(void *base, size_t length, bool inherited);
    /* Any 64 bits that an outsider cannot guess. */
    unsigned long (*secret)(void);
};

extern const struct platform platform_linux;

struct sync_backend;
extern const struct sync_backend sync_backend_linux;
/* The same, but threads sleep at random yield points, up to sync.yield_delay_ns: for tests. */
extern const struct sync_backend sync_backend_linux_delayed;

#endif
