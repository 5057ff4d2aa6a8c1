#include "core/stream.h"

#include <stdlib.h>

#include "core/machine.h"

#define SECOND_WINDOW 4u  /* pages at least, once a stream is seen to go on */
#define GAP_PAGES 3u      /* a fault that skips so few pages still continues its stream */
#define STEP_MAX 512      /* pages between two faults of a stream with steps, at most */
#define ONE 1024u         /* scale of averages */
#define AVERAGE_SHIFT 5   /* they move by 1/32 */
#define TRIAL_EVERY 8u    /* a first window of so many is half as long as the others */
#define FIRST_WINDOW 4u   /* pages, before anything is learned */
#define FAULT_WORTH 6u    /* pages read in vain that cost what a fault saved costs */
#define FAULTS_A_PAGE 4u  /* other faults that a stream outlives, for each page of its window */
#define BEHIND_AFTER 512u /* pages: a stream this long is a scan; shorter runs may come back */

/* ---- windows of first faults ---- */

/* Of 1024 windows of so many pages, how many must be followed for twice as many to be worth it? */
static uint32_t worth_doubling(uint32_t window)
{
    return ONE * window / (window + FAULT_WORTH);
}

static uint32_t worth_keeping(uint32_t window)
{
    return worth_doubling(window) * 3 / 4;
}

static void average(uint32_t *mean, bool followed)
{
    int32_t target = followed ? (int32_t)ONE : 0;

    *mean = (uint32_t)((int32_t)*mean + (target - (int32_t)*mean) / (1 << AVERAGE_SHIFT));
}

/* A first window was followed in a direction, or was not (0): what is the best one now? */
static void learn(struct stream_set *set, const struct stream *s, int32_t direction)
{
    struct stream_first *first = &set->first[s->touching];

    if (s->opening == OPENING_HALF)
        average(&first->half, direction > 0);
    else
        average(&first->whole, direction > 0);
    if (s->opening != OPENING_BACK)
        average(&first->back, direction < 0);
    if (first->window < RUN_MAX && first->whole > worth_doubling(first->window)) {
        first->window *= 2;
        first->half = first->whole;
        first->whole = worth_keeping(first->window);
    } else if (first->window > 1 && first->half < worth_keeping(first->window / 2)) {
        first->window /= 2;
        first->whole = first->half;
        first->half = worth_doubling(first->window / 2);
    }
}

void streams_init(struct streams *streams)
{
    for (unsigned i = 0; i < 2 * STREAM_SETS; i++)
        streams->sets[i / 2].first[i % 2] =
            (struct stream_first){.window = FIRST_WINDOW,
                                  .whole = worth_keeping(FIRST_WINDOW),
                                  .half = worth_doubling(FIRST_WINDOW / 2)};
}

/* ---- streams ---- */

static struct stream_set *set_of(struct streams *streams, uint32_t thread)
{
    return &streams->sets[thread * 2654435761u >> 16 & (STREAM_SETS - 1)];
}

/* Which way its last window lay. */
static int32_t lay_of(const struct stream *s)
{
    if (s->stride != 0)
        return s->stride;
    return s->opening == OPENING_BACK ? -1 : 1;
}

/* Does a fault at va continue the stream? Its stride, or 0. */
static int32_t continues(const struct stream *s, uintptr_t va)
{
    intptr_t pages = (intptr_t)(va - s->next) / (intptr_t)PAGE_SIZE;

    if (s->stride == 0 && s->opening == OPENING_BACK) {
        if (pages == 0)
            return -1;
        pages = (intptr_t)(va - s->last) / (intptr_t)PAGE_SIZE - 1;
    }
    if (s->stride == 0 && va + PAGE_SIZE == s->low)
        return -1;
    if (s->stride == 0)
        return pages >= 0 && pages <= (intptr_t)GAP_PAGES ? 1 : 0;
    if (pages % s->stride != 0)
        return 0;
    pages /= s->stride;
    return pages >= 0 && pages <= (intptr_t)GAP_PAGES ? s->stride : 0;
}

/* What a scan has left behind is done with. */
static void pass_behind(struct stream *s, struct stream_plan *plan)
{
    bool forward = s->stride == 1;

    if (abs(s->stride) != 1 || s->length < BEHIND_AFTER || s->last == s->behind ||
        forward != (s->last > s->behind))
        return;
    plan->trim_from = forward ? s->behind : s->last + PAGE_SIZE;
    plan->trim_pages =
        (uint32_t)((forward ? s->last - s->behind : s->behind - s->last) >> PAGE_SHIFT);
    s->behind = s->last;
}

