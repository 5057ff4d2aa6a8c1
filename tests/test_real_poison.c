/*
 * Several threads that meet one page which cannot be had all get SIGBUS, not SIGSEGV, and the page
 * can be used again afterwards.
 *
 * Their faults wait at the descriptor together, so that the page is failed once for each of them.
 */
#include <pthread.h>

#include "real_fixture.h"

#define THREADS 8u
#define PAGES 1024u

static pthread_barrier_t together;
static char *victim;

/* Where a thread goes on after a signal; its number tells which it was. */
static _Thread_local sigjmp_buf escape;

static void on_signal(int signal)
{
    siglongjmp(escape, signal);
}

static void *meet(void *result)
{
    int signal;

    pthread_barrier_wait(&together);
    signal = sigsetjmp(escape, 1);
    if (signal == 0)
        (void)*(volatile char *)victim;
    *(int *)result = signal;
    return NULL;
}

static bool fill_until_refused(struct real *r, size_t *page)
{
    for (*page = 0; *page < r->pages; ++*page) {
        if (sigsetjmp(escape, 1) != 0)
            return true;
        real_fill(r->base, *page, 1);
    }
    return false;
}

static void run(const char *kind)
{
    struct sigaction action = {.sa_handler = on_signal};
    pthread_t threads[THREADS];
    int signals[THREADS];
    volatile bool right = false;
    unsigned buses = 0;
    struct real r;
    size_t page;

    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    if (!real_open(&r, PAGES, "%s,memory:1M,fault_threads:1,patience:300ms,store_full_after:16",
                   kind))
        return;
    ok(fill_until_refused(&r, &page), "%s: stores fail once the disk is full", kind);
    victim = r.base + (PAGES - 1) * PAGE;
    for (unsigned i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, meet, &signals[i]) != 0)
            exit(99);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        buses += signals[i] == SIGBUS;
    }
    is(buses, THREADS, "%s: each of %u threads gets SIGBUS", kind, THREADS);
    is(vmsm_decommit(r.m, r.base, PAGES * PAGE), 0, "%s: all can be given up", kind);
    if (sigsetjmp(escape, 1) == 0) {
        real_fill(r.base, PAGES - 1, 2);
        right = real_right(r.base, PAGES - 1, 2);
    }
    ok(right, "%s: then the page can be used", kind);
    real_close(&r);
}

int main(void)
{
    pthread_barrier_init(&together, NULL, THREADS);
    for (size_t k = 0; k < REAL_KINDS; k++)
        run(real_kinds[k]);
    return done_testing();
}
