/*
 * swap: the same accesses over managed memory and over ordinary memory under
 * the kernel's swap with the same limit, alternating, in one run.
 *
 *   parent ──fork, exec──▶ child "managed": vmsm_create(), vmsm_map()
 *      └─────fork, exec──▶ child "swap": mmap() in a memory control group of its own,
 *                          limit = budget + what the limit counts beyond the region
 *
 * The parent starts both children afresh in every round and tells them in turn to
 * do a cell: "fill" (the first write of the whole region) or "runN" (for so many
 * seconds: pick a random place, access a random number of pages up to N one after
 * another). Nothing else runs meanwhile. Whatever the parent set up it takes down
 * again, also on errors and signals.
 *
 * Every read checks sixteen words of the page (pages.h). The generations of the pages
 * lie outside the region, 4 bytes a page, locked into memory in both children.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pages.h"
#include "swap_options.h"
#include "swap_peer.h"
#include "vmsm.h"

#define PATH_SIZE 512
#define LINE_SIZE 16384
#define ANSWER_SECONDS 900 /* a child that says nothing for so long is given up */

static volatile sig_atomic_t interrupted;

/* ---- The child: one region, the accesses, the checks ---- */

struct bench {
    const struct options *options;
    enum kind kind;
    struct vmsm *vmsm;
    struct pages pages;
};

/* What the child's process has used so far; a cell reports differences. */
struct usage {
    double cpu;
    uint64_t minor, major;
    uint64_t swapped_in, swapped_out; /* of the whole system */
    struct vmsm_counters counters;
};

/* From /proc/vmstat; 0 if it cannot be read. */
static uint64_t vmstat_read(const char *name)
{
    FILE *f = fopen("/proc/vmstat", "re");
    char line[128];
    uint64_t value = 0;
    size_t length = strlen(name);

    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        if (strncmp(line, name, length) == 0 && line[length] == ' ')
            value = strtoull(line + length, NULL, 10);
    if (f != NULL)
        fclose(f);
    return value;
}

static void usage_read(struct bench *b, struct usage *u)
{
    struct rusage r;

    memset(u, 0, sizeof(*u));
    getrusage(RUSAGE_SELF, &r);
    u->cpu = (double)r.ru_utime.tv_sec + (double)r.ru_stime.tv_sec +
             (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
    u->minor = (uint64_t)r.ru_minflt;
    u->major = (uint64_t)r.ru_majflt;
    if (b->kind == MANAGED) {
        vmsm_get_counters(b->vmsm, &u->counters);
    } else {
        u->swapped_in = vmstat_read("pswpin");
        u->swapped_out = vmstat_read("pswpout");
    }
}

static void detail_print(const struct bench *b, const struct usage *from, const struct usage *to)
{
    const struct vmsm_counters *c0 = &from->counters, *c1 = &to->counters;
    const char *comma = "";

    printf("{");
    if (b->kind == SWAP) {
        printf("\"minor_faults\":%llu,\"major_faults\":%llu,\"swapped_in\":%llu,"
               "\"swapped_out\":%llu",
               (unsigned long long)(to->minor - from->minor),
               (unsigned long long)(to->major - from->major),
               (unsigned long long)(to->swapped_in - from->swapped_in),
               (unsigned long long)(to->swapped_out - from->swapped_out));
    } else {
#define DETAIL_COUNT(name) (c1->name - c0->name)
#define DETAIL_GAUGE(name) (c1->name)
#define DETAIL(name, kind, help)                                                                   \
    printf("%s\"" #name "\":%llu", comma, (unsigned long long)DETAIL_##kind(name));                \
    comma = ",";
        VMSM_COUNTERS(DETAIL)
#undef DETAIL
    }
    printf("}\n");
}

/* Do a cell and answer "ok accesses seconds cpu faults hard {detail}". */
static void cell_do(struct bench *b, const struct cell *cell, unsigned round)
{
    uint64_t seed = b->options->seed + round * UINT64_C(1000) + cell->run_max, accesses;
    struct usage from, to;
    struct vmsm_counters *c0 = &from.counters, *c1 = &to.counters;
    double seconds;
    uint64_t faults, hard;

    if (cell->run_max > 0 && b->options->warm_up > 0)
        pages_access(&b->pages, cell->run_max, b->options->warm_up, ~seed, &accesses);
    usage_read(b, &from);
    seconds = pages_access(&b->pages, cell->run_max, b->options->seconds, seed, &accesses);
    usage_read(b, &to);
    faults = to.minor + to.major - from.minor - from.major;
    hard = to.major - from.major;
    if (b->kind == MANAGED) {
        hard = DETAIL_COUNT(faults_hard);
        faults = hard + DETAIL_COUNT(faults_first_touch) + DETAIL_COUNT(faults_standby) +
                 DETAIL_COUNT(faults_modified) + DETAIL_COUNT(faults_writing);
    }
    printf("ok %llu %.6f %.6f %llu %llu ", (unsigned long long)accesses, seconds, to.cpu - from.cpu,
           (unsigned long long)faults, (unsigned long long)hard);
    detail_print(b, &from, &to);
    fflush(stdout);
}

static void *memory_get(size_t size, const char *what)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);

    if (p == MAP_FAILED) {
        fprintf(stderr, "swap: cannot map %zu bytes for %s: %s\n", size, what, strerror(errno));
        exit(STATUS_FAILED);
    }
    return p;
}

