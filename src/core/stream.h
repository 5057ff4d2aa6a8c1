/*
 * Speculation: who reads on, which way, and how far ahead is worth it.
 *
 * A stream is a sequence of faults that go forward or backward page by page.
 * Each faulting thread (by its id, where the trap knows it) has a few streams; a fault that
 * lands just past what a stream mapped last continues it, and its window doubles, up to read_window
 * (touch_window for first touches). A fault that fits no stream starts one, in the place
 * of the least recently used.
 *
 * The window of a stream's first fault is learned, too: `follow` is the share, lately, of first
 * faults that were followed by a second one next door. Where most are, the first
 * fault already reads a few pages.
 *
 * When the trimmer finds pages that were read ahead and show no sign of use, it says so
 * (stream_waste()), and the cap on windows shrinks; it grows back with hits.
 * What can't be known: whether a page that was mapped ahead has been touched,
 * since hits cost nothing and so leave no trace. A stream that goes on is taken as proof
 * for the pages behind it.
 *
 * Idea of windows by stream: Linux's readahead; of finding it by faults of one
 * thread: Leap (ATC'20). Waste-driven caps are ours.
 */
#ifndef VMSM_CORE_STREAM_H
#define VMSM_CORE_STREAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/sync.h"

#define STREAM_SETS 32u
#define STREAMS_PER_SET 4u

/* (s) the lock of the stream's set; (a) atomic */

struct stream {
    uintptr_t last;   /* (s) page that faulted last; 0: unused */
    uintptr_t next;   /* (s) page that would continue it */
    uintptr_t behind; /* (s) sequential: first page not yet offered to trim-behind */
    uint32_t thread;  /* (s) */
    uint32_t used;    /* (s) tick of the last use */
    int8_t direction; /* (s) 1 forward, -1 backward, 0 not known yet */
    uint8_t window;   /* (s) pages mapped at the last fault, 1 to RUN_MAX */
    bool touching;    /* (s) a stream of first touches */
    uint32_t length;  /* (s) pages that the stream has mapped so far */
};

struct stream_set {
    struct sync_mutex lock; /* class STREAMS; only tried for */
    uint32_t tick;          /* (s) */
    struct stream streams[STREAMS_PER_SET];
};

struct streams {
    struct stream_set sets[STREAM_SETS];
    _Atomic uint32_t follow;      /* (a) of 1024 first faults, how many were followed (average) */
    _Atomic uint32_t cap_eighths; /* (a) cap on read windows, eighths of read_window, 1 to 8 */
    _Atomic uint32_t hits, waste; /* (a) pages, since the cap last moved */
};

/* What a fault should map: `window` pages in all, va included, in `direction`. */
struct stream_plan {
    uint32_t window;
    int8_t direction;
    uintptr_t trim_from; /* trim-behind: pages [trim_from, trim_from + trim_pages) are done with */
    uint32_t trim_pages;
    uintptr_t passed_from; /* [passed_from, + passed_pages): mapped ahead earlier, and used */
    uint32_t passed_pages;
};

struct machine;

void streams_init(struct streams *streams);

/*
 * Plan the fault at page va by `thread`. touching: it has no content. most: the longest window
 * allowed, at least 1. Costs one trylock; if that fails the plan is one page.
 */
void stream_plan(struct machine *m, uintptr_t va, uint32_t thread, bool touching, unsigned most,
                 struct stream_plan *plan);

/* How many pages were mapped in the end, va included: the stream's next fault is expected after
 * them. */
void stream_mapped(struct machine *m, uintptr_t va, uint32_t thread, unsigned pages);

/* The trimmer met `pages` read-ahead pages without a sign of use. */
void stream_waste(struct machine *m, unsigned pages);

#endif
