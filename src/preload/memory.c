/*
 * mmap() and its kin, as the program calls them.
 *
 * A call that has nothing to do with the arena goes to the kernel at once. Others are made with the
 * gate held (gate.c), and keep three things in step: what the space says, what the manager knows,
 * and how the kernel protects.
 */
#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "preload/kernel.h"
#include "preload/preload.h"

#define PAGE ((uintptr_t)VMSM_PAGE_SIZE)
#define LARGE (2UL * 1024 * 1024) /* aligned to that: sections, and what allocators like */
#define BRK_SHARE 16u             /* of the arena */
#define BRK_TRIES 1000
#define ADDRESS_END (1UL << 47) /* of a program, but for what it asks for by address */
#define COPY_STEP (1024UL * 1024)

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* Not ours: stacks, code, huge pages, and addresses that must be low. */
#define KERNEL_FLAGS (MAP_GROWSDOWN | MAP_HUGETLB | MAP_LOCKED | MAP_32BIT | MAP_STACK | MAP_SHARED)

static int failed(long error)
{
    errno = (int)-error;
    return -1;
}

static uintptr_t page_up(size_t length)
{
    return (length + PAGE - 1) & ~(PAGE - 1);
}

static bool whole_range(uintptr_t start, size_t length, uintptr_t *end)
{
    *end = start + page_up(length);
    return start % PAGE == 0 && *end >= start && page_up(length) >= length;
}

/* ---- promises ---- */

static size_t moving; /* (gate) bytes that are promised where they are, and will be elsewhere */

/* May so many bytes more be promised? What is promised can be kept: memory and pagefile suffice. */
static int may_charge(size_t bytes)
{
    uint64_t pages = (arena.space.charged + bytes - moving) / PAGE;

    return pages <= process_promise_limit() ? 0 : -ENOMEM;
}

static struct space_what managed_as(int protection, uint8_t flags)
{
    struct space_what what = {.kind = SPACE_MANAGED, .flags = flags};

    what.protection = (uint8_t)(protection & (PROT_READ | PROT_WRITE | PROT_EXEC));
    if ((protection & PROT_WRITE) && !(flags & SPACE_SPARSE))
        what.flags |= SPACE_CHARGED;
    return what;
}

/* ---- giving back ---- */

/* A page of it is pinned for another thread's read, which ends by itself. */
static void await_unpin(void)
{
    struct timespec pause = {.tv_nsec = 1000000};

    nanosleep(&pause, NULL);
    direct_unpin_ended();
}

static void discard(uintptr_t start, uintptr_t end)
{
    while (vmsm_decommit(arena.manager, (void *)start, end - start) == -EBUSY)
        await_unpin();
}

static int unmap_piece(const struct space_range *piece)
{
    size_t length = piece->end - piece->start;

    if (piece->what.kind == SPACE_FREE || piece->what.kind == SPACE_DEAD)
        return 0;
    if (!space_has_room(&arena.space))
        return -ENOMEM;
    if (piece->what.kind == SPACE_FOREIGN) {
        if (kernel_munmap((void *)piece->start, length) != 0)
            return -errno;
        space_set(&arena.space, piece->start, piece->end, (struct space_what){.kind = SPACE_DEAD});
        return 0;
    }
    if (piece->what.protection != PROT_NONE &&
        kernel_mprotect((void *)piece->start, length, PROT_NONE) != 0)
        return -errno;
    discard(piece->start, piece->end);
    space_set(&arena.space, piece->start, piece->end, (struct space_what){.kind = SPACE_FREE});
    return 0;
}

/* The part of [start, end) that lies in the arena. */
static long unmap_inside(const uintptr_t *a)
{
    for (uintptr_t at = a[0], end = a[1]; at < end;) {
        struct space_range piece = space_piece(&arena.space, at, end);
        int error = unmap_piece(&piece);

        if (error != 0)
            return error;
        at = piece.end;
    }
    return 0;
}

