/*
 * The workloads: which pages are touched in which order, the same machine code whatever memory is
 * below. Every read is verified (content.h): sixteen words of a page and, where pointers are
 * chased, the link.
 *
 * A touch is one read, write or read-modify-write of one page. The time of each is taken, by one
 * reading of a clock before and one after (latency.h), without what it took to draw the page.
 *
 * workload_run() starts the threads, lets them go together and waits for them. All of a run's state
 * is its own; generations and histograms lie outside of the region.
 */
#ifndef VMSM_BENCH_WORKLOAD_H
#define VMSM_BENCH_WORKLOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vmsm;

enum workload_pattern {
    FILL,     /* the first write of every page, each thread its share */
    SCAN,     /* each thread through its share again and again, in steps of `step` pages */
    RUNS,     /* a random place, 1 to run_max pages one after another */
    ZIPF,     /* single pages, popular with `skew`; popular pages are no neighbours */
    HOT,      /* 90 % of the touches in a tenth of the pages, no neighbours */
    MOVING,   /* random pages in a window of three quarters of memory that slides */
    FLOOD,    /* every second touch in a hot half of memory, the others scan the rest */
    CHASE,    /* each page says which is next */
    PREFAULT, /* vectors of random pages by vmsm_prefault(), then a read of each */
};

struct workload {
    const char *name; /* e.g. "run32w50" */
    const char *help;
    enum workload_pattern pattern;
    unsigned write_percent;
    bool modify;       /* a write reads first */
    bool compressible; /* content */
    bool fits;         /* only where all of it fits in memory */
    bool managed_only;
    bool sweeps; /* measured at all numbers of threads */
    bool random; /* single pages or short runs at random: waits for the disk's latency */
    unsigned run_max;
    int step;
    double skew;
    unsigned threads; /* always so many; 0: as asked for */
    double warm;      /* touches until its state lasts, for each page of memory */
};

/* Touches in which a workload that has phases goes through all of them, or 0: it has none. Of fewer
 * touches, or of others, each kind of memory would show another phase. */
uint64_t workload_phases(const struct workload *workload, uint64_t pages, uint64_t budget_pages);

extern const struct workload workload_table[];
extern const size_t workload_count;
const struct workload *workload_find(const char *name);

struct workload_result {
    uint64_t touches;
    uint64_t wrong; /* reads that found something else than was written */
    double seconds;
    double p50, p99, p999, worst; /* seconds a touch; prefault: a vector */
};

struct workload_run {
    const struct workload *workload;
    char *base;
    struct vmsm *vmsm; /* for prefault */
    size_t pages;
    size_t budget_pages;           /* physical memory: sets are sized by it */
    _Atomic uint32_t *generations; /* what each page must hold; bit 31: a thread is at it */
    unsigned threads;
    double seconds; /* at most; fill: until done */
    uint64_t most;  /* touches after which it ends before that; 0: it does not */
    /* Where each thread's run is before it touches it: first page << 32 | end; NULL: nobody asks. */
    _Atomic uint64_t *runs;
    uint64_t passed; /* touches before it: scans, and the moving window, go on from there */
    uint64_t seed;
};

/* 0 or a negative errno after a message: threads could not be started, pages not prefaulted. */
int workload_run(const struct workload_run *run, struct workload_result *result);

/*
 * What does not depend on memory, of ZIPF, HOT, MOVING and FLOOD: the first `count` pages that a
 * run touches if its threads take turns, touch by touch. Nothing is touched. 0 or -ENOMEM.
 */
int workload_trace(const struct workload_run *run, uint32_t *pages, size_t count);
/* The page that is touched most often in the long run (rank 0), or next to that; false where none
 * stays popular. */
bool workload_popular(const struct workload_run *run, uint64_t rank, uint64_t *page);

#endif
