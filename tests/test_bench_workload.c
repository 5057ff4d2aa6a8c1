/*
 * The benchmark's workloads over ordinary memory: they draw what they say, reach every page that
 * they should, and notice a word that is not what was written.
 */
#include <math.h>
#include <stdint.h>
#include <sys/mman.h>

#include "../bench/content.h"
#include "../bench/draw.h"
#include "../bench/latency.h"
#include "../bench/workload.h"
#include "tap.h"

#define PAGES 300 /* no power of two */
#define THREADS 3
#define DRAWS 400000
#define ZIPF_COUNT 1000
#define TRACE 6000

static char *base;
static _Atomic uint32_t generations[PAGES];

static void permutations_check(uint64_t count)
{
    struct permutation p = permutation_make(count);
    unsigned char *seen = calloc(2, count);
    uint64_t page = 0, once = 0, round = 0;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = permutation_at(&p, i);

        once += at < count && seen[at]++ == 0;
    }
    is(once, count, "a permutation of %llu has each number once", (unsigned long long)count);
    for (uint64_t i = 0; i < count; i++) {
        page = cycle_next(&p, page);
        round += page < count && seen[count + page]++ == 0;
    }
    ok(round == count && page == 0, "a cycle through %llu pages meets each once, and closes",
       (unsigned long long)count);
    free(seen);
}

/* The seed is fixed: these figures are the same in every run. */
static void zipf_check(double skew)
{
    struct zipf z = zipf_make(ZIPF_COUNT, skew);
    uint64_t random = 7, outside = 0;
    unsigned seen[ZIPF_COUNT + 1] = {0};
    double total = 0, off = 0;

    for (unsigned i = 0; i < DRAWS; i++) {
        uint64_t rank = zipf_draw(&z, &random);

        if (rank < 1 || rank > ZIPF_COUNT)
            outside++;
        else
            seen[rank]++;
    }
    is(outside, 0, "Zipf %g: ranks from 1 to %d", skew, ZIPF_COUNT);
    for (unsigned i = 1; i <= ZIPF_COUNT; i++)
        total += pow(i, -skew);
    for (unsigned i = 1; i <= 20; i++) {
        double expected = DRAWS * pow(i, -skew) / total;
        double deviation = fabs(seen[i] - expected) / sqrt(expected);

        off = deviation > off ? deviation : off;
    }
    ok(off < 4,
       "Zipf %g: each of the first 20 ranks as often as it should be (%.1f deviations off "
       "at most)",
       skew, off);
}

static void latencies_check(void)
{
    struct latency *l = calloc(1, sizeof(*l)), *other = calloc(1, sizeof(*other));
    uint64_t wrong = 0;

    for (uint64_t v = 0; v < UINT64_MAX / 2; v += v / 4 + 1) {
        unsigned bucket = latency_bucket(v);

        wrong += latency_bucket_least(bucket) > v ||
                 (bucket + 1 < LATENCY_BUCKETS && latency_bucket_least(bucket + 1) <= v);
    }
    is(wrong, 0, "every time falls between the bounds of its bucket");
    for (unsigned i = 0; i < 990; i++)
        latency_add(l, 1000, 1000 + 100);
    for (unsigned i = 0; i < 10; i++)
        latency_add(other, 1000, 1000 + 50000);
    latency_add(other, 1000, 999);
    latency_merge(l, other);
    ok(fabs(latency_percentile(l, 0.5) - 100) < 4, "the median is within a bucket of the truth");
    ok(fabs(latency_percentile(l, 0.999) - 50000) < 1600, "so is p99.9, after a merge");
    is(l->most, 50000, "the worst is exact; a clock that goes back counts as nothing");
    free(other);
    free(l);
}

static void contents_check(bool compressible)
{
    struct content c = {.compressible = compressible, .cycle = permutation_make(PAGES)};
    const char *name = compressible ? "compressible" : "incompressible";
    static uint64_t words[PAGE_WORDS];
    unsigned noticed = 0, repeated = 0, zeroes = 0;

    page_fill(&c, words, 5);
    ok(page_verify(&c, words, 5, 1), "%s: what was filled is right", name);
    for (unsigned i = 1; i < PAGE_WORDS; i++) {
        repeated += words[i] == words[i - 1];
        zeroes += words[i] == 0;
    }
    is(zeroes, 0, "%s: no word is 0", name);
    ok(compressible ? repeated > PAGE_WORDS / 2 : repeated == 0, "%s: %u words are repeated", name,
       repeated);
    page_stamp(words, 5, 2);
    ok(page_verify(&c, words, 5, 2), "%s: what was written again is right", name);
    freopen("/dev/null", "w", stderr); /* the complaints that follow are wanted */
    ok(!page_verify(&c, words, 5, 1) && !page_verify(&c, words, 6, 2),
       "%s: another generation, or another page, is not", name);
    for (unsigned i = 0; i < PAGE_WORDS; i++) {
        words[i] ^= 1;
        noticed += !page_verify(&c, words, 5, 2);
        words[i] ^= 1;
    }
    is(noticed, 2 * SECTORS, "%s: a change of each of the sixteen words is noticed", name);
    memset(words, 0, sizeof(words));
    ok(!page_verify(&c, words, 5, 2), "%s: a page of zeroes is wrong", name);
}

