#include "bound_report.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "workload.h"

#define MIB 1048576.0
#define CROWD_OF_CELLS 1 /* of bound_threads: as many as swap's cells have */

static const struct figure_info {
    const char *name, *words;
    enum bound_unit unit;
} figures[] = {
#define FIGURE_INFO(name, unit, words) {#name, words, UNIT_##unit},
    BOUND_FIGURES(FIGURE_INFO)
#undef FIGURE_INFO
};

static const char *const trap_names[BOUND_TRAPS] = {"handler thread", "handler that polls",
                                                    "SIGBUS"};
static const char *const prefault_names[BOUND_PREFAULTS] = {"prefault", "prefault, registered"};
static const char *const prefault_keys[BOUND_PREFAULTS] = {"plain", "registered"};
static const char *const trap_keys[BOUND_TRAPS] = {"thread", "poll", "sigbus"};

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
    struct sample_summary hits = sample_summarize(&speed->hits);
    char words[64];

    if (rate.count == 0)
        return;
    snprintf(words, sizeof(words), "%s, %u thread%s", who, threads, threads == 1 ? "" : "s");
    printf("%-36s %9.0f touches/s (%.0f to %.0f), CPU a page %.2f us, p99 %.0f us, p99.9 %.0f us",
           words, rate.median, rate.least, rate.most, sample_summarize(&speed->cpu).median * 1e6,
           sample_summarize(&speed->p99).median * 1e6, sample_summarize(&speed->p999).median * 1e6);
    if (hits.count > 0)
        printf(", hits %.1f %%", hits.median * 100);
    printf("\n");
}

/* The smallest pagers in cells of bench. */
static void writers_print(const struct bound *b)
{
    printf("\nSmallest pagers that know how long each run is (moving: a page), and what has been "
           "written\n");
    for (unsigned c = 0; c < BOUND_CELL_COUNT; c++)
        for (enum bound_trap trap = 0; trap < BOUND_TRAPS; trap++) {
            char who[64];

            snprintf(who, sizeof(who), "%s, %s", bound_cell_names[c], trap_names[trap]);
            speed_print(who, BOUND_CELL_THREADS, &b->writers[trap][c]);
        }
    printf("by SIGBUS, not knowing how long runs are: pages brought with the first, and then; or "
           "groups\nof neighbours\n");
    for (unsigned c = 0; c < BOUND_CELL_COUNT; c++)
        for (unsigned i = 0; i < BOUND_WINDOWS; i++) {
            char who[64];

            if (c == CELL_moving)
                snprintf(who, sizeof(who), "%s, groups of %u", bound_cell_names[c],
                         bound_windows[i].first);
            else
                snprintf(who, sizeof(who), "%s, %u + %u", bound_cell_names[c],
                         bound_windows[i].first, bound_windows[i].next);
            speed_print(who, BOUND_CELL_THREADS, &b->guessers[i][c]);
        }
    for (enum bound_prefault how = 0; how < BOUND_PREFAULTS; how++) {
        struct sample_summary rate = sample_summarize(&b->prefaults[how].rate);

        if (rate.count > 0)
            printf("%-48s %9.0f reads/s (%.0f to %.0f), CPU a page %.2f us\n", prefault_names[how],
                   rate.median, rate.least, rate.most,
                   sample_summarize(&b->prefaults[how].cpu).median * 1e6);
    }
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
    struct aim aims[BOUND_AIMS_MAX];
    size_t count = bound_aims(b, aims);

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
        printf("  %s %-5g %s\n", a->cost ? "at most " : "at least", a->wanted, bound_verdict(a));
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
    double rate = sample_summarize(&bound_pager_best(b, CROWD_OF_CELLS)->rate).median;

    return BOUND_CELL_THREADS / rate / (1 - bound_resident(b));
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
    double wanted = bound_ratio_wanted(bound_cell_names[cell], BOUND_CELL_THREADS);
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

void bound_print(const struct bound *b)
{
    struct utsname u;

    uname(&u);
    printf("%ld processors, Linux %s: %.0f MiB region, %u rounds, medians (least to most)\n\n",
           sysconf(_SC_NPROCESSORS_ONLN), u.release, (double)b->options.region / MIB, b->round);
    for (size_t i = 0; i < BOUND_FIGURE_COUNT; i++)
        figure_print(figures[i].words, sample_summarize(&b->figures[i]), figures[i].unit);
    speeds_print(b);
    writers_print(b);
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
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "touches_a_second",
                     sample_json(&speed->rate, rounds), "cpu_seconds_a_page",
                     sample_json(&speed->cpu, rounds), "hits", sample_json(&speed->hits, rounds),
                     "p99", sample_json(&speed->p99, rounds), "p999",
                     sample_json(&speed->p999, rounds));
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

static json_t *cells_json(const struct bound_speed *speeds, unsigned rounds)
{
    json_t *object = json_object();

    for (unsigned c = 0; c < BOUND_CELL_COUNT; c++)
        if (sample_summarize(&speeds[c].rate).count > 0)
            json_object_set_new(object, bound_cell_names[c], speed_json(&speeds[c], rounds));
    return object;
}

static json_t *guessers_json(const struct bound *b)
{
    json_t *object = json_object();
    char key[32];

    for (unsigned i = 0; i < BOUND_WINDOWS; i++) {
        snprintf(key, sizeof(key), "%u+%u", bound_windows[i].first, bound_windows[i].next);
        json_object_set_new(object, key, cells_json(b->guessers[i], b->round));
    }
    return object;
}

static json_t *prefaults_json(const struct bound *b)
{
    json_t *object = json_object();

    for (enum bound_prefault how = 0; how < BOUND_PREFAULTS; how++)
        json_object_set_new(object, prefault_keys[how],
                            json_pack("{s:o, s:o}", "reads_a_second",
                                      sample_json(&b->prefaults[how].rate, b->round),
                                      "cpu_seconds_a_page",
                                      sample_json(&b->prefaults[how].cpu, b->round)));
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

int bound_write(const struct bound *b)
{
    json_t *root = json_object(), *all = json_object(), *pagers = json_object(),
           *writers = json_object();
    json_t *list = json_array();
    struct aim aims[BOUND_AIMS_MAX];
    size_t count = bound_aims(b, aims);
    int error = 0;

    for (size_t i = 0; i < BOUND_FIGURE_COUNT; i++)
        json_object_set_new(all, figures[i].name, sample_json(&b->figures[i], b->round));
    for (enum bound_trap trap = 0; trap < BOUND_TRAPS; trap++) {
        json_object_set_new(pagers, trap_keys[trap], speeds_json(b->pagers[trap], b->round));
        json_object_set_new(writers, trap_keys[trap], cells_json(b->writers[trap], b->round));
    }
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o, s:s}", "aim", aims[i].words,
                                              "wanted", number(aims[i].wanted), "bound",
                                              number(aims[i].bound), "peer", number(aims[i].peer),
                                              "verdict", bound_verdict(&aims[i])));
    json_object_set_new(root, "region", json_integer((json_int_t)b->options.region));
    json_object_set_new(root, "memory_share", json_integer(b->options.share));
    json_object_set_new(root, "figures", all);
    json_object_set_new(root, "pagers", pagers);
    json_object_set_new(root, "swap", speeds_json(b->swap_rand, b->round));
    json_object_set_new(root, "swap_cells", cells_json(b->swap, b->round));
    json_object_set_new(root, "pager_cells", writers);
    json_object_set_new(root, "pager_windows", guessers_json(b));
    json_object_set_new(root, "prefault", prefaults_json(b));
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
