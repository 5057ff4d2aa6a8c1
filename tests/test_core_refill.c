/*
 * The refiller: frames come from standby, the least valuable first, and slots are released
 * together.
 */
#include "machine_fixture.h"

/* Ten pages on standby at each priority: pages 10 * p to 10 * p + 9. */
static uintptr_t on_standby(struct fixture *f)
{
    uintptr_t base = map_pages(f, 10 * STANDBY_PRIORITIES);

    put_all(f, base, 10 * STANDBY_PRIORITIES, 1);
    machine_advise(f->m, base, 10 * PAGE, VMSM_DONTNEED);
    for (size_t p = 20; p < 10 * STANDBY_PRIORITIES; p++) {
        uint64_t word = word_at(f, base, p);

        pte_cas(&f->m->sync, pte_at(f, base, p), &word,
                word | (uint64_t)(p / 10 - 1) << PTE_LEVEL_SHIFT);
    }
    trim_all(f);
    write_all(f);
    return base;
}

static void priorities(const char *stage)
{
    struct fixture f;
    uintptr_t base;
    uint32_t slots[10];
    char conf[100];

    snprintf(conf, sizeof(conf), "stage:%s,workers:off,touch_window:1,read_window:1", stage);
    set_up(&f, conf);
    base = on_standby(&f);
    for (unsigned p = 0; p < STANDBY_PRIORITIES; p++)
        is(list_count(f.m, LIST_STANDBY + p), 10, "%s: ten pages at priority %u", stage, p);
    for (size_t p = 0; p < 10; p++)
        slots[p] = frame_at(&f, base, p)->slot;
    for (unsigned done = 0; done < 15;)
        done += refill_standby(f.m, 15 - done);
    is(pages_at(&f, base, 10, 'p'), 10, "%s: the lowest go first", stage);
    is(pages_at(&f, base + 10 * PAGE, 10, 'p'), 5, "%s: then the next", stage);
    is(pages_at(&f, base + 20 * PAGE, 20, 's'), 20, "%s: the others stay", stage);
    for (size_t p = 0; p < 10; p++) {
        if (pte_number(word_at(&f, base, p)) != slots[p])
            ok(false, "%s: page %zu is in its slot", stage, p);
    }
    is(f.m->available, f.m->frame_count - 40 + 15, "%s: frames may be had again", stage);
    is(counted(&f, COUNTER_pages_repurposed), 15, "%s: they are counted", stage);
    is(wrong_of(&f, base, 40, 1), 0, "%s: all are read back, or rescued", stage);
    is(counted(&f, COUNTER_pages_read), 15, "%s: fifteen were read", stage);
    tear_down(&f);
}

/* A page that somebody is busy with is being rescued: it is passed over. */
static void busy(void)
{
    struct fixture f;
    uintptr_t base;
    uint64_t word;

    set_up(&f, "touch_window:1,read_window:1");
    base = map_pages(&f, 5);
    put_all(&f, base, 5, 1);
    trim_all(&f);
    write_all(&f);
    word = word_at(&f, base, 0);
    ok(pte_try_busy(&f.m->sync, pte_at(&f, base, 0), word), "the first page is busy");
    is(refill_standby(f.m, 5), 4, "the four others are taken");
    is(word_at(&f, base, 0), word | PTE_BUSY, "it is left alone");
    is(frame_at(&f, base, 0)->state, FRAME_STANDBY, "on standby");
    is(refill_standby(f.m, 5), 0, "there is nothing else");
    pte_release(f.m, pte_at(&f, base, 0), base, word);
    is(refill_standby(f.m, 5), 1, "then it goes too");
    is(wrong_of(&f, base, 5, 1), 0, "all are right");
    tear_down(&f);
}

static void steps(void)
{
    struct fixture f;
    struct machine *m;
    uintptr_t base;
    unsigned held;

    set_up(&f, "touch_window:1");
    m = f.m;
    ok(!refill_needed(m) && !refill_step(m), "with frames enough there is nothing to do");
    base = map_pages(&f, 60);
    put_all(&f, base, 60, 1);
    trim_all(&f);
    write_all(&f);
    ok(!refill_needed(m), "standby alone is no reason");
    held = frame_reserve(m, m->frame_count - 60);
    ok(refill_needed(m), "no frame is free: now it is needed");
    refill_step(m);
    ok(m->available > 0 && !refill_needed(m), "a step makes %d available", (int)m->available);
    ok(standby_count(m) > 30, "and no more than a few");
    frame_unreserve(m, held);
    is(wrong_of(&f, base, 60, 1), 0, "all are right");
    tear_down(&f);
}

/* More slots than the ring holds: the rest is released at once, none is lost. */
static void slots(const char *conf, bool deferred)
{
    struct fixture f;
    uint32_t first;
    unsigned taken = 0;
    uint64_t used;

    set_up(&f, conf);
    while (taken < SLOT_RING + 100) {
        unsigned got = pagefile_take(f.m, 200, false, &first);

        for (unsigned i = 0; i < got; i++)
            slot_release(f.m, first + i);
        if (got == 0)
            break;
        taken += got;
    }
    used = f.m->pagefile.slots.used;
    is(used, 1 + (deferred ? SLOT_RING : 0), "%s: slots wait, as many as the ring holds", conf);
    slot_release_deferred(f.m);
    is(f.m->pagefile.slots.used, 1, "%s: then all are free", conf);
    is(counted(&f, COUNTER_slots_released), taken, "%s: each was released once", conf);
    tear_down(&f);
}

int main(void)
{
    for (size_t i = 0; i < STAGES; i++)
        priorities(stages[i]);
    busy();
    steps();
    slots("pagefile_size:16M,deferred:on", true);
    slots("pagefile_size:16M,deferred:off", false);
    return done_testing();
}
