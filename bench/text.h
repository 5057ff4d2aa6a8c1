/*
 * Small files of the kernel, read and written whole; and reasons in words.
 */
#ifndef VMSM_BENCH_TEXT_H
#define VMSM_BENCH_TEXT_H

#include <stddef.h>
#include <stdint.h>

#define TEXT_PATH 512

/* Why something cannot be had; "" as long as it can. */
struct why {
    char text[TEXT_PATH * 2];
};

/* Returns code. */
__attribute__((format(printf, 3, 4))) int why_set(struct why *why, int code, const char *format,
                                                  ...);
/* The same on standard error, after the program's name. */
__attribute__((format(printf, 1, 2))) void complain(const char *format, ...);

/* 0 or a negative errno; `to` gets a terminated text, "" after an error. */
int text_read(const char *dir, const char *name, char *to, size_t size);
int text_write(const char *dir, const char *name, const char *text);
int text_write_number(const char *dir, const char *name, uint64_t number);
/* The number that the file begins with; 0 if there is none. */
uint64_t text_number(const char *dir, const char *name);

#endif
