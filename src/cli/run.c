/*
 * The command run: prepares the environment for the preloaded library, and becomes the program.
 *
 * Nothing is left behind to supervise it: exit status, signals and terminal are the program's own.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/program.h"
#include "core/error.h"
#include "internal.h"
#include "preload/settings.h"

#define TRIAL_MEMORY TUNABLE_MIB
#define CONF_MAX 8192

#define UNPRIVILEGED                                                                               \
    "userfaultfd is for faults of user code only here: system calls are guarded instead, which "   \
    "costs about a microsecond each. What will not work: signals on stacks that the program "      \
    "makes "                                                                                       \
    "in managed memory (coroutines), and threads that its libraries make before it starts; see "   \
    "docs/run.md. (--kernel-faults off says that you know)"
#define UNGUARDED                                                                                  \
    "the program's system calls cannot be guarded, which is needed without the right to serve "    \
    "their faults: that needs Linux 5.11; or see `vmsm doctor`"

struct run_settings {
    struct tunables tunables;
    const char *report; /* NULL: none */
    bool stats;
    bool no_children;
};

static int apply_report(void *context, const char *value)
{
    struct run_settings *s = context;

    if (value[0] == '\0')
        return error_set(-EINVAL, "report: the name of a file is missing");
    s->report = value;
    return 0;
}

static int apply_stats(void *context, const char *value)
{
    struct run_settings *s = context;

    (void)value;
    s->stats = true;
    return 0;
}

static int apply_no_children(void *context, const char *value)
{
    struct run_settings *s = context;

    (void)value;
    s->no_children = true;
    return 0;
}

static const struct option_info options[] = {
    {"stats", NULL, NULL,
     "at the end of each process, a line on standard error: faults, peak, use of the pagefile",
     apply_stats},
    {"report", "FILE", NULL,
     "at the end of each process, a line of JSON in FILE, with all counters; FILE is emptied first",
     apply_report},
    {"no-children", NULL, NULL,
     "manage this program only, not those that it starts (each has a budget of its own)",
     apply_no_children},
    {0},
};

static int fail(const char *what)
{
    fprintf(stderr, "vmsm run: %s\n", what);
    return STATUS_RUN_FAILED;
}

static int report_error(void)
{
    return fail(error_last());
}

/* What cannot serve a program that knows nothing of it. */
static int check_tunables(const struct run_settings *s)
{
    const struct tunables *t = &s->tunables;
    struct stat st;

    if (t->mapper != MAPPER_COPY)
        return fail("only the mapper copy can be used: the others cannot move pages that the "
                    "program has protected (--mapper copy)");
    if (t->trap == TRAP_NONE)
        return fail("without a trap nobody serves the program's faults (--trap thread)");
    if (t->dirty == DIRTY_PROTECT)
        return fail("changes cannot be noticed by protection: a child by fork() would miss them "
                    "(--dirty hash)");
    if (!t->workers)
        return fail("it needs worker threads (--workers on, not --stage single)");
    if (!s->no_children && stat(t->pagefile, &st) == 0 && S_ISBLK(st.st_mode))
        return fail("a device can be the pagefile of one process only: give --no-children, or a "
                    "directory as pagefile");
    return STATUS_RIGHT;
}

/* A manager that is made and ended: what could not be done later is said now. */
static int try_manager(struct run_settings *s)
{
    struct tunables t = s->tunables;
    struct vmsm *manager;
    struct stat st;
    int error;

    if (t.memory > TRIAL_MEMORY)
        t.memory = TRIAL_MEMORY;
    if (stat(t.pagefile, &st) == 0 && S_ISDIR(st.st_mode)) {
        setenv("TMPDIR", t.pagefile, 1);
        t.pagefile[0] = '\0';
    }
    error = vmsm_create_tuned(&manager, &t);
    if (error == -EPERM && t.kernel_faults) {
        t.kernel_faults = s->tunables.kernel_faults = false;
        if (t.trap == TRAP_AUTO)
            t.trap = TRAP_SIGBUS;
        error = vmsm_create_tuned(&manager, &t);
        if (error == 0)
            fprintf(stderr, "vmsm run: " UNPRIVILEGED "\n");
    }
    if (error != 0)
        return report_error();
    vmsm_destroy(manager);
    if (s->tunables.kernel_faults && s->tunables.trap != TRAP_SIGBUS)
        return STATUS_RIGHT;
    return program_can_be_guarded() ? STATUS_RIGHT : fail(UNGUARDED);
}

