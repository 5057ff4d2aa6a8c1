#include "sim/world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/check.h"
#include "sim/arena.h"

#define SECOND UINT64_C(1000000000)
#define PIN_MOST 3u

/* A thread that uses memory. */
struct user {
    struct world *w;
    struct random random;
    uint32_t number; /* from 1 on */
};

/* A handler thread of trap thread. */
struct sim_handler {
    struct handler handler; /* first */
    struct world *w;
    _Atomic uint32_t bell;
    unsigned number; /* in mmu.asleep */
    bool stop;
    struct sync_thread *thread;
};

_Noreturn static void fail(struct world *w, const char *why)
{
    schedule_fail(&w->schedule, why);
}

struct world_page *world_page(struct world *w, uintptr_t va)
{
    return &w->pages[(va - MMU_BASE) / PAGE_SIZE];
}

/* ---- the oracle ---- */

static bool all_zero(const char *memory)
{
    return memory[0] == 0 && memcmp(memory, memory + 1, PAGE_SIZE - 1) == 0;
}

bool world_page_is(struct world *w, uintptr_t va, const char *memory)
{
    struct world_page *page = world_page(w, va);
    bool same = memcmp(memory, page->content, PAGE_SIZE) == 0;

    if (!page->maybe_zero && page->dropping == 0)
        return same;
    if (!same && !all_zero(memory))
        return false;
    if (page->dropping == 0) { /* nobody can drop it any more: now it is known */
        memcpy(page->content, memory, PAGE_SIZE);
        page->maybe_zero = false;
    }
    return true;
}

/* Change a page as programs do: a few words, or all of it, sometimes to zero. */
static void scribble(const struct world *w, struct random *r, char *memory)
{
    uint64_t value = random_once_in(r, w->config->zero_every) ? 0 : random_next(r);

    if (random_once_in(r, 4)) {
        memset(memory, (int)(value & 0xff), PAGE_SIZE);
        return;
    }
    for (unsigned i = 0; i < 4; i++)
        memcpy(memory + random_below(r, PAGE_SIZE / 8) * 8, &value, sizeof(value));
}

/* The page is accessible: check it, and perhaps change it, in one step. */
static void touch(struct world *w, struct random *r, uintptr_t va, bool write, char *memory)
{
    struct world_page *page = world_page(w, va);

    if (!world_page_is(w, va, memory))
        fail(w, "an access found wrong data");
    page->failed = false;
    if (!write)
        return;
    scribble(w, r, memory);
    memcpy(page->content, memory, PAGE_SIZE);
    page->written = true;
}

/* The software MMU copies in several steps, so users of one page take turns. */
static void soft_enter(struct world *w, struct world_page *page)
{
    while (page->user != 0)
        schedule_park(&w->schedule, &w->page_free, atomic_load(&w->page_free), 0);
    page->user = 1;
}

static void soft_leave(struct world *w, struct world_page *page)
{
    page->user = 0;
    atomic_fetch_add(&w->page_free, 1);
    schedule_unpark(&w->schedule, &w->page_free, INT32_MAX);
}

static enum mmu_result soft_result(enum fault_result result)
{
    return result == FAULT_DONE ? MMU_OK : result == FAULT_FAILED ? MMU_SIGBUS : MMU_SIGSEGV;
}

/* The copy is not of one moment: a decommit may come before, within or after it. */
static enum mmu_result soft_access(struct user *u, uintptr_t va, bool write)
{
    struct world *w = u->w;
    struct world_page *page = world_page(w, va);
    unsigned epoch = page->epoch, drops;
    char memory[PAGE_SIZE];
    enum mmu_result result;
    bool open;

    soft_enter(w, page);
    drops = page->drops;
    open = page->maybe_zero || page->dropping > 0;
    result = soft_result(access_page(w->machine, va, memory, PAGE_SIZE, false, u->number));
    if (result != MMU_OK || page->epoch != epoch)
        goto out;
    open |= page->drops != drops;
    if (page->unknown)
        memcpy(page->content, memory, PAGE_SIZE);
    page->unknown = false;
    if (memcmp(memory, page->content, PAGE_SIZE) != 0 && !(open && all_zero(memory)))
        fail(w, "an access found wrong data");
    page->failed = false;
    if (!write)
        goto out;
    scribble(w, &u->random, memory);
    drops = page->drops;
    open = page->dropping > 0;
    result = soft_result(access_page(w->machine, va, memory, PAGE_SIZE, true, u->number));
    if (result != MMU_OK || page->epoch != epoch)
        goto out;
    memcpy(page->content, memory, PAGE_SIZE);
    page->maybe_zero = open || page->drops != drops;
    page->written = true;
out:
    /* What was unmapped meanwhile may be another region by now, and have been written. */
    page->unknown |= page->epoch != epoch;
    soft_leave(w, page);
    return result;
}

