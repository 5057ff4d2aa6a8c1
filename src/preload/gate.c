/*
 * The gate: one call at a time changes the arena, with all signals blocked, without being
 * cancelled, on a stack of ours.
 *
 * The stack matters because a core lock may be held when the stack's page must be had: a handler
 * thread that needs that lock to serve the fault would wait for ever. And the manager needs some
 * tens of KiB, which a thread's stack, or a signal handler's, may not have. Signals, because a
 * handler of the program may touch managed memory, or come here again. Cancellation, because what
 * waits or writes inside would be the thread's end, with the gate held.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload/guard.h"
#include "preload/kernel.h"
#include "preload/preload.h"
#include "preload/renamed.h"

#define STACK_SIZE (1024UL * 1024)
#define STACKS_KEPT 8

/* Readers that come one after another must not keep a writer out. None comes in a second time. */
static pthread_rwlock_t gate = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static void *_Atomic stacks[STACKS_KEPT]; /* the lowest addresses of those that nobody is on */

/* Straight to the kernel: that C library's function leaves two signals of its own open. */
void gate_mask_signals(uint64_t *before)
{
    uint64_t all = ~guard_faults(); /* its own fault on managed memory must still be served */

    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, &all, before, sizeof(all));
    guard_pass();
}

void gate_restore_signals(const uint64_t *before)
{
    guard_look();
    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, before, NULL, sizeof(*before));
}

/* Not to be interrupted from here on. */
static void hold(struct gate_hold *before)
{
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before->cancel_state);
    gate_mask_signals(&before->signals);
}

void gate_unlock(const struct gate_hold *before)
{
    pthread_rwlock_unlock(&gate);
    gate_restore_signals(&before->signals);
    pthread_setcancelstate(before->cancel_state, NULL);
}

void gate_lock(struct gate_hold *before)
{
    hold(before);
    pthread_rwlock_wrlock(&gate);
}

void gate_reset(bool held)
{
    static const pthread_rwlock_t fresh = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

    gate = fresh;
    if (held)
        pthread_rwlock_wrlock(&gate);
}

#if defined(__x86_64__)
/* Call function(arguments) with the stack pointer at `top` (16-aligned). */
long gate_switch(gate_function *function, const uintptr_t *arguments, char *top);
__asm__(".text\n"
        ".type gate_switch, @function\n"
        "gate_switch:\n"
        "    .cfi_startproc\n"
        "    push %rbp\n"
        "    .cfi_def_cfa_offset 16\n"
        "    .cfi_offset %rbp, -16\n"
        "    mov %rsp, %rbp\n"
        "    .cfi_def_cfa_register %rbp\n"
        "    mov %rdx, %rsp\n"
        "    mov %rdi, %rax\n"
        "    mov %rsi, %rdi\n"
        "    call *%rax\n"
        "    mov %rbp, %rsp\n"
        "    pop %rbp\n"
        "    .cfi_def_cfa %rsp, 8\n"
        "    ret\n"
        "    .cfi_endproc\n"
        ".size gate_switch, . - gate_switch\n");
#else
#error "vmsm run: how to change stacks is known for x86-64 only"
#endif

static void *take_stack(void)
{
    void *stack;

    for (int i = 0; i < STACKS_KEPT; i++) {
        stack = atomic_exchange(&stacks[i], NULL);
        if (stack != NULL)
            return stack;
    }
    stack = kernel_mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return stack != MAP_FAILED ? stack : NULL;
}

static void keep_stack(void *stack)
{
    for (int i = 0; i < STACKS_KEPT; i++) {
        void *none = NULL;

        if (atomic_compare_exchange_strong(&stacks[i], &none, stack))
            return;
    }
    kernel_munmap(stack, STACK_SIZE);
}

long gate_on_own_stack(gate_function *function, const uintptr_t *arguments)
{
    char *stack = take_stack();
    long result;

    if (stack == NULL)
        return -ENOMEM;
    result = gate_switch(function, arguments, stack + STACK_SIZE);
    keep_stack(stack);
    return result;
}

long gate_call(gate_function *function, const uintptr_t *arguments)
{
    struct gate_hold before;
    int saved = errno;
    long result;

    gate_lock(&before);
    result = gate_on_own_stack(function, arguments);
    gate_unlock(&before);
    errno = saved;
    return result;
}

long gate_shared_call(gate_function *function, const uintptr_t *arguments)
{
    struct gate_hold before;
    int saved = errno;
    long result;

    hold(&before);
    pthread_rwlock_rdlock(&gate);
    result = gate_on_own_stack(function, arguments);
    gate_unlock(&before);
    errno = saved;
    return result;
}
