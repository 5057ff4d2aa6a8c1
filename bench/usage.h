/*
 * What a piece of work has cost: read before and after, the difference is the cost. Of this process
 * unless it says system; what the kernel does not count for a kind of memory is USAGE_NONE.
 *
 * Kernel threads that work for a peer: kswapd is told by name and its time is added (of the whole
 * system; a control group's own limit does not wake it). The work of swap itself, zram's
 * compression included, is done by the thread that faults or reclaims, and is in its time.
 * Write-back of a mapped file, and what follows an I/O's completion, is done by kworkers and soft
 * interrupts, which serve everybody: that time is in nobody's figure, in the peers' favour with
 * mapped.
 *
 * While system calls are counted, all of the machine take the kernel's slower way in: 0.15 us more
 * a call where it was measured. They are counted only where tracefs is mounted.
 */
#ifndef VMSM_BENCH_USAGE_H
#define VMSM_BENCH_USAGE_H

#include <stdint.h>

#include "memory.h"

#define USAGE_NONE UINT64_MAX

#define USAGES(X)                                                                                  \
    X(cpu_ns, "processor time of the process's threads, and of kswapd (system)")                   \
    X(faults, "page faults: the kernel's count; managed: those that came to the core")             \
    X(faults_hard, "of these, with a read")                                                        \
    X(syscalls, "system calls (tracepoint raw_syscalls:sys_enter by perf_event_open)")             \
    X(tlb_flushes, "TLB flushes that processors did for another (system, /proc/interrupts)")       \
    X(pages_in, "pages read from store, swap (system) or file")                                    \
    X(pages_out, "pages written to it; mapped: by the disk's count (system)")                      \
    X(bytes_copied, "managed: bytes the manager copied, as its counters tell")                     \
    X(reads, "I/O requests that the disk got (system, of the one block device below dir)")         \
    X(read_bytes, "bytes of them")                                                                 \
    X(writes, "I/O requests that the disk got (system)")                                           \
    X(write_bytes, "bytes of them")

struct usage {
#define USAGE_FIELD(name, help) uint64_t name;
    USAGES(USAGE_FIELD)
#undef USAGE_FIELD
};

struct usage_source; /* open descriptors, opaque */

/*
 * dir: where store, swap and file lie. After memory_open(), before the threads of the workload
 * start: only they, and the threads that are there, have their system calls counted. 0, or -ENOMEM.
 */
int usage_open(struct usage_source **out, const struct memory *memory, const char *dir);
/* Why there are no system calls, disk or kswapd in the figures, in words to be printed; "": there
 * are. Owned by the source. */
const char *usage_missing(const struct usage_source *source);
void usage_read(struct usage_source *source, struct usage *usage);
/* to - from, field by field; USAGE_NONE stays. */
void usage_difference(const struct usage *from, const struct usage *to, struct usage *out);
void usage_close(struct usage_source *source);

#endif
