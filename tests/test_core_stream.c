/*
 * Streams: windows grow while accesses go one way, shrink when speculation is wasted, and what was
 * read ahead is counted as used or wasted.
 */
#include <errno.h>

#include "machine_fixture.h"

#define BASE ((uintptr_t)1 << 30)

/* A fault at page p of the stream's address space that maps all that was planned. */
static struct stream_plan step(struct fixture *f, size_t p, uint32_t thread, unsigned most)
{
    struct stream_plan plan;

    stream_plan(f->m, BASE + p * PAGE, thread, false, most, &plan);
    stream_covered(f->m, BASE + p * PAGE, thread, plan.window, BASE + p * PAGE,
                   BASE + p * PAGE + plan.window * (uintptr_t)plan.stride * PAGE);
    return plan;
}

static void forward(struct fixture *f)
{
    static const unsigned expected[] = {4, 4, 8, 16, 32, 32};
    struct stream_plan plan = {0};
    size_t p = 1000, last = 0;

    for (unsigned i = 0; i < 6; i++) {
        unsigned before = plan.window;

        plan = step(f, p, 1, 32);
        is(plan.window, expected[i], "forward, fault %u maps %u pages", i, plan.window);
        is(plan.stride, 1, "forward");
        if (i > 0)
            ok(plan.passed_from == BASE + (last + 1) * PAGE && plan.passed_pages == before - 1,
               "what the last one mapped ahead is known to be used");
        last = p;
        p += plan.window;
    }
    is(step(f, p + 3, 1, 32).window, 32, "a short gap does not end a stream");
    is(step(f, p + 3 + 32 + 4, 1, 32).window, 4, "a longer one does");
}

static void backward(struct fixture *f)
{
    static const unsigned expected[] = {4, 5, 10, 20};
    struct stream_plan plan = step(f, 50000, 2, 32);
    size_t p = 49999;

    is(plan.window, 4, "a first fault");
    for (unsigned i = 0; i < 4; i++) {
        plan = step(f, p, 2, 32);
        ok(plan.stride == -1 && plan.window == expected[i], "backward, %u pages", plan.window);
        p -= plan.window;
    }
}

static void several(struct fixture *f)
{
    static const size_t at[] = {1000, 5000, 9000};
    size_t p[3];
    unsigned least = 32;

    memcpy(p, at, sizeof(p));
    for (unsigned round = 0; round < 5; round++) {
        for (unsigned i = 0; i < 3; i++) {
            struct stream_plan plan = step(f, p[i], 3, 32);

            p[i] += plan.window;
            if (round == 4)
                least = plan.window < least ? plan.window : least;
        }
    }
    is(least, 32, "three streams of one thread grow side by side");
    is(step(f, p[0], 4, 32).window, 4, "another thread's are its own");
    is(step(f, p[1], 3, 1).window, 1, "one page is all that is allowed");
}

/* Runs of `length` pages in random places, each fault of which maps what is planned: the window of
 * their first faults, once it is learned. */
static unsigned first_window(struct fixture *f, uint32_t thread, unsigned length)
{
    unsigned count[2 * RUN_MAX + 1] = {0}, best = 0;
    size_t start = 100000;

    for (unsigned run = 0; run < 2000; run++) {
        unsigned window = 0;

        start += 1000 + run % 7;
        for (unsigned done = 0; done < length; done += window) {
            window = step(f, start + done, thread, 512).window;
            if (done == 0 && run >= 1800)
                count[window]++;
        }
    }
    for (unsigned i = 1; i <= 2 * RUN_MAX; i++)
        best = count[i] > count[best] ? i : best;
    return best;
}

/* First faults read as much as runs are long, as far as that is worth it. */
static void first(struct fixture *f)
{
    is(first_window(f, 5, 1), 1, "faults that nobody follows read one page");
    is(first_window(f, 5, 16), 16, "runs of 16 pages are read at once");
    is(first_window(f, 5, 40), 64, "those of 40 too");
    is(first_window(f, 5, 1), 1, "and what has been learned can be unlearned");
    is(first_window(f, 6, 2), 2, "it is each set's own");
}

/* Objects of two pages in random places, the second of which is touched first. */
static void pairs(struct fixture *f)
{
    struct stream_plan plan = {0};
    unsigned both = 0, alone = 0;
    size_t start = 100000;

    for (unsigned i = 0; i < 800; i++) {
        start += 1000 + i % 7;
        plan = step(f, start + 1, 8, 512);
        if (plan.stride == 1)
            step(f, start, 8, 512);
        if (i < 400)
            continue;
        both += plan.window == 2 && plan.stride == -1;
        alone += plan.window == 1;
    }
    is(both, 350, "pairs whose second page is touched first are read at once");
    is(alone, 50, "but for a trial with each eighth");
    do
        plan = step(f, start += 1000, 8, 512);
    while (plan.window == 1);
    is(step(f, start + 1, 8, 512).stride, 1, "if the next page follows, it is a stream forward");
    do
        plan = step(f, start += 1000, 8, 512);
    while (plan.window == 1);
    is(step(f, start - 2, 8, 512).stride, -1, "if the one before both does, backward");
    is(first_window(f, 8, 1), 1, "and what has been learned can be unlearned");
}

