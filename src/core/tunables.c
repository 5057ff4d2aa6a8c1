#include "core/tunables.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/error.h"

#define WORD_MAX 64        /* longest word whose neighbours are looked for */
#define FRACTION_DIGITS 18 /* so that the digits after the point fit in 64 bits */

static const char *const choices_mapper[] = {"copy", "move", "soft", NULL};
static const char *const choices_trap[] = {"thread", "sigbus", "none", "auto", NULL};
static const char *const choices_stage[] = {"single", "basic", "full", NULL};
static const char *const choices_dirty[] = {"hash", "protect", "auto", NULL};

#define CHOICES_OF_SIZE(name) NULL
#define CHOICES_OF_TIME(name) NULL
#define CHOICES_OF_COUNT(name) NULL
#define CHOICES_OF_BOOL(name) NULL
#define CHOICES_OF_STRING(name) NULL
#define CHOICES_OF_CHOICE(name) choices_##name

const struct tunable_info tunable_table[] = {
#define TUNABLE_ROW(name, type, value, min, max, help)                                             \
    {#name,                                                                                        \
     TUNABLE_##type,                                                                               \
     value,                                                                                        \
     min,                                                                                          \
     max,                                                                                          \
     help,                                                                                         \
     CHOICES_OF_##type(name),                                                                      \
     offsetof(struct tunables, name)},
    TUNABLES(TUNABLE_ROW)
#undef TUNABLE_ROW
};

const unsigned tunable_count = sizeof(tunable_table) / sizeof(tunable_table[0]);

static const char *const bool_words[] = {"off", "on", "no", "yes", "false", "true", "0", "1", NULL};

/* Largest first, for printing; the small letters are for parsing only. */
struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit size_units[] = {
    {"T", TUNABLE_TIB}, {"G", TUNABLE_MIB * 1024}, {"M", TUNABLE_MIB},
    {"K", TUNABLE_KIB}, {"t", TUNABLE_TIB},        {"g", TUNABLE_MIB * 1024},
    {"m", TUNABLE_MIB}, {"k", TUNABLE_KIB},        {"", 1},
    {NULL, 0},
};

static const struct unit time_units[] = {
    {"m", 60 * TUNABLE_SECOND},
    {"s", TUNABLE_SECOND},
    {"ms", 1000000},
    {"us", 1000},
    {"ns", 1},
    {NULL, 0},
};

/* A kind of number, with the words for its messages. */
struct quantity {
    const char *noun, *examples, *unit_names, *smallest;
    const struct unit *units;
};

static const struct quantity size_quantity = {
    "a size", "64K, 256M or 1.5G", "K, M, G or T", "bytes", size_units,
};
static const struct quantity time_quantity = {
    "a time", "50us, 20ms or 1.5s", "ns, us, ms, s or m", "nanoseconds", time_units,
};

/* Digits, and digits after a point, as they stand in the text. */
struct decimal {
    uint64_t whole, fraction, fraction_scale; /* value = whole + fraction / fraction_scale */
    bool too_large, too_fine;
    const char *rest;
};

/* Read the digits at text into *value; false if they do not fit. */
static bool scan_digits(const char **text, uint64_t *value)
{
    bool fits = true;

    for (*value = 0; isdigit((unsigned char)**text); (*text)++) {
        uint64_t digit = (uint64_t)(**text - '0');
        if (__builtin_mul_overflow(*value, 10, value) ||
            __builtin_add_overflow(*value, digit, value))
            fits = false;
    }
    return fits;
}

static void scan_decimal(const char *text, struct decimal *d)
{
    *d = (struct decimal){.fraction_scale = 1};
    d->too_large = !scan_digits(&text, &d->whole);
    d->rest = text;
    if (text[0] != '.' || !isdigit((unsigned char)text[1]))
        return;

    const char *digits = text + 1;
    size_t count = strspn(digits, "0123456789");

    d->rest = digits + count;
    while (count > 0 && digits[count - 1] == '0')
        count--;
    if (count > FRACTION_DIGITS) {
        d->too_fine = true;
        return;
    }
    for (size_t i = 0; i < count; i++) {
        d->fraction = d->fraction * 10 + (uint64_t)(digits[i] - '0');
        d->fraction_scale *= 10;
    }
}

