/* Threads, libraries, signals and the end of a process: see memory.c for how it is run. */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../tap.h"

#define PAGE ((size_t)4096)
#define MIB (1024UL * 1024)
#define SIZE (12 * MIB)

static char *map(size_t length)
{
    char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

static void fill(char *memory, size_t length, unsigned salt)
{
    for (size_t at = 0; at < length; at += PAGE)
        *(uint64_t *)(void *)(memory + at) = at ^ salt;
}

static bool holds(char *memory, size_t length, unsigned salt)
{
    for (size_t at = 0; at < length; at += PAGE)
        if (*(uint64_t *)(void *)(memory + at) != (at ^ salt))
            return false;
    return true;
}

static int status_of(pid_t child)
{
    int status = -1;

    if (child <= 0 || waitpid(child, &status, 0) != child)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- libraries ---- */

static void test_libraries(char *memory)
{
    static const char *const names[] = {"libm.so.6", "libresolv.so.2", "libnsl.so.1",
                                        "libutil.so.1"};
    unsigned loaded = 0;

    for (unsigned round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
            void *library = dlopen(names[i], RTLD_NOW);

            loaded += library != NULL;
            fill(memory, SIZE, (unsigned)i);
            if (library != NULL)
                dlclose(library);
        }
    }
    ok(loaded > 0, "libraries are loaded and closed");
}

/* ---- threads ---- */

static _Thread_local unsigned own_number;
static pthread_key_t key;
static _Atomic unsigned ended;

static void on_end(void *value)
{
    ended += *(unsigned *)value == own_number;
    free(value);
}

static void *live_shortly(void *argument)
{
    unsigned *value = malloc(sizeof(*value));

    own_number = *value = (unsigned)(uintptr_t)argument;
    pthread_setspecific(key, value);
    return value;
}

static void test_threads(char *memory)
{
    enum { THREADS = 60 };

    pthread_key_create(&key, on_end);
    for (uintptr_t i = 1; i <= THREADS; i++) {
        pthread_t thread;

        pthread_create(&thread, NULL, live_shortly, (void *)i);
        if (i % 20 == 0)
            fill(memory, SIZE, 1);
        pthread_join(thread, NULL);
    }
    is(ended, THREADS, "threads come and go, each with variables of its own");
}

static void *use_stack(void *argument)
{
    char large[128 * 1024];
    char *memory = argument;

    memset(large, 5, sizeof(large));
    fill(memory, SIZE, 2);
    for (size_t i = 0; i < sizeof(large); i++)
        if (((volatile char *)large)[i] != 5)
            return NULL;
    return argument;
}

static void test_given_stack(char *memory)
{
    size_t size = 256 * 1024;
    char *stack = map(size);
    pthread_attr_t attributes;
    void *result = NULL;
    pthread_t thread;

    stack[0] = 77;
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stack, size);
    is(pthread_create(&thread, &attributes, use_stack, memory), 0, "a thread on a mapped stack");
    pthread_join(thread, &result);
    ok(result == memory && stack[0] == 77, "has it, and what was on it stays");
    is(munmap(stack, size), 0, "it is unmapped");
}

/* Are faults there served by userfaultfd ("um" among the mapping's flags)? */
static bool is_watched(const char *at)
{
    FILE *maps = fopen("/proc/self/smaps", "r");
    bool inside = false, watched = false;
    char line[512];

    while (fgets(line, sizeof(line), maps) != NULL) {
        unsigned long start, end;

        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = (uintptr_t)at >= start && (uintptr_t)at < end;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            watched = strstr(line, " um") != NULL;
    }
    fclose(maps);
    return watched;
}

/* With a page in it that may not be touched. */
static void test_guarded_stack(char *memory)
{
    size_t size = 256 * 1024;
    char *stack = map(size);
    pthread_attr_t attributes;
    void *result = NULL;
    pthread_t thread;

    stack[PAGE] = 78;
    mprotect(stack, PAGE, PROT_NONE);
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stack, size);
    is(pthread_create(&thread, &attributes, use_stack, memory), 0, "a thread on a guarded stack");
    pthread_join(thread, &result);
    ok(result == memory && stack[PAGE] == 78, "has it as well");
    ok(!is_watched(stack + PAGE), "and faults on it are the kernel's");
    is(munmap(stack, size), 0, "it is unmapped");
}

