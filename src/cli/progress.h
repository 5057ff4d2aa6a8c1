/*
 * What sim shows while it runs, once a second.
 */
#ifndef VMSM_CLI_PROGRESS_H
#define VMSM_CLI_PROGRESS_H

#include <stdint.h>

#include "vmsm.h"

struct progress {
    uint64_t start_ns, last_ns;
    uint64_t accesses; /* at last_ns */
    struct vmsm_counters counters;
};

void progress_init(struct progress *p, uint64_t now_ns);
void progress_show(struct progress *p, uint64_t now_ns, uint64_t accesses,
                   const struct vmsm_counters *counters);
void progress_show_sweep(const struct progress *p, uint64_t now_ns, uint64_t swept, uint64_t pages,
                         const struct vmsm_counters *counters);

#endif
