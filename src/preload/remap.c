/*
 * mremap(), as the program calls it: inside the arena, of what is from before there was a manager,
 * and of what is none of ours.
 *
 * Managed memory is moved by copying, while which its old place can only be read, and what has been
 * copied not even that: another thread that writes there meanwhile gets SIGSEGV, as the kernel would
 * have it after the move, and nothing that it wrote is lost.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include "core/error.h"
#include "internal.h"
#include "preload/kernel.h"
#include "preload/memory.h"
#include "preload/preload.h"

#define COPY_STEP (1024UL * 1024)

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/*
 * Copy what has content, and give it back on the way, so that it never counts twice. The old place
 * can only be read; where access cannot be taken away, it is given back later, with the rest.
 */
static void move_content(uintptr_t from, uintptr_t to, size_t length)
{
    for (size_t at = 0; at < length;) {
        size_t step = length - at < COPY_STEP ? length - at : COPY_STEP;
        uintptr_t next = vmsm_next_content(arena.manager, from + at, from + at + step);
        size_t skip = next < from + at + step ? next - (from + at) : step;

        if (skip < step)
            __builtin_memcpy((void *)(to + at + skip), (const void *)next, step - skip);
        /* Also where nothing is: pieces that differ are mappings of the kernel's. */
        if (kernel_mprotect((void *)(from + at), step, PROT_NONE) == 0 && skip < step)
            memory_discard(next, from + at + step);
        at += step;
    }
}

/* As it was where it comes from: what was never writable is not SPARSE because of that. */
static void protect_moved(uintptr_t start, uintptr_t end, struct space_what what)
{
    struct space_what now;

    if (memory_protect_inside((uintptr_t[]){start, end, what.protection}) == 0 &&
        space_uniform(&arena.space, start, end, &now) && now.kind == SPACE_MANAGED &&
        space_has_room(&arena.space))
        space_set(&arena.space, start, end, what);
}

/*
 * What stays of a move with MREMAP_DONTUNMAP. Other threads may have taken the mappings that its
 * protection needs (vm.max_map_count). The content has gone, so this can be no error any more: it has
 * no access then, which mprotect() may give it later.
 */
static void empty_old_place(uintptr_t start, uintptr_t end, struct space_what what)
{
    int error = memory_discard(start, end);

    if (error == 0 && kernel_mprotect((void *)start, end - start, what.protection) != 0)
        error = -errno;
    if (error == 0)
        return;
    kernel_mprotect((void *)start, end - start, PROT_NONE); /* it may have been done in part */
    log_line(LOG_ERROR, "run: %zu bytes at %p, moved by mremap(), stay without access: %s",
             end - start, (void *)start, strerror(-error));
    what.protection = PROT_NONE;
    if (space_has_room(&arena.space))
        space_set(&arena.space, start, end, what);
}

/* old, old length, new length, where (0: anywhere), flags */
static long move_managed(const uintptr_t *a, struct space_what what)
{
    /* What was never writable promises nothing where it goes, either. */
    uintptr_t flags = (what.flags & SPACE_CHARGED) ? 0 : SPACE_SPARSE;
    int writable = what.protection | PROT_READ | PROT_WRITE;
    long to;

    memory_moving = (what.flags & SPACE_CHARGED) && !(a[4] & MREMAP_DONTUNMAP) ? a[1] : 0;
    if (a[3] != 0)
        to = memory_map_at((uintptr_t[]){a[3], a[3] + a[2], (uintptr_t)writable,
                                         MAP_FIXED | (flags ? MAP_NORESERVE : 0), (uintptr_t)-1, 0,
                                         1});
    else
        to = memory_map_anywhere((uintptr_t[]){a[2], (uintptr_t)writable, flags});
    memory_moving = 0;
    if (to < 0)
        return to;
    if (kernel_mprotect((void *)a[0], a[1], PROT_READ) != 0) {
        kernel_mprotect((void *)a[0], a[1], what.protection); /* it may have been done in part */
        memory_unmap_inside((uintptr_t[]){(uintptr_t)to, (uintptr_t)to + a[2]});
        return -ENOMEM;
    }
    move_content(a[0], (uintptr_t)to, a[1] < a[2] ? a[1] : a[2]);
    if (what.protection != writable)
        protect_moved((uintptr_t)to, (uintptr_t)to + a[2], what);
    if (a[4] & MREMAP_DONTUNMAP) {
        empty_old_place(a[0], a[0] + a[1], what);
    } else if (memory_unmap_inside((uintptr_t[]){a[0], a[0] + a[1]}) != 0) {
        what.protection = PROT_NONE; /* the kernel does not give it up, but it has gone */
        empty_old_place(a[0], a[0] + a[1], what);
    }
    return to;
}

static long grow_in_place(const uintptr_t *a, struct space_what what)
{
    uintptr_t end = a[0] + a[1], new_end = a[0] + a[2];
    int error = 0;

    if (new_end > arena.end || new_end < end ||
        space_piece(&arena.space, end, new_end).end != new_end ||
        space_piece(&arena.space, end, new_end).what.kind != SPACE_FREE)
        return -EAGAIN;
    if (what.flags & SPACE_CHARGED)
        error = memory_may_charge(new_end - end);
    if (error == 0 && !space_has_room(&arena.space))
        error = -ENOMEM;
    if (error == 0 && what.protection != PROT_NONE &&
        kernel_mprotect((void *)end, new_end - end, what.protection) != 0)
        error = -errno;
    if (error != 0)
        return error;
    space_set(&arena.space, end, new_end, what);
    return (long)a[0];
}

