/*
 * bench: the same accesses over managed memory, over memory that the kernel swaps to a file or to
 * zram, and over a mapped file, with the same limit, in turn, in one run.
 *
 * In every round and for every group of cells (plan.h) each kind's process is started afresh, does
 * the fill and then the group's cells, and ends; the order of the kinds moves on by one from one to
 * the next. Nothing else runs meanwhile. Before each cell everything is synced, and a moment
 * passes. What was set up is taken down again, also after errors and signals; what was measured
 * until then is reported.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "child.h"
#include "disk.h"
#include "peer.h"
#include "plan.h"
#include "report.h"
#include "results.h"
#include "scratch.h"

#define PATH_SIZE 512
#define MIB 1048576.0
#define PROCESSES_MOST 3 /* of a group, if the kernel kills them for want of memory */

static volatile sig_atomic_t interrupted; /* the signal */

struct runner {
    const struct options *options;
    struct plan plan;
    struct results results;
    struct peer *peer;
    char pagefile[PATH_SIZE], mapped[PATH_SIZE];
    int disk_file;                        /* for fio, or -1 */
    enum memory_kind kinds[MEMORY_KINDS]; /* those that are measured */
    unsigned kind_count;
    size_t done, total;
    size_t cells, failures; /* so far */
    time_t begin;
    int status;
};

static void signal_note(int signal)
{
    interrupted = signal;
}

static void signals_catch(void)
{
    struct sigaction action = {.sa_handler = signal_note};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
}

/* Wrong data outweighs every other failure. */
static void status_note(struct runner *r, int status)
{
    if (status == STATUS_WRONG || r->status == STATUS_OK)
        r->status = status;
    r->failures += status != STATUS_OK;
}

/* Let what the last cell left behind reach the disk. A signal ends it early. */
static void disk_settle(const struct runner *r)
{
    double seconds = r->options->settle;
    struct timespec pause = {.tv_sec = (time_t)seconds};
    int fd = open(r->options->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0) {
        syncfs(fd);
        close(fd);
    }
    pause.tv_nsec = (long)((seconds - (double)pause.tv_sec) * 1e9);
    nanosleep(&pause, NULL);
}

static void progress_print(struct runner *r, uint64_t round, const char *what, const char *kind,
                           double value, const char *unit)
{
    unsigned long elapsed = (unsigned long)(time(NULL) - r->begin), whole;

    r->done++;
    whole = elapsed * r->total / r->done;
    fprintf(stderr, "%3zu%% %3lu:%02lu of %lu:%02lu  round %llu of %llu  %-38s %-8s %9.0f %s\n",
            100 * r->done / r->total, elapsed / 60, elapsed % 60, whole / 60, whole % 60,
            (unsigned long long)round + 1, (unsigned long long)r->options->rounds, what, kind,
            value, unit);
}

static const struct workload *fill_of(const struct group *group)
{
    return workload_find(group->compressible ? "fill-c" : "fill");
}

/* cell: NULL for a fill that nobody asked for, but that the others need. */
static bool cell_measure(struct runner *r, struct child *child, uint64_t round,
                         const struct workload *workload, unsigned threads, const struct cell *cell)
{
    const struct options *o = r->options;
    struct command command = {.workload = workload,
                              .threads = threads,
                              .seconds = plan_seconds(o, workload, child->setup->share),
                              .touches = plan_touches(o, workload, child->setup->share),
                              .warm_touches = plan_warm_up(o, workload, child->setup->share),
                              .warm_seconds = o->warm_up,
                              .seed = o->seed + round * 1000};
    struct answer answer;
    char what[64];
    int error;

    disk_settle(r);
    error = child_ask(child, &command, &answer);
    if (error < 0)
        return false;
    if (answer.result.wrong > 0) {
        fprintf(stderr, "bench: %s, cell %s: %llu reads were wrong\n",
                memory_kind_names[child->setup->kind], workload->name,
                (unsigned long long)answer.result.wrong);
        status_note(r, STATUS_WRONG);
        return false;
    }
    if (answer.status < 0) {
        status_note(r, STATUS_FAILED);
        return false;
    }
    if (cell == NULL)
        return true;
    *results_sample(&r->results, child->setup->kind, (size_t)(cell - r->plan.cells), round) =
        (struct sample){.done = true, .answer = answer};
    r->cells++;
    snprintf(what, sizeof(what), "%s, %u thread%s, %u %%", workload->name, cell->threads,
             cell->threads == 1 ? "" : "s", cell->share);
    progress_print(r, round, what, memory_kind_names[child->setup->kind],
                   (double)answer.result.touches / answer.result.seconds, "touches/s");
    return true;
}

