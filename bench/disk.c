#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <liburing.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk.h"

#define FILL_BYTES ((size_t)1 << 20)
#define ARGUMENT_MAX 64
#define ANSWER_MAX ((size_t)1 << 20)
#define FILE_FD 3 /* where fio finds the file */

extern char **environ;

/* Nothing is left behind, whatever happens: the file has no name. */
static int file_make(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        char *name;

        if (asprintf(&name, "%s/vmsm-bench-XXXXXX", dir) < 0)
            return -ENOMEM;
        fd = mkostemp(name, O_CLOEXEC);
        if (fd >= 0)
            unlink(name);
        free(name);
    }
    return fd < 0 ? -errno : fd;
}

/* With content that no disk can make smaller. */
static int file_fill(int fd, size_t length)
{
    uint64_t *words = malloc(FILL_BYTES), word = 1;
    int error = 0;

    if (words == NULL)
        return -ENOMEM;
    for (size_t done = 0; done < length && error == 0;) {
        size_t piece = length - done < FILL_BYTES ? length - done : FILL_BYTES;
        ssize_t written;

        for (size_t i = 0; i < FILL_BYTES / sizeof(*words); i++) {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            words[i] = word;
        }
        written = pwrite(fd, words, piece, (off_t)done);
        if (written <= 0)
            error = written < 0 ? -errno : -EIO;
        else
            done += (size_t)written;
    }
    if (error == 0 && fdatasync(fd) < 0)
        error = -errno;
    free(words);
    return error;
}

/* Containers mostly forbid io_uring; libaio reads as many at a time, at a little more for each. */
static const char *fio_engine(void)
{
    struct io_uring ring;

    if (io_uring_queue_init(1, &ring, 0) != 0)
        return "--ioengine=libaio";
    io_uring_queue_exit(&ring);
    return "--ioengine=io_uring";
}

static int fio_spawn(const struct disk_figure *figure, size_t length, double seconds, int file,
                     int answer, pid_t *pid)
{
    char rw[ARGUMENT_MAX], bs[ARGUMENT_MAX], depth[ARGUMENT_MAX], size[ARGUMENT_MAX],
        runtime[ARGUMENT_MAX], engine[ARGUMENT_MAX];
    char *arguments[] = {"fio",
                         "--name=disk",
                         "--filename=/proc/self/fd/3",
                         engine,
                         "--direct=1",
                         "--thread",
                         "--time_based",
                         "--output-format=json",
                         "--allow_file_create=0",
                         "--randrepeat=0",
                         "--norandommap",
                         "--refill_buffers",
                         rw,
                         bs,
                         depth,
                         size,
                         runtime,
                         NULL};
    posix_spawn_file_actions_t actions;
    int error;

    snprintf(engine, sizeof(engine), "%s", fio_engine());
    snprintf(rw, sizeof(rw), "--rw=%s%s", figure->random ? "rand" : "",
             figure->write ? "write" : "read");
    snprintf(bs, sizeof(bs), "--bs=%zu", figure->block);
    snprintf(depth, sizeof(depth), "--iodepth=%u", figure->depth);
    snprintf(size, sizeof(size), "--size=%zu", length);
    snprintf(runtime, sizeof(runtime), "--runtime=%.0fms", seconds * 1000);
    error = posix_spawn_file_actions_init(&actions);
    if (error != 0)
        return -error;
    posix_spawn_file_actions_adddup2(&actions, answer, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, file, FILE_FD);
    error = posix_spawnp(pid, "fio", &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    return -error;
}

/* All that fio says, or NULL with a negative errno in *error. */
static char *answer_read(int fd, int *error)
{
    char *text = malloc(ANSWER_MAX);
    size_t length = 0;

    *error = text == NULL ? -ENOMEM : 0;
    while (*error == 0 && length < ANSWER_MAX - 1) {
        ssize_t got = read(fd, text + length, ANSWER_MAX - 1 - length);

        if (got < 0)
            *error = -errno;
        if (got <= 0)
            break;
        length += (size_t)got;
    }
    if (*error != 0) {
        free(text);
        return NULL;
    }
    text[length] = '\0';
    return text;
}

/* fio puts warnings before the JSON. */
static int answer_parse(const char *text, bool write, double *bytes_per_second)
{
    const char *begin = strchr(text, '{');
    json_t *root = begin == NULL ? NULL : json_loads(begin, JSON_DISABLE_EOF_CHECK, NULL);
    json_t *job = json_array_get(json_object_get(root, "jobs"), 0);
    json_t *bytes = json_object_get(json_object_get(job, write ? "write" : "read"), "bw_bytes");
    bool right = json_integer_value(json_object_get(job, "error")) == 0 && json_is_number(bytes) &&
                 json_number_value(bytes) > 0;

    if (right)
        *bytes_per_second = json_number_value(bytes);
    json_decref(root);
    return right ? 0 : -EIO;
}

static int fio_run(const struct disk_figure *figure, size_t length, double seconds, int file,
                   double *bytes_per_second)
{
    int ends[2], status = 0, error;
    char *text = NULL;
    pid_t pid = -1;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    error = fio_spawn(figure, length, seconds, file, ends[1], &pid);
    close(ends[1]);
    if (error != 0)
        goto out;
    text = answer_read(ends[0], &error);
    if (error != 0)
        kill(pid, SIGTERM);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (error == 0)
        error = answer_parse(text, figure->write, bytes_per_second);
    if (error == -EIO && text[0] != '\0' && strchr(text, '{') != text)
        fprintf(stderr, "%s: fio: %.300s\n", program_invocation_short_name, text);
    if (error == 0 && (!WIFEXITED(status) || WEXITSTATUS(status) != 0))
        error = -EIO;
    free(text);
out:
    close(ends[0]);
    return error;
}

int disk_open(const char *dir, size_t length)
{
    int file = file_make(dir);
    int error = file < 0 ? file : file_fill(file, length);

    if (error == 0)
        return file;
    if (error != -EINTR)
        fprintf(stderr, "%s: cannot make a file of %zu bytes in %s for fio: %s\n",
                program_invocation_short_name, length, dir, strerror(-error));
    if (file >= 0)
        close(file);
    return error;
}

const char *disk_describe(const struct disk_figure *figure, char *text, size_t size)
{
    snprintf(text, size, "%s %s of %zu KiB, depth %u", figure->random ? "random" : "sequential",
             figure->write ? "writes" : "reads", figure->block / 1024, figure->depth);
    return text;
}

int disk_measure(int file, size_t length, double seconds, struct disk_figure *figure)
{
    int error = fio_run(figure, length, seconds, file, &figure->bytes_per_second);
    char text[64];

    if (error == 0)
        return 0;
    figure->bytes_per_second = NAN;
    if (error != -EINTR)
        fprintf(stderr, "%s: fio cannot measure %s: %s\n", program_invocation_short_name,
                disk_describe(figure, text, sizeof(text)),
                error == -ENOENT ? "it is not installed (scripts/install-deps.sh bench)"
                                 : strerror(-error));
    return error;
}