/* The settings that are not the default, as VMSM_CONF has them. */
static int write_conf(const struct tunables *t, char *conf, size_t size)
{
    char value[TUNABLE_STRING_MAX], usual[TUNABLE_STRING_MAX];
    struct tunables defaults;
    size_t used = 0;

    tunables_init(&defaults);
    conf[0] = '\0';
    for (unsigned i = 0; i < tunable_count; i++) {
        const struct tunable_info *info = &tunable_table[i];

        tunable_print(t, info, value, sizeof(value));
        tunable_print(&defaults, info, usual, sizeof(usual));
        if (strcmp(value, usual) != 0 && used < size)
            used += (size_t)snprintf(conf + used, size - used, "%s:%s,", info->name, value);
    }
    return used < size ? 0 : error_set(-EINVAL, "the settings are too long");
}

/* The program may change its directory before a child's manager, or a report, is made; what is
 * tried is what will be used. */
static int make_absolute(const char *path, char *absolute, size_t size)
{
    char directory[PATH_MAX];
    int length;

    if (path[0] == '/' || path[0] == '\0')
        length = snprintf(absolute, size, "%s", path);
    else if (getcwd(directory, sizeof(directory)) == NULL)
        return error_set(-errno, "the working directory cannot be found: %s", strerror(errno));
    else
        length = snprintf(absolute, size, "%s/%s", directory, path);
    return (size_t)length < size ? 0 : error_set(-ENAMETOOLONG, "%s: the path is too long", path);
}

static int set_pagefile(struct tunables *t)
{
    static const char scheme[] = "file:";
    const char *path = t->pagefile;
    char absolute[TUNABLE_STRING_MAX];
    int error;

    if (strncmp(path, scheme, strlen(scheme)) == 0)
        path += strlen(scheme);
    error = make_absolute(path, absolute, sizeof(absolute));
    if (error == 0)
        memcpy(t->pagefile, absolute, sizeof(absolute));
    return error;
}

static int set_preload(void)
{
    const char *before = getenv("LD_PRELOAD");
    char library[PATH_MAX], *list;
    int error = program_library(library, sizeof(library));

    if (error != 0)
        return error;
    if (before != NULL)
        setenv(RUN_ENV_BEFORE, before, 1);
    else
        unsetenv(RUN_ENV_BEFORE);
    if (asprintf(&list, "%s%s%s", library, before != NULL && before[0] != '\0' ? ":" : "",
                 before != NULL ? before : "") < 0)
        return error_set(-ENOMEM, "out of memory");
    setenv("LD_PRELOAD", list, 1);
    free(list);
    return 0;
}

static int set_report(const struct run_settings *s)
{
    char path[PATH_MAX];
    int fd, error;

    unsetenv(RUN_ENV_REPORT);
    if (s->report == NULL)
        return 0;
    error = make_absolute(s->report, path, sizeof(path));
    if (error != 0)
        return error;
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return error_set(-errno, "the report %s cannot be written: %s", s->report, strerror(errno));
    close(fd);
    setenv(RUN_ENV_REPORT, path, 1);
    return 0;
}

