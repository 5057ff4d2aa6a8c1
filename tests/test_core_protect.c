/*
 * Pages mapped protected: which sections, what a trim makes of them, and what ends it.
 */
#include "machine_fixture.h"

#define PAGES 100u
#define AUTO "dirty:auto,touch_window:1,read_window:1"

static bool protected_at(struct fixture *f, uintptr_t base, size_t page)
{
    return (word_at(f, base, page) & PTE_PROTECTED) != 0;
}

static size_t protected_of(struct fixture *f, uintptr_t base)
{
    size_t n = 0;

    for (size_t p = 0; p < PAGES; p++)
        n += protected_at(f, base, p);
    return n;
}

static int32_t guarded(struct fixture *f, uintptr_t base)
{
    return atomic_load(&table_at(f, base)->sections[0].guarded);
}

/* Pages whose section has been seen to be read only, read back, as if after a long time. */
static uintptr_t read_only(struct fixture *f)
{
    uintptr_t base = map_pages(f, PAGES);

    put_all(f, base, PAGES, 1);
    page_out(f);
    wrong_of(f, base, PAGES, 1);
    page_out(f);
    is(wrong_of(f, base, PAGES, 1), 0, "all are read back");
    for (size_t p = 0; p < PAGES; p++)
        atomic_fetch_and(pte_at(f, base, p), ~PTE_LEVEL);
    for (unsigned i = 0; i < 3; i++)
        age_pass(f);
    return base;
}

static void learned(void)
{
    struct fixture f;
    uintptr_t base;

    set_up(&f, AUTO);
    base = map_pages(&f, PAGES);
    put_all(&f, base, PAGES, 1);
    page_out(&f);
    is(wrong_of(&f, base, PAGES, 1), 0, "pages are read back");
    is(protected_of(&f, base), 0, "unprotected: nothing is known of them");
    trim_all(&f);
    is(pages_at(&f, base, PAGES, 's'), PAGES, "a trim finds them unchanged");
    ok(holds(&f, base, 7, 1) && protected_at(&f, base, 7), "a rescued one is protected then");
    page_out(&f);
    is(wrong_of(&f, base, PAGES, 1), 0, "they are read back");
    is(protected_of(&f, base), PAGES, "protected");
    is(guarded(&f, base), PAGES, "and counted");
    is(machine_check(f.m), 0, "the books balance");
    tear_down(&f);
}

static void at_once(void)
{
    struct fixture f;
    uintptr_t base;
    uint64_t used, before;

    set_up(&f, AUTO);
    base = read_only(&f);
    used = f.m->pagefile.slots.used;
    before = counted(&f, COUNTER_pages_trimmed_at_once);
    atomic_fetch_or(pte_at(&f, base, 3), UINT64_C(1) << PTE_LEVEL_SHIFT);
    put(&f, base, 5, 2);
    is(counted(&f, COUNTER_faults_protect), 1, "a first write faults");
    put(&f, base, 5, 3);
    is(counted(&f, COUNTER_faults_protect), 1, "the second does not");
    ok(!protected_at(&f, base, 5) && frame_at(&f, base, 5)->slot != 0, "its slot is kept");
    put(&f, base, 6, 1);
    trim_all(&f);
    slot_release_deferred(f.m);
    is(pages_at(&f, base, PAGES, 'p'), PAGES - 3, "what is still protected leaves at once");
    is(counted(&f, COUNTER_pages_trimmed_at_once) - before, PAGES - 3, "and is counted");
    is(where(&f, base, 3), 's', "but for a page that came back soon once");
    is(where(&f, base, 5), 'm', "a changed page is modified");
    is(where(&f, base, 6), 's', "the same content is no change");
    is(f.m->pagefile.slots.used, used - 1, "all but one keep their slots");
    is(guarded(&f, base), 0, "none is counted any more");
    is(machine_check(f.m), 0, "the books balance");
    page_out(&f);
    for (size_t p = 0; p < PAGES; p++)
        if (!holds(&f, base, p, p == 5 ? 3 : 1))
            ok(false, "page %zu is right", p);
    tear_down(&f);
}

