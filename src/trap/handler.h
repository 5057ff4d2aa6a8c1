/*
 * The loop of a handler thread, without the operating system: where faults come from and how the
 * thread sleeps is the source's.
 *
 * A handler keeps many faults in flight: it takes what waits, begins all of them, and maps what
 * completes. It must not wait for anything that needs a handler. A fault on a busy page is
 * marked in its PTE and forgotten (who is busy wakes it); a fault that finds no frame is kept in
 * the backlog, and the handler waits for a frame only when it has no read in flight.
 *
 * All fields belong to the thread that runs the loop, but for `help`.
 *
 * One handler may be the spare. It takes faults only while first touches saturate another: mapping
 * zeroes is all that a handler then does, and two of them get on. Where pages are read, a second one
 * would only be one more to wake (docs/performance.md).
 *
 *   asleep ──▶ called ──▶ helping ──▶ leaving ──▶ asleep
 *
 *   asleep    no fault wakes it, and it takes none. Whoever is saturated makes it
 *   called    (one of them wins), has faults wake it too, and makes it
 *   helping   a handler like any other. When it is not needed any more, it makes itself
 *   leaving   and is woken by no more faults. One may have woken it instead of another handler: so it
 *             takes what waits until nothing does, and only then is asleep.
 *
 * Called, it takes faults as when it helps, but leaves only after that: who called it would go on to
 * have it woken.
 */
#ifndef VMSM_TRAP_HANDLER_H
#define VMSM_TRAP_HANDLER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/machine.h"

#define HANDLER_BACKLOG 16u

enum handler_help { SPARE_ASLEEP, SPARE_CALLED, SPARE_HELPING, SPARE_LEAVING };

struct pending_fault {
    uintptr_t va;
    unsigned flags; /* enum fault_flags, FAULT_TRAP among them */
    uint32_t thread;
    uint64_t started; /* ns: when it was taken; set by the loop */
};

struct handler;

struct handler_source {
    /* Take up to max faults that wait now. Never sleeps. */
    unsigned (*take)(struct handler *h, struct pending_fault *faults, unsigned max);
    /* Sleep until a fault waits, a read has completed, or it is time to end; true: end. */
    bool (*sleep)(struct handler *h);
    /* From now on faults wake the spare, or not. False: that cannot be, and all stays as it is. Called by
     * any handler, or by the spare itself. */
    bool (*attend)(struct handler *spare, bool on);
};

struct handler {
    struct machine *m;
    const struct handler_source *source;
    struct fault_queue queue; /* opened by the owner */
    struct handler *spare;    /* another, this one, or NULL: there is none; set by the owner */
    unsigned judged_after;    /* first touches without another fault between; likewise */
    _Atomic unsigned help;    /* enum handler_help, if it is the spare */
    uint64_t judged;          /* ns: when it last was, */
    uint64_t slept;           /* and how long it has slept since, */
    uint64_t last_sleep;      /* and the last time */
    unsigned backlog_count;
    struct pending_fault backlog[HANDLER_BACKLOG];
};

/* Serve faults until the source says that it is time to end and nothing is in flight. */
void handler_run(struct handler *h);

#endif
