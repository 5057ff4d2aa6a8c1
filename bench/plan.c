#include "plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Guesses for plan_duration(): what a group and a cell take beside the time that is measured. */
static const struct {
    double group, page, touch; /* seconds: to start and end; to fill a page that does not fit; */
                               /* of a touch while warming up */
} guesses[MEMORY_KINDS] = {[MANAGED] = {0.4, 4e-6, 8e-6},
                           [MANAGED_SIGBUS] = {0.4, 4e-6, 8e-6},
                           [SWAP] = {0.6, 9e-6, 7e-6},
                           [ZRAM] = {0.6, 9e-6, 4e-6},
                           [MAPPED] = {0.6, 6e-6, 1e-3}};
#define CELL_SECONDS 0.1 /* the sync, and a process that hears of it */
#define FIO_SECONDS 0.5  /* to start */
#define DISK_BYTES 0.8e9 /* a second, to make fio's file */
#define FIT_SECONDS 3e-6 /* to fill a page that fits */
#define FIT_TOUCH_SECONDS 3e-7

static bool list_has(const struct unsigned_list *list, unsigned value)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->values[i] == value)
            return true;
    return false;
}

bool plan_kind_does(const struct options *o, enum memory_kind kind, const struct cell *cell)
{
    if (cell->workload->managed_only && !memory_kind_managed(kind))
        return false;
    if (kind == MANAGED || kind == SWAP)
        return true;
    return list_has(&o->side_shares, cell->share) &&
           (kind == MANAGED_SIGBUS || list_has(&o->side_threads, cell->threads));
}

bool plan_kind_has(const struct plan *p, const struct options *o, enum memory_kind kind,
                   size_t group)
{
    for (size_t i = 0; i < p->cell_count; i++)
        if (p->cells[i].group == group && plan_kind_does(o, kind, &p->cells[i]))
            return true;
    return false;
}

uint64_t plan_warm_up(const struct options *o, const struct workload *w, unsigned share)
{
    uint64_t pages = o->region / VMSM_PAGE_SIZE, memory = pages * share / 100;

    return o->warm_up > 0 ? (uint64_t)(w->warm * (double)(memory < pages ? memory : pages)) : 0;
}

uint64_t plan_budget(const struct options *o, unsigned share)
{
    return o->region / VMSM_PAGE_SIZE * share / 100 * VMSM_PAGE_SIZE;
}

uint64_t plan_touches(const struct options *o, const struct workload *w, unsigned share)
{
    return workload_phases(w, o->region / VMSM_PAGE_SIZE, plan_budget(o, share) / VMSM_PAGE_SIZE);
}

double plan_seconds(const struct options *o, const struct workload *w, unsigned share)
{
    return o->seconds * (plan_touches(o, w, share) > 0 ? PLAN_COUNTED_MOST : 1);
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
    if (w->compressible && !o->cross && share != o->base_share)
        return false;
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
        for (size_t w = 0; w < o->workload_count; w++)
            for (size_t t = 0; t < o->threads.count; t++)
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

static double warm_up_duration(const struct options *o, enum memory_kind kind,
                               const struct cell *cell)
{
    double seconds = (double)plan_warm_up(o, cell->workload, cell->share) *
                     (cell->workload->fits ? FIT_TOUCH_SECONDS : guesses[kind].touch);

    return seconds < o->warm_up ? seconds : o->warm_up;
}

static double cell_duration(const struct options *o, enum memory_kind kind, const struct cell *cell)
{
    double most = plan_seconds(o, cell->workload, cell->share);
    uint64_t touches = plan_touches(o, cell->workload, cell->share);
    double seconds = touches > 0 ? (double)touches * guesses[kind].touch : most;

    return (seconds < most ? seconds : most) + warm_up_duration(o, kind, cell) + o->settle +
           CELL_SECONDS;
}

/* Of one kind, one round. */
static double kind_duration(const struct plan *p, const struct options *o, enum memory_kind kind)
{
    double pages = (double)(o->region / VMSM_PAGE_SIZE), seconds = 0;

    for (size_t g = 0; g < p->group_count; g++)
        if (plan_kind_has(p, o, kind, g))
            seconds +=
                guesses[kind].group + o->settle + CELL_SECONDS +
                pages * (p->groups[g].share >= SHARE_FITS ? FIT_SECONDS : guesses[kind].page);
    for (size_t i = 0; i < p->cell_count; i++)
        if (p->cells[i].workload->pattern != FILL && plan_kind_does(o, kind, &p->cells[i]))
            seconds += cell_duration(o, kind, &p->cells[i]);
    return seconds;
}

double plan_duration(const struct plan *p, const struct options *o, const enum memory_kind *kinds,
                     unsigned kind_count)
{
    double round = 0, begin = 0;

    for (unsigned k = 0; k < kind_count; k++)
        round += kind_duration(p, o, kinds[k]);
    if (o->disk_seconds > 0) {
        /* Reads of one page by so many threads, and by 32; reads and writes one after another. */
        round += (o->disk_seconds + FIO_SECONDS) * (double)(o->threads.count + 3);
        begin = (double)o->region / DISK_BYTES;
    }
    return begin + (double)o->rounds * round;
}
