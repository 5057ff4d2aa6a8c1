/* What follows from the measurements: bound_aim.c; and how it is told: bound_report.c. */
#ifndef VMSM_BENCH_BOUND_REPORT_H
#define VMSM_BENCH_BOUND_REPORT_H

#include "bound.h"

#define BOUND_AIMS_MAX 80

/* bound and peer are in the same unit; wanted is of their quotient. */
struct aim {
    char words[64];
    double wanted; /* at least; at most if it is a cost */
    double bound, peer;
    bool cost;
};

size_t bound_aims(const struct bound *b, struct aim *aims);
const char *bound_verdict(const struct aim *aim);

double bound_median(const struct bound *b, enum bound_figure figure);
/* Of the three pagers with so many threads, the quickest. */
const struct bound_speed *bound_pager_best(const struct bound *b, unsigned crowd);
/* Of those that do not know how long the cell's runs are, the one with the quickest windows. */
const struct bound_speed *bound_guesser_best(const struct bound *b, enum bound_cell cell);
/* Part of the pages that are in memory. */
double bound_resident(const struct bound *b);
/* What bench aims at, at the share that its aims are for. */
double bound_ratio_wanted(const char *workload, unsigned threads);

void bound_print(const struct bound *b);
/* 0 or a negative errno after a message. */
int bound_write(const struct bound *b);

#endif
