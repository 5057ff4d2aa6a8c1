/*
 * MADV_POPULATE_READ and MADV_POPULATE_WRITE of managed memory.
 *
 * The kernel would fault for it, and where its faults are not served fail. So pages are touched, as the
 * program would touch them, and without the gate, since that may wait. Another thread may take the
 * memory away meanwhile: then this is SIGSEGV, which it would have been for a touch of the program's.
 */
#include <errno.h>
#include <sys/mman.h>

#include "preload/kernel.h"
#include "preload/memory.h"
#include "preload/preload.h"

#define STEP (1024UL * 1024) /* so that what has been looked at is soon touched */

/* start, end, protection, a struct space_range: what is there. 0, or why it cannot be touched. */
static long look(const uintptr_t *a)
{
    struct space_range *piece = (struct space_range *)a[3];

    *piece = space_piece(&arena.space, a[0], a[1]);
    if (piece->what.kind == SPACE_FOREIGN)
        return 0;
    if (piece->what.kind != SPACE_MANAGED)
        return -ENOMEM;
    return (piece->what.protection & a[2]) ? 0 : -EINVAL;
}

long memory_populate(uintptr_t start, uintptr_t end, int advice)
{
    bool write = advice == MADV_POPULATE_WRITE;
    struct space_range piece;

    for (uintptr_t at = start; at < end; at = piece.end) {
        uintptr_t stop = end - at < STEP ? end : at + STEP;
        long error = gate_shared_call(
            look, (uintptr_t[]){at, stop, write ? PROT_WRITE : PROT_READ, (uintptr_t)&piece});

        if (error != 0)
            return error;
        if (piece.what.kind == SPACE_FOREIGN) {
            if (kernel_madvise((void *)piece.start, piece.end - piece.start, advice) != 0)
                return -errno;
            continue;
        }
        for (uintptr_t page = piece.start; page < piece.end; page += MEMORY_PAGE)
            memory_touch(page, write);
    }
    return 0;
}
