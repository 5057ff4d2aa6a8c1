/*
 * One case, seen from outside: start it, disturb it, see that it gets on, judge its end.
 *
 * A hang: a thread that should be getting on has made no step for so long that no slow disk and
 * no stop of ours explains it. Then all stacks are printed, and the case has failed. A slow case is
 * never a failure.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/counters.h"
#include "core/error.h"
#include "disturb.h"
#include "torture.h"

#define TICK_NS (3 * MILLISECOND)
#define LOG_TAIL 3000 /* bytes of the log that are shown after a failure */

struct watch {
    const struct plan *plan;
    const struct places *places;
    struct report *report;
    struct verdict *verdict;
    struct disturb disturb;
    pid_t pid;
    uint64_t hang_ns;
    uint64_t steps[THREADS_MAX + 1];   /* as last seen */
    uint64_t changed[THREADS_MAX + 1]; /* ns: when they last went up, or were not asked to */
};

uint64_t torture_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

void torture_sleep(uint64_t ns)
{
    struct timespec time = {.tv_sec = (time_t)(ns / SECOND), .tv_nsec = (long)(ns % SECOND)};

    nanosleep(&time, NULL);
}

static void log_path(const struct watch *w, char path[512])
{
    snprintf(path, 512, "%s/log", w->places->work);
}

/* ---- hangs ---- */

static void show_file(pid_t pid, pid_t thread, const char *name)
{
    char path[128], text[2048];
    ssize_t got = -1;
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", (int)pid, (int)thread, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        got = read(fd, text, sizeof(text) - 1);
        close(fd);
    }
    if (got < 0)
        got = 0;
    text[got] = '\0';
    fprintf(stderr, "    %s %s: %s\n", path, got > 0 ? "says" : "says nothing", text);
}

static void show_kernel_side(pid_t pid)
{
    static const char *const names[] = {"comm", "wchan", "syscall", "stack"};
    char command[128];
    FILE *list;
    int thread;

    snprintf(command, sizeof(command), "ls /proc/%d/task", (int)pid);
    list = popen(command, "re");
    while (list != NULL && fscanf(list, "%d", &thread) == 1) {
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
            show_file(pid, thread, names[i]);
    }
    if (list != NULL)
        pclose(list);
}

static void show_counters(const struct report *r)
{
    struct vmsm_counters c;

    counters_copy(&c, &r->counters, sizeof(c));
    for (unsigned i = 0; i < COUNTER_TOTAL; i++) {
        uint64_t value;

        memcpy(&value, (const char *)&c + counter_table[i].offset, sizeof(value));
        if (value > 0)
            fprintf(stderr, "    %-20s %llu\n", counter_table[i].name, (unsigned long long)value);
    }
}

static void show_hang(const struct watch *w, unsigned thread)
{
    char command[256];

    fprintf(stderr, "torture: thread %u made no step for %llu s; the counters, as last read:\n",
            thread, (unsigned long long)(w->hang_ns / SECOND));
    show_counters(w->report);
    snprintf(
        command, sizeof(command),
        "command -v gdb >/dev/null && timeout 60 gdb -p %d -batch -nx -ex 'set pagination off' "
        "-ex 'thread apply all backtrace 20' </dev/null 1>&2",
        (int)w->pid);
    if (system(command) != 0)
        fprintf(stderr, "torture: no gdb, or it failed; what the kernel says:\n");
    show_kernel_side(w->pid);
}

/* The number of a thread that hangs, or -1. */
static int find_hang(struct watch *w)
{
    uint64_t now = torture_now(), paused = w->disturb.paused_ns;

    for (unsigned i = 0; i <= THREADS_MAX; i++) {
        uint64_t steps = atomic_load_explicit(&w->report->steps[i], memory_order_relaxed);

        /* Time during which we stopped it does not count. */
        if (!atomic_load(&w->report->busy[i]) || steps != w->steps[i])
            w->changed[i] = now - paused;
        w->steps[i] = steps;
        if (now - paused - w->changed[i] > w->hang_ns)
            return (int)i;
    }
    return -1;
}

