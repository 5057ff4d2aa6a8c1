/*
 * The deterministic scheduler: all threads of a machine on one thread of the system.
 *
 * It is a back end of core/sync.h. Threads are coroutines with stacks of their own; at every yield
 * point, park and relax the scheduler decides who runs next, from a seed or as a caller says.
 * Nothing else can make a difference: the clock is virtual, memory comes from an arena at a fixed
 * address, and the disk's completions are events of this scheduler. The same seed and program
 * give the same trace.
 *
 * States of a thread:
 *
 *   READY ──chosen──▶ (current) ──park()──▶ PARKED ──unpark, timeout, spurious──▶ READY
 *                        └──its function returns──▶ DONE
 *
 * A READY thread that called relax() is `lazy`: it is passed over until another thread or an event
 * has made a step, or else a spinning thread would keep out the one that it waits for.
 *
 * What it cannot show: reordering by the processor. Between two yield points a thread is alone,
 * and all see its writes at once. The thread sanitizer on real threads looks for the rest.
 *
 * Policies: RANDOM switches with a chance at each step. ROBIN switches every so many steps. PCT
 * runs the ready thread of highest priority and lowers a running thread's priority at a few
 * random steps, which finds bugs that need few preemptions with a known chance (Burckhardt et
 * al., "A randomized scheduler with probabilistic guarantees of finding bugs", ASPLOS 2010).
 * CHOSEN returns to the caller wherever there is a choice: with all threads at rest, it may look at
 * them, keep a copy of their stacks, and say who goes on. Events are then the choice of a thread
 * that runs schedule_serve_events(), and time passes only where nobody could go on otherwise.
 *
 * One run at a time in a process. Everything belongs to the running coroutine.
 */
#ifndef VMSM_SIM_SCHEDULE_H
#define VMSM_SIM_SCHEDULE_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/sync.h"
#include "sim/random.h"

#define SIM_THREADS_MAX 24u
#define SIM_STACK (256u * 1024)
#define SIM_CHANGES_MAX 8u

enum schedule_policy { SCHEDULE_RANDOM, SCHEDULE_ROBIN, SCHEDULE_PCT, SCHEDULE_CHOSEN };

enum sim_thread_state { SIM_FREE, SIM_READY, SIM_PARKED, SIM_DONE };

struct sync_thread {
    unsigned number; /* index in schedule.threads */
    char name[16];
    enum sim_thread_state state;
    bool lazy;              /* relaxed, and nobody has made a step since */
    bool begun;             /* has a saved context */
    _Atomic uint32_t done;  /* never changes: what those sleep on who wait for its end */
    _Atomic uint32_t *word; /* what it sleeps on; NULL if not PARKED or only on time */
    uint64_t wake_at;       /* ns; 0: no timeout */
    uint64_t priority;      /* PCT: the highest runs */
    enum sync_point point;  /* where it yielded last, for traces */
    void (*run)(void *);
    void *argument;
    char *stack;      /* SIM_STACK bytes */
    char *frame;      /* its stack down to its last yield point */
    void *fake_stack; /* the address sanitizer's */
    jmp_buf context;
    struct sync_ranks ranks; /* while it does not run */
};

/* Something that happens at a time: a completion, the end of an outage. */
struct sim_event {
    struct sim_event *next; /* by time, then by order of schedule_at() */
    uint64_t when;          /* ns */
    void (*happen)(void *argument);
    void *argument;
    bool pending;
};

struct schedule {
    struct sync_backend backend; /* first: the core's pointer to it is our pointer */
    enum schedule_policy policy;
    struct random random;
    unsigned switch_every;   /* RANDOM: one step in so many; ROBIN: steps of a turn, about */
    unsigned spurious_every; /* one step in so many wakes a parked thread for nothing; 0: none */
    uint64_t step_ns;        /* virtual time of a step */
    uint64_t points;         /* mask of enum sync_point where a switch may happen */
    uint64_t steps_max;      /* since schedule_got_on() */
    uint64_t clock_max;      /* ns */
    /* After every step, before the next is chosen; may be NULL. Must not yield. */
    void (*observe)(void *observer, struct sync_thread *current, enum sync_point point);
    void *observer;

    struct sync_thread threads[SIM_THREADS_MAX];
    unsigned thread_count;       /* entries in use, DONE ones included */
    struct sync_thread *current; /* NULL outside a run */
    struct sim_event *events;
    _Atomic uint32_t event_word; /* CHOSEN: counts schedule_at() */
    uint64_t clock;              /* ns */
    uint64_t steps, turn;
    uint64_t got_on_at;                  /* steps */
    uint64_t change_at[SIM_CHANGES_MAX]; /* PCT: steps, ascending */
    unsigned changes, changed;
    uint64_t lowest, highest; /* PCT: priorities under and over those given at start */
    uint64_t trace;           /* hash of all decisions and notes so far */
    jmp_buf home;             /* schedule_run() */
    const void *home_stack;   /* for the address sanitizer */
    size_t home_size;
    uint8_t ready[SIM_THREADS_MAX]; /* CHOSEN: numbers of those that may go on */
    unsigned ready_count;
    const char *stuck; /* why the run was given up; NULL: it was not */
    int failure;
};

/* steps_expected: about how long a run is, for PCT. */
void schedule_init(struct schedule *s, enum schedule_policy policy, uint64_t seed,
                   uint64_t steps_expected);

/* A new thread, READY; may be called before and during a run. NULL: there are too many. */
struct sync_thread *schedule_start(struct schedule *s, const char *name, void (*run)(void *),
                                   void *argument);

/*
 * Run until the first thread (number 0) is done. 0; -EDEADLK: nobody can ever go on; -ETIME: no
 * end within steps_max or clock_max. s->stuck says it in words. Threads left are forgotten.
 */
int schedule_run(struct schedule *s);

/*
 * What the run is for has got on: steps_max counts from here. A run that waits long and often, for a
 * disk that hangs, takes many steps and ends; one that lives on without getting on does not.
 */
static inline void schedule_got_on(struct schedule *s)
{
    s->got_on_at = s->steps;
}

/*
 * CHOSEN: schedule_run() returned SCHEDULE_CHOICE, and so may this. s->ready says between whom the
 * choice is; `thread` goes on.
 */
#define SCHEDULE_CHOICE 1
int schedule_continue(struct schedule *s, struct sync_thread *thread);

/* The run cannot go on: schedule_run() returns -EUCLEAN and `why` is in s->stuck. */
_Noreturn void schedule_fail(struct schedule *s, const char *why);

void schedule_at(struct schedule *s, struct sim_event *event, uint64_t when);
void schedule_cancel(struct schedule *s, struct sim_event *event);
/* CHOSEN: let events happen, each as a step of the calling thread. Never returns. */
_Noreturn void schedule_serve_events(struct schedule *s);

/* For the parts of the simulation: yield, park on a word, wake, as the core does. */
void schedule_yield(struct schedule *s, enum sync_point point);
void schedule_park(struct schedule *s, _Atomic uint32_t *word, uint32_t expected,
                   uint64_t timeout_ns);
void schedule_unpark(struct schedule *s, _Atomic uint32_t *word, int count);
/* Let virtual time pass. */
void schedule_sleep(struct schedule *s, uint64_t ns);
void schedule_join(struct schedule *s, struct sync_thread *thread);

/* Mix something into the trace's hash. */
static inline void schedule_note(struct schedule *s, uint64_t what)
{
    s->trace = (s->trace ^ what) * UINT64_C(0x9e3779b97f4a7c15);
    s->trace ^= s->trace >> 29;
}

#endif
