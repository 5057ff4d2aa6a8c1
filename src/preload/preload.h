/*
 * The library behind `vmsm run`: an unmodified program whose large memory is managed.
 *
 * Who owns which address
 *   the arena     One region of the manager, of up to a terabyte, reserved when the manager is
 *                 made. Every address in it is ours for the life of the process: what is not in
 *                 use is mapped without access, so that the kernel never puts anything there.
 *                 Anonymous private memory that the program maps comes from it (space.h says which
 *                 part is what); so does the heap, which is jemalloc, linked into this library with
 *                 its calls of mmap() and the like renamed to those of heap.c.
 *   the kernel's  All the rest: code (PROT_EXEC), stacks (MAP_STACK, MAP_GROWSDOWN), file and
 *                 shared mappings, those with MAP_LOCKED, MAP_HUGETLB or MAP_32BIT, those with
 *                 MAP_FIXED outside the arena, and what was mapped before there was a manager.
 *                 Calls on it go straight through.
 *
 * When there is a manager
 *   Not at the start: a process that has mapped less than `early` bytes (a sixteenth of the memory,
 *   64 MiB at most) has none, costs nothing, and forks as it always did. The call that maps more
 *   makes it; what was mapped before stays with the kernel, and comes off the manager's budget,
 *   used or not. jemalloc's first mappings are of 2 MiB: with little memory they are managed.
 *
 * What may not meet
 *   - Nothing of the manager lives in managed memory: its objects are linked in with calls of
 *     calloc() and the like renamed to those of own.c, whose memory is the kernel's; and while a
 *     thread makes a manager, what the C library allocates for it comes from there as well
 *     (own_depth).
 *   - A thread that is inside the manager must not fault: signals are blocked meanwhile, since a
 *     handler would, and it changes to a stack of ours, since its own may be managed memory (a
 *     coroutine's), or small (gate_call()). A stack that the program gives to pthread_create() has
 *     the thread's own variables on it, and becomes the kernel's (thread.c).
 *   - The manager's threads are nobody else's: the C library knows nothing of them (thread.c).
 *   - One lock, `gate`, serializes calls that change the arena. Handler threads never take it.
 *   - Every reference is resolved when the library is loaded (-z now), for the dynamic linker keeps
 *     its own records on the program's heap.
 *
 * What is the program's to see
 *   munmap() gives SIGSEGV to who touches the range, mprotect() holds, MADV_DONTNEED gives zeroes:
 *   protections are the kernel's own, on the arena. MAP_FIXED of a file into the arena takes the
 *   range away from the manager for good. Buffers of direct reads are pinned for the call
 *   (direct.c, also on direct reads that the C library makes); io_uring and libaio, whose reads
 *   cannot be seen, look as if the kernel had none (filter.c). Descriptors of ours cannot be closed
 *   (descriptor.c).
 *
 * fork() is told in fork.c. Children by vfork(), posix_spawn(), system() and popen() share the
 * parent's memory until they exec, as ever; what they map before there is a manager is the kernel's.
 */
#ifndef VMSM_PRELOAD_H
#define VMSM_PRELOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "preload/space.h"
#include "vmsm.h"

#define PRELOAD_API __attribute__((visibility("default")))

struct arena {
    struct vmsm *manager;       /* constant once `managed` is set */
    _Atomic bool managed;       /* there is a manager */
    uintptr_t base, end;        /* constant once `managed` is set */
    struct space space;         /* (gate) */
    uintptr_t brk_start;        /* (gate) 0: brk() was never called */
    uintptr_t brk_now, brk_end; /* (gate) */
};

extern struct arena arena;

/* Is any of the range in the arena? */
static inline bool arena_overlaps(uintptr_t start, size_t length)
{
    return atomic_load_explicit(&arena.managed, memory_order_acquire) && start < arena.end &&
           start + length > arena.base;
}

/* gate.c: calls that change the arena, one at a time. 0 or more, or a negative errno. */
typedef long gate_function(const uintptr_t *arguments);
long gate_call(gate_function *function, const uintptr_t *arguments);
/* The same for calls that change no ranges: several may be made at a time. */
long gate_shared_call(gate_function *function, const uintptr_t *arguments);
/* For fork(): the same lock and such a stack, over a fork. */
struct gate_hold { /* how the thread was before it took the gate */
    uint64_t signals;
    int cancel_state;
};
void gate_lock(struct gate_hold *before);
void gate_unlock(const struct gate_hold *before);
/* Block all signals, and put it back as it was. */
void gate_mask_signals(uint64_t *before);
void gate_restore_signals(const uint64_t *before);
/* In a child of fork(), which holds it or not: nobody else is there. */
void gate_reset(bool held);
/* Run on a stack of ours, which is not managed and large enough. Signals are blocked. */
long gate_on_own_stack(gate_function *function, const uintptr_t *arguments);

