/*
 * Pinned pages stay in their frames: a device that reads into them while everything else is
 * trimmed writes to the right place. With `move` the kernel itself keeps such pages, pinned or not.
 */
#include <fcntl.h>
#include <liburing.h>

#include "real_fixture.h"

#define PAGES 2048UL
#define TARGET 64UL /* pages read by direct I/O */
#define ROUNDS 12

/* A file of TARGET pages with the content of generation 9, open for direct I/O; -1: not to be had.
 */
static int direct_file(void)
{
    char name[] = "/var/tmp/vmsm-direct-XXXXXX";
    int fd = mkstemp(name), direct;
    static char page[PAGE] __attribute__((aligned(4096)));

    if (fd < 0)
        return -1;
    for (size_t p = 0; p < TARGET; p++) {
        for (size_t i = 0; i < WORDS; i++)
            ((uint64_t *)(void *)page)[i] = word_of(p, i, 9);
        if (write(fd, page, PAGE) != (ssize_t)PAGE)
            return -1;
    }
    fsync(fd);
    direct = open(name, O_RDONLY | O_DIRECT);
    unlink(name);
    close(fd);
    return direct;
}

/* Send all reads; while they are in flight go over the rest of the region; then fetch them. */
static bool read_under_pressure(struct real *r, struct io_uring *ring, int fd)
{
    bool good = true;

    for (size_t p = 0; p < TARGET; p++) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

        io_uring_prep_read(sqe, fd, r->base + p * PAGE, PAGE, p * PAGE);
    }
    io_uring_submit(ring);
    for (size_t p = TARGET; p < r->pages; p += 3)
        (void)*(volatile char *)(r->base + p * PAGE);
    for (size_t p = 0; p < TARGET; p++) {
        struct io_uring_cqe *cqe;

        if (io_uring_wait_cqe(ring, &cqe) != 0)
            return false;
        good &= cqe->res == (int)PAGE;
        io_uring_cqe_seen(ring, cqe);
    }
    return good;
}

static void direct_reads(const char *kind, bool pin)
{
    struct io_uring ring;
    struct real r;
    size_t wrong = 0;
    bool good = true;
    int fd = direct_file();

    if (fd < 0) {
        skip("no direct I/O in /var/tmp");
        return;
    }
    if (io_uring_queue_init(TARGET, &ring, 0) != 0) {
        skip("no io_uring");
        close(fd);
        return;
    }
    if (real_open(&r, PAGES, "%s,memory:2M", kind)) {
        real_fill_all(&r, 1);
        for (unsigned round = 0; round < ROUNDS; round++) {
            for (size_t p = 0; p < TARGET; p++)
                real_fill(r.base, p, 100 + round);
            if (pin)
                is(vmsm_pin(r.m, r.base, TARGET * PAGE), 0, "%s: pinned", kind);
            good &= read_under_pressure(&r, &ring, fd);
            if (pin)
                is(vmsm_unpin(r.m, r.base, TARGET * PAGE), 0, "%s: unpinned", kind);
            wrong += real_count_wrong(&r, 0, TARGET, 9);
        }
        ok(good, "%s: all reads succeeded", kind);
        is(wrong, 0, "%s, %s: what the device read is there", kind, pin ? "pinned" : "not pinned");
        is(real_count_wrong(&r, TARGET, PAGES, 1), 0, "%s: and so is the rest", kind);
        real_close(&r);
    }
    io_uring_queue_exit(&ring);
    close(fd);
}

static void nesting(const char *kind)
{
    struct real r;

    if (!real_open(&r, PAGES, "%s,memory:2M", kind))
        return;
    real_fill_all(&r, 1);
    is(vmsm_pin(r.m, r.base, 20 * PAGE), 0, "%s: pinned", kind);
    is(vmsm_pin(r.m, r.base + 5 * PAGE, 10 * PAGE), 0, "%s: some twice", kind);
    is(vmsm_unpin(r.m, r.base, 20 * PAGE), 0, "%s: once undone", kind);
    is(vmsm_decommit(r.m, r.base + 7 * PAGE, PAGE), -EBUSY, "%s: still pinned", kind);
    is(vmsm_unpin(r.m, r.base, PAGE), -EINVAL, "%s: not pinned any more", kind);
    for (size_t p = 20; p < PAGES; p++)
        (void)*(volatile char *)(r.base + p * PAGE);
    is(real_resident(r.base, 5, 10), 10, "%s: pinned pages stay", kind);
    is(vmsm_pin(r.m, r.base, PAGES * PAGE), -ENOMEM, "%s: not all of it", kind);
    is(vmsm_unpin(r.m, r.base + 5 * PAGE, 10 * PAGE), 0, "%s: all undone", kind);
    is(counters_of(r.m).pinned_pages, 0, "%s: nothing is pinned", kind);
    is(real_count_wrong(&r, 0, PAGES, 1), 0, "%s: every page is right", kind);
    real_close(&r);
}

int main(void)
{
    for (size_t k = 0; k < REAL_KINDS; k++)
        nesting(real_kinds[k]);
    direct_reads("mapper:copy,trap:thread", true);
    direct_reads("mapper:move,trap:thread", true);
    direct_reads("mapper:move,trap:thread", false);
    return done_testing();
}
