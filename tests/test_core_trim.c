/*
 * The trimmer: who goes first, and what becomes of clean, changed, zero, pinned and wanted pages.
 */
#include "machine_fixture.h"

static void stage_up(struct fixture *f, const char *stage)
{
    char conf[200];

    snprintf(conf, sizeof(conf), "stage:%s,workers:off,touch_window:1,read_window:1", stage);
    set_up(f, conf);
}

static void oldest_first(const char *stage)
{
    struct fixture f;
    uintptr_t base;
    unsigned gone;

    stage_up(&f, stage);
    base = map_pages(&f, 200);
    put_all(&f, base, 200, 1);
    age_pass(&f);
    for (size_t p = 0; p < 200; p += 2)
        holds(&f, base, p, 1);
    age_pass(&f);
    age_pass(&f);
    gone = trim_pages(f.m, 10);
    ok(gone >= 10 && gone < 60, "%s: about as many as asked for are trimmed: %u", stage, gone);
    is(pages_at(&f, base, 200, 'm'), gone, "%s: they are modified", stage);
    for (size_t p = 0; p < 200; p += 2) {
        if (where(&f, base, p) != 'a')
            ok(false, "%s: page %zu was used lately and should stay", stage, p);
    }
    trim_all(&f);
    is(pages_at(&f, base, 200, 'm'), 200, "%s: if need be, all go", stage);
    is(trim_pages(f.m, 10), 0, "%s: then there is nothing to trim", stage);
    is(wrong_of(&f, base, 200, 1), 0, "%s: all are right", stage);
    tear_down(&f);
}

static void verdicts(const char *stage)
{
    struct fixture f;
    uintptr_t base;
    uint32_t slots[4];
    uint64_t used;
    bool preserve;

    stage_up(&f, stage);
    preserve = f.m->tunables.preserve;
    base = map_pages(&f, 5);
    put_all(&f, base, 4, 1);
    page_out(&f);
    for (size_t p = 0; p < 4; p++)
        slots[p] = pte_number(word_at(&f, base, p));
    used = f.m->pagefile.slots.used;
    is(wrong_of(&f, base, 4, 1), 0, "%s: four pages are read back", stage);
    put(&f, base, 1, 2); /* changed */
    put(&f, base, 2, 0); /* zeroed */
    put(&f, base, 3, 1); /* written with what it held */
    fault_at(&f, base, 4, 1);
    trim_all(&f);
    slot_release_deferred(f.m);
    is(where(&f, base, 0), preserve ? 's' : 'm', "%s: an unchanged page, with a slot or not",
       stage);
    is(frame_at(&f, base, 0)->slot, preserve ? slots[0] : 0, "%s: keeps the slot it has", stage);
    is(where(&f, base, 1), 'm', "%s: a changed page is modified", stage);
    is(frame_at(&f, base, 1)->slot, 0, "%s: without its old slot", stage);
    is(where(&f, base, 2), 'u', "%s: a zeroed page is given back", stage);
    is(where(&f, base, 3), preserve ? 's' : 'm', "%s: the same content is no change", stage);
    is(where(&f, base, 4), 'u', "%s: a page touched but never written too", stage);
    is(f.m->pagefile.slots.used, preserve ? used - 2 : 1, "%s: slots of the others are free",
       stage);
    is(counted(&f, COUNTER_pages_trimmed_zero), 2, "%s: zero pages are counted", stage);
    is(counted(&f, COUNTER_pages_trimmed_clean), preserve ? 2 : 0, "%s: clean ones too", stage);
    is(f.m->touched, 3, "%s: three have content", stage);
    is(machine_check(f.m), 0, "%s: books balanced", stage);
    page_out(&f);
    ok(holds(&f, base, 0, 1) && holds(&f, base, 1, 2) && holds(&f, base, 2, 0) &&
           holds(&f, base, 3, 1),
       "%s: all are right", stage);
    tear_down(&f);
}

/* Pages 0 to 15 are in the pagefile, side by side. */
static bool are_together(struct fixture *f, uintptr_t base)
{
    bool together = true;

    for (size_t p = 0; p + 1 < 16; p++)
        together =
            together && pte_number(word_at(f, base, p)) + 1 == pte_number(word_at(f, base, p + 1));
    return together;
}

