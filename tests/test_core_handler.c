/*
 * The loop of a handler thread, fed by the test: what it does while it has reads in flight.
 */
#include "machine_fixture.h"
#include "trap/handler.h"

/* The test's side of the handler; it is the source of its faults. */
static struct {
    struct fixture f;
    uintptr_t base;
    struct handler h;
    _Atomic unsigned given;          /* faults to take: pages from the first on */
    _Atomic unsigned taken;          /* the handler's */
    _Atomic unsigned sleeps;         /* times that the handler has gone to sleep */
    _Atomic unsigned wakes;          /* times that it has been woken */
    _Atomic unsigned idle_in_check;  /* times that it looked for faults with a read in flight while
                                       a check waited: such a sleep ends at once */
    _Atomic unsigned idle_with_read; /* times that it went to sleep with something to map */
    struct handler other;            /* the spare, where the handler is not it */
    _Atomic unsigned watched, left;  /* times that faults were to wake the spare, or no more */
    _Atomic unsigned sleeps_left;    /* how often it had slept then */
    _Atomic unsigned left_behind; /* times that it went to sleep as a spare, and a fault waited */
    _Atomic bool end;
} scene;

static unsigned take(struct handler *h, struct pending_fault *faults, unsigned max)
{
    unsigned n = 0;

    (void)h;
    for (; n < max && scene.taken < scene.given; n++)
        faults[n] = (struct pending_fault){.va = scene.base + scene.taken++ * PAGE, .thread = 1};
    return n;
}

static bool sleep_until_woken(struct handler *h)
{
    unsigned mine = ++scene.sleeps;

    scene.idle_in_check += scene.f.m->gate_closing != 0 && h->queue.in_flight > 0;
    scene.idle_with_read += fault_queue_read(&h->queue);
    scene.left_behind += scene.left > 0 && scene.taken < scene.given;
    while (scene.wakes < mine && !scene.end)
        sched_yield();
    return scene.end;
}

/* A fault has woken the spare just before it is to be woken no more. */
static bool attend(struct handler *spare, bool on)
{
    (void)spare;
    if (on) {
        scene.watched++;
        return true;
    }
    scene.sleeps_left = scene.sleeps;
    scene.given++;
    scene.left++;
    return true;
}

static void *run_handler(void *argument)
{
    (void)argument;
    handler_run(&scene.h);
    return NULL;
}

static void *check_books(void *argument)
{
    *(int *)argument = machine_check(scene.f.m);
    return NULL;
}

static void prepare_scene(const char *conf, size_t pages)
{
    static const struct handler_source source = {
        .take = take, .sleep = sleep_until_woken, .attend = attend};

    memset(&scene, 0, sizeof(scene));
    set_up(&scene.f, conf);
    scene.base = map_pages(&scene.f, pages);
    scene.h.m = scene.f.m;
    scene.h.source = &source;
    is(fault_queue_open(scene.f.m, &scene.h.queue), 0, "a handler");
}

static void page_all_out(size_t pages)
{
    put_all(&scene.f, scene.base, pages, 1);
    page_out(&scene.f);
}

static pthread_t start_handler(void)
{
    pthread_t id;

    pthread_create(&id, NULL, run_handler, NULL);
    return id;
}

/* All pages are in the pagefile; a handler runs. */
static pthread_t open_scene(const char *conf, size_t pages)
{
    prepare_scene(conf, pages);
    page_all_out(pages);
    return start_handler();
}

static void close_scene(pthread_t id)
{
    scene.end = true;
    pthread_join(id, NULL);
    fault_queue_close(scene.f.m, &scene.h.queue);
    tear_down(&scene.f);
}

/* A check waits for a read in flight, and new faults wait for the check: the handler sleeps until
 * the read is done, for nothing else would help. */
static void check_waits_for_read(void)
{
    pthread_t handler, checker;
    int result = -1;

    handler = open_scene("touch_window:1,read_window:1", 8);
    switch_hold(scene.f.store, true);
    scene.given = 1;
    while (scene.sleeps == 0)
        sched_yield();
    scene.wakes++; /* it has looked in vain, now there is a fault, or it has taken that already */
    while (scene.taken == 0 || scene.sleeps < 2)
        sched_yield();
    is(scene.h.queue.in_flight, 1, "a read is in flight");
    pthread_create(&checker, NULL, check_books, &result);
    while (scene.f.m->gate_closing == 0)
        sched_yield();
    scene.given = 2;
    scene.wakes = 1000; /* a fault that is not taken ends every sleep */
    while (scene.f.store->sleepers == 0 && scene.idle_in_check == 0)
        sched_yield();
    is(scene.idle_in_check, 0, "a handler that may take no faults sleeps until it is done");
    switch_hold(scene.f.store, false);
    pthread_join(checker, NULL);
    is(result, 0, "then the check is made");
    while (where(&scene.f, scene.base, 1) != 'a')
        sched_yield();
    ok(true, "then the next fault is served");
    close_scene(handler);
}

