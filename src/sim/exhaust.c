/*
 * exhaust: all interleavings of small worlds.
 *
 *   exhaust [--preemptions N] [--only WORLD [--copy | --move] [--trace "0 1 1 …"]] [--list]
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
 *
 * Operations, each a letter with a number: wN write page N, rN read it, tN trim N pages, b write
 * modified pages, fN repurpose N standby frames, dN decommit page N, uN unmap it, pN pin it, let a
 * device write, and unpin it, iN let a device use it unpinned (move), eN prefault it, xN let N
 * writes fail, k check the books.
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
#include "sim/world.h"

#define THREADS_MAX 3u
#define PAGES 2u
#define DEPTH_MAX 4000u
#define CHUNK PAGE_SIZE
#define CHUNKS_MAX 4096u
#define ARENA_SPARE ((size_t)64 * 1024) /* bytes that a run may reserve */
#define STACK_SPARE 1024                /* bytes below a thread's frame that it still needs */

struct scenario {
    const char *name;
    unsigned frames; /* that may be Active */
    unsigned slots;
    const char *before; /* done alone, before the threads start */
    const char *threads[THREADS_MAX];
};

static const struct scenario scenarios[] = {
    {"touch-touch", 2, 2, "", {"r0", "w0"}},
    {"touch-touch-touch", 2, 2, "", {"w0", "w0", "r0"}},
    {"read-read", 2, 2, "w0 t1 b f1", {"r0", "w0"}},
    {"read-read-read", 2, 2, "w0 t1 b f1", {"r0", "w0", "r0"}},
    {"read-trim", 2, 2, "w0", {"r0", "t1"}},
    {"write-trim", 2, 2, "w0", {"w0", "t1"}},
    {"write-trim-write", 2, 2, "w0", {"w0", "t1", "w0"}},
    {"write-trim-clean", 2, 2, "w0 t1 b r0", {"w0", "t1"}},
    {"rescue-rescue", 2, 2, "w0 t1", {"r0", "w0"}},
    {"rescue-writeback", 2, 2, "w0 t1", {"w0", "b"}},
    {"rescue-writeback-rescue", 2, 2, "w0 t1", {"w0", "b", "r0"}},
    {"rescue-trim-writeback", 2, 2, "w0 t1", {"w0 t1", "b"}},
    {"rescue-repurpose", 2, 2, "w0 t1 b", {"w0", "f1"}},
    {"rescue-repurpose-rescue", 2, 2, "w0 t1 b", {"w0", "f1", "r0"}},
    {"decommit-touch", 2, 2, "", {"d0", "w0"}},
    {"decommit-write", 2, 2, "w0", {"d0", "w0"}},
    {"decommit-trim", 2, 2, "w0", {"d0", "t1"}},
    {"decommit-trim-write", 2, 2, "w0", {"d0", "t1", "w0"}},
    {"decommit-rescue", 2, 2, "w0 t1", {"d0", "w0"}},
    {"decommit-writeback", 2, 2, "w0 t1", {"d0", "b"}},
    {"decommit-writeback-rescue", 2, 2, "w0 t1", {"d0", "b", "w0"}},
    {"decommit-repurpose", 2, 2, "w0 t1 b", {"d0", "f1"}},
    {"decommit-read", 2, 2, "w0 t1 b f1", {"d0", "w0"}},
    {"decommit-decommit", 2, 2, "w0", {"d0", "d0"}},
    {"unmap-touch", 2, 2, "", {"u0", "r0"}},
    {"unmap-read", 2, 2, "w0 t1 b f1", {"u0", "r0"}},
    {"unmap-trim", 2, 2, "w0 w1", {"u0", "t2"}},
    {"unmap-rescue", 2, 2, "w0 t1", {"u0", "r0"}},
    {"unmap-writeback", 2, 2, "w0 t1", {"u0", "b"}},
    {"unmap-repurpose", 2, 2, "w0 t1 b", {"u0", "f1"}},
    {"unmap-decommit", 2, 2, "w0", {"u0", "d0"}},
    {"error-rescue", 2, 2, "w0 t1 x1", {"w0", "b"}},
    {"error-rescue-read", 2, 2, "w0 t1 x2", {"w0", "b", "r0"}},
    {"error-decommit", 2, 2, "w0 t1 x1", {"d0", "b"}},
    {"device-trim", 2, 2, "w0", {"i0", "t1"}},
    {"device-trim-write", 2, 2, "w0", {"i0", "t1", "w0"}},
    {"pin-trim", 2, 2, "w0", {"p0", "t1"}},
    {"pin-read", 2, 2, "w0 t1 b f1", {"p0", "w0"}},
    {"pin-decommit", 2, 2, "w0", {"p0", "d0"}},
    {"pin-unmap", 2, 2, "w0", {"p0", "u0"}},
    {"pin-pin-trim", 2, 2, "w0", {"p0", "p0", "t1"}},
    {"prefault-write", 2, 2, "w0 w1 t2 b f2", {"e0 e1", "w0"}},
    {"prefault-trim", 2, 2, "w0 t1 b f1", {"e0", "t1"}},
    {"check-write", 2, 2, "w0 t1", {"k", "w0"}},
    {"check-read", 2, 2, "w0 t1 b f1", {"k", "r0"}},
    {"check-writeback", 2, 2, "w0 t1", {"k", "b"}},
    {"one-frame", 1, 2, "w0", {"w1", "w0"}},
    {"one-frame-cross", 1, 2, "", {"w0 r1", "w1 r0"}},
    {"one-frame-three", 1, 2, "w0", {"w1", "w0", "r1"}},
    {"two-frames-three", 2, 2, "w0 w1", {"w0", "t2", "w1"}},
};

