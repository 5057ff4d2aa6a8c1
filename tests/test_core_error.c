/*
 * Last failures in words (per thread), and messages on the saved standard error.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "tap.h"

#define THREADS 4
#define LINES 200

static void *set_in_thread(void *text)
{
    const char *before = error_last();
    bool clean = before[0] == '\0';

    error_set(-EIO, "%s", (const char *)text);
    return clean && strcmp(error_last(), text) == 0 ? text : NULL;
}

static void test_error_set(void)
{
    static char name[] = "from a thread";
    char large[3 * ERROR_TEXT_MAX];
    pthread_t thread;
    void *result;

    ok(error_last()[0] == '\0', "at first there is no last error");
    errno = ENOTTY;
    is(error_set(-ENOSPC, "pagefile %s: full at %d", "/x", 7), -ENOSPC, "the code comes back");
    is(errno, ENOTTY, "errno is left alone");
    ok(strcmp(error_last(), "pagefile /x: full at 7") == 0, "the words are kept");

    error_set(-EINVAL, "setting: %s", error_last());
    ok(strcmp(error_last(), "setting: pagefile /x: full at 7") == 0,
       "the last error can be an argument of the next");

    pthread_create(&thread, NULL, set_in_thread, name);
    pthread_join(thread, &result);
    ok(result == name, "another thread has an error of its own");
    ok(strcmp(error_last(), "setting: pagefile /x: full at 7") == 0, "this thread's is untouched");

    memset(large, 'a', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    error_set(-EINVAL, "%s", large);
    is(strlen(error_last()), ERROR_TEXT_MAX - 1, "long words are cut");

    error_set(-EINVAL, "no file %s", "a\nb\033[1m\177\303\244");
    ok(strcmp(error_last(), "no file a?b?[1m?\303\244") == 0,
       "control characters are shown as ?: %s", error_last());
}

/* What log_line() wrote to fds[0] since the last call. */
static const char *logged(const int *fds)
{
    static char text[8192];
    ssize_t got = read(fds[0], text, sizeof(text) - 1);

    text[got > 0 ? got : 0] = '\0';
    return text;
}