/* Call for what lies in the arena, and leave the rest to the kernel. */
static long split(uintptr_t start, uintptr_t end, gate_function *inside,
                  int (*outside)(void *, size_t))
{
    uintptr_t low = start < arena.base ? arena.base : start;
    uintptr_t high = end > arena.end ? arena.end : end;
    long error = 0;

    if (start < low && outside((void *)start, low - start) != 0)
        error = -errno;
    if (error == 0)
        error = gate_call(inside, (uintptr_t[]){low, high});
    if (error == 0 && end > high && outside((void *)high, end - high) != 0)
        error = -errno;
    return error;
}

int memory_unmap(void *address, size_t length)
{
    uintptr_t start = (uintptr_t)address, end;
    long error;

    if (!arena_overlaps(start, length)) {
        int result = kernel_munmap(address, length);

        if (result == 0)
            early_unmapped(start, page_up(length));
        return result;
    }
    if (!whole_range(start, length, &end) || start == end || end > ADDRESS_END)
        return failed(-EINVAL); /* before anything is lost */
    error = split(start, end, unmap_inside, kernel_munmap);
    return error == 0 ? 0 : failed(error);
}

/* ---- mapping ---- */

/* length, protection, space flags: anywhere. Returns the address. */
static long map_anywhere(const uintptr_t *a)
{
    size_t length = a[0];
    int protection = (int)a[1], error = process_manage();
    struct space_what what = managed_as(protection, (uint8_t)a[2]);
    uintptr_t at;

    if (error == 0 && (what.flags & SPACE_CHARGED))
        error = may_charge(length);
    if (error == 0 && !space_has_room(&arena.space))
        error = -ENOMEM;
    if (error != 0)
        return error;
    at = space_find(&arena.space, length, length >= LARGE ? LARGE : PAGE);
    if (at == 0)
        return -ENOMEM;
    if (protection != PROT_NONE && kernel_mprotect((void *)at, length, protection) != 0)
        return -errno;
    space_set(&arena.space, at, at + length, what);
    return (long)at;
}

/* Make a piece of the arena new managed memory. */
static int remap_piece(const struct space_range *piece, int protection, uint8_t flags)
{
    void *start = (void *)piece->start;
    size_t length = piece->end - piece->start;

    if (!space_has_room(&arena.space))
        return -ENOMEM;
    if (piece->what.kind == SPACE_FOREIGN || piece->what.kind == SPACE_DEAD) {
        if (kernel_mmap(start, length, protection,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
                        0) == MAP_FAILED)
            return -errno;
        space_set(&arena.space, piece->start, piece->end,
                  (struct space_what){.kind = SPACE_FOREIGN});
        return 0;
    }
    if (kernel_mprotect(start, length, protection) != 0)
        return -errno;
    if (piece->what.kind == SPACE_MANAGED)
        discard(piece->start, piece->end);
    space_set(&arena.space, piece->start, piece->end, managed_as(protection, flags));
    return 0;
}

/* start, end, protection, space flags: in the arena, over what is there. */
static long map_fixed(const uintptr_t *a)
{
    int error = 0;

    if ((a[2] & PROT_WRITE) && !(a[3] & SPACE_SPARSE))
        error = may_charge(a[1] - a[0]); /* a little strict where part of it is charged already */
    for (uintptr_t at = a[0]; at < a[1] && error == 0;) {
        struct space_range piece = space_piece(&arena.space, at, a[1]);

        error = remap_piece(&piece, (int)a[2], (uint8_t)a[3]);
        at = piece.end;
    }
    return error != 0 ? error : (long)a[0];
}

/* Take a piece away from the manager; its addresses stay mapped, without access. */
static int give_up_piece(const struct space_range *piece)
{
    int error;

    if (piece->what.kind == SPACE_FOREIGN || piece->what.kind == SPACE_DEAD)
        return 0;
    if (!space_has_room(&arena.space))
        return -ENOMEM;
    while ((error = vmsm_unmap(arena.manager, (void *)piece->start, piece->end - piece->start)) ==
           -EBUSY)
        await_unpin();
    if (error == 0)
        space_set(&arena.space, piece->start, piece->end, (struct space_what){.kind = SPACE_DEAD});
    return error;
}

