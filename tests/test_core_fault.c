/*
 * Every kind of fault: first touch, the three rescues, hard faults that are verified, and many
 * threads on one page.
 */
#include <errno.h>

#include "machine_fixture.h"

#define THREADS 8u

static void stage_up(struct fixture *f, const char *stage, const char *more)
{
    char conf[200];

    snprintf(conf, sizeof(conf), "stage:%s,workers:off%s", stage, more);
    set_up(f, conf);
}

static void first_touch(const char *stage)
{
    struct fixture f;
    uintptr_t base;
    size_t ahead;

    stage_up(&f, stage, "");
    base = map_pages(&f, 64);
    is(fault_at(&f, base, 3, 1), FAULT_DONE, "%s: a first touch is served", stage);
    is(where(&f, base, 3), 'a', "%s: the page is active", stage);
    is(frame_at(&f, base, 3)->slot, 0, "%s: it has no slot", stage);
    ahead = pages_at(&f, base, 64, 'a') - 1;
    ok(f.m->tunables.batching ? ahead > 0 : ahead == 0, "%s: %zu pages are mapped ahead", stage,
       ahead);
    is(f.m->touched, ahead + 1, "%s: touched pages are counted", stage);
    put(&f, base, 3, 1);
    is(region_decommit(f.m, base, 64 * PAGE), 0, "%s: frames go back", stage);
    is(wrong_of(&f, base, 64, 0), 0, "%s: used frames are zero again", stage);
    is(fault_at(&f, base, 3, 1), FAULT_DONE, "%s: a fault on a valid page is served", stage);
    is(counted(&f, COUNTER_faults_stale), 1, "%s: and counted as stale", stage);
    is(fault_resolve(f.m, 4096, 0, 1), FAULT_OUTSIDE, "%s: an address of nobody is outside", stage);
    if (f.m->tunables.batching)
        ok(counted(&f, COUNTER_faults_first_touch) < 30, "%s: a fill takes %llu faults", stage,
           (unsigned long long)counted(&f, COUNTER_faults_first_touch));
    tear_down(&f);
}

static void rescues(const char *stage)
{
    struct fixture f;
    uintptr_t base;
    uint64_t used;

    stage_up(&f, stage, ",touch_window:1,read_window:1");
    base = map_pages(&f, 8);
    put(&f, base, 0, 1);
    trim_all(&f);
    is(where(&f, base, 0), 'm', "%s: trimmed, it is modified", stage);
    ok(holds(&f, base, 0, 1), "%s: it is rescued from there", stage);
    is(counted(&f, COUNTER_faults_modified), 1, "%s: and counted", stage);
    trim_all(&f);
    write_all(&f);
    is(where(&f, base, 0), 's', "%s: written, it is on standby", stage);
    ok(holds(&f, base, 0, 1), "%s: it is rescued from there", stage);
    is(counted(&f, COUNTER_faults_standby), 1, "%s: and counted", stage);
    is(frame_at(&f, base, 0)->slot != 0, f.m->tunables.preserve, "%s: its slot is kept, or not",
       stage);
    put(&f, base, 0, 2);
    trim_all(&f);
    slot_release_deferred(f.m);
    used = f.m->pagefile.slots.used;
    switch_hold(f.store, true);
    atomic_fetch_add(&f.m->waiting, 1);
    writer_step(f.m);
    atomic_fetch_sub(&f.m->waiting, 1);
    is(where(&f, base, 0), 'w', "%s: changed and trimmed, it is being written", stage);
    ok(holds(&f, base, 0, 2), "%s: it is rescued without waiting for the write", stage);
    is(counted(&f, COUNTER_faults_writing), 1, "%s: and counted", stage);
    put(&f, base, 0, 3);
    switch_hold(f.store, false);
    writer_drain(f.m);
    slot_release_deferred(f.m);
    is(where(&f, base, 0), 'a', "%s: the end of the write leaves it alone", stage);
    is(f.m->pagefile.slots.used, used, "%s: the slot is given back", stage);
    page_out(&f);
    ok(holds(&f, base, 0, 3), "%s: what was written meanwhile is what counts", stage);
    is(counted(&f, COUNTER_faults_hard), 1, "%s: this time it was read", stage);
    tear_down(&f);
}

