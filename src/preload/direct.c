/*
 * Reads by direct I/O: the device writes into the buffer's pages behind the page table, so they are
 * pinned for the call (pin.h). (Direct writes need nothing: a trimmed page keeps its content until
 * the device has let go of it.)
 *
 * If not all of the buffer can be pinned the read is made shorter, which a program must expect.
 */
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "preload/guard.h"
#include "preload/kernel.h"
#include "preload/pin.h"
#include "preload/preload.h"

#define PIN_PAUSE 1000000 /* ns */
#define PIN_TRIES 10000

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
    error = pin_buffers(iov, count, SIZE_MAX, &p);
    if (error == 0) {
        *got = kernel_preadv2(fd, p.iov, p.count, offset, flags);
        saved = errno;
        pin_release(&p);
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

    if (guard_active)
        return guard_cancelable_call(SYS_read,
                                     (uintptr_t[6]){(uintptr_t)fd, (uintptr_t)buffer, length});
    return is_direct(fd, &iov, 1) ? direct_read(fd, &iov, 1, -1, 0) : libc.read(fd, buffer, length);
}

PRELOAD_API ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
{
    struct iovec iov = {.iov_base = buffer, .iov_len = length};

    if (guard_active)
        return guard_cancelable_call(SYS_pread64, (uintptr_t[6]){(uintptr_t)fd, (uintptr_t)buffer,
                                                                 length, (uintptr_t)offset});
    return offset >= 0 && is_direct(fd, &iov, 1) ? direct_read(fd, &iov, 1, offset, 0)
                                                 : libc.pread(fd, buffer, length, offset);
}

PRELOAD_API ssize_t readv(int fd, const struct iovec *iov, int count)
{
    if (guard_active)
        return guard_cancelable_call(
            SYS_readv, (uintptr_t[6]){(uintptr_t)fd, (uintptr_t)iov, (uintptr_t)count});
    return is_direct(fd, iov, count) ? direct_read(fd, iov, count, -1, 0)
                                     : libc.readv(fd, iov, count);
}

PRELOAD_API ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
    if (guard_active)
        return guard_cancelable_call(
            SYS_preadv,
            (uintptr_t[6]){(uintptr_t)fd, (uintptr_t)iov, (uintptr_t)count, (uintptr_t)offset});
    return offset >= 0 && is_direct(fd, iov, count) ? direct_read(fd, iov, count, offset, 0)
                                                    : libc.preadv(fd, iov, count, offset);
}

PRELOAD_API ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    if (guard_active)
        return guard_cancelable_call(SYS_preadv2,
                                     (uintptr_t[6]){(uintptr_t)fd, (uintptr_t)iov, (uintptr_t)count,
                                                    (uintptr_t)offset, 0, (uintptr_t)flags});
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
