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

/* Bytes of the UTF-8 character at text; 0 if there is none. */
static size_t character_length(const unsigned char *text)
{
    /* By first byte: the length, and the range of the second byte, which keeps out characters
     * written longer than need be, surrogates, and what is over U+10FFFF. */
    static const struct {
        unsigned char first, last, length, low, high;
    } kinds[] = {
        {0x01, 0x7f, 1, 0, 0},       {0xc2, 0xdf, 2, 0x80, 0xbf}, {0xe0, 0xe0, 3, 0xa0, 0xbf},
        {0xe1, 0xec, 3, 0x80, 0xbf}, {0xed, 0xed, 3, 0x80, 0x9f}, {0xee, 0xef, 3, 0x80, 0xbf},
        {0xf0, 0xf0, 4, 0x90, 0xbf}, {0xf1, 0xf3, 4, 0x80, 0xbf}, {0xf4, 0xf4, 4, 0x80, 0x8f},
    };
    size_t kind = 0, length;

    while (text[0] < kinds[kind].first || text[0] > kinds[kind].last)
        if (++kind == sizeof(kinds) / sizeof(kinds[0]))
            return 0;
    if (kinds[kind].length > 1 && (text[1] < kinds[kind].low || text[1] > kinds[kind].high))
        return 0;
    for (length = 2; length < kinds[kind].length; length++)
        if ((text[length] & 0xc0) != 0x80)
            return 0;
    return kinds[kind].length;
}

json_t *output_string(const char *text)
{
    static const char replacement[] = "\xef\xbf\xbd";
    char *clean = malloc(strlen(text) * (sizeof(replacement) - 1) + 1), *to = clean;
    json_t *string;

    if (clean == NULL)
        return NULL;
    while (*text != '\0') {
        size_t length = character_length((const unsigned char *)text);

        if (length == 0) {
            to = stpcpy(to, replacement);
            text++;
            continue;
        }
        memcpy(to, text, length);
        to += length;
        text += length;
    }
    *to = '\0';
    string = json_string(clean);
    free(clean);
    return string;
}

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
        return error_set(-ENOMEM, "no memory to write " SHOWN_PATH, path);
    }
    fd = mkostemp(*name, O_CLOEXEC);
    if (fd >= 0)
        return fd;
    error = errno;
    free(*name);
    *name = NULL;
    return error_set(-error, "cannot make a file for the JSON report " SHOWN_PATH ": %s", path,
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
        return error_set(-EISDIR, "cannot write the JSON report: " SHOWN_PATH " is a directory",
                         path);
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
        return error_set(-errno, "cannot open " SHOWN_PATH " for the JSON report: %s", path,
                         strerror(errno));
    failed = json_dumpf(json, file, JSON_STYLE) != 0;
    failed |= fputc('\n', file) == EOF;
    failed |= fflush(file) != 0;
    if (file != stdout)
        failed |= fclose(file) != 0;
    return failed ? error_set(-EIO, "cannot write the JSON report to " SHOWN_PATH, path) : 0;
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
        error_set(-error, "cannot write the JSON report " SHOWN_PATH ": %s", path, strerror(error));
    }
    free(name);
    return -error;
}
