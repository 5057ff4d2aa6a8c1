/*
 * scale: what the basic operations cost as address space, memory and threads grow.
 *
 * A sweep is a list of points (scale_cell.h) that differ in one number; each point is measured in
 * a process of its own, all points once a round, in an order that rotates. A cost that is more than
 * 15 % off that of the sweep's first point is not flat.
 */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
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
#include "scale_cell.h"

#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)
#define POINTS_MAX 8
#define SERIES_MAX 7 /* sweeps, by mapper */
#define PATH_SIZE 512
#define FLAT 0.15

enum { STATUS_OK, STATUS_WRONG, STATUS_FAILED };
enum sweep { SWEEP_VIRTUAL, SWEEP_RUNS, SWEEP_FRAMES, SWEEP_THREADS, SWEEPS };
enum clock { CPU, WALL, CLOCKS };

static const char *const clock_names[CLOCKS] = {"processor time", "time"};

static const struct sweep_info {
    const char *name, *title, *x_label;
    uint64_t points[POINTS_MAX], quick[POINTS_MAX];
} sweeps[SWEEPS] = {
    {"virtual",
     "single pages spread over more and more address space",
     "address space",
     {GIB, 4 * GIB, 16 * GIB, 64 * GIB, 256 * GIB, 1024 * GIB},
     {GIB, 32 * GIB, 1024 * GIB}},
    {"runs",
     "runs of 64 pages spread over more and more address space",
     "address space",
     {GIB, 4 * GIB, 16 * GIB, 64 * GIB, 256 * GIB, 1024 * GIB},
     {GIB, 32 * GIB, 1024 * GIB}},
    {"frames",
     "more and more memory, dense pages",
     "memory",
     {64 * MIB, 256 * MIB, GIB, 4 * GIB, 8 * GIB, 16 * GIB},
     {64 * MIB, 256 * MIB, GIB}},
    {"threads", "more and more threads", "threads", {1, 2, 4, 8, 16, 32, 64}, {1, 4, 16, 64}},
};

struct options {
    bool sweeps[SWEEPS], soft, copy, quick;
    unsigned rounds;
    double seconds;
    const char *json, *plots; /* NULL: none */
};

/* One sweep with one mapper. */
struct series {
    enum sweep sweep;
    enum tunable_mapper mapper;
    unsigned count;
    struct scale_cell cells[POINTS_MAX];
    char names[POINTS_MAX][32];
    struct sample costs[CLOCKS][SCALE_OPERATIONS][POINTS_MAX]; /* seconds an operation */
};

struct bench {
    struct options options;
    struct series series[SERIES_MAX];
    unsigned series_count;
    unsigned done, total; /* points */
    bool wrong, failed;
};

static volatile sig_atomic_t interrupted;

static const char help[] =
    "usage: scale [OPTION...]\n"
    "Measure what a fault, a rescue, a trim and a write cost as address space (1 GiB to 1 TiB,\n"
    "sparse), memory (64 MiB to 16 GiB, as far as there is so much) and threads (1 to 64) grow,\n"
    "with a store that takes no time; flat is within 15 % of the first point.\n"
    "  --sweeps LIST    of virtual, runs, frames, threads (all)\n"
    "  --mappers LIST   of soft, copy (both; threads are measured with soft only)\n"
    "  --rounds N       rounds, 1 to 64 (3)\n"
    "  --seconds S      length of the measurement under pressure at each point (1)\n"
    "  --json FILE      write all of it, each round, to FILE\n"
    "  --plots DIR      write scale-SWEEP-MAPPER.svg there\n"
    "  --quick          fewer points, 2 rounds, 0.3 s, soft; options after it override\n"
    "Status: 0; 1 data was wrong; 2 anything else. That a cost is not flat is reported, and no\n"
    "failure. Ctrl-C ends it with a report of what there is.\n";

/* ---- Options ---- */

static _Noreturn void usage_fail(const char *option, const char *value, const char *wanted)
{
    fprintf(stderr, "scale: --%s %s: must be %s (--help tells more)\n", option, value, wanted);
    exit(STATUS_FAILED);
}

