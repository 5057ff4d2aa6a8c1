#include "bound.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "core/tunables.h"
#include "targets.h"
#include "workload.h"

enum { STATUS_OK, STATUS_WRONG, STATUS_USAGE, STATUS_FAILED };

#define MIB 1048576.0
#define DIR_MAX 200      /* characters, for bench's sake */
#define CROWD_OF_CELLS 1 /* of bound_threads: as many as swap's cells have */
#define RUN_PAGES 16.5   /* of runs of 1 to 32, on average */

volatile sig_atomic_t bound_interrupted;

static const struct figure_info {
    const char *name, *words;
    enum bound_unit unit;
} figures[] = {
#define FIGURE_INFO(name, unit, words) {#name, words, UNIT_##unit},
    BOUND_FIGURES(FIGURE_INFO)
#undef FIGURE_INFO
};

const char *const bound_cell_names[BOUND_CELL_COUNT] = {
#define CELL_NAME(id, name) name,
    BOUND_CELLS(CELL_NAME)
#undef CELL_NAME
};

static const char *const trap_names[BOUND_TRAPS] = {"handler thread", "handler that polls",
                                                    "SIGBUS"};
static const char *const trap_keys[BOUND_TRAPS] = {"thread", "poll", "sigbus"};

static const char help[] =
    "usage: bound [OPTION...]\n"
    "Measure what this machine charges for the calls that a pager in user space is made of, and\n"
    "what the best of such pagers could reach in the aims that `bench --targets` lists.\n"
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

/* ---- Bounds ---- */

/* NAN is nothing. */
static double least_of(double a, double b)
{
    return isnan(a) || b < a ? b : a;
}

static double median(const struct bound *b, enum bound_figure figure)
{
    return sample_summarize(&b->figures[figure]).median;
}

/* Of the three pagers with so many threads, the quickest. */
static const struct bound_speed *pager_best(const struct bound *b, unsigned crowd)
{
    const struct bound_speed *best = &b->pagers[0][crowd];

    for (enum bound_trap trap = 1; trap < BOUND_TRAPS; trap++)
        if (sample_summarize(&b->pagers[trap][crowd].rate).median >
            sample_summarize(&best->rate).median)
            best = &b->pagers[trap][crowd];
    return best;
}

/* And the least processor time for a page. */
static double pager_cpu(const struct bound *b, unsigned crowd)
{
    double least = NAN;

    for (enum bound_trap trap = 0; trap < BOUND_TRAPS; trap++)
        least = least_of(least, sample_summarize(&b->pagers[trap][crowd].cpu).median);
    return least;
}

/* Pages a second with all processors at it. */
static double by_processors(double seconds)
{
    return (double)sysconf(_SC_NPROCESSORS_ONLN) / seconds;
}

static double resident_part(const struct bound *b)
{
    return (double)b->options.share / 100;
}

/* First writes: pages that do not fit must be trimmed, hashed and written. */
static double fill_cpu(const struct bound *b)
{
    double out = median(b, BOUND_PROTECT_DENSE) + median(b, BOUND_TAKE_DENSE) +
                 median(b, BOUND_DROP_DENSE) + median(b, BOUND_HASH) + median(b, BOUND_WRITE_CPU);

    return median(b, BOUND_COPY_64) + median(b, BOUND_FILL_PAGE) + (1 - resident_part(b)) * out;
}

static double fill_bound(const struct bound *b)
{
    double disk = median(b, BOUND_WRITE) / BOUND_PAGE / (1 - resident_part(b));

    return least_of(disk, by_processors(fill_cpu(b)));
}

/* Pages that were not written need not be copied out. No more than what is resident is ever hit. */
static double scan_cpu(const struct bound *b)
{
    double in = median(b, BOUND_READ_CPU) + median(b, BOUND_COPY_64) + median(b, BOUND_DROP_DENSE);

    return median(b, BOUND_CHECK_PAGE) + (1 - resident_part(b)) * in;
}

static double scan_bound(const struct bound *b)
{
    double disk = median(b, BOUND_READ) / BOUND_PAGE / (1 - resident_part(b));

    return least_of(disk, by_processors(scan_cpu(b)));
}

/* Pages in equal steps: as they can be foretold, many are read at a time, but each alone. */
static double stride_bound(const struct bound *b)
{
    double in =
        median(b, BOUND_RANDOM_CPU) + median(b, BOUND_COPY_1) + median(b, BOUND_DROP_SPARSE);
    double miss = 1 - resident_part(b);

    return least_of(median(b, BOUND_RANDOM_32) / miss,
                    by_processors(median(b, BOUND_CHECK_PAGE) + miss * in));
}

