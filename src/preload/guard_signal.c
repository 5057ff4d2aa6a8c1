/*
 * Signals under the guard: those that it lives on are never blocked, and the program's handlers of
 * them are kept here.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "preload/guard.h"
#include "preload/kernel.h"
#include "preload/preload.h"
#include "preload/renamed.h"

#ifndef SA_RESTORER
#define SA_RESTORER 0x04000000
#endif
#define SET_SIZE 8u /* bytes, of the kernel's set of signals */
#define BIT(signal) (UINT64_C(1) << ((signal)-1))

/* Which sigfillset() leaves out. That of pthread_cancel() may come although cancellation has been
 * disabled since it was sent, and would end a thread that holds the manager's locks. */
#define LIBC_SIGNALS (BIT(32) | BIT(33))

/* What the system call rt_sigaction takes. */
struct kernel_action {
    void *handler;
    unsigned long flags;
    const void *restorer;
    uint64_t mask;
};

/* What the program wants done on SIGSYS, and on SIGBUS. */
static struct kernel_action theirs[2];

static bool faults_come;                                /* as SIGBUS. Constant after start */
static void (*fault_handler)(int, siginfo_t *, void *); /* the manager's; NULL: there is none yet */

uint64_t guard_faults(void)
{
    return faults_come ? BIT(SIGBUS) : 0;
}

/* Signals that are never blocked. */
static uint64_t open_signals(void)
{
    return BIT(SIGSYS) | guard_faults();
}

/* NULL: it is not kept here. */
static struct kernel_action *kept(int signal)
{
    if (signal < 1 || signal > 64 || !(open_signals() & BIT(signal)))
        return NULL;
    return &theirs[signal == SIGBUS];
}

static long set_action(int signal, uintptr_t act, uintptr_t old)
{
    struct kernel_action new = {0}, before = {0}, *mine = kept(signal);
    long result = act != 0 ? guard_read(&new, act, sizeof(new)) : 0;

    if (result == 0 && mine != NULL) {
        before = *mine;
        /* A child that shares memory sets what is to hold in its next program only. */
        if (act != 0 && !guard_thread.spawned)
            *mine = new;
    } else if (result == 0) {
        new.mask &= ~open_signals();
        result = kernel_raw(SYS_rt_sigaction, signal, act != 0 ? &new : NULL, &before, SET_SIZE);
    }
    if (result == 0 && old != 0)
        result = guard_write(old, &before, sizeof(before));
    return result;
}

/*
 * A mask that a call is given is not to be managed memory, nor to have our signals. Makes a copy of
 * one that is or has; not yet of a copy of ours; and of a bad pointer the kernel says what it is.
 */
static bool take_mask(uintptr_t from, uint64_t *mask)
{
    bool needed;

    if (from == 0 || guard_read(mask, from, SET_SIZE) != 0)
        return false;
    needed = (*mask & open_signals()) != 0 || arena_overlaps(from, SET_SIZE);
    *mask &= ~open_signals();
    return needed;
}

/* It is in argument `index`. */
static bool call_masked(long number, const uintptr_t *a, int index, long *result)
{
    uint64_t mask;
    uintptr_t b[6];

    if (!take_mask(a[index], &mask))
        return false;
    memcpy(b, a, sizeof(b));
    b[index] = (uintptr_t)&mask;
    *result = guard_plain_call(number, b);
    return true;
}

/* pselect6() has a pointer to it and its size in one argument. */
static bool call_pselect(const uintptr_t *a, long *result)
{
    uintptr_t pair[2], b[6];
    uint64_t mask;

    if (a[5] == 0 || guard_read(pair, a[5], sizeof(pair)) != 0)
        return false;
    if (take_mask(pair[0], &mask))
        pair[0] = (uintptr_t)&mask;
    else if (!arena_overlaps(a[5], sizeof(pair)))
        return false;
    memcpy(b, a, sizeof(b));
    b[5] = (uintptr_t)pair;
    *result = guard_plain_call(SYS_pselect6, b);
    return true;
}

static int mask_index(long number)
{
    switch (number) {
    case SYS_rt_sigsuspend:
        return 0;
    case SYS_ppoll:
        return 3;
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
        return 4;
    default:
        return -1;
    }
}

static long set_mask(int how, uintptr_t set, uintptr_t old)
{
    uint64_t new = 0, before = 0;
    long result = set != 0 ? guard_read(&new, set, SET_SIZE) : 0;

    if (how != SIG_UNBLOCK)
        new &= ~open_signals();
    if (result == 0)
        result = kernel_raw(SYS_rt_sigprocmask, how, set != 0 ? &new : NULL, &before, SET_SIZE);
    if (result == 0 && old != 0)
        result = guard_write(old, &before, SET_SIZE);
    return result;
}

