/*
 * The store `file`: opening, size and growth. See store.h for what it promises.
 */
#include "store/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/error.h"

#define SLOTS_MAX ((uint64_t)INT64_MAX / SLOT_SIZE)

/* An amount in the unit that suits it. */
struct amount {
    char text[24];
};

static const char *amount_of(double bytes, struct amount *a)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = bytes / 1024;
    size_t unit = 0;

    for (; value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0]); unit++)
        value /= 1024;
    snprintf(a->text, sizeof(a->text), "%.1f %s", value, units[unit]);
    return a->text;
}

static const char *slots_amount(uint64_t slots, struct amount *a)
{
    return amount_of((double)slots * SLOT_SIZE, a);
}

/* Free space of the file system. */
static const char *free_amount(int fd, struct amount *a)
{
    struct statvfs fs;

    if (fstatvfs(fd, &fs) != 0)
        return "an unknown amount";
    return amount_of((double)fs.f_bavail * (double)fs.f_frsize, a);
}

static int explain_grow(const struct file_store *store, uint64_t slots, int code)
{
    const char *where = store->base.where;
    struct amount needed, left;

    switch (code) {
    case -ENOSPC:
    case -EDQUOT:
        return error_set(code,
                         "pagefile %s: %s: %s more were needed, the file system has %s free; free "
                         "some, put the pagefile on another disk (pagefile, TMPDIR), or map less "
                         "memory",
                         where, code == -ENOSPC ? "the disk is full" : "the quota is used up",
                         slots_amount(slots - store->base.slots, &needed),
                         free_amount(store->path.fd, &left));
    case -EFBIG:
        return error_set(code,
                         "pagefile %s: %s is more than the file system allows one file to have; "
                         "use another file system, a block device, or map less memory",
                         where, slots_amount(slots, &needed));
    default:
        return error_set(code, "pagefile %s cannot be made %s large: %s; give another path", where,
                         slots_amount(slots, &needed), strerror(-code));
    }
}

/* Past the limit, ftruncate() and fallocate() would kill the process with SIGXFSZ. */
static int check_size_limit(const struct file_store *store, uint64_t slots)
{
    struct amount needed, most;
    struct rlimit limit;

    if (store->path.block)
        return 0;
    if (slots > SLOTS_MAX)
        return explain_grow(store, slots, -EFBIG);
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
        slots * SLOT_SIZE <= limit.rlim_cur)
        return 0;
    return error_set(-EFBIG,
                     "pagefile %s: %s is over the file size limit of %s; raise it (ulimit -f), or "
                     "use a block device",
                     store->base.where, slots_amount(slots, &needed),
                     amount_of((double)limit.rlim_cur, &most));
}

static int truncate_to(int fd, uint64_t bytes)
{
    int err;

    do
        err = ftruncate(fd, (off_t)bytes) == 0 ? 0 : -errno;
    while (err == -EINTR);
    return err;
}

/* Reserve blocks for [from, to); after a failure the file is `from` long again. */
static int reserve(struct file_store *store, uint64_t from, uint64_t to, uint64_t old_bytes)
{
    int err, fd = store->path.fd;

    do
        err = fallocate(fd, 0, (off_t)from, (off_t)(to - from)) == 0 ? 0 : -errno;
    while (err == -EINTR);
    if (err == -EOPNOTSUPP || err == -ENOSYS) {
        log_line(LOG_ADVICE,
                 "pagefile %s: this file system cannot reserve space; a full disk "
                 "will be noticed only when pages are written",
                 store->base.where);
        store->preallocate = false;
        return 0;
    }
    if (err != 0)
        truncate_to(fd, old_bytes);
    return err;
}

/* Make a regular file `slots` long, its blocks from slot `from` on reserved if wanted. */
static int resize(struct file_store *store, uint64_t from, uint64_t slots, uint64_t old_bytes)
{
    uint64_t bytes = slots * SLOT_SIZE;
    int err;

    err = check_size_limit(store, slots);
    if (err != 0)
        return err;
    if (store->preallocate)
        err = reserve(store, from * SLOT_SIZE, bytes, old_bytes);
    if (err == 0 && !store->preallocate && bytes > old_bytes)
        err = truncate_to(store->path.fd, bytes);
    if (err != 0)
        return explain_grow(store, slots, err);
    store->base.slots = slots;
    return 0;
}

static int file_grow(struct store *base, uint64_t slots)
{
    struct file_store *store = (struct file_store *)base;
    uint64_t old_bytes = base->slots * SLOT_SIZE;
    struct amount has, needed;

    if (slots <= base->slots)
        return 0;
    if (!base->can_grow)
        return error_set(-ENOSPC,
                         "pagefile %s has a fixed size of %s, and %s are needed; %s, or map "
                         "less memory",
                         base->where, slots_amount(base->slots, &has), slots_amount(slots, &needed),
                         store->path.block ? "use a larger device" : "raise pagefile_size");
    if (old_bytes < (uint64_t)store->path.size)
        old_bytes = (uint64_t)store->path.size; /* it ended within a slot */
    return resize(store, base->slots, slots, old_bytes);
}

