/*
 * Reading the command line: options of the command, then tunables, in order.
 */
#include "cli/command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/error.h"

#define NAME_MAX_LENGTH 64

static const struct option_info *option_find(const struct command *command, const char *name)
{
    for (const struct option_info *o = command->options; o->name != NULL; o++)
        if (option_names_equal(name, o->name))
            return o;
    return NULL;
}

bool option_exists(const struct command *command, const char *name)
{
    return option_find(command, name) != NULL;
}

const char *tunable_option(const struct tunable_info *info, char *buffer, size_t size)
{
    snprintf(buffer, size, "--%s", info->name);
    for (char *c = buffer; *c != '\0'; c++)
        if (*c == '_')
            *c = '-';
    return buffer;
}

const char *tunable_argument(const struct tunable_info *info, char *buffer, size_t size)
{
    static const char *const names[] = {
        [TUNABLE_SIZE] = "SIZE",   [TUNABLE_TIME] = "TIME",     [TUNABLE_COUNT] = "N",
        [TUNABLE_BOOL] = "on|off", [TUNABLE_STRING] = "STRING",
    };
    size_t used = 0;

    if (info->type != TUNABLE_CHOICE || info->choices == NULL) {
        snprintf(buffer, size, "%s", info->type == TUNABLE_CHOICE ? "WORD" : names[info->type]);
        return buffer;
    }
    buffer[0] = '\0';
    for (const char *const *word = info->choices; *word != NULL && used < size; word++)
        used += (size_t)snprintf(buffer + used, size - used, "%s%s", used > 0 ? "|" : "", *word);
    return buffer;
}

int option_number(const char *name, const char *value, uint64_t minimum, uint64_t maximum,
                  uint64_t *out)
{
    uint64_t number;
    int result = parse_count(name, value, &number);

    if (result != 0)
        return result;
    if (number < minimum || number > maximum)
        return error_set(-ERANGE, "%s: " SHOWN " is out of range: give %llu to %llu", name, value,
                         (unsigned long long)minimum, (unsigned long long)maximum);
    *out = number;
    return 0;
}

/* All that may follow "--", for the hint in a message. The caller frees both. */
static const char **option_names(const struct command *command, bool tunables, char **text)
{
    size_t count = 0, used = 0;
    const char **names;

    for (const struct option_info *o = command->options; o->name != NULL; o++)
        count++;
    names = calloc(count + tunable_count + 3, sizeof(*names));
    *text = malloc(tunable_count * NAME_MAX_LENGTH + 1);
    if (names == NULL || *text == NULL) {
        free(names);
        free(*text);
        *text = NULL;
        return NULL;
    }
    for (const struct option_info *o = command->options; o->name != NULL; o++)
        names[used++] = o->name;
    names[used++] = "help";
    if (tunables) {
        names[used++] = "set";
        for (unsigned i = 0; i < tunable_count; i++) {
            char *name = *text + (size_t)i * NAME_MAX_LENGTH;

            tunable_option(&tunable_table[i], name, NAME_MAX_LENGTH);
            names[used++] = name + 2;
        }
    }
    return names;
}

static void complain_unknown(const struct command *command, bool tunables, const char *name)
{
    char *text = NULL;
    const char **names = option_names(command, tunables, &text);
    const char *near = names != NULL ? nearest_word(name, names) : NULL;

    if (near != NULL)
        fprintf(stderr, "vmsm %s: there is no option --%s; did you mean --%s?\n", command->name,
                name, near);
    else
        fprintf(stderr, "vmsm %s: there is no option --%s; `vmsm %s --help` lists them\n",
                command->name, name, command->name);
    free(names);
    free(text);
}

static bool is_bool_word(const char *word)
{
    static const char *const words[] = {"on", "off", "yes", "no", "true", "false", "1", "0"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcasecmp(word, words[i]) == 0)
            return true;
    return false;
}

