/*
 * A case's process: a manager, threads that make all calls at random, a sweep over every page, the
 * books, the end.
 */
#include "mix.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/counters.h"

#define MONITOR_NS (50 * MILLISECOND)
#define STACK_TOUCHED (128 * 1024)

void complain(struct world *w, const char *format, ...)
{
    char text[WORDS_MAX];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    fprintf(stderr, "torture: %s\n", text);
    if (atomic_fetch_add(&w->report->wrong, 1) == 0)
        memcpy(w->report->words, text, sizeof(text));
}

void stepped(struct actor *a)
{
    atomic_fetch_add_explicit(&a->world->report->steps[a->number], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&a->world->report->accesses, 1, memory_order_relaxed);
}

/* ---- areas without holds ---- */

/* In the words of each page, thread n of 16 has every 16th word; which one varies by page. */
static unsigned own_word(const struct actor *a, size_t page)
{
    return (unsigned)(page * 13 % (ACCESS_PAGE_WORDS / THREADS_MAX) * THREADS_MAX + a->number);
}

static void words_step(struct actor *a, size_t page, bool store)
{
    struct world *w = a->world;
    unsigned position = own_word(a, page);
    uint64_t value;
    int error = access_load(&w->words, page, &position, &value, 1);

    if (error == 0 && value != a->own[page])
        complain(w, "WRONG DATA: word %u of shared page %zu at %p is %llu, should be %llu",
                 position, page, (void *)access_address(&w->words, page), (unsigned long long)value,
                 (unsigned long long)a->own[page]);
    if (error == 0 && store) {
        value = a->own[page] + 1;
        error = access_store(&w->words, page, &position, &value, 1);
        a->own[page] += error == 0;
    }
    stepped(a);
    if (error == 0)
        return;
    atomic_fetch_add(&w->report->failed, 1);
    if (!w->errors)
        complain(w, "access to shared page %zu failed (%d): %s", page, error, vmsm_last_error());
}

static void contested_step(struct actor *a)
{
    struct world *w = a->world;
    size_t page = rng_below(&a->rng, CONTESTED_PAGES);
    size_t count = 1 + rng_below(&a->rng, (unsigned)(CONTESTED_PAGES - page));
    char *start = (char *)access_address(&w->contested, page);
    struct iovec range = {start, count * PAGE};
    unsigned position = a->number;
    uint64_t value = 1;
    int error = 0;

    switch (rng_below(&a->rng, 5)) {
    case 0:
        error = vmsm_decommit(w->m, start, count * PAGE);
        if (error == -EBUSY) /* another thread's pin */
            error = 0;
        break;
    case 1:
        if (w->pin_pages > 0 && vmsm_pin(w->m, start, PAGE) == 0)
            error = vmsm_unpin(w->m, start, PAGE);
        break;
    case 2:
        error = vmsm_prefault(w->m, &range, 1);
        break;
    case 3:
        error = vmsm_advise(w->m, start, count * PAGE, VMSM_DONTNEED);
        break;
    default:
        error = access_store(&w->contested, page, &position, &value, 1);
    }
    stepped(a);
    if (error == 0)
        return;
    atomic_fetch_add(&w->report->failed, 1);
    if (!w->errors || error != -EIO)
        complain(w, "a call for %zu contested pages is %d: %s", count, error, vmsm_last_error());
}

/* ---- areas with holds ---- */

static void range_step(struct actor *a, unsigned number, size_t from, size_t count)
{
    struct area *area = &a->world->areas[number];
    unsigned kind = rng_below(&a->rng, 100);
    bool syscalls = a->world->syscalls;

    if (kind < 1)
        area_discard(a, area, from, count, true);
    else if (kind < 4)
        area_discard(a, area, from, count, false);
    else if (kind < 7)
        area_prefault(a, area, from, count);
    else if (kind < 11)
        area_advise(a, area, from, count, (enum vmsm_advice)rng_below(&a->rng, VMSM_DONTNEED + 1));
    else if (kind < 15)
        area_pin(a, number, from, count < PIN_PAGES ? count : PIN_PAGES);
    else if (kind < 19 && syscalls)
        area_system_write(a, area, from, count);
    else if (kind < 23 && syscalls)
        area_system_read(a, area, from);
    else if (kind < 26)
        area_read_whole(a, area, from, false);
    else {
        for (size_t p = from; p < from + count; p++) {
            if (kind < 60)
                area_write(a, area, p);
            else
                area_read(a, area, p);
        }
    }
}

