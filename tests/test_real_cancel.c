/*
 * A thread that is cancelled (pthread_cancel) while it waits for a page, in a fault or in a call,
 * leaves nothing behind: no page that stays busy, no gate held, no frame lost.
 */
#include <pthread.h>
#include <stdarg.h>

#include "real_fixture.h"

#define PAGES 4096u
#define ROUNDS 60u

struct victim {
    const struct real *r;
    _Atomic bool runs;
    bool calls; /* vmsm_prefault() instead of loads */
};

/* Reads pages for ever; the only place to be cancelled at is in between. */
static void *read_pages(void *argument)
{
    struct victim *v = argument;
    const struct real *r = v->r;

    for (size_t p = 0;; p = (p + 67) % r->pages) {
        struct iovec range = {.iov_base = r->base + p * PAGE, .iov_len = PAGE};

        v->runs = true;
        if (v->calls)
            vmsm_prefault(r->m, &range, 1);
        else
            (void)*(volatile char *)(r->base + p * PAGE);
        pthread_testcancel();
    }
    return NULL;
}

/* Cancelled at different moments of a fault; true if it ended by that. */
static bool cancel_one(struct victim *v, unsigned round)
{
    struct timespec moment = {.tv_nsec = 20000 + 7000L * round};
    pthread_t thread;
    void *result;

    v->runs = false;
    if (pthread_create(&thread, NULL, read_pages, v) != 0)
        return false;
    while (!v->runs)
        sched_yield();
    nanosleep(&moment, NULL);
    pthread_cancel(thread);
    return pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED;
}

static void cancelled(const char *kind, bool calls)
{
    struct real r;
    struct victim v = {.r = &r, .calls = calls};
    unsigned ended = 0;

    if (!real_open(&r, PAGES, "%s,memory:8M,read_window:1", kind))
        return;
    real_fill_all(&r, 1);
    for (unsigned round = 0; round < ROUNDS; round++)
        ended += cancel_one(&v, round);
    is(ended, ROUNDS, "%s: threads end when cancelled in %s", kind, calls ? "calls" : "faults");
    is(vmsm_check(r.m), 0, "%s: the books balance at once", kind);
    is(real_count_wrong(&r, 0, PAGES, 1), 0, "%s: every page can be had, and is right", kind);
    real_close(&r);
}

int main(void)
{
    for (size_t k = 0; k < REAL_KINDS; k++) {
        cancelled(real_kinds[k], false);
        cancelled(real_kinds[k], true);
    }
    return done_testing();
}
