/*
 * The encrypted store: what it writes, what it refuses to read, and where its key lies.
 *
 * Most tests are on an inner store in memory, so that what is stored can be seen and changed,
 * writes can fail half-way, and everything is complete in submit().
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "store/store.h"
#include "tap.h"

#define PAGE 4096u
#define SLOTS 2048u

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

/* ---- the C library, watched ---- */

static const void *watched_key;       /* unmapped only if it is all zero */
static size_t watched_nonzero = 9999; /* bytes that were not */
static _Atomic unsigned allocations;

int munmap(void *address, size_t length)
{
    if (address == watched_key && address != NULL) {
        watched_nonzero = 0;
        for (size_t i = 0; i < length; i++)
            watched_nonzero += ((const unsigned char *)address)[i] != 0;
    }
    return (int)syscall(SYS_munmap, address, length);
}

#ifndef SANITIZED
void *__libc_malloc(size_t size);
void *malloc(size_t size)
{
    allocations++;
    return __libc_malloc(size);
}
#endif

/* ---- an inner store in memory ---- */

struct memory_store {
    struct store base;
    unsigned char (*slots)[PAGE];
    unsigned failures; /* so many writes fail from now on, half of their first page stored */
};

struct memory_queue {
    struct memory_store *store;
    struct store_io *first;
};

static int memory_grow(struct store *base, uint64_t slots)
{
    (void)base;
    return slots <= SLOTS ? 0 : -ENOSPC;
}

static int memory_queue_open(struct store *base, unsigned depth, struct store_queue **out)
{
    struct memory_queue *queue = calloc(1, sizeof(*queue));

    (void)depth;
    if (queue == NULL)
        return -ENOMEM;
    queue->store = (struct memory_store *)base;
    *out = (struct store_queue *)queue;
    return 0;
}

static void memory_queue_close(struct store_queue *queue)
{
    free(queue);
}

static void memory_transfer(struct memory_store *store, struct store_io *io)
{
    unsigned char *at = store->slots[io->slot];

    io->result = 0;
    if (io->write && store->failures > 0) {
        store->failures--;
        io->result = -EIO;
        memcpy(at, io->iov[0].iov_base, PAGE / 2);
        return;
    }
    for (int i = 0; i < io->iovcnt; i++) {
        memcpy(io->write ? at : io->iov[i].iov_base, io->write ? io->iov[i].iov_base : at,
               io->iov[i].iov_len);
        at += io->iov[i].iov_len;
    }
}

static void memory_submit(struct store_queue *base, struct store_io **ios, unsigned count)
{
    struct memory_queue *queue = (struct memory_queue *)(void *)base;

    for (unsigned i = 0; i < count; i++) {
        if (ios[i]->count == 0)
            ios[i]->result = -EINVAL;
        else
            memory_transfer(queue->store, ios[i]);
        ios[i]->next = queue->first;
        queue->first = ios[i];
    }
}

static unsigned memory_reap(struct store_queue *base, struct store_io **done, unsigned max,
                            bool wait)
{
    struct memory_queue *queue = (struct memory_queue *)(void *)base;
    unsigned n = 0;

    (void)wait;
    for (; n < max && queue->first != NULL; queue->first = queue->first->next)
        done[n++] = queue->first;
    return n;
}

static int memory_queue_fd(struct store_queue *queue)
{
    (void)queue;
    return -1;
}

static void memory_close(struct store *base)
{
    struct memory_store *store = (struct memory_store *)base;

    munmap(store->slots, (size_t)SLOTS * PAGE);
    free(store);
}

static const struct store_ops memory_ops = {
    .name = "memory",
    .grow = memory_grow,
    .queue_open = memory_queue_open,
    .queue_close = memory_queue_close,
    .submit = memory_submit,
    .reap = memory_reap,
    .queue_fd = memory_queue_fd,
    .close = memory_close,
};

/* ---- helpers ---- */