static void area_step(struct actor *a)
{
    struct world *w = a->world;
    unsigned number = rng_below(&a->rng, w->plan->areas);
    struct area *area = &w->areas[number];
    size_t from, count;

    pthread_rwlock_rdlock(&area->lock);
    if (area->access.base != NULL) {
        from = rng_below(&a->rng, (unsigned)area->pages);
        count = 1 + rng_below(&a->rng, rng_one_in(&a->rng, 4) ? RANGE_PAGES : 16);
        if (count > area->pages - from)
            count = area->pages - from;
        range_step(a, number, from, count);
        pthread_rwlock_unlock(&area->lock);
        return;
    }
    pthread_rwlock_unlock(&area->lock);
    stepped(a);
    if (pthread_rwlock_trywrlock(&area->lock) != 0)
        return;
    if (area->access.base == NULL)
        area_map(a, area, 1 + rng_below(&a->rng, (unsigned)w->plan->area_pages));
    pthread_rwlock_unlock(&area->lock);
}

static void unpin_one(struct actor *a, unsigned which)
{
    struct area *area = &a->world->areas[a->pins[which].area];

    pthread_rwlock_rdlock(&area->lock);
    area_unpin(a, which);
    pthread_rwlock_unlock(&area->lock);
}

static void remap_step(struct actor *a)
{
    struct area *area = &a->world->areas[rng_below(&a->rng, a->world->plan->areas)];

    if (pthread_rwlock_trywrlock(&area->lock) != 0)
        return;
    if (area->access.base != NULL)
        area_unmap_rest(a, area);
    pthread_rwlock_unlock(&area->lock);
    stepped(a);
}

static void check_books(struct world *w, const char *when)
{
    if (vmsm_check(w->m) != 0)
        complain(w, "%s: %s", when, vmsm_last_error());
}

static void step(struct actor *a)
{
    unsigned kind = rng_below(&a->rng, 4000);

    if (kind == 0)
        check_books(a->world, "in the middle");
    else if (kind < 4)
        remap_step(a);
    else if (kind < 100 && a->pin_count > 0)
        unpin_one(a, rng_below(&a->rng, a->pin_count));
    else if (kind < 300)
        contested_step(a);
    else if (kind < 900)
        words_step(a, rng_below(&a->rng, WORD_PAGES), rng_one_in(&a->rng, 2));
    else
        area_step(a);
}

/* ---- threads ---- */

static void meet(struct actor *a)
{
    atomic_store(&a->world->report->busy[a->number], false);
    pthread_barrier_wait(&a->world->barrier);
    stepped(a);
    atomic_store(&a->world->report->busy[a->number], true);
}

/*
 * Pages in the pagefile alone, at least. No thread faults now, so there can only be more of them
 * later. One look may count a page too many: a frame that goes from one state to the next while the
 * states are read is in neither, and a handler may still serve a fault whose thread another's wake
 * has sent on. So it is the least of many looks.
 */
static uint64_t count_only_paged(struct world *w)
{
    uint64_t least = UINT64_MAX;

    for (unsigned look = 0; look < 50; look++) {
        struct vmsm_counters c;
        uint64_t framed, paged;

        torture_sleep(MILLISECOND);
        vmsm_get_counters(w->m, &c);
        framed = c.frames_active + c.frames_standby + c.frames_modified + c.frames_writing;
        paged = c.touched_pages > framed ? c.touched_pages - framed : 0;
        if (paged < least)
            least = paged;
    }
    return least;
}

/* While all threads wait: have the supervisor write over every slot. */
static void overwrite_all(struct world *w)
{
    w->only_paged = count_only_paged(w);
    atomic_store(&w->report->corrupt_all, true);
    while (atomic_load(&w->report->corrupt_all))
        torture_sleep(MILLISECOND);
}

/* Every page of the areas once, each by one thread. */
static void sweep(struct actor *a)
{
    struct world *w = a->world;
    unsigned position = THREADS_MAX - 1;
    uint64_t value;

    for (unsigned n = 0; n < w->plan->areas; n++) {
        struct area *area = &w->areas[n];

        for (size_t p = a->number; p < area->pages && area->access.base != NULL;
             p += w->plan->threads)
            area_read_whole(a, area, p, true);
    }
    for (size_t p = a->number; p < CONTESTED_PAGES; p += w->plan->threads)
        w->sweep_failed += access_load(&w->contested, p, &position, &value, 1) != 0;
    for (size_t p = a->number; p < WORD_PAGES; p += w->plan->threads)
        w->sweep_failed += access_load(&w->words, p, &position, &value, 1) != 0;
    for (size_t p = 0; p < WORD_PAGES; p++)
        words_step(a, p, false);
}