static int make_foreign(uintptr_t start, uintptr_t end)
{
    int error = 0;

    for (uintptr_t at = start; at < end && error == 0;) {
        struct space_range piece = space_piece(&arena.space, at, end);

        error = give_up_piece(&piece);
        at = piece.end;
    }
    return error;
}

/* start, end, protection, flags, fd, offset: a mapping of the kernel's, in the arena. */
static long map_foreign(const uintptr_t *a)
{
    int flags = (int)a[3] & ~(MAP_FIXED | MAP_FIXED_NOREPLACE), error;
    size_t length = a[1] - a[0];
    void *new = kernel_mmap(NULL, length, (int)a[2], flags, (int)a[4], (off_t)a[5]);

    /* Elsewhere first: if it cannot be had, nothing is lost. */
    if (new == MAP_FAILED)
        return -errno;
    error = make_foreign(a[0], a[1]);
    if (error == 0 && !space_has_room(&arena.space))
        error = -ENOMEM;
    if (error == 0 && kernel_mremap(new, length, length, MREMAP_MAYMOVE | MREMAP_FIXED,
                                    (void *)a[0]) == MAP_FAILED)
        error = -errno;
    if (error != 0) {
        kernel_munmap(new, length);
        return error;
    }
    space_set(&arena.space, a[0], a[1], (struct space_what){.kind = SPACE_FOREIGN});
    return (long)a[0];
}

/* Give a managed piece to the kernel, with its content and its protection. */
static int release_piece(const struct space_range *piece)
{
    int readable = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    size_t length = piece->end - piece->start;
    uintptr_t at = piece->start;
    void *copy;
    int error = 0;

    if (!space_has_room(&arena.space))
        return -ENOMEM;
    copy = kernel_mmap(NULL, length, readable, flags, -1, 0);
    if (copy == MAP_FAILED)
        return -ENOMEM;
    if (!(piece->what.protection & PROT_READ) &&
        kernel_mprotect((void *)at, length, PROT_READ) != 0)
        error = -errno;
    for (; error == 0 && (at = vmsm_next_content(arena.manager, at, piece->end)) < piece->end;
         at += PAGE)
        __builtin_memcpy((char *)copy + (at - piece->start), (const void *)at, PAGE);
    if (error == 0 && kernel_mprotect(copy, length, piece->what.protection) != 0)
        error = -errno;
    if (error == 0)
        error = make_foreign(piece->start, piece->end);
    if (error == 0 && kernel_mremap(copy, length, length, MREMAP_MAYMOVE | MREMAP_FIXED,
                                    (void *)piece->start) == MAP_FAILED)
        error = -errno;
    if (error == 0)
        space_set(&arena.space, piece->start, piece->end,
                  (struct space_what){.kind = SPACE_FOREIGN});
    else
        kernel_munmap(copy, length);
    return error;
}

/* start, end. What is not managed is as the caller has made it. */
static long release_to_kernel(const uintptr_t *a)
{
    int error = 0;

    for (uintptr_t at = a[0]; at < a[1] && error == 0;) {
        struct space_range piece = space_piece(&arena.space, at, a[1]);

        if (piece.what.kind == SPACE_MANAGED)
            error = release_piece(&piece);
        at = piece.end;
    }
    return error;
}

int memory_release(uintptr_t start, size_t length)
{
    uintptr_t end = (start + length + PAGE - 1) & ~(PAGE - 1);

    start &= ~(PAGE - 1);
    if (!arena_overlaps(start, end - start) || start < arena.base || end > arena.end)
        return 0;
    return (int)gate_call(release_to_kernel, (uintptr_t[]){start, end});
}