#define SCENARIOS (sizeof(scenarios) / sizeof(scenarios[0]))

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

/* What a run keeps besides the machine; in the arena, so that it is part of the state. */
struct small {
    struct world world;
    struct world_config config;
    struct world_page pages[PAGES + 1];
    struct sync_thread *threads[THREADS_MAX];
    struct actor {
        struct small *x;
        const char *program;
        unsigned number;
    } actors[THREADS_MAX];
    uint32_t writes; /* numbers the writes */
    uintptr_t base;
    bool unmapped[PAGES];
};

static struct search search;

static _Noreturn void fail(const char *why)
{
    schedule_fail(&search.world->schedule, why);
}

/* ---- operations ---- */

static void do_access(struct small *x, unsigned n, bool write, unsigned thread)
{
    struct world_page *page = &x->pages[n];
    unsigned epoch = page->epoch;
    char *memory;
    enum mmu_result result =
        mmu_access(x->world.machine, x->base + n * PAGE_SIZE, write, thread, true, &memory);

    if (result == MMU_SIGSEGV && page->epoch != epoch)
        return;
    if (result != MMU_OK)
        fail("an access failed");
    if (!world_page_is(&x->world, x->base + n * PAGE_SIZE, memory))
        fail("an access found wrong data");
    if (!write)
        return;
    x->writes++;
    memcpy(memory + 64 * thread, &x->writes, sizeof(x->writes));
    memcpy(page->content, memory, PAGE_SIZE);
    page->written = true;
}

static void do_decommit(struct small *x, unsigned n)
{
    struct world_page *page = &x->pages[n];
    struct machine *m = x->world.machine;
    unsigned epoch = page->epoch;
    int error;

    page->drops++;
    if (page->dropping++ == 0)
        page->written = page->maybe_zero;
    machine_enter(m);
    error = region_decommit(m, x->base + n * PAGE_SIZE, PAGE_SIZE);
    sync_rwlock_unread(&m->sync, &m->gate, SYNC_GATE);
    if (page->epoch != epoch)
        return;
    page->dropping--;
    if (error != 0 || page->written || page->dropping > 0) {
        page->maybe_zero = true;
        return;
    }
    memset(page->content, 0, PAGE_SIZE);
    page->maybe_zero = false;
}

