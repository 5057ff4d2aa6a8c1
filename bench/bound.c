#include "bound_report.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/tunables.h"
#include "plan.h"

#define MIB 1048576.0

volatile sig_atomic_t bound_interrupted;

const char *const bound_cell_names[BOUND_CELL_COUNT] = {
#define CELL_NAME(id, name) name,
    BOUND_CELLS(CELL_NAME)
#undef CELL_NAME
};

static const char help[] =
    "usage: bound [OPTION...]\n"
    "Measure what this machine charges for the calls that a pager in user space is made of, and\n"
    "what the best of such pagers could reach in the aims that `bench --targets` lists. The\n"
    "smallest are measured: in bench's cells rand, fill, run32, run32w10, run32w50 and moving,\n"
    "and by vectors of random pages.\n"
    "  --swap            the kernel's swap in the same rounds, to compare with (as root)\n"
    "  --rounds N        rounds, 1 to 64 (3)\n"
    "  --seconds S       length of each measurement of a speed (0.5)\n"
    "  --region SIZE     memory that is used, and size of the file (512M)\n"
    "  --memory-share N  memory in percent of it, 5 to 90 (25)\n"
    "  --dir DIR         where files are made (TMPDIR or /var/tmp)\n"
    "  --json FILE       write all of it, each round\n"
    "  --quick           a short look: --rounds 1 --seconds 0.1 --region 64M\n"
    "Status: 0; 1 a page held something else than was written; 2 wrong usage; 3 anything else;\n"
    "128 + N after signal N.\n";

static void signal_note(int signal)
{
    bound_interrupted = signal;
}

/* ---- Options ---- */

static _Noreturn void usage_fail(const char *option, const char *value, const char *wanted)
{
    fprintf(stderr, "bound: --%s %s: must be %s (--help tells more)\n", option, value, wanted);
    exit(STATUS_USAGE);
}

static double number_parse(const char *option, const char *text, double least, double most)
{
    char *end, wanted[64];
    double value = strtod(text, &end);

    snprintf(wanted, sizeof(wanted), "a number from %g to %g", least, most);
    if (end == text || *end != '\0' || !(value >= least && value <= most))
        usage_fail(option, text, wanted);
    return value;
}

static void option_apply(struct bound_options *o, const char *name, const char *value)
{
    if (strcmp(name, "swap") == 0) {
        o->swap = true;
    } else if (strcmp(name, "quick") == 0) {
        o->rounds = 1;
        o->seconds = 0.1;
        o->region = (uint64_t)64 << 20;
    } else if (strcmp(name, "rounds") == 0) {
        o->rounds = (unsigned)number_parse(name, value, 1, SAMPLE_ROUNDS);
    } else if (strcmp(name, "seconds") == 0) {
        o->seconds = number_parse(name, value, 0.01, 60);
    } else if (strcmp(name, "memory-share") == 0) {
        o->share = (unsigned)number_parse(name, value, 5, 90);
    } else if (strcmp(name, "dir") == 0) {
        o->dir = value;
    } else if (strcmp(name, "json") == 0) {
        o->json = value;
    } else {
        if (parse_size(name, value, &o->region) < 0 || (double)o->region < 32 * MIB)
            usage_fail(name, value, "a size from 32M, such as 512M");
        o->region &= ~(uint64_t)(MIB - 1);
    }
}

static void options_take(struct bound_options *o, int argc, char **argv)
{
    static const struct option names[] = {
        {"swap", no_argument, NULL, 0},         {"quick", no_argument, NULL, 0},
        {"rounds", required_argument, NULL, 0}, {"seconds", required_argument, NULL, 0},
        {"region", required_argument, NULL, 0}, {"memory-share", required_argument, NULL, 0},
        {"dir", required_argument, NULL, 0},    {"json", required_argument, NULL, 0},
        {"help", no_argument, NULL, 'h'},       {NULL, 0, NULL, 0}};
    const char *dir = getenv("TMPDIR");
    int found, index;

    *o = (struct bound_options){.region = (uint64_t)512 << 20,
                                .share = 25,
                                .rounds = 3,
                                .seconds = 0.5,
                                .dir = dir != NULL && dir[0] != '\0' ? dir : "/var/tmp"};
    while ((found = getopt_long(argc, argv, "h", names, &index)) != -1) {
        if (found == 'h') {
            fputs(help, stdout);
            exit(STATUS_OK);
        }
        if (found != 0) {
            fputs("bound: --help lists the options\n", stderr);
            exit(STATUS_USAGE);
        }
        option_apply(o, names[index].name, optarg);
    }
    if (optind < argc) {
        fprintf(stderr, "bound: %s: not an option; --help lists them\n", argv[optind]);
        exit(STATUS_USAGE);
    }
    if (access(o->dir, W_OK | X_OK) < 0 || strlen(o->dir) > DIR_MAX)
        usage_fail("dir", o->dir, "a directory that you may write to");
}

