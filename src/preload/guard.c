#include "preload/guard.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "preload/guard_copy.h"
#include "preload/guard_table.h"
#include "preload/kernel.h"
#include "preload/preload.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_ON 1
#endif
#ifndef SYS_USER_DISPATCH
#define SYS_USER_DISPATCH 2
#endif

#define PIECE_SHARE 16u            /* of the memory, what is read or written at a time, */
#define PIECE_UNIT (64UL * 1024)   /* whole ones of these, */
#define PIECE_LEAST (128UL * 1024) /* so much at least, */
#define PIECE_MOST (1024UL * 1024) /* and so much at most */
#define TRANSFER_MOST 0x7ffff000UL /* that the kernel reads or writes by a call */
#define PART_MOST (64UL * 1024 * 1024)
#define CONTROL_MOST (256UL * 1024)
#define MEMORY_DEVICES 1u /* null, zero, urandom, …; they are read as files are */
#define FUTEXES_MOST 128u /* that one call waits for */
#define TOUCHES 16        /* of a page for one call, before it is said not to be there */
#define EVENTS_MOST 1024u /* that one wait returns */

_Thread_local struct guard_thread guard_thread;

bool guard_active;

/* Only in the call itself can the thread be cancelled. */
static long make(long number, const uintptr_t *a)
{
    bool cancelable = guard_thread.cancelable;
    long result;
    int type;

    if (cancelable)
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
    result = kernel_raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (cancelable)
        pthread_setcanceltype(type, NULL);
    return result;
}

/* ---- which calls are looked at ---- */

void guard_arm(void)
{
    if (!guard_active)
        return;
    guard_thread.selector = guard_thread.pass == 0;
    guard_thread.armed =
        kernel_raw(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, kernel_start,
                   (size_t)(kernel_end - kernel_start), &guard_thread.selector) == 0;
    guard_stack_take();
}

void guard_forked(void)
{
    guard_thread.spawned = false;
    guard_arm();
}

void guard_pass(void)
{
    guard_thread.pass++;
    guard_thread.selector = 0;
}

void guard_look(void)
{
    guard_thread.pass--;
    guard_thread.selector = guard_thread.armed && guard_thread.pass == 0;
}

/* ---- structures and arrays ---- */

enum part_how {
    PART_COPY,   /* the call is given a copy, and what it has changed of it goes back */
    PART_RESULT, /* the call writes it only, as much as it returns, by `unit` bytes */
    PART_TEXT,   /* a copy up to its end */
    PART_TOUCH,  /* the call is about the address itself, or what lies there is not quite known */
    PART_VECTOR  /* the same, and so are the buffers of these struct iovec */
};

/* What a call is given of managed memory. */
struct part {
    uintptr_t start;
    size_t length, at; /* at: in the memory that the call is made on */
    uint16_t unit;
    uint8_t index, how; /* index: of the argument */
};

struct parts {
    struct part part[2 * GUARD_ARGUMENTS + 6];
    int count;
    size_t size; /* of the copies */
};

static void add_part(struct parts *p, const struct part *part)
{
    if (part->length == 0 || part->start == 0 || !arena_overlaps(part->start, part->length))
        return;
    if (part->length > PART_MOST) /* the kernel will not have it either */
        return;
    p->part[p->count] = *part;
    p->part[p->count++].at = p->size;
    if (part->how <= PART_TEXT) /* of a copy also what it was before */
        p->size += ((part->length + 15) & ~15UL) * (part->how == PART_COPY ? 2 : 1);
}

