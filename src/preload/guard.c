#include "preload/guard.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "preload/guard_copy.h"
#include "preload/guard_table.h"
#include "preload/kernel.h"
#include "preload/preload.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_ON 1
#endif
#ifndef SYS_USER_DISPATCH
#define SYS_USER_DISPATCH 2
#endif

#define PART_MOST (64UL * 1024 * 1024)
#define FUTEXES_MOST 128u /* that one call waits for */
#define TOUCHES 16        /* of a page for one call, before it is said not to be there */
#define EVENTS_MOST 1024u /* that one wait returns */

_Thread_local struct guard_thread guard_thread;

bool guard_active;

/* Only in the call itself can the thread be cancelled. */
long guard_make(long number, const uintptr_t *a)
{
    bool cancelable = guard_thread.cancelable;
    long result;
    int type;

    if (cancelable)
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
    result = kernel_raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (cancelable)
        pthread_setcanceltype(type, NULL);
    return result;
}

/* ---- which calls are looked at ---- */

void guard_arm(void)
{
    if (!guard_active)
        return;
    guard_thread.selector = guard_thread.pass == 0;
    guard_thread.armed =
        kernel_raw(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, kernel_start,
                   (size_t)(kernel_end - kernel_start), &guard_thread.selector) == 0;
    guard_stack_take();
}

void guard_forked(void)
{
    guard_thread.spawned = false;
    guard_arm();
}

void guard_pass(void)
{
    guard_thread.pass++;
    guard_thread.selector = 0;
}

void guard_look(void)
{
    guard_thread.pass--;
    guard_thread.selector = guard_thread.armed && guard_thread.pass == 0;
}

/* ---- structures and arrays ---- */

enum part_how {
    PART_COPY,   /* the call is given a copy, and what it has changed of it goes back */
    PART_RESULT, /* the call writes it only, as much as it returns, by `unit` bytes */
    PART_TEXT,   /* a copy up to its end */
    PART_TOUCH,  /* the call is about the address itself, or what lies there is not quite known */
    PART_VECTOR  /* the same, and so are the buffers of these struct iovec */
};

/* What a call is given of managed memory. */
struct part {
    uintptr_t start;
    size_t length, at; /* at: in the memory that the call is made on */
    uint16_t unit;
    uint8_t index, how; /* index: of the argument */
};

struct parts {
    struct part part[2 * GUARD_ARGUMENTS + 6];
    int count;
    size_t size; /* of the copies */
};

static void add_part(struct parts *p, const struct part *part)
{
    if (part->length == 0 || part->start == 0 || !arena_overlaps(part->start, part->length))
        return;
    if (part->length > PART_MOST) /* the kernel will not have it either */
        return;
    p->part[p->count] = *part;
    p->part[p->count++].at = p->size;
    if (part->how <= PART_TEXT) /* of a copy also what it was before */
        p->size += ((part->length + 15) & ~15UL) * (part->how == PART_COPY ? 2 : 1);
}

static void add_argument(struct parts *p, const struct guard_argument *argument, const uintptr_t *a)
{
    uintptr_t of = a[argument->of];
    struct part part = {.start = a[argument->index], .index = argument->index};
    socklen_t size = 0;

    switch ((enum guard_kind)argument->kind) {
    case GUARD_BYTES:
        part.length = argument->size;
        break;
    case GUARD_ARRAY:
        part.length = (size_t)(unsigned)of * argument->size;
        break;
    case GUARD_RESULT:
        part.length = (size_t)(unsigned)of * argument->size;
        part.how = PART_RESULT;
        part.unit = argument->size;
        break;
    case GUARD_TEXT:
        part.length = PATH_MAX;
        part.how = PART_TEXT;
        break;
    case GUARD_SIZED:
        if (arena_overlaps(part.start, 1) && guard_read(&size, of, sizeof(size)) == 0)
            part.length = size;
        add_part(p, &(struct part){.start = of, .length = sizeof(size), .index = argument->of});
        break;
    case GUARD_VECTOR:
        part.length = of < IOV_MAX ? of * sizeof(struct iovec) : 0;
        part.how = PART_VECTOR;
        break;
    case GUARD_BITS:
        part.length = ((size_t)(unsigned)of + 63) / 64 * 8;
        break;
    case GUARD_LETTER:
        part.length = sizeof(long) + of;
        break;
    case GUARD_PAGES:
        part.length = of / VMSM_PAGE_SIZE + 1;
        break;
    case GUARD_IOCTL: /* what some write goes on behind it */
        part.length = guard_ioctl_size(of);
        part.how = PART_TOUCH;
        break;
    case GUARD_NOTHING:
    case GUARD_MESSAGE:
        break;
    }
    add_part(p, &part);
}

