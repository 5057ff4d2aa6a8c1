/*
 * bound: what the machine charges for the calls that a pager in user space is made of, and what the
 * best of such pagers could reach. No manager takes part.
 *
 *   bound_range.c      memory whose faults come to user space
 *   bound_primitive.c  calls by themselves: faults, signals, mappings, wake-ups
 *   bound_pager.c      the smallest programs that page single pages in at random
 *   bound_disk.c       the disk by the same io_uring that the manager uses
 *   bound_swap.c       the kernel's swap in the same rounds, to be compared with
 *   bound_policy.c     hits of the best page replacement, by replaying workloads (replay.h)
 *   bound.c            the rounds, and what follows for the aims
 *
 * Everything is measured once in each round, but replayed once for all; figures are medians over
 * rounds.
 */
#ifndef VMSM_BENCH_BOUND_H
#define VMSM_BENCH_BOUND_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "latency.h"
#include "sample.h"

#define BOUND_PAGE 4096u
#define BOUND_SECTION 512u /* pages trimmed with one call */

enum bound_unit { UNIT_TIME, UNIT_RATE, UNIT_BYTES }; /* seconds; a second; bytes a second */

/* X(name, unit, words) */
#define BOUND_FIGURES(X)                                                                           \
    X(SYSCALL, TIME, "an empty system call")                                                       \
    X(FIRST_TOUCH, TIME, "first touch of a page of ordinary memory")                               \
    X(FAULT_SAME, TIME, "fault answered by a handler thread, same processor")                      \
    X(FAULT_OTHER, TIME, "the same, handler on another processor")                                 \
    X(FAULT_POLL, TIME, "the same, handler polls there")                                           \
    X(FAULT_SIGBUS, TIME, "fault answered in the faulting thread (SIGBUS)")                        \
    X(WAKE_SAME, TIME, "futex: wake a thread of the same processor, until it runs")                \
    X(WAKE_OTHER, TIME, "futex: wake a thread of another processor, until it runs")                \
    X(COPY_1, TIME, "UFFDIO_COPY, a page, one at a time")                                          \
    X(COPY_4, TIME, "UFFDIO_COPY, a page, in runs of 4")                                           \
    X(COPY_16, TIME, "UFFDIO_COPY, a page, in runs of 16")                                         \
    X(COPY_64, TIME, "UFFDIO_COPY, a page, in runs of 64")                                         \
    X(PROTECT_DENSE, TIME, "write-protect 512 pages, a page, another thread running")              \
    X(TAKE_DENSE, TIME, "copy them out, process_vm_readv, a page")                                 \
    X(DROP_DENSE, TIME, "drop them, MADV_DONTNEED, a page")                                        \
    X(PROTECT_SPARSE, TIME, "the same of every fourth page: write-protect")                        \
    X(TAKE_SPARSE, TIME, "copy out")                                                               \
    X(DROP_SPARSE, TIME, "drop, one vectored call")                                                \
    X(HASH, TIME, "128-bit hash of a page")                                                        \
    X(FILL_PAGE, TIME, "writing all of a page that is there")                                      \
    X(CHECK_PAGE, TIME, "reading and checking a page that is there")                               \
    X(WRITE, BYTES, "disk: writes of 1 MiB one after another, 4 at a time")                        \
    X(WRITE_CPU, TIME, "processor time of that, a page")                                           \
    X(READ, BYTES, "disk: reads of 1 MiB one after another, 4 at a time")                          \
    X(READ_CPU, TIME, "processor time of that, a page")                                            \
    X(RANDOM_1, RATE, "disk: random reads of a page, 1 at a time")                                 \
    X(RANDOM_2, RATE, "disk: random reads of a page, 2 at a time")                                 \
    X(RANDOM_8, RATE, "disk: random reads of a page, 8 at a time")                                 \
    X(RANDOM_16, RATE, "disk: random reads of a page, 16 at a time")                               \
    X(RANDOM_32, RATE, "disk: random reads of a page, 32 at a time")                               \
    X(RANDOM_CPU, TIME, "processor time of a random read, 32 at a time")                           \
    X(RUN, BYTES, "disk: random reads of 64 KiB, 2 at a time")                                     \
    X(RUN_CPU, TIME, "processor time of that, a page")                                             \
    X(RUN_W10, BYTES, "the same, a write of 1 MiB for each 128 of them")                           \
    X(RUN_W50, BYTES, "the same, a write of 1 MiB for each 28 of them")

enum bound_figure {
#define BOUND_ENUM(name, unit, words) BOUND_##name,
    BOUND_FIGURES(BOUND_ENUM)
#undef BOUND_ENUM
        BOUND_FIGURE_COUNT
};

