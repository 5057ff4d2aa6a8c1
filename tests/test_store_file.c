/*
 * The store `file`: data, queues, growth, and every way in which it can be refused.
 *
 * Mounts are made in a mount namespace of our own, as root only.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "store/store.h"
#include "tap.h"

#define PAGE 4096u
#define MIB_SLOTS 256u
#define WORDS (PAGE / sizeof(uint64_t))

static char directory[256];

/* ---- the kernel's answers, tampered with: the library's function, seen from the store ---- */

static struct {
    int refuse;       /* so many submissions fail, */
    int code;         /* with this, */
    int refuse_with;  /* (the least that must be with the kernel already) */
    int tamper;       /* so many completions get */
    int result;       /* this result, if they were successful */
    unsigned submits; /* calls */
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

/* ---- helpers ---- */

static char *in_directory(const char *name)
{
    static char paths[16][512];
    static unsigned next;
    char *path = paths[next++ % 16];

    snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
    return path;
}

static int open_store(const char *path, uint64_t slots, bool direct, bool preallocate,
                      struct store **store)
{
    struct store_file_options options = {
        .path = path, .size_slots = slots, .direct = direct, .preallocate = preallocate};

    *store = NULL;
    return store_file_open(&options, store);
}

static void *new_pages(size_t count)
{
    void *pages =
        mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (pages == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return pages;
}

static void free_pages(void *pages, size_t count)
{
    munmap(pages, count * PAGE);
}

static void fill(void *page, uint64_t slot, uint64_t generation)
{
    uint64_t *words = page;

    for (size_t i = 0; i < WORDS; i++)
        words[i] = slot * 1000003 + generation * 7919 + i;
}

static bool filled(const void *page, uint64_t slot, uint64_t generation)
{
    const uint64_t *words = page;

    for (size_t i = 0; i < WORDS; i++)
        if (words[i] != slot * 1000003 + generation * 7919 + i)
            return false;
    return true;
}

/* One request, from submit to reap. */
static int transfer(struct store *store, struct store_queue *queue, bool write, uint64_t slot,
                    uint32_t count, void *pages)
{
    struct iovec iov = {.iov_base = pages, .iov_len = (size_t)count * PAGE};
    struct store_io io = {.slot = slot, .count = count, .write = write, .iovcnt = 1, .iov = &iov};
    struct store_io *one = &io, *done = NULL;
    unsigned n;

    store->ops->submit(queue, &one, 1);
    n = store->ops->reap(queue, &done, 1, true);
    if (n != 1 || done != &io)
        return 1;
    return io.result;
}

/* What log_line() writes between these two. */
static int log_before, log_file;

static void log_catch(void)
{
    log_before = log_descriptor();
    log_file = memfd_create("log", MFD_CLOEXEC);
    log_use_descriptor(log_file);
}

static const char *log_caught(void)
{
    static char text[4096];
    ssize_t got = pread(log_file, text, sizeof(text) - 1, 0);

    text[got > 0 ? got : 0] = '\0';
    log_use_descriptor(log_before);
    close(log_file);
    return text;
}

/* The open must fail with this code, and words that contain this and the path. */
static void refused(const char *what, const char *path, uint64_t slots, bool preallocate, int code,
                    const char *words)
{
    struct store *store;
    int err = open_store(path, slots, true, preallocate, &store);

    is(err, code, "%s: the code", what);
    if (!ok(err != 0 && strstr(error_last(), words) != NULL, "%s: the words", what))
        note("%s", error_last());
    if (err == 0)
        store->ops->close(store);
}

static int run(const char *command)
{
    int status = system(command);

    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

/* ---- data ---- */

#define THREADS 4
#define OWN_SLOTS 512u
#define DEPTH 8u
#define BATCH 40u
#define RUN_MAX 8u
#define ROUNDS 30u

struct worker {
    struct store *store;
    uint64_t first; /* of its slots */
    unsigned wrong;
    unsigned seed;
    atomic_bool *stop; /* run until this is set, or NULL: ROUNDS */
};

struct batch {
    struct store_io ios[BATCH], *list[BATCH], *done[BATCH];
    struct iovec iov[BATCH][2];
    char *pages;
};

/* Request i of a batch, over its own part of the slots, so that none overlap; two buffers. */
static void prepare(struct batch *batch, unsigned i, const struct worker *worker, bool write)
{
    unsigned stride = OWN_SLOTS / BATCH;
    struct store_io *io = &batch->ios[i];
    uint64_t slot = worker->first + i * stride;
    char *pages = batch->pages + (size_t)i * RUN_MAX * PAGE;
    size_t left = RUN_MAX / 2;

    batch->iov[i][0] = (struct iovec){pages, left * PAGE};
    batch->iov[i][1] = (struct iovec){pages + left * PAGE, (RUN_MAX - left) * PAGE};
    *io = (struct store_io){
        .slot = slot, .count = RUN_MAX, .write = write, .iovcnt = 2, .iov = batch->iov[i]};
    batch->list[i] = io;
}

static unsigned reap_all(struct store *store, struct store_queue *queue, struct batch *batch)
{
    unsigned wrong = 0, got = 0, n;

    while (got < BATCH && (n = store->ops->reap(queue, batch->done, 7, true)) > 0) {
        for (unsigned i = 0; i < n; i++)
            wrong += batch->done[i]->result != 0;
        got += n;
    }
    return wrong + (got != BATCH);
}

/* Write some of the batch's runs with a new generation, then read all and compare. */
static unsigned round_trip(struct worker *worker, struct store_queue *queue, struct batch *batch,
                           uint64_t *generations)
{
    const struct store_ops *ops = worker->store->ops;
    unsigned wrong;

    for (unsigned i = 0; i < BATCH; i++) {
        bool write = generations[i] == 0 || rand_r(&worker->seed) % 2 == 0;

        prepare(batch, i, worker, write);
        if (write)
            generations[i]++;
        for (unsigned p = 0; write && p < RUN_MAX; p++)
            fill(batch->pages + (i * RUN_MAX + p) * PAGE, batch->ios[i].slot + p, generations[i]);
    }
    ops->submit(queue, batch->list, BATCH);
    wrong = reap_all(worker->store, queue, batch);
    memset(batch->pages, 0, (size_t)BATCH * RUN_MAX * PAGE);
    for (unsigned i = 0; i < BATCH; i++)
        prepare(batch, i, worker, false);
    ops->submit(queue, batch->list, BATCH);
    wrong += reap_all(worker->store, queue, batch);
    for (unsigned i = 0; i < BATCH * RUN_MAX; i++)
        wrong += !filled(batch->pages + i * PAGE, batch->ios[i / RUN_MAX].slot + i % RUN_MAX,
                         generations[i / RUN_MAX]);
    return wrong;
}

static void *worker_run(void *argument)
{
    struct worker *worker = argument;
    struct store_queue *queue;
    uint64_t generations[BATCH] = {0};
    struct batch *batch = calloc(1, sizeof(*batch));

    if (batch == NULL || worker->store->ops->queue_open(worker->store, DEPTH, &queue) != 0) {
        worker->wrong = 1;
        free(batch);
        return NULL;
    }
    batch->pages = new_pages((size_t)BATCH * RUN_MAX);
    for (unsigned i = 0; worker->stop != NULL ? !atomic_load(worker->stop) : i < ROUNDS; i++)
        worker->wrong += round_trip(worker, queue, batch, generations);
    worker->store->ops->queue_close(queue);
    free_pages(batch->pages, (size_t)BATCH * RUN_MAX);
    free(batch);
    return NULL;
}

static unsigned run_workers(struct store *store, pthread_t *threads, struct worker *workers,
                            atomic_bool *stop)
{
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){
            .store = store, .first = 1 + (uint64_t)i * OWN_SLOTS, .seed = i + 1, .stop = stop};
        if (pthread_create(&threads[i], NULL, worker_run, &workers[i]) != 0)
            return i;
    }
    return THREADS;
}

static unsigned join_workers(pthread_t *threads, const struct worker *workers, unsigned count)
{
    unsigned wrong = count != THREADS;

    for (unsigned i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        wrong += workers[i].wrong;
    }
    return wrong;
}

static void test_data(const char *what, const char *path, bool direct, bool preallocate)
{
    pthread_t threads[THREADS];
    struct worker workers[THREADS];
    struct store *store;

    if (!ok(open_store(path, 1 + THREADS * OWN_SLOTS, direct, preallocate, &store) == 0,
            "%s: opens", what)) {
        note("%s", error_last());
        return;
    }
    is(store->slots, 1 + THREADS * OWN_SLOTS, "%s: has the size asked for", what);
    note("%s %s (%s)", store->ops->name, store->where, store->how);
    is(join_workers(threads, workers, run_workers(store, threads, workers, NULL)), 0,
       "%s: %u threads read back what they wrote, %u requests at a depth of %u", what, THREADS,
       BATCH, DEPTH);
    store->ops->close(store);
}

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
    test_tampered(store, queue, pages, 4096, "one slot of eight done");
    test_tampered(store, queue, pages, 5000, "a slot and a part done");
    test_tampered(store, queue, pages, 512, "less than a slot done");
    script.result = -EAGAIN;
    script.tamper = 1000000;
    is(transfer(store, queue, false, 8, 8, pages), 0, "EAGAIN for ever: done without the ring");
    script.tamper = 0;
    script.result = 512;
    script.tamper = 1000000;
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