/* May this run's pages fail at all? */
static bool may_fail(const struct world *w)
{
    const struct disk_faults *d = &w->config->disk;

    return disk_faults_made(w->disk) > 0 &&
           (d->read_error_every || d->corrupt_every || d->rot_every || d->lost_every ||
            d->misplaced_every || d->bad_every || d->full_every || d->write_error_every ||
            d->hang_every);
}

/* Where commit is charged at first touch, a page without content may be refused. */
static bool untouched(const struct world *w, const struct world_page *page)
{
    return w->overcommitted && (page->maybe_zero || page->dropping > 0 || all_zero(page->content));
}

static enum mmu_result access_one(struct user *u, uintptr_t va, bool write)
{
    struct world *w = u->w;
    struct world_page *page = world_page(w, va);
    unsigned epoch = page->epoch;
    char *memory = NULL;
    enum mmu_result result;

    w->accesses++;
    if (w->config->tunables.mapper == MAPPER_SOFT) {
        result = soft_access(u, va, write);
    } else {
        result = mmu_access(w->machine, va, write, u->number, w->config->sigbus, &memory);
        if (result == MMU_OK)
            touch(w, &u->random, va, write, memory);
    }
    if (result == MMU_OK)
        schedule_got_on(&w->schedule);
    if (result == MMU_SIGSEGV && page->epoch == epoch && page->live)
        fail(w, "SIGSEGV inside a region");
    if (result == MMU_SIGBUS) {
        if (!may_fail(w) && !untouched(w, page))
            fail(w, "SIGBUS, though nothing has failed");
        page->failed = true;
        w->lost++;
    }
    return result;
}

/* ---- what users do ---- */

/* A range inside a region: its first page and number of pages; false: there is no region. */
static bool pick_range(struct user *u, unsigned most, uintptr_t *va, unsigned *pages)
{
    struct world *w = u->w;
    const struct world_extent *extent;
    unsigned first;

    if (w->extent_count == 0)
        return false;
    extent = &w->extents[random_below(&u->random, w->extent_count)];
    first = (unsigned)random_below(&u->random, extent->pages);
    *pages = (unsigned)random_between(&u->random, 1, most);
    if (*pages > extent->pages - first)
        *pages = extent->pages - first;
    *va = extent->base + first * PAGE_SIZE;
    return true;
}

static void do_run(struct user *u)
{
    bool backward = random_once_in(&u->random, 4);
    uintptr_t va;
    unsigned pages;

    if (!pick_range(u, u->w->config->run_max, &va, &pages))
        return;
    for (unsigned i = 0; i < pages; i++) {
        unsigned at = backward ? pages - 1 - i : i;
        bool write = random_below(&u->random, 100) < u->w->config->write_percent;

        if (access_one(u, va + at * PAGE_SIZE, write) != MMU_OK)
            return;
    }
}

static void decommit(struct user *u, uintptr_t va, unsigned pages)
{
    struct world *w = u->w;
    unsigned epochs[WORLD_DROP_MAX];
    int error;

    for (unsigned i = 0; i < pages; i++) {
        struct world_page *page = world_page(w, va + i * PAGE_SIZE);

        epochs[i] = page->epoch;
        page->drops++;
        if (page->dropping++ == 0)
            page->written = page->maybe_zero; /* what is open already stays open */
    }
    machine_enter(w->machine);
    error = region_decommit(w->machine, va, pages * PAGE_SIZE);
    sync_rwlock_unread(&w->machine->sync, &w->machine->gate, SYNC_GATE);
    for (unsigned i = 0; i < pages; i++) {
        struct world_page *page = world_page(w, va + i * PAGE_SIZE);

        page->dropping--;
        page->drops++;
        /* Unmapped, and perhaps mapped anew meanwhile: it may have dropped the old or the new. */
        if (error != 0 || page->written || page->dropping > 0 || page->user != 0 ||
            page->epoch != epochs[i]) {
            page->maybe_zero = true;
            continue;
        }
        memset(page->content, 0, PAGE_SIZE);
        page->maybe_zero = page->failed = false;
    }
    if (error != 0 && error != -EBUSY && error != -EINVAL)
        fail(w, "decommit failed");
}