/* Trimmed again and being written again, while the first write of it is still under way. */
static void rescued_twice(void)
{
    struct fixture f;
    uintptr_t base;

    set_up(&f, "touch_window:1,read_window:1,write_batch:1,write_depth:2");
    base = map_pages(&f, 8);
    switch_hold(f.store, true);
    for (uint64_t generation = 1; generation <= 2; generation++) {
        put(&f, base, 0, generation);
        trim_all(&f);
        writer_step(f.m);
        is(where(&f, base, 0), 'w', "write %llu is under way", (unsigned long long)generation);
    }
    is(switch_logged(f.store), 2, "two writes of one page are");
    ok(f.store->log[0].slot != f.store->log[1].slot, "to two slots");
    switch_hold(f.store, false);
    writer_drain(f.m);
    page_out(&f);
    ok(holds(&f, base, 0, 2), "the newer one counts");
    tear_down(&f);
}

static void verified(const char *stage)
{
    struct fixture f;
    uintptr_t base;
    uint64_t reads;

    stage_up(&f, stage, ",touch_window:1");
    base = map_pages(&f, 16);
    put_all(&f, base, 16, 1);
    page_out(&f);
    f.store->corrupt_slot = pte_number(word_at(&f, base, 5));
    is(fault_at(&f, base, 5, 0), FAULT_FAILED, "%s: altered content is refused", stage);
    ok(strstr(error_last(), "hash differs") != NULL, "%s: in words: %s", stage, error_last());
    is(counted(&f, COUNTER_hash_errors), 3, "%s: after three attempts", stage);
    is(counted(&f, COUNTER_pages_lost), 1, "%s: one page is lost", stage);
    reads = counted(&f, COUNTER_read_ios);
    is(fault_at(&f, base, 5, 0), FAULT_FAILED, "%s: it stays so", stage);
    is(counted(&f, COUNTER_read_ios), reads, "%s: without another read", stage);
    is(wrong_of(&f, base, 5, 1), 0, "%s: its neighbours are right", stage);
    ok(holds(&f, base, 6, 1), "%s: on both sides", stage);
    is(fault_resolve(f.m, base + 5 * PAGE, FAULT_EXPLICIT, 0), FAULT_FAILED,
       "%s: asked for explicitly it is tried again", stage);
    f.store->corrupt_slot = 0;
    is(fault_resolve(f.m, base + 5 * PAGE, FAULT_EXPLICIT, 0), FAULT_DONE,
       "%s: and is had when it can be read", stage);
    is(wrong_of(&f, base, 16, 1), 0, "%s: all is right", stage);
    tear_down(&f);
}

/* The reads of faults that are begun one after another are sent with one call, in order. */
static void sent_together(void)
{
    struct fixture f;
    struct fault_queue *queue;
    uint64_t sent;
    uintptr_t base;

    set_up(&f, "memory:4M,touch_window:1,read_window:1");
    base = map_pages(&f, 64);
    put_all(&f, base, 64, 1);
    page_out(&f);
    sent = counted(&f, COUNTER_read_submits);
    queue = fault_queue_get(f.m);
    fault_queue_enter(f.m, queue);
    for (size_t p = 0; p < 10; p++)
        fault_begin(f.m, queue, base + p * 5 * PAGE, 0, 1, sync_now(&f.m->sync));
    is(queue->in_flight, 10, "ten faults need a read");
    is(counted(&f, COUNTER_read_submits), sent, "none is sent yet");
    while (queue->in_flight > 0)
        fault_reap(f.m, queue, true, NULL);
    is(counted(&f, COUNTER_read_submits), sent + 1, "all are sent with one call");
    for (size_t p = 1; p < 30; p++)
        fault_begin(f.m, queue, base + (p * 2 + p % 2) * PAGE, 0, 1, sync_now(&f.m->sync));
    ok(queue->unsent_count <= FAULT_UNSENT_MAX && queue->in_flight > FAULT_UNSENT_MAX,
       "so many that %u of %u wait to be sent", queue->unsent_count, queue->in_flight);
    ok(counted(&f, COUNTER_read_submits) > sent + 1, "the first are sent before the last is begun");
    while (queue->in_flight > 0)
        fault_reap(f.m, queue, true, NULL);
    fault_queue_leave(f.m, queue);
    fault_queue_put(f.m, queue);
    is(wrong_of(&f, base, 64, 1), 0, "all is right");
    tear_down(&f);
}

