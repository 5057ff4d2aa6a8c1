/* What the choice of the pages to evict can bring: cells of bench, replayed without memory. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "bound.h"
#include "memory.h"
#include "plan.h"
#include "replay.h"

/* Touches for each page of memory: those that count (but of moving), and those before them, more
 * than bench's: until then pages are touched for the first time, which not even MIN can hit. */
#define COUNTED 16
#define WARM 128
#define REGION_MOST ((uint64_t)1 << 30) /* larger ones are replayed at this size */

const enum bound_cell bound_policy_cells[BOUND_POLICY_CELLS] = {CELL_zipf09, CELL_zipf12, CELL_hot,
                                                                CELL_moving, CELL_flood};

static struct workload_run run_make(const struct workload *workload, uint64_t region,
                                    unsigned share)
{
    const struct options options = {.region = region};

    return (struct workload_run){.workload = workload,
                                 .pages = region / BOUND_PAGE,
                                 .budget_pages = plan_budget(&options, share) / BOUND_PAGE,
                                 .threads = BOUND_CELL_THREADS};
}

/* ---- Time of a hit ---- */

static int hit_measure(struct bound *b, const struct memory *memory, _Atomic uint32_t *generations,
                       const char *name, struct sample *hit)
{
    struct workload_run run = run_make(workload_find(name), b->options.region, b->options.share);
    struct workload_result result;
    int error;

    run.base = memory->base;
    run.generations = generations;
    run.seconds = b->options.seconds;
    run.seed = b->round;
    error = workload_run(&run, &result);
    b->wrong = b->wrong || result.wrong > 0;
    if (hit != NULL)
        hit->rounds[b->round] = result.seconds * BOUND_CELL_THREADS / (double)result.touches;
    return error;
}

int bound_hits(struct bound *b)
{
    const struct memory_options options = {.length = b->options.region};
    _Atomic uint32_t *generations = calloc(b->options.region / BOUND_PAGE, sizeof(*generations));
    struct memory memory;
    int error = generations != NULL ? memory_open(&memory, SWAP, &options) : -ENOMEM;

    if (error == 0) {
        error = hit_measure(b, &memory, generations, "fill", NULL);
        for (unsigned i = 0; i < BOUND_POLICY_CELLS && error == 0; i++)
            error = hit_measure(b, &memory, generations, bound_cell_names[bound_policy_cells[i]],
                                &b->policies[i].hit);
        memory_close(&memory);
    }
    free(generations);
    return error;
}

/* ---- Hits ---- */

/* With the seeds of the first round of swap, whose threads do not take turns so strictly. */
static int trace_make(struct workload_run *run, uint32_t *touches, const struct replay *replay)
{
    int error;

    run->seed = ~UINT64_C(0);
    error = workload_trace(run, touches, replay->warm);
    run->seed = 0;
    run->passed = replay->warm;
    return error < 0 ? error : workload_trace(run, touches + replay->warm, replay->counted);
}

/* NAN: no page stays popular. */
static double popular_hits(const struct workload_run *run, const struct replay *replay, bool *kept)
{
    for (uint32_t rank = 0; rank < replay->frames; rank++) {
        uint64_t page;

        if (!workload_popular(run, rank, &page))
            return NAN;
        kept[page] = true;
    }
    return (double)replay_fixed(replay, kept) / (double)replay->counted;
}

static int cell_replay(const char *name, uint64_t region, unsigned share,
                       struct bound_policy *policy)
{
    struct workload_run run = run_make(workload_find(name), region, share);
    size_t counted = workload_phases(run.workload, run.pages, run.budget_pages);
    struct replay replay = {.warm = WARM * run.budget_pages,
                            .counted = counted > 0 ? counted : COUNTED * run.budget_pages,
                            .pages = (uint32_t)run.pages,
                            .frames = (uint32_t)run.budget_pages};
    bool *kept = calloc(run.pages, sizeof(*kept));
    uint32_t *touches = calloc(replay.warm + replay.counted, sizeof(*touches));
    size_t lru = 0, ahead = 0, min = 0;
    int error = -ENOMEM;

    if (touches == NULL || kept == NULL)
        goto out;
    replay.touches = touches;
    error = trace_make(&run, touches, &replay);
    if (error == 0)
        error = replay_lru(&replay, 1, &lru);
    if (error == 0)
        error = replay_lru(&replay, BOUND_AHEAD, &ahead);
    if (error == 0)
        error = replay_min(&replay, &min);
    policy->lru = (double)lru / (double)replay.counted;
    policy->ahead = (double)ahead / (double)replay.counted;
    policy->min = (double)min / (double)replay.counted;
    policy->popular = popular_hits(&run, &replay, kept);
out:
    free(touches);
    free(kept);
    return error;
}

int bound_policies(struct bound *b)
{
    uint64_t region = b->options.region < REGION_MOST ? b->options.region : REGION_MOST;

    for (unsigned i = 0; i < BOUND_POLICY_CELLS; i++) {
        const char *name = bound_cell_names[bound_policy_cells[i]];
        int error = cell_replay(name, region, b->options.share, &b->policies[i]);

        if (error < 0) {
            fprintf(stderr, "bound: no memory to replay %s\n", name);
            return error;
        }
    }
    return 0;
}
