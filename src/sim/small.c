#include "sim/small.h"

#include <errno.h>
#include <string.h>

#include "core/check.h"
#include "sim/arena.h"

/* Trimmed, written, rescued and found unchanged: after that a page is mapped protected. */
#define PROTECTED "w0 t1 b r0 t1 r0"
/* Pages 0, 2 and 3 are protected, 2 is pinned then, and 1 is in the pagefile. */
#define PROTECTED_BETWEEN "w0 w1 w2 w3 t2 b b t2 b b r0 r1 r2 r3 t2 t2 r0 r1 r2 r3 t4 r0 r2 r3 l2"
#define PROTECTED_TWO "w0 w1 t2 b b r0 r1 t2 r0 r1"

const struct scenario scenarios[] = {
    {"touch-touch", 2, 2, 2, "", {"r0", "w0"}, false},
    {"touch-touch-touch", 2, 2, 2, "", {"w0", "w0", "r0"}, false},
    {"read-read", 2, 2, 2, "w0 t1 b f1", {"r0", "w0"}, false},
    {"read-read-read", 2, 2, 2, "w0 t1 b f1", {"r0", "w0", "r0"}, false},
    {"read-trim", 2, 2, 2, "w0", {"r0", "t1"}, false},
    {"write-trim", 2, 2, 2, "w0", {"w0", "t1"}, false},
    {"write-trim-write", 2, 2, 2, "w0", {"w0", "t1", "w0"}, false},
    {"write-trim-clean", 2, 2, 2, "w0 t1 b r0", {"w0", "t1"}, false},
    {"protected-trim", 2, 2, 2, PROTECTED, {"w0", "t1"}, false},
    {"protected-trim-write", 2, 2, 2, PROTECTED, {"w0", "t1", "w0"}, false},
    {"protected-trim-read", 2, 2, 2, PROTECTED, {"r0", "t1", "w0"}, false},
    {"protected-trim-trim", 2, 2, 2, PROTECTED, {"w0 t1", "t1"}, false},
    {"protected-decommit", 2, 2, 2, PROTECTED, {"d0", "t1", "w0"}, false},
    {"protected-unmap", 2, 2, 2, PROTECTED, {"u0", "w0", "t1"}, false},
    {"protected-pin", 2, 2, 2, PROTECTED, {"p0", "t1", "w0"}, false},
    {"protected-rescue", 2, 2, 2, PROTECTED " t1", {"r0", "w0", "t1"}, false},
    {"protected-two", 2, 2, 2, PROTECTED_TWO, {"w0", "t2"}, false},
    {"protected-two-write", 2, 2, 2, PROTECTED_TWO, {"w0", "w1", "t2"}, true},
    {"protected-one-frame", 2, 1, 2, PROTECTED, {"w1", "w0"}, true},
    {"protected-between", 4, 6, 4, PROTECTED_BETWEEN, {"r1", "w0 w3 t2"}, false},
    {"rescue-rescue", 2, 2, 2, "w0 t1", {"r0", "w0"}, false},
    {"rescue-writeback", 2, 2, 2, "w0 t1", {"w0", "b"}, false},
    {"rescue-writeback-rescue", 2, 2, 2, "w0 t1", {"w0", "b", "r0"}, false},
    {"rescue-trim-writeback", 2, 2, 2, "w0 t1", {"w0 t1", "b"}, false},
    {"rescue-repurpose", 2, 2, 2, "w0 t1 b", {"w0", "f1"}, false},
    {"rescue-repurpose-rescue", 2, 2, 2, "w0 t1 b", {"w0", "f1", "r0"}, false},
    {"decommit-touch", 2, 2, 2, "", {"d0", "w0"}, false},
    {"decommit-write", 2, 2, 2, "w0", {"d0", "w0"}, false},
    {"decommit-trim", 2, 2, 2, "w0", {"d0", "t1"}, false},
    {"decommit-trim-write", 2, 2, 2, "w0", {"d0", "t1", "w0"}, false},
    {"decommit-rescue", 2, 2, 2, "w0 t1", {"d0", "w0"}, false},
    {"decommit-writeback", 2, 2, 2, "w0 t1", {"d0", "b"}, false},
    {"decommit-writeback-rescue", 2, 2, 2, "w0 t1", {"d0", "b", "w0"}, false},
    {"decommit-repurpose", 2, 2, 2, "w0 t1 b", {"d0", "f1"}, false},
    {"decommit-read", 2, 2, 2, "w0 t1 b f1", {"d0", "w0"}, false},
    {"decommit-decommit", 2, 2, 2, "w0", {"d0", "d0"}, false},
    {"unmap-touch", 2, 2, 2, "", {"u0", "r0"}, false},
    {"unmap-read", 2, 2, 2, "w0 t1 b f1", {"u0", "r0"}, false},
    {"unmap-trim", 2, 2, 2, "w0 w1", {"u0", "t2"}, false},
    {"unmap-rescue", 2, 2, 2, "w0 t1", {"u0", "r0"}, false},
    {"unmap-writeback", 2, 2, 2, "w0 t1", {"u0", "b"}, false},
    {"unmap-repurpose", 2, 2, 2, "w0 t1 b", {"u0", "f1"}, false},
    {"unmap-decommit", 2, 2, 2, "w0", {"u0", "d0"}, false},
    {"error-rescue", 2, 2, 2, "w0 t1 x1", {"w0", "b"}, false},
    {"error-rescue-read", 2, 2, 2, "w0 t1 x2", {"w0", "b", "r0"}, false},
    {"error-decommit", 2, 2, 2, "w0 t1 x1", {"d0", "b"}, false},
    {"device-trim", 2, 2, 2, "w0", {"i0", "t1"}, false},
    {"device-trim-write", 2, 2, 2, "w0", {"i0", "t1", "w0"}, false},
    {"pin-trim", 2, 2, 2, "w0", {"p0", "t1"}, false},
    {"pin-read", 2, 2, 2, "w0 t1 b f1", {"p0", "w0"}, false},
    {"pin-decommit", 2, 2, 2, "w0", {"p0", "d0"}, false},
    {"pin-unmap", 2, 2, 2, "w0", {"p0", "u0"}, false},
    {"pin-pin-trim", 2, 3, 2, "w0", {"p0", "p0", "t1"}, false},
    {"prefault-write", 2, 2, 2, "w0 w1 t2 b f2", {"e0 e1", "w0"}, true},
    {"prefault-trim", 2, 2, 2, "w0 t1 b f1", {"e0", "t1"}, false},
    {"ageing-touch", 8, 2, 8, "w0 d0", {"w0", "a"}, false},
    {"ageing-rescue", 8, 2, 8, "w0 t1", {"r0", "a"}, false},
    {"check-write", 2, 2, 2, "w0 t1", {"k", "w0"}, false},
    {"check-read", 2, 2, 2, "w0 t1 b f1", {"k", "r0"}, false},
    {"check-writeback", 2, 2, 2, "w0 t1", {"k", "b"}, false},
    {"one-frame", 2, 1, 2, "w0", {"w1", "w0"}, true},
    {"one-frame-cross", 2, 1, 2, "", {"w0 r1", "w1 r0"}, true},
    {"one-frame-three", 2, 1, 2, "w0", {"w1", "w0", "r1"}, false},
    {"two-frames-three", 2, 2, 2, "w0 w1", {"w0", "t2", "w1"}, false},
};