static void do_unmap(struct small *x, unsigned n)
{
    struct machine *m = x->world.machine;
    struct world_page *page = &x->pages[n];
    int error;

    page->epoch++;
    page->live = false;
    machine_enter(m);
    error = region_unmap(m, x->base + n * PAGE_SIZE, PAGE_SIZE);
    sync_rwlock_unread(&m->sync, &m->gate, SYNC_GATE);
    if (error == -EBUSY && page->pins > 0) {
        page->live = true;
        return;
    }
    if (error != 0)
        fail("unmap failed");
    x->unmapped[n] = true;
}

static void device_write(struct small *x, unsigned n, unsigned thread)
{
    struct mmu_page *at = mmu_page(mmu_of(x->world.machine), x->base + n * PAGE_SIZE);

    schedule_yield(&x->world.schedule, SYNC_AT_STEP);
    if (at->memory == NULL)
        fail("a page that a device uses is not there");
    x->writes++;
    memcpy(at->memory + 64 * thread, &x->writes, sizeof(x->writes));
    memcpy(x->pages[n].content, at->memory, PAGE_SIZE);
    x->pages[n].written = true;
    schedule_yield(&x->world.schedule, SYNC_AT_STEP);
    if (at->memory == NULL)
        fail("a page that a device uses has gone");
}

static void do_pin(struct small *x, unsigned n, unsigned thread)
{
    struct machine *m = x->world.machine;
    struct world_page *page = &x->pages[n];
    uintptr_t va = x->base + n * PAGE_SIZE;

    page->pins++;
    if (machine_pin(m, va, PAGE_SIZE) == 0) {
        device_write(x, n, thread);
        if (machine_unpin(m, va, PAGE_SIZE) != 0)
            fail("a pinned page cannot be unpinned");
    } else if (page->live) {
        fail("a page cannot be pinned");
    }
    page->pins--;
}

/* The kernel keeps a page from being moved while a device holds it: found present, held. */
static void do_device(struct small *x, unsigned n, unsigned thread)
{
    struct mmu_page *at = mmu_page(mmu_of(x->world.machine), x->base + n * PAGE_SIZE);
    char *memory;

    if (search.kind != MAPPER_MOVE || mmu_access(x->world.machine, x->base + n * PAGE_SIZE, true,
                                                 thread, true, &memory) != MMU_OK)
        return;
    at->in_use = true;
    device_write(x, n, thread);
    at->in_use = false;
}

/* Trimming and writing are one thread's each; without workers the reclaim lock sees to it. */
static void do_reclaim(struct small *x, char what, unsigned n)
{
    struct machine *m = x->world.machine;

    sync_rwlock_read(&m->sync, &m->gate, SYNC_GATE);
    if (what != 'f')
        sync_mutex_lock(&m->sync, &m->reclaim_lock, SYNC_RECLAIM);
    if (what == 't')
        trim_pages(m, n);
    if (what == 'f')
        refill_standby(m, n);
    if (what == 'b') {
        atomic_fetch_add(&m->waiting, 1); /* as if a fault needed it now */
        writer_step(m);
        atomic_fetch_sub(&m->waiting, 1);
        writer_drain(m);
    }
    if (what != 'f')
        sync_mutex_unlock(&m->sync, &m->reclaim_lock, SYNC_RECLAIM);
    sync_rwlock_unread(&m->sync, &m->gate, SYNC_GATE);
}