static bool is_in_place(long number)
{
    switch (number) {
    case SYS_futex:
    case SYS_futex_waitv:
    case SYS_vmsplice:
    case SYS_process_vm_readv:
    case SYS_process_vm_writev:
    case SYS_process_madvise:
        return true;
    default:
        return false;
    }
}

static void find_parts(struct parts *p, long number, const uintptr_t *a)
{
    const struct guard_argument *arguments = guard_arguments(number);
    unsigned unnamed = guard_pointers(number);

    p->count = 0;
    p->size = 0;
    for (int i = 0; i < GUARD_ARGUMENTS && arguments[i].kind != GUARD_NOTHING; i++) {
        unnamed &= ~(1u << arguments[i].index);
        add_argument(p, &arguments[i], a);
    }
    for (unsigned i = 0; i < 6; i++) {
        if (unnamed >> i & 1)
            add_part(p, &(struct part){.start = a[i],
                                       .length = GUARD_STRUCTURE,
                                       .index = (uint8_t)i,
                                       .how = PART_TOUCH});
    }
    if (!is_in_place(number))
        return;
    for (int i = 0; i < p->count; i++) {
        if (p->part[i].how != PART_VECTOR)
            p->part[i].how = PART_TOUCH;
    }
    p->size = 0;
}

/* Copy, and give the call the copies. What cannot be read it is given as it is: it will say so. */
static void parts_in(const struct parts *p, char *memory, uintptr_t *a)
{
    for (int i = 0; i < p->count; i++) {
        const struct part *part = &p->part[i];
        char *copy = memory + part->at;
        size_t got = part->length;

        if (part->how > PART_TEXT)
            continue;
        if (part->how == PART_TEXT)
            got = guard_read_text(copy, part->start, part->length);
        else if (part->how == PART_COPY)
            got = guard_read_some(copy, part->start, part->length);
        if (got < part->length && (part->how != PART_TEXT || got == 0 || copy[got - 1] != '\0'))
            continue;
        if (part->how == PART_COPY)
            memcpy(copy + ((part->length + 15) & ~15UL), copy, part->length);
        a[part->index] = (uintptr_t)copy;
    }
}

/* Only what has changed: beside it others may write meanwhile. */
static long copy_out(const struct part *part, const char *copy)
{
    const char *before = copy + ((part->length + 15) & ~15UL);
    long error = 0;

    if (memcmp(copy, before, part->length) == 0)
        return 0;
    for (size_t at = 0, end; at < part->length && error == 0; at = end) {
        bool changed = copy[at] != before[at];

        for (end = at + 1; end < part->length && (copy[end] != before[end]) == changed;)
            end++;
        if (changed)
            error = guard_write(part->start + at, copy + at, end - at);
    }
    return error;
}

static long parts_out(const struct parts *p, const char *memory, const uintptr_t *a, long result)
{
    long error = 0;

    for (int i = 0; i < p->count; i++) {
        const struct part *part = &p->part[i];
        size_t length = result > 0 ? (size_t)result * part->unit : 0;

        if (a[part->index] != (uintptr_t)memory + part->at)
            continue;
        if (part->how == PART_COPY && copy_out(part, memory + part->at) != 0)
            error = -EFAULT;
        if (part->how == PART_RESULT &&
            guard_write(part->start, memory + part->at,
                        length < part->length ? length : part->length) != 0)
            error = -EFAULT;
    }
    return result >= 0 && error != 0 ? error : result;
}

