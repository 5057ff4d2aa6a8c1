/*
 * The store that is slow or faulty on purpose: what it does to requests, and when they come back.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "no_io_uring.h"
#include "store/store.h"
#include "tap.h"

#define PAGE 4096u
#define SLOTS 256u
#define MS 1000000ull

/* A store, one queue, and a page for each slot. */
struct fixture {
    struct store *store;
    struct store_queue *queue;
    unsigned char *pages;
    struct iovec iov[SLOTS];
    struct store_io ios[SLOTS];
};

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 * MS + (uint64_t)now.tv_nsec;
}

/* Time that this process has used a processor. */
static uint64_t busy_ns(void)
{
    struct timespec used;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000 * MS + (uint64_t)used.tv_nsec;
}

static void set_up(struct fixture *f, const struct store_inject_options *faults)
{
    struct store_file_options options = {.path = "", .size_slots = SLOTS, .direct = true};
    struct store *inner;

    memset(f, 0, sizeof(*f));
    if (store_file_open(&options, &inner) != 0 ||
        store_inject_open(inner, faults, &f->store) != 0 ||
        f->store->ops->queue_open(f->store, 16, &f->queue) != 0) {
        printf("Bail out! %s\n", error_last());
        exit(1);
    }
    f->pages = mmap(NULL, SLOTS * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (f->pages == MAP_FAILED)
        exit(1);
}

static void tear_down(struct fixture *f)
{
    f->store->ops->queue_close(f->queue);
    f->store->ops->close(f->store);
    munmap(f->pages, SLOTS * PAGE);
}

static struct store_io *request(struct fixture *f, bool write, uint64_t slot, uint32_t count)
{
    struct store_io *io = &f->ios[slot];

    f->iov[slot] = (struct iovec){f->pages + slot * PAGE, (size_t)count * PAGE};
    *io = (struct store_io){
        .slot = slot, .count = count, .write = write, .iovcnt = 1, .iov = &f->iov[slot]};
    return io;
}

static void submit(struct fixture *f, struct store_io *io)
{
    f->store->ops->submit(f->queue, &io, 1);
}

/* One request, from submit to reap. */
static int transfer(struct fixture *f, bool write, uint64_t slot, uint32_t count)
{
    struct store_io *io = request(f, write, slot, count), *done = NULL;

    submit(f, io);
    if (f->store->ops->reap(f->queue, &done, 1, true) != 1 || done != io)
        return 1;
    return io->result;
}

static void test_plain(void)
{
    struct store_inject_options none = {0};
    struct fixture f;
    unsigned failed = 0;

    set_up(&f, &none);
    is(f.store->slots, SLOTS, "no faults: the size is the inner store's");
    for (unsigned i = 1; i < 200; i++) {
        memset(f.pages + i * PAGE, (int)i, PAGE);
        failed += transfer(&f, true, i, 1) != 0;
        memset(f.pages + i * PAGE, 0, PAGE);
        failed += transfer(&f, false, i, 1) != 0 || f.pages[i * PAGE + 77] != i;
    }
    is(failed, 0, "no faults: all is as it was written");
    is(f.store->ops->grow(f.store, SLOTS), 0, "no faults: it is large enough");
    is(f.store->ops->grow(f.store, SLOTS + 1), -ENOSPC, "no faults: the inner store cannot grow");
    tear_down(&f);
}

static void test_growth(void)
{
    struct store_file_options options = {.path = "", .direct = true};
    struct store_inject_options none = {0};
    struct store *inner, *store;

    if (store_file_open(&options, &inner) != 0 || store_inject_open(inner, &none, &store) != 0)
        exit(1);
    ok(store->can_grow, "growth: can grow if the inner store can");
    is(store->ops->grow(store, 1000), 0, "growth: is passed on");
    is(store->slots, 1000, "growth: the size follows");
    store->ops->close(store);
}

static void test_delay(const char *inner)
{
    struct store_inject_options slow = {.delay_ns = 60 * MS};
    struct store_io *done[4];
    struct fixture f;
    uint64_t start, busy, elapsed;

    set_up(&f, &slow);
    start = now_ns();
    busy = busy_ns();
    is(transfer(&f, true, 1, 4), 0, "%s, delay: a write", inner);
    elapsed = now_ns() - start;
    ok(elapsed >= 60 * MS, "%s, delay: takes no less than it (%.1f ms)", inner,
       (double)elapsed / MS);
    ok(busy_ns() - busy < 30 * MS, "%s, delay: and sleeps meanwhile", inner);
    start = now_ns();
    submit(&f, request(&f, false, 1, 1));
    usleep(20000);
    submit(&f, request(&f, false, 2, 1));
    is(f.store->ops->reap(f.queue, done, 4, false), 0, "%s, delay: nothing is due yet", inner);
    is(f.store->ops->reap(f.queue, done, 4, true), 1, "%s, delay: the first is due alone", inner);
    ok(done[0] == &f.ios[1] && now_ns() - start >= 60 * MS, "%s, delay: on its time", inner);
    is(f.store->ops->reap(f.queue, done, 4, true), 1, "%s, delay: then the second", inner);
    ok(done[0] == &f.ios[2] && now_ns() - start >= 80 * MS, "%s, delay: on its time, too", inner);
    is(f.store->ops->reap(f.queue, done, 4, true), 0, "%s, delay: nothing to wait for", inner);
    tear_down(&f);
}

static void test_jitter(const char *inner)
{
    struct store_inject_options uneven = {.delay_ns = 5 * MS, .jitter_ns = 20 * MS};
    uint64_t start = now_ns(), submitted, first, last;
    struct store_io *done[8];
    struct fixture f;
    unsigned got = 0;

    set_up(&f, &uneven);
    for (unsigned i = 1; i <= 8; i++)
        submit(&f, request(&f, true, i, 1));
    submitted = now_ns();
    while (got < 8)
        got += f.store->ops->reap(f.queue, done + got, 8 - got, true);
    first = done[0]->due_ns;
    last = done[7]->due_ns;
    ok(first >= start + 5 * MS && last <= submitted + 25 * MS, "%s, jitter: within its bounds",
       inner);
    ok(first < last, "%s, jitter: each has another delay", inner);
    ok(now_ns() >= last, "%s, jitter: no sooner than that", inner);
    tear_down(&f);
}

static void test_delayed_errors(const char *inner)
{
    struct store_inject_options slow = {.delay_ns = 40 * MS, .bad_slot = 7};
    struct store_io *done[8], *list[3];
    struct fixture f;
    unsigned got = 0, n;
    uint64_t start;

    set_up(&f, &slow);
    start = now_ns();
    submit(&f, request(&f, false, 7, 1));
    usleep(5000);
    for (unsigned i = 0; i < 3; i++)
        list[i] = request(&f, false, 6 + 10 * i, i + 1);
    f.store->ops->submit(f.queue, list, 3);
    usleep(5000);
    submit(&f, request(&f, false, 5, 3)); /* it holds slot 7 */
    while (got < 5 && (n = f.store->ops->reap(f.queue, done + got, 8 - got, true)) > 0)
        got += n;
    is(got, 5, "%s, delayed errors: all come back", inner);
    ok(now_ns() - start >= 50 * MS, "%s, delayed errors: not before their time", inner);
    ok(done[0] == &f.ios[7] && done[4] == &f.ios[5], "%s, delayed errors: in order of time", inner);
    ok(f.ios[7].result == -EIO && f.ios[5].result == -EIO, "%s, delayed errors: failed", inner);
    ok(list[0]->result == 0 && list[1]->result == 0 && list[2]->result == 0,
       "%s, delayed errors: the others succeeded", inner);
    tear_down(&f);
}

static void test_poll(const char *inner)
{
    struct store_inject_options slow = {.delay_ns = 50 * MS, .bad_slot = 9};
    struct store_inject_options quick = {.bad_slot = 9};
    struct store_io *done[4];
    struct pollfd descriptor = {.events = POLLIN};
    struct fixture f;
    uint64_t start;
    unsigned n = 0, polls = 0;

    set_up(&f, &slow);
    descriptor.fd = f.store->ops->queue_fd(f.queue);
    ok(descriptor.fd >= 0, "%s, poll: there is a descriptor", inner);
    is(poll(&descriptor, 1, 0), 0, "%s, poll: not readable when idle", inner);
    for (uint64_t slot = 8; slot < 10; slot++) { /* 9 fails at once, so to speak */
        start = now_ns();
        submit(&f, request(&f, false, slot, 1));
        for (n = 0, polls = 0; n == 0 && polls < 10; polls++) {
            poll(&descriptor, 1, 2000);
            n = f.store->ops->reap(f.queue, done, 4, false);
        }
        is(n, 1, "%s, poll: slot %d comes back", inner, (int)slot);
        ok(now_ns() - start >= 50 * MS, "%s, poll: in its time", inner);
        ok(polls <= 3, "%s, poll: without many false alarms (%u)", inner, polls);
        is(poll(&descriptor, 1, 0), 0, "%s, poll: idle again", inner);
    }
    tear_down(&f);

    set_up(&f, &quick);
    descriptor.fd = f.store->ops->queue_fd(f.queue);
    for (uint64_t slot = 8; slot < 10; slot++) {
        submit(&f, request(&f, false, slot, 1));
        is(poll(&descriptor, 1, 2000), 1, "%s, poll: no delay: readable", inner);
        is(f.store->ops->reap(f.queue, done, 4, true), 1, "%s, poll: no delay: reaped", inner);
        is(done[0]->result, slot == 9 ? -EIO : 0, "%s, poll: no delay: its result", inner);
        is(poll(&descriptor, 1, 0), 0, "%s, poll: no delay: idle again", inner);
    }
    tear_down(&f);
}

static void test_read_errors(void)
{
    struct store_inject_options faults = {.read_error_every = 3};
    struct store_queue *second, *first;
    struct fixture f;
    char pattern[10] = "";

    set_up(&f, &faults);
    first = f.queue;
    if (f.store->ops->queue_open(f.store, 4, &second) != 0)
        exit(1);
    for (unsigned i = 0; i < 9; i++) {
        f.queue = i % 2 == 0 ? first : second;
        pattern[i] = transfer(&f, false, 1, 1) == -EIO ? 'x' : '.';
        is(transfer(&f, true, 1, 1), 0, "read errors: writes are no reads");
    }
    ok(strcmp(pattern, "..x..x..x") == 0, "read errors: every third read, over both queues");
    f.queue = first;
    f.store->ops->queue_close(second);
    tear_down(&f);
}

static void test_write_errors(void)
{
    struct store_inject_options faults = {.write_error_every = 2};
    struct fixture f;

    set_up(&f, &faults);
    memset(f.pages + PAGE, 'a', PAGE);
    is(transfer(&f, true, 1, 1), 0, "write errors: the first write");
    memset(f.pages + PAGE, 'b', PAGE);
    is(transfer(&f, true, 1, 1), -EIO, "write errors: the second fails");
    is(transfer(&f, false, 1, 1), 0, "write errors: a read");
    is(f.pages[PAGE], 'a', "write errors: nothing was written");
    is(transfer(&f, true, 1, 1), 0, "write errors: the third write");
    tear_down(&f);
}

static unsigned differing_bits(const unsigned char *bytes, size_t size, unsigned char expected)
{
    unsigned bits = 0;

    for (size_t i = 0; i < size; i++)
        bits += (unsigned)__builtin_popcount((unsigned)(bytes[i] ^ expected));
    return bits;
}

static void test_corruption(void)
{
    struct store_inject_options faults = {.corrupt_every = 4, .bad_slot = 200};
    struct fixture f;
    struct store_io *io, *done;
    struct iovec iov[3];
    unsigned bits[8];

    set_up(&f, &faults);
    memset(f.pages, 0x5a, SLOTS * PAGE);
    is(transfer(&f, true, 1, 8), 0, "corruption: a write");
    for (unsigned i = 0; i < 8; i++) {
        memset(f.pages, 0, SLOTS * PAGE);
        io = request(&f, false, 1, 8);
        iov[0] = (struct iovec){f.pages + PAGE, 2 * PAGE};
        iov[1] = (struct iovec){f.pages + 3 * PAGE, PAGE};
        iov[2] = (struct iovec){f.pages + 4 * PAGE, 5 * PAGE};
        io->iov = iov;
        io->iovcnt = 3;
        submit(&f, io);
        is(f.store->ops->reap(f.queue, &done, 1, true), 1, "corruption: a read comes back");
        is(io->result, 0, "corruption: as if all were well");
        bits[i] = differing_bits(f.pages + PAGE, 8 * PAGE, 0x5a);
        is(transfer(&f, false, 200, 1), -EIO, "corruption: failed reads do not count");
    }
    ok(bits[0] + bits[1] + bits[2] + bits[4] + bits[5] + bits[6] == 0,
       "corruption: most reads are right");
    ok(bits[3] == 1 && bits[7] == 1, "corruption: every fourth has one wrong bit");
    tear_down(&f);
}

static void test_full(void)
{
    struct store_inject_options faults = {.full_after = 10};
    struct fixture f;

    set_up(&f, &faults);
    is(transfer(&f, true, 1, 4), 0, "full: 4 of 10 slots");
    is(transfer(&f, true, 5, 6), 0, "full: 10 of 10 slots");
    is(transfer(&f, true, 11, 1), -ENOSPC, "full: no more");
    is(transfer(&f, true, 1, 1), -ENOSPC, "full: not even an old one");
    is(transfer(&f, false, 1, 10), 0, "full: reads go on");
    tear_down(&f);
    set_up(&f, &faults);
    is(transfer(&f, true, 1, 11), -ENOSPC, "full: a write that does not fit fails whole");
    is(transfer(&f, true, 1, 1), -ENOSPC, "full: and every one after it");
    tear_down(&f);
}

static void test_bad_slots(void)
{
    struct store_inject_options faults = {.bad_slot = 20, .bad_write_slot = 30};
    struct fixture f;

    set_up(&f, &faults);
    is(transfer(&f, false, 20, 1), -EIO, "bad slot: cannot be read");
    is(transfer(&f, false, 13, 8), -EIO, "bad slot: nor in a run that ends with it");
    is(transfer(&f, false, 20, 8), -EIO, "bad slot: nor in one that begins with it");
    is(transfer(&f, false, 12, 8), 0, "bad slot: a run before it");
    is(transfer(&f, false, 21, 8), 0, "bad slot: a run after it");
    is(transfer(&f, true, 20, 1), 0, "bad slot: it can be written");
    is(transfer(&f, true, 30, 1), -EIO, "bad write slot: cannot be written");
    is(transfer(&f, true, 25, 8), -EIO, "bad write slot: nor in a run");
    is(transfer(&f, false, 25, 8), 0, "bad write slot: it can be read");
    tear_down(&f);
}

/* ---- many threads ---- */

#define THREADS 4
#define READS 250u

struct reader {
    struct store *store;
    unsigned failed, lost;
};

static void *reader_run(void *argument)
{
    struct reader *reader = argument;
    struct store_queue *queue;
    struct store_io ios[READS] = {0}, *list[READS], *done[READS];
    void *page = aligned_alloc(PAGE, PAGE);
    struct iovec iov = {page, PAGE};
    unsigned got = 0, n;

    reader->lost = READS;
    if (page == NULL || reader->store->ops->queue_open(reader->store, 8, &queue) != 0)
        return NULL;
    for (unsigned i = 0; i < READS; i++) {
        ios[i] = (struct store_io){.slot = 1 + i % 100, .count = 1, .iovcnt = 1, .iov = &iov};
        list[i] = &ios[i];
    }
    reader->store->ops->submit(queue, list, READS);
    while (got < READS && (n = reader->store->ops->reap(queue, done, 50, true)) > 0) {
        got += n;
        for (unsigned i = 0; i < n; i++)
            reader->failed += done[i]->result == -EIO;
    }
    reader->lost = READS - got;
    reader->store->ops->queue_close(queue);
    free(page);
    return NULL;
}

static void test_threads(void)
{
    struct store_inject_options faults = {.read_error_every = 10, .delay_ns = MS};
    struct reader readers[THREADS] = {0};
    pthread_t threads[THREADS];
    struct fixture f;
    unsigned failed = 0, lost = 0;

    set_up(&f, &faults);
    for (unsigned i = 0; i < THREADS; i++) {
        readers[i].store = f.store;
        if (pthread_create(&threads[i], NULL, reader_run, &readers[i]) != 0)
            exit(1);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        failed += readers[i].failed;
        lost += readers[i].lost;
    }
    is(lost, 0, "%d threads: every request comes back", THREADS);
    is(failed, THREADS * READS / 10, "%d threads: one read in ten fails, counted over all",
       THREADS);
    tear_down(&f);
}

static void test_descriptors(void)
{
    struct store_inject_options none = {0};
    struct rlimit before, few;
    struct store_queue *queue;
    struct fixture f;
    int next, needed;

    set_up(&f, &none);
    needed = strstr(f.store->how, "io_uring") != NULL ? 3 : 2;
    next = dup(0);
    close(next);
    getrlimit(RLIMIT_NOFILE, &before);
    for (int spare = 0; spare < needed; spare++) {
        few = before;
        few.rlim_cur = (rlim_t)next + (rlim_t)spare;
        setrlimit(RLIMIT_NOFILE, &few);
        is(f.store->ops->queue_open(f.store, 4, &queue), -EMFILE, "%d descriptors are too few",
           spare);
        ok(strstr(error_last(), "ulimit -n") != NULL, "in words");
    }
    setrlimit(RLIMIT_NOFILE, &before);
    tear_down(&f);
}

int main(void)
{
    test_plain();
    test_growth();
    test_delay("a ring inside");
    test_jitter("a ring inside");
    test_delayed_errors("a ring inside");
    test_poll("a ring inside");
    test_read_errors();
    test_write_errors();
    test_corruption();
    test_full();
    test_bad_slots();
    test_threads();
    test_descriptors();
    if (forbid_io_uring()) {
        test_delay("no ring inside");
        test_jitter("no ring inside");
        test_delayed_errors("no ring inside");
        test_poll("no ring inside");
        test_threads();
    } else {
        skip("no ring inside: seccomp is not available");
    }
    return done_testing();
}