static void do_operation(struct small *x, char what, unsigned n, unsigned thread)
{
    struct iovec range = {.iov_base = (void *)(x->base + n * PAGE_SIZE), .iov_len = PAGE_SIZE};

    switch (what) {
    case 'r':
    case 'w':
        do_access(x, n, what == 'w', thread);
        break;
    case 't':
    case 'b':
    case 'f':
        do_reclaim(x, what, n);
        break;
    case 'd':
        do_decommit(x, n);
        break;
    case 'u':
        do_unmap(x, n);
        break;
    case 'p':
        do_pin(x, n, thread);
        break;
    case 'i':
        do_device(x, n, thread);
        break;
    case 'e':
        if (machine_prefault(x->world.machine, &range, 1) != 0)
            fail("prefault failed");
        break;
    case 'x':
        disk_fail_writes(x->world.disk, n);
        break;
    case 'k':
        if (machine_check(x->world.machine) != 0)
            fail("the books do not balance in the midst");
        break;
    default:
        fail("an operation that is none");
    }
}

static void perform(struct small *x, const char *program, unsigned thread)
{
    while (*program != '\0') {
        char what = *program++;
        unsigned n = 0;

        while (*program >= '0' && *program <= '9')
            n = n * 10 + (unsigned)(*program++ - '0');
        if (what != ' ')
            do_operation(x, what, n, thread);
    }
}

static void actor_main(void *argument)
{
    const struct actor *actor = argument;

    perform(actor->x, actor->program, actor->number);
}

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
    forget_signals(&m->queues_event);
    forget_signals(&m->writer.idle);
    atomic_store(&m->trimmer.aged_at, 0);
    atomic_store(&m->consumed, consumed < m->active_max + 1 ? consumed : m->active_max + 1);
    for (uint32_t n = 0; n < m->frame_count; n++) {
        if (m->frames[n].rescued > STANDBY_PRIORITIES)
            m->frames[n].rescued = STANDBY_PRIORITIES;
    }
    for (size_t n = 0; n < PAGES; n++) /* trap sigbus: nobody sleeps on a page */
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
        fail(broken);
}

/* Thread 0: waits for the others, and looks at what they leave. */
static void judge_main(void *argument)
{
    struct small *x = argument;
    struct world *w = &x->world;

    for (unsigned i = 0; i < THREADS_MAX && x->threads[i] != NULL; i++)
        schedule_join(&w->schedule, x->threads[i]);
    for (unsigned n = 0; n < PAGES; n++) {
        if (!x->unmapped[n])
            do_access(x, n, false, 9);
    }
    if (machine_check(w->machine) != 0)
        fail("the books do not balance");
}

static void disk_main(void *argument)
{
    schedule_serve_events(argument);
}

/* The world as it is before the threads start. */
static void prepare_main(void *argument)
{
    struct small *x = argument;
    struct world *w = &x->world;
    struct machine_options options = {.tunables = &x->config.tunables,
                                      .backend = &w->schedule.backend,
                                      .platform = &platform_sim,
                                      .mapper_open = mmu_open,
                                      .mapper_has_cache = search.kind == MAPPER_COPY,
                                      .store = disk_store(w->disk),
                                      .pool_queues = THREADS_MAX + 1};

    if (machine_create(&options, &w->machine) != 0 ||
        region_map(w->machine, PAGES * PAGE_SIZE, false, &x->base) != 0)
        fail("the world cannot be made");
    for (unsigned n = 0; n < PAGES; n++)
        x->pages[n].live = true;
    perform(x, search.scenario->before, 8);
}

static void schedule_small(struct small *x)
{
    struct schedule *s = &x->world.schedule;

    schedule_init(s, SCHEDULE_CHOSEN, 1, 1);
    s->step_ns = 0;
    s->observe = observe;
    s->observer = &search;
    /* A switch after an unlock is as good as one before what comes next. */
    s->points = ~(UINT64_C(1) << SYNC_AT_UNLOCK);
}

static void tune(struct tunables *t, enum tunable_mapper kind, unsigned frames)
{
    tunables_init(t);
    t->mapper = kind;
    t->trap = TRAP_NONE;
    t->workers = false;
    t->read_window = t->touch_window = 1;
    t->write_depth = t->write_batch = 1;
    t->deferred = false;
    t->hash_seed = 1;
    /* The writer's page and the frames; with a cache, a page of staging and a buffer, too. */
    t->memory = (1 + frames + (kind == MAPPER_COPY ? 2 : 0)) * PAGE_SIZE;
}