/* ---- the process ---- */

static int case_main(const struct watch *w, const struct plan *plan)
{
    char path[512];
    int log;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    log_path(w, path);
    log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0 || dup2(log, STDERR_FILENO) < 0)
        return STATUS_SETUP;
    log_use_descriptor(log);
    fprintf(stderr, "settings: %s; %u threads, %u areas of up to %zu pages\n", plan->conf,
            plan->threads, plan->areas, plan->area_pages);
    if (disturb_join(plan, w->places) != 0) {
        snprintf(w->report->words, WORDS_MAX, "the control group cannot be joined");
        return STATUS_WRONG;
    }
    return mix_run(plan, w->report);
}

static int case_start(struct watch *w, const struct plan *plan)
{
    struct report *r = w->report;
    uint64_t now;

    memset(r, 0, sizeof(*r));
    fflush(NULL);
    w->pid = fork();
    if (w->pid == 0)
        _exit(case_main(w, plan));
    if (w->pid < 0) {
        snprintf(w->verdict->words, WORDS_MAX, "fork: %s", strerror(errno));
        return -1;
    }
    w->disturb.pid = w->pid;
    now = torture_now();
    for (unsigned i = 0; i <= THREADS_MAX; i++) {
        w->steps[i] = 0;
        w->changed[i] = now - w->disturb.paused_ns;
    }
    return 0;
}

/* Until the process ends, or `until`, or a hang; its status, or -1 if it has not ended. */
static int case_attend(struct watch *w, uint64_t until)
{
    int status;

    for (;;) {
        int hung;

        if (waitpid(w->pid, &status, WNOHANG) == w->pid)
            return status;
        if (torture_now() >= until || torture_interrupted)
            return -1;
        disturb_tick(&w->disturb);
        hung = find_hang(w);
        if (hung >= 0) {
            show_hang(w, (unsigned)hung);
            w->verdict->wrong = true;
            snprintf(w->verdict->words, WORDS_MAX, "HANG: thread %d does not get on", hung);
            return -1;
        }
        torture_sleep(TICK_NS);
    }
}

static void case_kill(struct watch *w)
{
    int status;

    kill(w->pid, SIGKILL);
    waitpid(w->pid, &status, 0);
}

static void case_add_up(struct watch *w)
{
    const struct report *r = w->report;
    struct verdict *v = w->verdict;
    struct vmsm_counters c;

    counters_copy(&c, &r->counters, sizeof(c));
    v->accesses += atomic_load(&r->accesses);
    v->failed += atomic_load(&r->failed);
    v->faults += c.faults_first_touch + c.faults_standby + c.faults_modified + c.faults_writing +
                 c.faults_hard + c.faults_protect;
    v->store_errors += c.read_retries + c.read_errors + c.write_errors + c.hash_errors;
    if (atomic_load(&r->wrong) > 0)
        v->wrong = true;
    if (r->words[0] != '\0' && v->words[0] == '\0')
        memcpy(v->words, r->words, WORDS_MAX);
}

