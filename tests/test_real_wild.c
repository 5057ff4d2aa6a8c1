/*
 * What is not ours stays the program's: a wild access crashes it as it would without us, and a
 * SIGBUS of its own kills it or reaches its handler.
 */
#include <fcntl.h>
#include <sys/wait.h>

#include "real_fixture.h"

SANITIZER_LEAVES_SIGNALS

enum deed { WILD, UNMAPPED, TRUNCATED_FILE, TRUNCATED_FILE_HANDLED, TRUNCATED_FILE_CHAINED };

#define HANDLED 42
#define CANNOT 43

static void own_handler(int signal)
{
    (void)signal;
    _exit(HANDLED);
}

/* A handler that came later, does its part, and hands on. */
static struct sigaction earlier;
static volatile sig_atomic_t handed_on;

static void later_handler(int signal, siginfo_t *info, void *context)
{
    if (handed_on++ > 0)
        _exit(1);
    if (earlier.sa_flags & SA_SIGINFO)
        earlier.sa_sigaction(signal, info, context);
    else
        earlier.sa_handler(signal);
}

static void check_chain(int signal)
{
    (void)signal;
    _exit(handed_on == 1 ? HANDLED : 1);
}

/* A manager comes, a handler comes and stays, the manager goes, another comes. */
static struct vmsm *chain(struct vmsm *m, const char *conf, void **memory)
{
    struct sigaction later = {.sa_sigaction = later_handler, .sa_flags = SA_SIGINFO};

    for (unsigned i = 0; i < 3; i++) {
        if (i == 0)
            sigaction(SIGBUS, &later, &earlier);
        vmsm_destroy(m);
        if (vmsm_create(&m, conf) != 0 || vmsm_map(m, 1000 * PAGE, memory) != 0)
            _exit(CANNOT);
    }
    return m;
}

static char *truncated_mapping(void)
{
    char name[] = "/tmp/vmsm-truncated-XXXXXX";
    int fd = mkstemp(name);
    char *memory;

    if (fd < 0)
        _exit(CANNOT);
    unlink(name);
    memory = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0); /* of an empty file */
    return memory;
}

static void commit_deed(const char *kind, enum deed deed)
{
    char conf[REAL_CONF_MAX];
    char *volatile target = NULL;
    void *memory, *hole;
    struct vmsm *m;

    signal(SIGBUS, deed == TRUNCATED_FILE_HANDLED   ? own_handler
                   : deed == TRUNCATED_FILE_CHAINED ? check_chain
                                                    : SIG_DFL);
    snprintf(conf, sizeof(conf), "%s,memory:1M", kind);
    if (vmsm_create(&m, conf) != 0 || vmsm_map(m, 1000 * PAGE, &memory) != 0)
        _exit(CANNOT);
    if (deed == TRUNCATED_FILE_CHAINED)
        m = chain(m, conf, &memory);
    real_fill(memory, 10, 1);
    switch (deed) {
    case WILD:
        hole = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        munmap(hole, PAGE);
        target = hole;
        break;
    case UNMAPPED:
        vmsm_unmap(m, (char *)memory + 10 * PAGE, PAGE);
        target = (char *)memory + 10 * PAGE;
        break;
    case TRUNCATED_FILE:
    case TRUNCATED_FILE_HANDLED:
    case TRUNCATED_FILE_CHAINED:
        target = truncated_mapping();
        break;
    }
    (void)*(volatile char *)target;
    _exit(0);
}

static void expect(const char *kind, enum deed deed, int death, int code, const char *what)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0)
        commit_deed(kind, deed);
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT) {
        skip("%s cannot be used here", kind);
        return;
    }
    if (death != 0)
        ok(WIFSIGNALED(status) && WTERMSIG(status) == death, "%s: %s (status %#x)", kind, what,
           (unsigned)status);
    else
        ok(WIFEXITED(status) && WEXITSTATUS(status) == code, "%s: %s (status %#x)", kind, what,
           (unsigned)status);
}

int main(void)
{
    for (size_t k = 0; k < REAL_KINDS; k++) {
        expect(real_kinds[k], WILD, SIGSEGV, 0, "a wild access dies by SIGSEGV");
        expect(real_kinds[k], UNMAPPED, SIGSEGV, 0, "so does one to what was unmapped");
        expect(real_kinds[k], TRUNCATED_FILE, SIGBUS, 0, "a SIGBUS not ours kills");
        expect(real_kinds[k], TRUNCATED_FILE_HANDLED, 0, HANDLED,
               "or reaches the program's own handler");
        expect(real_kinds[k], TRUNCATED_FILE_CHAINED, 0, HANDLED,
               "and each handler once, if one came between two managers");
    }
    return done_testing();
}
