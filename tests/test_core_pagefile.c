/*
 * The pagefile: what may be promised, how it grows, and slots that run out, go bad or lie apart.
 */
#include <errno.h>

#include "machine_fixture.h"

static void fixed(void)
{
    struct fixture f;
    struct machine *m;
    uintptr_t base = 0;
    uint64_t limit;

    set_up(&f, "pagefile_size:1M");
    m = f.m;
    limit = pagefile_commit_limit(m);
    is(limit, 255 + m->frame_count - m->frame_count / 4,
       "what may be promised: slots, but slot 0, and three quarters of the frames");
    is(region_map(m, (limit + 1) * PAGE, false, &base), -ENOMEM, "one page more is refused");
    ok(strstr(error_last(), "larger pagefile_size") != NULL, "with what to do: %s", error_last());
    is(m->pagefile.commit, 0, "and nothing is charged");
    is(region_map(m, limit * PAGE, false, &base), 0, "all of it is granted");
    is(pagefile_commit(m, 1), -ENOMEM, "and then no more");
    is(region_unmap(m, base, 10 * PAGE), 0, "ten pages are unmapped");
    is(pagefile_commit(m, 10), 0, "and can be promised again");
    pagefile_uncommit(m, 10);
    tear_down(&f);
}

static void growing(void)
{
    struct fixture f;
    struct machine *m;
    uintptr_t base = 0;
    uint64_t before;

    set_up(&f, "preallocate:off");
    m = f.m;
    base = map_pages(&f, 1000);
    before = m->pagefile.commit_slots;
    ok(before >= 1000, "1000 pages are given %llu slots", (unsigned long long)before);
    ok(m->pagefile.slots.limit == before + 1 && f.store->base.slots > before,
       "the bitmap and the store have room for them");
    f.store->grow_error = -ENOSPC;
    is(pagefile_commit(m, 100000), -ENOSPC, "a store that cannot grow refuses");
    is(m->pagefile.commit_slots, before, "and stays as large as it was");
    is(pagefile_commit(m, before - 1000), 0, "what it has can still be promised");
    pagefile_uncommit(m, before - 1000);
    f.store->grow_error = 0;
    is(pagefile_commit(m, 100000), 0, "later it grows again");
    pagefile_uncommit(m, 100000);
    put_all(&f, base, 1000, 1);
    is(wrong_of(&f, base, 1000, 1), 0, "it works");
    tear_down(&f);
}

static void slots(void)
{
    struct fixture f;
    struct machine *m;
    uint32_t first, second;
    uint64_t limit;

    set_up(&f, "pagefile_size:1M");
    m = f.m;
    limit = pagefile_commit_limit(m);
    is(pagefile_take(m, 16, false, &first), 16, "sixteen slots are taken");
    ok(first != 0, "slot 0 is not among them");
    is(pagefile_take(m, 16, false, &second), 16, "sixteen more");
    is(second, first + 16, "next to the others");
    for (uint32_t i = 0; i < 16; i++)
        pagefile_release(m, second + i);
    is(m->pagefile.slots.used, 1 + 16, "half are released");
    pagefile_mark_bad(m, first);
    is(pagefile_commit_limit(m), limit - 1, "a bad slot can hold no promise");
    for (uint32_t i = 1; i < 16; i++)
        slot_release(m, first + i);
    is(m->pagefile.slots.used, 1 + 16, "slots released for later are still taken");
    slot_release_deferred(m);
    is(m->pagefile.slots.used, 1 + 1, "then all but the bad one are free");
    for (unsigned got; (got = pagefile_take(m, 64, false, &second)) > 0;) {
        if (first >= second && first < second + got)
            ok(false, "the bad slot is given again");
        for (unsigned i = 0; i < got; i++)
            m->slot_ring.slots[m->slot_ring.count++] = second + i;
    }
    is(m->slot_ring.count, 254, "every other slot is given");
    slot_release_deferred(m);
    tear_down(&f);
}

