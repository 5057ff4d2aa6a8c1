/*
 * mmap() and its kin, as a program knows them. Run plain it shows that the checks are right, run by
 * `vmsm run` with little memory that managed memory is no different.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "../tap.h"

#define PAGE ((size_t)4096)
#define MIB (1024UL * 1024)
#define BIG (24 * MIB) /* several times what the test is run with */

#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

static bool plain; /* not by `vmsm run` */
static sigjmp_buf back;
static volatile uintptr_t fault_address;

static void on_fault(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    fault_address = (uintptr_t)info->si_addr;
    siglongjmp(back, 1);
}

/* Does reading (or writing) the byte raise SIGSEGV there? */
static bool faults(volatile char *at, bool write)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, before;
    volatile bool faulted = false;

    sigaction(SIGSEGV, &action, &before);
    if (sigsetjmp(back, 1) != 0)
        faulted = fault_address == (uintptr_t)at;
    else if (write)
        *at = 1;
    else
        (void)*at;
    sigaction(SIGSEGV, &before, NULL);
    return faulted;
}

static char *map(size_t length, int protection)
{
    char *memory = mmap(NULL, length, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

/* A word on each page that depends on it and on `salt`. */
static void fill(char *memory, size_t length, uint64_t salt)
{
    for (size_t at = 0; at < length; at += PAGE)
        *(uint64_t *)(void *)(memory + at) = (at + 1) * 0x9e3779b97f4a7c15u ^ salt;
}

static bool holds(const char *memory, size_t length, uint64_t salt)
{
    for (size_t at = 0; at < length; at += PAGE)
        if (*(const uint64_t *)(const void *)(memory + at) !=
            ((at + 1) * 0x9e3779b97f4a7c15u ^ salt))
            return false;
    return true;
}

static bool all_zero(const char *memory, size_t length)
{
    for (size_t at = 0; at < length; at += 8)
        if (*(const uint64_t *)(const void *)(memory + at) != 0)
            return false;
    return true;
}

static void test_map(void)
{
    char *memory = map(BIG, PROT_READ | PROT_WRITE), *again;

    ok(memory != NULL && all_zero(memory, BIG), "new memory reads as zeroes");
    fill(memory, BIG, 1);
    ok(holds(memory, BIG, 1), "what was written is there");
    is(munmap(memory + 8 * MIB, 4 * MIB), 0, "the middle is unmapped");
    ok(faults(memory + 8 * MIB, false) && faults(memory + 12 * MIB - 1, true), "and gone");
    ok(holds(memory, 8 * MIB, 1), "what is before it stays");
    ok(*(uint64_t *)(void *)(memory + 12 * MIB) == ((12 * MIB + 1) * 0x9e3779b97f4a7c15u ^ 1),
       "and what is behind it");
    again = mmap(memory + 8 * MIB, 4 * MIB, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    ok(again == memory + 8 * MIB && all_zero(again, 4 * MIB), "mapped there again it is zeroes");
    again =
        mmap(memory, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    ok(again == memory && all_zero(memory, BIG), "so is all of it when mapped over");
    again = mmap(memory, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    ok(again == MAP_FAILED && errno == EEXIST, "MAP_FIXED_NOREPLACE replaces nothing");
    is(munmap(memory, BIG), 0, "unmapped");
    is(munmap(memory, BIG), 0, "twice, as the kernel allows it");
    ok(faults(memory, false), "nothing is left");
    ok(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED &&
           errno == EINVAL,
       "no bytes cannot be mapped");
    is(munmap(memory + 1, PAGE), -1, "nor an odd address unmapped");
}

/* A call that fails destroys nothing. */
static void test_refused(void)
{
    char *memory = map(4 * MIB, PROT_READ | PROT_WRITE);

    fill(memory, 4 * MIB, 13);
    ok(mmap(memory + MIB, MIB, PROT_READ, MAP_PRIVATE | MAP_FIXED, -1, 0) == MAP_FAILED &&
           errno == EBADF,
       "no file cannot be mapped over it");
    ok(mmap(memory + MIB, MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, STDIN_FILENO, 5) ==
           MAP_FAILED,
       "nor one at an odd place");
    ok(munmap(memory, 1UL << 50) == -1 && errno == EINVAL, "more than there is stays mapped");
    ok(munmap(memory, 0) == -1 && errno == EINVAL, "so does nothing");
    ok(holds(memory, 4 * MIB, 13), "and its content is there");
    munmap(memory, 4 * MIB);
}

static void test_protect(void)
{
    char *memory = map(8 * MIB, PROT_READ | PROT_WRITE),
         *pressure = map(BIG, PROT_READ | PROT_WRITE);

    fill(memory, 8 * MIB, 2);
    is(mprotect(memory + MIB, MIB, PROT_READ), 0, "a part is made read-only");
    ok(!faults(memory + MIB, false) && faults(memory + MIB, true), "it can be read, not written");
    ok(!faults(memory + MIB - 1, true) && !faults(memory + 2 * MIB, true), "its neighbours can be");
    is(mprotect(memory + 4 * MIB, MIB, PROT_NONE), 0, "another part loses all access");
    ok(faults(memory + 4 * MIB + 5, false), "it has none");
    fill(pressure, BIG, 3);
    ok(holds(pressure, BIG, 3), "other memory is used meanwhile");
    is(mprotect(memory, 8 * MIB, PROT_READ | PROT_WRITE), 0, "all may be written again");
    memory[MIB - 1] = memory[2 * MIB] = 0;
    fill(memory + 2 * MIB, PAGE, 0);
    *(uint64_t *)(void *)(memory + 2 * MIB) = (2 * MIB + 1) * 0x9e3779b97f4a7c15u ^ 2;
    ok(holds(memory, 8 * MIB, 2), "and its content is there");
    is(munmap(memory + 5 * MIB, MIB), 0, "a hole");
    ok(mprotect(memory, 8 * MIB, PROT_READ) == -1 && errno == ENOMEM, "a hole cannot be protected");
    ok(faults(memory + 4 * MIB, true) && !faults(memory + 6 * MIB, true),
       "what is before it is, and what is behind it not");
    ok(mprotect(memory, SIZE_MAX, PROT_NONE) == -1 && errno == ENOMEM &&
           mprotect(memory, SIZE_MAX - (uintptr_t)memory, PROT_NONE) == -1 && errno == ENOMEM,
       "nor more than there are addresses");
    ok(mprotect(memory + 1, PAGE, PROT_NONE) == -1 && errno == EINVAL, "nor an odd address");
    ok(!faults(memory, false), "which changes nothing");
    munmap(memory, 8 * MIB);
    munmap(pressure, BIG);
}

static void test_reserve(void)
{
    size_t vast = 64UL * 1024 * MIB;
    char *memory = mmap(NULL, vast, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    ok(memory != MAP_FAILED, "64 GiB are reserved without access");
    ok(faults(memory, false), "they cannot be read");
    is(mprotect(memory + vast / 2, 4 * MIB, PROT_READ | PROT_WRITE), 0, "a part is opened");
    fill(memory + vast / 2, 4 * MIB, 4);
    ok(holds(memory + vast / 2, 4 * MIB, 4), "and used");
    is(munmap(memory, vast), 0, "all is given back");
}

static void test_advice(void)
{
    char *memory = map(8 * MIB, PROT_READ | PROT_WRITE);
    unsigned char vector[2048];

    fill(memory, 8 * MIB, 5);
    is(madvise(memory + MIB, 2 * MIB, MADV_DONTNEED), 0, "MADV_DONTNEED");
    ok(all_zero(memory + MIB, 2 * MIB) && holds(memory, MIB, 5), "gives zeroes, there only");
    is(madvise(memory, 8 * MIB, MADV_SEQUENTIAL), 0, "MADV_SEQUENTIAL");
    is(madvise(memory, 8 * MIB, MADV_WILLNEED), 0, "MADV_WILLNEED");
    is(madvise(memory, 8 * MIB, MADV_COLD), 0, "MADV_COLD");
    ok(holds(memory, MIB, 5), "change nothing");
    is(posix_madvise(memory, 8 * MIB, POSIX_MADV_DONTNEED), 0, "nor does POSIX_MADV_DONTNEED");
    ok(holds(memory, MIB, 5), "which destroys nothing");
    is(mincore(memory, 8 * MIB, vector), 0, "mincore");
    munmap(memory + 2 * MIB, MIB);
    ok(mincore(memory, 8 * MIB, vector) == -1 && errno == ENOMEM, "mincore finds a hole");
    ok(madvise(memory, 8 * MIB, MADV_DONTNEED) == -1 && errno == ENOMEM, "so does madvise");
    ok(all_zero(memory + 3 * MIB, 5 * MIB), "but advises what is behind it");
    ok(madvise(memory + 1, PAGE, MADV_DONTNEED) == -1 && errno == EINVAL, "odd addresses are not");
    ok(mincore(memory, SIZE_MAX - (uintptr_t)memory, vector) == -1 && errno == ENOMEM,
       "more than there are addresses is not there");
    ok(madvise(memory, SIZE_MAX - (uintptr_t)memory, MADV_COLD) == -1 && errno == EINVAL,
       "nor can it be advised");
    ok(madvise(memory, 0, 999) == -1 && errno == EINVAL, "what is no advice is refused,");
    ok(madvise(memory + 2 * MIB, PAGE, 999) == -1 && errno == EINVAL, "over a hole, too");
    is(madvise(memory, 0, MADV_COLD), 0, "nothing can be advised");
    munmap(memory, 8 * MIB);
}

static _Atomic bool counting;
static _Atomic uint64_t counted;

/* Counts on each page, as long as it is told to. */
static void *count_on(void *argument)
{
    while (counting) {
        for (size_t at = 0; at < MIB; at += PAGE)
            (*(volatile uint64_t *)(void *)((char *)argument + at))++;
        counted++;
    }
    return NULL;
}

static void test_populate(void)
{
    char *memory = map(BIG, PROT_READ | PROT_WRITE);
    bool right = true;
    pthread_t counter;

    if (madvise(memory, PAGE, MADV_POPULATE_READ) != 0 && errno == EINVAL) {
        skip("the kernel populates nothing by advice");
        return;
    }
    fill(memory, BIG / 2, 16);
    is(madvise(memory, BIG, MADV_POPULATE_READ), 0, "more than the memory is populated,");
    is(madvise(memory, BIG, MADV_POPULATE_WRITE), 0, "to be written, too,");
    ok(holds(memory, BIG / 2, 16) && all_zero(memory + BIG / 2, BIG / 2), "which changes nothing");
    memset(memory, 0, MIB);
    counting = true;
    pthread_create(&counter, NULL, count_on, memory);
    for (int round = 0; round < 20; round++) {
        right &= madvise(memory, 2 * MIB, MADV_POPULATE_WRITE) == 0;
        right &= madvise(memory + 2 * MIB, 8 * MIB, MADV_POPULATE_READ) == 0;
    }
    counting = false;
    pthread_join(counter, NULL);
    for (size_t at = 0; at < MIB; at += PAGE)
        right &= *(uint64_t *)(void *)(memory + at) == counted;
    ok(right, "nor is what another thread writes meanwhile lost");
    mprotect(memory, MIB, PROT_NONE);
    mprotect(memory + MIB, MIB, PROT_READ);
    mprotect(memory + 2 * MIB, MIB, PROT_WRITE);
    munmap(memory + 3 * MIB, MIB);
    ok(madvise(memory, PAGE, MADV_POPULATE_READ) == -1 && errno == EINVAL,
       "what has no access cannot be populated");
    ok(madvise(memory + MIB, MIB, MADV_POPULATE_READ) == 0 &&
           madvise(memory + MIB, MIB, MADV_POPULATE_WRITE) == -1 && errno == EINVAL,
       "what can be read only for that");
    ok(madvise(memory + 2 * MIB, MIB, MADV_POPULATE_WRITE) == 0 &&
           madvise(memory + 2 * MIB, MIB, MADV_POPULATE_READ) == -1 && errno == EINVAL,
       "what can be written only for that");
    ok(madvise(memory + 2 * MIB, 4 * MIB, MADV_POPULATE_WRITE) == -1 && errno == ENOMEM,
       "a hole cannot be");
    munmap(memory, BIG);
}

/* Plain it can be; managed memory is as if the kernel could not. */
static void test_merge(void)
{
    char *memory = map(MIB, PROT_READ | PROT_WRITE);

    fill(memory, MIB, 17);
    if (plain) {
        skip("the kernel may merge what is not managed");
        munmap(memory, MIB);
        return;
    }
    ok(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) == -1 && errno == EINVAL, "pages are not merged,");
    ok(syscall(SYS_prctl, PR_SET_MEMORY_MERGE, 1, 0, 0, 0) == -1 && errno == EINVAL,
       "by number neither,");
    ok(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) <= 0, "as can be seen,");
    ok(madvise(memory, MIB, MADV_MERGEABLE) == -1 && errno == EINVAL, "nor by advice");
    ok(holds(memory, MIB, 17), "and they are as they were");
    munmap(memory, MIB);
}

/* Managed memory cannot be sealed; what cannot hold would be for ever. */
static void test_seal(char *early)
{
    char *memory = map(4 * MIB, PROT_READ | PROT_WRITE);
    pid_t child;
    int status = -1;

    fill(memory, 4 * MIB, 18);
    if (plain) {
        skip("what is not managed can be sealed");
        munmap(memory, 4 * MIB);
        return;
    }
    ok(syscall(SYS_mseal, memory, 2 * MIB, 0) == -1 && errno == EPERM,
       "managed memory is not sealed");
    is(mprotect(memory, 2 * MIB, PROT_READ), 0, "it can still be protected,");
    is(madvise(memory, MIB, MADV_DONTNEED), 0, "emptied,");
    ok(all_zero(memory, MIB), "to zeroes,");
    child = fork();
    if (child == 0)
        _exit(*(uint64_t *)(void *)(memory + 3 * MIB) != 0 ? 3 : 4);
    waitpid(child, &status, 0);
    ok(WIFEXITED(status) && WEXITSTATUS(status) == 3, "inherited,");
    is(munmap(memory, 4 * MIB), 0, "and unmapped");
    if (syscall(SYS_mseal, early, PAGE, 0) != 0) {
        skip("the kernel seals nothing, or not this"); /* managed: there is little memory */
        return;
    }
    ok(mremap(early, PAGE, BIG, MREMAP_MAYMOVE) == MAP_FAILED && errno == EPERM,
       "what is sealed from before there was a manager cannot grow");
    ok(mprotect(early, PAGE, PROT_READ) == -1 && errno == EPERM && early[0] == 5, "nor be changed");
}

static void test_remap(void)
{
    char *memory = map(8 * MIB, PROT_READ | PROT_WRITE), *moved, *wall;

    fill(memory, 8 * MIB, 6);
    ok(mremap(memory, 8 * MIB, 6 * MIB, 0) == memory, "mremap shrinks");
    ok(faults(memory + 6 * MIB, false) && holds(memory, 6 * MIB, 6), "what is behind is gone");
    ok(mremap(memory, 6 * MIB, 8 * MIB, 0) == memory, "mremap grows where it is");
    ok(holds(memory, 6 * MIB, 6) && all_zero(memory + 6 * MIB, 2 * MIB), "by zeroes");
    fill(memory, 8 * MIB, 6);
    ok(holds(memory, 8 * MIB, 6), "which are memory");
    ok(mremap(memory, 8 * MIB, 6 * MIB, 0) == memory, "and shrinks again");
    wall = mmap(memory + 6 * MIB, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    ok(wall == memory + 6 * MIB, "something is in the way");
    ok(mremap(memory, 6 * MIB, 12 * MIB, 0) == MAP_FAILED && errno == ENOMEM,
       "it cannot grow where it is");
    moved = mremap(memory, 6 * MIB, 12 * MIB, MREMAP_MAYMOVE);
    ok(moved != MAP_FAILED && moved != memory, "but elsewhere");
    ok(holds(moved, 6 * MIB, 6) && all_zero(moved + 6 * MIB, 6 * MIB),
       "with its content, and zeroes behind it");
    ok(faults(memory, false), "it is not where it was");
    memory = map(12 * MIB, PROT_READ | PROT_WRITE);
    fill(memory, 12 * MIB, 7);
    ok(mremap(moved, 12 * MIB, 12 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED, memory) == memory,
       "it is moved over something");
    ok(holds(memory, 6 * MIB, 6) && all_zero(memory + 6 * MIB, 6 * MIB), "which is gone");
    munmap(wall, PAGE);
    is(mprotect(memory, 12 * MIB, PROT_READ), 0, "made read-only,");
    moved = mremap(memory, 12 * MIB, 24 * MIB, MREMAP_MAYMOVE);
    ok(moved != MAP_FAILED && holds(moved, 6 * MIB, 6), "it can be moved,");
    ok(faults(moved, true) && faults(moved + 20 * MIB, true), "and stays read-only");
    ok(mremap(moved, 24 * MIB, 0, MREMAP_MAYMOVE) == MAP_FAILED && errno == EINVAL,
       "it cannot become nothing");
    is(mprotect(moved + 4 * MIB, 4 * MIB, PROT_NONE), 0, "a part loses all access:");
    ok(mremap(moved, 24 * MIB, 2 * MIB, 0) == moved, "mremap shrinks what is not all alike");
    ok(faults(moved + 2 * MIB, false) && faults(moved + 8 * MIB, false) && holds(moved, 2 * MIB, 6),
       "what is behind is gone");
    munmap(moved, 2 * MIB);
}

static void test_remap_reserved(void)
{
    size_t vast = 200UL * 1024 * MIB;
    char *memory = mmap(NULL, vast, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *moved, *wall;

    ok(memory != MAP_FAILED, "200 GiB are reserved");
    wall = mmap(memory + vast, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
                -1, 0);
    moved = mremap(memory, vast, vast + PAGE, MREMAP_MAYMOVE);
    ok(moved != MAP_FAILED && moved != memory, "and moved, for they promise nothing");
    ok(faults(moved, false), "they still have no access");
    is(mprotect(moved + vast / 2, MIB, PROT_READ | PROT_WRITE), 0, "a part is opened");
    fill(moved + vast / 2, MIB, 19);
    ok(holds(moved + vast / 2, MIB, 19), "and used");
    munmap(moved, vast + PAGE);
    if (wall != MAP_FAILED)
        munmap(wall, PAGE);
}

/* The old place stays, empty, with what it had of access. */
static void test_remap_stays(void)
{
    char *memory = map(4 * MIB, PROT_READ | PROT_WRITE), *moved;

    fill(memory, 4 * MIB, 20);
    moved = mremap(memory, 4 * MIB, 4 * MIB, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    ok(moved != MAP_FAILED && moved != memory && holds(moved, 4 * MIB, 20),
       "MREMAP_DONTUNMAP moves the content,");
    ok(all_zero(memory, 4 * MIB) && !faults(memory + MIB, true), "and leaves zeroes");
    munmap(memory, 4 * MIB);
    munmap(moved, 4 * MIB);
}

/* What was mapped, and protected, before there was a manager, where there is enough memory. */
#define RACE_PAGES (8 * MIB / PAGE)

static _Atomic uint64_t race_writes;
static uint64_t written[RACE_PAGES]; /* on each page, last */

/* Writes to all pages again and again, until that raises SIGSEGV. */
static void *write_on(void *argument)
{
    char *memory = argument;

    if (sigsetjmp(back, 1) != 0)
        return NULL;
    for (uint64_t n = 1;; n++) {
        size_t i = n % RACE_PAGES;

        *(volatile uint64_t *)(void *)(memory + i * PAGE) = n;
        written[i] = n;
        race_writes = n;
    }
}

static void test_remap_race(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, before;
    unsigned lost = 0;

    sigaction(SIGSEGV, &action, &before);
    for (int round = 0; round < 4; round++) {
        char *memory = map(8 * MIB, PROT_READ | PROT_WRITE);
        char *place = map(8 * MIB, PROT_READ | PROT_WRITE);
        pthread_t writer;

        memset(written, 0, sizeof(written));
        race_writes = 0;
        pthread_create(&writer, NULL, write_on, memory);
        while (race_writes < RACE_PAGES)
            usleep(100);
        mremap(memory, 8 * MIB, 8 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED, place);
        pthread_join(writer, NULL);
        for (size_t i = 0; i < RACE_PAGES; i++)
            lost += *(uint64_t *)(void *)(place + i * PAGE) < written[i];
        munmap(place, 8 * MIB);
    }
    sigaction(SIGSEGV, &before, NULL);
    is(lost, 0, "what another thread writes while memory is moved is not lost");
}

static void test_early(char *early, char *sparse)
{
    size_t vast = 64UL * 1024 * MIB;
    char *moved;

    ok(mremap(early + 1, 16 * PAGE, 32 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EINVAL,
       "what begins within a page cannot grow");
    moved = mremap(early, 16 * PAGE, 32 * PAGE, MREMAP_MAYMOVE);
    ok(moved != MAP_FAILED && holds(moved, 16 * PAGE, 14) && all_zero(moved + 16 * PAGE, 16 * PAGE),
       "read-only memory from the start grows");
    ok(faults(moved, true) && faults(moved + 20 * PAGE, true), "and stays read-only");
    munmap(moved, 32 * PAGE);
    moved = mremap(sparse, 16 * PAGE, vast, MREMAP_MAYMOVE);
    ok(moved != MAP_FAILED && holds(moved, 16 * PAGE, 15),
       "memory without promises grows to 64 GiB");
    if (moved != MAP_FAILED)
        munmap(moved, vast);
}

static void test_foreign(void)
{
    char *memory = map(8 * MIB, PROT_READ | PROT_WRITE), *file;
    char name[] = "/var/tmp/vmsm-managed-XXXXXX";
    int fd = mkstemp(name);

    unlink(name);
    fill(memory, 8 * MIB, 8);
    ok(fd >= 0 && pwrite(fd, memory, 2 * MIB, 0) == (ssize_t)(2 * MIB), "a file");
    memset(memory, 0x55, PAGE);
    file = mmap(memory + 2 * MIB, 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0);
    ok(file == memory + 2 * MIB && holds(file, 2 * MIB, 8), "is mapped in the middle");
    fill(file, 2 * MIB, 9);
    memset(memory, 0, 2 * MIB);
    fill(memory, 2 * MIB, 8);
    for (int round = 0; round < 3; round++) {
        char *pressure = map(BIG, PROT_READ | PROT_WRITE);

        fill(pressure, BIG, 10);
        munmap(pressure, BIG);
    }
    ok(holds(file, 2 * MIB, 9), "what is written to it stays");
    ok(holds(memory, 2 * MIB, 8), "so does what is before it");
    is(munmap(file, MIB), 0, "a part of it is unmapped");
    ok(faults(file, false) && !faults(file + MIB, false), "and only that");
    is(munmap(memory, 8 * MIB), 0, "all is unmapped");
    close(fd);
}

static void test_break(void)
{
    char *start = sbrk(0);

    ok(start != (void *)-1 && sbrk((intptr_t)(8 * MIB)) == start, "the break is moved up");
    ok(all_zero(start, 8 * MIB), "to zeroes");
    fill(start, 8 * MIB, 11);
    ok(holds(start, 8 * MIB, 11), "which are memory");
    is(brk(start + 2 * MIB), 0, "it is moved down");
    ok(sbrk(0) == start + 2 * MIB && holds(start, 2 * MIB, 11), "to where it is");
    is(brk(start + 8 * MIB), 0, "and up again");
    ok(all_zero(start + 2 * MIB, 6 * MIB), "with zeroes");
    is(brk(start), 0, "and to its start");
    ok(brk(NULL) == 0 && sbrk(0) == start, "nowhere is no place for it, and no error");
}

static ucontext_t main_context, other_context;
static volatile bool coroutine_right;

/* On a stack in managed memory: calls that change mappings must not need the stack's own pages. */
static void coroutine(void)
{
    coroutine_right = true;
    for (int round = 0; round < 8; round++) {
        char *memory = map(BIG / 4, PROT_READ | PROT_WRITE);

        fill(memory, BIG / 4, 12);
        coroutine_right &= holds(memory, BIG / 4, 12);
        munmap(memory, BIG / 4);
    }
}

static void test_stacks(void)
{
    char *stack = map(256 * 1024, PROT_READ | PROT_WRITE);
    stack_t alternate = {.ss_sp = map(64 * 1024, PROT_READ | PROT_WRITE), .ss_size = 64 * 1024};
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    volatile bool handled = false;
    volatile uintptr_t nowhere = 8;

    getcontext(&other_context);
    other_context.uc_stack.ss_sp = stack;
    other_context.uc_stack.ss_size = 256 * 1024;
    other_context.uc_link = &main_context;
    makecontext(&other_context, coroutine, 0);
    swapcontext(&main_context, &other_context);
    ok(coroutine_right, "a coroutine on a mapped stack maps and unmaps");
    sigaltstack(&alternate, NULL);
    sigaction(SIGSEGV, &action, NULL);
    if (sigsetjmp(back, 1) != 0)
        handled = true;
    else
        *(volatile char *)nowhere = 1;
    ok(handled && fault_address == 8, "a handler on a mapped alternate stack gets its fault");
}

int main(void)
{
    char *early = map(16 * PAGE, PROT_READ | PROT_WRITE);
    char *sparse = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *sealed = map(PAGE, PROT_READ | PROT_WRITE);
    const char *preloaded = getenv("LD_PRELOAD");

    plain = preloaded == NULL || strstr(preloaded, "vmsm") == NULL;
    sealed[0] = 5;
    fill(early, 16 * PAGE, 14);
    fill(sparse, 16 * PAGE, 15);
    mprotect(early, 16 * PAGE, PROT_READ);
    test_map();
    test_refused();
    test_protect();
    test_reserve();
    test_advice();
    test_populate();
    test_merge();
    test_seal(sealed);
    test_remap();
    test_remap_reserved();
    test_remap_stays();
    test_remap_race();
    test_early(early, sparse);
    test_foreign();
    test_break();
    test_stacks();
    return done_testing();
}
