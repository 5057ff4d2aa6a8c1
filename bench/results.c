#include "results.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int results_open(struct results *r, const struct options *o, const struct plan *plan)
{
    memset(r, 0, sizeof(*r));
    r->options = o;
    r->plan = plan;
    r->samples = calloc(MEMORY_KINDS * plan->cell_count * o->rounds, sizeof(*r->samples));
    if (r->samples == NULL) {
        fprintf(stderr, "bench: no memory for the results\n");
        return -ENOMEM;
    }
    return 0;
}

void results_close(struct results *r)
{
    for (unsigned k = 0; k < MEMORY_KINDS; k++) {
        free(r->missing[k]);
        free(r->notes[k]);
    }
    free(r->samples);
    memset(r, 0, sizeof(*r));
}

struct sample *results_sample(const struct results *r, enum memory_kind kind, size_t cell,
                              uint64_t round)
{
    return &r->samples[(kind * r->plan->cell_count + cell) * r->options->rounds + round];
}

static int double_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Sorts values. */
static struct summary summary_make(double *values, size_t count)
{
    struct summary s = {.count = count, .median = NAN, .least = NAN, .most = NAN};

    if (count == 0)
        return s;
    qsort(values, count, sizeof(values[0]), double_compare);
    s.median = (values[(count - 1) / 2] + values[count / 2]) / 2;
    s.least = values[0];
    s.most = values[count - 1];
    return s;
}

static double sample_rate(const struct sample *s)
{
    return (double)s->answer.result.touches / s->answer.result.seconds;
}

struct summary results_rate(const struct results *r, enum memory_kind kind, size_t cell)
{
    double values[ROUNDS_MAX];
    size_t count = 0;

    for (uint64_t i = 0; i < r->options->rounds; i++) {
        const struct sample *s = results_sample(r, kind, cell, i);

        if (s->done)
            values[count++] = sample_rate(s);
    }
    return summary_make(values, count);
}

size_t results_cut(const struct results *r, enum memory_kind kind, size_t cell)
{
    size_t count = 0;

    for (uint64_t i = 0; i < r->options->rounds; i++) {
        const struct sample *s = results_sample(r, kind, cell, i);

        count += s->done && s->answer.cut;
    }
    return count;
}

struct summary results_ratio(const struct results *r, enum memory_kind kind, enum memory_kind other,
                             size_t cell)
{
    double values[ROUNDS_MAX];
    size_t count = 0;

    for (uint64_t i = 0; i < r->options->rounds; i++) {
        const struct sample *ours = results_sample(r, kind, cell, i);
        const struct sample *theirs = results_sample(r, other, cell, i);

        if (ours->done && theirs->done && theirs->answer.result.touches > 0)
            values[count++] = sample_rate(ours) / sample_rate(theirs);
    }
    return summary_make(values, count);
}

/* NAN if it was not counted. */
static double counted(uint64_t value)
{
    return value == USAGE_NONE ? NAN : (double)value;
}

static struct cost sample_cost(const struct answer *a)
{
    const struct usage *u = &a->usage;
    double touches = (double)a->result.touches;
    double moved = counted(u->pages_in) + counted(u->pages_out);
    double ios = counted(u->reads) + counted(u->writes);
    double faults = counted(u->faults);

    return (struct cost){
        .cpu_touch = counted(u->cpu_ns) / 1e9 / touches,
        .cpu_moved = moved > 0 ? counted(u->cpu_ns) / 1e9 / moved : NAN,
        .faults = faults / touches,
        .hard = counted(u->faults_hard) / touches,
        .syscalls = counted(u->syscalls) / touches,
        .flushes = counted(u->tlb_flushes) / touches,
        .copied = counted(u->bytes_copied) / touches,
        .ios = ios / touches,
        .io_bytes = ios > 0 ? (counted(u->read_bytes) + counted(u->write_bytes)) / ios : NAN,
        .hits = faults < touches    ? 1 - faults / touches
                : faults >= touches ? 0
                                    : NAN,
        .p50 = a->result.p50,
        .p99 = a->result.p99,
        .p999 = a->result.p999,
        .pages_in = counted(u->pages_in) / a->result.seconds,
        .pages_out = counted(u->pages_out) / a->result.seconds,
    };
}

