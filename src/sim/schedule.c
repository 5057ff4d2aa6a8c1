#include "sim/schedule.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "core/check.h"

#ifdef __has_feature
#define HAS_FEATURE(feature) __has_feature(feature)
#else
#define HAS_FEATURE(feature) 0
#endif

/* The address sanitizer must be told of every change of stacks. */
#if defined(__SANITIZE_ADDRESS__) || HAS_FEATURE(address_sanitizer)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
/* No function that used it will return. */
static void stack_renew(const void *base, size_t size)
{
    __asan_unpoison_memory_region(base, size);
}
static void stack_leave(void **save, const void *base, size_t size)
{
    __sanitizer_start_switch_fiber(save, base, size);
}
static void stack_arrive(void *saved, const void **base, size_t *size)
{
    __sanitizer_finish_switch_fiber(saved, base, size);
}
#else
static void stack_renew(const void *base, size_t size)
{
    (void)base;
    (void)size;
}
static void stack_leave(void **save, const void *base, size_t size)
{
    (void)save;
    (void)base;
    (void)size;
}
static void stack_arrive(void *saved, const void **base, size_t *size)
{
    (void)saved;
    (void)base;
    (void)size;
}
#endif

#define SAVED_REGISTERS 40u               /* bytes: rbx and r12 to r15 */
#define STACK_CLEARED ((size_t)16 * 1024) /* bytes */
#define BELOW_FRAME ((char *)__builtin_frame_address(0) - STACK_CLEARED)
#define FAIR_EVERY 512u /* steps */

static struct schedule *schedule_of(struct sync *sync)
{
    return (struct schedule *)(uintptr_t)sync->backend;
}

/* ---- switching: contexts are made by makecontext(), and changed by longjmp(), which costs no
 * system call ---- */

/* The run that starts a thread; read once by the thread's first instructions. */
static struct schedule *starting;

static void thread_entry(void)
{
    struct schedule *s = starting;
    struct sync_thread *self = s->current;

    if (s->home_stack == NULL)
        stack_arrive(NULL, &s->home_stack, &s->home_size);
    else
        stack_arrive(NULL, NULL, NULL);
    self->run(self->argument);
    self->state = SIM_DONE;
    schedule_unpark(s, &self->done, INT32_MAX);
    schedule_yield(s, SYNC_AT_PARK);
    check_always(false); /* who is DONE is never chosen */
}

static _Noreturn void enter(struct schedule *s, struct sync_thread *thread, void **fake_stack)
{
    ucontext_t context;

    s->current = thread;
    sync_ranks_exchange(&thread->ranks);
    stack_leave(fake_stack, thread->stack, SIM_STACK);
    if (thread->begun)
        _longjmp(thread->context, 1);
    check_always(getcontext(&context) == 0);
    context.uc_stack.ss_sp = thread->stack;
    context.uc_stack.ss_size = SIM_STACK;
    context.uc_link = NULL;
#if defined(__x86_64__)
    /* What another thread had in its registers must not be part of this one's state. */
    static const int kept[] = {REG_RBX, REG_RBP, REG_R12, REG_R13, REG_R14, REG_R15};

    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
        context.uc_mcontext.gregs[kept[i]] = 0;
#endif
    makecontext(&context, thread_entry, 0);
    thread->begun = true;
    starting = s;
    setcontext(&context);
    check_always(false);
    __builtin_unreachable();
}

static void switch_to(struct schedule *s, struct sync_thread *next)
{
    struct sync_thread *self = s->current;

    if (next == self)
        return;
    sync_ranks_exchange(&self->ranks);
    if (_setjmp(self->context) == 0)
        enter(s, next, self->state == SIM_DONE ? NULL : &self->fake_stack);
    stack_arrive(self->fake_stack, NULL, NULL);
    stack_renew(BELOW_FRAME, STACK_CLEARED);
}

