#include "core/sync.h"

#include <stdlib.h>

#include "core/error.h"

static const char *const class_names[SYNC_CLASS_COUNT] = {
#define SYNC_CLASS_NAME(name, text) text,
    SYNC_CLASSES(SYNC_CLASS_NAME)
#undef SYNC_CLASS_NAME
};

const char *sync_class_name(enum sync_class class)
{
    return class_names[class];
}

static void count_contended(struct sync *s, enum sync_class class, uint64_t since)
{
    struct sync_lock_stats *stats = &s->stats[s->backend->shard(s)];

    atomic_fetch_add_explicit(&stats->contended[class], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&stats->waited_ns[class], sync_now(s) - since, memory_order_relaxed);
}

void sync_mutex_lock_slow(struct sync *s, struct sync_mutex *lock, enum sync_class class)
{
    uint64_t since = sync_now(s);

    for (unsigned round = 0; s->spin || round < s->backend->spin_rounds; round++) {
        uint32_t free_word = 0;

        if (atomic_load_explicit(&lock->word, memory_order_relaxed) == 0 &&
            atomic_compare_exchange_weak_explicit(&lock->word, &free_word, 1, memory_order_acquire,
                                                  memory_order_relaxed))
            goto out;
        sync_relax(s, round);
    }
    while (atomic_exchange_explicit(&lock->word, 2, memory_order_acquire) != 0)
        sync_park(s, &lock->word, 2, 0);
out:
    count_contended(s, class, since);
}

void sync_mutex_unlock_slow(struct sync *s, struct sync_mutex *lock)
{
    sync_unpark(s, &lock->word, 1);
}

/* Sleep until the word is no longer `seen`, leaving a note that somebody sleeps. */
static void rwlock_sleep(struct sync *s, struct sync_rwlock *lock, uint32_t seen)
{
    if (!(seen & SYNC_RW_SLEEPER) &&
        !atomic_compare_exchange_strong_explicit(&lock->word, &seen, seen | SYNC_RW_SLEEPER,
                                                 memory_order_relaxed, memory_order_relaxed))
        return;
    sync_park(s, &lock->word, seen | SYNC_RW_SLEEPER, 0);
}

void sync_rwlock_read_slow(struct sync *s, struct sync_rwlock *lock, enum sync_class class)
{
    uint64_t since = sync_now(s);
    bool waited = false;

    for (unsigned round = 0;; round++) {
        uint32_t word = atomic_load_explicit(&lock->word, memory_order_relaxed);

        if (!(word & SYNC_RW_WRITER)) {
            if (atomic_compare_exchange_weak_explicit(&lock->word, &word, word + 1,
                                                      memory_order_acquire, memory_order_relaxed))
                break;
            continue;
        }
        waited = true;
        if (s->spin || round < s->backend->spin_rounds)
            sync_relax(s, round);
        else
            rwlock_sleep(s, lock, word);
    }
    if (waited)
        count_contended(s, class, since);
}

void sync_rwlock_write_slow(struct sync *s, struct sync_rwlock *lock, enum sync_class class)
{
    uint64_t since = sync_now(s);

    for (unsigned round = 0;; round++) {
        uint32_t word = atomic_load_explicit(&lock->word, memory_order_relaxed);

        if (!(word & (SYNC_RW_WRITER | SYNC_RW_READERS))) {
            if (atomic_compare_exchange_weak_explicit(&lock->word, &word, word | SYNC_RW_WRITER,
                                                      memory_order_acquire, memory_order_relaxed))
                break;
            continue;
        }
        if (s->spin || round < s->backend->spin_rounds)
            sync_relax(s, round);
        else
            rwlock_sleep(s, lock, word);
    }
    count_contended(s, class, since);
}

void sync_rwlock_wake(struct sync *s, struct sync_rwlock *lock)
{
    atomic_fetch_and_explicit(&lock->word, ~SYNC_RW_SLEEPER, memory_order_relaxed);
    sync_unpark(s, &lock->word, INT32_MAX);
}

uint32_t sync_event_prepare(struct sync *s, struct sync_event *event)
{
    sync_yield(s, SYNC_AT_ATOMIC);
    atomic_fetch_add(&event->waiters, 1);
    return atomic_load(&event->sequence);
}

void sync_event_cancel(struct sync_event *event)
{
    atomic_fetch_sub(&event->waiters, 1);
}

void sync_event_wait(struct sync *s, struct sync_event *event, uint32_t key, uint64_t timeout_ns)
{
    if (atomic_load(&event->sequence) == key)
        sync_park(s, &event->sequence, key, timeout_ns);
    atomic_fetch_sub(&event->waiters, 1);
}

void sync_event_signal(struct sync *s, struct sync_event *event)
{
    atomic_thread_fence(memory_order_seq_cst);
    sync_yield(s, SYNC_AT_ATOMIC);
    if (atomic_load(&event->waiters) == 0)
        return;
    atomic_fetch_add(&event->sequence, 1);
    sync_unpark(s, &event->sequence, INT32_MAX);
}

/* Ranks: what this thread holds, for debug builds. */

static _Thread_local struct sync_ranks ranks __attribute__((tls_model("initial-exec")));

void sync_ranks_exchange(struct sync_ranks *other)
{
    uint16_t most = ranks.depth > other->depth ? ranks.depth : other->depth, depth = ranks.depth;

    for (unsigned i = 0; i < most; i++) {
        uint8_t class = ranks.held[i];

        ranks.held[i] = other->held[i];
        other->held[i] = class;
    }
    ranks.depth = other->depth;
    other->depth = depth;
}

void sync_rank_push(enum sync_class class, bool try)
{
    for (unsigned i = 0; i < ranks.depth && !try; i++) {
        if (ranks.held[i] >= class) {
            log_line(LOG_ERROR, "lock rank reversal: %s taken while %s is held", class_names[class],
                     class_names[ranks.held[i]]);
            abort();
        }
    }
    if (ranks.depth == SYNC_RANK_DEPTH)
        abort();
    ranks.held[ranks.depth++] = (uint8_t) class;
}

void sync_rank_pop(enum sync_class class)
{
    for (unsigned i = ranks.depth; i-- > 0;) {
        if (ranks.held[i] != class)
            continue;
        for (unsigned j = i; j + 1 < ranks.depth; j++)
            ranks.held[j] = ranks.held[j + 1];
        ranks.depth--;
        return;
    }
    log_line(LOG_ERROR, "lock %s released but not held", class_names[class]);
    abort();
}

void sync_rank_assert_held(enum sync_class class)
{
    for (unsigned i = 0; i < ranks.depth; i++) {
        if (ranks.held[i] == class)
            return;
    }
    log_line(LOG_ERROR, "lock %s should be held", class_names[class]);
    abort();
}
