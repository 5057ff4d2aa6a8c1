/*
 * A program that sandboxes itself in the middle of a run, all threads at once, so that the rings of
 * the pagefile's queues are refused: no page is lost or wrong, no slot is withdrawn, and all goes on.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "internal.h"
#include "no_io_uring.h"
#include "real_fixture.h"

#define PAGES 2048UL
#define MANAGERS_MAX 8u
#define ALONE_US 200000
#define MESSAGE "io_uring is refused"

static const char *const kinds[] = {
    "mapper:copy,trap:thread",
    "mapper:copy,trap:sigbus",
    "mapper:move,trap:thread",
    "mapper:move,trap:sigbus",
    "mapper:copy,trap:thread,encrypt:on",
    "mapper:copy,trap:thread,fault_threads:2,store_depth:2",
    "mapper:copy,trap:thread,store_delay:1ms",
};

struct user {
    struct real real;
    pthread_t thread;
    uint64_t generation; /* of all pages, when the thread has ended */
    size_t wrong;
    _Atomic unsigned sweeps;
};

static atomic_bool stop;

static size_t count_bad(const struct real *r, size_t from, size_t to, uint64_t generation)
{
    size_t bad = 0;

    for (size_t p = from; p < to; p++)
        bad += real_look(r->base, p, generation) != PAGE_RIGHT;
    return bad;
}

/* Read and write all, again and again. */
static void *use(void *argument)
{
    struct user *user = argument;

    while (!atomic_load(&stop)) {
        user->wrong += count_bad(&user->real, 0, PAGES, user->generation);
        user->generation++;
        for (size_t p = 0; p < PAGES; p++)
            user->wrong += !real_try_fill(user->real.base, p, user->generation);
        atomic_fetch_add(&user->sweeps, 1);
    }
    return NULL;
}

static void wait_for_sweeps(struct user *users, unsigned count, unsigned sweeps)
{
    unsigned before[MANAGERS_MAX];

    for (unsigned i = 0; i < count; i++)
        before[i] = atomic_load(&users[i].sweeps);
    for (unsigned i = 0; i < count; i++) {
        while (atomic_load(&users[i].sweeps) < before[i] + sweeps)
            usleep(1000);
    }
}

/* How many messages say so? */
static unsigned refusals(int log)
{
    static char all[1 << 18];
    ssize_t got = pread(log, all, sizeof(all) - 1, 0);
    unsigned n = 0;

    all[got > 0 ? got : 0] = '\0';
    for (const char *at = all; (at = strstr(at, MESSAGE)) != NULL; at += strlen(MESSAGE))
        n++;
    return n;
}

static void forked(const struct user *user)
{
    const struct real *r = &user->real;
    struct store *copy;
    int status = -1;
    pid_t child;

    if (!real_is_copy(r->conf) || strstr(r->conf, "encrypt") != NULL)
        return; /* a child cannot have it */
    if (SANITIZED) {
        skip("%s: sanitizers do not let a child have threads", r->conf);
        return;
    }
    if (!ok(vmsm_fork_prepare(r->m, &copy) == 0, "%s: a fork is prepared: %s", r->conf,
            vmsm_last_error()))
        return;
    child = fork();
    if (child == 0) {
        alarm(60);
        _exit(vmsm_fork_child(r->m, copy) == 0 && count_bad(r, 0, PAGES, user->generation) == 0
                  ? 0
                  : 1);
    }
    vmsm_fork_parent(r->m, copy);
    waitpid(child, &status, 0);
    is(status, 0, "%s: a child has all pages", r->conf);
}

static void afterwards(struct user *user)
{
    const struct real *r = &user->real;
    size_t half = PAGES / 2;
    struct vmsm_counters c;

    is(user->wrong, 0, "%s: no page was wrong or lost meanwhile", r->conf);
    is(count_bad(r, 0, PAGES, user->generation), 0, "%s: nor is one now", r->conf);
    forked(user);
    is(vmsm_decommit(r->m, r->base, half * PAGE), 0, "%s: half is decommitted", r->conf);
    is(count_bad(r, 0, half, 0), 0, "%s: and reads as zeroes", r->conf);
    is(count_bad(r, half, PAGES, user->generation), 0, "%s: the other half is as it was", r->conf);
    real_fill_all(r, user->generation + 1);
    is(count_bad(r, 0, PAGES, user->generation + 1), 0, "%s: all can be written again", r->conf);
    c = counters_of(r->m);
    is(c.pages_lost + c.read_errors + c.write_errors + c.slots_bad, 0, "%s: nothing failed",
       r->conf);
    real_close(&user->real);
}

int main(void)
{
    static struct user users[MANAGERS_MAX];
    unsigned count = 0, rings = 0;
    int log = log_catch();

    catch_sigbus();
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        struct user *user = &users[count];

        if (!real_open(&user->real, PAGES, "memory:2M,%s", kinds[i]))
            continue;
        user->generation = 1;
        real_fill_all(&user->real, 1);
        count++;
    }
    rings = log_has(log, "io_uring cannot be used") ? 0 : count;
    for (unsigned i = 0; i < count; i++) {
        if (pthread_create(&users[i].thread, NULL, use, &users[i]) != 0)
            exit(1);
    }
    wait_for_sweeps(users, count, 1);
    is(refusals(log), 0, "so far nothing is refused");
    if (!ok(forbid_io_uring_enter(), "the rings are refused from now on"))
        return done_testing();
    usleep(ALONE_US);
    wait_for_sweeps(users, count, 2);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < count; i++)
        pthread_join(users[i].thread, NULL);
    is(refusals(log), rings, "each manager says so once");
    for (unsigned i = 0; i < count; i++)
        afterwards(&users[i]);
    return done_testing();
}