static void do_decommit(struct user *u)
{
    uintptr_t va;
    unsigned pages;

    if (pick_range(u, u->w->config->drop_max, &va, &pages))
        decommit(u, va, pages);
}

static void do_advise(struct user *u)
{
    static const enum vmsm_advice advice[] = {VMSM_NORMAL, VMSM_RANDOM, VMSM_SEQUENTIAL,
                                              VMSM_WILLNEED, VMSM_DONTNEED};
    uintptr_t va;
    unsigned pages;

    if (pick_range(u, 32, &va, &pages))
        machine_advise(u->w->machine, va, pages * PAGE_SIZE, advice[random_below(&u->random, 5)]);
}

static void do_prefault(struct user *u)
{
    struct iovec ranges[4];
    int count = (int)random_between(&u->random, 1, 4);

    for (int i = 0; i < count; i++) {
        uintptr_t va;
        unsigned pages;

        if (!pick_range(u, 8, &va, &pages))
            return;
        ranges[i] = (struct iovec){.iov_base = (void *)va, .iov_len = pages * PAGE_SIZE};
    }
    machine_prefault(u->w->machine, ranges, count);
}

static void scan(struct user *u, uintptr_t va, unsigned pages, bool backward)
{
    bool write = random_below(&u->random, 100) < u->w->config->write_percent;
    unsigned rare = random_once_in(&u->random, 2) ? 0 : 50;

    for (unsigned i = 0; i < pages; i++) {
        unsigned at = backward ? pages - 1 - i : i;

        if (access_one(u, va + at * PAGE_SIZE, write != random_once_in(&u->random, rare)) != MMU_OK)
            return;
    }
}

/* All of a region, or some sections. */
static bool pick_scan(struct user *u, uintptr_t *va, unsigned *pages)
{
    struct world *w = u->w;
    unsigned before;

    if (!pick_range(u, 8 * SECTION_PAGES, va, pages))
        return false;
    if (w->config->calm || random_once_in(&u->random, 2)) {
        const struct world_extent *extent = &w->extents[random_below(&u->random, w->extent_count)];

        *va = extent->base;
        *pages = extent->pages;
        return true;
    }
    before = (unsigned)(*va % LARGE_SIZE / PAGE_SIZE);
    if (world_page(w, *va - before * PAGE_SIZE)->live && random_below(&u->random, 8) > 0) {
        *va -= before * PAGE_SIZE;
        *pages += before;
    }
    return true;
}

/* Go through many pages in a row, sometimes anew. */
static void do_scan(struct user *u)
{
    bool calm = u->w->config->calm, backward = random_once_in(&u->random, calm ? 0 : 4);
    unsigned pages;
    uintptr_t va;

    if (!pick_scan(u, &va, &pages))
        return;
    machine_advise(u->w->machine, va, pages * PAGE_SIZE,
                   random_once_in(&u->random, 8) ? VMSM_SEQUENTIAL : VMSM_NORMAL);
    if (random_once_in(&u->random, calm ? 0 : 6))
        decommit(u, va, pages < WORLD_DROP_MAX ? pages : WORLD_DROP_MAX);
    if (random_once_in(&u->random, 2)) /* the trimmer gets on */
        schedule_sleep(&u->w->schedule, SECOND / 50);
    scan(u, va, pages, backward);
}

/* Users begin with parts of their own: sections, if there are any. */
static void first_scan(struct user *u)
{
    const struct world_config *c = u->w->config;
    unsigned unit = c->pages >= SECTION_PAGES ? SECTION_PAGES : 1;
    unsigned first = c->pages / unit * (u->number - 1) / c->users * unit;
    uintptr_t base = u->w->extents[0].base;

    scan(u, base + first * PAGE_SIZE, c->pages / c->users, false);
}

