/*
 * Pages that are mapped protected because they are hardly ever written (dirty=auto), with real
 * memory: what is written to them at last, by stores, by system calls, after the program changed
 * their rights, is never lost, whatever the trimmer does meanwhile.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "internal.h"
#include "real_fixture.h"

#define PAGES 2048UL
#define WRITERS 2UL
#define WRITES 300UL

static uint64_t generations[PAGES];

/* Read all, again and again, until so many pages have left at once. Others may write them: only that
 * they are read matters. */
__attribute__((no_sanitize("thread"), noinline)) static bool read_until(const struct real *r,
                                                                        uint64_t at_once)
{
    for (unsigned round = 0; round < 50; round++) {
        for (size_t p = 0; p < PAGES; p++)
            (void)*(volatile char *)(r->base + p * PAGE);
        if (counters_of(r->m).pages_trimmed_at_once >= at_once)
            return true;
    }
    return false;
}

struct writer {
    const struct real *r;
    size_t number;
    bool done;
};

/* A page here and there; each writer has its own. Each tenth by a system call. */
static void *write_some(void *argument)
{
    static _Atomic bool failed;
    struct writer *w = argument;
    uint64_t random = 88172645463325252u + w->number, words[WORDS];
    int fds[2];

    if (pipe(fds) != 0)
        return NULL;
    for (size_t n = 0; n < WRITES && !failed; n++) {
        size_t p;

        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        p = random % (PAGES / WRITERS) * WRITERS + w->number;
        generations[p]++;
        if (n % 10 != 0) {
            real_fill(w->r->base, p, generations[p]);
            continue;
        }
        for (size_t i = 0; i < WORDS; i++)
            words[i] = word_of(p, i, generations[p]);
        failed |= write(fds[1], words, PAGE) != (ssize_t)PAGE ||
                  read(fds[0], w->r->base + p * PAGE, PAGE) != (ssize_t)PAGE;
    }
    close(fds[0]);
    close(fds[1]);
    w->done = !failed;
    return NULL;
}

static size_t count_wrong(const struct real *r)
{
    size_t wrong = 0;

    for (size_t p = 0; p < PAGES; p++)
        wrong += !real_right(r->base, p, generations[p]);
    return wrong;
}

/* Some are written while all is read. */
static void written(const struct real *r)
{
    struct writer writers[WRITERS];
    pthread_t threads[WRITERS];
    struct vmsm_counters c;

    for (size_t i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.r = r, .number = i};
        pthread_create(&threads[i], NULL, write_some, &writers[i]);
    }
    read_until(r, counters_of(r->m).pages_trimmed_at_once + PAGES);
    for (size_t i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
        ok(writers[i].done, "writer %zu has written", i);
    }
    c = counters_of(r->m);
    ok(c.faults_protect > 0, "first writes were faults: %llu",
       (unsigned long long)c.faults_protect);
    is(count_wrong(r), 0, "all are right while they come and go");
    is(count_wrong(r), 0, "and once more");
}

/* The program's own rights come and go; a page that noticed no write still does. */
static void own_rights(const struct real *r)
{
    size_t refused = 0;

    if (!read_until(r, counters_of(r->m).pages_trimmed_at_once + PAGES))
        ok(false, "pages leave at once");
    for (size_t p = PAGES - 64; p < PAGES; p++) {
        (void)*(volatile char *)(r->base + p * PAGE);
        refused += mprotect(r->base + p * PAGE, PAGE, PROT_READ) != 0;
        refused += mprotect(r->base + p * PAGE, PAGE, PROT_READ | PROT_WRITE) != 0;
        real_fill(r->base, p, ++generations[p]);
    }
    is(refused, 0, "rights are taken from pages, and given back");
    read_until(r, counters_of(r->m).pages_trimmed_at_once + PAGES);
    is(count_wrong(r), 0, "what was written then is not lost");
}

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

/* Has the mapping at `address` a flag of /proc/self/smaps? */
static bool mapping_has(const char *address, const char *flag)
{
    FILE *maps = fopen("/proc/self/smaps", "r");
    unsigned long start = 0, end = 0;
    char line[512];
    bool has = false;

    while (maps != NULL && fgets(line, sizeof(line), maps) != NULL) {
        char *rest;
        unsigned long first = strtoul(line, &rest, 16);

        if (*rest == '-') {
            start = first;
            end = strtoul(rest + 1, NULL, 16);
        } else if (strncmp(line, "VmFlags:", 8) == 0 && (uintptr_t)address - start < end - start) {
            has = strstr(line, flag) != NULL;
        }
    }
    if (maps != NULL)
        fclose(maps);
    return has;
}

/* Merging would take the protection away: it spares managed memory, if the process is for it. */
static void merged(const struct real *r)
{
    struct real other;
    char *ordinary;

    if (SANITIZED) {
        skip("the kernel would look through a sanitizer's shadow for minutes");
        return;
    }
    if (prctl(PR_SET_MEMORY_MERGE, 1UL, 0UL, 0UL, 0UL) != 0) {
        skip("this kernel merges no memory of whole processes");
        return;
    }
    ordinary = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ok(mapping_has(ordinary, " mg"), "ordinary memory may be merged");
    munmap(ordinary, PAGE);
    if (real_open(&other, 16, "mapper:copy,trap:thread,memory:2M,dirty:auto")) {
        ok(!mapping_has(other.base, " mg"), "managed memory may not");
        real_close(&other);
    }
    prctl(PR_SET_MEMORY_MERGE, 0UL, 0UL, 0UL, 0UL);
    is(count_wrong(r), 0, "all is as it was");
}

/* A child, whose pages come without protection, writes all of them. */
static void forked(const struct real *r)
{
    struct store *copy;
    int status = -1;
    pid_t child;

    if (SANITIZED) {
        skip("sanitizers do not let a child have threads");
        return;
    }
    if (!read_until(r, counters_of(r->m).pages_trimmed_at_once + PAGES) ||
        !ok(vmsm_fork_prepare(r->m, &copy) == 0, "a fork is prepared: %s", vmsm_last_error()))
        return;
    child = fork();
    if (child == 0) {
        size_t wrong;

        alarm(60);
        wrong = vmsm_fork_child(r->m, copy) != 0;

        for (size_t p = PAGES; p-- > 0 && wrong == 0;)
            real_fill(r->base, p, ++generations[p]);
        for (unsigned i = 0; i < 2 && wrong == 0; i++)
            wrong += count_wrong(r);
        _exit(wrong == 0 ? 0 : 1);
    }
    vmsm_fork_parent(r->m, copy);
    waitpid(child, &status, 0);
    is(status, 0, "what a child writes is not lost");
    is(count_wrong(r), 0, "the parent has what it had");
}

int main(void)
{
    struct vmsm_counters c;
    struct real r;

    if (!real_open(&r, PAGES, "mapper:copy,trap:thread,memory:2M,dirty:auto"))
        return done_testing();
    for (size_t p = 0; p < PAGES; p++)
        generations[p] = 1;
    real_fill_all(&r, 1);
    ok(read_until(&r, PAGES), "pages that are only read leave at once");
    is(count_wrong(&r), 0, "and are right");
    written(&r);
    own_rights(&r);
    forked(&r);
    merged(&r);
    c = counters_of(r.m);
    is(c.pages_lost + c.hash_errors + c.faults_failed, 0, "nothing failed");
    real_close(&r);
    return done_testing();
}
