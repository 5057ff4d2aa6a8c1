/*
 * The library: what include/vmsm.h promises, made of a machine, a trap and a store.
 */
#include "vmsm.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/fork.h"
#include "core/machine.h"
#include "core/platform.h"
#include "internal.h"
#include "store/store.h"
#include "trap/trap.h"

#define POOL_QUEUES 4u         /* for explicit calls */
#define POOL_QUEUES_SIGBUS 16u /* and for threads that resolve their own faults */

struct vmsm {
    struct machine *machine;
    struct trap_thread *trap; /* trap thread */
    bool sigbus;
    char store_name[384];
};

const char *vmsm_last_error(void)
{
    return error_last();
}

/* ---- making a manager ---- */

/* Put together what belongs together; refuse what cannot. */
static int adjust(struct tunables *t)
{
    if (t->mapper == MAPPER_SOFT)
        t->trap = TRAP_NONE;
    if (t->trap == TRAP_AUTO) /* in `vmsm run` it has been chosen */
        t->trap = TRAP_THREAD;
    if (t->stage == STAGE_SINGLE)
        t->workers = false;
    if (t->mapper == MAPPER_MOVE && t->dirty == DIRTY_PROTECT)
        return error_set(-EINVAL, "dirty=protect needs the mapper copy or soft: UFFDIO_MOVE cannot "
                                  "put a page in place protected");
    /* There, system calls cannot write to a page that is protected. */
    if (t->mapper == MAPPER_COPY && (t->trap != TRAP_THREAD || !t->kernel_faults) &&
        t->dirty == DIRTY_AUTO)
        t->dirty = DIRTY_HASH;
    if (t->pagefile_size > 0 && t->pagefile_size < 2 * VMSM_PAGE_SIZE)
        return error_set(-EINVAL, "pagefile_size: %llu bytes hold no page: the minimum is 8K",
                         (unsigned long long)t->pagefile_size);
    return 0;
}

/* Length of the scheme of a URI ("nbd" of "nbd://…"), which begins with a letter; 0: it is a path.
 * A slash before the first colon makes it one. */
static size_t scheme_length(const char *text)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");

    return text[n] == ':' && n > 0 && text[0] >= 'A' ? n : 0;
}

/*
 * A thread that is cancelled inside would leave with the gate held and pages BUSY, for ever. So no
 * call is a cancellation point, nor can it be cancelled asynchronously.
 */
static int call_begin(void)
{
    int state;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    return state;
}

/* What a call returns, with cancellation as it was. */
static int call_end(int state, int result)
{
    pthread_setcancelstate(state, NULL);
    return result;
}

/* The path of a file or block device: STORE itself, or what follows "file:". */
static int file_path(const char *store, const char **path)
{
    size_t scheme = scheme_length(store);

    *path = store;
    if (scheme == 0)
        return 0;
    if (scheme != 4 || strncmp(store, "file", 4) != 0)
        return error_set(-EINVAL,
                         "pagefile %s: there is no store \"%.*s:\"; give a path, or file:PATH (a "
                         "file whose name has a colon: ./%s)",
                         store, (int)scheme, store, store);
    *path = store + 5;
    return 0;
}

/* Encrypt what `inner` holds, if it is to be. After a failure inner is closed. */
static int wrap_crypt(const struct tunables *t, struct store *inner, struct store **store)
{
    int error;

    *store = inner;
    if (!t->encrypt)
        return 0;
    error = store_crypt_open(inner, CIPHER_BEST, store);
    if (error != 0)
        inner->ops->close(inner);
    return error;
}

/*
 * Encryption is outermost, so that injected corruption hits ciphertext, as a disk's would: the
 * tag is checked first, and the core's hash behind it.
 */
static int open_store(const struct tunables *t, struct store **store)
{
    struct store_file_options file = {.size_slots = t->pagefile_size / VMSM_PAGE_SIZE,
                                      .direct = t->direct,
                                      .preallocate = t->preallocate,
                                      .force = t->pagefile_force};
    struct store_inject_options inject = {.delay_ns = t->store_delay,
                                          .jitter_ns = t->store_jitter,
                                          .read_error_every = t->store_read_error,
                                          .write_error_every = t->store_write_error,
                                          .corrupt_every = t->store_corrupt,
                                          .full_after = t->store_full_after,
                                          .bad_slot = t->store_bad_slot,
                                          .bad_write_slot = t->store_bad_write_slot};
    struct store *inner;
    int error;

    error = file_path(t->pagefile, &file.path);
    if (error != 0)
        return error;
    error = store_file_open(&file, &inner);
    if (error != 0)
        return error;
    if (inject.delay_ns == 0 && inject.jitter_ns == 0 && inject.read_error_every == 0 &&
        inject.write_error_every == 0 && inject.corrupt_every == 0 && inject.full_after == 0 &&
        inject.bad_slot == 0 && inject.bad_write_slot == 0)
        return wrap_crypt(t, inner, store);
    error = store_inject_open(inner, &inject, store);
    if (error != 0) {
        inner->ops->close(inner);
        return error;
    }
    return wrap_crypt(t, *store, store);
}

