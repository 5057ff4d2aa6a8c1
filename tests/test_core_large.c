/*
 * Large pages: sections that are touched, read, trimmed and written as a whole; what splits them;
 * and what puts them back or falls back to single pages when something cannot be had.
 */
#include "machine_fixture.h"
#include "plain_mapper.h"

#define S ((size_t)SECTION_PAGES)
#define SECTIONS 4u

static uint64_t larges(struct fixture *f)
{
    return counted(f, COUNTER_pages_large);
}

static void large_up(struct fixture *f, const char *more)
{
    char conf[200];

    snprintf(conf, sizeof(conf), "mapper:copy,memory:24M,large_share:1,%s", more);
    set_up_mapper(f, conf, plain_mapper_open);
}

static void large_down(struct fixture *f)
{
    tear_down(f);
    is(plain_full(), 0, "no large buffer keeps memory when the machine is gone");
}

static bool is_large(struct fixture *f, uintptr_t base, size_t n)
{
    return atomic_load(&table_at(f, base)->sections[n].large);
}

/* Four sections, written in a row: all but the first are large. */
static uintptr_t written(struct fixture *f)
{
    uintptr_t base = map_pages(f, SECTIONS * S);

    put_all(f, base, SECTIONS * S, 1);
    return base;
}

/* Trim a section as the trimmer does. */
static bool trim_section_at(struct fixture *f, uintptr_t base, size_t n)
{
    struct pagetable *table = table_at(f, base);
    bool begun;

    atomic_store(&table->sections[n].trimming, 1);
    begun = large_trim(f->m, table, n);
    atomic_store(&table->sections[n].trimming, 0);
    return begun;
}

/* Of which machine, and how often its rights to frames were more than its memory. */
static struct machine *emptied;
static unsigned too_early;

static void look_at_rights(void)
{
    int64_t held = (int64_t)plain_full() * (int64_t)S;

    too_early += atomic_load(&emptied->active) + atomic_load(&emptied->available) + held >
                 (int64_t)emptied->active_max + lent_frames(emptied);
}

static void begin_looking(struct fixture *f)
{
    emptied = f->m;
    too_early = 0;
    plain.emptying = look_at_rights;
}

static void end_looking(void)
{
    plain.emptying = NULL;
    is(too_early, 0, "nobody could have frames before their memory was given back");
}

/* What is kept for sections to come is given up. */
static void give_up(struct fixture *f)
{
    begin_looking(f);
    large_give_up(f->m, LARGE_MAX);
    end_looking();
}

/* A section that is large leaves, and is written if it must be. */
static void page_section_out(struct fixture *f, uintptr_t base, size_t n)
{
    begin_looking(f);
    ok(trim_section_at(f, base, n), "section %zu is trimmed as a whole", n);
    write_all(f);
    slot_release_deferred(f->m);
    is(pages_at(f, base + n * LARGE_SIZE, S, 'p'), S, "section %zu is in the pagefile", n);
    end_looking();
}

static size_t busy_of(struct fixture *f, uintptr_t base, size_t pages)
{
    size_t n = 0;

    for (size_t p = 0; p < pages; p++)
        n += (word_at(f, base, p) & PTE_BUSY) != 0;
    return n;
}

static size_t wrong_in(struct fixture *f, uintptr_t base, size_t n, uint64_t generation)
{
    size_t wrong = 0;

    for (size_t p = n * S; p < (n + 1) * S; p++)
        wrong += !holds(f, base, p, generation);
    return wrong;
}