static void managed_map(struct bench *b)
{
    const struct options *o = b->options;
    char conf[CONF_MAX * 2];
    void *base;

    snprintf(conf, sizeof(conf), "memory:%lluK,pagefile:%s,pagefile_size:%lluK%s",
             (unsigned long long)(o->memory >> 10), o->pagefile,
             (unsigned long long)(o->virtual_size >> 9), o->settings);
    if (vmsm_create(&b->vmsm, conf) < 0 || vmsm_map(b->vmsm, o->virtual_size, &base) < 0) {
        fprintf(stderr, "swap: no managed memory: %s\n", vmsm_last_error());
        exit(STATUS_FAILED);
    }
    b->pages.base = base;
}

static void bench_finish(struct bench *b)
{
    struct rusage r;

    getrusage(RUSAGE_SELF, &r);
    if (b->kind == MANAGED) {
        if (vmsm_check(b->vmsm) < 0) {
            fprintf(stderr, "swap: the books do not balance: %s\n", vmsm_last_error());
            exit(STATUS_WRONG);
        }
        vmsm_destroy(b->vmsm);
    }
    printf("ok %llu\n", (unsigned long long)r.ru_maxrss * 1024);
    fflush(stdout);
}

/* Commands come by stdin, "cell index round" or "quit"; answers go to stdout. */
static int child_main(const struct options *o)
{
    struct bench b = {.options = o,
                      .pages = {.count = o->virtual_size / VMSM_PAGE_SIZE,
                                .threads = o->threads,
                                .writes = o->writes}};
    char line[64];
    unsigned cell, round;
    void *generations;
    size_t size;

    b.kind = strcmp(o->child, kind_names[MANAGED]) == 0 ? MANAGED : SWAP;
    size = b.pages.count * sizeof(*b.pages.generations);
    generations = memory_get(size, "generations");
    b.pages.generations = generations;
    /* Without the right to lock it stays where it is anyway: it is used all the time. */
    if (mlock(generations, size) < 0)
        memset(generations, 0, size);
    if (b.kind == MANAGED) {
        managed_map(&b);
    } else {
        b.pages.base = memory_get(o->virtual_size, "the region");
        madvise(b.pages.base, o->virtual_size, o->thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    }
    printf("ok\n");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin) != NULL) {
        if (sscanf(line, "cell %u %u", &cell, &round) == 2 && cell < o->cell_count) {
            cell_do(&b, &o->cells[cell], round);
        } else {
            bench_finish(&b);
            return STATUS_OK;
        }
    }
    return STATUS_FAILED; /* the parent is gone */
}

/* ---- The parent: rounds, children, report ---- */