static void name_store(struct vmsm *v, const struct store *store)
{
    snprintf(v->store_name, sizeof(v->store_name), "%s %s (%s)", store->ops->name, store->where,
             store->how);
}

static int open_trap(struct vmsm *v, const struct tunables *t)
{
    int error = 0;

    if (t->trap == TRAP_THREAD)
        return trap_thread_open(v->machine, &v->trap);
    if (t->trap == TRAP_SIGBUS) {
        error = trap_sigbus_open(v->machine);
        v->sigbus = error == 0;
    }
    return error;
}

static int create_tuned(struct vmsm **out, const struct tunables *tunables)
{
    static const struct {
        int (*open)(struct sync *, const struct mapper_options *, struct mapper **);
        bool has_cache;
    } mappers[] = {
        [MAPPER_COPY] = {mapper_copy_open, true},
        [MAPPER_MOVE] = {mapper_move_open, false},
        [MAPPER_SOFT] = {mapper_soft_open, false},
    };
    struct tunables t = *tunables;
    struct machine_options options = {
        .tunables = &t, .backend = &sync_backend_linux, .platform = &platform_linux};
    struct vmsm *v;
    int error = adjust(&t);

    if (error != 0)
        return error;
    v = platform_linux.reserve(sizeof(*v));
    if (v == NULL)
        return error_set(-ENOMEM, "no memory for a manager");
    error = open_store(&t, &options.store);
    if (error != 0)
        goto out;
    name_store(v, options.store);
    if (t.yield_delay > 0)
        options.backend = &sync_backend_linux_delayed;
    options.mapper_open = mappers[t.mapper].open;
    options.mapper_has_cache = mappers[t.mapper].has_cache;
    options.pool_queues = t.trap == TRAP_THREAD ? POOL_QUEUES : POOL_QUEUES_SIGBUS;
    error = machine_create(&options, &v->machine);
    if (error != 0)
        goto out;
    error = open_trap(v, &t);
    if (error == 0) {
        *out = v;
        return 0;
    }
    machine_destroy(v->machine);
out:
    platform_linux.release(v, sizeof(*v));
    return error;
}

int vmsm_create_tuned(struct vmsm **out, const struct tunables *tunables)
{
    int state = call_begin();

    return call_end(state, create_tuned(out, tunables));
}

int vmsm_create(struct vmsm **m, const char *conf)
{
    const char *environment = getenv("VMSM_CONF");
    struct tunables tunables;
    int error;

    tunables_init(&tunables);
    if (environment != NULL) {
        error = tunables_parse(&tunables, environment);
        if (error != 0)
            return error;
    }
    error = tunables_parse(&tunables, conf != NULL ? conf : "");
    return error != 0 ? error : vmsm_create_tuned(m, &tunables);
}

void vmsm_destroy(struct vmsm *m)
{
    int state = call_begin();

    if (m == NULL) {
        call_end(state, 0);
        return;
    }
    /* Regions go first, while faults are still served: nobody may be left asleep in one. */
    region_unmap_all(m->machine);
    if (m->trap != NULL)
        trap_thread_close(m->machine, m->trap);
    if (m->sigbus)
        trap_sigbus_close(m->machine);
    machine_destroy(m->machine);
    platform_linux.release(m, sizeof(*m));
    call_end(state, 0);
}

/* ---- regions ---- */

static int map_region(struct vmsm *m, size_t length, bool overcommit, void **addr)
{
    struct machine *machine = m->machine;
    int state = call_begin(), error;
    uintptr_t base;

    machine_enter(machine);
    error = region_map(machine, length, overcommit, &base);
    sync_rwlock_unread(&machine->sync, &machine->gate, SYNC_GATE);
    if (error == 0)
        *addr = (void *)base;
    return call_end(state, error);
}

int vmsm_map(struct vmsm *m, size_t length, void **addr)
{
    return map_region(m, length, m->machine->tunables.overcommit, addr);
}

int vmsm_reserve(struct vmsm *m, size_t length, void **addr)
{
    return map_region(m, length, true, addr);
}

/* Calls that change what machine_check() compares run inside the gate, as faults do. */
static int gated(struct machine *m, int (*call)(struct machine *, uintptr_t, size_t), void *addr,
                 size_t length)
{
    int state = call_begin(), error;

    machine_enter(m);
    error = call(m, (uintptr_t)addr, length);
    sync_rwlock_unread(&m->sync, &m->gate, SYNC_GATE);
    return call_end(state, error);
}

