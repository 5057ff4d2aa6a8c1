/*
 * progression: what each stage and each feature of the manager is worth.
 *
 * A cell is one run of the main job, `vmsm sim`, as a child process: a mapper, a number of threads
 * and a configuration (a stage, or `full` with one feature off). Each round runs every cell once;
 * the order of the configurations rotates from round to round. The child verifies every access and
 * sweeps the region at the end; a cell counts only if all was right.
 */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <libgen.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "plot.h"
#include "sample.h"

#define MAPPERS 3
#define THREADS_MAX 16 /* numbers of threads in one run */
#define PATH_SIZE 512
#define ARGUMENTS 32

enum { STATUS_OK, STATUS_WRONG, STATUS_FAILED };

static const char *const mapper_names[MAPPERS + 1] = {"copy", "move", "soft", NULL};

/* How `vmsm sim` is told. */
static const struct configuration {
    const char *name, *settings[4];
} configurations[] = {
    {"single", {"--stage", "single"}},
    {"basic", {"--stage", "basic"}},
    {"full", {"--stage", "full"}},
    {"no batching", {"--stage", "full", "--batching", "off"}},
    {"no deferred", {"--stage", "full", "--deferred", "off"}},
    {"no fine_locks", {"--stage", "full", "--fine-locks", "off"}},
    {"no shared_locks", {"--stage", "full", "--shared-locks", "off"}},
    {"no preserve", {"--stage", "full", "--preserve", "off"}},
    {"no more_workers", {"--stage", "full", "--more-workers", "off"}},
};
#define CONFIGURATIONS (sizeof configurations / sizeof configurations[0])
#define FULL 2 /* what the others are compared with */

struct options {
    const char *virtual_size, *memory, *write, *run_max, *seconds; /* as `vmsm sim` takes them */
    const char *dir, *json, *markdown, *plots;                     /* NULL: none */
    unsigned threads[THREADS_MAX], thread_count;
    unsigned rounds;
    bool wanted[MAPPERS];
    char vmsm[PATH_SIZE];
};

struct bench {
    struct options options;
    struct sample rates[MAPPERS][THREADS_MAX][CONFIGURATIONS]; /* verified accesses a second */
    char missing[MAPPERS][256]; /* why a mapper is left out; "": it is not */
    unsigned done, total;       /* cells */
    struct timespec start;
    bool wrong, failed;
};

static volatile sig_atomic_t interrupted;
static volatile pid_t child;

static const char help[] =
    "usage: progression [OPTION...]\n"
    "Measure what each stage and each feature is worth: `vmsm sim` with the stages single, basic\n"
    "and full, and with each of the six features of full switched off by itself.\n"
    "  --mappers LIST     of copy, move, soft (all)\n"
    "  --threads LIST     numbers of threads, each from 1 to 256 (1,2,4,8,16)\n"
    "  --rounds N         rounds, 1 to 64 (3)\n"
    "  --seconds S        length of a cell, without the sweep that checks every page (1.5)\n"
    "  --virtual SIZE     size of the region (256M)\n"
    "  --memory SIZE      budget of physical memory (64M)\n"
    "  --write PERCENT    share of accesses that write (10)\n"
    "  --run-max PAGES    longest run of pages accessed one after another (64)\n"
    "  --dir DIR          where the pagefile is made (TMPDIR or /var/tmp)\n"
    "  --json FILE        write all of it, each round, to FILE\n"
    "  --markdown FILE    write the tables as Markdown to FILE\n"
    "  --plots DIR        write progression-MAPPER.svg there\n"
    "  --quick            64M of 16M, 1 round of 0.5 s, 2 and 8 threads; options after it "
    "override\n"
    "  --vmsm PROGRAM     (vmsm of the same build)\n"
    "Status: 0; 1 data was wrong; 2 anything else. Ctrl-C ends it with a report of what there "
    "is.\n";

/* ---- Options ---- */

static _Noreturn void usage_fail(const char *option, const char *value, const char *wanted)
{
    fprintf(stderr, "progression: --%s %s: must be %s (--help tells more)\n", option, value,
            wanted);
    exit(STATUS_FAILED);
}

static unsigned number_parse(const char *option, const char *text, unsigned most,
                             const char *wanted)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (end == text || *end != '\0' || text[0] == '-' || value < 1 || value > most)
        usage_fail(option, text, wanted);
    return (unsigned)value;
}

