/*
 * brk() and sbrk(), as the program calls them.
 *
 * The break is a reservation in the arena, of which the part below it is accessible. It begins
 * behind a page that is: where the C library's malloc() has the break, memory lies before it, and
 * programs touch the byte there.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "preload/kernel.h"
#include "preload/memory.h"
#include "preload/preload.h"

#define BRK_SHARE 16u /* of the arena */
#define BRK_TRIES 1000

static long break_open(void)
{
    size_t size;
    long start, error = process_manage();

    if (error != 0 || arena.brk_start != 0)
        return error;
    size = (arena.end - arena.base) / BRK_SHARE & ~(MEMORY_LARGE - 1);
    start = memory_map_anywhere((uintptr_t[]){size, PROT_NONE, 0});
    if (start < 0)
        return start;
    error = memory_protect_inside(
        (uintptr_t[]){(uintptr_t)start, (uintptr_t)start + MEMORY_PAGE, PROT_READ | PROT_WRITE});
    if (error != 0) {
        memory_unmap_inside((uintptr_t[]){(uintptr_t)start, (uintptr_t)start + size});
        return error;
    }
    arena.brk_start = arena.brk_now = (uintptr_t)start + MEMORY_PAGE;
    arena.brk_end = (uintptr_t)start + size;
    return 0;
}

static long break_move(uintptr_t wanted)
{
    uintptr_t from = memory_page_up(arena.brk_now), to = memory_page_up(wanted);
    long error = 0;

    if (wanted < arena.brk_start || wanted > arena.brk_end)
        return -ENOMEM;
    if (to > from)
        error = memory_protect_inside((uintptr_t[]){from, to, PROT_READ | PROT_WRITE});
    if (to < from)
        error = memory_map_fixed((uintptr_t[]){to, from, PROT_NONE, 0});
    if (error < 0)
        return error;
    arena.brk_now = wanted;
    return 0;
}

/* increment; returns the old break */
static long break_by(const uintptr_t *a)
{
    long error = break_open();
    uintptr_t old = arena.brk_now;

    if (error == 0 && a[0] != 0)
        error = break_move(old + a[0]);
    return error != 0 ? error : (long)old;
}

static long break_to(const uintptr_t *a)
{
    long error = break_open();

    return error != 0 ? error : break_move(a[0]);
}

/* The first call makes the manager, which can wait for another thread's fork. A child that shares
 * its parent's memory cannot. */
static long break_call(gate_function *function, uintptr_t argument)
{
    struct timespec pause = {.tv_nsec = 1000000};
    long result;

    for (int tries = 0; tries < BRK_TRIES; tries++) {
        result = gate_call(function, &argument);
        if (result != -EAGAIN || process_is_shared())
            break;
        nanosleep(&pause, NULL);
    }
    return result;
}

/*
 * The first call makes the manager, even one that only asks: where the break was must stay a part of
 * it. In a process that is not managed it is the kernel's.
 */
static uintptr_t kernel_break(uintptr_t wanted)
{
    return (uintptr_t)kernel_call(SYS_brk, wanted);
}

PRELOAD_API void *sbrk(intptr_t increment)
{
    uintptr_t old, wanted;
    long result;

    if (!process.active) {
        old = kernel_break(0);
        wanted = old + (uintptr_t)increment;
        return increment == 0 || kernel_break(wanted) == wanted
                   ? (void *)old
                   : (void *)(intptr_t)memory_failed(-ENOMEM);
    }
    result = break_call(break_by, (uintptr_t)increment);
    if (result < 0)
        return (void *)(intptr_t)memory_failed(-ENOMEM);
    return (void *)result;
}

uintptr_t memory_break(uintptr_t wanted)
{
    if (!process.active)
        return kernel_break(wanted);
    if (break_call(break_by, 0) < 0)
        return 0;
    break_call(break_to, wanted); /* without success it is where it was */
    return (uintptr_t)break_call(break_by, 0);
}

PRELOAD_API int brk(void *address)
{
    uintptr_t wanted = (uintptr_t)address;

    if (wanted == 0) /* it only asks, and is not told, by the C library's either */
        return 0;
    if (!process.active)
        return kernel_break(wanted) >= wanted ? 0 : memory_failed(-ENOMEM);
    return break_call(break_to, wanted) == 0 ? 0 : memory_failed(-ENOMEM);
}