static void test_log_line(const int *fds)
{
    char large[4096];

    errno = ENOTTY;
    log_line(LOG_ERROR, "page %d is lost", 3);
    is(errno, ENOTTY, "logging leaves errno alone");
    ok(strcmp(logged(fds), "vmsm: page 3 is lost\n") == 0, "an error");
    log_line(LOG_WARNING, "slow");
    ok(strcmp(logged(fds), "vmsm: warning: slow\n") == 0, "a warning");
    log_line(LOG_ADVICE, "slower");
    ok(strcmp(logged(fds), "vmsm: warning: slower\n") == 0, "advice looks like a warning");
    log_show_advice(false);
    log_line(LOG_ADVICE, "slower");
    log_line(LOG_WARNING, "slow");
    ok(strcmp(logged(fds), "vmsm: warning: slow\n") == 0, "and need not be shown");
    log_show_advice(true);

    memset(large, 'a', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    log_line(LOG_ERROR, "%s", large);
    const char *line = logged(fds);
    is(strlen(line), 1023, "a long line is cut");
    ok(strchr(line, '\n') == line + strlen(line) - 1, "and still ends in one newline");
}

/* Twenty lines of a kind, then ever fewer. */
static void test_log_repeated(const int *fds)
{
    _Atomic uint32_t said = 0, other = 0;
    unsigned shown = 0;
    char large[4096];

    for (int i = 1; i <= 1000; i++) {
        log_repeated(&said, LOG_ERROR, "slot %d", i);
        if (i == 19)
            is(strcmp(strrchr(logged(fds), 's'), "slot 19\n"), 0, "a line that comes often");
        if (i == 20)
            ok(strstr(logged(fds), "slot 20 (line 20 of its kind") != NULL,
               "the twentieth says so");
    }
    for (const char *at = logged(fds); (at = strchr(at, '\n')) != NULL; at++)
        shown++;
    is(shown, 5, "of the 980 after it 32, 64, 128, 256 and 512 are shown");
    is(said, 1000, "all are counted");
    log_repeated(&other, LOG_WARNING, "page");
    ok(strcmp(logged(fds), "vmsm: warning: page\n") == 0, "another kind is not concerned");
    memset(large, 'a', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    said = 1023;
    log_repeated(&said, LOG_ERROR, "%s", large);
    ok(strstr(logged(fds), "aaa (line 1024 of its kind") != NULL, "a cut line keeps its note");
}

/* A pipe that nobody reads holds nobody up. */
static void test_log_full(const int *fds)
{
    int flags = fcntl(fds[1], F_GETFL);
    static char text[1 << 16];
    size_t filled = 0;
    ssize_t n;

    fcntl(fds[1], F_SETFL, flags | O_NONBLOCK);
    while ((n = write(fds[1], text, sizeof(text))) > 0 || (n = write(fds[1], text, 1)) > 0)
        filled += (size_t)n;
    fcntl(fds[1], F_SETFL, flags);
    alarm(20);
    log_line(LOG_ERROR, "lost");
    log_line(LOG_ERROR, "lost too");
    alarm(0);
    ok(true, "two lines into a full pipe: neither is waited for");
    while (filled > 0 &&
           (n = read(fds[0], text, filled < sizeof(text) ? filled : sizeof(text))) > 0)
        filled -= (size_t)n;
    log_line(LOG_ERROR, "heard");
    ok(strcmp(logged(fds), "vmsm: warning: lines that nobody read are missing: 2\nvmsm: heard\n") ==
           0,
       "the next that is heard says how many are missing");
}

static void *log_lines(void *letter)
{
    char text[61];

    memset(text, *(const char *)letter, sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (int i = 0; i < LINES; i++)
        log_line(LOG_ERROR, "%s", text);
    return NULL;
}

static void test_log_threads(const int *fds)
{
    static char letters[THREADS] = {'a', 'b', 'c', 'd'};
    pthread_t threads[THREADS];
    char line[256];
    unsigned whole = 0;

    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, log_lines, &letters[i]);
    FILE *in = fdopen(dup(fds[0]), "r");
    while (whole < THREADS * LINES && fgets(line, sizeof(line), in) != NULL) {
        char letter[2] = {line[6], '\0'};
        if (strspn(line + 6, letter) != 60 || strcmp(line + 66, "\n") != 0)
            break;
        whole++;
    }
    is(whole, THREADS * LINES, "lines of %d threads do not mix", THREADS);
    fclose(in);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static const char *program; /* not /proc/self/exe: under Valgrind that is Valgrind */

/* Run this program again as `mode`, standard error being fd (-1: closed); its exit status. */
static int run_again(const char *mode, int fd, rlim_t files)
{
    struct rlimit limit = {files, files};
    int status = -1;
    pid_t child = fork();

    if (child == 0) {
        if (fd >= 0)
            dup2(fd, STDERR_FILENO);
        else
            close(STDERR_FILENO);
        if (files > 0)
            setrlimit(RLIMIT_NOFILE, &limit);
        execl(program, program, mode, NULL);
        _exit(99);
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The child's part: what is asked of it by run_again(). */
static int child_main(const char *mode)
{
    int fd = log_descriptor();

    if (strcmp(mode, "silent") == 0) {
        int reused = open("/dev/null", O_RDWR); /* takes number 2, which is not ours */
        log_line(LOG_ERROR, "nobody hears this");
        return fd == -1 && reused >= 0 ? 0 : 1;
    }
    close(STDERR_FILENO);
    log_line(LOG_ERROR, "after closing 2, %s", mode);
    return (fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0 ? 1 : fd < 3 ? 2 : 0;
}

static void test_log_descriptor(const int *fds)
{
    ok(log_descriptor() >= 3, "the log has a descriptor of its own, above the usual ones");
    is(run_again("plain", fds[1], 0), 0, "it survives the closing of standard error");
    ok(strcmp(logged(fds), "vmsm: after closing 2, plain\n") == 0, "and is still heard");
    is(run_again("few", fds[1], 64), 0, "a low limit of descriptors is no hindrance");
    ok(strcmp(logged(fds), "vmsm: after closing 2, few\n") == 0, "and is still heard");
    is(run_again("silent", -1, 0), 0, "without standard error it is silent");
}

int main(int argc, char **argv)
{
    int fds[2];

    if (argc > 1)
        return child_main(argv[1]);
    program = argv[0];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return 1;
    test_error_set();
    test_log_descriptor(fds);
    log_use_descriptor(fds[1]);
    is(log_descriptor(), fds[1], "another descriptor can be used");
    test_log_line(fds);
    test_log_repeated(fds);
    test_log_full(fds);
    test_log_threads(fds);
    return done_testing();
}
