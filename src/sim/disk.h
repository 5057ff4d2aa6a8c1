/*
 * The simulated disk: a store whose requests take virtual time, finish in any order, and fail in
 * every way that disks and file systems have been seen to.
 *
 * It also watches its user: two requests under way for one slot, one of them a write, or a request
 * outside the store, end the run.
 *
 * A slot is `harmed` from the moment that the disk has lost or damaged its content for good, until
 * the slot is written again: only then may a page be reported as lost.
 */
#ifndef VMSM_SIM_DISK_H
#define VMSM_SIM_DISK_H

#include "sim/schedule.h"
#include "store/store.h"

#define DISK_SLOTS_MAX 18432u
#define DISK_REQUESTS 1024u

/* Chances are "one in so many requests (or slots)"; 0: never. */
struct disk_faults {
    uint64_t latency_min, latency_max; /* ns */
    unsigned hang_every;               /* a request takes hang_ns */
    uint64_t hang_ns;
    unsigned read_error_every;  /* -EIO; the next try may do better */
    unsigned write_error_every; /* -EIO; each slot of the run is written, kept, or garbage */
    unsigned corrupt_every;     /* a bit of what is read is wrong; the next read may be right */
    unsigned rot_every;         /* a bit of what is written is wrong, for good */
    unsigned lost_every;        /* a write is acknowledged and not made */
    unsigned misplaced_every;   /* a write lands on another free slot instead */
    unsigned bad_every;         /* a slot becomes unreadable for good, or unwritable */
    unsigned full_every;        /* the disk is full for full_ns: writes get -ENOSPC */
    uint64_t full_ns;
    unsigned grow_error_every; /* grow() gets -ENOSPC */
};

struct disk;

/* slots: room at first; fixed: it cannot grow. From the arena. */
struct disk *disk_open(struct schedule *s, uint64_t seed, uint64_t slots, bool fixed,
                       const struct disk_faults *faults);
struct store *disk_store(struct disk *disk);

/* From now on nothing goes wrong any more. */
void disk_behave(struct disk *disk);
/* The next count writes fail, whatever the faults say. */
void disk_fail_writes(struct disk *disk, unsigned count);
const void *disk_content(const struct disk *disk, uint64_t slot);
/* Has the disk lost what was last written there? */
bool disk_harmed(const struct disk *disk, uint64_t slot);
/* Faults made so far of any kind; and those after which data may be gone. */
uint64_t disk_faults_made(const struct disk *disk);
uint64_t disk_harm_done(const struct disk *disk);
/* Is a request under way in any queue? */
bool disk_busy(const struct disk *disk);

/* Also add one to *bell, and wake who sleeps on it, when a request of the queue is complete. */
void disk_queue_bell(struct store_queue *queue, _Atomic uint32_t *bell);
/* Has reap() something to return? */
bool disk_queue_ready(struct store_queue *queue);

#endif
