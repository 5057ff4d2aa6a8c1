/*
 * The machine: everything of one manager, and its workers.
 *
 * Room. Three rights are counted, and nothing sleeps while it holds a page BUSY and lacks one:
 *   available   frames that may still become Active. With a cache: active_max - Active - reserved,
 *               and what is lent.
 *               Without: frames on the free and zero lists, less those reserved.
 *   cache_room  cache buffers that are free, less those reserved and lent (with a cache only).
 *   ahead_room  pages that may still be read ahead of need: what is asked for is to find staging.
 * They move like this (with a cache / without):
 *   fault takes a frame          available - 1                 / available - 1
 *   rescue                       available - 1, cache_room + 1 / nothing
 *   trim                         available + 1, cache_room - 1 / nothing
 *   trim of a zero page, discard of an Active page
 *                                available + 1                 / available + 1
 *   repurpose, discard of a trimmed page
 *                                cache_room + 1                / available + 1
 *   a run read ahead             ahead_room - n while it is read, besides its frames
 *   n buffers lent, taken back   available +- n, cache_room -+ n / (lend.c)
 *   a section leaves and is kept, is taken or given up
 *                                nothing: its n rights are kept with it, are used or available + n
 *   a section that cannot be put back at once is by n copies
 *                                available - n, at once and below zero if need be: its own rights
 *                                stay with its buffer until that is given up (frame_overdraw())
 *   staging lent, taken back     available +- n, ahead_room -+ n/2 / (lend.c)
 *
 * Workers sleep on their event until machine_balance(), called where a level has changed, finds
 * work for them:
 *   trimmer   available (without a cache: with standby) under `low`; trims to `high`
 *   refiller  stock (cache_room, or available) under its mark, and standby is not empty
 *   writer    modified has a batch, or stock is short and modified is all there is
 *   zeroer    real frames, zero list short, free list not
 *   ager      one AGE_PARTth of the frames has been consumed since the last pass
 * low and high follow the measured rate of consumption and the time that a trim takes.
 *
 * Who may read and write a field:
 *   (a) atomic
 *   (c) constant once machine_create() has returned
 *   (g) the one thread that ages: the ager, or without workers who holds reclaim_lock
 *   (h) the ring's own lock, class HANDOVER
 *   (q) pool_lock
 *   (r) regions_lock: exclusive to change, shared to read
 *   (t) the one thread that trims: the trimmer, or without workers who holds reclaim_lock
 *   (w) the one thread that writes: the writer, or without workers who holds reclaim_lock; and
 *       who holds the gate exclusive may read
 *   (o) guards itself: a lock, an event, or a part that says so in its own header
 */
#ifndef VMSM_CORE_MACHINE_H
#define VMSM_CORE_MACHINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/bitmap.h"
#include "core/counters.h"
#include "core/fault.h"
#include "core/frame.h"
#include "core/framelist.h"
#include "core/freestack.h"
#include "core/hash.h"
#include "core/large.h"
#include "core/pagefile.h"
#include "core/platform.h"
#include "core/region.h"
#include "core/stream.h"
#include "core/sync.h"
#include "core/tunables.h"
#include "mapper/mapper.h"

#define TRIM_BEHIND_RING 64u
#define SLOT_RING 1024u
#define FAULT_POOL_MAX 64u
#define STAGE_PIECES 4u /* staging consists of; all but one may be lent */

struct worker {
    struct machine *m;               /* (c) */
    bool (*step)(struct machine *m); /* (c) does a piece of work; false: nothing left to do */
    struct sync_event event;         /* (o) */
    _Atomic uint32_t kicked;         /* (a) */
    struct sync_thread *thread;      /* NULL: not running; for who starts and stops it only */
    _Atomic bool running;            /* (a) */
};

/* Ranges that sequential readers are done with. */
struct trim_behind {
    struct sync_mutex lock; /* (o) */
    unsigned head, tail;    /* (h) */
    struct {
        uintptr_t va;
        uint32_t pages;
        uint32_t min_age;       /* younger ones have been used since */
    } ranges[TRIM_BEHIND_RING]; /* (h) */
};

