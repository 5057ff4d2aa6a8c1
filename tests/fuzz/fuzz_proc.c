/*
 * Text of /proc and /sys: lines of any length and content, numbers with keys, limits, versions,
 * groups. What is found is what a search through the whole text finds; what is not found leaves
 * the result alone.
 *
 * Input: a byte that chooses, then the text.
 */
#include <ctype.h>
#include <errno.h>

#include "cli/proc_text.h"
#include "fuzz.h"

#define UNTOUCHED UINT64_C(0xfeedfacecafebeef)
#define LINE_SIZE 256 /* as proc_number() has it */

static FILE *stream_of(const struct input *in)
{
    /* fmemopen() refuses an empty buffer. */
    FILE *file = input_left(in)
                     ? fmemopen((void *)(uintptr_t)in->at, (size_t)(in->end - in->at), "r")
                     : fopen("/dev/null", "re");

    must(file != NULL, "no stream: %d", errno);
    return file;
}

/* Every line comes once, in order, cut to the buffer. */
static void check_lines(struct input *in)
{
    size_t room = 1 + input_byte(in) % 40;
    const char *at = (const char *)in->at, *end = (const char *)in->end;
    FILE *file = stream_of(in);
    char *line = malloc(room);

    must(line != NULL, "no memory");
    while (proc_line(file, line, room)) {
        const char *stop = at < end ? memchr(at, '\n', (size_t)(end - at)) : NULL;
        size_t length, kept;

        must(at < end, "a line after the last");
        length = (size_t)((stop != NULL ? stop : end) - at);
        kept = length < room - 1 ? length : room - 1;
        must(memcmp(line, at, kept) == 0 && line[kept] == '\0', "\"%s\"", line);
        at = stop != NULL ? stop + 1 : end;
    }
    must(at == end, "%zu bytes were not read", (size_t)(end - at));
    free(line);
    fclose(file);
}

/* Digits alone, as a number of 64 bits; false if they are none. */
static bool plain_number(const char *text, size_t length, unsigned base, uint64_t *number)
{
    __extension__ unsigned __int128 value = 0;

    for (size_t i = 0; i < length; i++) {
        unsigned digit = isdigit((unsigned char)text[i])
                             ? (unsigned)(text[i] - '0')
                             : (unsigned)(tolower((unsigned char)text[i]) - 'a') + 10;

        value = value * base + digit;
        if (value > UINT64_MAX)
            return false;
    }
    if (length > 0)
        *number = (uint64_t)value;
    return length > 0;
}

static bool find_number(const char *text, const char *end, const char *key, int base,
                        uint64_t *number)
{
    const char *digits = base == 16 ? "0123456789abcdefABCDEF" : "0123456789";

    while (text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t length = (size_t)((stop != NULL ? stop : end) - text), count;
        char line[LINE_SIZE], *at;

        length = length < sizeof(line) - 1 ? length : sizeof(line) - 1;
        memcpy(line, text, length);
        line[length] = '\0';
        if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':') {
            at = line + strlen(key) + 1;
            at += strspn(at, " \t");
            count = strspn(at, digits);
            return (at[count] == '\0' || at[count] == ' ') &&
                   plain_number(at, count, (unsigned)base, number);
        }
        if (stop == NULL)
            break;
        text = stop + 1;
    }
    return false;
}

static void check_number(struct input *in)
{
    static const char *const keys[] = {"MemAvailable", "SwapTotal", "VmHWM", "CapEff"};
    unsigned choice = input_byte(in) % 4;
    int base = choice == 3 ? 16 : 10;
    uint64_t got = UNTOUCHED, want = UNTOUCHED;
    FILE *file = stream_of(in);
    bool found = proc_number(file, keys[choice], base, &got);

    /* "0x" is what strtoull() takes and /proc never writes. */
    if (find_number((const char *)in->at, (const char *)in->end, keys[choice], base, &want) !=
            found ||
        got != want)
        must(false, "%s is %d %llu, should be %llu", keys[choice], found, (unsigned long long)got,
             (unsigned long long)want);
    fclose(file);
}

static void check_limit(struct input *in)
{
    char *text = input_text(in, -1);
    uint64_t got = UNTOUCHED, want = UNTOUCHED;
    bool is =
        strspn(text, "0123456789") == strlen(text) && plain_number(text, strlen(text), 10, &want);

    must(proc_limit(text, &got) == is, "\"%s\" is %sa limit", text, is ? "" : "not ");
    must(got == (is ? want : UNTOUCHED), "\"%s\" is %llu", text, (unsigned long long)got);
    free(text);
}

static void check_version(struct input *in)
{
    char *text = input_text(in, -1), printed[32];
    unsigned major = 77777, minor = 88888;
    bool is = proc_version(text, &major, &minor);
    size_t length, zeroes = 0;

    if (!is) {
        must(major == 77777 && minor == 88888, "\"%s\" set %u.%u", text, major, minor);
    } else if (text[0] != '0' && strstr(text, ".0") == NULL) {
        length = (size_t)snprintf(printed, sizeof(printed), "%u.%u", major, minor);
        must(strncmp(text, printed, length) == 0 && !isdigit((unsigned char)text[length]),
             "\"%s\" is %s", text, printed);
    }
    zeroes = strspn(text, "0123456789");
    if (is)
        must(zeroes > 0 && text[zeroes] == '.' && isdigit((unsigned char)text[zeroes + 1]),
             "\"%s\" is no version", text);
    free(text);
}

static void check_group(struct input *in)
{
    char *line = input_text(in, '\n'), *copy = strdup(line), *controllers, *path, *word;
    const char *got = NULL;
    enum proc_group kind = proc_memory_group(line, &got), want = PROC_GROUP_NONE;

    must(copy != NULL, "no memory");
    path = copy;
    strsep(&path, ":");
    controllers = path != NULL ? strsep(&path, ":") : NULL;
    if (path != NULL && path[0] == '/') {
        const char *whole = line + (path - copy);

        want = controllers[0] == '\0' ? PROC_GROUP_V2 : PROC_GROUP_NONE;
        while ((word = strsep(&controllers, ",")) != NULL)
            if (strcmp(word, "memory") == 0)
                want = PROC_GROUP_V1;
        if (want != PROC_GROUP_NONE)
            must(got == whole, "the path of \"%s\" is not \"%s\"", line, got);
    }
    must(kind == want, "\"%s\" is %d, should be %d", line, kind, want);
    free(copy);
    free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const checks[])(struct input *) = {check_lines, check_number, check_limit,
                                                     check_version, check_group};
    struct input in = {data, data + size};

    checks[input_byte(&in) % 5](&in);
    return 0;
}