/* The stream goes on at va: what was mapped ahead has been used, what is far behind is done with.
 */
static void advance(struct stream_set *set, struct stream *s, int32_t stride, unsigned most,
                    struct stream_plan *plan)
{
    uint32_t window;

    if (s->opening != OPENING_FOLLOWED)
        learn(set, s, stride);
    if (stride == lay_of(s)) {
        plan->passed_pages = s->window - 1u;
        plan->passed_from = s->last + (uintptr_t)stride * PAGE_SIZE;
    } else { /* it was in vain */
        s->window = 1;
        s->length = 1;
    }
    s->opening = OPENING_FOLLOWED;
    window = 2u * s->window < s->length ? 2u * s->window : s->length;
    if (s->stride == 0)
        s->behind = s->last;
    s->stride = stride;
    pass_behind(s, plan);
    if (window < SECOND_WINDOW)
        window = SECOND_WINDOW;
    if (abs(stride) > 1 && window > STEPS_MAX)
        window = STEPS_MAX;
    plan->stride = stride;
    plan->window = window < most ? window : most;
}

static struct stream *find(struct stream_set *set, uintptr_t va, uint32_t thread, bool touching,
                           int32_t *stride)
{
    for (unsigned i = 0; i < STREAMS_PER_SET; i++) {
        struct stream *s = &set->streams[i];

        if (s->last == 0 || s->thread != thread || s->touching != touching)
            continue;
        *stride = continues(s, va);
        if (*stride != 0)
            return s;
    }
    return NULL;
}

/* A fault that fits no stream: does it make the second step of the same length? Or 0. */
static int32_t note_alone(struct stream_set *set, uintptr_t va, uint32_t thread)
{
    intptr_t step = (intptr_t)(va - set->alone) / (intptr_t)PAGE_SIZE;
    bool again = thread == set->alone_thread && step == set->alone_step;

    set->alone_step = labs(step) <= STEP_MAX && thread == set->alone_thread ? (int32_t)step : 0;
    set->alone = va;
    set->alone_thread = thread;
    return again ? set->alone_step : 0;
}

/* How many faults ago should it have gone on? Less than none while its window may still be in use:
 * the other pages that are touched meanwhile fault, and those of the window do not. */
static int32_t overdue(const struct stream_set *set, const struct stream *s)
{
    return (int32_t)(set->tick - s->used) - (int32_t)(FAULTS_A_PAGE * s->window);
}

static struct stream *replace(struct stream_set *set, uint32_t thread, bool touching)
{
    struct stream *oldest = &set->streams[0];

    for (unsigned i = 1; i < STREAMS_PER_SET; i++) {
        struct stream *s = &set->streams[i];

        if (oldest->last != 0 && (s->last == 0 || overdue(set, s) > overdue(set, oldest)))
            oldest = s;
    }
    if (oldest->last != 0 && oldest->opening != OPENING_FOLLOWED)
        learn(set, oldest, 0);
    *oldest = (struct stream){.thread = thread, .touching = touching};
    return oldest;
}

/* A stream begins at va. */
static struct stream *begin(struct stream_set *set, uintptr_t va, uint32_t thread, bool touching,
                            unsigned most, struct stream_plan *plan)
{
    struct stream *s = replace(set, thread, touching);
    int32_t stride = touching ? 0 : note_alone(set, va, thread);
    struct stream_first *first = &set->first[touching];
    uint32_t window = first->window;

    s->opening = OPENING_WHOLE;
    if (stride != 0) {
        s->opening = OPENING_FOLLOWED;
        s->stride = plan->stride = stride;
        s->behind = va; /* a step of 1: pages that were passed over, valid, and then trimmed */
        window = SECOND_WINDOW;
    } else if (++first->begun % TRIAL_EVERY == 0) {
        s->opening = window > 1 ? OPENING_HALF : OPENING_WHOLE;
        window = window > 1 ? window / 2 : 1;
    } else if (window == 1 && first->back > worth_doubling(1)) {
        s->opening = OPENING_BACK;
        plan->stride = -1;
        window = 2;
    }
    plan->window = window < most ? window : most;
    return s;
}

