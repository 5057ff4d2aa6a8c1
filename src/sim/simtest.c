/*
 * simtest: many simulated runs, each from a seed of its own.
 *
 *   simtest [--seeds N] [--from SEED] [--jobs N] [--seed SEED [--trace FILE]] [--file LIST]
 *           [--again N] [--stop] [--verbose]
 *
 * Exit status: 0 all passed, 1 a run failed (its seed and the command that repeats it are
 * printed), 2 usage.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "sim/world.h"

#define FAILURES_MAX 64u
#define FILE_SEEDS_MAX 4096u

struct options {
    uint64_t seeds, from, seed;
    bool one, verbose;
    bool stop; /* at the first failure */
    unsigned jobs, again;
    const char *trace, *file, *program;
};

/* Shared by the processes that run seeds. */
struct board {
    _Atomic uint64_t next; /* index of the next seed to be run */
    _Atomic uint64_t runs, steps, accesses, clock, lost;
    _Atomic unsigned failures;
    uint64_t failed[FAILURES_MAX];
    _Atomic uint64_t current[64]; /* of each process: index of its seed + 1 */
};

struct seeds {
    uint64_t count, from;
    uint64_t *list; /* or NULL: from, from + 1, … */
};

static uint64_t seed_at(const struct seeds *seeds, uint64_t n)
{
    return seeds->list != NULL ? seeds->list[n] : seeds->from + n;
}

static int run_seed(uint64_t seed, FILE *trace, struct world_stats *stats, const char **why)
{
    static struct world_config config;

    world_configure(seed, &config);
    return world_run(&config, trace, stats, why);
}

static void add_failure(struct board *board, uint64_t seed)
{
    unsigned n = atomic_fetch_add(&board->failures, 1);

    if (n < FAILURES_MAX)
        board->failed[n] = seed;
}

static void run_many(const struct options *o, const struct seeds *seeds, struct board *board,
                     unsigned process)
{
    uint64_t n;

    while (!(o->stop && atomic_load(&board->failures) > 0) &&
           (n = atomic_fetch_add(&board->next, 1)) < seeds->count) {
        struct world_stats stats, again;
        const char *why = NULL;
        uint64_t seed = seed_at(seeds, n);

        atomic_store(&board->current[process], n + 1);
        if (run_seed(seed, NULL, &stats, &why) != 0) {
            printf("not well: seed %" PRIu64 ": %s\n", seed, why);
            fflush(stdout);
            add_failure(board, seed);
        } else if (o->again != 0 && n % o->again == 0 &&
                   (run_seed(seed, NULL, &again, &why) != 0 || again.trace != stats.trace)) {
            printf("not well: seed %" PRIu64 ": two runs differ\n", seed);
            fflush(stdout);
            add_failure(board, seed);
        }
        atomic_fetch_add(&board->runs, 1);
        atomic_fetch_add(&board->steps, stats.steps);
        atomic_fetch_add(&board->clock, stats.clock);
        atomic_fetch_add(&board->accesses, stats.accesses);
        atomic_fetch_add(&board->lost, stats.lost);
        atomic_store(&board->current[process], 0);
    }
}

static pid_t start_process(const struct options *o, const struct seeds *seeds, struct board *board,
                           unsigned process)
{
    pid_t child;

    fflush(stdout);
    child = fork();
    if (child != 0)
        return child;
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    if (!o->verbose)
        log_use_descriptor(open("/dev/null", O_WRONLY | O_CLOEXEC));
    run_many(o, seeds, board, process);
    fflush(stdout);
    _exit(0);
}

/* A process that dies has met an assertion: that seed failed, and another process goes on. */
static void run_all(const struct options *o, const struct seeds *seeds, struct board *board)
{
    pid_t children[64];
    unsigned running = 0;

    for (unsigned i = 0; i < o->jobs; i++) {
        children[i] = start_process(o, seeds, board, i);
        running++;
    }
    while (running > 0) {
        int status;
        pid_t child = wait(&status);

        for (unsigned i = 0; i < o->jobs; i++) {
            uint64_t current = atomic_load(&board->current[i]);

            if (children[i] != child)
                continue;
            running--;
            children[i] = 0;
            if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
                break;
            printf("not well: seed %" PRIu64 ": an assertion failed (status 0x%x)\n",
                   current > 0 ? seed_at(seeds, current - 1) : 0, (unsigned)status);
            add_failure(board, current > 0 ? seed_at(seeds, current - 1) : 0);
            atomic_store(&board->current[i], 0);
            if (atomic_load(&board->failures) < FAILURES_MAX && !o->stop) {
                children[i] = start_process(o, seeds, board, i);
                running++;
            }
        }
    }
}

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int report(const struct options *o, struct board *board, double began)
{
    unsigned failures = atomic_load(&board->failures);
    double took = seconds() - began;

    printf("%" PRIu64 " runs, %" PRIu64 " steps, %" PRIu64 " accesses checked, %.1f hours of "
           "virtual time, %" PRIu64
           " pages failed where the disk had failed; %.1f s, %.0f runs/s\n",
           atomic_load(&board->runs), atomic_load(&board->steps), atomic_load(&board->accesses),
           (double)atomic_load(&board->clock) / 3.6e12, atomic_load(&board->lost), took,
           (double)atomic_load(&board->runs) / took);
    for (unsigned i = 0; i < failures && i < FAILURES_MAX; i++)
        printf("failed: %s --seed %" PRIu64 " --trace trace.txt\n", o->program, board->failed[i]);
    printf(failures == 0 ? "all runs passed\n" : "%u runs FAILED\n", failures);
    return failures == 0 ? 0 : 1;
}