/* The machine has a cache, all of which waits to be written: no frame has a buffer of its own then. */
static void set_cache(struct machine *m, bool on)
{
    m->mapper->has_cache = on;
    for (uint32_t i = 0; i < m->frame_count; i++)
        m->frames[i].buffer = on ? BUFFER_NONE : i;
}

/* While the cache is full, what needs no room in it goes on leaving. */
static void without_room(void)
{
    struct fixture f;
    uintptr_t base, other;

    set_up(&f, AUTO);
    base = read_only(&f);
    other = map_pages(&f, PAGES);
    put_all(&f, other, 50, 1);
    atomic_fetch_or(pte_at(&f, base, 3), UINT64_C(1) << PTE_LEVEL_SHIFT);
    put(&f, base, 5, 2);
    is(atomic_load(&f.m->guarded), 1, "one section has protected pages");
    set_cache(f.m, true);
    is(atomic_load(&f.m->cache_room), 0, "the cache has no room");
    is(trim_pages(f.m, f.m->frame_count), PAGES - 2, "protected pages are trimmed all the same");
    is(pages_at(&f, base, PAGES, 'p'), PAGES - 2, "and are where they came from");
    ok(where(&f, base, 3) == 'a' && where(&f, base, 5) == 'a',
       "but for one that is worth a second chance, and one that was written");
    is(pages_at(&f, other, 50, 'a'), 50, "pages that were never protected stay, too");
    set_cache(f.m, false);
    trim_all(&f);
    is(where(&f, base, 3), 's', "with room it gets its second chance");
    is(atomic_load(&f.m->guarded), 0, "no section has protected pages any more");
    page_out(&f);
    put_all(&f, other, 50, 1);
    set_cache(f.m, true);
    is(trim_pages(f.m, 20), 0, "without room nothing goes then");
    set_cache(f.m, false);
    tear_down(&f);
}

static void turned(void)
{
    struct fixture f;
    uintptr_t base;
    unsigned writes = 0;

    set_up(&f, AUTO);
    base = read_only(&f);
    while (atomic_load(&table_at(&f, base)->sections[0].protect) && writes < 20)
        put(&f, base, 3 * writes++, 2);
    ok(writes > 1 && writes < 20, "some writes turn the section: %u", writes);
    is(counted(&f, COUNTER_faults_protect), writes, "each was a fault");
    ok(protected_at(&f, base, 1), "pages before the last are still protected");
    ok(!protected_at(&f, base, 3 * writes), "those after it are not: they would be next");
    is((size_t)guarded(&f, base), protected_of(&f, base), "those that are protected are counted");
    put(&f, base, 3 * writes, 2);
    is(counted(&f, COUNTER_faults_protect), writes, "so they are written without a fault");
    protect_settle(f.m, table_at(&f, base), 0);
    is(protected_of(&f, base), 0, "the next trim makes ordinary pages of the others");
    is(guarded(&f, base), 0, "which are not counted then");
    page_out(&f);
    for (size_t p = 0; p < PAGES; p++)
        if (!holds(&f, base, p, p % 3 == 0 && p <= 3 * writes ? 2 : 1))
            ok(false, "page %zu is right", p);
    is(protected_of(&f, base), 0, "pages come back unprotected");
    for (unsigned round = 0; round < 2; round++) {
        page_out(&f);
        for (size_t p = 0; p < PAGES; p++)
            fault_at(&f, base, p, 1);
    }
    is(protected_of(&f, base), PAGES, "until it is read only again");
    tear_down(&f);
}

static void ended(void)
{
    struct fixture f;
    uintptr_t base;

    set_up(&f, AUTO);
    base = read_only(&f);
    is(machine_pin(f.m, base, PAGE), 0, "a page is pinned");
    ok(!protected_at(&f, base, 0), "a device may write it");
    is(frame_at(&f, base, 0)->slot, 0, "so it has no slot");
    is(region_decommit(f.m, base + PAGE, 2 * PAGE), 0, "two are decommitted");
    is(guarded(&f, base), PAGES - 3, "none of the three is counted");
    is(pagefile_reclaim(f.m, 10), 10, "the pagefile takes ten slots back");
    is(guarded(&f, base), PAGES - 13, "their pages are not known unchanged any more");
    is(machine_check(f.m), 0, "the books balance");
    trim_all(&f);
    is(pages_at(&f, base, PAGES, 'm'), 10, "so a trim has to keep them");
    is(pages_at(&f, base, PAGES, 'p'), PAGES - 13, "the others leave at once");
    is(machine_unpin(f.m, base, PAGE), 0, "unpinned");
    ok(holds(&f, base, 0, 1) && holds(&f, base, 1, 0), "those are right");
    is(wrong_of(&f, base + 3 * PAGE, 0, 1), 0, "and the others");
    is(region_unmap(f.m, base, PAGES * PAGE), 0, "all is unmapped");
    tear_down(&f);
}

