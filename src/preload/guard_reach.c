/*
 * Memory that the program points to, where the guard reads it in place. (What it copies is in
 * guard_copy.c.) A pointer may be bad; then the program is to get what the kernel would say (EFAULT),
 * and not a signal.
 *
 * Pages of the manager's are touched as the program would touch them, so that their faults are
 * served; whether they may be, the space says. Of others the kernel knows, and tells who has it read
 * a set of signals there. (Programs look in that way at addresses as well.)
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "preload/guard.h"
#include "preload/kernel.h"
#include "preload/preload.h"

#define WORD sizeof(uint64_t) /* what the kernel reads or writes of a set of signals */
#define HOW_NOTHING (-1)      /* to do with the set: EINVAL, if it could be read */
#define PAGE ((uintptr_t)VMSM_PAGE_SIZE)

enum { OURS, THE_KERNELS };

/* start, end, protection: OURS, THE_KERNELS (some of it), or -EFAULT. */
static long look(const uintptr_t *a)
{
    long result = OURS;

    if (a[0] < arena.base || a[1] > arena.end)
        return THE_KERNELS;
    for (uintptr_t at = a[0]; at < a[1];) {
        struct space_range piece = space_piece(&arena.space, at, a[1]);

        if (piece.what.kind == SPACE_FOREIGN)
            result = THE_KERNELS;
        else if (piece.what.kind != SPACE_MANAGED || !(piece.what.protection & a[2]))
            return -EFAULT;
        at = piece.end;
    }
    return result;
}

static long whose(uintptr_t start, size_t length, int protection)
{
    if (start < WORD || start + length < start)
        return -EFAULT; /* the kernel would take it for no pointer at all */
    if (!arena_overlaps(start, length))
        return THE_KERNELS;
    return gate_shared_call(look, (uintptr_t[]){start, start + length, (uintptr_t)protection});
}

long guard_readable(uintptr_t start, size_t length)
{
    /* What may be written may be read, on this processor. */
    long result = whose(start, length, PROT_READ | PROT_WRITE | PROT_EXEC);

    if (result != THE_KERNELS)
        return result;
    for (uintptr_t at = start & ~(WORD - 1); at < start + length; at = (at & ~(PAGE - 1)) + PAGE) {
        if (kernel_raw(SYS_rt_sigprocmask, HOW_NOTHING, at, NULL, WORD) == -EFAULT)
            return -EFAULT;
    }
    return 0;
}

long guard_text_length(uintptr_t text, size_t most, uintptr_t *page)
{
    size_t length = 0;

    while (length < most) {
        uintptr_t at = text + length;
        size_t rest = PAGE - at % PAGE, here;

        if (at - at % PAGE != *page) {
            if (guard_readable(at - at % PAGE, PAGE) != 0)
                return -EFAULT;
            *page = at - at % PAGE;
        }
        here = strnlen((const char *)at, rest);
        length += here;
        if (here < rest)
            return (long)length;
    }
    return (long)most;
}