static void *new_pages(size_t count)
{
    void *pages =
        mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (pages == MAP_FAILED) {
        printf("Bail out! no memory\n");
        exit(1);
    }
    return pages;
}

static struct store *memory_open(void)
{
    struct memory_store *store = calloc(1, sizeof(*store));

    if (store == NULL)
        exit(1);
    store->base =
        (struct store){.ops = &memory_ops, .slots = SLOTS, .where = "in memory", .how = "memory"};
    store->slots = new_pages(SLOTS);
    return &store->base;
}

struct fixture {
    struct memory_store *memory; /* NULL: a file */
    struct store *store;
    struct store_queue *queue;
    unsigned char (*pages)[PAGE]; /* one for each slot */
};

static void open_on(struct fixture *f, struct store *inner, enum store_cipher cipher)
{
    if (store_crypt_open(inner, cipher, &f->store) != 0 ||
        f->store->ops->queue_open(f->store, 8, &f->queue) != 0) {
        printf("Bail out! %s\n", error_last());
        exit(1);
    }
    f->pages = new_pages(SLOTS);
}

static void open_memory(struct fixture *f, enum store_cipher cipher)
{
    struct store *inner = memory_open();

    f->memory = (struct memory_store *)inner;
    open_on(f, inner, cipher);
}

static void shut(struct fixture *f)
{
    f->store->ops->queue_close(f->queue);
    f->store->ops->close(f->store);
    munmap(f->pages, (size_t)SLOTS * PAGE);
}

static void fill(struct fixture *f, uint64_t slot, uint64_t count, unsigned char generation)
{
    for (uint64_t s = slot; s < slot + count; s++)
        for (unsigned i = 0; i < PAGE; i++)
            f->pages[s][i] = (unsigned char)(s * 7 + i / 16 + generation);
}

static bool filled(const struct fixture *f, uint64_t slot, uint64_t count, unsigned char generation)
{
    for (uint64_t s = slot; s < slot + count; s++)
        for (unsigned i = 0; i < PAGE; i++)
            if (f->pages[s][i] != (unsigned char)(s * 7 + i / 16 + generation))
                return false;
    return true;
}

/* One request over pages [slot, slot + count), from submit to reap. */
static int transfer(struct fixture *f, bool write, uint64_t slot, uint32_t count)
{
    struct iovec iov = {.iov_base = f->pages[slot], .iov_len = (size_t)count * PAGE};
    struct store_io io = {.slot = slot, .count = count, .write = write, .iov = &iov, .iovcnt = 1};
    struct store_io *one = &io, *done = NULL;

    f->store->ops->submit(f->queue, &one, 1);
    if (f->store->ops->reap(f->queue, &done, 1, true) != 1 || done != &io)
        return -ENODATA;
    return io.result;
}

static int put(struct fixture *f, uint64_t slot, uint32_t count, unsigned char generation)
{
    fill(f, slot, count, generation);
    return transfer(f, true, slot, count);
}

/* Read; 1 if the content is not that of the generation. */
static int get(struct fixture *f, uint64_t slot, uint32_t count, unsigned char generation)
{
    int result;

    memset(f->pages[slot], 0xee, (size_t)count * PAGE);
    result = transfer(f, false, slot, count);
    return result == 0 && !filled(f, slot, count, generation) ? 1 : result;
}

/* Does any 16-byte piece of the plain page stand in the stored bytes, anywhere? */
static bool shows(const unsigned char *stored, size_t length, const unsigned char *plain)
{
    for (unsigned i = 0; i < PAGE; i += 16)
        if (memmem(stored, length, plain + i, 16) != NULL)
            return true;
    return false;
}

/* ---- data ---- */

