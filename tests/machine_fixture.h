/*
 * What unit tests of the core share: a machine on the soft mapper whose steps the test makes
 * itself (no workers, unless it asks for them), on a real file behind a switch, and ways to look
 * at its pages.
 */
#ifndef TESTS_MACHINE_FIXTURE_H
#define TESTS_MACHINE_FIXTURE_H

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "core/machine.h"
#include "memory_fixture.h"
#include "switch_store.h"

struct fixture {
    struct machine *m;
    struct switch_store *store;
};

static const char *const stages[] = {"single", "basic", "full"};
#define STAGES (sizeof(stages) / sizeof(stages[0]))

typedef int mapper_open(struct sync *sync, const struct mapper_options *options,
                        struct mapper **mapper);

/* 1 MiB of memory, no workers, changes noticed by hash, then what conf says. */
static inline void set_up_mapper(struct fixture *f, const char *conf, mapper_open *open)
{
    struct store_file_options file = {.path = ""};
    struct machine_options options = {.backend = &sync_backend_linux,
                                      .platform = &platform_linux,
                                      .mapper_open = open,
                                      .pool_queues = 16};
    struct tunables t;
    struct store *inner;

    tunables_init(&t);
    if (tunables_parse(&t, "mapper:soft,trap:none,memory:1M,workers:off,dirty:hash") != 0 ||
        tunables_parse(&t, conf) != 0)
        goto fail;
    file.size_slots = t.pagefile_size / PAGE;
    if (store_file_open(&file, &inner) != 0)
        goto fail;
    f->store = switch_store_open(inner);
    options.tunables = &t;
    options.mapper_has_cache = t.mapper == MAPPER_COPY;
    options.store = &f->store->base;
    if (machine_create(&options, &f->m) == 0)
        return;
fail:
    printf("Bail out! %s: %s\n", conf, error_last());
    exit(1);
}

static inline void set_up(struct fixture *f, const char *conf)
{
    set_up_mapper(f, conf, mapper_soft_open);
}

/* The books must balance at the end of every test. */
static inline void tear_down(struct fixture *f)
{
    if (machine_check(f->m) != 0)
        ok(false, "books balanced: %s", error_last());
    machine_destroy(f->m);
}

static inline uintptr_t map_pages(struct fixture *f, size_t pages)
{
    uintptr_t base = 0;

    if (region_map(f->m, pages * PAGE, false, &base) != 0)
        ok(false, "%zu pages can be mapped: %s", pages, error_last());
    return base;
}

/* The table of the region that holds va. */
static inline struct pagetable *table_at(struct fixture *f, uintptr_t va)
{
    struct pagetable *table;

    sync_rwlock_read(&f->m->sync, &f->m->regions_lock, SYNC_REGIONS);
    table = region_find(f->m, va)->table;
    sync_rwlock_unread(&f->m->sync, &f->m->regions_lock, SYNC_REGIONS);
    return table;
}

/* The PTE of the nth page from base on. */
static inline pte_t *pte_at(struct fixture *f, uintptr_t base, size_t page)
{
    uintptr_t va = base + page * PAGE;

    return pagetable_pte(table_at(f, va), va);
}

static inline uint64_t word_at(struct fixture *f, uintptr_t base, size_t page)
{
    return pte_load(pte_at(f, base, page));
}

/* The frame of a page that is valid or in transition. */
static inline struct frame *frame_at(struct fixture *f, uintptr_t base, size_t page)
{
    return &f->m->frames[pte_number(word_at(f, base, page))];
}

/* Where a page is: 'u'ntouched, 'a'ctive, on 's'tandby or 'm'odified, being 'w'ritten, in the
 * 'p'agefile. */
static inline char where(struct fixture *f, uintptr_t base, size_t page)
{
    uint64_t word = word_at(f, base, page);

    if (word & PTE_PAGEFILE)
        return 'p';
    return word & (PTE_VALID | PTE_TRANSITION) ? frame_state_name(frame_at(f, base, page)->state)[0]
                                               : 'u';
}