static void add_argument(struct parts *p, const struct guard_argument *argument, const uintptr_t *a)
{
    uintptr_t of = a[argument->of];
    struct part part = {.start = a[argument->index], .index = argument->index};
    socklen_t size = 0;

    switch ((enum guard_kind)argument->kind) {
    case GUARD_BYTES:
        part.length = argument->size;
        break;
    case GUARD_ARRAY:
        part.length = (size_t)(unsigned)of * argument->size;
        break;
    case GUARD_RESULT:
        part.length = (size_t)(unsigned)of * argument->size;
        part.how = PART_RESULT;
        part.unit = argument->size;
        break;
    case GUARD_TEXT:
        part.length = PATH_MAX;
        part.how = PART_TEXT;
        break;
    case GUARD_SIZED:
        if (arena_overlaps(part.start, 1) && guard_read(&size, of, sizeof(size)) == 0)
            part.length = size;
        add_part(p, &(struct part){.start = of, .length = sizeof(size), .index = argument->of});
        break;
    case GUARD_VECTOR:
        part.length = of < IOV_MAX ? of * sizeof(struct iovec) : 0;
        part.how = PART_VECTOR;
        break;
    case GUARD_BITS:
        part.length = ((size_t)(unsigned)of + 63) / 64 * 8;
        break;
    case GUARD_LETTER:
        part.length = sizeof(long) + of;
        break;
    case GUARD_PAGES:
        part.length = of / VMSM_PAGE_SIZE + 1;
        break;
    case GUARD_IOCTL: /* what some write goes on behind it */
        part.length = guard_ioctl_size(of);
        part.how = PART_TOUCH;
        break;
    case GUARD_NOTHING:
    case GUARD_MESSAGE:
        break;
    }
    add_part(p, &part);
}

static bool is_in_place(long number)
{
    switch (number) {
    case SYS_futex:
    case SYS_futex_waitv:
    case SYS_vmsplice:
    case SYS_process_vm_readv:
    case SYS_process_vm_writev:
    case SYS_process_madvise:
        return true;
    default:
        return false;
    }
}

static void find_parts(struct parts *p, long number, const uintptr_t *a)
{
    const struct guard_argument *arguments = guard_arguments(number);
    unsigned unnamed = guard_pointers(number);

    p->count = 0;
    p->size = 0;
    for (int i = 0; i < GUARD_ARGUMENTS && arguments[i].kind != GUARD_NOTHING; i++) {
        unnamed &= ~(1u << arguments[i].index);
        add_argument(p, &arguments[i], a);
    }
    for (unsigned i = 0; i < 6; i++) {
        if (unnamed >> i & 1)
            add_part(p, &(struct part){.start = a[i],
                                       .length = GUARD_STRUCTURE,
                                       .index = (uint8_t)i,
                                       .how = PART_TOUCH});
    }
    if (!is_in_place(number))
        return;
    for (int i = 0; i < p->count; i++) {
        if (p->part[i].how != PART_VECTOR)
            p->part[i].how = PART_TOUCH;
    }
    p->size = 0;
}

/* Copy, and give the call the copies. What cannot be read it is given as it is: it will say so. */
static void parts_in(const struct parts *p, char *memory, uintptr_t *a)
{
    for (int i = 0; i < p->count; i++) {
        const struct part *part = &p->part[i];
        char *copy = memory + part->at;
        size_t got = part->length;

        if (part->how > PART_TEXT)
            continue;
        if (part->how == PART_TEXT)
            got = guard_read_text(copy, part->start, part->length);
        else if (part->how == PART_COPY)
            got = guard_read_some(copy, part->start, part->length);
        if (got < part->length && (part->how != PART_TEXT || got == 0 || copy[got - 1] != '\0'))
            continue;
        if (part->how == PART_COPY)
            memcpy(copy + ((part->length + 15) & ~15UL), copy, part->length);
        a[part->index] = (uintptr_t)copy;
    }
}

/* Only what has changed: beside it others may write meanwhile. */
static long copy_out(const struct part *part, const char *copy)
{
    const char *before = copy + ((part->length + 15) & ~15UL);
    long error = 0;

    if (memcmp(copy, before, part->length) == 0)
        return 0;
    for (size_t at = 0, end; at < part->length && error == 0; at = end) {
        bool changed = copy[at] != before[at];

        for (end = at + 1; end < part->length && (copy[end] != before[end]) == changed;)
            end++;
        if (changed)
            error = guard_write(part->start + at, copy + at, end - at);
    }
    return error;
}

static long parts_out(const struct parts *p, const char *memory, const uintptr_t *a, long result)
{
    long error = 0;

    for (int i = 0; i < p->count; i++) {
        const struct part *part = &p->part[i];
        size_t length = result > 0 ? (size_t)result * part->unit : 0;

        if (a[part->index] != (uintptr_t)memory + part->at)
            continue;
        if (part->how == PART_COPY && copy_out(part, memory + part->at) != 0)
            error = -EFAULT;
        if (part->how == PART_RESULT &&
            guard_write(part->start, memory + part->at,
                        length < part->length ? length : part->length) != 0)
            error = -EFAULT;
    }
    return result >= 0 && error != 0 ? error : result;
}

