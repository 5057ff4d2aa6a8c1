/*
 * What the peers need from the system, made and taken down by the parent, as root: a control group
 * (version 1 or 2) with the limit, a swap file on the disk, a zram device.
 *
 *   peer_open()     removes what a killed run left, tries what can be had, keeps swap off
 *   peer_prepare()  a fresh group; the swap of one kind is on      ─┐ as often as one likes
 *   peer_enter()    in the child                                   ─┘
 *   peer_close()    takes everything down
 *
 * Whatever was set up is taken down by peer_close(), which must be called also after errors and
 * signals: let signal handlers set a flag, nothing else. After SIGKILL the next peer_open() finds
 * it (record.h). One benchmark at a time on a machine: swap is the whole system's.
 *
 * Where the kernel would kill because a small group is under write-back for a moment, it is told to
 * let the process wait, and while swap is prepared a thread sees to it that it goes on (control groups
 * of version 1 only).
 *
 * Other swap that the system has stays on. Ours has the highest priority and more room than is
 * needed, so that no other serves; with a mapped file the group may not swap.
 *
 * The limit and zram. What zram stores is charged to no group (tried: Linux 6.18), so a group with
 * the limit alone would give zram memory beyond the budget. Therefore, while zram is prepared, a
 * thread lowers the group's limit, every 5 ms and in steps, by what zram takes, so that both
 * together keep to it; but never under a quarter of it, below which nothing would run: then zram
 * has more memory than the others, and peer_peak() says how much. The kernel reclaims for a lowered
 * limit in that thread: this time is not in the child's figures, in zram's favour. zram's own
 * tables (about 16 bytes a page) are not counted either.
 */
#ifndef VMSM_BENCH_PEER_H
#define VMSM_BENCH_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory.h"

struct peer; /* one a process; opaque; for one thread */

struct peer_options {
    const char *dir; /* where the swap file lies */
    size_t length;   /* bytes of the region; swap file and zram have twice as much */
};

/*
 * Find out what can be had. missing[kind] is NULL, or why that kind is left out, owned by the peer:
 * no root, no controller, no zram module … Never fails for lack of a peer: 0, or -ENOMEM.
 */
int peer_open(struct peer **out, const struct peer_options *options,
              const char *missing[MEMORY_KINDS]);

/* How a kind was set up, for the report; "" if there is nothing to say. Owned by the peer. */
const char *peer_note(const struct peer *peer, enum memory_kind kind);

/* Bytes that a group is charged beside the region, to be added to the budget for a fair limit: page
 * tables, generations (4 bytes a page), the program, its stacks and the kernel's structures. */
size_t peer_allowance(size_t length);

/*
 * Make ready for rounds of `kind`: a new group with a limit of `limit` bytes, its swap on and no
 * other of ours. Managed: all swap of ours off, no group. Processes of earlier rounds must have
 * ended (what is left in the group is killed). 0 or a negative errno after a message.
 */
int peer_prepare(struct peer *peer, enum memory_kind kind, size_t limit);

/* In the child, after fork(): enter the group, if the kind has one. Async-signal-safe. */
int peer_enter(struct peer *peer);

/* Most bytes charged to the group since peer_prepare(), with zram: and used by it (as sampled). 0
 * if the kernel does not say. */
uint64_t peer_peak(struct peer *peer);

/* NULL is allowed. What cannot be taken down is said, with the command that does it. */
void peer_close(struct peer *peer);

#endif
