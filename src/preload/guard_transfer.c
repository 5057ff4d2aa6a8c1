/* Reads, writes and messages under the guard: made on copies, and in pieces where that is no harm. */
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include "preload/guard.h"
#include "preload/guard_copy.h"
#include "preload/kernel.h"
#include "preload/preload.h"

#define PIECE_SHARE 16u            /* of the memory, what is read or written at a time, */
#define PIECE_UNIT (64UL * 1024)   /* whole ones of these, */
#define PIECE_LEAST (128UL * 1024) /* so much at least, */
#define PIECE_MOST (1024UL * 1024) /* and so much at most */
#define TRANSFER_MOST 0x7ffff000UL /* that the kernel reads or writes by a call */
#define CONTROL_MOST (256UL * 1024)
#define MEMORY_DEVICES 1u /* null, zero, urandom, …; they are read as files are */

/* What one call may take of a buffer at a time. */
size_t guard_piece(void)
{
    size_t most = process_memory() / PIECE_SHARE & ~(PIECE_UNIT - 1);

    if (most > PIECE_MOST)
        most = PIECE_MOST;
    return most < PIECE_LEAST ? PIECE_LEAST : most;
}

/* ---- the buffers of reads and writes ---- */

struct buffers {
    struct iovec few[8], *iov;
    size_t count, total;
    bool managed; /* some of it is */
    struct guard_lease lease;
};

static long buffers_open(struct buffers *b, uintptr_t vector, size_t count)
{
    size_t size = count * sizeof(struct iovec);
    bool large = count > sizeof(b->few) / sizeof(b->few[0]);

    b->lease.memory = NULL;
    if (count > IOV_MAX)
        return -EINVAL;
    if (large && guard_lease(&b->lease, size) != 0) {
        b->lease.memory = NULL;
        return -ENOMEM;
    }
    b->iov = large ? (struct iovec *)(void *)b->lease.memory : b->few;
    b->count = count;
    b->total = 0;
    b->managed = arena_overlaps(vector, size);
    if (guard_read(b->iov, vector, size) != 0)
        return -EFAULT;
    for (size_t i = 0; i < count; i++) {
        if (b->iov[i].iov_len > SSIZE_MAX - b->total)
            return -EINVAL;
        b->total += b->iov[i].iov_len;
        if (b->iov[i].iov_len > 0 &&
            arena_overlaps((uintptr_t)b->iov[i].iov_base, b->iov[i].iov_len))
            b->managed = true;
    }
    return 0;
}

static void buffers_close(struct buffers *b)
{
    if (b->lease.memory != NULL)
        guard_lease_end(&b->lease, true);
}

/* Between what lies behind `done` bytes and `memory`. */
static long buffers_copy(const struct buffers *b, size_t done, char *memory, size_t length,
                         bool writes)
{
    long error = 0;

    for (size_t i = 0; i < b->count && length > 0 && error == 0; i++) {
        size_t skip = done < b->iov[i].iov_len ? done : b->iov[i].iov_len;
        size_t step = b->iov[i].iov_len - skip;
        uintptr_t at = (uintptr_t)b->iov[i].iov_base + skip;

        done -= skip;
        if (step > length)
            step = length;
        if (step > 0)
            error = writes ? guard_read(memory, at, step) : guard_write(at, memory, step);
        memory += step;
        length -= step;
    }
    return error;
}

/* ---- reads and writes ---- */

/* Which of a call's arguments are what. */
struct transfer {
    bool known, writes, vector;
    uint8_t buffer;   /* the buffer, or the vector; its length is the next */
    uint8_t position; /* the offset; 0: none */
    uint8_t flags;    /* of a socket; 0: none */
};

static struct transfer transfer_of(long number)
{
    switch (number) {
    case SYS_read:
        return (struct transfer){.known = true, .buffer = 1};
    case SYS_write:
        return (struct transfer){.known = true, .writes = true, .buffer = 1};
    case SYS_pread64:
        return (struct transfer){.known = true, .buffer = 1, .position = 3};
    case SYS_pwrite64:
        return (struct transfer){.known = true, .writes = true, .buffer = 1, .position = 3};
    case SYS_readv:
        return (struct transfer){.known = true, .vector = true, .buffer = 1};
    case SYS_writev:
        return (struct transfer){.known = true, .writes = true, .vector = true, .buffer = 1};
    case SYS_preadv:
    case SYS_preadv2:
        return (struct transfer){.known = true, .vector = true, .buffer = 1, .position = 3};
    case SYS_pwritev:
    case SYS_pwritev2:
        return (struct transfer){
            .known = true, .writes = true, .vector = true, .buffer = 1, .position = 3};
    case SYS_recvfrom:
        return (struct transfer){.known = true, .buffer = 1, .flags = 3};
    case SYS_sendto:
        return (struct transfer){.known = true, .writes = true, .buffer = 1, .flags = 3};
    case SYS_getrandom:
        return (struct transfer){.known = true, .buffer = 0};
    default:
        return (struct transfer){0};
    }
}

