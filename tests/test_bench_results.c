/*
 * The benchmark's plan and its statistics: which cells there are, medians, ratios round by round,
 * what of an interrupted run counts, and when an aim is reached.
 */
#include <math.h>
#include <stdint.h>

#include "../bench/plan.h"
#include "../bench/report.h"
#include "../bench/results.h"
#include "tap.h"

#define ARGUMENTS(...) ((char *[]){(char[]){"bench"}, __VA_ARGS__, NULL})
#define A(text) ((char[]){text})

static struct options options;
static struct plan plan;

static void plan_take(int count, char **argv)
{
    plan_free(&plan);
    options_parse(&options, count, argv);
    if (plan_make(&plan, &options) < 0)
        exit(1);
}

static size_t cell_of(const char *name, unsigned threads, unsigned share)
{
    for (size_t i = 0; i < plan.cell_count; i++)
        if (plan.cells[i].workload == workload_find(name) && plan.cells[i].threads == threads &&
            plan.cells[i].share == share)
            return i;
    return SIZE_MAX;
}

static void plans_check(void)
{
    plan_take(5, ARGUMENTS(A("--cells"), A("fill,rand,chase,hits"), A("--memory-share"), A("25")));
    is(plan.cell_count, 3, "hits is left out where not all of it fits");
    is(plan.group_count, 1, "one process does them all");
    plan_take(4, ARGUMENTS(A("--full"), A("--cells"), A("fill,rand,chase,hits,prefault,rand-c")));
    ok(cell_of("rand", 16, 25) != SIZE_MAX && cell_of("rand", 2, 75) != SIZE_MAX &&
           cell_of("rand", 16, 75) == SIZE_MAX && cell_of("chase", 16, 25) == SIZE_MAX,
       "star: threads at the base share, shares at the base threads");
    ok(cell_of("hits", 2, 150) != SIZE_MAX && cell_of("hits", 2, 25) == SIZE_MAX &&
           cell_of("rand", 2, 150) == SIZE_MAX,
       "only fill and hits where all of it fits");
    ok(cell_of("prefault", 1, 25) != SIZE_MAX && cell_of("prefault", 2, 25) == SIZE_MAX,
       "prefault has one thread");
    ok(plan.cells[cell_of("rand", 16, 25)].group == plan.cells[cell_of("fill", 2, 25)].group &&
           plan.cells[cell_of("fill", 16, 25)].group != plan.cells[cell_of("fill", 2, 25)].group &&
           plan.cells[cell_of("rand-c", 2, 25)].group != plan.cells[cell_of("rand", 2, 25)].group,
       "other fills and other contents have processes of their own");
    ok(plan_kind_does(&options, SWAP, &plan.cells[cell_of("rand", 16, 25)]) &&
           plan_kind_does(&options, MANAGED_SIGBUS, &plan.cells[cell_of("rand", 16, 25)]) &&
           !plan_kind_does(&options, ZRAM, &plan.cells[cell_of("rand", 16, 25)]) &&
           !plan_kind_does(&options, MANAGED_SIGBUS, &plan.cells[cell_of("rand", 2, 75)]) &&
           !plan_kind_does(&options, SWAP, &plan.cells[cell_of("prefault", 1, 25)]),
       "the kinds at the side do less");
    ok(!plan_kind_has(&plan, &options, MAPPED, plan.cells[cell_of("hits", 2, 150)].group) &&
           plan_kind_has(&plan, &options, MAPPED, plan.cells[cell_of("rand", 2, 50)].group),
       "and have no process where they do nothing");
    ok(plan_warm_up(&options, workload_find("hot"), 25) >
               plan_warm_up(&options, workload_find("rand"), 25) &&
           plan_warm_up(&options, workload_find("rand"), 25) > 0 &&
           plan_warm_up(&options, workload_find("fill"), 25) == 0,
       "what is hot gathers first");
    ok(plan_touches(&options, workload_find("rand"), 25) == 0 &&
           plan_seconds(&options, workload_find("rand"), 25) == options.seconds,
       "a cell has its time");
    ok(plan_touches(&options, workload_find("moving"), 50) ==
               2 * plan_touches(&options, workload_find("moving"), 25) &&
           plan_seconds(&options, workload_find("moving"), 25) > options.seconds,
       "or, if it has phases, its touches");
    is(plan_warm_up(&options, workload_find("hits"), 150),
       plan_warm_up(&options, workload_find("hits"), 100),
       "memory beyond the region does not count");
    plan_take(8, ARGUMENTS(A("--cells"), A("rand,chase"), A("--threads"), A("1,4"), A("--plan"),
                           A("cross"), A("--memory-share=10,50")));
    is(plan.cell_count, 8, "cross: all of them");
    ok(options.base_threads == 1 && options.base_share == 10,
       "the base is what is asked for first");
}