/* process.c: what this process was told to do, and its manager. */
struct process {
    _Atomic bool active; /* under `vmsm run`; set at the start */
    bool stats;          /* a line at the end on standard error as it was at the start */
    size_t early_most;   /* bytes that may be mapped before there is a manager */
    /* There was to be a manager, and there is none: set with the gate, for good. */
    _Atomic bool unmanageable;
    uint64_t refused; /* (gate) requests for memory, since there was no room */
};
extern struct process process;
/* Is this another process that has the same memory (a child by vfork())? */
bool process_is_shared(void);
/* Make the manager, if there is none. The gate is held. 0; -ENOMEM, and then it is logged; or
 * -EAGAIN: not now, there is a fork, or not here, for process_is_shared(). */
int process_manage(void);
/* Count what was mapped before; true: it is time for a manager. */
bool process_early(size_t length);
void process_early_gone(size_t length);
/* early.c: the ranges that process_early() has counted. Lengths are of whole pages. */
void early_mapped(uintptr_t start, size_t length, int protection, int flags);
void early_unmapped(uintptr_t start, size_t length);
void early_protected(uintptr_t start, size_t length, int protection);
/* And is it all alike? Then *what has its protection, and SPACE_SPARSE of MAP_NORESERVE. */
bool early_contains(uintptr_t start, size_t length, struct space_what *what);
/* How many pages may be promised in all. The gate is held. */
uint64_t process_promise_limit(void);
/* After a fork, in the child: it is another process for the report. */
void process_forked(void);
/* False: there is a manager. Else there is none until process_plain_forked(), which must come. */
bool process_plain_fork(void);
void process_plain_forked(bool child);

/* fork.c: a child with memory of its own, made by the system call clone with these arguments. */
struct clone_call {
    bool bare; /* by the C library's _Fork(), and the rest is nothing */
    uintptr_t flags;
    uintptr_t parent_id, child_id, tls;
};
pid_t fork_by_call(const struct clone_call *call);

/* memory.c, for other parts */
void *memory_map(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int memory_unmap(void *address, size_t length);
int memory_advise(void *address, size_t length, int advice);
/* Would this prctl() have the kernel merge pages of the arena? */
bool memory_would_merge(const uintptr_t *a);
/* A range is to be the kernel's from now on, with its content. 0 or -ENOMEM. */
int memory_release(uintptr_t start, size_t length);
/* break.c: the system call brk. Where the break is afterwards. */
uintptr_t memory_break(uintptr_t wanted);

/* direct.c: undo the pins of reads that have ended. The gate is held. */
void direct_unpin_ended(void);
/* In a child of fork(), which has no such reads. */
void direct_forked(void);

/* thread.c: at the start, by the first thread, of which the manager's are made. */
void thread_start(void);

/* own.c: memory for the manager's objects. What own_alloc() gives is never given back. Over 0: this
 * thread's malloc() is served from there. (initial-exec: reached without the loader, which would
 * read the heap.) */
extern _Thread_local int own_depth __attribute__((tls_model("initial-exec")));
void *own_alloc(size_t alignment, size_t length);
bool own_contains(const void *address);

/* What `memory` is set to. */
size_t process_memory(void);

/* filter.c */
void filter_install(void);

/* descriptor.c */
/* Move a descriptor of ours out of the way of the program, and remember it. Returns the new one. */
int descriptor_keep(int fd);
void descriptor_forget(int fd);
/* Open what the program may have no right to later, or not find. */
void descriptor_start(const char *pagefile_directory);
/* Does the kernel let this process have a userfaultfd (user_only: for faults of user code)? If not,
 * errno says why. */
bool descriptor_may_watch(bool user_only);
/* What was kept of the directory, or -1. */
int descriptor_directory(void);
bool descriptor_is_ours(int fd);
/* Over a fork: remember what is open now, and close it in the child. */
void descriptor_mark(void);
void descriptor_close_marked(void);

#endif