int vmsm_unmap(struct vmsm *m, void *addr, size_t length)
{
    return gated(m->machine, region_unmap, addr, length);
}

int vmsm_decommit(struct vmsm *m, void *addr, size_t length)
{
    return gated(m->machine, region_decommit, addr, length);
}

int vmsm_discard(struct vmsm *m, void *addr, size_t length, int *refused)
{
    int state = call_begin(), error;

    machine_enter(m->machine);
    error = region_discard(m->machine, (uintptr_t)addr, length, refused);
    sync_rwlock_unread(&m->machine->sync, &m->machine->gate, SYNC_GATE);
    return call_end(state, error);
}

int vmsm_prefault(struct vmsm *m, const struct iovec *ranges, int count)
{
    int state = call_begin();

    return call_end(state, machine_prefault(m->machine, ranges, count));
}

int vmsm_advise(struct vmsm *m, void *addr, size_t length, enum vmsm_advice advice)
{
    int state = call_begin();

    return call_end(state, machine_advise(m->machine, (uintptr_t)addr, length, advice));
}

int vmsm_pin(struct vmsm *m, void *addr, size_t length)
{
    int state = call_begin();

    return call_end(state, machine_pin(m->machine, (uintptr_t)addr, length));
}

int vmsm_unpin(struct vmsm *m, void *addr, size_t length)
{
    int state = call_begin();

    return call_end(state, machine_unpin(m->machine, (uintptr_t)addr, length));
}

/* ---- explicit access ---- */

static int explicit_copy(struct vmsm *v, uintptr_t va, char *buffer, size_t length, bool write)
{
    int state = call_begin(), error = 0;
    struct machine *m = v->machine;

    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    if (length > 0 && !region_covers(m, va, length))
        error = error_set(-EINVAL, "%zu bytes at %p are not all mapped by this manager", length,
                          (void *)va);
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    if (error == 0 && m->tunables.trap == TRAP_NONE)
        error = access_copy(m, va, buffer, length, write);
    call_end(state, 0);
    if (error != 0 || m->tunables.trap == TRAP_NONE)
        return error;
    memcpy(write ? (void *)va : buffer, write ? buffer : (void *)va, length);
    return 0;
}

int vmsm_read(struct vmsm *m, const void *addr, void *buffer, size_t length)
{
    return explicit_copy(m, (uintptr_t)addr, buffer, length, false);
}

int vmsm_write(struct vmsm *m, void *addr, const void *buffer, size_t length)
{
    return explicit_copy(m, (uintptr_t)addr, (char *)(uintptr_t)buffer, length, true);
}

/* ---- looking inside ---- */

int vmsm_get_counters(struct vmsm *m, struct vmsm_counters *out)
{
    int state = call_begin();

    machine_get_counters(m->machine, out);
    return call_end(state, 0);
}

int vmsm_check(struct vmsm *m)
{
    int state = call_begin();

    return call_end(state, machine_check(m->machine));
}

const struct tunables *vmsm_tunables(const struct vmsm *m)
{
    return &m->machine->tunables;
}

const struct counters *vmsm_counters_of(const struct vmsm *m)
{
    return m->machine->counters;
}

const struct sync *vmsm_sync(const struct vmsm *m)
{
    return &m->machine->sync;
}

const char *vmsm_store_name(const struct vmsm *m)
{
    return m->store_name;
}

uintptr_t vmsm_next_content(struct vmsm *m, uintptr_t start, uintptr_t end)
{
    return region_next_content(m->machine, start, end);
}

/* ---- in a child ---- */

int vmsm_fork_prepare(struct vmsm *m, struct store **copy)
{
    struct tunables t = m->machine->tunables;
    int error;

    if (m->trap == NULL && !m->sigbus)
        return error_set(-ENOTSUP, "fork: without a trap nobody serves the child");
    t.pagefile[0] = '\0'; /* a named one serves one process */
    error = open_store(&t, copy);
    if (error != 0)
        return error;
    error = machine_fork_prepare(m->machine, *copy);
    if (error != 0)
        (*copy)->ops->close(*copy);
    return error;
}

void vmsm_fork_parent(struct vmsm *m, struct store *copy)
{
    machine_fork_parent(m->machine);
    copy->ops->close(copy);
}

int vmsm_fork_child(struct vmsm *m, struct store *copy)
{
    int error = machine_fork_child(m->machine, copy);

    m->trap = NULL;
    name_store(m, copy);
    if (error != 0)
        return error;
    if (!m->sigbus)
        return trap_thread_open(m->machine, &m->trap);
    trap_sigbus_forked();
    return 0;
}
