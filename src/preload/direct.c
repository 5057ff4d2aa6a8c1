/*
 * Reads by direct I/O: the device writes into the buffer's pages behind the page table, so they are
 * pinned for the call. (Direct writes need nothing: a trimmed page keeps its content until the
 * device has let go of it.)
 *
 * If not all of the buffer can be pinned the read is made shorter, which a program must expect.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "preload/kernel.h"
#include "preload/preload.h"

#define PIECES 64
#define PAGE ((uintptr_t)VMSM_PAGE_SIZE)

/* ---- pins ---- */

struct pinned {
    struct iovec iov[PIECES]; /* what may be read into */
    int count;
};

static long pin_range(const uintptr_t *a)
{
    return vmsm_pin(arena.manager, (void *)a[0], a[1]);
}

static long unpin_range(const uintptr_t *a)
{
    return vmsm_unpin(arena.manager, (void *)a[0], a[1]);
}

static void whole_pages(const struct iovec *piece, uintptr_t range[2])
{
    uintptr_t start = (uintptr_t)piece->iov_base & ~(PAGE - 1);

    range[0] = start;
    range[1] = (((uintptr_t)piece->iov_base + piece->iov_len + PAGE - 1) & ~(PAGE - 1)) - start;
}

/* Pin as much of a piece as can be; its length becomes that. 0 or a negative errno. */
static long pin_piece(struct iovec *piece)
{
    uintptr_t range[2];
    long error;

    for (;;) {
        whole_pages(piece, range);
        error = gate_shared_call(pin_range, range);
        if (error != -ENOMEM || piece->iov_len <= PAGE)
            return error;
        piece->iov_len = (piece->iov_len / 2 + PAGE - 1) & ~(PAGE - 1);
    }
}

static void unpin(const struct pinned *p)
{
    for (int i = 0; i < p->count; i++) {
        uintptr_t range[2];

        if (!arena_overlaps((uintptr_t)p->iov[i].iov_base, p->iov[i].iov_len))
            continue;
        whole_pages(&p->iov[i], range);
        gate_shared_call(unpin_range, range);
    }
}

/* 0, or a negative errno if nothing could be pinned. -EINVAL: not the manager's memory. */
static long pin(const struct iovec *iov, int count, struct pinned *p)
{
    p->count = 0;
    for (int i = 0; i < count && i < PIECES; i++) {
        size_t wanted = iov[i].iov_len;
        long error = 0;

        p->iov[i] = iov[i];
        if (arena_overlaps((uintptr_t)iov[i].iov_base, wanted))
            error = pin_piece(&p->iov[i]);
        if (error != 0 && error != -ENOMEM) {
            unpin(p);
            return error;
        }
        if (error != 0)
            return p->count > 0 ? 0 : error;
        p->count++;
        if (p->iov[i].iov_len < wanted)
            return 0;
    }
    return 0;
}

/* ---- which reads ---- */

static bool is_direct(int fd, const struct iovec *iov, int count)
{
    bool ours = false;
    int flags;

    if (!atomic_load_explicit(&arena.managed, memory_order_relaxed) || count < 1 || count > IOV_MAX)
        return false;
    for (int i = 0; i < count && !ours; i++)
        ours = arena_overlaps((uintptr_t)iov[i].iov_base, iov[i].iov_len);
    if (!ours)
        return false;
    flags = (int)kernel_call(SYS_fcntl, fd, F_GETFL);
    return flags >= 0 && (flags & O_DIRECT);
}

/* offset -1: the file's own position. */
static ssize_t direct_read(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    struct pinned p;
    long error = pin(iov, count, &p);
    ssize_t got;
    int saved;

    if (error == -EINVAL) /* unmapped, or not the manager's: the kernel knows what to say */
        return kernel_preadv2(fd, iov, count, offset, flags);
    if (error != 0) {
        errno = (int)-error;
        return -1;
    }
    got = kernel_preadv2(fd, p.iov, p.count, offset, flags);
    saved = errno;
    unpin(&p);
    errno = saved;
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
} libc = {kernel_read, kernel_pread, kernel_readv, kernel_preadv, kernel_preadv2};

static void find(void *pointer, const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);

    if (found != NULL)
        memcpy(pointer, &found, sizeof(found));
}

__attribute__((constructor(102))) static void find_all(void)
{
    find(&libc.read, "read");
    find(&libc.pread, "pread");
    find(&libc.readv, "readv");
    find(&libc.preadv, "preadv");
    find(&libc.preadv2, "preadv2");
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
