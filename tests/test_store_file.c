/*
 * The store `file`: data, queues, growth, the life of the file. How it is refused:
 * test_store_refused.c.
 */
#include <dlfcn.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <sys/stat.h>

#include "no_io_uring.h"
#include "store_fixture.h"

/* ---- the kernel's answers, tampered with: the library's function, seen from the store ---- */

static struct {
    int refuse;      /* so many submissions fail, */
    int code;        /* with this, */
    int refuse_with; /* (the least that must be with the kernel already) */
    int tamper;      /* so many completions get */
    int result;      /* this result, if they were successful */
    int no_memory;   /* so many calls of pread() and pwrite() find no memory */
} script;

static int (*submit_truly)(struct io_uring *);

int io_uring_submit(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    unsigned head, seen = 0;
    int res;

    if (script.refuse > 0) {
        script.refuse--;
        return script.code;
    }
    res = submit_truly(ring);
    if (script.tamper > 0 && io_uring_wait_cqe(ring, &cqe) == 0) {
        io_uring_for_each_cqe(ring, head, cqe)
        {
            if (seen++ == 0 && cqe->res > 0) {
                cqe->res = script.result;
                script.tamper--;
            }
        }
    }
    return res;
}

/* Fails, if the script says so; else does the call. */
static ssize_t transfer_truly(long call, int fd, const void *data, size_t length, off_t offset)
{
    if (script.no_memory > 0) {
        script.no_memory--;
        errno = ENOMEM;
        return -1;
    }
    return syscall(call, fd, data, length, offset);
}

ssize_t pread(int fd, void *data, size_t length, off_t offset)
{
    return transfer_truly(SYS_pread64, fd, data, length, offset);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    return transfer_truly(SYS_pwrite64, fd, data, length, offset);
}

/* ---- growth ---- */

static void test_growth_under_io(void)
{
    pthread_t threads[THREADS];
    struct worker workers[THREADS];
    struct store *store;
    struct stat st;
    atomic_bool stop = false;
    unsigned count, failed = 0;
    char *path = in_directory("growing");

    if (!ok(open_store(path, 0, true, true, &store) == 0, "growth: opens"))
        return;
    ok(store->can_grow, "growth: can grow");
    is(store->ops->grow(store, 1 + THREADS * OWN_SLOTS), 0, "growth: the first");
    count = run_workers(store, threads, workers, &stop);
    for (unsigned i = 1; i <= 60; i++) {
        failed += store->ops->grow(store, 1 + THREADS * OWN_SLOTS + i * 64) != 0;
        usleep(2000);
    }
    atomic_store(&stop, true);
    is(join_workers(threads, workers, count), 0, "growth: I/O goes on undisturbed");
    is(failed, 0, "growth: 60 times while I/O runs");
    is(store->ops->grow(store, 5), 0, "growth: never shrinks");
    is(store->slots, 1 + THREADS * OWN_SLOTS + 60 * 64, "growth: the size is right");
    ok(stat(path, &st) == 0 && (uint64_t)st.st_size == store->slots * PAGE &&
           (uint64_t)st.st_blocks * 512 >= store->slots * PAGE,
       "growth: and reserved on disk");
    store->ops->close(store);
}

/* ---- queues ---- */

#define MANY 300u
#define REFUSED 12u