static _Noreturn void go_home(struct schedule *s)
{
    sync_ranks_exchange(&s->current->ranks);
    stack_leave(NULL, s->home_stack, s->home_size);
    _longjmp(s->home, 1);
}

_Noreturn void schedule_fail(struct schedule *s, const char *why)
{
    check_always(s->current != NULL);
    s->stuck = why;
    s->failure = -EUCLEAN;
    go_home(s);
}

/* ---- time ---- */

void schedule_at(struct schedule *s, struct sim_event *event, uint64_t when)
{
    struct sim_event **place = &s->events;

    check_always(!event->pending);
    while (*place != NULL && (*place)->when <= when)
        place = &(*place)->next;
    event->when = when;
    event->pending = true;
    event->next = *place;
    *place = event;
    if (s->policy != SCHEDULE_CHOSEN)
        return;
    atomic_fetch_add(&s->event_word, 1);
    schedule_unpark(s, &s->event_word, 1);
}

_Noreturn void schedule_serve_events(struct schedule *s)
{
    for (;;) {
        struct sim_event *event;

        schedule_yield(s, SYNC_AT_STEP);
        while (s->events == NULL)
            schedule_park(s, &s->event_word, atomic_load(&s->event_word), 0);
        event = s->events;
        s->events = event->next;
        event->pending = false;
        event->happen(event->argument);
    }
}

void schedule_cancel(struct schedule *s, struct sim_event *event)
{
    for (struct sim_event **place = &s->events; *place != NULL; place = &(*place)->next) {
        if (*place != event)
            continue;
        *place = event->next;
        event->pending = false;
        return;
    }
}

static void make_ready(struct sync_thread *thread)
{
    thread->state = SIM_READY;
    thread->word = NULL;
    thread->wake_at = 0;
    thread->lazy = false;
}

/* Let everything happen that is due. */
static void pass_time(struct schedule *s)
{
    while (s->policy != SCHEDULE_CHOSEN && s->events != NULL && s->events->when <= s->clock) {
        struct sim_event *event = s->events;

        s->events = event->next;
        event->pending = false;
        event->happen(event->argument);
        for (unsigned i = 0; i < s->thread_count; i++)
            s->threads[i].lazy = false;
    }
    for (unsigned i = 0; i < s->thread_count; i++) {
        struct sync_thread *thread = &s->threads[i];

        if (thread->state == SIM_PARKED && thread->wake_at != 0 && thread->wake_at <= s->clock)
            make_ready(thread);
    }
}

/* The next time at which anything happens by itself; UINT64_MAX: never. */
static uint64_t next_time(const struct schedule *s)
{
    bool served = s->policy == SCHEDULE_CHOSEN;
    uint64_t next = s->events != NULL && !served ? s->events->when : UINT64_MAX;

    for (unsigned i = 0; i < s->thread_count; i++) {
        const struct sync_thread *thread = &s->threads[i];

        if (thread->state == SIM_PARKED && thread->wake_at != 0 && thread->wake_at < next)
            next = thread->wake_at;
    }
    return next;
}

/* ---- who is next ---- */

static unsigned ready_threads(struct schedule *s, struct sync_thread **ready, bool lazy)
{
    unsigned n = 0;

    for (unsigned i = 0; i < s->thread_count; i++) {
        if (s->threads[i].state == SIM_READY && s->threads[i].lazy == lazy)
            ready[n++] = &s->threads[i];
    }
    return n;
}

static bool is_among(struct sync_thread *thread, struct sync_thread **ready, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (ready[i] == thread)
            return true;
    }
    return false;
}

static struct sync_thread *pick_robin(struct schedule *s, struct sync_thread **ready,
                                      unsigned count)
{
    if (is_among(s->current, ready, count) && s->turn > 0) {
        s->turn--;
        return s->current;
    }
    /* Turns are not all alike, or threads in lock step could keep each other from getting on. */
    s->turn = random_below(&s->random, 2 * (uint64_t)s->switch_every);
    for (unsigned i = 0; i < count; i++) {
        if (ready[i]->number > s->current->number)
            return ready[i];
    }
    return ready[0];
}

