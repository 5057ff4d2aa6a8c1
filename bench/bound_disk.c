/* The disk, by io_uring and O_DIRECT, into buffers that lie in one piece. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bound.h"
#include "draw.h"

#define BLOCK ((size_t)1 << 20)
#define BLOCK_PAGES (BLOCK / BOUND_PAGE)
#define DEPTH 4u
#define DEPTH_MOST 32u
#define RUN_BYTES ((size_t)64 << 10)
#define RUN_DEPTH 2u
#define PAIRS 200u
#define RANDOM_PART 4 /* random reads take a part of `seconds` at each depth */

struct queue {
    struct io_uring ring;
    int file;
    char *buffers; /* `depth` of `block` bytes */
    size_t block;
    unsigned depth;
};

static int queue_open(struct queue *q, int file, size_t block, unsigned depth)
{
    int error;

    *q = (struct queue){.file = file, .block = block, .depth = depth};
    q->buffers = buffer_make(block * depth);
    if (q->buffers == NULL)
        return -ENOMEM;
    error = io_uring_queue_init(depth, &q->ring, 0);
    if (error < 0) {
        fprintf(stderr, "bound: io_uring cannot be used: %s\n", strerror(-error));
        buffer_free(q->buffers, block * depth);
    }
    return error;
}

static void queue_close(struct queue *q)
{
    io_uring_queue_exit(&q->ring);
    buffer_free(q->buffers, q->block * q->depth);
}

/* Of `length` bytes, by buffer n. */
static void request_send(struct queue *q, unsigned n, size_t length, bool write, uint64_t offset)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);
    char *buffer = q->buffers + n * q->block;

    if (write)
        io_uring_prep_write(sqe, q->file, buffer, (unsigned)length, offset);
    else
        io_uring_prep_read(sqe, q->file, buffer, (unsigned)length, offset);
    io_uring_sqe_set_data64(sqe, (uint64_t)length << 32 | n);
}

/* Wait for one; the number of its buffer, or a negative errno. */
static int request_reap(struct queue *q)
{
    struct io_uring_cqe *cqe;
    int error = io_uring_submit_and_wait(&q->ring, 1), n;
    uint64_t data;

    if (error < 0 && error != -EINTR)
        return error;
    do
        error = io_uring_wait_cqe(&q->ring, &cqe);
    while (error == -EINTR);
    if (error < 0)
        return error;
    data = io_uring_cqe_get_data64(cqe);
    n = (int)(uint32_t)data;
    error = cqe->res < 0 ? cqe->res : (uint64_t)cqe->res != data >> 32 ? -EIO : n;
    io_uring_cqe_seen(&q->ring, cqe);
    return error;
}

/* Content that no disk can make smaller; each page begins with its number's word. */
static void block_stamp(char *block, uint64_t page)
{
    for (uint64_t i = 0; i < BLOCK_PAGES; i++) {
        uint64_t word = bound_word(page + i);

        memcpy(block + i * BOUND_PAGE, &word, sizeof(word));
    }
}

static void blocks_fill(struct queue *q)
{
    uint64_t *words = (uint64_t *)(void *)q->buffers, random = 1;

    for (size_t i = 0; i < q->block * q->depth / sizeof(*words); i++)
        words[i] = random_next(&random);
}

