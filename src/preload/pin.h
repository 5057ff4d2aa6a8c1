/*
 * Buffers of the program that must stay where they are for a call: pinned, as far as they are the
 * manager's.
 */
#ifndef VMSM_PRELOAD_PIN_H
#define VMSM_PRELOAD_PIN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#define PIN_PIECES 64

/* What is pinned for one call. Owned by who makes the call, but for `next` and `undone`. */
struct pinned {
    struct iovec iov[PIN_PIECES];    /* what may be used */
    struct iovec ranges[PIN_PIECES]; /* whole pages of the manager's in it, which are pinned */
    int count, range_count;
    size_t length;       /* of all that may be used */
    struct pinned *next; /* in the list of those that have ended */
    _Atomic bool undone; /* nothing is pinned any more */
};

/*
 * Pin buffers from the first on, `most` bytes at most, as much as can be: p->iov is what may be
 * used. A negative errno: nothing can be; -ENOMEM: not now, too much is pinned.
 */
long pin_buffers(const struct iovec *iov, int count, size_t most, struct pinned *p);
void pin_release(struct pinned *p);

#endif