static int size_device(struct file_store *store, uint64_t wanted)
{
    uint64_t slots = (uint64_t)store->path.size / SLOT_SIZE;
    struct amount has, needed;

    if (slots < 2 || slots < wanted)
        return error_set(-ENOSPC,
                         "pagefile %s: the device has %s, fewer than the %s needed; use a larger "
                         "one, or a smaller pagefile_size",
                         store->base.where, slots_amount(slots, &has),
                         slots_amount(wanted < 2 ? 2 : wanted, &needed));
    store->base.slots = wanted > 0 ? wanted : slots;
    return 0;
}

/* The first size. An existing file is never made shorter, its holes are filled if that is wanted.
 */
static int size_first(struct file_store *store, uint64_t wanted)
{
    uint64_t old_bytes = (uint64_t)store->path.size, slots = wanted;

    if (store->path.block)
        return size_device(store, wanted);
    if (slots == 0)
        slots = old_bytes / SLOT_SIZE;
    if (slots == 0)
        slots = 1; /* slot 0, for the mark */
    store->base.can_grow = wanted == 0;
    return resize(store, 0, slots, old_bytes);
}

/*
 * Write the mark to slot 0 and read it back: a real transfer, since some file systems let O_DIRECT
 * be set and refuse the I/O.
 */
static int mark_write(const struct file_store *store)
{
    size_t size = SLOT_SIZE;
    char *pages = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ssize_t got;
    int err = 0;

    if (pages == MAP_FAILED)
        return -ENOMEM;
    file_mark_make(pages);
    got = pwrite(store->path.fd, pages, size, 0);
    if (got == (ssize_t)size)
        got = pread(store->path.fd, pages + size, size, 0);
    if (got < 0)
        err = -errno;
    else if (got != (ssize_t)size || memcmp(pages, pages + size, size) != 0)
        err = -EIO;
    munmap(pages, 2 * size);
    return err;
}

static int set_direct(struct file_store *store, bool on)
{
    int flags = fcntl(store->path.fd, F_GETFL);

    if (flags < 0 || fcntl(store->path.fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) < 0)
        return -errno;
    store->direct = on;
    return 0;
}

/* Choose between direct and buffered I/O; what was chosen has been tried, and the mark written. */
static int choose_direct(struct file_store *store, bool wanted)
{
    int err = -EINVAL;

    if (wanted) {
        err = set_direct(store, true);
        if (err == 0)
            err = mark_write(store);
        if (err == 0)
            return 0;
        if (err == -EINVAL || err == -EOPNOTSUPP)
            log_line(LOG_ADVICE,
                     "pagefile %s: direct I/O is refused there, so buffered I/O is "
                     "used: the system's page cache will hold the pages a second "
                     "time; use another file system to avoid it",
                     store->base.where);
    }
    if (!wanted || err == -EINVAL || err == -EOPNOTSUPP) {
        set_direct(store, false);
        posix_fadvise(store->path.fd, 0, 0, POSIX_FADV_RANDOM);
        err = mark_write(store);
    }
    if (err == -ENOSPC || err == -EDQUOT)
        return error_set(err,
                         "pagefile %s: the disk is full; free some space, or give another "
                         "path",
                         store->base.where);
    if (err != 0)
        return error_set(err,
                         "pagefile %s: its mark could not be written and read back: %s; check the "
                         "disk, or give another path",
                         store->base.where, strerror(-err));
    return 0;
}

static void file_close(struct store *base)
{
    struct file_store *store = (struct file_store *)base;

    file_path_close(&store->path);
    free(store);
}

static const struct store_ops file_ops = {
    .name = "file",
    .grow = file_grow,
    .queue_open = file_queue_open,
    .queue_close = file_queue_close,
    .submit = file_queue_submit,
    .reap = file_queue_reap,
    .transfer = file_queue_transfer,
    .queue_fd = file_queue_fd,
    .close = file_close,
};

int store_file_open(const struct store_file_options *options, struct store **out)
{
    struct file_store *store = calloc(1, sizeof(*store));
    int err;

    if (store == NULL)
        return error_set(-ENOMEM, "pagefile %s: out of memory", options->path);
    store->base.ops = &file_ops;
    store->preallocate = options->preallocate;
    err = file_path_open(options->path, &store->path);
    if (err != 0)
        goto out;
    memcpy(store->base.where, store->path.where, sizeof(store->base.where));
    if (!options->force)
        err = file_mark_check(&store->path);
    if (err == 0)
        err = size_first(store, options->size_slots);
    if (err == 0)
        err = choose_direct(store, options->direct);
    if (err != 0)
        goto out;
    store->ring = file_ring_allowed(store->base.where);
    snprintf(store->base.how, sizeof(store->base.how), "%s, %s",
             store->direct ? "direct" : "buffered", store->ring ? "io_uring" : "pread");
    *out = &store->base;
out:
    if (err != 0)
        file_close(&store->base);
    return err;
}