/* A device writes to pinned pages whenever it likes. */
static void device_writes(struct user *u, uintptr_t va, unsigned pages)
{
    struct world *w = u->w;

    for (unsigned i = 0; i < pages; i++) {
        struct world_page *page = world_page(w, va + i * PAGE_SIZE);
        struct mmu_page *memory = mmu_page(mmu_of(w->machine), va + i * PAGE_SIZE);

        schedule_yield(&w->schedule, SYNC_AT_STEP);
        if (memory->memory == NULL)
            fail(w, "a pinned page is not there");
        if (!world_page_is(w, va + i * PAGE_SIZE, memory->memory))
            fail(w, "a device found wrong data");
        scribble(w, &u->random, memory->memory);
        memcpy(page->content, memory->memory, PAGE_SIZE);
        page->written = true;
    }
}

static void do_pin(struct user *u)
{
    struct world *w = u->w;
    uintptr_t va;
    unsigned pages;

    if (!pick_range(u, PIN_MOST, &va, &pages) ||
        machine_pin(w->machine, va, pages * PAGE_SIZE) != 0)
        return;
    for (unsigned i = 0; i < pages; i++)
        world_page(w, va + i * PAGE_SIZE)->pins++;
    if (w->config->tunables.mapper != MAPPER_SOFT)
        device_writes(u, va, pages);
    for (unsigned i = 0; i < pages; i++)
        world_page(w, va + i * PAGE_SIZE)->pins--;
    if (machine_unpin(w->machine, va, pages * PAGE_SIZE) != 0)
        fail(w, "a pinned range cannot be unpinned");
}

static void add_extent(struct world *w, uintptr_t base, unsigned pages)
{
    check_always(w->extent_count < WORLD_EXTENTS_MAX);
    w->extents[w->extent_count++] = (struct world_extent){.base = base, .pages = pages};
}

static int map_extent(struct world *w, unsigned pages, bool overcommit)
{
    uintptr_t base;
    int error;

    machine_enter(w->machine);
    error = region_map(w->machine, pages * PAGE_SIZE, overcommit, &base);
    for (unsigned i = 0; i < pages && error == 0; i++) {
        struct world_page *page = world_page(w, base + i * PAGE_SIZE);

        if (page->live)
            fail(w, "addresses are given twice");
        memset(page->content, 0, PAGE_SIZE);
        page->maybe_zero = page->failed = page->unknown = false;
        page->live = true;
        page->epoch++;
        if (w->pages_used <= page - w->pages)
            w->pages_used = (unsigned)(page - w->pages) + 1;
    }
    w->overcommitted |= overcommit && error == 0;
    if (error == 0)
        add_extent(w, base, pages);
    sync_rwlock_unread(&w->machine->sync, &w->machine->gate, SYNC_GATE);
    return error;
}

static void do_map(struct user *u)
{
    struct world *w = u->w;
    unsigned pages = (unsigned)random_between(&u->random, 1, 1 + w->config->pages / 4);

    if (w->extent_count < WORLD_EXTENTS_MAX / 2)
        map_extent(w, pages, w->config->tunables.overcommit || random_once_in(&u->random, 4));
}

/* Take [va, + pages) off the oracle's regions; it lies in one of them. */
static void cut_extent(struct world *w, uintptr_t va, unsigned pages)
{
    uintptr_t end = va + pages * PAGE_SIZE;

    for (unsigned i = 0; i < w->extent_count; i++) {
        struct world_extent old = w->extents[i];
        uintptr_t old_end = old.base + old.pages * PAGE_SIZE;

        if (va < old.base || va >= old_end)
            continue;
        w->extents[i] = w->extents[--w->extent_count];
        if (va > old.base)
            add_extent(w, old.base, (unsigned)((va - old.base) / PAGE_SIZE));
        if (end < old_end)
            add_extent(w, end, (unsigned)((old_end - end) / PAGE_SIZE));
        return;
    }
}

static bool any_pinned(struct world *w, uintptr_t va, unsigned pages)
{
    for (unsigned i = 0; i < pages; i++) {
        if (world_page(w, va + i * PAGE_SIZE)->pins > 0)
            return true;
    }
    return false;
}