/* On as little stack as a thread may have. */
static void *use_little_stack(void *argument)
{
    char *memory = map(SIZE);
    bool right = memory != NULL;

    if (right)
        fill(memory, SIZE, 4);
    right = right && holds(memory, SIZE, 4) && madvise(memory, MIB, MADV_DONTNEED) == 0 &&
            memory[PAGE] == 0 && munmap(memory, SIZE) == 0;
    free(malloc(MIB));
    return right ? argument : NULL;
}

static void test_little_stack(char *memory)
{
    pthread_attr_t attributes;
    void *result = NULL;
    pthread_t thread;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, (size_t)sysconf(_SC_THREAD_STACK_MIN));
    is(pthread_create(&thread, &attributes, use_little_stack, memory), 0,
       "a thread with the smallest stack");
    pthread_join(thread, &result);
    ok(result == memory, "maps, uses and unmaps memory");
}

static _Atomic bool cancelled;

static void *map_for_ever(void *argument)
{
    (void)argument;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    for (;;) {
        char *memory = map(2 * MIB);

        fill(memory, 2 * MIB, 5);
        munmap(memory, 2 * MIB);
        if (cancelled)
            pthread_testcancel();
    }
    return NULL;
}

static void test_cancel(char *memory)
{
    unsigned right = 0;

    fill(memory, SIZE, 6);
    for (unsigned i = 0; i < 10; i++) {
        pthread_t thread;
        char *other;

        cancelled = false;
        pthread_create(&thread, NULL, map_for_ever, NULL);
        usleep(3000 + 700 * i);
        pthread_cancel(thread);
        cancelled = true;
        pthread_join(thread, NULL);
        other = map(MIB);
        right += other != NULL && munmap(other, MIB) == 0;
    }
    ok(right == 10 && holds(memory, SIZE, 6), "threads that map are cancelled, and others go on");
}

static void *outlive_main(void *argument)
{
    usleep(50000);
    if (!holds(argument, SIZE, 3))
        _exit(4);
    /* What has no access is trimmed, too, and has its content afterwards. */
    mprotect(argument, SIZE / 2, PROT_NONE);
    for (unsigned round = 0; round < 3; round++)
        fill(malloc(SIZE), SIZE, round);
    mprotect(argument, SIZE / 2, PROT_READ | PROT_WRITE);
    return holds(argument, SIZE, 3) ? NULL : (_exit(5), NULL);
}

static void test_last_thread(char *memory)
{
    pid_t child;

    fill(memory, SIZE, 3);
    child = fork();
    if (child == 0) {
        pthread_t thread;

        pthread_create(&thread, NULL, outlive_main, memory);
        pthread_exit(NULL);
    }
    is(status_of(child), 0, "a process ends when its last thread does");
}

/* ---- signals ---- */

static sigjmp_buf back;
static volatile sig_atomic_t got;

static void on_signal(int signal)
{
    got = signal;
    siglongjmp(back, 1);
}

static void on_timer(int signal)
{
    (void)signal;
    got++;
}

static void test_signals(char *memory)
{
    FILE *file = tmpfile();
    volatile char *page = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fileno(file), 0);
    struct sigaction action = {.sa_handler = on_timer};

    signal(SIGBUS, on_signal);
    if (sigsetjmp(back, 1) == 0)
        (void)*page;
    is(got, SIGBUS, "a file that ends too early raises SIGBUS, which the program handles");
    signal(SIGBUS, SIG_DFL);
    fclose(file);
    got = 0;
    sigaction(SIGALRM, &action, NULL);
    ualarm(1000, 1000);
    for (unsigned round = 0; round < 6; round++) {
        char *more = malloc(SIZE);

        fill(more, SIZE, round);
        if (!holds(more, SIZE, round))
            got = -1000000;
        free(more);
    }
    ualarm(0, 0);
    ok(got > 0, "signals come while memory is mapped and used");
    ok(holds(memory, SIZE, 3), "and memory is as it was");
}

