/*
 * Locks exclude, sleep and wake; events lose no wake-up; ranks are enforced where they are built
 * in.
 */
#include "machine_fixture.h"

#define THREADS 6u
#define ROUNDS 3000u

struct contest {
    struct sync sync;
    struct sync_mutex mutex;
    struct sync_rwlock rwlock;
    struct sync_event event;
    uint64_t first, second; /* guarded by the lock under test */
    _Atomic unsigned torn;
    _Atomic unsigned turn;
};

static void contest_init(struct contest *c, bool spin)
{
    memset(c, 0, sizeof(*c));
    c->sync.backend = &sync_backend_linux;
    c->sync.spin = spin;
}

static void run(void *(*body)(void *), struct contest *c, unsigned threads)
{
    pthread_t ids[THREADS];

    for (unsigned i = 0; i < threads; i++)
        pthread_create(&ids[i], NULL, body, c);
    for (unsigned i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
}

static void *count_locked(void *argument)
{
    struct contest *c = argument;

    for (unsigned i = 0; i < ROUNDS; i++) {
        sync_mutex_lock(&c->sync, &c->mutex, SYNC_LIST);
        c->first++;
        sync_mutex_unlock(&c->sync, &c->mutex, SYNC_LIST);
    }
    return NULL;
}

/* Every fourth turn writes; readers must never see half of a write. */
static void *count_shared(void *argument)
{
    struct contest *c = argument;

    for (unsigned i = 0; i < ROUNDS; i++) {
        if (i % 4 == 0) {
            sync_rwlock_write(&c->sync, &c->rwlock, SYNC_LIST);
            c->first++;
            c->second++;
            sync_rwlock_unwrite(&c->sync, &c->rwlock, SYNC_LIST);
        } else {
            sync_rwlock_read(&c->sync, &c->rwlock, SYNC_LIST);
            c->torn += c->first != c->second;
            sync_rwlock_unread(&c->sync, &c->rwlock, SYNC_LIST);
        }
    }
    return NULL;
}

static uint64_t lock_count(const _Atomic uint64_t *of_shard_0)
{
    uint64_t sum = 0;

    for (unsigned s = 0; s < SYNC_SHARDS; s++)
        sum += of_shard_0[s * sizeof(struct sync_lock_stats) / sizeof(uint64_t)];
    return sum;
}

static void contention(bool spin)
{
    const char *how = spin ? "spinning" : "sleeping";
    struct contest c;

    contest_init(&c, spin);
    run(count_locked, &c, THREADS);
    is(c.first, THREADS * ROUNDS, "%s: a mutex lets one in at a time", how);
    is(lock_count(&c.sync.stats[0].acquired[SYNC_LIST]), THREADS * ROUNDS,
       "%s: every lock is counted for its class", how);
    is(c.mutex.word, 0, "%s: the mutex ends free", how);
    contest_init(&c, spin);
    run(count_shared, &c, THREADS);
    is(c.torn, 0, "%s: readers see whole writes", how);
    is(c.first, THREADS * (ROUNDS / 4), "%s: writers exclude each other", how);
    is(c.rwlock.word & (SYNC_RW_WRITER | SYNC_RW_READERS), 0, "%s: the rwlock ends free", how);
}

static void *lock_once(void *argument)
{
    struct contest *c = argument;

    sync_mutex_lock(&c->sync, &c->mutex, SYNC_FRAME);
    c->first++;
    sync_mutex_unlock(&c->sync, &c->mutex, SYNC_FRAME);
    sync_rwlock_write(&c->sync, &c->rwlock, SYNC_LIST);
    c->second++;
    sync_rwlock_unwrite(&c->sync, &c->rwlock, SYNC_LIST);
    return NULL;
}

/* A thread that finds the lock held goes to sleep, is woken, and is counted. */
static void sleepers(void)
{
    struct contest c;
    pthread_t id;

    contest_init(&c, false);
    sync_mutex_lock(&c.sync, &c.mutex, SYNC_FRAME);
    ok(!sync_mutex_trylock(&c.sync, &c.mutex, SYNC_FRAME), "a held mutex cannot be tried");
    pthread_create(&id, NULL, lock_once, &c);
    while (c.mutex.word != 2)
        sched_yield();
    is(c.first, 0, "the other thread is out while we hold the mutex");
    sync_rwlock_read(&c.sync, &c.rwlock, SYNC_STREAMS);
    sync_mutex_unlock(&c.sync, &c.mutex, SYNC_FRAME);
    while (!(c.rwlock.word & SYNC_RW_SLEEPER))
        sched_yield();
    is(c.second, 0, "a writer waits for a reader");
    sync_rwlock_read(&c.sync, &c.rwlock, SYNC_QUEUES);
    sync_rwlock_unread(&c.sync, &c.rwlock, SYNC_QUEUES);
    ok(true, "another reader may come in meanwhile");
    sync_rwlock_unread(&c.sync, &c.rwlock, SYNC_STREAMS);
    pthread_join(id, NULL);
    is(c.first + c.second, 2, "both locks were had in the end");
    is(lock_count(&c.sync.stats[0].contended[SYNC_FRAME]), 1, "contention is counted by class");
    is(lock_count(&c.sync.stats[0].contended[SYNC_LIST]), 1, "for rwlocks too");
}

/* Two threads take turns; each sleeps until it is its turn. A lost wake-up hangs. */
static void *take_turns(void *argument)
{
    struct contest *c = argument;
    unsigned mine;

    sync_mutex_lock(&c->sync, &c->mutex, SYNC_LIST);
    mine = (unsigned)c->first++;
    sync_mutex_unlock(&c->sync, &c->mutex, SYNC_LIST);
    for (unsigned i = 0; i < ROUNDS; i++) {
        while (c->turn % 2 != mine) {
            uint32_t key = sync_event_prepare(&c->sync, &c->event);

            if (c->turn % 2 == mine)
                sync_event_cancel(&c->event);
            else
                sync_event_wait(&c->sync, &c->event, key, 0);
        }
        c->turn++;
        sync_event_signal(&c->sync, &c->event);
    }
    return NULL;
}

static void events(void)
{
    struct contest c;
    uint32_t key, sequence;

    contest_init(&c, false);
    run(take_turns, &c, 2);
    is(c.turn, 2 * ROUNDS, "events lose no wake-up");
    is(c.event.waiters, 0, "nobody is left waiting");
    key = sync_event_prepare(&c.sync, &c.event);
    sync_event_signal(&c.sync, &c.event);
    sync_event_wait(&c.sync, &c.event, key, 0);
    ok(true, "a signal between prepare and wait ends the wait");
    key = sync_event_prepare(&c.sync, &c.event);
    sync_event_wait(&c.sync, &c.event, key, 1000000);
    is(c.event.waiters, 0, "a wait ends by its timeout");
    sequence = c.event.sequence;
    sync_event_signal(&c.sync, &c.event);
    is(c.event.sequence, sequence, "nobody waits: a signal does nothing");
}

static void reverse(void *argument)
{
    struct contest *c = argument;
    struct sync_mutex other = {0};

    sync_mutex_lock(&c->sync, &c->mutex, SYNC_FRAME);
    sync_mutex_lock(&c->sync, &other, SYNC_LIST);
}

static void same_rank(void *argument)
{
    struct contest *c = argument;
    struct sync_mutex other = {0};

    sync_mutex_lock(&c->sync, &c->mutex, SYNC_FRAME);
    sync_mutex_lock(&c->sync, &other, SYNC_FRAME);
}

/* Allowed: ascending, released in any order, and trylock in any. */
static void in_order(void *argument)
{
    struct contest *c = argument;
    struct sync_mutex other = {0}, third = {0};

    sync_mutex_lock(&c->sync, &c->mutex, SYNC_LIST);
    sync_mutex_lock(&c->sync, &other, SYNC_FRAME);
    if (!sync_mutex_trylock(&c->sync, &third, SYNC_GATE))
        abort();
    sync_mutex_unlock(&c->sync, &c->mutex, SYNC_LIST);
    sync_mutex_unlock(&c->sync, &other, SYNC_FRAME);
    sync_mutex_unlock(&c->sync, &third, SYNC_GATE);
    sync_mutex_lock(&c->sync, &third, SYNC_GATE);
}

static void ranks(void)
{
    struct contest c;
    char text[512] = "";

    contest_init(&c, false);
    for (unsigned i = 0; i < SYNC_CLASS_COUNT; i++)
        ok(sync_class_name(i) != NULL && sync_class_name(i)[0] != '\0', "class %u is called %s", i,
           sync_class_name(i));
    is(signal_of(in_order, &c, text, sizeof(text)), 0, "ascending ranks and trylocks are fine");
    if (VMSM_DEBUG < 2) {
        skip("ranks are not checked in this build (DEBUG=2)");
        return;
    }
    is(signal_of(reverse, &c, text, sizeof(text)), SIGABRT, "a rank reversal aborts");
    ok(strstr(text, "list taken while frame is held") != NULL, "and names both locks: %s", text);
    is(signal_of(same_rank, &c, text, sizeof(text)), SIGABRT, "so do two of one rank");
}

/* Yield points cost nothing, unless asked to delay; then they leave errno alone, and locks hold. */
static void delays(void)
{
    struct tunables t;
    struct contest c;
    bool kept = true;

    contest_init(&c, false);
    ok(c.sync.backend->yield == NULL, "yield points do nothing by themselves");
    c.sync.backend = &sync_backend_linux_delayed;
    c.sync.yield_delay_ns = 1000;
    for (unsigned i = 0; i < ROUNDS; i++) {
        errno = EXDEV;
        sync_yield(&c.sync, SYNC_AT_STEP);
        kept &= errno == EXDEV;
    }
    ok(kept, "delayed ones leave errno alone");
    run(count_locked, &c, THREADS);
    is(c.first, THREADS * ROUNDS, "a mutex excludes while threads are delayed in it");
    tunables_init(&t);
    ok(t.yield_delay == 0, "nothing is delayed by default");
}

int main(void)
{
    contention(false);
    contention(true);
    sleepers();
    events();
    ranks();
    delays();
    return done_testing();
}
