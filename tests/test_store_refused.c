/*
 * The store `file`: every way in which it can be refused, and what is said then.
 *
 * Mounts are made in a mount namespace of our own, as root only.
 */
#include <errno.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "store_fixture.h"

/* ---- paths and permissions ---- */

static void test_bad_paths(void)
{
    char *file = in_directory("file"), *link = in_directory("link");
    char *name = malloc(5001);

    close(open(file, O_CREAT | O_RDWR, 0600));
    refused("no directory", in_directory("no/such"), 4, false, -ENOENT, "does not exist");
    refused("a directory", directory, 4, false, -EISDIR, "is a directory");
    refused("a path through a file", in_directory("file/x"), 4, false, -ENOTDIR, "not a directory");
    is(symlink(file, link), 0, "a symbolic link");
    refused("a symbolic link", link, 4, false, -ELOOP, file);
    unlink(link);
    is(symlink("nowhere", link), 0, "a symbolic link to nowhere");
    refused("a symbolic link to nowhere", link, 4, false, -ELOOP, "leads nowhere");
    unlink(link);
    refused("a character device", "/dev/null", 4, false, -EINVAL, "neither a file nor");
    is(mkfifo(in_directory("fifo"), 0600), 0, "a pipe");
    refused("a pipe", in_directory("fifo"), 4, false, -EINVAL, "neither a file nor");
    unlink(in_directory("fifo"));
    memset(name, 'x', 5000);
    name[5000] = '\0';
    refused("a long path", name, 4, false, -ENAMETOOLONG, "too long");
    refused("a size that no file has", in_directory("huge"), UINT64_MAX / PAGE, false, -EFBIG,
            "more than the file system allows");
    refused("a size that overflows", in_directory("huge"), UINT64_MAX, false, -EFBIG,
            "more than the file system allows");
    is(access(in_directory("huge"), F_OK), -1, "a file made in vain is removed");
    unlink(file);
    free(name);
}

static void test_permission(void)
{
    char *path = in_directory("forbidden"), *inside = in_directory("closed/file");
    char command[600];

    if (geteuid() != 0) {
        skip("permissions: needs root, to make files of another user");
        return;
    }
    close(open(path, O_CREAT | O_RDWR, 0600));
    chmod(directory, 0755);
    mkdir(in_directory("closed"), 0755);
    if (seteuid(65534) != 0)
        exit(1);
    refused("another user's file", path, 4, false, -EACCES, "chmod or chown");
    refused("another user's directory", inside, 4, false, -EACCES, "may write to");
    if (seteuid(0) != 0)
        exit(1);
    rmdir(in_directory("closed"));
    snprintf(command, sizeof(command), "chattr +i %s 2>/dev/null", path);
    if (run(command) != 0) {
        skip("chattr +i does not work here");
    } else {
        refused("an immutable file", path, 4, false, -EPERM, "chattr");
        snprintf(command, sizeof(command), "chattr -i %s", path);
        is(run(command), 0, "mutable again");
    }
    unlink(path);
}

/* ---- limits ---- */

static void test_descriptors(void)
{
    struct rlimit before, few;
    struct store *store;
    struct store_queue *queues[8] = {0};
    int next = dup(0), err = 0;
    char how[sizeof(store->how)];
    unsigned i;

    close(next);
    getrlimit(RLIMIT_NOFILE, &before);
    few = before;
    few.rlim_cur = (rlim_t)next;
    setrlimit(RLIMIT_NOFILE, &few);
    refused("no descriptor left", in_directory("descriptors"), 4, false, -EMFILE, "ulimit -n");
    few.rlim_cur = (rlim_t)next + 3;
    setrlimit(RLIMIT_NOFILE, &few);
    is(open_store(in_directory("descriptors"), 4, true, false, &store), 0, "three left: opens");
    memcpy(how, store->how, sizeof(how));
    for (i = 0; i < 8 && err == 0; i++)
        err = store->ops->queue_open(store, 4, &queues[i]);
    if (store->ops->queue_fd(queues[0]) < 0) {
        skip("without io_uring a queue needs no descriptor");
    } else {
        is(err, -EMFILE, "queues run out of descriptors");
        ok(strstr(error_last(), "too few file descriptors (ulimit -n)") != NULL, "in words");
        is(i, 3, "at the third");
    }
    for (i = 0; i < 8 && queues[i] != NULL; i++)
        store->ops->queue_close(queues[i]);
    store->ops->close(store);
    few.rlim_cur = (rlim_t)next + 1;
    setrlimit(RLIMIT_NOFILE, &few);
    is(open_store(in_directory("descriptors"), 4, true, false, &store), 0, "one left: opens");
    ok(strcmp(how, store->how) == 0, "without taking it for a lack of io_uring");
    store->ops->close(store);
    setrlimit(RLIMIT_NOFILE, &before);
}