/* Every second touch is a scan of all but a set of half the memory, beside which as much is left
 * for it; the others hit. */
static double flood_bound(const struct bound *b)
{
    double half = resident_part(b) / 2, miss = (1 - half / (1 - half)) / 2;
    double in = median(b, BOUND_READ_CPU) + median(b, BOUND_COPY_64) + median(b, BOUND_DROP_DENSE);

    return least_of(median(b, BOUND_READ) / BOUND_PAGE / miss,
                    by_processors(median(b, BOUND_CHECK_PAGE) + miss * in));
}

/* Of the pages that leave, those that have been written: each was touched 1 / (1 - resident) times
 * since it came. */
static double changed_part(const struct bound *b, double write_part)
{
    return 1 - pow(1 - write_part, 1 / (1 - resident_part(b)));
}

/* Runs of 1 to 32 pages: one fault each, and one read of what is not there. */
static double run_bound(const struct bound *b, enum bound_figure disk, double write_part)
{
    double miss = 1 - resident_part(b);
    double out = median(b, BOUND_PROTECT_DENSE) + median(b, BOUND_TAKE_DENSE) +
                 median(b, BOUND_HASH) + median(b, BOUND_WRITE_CPU);
    double page = median(b, BOUND_RUN_CPU) + median(b, BOUND_COPY_16) +
                  median(b, BOUND_DROP_DENSE) + changed_part(b, write_part) * out;
    double fault = least_of(median(b, BOUND_FAULT_SAME), median(b, BOUND_FAULT_SIGBUS));

    return least_of(median(b, disk) / BOUND_PAGE / miss,
                    by_processors(median(b, BOUND_CHECK_PAGE) + fault / RUN_PAGES + miss * page));
}

/* Pages that are asked for many at a time, at random. */
static double prefault_bound(const struct bound *b)
{
    double cpu =
        median(b, BOUND_RANDOM_CPU) + median(b, BOUND_COPY_1) + median(b, BOUND_DROP_SPARSE);

    return least_of(median(b, BOUND_RANDOM_32), by_processors(cpu));
}

struct aim {
    char words[64];
    double wanted; /* at least; at most if it is a cost */
    double bound, peer;
    bool cost;
};

#define AIMS_MAX 24

/* What bench aims at, at the share that its aims are for. */
static double ratio_wanted(const char *workload, unsigned threads)
{
    return target_bound(workload, threads, 25, SWAP, TARGET_RATIO);
}

static struct aim cell_aim(const struct bound *b, enum bound_cell cell, double bound)
{
    struct aim aim = {"", ratio_wanted(bound_cell_names[cell], BOUND_CELL_THREADS), bound,
                      sample_summarize(&b->swap[cell].rate).median, false};

    if (isnan(aim.wanted)) /* what holds for every cell */
        aim.wanted = target_bound(NULL, 0, 0, SWAP, TARGET_RATIO);
    snprintf(aim.words, sizeof(aim.words), "%s, to swap", bound_cell_names[cell]);
    return aim;
}