/* How many of the pages are there. */
static inline size_t pages_at(struct fixture *f, uintptr_t base, size_t pages, char place)
{
    size_t n = 0;

    for (size_t p = 0; p < pages; p++)
        n += where(f, base, p) == place;
    return n;
}

/* A fault of thread `thread` on a page. */
static inline enum fault_result fault_at(struct fixture *f, uintptr_t base, size_t page,
                                         uint32_t thread)
{
    return fault_resolve(f->m, base + page * PAGE, 0, thread);
}

/* Write what belongs there in that generation; 0: zeroes. */
static inline enum fault_result put(struct fixture *f, uintptr_t base, size_t page,
                                    uint64_t generation)
{
    uint64_t words[WORDS];

    for (size_t i = 0; i < WORDS; i++)
        words[i] = generation == 0 ? 0 : word_of(page, i, generation);
    return access_page(f->m, base + page * PAGE, (char *)words, PAGE, true, 1);
}

static inline bool holds(struct fixture *f, uintptr_t base, size_t page, uint64_t generation)
{
    uint64_t words[WORDS];

    if (access_page(f->m, base + page * PAGE, (char *)words, PAGE, false, 1) != FAULT_DONE)
        return false;
    for (size_t i = 0; i < WORDS; i++) {
        if (words[i] != (generation == 0 ? 0 : word_of(page, i, generation)))
            return false;
    }
    return true;
}

static inline void put_all(struct fixture *f, uintptr_t base, size_t pages, uint64_t generation)
{
    for (size_t p = 0; p < pages; p++) {
        if (put(f, base, p, generation) != FAULT_DONE)
            ok(false, "page %zu can be written: %s", p, error_last());
    }
}

static inline size_t wrong_of(struct fixture *f, uintptr_t base, size_t pages, uint64_t generation)
{
    size_t wrong = 0;

    for (size_t p = 0; p < pages; p++)
        wrong += !holds(f, base, p, generation);
    return wrong;
}

static inline uint64_t counted(struct fixture *f, enum counter_id id)
{
    return counter_read(f->m->counters, id);
}

/* Trim all that can be trimmed. */
static inline void trim_all(struct fixture *f)
{
    while (trim_pages(f->m, f->m->frame_count) > 0)
        continue;
}

/* Write all that is modified, as far as the store lets us: as if a fault waited for it. */
static inline void write_all(struct fixture *f)
{
    atomic_fetch_add(&f->m->waiting, 1);
    f->m->writer.tried_at = 0;
    while (writer_step(f->m))
        continue;
    atomic_fetch_sub(&f->m->waiting, 1);
}

/* Every page goes to the pagefile, and its frame is freed. */
static inline void page_out(struct fixture *f)
{
    trim_all(f);
    write_all(f);
    refill_standby(f->m, f->m->frame_count);
    while (standby_count(f->m) > 0)
        refill_standby(f->m, 1);
    slot_release_deferred(f->m);
}

/* A pass of the ager, due or not. */
static inline void age_pass(struct fixture *f)
{
    atomic_store(&f->m->trimmer.aged_at, atomic_load(&f->m->consumed) - f->m->active_max);
    age_step(f->m);
}

/* The signal that ends a child which runs broken(argument), or 0. What it logs goes to text. */
static inline int signal_of(void (*broken)(void *), void *argument, char *text, size_t size)
{
    int ends[2], status = 0;
    ssize_t n = 0;
    pid_t child;

    fflush(stdout);
    if (pipe(ends) != 0)
        return -1;
    child = fork();
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        log_use_descriptor(ends[1]);
        broken(argument);
        _exit(0);
    }
    close(ends[1]);
    for (size_t got = 0; got < size - 1 && (n = read(ends[0], text + got, size - 1 - got)) > 0;)
        text[got += (size_t)n] = '\0';
    close(ends[0]);
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

#endif
