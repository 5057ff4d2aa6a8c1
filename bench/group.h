/*
 * A memory control group with a limit, version 1 or 2. There is one on the machine at a time, with
 * a fixed name, so that what a killed run left is found.
 */
#ifndef VMSM_BENCH_GROUP_H
#define VMSM_BENCH_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "text.h"

struct group {
    char root[TEXT_PATH / 2]; /* where the memory controller is mounted */
    char path[TEXT_PATH];     /* the group */
    uint64_t limit;           /* bytes; the one asked for last */
    bool version2;
    bool made;
    bool controller_enabled; /* version 2: by us, for the children of root */
    int procs;               /* descriptor of cgroup.procs, or -1 */
};

/* Find the memory controller. 0, or -ENOENT and why. */
int group_find(struct group *group, struct why *why);
/* Version 2: may the children of root have limits already? */
bool group_has_controller(const struct group *group);
/* Make the group, anew if it is there, with a limit in bytes; its processes may use swap or not. 0,
 * or a negative errno and why. */
int group_make(struct group *group, uint64_t limit, bool swap, struct why *why);
/* Put the calling process into it. Async-signal-safe. 0 or a negative errno. */
int group_enter(const struct group *group);
/* A new limit; the kernel makes room at once, in the calling thread. 0 or a negative errno. */
int group_limit(struct group *group, uint64_t limit);
/* Version 1: go on with processes that found no memory, and were not killed. The kernel wakes them when
 * some is given back, but may miss it: to be called every few milliseconds. Were there any? */
bool group_wake(const struct group *group);
/* Bytes charged now; the most since it was made, 0 where the kernel does not keep it. */
uint64_t group_charged(const struct group *group);
uint64_t group_peak(const struct group *group);
/* Kill what is still in it. */
void group_kill(const struct group *group);
/* The same, and remove it if it is there. 0 or a negative errno. */
int group_remove(struct group *group);
/* Version 2: take back what group_make() changed outside of the group. */
void group_restore(struct group *group);

#endif
