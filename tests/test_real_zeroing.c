/*
 * Nobody reads what was there before: a page touched for the first time is all zero, however full
 * of old content frames, caches and pagefile are: after decommit, after unmap and map, in a new
 * manager, and around what was written in a page that was touched for the first time.
 */
#include "real_fixture.h"

#define PAGES 900u
#define FRAMES_CONF "memory:1M" /* 256 frames */
#define PART 100u               /* bytes of a partial write, */
#define PART_AT 2000u           /* in the middle of the page */

static const char *const kinds[] = {
    "mapper:copy,trap:thread",
    "mapper:copy,trap:sigbus",
    "mapper:move,trap:thread",
    "mapper:move,trap:sigbus",
    "mapper:soft",
    "mapper:copy,trap:thread,encrypt:on",
    "mapper:copy,trap:thread,stage:single",
    "mapper:move,trap:thread,stage:single",
    "mapper:soft,stage:basic",
};

static unsigned char page_of_pattern[PAGE];

static size_t count_wrong(struct vmsm *m, const char *base, size_t first, size_t step,
                          const unsigned char *expected)
{
    unsigned char page[PAGE];
    size_t wrong = 0;

    for (size_t p = first; p < PAGES; p += step)
        wrong +=
            vmsm_read(m, base + p * PAGE, page, PAGE) != 0 || memcmp(page, expected, PAGE) != 0;
    return wrong;
}

static void fill_all(struct vmsm *m, char *base)
{
    unsigned failed = 0;

    for (size_t p = 0; p < PAGES; p++)
        failed += vmsm_write(m, base + p * PAGE, page_of_pattern, PAGE) != 0;
    if (failed > 0)
        ok(false, "%u pages could not be written: %s", failed, vmsm_last_error());
}

static void test_decommit(struct vmsm *m, char *base, const char *kind)
{
    static const unsigned char zeroes[PAGE];
    unsigned char partial[PAGE] = {0};

    is(count_wrong(m, base, 0, 1, zeroes), 0, "%s: a new region is zero", kind);
    fill_all(m, base);
    is(count_wrong(m, base, 0, 1, page_of_pattern), 0, "%s: it holds the pattern", kind);
    is(vmsm_decommit(m, base, PAGES * PAGE), 0, "%s: all decommitted", kind);
    is(count_wrong(m, base, 0, 1, zeroes), 0, "%s: after decommit all is zero", kind);

    fill_all(m, base);
    is(vmsm_decommit(m, base, PAGES * PAGE), 0, "%s: decommitted again", kind);
    memcpy(partial + PART_AT, page_of_pattern, PART);
    for (size_t p = 0; p < PAGES; p++)
        vmsm_write(m, base + p * PAGE + PART_AT, page_of_pattern, PART);
    is(count_wrong(m, base, 0, 1, partial), 0, "%s: around a partial first write is zero", kind);
    for (size_t p = 1; p < PAGES; p += 2)
        vmsm_decommit(m, base + p * PAGE, PAGE);
    is(count_wrong(m, base, 1, 2, zeroes), 0, "%s: every other page decommitted: zero", kind);
    is(count_wrong(m, base, 0, 2, partial), 0, "%s: its neighbours are as they were", kind);
}

static void test_unmap(struct vmsm *m, char **base, const char *kind)
{
    static const unsigned char zeroes[PAGE];
    void *again = NULL;

    fill_all(m, *base);
    is(vmsm_unmap(m, *base, PAGES * PAGE), 0, "%s: the region unmapped", kind);
    is(vmsm_map(m, PAGES * PAGE, &again), 0, "%s: and another mapped", kind);
    is(count_wrong(m, again, 0, 1, zeroes), 0, "%s: after unmap and map all is zero", kind);
    *base = again;
}

/* Decommit, whole and partial writes and reads in any order, against a model. */
static void test_mixture(struct vmsm *m, char *base, const char *kind)
{
    static unsigned char model[PAGES][PAGE];
    unsigned char page[PAGE];
    uint64_t random = 88172645463325252u;
    unsigned wrong = 0;

    vmsm_decommit(m, base, PAGES * PAGE);
    memset(model, 0, sizeof(model));
    for (unsigned i = 0; i < 20000; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        size_t p = (random >> 8) % PAGES, at = (random >> 32) % (PAGE - PART);

        switch (random % 4) {
        case 0:
            vmsm_decommit(m, base + p * PAGE, PAGE);
            memset(model[p], 0, PAGE);
            break;
        case 1:
            vmsm_write(m, base + p * PAGE + at, page_of_pattern, PART);
            memcpy(model[p] + at, page_of_pattern, PART);
            break;
        default:
            wrong +=
                vmsm_read(m, base + p * PAGE, page, PAGE) != 0 || memcmp(page, model[p], PAGE) != 0;
        }
    }
    is(wrong, 0, "%s: 20000 decommits, writes and reads: no page is other than its model", kind);
}

static void test_new_manager(struct vmsm *old, const char *conf, const char *kind)
{
    static const unsigned char zeroes[PAGE];
    struct vmsm *m = manager_or_skip(conf);
    void *base;

    if (m == NULL)
        return;
    is(vmsm_map(m, PAGES * PAGE, &base), 0, "%s: a region in another manager", kind);
    is(count_wrong(m, base, 0, 1, zeroes), 0, "%s: %s, it is zero", kind,
       old != NULL ? "while the first holds its content" : "when the first is gone");
    is(vmsm_check(m), 0, "%s: its books balanced", kind);
    vmsm_destroy(m);
}

int main(void)
{
    for (unsigned i = 0; i < PAGE; i++)
        page_of_pattern[i] = (unsigned char)(0x80 | i % 113);
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        char conf[REAL_CONF_MAX];
        struct vmsm *m;
        void *memory = NULL;
        char *base;

        snprintf(conf, sizeof(conf), "%s,%s", kinds[k], FRAMES_CONF);
        m = manager_or_skip(conf);
        if (m == NULL)
            continue;
        is(vmsm_map(m, PAGES * PAGE, &memory), 0, "%s: a region", kinds[k]);
        base = memory;
        test_decommit(m, base, kinds[k]);
        test_unmap(m, &base, kinds[k]);
        test_mixture(m, base, kinds[k]);
        fill_all(m, base);
        test_new_manager(m, conf, kinds[k]);
        is(vmsm_check(m), 0, "%s: books balanced", kinds[k]);
        vmsm_destroy(m);
        test_new_manager(NULL, conf, kinds[k]);
    }
    return done_testing();
}
