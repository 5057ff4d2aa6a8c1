/*
 * Every row of transitions.h is really taken, no other change is ever seen, and debug builds stop
 * at one that is planted.
 *
 * Nothing but the test's thread runs, and a look at all pages and frames is taken at every yield
 * point, so no change hides behind the next.
 */
#include <errno.h>

#include "machine_fixture.h"

#define PAGES 64u
#define FRAMES_MOST 512u

/* What the looks have seen. There is one machine at a time. */
static struct {
    struct fixture f;
    struct sync_backend backend;
    uintptr_t base; /* PAGES pages that are looked at, */
    pte_t *ptes;    /* and theirs */
    bool looking;
    bool want_at_step; /* somebody comes to want page 0 in the middle of a transition */
    unsigned refuse;   /* so many calls to map find no page */
    uint64_t words[PAGES];
    bool busy[PAGES];
    uint8_t states[FRAMES_MOST];
    unsigned pages[5][5], frames[FRAME_STATE_COUNT][FRAME_STATE_COUNT];
    struct mapper_ops ops, usual;
} w;

/* ---- looking ---- */

static void look(void)
{
    for (size_t p = 0; p < PAGES; p++) {
        uint64_t word = pte_load(&w.ptes[p]);

        if (word & PTE_BUSY) {
            w.busy[p] = true;
            continue;
        }
        if (w.busy[p] || word != w.words[p])
            w.pages[w.words[p] & PTE_FORMAT][word & PTE_FORMAT]++;
        w.busy[p] = false;
        w.words[p] = word;
    }
    for (uint32_t n = 0; n < w.f.m->frame_count; n++) {
        uint8_t state = w.f.m->frames[n].state;

        if (state != w.states[n])
            w.frames[w.states[n]][state]++;
        w.states[n] = state;
    }
}

static void yield(struct sync *s, enum sync_point point)
{
    (void)s;
    if (w.looking)
        return;
    w.looking = true;
    look();
    if (point == SYNC_AT_STEP && w.want_at_step)
        pte_want(w.f.m, w.ptes, PTE_WANTED_TRAP);
    look();
    w.looking = false;
}

static void forget(void)
{
    w.looking = true;
    look();
    w.looking = false;
    memset(w.pages, 0, sizeof(w.pages));
    memset(w.frames, 0, sizeof(w.frames));
}

/* ---- a mapper that finds no page when it is told to ---- */

static int refuse_map(struct mapper *mapper, uintptr_t va, unsigned count, const uint32_t *frames,
                      void *const *content, unsigned flags, unsigned *done)
{
    *done = 0;
    if (w.refuse > 0 && w.refuse--)
        return -ENOMEM;
    return w.usual.map(mapper, va, count, frames, content, flags, done);
}

static int refuse_zero(struct mapper *mapper, uintptr_t va, unsigned count, const uint32_t *frames,
                       unsigned flags, unsigned *done)
{
    *done = 0;
    if (w.refuse > 0 && w.refuse--)
        return -ENOMEM;
    return w.usual.map_zero(mapper, va, count, frames, flags, done);
}

static void begin(const char *conf)
{
    memset(&w, 0, sizeof(w));
    w.looking = true;
    set_up(&w.f, conf);
    w.backend = sync_backend_linux;
    w.backend.yield = yield;
    w.f.m->sync.backend = &w.backend;
    w.usual = w.ops = *w.f.m->mapper->ops;
    w.ops.map = refuse_map;
    w.ops.map_zero = refuse_zero;
    w.f.m->mapper->ops = &w.ops;
    w.base = map_pages(&w.f, PAGES);
    w.ptes = pte_at(&w.f, w.base, 0);
    if (w.f.m->frame_count > FRAMES_MOST)
        exit(1);
    w.looking = false;
    forget();
}

/* ---- where a row begins ---- */

#define PLAIN "touch_window:1,read_window:1,deferred:off"

static void active(void)
{
    put(&w.f, w.base, 0, 1);
}

static void modified(void)
{
    active();
    trim_all(&w.f);
}

static void standby(void)
{
    modified();
    write_all(&w.f);
}

static void paged(void)
{
    active();
    page_out(&w.f);
}

/* A write of page 0 is under way until the store lets go. */
static void writing(void)
{
    modified();
    switch_hold(w.f.store, true);
    atomic_fetch_add(&w.f.m->waiting, 1);
    writer_step(w.f.m);
    atomic_fetch_sub(&w.f.m->waiting, 1);
}

static void written(void)
{
    switch_hold(w.f.store, false);
    writer_drain(w.f.m);
}