static int build_world(struct search *e)
{
    static const struct disk_faults disk = {.latency_min = 1000, .latency_max = 1000};
    static const struct mmu_faults mmu;
    struct small *x;
    int error;

    if (e->copied > 0)
        mprotect(arena_base(), e->copied, PROT_READ | PROT_WRITE);
    arena_reset();
    x = platform_sim.reserve(sizeof(*x));
    e->world = &x->world;
    tune(&x->config.tunables, e->kind, e->scenario->frames);
    x->world.config = &x->config;
    x->world.pages = x->pages;
    schedule_small(x);
    x->world.disk = disk_open(&x->world.schedule, 1, e->scenario->slots + 1, true, &disk);
    mmu_prepare(&x->world.schedule, e->kind, 1, &mmu);
    e->invariants = invariants_new(&x->world);
    check_always(schedule_start(&x->world.schedule, "prepare", prepare_main, x) != NULL);
    schedule_start(&x->world.schedule, "disk", disk_main, &x->world.schedule);
    error = schedule_run(&x->world.schedule);
    while (error == SCHEDULE_CHOICE) /* any order will do here */
        error = schedule_continue(&x->world.schedule,
                                  &x->world.schedule.threads[x->world.schedule.ready[0]]);
    if (error != 0)
        printf("%s: %s\n", e->scenario->name, x->world.schedule.stuck);
    check_always(error != 0 || x->world.machine->active_max == e->scenario->frames);
    schedule_small(x);
    return error;
}

/* Begin at the beginning; returns as schedule_run(). */
static int begin_run(struct search *e)
{
    struct small *x = (struct small *)(void *)e->world;
    struct schedule *s = &x->world.schedule;

    e->last = e->preemptions = 0;
    restore_first(e);
    schedule_start(s, "judge", judge_main, x);
    schedule_start(s, "disk", disk_main, s);
    for (unsigned i = 0; i < THREADS_MAX && e->scenario->threads[i] != NULL; i++) {
        x->actors[i] = (struct actor){x, e->scenario->threads[i], i + 1};
        x->threads[i] = schedule_start(s, x->actors[i].program, actor_main, &x->actors[i]);
    }
    return schedule_run(s);
}

static void print_failure(struct search *e, const char *why)
{
    const char *kind = e->kind == MAPPER_COPY ? "copy" : "move";

    printf("%s (%s): %s\nrepeat: exhaust --only %s --%s --trace \"", e->scenario->name, kind, why,
           e->scenario->name, kind);
    for (unsigned i = 0; i < e->depth; i++)
        printf("%u ", e->points[i].next - 1);
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
    e->bound = e->scenario->threads[2] != NULL || e->scenario->frames == 1 ? e->preemptions_max : 0;
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
        unsigned n = at != NULL ? (unsigned)strtoul(at, NULL, 10) : 0;

        error = schedule_continue(s, &s->threads[s->ready[n % s->ready_count]]);
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
    for (size_t i = 0; i < SCENARIOS; i++) {
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
        "usage: exhaust [--preemptions N] [--only WORLD [--copy | --move] [--trace \"CHOICES\"]] "
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
            for (size_t n = 0; n < SCENARIOS; n++)
                printf("%s\n", scenarios[n].name);
    }
    if (argc > 1 && strcmp(argv[1], "--list") == 0)
        return 0;
    watch_writes();
    log_use_descriptor(open("/dev/null", O_WRONLY | O_CLOEXEC));
    if (trace == NULL)
        return explore_all(&search, only, kinds);
    for (size_t n = 0; n < SCENARIOS && only != NULL; n++) {
        if (strcmp(scenarios[n].name, only) != 0)
            continue;
        search.scenario = &scenarios[n];
        search.kind = kinds == 2 ? MAPPER_MOVE : MAPPER_COPY;
        return repeat(&search, trace);
    }
    return usage();
}
