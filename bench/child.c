#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "content.h"

#define ANSWER_SECONDS 900 /* a child that is so long overdue is given up */
#define POLL_MS 200

/* ---- In the child ---- */

struct worksite {
    const struct child_setup *setup;
    struct memory memory;
    struct usage_source *usage;
    size_t pages;
    _Atomic uint32_t *generations;
};

static int generations_make(struct worksite *s)
{
    size_t size = s->pages * sizeof(*s->generations);
    void *p =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (p == MAP_FAILED) {
        fprintf(stderr, "bench: no memory for the generations of %zu pages\n", s->pages);
        return -ENOMEM;
    }
    /* Without the right to lock it stays where it is anyway: it is used all the time. */
    mlock(p, size);
    s->generations = p;
    return 0;
}

static int worksite_open(struct worksite *s)
{
    const struct options *o = s->setup->options;
    struct memory_options options = {.length = o->region,
                                     .budget = plan_budget(o, s->setup->share),
                                     .file = s->setup->file,
                                     .settings = o->settings};
    int error;

    s->pages = o->region / VMSM_PAGE_SIZE;
    if (!memory_kind_managed(s->setup->kind)) {
        error = peer_enter(s->setup->peer);
        if (error < 0) {
            fprintf(stderr, "bench: cannot enter the control group: %s\n", strerror(-error));
            return error;
        }
    }
    error = generations_make(s);
    if (error == 0)
        error = memory_open(&s->memory, s->setup->kind, &options);
    if (error == 0)
        error = usage_open(&s->usage, &s->memory, o->dir);
    if (error == 0 && s->setup->explain && usage_missing(s->usage)[0] != '\0')
        fprintf(stderr, "bench: not counted: %s\n", usage_missing(s->usage));
    return error;
}

/* For a test: a word of the page is no longer what was written. */
static void page_corrupt(struct worksite *s, uint64_t page)
{
    uint64_t *words = (uint64_t *)(void *)(s->memory.base + page * PAGE_BYTES);

    words[stamp_place(mix(page), 0)] ^= 1;
}

static void counters_read(struct worksite *s, struct vmsm_counters *out)
{
    memset(out, 0, sizeof(*out));
    if (memory_kind_managed(s->setup->kind))
        vmsm_get_counters(s->memory.vmsm, out);
}

static void counters_subtract(struct vmsm_counters *from_here, const struct vmsm_counters *before)
{
#define SUBTRACT_COUNT(name) from_here->name -= before->name
#define SUBTRACT_GAUGE(name)
#define SUBTRACT(name, kind, help) SUBTRACT_##kind(name);
    VMSM_COUNTERS(SUBTRACT)
#undef SUBTRACT
#undef SUBTRACT_COUNT
#undef SUBTRACT_GAUGE
}

static void cell_do(struct worksite *s, const struct command *command, struct answer *answer)
{
    struct workload_run run = {.workload = command->workload,
                               .base = s->memory.base,
                               .vmsm = s->memory.vmsm,
                               .pages = s->pages,
                               .budget_pages =
                                   plan_budget(s->setup->options, s->setup->share) / VMSM_PAGE_SIZE,
                               .generations = s->generations,
                               .threads = command->threads};
    struct usage from, to;
    struct vmsm_counters before;

    if (command->warm_touches > 0) {
        run.seconds = command->warm_seconds;
        run.most = command->warm_touches;
        run.seed = ~command->seed;
        answer->status = workload_run(&run, &answer->result);
        if (answer->status < 0 || answer->result.wrong > 0)
            return;
        run.passed = answer->result.touches;
        answer->warming =
            (struct warming){.touches = run.passed, .seconds = answer->result.seconds};
        answer->cut = run.passed < run.most;
    }
    run.most = command->touches;
    run.seconds = command->seconds;
    run.seed = command->seed;
    counters_read(s, &before);
    usage_read(s->usage, &from);
    answer->status = workload_run(&run, &answer->result);
    usage_read(s->usage, &to);
    answer->cut = answer->cut || answer->result.touches < run.most;
    counters_read(s, &answer->counters);
    counters_subtract(&answer->counters, &before);
    usage_difference(&from, &to, &answer->usage);
    if (command->workload->pattern == FILL && s->setup->options->corrupt_page != CORRUPT_NONE)
        page_corrupt(s, s->setup->options->corrupt_page);
}

/* Whole or not at all: a pipe takes so little at once, but hands it over as it likes. */
static bool read_all(int fd, void *buffer, size_t size)
{
    char *at = buffer;

    while (size > 0) {
        ssize_t got = read(fd, at, size);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        at += got;
        size -= (size_t)got;
    }
    return true;
}