/* One attempt at a fault on page 0. */
static void attempt(unsigned flags)
{
    struct fault_queue *queue = fault_queue_get(w.f.m);

    fault_queue_enter(w.f.m, queue);
    fault_begin(w.f.m, queue, w.base, flags, 1, sync_now(&w.f.m->sync));
    while (queue->in_flight > 0)
        fault_reap(w.f.m, queue, true, NULL);
    fault_queue_leave(w.f.m, queue);
    fault_queue_put(w.f.m, queue);
}

static void attempt_refused(void)
{
    forget();
    w.refuse = 1;
    attempt(0);
}

static void discard(void)
{
    forget();
    region_decommit(w.f.m, w.base, PAGE);
}

static void give_up(void)
{
    int usual = log_descriptor();

    forget();
    error_set(-ENOSPC, "no frame can be had");
    log_use_descriptor(-1);
    fault_give_up(w.f.m, w.base);
    log_use_descriptor(usual);
}

static void read_broken(void)
{
    int usual = log_descriptor();

    paged();
    forget();
    w.f.store->read_error = -EIO;
    log_use_descriptor(-1);
    attempt(0);
    log_use_descriptor(usual);
    w.f.store->read_error = 0;
}

static void rescue(void)
{
    forget();
    attempt(0);
}

static void zero(void)
{
    struct machine *m = w.f.m;

    while (list_count(m, LIST_ZERO) < m->frame_count / 32 && zero_step(m))
        continue;
}

/* ---- one driver a row, named for it ---- */

static void page_TOUCH(void)
{
    begin(PLAIN);
    active();
}

static void page_TOUCH_FAILED(void)
{
    begin(PLAIN);
    attempt_refused();
}

static void page_RESCUE(void)
{
    begin(PLAIN);
    modified();
    rescue();
}

static void page_RESCUE_FAILED(void)
{
    begin(PLAIN);
    modified();
    attempt_refused();
}

static void page_READ(void)
{
    begin(PLAIN);
    paged();
    rescue();
}

static void page_READ_GIVEN_UP(void)
{
    begin(PLAIN);
    paged();
    attempt_refused();
}

static void page_READ_FAILED(void)
{
    begin(PLAIN);
    read_broken();
    ok(word_at(&w.f, w.base, 0) & PTE_BAD, "the page is bad");
}

static void page_GIVE_UP_UNTOUCHED(void)
{
    begin(PLAIN);
    give_up();
    ok(word_at(&w.f, w.base, 0) & PTE_BAD, "the page is bad");
}

/* With copy, a trimmed page needs a frame of those that may be active; here they are all taken. */
static void give_up_without_frames(void)
{
    unsigned all = frame_reserve(w.f.m, w.f.m->frame_count);

    give_up();
    frame_unreserve(w.f.m, all);
}

/* It stays bad when its own frame is taken too, and is there when it is asked for explicitly. */
static void page_GIVE_UP_TRANSITION(void)
{
    begin(PLAIN);
    standby();
    give_up();
    ok(!(word_at(&w.f, w.base, 0) & PTE_BAD), "while there are frames the fault is tried again");
    give_up_without_frames();
    ok(word_at(&w.f, w.base, 0) & PTE_BAD, "the page is bad");
    is(fault_at(&w.f, w.base, 0, 1), FAULT_FAILED, "and stays so");
    refill_standby(w.f.m, 1);
    is(where(&w.f, w.base, 0), 'p', "its frame is taken");
    is(fault_at(&w.f, w.base, 0, 1), FAULT_FAILED, "the page is still bad");
    is(fault_resolve(w.f.m, w.base, FAULT_EXPLICIT, 1), FAULT_DONE, "it is there when asked for");
    ok(holds(&w.f, w.base, 0, 1), "with its content");

    put(&w.f, w.base, 0, 2);
    trim_all(&w.f);
    give_up_without_frames();
    is(fault_resolve(w.f.m, w.base, FAULT_EXPLICIT, 1), FAULT_DONE, "so it is from its frame");
    ok(holds(&w.f, w.base, 0, 2), "with its content");

    put(&w.f, w.base, 0, 3);
    trim_all(&w.f);
    give_up_without_frames();
}

static void page_GIVE_UP_PAGEFILE(void)
{
    begin(PLAIN);
    paged();
    give_up();
    ok(word_at(&w.f, w.base, 0) & PTE_BAD, "the page is bad");
}

static void page_WRITE(void)
{
    begin(PLAIN ",dirty:protect");
    paged();
    attempt(0);
    ok(word_at(&w.f, w.base, 0) & PTE_PROTECTED, "the page is protected");
    forget();
    attempt(FAULT_WRITE | FAULT_PROTECT);
}

