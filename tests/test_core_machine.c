/*
 * The state machine on the soft mapper, at every stage: each way a page can go, counted, verified,
 * and the books balanced after it.
 */
#include <pthread.h>

#include "memory_fixture.h"

#define PAGES 1024UL

static const char *const stages[] = {"single", "basic", "full"};

static struct vmsm *open_stage(const char *stage, const char *more)
{
    char conf[256];

    snprintf(conf, sizeof(conf), "mapper:soft,memory:1M,stage:%s%s", stage, more);
    return manager_or_skip(conf);
}

static char *map(struct vmsm *m, size_t pages)
{
    void *memory = NULL;

    is(vmsm_map(m, pages * PAGE, &memory), 0, "mapped");
    return memory;
}

static void round_trip(const char *stage)
{
    struct vmsm *m = open_stage(stage, "");
    char *base = map(m, PAGES);
    struct vmsm_counters c;

    is(pages_wrong(m, base, PAGES, 0), 0, "%s: untouched pages read as zeroes", stage);
    pages_write(m, base, PAGES, 1);
    is(pages_wrong(m, base, PAGES, 1), 0, "%s: four times memory is read back", stage);
    pages_write(m, base, PAGES / 2, 2);
    is(pages_wrong(m, base, PAGES / 2, 2), 0, "%s: rewritten pages are new", stage);
    c = counters_of(m);
    ok(c.faults_hard > 0 && c.pages_written > 0 && c.pages_trimmed_zero > 0,
       "%s: pages went out, came back, and zero pages were given back", stage);
    ok(strcmp(stage, "full") != 0 || c.pages_trimmed_clean > 0,
       "%s: unchanged pages kept their slots", stage);
    is(c.pages_lost, 0, "%s: nothing lost", stage);
    is(vmsm_check(m), 0, "%s: books balanced", stage);
    vmsm_destroy(m);
}

static void parts(const char *stage)
{
    struct vmsm *m = open_stage(stage, "");
    char *base = map(m, PAGES);
    char byte;

    pages_write(m, base, PAGES, 1);
    is(vmsm_unmap(m, base + 100 * PAGE, 200 * PAGE), 0, "%s: the middle is unmapped", stage);
    is(vmsm_read(m, base + 150 * PAGE, &byte, 1), -EINVAL, "%s: it is gone", stage);
    is(vmsm_decommit(m, base + 400 * PAGE, 100 * PAGE), 0, "%s: a part is decommitted", stage);
    ok(page_right(m, base, 450, 0), "%s: it reads as zeroes", stage);
    is(vmsm_unmap(m, base, 50 * PAGE), 0, "%s: the front is unmapped", stage);
    is(pages_wrong(m, base + 0, 0, 1), 0, "%s: nothing to check in front", stage);
    for (size_t p = 50; p < PAGES; p += 37) {
        if ((p >= 100 && p < 300) || (p >= 400 && p < 500))
            continue;
        if (!page_right(m, base, p, 1))
            ok(false, "%s: page %zu of the rest is right", stage, p);
    }
    is(vmsm_unmap(m, base + 1, PAGE), -EINVAL, "%s: unaligned is refused", stage);
    is(vmsm_unmap(m, base + 100 * PAGE, PAGE), -EINVAL, "%s: unmapped is refused", stage);
    is(vmsm_check(m), 0, "%s: books balanced", stage);
    is(counters_of(m).mapped_pages, PAGES - 250, "%s: mapped pages are counted", stage);
    vmsm_destroy(m);
}

