/* The best that could be reached, and what is aimed at. */
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "bound_report.h"
#include "targets.h"
#include "workload.h"

#define RUN_PAGES 16.5 /* of runs of 1 to 32, on average */

/* NAN is nothing. */
static double least_of(double a, double b)
{
    return isnan(a) || b < a ? b : a;
}

double bound_median(const struct bound *b, enum bound_figure figure)
{
    return sample_summarize(&b->figures[figure]).median;
}

/* Of the three pagers with so many threads, the quickest. */
const struct bound_speed *bound_pager_best(const struct bound *b, unsigned crowd)
{
    const struct bound_speed *best = &b->pagers[0][crowd];

    for (enum bound_trap trap = 1; trap < BOUND_TRAPS; trap++)
        if (sample_summarize(&b->pagers[trap][crowd].rate).median >
            sample_summarize(&best->rate).median)
            best = &b->pagers[trap][crowd];
    return best;
}

/* Pages a second with all processors at it. */
static double by_processors(double seconds)
{
    return (double)sysconf(_SC_NPROCESSORS_ONLN) / seconds;
}

double bound_resident(const struct bound *b)
{
    return (double)b->options.share / 100;
}

/* First writes: pages that do not fit must be trimmed, hashed and written. */
static double fill_cpu(const struct bound *b)
{
    double out = bound_median(b, BOUND_PROTECT_DENSE) + bound_median(b, BOUND_TAKE_DENSE) +
                 bound_median(b, BOUND_DROP_DENSE) + bound_median(b, BOUND_HASH) +
                 bound_median(b, BOUND_WRITE_CPU);

    return bound_median(b, BOUND_COPY_64) + bound_median(b, BOUND_FILL_PAGE) +
           (1 - bound_resident(b)) * out;
}

static double fill_bound(const struct bound *b)
{
    double disk = bound_median(b, BOUND_WRITE) / BOUND_PAGE / (1 - bound_resident(b));

    return least_of(disk, by_processors(fill_cpu(b)));
}

/* Pages that were not written need not be copied out. No more than what is resident is ever hit. */
static double scan_cpu(const struct bound *b)
{
    double in = bound_median(b, BOUND_READ_CPU) + bound_median(b, BOUND_COPY_64) +
                bound_median(b, BOUND_DROP_DENSE);

    return bound_median(b, BOUND_CHECK_PAGE) + (1 - bound_resident(b)) * in;
}

static double scan_bound(const struct bound *b)
{
    double disk = bound_median(b, BOUND_READ) / BOUND_PAGE / (1 - bound_resident(b));

    return least_of(disk, by_processors(scan_cpu(b)));
}

/* Pages in equal steps: as they can be foretold, many are read at a time, but each alone. */
static double stride_bound(const struct bound *b)
{
    double in = bound_median(b, BOUND_RANDOM_CPU) + bound_median(b, BOUND_COPY_1) +
                bound_median(b, BOUND_DROP_SPARSE);
    double miss = 1 - bound_resident(b);

    return least_of(bound_median(b, BOUND_RANDOM_32) / miss,
                    by_processors(bound_median(b, BOUND_CHECK_PAGE) + miss * in));
}

/* Every second touch is a scan of all but a set of half the memory, beside which as much is left
 * for it; the others hit. */
static double flood_bound(const struct bound *b)
{
    double half = bound_resident(b) / 2, miss = (1 - half / (1 - half)) / 2;
    double in = bound_median(b, BOUND_READ_CPU) + bound_median(b, BOUND_COPY_64) +
                bound_median(b, BOUND_DROP_DENSE);

    return least_of(bound_median(b, BOUND_READ) / BOUND_PAGE / miss,
                    by_processors(bound_median(b, BOUND_CHECK_PAGE) + miss * in));
}

/* Of the pages that leave, those that have been written: each was touched 1 / (1 - resident) times
 * since it came. */
static double changed_part(const struct bound *b, double write_part)
{
    return 1 - pow(1 - write_part, 1 / (1 - bound_resident(b)));
}