/*
 * Made in pieces: of a file, one after the other; of a stream, where less than was asked for is an
 * answer. What else there is has limits of its own between what is read or written, and is not cut.
 */
enum target { TARGET_FILE, TARGET_STREAM, TARGET_WHOLE };

static enum target target_of(int fd)
{
    struct stat st = {0};
    int type = 0;
    socklen_t length = sizeof(type);

    if (kernel_raw(SYS_fstat, fd, &st) != 0)
        return TARGET_WHOLE;
    if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ||
        (S_ISCHR(st.st_mode) && major(st.st_rdev) == MEMORY_DEVICES))
        return TARGET_FILE;
    if (S_ISFIFO(st.st_mode))
        return TARGET_STREAM;
    if (S_ISSOCK(st.st_mode) &&
        kernel_raw(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 &&
        type == SOCK_STREAM)
        return TARGET_STREAM;
    return TARGET_WHOLE;
}

/* What the kernel is given beside the data, at the start of the memory for a call. */
struct head {
    struct iovec iov;
    struct msghdr message;
    struct sockaddr_storage name;
    socklen_t name_length;
};

struct exchange {
    long number;
    uintptr_t a[6]; /* all that are pointers to us but the buffer */
    struct transfer how;
    unsigned flags;
    struct buffers buffers;
    size_t control; /* room for control messages, behind the head */
    struct guard_lease lease;
    struct head *head;
    char *data;
    size_t piece;
    bool goes_on; /* with another piece, when one is full */
};

/* Memory for it. control: how much of that. */
static long exchange_open(struct exchange *x, int fd)
{
    size_t total = x->buffers.total < TRANSFER_MOST ? x->buffers.total : TRANSFER_MOST;
    size_t beside =
        VMSM_PAGE_SIZE + ((x->control + VMSM_PAGE_SIZE - 1) & ~(size_t)(VMSM_PAGE_SIZE - 1));
    enum target target = TARGET_FILE;

    x->piece = guard_piece();
    if (total > x->piece && x->number != SYS_getrandom)
        target = target_of(fd);
    /* With MSG_ZEROCOPY the kernel goes on reading what it was given. */
    if (total <= x->piece || target == TARGET_WHOLE || (x->flags & (MSG_PEEK | MSG_ZEROCOPY)))
        x->piece = total;
    x->goes_on = x->how.writes || target == TARGET_FILE || (x->flags & MSG_WAITALL);
    if (guard_lease(&x->lease, beside + x->piece) != 0)
        return -ENOMEM;
    x->head = (struct head *)(void *)x->lease.memory;
    x->data = x->lease.memory + beside;
    return 0;
}

static long exchange_piece(struct exchange *x, size_t done, size_t length)
{
    uintptr_t b[6];

    memcpy(b, x->a, sizeof(b));
    x->head->iov = (struct iovec){.iov_base = x->data, .iov_len = length};
    if (!x->how.known)
        return guard_make(x->number, b); /* a message, which has it already */
    b[x->how.buffer] = x->how.vector ? (uintptr_t)&x->head->iov : (uintptr_t)x->data;
    b[x->how.buffer + 1] = x->how.vector ? 1 : length;
    if (x->how.position != 0 && (off_t)b[x->how.position] >= 0)
        b[x->how.position] += done;
    return guard_make(x->number, b);
}

/* Control messages are for the first piece that has some. */
static bool control_is_done(struct exchange *x)
{
    if (x->how.known)
        return false;
    if (!x->how.writes && x->head->message.msg_controllen > 0)
        return true;
    x->head->message.msg_controllen = x->how.writes ? 0 : x->control;
    return false;
}