/* Read errors: one that passes is not noticed, one that stays is the page's alone. */
static void read_errors(void)
{
    struct fixture f;
    struct fault_queue *queue;
    unsigned failed = 0;
    uintptr_t base;

    set_up(&f, "memory:4M,touch_window:1");
    base = map_pages(&f, 16);
    put_all(&f, base, 16, 1);
    page_out(&f);
    queue = fault_queue_get(f.m);
    fault_queue_enter(f.m, queue);
    f.store->read_error_once = -EIO;
    is(fault_begin(f.m, queue, base, 0, 1, sync_now(&f.m->sync)), FAULT_PENDING,
       "a read is prepared");
    is(fault_reap(f.m, queue, true, &failed), 1, "sent, it fails; sent again, it succeeds");
    is(failed, 0, "and so does the fault");
    fault_queue_leave(f.m, queue);
    fault_queue_put(f.m, queue);
    ok(counted(&f, COUNTER_read_retries) > 0 && holds(&f, base, 0, 1), "the page is right");
    f.store->read_error = -EIO;
    is(fault_at(&f, base, 9, 1), FAULT_FAILED, "with errors that stay the fault fails");
    ok(strstr(error_last(), "input/output error") != NULL, "in words: %s", error_last());
    f.store->read_error = 0;
    is(wrong_of(&f, base + 10 * PAGE, 0, 1), 0, "nobody else");
    for (size_t p = 0; p < 16; p++) {
        if (p != 9 && !holds(&f, base, p, 1))
            ok(false, "page %zu, read ahead in vain, can be had", p);
    }
    is(counted(&f, COUNTER_pages_lost), 1, "one page is lost");
    is(f.m->pagefile.bad, 0, "it keeps its slot, as long as it may be tried again");
    is(region_decommit(f.m, base + 9 * PAGE, PAGE), 0, "given up, it can be decommitted");
    is(f.m->pagefile.bad, 1, "and its slot is never used again");
    ok(holds(&f, base, 9, 0), "the page begins anew");
    tear_down(&f);
}

struct crowd {
    struct fixture f;
    uintptr_t base;
    _Atomic unsigned right;
};

static void *join_crowd(void *argument)
{
    struct crowd *c = argument;

    c->right += holds(&c->f, c->base, 0, 1);
    return NULL;
}

/* The read is held until all others have found the page busy. */
static void crowd(const char *stage)
{
    static struct crowd c;
    pthread_t ids[THREADS];
    unsigned before;

    c.right = 0;
    stage_up(&c.f, stage, ",read_window:1,touch_window:1");
    c.base = map_pages(&c.f, 8);
    put(&c.f, c.base, 0, 1);
    page_out(&c.f);
    before = switch_logged(c.f.store);
    switch_hold(c.f.store, true);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_create(&ids[i], NULL, join_crowd, &c);
    while (counted(&c.f, COUNTER_faults_busy) < THREADS - 1)
        sched_yield();
    switch_hold(c.f.store, false);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(ids[i], NULL);
    is(c.right, THREADS, "%s: %u threads read the page right", stage, THREADS);
    is(switch_logged(c.f.store) - before, 1, "%s: by one read", stage);
    is(counted(&c.f, COUNTER_faults_hard), 1, "%s: one had the hard fault", stage);
    tear_down(&c.f);
}

/* dirty:protect: the first write to a page that has a slot faults, and gives the slot back. */
static void protection(void)
{
    struct fixture f;
    uintptr_t base;

    set_up(&f, "dirty:protect,touch_window:1,read_window:1");
    base = map_pages(&f, 4);
    put_all(&f, base, 4, 1);
    page_out(&f);
    is(wrong_of(&f, base, 4, 1), 0, "pages are read back");
    ok(word_at(&f, base, 0) & PTE_PROTECTED, "protected");
    put(&f, base, 0, 2);
    is(counted(&f, COUNTER_faults_protect), 1, "the first write faults");
    put(&f, base, 0, 3);
    is(counted(&f, COUNTER_faults_protect), 1, "the second does not");
    is(frame_at(&f, base, 0)->slot, 0, "the slot is given back");
    trim_all(&f);
    ok(where(&f, base, 0) == 'm' && where(&f, base, 1) == 's', "changed and unchanged are told");
    page_out(&f);
    ok(holds(&f, base, 0, 3) && holds(&f, base, 1, 1), "both are right");
    tear_down(&f);
}