/* bound and peer are in the same unit; wanted is of their quotient. */
static size_t aims_make(const struct bound *b, struct aim *aims)
{
    double first = median(b, BOUND_FILL_PAGE);
    double cpu_wanted = target_bound(NULL, 0, 0, SWAP, TARGET_CPU);
    size_t count = 0;

    aims[count++] = cell_aim(b, CELL_fill, fill_bound(b));
    aims[count++] = cell_aim(b, CELL_scan, scan_bound(b));
    aims[count++] = cell_aim(b, CELL_stride, stride_bound(b));
    aims[count++] = cell_aim(b, CELL_flood, flood_bound(b));
    aims[count++] = cell_aim(b, CELL_run32, run_bound(b, BOUND_RUN, 0));
    aims[count++] = cell_aim(b, CELL_run32w10, run_bound(b, BOUND_RUN_W10, 0.1));
    aims[count++] = cell_aim(b, CELL_run32w50, run_bound(b, BOUND_RUN_W50, 0.5));
    for (unsigned c = 0; c < BOUND_CROWDS; c++) {
        aims[count] = (struct aim){"", ratio_wanted("rand", bound_threads[c]),
                                   sample_summarize(&pager_best(b, c)->rate).median,
                                   sample_summarize(&b->swap_rand[c].rate).median, false};
        snprintf(aims[count++].words, sizeof(aims[0].words), "rand, %u thread%s, to swap",
                 bound_threads[c], bound_threads[c] == 1 ? "" : "s");
    }
    aims[count++] = (struct aim){"rand, 16 threads, to 2 threads",
                                 target_bound("rand", 16, 25, MANAGED, TARGET_SCALING),
                                 sample_summarize(&pager_best(b, 3)->rate).median,
                                 sample_summarize(&pager_best(b, 1)->rate).median, false};
    aims[count++] = (struct aim){
        "fill where all fits, to ordinary memory", target_bound("fill", 2, 150, SWAP, TARGET_RATIO),
        1 / (median(b, BOUND_COPY_64) + first), 1 / (median(b, BOUND_FIRST_TOUCH) + first), false};
    aims[count++] = (struct aim){"prefault, part of the disk",
                                 target_bound("prefault", 1, 25, MANAGED, TARGET_DISK),
                                 prefault_bound(b), median(b, BOUND_RANDOM_32), false};
    aims[count++] = (struct aim){
        "scan, part of the disk", target_bound("scan", 2, 25, MANAGED, TARGET_DISK),
        scan_bound(b) * (1 - resident_part(b)) * BOUND_PAGE, median(b, BOUND_READ), false};
    aims[count++] =
        (struct aim){"CPU a page, rand, 2 threads, to swap", cpu_wanted, pager_cpu(b, 1),
                     sample_summarize(&b->swap_rand[1].cpu).median, true};
    aims[count++] =
        (struct aim){"CPU a page, scan, to swap", cpu_wanted, scan_cpu(b) / (1 - resident_part(b)),
                     sample_summarize(&b->swap[CELL_scan].cpu).median, true};
    aims[count++] =
        (struct aim){"CPU a page, fill, to swap", cpu_wanted, fill_cpu(b) / (1 - resident_part(b)),
                     sample_summarize(&b->swap[CELL_fill].cpu).median, true};
    return count;
}

static const char *aim_verdict(const struct aim *aim)
{
    double ratio = aim->bound / aim->peer;

    if (isnan(ratio))
        return "-";
    return (aim->cost ? ratio <= aim->wanted : ratio >= aim->wanted) ? "possible" : "OUT OF REACH";
}

/* ---- Reports ---- */

static void figure_print(const char *words, struct sample_summary s, enum bound_unit unit)
{
    double scale = unit == UNIT_TIME ? 1e6 : unit == UNIT_BYTES ? 1 / MIB : 1;
    int digits = unit == UNIT_TIME ? 2 : 0;

    if (s.count > 0)
        printf("%-62s %10.*f %-8s (%.*f to %.*f)\n", words, digits, s.median * scale,
               unit == UNIT_TIME    ? "us"
               : unit == UNIT_BYTES ? "MiB/s"
                                    : "a second",
               digits, s.least * scale, digits, s.most * scale);
}

static void speed_print(const char *who, unsigned threads, const struct bound_speed *speed)
{
    struct sample_summary rate = sample_summarize(&speed->rate);
    char words[64];

    if (rate.count == 0)
        return;
    snprintf(words, sizeof(words), "%s, %u thread%s", who, threads, threads == 1 ? "" : "s");
    printf("%-36s %9.0f touches/s (%.0f to %.0f), CPU a page %.2f us\n", words, rate.median,
           rate.least, rate.most, sample_summarize(&speed->cpu).median * 1e6);
}

static void speeds_print(const struct bound *b)
{
    printf("\nSmallest pagers, random pages, %u %% memory, all reads\n", b->options.share);
    for (enum bound_trap trap = 0; trap < BOUND_TRAPS; trap++)
        for (unsigned c = 0; c < BOUND_CROWDS; c++)
            speed_print(trap_names[trap], bound_threads[c], &b->pagers[trap][c]);
    for (unsigned c = 0; c < BOUND_CROWDS; c++)
        speed_print("swap", bound_threads[c], &b->swap_rand[c]);
    for (unsigned c = 0; c < BOUND_CELL_COUNT; c++) {
        char who[32];

        snprintf(who, sizeof(who), "swap, %s", bound_cell_names[c]);
        speed_print(who, BOUND_CELL_THREADS, &b->swap[c]);
    }
}