static struct workload_result workload_do(const char *name)
{
    struct workload_run run = {.workload = workload_find(name),
                               .base = base,
                               .pages = PAGES,
                               .budget_pages = PAGES / 4,
                               .generations = generations,
                               .threads = THREADS,
                               .seconds = 0.02,
                               .seed = 3};
    struct workload_result result;

    if (workload_run(&run, &result) < 0)
        ok(false, "%s runs", name);
    return result;
}

static void workloads_check(void)
{
    struct workload_result result = workload_do("fill");
    unsigned filled = 0;

    for (unsigned i = 0; i < PAGES; i++)
        filled += generations[i] == 1;
    ok(result.touches == PAGES && filled == PAGES, "a fill writes every page once");
    for (size_t i = 0; i < workload_count; i++) {
        const struct workload *w = &workload_table[i];

        if (w->managed_only || w->compressible || w->pattern == FILL)
            continue;
        result = workload_do(w->name);
        ok(result.touches > 0 && result.wrong == 0 && result.p50 > 0 && result.p999 >= result.p50 &&
               result.worst >= result.p999,
           "%s: %llu touches, all right, with their times", w->name,
           (unsigned long long)result.touches);
    }
}

static void writes_check(void)
{
    unsigned raised = 0;

    workload_do("fill");
    workload_do("scan");
    for (unsigned i = 0; i < PAGES; i++)
        raised += generations[i] != 1;
    is(raised, 0, "reads leave generations alone");
    workload_do("scanw50");
    for (unsigned i = 0; i < PAGES; i++)
        raised += generations[i] > 1 && !(generations[i] & PAGE_LOCKED);
    is(raised, PAGES, "writes raise them, and no page stays locked");
}

/* A run that ends after so many touches, and one that goes on from there. */
static void limits_check(void)
{
    static const struct workload writes = {
        .name = "scanw100", .pattern = SCAN, .step = 1, .write_percent = 100};
    struct workload_run run = {.workload = &writes,
                               .base = base,
                               .pages = PAGES,
                               .budget_pages = PAGES / 4,
                               .generations = generations,
                               .threads = THREADS,
                               .seconds = 60,
                               .most = PAGES / 2};
    struct workload_result result;
    unsigned once = 0;

    workload_do("fill");
    ok(workload_run(&run, &result) == 0 && result.touches == PAGES / 2 && result.seconds < 30,
       "so many touches end a run before its time");
    run.passed = result.touches;
    workload_run(&run, &result);
    for (unsigned i = 0; i < PAGES; i++)
        once += generations[i] == 2;
    is(once, PAGES, "a scan goes on where the run before it ended");
}

/* A window that moves by its own length, from where the run before it left it. */
static void phases_check(void)
{
    static const struct workload writes = {
        .name = "moving", .pattern = MOVING, .write_percent = 100};
    const uint64_t budget = PAGES / 4, window = budget * 3 / 4;
    struct workload_run run = {.workload = &writes,
                               .base = base,
                               .pages = PAGES,
                               .budget_pages = budget,
                               .generations = generations,
                               .threads = THREADS,
                               .seconds = 60,
                               .most = workload_phases(&writes, PAGES, budget),
                               .seed = 3};
    unsigned late = (unsigned)(run.most / window * THREADS), outside = 0, again = 0;
    struct workload_result result;

    is(workload_phases(workload_find("rand"), PAGES, budget), 0, "most workloads have no phases");
    is(workload_phases(&writes, budget / 2, budget), run.most / window * (budget / 2),
       "a window is no longer than the region");
    workload_do("fill");
    run.passed = run.most;
    ok(workload_run(&run, &result) == 0 && result.touches >= run.most &&
           result.touches < run.most + THREADS && result.wrong == 0,
       "through all phases takes as many touches as it should");
    for (unsigned i = 0; i < PAGES; i++) {
        outside += generations[i] != 1 && (i < window || i >= 3 * window + late);
        again += generations[i] != 1;
    }
    is(outside, 0, "they go on from where the window was, and end when it has moved by its length");
    ok(again > window, "and it did move: %u pages of windows of %u were written", again,
       (unsigned)window);
}

