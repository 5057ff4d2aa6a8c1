/*
 * Resolving faults.
 *
 * A fault is begun, and if it needs I/O, finished later by the same thread, so that a handler can
 * have many in flight: fault_begin() prepares the reads; fault_reap() sends those of all faults
 * begun since with one call, takes what has completed, verifies, maps and wakes. fault_resolve()
 * does both and waits, for threads that resolve their own faults (signal handler, soft mapper,
 * explicit calls).
 *
 * A fault_queue is what a thread needs for it: a store queue and a number of struct fault. It is
 * used by one thread at a time, which owns every field of both.
 */
#ifndef VMSM_CORE_FAULT_H
#define VMSM_CORE_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/counters.h"
#include "mapper/mapper.h"
#include "store/store.h"

struct large;
struct machine;
struct pagetable;

/* Most reads for one fault: slots that are apart are read at the same time. */
#define FAULT_PIECES 8u

enum fault_flags {
    FAULT_WRITE = 1,
    FAULT_PROTECT = 2,  /* the page is mapped, but protected against writes */
    FAULT_TRAP = 4,     /* a thread sleeps in the fault: a busy page is marked WANTED_TRAP */
    FAULT_EXPLICIT = 8, /* retry pages that could not be read before (BAD) */
    FAULT_AHEAD = 16    /* nobody has asked for any of the pages yet */
};

enum fault_result {
    FAULT_DONE,    /* the access can be repeated */
    FAULT_PENDING, /* it needs reads: fault_reap() sends them */
    FAULT_BUSY,    /* another thread has the page: it wakes the range (FAULT_TRAP), or pte_wait() */
    FAULT_NO_FRAME, /* frame_wait(), then begin again */
    FAULT_FAILED,   /* SIGBUS is due; words in error_last() */
    FAULT_OUTSIDE   /* not ours: no region there */
};

struct fault {
    struct fault *next; /* the list of its queue that it is on: free, or read */
    struct pagetable *table;
    struct large *large; /* all of a section is read, as it says; NULL: the run below */
    uintptr_t va;        /* first page of the run */
    unsigned count;      /* pages of the run, all BUSY by us */
    unsigned wanted;     /* index of the page that was asked for; RUN_MAX: none (prefault, ahead) */
    unsigned flags;
    uint32_t thread;
    unsigned pending; /* reads not yet reaped */
    unsigned tries;   /* reads repeated so far */
    uint64_t started; /* ns; the time of the trap */
    uint64_t broken;  /* a bit for each page that could not be read or verified */
    struct mapper_stage stage;
    uint32_t frames[RUN_MAX];
    unsigned pieces;
    struct store_io ios[FAULT_PIECES];
    struct iovec iovs[]; /* as many as the pieces may need: fault_size() */
};

_Static_assert(RUN_MAX <= 64, "a bit for each page of a run");

#define FAULT_QUEUE_DEPTH_MAX 96u
#define FAULT_AHEAD_MAX 64u  /* of these, read-ahead: two windows of steps */
#define FAULT_REAP_PAGES 64u /* mapped, before a handler looks for new faults and sends reads */
#define FAULT_UNSENT_MAX 16u /* more reads are sent before fault_reap(): the disk is not to wait */

/* Faults in the order in which they came. */
struct fault_list {
    struct fault *first, *last;
};

struct fault_queue {
    struct store_queue *store;
    char *faults;        /* memory for FAULT_QUEUE_DEPTH_MAX of them */
    struct fault *free;  /* a list that ends with NULL, or with */
    struct fault *fresh; /* the first that was never used: these are not linked, nor populated */
    struct store_io *unsent[FAULT_UNSENT_MAX];
    unsigned unsent_count; /* reads prepared and not yet with the store */
    /* In flight, all reads reaped, to be mapped: with a page that was asked for; and read-ahead. */
    struct fault_list read, read_ahead;
    unsigned in_flight;       /* faults begun and not finished, */
    unsigned ahead;           /* and of those, read-ahead */
    unsigned touches;         /* first touches done, until the owner sets it back, */
    unsigned others;          /* and faults read or rescued, without a frame, or on a protection */
    bool serves;              /* its thread serves on: what others wait for may be read on */
    bool gate_held;           /* the machine's gate is held shared while anything is in flight */
    struct fault_queue *next; /* in the machine's pool */
};

int fault_queue_open(struct machine *m, struct fault_queue *queue);
void fault_queue_close(struct machine *m, struct fault_queue *queue);
/* Bytes of its tables that are populated. */
uint64_t fault_queue_bytes(const struct machine *m, const struct fault_queue *queue);

/* May another fault be begun, so that no more than `depth` of those asked for are in flight? */
static inline bool fault_queue_room(const struct fault_queue *queue, unsigned depth)
{
    return queue->free != NULL && queue->in_flight - queue->ahead < depth;
}

/* Is there something to map, which need not be waited for? */
static inline bool fault_queue_read(const struct fault_queue *queue)
{
    return queue->read.first != NULL || queue->read_ahead.first != NULL;
}

/* The machine's gate: entered before a first fault is begun, left when none is in flight. */
void fault_queue_enter(struct machine *m, struct fault_queue *queue);
void fault_queue_leave(struct machine *m, struct fault_queue *queue);

/*
 * Begin the fault of `thread` at va, which was met at `started` (ns): tried again, it goes on
 * counting from there. The queue must have a free struct fault. Never sleeps but for locks.
 * After DONE and PENDING, reads ahead may be in flight too.
 * Without fine_locks the section's lock is held while it looks at the PTE and maps.
 */
enum fault_result fault_begin(struct machine *m, struct fault_queue *queue, uintptr_t va,
                              unsigned flags, uint32_t thread, uint64_t started);

/*
 * Begin reading of the pages [va, va + pages) that are in the pagefile, as one run; prefault. BUSY
 * alone guards them: it takes no section's lock, and goes past the end of a section. *passed says
 * how many pages have been dealt with. FAULT_DONE: the first was there; FAULT_BUSY: it was neither
 * there nor to be read, which is for fault_begin() to look at.
 */
enum fault_result fault_begin_run(struct machine *m, struct fault_queue *queue, uintptr_t va,
                                  unsigned pages, unsigned *passed);

/*
 * Send the reads that have been prepared, reap what has completed (with wait: at least one, if any
 * is in flight) and finish those faults, read-ahead last. Returns the number finished; when these
 * had FAULT_REAP_PAGES pages there may be more (fault_queue_read()). *failed, if not NULL, counts
 * faults that failed.
 */
unsigned fault_reap(struct machine *m, struct fault_queue *queue, bool wait, unsigned *failed);

/*
 * Resolve completely, sleeping as needed. FAULT_DONE, FAULT_FAILED or FAULT_OUTSIDE. The queue
 * comes from the pool; nothing may be held.
 */
enum fault_result fault_resolve(struct machine *m, uintptr_t va, unsigned flags, uint32_t thread);

/* Sleep until whoever is busy with the page at va is done. Nothing may be held or in flight. */
void fault_wait_busy(struct machine *m, uintptr_t va);

/*
 * A fault that cannot be served because frame_wait() failed: the page, whatever its content, stays
 * as it is, and the thread asleep in the fault gets SIGBUS.
 */
void fault_give_up(struct machine *m, uintptr_t va);

/* Queues for threads that have none of their own; waits for one if all are out. */
struct fault_queue *fault_queue_get(struct machine *m);
void fault_queue_put(struct machine *m, struct fault_queue *queue);

#endif
