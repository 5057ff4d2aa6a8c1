/*
 * Page replacement replayed, on sequences short enough to be followed by hand, and on loops, of
 * which the hits are known.
 */
#include <stdint.h>

#include "../bench/draw.h"
#include "../bench/replay.h"
#include "tap.h"

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))
#define LOOP_PAGES 50
#define LOOP_FRAMES 20
#define LOOP_ROUNDS 98 /* MIN's hits repeat after LOOP_PAGES - 1 rounds */
#define RANDOM_TOUCHES 20000
#define RANDOM_PAGES 60

static size_t lru_hits(const struct replay *r, uint32_t run)
{
    size_t hits = 0;

    ok(replay_lru(r, run, &hits) == 0, "LRU is replayed");
    return hits;
}

static size_t min_hits(const struct replay *r)
{
    size_t hits = 0;

    ok(replay_min(r, &hits) == 0, "MIN is replayed");
    return hits;
}

/* The textbooks' sequence: 12 misses of 20 by LRU, 9 by MIN. */
static void textbook_check(void)
{
    static const uint32_t touches[] = {7, 0, 1, 2, 0, 3, 0, 4, 2, 3, 0, 3, 2, 1, 2, 0, 1, 7, 0, 1};
    struct replay r = {.touches = touches, .counted = LENGTH(touches), .pages = 8, .frames = 3};
    bool kept[8] = {[0] = true, [2] = true, [3] = true};

    is(lru_hits(&r, 1), 8, "LRU: 8 hits of 20");
    is(min_hits(&r), 11, "MIN: 11");
    is(replay_fixed(&r, kept), 13, "pages 0, 2 and 3 kept: 13");
    r.warm = 12;
    r.counted = 8;
    is(lru_hits(&r, 1), 5, "LRU: 5 of the last 8");
    is(min_hits(&r), 6, "MIN: 6");
    is(replay_fixed(&r, kept), 4, "pages 0, 2 and 3 kept: 4");
    r.frames = 8;
    is(min_hits(&r) + lru_hits(&r, 1), 16, "with a frame for each page there are no misses");
}

/* Four frames, pages read in pairs: 0 brings 1, 3 brings 2, 4 and 5 drive out 1 and 0, 0 and 1 drive
 * out 3 and 2, 2 and 3 drive out 5 and 4. Hits: the first 1, the second 0, the first 2, the last 1. */
static void ahead_check(void)
{
    static const uint32_t touches[] = {0, 1, 0, 3, 2, 4, 0, 2, 1};
    struct replay r = {.touches = touches, .counted = LENGTH(touches), .pages = 6, .frames = 4};

    is(lru_hits(&r, 2), 4, "LRU in pairs");
    is(lru_hits(&r, 1), 3, "and one by one");
}

/* Round and round: LRU has always just evicted what is next; MIN keeps all but one of the frames. */
static void loop_check(void)
{
    static uint32_t touches[LOOP_PAGES * LOOP_ROUNDS];
    struct replay r = {.touches = touches,
                       .warm = LENGTH(touches) / 2,
                       .counted = LENGTH(touches) / 2,
                       .pages = LOOP_PAGES,
                       .frames = LOOP_FRAMES};

    for (size_t i = 0; i < LENGTH(touches); i++)
        touches[i] = (uint32_t)(i % LOOP_PAGES);
    is(lru_hits(&r, 1), 0, "a loop: LRU never hits");
    is(lru_hits(&r, 10), r.counted - r.counted / 10, "but for what it reads ahead");
    is(min_hits(&r), r.counted * (LOOP_FRAMES - 1) / (LOOP_PAGES - 1), "MIN does");
}

/* MIN once more, by looking for the next touch of each page that is there. */
static size_t min_by_search(const struct replay *r)
{
    uint32_t there[RANDOM_PAGES];
    size_t used = 0, hits = 0, count = r->warm + r->counted;

    for (size_t i = 0; i < count; i++) {
        size_t at = 0, farthest = 0, victim = 0;

        while (at < used && there[at] != r->touches[i])
            at++;
        if (at < used) {
            hits += i >= r->warm;
            continue;
        }
        if (used < r->frames) {
            there[used++] = r->touches[i];
            continue;
        }
        for (size_t f = 0; f < used; f++) {
            size_t next = i + 1;

            while (next < count && r->touches[next] != there[f])
                next++;
            if (next > farthest) {
                farthest = next;
                victim = f;
            }
        }
        there[victim] = r->touches[i];
    }
    return hits;
}

static void random_check(void)
{
    static uint32_t touches[RANDOM_TOUCHES];
    struct replay r = {.touches = touches, .counted = RANDOM_TOUCHES, .pages = RANDOM_PAGES};
    struct zipf zipf = zipf_make(RANDOM_PAGES, 0.9);
    uint64_t random = 5;

    for (size_t i = 0; i < RANDOM_TOUCHES; i++)
        touches[i] = (uint32_t)zipf_draw(&zipf, &random) - 1;
    for (r.frames = 1; r.frames <= RANDOM_PAGES; r.frames += 13) {
        size_t min = min_hits(&r);

        is(min, min_by_search(&r), "MIN with %u frames: as by a search", r.frames);
        ok(min >= lru_hits(&r, 1), "no fewer than LRU");
    }
}

int main(void)
{
    textbook_check();
    ahead_check();
    loop_check();
    random_check();
    return done_testing();
}
