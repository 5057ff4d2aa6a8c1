/*
 * A region may be far larger than memory: a terabyte maps at once and costs what is touched; when
 * its commit runs out, a new page raises SIGBUS and nothing that exists is lost.
 */
#include <time.h>

#include "real_fixture.h"

#define TERABYTE (UINT64_C(1) << 40)
#define TOUCHED 1000UL
/* Each touched page may cost itself, a page of PTEs, and a page of sections; and some slack. */
#define GROWTH_MAX_KIB (TOUCHED * 12 + 4096)

static long resident_kib(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[200];
    long kib = -1;

    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        sscanf(line, "VmRSS: %ld", &kib);
    if (f != NULL)
        fclose(f);
    return kib;
}

static double milliseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void terabyte(const char *kind)
{
    const size_t step = TERABYTE / PAGE / TOUCHED;
    char conf[REAL_CONF_MAX];
    long before, after;
    size_t wrong = 0;
    double started, mapped, unmapped;
    struct vmsm *m;
    void *memory;
    char *base;

    snprintf(conf, sizeof(conf), "%s,memory:2M", kind);
    m = manager_or_skip(conf);
    if (m == NULL)
        return;
    before = resident_kib();
    started = milliseconds();
    if (!ok(vmsm_reserve(m, TERABYTE, &memory) == 0, "%s: a terabyte is reserved", kind)) {
        vmsm_destroy(m);
        return;
    }
    mapped = milliseconds() - started;
    base = memory;
    for (size_t i = 0; i < TOUCHED; i++)
        real_fill(base, i * step, 1);
    for (size_t i = 0; i < TOUCHED; i++)
        wrong += !real_right(base, i * step, 1);
    is(wrong, 0, "%s: %lu pages scattered over it are right", kind, TOUCHED);
    after = resident_kib();
    if (SANITIZED)
        skip("%s: %s has memory of its own for each page", kind, SANITIZER);
    else
        ok(after - before < (long)GROWTH_MAX_KIB, "%s: resident memory grew by %ld KiB, under %ld",
           kind, after - before, (long)GROWTH_MAX_KIB);
    started = milliseconds();
    is(vmsm_unmap(m, base, TERABYTE), 0, "%s: it is unmapped", kind);
    unmapped = milliseconds() - started;
    is(counters_of(m).commit_pages, 0, "%s: no commit is left", kind);
    is(counters_of(m).touched_pages, 0, "%s: no page is left", kind);
    is(vmsm_check(m), 0, "%s: books balanced", kind);
    note("%s: mapped in %.2f ms, unmapped in %.1f ms", kind, mapped, unmapped);
    vmsm_destroy(m);
}

static size_t count_wrong(const char *base, size_t pages)
{
    size_t wrong = 0;

    for (size_t p = 0; p < pages; p++)
        wrong += !real_right(base, p, 1);
    return wrong;
}

static void commit_ends(const char *kind)
{
    char conf[REAL_CONF_MAX];
    size_t filled = 0;
    struct vmsm *m;
    void *memory;
    char *base;

    snprintf(conf, sizeof(conf), "%s,memory:1M,pagefile_size:4M", kind);
    m = manager_or_skip(conf);
    if (m == NULL)
        return;
    is(vmsm_reserve(m, 64UL << 20, &memory), 0, "%s: more is reserved than can be had", kind);
    base = memory;
    while (filled < (64UL << 20) / PAGE && real_try_fill(base, filled, 1))
        filled++;
    ok(filled >= 1000 && filled < 2000, "%s: SIGBUS after %zu pages", kind, filled);
    is(count_wrong(base, filled), 0, "%s: every page before it is right", kind);
    is(vmsm_decommit(m, base, 100 * PAGE), 0, "%s: room is made", kind);
    is(vmsm_decommit(m, base + filled * PAGE, PAGE), 0, "%s: the failed page is given back", kind);
    ok(touch(base + filled * PAGE), "%s: and can be had now", kind);
    is(vmsm_check(m), 0, "%s: books balanced", kind);
    vmsm_destroy(m);
}

int main(void)
{
    catch_sigbus();
    for (size_t k = 0; k < REAL_KINDS; k++) {
        terabyte(real_kinds[k]);
        commit_ends(real_kinds[k]);
    }
    return done_testing();
}
