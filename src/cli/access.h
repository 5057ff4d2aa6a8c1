/*
 * How sim touches managed memory: plain loads and stores, or explicit calls
 * where the mapper is soft. A page that cannot be had (SIGBUS) is a result
 * here, not the end of the program.
 *
 * A thread that gets SIGBUS within an access returns from it with -EIO; the
 * handler is installed before the manager is made, because the trap sigbus
 * installs its own in front and hands on what it cannot resolve.
 */
#ifndef VMSM_CLI_ACCESS_H
#define VMSM_CLI_ACCESS_H

#include <stdbool.h>
#include <stdint.h>

#include "vmsm.h"

#define ACCESS_PAGE_WORDS (VMSM_PAGE_SIZE / 8)

struct access {
    struct vmsm *manager;
    uint64_t *base;
    bool soft; /* only by vmsm_read() and vmsm_write() */
};

/* Once a process, before vmsm_create(). 0 or a negative errno with words in error_last(). */
int access_guard_install(void);
/* In each thread that makes accesses, before its first. */
void access_guard_thread(void);

/* Each returns 0, or a negative errno if the page could not be had. Words are 8 bytes. */
int access_load(const struct access *a, uint64_t page, const unsigned *positions, uint64_t *values,
                unsigned count);
int access_store(const struct access *a, uint64_t page, const unsigned *positions,
                 const uint64_t *values, unsigned count);
int access_clear(const struct access *a, uint64_t page);
int access_load_page(const struct access *a, uint64_t page, uint64_t words[ACCESS_PAGE_WORDS]);

static inline uint64_t *access_address(const struct access *a, uint64_t page)
{
    return a->base + page * ACCESS_PAGE_WORDS;
}

#endif
