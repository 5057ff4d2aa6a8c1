/*
 * Small worlds, of which all interleavings are tried: two or three threads, each with a few
 * operations, over two pages, one or two frames and two slots (where not said otherwise), on the
 * simulated kernel and disk.
 *
 * Operations, each a letter with a number: wN write page N, rN read it, tN trim N pages, a let the
 * ager make a pass, b write modified pages, fN repurpose N standby frames, dN decommit page N, uN
 * unmap it, pN pin it, let a device write, and unpin it, lN pin it for good, iN let a device use it
 * unpinned (move), eN prefault it, xN let N writes fail, k check the books.
 */
#ifndef VMSM_SIM_SMALL_H
#define VMSM_SIM_SMALL_H

#include "sim/world.h"

#define SMALL_THREADS_MAX 3u
#define SMALL_PAGES_MAX 8u

struct scenario {
    const char *name;
    unsigned pages;
    unsigned frames; /* that may be Active */
    unsigned slots;
    const char *before; /* done alone, before the threads start */
    const char *threads[SMALL_THREADS_MAX];
    bool large; /* too many states for a search without a bound on preemptions */
};

extern const struct scenario scenarios[];
extern const unsigned scenario_count;

/* A world; all of it lies in the arena, so that it is part of the state. */
struct small {
    struct world world; /* first */
    const struct scenario *scenario;
    enum tunable_mapper kind;
    struct world_config config;
    struct world_page pages[SMALL_PAGES_MAX + 1];
    struct sync_thread *threads[SMALL_THREADS_MAX];
    struct actor {
        struct small *x;
        const char *program;
        unsigned number;
    } actors[SMALL_THREADS_MAX];
    uint32_t writes; /* numbers the writes */
    uintptr_t base;
    bool unmapped[SMALL_PAGES_MAX];
};

/*
 * Make the world as it is before its threads start. `observe` is called at every step, as in
 * struct schedule. 0, or an error with *why in words.
 */
int small_build(const struct scenario *scenario, enum tunable_mapper kind,
                void (*observe)(void *observer, struct sync_thread *current, enum sync_point point),
                void *observer, struct small **out, const char **why);

/* Make its threads: a judge, who waits for the others and looks at what they leave; the disk; and
 * the scenario's. schedule_run() begins. */
void small_start(struct small *x);

#endif