/* Each touch is a write, which raises the page's generation. With one thread, as its window moves as
 * it does in turns. */
static void trace_check(const char *name, enum workload_pattern pattern)
{
    struct workload writes = *workload_find(name);
    struct workload_run run = {.workload = &writes,
                               .base = base,
                               .pages = PAGES,
                               .budget_pages = PAGES / 4,
                               .generations = generations,
                               .threads = pattern == MOVING ? 1 : THREADS,
                               .seconds = 60,
                               .most = TRACE,
                               .passed = PAGES,
                               .seed = 3};
    struct workload_result result;
    static uint32_t trace[TRACE];
    unsigned left[PAGES] = {0}, off = 0;

    writes.write_percent = 100;
    workload_do("fill");
    workload_run(&run, &result);
    ok(workload_trace(&run, trace, TRACE) == 0, "%s: a trace", name);
    for (unsigned i = 0; i < TRACE; i++)
        left[trace[i]]++;
    for (unsigned i = 0; i < PAGES; i++)
        off += generations[i] != 1 + left[i];
    is(off, 0, "%s: each page as often as a run touches it", name);
}

static void popular_check(void)
{
    struct workload_run run = {.workload = workload_find("zipf1.2"),
                               .pages = PAGES,
                               .budget_pages = PAGES / 4,
                               .threads = THREADS,
                               .seed = 3};
    static uint32_t trace[DRAWS];
    unsigned touched[PAGES] = {0}, out_of_order = 0;
    uint64_t page, before = 0;

    workload_trace(&run, trace, DRAWS);
    for (unsigned i = 0; i < DRAWS; i++)
        touched[trace[i]]++;
    for (uint64_t rank = 0; rank < 20; before = page, rank++)
        out_of_order +=
            !workload_popular(&run, rank, &page) || (rank > 0 && touched[page] >= touched[before]);
    is(out_of_order, 0, "the more popular a page, the more often it is touched");
    run.workload = workload_find("moving");
    ok(!workload_popular(&run, 0, &page), "where a window moves, no page stays popular");
}

/* Touches of the first thread, of `hot` under some name, that are those of the trace. */
static unsigned draws_alike(const char *name, unsigned threads, const uint32_t *trace)
{
    struct workload hot = *workload_find("hot");
    struct workload_run run = {
        .workload = &hot, .pages = PAGES, .budget_pages = PAGES / 4, .threads = threads, .seed = 3};
    static uint32_t other[TRACE];
    unsigned alike = 0;

    hot.name = name;
    workload_trace(&run, other, TRACE);
    for (unsigned i = 0; i < TRACE / threads; i++)
        alike += other[i * threads] == trace[i];
    return alike;
}

static void draws_check(void)
{
    struct workload_run run = {.workload = workload_find("hot"),
                               .pages = PAGES,
                               .budget_pages = PAGES / 4,
                               .threads = 1,
                               .seed = 3};
    static uint32_t trace[TRACE];

    workload_trace(&run, trace, TRACE);
    is(draws_alike("hot", 1, trace), TRACE, "a cell draws the same with the same seed");
    ok(draws_alike("tepid", 1, trace) < TRACE / 8, "another cell draws other places");
    ok(draws_alike("hot", 2, trace) < TRACE / 16, "and so does another number of threads");
}

static void damage_check(const char *name, unsigned page, unsigned word)
{
    uint64_t *words = (uint64_t *)(void *)(base + (size_t)page * PAGE_BYTES);

    workload_do("fill");
    words[word] ^= 1;
    ok(workload_do(name).wrong > 0, "%s notices word %u of page %u", name, word, page);
}

int main(void)
{
    unsigned stamp = stamp_place(mix(17), 3);

    base =
        mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        skip_all("no memory");
    permutations_check(2);
    permutations_check(PAGES);
    permutations_check(4096);
    permutations_check(4097);
    zipf_check(0.9);
    zipf_check(1.2);
    latencies_check();
    workloads_check();
    writes_check();
    limits_check();
    phases_check();
    trace_check("zipf0.9", ZIPF);
    trace_check("hot", HOT);
    trace_check("moving", MOVING);
    trace_check("flood", FLOOD);
    popular_check();
    draws_check();
    contents_check(false);
    contents_check(true);
    damage_check("scan", 17, stamp);
    damage_check("scanback", 17, stamp + 1);
    damage_check("rmw", 17, stamp);
    damage_check("chase", 17, 0);
    return done_testing();
}
