/*
 * mmap() and its kin, as the program calls them. (mremap() is in remap.c, brk() in break.c.)
 *
 * A call that has nothing to do with the arena goes to the kernel at once. Others are made with the
 * gate held (gate.c), and keep three things in step: what the space says, what the manager knows,
 * and how the kernel protects.
 */
#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "preload/guard.h"
#include "preload/kernel.h"
#include "preload/memory.h"
#include "preload/preload.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Not ours: stacks, code, huge pages, and addresses that must be low. */
#define KERNEL_FLAGS (MAP_GROWSDOWN | MAP_HUGETLB | MAP_LOCKED | MAP_32BIT | MAP_STACK | MAP_SHARED)

static bool whole_range(uintptr_t start, size_t length, uintptr_t *end)
{
    *end = start + memory_page_up(length);
    return start % MEMORY_PAGE == 0 && *end >= start && memory_page_up(length) >= length;
}

/* ---- promises ---- */

size_t memory_moving;

int memory_may_charge(size_t bytes)
{
    uint64_t pages = (arena.space.charged + bytes - memory_moving) / MEMORY_PAGE;

    if (pages <= process_promise_limit())
        return 0;
    process.refused++;
    return -ENOMEM;
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

/*
 * A page of it is pinned for another thread's read, which ends by itself. Or the kernel does not
 * give it up, since the program has locked it in a way that is not seen.
 */
static void await_unpin(uintptr_t start, uintptr_t end)
{
    struct timespec pause = {.tv_nsec = 1000000};

    kernel_munlock((void *)start, end - start);
    nanosleep(&pause, NULL);
    direct_unpin_ended();
}

int memory_discard(uintptr_t start, uintptr_t end)
{
    int error, refused, refusals = 0;

    while ((error = vmsm_discard(arena.manager, (void *)start, end - start, &refused)) == -EBUSY) {
        if (refused != 0 && refusals++ > 0) /* unlocked, too */
            return refused;
        await_unpin(start, end);
    }
    return error;
}

static int unmap_piece(const struct space_range *piece)
{
    size_t length = piece->end - piece->start;
    int error;

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
    error = memory_discard(piece->start, piece->end);
    if (error != 0) {
        kernel_mprotect((void *)piece->start, length, piece->what.protection);
        return error;
    }
    space_set(&arena.space, piece->start, piece->end, (struct space_what){.kind = SPACE_FREE});
    return 0;
}

long memory_unmap_inside(const uintptr_t *a)
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

/* It is uncounted first: once it is unmapped, another thread may get the place. */
static int unmap_outside(void *address, size_t length)
{
    uintptr_t end;

    if (process.active && whole_range((uintptr_t)address, length, &end))
        early_unmapped((uintptr_t)address, memory_page_up(length));
    return kernel_munmap(address, length);
}

/* What lies in the arena is unmapped there, the rest by the kernel. */
static long unmap_split(uintptr_t start, uintptr_t end)
{
    uintptr_t low = start < arena.base ? arena.base : start;
    uintptr_t high = end > arena.end ? arena.end : end;
    long error = 0;

    if (start < low && unmap_outside((void *)start, low - start) != 0)
        error = -errno;
    if (error == 0)
        error = gate_call(memory_unmap_inside, (uintptr_t[]){low, high});
    if (error == 0 && end > high && unmap_outside((void *)high, end - high) != 0)
        error = -errno;
    return error;
}

int memory_unmap(void *address, size_t length)
{
    uintptr_t start = (uintptr_t)address, end;
    long error;

    if (!arena_overlaps(start, length))
        return unmap_outside(address, length);
    if (!whole_range(start, length, &end) || start == end || end > MEMORY_ADDRESS_END)
        return memory_failed(-EINVAL); /* before anything is lost */
    error = unmap_split(start, end);
    return error == 0 ? 0 : memory_failed(error);
}

/* ---- mapping ---- */

long memory_map_anywhere(const uintptr_t *a)
{
    size_t length = a[0];
    int protection = (int)a[1], error = process_manage();
    struct space_what what = managed_as(protection, (uint8_t)a[2]);
    uintptr_t at;

    if (error == 0 && (what.flags & SPACE_CHARGED))
        error = memory_may_charge(length);
    if (error == 0 && !space_has_room(&arena.space))
        error = -ENOMEM;
    if (error != 0)
        return error;
    at = space_find(&arena.space, length, length >= MEMORY_LARGE ? MEMORY_LARGE : MEMORY_PAGE);
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
    int error = 0;

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
        error = memory_discard(piece->start, piece->end);
    if (error != 0) {
        kernel_mprotect(start, length, piece->what.protection);
        return error;
    }
    space_set(&arena.space, piece->start, piece->end, managed_as(protection, flags));
    return 0;
}

long memory_map_fixed(const uintptr_t *a)
{
    int error = 0;

    /* A little strict where part of it is charged already. */
    if ((a[2] & PROT_WRITE) && !(a[3] & SPACE_SPARSE))
        error = memory_may_charge(a[1] - a[0]);
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
        await_unpin(piece->start, piece->end);
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
         at += MEMORY_PAGE)
        __builtin_memcpy((char *)copy + (at - piece->start), (const void *)at, MEMORY_PAGE);
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
    uintptr_t end = (start + length + MEMORY_PAGE - 1) & ~(MEMORY_PAGE - 1);

    start &= ~(MEMORY_PAGE - 1);
    if (!arena_overlaps(start, end - start) || start < arena.base || end > arena.end)
        return 0;
    return (int)gate_call(release_to_kernel, (uintptr_t[]){start, end});
}