/* Slots that wait to be released together. */
struct slot_ring {
    struct sync_mutex lock;    /* (o) */
    unsigned count;            /* (h) */
    uint32_t slots[SLOT_RING]; /* (h) */
};

struct write_batch;
struct write_scratch;

/* The writer's. */
struct writer {
    struct store_queue *queue;      /* (c); used by (w) */
    struct write_batch *batches;    /* (w) write_depth of them */
    struct write_scratch *scratch;  /* (w) */
    unsigned batch_pages;           /* (c) most pages in one */
    char *buffer;                   /* (w) staging: write_depth * batch_pages pages */
    unsigned in_flight;             /* (w) batches */
    bool small_next;                /* (w) the last to be written was a section, if both wait */
    struct sync_event idle;         /* in_flight has become 0 */
    unsigned failures;              /* (w) pages that failed alone since a write last succeeded */
    _Atomic uint64_t tried_at;      /* (a) ns: when a batch was last begun */
    _Atomic uint64_t failing_since; /* (a) ns; 0: writes succeed. Read by frame_wait() */
    _Atomic uint64_t failed_at;     /* (a) ns: when a write last failed, or found no slot */
    _Atomic int error;              /* (a) the last write error while failing, negative errno */
};

/* The trimmer's hand and what it needs for a section. */
struct trimmer {
    uintptr_t hand;                         /* (t) address where the search goes on */
    _Atomic uint32_t ages[PTE_AGE_MAX + 1]; /* (a) valid pages by age at the last pass, less */
                                            /* those trimmed since */
    _Atomic uint64_t aged_at;               /* (a) consumed, at the last ageing pass */
    _Atomic uint32_t dense;                 /* (a) sections with TRIM_WORTH valid pages then */
    uint32_t passes;                        /* (g) ageing passes so far */
    uint32_t accessed;                      /* (g) pages that the last found asked for */
    struct trim_victims *victims;           /* (t) */
    uint64_t rate_at;                       /* (t) ns: when the rate was last taken, */
    uint64_t rate_consumed;                 /* (t) and `consumed` then */
    uint64_t rate;                          /* (t) frames consumed a second, moving average */
    uint64_t step_ns;                       /* (t) time of a trim step, moving average */
    bool refused;                           /* (t) a drop has been refused, and that is logged */
};

/* Where pages beside one that is asked for come with it: around.c. */
struct around {
    uint64_t asked;              /* (g) of all sections, in the ageing pass */
    _Atomic uint32_t dense_from; /* (a) of 1024 pages, the part asked for from which on a section is
                                    dense; 0: not known yet */
};

/* Parts of the cache and of staging that are lent to Active frames: lend.c. */
struct lending {
    uint32_t *numbers;        /* (c), what is there (t): the buffers that are lent */
    _Atomic uint32_t buffers; /* (a) how many; changed by (t) */
    _Atomic uint32_t stage;   /* (a) pages of staging that are lent; changed by (t) */
    struct mapper_stage pieces[STAGE_PIECES - 1]; /* (t) of which piece_count are lent */
    uint32_t piece_count;                         /* (t) */
    uint32_t busiest;             /* (t) most pages that waited to be written, since looked_at */
    uint32_t calm;                /* (t) looks since a fault lacked staging */
    uint64_t looked_at;           /* (t) `consumed` at the last look */
    _Atomic uint32_t stage_short; /* (a) a fault has lacked staging */
};

#define STALE_COUNTS 64u

struct machine {
    struct tunables tunables;        /* (c) */
    struct sync sync;                /* (o) */
    const struct platform *platform; /* (c) */
    bool user_only;                  /* (c) system calls on memory that would fault fail */
    struct mapper *mapper;           /* (c) */
    struct counters *counters;       /* (c); (o) */
    struct hash_key key;             /* (c) */