/* The fill, then those of the others that have not been measured in this round. */
static bool cells_measure(struct runner *r, struct child *child, size_t group, uint64_t round)
{
    const struct group *g = &r->plan.groups[group];
    enum memory_kind kind = child->setup->kind;
    const struct cell *fill = NULL;

    for (size_t i = 0; i < r->plan.cell_count; i++)
        if (r->plan.cells[i].group == group && r->plan.cells[i].workload->pattern == FILL &&
            !results_sample(&r->results, kind, i, round)->done)
            fill = &r->plan.cells[i];
    if (!cell_measure(r, child, round, fill_of(g), g->threads, fill))
        return false;
    for (size_t i = 0; i < r->plan.cell_count; i++) {
        const struct cell *cell = &r->plan.cells[i];

        if (cell->group != group || cell->workload->pattern == FILL ||
            !plan_kind_does(r->options, kind, cell) ||
            results_sample(&r->results, kind, i, round)->done)
            continue;
        if (!cell_measure(r, child, round, cell->workload, cell->threads, cell))
            return false;
    }
    return true;
}

/* One kind's process of a group, from start to end. A kind that fails does not end the run, unless
 * its data was wrong. True: it was killed because its control group had no memory left. */
static bool process_measure(struct runner *r, size_t group, enum memory_kind kind, uint64_t round)
{
    const struct options *o = r->options;
    const struct group *g = &r->plan.groups[group];
    const struct child_setup setup = {.options = o,
                                      .kind = kind,
                                      .share = g->share,
                                      .file = kind == MAPPED ? r->mapped : r->pagefile,
                                      .peer = r->peer,
                                      .explain = r->done == r->results.disk_count,
                                      .interrupted = &interrupted};
    const struct command finish = {0};
    struct answer answer = {0};
    struct child child;
    uint64_t limit = plan_budget(o, g->share) + peer_allowance(o->region), peak;
    int status;

    if ((r->peer != NULL && peer_prepare(r->peer, kind, limit) < 0) ||
        child_start(&child, &setup) < 0) {
        status_note(r, STATUS_FAILED);
        return false;
    }
    if (cells_measure(r, &child, group, round))
        child_ask(&child, &finish, &answer);
    peak = memory_kind_managed(kind) ? answer.peak : peer_peak(r->peer);
    if (peak > r->results.peak[kind])
        r->results.peak[kind] = peak;
    status = child_end(&child);
    if (!child.killed)
        status_note(r, status);
    return child.killed;
}

/*
 * The kernel's reclaim gives a group up now and then although nearly all of its pages could be
 * dropped at once: they were used a moment ago, all of them. That says nothing of the others: a new
 * process goes on with the cell that was cut off, and the report says so.
 */
static void group_measure(struct runner *r, size_t group, enum memory_kind kind, uint64_t round)
{
    for (unsigned i = 0; i < PROCESSES_MOST; i++) {
        if (!process_measure(r, group, kind, round))
            return;
        r->results.killed[kind]++;
    }
    status_note(r, STATUS_FAILED);
}

static bool runner_goes_on(const struct runner *r)
{
    return interrupted == 0 && r->status != STATUS_WRONG;
}

