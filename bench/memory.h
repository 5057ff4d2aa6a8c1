/*
 * The four kinds of memory that the benchmark measures, behind one face: a child process opens one
 * of them, runs the workload through plain pointers into it, and closes it.
 *
 *   managed   libvmsm: vmsm_create(), vmsm_map()
 *   swap      anonymous memory in a control group whose limit is the budget; swap file on the disk
 *   zram      the same with a compressed device in memory as swap
 *   mapped    a shared mapping of a file on the disk, in such a group
 *
 * The child of a peer has entered its control group before it calls memory_open() (peer.h).
 */
#ifndef VMSM_BENCH_MEMORY_H
#define VMSM_BENCH_MEMORY_H

#include <stddef.h>
#include <stdint.h>

enum memory_kind { MANAGED, SWAP, ZRAM, MAPPED, MEMORY_KINDS };

extern const char *const memory_kind_names[MEMORY_KINDS];

struct memory {
    enum memory_kind kind;
    char *base;
    size_t length;      /* bytes */
    struct vmsm *vmsm;  /* managed only */
    int fd;             /* mapped only, or -1 */
};

struct memory_options {
    size_t length;        /* bytes of the region */
    size_t budget;        /* bytes of physical memory */
    const char *file;     /* pagefile, or the mapped file */
    const char *settings; /* for vmsm_create(), ",name:value…", or "" */
};

/* 0 or a negative errno, after a message on standard error. */
int memory_open(struct memory *memory, enum memory_kind kind, const struct memory_options *options);
/* Also checks the books of managed memory: -EUCLEAN if they do not balance. */
int memory_close(struct memory *memory);

#endif