/* start, end, then as map_foreign(); a[6]: it is for us to manage. */
static long map_at(const uintptr_t *a)
{
    if (a[0] < arena.base || a[1] > arena.end)
        return -ENOMEM; /* half in the arena: nobody can know of such a place */
    if (a[3] & MAP_FIXED_NOREPLACE) {
        for (uintptr_t at = a[0]; at < a[1];) {
            struct space_range piece = space_piece(&arena.space, at, a[1]);

            if (piece.what.kind == SPACE_MANAGED || piece.what.kind == SPACE_FOREIGN)
                return -EEXIST;
            at = piece.end;
        }
    }
    if (!a[6])
        return map_foreign(a);
    return map_fixed((uintptr_t[]){a[0], a[1], a[2], (a[3] & MAP_NORESERVE) ? SPACE_SPARSE : 0});
}

static bool can_manage(int protection, int flags)
{
    return (flags & MAP_ANONYMOUS) && (flags & MAP_TYPE) == MAP_PRIVATE &&
           !(flags & KERNEL_FLAGS) && !(protection & PROT_EXEC);
}

void *memory_map(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    uintptr_t start = (uintptr_t)address, end;
    bool ours = process.active && can_manage(protection, flags);
    bool fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
    long result;

    if (fixed && arena_overlaps(start, length)) {
        if (!whole_range(start, length, &end) || start == end)
            result = -EINVAL;
        else
            result =
                gate_call(map_at, (uintptr_t[]){start, end, (uintptr_t)protection, (uintptr_t)flags,
                                                (uintptr_t)fd, (uintptr_t)offset, ours});
    } else if (fixed || !ours || length == 0 || page_up(length) < length || own_depth > 0) {
        if (fixed && process.active)
            early_unmapped(start, page_up(length));
        return kernel_mmap(address, length, protection, flags, fd, offset);
    } else if (!process_early(page_up(length))) {
        void *memory = kernel_mmap(address, length, protection, flags, fd, offset);

        if (memory != MAP_FAILED)
            early_mapped((uintptr_t)memory, page_up(length), protection);
        return memory;
    } else {
        result = gate_call(map_anywhere, (uintptr_t[]){page_up(length), (uintptr_t)protection,
                                                       (flags & MAP_NORESERVE) ? SPACE_SPARSE : 0});
        if (result == -EAGAIN) /* no manager can be made now: there is a fork */
            return kernel_mmap(address, length, protection, flags, fd, offset);
    }
    if (result < 0) {
        errno = (int)-result;
        return MAP_FAILED;
    }
    return (void *)result;
}

/* ---- protection ---- */

/* start, end, protection */
static long protect_inside(const uintptr_t *a)
{
    int protection = (int)a[2], error;
    size_t more = 0;

    if (space_has_hole(&arena.space, a[0], a[1]))
        return -ENOMEM;
    for (uintptr_t at = a[0]; at < a[1];) {
        struct space_range piece = space_piece(&arena.space, at, a[1]);

        if (piece.what.kind == SPACE_MANAGED && !(piece.what.flags & SPACE_CHARGED) &&
            (managed_as(protection, piece.what.flags).flags & SPACE_CHARGED))
            more += piece.end - piece.start;
        at = piece.end;
    }
    error = more > 0 ? may_charge(more) : 0;
    if (error != 0)
        return error;
    if (!space_has_room(&arena.space))
        return -ENOMEM;
    if (kernel_mprotect((void *)a[0], a[1] - a[0], protection) != 0)
        return -errno;
    for (uintptr_t at = a[0]; at < a[1];) {
        struct space_range piece = space_piece(&arena.space, at, a[1]);

        /* Neighbours become alike, so this needs no more entries than at its two ends. */
        if (piece.what.kind == SPACE_MANAGED)
            space_set(&arena.space, piece.start, piece.end,
                      managed_as(protection, piece.what.flags));
        at = piece.end;
    }
    return 0;
}