/* ---- what stays in its place ---- */

static void touch_vector(uintptr_t start, size_t length)
{
    struct iovec iov;

    for (size_t at = 0; at < length; at += sizeof(iov)) {
        if (guard_read(&iov, start + at, sizeof(iov)) == 0)
            guard_touch((uintptr_t)iov.iov_base,
                        iov.iov_len < guard_piece() ? iov.iov_len : guard_piece());
    }
}

static void touch_futexes(uintptr_t start, size_t count)
{
    struct {
        uint64_t value, address;
        uint32_t flags, reserved;
    } waiter;

    for (size_t i = 0; i < count && i < FUTEXES_MOST; i++) {
        if (guard_read(&waiter, start + i * sizeof(waiter), sizeof(waiter)) == 0)
            guard_touch(waiter.address, sizeof(uint32_t));
    }
}

static bool touch_parts(const struct parts *p)
{
    bool any = false;

    for (int i = 0; i < p->count; i++) {
        const struct part *part = &p->part[i];

        if (part->how < PART_TOUCH)
            continue;
        guard_touch(part->start, part->length);
        if (part->how == PART_VECTOR)
            touch_vector(part->start, part->length);
        any = true;
    }
    return any;
}

/*
 * Nothing keeps there what has been touched; it will mostly be there still, and if it is not the
 * call says EFAULT, and is made again. What acts before it writes is made on copies (the table), but
 * for ioctl(). A futex mostly is there without.
 */
static long make_touched(long number, const uintptr_t *a, const struct parts *p)
{
    bool waits = number == SYS_futex || number == SYS_futex_waitv;
    long result = -EFAULT;

    if (waits || !touch_parts(p))
        result = guard_make(number, a);
    for (int tries = 0; tries < TOUCHES && result == -EFAULT; tries++) {
        bool any = touch_parts(p);

        if (number == SYS_futex_waitv)
            touch_futexes(a[0], a[1]);
        if (!any && number != SYS_futex_waitv)
            break;
        result = guard_make(number, a);
    }
    return result;
}

static long call_simple(long number, const uintptr_t *a)
{
    struct parts p;
    struct guard_lease lease;
    uintptr_t b[6];
    long result;

    find_parts(&p, number, a);
    if (p.size == 0)
        return make_touched(number, a, &p);
    if (guard_lease(&lease, p.size) != 0)
        return -ENOMEM;
    memcpy(b, a, sizeof(b));
    parts_in(&p, lease.memory, b);
    result = parts_out(&p, lease.memory, b, make_touched(number, b, &p));
    guard_lease_end(&lease, true);
    return result;
}

static long call_other(long number, const uintptr_t *a)
{
    long result;
    int tries = 0;

    do {
        bool inner = guard_touch_inner(number, a);

        result = call_simple(number, a);
        if (!inner)
            break;
    } while (result == -EFAULT && ++tries < TOUCHES);
    return result;
}

/* ---- all calls ---- */

/* Those that change managed memory go where the C library's functions do. */
static bool changes_arena(long number, const uintptr_t *a)
{
    switch (number) {
    case SYS_mmap:
        return (a[3] & MAP_FIXED) && arena_overlaps(a[0], a[1]);
    case SYS_mlockall: /* would lock the arena */
        return true;
    case SYS_mremap:
        if ((a[3] & MREMAP_FIXED) && arena_overlaps(a[4], a[2] > 0 ? a[2] : 1))
            return true;
        return arena_overlaps(a[0], a[1] > 0 ? a[1] : 1);
    case SYS_munmap:
    case SYS_mprotect:
    case SYS_pkey_mprotect:
    case SYS_mseal:
    case SYS_madvise:
    case SYS_mlock:
    case SYS_mlock2:
    case SYS_munlock:
        return arena_overlaps(a[0], a[1] > 0 ? a[1] : 1);
    default:
        return false;
    }
}

