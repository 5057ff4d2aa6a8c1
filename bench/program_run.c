#include "program_run.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "latency.h"
#include "text.h"

#define OUTPUT_STEP 65536

static volatile pid_t running[2]; /* the program, and a server's client; 0: none */

/* ---- What they do ---- */

#define TEXT                                                                                       \
    "perl -e 'print join(\",\", map { $_ * 7919 % 1000003 } 1 .. $ARGV[0]), \"\\n\"' \"$1\" "      \
    ">text"

const struct program programs[] = {
    {
        .name = "sort",
        .does = "in memory, two threads",
        .make = "perl -e 'my $x = 1; for (1 .. $ARGV[0]) { $x = ($x * 1103515245 + 12345) % "
                "2147483648; printf \"%010d%030d\\n\", $x, $_ }' \"$1\" >lines",
        .size = 750000,
        .arguments = {"sort", "--buffer-size=8G", "--parallel=2", "lines"},
    },
    {
        .name = "sqlite3",
        .does = "database in memory: fill, index, delete, check",
        .make = "cat >script.sql <<SQL\n"
                "create table t(a integer primary key, b text);\n"
                "with recursive c(x) as (select 1 union all select x + 1 from c where x < $1)\n"
                "insert into t select x, hex(x * 7919 % 1000003) || hex(zeroblob(100)) from c;\n"
                "create index i on t(b);\n"
                "select count(*), sum(length(b)), max(b), min(b) from t;\n"
                "select a from t order by b limit 20 offset 5000;\n"
                "delete from t where a % 3 = 0;\n"
                "pragma integrity_check;\n"
                "SQL",
        .size = 200000,
        .arguments = {"sqlite3", ":memory:", ".read script.sql"},
    },
    {
        .name = "redis",
        .does = "redis-benchmark sets and gets, then every value is checked",
        .size = 200000,
        .beside = 6,
        .arguments = {"redis-server", "--port", "0", "--save", "", "--unixsocket", "redis.sock",
                      "--daemonize", "no", "--ignore-warnings", "ARM64-COW-BUG"},
        .client = "for i in $(seq 200); do\n"
                  "    redis-cli -s redis.sock ping >/dev/null 2>&1 && break; sleep 0.05\n"
                  "done\n"
                  "for what in set get; do\n"
                  "    redis-benchmark -s redis.sock -n $1 -r $1 -d 500 -c 16 -P 16 \\\n"
                  "        -t $what -q >/dev/null || exit 1\n"
                  "done\n"
                  "redis-cli -s redis.sock eval \"local n, at = 0, '0'\n"
                  "    repeat\n"
                  "        local page = redis.call('scan', at, 'count', 1000)\n"
                  "        at = page[1]\n"
                  "        for _, key in ipairs(page[2]) do\n"
                  "            if #redis.call('get', key) == 500 then n = n + 1 end\n"
                  "        end\n"
                  "    until at == '0'\n"
                  "    return n == redis.call('dbsize') and 'all right' or 'wrong'\" 0\n"
                  "redis-cli -s redis.sock shutdown nosave 2>/dev/null\n"
                  "exit 0",
    },
    {
        .name = "numpy",
        .does = "sort, matrix product, FFT, array of twice the size",
        .beside = 2,
        .make = "cat >arrays.py <<PYTHON\n"
                "import hashlib\n"
                "import numpy as np\n"
                "def digest(array):\n"
                "    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()\n"
                "a = np.random.default_rng(5).random($1)\n"
                "print(digest(np.sort(a)))\n"
                "m = a[:160000].reshape(400, 400)\n"
                "print(digest(np.rint((m @ m) * 1e6)))\n"
                "print(digest(np.rint(np.fft.fft(a[:$1 // 4]).real * 1e6)))\n"
                "twice = np.concatenate([a, a])\n"
                "twice += 1\n"
                "print(digest(twice))\n"
                "PYTHON",
        .size = 4 << 20,
        .arguments = {"/usr/bin/python3", "arrays.py"},
    },
    {
        .name = "xz",
        .does = "-9",
        .make = TEXT,
        .size = 20000,
        .arguments = {"xz", "-9", "--threads=1", "--stdout", "text"},
    },
    {
        .name = "zstd",
        .does = "--ultra -22 --long=27",
        .make = TEXT,
        .size = 20000,
        .arguments = {"zstd", "--ultra", "-22", "--long=27", "--single-thread", "--stdout",
                      "--quiet", "text"},
    },
};
const unsigned program_count = sizeof(programs) / sizeof(programs[0]);

/* ---- Processes ---- */

static void size_print(const struct program *program, const struct program_setup *setup, char *text,
                       size_t room)
{
    snprintf(text, room, "%" PRIu64, (uint64_t)program->size * setup->scale / 100);
}

/* Only in the child. output: its standard output; -1: none. */
static _Noreturn void become(char *const *argv, const char *dir, int output)
{
    if (output < 0)
        output = open("/dev/null", O_WRONLY | O_CLOEXEC);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (chdir(dir) == 0 && dup2(output, STDOUT_FILENO) >= 0)
        execvp(argv[0], argv);
    fprintf(stderr, "programs: %s cannot be executed: %s\n", argv[0], strerror(errno));
    _exit(127);
}

/* Its number, or a negative errno after a message. */
static pid_t start_script(const char *script, const struct program *program,
                          const struct program_setup *setup, int output)
{
    char size[32];
    pid_t pid;

    size_print(program, setup, size, sizeof(size));
    pid = fork();
    if (pid == 0) {
        char *const argv[] = {(char[]){"sh"}, (char[]){"-c"}, (char *)(uintptr_t)script,
                              (char[]){"sh"}, size,           NULL};

        become(argv, setup->dir, output);
    }
    if (pid < 0)
        complain("cannot start a process: %s", strerror(errno));
    return pid < 0 ? -EAGAIN : pid;
}