PRELOAD_API int mprotect(void *address, size_t length, int protection)
{
    uintptr_t start = (uintptr_t)address, end;
    long error;

    if (!arena_overlaps(start, length))
        return kernel_mprotect(address, length, protection);
    if (!whole_range(start, length, &end))
        return failed(-EINVAL);
    if (start < arena.base || end > arena.end)
        return failed(-ENOMEM); /* it ends in a hole: nothing but ours is beside the arena */
    error = gate_call(protect_inside, (uintptr_t[]){start, end, (uintptr_t)protection});
    return error == 0 ? 0 : failed(error);
}

PRELOAD_API int pkey_mprotect(void *address, size_t length, int protection, int key)
{
    if (key == -1)
        return mprotect(address, length, protection);
    if (arena_overlaps((uintptr_t)address, length))
        return failed(-EINVAL);
    return (int)kernel_call(SYS_pkey_mprotect, address, length, protection, key);
}

/* ---- advice ---- */

static int advise_piece(const struct space_range *piece, int advice)
{
    void *start = (void *)piece->start;
    size_t length = piece->end - piece->start;

    if (piece->what.kind == SPACE_FOREIGN)
        return kernel_madvise(start, length, advice) == 0 ? 0 : -errno;
    switch (advice) {
    case MADV_DONTNEED:
    case MADV_DONTNEED_LOCKED:
    case MADV_FREE:
        discard(piece->start, piece->end);
        return 0;
    case MADV_NORMAL:
        return vmsm_advise(arena.manager, start, length, VMSM_NORMAL);
    case MADV_RANDOM:
        return vmsm_advise(arena.manager, start, length, VMSM_RANDOM);
    case MADV_SEQUENTIAL:
        return vmsm_advise(arena.manager, start, length, VMSM_SEQUENTIAL);
    case MADV_COLD:
    case MADV_PAGEOUT:
        return vmsm_advise(arena.manager, start, length, VMSM_DONTNEED);
    case MADV_WILLNEED: /* no promise is made: it would wait for reads */
    case MADV_HUGEPAGE:
    case MADV_NOHUGEPAGE:
    case MADV_DONTDUMP:
    case MADV_DODUMP:
    case MADV_MERGEABLE:
    case MADV_UNMERGEABLE:
    case MADV_DOFORK:
        return 0;
    default: /* MADV_DONTFORK, MADV_WIPEONFORK, MADV_COLLAPSE, …: not known here */
        return -EINVAL;
    }
}

/* start, end, advice */
static long advise_inside(const uintptr_t *a)
{
    long result = 0;

    for (uintptr_t at = a[0]; at < a[1];) {
        struct space_range piece = space_piece(&arena.space, at, a[1]);
        int error = -ENOMEM; /* of a hole; what lies behind it is advised all the same */

        if (piece.what.kind == SPACE_MANAGED || piece.what.kind == SPACE_FOREIGN)
            error = advise_piece(&piece, (int)a[2]);
        if (error != 0 && error != -ENOMEM)
            return error;
        if (error != 0)
            result = error;
        at = piece.end;
    }
    return result;
}

int memory_advise(void *address, size_t length, int advice)
{
    uintptr_t start = (uintptr_t)address, end;
    long error;

    if (!arena_overlaps(start, length))
        return kernel_madvise(address, length, advice);
    if (!whole_range(start, length, &end))
        return failed(-EINVAL);
    if (start < arena.base || end > arena.end)
        return failed(-ENOMEM);
    if (advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE)
        return kernel_madvise(address, length, advice); /* it faults, as a touch does */
    error = gate_call(advise_inside, (uintptr_t[]){start, end, (uintptr_t)advice});
    return error == 0 ? 0 : failed(error);
}

PRELOAD_API int madvise(void *address, size_t length, int advice)
{
    return memory_advise(address, length, advice);
}