/* The whole file once. */
static int sequence_measure(struct bound *b, bool write)
{
    uint64_t blocks = b->options.region / BLOCK, sent = 0, done = 0;
    double begin, cpu, pages = (double)(blocks * BLOCK_PAGES);
    struct queue q;
    int n = queue_open(&q, b->file, BLOCK, DEPTH);

    if (n < 0)
        return n;
    blocks_fill(&q);
    begin = seconds_now();
    cpu = cpu_now();
    while (done < blocks && n >= 0) {
        if (sent < blocks && sent < DEPTH)
            n = (int)sent;
        else if ((n = request_reap(&q)) >= 0)
            done++;
        if (n < 0 || sent == blocks)
            continue;
        if (write)
            block_stamp(q.buffers + (size_t)n * BLOCK, sent * BLOCK_PAGES);
        request_send(&q, (unsigned)n, BLOCK, write, sent++ * BLOCK);
    }
    if (n >= 0) {
        bound_put(b, write ? BOUND_WRITE : BOUND_READ,
                  (double)(blocks * BLOCK) / (seconds_now() - begin));
        bound_put(b, write ? BOUND_WRITE_CPU : BOUND_READ_CPU, (cpu_now() - cpu) / pages);
    }
    queue_close(&q);
    return n < 0 ? n : 0;
}

static int random_measure(struct bound *b, enum bound_figure figure, unsigned depth)
{
    uint64_t pages = b->options.region / BOUND_PAGE, random = depth, done = 0;
    double begin, end, cpu;
    struct queue q;
    int n = queue_open(&q, b->file, BOUND_PAGE, depth);

    if (n < 0)
        return n;
    for (unsigned i = 0; i < depth; i++)
        request_send(&q, i, BOUND_PAGE, false, random_below(&random, pages) * BOUND_PAGE);
    begin = seconds_now();
    cpu = cpu_now();
    do {
        n = request_reap(&q);
        if (n >= 0)
            request_send(&q, (unsigned)n, BOUND_PAGE, false,
                         random_below(&random, pages) * BOUND_PAGE);
        done++;
        end = seconds_now();
    } while (n >= 0 && end - begin < b->options.seconds / RANDOM_PART);
    cpu = cpu_now() - cpu;
    /* The buffers are theirs until they have come. */
    for (unsigned i = 0; i < depth && n >= 0; i++)
        n = request_reap(&q);
    if (n >= 0) {
        bound_put(b, figure, (double)done / (end - begin));
        if (depth == DEPTH_MOST)
            bound_put(b, BOUND_RANDOM_CPU, cpu / (double)done);
    }
    queue_close(&q);
    return n < 0 ? n : 0;
}

/* How long a page's read takes if nothing is sent after it, or a block's: does the disk tell of what
 * is done, or only when all is? */
static int pair_measure(struct bound *b, enum bound_figure figure, bool block)
{
    uint64_t blocks = b->options.region / BLOCK, random = 1;
    double seconds = 0;
    struct queue q;
    int n = queue_open(&q, b->file, BLOCK, 2);

    if (n < 0)
        return n;
    for (unsigned i = 0; i < PAIRS && n >= 0; i++) {
        double begin = seconds_now();

        request_send(&q, 0, BOUND_PAGE, false, random_below(&random, blocks) * BLOCK);
        io_uring_submit(&q.ring);
        if (block)
            request_send(&q, 1, BLOCK, false, random_below(&random, blocks) * BLOCK);
        for (unsigned left = 1 + block; left > 0 && n >= 0; left--) {
            n = request_reap(&q);
            if (n == 0)
                seconds += seconds_now() - begin;
        }
    }
    if (n >= 0)
        bound_put(b, figure, seconds / PAIRS);
    queue_close(&q);
    return n < 0 ? n : 0;
}

static void run_send(struct queue *q, unsigned n, uint64_t runs, uint64_t *random)
{
    request_send(q, n, RUN_BYTES, false, random_below(random, runs) * RUN_BYTES);
}

/* Runs at random, as two threads read them; for each `reads_a_write` of them (0: never) a block is
 * written beside them, one at a time. Only the bytes read count. */
