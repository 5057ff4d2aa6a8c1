/*
 * Medians of rounds.
 */
#include "sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void sample_clear(struct sample *sample)
{
    for (size_t i = 0; i < SAMPLE_ROUNDS; i++)
        sample->rounds[i] = NAN;
}

static int compare(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;

    return (left > right) - (left < right);
}

struct sample_summary sample_summarize(const struct sample *sample)
{
    struct sample_summary summary = {NAN, NAN, NAN, 0};
    double sorted[SAMPLE_ROUNDS];
    size_t n = 0;

    for (size_t i = 0; i < SAMPLE_ROUNDS; i++)
        if (!isnan(sample->rounds[i]))
            sorted[n++] = sample->rounds[i];
    if (n == 0)
        return summary;
    qsort(sorted, n, sizeof sorted[0], compare);
    summary.count = n;
    summary.least = sorted[0];
    summary.most = sorted[n - 1];
    summary.median = n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
    return summary;
}

struct sample_summary sample_ratio(const struct sample *sample, const struct sample *to)
{
    struct sample ratio;

    for (size_t i = 0; i < SAMPLE_ROUNDS; i++)
        ratio.rounds[i] = sample->rounds[i] / to->rounds[i];
    return sample_summarize(&ratio);
}

const char *sample_format(double value, char *buffer, size_t size)
{
    static const struct {
        double unit;
        const char *suffix;
    } units[] = {{1e9, " G"}, {1e6, " M"}, {1e3, " k"}, {1, ""}, {1e-3, " m"}, {1e-6, " u"}};
    size_t last = sizeof units / sizeof units[0], i = 0;
    double scaled;

    if (isnan(value)) {
        snprintf(buffer, size, "-");
        return buffer;
    }
    while (i < last && fabs(value) < units[i].unit * 0.9995)
        i++;
    scaled = i < last ? value / units[i].unit : value / 1e-9;
    snprintf(buffer, size, "%.*f%s",
             fabs(scaled) < 9.995   ? 2
             : fabs(scaled) < 99.95 ? 1
                                    : 0,
             scaled, i < last ? units[i].suffix : " n");
    return buffer;
}
