/*
 * Counters of the machine, and latency histograms by kind of fault.
 *
 * The table is VMSM_COUNTERS in include/vmsm.h. COUNT entries are kept in
 * shards (one per running thread, modulo) of relaxed atomics, so that counting
 * shares no cache line between threads; GAUGE entries are filled in when
 * counters are read.
 *
 * A histogram has 16 buckets for each power of two of nanoseconds (6 % wide).
 */
#ifndef VMSM_CORE_COUNTERS_H
#define VMSM_CORE_COUNTERS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "core/sync.h"
#include "vmsm.h"

enum counter_id {
#define COUNTER_ENUM(name, kind, help) COUNTER_##name,
    VMSM_COUNTERS(COUNTER_ENUM)
#undef COUNTER_ENUM
        COUNTER_TOTAL
};

enum counter_kind { COUNTER_COUNT, COUNTER_GAUGE };

struct counter_info {
    const char *name;
    enum counter_kind kind;
    const char *help;
    size_t offset; /* in struct vmsm_counters */
};

extern const struct counter_info counter_table[COUNTER_TOTAL];

/* Kinds of faults that are timed: X(name, text) */
#define FAULT_KINDS(X)                                                                             \
    X(FIRST_TOUCH, "first touch")                                                                  \
    X(STANDBY, "rescue, standby")                                                                  \
    X(MODIFIED, "rescue, modified")                                                                \
    X(WRITING, "rescue, writing")                                                                  \
    X(HARD, "hard (read)")                                                                         \
    X(PROTECT, "write protection")                                                                 \
    X(STALE, "already valid")

enum fault_kind {
#define FAULT_KIND_ENUM(name, text) FAULT_KIND_##name,
    FAULT_KINDS(FAULT_KIND_ENUM)
#undef FAULT_KIND_ENUM
        FAULT_KIND_COUNT
};

const char *fault_kind_name(enum fault_kind kind);

#define HISTOGRAM_BUCKETS 640

struct histogram {
    _Atomic uint32_t buckets[HISTOGRAM_BUCKETS];
    _Atomic uint64_t max;   /* ns */
    _Atomic uint64_t total; /* ns */
    _Atomic uint64_t count;
};

void histogram_add(struct histogram *h, uint64_t ns);
/* The upper edge of the bucket that holds the share (0 to 1) of samples; 0 if empty. */
uint64_t histogram_percentile(const struct histogram *h, double share);

/* Sizes of batches: count, total and largest. */
struct batch_stats {
    _Atomic uint64_t batches, items, largest;
};
void batch_stats_add(struct batch_stats *b, uint64_t items);

struct counter_shard {
    _Atomic uint64_t values[COUNTER_TOTAL];
};

struct counters {
    struct counter_shard shards[SYNC_SHARDS];
    struct histogram faults[FAULT_KIND_COUNT]; /* time from the trap to the wake */
    struct batch_stats trims, writes, reads, maps, touches, repurposes; /* pages each */
};

static inline void counter_add(struct counters *c, struct sync *s, enum counter_id id, uint64_t n)
{
    atomic_fetch_add_explicit(&c->shards[s->backend->shard(s)].values[id], n, memory_order_relaxed);
}

/*
 * Copy statistics that other threads go on adding to: every 8 bytes are read atomically.
 * size is a multiple of 8.
 */
void counters_copy(void *to, const void *from, size_t size);

/* Sum of the shards of one counter. */
uint64_t counter_read(const struct counters *c, enum counter_id id);
/* Fill in all COUNT fields; GAUGE fields are left alone. */
void counters_collect(const struct counters *c, struct vmsm_counters *out);

#endif
