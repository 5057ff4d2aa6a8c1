/*
 * All synchronization of the core: locks with ranks, parking on a word, yield
 * points, threads and the clock.
 *
 * Locks are 4 bytes, so that a frame can hold its own. They carry no owner and
 * no class; the class is named at each call, and gives the rank, the counters
 * and the name in messages. What sleeps, wakes, starts a thread or tells the
 * time goes through struct sync_backend: src/platform/linux.c uses futexes and
 * the real clock; a simulator replaces exactly this table.
 *
 * Ranks. A thread takes locks in ascending rank (the order of enum
 * sync_class); trylock may be used in any order. Builds with VMSM_DEBUG >= 2
 * abort on a reversal and name both locks. docs/locking.md says what each
 * class guards.
 *
 * The mutex word:  0 free, 1 held, 2 held and somebody may sleep on it.
 * The rwlock word: bit 31 writer holds, bit 30 somebody sleeps, the rest
 * counts readers. A waiting writer does not stop new readers: readers here
 * are short, and a reader may be inside already.
 */
#ifndef VMSM_CORE_SYNC_H
#define VMSM_CORE_SYNC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Lock classes in rank order: X(name, what it guards) */
#define SYNC_CLASSES(X)                                                                            \
    X(GATE, "gate")         /* the machine is running (shared) or stopped (exclusive) */           \
    X(RECLAIM, "reclaim")   /* one reclaimer at a time (stage single) */                           \
    X(REGIONS, "regions")   /* the set of regions */                                               \
    X(SECTION, "section")   /* coarse: the 512 PTEs of a section */                                \
    X(COMMIT, "commit")     /* the pagefile's size, commit charged */                              \
    X(LIST, "list")         /* a frame list's shape */                                             \
    X(FRAME, "frame")       /* a frame's state, links, slot */                                     \
    X(PAGEFILE, "pagefile") /* coarse: the slot bitmap */                                          \
    X(STREAMS, "streams")   /* a set of read-ahead streams */                                      \
    X(HANDOVER, "handover") /* rings of deferred work */                                           \
    X(QUEUES, "queues")     /* pools of fault contexts and store queues */

enum sync_class {
#define SYNC_CLASS_ENUM(name, text) SYNC_##name,
    SYNC_CLASSES(SYNC_CLASS_ENUM)
#undef SYNC_CLASS_ENUM
        SYNC_CLASS_COUNT
};

/* Places where a scheduler may put another thread in front. */
enum sync_point {
    SYNC_AT_LOCK,   /* before a lock is taken */
    SYNC_AT_UNLOCK, /* after a lock is released */
    SYNC_AT_PTE,    /* before a PTE is changed */
    SYNC_AT_PARK,   /* before a thread sleeps */
    SYNC_AT_ATOMIC, /* before another word that threads share is changed: rights, bitmaps, events */
    SYNC_AT_STEP,   /* between two steps of a multi-step transition */
};

#define SYNC_ROUND_YIELDS 16u

struct sync;
struct sync_thread;

