/*
 * Speculation: who reads on, which way, and how far ahead is worth it.
 *
 * A stream is a sequence of faults that go forward or backward page by page, or in equal steps.
 * Each faulting thread (by its id, where the trap knows it) has a few streams; a fault that
 * lands just past what a stream's window covered continues it, and its window doubles, up to
 * read_window (touch_window for first touches), but never beyond what the stream has covered so
 * far: where it ends, no more than half of all that it read was in vain. A fault that fits no
 * stream starts one, in the place of the least recently used; but one with a long window faults
 * seldom, and is kept for as many other faults as its window is worth.
 *
 * The window of a stream's first fault is learned, for each set of streams: W pages, 1 to 64, of
 * which are known the share of first faults that were followed by one behind their window, and,
 * by a trial with every eighth, the same for half a window. That a page was not followed is all
 * that can be known of it: hits on mapped pages leave no trace. W doubles where so many are
 * followed that the faults saved are worth the pages read in vain, and halves where half of it does
 * as well. Who is followed by the page before it is counted apart, for a longer window would not
 * have held that: objects of two pages whose second is touched first. Where W is 1 and these are
 * many, the first window is the page and the one before it, but for the trials.
 *
 * Two faults that fit no stream, the same step apart as the second from one before, start a stream
 * of that step: its window is single pages.
 *
 * A stream that goes on is taken as proof that the pages behind it were used.
 *
 * Idea of windows by stream: Linux's readahead; of finding it by faults of one thread, and of
 * steps: Leap (ATC'20).
 */
#ifndef VMSM_CORE_STREAM_H
#define VMSM_CORE_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "core/sync.h"

#define STREAM_SETS 32u
#define STREAMS_PER_SET 4u
#define STEPS_MAX 32u /* pages of the window of a stream with steps, at most */

/* (s) the lock of the stream's set */

enum stream_opening {
    OPENING_FOLLOWED, /* the stream has gone on after its first fault */
    OPENING_WHOLE,    /* it has not, and its first window was W, */
    OPENING_HALF,     /* half of it, */
    OPENING_BACK      /* or the page and the one before it */
};

struct stream {
    uintptr_t last;   /* (s) page that faulted last; 0: unused */
    uintptr_t next;   /* (s) page that would continue it */
    uintptr_t low;    /* (s) the lowest page that came with the one that faulted: around.c */
    uintptr_t behind; /* (s) sequential: page up to which trim-behind has been offered all */
    uint32_t thread;  /* (s) */
    uint32_t used;    /* (s) tick of the last use */
    uint32_t length;  /* (s) pages that its windows have covered so far */
    int32_t stride;   /* (s) pages from one to the next: 1 forward, -1 backward; 0: not known yet */
    uint16_t window;  /* (s) pages that the last window covered, the one that faulted included */
    uint16_t planned; /* (s) and how many it was to cover */
    uint8_t opening;  /* (s) enum stream_opening */
    bool touching;    /* (s) a stream of first touches */
};

/* What is known of first windows. */
struct stream_first {
    uint32_t window; /* (s) W, a power of two */
    uint32_t whole;  /* (s) of 1024 of them, how many were followed, */
    uint32_t half;   /* (s) and of those of half as many pages (moving averages) */
    uint32_t back;   /* (s) of 1024, how many were followed by the page before them */
    uint32_t begun;  /* (s) streams */
};

struct stream_set {
    struct sync_mutex lock;       /* class STREAMS; only tried for */
    uint32_t tick;                /* (s) */
    struct stream_first first[2]; /* (s) of reads, and of first touches */
    uintptr_t alone;              /* (s) the last read that fitted no stream, */
    int32_t alone_step;           /* (s) how many pages it was from the one before, or 0, */
    uint32_t alone_thread;        /* (s) and whose it was */
    struct stream streams[STREAMS_PER_SET]; /* (s) */
};

struct streams {
    struct stream_set sets[STREAM_SETS];
};

/* What a fault should map: va and the next ones, `stride` pages apart, `window` in all. */
struct stream_plan {
    uint32_t window;
    uint32_t before;     /* with a window of 1, pages before va that come with it, or have come, */
    uint32_t behind;     /* and behind it: around.c */
    uint32_t length;     /* pages that the stream's windows have covered before */
    int32_t stride;      /* not 0 */
    bool of_stream;      /* one goes on, or begins, with va: stream_covered() is wanted */
    uintptr_t trim_from; /* trim-behind: pages [trim_from, trim_from + trim_pages) are done with */
    uint32_t trim_pages;
    uintptr_t passed_from; /* passed_pages pages from here on, `stride` apart, were mapped ahead, */
    uint32_t passed_pages; /* and have been used */
    uintptr_t next;        /* stream_passes(): where its window ends, */
    uint32_t left;         /* and how many pages from here */
};

struct machine;

void streams_init(struct streams *streams);

/*
 * Plan the fault at page va by `thread`. touching: it has no content. most: the longest window
 * allowed, at least 1. Costs one trylock; if that fails the plan is one page.
 */
void stream_plan(struct machine *m, uintptr_t va, uint32_t thread, bool touching, unsigned most,
                 struct stream_plan *plan);

/*
 * How many pages the window covered in the end, va included, whether or not all of them had to be
 * mapped: the stream's next fault is expected at `next`; or, if it has just begun and goes
 * backward, at the page before `low`.
 */
void stream_covered(struct machine *m, uintptr_t va, uint32_t thread, unsigned pages, uintptr_t low,
                    uintptr_t next);

/*
 * Has the thread's stream come to va, inside its window? Then what is behind it has been used: the
 * plan says so, and where the window ends. stream_longer() makes it so many pages longer.
 */
bool stream_passes(struct machine *m, uintptr_t va, uint32_t thread, struct stream_plan *plan);
void stream_longer(struct machine *m, uintptr_t next, uint32_t thread, unsigned pages);

#endif
