/*
 * What repeated measurements of one thing came to, a place for each round; NAN is a round that was
 * left out.
 */
#ifndef VMSM_BENCH_SAMPLE_H
#define VMSM_BENCH_SAMPLE_H

#include <stddef.h>

#define SAMPLE_ROUNDS 64 /* most rounds */

struct sample {
    double rounds[SAMPLE_ROUNDS];
};

struct sample_summary {
    double median, least, most; /* NAN: no round counts */
    size_t count;               /* rounds that count */
};

void sample_clear(struct sample *sample);
struct sample_summary sample_summarize(const struct sample *sample);
/* Of the quotients round by round, where both have the round. */
struct sample_summary sample_ratio(const struct sample *sample, const struct sample *to);

/* "12.3 k", "4.56 M", "789 n": three digits; a dash for NAN. Returns buffer. */
const char *sample_format(double value, char *buffer, size_t size);

#endif
