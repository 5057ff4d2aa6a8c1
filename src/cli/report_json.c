/*
 * The report of sim as JSON. Objects of jansson own what is put in them, and
 * take a failed (NULL) value as a failure of their own; a report that could
 * not be made whole is not made.
 */
#include <string.h>

#include "cli/output.h"
#include "cli/report.h"

/* Puts value, a new reference, under name; *ok turns false for good on failure. */
static void put(json_t *object, const char *name, json_t *value, bool *ok)
{
    if (json_object_set_new(object, name, value) != 0)
        *ok = false;
}

/* JSON's integers are signed here; what does not fit becomes a real, less exact but not negative.
 */
static void put_number(json_t *object, const char *name, uint64_t value, bool *ok)
{
    put(object, name,
        value <= INT64_MAX ? json_integer((json_int_t)value) : json_real((double)value), ok);
}

/* An object that was put together whole, or NULL. */
static json_t *whole(json_t *object, bool ok)
{
    if (ok)
        return object;
    json_decref(object);
    return NULL;
}

json_t *report_tunables(const struct tunables *tunables)
{
    json_t *object = json_object();
    bool ok = object != NULL;
    char text[TUNABLE_STRING_MAX];

    for (unsigned i = 0; i < tunable_count && ok; i++) {
        const struct tunable_info *info = &tunable_table[i];
        const char *at = (const char *)tunables + info->offset;
        uint64_t number;

        if (info->type == TUNABLE_SIZE || info->type == TUNABLE_TIME ||
            info->type == TUNABLE_COUNT) {
            memcpy(&number, at, sizeof(number));
            put_number(object, info->name, number, &ok);
        } else if (info->type == TUNABLE_BOOL) {
            put(object, info->name, json_boolean(*(const bool *)at), &ok);
        } else {
            put(object, info->name,
                output_string(tunable_print(tunables, info, text, sizeof(text))), &ok);
        }
    }
    return whole(object, ok);
}

static json_t *json_settings(const struct sim_result *r)
{
    const struct sim_settings *s = r->settings;

    return json_pack("{s:I, s:I, s:f, s:I, s:i, s:i, s:I, s:o, s:o}", "virtual",
                     (json_int_t)s->virtual_bytes, "accesses", (json_int_t)s->accesses, "seconds",
                     (double)s->time_ns / 1e9, "run_max", (json_int_t)s->run_max, "threads",
                     (int)s->threads, "write_percent", (int)s->write_percent, "seed",
                     (json_int_t)s->seed, "store", output_string(r->store), "tunables",
                     report_tunables(&r->tunables));
}

static json_t *json_outcome(const struct sim_result *r)
{
    char text[1024];

    return json_pack("{s:i, s:o, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:o}", "status", (int)r->status,
                     "text", output_string(sim_outcome(r, text, sizeof(text))), "wrong_pages",
                     (json_int_t)r->wrong_pages, "wrong_accesses", (json_int_t)r->wrong_accesses,
                     "failed_accesses", (json_int_t)r->failed, "failed_in_sweep",
                     (json_int_t)r->sweep_failed, "torn_writes", (json_int_t)r->torn, "interrupted",
                     r->interrupted, "books_balanced", r->balanced, "books",
                     output_string(r->books));
}

static json_t *json_phase(const char *what, uint64_t count, uint64_t ns)
{
    return json_pack("{s:I, s:f, s:f}", what, (json_int_t)count, "seconds", (double)ns / 1e9,
                     "per_second", ns > 0 ? (double)count * 1e9 / (double)ns : 0.0);
}

static json_t *json_counters(const struct vmsm_counters *counters)
{
    json_t *object = json_object();
    bool ok = object != NULL;

    for (size_t i = 0; i < COUNTER_TOTAL && ok; i++) {
        uint64_t value;

        memcpy(&value, (const char *)counters + counter_table[i].offset, sizeof(value));
        put_number(object, counter_table[i].name, value, &ok);
    }
    return whole(object, ok);
}

