/*
 * Reads by direct I/O: the device writes into the buffer's pages behind the page table, so they are
 * pinned for the call. (Direct writes need nothing: a trimmed page keeps its content until the
 * device has let go of it.)
 *
 * If not all of the buffer can be pinned the read is made shorter, which a program must expect.
 */
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "preload/kernel.h"
#include "preload/preload.h"

#define PIECES 64
#define PIN_PAUSE 1000000 /* ns */
#define PIN_TRIES 10000
#define PAGE ((uintptr_t)VMSM_PAGE_SIZE)

/* ---- pins ---- */

struct pinned {
    struct iovec iov[PIECES];    /* what may be read into */
    struct iovec ranges[PIECES]; /* whole pages of the manager's in it, which are pinned */
    int count, range_count;
    size_t length;       /* of all that may be read into */
    struct pinned *next; /* in `ended` */
    _Atomic bool undone; /* nothing is pinned any more */
};

static void unpin_down_to(struct pinned *p, int count)
{
    while (p->range_count > count) {
        const struct iovec *range = &p->ranges[--p->range_count];

        vmsm_unpin(arena.manager, range->iov_base, range->iov_len);
    }
}

/*
 * Reads that have ended, and whose pins are still there. Whoever gives their memory back holds the
 * gate and waits for them to go, so it cannot be that only who has the gate may undo them after it:
 * he who waits does it for the other.
 */
static struct pinned *_Atomic ended;

void direct_unpin_ended(void)
{
    struct pinned *p = atomic_exchange(&ended, NULL);

    while (p != NULL) {
        struct pinned *next = p->next;

        unpin_down_to(p, 0);
        atomic_store(&p->undone, true); /* and it is gone */
        p = next;
    }
}

void direct_forked(void)
{
    atomic_store(&ended, NULL);
}

static long unpin_ended(const uintptr_t *unused)
{
    (void)unused;
    direct_unpin_ended();
    return 0;
}

static void unpin(struct pinned *p)
{
    if (p->range_count == 0)
        return;
    p->next = atomic_load(&ended);
    while (!atomic_compare_exchange_weak(&ended, &p->next, p))
        continue;
    while (!atomic_load(&p->undone)) {
        if (gate_shared_call(unpin_ended, NULL) != 0 || !atomic_load(&p->undone))
            sched_yield(); /* there was no stack for it now; or another thread is about to */
    }
}

/* What is the manager's of these pages, all or nothing. The rest of them (files that were mapped
 * there, holes) is the kernel's, which knows what to do or to say. */
static long pin_range(uintptr_t start, uintptr_t end, struct pinned *p)
{
    int before = p->range_count;

    end = end < arena.end ? end : arena.end;
    for (uintptr_t at = start > arena.base ? start : arena.base; at < end;) {
        struct space_range piece = space_piece(&arena.space, at, end);
        struct iovec range = {(void *)piece.start, piece.end - piece.start};
        long error = 0;

        at = piece.end;
        if (piece.what.kind != SPACE_MANAGED)
            continue;
        if (p->range_count == PIECES)
            error = -ENOMEM;
        else
            error = vmsm_pin(arena.manager, range.iov_base, range.iov_len);
        if (error != 0) {
            unpin_down_to(p, before);
            return error;
        }
        p->ranges[p->range_count++] = range;
    }
    return 0;
}

/* Pin as much of an element as can be; its length becomes that. 0 or a negative errno. */
static long pin_element(struct iovec *element, struct pinned *p)
{
    uintptr_t start = (uintptr_t)element->iov_base;

    for (;;) {
        uintptr_t end = (start + element->iov_len + PAGE - 1) & ~(PAGE - 1);
        long error = pin_range(start & ~(PAGE - 1), end, p);

        if (error != -ENOMEM || element->iov_len <= PAGE)
            return error;
        element->iov_len = (element->iov_len / 2 + PAGE - 1) & ~(PAGE - 1);
    }
}

/* iov, count, pinned: as much as can be. A negative errno: there is nothing that could be read
 * into. (All in one call, for who has pins must not wait for the gate.) */