static int set_apply(struct tunables *tunables, const char *assignment)
{
    size_t length = strcspn(assignment, "=:");
    char name[NAME_MAX_LENGTH];

    if (assignment[length] == '\0' || length == 0 || length >= sizeof(name))
        return error_set(-EINVAL, "set: \"" SHOWN "\" is not name=value", assignment);
    memcpy(name, assignment, length);
    name[length] = '\0';
    return tunables_set(tunables, name, assignment + length + 1);
}

/* What an argument names; at most one of the three is set. */
struct named {
    const struct option_info *option;
    const struct tunable_info *tunable;
    bool set;
};

/* Whether its value, if not given with '=', is the next argument. */
static bool wants_value(const struct named *named, const char *next)
{
    if (named->set)
        return true;
    if (named->option != NULL)
        return named->option->argument != NULL;
    return named->tunable->type != TUNABLE_BOOL || (next != NULL && is_bool_word(next));
}

static int named_apply(const struct named *named, void *context, struct tunables *tunables,
                       const char *value)
{
    if (named->set)
        return set_apply(tunables, value);
    if (named->option != NULL)
        return named->option->apply(context, value);
    return tunables_set(tunables, named->tunable->name, value != NULL ? value : "on");
}

/* Reads one option at argv[*at] and moves *at past it. */
static enum options_outcome option_read(const struct command *command, void *context,
                                        struct tunables *tunables, char **argv, int *at)
{
    const char *typed = argv[*at] + 2, *value = strchr(typed, '=');
    const char *next = argv[*at + 1];
    struct named named = {0};
    char name[NAME_MAX_LENGTH];

    snprintf(name, sizeof(name), "%.*s", (int)strcspn(typed, "="), typed);
    if (strcmp(name, "help") == 0) {
        fprintf(stderr, "vmsm %s: --help takes no value\n", command->name);
        return OPTIONS_WRONG;
    }
    named.option = option_find(command, name);
    if (named.option == NULL && tunables != NULL) {
        named.set = strcmp(name, "set") == 0;
        named.tunable = named.set ? NULL : tunable_find(name);
    }
    if (named.option == NULL && named.tunable == NULL && !named.set) {
        complain_unknown(command, tunables != NULL, name);
        return OPTIONS_WRONG;
    }
    ++*at;
    if (value != NULL) {
        value++;
        if (named.option != NULL && named.option->argument == NULL) {
            fprintf(stderr, "vmsm %s: --%s takes no value\n", command->name, name);
            return OPTIONS_WRONG;
        }
    } else if (wants_value(&named, next)) {
        if (next == NULL) {
            fprintf(stderr, "vmsm %s: --%s needs a value\n", command->name, name);
            return OPTIONS_WRONG;
        }
        value = next;
        ++*at;
    }
    if (named_apply(&named, context, tunables, value) != 0) {
        fprintf(stderr, "vmsm %s: %s\n", command->name, error_last());
        return OPTIONS_WRONG;
    }
    return OPTIONS_RUN;
}

static enum options_outcome environment_read(const struct command *command,
                                             struct tunables *tunables)
{
    const char *conf = getenv("VMSM_CONF");

    if (conf == NULL || conf[0] == '\0' || tunables_parse(tunables, conf) == 0)
        return OPTIONS_RUN;
    fprintf(stderr, "vmsm %s: VMSM_CONF in the environment: %s\n", command->name, error_last());
    return OPTIONS_WRONG;
}

enum options_outcome options_parse(const struct command *command, void *context,
                                   struct tunables *tunables, int argc, char **argv)
{
    enum options_outcome outcome = OPTIONS_RUN;

    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            help_command(command, stdout);
            return OPTIONS_DONE;
        }
    }
    if (tunables != NULL)
        outcome = environment_read(command, tunables);
    for (int i = 0; i < argc && outcome == OPTIONS_RUN;) {
        if (strncmp(argv[i], "--", 2) != 0 || argv[i][2] == '\0') {
            fprintf(stderr, "vmsm %s: \"%s\" is not an option; options start with --\n",
                    command->name, argv[i]);
            return OPTIONS_WRONG;
        }
        outcome = option_read(command, context, tunables, argv, &i);
    }
    return outcome;
}
