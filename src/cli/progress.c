#include "cli/progress.h"

#include <inttypes.h>
#include <stdio.h>

#include "cli/console.h"
#include "cli/format.h"

#define LINE_SIZE 200

void progress_init(struct progress *p, uint64_t now_ns)
{
    *p = (struct progress){.start_ns = now_ns, .last_ns = now_ns};
}

static uint64_t soft_faults(const struct vmsm_counters *c)
{
    return c->faults_standby + c->faults_modified + c->faults_writing;
}

static void lists_print(char *line, const struct vmsm_counters *c)
{
    struct format active, standby, modified, available, used;
    uint64_t percent = c->slots_total > 0 ? c->slots_used * 100 / c->slots_total : 0;

    snprintf(line, LINE_SIZE,
             "active %s  standby %s  modified %s  free+zero %s  pagefile %s (%" PRIu64 "%%)",
             format_count(c->frames_active, &active), format_count(c->frames_standby, &standby),
             format_count(c->frames_modified + c->frames_writing, &modified),
             format_count(c->frames_free + c->frames_zero, &available),
             format_bytes(c->slots_used * VMSM_PAGE_SIZE, &used), percent);
}

void progress_show(struct progress *p, uint64_t now_ns, uint64_t accesses,
                   const struct vmsm_counters *c)
{
    double seconds = (double)(now_ns - p->last_ns) / 1e9;
    struct format rate, first, soft, hard;
    char rates[LINE_SIZE], lists[LINE_SIZE];
    const char *lines[] = {rates, lists};

    if (seconds <= 0)
        return;
    snprintf(
        rates, sizeof(rates), "%4.0f s  accesses/s %s  faults/s: first touch %s  soft %s  hard %s",
        (double)(now_ns - p->start_ns) / 1e9,
        format_short((double)(accesses - p->accesses) / seconds, &rate),
        format_short((double)(c->faults_first_touch - p->counters.faults_first_touch) / seconds,
                     &first),
        format_short((double)(soft_faults(c) - soft_faults(&p->counters)) / seconds, &soft),
        format_short((double)(c->faults_hard - p->counters.faults_hard) / seconds, &hard));
    lists_print(lists, c);
    console_block(lines, sizeof(lines) / sizeof(lines[0]));
    p->last_ns = now_ns;
    p->accesses = accesses;
    p->counters = *c;
}

void progress_show_sweep(const struct progress *p, uint64_t now_ns, uint64_t swept, uint64_t pages,
                         const struct vmsm_counters *c)
{
    char sweep[LINE_SIZE], lists[LINE_SIZE];
    const char *lines[] = {sweep, lists};
    struct format done, all;

    snprintf(sweep, sizeof(sweep), "%4.0f s  sweep: %s of %s pages checked",
             (double)(now_ns - p->start_ns) / 1e9, format_count(swept, &done),
             format_count(pages, &all));
    lists_print(lists, c);
    console_block(lines, sizeof(lines) / sizeof(lines[0]));
}
