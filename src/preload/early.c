/*
 * What was mapped before there was a manager, and counts as such (process_early()): only that comes
 * off when it is unmapped, and may not grow for ever where the kernel has it.
 *
 * Nobody waits for the table but for a moment: who finds it taken then (by another thread, by what
 * a signal interrupted, in a child by a thread that is not there) does without, and something
 * counts for longer.
 */
#include <sys/mman.h>

#include "preload/memory.h"
#include "preload/preload.h"

#define RANGES 256u
#define TRIES 100 /* for as long as another thread may need */

static struct space_range ranges[RANGES];
/* Counted ranges are MANAGED, with their protection, and SPARSE as they are. */
static struct space early; /* (taken) */
static _Atomic bool taken;
static _Atomic bool stale; /* the table may have what is there no more, or is otherwise now */

static bool take(void)
{
    int tries = 0;

    while (atomic_exchange(&taken, true)) {
        if (++tries == TRIES)
            return false;
    }
    if (early.capacity == 0)
        space_init(&early, 0, MEMORY_ADDRESS_END, ranges, RANGES);
    return true;
}

void early_mapped(uintptr_t start, size_t length, int protection, int flags)
{
    struct space_what what = {.kind = SPACE_MANAGED, .protection = (uint8_t)protection};

    if (flags & MAP_NORESERVE)
        what.flags = SPACE_SPARSE;
    if (!take())
        return;
    if (space_has_room(&early))
        space_set(&early, start, start + length, what);
    atomic_store(&taken, false);
}

/* The same, for a range that has changed: if it cannot be taken, what it says is stale. */
static bool take_to_change(uintptr_t start, uintptr_t end)
{
    if (end > MEMORY_ADDRESS_END || end < start)
        return false;
    if (take())
        return true;
    atomic_store(&stale, true);
    return false;
}

void early_unmapped(uintptr_t start, size_t length)
{
    uintptr_t end = start + length;
    size_t gone = 0;

    if (!take_to_change(start, end))
        return;
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

void early_protected(uintptr_t start, size_t length, int protection)
{
    uintptr_t end = start + length;

    if (!take_to_change(start, end))
        return;
    for (uintptr_t at = start; at < end;) {
        struct space_range piece = space_piece(&early, at, end);

        at = piece.end;
        if (piece.what.kind != SPACE_MANAGED || piece.what.protection == (uint8_t)protection)
            continue;
        piece.what.protection = (uint8_t)protection;
        if (space_has_room(&early))
            space_set(&early, piece.start, piece.end, piece.what);
        else
            atomic_store(&stale, true);
    }
    atomic_store(&taken, false);
}

bool early_contains(uintptr_t start, size_t length, struct space_what *what)
{
    bool is = false;

    if (start + length > MEMORY_ADDRESS_END || start + length <= start || !take())
        return false;
    is = space_uniform(&early, start, start + length, what) && what->kind == SPACE_MANAGED &&
         !atomic_load(&stale);
    atomic_store(&taken, false);
    return is;
}