static struct sync_thread *pick_priority(struct schedule *s, struct sync_thread **ready,
                                         unsigned count)
{
    struct sync_thread *best = ready[0];

    if (s->changed < s->changes && s->steps >= s->change_at[s->changed]) {
        s->changed++;
        s->current->priority = --s->lowest;
    }
    /* Strict priorities starve: now and then the last comes first. */
    if (s->steps % FAIR_EVERY == 0) {
        for (unsigned i = 1; i < count; i++) {
            if (ready[i]->priority < best->priority)
                best = ready[i];
        }
        best->priority = ++s->highest;
        return best;
    }
    for (unsigned i = 1; i < count; i++) {
        if (ready[i]->priority > best->priority)
            best = ready[i];
    }
    return best;
}

static struct sync_thread *pick(struct schedule *s, struct sync_thread **ready, unsigned count)
{
    switch (s->policy) {
    case SCHEDULE_RANDOM:
        if (is_among(s->current, ready, count) && !random_once_in(&s->random, s->switch_every))
            return s->current;
        return ready[random_below(&s->random, count)];
    case SCHEDULE_ROBIN:
        return pick_robin(s, ready, count);
    case SCHEDULE_PCT:
        return pick_priority(s, ready, count);
    case SCHEDULE_CHOSEN:
        break;
    }
    return ready[0];
}

/* Rest here until the caller of schedule_run() has chosen us. */
static void rest(struct schedule *s, struct sync_thread **ready, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        s->ready[i] = (uint8_t)ready[i]->number;
    s->ready_count = count;
    if (_setjmp(s->current->context) != 0)
        return;
    s->failure = SCHEDULE_CHOICE;
    go_home(s);
}

static void wake_for_nothing(struct schedule *s)
{
    struct sync_thread *thread = &s->threads[random_below(&s->random, s->thread_count)];

    if (thread->state == SIM_PARKED && thread->word != NULL)
        make_ready(thread);
}

/* Choose who runs on; time passes to the next event if nobody can. */
static struct sync_thread *choose(struct schedule *s)
{
    struct sync_thread *ready[SIM_THREADS_MAX];
    unsigned count;

    pass_time(s);
    while ((count = ready_threads(s, ready, false)) == 0) {
        uint64_t next = next_time(s);

        if (next == UINT64_MAX) {
            count = ready_threads(s, ready, true);
            if (count > 0)
                break;
            s->stuck = "deadlock: every thread sleeps, and nothing will wake one";
            s->failure = -EDEADLK;
            go_home(s);
        }
        s->clock = next;
        pass_time(s);
    }
    if (s->policy == SCHEDULE_CHOSEN && count > 1) {
        rest(s, ready, count);
        return s->current;
    }
    return pick(s, ready, count);
}

/*
 * Overwrite what calls have left below this frame: where states are compared, the thread's next
 * calls must not find there what depends on who ran before.
 */
__attribute__((noinline)) static void clear_below(void)
{
    volatile uint64_t *end = (uint64_t *)__builtin_frame_address(0) - 4;

    for (volatile uint64_t *at = end - STACK_CLEARED / sizeof(*at); at < end; at++)
        *at = 0;
}

