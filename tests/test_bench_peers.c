/*
 * The benchmark's peers: each is set up and holds what was written to it within its limit, and
 * nothing of it is left on the machine afterwards: when all went well, after SIGINT in the middle,
 * and after SIGKILL and one more start. Without root, or what the kernel lacks, is said in words.
 *
 * A run is a child process, the runner; its workload is a child of that, in the control group.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../bench/group.h"
#include "../bench/memory.h"
#include "../bench/peer.h"
#include "../bench/record.h"
#include "../bench/scratch.h"
#include "../bench/usage.h"
#include "sanitizer.h"
#include "tap.h"

#define MIB ((size_t)1 << 20)
#define LENGTH (64 * MIB)
#define BUDGET (16 * MIB)
#define PAGE 4096
#define WORDS (PAGE / sizeof(uint64_t))
#define STATE_SIZE 8192
#define NOBODY 65534
#define TURNS 2000 /* of 10 ms each, until what must come is given up */

static char dir[] = "/var/tmp/vmsm-bench-test.XXXXXX";
static volatile sig_atomic_t interrupted;

static size_t limit_of(void)
{
    return BUDGET + peer_allowance(LENGTH);
}

static int peers_open(struct peer **peer, const char *missing[MEMORY_KINDS])
{
    return peer_open(peer, &(struct peer_options){.dir = dir, .length = LENGTH}, missing);
}

/* ---- What is there that could be left behind ---- */

static void state_add(char *state, const char *what, const char *name)
{
    size_t used = strlen(state);

    snprintf(state + used, STATE_SIZE - used, "%s %s\n", what, name);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void state_add_entries(char *state, const char *path, const char *prefix)
{
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, by_name);

    for (int i = 0; i < count; i++) {
        if (strncmp(entries[i]->d_name, prefix, strlen(prefix)) == 0)
            state_add(state, path, entries[i]->d_name);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
}

/* Swap spaces, zram devices, our control group, files, the record; a name a line. */
static void state_take(char state[STATE_SIZE])
{
    FILE *f = fopen("/proc/swaps", "re");
    char line[1024], name[512];
    struct group group;
    struct why why;

    state[0] = '\0';
    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        if (sscanf(line, "%511s", name) == 1)
            state_add(state, "swap", name);
    }
    if (f != NULL)
        fclose(f);
    state_add_entries(state, "/sys/block", "zram");
    state_add_entries(state, dir, "");
    if (group_find(&group, &why) == 0 && access(group.path, F_OK) == 0)
        state_add(state, "group", group.path);
    if (access(RECORD_PATH, F_OK) == 0)
        state_add(state, "record", RECORD_PATH);
}

static void state_is(const char *before, const char *what)
{
    char now[STATE_SIZE];

    state_take(now);
    if (!ok(strcmp(now, before) == 0, "%s: nothing is left behind", what))
        printf("# before:\n%s# now:\n%s", before, now);
}

/* ---- The workload ---- */

/* A sixteenth of a page differs from others': it can be compressed. */
static uint64_t word_of(size_t page, size_t word)
{
    return word % 16 == 0 ? (page * WORDS + word + 1) * UINT64_C(0x9e3779b97f4a7c15) : word;
}

static void region_write(char *base)
{
    for (size_t page = 0; page < LENGTH / PAGE; page++) {
        uint64_t *words = (uint64_t *)(void *)(base + page * PAGE);

        for (size_t i = 0; i < WORDS; i++)
            words[i] = word_of(page, i);
    }
}

static size_t region_wrong(const char *base)
{
    size_t wrong = 0;

    for (size_t page = 0; page < LENGTH / PAGE; page++) {
        const uint64_t *words = (const uint64_t *)(const void *)(base + page * PAGE);

        for (size_t i = 0; i < WORDS; i++)
            wrong += words[i] != word_of(page, i);
    }
    return wrong;
}

struct report {
    size_t wrong;
    struct usage usage;
};

/* Writes and reads the region, reports, and stays until it is told to end. */
static int workload_main(struct peer *peer, enum memory_kind kind, int report_to, int end_from)
{
    struct report report = {.wrong = 1};
    struct usage from, to;
    struct usage_source *source;
    struct memory memory;
    char file[sizeof(dir) + 16], byte;

    snprintf(file, sizeof(file), "%s/file", dir);
    if (peer_enter(peer) != 0 || scratch_make(file, LENGTH) != 0 ||
        memory_open(&memory, kind,
                    &(struct memory_options){
                        .length = LENGTH, .budget = BUDGET, .file = file, .settings = ""}) != 0)
        return 2;
    unlink(file);
    if (usage_open(&source, &memory, dir) != 0)
        return 2;
    usage_read(source, &from);
    region_write(memory.base);
    report.wrong = region_wrong(memory.base);
    usage_read(source, &to);
    usage_difference(&from, &to, &report.usage);
    usage_close(source);
    if (write(report_to, &report, sizeof(report)) != (ssize_t)sizeof(report) ||
        read(end_from, &byte, 1) < 0)
        return 2;
    return memory_close(&memory) == 0 ? 0 : 2;
}

