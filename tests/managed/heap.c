/* The heap, threads and direct I/O of a program: see memory.c for how it is run. */
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../tap.h"

#define MIB (1024UL * 1024)
#define BLOCKS 20000u
#define THREADS 4
#define FILE_SIZE (4 * MIB)
#define PIECE (256UL * 1024) /* read at a time */

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* How many of the bytes are not the block's number? */
static uintptr_t count_wrong(const unsigned char *block, size_t size, unsigned number)
{
    uintptr_t wrong = 0;

    for (size_t at = 0; at < size; at++)
        wrong += block[at] != (number & 0xff);
    return wrong;
}

/* Blocks of many sizes, replaced at random, each filled with its number. */
static void *churn(void *argument)
{
    uint64_t state = (uintptr_t)argument;
    unsigned char **blocks = calloc(BLOCKS / THREADS, sizeof(*blocks));
    size_t *sizes = calloc(BLOCKS / THREADS, sizeof(*sizes));
    uintptr_t wrong = 0;

    for (unsigned step = 0; step < BLOCKS; step++) {
        unsigned i = (unsigned)(next_random(&state) % (BLOCKS / THREADS));
        size_t size = 1 + next_random(&state) % (step % 64 == 0 ? 65536 : 512);

        if (blocks[i] != NULL &&
            (blocks[i][0] != (i & 0xff) || blocks[i][sizes[i] - 1] != (i & 0xff)))
            wrong++;
        if (step % 3 == 0) {
            blocks[i] = realloc(blocks[i], size);
            wrong += count_wrong(blocks[i], sizes[i] < size ? sizes[i] : size, i);
        } else {
            free(blocks[i]);
            blocks[i] = malloc(size);
        }
        memset(blocks[i], (int)(i & 0xff), size);
        sizes[i] = size;
    }
    for (unsigned i = 0; i < BLOCKS / THREADS; i++) {
        wrong += count_wrong(blocks[i], sizes[i], i);
        free(blocks[i]);
    }
    free(blocks);
    free(sizes);
    return (void *)wrong;
}

static void test_threads(void)
{
    pthread_t threads[THREADS];
    uintptr_t wrong = 0;
    void *result;

    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, churn, (void *)(i + 1));
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], &result);
        wrong += (uintptr_t)result;
    }
    is(wrong, 0, "%u blocks of %d threads are right", BLOCKS, THREADS);
}

static void test_functions(void)
{
    volatile size_t many = (size_t)1 << 33;
    void *memory = NULL, *huge;
    char *text;

    ok(posix_memalign(&memory, 4096, 10000) == 0 && (uintptr_t)memory % 4096 == 0,
       "posix_memalign");
    free(memory);
    memory = aligned_alloc(64, 640);
    ok((uintptr_t)memory % 64 == 0 && malloc_usable_size(memory) >= 640, "aligned_alloc");
    free(memory);
    memory = calloc(1, 20 * MIB);
    text = memory;
    ok(text != NULL && text[0] == 0 && text[20 * MIB - 1] == 0, "calloc of 20 MiB");
    memset(memory, 7, 20 * MIB);
    memory = realloc(memory, 30 * MIB);
    text = memory;
    ok(text != NULL && text[0] == 7 && text[20 * MIB - 1] == 7, "realloc to 30 MiB");
    free(memory);
    huge = malloc(many << 27);
    ok(huge == NULL && errno == ENOMEM, "an exabyte cannot be had");
    ok(calloc(many, many) == NULL, "nor more than can be said");
    memory = memalign(1 << 20, 100);
    ok((uintptr_t)memory % (1 << 20) == 0, "memalign");
    free(memory);
    free(NULL);
}

static void *wait_for_ever(void *argument)
{
    char byte;

    return read(*(int *)argument, &byte, 1) < 0 ? NULL : argument;
}

static void test_cancel(void)
{
    int ends[2];
    pthread_t thread;
    void *result = NULL;

    if (pipe(ends) != 0)
        return;
    pthread_create(&thread, NULL, wait_for_ever, &ends[0]);
    usleep(10000);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    ok(result == PTHREAD_CANCELED, "a thread is cancelled in read()");
    close(ends[0]);
    close(ends[1]);
}

struct reader {
    int fd;
    FILE *stream;
    char *buffer;
    ssize_t (*read)(const struct reader *r, size_t at);
    unsigned rounds, wrong;
};

static char expected_byte(size_t at)
{
    return (char)((at >> 12) * 7 + at % 251);
}

static ssize_t read_plainly(const struct reader *r, size_t at)
{
    return pread(r->fd, r->buffer, PIECE, (off_t)at);
}

/* Buffers of no length count for nothing. */
static ssize_t read_parts(const struct reader *r, size_t at)
{
    struct iovec iov[] = {{.iov_base = NULL},
                          {.iov_base = r->buffer, .iov_len = PIECE / 2},
                          {.iov_base = r->buffer + 1},
                          {.iov_base = r->buffer + PIECE / 2, .iov_len = PIECE / 2},
                          {.iov_base = r->buffer + PIECE}};

    return preadv(r->fd, iov, 5, (off_t)at);
}

static ssize_t read_stream(const struct reader *r, size_t at)
{
    if (fseek(r->stream, (long)at, SEEK_SET) != 0)
        return -1;
    return (ssize_t)fread(r->buffer, 1, PIECE, r->stream);
}

