/*
 * The command sim: its settings, and what a run of it came to.
 */
#ifndef VMSM_CLI_SIM_H
#define VMSM_CLI_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/command.h"
#include "internal.h"

struct sim_settings {
    uint64_t virtual_bytes;
    uint64_t accesses; /* in all; 0: as long as time_ns */
    uint64_t time_ns;  /* 0: as long as accesses */
    uint64_t run_max;
    uint64_t seed;
    bool seed_given;
    bool quiet, show;
    unsigned threads, write_percent;
    const char *json; /* NULL: none */
    struct tunables tunables;
};

/* The three figures of memory, and what they are judged by. */
struct sim_memory {
    uint64_t peak;           /* most resident memory that the process ever had */
    uint64_t allowance;      /* what it may have had */
    uint64_t oracle;         /* of the allowance, the oracle's */
    uint64_t touched, slots; /* the most seen of each, for the allowance */
};

struct sim_result {
    const struct sim_settings *settings;
    struct tunables tunables; /* in force */
    char store[300];
    enum status status;

    uint64_t accesses, writes, failed, torn;
    uint64_t swept, sweep_failed; /* pages checked, and not to be had */
    uint64_t sweep_pages;         /* to check; more than swept + sweep_failed: it ended early */
    uint64_t sampled;             /* of them, samples of chunks that were never accessed */
    uint64_t wrong_accesses, wrong_pages;
    uint64_t run_ns, sweep_ns;
    bool interrupted;   /* the run, by a signal */
    bool gave_up;       /* the run, after too many failures */
    bool sweep_gave_up; /* likewise the sweep; if it only ended early, a signal ended it */
    bool balanced;
    char books[512]; /* why not balanced */

    struct vmsm_counters run;                  /* when the run ended, before the sweep */
    struct vmsm_counters last;                 /* after the sweep */
    struct counters detail;                    /* histograms and batches of the run */
    struct sync_lock_stats locks[SYNC_SHARDS]; /* of the run */
    struct sim_memory memory;
};

struct sim_lock_totals {
    uint64_t acquired, contended, waited_ns;
};

struct sim_lock_totals sim_locks(const struct sim_result *result, enum sync_class class);
/* The outcome in one sentence. Returns buffer. */
const char *sim_outcome(const struct sim_result *result, char *buffer, size_t size);
bool sim_memory_within(const struct sim_result *result);

#endif
