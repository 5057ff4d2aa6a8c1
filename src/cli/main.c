/*
 * vmsm: finds the command and runs it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "core/error.h"
#include "vmsm.h"

const struct command *const command_table[] = {&sim_command, &run_command, &doctor_command, NULL};

static const char *const global_options[] = {"--help", "--version", "--show-settings", "--man",
                                             NULL};

static int settings_show(void)
{
    struct tunables tunables;
    const char *conf = getenv("VMSM_CONF");

    tunables_init(&tunables);
    if (conf != NULL && tunables_parse(&tunables, conf) != 0) {
        fprintf(stderr, "vmsm: VMSM_CONF in the environment: %s\n", error_last());
        return STATUS_USAGE;
    }
    tunables_show(&tunables, stdout);
    return STATUS_RIGHT;
}

static int global_run(const char *option)
{
    const char *near;

    if (strcmp(option, "--help") == 0 || strcmp(option, "-h") == 0) {
        help_overview(stdout);
        return STATUS_RIGHT;
    }
    if (strcmp(option, "--version") == 0) {
        printf("vmsm %s\n", VMSM_VERSION);
        return STATUS_RIGHT;
    }
    if (strcmp(option, "--show-settings") == 0)
        return settings_show();
    if (strcmp(option, "--man") == 0) {
        manual_print(stdout);
        return STATUS_RIGHT;
    }
    for (const char *const *known = global_options; *known != NULL; known++) {
        if (strncmp(option, *known, strlen(*known)) == 0 && option[strlen(*known)] == '=') {
            fprintf(stderr, "vmsm: %s takes no value\n", *known);
            return STATUS_USAGE;
        }
    }
    near = nearest_word(option, global_options);
    fprintf(stderr, "vmsm: there is no option %s%s%s%s\n", option,
            near != NULL ? "; did you mean " : "; `vmsm --help` lists them",
            near != NULL ? near : "", near != NULL ? "?" : "");
    return STATUS_USAGE;
}

static int complain_command(const char *word)
{
    const char *names[sizeof(command_table) / sizeof(command_table[0])] = {NULL};
    const char *near;

    for (size_t i = 0; command_table[i] != NULL; i++)
        names[i] = command_table[i]->name;
    near = nearest_word(word, names);
    if (near != NULL)
        fprintf(stderr, "vmsm: there is no command %s; did you mean %s?\n", word, near);
    else
        fprintf(stderr, "vmsm: there is no command %s; `vmsm --help` lists them\n", word);
    return STATUS_USAGE;
}

static const struct command *command_find(const char *word)
{
    for (size_t i = 0; command_table[i] != NULL; i++)
        if (strcmp(word, command_table[i]->name) == 0)
            return command_table[i];
    return NULL;
}

/* vmsm help [COMMAND] */
static int help_run(int argc, char **argv)
{
    const struct command *command;

    if (argc == 0 || argv[0][0] == '-') {
        help_overview(stdout);
        return STATUS_RIGHT;
    }
    command = command_find(argv[0]);
    if (command == NULL)
        return complain_command(argv[0]);
    help_command(command, stdout);
    return STATUS_RIGHT;
}

static int dispatch(int argc, char **argv)
{
    const struct command *command;

    if (argc < 2) {
        help_overview(stderr);
        return STATUS_USAGE;
    }
    if (argv[1][0] == '-') {
        if (argc > 2) {
            fprintf(stderr, "vmsm: \"%s\" after %s: a command comes first, its options after it\n",
                    argv[2], argv[1]);
            return STATUS_USAGE;
        }
        return global_run(argv[1]);
    }
    if (strcmp(argv[1], "help") == 0)
        return help_run(argc - 2, argv + 2);
    command = command_find(argv[1]);
    return command != NULL ? command->run(command, argc - 2, argv + 2) : complain_command(argv[1]);
}

int main(int argc, char **argv)
{
    int status = dispatch(argc, argv);

    /* A full disk under a redirected report must not look like success. */
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == STATUS_RIGHT) {
        perror("vmsm: writing to standard output");
        status = STATUS_CANNOT;
    }
    return status;
}
