/*
 * Large buffers: memory for whole sections, as huge pages of 2 MiB (Linux 6.8).
 *
 * The kernel moves a huge page from one aligned address to another for little more than a system
 * call, with one entry of the page tables (UFFDIO_MOVE). So a section that is used as a whole is
 * read into such a page and moved under its address, and moved away again to be written, without a
 * copy. A buffer has two places: memory is new in `fresh`, where the kernel populates it, and comes
 * from under an address into `taken`, which only a move can fill, since userfaultfd watches it.
 *
 *                 fill                  map
 *   buffer: empty ────▶ fresh has pages ────▶ empty
 *             │  empty                         ▲ ▲
 *             └◀──────── taken has pages ──────┘ │ empty
 *                 take                   map     │
 *
 * A huge page of which a part is given back stays whole in memory until it is split. For
 * MADV_COLD on a part of it the kernel splits it, with no other effect that matters here.
 */
#ifndef VMSM_MAPPER_HUGE_H
#define VMSM_MAPPER_HUGE_H

#include <stdbool.h>
#include <stdint.h>

#include "mapper/uffd.h"

enum huge_place { HUGE_EMPTY, HUGE_FRESH, HUGE_TAKEN };

struct huge_buffers {
    struct uffd *uffd;
    unsigned count;           /* 0: none, the kernel cannot */
    char *fresh, *taken;      /* count pieces of LARGE_SIZE each */
    int pagemap;              /* /proc/thread-self/pagemap, or -1 */
    uint8_t place[LARGE_MAX]; /* enum huge_place; the buffer's owner's */
};

/* `count` buffers, or none if the kernel lacks something. -ENOMEM with words. */
int huge_open(struct huge_buffers *huge, struct uffd *uffd, unsigned count);
void huge_close(struct huge_buffers *huge);
/* For fork(): all buffers are empty. */
int huge_inherit(struct huge_buffers *huge, bool inherited);
int huge_reopen(struct huge_buffers *huge);

/* As the functions of mapper.h. */
int huge_fill(struct huge_buffers *huge, unsigned buffer);
void *huge_content(struct huge_buffers *huge, unsigned buffer);
void huge_empty(struct huge_buffers *huge, unsigned buffer);
bool huge_map(struct huge_buffers *huge, uintptr_t va, unsigned buffer, unsigned *done);
int huge_take(struct huge_buffers *huge, uintptr_t va, unsigned buffer);
bool huge_split(struct huge_buffers *huge, uintptr_t va);

#endif