/* ---- what stays in its place ---- */

/* What one call may take of a buffer at a time. */
static size_t piece_most(void)
{
    size_t most = process_memory() / PIECE_SHARE & ~(PIECE_UNIT - 1);

    if (most > PIECE_MOST)
        most = PIECE_MOST;
    return most < PIECE_LEAST ? PIECE_LEAST : most;
}

static void touch_vector(uintptr_t start, size_t length)
{
    struct iovec iov;

    for (size_t at = 0; at < length; at += sizeof(iov)) {
        if (guard_read(&iov, start + at, sizeof(iov)) == 0)
            guard_touch((uintptr_t)iov.iov_base,
                        iov.iov_len < piece_most() ? iov.iov_len : piece_most());
    }
}

static void touch_futexes(uintptr_t start, size_t count)
{
    struct {
        uint64_t value, address;
        uint32_t flags, reserved;
    } waiter;

    for (size_t i = 0; i < count && i < FUTEXES_MOST; i++) {
        if (guard_read(&waiter, start + i * sizeof(waiter), sizeof(waiter)) == 0)
            guard_touch(waiter.address, sizeof(uint32_t));
    }
}

static bool touch_parts(const struct parts *p)
{
    bool any = false;

    for (int i = 0; i < p->count; i++) {
        const struct part *part = &p->part[i];

        if (part->how < PART_TOUCH)
            continue;
        guard_touch(part->start, part->length);
        if (part->how == PART_VECTOR)
            touch_vector(part->start, part->length);
        any = true;
    }
    return any;
}

/*
 * Nothing keeps there what has been touched; it will mostly be there still, and if it is not the
 * call says EFAULT, and is made again. What acts before it writes is made on copies (the table), but
 * for ioctl(). A futex mostly is there without.
 */
static long make_touched(long number, const uintptr_t *a, const struct parts *p)
{
    bool waits = number == SYS_futex || number == SYS_futex_waitv;
    long result = -EFAULT;

    if (waits || !touch_parts(p))
        result = make(number, a);
    for (int tries = 0; tries < TOUCHES && result == -EFAULT; tries++) {
        bool any = touch_parts(p);

        if (number == SYS_futex_waitv)
            touch_futexes(a[0], a[1]);
        if (!any && number != SYS_futex_waitv)
            break;
        result = make(number, a);
    }
    return result;
}

static long call_simple(long number, const uintptr_t *a)
{
    struct parts p;
    struct guard_lease lease;
    uintptr_t b[6];
    long result;

    find_parts(&p, number, a);
    if (p.size == 0)
        return make_touched(number, a, &p);
    if (guard_lease(&lease, p.size) != 0)
        return -ENOMEM;
    memcpy(b, a, sizeof(b));
    parts_in(&p, lease.memory, b);
    result = parts_out(&p, lease.memory, b, make_touched(number, b, &p));
    guard_lease_end(&lease, true);
    return result;
}

