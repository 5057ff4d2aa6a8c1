/* A thread that takes faults from a userfaultfd and reads what they ask for by io_uring. */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bound.h"

#define MARK_FAULTS 1000u /* what a completion is, if not a read's slot */
#define MARK_STOP 1001u

struct handler {
    const struct handler_job *job;
    pthread_t thread;
    struct io_uring ring;
    int stop;      /* eventfd */
    char *buffers; /* one for each slot */
    unsigned spare[HANDLER_READS], spare_count;
    size_t lengths[HANDLER_READS]; /* bytes that each slot's read is for */
};

static char *slot_buffer(const struct handler *h, unsigned slot)
{
    return h->buffers + slot * h->job->most * BOUND_PAGE;
}

static void watch_send(struct handler *h, int fd, unsigned mark)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&h->ring);

    io_uring_prep_poll_add(sqe, fd, POLLIN);
    io_uring_sqe_set_data64(sqe, mark);
}

/* Send a read for each fault that waits for one. */
static void faults_take(struct handler *h)
{
    size_t pages[HANDLER_READS];
    unsigned count = range_faults(h->job->range, pages, h->spare_count);

    for (unsigned i = 0; i < count; i++) {
        unsigned slot = h->spare[h->spare_count - 1];
        struct handler_read read;
        struct io_uring_sqe *sqe;

        if (!h->job->take(pages[i], slot, &read))
            continue;
        h->spare_count--;
        h->lengths[slot] = read.count * BOUND_PAGE;
        sqe = io_uring_get_sqe(&h->ring);
        io_uring_prep_read(sqe, h->job->file, slot_buffer(h, slot), (unsigned)h->lengths[slot],
                           read.page * BOUND_PAGE);
        io_uring_sqe_set_data64(sqe, slot);
    }
}

/* True: the faults' descriptor has something. */
static bool completions_take(struct handler *h, bool *stopped)
{
    struct io_uring_cqe *cqe;
    bool faults = false;

    while (io_uring_peek_cqe(&h->ring, &cqe) == 0) {
        unsigned slot = (unsigned)io_uring_cqe_get_data64(cqe);
        int result = cqe->res;

        io_uring_cqe_seen(&h->ring, cqe);
        if (slot == MARK_STOP) {
            *stopped = true;
        } else if (slot == MARK_FAULTS) {
            faults = true;
        } else {
            if (result != (int)h->lengths[slot])
                h->job->fail(result < 0 ? result : -EIO);
            h->job->answer(slot, slot_buffer(h, slot));
            h->spare[h->spare_count++] = slot;
        }
    }
    return faults;
}

static void *handler_main(void *argument)
{
    struct handler *h = argument;
    bool stopped = false, polls = h->job->polls;

    watch_send(h, h->stop, MARK_STOP);
    if (!polls)
        watch_send(h, h->job->range->fd, MARK_FAULTS);
    while (!stopped || h->spare_count < HANDLER_READS) {
        if (polls)
            io_uring_submit(&h->ring);
        else
            io_uring_submit_and_wait(&h->ring, 1);
        if (completions_take(h, &stopped))
            watch_send(h, h->job->range->fd, MARK_FAULTS);
        else if (!polls)
            continue;
        faults_take(h);
    }
    return NULL;
}

static void handler_free(struct handler *h)
{
    if (h->stop >= 0)
        close(h->stop);
    buffer_free(h->buffers, HANDLER_READS * h->job->most * BOUND_PAGE);
    free(h);
}

int handler_start(struct handler **out, const struct handler_job *job)
{
    struct handler *h = calloc(1, sizeof(*h));
    int error;

    if (h == NULL)
        return -ENOMEM;
    h->job = job;
    h->spare_count = HANDLER_READS;
    for (unsigned i = 0; i < HANDLER_READS; i++)
        h->spare[i] = i;
    h->stop = eventfd(0, EFD_CLOEXEC);
    h->buffers = buffer_make(HANDLER_READS * job->most * BOUND_PAGE);
    error = h->stop < 0 || h->buffers == NULL ? -ENOMEM
                                              : io_uring_queue_init(2 * HANDLER_READS, &h->ring, 0);
    if (error < 0)
        goto failed;
    error = -pthread_create(&h->thread, NULL, handler_main, h);
    if (error == 0) {
        *out = h;
        return 0;
    }
    io_uring_queue_exit(&h->ring);
failed:
    handler_free(h);
    return error;
}

void handler_stop(struct handler *h)
{
    uint64_t one = 1;

    if (write(h->stop, &one, sizeof(one)) == (ssize_t)sizeof(one))
        pthread_join(h->thread, NULL);
    io_uring_queue_exit(&h->ring);
    handler_free(h);
}