PRELOAD_API int posix_madvise(void *address, size_t length, int advice)
{
    int saved = errno, error = 0;

    if (advice == POSIX_MADV_DONTNEED) /* POSIX's does not destroy */
        return 0;
    if (memory_advise(address, length, advice) != 0)
        error = errno;
    errno = saved;
    return error;
}

static long hole_inside(const uintptr_t *a)
{
    return space_has_hole(&arena.space, a[0], a[1]) ? -ENOMEM : 0;
}

PRELOAD_API int mincore(void *address, size_t length, unsigned char *vector)
{
    uintptr_t start = (uintptr_t)address, end;

    if (arena_overlaps(start, length)) {
        if (!whole_range(start, length, &end))
            return failed(-EINVAL);
        if (start < arena.base || end > arena.end ||
            gate_call(hole_inside, (uintptr_t[]){start, end}) != 0)
            return failed(-ENOMEM);
    }
    return kernel_mincore(address, length, vector);
}

/* ---- locking: the manager's pages move, whatever the program says ---- */

PRELOAD_API int mlock(const void *address, size_t length)
{
    if (arena_overlaps((uintptr_t)address, length))
        return failed(-ENOMEM);
    return kernel_mlock(address, length);
}

PRELOAD_API int mlock2(const void *address, size_t length, unsigned flags)
{
    if (arena_overlaps((uintptr_t)address, length))
        return failed(-ENOMEM);
    return kernel_mlock2(address, length, flags);
}

PRELOAD_API int munlock(const void *address, size_t length)
{
    return arena_overlaps((uintptr_t)address, length) ? 0 : kernel_munlock(address, length);
}

/* It would lock the arena, now or when it is made. */
PRELOAD_API int mlockall(int flags)
{
    if (process.active)
        return failed(-EPERM);
    return (int)kernel_call(SYS_mlockall, flags);
}

/* ---- mremap ---- */

/* Copy what has content, and give it back on the way, so that it never counts twice. */
static void move_content(uintptr_t from, uintptr_t to, size_t length)
{
    for (size_t at = 0; at < length;) {
        size_t step = length - at < COPY_STEP ? length - at : COPY_STEP;
        uintptr_t next = vmsm_next_content(arena.manager, from + at, from + at + step);

        if (next < from + at + step) {
            size_t skip = next - (from + at);

            __builtin_memcpy((void *)(to + at + skip), (const void *)next, step - skip);
            discard(next, from + at + step);
        }
        at += step;
    }
}

/* old, old length, new length, where (0: anywhere), flags */
static long move_managed(const uintptr_t *a, struct space_what what)
{
    uintptr_t flags = what.flags & SPACE_SPARSE;
    int writable = what.protection | PROT_READ | PROT_WRITE;
    long to;

    moving = (what.flags & SPACE_CHARGED) && !(a[4] & MREMAP_DONTUNMAP) ? a[1] : 0;
    if (a[3] != 0)
        to = map_at((uintptr_t[]){a[3], a[3] + a[2], (uintptr_t)writable,
                                  MAP_FIXED | (flags ? MAP_NORESERVE : 0), (uintptr_t)-1, 0, 1});
    else
        to = map_anywhere((uintptr_t[]){a[2], (uintptr_t)writable, flags});
    moving = 0;
    if (to < 0)
        return to;
    if (!(what.protection & PROT_READ))
        kernel_mprotect((void *)a[0], a[1], PROT_READ);
    move_content(a[0], (uintptr_t)to, a[1] < a[2] ? a[1] : a[2]);
    if (what.protection != writable)
        protect_inside((uintptr_t[]){(uintptr_t)to, (uintptr_t)to + a[2], what.protection});
    if (a[4] & MREMAP_DONTUNMAP) {
        discard(a[0], a[0] + a[1]);
        kernel_mprotect((void *)a[0], a[1], what.protection);
    } else {
        unmap_inside((uintptr_t[]){a[0], a[0] + a[1]});
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
        error = may_charge(new_end - end);
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
    struct space_what what;
    long result;

    if (!space_uniform(&arena.space, old, end, &what) || what.kind == SPACE_FREE ||
        what.kind == SPACE_DEAD)
        return -EFAULT;
    if (what.kind == SPACE_FOREIGN)
        return -ENOTSUP;
    if ((a[4] & MREMAP_DONTUNMAP) || a[3] != 0)
        return move_managed(a, what);
    if (a[2] <= a[1]) {
        result = a[2] < a[1] ? unmap_inside((uintptr_t[]){old + a[2], end}) : 0;
        return result != 0 ? result : (long)old;
    }
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

    if (old % PAGE != 0 || new_length == 0 || old_length == 0 || (flags & ~known) ||
        ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) && !(flags & MREMAP_MAYMOVE)) ||
        ((flags & MREMAP_DONTUNMAP) && new_length != old_length))
        return -EINVAL;
    if (!(flags & MREMAP_FIXED))
        return 0;
    if (target % PAGE != 0 || (target < old + old_length && old < target + new_length))
        return -EINVAL;
    /* From managed memory to the kernel's, or the other way: it can be said, but nobody does. */
    return arena_overlaps(old, old_length) == arena_overlaps(target, new_length) ? 0 : -ENOMEM;
}