static json_t *json_histogram(const struct histogram *h)
{
    static const struct {
        const char *name;
        double share;
    } points[] = {{"p50_ns", 0.5},  {"p90_ns", 0.9},     {"p95_ns", 0.95},
                  {"p99_ns", 0.99}, {"p99.9_ns", 0.999}, {"p99.99_ns", 0.9999}};
    json_t *object = json_object();
    bool ok = object != NULL;

    put_number(object, "count", atomic_load(&h->count), &ok);
    put_number(object, "total_ns", atomic_load(&h->total), &ok);
    for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++)
        put_number(object, points[i].name, histogram_percentile(h, points[i].share), &ok);
    put_number(object, "max_ns", atomic_load(&h->max), &ok);
    return whole(object, ok);
}

static json_t *json_faults(const struct sim_result *r)
{
    json_t *object = json_object();
    bool ok = object != NULL;

    for (enum fault_kind kind = 0; kind < FAULT_KIND_COUNT; kind++)
        put(object, fault_kind_name(kind), json_histogram(&r->detail.faults[kind]), &ok);
    return whole(object, ok);
}

static json_t *json_batch(const struct batch_stats *b)
{
    uint64_t batches = atomic_load(&b->batches), items = atomic_load(&b->items);

    return json_pack("{s:I, s:I, s:f, s:I}", "count", (json_int_t)batches, "pages",
                     (json_int_t)items, "mean", batches > 0 ? (double)items / (double)batches : 0.0,
                     "largest", (json_int_t)atomic_load(&b->largest));
}

static json_t *json_batches(const struct counters *d)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "trim", json_batch(&d->trims), "write",
                     json_batch(&d->writes), "read", json_batch(&d->reads), "map",
                     json_batch(&d->maps), "first_touch", json_batch(&d->touches), "repurpose",
                     json_batch(&d->repurposes));
}

static json_t *json_locks(const struct sim_result *r)
{
    json_t *object = json_object();
    bool ok = object != NULL;

    for (enum sync_class class = 0; class < SYNC_CLASS_COUNT; class ++) {
        struct sim_lock_totals lock = sim_locks(r, class);

        put(object, sync_class_name(class),
            json_pack("{s:I, s:I, s:I}", "acquired", (json_int_t)lock.acquired, "contended",
                      (json_int_t)lock.contended, "waited_ns", (json_int_t)lock.waited_ns),
            &ok);
    }
    return whole(object, ok);
}

static json_t *json_memory(const struct sim_result *r)
{
    const struct sim_memory *m = &r->memory;

    return json_pack("{s:I, s:I, s:b, s:I, s:I, s:I, s:I}", "peak_bytes", (json_int_t)m->peak,
                     "allowance_bytes", (json_int_t)m->allowance, "within", sim_memory_within(r),
                     "budget_bytes", (json_int_t)r->tunables.memory, "oracle_bytes",
                     (json_int_t)m->oracle, "touched_pages_peak", (json_int_t)m->touched,
                     "slots_used_peak", (json_int_t)m->slots);
}

json_t *report_json(const struct sim_result *r)
{
    json_t *object = json_object();
    bool ok = object != NULL;

    put(object, "version", json_string(VMSM_VERSION), &ok);
    put(object, "outcome", json_outcome(r), &ok);
    put(object, "settings", json_settings(r), &ok);
    put(object, "run", json_phase("accesses", r->accesses, r->run_ns), &ok);
    put(object, "sweep", json_phase("pages", r->swept, r->sweep_ns), &ok);
    put_number(object, "sweep_pages_wanted", r->sweep_pages, &ok);
    put_number(object, "sweep_pages_sampled", r->sampled, &ok);
    put_number(object, "writes", r->writes, &ok);
    put(object, "faults", json_faults(r), &ok);
    put(object, "counters", json_counters(&r->run), &ok);
    put(object, "counters_after_sweep", json_counters(&r->last), &ok);
    put(object, "batches", json_batches(&r->detail), &ok);
    put(object, "locks", json_locks(r), &ok);
    put(object, "memory", json_memory(r), &ok);
    return whole(object, ok);
}
