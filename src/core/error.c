#include "core/error.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define LOG_LINE_MAX 1024

/* Out of the way of programs that expect small numbers; under the usual limit of 1024. */
#define LOG_DESCRIPTOR_FROM 900

/* initial-exec: reached without a call, so it never allocates, not even on a thread's first use. */
static _Thread_local char error_text[ERROR_TEXT_MAX] __attribute__((tls_model("initial-exec")));

static _Atomic int log_fd = -1;
static _Atomic bool log_hides_advice;
static _Atomic uint32_t log_missing; /* lines left out since the last that was written */

/* A pipe or terminal is opened anew, so that it can be written without waiting while the program
 * keeps its own flags. Not that, if there is nothing of the kind or it may not be opened. */
static int open_anew(void)
{
    struct stat st;
    int opened, fd;

    if (fstat(STDERR_FILENO, &st) != 0 || !(S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)))
        return -1;
    opened = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (opened < 0)
        return -1;
    fd = fcntl(opened, F_DUPFD_CLOEXEC, LOG_DESCRIPTOR_FROM);
    if (fd < 0)
        return opened;
    close(opened);
    return fd;
}

static int copy_standard_error(void)
{
    int fd = open_anew();

    return fd >= 0 ? fd : fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, LOG_DESCRIPTOR_FROM);
}

/* Early, so that other constructors may log. */
__attribute__((constructor(101))) static void log_open(void)
{
    int saved = errno;
    int fd = copy_standard_error();

    if (fd < 0)
        fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    /* Without a spare descriptor use 2 itself; if there is no standard error, be silent. */
    if (fd < 0 && errno != EBADF)
        fd = STDERR_FILENO;
    atomic_store_explicit(&log_fd, fd, memory_order_relaxed);
    errno = saved;
}

/* Leave nothing in it that a terminal would take for an order. */
static void one_line(char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            text[i] = '?';
    }
}

int error_set(int code, const char *format, ...)
{
    char text[ERROR_TEXT_MAX]; /* the arguments may point into error_text */
    int saved = errno;
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    size_t length = strnlen(text, sizeof(text) - 1);
    one_line(text, length);
    memcpy(error_text, text, length + 1);
    errno = saved;
    return code;
}

const char *error_last(void)
{
    return error_text;
}

static bool is_file(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

/*
 * One call, so that lines of several threads or processes do not mix. False: a pipe or terminal
 * that nobody reads has no room. It is not waited for: who logs may be the only thread that serves
 * faults, and who should read may be asleep in one. (Inside read(), with the pipe's lock, which no
 * call only tries for, he would stop us all the same: error.h.)
 */
static bool line_write(int fd, const char *line, size_t length)
{
    struct pollfd ready = {.fd = fd, .events = POLLOUT};
    const struct iovec whole = {.iov_base = (char *)(uintptr_t)line, .iov_len = length};
    ssize_t written;

    if (poll(&ready, 1, 0) == 0)
        return false;
    do
        written = pwritev2(fd, &whole, 1, -1, RWF_NOWAIT);
    while (written < 0 && errno == EINTR);
    if (written < 0 && errno == EAGAIN && !is_file(fd))
        return false;
    if (written >= 0)
        return true;
    /* The system has no such call for it. There was room a moment ago; and what has been opened
     * anew does not wait. */
    do
        written = write(fd, line, length);
    while (written < 0 && errno == EINTR);
    return written >= 0 || errno != EAGAIN;
}

/* Say how many lines are missing before the next; false if not even that can be written. */
static bool missing_write(int fd)
{
    uint32_t missing = atomic_exchange(&log_missing, 0);
    char line[80];
    int length;

    if (missing == 0)
        return true;
    length = snprintf(line, sizeof(line), "vmsm: warning: lines that nobody read are missing: %u\n",
                      missing);
    if (line_write(fd, line, (size_t)length))
        return true;
    atomic_fetch_add(&log_missing, missing);
    return false;
}

/* `note` ends the line; it is there even if the line is cut. */
static void log_write(enum log_level level, const char *note, const char *format, va_list args)
{
    char line[LOG_LINE_MAX];
    int saved = errno;
    int fd = log_descriptor();

    if (fd < 0 || (level == LOG_ADVICE && atomic_load(&log_hides_advice)))
        return;
    size_t start =
        (size_t)snprintf(line, sizeof(line), "vmsm: %s", level == LOG_ERROR ? "" : "warning: ");
    size_t end = strlen(note);
    size_t room = sizeof(line) - start - end - 1; /* a byte is kept for the newline */
    int length = vsnprintf(line + start, room, format, args);
    size_t used = length < 0 ? 0 : (size_t)length < room ? (size_t)length : room - 1;
    one_line(line, start + used);
    memcpy(line + start + used, note, end + 1);
    used += end;
    line[start + used] = '\n';
    if (!missing_write(fd) || !line_write(fd, line, start + used + 1))
        atomic_fetch_add(&log_missing, 1);
    errno = saved;
}

void log_line(enum log_level level, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_write(level, "", format, args);
    va_end(args);
}

void log_repeated(_Atomic uint32_t *said, enum log_level level, const char *format, ...)
{
    uint32_t number = atomic_fetch_add_explicit(said, 1, memory_order_relaxed) + 1;
    char note[80] = "";
    va_list args;

    if (number > LOG_REPEATED_MAX && (number & (number - 1)) != 0)
        return;
    if (number >= LOG_REPEATED_MAX)
        snprintf(note, sizeof(note), " (line %u of its kind; most that follow are not shown)",
                 number);
    va_start(args, format);
    log_write(level, note, format, args);
    va_end(args);
}

void log_show_advice(bool show)
{
    atomic_store(&log_hides_advice, !show);
}

/* The number stays: another thread may be writing to it. */
void log_follow(void)
{
    int saved = errno, now = log_descriptor();
    int fd = now > STDERR_FILENO ? copy_standard_error() : -1;

    if (now > STDERR_FILENO && fd < 0)
        fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        dup3(fd, now, O_CLOEXEC);
        close(fd);
    }
    errno = saved;
}

int log_descriptor(void)
{
    return atomic_load_explicit(&log_fd, memory_order_relaxed);
}

void log_use_descriptor(int fd)
{
    atomic_store_explicit(&log_fd, fd, memory_order_relaxed);
}