static void test_round_trip(const char *name, enum store_cipher cipher)
{
    static const uint32_t counts[] = {1, 37, 512, 700};
    struct fixture f = {0};
    uint64_t slot = 1;

    open_memory(&f, cipher);
    for (unsigned i = 0; i < 4; i++) {
        is(put(&f, slot, counts[i], 1), 0, "%s: %u slots written", name, counts[i]);
        ok(filled(&f, slot, counts[i], 1), "%s: the submitter's pages are as they were", name);
        ok(!shows(f.memory->slots[slot], (size_t)counts[i] * PAGE, f.pages[slot]),
           "%s: no 16 bytes of them are stored as they are", name);
        is(get(&f, slot, counts[i], 1), 0, "%s: and read back", name);
        slot += counts[i];
    }
    is(get(&f, 30, 100, 1), 0, "%s: parts of several writes read as one", name);
    is(get(&f, slot, 1, 1), -EBADMSG, "%s: a slot never written does not decrypt", name);
    shut(&f);
}

/* Through a real file: ciphertext on disk, descriptor and all. */
static void test_file(void)
{
    char path[] = "/var/tmp/vmsm-test-XXXXXX";
    int fd = mkstemp(path);
    struct store_file_options options = {.path = path, .size_slots = SLOTS, .direct = true};
    unsigned char *stored = new_pages(SLOTS);
    struct store *inner;
    struct fixture f = {0};

    if (store_file_open(&options, &inner) != 0) {
        ok(false, "a file: %s", error_last());
        return;
    }
    open_on(&f, inner, CIPHER_BEST);
    is(put(&f, 1, 1000, 3), 0, "file: 1000 slots written");
    is(pread(fd, stored, (size_t)SLOTS * PAGE, 0), (ssize_t)SLOTS * PAGE, "file: looked at");
    ok(!shows(stored + PAGE, (size_t)1000 * PAGE, f.pages[500]), "file: no plaintext in it");
    is(get(&f, 1, 1000, 3), 0, "file: read back");
    ok(strstr(f.store->how, "encrypted") != NULL, "file: the report says so: %s", f.store->how);
    is(f.store->ops->grow(f.store, SLOTS), 0, "file: grown to what it has");
    shut(&f);
    close(fd);
    unlink(path);
    munmap(stored, (size_t)SLOTS * PAGE);
}

/* Buffers that are apart, of 512 bytes and more. */
static void test_scattered(void)
{
    static const unsigned lengths[] = {512, 4096, 3584, 1024, 8192, 3072};
    struct iovec iov[6];
    struct store_io io = {.slot = 5, .count = 5, .write = true, .iov = iov, .iovcnt = 6};
    struct store_io *one = &io, *done;
    struct fixture f = {0};

    open_memory(&f, CIPHER_BEST);
    fill(&f, 5, 5, 1);
    for (unsigned i = 0, at = 0; i < 6; at += lengths[i++])
        iov[i] = (struct iovec){.iov_base = f.pages[5] + at, .iov_len = lengths[i]};
    f.store->ops->submit(f.queue, &one, 1);
    is(f.store->ops->reap(f.queue, &done, 1, true), 1, "scattered buffers: written");
    is(get(&f, 5, 5, 1), 0, "scattered buffers: right, read in one piece");
    memset(f.pages[5], 0, 5 * PAGE);
    io.write = false;
    f.store->ops->submit(f.queue, &one, 1);
    is(f.store->ops->reap(f.queue, &done, 1, true), 1, "scattered buffers: read");
    ok(io.result == 0 && filled(&f, 5, 5, 1), "scattered buffers: right, read in pieces");
    io.iovcnt = 0;
    io.write = true;
    io.count = 0;
    f.store->ops->submit(f.queue, &one, 1);
    is(f.store->ops->reap(f.queue, &done, 1, true), 1, "a write of nothing comes back");
    is(io.result, -EINVAL, "a write of nothing is refused");
    shut(&f);
}

