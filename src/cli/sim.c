/*
 * The command sim: threads access a region at random, an oracle that lies
 * outside managed memory checks every access, and at the end every page.
 */
#include "cli/sim.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/console.h"
#include "cli/format.h"
#include "cli/oracle.h"
#include "cli/output.h"
#include "cli/proc_text.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "cli/sim_options.h"
#include "cli/workload.h"
#include "core/error.h"

#define TICK_NS TUNABLE_SECOND
#define FAILURES_MAX 1000 /* failed accesses that end a run which no clock ends */

struct sim {
    const struct sim_settings *settings;
    struct vmsm *manager;
    struct oracle oracle;
    struct workload load;
    struct progress progress;
    struct sim_result *result;
    unsigned signals; /* SIGINT and SIGTERM so far */
    sigset_t ends;    /* SIGINT and SIGTERM */
    sigset_t awaited; /* those, and the SIGUSR1 of the last worker */
};

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * TUNABLE_SECOND + (uint64_t)now.tv_nsec;
}

struct sim_lock_totals sim_locks(const struct sim_result *r, enum sync_class class)
{
    struct sim_lock_totals totals = {0};

    for (unsigned i = 0; i < SYNC_SHARDS; i++) {
        totals.acquired += atomic_load(&r->locks[i].acquired[class]);
        totals.contended += atomic_load(&r->locks[i].contended[class]);
        totals.waited_ns += atomic_load(&r->locks[i].waited_ns[class]);
    }
    return totals;
}

bool sim_memory_within(const struct sim_result *r)
{
    return r->memory.peak <= r->memory.allowance;
}

static bool sweep_whole(const struct sim_result *r)
{
    return r->swept + r->sweep_failed >= r->sweep_pages;
}

static const char *outcome_unchecked(const struct sim_result *r, const char *books,
                                     const char *early, char *buffer, size_t size)
{
    struct format checked, all, failed;
    const char *why = r->sweep_gave_up ? "that was too many" : "then a signal ended the sweep";

    snprintf(
        buffer, size,
        "INCOMPLETE: not all pages could be checked: %s of %s were, and right; %s could not be "
        "had, %s; %s%s",
        format_count(r->swept, &checked), format_count(r->sweep_pages, &all),
        r->sweep_failed > 0 ? format_count(r->sweep_failed, &failed) : "none", why, books, early);
    return buffer;
}

const char *sim_outcome(const struct sim_result *r, char *buffer, size_t size)
{
    struct format accesses, swept, failed, pages;
    const char *books = r->balanced ? "books balanced" : r->books;
    const char *early = r->gave_up       ? " (ended early: too many failures)"
                        : r->interrupted ? " (ended early)"
                                         : "";

    if (r->wrong_accesses > 0)
        snprintf(
            buffer, size,
            "WRONG DATA: pages that did not hold what was written: %s (met by %s accesses), %s%s",
            format_count(r->wrong_pages, &pages), format_count(r->wrong_accesses, &accesses), books,
            early);
    else if (!sweep_whole(r))
        return outcome_unchecked(r, books, early, buffer, size);
    else if (r->failed + r->sweep_failed > 0)
        snprintf(buffer, size,
                 "FAILED: %s accesses did not get their page (%s of them in the sweep); the "
                 "others were right, %s%s",
                 format_count(r->failed + r->sweep_failed, &failed),
                 format_count(r->sweep_failed, &swept), books, early);
    else
        snprintf(buffer, size, "%sall %s accesses and %s swept pages right, %s%s",
                 r->balanced ? "" : "BOOKS WRONG: ", format_count(r->accesses, &accesses),
                 format_count(r->swept, &swept), books, early);
    return buffer;
}

static enum status judge(const struct sim_result *r)
{
    if (r->wrong_accesses > 0 || !r->balanced)
        return STATUS_WRONG;
    if (!sweep_whole(r))
        return STATUS_UNCHECKED;
    return r->failed + r->sweep_failed > 0 ? STATUS_CANNOT : STATUS_RIGHT;
}