/* By the kernel. What was counted is as it is afterwards: elsewhere, larger, smaller. */
static void *remap_outside(uintptr_t old, size_t old_length, size_t new_length, int flags,
                           uintptr_t target)
{
    int protection = 0;
    bool counted =
        process.active && old_length > 0 && early_contains(old, page_up(old_length), &protection);
    void *new = kernel_mremap((void *)old, old_length, new_length, flags, (void *)target);

    if (new == MAP_FAILED || !process.active)
        return new;
    if (target != 0)
        early_unmapped(target, page_up(new_length));
    if (!(flags & MREMAP_DONTUNMAP))
        early_unmapped(old, page_up(old_length));
    if (counted && !process_early(page_up(new_length)))
        early_mapped((uintptr_t) new, page_up(new_length), protection);
    return new;
}

/* A mapping from before there was a manager: if it grows too much, it becomes managed memory. */
static void *remap_early(uintptr_t old, size_t old_length, size_t new_length, int flags,
                         int protection)
{
    bool fits = !process_early(new_length - old_length);
    void *new;

    if (fits)
        process_early_gone(new_length - old_length);
    if (fits || protection != (PROT_READ | PROT_WRITE))
        return remap_outside(old, old_length, new_length, flags, 0);
    new = MAP_FAILED;
    if (flags & MREMAP_MAYMOVE)
        new = memory_map(NULL, new_length, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
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
    int protection;
    va_list args;
    long result;

    va_start(args, flags);
    if (flags & MREMAP_FIXED)
        target = (uintptr_t)va_arg(args, void *);
    va_end(args);
    if (process.active && !(flags & ~MREMAP_MAYMOVE) && old_length > 0 && own_depth == 0 &&
        page_up(new_length) > page_up(old_length) && !arena_overlaps(old, old_length) &&
        early_contains(old, page_up(old_length), &protection))
        return remap_early(old, page_up(old_length), page_up(new_length), flags, protection);
    if (!arena_overlaps(old, old_length > 0 ? old_length : 1) &&
        (target == 0 || !arena_overlaps(target, new_length)))
        return remap_outside(old, old_length, new_length, flags, target);
    result = check_remap(old, page_up(old_length), page_up(new_length), flags, target);
    if (result == 0)
        result =
            gate_call(remap_inside, (uintptr_t[]){old, page_up(old_length), page_up(new_length),
                                                  target, (uintptr_t)flags});
    if (result == -ENOTSUP) /* a mapping that the program put there itself */
        result = -ENOMEM;
    if (result < 0) {
        errno = (int)-result;
        return MAP_FAILED;
    }
    return (void *)result;
}

/* ---- mmap, munmap, brk ---- */

PRELOAD_API void *mmap(void *address, size_t length, int protection, int flags, int fd,
                       off_t offset)
{
    return memory_map(address, length, protection, flags, fd, offset);
}

PRELOAD_API void *mmap64(void *address, size_t length, int protection, int flags, int fd,
                         off_t offset) __attribute__((alias("mmap")));

PRELOAD_API int munmap(void *address, size_t length)
{
    return memory_unmap(address, length);
}

/*
 * The break is a reservation in the arena, of which the part below it is accessible. It begins
 * behind a page that is: where the C library's malloc() has the break, memory lies before it, and
 * programs touch the byte there.
 */
static long break_open(void)
{
    size_t size;
    long start;
    int error = process_manage();

    if (error != 0 || arena.brk_start != 0)
        return error;
    size = (arena.end - arena.base) / BRK_SHARE & ~(LARGE - 1);
    start = map_anywhere((uintptr_t[]){size, PROT_NONE, 0});
    if (start < 0)
        return start;
    arena.brk_start = arena.brk_now = (uintptr_t)start + PAGE;
    arena.brk_end = (uintptr_t)start + size;
    return protect_inside(
        (uintptr_t[]){(uintptr_t)start, (uintptr_t)start + PAGE, PROT_READ | PROT_WRITE});
}

static long break_move(uintptr_t wanted)
{
    uintptr_t from = page_up(arena.brk_now), to = page_up(wanted);
    long error = 0;

    if (wanted < arena.brk_start || wanted > arena.brk_end)
        return -ENOMEM;
    if (to > from)
        error = protect_inside((uintptr_t[]){from, to, PROT_READ | PROT_WRITE});
    if (to < from)
        error = map_fixed((uintptr_t[]){to, from, PROT_NONE, 0});
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

/* The first call makes the manager, which can wait for another thread's fork. */
static long break_call(gate_function *function, uintptr_t argument)
{
    struct timespec pause = {.tv_nsec = 1000000};
    long result;

    for (int tries = 0; tries < BRK_TRIES; tries++) {
        result = gate_call(function, &argument);
        if (result != -EAGAIN)
            break;
        nanosleep(&pause, NULL);
    }
    return result;
}

/*
 * Until there is a manager the break is the kernel's, as for one who only asks where it is. When it
 * would grow past what may be mapped early it goes on in the arena, elsewhere: as when another part
 * of the program has moved it.
 */
static bool is_kernel_break(uintptr_t from, uintptr_t to)
{
    if (!process.active)
        return true;
    return !atomic_load_explicit(&arena.managed, memory_order_acquire) &&
           (to <= from || !process_early(to - from));
}

static uintptr_t kernel_break(uintptr_t wanted)
{
    return (uintptr_t)kernel_call(SYS_brk, wanted);
}

PRELOAD_API void *sbrk(intptr_t increment)
{
    uintptr_t old = kernel_break(0), wanted = old + (uintptr_t)increment;
    long result;

    if (is_kernel_break(old, wanted))
        return increment == 0 || kernel_break(wanted) == wanted ? (void *)old
                                                                : (void *)(intptr_t)failed(-ENOMEM);
    result = break_call(break_by, (uintptr_t)increment);
    if (result < 0)
        return (void *)(intptr_t)failed(-ENOMEM);
    return (void *)result;
}

uintptr_t memory_break(uintptr_t wanted)
{
    if (is_kernel_break(kernel_break(0), wanted))
        return kernel_break(wanted);
    if (break_call(break_by, 0) < 0)
        return 0;
    break_call(break_to, wanted); /* without success it is where it was */
    return (uintptr_t)break_call(break_by, 0);
}

PRELOAD_API int brk(void *address)
{
    uintptr_t wanted = (uintptr_t)address;

    if (is_kernel_break(kernel_break(0), wanted))
        return kernel_break(wanted) == wanted ? 0 : failed(-ENOMEM);
    return break_call(break_to, wanted) == 0 ? 0 : failed(-ENOMEM);
}
