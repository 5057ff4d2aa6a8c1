/*
 * Large pages on the real kernel: data is intact while sections come and go as huge pages, and when
 * parts of them are given back, unmapped, protected or locked; and memory that the kernel could keep
 * behind a part of a huge page stays in the budget.
 */
#include "real_fixture.h"

#define MIB (UINT64_C(1) << 20)
#define SECTION 512u       /* pages */
#define MEMORY (48 * MIB)  /* the budget */
#define PAGES (24u * 1024) /* of the region: twice as much */
#define SLACK_KIB 1024u    /* what smaps may count besides: pages on their way */

#define ROUNDS 50u /* memory for huge pages may be slow to come: so often is it tried */

/* A region through which all goes; false after a skip. */
static bool large_open(struct real *r, const char *kind)
{
    if (!real_open(r, PAGES, "%s,memory:%lluM,large_share:8", kind,
                   (unsigned long long)(MEMORY / MIB)))
        return false;
    for (unsigned round = 0; round < ROUNDS && counters_of(r->m).pages_large < 4 * SECTION; round++)
        real_fill_all(r, 1);
    if (counters_of(r->m).pages_large >= 4 * SECTION)
        return true;
    skip("%s: no page is large: the kernel has no UFFDIO_MOVE (Linux 6.8), or no huge page", kind);
    real_close(r);
    return false;
}

/* KiB of the range that are in memory. */
static uint64_t resident_kib(const char *base, size_t length)
{
    FILE *maps = fopen("/proc/self/smaps", "re");
    uintptr_t low = (uintptr_t)base, high = low + length;
    bool inside = false;
    uint64_t sum = 0;
    char line[512];

    while (maps != NULL && fgets(line, sizeof(line), maps) != NULL) {
        unsigned long start, end, kib;
        char dash;

        if (sscanf(line, "%lx%c%lx ", &start, &dash, &end) == 3 && dash == '-')
            inside = start < high && end > low;
        else if (inside && sscanf(line, "Rss: %lu kB", &kib) == 1)
            sum += kib;
    }
    if (maps != NULL)
        fclose(maps);
    return sum;
}

static void in_budget(const struct real *r, const char *when)
{
    uint64_t kib = resident_kib(r->base, r->pages * PAGE);

    ok(kib <= MEMORY / 1024 + SLACK_KIB, "%s: %s, %llu KiB are in memory, of %llu", r->conf, when,
       (unsigned long long)kib, (unsigned long long)(MEMORY / 1024));
}

/* Touch pages here and there. */
static size_t wander(const struct real *r, size_t from, size_t to, unsigned times,
                     uint64_t generation)
{
    uint64_t state = 1;
    size_t wrong = 0;

    for (unsigned i = 0; i < times; i++) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
        wrong += !real_right(r->base, from + (state >> 33) % (to - from), generation);
    }
    return wrong;
}

static void streams(const char *kind)
{
    struct vmsm_counters c;
    struct real r;

    if (!large_open(&r, kind))
        return;
    in_budget(&r, "when all has been written");
    for (unsigned round = 0; round < 2; round++)
        is(real_count_wrong(&r, 0, PAGES, 1), 0, "%s: all is right", kind);
    for (unsigned round = 0; round < ROUNDS && counters_of(r.m).pages_trimmed_large == 0; round++)
        real_fill_all(&r, 1);
    c = counters_of(r.m);
    ok(c.pages_trimmed_large > 0, "%s: sections leave as a whole: %llu pages", kind,
       (unsigned long long)c.pages_trimmed_large);
    real_fill_all(&r, 2);
    in_budget(&r, "when all has been changed");
    for (size_t p = PAGES; p-- > 0;) {
        if (!real_right(r.base, p, 2))
            ok(false, "%s: page %zu is right, from the last to the first", kind, p);
    }
    is(wander(&r, 0, PAGES, 5000, 2), 0, "%s: pages here and there are right", kind);
    in_budget(&r, "after that");
    real_close(&r);
}