const unsigned scenario_count = sizeof(scenarios) / sizeof(scenarios[0]);

static _Noreturn void fail(struct small *x, const char *why)
{
    schedule_fail(&x->world.schedule, why);
}

/* ---- operations ---- */

static void do_access(struct small *x, unsigned n, bool write, unsigned thread)
{
    struct world_page *page = &x->pages[n];
    unsigned epoch = page->epoch;
    char *memory;
    enum mmu_result result =
        mmu_access(x->world.machine, x->base + n * PAGE_SIZE, write, thread, true, &memory);

    if (result == MMU_SIGSEGV && (page->epoch != epoch || !page->live))
        return;
    if (result != MMU_OK)
        fail(x, "an access failed");
    if (!world_page_is(&x->world, x->base + n * PAGE_SIZE, memory))
        fail(x, "an access found wrong data");
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
        fail(x, "unmap failed");
    x->unmapped[n] = true;
}

static void device_write(struct small *x, unsigned n, unsigned thread)
{
    struct mmu_page *at = mmu_page(mmu_of(x->world.machine), x->base + n * PAGE_SIZE);

    schedule_yield(&x->world.schedule, SYNC_AT_STEP);
    if (at->memory == NULL)
        fail(x, "a page that a device uses is not there");
    x->writes++;
    memcpy(at->memory + 64 * thread, &x->writes, sizeof(x->writes));
    memcpy(x->pages[n].content, at->memory, PAGE_SIZE);
    x->pages[n].written = true;
    schedule_yield(&x->world.schedule, SYNC_AT_STEP);
    if (at->memory == NULL)
        fail(x, "a page that a device uses has gone");
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
            fail(x, "a pinned page cannot be unpinned");
    } else if (page->live) {
        fail(x, "a page cannot be pinned");
    }
    page->pins--;
}