/* Pages 0 and 1 are protected in a section that has been read only. */
static void protected_pages(void)
{
    begin(PLAIN ",dirty:auto");
    put(&w.f, w.base, 0, 1);
    put(&w.f, w.base, 1, 1);
    page_out(&w.f);
    holds(&w.f, w.base, 0, 1);
    holds(&w.f, w.base, 1, 1);
    table_at(&w.f, w.base)->sections[0].clean = 1000;
    page_out(&w.f);
    holds(&w.f, w.base, 0, 1);
    holds(&w.f, w.base, 1, 1);
    ok(word_at(&w.f, w.base, 0) & word_at(&w.f, w.base, 1) & PTE_PROTECTED, "both are protected");
    atomic_fetch_and(w.ptes, ~PTE_LEVEL);
    forget();
}

static void page_TRIM_AT_ONCE(void)
{
    protected_pages();
    trim_all(&w.f);
    is(where(&w.f, w.base, 0), 'p', "a protected page is in its slot at once");
}

static void page_UNPROTECT(void)
{
    protected_pages();
    table_at(&w.f, w.base)->sections[0].clean = 0;
    attempt(FAULT_WRITE | FAULT_PROTECT);
    ok(!(word_at(&w.f, w.base, 1) & PTE_PROTECTED), "the next page is to be written too");
}

static void page_ACCESS(void)
{
    begin(PLAIN);
    active();
    forget();
    holds(&w.f, w.base, 0, 1);
}

static void page_AGE(void)
{
    begin(PLAIN);
    active();
    forget();
    age_pass(&w.f);
}

static void page_STREAM(void)
{
    begin("deferred:off,touch_window:4");
    for (size_t p = 0; p < PAGES && counted(&w.f, COUNTER_readahead_hits) == 0; p++) {
        forget();
        if (where(&w.f, w.base, p) == 'u')
            fault_at(&w.f, w.base, p, 1);
    }
    ok(counted(&w.f, COUNTER_readahead_hits) > 0, "pages mapped ahead are passed");
}

static void page_PIN(void)
{
    begin(PLAIN);
    active();
    forget();
    machine_pin(w.f.m, w.base, PAGE);
}

static void page_UNPIN(void)
{
    page_PIN();
    forget();
    machine_unpin(w.f.m, w.base, PAGE);
}

static void page_RECLAIM(void)
{
    begin(PLAIN);
    paged();
    attempt(0);
    forget();
    is(pagefile_reclaim(w.f.m, 1), 1, "a slot is taken back");
}

static void page_TRIM(void)
{
    begin(PLAIN);
    modified();
}

static void page_TRIM_ZERO(void)
{
    begin(PLAIN);
    put(&w.f, w.base, 0, 0);
    trim_all(&w.f);
}

static void page_TRIM_UNDONE(void)
{
    begin(PLAIN);
    active();
    forget();
    w.want_at_step = true;
    trim_pages(w.f.m, 1);
    w.want_at_step = false;
    ok(counted(&w.f, COUNTER_pages_trim_undone) > 0, "a trim is undone");
}

static void page_REPURPOSE(void)
{
    begin(PLAIN);
    standby();
    refill_standby(w.f.m, 1);
}

static void page_DISCARD_VALID(void)
{
    begin(PLAIN);
    active();
    discard();
}

static void page_DISCARD_TRANSITION(void)
{
    begin(PLAIN);
    modified();
    discard();
}

static void page_DISCARD_PAGEFILE(void)
{
    begin(PLAIN);
    paged();
    discard();
}

static void page_DISCARD_BAD(void)
{
    begin(PLAIN);
    give_up();
    discard();
    is(word_at(&w.f, w.base, 0), 0, "the page is not bad any more");
}

static void frame_TAKE_FREE(void)
{
    begin(PLAIN);
    active();
}

static void frame_TAKE_ZERO(void)
{
    begin("touch_window:1");
    zero();
    forget();
    active();
}

static void frame_ZERO_BEGIN(void)
{
    begin("touch_window:1");
    zero();
}

static void frame_ZERO_END(void)
{
    frame_ZERO_BEGIN();
}

static void frame_ATTACH(void)
{
    begin(PLAIN);
    active();
}

static void frame_TRIM_CLEAN(void)
{
    begin(PLAIN);
    paged();
    attempt(0);
    forget();
    trim_all(&w.f);
}

static void frame_TRIM_CHANGED(void)
{
    begin(PLAIN);
    modified();
}

static void frame_DETACH(void)
{
    page_DISCARD_VALID();
}

static void frame_WRITE_BEGIN(void)
{
    begin(PLAIN);
    standby();
}