static void aims_print(const struct bound *b)
{
    struct aim aims[AIMS_MAX];
    size_t count = aims_make(b, aims);

    printf("\nAims: the best that userfaultfd allows here, what it is compared with (touches or "
           "bytes a second;\nseconds a page), their ratio, and the ratio that is aimed at\n");
    for (size_t i = 0; i < count; i++) {
        const struct aim *a = &aims[i];
        double ratio = a->bound / a->peer;

        printf("%-40s %11.4g", a->words, a->bound);
        if (isnan(ratio))
            printf(" %11s %7s", "-", "-");
        else
            printf(" %11.4g %7.2f", a->peer, ratio);
        printf("  %s %-5g %s\n", a->cost ? "at most " : "at least", a->wanted, aim_verdict(a));
    }
}

/* ---- What eviction can bring ---- */

/* Seconds of a thread for a touch that misses, beyond those for a hit, in swap. */
static double swap_miss(const struct bound *b, const struct bound_policy *p, enum bound_cell cell)
{
    const struct bound_speed *swap = &b->swap[cell];

    return (BOUND_CELL_THREADS / sample_summarize(&swap->rate).median -
            sample_summarize(&p->hit).median) /
           (1 - sample_summarize(&swap->hits).median);
}

/* And in the quickest of the smallest pagers, of whose touches no more than what is resident hit. */
static double pager_miss(const struct bound *b)
{
    double rate = sample_summarize(&pager_best(b, CROWD_OF_CELLS)->rate).median;

    return BOUND_CELL_THREADS / rate / (1 - resident_part(b));
}

/* To swap. */
static double ratio_with(const struct bound *b, const struct bound_policy *p, enum bound_cell cell,
                         double hits, double miss)
{
    double seconds = sample_summarize(&p->hit).median + (1 - hits) * miss;

    return BOUND_CELL_THREADS / seconds / sample_summarize(&b->swap[cell].rate).median;
}

/* Reading ahead cannot help where pages that are popular are no neighbours. */
static bool policy_binds(enum bound_cell cell)
{
    enum workload_pattern pattern = workload_find(bound_cell_names[cell])->pattern;

    return pattern == ZIPF || pattern == HOT;
}

static void value_print(int width, int digits, double value)
{
    if (isnan(value))
        printf(" %*s", width, "-");
    else
        printf(" %*.*f", width, digits, value);
}

static void policy_print(const struct bound_policy *p, const struct bound *b, enum bound_cell cell)
{
    double wanted = ratio_wanted(bound_cell_names[cell], BOUND_CELL_THREADS);
    double theirs = swap_miss(b, p, cell), least = pager_miss(b);
    double most = policy_binds(cell) ? ratio_with(b, p, cell, p->popular, least) : NAN;

    printf("%-9s", bound_cell_names[cell]);
    value_print(6, 1, sample_summarize(&b->swap[cell].hits).median * 100);
    value_print(6, 1, p->lru * 100);
    value_print(6, 1, p->ahead * 100);
    value_print(7, 1, p->popular * 100);
    value_print(6, 1, p->min * 100);
    value_print(8, 2, ratio_with(b, p, cell, p->popular, theirs));
    value_print(6, 2, ratio_with(b, p, cell, p->min, theirs));
    value_print(8, 2, policy_binds(cell) ? ratio_with(b, p, cell, p->lru, least) : NAN);
    value_print(7, 2, most);
    printf(" %7g %s\n", wanted, isnan(most) ? "-" : most >= wanted ? "possible" : "OUT OF REACH");
}

static void policies_print(const struct bound *b)
{
    printf(
        "\nEviction: hits in percent, of swap and of policies with as many frames: LRU; LRU that\n"
        "reads %d pages at once; the most popular pages kept for good; MIN, which knows the\n"
        "future. What follows from them is the ratio to swap: if a miss takes as long as swap's,\n"
        "and if it takes as long as that of the quickest pager above\n",
        BOUND_AHEAD);
    printf("%-9s %6s %6s %6s %7s %6s %8s %6s %8s %7s %7s\n", "", "swap", "LRU", "ahead", "popular",
           "MIN", "popular", "MIN", "LRU", "popular", "wanted");
    for (unsigned i = 0; i < BOUND_POLICY_CELLS; i++)
        policy_print(&b->policies[i], b, bound_policy_cells[i]);
}

