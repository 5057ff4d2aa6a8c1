/*
 * exhaust: all interleavings of small worlds.
 *
 *   exhaust [--preemptions N] [--only WORLD [--copy | --move] [--trace "THREADS"]] [--list]
 *
 * A world is two or three threads, each with a few operations, over two pages, one or two frames
 * and two slots, on the simulated kernel and disk. Every step between two yield points is taken
 * in every order that can lead to a new state: a depth-first search that goes back to where there
 * was a choice, and turns back where a state (all memory of the machine, the kernel, the disk and
 * the oracle, and the threads' stacks and registers) has been seen before. So the reduction is
 * state matching. Worlds of two threads need no bound. Where three threads, or threads that take
 * each other's only frame, make too many states, the number of preemptions (switches away from a
 * thread that could have gone on) is bounded: `bound`, 2 unless said otherwise.
 *
 * In each state the invariants of invariant.c are checked; at each end the books, and every page.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/check.h"
#include "core/error.h"
#include "sim/arena.h"
#include "sim/small.h"

#define DEPTH_MAX 4000u
#define CHUNK PAGE_SIZE
#define CHUNKS_MAX 4096u
#define ARENA_SPARE ((size_t)64 * 1024) /* bytes that a run may reserve */
#define STACK_SPARE 1024                /* bytes below a thread's frame that it still needs */

/* A place where there was a choice: what to go back to. */
struct point {
    uint8_t last;                   /* number of the thread that led here */
    uint8_t preemptions;            /* so far */
    uint8_t ready[SIM_THREADS_MAX]; /* threads that could go on */
    unsigned count, next;           /* how many; which of them is to be tried next */
    char *state;                    /* as copy_state() saved it */
    size_t size;                    /* bytes that there is room for */
    size_t used, live;              /* of the arena */
};

/* What the search remembers; nothing of it is part of a state. */
struct search {
    const struct scenario *scenario;
    enum tunable_mapper kind;
    struct point points[DEPTH_MAX]; /* the path to here */
    uint8_t last, preemptions;      /* of the current move, as in struct point */
    uint8_t bound;                  /* on preemptions; 0: none */
    uint8_t preemptions_max;        /* the bound of worlds that need one */
    unsigned depth;
    uint64_t *seen;                 /* hash set of states; 0: empty */
    uint64_t seen_size, seen_count; /* entries */
    uint64_t steps, moves, ends;
    uint64_t cut; /* states at DEPTH_MAX choices, from which the search does not go on */
    unsigned deepest;
    char *copy;             /* of the arena, as it is before the threads start */
    size_t copied;          /* bytes */
    size_t used, live;      /* of the arena, then */
    bool dirty[CHUNKS_MAX]; /* chunks (pages) that any run has changed */
    uint32_t dirty_list[CHUNKS_MAX], dirty_count;
    bool grown; /* more chunks than at the beginning of the search */
    struct world *world;
    struct invariants *invariants;
};

static struct search search;

/* ---- states ---- */

static void seen_grow(struct search *e)
{
    uint64_t *old = e->seen, size = e->seen_size;

    e->seen_size = size > 0 ? size * 2 : 1 << 16;
    e->seen = calloc(e->seen_size, sizeof(*e->seen));
    check_always(e->seen != NULL);
    for (uint64_t i = 0; i < size; i++) {
        uint64_t at = old[i] & (e->seen_size - 1);

        if (old[i] == 0)
            continue;
        while (e->seen[at] != 0)
            at = (at + 1) & (e->seen_size - 1);
        e->seen[at] = old[i];
    }
    free(old);
}

/* Add a state; false if it was there. */
static bool seen_add(struct search *e, uint64_t hash)
{
    uint64_t at;

    if (e->seen_count * 2 >= e->seen_size)
        seen_grow(e);
    hash += hash == 0;
    for (at = hash & (e->seen_size - 1); e->seen[at] != 0; at = (at + 1) & (e->seen_size - 1)) {
        if (e->seen[at] == hash)
            return false;
    }
    e->seen[at] = hash;
    e->seen_count++;
    return true;
}