    struct frame *frames;               /* (c) frame_count, then LIST_COUNT sentinels; (o) */
    uint32_t frame_count;               /* (c) */
    uint32_t active_max;                /* (c) most Active frames while nothing is lent */
    uint32_t buffer_count;              /* (c) most cache buffers; 0 without a cache */
    uint32_t buffer_least;              /* (c) of them, those that are never lent */
    uint32_t stage_pages;               /* (c) */
    struct lending lent;                /* (o) */
    struct freestack buffers;           /* (o) with a cache: those that are free */
    struct framelist lists[LIST_COUNT]; /* (o) */
    _Atomic int64_t available;          /* (a) */
    _Atomic int64_t cache_room;         /* (a) */
    _Atomic int64_t ahead_room;         /* (a) pages that may still be read ahead at a time */
    _Atomic int64_t active;             /* (a) frames ACTIVE, or taken by a fault */
    _Atomic int64_t writing;            /* (a) frames WRITING, and those rescued from it */
    _Atomic int64_t pinned;             /* (a) pins on all pages */
    _Atomic int64_t pinning;            /* (a) pins allowed to calls that have not set them yet */
    _Atomic uint64_t consumed;          /* (a) frames taken since start */
    _Atomic int32_t low, high;          /* (a) marks for `available` */
    _Atomic uint32_t waiting;           /* (a) faults that wait for a frame */
    _Atomic int32_t guarded;            /* (a) sections that count PROTECTED pages; lags these */
                                        /* counts, but not while the gate is closed */

    struct pagefile pagefile; /* (o) */
    _Atomic int64_t touched;  /* (a) pages with content */

    struct sync_rwlock gate;             /* (o) shared: it runs; exclusive: machine_check() */
    _Atomic uint32_t gate_closing;       /* (a) how many want it exclusive */
    struct sync_rwlock regions_lock;     /* (o) */
    struct region *regions[REGIONS_MAX]; /* (r) sorted by address */
    unsigned region_count;               /* (r) */

    struct streams streams;                  /* (o) */
    struct trim_behind trim_behind;          /* (o) */
    struct slot_ring slot_ring;              /* (o) */
    struct sync_event frames_event;          /* (o) a frame may be had */
    struct sync_event stage_event;           /* (o) staging may be had */
    _Atomic uint32_t stage_waits;            /* (a) waits for staging since some was given back */
    struct sync_event queues_event;          /* (o) a fault queue came back to the pool */
    struct sync_mutex reclaim_lock;          /* (o) one inline reclaimer at a time */
    struct sync_mutex pool_lock;             /* (o) */
    struct fault_queue pool[FAULT_POOL_MAX]; /* each its user's, until it is put back (q) */
    struct fault_queue *pool_free;           /* (q) */
    unsigned pool_count;                     /* (c) */

    struct larges large;                                                             /* (o) */
    struct around around;                                                            /* (o) */
    struct trimmer trimmer;                                                          /* (o) */
    struct writer writer;                                                            /* (o) */
    struct worker trim_worker, age_worker, write_worker, refill_worker, zero_worker; /* (o) */
    _Atomic bool stopping;                                                           /* (a) */

    /* (a) Lines logged so far: faults given up, pages lost, slots withdrawn, pages dropped. */
    _Atomic uint32_t said_fault, said_lost, said_slot, said_dropped;

    _Atomic uint32_t stale[STALE_COUNTS]; /* (a) faults on valid pages, by address */
};

struct machine_options {
    const struct tunables *tunables;
    const struct sync_backend *backend;
    const struct platform *platform;
    int (*mapper_open)(struct sync *sync, const struct mapper_options *options,
                       struct mapper **mapper);
    bool mapper_has_cache; /* what mapper_open() opens has one; the budget is divided before */
    struct store *store;   /* owned by the machine once machine_create() is called */
    unsigned pool_queues;  /* fault queues for threads without their own */
};

/* 0 or a negative errno with words. */
int machine_create(const struct machine_options *options, struct machine **out);
/* The trap must have stopped. Unmaps what is left. */
void machine_destroy(struct machine *m);

/*
 * Stop: nothing of the machine runs until machine_go(), and what comes meanwhile waits. No write is
 * in flight, no page BUSY.
 */