static void test_file_size_limit(void)
{
    struct rlimit before, small;
    struct store *store;

    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 64 * PAGE;
    setrlimit(RLIMIT_FSIZE, &small);
    refused("over the file size limit", in_directory("limit"), 65, true, -EFBIG, "ulimit -f");
    is(open_store(in_directory("limit"), 0, true, true, &store), 0, "under the limit");
    is(store->ops->grow(store, 64), 0, "grown to the limit");
    is(store->ops->grow(store, 65), -EFBIG, "over it is refused, not killed");
    is(store->slots, 64, "the old size holds");
    store->ops->close(store);
    setrlimit(RLIMIT_FSIZE, &before);
}

/* ---- file systems of our own ---- */

static void test_full_disk(void)
{
    char *path = in_directory("mnt/pages");
    struct store *store;
    struct store_queue *queue;
    struct stat st;
    char *pages = new_pages(MIB_SLOTS);
    int err = 0;
    unsigned written;

    refused("full disk", path, 64 * MIB_SLOTS, true, -ENOSPC, "the disk is full: 64.0 MiB more");
    is(access(path, F_OK), -1, "full disk: the file is removed");
    is(open_store(path, 0, true, true, &store), 0, "full disk: a store that grows");
    is(store->ops->grow(store, 2 * MIB_SLOTS), 0, "full disk: grows while there is room");
    is(store->ops->grow(store, 66 * MIB_SLOTS), -ENOSPC, "full disk: then fails");
    ok(strstr(error_last(), "64.0 MiB more were needed") != NULL, "full disk: says how much");
    note("%s", error_last());
    is(store->slots, 2 * MIB_SLOTS, "full disk: the old size holds");
    ok(stat(path, &st) == 0 && st.st_size == 2 * MIB_SLOTS * PAGE &&
           st.st_blocks * 512 < 3 * MIB_SLOTS * PAGE,
       "full disk: and what was reserved in vain is free again");
    is(store->ops->grow(store, 3 * MIB_SLOTS), 0, "full disk: it may grow less");
    store->ops->close(store);

    is(open_store(path, 64 * MIB_SLOTS, true, false, &store), 0, "full disk, not reserved: opens");
    if (store->ops->queue_open(store, 4, &queue) != 0)
        exit(1);
    for (written = 0; written < 64 && err == 0; written++)
        err = transfer(store, queue, true, 1 + written * MIB_SLOTS, MIB_SLOTS, pages);
    is(err, -ENOSPC, "full disk, not reserved: a write says so");
    store->ops->queue_close(queue);
    store->ops->close(store);
    free_pages(pages, MIB_SLOTS);
}

static void test_read_only(void)
{
    char command[600];

    close(open(in_directory("mnt/old"), O_CREAT | O_RDWR, 0600));
    snprintf(command, sizeof(command), "mount -o remount,ro %s/mnt", directory);
    if (run(command) != 0) {
        skip("cannot remount read-only");
        return;
    }
    refused("read-only, new file", in_directory("mnt/new"), 4, true, -EROFS, "read-only");
    refused("read-only, old file", in_directory("mnt/old"), 4, true, -EROFS, "read-only");
}