/* Every third page from the second on has changed. */
static void put_thirds(struct fixture *f, uintptr_t base, uint64_t generation)
{
    for (size_t p = 1; p < 16; p += 3)
        put(f, base, p, generation);
}

static bool thirds_hold(struct fixture *f, uintptr_t base, uint64_t generation)
{
    bool right = true;

    for (size_t p = 0; p < 16; p++)
        right = right && holds(f, base, p, p % 3 == 1 ? generation : p == 5 ? 2 : 1);
    return right;
}

/* Where writes are seen, a page that changes has no slot any more; the clean ones beside such pages have
 * not been hashed when they are written anew. */
static void joined_protected(void)
{
    struct fixture f;
    uintptr_t base;

    set_up(&f, "workers:off,touch_window:1,read_window:1,dirty:protect");
    base = map_pages(&f, 16);
    put_all(&f, base, 16, 1);
    page_out(&f);
    is(wrong_of(&f, base, 16, 1), 0, "protected: a run is read back");
    put(&f, base, 5, 2);
    put_thirds(&f, base, 3);
    trim_all(&f);
    is(pages_at(&f, base, 16, 'm'), 16, "protected: where some have changed all are to be written");
    page_out(&f);
    ok(are_together(&f, base), "protected: so that they are one run");
    ok(thirds_hold(&f, base, 3), "protected: and all are right");
    tear_down(&f);
}

/* Clean pages in a run with changed ones: the changed ones go where they were; or all of it is written
 * anew if its slots are in too many places. */
static void joined(const char *dirty)
{
    struct fixture f;
    uintptr_t base;
    uint32_t home;
    bool right = true;
    char conf[100];

    snprintf(conf, sizeof(conf), "workers:off,touch_window:1,read_window:1,dirty:%s", dirty);
    set_up(&f, conf);
    base = map_pages(&f, 16);
    put_all(&f, base, 16, 1);
    page_out(&f);
    home = pte_number(word_at(&f, base, 0));
    is(wrong_of(&f, base, 16, 1), 0, "%s: a run is read back", dirty);
    put(&f, base, 5, 2);
    trim_all(&f);
    is(pages_at(&f, base, 16, 's'), 15, "%s: all but the one that was changed keep their slots",
       dirty);
    is(counted(&f, COUNTER_pages_trimmed_joined), 0, "%s: since they still lie in few places",
       dirty);
    page_out(&f);
    ok(are_together(&f, base) && pte_number(word_at(&f, base, 0)) == home,
       "%s: it goes where it was", dirty);
    for (size_t p = 0; p < 16; p++)
        right = right && holds(&f, base, p, p == 5 ? 2 : 1);
    ok(right, "%s: and all are right", dirty);
    put_thirds(&f, base, 3);
    trim_all(&f);
    is(pages_at(&f, base, 16, 'm'), 13, "%s: few between changed ones are to be written too",
       dirty);
    is(counted(&f, COUNTER_pages_trimmed_joined), 8, "%s: the clean ones of them", dirty);
    is(counted(&f, COUNTER_pages_trimmed_clean), 18, "%s: are not counted as clean", dirty);
    page_out(&f);
    ok(are_together(&f, base) && pte_number(word_at(&f, base, 0)) == home,
       "%s: they go where they were", dirty);
    ok(thirds_hold(&f, base, 3), "%s: and all are right", dirty);

    put_thirds(&f, base, 4);
    trim_all(&f);
    slot_release_deferred(f.m);
    for (uint32_t p = 1; p < 16; p += 3)
        right = right && pagefile_take_slot(f.m, home + p);
    ok(right, "%s: somebody else has the slots meanwhile", dirty);
    page_out(&f);
    for (uint32_t p = 1; p < 16; p += 3)
        pagefile_release(f.m, home + p);
    ok(!are_together(&f, base), "%s: so that they lie in many places", dirty);
    ok(thirds_hold(&f, base, 4), "%s: and all are right", dirty);
    put_thirds(&f, base, 5);
    trim_all(&f);
    is(pages_at(&f, base, 16, 'm'), 16, "%s: then all are to be written", dirty);
    is(machine_check(f.m), 0, "%s: the books balance", dirty);
    page_out(&f);
    ok(are_together(&f, base), "%s: so that they are one run again", dirty);
    ok(thirds_hold(&f, base, 5), "%s: and all are right", dirty);
    tear_down(&f);
}

