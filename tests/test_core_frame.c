/*
 * Rights to frames and to room in the cache: never more than there are, all given back.
 */
#include <errno.h>

#include "machine_fixture.h"

#define THREADS 4u

static void rights(void)
{
    struct fixture f;
    struct machine *m;
    uint32_t frames[40];
    bool seen[2048] = {false}, distinct = true, in_transit = true;
    unsigned all;

    set_up(&f, "");
    m = f.m;
    all = m->active_max;
    is(m->available, all, "at first every frame may be had");
    is(frame_reserve(m, 40), 40, "forty are reserved");
    is(frame_reserve(m, all), all - 40, "then no more than the rest");
    is(frame_reserve(m, 1), 0, "then none");
    frame_unreserve(m, all - 40);
    frame_take(m, 40, frames, false);
    for (unsigned i = 0; i < 40; i++) {
        distinct = distinct && !seen[frames[i]];
        seen[frames[i]] = true;
        in_transit = in_transit && m->frames[frames[i]].state == FRAME_TRANSIT;
    }
    ok(distinct && in_transit, "the frames taken are different ones, in transit");
    is(m->active, 40, "they count as active");
    is(m->consumed, 40, "and as consumed");
    frame_free(m, 40, frames, true);
    is(m->available, all, "freed, they may be had again");
    is(m->active, 0, "and are not active");
    tear_down(&f);
}

static void zeroed(void)
{
    struct fixture f;
    struct machine *m;
    uint32_t frames[64];
    unsigned zero;

    set_up(&f, "");
    m = f.m;
    ok(zero_needed(m), "with none zeroed the zeroer has work");
    ok(zero_step(m), "it does some");
    zero = list_count(m, LIST_ZERO);
    ok(zero > 1 && list_count(m, LIST_FREE) == m->frame_count - zero, "%u frames are zero", zero);
    is(m->available, m->frame_count, "zeroing costs no rights");
    is(frame_reserve(m, zero + 1), zero + 1, "reserved");
    frame_take(m, 1, frames, false);
    is(list_count(m, LIST_ZERO), zero, "one to read into is not a zero frame");
    frame_take(m, zero, frames + 1, true);
    is(list_count(m, LIST_ZERO), 0, "zero frames go to those who ask for zeroes");
    ok(page_is_zero(mapper_buffer(m->mapper, frames[1])), "they are zero");
    frame_free(m, zero + 1, frames, true);
    is(frame_reserve(m, 2), 2, "reserved");
    frame_take(m, 2, frames, true);
    ok(true, "with no zero frame left, free ones do");
    frame_free(m, 2, frames, true);
    tear_down(&f);
    set_up(&f, "deferred:off");
    ok(!zero_step(f.m), "without deferred work nothing is zeroed ahead");
    tear_down(&f);
}

/* Without a cache standby is stock: it is repurposed when nothing else is left. */
static void from_standby(void)
{
    struct fixture f;
    uintptr_t base;

    set_up(&f, "touch_window:1,read_window:1");
    base = map_pages(&f, 100);
    put_all(&f, base, 100, 1);
    trim_all(&f);
    write_all(&f);
    is(standby_count(f.m), 100, "a hundred pages are on standby");
    is(frame_reserve(f.m, f.m->frame_count), f.m->frame_count - 100, "the others are reserved");
    ok(frame_reserve(f.m, 1) == 1, "standby gives one more");
    ok(standby_count(f.m) < 100, "from its head");
    frame_unreserve(f.m, f.m->frame_count - 100 + 1);
    is(wrong_of(&f, base, 100, 1), 0, "what was on standby is read back");
    tear_down(&f);
}

static void waiting(void)
{
    struct fixture f;
    uintptr_t base;
    unsigned all;

    set_up(&f, "patience:0");
    all = f.m->frame_count;
    is(frame_wait(f.m), 0, "nobody waits while there are frames");
    base = map_pages(&f, 2 * all);
    put_all(&f, base, all, 1);
    is(f.m->available, 0, "all frames are in use");
    is(frame_wait(f.m), 0, "who waits trims and writes if nobody else does");
    ok(f.m->available > 0, "and so there are frames");
    trim_all(&f);
    is(frame_reserve(f.m, all) > 0, true, "take what there is");
    frame_unreserve(f.m, 1);
    is(frame_wait(f.m), 0, "one is enough");
    is(frame_reserve(f.m, 1), 1, "that one too");
    while (frame_reserve(f.m, 1) > 0)
        continue;
    f.store->write_error = -EIO;
    write_all(&f);
    is(frame_wait(f.m), -EIO, "writes fail: patience ends with the error");
    ok(strstr(error_last(), "refused writes") != NULL, "in words: %s", error_last());
    is(f.m->waiting, 0, "nobody is left waiting");
    f.store->write_error = 0;
    f.m->available = list_count(f.m, LIST_FREE) + list_count(f.m, LIST_ZERO);
    write_all(&f);
    is(wrong_of(&f, base, all, 1), 0, "nothing was lost");
    tear_down(&f);
}

#define HOUR UINT64_C(3600000000000)

