/*
 * The operations are the core's own: this file calls what the workers would call.
 */
#include "scale_cell.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "core/machine.h"
#include "trap/trap.h"
#include "word_store.h"

#define PATIENCE 100 /* times that the writer may find nothing while pages are left */

const char *const scale_names[SCALE_OPERATIONS] = {"first touch", "rescue", "page-in",
                                                   "trim",        "write",  "under pressure"};

/* Pages of a region, in runs that are spread evenly: one anywhere in each stride. */
struct spread {
    uintptr_t base;
    uint64_t stride; /* pages */
    unsigned run;
    uint64_t pages;
};

enum work { WORK_END, WORK_WRITE, WORK_READ, WORK_RANDOM };

/* Threads that do the same work at the same time, the caller among them. */
struct team {
    struct machine *m;
    unsigned count;
    pthread_t threads[SCALE_THREADS];
    pthread_barrier_t barrier;
    enum work work;              /* the caller's, to change between barriers; as the next two */
    const struct spread *spread; /* of which each thread takes its share */
    uint64_t until;              /* WORK_RANDOM: ns */
    _Atomic uint64_t wrong;
};

struct member {
    struct team *team;
    unsigned index;
};

struct clocks {
    uint64_t cpu, wall; /* ns */
};

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * TUNABLE_SECOND + (uint64_t)now.tv_nsec;
}

static struct clocks clocks_now(void)
{
    return (struct clocks){clock_ns(CLOCK_PROCESS_CPUTIME_ID), clock_ns(CLOCK_MONOTONIC)};
}

/* ---- Accesses ---- */

static uintptr_t spread_page(const struct spread *s, uint64_t n)
{
    uint64_t which = n / s->run, free = s->stride - s->run + 1;
    uint64_t offset = (which * UINT64_C(0x9e3779b97f4a7c15) >> 32) % free;

    return s->base + (which * s->stride + offset + n % s->run) * PAGE_SIZE;
}

/* What the page holds: never 0, and of no other page. */
static uint64_t page_word(uintptr_t va)
{
    return va | 1;
}

static bool page_access(struct machine *m, uintptr_t va, uint32_t thread, bool write)
{
    uint64_t word = write ? page_word(va) : 0;

    if (m->tunables.mapper == MAPPER_SOFT) {
        if (access_page(m, va, (char *)&word, sizeof word, write, thread) != FAULT_DONE)
            return false;
    } else if (write) {
        *(volatile uint64_t *)va = word;
    } else {
        word = *(volatile uint64_t *)va;
    }
    return word == page_word(va);
}

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void work_random(struct team *team, unsigned index)
{
    const struct spread *s = team->spread;
    uint64_t state = 88172645463325252u + index * UINT64_C(0x9e3779b97f4a7c15), wrong = 0;

    while (clock_ns(CLOCK_MONOTONIC) < team->until)
        for (unsigned i = 0; i < 16; i++)
            wrong += !page_access(team->m, spread_page(s, random_next(&state) % s->pages),
                                  index + 1, false);
    atomic_fetch_add(&team->wrong, wrong);
}

static void work_do(struct team *team, unsigned index)
{
    const struct spread *s = team->spread;
    uint64_t wrong = 0;

    if (team->work == WORK_RANDOM) {
        work_random(team, index);
        return;
    }
    for (uint64_t n = s->pages * index / team->count; n < s->pages * (index + 1) / team->count; n++)
        wrong += !page_access(team->m, spread_page(s, n), index + 1, team->work == WORK_WRITE);
    atomic_fetch_add(&team->wrong, wrong);
}

static void *member_main(void *argument)
{
    struct member *member = argument;
    struct team *team = member->team;

    for (;;) {
        pthread_barrier_wait(&team->barrier);
        if (team->work == WORK_END)
            break;
        work_do(team, member->index);
        pthread_barrier_wait(&team->barrier);
    }
    free(member);
    return NULL;
}

static void team_work(struct team *team, enum work work, const struct spread *spread)
{
    team->work = work;
    team->spread = spread;
    pthread_barrier_wait(&team->barrier);
    if (work == WORK_END)
        return;
    work_do(team, 0);
    pthread_barrier_wait(&team->barrier);
}

static int team_start(struct team *team, struct machine *m, unsigned count)
{
    memset(team, 0, sizeof *team);
    team->m = m;
    team->count = count;
    pthread_barrier_init(&team->barrier, NULL, count);
    for (unsigned i = 1; i < count; i++) {
        struct member *member = malloc(sizeof *member);
        int error = member == NULL ? ENOMEM : 0;

        if (error == 0) {
            *member = (struct member){team, i};
            error = pthread_create(&team->threads[i], NULL, member_main, member);
        }
        if (error != 0) { /* those that run wait at the barrier: the process ends anyway */
            fprintf(stderr, "scale: thread %u: %s\n", i, strerror(error));
            return -error;
        }
    }
    return 0;
}

