/*
 * programs: unmodified programs of Debian by `vmsm run`, beside the kernel's swap in a control group
 * of the same limit on the same disk; what it costs them where all fits; and what it adds to a
 * start.
 *
 * Each program is run once as it is, which tells how much it uses at its peak, and what its output
 * is; every other run must give the same. Then, in each round, its ways take turns, each round
 * beginning with another.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "peer.h"
#include "program_run.h"
#include "sample.h"
#include "scratch.h"
#include "text.h"

#define PATH_SIZE 512
#define PROGRAMS_MAX 8
#define MIB 1048576.0
/* What a group has beyond a program's memory, whatever its way: for `vmsm run` its tables, threads
 * and what the kernel has for it; for the kernel that, what swapping takes, and pages of files. */
#define ALLOWANCE ((uint64_t)2 << 20)
#define PAGE_ALLOWANCE 40u                  /* for each page at its peak */
#define FITS_TIMES 4u                       /* the memory in which all fits, to the peak */
#define START_TIMES 20u                     /* starts in a round */
#define PAGEFILE_LEAST ((uint64_t)16 << 20) /* and one and a half times the peak */

enum { STATUS_OK, STATUS_WRONG, STATUS_FAILED };

/* What is measured. */
enum part { PART_PRESSURE, PART_FITS, PART_START, PARTS };
static const char *const part_names[PARTS] = {"pressure", "fits", "start"};

static const struct {
    enum part part;
    enum program_way way;
} columns[] = {
    {PART_PRESSURE, WAY_SWAP}, {PART_PRESSURE, WAY_MANAGED}, {PART_PRESSURE, WAY_SIGBUS},
    {PART_FITS, WAY_PLAIN},    {PART_FITS, WAY_JEMALLOC},    {PART_FITS, WAY_MANAGED},
};
enum column { AT_SWAP, AT_MANAGED, AT_SIGBUS, FITS_PLAIN, FITS_JEMALLOC, FITS_MANAGED, COLUMNS };

static const char *const column_names[COLUMNS] = {"swap",
                                                  "vmsm run",
                                                  "vmsm run --trap sigbus",
                                                  "plain, all fits",
                                                  "jemalloc, all fits",
                                                  "vmsm run, all fits"};

/* Starts: a program that does nothing, and one that maps so much that it has a manager. */
#define START_WORDS 5 /* NULL at the end included */
static const char *const starts[][START_WORDS] = {
    {"true", NULL},
    {"dd", "if=/dev/zero", "bs=256M", "count=0", NULL},
};
#define STARTS 2

struct options {
    const char *dir, *markdown, *settings;
    char vmsm[PATH_SIZE], jemalloc[PATH_SIZE];
    unsigned rounds, share, scale;
    uint64_t allowance; /* bytes; 0: the usual */
    bool programs[PROGRAMS_MAX], parts[PARTS];
};

struct row {
    struct program_result plain;
    struct sample seconds[COLUMNS], cpu[COLUMNS], peak[COLUMNS];
};

struct bench {
    struct options options;
    struct program_setup setup;
    struct row rows[PROGRAMS_MAX];
    struct sample starts[STARTS][2]; /* plain, and managed */
    const char *missing;             /* why there is no swap; NULL: there is */
    char pagefile[PATH_SIZE];
    bool wrong;
};

static volatile sig_atomic_t interrupted;

static const char help[] =
    "usage: programs [OPTION...]\n"
    "Measure programs of Debian by `vmsm run` beside the kernel's swap with the same limit (as\n"
    "root), beside jemalloc alone where all fits, and what it adds to the start of a program.\n"
    "  --programs LIST  of sort, sqlite3, redis, numpy (all)\n"
    "  --parts LIST     of pressure, fits, start (all)\n"
    "  --rounds N       rounds, 1 to 64 (3)\n"
    "  --share PERCENT  memory, of what the program uses at its peak (25)\n"
    "  --scale PERCENT  of the size of what they work on (100)\n"
    "  --allowance KIB  what the control group has beyond that (2048, and 40 bytes a page)\n"
    "  --dir DIR        where input, pagefile and swap file are made (TMPDIR or /var/tmp)\n"
    "  --markdown FILE  write the tables to FILE as well\n"
    "  --vmsm PROGRAM   (vmsm of the same build)\n"
    "  --set CONF       settings for `vmsm run`, as VMSM_CONF\n"
    "Status: 0; 1 a program's output was not what it is without us; 2 anything else. After a\n"
    "signal what was measured is reported.\n";