static void touched(void)
{
    struct fixture f;
    uintptr_t base;

    large_up(&f, "dirty:hash");
    base = written(&f);
    is(larges(&f), 3 * S, "of four sections that are written in a row three are mapped at once");
    ok(!is_large(&f, base, 0) && is_large(&f, base, 1) && is_large(&f, base, 3), "and are large");
    is(plain.maps, 3, "by one call each");
    is(counted(&f, COUNTER_pages_first_touch), SECTIONS * S, "each page is touched once");
    is(f.m->touched, SECTIONS * S, "and counted");
    is(pages_at(&f, base, SECTIONS * S, 'a'), SECTIONS * S, "all are active");
    is(wrong_of(&f, base, SECTIONS * S, 1), 0, "and right");
    is(machine_check(f.m), 0, "the books balance");
    large_down(&f);
}

static void refused(void)
{
    struct fixture f;
    uintptr_t base;

    large_up(&f, "large_share:0");
    base = written(&f);
    is(larges(&f), 0, "large_share 0: none is large");
    tear_down(&f);
    large_up(&f, "memory:2M");
    base = map_pages(&f, 2 * S);
    is(larges(&f), 0, "nor where memory is less than a section");
    tear_down(&f);

    large_up(&f, "dirty:hash");
    plain.no_huge_page = true;
    base = written(&f);
    is(larges(&f), 0, "the system has no huge page: none is large");
    is(pages_at(&f, base, SECTIONS * S, 'a'), SECTIONS * S, "but all are mapped");
    is(wrong_of(&f, base, SECTIONS * S, 1), 0, "and right");
    large_down(&f);

    large_up(&f, "dirty:hash");
    plain.map_most = SECTION_PAGES;
    base = written(&f);
    is(larges(&f), 3 * S, "the system maps small pages: all of a section at once");
    ok(!is_large(&f, base, 1), "but it is not large");
    is(wrong_of(&f, base, SECTIONS * S, 1), 0, "all are right");
    large_down(&f);

    large_up(&f, "dirty:hash");
    plain.map_most = 100;
    base = written(&f);
    is(pages_at(&f, base, SECTIONS * S, 'a'), SECTIONS * S,
       "the system has memory for a part of it: the others are mapped when they are touched");
    is(f.m->touched, SECTIONS * S, "each page is counted once");
    is(wrong_of(&f, base, SECTIONS * S, 1), 0, "all are right");
    large_down(&f);
}

static void not_charged(void)
{
    struct fixture f;
    uintptr_t base;
    size_t p = 0;

    large_up(&f, "dirty:hash,pagefile_size:4M");
    ok(region_map(f.m, 16 * S * PAGE, true, &base) == 0, "more is reserved than can be promised");
    while (p < 16 * S && put(&f, base, p, 1) == FAULT_DONE)
        p++;
    ok(p < 16 * S && p > 1000, "page %zu cannot be had any more", p);
    is(f.m->pagefile.commit, f.m->touched, "as many are promised as are touched");
    is(pages_at(&f, base, p, 'u'), 0, "none before it was left out");
    large_down(&f);
}

static void trimmed_changed(void)
{
    struct fixture f;
    uintptr_t base;
    uint64_t used;

    large_up(&f, "dirty:hash");
    base = written(&f);
    used = f.m->pagefile.slots.used;
    ok(trim_section_at(&f, base, 1), "a section that was written is trimmed as a whole");
    is(plain.takes, 1, "by one call");
    is(busy_of(&f, base + LARGE_SIZE, S), S, "its pages are busy until it is written");
    is(large_leaving(f.m), S, "and are on their way out");
    ok(!is_large(&f, base, 1), "it is large no more");
    ok(large_waits(f.m), "it waits for the writer");
    write_all(&f);
    is(pages_at(&f, base + LARGE_SIZE, S, 'p'), S, "it is in the pagefile");
    is(busy_of(&f, base, SECTIONS * S), 0, "nobody is busy");
    is(large_leaving(f.m), 0, "nothing is on its way out");
    is(f.m->pagefile.slots.used, used + S, "it has a slot for each page");
    is(counted(&f, COUNTER_pages_trimmed_large), S, "this is counted");
    is(counted(&f, COUNTER_pages_written), S, "and so is the write");
    ok(pte_number(word_at(&f, base, 2 * S - 1)) == pte_number(word_at(&f, base, S)) + S - 1,
       "the slots lie side by side");
    is(machine_check(f.m), 0, "the books balance");
    is(wrong_in(&f, base, 1, 1), 0, "it is read back, and right");
    large_down(&f);
}

