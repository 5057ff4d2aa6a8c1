/*
 * TAP for test programs: ok(), is(), skip_all(), and done_testing() as the last line of main().
 *
 * Every check prints one line; a failed one says where and why. A test
 * program's exit status is 0 when all checks passed.
 */
#ifndef TESTS_TAP_H
#define TESTS_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned tap_run, tap_failed;

__attribute__((format(printf, 4, 5))) static inline bool tap_ok(bool pass, const char *file,
                                                                int line, const char *format, ...)
{
    va_list args;

    tap_run++;
    printf("%sok %u - ", pass ? "" : "not ", tap_run);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    if (!pass) {
        tap_failed++;
        printf("#   at %s:%d\n", file, line);
    }
    fflush(stdout);
    return pass;
}

/* ok(condition, "what holds %d", …) */
#define ok(condition, ...) tap_ok((condition), __FILE__, __LINE__, __VA_ARGS__)

/* is(got, expected, "what"): integers that must be equal; prints both when they are not. */
#define is(got, expected, ...)                                                                     \
    do {                                                                                           \
        long long tap_got = (long long)(got), tap_expected = (long long)(expected);                \
        if (!ok(tap_got == tap_expected, __VA_ARGS__))                                             \
            printf("#   got %lld, expected %lld\n", tap_got, tap_expected);                        \
    } while (0)

/* A remark, not a check. */
#define note(...) (printf("# "), printf(__VA_ARGS__), printf("\n"), fflush(stdout))

/* The whole program cannot run here: say why and end well. */
#define skip_all(...)                                                                              \
    do {                                                                                           \
        printf("1..0 # SKIP ");                                                                    \
        printf(__VA_ARGS__);                                                                       \
        printf("\n");                                                                              \
        exit(0);                                                                                   \
    } while (0)

/* One check cannot run here. */
#define skip(...)                                                                                  \
    do {                                                                                           \
        printf("ok %u # SKIP ", ++tap_run);                                                        \
        printf(__VA_ARGS__);                                                                       \
        printf("\n");                                                                              \
    } while (0)

static inline int done_testing(void)
{
    printf("1..%u\n", tap_run);
    if (tap_failed > 0)
        printf("# %u of %u failed\n", tap_failed, tap_run);
    return tap_failed > 0 ? 1 : 0;
}

#endif
