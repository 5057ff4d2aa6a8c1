/*
 * The writer: large sorted batches, and nothing lost when writes fail.
 */
#include <errno.h>

#include "machine_fixture.h"

/* Make the pages modified, in an order of the test's choice. */
static void modify(struct fixture *f, uintptr_t base, const size_t *order, size_t count)
{
    for (size_t i = 0; i < count; i++)
        put(f, base, order[i], 1);
    for (size_t i = 0; i < count; i++) {
        trim_behind_add(f->m, base + order[i] * PAGE, 1);
        trim_pages(f->m, 1);
    }
}

static void sorted(void)
{
    static const size_t order[16] = {9, 2, 30, 7, 100, 4, 61, 1, 90, 33, 8, 57, 3, 22, 5, 64};
    struct fixture f;
    uintptr_t base;
    uint32_t last = 0;
    bool in_order = true;

    set_up(&f, "write_batch:16,write_depth:1,touch_window:1,read_window:1");
    base = map_pages(&f, 128);
    is(f.m->writer.batch_pages, 16, "a batch is sixteen pages");
    modify(&f, base, order, 15);
    ok(!writer_needed(f.m) && !writer_step(f.m), "fifteen can wait");
    modify(&f, base, order + 15, 1);
    ok(writer_needed(f.m) && writer_step(f.m), "sixteen are written");
    writer_drain(f.m);
    is(switch_logged(f.store), 1, "by one write");
    is(f.store->log[0].count, 16, "of sixteen slots");
    for (size_t p = 0; p < 128; p++) {
        if (where(&f, base, p) != 's')
            continue;
        in_order = in_order && frame_at(&f, base, p)->slot == f.store->log[0].slot + last;
        last++;
    }
    ok(in_order && last == 16, "slots are in the order of addresses");
    is(counted(&f, COUNTER_pages_written), 16, "pages are counted");
    refill_standby(f.m, 16);
    for (size_t i = 0; i < 16; i++)
        ok(holds(&f, base, order[i], 1), "page %zu is read back", order[i]);
    tear_down(&f);
}