static long as_kernel(long result)
{
    return result == -1 ? -errno : result;
}

long guard_plain_call(long number, const uintptr_t *a)
{
    uintptr_t b[6];
    long result;

    if (number == SYS_prctl && (a[0] == PR_SET_SYSCALL_USER_DISPATCH || memory_would_merge(a)))
        return -EINVAL;
    if (!atomic_load_explicit(&arena.managed, memory_order_acquire))
        return guard_make(number, a);
    if (guard_transfer_call(number, a, &result))
        return result;
    if (changes_arena(number, a))
        return as_kernel(syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]));
    switch (number) {
    case SYS_execve:
    case SYS_execveat:
        return guard_exec(number, a);
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
        memcpy(b, a, sizeof(b));
        if ((int)a[2] > (int)EVENTS_MOST)
            b[2] = EVENTS_MOST;
        return call_simple(number, b);
    default:
        return call_other(number, a);
    }
}

long guard_call(long number, const uintptr_t *a)
{
    long result;

    return guard_signal_call(number, a, &result) ? result : guard_plain_call(number, a);
}

static long function_call(long number, const uintptr_t *a, bool cancelable)
{
    bool before = guard_thread.cancelable;
    long result;

    guard_thread.cancelable = cancelable;
    result = guard_active ? guard_call(number, a) : guard_make(number, a);
    guard_thread.cancelable = before;
    if (result >= 0 || result < -4095)
        return result;
    errno = (int)-result;
    return -1;
}

long guard_function_call(long number, const uintptr_t *a)
{
    return function_call(number, a, false);
}

long guard_cancelable_call(long number, const uintptr_t *a)
{
    return function_call(number, a, true);
}

/* Where a thread ends: on its own stack, since ours goes. */
static void end_thread(long status)
{
    if (!guard_thread.spawned)
        guard_bounces_give();
    guard_stack_give();
    for (;;)
        kernel_raw(SYS_exit, status);
}

static void on_call(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    uintptr_t a[6];
    long call = (long)g[REG_RAX], result;
    int saved = errno;
    bool cancelable = guard_thread.cancelable;

    if (info->si_code != SYS_USER_DISPATCH) {
        guard_hand_on(number, info, context);
        return;
    }
    a[0] = (uintptr_t)g[REG_RDI];
    a[1] = (uintptr_t)g[REG_RSI];
    a[2] = (uintptr_t)g[REG_RDX];
    a[3] = (uintptr_t)g[REG_R10];
    a[4] = (uintptr_t)g[REG_R8];
    a[5] = (uintptr_t)g[REG_R9];
    if (call == SYS_rt_sigreturn) {
        guard_signal_return(uc);
        g[REG_RIP] = (greg_t)(uintptr_t)kernel_signal_return;
        return;
    }
    if (call == SYS_exit) {
        g[REG_RIP] = (greg_t)(uintptr_t)end_thread;
        g[REG_RSP] = ((g[REG_RSP] - 128) & ~(greg_t)15) - 8; /* as after a call */
        return;
    }
    if (guard_redirect_clone(call, a, uc))
        return;
    guard_thread.cancelable = false; /* where it is, the C library has seen to that */
    if (!guard_context_call(call, a, uc, &result)) {
        unsigned returns = guard_thread.returns;

        result = guard_call(call, a);
        if (returns != guard_thread.returns)
            guard_signal_mask(uc);
    }
    guard_thread.cancelable = cancelable;
    g[REG_RAX] = result;
    errno = saved;
}

bool guard_start(bool faults)
{
    guard_active = true;
    if (guard_signal_start(on_call, faults))
        guard_arm();
    return guard_thread.armed;
}