static void threads_parse(struct options *o, char *list)
{
    char *rest = list, *word;

    o->thread_count = 0;
    while ((word = strsep(&rest, ",")) != NULL) {
        if (o->thread_count == THREADS_MAX)
            usage_fail("threads", word, "one of at most 16 numbers");
        o->threads[o->thread_count++] =
            number_parse("threads", word, 256, "a list of numbers from 1 to 256, as 1,2,4");
    }
}

static void mappers_parse(struct options *o, char *list)
{
    char *rest = list, *word;

    memset(o->wanted, 0, sizeof o->wanted);
    while ((word = strsep(&rest, ",")) != NULL) {
        unsigned i = 0;

        while (i < MAPPERS && strcmp(word, mapper_names[i]) != 0)
            i++;
        if (i == MAPPERS)
            usage_fail("mappers", word, "a list of copy, move, soft");
        o->wanted[i] = true;
    }
}

static void quick_set(struct options *o)
{
    o->virtual_size = "64M";
    o->memory = "16M";
    o->seconds = "0.5";
    o->rounds = 1;
    o->threads[0] = 2;
    o->threads[1] = 8;
    o->thread_count = 2;
}

static bool option_apply(struct options *o, const char *name, char *value)
{
    const struct {
        const char *name, **field;
    } texts[] = {
        {"virtual", &o->virtual_size},
        {"memory", &o->memory},
        {"write", &o->write},
        {"run-max", &o->run_max},
        {"seconds", &o->seconds},
        {"dir", &o->dir},
        {"json", &o->json},
        {"markdown", &o->markdown},
        {"plots", &o->plots},
    };

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (strcmp(name, texts[i].name) == 0) {
            *texts[i].field = value;
            return true;
        }
    if (strcmp(name, "mappers") == 0)
        mappers_parse(o, value);
    else if (strcmp(name, "threads") == 0)
        threads_parse(o, value);
    else if (strcmp(name, "rounds") == 0)
        o->rounds = number_parse(name, value, SAMPLE_ROUNDS, "a number from 1 to 64");
    else if (strcmp(name, "quick") == 0)
        quick_set(o);
    else if (strcmp(name, "vmsm") == 0)
        snprintf(o->vmsm, sizeof o->vmsm, "%s", value);
    else
        return false;
    return true;
}

/* build/bench/progression: build/vmsm */
static void vmsm_find(struct options *o)
{
    char self[PATH_SIZE];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);

    self[length > 0 ? length : 0] = '\0';
    snprintf(o->vmsm, sizeof o->vmsm, "%.490s/vmsm", dirname(dirname(self)));
}

static void options_check(const struct options *o)
{
    struct stat status;

    if (access(o->vmsm, X_OK) != 0)
        usage_fail("vmsm", o->vmsm, "the program vmsm (make builds it)");
    if (o->dir != NULL && (stat(o->dir, &status) != 0 || !S_ISDIR(status.st_mode)))
        usage_fail("dir", o->dir, "a directory");
    if (o->plots != NULL && (stat(o->plots, &status) != 0 || !S_ISDIR(status.st_mode)))
        usage_fail("plots", o->plots, "a directory");
}

