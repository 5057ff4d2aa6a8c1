/*
 * Requests of the store `file`: through io_uring, or with pread and pwrite
 * where that is forbidden.
 *
 * A request is in one place at a time:
 *
 *   waiting ──▶ ring: written into the submission ring, then with the kernel
 *      ▲          │ completed
 *      └──────────┤ short transfer, EINTR, EAGAIN, ENOMEM: sent again for the rest
 *                 ▼
 *   ready ──▶ handed out by reap() (those from the ring go there directly)
 *
 * `sent` counts the requests in the ring, and never exceeds `depth`, which is
 * no more than the ring holds: neither of its halves can overflow.
 *
 * A queue without a ring transfers everything in submit(). So does, from then
 * on, a queue whose ring is refused (by a seccomp filter of the program's, say),
 * with what the kernel does not have: what it has still comes back by the ring's
 * memory, and its descriptor tells of it. If the program has closed our
 * descriptors, the requests get the error instead.
 *
 * Nothing here allocates or locks after file_queue_open(): it runs in fault
 * and signal handlers.
 */
#include <errno.h>
#include <liburing.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "store/file.h"

#define DEPTH_MAX 4096u
#define IO_SLOTS_MAX (1u << 19) /* 2 GiB, what the kernel transfers at once */
#define PIECE_MAX (1u << 30)    /* one buffer, one transfer */
#define SEND_MAX 8u             /* sendings without progress */
#define NO_MEMORY_TRIES 10000u  /* of 1 ms each, when the kernel has no memory for a request */
#define NS_PER_MS 1000000L

/*
 * liburing maps and unmaps rings out of the thread sanitizer's sight; it must be told
 * that the memory of a closed one may come back as another thread's.
 */
#if defined(__SANITIZE_THREAD__)
#define RINGS_TRACED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RINGS_TRACED 1
#endif
#endif
#ifdef RINGS_TRACED
#include <sanitizer/tsan_interface.h>
static char rings;
#define TRACE_RING_OPENED() __tsan_acquire(&rings)
#define TRACE_RING_CLOSING() __tsan_release(&rings)
#else
#define TRACE_RING_OPENED() ((void)0)
#define TRACE_RING_CLOSING() ((void)0)
#endif

/* Requests in the order they were added. */
struct io_list {
    struct store_io *first, *last;
};

struct file_queue {
    struct file_store *store;
    bool has_ring;
    bool fixed;     /* the file is registered with the ring */
    bool stopped;   /* the ring takes no more requests */
    int gone;       /* why they cannot be done without it either, or 0 */
    unsigned depth; /* most requests in the ring */
    unsigned sent;  /* requests in the ring */
    /* Buffered writes: the kernel has told of an error (once, for the whole file), which may be
     * that of any of so many requests that it had then. (The owner's, as all here.) */
    unsigned doubtful;
    int doubt;
    struct io_list waiting, ready;
    struct io_uring ring;
};

static struct file_queue *queue_of(struct store_queue *queue)
{
    return (struct file_queue *)(void *)queue;
}

static void list_append(struct io_list *list, struct store_io *io)
{
    io->next = NULL;
    if (list->first == NULL)
        list->first = io;
    else
        list->last->next = io;
    list->last = io;
}

static void list_prepend(struct io_list *list, struct store_io *io)
{
    io->next = list->first;
    list->first = io;
    if (io->next == NULL)
        list->last = io;
}

static struct store_io *list_take(struct io_list *list)
{
    struct store_io *io = list->first;

    if (io != NULL)
        list->first = io->next;
    return io;
}

/* What is left of a request: some whole buffers, or the rest of one. */
struct piece {
    struct iovec *iov; /* whole buffers from here on, */
    unsigned count;    /* so many; or, if 0, */
    char *base;        /* the rest of the one */
    unsigned length;
    uint64_t offset; /* in the file */
};

static struct piece io_piece(const struct store_io *io)
{
    struct piece piece = {.offset = io->slot * SLOT_SIZE + io->done};
    size_t skip = io->done;
    int i = 0, left;

