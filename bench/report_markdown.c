/*
 * The whole table as Markdown, one row a cell, for a document: what managed memory does, and what
 * that is to the others. The tables of the terminal (report.c) have each kind's figures.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "report.h"

#define MIB 1048576.0
#define MICRO 1e6

/* A figure in a column of its own; an empty column if there is none. */
static void figure_write(FILE *out, int digits, double value, const char *unit)
{
    if (isnan(value))
        fprintf(out, " |");
    else
        fprintf(out, " %.*f%s |", digits, value, unit);
}

/* A rate, a speed-up, a time: three digits that say something, or what is left of the point. */
static void short_write(FILE *out, double value)
{
    figure_write(out, value < 10 ? 2 : value < 100 ? 1 : 0, value, "");
}

static void heading_write(FILE *out, const struct results *r)
{
    const struct options *o = r->options;
    struct utsname u;

    uname(&u);
    fprintf(
        out,
        "%s form%s, %ld processors, Linux %s: %.0f MiB region, %llu of %llu rounds whole, %g s "
        "a cell (moving: once through the window) after warming up, for %g s at most (\\*: it was "
        "cut there in a round at least).\n",
        o->full ? "Full" : "Short", r->interrupted ? ", INTERRUPTED" : "",
        sysconf(_SC_NPROCESSORS_ONLN), u.release, (double)o->region / MIB,
        (unsigned long long)r->rounds_done, (unsigned long long)o->rounds, o->seconds, o->warm_up);
    if (o->settings[0] != '\0')
        fprintf(out, "Settings: `%s`.\n", o->settings + 1);
    fprintf(out, "\n");
}

static void cell_write(FILE *out, const struct results *r, size_t cell)
{
    const struct cell *c = &r->plan->cells[cell];
    struct cost ours = results_cost(r, MANAGED, cell), swap = results_cost(r, SWAP, cell);
    struct summary ratio = results_ratio(r, MANAGED, SWAP, cell);

    fprintf(out, "| %s%s | %u | %u %% |", c->workload->name,
            results_cut(r, MANAGED, cell) + results_cut(r, SWAP, cell) > 0 ? "\\*" : "", c->threads,
            c->share);
    figure_write(out, 0, results_rate(r, MANAGED, cell).median, "");
    figure_write(out, 0, results_rate(r, MANAGED_SIGBUS, cell).median, "");
    if (ratio.count > 0)
        fprintf(out, " %.2f (%.2f–%.2f) |", ratio.median, ratio.least, ratio.most);
    else
        fprintf(out, " |");
    short_write(out, results_ratio(r, MANAGED_SIGBUS, SWAP, cell).median);
    short_write(out, results_ratio(r, MANAGED, MAPPED, cell).median);
    short_write(out, results_ratio(r, MANAGED, ZRAM, cell).median);
    figure_write(out, 0, 100 * results_disk_part(r, MANAGED, cell), " %");
    short_write(out, ours.cpu_moved * MICRO);
    short_write(out, swap.cpu_moved * MICRO);
    short_write(out, ours.p999 * MICRO);
    short_write(out, swap.p999 * MICRO);
    figure_write(out, 1, 100 * ours.hits, " %");
    figure_write(out, 1, 100 * swap.hits, " %");
    fprintf(out, "\n");
}

static void cells_write(FILE *out, const struct results *r)
{
    fprintf(out,
            "Medians over rounds: touches a second; ratios of managed memory, and of managed "
            "memory with the trap sigbus, to the others, made round by round; processor time "
            "in µs for each page read or written; p99.9 of a touch in µs; touches without a "
            "fault.\n\n"
            "| cell | threads | memory | managed | sigbus | to swap | sigbus to swap "
            "| to mapped | to zram | of disk | CPU/page | swap | p99.9 | swap | hits | swap |\n"
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n");
    for (size_t i = 0; i < r->plan->cell_count; i++)
        cell_write(out, r, i);
}

static void disk_write(FILE *out, const struct results *r)
{
    if (r->disk_count > 0)
        fprintf(out, "\n| the disk, by fio | MiB/s | a second |\n|---|--:|--:|\n");
    for (size_t i = 0; i < r->disk_count; i++) {
        const struct disk_figure *f = &r->disks[i].figure;
        struct summary s = disk_summary(&r->disks[i]);
        double block = (double)f->block;
        char text[64];

        if (s.count > 0)
            fprintf(out, "| %s | %.0f | %.0f (%.0f–%.0f) |\n", disk_describe(f, text, sizeof(text)),
                    s.median / MIB, s.median / block, s.least / block, s.most / block);
    }
}

static void targets_write(FILE *out, const struct results *r)
{
    static const char *const words[] = {"reached", "**not reached**", "not measured"};
    char text[128];

    fprintf(out, "\n| aim | figure | |\n|---|--:|---|\n");
    for (size_t i = 0; i < target_count; i++) {
        struct target_result t;

        target_judge(r, &target_table[i], &t);
        fprintf(out, "| %s |", target_describe(&target_table[i], text, sizeof(text)));
        if (t.state == TARGET_NOT_MEASURED)
            fprintf(out, " |");
        else
            fprintf(out, " %.3g |", t.figure);
        fprintf(out, " %s", words[t.state]);
        if (t.measured > 1) {
            const struct cell *worst = &r->plan->cells[t.cell];

            fprintf(out, " (%zu of %zu cells; furthest: %s, %u thread%s, %u %%)", t.reached,
                    t.measured, worst->workload->name, worst->threads,
                    worst->threads == 1 ? "" : "s", worst->share);
        }
        fprintf(out, " |\n");
    }
}

int report_markdown(const struct results *r, const char *path)
{
    FILE *out = fopen(path, "we");
    int error = 0;

    if (out != NULL) {
        heading_write(out, r);
        cells_write(out, r);
        disk_write(out, r);
        targets_write(out, r);
        error = ferror(out) ? -EIO : 0;
    }
    if (out == NULL || fclose(out) != 0)
        error = -errno;
    if (error < 0)
        fprintf(stderr, "bench: cannot write %s: %s\n", path, strerror(-error));
    return error;
}