static void options_parse(struct options *o, int argc, char **argv)
{
    static const struct option names[] = {
        {"mappers", required_argument, NULL, 0},  {"threads", required_argument, NULL, 0},
        {"rounds", required_argument, NULL, 0},   {"seconds", required_argument, NULL, 0},
        {"virtual", required_argument, NULL, 0},  {"memory", required_argument, NULL, 0},
        {"write", required_argument, NULL, 0},    {"run-max", required_argument, NULL, 0},
        {"dir", required_argument, NULL, 0},      {"json", required_argument, NULL, 0},
        {"markdown", required_argument, NULL, 0}, {"plots", required_argument, NULL, 0},
        {"quick", no_argument, NULL, 0},          {"vmsm", required_argument, NULL, 0},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
    int found, index;

    while ((found = getopt_long(argc, argv, "h", names, &index)) != -1) {
        if (found == 'h') {
            fputs(help, stdout);
            exit(STATUS_OK);
        }
        if (found != 0 || !option_apply(o, names[index].name, optarg)) {
            fputs("progression: --help lists the options\n", stderr);
            exit(STATUS_FAILED);
        }
    }
    if (optind < argc) {
        fprintf(stderr, "progression: %s: not an option; --help lists them\n", argv[optind]);
        exit(STATUS_FAILED);
    }
    options_check(o);
}

/* ---- A cell ---- */

static void signal_received(int number)
{
    interrupted = 1;
    if (child > 0)
        kill(child, number);
}

/* Only in the child: replace it by vmsm, its JSON to out, its words to words. */
static _Noreturn void child_run(const struct options *o, const char *const *arguments, int out,
                                int words, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(STATUS_FAILED);
    if (o->dir != NULL)
        setenv("TMPDIR", o->dir, 1);
    if (dup2(out, STDOUT_FILENO) >= 0 && dup2(words, STDERR_FILENO) >= 0)
        execv(o->vmsm, (char *const *)(uintptr_t)arguments);
    fprintf(stderr, "%s: %s\n", o->vmsm, strerror(errno));
    _exit(127);
}

static void arguments_make(const struct options *o, unsigned mapper, const char *threads,
                           const struct configuration *c, const char **out)
{
    const char *const common[] = {"vmsm",      "sim",       "--quiet",   "--json",   "-",
                                  "--mapper",  "",          "--threads", threads,    "--seconds",
                                  o->seconds,  "--virtual", "",          "--memory", o->memory,
                                  "--run-max", o->run_max,  "--write",   o->write};
    size_t n = sizeof common / sizeof common[0];

    memcpy(out, common, sizeof common);
    out[6] = mapper_names[mapper];
    out[12] = o->virtual_size;
    for (size_t i = 0; i < 4 && c->settings[i] != NULL; i++)
        out[n++] = c->settings[i];
    out[n] = NULL;
}

/* What the child said last, without line ends. */
static void words_read(FILE *words, char *buffer, size_t size)
{
    char line[256];

    buffer[0] = '\0';
    rewind(words);
    while (fgets(line, sizeof line, words) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0] != '\0')
            snprintf(buffer, size, "%s", line);
    }
}

/* The child's verified accesses a second, or NAN with the reason in `words`. */
static double report_judge(struct bench *b, const json_t *report, char *words, size_t size)
{
    const json_t *outcome = json_object_get(report, "outcome");
    const json_t *rate = json_object_get(json_object_get(report, "run"), "per_second");
    const char *text = json_string_value(json_object_get(outcome, "text"));
    json_int_t status = json_integer_value(json_object_get(outcome, "status"));

    if (!json_is_integer(json_object_get(outcome, "status")) || !json_is_number(rate)) {
        snprintf(words, size, "its report has no outcome or no rate");
        return NAN;
    }
    if (json_is_true(json_object_get(outcome, "interrupted")))
        return NAN;
    if (status == 0)
        return json_number_value(rate);
    snprintf(words, size, "%s", text != NULL ? text : "not right, without a reason");
    b->wrong = b->wrong || status == STATUS_WRONG;
    return NAN;
}

static double child_finish(struct bench *b, FILE *out, FILE *words, int status, char *reason,
                           size_t size)
{
    json_t *report;
    double rate = NAN;

    rewind(out);
    report = json_loadf(out, 0, NULL);
    if (report != NULL) {
        rate = report_judge(b, report, reason, size);
        json_decref(report);
        return rate;
    }
    words_read(words, reason, size);
    if (WIFSIGNALED(status))
        snprintf(reason, size, "vmsm was killed by signal %d", WTERMSIG(status));
    else if (reason[0] == '\0')
        snprintf(reason, size, "vmsm ended with status %d and no report", WEXITSTATUS(status));
    return NAN;
}

/* Run vmsm to its end. 0 with its wait status, or a negative errno. */
static int child_wait(const struct options *o, const char *const *arguments, FILE *out, FILE *words,
                      int *status)
{
    pid_t parent = getpid(), pid;

    if (out == NULL || words == NULL)
        return -errno;
    fflush(NULL);
    pid = fork();
    if (pid == 0)
        child_run(o, arguments, fileno(out), fileno(words), parent);
    if (pid < 0)
        return -errno;
    child = pid;
    while (waitpid(pid, status, 0) < 0 && errno == EINTR)
        continue;
    child = 0;
    return 0;
}