/* Pages in equal steps. */
static void steps(struct fixture *f)
{
    static const unsigned expected[] = {1, 1, 4, 4, 8, 16, 32, 32};
    struct stream_plan plan = {.stride = 1};
    size_t p = 3000000;

    first_window(f, 7, 1);
    for (unsigned i = 0; i < 8; i++) {
        unsigned before = plan.window;
        size_t at = p;

        plan = step(f, p, 7, 512);
        is(plan.window, expected[i], "steps, fault %u maps %u pages", i, plan.window);
        if (i >= 2)
            is(plan.stride, -16, "the step is known");
        if (i >= 3)
            ok(plan.passed_from == BASE + (at + 16 * (before - 1)) * PAGE &&
                   plan.passed_pages == before - 1,
               "what has been passed is used");
        p -= 16 * plan.window;
    }
    is(step(f, p - 16 * 4, 7, 512).stride, 1, "a gap of four steps ends it");
}

/* Pages that were passed over because they were valid, and are then trimmed, fault one by one: a
 * stream with a step of 1, which has nothing behind it. */
static void passed_over(struct fixture *f)
{
    struct stream_plan plan;
    size_t p = 7000000, least = 7000000, offered = 0;

    for (size_t i = 0; i < 3; i++) {
        stream_plan(f->m, BASE + (p + i) * PAGE, 9, false, 32, &plan);
        stream_covered(f->m, BASE + (p + i) * PAGE, 9, 1, BASE + (p + i) * PAGE,
                       BASE + (p + i + (i < 2 ? 40 : 1)) * PAGE);
    }
    ok(plan.stride == 1 && plan.window == 4, "three pages that fit no stream are one");
    for (p += 3; p < 7001000; p += plan.window) {
        plan = step(f, p, 9, 32);
        if (plan.trim_pages == 0)
            continue;
        offered += plan.trim_pages;
        if ((plan.trim_from - BASE) / PAGE < least)
            least = (plan.trim_from - BASE) / PAGE;
    }
    ok(offered > 0 && offered < 1000 && least >= 7000000, "only what it has read is behind it");
}

static void behind(struct fixture *f)
{
    uintptr_t last_end = BASE;
    size_t p = 0, pages = 0, offered = 0;
    bool gap = false;

    for (unsigned i = 0; i < 40; i++) {
        struct stream_plan plan = step(f, p, 8, 64);

        if (plan.trim_pages > 0) {
            gap = gap || pages < 512 || plan.trim_from != last_end ||
                  plan.trim_from + plan.trim_pages * PAGE > BASE + p * PAGE;
            last_end = plan.trim_from + plan.trim_pages * PAGE;
            offered += plan.trim_pages;
        }
        p += plan.window;
        pages += plan.window;
    }
    ok(!gap && offered > 1024, "a long scan offers what is behind it, once, in order: %zu pages",
       offered);
}

/* A scan among single pages in random places: a fault of its own for each window, and in between one
 * for every page of the window. */
static void among_others(struct fixture *f)
{
    size_t p = 20000000, other = 30000000;
    struct stream_plan plan = {0};

    first_window(f, 10, 1);
    for (unsigned i = 0; i < 12; i++) {
        plan = step(f, p, 10, 512);
        p += plan.window;
        for (unsigned n = 0; n < plan.window; n++)
            step(f, other += 1000 + n % 7, 10, 512);
    }
    is(plan.window, 512, "a scan goes on among faults that fit no stream");
    for (unsigned n = 0; n < 8 * plan.window; n++)
        step(f, other += 1000 + n % 7, 10, 512);
    ok(step(f, p, 10, 512).window <= 64, "but it is forgotten when it does not");
}

/* Fault in what is not there, page by page, without accesses that would show which are used. */
static uint64_t walk(struct fixture *f, uintptr_t base, size_t pages, int direction)
{
    uint64_t before = counted(f, COUNTER_faults_hard);

    for (size_t i = 0; i < pages; i++) {
        size_t p = direction > 0 ? i : pages - 1 - i;

        if (!(word_at(f, base, p) & PTE_VALID))
            fault_at(f, base, p, 1);
    }
    return counted(f, COUNTER_faults_hard) - before;
}

