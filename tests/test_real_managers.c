/*
 * Several managers live in one process, whatever their mappers and traps, and leave nothing behind.
 */
#include <dirent.h>
#include <pthread.h>

#include "real_fixture.h"

#define PAGES 1024UL
#define ROUNDS 20
/*
 * Mappings are counted after each round. Stacks and heaps that the C library keeps come and go, and
 * a sanitizer's by the hundred, but one mapping left by each manager would add up: the fewest of
 * the last rounds would be more than the most of the first, by those of all rounds between.
 */
#define COMPARED 5
#define MAPPINGS_NOISE (THREADS * (ROUNDS - 2 * COMPARED) / 2)
#define THREADS 5

static const char *const confs[THREADS] = {
    "mapper:copy,trap:thread,memory:1M", "mapper:copy,trap:sigbus,memory:1M",
    "mapper:move,trap:thread,memory:1M", "mapper:move,trap:sigbus,memory:1M",
    "mapper:copy,trap:thread,memory:1M,stage:basic"};

struct run {
    const char *conf;
    uint64_t generation;
    int error;
    size_t wrong;
};

static void *live(void *argument)
{
    struct run *run = argument;
    struct vmsm *m;
    void *memory;
    char *base;

    run->error = vmsm_create(&m, run->conf);
    if (run->error != 0)
        return NULL;
    run->error = vmsm_map(m, PAGES * PAGE, &memory);
    if (run->error == 0) {
        base = memory;
        for (size_t p = 0; p < PAGES; p++)
            real_fill(base, p, run->generation);
        for (size_t p = 0; p < PAGES; p++)
            run->wrong += !real_right(base, p, run->generation);
        run->error = vmsm_check(m);
    }
    vmsm_destroy(m); /* with its region still mapped */
    return NULL;
}

static size_t count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    size_t n = 0;

    while (dir != NULL && readdir(dir) != NULL)
        n++;
    if (dir != NULL)
        closedir(dir);
    return n;
}

static size_t count_mappings(void)
{
    FILE *f = fopen("/proc/self/maps", "r");
    size_t n = 0;
    int c;

    while (f != NULL && (c = getc(f)) != EOF)
        n += c == '\n';
    if (f != NULL)
        fclose(f);
    return n;
}

static bool round_of(uint64_t round)
{
    pthread_t threads[THREADS];
    struct run runs[THREADS] = {0};

    for (unsigned i = 0; i < THREADS; i++) {
        runs[i].conf = confs[i];
        runs[i].generation = round * THREADS + i + 1;
        pthread_create(&threads[i], NULL, live, &runs[i]);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < THREADS; i++) {
        if (runs[i].error == -ENOSYS || runs[i].error == -EPERM) {
            skip("%s cannot be used here", confs[i]);
            continue;
        }
        is(runs[i].error, 0, "round %llu, %s: ran", (unsigned long long)round, confs[i]);
        is(runs[i].wrong, 0, "round %llu, %s: every page is right", (unsigned long long)round,
           confs[i]);
    }
    return true;
}

int main(void)
{
    size_t fds, first = 0, last = SIZE_MAX;

    round_of(0); /* thread stacks and the like stay cached from here on */
    fds = count_fds();
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        size_t mappings;

        round_of(round);
        mappings = count_mappings();
        if (round <= COMPARED && mappings > first)
            first = mappings;
        if (round > ROUNDS - COMPARED && mappings < last)
            last = mappings;
    }
    is(count_fds(), fds, "no descriptor is left");
    ok(last <= first + MAPPINGS_NOISE,
       "mappings: at most %zu after each of the first %d rounds, then at least %zu", first,
       COMPARED, last);
    return done_testing();
}