enum bound_trap { BOUND_SLEEP, BOUND_POLL, BOUND_SIGBUS, BOUND_TRAPS };
#define BOUND_CROWDS 4 /* numbers of threads */
extern const unsigned bound_threads[BOUND_CROWDS];

/* Cells of bench that swap is measured in, beside rand with other numbers of threads. X(id, name) */
#define BOUND_CELL_THREADS 2
#define BOUND_CELLS(X)                                                                             \
    X(fill, "fill")                                                                                \
    X(scan, "scan")                                                                                \
    X(stride, "stride")                                                                            \
    X(flood, "flood")                                                                              \
    X(run32, "run32")                                                                              \
    X(run32w10, "run32w10")                                                                        \
    X(run32w50, "run32w50")                                                                        \
    X(zipf09, "zipf0.9")                                                                           \
    X(zipf12, "zipf1.2")                                                                           \
    X(hot, "hot")                                                                                  \
    X(moving, "moving")

enum bound_cell {
#define BOUND_CELL_ENUM(id, name) CELL_##id,
    BOUND_CELLS(BOUND_CELL_ENUM)
#undef BOUND_CELL_ENUM
        BOUND_CELL_COUNT
};

extern const char *const bound_cell_names[BOUND_CELL_COUNT];

/* Those in which it matters what is evicted. */
#define BOUND_POLICY_CELLS 5
#define BOUND_AHEAD 16 /* pages that LRU reads at once, where it reads ahead */
extern const enum bound_cell bound_policy_cells[BOUND_POLICY_CELLS];

/* Hits, as a part of the touches, with so much memory as the share is. */
struct bound_policy {
    struct sample hit; /* seconds of a thread for a touch where all of it is in memory */
    double lru, ahead; /* least recently used; the same, reading ahead */
    double min;        /* farthest next use */
    double popular;    /* the most popular pages kept for good; NAN: none stays popular */
};

/* A workload of single pages at random, or of the kernel's swap. */
struct bound_speed {
    struct sample rate; /* touches a second */
    struct sample cpu;  /* seconds of processor time for a page read or written */
    struct sample hits; /* of swap: part of the touches without a fault */
};

struct bound_options {
    uint64_t region; /* bytes */
    unsigned share;  /* memory, percent of it */
    unsigned rounds;
    double seconds; /* of each speed */
    bool swap;      /* measure the kernel's swap too */
    const char *dir, *json;
};

extern volatile sig_atomic_t bound_interrupted; /* the signal */

struct bound {
    struct bound_options options;
    unsigned round;
    int file; /* of region bytes, O_DIRECT; page n begins with bound_word(n) */
    struct sample figures[BOUND_FIGURE_COUNT];
    struct bound_speed pagers[BOUND_TRAPS][BOUND_CROWDS];
    struct bound_speed swap_rand[BOUND_CROWDS], swap[BOUND_CELL_COUNT];
    struct bound_policy policies[BOUND_POLICY_CELLS];
    bool wrong; /* a page held something else */
};

static inline void bound_put(struct bound *b, enum bound_figure figure, double value)
{
    b->figures[figure].rounds[b->round] = value;
}

/* 0, or a negative errno after a message. */
int bound_primitives(struct bound *b);
int bound_disk_open(struct bound *b); /* makes and writes the file */
int bound_disk(struct bound *b);
int bound_pagers(struct bound *b);
/* Swap for all rounds: once before, a round at a time, once after. */
int bound_swap_open(struct bound *b); /* -ENOTSUP: it cannot be had here */
int bound_swap(struct bound *b);
void bound_swap_close(void);
int bound_hits(struct bound *b);     /* touches where all is in memory */
int bound_policies(struct bound *b); /* once */

static inline uint64_t bound_word(uint64_t page)
{
    return page * UINT64_C(0x9e3779b97f4a7c15) + 1;
}

/* ---- bound_range.c ---- */

struct range {
    int fd; /* userfaultfd */
    char *base;
    size_t pages;
};

/* Faults are messages, read without waiting; or, with sigbus, signals. */
int range_open(struct range *range, size_t pages, bool sigbus);
void range_close(struct range *range);
/* Put pages there, and wake who waits. 0 or a negative errno. */
int range_copy(const struct range *range, size_t page, const void *content, size_t count);
int range_protect(const struct range *range, size_t page, size_t count, bool on);
/* Drop the pieces with one call, where the kernel can. */
int range_drop(const struct iovec *pieces, unsigned count);
/* The pages of the faults that wait; 0: none. */
unsigned range_faults(const struct range *range, size_t *pages, unsigned most);

/* ---- Clocks and processors ---- */

double cpu_now(void); /* of the process */
/* The calling thread runs on this one only; -1: on all. False: there is none such. */
bool processor_take(int processor);
/* Zero-filled, in huge pages where that goes; NULL after a message. */
void *buffer_make(size_t length);
void buffer_free(void *buffer, size_t length);

#endif
