/*
 * Regions: parts unmapped and given back whatever state their pages are in, the rest untouched.
 */
#include <errno.h>
#include <sys/mman.h>

#include "machine_fixture.h"

#define PAGES 1200u /* more than two sections, so that parts cross their edges */

/* Pages in every state: active, modified, standby and in the pagefile. */
static uintptr_t mixed(struct fixture *f)
{
    uintptr_t base = map_pages(f, PAGES);

    put_all(f, base, PAGES, 1);
    trim_all(f);
    write_all(f);
    region_decommit(f->m, base + 600 * PAGE, 20 * PAGE);
    for (size_t p = 600; p < 620; p++) /* without a slot, so they will be modified */
        put(f, base, p, 1);
    trim_all(f);
    for (size_t p = 500; p < 510; p++)
        holds(f, base, p, 1);
    return base;
}

static bool gone(struct fixture *f, uintptr_t base, size_t page)
{
    return fault_at(f, base, page, 1) == FAULT_OUTSIDE;
}

static size_t wrong_in(struct fixture *f, uintptr_t base, size_t from, size_t to)
{
    size_t wrong = 0;

    for (size_t p = from; p < to; p++)
        wrong += !holds(f, base, p, 1);
    return wrong;
}

static void parts(const char *stage)
{
    struct fixture f;
    uintptr_t base;
    char conf[100];

    snprintf(conf, sizeof(conf), "stage:%s,workers:off", stage);
    set_up(&f, conf);
    base = mixed(&f);
    ok(pages_at(&f, base, PAGES, 'a') > 0 && pages_at(&f, base, PAGES, 'p') > 0 &&
           pages_at(&f, base, PAGES, 's') > 0 && pages_at(&f, base, PAGES, 'm') > 0,
       "%s: pages are in every state", stage);
    is(region_unmap(f.m, base, 100 * PAGE), 0, "%s: the front is unmapped", stage);
    is(region_unmap(f.m, base + (PAGES - 100) * PAGE, 100 * PAGE), 0, "%s: the back", stage);
    is(region_unmap(f.m, base + 500 * PAGE, 50 * PAGE), 0, "%s: the middle", stage);
    is(machine_check(f.m), 0, "%s: books balanced", stage);
    is(f.m->region_count, 2, "%s: two regions are left", stage);
    is(f.m->pagefile.commit, PAGES - 250, "%s: commit is given back", stage);
    ok(gone(&f, base, 0) && gone(&f, base, 99) && gone(&f, base, 500) && gone(&f, base, 549) &&
           gone(&f, base, PAGES - 1),
       "%s: what was unmapped is gone", stage);
    is(wrong_in(&f, base, 100, 500) + wrong_in(&f, base, 550, PAGES - 100), 0,
       "%s: what is left is right", stage);
    is(region_unmap(f.m, base + 400 * PAGE, 200 * PAGE), -EINVAL, "%s: no range with a hole",
       stage);
    is(wrong_in(&f, base, 400, 500), 0, "%s: nothing of it has been unmapped", stage);
    is(region_decommit(f.m, base + 400 * PAGE, 200 * PAGE), -EINVAL, "%s: nor decommitted", stage);
    is(region_unmap(f.m, base + 100 * PAGE, 400 * PAGE), 0, "%s: a whole region", stage);
    is(region_unmap(f.m, base + 550 * PAGE, (PAGES - 650) * PAGE), 0, "%s: the last", stage);
    slot_release_deferred(f.m);
    ok(f.m->region_count == 0 && f.m->touched == 0 && f.m->pagefile.commit == 0 &&
           f.m->pagefile.slots.used == 1 && list_count(f.m, LIST_MODIFIED) == 0 &&
           standby_count(f.m) == 0,
       "%s: nothing is left", stage);
    base = map_pages(&f, PAGES);
    is(wrong_of(&f, base, PAGES, 0), 0, "%s: mapped again, all is zero", stage);
    tear_down(&f);
}