static void do_unmap(struct user *u)
{
    struct world *w = u->w;
    uintptr_t va;
    unsigned pages;
    int error;

    if (w->extent_count + 1 + w->config->users > WORLD_EXTENTS_MAX ||
        !pick_range(u, 3 * w->config->drop_max + 4, &va, &pages) || any_pinned(w, va, pages))
        return;
    cut_extent(w, va, pages);
    for (unsigned i = 0; i < pages; i++) {
        world_page(w, va + i * PAGE_SIZE)->epoch++;
        world_page(w, va + i * PAGE_SIZE)->live = false;
    }
    machine_enter(w->machine);
    error = region_unmap(w->machine, va, pages * PAGE_SIZE);
    sync_rwlock_unread(&w->machine->sync, &w->machine->gate, SYNC_GATE);
    if (error == 0)
        return;
    /* Somebody was about to pin it, or it cannot be split off: then it stays as it is. */
    if (error != -EBUSY && (error != -ENOMEM || w->config->mmu.split_every == 0))
        fail(w, "unmap failed");
    add_extent(w, va, pages);
    for (unsigned i = 0; i < pages; i++) {
        struct world_page *page = world_page(w, va + i * PAGE_SIZE);

        page->live = true;
        page->maybe_zero |= error == -EBUSY;
    }
}

static void do_check(struct user *u)
{
    struct vmsm_counters counters;

    machine_get_counters(u->w->machine, &counters);
    if (machine_check(u->w->machine) != 0)
        fail(u->w, "the books do not balance in the midst of a run");
}

/* Now and then pages are to be read around those that are asked for: every section has been asked for
 * many pages, and first windows are one page. */
static void make_dense(struct user *u)
{
    struct machine *m = u->w->machine;
    unsigned every = u->w->config->dense_every;

    if (every == 0 || random_below(&u->random, every) > 0)
        return;
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    atomic_store(&m->around.dense_from, 1);
    for (unsigned r = 0; r < m->region_count; r++) {
        struct pagetable *table = m->regions[r]->table;

        for (size_t n = 0; n < table->section_count; n += 2) /* and those between are beside them */
            atomic_store(&table->sections[n].asked, SECTION_PAGES);
    }
    for (unsigned i = 0; i < STREAM_SETS; i++)
        m->streams.sets[i].first[0] = (struct stream_first){.window = 1};
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
}

static void do_something(struct user *u)
{
    unsigned dice = (unsigned)random_below(&u->random, 100);

    u->w->operations++;
    make_dense(u);
    if (u->w->config->large && random_below(&u->random, 100) < u->w->config->scan_percent)
        do_scan(u);
    else if (dice < 66)
        do_run(u);
    else if (dice < 72)
        do_decommit(u);
    else if (dice < 77)
        do_advise(u);
    else if (dice < 82)
        do_prefault(u);
    else if (dice < 88)
        do_pin(u);
    else if (dice < 91)
        do_map(u);
    else if (dice < 95)
        do_unmap(u);
    else if (dice < 97)
        do_check(u);
    else
        schedule_sleep(&u->w->schedule, random_below(&u->random, SECOND / 10));
}

static void user_main(void *argument)
{
    struct user *u = argument;
    const struct world_config *c = u->w->config;

    if (c->large || c->dense_every > 0)
        first_scan(u);
    for (unsigned i = 0; i < c->operations && u->w->accesses < c->accesses_max; i++)
        do_something(u);
}

/* ---- handlers ---- */

static unsigned handler_take(struct handler *h, struct pending_fault *faults, unsigned max)
{
    struct sim_handler *self = (struct sim_handler *)(void *)h;

    schedule_yield(&self->w->schedule, SYNC_AT_STEP);
    return mmu_take_faults(mmu_of(self->w->machine), self->number, faults, max);
}

static void ring(struct sim_handler *h)
{
    atomic_fetch_add(&h->bell, 1);
    schedule_unpark(&h->w->schedule, &h->bell, INT32_MAX);
}

static bool handler_sleep(struct handler *h)
{
    struct sim_handler *self = (struct sim_handler *)(void *)h;
    struct mmu *mmu = mmu_of(self->w->machine);

    schedule_yield(&self->w->schedule, SYNC_AT_STEP);
    if ((mmu->posted_count > 0 && !mmu->unwatched[self->number]) || self->stop ||
        disk_queue_ready(h->queue.store))
        return self->stop;
    mmu->reading[self->number] = h->queue.in_flight > 0;
    mmu->asleep[self->number] = true;
    schedule_park(&self->w->schedule, &self->bell, atomic_load(&self->bell), 0);
    mmu->asleep[self->number] = false;
    return self->stop;
}

