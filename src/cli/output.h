/*
 * Where a JSON report goes: a file that appears whole or not at all, or "-",
 * the standard output.
 */
#ifndef VMSM_CLI_OUTPUT_H
#define VMSM_CLI_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>

static inline bool output_is_stdout(const char *path)
{
    return path != NULL && path[0] == '-' && path[1] == '\0';
}

/*
 * A JSON string of any text: paths and messages need not be UTF-8, or may have been cut within a
 * character; each byte that is part of none becomes U+FFFD. A new reference, or NULL without
 * memory.
 */
json_t *output_string(const char *text);

/* Can it be made? To be asked before the work. 0 or a negative errno with words in error_last(). */
int output_check(const char *path);
/* Writes beside it, then renames. Same errors. */
int output_write(const char *path, const json_t *json);

#endif
