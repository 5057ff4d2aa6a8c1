/*
 * The world of a case: areas of managed memory, an oracle for each, and the threads that use them.
 *
 * Who may do what. An area's lock is held shared by whoever uses the area, exclusive by whoever
 * maps it or unmaps what is left of it. A page is held in the area's oracle: by several readers
 * or one writer. Loads, pins, advice and prefaults happen under read holds, stores, decommit and
 * unmap under write holds, so that the result of every call is known exactly. Several holds are
 * taken in ascending order of pages, in one area only.
 *
 * Two areas have no holds: in `words` each thread has words of its own in every page, so that
 * stores meet trims and each other in one page; in `contested` anybody does anything at any time,
 * and only the calls' results count.
 */
#ifndef TORTURE_MIX_H
#define TORTURE_MIX_H

#include <pthread.h>

#include "cli/access.h"
#include "torture.h"

#define AREAS_MAX 8u
#define WORD_PAGES 256u
#define CONTESTED_PAGES 48u
#define PINS_MAX 8u /* ranges that a thread keeps pinned */
#define PIN_PAGES 4u
#define RANGE_PAGES 256u /* most pages of a call */

struct area {
    pthread_rwlock_t lock;
    struct access access;   /* base NULL: not mapped. (lock) */
    size_t pages;           /* (lock) */
    struct oracle oracle;   /* (lock) */
    bool *gone;             /* unmapped pages; (write hold of the page) */
    _Atomic uint16_t *pins; /* of each page; (changed under a hold of the page) */
};

struct world {
    const struct plan *plan;
    struct report *report;
    struct vmsm *m;
    bool errors;   /* accesses may fail */
    bool syscalls; /* read() and write() may meet absent pages */
    uint64_t deadline;
    unsigned pin_pages; /* that one thread may keep pinned; 0: none */
    pthread_barrier_t barrier;
    struct area areas[AREAS_MAX];
    struct access words, contested;
    uint64_t only_paged;           /* pages in the pagefile alone when all slots were overwritten */
    _Atomic uint64_t sweep_failed; /* pages that the sweep did not get */
};

struct pin {
    unsigned area;
    size_t from, count;
};

struct actor {
    struct world *world;
    unsigned number;
    struct rng rng;
    int file; /* for read() and write() */
    unsigned pin_count, pinned;
    struct pin pins[PINS_MAX];
    uint64_t own[WORD_PAGES]; /* what our words hold */
    struct oracle_hold holds[RANGE_PAGES];
    uint64_t buffer[8 * ACCESS_PAGE_WORDS];
    uint64_t expected[ACCESS_PAGE_WORDS];
};

/* Something that may not be. The first is kept for the supervisor. */
__attribute__((format(printf, 2, 3))) void complain(struct world *w, const char *format, ...);
/* A sign of life, and a page that was accessed. */
void stepped(struct actor *a);

/* area.c: pages with holds */
bool area_open(struct area *area, uint64_t seed, size_t pages);
void area_map(struct actor *a, struct area *area, size_t pages);
void area_unmap_rest(struct actor *a, struct area *area);
void area_read(struct actor *a, struct area *area, size_t page);
void area_read_whole(struct actor *a, struct area *area, size_t page, bool sweep);
void area_write(struct actor *a, struct area *area, size_t page);
void area_discard(struct actor *a, struct area *area, size_t from, size_t count, bool unmap);
void area_advise(struct actor *a, struct area *area, size_t from, size_t count,
                 enum vmsm_advice advice);
void area_prefault(struct actor *a, struct area *area, size_t from, size_t count);
void area_pin(struct actor *a, unsigned number, size_t from, size_t count);
void area_unpin(struct actor *a, unsigned which);
void area_system_write(struct actor *a, struct area *area, size_t from, size_t count);
void area_system_read(struct actor *a, struct area *area, size_t page);

#endif
