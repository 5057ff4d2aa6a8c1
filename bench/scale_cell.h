/*
 * One point of the scaling measurement: a manager of some size on a store that takes no time
 * (word_store.h), and what its basic operations cost there.
 *
 * Two managers are made one after the other. The first has no workers, so that each operation can
 * be had by itself: frames are three quarters full of other pages, and a sample of pages goes
 * round, touched - trimmed - rescued - trimmed - written - repurposed - read in - decommitted. The
 * second is complete, has half as many pages again as fit, all written, and threads read them at
 * random: what a page-in costs with its share of trims, ageing, and all else.
 */
#ifndef VMSM_BENCH_SCALE_CELL_H
#define VMSM_BENCH_SCALE_CELL_H

#include <stddef.h>
#include <stdint.h>

#include "core/tunables.h"

enum scale_operation {
    SCALE_TOUCH,    /* a fault on a page that never had content */
    SCALE_RESCUE,   /* a fault on a page that was trimmed, still in its frame */
    SCALE_PAGE_IN,  /* a fault that reads the store; a frame is free */
    SCALE_TRIM,     /* taking a page from under its address */
    SCALE_WRITE,    /* writing a trimmed page */
    SCALE_PRESSURE, /* a page-in while all frames are in use, all costs included */
    SCALE_OPERATIONS
};

extern const char *const scale_names[SCALE_OPERATIONS];

struct scale_cell {
    enum tunable_mapper mapper; /* copy or soft */
    uint64_t virtual_size; /* bytes, over which pages are spread evenly; half is the sample's */
    uint64_t memory;       /* bytes, the budget */
    unsigned threads;      /* at most SCALE_THREADS */
    unsigned run;          /* pages that lie side by side */
    unsigned sample;       /* pages that go round, a multiple of 512 */
    unsigned passes;       /* how often */
    double seconds;        /* of pressure */
};

#define SCALE_THREADS 64

/* Seconds an operation; NAN: not measured. */
struct scale_costs {
    double cpu[SCALE_OPERATIONS];  /* processor time of the process */
    double wall[SCALE_OPERATIONS]; /* time, times the processors that the threads can use */
};

/* Bytes of memory that the cell needs. */
uint64_t scale_cell_memory(const struct scale_cell *cell);

/* 0, or a negative errno after a message; -EUCLEAN: a page did not hold what was written. */
int scale_cell_run(const struct scale_cell *cell, struct scale_costs *costs);

#endif
