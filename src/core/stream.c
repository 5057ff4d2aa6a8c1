#include "core/stream.h"

#include "core/machine.h"

#define FIRST_WINDOW 4u /* pages, once a stream is seen to go on */
#define GAP_PAGES 3u    /* a fault that skips so few pages still continues its stream */
#define FOLLOW_ONE 1024u
#define FOLLOW_SHIFT 5    /* the average moves by 1/32 */
#define BEHIND_AFTER 512u /* pages: a stream this long is a scan; shorter runs may come back */
#define WASTE_PER_HIT 8u  /* a page read in vain costs so much less than a fault saved */
#define CAP_PERIOD 1024u  /* pages of hits and waste between two moves of the cap */

void streams_init(struct streams *streams)
{
    atomic_init(&streams->follow, FOLLOW_ONE / 2);
    atomic_init(&streams->cap_eighths, 8);
}

static struct stream_set *set_of(struct streams *streams, uint32_t thread)
{
    return &streams->sets[thread * 2654435761u >> 16 & (STREAM_SETS - 1)];
}

static void learn_follow(struct streams *streams, bool followed)
{
    uint32_t old = atomic_load_explicit(&streams->follow, memory_order_relaxed);
    uint32_t target = followed ? FOLLOW_ONE : 0;
    int32_t step = ((int32_t)target - (int32_t)old) / (1 << FOLLOW_SHIFT);

    atomic_store_explicit(&streams->follow, (uint32_t)((int32_t)old + step), memory_order_relaxed);
}

/* Does a fault at va continue the stream? Its direction, or 0. */
static int8_t continues(const struct stream *s, uintptr_t va)
{
    uintptr_t gap = (GAP_PAGES + 1) * PAGE_SIZE;

    if (s->direction >= 0 && va >= s->next && va - s->next < gap)
        return 1;
    if (s->direction < 0 && va <= s->next && s->next - va < gap)
        return -1;
    if (s->direction == 0 && va + PAGE_SIZE == s->last)
        return -1;
    return 0;
}

/* Count hits or waste, and now and then move the cap on read windows. */
static void learn_worth(struct streams *streams, uint32_t hits, uint32_t waste)
{
    uint32_t all_hits =
        atomic_fetch_add_explicit(&streams->hits, hits, memory_order_relaxed) + hits;
    uint32_t all_waste =
        atomic_fetch_add_explicit(&streams->waste, waste, memory_order_relaxed) + waste;
    uint32_t cap = atomic_load_explicit(&streams->cap_eighths, memory_order_relaxed);

    if (all_hits + all_waste < CAP_PERIOD)
        return;
    atomic_store_explicit(&streams->hits, 0, memory_order_relaxed);
    atomic_store_explicit(&streams->waste, 0, memory_order_relaxed);
    if (all_waste > all_hits * WASTE_PER_HIT) {
        if (cap > 1)
            atomic_store_explicit(&streams->cap_eighths, cap - 1, memory_order_relaxed);
    } else if (cap < 8) {
        atomic_store_explicit(&streams->cap_eighths, cap + 1, memory_order_relaxed);
    }
}

/* The stream goes on at va: what was mapped ahead has been used, what is far behind is done with.
 */
static void advance(struct machine *m, struct stream *s, int8_t direction, unsigned most,
                    struct stream_plan *plan)
{
    uintptr_t ahead = (uintptr_t)(s->window - 1) * PAGE_SIZE;
    unsigned window = s->window < FIRST_WINDOW ? FIRST_WINDOW : 2u * s->window;

    if (s->direction == 0)
        learn_follow(&m->streams, true);
    /* While the direction is not known, a window lies forward. */
    if (ahead > 0 && direction == (s->direction != 0 ? s->direction : 1)) {
        plan->passed_pages = s->window - 1u;
        plan->passed_from = direction > 0 ? s->last + PAGE_SIZE : s->last - ahead;
        learn_worth(&m->streams, plan->passed_pages, 0);
    }
    if (s->direction == 0)
        s->behind = s->last;
    if (direction > 0 && s->length >= BEHIND_AFTER && s->last > s->behind) {
        plan->trim_from = s->behind;
        plan->trim_pages = (uint32_t)((s->last - s->behind) >> PAGE_SHIFT);
        s->behind = s->last;
    }
    s->direction = direction;
    plan->direction = direction;
    plan->window = window < most ? window : most;
}

