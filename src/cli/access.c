#include "cli/access.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "core/error.h"

/* A thread's way out of an access that failed. */
struct guard {
    sigjmp_buf out;
    volatile sig_atomic_t armed;
    sigset_t mask; /* the thread's own; the manager's handler may run with more blocked */
};

static _Thread_local struct guard guard;

/* Opened before and shut after what may fault; the compiler must move no access across. */
static inline void guard_arm(bool armed)
{
    atomic_signal_fence(memory_order_seq_cst);
    guard.armed = armed;
    atomic_signal_fence(memory_order_seq_cst);
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    (void)info;
    (void)context;
    if (guard.armed) {
        guard.armed = 0;
        siglongjmp(guard.out, 1);
    }
    /* Not ours: let it kill the program as it would have without us. */
    signal(number, SIG_DFL);
}

int access_guard_install(void)
{
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};

    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, NULL) != 0)
        return error_set(-errno, "cannot install a handler for SIGBUS");
    return 0;
}

void access_guard_thread(void)
{
    pthread_sigmask(SIG_SETMASK, NULL, &guard.mask);
}

/* What follows siglongjmp(): the mask is restored here, not by each sigsetjmp() at the cost of
 * a system call. */
static int guard_failed(void)
{
    pthread_sigmask(SIG_SETMASK, &guard.mask, NULL);
    return -EIO;
}

static int soft_load(const struct access *a, const uint64_t *page, const unsigned *positions,
                     uint64_t *values, unsigned count)
{
    int result = 0;

    for (unsigned i = 0; i < count && result == 0; i++)
        result = vmsm_read(a->manager, page + positions[i], &values[i], sizeof(values[i]));
    return result;
}

int access_load(const struct access *a, uint64_t page, const unsigned *positions, uint64_t *values,
                unsigned count)
{
    const volatile uint64_t *words = access_address(a, page);

    if (a->soft)
        return soft_load(a, access_address(a, page), positions, values, count);
    if (sigsetjmp(guard.out, 0) != 0)
        return guard_failed();
    guard_arm(true);
    for (unsigned i = 0; i < count; i++)
        values[i] = words[positions[i]];
    guard_arm(false);
    return 0;
}

static int soft_store(const struct access *a, uint64_t *page, const unsigned *positions,
                      const uint64_t *values, unsigned count)
{
    int result = 0;

    for (unsigned i = 0; i < count && result == 0; i++)
        result = vmsm_write(a->manager, page + positions[i], &values[i], sizeof(values[i]));
    return result;
}

int access_store(const struct access *a, uint64_t page, const unsigned *positions,
                 const uint64_t *values, unsigned count)
{
    volatile uint64_t *words = access_address(a, page);

    if (a->soft)
        return soft_store(a, access_address(a, page), positions, values, count);
    if (sigsetjmp(guard.out, 0) != 0)
        return guard_failed();
    guard_arm(true);
    for (unsigned i = 0; i < count; i++)
        words[positions[i]] = values[i];
    guard_arm(false);
    return 0;
}

int access_clear(const struct access *a, uint64_t page)
{
    static const uint64_t zeroes[ACCESS_PAGE_WORDS];
    volatile uint64_t *words = access_address(a, page);

    if (a->soft)
        return vmsm_write(a->manager, access_address(a, page), zeroes, sizeof(zeroes));
    if (sigsetjmp(guard.out, 0) != 0)
        return guard_failed();
    guard_arm(true);
    for (unsigned i = 0; i < ACCESS_PAGE_WORDS; i++)
        words[i] = 0;
    guard_arm(false);
    return 0;
}

int access_load_page(const struct access *a, uint64_t page, uint64_t words[ACCESS_PAGE_WORDS])
{
    const volatile uint64_t *from = access_address(a, page);

    if (a->soft)
        return vmsm_read(a->manager, access_address(a, page), words,
                         ACCESS_PAGE_WORDS * sizeof(words[0]));
    if (sigsetjmp(guard.out, 0) != 0)
        return guard_failed();
    guard_arm(true);
    for (unsigned i = 0; i < ACCESS_PAGE_WORDS; i++)
        words[i] = from[i];
    guard_arm(false);
    return 0;
}