struct sample {
    double accesses, seconds, cpu, faults, hard;
    char *detail; /* JSON, as the child wrote it */
};

struct child {
    pid_t pid;  /* 0: none */
    bool ended; /* it closed its side: no need to kill it */
    int commands, answers;
};

struct run {
    const struct options *options;
    char **argv;
    int argc;
    struct peer peer;
    uint64_t peer_limit;
    char pagefile[PATH_SIZE];
    struct child children[KINDS];
    struct sample *samples[KINDS]; /* [cell * rounds + round] */
    unsigned rounds_done;
    uint64_t peak[KINDS];
    int status;
};

/* What runs between fork and exec; only the peer enters the control group. */
static _Noreturn void child_exec(struct run *r, enum kind kind, int in, int out)
{
    char **argv = calloc((size_t)r->argc + 5, sizeof(*argv));
    int n = r->argc, error;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (kind == SWAP) {
        error = peer_enter(&r->peer);
        if (error < 0) {
            fprintf(stderr, "swap: cannot enter %s: %s\n", r->peer.group, strerror(-error));
            _exit(STATUS_FAILED);
        }
    }
    if (argv == NULL || dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0)
        _exit(STATUS_FAILED);
    memcpy(argv, r->argv, (size_t)n * sizeof(*argv));
    argv[n] = strdup("--child");
    argv[n + 1] = strdup(kind_names[kind]);
    argv[n + 2] = strdup("--pagefile");
    argv[n + 3] = r->pagefile;
    execv("/proc/self/exe", argv);
    perror("swap: cannot start itself again");
    _exit(STATUS_FAILED);
}

static int child_start(struct run *r, enum kind kind)
{
    struct child *c = &r->children[kind];
    int in[2], out[2];

    if (pipe2(in, O_CLOEXEC) < 0)
        return -errno;
    if (pipe2(out, O_CLOEXEC) < 0) {
        close(in[0]);
        close(in[1]);
        return -errno;
    }
    c->pid = fork();
    if (c->pid == 0)
        child_exec(r, kind, in[0], out[1]);
    close(in[0]);
    close(out[1]);
    c->commands = in[1];
    c->answers = out[0];
    c->ended = false;
    if (c->pid > 0)
        return 0;
    c->pid = 0;
    close(in[1]);
    close(out[0]);
    return -EAGAIN;
}

/* Wait for the child's end, after killing it if it is still at work; say what was wrong with it. */
static void child_end(struct run *r, enum kind kind)
{
    struct child *c = &r->children[kind];
    int status = 0;

    if (c->pid == 0)
        return;
    if (!c->ended)
        kill(c->pid, SIGKILL);
    close(c->commands);
    close(c->answers);
    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    c->pid = 0;
    if (!c->ended || interrupted || (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_OK))
        return;
    if (WIFSIGNALED(status))
        fprintf(stderr, "swap: the child \"%s\" was killed by signal %d (%s)%s\n", kind_names[kind],
                WTERMSIG(status), strsignal(WTERMSIG(status)),
                kind == SWAP && WTERMSIG(status) == SIGKILL
                    ? "; if the control group ran out of memory, raise --allowance"
                    : "");
    if (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_WRONG)
        r->status = STATUS_WRONG;
    else if (r->status == STATUS_OK)
        r->status = STATUS_FAILED;
}

/* Read one answer; false if the child ended, said nothing for too long, or we are interrupted. */
static bool child_answer(struct child *c, char *line, size_t size)
{
    double until = time_now() + ANSWER_SECONDS;
    size_t length = 0;

    while (!interrupted && time_now() < until && length < size - 1) {
        struct pollfd fd = {.fd = c->answers, .events = POLLIN};
        ssize_t got;

        if (poll(&fd, 1, 200) <= 0)
            continue;
        got = read(c->answers, line + length, size - 1 - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            c->ended = true;
            return false;
        }
        length += (size_t)got;
        if (line[length - 1] == '\n') {
            line[length - 1] = '\0';
            return strncmp(line, "ok", 2) == 0;
        }
    }
    if (!interrupted)
        fprintf(stderr, "swap: no answer from the child in %d seconds\n", ANSWER_SECONDS);
    return false;
}