void machine_stop(struct machine *m);
void machine_go(struct machine *m);

/* Parts of machine_create() that a child of fork() needs again; what was there is forgotten. */
int machine_open_pool(struct machine *m, unsigned queues);
int machine_start_workers(struct machine *m);

/* Stop, check the books, go on. 0 or -EUCLEAN; what is wrong is logged. */
int machine_check(struct machine *m);
void machine_get_counters(struct machine *m, struct vmsm_counters *out);

/*
 * Take the gate shared, for all but workers: who wants it exclusive goes first, or a stream of
 * faults would keep it out for ever. Nothing that somebody inside waits for may be held.
 */
void machine_enter(struct machine *m);

/* Kick the workers that have something to do now, but the one that calls (NULL: none). */
void machine_balance(struct machine *m, const struct worker *self);
void worker_kick(struct worker *worker);
/*
 * A worker is between two pieces, or steps, of its work: threads ready to run go first, unless what
 * the worker makes is getting short. The scheduler by itself would let a worker go on for
 * milliseconds while a thread whose page is there waits for the processor.
 */
void worker_pause(struct machine *m);

/* Counting, in one line. */
static inline void count(struct machine *m, enum counter_id id, uint64_t n)
{
    counter_add(m->counters, &m->sync, id, n);
}

static inline uint32_t list_count(struct machine *m, enum framelist_id id)
{
    return atomic_load_explicit(&m->lists[id].count, memory_order_relaxed);
}

uint32_t standby_count(struct machine *m);
/* Pages that may be read ahead at a time: half of the staging that is not lent, since what was
 * asked for is to find staging too; and how many fewer for a piece that is lent. */
uint32_t ahead_most(const struct machine *m);
uint32_t ahead_piece(const struct machine *m);

/* What `low` and `high` are marks for. Without a cache what is on standby is as good as free. */
static inline int64_t frames_at_hand(struct machine *m)
{
    int64_t have = atomic_load(&m->available);

    return m->mapper->has_cache ? have : have + standby_count(m);
}

/* With what is kept for sections, and when what is on its way out has left. */
static inline int64_t frames_soon(struct machine *m)
{
    return frames_at_hand(m) + large_leaving(m) + large_kept(m);
}

/* Bytes of a table that are populated. NULL is allowed. */
static inline uint64_t table_bytes(const struct machine *m, void *table, size_t length)
{
    return table != NULL ? m->platform->resident(table, length) : 0;
}

/* trim.c */
#define TRIM_WORTH 32u /* victims that make a section worth a TLB flush, if others have them */
/* Trim about `want` pages; returns how many left their address. One thread at a time. */
unsigned trim_pages(struct machine *m, unsigned want);
int trim_init(struct machine *m);
void trim_fini(struct machine *m);
uint64_t trim_bytes(const struct machine *m); /* of its tables */
bool trim_step(struct machine *m);
/* How many more frames the trimmer should make available now; 0: enough. */
unsigned trim_need(struct machine *m);
void trim_behind_add(struct machine *m, uintptr_t va, unsigned pages);
/* A range of which pages at least so old are to go first. */
void trim_offer(struct machine *m, uintptr_t va, unsigned pages, unsigned min_age);

/* protect.c */
/* May the pages be mapped protected, being what their slots hold? If so they count as PROTECTED
 * until protect_end(), whether or not they become so. */
bool protect_begin(struct machine *m, struct pagetable *table, uintptr_t va, unsigned pages);
/* So many pages from va on are PROTECTED no more, or are about to be released as such. */
void protect_end(struct machine *m, struct pagetable *table, uintptr_t va, unsigned pages);
/* As protect_end(), for pages anywhere in one section. */
void protect_left(struct machine *m, struct section *section, unsigned pages);
/* Is no page of the section PROTECTED, nor will be while its `trimming` mark is held? */
bool protect_none(const struct machine *m, const struct section *section);
/* A trim, which holds the section's `trimming` mark, found so many pages unchanged and changed. */
void protect_trimmed(struct machine *m, struct section *section, unsigned clean, unsigned changed);
/* If section n of the table is not protected any more, its pages are ordinary ones from now on. */
void protect_settle(struct machine *m, struct pagetable *table, size_t n);
/* The first write to the PROTECTED page at va, BUSY by us: its protection is lifted, and perhaps
 * that of the pages after it. */