static void report_print(const struct bound *b)
{
    struct utsname u;

    uname(&u);
    printf("%ld processors, Linux %s: %.0f MiB region, %u rounds, medians (least to most)\n\n",
           sysconf(_SC_NPROCESSORS_ONLN), u.release, (double)b->options.region / MIB, b->round);
    for (size_t i = 0; i < BOUND_FIGURE_COUNT; i++)
        figure_print(figures[i].words, sample_summarize(&b->figures[i]), figures[i].unit);
    speeds_print(b);
    policies_print(b);
    aims_print(b);
}

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *sample_json(const struct sample *sample, unsigned rounds)
{
    struct sample_summary s = sample_summarize(sample);
    json_t *list = json_array();

    for (unsigned i = 0; i < rounds; i++)
        json_array_append_new(list, number(sample->rounds[i]));
    return json_pack("{s:o, s:o, s:o, s:o}", "median", number(s.median), "least", number(s.least),
                     "most", number(s.most), "rounds", list);
}

static json_t *speed_json(const struct bound_speed *speed, unsigned rounds)
{
    return json_pack("{s:o, s:o, s:o}", "touches_a_second", sample_json(&speed->rate, rounds),
                     "cpu_seconds_a_page", sample_json(&speed->cpu, rounds), "hits",
                     sample_json(&speed->hits, rounds));
}

static json_t *speeds_json(const struct bound_speed *speeds, unsigned rounds)
{
    json_t *object = json_object();
    char key[16];

    for (unsigned c = 0; c < BOUND_CROWDS; c++) {
        snprintf(key, sizeof(key), "%u", bound_threads[c]);
        json_object_set_new(object, key, speed_json(&speeds[c], rounds));
    }
    return object;
}

static json_t *policies_json(const struct bound *b)
{
    json_t *object = json_object();

    for (unsigned i = 0; i < BOUND_POLICY_CELLS; i++) {
        const struct bound_policy *p = &b->policies[i];

        json_object_set_new(object, bound_cell_names[bound_policy_cells[i]],
                            json_pack("{s:o, s:o, s:o, s:o, s:o}", "hit_seconds",
                                      sample_json(&p->hit, b->round), "lru", number(p->lru),
                                      "ahead", number(p->ahead), "popular", number(p->popular),
                                      "min", number(p->min)));
    }
    return object;
}

static int report_write(const struct bound *b)
{
    json_t *root = json_object(), *all = json_object(), *pagers = json_object(),
           *cells = json_object();
    json_t *list = json_array();
    struct aim aims[AIMS_MAX];
    size_t count = aims_make(b, aims);
    int error = 0;

    for (size_t i = 0; i < BOUND_FIGURE_COUNT; i++)
        json_object_set_new(all, figures[i].name, sample_json(&b->figures[i], b->round));
    for (enum bound_trap trap = 0; trap < BOUND_TRAPS; trap++)
        json_object_set_new(pagers, trap_keys[trap], speeds_json(b->pagers[trap], b->round));
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o, s:s}", "aim", aims[i].words,
                                              "wanted", number(aims[i].wanted), "bound",
                                              number(aims[i].bound), "peer", number(aims[i].peer),
                                              "verdict", aim_verdict(&aims[i])));
    json_object_set_new(root, "region", json_integer((json_int_t)b->options.region));
    json_object_set_new(root, "memory_share", json_integer(b->options.share));
    json_object_set_new(root, "figures", all);
    json_object_set_new(root, "pagers", pagers);
    json_object_set_new(root, "swap", speeds_json(b->swap_rand, b->round));
    for (unsigned c = 0; c < BOUND_CELL_COUNT; c++)
        json_object_set_new(cells, bound_cell_names[c], speed_json(&b->swap[c], b->round));
    json_object_set_new(root, "swap_cells", cells);
    json_object_set_new(root, "eviction", policies_json(b));
    json_object_set_new(root, "aims", list);
    errno = 0;
    if (json_dump_file(root, b->options.json, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) < 0) {
        error = errno != 0 ? -errno : -EIO;
        fprintf(stderr, "bound: cannot write %s: %s\n", b->options.json, strerror(-error));
    }
    json_decref(root);
    return error;
}

/* ---- All of it ---- */

static int round_measure(struct bound *b)
{
    static int (*const parts[])(struct bound * b) = {bound_primitives, bound_disk, bound_pagers,
                                                     bound_hits, bound_swap};
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
    for (unsigned c = 0; c < BOUND_CELL_COUNT; c++)
        speed_clear(&b->swap[c]);
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
        report_print(&b);
    if (error == 0 && b.options.json != NULL)
        error = report_write(&b);
    if (b.wrong)
        fprintf(stderr, "bound: a page held something else than was written\n");
    if (b.wrong)
        return STATUS_WRONG;
    return bound_interrupted != 0 ? 128 + bound_interrupted
           : error == 0           ? STATUS_OK
                                  : STATUS_FAILED;
}
