#include "preload/guard.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "preload/guard_table.h"
#include "preload/kernel.h"
#include "preload/pin.h"
#include "preload/preload.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_ON 1
#endif
#ifndef SYS_USER_DISPATCH
#define SYS_USER_DISPATCH 2
#endif

#define PIN_PAUSE 1000000 /* ns */
#define PIN_TRIES 10000
#define PIECE_SHARE 16u            /* of the memory, what one call may keep pinned for a buffer, */
#define PIECE_LEAST (128UL * 1024) /* which is more than any datagram, */
#define PIECE_MOST (4096UL * 1024) /* and so much at most */
#define EVENTS_MOST 1024u          /* that one wait returns, for its buffer is pinned meanwhile */
#define CONTROL_USUAL 1024u

_Thread_local struct guard_thread guard_thread;

bool guard_active;

static long make(long number, const uintptr_t *a)
{
    return kernel_raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
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

/* ---- pins for a call ---- */

static void release(void *pinned)
{
    uint64_t before;
    int state;

    /* Its record is on this stack, and others have it until it is undone. */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    gate_mask_signals(&before);
    pin_release(pinned);
    gate_restore_signals(&before);
    pthread_setcancelstate(state, NULL);
}

/* The thread may be cancelled in it. */
static long make_pinned(long number, const uintptr_t *a, struct pinned *p)
{
    long result;

    pthread_cleanup_push(release, p);
    result = make(number, a);
    pthread_cleanup_pop(1);
    return result;
}

/* Pin; wait if too much is pinned now. whole: all of it, or nothing. */
static long pin_some(const struct iovec *iov, int count, size_t most, bool whole, struct pinned *p)
{
    struct timespec pause = {.tv_nsec = PIN_PAUSE};
    size_t length = 0;
    long error = 0;

    for (int i = 0; i < count; i++)
        length += iov[i].iov_len;
    for (int tries = 0; tries < PIN_TRIES; tries++) {
        error = pin_buffers(iov, count, most, p);
        if (error == 0 && whole && p->length < length) {
            release(p);
            error = -ENOMEM;
        }
        if (error != -ENOMEM)
            break;
        kernel_raw(SYS_nanosleep, &pause, NULL);
    }
    return error;
}

/* ---- structures and arrays ---- */

struct wanted {
    struct iovec iov[PIN_PIECES];
    int count;
};

static void want(struct wanted *w, uintptr_t start, size_t length)
{
    if (length > 0 && w->count < PIN_PIECES && arena_overlaps(start, length))
        w->iov[w->count++] = (struct iovec){.iov_base = (void *)start, .iov_len = length};
}

static void want_vector(struct wanted *w, const struct iovec *iov, size_t count)
{
    want(w, (uintptr_t)iov, count * sizeof(*iov));
    for (size_t i = 0; i < count && i < IOV_MAX; i++)
        want(w, (uintptr_t)iov[i].iov_base, iov[i].iov_len);
}

static void want_argument(struct wanted *w, const struct guard_argument *argument,
                          const uintptr_t *a)
{
    uintptr_t start = a[argument->index], of = a[argument->of], page = 1;
    socklen_t size;
    long length;

    if (start == 0)
        return;
    switch ((enum guard_kind)argument->kind) {
    case GUARD_BYTES:
        want(w, start, argument->size);
        break;
    case GUARD_ARRAY:
        want(w, start, (size_t)(unsigned)of * argument->size);
        break;
    case GUARD_TEXT:
        length = arena_overlaps(start, 1) ? guard_text_length(start, PATH_MAX, &page) : -EFAULT;
        if (length >= 0)
            want(w, start, (size_t)length + 1);
        break;
    case GUARD_SIZED:
        want(w, of, sizeof(socklen_t));
        if (guard_read(&size, of, sizeof(size)) == 0)
            want(w, start, size);
        break;
    case GUARD_VECTOR:
        want_vector(w, (const struct iovec *)start, of);
        break;
    case GUARD_BITS:
        want(w, start, ((size_t)(unsigned)of + 63) / 64 * 8);
        break;
    case GUARD_LETTER:
        want(w, start, sizeof(long) + of);
        break;
    case GUARD_PAGES:
        want(w, start, of / VMSM_PAGE_SIZE + 1);
        break;
    case GUARD_IOCTL:
        want(w, start, guard_ioctl_size(of));
        break;
    case GUARD_NOTHING:
    case GUARD_MESSAGE:
        break;
    }
}

static void want_all(struct wanted *w, long number, const uintptr_t *a)
{
    const struct guard_argument *arguments = guard_arguments(number);
    unsigned unnamed = guard_pointers(number);

    w->count = 0;
    for (int i = 0; i < GUARD_ARGUMENTS && arguments[i].kind != GUARD_NOTHING; i++) {
        unnamed &= ~(1u << arguments[i].index);
        want_argument(w, &arguments[i], a);
    }
    for (unsigned i = 0; i < 6; i++) {
        if (unnamed >> i & 1)
            want(w, a[i], GUARD_STRUCTURE);
    }
}

static long call_simple(long number, const uintptr_t *a)
{
    struct wanted w;
    struct pinned p;

    want_all(&w, number, a);
    if (w.count == 0 || pin_some(w.iov, w.count, SIZE_MAX, true, &p) != 0)
        return make(number, a); /* if it cannot be had, the kernel says so */
    return make_pinned(number, a, &p);
}

/* ---- reads and writes ---- */

struct transfer {
    bool known, writes, vector;
    uint8_t buffer;   /* argument that is the buffer, or the vector; its length is the next */
    uint8_t position; /* argument that is the offset; 0: none */
};

static struct transfer transfer_of(long number)
{
    switch (number) {
    case SYS_read:
        return (struct transfer){.known = true, .buffer = 1};
    case SYS_write:
        return (struct transfer){.known = true, .writes = true, .buffer = 1};
    case SYS_pread64:
        return (struct transfer){.known = true, .buffer = 1, .position = 3};
    case SYS_pwrite64:
        return (struct transfer){.known = true, .writes = true, .buffer = 1, .position = 3};
    case SYS_readv:
        return (struct transfer){.known = true, .vector = true, .buffer = 1};
    case SYS_writev:
        return (struct transfer){.known = true, .writes = true, .vector = true, .buffer = 1};
    case SYS_preadv:
    case SYS_preadv2:
        return (struct transfer){.known = true, .vector = true, .buffer = 1, .position = 3};
    case SYS_pwritev:
    case SYS_pwritev2:
        return (struct transfer){
            .known = true, .writes = true, .vector = true, .buffer = 1, .position = 3};
    case SYS_recvfrom:
        return (struct transfer){.known = true, .buffer = 1};
    case SYS_sendto:
        return (struct transfer){.known = true, .writes = true, .buffer = 1};
    case SYS_getrandom:
        return (struct transfer){.known = true, .buffer = 0};
    default:
        return (struct transfer){0};
    }
}

/* What one call may have pinned of a buffer. */
static size_t piece_most(void)
{
    size_t most = process_memory() / PIECE_SHARE;

    if (most > PIECE_MOST)
        most = PIECE_MOST;
    return most < PIECE_LEAST ? PIECE_LEAST : most;
}

/* A read of it is whole but at its end. */
static bool is_file(int fd)
{
    struct stat st;

    return kernel_raw(SYS_fstat, fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
}

/* What is left of a vector behind `done` bytes. Returns how many elements, PIN_PIECES at most. */
static int rest_of(const struct iovec *iov, size_t count, size_t done, struct iovec *rest)
{
    int n = 0;

    for (size_t i = 0; i < count && n < PIN_PIECES; i++) {
        size_t skip = done < iov[i].iov_len ? done : iov[i].iov_len;

        done -= skip;
        if (iov[i].iov_len > skip)
            rest[n++] = (struct iovec){.iov_base = (char *)iov[i].iov_base + skip,
                                       .iov_len = iov[i].iov_len - skip};
    }
    return n;
}

static bool vector_overlaps(const struct iovec *iov, size_t count)
{
    bool ours = arena_overlaps((uintptr_t)iov, count * sizeof(*iov));

    for (size_t i = 0; i < count && !ours; i++)
        ours = iov[i].iov_len > 0 && arena_overlaps((uintptr_t)iov[i].iov_base, iov[i].iov_len);
    return ours;
}

static long transfer_piece(long number, const uintptr_t *a, const struct transfer *t, size_t done,
                           struct pinned *p)
{
    uintptr_t b[6];

    memcpy(b, a, sizeof(b));
    b[t->buffer] = t->vector ? (uintptr_t)p->iov : (uintptr_t)p->iov[0].iov_base;
    b[t->buffer + 1] = t->vector ? (uintptr_t)p->count : p->iov[0].iov_len;
    if (t->position != 0 && (off_t)b[t->position] >= 0)
        b[t->position] += done;
    return make_pinned(number, b, p);
}

static long call_transfer(long number, const uintptr_t *a, const struct transfer *t)
{
    struct iovec one = {.iov_base = (void *)a[t->buffer], .iov_len = a[t->buffer + 1]};
    const struct iovec *iov = t->vector ? (const struct iovec *)a[t->buffer] : &one;
    size_t count = t->vector ? a[t->buffer + 1] : 1, total = 0, done = 0;
    struct iovec rest[PIN_PIECES];
    struct pinned p;

    if (count > IOV_MAX || !vector_overlaps(iov, count))
        return make(number, a);
    for (size_t i = 0; i < count; i++)
        total += iov[i].iov_len;
    for (;;) {
        int left = rest_of(iov, count, done, rest);
        long got;

        if (left == 0 && done > 0)
            return (long)done;
        got = left > 0 ? pin_some(rest, left, piece_most(), false, &p) : -ENOMEM;
        got = got == 0 ? transfer_piece(number, a, t, done, &p) : make(number, a);
        if (got <= 0)
            return done > 0 ? (long)done : got;
        done += (size_t)got;
        if ((size_t)got < p.length || done >= total || !(t->writes || is_file((int)a[0])))
            return (long)done;
    }
}

/* ---- sockets ---- */

/* An address beside the buffer goes by way of a copy: it need not be pinned. */
static long call_addressed(long number, const uintptr_t *a, const struct transfer *t)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof(address), *length_out = (socklen_t *)a[5];
    uintptr_t b[6];
    bool reads = number == SYS_recvfrom;
    long result;

    memcpy(b, a, sizeof(b));
    if (a[4] == 0 || (reads && length_out == NULL) || (!reads && a[5] > sizeof(address)))
        return call_transfer(number, a, t);
    if (reads && *length_out < length)
        length = *length_out;
    if (!reads)
        memcpy(&address, (const void *)a[4], a[5]);
    b[4] = (uintptr_t)&address;
    b[5] = reads ? (uintptr_t)&length : a[5];
    result = call_transfer(number, b, t);
    if (result >= 0 && reads) {
        memcpy((void *)a[4], &address,
               length < *length_out && length < sizeof(address)
                   ? length
                   : (*length_out < sizeof(address) ? *length_out : sizeof(address)));
        *length_out = length;
    }
    return result;
}

/* A message whose parts beside its buffers are copies, on this stack. */
struct message {
    struct msghdr header;
    struct sockaddr_storage name;
    _Alignas(struct cmsghdr) char control[CONTROL_USUAL];
    void *large; /* control messages that need more room */
    size_t large_length;
};

static bool message_open(struct message *m, const struct msghdr *theirs)
{
    m->header = *theirs;
    m->large = NULL;
    if (m->header.msg_name != NULL) {
        if (m->header.msg_namelen > sizeof(m->name))
            m->header.msg_namelen = sizeof(m->name);
        memcpy(&m->name, theirs->msg_name, m->header.msg_namelen);
        m->header.msg_name = &m->name;
    }
    if (m->header.msg_control == NULL || m->header.msg_controllen == 0)
        return true;
    m->header.msg_control = m->control;
    if (m->header.msg_controllen > sizeof(m->control)) {
        m->large_length = m->header.msg_controllen;
        m->large = kernel_mmap(NULL, m->large_length, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (m->large == MAP_FAILED)
            return false;
        m->header.msg_control = m->large;
    }
    memcpy(m->header.msg_control, theirs->msg_control, theirs->msg_controllen);
    return true;
}

static void message_received(const struct message *m, struct msghdr *theirs)
{
    size_t named =
        m->header.msg_namelen < sizeof(m->name) ? m->header.msg_namelen : sizeof(m->name);

    if (theirs->msg_name != NULL)
        memcpy(theirs->msg_name, &m->name,
               named < theirs->msg_namelen ? named : theirs->msg_namelen);
    if (theirs->msg_control != NULL)
        memcpy(theirs->msg_control, m->header.msg_control, m->header.msg_controllen);
    theirs->msg_namelen = m->header.msg_namelen;
    theirs->msg_controllen = m->header.msg_controllen;
    theirs->msg_flags = m->header.msg_flags;
}

static long call_message(long number, int fd, struct msghdr *theirs, uintptr_t flags)
{
    struct message m;
    struct iovec rest[PIN_PIECES];
    struct pinned p = {.count = 0};
    long result = -ENOMEM;
    int left;

    if (theirs == NULL)
        return kernel_raw(number, fd, theirs, flags);
    if (message_open(&m, theirs)) {
        left = m.header.msg_iovlen > IOV_MAX
                   ? 0
                   : rest_of(m.header.msg_iov, m.header.msg_iovlen, 0, rest);
        result = left > 0 ? pin_some(rest, left, piece_most(), false, &p) : 0;
        if (m.header.msg_iovlen <= IOV_MAX) {
            m.header.msg_iov = p.iov;
            m.header.msg_iovlen = (size_t)p.count;
        }
    }
    if (result == 0)
        result =
            make_pinned(number, (uintptr_t[6]){(uintptr_t)fd, (uintptr_t)&m.header, flags}, &p);
    if (result >= 0 && number == SYS_recvmsg)
        message_received(&m, theirs);
    if (m.large != NULL && m.large != MAP_FAILED)
        kernel_munmap(m.large, m.large_length);
    return result;
}

/* One of them: fewer than were asked for is an answer. */
static long call_messages(long number, const uintptr_t *a)
{
    struct mmsghdr *messages = (struct mmsghdr *)a[1];
    long result;

    if (messages == NULL || (unsigned)a[2] == 0)
        return make(number, a);
    result = call_message(number == SYS_sendmmsg ? SYS_sendmsg : SYS_recvmsg, (int)a[0],
                          &messages[0].msg_hdr, a[3] & ~(uintptr_t)MSG_WAITFORONE);
    if (result < 0)
        return result;
    messages[0].msg_len = (unsigned)result;
    return 1;
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
    struct transfer t = transfer_of(number);
    uintptr_t b[6];

    if (number == SYS_prctl && a[0] == PR_SET_SYSCALL_USER_DISPATCH)
        return -EINVAL;
    if (!atomic_load_explicit(&arena.managed, memory_order_acquire))
        return make(number, a);
    if (t.known)
        return number == SYS_recvfrom || number == SYS_sendto ? call_addressed(number, a, &t)
                                                              : call_transfer(number, a, &t);
    if (changes_arena(number, a))
        return as_kernel(syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]));
    switch (number) {
    case SYS_execve:
    case SYS_execveat:
        return guard_exec(number, a);
    case SYS_sendmsg:
    case SYS_recvmsg:
        return call_message(number, (int)a[0], (struct msghdr *)a[1], a[2]);
    case SYS_sendmmsg:
    case SYS_recvmmsg:
        return call_messages(number, a);
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
        memcpy(b, a, sizeof(b));
        if ((int)a[2] > (int)EVENTS_MOST)
            b[2] = EVENTS_MOST;
        return call_simple(number, b);
    default:
        return call_simple(number, a);
    }
}

long guard_call(long number, const uintptr_t *a)
{
    long result;

    return guard_signal_call(number, a, &result) ? result : guard_plain_call(number, a);
}

long guard_function_call(long number, const uintptr_t *a)
{
    long result = guard_active ? guard_call(number, a) : make(number, a);

    if (result >= 0 || result < -4095)
        return result;
    errno = (int)-result;
    return -1;
}

long guard_cancelable_call(long number, const uintptr_t *a)
{
    long result;
    int type;

    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
    result = guard_function_call(number, a);
    pthread_setcanceltype(type, NULL);
    return result;
}

/* Where a thread ends: on its own stack, since ours goes. */
static void end_thread(long status)
{
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
    if (!guard_context_call(call, a, uc, &result)) {
        unsigned returns = guard_thread.returns;

        result = guard_call(call, a);
        if (returns != guard_thread.returns)
            guard_signal_mask(uc);
    }
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