static double number_parse(const char *option, const char *text, double least, double most)
{
    char *end, wanted[64];
    double value = strtod(text, &end);

    snprintf(wanted, sizeof wanted, "a number from %g to %g", least, most);
    if (end == text || *end != '\0' || !(value >= least && value <= most))
        usage_fail(option, text, wanted);
    return value;
}

static void sweeps_parse(struct options *o, char *list)
{
    char *rest = list, *word;

    memset(o->sweeps, 0, sizeof o->sweeps);
    while ((word = strsep(&rest, ",")) != NULL) {
        int i = 0;

        while (i < SWEEPS && strcmp(word, sweeps[i].name) != 0)
            i++;
        if (i == SWEEPS)
            usage_fail("sweeps", word, "a list of virtual, runs, frames, threads");
        o->sweeps[i] = true;
    }
}

static void mappers_parse(struct options *o, char *list)
{
    char *rest = list, *word;

    o->soft = o->copy = false;
    while ((word = strsep(&rest, ",")) != NULL) {
        if (strcmp(word, "soft") == 0)
            o->soft = true;
        else if (strcmp(word, "copy") == 0)
            o->copy = true;
        else
            usage_fail("mappers", word, "a list of soft, copy");
    }
}

static void option_apply(struct options *o, const char *name, char *value)
{
    struct stat status;

    if (strcmp(name, "sweeps") == 0) {
        sweeps_parse(o, value);
    } else if (strcmp(name, "mappers") == 0) {
        mappers_parse(o, value);
    } else if (strcmp(name, "rounds") == 0) {
        o->rounds = (unsigned)number_parse(name, value, 1, SAMPLE_ROUNDS);
    } else if (strcmp(name, "seconds") == 0) {
        o->seconds = number_parse(name, value, 0.01, 600);
    } else if (strcmp(name, "json") == 0) {
        o->json = value;
    } else if (strcmp(name, "plots") == 0) {
        o->plots = value;
        if (stat(value, &status) != 0 || !S_ISDIR(status.st_mode))
            usage_fail(name, value, "a directory");
    } else {
        o->quick = true;
        o->rounds = 2;
        o->seconds = 0.3;
        o->copy = false;
    }
}

static void options_parse(struct options *o, int argc, char **argv)
{
    static const struct option names[] = {{"sweeps", required_argument, NULL, 0},
                                          {"mappers", required_argument, NULL, 0},
                                          {"rounds", required_argument, NULL, 0},
                                          {"seconds", required_argument, NULL, 0},
                                          {"json", required_argument, NULL, 0},
                                          {"plots", required_argument, NULL, 0},
                                          {"quick", no_argument, NULL, 0},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int found, index;

    while ((found = getopt_long(argc, argv, "h", names, &index)) != -1) {
        if (found == 'h') {
            fputs(help, stdout);
            exit(STATUS_OK);
        }
        if (found != 0) {
            fputs("scale: --help lists the options\n", stderr);
            exit(STATUS_FAILED);
        }
        option_apply(o, names[index].name, optarg);
    }
    if (optind < argc) {
        fprintf(stderr, "scale: %s: not an option; --help lists them\n", argv[optind]);
        exit(STATUS_FAILED);
    }
}

/* ---- Points ---- */

static const char *mapper_name(enum tunable_mapper mapper)
{
    return mapper == MAPPER_SOFT ? "soft" : "copy";
}

static void size_format(uint64_t bytes, char *buffer, size_t size)
{
    if (bytes >= 1024 * GIB)
        snprintf(buffer, size, "%llu TiB", (unsigned long long)(bytes / (1024 * GIB)));
    else if (bytes >= GIB)
        snprintf(buffer, size, "%llu GiB", (unsigned long long)(bytes / GIB));
    else
        snprintf(buffer, size, "%llu MiB", (unsigned long long)(bytes / MIB));
}

static uint64_t memory_available(void)
{
    FILE *f = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[128];

    while (f != NULL && kib == 0 && fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "MemAvailable: %llu kB", &kib) != 1)
            kib = 0;
    if (f != NULL)
        fclose(f);
    return kib * 1024;
}

