/*
 * What the tools of this repository may see of a manager beyond vmsm.h.
 */
#ifndef VMSM_INTERNAL_H
#define VMSM_INTERNAL_H

#include "core/counters.h"
#include "core/sync.h"
#include "core/tunables.h"
#include "vmsm.h"

/* As vmsm_create(), from settings that have been parsed already (VMSM_CONF is not read). */
int vmsm_create_tuned(struct vmsm **m, const struct tunables *tunables);

const struct tunables *vmsm_tunables(const struct vmsm *m);    /* in force, after adjustment */
const struct counters *vmsm_counters_of(const struct vmsm *m); /* histograms and batches */
const struct sync *vmsm_sync(const struct vmsm *m);            /* lock statistics */
const char *vmsm_store_name(const struct vmsm *m);             /* "file /path (direct, io_uring)" */

struct store;

/*
 * A manager in a child of fork(), see core/fork.h. Between prepare and the other two nobody may
 * touch managed memory. 0 or a negative errno with words; without success prepare has changed
 * nothing, and a child can only end. The child closes what its parent's manager had open.
 */
int vmsm_fork_prepare(struct vmsm *m, struct store **copy);
void vmsm_fork_parent(struct vmsm *m, struct store *copy);
int vmsm_fork_child(struct vmsm *m, struct store *copy);

/* The first page of [start, end), all of it managed, that has content (or may be getting some); end
 * if there is none. */
uintptr_t vmsm_next_content(struct vmsm *m, uintptr_t start, uintptr_t end);

/* As vmsm_decommit(); *refused: why the kernel does not give up pages (a negative errno), which is no
 * matter of pins; else 0. */
int vmsm_discard(struct vmsm *m, void *addr, size_t length, int *refused);

#endif
