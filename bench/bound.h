/*
 * bound: what the machine charges for the calls that a pager in user space is made of, and what the
 * best of such pagers could reach. No manager takes part.
 *
 *   bound_range.c      memory whose faults come to user space
 *   bound_primitive.c  calls by themselves: faults, signals, mappings, wake-ups
 *   bound_handler.c    a thread that answers such faults
 *   bound_pager.c      the smallest programs that page single pages in at random
 *   bound_stock.c      memory of those that write: what is there, and the thread that evicts
 *   bound_cell.c       the smallest pagers in cells of bench, touched by its workloads
 *   bound_prefault.c   vectors of random pages, as vmsm_prefault() brings them in
 *   bound_disk.c       the disk by the same io_uring that the manager uses
 *   bound_swap.c       the kernel's swap in the same rounds, to be compared with
 *   bound_policy.c     hits of the best page replacement, by replaying workloads (replay.h)
 *   bound_aim.c        what follows for the aims
 *   bound_report.c     tables and JSON (bound_report.h)
 *   bound.c            options and rounds
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
    X(READ_ALONE, TIME, "disk: a read of a page, alone")                                           \
    X(READ_BEFORE, TIME, "the same, 1 MiB to be read sent after it")                               \
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

/* How prefault reads: as others do, or with file and buffers registered. */
enum bound_prefault { PREFAULT_PLAIN, PREFAULT_FIXED, BOUND_PREFAULTS };

/* Those in which pagers are measured that write. */
#define BOUND_WRITER_CELLS 5
extern const enum bound_cell bound_writer_cells[BOUND_WRITER_CELLS];

/* How many pages a pager brings that does not know how long the run is: with the first page that it
 * sees of one, and each time that the run goes on behind those. In moving the first is the size of
 * the groups of neighbours that come together. */
struct bound_window {
    unsigned first, next;
};

#define BOUND_WINDOWS 5
extern const struct bound_window bound_windows[BOUND_WINDOWS];

/* Hits, as a part of the touches, with so much memory as the share is. */
struct bound_policy {
    struct sample hit; /* seconds of a thread for a touch where all of it is in memory */
    double lru, ahead; /* least recently used; the same, reading ahead */
    double min;        /* farthest next use */
    double popular;    /* the most popular pages kept for good; NAN: none stays popular */
};

/* A workload of single pages at random, or of the kernel's swap. */
struct bound_speed {
    struct sample rate;      /* touches a second */
    struct sample cpu;       /* seconds of processor time for a page read or written */
    struct sample p99, p999; /* seconds that so many of 100, of 1,000 touches stay within */
    struct sample hits;      /* part of the touches without a fault */
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
    int content; /* as large, O_DIRECT: of the pagers that write */
    struct bound_speed pagers[BOUND_TRAPS][BOUND_CROWDS];
    struct bound_speed writers[BOUND_TRAPS][BOUND_CELL_COUNT];    /* but few of the cells */
    struct bound_speed guessers[BOUND_WINDOWS][BOUND_CELL_COUNT]; /* by SIGBUS; not fill */
    struct bound_speed prefaults[BOUND_PREFAULTS];                /* rate: pages read */
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
int bound_cells(struct bound *b); /* prefault too */
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

/* Who waits for the page looks again. */
void range_wake(const struct range *range, size_t page);

/* ---- bound_handler.c ---- */

#define HANDLER_READS 32u /* that it has in hand */

struct handler_read {
    size_t page, count; /* in file */
};

struct handler_job {
    const struct range *range;
    int file;
    size_t most; /* pages of a read */
    bool polls;
    /* A fault: true if something is to be read before it is answered. */
    bool (*take)(size_t page, unsigned slot, struct handler_read *read);
    /* It has been read. */
    void (*answer)(unsigned slot, const char *content);
    void (*fail)(int error);
};

struct handler;

/* 0 or a negative errno. The job stays where it is. */
int handler_start(struct handler **handler, const struct handler_job *job);
void handler_stop(struct handler *handler);

/* ---- Clocks and processors ---- */

double cpu_now(void); /* of the process */
/* The calling thread runs on this one only; -1: on all. False: there is none such. */
bool processor_take(int processor);
/* Zero-filled, in huge pages where that goes; NULL after a message. */
void *buffer_make(size_t length);
void buffer_free(void *buffer, size_t length);

#endif
