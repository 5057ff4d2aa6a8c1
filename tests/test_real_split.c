/*
 * The kernel may hold a region as many mappings: the program may change the protection or the
 * advice of a part, and unmapping a part splits one. No page is lost where a run of pages crosses
 * from one into the next; and where the kernel cannot split, vmsm_unmap() says so and changes
 * nothing.
 */
#include "real_fixture.h"

#define PAGES 1024u
#define STEP 7u /* pages from one split to the next: runs are longer */

static size_t count_mappings(void)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    size_t n = 0;
    int c;

    while (maps != NULL && (c = getc(maps)) != EOF)
        n += c == '\n';
    if (maps != NULL)
        fclose(maps);
    return n;
}

/* Every run of several pages crosses from one mapping into another. */
static void crossing(const char *kind)
{
    size_t before = count_mappings();
    struct real r;

    if (!real_open(&r, PAGES, "%s,memory:1M", kind))
        return;
    for (size_t p = 0; p < PAGES; p += STEP)
        madvise(r.base + p * PAGE, PAGE, MADV_RANDOM);
    ok(count_mappings() > before + PAGES / STEP, "%s: the region is in many mappings", kind);
    is(real_count_wrong(&r, 0, PAGES, 0), 0, "%s: new pages are zero", kind);
    for (uint64_t generation = 1; generation <= 3; generation++) {
        real_fill_all(&r, generation);
        is(real_count_wrong(&r, 0, PAGES, generation), 0, "%s: all is right, generation %llu", kind,
           (unsigned long long)generation);
    }
    real_close(&r);
}

/* All mappings that the kernel grants a process. Returns the memory they are in. */
static char *use_up_mappings(size_t *length)
{
    size_t pages = 0, granted = 0;
    FILE *limit = fopen("/proc/sys/vm/max_map_count", "re");
    char *memory;

    if (limit == NULL || fscanf(limit, "%zu", &granted) != 1 || granted > 1000000)
        granted = 0;
    if (limit != NULL)
        fclose(limit);
    *length = (2 * granted + 2) * PAGE;
    if (granted == 0)
        return NULL;
    memory = mmap(NULL, *length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    while (pages * PAGE < *length && mprotect(memory + pages * PAGE, PAGE, PROT_READ) == 0)
        pages += 2;
    return memory;
}

static void no_more_mappings(const char *kind, int advice)
{
    size_t length;
    char *memory;
    struct real r;
    int error;

    if (SANITIZED) {
        skip("%s: %s needs mappings of its own", kind, SANITIZER);
        return;
    }
    if (!real_open(&r, PAGES, "%s,memory:1M", kind))
        return;
    real_fill_all(&r, 1);
    madvise(r.base, PAGES * PAGE, advice);
    memory = use_up_mappings(&length);
    if (memory == NULL) {
        skip("%s: vm.max_map_count is not to be used up", kind);
        real_close(&r);
        return;
    }
    error = vmsm_unmap(r.m, r.base + 100 * PAGE, PAGE);
    munmap(memory, length);
    is(error, -ENOMEM, "%s: no mapping is left for the second half", kind);
    ok(strstr(vmsm_last_error(), "max_map_count") != NULL, "in words: %s", vmsm_last_error());
    is(real_count_wrong(&r, 0, PAGES, 1), 0, "%s: nothing has changed", kind);
    is(vmsm_check(r.m), 0, "%s: books balanced", kind);
    is(vmsm_unmap(r.m, r.base + 100 * PAGE, PAGE), 0, "%s: when there are, it is unmapped", kind);
    real_fill(r.base, 99, 2);
    real_fill(r.base, 101, 2);
    ok(real_right(r.base, 99, 2) && real_right(r.base, 101, 2), "%s: beside it all goes on", kind);
    real_close(&r);
}

/* What the program has unmapped itself is no hindrance. */
static void hole(const char *kind)
{
    struct real r;

    if (!real_open(&r, PAGES, "%s,memory:1M", kind))
        return;
    real_fill_all(&r, 1);
    munmap(r.base + 100 * PAGE, PAGE);
    is(real_count_wrong(&r, 0, 100, 1), 0, "%s: beside a hole all is right", kind);
    is(vmsm_unmap(r.m, r.base + 50 * PAGE, 100 * PAGE), 0, "%s: a part with a hole goes", kind);
    is(vmsm_unmap(r.m, r.base + 150 * PAGE, (PAGES - 150) * PAGE), 0, "%s: the rest goes", kind);
    is(vmsm_unmap(r.m, r.base, 50 * PAGE), 0, "%s: all of it", kind);
    is(counters_of(r.m).commit_pages, 0, "%s: no commit is left", kind);
    real_close(&r);
}

int main(void)
{
    for (size_t k = 0; k < REAL_KINDS; k++) {
        crossing(real_kinds[k]);
        no_more_mappings(real_kinds[k], MADV_NORMAL);
        no_more_mappings(real_kinds[k], MADV_RANDOM);
        no_more_mappings(real_kinds[k], MADV_SEQUENTIAL);
        hole(real_kinds[k]);
    }
    return done_testing();
}