/*
 * While the control group has no room, the kernel cannot put a signal's frame, or what a system
 * call returns, on a page that is not there yet. So our own are there from the start.
 */
static void touch_own(struct actor *a)
{
    volatile char stack[STACK_TOUCHED];

    for (size_t i = 0; i < sizeof(stack); i += PAGE / 2)
        stack[i] = 1;
    memset(a->buffer, 1, sizeof(a->buffer));
    memset(a->expected, 1, sizeof(a->expected));
    memset(a->holds, 1, sizeof(a->holds));
}

static void *act(void *argument)
{
    struct actor *a = argument;
    struct world *w = a->world;

    touch_own(a);
    access_guard_thread();
    meet(a);
    if (a->number == 0)
        atomic_store(&w->report->life, LIFE_MIX);
    atomic_store(&w->report->busy[a->number], true);
    while (torture_now() < w->deadline && atomic_load(&w->report->wrong) == 0)
        step(a);
    while (a->pin_count > 0)
        unpin_one(a, 0);
    meet(a);
    if (a->number == 0) {
        atomic_store(&w->report->life, LIFE_SWEEP);
        if (w->plan->flags & DISTURB_CORRUPT)
            overwrite_all(w);
    }
    meet(a);
    sweep(a);
    atomic_store(&w->report->busy[a->number], false);
    return NULL;
}

/* Keeps the supervisor's copy of the counters fresh, so that it can be seen when all else hangs. */
static void *monitor(void *argument)
{
    struct world *w = argument;

    while (atomic_load(&w->report->life) < LIFE_END) {
        struct vmsm_counters c;

        vmsm_get_counters(w->m, &c);
        counters_copy(&w->report->counters, &c, sizeof(c));
        torture_sleep(MONITOR_NS);
    }
    return NULL;
}

/* Files for read() and write(), with their pages already, so that none is charged later. */
static int files_open(struct actor *actors, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct actor *a = &actors[i];

        a->file = memfd_create("torture", MFD_CLOEXEC);
        if (a->file < 0 ||
            pwrite(a->file, a->buffer, sizeof(a->buffer), 0) != (ssize_t)sizeof(a->buffer))
            return -1;
    }
    return 0;
}

static int actors_start(struct world *w, struct actor *actors, pthread_t *threads)
{
    for (unsigned i = 0; i < w->plan->threads; i++) {
        struct actor *a = &actors[i];

        a->world = w;
        a->number = i;
        a->rng.state = oracle_mix(w->plan->seed) + i;
        if (pthread_create(&threads[i], NULL, act, a) != 0)
            return -1;
    }
    return 0;
}

/* ---- the end ---- */

static uint64_t peak_resident(void)
{
    FILE *file = fopen("/proc/self/status", "re");
    unsigned long long kib = 0;
    char line[256];

    while (file != NULL && kib == 0 && fgets(line, sizeof(line), file) != NULL)
        (void)!sscanf(line, "VmHWM: %llu", &kib);
    if (file != NULL)
        fclose(file);
    return kib * 1024;
}

/* What must be so before anything is unmapped. */
static void judge_run(struct world *w)
{
    struct vmsm_counters c;
    uint64_t allowance = plan_allowance(w->plan);

    check_books(w, "after the sweep");
    vmsm_get_counters(w->m, &c);
    counters_copy(&w->report->counters, &c, sizeof(c));
    if (!w->errors && c.pages_lost + c.faults_failed > 0)
        complain(w, "%llu pages were lost and %llu faults failed, though no page had to",
                 (unsigned long long)c.pages_lost, (unsigned long long)c.faults_failed);
    if (c.pinned_pages != 0)
        complain(w, "%llu pages are pinned, but all were unpinned",
                 (unsigned long long)c.pinned_pages);
    if (atomic_load(&w->sweep_failed) < w->only_paged)
        complain(
            w,
            "%llu pages were in the pagefile alone when it was overwritten, but only %llu failed",
            (unsigned long long)w->only_paged, (unsigned long long)atomic_load(&w->sweep_failed));
    atomic_store(&w->report->peak, peak_resident());
    if (atomic_load(&w->report->peak) > allowance)
        complain(w, "%llu KiB were resident at most, more than the %llu allowed",
                 (unsigned long long)atomic_load(&w->report->peak) / 1024,
                 (unsigned long long)allowance / 1024);
}

/* Ranges that userfaultfd still watches; -1 if the kernel does not say. */
static int count_watched(void)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[512];
    int count = file != NULL ? 0 : -1;

    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        count += strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " um") != NULL;
    if (file != NULL)
        fclose(file);
    return count;
}