static void decommit(const char *stage)
{
    struct fixture f;
    uintptr_t base;
    char conf[100];

    snprintf(conf, sizeof(conf), "stage:%s,workers:off", stage);
    set_up(&f, conf);
    base = mixed(&f);
    is(region_decommit(f.m, base + 300 * PAGE, 600 * PAGE), 0, "%s: decommitted", stage);
    is(pages_at(&f, base + 300 * PAGE, 600, 'u'), 600, "%s: all of it is untouched", stage);
    is(f.m->touched, PAGES - 600, "%s: content is counted", stage);
    is(f.m->pagefile.commit, PAGES, "%s: the promise stays", stage);
    is(machine_check(f.m), 0, "%s: books balanced", stage);
    is(wrong_of(&f, base + 300 * PAGE, 600, 0), 0, "%s: it reads as zeroes", stage);
    is(wrong_in(&f, base, 0, 300) + wrong_in(&f, base, 900, PAGES), 0, "%s: the rest is right",
       stage);
    is(put(&f, base, 400, 1), FAULT_DONE, "%s: it can be written again", stage);
    ok(holds(&f, base, 400, 1), "%s: and read", stage);
    tear_down(&f);
}

static void refusals(void)
{
    struct fixture f;
    uintptr_t base, other = 0;

    set_up(&f, "");
    base = map_pages(&f, 20);
    is(region_map(f.m, 0, false, &other), -EINVAL, "nothing cannot be mapped");
    is(region_map(f.m, SIZE_MAX, false, &other), -EINVAL, "nor everything");
    is(region_map(f.m, 1, false, &other), 0, "a byte is rounded up");
    is(f.m->pagefile.commit, 21, "to a page");
    is(region_unmap(f.m, base + 1, PAGE), -EINVAL, "unmap: not aligned");
    is(region_unmap(f.m, base, PAGE + 1), -EINVAL, "unmap: not whole pages");
    is(region_unmap(f.m, base, 0), -EINVAL, "unmap: nothing");
    is(region_unmap(f.m, base, -PAGE), -EINVAL, "unmap: past the end of addresses");
    is(region_decommit(f.m, base + 21 * PAGE, PAGE), -EINVAL, "decommit: not ours");
    put_all(&f, base, 20, 1);
    is(machine_pin(f.m, base + 5 * PAGE, PAGE), 0, "a page is pinned");
    is(region_unmap(f.m, base, 20 * PAGE), -EBUSY, "unmap: a page is pinned");
    ok(strstr(error_last(), "pinned") != NULL, "in words: %s", error_last());
    is(region_decommit(f.m, base + 5 * PAGE, PAGE), -EBUSY, "decommit: likewise");
    is(region_unmap(f.m, base + 6 * PAGE, 14 * PAGE), 0, "its neighbours can go");
    is(wrong_of(&f, base, 6, 1), 0, "nothing else has");
    is(machine_unpin(f.m, base + 5 * PAGE, PAGE), 0, "unpinned");
    is(region_unmap(f.m, base, 6 * PAGE), 0, "now it goes");
    tear_down(&f);
}

/* An overcommitted region is charged as it is touched, and gives back what is discarded. */
static void overcommit(void)
{
    struct fixture f;
    uintptr_t base = 0;
    uint64_t limit;
    size_t n = 0;

    set_up(&f, "pagefile_size:1M,touch_window:1");
    limit = pagefile_commit_limit(f.m);
    is(region_map(f.m, 100 * limit * PAGE, true, &base), 0, "more than can be promised");
    is(f.m->pagefile.commit, 0, "costs nothing yet");
    while (n < limit + 10 && put(&f, base, 10 * n, 1) == FAULT_DONE)
        n++;
    is(n, limit, "as many pages as can be promised are touched");
    is(fault_at(&f, base, 10 * n, 1), FAULT_FAILED, "the next cannot");
    is(region_decommit(f.m, base, 10 * PAGE), 0, "one is given back");
    is(put(&f, base, 10 * n, 1), FAULT_DONE, "then it can");
    for (size_t p = 1; p <= n; p++) {
        if (!holds(&f, base, 10 * p, 1))
            ok(false, "page %zu is right", p);
    }
    is(put(&f, base, 10, 0), FAULT_DONE, "a page is zeroed by the program");
    trim_all(&f);
    is(f.m->pagefile.commit, limit - 1, "when it is trimmed its charge is given back");
    tear_down(&f);
}

