/*
 * What system calls are given: which arguments are pointers, and to how much.
 */
#ifndef VMSM_PRELOAD_GUARD_TABLE_H
#define VMSM_PRELOAD_GUARD_TABLE_H

#include <stddef.h>
#include <stdint.h>

enum guard_kind {
    GUARD_NOTHING,
    GUARD_BYTES,   /* `size` bytes */
    GUARD_ARRAY,   /* as many times `size` bytes as argument `of` says */
    GUARD_RESULT,  /* the same, and the call writes it only: as many as it returns */
    GUARD_TEXT,    /* a string, of PATH_MAX at most */
    GUARD_SIZED,   /* as many bytes as the 32-bit word says that argument `of` points to */
    GUARD_VECTOR,  /* an array of struct iovec, as many as argument `of` says, and their buffers */
    GUARD_BITS,    /* a set of descriptors below argument `of` */
    GUARD_MESSAGE, /* struct msghdr, and all that belongs to it */
    GUARD_LETTER,  /* struct msgbuf: a word, and as many bytes as argument `of` says */
    GUARD_PAGES,   /* a byte for each page of the length in argument `of` */
    GUARD_IOCTL    /* as argument `of`, the request, says */
};

struct guard_argument {
    uint8_t index, kind, of;
    uint16_t size;
};

#define GUARD_ARGUMENTS 4

/* What is not named here and points into the arena is taken for a structure of this size. */
#define GUARD_STRUCTURE 512u

/* Of a call; an unknown one has no entries. They end with GUARD_NOTHING, or are GUARD_ARGUMENTS. */
const struct guard_argument *guard_arguments(long number);
/* Bit i: argument i is a pointer. Those that are not named above are to structures. */
unsigned guard_pointers(long number);
/* Of what an ioctl is given; of most requests at least. */
size_t guard_ioctl_size(uintptr_t request);

#endif