static void test_no_direct(void)
{
    struct store *store;
    const char *text;

    if (mount("none", in_directory("mnt"), "ramfs", 0, NULL) != 0) {
        skip("ramfs cannot be mounted: %s", strerror(errno));
        return;
    }
    log_catch();
    is(open_store(in_directory("mnt/pages"), 0, true, true, &store), 0, "no O_DIRECT: opens");
    text = log_caught();
    ok(strstr(text, "direct I/O is refused") != NULL, "no O_DIRECT: a warning");
    ok(strstr(text, "cannot reserve space") != NULL, "no fallocate: a warning");
    note("%s", text);
    ok(strncmp(store->how, "buffered", 8) == 0, "no O_DIRECT: buffered");
    is(store->ops->grow(store, 100), 0, "no fallocate: grows");
    store->ops->close(store);
    test_data("no O_DIRECT", in_directory("mnt/pages"), true, true);
    umount(in_directory("mnt"));
}

static void test_device(const char *device)
{
    struct store *store, *second;
    char command[600];

    is(open_store(device, 0, true, true, &store), 0, "a block device opens");
    ok(!store->can_grow, "a block device cannot grow");
    is(store->slots, 16 * MIB_SLOTS, "a block device has its size");
    is(store->ops->grow(store, 17 * MIB_SLOTS), -ENOSPC, "and keeps it");
    ok(strstr(error_last(), "larger device") != NULL, "which says what to do");
    is(open_store(device, 0, true, true, &second), -EBUSY, "it is locked, too");
    store->ops->close(store);
    is(access(device, F_OK), 0, "it is there after close");
    refused("a device too small", device, 17 * MIB_SLOTS, true, -ENOSPC, "the device has 16.0 MiB");
    test_data("a block device", device, true, true);
    snprintf(command, sizeof(command), "mkfs.ext4 -q -F %s && mount %s %s/mnt", device, device,
             directory);
    if (run(command) != 0) {
        skip("the device cannot be mounted");
        return;
    }
    refused("a mounted device", device, 0, true, -EBUSY, "mounted or in use");
    umount(in_directory("mnt"));
}

static bool own_mounts(void)
{
    return geteuid() == 0 && unshare(CLONE_NEWNS) == 0 &&
           mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mkdir(in_directory("mnt"), 0755) == 0;
}

static void test_file_systems(void)
{
    char command[1200], device[64] = "";
    FILE *pipe;

    if (!own_mounts()) {
        skip("full disk, read-only, no O_DIRECT, devices: needs root, to mount file systems");
        return;
    }
    test_no_direct();
    snprintf(command, sizeof(command),
             "truncate -s 16M %s/image && mkfs.ext4 -q -F %s/image && "
             "mount -o loop %s/image %s/mnt",
             directory, directory, directory, directory);
    if (run(command) == 0) {
        test_full_disk();
        test_read_only();
        umount(in_directory("mnt"));
    } else {
        skip("full disk, read-only: mkfs.ext4 or mount -o loop does not work here");
    }
    unlink(in_directory("image"));
    snprintf(command, sizeof(command), "truncate -s 16M %s/disk && losetup -f --show %s/disk",
             directory, directory);
    pipe = popen(command, "r");
    if (pipe != NULL && fgets(device, sizeof(device), pipe) != NULL)
        device[strcspn(device, "\n")] = '\0';
    if (pipe != NULL)
        pclose(pipe);
    if (device[0] == '/') {
        test_device(device);
        snprintf(command, sizeof(command), "losetup -d %s", device);
        is(run(command), 0, "the device is let go");
    } else {
        skip("block devices: losetup does not work here");
    }
    unlink(in_directory("disk"));
    rmdir(in_directory("mnt"));
}

int main(void)
{
    if (!directory_make("test_store_refused"))
        return 1;
    test_bad_paths();
    test_permission();
    test_descriptors();
    test_file_size_limit();
    test_file_systems();
    is(rmdir(directory), 0, "nothing is left behind");
    return done_testing();
}
