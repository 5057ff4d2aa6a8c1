/*
 * What the supervisor does to a case from outside. disturb_tick() is called every few
 * milliseconds, and does what is due; it may take as long as a stop or a dip lasts.
 */
#ifndef TORTURE_DISTURB_H
#define TORTURE_DISTURB_H

#include "torture.h"

enum disturbance { AT_STOP, AT_CPU, AT_DIP, AT_FILL, AT_CORRUPT, AT_CUT, DISTURBANCES };

struct disturb {
    const struct plan *plan;
    const struct places *places;
    struct report *report;
    struct verdict *verdict;
    pid_t pid;
    struct rng rng;
    uint64_t due[DISTURBANCES]; /* ns; when each is next done */
    int fill;                   /* the file that fills the disk; -1: none */
    bool filled;
    uint64_t limit;     /* of the control group, bytes; 0: none */
    uint64_t oom_kills; /* of the control group, at the start */
    uint64_t paused_ns; /* how long the case was stopped in all */
};

/* Before the case's process is made. 0, or -1 with words in the verdict. */
int disturb_begin(struct disturb *d);
/* In the case's process, first of all: into the control group. */
int disturb_join(const struct plan *plan, const struct places *places);
void disturb_tick(struct disturb *d);
/* When the process has ended: undo everything. */
void disturb_end(struct disturb *d);
/* Has the kernel killed for want of memory since disturb_begin()? */
bool disturb_killed(const struct disturb *d);

#endif