/* start, end, then as map_foreign(); a[6]: it is for us to manage. */
long memory_map_at(const uintptr_t *a)
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
    return memory_map_fixed(
        (uintptr_t[]){a[0], a[1], a[2], (a[3] & MAP_NORESERVE) ? SPACE_SPARSE : 0});
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
            result = gate_call(memory_map_at,
                               (uintptr_t[]){start, end, (uintptr_t)protection, (uintptr_t)flags,
                                             (uintptr_t)fd, (uintptr_t)offset, ours});
    } else if (fixed || !ours || length == 0 || memory_page_up(length) < length || own_depth > 0) {
        void *memory = kernel_mmap(address, length, protection, flags, fd, offset);

        if (memory != MAP_FAILED && (flags & MAP_FIXED) && process.active)
            early_unmapped(start, memory_page_up(length)); /* what was there before */
        return memory;
    } else if (!process_early(memory_page_up(length))) {
        void *memory = kernel_mmap(address, length, protection, flags, fd, offset);

        if (memory != MAP_FAILED)
            early_mapped((uintptr_t)memory, memory_page_up(length), protection, flags);
        else
            process_early_gone(memory_page_up(length));
        return memory;
    } else {
        result = gate_call(memory_map_anywhere,
                           (uintptr_t[]){memory_page_up(length), (uintptr_t)protection,
                                         (flags & MAP_NORESERVE) ? SPACE_SPARSE : 0});
        if (result == -EAGAIN) /* no manager can be made now, or here */
            return kernel_mmap(address, length, protection, flags, fd, offset);
    }
    if (result < 0) {
        errno = (int)-result;
        return MAP_FAILED;
    }
    return (void *)result;
}

/* ---- protection ---- */

static bool is_hole(const struct space_range *piece)
{
    return piece->what.kind == SPACE_FREE || piece->what.kind == SPACE_DEAD;
}

/* What lies before the first hole is protected all the same. */
long memory_protect_inside(const uintptr_t *a)
{
    int protection = (int)a[2], error;
    uintptr_t end = a[0];
    size_t more = 0;

    while (end < a[1]) {
        struct space_range piece = space_piece(&arena.space, end, a[1]);

        if (is_hole(&piece))
            break;
        if (piece.what.kind == SPACE_MANAGED && !(piece.what.flags & SPACE_CHARGED) &&
            (managed_as(protection, piece.what.flags).flags & SPACE_CHARGED))
            more += piece.end - piece.start;
        end = piece.end;
    }
    error = more > 0 ? memory_may_charge(more) : 0;
    if (error != 0)
        return error;
    if (!space_has_room(&arena.space))
        return -ENOMEM;
    if (kernel_mprotect((void *)a[0], end - a[0], protection) != 0)
        return -errno;
    for (uintptr_t at = a[0]; at < end;) {
        struct space_range piece = space_piece(&arena.space, at, end);

        /* Neighbours become alike, so this needs no more entries than at its two ends. */
        if (piece.what.kind == SPACE_MANAGED)
            space_set(&arena.space, piece.start, piece.end,
                      managed_as(protection, piece.what.flags));
        at = piece.end;
    }
    return end < a[1] ? -ENOMEM : 0;
}

