#include "preload/pin.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "preload/preload.h"

#define PAGE ((uintptr_t)VMSM_PAGE_SIZE)

static void unpin_down_to(struct pinned *p, int count)
{
    while (p->range_count > count) {
        const struct iovec *range = &p->ranges[--p->range_count];

        vmsm_unpin(arena.manager, range->iov_base, range->iov_len);
    }
}

/*
 * Reads that have ended, and whose pins are still there. Whoever gives their memory back holds the
 * gate and waits for them to go, so it cannot be that only who has the gate may undo them after it:
 * he who waits does it for the other.
 */
static struct pinned *_Atomic ended;

void direct_unpin_ended(void)
{
    struct pinned *p = atomic_exchange(&ended, NULL);

    while (p != NULL) {
        struct pinned *next = p->next;

        unpin_down_to(p, 0);
        atomic_store(&p->undone, true); /* and it is gone */
        p = next;
    }
}

void direct_forked(void)
{
    atomic_store(&ended, NULL);
}

static long unpin_ended(const uintptr_t *unused)
{
    (void)unused;
    direct_unpin_ended();
    return 0;
}

void pin_release(struct pinned *p)
{
    if (p->range_count == 0)
        return;
    p->next = atomic_load(&ended);
    while (!atomic_compare_exchange_weak(&ended, &p->next, p))
        continue;
    while (!atomic_load(&p->undone)) {
        if (gate_shared_call(unpin_ended, NULL) != 0 || !atomic_load(&p->undone))
            sched_yield(); /* there was no stack for it now; or another thread is about to */
    }
}

/* What is the manager's of these pages, all or nothing. The rest of them (files that were mapped
 * there, holes) is the kernel's, which knows what to do or to say. */
static long pin_range(uintptr_t start, uintptr_t end, struct pinned *p)
{
    int before = p->range_count;

    end = end < arena.end ? end : arena.end;
    for (uintptr_t at = start > arena.base ? start : arena.base; at < end;) {
        struct space_range piece = space_piece(&arena.space, at, end);
        struct iovec range = {(void *)piece.start, piece.end - piece.start};
        long error = 0;

        at = piece.end;
        if (piece.what.kind != SPACE_MANAGED)
            continue;
        if (p->range_count == PIN_PIECES)
            error = -ENOMEM;
        else
            error = vmsm_pin(arena.manager, range.iov_base, range.iov_len);
        if (error != 0) {
            unpin_down_to(p, before);
            return error;
        }
        p->ranges[p->range_count++] = range;
    }
    return 0;
}

/* Pin as much of an element as can be, and may; its length becomes that. 0 or a negative errno. */
static long pin_element(struct iovec *element, struct pinned *p)
{
    uintptr_t start = (uintptr_t)element->iov_base;

    for (;;) {
        uintptr_t end = (start + element->iov_len + PAGE - 1) & ~(PAGE - 1);
        long error = pin_range(start & ~(PAGE - 1), end, p);

        if (error != -ENOMEM || element->iov_len <= PAGE)
            return error;
        element->iov_len = (element->iov_len / 2 + PAGE - 1) & ~(PAGE - 1);
    }
}

/* iov, count, most, pinned. (All in one call, for who has pins must not wait for the gate.) */
static long pin(const uintptr_t *a)
{
    const struct iovec *iov = (const struct iovec *)a[0];
    struct pinned *p = (struct pinned *)a[3];
    size_t most = a[2];
    int count = (int)a[1];

    p->count = p->range_count = 0;
    p->length = 0;
    p->undone = false;
    for (int i = 0; i < count && p->count < PIN_PIECES; i++) {
        struct iovec element = iov[i];
        long error = 0;

        if (element.iov_len == 0)
            continue;
        if (p->length == most)
            break;
        if (element.iov_len > most - p->length)
            element.iov_len = most - p->length;
        if (arena_overlaps((uintptr_t)element.iov_base, element.iov_len))
            error = pin_element(&element, p);
        if (error != 0)
            return p->length > 0 ? 0 : error;
        p->iov[p->count++] = element;
        p->length += element.iov_len;
        if (element.iov_len < iov[i].iov_len)
            break;
    }
    return 0;
}

long pin_buffers(const struct iovec *iov, int count, size_t most, struct pinned *p)
{
    struct iovec copy[PIN_PIECES]; /* theirs may be managed memory, which the gate must not touch */

    if (count > PIN_PIECES)
        count = PIN_PIECES;
    memcpy(copy, iov, (size_t)count * sizeof(copy[0]));
    return gate_shared_call(pin,
                            (uintptr_t[]){(uintptr_t)copy, (uintptr_t)count, most, (uintptr_t)p});
}