/* ---- All of it ---- */

static int round_measure(struct bound *b)
{
    static int (*const parts[])(struct bound * b) = {bound_primitives, bound_disk, bound_pagers,
                                                     bound_cells,      bound_hits, bound_swap};
    size_t count = sizeof(parts) / sizeof(parts[0]);

    for (size_t i = 0; i < count && bound_interrupted == 0; i++) {
        size_t part = (i + b->round) % count;
        int error;

        if (parts[part] == bound_swap && !b->options.swap)
            continue;
        error = parts[part](b);
        if (error < 0)
            return bound_interrupted != 0 ? 0 : error;
    }
    return 0;
}

static void speed_clear(struct bound_speed *speed)
{
    sample_clear(&speed->rate);
    sample_clear(&speed->cpu);
    sample_clear(&speed->hits);
    sample_clear(&speed->p99);
    sample_clear(&speed->p999);
}

static void samples_clear(struct bound *b)
{
    for (size_t i = 0; i < BOUND_FIGURE_COUNT; i++)
        sample_clear(&b->figures[i]);
    for (unsigned c = 0; c < BOUND_CROWDS; c++) {
        for (enum bound_trap trap = 0; trap < BOUND_TRAPS; trap++)
            speed_clear(&b->pagers[trap][c]);
        speed_clear(&b->swap_rand[c]);
    }
    for (unsigned c = 0; c < BOUND_CELL_COUNT; c++) {
        for (enum bound_trap trap = 0; trap < BOUND_TRAPS; trap++)
            speed_clear(&b->writers[trap][c]);
        for (unsigned i = 0; i < BOUND_WINDOWS; i++)
            speed_clear(&b->guessers[i][c]);
        speed_clear(&b->swap[c]);
    }
    for (enum bound_prefault how = 0; how < BOUND_PREFAULTS; how++)
        speed_clear(&b->prefaults[how]);
    for (unsigned i = 0; i < BOUND_POLICY_CELLS; i++) {
        b->policies[i] =
            (struct bound_policy){.lru = NAN, .ahead = NAN, .min = NAN, .popular = NAN};
        sample_clear(&b->policies[i].hit);
    }
}

int main(int argc, char **argv)
{
    static struct bound b;
    struct sigaction action = {.sa_handler = signal_note};
    int error;

    options_take(&b.options, argc, argv);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    samples_clear(&b);
    error = bound_disk_open(&b);
    if (error == 0 && b.options.swap) {
        error = bound_swap_open(&b);
        b.options.swap = error == 0;
        error = error == -ENOTSUP ? 0 : error;
    }
    for (; b.round < b.options.rounds && error == 0 && bound_interrupted == 0; b.round++) {
        fprintf(stderr, "bound: round %u of %u\n", b.round + 1, b.options.rounds);
        error = round_measure(&b);
    }
    bound_swap_close();
    if (error == 0 && bound_interrupted == 0)
        error = bound_policies(&b);
    if (error == 0)
        bound_print(&b);
    if (error == 0 && b.options.json != NULL)
        error = bound_write(&b);
    if (b.wrong)
        fprintf(stderr, "bound: a page held something else than was written\n");
    if (b.wrong)
        return STATUS_WRONG;
    return bound_interrupted != 0 ? 128 + bound_interrupted
           : error == 0           ? STATUS_OK
                                  : STATUS_FAILED;
}