static long exchange_pieces(struct exchange *x)
{
    size_t total = x->buffers.total < TRANSFER_MOST ? x->buffers.total : TRANSFER_MOST, done = 0;
    unsigned returns = guard_thread.returns;

    for (;;) {
        size_t length = total - done < x->piece ? total - done : x->piece, moved;
        long result = 0;

        /* What MSG_TRUNC throws away is not written. */
        if (x->how.writes || (x->flags & MSG_TRUNC))
            result = buffers_copy(&x->buffers, done, x->data, length, true);
        if (result == 0)
            result = exchange_piece(x, done, length);
        if (result <= 0 && done > 0) /* what came before had none */
            x->head->message.msg_controllen = 0;
        if (result <= 0)
            return done > 0 ? (long)done : result;
        moved = (size_t)result < length ? (size_t)result : length;
        if (!x->how.writes && buffers_copy(&x->buffers, done, x->data, moved, false) != 0)
            return done > 0 ? (long)done : -EFAULT;
        done += (size_t)result;
        if ((size_t)result < length || done >= total || !x->goes_on || control_is_done(x) ||
            returns != guard_thread.returns) /* a signal came: it ends the call, as ever */
            return (long)done;
    }
}

static void exchange_close(struct exchange *x)
{
    guard_lease_end(&x->lease, !(x->flags & MSG_ZEROCOPY));
}

/* The address beside the buffer. */
static long exchange_address(struct exchange *x)
{
    struct head *head = x->head;

    if (x->number == SYS_sendto) {
        if (x->a[4] == 0 || x->a[5] > sizeof(head->name))
            return 0;
        if (guard_read(&head->name, x->a[4], x->a[5]) != 0)
            return -EFAULT;
        x->a[4] = (uintptr_t)&head->name;
    } else if (x->number == SYS_recvfrom && x->a[4] != 0) {
        if (guard_read(&head->name_length, x->a[5], sizeof(head->name_length)) != 0)
            return -EFAULT;
        x->a[4] = (uintptr_t)&head->name;
        x->a[5] = (uintptr_t)&head->name_length;
    }
    return 0;
}

/* `name` has room for `room` bytes. */
static long name_out(const struct head *head, socklen_t length, uintptr_t name, socklen_t room)
{
    if (length > room)
        length = room;
    if (length > sizeof(head->name))
        length = sizeof(head->name);
    return guard_write(name, &head->name, length);
}

static long address_out(const struct exchange *x, const uintptr_t *a)
{
    socklen_t room = 0;

    if (x->number != SYS_recvfrom || a[4] == 0)
        return 0;
    if (guard_read(&room, a[5], sizeof(room)) != 0 ||
        name_out(x->head, x->head->name_length, a[4], room) != 0)
        return -EFAULT;
    return guard_write(a[5], &x->head->name_length, sizeof(socklen_t));
}

static bool address_is_managed(long number, const uintptr_t *a)
{
    if (number == SYS_recvfrom && a[5] != 0 && arena_overlaps(a[5], sizeof(socklen_t)))
        return true;
    return (number == SYS_recvfrom || number == SYS_sendto) && a[4] != 0 &&
           arena_overlaps(a[4], sizeof(struct sockaddr_storage));
}

static long call_transfer(long number, const uintptr_t *a, const struct transfer *t)
{
    struct exchange x = {.number = number, .how = *t};
    struct buffers *b = &x.buffers;
    long result;

    memcpy(x.a, a, sizeof(x.a));
    if (t->flags != 0)
        x.flags = (unsigned)a[t->flags];
    if (t->vector) {
        result = buffers_open(b, a[t->buffer], a[t->buffer + 1]);
    } else {
        b->few[0] = (struct iovec){.iov_base = (void *)a[t->buffer], .iov_len = a[t->buffer + 1]};
        b->iov = b->few;
        b->count = 1;
        b->total = b->few[0].iov_len;
        b->managed = b->total > 0 && arena_overlaps(a[t->buffer], b->total);
        result = b->total <= SSIZE_MAX ? 0 : -EINVAL;
    }
    if (result == -ENOMEM)
        return result;
    if (result != 0 || !(b->managed || address_is_managed(number, a))) {
        buffers_close(b);
        return guard_make(number, a); /* if it is wrong, the kernel knows how */
    }
    result = exchange_open(&x, (int)a[0]);
    if (result == 0) {
        result = exchange_address(&x);
        if (result == 0)
            result = exchange_pieces(&x);
        if (result >= 0 && address_out(&x, a) != 0)
            result = -EFAULT;
        exchange_close(&x);
    }
    buffers_close(b);
    return result;
}

/* ---- messages ---- */

/* *m, the program's, with its parts in our memory. */
static long message_in(struct exchange *x, const struct msghdr *m)
{
    struct msghdr *ours = &x->head->message;

    *ours = *m;
    ours->msg_iov = &x->head->iov;
    ours->msg_iovlen = 1;
    if (m->msg_name != NULL) {
        ours->msg_name = &x->head->name;
        if (ours->msg_namelen > sizeof(x->head->name))
            ours->msg_namelen = sizeof(x->head->name);
        if (x->how.writes &&
            guard_read(&x->head->name, (uintptr_t)m->msg_name, ours->msg_namelen) != 0)
            return -EFAULT;
    }
    if (x->control > 0) {
        ours->msg_control = x->lease.memory + VMSM_PAGE_SIZE;
        ours->msg_controllen = x->control;
        if (x->how.writes &&
            guard_read(ours->msg_control, (uintptr_t)m->msg_control, x->control) != 0)
            return -EFAULT;
    }
    return 0;
}