static void pins(const char *stage)
{
    struct vmsm *m = open_stage(stage, "");
    char *base = map(m, PAGES);
    uint64_t faults;

    pages_write(m, base, PAGES, 1);
    is(vmsm_pin(m, base, 20 * PAGE), 0, "%s: pinned", stage);
    is(vmsm_pin(m, base, 10 * PAGE), 0, "%s: pinned twice", stage);
    is(vmsm_pin(m, base, PAGES * PAGE), -ENOMEM, "%s: not more than memory", stage);
    is(vmsm_unmap(m, base, PAGE), -EBUSY, "%s: a pinned page cannot be unmapped", stage);
    is(pages_wrong(m, base, PAGES, 1), 0, "%s: others move around it", stage);
    faults = counters_of(m).faults_hard + counters_of(m).faults_standby;
    is(pages_wrong(m, base, 20, 1), 0, "%s: pinned pages are right", stage);
    is(counters_of(m).faults_hard + counters_of(m).faults_standby, faults, "%s: and cost no fault",
       stage);
    is(vmsm_unpin(m, base, 20 * PAGE), 0, "%s: unpinned once", stage);
    is(vmsm_unpin(m, base + 10 * PAGE, PAGE), -EINVAL, "%s: pins are counted", stage);
    is(vmsm_unpin(m, base, 10 * PAGE), 0, "%s: unpinned", stage);
    is(counters_of(m).pinned_pages, 0, "%s: nothing is pinned", stage);
    is(vmsm_check(m), 0, "%s: books balanced", stage);
    vmsm_destroy(m);
}

static void commit(const char *stage)
{
    struct vmsm *m = open_stage(stage, ",pagefile_size:2M");
    void *memory;
    int error;

    is(vmsm_map(m, 64 * PAGE * 1024, &memory), -ENOMEM, "%s: too much is refused", stage);
    ok(strstr(vmsm_last_error(), "commit") != NULL, "%s: in words: %s", stage, vmsm_last_error());
    is(vmsm_map(m, 0, &memory), -EINVAL, "%s: nothing is refused", stage);
    /* As many pages as may be promised: slots have to be taken back from valid pages. */
    size_t pages = counters_of(m).commit_limit;
    char *base = map(m, pages);
    pages_write(m, base, pages, 1);
    is(pages_wrong(m, base, pages, 1), 0, "%s: a full pagefile still holds all", stage);
    pages_write(m, base, pages, 2);
    is(pages_wrong(m, base, pages, 2), 0, "%s: and once more", stage);
    is(vmsm_check(m), 0, "%s: books balanced", stage);
    error = vmsm_reserve(m, UINT64_C(1) << 40, &memory);
    if (error != 0 && strstr(vmsm_last_error(), "no address space") != NULL)
        skip("%s: %s", stage, vmsm_last_error()); /* Valgrind, ulimit -v */
    else
        is(error, 0, "%s: a terabyte can be reserved", stage);
    vmsm_destroy(m);
}

struct shared {
    struct vmsm *m;
    char *base;
    pthread_barrier_t barrier;
    _Atomic unsigned wrong;
};

static void *reader(void *argument)
{
    struct shared *s = argument;

    pthread_barrier_wait(&s->barrier);
    s->wrong += !page_right(s->m, s->base, 0, 1);
    return NULL;
}

/* Many threads fault on one page at once: one read brings it in for all. */
static void one_read(void)
{
    struct shared s = {.m = open_stage("full", ",store_delay:100ms,read_window:1")};
    pthread_t threads[8];
    uint64_t reads;

    s.base = map(s.m, PAGES);
    pthread_barrier_init(&s.barrier, NULL, 8);
    pages_write(s.m, s.base, 600, 1);
    reads = counters_of(s.m).read_ios;
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, reader, &s);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    is(s.wrong, 0, "eight threads read one page right");
    is(counters_of(s.m).read_ios - reads, 1, "one read was issued");
    vmsm_destroy(s.m);
}

int main(void)
{
    for (size_t i = 0; i < sizeof(stages) / sizeof(stages[0]); i++) {
        round_trip(stages[i]);
        parts(stages[i]);
        pins(stages[i]);
        commit(stages[i]);
    }
    one_read();
    return done_testing();
}