static bool child_ask(struct child *c, const char *command, char *line, size_t size)
{
    return write(c->commands, command, strlen(command)) == (ssize_t)strlen(command) &&
           child_answer(c, line, size);
}

/* Let what the last cell left behind reach the disk before the next one. */
static void disk_settle(void)
{
    sync();
    time_sleep(1);
}

static bool cell_measure(struct run *r, enum kind kind, unsigned cell, unsigned round)
{
    const struct options *o = r->options;
    struct sample *s = &r->samples[kind][cell * o->rounds + round];
    char command[64], line[LINE_SIZE];
    int at = 0;

    disk_settle();
    snprintf(command, sizeof(command), "cell %u %u\n", cell, round);
    if (!child_ask(&r->children[kind], command, line, sizeof(line)))
        return false;
    if (sscanf(line, "ok %lf %lf %lf %lf %lf %n", &s->accesses, &s->seconds, &s->cpu, &s->faults,
               &s->hard, &at) < 5)
        return false;
    s->detail = strdup(line + at);
    fprintf(stderr, "round %u of %u  %-6s %-8s %9.0f accesses/s\n", round + 1, o->rounds,
            o->cells[cell].name, kind_names[kind], s->accesses / s->seconds);
    return true;
}

static bool round_finish(struct run *r, enum kind kind)
{
    char line[LINE_SIZE];
    uint64_t peak;

    if (!child_ask(&r->children[kind], "quit\n", line, sizeof(line)))
        return false;
    peak = kind == SWAP ? peer_peak(&r->peer) : strtoull(line + 3, NULL, 10);
    if (peak > r->peak[kind])
        r->peak[kind] = peak;
    r->children[kind].ended = true;
    child_end(r, kind);
    return r->status == STATUS_OK;
}

/* Both children afresh; the order of the two changes from cell to cell: A B, B A, A B, … */
static bool round_measure(struct run *r, unsigned round)
{
    const struct options *o = r->options;
    char line[LINE_SIZE];

    for (unsigned k = 0; k < KINDS; k++) {
        if (!o->wanted[k])
            continue;
        if (child_start(r, k) < 0 || !child_answer(&r->children[k], line, sizeof(line)))
            return false;
    }
    for (unsigned cell = 0; cell < o->cell_count; cell++)
        for (unsigned k = 0; k < KINDS; k++) {
            enum kind kind = (k + cell + round) % KINDS;

            if (o->wanted[kind] && !cell_measure(r, kind, cell, round))
                return false;
        }
    for (unsigned k = 0; k < KINDS; k++)
        if (o->wanted[k] && !round_finish(r, k))
            return false;
    unlink(r->pagefile);
    return true;
}

struct summary {
    double median, least, most; /* accesses a second */
    double cpu, faults, hard;   /* a thousand accesses */
};

static int double_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void summary_make(const struct run *r, enum kind kind, unsigned cell, struct summary *out)
{
    unsigned n = r->rounds_done;
    double rates[ROUNDS_MAX], accesses = 0;

    memset(out, 0, sizeof(*out));
    for (unsigned i = 0; i < n; i++) {
        const struct sample *s = &r->samples[kind][cell * r->options->rounds + i];

        rates[i] = s->accesses / s->seconds;
        accesses += s->accesses;
        out->cpu += s->cpu;
        out->faults += s->faults;
        out->hard += s->hard;
    }
    qsort(rates, n, sizeof(rates[0]), double_compare);
    out->median = (rates[(n - 1) / 2] + rates[n / 2]) / 2;
    out->least = rates[0];
    out->most = rates[n - 1];
    out->cpu *= 1000 / accesses;
    out->faults *= 1000 / accesses;
    out->hard *= 1000 / accesses;
}

