/*
 * Explicit control: prefault with all reads in flight at once, and pins.
 */
#include <errno.h>

#include "machine_fixture.h"

#define RANGES 6

struct prefault {
    struct fixture f;
    struct iovec ranges[RANGES];
    int result;
};

static void *prefault(void *argument)
{
    struct prefault *p = argument;

    p->result = machine_prefault(p->f.m, p->ranges, RANGES);
    return NULL;
}

/* Six ranges that lie apart: six reads are under way before one has ended. */
static void all_at_once(const char *stage)
{
    static struct prefault p;
    uintptr_t base;
    pthread_t id;
    unsigned before;
    char conf[100];

    snprintf(conf, sizeof(conf), "stage:%s,workers:off,write_batch:512,memory:4M", stage);
    set_up(&p.f, conf);
    base = map_pages(&p.f, 120);
    put_all(&p.f, base, 120, 1);
    page_out(&p.f);
    for (unsigned i = 0; i < RANGES; i++) {
        uintptr_t at = base + i * 20 * PAGE;

        p.ranges[i] = (struct iovec){.iov_base = (void *)(at + 100), .iov_len = 4 * PAGE};
    }
    before = switch_logged(p.f.store);
    switch_hold(p.f.store, true);
    pthread_create(&id, NULL, prefault, &p);
    while (switch_logged(p.f.store) - before < RANGES)
        sched_yield();
    ok(true, "%s: six ranges, all reads in flight at once", stage);
    switch_hold(p.f.store, false);
    pthread_join(id, NULL);
    is(p.result, 0, "%s: prefaulted", stage);
    is(pages_at(&p.f, base, 120, 'a'), RANGES * 5, "%s: whole pages, and no others", stage);
    is(counted(&p.f, COUNTER_pages_read), RANGES * 5, "%s: each read once", stage);
    is(wrong_of(&p.f, base, 120, 1), 0, "%s: all are right", stage);
    tear_down(&p.f);
}

static void every_state(void)
{
    struct fixture f;
    struct iovec range;
    uintptr_t base;

    set_up(&f, "touch_window:1,read_window:1");
    base = map_pages(&f, 40);
    range = (struct iovec){.iov_base = (void *)base, .iov_len = 40 * PAGE};
    put_all(&f, base, 10, 1);
    page_out(&f);
    put_all(&f, base + 10 * PAGE, 10, 1);
    trim_all(&f);
    write_all(&f);
    put_all(&f, base + 20 * PAGE, 10, 1);
    trim_all(&f);
    is(pages_at(&f, base, 40, 'p') + pages_at(&f, base, 40, 's') + pages_at(&f, base, 40, 'm') +
           pages_at(&f, base, 40, 'u'),
       40, "pages in the pagefile, on standby, modified and untouched");
    is(machine_prefault(f.m, &range, 1), 0, "prefaulted");
    is(pages_at(&f, base, 40, 'a'), 40, "all are active");
    ok(wrong_of(&f, base, 10, 1) + wrong_of(&f, base + 10 * PAGE, 10, 1) +
               wrong_of(&f, base + 20 * PAGE, 10, 1) + wrong_of(&f, base + 30 * PAGE, 10, 0) ==
           0,
       "and right");
    is(machine_prefault(f.m, NULL, 0), 0, "no range is fine");
    is(machine_prefault(f.m, &range, -1), -EINVAL, "fewer are not");
    range.iov_len = 41 * PAGE;
    is(machine_prefault(f.m, &range, 1), -EINVAL, "nor is what is not mapped");
    tear_down(&f);
}

/* One page cannot be read: that is said, and the others are had. */
static void one_broken(void)
{
    struct fixture f;
    struct iovec range;
    uintptr_t base;

    set_up(&f, "touch_window:1");
    base = map_pages(&f, 30);
    put_all(&f, base, 30, 1);
    page_out(&f);
    f.store->corrupt_slot = pte_number(word_at(&f, base, 12));
    range = (struct iovec){.iov_base = (void *)base, .iov_len = 30 * PAGE};
    is(machine_prefault(f.m, &range, 1), -EIO, "a broken page is told");
    is(pages_at(&f, base, 30, 'a'), 29, "all others are there");
    is(where(&f, base, 12), 'p', "it is where it was");
    is(machine_pin(f.m, base, 30 * PAGE), -EIO, "it cannot be pinned");
    is(f.m->pinned, 0, "and then nothing is");
    f.store->corrupt_slot = 0;
    is(machine_prefault(f.m, &range, 1), 0, "when it can be read it is");
    is(machine_pin(f.m, base, 30 * PAGE), 0, "and pinned");
    is(machine_unpin(f.m, base, 30 * PAGE), 0, "and unpinned");
    is(wrong_of(&f, base, 30, 1), 0, "all are right");
    tear_down(&f);
}

static void beyond_memory(const char *stage)
{
    struct fixture f;
    struct iovec range;
    uintptr_t base;
    char conf[100];

    snprintf(conf, sizeof(conf), "stage:%s,workers:off", stage);
    set_up(&f, conf);
    base = map_pages(&f, 600);
    put_all(&f, base, 600, 1);
    range = (struct iovec){.iov_base = (void *)base, .iov_len = 600 * PAGE};
    is(machine_prefault(f.m, &range, 1), 0, "%s: more than memory can be prefaulted", stage);
    is(machine_advise(f.m, base, 600 * PAGE, VMSM_WILLNEED), 0, "%s: or advised", stage);
    is(wrong_of(&f, base, 600, 1), 0, "%s: all are right", stage);
    tear_down(&f);
}

