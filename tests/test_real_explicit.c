/*
 * Real memory without a trap: explicit calls bring pages in, write and read them, while they are
 * trimmed, protected and written out behind.
 */
#include <pthread.h>

#include "real_fixture.h"

#define PAGES 1024u
#define THREADS 3u
#define ROUNDS 4u

struct user {
    struct real *r;
    unsigned number;
    size_t wrong;
};

/* Thread n owns pages n, n + THREADS, …: neighbours are written by others. */
static void *use(void *argument)
{
    struct user *u = argument;

    for (uint64_t round = 1; round <= ROUNDS; round++) {
        for (size_t p = u->number; p < PAGES; p += THREADS)
            u->wrong += page_write(u->r->m, u->r->base, p, round) != 0;
        for (size_t p = u->number; p < PAGES; p += THREADS)
            u->wrong += !page_right(u->r->m, u->r->base, p, round);
    }
    return NULL;
}

static void explicit_calls(const char *mapper, const char *more)
{
    struct user users[THREADS];
    pthread_t ids[THREADS];
    char text[3 * PAGE], got[3 * PAGE];
    size_t wrong = 0;
    struct real r;

    if (!real_open(&r, PAGES, "mapper:%s,trap:none,memory:1M%s", mapper, more))
        return;
    is(pages_wrong(r.m, r.base, PAGES, 0), 0, "%s: new memory is zero", r.conf);
    for (unsigned i = 0; i < THREADS; i++) {
        users[i] = (struct user){.r = &r, .number = i};
        pthread_create(&ids[i], NULL, use, &users[i]);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(ids[i], NULL);
        wrong += users[i].wrong;
    }
    is(wrong, 0, "%s: every page is right while three threads write", r.conf);
    is(pages_wrong(r.m, r.base, PAGES, ROUNDS), 0, "%s: and at the end", r.conf);
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)(i * 7 + i / 251);
    is(vmsm_write(r.m, r.base + 5 * PAGE + 100, text, sizeof(text)), 0, "%s: across pages", r.conf);
    is(vmsm_read(r.m, r.base + 5 * PAGE + 100, got, sizeof(got)), 0, "%s: and back", r.conf);
    ok(memcmp(text, got, sizeof(text)) == 0, "%s: is the same", r.conf);
    is(vmsm_read(r.m, r.base + PAGES * PAGE - 10, got, 20), -EINVAL, "%s: not past the end",
       r.conf);
    is(vmsm_pin(r.m, r.base, 10 * PAGE), 0, "%s: pinned", r.conf);
    is(page_write(r.m, r.base, 3, 9), 0, "%s: a pinned page is written", r.conf);
    ok(page_right(r.m, r.base, 3, 9), "%s: and read", r.conf);
    is(vmsm_unpin(r.m, r.base, 10 * PAGE), 0, "%s: unpinned", r.conf);
    real_close(&r);
}

/* A page that cannot be read is an error of the call, not a signal. */
static void broken(const char *mapper)
{
    size_t failed = 0;
    struct real r;

    if (!real_open(&r, PAGES, "mapper:%s,trap:none,memory:1M,store_read_error:1", mapper))
        return;
    pages_write(r.m, r.base, PAGES, 1);
    for (size_t p = 0; p < PAGES; p++) {
        char byte;
        int error = vmsm_read(r.m, r.base + p * PAGE, &byte, 1);

        failed += error == -EIO;
        if (error != 0 && error != -EIO)
            ok(false, "%s: page %zu: error %d", r.conf, p, error);
    }
    ok(failed > 0, "%s: %zu pages cannot be read: -EIO", r.conf, failed);
    real_close(&r);
}

int main(void)
{
    log_catch();
    explicit_calls("copy", "");
    explicit_calls("copy", ",dirty:protect");
    explicit_calls("copy", ",stage:basic");
    explicit_calls("copy", ",stage:single");
    explicit_calls("move", "");
    explicit_calls("move", ",stage:single");
    broken("copy");
    broken("move");
    return done_testing();
}
