/*
 * This process: what it was told to do, when its manager is made, and what is reported of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "core/tunables.h"
#include "internal.h"
#include "preload/go.h"
#include "preload/guard.h"
#include "preload/kernel.h"
#include "preload/preload.h"
#include "preload/renamed.h"
#include "preload/settings.h"

#define MIB (1024UL * 1024)
#define EARLY_SHARE 16u
#define EARLY_MOST (64 * MIB)
#define ARENA_LARGEST (1024UL * 1024 * MIB)
#define ARENA_SMALLEST (1024UL * MIB)
#define RANGES_MAX 65536u /* more the kernel would not have either (vm.max_map_count) */
#define DEFAULT_DIRECTORY "/var/tmp"
#define ASK_EVERY (16 * MIB) /* of promises: how much room the file system has */
/* Of the limit, never promised: pages mapped ahead of need are charged too. */
#define SLACK_SHARE 16u

struct arena arena;
struct process process;

static struct tunables settings;          /* constant after start */
static char pagefile_directory[PATH_MAX]; /* "": the default. Constant after start */
static char report_path[PATH_MAX];        /* "": none. Constant after start */
static bool first;                        /* what `vmsm run` became, not a child of it */
static struct timespec started;           /* constant after start */
static _Atomic size_t early;              /* bytes mapped before there was a manager, by estimate */
static _Atomic bool reported;
static pid_t self;                   /* a child by vfork() is another */
static _Atomic unsigned plain_forks; /* by the C library, under way */

/* ---- before there is a manager ---- */

size_t process_memory(void)
{
    return settings.memory;
}

bool process_is_shared(void)
{
    return getpid() != self;
}

/* What another process makes goes with it: handler threads, and all that has a descriptor. */
static bool may_manage(void)
{
    return atomic_load(&plain_forks) == 0 && !process_is_shared();
}

bool process_early(size_t length)
{
    if (!process.active)
        return false;
    if (atomic_load_explicit(&arena.managed, memory_order_acquire))
        return true;
    if (atomic_load(&early) + length > process.early_most && may_manage())
        return true;
    atomic_fetch_add(&early, length);
    return false;
}

void process_early_gone(size_t length)
{
    size_t now = atomic_load(&early);

    if (atomic_load_explicit(&arena.managed, memory_order_relaxed))
        return;
    while (!atomic_compare_exchange_weak(&early, &now, now > length ? now - length : 0))
        continue;
}

/* ---- making it ---- */

static const char *program_name(void)
{
    return program_invocation_short_name;
}

static int arena_open(void)
{
    size_t bytes = RANGES_MAX * sizeof(struct space_range), size = ARENA_LARGEST;
    void *ranges, *base = NULL;
    int error;

    ranges = kernel_mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ranges == MAP_FAILED)
        return error_set(-ENOMEM, "no address space for a table of %u ranges", RANGES_MAX);
    do
        error = vmsm_reserve(arena.manager, size, &base);
    while (error == -ENOMEM && (size /= 2) >= ARENA_SMALLEST);
    if (error == 0 && kernel_mprotect(base, size, PROT_NONE) != 0)
        error = error_set(-errno, "the arena cannot be protected: %s", strerror(errno));
    if (error != 0) {
        kernel_munmap(ranges, bytes);
        return error;
    }
    arena.base = (uintptr_t)base;
    arena.end = arena.base + size;
    space_init(&arena.space, arena.base, arena.end, ranges, RANGES_MAX);
    return 0;
}

int process_manage(void)
{
    struct tunables t = settings;
    uint64_t counted;
    int error;

    if (atomic_load_explicit(&arena.managed, memory_order_relaxed))
        return 0;
    if (process.unmanageable)
        return -ENOMEM;
    if (!may_manage())
        return -EAGAIN;
    counted = atomic_load(&early); /* more than early_most, if there were forks or by a child */
    if (counted > t.memory / 2)
        counted = t.memory / 2;
    t.memory -= counted & ~(uint64_t)(VMSM_PAGE_SIZE - 1);
    own_depth++;
    error = vmsm_create_tuned(&arena.manager, &t);
    if (error == 0) {
        error = arena_open();
        if (error != 0)
            vmsm_destroy(arena.manager);
    }
    own_depth--;
    if (error == 0) {
        atomic_store_explicit(&arena.managed, true, memory_order_release);
        log_show_advice(false); /* a fork opens another pagefile */
        return 0;
    }
    process.unmanageable = true;
    log_line(LOG_ERROR, "run: %s (process %d) cannot be managed: %s", program_name(), (int)getpid(),
             error_last());
    return -ENOMEM;
}

