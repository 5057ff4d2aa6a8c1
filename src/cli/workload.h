/*
 * The user threads of sim: each picks a random page and a run length, and
 * accesses the pages of the run one after another, upwards; then, when all
 * have ended, they sweep every page of the region together. Of a region too large for that they
 * sweep the chunks in which a page was accessed, and samples of the others.
 *
 * What a thread does is drawn from the seed and its number alone, never from
 * what it finds: the same seed gives the same accesses again.
 */
#ifndef VMSM_CLI_WORKLOAD_H
#define VMSM_CLI_WORKLOAD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cli/access.h"
#include "cli/oracle.h"

struct workload;

/* Alone on its cache lines: its thread counts in it at every access. */
struct worker {
    _Alignas(128) struct workload *load;
    pthread_t thread;
    unsigned number;
    uint64_t random; /* state of the generator */
    uint64_t quota;  /* accesses to make */
    _Atomic uint64_t accesses, writes, failed, swept;
};

/* Filled in by the caller up to `workers`. */
struct workload {
    struct access access;
    struct oracle *oracle;
    uint64_t pages, run_max, seed;
    uint64_t accesses; /* in all; 0: until stopped */
    unsigned threads, write_percent;

    struct worker *workers;
    unsigned started;
    _Atomic bool stop;
    _Atomic unsigned running;
    _Atomic uint64_t cursor; /* next page of the sweep */
    _Atomic uint64_t torn;   /* writes that failed half-way */
    _Atomic uint64_t sweep_failed;
    _Atomic bool gave_up;  /* the phase ended early: too many pages could not be had */
    uint64_t failures_max; /* failed accesses that end a run; 0: none do */
    uint64_t sample_every; /* of the chunks never accessed one in so many; 1: all, wholly */
    uint64_t sweep_pages;  /* that the sweep means to check */
    uint64_t sampled;      /* of those, samples */
    pthread_t waiter;      /* gets SIGUSR1 when the last thread has ended */
};

struct workload_totals {
    uint64_t accesses, writes, failed, swept;
};

enum workload_phase { WORKLOAD_RUN, WORKLOAD_SWEEP };

/*
 * Start all threads on a phase. The caller has SIGUSR1 blocked, and receives
 * it when the last has ended. 0 or a negative errno with words in error_last();
 * then no thread is left running.
 */
int workload_start(struct workload *w, enum workload_phase phase);
/* Decide what a sweep checks, after the run: sample_every, sweep_pages, sampled. */
void workload_plan_sweep(struct workload *w);
/* Tell the threads of a phase to end soon. */
void workload_stop(struct workload *w);
bool workload_running(const struct workload *w);
/* Wait for all threads of the phase. */
void workload_join(struct workload *w);
struct workload_totals workload_totals(const struct workload *w);
void workload_free(struct workload *w);

#endif
