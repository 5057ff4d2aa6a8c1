/*
 * The ager: used pages are young, others grow old, and the trimmer is told how many there are.
 */
#include <errno.h>

#include "machine_fixture.h"

static unsigned age_of(struct fixture *f, uintptr_t base, size_t page)
{
    return pte_age(word_at(f, base, page));
}

static void ages(void)
{
    struct fixture f;
    uintptr_t base;

    set_up(&f, "touch_window:1");
    base = map_pages(&f, 20);
    put_all(&f, base, 20, 1);
    ok(word_at(&f, base, 0) & PTE_ACCESSED, "an access sets the bit");
    age_pass(&f);
    ok(!(word_at(&f, base, 0) & PTE_ACCESSED), "a pass clears it");
    is(age_of(&f, base, 0), 0, "the page is as young as can be");
    is(f.m->trimmer.ages[0], 20, "the trimmer is told of twenty such pages");
    for (unsigned pass = 1; pass <= PTE_AGE_MAX + 2; pass++) {
        unsigned expected = pass < PTE_AGE_MAX ? pass : (unsigned)PTE_AGE_MAX;

        holds(&f, base, 0, 1);
        age_pass(&f);
        is(age_of(&f, base, 0), 0, "pass %u: a page in use stays young", pass);
        is(age_of(&f, base, 1), expected, "pass %u: one not in use is of age %u", pass, expected);
        is(f.m->trimmer.ages[expected], 19, "pass %u: and counted so", pass);
    }
    put(&f, base, 1, 2);
    age_pass(&f);
    is(age_of(&f, base, 1), 0, "used again, it is young again");
    is(counted(&f, COUNTER_ageing_passes), 11, "passes are counted");
    tear_down(&f);
}

/* Pages that are busy, trimmed or untouched are none of the ager's business. */
static void others(void)
{
    struct fixture f;
    uintptr_t base;
    uint64_t word;

    set_up(&f, "touch_window:1");
    base = map_pages(&f, 1500);
    put(&f, base, 0, 1);
    trim_all(&f);
    put(&f, base, 1, 1);
    put(&f, base, 1400, 1);
    word = word_at(&f, base, 1);
    ok(pte_try_busy(&f.m->sync, pte_at(&f, base, 1), word), "a page is busy");
    age_pass(&f);
    is(word_at(&f, base, 1), word | PTE_BUSY, "it is left alone");
    pte_release(f.m, pte_at(&f, base, 1), base + PAGE, word);
    is(word_at(&f, base, 0) & (PTE_AGE | PTE_TRANSITION), PTE_TRANSITION, "so is a trimmed one");
    is(word_at(&f, base, 2), 0, "and an untouched one");
    ok(!(word_at(&f, base, 1400) & PTE_ACCESSED), "one in another section is seen to");
    is(f.m->trimmer.ages[0], 1, "that makes one");
    tear_down(&f);
}

static uint64_t groups_of(struct fixture *f, uintptr_t base, size_t section)
{
    uint64_t groups;

    sync_rwlock_read(&f->m->sync, &f->m->regions_lock, SYNC_REGIONS);
    groups = atomic_load(&region_find(f->m, base)->table->sections[section].groups);
    sync_rwlock_unread(&f->m->sync, &f->m->regions_lock, SYNC_REGIONS);
    return groups;
}

/* Groups of pages of which none is valid are passed over. */
static void groups(void)
{
    struct fixture f;
    uintptr_t base;
    uint64_t word;

    set_up(&f, "touch_window:1");
    base = map_pages(&f, 1024);
    put(&f, base, 3, 1);
    put(&f, base, 100, 1);
    put(&f, base, 1023, 1);
    is(groups_of(&f, base, 0), group_bit(3) | group_bit(100), "two groups of a section have pages");
    is(groups_of(&f, base, 1), group_bit(511), "one has in the other");
    age_pass(&f);
    is(groups_of(&f, base, 0), group_bit(3) | group_bit(100), "a pass leaves them alone");
    trim_all(&f);
    word = word_at(&f, base, 100);
    ok(pte_try_busy(&f.m->sync, pte_at(&f, base, 100), word), "a page is about to come back");
    age_pass(&f);
    is(groups_of(&f, base, 0), group_bit(100), "trimmed, the others have none; its has");
    is(groups_of(&f, base, 1), 0, "nor has the other section");
    pte_release(f.m, pte_at(&f, base, 100), base + 100 * PAGE, word);
    put(&f, base, 3, 2);
    is(groups_of(&f, base, 0), group_bit(3) | group_bit(100), "a page is back, and is seen");
    trim_all(&f);
    ok(!(word_at(&f, base, 3) & PTE_VALID), "by the trimmer too");
    tear_down(&f);
}

static void due(void)
{
    struct fixture f;
    uintptr_t base;

    set_up(&f, "touch_window:1");
    base = map_pages(&f, 200);
    put_all(&f, base, 10, 1);
    age_step(f.m);
    is(counted(&f, COUNTER_ageing_passes), 0, "few frames consumed: no pass is due");
    put_all(&f, base, f.m->active_max / AGE_PART + 1, 1);
    age_step(f.m);
    is(counted(&f, COUNTER_ageing_passes), 1, "an eighth consumed: it is");
    age_step(f.m);
    is(counted(&f, COUNTER_ageing_passes), 1, "once");
    tear_down(&f);
}