static void test_overflow(unsigned depth)
{
    struct store *store;
    struct store_queue *queue;
    struct store_io *ios = calloc(MANY, sizeof(*ios)), *list[MANY], *done[MANY];
    struct iovec *iov = calloc(MANY, sizeof(*iov));
    char *pages = new_pages(MANY);
    unsigned got = 0, wrong = 0, n;

    if (ios == NULL || iov == NULL || open_store("", 1 + MANY, true, false, &store) != 0 ||
        store->ops->queue_open(store, depth, &queue) != 0) {
        ok(false, "overflow: opens");
        exit(1);
    }
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < MANY; i++) {
            iov[i] = (struct iovec){pages + i * PAGE, PAGE};
            ios[i] = (struct store_io){
                .slot = 1 + i, .count = 1, .write = round == 0, .iovcnt = 1, .iov = &iov[i]};
            list[i] = &ios[i];
            if (round == 0)
                fill(pages + i * PAGE, i, 1);
        }
        store->ops->submit(queue, list, MANY / 2);
        store->ops->submit(queue, list + MANY / 2, MANY - MANY / 2);
        for (got = 0; got < MANY && (n = store->ops->reap(queue, done, MANY, true)) > 0; got += n)
            for (unsigned i = 0; i < n; i++) {
                wrong += done[i]->result != 0 || done[i]->owner != NULL;
                done[i]->owner = done[i]; /* seen */
            }
        is(got, MANY, "depth %u: %u requests all come back", depth, MANY);
        is(store->ops->reap(queue, done, MANY, true), 0, "depth %u: and no more", depth);
        if (round == 0)
            memset(pages, 0, MANY * PAGE);
    }
    is(wrong, 0, "depth %u: each once, with success", depth);
    for (unsigned i = 0; i < MANY; i++)
        wrong += !filled(pages + i * PAGE, i, 1);
    is(wrong, 0, "depth %u: with their data", depth);
    store->ops->queue_close(queue);
    store->ops->close(store);
    free_pages(pages, MANY);
    free(ios);
    free(iov);
}

/* More buffers than one call takes: the rest is sent after it. */
static void test_many_buffers(void)
{
    enum { COUNT = 1500 };
    struct store *store;
    struct store_queue *queue;
    struct iovec *iov = calloc(COUNT, sizeof(*iov));
    char *pages = new_pages(COUNT);
    struct store_io io, *one = &io, *done;
    unsigned wrong = 0;

    if (iov == NULL || open_store("", 1 + COUNT, true, true, &store) != 0 ||
        store->ops->queue_open(store, 4, &queue) != 0)
        exit(1);
    for (unsigned i = 0; i < COUNT; i++) {
        fill(pages + (COUNT - 1 - i) * PAGE, i, 3);
        iov[i] = (struct iovec){pages + (COUNT - 1 - i) * PAGE, PAGE};
    }
    for (unsigned round = 0; round < 2; round++) {
        io = (struct store_io){
            .slot = 1, .count = COUNT, .write = round == 0, .iovcnt = COUNT, .iov = iov};
        store->ops->submit(queue, &one, 1);
        is(store->ops->reap(queue, &done, 1, true), 1, "%d buffers: comes back", COUNT);
        is(io.result, 0, "%d buffers: %s", COUNT, round == 0 ? "written" : "read");
        if (round == 0)
            memset(pages, 0, (size_t)COUNT * PAGE);
    }
    for (unsigned i = 0; i < COUNT; i++)
        wrong += !filled(iov[i].iov_base, i, 3);
    is(wrong, 0, "%d buffers: each has its slot", COUNT);
    store->ops->queue_close(queue);
    store->ops->close(store);
    free_pages(pages, COUNT);
    free(iov);
}

static void test_end_of_file(bool direct)
{
    const char *path = in_directory("short");
    const char *way = direct ? "direct" : "buffered";
    struct store *store;
    struct store_queue *queue;
    char *pages = new_pages(8);

    if (open_store(path, 64, direct, true, &store) != 0 ||
        store->ops->queue_open(store, 4, &queue) != 0)
        exit(1);
    for (unsigned i = 0; i < 8; i++)
        fill(pages + i * PAGE, i, 5);
    is(transfer(store, queue, true, 8, 8, pages), 0, "%s, end of file: written", way);
    memset(pages, 0, 8 * PAGE);
    is(truncate(path, 12 * PAGE), 0, "%s, end of file: cut short by someone", way);
    is(transfer(store, queue, false, 8, 8, pages), -EIO, "%s: a run over it fails", way);
    ok(filled(pages + 3 * PAGE, 3, 5), "%s: what was there was read", way);
    is(transfer(store, queue, false, 20, 8, pages), -EIO, "%s: a run past it fails", way);
    is(truncate(path, 12 * PAGE + 1808), 0, "%s, end of file: within a slot", way);
    is(transfer(store, queue, false, 8, 8, pages), -EIO, "%s: a run over that fails", way);
    is(transfer(store, queue, false, 12, 1, pages), -EIO, "%s: the part of a slot fails", way);
    is(transfer(store, queue, false, 8, 4, pages), 0, "%s: a run before it is read", way);
    store->ops->queue_close(queue);
    store->ops->close(store);
    free_pages(pages, 8);
}

