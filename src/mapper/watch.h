/*
 * A watch over take() of the mapper copy, for who reads a page that the program has dropped by a
 * system call of its own sleeps in a fault. No handler can be relied on to end it: each may wait
 * for a frame, for the section's lock, for the regions' or for the gate, and so for the very thread
 * that sleeps. So a thread that takes no lock looks now and then whether a take has gone on since
 * it looked last; then it puts zeroes where pages are missing, which wakes the sleeper.
 *
 * It sleeps for good while nothing is taken, so that an idle program has no wake-ups; and while
 * there are takes, it costs each two atomic operations.
 */
#ifndef VMSM_MAPPER_WATCH_H
#define VMSM_MAPPER_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "core/sync.h"
#include "mapper/uffd.h"

struct take_watch {
    struct sync *sync;
    struct uffd *uffd;
    struct sync_thread *thread; /* NULL: takes are not watched */
    struct sync_event event;
    _Atomic bool stopping;
    _Atomic bool asleep;     /* the next take is to wake it */
    _Atomic uint64_t serial; /* odd: that take goes on */
    _Atomic bool restoring;  /* it uses the pages: the take does not end */
    /* Of the take that goes on; written by who takes, before `serial` becomes odd, and read by the
     * watch only while `restoring` keeps that take from its end: */
    unsigned count;
    const uintptr_t *va;
};

/* 0 or a negative errno, with words. The sync and the uffd outlive it. */
int take_watch_open(struct take_watch *watch, struct sync *sync, struct uffd *uffd);
void take_watch_close(struct take_watch *watch);

/* A thread will read these pages, which are BUSY by it and protected, and has read them. One thread
 * at a time. */
void take_watch_begin(struct take_watch *watch, unsigned count, const uintptr_t *va);
void take_watch_end(struct take_watch *watch);

#endif
