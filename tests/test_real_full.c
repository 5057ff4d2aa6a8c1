/*
 * A disk that is full for good: whatever the page that is touched, its access ends, with the right
 * content or with SIGBUS. A thread that fills memory until it is refused, and goes back to what it
 * has written, meets pages that were trimmed but could not be written, too. With so little memory
 * there is no overdraft to map them.
 */
#include "real_fixture.h"

#define PAGES 1024u

static sigjmp_buf escape;

static void on_signal(int signal)
{
    siglongjmp(escape, signal);
}

/* Fill pages until one is refused; how many were. */
static size_t fill_until_refused(struct real *r)
{
    static volatile size_t page;

    for (page = 0; page < r->pages; page++) {
        if (sigsetjmp(escape, 1) != 0)
            break;
        real_fill(r->base, page, 1);
    }
    return page;
}

/* SIGBUS, or 0 and whether the page was right; any other number is a signal that never is due. */
static int read_page(struct real *r, size_t page, bool *right)
{
    int signal = sigsetjmp(escape, 1);

    *right = signal != 0;
    if (signal == 0)
        *right = real_right(r->base, page, 1);
    return signal;
}

static void run(const char *kind)
{
    struct sigaction action = {.sa_handler = on_signal};
    size_t filled, refused = 0, wrong = 0, others = 0;
    struct vmsm_counters counters;
    struct real r;
    bool right;

    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    if (!real_open(&r, PAGES, "%s,memory:256K,cache:75,patience:20ms,store_full_after:16", kind))
        return;
    filled = fill_until_refused(&r);
    ok(filled < PAGES, "%s: stores fail once the disk is full", kind);
    for (unsigned round = 0; round < 3; round++) {
        for (size_t p = 0; p < filled; p++) {
            int signal = read_page(&r, p, &right);

            refused += signal == SIGBUS;
            others += signal != 0 && signal != SIGBUS;
            wrong += !right;
        }
    }
    vmsm_get_counters(r.m, &counters);
    note("%s: %zu pages filled, %zu accesses refused", kind, filled, refused);
    is(wrong, 0, "%s: what can be read is right", kind);
    is(others, 0, "%s: what cannot is SIGBUS", kind);
    is(counters.pages_lost, 0, "%s: nothing is lost", kind);
    is(vmsm_decommit(r.m, r.base + filled / 2 * PAGE, (PAGES - filled / 2) * PAGE), 0,
       "%s: half is given up", kind);
    is(vmsm_prefault(r.m, &(struct iovec){r.base, PAGE}, 1), 0, "%s: then there is room", kind);
    ok(read_page(&r, 0, &right) == 0 && right, "%s: the first page is there again", kind);
    real_close(&r);
}

int main(void)
{
    for (size_t k = 0; k < REAL_KINDS; k++)
        run(real_kinds[k]);
    return done_testing();
}
