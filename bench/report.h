/*
 * What becomes of the results: tables, JSON, plots, the aims.
 */
#ifndef VMSM_BENCH_REPORT_H
#define VMSM_BENCH_REPORT_H

#include "results.h"
#include "targets.h"

/* Whether files can be written where the options say; 0 or a negative errno after a message. */
int report_prepare(const struct options *options);

/* All that the options ask for; 0 or a negative errno after a message. */
int report_all(const struct results *results);

void report_text(const struct results *results);
int report_json(const struct results *results, const char *path);
int report_markdown(const struct results *results, const char *path);
int report_plots(const struct results *results, const char *dir);
int report_directory(const char *dir);

enum target_state { TARGET_REACHED, TARGET_MISSED, TARGET_NOT_MEASURED };

struct target_result {
    const struct target *target;
    enum target_state state;
    double figure;            /* of the cell that is furthest from the bound */
    size_t cell;              /* that one */
    size_t measured, reached; /* cells */
};

void target_judge(const struct results *results, const struct target *target,
                  struct target_result *out);
/* In words, e.g. "rand, 8 threads, 25 %: ratio to swap, at least 2". */
const char *target_describe(const struct target *target, char *text, size_t size);

#endif
