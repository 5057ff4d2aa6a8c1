/*
 * What a seed stands for.
 */
#include <stdio.h>
#include <string.h>

#include "sim/world.h"

#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)
#define LARGE_WORLD_EVERY 100u
#define DENSE_WORLD_EVERY 10u

static bool chance(struct random *r, unsigned percent)
{
    return random_below(r, 100) < percent;
}

/* One of the given numbers; a macro keeps the lists readable. */
#define ONE_OF(r, ...)                                                                             \
    (((const uint64_t[]){__VA_ARGS__})[random_below(r, sizeof((const uint64_t[]){__VA_ARGS__}) /   \
                                                           sizeof(uint64_t))])

static void draw_schedule(struct random *r, struct world_config *c)
{
    unsigned kind = (unsigned)random_below(r, 10);

    c->policy = kind < 5 ? SCHEDULE_RANDOM : kind < 9 ? SCHEDULE_PCT : SCHEDULE_ROBIN;
    c->switch_every = (unsigned)ONE_OF(r, 1, 2, 3, 5, 10, 30, 100);
    c->spurious_every = chance(r, 30) ? (unsigned)ONE_OF(r, 50, 500, 5000) : 0;
    c->step_ns = ONE_OF(r, 50, 200, 1000, 10000);
    c->steps_expected = ONE_OF(r, 500, 5000, 20000);
}

static void draw_features(struct random *r, const struct world_config *c, struct tunables *t)
{
    static const char *const stages[] = {"single", "basic", "full"};
    bool *features[] = {&t->batching,     &t->deferred, &t->fine_locks,
                        &t->shared_locks, &t->preserve, &t->more_workers};

    tunables_set(t, "stage", stages[random_below(r, 10) < 7 ? 2 : random_below(r, 2)]);
    for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
        if (chance(r, 7))
            *features[i] = !*features[i];
    }
    if (t->stage == STAGE_SINGLE)
        t->workers = false;
    else if (chance(r, 4))
        t->workers = false;
    t->spinning_locks = chance(r, 10);
    if (t->mapper != MAPPER_MOVE && chance(r, 25))
        t->dirty = DIRTY_PROTECT;
    else if (c->seed % 3 == 0)
        t->dirty = DIRTY_HASH;
}

static void draw_sizes(struct random *r, struct world_config *c)
{
    struct tunables *t = &c->tunables;
    uint64_t frames = ONE_OF(r, 4, 6, 8, 12, 16, 24, 48);

    t->cache = ONE_OF(r, 5, 12, 30, 50, 75);
    t->write_depth = ONE_OF(r, 1, 2, 4);
    t->write_batch = ONE_OF(r, 1, 2, 4, 16, 256);
    t->trim_batch = ONE_OF(r, 1, 2, 8, 64, 512);
    t->read_window = ONE_OF(r, 1, 2, 8, 512);
    t->touch_window = ONE_OF(r, 1, 2, 8, 512);
    t->fault_depth = ONE_OF(r, 1, 2, 16);
    t->memory = (frames + t->write_depth * (t->write_batch < 4 ? t->write_batch : 4)) * PAGE_SIZE;
    if (t->mapper == MAPPER_COPY)
        t->memory += 16 * PAGE_SIZE;
    t->overcommit = chance(r, 20);
    c->pages = (unsigned)(frames * ONE_OF(r, 1, 2, 3, 6));
    if (c->pages > 160)
        c->pages = 160;
    c->disk_fixed = chance(r, 50);
    c->disk_slots = c->disk_fixed ? c->pages * 2 + ONE_OF(r, 4, 16, 200) : 1;
}