static void trimmed_clean(void)
{
    struct fixture f;
    uintptr_t base;
    uint64_t writes, before;
    uint32_t slot;

    large_up(&f, "dirty:hash,workers:off");
    base = written(&f);
    for (size_t n = 0; n < SECTIONS; n++) {
        if (is_large(&f, base, n))
            page_section_out(&f, base, n);
    }
    slot = pte_number(word_at(&f, base, 2 * S));
    before = larges(&f);
    is(wrong_of(&f, base, SECTIONS * S, 1), 0, "all is read in a row, and right");
    ok(larges(&f) >= before + 2 * S, "sections are read as a whole: %llu pages",
       (unsigned long long)(larges(&f) - before));
    ok(is_large(&f, base, 2), "and are large again");
    writes = counted(&f, COUNTER_pages_written);
    ok(trim_section_at(&f, base, 2), "one is trimmed unchanged");
    is(pages_at(&f, base + 2 * LARGE_SIZE, S, 'p'), S, "it is in the pagefile at once");
    ok(!large_waits(f.m), "it is not written");
    is(counted(&f, COUNTER_pages_written), writes, "indeed");
    is(pte_number(word_at(&f, base, 2 * S)), slot, "it is in the slots that it was in");
    is(counted(&f, COUNTER_pages_trimmed_clean), S, "and counts as clean");
    is(wrong_in(&f, base, 2, 1), 0, "it is right");
    large_down(&f);
}

static void changed_again(void)
{
    struct fixture f;
    uintptr_t base;
    uint64_t used;

    large_up(&f, "dirty:hash");
    base = written(&f);
    for (size_t n = 1; n < SECTIONS; n++)
        page_section_out(&f, base, n);
    is(wrong_of(&f, base, SECTIONS * S, 1), 0, "all is read back");
    ok(is_large(&f, base, 2), "as large sections");
    used = f.m->pagefile.slots.used;
    put(&f, base, 2 * S + 77, 2);
    page_section_out(&f, base, 2);
    give_up(&f);
    is(f.m->pagefile.slots.used, used,
       "a page was changed: written anew, and its old slots are free");
    ok(holds(&f, base, 2 * S + 77, 2), "the page is as it was changed");
    ok(holds(&f, base, 2 * S + 76, 1) && holds(&f, base, 2 * S + 78, 1),
       "and so are its neighbours");
    is(machine_check(f.m), 0, "the books balance");
    large_down(&f);
}

static void zeroes(void)
{
    struct fixture f;
    uintptr_t base;
    uint64_t used;

    large_up(&f, "dirty:hash");
    base = written(&f);
    used = f.m->pagefile.slots.used;
    for (size_t p = S; p < 2 * S; p++)
        put(&f, base, p, 0);
    ok(trim_section_at(&f, base, 1), "a section of zeroes is trimmed");
    is(pages_at(&f, base + LARGE_SIZE, S, 'u'), S, "and is untouched: nothing is written");
    is(f.m->touched, 3 * S, "its pages have no content");
    is(f.m->pagefile.slots.used, used, "and no slots");
    for (size_t p = 2 * S; p < 2 * S + 10; p++)
        put(&f, base, p, 0);
    ok(trim_section_at(&f, base, 2), "a section with ten of them is trimmed");
    write_all(&f);
    slot_release_deferred(f.m);
    is(pages_at(&f, base + 2 * LARGE_SIZE, S, 'p'), S - 10, "the others are in the pagefile");
    is(f.m->pagefile.slots.used, used + S - 10, "with a slot each");
    is(wrong_in(&f, base, 1, 0), 0, "zeroes are zeroes");
    ok(holds(&f, base, 2 * S + 9, 0) && holds(&f, base, 2 * S + 10, 1), "the others are right");
    is(machine_check(f.m), 0, "the books balance");
    large_down(&f);
}