struct workload {
    pid_t pid;
    int report, end; /* pipes: from it, to it */
};

static bool workload_start(struct workload *workload, struct peer *peer, enum memory_kind kind)
{
    int report[2], end[2];

    if (pipe2(report, O_CLOEXEC) < 0 || pipe2(end, O_CLOEXEC) < 0)
        return false;
    fflush(stdout);
    workload->pid = fork();
    if (workload->pid == 0) {
        close(end[1]);
        _exit(workload_main(peer, kind, report[1], end[0]));
    }
    close(report[1]);
    close(end[0]);
    workload->report = report[0];
    workload->end = end[1];
    return workload->pid > 0;
}

static int workload_end(struct workload *workload)
{
    int status = -1;

    close(workload->end);
    close(workload->report);
    waitpid(workload->pid, &status, 0);
    return status;
}

/* ---- Each kind ---- */

/* zram: the group's limit comes down until both together keep to it. */
static bool limit_is_shared(struct peer *peer)
{
    const char *name;
    struct group group;
    struct why why;

    if (group_find(&group, &why) != 0)
        return false;
    name = group.version2 ? "memory.max" : "memory.limit_in_bytes";
    for (int i = 0; i < TURNS; i++) {
        uint64_t limit = text_number(group.path, name);

        if (limit < limit_of() - MIB && group_charged(&group) <= limit)
            return peer_peak(peer) > limit;
        usleep(10000);
    }
    return false;
}

static void usage_test(const char *name, enum memory_kind kind, const struct usage *usage)
{
    ok(usage->cpu_ns > 0 && usage->cpu_ns != USAGE_NONE, "%s: processor time is counted", name);
    ok(usage->faults > 0 && usage->faults != USAGE_NONE, "%s: faults are counted", name);
    ok(usage->faults_hard > 0 && usage->faults_hard <= usage->faults,
       "%s: faults with a read are counted", name);
    ok(usage->pages_in >= (LENGTH - limit_of()) / PAGE && usage->pages_in != USAGE_NONE,
       "%s: what did not fit was read, and counted", name);
    if (usage->pages_out == USAGE_NONE)
        skip("%s: pages written are not counted here", name);
    else
        ok(usage->pages_out > 0, "%s: pages written are counted", name);
    ok((usage->bytes_copied == USAGE_NONE) == !memory_kind_managed(kind),
       "%s: bytes copied are the manager's", name);
}

static void kind_test(struct peer *peer, enum memory_kind kind)
{
    const char *name = memory_kind_names[kind];
    struct workload workload;
    struct report report;

    is(peer_prepare(peer, kind, limit_of()), 0, "%s: prepared", name);
    if (!ok(workload_start(&workload, peer, kind), "%s: a process started", name))
        return;
    if (ok(read(workload.report, &report, sizeof(report)) == (ssize_t)sizeof(report),
           "%s: it wrote and read %zu MiB", name, LENGTH / MIB)) {
        is(report.wrong, 0, "%s: what it read was right", name);
        usage_test(name, kind, &report.usage);
        if (kind == ZRAM)
            ok(limit_is_shared(peer), "%s: what it stores comes off the group's limit", name);
        else if (!memory_kind_managed(kind))
            ok(peer_peak(peer) > BUDGET / 2 && peer_peak(peer) <= limit_of(),
               "%s: it used its limit, and no more", name);
    }
    is(workload_end(&workload), 0, "%s: it ended well", name);
}

static void kinds_test(void)
{
    const char *missing[MEMORY_KINDS];
    char before[STATE_SIZE];
    struct peer *peer;

    state_take(before);
    is(peers_open(&peer, missing), 0, "peers opened");
    for (unsigned kind = 0; kind < MEMORY_KINDS; kind++) {
        if (missing[kind] != NULL)
            skip("%s: %s", memory_kind_names[kind], missing[kind]);
        else
            kind_test(peer, kind);
    }
    peer_close(peer);
    state_is(before, "all kinds one after another");
}

/* ---- Ends in the middle ---- */

static void signal_note(int signal)
{
    (void)signal;
    interrupted = 1;
}

/* Says "r" when its workload has filled the region, then waits for a signal. */
static int runner_main(enum memory_kind kind, int ready)
{
    struct sigaction action = {.sa_handler = signal_note};
    const char *missing[MEMORY_KINDS];
    struct workload workload;
    struct report report;
    sigset_t blocked, open;
    struct peer *peer;
    int status = 2;

    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    sigprocmask(SIG_BLOCK, &blocked, &open);
    sigaction(SIGINT, &action, NULL);
    if (peers_open(&peer, missing) != 0)
        return 2;
    if (missing[kind] == NULL && peer_prepare(peer, kind, limit_of()) == 0 &&
        workload_start(&workload, peer, kind)) {
        if (read(workload.report, &report, sizeof(report)) == (ssize_t)sizeof(report) &&
            write(ready, "r", 1) == 1)
            status = 0;
        while (status == 0 && !interrupted)
            sigsuspend(&open);
    }
    peer_close(peer);
    return status;
}

