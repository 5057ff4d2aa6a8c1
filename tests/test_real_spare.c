/*
 * The spare handler: called while memory is filled, asleep while pages are read or nothing is done, and
 * what is filled with its help is right.
 */
#include <dirent.h>
#include <pthread.h>
#include <sched.h>

#include "real_fixture.h"

#define CONF "mapper:copy,trap:thread,large_share:0,memory:16M"
#define PAGES 8192u
#define FIT 2048u /* pages that fit easily */
#define FILLERS 4u
#define NAME_WAITS 1000u
#define TRIES 100u
#define CALLED 8ull /* turns of a spare that has been called */
#define READS 10000u
#define READ_TURNS 20ull /* if it takes a fault or two after the fill, and is preempted meanwhile */

struct worker {
    const struct real *r;
    size_t from, to;
    uint64_t generation;
    size_t wrong;
};

/* /proc/self/task/N/schedstat of the spare; false: there is none. */
static bool find_spare(char *path, size_t size)
{
    DIR *tasks = opendir("/proc/self/task");
    const struct dirent *task;
    bool found = false;

    while (tasks != NULL && !found && (task = readdir(tasks)) != NULL) {
        char name[32] = "";
        FILE *file;

        snprintf(path, size, "/proc/self/task/%s/comm", task->d_name);
        file = fopen(path, "re");
        if (file == NULL)
            continue;
        found = fgets(name, sizeof(name), file) != NULL && strcmp(name, "vmsm-spare\n") == 0;
        fclose(file);
        snprintf(path, size, "/proc/self/task/%s/schedstat", task->d_name);
    }
    if (tasks != NULL)
        closedir(tasks);
    return found;
}

/* It names itself when it first runs. */
static bool wait_for_spare(char *path, size_t size)
{
    for (unsigned i = 0; i < NAME_WAITS; i++) {
        if (find_spare(path, size))
            return true;
        usleep(10000);
    }
    return false;
}

/* How often it has been put on a processor so far. */
static unsigned long long turns_of(const char *path)
{
    unsigned long long ran, waited, turns = 0;
    FILE *file = fopen(path, "re");

    if (file == NULL || fscanf(file, "%llu %llu %llu", &ran, &waited, &turns) != 3)
        turns = 0;
    if (file != NULL)
        fclose(file);
    return turns;
}

/* First touches as fast as they can be made; then all of each page. */
static void *fill(void *argument)
{
    const struct worker *w = argument;

    for (size_t p = w->from; p < w->to; p++)
        *(volatile uint64_t *)(void *)(w->r->base + p * PAGE) = 1;
    for (size_t p = w->from; p < w->to; p++)
        real_fill(w->r->base, p, w->generation);
    return NULL;
}

static void *read_single(void *argument)
{
    struct worker *w = argument;
    uint64_t random = w->from + 1;

    for (unsigned i = 0; i < READS; i++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        w->wrong += !real_right(w->r->base, (random >> 33) % PAGES, w->generation);
    }
    return NULL;
}

/* Returns how many pages were wrong. */
static size_t by_all(const struct real *r, void *(*work)(void *), size_t pages, uint64_t generation)
{
    struct worker workers[FILLERS];
    pthread_t ids[FILLERS];
    size_t wrong = 0;

    for (unsigned i = 0; i < FILLERS; i++) {
        workers[i] = (struct worker){.r = r,
                                     .from = pages / FILLERS * i,
                                     .to = pages / FILLERS * (i + 1),
                                     .generation = generation};
        pthread_create(&ids[i], NULL, work, &workers[i]);
    }
    for (unsigned i = 0; i < FILLERS; i++) {
        pthread_join(ids[i], NULL);
        wrong += workers[i].wrong;
    }
    return wrong;
}

static void is_called(const struct real *r, const char *path)
{
    unsigned long long before = turns_of(path);
    size_t wrong = 0;
    unsigned try = 0;

    for (; try < TRIES && turns_of(path) < before + CALLED; try++) {
        is(vmsm_decommit(r->m, r->base, FIT * PAGE), 0, "memory is empty");
        by_all(r, fill, FIT, try + 1);
        wrong += real_count_wrong(r, 0, FIT, try + 1);
    }
    ok(turns_of(path) >= before + CALLED, "threads that fill memory have the spare called");
    is(wrong, 0, "what was filled is right, in %u fills", try);
}

static void sleeps_while_read(const struct real *r, const char *path)
{
    struct vmsm_counters counters;
    unsigned long long before, turns;
    uint64_t hard;

    real_fill_all(r, 1000);
    vmsm_advise(r->m, r->base, PAGES * PAGE, VMSM_RANDOM);
    by_all(r, read_single, PAGES, 1000); /* it may take one more fault */
    vmsm_get_counters(r->m, &counters);
    hard = counters.faults_hard;
    before = turns_of(path);
    is(by_all(r, read_single, PAGES, 1000), 0, "every page read is right");
    turns = turns_of(path) - before;
    vmsm_get_counters(r->m, &counters);
    ok(counters.faults_hard > hard + READS / 4, "many single pages were read");
    ok(turns <= READ_TURNS, "meanwhile the spare slept (%llu turns)", turns);
    before = turns_of(path);
    usleep(200000);
    ok(turns_of(path) <= before + 1, "and so it does when nothing is done");
}

int main(void)
{
    char path[300];
    struct real r;
    cpu_set_t allowed;

    if (access("/proc/self/schedstat", R_OK) != 0)
        skip_all("the kernel does not count the turns of threads (CONFIG_SCHED_INFO)");
    if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0 && CPU_COUNT(&allowed) < 2)
        skip_all("one processor: there is no spare");
    if (real_open(&r, PAGES, CONF ",fault_threads:1")) {
        usleep(100000);
        ok(!find_spare(path, sizeof(path)), "a number of handlers that is given is kept to");
        real_close(&r);
    }
    if (real_open(&r, PAGES, CONF)) {
        if (ok(wait_for_spare(path, sizeof(path)), "there is a spare")) {
            is_called(&r, path);
            sleeps_while_read(&r, path);
        }
        real_close(&r);
    }
    return done_testing();
}
