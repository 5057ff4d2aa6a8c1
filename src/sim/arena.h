/*
 * The simulation's memory: the core's `platform`, made of one range at a fixed address, so that
 * two runs of the same seed see the same pointers, in one process or in two.
 *
 * What is released is overwritten, so that who still uses it is found out.
 */
#ifndef VMSM_SIM_ARENA_H
#define VMSM_SIM_ARENA_H

#include "core/platform.h"
#include <stdbool.h>

extern const struct platform platform_sim;

/* Forget everything; what is reserved from now on is zero again. */
void arena_reset(void);
/* Bytes reserved and not released. */
size_t arena_live(void);
/* The part from which small reservations came so far. */
void *arena_base(void);
size_t arena_used(void);
/* The caller has put back the memory as it was when arena_used() and arena_live() were so. */
void arena_restore(size_t used, size_t live);

#endif