/* What pages of the section that is being mapped are nobody's? */
static struct {
    struct fixture *f;
    size_t idle;
} mapped;

static void look(uintptr_t va)
{
    mapped.idle += S - busy_of(mapped.f, va, S);
}

static void not_written(void)
{
    struct fixture f;
    uintptr_t base;
    uint64_t used;

    large_up(&f, "dirty:hash");
    base = written(&f);
    used = f.m->pagefile.slots.used;
    mapped.f = &f;
    mapped.idle = 0;
    f.store->write_error = -EIO;
    ok(trim_section_at(&f, base, 1), "a section is trimmed");
    plain.mapping = look;
    write_all(&f);
    plain.mapping = NULL;
    slot_release_deferred(f.m);
    is(pages_at(&f, base + LARGE_SIZE, S, 'a'), S, "it cannot be written: it is back");
    is(busy_of(&f, base, SECTIONS * S), 0, "nobody is busy");
    is(mapped.idle, 0, "nobody could touch it before it was there");
    is(f.m->pagefile.slots.used, used, "its new slots are free");
    is(wrong_in(&f, base, 1, 1), 0, "it is right");
    ok(!trim_section_at(&f, base, 2), "no other is tried for a while");
    f.store->write_error = 0;
    is(machine_check(f.m), 0, "the books balance");
    large_down(&f);

    large_up(&f, "dirty:hash");
    base = written(&f);
    f.store->write_error = -EIO;
    ok(trim_section_at(&f, base, 1), "the same where the system lacks memory for it");
    plain.map_most = 200;
    plain.most_at_once = 7;
    write_all(&f);
    f.store->write_error = 0;
    is(pages_at(&f, base + LARGE_SIZE, S, 'a'), S, "it comes back by and by");
    ok(!is_large(&f, base, 1), "as small pages");
    is(wrong_in(&f, base, 1, 1), 0, "and is right");
    large_down(&f);
}

static void *stop_and_go(void *machine)
{
    machine_stop(machine);
    machine_go(machine);
    return NULL;
}

/* There are no slots: it comes back, and who waits for it is told. */
static void no_slots(void)
{
    struct fixture f;
    uintptr_t base;
    uint32_t first, slots[64], counts[64], runs = 0;
    pthread_t stopper;

    large_up(&f, "dirty:hash,pagefile_size:16M");
    base = written(&f);
    ok(trim_section_at(&f, base, 1), "a section is trimmed");
    while (runs < 64 && (counts[runs] = pagefile_take(f.m, SECTION_PAGES, false, &first)) > 0)
        slots[runs++] = first;
    pthread_create(&stopper, NULL, stop_and_go, f.m);
    while (atomic_load(&f.m->gate_closing) == 0)
        usleep(1000);
    usleep(20000);
    for (uint32_t i = 0; i < 300; i++) /* a few are free */
        pagefile_release(f.m, slots[0] + i);
    write_all(&f);
    for (uint32_t r = 0; r < runs; r++) {
        for (uint32_t i = r == 0 ? 300 : 0; i < counts[r]; i++)
            pagefile_release(f.m, slots[r] + i);
    }
    alarm(20); /* or for ever */
    pthread_join(stopper, NULL);
    alarm(0);
    is(pages_at(&f, base + LARGE_SIZE, S, 'a'), S, "there are too few slots for it: it is back");
    is(large_leaving(f.m), 0, "nothing is on its way out");
    is(machine_check(f.m), 0, "who waited for it goes on, and the books balance");
    is(wrong_in(&f, base, 1, 1), 0, "it is right");
    large_down(&f);
}

/* Somebody asks for page 7 of the section that has just been moved away. */
static struct {
    struct machine *m;
    struct pagetable *table;
    bool marked;
} asked;