static size_t resident_pages(void)
{
    FILE *statm = fopen("/proc/self/statm", "r");
    size_t size = 0, resident = 0;

    if (statm == NULL || fscanf(statm, "%zu %zu", &size, &resident) != 2)
        resident = 0;
    if (statm != NULL)
        fclose(statm);
    return resident;
}

static void terabyte(void)
{
    struct fixture f;
    uintptr_t base = 0;
    size_t before, n = 1u << 28;
    uint64_t started, took;
    int error;

    set_up(&f, "");
    before = resident_pages();
    started = sync_now(&f.m->sync);
    error = region_map(f.m, n * PAGE, true, &base);
    took = sync_now(&f.m->sync) - started;
    if (error != 0) {
        skip("a terabyte: %s", error_last()); /* Valgrind, ulimit -v */
        tear_down(&f);
        return;
    }
    note("a terabyte was reserved in %llu us", (unsigned long long)took / 1000);
    is(put(&f, base, 0, 1) + put(&f, base, n / 2, 1) + put(&f, base, n - 1, 1), FAULT_DONE,
       "its first, middle and last page are written");
    trim_all(&f);
    ok(holds(&f, base, 0, 1) && holds(&f, base, n / 2, 1) && holds(&f, base, n - 1, 1),
       "trimmed and read back");
    is(machine_check(f.m), 0, "and checked");
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    skip("sanitizers have memory of their own (%zu pages before)", before);
#else
    ok(resident_pages() < before + 512, "it costs little memory: %zu pages, then %zu", before,
       resident_pages());
#endif
    is(region_unmap(f.m, base, n * PAGE), 0, "unmapped");
    tear_down(&f);
}

/* With as many regions as there can be, each can still be unmapped: whole, in front or at the end.
 */
static void as_many_as_can_be(void)
{
    struct fixture f;
    uintptr_t base, last, other = 0;
    unsigned failed = 0;

    set_up(&f, "pagefile_size:64M");
    base = map_pages(&f, 2 * REGIONS_MAX + 3);
    for (size_t p = 1; p < 2 * REGIONS_MAX - 2; p += 2)
        failed += region_unmap(f.m, base + p * PAGE, PAGE) != 0;
    is(failed, 0, "every second page is unmapped");
    is(f.m->region_count, REGIONS_MAX, "as many regions as can be");
    is(region_map(f.m, PAGE, false, &other), -ENOMEM, "another is refused");
    ok(strstr(error_last(), "4096 regions") != NULL, "in words: %s", error_last());
    last = base + (2 * REGIONS_MAX - 2) * PAGE;
    put_all(&f, last, 5, 1);
    is(region_unmap(f.m, last + 2 * PAGE, PAGE), -ENOMEM, "two cannot be made of one");
    ok(strstr(error_last(), "4096 regions") != NULL, "in words: %s", error_last());
    is(wrong_of(&f, last, 5, 1), 0, "it is as it was");
    is(region_unmap(f.m, last, PAGE), 0, "its front can go");
    is(region_unmap(f.m, last + 4 * PAGE, PAGE), 0, "its end too");
    is(region_unmap(f.m, base, PAGE), 0, "and a whole region");
    is(region_unmap(f.m, last + 2 * PAGE, PAGE), 0, "after that, two can be made of one");
    tear_down(&f);
}