__attribute__((noinline)) static void step(struct schedule *s, enum sync_point point)
{
    struct sync_thread *self = s->current, *next;

    /* All that the thread needs to go on lies above this, its registers right below the frame. */
    __builtin_unwind_init();
    self->frame = (char *)__builtin_frame_address(0) - SAVED_REGISTERS;
    s->steps++;
    s->clock += s->step_ns;
    self->point = point;
    if (s->observe != NULL)
        s->observe(s->observer, self, point);
    if (s->steps - s->got_on_at > s->steps_max || s->clock > s->clock_max) {
        s->stuck = "no end: threads run, but the run does not get on";
        s->failure = -ETIME;
        go_home(s);
    }
    if (random_once_in(&s->random, s->spurious_every))
        wake_for_nothing(s);
    if (s->threads[0].state == SIM_DONE)
        go_home(s);
    next = choose(s);
    schedule_note(s, (s->steps << 16) + (next->number << 8) + point);
    next->lazy = false;
    switch_to(s, next);
    if (s->policy == SCHEDULE_CHOSEN)
        clear_below();
}

/* The current thread has got on: who spins may look again. */
static void rouse(struct schedule *s)
{
    for (unsigned i = 0; i < s->thread_count; i++)
        s->threads[i].lazy = false;
}

void schedule_yield(struct schedule *s, enum sync_point point)
{
    if (s->current == NULL || (!(s->points >> point & 1) && s->current->state == SIM_READY))
        return;
    rouse(s);
    step(s, point);
}

void schedule_park(struct schedule *s, _Atomic uint32_t *word, uint32_t expected,
                   uint64_t timeout_ns)
{
    struct sync_thread *self = s->current;

    if (atomic_load(word) != expected)
        return;
    check_always(self != NULL); /* outside a run nobody could wake it */
    rouse(s);
    self->state = SIM_PARKED;
    self->word = word;
    self->wake_at = timeout_ns > 0 ? s->clock + timeout_ns : 0;
    step(s, SYNC_AT_PARK);
}

/* Who is woken first is nobody's right; where all schedules are tried, all wake, and race. */
void schedule_unpark(struct schedule *s, _Atomic uint32_t *word, int count)
{
    unsigned first = 0;

    if (s->policy == SCHEDULE_CHOSEN)
        count = INT32_MAX;
    else if (count == 1)
        first = (unsigned)random_below(&s->random, s->thread_count);
    for (unsigned i = 0; i < s->thread_count && count > 0; i++) {
        struct sync_thread *thread = &s->threads[(first + i) % s->thread_count];

        if (thread->state != SIM_PARKED || thread->word != word)
            continue;
        make_ready(thread);
        count--;
    }
}

void schedule_sleep(struct schedule *s, uint64_t ns)
{
    struct sync_thread *self = s->current;

    rouse(s);
    self->state = SIM_PARKED;
    self->word = NULL;
    self->wake_at = s->clock + (ns > 0 ? ns : 1);
    step(s, SYNC_AT_PARK);
}

void schedule_join(struct schedule *s, struct sync_thread *thread)
{
    while (thread->state != SIM_DONE)
        schedule_park(s, &thread->done, 0, 0);
    thread->state = SIM_FREE;
}

/* ---- the back end ---- */

static void sim_park(struct sync *sync, _Atomic uint32_t *word, uint32_t expected,
                     uint64_t timeout_ns)
{
    schedule_park(schedule_of(sync), word, expected, timeout_ns);
}

static void sim_unpark(struct sync *sync, _Atomic uint32_t *word, int count)
{
    schedule_unpark(schedule_of(sync), word, count);
}

static void sim_relax(struct sync *sync, unsigned round)
{
    struct schedule *s = schedule_of(sync);

    (void)round;
    check_always(s->current != NULL); /* outside a run it would spin for ever */
    s->current->lazy = true;          /* and nobody is roused: it has not got on */
    if (s->policy == SCHEDULE_PCT)
        s->current->priority = --s->lowest;
    step(s, SYNC_AT_PARK);
}

static void sim_yield(struct sync *sync, enum sync_point point)
{
    schedule_yield(schedule_of(sync), point);
}

static uint64_t sim_now(struct sync *sync)
{
    return schedule_of(sync)->clock;
}

