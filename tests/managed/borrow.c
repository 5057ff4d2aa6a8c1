/*
 * Children that share their parent's memory, while it has little, and map so much that a process of
 * its own would have a manager: it must not go with the child. See memory.c for how it is run.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../tap.h"
#include "content.h"

#define MIB (1024UL * 1024)
#define SIZE                                                                                       \
    (144 * MIB) /* more than the test is run with: 128 MiB; with less it has a manager at once */
#define STACK (256 * 1024)

extern char **environ;

struct way {
    const char *name;
    bool by_clone, by_malloc, execs;
};

static const struct way *way;
static char *volatile left; /* what the child leaves */
static volatile bool break_was_quick;
static char stack[STACK] __attribute__((aligned(16)));

/* It may fail, but not wait. */
static bool break_is_quick(void)
{
    struct timespec before, now;

    clock_gettime(CLOCK_MONOTONIC, &before);
    (void)sbrk(0);
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - before.tv_sec) * 1000 + (now.tv_nsec - before.tv_nsec) / 1000000 < 500;
}

static int borrow(void *unused)
{
    static char *const nothing[] = {(char *)(uintptr_t) "/bin/true", NULL};

    (void)unused;
    break_was_quick = break_is_quick();
    left = way->by_malloc ? malloc(SIZE) : content_map(SIZE);
    if (left != NULL)
        content_fill(left, SIZE, 1);
    if (way->execs)
        execve(nothing[0], nothing, environ);
    _exit(left != NULL ? 0 : 1);
}

static pid_t lend(void)
{
    pid_t child;

    if (way->by_clone)
        return clone(borrow, stack + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
    child = vfork();
    if (child == 0)
        borrow(NULL);
    return child;
}

static int status_of(pid_t child)
{
    int status = -1;

    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status)
               ? WEXITSTATUS(status)
               : -1;
}

/* A process without a manager: lends, goes on with what it got back, and takes more. */
static int live(void)
{
    char *own, *more;

    if (status_of(lend()) != 0 || left == NULL)
        return 1;
    if (!break_was_quick)
        return 2;
    if (!content_holds(left, SIZE, 1))
        return 3;
    own = content_map(SIZE);
    more = malloc(SIZE / 4);
    if (own == NULL || more == NULL)
        return 4;
    memset(more, 7, SIZE / 4);
    content_fill(own, SIZE, 2);
    content_fill(left, SIZE, 3);
    if (!content_holds(own, SIZE, 2) || !content_holds(left, SIZE, 3) ||
        memcmp(more, more + 1, SIZE / 4 - 1) != 0)
        return 5;
    return sbrk((intptr_t)PAGE) != (void *)-1 ? 0 : 6;
}

int main(void)
{
    static const struct way ways[] = {
        {"vfork(), mmap(), _exit()", false, false, false},
        {"vfork(), malloc(), exec", false, true, true},
        {"clone(), malloc(), _exit()", true, true, false},
    };
    enum { WAYS = sizeof(ways) / sizeof(ways[0]) };
    int status[WAYS];

    /* Nothing is said before the last, which would take memory. */
    for (int i = 0; i < WAYS; i++) {
        pid_t child;

        way = &ways[i];
        child = fork();
        if (child == 0) {
            alarm(60); /* who waits for a handler that is gone waits for ever */
            _exit(live());
        }
        status[i] = status_of(child);
    }
    for (int i = 0; i < WAYS; i++)
        is(status[i], 0, "%s: the parent goes on", ways[i].name);
    return done_testing();
}