/* How many pages of a page table have ever been looked at, as the kernel sees it. */
static size_t table_pages_used(const struct pagetable *table)
{
    uintptr_t from = (uintptr_t)table->ptes & ~(PAGE - 1);
    uintptr_t to = (uintptr_t)(table->ptes + table->pages);
    unsigned char here[512];
    size_t used = 0;

    for (; from < to; from += sizeof(here) * PAGE) {
        size_t pages = (to - from + PAGE - 1) / PAGE;

        if (pages > sizeof(here))
            pages = sizeof(here);
        if (mincore((void *)from, pages * PAGE, here) != 0)
            return SIZE_MAX;
        for (size_t i = 0; i < pages; i++)
            used += here[i] & 1;
    }
    return used;
}

/* Whether a page is pinned is asked of the sections in use only. */
static void sparse_pins(void)
{
    struct fixture f;
    uintptr_t base = 0, other;
    size_t n = 1u << 23;

    set_up(&f, "touch_window:1");
    other = map_pages(&f, 1);
    if (region_map(f.m, n * PAGE, true, &base) != 0) {
        skip("32 GiB: %s", error_last());
        tear_down(&f);
        return;
    }
    put(&f, base + n / 2 * PAGE, 0, 1);
    is(machine_pin(f.m, other, PAGE), 0, "a page elsewhere is pinned");
    is(region_decommit(f.m, base, n * PAGE), 0, "32 GiB with one page are decommitted");
    ok(table_pages_used(table_at(&f, base)) < 4096,
       "without a look at every entry of the page table: %zu pages of %zu",
       table_pages_used(table_at(&f, base)), n * sizeof(pte_t) / PAGE);
    is(machine_pin(f.m, base + (n / 2 + 7) * PAGE, PAGE), 0, "now one inside is pinned");
    is(region_unmap(f.m, base, n * PAGE), -EBUSY, "it is found");
    is(region_unmap(f.m, base, (n / 2 + 7) * PAGE), 0, "what is before it can go");
    is(region_unmap(f.m, base + (n / 2 + 8) * PAGE, (n / 2 - 8) * PAGE), 0, "and what is behind");
    is(machine_unpin(f.m, other, PAGE) + machine_unpin(f.m, base + (n / 2 + 7) * PAGE, PAGE), 0,
       "unpinned");
    tear_down(&f);
}

struct race {
    struct fixture f;
    uintptr_t base;
    _Atomic unsigned failed, outside;
    _Atomic bool stop;
};

static void *visit(void *argument)
{
    struct race *r = argument;

    for (unsigned i = 0; !r->stop || i < 300; i++) {
        enum fault_result result = put(&r->f, r->base, (i * 37) % 300, 1);

        r->outside += result == FAULT_OUTSIDE;
        r->failed += result == FAULT_FAILED;
    }
    return NULL;
}

/* Pages are faulted in while they are unmapped. */
static void races(void)
{
    static struct race r;
    pthread_t ids[3];

    set_up(&r.f, "memory:512K");
    r.base = map_pages(&r.f, 300);
    for (unsigned i = 0; i < 3; i++)
        pthread_create(&ids[i], NULL, visit, &r);
    for (size_t p = 0; p < 290; p += 10) {
        machine_enter(r.f.m);
        if (region_decommit(r.f.m, r.base + (p + 5) * PAGE, 10 * PAGE) != 0 ||
            region_unmap(r.f.m, r.base + p * PAGE, 10 * PAGE) != 0)
            ok(false, "pages at %zu are unmapped: %s", p, error_last());
        sync_rwlock_unread(&r.f.m->sync, &r.f.m->gate, SYNC_GATE);
        sched_yield();
    }
    r.stop = true;
    for (unsigned i = 0; i < 3; i++)
        pthread_join(ids[i], NULL);
    is(r.failed, 0, "faults during unmaps are served or outside");
    ok(r.outside > 0, "%u were outside", r.outside);
    is(r.f.m->pagefile.commit, 10, "ten pages are left");
    tear_down(&r.f);
}

int main(void)
{
    for (size_t i = 0; i < STAGES; i++) {
        parts(stages[i]);
        decommit(stages[i]);
    }
    refusals();
    overcommit();
    terabyte();
    as_many_as_can_be();
    sparse_pins();
    races();
    return done_testing();
}