static void round_measure(struct runner *r, uint64_t round)
{
    size_t failures = r->failures;

    for (size_t group = 0; group < r->plan.group_count; group++)
        for (unsigned k = 0; k < r->kind_count && runner_goes_on(r); k++) {
            enum memory_kind kind = r->kinds[(k + group + round) % r->kind_count];

            if (plan_kind_has(&r->plan, r->options, kind, group))
                group_measure(r, group, kind, round);
        }
    r->results.rounds_done += runner_goes_on(r) && r->failures == failures;
}

/* ---- The disk ---- */

static void disk_add(struct results *results, struct disk_figure figure)
{
    for (size_t i = 0; i < results->disk_count; i++) {
        const struct disk_figure *other = &results->disks[i].figure;

        if (other->random == figure.random && other->write == figure.write &&
            other->depth == figure.depth)
            return;
    }
    results->disks[results->disk_count++].figure = figure;
}

static void disks_plan(struct runner *r)
{
    struct disk_figure random = {.random = true, .block = VMSM_PAGE_SIZE, .depth = DISK_DEEP};
    struct disk_figure sequential = {.block = DISK_BLOCK, .depth = DISK_DEPTH_SEQUENTIAL};

    r->disk_file = -1;
    if (r->options->disk_seconds <= 0)
        return;
    for (size_t i = 0; i < r->options->threads.count; i++)
        disk_add(&r->results, (struct disk_figure){.random = true,
                                                   .block = VMSM_PAGE_SIZE,
                                                   .depth = r->options->threads.values[i]});
    disk_add(&r->results, random);
    disk_add(&r->results, sequential);
    sequential.write = true;
    disk_add(&r->results, sequential);
}

/* If it cannot be done once, it is not tried again. */
static void disks_measure(struct runner *r, uint64_t round)
{
    const struct options *o = r->options;

    if (r->results.disk_count > 0 && r->disk_file < 0)
        r->disk_file = disk_open(o->dir, o->region);
    for (size_t i = 0; i < r->results.disk_count && interrupted == 0; i++) {
        struct disk_series *d = &r->results.disks[i];
        char what[64];
        int error = r->disk_file < 0
                        ? r->disk_file
                        : disk_measure(r->disk_file, o->region, o->disk_seconds, &d->figure);

        if (error < 0) {
            if (error != -EINTR)
                r->results.disk_count = 0;
            return;
        }
        if (!isnan(d->figure.bytes_per_second))
            d->samples[d->count++] = d->figure.bytes_per_second;
        progress_print(r, round, disk_describe(&d->figure, what, sizeof(what)), "disk",
                       d->figure.bytes_per_second / MIB, "MiB/s");
    }
}

/* ---- All of it ---- */

/* Managed memory alone needs nothing of the system. */
static int kinds_choose(struct runner *r)
{
    const struct options *o = r->options;
    const struct peer_options options = {.dir = o->dir, .length = o->region};
    const char *missing[MEMORY_KINDS] = {0};
    bool peers = false;

    for (unsigned k = MEMORY_PEER; k < MEMORY_KINDS; k++)
        peers = peers || o->kinds[k];
    if (peers && peer_open(&r->peer, &options, missing) < 0) {
        fprintf(stderr, "bench: no memory to look for the peers\n");
        return STATUS_FAILED;
    }
    for (unsigned k = 0; k < MEMORY_KINDS; k++) {
        if (o->kinds[k] && missing[k] != NULL) {
            fprintf(stderr, "bench: %s is left out: %s\n", memory_kind_names[k], missing[k]);
            r->results.missing[k] = strdup(missing[k]);
        } else if (o->kinds[k]) {
            r->kinds[r->kind_count++] = k;
        }
    }
    if (r->kind_count > 0)
        return STATUS_OK;
    fprintf(stderr, "bench: no kind of memory is left to measure\n");
    return STATUS_FAILED;
}

static int file_make(char *path, const struct options *o, const char *suffix, uint64_t size)
{
    int error;

    snprintf(path, PATH_SIZE, "%s/vmsm-bench-%d%s.pages", o->dir, (int)getpid(), suffix);
    error = scratch_make(path, size);
    if (error == 0)
        return STATUS_OK;
    fprintf(stderr, "bench: cannot make the file %s (%.0f MiB): %s\n", path, (double)size / MIB,
            strerror(-error));
    path[0] = '\0';
    return STATUS_FAILED;
}

