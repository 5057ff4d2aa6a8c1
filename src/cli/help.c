/*
 * --help and the manual page, both made from the tables of commands, tunables,
 * counters and exit statuses.
 */
#include <string.h>

#include "cli/command.h"
#include "core/counters.h"
#include "vmsm.h"

#define TEXT_WIDTH 98
#define HELP_COLUMN 32
#define LABEL_MAX 128

static const char purpose[] = "memory larger than memory: a virtual memory manager in user space";

static const char vmsm_conf_help[] =
    "settings as name:value,name:value, read before the options, which override them";
static const char settings_help[] =
    "Settings of the manager (also --set name=VALUE, and in VMSM_CONF as name:value,name:value; "
    "sizes take K, M, G, T, times take ns, us, ms, s, m):";
static const char tmpdir_help[] = "where a nameless pagefile is made; /var/tmp if unset";

/* Prints text word by word from column `at`, broken and indented to `indent`. */
static void print_wrapped(FILE *out, const char *text, size_t at, size_t indent)
{
    bool first = true;

    while (*text != '\0') {
        size_t length = strcspn(text, " ");

        if (!first && at + 1 + length > TEXT_WIDTH) {
            fprintf(out, "\n%*s", (int)indent, "");
            at = indent;
            first = true;
        }
        fprintf(out, "%s%.*s", first ? "" : " ", (int)length, text);
        at += length + (first ? 0 : 1);
        first = false;
        text += length;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void print_entry(FILE *out, const char *label, const char *help, const char *default_text)
{
    char text[1024];
    int length = fprintf(out, "  %s", label);

    if (default_text != NULL && default_text[0] != '\0')
        snprintf(text, sizeof(text), "%s [%s]", help, default_text);
    else
        snprintf(text, sizeof(text), "%s", help);
    if (length >= HELP_COLUMN) {
        fputc('\n', out);
        length = 0;
    }
    fprintf(out, "%*s", HELP_COLUMN - length, "");
    print_wrapped(out, text, HELP_COLUMN, HELP_COLUMN);
}

static void option_label(const struct option_info *option, char *label, size_t size)
{
    snprintf(label, size, "--%s%s%s", option->name, option->argument != NULL ? " " : "",
             option->argument != NULL ? option->argument : "");
}

static void tunable_label(const struct tunable_info *info, char *label, size_t size)
{
    char name[64], argument[64];

    snprintf(label, size, "%s %s", tunable_option(info, name, sizeof(name)),
             tunable_argument(info, argument, sizeof(argument)));
}

void help_overview(FILE *out)
{
    fprintf(out, "vmsm %s: %s\n\nUsage: vmsm COMMAND [OPTIONS]\n\nCommands:\n", VMSM_VERSION,
            purpose);
    for (size_t i = 0; command_table[i] != NULL; i++)
        print_entry(out, command_table[i]->name, command_table[i]->summary, NULL);
    fprintf(out, "\nOptions without a command:\n");
    print_entry(out, "--help", "this text; `vmsm help COMMAND` for a command's options", NULL);
    print_entry(out, "--version", "the version", NULL);
    print_entry(out, "--show-settings", "the settings in force (defaults and VMSM_CONF)", NULL);
    print_entry(out, "--man", "the manual page vmsm(1), as roff: vmsm --man | man -l -", NULL);
    fprintf(out, "\nTry: vmsm doctor     vmsm sim --seconds 5\n");
}

/* What a tunable is if the command's user does not say. */
static const char *command_default(const struct command *command, const struct tunable_info *info)
{
    for (const char *const *d = command->defaults; d != NULL && *d != NULL; d += 2)
        if (strcmp(d[0], info->name) == 0)
            return d[1];
    return info->default_text;
}

void help_command(const struct command *command, FILE *out)
{
    char label[LABEL_MAX];

    fprintf(out, "vmsm %s: %s\n\nUsage: vmsm %s %s\n\n", command->name, command->summary,
            command->name, command->arguments != NULL ? command->arguments : "[OPTIONS]");
    print_wrapped(out, command->description, 0, 0);
    fprintf(out, "\nOptions (--name VALUE or --name=VALUE; [default]):\n");
    for (const struct option_info *o = command->options; o->name != NULL; o++) {
        option_label(o, label, sizeof(label));
        print_entry(out, label, o->help, o->default_text);
    }
    print_entry(out, "--help", "this text", NULL);
    if (command->tunables) {
        fputc('\n', out);
        print_wrapped(out, settings_help, 0, 0);
        for (unsigned i = 0; i < tunable_count; i++) {
            const struct tunable_info *info = &tunable_table[i];

            if (option_exists(command, info->name))
                snprintf(label, sizeof(label), "--set %s=VALUE", info->name);
            else
                tunable_label(info, label, sizeof(label));
            print_entry(out, label, info->help, command_default(command, info));
        }
    }
    fprintf(out, "\nExamples:\n");
    for (const char *const *e = command->examples; *e != NULL; e += 2)
        fprintf(out, "  %s\n      %s\n", e[0], e[1]);
    fprintf(out, "\nExit status:\n");
#define STATUS_HELP(name, value, help)                                                             \
    if ((value >= STATUS_RUN_FAILED) == command->runs_program)                                     \
        print_entry(out, #value, help, NULL);
    STATUSES(STATUS_HELP)
#undef STATUS_HELP
    if (command->runs_program)
        print_wrapped(out, "All others, and death by a signal, are the program's.", 0, 0);
}

/* Text for roff: '-' and '\' are escaped, and no line starts with '.' or '\''. */
static void roff_text(FILE *out, const char *text)
{
    if (*text == '.' || *text == '\'')
        fputs("\\&", out);
    for (; *text != '\0'; text++) {
        if (*text == '-')
            fputs("\\-", out);
        else if (*text == '\\')
            fputs("\\e", out);
        else
            fputc(*text, out);
    }
}

static void roff_entry(FILE *out, const char *label, const char *help, const char *default_text)
{
    fputs(".TP\n.B \"", out);
    roff_text(out, label);
    fputs("\"\n", out);
    roff_text(out, help);
    if (default_text != NULL && default_text[0] != '\0') {
        fputs(" [", out);
        roff_text(out, default_text);
        fputc(']', out);
    }
    fputc('\n', out);
}

static void manual_commands(FILE *out)
{
    char label[LABEL_MAX];

    fputs(".SH COMMANDS\n", out);
    for (size_t i = 0; command_table[i] != NULL; i++) {
        const struct command *command = command_table[i];

        fprintf(out, ".SS \"vmsm %s\"\n", command->name);
        roff_text(out, command->description);
        fputc('\n', out);
        for (const struct option_info *o = command->options; o->name != NULL; o++) {
            option_label(o, label, sizeof(label));
            roff_entry(out, label, o->help, o->default_text);
        }
        roff_entry(out, "--help", "print the options of this command", NULL);
        if (command->tunables)
            fputs(".PP\nTakes every setting of the manager as well, see SETTINGS.\n", out);
    }
}

static void manual_settings(FILE *out)
{
    char label[LABEL_MAX];

    fputs(".SH SETTINGS\nEach is an option, and can also be given as\n"
          ".BI \\-\\-set \" name=value\"\n(the name with '_' for '\\-'). VMSM_CONF is read first, "
          "then the options in order; the last one counts.\nSizes take K, M, G and T "
          "(steps of 1024), times take ns, us, ms, s and m.\nA switch without a value means on.\n",
          out);
    for (unsigned i = 0; i < tunable_count; i++) {
        tunable_label(&tunable_table[i], label, sizeof(label));
        roff_entry(out, label, tunable_table[i].help, tunable_table[i].default_text);
    }
}

static void manual_examples(FILE *out)
{
    fputs(".SH EXAMPLES\n", out);
    for (size_t i = 0; command_table[i] != NULL; i++)
        for (const char *const *e = command_table[i]->examples; *e != NULL; e += 2)
            roff_entry(out, e[0], e[1], NULL);
}

void manual_print(FILE *out)
{
    fprintf(out, ".TH VMSM 1 \"\" \"vmsm %s\" \"User Commands\"\n.SH NAME\nvmsm \\- ",
            VMSM_VERSION);
    roff_text(out, purpose);
    fputs("\n.SH SYNOPSIS\n.B vmsm\n.I COMMAND\n.RI [ OPTIONS ]\n.br\n.B vmsm\n"
          ".RB [ \\-\\-help | \\-\\-version | \\-\\-show\\-settings | \\-\\-man ]\n"
          ".SH DESCRIPTION\nvmsm gives memory that may be many times larger than its budget of "
          "physical memory: pages move between page frames and a pagefile as they are used, and "
          "nothing is lost. Options are given as\n.BI \\-\\-name \" VALUE\"\nor\n"
          ".BI \\-\\-name= VALUE.\n",
          out);
    manual_commands(out);
    fputs(".SS \"vmsm without a command\"\n", out);
    roff_entry(out, "--version", "print the version", NULL);
    roff_entry(out, "--show-settings", "print the settings in force: defaults and VMSM_CONF", NULL);
    roff_entry(out, "--man", "print this page as roff", NULL);
    manual_settings(out);
    fputs(".SH COUNTERS\nIn the JSON report of\n.B vmsm sim\nand in struct vmsm_counters of "
          "the library. Levels are marked with an asterisk.\n",
          out);
    for (size_t i = 0; i < COUNTER_TOTAL; i++)
        roff_entry(out, counter_table[i].name, counter_table[i].help,
                   counter_table[i].kind == COUNTER_GAUGE ? "*" : NULL);
    fputs(".SH \"EXIT STATUS\"\n", out);
#define STATUS_ROFF(name, value, help) roff_entry(out, #value, help, NULL);
    STATUSES(STATUS_ROFF)
#undef STATUS_ROFF
    fputs(".SH ENVIRONMENT\n", out);
    roff_entry(out, "VMSM_CONF", vmsm_conf_help, NULL);
    roff_entry(out, "TMPDIR", tmpdir_help, NULL);
    manual_examples(out);
    fputs(".SH \"SEE ALSO\"\n.BR userfaultfd (2),\n.BR madvise (2),\n.BR io_uring (7)\n", out);
}
