/*
 * System calls on managed memory that is not resident. With handler threads the kernel's own
 * accesses are served like any other. With the trap sigbus they fail with EFAULT, as documented,
 * and change nothing: the program touches, prefaults or pins first.
 */
#include <fcntl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "real_fixture.h"

#define PAGES 1024u
#define WALL 960u                    /* pages from here on are those that system calls use */
#define SPAN 8u                      /* pages of one transfer */
#define PIPE_BYTES (SPAN * PAGE)     /* fits in a pipe and in a socket */
#define TOUCHED (WALL)               /* had content, is in the pagefile */
#define UNTOUCHED (PAGES - 2 * SPAN) /* never had content */

static char expected[PIPE_BYTES], got[PIPE_BYTES];

static void make_expected(unsigned salt)
{
    for (size_t i = 0; i < sizeof(expected); i++)
        expected[i] = (char)(i * 31 + i / 4096 + salt);
}

/* Content in pages [TOUCHED, + SPAN), then out of memory with it. */
static bool prepare(struct real *r, uint64_t generation)
{
    for (size_t p = TOUCHED; p < TOUCHED + SPAN; p++)
        real_fill(r->base, p, generation);
    return real_evict(r, TOUCHED, SPAN, WALL);
}

static bool same(const char *base, size_t offset)
{
    return memcmp(base + offset, expected, PIPE_BYTES) == 0;
}

/* Into and out of the middle of pages, so that both ends share a page with other content. */
static void test_pipe(struct real *r)
{
    size_t offset = TOUCHED * PAGE + 100;
    int ends[2];

    if (pipe(ends) != 0) {
        ok(false, "a pipe");
        return;
    }
    for (unsigned fresh = 0; fresh < 2; fresh++) {
        char *at = r->base + (fresh ? UNTOUCHED * PAGE : offset);
        size_t length = fresh ? PIPE_BYTES : PIPE_BYTES - 200;

        make_expected(fresh);
        if (!fresh && !prepare(r, 7))
            break;
        is(write(ends[1], expected, length), length, "%s: the pipe is filled", r->conf);
        is(read(ends[0], at, length), length, "%s: read(2) into %s memory", r->conf,
           fresh ? "untouched" : "paged-out");
        ok(memcmp(at, expected, length) == 0, "%s: what was read is there", r->conf);
    }
    ok(*(uint64_t *)(void *)(r->base + TOUCHED * PAGE) == word_of(TOUCHED, 0, 7),
       "%s: the rest of the first page is as it was", r->conf);
    if (prepare(r, 8)) {
        memset(got, 0, sizeof(got));
        is(write(ends[1], r->base + TOUCHED * PAGE, PIPE_BYTES), PIPE_BYTES,
           "%s: write(2) from paged-out memory", r->conf);
        is(read(ends[0], got, PIPE_BYTES), PIPE_BYTES, "%s: it arrives", r->conf);
        ok(real_count_wrong(r, TOUCHED, TOUCHED + SPAN, 8) == 0 &&
               memcmp(got, r->base + TOUCHED * PAGE, PIPE_BYTES) == 0,
           "%s: and is what memory held", r->conf);
    }
    close(ends[0]);
    close(ends[1]);
}

/* Vectors that jump back and forth over pages that are in no order. */
static void test_vectors(struct real *r)
{
    struct iovec to[SPAN], from[SPAN];
    bool right = true;
    int ends[2];

    for (unsigned i = 0; i < SPAN; i++) {
        to[i] = (struct iovec){r->base + (TOUCHED + (i * 3) % SPAN) * PAGE, PAGE};
        from[i] = (struct iovec){expected + i * PAGE, PAGE};
    }
    make_expected(2);
    if (pipe(ends) != 0 || !prepare(r, 9))
        return;
    is(writev(ends[1], from, SPAN), PIPE_BYTES, "%s: writev(2) fills the pipe", r->conf);
    is(readv(ends[0], to, SPAN), PIPE_BYTES, "%s: readv(2) into paged-out memory", r->conf);
    for (unsigned i = 0; i < SPAN; i++)
        right = right && memcmp(to[i].iov_base, from[i].iov_base, PAGE) == 0;
    ok(right, "%s: each piece is in its place", r->conf);
    if (real_evict(r, TOUCHED, SPAN, WALL)) {
        is(writev(ends[1], to, SPAN), PIPE_BYTES, "%s: writev(2) from paged-out memory", r->conf);
        is(read(ends[0], got, PIPE_BYTES), PIPE_BYTES, "%s: it arrives", r->conf);
        ok(memcmp(got, expected, PIPE_BYTES) == 0, "%s: in order", r->conf);
    }
    close(ends[0]);
    close(ends[1]);
}

