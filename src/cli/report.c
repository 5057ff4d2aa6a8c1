#include "cli/report.h"

#include <inttypes.h>
#include <string.h>

#include "cli/format.h"

#define RED "\033[1;31m"
#define GREEN "\033[1;32m"
#define PLAIN "\033[0m"

struct batch_row {
    const char *name;
    uint64_t batches, items, largest;
};

static double per_second(uint64_t count, uint64_t ns)
{
    return ns > 0 ? (double)count * 1e9 / (double)ns : 0;
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0;
}

static void print_outcome(const struct sim_result *r, FILE *out, bool colour)
{
    char text[1024];

    sim_outcome(r, text, sizeof(text));
    if (colour)
        fprintf(out, "%s%s%s\n", r->status == STATUS_RIGHT ? GREEN : RED, text, PLAIN);
    else
        fprintf(out, "%s\n", text);
}

static const char *choice(const struct tunables *t, const char *name, char *buffer, size_t size)
{
    for (unsigned i = 0; i < tunable_count; i++)
        if (strcmp(tunable_table[i].name, name) == 0)
            return tunable_print(t, &tunable_table[i], buffer, size);
    return "?";
}

static void print_settings(const struct sim_result *r, FILE *out)
{
    const struct sim_settings *s = r->settings;
    char mapper[16], trap[16], stage[16];
    struct format size, memory;

    fprintf(out,
            "virtual %s, memory %s, %u threads, runs up to %" PRIu64 ", %u%% writes, seed %" PRIu64
            "\n",
            format_bytes(s->virtual_bytes, &size), format_bytes(r->tunables.memory, &memory),
            s->threads, s->run_max, s->write_percent, s->seed);
    fprintf(out, "mapper %s, trap %s, stage %s, store %s\n",
            choice(&r->tunables, "mapper", mapper, sizeof(mapper)),
            choice(&r->tunables, "trap", trap, sizeof(trap)),
            choice(&r->tunables, "stage", stage, sizeof(stage)), r->store);
}

static void print_speed(const struct sim_result *r, FILE *out)
{
    struct format accesses, run_rate, run_time, swept, sweep_rate, sweep_time;

    fprintf(out, "run    %s accesses in %s: %s a second\n", format_count(r->accesses, &accesses),
            format_time(r->run_ns, &run_time),
            format_count((uint64_t)per_second(r->accesses, r->run_ns), &run_rate));
    fprintf(out, "sweep  %s pages in %s: %s a second\n", format_count(r->swept, &swept),
            format_time(r->sweep_ns, &sweep_time),
            format_count((uint64_t)per_second(r->swept, r->sweep_ns), &sweep_rate));
    if (r->sampled > 0)
        fprintf(out, "       (all near any that was accessed, and %s samples of the others)\n",
                format_count(r->sampled, &swept));
    fputc('\n', out);
}

static void print_faults(const struct sim_result *r, FILE *out)
{
    const struct histogram *faults = r->detail.faults;
    uint64_t total = 0;

    for (int kind = 0; kind < FAULT_KIND_COUNT; kind++)
        total += atomic_load(&faults[kind].count);
    fprintf(out, "%-18s %12s %7s %10s %10s %10s %10s\n", "faults of the run", "count", "share",
            "p50", "p99", "p99.9", "max");
    for (enum fault_kind kind = 0; kind < FAULT_KIND_COUNT; kind++) {
        const struct histogram *h = &faults[kind];
        struct format count, p50, p99, p999, max;
        uint64_t n = atomic_load(&h->count);

        if (n == 0)
            continue;
        fprintf(out, "  %-16s %12s %6.1f%% %10s %10s %10s %10s\n", fault_kind_name(kind),
                format_count(n, &count), percent(n, total),
                format_time(histogram_percentile(h, 0.5), &p50),
                format_time(histogram_percentile(h, 0.99), &p99),
                format_time(histogram_percentile(h, 0.999), &p999),
                format_time(atomic_load(&h->max), &max));
    }
}

static void print_waits(const struct sim_result *r, FILE *out)
{
    struct format total, share, frames, waits;
    uint64_t ns = 0;

    for (int kind = 0; kind < FAULT_KIND_COUNT; kind++)
        ns += atomic_load(&r->detail.faults[kind].total);
    fprintf(out, "  threads waited %s in all, %s each; of it for frames %s (%s times)\n\n",
            format_time(ns, &total), format_time(ns / r->settings->threads, &share),
            format_time(r->run.fault_wait_ns, &frames), format_count(r->run.fault_waits, &waits));
}

