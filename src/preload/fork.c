/*
 * fork(): the child has the memory of the moment, and a manager of its own.
 *
 * What the manager does is told in core/fork.h: it stops, copies the slots in use into a pagefile
 * for the child (so a fork takes time in proportion to what is in the pagefile), and lets the child
 * inherit the rest. In the child it begins anew over the same addresses.
 *
 * From the stop to the new beginning nobody may touch managed memory: in the parent nobody would
 * serve it, and in the child, until the arena is watched again, a page that is not there would read
 * as zeroes. So the C library's fork() cannot be used: around the system call it touches streams
 * and records that are on the heap. Here its parts are done one by one: handlers of
 * pthread_atfork() (the list is kept here), the lock of the list of streams (before the heap's, which
 * are the last of those handlers), the system call by
 * _Fork(), in the child the loader's locks, and when the manager serves again, the locks of
 * streams. The manager's threads are made without the C library (thread.c), which would read the
 * heap.
 *
 * A process that has no manager uses the C library's fork(), and gets no manager meanwhile.
 *
 * What is missing of it: in the child of a program with threads, the C library does not know that
 * they are gone, which shows only in a child whose first thread ends by pthread_exit(); and if
 * another thread is being made or is ending at this very moment, or has the lock of the name
 * service's records, the child may wait for that for ever.
 *
 * A child that is made by other means (a system call from assembly) has no managed memory: it gets
 * SIGSEGV where it touches any. If a fork cannot be had, it fails with ENOMEM, and why is logged.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utmp.h>

#include "core/error.h"
#include "internal.h"
#include "preload/guard.h"
#include "preload/kernel.h"
#include "preload/preload.h"
#include "preload/renamed.h"

#define HANDLERS_MAX 256
#define STREAM_UNLOCKED 0x8000 /* _IO_USER_LOCK: the stream has no lock */

/* Of the C library: exported, but declared nowhere. */
void _IO_list_lock(void);
void _IO_list_unlock(void);
void _IO_list_resetlock(void);
typedef struct stream_iterator *stream_iterator;
stream_iterator _IO_iter_begin(void);
stream_iterator _IO_iter_end(void);
stream_iterator _IO_iter_next(stream_iterator);
FILE *_IO_iter_file(stream_iterator);

struct handler {
    void (*prepare)(void), (*parent)(void), (*child)(void);
    void *dso;     /* what the library that registered it is known by (__dso_handle) */
    size_t number; /* in the order of registration, from 1 */
};

/* The lock is not held while a handler runs; who closes a library comes here with the loader's.
 * It is held over a fork. */
static struct {
    pthread_mutex_t lock;
    unsigned count;                        /* (lock) */
    size_t registered;                     /* (lock) number of the newest */
    struct handler handlers[HANDLERS_MAX]; /* (lock) by number */
} atfork = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- handlers ---- */

static size_t newest_handler(void)
{
    size_t number;

    pthread_mutex_lock(&atfork.lock);
    number = atfork.registered;
    pthread_mutex_unlock(&atfork.lock);
    return number;
}

/* The last of those with a lower number. */
static bool handler_below(size_t number, struct handler *out)
{
    unsigned i;

    pthread_mutex_lock(&atfork.lock);
    for (i = atfork.count; i > 0 && atfork.handlers[i - 1].number >= number; i--)
        continue;
    if (i > 0)
        *out = atfork.handlers[i - 1];
    pthread_mutex_unlock(&atfork.lock);
    return i > 0;
}

/* The first of those with a higher number. */
static bool handler_above(size_t number, struct handler *out)
{
    unsigned i;
    bool found;

    pthread_mutex_lock(&atfork.lock);
    for (i = 0; i < atfork.count && atfork.handlers[i].number <= number; i++)
        continue;
    found = i < atfork.count;
    if (found)
        *out = atfork.handlers[i];
    pthread_mutex_unlock(&atfork.lock);
    return found;
}

static void forget_handlers_of(const void *dso)
{
    unsigned kept = 0;

    pthread_mutex_lock(&atfork.lock);
    for (unsigned i = 0; i < atfork.count; i++) {
        if (atfork.handlers[i].dso != dso)
            atfork.handlers[kept++] = atfork.handlers[i];
    }
    atfork.count = kept;
    pthread_mutex_unlock(&atfork.lock);
}