static void advice(void)
{
    struct fixture f;
    uintptr_t base;
    unsigned gone;

    set_up(&f, "touch_window:1");
    base = map_pages(&f, 200);
    put_all(&f, base, 200, 1);
    age_pass(&f);
    is(machine_advise(f.m, base + 50 * PAGE, 70 * PAGE, VMSM_DONTNEED), 0, "seventy not needed");
    is(age_of(&f, base, 50), PTE_AGE_MAX, "are the oldest at once");
    is(age_of(&f, base, 49) + age_of(&f, base, 120), 0, "their neighbours are not");
    age_pass(&f);
    is(f.m->trimmer.ages[PTE_AGE_MAX], 70, "the ager counts them");
    gone = trim_pages(f.m, 20);
    is(pages_at(&f, base + 50 * PAGE, 70, 'm'), gone, "they are trimmed first, %u of them", gone);
    is(wrong_of(&f, base, 200, 1), 0, "and their content is kept");
    is(machine_advise(f.m, base + 1, PAGE, VMSM_DONTNEED), -EINVAL, "advice is for whole pages");
    is(machine_advise(f.m, base, 201 * PAGE, VMSM_DONTNEED), -EINVAL, "that are mapped");
    is(machine_advise(f.m, base, PAGE, (enum vmsm_advice)99), -EINVAL, "and has to exist");
    tear_down(&f);
}

/* So many frames are consumed, in eighths of them all. */
static void consume(struct fixture *f, unsigned eighths)
{
    atomic_fetch_add(&f->m->consumed, (uint64_t)f->m->active_max * eighths / 8);
}

/* A page that is wanted soon after its trim rises and grows old more slowly; a late one sinks. */
static void levels(void)
{
    static const unsigned away[] = {1, 1, 6, 1, 12, 50, 50}, level[] = {2, 4, 5, 7, 6, 4, 2};
    struct fixture f;
    uintptr_t base;

    set_up(&f, "memory:4M,touch_window:1,read_window:4");
    base = map_pages(&f, 20);
    put_all(&f, base, 20, 1);
    page_out(&f);
    for (unsigned i = 0; i < sizeof(away) / sizeof(away[0]); i++) {
        trim_all(&f);
        consume(&f, away[i]);
        holds(&f, base, 0, 1);
        is(pte_level(word_at(&f, base, 0)), level[i], "back after %u/8: level %u", away[i],
           level[i]);
    }
    age_pass(&f);
    for (unsigned pass = 0; pass < 8; pass++)
        age_pass(&f);
    is(age_of(&f, base, 0), 2, "at level 2 it grows older in one pass of four");
    page_out(&f);
    consume(&f, 50);
    holds(&f, base, 0, 1);
    is(pte_level(word_at(&f, base, 0)), 0, "its history has been in the pagefile");
    is(wrong_of(&f, base, 20, 1), 0, "as has its content");
    tear_down(&f);
}

/* A pass as where hits are not seen. */
static void blind_pass(struct fixture *f)
{
    f->m->mapper->in_place = true;
    age_pass(f);
    f->m->mapper->in_place = false;
}

/* Pages among many that have been asked for are as young as these, but not if all are so many. */
static void neighbourhoods(void)
{
    struct fixture f;
    uintptr_t base;

    set_up(&f, "memory:4M,touch_window:1");
    base = map_pages(&f, 640);
    put_all(&f, base, 640, 1);
    blind_pass(&f);
    blind_pass(&f);
    is(f.m->trimmer.ages[1], 640, "nothing has been asked for: all grow old");
    put_all(&f, base, 6, 1);
    put_all(&f, base + 64 * PAGE, 5, 1);
    blind_pass(&f);
    is(age_of(&f, base, 6) + age_of(&f, base, 63), 0, "six of 64 have been: the others are young");
    is(age_of(&f, base, 69), 2, "five of the next 64 are too few");
    is(age_of(&f, base, 128), 2, "and where there is none");
    is(machine_advise(f.m, base + 8 * PAGE, 8 * PAGE, VMSM_DONTNEED), 0, "eight are to go");
    put_all(&f, base, 6, 1);
    blind_pass(&f);
    is(age_of(&f, base, 8), PTE_AGE_MAX, "neighbours that are asked for do not change that");
    put_all(&f, base, 640, 1);
    blind_pass(&f);
    put_all(&f, base, 30, 1);
    blind_pass(&f);
    is(age_of(&f, base, 63), 1, "thirty are too few where all had been on average");
    put_all(&f, base, 40, 1);
    blind_pass(&f);
    is(age_of(&f, base, 63), 2, "forty are a scan");
    put_all(&f, base, 6, 1);
    age_pass(&f);
    is(age_of(&f, base, 63), 3, "where hits are seen, only those make a page young");
    tear_down(&f);
}

int main(void)
{
    ages();
    neighbourhoods();
    levels();
    others();
    groups();
    due();
    advice();
    return done_testing();
}
