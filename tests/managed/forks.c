/* fork() and what is like it: see memory.c for how it is run. */
#include <pthread.h>
#include <spawn.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../tap.h"

#define PAGE ((size_t)4096)
#define SIZE (12UL * 1024 * 1024)

extern char **environ;

static uint64_t *word(char *memory, size_t at)
{
    return (uint64_t *)(void *)(memory + at);
}

static void fill(char *memory, uint64_t salt)
{
    for (size_t at = 0; at < SIZE; at += PAGE)
        *word(memory, at) = (at + 1) * 0x9e3779b97f4a7c15u ^ salt;
}

static bool holds(char *memory, uint64_t salt)
{
    for (size_t at = 0; at < SIZE; at += PAGE)
        if (*word(memory, at) != ((at + 1) * 0x9e3779b97f4a7c15u ^ salt))
            return false;
    return true;
}

static int status_of(pid_t child)
{
    int status = -1;

    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status)
               ? WEXITSTATUS(status)
               : -1;
}

/* Parent and child each go on with memory of their own, and so do the child's children. */
static int descend(char *memory, uint64_t generation)
{
    pid_t child;

    if (!holds(memory, generation))
        return 1;
    if (generation == 4)
        return 0;
    child = fork();
    if (child == 0) {
        if (!holds(memory, generation))
            _exit(2);
        fill(memory, generation + 1);
        _exit(descend(memory, generation + 1));
    }
    fill(memory, 100);
    if (!holds(memory, 100))
        return 3;
    return status_of(child);
}

static void test_generations(char *memory)
{
    fill(memory, 1);
    is(descend(memory, 1), 0, "four generations, each with its own memory");
    ok(holds(memory, 100), "the first one's is what it made of it");
}

static _Atomic bool stop;
static _Atomic unsigned disturbances;

static void *disturb(void *argument)
{
    (void)argument;
    while (!stop) {
        size_t size = 2UL * 1024 * 1024;
        char *memory = malloc(size);

        memset(memory, 1, size);
        free(memory);
        disturbances++;
    }
    return NULL;
}

static void test_threads(char *memory)
{
    unsigned wrong = 0;
    pthread_t thread;

    fill(memory, 5);
    pthread_create(&thread, NULL, disturb, NULL);
    for (unsigned i = 0; i < 10; i++) {
        pid_t child = fork();

        if (child == 0) {
            char *more = malloc(SIZE / 4);

            memset(more, 9, SIZE / 4);
            free(more);
            _exit(holds(memory, 5) ? 0 : 1);
        }
        wrong += status_of(child) != 0;
    }
    stop = true;
    pthread_join(thread, NULL);
    is(wrong, 0, "ten children of a process with threads");
    ok(disturbances > 0, "another thread was at work meanwhile");
}

static int prepared, in_parent, in_child;

static void on_prepare(void)
{
    prepared++;
}

static void on_parent(void)
{
    in_parent++;
}

static void on_child(void)
{
    in_child++;
}

static void test_handlers(void)
{
    pid_t child;

    pthread_atfork(on_prepare, on_parent, on_child);
    child = fork();
    if (child == 0)
        _exit(prepared == 1 && in_parent == 0 && in_child == 1 ? 0 : 1);
    is(status_of(child), 0, "handlers of pthread_atfork() run in the child");
    ok(prepared == 1 && in_parent == 1 && in_child == 0, "and in the parent");
}

static void test_streams(void)
{
    FILE *file = tmpfile();
    char line[32] = "";
    pid_t child;

    fprintf(file, "before\n");
    fflush(file);
    child = fork();
    if (child == 0) {
        fprintf(file, "child\n");
        exit(fflush(file) == 0 ? 0 : 1);
    }
    is(status_of(child), 0, "a child writes to a stream, and ends by exit()");
    rewind(file);
    ok(fgets(line, sizeof(line), file) != NULL && strcmp(line, "before\n") == 0 &&
           fgets(line, sizeof(line), file) != NULL && strcmp(line, "child\n") == 0,
       "what both wrote is there");
    fclose(file);
}

#define LINE_LENGTH 300000

/* Allocates with its stream locked. */
static void *read_lines(void *argument)
{
    FILE *file = argument;

    while (!stop) {
        char *line = NULL;
        size_t room = 0;

        rewind(file);
        disturbances += getline(&line, &room, file) == LINE_LENGTH + 1;
        free(line);
    }
    return NULL;
}

/* Waits for streams with the lock on all of them. */
static void *flush_all(void *argument)
{
    (void)argument;
    while (!stop) {
        fflush(NULL);
        usleep(20);
    }
    return NULL;
}

/* Each of the three has what another waits for, if a fork locks the heap before the streams. */
static void test_locks(void)
{
    pthread_t reader, flusher;
    FILE *file = tmpfile();
    unsigned right = 0;

    for (unsigned i = 0; i < LINE_LENGTH; i++)
        fputc('x', file);
    fputc('\n', file);
    stop = false;
    disturbances = 0;
    pthread_create(&reader, NULL, read_lines, file);
    pthread_create(&flusher, NULL, flush_all, NULL);
    while (disturbances == 0)
        usleep(100);
    for (unsigned i = 0; i < 40; i++) {
        pid_t child = fork();

        if (child == 0) {
            fflush(NULL);
            _exit(fclose(tmpfile()) == 0 ? 5 : 1);
        }
        right += status_of(child) == 5;
    }
    stop = true;
    pthread_join(reader, NULL);
    pthread_join(flusher, NULL);
    fclose(file);
    is(right, 40, "forks while streams allocate and all are flushed");
}

static void test_others(char *memory)
{
    char *arguments[] = {(char *)"true", NULL};
    FILE *pipe;
    char line[32] = "";
    pid_t child;

    is(posix_spawnp(&child, "true", NULL, NULL, arguments, environ), 0, "posix_spawn");
    is(status_of(child), 0, "its program ran");
    is(system("exit 3") >> 8, 3, "system");
    pipe = popen("echo text", "r");
    ok(pipe != NULL && fgets(line, sizeof(line), pipe) != NULL && strcmp(line, "text\n") == 0,
       "popen");
    pclose(pipe);
    child = fork();
    if (child == 0) {
        execlp("true", "true", (char *)NULL);
        _exit(1);
    }
    is(status_of(child), 0, "fork and exec");
    child = vfork();
    if (child == 0)
        _exit(7);
    is(status_of(child), 7, "vfork");
    ok(holds(memory, 5), "and memory is as it was");
}

/* KiB resident of mappings of 64 MiB, of which the manager's own memory is one; plain there is none. */
static long own_resident(void)
{
    FILE *maps = fopen("/proc/self/smaps", "r");
    long size = 0, resident = 0, value;
    char line[256];

    while (maps != NULL && fgets(line, sizeof(line), maps) != NULL) {
        if (sscanf(line, "Size: %ld", &value) == 1)
            size = value;
        if (sscanf(line, "Rss: %ld", &value) == 1 && size == 64L * 1024)
            resident += value;
    }
    if (maps != NULL)
        fclose(maps);
    return resident;
}

static void test_many(void)
{
    long before = own_resident();
    unsigned right = 0;

    for (unsigned i = 0; i < 60; i++) {
        pid_t child = fork();

        if (child == 0)
            _exit(6);
        right += status_of(child) == 6;
    }
    is(right, 60, "sixty children");
    ok(own_resident() - before < 32, "cost their parent no memory for good");
}

int main(void)
{
    char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    fflush(stdout);
    test_generations(memory);
    test_threads(memory);
    test_handlers();
    test_streams();
    test_locks();
    test_others(memory);
    test_many();
    return done_testing();
}