/* A clock that the test moves. */
static _Atomic uint64_t clock_ns = 1;

static uint64_t test_clock(struct sync *s)
{
    (void)s;
    return clock_ns;
}

static void *join_late(void *argument)
{
    struct crowd *c = argument;

    c->right += fault_at(&c->f, c->base, 0, 1) == FAULT_DONE;
    return NULL;
}

/* The time of a fault is counted from the trap on, with the time that it waits for a frame. */
static void timed(void)
{
    struct sync_backend backend = sync_backend_linux;
    static struct crowd c;
    pthread_t id;
    unsigned all;

    set_up(&c.f, "touch_window:1,read_window:1");
    backend.now = test_clock;
    c.f.m->sync.backend = &backend;
    c.base = map_pages(&c.f, 1);
    c.right = 0;
    all = frame_reserve(c.f.m, c.f.m->frame_count);
    pthread_create(&id, NULL, join_late, &c);
    while (counted(&c.f, COUNTER_fault_waits) == 0)
        sched_yield();
    clock_ns += 1000000000;
    frame_unreserve(c.f.m, all);
    pthread_join(id, NULL);
    is(c.right, 1, "a fault waits for a frame, and is served");
    ok(c.f.m->counters->faults[FAULT_KIND_FIRST_TOUCH].max >= 1000000000,
       "the wait is part of its time");
    c.f.m->sync.backend = &sync_backend_linux;
    tear_down(&c.f);
}

/* A mapper that counts who wakes the page at `watched`. */
static struct mapper_ops counting;
static uintptr_t watched;
static unsigned wakes;

static void wake_counted(struct mapper *mapper, uintptr_t va, size_t length)
{
    (void)mapper;
    wakes += watched >= va && watched < va + length;
}

static int open_counting(struct sync *sync, const struct mapper_options *options,
                         struct mapper **mapper)
{
    int error = mapper_soft_open(sync, options, mapper);

    if (error != 0)
        return error;
    counting = *(*mapper)->ops;
    counting.wake = wake_counted;
    (*mapper)->ops = &counting;
    return 0;
}

/* However a fault ends, its thread is woken: nobody else would do it. */
static void woken(void)
{
    struct fixture f;
    uint64_t word;
    pte_t *pte;

    set_up_mapper(&f, "touch_window:1", open_counting);
    watched = map_pages(&f, 4);
    put(&f, watched, 0, 1);
    wakes = 0;
    is(fault_resolve(f.m, watched, FAULT_TRAP, 1), FAULT_DONE, "a fault on a page that is there");
    is(wakes, 1, "wakes its thread");
    fault_give_up(f.m, watched);
    is(wakes, 2, "so does one that is given up when the page has come");
    ok(holds(&f, watched, 0, 1), "which does no harm to the page");
    pte = pte_at(&f, watched, 0);
    word = pte_load(pte);
    ok(pte_try_busy(&f.m->sync, pte, word), "somebody owns the page");
    fault_give_up(f.m, watched);
    is(wakes, 3, "so does one that is given up meanwhile");
    pte_release(f.m, pte, watched, word);
    is(region_unmap(f.m, watched, 4 * PAGE), 0, "the region goes");
    fault_give_up(f.m, watched);
    is(wakes, 4, "so does one that is given up where nothing is any more");
    tear_down(&f);
}

int main(void)
{
    for (size_t i = 0; i < STAGES; i++) {
        first_touch(stages[i]);
        rescues(stages[i]);
        verified(stages[i]);
        crowd(stages[i]);
    }
    rescued_twice();
    sent_together();
    read_errors();
    protection();
    timed();
    woken();
    return done_testing();
}