PRELOAD_API int mprotect(void *address, size_t length, int protection)
{
    uintptr_t start = (uintptr_t)address, end;
    long error;

    if (!arena_overlaps(start, length)) {
        int result = kernel_mprotect(address, length, protection);

        if (result == 0 && process.active)
            early_protected(start, memory_page_up(length), protection);
        return result;
    }
    if (!whole_range(start, length, &end))
        return memory_failed(start % MEMORY_PAGE != 0 ? -EINVAL : -ENOMEM);
    if (start < arena.base)
        return memory_failed(-ENOMEM); /* a hole: nothing but ours is beside the arena */
    error = gate_call(memory_protect_inside, (uintptr_t[]){start, end < arena.end ? end : arena.end,
                                                           (uintptr_t)protection});
    if (error == 0 && end > arena.end)
        error = -ENOMEM;
    return error == 0 ? 0 : memory_failed(error);
}

PRELOAD_API int pkey_mprotect(void *address, size_t length, int protection, int key)
{
    int result;

    if (key == -1)
        return mprotect(address, length, protection);
    if (arena_overlaps((uintptr_t)address, length))
        return memory_failed(-EINVAL);
    result = (int)kernel_call(SYS_pkey_mprotect, address, length, protection, key);
    /* What has a key stays the kernel's, as what has no access does. */
    if (result == 0 && process.active)
        early_protected((uintptr_t)address, memory_page_up(length), PROT_NONE);
    return result;
}

/* What is sealed can neither be trimmed nor given to a child. */
PRELOAD_API int mseal(void *address, size_t length, unsigned long flags)
{
    int result;

    if (arena_overlaps((uintptr_t)address, length))
        return memory_failed(-EPERM);
    result = (int)kernel_call(SYS_mseal, address, length, flags);
    /* It stays where it is, and the kernel's, as what has no access does. */
    if (result == 0 && process.active)
        early_protected((uintptr_t)address, memory_page_up(length), PROT_NONE);
    return result;
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
        return memory_discard(piece->start, piece->end);
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
    case MADV_UNMERGEABLE:
    case MADV_DOFORK:
        return 0;
    default: /* MADV_DONTFORK, MADV_WIPEONFORK, MADV_MERGEABLE, …: not known here */
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
        return memory_failed(-EINVAL);
    /* Is it any advice at all, whatever is there? (What heaps purge with is.) */
    if (advice != MADV_DONTNEED && advice != MADV_FREE && kernel_madvise(address, 0, advice) != 0)
        return -1;
    if (start < arena.base || end > arena.end)
        return memory_failed(-ENOMEM);
    if (advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE)
        error = memory_populate(start, end, advice);
    else
        error = gate_call(advise_inside, (uintptr_t[]){start, end, (uintptr_t)advice});
    return error == 0 ? 0 : memory_failed(error);
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
            return memory_failed(start % MEMORY_PAGE != 0 ? -EINVAL : -ENOMEM);
        if (start < arena.base || end > arena.end ||
            gate_call(hole_inside, (uintptr_t[]){start, end}) != 0)
            return memory_failed(-ENOMEM);
    }
    return (int)guard_function_call(SYS_mincore, (uintptr_t[6]){start, length, (uintptr_t)vector});
}

/* ---- locking: the manager's pages move, whatever the program says ---- */

PRELOAD_API int mlock(const void *address, size_t length)
{
    if (arena_overlaps((uintptr_t)address, length))
        return memory_failed(-ENOMEM);
    return kernel_mlock(address, length);
}

PRELOAD_API int mlock2(const void *address, size_t length, unsigned flags)
{
    if (arena_overlaps((uintptr_t)address, length))
        return memory_failed(-ENOMEM);
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
        return memory_failed(-EPERM);
    return (int)kernel_call(SYS_mlockall, flags);
}

/* ---- merging of equal pages: it takes the manager's write protection away unseen ---- */

/* Also before there is a manager: it is for all memory that will be mapped, too. */
bool memory_would_merge(const uintptr_t *a)
{
    return process.active && a[0] == PR_SET_MEMORY_MERGE && a[1] != 0;
}

PRELOAD_API int prctl(int option, ...)
{
    uintptr_t a[6] = {(uintptr_t)option};
    va_list args;

    va_start(args, option);
    for (int i = 1; i < 5; i++)
        a[i] = va_arg(args, uintptr_t);
    va_end(args);
    if (memory_would_merge(a)) /* as a kernel that cannot */
        return memory_failed(-EINVAL);
    return (int)guard_function_call(SYS_prctl, a);
}

/* ---- mmap, munmap ---- */

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
