/*
 * Memory of the smallest pagers that write: which of its pages are there, and the thread that
 * evicts them. Page n has its place at page n of a file; the first to come are the first to go, or
 * from some time on those in front.
 *
 *   ABSENT ──claim──▶ COMING ──put──▶ HERE ──evict──▶ LEAVING ──unchanged──▶ ABSENT
 *                                      ▲                 └──copied──▶ WRITING ──written──▶ ABSENT
 *                                      └────────────claim──────────────┘
 *
 * It does what every pager must, by the cheapest calls, and nothing else: no hashes, no levels of
 * age. What has been changed it knows without asking: from the generations of pages that the
 * workloads keep (workload.h). A batch that leaves is sorted by page, so that neighbours go
 * together: protected (where somebody may write), copied out, sent to the file in pieces of up to
 * 1 MiB, dropped with one call.
 */
#ifndef VMSM_BENCH_BOUND_STOCK_H
#define VMSM_BENCH_BOUND_STOCK_H

#include <liburing.h>
#include <pthread.h>

#include "bound.h"

#define STOCK_RUN 64u    /* pages that are claimed together at most */
#define STOCK_BATCH 512u /* that are evicted together at most, but for the last run */
#define STOCK_BATCHES 3u /* that are being written */

enum stock_answer {
    STOCK_HERE, /* nothing is left to do */
    STOCK_BUSY, /* another thread is at it: look again */
    STOCK_READ, /* the claim is to be read, and put */
};

/* Pages that are to come, of `count` in the file; they are read together. */
struct stock_claim {
    size_t page, count;
    uint64_t ours; /* bit i: page + i comes; others are there already */
};

struct stock_piece {
    uint32_t page, count;
};

/* Evictor's, between takings. */
struct stock_batch {
    char *buffer;
    unsigned used;                           /* pages of it */
    unsigned writing;                        /* requests */
    uint32_t pages[STOCK_BATCH + STOCK_RUN]; /* which pages they are */
    struct stock_piece pieces[STOCK_BATCH];
    unsigned count; /* of pieces */
};

/* Since the memory is there. */
struct stock_counts {
    uint64_t in, out; /* pages that came from the file, that went to it */
    uint64_t claims;  /* faults that brought pages, of the file or new ones */
};

/* (l) under the lock; (e) the evictor's; the rest is constant while threads run */
struct stock {
    struct range range;
    int file;
    size_t most;                   /* pages in memory, buffers not counted */
    unsigned batch;                /* pages evicted together */
    _Atomic uint32_t *generations; /* the workloads' */
    uint8_t *states;               /* (l) of pages */
    uint32_t *saved;               /* (e) 1 + the generation in the file; 0: never written */
    uint32_t *places;              /* (e) 1 + where a page that leaves is in buffers, or 0 */
    struct stock_piece *queue;     /* (l) those that are here, the oldest at tail */
    uint64_t head, tail;           /* (l) modulo pages */
    bool sweeps;                   /* (l) the queue is not used: pages leave from hand on */
    size_t hand;                   /* (l) */
    size_t resident;               /* (l) */
    struct stock_counts counts;    /* (l) */
    bool protects;                 /* (l) somebody may write while pages leave */
    bool stop;                     /* (l) */
    pthread_mutex_t lock;          /* taken in a handler of SIGBUS, so never by who touches */
    pthread_cond_t room, full;     /* some pages have left; some should */
    char *zeroes, *buffers;
    struct stock_batch *batches;
    struct io_uring ring; /* (e) */
    pthread_t evictor;
};

/* The memory is empty, the file too. 0 or a negative errno. */
int stock_open(struct stock *stock, const struct bound *b, bool sigbus);
void stock_close(struct stock *stock);
/* Page is wanted, and as many beside it, from begin to end, as are not here. Waits for room. */
enum stock_answer stock_claim(struct stock *stock, size_t page, size_t begin, size_t end,
                              struct stock_claim *claim);
void stock_put(struct stock *stock, const struct stock_claim *claim, const char *content);
/* Ends the program after a message. */
_Noreturn void stock_fail(int error);
/* From now on; nobody touches. */
void stock_protect(struct stock *stock, bool on);
/* From now on, for good, pages leave in the order of their places, beginning with this one. */
void stock_sweep(struct stock *stock, size_t page);
struct stock_counts stock_count(struct stock *stock);

#endif