/* More writes than there is room for, with and without a descriptor to be told by. */
static void test_parking(bool on_file)
{
    struct store_file_options options = {.path = "", .size_slots = SLOTS, .direct = true};
    struct store_io ios[40], *list[40], *done[7];
    struct iovec iov[40];
    struct store *inner = NULL;
    struct fixture f = {0};
    const char *name = on_file ? "file" : "memory";
    unsigned n = 0, errors = 0, got;

    if (on_file && store_file_open(&options, &inner) != 0) {
        ok(false, "a file: %s", error_last());
        return;
    }
    if (on_file)
        open_on(&f, inner, CIPHER_BEST);
    else
        open_memory(&f, CIPHER_BEST);
    fill(&f, 1, 40 * 51, 1);
    for (unsigned i = 0; i < 40; i++) {
        iov[i] = (struct iovec){.iov_base = f.pages[1 + i * 51], .iov_len = 51 * PAGE};
        ios[i] = (struct store_io){
            .slot = 1 + i * 51, .count = 51, .write = true, .iov = &iov[i], .iovcnt = 1};
        list[i] = &ios[i];
    }
    f.store->ops->submit(f.queue, list, 40);
    while ((got = f.store->ops->reap(f.queue, done, 7, true)) > 0) {
        for (unsigned i = 0; i < got; i++)
            errors += done[i]->result != 0;
        n += got;
    }
    is(n, 40, "%s: 40 writes of 51 slots at once all come back", name);
    is(errors, 0, "%s: none failed", name);
    is(get(&f, 1, 40 * 51, 1), 0, "%s: and all is right", name);
    shut(&f);
}

/* ---- what is refused ---- */

static void test_tampering(const char *name, enum store_cipher cipher)
{
    struct fixture f = {0};
    unsigned char old[PAGE], new[PAGE];

    open_memory(&f, cipher);
    put(&f, 10, 8, 1);
    f.memory->slots[13][2000] ^= 0x10;
    is(get(&f, 13, 1, 1), -EBADMSG, "%s: a flipped bit is refused", name);
    ok(!filled(&f, 13, 1, 1), "%s: and nothing of the page is handed out", name);
    is(get(&f, 10, 8, 1), -EBADMSG, "%s: so is a run that holds it", name);
    is(get(&f, 12, 1, 1), 0, "%s: its neighbour alone is right", name);
    f.memory->slots[13][2000] ^= 0x10;
    is(get(&f, 10, 8, 1), 0, "%s: the bit flipped back, all is right", name);

    put(&f, 20, 1, 1);
    put(&f, 21, 1, 2);
    memcpy(old, f.memory->slots[20], PAGE);
    memcpy(f.memory->slots[20], f.memory->slots[21], PAGE);
    is(get(&f, 20, 1, 1), -EBADMSG, "%s: a slot with another's content is refused", name);
    memcpy(f.memory->slots[20], old, PAGE);
    is(get(&f, 20, 1, 1), 0, "%s: its own is not", name);

    put(&f, 20, 1, 3);
    memcpy(new, f.memory->slots[20], PAGE);
    memcpy(f.memory->slots[20], old, PAGE);
    is(get(&f, 20, 1, 1), -EBADMSG, "%s: an older version put back is refused", name);
    memcpy(f.memory->slots[20], new, PAGE);
    is(get(&f, 20, 1, 3), 0, "%s: the last is not", name);
    memset(f.memory->slots[20], 0, PAGE);
    is(get(&f, 20, 1, 3), -EBADMSG, "%s: a slot of zeroes is refused", name);
    shut(&f);
}

static void test_other_run(void)
{
    struct fixture a = {0}, b = {0};

    open_memory(&a, CIPHER_BEST);
    open_memory(&b, CIPHER_BEST);
    put(&a, 1, 1, 1);
    put(&b, 1, 1, 1);
    ok(memcmp(a.memory->slots[1], b.memory->slots[1], PAGE) != 0,
       "two stores write the same page differently");
    memcpy(b.memory->slots[1], a.memory->slots[1], PAGE);
    is(get(&b, 1, 1, 1), -EBADMSG, "what another store wrote is refused");
    shut(&a);
    shut(&b);
}

