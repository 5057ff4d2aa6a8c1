/*
 * The benchmark's counts: what a known piece of work costs is found in them, what cannot be
 * counted is USAGE_NONE and said in words; and fio's figures come through.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../bench/disk.h"
#include "../bench/memory.h"
#include "../bench/usage.h"
#include "sanitizer.h"
#include "tap.h"

#define MIB ((size_t)1 << 20)
#define PAGES 256
#define PAGE 4096
#define CALLS 1000
#define WRITES 64

static char dir[] = "/var/tmp/vmsm-bench-test.XXXXXX";

static struct usage_source *source_open(struct memory *memory)
{
    struct usage_source *source = NULL;

    if (!ok(memory_open(memory, SWAP,
                        &(struct memory_options){.length = PAGES * PAGE, .settings = ""}) == 0,
            "ordinary memory") ||
        !ok(usage_open(&source, memory, dir) == 0, "its counts"))
        exit(done_testing());
    if (usage_missing(source)[0] != '\0')
        note("not counted: %s", usage_missing(source));
    return source;
}

static void difference_test(void)
{
    struct usage from = {.cpu_ns = 3, .faults = USAGE_NONE, .reads = 5};
    struct usage to = {.cpu_ns = 10, .faults = 7, .reads = USAGE_NONE}, cost;

    usage_difference(&from, &to, &cost);
    is(cost.cpu_ns, 7, "what was counted is subtracted");
    ok(cost.faults == USAGE_NONE && cost.reads == USAGE_NONE, "what was not stays unknown");
}

static void faults_test(void)
{
    struct usage from, to, cost;
    struct memory memory;
    struct usage_source *source = source_open(&memory);

    madvise(memory.base, memory.length, MADV_NOHUGEPAGE);
    usage_read(source, &from);
    for (size_t i = 0; i < PAGES; i++)
        *(volatile char *)(memory.base + i * PAGE) = 1;
    usage_read(source, &to);
    usage_difference(&from, &to, &cost);
    if (SANITIZED)
        skip("%s has faults of its own", SANITIZER);
    else
        ok(cost.faults >= PAGES && cost.faults < PAGES + 64, "%d first touches are %llu faults",
           PAGES, (unsigned long long)cost.faults);
    ok(cost.cpu_ns > 0 && cost.cpu_ns < UINT64_C(60000000000), "they take processor time");
    usage_close(source);
    is(memory_close(&memory), 0, "closed");
}

/* Small direct writes, in places apart. */
static bool file_write(void)
{
    char name[sizeof(dir) + 16];
    void *page = NULL;
    bool right;
    int fd;

    snprintf(name, sizeof(name), "%s/file", dir);
    fd = open(name, O_WRONLY | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    right = fd >= 0 && posix_memalign(&page, PAGE, PAGE) == 0;
    if (right)
        memset(page, 1, PAGE);
    for (int i = 0; right && i < WRITES; i++)
        right = pwrite(fd, page, PAGE, (off_t)i * 2 * PAGE) == PAGE;
    free(page);
    if (fd >= 0)
        close(fd);
    unlink(name);
    return right;
}

static void disk_test(void)
{
    struct usage from, to, cost;
    struct memory memory;
    struct usage_source *source = source_open(&memory);

    usage_read(source, &from);
    if (!file_write()) {
        skip("no direct writes in %s", dir);
    } else {
        usage_read(source, &to);
        usage_difference(&from, &to, &cost);
        if (cost.writes == USAGE_NONE)
            skip("%s", usage_missing(source));
        else
            ok(cost.writes >= WRITES && cost.write_bytes >= (uint64_t)WRITES * PAGE,
               "%d writes are %llu requests, %llu bytes", WRITES, (unsigned long long)cost.writes,
               (unsigned long long)cost.write_bytes);
    }
    usage_close(source);
    memory_close(&memory);
}

/* ---- System calls ---- */

struct gate {
    pthread_barrier_t start, end;
};

/* A barrier may take a few system calls of its own. */
static void *caller_main(void *arg)
{
    struct gate *gate = arg;

    pthread_barrier_wait(&gate->start);
    for (int i = 0; i < CALLS; i++)
        syscall(SYS_getppid);
    pthread_barrier_wait(&gate->end);
    return NULL;
}

/* In a mount namespace of its own, so that the system does not get a mount. Status: 77 cannot. */
static int syscalls_main(void)
{
    pthread_t early, late;
    struct usage from, to, cost;
    struct memory memory = {.kind = SWAP};
    struct usage_source *source;
    struct gate gate;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL) < 0)
        return 77;
    pthread_barrier_init(&gate.start, NULL, 3);
    pthread_barrier_init(&gate.end, NULL, 3);
    if (pthread_create(&early, NULL, caller_main, &gate) != 0 ||
        usage_open(&source, &memory, dir) != 0 ||
        pthread_create(&late, NULL, caller_main, &gate) != 0)
        return 2;
    usage_read(source, &from);
    pthread_barrier_wait(&gate.start);
    pthread_barrier_wait(&gate.end);
    usage_read(source, &to);
    pthread_join(early, NULL);
    pthread_join(late, NULL);
    usage_difference(&from, &to, &cost);
    if (cost.syscalls == USAGE_NONE) {
        note("not counted: %s", usage_missing(source));
        return 77;
    }
    note("two threads' %d calls each: %llu counted", CALLS, (unsigned long long)cost.syscalls);
    usage_close(source);
    return cost.syscalls >= 2 * CALLS && cost.syscalls < 2 * CALLS + CALLS / 2 ? 0 : 1;
}

static void syscalls_test(void)
{
    int status = -1;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        status = syscalls_main();
        fflush(stdout);
        _exit(status);
    }
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip("no tracefs, or no right to count");
    else
        is(status, 0, "system calls of threads that were there, and of later ones, are counted");
}

/* ---- fio ---- */

static void fio_test(void)
{
    int file = disk_open(dir, 16 * MIB);
    struct disk_figure figures[] = {{.random = true, .block = PAGE, .depth = 8},
                                    {.write = true, .block = 256 * 1024, .depth = 2}};

    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
        struct disk_figure *figure = &figures[i];
        int error = disk_measure(file, 16 * MIB, 0.2, figure);

        if (error == -ENOENT) {
            skip("fio is not installed");
            continue;
        }
        is(error, 0, "fio measures %s", figure->write ? "writes" : "random reads");
        ok(figure->bytes_per_second > PAGE, "and its figure comes through");
        note("%.0f bytes a second", figure->bytes_per_second);
    }
    close(file);
    is(disk_open("/nowhere", 16 * MIB), -ENOENT, "a directory that is not there");
    is(rmdir(dir), 0, "and no file is left");
}

int main(void)
{
    if (mkdtemp(dir) == NULL)
        skip_all("no directory in /var/tmp: %s", strerror(errno));
    difference_test();
    faults_test();
    disk_test();
    syscalls_test();
    fio_test();
    return done_testing();
}