static int parse_quantity(const struct quantity *q, const char *what, const char *text,
                          uint64_t *out)
{
    const struct unit *unit = q->units;
    struct decimal d;

    if (text[0] == '\0')
        return error_set(-EINVAL, "%s: is empty; give %s such as %s", what, q->noun, q->examples);
    if (text[0] == '-' && isdigit((unsigned char)text[1]))
        return error_set(-EINVAL, "%s: " SHOWN " is negative; give %s such as %s", what, text,
                         q->noun, q->examples);
    if (!isdigit((unsigned char)text[0]))
        return error_set(-EINVAL, "%s: \"" SHOWN "\" is not %s; give one such as %s", what, text,
                         q->noun, q->examples);

    scan_decimal(text, &d);
    while (unit->name != NULL && strcmp(unit->name, d.rest) != 0)
        unit++;
    if (unit->name == NULL) {
        bool zero = d.whole == 0 && d.fraction == 0 && !d.too_large && !d.too_fine;
        if (d.rest[0] != '\0')
            return error_set(-EINVAL,
                             "%s: \"" SHOWN "\" ends in \"" SHOWN
                             "\"; after the number only %s may stand",
                             what, text, d.rest, q->unit_names);
        if (!zero)
            return error_set(-EINVAL, "%s: " SHOWN " has no unit; add %s", what, text,
                             q->unit_names);
        *out = 0;
        return 0;
    }

    __extension__ typedef unsigned __int128 wide;
    wide part = (wide)d.fraction * unit->factor;
    wide total = (wide)d.whole * unit->factor + part / d.fraction_scale;

    if (d.too_large || total > UINT64_MAX)
        return error_set(-ERANGE, "%s: " SHOWN " is larger than can be", what, text);
    if (d.too_fine || part % d.fraction_scale != 0)
        return error_set(-EINVAL, "%s: " SHOWN " is not a whole number of %s", what, text,
                         q->smallest);
    *out = (uint64_t)total;
    return 0;
}

int parse_size(const char *what, const char *text, uint64_t *bytes)
{
    return parse_quantity(&size_quantity, what, text, bytes);
}

int parse_time(const char *what, const char *text, uint64_t *ns)
{
    return parse_quantity(&time_quantity, what, text, ns);
}

int parse_count(const char *what, const char *text, uint64_t *count)
{
    const char *rest = text;
    uint64_t value;

    if (text[0] == '\0')
        return error_set(-EINVAL, "%s: is empty; give a whole number", what);
    if (text[0] == '-' && isdigit((unsigned char)text[1]))
        return error_set(-EINVAL, "%s: " SHOWN " is negative; give a whole number", what, text);
    if (!isdigit((unsigned char)text[0]))
        return error_set(-EINVAL, "%s: \"" SHOWN "\" is not a number; give a whole number", what,
                         text);

    bool fits = scan_digits(&rest, &value);

    if (rest[0] != '\0')
        return error_set(
            -EINVAL, "%s: \"" SHOWN "\" ends in \"" SHOWN "\"; give a whole number, digits only",
            what, text, rest);
    if (!fits)
        return error_set(-ERANGE, "%s: " SHOWN " is larger than can be", what, text);
    *count = value;
    return 0;
}

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/*
 * Damerau-Levenshtein distance (each pair of letters exchanged at most once):
 * how many letters to insert, drop, change or exchange. Letter case is ignored.
 */
static unsigned edit_distance(const char *a, const char *b)
{
    unsigned rows[3][WORD_MAX + 1];
    unsigned *before = rows[0], *last = rows[1], *now = rows[2];
    size_t width = strlen(b);

    for (unsigned j = 0; j <= width; j++)
        last[j] = j;
    for (unsigned i = 1; a[i - 1] != '\0'; i++) {
        now[0] = i;
        for (unsigned j = 1; j <= width; j++) {
            int from = tolower((unsigned char)a[i - 1]), to = tolower((unsigned char)b[j - 1]);
            now[j] = least(last[j - 1] + (from != to), 1 + least(last[j], now[j - 1]));
            if (i > 1 && j > 1 && from == tolower((unsigned char)b[j - 2]) &&
                to == tolower((unsigned char)a[i - 2]))
                now[j] = least(now[j], before[j - 2] + 1);
        }
        unsigned *spare = before;
        before = last;
        last = now;
        now = spare;
    }
    return last[width];
}

const char *nearest_word(const char *word, const char *const *names)
{
    size_t length = strlen(word);
    const char *nearest = NULL;

    if (length == 0 || length > WORD_MAX)
        return NULL;

    /* Near is: about a third of the letters wrong, and never all of them. */
    unsigned limit = least(1 + (unsigned)length / 4, (unsigned)length - 1);

    for (; *names != NULL; names++) {
        if (strlen(*names) > WORD_MAX)
            continue;
        unsigned distance = edit_distance(word, *names);
        if (distance < limit || (distance == limit && nearest == NULL)) {
            limit = distance;
            nearest = *names;
        }
    }
    return nearest;
}