static pid_t start_program(const struct program *program, enum program_way way,
                           const struct program_setup *setup, int output)
{
    char memory[32];
    const char *argv[PROGRAM_ARGUMENTS + 12];
    bool managed = way == WAY_MANAGED || way == WAY_SIGBUS;
    size_t count = 0;
    pid_t pid;

    snprintf(memory, sizeof(memory), "%" PRIu64 "K", setup->memory / 1024);
    if (managed) {
        argv[count++] = setup->vmsm;
        argv[count++] = "run";
        argv[count++] = "--memory";
        argv[count++] = memory;
    }
    if (managed && setup->pagefile != NULL) {
        argv[count++] = "--pagefile";
        argv[count++] = setup->pagefile;
        argv[count++] = "--set";
        argv[count++] = "pagefile_force=on"; /* it is full of zeroes */
    }
    if (way == WAY_SIGBUS) {
        argv[count++] = "--trap";
        argv[count++] = "sigbus";
    }
    if (managed)
        argv[count++] = "--";
    for (size_t i = 0; program->arguments[i] != NULL; i++)
        argv[count++] = program->arguments[i];
    argv[count] = NULL;
    pid = fork();
    if (pid == 0) {
        if (setup->limited && peer_enter(setup->peer) != 0) {
            fprintf(stderr, "programs: the control group cannot be entered\n");
            _exit(126);
        }
        if (way == WAY_JEMALLOC)
            setenv("LD_PRELOAD", setup->jemalloc, 1);
        become((char *const *)(uintptr_t)argv, setup->dir, output);
    }
    if (pid < 0)
        complain("cannot start a process: %s", strerror(errno));
    return pid < 0 ? -EAGAIN : pid;
}

void program_kill(void)
{
    for (size_t i = 0; i < 2; i++) {
        if (running[i] > 0)
            kill(running[i], SIGKILL);
    }
}

/* 0, or -EIO after a message. usage may be NULL. */
static int end_well(pid_t pid, const char *name, const struct program_setup *setup,
                    struct rusage *usage)
{
    int status;

    while (wait4(pid, &status, 0, usage) < 0 && errno == EINTR)
        continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (*setup->interrupted)
        return -EINTR;
    if (WIFSIGNALED(status))
        complain("%s was ended by signal %d (%s)", name, WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        complain("%s ended with status %d", name, WEXITSTATUS(status));
    return -EIO;
}

int program_make(const struct program *program, const struct program_setup *setup)
{
    pid_t pid;
    int error;

    if (program->make == NULL)
        return 0;
    pid = start_script(program->make, program, setup, -1);
    if (pid < 0)
        return pid;
    running[0] = pid;
    error = end_well(pid, "making its input", setup, NULL);
    running[0] = 0;
    return error;
}

/* Read all that comes, and hash it. */
static uint64_t hash_output(int fd)
{
    char *buffer = malloc(OUTPUT_STEP);
    XXH3_state_t *state = XXH3_createState();
    ssize_t got = buffer != NULL && state != NULL ? 1 : 0;
    uint64_t hash;

    if (state != NULL)
        XXH3_64bits_reset(state);
    while (got != 0) {
        got = read(fd, buffer, OUTPUT_STEP);
        if (got > 0)
            XXH3_64bits_update(state, buffer, (size_t)got);
        else if (got < 0 && errno != EINTR)
            break;
    }
    hash = state != NULL ? XXH3_64bits_digest(state) : 0;
    XXH3_freeState(state);
    free(buffer);
    return hash;
}

static double seconds_of(const struct timeval *time)
{
    return (double)time->tv_sec + (double)time->tv_usec / 1e6;
}

/* Wait for the client, and if it failed end the server, which would wait for ever. */
static int client_end(const struct program *program, const struct program_setup *setup)
{
    int error = end_well(running[1], program->name, setup, NULL);

    running[1] = 0;
    if (error != 0)
        program_kill();
    return error;
}

int program_run(const struct program *program, enum program_way way,
                const struct program_setup *setup, struct program_result *result)
{
    double start = seconds_now();
    struct rusage usage;
    int pipes[2], error = 0, ended;
    pid_t pid;

    if (pipe2(pipes, O_CLOEXEC) != 0)
        return -errno;
    pid = start_program(program, way, setup, program->client == NULL ? pipes[1] : -1);
    running[0] = pid > 0 ? pid : 0;
    if (pid > 0 && program->client != NULL) {
        pid_t client = start_script(program->client, program, setup, pipes[1]);

        running[1] = client > 0 ? client : 0;
        error = client < 0 ? client : 0;
    }
    close(pipes[1]);
    if (error != 0)
        program_kill();
    if (pid > 0 && error == 0)
        result->output = hash_output(pipes[0]);
    if (running[1] > 0)
        error = client_end(program, setup);
    close(pipes[0]);
    if (pid < 0)
        return pid;
    ended = end_well(pid, program->name, setup, &usage);
    running[0] = 0;
    result->seconds = seconds_now() - start;
    result->cpu = seconds_of(&usage.ru_utime) + seconds_of(&usage.ru_stime);
    result->peak = setup->limited ? peer_peak(setup->peer) : (uint64_t)usage.ru_maxrss * 1024;
    return error != 0 ? error : ended;
}
