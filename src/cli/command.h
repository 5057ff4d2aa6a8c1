/*
 * A command of vmsm, described once.
 *
 * From struct command and its options come the parser, --help and the manual
 * page. A command that takes tunables accepts each of them too, both as
 * "--set name=value" and as an option of its own with '-' for '_', after
 * VMSM_CONF has been applied. A command's own option hides a tunable of the same name,
 * which then remains reachable by --set.
 */
#ifndef VMSM_CLI_COMMAND_H
#define VMSM_CLI_COMMAND_H

#include <stdbool.h>
#include <stdio.h>

#include "core/tunables.h"

/* Exit status: X(name, value, what it means) */
#define STATUSES(X)                                                                                \
    X(RIGHT, 0, "everything was right")                                                            \
    X(WRONG, 1, "data was wrong, or the books do not balance: never acceptable")                   \
    X(USAGE, 2, "the command line or VMSM_CONF is wrong")                                          \
    X(CANNOT, 3,                                                                                   \
      "it could not be carried out: no userfaultfd, the pagefile cannot be made, the disk is "     \
      "full, a page could not be read")                                                            \
    X(UNCHECKED, 4, "nothing was found wrong, but not all pages could be checked")                 \
    X(RUN_FAILED, 125, "run: vmsm itself failed, or the program cannot be managed")                \
    X(RUN_REFUSED, 126, "run: the program cannot be executed")                                     \
    X(RUN_MISSING, 127,                                                                            \
      "run: there is no such program; all other statuses of run are the program's")

enum status {
#define STATUS_ENUM(name, value, help) STATUS_##name = value,
    STATUSES(STATUS_ENUM)
#undef STATUS_ENUM
};

struct option_info {
    const char *name;         /* as typed after "--"; NULL ends a table */
    const char *argument;     /* what its value is called; NULL: it takes none */
    const char *default_text; /* NULL: none worth saying */
    const char *help;
    /* value is NULL if it takes none. 0, or a negative errno with words in error_last(). */
    int (*apply)(void *context, const char *value);
};

struct command {
    const char *name;
    const char *summary;               /* one line */
    const char *arguments;             /* as in its usage; NULL: "[OPTIONS]" */
    const char *description;           /* a paragraph */
    const struct option_info *options; /* never NULL */
    bool tunables;                     /* takes every tunable as well */
    bool runs_program;                 /* its statuses are those from 125 on, and a program's */
    const char *const *defaults;       /* tunable, its default here, …, NULL; may be NULL */
    const char *const *examples;       /* command, explanation, …, NULL */
    int (*run)(const struct command *command, int argc, char **argv);
};

extern const struct command *const command_table[]; /* NULL-terminated */

extern const struct command run_command;
extern const struct command sim_command;
extern const struct command doctor_command;

enum options_outcome {
    OPTIONS_RUN,   /* all read: go on */
    OPTIONS_DONE,  /* help was asked for and printed */
    OPTIONS_WRONG, /* a message was printed: STATUS_USAGE */
};

/*
 * Apply VMSM_CONF (if the command takes tunables), then the arguments in
 * order. tunables may be NULL if the command takes none.
 */
enum options_outcome options_parse(const struct command *command, void *context,
                                   struct tunables *tunables, int argc, char **argv);

/* A whole number from minimum to maximum; 0 or a negative errno with words in error_last(). */
int option_number(const char *name, const char *value, uint64_t minimum, uint64_t maximum,
                  uint64_t *out);

/* "--name" of a tunable: '_' becomes '-'. Returns buffer. */
const char *tunable_option(const struct tunable_info *info, char *buffer, size_t size);
/* What the value of a tunable is called in help: SIZE, TIME, N, on|off, … Returns buffer. */
const char *tunable_argument(const struct tunable_info *info, char *buffer, size_t size);

/* Does a command's own option of this name hide a tunable? name as typed after "--". */
bool option_exists(const struct command *command, const char *name);

void help_overview(FILE *out);
void help_command(const struct command *command, FILE *out);
void manual_print(FILE *out);

#endif