static int child_serve(struct worksite *s, int commands, int answers)
{
    struct command command;
    struct answer answer;
    struct rusage r;
    int status = STATUS_OK;

    while (read_all(commands, &command, sizeof(command))) {
        memset(&answer, 0, sizeof(answer));
        if (command.workload != NULL) {
            cell_do(s, &command, &answer);
        } else {
            getrusage(RUSAGE_SELF, &r);
            answer.peak = (uint64_t)r.ru_maxrss * 1024;
            usage_close(s->usage);
            answer.status = memory_close(&s->memory);
            status = answer.status == 0          ? STATUS_OK
                     : answer.status == -EUCLEAN ? STATUS_WRONG
                                                 : STATUS_FAILED;
        }
        if (write(answers, &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
            return STATUS_FAILED;
        if (command.workload == NULL)
            return status;
    }
    return STATUS_FAILED; /* the parent is gone */
}

static _Noreturn void child_main(const struct child_setup *setup, int commands, int answers)
{
    struct worksite s = {.setup = setup};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    _exit(worksite_open(&s) < 0 ? STATUS_FAILED : child_serve(&s, commands, answers));
}

/* ---- In the parent ---- */

int child_start(struct child *c, const struct child_setup *setup)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1};

    *c = (struct child){.setup = setup};
    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
        goto failed;
    fflush(NULL);
    c->pid = fork();
    if (c->pid < 0)
        goto failed;
    if (c->pid == 0) {
        /* Or it would not see the parent's end. */
        close(in[1]);
        close(out[0]);
        child_main(setup, in[0], out[1]);
    }
    close(in[0]);
    close(out[1]);
    c->commands = in[1];
    c->answers = out[0];
    return 0;
failed:
    fprintf(stderr, "bench: cannot start a process: %s\n", strerror(errno));
    c->pid = 0;
    for (int i = 0; i < 2; i++) {
        if (in[i] >= 0)
            close(in[i]);
        if (out[i] >= 0)
            close(out[i]);
    }
    return -EAGAIN;
}

static int answer_wait(struct child *c, double busy)
{
    time_t until = time(NULL) + ANSWER_SECONDS + (time_t)busy;

    while (!*c->setup->interrupted) {
        struct pollfd fd = {.fd = c->answers, .events = POLLIN};

        if (poll(&fd, 1, POLL_MS) > 0)
            return 0;
        if (time(NULL) > until) {
            fprintf(stderr, "bench: %s is %d seconds overdue\n", memory_kind_names[c->setup->kind],
                    ANSWER_SECONDS);
            return -ETIMEDOUT;
        }
    }
    return -EINTR;
}

int child_ask(struct child *c, const struct command *command, struct answer *answer)
{
    int error;

    if (write(c->commands, command, sizeof(*command)) != (ssize_t)sizeof(*command)) {
        c->ended = true;
        return -EPIPE;
    }
    error = answer_wait(c, command->seconds + command->warm_seconds);
    if (error < 0)
        return error;
    if (!read_all(c->answers, answer, sizeof(*answer))) {
        c->ended = true;
        return -EPIPE;
    }
    if (command->workload == NULL)
        c->ended = true;
    return 0;
}

static void death_explain(const struct child *c, int number)
{
    const char *why = "";

    if (number == SIGBUS)
        why = ": a page could not be read back";
    else if (number == SIGKILL && !memory_kind_managed(c->setup->kind))
        why =
            ": the control group ran out of memory (try a larger --region), or somebody killed it";
    fprintf(stderr, "bench: %s ended by signal %d (%s)%s\n", memory_kind_names[c->setup->kind],
            number, strsignal(number), why);
}

int child_end(struct child *c)
{
    int status = 0;

    if (c->pid == 0)
        return STATUS_OK;
    if (!c->ended)
        kill(c->pid, SIGKILL);
    close(c->commands);
    close(c->answers);
    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    c->pid = 0;
    if (*c->setup->interrupted)
        return STATUS_OK;
    if (!c->ended)
        return STATUS_FAILED;
    if (WIFSIGNALED(status)) {
        c->killed = WTERMSIG(status) == SIGKILL && !memory_kind_managed(c->setup->kind);
        death_explain(c, WTERMSIG(status));
        return WTERMSIG(status) == SIGBUS ? STATUS_WRONG : STATUS_FAILED;
    }
    return WEXITSTATUS(status);
}
