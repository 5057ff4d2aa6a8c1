/*
 * The simulated kernel and processor: page tables, memory, and the delivery of faults, behind the
 * core's mapper. It behaves as src/mapper/copy.c, move.c and soft.c do on Linux, one page at a
 * time, with a yield point between any two of them:
 *
 *   copy   map() copies from staging and wakes; protect() and lift() change write permission page
 *          by page; take() copies what is mapped; drop() unmaps. Pages may be read until dropped.
 *   move   map() and take() move the page itself; take() may find it in use by a device (EBUSY).
 *   soft   nothing is mapped; accesses go through core/access.c.
 *
 * Large pages, as src/mapper/huge.c (copy only): a section is moved to and from a large buffer in
 * one step, as the kernel moves a huge page, or by small pages where the kernel would. Of a large
 * page nothing may be dropped but all of it: the kernel would keep its memory.
 *
 * A thread whose access cannot go on posts a fault and sleeps on its page (trap thread), or
 * resolves it itself (trap sigbus). As in the kernel, posting and falling asleep are one step:
 * what wakes the page afterwards wakes the thread. mmu_sleeper_lost() finds one whom nobody will
 * wake at once, before the next fault on its page, or the scheduler's whim, wakes it by chance.
 *
 * Page of the window:   absent ──map──▶ present ⇄ protected;  absent ⇄ failed (SIGBUS)
 */
#ifndef VMSM_SIM_MMU_H
#define VMSM_SIM_MMU_H

#include "core/machine.h"
#include "sim/schedule.h"
#include "trap/handler.h"

#define MMU_BASE ((uintptr_t)UINT64_C(0x220000000000))
#define MMU_PAGES 20480u /* of the window in which regions lie */
#define MMU_FAULTS 64u   /* faults posted and not yet taken, at most */

/* One in so many pages (or calls); 0: never. */
struct mmu_faults {
    unsigned no_memory_every;   /* map: -ENOMEM after some of the pages */
    unsigned busy_every;        /* take (move): -EBUSY */
    unsigned protect_every;     /* protect: fails half-way */
    unsigned split_every;       /* a part of a region is not unmapped: -ENOMEM */
    unsigned stage_every;       /* staging gives fewer pages than asked for */
    unsigned lend_every;        /* the memory of staging, or of buffers, is not taken back */
    unsigned large_fill_every;  /* there is no huge page: -ENOMEM */
    unsigned large_map_every;   /* it goes by small pages, all of them or not */
    unsigned large_take_every;  /* it ends half-way, and all goes back */
    unsigned large_split_every; /* a device uses it: it stays one page */
};

struct mmu_page {
    char *memory;           /* its 4096 bytes; NULL: absent */
    bool mapped;            /* in a region */
    bool read_only;         /* protected, or a victim's range */
    bool failed;            /* SIGBUS */
    bool in_use;            /* a device holds it: EBUSY for take() */
    unsigned waking;        /* wakes of it that are under way */
    _Atomic uint32_t wakes; /* counts wakes of the page */
};

/* A section of the window: what of its memory can be given back? */
enum mmu_section {
    MMU_SMALL,
    MMU_LARGE,  /* all or nothing */
    MMU_UNSPLIT /* all or nothing, and the core knows that it could not be split */
};

/* A thread asleep in a fault. */
struct mmu_sleeper {
    uintptr_t va; /* of its page */
    uint32_t thread;
    uint32_t wakes; /* of the page when it fell asleep: another number, and it has been woken */
    bool taken;     /* a handler has its fault: */
    unsigned handler;
};

struct mmu {
    struct mapper mapper; /* first */
    struct schedule *schedule;
    enum tunable_mapper kind;
    struct random random;
    struct mmu_faults faults;
    struct mmu_page pages[MMU_PAGES];
    char *memory;                  /* pages under addresses: pages_max of them */
    uint32_t *free;                /* stack of those not in use */
    uint32_t present, present_max; /* present_max: while nothing is lent */
    uint32_t pages_max;
    uint32_t frames, buffers, stage_pages;
    uint8_t *stage_taken;        /* 0, or STAGE_TAKEN, STAGE_LENT */
    bool *vacant;                /* of each buffer: it has no memory (copy) */
    uint32_t vacant_count, lent; /* buffers that have none, pages of staging that are lent */
    uint8_t *clean;              /* of each frame (move, soft): its buffer is all zero */
    uint8_t sections[MMU_PAGES / SECTION_PAGES]; /* enum mmu_section */
    char *larges[LARGE_MAX];                     /* large buffers: LARGE_SIZE bytes each, */
    bool filled[LARGE_MAX];                      /* those that have memory, */
    uint16_t gone[LARGE_MAX];                    /* pages of it that have been mapped one by one, */
    uint32_t held;                               /* pages that they hold */
    uint64_t made;                               /* faults of the mapper's own */

    struct pending_fault posted[MMU_FAULTS];
    unsigned posted_first, posted_count;
    _Atomic uint32_t *bells[8]; /* of handlers */
    bool asleep[8];             /* which of them sleep, */
    bool reading[8];            /* and of those, which have reads in flight */
    bool unwatched[8];          /* which are not to be rung */
    unsigned bell_count;
    struct mmu_sleeper sleepers[MMU_FAULTS];
    unsigned sleeper_count;
};

enum mmu_result { MMU_OK, MMU_SIGBUS, MMU_SIGSEGV };

/* What machine_create() opens; uses the settings of the last mmu_prepare(). */
int mmu_open(struct sync *sync, const struct mapper_options *options, struct mapper **mapper);
void mmu_prepare(struct schedule *s, enum tunable_mapper kind, uint64_t seed,
                 const struct mmu_faults *faults);
struct mmu *mmu_of(struct machine *m);

struct mmu_page *mmu_page(struct mmu *mmu, uintptr_t va);

/*
 * Wait until the page may be accessed, faulting as needed: by handlers, or (sigbus) by this
 * thread. On MMU_OK *memory is the page, to be used before the next yield.
 */
enum mmu_result mmu_access(struct machine *m, uintptr_t va, bool write, uint32_t thread,
                           bool sigbus, char **memory);

/* A handler's bell, rung when a fault is posted while it sleeps. Returns its number. */
unsigned mmu_add_bell(struct mmu *mmu, _Atomic uint32_t *bell);
unsigned mmu_take_faults(struct mmu *mmu, unsigned handler, struct pending_fault *faults,
                         unsigned max);

/*
 * Is the sleeper forgotten, if its page table entry is `word`? Its handler has gone to sleep, and
 * neither reads the page itself, nor has left a mark for who is busy with it.
 */
bool mmu_sleeper_lost(struct mmu *mmu, const struct mmu_sleeper *sleeper, uint64_t word);

#endif
