/*
 * The pages that a benchmark accesses: what they contain, the check of it, and the
 * threads that fill the region or access random runs of it.
 *
 * Every word of a page derives from the page's number. In each sector (512 bytes) one
 * word, the stamp, its position varying by page and sector, derives from the page's
 * generation too, which every write raises; the caller keeps the generations outside
 * of the memory that is measured. No word is ever 0.
 */
#ifndef BENCH_PAGES_H
#define BENCH_PAGES_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096
#define PAGE_WORDS (PAGE_BYTES / 8)
#define SECTORS 8
#define SECTOR_WORDS (PAGE_WORDS / SECTORS)
#define PAGE_LOCKED UINT32_C(0x80000000)
#define GOLDEN UINT64_C(0x9e3779b97f4a7c15)

enum { STATUS_OK = 0, STATUS_WRONG = 1, STATUS_FAILED = 2 };

/* A region under test. */
struct pages {
    uint8_t *base;
    uint64_t count;
    _Atomic uint32_t *generations; /* and PAGE_LOCKED while a thread is at the page */
    unsigned threads, writes;      /* writes: percent */
    atomic_bool stop;
    pthread_barrier_t start;
};

struct worker {
    struct pages *pages;
    pthread_t thread;
    unsigned index, run_max;
    uint64_t random, accesses;
};

static inline double time_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* A signal ends it early. */
static inline void time_sleep(double seconds)
{
    struct timespec left = {.tv_sec = (time_t)seconds};

    left.tv_nsec = (long)((seconds - (double)left.tv_sec) * 1e9);
    nanosleep(&left, NULL);
}

static inline uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static inline uint64_t random_next(uint64_t *state)
{
    *state += GOLDEN;
    return mix(*state);
}

/* Uniform in [0, bound). */
static inline uint64_t random_below(uint64_t *state, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)random_next(state) * bound) >> 64);
}

/* Never 0: a page that comes back as zeroes must not pass. */
static inline uint64_t word_at(uint64_t base, unsigned index)
{
    return (base + index * GOLDEN) | 1;
}

static inline unsigned stamp_position(uint64_t page_base, unsigned sector)
{
    return sector * SECTOR_WORDS + (unsigned)((page_base >> (sector * 6)) & (SECTOR_WORDS - 1));
}

static inline void page_stamp(uint64_t *words, uint64_t page, uint32_t generation)
{
    uint64_t base = mix(page), stamp = mix(base ^ generation);

    for (unsigned s = 0; s < SECTORS; s++)
        words[stamp_position(base, s)] = word_at(stamp, s);
}

static inline void page_fill(uint64_t *words, uint64_t page)
{
    uint64_t base = mix(page);

    for (unsigned i = 0; i < PAGE_WORDS; i++)
        words[i] = word_at(base, i);
    page_stamp(words, page, 1);
}

static inline void word_check(const uint64_t *words, uint64_t page, unsigned index,
                              uint64_t expected, uint32_t generation)
{
    if (words[index] == expected)
        return;
    fprintf(stderr,
            "swap: WRONG DATA in page %llu, word %u, generation %u: found %016llx, expected "
            "%016llx\n",
            (unsigned long long)page, index, generation, (unsigned long long)words[index],
            (unsigned long long)expected);
    _exit(STATUS_WRONG);
}

/* In each sector the stamp, and the word after it, which only the fill wrote. */
static inline void page_verify(const uint64_t *words, uint64_t page, uint32_t generation)
{
    uint64_t base = mix(page), stamp = mix(base ^ generation);

    for (unsigned s = 0; s < SECTORS; s++) {
        unsigned at = stamp_position(base, s);
        unsigned next = s * SECTOR_WORDS + (at + 1) % SECTOR_WORDS;

        word_check(words, page, at, word_at(stamp, s), generation);
        word_check(words, page, next, word_at(base, next), generation);
    }
}

/* Two threads seldom meet on a page, but then they must not mistake each other for a bug. */
static inline uint32_t page_lock(struct pages *p, uint64_t page)
{
    uint32_t generation = atomic_load_explicit(&p->generations[page], memory_order_relaxed);

    for (;;) {
        generation &= ~PAGE_LOCKED;
        if (atomic_compare_exchange_weak_explicit(&p->generations[page], &generation,
                                                  generation | PAGE_LOCKED, memory_order_acquire,
                                                  memory_order_relaxed))
            return generation;
        if (generation & PAGE_LOCKED)
            sched_yield();
    }
}

static inline void page_access(struct pages *p, uint64_t page, bool write)
{
    uint64_t *words = (uint64_t *)(void *)(p->base + page * PAGE_BYTES);
    uint32_t generation = page_lock(p, page);

    if (write) {
        generation = (generation + 1) & ~PAGE_LOCKED;
        page_stamp(words, page, generation);
    } else {
        page_verify(words, page, generation);
    }
    atomic_store_explicit(&p->generations[page], generation, memory_order_release);
}

static inline void worker_fill(struct worker *w)
{
    struct pages *p = w->pages;
    uint64_t page = p->count * w->index / p->threads;
    uint64_t end = p->count * (w->index + 1) / p->threads;

    for (; page < end; page++, w->accesses++) {
        page_fill((uint64_t *)(void *)(p->base + page * PAGE_BYTES), page);
        atomic_store_explicit(&p->generations[page], 1, memory_order_relaxed);
    }
}

static inline void worker_run(struct worker *w)
{
    struct pages *p = w->pages;

    while (!atomic_load_explicit(&p->stop, memory_order_relaxed)) {
        uint64_t length = 1 + random_below(&w->random, w->run_max);
        uint64_t page = random_below(&w->random, p->count - length + 1);

        for (uint64_t i = 0; i < length; i++)
            page_access(p, page + i, random_below(&w->random, 100) < p->writes);
        w->accesses += length;
    }
}

static inline void *worker_main(void *arg)
{
    struct worker *w = arg;

    pthread_barrier_wait(&w->pages->start);
    if (w->run_max == 0)
        worker_fill(w);
    else
        worker_run(w);
    return NULL;
}

/* Let all threads fill the region together (run_max 0), or for so many seconds access runs at
 * random; returns the seconds it took. */
static inline double pages_access(struct pages *p, unsigned run_max, double seconds, uint64_t seed,
                                  uint64_t *accesses)
{
    unsigned threads = p->threads;
    struct worker *workers = calloc(threads, sizeof(*workers));
    double begin;

    if (workers == NULL || pthread_barrier_init(&p->start, NULL, threads + 1) != 0)
        goto failed;
    atomic_store(&p->stop, false);
    for (unsigned i = 0; i < threads; i++) {
        workers[i] = (struct worker){
            .pages = p, .index = i, .run_max = run_max, .random = mix(seed) ^ mix(i + 1)};
        if (pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) != 0)
            goto failed;
    }
    begin = time_now();
    pthread_barrier_wait(&p->start);
    if (run_max > 0) {
        time_sleep(seconds);
        atomic_store(&p->stop, true);
    }
    *accesses = 0;
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        *accesses += workers[i].accesses;
    }
    pthread_barrier_destroy(&p->start);
    free(workers);
    return time_now() - begin;
failed:
    fprintf(stderr, "swap: cannot start %u threads; use fewer (--threads)\n", threads);
    _exit(STATUS_FAILED);
}

#endif
