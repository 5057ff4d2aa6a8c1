/*
 * The PTE word: what is packed in it, who owns BUSY, and how waiters are woken.
 */
#include "machine_fixture.h"

#define THREADS 6u
#define ROUNDS 300u

static void words(void)
{
    static const uint32_t numbers[] = {0, 1, 4096, UINT32_MAX};

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        uint64_t word = pte_make(PTE_VALID, numbers[i]) | PTE_BUSY | PTE_WANTED | PTE_ACCESSED;

        is(pte_number(word), numbers[i], "number %u is kept beside the flags", numbers[i]);
    }
    for (unsigned age = 0; age <= PTE_AGE_MAX; age++) {
        uint64_t word = pte_with_age(pte_make(PTE_VALID, UINT32_MAX) | PTE_AGE | PTE_PINNED, age);

        if (pte_age(word) != age ||
            pte_with_age(word, 0) != (pte_make(PTE_VALID, UINT32_MAX) | PTE_PINNED))
            ok(false, "age %u is kept, and nothing else changes", age);
    }
    is(PTE_FORMAT & (PTE_BUSY | PTE_WANTED | PTE_ACCESSED | PTE_AGE | PTE_READAHEAD | PTE_PINNED |
                     PTE_PROTECTED | PTE_BAD),
       0, "flags and formats do not overlap");
}

struct contest {
    struct fixture f;
    pte_t pte;
    uint64_t owned; /* guarded by BUSY */
    _Atomic unsigned asleep;
};

static void *own(void *argument)
{
    struct contest *c = argument;

    for (unsigned i = 0; i < ROUNDS;) {
        uint64_t word = pte_wait(c->f.m, &c->pte);

        if (!pte_try_busy(&c->f.m->sync, &c->pte, word))
            continue;
        c->owned++;
        pte_release(c->f.m, &c->pte, 0, word);
        i++;
    }
    return NULL;
}

static void *wait_busy(void *argument)
{
    struct contest *c = argument;
    uint64_t word;

    c->asleep++;
    word = pte_wait(c->f.m, &c->pte);
    return (void *)(uintptr_t)pte_number(word);
}

static void busy(struct contest *c)
{
    pthread_t ids[THREADS];
    uint64_t word = pte_make(PTE_VALID, 5);
    unsigned right = 0;

    c->pte = word;
    for (unsigned i = 0; i < THREADS; i++)
        pthread_create(&ids[i], NULL, own, c);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(ids[i], NULL);
    is(c->owned, THREADS * ROUNDS, "BUSY has one owner at a time");
    is(c->pte, word, "and nothing is left of it");
    is(pte_wait(c->f.m, &c->pte), word, "a page that is not busy is not waited for");

    ok(pte_try_busy(&c->f.m->sync, &c->pte, word), "owned");
    for (unsigned i = 0; i < THREADS; i++)
        pthread_create(&ids[i], NULL, wait_busy, c);
    while (c->asleep < THREADS || !(pte_load(&c->pte) & PTE_WANTED_PARK))
        sched_yield();
    pte_release(c->f.m, &c->pte, 0, pte_make(PTE_TRANSITION, 9));
    for (unsigned i = 0; i < THREADS; i++) {
        void *number;

        pthread_join(ids[i], &number);
        right += (uintptr_t)number == 9;
    }
    is(right, THREADS, "the release wakes all who wait, and they see the new word");
}

static _Atomic uintptr_t woken;

static void note_wake(struct mapper *mapper, uintptr_t va, size_t length)
{
    (void)mapper;
    woken = va + length;
}

/* A thread asleep in its fault is woken through the mapper, and only if it is there. */
static void wanted(struct contest *c)
{
    struct machine *m = c->f.m;
    const struct mapper_ops *real = m->mapper->ops;
    struct mapper_ops ops = *real;
    uint64_t word = pte_make(PTE_TRANSITION, 5);

    ops.wake = note_wake;
    m->mapper->ops = &ops;
    c->pte = word;
    ok(!pte_want(m, &c->pte, PTE_WANTED_TRAP), "a page that is not busy takes no mark");
    ok(pte_try_busy(&m->sync, &c->pte, word), "owned");
    ok(!pte_try_busy(&m->sync, &c->pte, word), "once only");
    pte_release(m, &c->pte, PAGE, word);
    is(woken, 0, "nobody wanted it: no wake");
    ok(pte_try_busy(&m->sync, &c->pte, word), "owned again");
    ok(pte_want(m, &c->pte, PTE_WANTED_TRAP), "a busy page takes the mark");
    ok(pte_want(m, &c->pte, PTE_WANTED_TRAP), "and once more");
    is(pte_load(&c->pte), word | PTE_BUSY | PTE_WANTED_TRAP, "it is there");
    pte_release(m, &c->pte, PAGE, word);
    is(woken, 2 * PAGE, "the release wakes that page");
    is(pte_load(&c->pte), word, "and takes the mark off");
    m->mapper->ops = real;
}

static void release_unowned(void *argument)
{
    struct contest *c = argument;

    c->pte = 0;
    pte_release(c->f.m, &c->pte, 0, 0);
}

static void two_formats(void *argument)
{
    struct contest *c = argument;
    uint64_t word = 0;

    c->pte = word;
    pte_cas(&c->f.m->sync, &c->pte, &word, PTE_VALID | PTE_TRANSITION);
}

int main(void)
{
    static struct contest c;
    char text[512] = "";

    words();
    set_up(&c.f, "pagefile_size:1M"); /* small tables: Valgrind searches a dying child for leaks */
    is(signal_of(release_unowned, &c, text, sizeof(text)), SIGABRT,
       "releasing what is not owned aborts");
    if (VMSM_DEBUG >= 1)
        is(signal_of(two_formats, &c, text, sizeof(text)), SIGABRT,
           "so does a word of two formats");
    else
        skip("words are not checked in this build (DEBUG=1)");
    busy(&c);
    wanted(&c);
    tear_down(&c.f);
    return done_testing();
}