static bool add_handler(struct handler *handler)
{
    bool room;

    pthread_mutex_lock(&atfork.lock);
    room = atfork.count < HANDLERS_MAX;
    if (room) {
        handler->number = ++atfork.registered;
        atfork.handlers[atfork.count++] = *handler;
    }
    pthread_mutex_unlock(&atfork.lock);
    return room;
}

extern void *__dso_handle __attribute__((visibility("hidden"))); /* this library's */

static void (*heap_prepare)(void), (*heap_parent)(void), (*heap_child)(void);

/*
 * Around jemalloc's handlers, which have all its locks over a fork: the lock of the list of streams
 * comes first, as in the C library, for a thread that has it may wait for a stream whose owner
 * waits for the heap. (It is recursive: fork() takes it again.)
 */
static void prepare_heap(void)
{
    _IO_list_lock();
    heap_prepare();
}

static void heap_in_parent(void)
{
    heap_parent();
    _IO_list_unlock();
}

static void heap_in_child(void)
{
    heap_child();
    _IO_list_resetlock(); /* the C library may have done so, or not */
}

static struct handler around_heap(struct handler of_heap)
{
    heap_prepare = of_heap.prepare;
    heap_parent = of_heap.parent;
    heap_child = of_heap.child;
    of_heap.prepare = prepare_heap;
    of_heap.parent = heap_in_parent;
    of_heap.child = heap_in_child;
    return of_heap;
}

int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *dso);

/* What pthread_atfork() is. The C library is told as well, for a process without a manager. */
PRELOAD_API int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void),
                                  void *dso)
{
    struct handler handler = {.prepare = prepare, .parent = parent, .child = child, .dso = dso};
    int (*real)(void (*)(void), void (*)(void), void (*)(void), void *) = NULL;

    kernel_find(&real, "__register_atfork");
    if (dso == __dso_handle) /* nothing else in this library registers any */
        handler = around_heap(handler);
    if (!add_handler(&handler))
        return ENOMEM;
    return real != NULL ? real(handler.prepare, handler.parent, handler.child, dso) : 0;
}

/* Returns the number of the newest: what is registered meanwhile is not for this fork. */
static size_t run_prepare(void)
{
    size_t newest = newest_handler();
    struct handler handler = {.number = newest + 1};

    while (handler_below(handler.number, &handler)) {
        if (handler.prepare != NULL)
            handler.prepare();
    }
    return newest;
}

static void run_after(size_t newest, bool child)
{
    struct handler handler = {0};

    while (handler_above(handler.number, &handler) && handler.number <= newest) {
        void (*function)(void) = child ? handler.child : handler.parent;

        if (function != NULL)
            function();
    }
}

/* ---- the loader's locks ---- */

/*
 * A thread that is not in the child may have held them. They are three recursive mutexes side by
 * side in the loader's data; dl_iterate_phdr() makes its calls with the second of them held, by
 * which they are known.
 */
enum { LOADER_LOCKS = 3, LOADER_LOCK_HELD = 1 };

static pthread_mutex_t *loader_locks; /* constant after start; NULL: not found */

static bool are_loader_locks(const pthread_mutex_t *locks)
{
    for (int i = 0; i < LOADER_LOCKS; i++) {
        int owner = i == LOADER_LOCK_HELD ? (int)kernel_call(SYS_gettid) : 0;

        if (locks[i].__data.__kind != PTHREAD_MUTEX_RECURSIVE || locks[i].__data.__owner != owner)
            return false;
    }
    return true;
}

static int find_loader_locks(struct dl_phdr_info *info, size_t size, void *unused)
{
    char *data = dlsym(RTLD_DEFAULT, "_rtld_global");
    void *entry = NULL;
    const ElfW(Sym) * symbol;
    Dl_info found;

    (void)info, (void)size, (void)unused;
    if (data == NULL || dladdr1(data, &found, &entry, RTLD_DL_SYMENT) == 0 || entry == NULL)
        return 1;
    symbol = entry;
    for (size_t at = 0; at + LOADER_LOCKS * sizeof(pthread_mutex_t) <= symbol->st_size;
         at += sizeof(void *)) {
        pthread_mutex_t *locks = (pthread_mutex_t *)(void *)(data + at);

        if (are_loader_locks(locks))
            loader_locks = locks;
    }
    return 1;
}

