/*
 * The loop of a handler thread, without the operating system: where faults come from and how the
 * thread sleeps is the source's.
 *
 * A handler keeps many faults in flight: it takes what waits, begins all of them, and maps what
 * completes. It must not wait for anything that needs a handler. A fault on a busy page is
 * marked in its PTE and forgotten (who is busy wakes it); a fault that finds no frame is kept in
 * the backlog, and the handler waits for a frame only when it has no read in flight.
 *
 * All fields belong to the thread that runs the loop.
 */
#ifndef VMSM_TRAP_HANDLER_H
#define VMSM_TRAP_HANDLER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/machine.h"

#define HANDLER_BACKLOG 16u

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
};

struct handler {
    struct machine *m;
    const struct handler_source *source;
    struct fault_queue queue; /* opened by the owner */
    unsigned backlog_count;
    struct pending_fault backlog[HANDLER_BACKLOG];
};

/* Serve faults until the source says that it is time to end and nothing is in flight. */
void handler_run(struct handler *h);

#endif
