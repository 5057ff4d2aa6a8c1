#include "cli/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

#define JSON_STYLE (JSON_INDENT(2) | JSON_REAL_PRECISION(9))

/* Devices and pipes cannot be replaced by a rename; they are written as they are. */
static bool is_special(const char *path)
{
    struct stat status;

    return stat(path, &status) == 0 && !S_ISREG(status.st_mode);
}

/* Make the file beside path that will be renamed to it; *name is the caller's to free. */
static int beside_open(const char *path, char **name)
{
    int fd, error;

    if (asprintf(name, "%s.XXXXXX", path) < 0) {
        *name = NULL;
        return error_set(-ENOMEM, "no memory to write %s", path);
    }
    fd = mkostemp(*name, O_CLOEXEC);
    if (fd >= 0)
        return fd;
    error = errno;
    free(*name);
    *name = NULL;
    return error_set(-error, "cannot make a file for the JSON report %s: %s", path,
                     strerror(error));
}

int output_check(const char *path)
{
    struct stat status;
    char *name;
    int fd;

    if (path[0] == '\0')
        return error_set(-EINVAL, "json: the path is empty; give a file, or - for standard output");
    if (output_is_stdout(path))
        return 0;
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode))
        return error_set(-EISDIR, "cannot write the JSON report: %s is a directory", path);
    if (is_special(path))
        return 0;
    fd = beside_open(path, &name);
    if (fd < 0)
        return fd;
    close(fd);
    unlink(name);
    free(name);
    return 0;
}

static int special_write(const char *path, const json_t *json)
{
    FILE *file = output_is_stdout(path) ? stdout : fopen(path, "we");
    int failed;

    if (file == NULL)
        return error_set(-errno, "cannot open %s for the JSON report: %s", path, strerror(errno));
    failed = json_dumpf(json, file, JSON_STYLE) != 0;
    failed |= fputc('\n', file) == EOF;
    failed |= fflush(file) != 0;
    if (file != stdout)
        failed |= fclose(file) != 0;
    return failed ? error_set(-EIO, "cannot write the JSON report to %s", path) : 0;
}

int output_write(const char *path, const json_t *json)
{
    mode_t mask = umask(0);
    int fd, error = 0;
    char *name;

    umask(mask);
    if (output_is_stdout(path) || is_special(path))
        return special_write(path, json);
    fd = beside_open(path, &name);
    if (fd < 0)
        return fd;
    errno = 0;
    if (json_dumpfd(json, fd, JSON_STYLE) != 0 || write(fd, "\n", 1) != 1 ||
        fchmod(fd, 0666 & ~mask) != 0)
        error = errno != 0 ? errno : EIO;
    if (close(fd) != 0 && error == 0)
        error = errno;
    if (error == 0 && rename(name, path) != 0)
        error = errno;
    if (error != 0) {
        unlink(name);
        error_set(-error, "cannot write the JSON report %s: %s", path, strerror(error));
    }
    free(name);
    return -error;
}