/* Run one cell; NAN if it does not count, with the reason (empty if it was interrupted). */
static double cell_run(struct bench *b, unsigned mapper, unsigned threads,
                       const struct configuration *c, char *reason, size_t size)
{
    const char *arguments[ARGUMENTS];
    char number[16];
    FILE *out = tmpfile(), *words = tmpfile();
    double rate = NAN;
    int status = 0, error;

    reason[0] = '\0';
    snprintf(number, sizeof number, "%u", threads);
    arguments_make(&b->options, mapper, number, c, arguments);
    error = child_wait(&b->options, arguments, out, words, &status);
    if (error == 0)
        rate = child_finish(b, out, words, status, reason, size);
    else
        snprintf(reason, size, "no process, or no temporary file: %s", strerror(-error));
    if (out != NULL)
        fclose(out);
    if (words != NULL)
        fclose(words);
    return rate;
}

/* Let vmsm say whether it takes the options, before anything is measured. */
static void settings_check(const struct options *o)
{
    const char *arguments[ARGUMENTS];
    char reason[256];
    FILE *out = tmpfile(), *words = tmpfile();
    int status = 0, error;
    size_t n = 0;

    arguments_make(o, MAPPERS - 1, "1", &configurations[FULL], arguments);
    while (arguments[n] != NULL)
        n++;
    arguments[n++] = "--show-settings";
    arguments[n] = NULL;
    error = child_wait(o, arguments, out, words, &status);
    snprintf(reason, sizeof reason, "%s", strerror(-error));
    if (error == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        fclose(out);
        fclose(words);
        return;
    }
    if (error == 0)
        words_read(words, reason, sizeof reason);
    fprintf(stderr, "progression: vmsm refuses these options: %s\n", reason);
    exit(STATUS_FAILED);
}

/* ---- Rounds ---- */

static double seconds_since(const struct timespec *start)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) * 1e-9;
}

static void progress_show(const struct bench *b, unsigned round, unsigned mapper, unsigned threads,
                          const char *configuration, double rate)
{
    double left = seconds_since(&b->start) / b->done * (b->total - b->done);
    bool terminal = isatty(STDERR_FILENO);
    char buffer[32];

    fprintf(stderr, "%s[%u/%u] round %u: %s, %u thread%s, %s: %s a second, %.0f s left%s",
            terminal ? "\r\033[K" : "", b->done, b->total, round + 1, mapper_names[mapper], threads,
            threads == 1 ? "" : "s", configuration, sample_format(rate, buffer, sizeof buffer),
            left, terminal && b->done < b->total ? "" : "\n");
    fflush(stderr);
}

static void cell_do(struct bench *b, unsigned round, unsigned mapper, unsigned t, size_t c)
{
    unsigned threads = b->options.threads[t];
    char reason[256];
    double rate = cell_run(b, mapper, threads, &configurations[c], reason, sizeof reason);

    if (interrupted)
        return;
    b->rates[mapper][t][c].rounds[round] = rate;
    b->done++;
    progress_show(b, round, mapper, threads, configurations[c].name, rate);
    if (!isnan(rate))
        return;
    b->failed = true;
    fprintf(stderr, "\nprogression: %s, %u threads, %s: %s\n", mapper_names[mapper], threads,
            configurations[c].name, reason);
    /* A mapper whose very first cell fails is one that this system does not have. */
    if (round == 0 && t == 0 && c == 0 && !b->wrong) {
        snprintf(b->missing[mapper], sizeof b->missing[mapper], "%s", reason);
        b->total -= b->options.rounds * b->options.thread_count * (unsigned)CONFIGURATIONS - 1;
    }
}

static void rounds_run(struct bench *b)
{
    for (unsigned round = 0; round < b->options.rounds; round++)
        for (unsigned mapper = 0; mapper < MAPPERS; mapper++)
            for (unsigned t = 0; t < b->options.thread_count; t++)
                for (size_t i = 0; i < CONFIGURATIONS; i++) {
                    if (interrupted || b->wrong)
                        return;
                    if (!b->options.wanted[mapper] || b->missing[mapper][0] != '\0')
                        break;
                    cell_do(b, round, mapper, t, (i + round) % CONFIGURATIONS);
                }
}

/* ---- Reports ---- */

typedef void cell_writer(const struct bench *b, unsigned mapper, unsigned t, size_t c, char *buffer,
                         size_t size);

static void rate_write(const struct bench *b, unsigned mapper, unsigned t, size_t c, char *buffer,
                       size_t size)
{
    struct sample_summary s = sample_summarize(&b->rates[mapper][t][c]);
    char median[16], least[16], most[16];

    sample_format(s.median, median, sizeof median);
    if (s.count < 2)
        snprintf(buffer, size, "%s", median);
    else
        snprintf(buffer, size, "%s (%s-%s)", median, sample_format(s.least, least, sizeof least),
                 sample_format(s.most, most, sizeof most));
}