static void draw_faults(struct random *r, struct world_config *c)
{
    struct disk_faults *d = &c->disk;
    struct mmu_faults *m = &c->mmu;

    d->latency_min = ONE_OF(r, 1000, 50000, 1 * MS);
    d->latency_max = d->latency_min * ONE_OF(r, 1, 3, 50);
    if (chance(r, 35))
        return; /* a world in which nothing fails: not one page may be lost */
    if (chance(r, 30)) {
        d->hang_every = (unsigned)ONE_OF(r, 20, 100, 1000);
        d->hang_ns = ONE_OF(r, 20 * MS, SECOND, 100 * SECOND);
    }
#define SOMETIMES(field, percent, ...)                                                             \
    if (chance(r, percent))                                                                        \
    (field) = (unsigned)ONE_OF(r, __VA_ARGS__)
    SOMETIMES(d->read_error_every, 30, 5, 30, 300);
    SOMETIMES(d->write_error_every, 30, 5, 30, 300);
    SOMETIMES(d->corrupt_every, 20, 10, 100, 1000);
    SOMETIMES(d->rot_every, 15, 50, 500);
    SOMETIMES(d->lost_every, 15, 50, 500);
    SOMETIMES(d->misplaced_every, 10, 50, 500);
    SOMETIMES(d->bad_every, 10, 100, 1000);
    SOMETIMES(d->full_every, 15, 30, 200);
    SOMETIMES(d->grow_error_every, 15, 2, 4);
    SOMETIMES(m->no_memory_every, 20, 20, 200);
    SOMETIMES(m->busy_every, 20, 5, 50);
    SOMETIMES(m->protect_every, 20, 5, 50);
    SOMETIMES(m->stage_every, 20, 3, 30);
    SOMETIMES(m->split_every, 20, 2, 10);
#undef SOMETIMES
    d->full_ns = ONE_OF(r, 5 * MS, SECOND, 60 * SECOND);
}

/* A world with large pages: it takes far more pages than others, so it is a rare one, and a step of it
 * is not checked as often. */
static void draw_large(struct random *r, struct world_config *c)
{
    struct tunables *t = &c->tunables;
    struct mmu_faults *m = &c->mmu;
    bool faulty = c->disk.read_error_every || c->disk.write_error_every || c->disk.full_every ||
                  chance(r, 40);
    uint64_t frames = ONE_OF(r, 1400, 1400, 2500, 2500, 4800, 8400);

    c->large = true;
    c->users = (unsigned)ONE_OF(r, 1, 1, 2, 4);
    c->drop_max = (unsigned)ONE_OF(r, 12, 100, WORLD_DROP_MAX);
    c->zero_every = (unsigned)ONE_OF(r, 8, 2000, 100000);
    c->write_percent = (unsigned)ONE_OF(r, 10, 50, 100);
    c->calm = chance(r, 40);
    c->scan_percent = c->calm ? 97 : (unsigned)ONE_OF(r, 30, 80, 95);
    c->pages = (unsigned)(frames * ONE_OF(r, 2, 3, 3) / 2 / SECTION_PAGES) * SECTION_PAGES;
    c->pages -= chance(r, 25) ? 100 : 0;
    c->operations = (unsigned)ONE_OF(r, 8, 16, 32, 64) / c->users + 2;
    c->accesses_max = 4 * frames + 10000;
    c->step_ns = ONE_OF(r, 50, 200);
    c->steps_expected = 200000;
    c->check_every = c->pages / 4 + 1;
    /* Who seeks slots looks at all frames: a pagefile that is always full has no end with many. */
    c->disk_slots =
        c->pages + (frames > 2500 ? ONE_OF(r, 600, 2000, 4000) : ONE_OF(r, 4, 200, 500));
    c->disk_slots = c->disk_fixed ? c->disk_slots : 1;
    t->mapper = MAPPER_COPY;
    t->batching = true;
    t->large_share = ONE_OF(r, 1, 1, 2);
    t->memory = frames * PAGE_SIZE;
    t->cache = ONE_OF(r, 5, 12, 30);
    t->read_window = t->touch_window = 512;
    t->write_batch = ONE_OF(r, 16, 256);
    t->trim_batch = ONE_OF(r, 64, 512);
    if (!faulty)
        return;
    m->large_fill_every = chance(r, 30) ? (unsigned)ONE_OF(r, 2, 5) : 0;
    m->large_map_every = chance(r, 50) ? (unsigned)ONE_OF(r, 2, 5, 20) : 0;
    m->large_take_every = chance(r, 50) ? (unsigned)ONE_OF(r, 2, 5, 20) : 0;
    m->large_split_every = chance(r, 30) ? (unsigned)ONE_OF(r, 2, 10) : 0;
}

