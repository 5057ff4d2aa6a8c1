/*
 * Faults resolved by the faulting thread in its SIGBUS handler (UFFD_FEATURE_SIGBUS).
 *
 * One handler serves all managers of the process. The list of machines is an array of
 * atomic pointers, so that the handler takes no lock to read it; a count of handlers at work
 * keeps a machine from being destroyed under one.
 *
 * The signal handler runs on the thread's own stack (or its alternate one): TRAP_SIGBUS_STACK.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "core/error.h"
#include "trap/trap.h"

/* Of the page fault's error code on x86. */
#define FAULT_CODE_PRESENT 1
#define FAULT_CODE_WRITE 2

/* Process-wide, as signal handlers are. `lock` guards the changes. */
static struct {
    pthread_mutex_t lock;
    _Atomic(struct machine *) machines[TRAP_SIGBUS_MACHINES];
    _Atomic unsigned users[TRAP_SIGBUS_MACHINES]; /* handlers that are looking at the entry */
    unsigned count;
    struct sigaction before; /* where a SIGBUS goes that is not ours */
    struct sigaction first;  /* and where it goes if that hands it back to us */
    bool left; /* a handler that came after ours has kept it: it may hand on to ours for good */
} sigbus = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* What this thread is handing on: the signal's context, and the frame of our handler. A handler
 * may leave by siglongjmp(), so this may be old; then the next signal's frame is not below it, or
 * its context differs. */
static _Thread_local struct {
    const void *context;
    uintptr_t frame;
} handing __attribute__((tls_model("initial-exec")));

static unsigned fault_flags(const void *context)
{
    const ucontext_t *uc = context;
    unsigned flags = 0;

#if defined(__x86_64__)
    long long code = uc->uc_mcontext.gregs[REG_ERR];

    if (code & FAULT_CODE_WRITE)
        flags |= FAULT_WRITE;
    if ((code & FAULT_CODE_WRITE) && (code & FAULT_CODE_PRESENT))
        flags |= FAULT_PROTECT;
#else
    (void)uc;
    flags = FAULT_WRITE | FAULT_PROTECT; /* what a write to a protected page needs does no harm */
#endif
    return flags;
}

/* The default action: put it back and let the instruction fault again. */
static void die(void)
{
    struct sigaction standard = {.sa_handler = SIG_DFL};

    sigaction(SIGBUS, &standard, NULL);
}

static void hand_on(int signal, siginfo_t *info, void *context)
{
    const ucontext_t *uc = context;
    uintptr_t frame = (uintptr_t)__builtin_frame_address(0);
    bool back = handing.context == context && frame < handing.frame;
    const struct sigaction *next = back ? &sigbus.first : &sigbus.before;

    handing.context = context;
    handing.frame = frame;
    pthread_sigmask(SIG_SETMASK, &uc->uc_sigmask, NULL); /* as the program would have it */
    if (next->sa_flags & SA_SIGINFO)
        next->sa_sigaction(signal, info, context);
    else if (next->sa_handler == SIG_DFL || next->sa_handler == SIG_IGN)
        die();
    else
        next->sa_handler(signal);
    handing.context = NULL;
}

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
    uintptr_t va = (uintptr_t)info->si_addr;
    int saved = errno, state;

    /* Reading is a cancellation point, and a thread that ended in it would hold the page for ever.
     */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    for (unsigned i = 0; i < TRAP_SIGBUS_MACHINES && info->si_code > 0; i++) {
        enum fault_result result = FAULT_OUTSIDE;
        struct machine *m;

        if (atomic_load_explicit(&sigbus.machines[i], memory_order_relaxed) == NULL)
            continue;
        atomic_fetch_add(&sigbus.users[i], 1);
        m = atomic_load(&sigbus.machines[i]);
        if (m != NULL)
            result = fault_resolve(m, va, fault_flags(context), (uint32_t)syscall(SYS_gettid));
        if (result == FAULT_FAILED)
            log_repeated(&m->said_fault, LOG_ERROR, "SIGBUS at %p: %s", (void *)va, error_last());
        atomic_fetch_sub(&sigbus.users[i], 1);
        if (result == FAULT_DONE) {
            pthread_setcancelstate(state, NULL);
            errno = saved;
            return;
        }
        if (result == FAULT_FAILED)
            break;
    }
    pthread_setcancelstate(state, NULL);
    errno = saved;
    hand_on(signal, info, context);
}

static bool is_ours(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == on_sigbus;
}

static int install(void)
{
    struct sigaction action = {.sa_sigaction = on_sigbus,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART};
    struct sigaction now;

    /*
     * No handler of the program may come between: it could touch managed memory while this
     * thread holds a lock of the core. Nor may a cancellation that has begun end the thread here:
     * sigfillset() would leave the C library's own signals open. Those that faults raise stay so.
     */
    memset(&action.sa_mask, 0xff, sizeof(action.sa_mask));
    sigdelset(&action.sa_mask, SIGBUS);
    sigdelset(&action.sa_mask, SIGSEGV);
    sigdelset(&action.sa_mask, SIGILL);
    sigdelset(&action.sa_mask, SIGFPE);
    sigdelset(&action.sa_mask, SIGTRAP);
    if (sigaction(SIGBUS, &action, &now) != 0)
        return error_set(-errno, "cannot handle SIGBUS: %s", strerror(errno));
    if (!is_ours(&now))
        sigbus.before = now;
    if (!sigbus.left)
        sigbus.first = sigbus.before;
    return 0;
}

int trap_sigbus_open(struct machine *m)
{
    int error = 0;

    pthread_mutex_lock(&sigbus.lock);
    if (sigbus.count == TRAP_SIGBUS_MACHINES)
        error = error_set(-EMFILE, "more than %d managers with --trap sigbus in one process",
                          TRAP_SIGBUS_MACHINES);
    else if (sigbus.count == 0)
        error = install();
    for (unsigned i = 0; error == 0 && i < TRAP_SIGBUS_MACHINES; i++) {
        struct machine *none = NULL;

        if (atomic_compare_exchange_strong(&sigbus.machines[i], &none, m)) {
            sigbus.count++;
            break;
        }
    }
    pthread_mutex_unlock(&sigbus.lock);
    return error;
}

void trap_sigbus_close(struct machine *m)
{
    struct sigaction now;

    pthread_mutex_lock(&sigbus.lock);
    for (unsigned i = 0; i < TRAP_SIGBUS_MACHINES; i++) {
        struct machine *mine = m;

        if (!atomic_compare_exchange_strong(&sigbus.machines[i], &mine, NULL))
            continue;
        while (atomic_load(&sigbus.users[i]) > 0)
            sync_give_way(&m->sync);
        sigbus.count--;
    }
    /* Whoever came after us keeps the handler; then ours stays, and hands everything on. */
    if (sigbus.count == 0 && sigaction(SIGBUS, NULL, &now) == 0) {
        if (is_ours(&now))
            sigaction(SIGBUS, &sigbus.before, NULL);
        else
            sigbus.left = true;
    }
    pthread_mutex_unlock(&sigbus.lock);
}

void trap_sigbus_forked(void)
{
    static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;

    sigbus.lock = fresh;
    for (unsigned i = 0; i < TRAP_SIGBUS_MACHINES; i++)
        atomic_store(&sigbus.users[i], 0);
}