/* As many pages as can be promised, all changed again and again, with hardly a slot to spare. */
static void full(const char *stage)
{
    struct fixture f;
    struct machine *m;
    uintptr_t base;
    size_t pages;
    char conf[100];

    snprintf(conf, sizeof(conf), "pagefile_size:1M,stage:%s,workers:off", stage);
    set_up(&f, conf);
    m = f.m;
    pages = pagefile_commit_limit(m);
    base = map_pages(&f, pages);
    for (uint64_t generation = 1; generation <= 2; generation++) {
        put_all(&f, base, pages, generation);
        is(wrong_of(&f, base, pages, generation), 0, "%s: %zu pages in %u frames and 255 slots",
           stage, pages, m->frame_count);
    }
    /* Read only: pages come back and keep their slots, until the others need them. */
    is(wrong_of(&f, base, pages, 2), 0, "%s: and are there once more", stage);
    is(counted(&f, COUNTER_write_errors), 0, "%s: no write failed", stage);
    tear_down(&f);
}

/* Valid pages give up the slots beside their frames, and are modified then. */
static void reclaim(const char *dirty)
{
    struct fixture f;
    uintptr_t base;
    char conf[100];

    snprintf(conf, sizeof(conf), "touch_window:1,read_window:1,dirty:%s", dirty);
    set_up(&f, conf);
    base = map_pages(&f, 40);
    put_all(&f, base, 40, 1);
    page_out(&f);
    is(wrong_of(&f, base, 20, 1), 0, "twenty pages come back");
    is(f.m->pagefile.slots.used, 1 + 40, "and keep their slots");
    is(pagefile_reclaim(f.m, 7), 7, "seven are taken back");
    is(f.m->pagefile.slots.used, 1 + 33, "they are free");
    is(pagefile_reclaim(f.m, 100), 13, "no more than valid pages have");
    is(pagefile_reclaim(f.m, 100), 0, "then none");
    is(counted(&f, COUNTER_slots_reclaimed), 20, "they are counted");
    trim_all(&f);
    is(list_count(f.m, LIST_MODIFIED), 20, "%s: a page without a slot has to be written again",
       dirty);
    is(wrong_of(&f, base, 40, 1), 0, "nothing was lost");
    tear_down(&f);
}

/* Pages whose slots all lie apart are read in runs, each of as many pieces as a read may have. */
static void runs_of_pieces(struct fixture *f, uintptr_t base)
{
    struct iovec range = {.iov_base = (void *)base, .iov_len = 32 * PAGE};
    uint64_t before;
    size_t wrong = 0;

    page_out(f);
    before = counted(f, COUNTER_read_ios);
    is(machine_prefault(f->m, &range, 1), 0, "they come back by a prefault");
    is(counted(f, COUNTER_read_ios) - before, 32, "each by itself");
    is(wrong_of(f, base, 32, 1), 0, "and are right");
    page_out(f);
    before = counted(f, COUNTER_faults_hard);
    for (size_t p = 32; p-- > 0;)
        wrong += !holds(f, base, p, 1);
    is(wrong, 0, "so are they when they are read backwards");
    ok(counted(f, COUNTER_faults_hard) - before < 12, "by runs: %llu faults",
       (unsigned long long)(counted(f, COUNTER_faults_hard) - before));
}

/* Only single free slots are left: a batch is written in pieces, and read back from them. */
static void fragments(void)
{
    struct fixture f;
    struct machine *m;
    uint32_t first, slots_taken[255];
    unsigned n = 0, got;
    uintptr_t base;

    set_up(&f, "pagefile_size:1M,write_batch:8,write_depth:1,touch_window:1");
    m = f.m;
    base = map_pages(&f, 32);
    while ((got = pagefile_take(m, 64, false, &first)) > 0) {
        for (unsigned i = 0; i < got; i++)
            slots_taken[n++] = first + i;
    }
    for (unsigned i = 0; i < n; i += 2)
        pagefile_release(m, slots_taken[i]);
    put_all(&f, base, 32, 1);
    page_out(&f);
    is(pages_at(&f, base, 32, 'p'), 32, "all went out");
    is(counted(&f, COUNTER_write_ios), 32, "each to a slot by itself");
    is(wrong_of(&f, base, 32, 1), 0, "and came back");
    runs_of_pieces(&f, base);
    for (unsigned i = 1; i < n; i += 2)
        pagefile_release(m, slots_taken[i]);
    tear_down(&f);
}

int main(void)
{
    fixed();
    growing();
    slots();
    for (size_t i = 0; i < STAGES; i++)
        full(stages[i]);
    reclaim("hash");
    reclaim("protect");
    fragments();
    return done_testing();
}
