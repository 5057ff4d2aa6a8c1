/*
 * A trap hands the machine its faults.
 *   thread   handler threads read them from the userfaultfd; faults inside system calls are served
 *            too
 *   sigbus   the faulting thread resolves its own fault in its SIGBUS handler: no context switch,
 *            but a system call on memory that is neither there nor pinned fails with EFAULT
 * In both, resolving neither allocates, nor takes a lock of the program, nor touches managed
 * memory.
 */
#ifndef VMSM_TRAP_H
#define VMSM_TRAP_H

#include "core/machine.h"

struct trap_thread;

/* Start handler threads. 0 or a negative errno with words. */
int trap_thread_open(struct machine *m, struct trap_thread **trap);
void trap_thread_close(struct machine *m, struct trap_thread *trap);

/*
 * Make the process's SIGBUS handler ours, before any fault of m. Faults that are not of any
 * machine, or that failed, go to the handler that was there before. -EMFILE: too many managers.
 */
int trap_sigbus_open(struct machine *m);
void trap_sigbus_close(struct machine *m);
/* In a child of fork(), where nobody else is: it goes on serving. */
void trap_sigbus_forked(void);

/*
 * Bytes of stack that the handler needs at most, beside the kernel's signal frame
 * (sysconf(_SC_MINSIGSTKSZ)). Most of it only where the faulting thread also trims and writes
 * (workers off, stage single).
 */
#define TRAP_SIGBUS_STACK 12288

/* Most managers of one process that can use sigbus. */
#define TRAP_SIGBUS_MACHINES 64

#endif