/* Nobody waits for the event: how often it has been signalled makes no difference. */
static void forget_signals(struct sync_event *event)
{
    if (atomic_load(&event->waiters) == 0)
        atomic_store(&event->sequence, 0);
}

/* What makes no difference must look alike: statistics, and numbers that only ever grow. */
static void forget_statistics(struct search *e)
{
    struct machine *m = e->world->machine;
    uint64_t consumed = atomic_load(&m->consumed) - atomic_load(&m->trimmer.aged_at);

    forget_signals(&m->frames_event);
    forget_signals(&m->stage_event);
    forget_signals(&m->queues_event);
    forget_signals(&m->writer.idle);
    atomic_store(&m->trimmer.aged_at, 0);
    atomic_store(&m->consumed, consumed < m->active_max + 1 ? consumed : m->active_max + 1);
    m->trimmer.passes = m->trimmer.accessed = 0;
    for (unsigned r = 0; r < m->region_count; r++) {
        struct pagetable *table = m->regions[r]->table;

        for (size_t n = 0; n < table->section_count; n++) {
            if (atomic_load(&table->sections[n].asked) != 0)
                atomic_store(&table->sections[n].asked, 0);
        }
    }
    for (size_t n = 0; n < e->scenario->pages; n++) /* trap sigbus: nobody sleeps on a page */
        atomic_store(&mmu_of(m)->pages[n].wakes, 0);

    memset(m->counters, 0, sizeof(*m->counters));
    memset(&m->sync.stats, 0, sizeof(m->sync.stats));
}

/* Add memory to the hash, but for what lies in the scheduler. */
static void add_memory(XXH3_state_t *hash, const struct schedule *s, const char *from, size_t size)
{
    const char *end = from + size, *hole = (const char *)s, *hole_end = (const char *)(s + 1);

    if (from < hole)
        XXH3_64bits_update(hash, from, (size_t)((end < hole ? end : hole) - from));
    if (end > hole_end)
        XXH3_64bits_update(hash, from > hole_end ? from : hole_end,
                           (size_t)(end - (from > hole_end ? from : hole_end)));
}

/* Of the scheduler, what decides how things go on: who may run, who sleeps on what, what is due. */
static void add_schedule(XXH3_state_t *hash, const struct schedule *s)
{
    uint64_t facts[4];

    for (unsigned i = 0; i < s->thread_count; i++) {
        const struct sync_thread *t = &s->threads[i];

        facts[0] = (uint64_t)t->state << 2 | (uint64_t)t->lazy << 1 | t->begun;
        facts[1] = (uintptr_t)t->word;
        facts[2] = t->wake_at > 0 ? t->wake_at - s->clock : 0;
        facts[3] = s->clock;
        XXH3_64bits_update(hash, facts, sizeof(facts));
        if (t->begun && t->state != SIM_DONE && t->state != SIM_FREE)
            XXH3_64bits_update(hash, t->frame, (size_t)(t->stack + SIM_STACK - t->frame));
    }
    for (const struct sim_event *event = s->events; event != NULL; event = event->next) {
        facts[0] = (uintptr_t)event;
        XXH3_64bits_update(hash, facts, sizeof(facts[0]));
    }
}

static uint64_t state_hash(struct search *e)
{
    const char *base = arena_base();
    const struct schedule *s = &e->world->schedule;
    XXH3_state_t hash;

    forget_statistics(e);
    XXH3_64bits_reset(&hash);
    for (uint32_t i = 0; i < e->dirty_count; i++)
        add_memory(&hash, s, base + e->dirty_list[i] * CHUNK, CHUNK);
    add_schedule(&hash, s);
    if (e->bound > 0) {
        uint8_t path[2] = {e->last, e->preemptions};

        XXH3_64bits_update(&hash, path, sizeof(path));
    }
    return XXH3_64bits_digest(&hash);
}

/*
 * What a run changes is found out by the processor: the arena is read-only, and a page that is
 * written for the first time in the search becomes one of those that every state has.
 */