/* ---- Options ---- */

static _Noreturn void usage_fail(const char *option, const char *value, const char *wanted)
{
    fprintf(stderr, "programs: --%s %s: must be %s (--help tells more)\n", option, value, wanted);
    exit(STATUS_FAILED);
}

static unsigned number_parse(const char *option, const char *text, unsigned most)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (end == text || *end != '\0' || text[0] == '-' || value < 1 || value > most)
        usage_fail(option, text, "a number that makes sense");
    return (unsigned)value;
}

static const char *program_name(unsigned i)
{
    return programs[i].name;
}

static const char *part_name(unsigned i)
{
    return part_names[i];
}

static void list_parse(const char *option, char *list, bool *wanted, unsigned count,
                       const char *(*name)(unsigned))
{
    char *rest = list, *word;

    memset(wanted, 0, count * sizeof(*wanted));
    while ((word = strsep(&rest, ",")) != NULL) {
        unsigned i = 0;

        while (i < count && strcmp(word, name(i)) != 0)
            i++;
        if (i == count)
            usage_fail(option, word, "a list of names");
        wanted[i] = true;
    }
}

static void option_apply(struct options *o, const char *name, char *value)
{
    if (strcmp(name, "programs") == 0)
        list_parse(name, value, o->programs, program_count, program_name);
    else if (strcmp(name, "parts") == 0)
        list_parse(name, value, o->parts, PARTS, part_name);
    else if (strcmp(name, "rounds") == 0)
        o->rounds = number_parse(name, value, SAMPLE_ROUNDS);
    else if (strcmp(name, "share") == 0)
        o->share = number_parse(name, value, 100);
    else if (strcmp(name, "scale") == 0)
        o->scale = number_parse(name, value, 10000);
    else if (strcmp(name, "allowance") == 0)
        o->allowance = (uint64_t)number_parse(name, value, 1 << 30) * 1024;
    else if (strcmp(name, "dir") == 0)
        o->dir = value;
    else if (strcmp(name, "markdown") == 0)
        o->markdown = value;
    else if (strcmp(name, "set") == 0)
        o->settings = value;
    else
        snprintf(o->vmsm, sizeof(o->vmsm), "%s", value);
}

/* build/bench/programs: build/vmsm */
static void options_default(struct options *o)
{
    const char *tmpdir = getenv("TMPDIR");
    char self[PATH_SIZE];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

    self[length > 0 ? length : 0] = '\0';
    snprintf(o->vmsm, sizeof(o->vmsm), "%.490s/vmsm", dirname(dirname(self)));
    snprintf(o->jemalloc, sizeof(o->jemalloc), "libjemalloc.so.2");
    o->dir = tmpdir != NULL && tmpdir[0] != '\0' ? tmpdir : "/var/tmp";
    o->rounds = 3;
    o->share = 25;
    o->scale = 100;
    memset(o->programs, true, sizeof(o->programs));
    memset(o->parts, true, sizeof(o->parts));
}