static void machine_level(void)
{
    struct fixture f;
    uintptr_t base;
    uint64_t ahead, hits, faults, reads;

    set_up(&f, "memory:4M");
    base = map_pages(&f, 400);
    put_all(&f, base, 400, 1);
    for (int direction = 1; direction >= -1; direction -= 2) {
        page_out(&f);
        ahead = counted(&f, COUNTER_readahead_pages);
        hits = counted(&f, COUNTER_readahead_hits);
        reads = counted(&f, COUNTER_read_ios);
        faults = walk(&f, base, 400, direction);
        ahead = counted(&f, COUNTER_readahead_pages) - ahead;
        hits = counted(&f, COUNTER_readahead_hits) - hits;
        reads = counted(&f, COUNTER_read_ios) - reads;
        ok(faults < 40 && reads < 80, "%+d: 400 pages by %llu faults and %llu reads", direction,
           (unsigned long long)faults, (unsigned long long)reads);
        is(ahead, 400 - faults, "%+d: the others were read ahead", direction);
        ok(hits <= ahead && hits + 64 >= ahead, "%+d: all but the last window are hits: %llu",
           direction, (unsigned long long)hits);
    }
    is(wrong_of(&f, base, 400, 1), 0, "all are right");
    page_out(&f);
    streams_init(&f.m->streams);
    ahead = counted(&f, COUNTER_readahead_pages);
    hits = counted(&f, COUNTER_readahead_waste);
    fault_at(&f, base, 100, 9);
    ahead = counted(&f, COUNTER_readahead_pages) - ahead;
    trim_all(&f);
    is(counted(&f, COUNTER_readahead_waste) - hits, ahead, "%llu untouched pages are waste",
       (unsigned long long)ahead);
    ok(ahead > 0, "there were some");
    page_out(&f);
    machine_advise(f.m, base, 400 * PAGE, VMSM_RANDOM);
    is(walk(&f, base, 100, 1), 100, "random: nothing is read ahead");
    machine_advise(f.m, base, 400 * PAGE, VMSM_SEQUENTIAL);
    is(walk(&f, base + 200 * PAGE, 66, 1), 2, "sequential: windows are full at once");
    tear_down(&f);
}

/* A mapper that, at one call, has memory for only half of the pages of zeroes; and staging for no
 * more than stage_most pages of a run. */
static struct mapper_ops scarce, usual;
static unsigned zero_calls, scarce_at, stage_most = RUN_MAX;

static int map_zero_scarce(struct mapper *mapper, uintptr_t va, unsigned count,
                           const uint32_t *frames, unsigned flags, unsigned *done)
{
    if (++zero_calls != scarce_at)
        return usual.map_zero(mapper, va, count, frames, flags, done);
    usual.map_zero(mapper, va, count / 2, frames, flags, done);
    return -ENOMEM;
}

static unsigned stage_take_scarce(struct mapper *mapper, unsigned want, const uint32_t *frames,
                                  struct mapper_stage *stage)
{
    return usual.stage_take(mapper, want < stage_most ? want : stage_most, frames, stage);
}

static int open_scarce(struct sync *sync, const struct mapper_options *options,
                       struct mapper **mapper)
{
    int error = mapper_soft_open(sync, options, mapper);

    if (error != 0)
        return error;
    scarce = usual = *(*mapper)->ops;
    scarce.map_zero = map_zero_scarce;
    scarce.stage_take = stage_take_scarce;
    (*mapper)->ops = &scarce;
    return 0;
}

/* First touches of a window of several runs, of which the second finds memory for half its pages:
 * the window ends there, and the stream goes on from there. */
static void scarce_memory(struct fixture *f, uintptr_t base, size_t pages)
{
    size_t next = pages_at(f, base, pages, 'a');

    scarce_at = zero_calls + 2;
    is(fault_at(f, base, next, 1), FAULT_DONE, "a first touch that maps one run and a half");
    is(zero_calls, scarce_at, "asks for no third run");
    is(pages_at(f, base, pages, 'a'), next + RUN_MAX + RUN_MAX / 2, "what there was is mapped");
    is(f->m->touched, next + RUN_MAX + RUN_MAX / 2, "and counted");
    next += RUN_MAX + RUN_MAX / 2;
    fault_at(f, base, next, 1);
    ok(pages_at(f, base, pages, 'a') > next + RUN_MAX, "the stream goes on at the first page that "
                                                       "is missing");
}

/* Backward, the page that is asked for is the last of its run; of which staging has room for two. */
static void scarce_stage(struct fixture *f, uintptr_t base, size_t pages)
{
    size_t wanted;

    page_out(f);
    walk(f, base + (pages - 100) * PAGE, 100, -1);
    wanted = pages - pages_at(f, base, pages, 'a') - 1;
    stage_most = 2;
    is(fault_at(f, base, wanted, 1), FAULT_DONE, "with little staging a page is read");
    stage_most = RUN_MAX;
    is(where(f, base, wanted), 'a', "the one that was asked for");
    is(where(f, base, wanted - 1), 'a', "with its neighbour");
}