/* ---- nonces ---- */

/* Pages of zeroes: what is stored is the key stream itself, so equal beginnings are equal nonces.
 */
static int compare_heads(const void *a, const void *b)
{
    return memcmp(a, b, 16);
}

static void test_nonces(const char *name, enum store_cipher cipher)
{
    enum { ROUNDS = 20, RUN = 100 };
    static unsigned char heads[ROUNDS * RUN + ROUNDS][16];
    struct fixture f = {0};
    unsigned n = 0, equal = 0;

    open_memory(&f, cipher);
    for (unsigned round = 0; round < ROUNDS; round++) {
        memset(f.pages[1], 0, (size_t)RUN * PAGE);
        f.memory->failures = 1;
        is(transfer(&f, true, 1, RUN), -EIO, "%s: a write that fails half-way says so", name);
        memcpy(heads[n++], f.memory->slots[1], 16);
        is(get(&f, 1, 1, 0), -EBADMSG, "%s: a torn slot does not decrypt", name);
        memset(f.pages[1], 0, (size_t)RUN * PAGE);
        is(transfer(&f, true, 1, RUN), 0, "%s: sent again, it is written", name);
        for (unsigned i = 0; i < RUN; i++)
            memcpy(heads[n++], f.memory->slots[1 + i], 16);
        memset(f.pages[1], 1, PAGE);
        ok(transfer(&f, false, 1, RUN) == 0 && f.pages[1][0] == 0 && f.pages[RUN][PAGE - 1] == 0,
           "%s: and read back", name);
    }
    qsort(heads, n, 16, compare_heads);
    for (unsigned i = 1; i < n; i++)
        equal += memcmp(heads[i - 1], heads[i], 16) == 0;
    is(equal, 0, "%s: %u writes of one content, torn ones and all, are stored differently", name,
       n);
    shut(&f);
}

struct writer {
    struct fixture *f;
    uint64_t from;
};

static void *write_all(void *argument)
{
    struct writer *w = argument;
    struct fixture mine = *w->f;

    mine.store->ops->queue_open(mine.store, 8, &mine.queue);
    for (unsigned i = 0; i < 500; i++)
        transfer(&mine, true, w->from + i, 1);
    mine.store->ops->queue_close(mine.queue);
    return NULL;
}

static void test_threads(void)
{
    static unsigned char heads[1000][16];
    struct fixture f = {0};
    struct writer writers[2] = {{&f, 1}, {&f, 501}};
    pthread_t threads[2];
    unsigned equal = 0;

    open_memory(&f, CIPHER_BEST);
    for (unsigned i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, write_all, &writers[i]);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < 1000; i++)
        memcpy(heads[i], f.memory->slots[1 + i], 16);
    qsort(heads, 1000, 16, compare_heads);
    for (unsigned i = 1; i < 1000; i++)
        equal += memcmp(heads[i - 1], heads[i], 16) == 0;
    is(equal, 0, "two threads: no two writes are stored alike");
    is(transfer(&f, false, 1, 1000), 0, "two threads: all decrypts");
    shut(&f);
}

/* ---- the key, and what a handler must not do ---- */

#ifndef SANITIZED
/* The address of the only locked page there is, with its flags; 0 if there is none or more. */
static uintptr_t locked_page(char *flags, size_t size)
{
    FILE *smaps = fopen("/proc/self/smaps", "r");
    uintptr_t from = 0, to = 0, found = 0;
    char line[512];

    while (smaps != NULL && fgets(line, sizeof(line), smaps) != NULL) {
        unsigned long a, b;

        if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
            from = a;
            to = b;
        } else if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " lo") != NULL) {
            if (found != 0 || to - from != PAGE)
                note("locked too: %lx-%lx", (unsigned long)from, (unsigned long)to);
            found = found == 0 && to - from == PAGE ? from : 0;
            snprintf(flags, size, "%.*s", (int)strcspn(line, "\n"), line);
        }
    }
    if (smaps != NULL)
        fclose(smaps);
    return found;
}