static long pin(const uintptr_t *a)
{
    const struct iovec *iov = (const struct iovec *)a[0];
    struct pinned *p = (struct pinned *)a[2];
    int count = (int)a[1];

    p->count = p->range_count = 0;
    p->length = 0;
    p->undone = false;
    for (int i = 0; i < count && p->count < PIECES; i++) {
        struct iovec element = iov[i];
        long error = 0;

        if (element.iov_len == 0)
            continue;
        if (arena_overlaps((uintptr_t)element.iov_base, element.iov_len))
            error = pin_element(&element, p);
        if (error != 0)
            return p->length > 0 ? 0 : error;
        p->iov[p->count++] = element;
        p->length += element.iov_len;
        if (element.iov_len < iov[i].iov_len)
            break;
    }
    return 0;
}

/* ---- which reads ---- */

/* Of a pipe, O_DIRECT says something else. */
static bool is_direct_file(int fd)
{
    int flags = (int)kernel_call(SYS_fcntl, fd, F_GETFL);
    struct stat st;

    return flags >= 0 && (flags & O_DIRECT) && kernel_call(SYS_fstat, fd, &st) == 0 &&
           (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
}

static bool is_direct(int fd, const struct iovec *iov, int count)
{
    bool ours = false;

    if (!atomic_load_explicit(&arena.managed, memory_order_relaxed) || count < 1 || count > IOV_MAX)
        return false;
    for (int i = 0; i < count && !ours; i++)
        ours = iov[i].iov_len > 0 && arena_overlaps((uintptr_t)iov[i].iov_base, iov[i].iov_len);
    return ours && is_direct_file(fd);
}

/*
 * With signals blocked: a handler that leaves by longjmp() would leave the pins behind. They would
 * not end such a read either, for it waits for the device.
 */
static long read_pinned(int fd, const struct iovec *iov, int count, off_t offset, int flags,
                        ssize_t *got)
{
    struct pinned p;
    uint64_t before;
    long error;
    int saved = 0;

    gate_mask_signals(&before);
    error = gate_shared_call(pin, (uintptr_t[]){(uintptr_t)iov, (uintptr_t)count, (uintptr_t)&p});
    if (error == 0) {
        *got = kernel_preadv2(fd, p.iov, p.count, offset, flags);
        saved = errno;
        unpin(&p);
    }
    gate_restore_signals(&before);
    errno = saved;
    return error;
}

/* offset -1: the file's own position. */
static ssize_t direct_read(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    struct timespec pause = {.tv_nsec = PIN_PAUSE};
    ssize_t got = -1;
    long error;

    /* What others read now keeps the pins, for as long as a disk takes. */
    for (int tries = 0; tries < PIN_TRIES; tries++) {
        int saved = errno;

        error = read_pinned(fd, iov, count, offset, flags, &got);
        if (error == 0 && got >= 0)
            errno = saved;
        if (error != -ENOMEM)
            break;
        nanosleep(&pause, NULL);
    }
    if (error != 0)
        errno = (int)-error;
    return got;
}

/* ---- what the program calls ---- */

/* The C library's own, which can be cancelled; found at the start. */
static struct {
    ssize_t (*read)(int, void *, size_t);
    ssize_t (*pread)(int, void *, size_t, off_t);
    ssize_t (*readv)(int, const struct iovec *, int);
    ssize_t (*preadv)(int, const struct iovec *, int, off_t);
    ssize_t (*preadv2)(int, const struct iovec *, int, off_t, int);
    FILE *(*fdopen)(int, const char *);
    int (*aio_read)(struct aiocb *);
    int (*lio_listio)(int, struct aiocb *const[], int, struct sigevent *);
} libc = {kernel_read, kernel_pread, kernel_readv, kernel_preadv, kernel_preadv2, NULL, NULL, NULL};

__attribute__((constructor(102))) static void find_all(void)
{
    kernel_find(&libc.read, "read");
    kernel_find(&libc.pread, "pread");
    kernel_find(&libc.readv, "readv");
    kernel_find(&libc.preadv, "preadv");
    kernel_find(&libc.preadv2, "preadv2");
    kernel_find(&libc.fdopen, "fdopen");
    kernel_find(&libc.aio_read, "aio_read");
    kernel_find(&libc.lio_listio, "lio_listio");
}

PRELOAD_API ssize_t read(int fd, void *buffer, size_t length)
{
    struct iovec iov = {.iov_base = buffer, .iov_len = length};

    return is_direct(fd, &iov, 1) ? direct_read(fd, &iov, 1, -1, 0) : libc.read(fd, buffer, length);
}

PRELOAD_API ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
{
    struct iovec iov = {.iov_base = buffer, .iov_len = length};

    return offset >= 0 && is_direct(fd, &iov, 1) ? direct_read(fd, &iov, 1, offset, 0)
                                                 : libc.pread(fd, buffer, length, offset);
}

PRELOAD_API ssize_t readv(int fd, const struct iovec *iov, int count)
{
    return is_direct(fd, iov, count) ? direct_read(fd, iov, count, -1, 0)
                                     : libc.readv(fd, iov, count);
}

PRELOAD_API ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
    return offset >= 0 && is_direct(fd, iov, count) ? direct_read(fd, iov, count, offset, 0)
                                                    : libc.preadv(fd, iov, count, offset);
}

