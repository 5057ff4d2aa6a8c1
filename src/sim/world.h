/*
 * One simulated run: a machine, its disk and kernel, threads that use it, and the oracle that
 * knows what every page must hold. All of it follows from one number.
 *
 * The oracle keeps a copy of every page. An access and its entry in the oracle happen between two
 * yield points, so they are one step, and every access can be checked to the byte. Only two things
 * leave a page open for a while:
 *   dropping   a decommit of the page is under way: it may read as zeroes or as before
 *   maybe_zero such a decommit has ended, but somebody wrote meanwhile: the next access tells
 *
 * A page may answer with SIGBUS only where the run's disk fails reads, or refuses writes for
 * longer than the machine is patient; and once the disk behaves again, only if the disk has lost
 * the very slot.
 */
#ifndef VMSM_SIM_WORLD_H
#define VMSM_SIM_WORLD_H

#include "core/machine.h"
#include "sim/disk.h"
#include "sim/mmu.h"
#include "sim/schedule.h"

#define WORLD_USERS_MAX 6u
#define WORLD_HANDLERS_MAX 3u
#define WORLD_EXTENTS_MAX 24u
#define WORLD_DROP_MAX 1200u

struct world_config {
    uint64_t seed;
    enum schedule_policy policy;
    unsigned switch_every, spurious_every;
    uint64_t step_ns;
    uint64_t steps_expected;
    struct tunables tunables;
    bool sigbus; /* trap sigbus, else thread; nothing for soft */
    uint64_t disk_slots;
    bool disk_fixed;
    struct disk_faults disk;
    struct mmu_faults mmu;
    unsigned users, handlers, pages, operations; /* operations of each user */
    uint64_t accesses_max;                       /* of all users: then their operations end */
    unsigned run_max, write_percent;
    unsigned spare_after;  /* first touches, then the spare handler is called; 0: there is none */
    unsigned pool_queues;  /* fault queues of threads without their own */
    bool large;            /* memory is large enough for large pages, and gone through in rows, */
    bool calm;             /* all of a region, always forward, */
    unsigned scan_percent; /* by so many of the operations */
    unsigned dense_every;  /* one operation in so many makes all sections dense (around.c), or 0 */
    unsigned drop_max;     /* pages decommitted, or unmapped, at once */
    unsigned zero_every;   /* one write in so many writes zeroes */
    unsigned check_every;  /* steps from one check of the invariants to the next */
};

struct world_page {
    char content[PAGE_SIZE]; /* what it must hold */
    bool live;               /* in a region that no unmap has been asked for */
    bool maybe_zero;
    bool unknown;      /* soft: changed by an access that outlived its region */
    bool written;      /* while it was being dropped */
    bool failed;       /* it answered with SIGBUS */
    unsigned dropping; /* decommits under way */
    unsigned drops;    /* counts beginnings and ends of decommits */
    unsigned pins;
    unsigned epoch; /* counts maps and unmaps */
    uint32_t user;  /* soft: 1 while a user's access is under way */
};

struct world_extent {
    uintptr_t base;
    unsigned pages;
};

struct world_stats {
    uint64_t steps, clock, accesses, operations, faults_made, harm, lost, trace;
    uint64_t transitions;
};

struct world {
    const struct world_config *config;
    struct schedule schedule;
    struct machine *machine;
    struct disk *disk;
    struct random random;     /* of the driver */
    struct world_page *pages; /* MMU_PAGES of them, */
    unsigned pages_used;      /* of which those from here on are as new */
    struct world_extent extents[WORLD_EXTENTS_MAX];
    unsigned extent_count;
    _Atomic uint32_t page_free; /* soft: counts ends of accesses */
    bool overcommitted;         /* a region is charged at first touch */
    uint64_t accesses, operations, lost;
    struct invariants *invariants;
    struct trace *trace;
};

/* Everything of a run, drawn from its seed. */
void world_configure(uint64_t seed, struct world_config *config);
/* A line that says what the configuration is. */
void world_describe(const struct world_config *config, char *text, size_t size);

/*
 * Run it. 0, or a negative errno with *why in words. trace_file: where every transition is
 * written, or NULL (a FILE *).
 */
int world_run(const struct world_config *config, void *trace_file, struct world_stats *stats,
              const char **why);

/* Compare what a page holds with what it must; settles what was open. For users and sweeps. */
bool world_page_is(struct world *w, uintptr_t va, const char *memory);
struct world_page *world_page(struct world *w, uintptr_t va);

/* invariant.c: what must be true after every step. */
struct invariants *invariants_new(struct world *w);
void invariants_free(struct invariants *v);
/* NULL, or what is broken. thorough: contents, too. */
const char *invariants_check(struct invariants *v, bool thorough);
/* The same, of what can be looked at after every step of a large world too. */
const char *invariants_check_budget(struct invariants *v);

/* trace.c: every transition, readable. */
struct trace *trace_new(struct world *w, void *file);
void trace_free(struct trace *t);
void trace_step(struct trace *t, const struct sync_thread *current, enum sync_point point);

#endif
