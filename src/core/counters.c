#include "core/counters.h"

#include <string.h>

#define HISTOGRAM_STEPS 16 /* buckets for each power of two */
#define HISTOGRAM_STEP_BITS 4

const struct counter_info counter_table[COUNTER_TOTAL] = {
#define COUNTER_ROW(name, kind, help)                                                              \
    {#name, COUNTER_##kind, help, offsetof(struct vmsm_counters, name)},
    VMSM_COUNTERS(COUNTER_ROW)
#undef COUNTER_ROW
};

const char *fault_kind_name(enum fault_kind kind)
{
    static const char *const names[FAULT_KIND_COUNT] = {
#define FAULT_KIND_TEXT(name, text) [FAULT_KIND_##name] = (text),
        FAULT_KINDS(FAULT_KIND_TEXT)
#undef FAULT_KIND_TEXT
    };

    return names[kind];
}

void counters_copy(void *to, const void *from, size_t size)
{
    typedef uint64_t __attribute__((may_alias)) word_t;
    const word_t *source = from;
    word_t *target = to;

    for (size_t i = 0; i < size / sizeof(word_t); i++)
        target[i] = __atomic_load_n(&source[i], __ATOMIC_RELAXED);
}

static void raise_to(_Atomic uint64_t *largest, uint64_t value)
{
    uint64_t old = atomic_load_explicit(largest, memory_order_relaxed);

    while (old < value && !atomic_compare_exchange_weak_explicit(
                              largest, &old, value, memory_order_relaxed, memory_order_relaxed))
        continue;
}

/*
 * Under 16 ns a bucket is one nanosecond; from there on the top five bits of
 * the time select the bucket. The last bucket takes all that is longer.
 */
static unsigned histogram_bucket(uint64_t ns)
{
    if (ns < HISTOGRAM_STEPS)
        return (unsigned)ns;

    unsigned shift = 63 - (unsigned)__builtin_clzll(ns) - HISTOGRAM_STEP_BITS;
    unsigned bucket = shift * HISTOGRAM_STEPS + (unsigned)(ns >> shift);

    return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

/* The longest time that falls in a bucket. */
static uint64_t histogram_edge(unsigned bucket)
{
    if (bucket < HISTOGRAM_STEPS)
        return bucket;
    if (bucket == HISTOGRAM_BUCKETS - 1)
        return UINT64_MAX;

    unsigned shift = bucket / HISTOGRAM_STEPS - 1;
    uint64_t top = HISTOGRAM_STEPS + bucket % HISTOGRAM_STEPS;

    return ((top + 1) << shift) - 1;
}

void histogram_add(struct histogram *h, uint64_t ns)
{
    raise_to(&h->max, ns); /* first: a percentile is never shown above the maximum */
    atomic_fetch_add_explicit(&h->buckets[histogram_bucket(ns)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->total, ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->count, 1, memory_order_relaxed);
}

uint64_t histogram_percentile(const struct histogram *h, double share)
{
    uint64_t samples = 0;

    /* The buckets themselves are summed: h->count may be ahead of them while threads add. */
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        samples += atomic_load_explicit(&h->buckets[i], memory_order_relaxed);
    if (samples == 0)
        return 0;

    uint64_t max = atomic_load_explicit(&h->max, memory_order_relaxed);
    double wanted = share * (double)samples;
    uint64_t seen = 0;

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += atomic_load_explicit(&h->buckets[i], memory_order_relaxed);
        if (seen > 0 && (double)seen >= wanted) {
            uint64_t edge = histogram_edge(i);
            return edge < max ? edge : max;
        }
    }
    return max;
}

void batch_stats_add(struct batch_stats *b, uint64_t items)
{
    atomic_fetch_add_explicit(&b->batches, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&b->items, items, memory_order_relaxed);
    raise_to(&b->largest, items);
}

uint64_t counter_read(const struct counters *c, enum counter_id id)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < SYNC_SHARDS; i++)
        sum += atomic_load_explicit(&c->shards[i].values[id], memory_order_relaxed);
    return sum;
}

void counters_collect(const struct counters *c, struct vmsm_counters *out)
{
    for (unsigned id = 0; id < COUNTER_TOTAL; id++) {
        if (counter_table[id].kind != COUNTER_COUNT)
            continue;
        uint64_t value = counter_read(c, id);
        memcpy((char *)out + counter_table[id].offset, &value, sizeof(value));
    }
}