static void pins(void)
{
    struct fixture f;
    uintptr_t base;
    size_t most;

    set_up(&f, "touch_window:1,read_window:1");
    most = f.m->active_max - f.m->active_max / 8 - 1;
    base = map_pages(&f, 600);
    put_all(&f, base, 600, 1);
    is(machine_pin(f.m, base + 100, 10), 0, "a part of a page is pinned");
    ok((word_at(&f, base, 0) & PTE_PINNED) && frame_at(&f, base, 0)->pins == 1, "the whole page");
    is(machine_pin(f.m, base, 2 * PAGE), 0, "pins nest");
    is(frame_at(&f, base, 0)->pins, 2, "and are counted");
    is(f.m->pinned, 3, "for the machine too");
    is(machine_unpin(f.m, base, 3 * PAGE), -EINVAL, "what is not pinned cannot be unpinned");
    is(frame_at(&f, base, 0)->pins, 2, "nor anything with it");
    is(machine_pin(f.m, base, 0), -EINVAL, "nothing cannot be pinned");
    is(machine_pin(f.m, base + 599 * PAGE, 2 * PAGE), -EINVAL, "nor what is not mapped");
    is(machine_unpin(f.m, base, -PAGE), -EINVAL, "nor unpinned");
    is(machine_pin(f.m, base, (most - 2) * PAGE), -ENOMEM, "an eighth must stay free");
    is(f.m->pinned, 3, "a refusal changes nothing");
    is(machine_pin(f.m, base + 10 * PAGE, (most - 3) * PAGE), 0, "up to there it works");
    is(wrong_of(&f, base, 600, 1), 0, "the others have little room, but enough");
    is(pages_at(&f, base + 10 * PAGE, most - 3, 'a'), most - 3, "pinned pages never left");
    is(machine_check(f.m), 0, "books balanced");
    is(machine_unpin(f.m, base + 10 * PAGE, (most - 3) * PAGE), 0, "unpinned");
    is(machine_unpin(f.m, base, PAGE) + machine_unpin(f.m, base, 2 * PAGE), 0, "these too");
    ok(f.m->pinned == 0 && !(word_at(&f, base, 0) & PTE_PINNED), "nothing is pinned");
    is(region_unmap(f.m, base, 600 * PAGE), 0, "and all can be unmapped");
    tear_down(&f);
}

/* While a pin is under way, and is going to fail, another thread takes off one of its pins. */
static struct {
    struct fixture f;
    uintptr_t base;
    pte_t *second; /* the PTE of page 1 */
    bool armed;
    int error;
} meddle;

static void *unpin_first(void *argument)
{
    (void)argument;
    meddle.error = machine_unpin(meddle.f.m, meddle.base, PAGE);
    return NULL;
}

static void unpin_between(struct sync *s, enum sync_point point)
{
    pthread_t id;

    (void)s;
    if (!meddle.armed || point != SYNC_AT_UNLOCK ||
        (pte_load(meddle.second) & (PTE_PINNED | PTE_BUSY)) != PTE_PINNED)
        return;
    meddle.armed = false;
    if (pthread_create(&id, NULL, unpin_first, NULL) == 0)
        pthread_join(id, NULL);
}

static void failing_pin(void)
{
    struct sync_backend backend = sync_backend_linux;
    struct machine *m;

    set_up(&meddle.f, "touch_window:1");
    m = meddle.f.m;
    meddle.base = map_pages(&meddle.f, 4);
    meddle.second = pte_at(&meddle.f, meddle.base, 1);
    put_all(&meddle.f, meddle.base, 4, 1);
    is(machine_pin(m, meddle.base + 3 * PAGE, PAGE), 0, "the last page is pinned");
    frame_at(&meddle.f, meddle.base, 3)->pins = UINT16_MAX; /* as often as can be */
    backend.yield = unpin_between;
    m->sync.backend = &backend;
    meddle.armed = true;
    is(machine_pin(m, meddle.base, 4 * PAGE), -EOVERFLOW, "pinning all fails");
    m->sync.backend = &sync_backend_linux;
    ok(strstr(error_last(), "65535 times") != NULL, "in words: %s", error_last());
    ok(!meddle.armed && meddle.error == 0, "one of the pins had been taken off before");
    is(m->pinned, 1, "the others are undone, and each is counted once");
    for (size_t p = 0; p < 3; p++)
        ok(!(word_at(&meddle.f, meddle.base, p) & PTE_PINNED), "page %zu is not pinned", p);
    frame_at(&meddle.f, meddle.base, 3)->pins = 1;
    is(machine_unpin(m, meddle.base + 3 * PAGE, PAGE), 0, "the last is unpinned");
    tear_down(&meddle.f);
}

int main(void)
{
    all_at_once("full");
    all_at_once("single");
    every_state();
    one_broken();
    for (size_t i = 0; i < STAGES; i++)
        beyond_memory(stages[i]);
    pins();
    failing_pin();
    return done_testing();
}
