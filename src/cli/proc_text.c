#include "cli/proc_text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool proc_line(FILE *file, char *line, size_t size)
{
    size_t used = 0;
    int c = getc(file);

    if (c == EOF)
        return false;
    for (; c != EOF && c != '\n'; c = getc(file)) {
        if (used < size - 1)
            line[used++] = (char)c;
    }
    line[used] = '\0';
    return true;
}

/* The number at text, with *end behind it; false if there are no digits or too many. */
static bool number_read(const char *text, int base, uint64_t *number, const char **end)
{
    size_t count = strspn(text, base == 16 ? "0123456789abcdefABCDEF" : "0123456789");
    unsigned long long value;
    char *stop;

    errno = 0;
    value = strtoull(text, &stop, base);
    if (count == 0 || errno != 0 || stop != text + count) /* a sign, or 0x */
        return false;
    *end = stop;
    *number = value;
    return true;
}

bool proc_number(FILE *file, const char *key, int base, uint64_t *number)
{
    size_t length = strlen(key);
    char line[256];

    while (proc_line(file, line, sizeof(line))) {
        const char *text = line + length + 1, *end;
        uint64_t value;

        if (strncmp(line, key, length) != 0 || line[length] != ':')
            continue;
        if (!number_read(text + strspn(text, " \t"), base, &value, &end) ||
            (*end != '\0' && *end != ' '))
            return false;
        *number = value;
        return true;
    }
    return false;
}

bool proc_limit(const char *text, uint64_t *limit)
{
    uint64_t value;
    const char *end;

    if (!number_read(text, 10, &value, &end) || *end != '\0')
        return false;
    *limit = value;
    return true;
}

bool proc_version(const char *release, unsigned *major, unsigned *minor)
{
    uint64_t first, second;
    const char *end;

    if (!number_read(release, 10, &first, &end) || *end != '.' ||
        !number_read(end + 1, 10, &second, &end) || first > UINT16_MAX || second > UINT16_MAX)
        return false;
    *major = (unsigned)first;
    *minor = (unsigned)second;
    return true;
}

/* Is word one of the words that commas separate, from text to end? */
static bool has_word(const char *text, const char *end, const char *word)
{
    while (text < end) {
        size_t length = strcspn(text, ",:");

        if (length == strlen(word) && strncmp(text, word, length) == 0)
            return true;
        text += length + 1;
    }
    return false;
}

enum proc_group proc_memory_group(const char *line, const char **path)
{
    const char *controllers = strchr(line, ':'), *end;

    if (controllers == NULL || (end = strchr(controllers + 1, ':')) == NULL || end[1] != '/')
        return PROC_GROUP_NONE;
    controllers++;
    *path = end + 1;
    if (controllers == end)
        return PROC_GROUP_V2;
    return has_word(controllers, end, "memory") ? PROC_GROUP_V1 : PROC_GROUP_NONE;
}