    while (i < io->iovcnt && skip >= io->iov[i].iov_len)
        skip -= io->iov[i++].iov_len;
    left = io->iovcnt - i;
    piece.iov = io->iov + i;
    piece.count = (unsigned)(left < IOV_MAX ? left : IOV_MAX);
    if (piece.count == 1 || (skip > 0 && piece.count > 0)) {
        size_t length = piece.iov->iov_len - skip;

        piece.base = (char *)piece.iov->iov_base + skip;
        piece.length = (unsigned)(length < PIECE_MAX ? length : PIECE_MAX);
        piece.count = 0;
    }
    return piece;
}

static bool io_valid(const struct store_io *io)
{
    return io->count >= 1 && io->count <= IO_SLOTS_MAX && io->iovcnt >= 1;
}

static bool send_again(int res)
{
    /* ECANCELED: the thread that sent it ended meanwhile. ENOMEM: at the moment. */
    return res == -EINTR || res == -EAGAIN || res == -ECANCELED || res == -ENOMEM;
}

/*
 * What a transfer's outcome means: true if the request is finished, its result
 * set. Progress is kept in whole slots, so that the rest is aligned as O_DIRECT
 * wants it. A read that meets the end of the file finds no progress: -EIO.
 */
static bool io_settle(struct store_io *io, int res)
{
    uint32_t whole = res > 0 ? (uint32_t)res & ~(SLOT_SIZE - 1) : 0;

    if (res < 0 && (!send_again(res) || io->attempts >= SEND_MAX)) {
        io->result = res;
        return true;
    }
    if (whole > 0) {
        io->done += whole;
        io->attempts = 0;
    }
    if (io->done >= io->count * SLOT_SIZE) {
        io->result = 0;
        return true;
    }
    if (io->attempts >= SEND_MAX || (res == 0 && !io->write)) {
        io->result = -EIO;
        return true;
    }
    return false;
}

static ssize_t transfer_piece(int fd, const struct piece *piece, bool write)
{
    off_t offset = (off_t)piece->offset;

    if (piece->count > 0 && write)
        return pwritev(fd, piece->iov, (int)piece->count, offset);
    if (piece->count > 0)
        return preadv(fd, piece->iov, (int)piece->count, offset);
    if (write)
        return pwrite(fd, piece->base, piece->length, offset);
    return pread(fd, piece->base, piece->length, offset);
}

/* Is it that the file cannot do that? */
static bool is_not_supported(int error)
{
    return error == ESPIPE || error == EINVAL || error == ENOSYS || error == EPERM;
}

/*
 * A write by way of the kernel's cache goes on to the disk before it is done. Else a control group
 * fills with pages that cannot be reclaimed, and version 1 kills its processes for it; and a page
 * that the disk refuses would be lost unseen.
 */
static void write_out(const struct file_store *store, struct store_io *io)
{
    unsigned flags =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    int error;

    if (store->direct || !io->write || io->result != 0)
        return;
    do
        error = sync_file_range(store->path.fd, (off_t)(io->slot * SLOT_SIZE),
                                (off_t)io->count * SLOT_SIZE, flags) == 0
                    ? 0
                    : errno;
    while (error == EINTR);
    if (!is_not_supported(error))
        io->result = -error;
}

static void pause_1ms(void)
{
    nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
}

/*
 * Do all (or the rest) of a request here and now. A control group that is full for a moment is no
 * fault of the disk's: what finds no memory waits, and a page is not lost for it.
 */
static void transfer_now(const struct file_store *store, struct store_io *io)
{
    struct piece piece;
    unsigned tries = 0;
    int res;

    if (!io_valid(io)) {
        io->result = -EINVAL;
        return;
    }
    io->attempts = 0;
    do {
        piece = io_piece(io);
        do
            res = (int)transfer_piece(store->path.fd, &piece, io->write);
        while (res < 0 && errno == EINTR);
        if (res < 0)
            res = -errno;
        if (res == -ENOMEM && ++tries < NO_MEMORY_TRIES)
            pause_1ms();
        else
            io->attempts++;
    } while (!io_settle(io, res));
}

