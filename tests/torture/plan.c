/*
 * What a seed decides about a case: sizes, settings, faults of the store.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "torture.h"

#define MIB (1024UL * 1024)
#define SMALL_DISK_PAGES 6144u /* what cases on the small disk and the thin device may promise */

__attribute__((format(printf, 2, 3))) static void add(struct plan *p, const char *format, ...)
{
    size_t used = strlen(p->conf);
    va_list args;

    va_start(args, format);
    vsnprintf(p->conf + used, sizeof(p->conf) - used, format, args);
    va_end(args);
}

static bool tunable_exists(const char *name)
{
    for (unsigned i = 0; i < tunable_count; i++) {
        if (strcmp(tunable_table[i].name, name) == 0)
            return true;
    }
    return false;
}

/* From the minimum of memory to all fits; from one page to several times memory. */
static void plan_sizes(struct plan *p, struct rng *r)
{
    static const uint64_t memories[] = {256 * 1024, 512 * 1024, MIB, 2 * MIB, 4 * MIB, 16 * MIB};
    static const unsigned shares[] = {2, 6, 12, 16, 24}; /* quarters of memory, all areas */
    size_t pages;

    p->threads = 2 + rng_below(r, THREADS_MAX - 1);
    p->areas = 1 + rng_below(r, 6);
    p->memory = memories[rng_below(r, sizeof(memories) / sizeof(memories[0]))];
    pages = p->memory / PAGE * shares[rng_below(r, sizeof(shares) / sizeof(shares[0]))] / 4;
    if (p->flags & (PHASE_LIMIT | PHASE_SQUEEZE)) {
        p->memory = 16 * MIB;
        pages = p->memory / PAGE * 2;
    }
    if (p->flags & (PHASE_DISK | PHASE_DEVICE)) {
        p->memory = p->memory > 4 * MIB ? 4 * MIB : p->memory;
        pages = SMALL_DISK_PAGES;
        p->areas = 3;
    }
    if (p->flags & (PHASE_STORE | DISTURB_CORRUPT)) {
        p->memory = p->memory > 2 * MIB ? 2 * MIB : p->memory;
        pages = p->memory / PAGE * 3;
    }
    p->area_pages = pages / p->areas + 1;
}

static void plan_stage(struct plan *p, struct rng *r)
{
    static const char *const stages[] = {"full", "full", "full", "basic", "single"};
    static const char *const features[] = {"batching",     "deferred", "fine_locks",
                                           "shared_locks", "preserve", "more_workers"};

    add(p, ",stage:%s", stages[rng_below(r, 5)]);
    if (rng_one_in(r, 2))
        return;
    for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
        if (rng_one_in(r, 3))
            add(p, ",%s:%s", features[i], rng_one_in(r, 2) ? "on" : "off");
    }
}

/* us; short where there is much memory to sweep, or many faults to fail. */
static unsigned plan_delay(const struct plan *p, struct rng *r)
{
    if (p->memory > 4 * MIB || (p->flags & PHASE_ERRORS))
        return 1 + rng_below(r, 50);
    return 10 + rng_below(r, rng_one_in(r, 8) ? 20000 : 500);
}

static void plan_settings(struct plan *p, struct rng *r)
{
    plan_stage(p, r);
    if (p->mapper != MAPPER_MOVE && rng_one_in(r, 4))
        add(p, ",dirty:protect");
    if (rng_one_in(r, 5))
        add(p, ",spinning_locks:on");
    if (rng_one_in(r, 4))
        add(p, ",direct:off");
    if (rng_one_in(r, 4))
        add(p, ",fault_threads:%u,fault_depth:%u", 1 + rng_below(r, 4), 1 + rng_below(r, 32));
    if (rng_one_in(r, 4))
        add(p, ",read_window:%u,touch_window:%u", 1 + rng_below(r, 512), 1 + rng_below(r, 512));
    if (rng_one_in(r, 4))
        add(p, ",around:%u", rng_below(r, 17));
    if (rng_one_in(r, 4))
        add(p, ",cache:%u", 2 + rng_below(r, 74));
    if (rng_one_in(r, 4))
        add(p, ",trim_batch:%u,write_batch:%u,write_depth:%u", 1 + rng_below(r, 512),
            1 + rng_below(r, 512), 1 + rng_below(r, 8));
    if (rng_one_in(r, 4))
        add(p, ",store_depth:%u", 1 + rng_below(r, 128));
    if (rng_one_in(r, 4) && tunable_exists("encrypt"))
        add(p, ",encrypt:on");
    if ((p->flags & PHASE_DELAY) || rng_one_in(r, 4))
        add(p, ",yield_delay:%uus", plan_delay(p, r));
}

