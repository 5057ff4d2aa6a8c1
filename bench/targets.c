#include "targets.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "report.h"

#define EQUAL_WITHIN 0.02

const struct target target_table[] = {
    {"fill", 2, 25, SWAP, TARGET_RATIO, 6},       {"scan", 2, 25, SWAP, TARGET_RATIO, 4},
    {"scanback", 2, 25, SWAP, TARGET_RATIO, 4},   {"run32", 2, 25, SWAP, TARGET_RATIO, 4},
    {"run32w10", 2, 25, SWAP, TARGET_RATIO, 3.5}, {"run32w50", 2, 25, SWAP, TARGET_RATIO, 3},
    {"rand", 1, 25, SWAP, TARGET_RATIO, 0.95},    {"rand", 2, 25, SWAP, TARGET_RATIO, 1.2},
    {"rand", 8, 25, SWAP, TARGET_RATIO, 2},       {"rand", 16, 25, SWAP, TARGET_RATIO, 2.5},
    {"rmw", 1, 25, SWAP, TARGET_RATIO, 0.95},     {"rmw", 2, 25, SWAP, TARGET_RATIO, 1.2},
    {"rmw", 8, 25, SWAP, TARGET_RATIO, 2},        {"rmw", 16, 25, SWAP, TARGET_RATIO, 2.5},
    {"zipf0.9", 2, 25, SWAP, TARGET_RATIO, 1.5},  {"zipf1.2", 2, 25, SWAP, TARGET_RATIO, 1.5},
    {"hot", 2, 25, SWAP, TARGET_RATIO, 1.5},      {"moving", 2, 25, SWAP, TARGET_RATIO, 1.5},
    {"flood", 2, 25, SWAP, TARGET_RATIO, 1.5},    {NULL, 0, 0, SWAP, TARGET_RATIO, 0.9},
    {"hits", 2, 150, SWAP, TARGET_EQUAL, 1},      {"fill", 2, 150, SWAP, TARGET_RATIO, 3},
    {"fill", 2, 25, MAPPED, TARGET_RATIO, 0.5},   {"scan", 2, 25, MAPPED, TARGET_RATIO, 0.5},
    {NULL, 0, 0, MAPPED, TARGET_RATIO, 1},        {"prefault", 1, 25, MANAGED, TARGET_DISK, 0.8},
    {"scan", 2, 25, MANAGED, TARGET_DISK, 0.6},   {NULL, 0, 0, SWAP, TARGET_CPU, 1},
    {NULL, 0, 0, SWAP, TARGET_TAIL, 1},           {"rand", 16, 25, MANAGED, TARGET_SCALING, 1},
    {"rmw", 16, 25, MANAGED, TARGET_SCALING, 1},  {NULL, 0, 0, MANAGED, TARGET_TABLES, 0.02},
    {NULL, 0, 0, MANAGED, TARGET_PAGES, 0.007},
};

const size_t target_count = sizeof(target_table) / sizeof(target_table[0]);

static bool same_workload(const char *one, const char *other)
{
    return one == NULL || other == NULL ? one == other : strcmp(one, other) == 0;
}

double target_bound(const char *workload, unsigned threads, unsigned share, enum memory_kind peer,
                    enum target_metric metric)
{
    for (size_t i = 0; i < target_count; i++) {
        const struct target *t = &target_table[i];

        if (same_workload(t->workload, workload) && t->threads == threads && t->share == share &&
            t->peer == peer && t->metric == metric)
            return t->bound;
    }
    return NAN;
}

/* Does the cell count for the target? Of the mapped file, only those with random access. */
static bool target_covers(const struct target *t, const struct cell *c)
{
    if (t->workload != NULL)
        return c->workload == workload_find(t->workload) && c->threads == t->threads &&
               c->share == t->share;
    return t->peer != MAPPED || c->workload->random;
}

