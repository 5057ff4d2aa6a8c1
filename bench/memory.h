/*
 * The kinds of memory that the benchmark measures, behind one face: a child process opens one
 * of them, runs the workload through plain pointers into it, and closes it.
 *
 *   managed   libvmsm: vmsm_create(), vmsm_map()
 *   sigbus    the same with the trap sigbus: faults are resolved in the thread that has them
 *   swap      anonymous memory in a control group whose limit is the budget; swap file on the disk
 *   zram      the same with a compressed device in memory as swap
 *   mapped    a shared mapping of a file on the disk, in such a group
 *
 * The child of a peer has entered its control group before it calls memory_open() (peer.h). No kind
 * is given advice, about huge pages or anything else: each is as the system has it.
 *
 * All files have been made, and written, before (scratch.h).
 */
#ifndef VMSM_BENCH_MEMORY_H
#define VMSM_BENCH_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum memory_kind { MANAGED, MANAGED_SIGBUS, SWAP, ZRAM, MAPPED, MEMORY_KINDS };
#define MEMORY_PEER SWAP /* the first of those that are not managed */

extern const char *const memory_kind_names[MEMORY_KINDS];

static inline bool memory_kind_managed(enum memory_kind kind)
{
    return kind == MANAGED || kind == MANAGED_SIGBUS;
}

struct memory {
    enum memory_kind kind;
    char *base;
    size_t length;     /* bytes */
    struct vmsm *vmsm; /* managed only */
    bool copies;       /* managed only: the mapper copies pages in and out */
    int fd;            /* mapped only, or -1 */
};

struct memory_options {
    size_t length;    /* bytes of the region, a multiple of the page */
    size_t budget;    /* bytes of physical memory; the peers' is the limit of their group */
    const char *file; /* pagefile, or the mapped file; it is there, as large as will be needed */
    const char *settings; /* for vmsm_create(), ",name:value…", or "" */
};

/* 0 or a negative errno, after a message on standard error; then there is nothing to close. */
int memory_open(struct memory *memory, enum memory_kind kind, const struct memory_options *options);
/* Also checks the books of managed memory: -EUCLEAN if they do not balance. */
int memory_close(struct memory *memory);

#endif