static void ask(uintptr_t va)
{
    asked.marked = pte_want(asked.m, pagetable_pte(asked.table, va + 7 * PAGE), PTE_WANTED_TRAP);
}

static void wanted(void)
{
    struct fixture f;
    uintptr_t base;

    large_up(&f, "dirty:hash");
    base = written(&f);
    asked.m = f.m;
    asked.table = table_at(&f, base);
    plain.taken = ask;
    ok(!trim_section_at(&f, base, 1), "a section that is asked for meanwhile is not trimmed");
    plain.taken = NULL;
    ok(asked.marked, "(it was)");
    is(pages_at(&f, base + LARGE_SIZE, S, 'a'), S, "it is back");
    ok(is_large(&f, base, 1), "and large");
    ok(word_at(&f, base, S + 7) & PTE_ACCESSED, "and counts as used");
    is(busy_of(&f, base, SECTIONS * S), 0, "nobody is busy");
    is(large_leaving(f.m), 0, "nothing is on its way out");
    is(wrong_in(&f, base, 1, 1), 0, "it is right");
    large_down(&f);
}

static void not_taken(void)
{
    struct fixture f;
    uintptr_t base;

    large_up(&f, "dirty:hash");
    base = written(&f);
    plain.take_error = -EBUSY;
    ok(!trim_section_at(&f, base, 1), "a section that a device uses is not trimmed");
    plain.take_error = 0;
    is(busy_of(&f, base, SECTIONS * S), 0, "nobody is busy");
    is(machine_pin(f.m, base + LARGE_SIZE + 5 * PAGE, PAGE), 0, "a page is pinned");
    ok(!trim_section_at(&f, base, 1), "then the section is not trimmed either");
    is(plain.takes, 0, "and not tried");
    is(busy_of(&f, base, SECTIONS * S), 0, "nobody is busy");
    is(machine_unpin(f.m, base + LARGE_SIZE + 5 * PAGE, PAGE), 0, "it is unpinned");
    page_section_out(&f, base, 1);
    is(wrong_in(&f, base, 1, 1), 0, "now it is, and it is right");
    large_down(&f);
}

static void discarded(void)
{
    struct fixture f;
    uintptr_t base;

    large_up(&f, "dirty:hash");
    base = written(&f);
    is(region_decommit(f.m, base + LARGE_SIZE + 10 * PAGE, 5 * PAGE), 0,
       "a part of a large section is decommitted");
    is(plain.splits, 1, "it is split before");
    ok(!is_large(&f, base, 1), "and is large no more");
    is(counted(&f, COUNTER_large_splits), 1, "this is counted");
    ok(holds(&f, base, S + 10, 0) && holds(&f, base, S + 14, 0), "the part is zero");
    ok(holds(&f, base, S + 9, 1) && holds(&f, base, S + 15, 1), "the others are right");
    is(region_decommit(f.m, base + 2 * LARGE_SIZE, LARGE_SIZE), 0, "all of one is decommitted");
    is(plain.splits, 1, "that splits nothing");
    ok(!is_large(&f, base, 2), "but it is large no more");
    plain.split_refused = true;
    is(region_unmap(f.m, base + 3 * LARGE_SIZE, PAGE), 0, "a page of one is unmapped");
    ok(!is_large(&f, base, 3), "it is large no more, though it could not be split");
    is(machine_check(f.m), 0, "the books balance");
    large_down(&f);
}

/* The trimmer itself, where only some pages are old enough. */
static void split_by_trim(void)
{
    struct fixture f;
    uintptr_t base;

    large_up(&f, "dirty:hash");
    base = written(&f);
    machine_pin(f.m, base + LARGE_SIZE, PAGE);
    trim_all(&f);
    write_all(&f);
    is(where(&f, base, S), 'a', "a pinned page stays where it is");
    ok(pages_at(&f, base + LARGE_SIZE, S, 'a') < S, "others of its section leave");
    ok(!is_large(&f, base, 1), "which was split");
    ok(plain.splits >= 1, "indeed");
    machine_unpin(f.m, base + LARGE_SIZE, PAGE);
    is(wrong_of(&f, base, SECTIONS * S, 1), 0, "all are right");
    large_down(&f);
}

