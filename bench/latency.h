/*
 * How long touches take: a clock that costs the same few nanoseconds for every kind of memory (the
 * processor's time stamp counter on x86-64); the system's clock; and a histogram of powers of two divided in 32, one a
 * thread, merged afterwards.
 */
#ifndef VMSM_BENCH_LATENCY_H
#define VMSM_BENCH_LATENCY_H

#include <stdint.h>
#include <time.h>

#define LATENCY_PARTS 32 /* of a power of two */
#define LATENCY_BITS 5
#define LATENCY_BUCKETS ((64 - LATENCY_BITS + 1) * LATENCY_PARTS)

struct latency {
    uint64_t most; /* ticks */
    uint32_t buckets[LATENCY_BUCKETS];
};

static inline uint64_t ticks_now(void)
{
#ifdef __x86_64__
    return __builtin_ia32_rdtsc();
#else
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
#endif
}

/* Of a clock that is not set. */
static inline double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static inline unsigned latency_bucket(uint64_t ticks)
{
    unsigned exponent;

    if (ticks < LATENCY_PARTS)
        return (unsigned)ticks;
    exponent = 63 - (unsigned)__builtin_clzll(ticks) - LATENCY_BITS;
    return (exponent + 1) * LATENCY_PARTS + (unsigned)((ticks >> exponent) & (LATENCY_PARTS - 1));
}

/* The least that falls into a bucket. */
static inline uint64_t latency_bucket_least(unsigned bucket)
{
    unsigned exponent = bucket / LATENCY_PARTS;

    if (exponent == 0)
        return bucket;
    return (uint64_t)(LATENCY_PARTS + bucket % LATENCY_PARTS) << (exponent - 1);
}

static inline void latency_add(struct latency *l, uint64_t begin, uint64_t end)
{
    /* Counters of two processors may differ by a little. */
    uint64_t ticks = end > begin ? end - begin : 0;

    l->buckets[latency_bucket(ticks)]++;
    if (ticks > l->most)
        l->most = ticks;
}

static inline void latency_merge(struct latency *into, const struct latency *from)
{
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
    if (from->most > into->most)
        into->most = from->most;
}

/* Ticks that `part` (0 to 1) of the touches stayed within, to the middle of the bucket. */
static inline double latency_percentile(const struct latency *l, double part)
{
    uint64_t total = 0, seen = 0;

    for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
        total += l->buckets[i];
    for (unsigned i = 0; i < LATENCY_BUCKETS && total > 0; i++) {
        seen += l->buckets[i];
        if ((double)seen >= part * (double)total) {
            double least = (double)latency_bucket_least(i);
            double middle = (least + (double)latency_bucket_least(i + 1)) / 2;

            return i < LATENCY_PARTS ? least : middle < (double)l->most ? middle : (double)l->most;
        }
    }
    return 0;
}

#endif
