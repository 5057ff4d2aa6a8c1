/*
 * Where io_uring is forbidden each read is complete when it is sent, and no descriptor tells of it. A
 * handler that has begun reads ahead by mapping others does not go to sleep with them: who stops the
 * machine, as a check does, would wait for a handler that waits for nothing.
 */
#include <signal.h>

#include "no_io_uring.h"
#include "real_fixture.h"

#define PAGES (200u * 256) /* of 4 KiB: 200 MiB */
#define ROUNDS 60u
#define PATIENCE_S 20u

/* A test that hangs would be stopped by its time limit, and would not say why. */
static void bell(int number)
{
    static const char words[] = "not ok - the machine can be stopped after a scan\n";

    (void)number;
    _exit(write(STDOUT_FILENO, words, sizeof(words) - 1) > 0 ? 1 : 2);
}

int main(void)
{
    unsigned balanced = 0;
    struct real r;
    size_t wrong = 0;

    signal(SIGALRM, bell);
    if (!forbid_io_uring()) {
        skip("a seccomp filter cannot be installed");
        return done_testing();
    }
    if (!real_open(&r, PAGES, "mapper:copy,trap:thread,memory:128M,fault_threads:1"))
        return done_testing();
    for (size_t p = 0; p < PAGES; p++)
        *(size_t *)(void *)(r.base + p * PAGE) = p + 1;
    for (unsigned round = 0; round < ROUNDS; round++) {
        size_t from = (size_t)(round * 37 % 80) * 512, to = from + 2048 + round * 61 % 4096;

        for (size_t p = from; p < to && p < PAGES; p++)
            wrong += *(size_t *)(void *)(r.base + p * PAGE) != p + 1;
        usleep(20000); /* for the handler to have nothing else to do */
        alarm(PATIENCE_S);
        balanced += vmsm_check(r.m) == 0;
        alarm(0);
    }
    is(wrong, 0, "%s: all pages that were scanned are right", r.conf);
    is(balanced, ROUNDS, "%s: after each scan the machine can be stopped and is in order", r.conf);
    is(vmsm_unmap(r.m, r.base, PAGES * PAGE), 0, "%s: unmapped", r.conf);
    real_close(&r);
    return done_testing();
}
