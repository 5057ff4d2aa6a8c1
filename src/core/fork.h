/*
 * A machine in a child made by fork(): it goes on as the parent's was at that moment, with a
 * budget, workers and a pagefile of its own.
 *
 * What the child needs is inherited: page tables, frames and slots are ordinary memory; Active
 * pages and the cache are inherited for this one fork, copied by the kernel when one of the two
 * writes. What cannot be inherited is made anew: the userfaultfd, the store and its queues,
 * threads. The slots in use are copied into the child's store before the fork, so that parent and
 * child have nothing in common afterwards, and a fork that lacks room fails before anything has
 * happened.
 *
 *   parent   machine_fork_prepare()   stopped, slots copied, memory inheritable
 *            fork
 *   parent   machine_fork_parent()    goes on
 *   child    machine_fork_child()     goes on
 *
 * From prepare() on nobody may touch managed memory: the fault would wait for the parent to go on.
 * The child has one thread, the caller's. Only mappers that have fork_prepare() can do it.
 */
#ifndef VMSM_CORE_FORK_H
#define VMSM_CORE_FORK_H

#include "store/store.h"

struct machine;

/*
 * copy becomes the child's store; it stays the caller's in the parent. 0 or a negative errno with
 * words, and then the machine goes on as if nothing had been. No call of this manager may be under
 * way in another thread, but for faults.
 */
int machine_fork_prepare(struct machine *m, struct store *copy);
void machine_fork_parent(struct machine *m);

/*
 * What the parent's store had open is the caller's to close. After an error (with words) managed
 * memory cannot be used: the child must end. Pins end: whoever holds them is not here.
 */
int machine_fork_child(struct machine *m, struct store *store);

#endif
