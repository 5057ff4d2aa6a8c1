/*
 * The gate: one call at a time changes the arena, with all signals blocked, on a stack that is not
 * managed memory.
 *
 * The stack matters because a core lock may be held when the stack's page must be had: a handler
 * thread that needs that lock to serve the fault would wait for ever. Signals, because a handler of
 * the program may touch managed memory, or come here again.
 */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload/kernel.h"
#include "preload/preload.h"
#include "preload/renamed.h"

#define STACK_SIZE (1024UL * 1024)

static pthread_rwlock_t gate = PTHREAD_RWLOCK_INITIALIZER;
static char *own_stack; /* (gate) its lowest address; mapped at first use */

/* Straight to the kernel: that C library's function leaves two signals of its own open. */
void gate_mask_signals(uint64_t *before)
{
    static const uint64_t all = ~UINT64_C(0);

    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, &all, before, sizeof(all));
}

void gate_restore_signals(const uint64_t *before)
{
    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, before, NULL, sizeof(*before));
}

void gate_lock(uint64_t *before)
{
    gate_mask_signals(before);
    pthread_rwlock_wrlock(&gate);
}

void gate_unlock(const uint64_t *before)
{
    pthread_rwlock_unlock(&gate);
    gate_restore_signals(before);
}

void gate_reset(bool held)
{
    static const pthread_rwlock_t fresh = PTHREAD_RWLOCK_INITIALIZER;

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

long gate_on_own_stack(gate_function *function, const uintptr_t *arguments)
{
    if (!arena_overlaps((uintptr_t)__builtin_frame_address(0), 1))
        return function(arguments);
    if (own_stack == NULL) {
        void *stack = kernel_mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (stack == MAP_FAILED)
            return -ENOMEM;
        own_stack = stack;
    }
    return gate_switch(function, arguments, own_stack + STACK_SIZE);
}

long gate_call(gate_function *function, const uintptr_t *arguments)
{
    uint64_t before;
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
    int saved = errno;
    uint64_t before;
    long result;

    if (arena_overlaps((uintptr_t)__builtin_frame_address(0), 1))
        return gate_call(function, arguments);
    gate_mask_signals(&before);
    pthread_rwlock_rdlock(&gate);
    result = function(arguments);
    pthread_rwlock_unlock(&gate);
    gate_restore_signals(&before);
    errno = saved;
    return result;
}