/* The most that touched pages and used slots came to, for the allowance. */
static void watch_memory(struct sim *sim, const struct vmsm_counters *c)
{
    struct sim_memory *m = &sim->result->memory;

    if (c->touched_pages > m->touched)
        m->touched = c->touched_pages;
    if (c->slots_used > m->slots)
        m->slots = c->slots_used;
}

static void tick(struct sim *sim, enum workload_phase phase, uint64_t now)
{
    struct workload_totals totals = workload_totals(&sim->load);
    struct vmsm_counters counters;

    vmsm_get_counters(sim->manager, &counters);
    watch_memory(sim, &counters);
    if (sim->settings->quiet)
        return;
    if (phase == WORKLOAD_RUN)
        progress_show(&sim->progress, now, totals.accesses, &counters);
    else
        progress_show_sweep(&sim->progress, now, totals.swept, sim->load.sweep_pages, &counters);
}

/* Sleep until a signal that is awaited or the time; the signal, or 0. */
static int wait_signal(const struct sim *sim, uint64_t until)
{
    uint64_t now = now_ns(), left = until > now ? until - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(left / TUNABLE_SECOND),
                               .tv_nsec = (long)(left % TUNABLE_SECOND)};
    int number = sigtimedwait(&sim->awaited, NULL, &timeout);

    return number > 0 ? number : 0;
}

/*
 * SIGINT or SIGTERM: the first ends the run, the second the sweep, and a third kills, as it would
 * have without us (a thread may be waiting for a page for as long as `patience`).
 */
static void signal_received(struct sim *sim, enum workload_phase phase)
{
    sim->signals++;
    if (sim->signals == 1 && phase == WORKLOAD_RUN) {
        console_line("ending early, with the sweep and the report; once more to end without the "
                     "sweep");
        sim->result->interrupted = true;
    } else if (sim->signals == 1) {
        console_line("the run is over, its pages are being checked; once more to end that too");
        return;
    } else {
        console_line("ending without checking the remaining pages; once more to be killed");
        pthread_sigmask(SIG_UNBLOCK, &sim->ends, NULL);
    }
    workload_stop(&sim->load);
}

/* Until all threads of the phase have ended: show progress, mind the clock and Ctrl-C. */
static void phase_wait(struct sim *sim, enum workload_phase phase, uint64_t deadline)
{
    uint64_t next_tick = now_ns() + TICK_NS;

    while (workload_running(&sim->load)) {
        int number = wait_signal(sim, next_tick < deadline ? next_tick : deadline);
        uint64_t now = now_ns();

        if (number == SIGINT || number == SIGTERM)
            signal_received(sim, phase);
        if (now >= deadline) {
            workload_stop(&sim->load);
            deadline = UINT64_MAX;
        }
        if (now >= next_tick) {
            tick(sim, phase, now);
            next_tick += TICK_NS;
        }
    }
}

static int phase_run(struct sim *sim, enum workload_phase phase, uint64_t time_ns, uint64_t *took)
{
    uint64_t start = now_ns();
    int result = workload_start(&sim->load, phase);

    if (result != 0)
        return result;
    phase_wait(sim, phase, time_ns > 0 ? start + time_ns : UINT64_MAX);
    workload_join(&sim->load);
    *took = now_ns() - start;
    return 0;
}

static uint64_t peak_resident(void)
{
    FILE *file = fopen("/proc/self/status", "re");
    uint64_t kib = 0;

    if (file == NULL)
        return 0;
    (void)!proc_number(file, "VmHWM", 10, &kib);
    fclose(file);
    return kib * 1024;
}

static void judge_memory(struct sim *sim)
{
    struct sim_result *r = sim->result;
    struct sim_memory *m = &r->memory;
    uint64_t budget = r->tunables.memory;

    watch_memory(sim, &r->last);
    m->peak = peak_resident();
    m->oracle = oracle_bytes(&sim->oracle);
    m->allowance = budget + budget / 20 + 8 * m->touched + 64 * (budget / VMSM_PAGE_SIZE) +
                   (r->tunables.encrypt ? 40 : 16) * m->slots + 16 * TUNABLE_MIB + m->oracle;
}