static void pinned(const char *stage)
{
    struct fixture f;
    uintptr_t base;

    stage_up(&f, stage);
    base = map_pages(&f, 20);
    put_all(&f, base, 20, 1);
    is(machine_pin(f.m, base + 5 * PAGE, 3 * PAGE), 0, "%s: three pages are pinned", stage);
    trim_all(&f);
    is(pages_at(&f, base, 20, 'm'), 17, "%s: the others are trimmed", stage);
    is(pages_at(&f, base + 5 * PAGE, 3, 'a'), 3, "%s: they are not", stage);
    is(machine_unpin(f.m, base + 5 * PAGE, 3 * PAGE), 0, "%s: unpinned", stage);
    trim_all(&f);
    is(pages_at(&f, base, 20, 'm'), 20, "%s: now they are", stage);
    tear_down(&f);
}

/* In the middle of a trim somebody asks for a page. */
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

static void wanted(const char *stage)
{
    struct sync_backend backend = sync_backend_linux;
    struct fixture f;
    uintptr_t base;

    stage_up(&f, stage);
    base = map_pages(&f, 100);
    put_all(&f, base, 100, 1);
    for (unsigned i = 0; i < 3; i++)
        age_pass(&f);
    asked.m = f.m;
    asked.pte = pte_at(&f, base, 7);
    backend.yield = ask;
    f.m->sync.backend = &backend;
    trim_pages(f.m, 10);
    f.m->sync.backend = &sync_backend_linux;
    ok(asked.pte == NULL, "%s: a page was asked for while it was trimmed", stage);
    is(where(&f, base, 7), 'a', "%s: it stays", stage);
    ok(word_at(&f, base, 7) & PTE_ACCESSED, "%s: and counts as used", stage);
    is(counted(&f, COUNTER_pages_trim_undone), 1, "%s: its trim was undone", stage);
    ok(pages_at(&f, base, 100, 'm') >= 10, "%s: others went", stage);
    is(wrong_of(&f, base, 100, 1), 0, "%s: all are right", stage);
    tear_down(&f);
}

/* What a reader is done with goes first, however young it is. */
static void offered(void)
{
    struct fixture f;
    uintptr_t base;
    unsigned gone;

    set_up(&f, "touch_window:1");
    base = map_pages(&f, 200);
    put_all(&f, base, 200, 1);
    age_pass(&f);
    age_pass(&f);
    for (size_t p = 100; p < 120; p++)
        holds(&f, base, p, 1);
    trim_behind_add(f.m, base + 100 * PAGE, 20);
    is(counted(&f, COUNTER_trim_behind), 20, "twenty pages are offered");
    gone = trim_pages(f.m, 20);
    is(gone, 20, "twenty are trimmed");
    is(pages_at(&f, base + 100 * PAGE, 20, 'm'), 20, "those");
    trim_behind_add(f.m, base + 195 * PAGE, 20);
    trim_behind_add(f.m, base + 4000 * PAGE, 20);
    is(trim_pages(f.m, 5), 5, "an offer may reach over the end of its region, or be of none");
    is(wrong_of(&f, base, 200, 1), 0, "all are right");
    tear_down(&f);
}

/* A mapper whose regions lie side by side. Nobody touches memory of the mapper soft. */
static struct mapper_ops side_by_side;
static uintptr_t next_base = UINT64_C(1) << 40;

static int open_next(struct mapper *mapper, size_t length, uintptr_t *base)
{
    (void)mapper;
    *base = next_base;
    next_base += length;
    return 0;
}

static void close_nothing(struct mapper *mapper, uintptr_t base, size_t length)
{
    (void)mapper;
    (void)base;
    (void)length;
}

static int open_side_by_side(struct sync *sync, const struct mapper_options *options,
                             struct mapper **mapper)
{
    int error = mapper_soft_open(sync, options, mapper);

    if (error != 0)
        return error;
    side_by_side = *(*mapper)->ops;
    side_by_side.region_open = open_next;
    side_by_side.region_close = close_nothing;
    (*mapper)->ops = &side_by_side;
    return 0;
}