static void report_print(const struct run *r)
{
    const struct options *o = r->options;

    printf("\n%.0f MiB virtual, %.0f MiB memory (%.0f %%), %u threads, %u %% writes, %u rounds of "
           "%g s\n",
           (double)o->virtual_size / MIB, (double)o->memory / MIB,
           100 * (double)o->memory / (double)o->virtual_size, o->threads, o->writes, r->rounds_done,
           o->seconds);
    printf("%-7s %-8s %11s %11s %11s %12s %12s %12s\n", "cell", "kind", "median /s", "min /s",
           "max /s", "CPU s/1000", "faults/1000", "hard/1000");
    for (unsigned cell = 0; cell < o->cell_count; cell++) {
        struct summary s[KINDS];

        for (unsigned k = 0; k < KINDS; k++) {
            if (!o->wanted[k])
                continue;
            summary_make(r, k, cell, &s[k]);
            printf("%-7s %-8s %11.0f %11.0f %11.0f %12.5f %12.1f %12.1f\n", o->cells[cell].name,
                   kind_names[k], s[k].median, s[k].least, s[k].most, s[k].cpu, s[k].faults,
                   s[k].hard);
        }
        if (o->wanted[MANAGED] && o->wanted[SWAP])
            printf("%-7s ratio of medians, managed to swap: %.2f\n", o->cells[cell].name,
                   s[MANAGED].median / s[SWAP].median);
    }
    if (o->wanted[MANAGED])
        printf("managed: most ever resident %.1f MiB\n", (double)r->peak[MANAGED] / MIB);
    if (o->wanted[SWAP])
        printf("swap:    most ever charged %.1f MiB; limit %.1f MiB = memory + allowance %.1f MiB "
               "+ 12 bytes a page\n",
               (double)r->peak[SWAP] / MIB, (double)r->peer_limit / MIB,
               (double)o->allowance / MIB);
    if (r->peer.reason[0] != '\0')
        printf("swap:    left out: %s\n", r->peer.reason);
}

static void json_kind(FILE *f, const struct run *r, enum kind kind, unsigned cell)
{
    struct summary s;

    summary_make(r, kind, cell, &s);
    fprintf(f,
            ",\n   \"%s\":{\"median\":%.1f,\"min\":%.1f,\"max\":%.1f,\"cpu_s_per_1000\":%.6f,"
            "\"faults_per_1000\":%.3f,\"hard_per_1000\":%.3f,\"rounds\":[",
            kind_names[kind], s.median, s.least, s.most, s.cpu, s.faults, s.hard);
    for (unsigned i = 0; i < r->rounds_done; i++) {
        const struct sample *one = &r->samples[kind][cell * r->options->rounds + i];

        fprintf(f, "%s\n    {\"accesses\":%.0f,\"seconds\":%.6f,\"cpu\":%.6f,\"detail\":%s}",
                i > 0 ? "," : "", one->accesses, one->seconds, one->cpu,
                one->detail != NULL ? one->detail : "null");
    }
    fprintf(f, "]}");
}

static int json_write(const struct run *r)
{
    const struct options *o = r->options;
    FILE *f = fopen(o->json, "we");
    struct utsname u;
    bool failed;

    if (f == NULL)
        goto failed;
    uname(&u);
    fprintf(f,
            "{\"kernel\":\"%s\",\"processors\":%ld,\"virtual\":%llu,\"memory\":%llu,"
            "\"threads\":%u,\"writes\":%u,\"seconds\":%g,\"seed\":%u,\"thp\":%s,"
            "\"settings\":\"%s\",\"swap_limit\":%llu,\"managed_peak\":%llu,\"swap_peak\":%llu,\n"
            " \"cells\":[",
            u.release, sysconf(_SC_NPROCESSORS_ONLN), (unsigned long long)o->virtual_size,
            (unsigned long long)o->memory, o->threads, o->writes, o->seconds, o->seed,
            o->thp ? "true" : "false", o->settings[0] != '\0' ? o->settings + 1 : "",
            (unsigned long long)r->peer_limit, (unsigned long long)r->peak[MANAGED],
            (unsigned long long)r->peak[SWAP]);
    for (unsigned cell = 0; cell < o->cell_count; cell++) {
        struct summary s[KINDS];

        fprintf(f, "%s\n  {\"cell\":\"%s\"", cell > 0 ? "," : "", o->cells[cell].name);
        for (unsigned k = 0; k < KINDS; k++)
            if (o->wanted[k])
                json_kind(f, r, k, cell);
        if (o->wanted[MANAGED] && o->wanted[SWAP]) {
            summary_make(r, MANAGED, cell, &s[MANAGED]);
            summary_make(r, SWAP, cell, &s[SWAP]);
            fprintf(f, ",\n   \"ratio\":%.4f", s[MANAGED].median / s[SWAP].median);
        }
        fprintf(f, "}");
    }
    fprintf(f, "]}\n");
    failed = ferror(f) != 0;
    if (fclose(f) == 0 && !failed)
        return STATUS_OK;
failed:
    fprintf(stderr, "swap: cannot write %s: %s\n", o->json, strerror(errno));
    return STATUS_FAILED;
}