static long remap_inside(const uintptr_t *a)
{
    uintptr_t old = a[0], end = old + a[1];
    struct space_what what = space_piece(&arena.space, old, end).what;
    bool stays = !(a[4] & MREMAP_DONTUNMAP) && a[3] == 0;
    long result;

    /* What shrinks may be of several kinds: its rest is unmapped, that is all. */
    if (stays && a[2] <= a[1] && (what.kind == SPACE_MANAGED || what.kind == SPACE_FOREIGN)) {
        result = memory_unmap_inside((uintptr_t[]){old + a[2], end});
        return result != 0 ? result : (long)old;
    }
    if (!space_uniform(&arena.space, old, end, &what) || what.kind == SPACE_FREE ||
        what.kind == SPACE_DEAD)
        return -EFAULT;
    if (what.kind == SPACE_FOREIGN)
        return -ENOTSUP;
    if (!stays)
        return move_managed(a, what);
    result = grow_in_place(a, what);
    if (result != -EAGAIN)
        return result;
    return (a[4] & MREMAP_MAYMOVE) ? move_managed(a, what) : -ENOMEM;
}

/* Is what mremap() was asked for something that it can do? */
static int check_remap(uintptr_t old, size_t old_length, size_t new_length, int flags,
                       uintptr_t target)
{
    int known = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;

    if (old % MEMORY_PAGE != 0 || new_length == 0 || old_length == 0 || (flags & ~known) ||
        ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) && !(flags & MREMAP_MAYMOVE)) ||
        ((flags & MREMAP_DONTUNMAP) && new_length != old_length))
        return -EINVAL;
    if (!(flags & MREMAP_FIXED))
        return 0;
    if (target % MEMORY_PAGE != 0 || (target < old + old_length && old < target + new_length))
        return -EINVAL;
    /* From managed memory to the kernel's, or the other way: it can be said, but nobody does. */
    return arena_overlaps(old, old_length) == arena_overlaps(target, new_length) ? 0 : -ENOMEM;
}

static int early_flags(struct space_what what)
{
    return (what.flags & SPACE_SPARSE) ? MAP_NORESERVE : 0;
}

/* By the kernel. What was counted is as it is afterwards: elsewhere, larger, smaller. */
static void *remap_outside(uintptr_t old, size_t old_length, size_t new_length, int flags,
                           uintptr_t target)
{
    struct space_what what;
    bool counted =
        process.active && old_length > 0 && early_contains(old, memory_page_up(old_length), &what);
    void *new = kernel_mremap((void *)old, old_length, new_length, flags, (void *)target);

    if (new == MAP_FAILED || !process.active)
        return new;
    if (target != 0)
        early_unmapped(target, memory_page_up(new_length));
    if (!(flags & MREMAP_DONTUNMAP))
        early_unmapped(old, memory_page_up(old_length));
    if (counted && !process_early(memory_page_up(new_length)))
        early_mapped((uintptr_t) new, memory_page_up(new_length), what.protection,
                     early_flags(what));
    return new;
}

/* A mapping from before there was a manager: if it grows too much, it becomes managed memory. */
static void *remap_early(uintptr_t old, size_t old_length, size_t new_length, int flags,
                         struct space_what what)
{
    bool fits = !process_early(new_length - old_length);
    void *new;

    if (fits)
        process_early_gone(new_length - old_length);
    if (fits || what.protection != (PROT_READ | PROT_WRITE))
        return remap_outside(old, old_length, new_length, flags, 0);
    new = MAP_FAILED;
    if (flags & MREMAP_MAYMOVE)
        new = memory_map(NULL, new_length, what.protection,
                         MAP_PRIVATE | MAP_ANONYMOUS | early_flags(what), -1, 0);
    else
        errno = ENOMEM; /* as if there were something behind it */
    if (new == MAP_FAILED)
        return new;
    kernel_mprotect((void *)old, old_length, PROT_READ);
    __builtin_memcpy(new, (const void *)old, old_length);
    memory_unmap((void *)old, old_length);
    return new;
}

PRELOAD_API void *mremap(void *address, size_t old_length, size_t new_length, int flags, ...)
{
    uintptr_t old = (uintptr_t)address, target = 0;
    struct space_what what;
    va_list args;
    long result;

    va_start(args, flags);
    if (flags & MREMAP_FIXED)
        target = (uintptr_t)va_arg(args, void *);
    va_end(args);
    if (process.active && !(flags & ~MREMAP_MAYMOVE) && old % MEMORY_PAGE == 0 && old_length > 0 &&
        own_depth == 0 && memory_page_up(new_length) > memory_page_up(old_length) &&
        !arena_overlaps(old, old_length) && early_contains(old, memory_page_up(old_length), &what))
        return remap_early(old, memory_page_up(old_length), memory_page_up(new_length), flags,
                           what);
    if (!arena_overlaps(old, old_length > 0 ? old_length : 1) &&
        (target == 0 || !arena_overlaps(target, new_length)))
        return remap_outside(old, old_length, new_length, flags, target);
    result =
        check_remap(old, memory_page_up(old_length), memory_page_up(new_length), flags, target);
    if (result == 0)
        result = gate_call(remap_inside,
                           (uintptr_t[]){old, memory_page_up(old_length),
                                         memory_page_up(new_length), target, (uintptr_t)flags});
    if (result == -ENOTSUP) /* a mapping that the program put there itself */
        result = -ENOMEM;
    if (result < 0) {
        errno = (int)-result;
        return MAP_FAILED;
    }
    return (void *)result;
}
