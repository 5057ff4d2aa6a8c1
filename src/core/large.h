/*
 * Large pages: sections that the mapper has as one huge page.
 *
 * Every page of such a section is valid, with a PTE and a frame of its own, as any other; that it
 * is large is known to the section (section.large) and the mapper alone. It becomes so by a first
 * touch or a read of all of it at once, where a stream goes through it, and ends
 *   - when all of it is trimmed: it is moved out of the program's sight, the writer writes it from
 *     where it is, and its pages are then in the pagefile. There is no second chance on standby. If
 *     it cannot be written it is moved back.
 *   - when it is discarded;
 *   - when pages of it are to leave alone: it is split before, into small pages.
 *
 *             touch, read of all                     large_trim          written, or unchanged
 *   section: ───────────────────▶ large, all valid ─────────────▶ moved ──────────────────────▶ PAGEFILE
 *                                  │            ▲                   │
 *                                  │ split      └───────────────────┘ wanted meanwhile, no slots,
 *                                  ▼                                  not written
 *                                small
 *
 * From the first touch, or the trim, to the end all pages of it are BUSY. What a large buffer of
 * the mapper holds always has frames: those that it is taken from, or will be mapped with. So it
 * needs no part of the budget. Who has a buffer (struct large) owns all fields of it.
 */
#ifndef VMSM_CORE_LARGE_H
#define VMSM_CORE_LARGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/fault.h"
#include "core/region.h"
#include "core/stream.h"

/* A large buffer and what is under way with it. */
struct large {
    struct pagetable *table;
    uintptr_t va;    /* the section's */
    uint64_t began;  /* ns: when its trim did */
    unsigned wanted; /* page of it that was asked for, or SECTION_PAGES */
    uint32_t frames[SECTION_PAGES];
    uint32_t slots[SECTION_PAGES]; /* that it is read from, or written to */
    uint64_t word[SECTION_PAGES];  /* a trim: PTEs as found, without BUSY */
    bool zero[SECTION_PAGES];      /* a trim: pages of zeroes */
};

/* (a) atomic; (c) constant; (h) lock */
struct larges {
    struct large *buffers;  /* (c) one for each of the mapper's */
    unsigned count;         /* (c); 0: sections are never large */
    _Atomic uint32_t kept;  /* (a) a bit for each that has memory, rights to as many frames, and no
                            * owner: the next one's */
    _Atomic uint32_t idle;  /* (a) ageing passes since a buffer was last taken */
    _Atomic uint32_t taken; /* (a) a bit for each */
    _Atomic bool awaited;   /* (a) a fault has been told LARGE_SOON */
    _Atomic uint64_t
        fill_at; /* (a) ns: there was no huge page, or it took long; not tried before */
    _Atomic uint64_t touch_at; /* (a) ns: the same for first touches */
    _Atomic uint64_t
        write_at; /* (a) ns: a write failed, or found no slots; not tried before then */
    _Atomic uint64_t leave_ns;   /* (a) ns: from trim to end, moving average; without a write, 0 */
    _Atomic uint64_t touched_at; /* (a) ns: the last first touch of a section that might be large */
    _Atomic uint32_t pending;    /* (a) sections that have been moved away and not left yet */
    struct sync_mutex lock;      /* class HANDOVER */
    struct large *to_write[LARGE_MAX]; /* (h) from the trimmer to the writer, */
    _Atomic unsigned to_write_count;   /* the first first; changed under (h), read by anybody */
};

struct machine;

int large_init(struct machine *m);
void large_fini(struct machine *m);
uint64_t large_bytes(const struct machine *m);

enum large_result {
    LARGE_NOT,  /* it is to be done the ordinary way */
    LARGE_SOON, /* memory for it is on its way: frame_wait(), then again */
    LARGE_DONE
};

/*
 * First touch of the page at va, of a stream, by a fault that was met at `started`: of all its
 * section, if that may be.
 */
enum large_result large_touch(struct machine *m, struct region *region, uintptr_t va,
                              uint64_t started);

/*
 * Begin reading all of the section of va, which is in the pagefile, if that may be. flags: of the
 * fault, FAULT_AHEAD if nobody has asked for the page.
 */
enum large_result large_read_begin(struct machine *m, struct fault_queue *queue,
                                   struct region *region, uintptr_t va, unsigned flags,
                                   uint32_t thread, uint64_t started);
/* All its reads have been reaped. What cannot be had stays in the pagefile, to be read page by
 * page. */
void large_read_finish(struct machine *m, struct fault_queue *queue, struct fault *f);

/*
 * Begin to trim all of a large section; false: it cannot be now, and all is as it was. The
 * section's `trimming` mark is ours. Its pages leave at once, if they are unchanged, or else when
 * the writer has written them.
 */
bool large_trim(struct machine *m, struct pagetable *table, size_t n);
/* Are as many under way as may be? */
bool large_trims_full(const struct machine *m);
/* Frames that nobody uses are kept for the next section, with the memory under them, which is dear
 * to get anew. Give up those of so many sections, or all of them where none has been wanted for
 * long; returns of how many. */
unsigned large_give_up(struct machine *m, unsigned sections);
void large_fit(struct machine *m);
unsigned large_kept(const struct machine *m);
/* Wait for memory for a section, or a while, if a fault has found that it comes soon; false: none
 * has. */
bool large_wait(struct machine *m);
/* Have sections been wanted of late? */
bool large_wanted(const struct machine *m);
/* Is va the first page, for who goes that way, of a section that may be large? */
bool large_begins(const struct machine *m, const struct region *region, uintptr_t va,
                  int32_t stride);
/* Pages that are on their way out so. */
unsigned large_leaving(const struct machine *m);
/* While memory is filled by sections, how many pages are to be on their way out, at `rate` pages a
 * second, for nobody to wait for them. Readers would wait for what is written in advance. */
uint64_t large_ahead(struct machine *m, uint64_t rate);

/* For the writer. The next section that waits to be written, or NULL. */
struct large *large_to_write(struct machine *m);
bool large_waits(const struct machine *m);
/* Has somebody asked for a page of it? Then it is put back, and ours no more. */
bool large_call_back(struct machine *m, struct large *l);
/* Requests for its pages, at most FAULT_PIECES, which write l->slots from its buffer, or read them
 * into it. Returns how many, or 0: the slots are in too many places. */
unsigned large_pieces(struct machine *m, const struct large *l, bool write, void *owner,
                      struct store_io *ios, struct iovec *iovs);
/* It has new slots, and they are about to be written. */
void large_write_begin(struct machine *m, struct large *l);
/* It has been written, or could not be: then its pages stay, and the slots are the caller's. */
void large_write_end(struct machine *m, struct large *l, bool written);

/* Small pages are to leave a section: if it is large it is so no more. False: it cannot be now. */
bool large_split(struct machine *m, struct pagetable *table, size_t n);
/* All pages leave, or what cannot be split is to be forgotten. */
void large_forget(struct pagetable *table, size_t n);
/* Split all there are. The gate is held exclusive. */
void large_split_all(struct machine *m);

#endif