/* How a child that reads the byte at `address` ends. */
static int child_reads(uintptr_t address)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        _exit(*(volatile unsigned char *)address == 0 ? 1 : 2);
    }
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void test_key(void)
{
    char flags[256] = "";
    struct fixture f = {0};
    uintptr_t page;

    is(locked_page(flags, sizeof(flags)), 0, "nothing is locked before");
    open_memory(&f, CIPHER_BEST);
    page = locked_page(flags, sizeof(flags));
    ok(page != 0, "one page is locked while the store is open");
    ok(strstr(flags, " dd") != NULL, "it is left out of core dumps: %s", flags);
    ok(strstr(flags, " dc") != NULL, "it is not copied to children: %s", flags);
    if (page != 0)
        is(child_reads(page), SIGSEGV, "a child that reads it gets SIGSEGV");
    watched_key = (const void *)page;
    shut(&f);
    is(watched_nonzero, 0, "it was wiped before it was given back");
    watched_key = NULL;
    is(locked_page(flags, sizeof(flags)), 0, "nothing is locked afterwards");
}

/* Without root's rights and with a limit of 0. */
static void test_lock_limit(void)
{
    struct rlimit none = {0, 0};
    int status = 0;
    pid_t child;

    fflush(stdout);
    child = fork();
    if (child == 0) {
        struct store *inner = memory_open(), *store = NULL;
        int error;

        if (setrlimit(RLIMIT_MEMLOCK, &none) != 0 || (geteuid() == 0 && setuid(65534) != 0))
            _exit(4);
        error = store_crypt_open(inner, CIPHER_BEST, &store);
        if (error != -EPERM && error != -ENOMEM)
            _exit(3);
        inner->ops->close(inner); /* still ours */
        _exit(strstr(error_last(), "ulimit -l") != NULL ? 0 : 2);
    }
    waitpid(child, &status, 0);
    is(status, 0, "a key that cannot be locked is refused, and the limit named");
}
#endif

static void test_allocations(void)
{
    struct fixture f = {0};
    unsigned before;
    int written, right, refused;

    open_memory(&f, CIPHER_BEST);
    put(&f, 1, 4, 1);
    f.memory->slots[4][0] ^= 1;
    before = allocations;
    written = transfer(&f, true, 5, 600);
    right = transfer(&f, false, 1, 3);
    refused = transfer(&f, false, 1, 4);
    ok(written == 0 && right == 0 && refused == -EBADMSG, "written, read, refused");
#ifdef SANITIZED
    (void)before;
    skip("allocations: the sanitizer has its own");
#else
    is(allocations - before, 0, "and none of it allocated");
#endif
    shut(&f);
}

static void test_limits(void)
{
    struct fixture f = {0};

    open_memory(&f, CIPHER_BEST);
    is(f.store->ops->grow(f.store, SLOTS + 1), -ENOMEM, "a fixed size does not grow");
    ok(strstr(error_last(), "2048 slots") != NULL, "and the message says how far: %s",
       error_last());
    shut(&f);
}

int main(void)
{
#ifdef SANITIZED
    skip("the key's page: sanitizers make mlock() do nothing");
#else
    test_key();
    test_lock_limit();
#endif
    test_round_trip("best", CIPHER_BEST);
    test_round_trip("xchacha20", CIPHER_XCHACHA20);
    test_file();
    test_scattered();
    test_parking(false);
    test_parking(true);
    test_tampering("best", CIPHER_BEST);
    test_tampering("xchacha20", CIPHER_XCHACHA20);
    test_other_run();
    test_nonces("best", CIPHER_BEST);
    test_nonces("xchacha20", CIPHER_XCHACHA20);
    test_threads();
    test_allocations();
    test_limits();
    return done_testing();
}
