#include "preload/space.h"

#include <string.h>

static const struct space_what nothing = {.kind = SPACE_FREE};

static bool same(struct space_what a, struct space_what b)
{
    return a.kind == b.kind && a.protection == b.protection && a.flags == b.flags;
}

void space_init(struct space *s, uintptr_t base, uintptr_t end, struct space_range *ranges,
                unsigned capacity)
{
    *s = (struct space){.base = base, .end = end, .ranges = ranges, .capacity = capacity};
}

/* Index of the first range that ends after `at`. */
static unsigned first_after(const struct space *s, uintptr_t at)
{
    unsigned low = 0, high = s->count;

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (s->ranges[middle].end > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

struct space_range space_piece(const struct space *s, uintptr_t at, uintptr_t end)
{
    unsigned i = first_after(s, at);
    struct space_range piece = {.start = at, .end = end, .what = nothing};

    if (i == s->count || s->ranges[i].start >= end)
        return piece;
    if (s->ranges[i].start > at) {
        piece.end = s->ranges[i].start;
        return piece;
    }
    piece.what = s->ranges[i].what;
    if (s->ranges[i].end < end)
        piece.end = s->ranges[i].end;
    return piece;
}

bool space_uniform(const struct space *s, uintptr_t start, uintptr_t end, struct space_what *what)
{
    struct space_range piece = space_piece(s, start, end);

    *what = piece.what;
    return piece.end == end;
}

bool space_has_hole(const struct space *s, uintptr_t start, uintptr_t end)
{
    while (start < end) {
        struct space_range piece = space_piece(s, start, end);

        if (piece.what.kind == SPACE_FREE || piece.what.kind == SPACE_DEAD)
            return true;
        start = piece.end;
    }
    return false;
}

static uint64_t charge_of(const struct space_range *range)
{
    return (range->what.flags & SPACE_CHARGED) ? range->end - range->start : 0;
}

/* Put `count` new ranges in the place of [from, to). */
static void replace(struct space *s, unsigned from, unsigned to, const struct space_range *new,
                    unsigned count)
{
    memmove(s->ranges + from + count, s->ranges + to, (s->count - to) * sizeof(*s->ranges));
    if (count > 0)
        memcpy(s->ranges + from, new, count * sizeof(*s->ranges));
    s->count = s->count - (to - from) + count;
}

/* Join the ranges from index `from` to `to` with those that touch them and are the same. */
static void join(struct space *s, unsigned from, unsigned to)
{
    unsigned i = from > 0 ? from - 1 : 0;

    while (i < to && i + 1 < s->count) {
        struct space_range *a = &s->ranges[i];
        const struct space_range *b = &s->ranges[i + 1];

        if (a->end != b->start || !same(a->what, b->what)) {
            i++;
            continue;
        }
        a->end = b->end;
        replace(s, i + 1, i + 2, NULL, 0);
        to--;
    }
}

void space_set(struct space *s, uintptr_t start, uintptr_t end, struct space_what what)
{
    unsigned from = first_after(s, start), to = from, count = 0;
    struct space_range new[3];

    while (to < s->count && s->ranges[to].start < end)
        s->charged -= charge_of(&s->ranges[to++]);
    if (from < to && s->ranges[from].start < start)
        new[count++] = (struct space_range){s->ranges[from].start, start, s->ranges[from].what};
    if (what.kind != SPACE_FREE)
        new[count++] = (struct space_range){start, end, what};
    if (from < to && s->ranges[to - 1].end > end)
        new[count++] = (struct space_range){end, s->ranges[to - 1].end, s->ranges[to - 1].what};
    for (unsigned i = 0; i < count; i++)
        s->charged += charge_of(&new[i]);
    if (s->charged > s->charged_peak)
        s->charged_peak = s->charged;
    replace(s, from, to, new, count);
    join(s, from, from + count);
}

uintptr_t space_find(const struct space *s, size_t length, size_t alignment)
{
    uintptr_t at = s->base;

    for (unsigned i = 0; i <= s->count; i++) {
        uintptr_t stop = i < s->count ? s->ranges[i].start : s->end;

        at = (at + alignment - 1) & ~(uintptr_t)(alignment - 1);
        if (stop > at && stop - at >= length)
            return at;
        if (i < s->count)
            at = s->ranges[i].end;
    }
    return 0;
}