/* It may be refused, but not go wrong. */
static ssize_t read_later(const struct reader *r, size_t at)
{
    struct aiocb call = {.aio_fildes = r->fd,
                         .aio_buf = r->buffer,
                         .aio_nbytes = PIECE,
                         .aio_offset = (off_t)at,
                         .aio_lio_opcode = LIO_READ};
    struct aiocb *const list[] = {NULL, &call};

    if ((at / PIECE % 2 ? aio_read(&call) : lio_listio(LIO_NOWAIT, list, 2, NULL)) != 0)
        return errno == ENOSYS ? pread(r->fd, r->buffer, PIECE, (off_t)at) : -1;
    while (aio_error(&call) == EINPROGRESS)
        aio_suspend((const struct aiocb *const *)list, 2, NULL);
    return aio_return(&call);
}

static void *read_directly(void *argument)
{
    struct reader *r = argument;

    for (unsigned round = 0; round < r->rounds; round++) {
        for (size_t at = 0; at < FILE_SIZE; at += PIECE) {
            ssize_t got = r->read(r, at);

            r->wrong += got <= 0;
            for (size_t i = 0; got > 0 && i < (size_t)got; i += 97)
                r->wrong += r->buffer[i] != expected_byte(at + i);
        }
    }
    return NULL;
}

static unsigned wrong_under_pressure(struct reader *r, char *memory, size_t pressure)
{
    pthread_t thread;

    r->wrong = 0;
    pthread_create(&thread, NULL, read_directly, r);
    for (unsigned round = 0; round < 4; round++)
        for (size_t at = 0; at < pressure; at += 4096)
            memory[at] = (char)round;
    pthread_join(thread, NULL);
    return r->wrong;
}

/* One with another mapping in its middle. */
static void test_mixed_buffer(struct reader r, char *memory, size_t pressure)
{
    char *buffer = mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    mmap(buffer + PIECE / 2, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED,
         -1, 0);
    r.buffer = buffer;
    r.read = read_plainly;
    is(wrong_under_pressure(&r, memory, pressure), 0, "and those into mixed memory");
    munmap(buffer, PIECE);
}

/* A buffer is given back again and again while it is read into. */
static void test_given_back(struct reader r)
{
    pthread_t thread;

    r.wrong = 0;
    pthread_create(&thread, NULL, read_directly, &r);
    for (unsigned round = 0; round < 2000; round++)
        r.wrong += madvise(r.buffer, PIECE, MADV_DONTNEED) != 0;
    pthread_join(thread, NULL);
    ok(true, "memory is given back while a device writes into it");
}

/* Pages are taken all the time, while a device writes into some. */
static void test_direct(void)
{
    char name[] = "/var/tmp/vmsm-managed-XXXXXX";
    size_t pressure = 16 * MIB;
    struct reader r = {.fd = mkostemp(name, O_DIRECT), .read = read_plainly, .rounds = 6};
    char *memory = malloc(pressure), *content = NULL;
    struct iovec iov[2];

    unlink(name);
    if (r.fd < 0 || posix_memalign((void **)&r.buffer, 4096, PIECE) != 0 ||
        posix_memalign((void **)&content, 4096, FILE_SIZE) != 0) {
        skip("there is no direct I/O in /var/tmp");
        return;
    }
    for (size_t at = 0; at < FILE_SIZE; at++)
        content[at] = expected_byte(at);
    ok(pwrite(r.fd, content, FILE_SIZE, 0) == (ssize_t)FILE_SIZE, "a direct write");
    is(wrong_under_pressure(&r, memory, pressure), 0, "direct reads bring what is in the file");
    r.rounds = 4;
    r.read = read_parts;
    is(wrong_under_pressure(&r, memory, pressure), 0, "so do those into several buffers");
    test_mixed_buffer(r, memory, pressure);
    test_given_back(r);
    r.read = read_later;
    is(wrong_under_pressure(&r, memory, pressure), 0, "asynchronous ones");
    memset(content, 0, FILE_SIZE);
    iov[0] = (struct iovec){.iov_base = content, .iov_len = 8192};
    iov[1] = (struct iovec){.iov_base = content + MIB, .iov_len = 8192};
    is(preadv(r.fd, iov, 2, 0), 16384, "a direct read into two buffers");
    ok(content[100] == expected_byte(100) && content[MIB + 100] == expected_byte(8192 + 100),
       "is right");
    r.stream = fdopen(dup(r.fd), "r");
    r.read = read_stream;
    is(wrong_under_pressure(&r, memory, pressure), 0, "a stream on it brings the same");
    fclose(r.stream);
    close(r.fd);
    free(memory);
    free(content);
    free(r.buffer);
}

/* The descriptors of others are others'. */
static void test_descriptors(void)
{
    int log = dup(STDERR_FILENO);
    char *memory;

    for (int fd = log; fd < 1024; fd++)
        close(fd);
    close_range((unsigned)log, 4000, 0);
    memory = malloc(20 * MIB);
    for (size_t at = 0; at < 20 * MIB; at += 4096)
        memory[at] = (char)(at >> 12);
    for (size_t at = 0; at < 20 * MIB; at += 4096)
        if (memory[at] != (char)(at >> 12))
            memory = NULL;
    ok(memory != NULL, "memory can be had when all descriptors have been closed");
    free(memory);
}

int main(void)
{
    test_functions();
    test_threads();
    test_cancel();
    test_direct();
    test_descriptors();
    return done_testing();
}
