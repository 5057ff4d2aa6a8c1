/*
 * Threads of the manager sleep when there is nothing to do: after a burst of faults of several
 * threads, in which handlers poll, not one of them runs any more.
 */
#include <dirent.h>
#include <pthread.h>

#include "real_fixture.h"

#define PAGES 1024u
#define THREADS 3u
#define LOOKS_MAX 400u

struct filler {
    struct real *r;
    unsigned number;
};

static void *fill(void *argument)
{
    const struct filler *f = argument;

    for (uint64_t generation = 1; generation <= 3; generation++) {
        for (size_t p = f->number; p < PAGES; p += THREADS)
            real_fill(f->r->base, p, generation);
    }
    return NULL;
}

/* Is it one of the manager's? A sanitizer has threads too. */
static bool is_ours(const char *task)
{
    char path[300], name[32] = "";
    FILE *file;

    snprintf(path, sizeof(path), "/proc/self/task/%s/comm", task);
    file = fopen(path, "re");
    if (file == NULL)
        return false;
    if (fgets(name, sizeof(name), file) == NULL)
        name[0] = '\0';
    fclose(file);
    return strncmp(name, "vmsm-", 5) == 0;
}

/* How often the manager's threads have been put on a processor so far. */
static unsigned long long count_turns(unsigned *threads)
{
    DIR *tasks = opendir("/proc/self/task");
    unsigned long long turns = 0;
    struct dirent *task;

    *threads = 0;
    while (tasks != NULL && (task = readdir(tasks)) != NULL) {
        unsigned long long ran, waited, n;
        char path[300];
        FILE *file;

        if (!is_ours(task->d_name))
            continue;
        snprintf(path, sizeof(path), "/proc/self/task/%s/schedstat", task->d_name);
        file = fopen(path, "re");
        if (file == NULL)
            continue;
        if (fscanf(file, "%llu %llu %llu", &ran, &waited, &n) == 3) {
            turns += n;
            ++*threads;
        }
        fclose(file);
    }
    if (tasks != NULL)
        closedir(tasks);
    return turns;
}

/* True as soon as no thread has run between two looks, a tenth of a second apart. */
static bool falls_asleep(unsigned *threads)
{
    unsigned long long before = count_turns(threads);

    for (unsigned look = 0; look < LOOKS_MAX; look++) {
        unsigned long long now;

        usleep(100000);
        now = count_turns(threads);
        if (now == before)
            return true;
        before = now;
    }
    return false;
}

static void idle(const char *kind)
{
    struct filler fillers[THREADS];
    pthread_t ids[THREADS];
    unsigned threads;
    struct real r;

    if (!real_open(&r, PAGES, "%s,memory:1M", kind))
        return;
    for (unsigned i = 0; i < THREADS; i++) {
        fillers[i] = (struct filler){.r = &r, .number = i};
        pthread_create(&ids[i], NULL, fill, &fillers[i]);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(ids[i], NULL);
    ok(falls_asleep(&threads), "%s: none of its threads runs when there is nothing to do", kind);
    ok(threads >= 3, "%s: they are %u", kind, threads);
    is(real_count_wrong(&r, 0, PAGES, 3), 0, "%s: every page is right", kind);
    real_close(&r);
}

int main(void)
{
    unsigned threads;

    count_turns(&threads);
    if (access("/proc/self/schedstat", R_OK) != 0)
        skip_all("the kernel does not count the turns of threads (CONFIG_SCHED_INFO)");
    for (size_t k = 0; k < REAL_KINDS; k++)
        idle(real_kinds[k]);
    return done_testing();
}
