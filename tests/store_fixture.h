/*
 * For tests of the store `file`: a directory of our own, stores in it, pages that tell where they
 * belong, and threads that write and read them back.
 */
#ifndef TESTS_STORE_FIXTURE_H
#define TESTS_STORE_FIXTURE_H

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "store/store.h"
#include "tap.h"

#define PAGE 4096u
#define MIB_SLOTS 256u
#define WORDS (PAGE / sizeof(uint64_t))

static char directory[256];

/* Make the directory, below TMPDIR. False: it cannot be made, which has been said. */
static inline bool directory_make(const char *name)
{
    const char *parent = getenv("TMPDIR");

    snprintf(directory, sizeof(directory), "%s/%s.XXXXXX", parent != NULL ? parent : "/var/tmp",
             name);
    if (mkdtemp(directory) != NULL)
        return true;
    perror(directory);
    return false;
}

static inline char *in_directory(const char *name)
{
    static char paths[16][512];
    static unsigned next;
    char *path = paths[next++ % 16];

    snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
    return path;
}

static inline int open_store(const char *path, uint64_t slots, bool direct, bool preallocate,
                             struct store **store)
{
    struct store_file_options options = {
        .path = path, .size_slots = slots, .direct = direct, .preallocate = preallocate};

    *store = NULL;
    return store_file_open(&options, store);
}

static inline void *new_pages(size_t count)
{
    void *pages =
        mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (pages == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return pages;
}

static inline void free_pages(void *pages, size_t count)
{
    munmap(pages, count * PAGE);
}

static inline void fill(void *page, uint64_t slot, uint64_t generation)
{
    uint64_t *words = page;

    for (size_t i = 0; i < WORDS; i++)
        words[i] = slot * 1000003 + generation * 7919 + i;
}

static inline bool filled(const void *page, uint64_t slot, uint64_t generation)
{
    const uint64_t *words = page;

    for (size_t i = 0; i < WORDS; i++)
        if (words[i] != slot * 1000003 + generation * 7919 + i)
            return false;
    return true;
}

/* One request, from submit to reap. */
static inline int transfer(struct store *store, struct store_queue *queue, bool write,
                           uint64_t slot, uint32_t count, void *pages)
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

static inline void log_catch(void)
{
    log_before = log_descriptor();
    log_file = memfd_create("log", MFD_CLOEXEC);
    log_use_descriptor(log_file);
}

static inline const char *log_caught(void)
{
    static char text[4096];
    ssize_t got = pread(log_file, text, sizeof(text) - 1, 0);

    text[got > 0 ? got : 0] = '\0';
    log_use_descriptor(log_before);
    close(log_file);
    return text;
}

/* The open must fail with this code, and words that contain this and the path. */
static inline void refused(const char *what, const char *path, uint64_t slots, bool preallocate,
                           int code, const char *words)
{
    struct store *store;
    int err = open_store(path, slots, true, preallocate, &store);

    is(err, code, "%s: the code", what);
    if (!ok(err != 0 && strstr(error_last(), words) != NULL, "%s: the words", what))
        note("%s", error_last());
    if (err == 0)
        store->ops->close(store);
}

static inline int run(const char *command)
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
static inline void prepare(struct batch *batch, unsigned i, const struct worker *worker, bool write)
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

static inline unsigned reap_all(struct store *store, struct store_queue *queue, struct batch *batch)
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
static inline unsigned round_trip(struct worker *worker, struct store_queue *queue,
                                  struct batch *batch, uint64_t *generations)
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

static inline void *worker_run(void *argument)
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

static inline unsigned run_workers(struct store *store, pthread_t *threads, struct worker *workers,
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

static inline unsigned join_workers(pthread_t *threads, const struct worker *workers,
                                    unsigned count)
{
    unsigned wrong = count != THREADS;

    for (unsigned i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        wrong += workers[i].wrong;
    }
    return wrong;
}

static inline void test_data(const char *what, const char *path, bool direct, bool preallocate)
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

#endif