/* As the kernel does, this looks whether faults wait already. */
static bool handler_attend(struct handler *spare, bool on)
{
    struct sim_handler *h = (struct sim_handler *)(void *)spare;
    struct mmu *mmu = mmu_of(h->w->machine);

    schedule_yield(&h->w->schedule, SYNC_AT_STEP);
    mmu->unwatched[h->number] = !on;
    if (on && mmu->posted_count > 0)
        ring(h);
    schedule_yield(&h->w->schedule, SYNC_AT_STEP);
    return true;
}

static const struct handler_source source = {
    .take = handler_take, .sleep = handler_sleep, .attend = handler_attend};

static void handler_main(void *argument)
{
    struct sim_handler *h = argument;

    handler_run(&h->handler);
}

static unsigned handler_count(const struct world *w)
{
    return w->config->handlers + (w->config->spare_after > 0);
}

static void handlers_start(struct world *w, struct sim_handler *handlers)
{
    unsigned spare = w->config->handlers;

    for (unsigned i = 0; i < handler_count(w); i++) {
        struct sim_handler *h = &handlers[i];

        *h = (struct sim_handler){.w = w};
        h->handler.m = w->machine;
        h->handler.source = &source;
        h->handler.spare = w->config->spare_after > 0 ? &handlers[spare].handler : NULL;
        h->handler.judged_after = w->config->spare_after;
        h->number = mmu_add_bell(mmu_of(w->machine), &h->bell);
        check_always(fault_queue_open(w->machine, &h->handler.queue) == 0);
        disk_queue_bell(h->handler.queue.store, &h->bell);
        mmu_of(w->machine)->unwatched[h->number] = i == spare;
        h->thread = schedule_start(&w->schedule, "handler", handler_main, h);
        check_always(h->thread != NULL);
    }
}

static void handlers_stop(struct world *w, struct sim_handler *handlers)
{
    for (unsigned i = 0; i < handler_count(w); i++) {
        struct sim_handler *h = &handlers[i];

        h->stop = true;
        ring(h);
        schedule_join(&w->schedule, h->thread);
        fault_queue_close(w->machine, &h->handler.queue);
    }
}

/* ---- the run ---- */

/* Has the disk refused so many slots for good that what was promised does not fit any more? */
static bool slots_withdrawn(struct machine *m)
{
    struct vmsm_counters counters;

    machine_get_counters(m, &counters);
    return counters.slots_bad > 0 && counters.commit_pages > counters.commit_limit;
}

/* Is the loss of this page the disk's doing? */
static bool loss_excused(struct world *w, uintptr_t va)
{
    struct machine *m = w->machine;
    struct region *region;
    uint64_t word;

    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    region = region_find(m, va);
    word = region != NULL ? pte_load(pagetable_pte(region->table, va)) : 0;
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    return (word & PTE_PAGEFILE) && disk_harmed(w->disk, pte_number(word));
}

/* The disk behaves again: every page must be had, but those that the disk has lost. */
static void sweep(struct world *w)
{
    struct user sweeper = {.w = w, .random = random_fork(&w->random), .number = 100};

    for (unsigned e = 0; e < w->extent_count; e++) {
        for (unsigned i = 0; i < w->extents[e].pages; i++) {
            uintptr_t va = w->extents[e].base + i * PAGE_SIZE;
            struct iovec range = {.iov_base = (void *)va, .iov_len = PAGE_SIZE};

            if (machine_prefault(w->machine, &range, 1) == 0) {
                if (access_one(&sweeper, va, false) == MMU_OK)
                    continue;
            }
            if (!loss_excused(w, va) && !slots_withdrawn(w->machine) &&
                !untouched(w, world_page(w, va)))
                fail(w, "a page cannot be had, though its slot is well");
        }
    }
}

