/*
 * What the files of fault resolution share: fault.c (the entrance), fault_queue.c (queues),
 * fault_map.c (first touch, rescue, helpers), fault_read.c (reading from the pagefile) and
 * fault_ahead.c (speculation).
 *
 * All are called with regions_lock held shared, or with the page BUSY by the caller.
 */
#ifndef VMSM_CORE_FAULT_INTERNAL_H
#define VMSM_CORE_FAULT_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "core/counters.h"
#include "core/fault.h"
#include "core/pte.h"
#include "core/region.h"
#include "core/stream.h"

/* fault_queue.c: take a struct fault from the queue, which has one, and give it back. */
struct fault *fault_get(const struct machine *m, struct fault_queue *queue);
void fault_put(struct fault_queue *queue, struct fault *fault);

/* fault_map.c */

/* Count how long a fault of this kind took. */
void fault_timed(struct machine *m, enum fault_kind kind, uint64_t started);

/* A TRANSIT frame becomes Active under va. The page is BUSY by us. */
void frame_attach(struct machine *m, uint32_t number, pte_t *pte, uintptr_t va, uint32_t slot);

/* So many pages from va on have become valid: their sections count them. */
void section_add_valid(struct pagetable *table, uintptr_t va, unsigned pages);

/* The word of a page that has just been mapped, by demand or on speculation, and read `was`. */
uint64_t mapped_word(struct machine *m, uint64_t was, uint32_t frame, bool wanted, bool protected);

/*
 * Own pages next to va, which is BUSY by us already, while they are of the wanted format, up to
 * count in all: those behind it, or before it if the stride is negative. *first becomes the lowest
 * address. Returns how many, va included. With a stride other than 1 or -1, count is 1.
 */
unsigned extend_run(struct machine *m, const struct region *region, uintptr_t va, int stride,
                    unsigned count, uint64_t format, uintptr_t *first);

/* The page at va reads `word`. FAULT_BUSY: it does not any more, look again. */
enum fault_result fault_touch(struct machine *m, struct region *region, uintptr_t va, uint64_t word,
                              uint32_t thread, uint64_t started);
enum fault_result fault_rescue(struct machine *m, struct fault_queue *queue, struct region *region,
                               uintptr_t va, uint64_t word, unsigned flags, uint32_t thread,
                               uint64_t started);

/* Rescue the page at va if that needs no waiting; returns how many pages that were (0 or 1). */
unsigned rescue_ahead(struct machine *m, struct region *region, uintptr_t va, uint64_t word);

/* fault.c: who touches the page, which is BUSY by us, gets SIGBUS; what cannot be arranged is
 * logged. */
void fault_fail_page(struct machine *m, uintptr_t va);

/* fault_read.c: the fault's pieces are to be read. */
void fault_add_reads(struct machine *m, struct fault_queue *queue, struct fault *f);

/* fault_read.c: likewise. FAULT_PENDING: fault_reap() goes on when the reads come back. */
enum fault_result fault_read_begin(struct machine *m, struct fault_queue *queue,
                                   struct region *region, uintptr_t va, uint64_t word,
                                   unsigned flags, uint32_t thread, uint64_t started);

/*
 * Begin reading up to `most` pages from va on, which nobody has asked for yet; stride and most as
 * stride and count of extend_run(). Returns how many pages that are, or 0: there is no room for
 * more, or somebody else has the page.
 */
unsigned read_ahead(struct machine *m, struct fault_queue *queue, struct region *region,
                    uintptr_t va, int stride, unsigned most);

/* fault_ahead.c */

/* Ask the thread's stream how many pages to map with va, and do what it says of those passed. */
void plan_window(struct machine *m, const struct region *region, uintptr_t va, uint32_t thread,
                 bool touching, struct stream_plan *plan);

/* Where the plan is to read the page at va alone, and others of its group are likely to be asked
 * for, those are to come with it that lie beside it in the pagefile too. It is in `slot`. */
void plan_around(const struct machine *m, const struct region *region, uintptr_t va, uint32_t slot,
                 struct stream_plan *plan);

static inline bool is_around(const struct stream_plan *plan)
{
    return plan->before + plan->behind > 0;
}

/* Is the stream one that goes by sections, where these may be large? */
bool goes_by_sections(const struct stream_plan *plan);

/* Of so many pages of the plan, those from va to the end of its section, if the next one may be
 * large. */
unsigned within_section(const struct machine *m, const struct region *region, uintptr_t va,
                        const struct stream_plan *plan, unsigned pages);

/* Of the window's pages, how many lie side by side and may be one run? */
unsigned plan_run(const struct machine *m, const struct region *region, uintptr_t va,
                  const struct stream_plan *plan);

/*
 * va and `covered` pages in all of the window have been dealt with; deal with the others, as far
 * as there is room, and tell the stream, if there is one, where it goes on: past what came around
 * va, which the window does not cover.
 */
void window_read(struct machine *m, struct fault_queue *queue, struct region *region, uintptr_t va,
                 uint32_t thread, const struct stream_plan *plan, unsigned covered);

/* The thread has waited at va for what was read ahead of it: the next section is due, if its stream
 * goes that far. Nothing is held. */
void window_go_on(struct machine *m, struct fault_queue *queue, uintptr_t va, uint32_t thread);

#endif
