/*
 * Clones under the guard: made where the program is, on its stack, with its registers.
 *
 * The handler of SIGSYS returns to one of two system calls in kernel.c. After it, in parent and in
 * child, guard_cloned() says where the program goes on, and does what is to be done for a child.
 * Where that is must be found without a register. A child on a stack of its own has it there, below
 * the top; so it cannot be lost to the parent's. Else it is in the thread's own variables, of which
 * a child by fork() has a copy, and one by vfork() uses its parent's, which waits for it.
 */
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/syscall.h>

#include "preload/guard.h"
#include "preload/kernel.h"
#include "preload/preload.h"

/* What kernel.c has pushed. */
struct clone_frame {
    uintptr_t rbx, r10, r9, r8, rdx, rsi, rdi;
    long result;
    uintptr_t back; /* where it will return to; of a child on its own stack: with the flags below */
};

#define BACK_OFFSET 136u /* below the top of the child's stack, as kernel.c has it */
#define BACK_ARM (UINT64_C(1) << 63)
#define BACK_SPAWNED (UINT64_C(1) << 62)

void guard_cloned(struct clone_frame *frame, int there);

/* There are no thread variables of its own yet to look at, but these. */
static void begin_child(bool spawned)
{
    static const stack_t none = {.ss_flags = SS_DISABLE};

    /* Its parent, which waits, may be on the alternate stack. */
    if (spawned)
        kernel_raw(SYS_sigaltstack, &none, NULL);
    guard_thread.spawned = spawned;
    guard_arm();
}

__attribute__((used)) void guard_cloned(struct clone_frame *frame, int there)
{
    bool child = frame->result == 0;
    const struct guard_clone *clone;

    if (child && there) {
        uintptr_t back = frame->back;

        frame->back = back & ~(BACK_ARM | BACK_SPAWNED);
        if (back & BACK_ARM)
            begin_child((back & BACK_SPAWNED) != 0);
        return;
    }
    clone = &guard_thread.clones[guard_thread.clone_count - 1];
    frame->back = clone->back;
    if (child && clone->vfork) {
        begin_child(true);
        return;
    }
    guard_thread.clone_count--;
    if (!child && clone->vfork) {
        guard_thread.spawned = guard_thread.clone_count > 0;
        guard_exec_done();
    }
}

bool guard_redirect_clone(long number, const uintptr_t *a, ucontext_t *context)
{
    struct clone_args args;
    uintptr_t flags = 0, top = 0, *slot;
    greg_t *g = context->uc_mcontext.gregs;
    struct guard_clone *clone;

    if (number == SYS_clone) {
        flags = a[0];
        top = a[1];
        guard_touch(a[2], sizeof(pid_t));
        guard_touch(a[3], sizeof(pid_t));
    } else if (number == SYS_clone3) {
        if (guard_read(&args, a[0], CLONE_ARGS_SIZE_VER0) != 0)
            return false;
        flags = args.flags;
        top = args.stack != 0 ? args.stack + args.stack_size : 0;
        guard_touch(args.pidfd, sizeof(int));
        guard_touch(args.parent_tid, sizeof(pid_t));
        guard_touch(args.child_tid, sizeof(pid_t));
    } else if (number == SYS_vfork) {
        flags = CLONE_VM | CLONE_VFORK;
    } else if (number != SYS_fork) {
        return false;
    }
    /* A handler may have left by siglongjmp() before the clone was made. */
    if (guard_thread.clone_count == GUARD_CLONES && !guard_thread.spawned)
        guard_thread.clone_count = 0;
    if (guard_thread.clone_count == GUARD_CLONES) {
        g[REG_RAX] = -EAGAIN;
        return true;
    }
    clone = &guard_thread.clones[guard_thread.clone_count++];
    *clone =
        (struct guard_clone){.back = (uintptr_t)g[REG_RIP], .vfork = (flags & CLONE_VFORK) != 0};
    g[REG_RIP] = (greg_t)(uintptr_t)(top != 0 ? kernel_clone_there : kernel_clone_here);
    if (top == 0)
        return true;
    slot = (uintptr_t *)(top - BACK_OFFSET);
    *slot = clone->back;
    /* One that has neither variables of its own nor a parent that waits is not guarded. */
    if ((flags & CLONE_VM) && (flags & (CLONE_SETTLS | CLONE_VFORK)))
        *slot |= BACK_ARM | (flags & CLONE_VFORK ? BACK_SPAWNED : 0);
    return true;
}