static void ratio_write(const struct bench *b, unsigned mapper, unsigned t, size_t c, char *buffer,
                        size_t size)
{
    const struct sample *cells = b->rates[mapper][t];
    struct sample_summary s = sample_ratio(&cells[c], &cells[FULL]);

    snprintf(buffer, size, isnan(s.median) ? "-" : "%.2f", s.median);
}

static void table_write(FILE *out, const struct bench *b, unsigned mapper, cell_writer *writer,
                        int width, bool markdown)
{
    const struct options *o = &b->options;
    char buffer[64];

    fprintf(out, markdown ? "| |" : "%-16s", "");
    for (unsigned t = 0; t < o->thread_count; t++) {
        snprintf(buffer, sizeof buffer, "%u thread%s", o->threads[t],
                 o->threads[t] == 1 ? "" : "s");
        fprintf(out, markdown ? " %*s |" : " %*s", markdown ? 0 : width, buffer);
    }
    if (markdown) {
        fputs("\n|---|", out);
        for (unsigned t = 0; t < o->thread_count; t++)
            fputs("---:|", out);
    }
    fputc('\n', out);
    for (size_t c = 0; c < CONFIGURATIONS; c++) {
        fprintf(out, markdown ? "| %s |" : "%-16s", configurations[c].name);
        for (unsigned t = 0; t < o->thread_count; t++) {
            writer(b, mapper, t, c, buffer, sizeof buffer);
            fprintf(out, markdown ? " %*s |" : " %*s", markdown ? 0 : width, buffer);
        }
        fputc('\n', out);
    }
    fputc('\n', out);
}

static void tables_write(FILE *out, const struct bench *b, bool markdown)
{
    const struct options *o = &b->options;

    fprintf(out,
            "%s of %s memory, runs up to %s, %s%% writes, %s s a cell; medians of %u round%s%s\n\n",
            o->virtual_size, o->memory, o->run_max, o->write, o->seconds, o->rounds,
            o->rounds == 1 ? "" : "s",
            interrupted ? " (ended early: of as many as there are)" : "");
    for (unsigned mapper = 0; mapper < MAPPERS; mapper++) {
        const char *mark = markdown ? "**" : "";

        if (!o->wanted[mapper])
            continue;
        if (b->missing[mapper][0] != '\0') {
            fprintf(out, "mapper %s is left out: %s\n\n", mapper_names[mapper], b->missing[mapper]);
            continue;
        }
        fprintf(out, "%sMapper %s: accesses a second, median (least-most)%s\n\n", mark,
                mapper_names[mapper], mark);
        table_write(out, b, mapper, rate_write, o->rounds > 1 ? 26 : 11, markdown);
        fprintf(out, "%sMapper %s: the same as a share of full, round by round%s\n\n", mark,
                mapper_names[mapper], mark);
        table_write(out, b, mapper, ratio_write, 10, markdown);
    }
}

static int markdown_write(const struct bench *b)
{
    FILE *out = fopen(b->options.markdown, "we");

    if (out == NULL)
        return -errno;
    tables_write(out, b, true);
    return fclose(out) == 0 ? 0 : -errno;
}

static json_t *rounds_json(const struct sample *sample, unsigned rounds)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < rounds; i++)
        json_array_append_new(list, isnan(sample->rounds[i]) ? json_null()
                                                             : json_real(sample->rounds[i]));
    return list;
}

static json_t *cell_json(const struct bench *b, unsigned mapper, unsigned t, size_t c)
{
    const struct sample *sample = &b->rates[mapper][t][c];
    struct sample_summary s = sample_summarize(sample);

    if (s.count == 0)
        return NULL;
    return json_pack("{s:s, s:s, s:i, s:f, s:f, s:f, s:o}", "mapper", mapper_names[mapper],
                     "configuration", configurations[c].name, "threads", (int)b->options.threads[t],
                     "median", s.median, "least", s.least, "most", s.most, "rounds",
                     rounds_json(sample, b->options.rounds));
}

