#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "plot.h"
#include "report.h"

#define PATH_SIZE 1024
#define LABEL_SIZE 16

/* Room for the values of one plot: kinds by categories. */
struct board {
    const char *categories[LIST_MAX];
    char labels[LIST_MAX][LABEL_SIZE];
    size_t count; /* categories */
    double values[MEMORY_KINDS][LIST_MAX], least[MEMORY_KINDS][LIST_MAX],
        most[MEMORY_KINDS][LIST_MAX];
    bool used[MEMORY_KINDS];
};

static void board_clear(struct board *b)
{
    memset(b, 0, sizeof(*b));
    for (unsigned k = 0; k < MEMORY_KINDS; k++)
        for (size_t i = 0; i < LIST_MAX; i++)
            b->values[k][i] = b->least[k][i] = b->most[k][i] = NAN;
}

static void board_put(struct board *b, enum memory_kind kind, size_t category, struct summary s)
{
    b->values[kind][category] = s.median;
    b->least[kind][category] = s.least;
    b->most[kind][category] = s.most;
    b->used[kind] = b->used[kind] || s.count > 0;
}

static int board_draw(const struct board *b, struct plot *plot, bool bars, const char *dir,
                      const char *name)
{
    struct plot_series series[MEMORY_KINDS];
    char path[PATH_SIZE];
    int error;

    plot->series = series;
    plot->series_count = 0;
    plot->categories = b->categories;
    plot->category_count = b->count;
    for (unsigned k = 0; k < MEMORY_KINDS; k++)
        if (b->used[k])
            series[plot->series_count++] = (struct plot_series){.name = memory_kind_names[k],
                                                                .y = b->values[k],
                                                                .least = b->least[k],
                                                                .most = b->most[k]};
    if (plot->series_count == 0)
        return 0;
    snprintf(path, sizeof(path), "%s/%s.svg", dir, name);
    error = bars ? plot_bars(path, plot) : plot_lines(path, plot);
    if (error < 0)
        fprintf(stderr, "bench: cannot draw %s: %s\n", path, strerror(-error));
    return error;
}

static size_t cell_find(const struct results *r, const struct workload *w, unsigned threads,
                        unsigned share)
{
    size_t i;

    for (i = 0; i < r->plan->cell_count; i++) {
        const struct cell *c = &r->plan->cells[i];

        if (c->workload == w && c->share == share && (c->threads == threads || w->threads != 0))
            break;
    }
    return i;
}

/* Managed to the others, by workload, at the base. */
static int ratios_draw(const struct results *r, const char *dir)
{
    const struct options *o = r->options;
    char title[96];
    struct plot plot = {.title = title,
                        .x_label = "workload",
                        .y_label = "times as fast",
                        .logarithmic = true,
                        .reference = 1};
    struct board b;

    board_clear(&b);
    snprintf(title, sizeof(title), "vmsm against the others: %u threads, %u %% memory",
             o->base_threads, o->base_share);
    for (size_t w = 0; w < o->workload_count; w++) {
        size_t cell = cell_find(r, o->workloads[w], o->base_threads, o->base_share);

        if (cell == r->plan->cell_count || o->workloads[w]->managed_only)
            continue;
        for (unsigned k = MEMORY_PEER; k < MEMORY_KINDS; k++)
            board_put(&b, k, b.count, results_ratio(r, MANAGED, k, cell));
        b.categories[b.count++] = o->workloads[w]->name;
    }
    return board_draw(&b, &plot, true, dir, "ratio");
}

/* Touches a second of one workload over a list of threads or of shares. */
static int sweep_draw(const struct results *r, const struct workload *w, bool threads,
                      const char *dir)
{
    const struct options *o = r->options;
    const struct unsigned_list *list = threads ? &o->threads : &o->shares;
    char title[96], name[48];
    struct plot plot = {.title = title,
                        .x_label = threads ? "threads" : "memory, % of the data",
                        .y_label = "touches a second",
                        .logarithmic = true,
                        .reference = NAN};
    struct board b;

    board_clear(&b);
    for (size_t i = 0; i < list->count; i++) {
        size_t cell = cell_find(r, w, threads ? list->values[i] : o->base_threads,
                                threads ? o->base_share : list->values[i]);

        if (cell == r->plan->cell_count)
            continue;
        for (unsigned k = 0; k < MEMORY_KINDS; k++)
            board_put(&b, k, b.count, results_rate(r, k, cell));
        snprintf(b.labels[b.count], LABEL_SIZE, "%u", list->values[i]);
        b.categories[b.count] = b.labels[b.count];
        b.count++;
    }
    if (b.count < 2)
        return 0;
    snprintf(title, sizeof(title), "%s (%s): %u %s", w->name, w->help,
             threads ? o->base_share : o->base_threads, threads ? "% memory" : "threads");
    snprintf(name, sizeof(name), "%s-%s", threads ? "threads" : "share", w->name);
    return board_draw(&b, &plot, false, dir, name);
}

/* The directory and those above it. */
static int directory_make(const char *dir)
{
    char path[PATH_SIZE];

    if (strlen(dir) >= sizeof(path))
        return -ENAMETOOLONG;
    strcpy(path, dir);
    for (char *slash = path + 1; (slash = strchr(slash, '/')) != NULL; *slash++ = '/') {
        *slash = '\0';
        mkdir(path, 0777);
    }
    return mkdir(path, 0777) < 0 && errno != EEXIST ? -errno : 0;
}

int report_directory(const char *dir)
{
    int error = directory_make(dir);

    if (error == 0 && access(dir, W_OK | X_OK) < 0)
        error = -errno;
    if (error < 0)
        fprintf(stderr, "bench: cannot draw plots in %s: %s\n", dir, strerror(-error));
    return error;
}

int report_plots(const struct results *r, const char *dir)
{
    int error = report_directory(dir), result;

    if (error < 0)
        return error;
    result = ratios_draw(r, dir);
    for (size_t w = 0; w < r->options->workload_count; w++) {
        const struct workload *one = r->options->workloads[w];

        error = one->sweeps ? sweep_draw(r, one, true, dir) : 0;
        result = result < 0 ? result : error;
        error = one->fits || one->managed_only ? 0 : sweep_draw(r, one, false, dir);
        result = result < 0 ? result : error;
    }
    return result;
}
