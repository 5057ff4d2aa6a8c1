/*
 * What becomes of the results: tables, JSON, plots, the aims.
 */
#ifndef VMSM_BENCH_REPORT_H
#define VMSM_BENCH_REPORT_H

#include "results.h"

/* Whether files can be written where the options say; 0 or a negative errno after a message. */
int report_prepare(const struct options *options);

/* All that the options ask for; 0 or a negative errno after a message. */
int report_all(const struct results *results);

void report_text(const struct results *results);
int report_json(const struct results *results, const char *path);
int report_markdown(const struct results *results, const char *path);
int report_plots(const struct results *results, const char *dir);
int report_directory(const char *dir);

/* An aim: a figure of managed memory, and what it shall be. */
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

enum target_state { TARGET_REACHED, TARGET_MISSED, TARGET_NOT_MEASURED };

struct target_result {
    const struct target *target;
    enum target_state state;
    double figure;            /* of the cell that is furthest from the bound */
    size_t cell;              /* that one */
    size_t measured, reached; /* cells */
};

extern const struct target target_table[];
extern const size_t target_count;

void target_judge(const struct results *results, const struct target *target,
                  struct target_result *out);
/* In words, e.g. "rand, 8 threads, 25 %: ratio to swap, at least 2". */
const char *target_describe(const struct target *target, char *text, size_t size);

#endif