/* A clock that began long ago. */
static uint64_t late_now(struct sync *s)
{
    return sync_backend_linux.now(s) + 24 * HOUR;
}

/* Patience is for the pagefile: when it has run out, later faults do not wait it out anew. */
static void patience_once(void)
{
    struct sync_backend late = sync_backend_linux;
    struct fixture f;
    uintptr_t base;
    unsigned all;

    set_up(&f, "patience:3600s");
    late.now = late_now;
    f.m->sync.backend = &late;
    all = f.m->frame_count;
    base = map_pages(&f, 2 * all);
    put_all(&f, base, all, 1);
    f.store->write_error = -ENOSPC;
    trim_all(&f);
    write_all(&f);
    while (frame_reserve(f.m, 1) > 0)
        continue;
    ok(f.m->writer.failing_since != 0, "the pagefile refuses writes");
    f.m->writer.failing_since = late_now(&f.m->sync) - 2 * HOUR;
    is(frame_wait(f.m), -ENOSPC, "after two hours a new fault does not wait one more");
    f.store->write_error = 0;
    for (int i = 0; i < 1000 && frame_wait(f.m) != 0; i++)
        continue; /* the writer tries every 100 ms */
    is(f.m->writer.failing_since, 0, "but those that come notice that writes succeed again");
    f.m->available = list_count(f.m, LIST_FREE) + list_count(f.m, LIST_ZERO);
    is(wrong_of(&f, base, all, 1), 0, "nothing was lost");
    tear_down(&f);
}

struct contest {
    struct fixture f;
    _Atomic unsigned taken[4096];
    _Atomic unsigned clashes, rounds;
};

static void *take_and_free(void *argument)
{
    struct contest *c = argument;
    struct machine *m = c->f.m;

    for (unsigned i = 0; i < 400; i++) {
        uint32_t frames[100];
        unsigned n = frame_reserve(m, 1 + i % 100), used = n / 2;

        if (n == 0)
            continue;
        frame_take(m, used, frames, i & 1);
        frame_unreserve(m, n - used);
        for (unsigned k = 0; k < used; k++)
            c->clashes += atomic_exchange(&c->taken[frames[k]], 1);
        for (unsigned k = 0; k < used; k++)
            c->taken[frames[k]] = 0;
        frame_free(m, used, frames, true);
        c->rounds++;
    }
    return NULL;
}

static void contention(void)
{
    static struct contest c;
    pthread_t ids[THREADS];

    set_up(&c.f, "memory:512K");
    for (unsigned i = 0; i < THREADS; i++)
        pthread_create(&ids[i], NULL, take_and_free, &c);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(ids[i], NULL);
    is(c.clashes, 0, "no frame is taken by two threads");
    is(c.f.m->available, c.f.m->frame_count, "after %u rounds all rights are back", c.rounds);
    tear_down(&c.f);
}

/* The soft mapper, pretending that active memory is not the frame's buffer: for counting only. */
static int open_cached(struct sync *sync, const struct mapper_options *options,
                       struct mapper **mapper)
{
    int error = mapper_soft_open(sync, options, mapper);

    (*mapper)->has_cache = true;
    (*mapper)->real_frames = false;
    return error;
}

static void cache(void)
{
    struct fixture f;
    struct machine *m;
    uint32_t frames[4], buffers[4];
    unsigned room;

    set_up_mapper(&f, "mapper:copy", open_cached);
    m = f.m;
    room = m->buffer_count;
    is(m->active_max + room + m->stage_pages / STAGE_PIECES * (STAGE_PIECES - 1), m->frame_count,
       "the budget is active frames, cache, and what may be lent of staging");
    is(frame_reserve(m, 4), 4, "four frames");
    frame_take(m, 4, frames, false);
    is(cache_reserve(m, room + 5), room, "no more room than the cache has");
    is(cache_reserve(m, 1), 0, "then none");
    cache_unreserve(m, room - 4);
    buffer_take(m, 4, frames, buffers);
    ok(m->frames[frames[0]].buffer == buffers[0] && buffers[0] != buffers[3] && buffers[3] < room,
       "reserved room becomes buffers");
    is(freestack_taken(&m->buffers), 4, "which are taken");
    frame_deactivated(m, 4);
    is(m->available, m->active_max, "a trimmed frame leaves its place to another");
    is(frame_reserve(m, 1), 1, "a rescue takes one");
    frame_activated(m, &m->frames[frames[0]]);
    is(m->cache_room, (int)room - 3, "and gives its buffer back");
    is(m->frames[frames[0]].buffer, BUFFER_NONE, "an active frame has none");
    frame_free(m, 1, frames, true);
    frame_free(m, 3, frames + 1, false);
    is(m->cache_room, room, "freed frames give theirs back");
    is(m->available, m->active_max, "and their places");
    tear_down(&f);
}

int main(void)
{
    rights();
    zeroed();
    from_standby();
    waiting();
    patience_once();
    contention();
    cache();
    is(strcmp(frame_state_name(FRAME_WRITING), "writing"), 0, "states have names");
    return done_testing();
}
