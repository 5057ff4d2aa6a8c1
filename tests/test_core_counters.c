/*
 * Counters in shards, histograms of latencies, sizes of batches.
 */
#include <pthread.h>

#include "core/counters.h"
#include "tap.h"

#define THREADS 4
#define ROUNDS 20000

static struct counters counters;

/* A back end of which only the shard is used. */
static _Thread_local unsigned this_shard;

static unsigned shard_of_thread(struct sync *s)
{
    (void)s;
    return this_shard;
}

static const struct sync_backend backend = {.shard = shard_of_thread};
static struct sync sync_of_test = {.backend = &backend};

static void test_table(void)
{
    unsigned named = 0, placed = 0;

    for (unsigned i = 0; i < COUNTER_TOTAL; i++) {
        named += counter_table[i].name[0] != '\0' && counter_table[i].help[0] != '\0';
        placed += counter_table[i].offset == i * sizeof(uint64_t);
    }
    is(named, COUNTER_TOTAL, "every counter has a name and a help text");
    is(placed, COUNTER_TOTAL, "every counter has its place in struct vmsm_counters");
    ok(strcmp(counter_table[COUNTER_pages_lost].name, "pages_lost") == 0, "names and places agree");
    is(counter_table[COUNTER_pages_lost].kind, COUNTER_COUNT, "a count");
    is(counter_table[COUNTER_frames_zero].kind, COUNTER_GAUGE, "a level");
    ok(strcmp(fault_kind_name(FAULT_KIND_FIRST_TOUCH), "first touch") == 0, "first kind of fault");
    ok(strcmp(fault_kind_name(FAULT_KIND_STALE), "already valid") == 0, "last kind of fault");
}

static void *count_many(void *shard)
{
    this_shard = *(const unsigned *)shard;
    for (unsigned i = 0; i < ROUNDS; i++) {
        counter_add(&counters, &sync_of_test, COUNTER_pages_read, 3);
        histogram_add(&counters.faults[FAULT_KIND_HARD], i);
        batch_stats_add(&counters.reads, i % 64);
    }
    return NULL;
}

static void test_threads(void)
{
    static unsigned shards[THREADS] = {0, 1, 1, SYNC_SHARDS - 1}; /* two threads share one */
    const struct histogram *h = &counters.faults[FAULT_KIND_HARD];
    struct vmsm_counters out;
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, count_many, &shards[i]);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);

    is(counter_read(&counters, COUNTER_pages_read), 3 * THREADS * ROUNDS, "no count is lost");
    is(counter_read(&counters, COUNTER_pages_written), 0, "other counters are untouched");
    is(h->count, THREADS * ROUNDS, "no sample is lost");
    is(h->max, ROUNDS - 1, "the largest sample is known");
    is(h->total, (uint64_t)THREADS * ROUNDS * (ROUNDS - 1) / 2, "so is the sum");
    is(counters.reads.batches, THREADS * ROUNDS, "no batch is lost");
    is(counters.reads.largest, 63, "the largest batch is known");

    memset(&out, 0x5a, sizeof(out));
    counters_collect(&counters, &out);
    is(out.pages_read, 3 * THREADS * ROUNDS, "collected");
    is(out.pages_written, 0, "collected: zero");
    is(out.slots_used, 0x5a5a5a5a5a5a5a5a, "levels are left to their owners");
}

/* The percentile of a histogram of this one sample. */
static uint64_t percentile_of(uint64_t sample, uint64_t larger)
{
    static struct histogram h;

    memset(&h, 0, sizeof(h));
    histogram_add(&h, sample);
    histogram_add(&h, larger);
    return histogram_percentile(&h, 0.5);
}

static void test_edges(void)
{
    unsigned wide = 0, exact = 0;

    for (uint64_t ns = 0; ns < 32; ns++)
        exact += percentile_of(ns, UINT64_MAX) == ns;
    is(exact, 32, "up to 31 ns every value has a bucket of its own");
    is(percentile_of(32, UINT64_MAX), 33, "32 and 33 share one");
    is(percentile_of(33, UINT64_MAX), 33, "33 and 32 share one");
    is(percentile_of(34, UINT64_MAX), 35, "34 is in the next");
    is(percentile_of(1023, UINT64_MAX), 1023, "the last bucket of a power of two");
    is(percentile_of(1024, UINT64_MAX), 1087, "the first bucket of the next");

    for (uint64_t ns = 16; ns < (UINT64_C(1) << 42); ns += ns / 7) {
        uint64_t edge = percentile_of(ns, UINT64_MAX);
        wide += edge < ns || edge - ns > ns / 16;
    }
    is(wide, 0, "an edge is at most 6 %% above the sample, up to an hour");
    ok(percentile_of(UINT64_MAX - 1, UINT64_MAX) == UINT64_MAX, "what is longer is in the last");
    is(percentile_of(1024, 1030), 1030, "no percentile is above the maximum");
}

static void test_percentiles(void)
{
    static struct histogram h;

    is(histogram_percentile(&h, 0.5), 0, "an empty histogram says 0");
    for (uint64_t i = 1; i <= 1000; i++)
        histogram_add(&h, i <= 990 ? 10 : 5000);
    is(histogram_percentile(&h, 0), 10, "share 0 is the smallest");
    is(histogram_percentile(&h, 0.5), 10, "p50");
    is(histogram_percentile(&h, 0.99), 10, "p99 is the 990th of 1000");
    is(histogram_percentile(&h, 0.999), 5000, "p99.9 is the 999th");
    is(histogram_percentile(&h, 1), 5000, "share 1 is the maximum");
}

int main(void)
{
    test_table();
    test_threads();
    test_edges();
    test_percentiles();
    return done_testing();
}