static void test_tampered(struct store *store, struct store_queue *queue, char *pages, int result,
                          const char *what)
{
    for (unsigned i = 0; i < 8; i++)
        fill(pages + i * PAGE, i, (uint64_t)-result);
    script.result = result;
    script.tamper = 3;
    is(transfer(store, queue, true, 8, 8, pages), 0, "%s: a write is sent again", what);
    memset(pages, 0, 8 * PAGE);
    is(script.tamper, 0, "%s: it was", what);
    script.tamper = 3;
    is(transfer(store, queue, false, 8, 8, pages), 0, "%s: a read is sent again", what);
    is(script.tamper, 0, "%s: it was, too", what);
    ok(filled(pages, 0, (uint64_t)-result) && filled(pages + 7 * PAGE, 7, (uint64_t)-result),
       "%s: with all its data", what);
}

/* Answers that a kernel seldom gives. */
static void test_seldom_answers(void)
{
    struct store *store;
    struct store_queue *queue;
    char *pages = new_pages(8);

    if (open_store("", 64, true, true, &store) != 0 ||
        store->ops->queue_open(store, 4, &queue) != 0)
        exit(1);
    if (store->ops->queue_fd(queue) < 0) {
        skip("io_uring is forbidden here: its answers cannot be tampered with");
        goto out;
    }
    test_tampered(store, queue, pages, -EINTR, "EINTR");
    test_tampered(store, queue, pages, -EAGAIN, "EAGAIN");
    test_tampered(store, queue, pages, -ECANCELED, "ECANCELED");
    test_tampered(store, queue, pages, -ENOMEM, "ENOMEM");
    test_tampered(store, queue, pages, 4096, "one slot of eight done");
    test_tampered(store, queue, pages, 5000, "a slot and a part done");
    test_tampered(store, queue, pages, 512, "less than a slot done");
    script.result = -EAGAIN;
    script.tamper = 1000000;
    is(transfer(store, queue, false, 8, 8, pages), 0, "EAGAIN for ever: done without the ring");
    script.result = -ENOMEM;
    script.no_memory = 30;
    is(transfer(store, queue, false, 8, 8, pages), 0, "ENOMEM for long: done, with pauses");
    is(script.no_memory, 0, "it was for long");
    script.result = 512;
    is(transfer(store, queue, false, 8, 8, pages), -EIO, "no progress for ever: -EIO");
    script.result = -ENOSPC;
    is(transfer(store, queue, true, 8, 8, pages), -ENOSPC, "an error is the result");
    script.tamper = 0;
    script.code = -EAGAIN;
    script.refuse = 5;
    is(transfer(store, queue, false, 8, 8, pages), 0, "submission refused 5 times: EAGAIN");
    script.code = -EBUSY;
    script.refuse = 5;
    is(transfer(store, queue, false, 8, 8, pages), 0, "submission refused 5 times: EBUSY");
    is(script.refuse, 0, "submission was refused");
out:
    store->ops->queue_close(queue);
    store->ops->close(store);
    free_pages(pages, 8);
}

/* One request, in the thread that wants it, in a control group that is full for a moment. */
static void test_no_memory(void)
{
    struct store *store;
    struct store_queue *queue;
    char *page = new_pages(1);
    struct iovec iov = {page, PAGE};
    struct store_io io = {.slot = 3, .count = 1, .write = true, .iovcnt = 1, .iov = &iov};

    if (open_store("", 64, true, true, &store) != 0 ||
        store->ops->queue_open(store, 4, &queue) != 0)
        exit(1);
    fill(page, 3, 1);
    script.no_memory = 30;
    store->ops->transfer(queue, &io);
    is(io.result, 0, "a write that finds no memory 30 times is done in the end");
    memset(page, 0, PAGE);
    script.no_memory = 30;
    io.write = false;
    store->ops->transfer(queue, &io);
    is(io.result, 0, "so is a read");
    is(script.no_memory, 0, "it found none");
    ok(filled(page, 3, 1), "with its data");
    store->ops->queue_close(queue);
    store->ops->close(store);
    free_pages(page, 1);
}