/* Runs of 1 to 32 pages: one fault each, and one read of what is not there. */
static double run_bound(const struct bound *b, enum bound_figure disk, double write_part)
{
    double miss = 1 - bound_resident(b);
    double out = bound_median(b, BOUND_PROTECT_DENSE) + bound_median(b, BOUND_TAKE_DENSE) +
                 bound_median(b, BOUND_HASH) + bound_median(b, BOUND_WRITE_CPU);
    double page = bound_median(b, BOUND_RUN_CPU) + bound_median(b, BOUND_COPY_16) +
                  bound_median(b, BOUND_DROP_DENSE) + changed_part(b, write_part) * out;
    double fault = least_of(bound_median(b, BOUND_FAULT_SAME), bound_median(b, BOUND_FAULT_SIGBUS));

    return least_of(
        bound_median(b, disk) / BOUND_PAGE / miss,
        by_processors(bound_median(b, BOUND_CHECK_PAGE) + fault / RUN_PAGES + miss * page));
}

/* Pages that are asked for many at a time, at random. */
static double prefault_bound(const struct bound *b)
{
    double cpu = bound_median(b, BOUND_RANDOM_CPU) + bound_median(b, BOUND_COPY_1) +
                 bound_median(b, BOUND_DROP_SPARSE);

    return least_of(bound_median(b, BOUND_RANDOM_32), by_processors(cpu));
}

/* What bench aims at, at the share that its aims are for. */
double bound_ratio_wanted(const char *workload, unsigned threads)
{
    return target_bound(workload, threads, 25, SWAP, TARGET_RATIO);
}

static double rate_of(const struct bound_speed *speed)
{
    return sample_summarize(&speed->rate).median;
}

/* Of the two with a handler thread, the quicker. */
static const struct bound_speed *writer_best(const struct bound *b, enum bound_cell cell)
{
    const struct bound_speed *sleeps = &b->writers[BOUND_SLEEP][cell];
    const struct bound_speed *polls = &b->writers[BOUND_POLL][cell];

    return rate_of(polls) > rate_of(sleeps) ? polls : sleeps;
}

const struct bound_speed *bound_guesser_best(const struct bound *b, enum bound_cell cell)
{
    const struct bound_speed *best = &b->guessers[0][cell];

    for (unsigned i = 1; i < BOUND_WINDOWS; i++)
        if (rate_of(&b->guessers[i][cell]) > rate_of(best))
            best = &b->guessers[i][cell];
    return best;
}

/* What a small pager has reached, to swap. */
static size_t pager_aims(struct aim *aims, const char *what, const struct bound_speed *pager,
                         const struct bound_speed *swap, double ratio)
{
    size_t count = 0;

    if (!isnan(ratio)) {
        snprintf(aims[count].words, sizeof(aims[count].words), "%s", what);
        aims[count].wanted = ratio;
        aims[count].bound = rate_of(pager);
        aims[count].peer = rate_of(swap);
        aims[count++].cost = false;
    }
    snprintf(aims[count].words, sizeof(aims[count].words), "CPU a page, %s", what);
    aims[count].wanted = target_bound(NULL, 0, 0, SWAP, TARGET_CPU);
    aims[count].bound = sample_summarize(&pager->cpu).median;
    aims[count].peer = sample_summarize(&swap->cpu).median;
    aims[count++].cost = true;
    snprintf(aims[count].words, sizeof(aims[count].words), "p99.9, %s", what);
    aims[count].wanted = target_bound(NULL, 0, 0, SWAP, TARGET_TAIL);
    aims[count].bound = sample_summarize(&pager->p999).median;
    aims[count].peer = sample_summarize(&swap->p999).median;
    aims[count++].cost = true;
    return count;
}

static struct aim cell_aim(const struct bound *b, enum bound_cell cell, double bound)
{
    struct aim aim = {"", bound_ratio_wanted(bound_cell_names[cell], BOUND_CELL_THREADS), bound,
                      sample_summarize(&b->swap[cell].rate).median, false};

    if (isnan(aim.wanted)) /* what holds for every cell */
        aim.wanted = target_bound(NULL, 0, 0, SWAP, TARGET_RATIO);
    snprintf(aim.words, sizeof(aim.words), "%s, to swap", bound_cell_names[cell]);
    return aim;
}

