/*
 * The guard: system calls where the kernel's faults are not served (kernel_faults off, trap
 * sigbus). A call that meets a page of the manager's that is not there would fail with EFAULT, and
 * may have taken what it was to read. So calls are not made on managed memory, but on a copy.
 *
 * How calls are seen
 *   Each thread has the kernel send SIGSYS for every system call that is not made by this library,
 *   from kernel_start to kernel_end (Linux: syscall user dispatch, prctl(2)). So none is missed: not
 *   those that the C library makes for itself, for the buffer of a stream, nor those in assembly.
 *   It ends with exec, so that programs that are not managed never meet it. (A seccomp filter would
 *   stay, and would have to know by addresses which program it is in.) The signal costs about a
 *   microsecond; calls that are made often have functions here, which do without it (guard_hooks.c).
 *
 * What is done with them (guard.c)
 *   guard_table.c says which arguments of which call are pointers, and to how much. What lies in
 *   the arena is copied to memory of the kernel's that the thread keeps for it (guard_copy.h), the
 *   call made on that, and what it has changed is copied back. If nothing does, the call is just
 *   made. So nothing has to stay in memory while a call waits, and who gives it back need not wait.
 *   Where the address itself counts (futexes), or the length is not known, the memory is touched and
 *   the call made in place; if that says EFAULT, again.
 *   Reads and writes are of no more than a part of the memory at a time. A file is gone on with, as
 *   are MSG_WAITALL and what is written; else what is read from a pipe or a stream comes back short.
 *   What has records (datagrams, most devices) is never cut: it takes as much of the kernel's memory
 *   as the record.
 *   Pointers may be bad: what is read here is read so that the program gets EFAULT (guard_copy.h,
 *   guard_reach.c). What structures point to is touched, for the calls that guard_inner.c knows.
 *
 * What may not be
 *   - A SIGSYS for a call while it is blocked is the end of the process. So it never is: not by
 *     sigprocmask(), nor for a handler, nor by what that leaves in its context, nor by the calls that
 *     wait with a mask (guard_signal.c). Where this library blocks all signals, the thread's
 *     `selector` says that calls are not looked at.
 *   - The program's own handler of SIGSYS is kept here, and gets what is not ours. So is that of
 *     SIGBUS, if faults come by it.
 *   - A clone cannot be made in a signal handler: the child would return into it, on another stack.
 *     The handler returns to where the clone is made instead, and from there it goes back
 *     (guard_clone.c). New threads are guarded, and the children of vfork() and posix_spawn(), until
 *     they exec. Of exec the strings are copied (guard_exec.c).
 *   - The frame of a signal is written by the kernel onto the stack, which must be there. Our
 *     handlers run on alternate stacks, and every thread has one. But handlers of the program that
 *     do not ask for that can be the end of the process on a stack in managed memory, which a
 *     program may make for coroutines.
 */
#ifndef VMSM_PRELOAD_GUARD_H
#define VMSM_PRELOAD_GUARD_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <ucontext.h>

#include "preload/guard_copy.h"

#define GUARD_CLONES 4 /* that a thread can be in, one within the other's child */

struct guard_clone {
    uintptr_t back; /* where the program goes on */
    bool vfork;     /* the parent waits until the child has ended, or is another program */
};

/* Of a thread; a child by vfork() has its parent's. Reached without the loader. */
struct guard_thread {
    volatile char selector; /* the kernel looks at it: 1: calls are sent here */
    bool armed;
    bool spawned;     /* this is a child that shares memory until it execs */
    bool cancelable;  /* a call that is made is a cancellation point */
    unsigned pass;    /* so many times over, calls are not looked at */
    unsigned returns; /* from handlers of the program's, so far */
    unsigned clone_count;
    struct guard_clone clones[GUARD_CLONES];
    void *stack;    /* an alternate one of ours */
    stack_t theirs; /* and what the program thinks that it has */
    void *copy;     /* what a child's exec was given; for the parent to give back */
    size_t copy_length;
    struct guard_bounce bounces[GUARD_BOUNCES];
};

extern _Thread_local struct guard_thread guard_thread __attribute__((tls_model("initial-exec")));

extern bool guard_active; /* constant after start */

/* At the start, in the first thread. faults: they come as SIGBUS. False: the kernel cannot, errno
 * says why. */
bool guard_start(bool faults);
/* This thread's calls are sent from now on. */
void guard_arm(void);
/* In a child of fork(). */
void guard_forked(void);
/* From here on, until as many guard_look(), this thread's calls are not looked at. */
void guard_pass(void);
void guard_look(void);

/* Make a call that the program asked for. As the kernel: a negative errno. */
long guard_call(long number, const uintptr_t *a);
/* The same, when what it has to do with signals has been seen to. */
long guard_plain_call(long number, const uintptr_t *a);
/* For functions of the C library: -1, and errno. Also where there is no guard. */
long guard_function_call(long number, const uintptr_t *a);
/* The same for those that can be cancelled, with the guard only. */
long guard_cancelable_call(long number, const uintptr_t *a);

/* guard_reach.c: memory that the program points to. 0 or -EFAULT, if the program may not read it.
 * Only another thread can still take it away. */
long guard_readable(uintptr_t start, size_t length);
/* Of a string, `most` if it is as long or longer. *page: one that may be read, as was seen already;
 * 1: none. */
long guard_text_length(uintptr_t text, size_t most, uintptr_t *page);

/* guard_inner.c: touch what is pointed to by what the call is pointed to. False: there is nothing. */
bool guard_touch_inner(long number, const uintptr_t *a);

/* Only in the call itself can the thread be cancelled. */
long guard_make(long number, const uintptr_t *a);
/* guard_transfer.c: true: the call reads, writes, sends or receives; *result is what came of it. */
bool guard_transfer_call(long number, const uintptr_t *a, long *result);
/* What one call may take of a buffer at a time. */
size_t guard_piece(void);

/* guard_signal.c: true: the call has to do with signals; *result is what came of it. */
bool guard_signal_call(long number, const uintptr_t *a, long *result);
/* The same of calls whose effect is in the context that the handler returns to. */
bool guard_context_call(long number, const uintptr_t *a, ucontext_t *context, long *result);
/* The program is at a sigreturn. */
void guard_signal_return(const ucontext_t *context);
/* Handlers may have changed the mask while a call was made: the program is to have that. */
void guard_signal_mask(ucontext_t *context);
bool guard_signal_start(void (*handler)(int, siginfo_t *, void *), bool faults);
/* SIGBUS in a mask, if faults come by it; else nothing. */
uint64_t guard_faults(void);
/* Of this thread: give it an alternate stack, and take it away. */
void guard_stack_take(void);
void guard_stack_give(void);
/* A SIGSYS that is not ours. */
void guard_hand_on(int number, siginfo_t *info, void *context);

/* guard_clone.c: arrange that the call is made when the handler has returned. */
bool guard_redirect_clone(long number, const uintptr_t *a, ucontext_t *context);

/* guard_exec.c */
long guard_exec(long number, const uintptr_t *a);
/* In the parent of a child by vfork() that has ended, or become another program. */
void guard_exec_done(void);

#endif