/* A world where pages come around those that are asked for: a group is a sixteenth of memory at most. */
static void draw_dense(struct random *r, struct world_config *c)
{
    struct tunables *t = &c->tunables;
    unsigned group = (unsigned)ONE_OF(r, 2, 2, 4, 4, 4, 16);
    uint64_t frames = group * ONE_OF(r, 20, 24, 30);

    c->dense_every = (unsigned)ONE_OF(r, 1, 1, 5);
    c->pages = (unsigned)(frames * ONE_OF(r, 2, 3));
    c->disk_slots = c->disk_fixed ? c->pages + ONE_OF(r, 10, 100, 400) : 1;
    c->operations = 600 / c->users;
    c->run_max = (unsigned)ONE_OF(r, 1, 2, 8);
    c->write_percent = (unsigned)ONE_OF(r, 5, 20, 100);
    c->check_every = c->pages / 100 + 1;
    t->around = group;
    t->memory = (frames + (t->mapper == MAPPER_COPY ? 16 : 0)) * PAGE_SIZE;
    t->cache = ONE_OF(r, 5, 12);
    t->batching = true;
    t->read_window = ONE_OF(r, 16, 512);
    t->write_batch = ONE_OF(r, 1, 2, 4);
}

void world_configure(uint64_t seed, struct world_config *c)
{
    struct random r = {seed};
    struct tunables *t = &c->tunables;

    memset(c, 0, sizeof(*c));
    c->seed = seed;
    draw_schedule(&r, c);
    tunables_init(t);
    t->mapper = (unsigned)(chance(&r, 60)   ? MAPPER_COPY
                           : chance(&r, 60) ? MAPPER_MOVE
                                            : MAPPER_SOFT);
    t->trap = TRAP_NONE;
    t->hash_seed = 1;
    draw_features(&r, c, t);
    c->sigbus = chance(&r, 40);
    t->kernel_faults = !c->sigbus;
    draw_sizes(&r, c);
    draw_faults(&r, c);
    c->users = (unsigned)random_between(&r, 1, 4);
    c->handlers = (unsigned)random_between(&r, 1, WORLD_HANDLERS_MAX);
    c->operations = (unsigned)ONE_OF(&r, 20, 80, 200) / c->users + 2;
    c->run_max = (unsigned)ONE_OF(&r, 1, 2, 8, 20);
    c->write_percent = (unsigned)ONE_OF(&r, 0, 10, 50, 100);
    c->pool_queues = (unsigned)ONE_OF(&r, 1, 2, 6);
    /* Nothing is lost by it: in good worlds too. */
    c->mmu.lend_every = chance(&r, 10) ? (unsigned)ONE_OF(&r, 1, 3, 30) : 0;
    c->check_every = 1;
    c->accesses_max = UINT64_MAX;
    c->drop_max = 12;
    c->zero_every = 8;
    if (seed % LARGE_WORLD_EVERY == LARGE_WORLD_EVERY - 1)
        draw_large(&r, c);
    else if (seed % DENSE_WORLD_EVERY == DENSE_WORLD_EVERY / 2)
        draw_dense(&r, c);
    c->spare_after = chance(&r, 50) ? (unsigned)ONE_OF(&r, 1, 2, 5) : 0;
}

void world_describe(const struct world_config *c, char *text, size_t size)
{
    static const char *const policies[] = {"random", "robin", "pct", "chosen"};
    static const char *const mappers[] = {"copy", "move", "soft"};
    static const char *const stages[] = {"single", "basic", "full"};
    const struct tunables *t = &c->tunables;
    const char *kind = c->large ? " large" : c->dense_every > 0 ? " dense" : "";
    bool faulty = c->disk.read_error_every || c->disk.write_error_every || c->disk.corrupt_every ||
                  c->disk.rot_every || c->disk.lost_every || c->disk.misplaced_every ||
                  c->disk.bad_every || c->disk.full_every;

    snprintf(text, size,
             "%s/%u mapper %s trap %s stage %s%s%s%s pages %u memory %lluK users %u disk %s",
             policies[c->policy], c->switch_every, mappers[t->mapper],
             t->mapper == MAPPER_SOFT ? "none"
             : c->sigbus              ? "sigbus"
                                      : "thread",
             stages[t->stage], t->workers ? "" : " no workers",
             t->dirty == DIRTY_PROTECT ? " dirty=protect"
             : t->dirty == DIRTY_HASH  ? " dirty=hash"
                                       : "",
             kind, c->pages, (unsigned long long)(t->memory / 1024), c->users,
             faulty ? "faulty" : "good");
}