/* Unmap all, and see that nothing is left in the books; or leave it to vmsm_destroy(). */
static void unmap_all(struct world *w, struct actor *a)
{
    struct vmsm_counters c;

    for (unsigned n = 0; n < w->plan->areas; n++) {
        if (w->areas[n].access.base != NULL)
            area_unmap_rest(a, &w->areas[n]);
    }
    if (vmsm_unmap(w->m, w->words.base, WORD_PAGES * PAGE) != 0 ||
        vmsm_unmap(w->m, w->contested.base, CONTESTED_PAGES * PAGE) != 0)
        complain(w, "the last unmap: %s", vmsm_last_error());
    if (w->plan->mapper == MAPPER_COPY && count_watched() > 0)
        complain(w, "after the last unmap %d ranges are still mapped", count_watched());
    check_books(w, "after the last unmap");
    vmsm_get_counters(w->m, &c);
    if (c.touched_pages + c.mapped_pages + c.commit_pages + (c.slots_used - c.slots_bad) > 0)
        complain(w,
                 "after the last unmap %llu touched, %llu mapped, %llu promised, %llu slots remain",
                 (unsigned long long)c.touched_pages, (unsigned long long)c.mapped_pages,
                 (unsigned long long)c.commit_pages, (unsigned long long)c.slots_used);
}

/* ---- making it ---- */

static int world_open(struct world *w)
{
    void *words, *contested;
    int error = access_guard_install();

    if (error == 0)
        error = vmsm_create(&w->m, w->plan->conf);
    if (error != 0) {
        fprintf(stderr, "torture: %s: %s\n", w->plan->conf, vmsm_last_error());
        snprintf(w->report->words, WORDS_MAX, "no manager: %s", vmsm_last_error());
        return error;
    }
    if (vmsm_map(w->m, WORD_PAGES * PAGE, &words) != 0 ||
        vmsm_map(w->m, CONTESTED_PAGES * PAGE, &contested) != 0) {
        complain(w, "no room for the first pages: %s", vmsm_last_error());
        return -ENOMEM;
    }
    w->words =
        (struct access){.manager = w->m, .base = words, .soft = w->plan->mapper == MAPPER_SOFT};
    w->contested = w->words;
    w->contested.base = contested;
    for (unsigned n = 0; n < w->plan->areas; n++) {
        if (!area_open(&w->areas[n], oracle_mix(w->plan->seed) + n, w->plan->area_pages)) {
            complain(w, "no memory for the oracle");
            return -ENOMEM;
        }
    }
    pthread_barrier_init(&w->barrier, NULL, w->plan->threads);
    return 0;
}

static int live(struct world *w, struct actor *actors)
{
    pthread_t threads[THREADS_MAX], watcher;

    if (files_open(actors, w->plan->threads) != 0)
        return -1;
    w->deadline = torture_now() + w->plan->run_ns;
    if (pthread_create(&watcher, NULL, monitor, w) != 0 || actors_start(w, actors, threads) != 0)
        return -1;
    atomic_store(&w->report->busy[THREADS_MAX], false);
    for (unsigned i = 0; i < w->plan->threads; i++)
        pthread_join(threads[i], NULL);
    atomic_fetch_add(&w->report->steps[THREADS_MAX], 1);
    atomic_store(&w->report->busy[THREADS_MAX], true);
    judge_run(w);
    if (w->plan->seed % 2 == 0)
        unmap_all(w, &actors[0]);
    atomic_store(&w->report->life, LIFE_END);
    pthread_join(watcher, NULL);
    vmsm_destroy(w->m);
    return 0;
}

int mix_run(const struct plan *plan, struct report *report)
{
    static struct world world;
    static struct actor actors[THREADS_MAX];
    struct world *w = &world;
    uint64_t pin_share = plan->memory / PAGE / 8 / plan->threads;
    int error;

    w->plan = plan;
    w->report = report;
    w->errors = (plan->flags & PHASE_ERRORS) != 0;
    w->syscalls = plan->trap == TRAP_THREAD && plan->mapper != MAPPER_SOFT;
    w->pin_pages = pin_share < 32 ? (unsigned)pin_share : 32;
    atomic_store(&report->busy[THREADS_MAX], true);
    error = world_open(w);
    if (error == -ENOSYS || error == -EPERM)
        return STATUS_SETUP; /* this kernel, or this user, has no such mapper or trap */
    if (error != 0)
        return STATUS_WRONG;
    if (live(w, actors) != 0)
        complain(w, "threads cannot be started");
    return atomic_load(&report->wrong) > 0 ? STATUS_WRONG : STATUS_RIGHT;
}