static void print_pages(const struct sim_result *r, FILE *out)
{
    const struct vmsm_counters *c = &r->run;
    struct format pages, undone, repurposed, ios, slots;

    fprintf(out, "read-ahead  %s pages, hits %.1f%%, waste %.1f%%\n",
            format_count(c->readahead_pages, &pages),
            percent(c->readahead_hits, c->readahead_pages),
            percent(c->readahead_waste, c->readahead_pages));
    fprintf(out, "trimmed     %s pages: clean %.1f%%, zero %.1f%%; undone %s; repurposed %s\n",
            format_count(c->pages_trimmed, &pages),
            percent(c->pages_trimmed_clean, c->pages_trimmed),
            percent(c->pages_trimmed_zero, c->pages_trimmed),
            format_count(c->pages_trim_undone, &undone),
            format_count(c->pages_repurposed, &repurposed));
    fprintf(out, "pagefile    %s of %s slots used\n", format_count(c->slots_used, &pages),
            format_count(c->slots_total, &slots));
    fprintf(out, "  read      %s pages by %s reads\n", format_count(c->pages_read, &pages),
            format_count(c->read_ios, &ios));
    fprintf(out, "  written   %s pages by %s writes\n\n", format_count(c->pages_written, &pages),
            format_count(c->write_ios, &ios));
}

static size_t batch_rows(const struct counters *detail, struct batch_row *rows)
{
    const struct {
        const char *name;
        const struct batch_stats *stats;
    } all[] = {{"trim", &detail->trims},          {"write", &detail->writes},
               {"read", &detail->reads},          {"map", &detail->maps},
               {"first touch", &detail->touches}, {"repurpose", &detail->repurposes}};
    size_t count = sizeof(all) / sizeof(all[0]);

    for (size_t i = 0; i < count; i++)
        rows[i] = (struct batch_row){.name = all[i].name,
                                     .batches = atomic_load(&all[i].stats->batches),
                                     .items = atomic_load(&all[i].stats->items),
                                     .largest = atomic_load(&all[i].stats->largest)};
    return count;
}

/* The next class, from *class on, whose locks were taken; false if there is none. */
static bool next_used(const struct sim_result *r, enum sync_class *class)
{
    while (*class < SYNC_CLASS_COUNT && sim_locks(r, *class).acquired == 0)
        ++*class;
    return *class < SYNC_CLASS_COUNT;
}

/* Batches on the left, locks on the right. */
static void print_batches_and_locks(const struct sim_result *r, FILE *out)
{
    struct batch_row rows[8];
    size_t count = batch_rows(&r->detail, rows);
    enum sync_class class = 0;

    fprintf(out, "%-13s %10s %7s %7s   %-10s %14s %11s %10s\n", "batches", "count", "mean",
            "largest", "locks", "acquired", "contended", "waited");
    for (size_t i = 0; i < count || next_used(r, &class); i++) {
        struct format batches, acquired, contended, waited;

        if (i < count)
            fprintf(out, "  %-11s %10s %7.1f %7" PRIu64, rows[i].name,
                    format_count(rows[i].batches, &batches),
                    rows[i].batches > 0 ? (double)rows[i].items / (double)rows[i].batches : 0.0,
                    rows[i].largest);
        else
            fprintf(out, "%40s", "");
        if (next_used(r, &class)) {
            struct sim_lock_totals lock = sim_locks(r, class);

            fprintf(out, "   %-10s %14s %11s %10s", sync_class_name(class),
                    format_count(lock.acquired, &acquired),
                    format_count(lock.contended, &contended), format_time(lock.waited_ns, &waited));
            class ++;
        }
        fputc('\n', out);
    }
}

static void print_memory(const struct sim_result *r, FILE *out, bool colour)
{
    bool within = sim_memory_within(r);
    struct format peak, allowance, budget, oracle;

    fprintf(out, "memory      peak resident %s, allowance %s (budget %s, oracle %s): %s%s%s\n",
            format_bytes(r->memory.peak, &peak), format_bytes(r->memory.allowance, &allowance),
            format_bytes(r->tunables.memory, &budget), format_bytes(r->memory.oracle, &oracle),
            colour && !within ? RED : "", within ? "within" : "OVER",
            colour && !within ? PLAIN : "");
}

void report_print(const struct sim_result *r, FILE *out, bool colour)
{
    print_outcome(r, out, colour);
    print_settings(r, out);
    print_speed(r, out);
    print_faults(r, out);
    print_waits(r, out);
    print_pages(r, out);
    print_batches_and_locks(r, out);
    print_memory(r, out, colour);
}