static int set_environment(struct run_settings *s)
{
    char conf[CONF_MAX], letters[32];
    int error = write_conf(&s->tunables, conf, sizeof(conf));

    if (error == 0)
        error = set_report(s);
    if (error == 0)
        error = set_preload();
    if (error != 0)
        return error;
    snprintf(letters, sizeof(letters), "%d%s%s", (int)getpid(), s->stats ? "s" : "",
             s->no_children ? "n" : "");
    setenv(RUN_ENV_CONF, conf, 1);
    setenv(RUN_ENV_OPTIONS, letters, 1);
    return 0;
}

static int become(const char *path, char **argv)
{
    int error;

    execvp(path, argv); /* with its slash it is not looked for again; a script without "#!" works */
    error = errno;
    fprintf(stderr, "vmsm run: %s cannot be executed: %s\n", path, strerror(error));
    return error == ENOENT ? STATUS_RUN_MISSING : STATUS_RUN_REFUSED;
}

static int run_program(struct run_settings *s, char **argv)
{
    static const int statuses[] = {[PROGRAM_MISSING] = STATUS_RUN_MISSING,
                                   [PROGRAM_NOT_EXECUTABLE] = STATUS_RUN_REFUSED,
                                   [PROGRAM_UNFIT] = STATUS_RUN_FAILED};
    const char *tmpdir = getenv("TMPDIR");
    char path[PATH_MAX + 2], *kept = tmpdir != NULL ? strdup(tmpdir) : NULL;
    enum program_fitness fitness = program_examine(argv[0], path + 2, PATH_MAX);
    char *found = path + 2;
    int status;

    if (fitness != PROGRAM_FITS) {
        report_error();
        free(kept);
        return statuses[fitness];
    }
    status = set_pagefile(&s->tunables) == 0 ? check_tunables(s) : report_error();
    if (status == STATUS_RIGHT)
        status = try_manager(s);
    if (kept != NULL)
        setenv("TMPDIR", kept, 1);
    else
        unsetenv("TMPDIR");
    free(kept);
    if (status != STATUS_RIGHT)
        return status;
    if (set_environment(s) != 0)
        return report_error();
    /* Found in the working directory, by an empty entry of PATH. */
    if (strchr(found, '/') == NULL) {
        found -= 2;
        memcpy(found, "./", 2);
    }
    return become(found, argv);
}

static int run_run(const struct command *command, int argc, char **argv)
{
    struct run_settings s = {0};
    int count = 0;

    while (count < argc && strcmp(argv[count], "--") != 0)
        count++;
    tunables_init(&s.tunables);
    s.tunables.trap = TRAP_AUTO;
    switch (options_parse(command, &s, &s.tunables, count, argv)) {
    case OPTIONS_RUN:
        break;
    case OPTIONS_DONE:
        return STATUS_RIGHT;
    case OPTIONS_WRONG:
        return STATUS_RUN_FAILED;
    }
    if (count + 1 >= argc)
        return fail("there is no program to run: vmsm run [OPTIONS] -- PROGRAM [ARGUMENTS]");
    return run_program(&s, argv + count + 1);
}

static const char *const defaults[] = {"trap", "auto", NULL};

static const char *const examples[] = {
    "vmsm run --memory 2G -- sort --buffer-size 10G big.txt",
    "sorts in memory that looks like 10 GiB, of which 2 are real",
    "vmsm run --memory 512M --stats -- python3 model.py",
    "with a line on faults and pagefile at the end",
    NULL,
};

const struct command run_command = {
    .name = "run",
    .summary = "run a program, unmodified, with its memory managed",
    .arguments = "[OPTIONS] -- PROGRAM [ARGUMENTS]",
    .runs_program = true,
    .description =
        "Runs a program, not recompiled, whose "
        "heap and anonymous private mappings are managed memory: it has all that it asks for, and "
        "at most `memory` of it is in physical memory. The program, and each one that it starts, "
        "has a budget and a pagefile of its own. `pagefile` may name a directory. Exit status, and "
        "death by signal, are the program's. docs/run.md says which programs fit and what it "
        "costs.",
    .options = options,
    .tunables = true,
    .defaults = defaults,
    .examples = examples,
    .run = run_run,
};