static struct stream *find(struct stream_set *set, uintptr_t va, uint32_t thread, bool touching,
                           int8_t *direction)
{
    for (unsigned i = 0; i < STREAMS_PER_SET; i++) {
        struct stream *s = &set->streams[i];

        if (s->last == 0 || s->thread != thread || s->touching != touching)
            continue;
        *direction = continues(s, va);
        if (*direction != 0)
            return s;
    }
    return NULL;
}

static struct stream *replace(struct machine *m, struct stream_set *set, uint32_t thread,
                              bool touching)
{
    struct stream *oldest = &set->streams[0];

    for (unsigned i = 1; i < STREAMS_PER_SET; i++) {
        struct stream *s = &set->streams[i];

        if (s->last == 0 || (oldest->last != 0 && (int32_t)(s->used - oldest->used) < 0))
            oldest = s;
    }
    if (oldest->last != 0 && oldest->direction == 0)
        learn_follow(&m->streams, false);
    *oldest = (struct stream){.thread = thread, .touching = touching};
    return oldest;
}

/* The window of a first fault, by how often first faults were followed lately. */
static unsigned first_window(struct streams *streams)
{
    uint32_t follow = atomic_load_explicit(&streams->follow, memory_order_relaxed);

    if (follow > FOLLOW_ONE * 6 / 10)
        return 2 * FIRST_WINDOW;
    return follow > FOLLOW_ONE * 4 / 10 ? FIRST_WINDOW : 1;
}

void stream_plan(struct machine *m, uintptr_t va, uint32_t thread, bool touching, unsigned most,
                 struct stream_plan *plan)
{
    struct stream_set *set = set_of(&m->streams, thread);
    struct stream *s;
    int8_t direction = 0;

    *plan = (struct stream_plan){.window = 1, .direction = 1};
    if (!touching) {
        unsigned cap = m->streams.cap_eighths;

        most = most * cap / 8 > 0 ? most * cap / 8 : 1;
    }
    if (most <= 1 || !sync_mutex_trylock(&m->sync, &set->lock, SYNC_STREAMS))
        return;
    s = find(set, va, thread, touching, &direction);
    if (s != NULL) {
        advance(m, s, direction, most, plan);
    } else {
        unsigned window = first_window(&m->streams);

        s = replace(m, set, thread, touching);
        plan->window = window < most ? window : most;
    }
    s->last = va;
    s->next = va + (plan->direction > 0 ? PAGE_SIZE : -PAGE_SIZE);
    s->window = 1;
    s->used = ++set->tick;
    sync_mutex_unlock(&m->sync, &set->lock, SYNC_STREAMS);
}

void stream_mapped(struct machine *m, uintptr_t va, uint32_t thread, unsigned pages)
{
    struct stream_set *set = set_of(&m->streams, thread);

    if (!sync_mutex_trylock(&m->sync, &set->lock, SYNC_STREAMS))
        return;
    for (unsigned i = 0; i < STREAMS_PER_SET; i++) {
        struct stream *s = &set->streams[i];
        uintptr_t length = (uintptr_t)pages * PAGE_SIZE;

        if (s->last != va || s->thread != thread)
            continue;
        s->window = (uint8_t)pages;
        s->length += pages;
        s->next = s->direction < 0 ? va - length : va + length;
    }
    sync_mutex_unlock(&m->sync, &set->lock, SYNC_STREAMS);
}

void stream_waste(struct machine *m, unsigned pages)
{
    if (pages == 0)
        return;
    count(m, COUNTER_readahead_waste, pages);
    learn_worth(&m->streams, 0, pages);
}