static int json_write(const struct bench *b)
{
    const struct options *o = &b->options;
    json_t *cells = json_array(), *missing = json_object(), *whole;
    int result;

    for (unsigned mapper = 0; mapper < MAPPERS; mapper++) {
        for (unsigned t = 0; t < o->thread_count; t++)
            for (size_t c = 0; c < CONFIGURATIONS; c++) {
                json_t *cell = cell_json(b, mapper, t, c);

                if (cell != NULL)
                    json_array_append_new(cells, cell);
            }
        if (b->missing[mapper][0] != '\0')
            json_object_set_new(missing, mapper_names[mapper], json_string(b->missing[mapper]));
    }
    whole = json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:o, s:o}", "virtual", o->virtual_size,
                      "memory", o->memory, "seconds", o->seconds, "run_max", o->run_max, "write",
                      o->write, "interrupted", interrupted != 0, "left_out", missing,
                      "accesses_per_second", cells);
    if (whole == NULL)
        return -ENOMEM;
    result = json_dump_file(whole, o->json, JSON_INDENT(2)) == 0 ? 0 : errno > 0 ? -errno : -EIO;
    json_decref(whole);
    return result;
}

/* Bars: configurations along x, a series for each number of threads. */
static int plot_write(const struct bench *b, unsigned mapper)
{
    const struct options *o = &b->options;
    double values[3][THREADS_MAX][CONFIGURATIONS];
    char names[THREADS_MAX][32], title[96], path[PATH_SIZE];
    const char *categories[CONFIGURATIONS];
    struct plot_series series[THREADS_MAX];
    struct plot plot = {.title = title,
                        .y_label = "verified accesses a second",
                        .categories = categories,
                        .category_count = CONFIGURATIONS,
                        .series = series,
                        .series_count = o->thread_count,
                        .reference = NAN};

    for (size_t c = 0; c < CONFIGURATIONS; c++)
        categories[c] = configurations[c].name;
    for (unsigned t = 0; t < o->thread_count; t++) {
        for (size_t c = 0; c < CONFIGURATIONS; c++) {
            struct sample_summary s = sample_summarize(&b->rates[mapper][t][c]);

            values[0][t][c] = s.median;
            values[1][t][c] = s.least;
            values[2][t][c] = s.most;
        }
        snprintf(names[t], sizeof names[t], "%u thread%s", o->threads[t],
                 o->threads[t] == 1 ? "" : "s");
        series[t] = (struct plot_series){names[t], values[0][t], values[1][t], values[2][t]};
    }
    snprintf(title, sizeof title, "Stages, and full without one feature: mapper %s",
             mapper_names[mapper]);
    snprintf(path, sizeof path, "%.450s/progression-%s.svg", o->plots, mapper_names[mapper]);
    return plot_bars(path, &plot);
}

static void write_failed(struct bench *b, const char *what, int error)
{
    if (error == 0)
        return;
    b->failed = true;
    fprintf(stderr, "progression: cannot write %s: %s\n", what, strerror(-error));
}

static void report(struct bench *b)
{
    const struct options *o = &b->options;

    tables_write(stdout, b, false);
    if (o->markdown != NULL)
        write_failed(b, o->markdown, markdown_write(b));
    if (o->json != NULL)
        write_failed(b, o->json, json_write(b));
    for (unsigned mapper = 0; o->plots != NULL && mapper < MAPPERS; mapper++)
        if (o->wanted[mapper] && b->missing[mapper][0] == '\0')
            write_failed(b, o->plots, plot_write(b, mapper));
}

int main(int argc, char **argv)
{
    static struct bench b = {.options = {.virtual_size = "256M",
                                         .memory = "64M",
                                         .write = "10",
                                         .run_max = "64",
                                         .seconds = "1.5",
                                         .threads = {1, 2, 4, 8, 16},
                                         .thread_count = 5,
                                         .rounds = 3,
                                         .wanted = {true, true, true}}};
    struct sigaction action = {.sa_handler = signal_received};

    vmsm_find(&b.options);
    options_parse(&b.options, argc, argv);
    settings_check(&b.options);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    for (unsigned mapper = 0; mapper < MAPPERS; mapper++) {
        b.total += b.options.wanted[mapper] * b.options.rounds * b.options.thread_count *
                   (unsigned)CONFIGURATIONS;
        for (unsigned t = 0; t < THREADS_MAX; t++)
            for (size_t c = 0; c < CONFIGURATIONS; c++)
                sample_clear(&b.rates[mapper][t][c]);
    }
    clock_gettime(CLOCK_MONOTONIC, &b.start);
    rounds_run(&b);
    if (interrupted)
        fputs("\nprogression: ended early, with what there is\n", stderr);
    report(&b);
    return b.wrong ? STATUS_WRONG : b.failed ? STATUS_FAILED : STATUS_OK;
}