struct sync_backend {
    /* Sleep while *word == expected, at most timeout_ns (0: for ever). May wake spuriously. */
    void (*park)(struct sync *s, _Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
    /* Wake up to count threads that sleep on word. */
    void (*unpark)(struct sync *s, _Atomic uint32_t *word, int count);
    /* Give another thread the processor: a spinning lock is held by someone else. Most rounds may
     * be a pause only, but not every SYNC_ROUND_YIELDSth. */
    void (*relax)(struct sync *s, unsigned round);
    /* May be NULL. Called at every yield point. */
    void (*yield)(struct sync *s, enum sync_point point);
    uint64_t (*now)(struct sync *s); /* ns, monotonic */
    int (*thread_start)(struct sync *s, const char *name, void (*run)(void *), void *argument,
                        struct sync_thread **out);
    void (*thread_join)(struct sync *s, struct sync_thread *thread);
    unsigned (*shard)(struct sync *s); /* a small number that differs between running threads */
    unsigned spin_rounds;              /* how often a taker relaxes before it sleeps on a lock */
};

#define SYNC_SHARDS 16

struct sync_lock_stats {
    _Atomic uint64_t acquired[SYNC_CLASS_COUNT];
    _Atomic uint64_t contended[SYNC_CLASS_COUNT];
    _Atomic uint64_t waited_ns[SYNC_CLASS_COUNT];
};

/* What the locks of one manager share. */
struct sync {
    const struct sync_backend *backend;
    bool spin;               /* locks spin instead of sleeping (tunable spinning_locks) */
    uint64_t yield_delay_ns; /* for a backend whose yield points sleep: at most so long */
    struct sync_lock_stats stats[SYNC_SHARDS];
};

struct sync_mutex {
    _Atomic uint32_t word;
};

struct sync_rwlock {
    _Atomic uint32_t word;
};

const char *sync_class_name(enum sync_class class);

/* Slow paths, in sync.c. */
void sync_mutex_lock_slow(struct sync *s, struct sync_mutex *lock, enum sync_class class);
void sync_mutex_unlock_slow(struct sync *s, struct sync_mutex *lock);
void sync_rwlock_read_slow(struct sync *s, struct sync_rwlock *lock, enum sync_class class);
void sync_rwlock_write_slow(struct sync *s, struct sync_rwlock *lock, enum sync_class class);
void sync_rwlock_wake(struct sync *s, struct sync_rwlock *lock);
void sync_rank_push(enum sync_class class, bool try);
void sync_rank_pop(enum sync_class class);
void sync_rank_assert_held(enum sync_class class);

#define SYNC_RANK_DEPTH 600

/* What a thread holds, in debug builds. */
struct sync_ranks {
    uint16_t depth;
    uint8_t held[SYNC_RANK_DEPTH];
};

/* Exchange what the calling thread holds for *other: a back end that runs several threads of its
 * own on one of the system's. */
void sync_ranks_exchange(struct sync_ranks *other);

#ifndef VMSM_DEBUG
#define VMSM_DEBUG 0
#endif

#if VMSM_DEBUG >= 2
#define SYNC_RANK_PUSH(class, try) sync_rank_push(class, try)
#define SYNC_RANK_POP(class) sync_rank_pop(class)
#define SYNC_ASSERT_HELD(class) sync_rank_assert_held(class)
#else
#define SYNC_RANK_PUSH(class, try) ((void)0)
#define SYNC_RANK_POP(class) ((void)0)
#define SYNC_ASSERT_HELD(class) ((void)0)
#endif

static inline void sync_yield(struct sync *s, enum sync_point point)
{
    if (__builtin_expect(s->backend->yield != NULL, 0))
        s->backend->yield(s, point);
}

/* The back end's functions are called through these only. */

static inline void sync_park(struct sync *s, _Atomic uint32_t *word, uint32_t expected,
                             uint64_t timeout_ns)
{
    sync_yield(s, SYNC_AT_PARK);
    s->backend->park(s, word, expected, timeout_ns);
}

static inline void sync_unpark(struct sync *s, _Atomic uint32_t *word, int count)
{
    s->backend->unpark(s, word, count);
}

static inline void sync_relax(struct sync *s, unsigned round)
{
    s->backend->relax(s, round);
}

/* The same for certain: what is waited for takes longer than a lock is held. */
static inline void sync_give_way(struct sync *s)
{
    sync_relax(s, SYNC_ROUND_YIELDS - 1);
}

static inline uint64_t sync_now(struct sync *s)
{
    return s->backend->now(s);
}

static inline void sync_count_acquired(struct sync *s, enum sync_class class)
{
    atomic_fetch_add_explicit(&s->stats[s->backend->shard(s)].acquired[class], 1,
                              memory_order_relaxed);
}

static inline void sync_mutex_lock(struct sync *s, struct sync_mutex *lock, enum sync_class class)
{
    uint32_t free_word = 0;

    SYNC_RANK_PUSH(class, false);
    sync_yield(s, SYNC_AT_LOCK);
    sync_count_acquired(s, class);
    if (!atomic_compare_exchange_strong_explicit(&lock->word, &free_word, 1, memory_order_acquire,
                                                 memory_order_relaxed))
        sync_mutex_lock_slow(s, lock, class);
}

static inline bool sync_mutex_trylock(struct sync *s, struct sync_mutex *lock,
                                      enum sync_class class)
{
    uint32_t free_word = 0;

