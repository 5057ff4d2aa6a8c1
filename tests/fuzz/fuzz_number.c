/*
 * Sizes, times and counts: every text is judged as exact arithmetic judges it, what is refused has
 * words and leaves the value alone, and ranges are respected.
 *
 * Input: a byte that chooses the kind, and the text.
 */
#include <ctype.h>
#include <errno.h>

#include "cli/sim_options.h"
#include "fuzz.h"

#define UNTOUCHED UINT64_C(0xfeedfacecafebeef)
#define DIGITS_EXACT 25 /* so that digits times the largest unit fit in 128 bits */

__extension__ typedef unsigned __int128 wide;

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit sizes[] = {
    {"", 1},  {"k", TUNABLE_KIB}, {"m", TUNABLE_MIB}, {"g", TUNABLE_MIB * 1024}, {"t", TUNABLE_TIB},
    {NULL, 0}};
static const struct unit times[] = {
    {"ns", 1}, {"us", 1000}, {"ms", 1000000}, {"s", TUNABLE_SECOND}, {"m", 60 * TUNABLE_SECOND},
    {NULL, 0}};

/* Digits, with a point or without, taken as one whole number and a power of ten. */
struct exact {
    wide digits, scale;
    bool known; /* few enough digits to tell */
    bool zero;
    const char *rest;
};

static struct exact exact_read(const char *text, bool point_allowed)
{
    struct exact e = {.scale = 1, .known = true, .zero = true};
    unsigned significant = 0;
    bool point = false;

    for (;; text++) {
        if (*text == '.' && point_allowed && !point && isdigit((unsigned char)text[1])) {
            point = true;
            continue;
        }
        if (!isdigit((unsigned char)*text))
            break;
        e.zero = e.zero && *text == '0';
        if (!e.zero || point)
            significant++;
        if (significant > DIGITS_EXACT) {
            e.known = false;
            continue;
        }
        e.digits = e.digits * 10 + (wide)(*text - '0');
        e.scale *= point ? 10 : 1;
    }
    e.rest = text;
    return e;
}

/* What the parser must say; 1 if the text has too many digits to tell. */
static int exact_parse(const char *text, const struct unit *units, bool any_case, uint64_t *value)
{
    struct exact e;
    wide total;

    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    e = exact_read(text, units != NULL);
    if (units == NULL) {
        if (e.rest[0] != '\0')
            return -EINVAL;
        total = e.digits;
        if (!e.known)
            return 1;
    } else {
        const struct unit *unit = units;

        while (unit->name != NULL &&
               (any_case ? strcasecmp(unit->name, e.rest) : strcmp(unit->name, e.rest)) != 0)
            unit++;
        if (unit->name == NULL && !(e.zero && e.rest[0] == '\0'))
            return -EINVAL;
        if (!e.known)
            return 1;
        total = e.digits * (unit->name != NULL ? unit->factor : 1);
        if (total / e.scale > UINT64_MAX)
            return -ERANGE;
        if (total % e.scale != 0)
            return -EINVAL;
        total /= e.scale;
    }
    if (total > UINT64_MAX)
        return -ERANGE;
    *value = (uint64_t)total;
    return 0;
}

static void check_kind(unsigned kind, const char *text)
{
    static int (*const parsers[])(const char *, const char *, uint64_t *) = {parse_size, parse_time,
                                                                             parse_count};
    static const struct unit *const units[] = {sizes, times, NULL};
    uint64_t got = UNTOUCHED, want = UNTOUCHED;
    int expected = exact_parse(text, units[kind], kind == 0, &want), result;

    failure_forget();
    result = parsers[kind]("option", text, &got);
    if (result != 0) {
        failure_check(result);
        must(result == -EINVAL || result == -ERANGE, "%d", result);
        must(got == UNTOUCHED, "\"%s\" was refused, but set %llu", text, (unsigned long long)got);
    }
    if (expected == 1)
        return;
    must(result == expected, "\"%s\" is %d, should be %d", text, result, expected);
    must(got == want, "\"%s\" is %llu, should be %llu", text, (unsigned long long)got,
         (unsigned long long)want);
}

static void check_range(struct input *in)
{
    uint64_t minimum = input_byte(in), maximum = input_number(in, 2), got = UNTOUCHED, want = 0;
    char *text = input_text(in, -1);
    int result;

    failure_forget();
    result = option_number("number", text, minimum, maximum, &got);
    if (result != 0) {
        failure_check(result);
        must(got == UNTOUCHED, "\"%s\" was refused, but set %llu", text, (unsigned long long)got);
    } else {
        must(parse_count("number", text, &want) == 0 && got == want, "\"%s\"", text);
        must(got >= minimum && got <= maximum, "\"%s\" is %llu, not in range", text,
             (unsigned long long)got);
    }
    free(text);
}

/* An option of sim by its name, from the text alone. */
static void check_sim_option(const char *name, const char *text)
{
    const struct option_info *option = sim_options;
    struct sim_settings s;
    int result;

    while (option->name != NULL && strcmp(option->name, name) != 0)
        option++;
    must(option->name != NULL, "sim has no option %s", name);
    sim_settings_init(&s);
    failure_forget();
    result = option->apply(&s, text);
    if (result != 0)
        failure_check(result);
    if (strcmp(name, "virtual") == 0) {
        must(s.virtual_bytes >= VMSM_PAGE_SIZE && s.virtual_bytes <= 64 * TUNABLE_TIB &&
                 s.virtual_bytes % VMSM_PAGE_SIZE == 0,
             "virtual \"%s\" is %llu", text, (unsigned long long)s.virtual_bytes);
    } else if (result != 0) {
        must(s.time_ns == 0, "seconds \"%s\" was refused, but set %llu", text,
             (unsigned long long)s.time_ns);
    } else {
        uint64_t most = UINT64_C(365) * 24 * 3600 * TUNABLE_SECOND, ns;
        double seconds = strtod(text, NULL);

        must(s.time_ns > 0 && s.time_ns <= most, "seconds \"%s\" is %llu", text,
             (unsigned long long)s.time_ns);
        if (parse_time("seconds", text, &ns) == 0)
            must(ns == s.time_ns, "seconds \"%s\" is %llu", text, (unsigned long long)s.time_ns);
        else
            must(seconds > 0 && (double)s.time_ns <= seconds * 1.000001e9 &&
                     (double)s.time_ns >= seconds * 0.999999e9 - 1,
                 "seconds \"%s\" is %llu", text, (unsigned long long)s.time_ns);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    unsigned kind = input_byte(&in) % 6;
    char *text;

    if (kind == 5) {
        check_range(&in);
        return 0;
    }
    text = input_text(&in, -1);
    if (kind < 3)
        check_kind(kind, text);
    else
        check_sim_option(kind == 3 ? "virtual" : "seconds", text);
    free(text);
    return 0;
}
