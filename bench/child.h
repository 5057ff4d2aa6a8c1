/*
 * The process in which one kind of memory is used, and the parent's hold on it.
 *
 *   parent ──fork──▶ child: enters its control group, opens its memory
 *          ──command──▶        does a cell          ──answer──▶
 *          ──command without a workload──▶  closes, checks the books  ──answer──▶ ends
 *
 * Commands and answers are the structures below, through pipes: both sides are the same program.
 * The child dies with the parent, and leaves signals from the terminal to it.
 */
#ifndef VMSM_BENCH_CHILD_H
#define VMSM_BENCH_CHILD_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "memory.h"
#include "peer.h"
#include "plan.h"
#include "usage.h"
#include "vmsm.h"
#include "workload.h"

struct child_setup {
    const struct options *options;
    enum memory_kind kind;
    unsigned share;
    const char *file; /* pagefile or mapped file */
    struct peer *peer;
    bool explain; /* say what cannot be counted */
    const volatile sig_atomic_t *interrupted;
};

struct child {
    const struct child_setup *setup;
    pid_t pid;   /* 0: none */
    bool ended;  /* it has closed its side: no need to kill it */
    bool killed; /* it found its end by somebody's SIGKILL: its group had no memory left */
    int commands, answers;
};

struct command {
    const struct workload *workload; /* NULL: finish */
    unsigned threads;
    double seconds;        /* at most, if there are touches */
    uint64_t touches;      /* after which it ends; 0: when the seconds are over */
    uint64_t warm_touches; /* done first, but not counted; 0: none */
    double warm_seconds;   /* for which it may go on at most */
    uint64_t seed;
};

/* What came before what is counted. */
struct warming {
    uint64_t touches;
    double seconds;
};

struct answer {
    int status; /* of the cell: 0 or a negative errno */
    struct warming warming;
    struct workload_result result;
    bool cut; /* the time was up before the cell's touches were done, or those before it */
    struct usage usage;
    struct vmsm_counters counters; /* managed; counts are differences */
    uint64_t peak;                 /* bytes most ever resident; when it finishes */
};

/* 0 or a negative errno after a message. */
int child_start(struct child *child, const struct child_setup *setup);
/* 0, or a negative errno: the child has ended, is silent, or we are interrupted. */
int child_ask(struct child *child, const struct command *command, struct answer *answer);
/* Wait for its end, kill it if it is still at work; a STATUS after a message. */
int child_end(struct child *child);

#endif