PRELOAD_API ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    return is_direct(fd, iov, count) ? direct_read(fd, iov, count, offset, flags)
                                     : libc.preadv2(fd, iov, count, offset, flags);
}

PRELOAD_API ssize_t pread64(int fd, void *buffer, size_t length, off_t offset)
    __attribute__((alias("pread")));
PRELOAD_API ssize_t preadv64(int fd, const struct iovec *iov, int count, off_t offset)
    __attribute__((alias("preadv")));
PRELOAD_API ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
    __attribute__((alias("preadv2")));

/* What they are called where the compiler checks lengths (_FORTIFY_SOURCE). */
ssize_t __read_chk(int fd, void *buffer, size_t length, size_t room);
ssize_t __pread_chk(int fd, void *buffer, size_t length, off_t offset, size_t room);
ssize_t __pread64_chk(int fd, void *buffer, size_t length, off_t offset, size_t room);

PRELOAD_API ssize_t __read_chk(int fd, void *buffer, size_t length, size_t room)
{
    if (length > room)
        abort();
    return read(fd, buffer, length);
}

PRELOAD_API ssize_t __pread_chk(int fd, void *buffer, size_t length, off_t offset, size_t room)
{
    if (length > room)
        abort();
    return pread(fd, buffer, length, offset);
}

PRELOAD_API ssize_t __pread64_chk(int fd, void *buffer, size_t length, off_t offset, size_t room)
    __attribute__((alias("__pread_chk")));

/* ---- reads that are not seen, being made within the C library ---- */

/* A stream's reads are to go by the page cache, which writes into memory as the program does. */
PRELOAD_API FILE *fdopen(int fd, const char *mode)
{
    if (libc.fdopen == NULL) /* a library that is initialized before this one */
        find_all();
    if (process.active && (strchr(mode, 'r') != NULL || strchr(mode, '+') != NULL) &&
        is_direct_file(fd)) {
        int flags = (int)kernel_call(SYS_fcntl, fd, F_GETFL);

        kernel_call(SYS_fcntl, fd, F_SETFL, flags & ~O_DIRECT);
    }
    return libc.fdopen(fd, mode);
}

/* Its threads read while nobody waits: it is not there for these, as io_uring is not. */
static bool is_refused(const struct aiocb *call)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)call->aio_buf, .iov_len = call->aio_nbytes};

    if (!is_direct(call->aio_fildes, &iov, 1))
        return false;
    errno = ENOSYS;
    return true;
}

PRELOAD_API int aio_read(struct aiocb *call)
{
    if (libc.aio_read == NULL)
        find_all();
    return is_refused(call) ? -1 : libc.aio_read(call);
}

PRELOAD_API int lio_listio(int mode, struct aiocb *const list[], int count, struct sigevent *event)
{
    if (libc.lio_listio == NULL)
        find_all();
    for (int i = 0; i < count; i++) {
        if (list[i] != NULL && list[i]->aio_lio_opcode == LIO_READ && is_refused(list[i]))
            return -1;
    }
    return libc.lio_listio(mode, list, count, event);
}

/* The same structure under another name. */
PRELOAD_API int aio_read64(struct aiocb64 *call)
{
    return aio_read((struct aiocb *)call);
}

PRELOAD_API int lio_listio64(int mode, struct aiocb64 *const list[], int count,
                             struct sigevent *event)
{
    return lio_listio(mode, (struct aiocb *const *)list, count, event);
}