void protect_written(struct machine *m, struct region *region, uintptr_t va);
/* A write to the page at va, BUSY by us, met the protection that a trim left: it is lifted. */
void protect_met(struct machine *m, struct region *region, uintptr_t va);

/* age.c */
#define AGE_PART 8u /* a pass is made when the frames, divided by this, have been consumed */
bool age_step(struct machine *m);
bool age_due(struct machine *m);
/* The history of a page that is trimmed now, or that is mapped again: wanted, or ahead of need. */
uint64_t age_trimmed(struct machine *m, uint64_t word);
uint64_t age_returned(struct machine *m, uint64_t word, bool wanted);
/* Make the pages of a range the oldest (advice, trim-behind). regions_lock held shared. */
void age_range(struct machine *m, uintptr_t start, size_t length, unsigned age);

/* around.c */
/* The page at va was asked for and was not there; flags: enum fault_flags. */
void around_asked(struct pagetable *table, uintptr_t va, unsigned flags);
/* Are the pages of the section likely to be asked for? */
bool around_is_dense(const struct machine *m, const struct section *section);
/* Shall the page at va, which is not there, bring along others of its group? */
bool around_brings(const struct machine *m, const struct pagetable *table, uintptr_t va);
/* The ager's: for each section; and when it has seen all, of which so many pages are valid. */
void around_fade(struct machine *m, struct section *section);
void around_learn(struct machine *m, uint64_t valid);

/* writer.c */
int writer_init(struct machine *m);
void writer_fini(struct machine *m);
uint64_t writer_bytes(const struct machine *m); /* of its tables, without the buffers */
bool writer_step(struct machine *m);
bool writer_needed(struct machine *m);
/* Nothing of the writer's is in flight. */
void writer_drain(struct machine *m);

/* refill.c */
/* Free up to want standby frames, lowest priority first; returns how many. */
unsigned refill_standby(struct machine *m, unsigned want);
bool refill_step(struct machine *m);
bool refill_needed(struct machine *m);
bool zero_step(struct machine *m);
bool zero_needed(struct machine *m);
/* Release a slot, now or (deferred) with others. */
void slot_release(struct machine *m, uint32_t slot);
void slot_release_deferred(struct machine *m);

/* Where there are no workers: trim, write and refill until a frame is available. */
void reclaim_inline(struct machine *m);

/* lend.c */
int lend_init(struct machine *m);
void lend_fini(struct machine *m);
/* Lend what has not been needed, take back what is. */
void lend_fit(struct machine *m);
/* Buffers that the cache has now. */
uint32_t cache_size(struct machine *m);
/* Frames that may be Active beyond active_max. */
uint32_t lent_frames(struct machine *m);

/* access.c: the software MMU */
/* One access within one page; true if the page was there and it is done. */
bool access_try(struct machine *m, uintptr_t va, char *buffer, size_t length, bool write);
/* The same, faulting for `thread` until it is done: FAULT_DONE, FAULT_FAILED or FAULT_OUTSIDE. */
enum fault_result access_page(struct machine *m, uintptr_t va, char *buffer, size_t length,
                              bool write, uint32_t thread);
/* Any number of bytes. 0, -EINVAL or -EIO, with words. */
int access_copy(struct machine *m, uintptr_t va, char *buffer, size_t length, bool write);

/* prefault.c: as in vmsm.h */
int machine_prefault(struct machine *m, const struct iovec *ranges, int range_count);
int machine_advise(struct machine *m, uintptr_t start, size_t length, enum vmsm_advice advice);
int machine_pin(struct machine *m, uintptr_t start, size_t length);
int machine_unpin(struct machine *m, uintptr_t start, size_t length);

#endif
