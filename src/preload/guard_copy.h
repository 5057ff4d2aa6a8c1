/*
 * The program's memory for calls under the guard: read and written so that a bad pointer is no end,
 * and memory of the kernel's that is given to calls in its place.
 */
#ifndef VMSM_PRELOAD_GUARD_COPY_H
#define VMSM_PRELOAD_GUARD_COPY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How many bytes can be copied, from the first on. Memory of the program's may be anywhere. */
size_t guard_read_some(void *to, uintptr_t from, size_t length);
size_t guard_write_some(uintptr_t to, const void *from, size_t length);
/* All of it: 0; else -EFAULT. */
long guard_read(void *to, uintptr_t from, size_t length);
long guard_write(uintptr_t to, const void *from, size_t length);
/* A string with its end, of `most` bytes at most. How many can be had. */
size_t guard_read_text(char *to, uintptr_t from, size_t most);
/* See to it that managed memory is there, now; the rest of the range is not looked at. */
void guard_touch(uintptr_t start, size_t length);

/* ---- memory to call on ---- */

#define GUARD_BOUNCES 4 /* that a thread keeps: one for each handler that interrupts a call */

/*
 * Who has one, on his stack: if he leaves by longjmp(), or is cancelled, then `mark` goes some time,
 * and the memory is free again.
 */
struct guard_lease {
    uintptr_t mark;
    struct guard_bounce *from; /* NULL: it is given back to the kernel at the end */
    char *memory;              /* whole pages. Of the kernel's, so it may be given to calls */
    size_t length;
};

/* Of a thread; its signal handlers take and give as well. */
struct guard_bounce {
    struct guard_lease *_Atomic lease; /* who has it, and the rest; NULL: nobody */
    char *memory;                      /* NULL: there is none now */
    size_t length;
};

/* 0 or -ENOMEM. What is in it is anything. */
long guard_lease(struct guard_lease *lease, size_t length);
/* keep: it may be another's at once. False: the kernel may still read it. */
void guard_lease_end(struct guard_lease *lease, bool keep);
/* At the end of a thread. */
void guard_bounces_give(void);

#endif