static void team_end(struct team *team)
{
    team_work(team, WORK_END, NULL);
    for (unsigned i = 1; i < team->count; i++)
        pthread_join(team->threads[i], NULL);
    pthread_barrier_destroy(&team->barrier);
}

/* ---- A manager ---- */

struct manager {
    struct machine *m;
    struct trap_thread *trap; /* NULL with the mapper soft */
    struct team team;
};

static void manager_close(struct manager *manager)
{
    region_unmap_all(manager->m);
    if (manager->trap != NULL)
        trap_thread_close(manager->m, manager->trap);
    machine_destroy(manager->m);
}

/* Slots for `pages` pages and for what waits to be released. */
static int manager_open(struct manager *manager, const struct scale_cell *cell, bool workers,
                        uint64_t pages)
{
    bool soft = cell->mapper == MAPPER_SOFT;
    struct tunables t;
    struct machine_options options = {.tunables = &t,
                                      .backend = &sync_backend_linux,
                                      .platform = &platform_linux,
                                      .mapper_open = soft ? mapper_soft_open : mapper_copy_open,
                                      .mapper_has_cache = !soft,
                                      .pool_queues = soft ? FAULT_POOL_MAX : 4};
    int error;

    memset(manager, 0, sizeof *manager);
    tunables_init(&t);
    tunables_parse(&t, soft ? "mapper:soft,trap:none" : "mapper:copy,trap:thread");
    tunables_parse(&t, "read_window:1,touch_window:1");
    t.memory = cell->memory;
    t.workers = workers;
    error = word_store_open(pages + pages / 2 + 65536, &options.store);
    if (error == 0)
        error = machine_create(&options, &manager->m);
    if (error == 0 && !soft)
        error = trap_thread_open(manager->m, &manager->trap);
    if (error == 0)
        error = team_start(&manager->team, manager->m, cell->threads);
    if (error != 0)
        fprintf(stderr, "scale: a manager of %llu MiB: %s\n",
                (unsigned long long)(cell->memory >> 20),
                error_last()[0] != '\0' ? error_last() : strerror(-error));
    return error;
}

static int spread_map(struct machine *m, uint64_t bytes, uint64_t pages, unsigned run,
                      struct spread *out)
{
    uint64_t runs = (pages + run - 1) / run;
    int error = region_map(m, bytes, true, &out->base);

    out->run = run;
    out->pages = pages;
    out->stride = bytes / PAGE_SIZE / runs;
    if (error == 0 && out->stride < run)
        error = error_set(-EINVAL, "%llu pages do not fit in so little address space",
                          (unsigned long long)pages);
    if (error != 0)
        fprintf(stderr, "scale: %llu MiB of address space: %s\n", (unsigned long long)(bytes >> 20),
                error_last());
    return error;
}

/* ---- Operations one by one ---- */

struct steps {
    const struct scale_cell *cell;
    struct manager manager;
    struct spread filler, sample;
    uint64_t cpu[SCALE_OPERATIONS], wall[SCALE_OPERATIONS]; /* ns */
    uint64_t count[SCALE_OPERATIONS];
};

static void steps_add(struct steps *s, enum scale_operation operation, struct clocks from,
                      unsigned pages)
{
    struct clocks to = clocks_now();

    s->cpu[operation] += to.cpu - from.cpu;
    s->wall[operation] += to.wall - from.wall;
    s->count[operation] += pages;
}

static void step_access(struct steps *s, enum scale_operation operation, enum work work)
{
    struct machine *m = s->manager.m;
    struct clocks from = clocks_now();

    team_work(&s->manager.team, work, &s->sample);
    steps_add(s, operation, from, s->cell->sample);
    /* A handler thread wakes who waits before it has done with the page: let it leave the gate. */
    atomic_fetch_add(&m->gate_closing, 1);
    sync_rwlock_write(&m->sync, &m->gate, SYNC_GATE);
    atomic_fetch_sub(&m->gate_closing, 1);
    sync_rwlock_unwrite(&m->sync, &m->gate, SYNC_GATE);
}

