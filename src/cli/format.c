#include "cli/format.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const char *format_count(uint64_t count, struct format *f)
{
    char digits[24];
    size_t length = (size_t)snprintf(digits, sizeof(digits), "%" PRIu64, count), out = 0;

    for (size_t i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            f->text[out++] = ',';
        f->text[out++] = digits[i];
    }
    f->text[out] = '\0';
    return f->text;
}

/* Three or four digits and the largest unit that leaves at least 1. */
static const char *scaled(double value, double step, const char *const *units, size_t count,
                          struct format *f)
{
    size_t unit = 0;

    while (unit + 1 < count && value >= step) {
        value /= step;
        unit++;
    }
    snprintf(f->text, sizeof(f->text), "%.*f%s",
             unit == 0 || value >= 999.5 ? 0
             : value < 10                ? 2
                                         : 1,
             value, units[unit]);
    return f->text;
}

const char *format_short(double count, struct format *f)
{
    static const char *const units[] = {"", "K", "M", "G", "T"};

    return scaled(count, 1000, units, sizeof(units) / sizeof(units[0]), f);
}

const char *format_bytes(uint64_t bytes, struct format *f)
{
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB"};

    return scaled((double)bytes, 1024, units, sizeof(units) / sizeof(units[0]), f);
}

const char *format_time(uint64_t ns, struct format *f)
{
    static const char *const units[] = {" ns", " us", " ms", " s"};

    return scaled((double)ns, 1000, units, sizeof(units) / sizeof(units[0]), f);
}