static void world_main(void *argument)
{
    struct world *w = argument;
    const struct world_config *c = w->config;
    struct machine_options options = {.tunables = &c->tunables,
                                      .backend = &w->schedule.backend,
                                      .platform = &platform_sim,
                                      .mapper_open = mmu_open,
                                      .mapper_has_cache = c->tunables.mapper == MAPPER_COPY,
                                      .store = disk_store(w->disk),
                                      .pool_queues = c->pool_queues};
    struct sim_handler handlers[WORLD_HANDLERS_MAX + 1];
    struct user users[WORLD_USERS_MAX];
    struct sync_thread *threads[WORLD_USERS_MAX];
    bool handled = c->tunables.mapper != MAPPER_SOFT && !c->sigbus;

    if (machine_create(&options, &w->machine) != 0)
        fail(w, "the machine cannot be made");
    if (handled)
        handlers_start(w, handlers);
    while (w->extent_count == 0 && map_extent(w, c->pages, c->tunables.overcommit) != 0) {
        if (c->disk.grow_error_every == 0)
            fail(w, "memory cannot be mapped");
    }
    for (unsigned i = 0; i < c->users; i++) {
        users[i] = (struct user){.w = w, .random = random_fork(&w->random), .number = i + 1};
        threads[i] = schedule_start(&w->schedule, "user", user_main, &users[i]);
    }
    for (unsigned i = 0; i < c->users; i++)
        schedule_join(&w->schedule, threads[i]);
    disk_behave(w->disk);
    schedule_sleep(&w->schedule, 200 * SECOND);
    sweep(w);
    if (machine_check(w->machine) != 0)
        fail(w, "the books do not balance");
    region_unmap_all(w->machine);
    if (machine_check(w->machine) != 0)
        fail(w, "the books do not balance after everything is unmapped");
    if (handled)
        handlers_stop(w, handlers);
    invariants_free(w->invariants);
    w->invariants = NULL;
    machine_destroy(w->machine);
    w->machine = NULL;
    if (arena_live() != 0)
        fail(w, "memory is left when the machine is gone");
}

static void observe(void *observer, struct sync_thread *current, enum sync_point point)
{
    struct world *w = observer;
    unsigned every = w->config->check_every;
    const char *broken;

    if (w->machine == NULL)
        return;
    if (w->trace != NULL)
        trace_step(w->trace, current, point);
    if (w->invariants == NULL)
        return;
    broken = invariants_check_budget(w->invariants);
    if (broken == NULL && w->schedule.steps % every == 0)
        broken = invariants_check(w->invariants, w->schedule.steps / every % 64 == 0);
    if (broken != NULL)
        fail(w, broken);
}

int world_run(const struct world_config *c, void *trace_file, struct world_stats *stats,
              const char **why)
{
    static struct world_page pages[MMU_PAGES];
    static unsigned pages_used; /* by the run before */
    struct world *w = calloc(1, sizeof(*w));
    struct random random = {c->seed ^ UINT64_C(0x5eed)};
    int error;

    check_always(w != NULL);
    arena_reset();
    memset(pages, 0, pages_used * sizeof(*pages));
    w->config = c;
    w->pages = pages;
    schedule_init(&w->schedule, c->policy, random_next(&random), c->steps_expected);
    w->schedule.switch_every = c->switch_every;
    w->schedule.spurious_every = c->spurious_every;
    w->schedule.step_ns = c->step_ns;
    w->schedule.steps_max = c->large ? 20000000 : 4000000;
    w->schedule.observe = observe;
    w->schedule.observer = w;
    w->random = random_fork(&random);
    w->disk = disk_open(&w->schedule, random_next(&random), c->disk_slots, c->disk_fixed, &c->disk);
    mmu_prepare(&w->schedule, c->tunables.mapper, random_next(&random), &c->mmu);
    w->invariants = invariants_new(w);
    if (trace_file != NULL)
        w->trace = trace_new(w, trace_file);
    check_always(schedule_start(&w->schedule, "world", world_main, w) != NULL);
    error = schedule_run(&w->schedule);
    *why = w->schedule.stuck;
    *stats = (struct world_stats){.steps = w->schedule.steps,
                                  .clock = w->schedule.clock,
                                  .accesses = w->accesses,
                                  .operations = w->operations,
                                  .lost = w->lost,
                                  .trace = w->schedule.trace};
    if (w->trace != NULL)
        trace_free(w->trace);
    if (w->invariants != NULL)
        invariants_free(w->invariants);
    pages_used = w->pages_used;
    free(w);
    return error;
}