/* A buffered write is complete: is it on the disk? Without doubt, or it is written once more. In
 * doubt is only what the kernel may have had in the ring then. */
static void queue_write_out(struct file_queue *queue, struct store_io *io, bool by_ring)
{
    bool written = io->write && io->result == 0;

    write_out(queue->store, io);
    if (written && io->result != 0) {
        queue->doubt = io->result;
        queue->doubtful = queue->sent;
    } else if (by_ring && queue->doubtful > 0) {
        queue->doubtful--;
        if (written)
            io->result = queue->doubt;
    }
}

/* Do a request, or the rest of it, without the ring. */
static void do_here(struct file_queue *queue, struct store_io *io, bool by_ring)
{
    if (queue->gone != 0) {
        io->result = queue->gone;
        return;
    }
    transfer_now(queue->store, io);
    queue_write_out(queue, io, by_ring);
}

static void ring_prepare(struct file_queue *queue, struct store_io *io, struct io_uring_sqe *sqe)
{
    struct piece piece;
    int fd = queue->fixed ? 0 : queue->store->path.fd;

    if (!io_valid(io)) {
        io->result = -EINVAL;
        io_uring_prep_nop(sqe); /* so that the ring's descriptor tells of it */
        io_uring_sqe_set_data(sqe, io);
        return;
    }
    piece = io_piece(io);
    if (piece.count > 0 && io->write)
        io_uring_prep_writev(sqe, fd, piece.iov, piece.count, piece.offset);
    else if (piece.count > 0)
        io_uring_prep_readv(sqe, fd, piece.iov, piece.count, piece.offset);
    else if (io->write)
        io_uring_prep_write(sqe, fd, piece.base, piece.length, piece.offset);
    else
        io_uring_prep_read(sqe, fd, piece.base, piece.length, piece.offset);
    if (queue->fixed)
        io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data(sqe, io);
    io->attempts++;
}

/* Is our descriptor still the pagefile's? Else we would write into a file of the program's. */
static bool file_is_there(const struct file_path *path)
{
    struct stat st;

    if (fstat(path->fd, &st) != 0)
        return errno != EBADF; /* this may be refused, too */
    return st.st_dev == path->device && st.st_ino == path->inode;
}

static void warn_ring_refused(struct file_store *store, int code)
{
    if (!atomic_exchange(&store->warned, true))
        log_line(
            LOG_ADVICE,
            "pagefile %s: from now on io_uring is refused (error %d), so each thread reads and "
            "writes one run of pages at a time, slower; if a seccomp filter of the program's "
            "does it, let that allow io_uring_enter",
            store->base.where, -code);
}

/* The ring takes no more: do here what the kernel has not taken. */
static void ring_stop(struct file_queue *queue, int code)
{
    const struct io_uring_sq *sq = &queue->ring.sq;
    bool closed = code == -EBADF || code == -EOPNOTSUPP; /* it may be another file's by now */
    struct store_io *io;

    queue->stopped = true;
    if (closed || !file_is_there(&queue->store->path))
        queue->gone = code;
    else
        warn_ring_refused(queue->store, code);
    for (unsigned i = *sq->khead; i != sq->sqe_tail; i++) {
        io = (struct store_io *)(uintptr_t)sq->sqes[i & sq->ring_mask].user_data;
        queue->sent--;
        do_here(queue, io, false);
        list_append(&queue->ready, io);
    }
    while ((io = list_take(&queue->waiting)) != NULL) {
        do_here(queue, io, false);
        list_append(&queue->ready, io);
    }
}

/* Hand to the kernel what is in the ring. */
static void ring_flush(struct file_queue *queue)
{
    unsigned tries = 0, pending;
    int res;

    while (!queue->stopped && (pending = io_uring_sq_ready(&queue->ring)) > 0) {
        res = io_uring_submit(&queue->ring);
        if (res > 0) {
            tries = 0;
            continue;
        }
        if (res == -EINTR)
            continue;
        if (res != 0 && res != -EAGAIN && res != -EBUSY) {
            ring_stop(queue, res);
        } else if (queue->sent > pending) {
            return; /* the kernel has some of ours: reap() tries again when one is complete */
        } else if (++tries == NO_MEMORY_TRIES) {
            ring_stop(queue, res == 0 ? -EAGAIN : res);
        } else {
            pause_1ms();
        }
    }
}