/* In the middle of a trim somebody wants to write a page. */
static struct {
    struct machine *m;
    pte_t *pte;
} asked;

static void ask(struct sync *s, enum sync_point point)
{
    (void)s;
    if (point == SYNC_AT_STEP && asked.pte != NULL && pte_want(asked.m, asked.pte, PTE_WANTED_TRAP))
        asked.pte = NULL;
}

static void wanted(void)
{
    struct sync_backend backend = sync_backend_linux;
    struct fixture f;
    uintptr_t base;

    set_up(&f, AUTO);
    base = read_only(&f);
    asked.m = f.m;
    asked.pte = pte_at(&f, base, 7);
    backend.yield = ask;
    f.m->sync.backend = &backend;
    trim_pages(f.m, PAGES / 2);
    f.m->sync.backend = &sync_backend_linux;
    ok(asked.pte == NULL, "a page is wanted while it is trimmed");
    ok(where(&f, base, 7) == 'a' && protected_at(&f, base, 7), "it stays, protected");
    is((size_t)guarded(&f, base), protected_of(&f, base), "and counted");
    is(pages_at(&f, base, PAGES, 'p'), PAGES / 2 - 1, "others leave at once");
    put(&f, base, 7, 2);
    page_out(&f);
    ok(holds(&f, base, 7, 2) && holds(&f, base, 8, 1), "what is written then is not lost");
    tear_down(&f);
}

/* A mapper that keeps the third page of each drop. */
static struct mapper_ops refusing;
static bool refuse;

static int drop_most(struct mapper *mapper, unsigned count, const uintptr_t *va,
                     const uint32_t *frames, int *status)
{
    (void)mapper;
    (void)va;
    (void)frames;
    for (unsigned i = 0; i < count; i++)
        status[i] = refuse && i == 2 ? -EINVAL : 0;
    return refuse && count > 2 ? -EINVAL : 0;
}

static int open_refusing(struct sync *sync, const struct mapper_options *options,
                         struct mapper **mapper)
{
    int error = mapper_soft_open(sync, options, mapper);

    if (error != 0)
        return error;
    refusing = *(*mapper)->ops;
    refusing.drop = drop_most;
    (*mapper)->ops = &refusing;
    return 0;
}

static void refused(void)
{
    struct fixture f;
    uintptr_t base;

    set_up_mapper(&f, AUTO, open_refusing);
    base = read_only(&f);
    refuse = true;
    trim_pages(f.m, PAGES / 2);
    refuse = false;
    ok(where(&f, base, 2) == 'a' && protected_at(&f, base, 2), "what is not dropped stays");
    is((size_t)guarded(&f, base), protected_of(&f, base), "protected, and counted");
    is(pages_at(&f, base, PAGES, 'p'), PAGES / 2 - 1, "the others have gone");
    is(machine_check(f.m), 0, "the books balance");
    put(&f, base, 2, 2);
    page_out(&f);
    ok(holds(&f, base, 2, 2) && holds(&f, base, 3, 1), "all are right");
    tear_down(&f);
}

/* Without slots that are kept, or by hash, nothing is protected. */
static void never(const char *conf)
{
    struct fixture f;
    uintptr_t base;

    set_up(&f, conf);
    base = read_only(&f);
    is(protected_of(&f, base), 0, "%s: nothing is protected", conf);
    tear_down(&f);
}

int main(void)
{
    learned();
    at_once();
    without_room();
    turned();
    ended();
    wanted();
    refused();
    never("dirty:hash,touch_window:1,read_window:1");
    never("dirty:auto,preserve:off,touch_window:1,read_window:1");
    return done_testing();
}
