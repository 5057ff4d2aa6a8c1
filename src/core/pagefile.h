/*
 * The pagefile: which slots are taken, and the hash of what each holds.
 *
 * A slot is owned by one page: by its PTE (pagefile format), or by its frame
 * (frame.slot). It is taken by the writer before a write is sent, and released
 * when the page's content changed or the page is gone. Slot 0 is never used. A
 * slot whose write failed is bad: it stays taken for good. So does one that could not be read back,
 * once its page is discarded.
 *
 * Commit: pages promised to regions never exceed the limit = usable slots + frames that can
 * hold pages, less a reserve, so that a page that must leave its frame always finds a slot, if
 * need be by taking back the slots that valid pages still own (pagefile_reclaim()).
 */
#ifndef VMSM_CORE_PAGEFILE_H
#define VMSM_CORE_PAGEFILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/bitmap.h"
#include "core/hash.h"
#include "core/sync.h"
#include "store/store.h"

#define PAGEFILE_SLOTS_MAX UINT64_C(0xffffffff)

struct pagefile {
    struct store *store;
    struct bitmap slots;
    struct page_hash *hashes; /* of each slot; written by its owner before the write is sent */
    uint64_t hash_capacity;   /* entries */
    struct sync_mutex lock;   /* coarse_locks only: guards the bitmap */
    _Atomic uint64_t bad;     /* slots withdrawn */

    /* A file that was not preallocated gets a slot's blocks when it is first written, and keeps
     * them. On a full disk such slots can still be written. These belong to who runs the writer. */
    uint64_t written_end; /* slots from here on were never written */
    bool disk_full;       /* a write has found no room, and none beyond written_end has since */
    uint32_t reclaim_at;  /* the frame where pagefile_reclaim() goes on */

    struct sync_mutex commit_lock; /* guards the three below and store growth */
    uint64_t commit;               /* pages promised */
    uint64_t commit_slots;         /* slots there is room for in the store, slot 0 not counted */
    uint64_t size_fixed;           /* 0: grows */
};

struct machine;

int pagefile_init(struct machine *m, struct store *store);
void pagefile_fini(struct machine *m);

/* Bytes of its tables that are populated. */
uint64_t pagefile_bytes(const struct machine *m);

/* Charge pages; grows the store where it may. -ENOMEM, -ENOSPC with words. */
int pagefile_commit(struct machine *m, uint64_t pages);
void pagefile_uncommit(struct machine *m, uint64_t pages);
uint64_t pagefile_commit_limit(const struct machine *m);

/* May unchanged pages keep their slots? Not where there are hardly enough for the next that are
 * written: the writer would have to look for the slots that valid pages have, again and again. */
bool pagefile_has_plenty(const struct machine *m);
/* Take a run of at most want slots; 0 when there are none. Together: it is worth looking for one
 * that is as long. While the disk is full, those first that may have blocks. For the writer. */
unsigned pagefile_take(struct machine *m, unsigned want, bool together, uint32_t *first);
/* Take this very slot; false if it was taken. */
bool pagefile_take_slot(struct machine *m, uint32_t slot);
void pagefile_release(struct machine *m, uint32_t slot);
/* Slots have been written, or the disk had no room for one. */
void pagefile_note_written(struct machine *m, uint64_t first, unsigned count);
void pagefile_note_full(struct machine *m);
/* Withdraw a slot that could not be written, or whose page is gone and could not be read: it stays
 * taken, and what it holds is nobody's. Its hash becomes zero, which no content is likely to have;
 * who asks has stopped the machine. */
void pagefile_mark_bad(struct machine *m, uint32_t slot);
bool pagefile_is_bad(const struct machine *m, uint64_t slot);
/* Take back up to want slots that valid pages own beside their frame. Returns how many. */
unsigned pagefile_reclaim(struct machine *m, unsigned want);

#endif