bool option_names_equal(const char *a, const char *b)
{
    for (; *a != '\0' && *b != '\0'; a++, b++) {
        if ((*a == '_' ? '-' : *a) != (*b == '_' ? '-' : *b))
            return false;
    }
    return *a == *b;
}

const struct tunable_info *tunable_find(const char *name)
{
    for (unsigned i = 0; i < tunable_count; i++) {
        if (option_names_equal(tunable_table[i].name, name))
            return &tunable_table[i];
    }
    return NULL;
}

static int refuse_name(const char *name)
{
    const char *names[sizeof(tunable_table) / sizeof(tunable_table[0]) + 1] = {NULL};

    for (unsigned i = 0; i < tunable_count; i++)
        names[i] = tunable_table[i].name;

    const char *nearest = nearest_word(name, names);

    if (nearest != NULL)
        return error_set(-EINVAL, "no setting is called \"" SHOWN "\"; did you mean %s?", name,
                         nearest);
    return error_set(-EINVAL, "no setting is called \"" SHOWN "\"; `vmsm sim --help` lists them",
                     name);
}

static void *tunable_field(struct tunables *t, const struct tunable_info *info)
{
    return (char *)t + info->offset;
}

static const void *tunable_value(const struct tunables *t, const struct tunable_info *info)
{
    return (const char *)t + info->offset;
}

static const char *print_quantity(uint64_t value, const struct unit *unit, char *buffer,
                                  size_t size)
{
    while (value % unit->factor != 0)
        unit++;
    snprintf(buffer, size, "%" PRIu64 "%s", value / unit->factor, value == 0 ? "" : unit->name);
    return buffer;
}

static const char *print_number(const struct tunable_info *info, uint64_t value, char *buffer,
                                size_t size)
{
    if (info->type == TUNABLE_SIZE)
        return print_quantity(value, size_units, buffer, size);
    if (info->type == TUNABLE_TIME)
        return print_quantity(value, time_units, buffer, size);
    snprintf(buffer, size, "%" PRIu64, value);
    return buffer;
}

static int set_number(void *field, const struct tunable_info *info, const char *text)
{
    char limit[32];
    uint64_t value;
    int rc = info->type == TUNABLE_SIZE   ? parse_size(info->name, text, &value)
             : info->type == TUNABLE_TIME ? parse_time(info->name, text, &value)
                                          : parse_count(info->name, text, &value);

    if (rc < 0)
        return rc;
    if (value < info->minimum)
        return error_set(-ERANGE, "%s: " SHOWN " is under the minimum of %s", info->name, text,
                         print_number(info, info->minimum, limit, sizeof(limit)));
    if (value > info->maximum)
        return error_set(-ERANGE, "%s: " SHOWN " is over the maximum of %s", info->name, text,
                         print_number(info, info->maximum, limit, sizeof(limit)));
    memcpy(field, &value, sizeof(value));
    return 0;
}

/* The place of text in words[], or -1. */
static int find_word(const char *text, const char *const *words)
{
    for (int i = 0; words[i] != NULL; i++) {
        if (strcasecmp(text, words[i]) == 0)
            return i;
    }
    return -1;
}

static int set_bool(bool *field, const char *name, const char *text)
{
    int found = find_word(text, bool_words);

    if (found < 0)
        return error_set(-EINVAL,
                         "%s: \"" SHOWN "\" is neither on nor off (yes, no, true, false, 1 and 0 "
                         "are allowed too)",
                         name, text);
    *field = found % 2 != 0;
    return 0;
}

static int set_string(char *field, const char *name, const char *text)
{
    size_t length = strlen(text);

    if (length >= TUNABLE_STRING_MAX)
        return error_set(-ERANGE, "%s: \"" SHOWN "…\" has %zu characters; at most %d are allowed",
                         name, text, length, TUNABLE_STRING_MAX - 1);
    if (strchr(text, ',') != NULL)
        return error_set(-EINVAL,
                         "%s: \"" SHOWN "\" contains a comma, which separates settings; choose "
                         "another name",
                         name, text);
    memcpy(field, text, length + 1);
    return 0;
}

static void join_words(const char *const *words, char *buffer, size_t size)
{
    size_t used = 0;

    buffer[0] = '\0';
    for (; *words != NULL && used < size; words++)
        used += (size_t)snprintf(buffer + used, size - used, "%s%s", used > 0 ? ", " : "", *words);
}