/* The peers' own are made, and removed, by them. */
static int files_make(struct runner *r)
{
    bool managed = false, mapped = false;
    int status = STATUS_OK;

    for (unsigned k = 0; k < r->kind_count; k++) {
        managed = managed || memory_kind_managed(r->kinds[k]);
        mapped = mapped || r->kinds[k] == MAPPED;
    }
    if (managed)
        status = file_make(r->pagefile, r->options, "", r->options->region / 2 * 3);
    if (mapped && status == STATUS_OK)
        status = file_make(r->mapped, r->options, "-mapped", r->options->region);
    return status;
}

static void files_remove(const struct runner *r)
{
    if (r->pagefile[0] != '\0')
        unlink(r->pagefile);
    if (r->mapped[0] != '\0')
        unlink(r->mapped);
}

static void peers_close(struct runner *r)
{
    if (r->peer == NULL)
        return;
    for (unsigned k = 0; k < r->kind_count; k++) {
        const char *note = peer_note(r->peer, r->kinds[k]);

        if (note[0] != '\0')
            r->results.notes[r->kinds[k]] = strdup(note);
    }
    peer_close(r->peer);
}

static void total_count(struct runner *r)
{
    for (size_t i = 0; i < r->plan.cell_count; i++)
        for (unsigned k = 0; k < r->kind_count; k++)
            r->total += plan_kind_does(r->options, r->kinds[k], &r->plan.cells[i]);
    r->total = (r->total + r->results.disk_count) * r->options->rounds;
}

static void announce(const struct runner *r)
{
    const struct options *o = r->options;
    double seconds = plan_duration(&r->plan, o, r->kinds, r->kind_count);

    fprintf(stderr,
            "bench: %s form: %zu cell%s, %u kind%s of memory, %llu round%s, %.0f MiB; about %.0f %s"
            "%s\n",
            o->full ? "full" : "short", r->plan.cell_count, r->plan.cell_count == 1 ? "" : "s",
            r->kind_count, r->kind_count == 1 ? "" : "s", (unsigned long long)o->rounds,
            o->rounds == 1 ? "" : "s", (double)o->region / MIB,
            seconds < 100 ? seconds : seconds / 60, seconds < 100 ? "seconds" : "minutes",
            o->full ? "" : " (--full does all workloads, threads and memory shares)");
}

static int runner_open(struct runner *r, const struct options *o)
{
    int status;

    r->options = o;
    r->begin = time(NULL);
    if (plan_make(&r->plan, o) < 0)
        return STATUS_USAGE;
    if (results_open(&r->results, o, &r->plan) < 0)
        return STATUS_FAILED;
    status = kinds_choose(r);
    if (status == STATUS_OK)
        status = files_make(r);
    disks_plan(r);
    total_count(r);
    return status;
}

int main(int argc, char **argv)
{
    struct options options;
    struct runner r = {0};

    options_parse(&options, argc, argv);
    if (report_prepare(&options) < 0)
        return STATUS_FAILED;
    signals_catch();
    r.status = runner_open(&r, &options);
    if (r.status == STATUS_OK) {
        announce(&r);
        for (uint64_t round = 0; round < options.rounds && runner_goes_on(&r); round++) {
            disks_measure(&r, round);
            round_measure(&r, round);
            if (r.cells == 0)
                break; /* nor would it go in another round */
        }
    }
    if (r.disk_file >= 0)
        close(r.disk_file);
    peers_close(&r);
    files_remove(&r);
    r.results.interrupted = interrupted != 0;
    if (r.kind_count > 0 && report_all(&r.results) < 0)
        status_note(&r, STATUS_FAILED);
    results_close(&r.results);
    plan_free(&r.plan);
    return interrupted != 0 && r.status != STATUS_WRONG ? 128 + interrupted : r.status;
}
