/*
 * Memory three times larger than its budget on the real mappers: filled, read, and rewritten by
 * two threads, on each mapper, trap and stage, and with both ways to notice a change.
 */
#include <pthread.h>

#include "real_fixture.h"

#define PAGES 768u
#define ROUNDS_MAX 400u /* a busy machine may keep the trimmer from the processor for long */
#define ACCESSES 400u   /* of a thread in a round */

static uint64_t generations[PAGES]; /* what each page must hold; thread n owns pages n, n + 2, … */

struct user {
    const struct real *r;
    unsigned number;
    uint64_t random;
    unsigned wrong;
};

static unsigned draw(uint64_t *random, unsigned below)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (unsigned)((*random >> 20) % below);
}

/* Short forward runs at random places: every other access writes. */
static void *use(void *argument)
{
    struct user *u = argument;

    for (unsigned n = 0; n < ACCESSES;) {
        unsigned page = draw(&u->random, PAGES / 2) * 2 + u->number;
        unsigned run = 1 + draw(&u->random, 8);

        for (; run > 0 && page < PAGES; run--, page += 2, n++) {
            u->wrong += !real_right(u->r->base, page, generations[page]);
            if (draw(&u->random, 2) == 0)
                real_fill(u->r->base, page, ++generations[page]);
        }
    }
    return NULL;
}

static unsigned use_by_two(const struct real *r, uint64_t seed)
{
    struct user users[2];
    pthread_t threads[2];
    unsigned wrong = 0;

    for (unsigned i = 0; i < 2; i++) {
        users[i] = (struct user){.r = r, .number = i, .random = seed * 2 + i + 1};
        if (pthread_create(&threads[i], NULL, use, &users[i]) != 0)
            return 1;
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        wrong += users[i].wrong;
    }
    return wrong;
}

static unsigned count_wrong(const struct real *r)
{
    unsigned wrong = 0;

    for (unsigned p = PAGES; p-- > 0;)
        wrong += !real_right(r->base, p, generations[p]);
    return wrong;
}

/* Rescues are a matter of chance: each round makes more of them. */
static bool seen_all(const struct real *r, bool single)
{
    struct vmsm_counters c = counters_of(r->m);

    return single || (c.faults_standby > 0 && c.faults_modified + c.faults_writing > 0);
}

static void check_counters(const struct real *r, const char *stage, bool protect)
{
    bool single = strcmp(stage, "single") == 0, basic = strcmp(stage, "full") != 0;
    struct vmsm_counters c = counters_of(r->m);
    const char *what = r->conf;

    ok(c.faults_first_touch > 0, "%s: first touches", what);
    ok(c.faults_hard > 0, "%s: hard faults", what);
    if (!single) { /* which writes and reuses at once what it has trimmed */
        ok(c.faults_standby > 0, "%s: rescues from standby", what);
        ok(c.faults_modified + c.faults_writing > 0, "%s: rescues from modified", what);
    }
    if (protect && !basic) /* which preserve no slots: there is nothing to protect */
        ok(c.faults_protect > 0, "%s: first writes to protected pages", what);
    ok(c.pages_first_touch >= PAGES, "%s: each page was touched first", what);
    is(c.touched_pages, PAGES, "%s: each page has content", what);
    ok(c.metadata_page_bytes >= PAGES * 8 && c.metadata_bytes > c.metadata_page_bytes,
       "%s: tables are counted", what);
    ok(c.pages_trimmed >= PAGES / 2 && c.pages_written >= PAGES / 2 && c.pages_read >= PAGES / 2,
       "%s: pages were trimmed, written and read", what);
    if (!basic)
        ok(c.pages_trimmed_clean > 0, "%s: unchanged pages kept their slots", what);
    is(c.faults_failed + c.pages_lost + c.read_errors + c.hash_errors + c.write_errors, 0,
       "%s: nothing failed", what);
    is(c.slots_bad, 0, "%s: no slot is bad", what);
    ok(c.frames_total <= 256 && c.frames_active <= c.frames_total, "%s: within the budget", what);
    is(c.mapped_pages, PAGES, "%s: mapped pages", what);
    is(c.commit_pages, PAGES, "%s: commit", what);
}

static void test(const char *kind, const char *stage, const char *dirty)
{
    bool single = strcmp(stage, "single") == 0, protect = strcmp(dirty, "protect") == 0;
    unsigned wrong = 0, round = 0;
    struct real r;

    if (!real_open(&r, PAGES, "%s,stage:%s,dirty:%s,memory:1M", kind, stage, dirty))
        return;
    for (unsigned p = 0; p < PAGES; p++)
        wrong += *(volatile char *)(r.base + p * PAGE) != 0;
    is(wrong, 0, "%s: new memory is zero", r.conf);
    for (unsigned p = 0; p < PAGES; p++)
        generations[p] = 1;
    real_fill_all(&r, 1);
    is(real_count_wrong(&r, 0, PAGES, 1), 0, "%s: filled and read back", r.conf);
    is(count_wrong(&r), 0, "%s: read backward", r.conf);
    wrong = 0;
    do {
        wrong += use_by_two(&r, ++round);
    } while (round < 2 || (round < ROUNDS_MAX && !seen_all(&r, single)));
    is(wrong, 0, "%s: right while it is rewritten at random", r.conf);
    is(count_wrong(&r), 0, "%s: right at the end", r.conf);
    check_counters(&r, stage, protect);
    real_close(&r);
}

int main(void)
{
    static const char *const stages[] = {"single", "basic", "full"};

    for (size_t k = 0; k < REAL_KINDS; k++) {
        for (size_t s = 0; s < 3; s++) {
            test(real_kinds[k], stages[s], "hash");
            if (real_is_copy(real_kinds[k]))
                test(real_kinds[k], stages[s], "protect");
            if (strcmp(real_kinds[k], "mapper:copy,trap:thread") == 0)
                test(real_kinds[k], stages[s], "auto");
        }
    }
    return done_testing();
}