/* Are there as many as were meant? Trims may take a page more, or let one off. */
static int steps_expect(const char *what, uint64_t meant, uint64_t got)
{
    if (got >= meant - meant / 64 && got <= meant + meant / 64)
        return 0;
    fprintf(stderr, "scale: %s: %llu pages were meant, and %llu were met\n", what,
            (unsigned long long)meant, (unsigned long long)got);
    return -EAGAIN;
}

/* The cache takes back what it has lent, as if it were about to be full: all that is trimmed finds room
 * at once. */
static void cache_recall(struct machine *m, unsigned pages)
{
    int64_t room = -1;

    while (atomic_load(&m->cache_room) < (int64_t)pages && atomic_load(&m->cache_room) > room) {
        room = atomic_load(&m->cache_room);
        atomic_fetch_add(&m->writing, m->buffer_count);
        lend_fit(m);
        atomic_fetch_sub(&m->writing, m->buffer_count);
    }
}

static int step_trim(struct steps *s)
{
    struct machine *m = s->manager.m;
    unsigned gone;
    struct clocks from;

    if (m->mapper->has_cache)
        cache_recall(m, s->cell->sample);
    if (machine_advise(m, s->sample.base, s->cell->virtual_size / 2, VMSM_DONTNEED) != 0)
        return -EINVAL;
    sync_mutex_lock(&m->sync, &m->reclaim_lock, SYNC_RECLAIM);
    from = clocks_now();
    gone = trim_pages(m, s->cell->sample);
    steps_add(s, SCALE_TRIM, from, gone);
    sync_mutex_unlock(&m->sync, &m->reclaim_lock, SYNC_RECLAIM);
    return steps_expect("trim", s->cell->sample, gone);
}

/* Write all that is modified, then give the frames to the free list. */
static int step_write(struct steps *s)
{
    struct machine *m = s->manager.m;
    unsigned idle = 0, written, freed;
    struct clocks from;

    sync_mutex_lock(&m->sync, &m->reclaim_lock, SYNC_RECLAIM);
    written = list_count(m, LIST_MODIFIED);
    from = clocks_now();
    while (list_count(m, LIST_MODIFIED) > 0 && idle < PATIENCE)
        idle += !writer_step(m);
    writer_drain(m);
    written -= list_count(m, LIST_MODIFIED);
    steps_add(s, SCALE_WRITE, from, written);
    freed = refill_standby(m, standby_count(m));
    sync_mutex_unlock(&m->sync, &m->reclaim_lock, SYNC_RECLAIM);
    return steps_expect("write and repurpose", s->cell->sample, freed < written ? freed : written);
}

/* Each page once round. */
static int steps_pass(struct steps *s)
{
    struct machine *m = s->manager.m;
    int error;

    step_access(s, SCALE_TOUCH, WORK_WRITE);
    error = step_trim(s);
    if (error != 0)
        return error;
    step_access(s, SCALE_RESCUE, WORK_READ);
    error = step_trim(s);
    if (error == 0)
        error = step_write(s);
    if (error != 0)
        return error;
    step_access(s, SCALE_PAGE_IN, WORK_READ);
    machine_enter(m);
    error = region_decommit(m, s->sample.base, s->cell->virtual_size / 2);
    sync_rwlock_unread(&m->sync, &m->gate, SYNC_GATE);
    return error;
}

/* All frames get memory from the system, then a quarter is given back. */
static int steps_fill(struct steps *s)
{
    struct machine *m = s->manager.m;
    uint64_t frames = m->active_max, kept = frames / 4 * 3, pages = 0;
    uint64_t bytes = s->cell->virtual_size / 2;
    uintptr_t from;
    int error = spread_map(m, bytes, frames, s->cell->run, &s->filler);

    if (error == 0)
        error = spread_map(m, bytes, s->cell->sample, s->cell->run, &s->sample);
    if (error != 0)
        return error;
    while (pages < frames && atomic_load(&m->available) > 8)
        if (!page_access(m, spread_page(&s->filler, pages++), 1, true))
            return -EIO;
    kept -= kept % s->cell->run;
    from = spread_page(&s->filler, kept);
    machine_enter(m);
    error = region_decommit(m, from, s->filler.base + bytes - from);
    sync_rwlock_unread(&m->sync, &m->gate, SYNC_GATE);
    return error;
}

/* The faults must have been those that were meant. */
static int steps_check(const struct steps *s)
{
    struct vmsm_counters c;
    uint64_t each = (uint64_t)s->cell->passes * s->cell->sample;
    int error;

    machine_get_counters(s->manager.m, &c);
    if (s->manager.team.wrong > 0) {
        fprintf(stderr, "scale: pages that did not hold what was written: %llu\n",
                (unsigned long long)s->manager.team.wrong);
        return -EUCLEAN;
    }
    error = steps_expect("rescues", each, c.faults_standby + c.faults_modified);
    return error != 0 ? error : steps_expect("page-ins", each, c.faults_hard);
}

