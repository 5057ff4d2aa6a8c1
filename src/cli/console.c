#include "cli/console.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LINE_SIZE 256

/* There is one standard error in a process, hence one of these. */
static struct {
    pthread_mutex_t lock; /* guards all below, and the order of output */
    size_t drawn;         /* lines of the block on the screen; the cursor is below them */
    size_t count;         /* lines of the block */
    char lines[CONSOLE_LINES][LINE_SIZE];
} console = {.lock = PTHREAD_MUTEX_INITIALIZER};

bool console_is_terminal(void)
{
    const char *term = getenv("TERM");

    return isatty(STDERR_FILENO) && (term == NULL || strcmp(term, "dumb") != 0);
}

int terminal_width(FILE *out)
{
    struct winsize size;

    return ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 0;
}

bool terminal_colour(FILE *out)
{
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

    return isatty(fileno(out)) && (no == NULL || no[0] == '\0') &&
           (term == NULL || strcmp(term, "dumb") != 0);
}

/* How much of a line fits in width, in whole fields: they are two spaces apart. */
static size_t fitting(const char *line, size_t width)
{
    size_t length = strlen(line);

    if (length <= width)
        return length;
    for (size_t end = width; end > 0; end--)
        if (strncmp(line + end, "  ", 2) == 0)
            return end;
    return width;
}

static void erase(void)
{
    if (console.drawn > 0)
        fprintf(stderr, "\r\033[%zuA\033[J", console.drawn);
    console.drawn = 0;
}

static void draw(void)
{
    int columns = terminal_width(stderr);
    size_t width = (size_t)(columns > 0 ? columns : 80) - 1;

    for (size_t i = 0; i < console.count; i++)
        fprintf(stderr, "%.*s\n", (int)fitting(console.lines[i], width), console.lines[i]);
    console.drawn = console.count;
    fflush(stderr);
}

void console_block(const char *const *lines, size_t count)
{
    bool terminal = console_is_terminal();

    pthread_mutex_lock(&console.lock);
    if (!terminal) {
        for (size_t i = 0; i < count; i++)
            fprintf(stderr, "%s%s", lines[i], i + 1 < count ? "  " : "\n");
    } else {
        console.count = count < CONSOLE_LINES ? count : CONSOLE_LINES;
        for (size_t i = 0; i < console.count; i++)
            snprintf(console.lines[i], LINE_SIZE, "%s", lines[i]);
        erase();
        draw();
    }
    pthread_mutex_unlock(&console.lock);
}

void console_clear(void)
{
    pthread_mutex_lock(&console.lock);
    erase();
    console.count = 0;
    fflush(stderr);
    pthread_mutex_unlock(&console.lock);
}

void console_line(const char *format, ...)
{
    va_list args;

    pthread_mutex_lock(&console.lock);
    erase();
    fputs("vmsm: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    draw();
    pthread_mutex_unlock(&console.lock);
}
