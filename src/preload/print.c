/*
 * snprintf() for the manager. The C library's looks at tables that the program may have put on its
 * heap (register_printf_function(), which libquadmath calls; translations), so that a handler
 * thread that says something would fault, and wait for itself.
 *
 * It knows what the manager's messages use: %s %c %d %i %u %x %p %f with flags '-' and '0', width,
 * precision and lengths.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "preload/renamed.h"

#define DIGITS_MAX 64

struct output {
    char *at, *end; /* where the next byte goes, if it is before the end */
    size_t length;  /* of all that there is to say */
};

struct conversion {
    bool left, zero;
    int width, precision; /* precision -1: none */
    unsigned longs;       /* 'l', 'll', 'z', 'j', 't': at least one */
};

static void put(struct output *out, char c)
{
    if (out->at < out->end)
        *out->at++ = c;
    out->length++;
}

static void put_field(struct output *out, const struct conversion *c, const char *text,
                      size_t length)
{
    size_t fill = c->width > 0 && (size_t)c->width > length ? (size_t)c->width - length : 0;

    if (!c->left && c->zero && length > 0 && *text == '-') {
        put(out, *text++);
        length--;
    }
    for (size_t i = 0; i < fill && !c->left; i++)
        put(out, c->zero ? '0' : ' ');
    for (size_t i = 0; i < length; i++)
        put(out, text[i]);
    for (size_t i = 0; i < fill && c->left; i++)
        put(out, ' ');
}

/* The digits of a number, right-aligned in a buffer; returns where they begin. */
static char *digits(uint64_t value, unsigned base, char *end)
{
    do
        *--end = "0123456789abcdef"[value % base];
    while ((value /= base) != 0);
    return end;
}

static void put_number(struct output *out, const struct conversion *c, uint64_t value,
                       unsigned base, const char *sign)
{
    char buffer[DIGITS_MAX], *end = buffer + sizeof(buffer), *at = digits(value, base, end);

    for (size_t i = strlen(sign); i-- > 0;)
        *--at = sign[i];
    put_field(out, c, at, (size_t)(end - at));
}

static void put_double(struct output *out, const struct conversion *c, double value)
{
    unsigned places = c->precision >= 0 && c->precision < 9 ? (unsigned)c->precision : 6;
    char buffer[DIGITS_MAX], *end = buffer + sizeof(buffer), *at;
    bool negative = value < 0;
    uint64_t scale = 1, whole;

    for (unsigned i = 0; i < places; i++)
        scale *= 10;
    value = (negative ? -value : value) * (double)scale + 0.5;
    whole = value < 1.8e19 ? (uint64_t)value : UINT64_MAX;
    at = digits(whole % scale, 10, end);
    while (places > 0 && at > end - places)
        *--at = '0';
    if (places > 0)
        *--at = '.';
    at = digits(whole / scale, 10, places > 0 ? at : end);
    if (negative)
        *--at = '-';
    put_field(out, c, at, (size_t)(end - at));
}

static void put_string(struct output *out, const struct conversion *c, const char *text)
{
    if (text == NULL)
        text = "(null)";
    put_field(out, c, text, c->precision >= 0 ? strnlen(text, (size_t)c->precision) : strlen(text));
}

static int read_number(const char **format, va_list *args)
{
    int value = 0;

    if (**format == '*') {
        ++*format;
        return va_arg(*args, int);
    }
    for (; **format >= '0' && **format <= '9'; ++*format)
        value = value * 10 + (**format - '0');
    return value;
}

static const char *read_conversion(const char *format, struct conversion *c, va_list *args)
{
    *c = (struct conversion){.precision = -1};
    for (; *format == '-' || *format == '0'; format++) {
        c->left |= *format == '-';
        c->zero |= *format == '0';
    }
    c->width = read_number(&format, args);
    if (*format == '.') {
        format++;
        c->precision = read_number(&format, args);
    }
    for (; *format != '\0' && strchr("hlzjt", *format) != NULL; format++)
        c->longs += *format != 'h';
    return format;
}

static void convert(struct output *out, char kind, const struct conversion *c, va_list *args)
{
    int64_t number;

    switch (kind) {
    case 's':
        put_string(out, c, va_arg(*args, const char *));
        break;
    case 'c':
        put(out, (char)va_arg(*args, int));
        break;
    case 'd':
    case 'i':
        number = c->longs > 0 ? va_arg(*args, int64_t) : va_arg(*args, int);
        put_number(out, c, number < 0 ? -(uint64_t)number : (uint64_t)number, 10,
                   number < 0 ? "-" : "");
        break;
    case 'u':
    case 'x':
    case 'o':
        put_number(out, c, c->longs > 0 ? va_arg(*args, uint64_t) : va_arg(*args, unsigned),
                   kind == 'u'   ? 10
                   : kind == 'x' ? 16
                                 : 8,
                   "");
        break;
    case 'p':
        put_number(out, c, (uintptr_t)va_arg(*args, void *), 16, "0x");
        break;
    case 'f':
        put_double(out, c, va_arg(*args, double));
        break;
    default:
        put(out, kind);
        break;
    }
}

int own_vsnprintf(char *buffer, size_t size, const char *format, va_list given)
{
    struct output out = {.at = buffer, .end = buffer + (size > 0 ? size - 1 : 0)};
    struct conversion c;
    va_list args;

    va_copy(args, given);
    for (; *format != '\0'; format++) {
        if (*format != '%') {
            put(&out, *format);
            continue;
        }
        format = read_conversion(format + 1, &c, &args);
        if (*format == '\0')
            break;
        convert(&out, *format, &c, &args);
    }
    va_end(args);
    if (size > 0)
        *out.at = '\0';
    return (int)out.length;
}

int own_snprintf(char *buffer, size_t size, const char *format, ...)
{
    va_list args;
    int length;

    va_start(args, format);
    length = own_vsnprintf(buffer, size, format, args);
    va_end(args);
    return length;
}

/* Untranslated. */
char *own_strerror(int error)
{
    const char *text = strerrordesc_np(error);

    return (char *)(uintptr_t)(text != NULL ? text : "unknown error");
}
