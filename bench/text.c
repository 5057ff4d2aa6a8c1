#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "text.h"

int why_set(struct why *why, int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why->text, sizeof(why->text), format, args);
    va_end(args);
    return code;
}

void complain(const char *format, ...)
{
    va_list args;

    fprintf(stderr, "%s: ", program_invocation_short_name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

static int text_open(const char *dir, const char *name, int flags)
{
    char path[TEXT_PATH + 64];
    int fd;

    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int text_read(const char *dir, const char *name, char *to, size_t size)
{
    int fd = text_open(dir, name, O_RDONLY), error = 0;
    ssize_t length;

    to[0] = '\0';
    if (fd < 0)
        return fd;
    length = read(fd, to, size - 1);
    if (length < 0)
        error = -errno;
    to[length > 0 ? length : 0] = '\0';
    close(fd);
    return error;
}

int text_write(const char *dir, const char *name, const char *text)
{
    int fd = text_open(dir, name, O_WRONLY), error = 0;

    if (fd < 0)
        return fd;
    if (write(fd, text, strlen(text)) < 0)
        error = -errno;
    close(fd);
    return error;
}

int text_write_number(const char *dir, const char *name, uint64_t number)
{
    char text[32];

    snprintf(text, sizeof(text), "%" PRIu64, number);
    return text_write(dir, name, text);
}

uint64_t text_number(const char *dir, const char *name)
{
    char text[64];

    return text_read(dir, name, text, sizeof(text)) == 0 ? strtoull(text, NULL, 10) : 0;
}