/* A mapper whose kernel has no memory to protect a range. */
static struct mapper_ops unprotecting;

static int protect_in_vain(struct mapper *mapper, uintptr_t va, size_t length)
{
    (void)mapper;
    (void)va;
    (void)length;
    return -ENOMEM;
}

static int open_unprotecting(struct sync *sync, const struct mapper_options *options,
                             struct mapper **mapper)
{
    int error = mapper_soft_open(sync, options, mapper);

    if (error != 0)
        return error;
    unprotecting = *(*mapper)->ops;
    unprotecting.protect = protect_in_vain;
    (*mapper)->ops = &unprotecting;
    return 0;
}

/* What could be written during its trim is not trimmed. */
static void unprotected(void)
{
    struct fixture f;
    uintptr_t base;

    set_up_mapper(&f, "touch_window:1", open_unprotecting);
    base = map_pages(&f, 8);
    put_all(&f, base, 8, 1);
    is(trim_pages(f.m, 8), 0, "pages that cannot be protected are not trimmed");
    is(pages_at(&f, base, 8, 'a'), 8, "they stay where they are");
    ok(counted(&f, COUNTER_pages_trim_undone) > 0, "their trim was undone");
    is(wrong_of(&f, base, 8, 1), 0, "and they are right");
    tear_down(&f);
}

/* What is advised away goes first in every region that it lies in. */
static void offered_across(void)
{
    struct fixture f;
    uintptr_t first, second;

    set_up_mapper(&f, "touch_window:1", open_side_by_side);
    first = map_pages(&f, 100);
    second = map_pages(&f, 100);
    is(second, first + 100 * PAGE, "two regions lie side by side");
    put_all(&f, first, 100, 1);
    put_all(&f, second, 100, 1);
    for (unsigned i = 0; i <= PTE_AGE_MAX; i++)
        age_pass(&f); /* all are as old as what is advised away */
    is(machine_advise(f.m, first + 90 * PAGE, 20 * PAGE, VMSM_DONTNEED), 0, "advice for both");
    is(trim_pages(f.m, 20), 20, "twenty are trimmed");
    is(pages_at(&f, first + 90 * PAGE, 10, 'm'), 10, "those of the first");
    is(pages_at(&f, second, 10, 'm'), 10, "and those of the second");
    tear_down(&f);
}

/* Pages that come back again and again go to better places on standby; unused read-ahead to the
 * worst. */
static void priorities(void)
{
    struct fixture f;
    uintptr_t base;

    set_up(&f, "memory:4M,touch_window:1");
    base = map_pages(&f, 64);
    put_all(&f, base, 64, 1);
    page_out(&f);
    for (unsigned i = 0; i < 4; i++) {
        fault_at(&f, base, 0, 1);
        trim_all(&f);
    }
    is(frame_at(&f, base, 0)->priority, STANDBY_PRIORITIES - 1, "a page often rescued");
    ok(list_count(f.m, LIST_STANDBY + STANDBY_PRIORITIES - 1) == 1, "is alone on the best list");
    ok(where(&f, base, 1) == 's' && frame_at(&f, base, 1)->priority == 0,
       "one read ahead and not used is on the worst");
    tear_down(&f);
}

static void steps(void)
{
    struct fixture f;
    uintptr_t base;

    set_up(&f, "");
    is(trim_need(f.m), 0, "with enough frames nothing needs to be trimmed");
    ok(!trim_step(f.m), "and nothing is");
    base = map_pages(&f, 400);
    put_all(&f, base, f.m->frame_count, 1);
    ok(trim_need(f.m) > 0, "with none left there is need");
    ok(trim_step(f.m), "a step trims");
    write_all(&f);
    is(trim_need(f.m), 0, "without a cache, standby is as good as free");
    ok(f.m->low > 0 && f.m->high > f.m->low, "the marks are in order");
    tear_down(&f);
}

int main(void)
{
    joined("hash");
    joined("auto");
    joined_protected();
    for (size_t i = 0; i < STAGES; i++) {
        oldest_first(stages[i]);
        verdicts(stages[i]);
        pinned(stages[i]);
        wanted(stages[i]);
    }
    offered();
    offered_across();
    unprotected();
    priorities();
    steps();
    return done_testing();
}