static int sim_thread_start(struct sync *sync, const char *name, void (*run)(void *),
                            void *argument, struct sync_thread **out)
{
    *out = schedule_start(schedule_of(sync), name, run, argument);
    return *out != NULL ? 0 : -EAGAIN;
}

static void sim_thread_join(struct sync *sync, struct sync_thread *thread)
{
    schedule_join(schedule_of(sync), thread);
}

static unsigned sim_shard(struct sync *sync)
{
    (void)sync;
    return 0;
}

/* ---- runs ---- */

void schedule_init(struct schedule *s, enum schedule_policy policy, uint64_t seed,
                   uint64_t steps_expected)
{
    memset(s, 0, sizeof(*s));
    s->backend = (struct sync_backend){.park = sim_park,
                                       .unpark = sim_unpark,
                                       .relax = sim_relax,
                                       .yield = sim_yield,
                                       .now = sim_now,
                                       .thread_start = sim_thread_start,
                                       .thread_join = sim_thread_join,
                                       .shard = sim_shard,
                                       .spin_rounds = 0};
    s->policy = policy;
    s->random.state = seed;
    s->switch_every = 1;
    s->step_ns = 200;
    s->points = UINT64_MAX;
    s->steps_max = s->clock_max = UINT64_MAX;
    s->clock = 1000000000;
    s->lowest = UINT64_C(1) << 32;
    s->highest = UINT64_C(1) << 40;
    for (s->changes = 0; s->changes < SIM_CHANGES_MAX && policy == SCHEDULE_PCT; s->changes++) {
        uint64_t at = random_below(&s->random, steps_expected);
        unsigned i = s->changes;

        for (; i > 0 && s->change_at[i - 1] > at; i--)
            s->change_at[i] = s->change_at[i - 1];
        s->change_at[i] = at;
    }
}

/* Stacks are kept from run to run. */
static char *stack_of(unsigned number)
{
    static char *stacks;

    if (stacks == NULL) {
        void *memory = mmap(NULL, (size_t)SIM_THREADS_MAX * SIM_STACK, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        check_always(memory != MAP_FAILED);
        stacks = memory;
    }
    return stacks + (size_t)number * SIM_STACK;
}

struct sync_thread *schedule_start(struct schedule *s, const char *name, void (*run)(void *),
                                   void *argument)
{
    struct sync_thread *thread = NULL;

    for (unsigned i = 0; i < s->thread_count && thread == NULL; i++) {
        if (s->threads[i].state == SIM_FREE)
            thread = &s->threads[i];
    }
    if (thread == NULL) {
        if (s->thread_count == SIM_THREADS_MAX)
            return NULL;
        thread = &s->threads[s->thread_count++];
    }
    memset(thread, 0, sizeof(*thread));
    thread->number = (unsigned)(thread - s->threads);
    snprintf(thread->name, sizeof(thread->name), "%s", name);
    thread->run = run;
    thread->argument = argument;
    thread->stack = stack_of(thread->number);
    stack_renew(thread->stack, SIM_STACK);
    thread->state = SIM_READY;
    thread->priority = (UINT64_C(1) << 33) + (random_next(&s->random) >> 33);
    return thread;
}

int schedule_run(struct schedule *s)
{
    check_always(s->thread_count > 0);
    return schedule_continue(s, &s->threads[0]);
}

int schedule_continue(struct schedule *s, struct sync_thread *thread)
{
    struct sync_ranks own = {0}; /* what the caller holds is not the threads' */
    void *fake_stack = NULL;

    check_always(s->current == NULL);
    sync_ranks_exchange(&own);
    s->failure = 0;
    thread->lazy = false;
    if (_setjmp(s->home) == 0)
        enter(s, thread, &fake_stack);
    stack_arrive(NULL, NULL, NULL);
    stack_renew(BELOW_FRAME, STACK_CLEARED);
    sync_ranks_exchange(&own);
    s->current = NULL;
    if (s->threads[0].state == SIM_DONE)
        return 0;
    return s->failure;
}
