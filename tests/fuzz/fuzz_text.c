/*
 * Words for the user: the nearest word is one of the names and none is nearer; messages of
 * error_set() and log_line() are one line whatever they are given, and leave errno alone.
 *
 * Input: a byte that chooses, then texts that newlines end.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/tunables.h"
#include "fuzz.h"

#define NAMES_MAX 16
#define LINE_MAX_BYTES 1024
#define DISTANCE_LENGTH 64 /* longest word whose distance is taken */

static int log_file = -1;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    log_file = memfd_create("log", MFD_CLOEXEC);
    must(log_file >= 0, "memfd_create: %d", errno);
    log_use_descriptor(log_file);
    return 0;
}

/* Letters to insert, drop, change or exchange, by the table of all prefixes. */
static size_t distance(const char *a, const char *b)
{
    static size_t table[DISTANCE_LENGTH + 1][DISTANCE_LENGTH + 1];
    size_t length_a = strlen(a), length_b = strlen(b);

    for (size_t i = 0; i <= length_a; i++) {
        for (size_t j = 0; j <= length_b; j++) {
            size_t best = i == 0 ? j : i;

            if (i > 0 && j > 0) {
                bool same = tolower((unsigned char)a[i - 1]) == tolower((unsigned char)b[j - 1]);
                size_t change = table[i - 1][j - 1] + !same;

                best = table[i - 1][j] + 1;
                if (table[i][j - 1] + 1 < best)
                    best = table[i][j - 1] + 1;
                if (change < best)
                    best = change;
                if (i > 1 && j > 1 &&
                    tolower((unsigned char)a[i - 1]) == tolower((unsigned char)b[j - 2]) &&
                    tolower((unsigned char)a[i - 2]) == tolower((unsigned char)b[j - 1]) &&
                    table[i - 2][j - 2] + 1 < best)
                    best = table[i - 2][j - 2] + 1;
            }
            table[i][j] = best;
        }
    }
    return table[length_a][length_b];
}

static void check_nearest(struct input *in)
{
    char *word = input_text(in, '\n'), *names[NAMES_MAX + 1] = {NULL};
    bool listed = false;
    const char *near;
    size_t count = 0;

    while (count < NAMES_MAX && input_left(in))
        names[count++] = input_text(in, '\n');
    near = nearest_word(word, (const char *const *)names);
    for (size_t i = 0; i < count; i++)
        listed |= near == names[i];
    must(near == NULL || listed, "\"%s\" is near none of the names, but \"%s\"", word, near);
    if (near != NULL) {
        size_t d = distance(word, near);

        must(d < strlen(word) && d <= 1 + strlen(word) / 4, "\"%s\" is %zu from \"%s\"", word, d,
             near);
    }
    for (size_t i = 0; i < count && strlen(word) <= DISTANCE_LENGTH; i++) {
        size_t d;

        if (strlen(names[i]) > DISTANCE_LENGTH)
            continue;
        d = distance(word, names[i]);
        if (near != NULL)
            must(distance(word, near) <= d, "\"%s\" is nearer to \"%s\" than \"%s\"", word,
                 names[i], near);
        else
            must(d > 1 + strlen(word) / 4 || d >= strlen(word), "\"%s\" is %zu from \"%s\"", word,
                 d, names[i]);
    }
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(word);
}

/* What became of given in a message: the same, but for what would break the line. */
static void check_kept(const char *message, const char *given, size_t length)
{
    for (size_t i = 0; i < length; i++)
        must(message[i] == given[i] || is_control(given[i]), "byte %zu is %#x, should be %#x", i,
             (unsigned char)message[i], (unsigned char)given[i]);
}

static void check_error(struct input *in)
{
    char *text = input_text(in, -1);
    size_t length = strlen(text), kept;

    errno = E2BIG;
    must(error_set(-ESTALE, "\"%s\" %d", text, 7) == -ESTALE, "another code");
    must(errno == E2BIG, "errno is %d", errno);
    kept = strlen(error_last());
    must(one_line(error_last(), kept), "\"%s\"", error_last());
    must(kept == (length + 4 < ERROR_TEXT_MAX ? length + 4 : ERROR_TEXT_MAX - 1),
         "%zu bytes of %zu", kept, length);
    check_kept(error_last() + 1, text, length < kept ? length : kept - 1);
    free(text);
}

static void check_log(struct input *in)
{
    enum log_level level = input_byte(in) % 3;
    size_t start = strlen(level == LOG_ERROR ? "vmsm: " : "vmsm: warning: "), length;
    char *text = input_text(in, -1), line[2 * LINE_MAX_BYTES];
    ssize_t got;

    must(ftruncate(log_file, 0) == 0 && lseek(log_file, 0, SEEK_SET) == 0, "%d", errno);
    errno = E2BIG;
    log_line(level, "%s", text);
    must(errno == E2BIG, "errno is %d", errno);
    got = pread(log_file, line, sizeof(line), 0);
    must(got > (ssize_t)start && got <= LINE_MAX_BYTES, "%zd bytes", got);
    length = (size_t)got - start - 1;
    must(line[got - 1] == '\n' && one_line(line, (size_t)got - 1), "not one line: %.*s", (int)got,
         line);
    must(strncmp(line, "vmsm: ", 6) == 0, "%.*s", (int)got, line);
    must(length == strlen(text) || got >= LINE_MAX_BYTES - 1, "%zu bytes of %zu", length,
         strlen(text));
    check_kept(line + start, text, length);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const checks[])(struct input *) = {check_nearest, check_error, check_log};
    struct input in = {data, data + size};

    checks[input_byte(&in) % 3](&in);
    return 0;
}