    sync_yield(s, SYNC_AT_LOCK);
    if (!atomic_compare_exchange_strong_explicit(&lock->word, &free_word, 1, memory_order_acquire,
                                                 memory_order_relaxed))
        return false;
    SYNC_RANK_PUSH(class, true);
    sync_count_acquired(s, class);
    return true;
}

static inline void sync_mutex_unlock(struct sync *s, struct sync_mutex *lock, enum sync_class class)
{
    (void)class;
    SYNC_RANK_POP(class);
    if (atomic_exchange_explicit(&lock->word, 0, memory_order_release) == 2)
        sync_mutex_unlock_slow(s, lock);
    sync_yield(s, SYNC_AT_UNLOCK);
}

#define SYNC_RW_WRITER 0x80000000u
#define SYNC_RW_SLEEPER 0x40000000u
#define SYNC_RW_READERS 0x3fffffffu

static inline void sync_rwlock_read(struct sync *s, struct sync_rwlock *lock, enum sync_class class)
{
    uint32_t word = atomic_load_explicit(&lock->word, memory_order_relaxed);

    SYNC_RANK_PUSH(class, false);
    sync_yield(s, SYNC_AT_LOCK);
    sync_count_acquired(s, class);
    if ((word & SYNC_RW_WRITER) ||
        !atomic_compare_exchange_strong_explicit(&lock->word, &word, word + 1, memory_order_acquire,
                                                 memory_order_relaxed))
        sync_rwlock_read_slow(s, lock, class);
}

static inline void sync_rwlock_write(struct sync *s, struct sync_rwlock *lock,
                                     enum sync_class class)
{
    uint32_t free_word = 0;

    SYNC_RANK_PUSH(class, false);
    sync_yield(s, SYNC_AT_LOCK);
    sync_count_acquired(s, class);
    if (!atomic_compare_exchange_strong_explicit(&lock->word, &free_word, SYNC_RW_WRITER,
                                                 memory_order_acquire, memory_order_relaxed))
        sync_rwlock_write_slow(s, lock, class);
}

static inline void sync_rwlock_unread(struct sync *s, struct sync_rwlock *lock,
                                      enum sync_class class)
{
    (void)class;
    SYNC_RANK_POP(class);
    uint32_t old = atomic_fetch_sub_explicit(&lock->word, 1, memory_order_release);
    if ((old & SYNC_RW_SLEEPER) && (old & SYNC_RW_READERS) == 1)
        sync_rwlock_wake(s, lock);
    sync_yield(s, SYNC_AT_UNLOCK);
}

static inline void sync_rwlock_unwrite(struct sync *s, struct sync_rwlock *lock,
                                       enum sync_class class)
{
    (void)class;
    SYNC_RANK_POP(class);
    uint32_t old = atomic_fetch_and_explicit(&lock->word, ~SYNC_RW_WRITER, memory_order_release);
    if (old & SYNC_RW_SLEEPER)
        sync_rwlock_wake(s, lock);
    sync_yield(s, SYNC_AT_UNLOCK);
}

/*
 * An event: threads sleep until something that they test for has happened.
 * Usage: key = sync_event_prepare(s, event); test the condition again; if it does
 * not hold, sync_event_wait(key); else sync_event_cancel(). A signal after prepare() ends the
 * wait. Signalling costs no system call while nobody waits.
 */
struct sync_event {
    _Atomic uint32_t sequence;
    _Atomic uint32_t waiters;
};

uint32_t sync_event_prepare(struct sync *s, struct sync_event *event);
void sync_event_cancel(struct sync_event *event);
/* timeout_ns 0: for ever. */
void sync_event_wait(struct sync *s, struct sync_event *event, uint32_t key, uint64_t timeout_ns);
void sync_event_signal(struct sync *s, struct sync_event *event);

#endif
