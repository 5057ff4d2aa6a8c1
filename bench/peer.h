/*
 * What the peers need from the system, made and taken down by the parent, as root: a control group
 * (version 1 or 2) with the limit, a swap file on the disk, a zram device. Whatever was set up is
 * taken down by peer_close(), also after errors and signals; what other swap the system has is
 * switched off for the time and on again afterwards, or used after ours if it cannot be.
 */
#ifndef VMSM_BENCH_PEER_H
#define VMSM_BENCH_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory.h"

struct peer; /* one a process; opaque */

struct peer_options {
    const char *dir;  /* where the swap file lies */
    size_t length;    /* bytes of the region; the swap file has twice as much */
};

/* Find out what can be had. *missing[kind] is NULL, or why that kind is left out (static text, or
 * owned by the peer): no root, no controller, no zram module … Never fails for lack of a peer. */
int peer_open(struct peer **out, const struct peer_options *options,
              const char *missing[MEMORY_KINDS]);

/* Make ready for rounds of `kind`: switch on its swap (and only its), set the group's limit to
 * `limit` bytes. 0 or a negative errno after a message. Managed: nothing but swap off. */
int peer_prepare(struct peer *peer, enum memory_kind kind, size_t limit);

/* In the child, after fork(): enter the group. Async-signal-safe. */
int peer_enter(struct peer *peer);

/* Most bytes charged to the group since peer_prepare(). */
uint64_t peer_peak(struct peer *peer);

void peer_close(struct peer *peer);

#endif