    fd = open(path, O_RDWR | O_CREAT, 0640);
    ok(fd >= 0 && ftruncate(fd, 10000) == 0, "a file that exists");
    close(fd);
    log_catch();
    is(open_store(path, 0, true, false, &store), 0, "is used");
    ok(strstr(log_caught(), "chmod") != NULL, "with a warning, if others may read it");
    is(store->slots, 2, "at its size, in whole slots");
    ok(stat(path, &st) == 0 && st.st_size == 10000, "it is not cut short");
    is(store->ops->grow(store, 100), 0, "it can grow");
    store->ops->close(store);
    ok(stat(path, &st) == 0 && st.st_size == 100 * PAGE, "it is kept at close, grown");
    is(st.st_mode & 07777, 0640, "with its mode");
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

static void test_bad_paths(void)
{
    char *file = in_directory("file"), *link = in_directory("link");
    char *name = malloc(5001);

    close(open(file, O_CREAT | O_RDWR, 0600));
    refused("no directory", in_directory("no/such"), 4, false, -ENOENT, "does not exist");
    refused("a directory", directory, 4, false, -EISDIR, "is a directory");
    refused("a path through a file", in_directory("file/x"), 4, false, -ENOTDIR, "not a directory");
    is(symlink(file, link), 0, "a symbolic link");
    refused("a symbolic link", link, 4, false, -ELOOP, file);
    unlink(link);
    is(symlink("nowhere", link), 0, "a symbolic link to nowhere");
    refused("a symbolic link to nowhere", link, 4, false, -ELOOP, "leads nowhere");
    unlink(link);
    refused("a character device", "/dev/null", 4, false, -EINVAL, "neither a file nor");
    is(mkfifo(in_directory("fifo"), 0600), 0, "a pipe");
    refused("a pipe", in_directory("fifo"), 4, false, -EINVAL, "neither a file nor");
    unlink(in_directory("fifo"));
    memset(name, 'x', 5000);
    name[5000] = '\0';
    refused("a long path", name, 4, false, -ENAMETOOLONG, "too long");
    refused("a size that no file has", in_directory("huge"), UINT64_MAX / PAGE, false, -EFBIG,
            "more than the file system allows");
    refused("a size that overflows", in_directory("huge"), UINT64_MAX, false, -EFBIG,
            "more than the file system allows");
    is(access(in_directory("huge"), F_OK), -1, "a file made in vain is removed");
    unlink(file);
    free(name);
}

static void test_permission(void)
{
    char *path = in_directory("forbidden"), *inside = in_directory("closed/file");
    char command[600];

    if (geteuid() != 0) {
        skip("permissions: needs root, to make files of another user");
        return;
    }
    close(open(path, O_CREAT | O_RDWR, 0600));
    chmod(directory, 0755);
    mkdir(in_directory("closed"), 0755);
    if (seteuid(65534) != 0)
        exit(1);
    refused("another user's file", path, 4, false, -EACCES, "chmod or chown");
    refused("another user's directory", inside, 4, false, -EACCES, "may write to");
    if (seteuid(0) != 0)
        exit(1);
    rmdir(in_directory("closed"));
    snprintf(command, sizeof(command), "chattr +i %s 2>/dev/null", path);
    if (run(command) != 0) {
        skip("chattr +i does not work here");
    } else {
        refused("an immutable file", path, 4, false, -EPERM, "chattr");
        snprintf(command, sizeof(command), "chattr -i %s", path);
        is(run(command), 0, "mutable again");
    }
    unlink(path);
}

/* ---- limits ---- */

static void test_descriptors(void)
{
    struct rlimit before, few;
    struct store *store;
    struct store_queue *queues[8] = {0};
    int next = dup(0), err = 0;
    char how[sizeof(store->how)];
    unsigned i;

    close(next);
    getrlimit(RLIMIT_NOFILE, &before);
    few = before;
    few.rlim_cur = (rlim_t)next;
    setrlimit(RLIMIT_NOFILE, &few);
    refused("no descriptor left", in_directory("descriptors"), 4, false, -EMFILE, "ulimit -n");
    few.rlim_cur = (rlim_t)next + 3;
    setrlimit(RLIMIT_NOFILE, &few);
    is(open_store(in_directory("descriptors"), 4, true, false, &store), 0, "three left: opens");
    memcpy(how, store->how, sizeof(how));
    for (i = 0; i < 8 && err == 0; i++)
        err = store->ops->queue_open(store, 4, &queues[i]);
    if (store->ops->queue_fd(queues[0]) < 0) {
        skip("without io_uring a queue needs no descriptor");
    } else {
        is(err, -EMFILE, "queues run out of descriptors");
        ok(strstr(error_last(), "too few file descriptors (ulimit -n)") != NULL, "in words");
        is(i, 3, "at the third");
    }
    for (i = 0; i < 8 && queues[i] != NULL; i++)
        store->ops->queue_close(queues[i]);
    store->ops->close(store);
    few.rlim_cur = (rlim_t)next + 1;
    setrlimit(RLIMIT_NOFILE, &few);
    is(open_store(in_directory("descriptors"), 4, true, false, &store), 0, "one left: opens");
    ok(strcmp(how, store->how) == 0, "without taking it for a lack of io_uring");
    store->ops->close(store);
    setrlimit(RLIMIT_NOFILE, &before);
}

static void test_file_size_limit(void)
{
    struct rlimit before, small;
    struct store *store;

    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 64 * PAGE;
    setrlimit(RLIMIT_FSIZE, &small);
    refused("over the file size limit", in_directory("limit"), 65, true, -EFBIG, "ulimit -f");
    is(open_store(in_directory("limit"), 0, true, true, &store), 0, "under the limit");
    is(store->ops->grow(store, 64), 0, "grown to the limit");
    is(store->ops->grow(store, 65), -EFBIG, "over it is refused, not killed");
    is(store->slots, 64, "the old size holds");
    store->ops->close(store);
    setrlimit(RLIMIT_FSIZE, &before);
}

/* ---- file systems of our own ---- */

static void test_full_disk(void)
{
    char *path = in_directory("mnt/pages");
    struct store *store;
    struct store_queue *queue;
    struct stat st;
    char *pages = new_pages(MIB_SLOTS);
    int err = 0;
    unsigned written;

    refused("full disk", path, 64 * MIB_SLOTS, true, -ENOSPC, "the disk is full: 64.0 MiB more");
    is(access(path, F_OK), -1, "full disk: the file is removed");
    is(open_store(path, 0, true, true, &store), 0, "full disk: a store that grows");
    is(store->ops->grow(store, 2 * MIB_SLOTS), 0, "full disk: grows while there is room");
    is(store->ops->grow(store, 66 * MIB_SLOTS), -ENOSPC, "full disk: then fails");
    ok(strstr(error_last(), "64.0 MiB more were needed") != NULL, "full disk: says how much");
    note("%s", error_last());
    is(store->slots, 2 * MIB_SLOTS, "full disk: the old size holds");
    ok(stat(path, &st) == 0 && st.st_size == 2 * MIB_SLOTS * PAGE &&
           st.st_blocks * 512 < 3 * MIB_SLOTS * PAGE,
       "full disk: and what was reserved in vain is free again");
    is(store->ops->grow(store, 3 * MIB_SLOTS), 0, "full disk: it may grow less");
    store->ops->close(store);

    is(open_store(path, 64 * MIB_SLOTS, true, false, &store), 0, "full disk, not reserved: opens");
    if (store->ops->queue_open(store, 4, &queue) != 0)
        exit(1);
    for (written = 0; written < 64 && err == 0; written++)
        err = transfer(store, queue, true, 1 + written * MIB_SLOTS, MIB_SLOTS, pages);
    is(err, -ENOSPC, "full disk, not reserved: a write says so");
    store->ops->queue_close(queue);
    store->ops->close(store);
    free_pages(pages, MIB_SLOTS);
}

static void test_read_only(void)
{
    char command[600];

    close(open(in_directory("mnt/old"), O_CREAT | O_RDWR, 0600));
    snprintf(command, sizeof(command), "mount -o remount,ro %s/mnt", directory);
    if (run(command) != 0) {
        skip("cannot remount read-only");
        return;
    }
    refused("read-only, new file", in_directory("mnt/new"), 4, true, -EROFS, "read-only");
    refused("read-only, old file", in_directory("mnt/old"), 4, true, -EROFS, "read-only");
}

static void test_no_direct(void)
{
    struct store *store;
    const char *text;

    if (mount("none", in_directory("mnt"), "ramfs", 0, NULL) != 0) {
        skip("ramfs cannot be mounted: %s", strerror(errno));
        return;
    }
    log_catch();
    is(open_store(in_directory("mnt/pages"), 0, true, true, &store), 0, "no O_DIRECT: opens");
    text = log_caught();
    ok(strstr(text, "direct I/O is refused") != NULL, "no O_DIRECT: a warning");
    ok(strstr(text, "cannot reserve space") != NULL, "no fallocate: a warning");
    note("%s", text);
    ok(strncmp(store->how, "buffered", 8) == 0, "no O_DIRECT: buffered");
    is(store->ops->grow(store, 100), 0, "no fallocate: grows");
    store->ops->close(store);
    test_data("no O_DIRECT", in_directory("mnt/pages"), true, true);
    umount(in_directory("mnt"));
}

static void test_device(const char *device)
{
    struct store *store, *second;
    char command[600];

    is(open_store(device, 0, true, true, &store), 0, "a block device opens");
    ok(!store->can_grow, "a block device cannot grow");
    is(store->slots, 16 * MIB_SLOTS, "a block device has its size");
    is(store->ops->grow(store, 17 * MIB_SLOTS), -ENOSPC, "and keeps it");
    ok(strstr(error_last(), "larger device") != NULL, "which says what to do");
    is(open_store(device, 0, true, true, &second), -EBUSY, "it is locked, too");
    store->ops->close(store);
    is(access(device, F_OK), 0, "it is there after close");
    refused("a device too small", device, 17 * MIB_SLOTS, true, -ENOSPC, "the device has 16.0 MiB");
    test_data("a block device", device, true, true);
    snprintf(command, sizeof(command), "mkfs.ext4 -q -F %s && mount %s %s/mnt", device, device,
             directory);
    if (run(command) != 0) {
        skip("the device cannot be mounted");
        return;
    }
    refused("a mounted device", device, 0, true, -EBUSY, "mounted or in use");
    umount(in_directory("mnt"));
}

static bool own_mounts(void)
{
    return geteuid() == 0 && unshare(CLONE_NEWNS) == 0 &&
           mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mkdir(in_directory("mnt"), 0755) == 0;
}

static void test_file_systems(void)
{
    char command[1200], device[64] = "";
    FILE *pipe;

    if (!own_mounts()) {
        skip("full disk, read-only, no O_DIRECT, devices: needs root, to mount file systems");
        return;
    }
    test_no_direct();
    snprintf(command, sizeof(command),
             "truncate -s 16M %s/image && mkfs.ext4 -q -F %s/image && "
             "mount -o loop %s/image %s/mnt",
             directory, directory, directory, directory);
    if (run(command) == 0) {
        test_full_disk();
        test_read_only();
        umount(in_directory("mnt"));
    } else {
        skip("full disk, read-only: mkfs.ext4 or mount -o loop does not work here");
    }
    unlink(in_directory("image"));
    snprintf(command, sizeof(command), "truncate -s 16M %s/disk && losetup -f --show %s/disk",
             directory, directory);
    pipe = popen(command, "r");
    if (pipe != NULL && fgets(device, sizeof(device), pipe) != NULL)
        device[strcspn(device, "\n")] = '\0';
    if (pipe != NULL)
        pclose(pipe);
    if (device[0] == '/') {
        test_device(device);
        snprintf(command, sizeof(command), "losetup -d %s", device);
        is(run(command), 0, "the device is let go");
    } else {
        skip("block devices: losetup does not work here");
    }
    unlink(in_directory("disk"));
    rmdir(in_directory("mnt"));
}

/* ---- without io_uring; this cannot be undone ---- */

static bool forbid_io_uring(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

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
    const char *parent = getenv("TMPDIR");

    *(void **)&submit_truly = dlsym(RTLD_NEXT, "io_uring_submit");
    snprintf(directory, sizeof(directory), "%s/test_store_file.XXXXXX",
             parent != NULL ? parent : "/var/tmp");
    if (mkdtemp(directory) == NULL) {
        perror(directory);
        return 1;
    }
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
    test_refused_midway();
    test_broken_ring();
    test_poll();
    test_lifetime();
    test_names();
    test_lock();
    test_lock_ends();
    test_bad_paths();
    test_permission();
    test_descriptors();
    test_file_size_limit();
    test_file_systems();
    test_without_io_uring();
    is(rmdir(directory), 0, "nothing is left behind");
    return done_testing();
}