/* The kernel refuses while it has some requests already: they are sent when those come back. */
static void test_refused_midway(void)
{
    struct store *store;
    struct store_queue *queue;
    struct store_io ios[6] = {0}, *done[6];
    struct iovec iov[6];
    char *pages = new_pages(6);
    unsigned got = 0, failed = 0, n;

    if (open_store("", 64, true, true, &store) != 0 ||
        store->ops->queue_open(store, 8, &queue) != 0)
        exit(1);
    for (unsigned i = 0; i < 6; i++) {
        struct store_io *io = &ios[i];

        iov[i] = (struct iovec){pages + i * PAGE, PAGE};
        *io = (struct store_io){.slot = 1 + i, .count = 1, .iovcnt = 1, .iov = &iov[i]};
        script.code = -EAGAIN;
        script.refuse = i == 3 ? 2 : 0;
        store->ops->submit(queue, &io, 1);
    }
    script.refuse = 0;
    while (got < 6 && (n = store->ops->reap(queue, done, 6, true)) > 0) {
        for (unsigned i = 0; i < n; i++)
            failed += done[i]->result != 0;
        got += n;
    }
    is(got, 6, "refused midway: all come back");
    is(failed, 0, "refused midway: with success");
    store->ops->queue_close(queue);
    store->ops->close(store);
    free_pages(pages, 6);
}

/* A queue whose ring will be refused, and a request for each of its pages. */
struct refused {
    struct store *store;
    struct store_queue *queue;
    struct pollfd descriptor; /* -1: there is no ring to refuse */
    struct store_io ios[REFUSED], *list[REFUSED];
    struct iovec iov[REFUSED];
    char *pages;
};

static void refused_open(struct refused *r, bool direct, bool write)
{
    memset(r, 0, sizeof(*r));
    if (open_store("", 64, direct, true, &r->store) != 0 ||
        r->store->ops->queue_open(r->store, 4, &r->queue) != 0)
        exit(1);
    r->descriptor = (struct pollfd){.fd = r->store->ops->queue_fd(r->queue), .events = POLLIN};
    r->pages = new_pages(REFUSED);
    for (unsigned i = 0; i < REFUSED; i++) {
        fill(r->pages + i * PAGE, i, 1);
        r->iov[i] = (struct iovec){r->pages + i * PAGE, PAGE};
        r->ios[i] = (struct store_io){
            .slot = 1 + i, .count = 1, .write = write, .iovcnt = 1, .iov = &r->iov[i]};
        r->list[i] = &r->ios[i];
    }
}

/* The kernel gets the first `most`; those after them are refused, and all is from then on. */
static void refused_submit(struct refused *r, unsigned most, int code)
{
    r->store->ops->submit(r->queue, r->list, most);
    script.code = code;
    script.refuse = 1000;
    r->store->ops->submit(r->queue, r->list + most, REFUSED - most);
}

static void refused_close(struct refused *r)
{
    script.refuse = script.tamper = 0;
    r->store->ops->queue_close(r->queue);
    r->store->ops->close(r->store);
    free_pages(r->pages, REFUSED);
}

/* Reap until `wanted` have come; returns how many failed. */
static unsigned reap_without_error(struct refused *r, unsigned wanted)
{
    struct store_io *done[REFUSED];
    unsigned got = 0, failed = 0, n;

    while (got < wanted && (n = r->store->ops->reap(r->queue, done, REFUSED, true)) > 0) {
        for (unsigned i = 0; i < n; i++)
            failed += done[i]->result != 0;
        got += n;
    }
    return failed + (wanted - got);
}

/*
 * The ring is refused while the kernel has some requests: these come back and its descriptor tells
 * of them; what waits, and what comes later, is done without it.
 */