/* Processors that so many threads can use. */
static double processors(unsigned threads)
{
    double online = (double)sysconf(_SC_NPROCESSORS_ONLN);

    return online < threads ? online : threads;
}

static void cost_set(struct scale_costs *costs, enum scale_operation operation, uint64_t cpu_ns,
                     double wall_ns, uint64_t count)
{
    costs->cpu[operation] = count > 0 ? (double)cpu_ns / (double)count * 1e-9 : NAN;
    costs->wall[operation] = count > 0 ? wall_ns / (double)count * 1e-9 : NAN;
}

static int steps_run(const struct scale_cell *cell, struct scale_costs *costs)
{
    struct steps s = {.cell = cell};
    int error = manager_open(&s.manager, cell, false, cell->memory / PAGE_SIZE + cell->sample);

    if (error == 0)
        error = steps_fill(&s);
    if (error == 0)
        error = steps_pass(&s); /* warms up */
    memset(s.cpu, 0, sizeof s.cpu);
    memset(s.wall, 0, sizeof s.wall);
    memset(s.count, 0, sizeof s.count);
    for (unsigned i = 1; i < cell->passes && error == 0; i++)
        error = steps_pass(&s);
    if (error == 0)
        error = steps_check(&s);
    if (error != 0)
        return error;
    for (int i = 0; i < SCALE_PRESSURE; i++) {
        bool alone = i == SCALE_TRIM || i == SCALE_WRITE;
        double share = processors(alone ? 1 : cell->threads);

        cost_set(costs, (enum scale_operation)i, s.cpu[i], (double)s.wall[i] * share, s.count[i]);
    }
    team_end(&s.manager.team);
    manager_close(&s.manager);
    return 0;
}

/* ---- All at once ---- */

static void pressure_do(struct manager *manager, const struct spread *spread, double seconds)
{
    manager->team.until = clock_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e9);
    team_work(&manager->team, WORK_RANDOM, spread);
}

static int pressure_run(const struct scale_cell *cell, struct scale_costs *costs)
{
    uint64_t pages = cell->memory / PAGE_SIZE * 3 / 2;
    struct manager manager;
    struct spread spread;
    struct vmsm_counters before, after;
    struct clocks from, to;
    int error = manager_open(&manager, cell, true, pages);

    if (error == 0)
        error = spread_map(manager.m, cell->virtual_size, pages, cell->run, &spread);
    if (error != 0)
        return error;
    team_work(&manager.team, WORK_WRITE, &spread);
    team_work(&manager.team, WORK_READ, &spread); /* now all have been written, and are clean */
    pressure_do(&manager, &spread, cell->seconds / 4);
    machine_get_counters(manager.m, &before);
    from = clocks_now();
    pressure_do(&manager, &spread, cell->seconds);
    to = clocks_now();
    machine_get_counters(manager.m, &after);
    cost_set(costs, SCALE_PRESSURE, to.cpu - from.cpu,
             (double)(to.wall - from.wall) * processors(cell->threads),
             after.faults_hard - before.faults_hard);
    if (manager.team.wrong > 0) {
        fprintf(stderr, "scale: pages that did not hold what was written: %llu\n",
                (unsigned long long)manager.team.wrong);
        return -EUCLEAN;
    }
    if (machine_check(manager.m) != 0) {
        fprintf(stderr, "scale: %s\n", error_last());
        return -EUCLEAN;
    }
    team_end(&manager.team);
    manager_close(&manager);
    return 0;
}

uint64_t scale_cell_memory(const struct scale_cell *cell)
{
    uint64_t pages = cell->memory / PAGE_SIZE;
    /* The frame database; a slot's hash and word, a PTE and the kernel's; and runs that are spread
     * thin take table pages of their own, ours and the kernel's. */
    uint64_t tables = pages * (64 + 2 * 64) + 2 * pages / cell->run * 2 * PAGE_SIZE;
    uint64_t most = cell->virtual_size / 256; /* what all of the tables of the region take */

    return cell->memory + pages * 192 + (tables < most ? tables : most) + (UINT64_C(256) << 20);
}

int scale_cell_run(const struct scale_cell *cell, struct scale_costs *costs)
{
    int error;

    for (int i = 0; i < SCALE_OPERATIONS; i++)
        costs->cpu[i] = costs->wall[i] = NAN;
    error = steps_run(cell, costs);
    return error != 0 ? error : pressure_run(cell, costs);
}