/* ---- forks without a manager ---- */

bool process_plain_fork(void)
{
    struct gate_hold before;
    bool managed;

    if (atomic_load_explicit(&arena.managed, memory_order_acquire))
        return false;
    atomic_fetch_add(&plain_forks, 1);
    gate_lock(&before); /* whoever is making one has done so */
    managed = arena.managed;
    gate_unlock(&before);
    if (managed)
        atomic_fetch_sub(&plain_forks, 1);
    return !managed;
}

void process_plain_forked(bool child)
{
    if (child) {
        gate_reset(false);
        atomic_store(&plain_forks, 0);
    } else {
        atomic_fetch_sub(&plain_forks, 1);
    }
}

/* ---- promises ---- */

/* Pages that the pagefile may still grow by: what its file system has, and what the user may. */
static uint64_t growth(void)
{
    struct statvfs fs;
    struct rlimit limit;
    uint64_t pages;

    if (fstatvfs(descriptor_directory(), &fs) != 0)
        return 0;
    pages = (uint64_t)fs.f_bavail * fs.f_frsize / VMSM_PAGE_SIZE;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur / VMSM_PAGE_SIZE < pages)
        pages = limit.rlim_cur / VMSM_PAGE_SIZE;
    return pages;
}

uint64_t process_promise_limit(void)
{
    static uint64_t known, known_at; /* (gate) it was so when so much was charged */
    struct vmsm_counters counters;
    uint64_t limit;

    /* Asking the file system takes a while, and mostly far less than it has is wanted. But others
     * use it as well. */
    if (arena.space.charged / VMSM_PAGE_SIZE * 2 < known &&
        arena.space.charged < known_at + ASK_EVERY)
        return known;
    vmsm_get_counters(arena.manager, &counters);
    limit = counters.commit_limit;
    if (settings.pagefile_size == 0)
        limit += growth();
    limit -= limit / SLACK_SHARE;
    known = limit;
    known_at = arena.space.charged;
    return limit;
}

/* ---- reporting ---- */

static double seconds_since(const struct timespec *start)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

static void report_stats(const struct vmsm_counters *c, long peak_kib)
{
    log_line(LOG_ERROR,
             "run: %s (process %d), %.2f s: memory %" PRIu64
             " MiB; peak resident %ld MiB with code and libraries; managed %" PRIu64
             " MiB at its peak; faults: %" PRIu64 " first touches, %" PRIu64 " rescues, %" PRIu64
             " from the pagefile; pagefile: %" PRIu64 " MiB in use, %" PRIu64
             " MiB written, %" PRIu64 " MiB read",
             program_name(), (int)getpid(), seconds_since(&started), settings.memory / MIB,
             peak_kib / 1024, arena.space.charged_peak / MIB, c->faults_first_touch,
             c->faults_standby + c->faults_modified + c->faults_writing, c->faults_hard,
             c->slots_used >> 8, c->pages_written >> 8, c->pages_read >> 8);
    if (process.refused > 0)
        log_line(LOG_ERROR,
                 "run: %s (process %d): memory was refused %" PRIu64
                 " times, for memory and pagefile have room for %" PRIu64
                 " MiB: give more --memory, or a --pagefile where there is more room",
                 program_name(), (int)getpid(), process.refused, process_promise_limit() >> 8);
}

