/*
 * What was measured: a sample for every kind, cell and round that was done, and the summaries over
 * rounds. Filled by the runner (bench.c), read by the reports.
 */
#ifndef VMSM_BENCH_RESULTS_H
#define VMSM_BENCH_RESULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "child.h"
#include "disk.h"
#include "plan.h"

#define DISKS_MAX (LIST_MAX + 3)
#define DISK_DEEP 32 /* requests in flight */
#define DISK_BLOCK 1048576
#define DISK_DEPTH_SEQUENTIAL 4

struct sample {
    bool done;
    struct answer answer;
};

/* One measurement by fio, repeated each round. */
struct disk_series {
    struct disk_figure figure; /* bytes_per_second is the last one */
    double samples[ROUNDS_MAX];
    size_t count;
};

struct results {
    const struct options *options;
    const struct plan *plan;
    struct sample *samples;        /* [(kind * cells + cell) * rounds + round] */
    char *missing[MEMORY_KINDS];   /* why a kind is left out, or NULL */
    char *notes[MEMORY_KINDS];     /* how it was set up, or NULL */
    uint64_t peak[MEMORY_KINDS];   /* most bytes of memory ever */
    uint64_t killed[MEMORY_KINDS]; /* processes, for want of memory in their group */
    struct disk_series disks[DISKS_MAX];
    size_t disk_count;
    uint64_t rounds_done;
    bool interrupted;
};

/* Over rounds; NAN: nothing measured. */
struct summary {
    size_t count;
    double median, least, most;
};

/* Costs of a cell, medians over rounds; NAN: not counted for this kind. */
struct cost {
    double cpu_touch, cpu_moved;            /* seconds a touch; a page read or written */
    double faults, hard, syscalls, flushes; /* a touch */
    double copied;                          /* bytes a touch */
    double ios, io_bytes;                   /* a touch; mean size of one */
    double hits;                            /* part of the touches without a fault */
    double p50, p99, p999;                  /* seconds */
    double pages_in, pages_out;             /* a second */
};

int results_open(struct results *results, const struct options *options, const struct plan *plan);
void results_close(struct results *results);

struct sample *results_sample(const struct results *results, enum memory_kind kind, size_t cell,
                              uint64_t round);
/* Touches a second. */
struct summary results_rate(const struct results *results, enum memory_kind kind, size_t cell);
/* In how many rounds was the cell, or its warming up, ended by its limit of time? */
size_t results_cut(const struct results *results, enum memory_kind kind, size_t cell);
/* Of one kind to another, round by round. */
struct summary results_ratio(const struct results *results, enum memory_kind ours,
                             enum memory_kind theirs, size_t cell);
struct cost results_cost(const struct results *results, enum memory_kind kind, size_t cell);
struct summary disk_summary(const struct disk_series *series);
/* Bytes a second that fio moved, at random with so many requests in flight, or in sequence; NAN. */
double results_disk(const struct results *results, bool write, bool random, unsigned depth);
/* The most that managed memory's tables took in a cell: those of the memory as a part of the
 * budget, those of the pages as a part of the region, all of which has been touched. NAN. */
double results_tables(const struct results *results, enum memory_kind kind, size_t cell);
double results_page_tables(const struct results *results, enum memory_kind kind, size_t cell);
/* What a cell that waits for the disk reads, or a fill writes, as a part of what fio does (no more
 * pages than were touched are counted). NAN for others. */
double results_disk_part(const struct results *results, enum memory_kind kind, size_t cell);

#endif