/* A part of each section is given back: the kernel must not keep the memory of it. */
static void parts(const char *kind)
{
    uint64_t before;
    size_t wrong = 0;
    struct real r;

    if (!large_open(&r, kind))
        return;
    before = resident_kib(r.base, PAGES * PAGE);
    for (unsigned round = 0; round < ROUNDS && counters_of(r.m).large_splits == 0; round++) {
        vmsm_decommit(r.m, r.base, PAGES * PAGE);
        real_fill_all(&r, 1);
        for (size_t p = 0; p < PAGES; p += SECTION) {
            if (vmsm_decommit(r.m, r.base + (p + 100) * PAGE, 300 * PAGE) != 0)
                ok(false, "%s: a part is decommitted: %s", kind, vmsm_last_error());
        }
    }
    ok(counters_of(r.m).large_splits > 0, "%s: large pages are split for that: %llu", kind,
       (unsigned long long)counters_of(r.m).large_splits);
    ok(resident_kib(r.base, PAGES * PAGE) < before, "%s: memory has been given back", kind);
    wrong += wander(&r, 0, 100, 100, 1);
    for (size_t p = 0; p < PAGES; p++) {
        bool gone = p % SECTION >= 100 && p % SECTION < 400;

        wrong += !real_right(r.base, p, gone ? 0 : 1);
    }
    is(wrong, 0, "%s: parts are zero, and the others are right", kind);
    in_budget(&r, "when all has been read");
    real_fill_all(&r, 3);
    in_budget(&r, "when all has been written again");
    is(real_count_wrong(&r, 0, PAGES, 3), 0, "%s: all is right", kind);
    real_close(&r);
}

static void unmapped(const char *kind)
{
    size_t wrong = 0;
    struct real r;

    if (!large_open(&r, kind))
        return;
    is(vmsm_unmap(r.m, r.base + (5 * SECTION + 17) * PAGE, 200 * PAGE), 0,
       "%s: a part of a section is unmapped", kind);
    is(vmsm_unmap(r.m, r.base + (PAGES - SECTION) * PAGE, 100 * PAGE), 0,
       "%s: and the beginning of the last one", kind);
    for (size_t p = 0; p < PAGES; p++) {
        if ((p >= 5 * SECTION + 17 && p < 5 * SECTION + 217) ||
            (p >= PAGES - SECTION && p < PAGES - SECTION + 100))
            continue;
        wrong += !real_right(r.base, p, 1);
    }
    is(wrong, 0, "%s: the others are right", kind);
    in_budget(&r, "after that");
    real_close(&r);
}

/* The kernel splits mappings, and page tables with them, behind our back. */
static void protected_parts(const char *kind)
{
    struct real r;

    if (!large_open(&r, kind))
        return;
    for (size_t p = 0; p < PAGES; p += 4 * SECTION)
        mprotect(r.base + (p + 50) * PAGE, 100 * PAGE, PROT_READ);
    is(real_count_wrong(&r, 0, PAGES, 1), 0, "%s: parts are read-only: all is right", kind);
    for (size_t p = 0; p < PAGES; p += 4 * SECTION)
        mprotect(r.base + (p + 50) * PAGE, 100 * PAGE, PROT_READ | PROT_WRITE);
    real_fill_all(&r, 2);
    is(real_count_wrong(&r, 0, PAGES, 2), 0, "%s: and no more: all is right", kind);
    in_budget(&r, "after that");
    real_close(&r);
}

static void pinned(const char *kind)
{
    struct real r;

    if (!large_open(&r, kind))
        return;
    is(vmsm_pin(r.m, r.base + (3 * SECTION + 7) * PAGE, 4 * PAGE), 0, "%s: pages are pinned", kind);
    is(real_count_wrong(&r, 0, PAGES, 1), 0, "%s: all is right", kind);
    is(real_resident(r.base, 3 * SECTION + 7, 4), 4, "%s: they stay where they are", kind);
    is(vmsm_unpin(r.m, r.base + (3 * SECTION + 7) * PAGE, 4 * PAGE), 0, "%s: unpinned", kind);
    is(real_count_wrong(&r, 0, PAGES, 1), 0, "%s: all is right", kind);
    real_close(&r);
}

/* Locked memory cannot be moved: it is as it was, and leaves page by page. */
static void locked(const char *kind)
{
    struct real r;

    if (!large_open(&r, kind))
        return;
    if (mlockall(MCL_CURRENT | MCL_ONFAULT) != 0) {
        skip("%s: memory cannot be locked: %s", kind, strerror(errno));
        real_close(&r);
        return;
    }
    is(real_count_wrong(&r, 0, PAGES, 1), 0, "%s: memory is locked: all is right", kind);
    real_fill_all(&r, 2);
    is(real_count_wrong(&r, 0, PAGES, 2), 0, "%s: and after it was written", kind);
    munlockall();
    in_budget(&r, "after that");
    real_close(&r);
}

int main(void)
{
    static const char *const kinds[] = {"mapper:copy,trap:thread", "mapper:copy,trap:sigbus"};

    if (SANITIZED) {
        skip("%s has memory of its own for each page", SANITIZER);
        return done_testing();
    }
    for (size_t k = 0; k < 2; k++) {
        streams(kinds[k]);
        parts(kinds[k]);
        unmapped(kinds[k]);
        protected_parts(kinds[k]);
        pinned(kinds[k]);
        locked(kinds[k]);
    }
    return done_testing();
}