/* The fault at va has been planned before and had no frame: the same again, or NULL. */
static struct stream *planned(struct stream_set *set, uintptr_t va, uint32_t thread, bool touching,
                              unsigned most, struct stream_plan *plan)
{
    for (unsigned i = 0; i < STREAMS_PER_SET; i++) {
        struct stream *s = &set->streams[i];

        if (s->last != va || s->thread != thread || s->touching != touching || s->window != 1)
            continue;
        plan->stride = lay_of(s);
        plan->window = s->planned < most ? s->planned : most;
        return s;
    }
    return NULL;
}

void stream_plan(struct machine *m, uintptr_t va, uint32_t thread, bool touching, unsigned most,
                 struct stream_plan *plan)
{
    struct stream_set *set = set_of(&m->streams, thread);
    struct stream *s;
    int32_t stride = 0;

    *plan = (struct stream_plan){.window = 1, .stride = 1};
    if (most <= 1 || !sync_mutex_trylock(&m->sync, &set->lock, SYNC_STREAMS))
        return;
    s = planned(set, va, thread, touching, most, plan);
    if (s == NULL) {
        s = find(set, va, thread, touching, &stride);
        if (s != NULL)
            advance(set, s, stride, most, plan);
        else
            s = begin(set, va, thread, touching, most, plan);
    }
    plan->of_stream = true;
    plan->length = s->length;
    s->last = va;
    s->low = va;
    s->next = va + (uintptr_t)plan->stride * PAGE_SIZE;
    s->window = 1;
    s->planned = (uint16_t)plan->window;
    s->used = ++set->tick;
    sync_mutex_unlock(&m->sync, &set->lock, SYNC_STREAMS);
}

void stream_covered(struct machine *m, uintptr_t va, uint32_t thread, unsigned pages, uintptr_t low,
                    uintptr_t next)
{
    struct stream_set *set = set_of(&m->streams, thread);

    if (!sync_mutex_trylock(&m->sync, &set->lock, SYNC_STREAMS))
        return;
    for (unsigned i = 0; i < STREAMS_PER_SET; i++) {
        struct stream *s = &set->streams[i];

        if (s->last != va || s->thread != thread)
            continue;
        s->window = (uint16_t)pages;
        s->length += pages;
        s->low = low;
        s->next = next;
    }
    sync_mutex_unlock(&m->sync, &set->lock, SYNC_STREAMS);
}

/* Pages from the stream's last fault to va, if va is in its window; or 0. */
static uint32_t passed(const struct stream *s, uintptr_t va)
{
    uintptr_t pages = s->stride == 1 ? va - s->last : s->last - va;

    pages >>= PAGE_SHIFT;
    return abs(s->stride) == 1 && pages < s->window ? (uint32_t)pages : 0;
}

bool stream_passes(struct machine *m, uintptr_t va, uint32_t thread, struct stream_plan *plan)
{
    struct stream_set *set = set_of(&m->streams, thread);
    bool found = false;

    *plan = (struct stream_plan){0};
    if (!sync_mutex_trylock(&m->sync, &set->lock, SYNC_STREAMS))
        return false;
    for (unsigned i = 0; i < STREAMS_PER_SET && !found; i++) {
        struct stream *s = &set->streams[i];
        uint32_t pages = s->last != 0 && s->thread == thread && !s->touching ? passed(s, va) : 0;

        if (pages == 0)
            continue;
        plan->window = s->planned;
        plan->length = s->length;
        plan->stride = s->stride;
        plan->next = s->next;
        plan->passed_from = s->last + (uintptr_t)s->stride * PAGE_SIZE;
        plan->passed_pages = pages - 1;
        pass_behind(s, plan);
        s->last = va;
        s->window = (uint16_t)(s->window - pages);
        plan->left = s->window;
        s->used = ++set->tick;
        found = true;
    }
    sync_mutex_unlock(&m->sync, &set->lock, SYNC_STREAMS);
    return found;
}

void stream_longer(struct machine *m, uintptr_t next, uint32_t thread, unsigned pages)
{
    struct stream_set *set = set_of(&m->streams, thread);

    if (!sync_mutex_trylock(&m->sync, &set->lock, SYNC_STREAMS))
        return;
    for (unsigned i = 0; i < STREAMS_PER_SET; i++) {
        struct stream *s = &set->streams[i];

        if (s->last == 0 || s->thread != thread || s->touching || s->next != next ||
            s->window + pages > UINT16_MAX)
            continue;
        s->window = (uint16_t)(s->window + pages);
        s->length += pages;
        s->next += (uintptr_t)s->stride * pages * PAGE_SIZE;
    }
    sync_mutex_unlock(&m->sync, &set->lock, SYNC_STREAMS);
}