/* What the run came to, taken before the sweep adds its own. */
static void snapshot_run(struct sim *sim)
{
    struct workload_totals totals = workload_totals(&sim->load);
    struct sim_result *r = sim->result;

    r->accesses = totals.accesses;
    r->writes = totals.writes;
    r->failed = totals.failed;
    r->gave_up = atomic_load(&sim->load.gave_up);
    vmsm_get_counters(sim->manager, &r->run);
    watch_memory(sim, &r->run);
    counters_copy(&r->detail, vmsm_counters_of(sim->manager), sizeof(r->detail));
    counters_copy(r->locks, vmsm_sync(sim->manager)->stats, sizeof(r->locks));
}

static void snapshot_end(struct sim *sim)
{
    struct workload_totals totals = workload_totals(&sim->load);
    struct sim_result *r = sim->result;

    r->swept = totals.swept;
    r->sweep_pages = sim->load.sweep_pages;
    r->sampled = sim->load.sampled;
    r->sweep_failed = totals.failed - r->failed;
    r->torn = atomic_load(&sim->load.torn);
    r->wrong_accesses = atomic_load(&sim->oracle.wrong_accesses);
    r->wrong_pages = atomic_load(&sim->oracle.wrong_pages);
    r->balanced = vmsm_check(sim->manager) == 0;
    if (!r->balanced)
        snprintf(r->books, sizeof(r->books), "the books do not balance: %s", vmsm_last_error());
    vmsm_get_counters(sim->manager, &r->last);
    judge_memory(sim);
    r->status = judge(r);
}

static int phases_run(struct sim *sim)
{
    struct sim_result *r = sim->result;
    int result;

    progress_init(&sim->progress, now_ns());
    result = phase_run(sim, WORKLOAD_RUN, sim->settings->time_ns, &r->run_ns);
    if (result == 0) {
        snapshot_run(sim);
        workload_plan_sweep(&sim->load);
    }
    if (result == 0 && sim->signals < 2) {
        result = phase_run(sim, WORKLOAD_SWEEP, 0, &r->sweep_ns);
        r->sweep_gave_up = atomic_load(&sim->load.gave_up);
    }
    console_clear();
    if (result == 0)
        snapshot_end(sim);
    return result;
}

/* Blocked before the manager's threads are made, so that theirs are too. */
static void signals_block(struct sim *sim)
{
    sigemptyset(&sim->ends);
    sigaddset(&sim->ends, SIGINT);
    sigaddset(&sim->ends, SIGTERM);
    sim->awaited = sim->ends;
    sigaddset(&sim->awaited, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &sim->awaited, NULL);
}

static int machine_make(struct sim *sim)
{
    const struct sim_settings *s = sim->settings;
    void *address;
    int result;

    result = vmsm_create_tuned(&sim->manager, &s->tunables);
    if (result != 0)
        return result;
    result = vmsm_map(sim->manager, s->virtual_bytes, &address);
    if (result != 0)
        return result;
    sim->result->tunables = *vmsm_tunables(sim->manager);
    snprintf(sim->result->store, sizeof(sim->result->store), "%s", vmsm_store_name(sim->manager));
    sim->load = (struct workload){
        .access = {.manager = sim->manager,
                   .base = address,
                   .soft = sim->result->tunables.mapper == MAPPER_SOFT},
        .oracle = &sim->oracle,
        .pages = s->virtual_bytes / VMSM_PAGE_SIZE,
        .run_max = s->run_max,
        .seed = s->seed,
        .accesses = s->accesses,
        .threads = s->threads,
        .write_percent = s->write_percent,
        .failures_max = s->time_ns == 0 ? FAILURES_MAX : 0,
    };
    return 0;
}

