#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "record.h"

/* Did whoever had it before remove it between our open() and our lock? */
static bool is_removed(int record)
{
    struct stat ours, named;

    return fstat(record, &ours) < 0 || stat(RECORD_PATH, &named) < 0 ||
           ours.st_ino != named.st_ino || ours.st_dev != named.st_dev;
}

int record_open(struct why *why)
{
    for (;;) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        int record = open(RECORD_PATH, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        int error = record < 0 ? -errno : 0;

        if (error != 0)
            return why_set(why, error, "cannot make %s: %s", RECORD_PATH, strerror(-error));
        if (fcntl(record, F_SETLK, &lock) < 0) {
            error = errno == EACCES || errno == EAGAIN ? -EBUSY : -errno;
            if (fcntl(record, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK)
                why_set(why, error, "another benchmark is running (process %d)", (int)lock.l_pid);
            else
                why_set(why, error, "cannot lock %s: %s", RECORD_PATH, strerror(-error));
            close(record);
            return error;
        }
        if (!is_removed(record))
            return record;
        close(record);
    }
}

void record_read(int record, char *text)
{
    ssize_t length = pread(record, text, RECORD_SIZE - 1, 0);

    text[length > 0 ? length : 0] = '\0';
}

int record_add(int record, const char *kind, const char *what)
{
    char *line;
    int length = asprintf(&line, "%s %s\n", kind, what), error = 0;

    if (length < 0)
        return -ENOMEM;
    if (strchr(what, '\n') != NULL)
        error = -EINVAL;
    else if (lseek(record, 0, SEEK_END) < 0 || write(record, line, (size_t)length) != length)
        error = -EIO;
    free(line);
    return error;
}

void record_clear(int record)
{
    if (ftruncate(record, 0) < 0)
        complain("cannot empty %s: %s", RECORD_PATH, strerror(errno));
}

void record_close(int record, bool keep)
{
    if (record < 0)
        return;
    if (!keep)
        unlink(RECORD_PATH);
    close(record);
}
