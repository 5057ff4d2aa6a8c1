/*
 * Files that the kinds of memory move their pages to and from.
 *
 * All of them have been written once before anything is measured: a block that was never written
 * costs more, of the file system, which has to note it, and of a virtual machine's host, which has
 * to find a place for it. The kernel's swap file is used again and again; so is the others'.
 */
#ifndef VMSM_BENCH_SCRATCH_H
#define VMSM_BENCH_SCRATCH_H

#include <stdint.h>

/* Make the file `path`, full of zeroes, on the disk and out of the page cache. It must not exist.
 * 0, or a negative errno, and there is none. */
int scratch_make(const char *path, uint64_t size);

#endif