/* A runner in the middle of its work: its process, or -1. */
static pid_t runner_start(enum memory_kind kind)
{
    int ready[2];
    char byte;
    pid_t pid;

    if (pipe2(ready, O_CLOEXEC) < 0)
        return -1;
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        close(ready[0]);
        _exit(runner_main(kind, ready[1]));
    }
    close(ready[1]);
    if (pid > 0 && read(ready[0], &byte, 1) != 1) {
        waitpid(pid, NULL, 0);
        pid = -1;
    }
    close(ready[0]);
    return pid;
}

static void interrupt_test(enum memory_kind kind)
{
    const char *name = memory_kind_names[kind], *missing[MEMORY_KINDS];
    char before[STATE_SIZE], during[STATE_SIZE];
    struct peer *second;
    int status = -1;
    pid_t pid;

    state_take(before);
    pid = runner_start(kind);
    if (!ok(pid > 0, "%s: a run is in the middle", name))
        return;
    state_take(during);
    ok(strcmp(before, during) != 0, "%s: something is there to be left", name);
    is(peers_open(&second, missing), 0, "%s: a second run", name);
    ok(missing[kind] != NULL && strstr(missing[kind], "another benchmark") != NULL,
       "%s: is told of the first", name);
    peer_close(second);
    kill(pid, SIGINT);
    waitpid(pid, &status, 0);
    is(status, 0, "%s: it ends after SIGINT", name);
    state_is(before, name);
}

static void kill_test(enum memory_kind kind)
{
    const char *name = memory_kind_names[kind], *missing[MEMORY_KINDS];
    char before[STATE_SIZE], after[STATE_SIZE];
    struct peer *peer;
    pid_t pid;

    state_take(before);
    pid = runner_start(kind);
    if (!ok(pid > 0, "%s: a run is in the middle", name))
        return;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    state_take(after);
    ok(strcmp(before, after) != 0, "%s: SIGKILL leaves something behind", name);
    is(peer_open(&peer, &(struct peer_options){.dir = "/var/tmp", .length = LENGTH}, missing), 0,
       "%s: the next run, elsewhere", name);
    ok(missing[kind] == NULL, "%s: can have it", name);
    peer_close(peer);
    state_is(before, name);
}

/* ---- What cannot be had ---- */

static void without_root_test(void)
{
    const char *missing[MEMORY_KINDS];
    bool right = true;
    struct peer *peer;
    int status = -1;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        if ((geteuid() == 0 && setresuid(NOBODY, NOBODY, NOBODY) < 0) ||
            peers_open(&peer, missing) != 0)
            _exit(2);
        for (unsigned kind = 0; kind < MEMORY_KINDS; kind++)
            right = right && (memory_kind_managed(kind)
                                  ? missing[kind] == NULL
                                  : missing[kind] != NULL && strstr(missing[kind], "root") != NULL);
        right = right && peer_prepare(peer, MANAGED, 0) == 0 && peer_enter(peer) == 0 &&
                peer_prepare(peer, SWAP, limit_of()) == -ENOTSUP;
        peer_close(peer);
        _exit(right ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    is(status, 0, "without root: managed memory alone, and why");
}

static void without_directory_test(void)
{
    const char *missing[MEMORY_KINDS];
    struct peer *peer;

    is(peer_open(&peer, &(struct peer_options){.dir = "/nowhere", .length = LENGTH}, missing), 0,
       "a directory that is not there");
    ok(missing[MANAGED] == NULL && missing[SWAP] != NULL && missing[MAPPED] != NULL,
       "is a reason to leave the peers out");
    peer_close(peer);
}

int main(void)
{
    const char *missing[MEMORY_KINDS];
    struct peer *peer;

    if (mkdtemp(dir) == NULL)
        skip_all("no directory in /var/tmp: %s", strerror(errno));
    without_root_test();
    without_directory_test();
    if (geteuid() != 0) {
        skip("the peers take root");
    } else if (SANITIZED) {
        skip("%s takes more memory than the groups grant", SANITIZER);
    } else {
        kinds_test();
        peers_open(&peer, missing);
        peer_close(peer);
        for (unsigned kind = SWAP; kind < MEMORY_KINDS; kind++) {
            if (missing[kind] != NULL) {
                skip("%s in the middle: not to be had", memory_kind_names[kind]);
                continue;
            }
            interrupt_test(kind);
            kill_test(kind);
        }
    }
    rmdir(dir);
    return done_testing();
}