/* Send what waits, as far as the ring has room. */
static void ring_send(struct file_queue *queue)
{
    struct io_uring_sqe *sqe;

    while (!queue->stopped && queue->waiting.first != NULL && queue->sent < queue->depth) {
        sqe = io_uring_get_sqe(&queue->ring);
        if (sqe == NULL)
            break;
        ring_prepare(queue, list_take(&queue->waiting), sqe);
        queue->sent++;
    }
    ring_flush(queue);
}

/* Take a completion: true if its request is finished, else it waits to be sent again. */
static bool ring_settle(struct file_queue *queue, struct store_io *io, int res)
{
    queue->sent--;
    if (!io_valid(io))
        return true; /* it was refused */
    if (send_again(res) && io->attempts >= SEND_MAX) {
        do_here(queue, io, true);
        return true;
    }
    if (io_settle(io, res)) {
        queue_write_out(queue, io, true);
        return true;
    }
    if (queue->stopped) {
        do_here(queue, io, true);
        return true;
    }
    list_prepend(&queue->waiting, io);
    return false;
}

/* Completed requests, without sleeping. */
static unsigned ring_harvest(struct file_queue *queue, struct store_io **done, unsigned max)
{
    struct io_uring_cqe *cqe;
    struct store_io *io;
    unsigned n = 0;
    int res;

    while (n < max && queue->sent > 0 && io_uring_peek_cqe(&queue->ring, &cqe) == 0) {
        io = io_uring_cqe_get_data(cqe);
        res = cqe->res;
        io_uring_cqe_seen(&queue->ring, cqe);
        if (ring_settle(queue, io, res))
            done[n++] = io;
    }
    return n;
}

/* Sleep until the kernel has completed a request. */
static void ring_sleep(struct file_queue *queue)
{
    struct timespec pause = {.tv_nsec = NS_PER_MS / 10};
    struct io_uring_cqe *cqe;
    int res;

    if (queue->stopped) { /* completions still arrive in the ring's memory */
        nanosleep(&pause, NULL);
        return;
    }
    res = io_uring_wait_cqe(&queue->ring, &cqe);
    if (res != 0 && res != -EINTR && res != -EAGAIN && res != -EBUSY)
        ring_stop(queue, res);
}

/*
 * The ring's set-up: completions need not interrupt a running thread, since
 * whoever waits for them enters the kernel. Older kernels do not know that.
 */
static int ring_open(unsigned depth, struct io_uring *ring)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_CLAMP | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
    };
    int err = io_uring_queue_init_params(depth, ring, &params);

    if (err == -EINVAL) {
        params = (struct io_uring_params){.flags = IORING_SETUP_CLAMP};
        err = io_uring_queue_init_params(depth, ring, &params);
    }
    return err;
}

static void warn_no_ring(const char *where, int code)
{
    const char *remedy = "check the kernel";

    if (code == -EPERM || code == -EACCES)
        remedy = "set the sysctl kernel.io_uring_disabled to 0, or let the container's seccomp "
                 "profile allow it";
    else if (code == -ENOMEM)
        remedy = "raise the locked memory limit (ulimit -l)";
    else if (code == -ENOSYS)
        remedy = "use a kernel that has it";
    log_line(LOG_ADVICE,
             "pagefile %s: io_uring cannot be used (%s), so each thread reads and "
             "writes one run of pages at a time, slower; to mend it, %s",
             where, strerror(-code), remedy);
}

static bool is_descriptor_limit(int code)
{
    return code == -EMFILE || code == -ENFILE;
}

/*
 * Asked for without making a ring, by flags that no kernel knows: for some time after a ring has
 * been closed the kernel interrupts the calls of who has used it, as a signal does, and a thread of
 * the program would find its write to a pipe cut short. What else may be wrong file_queue_open()
 * will see.
 */