static void test_sockets(struct real *r)
{
    struct iovec iov = {.iov_base = r->base + TOUCHED * PAGE, .iov_len = PIPE_BYTES};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0 || !prepare(r, 10))
        return;
    is(sendmsg(ends[0], &message, 0), PIPE_BYTES, "%s: sendmsg(2) of paged-out memory", r->conf);
    is(recv(ends[1], got, PIPE_BYTES, MSG_WAITALL), PIPE_BYTES, "%s: it arrives", r->conf);
    ok(real_count_wrong(r, TOUCHED, TOUCHED + SPAN, 10) == 0 &&
           memcmp(got, r->base + TOUCHED * PAGE, PIPE_BYTES) == 0,
       "%s: and is what memory held", r->conf);
    make_expected(3);
    if (real_evict(r, TOUCHED, SPAN, WALL)) {
        is(send(ends[0], expected, PIPE_BYTES, 0), PIPE_BYTES, "%s: send(2)", r->conf);
        is(recv(ends[1], r->base + TOUCHED * PAGE, PIPE_BYTES, MSG_WAITALL), PIPE_BYTES,
           "%s: recv(2) into paged-out memory", r->conf);
        ok(same(r->base, TOUCHED * PAGE), "%s: what was received is there", r->conf);
    }
    close(ends[0]);
    close(ends[1]);
}

/* Other ways in which the kernel reads and writes a program's memory. */
static void test_others(struct real *r)
{
    char *page = r->base + TOUCHED * PAGE, *name;
    unsigned zeroes = 0;
    struct stat st;

    if (!prepare(r, 11))
        return;
    is(getrandom(page, 256, 0), 256, "%s: getrandom(2) into paged-out memory", r->conf);
    for (unsigned i = 0; i < 256; i++)
        zeroes += page[i] == 0;
    ok(zeroes < 32, "%s: it is random", r->conf);
    ok(*(uint64_t *)(void *)(page + 256) == word_of(TOUCHED, 32, 11), "%s: the rest is as it was",
       r->conf);
    name = page + PAGE;
    strcpy(name, "/");
    if (real_evict(r, TOUCHED, SPAN, WALL))
        is(stat(name, &st), 0, "%s: a path in paged-out memory", r->conf);
    if (real_evict(r, TOUCHED, SPAN, WALL)) {
        is(stat("/", (struct stat *)(void *)page), 0, "%s: stat(2) into paged-out memory", r->conf);
        ok(S_ISDIR(((struct stat *)(void *)page)->st_mode), "%s: and it is filled in", r->conf);
    }
}

static void test_served(const char *kind)
{
    struct real r;

    if (!real_open(&r, PAGES, "%s,memory:1M", kind))
        return;
    for (size_t p = 0; p < WALL; p++)
        real_fill(r.base, p, 1);
    test_pipe(&r);
    test_vectors(&r);
    test_sockets(&r);
    test_others(&r);
    is(real_count_wrong(&r, 0, WALL, 1), 0, "%s: all other pages are as they were", r.conf);
    real_close(&r);
}

/* The trap sigbus: EFAULT while a page is away; as ever once it has been brought in. */
static void test_refused(const char *kind)
{
    char *at;
    struct real r;
    int ends[2];

    if (!real_open(&r, PAGES, "%s,memory:1M", kind))
        return;
    at = r.base + TOUCHED * PAGE;
    for (size_t p = 0; p < WALL; p++)
        real_fill(r.base, p, 1);
    make_expected(4);
    if (pipe(ends) != 0 || !prepare(&r, 7))
        goto out;
    ok(write(ends[1], at, PIPE_BYTES) < 0 && errno == EFAULT, "%s: write(2) is EFAULT", r.conf);
    is(write(ends[1], expected, PIPE_BYTES), PIPE_BYTES, "%s: the pipe is filled", r.conf);
    ok(read(ends[0], at, PIPE_BYTES) < 0 && errno == EFAULT, "%s: read(2) is EFAULT", r.conf);
    is(real_count_wrong(&r, TOUCHED, TOUCHED + SPAN, 7), 0, "%s: nothing has changed", r.conf);
    is(vmsm_pin(r.m, at, PIPE_BYTES), 0, "%s: pinned", r.conf);
    is(read(ends[0], at, PIPE_BYTES), PIPE_BYTES, "%s: then read(2) works", r.conf);
    ok(same(r.base, TOUCHED * PAGE), "%s: and what was read is there", r.conf);
    is(write(ends[1], at, PIPE_BYTES), PIPE_BYTES, "%s: and write(2) works", r.conf);
    is(vmsm_unpin(r.m, at, PIPE_BYTES), 0, "%s: unpinned", r.conf);
    is(real_count_wrong(&r, 0, WALL, 1), 0, "%s: all other pages are as they were", r.conf);
out:
    close(ends[0]);
    close(ends[1]);
    real_close(&r);
}

int main(void)
{
    for (size_t k = 0; k < REAL_KINDS; k++) {
        if (real_is_sigbus(real_kinds[k]))
            test_refused(real_kinds[k]);
        else
            test_served(real_kinds[k]);
    }
    return done_testing();
}