/* One line of JSON, added to the file by one write, since several processes may share it. */
static void report_file(const struct vmsm_counters *c, long peak_kib)
{
    char line[8192];
    int fd, used;

    fd = open(report_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        log_line(LOG_ERROR, "run: the report %s cannot be written: %s", report_path,
                 strerror(errno));
        return;
    }
    used =
        snprintf(line, sizeof(line),
                 "{\"process\": %d, \"managed\": %s, \"seconds\": %.3f, \"memory\": %" PRIu64
                 ", \"peak_resident\": %ld, \"peak_managed\": %" PRIu64 ", \"refused\": %" PRIu64,
                 (int)getpid(), arena.managed ? "true" : "false", seconds_since(&started),
                 settings.memory, peak_kib * 1024, arena.space.charged_peak, process.refused);
#define REPORT_COUNTER(name, kind, help)                                                           \
    used +=                                                                                        \
        snprintf(line + used, sizeof(line) - (size_t)used, ", \"" #name "\": %" PRIu64, c->name);
    VMSM_COUNTERS(REPORT_COUNTER)
#undef REPORT_COUNTER
    used += snprintf(line + used, sizeof(line) - (size_t)used, "}\n");
    if (write(fd, line, (size_t)used) != used)
        log_line(LOG_ERROR, "run: the report %s was not written whole", report_path);
    close(fd);
}

/* VmHWM: getrusage() tells of what ran here before exec as well. */
static long peak_resident_kib(void)
{
    char text[4096];
    const char *line;
    ssize_t got = -1;
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        got = kernel_read(fd, text, sizeof(text) - 1);
        close(fd);
    }
    text[got > 0 ? got : 0] = '\0';
    line = strstr(text, "VmHWM:");
    return line != NULL ? atol(line + strlen("VmHWM:")) : 0;
}

static long read_counters(const uintptr_t *a)
{
    return vmsm_get_counters(arena.manager, (struct vmsm_counters *)a[0]);
}

static void write_report(void)
{
    struct vmsm_counters counters = {0};
    long peak;

    peak = peak_resident_kib();
    if (arena.managed)
        gate_shared_call(read_counters, (uintptr_t[]){(uintptr_t)&counters});
    if (process.stats && (arena.managed || first))
        report_stats(&counters, peak);
    if (report_path[0] != '\0')
        report_file(&counters, peak);
}

/* To be cancelled on the way would be the end of the thread, not of the process. */
static void report(void)
{
    int saved = errno, state;

    if (!process.active || (!process.stats && report_path[0] == '\0') || getpid() != self ||
        atomic_exchange(&reported, true))
        return;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    write_report();
    pthread_setcancelstate(state, NULL);
    errno = saved;
}

void process_forked(void)
{
    atomic_store(&reported, false);
    process.refused = 0;
    first = false;
    log_show_advice(false);
    self = getpid();
}

__attribute__((destructor)) static void finish(void)
{
    report();
}

/* Programs that end without exit() are reported all the same. */
PRELOAD_API __attribute__((noreturn)) void _exit(int status)
{
    report();
    for (;;)
        kernel_call(SYS_exit_group, status);
}

PRELOAD_API __attribute__((noreturn)) void _Exit(int status) __attribute__((alias("_exit")));

/* ---- starting ---- */

char *own_secure_getenv(const char *name)
{
    if (strcmp(name, "TMPDIR") != 0 || pagefile_directory[0] == '\0')
        return NULL;
    return pagefile_directory;
}

/*
 * A named pagefile can serve one process. It is the first one's; those that it starts have a
 * nameless one in the same directory. The environment is read here and never again: the program may
 * be changing it.
 */
static void choose_pagefile(void)
{
    const char *temporary = getenv("TMPDIR");
    struct stat st;
    char *slash;

    if (settings.pagefile[0] == '\0') {
        snprintf(pagefile_directory, sizeof(pagefile_directory), "%s",
                 temporary != NULL ? temporary : "");
        return;
    }
    snprintf(pagefile_directory, sizeof(pagefile_directory), "%s", settings.pagefile);
    if (stat(settings.pagefile, &st) == 0 && S_ISDIR(st.st_mode)) {
        settings.pagefile[0] = '\0';
        return;
    }
    slash = strrchr(pagefile_directory, '/');
    if (slash != NULL)
        slash[slash == pagefile_directory] = '\0';
    if (!first)
        settings.pagefile[0] = '\0';
}

/* Not by unsetenv(): programs have one of their own (bash). */
static void forget_variable(const char *name)
{
    size_t length = strlen(name), kept = 0;

    for (size_t i = 0; environ[i] != NULL; i++) {
        if (strncmp(environ[i], name, length) != 0 || environ[i][length] != '=')
            environ[kept++] = environ[i];
    }
    environ[kept] = NULL;
}

/* Programs that this one starts are to find the environment as it was. */
static void restore_environment(void)
{
    const char *before = getenv(RUN_ENV_BEFORE);
    char *preload = getenv("LD_PRELOAD");

    if (before == NULL || preload == NULL || strlen(before) > strlen(preload))
        forget_variable("LD_PRELOAD");
    else
        memcpy(preload, before, strlen(before) + 1);
    forget_variable(RUN_ENV_CONF);
    forget_variable(RUN_ENV_OPTIONS);
    forget_variable(RUN_ENV_REPORT);
    forget_variable(RUN_ENV_BEFORE);
}