static long message_out(const struct exchange *x, const struct msghdr *m, uintptr_t theirs)
{
    const struct msghdr *ours = &x->head->message;
    long error = 0;

    if (m->msg_name != NULL) {
        error = name_out(x->head, ours->msg_namelen, (uintptr_t)m->msg_name, m->msg_namelen);
        if (error == 0)
            error = guard_write(theirs + offsetof(struct msghdr, msg_namelen), &ours->msg_namelen,
                                sizeof(ours->msg_namelen));
    }
    if (error == 0 && x->control > 0)
        error = guard_write((uintptr_t)m->msg_control, ours->msg_control, ours->msg_controllen);
    if (error == 0)
        error = guard_write(theirs + offsetof(struct msghdr, msg_controllen), &ours->msg_controllen,
                            sizeof(ours->msg_controllen));
    if (error == 0)
        error = guard_write(theirs + offsetof(struct msghdr, msg_flags), &ours->msg_flags,
                            sizeof(ours->msg_flags));
    return error;
}

static bool message_is_managed(uintptr_t theirs, const struct msghdr *m, const struct buffers *b)
{
    return b->managed || arena_overlaps(theirs, sizeof(*m)) ||
           (m->msg_namelen > 0 && arena_overlaps((uintptr_t)m->msg_name, m->msg_namelen)) ||
           (m->msg_controllen > 0 && arena_overlaps((uintptr_t)m->msg_control, m->msg_controllen));
}

static long call_message(long number, uintptr_t fd, uintptr_t theirs, uintptr_t flags)
{
    struct exchange x = {.number = number, .flags = (unsigned)flags};
    struct msghdr m;
    long result;

    if (guard_read(&m, theirs, sizeof(m)) != 0)
        return -EFAULT;
    if (m.msg_iovlen > IOV_MAX)
        return -EMSGSIZE;
    x.how.writes = number == SYS_sendmsg;
    x.control = m.msg_control == NULL ? 0 : m.msg_controllen;
    if (x.control > CONTROL_MOST && x.how.writes)
        return -ENOBUFS;
    if (x.control > CONTROL_MOST)
        x.control = CONTROL_MOST;
    result = buffers_open(&x.buffers, (uintptr_t)m.msg_iov, m.msg_iovlen);
    if (result == 0 && !message_is_managed(theirs, &m, &x.buffers)) {
        buffers_close(&x.buffers);
        return guard_make(number, (uintptr_t[6]){fd, theirs, flags});
    }
    if (result == 0)
        result = exchange_open(&x, (int)fd);
    if (result == 0) {
        x.a[0] = fd;
        x.a[1] = (uintptr_t)&x.head->message;
        x.a[2] = flags;
        result = message_in(&x, &m);
        if (result == 0)
            result = exchange_pieces(&x);
        if (result >= 0 && !x.how.writes && message_out(&x, &m, theirs) != 0)
            result = -EFAULT;
        exchange_close(&x);
    }
    buffers_close(&x.buffers);
    return result;
}

/* One of them: fewer than were asked for is an answer. */
static long call_messages(long number, const uintptr_t *a)
{
    unsigned length;
    long result;

    if (a[1] == 0 || (unsigned)a[2] == 0)
        return guard_make(number, a);
    result =
        call_message(number == SYS_sendmmsg ? SYS_sendmsg : SYS_recvmsg, a[0],
                     a[1] + offsetof(struct mmsghdr, msg_hdr), a[3] & ~(uintptr_t)MSG_WAITFORONE);
    if (result < 0)
        return result;
    length = (unsigned)result;
    if (guard_write(a[1] + offsetof(struct mmsghdr, msg_len), &length, sizeof(length)) != 0)
        return -EFAULT;
    return 1;
}

/* ---- all of them ---- */

bool guard_transfer_call(long number, const uintptr_t *a, long *result)
{
    struct transfer t = transfer_of(number);

    if (t.known)
        *result = call_transfer(number, a, &t);
    else if (number == SYS_sendmsg || number == SYS_recvmsg)
        *result = call_message(number, a[0], a[1], a[2]);
    else if (number == SYS_sendmmsg || number == SYS_recvmmsg)
        *result = call_messages(number, a);
    else
        return false;
    return true;
}