static void on_write(int signal, siginfo_t *info, void *context)
{
    struct search *e = &search;
    size_t n = (size_t)((char *)info->si_addr - (char *)arena_base()) / CHUNK;

    (void)context;
    if (n >= e->copied / CHUNK || e->dirty[n]) {
        struct sigaction standard = {.sa_handler = SIG_DFL};

        sigaction(signal, &standard, NULL); /* a real one */
        return;
    }
    e->dirty[n] = e->grown = true;
    e->dirty_list[e->dirty_count++] = (uint32_t)n;
    mprotect((char *)arena_base() + n * CHUNK, CHUNK, PROT_READ | PROT_WRITE);
}

static void watch_writes(void)
{
    static char stack[64 * 1024];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction action = {.sa_sigaction = on_write, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    check_always(sigaltstack(&alternate, NULL) == 0);
    check_always(sigaction(SIGSEGV, &action, NULL) == 0);
}

/* The world as it was before the threads started. */
static void restore_first(struct search *e)
{
    char *base = arena_base();

    arena_restore(e->used, e->live);
    for (uint32_t i = 0; i < e->dirty_count; i++)
        memcpy(base + e->dirty_list[i] * CHUNK, e->copy + e->dirty_list[i] * CHUNK, CHUNK);
}

/* Copy memory between the world and a point: what changes, the scheduler, and the stacks. Returns
 * the bytes it takes; with at NULL it only counts. */
static size_t copy_state(struct search *e, char *at, bool save)
{
    char *base = arena_base();
    struct schedule *s = &e->world->schedule;
    size_t size = 0;

    for (uint32_t i = 0; i < e->dirty_count; i++, size += CHUNK) {
        char *chunk = base + e->dirty_list[i] * CHUNK;

        if (at != NULL)
            memcpy(save ? at + size : chunk, save ? chunk : at + size, CHUNK);
    }
    if (at != NULL)
        memcpy(save ? at + size : (char *)s, save ? (char *)s : at + size, sizeof(*s));
    size += sizeof(*s);
    for (unsigned i = 0; i < s->thread_count; i++) {
        const struct sync_thread *t = &s->threads[i];
        char *low = t->frame - STACK_SPARE;
        size_t length = (size_t)(t->stack + SIM_STACK - low);

        if (!t->begun)
            continue;
        if (at != NULL)
            memcpy(save ? at + size : low, save ? low : at + size, length);
        size += length;
    }
    return size;
}

static void push_point(struct search *e)
{
    struct point *point = &e->points[e->depth];
    const struct schedule *s = &e->world->schedule;
    size_t size = copy_state(e, NULL, true);

    if (point->size < size) {
        free(point->state);
        point->state = malloc(size);
        point->size = size;
    }
    check_always(point->state != NULL);
    memcpy(point->ready, s->ready, sizeof(point->ready));
    point->count = s->ready_count;
    point->next = 0;
    point->last = e->last;
    point->preemptions = e->preemptions;
    for (unsigned i = 0; e->bound > 0 && e->preemptions >= e->bound && i < s->ready_count; i++) {
        if (s->ready[i] == e->last) { /* it must go on */
            point->ready[0] = e->last;
            point->count = 1;
        }
    }
    point->used = arena_used();
    point->live = arena_live();
    copy_state(e, point->state, true);
    e->depth++;
    if (e->depth > e->deepest)
        e->deepest = e->depth;
}

/* ---- the search ---- */

static void observe(void *observer, struct sync_thread *current, enum sync_point point)
{
    struct search *e = observer;
    const char *broken;

    e->steps++;
    if (e->world->machine == NULL)
        return;
    if (e->world->trace != NULL)
        trace_step(e->world->trace, current, point);
    broken = invariants_check(e->invariants, true);
    if (broken != NULL)
        schedule_fail(&e->world->schedule, broken);
}

static int build_world(struct search *e)
{
    const char *why = NULL;
    struct small *x;
    int error;

    if (e->copied > 0)
        mprotect(arena_base(), e->copied, PROT_READ | PROT_WRITE);
    error = small_build(e->scenario, e->kind, observe, e, &x, &why);
    e->world = &x->world;
    e->invariants = invariants_new(&x->world);
    if (error != 0)
        printf("%s: %s\n", e->scenario->name, why);
    return error;
}

/* Begin at the beginning; returns as schedule_run(). */
static int begin_run(struct search *e)
{
    e->last = e->preemptions = 0;
    restore_first(e);
    small_start((struct small *)(void *)e->world);
    return schedule_run(&e->world->schedule);
}

static void print_failure(struct search *e, const char *why)
{
    const char *kind = e->kind == MAPPER_COPY ? "copy" : "move";

    printf("%s (%s): %s\nrepeat: exhaust --only %s --%s --trace \"", e->scenario->name, kind, why,
           e->scenario->name, kind);
    for (unsigned i = 0; i < e->depth; i++)
        printf("%u ", e->points[i].ready[e->points[i].next - 1]);
    printf("\"\n");
}

static void take_copy(struct search *e)
{
    e->used = arena_used();
    e->live = arena_live();
    e->copied = (e->used + ARENA_SPARE + CHUNK - 1) / CHUNK * CHUNK;
    check_always(e->copied / CHUNK <= CHUNKS_MAX);
    e->copy = realloc(e->copy, e->copied);
    check_always(e->copy != NULL);
    memcpy(e->copy, arena_base(), e->copied);
    memset(e->dirty, 0, sizeof(e->dirty));
    e->dirty_count = 0;
    check_always(mprotect(arena_base(), e->copied, PROT_READ) == 0);
}

static void begin_search(struct search *e)
{
    if (e->seen != NULL)
        memset(e->seen, 0, e->seen_size * sizeof(*e->seen));
    e->seen_count = e->steps = e->moves = e->ends = e->cut = 0;
    e->depth = e->deepest = 0;
    e->bound = e->scenario->threads[SMALL_THREADS_MAX - 1] != NULL || e->scenario->large
                   ? e->preemptions_max
                   : 0;
}

/* Make the next move that has not been made; false: there is none. *error as schedule_run(). */
static bool move_on(struct search *e, int *error)
{
    struct schedule *s = &e->world->schedule;
    struct point *point;

    while (e->depth > 0 && e->points[e->depth - 1].next == e->points[e->depth - 1].count)
        e->depth--;
    if (e->depth == 0)
        return false;
    point = &e->points[e->depth - 1];
    if (point->next > 0) {
        arena_restore(point->used, point->live);
        copy_state(e, point->state, false);
    }
    e->moves++;
    e->last = point->ready[point->next++];
    e->preemptions = point->preemptions;
    for (unsigned i = 0; e->last != point->last && i < point->count; i++)
        e->preemptions = (uint8_t)(e->preemptions + (point->ready[i] == point->last));
    *error = schedule_continue(s, &s->threads[e->last]);
    return true;
}

/* Look at where a move has led. False: something is wrong. */
static bool arrive(struct search *e, int error)
{
    e->ends += error == 0;
    if (error == SCHEDULE_CHOICE && seen_add(e, state_hash(e))) {
        if (e->depth < DEPTH_MAX)
            push_point(e);
        else
            e->cut++;
    }
    return error == 0 || error == SCHEDULE_CHOICE;
}

/* All of a scenario. 0, or 1 if something was wrong. */
static int explore(struct search *e)
{
    int error = build_world(e);
    bool more;

    if (error != 0)
        return 1;
    take_copy(e);
    begin_search(e);
    error = begin_run(e);
    do {
        more = true;
        if (e->grown) { /* points made so far do not have all: begin anew */
            e->grown = false;
            begin_search(e);
            error = begin_run(e);
            continue;
        }
        if (!arrive(e, error)) {
            print_failure(e, e->world->schedule.stuck);
            return 1;
        }
        more = move_on(e, &error);
    } while (more);
    return 0;
}

/* ---- the command ---- */

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int repeat(struct search *e, char *choices)
{
    int error;

    if (build_world(e) != 0)
        return 1;
    e->world->trace = trace_new(e->world, stdout);
    take_copy(e);
    error = begin_run(e);
    for (char *at = strtok(choices, " "); error == SCHEDULE_CHOICE; at = strtok(NULL, " ")) {
        struct schedule *s = &e->world->schedule;
        unsigned n = at != NULL ? (unsigned)strtoul(at, NULL, 10) : s->ready[0];

        if (n >= s->thread_count || s->threads[n].state != SIM_READY) {
            printf("thread %u cannot go on here\n", n);
            return 2;
        }
        error = schedule_continue(s, &s->threads[n]);
    }
    trace_free(e->world->trace);
    printf("%s\n", error == 0 ? "passed" : e->world->schedule.stuck);
    return error == 0 ? 0 : 1;
}

static int explore_all(struct search *e, const char *only, int kinds)
{
    static const char *const names[] = {"copy", "move"};
    uint64_t states = 0, moves = 0, steps = 0, ends = 0;
    double began = seconds();
    int failed = 0;

    printf("%-28s %-5s %10s %10s %10s %12s %7s %5s %8s\n", "world", "", "states", "moves", "ends",
           "steps", "depth", "bound", "seconds");
    for (size_t i = 0; i < scenario_count; i++) {
        for (unsigned kind = 0; kind < 2; kind++) {
            double at = seconds();
            char bound[8];

            if ((only != NULL && strcmp(only, scenarios[i].name) != 0) || !(kinds >> kind & 1))
                continue;
            e->scenario = &scenarios[i];
            e->kind = kind == 0 ? MAPPER_COPY : MAPPER_MOVE;
            failed += explore(e);
            invariants_free(e->invariants);
            snprintf(bound, sizeof(bound), e->bound > 0 ? "%u" : "none", e->bound);
            if (e->cut > 0) /* the search would not be what it says */
                failed += printf("%s: paths are longer than %u choices\n", scenarios[i].name,
                                 DEPTH_MAX) > 0;
            printf("%-28s %-5s %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %12" PRIu64
                   " %7u %5s %8.1f\n",
                   scenarios[i].name, names[kind], e->seen_count, e->moves, e->ends, e->steps,
                   e->deepest, bound, seconds() - at);
            fflush(stdout);
            states += e->seen_count;
            moves += e->moves;
            steps += e->steps;
            ends += e->ends;
        }
    }
    printf("%-28s %-5s %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %12" PRIu64 " %7s %5s %8.1f\n",
           "all", "", states, moves, ends, steps, "", "", seconds() - began);
    printf(failed == 0 ? "every state of every world is well\n" : "%d worlds FAILED\n", failed);
    return failed == 0 ? 0 : 1;
}

static int usage(void)
{
    fprintf(
        stderr,
        "usage: exhaust [--preemptions N] [--only WORLD [--copy | --move] [--trace \"THREADS\"]] "
        "[--list]\n");
    return 2;
}

int main(int argc, char **argv)
{
    const char *only = NULL;
    char *trace = NULL;
    int kinds = 3;

    search.preemptions_max = 2;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            only = argv[++i];
        else if (strcmp(argv[i], "--trace") == 0 && i + 1 < argc)
            trace = argv[++i];
        else if (strcmp(argv[i], "--preemptions") == 0 && i + 1 < argc)
            search.preemptions_max = (uint8_t)strtoul(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--copy") == 0)
            kinds = 1;
        else if (strcmp(argv[i], "--move") == 0)
            kinds = 2;
        else if (strcmp(argv[i], "--list") != 0)
            return usage();
        else
            for (size_t n = 0; n < scenario_count; n++)
                printf("%s\n", scenarios[n].name);
    }
    if (argc > 1 && strcmp(argv[1], "--list") == 0)
        return 0;
    watch_writes();
    log_use_descriptor(open("/dev/null", O_WRONLY | O_CLOEXEC));
    if (trace == NULL)
        return explore_all(&search, only, kinds);
    for (size_t n = 0; n < scenario_count && only != NULL; n++) {
        if (strcmp(scenarios[n].name, only) != 0)
            continue;
        search.scenario = &scenarios[n];
        search.kind = kinds == 2 ? MAPPER_MOVE : MAPPER_COPY;
        return repeat(&search, trace);
    }
    return usage();
}