static void test_refused_ring(bool direct)
{
    const char *what = direct ? "refused ring" : "refused ring, buffered";
    struct refused r;
    struct store_io *done[REFUSED];
    unsigned wrong = 0;
    const char *text;

    refused_open(&r, direct, true);
    if (r.descriptor.fd < 0)
        skip("no ring to refuse");
    log_catch();
    refused_submit(&r, 2, -EPERM);
    is(r.store->ops->reap(r.queue, done, 1, false), 1, "%s: a request comes back at once", what);
    is(reap_without_error(&r, REFUSED - 1), 0, "%s: all do, with success", what);
    is(r.store->ops->reap(r.queue, done, 1, true), 0, "%s: there is nothing to wait for then",
       what);
    memset(r.pages, 0, REFUSED * PAGE);
    for (unsigned i = 0; i < REFUSED; i++)
        r.ios[i].write = false;
    r.store->ops->submit(r.queue, r.list, REFUSED);
    is(r.store->ops->reap(r.queue, done, REFUSED, false), REFUSED,
       "%s: later ones are done in submit", what);
    for (unsigned i = 0; i < REFUSED; i++)
        wrong += r.ios[i].result != 0 || !filled(r.pages + i * PAGE, i, 1);
    is(wrong, 0, "%s: every page is right", what);
    if (r.descriptor.fd >= 0)
        is(poll(&r.descriptor, 1, 0), 0, "%s: the descriptor is quiet", what);
    text = log_caught();
    ok(r.descriptor.fd < 0 || strstr(text, "refused (error 1)") != NULL, "%s: a message", what);
    ok(strchr(text, '\n') == strrchr(text, '\n'), "%s: and no other", what);
    refused_close(&r);
}

/* What the kernel had then, and has not done, or not all of it, is done without the ring. */
static void test_refused_undone(int result, const char *what)
{
    struct refused r;
    unsigned wrong = 0;

    refused_open(&r, true, true);
    script.result = result;
    script.tamper = r.descriptor.fd < 0 ? 0 : 1;
    refused_submit(&r, 1, -EPERM);
    is(script.tamper, 0, "refused ring, %s: it is so", what);
    is(reap_without_error(&r, REFUSED), 0, "refused ring, %s: all come back", what);
    memset(r.pages, 0, REFUSED * PAGE);
    for (unsigned i = 0; i < REFUSED; i++)
        r.ios[i].write = false;
    r.store->ops->submit(r.queue, r.list, REFUSED);
    is(reap_without_error(&r, REFUSED), 0, "refused ring, %s: and can be read", what);
    for (unsigned i = 0; i < REFUSED; i++)
        wrong += !filled(r.pages + i * PAGE, i, 1);
    is(wrong, 0, "refused ring, %s: every page is right", what);
    refused_close(&r);
}

/* What is with the kernel when the ring is refused makes its descriptor readable. */
static void test_refused_poll(void)
{
    struct refused r;
    struct store_io *done[REFUSED];
    unsigned got = 0;

    refused_open(&r, true, false);
    refused_submit(&r, 3, -ENOSYS);
    for (unsigned i = 0; i <= REFUSED && got < REFUSED; i++) {
        got += r.store->ops->reap(r.queue, done, REFUSED, false);
        if (got < REFUSED && r.descriptor.fd >= 0)
            poll(&r.descriptor, 1, 5000);
    }
    is(got, REFUSED, "refused ring: who polls gets all");
    refused_close(&r);
}

