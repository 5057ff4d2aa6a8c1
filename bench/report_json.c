#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "report.h"
#include "usage.h"

/* null if it was not measured. */
static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *integer(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *summary_json(struct summary s)
{
    return json_pack("{s:o, s:o, s:o}", "median", number(s.median), "least", number(s.least),
                     "most", number(s.most));
}

static json_t *usage_json(const struct usage *u)
{
    json_t *object = json_object();

#define USAGE_JSON(name, help)                                                                     \
    json_object_set_new(object, #name, u->name == USAGE_NONE ? json_null() : integer(u->name));
    USAGES(USAGE_JSON)
#undef USAGE_JSON
    return object;
}

static json_t *counters_json(const struct vmsm_counters *c)
{
    json_t *object = json_object();

#define COUNTER_JSON(name, kind, help) json_object_set_new(object, #name, integer(c->name));
    VMSM_COUNTERS(COUNTER_JSON)
#undef COUNTER_JSON
    return object;
}

static json_t *sample_json(enum memory_kind kind, uint64_t round, const struct answer *a)
{
    const struct workload_result *w = &a->result;
    json_t *warming = json_pack("{s:o, s:o}", "touches", integer(a->warming.touches), "seconds",
                                number(a->warming.seconds));
    json_t *object =
        json_pack("{s:o, s:o, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "round", integer(round),
                  "warm_up", warming, "cut", a->cut, "touches", integer(w->touches), "seconds",
                  number(w->seconds), "p50", number(w->p50), "p99", number(w->p99), "p999",
                  number(w->p999), "worst", number(w->worst), "usage", usage_json(&a->usage));

    if (memory_kind_managed(kind))
        json_object_set_new(object, "counters", counters_json(&a->counters));
    return object;
}

static json_t *cost_json(struct cost c)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
                     "cpu_seconds_a_touch", number(c.cpu_touch), "cpu_seconds_a_page_moved",
                     number(c.cpu_moved), "faults_a_touch", number(c.faults), "hard_faults_a_touch",
                     number(c.hard), "system_calls_a_touch", number(c.syscalls),
                     "tlb_flushes_a_touch", number(c.flushes), "bytes_copied_a_touch",
                     number(c.copied), "ios_a_touch", number(c.ios), "bytes_an_io",
                     number(c.io_bytes), "hit_ratio", number(c.hits), "p50", number(c.p50), "p99",
                     number(c.p99), "p999", number(c.p999));
}

static json_t *kind_json(const struct results *r, enum memory_kind kind, size_t cell)
{
    json_t *rounds = json_array();

    for (uint64_t i = 0; i < r->options->rounds; i++) {
        const struct sample *s = results_sample(r, kind, cell, i);

        if (s->done)
            json_array_append_new(rounds, sample_json(kind, i + 1, &s->answer));
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "touches_a_second",
                     summary_json(results_rate(r, kind, cell)), "cost",
                     cost_json(results_cost(r, kind, cell)), "part_of_disk",
                     number(results_disk_part(r, kind, cell)), "rounds", rounds);
}

static json_t *cell_json(const struct results *r, size_t cell)
{
    const struct cell *c = &r->plan->cells[cell];
    json_t *kinds = json_object(), *ratios = json_object();

    for (unsigned k = 0; k < MEMORY_KINDS; k++) {
        if (results_rate(r, k, cell).count == 0)
            continue;
        json_object_set_new(kinds, memory_kind_names[k], kind_json(r, k, cell));
        if (k != MANAGED)
            json_object_set_new(ratios, memory_kind_names[k],
                                summary_json(results_ratio(r, MANAGED, k, cell)));
    }
    return json_pack("{s:s, s:o, s:o, s:o, s:o}", "workload", c->workload->name, "threads",
                     integer(c->threads), "memory_share", integer(c->share), "kinds", kinds,
                     "ratio", ratios);
}

static json_t *disks_json(const struct results *r)
{
    json_t *array = json_array();

    for (size_t i = 0; i < r->disk_count; i++) {
        const struct disk_figure *f = &r->disks[i].figure;

        json_array_append_new(array, json_pack("{s:b, s:b, s:o, s:o, s:o}", "write", f->write,
                                               "random", f->random, "block", integer(f->block),
                                               "depth", integer(f->depth), "bytes_a_second",
                                               summary_json(disk_summary(&r->disks[i]))));
    }
    return array;
}

static json_t *targets_json(const struct results *r)
{
    static const char *const words[] = {"reached", "missed", "not measured"};
    json_t *array = json_array();
    char text[128];

    for (size_t i = 0; i < target_count; i++) {
        struct target_result t;

        target_judge(r, &target_table[i], &t);
        json_array_append_new(
            array, json_pack("{s:s, s:s, s:o, s:o, s:o}", "aim",
                             target_describe(&target_table[i], text, sizeof(text)), "state",
                             words[t.state], "figure", number(t.figure), "cells",
                             integer(t.measured), "cells_reached", integer(t.reached)));
    }
    return array;
}

static json_t *results_json(const struct results *r)
{
    const struct options *o = r->options;
    json_t *cells = json_array(), *missing = json_object(), *peaks = json_object(),
           *killed = json_object();
    struct utsname u;

    uname(&u);
    for (size_t i = 0; i < r->plan->cell_count; i++)
        json_array_append_new(cells, cell_json(r, i));
    for (unsigned k = 0; k < MEMORY_KINDS; k++) {
        if (o->kinds[k] && r->missing[k] != NULL)
            json_object_set_new(missing, memory_kind_names[k], json_string(r->missing[k]));
        if (r->killed[k] > 0)
            json_object_set_new(killed, memory_kind_names[k], integer(r->killed[k]));
        if (r->peak[k] > 0)
            json_object_set_new(peaks, memory_kind_names[k], integer(r->peak[k]));
    }
    return json_pack(
        "{s:s, s:s, s:o, s:s, s:b, s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o}",
        "version", VMSM_VERSION, "kernel", u.release, "processors",
        integer((uint64_t)sysconf(_SC_NPROCESSORS_ONLN)), "form", o->full ? "full" : "short",
        "interrupted", r->interrupted, "region", integer(o->region), "rounds", integer(o->rounds),
        "seconds", number(o->seconds), "warm_up_most", number(o->warm_up), "seed", integer(o->seed),
        "settings", o->settings[0] != '\0' ? o->settings + 1 : "", "missing", missing,
        "most_memory", peaks, "killed", killed, "disk", disks_json(r), "cells", cells, "targets",
        targets_json(r));
}

int report_json(const struct results *r, const char *path)
{
    json_t *root = results_json(r);
    int error = 0;

    errno = 0;
    if (root == NULL || json_dump_file(root, path, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) < 0) {
        error = errno != 0 ? -errno : -EIO;
        fprintf(stderr, "bench: cannot write %s: %s\n", path, strerror(-error));
    }
    json_decref(root);
    return error;
}