static void do_lock(struct small *x, unsigned n)
{
    x->pages[n].pins++;
    if (machine_pin(x->world.machine, x->base + n * PAGE_SIZE, PAGE_SIZE) != 0)
        fail(x, "a page cannot be pinned");
}

/* A pass of the ager, due or not. */
static void age_now(struct machine *m)
{
    atomic_store(&m->trimmer.aged_at, atomic_load(&m->consumed) - m->active_max - 1);
    age_step(m);
}

/* The kernel keeps a page from being moved while a device holds it: found present, held. */
static void do_device(struct small *x, unsigned n, unsigned thread)
{
    struct mmu_page *at = mmu_page(mmu_of(x->world.machine), x->base + n * PAGE_SIZE);
    char *memory;

    if (x->kind != MAPPER_MOVE || mmu_access(x->world.machine, x->base + n * PAGE_SIZE, true,
                                             thread, true, &memory) != MMU_OK)
        return;
    at->in_use = true;
    device_write(x, n, thread);
    at->in_use = false;
}

/* Trimming, ageing and writing are one thread's each; without workers the reclaim lock sees to it. */
static void do_reclaim(struct small *x, char what, unsigned n)
{
    struct machine *m = x->world.machine;

    sync_rwlock_read(&m->sync, &m->gate, SYNC_GATE);
    if (what != 'f')
        sync_mutex_lock(&m->sync, &m->reclaim_lock, SYNC_RECLAIM);
    if (what == 't')
        trim_pages(m, n);
    if (what == 'a')
        age_now(m);
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
    case 'a':
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
    case 'l':
        do_lock(x, n);
        break;
    case 'i':
        do_device(x, n, thread);
        break;
    case 'e':
        if (machine_prefault(x->world.machine, &range, 1) != 0)
            fail(x, "prefault failed");
        break;
    case 'x':
        disk_fail_writes(x->world.disk, n);
        break;
    case 'k':
        if (machine_check(x->world.machine) != 0)
            fail(x, "the books do not balance in the midst");
        break;
    default:
        fail(x, "an operation that is none");
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

/* Thread 0: waits for the others, and looks at what they leave. */
static void judge_main(void *argument)
{
    struct small *x = argument;
    struct world *w = &x->world;

    for (unsigned i = 0; i < SMALL_THREADS_MAX && x->threads[i] != NULL; i++)
        schedule_join(&w->schedule, x->threads[i]);
    /* Before a touch could mend what is wrong, and at last. */
    if (machine_check(w->machine) != 0)
        fail(x, "the books do not balance when the threads have ended");
    for (unsigned n = 0; n < x->scenario->pages; n++) {
        if (!x->unmapped[n])
            do_access(x, n, false, 9);
    }
    if (machine_check(w->machine) != 0)
        fail(x, "the books do not balance");
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
                                      .mapper_has_cache = x->kind == MAPPER_COPY,
                                      .store = disk_store(w->disk),
                                      .pool_queues = SMALL_THREADS_MAX + 1};

    if (machine_create(&options, &w->machine) != 0 ||
        region_map(w->machine, x->scenario->pages * PAGE_SIZE, false, &x->base) != 0)
        fail(x, "the world cannot be made");
    for (unsigned n = 0; n < x->scenario->pages; n++)
        x->pages[n].live = true;
    perform(x, x->scenario->before, 8);
}