static int sim_execute(const struct sim_settings *settings, struct sim_result *result)
{
    struct sim sim = {.settings = settings, .result = result};
    int error;

    signals_block(&sim);
    error = access_guard_install();
    if (error == 0)
        error = oracle_open(&sim.oracle, settings->seed, settings->virtual_bytes / VMSM_PAGE_SIZE);
    if (error == 0)
        error = machine_make(&sim);
    if (error == 0)
        error = phases_run(&sim);
    if (error != 0)
        fprintf(stderr, "vmsm sim: %s\n", error_last());
    vmsm_destroy(sim.manager);
    workload_free(&sim.load);
    oracle_close(&sim.oracle);
    return error;
}

static enum status result_publish(const struct sim_result *result)
{
    const char *path = result->settings->json;
    FILE *out = output_is_stdout(path) ? stderr : stdout;
    int error = 0;
    json_t *json;

    report_print(result, out);
    if (path == NULL)
        return result->status;
    json = report_json(result);
    error = json != NULL ? output_write(path, json)
                         : error_set(-ENOMEM, "no memory for the JSON report");
    json_decref(json);
    if (error == 0)
        return result->status;
    fprintf(stderr, "vmsm sim: %s\n", error_last());
    return result->status != STATUS_RIGHT ? result->status : STATUS_CANNOT;
}

static int sim_main(const struct sim_settings *settings)
{
    struct sim_result *result;
    enum status status;
    int error;

    if (settings->json != NULL && output_check(settings->json) != 0) {
        fprintf(stderr, "vmsm sim: %s\n", error_last());
        return STATUS_CANNOT;
    }
    result = calloc(1, sizeof(*result));
    if (result == NULL) {
        fprintf(stderr, "vmsm sim: no memory\n");
        return STATUS_CANNOT;
    }
    result->settings = settings;
    error = sim_execute(settings, result);
    if (error == 0)
        status = result_publish(result);
    else
        status = error == -EINVAL || error == -ERANGE ? STATUS_USAGE : STATUS_CANNOT;
    free(result);
    return (int)status;
}

static int sim_run(const struct command *command, int argc, char **argv)
{
    struct sim_settings settings;

    sim_settings_init(&settings);
    switch (options_parse(command, &settings, &settings.tunables, argc, argv)) {
    case OPTIONS_DONE:
        return STATUS_RIGHT;
    case OPTIONS_WRONG:
        return STATUS_USAGE;
    case OPTIONS_RUN:
        break;
    }
    if (sim_settings_finish(&settings) != 0) {
        fprintf(stderr, "vmsm sim: %s\n", error_last());
        return STATUS_USAGE;
    }
    if (settings.show) {
        sim_settings_show(&settings, stdout);
        return STATUS_RIGHT;
    }
    return sim_main(&settings);
}

static const char *const defaults[] = {"memory", "a third of --virtual", NULL};

static const char *const examples[] = {
    "vmsm sim --seconds 20",
    "1 GiB of memory in a third of it, 8 threads, for 20 seconds",
    "vmsm sim --virtual 4G --memory 512M --write 50 --run-max 1",
    "single pages, half of them written",
    "vmsm sim --preset small,harsh-disk --stage basic",
    "8 MiB over a slow disk, with coarse locks and no batching",
    "vmsm sim --seed 7 --accesses 1000000 --json report.json",
    "a run that can be repeated, and its report for a program",
    "vmsm sim --mapper soft --seconds 5",
    "without userfaultfd: a software MMU",
    NULL,
};

const struct command sim_command = {
    .name = "sim",
    .summary = "exercise the machine with random accesses and prove that nothing is lost",
    .description =
        "Threads pick random pages of a region and access runs of them, reading and writing, while "
        "the machine moves pages between memory and the pagefile. An oracle outside managed memory "
        "knows what every page must hold, checks every access, and at the end every page (of a "
        "region "
        "over 4 GiB those that may have been accessed, and samples of the others). Ctrl-C ends a "
        "run early, with that check and the report; a second one ends the check.",
    .options = sim_options,
    .tunables = true,
    .defaults = defaults,
    .examples = examples,
    .run = sim_run,
};
