#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MIB 1048576.0
#define MICRO 1e6

/* A number in `width` columns, or a dash. */
static void number_print(int width, int digits, double value)
{
    if (isnan(value))
        printf(" %*s", width, "-");
    else
        printf(" %*.*f", width, digits, value);
}

static void cell_print(const struct cell *c, enum memory_kind kind)
{
    printf("%-10s %3u %4u%% %-8s", c->workload->name, c->threads, c->share,
           memory_kind_names[kind]);
}

static void heading_print(const struct results *r)
{
    const struct options *o = r->options;

    printf("\n%s form%s: %.0f MiB region, %llu of %llu rounds whole, %g s a cell (moving: once "
           "through the window), after so many touches as its workload takes to warm up (see "
           "--help), for %g s at most\n",
           o->full ? "Full" : "Short", r->interrupted ? ", INTERRUPTED" : "",
           (double)o->region / MIB, (unsigned long long)r->rounds_done,
           (unsigned long long)o->rounds, o->seconds, o->warm_up);
    for (unsigned k = 0; k < MEMORY_KINDS; k++)
        if (o->kinds[k] && r->missing[k] != NULL)
            printf("%s is left out: %s\n", memory_kind_names[k], r->missing[k]);
        else if (r->notes[k] != NULL)
            printf("%s: %s\n", memory_kind_names[k], r->notes[k]);
    for (unsigned k = 0; k < MEMORY_KINDS; k++)
        if (r->killed[k] > 0)
            printf("%s: %llu processes were killed, since there was no memory in their group; "
                   "others went on in their place\n",
                   memory_kind_names[k], (unsigned long long)r->killed[k]);
}

static void rates_print(const struct results *r)
{
    bool cut = false;

    printf("\nSpeed: medians over rounds; ratio: managed to this kind, pair by pair\n"
           "%-10s %3s %5s %-8s %12s %12s %12s %8s %7s %7s %7s\n",
           "cell", "thr", "mem", "kind", "touches/s", "least", "most", "of disk", "ratio", "least",
           "most");
    for (size_t i = 0; i < r->plan->cell_count; i++)
        for (unsigned k = 0; k < MEMORY_KINDS; k++) {
            struct summary rate = results_rate(r, k, i), ratio = {0, NAN, NAN, NAN};

            if (rate.count == 0)
                continue;
            if (k != MANAGED)
                ratio = results_ratio(r, MANAGED, k, i);
            cell_print(&r->plan->cells[i], k);
            number_print(12, 0, rate.median);
            number_print(12, 0, rate.least);
            number_print(12, 0, rate.most);
            number_print(7, 0, 100 * results_disk_part(r, k, i));
            printf("%s", isnan(results_disk_part(r, k, i)) ? " " : "%");
            number_print(7, 2, ratio.median);
            number_print(7, 2, ratio.least);
            number_print(7, 2, ratio.most);
            printf("%s\n", results_cut(r, k, i) > 0 ? " *" : "");
            cut = cut || results_cut(r, k, i) > 0;
        }
    if (cut)
        printf("* warming up took longer than %g s in a round at least, and was cut; or a cell of "
               "counted touches was, after %g s\n",
               r->options->warm_up, PLAN_COUNTED_MOST * r->options->seconds);
}

static void costs_print(const struct results *r)
{
    printf(
        "\nCosts: CPU in us; faults, reads waited for, system calls, TLB flushes and I/Os a "
        "thousand touches;\nbytes copied a touch; mean KiB of an I/O; hits are touches without a "
        "fault; times of a touch in us\n"
        "%-10s %3s %5s %-8s %8s %8s %7s %6s %8s %7s %7s %7s %6s %6s %8s %9s %9s\n",
        "cell", "thr", "mem", "kind", "CPU/tch", "CPU/page", "faults", "reads", "syscalls",
        "flushes", "copied", "I/Os", "KiB", "hits", "p50", "p99", "p99.9");
    for (size_t i = 0; i < r->plan->cell_count; i++)
        for (unsigned k = 0; k < MEMORY_KINDS; k++) {
            struct cost c;

            if (results_rate(r, k, i).count == 0)
                continue;
            c = results_cost(r, k, i);
            cell_print(&r->plan->cells[i], k);
            number_print(8, 2, c.cpu_touch * MICRO);
            number_print(8, 2, c.cpu_moved * MICRO);
            number_print(7, 1, c.faults * 1000);
            number_print(6, 1, c.hard * 1000);
            number_print(8, 1, c.syscalls * 1000);
            number_print(7, 1, c.flushes * 1000);
            number_print(7, 0, c.copied);
            number_print(7, 1, c.ios * 1000);
            number_print(6, 0, c.io_bytes / 1024);
            number_print(5, 1, c.hits * 100);
            printf("%s", isnan(c.hits) ? " " : "%");
            number_print(8, 2, c.p50 * MICRO);
            number_print(9, 2, c.p99 * MICRO);
            number_print(9, 2, c.p999 * MICRO);
            printf("\n");
        }
}

