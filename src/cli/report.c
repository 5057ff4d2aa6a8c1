#include "cli/report.h"

#include <inttypes.h>
#include <string.h>

#include "cli/console.h"
#include "cli/format.h"

#define REPORT_WIDE 94   /* columns of the widest table */
#define REPORT_MEDIUM 76 /* of all columns of the faults */

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

/* As many of the columns of times as there is room for. */
static void print_fault_row(const struct histogram *h, FILE *out, int width)
{
    const double shares[] = {0.5, 0.99, 0.999};
    struct format text;

    for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++)
        if (i != 2 || width >= REPORT_MEDIUM)
            fprintf(out, " %9s", format_time(histogram_percentile(h, shares[i]), &text));
    fprintf(out, " %9s\n", format_time(atomic_load(&h->max), &text));
}

static void print_faults(const struct sim_result *r, FILE *out, int width)
{
    const struct histogram *faults = r->detail.faults;
    uint64_t total = 0;

    for (int kind = 0; kind < FAULT_KIND_COUNT; kind++)
        total += atomic_load(&faults[kind].count);
    fprintf(out, "%-18s %10s %6s %9s %9s", "faults of the run", "count", "share", "p50", "p99");
    fprintf(out, width >= REPORT_MEDIUM ? " %9s %9s\n" : "%.0s %9s\n", "p99.9", "max");
    for (enum fault_kind kind = 0; kind < FAULT_KIND_COUNT; kind++) {
        const struct histogram *h = &faults[kind];
        uint64_t n = atomic_load(&h->count);
        struct format count;

        if (n == 0)
            continue;
        fprintf(out, "  %-16s %10s %5.1f%%", fault_kind_name(kind), format_count(n, &count),
                percent(n, total));
        print_fault_row(h, out, width);
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

/* Pages mapped before they were asked for, by where they came from and what became of them. */
static void print_ahead(const struct vmsm_counters *c, FILE *out)
{
    uint64_t touched = c->pages_first_touch - c->faults_first_touch;
    uint64_t others = touched + c->pages_rescued_ahead;
    uint64_t read = c->readahead_pages > others ? c->readahead_pages - others : 0;
    uint64_t known = c->readahead_hits + c->readahead_waste;
    uint64_t unknown = c->readahead_pages > known ? c->readahead_pages - known : 0;
    struct format all, reads, rescues, touches;

    fprintf(out, "mapped ahead  %s pages: %s read, %s rescued, %s first touches\n",
            format_count(c->readahead_pages, &all), format_count(read, &reads),
            format_count(c->pages_rescued_ahead, &rescues), format_count(touched, &touches));
    fprintf(out, "  of them     used %.1f%%, trimmed unused %.1f%%, not known %.1f%%\n",
            percent(c->readahead_hits, c->readahead_pages),
            percent(c->readahead_waste, c->readahead_pages), percent(unknown, c->readahead_pages));
}

static void print_pages(const struct sim_result *r, FILE *out)
{
    const struct vmsm_counters *c = &r->run;
    struct format pages, undone, repurposed, ios, slots;

    print_ahead(c, out);
    fprintf(out, "trimmed       %s pages: clean %.1f%%, zero %.1f%%; undone %s; repurposed %s\n",
            format_count(c->pages_trimmed, &pages),
            percent(c->pages_trimmed_clean, c->pages_trimmed),
            percent(c->pages_trimmed_zero, c->pages_trimmed),
            format_count(c->pages_trim_undone, &undone),
            format_count(c->pages_repurposed, &repurposed));
    fprintf(
        out,
        "  unchanged   %s left at once, protected since they were read; %s are written all the\n"
        "              same, with changed neighbours\n",
        format_count(c->pages_trimmed_at_once, &undone),
        format_count(c->pages_trimmed_joined, &pages));
    fprintf(out, "pagefile      %s of %s slots used\n", format_count(c->slots_used, &pages),
            format_count(c->slots_total, &slots));
    fprintf(out, "  read        %s pages in %s requests\n", format_count(c->pages_read, &pages),
            format_count(c->read_ios, &ios));
    fprintf(out, "  written     %s pages in %s requests\n", format_count(c->pages_written, &pages),
            format_count(c->write_ios, &ios));
}

/* What went wrong, recovered from or not, the sweep included; nothing if nothing did. */
static void print_errors(const struct sim_result *r, FILE *out, bool colour)
{
    const struct vmsm_counters *c = &r->last;
    const struct {
        const char *name;
        uint64_t value;
    } all[] = {{"hashes that differed", c->hash_errors},
               {"pages that did not decrypt", c->decrypt_errors},
               {"reads repeated", c->read_retries},
               {"reads given up", c->read_errors},
               {"writes failed", c->write_errors},
               {"slots withdrawn", c->slots_bad},
               {"pages lost", c->pages_lost},
               {"faults given up", c->faults_failed}};
    const char *before = "errors        ";
    struct format count;

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (all[i].value == 0)
            continue;
        fprintf(out, "%s%s%s %s%s", before, colour ? RED : "", all[i].name,
                format_count(all[i].value, &count), colour ? PLAIN : "");
        before = ", ";
    }
    if (before[0] == ',')
        fputs(" (sweep included)\n", out);
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

static void print_batch(const struct batch_row *row, FILE *out)
{
    struct format batches;

    fprintf(out, "  %-11s %10s %7.1f %7" PRIu64, row->name, format_count(row->batches, &batches),
            row->batches > 0 ? (double)row->items / (double)row->batches : 0.0, row->largest);
}

static void print_lock(const struct sim_result *r, enum sync_class class, FILE *out)
{
    struct sim_lock_totals lock = sim_locks(r, class);
    struct format acquired, contended, waited;

    fprintf(out, "  %-10s %14s %11s %10s", sync_class_name(class),
            format_count(lock.acquired, &acquired), format_count(lock.contended, &contended),
            format_time(lock.waited_ns, &waited));
}

/* Batches on the left, locks on the right; on a narrow terminal one below the other. */
static void print_batches_and_locks(const struct sim_result *r, FILE *out, int width)
{
    bool beside = width >= REPORT_WIDE;
    struct batch_row rows[8];
    size_t count = batch_rows(&r->detail, rows);
    enum sync_class class = 0;

    fprintf(out, "\n%-13s %10s %7s %7s", "batches", "count", "mean", "largest");
    if (beside)
        fprintf(out, "  %-12s %14s %11s %10s", "locks", "acquired", "waited for", "time");
    fputc('\n', out);
    for (size_t i = 0; i < count || (beside && next_used(r, &class)); i++) {
        if (i < count)
            print_batch(&rows[i], out);
        else
            fprintf(out, "%40s", "");
        if (beside && next_used(r, &class)) {
            fputs("  ", out);
            print_lock(r, class ++, out);
        }
        fputc('\n', out);
    }
    if (beside)
        return;
    fprintf(out, "%-12s %14s %11s %10s\n", "locks", "acquired", "waited for", "time");
    for (; next_used(r, &class); class ++) {
        print_lock(r, class, out);
        fputc('\n', out);
    }
}

static void print_memory(const struct sim_result *r, FILE *out, bool colour)
{
    bool within = sim_memory_within(r);
    struct format peak, allowance, budget, oracle;

    fprintf(out, "memory        peak resident %s (sweep included): %s%s%s the allowance of %s\n",
            format_bytes(r->memory.peak, &peak), colour && !within ? RED : "",
            within ? "within" : "OVER", colour && !within ? PLAIN : "",
            format_bytes(r->memory.allowance, &allowance));
    fprintf(out, "              (budget %s, tables and buffers, oracle %s)\n",
            format_bytes(r->tunables.memory, &budget), format_bytes(r->memory.oracle, &oracle));
}

void report_print(const struct sim_result *r, FILE *out)
{
    bool colour = terminal_colour(out);
    int width = terminal_width(out);

    if (width == 0)
        width = REPORT_WIDE;
    print_outcome(r, out, colour);
    print_settings(r, out);
    print_speed(r, out);
    print_faults(r, out, width);
    print_waits(r, out);
    print_pages(r, out);
    print_batches_and_locks(r, out, width);
    print_errors(r, out, colour);
    print_memory(r, out, colour);
}