/* bound and peer are in the same unit; wanted is of their quotient. */
size_t bound_aims(const struct bound *b, struct aim *aims)
{
    double first = bound_median(b, BOUND_FILL_PAGE);
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
        aims[count] = (struct aim){"", bound_ratio_wanted("rand", bound_threads[c]),
                                   sample_summarize(&bound_pager_best(b, c)->rate).median,
                                   sample_summarize(&b->swap_rand[c].rate).median, false};
        snprintf(aims[count++].words, sizeof(aims[0].words), "rand, %u thread%s, to swap",
                 bound_threads[c], bound_threads[c] == 1 ? "" : "s");
    }
    aims[count++] = (struct aim){"rand, 16 threads, to 2 threads",
                                 target_bound("rand", 16, 25, MANAGED, TARGET_SCALING),
                                 sample_summarize(&bound_pager_best(b, 3)->rate).median,
                                 sample_summarize(&bound_pager_best(b, 1)->rate).median, false};
    aims[count++] = (struct aim){"fill where all fits, to ordinary memory",
                                 target_bound("fill", 2, 150, SWAP, TARGET_RATIO),
                                 1 / (bound_median(b, BOUND_COPY_64) + first),
                                 1 / (bound_median(b, BOUND_FIRST_TOUCH) + first), false};
    aims[count++] = (struct aim){"prefault, part of the disk",
                                 target_bound("prefault", 1, 25, MANAGED, TARGET_DISK),
                                 prefault_bound(b), bound_median(b, BOUND_RANDOM_32), false};
    aims[count++] = (struct aim){
        "scan, part of the disk", target_bound("scan", 2, 25, MANAGED, TARGET_DISK),
        scan_bound(b) * (1 - bound_resident(b)) * BOUND_PAGE, bound_median(b, BOUND_READ), false};
    for (unsigned c = 0; c < BOUND_CROWDS; c++) {
        char what[48];

        snprintf(what, sizeof(what), "rand, %u thread%s, SIGBUS", bound_threads[c],
                 bound_threads[c] == 1 ? "" : "s");
        count += pager_aims(aims + count, what, &b->pagers[BOUND_SIGBUS][c], &b->swap_rand[c], NAN);
    }
    for (unsigned i = 0; i < BOUND_WRITER_CELLS; i++) {
        enum bound_cell cell = bound_writer_cells[i];
        char what[48];

        snprintf(what, sizeof(what), "%s, pager by SIGBUS", bound_cell_names[cell]);
        count += pager_aims(aims + count, what, &b->writers[BOUND_SIGBUS][cell], &b->swap[cell],
                            bound_ratio_wanted(bound_cell_names[cell], BOUND_CELL_THREADS));
        snprintf(what, sizeof(what), "%s, pager by thread", bound_cell_names[cell]);
        count += pager_aims(aims + count, what, writer_best(b, cell), &b->swap[cell],
                            bound_ratio_wanted(bound_cell_names[cell], BOUND_CELL_THREADS));
        if (cell == CELL_fill)
            continue;
        snprintf(what, sizeof(what), "%s, %s", bound_cell_names[cell],
                 cell == CELL_moving ? "by groups" : "length not known");
        count += pager_aims(aims + count, what, bound_guesser_best(b, cell), &b->swap[cell],
                            bound_ratio_wanted(bound_cell_names[cell], BOUND_CELL_THREADS));
    }
    aims[count++] = (struct aim){
        "prefault, smallest pager, part of the disk",
        target_bound("prefault", 1, 25, MANAGED, TARGET_DISK),
        fmax(rate_of(&b->prefaults[PREFAULT_PLAIN]), rate_of(&b->prefaults[PREFAULT_FIXED])),
        bound_median(b, BOUND_RANDOM_32), false};
    aims[count++] =
        (struct aim){"CPU a page, scan, to swap", cpu_wanted, scan_cpu(b) / (1 - bound_resident(b)),
                     sample_summarize(&b->swap[CELL_scan].cpu).median, true};
    aims[count++] =
        (struct aim){"CPU a page, fill, to swap", cpu_wanted, fill_cpu(b) / (1 - bound_resident(b)),
                     sample_summarize(&b->swap[CELL_fill].cpu).median, true};
    return count;
}

const char *bound_verdict(const struct aim *aim)
{
    double ratio = aim->bound / aim->peer;

    if (isnan(ratio))
        return "-";
    return (aim->cost ? ratio <= aim->wanted : ratio >= aim->wanted) ? "possible" : "OUT OF REACH";
}