static long call_other(long number, const uintptr_t *a)
{
    long result;
    int tries = 0;

    do {
        bool inner = guard_touch_inner(number, a);

        result = call_simple(number, a);
        if (!inner)
            break;
    } while (result == -EFAULT && ++tries < TOUCHES);
    return result;
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

    x->piece = piece_most();
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
        return make(x->number, b); /* a message, which has it already */
    b[x->how.buffer] = x->how.vector ? (uintptr_t)&x->head->iov : (uintptr_t)x->data;
    b[x->how.buffer + 1] = x->how.vector ? 1 : length;
    if (x->how.position != 0 && (off_t)b[x->how.position] >= 0)
        b[x->how.position] += done;
    return make(x->number, b);
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
        return make(number, a); /* if it is wrong, the kernel knows how */
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
        return make(number, (uintptr_t[6]){fd, theirs, flags});
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
        return make(number, a);
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

/* ---- all calls ---- */

/* Those that change managed memory go where the C library's functions do. */
static bool changes_arena(long number, const uintptr_t *a)
{
    switch (number) {
    case SYS_mmap:
        return (a[3] & MAP_FIXED) && arena_overlaps(a[0], a[1]);
    case SYS_mlockall: /* would lock the arena */
        return true;
    case SYS_mremap:
        if ((a[3] & MREMAP_FIXED) && arena_overlaps(a[4], a[2] > 0 ? a[2] : 1))
            return true;
        return arena_overlaps(a[0], a[1] > 0 ? a[1] : 1);
    case SYS_munmap:
    case SYS_mprotect:
    case SYS_pkey_mprotect:
    case SYS_madvise:
    case SYS_mlock:
    case SYS_mlock2:
    case SYS_munlock:
        return arena_overlaps(a[0], a[1] > 0 ? a[1] : 1);
    default:
        return false;
    }
}

static long as_kernel(long result)
{
    return result == -1 ? -errno : result;
}

long guard_plain_call(long number, const uintptr_t *a)
{
    struct transfer t = transfer_of(number);
    uintptr_t b[6];

    if (number == SYS_prctl && a[0] == PR_SET_SYSCALL_USER_DISPATCH)
        return -EINVAL;
    if (!atomic_load_explicit(&arena.managed, memory_order_acquire))
        return make(number, a);
    if (t.known)
        return call_transfer(number, a, &t);
    if (changes_arena(number, a))
        return as_kernel(syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]));
    switch (number) {
    case SYS_execve:
    case SYS_execveat:
        return guard_exec(number, a);
    case SYS_sendmsg:
    case SYS_recvmsg:
        return call_message(number, a[0], a[1], a[2]);
    case SYS_sendmmsg:
    case SYS_recvmmsg:
        return call_messages(number, a);
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
        memcpy(b, a, sizeof(b));
        if ((int)a[2] > (int)EVENTS_MOST)
            b[2] = EVENTS_MOST;
        return call_simple(number, b);
    default:
        return call_other(number, a);
    }
}

long guard_call(long number, const uintptr_t *a)
{
    long result;

    return guard_signal_call(number, a, &result) ? result : guard_plain_call(number, a);
}

static long function_call(long number, const uintptr_t *a, bool cancelable)
{
    bool before = guard_thread.cancelable;
    long result;

    guard_thread.cancelable = cancelable;
    result = guard_active ? guard_call(number, a) : make(number, a);
    guard_thread.cancelable = before;
    if (result >= 0 || result < -4095)
        return result;
    errno = (int)-result;
    return -1;
}

long guard_function_call(long number, const uintptr_t *a)
{
    return function_call(number, a, false);
}

long guard_cancelable_call(long number, const uintptr_t *a)
{
    return function_call(number, a, true);
}

/* Where a thread ends: on its own stack, since ours goes. */
static void end_thread(long status)
{
    if (!guard_thread.spawned)
        guard_bounces_give();
    guard_stack_give();
    for (;;)
        kernel_raw(SYS_exit, status);
}

static void on_call(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    uintptr_t a[6];
    long call = (long)g[REG_RAX], result;
    int saved = errno;
    bool cancelable = guard_thread.cancelable;

    if (info->si_code != SYS_USER_DISPATCH) {
        guard_hand_on(number, info, context);
        return;
    }
    a[0] = (uintptr_t)g[REG_RDI];
    a[1] = (uintptr_t)g[REG_RSI];
    a[2] = (uintptr_t)g[REG_RDX];
    a[3] = (uintptr_t)g[REG_R10];
    a[4] = (uintptr_t)g[REG_R8];
    a[5] = (uintptr_t)g[REG_R9];
    if (call == SYS_rt_sigreturn) {
        guard_signal_return(uc);
        g[REG_RIP] = (greg_t)(uintptr_t)kernel_signal_return;
        return;
    }
    if (call == SYS_exit) {
        g[REG_RIP] = (greg_t)(uintptr_t)end_thread;
        g[REG_RSP] = ((g[REG_RSP] - 128) & ~(greg_t)15) - 8; /* as after a call */
        return;
    }
    if (guard_redirect_clone(call, a, uc))
        return;
    guard_thread.cancelable = false; /* where it is, the C library has seen to that */
    if (!guard_context_call(call, a, uc, &result)) {
        unsigned returns = guard_thread.returns;

        result = guard_call(call, a);
        if (returns != guard_thread.returns)
            guard_signal_mask(uc);
    }
    guard_thread.cancelable = cancelable;
    g[REG_RAX] = result;
    errno = saved;
}

bool guard_start(bool faults)
{
    guard_active = true;
    if (guard_signal_start(on_call, faults))
        guard_arm();
    return guard_thread.armed;
}