static void corrupt(void)
{
    struct fixture f;
    uintptr_t base;
    size_t wrong = 0;

    large_up(&f, "dirty:hash");
    base = written(&f);
    for (size_t n = 1; n < SECTIONS; n++)
        page_section_out(&f, base, n);
    f.store->corrupt_slot = pte_number(word_at(&f, base, 2 * S + 33));
    for (size_t p = 0; p < SECTIONS * S; p++)
        wrong += !holds(&f, base, p, 1);
    is(wrong, 1, "a page that is read corrupted fails, and no other");
    ok(word_at(&f, base, 2 * S + 33) & PTE_BAD, "that page");
    ok(!is_large(&f, base, 2), "its section is not mapped as a whole");
    ok(atomic_load(&table_at(&f, base)->sections[2].mistrusted), "and will not be read so again");
    is(busy_of(&f, base, SECTIONS * S), 0, "nobody is busy");
    is(machine_check(f.m), 0, "the books balance");
    f.store->corrupt_slot = 0;
    large_down(&f);
}

static void forked(void)
{
    struct fixture f;
    uintptr_t base;

    large_up(&f, "dirty:hash");
    base = written(&f);
    machine_stop(f.m);
    large_split_all(f.m);
    machine_go(f.m);
    is(plain.splits, 3, "before a fork all are split");
    ok(!is_large(&f, base, 1) && !is_large(&f, base, 3), "and large no more");
    large_down(&f);
}

/* How many are to be on their way out if so many are consumed a second, right after a first touch? */
static uint64_t ahead_after_touch(struct fixture *f, uint64_t rate)
{
    uint64_t ahead = 0;

    /* It is so for some milliseconds only, which may pass between two lines. */
    for (unsigned i = 0; i < 1000 && ahead == 0; i++) {
        atomic_store(&f->m->large.touched_at, sync_now(&f->m->sync));
        ahead = large_ahead(f->m, rate);
    }
    return ahead;
}

static void in_advance(void)
{
    struct fixture f;
    uintptr_t base;
    uint64_t average;

    large_up(&f, "dirty:hash,workers:off");
    atomic_store(&f.m->large.leave_ns, 2000000);
    is(large_ahead(f.m, 500000), 0, "where nothing is filled no section leaves in advance");
    base = written(&f);
    ok(atomic_load(&f.m->large.touched_at) != 0, "a first touch of a section is noted");
    is(ahead_after_touch(&f, 500000), 1000, "then what is consumed while one leaves does");
    atomic_store(&f.m->large.touched_at, 1);
    is(large_ahead(f.m, 500000), 0, "but not long after");
    for (size_t n = 1; n < SECTIONS; n++)
        page_section_out(&f, base, n);
    ok(atomic_load(&f.m->large.leave_ns) > 2000000 * 27 / 64, "what they take counts a quarter");
    is(wrong_of(&f, base, SECTIONS * S, 1), 0, "all is read in a row, and right");
    average = atomic_load(&f.m->large.leave_ns);
    ok(is_large(&f, base, 2) && trim_section_at(&f, base, 2), "one leaves unchanged");
    is(atomic_load(&f.m->large.leave_ns), average * 3 / 4, "at once, and counts so");
    large_down(&f);
}

int main(void)
{
    touched();
    in_advance();
    refused();
    not_charged();
    trimmed_changed();
    trimmed_clean();
    changed_again();
    zeroes();
    not_written();
    no_slots();
    wanted();
    not_taken();
    discarded();
    split_by_trim();
    corrupt();
    forked();
    return done_testing();
}