static void test_deaths(char *memory)
{
    volatile uintptr_t nowhere = 8;
    pid_t child = fork();

    if (child == 0)
        *(volatile char *)nowhere = 1;
    is(status_of(child), 128 + SIGSEGV, "a child dies of its SIGSEGV");
    child = fork();
    if (child == 0) {
        munmap(memory, SIZE);
        *(volatile char *)memory = 1;
    }
    is(status_of(child), 128 + SIGSEGV, "also where memory was");
    child = fork();
    if (child == 0)
        abort();
    is(status_of(child), 128 + SIGABRT, "and of abort()");
}

/* ---- system calls by number ---- */

static int on_own_stack(void *argument)
{
    return *(uint64_t *)(void *)((char *)argument + 2 * MIB) == (2 * MIB ^ 7) ? 5 : 1;
}

static void test_calls(void)
{
    long at =
        syscall(SYS_mmap, NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *memory = (char *)at, *bottom = (char *)syscall(SYS_brk, 0);
    pid_t child;

    fill(memory, SIZE, 6);
    ok(holds(memory, SIZE, 6), "mmap by number");
    is(syscall(SYS_madvise, memory, MIB, MADV_DONTNEED), 0, "madvise by number");
    ok(memory[0] == 0 && memory[MIB] != 0, "gives zeroes there");
    is(syscall(SYS_brk, bottom + MIB) - (intptr_t)bottom, MIB, "brk by number");
    bottom[MIB - 1] = 1;
    fill(memory, SIZE, 7);
    child = (pid_t)syscall(SYS_fork);
    if (child == 0)
        _exit(holds(memory, SIZE, 7) && bottom[MIB - 1] == 1 ? 0 : 1);
    is(status_of(child), 0, "fork by number");
    child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        _exit(holds(memory, SIZE, 7) ? 0 : 1);
    is(status_of(child), 0, "clone by number");
    child =
        (pid_t)syscall(SYS_clone, CLONE_FS | CLONE_PARENT_SETTID | SIGCHLD, 0, memory + PAGE, 0, 0);
    if (child == 0)
        _exit(*(int *)(void *)(memory + 2 * PAGE) != 0 ? 0 : 1);
    is(status_of(child), 0, "a child by clone that shares the working directory");
    is(*(int *)(void *)(memory + PAGE), child, "and its number where it was wanted");
    fill(memory, SIZE, 7);
    child = clone(on_own_stack, memory + MIB, SIGCHLD, memory);
    is(status_of(child), 5, "clone() of a function");
    is(syscall(SYS_munmap, memory, SIZE), 0, "munmap by number");
    ok(syscall(SYS_close, 4000) == -1 && errno == EBADF, "an error by number");
}

/* ---- calls are not cut short ---- */

static void *drain(void *fd)
{
    static char buffer[8192];

    while (read(*(int *)fd, buffer, sizeof(buffer)) > 0)
        usleep(1000);
    return NULL;
}

/* No signal comes, so a write that waits is done whole: also soon after the manager was made, or has
 * copied a pagefile. */
static void test_whole_write(const char *when)
{
    static char data[MIB];
    pthread_t thread;
    int ends[2];

    if (pipe(ends) != 0 || pthread_create(&thread, NULL, drain, &ends[0]) != 0) {
        ok(false, "a pipe and a thread");
        return;
    }
    is(write(ends[1], data, MIB), (long)MIB, "a write to a pipe is whole %s", when);
    close(ends[1]);
    pthread_join(thread, NULL);
    close(ends[0]);
}

static void test_write_after_fork(void)
{
    pid_t child;

    fflush(stdout);
    child = fork();
    if (child == 0)
        _exit(0);
    test_whole_write("after a fork");
    waitpid(child, NULL, 0);
}

int main(void)
{
    char *memory = map(SIZE);

    test_whole_write("at the start");
    fill(memory, SIZE, 9);
    test_write_after_fork();
    fflush(stdout);
    test_libraries(memory);
    test_threads(memory);
    test_given_stack(memory);
    test_guarded_stack(memory);
    test_little_stack(memory);
    test_cancel(memory);
    test_last_thread(memory);
    test_signals(memory);
    test_deaths(memory);
    test_calls();
    return done_testing();
}
