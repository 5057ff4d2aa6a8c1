/*
 * Vectors of random pages, as vmsm_prefault() brings them in: one thread sends a read for each that
 * is missing, and when all are there touches all.
 *
 * A disk may tell of nothing before all that it has been sent is done, as this one's queue does
 * (BOUND_READ_BEFORE). So reads go in groups: when one is back the next is sent, and while that is
 * read, the one before is mapped.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bound_cell.h"
#include "content.h"

#define VECTOR 64u
#define WARM_UP_PART 5 /* of the measured time */
#define GROUP 24u
#define STEP 4u /* reads that are sent with one call, so that the disk begins early */

struct prefault {
    struct stock *stock;
    struct io_uring ring;
    bool fixed; /* file and buffers are registered */
    char *buffers;
    struct content content;
    uint64_t random, wrong;
    size_t pages[VECTOR];
    struct stock_claim claims[VECTOR]; /* of those that are missing */
    unsigned count;
};

static void prefault_close(struct prefault *p)
{
    io_uring_queue_exit(&p->ring);
    buffer_free(p->buffers, VECTOR * (size_t)BOUND_PAGE);
}

static int prefault_open(struct prefault *p, struct stock *stock, enum bound_prefault how,
                         unsigned seed)
{
    struct iovec all = {.iov_len = VECTOR * (size_t)BOUND_PAGE};
    int error;

    *p = (struct prefault){.stock = stock,
                           .fixed = how == PREFAULT_FIXED,
                           .buffers = buffer_make(all.iov_len),
                           .content = {.cycle = permutation_make(stock->range.pages)},
                           .random = mix(seed)};
    if (p->buffers == NULL)
        return -ENOMEM;
    all.iov_base = p->buffers;
    error = io_uring_queue_init(VECTOR, &p->ring, 0);
    if (error < 0) {
        buffer_free(p->buffers, all.iov_len);
        return error;
    }
    if (p->fixed)
        error = io_uring_register_buffers(&p->ring, &all, 1);
    if (p->fixed && error == 0)
        error = io_uring_register_files(&p->ring, &stock->file, 1);
    if (error < 0)
        prefault_close(p);
    return error;
}

static void read_send(struct prefault *p, unsigned i)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&p->ring);
    char *buffer = p->buffers + i * (size_t)BOUND_PAGE;
    uint64_t offset = p->claims[i].page * BOUND_PAGE;

    if (p->fixed) {
        io_uring_prep_read_fixed(sqe, 0, buffer, BOUND_PAGE, offset, 0);
        io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    } else {
        io_uring_prep_read(sqe, p->stock->file, buffer, BOUND_PAGE, offset);
    }
    io_uring_sqe_set_data64(sqe, i);
}

/* A page that is on its way out comes back when it is touched, by a fault. */
static void vector_claim(struct prefault *p)
{
    p->count = 0;
    for (unsigned i = 0; i < VECTOR; i++) {
        size_t page = random_below(&p->random, p->stock->range.pages);

        p->pages[i] = page;
        if (stock_claim(p->stock, page, page, page + 1, &p->claims[p->count]) == STOCK_READ)
            p->count++;
    }
}

/* Of the missing, those after the first `sent`; how many are sent now. */
static unsigned group_send(struct prefault *p, unsigned sent)
{
    unsigned end = sent + GROUP < p->count ? sent + GROUP : p->count;

    for (; sent < end; sent++) {
        read_send(p, sent);
        if (sent % STEP == STEP - 1)
            io_uring_submit(&p->ring);
    }
    io_uring_submit(&p->ring);
    return sent;
}

static void group_wait(struct prefault *p, unsigned count)
{
    while (count > 0) {
        struct io_uring_cqe *cqe;

        if (io_uring_wait_cqe_nr(&p->ring, &cqe, count) < 0)
            continue;
        if (cqe->res != (int)BOUND_PAGE)
            stock_fail(cqe->res < 0 ? cqe->res : -EIO);
        io_uring_cqe_seen(&p->ring, cqe);
        count--;
    }
}

static void vector_check(struct prefault *p)
{
    for (unsigned i = 0; i < VECTOR; i++) {
        size_t page = p->pages[i];
        const uint64_t *words =
            (const uint64_t *)(const void *)(p->stock->range.base + page * BOUND_PAGE);

        p->wrong += !page_verify(&p->content, words, page, p->stock->generations[page]);
    }
}

static void vector_take(struct prefault *p)
{
    unsigned mapped = 0, sent;

    vector_claim(p);
    sent = group_send(p, 0);
    while (mapped < p->count) {
        unsigned back = sent;

        group_wait(p, sent - mapped);
        sent = group_send(p, sent);
        for (; mapped < back; mapped++)
            stock_put(p->stock, &p->claims[mapped], p->buffers + mapped * (size_t)BOUND_PAGE);
    }
    vector_check(p);
}

static void vectors_take(struct prefault *p, double seconds)
{
    double until = seconds_now() + seconds;

    while (seconds_now() < until)
        vector_take(p);
}

static int prefault_measure(struct bound *b, struct stock *stock, enum bound_prefault how)
{
    struct bound_speed *speed = &b->prefaults[how];
    uint64_t in;
    struct prefault p;
    double begin, cpu;
    int error = prefault_open(&p, stock, how, b->round + 1);

    if (error < 0)
        return error;
    vectors_take(&p, b->options.seconds / WARM_UP_PART);
    in = stock_count(stock).in;
    begin = seconds_now();
    cpu = cpu_now();
    vectors_take(&p, b->options.seconds);
    in = stock_count(stock).in - in;
    speed->rate.rounds[b->round] = (double)in / (seconds_now() - begin);
    speed->cpu.rounds[b->round] = in > 0 ? (cpu_now() - cpu) / (double)in : NAN;
    b->wrong = b->wrong || p.wrong > 0;
    prefault_close(&p);
    return 0;
}

int bound_prefault(struct bound *b, struct stock *stock)
{
    int error = 0;

    for (enum bound_prefault how = 0; how < BOUND_PREFAULTS && error == 0; how++)
        error = prefault_measure(b, stock, how);
    return error;
}
