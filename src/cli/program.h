/*
 * A program that is to be run: where it is, and whether a library can be preloaded into it.
 */
#ifndef VMSM_CLI_PROGRAM_H
#define VMSM_CLI_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>

enum program_fitness {
    PROGRAM_FITS,
    PROGRAM_MISSING,        /* there is no such file */
    PROGRAM_NOT_EXECUTABLE, /* there is, but it cannot be executed */
    PROGRAM_UNFIT           /* it could be executed, but not managed */
};

/*
 * Look for `name` as execvp() does, and into what is found (and its interpreter, if it is a
 * script). path receives where it is. What is wrong with it is in error_last().
 */
enum program_fitness program_examine(const char *name, char *path, size_t size);

/* Where the library that is preloaded is. 0 or a negative errno, with words. */
int program_library(char *path, size_t size);

/* Can this kernel send a program's system calls to that library? (preload/guard.h) */
bool program_can_be_guarded(void);

#endif