static struct scale_cell cell_make(const struct options *o, enum sweep sweep,
                                   enum tunable_mapper mapper, uint64_t value)
{
    struct scale_cell cell = {.mapper = mapper,
                              .virtual_size = GIB,
                              .memory = 64 * MIB,
                              .threads = 1,
                              .run = 1,
                              .sample = 1024,
                              .passes = o->quick ? 9 : 33,
                              .seconds = o->seconds};

    if (sweep == SWEEP_FRAMES) {
        cell.memory = value;
        cell.virtual_size = 4 * value; /* of that, half is used under pressure */
        cell.run = 512;
    } else if (sweep == SWEEP_THREADS) {
        cell.threads = (unsigned)value;
        cell.memory = o->quick ? 128 * MIB : GIB;
        cell.virtual_size = 4 * cell.memory;
        cell.sample = o->quick ? 4096 : 32768;
        cell.passes = o->quick ? 5 : 9;
        cell.run = 512;
    } else {
        cell.virtual_size = value;
        cell.run = sweep == SWEEP_RUNS ? 64 : 1;
    }
    return cell;
}

static void series_make(struct bench *b, enum sweep sweep, enum tunable_mapper mapper)
{
    const struct options *o = &b->options;
    const uint64_t *points = o->quick ? sweeps[sweep].quick : sweeps[sweep].points;
    struct series *series = &b->series[b->series_count++];
    uint64_t available = memory_available();

    series->sweep = sweep;
    series->mapper = mapper;
    for (unsigned i = 0; i < POINTS_MAX && points[i] != 0; i++) {
        struct scale_cell cell = cell_make(o, sweep, mapper, points[i]);
        char *name = series->names[series->count];

        if (sweep == SWEEP_THREADS)
            snprintf(name, sizeof series->names[0], "%llu", (unsigned long long)points[i]);
        else
            size_format(points[i], name, sizeof series->names[0]);
        if (scale_cell_memory(&cell) > available / 20 * 19) {
            fprintf(stderr, "scale: %s, %s: left out: it takes %llu MiB, %llu MiB are available\n",
                    sweeps[sweep].name, name, (unsigned long long)(scale_cell_memory(&cell) / MIB),
                    (unsigned long long)(available / MIB));
            continue;
        }
        series->cells[series->count++] = cell;
    }
    for (unsigned i = 0; i < CLOCKS * SCALE_OPERATIONS * POINTS_MAX; i++)
        sample_clear(&series->costs[0][0][0] + i);
    b->total += series->count * o->rounds;
}

static void all_make(struct bench *b)
{
    const struct options *o = &b->options;

    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        if (!o->sweeps[sweep])
            continue;
        if (o->soft || sweep == SWEEP_THREADS)
            series_make(b, (enum sweep)sweep, MAPPER_SOFT);
        if (o->copy && sweep != SWEEP_THREADS)
            series_make(b, (enum sweep)sweep, MAPPER_COPY);
    }
}

/* ---- Rounds ---- */

static void signal_received(int number)
{
    (void)number;
    interrupted = 1;
}

/* Only in the child. */
static _Noreturn void child_run(const struct scale_cell *cell, int to, pid_t parent)
{
    struct scale_costs costs;
    int error;

    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(STATUS_FAILED);
    error = scale_cell_run(cell, &costs);
    if (error == 0 && write(to, &costs, sizeof costs) != (ssize_t)sizeof costs)
        error = -EPIPE;
    _exit(error == 0 ? STATUS_OK : error == -EUCLEAN ? STATUS_WRONG : STATUS_FAILED);
}