static void judge(struct watch *w, int status)
{
    struct verdict *v = w->verdict;

    if (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_RIGHT)
        return;
    if (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_SETUP) {
        v->skipped = !v->wrong;
        return;
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && disturb_killed(&w->disturb)) {
        v->killed = true;
        if (w->plan->flags & PHASE_SQUEEZE)
            return;
        snprintf(v->words, WORDS_MAX,
                 "killed for want of memory, though the limit is the allowance");
    } else if (WIFSIGNALED(status)) {
        snprintf(v->words, WORDS_MAX, "died of signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    }
    v->wrong = true;
}

/* ---- kinds of cases ---- */

static void run_once(struct watch *w, const struct plan *plan)
{
    int status;

    if (case_start(w, plan) != 0) {
        w->verdict->wrong = true;
        return;
    }
    status = case_attend(w, UINT64_MAX);
    case_add_up(w);
    if (status < 0)
        case_kill(w);
    else
        judge(w, status);
}

/*
 * Killed at random moments, and started again on what it left. The dead runs' content is still in
 * the slots. It must never be served: a run reads only slots that it has written itself since it
 * started (a page's PTE names a slot only then), and would know the content of another run by its
 * hash, whose secret is drawn at each start. The oracle of each run has a seed of its own, so a
 * page of a dead run would be seen at once.
 */
static void run_killing(struct watch *w)
{
    uint64_t end = torture_now() + w->plan->run_ns * 3 / 4;
    struct plan plan = *w->plan;

    plan.run_ns = 3600 * SECOND;
    while (torture_now() < end && !w->verdict->wrong && !w->verdict->skipped &&
           !torture_interrupted) {
        uint64_t life = (20 + rng_below(&w->disturb.rng, 600)) * MILLISECOND;
        int status;

        plan.seed = rng_next(&w->disturb.rng);
        if (case_start(w, &plan) != 0) {
            w->verdict->wrong = true;
            return;
        }
        status = case_attend(w, torture_now() + life);
        if (status < 0) {
            case_kill(w);
            w->verdict->kills++;
        }
        case_add_up(w);
        if (status >= 0)
            judge(w, status); /* it was to run for an hour */
    }
    plan.seed = rng_next(&w->disturb.rng);
    plan.run_ns = w->plan->run_ns / 4;
    if (!w->verdict->wrong && !w->verdict->skipped)
        run_once(w, &plan);
}

/* A pagefile that the run made must be gone, unless the run was killed. */
static void check_leftovers(struct watch *w)
{
    struct verdict *v = w->verdict;
    const struct plan *plan = w->plan;

    if (plan->pagefile[0] == '\0' || (plan->flags & PHASE_DEVICE) ||
        access(plan->pagefile, F_OK) != 0)
        return;
    if (v->kills == 0 && !v->killed && !v->wrong && !torture_interrupted) {
        v->wrong = true;
        snprintf(v->words, WORDS_MAX, "the pagefile %s was left behind", plan->pagefile);
    }
    unlink(plan->pagefile);
}

static void show_log(const struct watch *w)
{
    char path[512], text[LOG_TAIL + 1];
    int fd;
    ssize_t got = 0;

    log_path(w, path);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        off_t size = lseek(fd, 0, SEEK_END);

        got = pread(fd, text, 1000, 0);
        fprintf(stderr, "---- the log begins:\n%.*s\n", (int)(got > 0 ? got : 0), text);
        got = pread(fd, text, LOG_TAIL, size > LOG_TAIL ? size - LOG_TAIL : 0);
        close(fd);
    }
    fprintf(stderr, "---- the log ends:\n%.*s----\n", (int)(got > 0 ? got : 0), text);
}

void watch_case(const struct plan *plan, const struct places *places, uint64_t hang_ns,
                struct verdict *verdict)
{
    struct report *report =
        mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct watch w = {.plan = plan,
                      .places = places,
                      .report = report,
                      .verdict = verdict,
                      .hang_ns = hang_ns,
                      .disturb = {.plan = plan,
                                  .places = places,
                                  .report = report,
                                  .verdict = verdict,
                                  .rng = {.state = plan->seed + 1}}};

    memset(verdict, 0, sizeof(*verdict));
    if (report == MAP_FAILED || disturb_begin(&w.disturb) != 0) {
        verdict->wrong = true;
        return;
    }
    if (plan->flags & PHASE_KILL)
        run_killing(&w);
    else
        run_once(&w, plan);
    disturb_end(&w.disturb);
    check_leftovers(&w);
    if (verdict->wrong)
        show_log(&w);
    munmap(report, sizeof(*report));
}