bool file_ring_allowed(const char *where)
{
    struct io_uring_params params = {.flags = ~0u};
    struct io_uring ring;
    int err = io_uring_queue_init_params(1, &ring, &params);

    if (err == -EINVAL)
        return true;
    if (err == 0)
        io_uring_queue_exit(&ring);
    else
        warn_no_ring(where, err);
    return err == 0;
}

static int queue_open_ring(struct file_queue *queue, unsigned depth)
{
    struct file_store *store = queue->store;
    int err = ring_open(depth, &queue->ring);

    if (is_descriptor_limit(err))
        return error_set(err,
                         "pagefile %s: too few file descriptors (ulimit -n) to open another "
                         "queue; raise the limit, or use fewer threads",
                         store->base.where);
    if (err != 0) {
        if (!atomic_exchange(&store->warned, true))
            warn_no_ring(store->base.where, err);
        return 0;
    }
    TRACE_RING_OPENED();
    queue->has_ring = true;
    queue->depth = depth < queue->ring.sq.ring_entries ? depth : queue->ring.sq.ring_entries;
    /* Spares two atomic operations on the shared file a request; not vital. */
    queue->fixed = io_uring_register_files(&queue->ring, &store->path.fd, 1) == 0;
    return 0;
}

int file_queue_open(struct store *store, unsigned depth, struct store_queue **out)
{
    struct file_queue *queue = calloc(1, sizeof(*queue));
    int err = 0;

    if (queue == NULL)
        return error_set(-ENOMEM, "pagefile %s: out of memory for a queue", store->where);
    queue->store = (struct file_store *)store;
    if (queue->store->ring && depth > 0)
        err = queue_open_ring(queue, depth < DEPTH_MAX ? depth : DEPTH_MAX);
    if (err != 0) {
        free(queue);
        return err;
    }
    *out = (struct store_queue *)queue;
    return 0;
}

void file_queue_close(struct store_queue *base)
{
    struct file_queue *queue = queue_of(base);
    struct store_io *done[16];

    /* The kernel must not write into buffers after this. */
    while (file_queue_reap(base, done, 16, true) > 0)
        ;
    if (queue->has_ring) {
        TRACE_RING_CLOSING();
        if (queue->fixed)
            io_uring_unregister_files(&queue->ring); /* the ring's end is not immediate */
        io_uring_queue_exit(&queue->ring);
    }
    free(queue);
}

void file_queue_submit(struct store_queue *base, struct store_io **ios, unsigned count)
{
    struct file_queue *queue = queue_of(base);

    for (unsigned i = 0; i < count; i++) {
        struct store_io *io = ios[i];

        io->result = 0;
        io->done = 0;
        io->attempts = 0;
        if (queue->has_ring && !queue->stopped) {
            list_append(&queue->waiting, io);
            continue;
        }
        do_here(queue, io, false);
        list_append(&queue->ready, io);
    }
    if (queue->has_ring)
        ring_send(queue);
}

unsigned file_queue_reap(struct store_queue *base, struct store_io **done, unsigned max, bool wait)
{
    struct file_queue *queue = queue_of(base);
    unsigned n = 0;

    for (;;) {
        if (queue->has_ring) {
            n += ring_harvest(queue, done + n, max - n);
            ring_send(queue);
        }
        /* Last: a ring just refused leaves some here, and nothing else tells of them. */
        while (n < max && queue->ready.first != NULL)
            done[n++] = list_take(&queue->ready);
        if (n > 0 || max == 0 || queue->sent == 0 || !wait)
            return n;
        ring_sleep(queue);
    }
}

/* One pread() costs less than a ring for which the same thread then waits. */
void file_queue_transfer(struct store_queue *base, struct store_io *io)
{
    io->result = 0;
    io->done = 0;
    transfer_now(queue_of(base)->store, io);
    queue_write_out(queue_of(base), io, false);
}

int file_queue_fd(struct store_queue *base)
{
    const struct file_queue *queue = queue_of(base);

    return queue->has_ring ? queue->ring.ring_fd : -1;
}
