/*
 * What fuzz targets share: an assertion that says what was wrong, a reader that takes its choices
 * from the input, and what standard output and standard error got.
 *
 * A target is one file: fuzz_one() is given an input, and aborts if a property does not hold.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"

/* libFuzzer's names. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* The standard error of the target itself, while `stderr` is captured. */
#define must(condition, ...)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            dprintf(2, "%s:%d: %s does not hold: ", __FILE__, __LINE__, #condition);               \
            dprintf(2, __VA_ARGS__);                                                               \
            dprintf(2, "\n");                                                                      \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* ---- choices ---- */

struct input {
    const uint8_t *at, *end;
};

static inline bool input_left(const struct input *in)
{
    return in->at < in->end;
}

/* Zeroes once the input is used up. */
static inline uint8_t input_byte(struct input *in)
{
    return input_left(in) ? *in->at++ : 0;
}

static inline uint64_t input_number(struct input *in, unsigned bytes)
{
    uint64_t number = 0;

    for (unsigned i = 0; i < bytes; i++)
        number = number << 8 | input_byte(in);
    return number;
}

/* The bytes up to `end` (passed over) or the end of the input, NUL-terminated: free() it. */
static inline char *input_text(struct input *in, int end)
{
    const uint8_t *stop = in->at;
    char *text;
    size_t length;

    while (stop < in->end && *stop != end && *stop != '\0')
        stop++;
    length = (size_t)(stop - in->at);
    /* Exactly so long, so that a byte read too far is seen. */
    text = malloc(length + 1);
    must(text != NULL, "no memory");
    if (length > 0)
        memcpy(text, in->at, length);
    text[length] = '\0';
    in->at = stop < in->end ? stop + 1 : stop;
    return text;
}

/* ---- failures ---- */

static inline bool is_control(char c)
{
    return (unsigned char)c < 0x20 || c == 0x7f;
}

static inline bool one_line(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (is_control(text[i]))
            return false;
    return length > 0;
}

static inline void failure_forget(void)
{
    error_set(0, "%s", "");
}

/* A failure has words: one line of them, and not so many that the last ones are cut. */
static inline void failure_check(int code)
{
    const char *text = error_last();

    must(code < 0, "%d", code);
    must(one_line(text, strlen(text)), "the words for %d are \"%s\"", code, text);
    must(strlen(text) < ERROR_TEXT_MAX - 1, "the words are cut: \"%s\"", text);
}

/* ---- what is printed ---- */

struct capture {
    FILE *out, *err;           /* the real ones */
    char *out_text, *err_text; /* after capture_end(), until capture_free() */
    size_t out_size, err_size;
};

static inline void capture_begin(struct capture *c)
{
    c->out = stdout;
    c->err = stderr;
    stdout = open_memstream(&c->out_text, &c->out_size);
    stderr = open_memstream(&c->err_text, &c->err_size);
    must(stdout != NULL && stderr != NULL, "no memory");
}

static inline void capture_end(struct capture *c)
{
    fclose(stdout);
    fclose(stderr);
    stdout = c->out;
    stderr = c->err;
}

static inline void capture_free(struct capture *c)
{
    free(c->out_text);
    free(c->err_text);
}

#endif