static double cell_with_two(const struct results *r, const struct cell *c)
{
    for (size_t i = 0; i < r->plan->cell_count; i++) {
        const struct cell *other = &r->plan->cells[i];

        if (other->workload == c->workload && other->share == c->share && other->threads == 2)
            return results_rate(r, MANAGED, i).median;
    }
    return NAN;
}

static double figure_of(const struct results *r, const struct target *t, size_t cell)
{
    switch (t->metric) {
    case TARGET_RATIO:
    case TARGET_EQUAL:
        return results_ratio(r, MANAGED, t->peer, cell).median;
    case TARGET_DISK:
        return results_disk_part(r, MANAGED, cell);
    case TARGET_CPU:
        return results_cost(r, MANAGED, cell).cpu_moved / results_cost(r, t->peer, cell).cpu_moved;
    case TARGET_TAIL:
        return results_cost(r, MANAGED, cell).p999 / results_cost(r, t->peer, cell).p999;
    case TARGET_TABLES:
        return results_tables(r, MANAGED, cell);
    case TARGET_PAGES:
        return results_page_tables(r, MANAGED, cell);
    case TARGET_SCALING:
        return results_rate(r, MANAGED, cell).median / cell_with_two(r, &r->plan->cells[cell]);
    }
    return NAN;
}

static bool at_most(const struct target *t)
{
    return t->metric == TARGET_CPU || t->metric == TARGET_TAIL || t->metric == TARGET_TABLES ||
           t->metric == TARGET_PAGES;
}

/* How far on the good side of the bound. */
static double margin_of(const struct target *t, double figure)
{
    if (t->metric == TARGET_EQUAL)
        return EQUAL_WITHIN - fabs(figure - t->bound);
    return at_most(t) ? t->bound - figure : figure - t->bound;
}

void target_judge(const struct results *r, const struct target *t, struct target_result *out)
{
    double worst = INFINITY;

    *out = (struct target_result){.target = t, .state = TARGET_NOT_MEASURED, .figure = NAN};
    for (size_t i = 0; i < r->plan->cell_count; i++) {
        double figure, margin;

        if (!target_covers(t, &r->plan->cells[i]))
            continue;
        figure = figure_of(r, t, i);
        if (isnan(figure))
            continue;
        margin = margin_of(t, figure);
        out->measured++;
        out->reached += margin >= 0;
        if (margin < worst) {
            worst = margin;
            out->figure = figure;
            out->cell = i;
        }
    }
    if (out->measured > 0)
        out->state = out->reached == out->measured ? TARGET_REACHED : TARGET_MISSED;
}

const char *target_describe(const struct target *t, char *text, size_t size)
{
    static const char *const words[] = {[TARGET_RATIO] = "ratio to",
                                        [TARGET_EQUAL] = "within 2 % of",
                                        [TARGET_DISK] = "part of the disk",
                                        [TARGET_CPU] = "CPU a page moved to that of",
                                        [TARGET_TAIL] = "p99.9 to that of",
                                        [TARGET_SCALING] = "ratio to 2 threads",
                                        [TARGET_TABLES] = "tables of memory to the budget",
                                        [TARGET_PAGES] = "tables of pages to the pages"};
    char where[48];

    if (t->workload != NULL)
        snprintf(where, sizeof(where), "%s, %u thread%s, %u %%", t->workload, t->threads,
                 t->threads == 1 ? "" : "s", t->share);
    else
        snprintf(where, sizeof(where), t->peer == MAPPED ? "every random cell" : "every cell");
    snprintf(text, size, "%s: %s%s%s", where, words[t->metric], t->peer != MANAGED ? " " : "",
             t->peer != MANAGED ? memory_kind_names[t->peer] : "");
    if (t->metric != TARGET_EQUAL) {
        size_t used = strnlen(text, size);

        snprintf(text + used, size - used, ", at %s %g", at_most(t) ? "most" : "least", t->bound);
    }
    return text;
}