static void sample_put(struct results *r, enum memory_kind kind, uint64_t round, double rate)
{
    struct sample *s = results_sample(r, kind, 0, round);

    s->done = true;
    s->answer.result.touches = 1000;
    s->answer.result.seconds = 1000 / rate;
    s->answer.result.p999 = kind == MANAGED ? 1 : 2;
    s->answer.usage.cpu_ns = kind == MANAGED ? 3000 : 1000;
    s->answer.usage.pages_in = s->answer.usage.pages_out = 500;
    s->answer.usage.faults = kind == MANAGED ? 250 : 2000;
    s->answer.usage.syscalls = USAGE_NONE;
}

static enum target_state judge(const struct results *r, enum target_metric metric, double bound)
{
    const struct target target = {NULL, 0, 0, SWAP, metric, bound};
    struct target_result result;

    target_judge(r, &target, &result);
    return result.state;
}

static void statistics_check(void)
{
    struct results r;
    struct summary s;
    struct cost cost;

    plan_take(5, ARGUMENTS(A("--cells"), A("rand"), A("--rounds"), A("4")));
    if (results_open(&r, &options, &plan) < 0)
        exit(1);
    ok(isnan(results_rate(&r, MANAGED, 0).median), "nothing measured, no figure");
    is(judge(&r, TARGET_RATIO, 1), TARGET_NOT_MEASURED, "and no judgement");
    sample_put(&r, MANAGED, 0, 100);
    sample_put(&r, MANAGED, 1, 300);
    sample_put(&r, MANAGED, 2, 200);
    sample_put(&r, SWAP, 0, 50);
    sample_put(&r, SWAP, 1, 300);
    s = results_rate(&r, MANAGED, 0);
    ok(s.count == 3 && s.median == 200 && s.least == 100 && s.most == 300,
       "median, least and most of the rounds that were done");
    s = results_ratio(&r, MANAGED, SWAP, 0);
    ok(s.count == 2 && s.least == 1 && s.most == 2 && s.median == 1.5,
       "ratios are of pairs of a round; a round without its pair does not count");
    cost = results_cost(&r, MANAGED, 0);
    ok(fabs(cost.cpu_moved - 3e-9) < 1e-12 && cost.hits == 0.75 && isnan(cost.syscalls),
       "costs by touch and page; what was not counted has no figure");
    ok(results_cost(&r, SWAP, 0).hits == 0, "more faults than touches are no hits");
    is(judge(&r, TARGET_RATIO, 1.5), TARGET_REACHED, "an aim at its bound is reached");
    is(judge(&r, TARGET_RATIO, 1.6), TARGET_MISSED, "beyond it is not");
    is(judge(&r, TARGET_TAIL, 1), TARGET_REACHED, "a smaller p99.9 is better");
    is(judge(&r, TARGET_CPU, 1), TARGET_MISSED, "more processor time is worse");
    is(judge(&r, TARGET_EQUAL, 1), TARGET_MISSED, "1.5 is not equal");
    results_close(&r);
}

int main(void)
{
    plans_check();
    statistics_check();
    plan_free(&plan);
    return done_testing();
}