/* The program has closed the pagefile, too, and opened another file in its place. */
static void test_refused_closed(void)
{
    char *path = in_directory("closed"), *other = in_directory("other");
    struct store *store;
    struct store_queue *queue;
    struct iovec iov = {new_pages(1), PAGE};
    struct store_io io = {.slot = 3, .count = 1, .write = true, .iovcnt = 1, .iov = &iov};
    struct store_io *one = &io, *done;
    int mine = -1, kept = open("/dev/null", O_RDONLY), theirs;
    struct stat st;

    close(kept); /* the store's descriptor will have this number */
    if (open_store(path, 64, true, true, &store) != 0 ||
        store->ops->queue_open(store, 4, &queue) != 0)
        exit(1);
    theirs = open(other, O_CREAT | O_RDWR, 0600);
    if (store->ops->queue_fd(queue) < 0 || fcntl(kept, F_GETFD) < 0) {
        skip("no ring to refuse");
    } else {
        mine = dup(kept);
        dup2(theirs, kept);
        script.code = -EPERM;
        script.refuse = 1;
        store->ops->submit(queue, &one, 1);
        is(store->ops->reap(queue, &done, 1, true), 1, "another file in its place: it comes back");
        is(io.result, -EPERM, "another file in its place: with the error");
        ok(fstat(theirs, &st) == 0 && st.st_size == 0, "another file in its place: is not touched");
        dup2(mine, kept);
        close(mine);
    }
    store->ops->queue_close(queue);
    store->ops->close(store);
    close(theirs);
    unlink(other);
    free_pages(iov.iov_base, 1);
}

/* The ring dies, or its descriptor is closed by the program: every request comes back. */
static void test_broken_ring(void)
{
    struct store *store;
    struct store_queue *queue;
    struct store_io ios[5] = {0}, *list[5], *done[5];
    struct iovec iov[5];
    char *pages = new_pages(5);
    unsigned got = 0, n, failed = 0;

    if (open_store("", 64, true, true, &store) != 0 ||
        store->ops->queue_open(store, 2, &queue) != 0)
        exit(1);
    for (unsigned i = 0; i < 5; i++) {
        iov[i] = (struct iovec){pages + i * PAGE, PAGE};
        ios[i] = (struct store_io){.slot = 1 + i, .count = 1, .iovcnt = 1, .iov = &iov[i]};
        list[i] = &ios[i];
    }
    script.code = -EBADF;
    script.refuse = store->ops->queue_fd(queue) < 0 ? 0 : 1;
    if (script.refuse == 0)
        skip("no ring to break");
    store->ops->submit(queue, list, 3);
    store->ops->submit(queue, list + 3, 2);
    while (got < 5 && (n = store->ops->reap(queue, done, 5, true)) > 0) {
        for (unsigned i = 0; i < n; i++)
            failed += done[i]->result == -EBADF;
        got += n;
    }
    is(got, 5, "broken ring: all come back");
    ok(failed == 5 || store->ops->queue_fd(queue) < 0, "broken ring: with its error");
    is(store->ops->reap(queue, done, 5, true), 0, "broken ring: reap does not wait for nothing");
    store->ops->queue_close(queue);
    store->ops->close(store);
    free_pages(pages, 5);
}

static void test_poll(void)
{
    struct store *store;
    struct store_queue *queue;
    struct iovec iov = {new_pages(1), PAGE};
    struct store_io io = {.slot = 3, .count = 1, .iovcnt = 1, .iov = &iov};
    struct store_io bad = {.slot = 3, .count = 0, .iovcnt = 1, .iov = &iov};
    struct store_io *one = &io, *done;
    struct pollfd descriptor;

    if (open_store("", 64, true, true, &store) != 0 ||
        store->ops->queue_open(store, 2, &queue) != 0)
        exit(1);
    descriptor = (struct pollfd){.fd = store->ops->queue_fd(queue), .events = POLLIN};
    if (descriptor.fd < 0) {
        skip("without io_uring there is nothing to poll");
        goto out;
    }
    ok((fcntl(descriptor.fd, F_GETFD) & FD_CLOEXEC) != 0, "the descriptor is not inherited");
    is(poll(&descriptor, 1, 0), 0, "an idle queue is not readable");
    is(store->ops->reap(queue, &done, 1, true), 0, "an idle queue has nothing to wait for");
    store->ops->submit(queue, &one, 1);
    is(poll(&descriptor, 1, 5000), 1, "a completed request makes it readable");
    is(store->ops->reap(queue, &done, 1, false), 1, "and is reaped without waiting");
    is(poll(&descriptor, 1, 0), 0, "after that it is idle again");
    one = &bad;
    store->ops->submit(queue, &one, 1);
    is(poll(&descriptor, 1, 5000), 1, "a request for no slots makes it readable, too");
    is(store->ops->reap(queue, &done, 1, true), 1, "and comes back");
    is(bad.result, -EINVAL, "with -EINVAL");
    store->ops->submit(queue, &one, 1);
out:
    store->ops->queue_close(queue); /* with a request under way */
    store->ops->close(store);
    free_pages(iov.iov_base, 1);
}