static int find_go(struct dl_phdr_info *info, size_t size, void *found)
{
    (void)size;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];

        if (segment->p_type == PT_NOTE &&
            go_has_note((const char *)(info->dlpi_addr + segment->p_vaddr), segment->p_memsz))
            *(bool *)found = true;
    }
    return 1; /* the first is the program */
}

static bool is_go(void)
{
    bool found = false;

    dl_iterate_phdr(find_go, &found);
    return found;
}

/*
 * What would fail later is said now. A program that has less rights than who started it, which may
 * be `vmsm run`, has its calls guarded.
 */
static void check_rights(void)
{
    descriptor_start(pagefile_directory[0] == '\0' ? DEFAULT_DIRECTORY : pagefile_directory);
    if (descriptor_may_watch(!settings.kernel_faults || settings.trap == TRAP_SIGBUS))
        return;
    if (settings.kernel_faults && descriptor_may_watch(true)) {
        settings.kernel_faults = false;
        log_line(LOG_WARNING,
                 "run: %s (process %d, user %d) has no right to userfaultfd for faults in system "
                 "calls, which are guarded instead; see docs/run.md",
                 program_name(), (int)self, (int)getuid());
        return;
    }
    log_line(LOG_ERROR,
             "run: %s (process %d, user %d) cannot be managed, since userfaultfd is not permitted "
             "to it (%s): let root run `sysctl vm.unprivileged_userfaultfd=1`, or give it access "
             "to /dev/userfaultfd; see `vmsm doctor`",
             program_name(), (int)self, (int)getuid(), strerror(errno));
    _exit(125);
}

/* Guarded, SIGBUS costs nothing more, and its faults cost less. But a thread that a library has made may
 * have it blocked. */
static enum tunable_trap choose_trap(void)
{
    struct stat st;
    bool alone = stat("/proc/self/task", &st) == 0 && st.st_nlink <= 3; /* one, `.` and `..` */

    return !settings.kernel_faults && alone ? TRAP_SIGBUS : TRAP_THREAD;
}

/*
 * After the log (core/error.c, 101). The loader initializes a preloaded library after those that
 * the program was linked with, whose constructors may have allocated, made threads and forked by
 * then: until `active` is set, all that goes to the C library and the kernel.
 */
__attribute__((constructor(102))) static void start(void)
{
    const char *conf = getenv(RUN_ENV_CONF), *options = getenv(RUN_ENV_OPTIONS);
    const char *path = getenv(RUN_ENV_REPORT);
    bool no_children, sigbus;

    if (conf == NULL || options == NULL)
        return;
    tunables_init(&settings);
    if (tunables_parse(&settings, conf) != 0) {
        log_line(LOG_ERROR, "run: %s: %s", RUN_ENV_CONF, error_last());
        _exit(125);
    }
    clock_gettime(CLOCK_MONOTONIC, &started);
    process.stats = strchr(options, RUN_OPTION_STATS) != NULL;
    no_children = strchr(options, RUN_OPTION_NO_CHILDREN) != NULL;
    if (path != NULL)
        snprintf(report_path, sizeof(report_path), "%s", path);
    self = getpid();
    first = atoi(options) == self;
    log_show_advice(first);
    choose_pagefile();
    if (no_children)
        restore_environment();
    process.early_most = settings.memory / EARLY_SHARE;
    if (process.early_most > EARLY_MOST)
        process.early_most = EARLY_MOST;
    if (is_go()) { /* `vmsm run` refuses it; what a managed program starts is left alone */
        log_line(LOG_WARNING, "run: %s (process %d) is not managed: " GO_REFUSED, program_name(),
                 (int)self);
        return;
    }
    check_rights();
    if (settings.trap == TRAP_AUTO)
        settings.trap = choose_trap();
    sigbus = settings.trap == TRAP_SIGBUS;
    filter_install();
    thread_start();
    process.active = true;
    if ((!settings.kernel_faults || sigbus) && !guard_start(sigbus)) {
        log_line(LOG_ERROR,
                 "run: %s (process %d) cannot be managed: its system calls cannot be guarded (%s): "
                 "that needs Linux 5.11",
                 program_name(), (int)self, strerror(errno));
        _exit(125);
    }
}