/* A clock that the test moves. */
static _Atomic uint64_t clock_ns = 1;

static uint64_t test_clock(struct sync *s)
{
    (void)s;
    return clock_ns;
}

/* The time of a fault is counted from when it was taken, with the time in the backlog. */
static void backlog_is_timed(void)
{
    struct sync_backend backend = sync_backend_linux;
    struct histogram *hard;
    pthread_t handler;
    unsigned all;

    handler = open_scene("touch_window:1,read_window:1", 8);
    hard = &scene.f.m->counters->faults[FAULT_KIND_HARD];
    backend.now = test_clock;
    while (scene.sleeps == 0)
        sched_yield();
    scene.f.m->sync.backend = &backend; /* it sleeps in the test's own function */
    all = frame_reserve(scene.f.m, scene.f.m->frame_count);
    scene.given = 1;
    scene.wakes = 1000;
    while (counted(&scene.f, COUNTER_fault_waits) == 0)
        sched_yield();
    clock_ns += 1000000000;
    frame_unreserve(scene.f.m, all);
    while (hard->count == 0)
        sched_yield();
    ok(hard->max >= 1000000000, "the wait for a frame is part of a fault's time");
    scene.end = true;
    close_scene(handler);
}

/* It looks for faults between the runs of a window, but does not sleep while some can be mapped. */
static void maps_all(void)
{
    pthread_t handler = open_scene("memory:64M", 300);

    machine_advise(scene.f.m, scene.base, 300 * PAGE, VMSM_SEQUENTIAL);
    switch_hold(scene.f.store, true);
    scene.given = 1;
    scene.wakes = 1;
    while (scene.sleeps < 2) /* all reads of the window have been sent, and come back at once */
        sched_yield();
    switch_hold(scene.f.store, false);
    scene.wakes = 1000000;
    while (pages_at(&scene.f, scene.base, 300, 'a') < 2 * RUN_MAX)
        sched_yield();
    is(scene.idle_with_read, 0, "a handler maps all that has been read before it sleeps");
    close_scene(handler);
}

/* ---- the spare ---- */

static void wait_for_sleeps(unsigned sleeps)
{
    while (scene.sleeps <= sleeps)
        sched_yield();
}

/* A handler that does nothing but first touches calls the spare, once. */
static void calls_spare(void)
{
    pthread_t handler;

    prepare_scene("touch_window:1,read_window:1", 2 * HANDLER_BACKLOG);
    scene.h.spare = &scene.other;
    scene.h.judged_after = HANDLER_BACKLOG;
    scene.given = HANDLER_BACKLOG;
    handler = start_handler();
    wait_for_sleeps(0);
    is(scene.watched, 1, "first touches call the spare");
    is(scene.other.help, SPARE_HELPING, "which helps");
    scene.given = 2 * HANDLER_BACKLOG;
    wait_for_sleeps(scene.wakes++);
    is(scene.watched, 1, "who helps already is not called");
    close_scene(handler);
}

/* The spare meets a read. */
static pthread_t open_spare(enum handler_help help)
{
    prepare_scene("touch_window:1,read_window:1", 8);
    page_all_out(8);
    scene.h.spare = &scene.h;
    scene.h.judged_after = 4;
    scene.h.help = help;
    scene.given = 1;
    scene.wakes = 1000000;
    return start_handler();
}

static void leaves_nothing_behind(void)
{
    pthread_t handler = open_spare(SPARE_HELPING);
    unsigned taken;

    while (scene.left == 0)
        sched_yield();
    wait_for_sleeps(scene.sleeps_left);
    is(scene.left_behind, 0, "a spare that leaves takes the fault that it was woken for");
    is(scene.h.help, SPARE_ASLEEP, "and is asleep then");
    taken = scene.taken;
    scene.given++;
    wait_for_sleeps(scene.sleeps + 100);
    is(scene.taken, taken, "asleep, it takes none");
    close_scene(handler);
}

static void stays_while_called(void)
{
    pthread_t handler = open_spare(SPARE_CALLED);

    while (where(&scene.f, scene.base, 0) != 'a')
        sched_yield();
    wait_for_sleeps(scene.sleeps + 100);
    is(scene.left, 0, "a spare does not leave before who called it has done so");
    scene.h.help = SPARE_HELPING;
    scene.given++;
    while (scene.left == 0)
        sched_yield();
    ok(true, "but then");
    close_scene(handler);
}

int main(void)
{
    calls_spare();
    leaves_nothing_behind();
    stays_while_called();
    check_waits_for_read();
    backlog_is_timed();
    maps_all();
    return done_testing();
}