/* A page that another thread takes when there is room to read it ahead. */
static struct {
    struct machine *m;
    pte_t *pte;
} rival;

static void take_page(struct sync *s, enum sync_point point)
{
    pte_t *pte = rival.pte;

    (void)point;
    if (pte == NULL || atomic_load(&rival.m->ahead_room) == (int64_t)ahead_most(rival.m))
        return;
    rival.pte = NULL;
    pte_try_busy(s, pte, pte_load(pte));
}

static void lost_race(struct fixture *f, uintptr_t base)
{
    struct sync_backend backend = sync_backend_linux;
    pte_t *pte = pte_at(f, base, RUN_MAX);
    uint64_t word = pte_load(pte);

    rival.m = f->m;
    rival.pte = pte;
    backend.yield = take_page;
    f->m->sync.backend = &backend;
    fault_at(f, base, 0, 9);
    f->m->sync.backend = &sync_backend_linux;
    is(pte_load(pte), word | PTE_BUSY, "a page was taken that was about to be read ahead");
    is(f->m->ahead_room, ahead_most(f->m), "no less may be read ahead for that");
    pte_release(f->m, pte, base + RUN_MAX * PAGE, word);
}

/* With this much memory windows are longer than a run. */
static void long_windows(void)
{
    const size_t pages = 2048;
    struct fixture f;
    uintptr_t base;
    uint64_t faults;

    set_up_mapper(&f, "memory:64M", open_scarce);
    base = map_pages(&f, pages);
    walk(&f, base, pages / 2, 1);
    faults = counted(&f, COUNTER_faults_first_touch);
    ok(faults < pages / 2 / RUN_MAX, "%zu pages are filled by %llu faults", pages / 2,
       (unsigned long long)faults);
    scarce_memory(&f, base, pages);
    put_all(&f, base, pages, 1);
    for (int direction = 1; direction >= -1; direction -= 2) {
        page_out(&f);
        is(pages_at(&f, base, pages, 'p'), pages, "all are in the pagefile");
        faults = walk(&f, base, pages, direction);
        ok(faults < pages / RUN_MAX, "%+d: %zu pages are read by %llu faults", direction, pages,
           (unsigned long long)faults);
        is(f.m->ahead_room, ahead_most(f.m), "%+d: as many as before may be read ahead", direction);
    }
    scarce_stage(&f, base, pages);
    page_out(&f);
    machine_advise(f.m, base, pages * PAGE, VMSM_SEQUENTIAL);
    lost_race(&f, base);
    is(wrong_of(&f, base, pages, 1), 0, "all are right");
    tear_down(&f);
}

/* What somebody waits for is mapped before what was read ahead for others, and it does not take long
 * until new faults are looked for. */
static void wanted_first(void)
{
    struct fault_queue *queue;
    struct fixture f;
    uintptr_t base;

    set_up(&f, "memory:64M");
    base = map_pages(&f, 400);
    put_all(&f, base, 400, 1);
    page_out(&f);
    machine_advise(f.m, base, 400 * PAGE, VMSM_SEQUENTIAL);
    queue = fault_queue_get(f.m);
    fault_queue_enter(f.m, queue);
    is(fault_begin(f.m, queue, base, 0, 1, 0), FAULT_PENDING, "a window of several runs");
    ok(queue->ahead >= 1, "%u of them ahead", queue->ahead);
    machine_advise(f.m, base, 400 * PAGE, VMSM_RANDOM);
    is(fault_begin(f.m, queue, base + 399 * PAGE, 0, 2, 0), FAULT_PENDING, "another fault");
    while (pages_at(&f, base, RUN_MAX, 'a') == 0)
        fault_reap(f.m, queue, true, NULL);
    is(pages_at(&f, base, 399, 'a'), RUN_MAX, "with the first run, one call has done enough");
    while (where(&f, base, 399) != 'a')
        fault_reap(f.m, queue, true, NULL);
    ok(pages_at(&f, base, 399, 'a') <= 2 * RUN_MAX, "the other fault does not wait for the window");
    while (queue->in_flight > 0)
        fault_reap(f.m, queue, true, NULL);
    ok(!fault_queue_read(queue), "nothing is left");
    fault_queue_leave(f.m, queue);
    fault_queue_put(f.m, queue);
    is(wrong_of(&f, base, 400, 1), 0, "all are right");
    tear_down(&f);
}

int main(void)
{
    struct fixture f;

    set_up(&f, "");
    forward(&f);
    backward(&f);
    several(&f);
    first(&f);
    pairs(&f);
    steps(&f);
    passed_over(&f);
    behind(&f);
    among_others(&f);
    tear_down(&f);
    machine_level();
    long_windows();
    wanted_first();
    return done_testing();
}