static int runs_measure(struct bound *b, enum bound_figure figure, unsigned reads_a_write)
{
    uint64_t runs = b->options.region / RUN_BYTES, blocks = b->options.region / BLOCK;
    uint64_t random = 1, reads = 0, writes = 0;
    double begin, end, cpu;
    bool writing = false;
    struct queue q;
    int n = queue_open(&q, b->file, BLOCK, RUN_DEPTH + 1);

    if (n < 0)
        return n;
    blocks_fill(&q);
    for (unsigned i = 0; i < RUN_DEPTH; i++)
        run_send(&q, i, runs, &random);
    begin = seconds_now();
    cpu = cpu_now();
    do {
        n = request_reap(&q);
        if (n == (int)RUN_DEPTH) {
            writing = false;
        } else if (n >= 0) {
            reads++;
            run_send(&q, (unsigned)n, runs, &random);
        }
        if (n >= 0 && !writing && reads_a_write > 0 && reads > (writes + 1) * reads_a_write) {
            uint64_t block = random_below(&random, blocks);

            block_stamp(q.buffers + RUN_DEPTH * BLOCK, block * BLOCK_PAGES);
            request_send(&q, RUN_DEPTH, BLOCK, true, block * BLOCK);
            writing = true;
            writes++;
        }
        end = seconds_now();
    } while (n >= 0 && end - begin < b->options.seconds / RANDOM_PART);
    cpu = cpu_now() - cpu;
    /* The buffers are theirs until they have come. */
    for (unsigned i = 0; i < RUN_DEPTH + writing && n >= 0; i++)
        n = request_reap(&q);
    if (n >= 0) {
        bound_put(b, figure, (double)(reads * RUN_BYTES) / (end - begin));
        if (reads_a_write == 0)
            bound_put(b, BOUND_RUN_CPU, cpu / (double)(reads * RUN_BYTES / BOUND_PAGE));
    }
    queue_close(&q);
    return n < 0 ? n : 0;
}

static int file_make(const struct bound *b, int *file)
{
    char *name;
    int error;

    if (asprintf(&name, "%s/vmsm-bound-XXXXXX", b->options.dir) < 0)
        return -ENOMEM;
    *file = mkostemp(name, O_CLOEXEC | O_DIRECT);
    error = *file < 0 ? -errno : 0;
    if (error == 0) {
        unlink(name);
        error = -posix_fallocate(*file, 0, (off_t)b->options.region);
    }
    free(name);
    return error;
}

int bound_disk_open(struct bound *b)
{
    int error = file_make(b, &b->content);

    /* Extents that were never written cost nothing to read, and more to write. */
    b->file = b->content;
    if (error == 0)
        error = sequence_measure(b, true);
    if (error == 0)
        error = file_make(b, &b->file);
    if (error == 0)
        error = sequence_measure(b, true);
    if (error < 0)
        fprintf(stderr,
                "bound: cannot make and fill two files of %llu MiB for O_DIRECT in %s: %s\n",
                (unsigned long long)(b->options.region >> 20), b->options.dir, strerror(-error));
    return error;
}

int bound_disk(struct bound *b)
{
    static const struct {
        enum bound_figure figure;
        unsigned depth;
    } depths[] = {{BOUND_RANDOM_1, 1},
                  {BOUND_RANDOM_2, 2},
                  {BOUND_RANDOM_8, 8},
                  {BOUND_RANDOM_16, 16},
                  {BOUND_RANDOM_32, DEPTH_MOST}};
    int error = sequence_measure(b, true);

    if (error == 0)
        error = sequence_measure(b, false);
    for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]) && error == 0; i++)
        error = random_measure(b, depths[i].figure, depths[i].depth);
    if (error == 0)
        error = pair_measure(b, BOUND_READ_ALONE, false);
    if (error == 0)
        error = pair_measure(b, BOUND_READ_BEFORE, true);
    if (error == 0)
        error = runs_measure(b, BOUND_RUN, 0);
    if (error == 0)
        error = runs_measure(b, BOUND_RUN_W10, 128);
    if (error == 0)
        error = runs_measure(b, BOUND_RUN_W50, 28);
    if (error < 0)
        fprintf(stderr, "bound: the disk could not be measured: %s\n", strerror(-error));
    return error;
}