static void disk_print(const struct results *r)
{
    if (r->disk_count > 0)
        printf("\nThe disk, by fio: medians over rounds\n");
    for (size_t i = 0; i < r->disk_count; i++) {
        const struct disk_series *d = &r->disks[i];
        struct summary s = disk_summary(d);
        char text[64];

        printf("%-39s", disk_describe(&d->figure, text, sizeof(text)));
        number_print(9, 1, s.median / MIB);
        printf(" MiB/s");
        number_print(9, 0, s.median / (double)d->figure.block);
        printf(" a second (%.0f to %.0f)\n", s.least / (double)d->figure.block,
               s.most / (double)d->figure.block);
    }
}

static void peaks_print(const struct results *r)
{
    printf("\n");
    for (unsigned k = 0; k < MEMORY_KINDS; k++)
        if (r->peak[k] > 0)
            printf("%-8s most memory ever %s: %.1f MiB\n", memory_kind_names[k],
                   memory_kind_managed(k) ? "resident, tables and program too"
                   : k == ZRAM            ? "charged to the group, and in zram"
                                          : "charged to the group",
                   (double)r->peak[k] / MIB);
}

static void targets_print(const struct results *r)
{
    static const char *const words[] = {"reached", "NOT REACHED", "not measured"};
    char text[128];

    printf("\nAims\n");
    for (size_t i = 0; i < target_count; i++) {
        struct target_result result;

        target_judge(r, &target_table[i], &result);
        printf("%-12s %-62s", words[result.state],
               target_describe(&target_table[i], text, sizeof(text)));
        if (result.state != TARGET_NOT_MEASURED)
            printf(" %8.3g", result.figure);
        if (result.measured > 1) {
            const struct cell *worst = &r->plan->cells[result.cell];

            printf("  (%zu of %zu cells; furthest: %s, %u thread%s, %u %%)", result.reached,
                   result.measured, worst->workload->name, worst->threads,
                   worst->threads == 1 ? "" : "s", worst->share);
        }
        printf("\n");
    }
}

static bool anything_measured(const struct results *r)
{
    for (size_t i = 0; i < r->plan->cell_count; i++)
        for (unsigned k = 0; k < MEMORY_KINDS; k++)
            if (results_rate(r, k, i).count > 0)
                return true;
    return false;
}

void report_text(const struct results *r)
{
    heading_print(r);
    if (anything_measured(r)) {
        rates_print(r);
        costs_print(r);
    } else {
        printf("\nNo cell was measured.\n");
    }
    disk_print(r);
    peaks_print(r);
    if (r->options->targets)
        targets_print(r);
    fflush(stdout);
}

/* A file that is there stays as it is. */
static int file_try(const char *path)
{
    bool there = access(path, F_OK) == 0;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);

    if (fd < 0) {
        int error = -errno;

        fprintf(stderr, "bench: cannot write %s: %s\n", path, strerror(-error));
        return error;
    }
    close(fd);
    if (!there)
        unlink(path);
    return 0;
}

int report_prepare(const struct options *o)
{
    int error = o->json != NULL ? file_try(o->json) : 0;

    if (error == 0 && o->markdown != NULL)
        error = file_try(o->markdown);
    return error == 0 && o->plots != NULL ? report_directory(o->plots) : error;
}

int report_all(const struct results *r)
{
    const struct options *o = r->options;
    int json, markdown, plots;

    report_text(r);
    json = o->json != NULL ? report_json(r, o->json) : 0;
    markdown = o->markdown != NULL ? report_markdown(r, o->markdown) : 0;
    plots = o->plots != NULL ? report_plots(r, o->plots) : 0;
    return json < 0 ? json : markdown < 0 ? markdown : plots;
}