static int run_one(const struct options *o)
{
    struct world_config config;
    struct world_stats stats;
    FILE *trace = NULL;
    const char *why = NULL;
    char text[300];
    int error;

    if (o->trace != NULL) {
        trace = fopen(o->trace, "w");
        if (trace == NULL) {
            fprintf(stderr, "simtest: cannot write %s: %s\n", o->trace, strerror(errno));
            return 2;
        }
    }
    world_configure(o->seed, &config);
    world_describe(&config, text, sizeof(text));
    printf("seed %" PRIu64 ": %s\n", o->seed, text);
    fflush(stdout);
    error = run_seed(o->seed, trace, &stats, &why);
    if (trace != NULL)
        fclose(trace);
    printf("%s: %" PRIu64 " steps, %" PRIu64 " accesses, %.3f s of virtual time, %" PRIu64
           " pages failed, trace %016" PRIx64 "\n",
           error == 0 ? "passed" : why, stats.steps, stats.accesses, (double)stats.clock / 1e9,
           stats.lost, stats.trace);
    return error == 0 ? 0 : 1;
}

static int usage(void)
{
    fprintf(
        stderr,
        "usage: simtest [--seeds N] [--from SEED] [--jobs N] [--file LIST] [--again N] [--stop]\n"
        "       simtest --seed SEED [--trace FILE] [--verbose]\n");
    return 2;
}

static bool parse(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        {"seeds", required_argument, NULL, 'n'}, {"from", required_argument, NULL, 'f'},
        {"seed", required_argument, NULL, 's'},  {"trace", required_argument, NULL, 't'},
        {"jobs", required_argument, NULL, 'j'},  {"file", required_argument, NULL, 'l'},
        {"again", required_argument, NULL, 'a'}, {"stop", no_argument, NULL, 'p'},
        {"verbose", no_argument, NULL, 'v'},     {NULL, 0, NULL, 0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'n':
            o->seeds = strtoull(optarg, NULL, 0);
            break;
        case 'f':
            o->from = strtoull(optarg, NULL, 0);
            break;
        case 's':
            o->seed = strtoull(optarg, NULL, 0);
            o->one = true;
            break;
        case 't':
            o->trace = optarg;
            break;
        case 'j':
            o->jobs = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'l':
            o->file = optarg;
            break;
        case 'a':
            o->again = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'p':
            o->stop = true;
            break;
        case 'v':
            o->verbose = true;
            break;
        default:
            return false;
        }
    }
    return optind == argc && o->jobs >= 1 && o->jobs <= 64;
}

/* Seeds of a file: one a line, what follows it is a remark. */
static bool read_seeds(const char *path, struct seeds *seeds)
{
    static uint64_t list[FILE_SEEDS_MAX];
    FILE *file = fopen(path, "r");
    char line[300];

    if (file == NULL) {
        fprintf(stderr, "simtest: cannot read %s: %s\n", path, strerror(errno));
        return false;
    }
    seeds->list = list;
    seeds->count = 0;
    while (fgets(line, sizeof(line), file) != NULL && seeds->count < FILE_SEEDS_MAX) {
        char *end;
        uint64_t seed = strtoull(line, &end, 0);

        if (end != line)
            list[seeds->count++] = seed;
    }
    fclose(file);
    return true;
}

int main(int argc, char **argv)
{
    struct options o = {.seeds = 1000, .jobs = 2, .again = 50, .program = argv[0]};
    struct seeds seeds;
    struct board *board;
    double began = seconds();

    while (o.from == 0) { /* fresh seeds, unless told otherwise */
        if (getrandom(&o.from, sizeof(o.from), 0) != (ssize_t)sizeof(o.from))
            return 2;
        o.from >>= 24;
    }
    if (!parse(argc, argv, &o))
        return usage();
    if (o.one)
        return run_one(&o);
    seeds = (struct seeds){.count = o.seeds, .from = o.from};
    if (o.file != NULL && !read_seeds(o.file, &seeds))
        return 2;
    board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED)
        return 2;
    if (seeds.list == NULL)
        printf("seeds %" PRIu64 " to %" PRIu64 ", %u processes\n", seeds.from,
               seeds.from + seeds.count - 1, o.jobs);
    else
        printf("%" PRIu64 " seeds of %s, %u processes\n", seeds.count, o.file, o.jobs);
    run_all(&o, &seeds, board);
    return report(&o, board, began);
}