/* ---- the file ---- */

static void test_lifetime(void)
{
    char *path = in_directory("lifetime");
    struct store *store;
    struct stat st;
    int fd;

    umask(0);
    is(open_store(path, 16, true, false, &store), 0, "a missing file is made");
    is(stat(path, &st), 0, "it is there");
    is(st.st_mode & 07777, 0600, "nobody else may read it");
    ok(!store->can_grow, "a size that was asked for is fixed");
    is(store->ops->grow(store, 17), -ENOSPC, "and cannot grow");
    ok(strstr(error_last(), "pagefile_size") != NULL, "which says what to raise");
    store->ops->close(store);
    is(access(path, F_OK), -1, "it is removed at close");

    fd = open(path, O_RDWR | O_CREAT, 0600);
    ok(fd >= 0 && ftruncate(fd, 10000) == 0, "a file that exists");
    close(fd);
    is(open_store(path, 0, true, false, &store), 0, "is used");
    is(store->slots, 2, "at its size, in whole slots");
    ok(stat(path, &st) == 0 && st.st_size == 10000, "it is not cut short");
    is(store->ops->grow(store, 100), 0, "it can grow");
    store->ops->close(store);
    ok(stat(path, &st) == 0 && st.st_size == 100 * PAGE, "it is kept at close, grown");
    is(st.st_mode & 07777, 0600, "with its mode");
    is(open_store(path, 10, true, false, &store), 0, "a smaller size than it has");
    is(store->slots, 10, "is honoured");
    store->ops->close(store);
    ok(stat(path, &st) == 0 && st.st_size == 100 * PAGE, "without cutting it short");
    unlink(path);
}

static void test_names(void)
{
    char here[512];
    struct store *store;

    if (getcwd(here, sizeof(here)) == NULL || chdir(directory) != 0)
        exit(1);
    is(open_store("relative", 4, true, false, &store), 0, "a relative path");
    is(access(in_directory("relative"), F_OK), 0, "is made where it says");
    is(chdir("/"), 0, "another working directory");
    store->ops->close(store);
    is(access(in_directory("relative"), F_OK), -1, "it is removed all the same");
    is(chdir(here), 0, "back");

    is(open_store(in_directory("replaced"), 4, true, false, &store), 0, "a file that is then");
    is(rename(in_directory("replaced"), in_directory("elsewhere")), 0, "renamed,");
    is(close(open(in_directory("replaced"), O_CREAT | O_WRONLY, 0600)), 0, "and another made:");
    store->ops->close(store);
    is(unlink(in_directory("replaced")), 0, "the other is not removed");
    is(unlink(in_directory("elsewhere")), 0, "nor is the renamed one");

    setenv("TMPDIR", directory, 1);
    is(open_store("", 16, true, true, &store), 0, "a nameless file");
    ok(strstr(store->where, directory) != NULL, "is in TMPDIR");
    store->ops->close(store);
    setenv("TMPDIR", in_directory("nowhere"), 1);
    refused("TMPDIR does not exist", "", 16, false, -ENOENT, "does not exist");
    unsetenv("TMPDIR");
    is(open_store("", 16, true, true, &store), 0, "without TMPDIR");
    ok(strstr(store->where, "/var/tmp") != NULL, "it is in /var/tmp");
    store->ops->close(store);
}

