/*
 * What is measured: the options of the command line, and the cells that follow from them.
 *
 * A cell is a workload at a number of threads and a memory share. Cells that can be done one after
 * another in one process, because they want the same share and the same content, are a group; each
 * group begins with the fill that the others need, and each round starts each kind's process of
 * each group afresh. A fill at another number of threads is a group of its own.
 *
 * The plan "star" takes all workloads at all shares with the base number of threads (2, or the
 * first asked for), and those that sweep also at the other numbers of threads with the base share
 * (25 %, or the first), and compressible content at the base share only; the plan "cross" takes all
 * there is. Of that, managed memory and swap do everything. The others are at the side: sigbus at
 * fewer shares, zram and mapped files at fewer shares and threads.
 */
#ifndef VMSM_BENCH_PLAN_H
#define VMSM_BENCH_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory.h"
#include "vmsm.h"
#include "workload.h"

enum { STATUS_OK = 0, STATUS_WRONG = 1, STATUS_USAGE = 2, STATUS_FAILED = 3 };

#define LIST_MAX 32
#define ROUNDS_MAX 64
#define SETTINGS_MAX 1024
#define DIR_MAX 200
#define SHARE_FITS 110 /* percent from which on all of a region fits, tables and buffers too */
#define PLAN_COUNTED_MOST 20 /* times as long as others, at most, a cell of counted touches takes */
#define CORRUPT_NONE UINT64_MAX

struct unsigned_list {
    unsigned values[LIST_MAX];
    size_t count;
};

struct options {
    uint64_t region; /* bytes */
    struct unsigned_list threads, shares;
    struct unsigned_list side_threads, side_shares;
    unsigned base_threads, base_share; /* of the plan */
    const struct workload *workloads[LIST_MAX];
    size_t workload_count;
    bool kinds[MEMORY_KINDS];
    uint64_t rounds;
    double seconds, warm_up, settle; /* of a cell; warm_up: at most */
    double disk_seconds;             /* of each measurement by fio; 0: none */
    uint64_t seed;
    uint64_t corrupt_page; /* for a test of the verification, or CORRUPT_NONE */
    bool full, cross, targets;
    char settings[SETTINGS_MAX]; /* ",name:value…" */
    const char *dir, *json, *markdown, *plots;
};

/* Exits after a message if something is wrong, and after --help. */
void options_parse(struct options *options, int argc, char **argv);

struct cell {
    const struct workload *workload;
    unsigned threads, share;
    size_t group;
};

struct group {
    unsigned share, threads; /* threads of its fill */
    bool compressible;
};

struct plan {
    struct cell *cells; /* those of a group need not be neighbours; a group's fill comes first */
    size_t cell_count;
    struct group *groups;
    size_t group_count;
};

/* 0, or a negative errno after a message: no memory, or nothing to do. */
int plan_make(struct plan *plan, const struct options *options);
void plan_free(struct plan *plan);

bool plan_kind_does(const struct options *options, enum memory_kind kind, const struct cell *cell);
/* Does the kind do any cell of the group? */
bool plan_kind_has(const struct plan *plan, const struct options *options, enum memory_kind kind,
                   size_t group);
/* Touches before a cell that do not count: the same for every kind. */
uint64_t plan_warm_up(const struct options *options, const struct workload *workload,
                      unsigned share);
/* Touches of a cell that has so many, the same for every kind; 0: it ends after some time. */
uint64_t plan_touches(const struct options *options, const struct workload *workload,
                      unsigned share);
/* For which a cell goes on, at most if its touches are counted. */
double plan_seconds(const struct options *options, const struct workload *workload, unsigned share);
/* Bytes of the budget that a share is. */
uint64_t plan_budget(const struct options *options, unsigned share);
/* A guess, in seconds, with these kinds. */
double plan_duration(const struct plan *plan, const struct options *options,
                     const enum memory_kind *kinds, unsigned kind_count);

#endif