static int set_choice(unsigned *field, const struct tunable_info *info, const char *text)
{
    int found = find_word(text, info->choices);
    char words[128];

    if (found >= 0) {
        *field = (unsigned)found;
        return 0;
    }

    const char *nearest = nearest_word(text, info->choices);

    join_words(info->choices, words, sizeof(words));
    if (nearest != NULL)
        return error_set(-EINVAL, "%s: \"" SHOWN "\" is not one of %s; did you mean %s?",
                         info->name, text, words, nearest);
    return error_set(-EINVAL, "%s: \"" SHOWN "\" is not one of %s", info->name, text, words);
}

static void set_stage(struct tunables *t)
{
    bool full = t->stage == STAGE_FULL;

    t->batching = full;
    t->deferred = full;
    t->fine_locks = full;
    t->shared_locks = full;
    t->preserve = full;
    t->more_workers = full;
    t->workers = t->stage != STAGE_SINGLE;
}

static int tunable_set(struct tunables *t, const struct tunable_info *info, const char *text)
{
    void *field = tunable_field(t, info);
    int rc = 0;

    switch (info->type) {
    case TUNABLE_SIZE:
    case TUNABLE_TIME:
    case TUNABLE_COUNT:
        return set_number(field, info, text);
    case TUNABLE_BOOL:
        return set_bool(field, info->name, text);
    case TUNABLE_STRING:
        return set_string(field, info->name, text);
    case TUNABLE_CHOICE:
        rc = set_choice(field, info, text);
        if (rc == 0 && field == &t->stage)
            set_stage(t);
        return rc;
    }
    return rc;
}

void tunables_init(struct tunables *t)
{
    memset(t, 0, sizeof(*t));
    for (unsigned i = 0; i < tunable_count; i++) {
        if (tunable_set(t, &tunable_table[i], tunable_table[i].default_text) < 0)
            abort(); /* the table contradicts itself */
    }
}

int tunables_set(struct tunables *t, const char *name, const char *value)
{
    const struct tunable_info *info = tunable_find(name);

    return info == NULL ? refuse_name(name) : tunable_set(t, info, value);
}

/* Set one "name:value" of length bytes at text. */
static int parse_setting(struct tunables *t, const char *text, size_t length)
{
    char setting[WORD_MAX + 2 * TUNABLE_STRING_MAX];

    if (length >= sizeof(setting))
        return error_set(-ERANGE, "settings: the one that begins \"" SHOWN "…\" is too long", text);
    memcpy(setting, text, length);
    setting[length] = '\0';

    char *separator = strpbrk(setting, ":=");

    if (separator == NULL)
        return error_set(-EINVAL, "settings: \"" SHOWN "\" has no value; write name:value",
                         setting);
    *separator = '\0';
    return tunables_set(t, setting, separator + 1);
}

/* All or nothing: after an error t is as it was. Empty settings (",,") are passed over. */
int tunables_parse(struct tunables *t, const char *conf)
{
    struct tunables parsed = *t;

    while (*conf != '\0') {
        size_t length = strcspn(conf, ",");
        int rc = length > 0 ? parse_setting(&parsed, conf, length) : 0;

        if (rc < 0)
            return rc;
        conf += length;
        conf += *conf == ',';
    }
    *t = parsed;
    return 0;
}

const char *tunable_print(const struct tunables *t, const struct tunable_info *info, char *buffer,
                          size_t size)
{
    const void *value = tunable_value(t, info);

    switch (info->type) {
    case TUNABLE_SIZE:
    case TUNABLE_TIME:
    case TUNABLE_COUNT:
        return print_number(info, *(const uint64_t *)value, buffer, size);
    case TUNABLE_BOOL:
        snprintf(buffer, size, "%s", bool_words[*(const bool *)value]);
        break;
    case TUNABLE_STRING:
        snprintf(buffer, size, "%s", (const char *)value);
        break;
    case TUNABLE_CHOICE:
        snprintf(buffer, size, "%s", info->choices[*(const unsigned *)value]);
        break;
    }
    return buffer;
}

void tunables_show(const struct tunables *t, FILE *out)
{
    char value[TUNABLE_STRING_MAX];

    for (unsigned i = 0; i < tunable_count; i++) {
        const struct tunable_info *info = &tunable_table[i];
        fprintf(out, "%-20s %-10s %s\n", info->name, tunable_print(t, info, value, sizeof(value)),
                info->help);
    }
}