struct cost results_cost(const struct results *r, enum memory_kind kind, size_t cell)
{
    enum { FIELDS = sizeof(struct cost) / sizeof(double) };
    double values[FIELDS][ROUNDS_MAX];
    size_t counts[FIELDS] = {0};
    double fields[FIELDS];
    struct cost out;

    for (uint64_t i = 0; i < r->options->rounds; i++) {
        const struct sample *s = results_sample(r, kind, cell, i);
        struct cost one;

        if (!s->done || s->answer.result.touches == 0)
            continue;
        one = sample_cost(&s->answer);
        memcpy(fields, &one, sizeof(fields));
        for (size_t f = 0; f < FIELDS; f++)
            if (!isnan(fields[f]))
                values[f][counts[f]++] = fields[f];
    }
    for (size_t f = 0; f < FIELDS; f++)
        fields[f] = summary_make(values[f], counts[f]).median;
    memcpy(&out, fields, sizeof(out));
    return out;
}

struct summary disk_summary(const struct disk_series *series)
{
    double values[ROUNDS_MAX];

    memcpy(values, series->samples, series->count * sizeof(values[0]));
    return summary_make(values, series->count);
}

double results_disk(const struct results *r, bool write, bool random, unsigned depth)
{
    for (size_t i = 0; i < r->disk_count; i++) {
        const struct disk_figure *f = &r->disks[i].figure;

        if (f->write == write && f->random == random && (!random || f->depth == depth))
            return disk_summary(&r->disks[i]).median;
    }
    return NAN;
}

/* Does the workload read single pages at random, or read or write all one after another? */
static bool disk_fits(const struct workload *w)
{
    switch (w->pattern) {
    case RUNS:
        return w->run_max == 1 && !w->fits;
    case SCAN:
        return (w->step == 1 || w->step == -1) && w->write_percent == 0;
    case FILL:
    case ZIPF:
    case HOT:
    case CHASE:
    case PREFAULT:
        return true;
    default:
        return false;
    }
}

double results_disk_part(const struct results *r, enum memory_kind kind, size_t cell)
{
    const struct cell *c = &r->plan->cells[cell];
    const struct workload *w = c->workload;
    double rate = results_rate(r, kind, cell).median, pages;
    unsigned depth = w->pattern == PREFAULT ? DISK_DEEP : c->threads;
    bool write = w->pattern == FILL;
    struct cost cost = results_cost(r, kind, cell);

    pages = write ? cost.pages_out : cost.pages_in;
    if (kind == ZRAM || isnan(pages) || !disk_fits(w) || (write && c->share >= SHARE_FITS))
        return NAN;
    return (pages < rate ? pages : rate) * VMSM_PAGE_SIZE /
           results_disk(r, write, w->random, depth);
}

/* Tables are never given back, so the most is the last. */
static struct vmsm_counters counters_last(const struct results *r, enum memory_kind kind,
                                          size_t cell)
{
    struct vmsm_counters last = {0};

    for (uint64_t i = 0; i < r->options->rounds; i++) {
        const struct sample *s = results_sample(r, kind, cell, i);

        if (s->done && s->answer.counters.metadata_bytes >= last.metadata_bytes)
            last = s->answer.counters;
    }
    return last;
}

double results_tables(const struct results *r, enum memory_kind kind, size_t cell)
{
    struct vmsm_counters c = counters_last(r, kind, cell);

    return c.metadata_bytes == 0 ? NAN
                                 : (double)(c.metadata_bytes - c.metadata_page_bytes) /
                                       (double)plan_budget(r->options, r->plan->cells[cell].share);
}

double results_page_tables(const struct results *r, enum memory_kind kind, size_t cell)
{
    struct vmsm_counters c = counters_last(r, kind, cell);

    return c.metadata_bytes == 0 ? NAN : (double)c.metadata_page_bytes / (double)r->options->region;
}