static void plan_store_faults(struct plan *p, struct rng *r)
{
    if (rng_one_in(r, 2))
        add(p, ",store_read_error:%u", 3 + rng_below(r, 200));
    if (rng_one_in(r, 2))
        add(p, ",store_write_error:%u", 3 + rng_below(r, 50));
    if (rng_one_in(r, 2))
        add(p, ",store_corrupt:%u", 3 + rng_below(r, 200));
    if (rng_one_in(r, 3))
        add(p, ",store_bad_slot:%u", 1 + rng_below(r, 200));
    if (rng_one_in(r, 3))
        add(p, ",store_bad_write_slot:%u", 1 + rng_below(r, 200));
    if (rng_one_in(r, 3))
        add(p, ",store_delay:%uus", 1 + rng_below(r, 2000));
    if (rng_one_in(r, 3))
        add(p, ",store_jitter:%uus", 1 + rng_below(r, 2000));
    /* Full for ever: faults fail one by one, soon, so that the case ends. */
    if (rng_one_in(r, 4))
        add(p, ",patience:5ms,store_full_after:%u", 100 + rng_below(r, 2000));
}

static void plan_pagefile(struct plan *p, struct rng *r, const struct places *places)
{
    const char *folder = p->flags & PHASE_DISK ? places->small : places->work;

    if (p->flags & PHASE_DEVICE)
        snprintf(p->pagefile, sizeof(p->pagefile), "%s", places->thin);
    else if ((p->flags & (PHASE_DISK | PHASE_KILL | DISTURB_CORRUPT)) || rng_one_in(r, 2))
        snprintf(p->pagefile, sizeof(p->pagefile), "%s/pages", folder);
    /* Released slots keep their blocks: all slots must fit on the disk, once the filler is gone. */
    if (p->flags & PHASE_DISK)
        add(p, ",pagefile_size:32M");
    if (p->pagefile[0] != '\0')
        add(p, ",pagefile:%s", p->pagefile);
    if ((p->flags & PHASE_DISK) || rng_one_in(r, 3))
        add(p, ",preallocate:off");
}

void plan_make(struct plan *p, const struct phase *phase, enum tunable_mapper mapper,
               enum tunable_trap trap, uint64_t seed, uint64_t run_ns, const struct places *places)
{
    static const char *const mappers[] = {"copy", "move", "soft"};
    static const char *const traps[] = {"thread", "sigbus", "none"};
    struct rng r = {.state = seed};

    memset(p, 0, sizeof(*p));
    p->phase = phase;
    p->flags = phase->flags;
    p->mapper = mapper;
    p->trap = trap;
    p->seed = seed;
    p->run_ns = run_ns;
    /* Phases mingle now and then. */
    if (rng_one_in(&r, 4))
        p->flags |= DISTURB_STOP;
    if (rng_one_in(&r, 4))
        p->flags |= DISTURB_CPU;
    plan_sizes(p, &r);
    add(p, "mapper:%s,trap:%s,memory:%lluK", mappers[mapper], traps[trap],
        (unsigned long long)p->memory / 1024);
    plan_settings(p, &r);
    plan_pagefile(p, &r, places);
    if (p->flags & PHASE_STORE)
        plan_store_faults(p, &r);
    else if ((p->flags & PHASE_ERRORS) && (p->flags & PHASE_DEVICE))
        add(p, ",patience:1s");
}

/*
 * As docs and `vmsm sim` count it: the budget, a twentieth, the tables, 16 MiB. The oracle's 7
 * bytes a page come on top, and stacks of our threads.
 */
uint64_t plan_allowance(const struct plan *p)
{
    uint64_t pages = p->areas * p->area_pages + 1024;

    return p->memory + p->memory / 20 + 64 * (p->memory / PAGE) + (8 + 16 + 7) * pages + 16 * MIB +
           p->threads * 128 * 1024;
}
