/*
 * What was mapped before there was a manager, and counts as such (process_early()): only that comes
 * off when it is unmapped, and may not grow for ever where the kernel has it.
 *
 * Nobody waits for the table: who finds it taken (by another thread, by what a signal interrupted,
 * in a child by a thread that is not there) does without, and something counts for longer.
 */
#include "preload/preload.h"

#define RANGES 256u
#define ADDRESS_END (1UL << 47)

static struct space_range ranges[RANGES];
static struct space early; /* (taken) counted ranges are MANAGED, with the protection they had */
static _Atomic bool taken;
static _Atomic bool stale; /* the table may have what is there no more */

static bool take(void)
{
    if (atomic_exchange(&taken, true))
        return false;
    if (early.capacity == 0)
        space_init(&early, 0, ADDRESS_END, ranges, RANGES);
    return true;
}

void early_mapped(uintptr_t start, size_t length, int protection)
{
    struct space_what what = {.kind = SPACE_MANAGED, .protection = (uint8_t)protection};

    if (!take())
        return;
    if (space_has_room(&early))
        space_set(&early, start, start + length, what);
    atomic_store(&taken, false);
}

void early_unmapped(uintptr_t start, size_t length)
{
    uintptr_t end = start + length;
    size_t gone = 0;

    if (end > ADDRESS_END || end < start)
        return;
    if (!take()) {
        atomic_store(&stale, true);
        return;
    }
    for (uintptr_t at = start; at < end;) {
        struct space_range piece = space_piece(&early, at, end);

        if (piece.what.kind == SPACE_MANAGED)
            gone += piece.end - piece.start;
        at = piece.end;
    }
    if (gone > 0 && space_has_room(&early)) {
        space_set(&early, start, end, (struct space_what){.kind = SPACE_FREE});
        process_early_gone(gone);
    } else if (gone > 0) {
        atomic_store(&stale, true);
    }
    atomic_store(&taken, false);
}

bool early_contains(uintptr_t start, size_t length, int *protection)
{
    struct space_what what = {.kind = SPACE_FREE};
    bool is = false;

    if (start + length > ADDRESS_END || start + length <= start || !take())
        return false;
    is = space_uniform(&early, start, start + length, &what) && what.kind == SPACE_MANAGED &&
         !atomic_load(&stale);
    atomic_store(&taken, false);
    *protection = what.protection;
    return is;
}
