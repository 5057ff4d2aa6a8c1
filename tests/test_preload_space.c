/* The table of the arena of `vmsm run`: against an array with an entry for each page. */
#include "preload/space.h"
#include "tap.h"

#define PAGE ((uintptr_t)4096)
#define PAGES 200u
#define BASE ((uintptr_t)0x100000000)
#define STEPS 20000u

static struct space_range ranges[PAGES + 2];
static struct space space;
static struct space_what model[PAGES];

static unsigned draw(uint64_t *state, unsigned below)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)((*state >> 33) % below);
}

static bool same(struct space_what a, struct space_what b)
{
    return a.kind == b.kind && a.protection == b.protection && a.flags == b.flags;
}

/* The table says what the model says, in the fewest ranges. */
static bool agrees(void)
{
    uint64_t charged = 0;
    unsigned count = 0;

    for (unsigned i = 0; i < PAGES; i++) {
        struct space_range piece = space_piece(&space, BASE + i * PAGE, BASE + PAGES * PAGE);

        if (!same(piece.what, model[i]) || piece.start != BASE + i * PAGE)
            return false;
        charged += (model[i].flags & SPACE_CHARGED) ? PAGE : 0;
        count += model[i].kind != SPACE_FREE && (i == 0 || !same(model[i], model[i - 1]));
    }
    return space.charged == charged && space.count == count && space.charged_peak >= charged;
}

/* The lowest gap of so many pages, as the model knows it. */
static uintptr_t lowest_gap(unsigned pages, unsigned alignment)
{
    for (unsigned i = 0; i + pages <= PAGES; i += alignment) {
        unsigned free = 0;

        while (free < pages && model[i + free].kind == SPACE_FREE)
            free++;
        if (free == pages)
            return BASE + i * PAGE;
    }
    return 0;
}

static void test_random(void)
{
    uint64_t state = 1;
    unsigned wrong = 0, wrong_gaps = 0;

    for (unsigned step = 0; step < STEPS && wrong == 0; step++) {
        unsigned first = draw(&state, PAGES),
                 count = 1 + draw(&state, step % 2 ? 4 : PAGES - first);
        struct space_what what = {.kind = (uint8_t)draw(&state, 4)};
        unsigned alignment = 1u << draw(&state, 3);

        if (first + count > PAGES)
            count = PAGES - first;
        if (what.kind == SPACE_MANAGED) {
            what.protection = (uint8_t)draw(&state, 2);
            what.flags = (uint8_t)draw(&state, 2);
        }
        space_set(&space, BASE + first * PAGE, BASE + (first + count) * PAGE, what);
        for (unsigned i = first; i < first + count; i++)
            model[i] = what;
        wrong += !agrees();
        wrong_gaps +=
            space_find(&space, count * PAGE, alignment * PAGE) != lowest_gap(count, alignment);
    }
    is(wrong, 0, "%u changes, as the model has them", STEPS);
    is(wrong_gaps, 0, "gaps are found where they are");
}

static void test_questions(void)
{
    struct space_what managed = {.kind = SPACE_MANAGED, .protection = 3}, what;

    space_init(&space, BASE, BASE + PAGES * PAGE, ranges, PAGES + 2);
    space_set(&space, BASE, BASE + 10 * PAGE, managed);
    ok(space_uniform(&space, BASE + PAGE, BASE + 9 * PAGE, &what) && same(what, managed),
       "a range is of one kind");
    ok(!space_uniform(&space, BASE, BASE + 11 * PAGE, &what), "not with what is behind it");
    ok(!space_has_hole(&space, BASE, BASE + 10 * PAGE), "it has no hole");
    ok(space_has_hole(&space, BASE, BASE + 11 * PAGE), "there is one behind it");
    space_set(&space, BASE + 4 * PAGE, BASE + 5 * PAGE, (struct space_what){.kind = SPACE_DEAD});
    ok(space_has_hole(&space, BASE, BASE + 10 * PAGE), "a dead part is a hole");
    is(space_find(&space, (PAGES + 1) * PAGE, PAGE), 0, "more than there is cannot be found");
    is(space_find(&space, PAGE, PAGE), BASE + 10 * PAGE, "dead parts are not found again");
}

int main(void)
{
    space_init(&space, BASE, BASE + PAGES * PAGE, ranges, PAGES + 2);
    test_random();
    test_questions();
    return done_testing();
}
