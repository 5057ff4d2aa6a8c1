/*
 * The program drops pages by a system call that nobody sees, while they are trimmed: who reads such
 * a page sleeps in a fault, and that must end whatever the handlers wait for.
 *
 * Each case has a process of its own, which is killed if it does not end: a hang is a failure.
 */
#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "core/platform.h"
#include "mapper/mapper.h"
#include "real_fixture.h"

#define CASE_PAGES 8192u
#define CASE_SECONDS 4u
#define CASE_SECONDS_MAX 40u
#define TAKE_SECONDS 2
#define CANNOT 43

static const char *const settings[] = {
    "mapper:copy,trap:thread",
    "mapper:copy,trap:thread,fault_threads:1",
    "mapper:copy,trap:thread,fault_threads:2,fine_locks:off",
    "mapper:copy,trap:sigbus",
};

struct range {
    char *base;
    size_t pages;
    atomic_bool *stop;
    unsigned seed;
};

static unsigned next(unsigned *seed)
{
    *seed = *seed * 1103515245 + 12345;
    return *seed >> 8;
}

static void *drop(void *argument)
{
    struct range r = *(struct range *)argument;

    while (!atomic_load(r.stop)) {
        char *page = r.base + next(&r.seed) % (r.pages - 8) * PAGE;

        syscall(SYS_madvise, page, (1 + r.seed % 8) * PAGE, MADV_DONTNEED);
    }
    return NULL;
}

static void *store(void *argument)
{
    struct range r = *(struct range *)argument;

    while (!atomic_load(r.stop))
        atomic_store_explicit((_Atomic char *)(r.base + next(&r.seed) % r.pages * PAGE), 1,
                              memory_order_relaxed); /* two threads may meet on a page */
    return NULL;
}

/* Exit status of a process: 0, 1, or CANNOT. */
static int run_manager(const char *conf)
{
    void *(*const mains[])(void *) = {drop, store, store};
    struct range ranges[3];
    pthread_t threads[3];
    atomic_bool stop = false;
    char all[REAL_CONF_MAX];
    struct vmsm *m;
    void *memory;
    int status;

    snprintf(all, sizeof(all), "%s,memory:4M", conf);
    status = vmsm_create(&m, all);
    if (status != 0)
        return status == -ENOSYS || status == -EPERM ? CANNOT : 1;
    if (vmsm_map(m, CASE_PAGES * PAGE, &memory) != 0)
        return 1;
    for (unsigned i = 0; i < 3; i++) {
        ranges[i] = (struct range){memory, CASE_PAGES, &stop, i + 1};
        if (pthread_create(&threads[i], NULL, mains[i], &ranges[i]) != 0)
            return 1;
    }
    sleep(CASE_SECONDS);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    status = vmsm_check(m) != 0;
    vmsm_destroy(m);
    return status;
}

/* Pages are taken from a mapper while they are dropped, and there is no handler at all. */
static int run_mapper(const char *unused)
{
    static struct sync sync = {.backend = &sync_backend_linux};
    struct mapper_options options = {
        .frames = SECTION_PAGES, .buffers = SECTION_PAGES, .active = SECTION_PAGES, .stage = 64};
    static uintptr_t va[SECTION_PAGES];
    static uint32_t buffers[SECTION_PAGES];
    static int results[SECTION_PAGES];
    atomic_bool stop = false;
    struct range range = {.pages = SECTION_PAGES, .stop = &stop, .seed = 1};
    struct mapper *mapper;
    uintptr_t base = 0;
    pthread_t dropper;
    time_t end;
    int status;

    (void)unused;
    status = mapper_copy_open(&sync, &options, &mapper);
    if (status != 0)
        return status == -ENOSYS || status == -EPERM ? CANNOT : 1;
    if (mapper->ops->region_open(mapper, SECTION_PAGES * PAGE, &base) != 0)
        return 1;
    range.base = (char *)base;
    for (uint32_t i = 0; i < SECTION_PAGES; i++) {
        va[i] = base + i * PAGE;
        buffers[i] = i;
    }
    if (pthread_create(&dropper, NULL, drop, &range) != 0)
        return 1;
    end = time(NULL) + TAKE_SECONDS;
    while (status == 0 && time(NULL) < end) {
        mapper->ops->take(mapper, SECTION_PAGES, va, buffers, results);
        for (uint32_t i = 0; i < SECTION_PAGES; i++)
            status |= results[i];
    }
    atomic_store(&stop, true);
    pthread_join(dropper, NULL);
    mapper->ops->region_close(mapper, base, SECTION_PAGES * PAGE);
    mapper->ops->close(mapper);
    return status != 0;
}

/* Does the process end in time? Killed if not. */
static bool ends(pid_t child, int *status)
{
    const struct timespec brief = {.tv_nsec = 50000000};

    for (unsigned i = 0; i < CASE_SECONDS_MAX * 20; i++) {
        if (waitpid(child, status, WNOHANG) == child)
            return true;
        nanosleep(&brief, NULL);
    }
    kill(child, SIGKILL);
    waitpid(child, status, 0);
    return false;
}

static void expect(int (*run)(const char *), const char *conf)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0)
        _exit(run(conf));
    if (!ok(ends(child, &status), "%s: pages dropped unseen stop nothing", conf))
        return;
    if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT)
        skip("%s cannot be used here", conf);
    else
        ok(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: all is right (status %#x)", conf,
           (unsigned)status);
}

int main(void)
{
    expect(run_mapper, "mapper:copy without a handler");
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
        expect(run_manager, settings[i]);
    return done_testing();
}
