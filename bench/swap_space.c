#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/swap.h>
#include <unistd.h>

#include "scratch.h"
#include "swap_space.h"

#define PAGE 4096
#define OFF_TRIES 100
#define LABEL "vmsm-bench"
#define LABEL_SIZE 16
/* Where the kernel looks for them in the first page. */
#define VERSION_AT 1024
#define LAST_PAGE_AT 1028
#define LABEL_AT 1052
#define MAGIC "SWAPSPACE2"
#define MAGIC_AT (PAGE - 10)

int swap_format(const char *path, uint64_t size)
{
    uint8_t page[PAGE] = {0};
    uint32_t version = 1, last = (uint32_t)(size / PAGE - 1);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW), error = 0;

    if (fd < 0)
        return -errno;
    memcpy(page + VERSION_AT, &version, sizeof(version));
    memcpy(page + LAST_PAGE_AT, &last, sizeof(last));
    memcpy(page + LABEL_AT, LABEL, sizeof(LABEL));
    memcpy(page + MAGIC_AT, MAGIC, sizeof(MAGIC) - 1);
    errno = EIO; /* a short write sets none */
    if (pwrite(fd, page, sizeof(page), 0) != (ssize_t)sizeof(page) || fsync(fd) < 0)
        error = -errno;
    close(fd);
    return error;
}

bool swap_is_ours(const char *path)
{
    char label[LABEL_SIZE] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t got = fd < 0 ? 0 : pread(fd, label, sizeof(label), LABEL_AT);

    if (fd >= 0)
        close(fd);
    return got == (ssize_t)sizeof(label) && memcmp(label, LABEL, sizeof(LABEL)) == 0;
}

static int swap_try(const char *path)
{
    int error = swap_on(path);

    return error != 0 ? error : swap_off(path);
}

int swap_file_make(const char *path, uint64_t size, struct why *why)
{
    int error = scratch_make(path, size);

    if (error != 0)
        return why_set(why, error, "cannot make the swap file %s (%.0f MiB): %s", path,
                       (double)size / 1048576, strerror(-error));
    error = swap_format(path, size);
    if (error == 0)
        error = swap_try(path);
    if (error == 0)
        return 0;
    unlink(path);
    return why_set(why, error, "cannot use the swap file %s: %s%s", path, strerror(-error),
                   error == -EINVAL
                       ? " (this file system may not allow swap files: choose another directory)"
                   : error == -EPERM ? " (swapon takes the capability CAP_SYS_ADMIN)"
                                     : "");
}

int swap_on(const char *path)
{
    return swapon(path, SWAP_FLAG_PREFER | SWAP_FLAG_PRIO_MASK) < 0 ? -errno : 0;
}

int swap_off(const char *path)
{
    int error = -EINTR;

    /* A signal interrupts it; what it has brought back by then is done. */
    for (int i = 0; i < OFF_TRIES && error == -EINTR; i++)
        error = swapoff(path) < 0 ? -errno : 0;
    return error == -EINVAL || error == -ENOENT ? 0 : error;
}

bool swap_has_rival(char *name, size_t size)
{
    FILE *f = fopen("/proc/swaps", "re");
    char line[TEXT_PATH * 2], path[TEXT_PATH];
    bool found = false;
    int priority;

    while (f != NULL && !found && fgets(line, sizeof(line), f) != NULL) {
        found = sscanf(line, "%511s %*s %*s %*s %d", path, &priority) == 2 &&
                priority >= SWAP_FLAG_PRIO_MASK;
    }
    if (f != NULL)
        fclose(f);
    if (found)
        snprintf(name, size, "%s", path);
    return found;
}