/* The point's costs, from a process of its own. 0, or what went wrong as a status. */
static int point_run(const struct scale_cell *cell, struct scale_costs *costs)
{
    int ends[2], status = 0;
    pid_t parent = getpid(), pid;
    ssize_t got;

    if (pipe(ends) != 0)
        return STATUS_FAILED;
    fflush(NULL);
    pid = fork();
    if (pid == 0)
        child_run(cell, ends[1], parent);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return STATUS_FAILED;
    }
    do
        got = read(ends[0], costs, sizeof *costs);
    while (got < 0 && errno == EINTR && !interrupted);
    close(ends[0]);
    if (interrupted) /* from a terminal it has had its own SIGINT */
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && got == (ssize_t)sizeof *costs)
        return STATUS_OK;
    if (WIFSIGNALED(status) && !interrupted)
        fprintf(stderr, "scale: the process was killed by signal %d\n", WTERMSIG(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == STATUS_WRONG ? STATUS_WRONG : STATUS_FAILED;
}

static void point_do(struct bench *b, struct series *series, unsigned point, unsigned round)
{
    struct scale_costs costs;
    int status;

    fprintf(stderr, "[%u/%u] round %u: %s, %s, %s\n", ++b->done, b->total, round + 1,
            mapper_name(series->mapper), sweeps[series->sweep].name, series->names[point]);
    status = point_run(&series->cells[point], &costs);
    if (interrupted)
        return;
    if (status != STATUS_OK) {
        b->wrong = b->wrong || status == STATUS_WRONG;
        b->failed = true;
        return;
    }
    for (int i = 0; i < SCALE_OPERATIONS; i++) {
        series->costs[CPU][i][point].rounds[round] = costs.cpu[i];
        series->costs[WALL][i][point].rounds[round] = costs.wall[i];
    }
}

static void rounds_run(struct bench *b)
{
    for (unsigned round = 0; round < b->options.rounds; round++)
        for (unsigned s = 0; s < b->series_count; s++)
            for (unsigned i = 0; i < b->series[s].count; i++) {
                if (interrupted || b->wrong)
                    return;
                point_do(b, &b->series[s], (i + round) % b->series[s].count, round);
            }
}

/* ---- Reports ---- */

/* How much off the first point the points are: the farthest of their medians. */
static double series_worst(const struct series *series, enum clock clock, int operation)
{
    const struct sample *points = series->costs[clock][operation];
    double worst = NAN;

    for (unsigned i = 1; i < series->count; i++) {
        double ratio = sample_ratio(&points[i], &points[0]).median;

        if (!isnan(ratio) && (isnan(worst) || fabs(log(ratio)) > fabs(log(worst))))
            worst = ratio;
    }
    return worst;
}

static const char *verdict(double worst)
{
    if (isnan(worst))
        return "-";
    return worst > 1 + FLAT ? "GROWS" : worst < 1 - FLAT ? "falls" : "flat";
}

static void table_write(const struct series *series, enum clock clock)
{
    char buffer[32];

    printf("%-16s", clock_names[clock]);
    for (unsigned i = 0; i < series->count; i++)
        printf(" %15s", series->names[i]);
    printf("  within 15%%\n");
    for (int operation = 0; operation < SCALE_OPERATIONS; operation++) {
        const struct sample *points = series->costs[clock][operation];
        double worst = series_worst(series, clock, operation);

        printf("  %-14s", scale_names[operation]);
        for (unsigned i = 0; i < series->count; i++) {
            double cost = sample_summarize(&points[i]).median;

            printf(" %7ss", sample_format(cost, buffer, sizeof buffer));
            printf(isnan(cost) ? "      -" : " %5.2fx",
                   sample_ratio(&points[i], &points[0]).median);
        }
        printf("  %s", verdict(worst));
        printf(isnan(worst) ? "\n" : " (%.2fx)\n", worst);
    }
    putchar('\n');
}

static json_t *point_json(const struct series *series, unsigned point, unsigned rounds)
{
    json_t *whole = json_pack("{s:s}", "point", series->names[point]);

    for (int clock = 0; clock < CLOCKS; clock++)
        for (int i = 0; i < SCALE_OPERATIONS; i++) {
            const struct sample *sample = &series->costs[clock][i][point];
            struct sample_summary s = sample_summarize(sample);
            json_t *list = json_array();
            char key[64];

            for (unsigned r = 0; r < rounds; r++)
                json_array_append_new(
                    list, isnan(sample->rounds[r]) ? json_null() : json_real(sample->rounds[r]));
            snprintf(key, sizeof key, "%s, %s", scale_names[i], clock == CPU ? "cpu" : "wall");
            if (s.count > 0)
                json_object_set_new(whole, key,
                                    json_pack("{s:f, s:f, s:f, s:O}", "median", s.median, "least",
                                              s.least, "most", s.most, "rounds", list));
            json_decref(list);
        }
    return whole;
}

static int json_write(const struct bench *b)
{
    json_t *all = json_array(), *whole;
    int result;

    for (unsigned s = 0; s < b->series_count; s++) {
        const struct series *series = &b->series[s];
        json_t *points = json_array();

        for (unsigned i = 0; i < series->count; i++)
            json_array_append_new(points, point_json(series, i, b->options.rounds));
        json_array_append_new(all,
                              json_pack("{s:s, s:s, s:o}", "sweep", sweeps[series->sweep].name,
                                        "mapper", mapper_name(series->mapper), "points", points));
    }
    whole = json_pack("{s:b, s:s, s:o}", "interrupted", interrupted != 0, "unit",
                      "seconds an operation", "sweeps", all);
    if (whole == NULL)
        return -ENOMEM;
    errno = 0;
    result = json_dump_file(whole, b->options.json, JSON_INDENT(2));
    json_decref(whole);
    return result == 0 ? 0 : errno > 0 ? -errno : -EIO;
}

/* Lines: a point along x, a series for each operation, processor time relative to the first. */
static int plot_write(const struct bench *b, const struct series *series)
{
    double values[3][SCALE_OPERATIONS][POINTS_MAX];
    struct plot_series lines[SCALE_OPERATIONS];
    const char *categories[POINTS_MAX];
    char title[128], path[PATH_SIZE];
    struct plot plot = {.title = title,
                        .x_label = sweeps[series->sweep].x_label,
                        .y_label = "processor time, relative to the first",
                        .categories = categories,
                        .category_count = series->count,
                        .series = lines,
                        .series_count = SCALE_OPERATIONS,
                        .reference = 1,
                        .reference_label = "1"};

    for (unsigned i = 0; i < series->count; i++)
        categories[i] = series->names[i];
    for (int n = 0; n < SCALE_OPERATIONS; n++) {
        for (unsigned i = 0; i < series->count; i++) {
            const struct sample *points = series->costs[CPU][n];
            struct sample_summary s = sample_ratio(&points[i], &points[0]);

            values[0][n][i] = s.median;
            values[1][n][i] = s.least;
            values[2][n][i] = s.most;
        }
        lines[n] = (struct plot_series){scale_names[n], values[0][n], values[1][n], values[2][n]};
    }
    snprintf(title, sizeof title, "Cost of an operation, mapper %s: %s",
             mapper_name(series->mapper), sweeps[series->sweep].title);
    snprintf(path, sizeof path, "%.440s/scale-%s-%s.svg", b->options.plots,
             sweeps[series->sweep].name, mapper_name(series->mapper));
    return plot_lines(path, &plot);
}

static void write_failed(struct bench *b, const char *what, int error)
{
    if (error == 0)
        return;
    b->failed = true;
    fprintf(stderr, "scale: cannot write %s: %s\n", what, strerror(-error));
}

static void report(struct bench *b)
{
    printf("costs of an operation, medians of %u round%s%s, and of the ratios to the first "
           "point, round by round;\ntime is that of all processors the threads can use\n\n",
           b->options.rounds, b->options.rounds == 1 ? "" : "s",
           interrupted ? " (ended early: of as many as there are)" : "");
    for (unsigned s = 0; s < b->series_count; s++) {
        const struct series *series = &b->series[s];

        printf("%s, mapper %s: %s\n\n", sweeps[series->sweep].name, mapper_name(series->mapper),
               sweeps[series->sweep].title);
        for (int clock = 0; clock < CLOCKS; clock++)
            table_write(series, (enum clock)clock);
        if (b->options.plots != NULL && series->count > 0)
            write_failed(b, b->options.plots, plot_write(b, series));
    }
    if (b->options.json != NULL)
        write_failed(b, b->options.json, json_write(b));
}

int main(int argc, char **argv)
{
    static struct bench b = {.options = {.sweeps = {true, true, true, true},
                                         .soft = true,
                                         .copy = true,
                                         .rounds = 3,
                                         .seconds = 1}};
    struct sigaction action = {.sa_handler = signal_received};

    options_parse(&b.options, argc, argv);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    all_make(&b);
    rounds_run(&b);
    if (interrupted)
        fputs("scale: ended early, with what there is\n", stderr);
    report(&b);
    return b.wrong ? STATUS_WRONG : b.failed ? STATUS_FAILED : STATUS_OK;
}