/* Where free slots are scattered, neighbours go where there is room for all of them. */
static void together(void)
{
    static const size_t order[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    struct fixture f;
    uintptr_t base;
    uint32_t slot;
    bool all = true;

    set_up(&f, "pagefile_size:1M,write_batch:16,write_depth:1,touch_window:1,read_window:1");
    base = map_pages(&f, 16);
    while (pagefile_take(f.m, 64, false, &slot) > 0)
        continue;
    for (slot = 3; slot < 100; slot += 3)
        pagefile_release(f.m, slot);
    for (slot = 200; slot < 216; slot++)
        pagefile_release(f.m, slot);
    modify(&f, base, order, 16);
    ok(writer_step(f.m), "sixteen neighbours are written");
    writer_drain(f.m);
    for (size_t p = 0; p < 16; p++)
        all = all && where(&f, base, p) == 's' && frame_at(&f, base, p)->slot == 200 + p;
    ok(all, "where they lie side by side");
    for (slot = 1; slot < 256; slot++)
        if ((slot < 200 || slot >= 216) && (slot % 3 != 0 || slot >= 100))
            pagefile_release(f.m, slot);
    tear_down(&f);
}

/* Changed pages are to go where they were, and that cannot be written: they go elsewhere. */
static void bad_homes(void)
{
    struct fixture f;
    uintptr_t base;
    uint32_t home;

    set_up(&f, "write_batch:16,touch_window:1,read_window:1");
    base = map_pages(&f, 16);
    put_all(&f, base, 16, 1);
    page_out(&f);
    home = pte_number(word_at(&f, base, 0));
    is(wrong_of(&f, base, 16, 1), 0, "sixteen pages are read back");
    put_all(&f, base, 16, 2);
    trim_all(&f);
    is(frame_at(&f, base, 4)->home, home + 4, "changed, they are to go where they were");
    f.store->bad_slot = home + 4;
    write_all(&f);
    is(pages_at(&f, base, 16, 's'), 16, "all are written");
    ok(frame_at(&f, base, 4)->slot != home + 4, "but the one whose slot cannot be is elsewhere");
    is(frame_at(&f, base, 4)->home, 0, "and is not to go there again");
    is(counted(&f, COUNTER_write_errors), 1, "one page failed once");
    page_out(&f);
    is(wrong_of(&f, base, 16, 2), 0, "all are right");
    tear_down(&f);
}

/* Where slots are scarce, unchanged pages give theirs up when they are read. */
static void scarce_slots(void)
{
    uint32_t taken[256], first;
    struct fixture f;
    unsigned n = 0;
    uintptr_t base;

    set_up(&f, "pagefile_size:1M,write_batch:8,touch_window:1,read_window:1");
    base = map_pages(&f, 16);
    put_all(&f, base, 16, 1);
    page_out(&f);
    ok(pagefile_has_plenty(f.m) && holds(&f, base, 0, 1), "with many slots free a page is read");
    ok(frame_at(&f, base, 0)->slot != 0, "and keeps its slot");
    while (n < 256 && pagefile_take(f.m, 1, false, &first) == 1)
        taken[n++] = first;
    for (unsigned i = 0; i < 7; i++)
        pagefile_release(f.m, taken[--n]);
    ok(!pagefile_has_plenty(f.m) && holds(&f, base, 1, 1), "with fewer than a batch another is");
    is(frame_at(&f, base, 1)->slot, 0, "and gives its slot up");
    slot_release_deferred(f.m);
    ok(pagefile_has_plenty(f.m) && holds(&f, base, 2, 1), "now there are enough");
    ok(frame_at(&f, base, 2)->slot != 0, "and the next keeps its own");
    while (n > 0)
        pagefile_release(f.m, taken[--n]);
    tear_down(&f);
}

static void in_flight(void)
{
    struct fixture f;
    uintptr_t base;

    set_up(&f, "write_batch:4,write_depth:3,touch_window:1");
    base = map_pages(&f, 20);
    put_all(&f, base, 20, 1);
    trim_all(&f);
    switch_hold(f.store, true);
    for (unsigned i = 0; i < 3; i++)
        ok(writer_step(f.m), "batch %u is sent", i);
    is(pages_at(&f, base, 20, 'w'), 12, "three batches are under way");
    is(f.m->writing, 12, "and counted");
    is(region_decommit(f.m, base, PAGE), 0, "a page that is being written is given back");
    is(put(&f, base, 1, 2), FAULT_DONE, "another is rescued and changed");
    switch_hold(f.store, false);
    writer_drain(f.m);
    slot_release_deferred(f.m);
    is(pages_at(&f, base, 20, 's'), 10, "the others are on standby");
    is(f.m->pagefile.slots.used, 1 + 10, "slots of those two are free");
    is(machine_check(f.m), 0, "books balanced");
    page_out(&f);
    ok(holds(&f, base, 0, 0) && holds(&f, base, 1, 2), "both are right");
    is(wrong_of(&f, base, 20, 1), 2, "so is every other");
    tear_down(&f);
}

static void bad_slot(const char *stage)
{
    struct fixture f;
    uintptr_t base;
    char conf[100];

    snprintf(conf, sizeof(conf), "stage:%s,workers:off,touch_window:1", stage);
    set_up(&f, conf);
    base = map_pages(&f, 32);
    f.store->bad_slot = 5;
    put_all(&f, base, 32, 1);
    trim_all(&f);
    write_all(&f);
    is(pages_at(&f, base, 32, 's'), 32, "%s: all pages are written", stage);
    is(f.m->pagefile.bad, 1, "%s: the slot that cannot be is withdrawn", stage);
    is(counted(&f, COUNTER_write_errors), 1, "%s: one page failed once", stage);
    ok(bitmap_test(&f.m->pagefile.slots, 5), "%s: nobody gets it again", stage);
    is(f.m->writer.failing_since, 0, "%s: the store does not count as failing", stage);
    page_out(&f);
    is(wrong_of(&f, base, 32, 1), 0, "%s: all are right", stage);
    tear_down(&f);
}

/* No write succeeds: pages stay, faults give up after patience, and it all comes right again. */
static void all_fail(const char *stage, const char *workers, int error)
{
    struct fixture f;
    struct machine *m;
    uintptr_t base;
    size_t written = 0;
    char conf[100];

    snprintf(conf, sizeof(conf), "stage:%s,workers:%s,patience:30ms", stage, workers);
    set_up(&f, conf);
    m = f.m;
    base = map_pages(&f, 1000);
    f.store->write_error = error;
    while (written < 1000 && put(&f, base, written, 1) == FAULT_DONE)
        written++;
    ok(written <= m->frame_count && written > m->frame_count / 2,
       "%s, workers %s, error %d: %zu pages fit in %u frames, then faults give up", stage, workers,
       -error, written, m->frame_count);
    ok(strstr(error_last(), "refused writes") != NULL, "in words: %s", error_last());
    ok(m->pagefile.bad <= 1, "slots are not blamed");
    is(counted(&f, COUNTER_pages_written), 0, "nothing was written");
    is(machine_check(m), 0, "books balanced");
    f.store->write_error = 0;
    m->writer.tried_at = 0;
    while (put(&f, base, written, 1) != FAULT_DONE) /* it may still be refused, by old news */
        sched_yield();
    is(m->writer.failing_since, 0, "the store works again");
    is(wrong_of(&f, base, written + 1, 1), 0, "nothing was lost");
    put_all(&f, base, 1000, 2);
    is(wrong_of(&f, base, 1000, 2), 0, "and it goes on");
    tear_down(&f);
}

/* What was read and not changed is still there while the disk is full. */
static void rescue_while_failing(void)
{
    struct fixture f;
    uintptr_t base;

    set_up(&f, "touch_window:1");
    base = map_pages(&f, 50);
    put_all(&f, base, 50, 1);
    f.store->write_error = -ENOSPC;
    trim_all(&f);
    write_all(&f);
    is(pages_at(&f, base, 50, 'm'), 50, "pages that cannot be written are modified again");
    ok(!writer_needed(f.m), "they are not tried again at once");
    is(f.m->pagefile.bad, 0, "a full disk spoils no slot");
    slot_release_deferred(f.m);
    is(f.m->pagefile.slots.used, 1, "slots are given back");
    is(wrong_of(&f, base, 50, 1), 0, "they can be rescued meanwhile");
    f.store->write_error = 0;
    page_out(&f);
    is(pages_at(&f, base, 50, 'p'), 50, "later they are written");
    is(wrong_of(&f, base, 50, 1), 0, "all are right");
    tear_down(&f);
}

/* Somebody else has nearly all slots, as if they were bad: faults lose patience then, too. */
static void no_slots(const char *stage, const char *workers)
{
    uint32_t taken[1024], first;
    struct fixture f;
    unsigned n = 0;
    uintptr_t base;
    size_t written = 0;
    char conf[100];

    snprintf(conf, sizeof(conf), "stage:%s,workers:%s,patience:30ms,pagefile_size:2M", stage,
             workers);
    set_up(&f, conf);
    base = map_pages(&f, 600);
    while (n < 1024 && pagefile_take(f.m, 1, false, &first) == 1)
        taken[n++] = first;
    while (written < 600 && put(&f, base, written, 1) == FAULT_DONE)
        written++;
    ok(written > 0 && written <= f.m->frame_count,
       "%s, workers %s: without a slot %zu pages fit in %u frames, then faults give up", stage,
       workers, written, f.m->frame_count);
    ok(f.m->writer.failing_since != 0 && strstr(error_last(), "refused writes") != NULL,
       "in words: %s", error_last());
    while (n > 0)
        pagefile_release(f.m, taken[--n]);
    f.m->writer.tried_at = 0;
    while (put(&f, base, written, 1) != FAULT_DONE) /* it may still be refused, by old news */
        sched_yield();
    is(f.m->writer.failing_since, 0, "with slots it works again");
    is(wrong_of(&f, base, written + 1, 1), 0, "nothing was lost");
    tear_down(&f);
}

/* Room on the disk for the slots that have been written, and no more: pages that change, none beside
 * another, go on being written, to slots that others have given back. */
static void full_disk(const char *stage)
{
    uint32_t taken = 0, wrong = 0;
    struct fixture f;
    uintptr_t base;
    char conf[100];
    int usual = log_descriptor();

    snprintf(conf, sizeof(conf), "stage:%s,workers:off,memory:1M,touch_window:1,read_window:1",
             stage);
    set_up(&f, conf);
    base = map_pages(&f, 128);
    put_all(&f, base, 128, 1);
    page_out(&f);
    for (size_t p = 0; p < 128; p++) {
        uint32_t slot = pte_number(word_at(&f, base, p));

        taken = slot >= taken ? slot + 1 : taken;
    }
    ok(taken > 128, "%s: 128 pages have been written", stage);
    f.store->full_from = taken;
    for (uint64_t generation = 2; generation < 6; generation++) {
        for (size_t p = 0; p < 128; p += 2)
            put(&f, base, p, generation);
        trim_all(&f);
        slot_release_deferred(f.m);
        log_use_descriptor(-1);
        for (unsigned i = 0; i < 8; i++)
            write_all(&f);
        log_use_descriptor(usual);
        is(list_count(f.m, LIST_MODIFIED), 0, "%s: a full disk takes change %u", stage,
           (unsigned)generation - 1);
        is(f.m->writer.failing_since, 0, "%s: and writes succeed", stage);
        page_out(&f);
    }
    ok(f.m->pagefile.disk_full, "%s: only slots that have blocks are used", stage);
    for (size_t p = 0; p < 128; p += 2)
        wrong += !holds(&f, base, p, 5);
    is(wrong, 0, "%s: what was changed is right", stage);
    f.store->full_from = 0;
    put_all(&f, base, 128, 6);
    page_out(&f);
    is(wrong_of(&f, base, 128, 6), 0, "%s: with room again all is written", stage);
    tear_down(&f);
}

int main(void)
{
    sorted();
    together();
    in_flight();
    bad_homes();
    scarce_slots();
    for (size_t i = 0; i < STAGES; i++) {
        bad_slot(stages[i]);
        all_fail(stages[i], "off", -EIO);
    }
    all_fail("full", "off", -ENOSPC);
    all_fail("basic", "on", -EIO);
    all_fail("full", "on", -ENOSPC);
    rescue_while_failing();
    for (size_t i = 0; i < STAGES; i++)
        no_slots(stages[i], "off");
    for (size_t i = 0; i < STAGES; i++)
        full_disk(stages[i]);
    no_slots("full", "on");
    return done_testing();
}
