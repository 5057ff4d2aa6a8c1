/*
 * The aims: figures of managed memory, and what they shall be. bench says which are reached, bound
 * which can be.
 */
#ifndef VMSM_BENCH_TARGETS_H
#define VMSM_BENCH_TARGETS_H

#include <stddef.h>

#include "memory.h"

enum target_metric {
    TARGET_RATIO,   /* touches a second to those of the peer, at least */
    TARGET_EQUAL,   /* the same, within 2 % */
    TARGET_DISK,    /* part of what fio does, at least */
    TARGET_CPU,     /* processor seconds a page moved to the peer's, at most */
    TARGET_TAIL,    /* p99.9 of a touch to the peer's, at most */
    TARGET_SCALING, /* touches a second to those with 2 threads, at least */
    TARGET_TABLES,  /* tables of the memory to the budget, at most */
    TARGET_PAGES,   /* tables of the pages to the region, at most */
};

struct target {
    const char *workload; /* NULL: every cell */
    unsigned threads;     /* 0: the base */
    unsigned share;       /* percent; 0: every share, or the base if there is a workload */
    enum memory_kind peer;
    enum target_metric metric;
    double bound;
};

extern const struct target target_table[];
extern const size_t target_count;

/* The bound of the row with just these; NAN: there is none. */
double target_bound(const char *workload, unsigned threads, unsigned share, enum memory_kind peer,
                    enum target_metric metric);

#endif