static void signal_note(int signal)
{
    (void)signal;
    interrupted = 1;
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

static void samples_free(struct run *r)
{
    for (unsigned k = 0; k < KINDS; k++) {
        unsigned count = r->options->cell_count * r->options->rounds;

        for (unsigned i = 0; r->samples[k] != NULL && i < count; i++)
            free(r->samples[k][i].detail);
        free(r->samples[k]);
    }
}

static int parent_main(struct options *o, int argc, char **argv)
{
    struct run r = {.options = o, .argv = argv, .argc = argc};

    signals_catch();
    snprintf(r.pagefile, sizeof(r.pagefile), "%s/vmsm-bench-swap-%d.pagefile", o->dir,
             (int)getpid());
    for (unsigned k = 0; k < KINDS; k++) {
        r.samples[k] = calloc((size_t)o->cell_count * o->rounds, sizeof(*r.samples[k]));
        if (r.samples[k] == NULL)
            goto out;
    }
    /* The limit counts more than the region: program, generations, page tables. */
    r.peer_limit = o->memory + o->allowance +
                   o->virtual_size / VMSM_PAGE_SIZE * (sizeof(uint32_t) + sizeof(uint64_t));
    if (o->wanted[SWAP] &&
        !peer_set_up(&r.peer, &(struct peer_settings){.limit = r.peer_limit,
                                                      .swap_size = o->virtual_size * 2,
                                                      .dir = o->dir})) {
        fprintf(stderr, "swap: the kernel's swap is left out: %s\n", r.peer.reason);
        o->wanted[SWAP] = false;
        if (!o->wanted[MANAGED])
            r.status = STATUS_FAILED;
    }
    while (r.status == STATUS_OK && r.rounds_done < o->rounds && !interrupted &&
           round_measure(&r, r.rounds_done))
        r.rounds_done++;
out:
    for (unsigned k = 0; k < KINDS; k++)
        child_end(&r, k);
    peer_take_down(&r.peer);
    unlink(r.pagefile);
    if (r.status == STATUS_OK && r.rounds_done < o->rounds && !interrupted)
        r.status = STATUS_FAILED;
    if (r.rounds_done > 0) {
        report_print(&r);
        if (o->json != NULL && json_write(&r) != STATUS_OK && r.status == STATUS_OK)
            r.status = STATUS_FAILED;
    }
    samples_free(&r);
    if (interrupted && r.status == STATUS_OK)
        r.status = STATUS_FAILED;
    return r.status;
}

int main(int argc, char **argv)
{
    struct options o = {.virtual_size = UINT64_C(1) << 30,
                        .allowance = UINT64_C(4) << 20,
                        .memory_percent = 25,
                        .seed = 1,
                        .threads = 2,
                        .rounds = 5,
                        .writes = 50,
                        .seconds = 5,
                        .warm_up = 1,
                        .wanted = {true, true},
                        .dir = "."};
    char cells[] = "fill,run1,run32";

    cells_parse(&o, cells);
    options_parse(&o, argc, argv);
    return o.child != NULL ? child_main(&o) : parent_main(&o, argc, argv);
}