/* ---- alternate stacks ---- */

/*
 * Every thread has one of ours, for its own stack may be managed memory that is not there when a
 * signal comes. One that the program sets is only remembered, and its handlers run on ours.
 */
#define STACK_SIZE (256UL * 1024)
#define STACK_GUARD ((size_t)VMSM_PAGE_SIZE) /* below it */

void guard_stack_take(void)
{
    stack_t now = {0}, ours = {.ss_size = STACK_SIZE};
    char *memory;

    if (guard_thread.spawned || guard_thread.stack != NULL ||
        kernel_raw(SYS_sigaltstack, NULL, &now) != 0 || now.ss_size > STACK_SIZE)
        return;
    memory = kernel_mmap(NULL, STACK_GUARD + STACK_SIZE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return;
    ours.ss_sp = memory + STACK_GUARD;
    if (kernel_mprotect(memory, STACK_GUARD, PROT_NONE) != 0 ||
        kernel_raw(SYS_sigaltstack, &ours, NULL) != 0) {
        kernel_munmap(memory, STACK_GUARD + STACK_SIZE);
        return;
    }
    guard_thread.stack = ours.ss_sp;
    guard_thread.theirs = now;
}

void guard_stack_give(void)
{
    static const stack_t none = {.ss_flags = SS_DISABLE};

    /* A child by vfork() has its parent's. And that fails if the thread ends on it; then it stays. */
    if (!guard_thread.spawned && guard_thread.stack != NULL &&
        kernel_raw(SYS_sigaltstack, &none, NULL) == 0)
        kernel_munmap((char *)guard_thread.stack - STACK_GUARD, STACK_GUARD + STACK_SIZE);
}

static long set_stack(uintptr_t new, uintptr_t old)
{
    stack_t before = guard_thread.theirs, copy;
    long result = 0;

    if (guard_thread.stack == NULL || guard_thread.spawned) /* a child by vfork() has its own */
        return kernel_raw(SYS_sigaltstack, new, old);
    if (new != 0) {
        result = guard_read(&copy, new, sizeof(copy));
        if (result != 0)
            return result;
        if (!(copy.ss_flags & SS_DISABLE) && copy.ss_size < (size_t)MINSIGSTKSZ)
            return -ENOMEM;
        if (copy.ss_flags & SS_DISABLE)
            copy = (stack_t){.ss_flags = SS_DISABLE};
        guard_thread.theirs = copy;
    }
    if (result == 0 && old != 0)
        result = guard_write(old, &before, sizeof(before));
    return result;
}

/* ---- calls ---- */

bool guard_signal_call(long number, const uintptr_t *a, long *result)
{
    int index = mask_index(number);

    if (number == SYS_rt_sigaction && a[3] == SET_SIZE)
        *result = set_action((int)a[0], a[1], a[2]);
    else if (number == SYS_rt_sigprocmask && a[3] == SET_SIZE)
        *result = set_mask((int)a[0], a[1], a[2]);
    else if (number == SYS_sigaltstack)
        *result = set_stack(a[0], a[1]);
    else if (index >= 0)
        return call_masked(number, a, index, result);
    else if (number == SYS_pselect6)
        return call_pselect(a, result);
    else
        return false;
    return true;
}

/* The end of the handler puts mask and alternate stack back as the context has them. */
bool guard_context_call(long number, const uintptr_t *a, ucontext_t *context, long *result)
{
    uint64_t *mask = (uint64_t *)(void *)&context->uc_sigmask, set = 0, before = *mask;

    if (number == SYS_sigaltstack) {
        *result = set_stack(a[0], a[1]);
        kernel_raw(SYS_sigaltstack, NULL, &context->uc_stack);
        return true;
    }
    if (number != SYS_rt_sigprocmask || a[3] != SET_SIZE)
        return false;
    *result = a[1] != 0 ? guard_read(&set, a[1], SET_SIZE) : 0;
    if (a[1] != 0 && *result == 0) {
        if (a[0] == SIG_BLOCK)
            *mask = before | set;
        else if (a[0] == SIG_UNBLOCK)
            *mask = before & ~set;
        else if (a[0] == SIG_SETMASK)
            *mask = set;
        else
            *result = -EINVAL;
        *mask &= ~open_signals();
    }
    if (*result == 0 && a[2] != 0)
        *result = guard_write(a[2], &before, SET_SIZE);
    return true;
}

/* The frame may have a mask that a handler has put there: the kernel will set that. */
static void clean_frame(ucontext_t *frame)
{
    uint64_t *mask = (uint64_t *)(void *)&frame->uc_sigmask;

    *mask &= ~open_signals();
}

void guard_signal_return(const ucontext_t *context)
{
    clean_frame((ucontext_t *)(uintptr_t)context->uc_mcontext.gregs[REG_RSP]);
    guard_thread.returns++;
}

void guard_signal_mask(ucontext_t *context)
{
    kernel_raw(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &context->uc_sigmask, SET_SIZE);
}

/* The default action is the end: let the kernel do it. */
static void die(int number)
{
    struct kernel_action standard = {0};

    kernel_raw(SYS_rt_sigaction, number, &standard, NULL, SET_SIZE);
    kernel_raw(SYS_tgkill, kernel_raw(SYS_getpid), kernel_raw(SYS_gettid), number);
}

void guard_hand_on(int number, siginfo_t *info, void *context)
{
    const struct kernel_action action = *kept(number);
    void (*simple)(int);
    void (*full)(int, siginfo_t *, void *);
    uint64_t mask;

    if (action.handler == (void *)SIG_IGN && info->si_code <= 0)
        return;
    if (action.handler == (void *)SIG_DFL || action.handler == (void *)SIG_IGN) {
        die(number);
        return;
    }
    memcpy(&simple, &action.handler, sizeof(simple));
    memcpy(&full, &action.handler, sizeof(full));
    if (action.flags & (unsigned)SA_RESETHAND)
        kept(number)->handler = (void *)SIG_DFL;
    mask = action.mask & ~open_signals();
    kernel_raw(SYS_rt_sigprocmask, SIG_BLOCK, &mask, NULL, SET_SIZE); /* until it returns */
    if (action.flags & SA_SIGINFO)
        full(number, info, context);
    else
        simple(number);
    clean_frame(context);
}

/* ---- faults ---- */

/* A SIGBUS that is no fault of the manager's. In the program's handler calls are looked at again; if
 * it leaves by siglongjmp(), it is well so. */
static void relay(int number, siginfo_t *info, void *context)
{
    unsigned pass = guard_thread.pass;

    guard_thread.pass = 0;
    guard_thread.selector = guard_thread.armed;
    guard_hand_on(number, info, context);
    guard_thread.pass = pass;
    guard_thread.selector = guard_thread.armed && pass == 0;
}

static long serve(const uintptr_t *a)
{
    fault_handler((int)a[0], (siginfo_t *)a[1], (void *)a[2]);
    return 0;
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    int saved = errno;

    if (fault_handler == NULL) {
        relay(number, info, context);
        return;
    }
    guard_pass();
    if (gate_on_own_stack(
            serve, (uintptr_t[]){(uintptr_t)number, (uintptr_t)info, (uintptr_t)context}) != 0)
        fault_handler(number, info, context);
    guard_look();
    errno = saved;
}

static bool install(int signal, void (*handler)(int, siginfo_t *, void *), unsigned long flags,
                    uint64_t mask, struct kernel_action *before)
{
    struct kernel_action action = {.flags =
                                       SA_SIGINFO | SA_NODEFER | SA_RESTART | SA_RESTORER | flags,
                                   .restorer = kernel_signal_return,
                                   .mask = mask};

    memcpy(&action.handler, &handler, sizeof(action.handler));
    return kernel_raw(SYS_rt_sigaction, signal, &action, before, SET_SIZE) == 0;
}

int own_sigaction(int signal, const struct sigaction *act, struct sigaction *old)
{
    uint64_t mask;

    if (signal != SIGBUS || !faults_come)
        return sigaction(signal, act, old);
    if (old != NULL)
        *old = (struct sigaction){.sa_sigaction = fault_handler != NULL ? fault_handler : relay,
                                  .sa_flags = SA_SIGINFO};
    if (act == NULL)
        return 0;
    fault_handler = act->sa_sigaction;
    memcpy(&mask, &act->sa_mask, sizeof(mask));
    mask |= LIBC_SIGNALS;
    return install(SIGBUS, on_fault, SA_ONSTACK, mask, NULL) ? 0 : -1;
}

/* Handlers that libraries have installed before us are made to fit as well. */
bool guard_signal_start(void (*handler)(int, siginfo_t *, void *), bool faults)
{
    uint64_t open;

    faults_come = faults;
    open = open_signals();
    for (int signal = 1; signal <= 64; signal++) {
        struct kernel_action now;

        if (kept(signal) == NULL &&
            kernel_raw(SYS_rt_sigaction, signal, NULL, &now, SET_SIZE) == 0 &&
            now.handler != (void *)SIG_DFL && now.handler != (void *)SIG_IGN)
            set_action(signal, (uintptr_t)&now, 0);
    }
    if (!install(SIGSYS, handler, SA_ONSTACK, 0, &theirs[0]) ||
        (faults && !install(SIGBUS, on_fault, SA_ONSTACK, 0, &theirs[1])))
        return false;
    return kernel_raw(SYS_rt_sigprocmask, SIG_UNBLOCK, &open, NULL, SET_SIZE) == 0;
}
