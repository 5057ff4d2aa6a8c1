/*
 * What the program hands to a call may itself be managed memory, paged out or never touched: the
 * counters' destination, the array of ranges. Nothing that a fault needs is held when it is used.
 */
#include <stddef.h>

#include "real_fixture.h"

#define PAGES 1024u
#define RANGES (PAGES * PAGE / sizeof(struct iovec)) /* an array that fills the region */

/* The page that the last fields are written to is touched for the first time, in a region whose
 * commit is charged by that touch. */
static void counters(const char *kind)
{
    struct vmsm_counters *out;
    struct real r;
    void *memory;

    if (!real_open(&r, PAGES, "%s,memory:1M,touch_window:1", kind))
        return;
    if (vmsm_reserve(r.m, 2 * PAGE, &memory) != 0) {
        ok(false, "%s: two pages reserved: %s", kind, vmsm_last_error());
    } else {
        out = (struct vmsm_counters *)(void *)((char *)memory + PAGE -
                                               offsetof(struct vmsm_counters, commit_pages));
        is(vmsm_get_counters(r.m, out), 0, "%s: counters come into fresh managed memory", kind);
        is(out->mapped_pages, PAGES + 2, "%s: they are right", kind);
        out = (struct vmsm_counters *)(void *)((char *)memory + PAGE -
                                               offsetof(struct vmsm_counters, mapped_pages));
        vmsm_decommit(r.m, memory, 2 * PAGE);
        is(vmsm_get_counters(r.m, out), 0, "%s: whichever field comes first", kind);
        is(out->mapped_pages, PAGES + 2, "%s: is right too", kind);
    }
    real_close(&r);
}

/* An array larger than memory: the page that a range asks for is the one that the next ranges are
 * read from. */
static void ranges(const char *kind)
{
    struct iovec *array;
    struct real r;

    if (!real_open(&r, PAGES, "%s,memory:1M,read_window:1", kind))
        return;
    array = (struct iovec *)(void *)r.base;
    for (size_t i = 0; i < RANGES; i++)
        array[i] =
            (struct iovec){.iov_base = r.base + i / 256 * PAGE, .iov_len = i % 256 == 0 ? PAGE : 0};
    is(vmsm_prefault(r.m, array, (int)RANGES), 0, "%s: ranges that ask for their own array", kind);
    is(array[RANGES - 256].iov_len, PAGE, "%s: it is as it was", kind);
    real_close(&r);
}

int main(void)
{
    for (size_t k = 0; k < REAL_KINDS; k++) {
        counters(real_kinds[k]);
        ranges(real_kinds[k]);
    }
    return done_testing();
}