static void frame_WRITE_DONE(void)
{
    frame_WRITE_BEGIN();
}

static void frame_WRITE_FAILED(void)
{
    int usual = log_descriptor();

    begin(PLAIN);
    modified();
    forget();
    w.f.store->write_error = -EIO;
    log_use_descriptor(-1);
    write_all(&w.f);
    log_use_descriptor(usual);
    w.f.store->write_error = 0;
}

static void frame_RESCUE_STANDBY(void)
{
    begin(PLAIN);
    standby();
    rescue();
}

static void frame_RESCUE_MODIFIED(void)
{
    page_RESCUE();
}

static void frame_RESCUE_WRITING(void)
{
    begin(PLAIN);
    writing();
    rescue();
    written();
}

static void frame_RESCUED(void)
{
    page_RESCUE();
}

static void frame_RESCUE_UNDO_CLEAN(void)
{
    begin(PLAIN);
    standby();
    attempt_refused();
}

static void frame_RESCUE_UNDO_CHANGED(void)
{
    page_RESCUE_FAILED();
}

static void frame_REPURPOSE(void)
{
    begin(PLAIN);
    standby();
    forget();
    refill_standby(w.f.m, 1);
}

static void frame_DISCARD_STANDBY(void)
{
    begin(PLAIN);
    standby();
    discard();
}

static void frame_DISCARD_MODIFIED(void)
{
    page_DISCARD_TRANSITION();
}

static void frame_DISCARD_WRITING(void)
{
    begin(PLAIN);
    writing();
    discard();
    written();
}

static void frame_FREED(void)
{
    page_DISCARD_VALID();
}

/* ---- the rows ---- */

static void end(void)
{
    unsigned strange = 0;

    w.looking = true;
    look();
    for (unsigned from = 0; from < 5; from++) {
        for (unsigned to = 0; to < 5; to++)
            strange += w.pages[from][to] > 0 && !pte_may_become(from, to);
    }
    for (unsigned from = 0; from < FRAME_STATE_COUNT; from++) {
        for (unsigned to = 0; to < FRAME_STATE_COUNT; to++)
            strange += w.frames[from][to] > 0 && !frame_may_become(from, to);
    }
    if (strange > 0)
        ok(false, "%u transitions were seen that are no rows", strange);
    tear_down(&w.f);
}

static void pages(void)
{
#define DRIVE(name, from, to, function, when)                                                      \
    page_##name();                                                                                 \
    ok(w.pages[PTE_##from][PTE_##to] > 0, "page " #name ": " #from " to " #to ", %s", when);       \
    end();
    PTE_TRANSITIONS(DRIVE)
#undef DRIVE
}

static void frames(void)
{
#define DRIVE(name, from, to, function, when)                                                      \
    frame_##name();                                                                                \
    ok(w.frames[FRAME_##from][FRAME_##to] > 0, "frame " #name ": " #from " to " #to ", %s", when); \
    end();
    FRAME_TRANSITIONS(DRIVE)
#undef DRIVE
}

/* ---- what is no row ---- */

static void release_wrong(void *argument)
{
    (void)argument;
    if (pte_try_busy(&w.f.m->sync, w.ptes, 0))
        pte_release(w.f.m, w.ptes, w.base, pte_make(PTE_TRANSITION, 1));
}

static void swap_wrong(void *argument)
{
    uint64_t seen = 0;

    (void)argument;
    pte_cas(&w.f.m->sync, w.ptes, &seen, pte_make(PTE_PAGEFILE, 1));
}

static void state_wrong(void *argument)
{
    struct frame *frame = &w.f.m->frames[0];

    (void)argument;
    sync_mutex_lock(&w.f.m->sync, &frame->lock, SYNC_FRAME);
    frame_set_state(frame, FRAME_ACTIVE);
}

static void planted(void)
{
    static const struct {
        void (*plant)(void *argument);
        const char *what;
    } wrongs[] = {{release_wrong, "a page released from untouched to transition"},
                  {swap_wrong, "a page changed from untouched to pagefile"},
                  {state_wrong, "a frame made active from free"}};
    char text[1000] = "";

    if (VMSM_DEBUG == 0) {
        skip("transitions are checked in debug builds only");
        return;
    }
    begin(PLAIN);
    for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
        memset(text, 0, sizeof(text));
        is(signal_of(wrongs[i].plant, NULL, text, sizeof(text)), SIGABRT, "%s stops it",
           wrongs[i].what);
        text[strcspn(text, "\n")] = '\0';
        ok(strstr(text, "may_become") != NULL, "in words: %s", text);
    }
    end();
}

int main(void)
{
    pages();
    frames();
    planted();
    return done_testing();
}
