#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "scratch.h"

#define PIECE ((size_t)1 << 20)

static int zeroes_write(int fd, uint64_t size)
{
    char *zeroes = calloc(1, PIECE);
    int error = zeroes == NULL ? -ENOMEM : 0;

    for (uint64_t done = 0; done < size && error == 0;) {
        uint64_t left = size - done;
        ssize_t n = pwrite(fd, zeroes, left < PIECE ? (size_t)left : PIECE, (off_t)done);

        if (n <= 0)
            error = n < 0 ? -errno : -EIO;
        else
            done += (uint64_t)n;
    }
    free(zeroes);
    return error;
}

int scratch_make(const char *path, uint64_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), flags = 0, error;

    if (fd < 0)
        return -errno;
    /* Btrfs swaps only to files that it does not copy on write; others may refuse the flag. */
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags |= FS_NOCOW_FL;
        ioctl(fd, FS_IOC_SETFLAGS, &flags);
    }
    error = -posix_fallocate(fd, 0, (off_t)size);
    if (error == 0)
        error = zeroes_write(fd, size);
    if (error == 0 && fsync(fd) < 0)
        error = -errno;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    if (error != 0)
        unlink(path);
    return error;
}
