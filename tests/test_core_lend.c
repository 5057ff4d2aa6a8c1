/*
 * Lending: what the cache and staging do not need is room for Active frames, and comes back when
 * they need it.
 */
#include "machine_fixture.h"

static struct mapper_ops ops;
static unsigned vacated; /* buffers, so far */
static bool refused;     /* the system takes no memory back */

/* The soft mapper has no staging of its own: here it is nothing but numbers. */
static bool lend_numbers(struct mapper *mapper, unsigned pages, struct mapper_stage *stage)
{
    (void)mapper;
    *stage = (struct mapper_stage){.count = pages};
    return pages > 0 && !refused;
}

static bool count_vacated(struct mapper *mapper, unsigned count, const uint32_t *buffers)
{
    (void)mapper;
    (void)buffers;
    vacated += refused ? 0 : count;
    return !refused;
}

static int open_lending(struct sync *sync, const struct mapper_options *options,
                        struct mapper **mapper)
{
    int error = mapper_soft_open(sync, options, mapper);

    ops = *(*mapper)->ops;
    ops.stage_lend = lend_numbers;
    ops.vacate = count_vacated;
    (*mapper)->ops = &ops;
    (*mapper)->has_cache = true;
    (*mapper)->real_frames = false;
    return error;
}

/* An eighth of the frames is consumed, while so many pages wait to be written. */
static void look(struct machine *m, unsigned busy)
{
    atomic_fetch_add(&m->consumed, m->active_max / 8 + 1);
    atomic_store(&m->writing, busy);
    lend_fit(m);
    atomic_store(&m->writing, 0);
}

/* Where memory is locked, say, nothing goes back to the system: then nothing is lent. */
static void locked(void)
{
    struct fixture f;
    struct machine *m;

    refused = true;
    set_up_mapper(&f, "mapper:copy,memory:8M", open_lending);
    m = f.m;
    is(lent_frames(m), 0, "what the system does not take is not lent");
    is(m->available, m->active_max, "no more frames may be active");
    is(m->cache_room, m->buffer_count, "the cache is whole");
    is(freestack_taken(&m->buffers), 0, "all its buffers are free");
    for (unsigned i = 0; i < 40; i++)
        look(m, 0);
    is(lent_frames(m), 0, "nor later");
    refused = false;
    for (unsigned i = 0; i < 40; i++)
        look(m, 0);
    is(cache_size(m), m->buffer_least, "until it does");
    tear_down(&f);
}

int main(void)
{
    struct fixture f;
    struct machine *m;
    uint32_t least, pieces, size;

    set_up_mapper(&f, "mapper:copy,memory:8M", open_lending);
    m = f.m;
    least = m->buffer_least;
    pieces = m->stage_pages / STAGE_PIECES * (STAGE_PIECES - 1);
    is(cache_size(m), least, "at first the cache is as small as can be");
    is(vacated, m->buffer_count - least, "the memory of the others is given back");
    is(lent_frames(m), m->buffer_count - least + pieces, "and staging is, but for a piece");
    is(m->available, m->active_max + lent_frames(m), "so many more may be active");
    is(cache_reserve(m, m->buffer_count), least, "none of it is room in the cache");
    cache_unreserve(m, least);

    look(m, least / 2 + 1);
    size = cache_size(m);
    ok(size > least, "with more than half of it to be written the cache grows");
    is(m->cache_room, size, "by room");
    is(m->available, m->active_max + lent_frames(m), "that active frames lose");
    for (unsigned i = 0; i < 20; i++)
        look(m, cache_size(m) / 2 + 1);
    is(cache_size(m), m->buffer_count, "until it is whole");
    look(m, m->buffer_count / 3);
    is(cache_size(m), m->buffer_count, "with a third it stays");
    for (unsigned i = 0; i < 40; i++)
        look(m, 0);
    is(cache_size(m), least, "idle, it is lent again by and by");

    atomic_store(&m->lent.stage_short, 1);
    lend_fit(m);
    is(m->lent.stage, pieces - m->stage_pages / STAGE_PIECES, "a piece of staging that is wanted");
    is(m->available, m->active_max + lent_frames(m), "is taken from active frames");
    for (unsigned i = 0; i < 7; i++)
        look(m, 0);
    is(m->lent.stage, pieces - m->stage_pages / STAGE_PIECES, "it stays for seven looks");
    look(m, 0);
    is(m->lent.stage, pieces, "and is lent at the next");

    is(frame_reserve(m, UINT32_MAX), m->active_max + lent_frames(m), "all rights are taken");
    atomic_store(&m->lent.stage_short, 1);
    look(m, least);
    is(cache_size(m), least, "then the cache cannot grow");
    is(m->lent.stage, pieces, "nor staging");
    is(m->available, 0, "and nothing is lost");
    frame_unreserve(m, m->active_max + lent_frames(m));
    tear_down(&f);
    locked();
    return done_testing();
}