static void options_parse(struct options *o, int argc, char **argv)
{
    static const struct option names[] = {
        {"programs", required_argument, NULL, 0}, {"parts", required_argument, NULL, 0},
        {"rounds", required_argument, NULL, 0},   {"share", required_argument, NULL, 0},
        {"scale", required_argument, NULL, 0},    {"dir", required_argument, NULL, 0},
        {"markdown", required_argument, NULL, 0}, {"vmsm", required_argument, NULL, 0},
        {"set", required_argument, NULL, 0},      {"allowance", required_argument, NULL, 0},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
    int found, index;

    options_default(o);
    while ((found = getopt_long(argc, argv, "h", names, &index)) != -1) {
        if (found == 'h') {
            fputs(help, stdout);
            exit(STATUS_OK);
        }
        if (found != 0) {
            fputs("programs: --help lists the options\n", stderr);
            exit(STATUS_FAILED);
        }
        option_apply(o, names[index].name, optarg);
    }
    if (optind < argc)
        usage_fail("", argv[optind], "an option");
    if (access(o->vmsm, X_OK) != 0)
        usage_fail("vmsm", o->vmsm, "the program vmsm (make builds it)");
}

/* ---- Runs ---- */

static int run_checked(struct bench *b, unsigned i, enum program_way way,
                       struct program_result *result)
{
    int error = program_run(&programs[i], way, &b->setup, result);

    if (error == 0 && way != WAY_PLAIN && result->output != b->rows[i].plain.output) {
        complain("%s: its output is not what it was", programs[i].name);
        b->wrong = true;
        error = -EBADMSG;
    }
    return error;
}

static uint64_t memory_of(const struct bench *b, unsigned i, enum part part)
{
    uint64_t peak = b->rows[i].plain.peak;

    return part == PART_FITS ? peak * FITS_TIMES : peak * b->options.share / 100;
}

static int measure_column(struct bench *b, unsigned i, enum column column, unsigned round)
{
    enum program_way way = columns[column].way;
    uint64_t memory = memory_of(b, i, columns[column].part), peak = b->rows[i].plain.peak;
    uint64_t allowance = b->options.allowance > 0 ? b->options.allowance
                                                  : ALLOWANCE + peak / 4096 * PAGE_ALLOWANCE +
                                                        ((uint64_t)programs[i].beside << 20);
    struct program_result result;
    struct row *row = &b->rows[i];
    int error = 0;

    b->setup.memory = memory;
    b->setup.limited = columns[column].part == PART_PRESSURE && b->missing == NULL;
    if (b->setup.limited) /* of MAPPED the group has no swap */
        error = peer_prepare(b->setup.peer, way == WAY_SWAP ? SWAP : MAPPED, memory + allowance);
    if (error == 0)
        error = run_checked(b, i, way, &result);
    if (error != 0)
        return error;
    row->seconds[column].rounds[round] = result.seconds;
    row->cpu[column].rounds[round] = result.cpu;
    row->peak[column].rounds[round] = (double)result.peak;
    return 0;
}

static bool column_wanted(const struct bench *b, enum column column)
{
    return b->options.parts[columns[column].part] &&
           !(columns[column].way == WAY_SWAP && b->missing != NULL);
}

/* Written to its end, as the swap file is. No larger than it would become: there are tables for all
 * of it, beside the memory. */
static int make_pagefile(struct bench *b, uint64_t peak)
{
    uint64_t size = PAGEFILE_LEAST + peak + peak / 2;
    int error;

    snprintf(b->pagefile, sizeof(b->pagefile), "%.500s/pagefile", b->setup.dir);
    unlink(b->pagefile);
    error = scratch_make(b->pagefile, size);
    if (error == 0)
        b->setup.pagefile = b->pagefile;
    else
        complain("cannot make the pagefile %s (%.0f MiB): %s", b->pagefile, (double)size / MIB,
                 strerror(-error));
    return error;
}

static int measure_program(struct bench *b, unsigned i, unsigned round)
{
    int error = b->options.parts[PART_PRESSURE] ? make_pagefile(b, b->rows[i].plain.peak) : 0;

    for (unsigned turn = 0; turn < COLUMNS && error == 0 && !interrupted; turn++) {
        enum column column = (turn + round) % COLUMNS;

        if (!column_wanted(b, column))
            continue;
        error = measure_column(b, i, column, round);
        if (error == 0)
            fprintf(stderr, "programs: round %u, %s, %s: %.2f s\n", round + 1, programs[i].name,
                    column_names[column], b->rows[i].seconds[column].rounds[round]);
    }
    return error;
}

/* ---- Starts ---- */

/* The seconds of one start, or NAN. */
static double start_once(const struct bench *b, const char *const *arguments, bool managed)
{
    const char *argv[5 + START_WORDS] = {b->options.vmsm, "run", "--memory", "64M", "--"};
    size_t count = managed ? 5 : 0;
    struct timespec from, to;
    int status = -1, nothing = open("/dev/null", O_WRONLY | O_CLOEXEC);
    pid_t pid;

    for (size_t i = 0; arguments[i] != NULL; i++)
        argv[count++] = arguments[i];
    argv[count] = NULL;
    clock_gettime(CLOCK_MONOTONIC, &from);
    pid = vfork();
    if (pid == 0) {
        dup2(nothing, STDERR_FILENO); /* dd tells how fast it was */
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    if (nothing >= 0)
        close(nothing);
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
        return NAN;
    clock_gettime(CLOCK_MONOTONIC, &to);
    return (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
}

static void measure_starts(struct bench *b, unsigned round)
{
    for (size_t i = 0; i < STARTS; i++) {
        struct sample times[2];

        sample_clear(&times[0]);
        sample_clear(&times[1]);
        for (unsigned n = 0; n < START_TIMES && !interrupted; n++) {
            times[0].rounds[n] = start_once(b, starts[i], false);
            times[1].rounds[n] = start_once(b, starts[i], true);
        }
        for (size_t way = 0; way < 2; way++)
            b->starts[i][way].rounds[round] = sample_summarize(&times[way]).median;
    }
}

/* ---- Tables ---- */

static double median(const struct sample *sample)
{
    return sample_summarize(sample).median;
}

static void print_ratio(FILE *out, const struct sample *of, const struct sample *to)
{
    struct sample_summary s = sample_ratio(of, to);

    if (s.count == 0)
        fprintf(out, " - |");
    else
        fprintf(out, " %.2f (%.2f to %.2f) |", s.median, s.least, s.most);
}

static void print_pressure(FILE *out, const struct bench *b)
{
    static const enum column shown[] = {AT_SWAP, AT_MANAGED, AT_SIGBUS};

    fprintf(out,
            "\n| with %u %% of its memory | memory | plain | swap | `vmsm run` | with `--trap "
            "sigbus` | swap to `vmsm run` | to that with sigbus | processor time of the three | "
            "peak of the group |\n|---|---|---|---|---|---|---|---|---|---|\n",
            b->options.share);
    for (unsigned i = 0; i < program_count; i++) {
        const struct row *r = &b->rows[i];

        if (!b->options.programs[i])
            continue;
        fprintf(out, "| %s: %s | %.0f of %.0f MiB | %.1f s |", programs[i].name, programs[i].does,
                (double)memory_of(b, i, PART_PRESSURE) / MIB, (double)r->plain.peak / MIB,
                r->plain.seconds);
        for (size_t n = 0; n < 3; n++)
            fprintf(out, " %.1f s |", median(&r->seconds[shown[n]]));
        print_ratio(out, &r->seconds[AT_SWAP], &r->seconds[AT_MANAGED]);
        print_ratio(out, &r->seconds[AT_SWAP], &r->seconds[AT_SIGBUS]);
        for (size_t n = 0; n < 3; n++)
            fprintf(out, " %.1f%s", median(&r->cpu[shown[n]]), n < 2 ? "," : " s |");
        for (size_t n = 0; n < 3; n++)
            fprintf(out, " %.0f%s", median(&r->peak[shown[n]]) / MIB, n < 2 ? "," : " MiB |\n");
    }
}

static void print_fits(FILE *out, const struct bench *b)
{
    fprintf(out, "\n| where all fits | plain | jemalloc | `vmsm run` | `vmsm run` to jemalloc |\n"
                 "|---|---|---|---|---|\n");
    for (unsigned i = 0; i < program_count; i++) {
        const struct row *r = &b->rows[i];

        if (!b->options.programs[i])
            continue;
        fprintf(out, "| %s | %.2f s | %.2f s | %.2f s |", programs[i].name,
                median(&r->seconds[FITS_PLAIN]), median(&r->seconds[FITS_JEMALLOC]),
                median(&r->seconds[FITS_MANAGED]));
        print_ratio(out, &r->seconds[FITS_MANAGED], &r->seconds[FITS_JEMALLOC]);
        fputs("\n", out);
    }
}

static void print_starts(FILE *out, const struct bench *b)
{
    fprintf(out, "\n| a start | plain | `vmsm run` |\n|---|---|---|\n");
    for (size_t i = 0; i < STARTS; i++) {
        fputs("| `", out);
        for (size_t n = 0; starts[i][n] != NULL; n++)
            fprintf(out, "%s%s", n > 0 ? " " : "", starts[i][n]);
        fprintf(out, "` | %.1f ms | %.1f ms |\n", median(&b->starts[i][0]) * 1e3,
                median(&b->starts[i][1]) * 1e3);
    }
}

static void print_tables(FILE *out, const struct bench *b)
{
    fprintf(out, "\nMedians of %u rounds, in which all take turns; ratios round by round.\n",
            b->options.rounds);
    if (b->options.parts[PART_PRESSURE])
        print_pressure(out, b);
    if (b->options.parts[PART_FITS])
        print_fits(out, b);
    if (b->options.parts[PART_START])
        print_starts(out, b);
}

static int write_markdown(const struct bench *b)
{
    FILE *out = b->options.markdown != NULL ? fopen(b->options.markdown, "we") : NULL;
    int error = 0;

    if (b->options.markdown == NULL)
        return 0;
    if (out != NULL)
        print_tables(out, b);
    if (out == NULL || fclose(out) != 0) {
        error = -errno;
        complain("%s cannot be written: %s", b->options.markdown, strerror(errno));
    }
    return error;
}

/* ---- The whole ---- */

static void signal_received(int number)
{
    (void)number;
    interrupted = 1;
    program_kill();
}

static void signals_catch(void)
{
    const struct sigaction action = {.sa_handler = signal_received};
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        sigaction(numbers[i], &action, NULL);
}

/* What each uses and says, as it is. Returns the largest peak, or 0 after an error. */
static uint64_t find_peaks(struct bench *b)
{
    uint64_t largest = 1;

    for (unsigned i = 0; i < program_count && !interrupted; i++) {
        struct row *row = &b->rows[i];

        if (!b->options.programs[i])
            continue;
        if (program_make(&programs[i], &b->setup) != 0 ||
            run_checked(b, i, WAY_PLAIN, &row->plain) != 0)
            return 0;
        if (row->plain.peak > largest)
            largest = row->plain.peak;
    }
    return interrupted ? 0 : largest;
}

static int measure(struct bench *b, uint64_t largest)
{
    const char *missing[MEMORY_KINDS] = {0};
    const struct peer_options peers = {.dir = b->options.dir, .length = largest};
    int error = 0;

    if (b->options.parts[PART_PRESSURE])
        error = peer_open(&b->setup.peer, &peers, missing);
    b->missing = missing[SWAP];
    if (b->missing != NULL)
        complain("swap is left out: %s", b->missing);
    for (unsigned round = 0; round < b->options.rounds && error == 0 && !interrupted; round++) {
        for (unsigned i = 0; i < program_count && error == 0 && !interrupted; i++) {
            if (b->options.programs[i])
                error = measure_program(b, i, round);
        }
        if (b->options.parts[PART_START] && error == 0)
            measure_starts(b, round);
    }
    peer_close(b->setup.peer);
    return interrupted ? -EINTR : error;
}

static void remove_all(const char *dir)
{
    char command[PATH_SIZE + 16];

    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    if (system(command) != 0)
        complain("%s cannot be removed", dir);
}

static void bench_clear(struct bench *b)
{
    for (size_t i = 0; i < PROGRAMS_MAX; i++) {
        for (size_t column = 0; column < COLUMNS; column++) {
            sample_clear(&b->rows[i].seconds[column]);
            sample_clear(&b->rows[i].cpu[column]);
            sample_clear(&b->rows[i].peak[column]);
        }
    }
    for (size_t i = 0; i < STARTS; i++) {
        sample_clear(&b->starts[i][0]);
        sample_clear(&b->starts[i][1]);
    }
}

int main(int argc, char **argv)
{
    static struct bench b;
    char dir[PATH_SIZE];
    uint64_t largest;
    int error = -EIO;

    options_parse(&b.options, argc, argv);
    bench_clear(&b);
    signals_catch();
    if (b.options.settings != NULL)
        setenv("VMSM_CONF", b.options.settings, 1);
    setenv("LC_ALL", "C", 1);
    setenv("TMPDIR", b.options.dir, 1);
    snprintf(dir, sizeof(dir), "%.490s/vmsm-programs.XXXXXX", b.options.dir);
    if (mkdtemp(dir) == NULL) {
        complain("no directory can be made in %s: %s", b.options.dir, strerror(errno));
        return STATUS_FAILED;
    }
    b.setup = (struct program_setup){.vmsm = b.options.vmsm,
                                     .jemalloc = b.options.jemalloc,
                                     .dir = dir,
                                     .scale = b.options.scale,
                                     .interrupted = &interrupted};
    largest = find_peaks(&b);
    if (largest > 0)
        error = measure(&b, largest);
    remove_all(dir);
    if (largest > 0) {
        print_tables(stdout, &b);
        if (write_markdown(&b) != 0)
            error = -EIO;
    }
    return b.wrong ? STATUS_WRONG : error != 0 ? STATUS_FAILED : STATUS_OK;
}
