/*
 * What a piece of work has cost: read before and after, the difference is the cost. Of this process
 * unless it says system; what the kernel does not count for a kind of memory is USAGE_NONE.
 */
#ifndef VMSM_BENCH_USAGE_H
#define VMSM_BENCH_USAGE_H

#include <stdint.h>

#include "memory.h"

#define USAGE_NONE UINT64_MAX

#define USAGES(X)                                                                                  \
    X(cpu_ns, "processor time of the process's threads, and of the kernel's for it (kswapd, "      \
              "zram) as far as they can be told")                                                  \
    X(faults, "page faults: the kernel's count; managed: those that came to the core")             \
    X(faults_hard, "of these, with a read")                                                        \
    X(syscalls, "system calls (tracepoint raw_syscalls:sys_enter by perf_event_open)")             \
    X(tlb_flushes, "TLB flushes sent to other processors (system, /proc/vmstat)")                  \
    X(pages_in, "pages read from store, swap or file")                                             \
    X(pages_out, "pages written to it")                                                            \
    X(bytes_copied, "managed: bytes the manager copied")                                           \
    X(reads, "I/O requests that the disk got (system, of the one block device below --dir)")       \
    X(read_bytes, "bytes of them")                                                                 \
    X(writes, "I/O requests that the disk got (system)")                                           \
    X(write_bytes, "bytes of them")

struct usage {
#define USAGE_FIELD(name, help) uint64_t name;
    USAGES(USAGE_FIELD)
#undef USAGE_FIELD
};

struct usage_source; /* open descriptors, opaque */

/* dir: where store, swap and file lie. Before the threads of the workload start. */
int usage_open(struct usage_source **out, const struct memory *memory, const char *dir);
void usage_read(struct usage_source *source, struct usage *usage);
/* to - from, field by field; USAGE_NONE stays. */
void usage_difference(const struct usage *from, const struct usage *to, struct usage *out);
void usage_close(struct usage_source *source);

#endif
