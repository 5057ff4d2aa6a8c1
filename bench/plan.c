#include "plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Guesses for plan_duration(). */
#define FILL_SECONDS_A_PAGE 20e-6
#define GROUP_SECONDS 1.5 /* start, swap on and off, end */

bool plan_kind_does(enum memory_kind kind, const struct cell *cell)
{
    return kind == MANAGED || !cell->workload->managed_only;
}

uint64_t plan_budget(const struct options *o, unsigned share)
{
    return o->region / VMSM_PAGE_SIZE * share / 100 * VMSM_PAGE_SIZE;
}

static size_t group_find(struct plan *p, const struct group *wanted)
{
    size_t i;

    for (i = 0; i < p->group_count; i++) {
        const struct group *g = &p->groups[i];

        if (g->share == wanted->share && g->threads == wanted->threads &&
            g->compressible == wanted->compressible)
            return i;
    }
    p->groups[p->group_count++] = *wanted;
    return i;
}

static bool cell_belongs(const struct options *o, const struct workload *w, unsigned threads,
                         unsigned share)
{
    if ((share >= SHARE_FITS) != w->fits && (w->pattern != FILL || w->compressible))
        return false;
    if (w->threads != 0)
        return threads == o->base_threads;
    return o->cross || threads == o->base_threads || (w->sweeps && share == o->base_share);
}

static void cell_add(struct plan *p, const struct options *o, const struct workload *w,
                     unsigned threads, unsigned share)
{
    struct group group = {.share = share,
                          .threads = w->pattern == FILL ? threads : o->base_threads,
                          .compressible = w->compressible};
    struct cell *cell = &p->cells[p->cell_count++];

    *cell = (struct cell){
        .workload = w, .threads = w->threads != 0 ? w->threads : threads, .share = share};
    cell->group = group_find(p, &group);
}

int plan_make(struct plan *p, const struct options *o)
{
    size_t most = o->workload_count * o->threads.count * o->shares.count;

    memset(p, 0, sizeof(*p));
    p->cells = calloc(most, sizeof(*p->cells));
    p->groups = calloc(most, sizeof(*p->groups));
    if (p->cells == NULL || p->groups == NULL) {
        fprintf(stderr, "bench: no memory for %zu cells\n", most);
        plan_free(p);
        return -ENOMEM;
    }
    for (size_t s = 0; s < o->shares.count; s++)
        for (size_t t = 0; t < o->threads.count; t++)
            for (size_t w = 0; w < o->workload_count; w++)
                if (cell_belongs(o, o->workloads[w], o->threads.values[t], o->shares.values[s]))
                    cell_add(p, o, o->workloads[w], o->threads.values[t], o->shares.values[s]);
    if (p->cell_count > 0)
        return 0;
    fprintf(stderr,
            "bench: nothing to measure: with --memory-share of %d or more there are the cells "
            "fill and hits, below that all but hits\n",
            SHARE_FITS);
    plan_free(p);
    return -EINVAL;
}

void plan_free(struct plan *p)
{
    free(p->cells);
    free(p->groups);
    memset(p, 0, sizeof(*p));
}

double plan_duration(const struct plan *p, const struct options *o)
{
    double cells = 0, groups = 0, kinds = 0;
    double fill = (double)(o->region / VMSM_PAGE_SIZE) * FILL_SECONDS_A_PAGE + GROUP_SECONDS;

    for (unsigned k = 0; k < MEMORY_KINDS; k++) {
        if (!o->kinds[k])
            continue;
        kinds++;
        for (size_t i = 0; i < p->cell_count; i++)
            if (p->cells[i].workload->pattern != FILL && plan_kind_does(k, &p->cells[i]))
                cells++;
    }
    groups = kinds * (double)p->group_count;
    return (double)o->rounds * (groups * fill + cells * (o->seconds + o->warm_up + o->settle) +
                                o->disk_seconds * (double)(o->threads.count + 2));
}