static void schedule_small(struct small *x,
                           void (*observe)(void *, struct sync_thread *, enum sync_point),
                           void *observer)
{
    struct schedule *s = &x->world.schedule;

    schedule_init(s, SCHEDULE_CHOSEN, 1, 1);
    s->step_ns = 0;
    s->observe = observe;
    s->observer = observer;
    /* A switch after an unlock is as good as one before what comes next. */
    s->points = ~(UINT64_C(1) << SYNC_AT_UNLOCK);
}

/* Worlds called "protected-" map pages protected; the others notice changes by hash. */
static void tune(struct tunables *t, enum tunable_mapper kind, const struct scenario *scenario)
{
    bool protect = strncmp(scenario->name, "protected-", strlen("protected-")) == 0;

    tunables_init(t);
    t->mapper = kind;
    t->trap = TRAP_NONE;
    t->workers = false;
    t->read_window = t->touch_window = 1;
    t->write_depth = t->write_batch = 1;
    t->deferred = false;
    t->hash_seed = 1;
    t->dirty = protect ? DIRTY_AUTO : DIRTY_HASH;
    /* The writer's page and the frames; with a cache, staging and buffers, too: a page of each, or
     * two where there are more frames. */
    t->memory =
        (1 + scenario->frames + (kind == MAPPER_COPY ? (scenario->frames > 3 ? 4 : 2) : 0)) *
        PAGE_SIZE;
}

int small_build(const struct scenario *scenario, enum tunable_mapper kind,
                void (*observe)(void *observer, struct sync_thread *current, enum sync_point point),
                void *observer, struct small **out, const char **why)
{
    static const struct disk_faults disk = {.latency_min = 1000, .latency_max = 1000};
    static const struct mmu_faults mmu;
    struct schedule *s;
    struct small *x;
    int error;

    arena_reset();
    x = platform_sim.reserve(sizeof(*x));
    *out = x;
    s = &x->world.schedule;
    x->scenario = scenario;
    x->kind = kind;
    tune(&x->config.tunables, kind, scenario);
    x->world.config = &x->config;
    x->world.pages = x->pages;
    schedule_small(x, NULL, NULL);
    x->world.disk = disk_open(s, 1, scenario->slots + 1, true, &disk);
    mmu_prepare(s, kind, 1, &mmu);
    check_always(schedule_start(s, "prepare", prepare_main, x) != NULL);
    check_always(schedule_start(s, "disk", disk_main, s) != NULL);
    error = schedule_run(s);
    while (error == SCHEDULE_CHOICE) /* any order will do here */
        error = schedule_continue(s, &s->threads[s->ready[0]]);
    *why = s->stuck;
    check_always(error != 0 || x->world.machine->active_max == scenario->frames);
    schedule_small(x, observe, observer);
    return error;
}

void small_start(struct small *x)
{
    struct schedule *s = &x->world.schedule;

    schedule_start(s, "judge", judge_main, x);
    schedule_start(s, "disk", disk_main, s);
    for (unsigned i = 0; i < SMALL_THREADS_MAX && x->scenario->threads[i] != NULL; i++) {
        x->actors[i] = (struct actor){x, x->scenario->threads[i], i + 1};
        x->threads[i] = schedule_start(s, x->actors[i].program, actor_main, &x->actors[i]);
    }
}