static void reset_loader_locks(void)
{
    static const pthread_mutex_t fresh = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

    for (int i = 0; i < LOADER_LOCKS && loader_locks != NULL; i++)
        loader_locks[i] = fresh;
}

/* ---- the fork itself, with the gate held ---- */

typedef int clone_function(int (*)(void *), void *, int, void *, ...);

/*
 * The C library's own. They are looked for at the start, since later another thread may have the
 * loader's lock; or when a library uses one before that.
 */
struct libc_forks {
    pid_t (*fork)(void), (*bare)(void);
    clone_function *clone;
    void (*finalize)(void *);
};

static const struct libc_forks *libc_forks(void)
{
    static struct libc_forks forks; /* constant once `found` is set; before it all find the same */
    static _Atomic bool found;
    struct libc_forks now = {0};

    if (atomic_load_explicit(&found, memory_order_acquire))
        return &forks;
    kernel_find(&now.fork, "fork");
    kernel_find(&now.bare, "_Fork");
    kernel_find(&now.clone, "clone");
    kernel_find(&now.finalize, "__cxa_finalize");
    forks = now;
    atomic_store_explicit(&found, true, memory_order_release);
    return &forks;
}

__attribute__((constructor(102))) static void fork_start(void)
{
    libc_forks();
    dl_iterate_phdr(find_loader_locks, NULL);
}

static void go_on_in_child(struct store *copy)
{
    int error;

    own_depth++;
    error = vmsm_fork_child(arena.manager, copy);
    own_depth--;
    if (error != 0) {
        log_line(LOG_ERROR, "run: a child by fork() cannot go on: %s", error_last());
        kernel_call(SYS_exit_group, 125);
    }
    descriptor_close_marked();
}

/*
 * The kernel must not touch managed memory then either: it writes the number of the child to *id,
 * and from there write_ids() takes it. Nor does the parent wait, as with CLONE_VFORK, for it has
 * all others wait.
 */
static pid_t make_child(const struct clone_call *call, int *id)
{
    if (call->bare)
        return libc_forks()->bare();
    return (pid_t)kernel_call(SYS_clone,
                              call->flags & ~(uintptr_t)(CLONE_VFORK | CLONE_CHILD_SETTID), NULL,
                              id, call->child_id, call->tls);
}

static void write_ids(const struct clone_call *call, pid_t child, int id)
{
    if (child > 0 && (call->flags & (CLONE_PARENT_SETTID | CLONE_PIDFD)))
        *(int *)call->parent_id = id;
    if (child == 0 && (call->flags & CLONE_CHILD_SETTID))
        *(int *)call->child_id = (int)kernel_call(SYS_gettid);
}

/* call, and where its id goes. They may lie on a managed stack: not to be looked at after the
 * stop. */
static long fork_managed(const uintptr_t *a)
{
    const struct clone_call call = *(const struct clone_call *)a[0];
    int *id_out = (int *)a[1], id = 0;
    struct store *copy;
    pid_t child;
    int error;

    if (call.flags & CLONE_FILES) {
        log_line(LOG_ERROR,
                 "run: process %d cannot make a child that shares its descriptors, but not its "
                 "memory: each needs a pagefile of its own",
                 (int)getpid());
        return -EINVAL;
    }
    descriptor_mark();
    own_depth++;
    error = vmsm_fork_prepare(arena.manager, &copy);
    own_depth--;
    if (error != 0) {
        log_line(LOG_ERROR, "run: process %d cannot fork: %s", (int)getpid(), error_last());
        return -ENOMEM;
    }
    child = make_child(&call, &id);
    error = child < 0 ? -errno : 0;
    if (child == 0) {
        reset_loader_locks();
        go_on_in_child(copy);
    } else {
        vmsm_fork_parent(arena.manager, copy);
    }
    *id_out = id;
    return error != 0 ? error : child;
}

/* In the child: it is another process, and nobody else has a lock. */
static void forked(void)
{
    static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;

    atfork.lock = fresh;
    guard_forked();
    direct_forked();
    process_forked();
}

static pid_t fork_at_gate(const struct clone_call *call)
{
    struct gate_hold before;
    long child;
    int id = 0;

    gate_lock(&before);
    child = gate_on_own_stack(fork_managed, (uintptr_t[]){(uintptr_t)call, (uintptr_t)&id});
    if (child == 0) {
        gate_reset(true);
        forked();
    }
    gate_unlock(&before);
    if (child < 0) {
        errno = (int)-child;
        return -1;
    }
    write_ids(call, (pid_t)child, id);
    return (pid_t)child;
}

