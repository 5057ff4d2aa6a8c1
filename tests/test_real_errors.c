/*
 * What fails in the store does not lose or falsify a page: failed and corrupt reads raise SIGBUS
 * for that page alone; failed writes keep the page; a full disk keeps everything.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "memory_fixture.h"

#define PAGES 1024UL

static const char *const kinds[] = {"mapper:copy,trap:thread", "mapper:copy,trap:sigbus",
                                    "mapper:move,trap:thread", "mapper:move,trap:sigbus"};

static struct vmsm *open_with(const char *kind, const char *more, char **base)
{
    char conf[512];
    struct vmsm *m;
    void *memory;

    snprintf(conf, sizeof(conf), "%s,memory:1M,%s", kind, more);
    m = manager_or_skip(conf);
    if (m == NULL)
        return NULL;
    if (!ok(vmsm_map(m, PAGES * PAGE, &memory) == 0, "%s: mapped", conf)) {
        vmsm_destroy(m);
        return NULL;
    }
    *base = memory;
    return m;
}

/* Reads that fail, or bring back something else, raise SIGBUS; a decommit heals the page. */
static void bad_reads(const char *kind, const char *what)
{
    size_t failed = 0, wrong = 0, last = 0;
    char *base;
    struct vmsm *m = open_with(kind, what, &base);

    if (m == NULL)
        return;
    pages_write(m, base, PAGES, 1);
    for (size_t p = 0; p < PAGES; p++) {
        switch (page_look(m, base, p, 1)) {
        case PAGE_FAILED:
            failed++;
            last = p;
            break;
        case PAGE_WRONG:
            wrong++;
            break;
        case PAGE_RIGHT:
            break;
        }
    }
    ok(failed > 0, "%s, %s: %zu of %lu pages raised SIGBUS", kind, what, failed, PAGES);
    is(wrong, 0, "%s, %s: no page shows wrong content", kind, what);
    is(counters_of(m).pages_lost, failed, "%s, %s: the counter agrees", kind, what);
    ok(vmsm_prefault(m, &(struct iovec){base + last * PAGE, PAGE}, 1) == -EIO,
       "%s, %s: prefault of such a page is -EIO", kind, what);
    is(vmsm_decommit(m, base + last * PAGE, PAGE), 0, "%s, %s: it can be decommitted", kind, what);
    ok(page_look(m, base, last, 0) == PAGE_RIGHT, "%s, %s: and then reads as zeroes", kind, what);
    is(vmsm_check(m), 0, "%s, %s: books balanced", kind, what);
    vmsm_destroy(m);
}

/* Bytes changed behind our back in a real pagefile are found by the hash. */
static void changed_pagefile(const char *kind)
{
    char path[] = "/var/tmp/vmsm-test-XXXXXX", more[64], garbage[PAGE];
    size_t failed = 0, wrong = 0;
    int fd = mkstemp(path);
    char *base;
    struct vmsm *m;

    snprintf(more, sizeof(more), "pagefile:%s", path);
    m = open_with(kind, more, &base);
    if (m != NULL) {
        pages_write(m, base, PAGES, 1);
        memset(garbage, 0x5a, sizeof(garbage));
        for (long slot = 1; slot < 400; slot++) {
            if (pwrite(fd, garbage, PAGE, slot * (long)PAGE) != (long)PAGE)
                ok(false, "the pagefile can be changed");
        }
        for (size_t p = 0; p < PAGES; p++) {
            enum page_look look = page_look(m, base, p, 1);

            failed += look == PAGE_FAILED;
            wrong += look == PAGE_WRONG;
        }
        ok(failed > 0, "%s, changed pagefile: %zu pages raised SIGBUS", kind, failed);
        is(wrong, 0, "%s, changed pagefile: no page shows wrong content", kind);
        is(vmsm_check(m), 0, "%s, changed pagefile: books balanced", kind);
        vmsm_destroy(m);
    }
    close(fd);
    unlink(path);
}

/* Writes that fail now and then, or for one slot always: every page is right in the end. */
static void bad_writes(const char *kind, const char *what)
{
    char *base;
    struct vmsm *m = open_with(kind, what, &base);
    struct vmsm_counters c;

    if (m == NULL)
        return;
    pages_write(m, base, PAGES, 1);
    pages_write(m, base, PAGES, 2);
    is(pages_wrong(m, base, PAGES, 2), 0, "%s, %s: every page is right", kind, what);
    c = counters_of(m);
    ok(c.write_errors > 0, "%s, %s: %llu writes failed", kind, what,
       (unsigned long long)c.write_errors);
    is(c.pages_lost, 0, "%s, %s: nothing is lost", kind, what);
    is(vmsm_check(m), 0, "%s, %s: books balanced", kind, what);
    vmsm_destroy(m);
}

/* The disk fills up during the run: touches fail after `patience`, and what was written stays. */
static void full_disk(const char *kind)
{
    const char *what = "store_full_after:300,patience:200ms";
    size_t written = 0, wrong = 0;
    char *base;
    struct vmsm *m = open_with(kind, what, &base);

    if (m == NULL)
        return;
    while (written < PAGES && page_try_write(m, base, written, 1))
        written++;
    ok(written < PAGES && written >= 300, "%s, full disk: a touch fails after %zu pages", kind,
       written);
    /* Pages in slots need a frame to be seen, and none can be had; what is in frames must be right.
     */
    for (size_t p = written - 20; p < written; p++)
        wrong += page_look(m, base, p, 1) == PAGE_WRONG;
    is(counters_of(m).pages_lost, 0, "%s, full disk: no page is lost", kind);
    is(wrong, 0, "%s, full disk: what is in memory is right", kind);
    vmsm_destroy(m);
}

int main(void)
{
    catch_sigbus();
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        bad_reads(kinds[k], "store_read_error:1");
        bad_reads(kinds[k], "store_corrupt:1");
        changed_pagefile(kinds[k]);
        /* With batches of odd length each would end with a failure, and the writer pause after it. */
        bad_writes(kinds[k], "store_write_error:2,write_batch:4");
        bad_writes(kinds[k], "store_bad_write_slot:5");
        full_disk(kinds[k]);
    }
    return done_testing();
}