static void test_lock(void)
{
    char *path = in_directory("locked");
    struct store *store, *second;
    pid_t child;
    int status = 0;

    is(open_store(path, 16, true, false, &store), 0, "a first user");
    refused("a second user in the process", path, 16, false, -EBUSY, "in use by another");
    child = fork();
    if (child == 0)
        _exit(open_store(path, 16, true, false, &second) == -EBUSY ? 0 : 1);
    waitpid(child, &status, 0);
    ok(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a second process is refused");
    is(access(path, F_OK), 0, "the file is left alone by both");
    store->ops->close(store);
    is(open_store(path, 16, true, false, &store), 0, "it is free when the first is done");
    store->ops->close(store);
}

/* A lock ends with close(), though a ring or a child still holds the file open. */
static void test_lock_ends(void)
{
    char *path = in_directory("unlocked");
    struct store *store;
    struct store_queue *queue;
    unsigned failed = 0;
    int pipes[2];
    pid_t child;

    close(open(path, O_CREAT | O_RDWR, 0600));
    for (unsigned i = 0; i < 20; i++) {
        if (open_store(path, 16, true, false, &store) != 0 ||
            store->ops->queue_open(store, 32, &queue) != 0) {
            failed++;
            continue;
        }
        store->ops->queue_close(queue);
        store->ops->close(store);
    }
    is(failed, 0, "20 times opened and closed, rings and all");
    if (pipe(pipes) != 0 || open_store(path, 16, true, false, &store) != 0)
        exit(1);
    child = fork();
    if (child == 0) {
        close(pipes[1]);
        _exit(read(pipes[0], &failed, 1) == 0 ? 0 : 1);
    }
    store->ops->close(store);
    is(open_store(path, 16, true, false, &store), 0, "a child does not keep it locked");
    store->ops->close(store);
    close(pipes[1]);
    close(pipes[0]);
    waitpid(child, NULL, 0);
    unlink(path);
}

/* ---- without io_uring; this cannot be undone ---- */

static void test_without_io_uring(void)
{
    struct store *store;
    struct store_queue *queue;
    const char *text;

    /* A store that was opened while it was allowed: its queues do without. */
    if (open_store(in_directory("plain"), 64, true, true, &store) != 0)
        exit(1);
    if (!forbid_io_uring()) {
        skip("seccomp is not available: %s", strerror(errno));
        store->ops->close(store);
        return;
    }
    log_catch();
    is(store->ops->queue_open(store, 4, &queue), 0, "io_uring forbidden later: a queue opens");
    ok(strstr(log_caught(), "io_uring cannot be used") != NULL ||
           strstr(store->how, "pread") != NULL,
       "io_uring forbidden later: a warning");
    is(store->ops->queue_fd(queue), -1, "io_uring forbidden: no descriptor");
    store->ops->queue_close(queue);
    store->ops->close(store);
    log_catch();
    is(open_store(in_directory("plain"), 64, true, true, &store), 0, "io_uring forbidden: opens");
    text = log_caught();
    ok(strstr(text, "io_uring_disabled") != NULL, "io_uring forbidden: a warning with a remedy");
    note("%s", text);
    ok(strstr(store->how, "pread") != NULL, "io_uring forbidden: pread");
    store->ops->close(store);
    test_data("pread, direct", in_directory("plain"), true, true);
    test_data("pread, buffered", in_directory("plain"), false, true);
    test_overflow(3);
    test_many_buffers();
    test_end_of_file(true);
    test_end_of_file(false);
}

int main(void)
{
    *(void **)&submit_truly = dlsym(RTLD_NEXT, "io_uring_submit");
    if (!directory_make("test_store_file"))
        return 1;
    test_data("direct", in_directory("pages"), true, true);
    test_data("buffered", in_directory("pages"), false, true);
    test_data("direct, not reserved", "", true, false);
    test_growth_under_io();
    test_overflow(1);
    test_overflow(5);
    test_overflow(4096);
    test_many_buffers();
    test_end_of_file(true);
    test_end_of_file(false);
    test_seldom_answers();
    test_no_memory();
    test_refused_midway();
    test_refused_ring(true);
    test_refused_ring(false);
    test_refused_undone(-EAGAIN, "not done");
    test_refused_undone(512, "done in part");
    test_refused_poll();
    test_refused_closed();
    test_broken_ring();
    test_poll();
    test_lifetime();
    test_names();
    test_lock();
    test_lock_ends();
    test_without_io_uring();
    is(rmdir(directory), 0, "nothing is left behind");
    return done_testing();
}