/* ---- what the program calls ---- */

static void reset_streams(void)
{
    for (stream_iterator i = _IO_iter_begin(); i != _IO_iter_end(); i = _IO_iter_next(i)) {
        FILE *stream = _IO_iter_file(i);

        if (!(stream->_flags & STREAM_UNLOCKED) && stream->_lock != NULL)
            memset(stream->_lock, 0, 16); /* what an unlocked one is: no depth, no owner */
    }
    _IO_list_resetlock();
}

static const struct clone_call by_libc = {.bare = true};

/* There is no manager, nor will there be before process_plain_forked(). call NULL: with
 * handlers. */
static pid_t fork_plain(const struct clone_call *call)
{
    int id = 0;
    pid_t child = call != NULL ? make_child(call, &id) : libc_forks()->fork();

    if (child == 0)
        forked();
    process_plain_forked(child == 0);
    if (call != NULL)
        write_ids(call, child, id);
    return child;
}

PRELOAD_API pid_t fork(void)
{
    size_t newest;
    pid_t child;
    int saved;

    if (!process.active)
        return libc_forks()->fork();
    if (process_plain_fork())
        return fork_plain(NULL);
    newest = run_prepare();
    _IO_list_lock();
    pthread_mutex_lock(&atfork.lock);
    child = fork_at_gate(&by_libc);
    saved = errno;
    if (child == 0) {
        reset_streams();
    } else {
        pthread_mutex_unlock(&atfork.lock);
        _IO_list_unlock();
    }
    run_after(newest, child == 0);
    errno = saved;
    return child;
}

pid_t __fork(void);

PRELOAD_API pid_t __fork(void)
{
    return fork();
}

pid_t fork_by_call(const struct clone_call *call)
{
    return process_plain_fork() ? fork_plain(call) : fork_at_gate(call);
}

/* Without handlers, for signal handlers. */
PRELOAD_API pid_t _Fork(void)
{
    return process.active ? fork_by_call(&by_libc) : libc_forks()->bare();
}

/* A child with memory of its own can go on on the stack that it is on: it has a copy. */
PRELOAD_API int clone(int (*function)(void *), void *stack, int flags, void *argument, ...)
{
    uintptr_t more[3]; /* parent_id, tls, child_id */
    struct clone_call call;
    va_list args;
    pid_t child;

    va_start(args, argument);
    for (int i = 0; i < 3; i++)
        more[i] = va_arg(args, uintptr_t);
    va_end(args);
    if (!process.active || (flags & CLONE_VM) || function == NULL || stack == NULL)
        return libc_forks()->clone(function, stack, flags, argument, more[0], more[1], more[2]);
    call = (struct clone_call){
        .flags = (unsigned)flags, .parent_id = more[0], .child_id = more[2], .tls = more[1]};
    child = fork_by_call(&call);
    if (child == 0)
        _exit(function(argument));
    return child;
}

void __cxa_finalize(void *dso);

/* A library calls it when it is closed (and all of them at the end): its handlers go as well. */
PRELOAD_API void __cxa_finalize(void *dso)
{
    libc_forks()->finalize(dso);
    if (dso != NULL) /* else it is the program itself, which stays */
        forget_handlers_of(dso);
}

/* These call the C library's own fork(), unless they are here. */

PRELOAD_API int daemon(int keep_directory, int keep_streams)
{
    int null;

    switch (fork()) {
    case -1:
        return -1;
    case 0:
        break;
    default:
        _exit(0);
    }
    if (setsid() < 0 || (!keep_directory && chdir("/") != 0))
        return -1;
    if (keep_streams)
        return 0;
    null = open("/dev/null", O_RDWR);
    if (null < 0)
        return -1;
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        dup2(null, fd);
    if (null > STDERR_FILENO)
        close(null);
    return 0;
}

PRELOAD_API pid_t forkpty(int *master, char *name, const struct termios *termios,
                          const struct winsize *size)
{
    int slave;
    pid_t child;

    if (openpty(master, &slave, name, termios, size) < 0)
        return -1;
    child = fork();
    if (child == 0) {
        close(*master);
        if (login_tty(slave) != 0)
            _exit(1);
        return 0;
    }
    close(slave);
    if (child < 0)
        close(*master);
    return child;
}
