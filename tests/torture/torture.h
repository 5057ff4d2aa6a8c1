/*
 * Torture: real faults on real memory.
 *
 * A case is one phase with one mapper, one trap and one seed. It runs in a process of its own,
 * which makes a manager and lets many threads loose on it (mix.c), each page's content being
 * known to an oracle outside of managed memory. The process that started it is the supervisor: it
 * disturbs the case from outside (disturb.c), watches that every thread gets on (watch.c), and
 * judges how the process ended. The supervisor never makes a manager itself.
 *
 * The two share one struct report in shared memory.
 */
#ifndef TORTURE_H
#define TORTURE_H

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "cli/oracle.h"
#include "core/tunables.h"
#include "vmsm.h"

#define PAGE 4096UL
#define SECOND UINT64_C(1000000000)
#define MILLISECOND UINT64_C(1000000)
#define THREADS_MAX 16u
#define CONF_MAX 1024
#define WORDS_MAX 512

/* Exit status of a case's process, and of the program. */
enum { STATUS_RIGHT = 0, STATUS_WRONG = 1, STATUS_SETUP = 2 };

/* Ways to disturb; a phase has one or more, and draws others now and then. */
#define DISTURB_STOP 0x01u /* SIGSTOP, SIGCONT */
#define DISTURB_CPU 0x02u  /* threads are moved between processors */
#define DISTURB_DIP 0x04u  /* the control group's limit goes down to what is used, and up again */
#define DISTURB_FILL 0x08u /* another file fills the pagefile's disk, and frees it again */
#define DISTURB_CORRUPT 0x10u /* another process writes over slots of the pagefile */
#define DISTURB_CUT 0x20u     /* the thin device loses its second half, and gets it back empty */

/* What else a phase is made of. */
#define PHASE_ERRORS 0x0100u  /* pages may fail: SIGBUS and -EIO are results, not mistakes */
#define PHASE_DELAY 0x0200u   /* sleeps at yield points, always */
#define PHASE_LIMIT 0x0400u   /* in a control group whose limit is what the manager may need */
#define PHASE_SQUEEZE 0x0800u /* the same, less: being killed for it is acceptable */
#define PHASE_STORE 0x1000u   /* store_* tunables */
#define PHASE_KILL 0x2000u    /* SIGKILL, and again with the same pagefile */
#define PHASE_DISK 0x4000u    /* pagefile on the small disk */
#define PHASE_DEVICE 0x8000u  /* pagefile on the thin device */
#define PHASE_REAL 0x10000u   /* nothing to see with the mapper soft */

struct phase {
    const char *name, *what;
    unsigned flags;
};

/* Where things are; made by tests/torture/run. "" where there is none. */
struct places {
    const char *work;  /* a folder for pagefiles and logs */
    const char *small; /* a small file system that the pagefile shares with a filler */
    const char *thin;  /* a block device that promises more than it has */
    const char
        *thin_disk;     /* the file system that holds the device's blocks, in the file `blocks` */
    const char *cgroup; /* a memory control group of our own */
};

/* A case: what the seed has decided. Constant once made. */
struct plan {
    const struct phase *phase;
    unsigned flags; /* the phase's, and what was drawn besides */
    enum tunable_mapper mapper;
    enum tunable_trap trap;
    uint64_t seed;
    uint64_t run_ns;
    uint64_t memory; /* bytes */
    unsigned threads;
    unsigned areas;
    size_t area_pages; /* most pages of an area */
    char pagefile[256];
    char conf[CONF_MAX];
};

enum life { LIFE_CREATE, LIFE_MIX, LIFE_SWEEP, LIFE_END };

/* Written by the case's process, read by the supervisor, except where noted. */
struct report {
    _Atomic int life;                        /* enum life */
    _Atomic uint64_t steps[THREADS_MAX + 1]; /* of each thread; the last is the main thread's */
    _Atomic bool busy[THREADS_MAX + 1];      /* steps must go up */
    _Atomic uint64_t accesses;               /* pages whose content was checked or written */
    _Atomic uint64_t failed;                 /* accesses and calls that got SIGBUS, -EIO, EFAULT */
    _Atomic uint64_t wrong;                  /* anything that may not be */
    _Atomic uint64_t peak;                   /* bytes resident at most */
    struct vmsm_counters counters;           /* a recent copy */
    _Atomic bool corrupt_all;                /* please; the supervisor resets it when done */
    char words[WORDS_MAX];                   /* the first thing that was wrong */
};

/* Numbers that a seed decides: splitmix64. */
struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *r)
{
    r->state += UINT64_C(0x9e3779b97f4a7c15);
    return oracle_mix(r->state);
}

static inline unsigned rng_below(struct rng *r, unsigned below)
{
    return (unsigned)((rng_next(r) >> 32) * below >> 32);
}

static inline bool rng_one_in(struct rng *r, unsigned n)
{
    return rng_below(r, n) == 0;
}

/* Ctrl-C, or SIGTERM: the case is killed, everything taken away. */
extern volatile sig_atomic_t torture_interrupted;

/* ns, monotonic */
uint64_t torture_now(void);
void torture_sleep(uint64_t ns);

/* plan.c */
void plan_make(struct plan *p, const struct phase *phase, enum tunable_mapper mapper,
               enum tunable_trap trap, uint64_t seed, uint64_t run_ns, const struct places *places);
/* The most that the case may have resident or charged, its own books included. */
uint64_t plan_allowance(const struct plan *p);

/* mix.c: the whole life of a case's process; returns its exit status. */
int mix_run(const struct plan *plan, struct report *report);

/* watch.c: everything of one case, seen from outside. */
struct verdict {
    bool wrong;
    bool killed;  /* for want of memory */
    bool skipped; /* this kernel or user has no such mapper or trap; words say why */
    uint64_t accesses, faults, failed;
    uint64_t stops, moves, dips, fills, slots, cuts, kills, limit_hits, store_errors;
    char words[WORDS_MAX]; /* why it is wrong */
};
void watch_case(const struct plan *plan, const struct places *places, uint64_t hang_ns,
                struct verdict *verdict);

#endif
