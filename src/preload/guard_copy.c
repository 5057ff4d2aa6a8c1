#include "preload/guard_copy.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "preload/guard.h"
#include "preload/kernel.h"
#include "preload/memory.h"
#include "preload/preload.h"

#define LEAST (64UL * 1024) /* of a mapping that is kept, */
#define KEPT (256UL * 1024) /* and the most */
#define MARK UINT64_C(0x6d6f4e6d736d7621)

/* ---- the program's memory ---- */

/* start, end, protection: how much of it, from the start on, is managed and may be touched. */
static long managed_length(const uintptr_t *a)
{
    uintptr_t at = a[0];

    while (at < a[1]) {
        struct space_range piece = space_piece(&arena.space, at, a[1]);

        if (piece.what.kind != SPACE_MANAGED || !(piece.what.protection & a[2]))
            break;
        at = piece.end;
    }
    return (long)(at - a[0]);
}

static size_t managed(uintptr_t start, size_t length, bool writes)
{
    uintptr_t end = start + length, protection = PROT_WRITE;
    long managed_bytes;

    if (!arena_overlaps(start, length) || start < arena.base)
        return 0;
    if (end > arena.end)
        end = arena.end;
    if (!writes)
        protection |= PROT_READ;
    managed_bytes = gate_shared_call(managed_length, (uintptr_t[]){start, end, protection});
    return managed_bytes > 0 ? (size_t)managed_bytes : 0;
}

/* What is not managed is the kernel's to copy, for it knows what is there. By the thread's number: the
 * first thread may have ended, and then the process's finds no memory. */
static size_t copy_by_kernel(uintptr_t program, void *ours, size_t length, bool writes)
{
    struct iovec here = {.iov_base = ours, .iov_len = length};
    struct iovec there = {.iov_base = (void *)program, .iov_len = length};
    long done = kernel_raw(writes ? SYS_process_vm_writev : SYS_process_vm_readv,
                           kernel_raw(SYS_gettid), &here, 1, &there, 1, 0);

    if (done == -EPERM || done == -ENOSYS) { /* a filter of the program's: then it must be right */
        memcpy(writes ? (void *)program : ours, writes ? ours : (const void *)program, length);
        done = (long)length;
    }
    return done > 0 ? (size_t)done : 0;
}

static size_t copy(uintptr_t program, char *ours, size_t length, bool writes)
{
    size_t done = 0;

    while (done < length) {
        uintptr_t at = program + done;
        size_t step = managed(at, length - done, writes), page = VMSM_PAGE_SIZE;

        if (step > 0)
            memcpy(writes ? (void *)at : ours + done, writes ? ours + done : (const void *)at,
                   step);
        else
            step = copy_by_kernel(
                at, ours + done, /* and not into what is managed behind it */
                length - done < page - at % page ? length - done : page - at % page, writes);
        if (step == 0)
            break;
        done += step;
    }
    return done;
}

size_t guard_read_some(void *to, uintptr_t from, size_t length)
{
    return copy(from, to, length, false);
}

size_t guard_write_some(uintptr_t to, const void *from, size_t length)
{
    return copy(to, (char *)(uintptr_t)from, length, true);
}

long guard_read(void *to, uintptr_t from, size_t length)
{
    return guard_read_some(to, from, length) == length ? 0 : -EFAULT;
}

long guard_write(uintptr_t to, const void *from, size_t length)
{
    return guard_write_some(to, from, length) == length ? 0 : -EFAULT;
}

size_t guard_read_text(char *to, uintptr_t from, size_t most)
{
    size_t done = 0;

    while (done < most) {
        size_t page = VMSM_PAGE_SIZE - (from + done) % VMSM_PAGE_SIZE, got;
        const char *end;

        got = guard_read_some(to + done, from + done, page < most - done ? page : most - done);
        end = memchr(to + done, '\0', got);
        if (end != NULL)
            return (size_t)(end - to) + 1;
        if (got == 0)
            break;
        done += got;
    }
    return done;
}

void guard_touch(uintptr_t start, size_t length)
{
    size_t writable = managed(start, length, true), readable = 0;

    if (writable < length)
        readable = managed(start + writable, length - writable, false);
    for (size_t at = 0; at < writable + readable;) {
        memory_touch(start + at, at < writable);
        at += VMSM_PAGE_SIZE - (start + at) % VMSM_PAGE_SIZE;
    }
}

/* ---- memory to call on ---- */

/* He has left: what he had on his stack is gone, or another's. */
static bool is_abandoned(const struct guard_bounce *bounce, const struct guard_lease *lease)
{
    struct guard_lease now;

    return guard_read(&now, (uintptr_t)lease, sizeof(now)) != 0 ||
           now.mark != ((uintptr_t)lease ^ MARK) || now.from != bounce;
}

static bool take(struct guard_bounce *bounce, struct guard_lease *lease)
{
    struct guard_lease *before = atomic_load(&bounce->lease);

    if (before != NULL && before != lease && !is_abandoned(bounce, before))
        return false;
    lease->from = bounce;
    return atomic_compare_exchange_strong(&bounce->lease, &before, lease);
}

static char *map(size_t length)
{
    char *memory = kernel_mmap(NULL, length, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory != MAP_FAILED ? memory : NULL;
}

/* Forgotten first: a handler may leave by siglongjmp() as soon as it is unmapped. */
static void unmap(struct guard_bounce *bounce)
{
    char *memory = bounce->memory;

    bounce->memory = NULL;
    atomic_signal_fence(memory_order_seq_cst);
    if (memory != NULL)
        kernel_munmap(memory, bounce->length);
}

long guard_lease(struct guard_lease *lease, size_t length)
{
    struct guard_bounce *bounce = NULL;

    if (length > SIZE_MAX / 2)
        return -ENOMEM;
    length = (length + VMSM_PAGE_SIZE - 1) & ~(size_t)(VMSM_PAGE_SIZE - 1);
    if (length < LEAST)
        length = LEAST;
    lease->mark = (uintptr_t)lease ^ MARK;
    for (int i = 0; i < GUARD_BOUNCES && bounce == NULL; i++) {
        if (take(&guard_thread.bounces[i], lease))
            bounce = &guard_thread.bounces[i];
    }
    lease->from = bounce;
    lease->length = length;
    if (bounce == NULL) {
        lease->memory = map(length);
        return lease->memory != NULL ? 0 : -ENOMEM;
    }
    if (bounce->memory == NULL || bounce->length < length) {
        unmap(bounce);
        bounce->length = length;
        bounce->memory = map(length);
    }
    lease->memory = bounce->memory;
    if (lease->memory != NULL)
        return 0;
    guard_lease_end(lease, true);
    return -ENOMEM;
}

void guard_lease_end(struct guard_lease *lease, bool keep)
{
    struct guard_bounce *bounce = lease->from;

    if (bounce == NULL) {
        kernel_munmap(lease->memory, lease->length);
        return;
    }
    if (!keep || bounce->length > KEPT)
        unmap(bounce);
    lease->mark = 0;
    atomic_compare_exchange_strong(&bounce->lease, &(struct guard_lease *){lease}, NULL);
}

void guard_bounces_give(void)
{
    for (int i = 0; i < GUARD_BOUNCES; i++)
        unmap(&guard_thread.bounces[i]);
}
