/*
 * A pagefile overwrites nothing that somebody needs: files and devices without a pagefile's mark
 * are refused and left as they were, unless they hold nothing or their owner forces it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "core/error.h"
#include "store/store.h"
#include "tap.h"

#define PAGE 4096
#define DEVICE_SIZE (4 << 20)

static char directory[] = "/var/tmp/vmsm-test-XXXXXX";
static bool write_fails;

/* As the C library's, but failing when asked to. */
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset)
{
    ssize_t put;

    if (write_fails) {
        errno = EIO;
        return -1;
    }
    if (lseek(fd, offset, SEEK_SET) != offset)
        return -1;
    put = write(fd, bytes, length);
    return put;
}

static const char *file(void)
{
    static char path[512];

    snprintf(path, sizeof(path), "%s/pages", directory);
    return path;
}

static void make(const void *content, size_t length)
{
    int fd = open(file(), O_CREAT | O_WRONLY | O_TRUNC, 0600);

    if (fd < 0 || write(fd, content, length) != (ssize_t)length) {
        printf("Bail out! %s cannot be made\n", file());
        exit(1);
    }
    close(fd);
}

static int open_store(const char *path, bool force, struct store **store)
{
    struct store_file_options options = {
        .path = path, .size_slots = 16, .direct = true, .force = force};

    *store = NULL;
    return store_file_open(&options, store);
}

static void refused(const char *path, const char *words)
{
    struct store *store;

    is(open_store(path, false, &store), -EEXIST, "%s: refused", words);
    ok(strstr(error_last(), words) != NULL && strstr(error_last(), "pagefile_force=on") != NULL,
       "%s: says what it is, and what to do: %s", words, error_last());
    if (store != NULL)
        store->ops->close(store);
}

static void taken(const char *path, bool force, const char *what)
{
    struct store *store;

    is(open_store(path, force, &store), 0, "%s: used", what);
    if (store != NULL)
        store->ops->close(store);
}

static void test_content(void)
{
    static const struct {
        const char *words, *content;
        size_t length;
    } kinds[] = {
        {"holds text (30 bytes)", "Chapter 1\nIt was a dark night.", 30},
        {"holds a program or library", "\177ELF\2\1\1\0\0\0\0\0\0\0\0\0", 16},
        {"holds a script", "#!/bin/sh\n", 10},
        {"holds data of unknown kind", "vmsm pagefile", 14},
        {"holds data of unknown kind (1 bytes)", "", 1},
    };

    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        char now[64];
        int fd;

        make(kinds[i].content, kinds[i].length);
        refused(file(), kinds[i].words);
        fd = open(file(), O_RDONLY);
        ok(read(fd, now, sizeof(now)) == (ssize_t)kinds[i].length &&
               memcmp(now, kinds[i].content, kinds[i].length) == 0,
           "%s: it is as it was", kinds[i].words);
        close(fd);
    }
    taken(file(), true, "the same, forced");
    taken(file(), false, "which made it a pagefile");
    unlink(file());
}

static void test_blank(void)
{
    struct stat st;

    make("", 0);
    taken(file(), false, "an empty file");
    taken(file(), false, "what a run left");
    is(stat(file(), &st), 0, "a file that was there stays");
    make("", 0);
    is(truncate(file(), 1 << 20), 0, "a file that was only made large");
    taken(file(), false, "a hole");
    unlink(file());
}

/* Content far behind the beginning is content too. */
static void test_behind(void)
{
    int fd;

    make("", 0);
    fd = open(file(), O_WRONLY);
    is(lseek(fd, 1 << 20, SEEK_SET), 1 << 20, "a hole,");
    is(write(fd, "thesis", 6), 6, "then content");
    close(fd);
    refused(file(), "holds data of unknown kind");
    unlink(file());
}

static void test_failure(void)
{
    struct store *store;

    write_fails = true;
    is(open_store(file(), false, &store), -EIO, "the mark cannot be written");
    ok(strstr(error_last(), "mark could not be written") != NULL, "in words: %s", error_last());
    write_fails = false;
    is(access(file(), F_OK), -1, "the file that was made for it is gone");
}

/* A loop device over the file; its path, or NULL where there is none to be had. */
static const char *attach(int *device)
{
    static char path[32];
    int control = open("/dev/loop-control", O_RDWR), number, backing;

    *device = -1;
    number = control >= 0 ? ioctl(control, LOOP_CTL_GET_FREE) : -1;
    if (control >= 0)
        close(control);
    if (number < 0)
        return NULL;
    snprintf(path, sizeof(path), "/dev/loop%d", number);
    backing = open(file(), O_RDWR);
    *device = open(path, O_RDWR);
    if (*device >= 0 && ioctl(*device, LOOP_SET_FD, backing) != 0) {
        close(*device);
        *device = -1;
    }
    close(backing);
    return *device >= 0 ? path : NULL;
}

static void test_device(void)
{
    static const char superblock[] = "\x53\xef", nothing[PAGE];
    const char *path;
    int device;

    make("", 0);
    is(truncate(file(), DEVICE_SIZE), 0, "a file for a device");
    path = attach(&device);
    if (path == NULL) {
        skip("block devices: no loop device can be had");
        unlink(file());
        return;
    }
    taken(path, false, "a blank device");
    taken(path, false, "a device that a run left");
    is(pwrite(device, nothing, PAGE, 0), PAGE, "without the mark,");
    is(pwrite(device, superblock, 2, 1080), 2, "with a file system's");
    is(fsync(device), 0, "on the device");
    refused(path, "ext4 file system");
    is(pwrite(device, nothing, PAGE, 0), PAGE, "cleared,");
    is(pwrite(device, "end", 3, DEVICE_SIZE - 512), 3, "something at its end");
    is(fsync(device), 0, "on the device");
    refused(path, "blkdiscard");
    taken(path, true, "the same, forced");
    ioctl(device, LOOP_CLR_FD);
    close(device);
    unlink(file());
}

int main(void)
{
    if (mkdtemp(directory) == NULL)
        skip_all("no directory in /var/tmp: %s", strerror(errno));
    test_content();
    test_blank();
    test_behind();
    test_failure();
    test_device();
    is(rmdir(directory), 0, "nothing is left behind");
    return done_testing();
}
