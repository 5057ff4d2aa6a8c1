/*
 * Pages whose content is known: each call under the holds that make its result certain.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mix.h"

/* What must be there, or the torture itself cannot go on. */
static void need(bool have, const char *what)
{
    if (have)
        return;
    fprintf(stderr, "torture: %s: %s\n", what, strerror(errno));
    abort();
}

/* A failed access or call: allowed, or wrong. */
static void failed(struct actor *a, const char *what, const struct area *area, size_t page,
                   int error)
{
    atomic_fetch_add(&a->world->report->failed, 1);
    if (!a->world->errors)
        complain(a->world, "%s of page %zu of %p failed (%d): %s", what, page,
                 (void *)area->access.base, error, vmsm_last_error());
}

/* ---- areas ---- */

/* For up to `pages` pages. All memory is taken now: later there may be none. */
bool area_open(struct area *area, uint64_t seed, size_t pages)
{
    pthread_rwlock_init(&area->lock, NULL);
    area->gone = calloc(pages, sizeof(*area->gone));
    area->pins = calloc(pages, sizeof(*area->pins));
    return area->gone != NULL && area->pins != NULL && oracle_open(&area->oracle, seed, pages) == 0;
}

/* The lock is held exclusive. There may be no room, then it stays unmapped. */
void area_map(struct actor *a, struct area *area, size_t pages)
{
    struct world *w = a->world;
    bool sparse = rng_one_in(&a->rng, 3);
    void *base;
    int error =
        sparse ? vmsm_reserve(w->m, pages * PAGE, &base) : vmsm_map(w->m, pages * PAGE, &base);

    if (error != 0) {
        if (error != -ENOMEM && error != -ENOSPC)
            complain(w, "mapping %zu pages is %d: %s", pages, error, vmsm_last_error());
        return;
    }
    /* All pages are at generation 0, of a seed that no area had before. */
    area->oracle.seed = oracle_mix(area->oracle.seed + 1);
    for (size_t p = 0; p < pages; p++) {
        atomic_store(&area->oracle.words[p], 0);
        atomic_store(&area->pins[p], 0);
        area->gone[p] = false;
    }
    area->pages = pages;
    area->access =
        (struct access){.manager = w->m, .base = base, .soft = w->plan->mapper == MAPPER_SOFT};
}

static char *address(const struct area *area, size_t page)
{
    return (char *)area->access.base + page * PAGE;
}

static bool pinned_between(const struct area *area, size_t from, size_t count)
{
    for (size_t p = from; p < from + count; p++) {
        if (atomic_load(&area->pins[p]) > 0)
            return true;
    }
    return false;
}

/* May an unmap be refused, the kernel having no memory to split the range? */
static bool no_memory(const struct world *w, int error)
{
    return error == -ENOMEM && (w->plan->flags & DISTURB_DIP);
}

/* Unmap what is left of an area, unless pins forbid it. The lock is held exclusive. */
void area_unmap_rest(struct actor *a, struct area *area)
{
    struct world *w = a->world;
    bool left = false;
    size_t count;

    for (size_t p = 0; p < area->pages; p += count) {
        bool gone = area->gone[p];
        int error, want;

        for (count = 1; p + count < area->pages && area->gone[p + count] == gone;)
            count++;
        if (gone)
            continue;
        want = pinned_between(area, p, count) ? -EBUSY : 0;
        error = vmsm_unmap(w->m, address(area, p), count * PAGE);
        if (error != want && !no_memory(w, error))
            complain(w, "unmap of %zu pages is %d, should be %d: %s", count, error, want,
                     vmsm_last_error());
        if (error == 0)
            memset(area->gone + p, true, count);
        left |= error != 0;
    }
    if (!left)
        area->access.base = NULL;
}

/* ---- one page ---- */

static void mismatch(struct actor *a, struct area *area, const struct oracle_hold *hold,
                     unsigned position, uint64_t expected, uint64_t found)
{
    static _Thread_local uint64_t second[ACCESS_PAGE_WORDS];
    bool again = access_load_page(&area->access, hold->page, second) == 0;
    struct oracle_mismatch m = {.hold = hold,
                                .address = address(area, hold->page),
                                .position = position,
                                .expected = expected,
                                .found = found,
                                .second = again ? second : NULL};

    oracle_complain(&area->oracle, &m);
    complain(a->world,
             "WRONG DATA: page %llu at %p, generation %u, word %u: expected %016llx, found %016llx",
             (unsigned long long)hold->page, m.address, hold->generation, position,
             (unsigned long long)expected, (unsigned long long)found);
}

void area_read(struct actor *a, struct area *area, size_t page)
{
    struct oracle_hold hold = oracle_read_begin(&area->oracle, page);
    uint64_t found[ORACLE_WORDS];
    struct oracle_content content;
    int error;

    if (area->gone[page])
        goto out;
    oracle_content(&area->oracle, page, hold.generation, rng_next(&a->rng), &content);
    error = access_load(&area->access, page, content.positions, found, ORACLE_WORDS);
    stepped(a);
    if (error != 0)
        failed(a, "load", area, page, error);
    for (unsigned i = 0; i < ORACLE_WORDS && error == 0 && !hold.torn; i++) {
        if (found[i] == content.values[i])
            continue;
        mismatch(a, area, &hold, content.positions[i], content.values[i], found[i]);
        break;
    }
out:
    oracle_read_end(&area->oracle, &hold);
}

/* Compare all words of a held page, as found. */
static void compare(struct actor *a, struct area *area, const struct oracle_hold *hold,
                    const uint64_t *found)
{
    if (hold->torn)
        return;
    oracle_page(&area->oracle, hold->page, hold->generation, a->expected);
    for (unsigned i = 0; i < ACCESS_PAGE_WORDS; i++) {
        if (found[i] == a->expected[i])
            continue;
        mismatch(a, area, hold, i, a->expected[i], found[i]);
        return;
    }
}

void area_read_whole(struct actor *a, struct area *area, size_t page, bool sweep)
{
    struct oracle_hold hold = oracle_read_begin(&area->oracle, page);
    int error;

    if (area->gone[page])
        goto out;
    error = access_load_page(&area->access, page, a->buffer);
    stepped(a);
    if (error == 0) {
        compare(a, area, &hold, a->buffer);
        goto out;
    }
    failed(a, "load", area, page, error);
    atomic_fetch_add(&a->world->sweep_failed, sweep);
out:
    oracle_read_end(&area->oracle, &hold);
}

/* The page was zeroed by a call, or is to be taken as unknown: the next clearing generation. */
static void end_cleared(struct area *area, struct oracle_hold *hold)
{
    hold->torn = true;
    oracle_write_end(&area->oracle, hold, oracle_next(&area->oracle, hold), false);
}

void area_write(struct actor *a, struct area *area, size_t page)
{
    struct oracle_hold hold = oracle_write_begin(&area->oracle, page);
    uint32_t next = oracle_next(&area->oracle, &hold);
    struct oracle_content content;
    int error;

    if (area->gone[page]) {
        oracle_write_end(&area->oracle, &hold, hold.generation, hold.torn);
        return;
    }
    oracle_content(&area->oracle, page, next, 0, &content);
    error = content.clear ? access_clear(&area->access, page)
                          : access_store(&area->access, page, content.positions, content.values,
                                         ORACLE_WORDS);
    stepped(a);
    if (error == 0) {
        oracle_write_end(&area->oracle, &hold, next, false);
        return;
    }
    failed(a, "store", area, page, error);
    /* A page that can't be had is given up by decommit, sometimes; it may hold a part of the store.
     */
    if (rng_one_in(&a->rng, 2) && atomic_load(&area->pins[page]) == 0) {
        error = vmsm_decommit(a->world->m, address(area, page), PAGE);
        if (error == 0) {
            end_cleared(area, &hold);
            return;
        }
        complain(a->world, "decommit of a page that failed is %d: %s", error, vmsm_last_error());
    }
    oracle_write_end(&area->oracle, &hold, hold.generation, true);
}

/* ---- ranges ---- */

/* Hold up to count pages for reading; as many as are mapped, from `from` on. */
static size_t read_holds(struct area *area, size_t from, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct oracle_hold hold = oracle_read_begin(&area->oracle, from + i);

        if (area->gone[from + i]) {
            oracle_read_end(&area->oracle, &hold);
            return i;
        }
    }
    return count;
}

static void read_unholds(struct area *area, size_t from, size_t count)
{
    for (size_t i = 0; i < count; i++)
        oracle_read_end(&area->oracle, &(struct oracle_hold){.page = from + i});
}

void area_discard(struct actor *a, struct area *area, size_t from, size_t count, bool unmap)
{
    struct world *w = a->world;
    struct oracle_hold *holds = a->holds;
    size_t n = 0;
    int error, want;

    for (; n < count; n++) {
        holds[n] = oracle_write_begin(&area->oracle, from + n);
        if (!area->gone[from + n])
            continue;
        oracle_write_end(&area->oracle, &holds[n], holds[n].generation, holds[n].torn);
        break;
    }
    if (n == 0)
        return;
    want = pinned_between(area, from, n) ? -EBUSY : 0;
    error = unmap ? vmsm_unmap(w->m, address(area, from), n * PAGE)
                  : vmsm_decommit(w->m, address(area, from), n * PAGE);
    stepped(a);
    if (error != want && !(unmap && no_memory(w, error)))
        complain(w, "%s of %zu pages is %d, should be %d: %s", unmap ? "unmap" : "decommit", n,
                 error, want, vmsm_last_error());
    for (size_t i = 0; i < n; i++) {
        if (error != 0) {
            oracle_write_end(&area->oracle, &holds[i], holds[i].generation, holds[i].torn);
            continue;
        }
        area->gone[from + i] = unmap;
        end_cleared(area, &holds[i]);
    }
}

void area_advise(struct actor *a, struct area *area, size_t from, size_t count,
                 enum vmsm_advice advice)
{
    size_t n = read_holds(area, from, count);
    int error = n > 0 ? vmsm_advise(a->world->m, address(area, from), n * PAGE, advice) : 0;

    stepped(a);
    read_unholds(area, from, n);
    if (error != 0)
        failed(a, "advice", area, from, error);
}

void area_prefault(struct actor *a, struct area *area, size_t from, size_t count)
{
    size_t n = read_holds(area, from, count);
    struct iovec ranges[2] = {{address(area, from), n * PAGE},
                              {address(area, from) + n * PAGE / 2, 1}};
    int error = n > 0 ? vmsm_prefault(a->world->m, ranges, 2) : 0;

    stepped(a);
    read_unholds(area, from, n);
    if (error != 0)
        failed(a, "prefault", area, from, error);
}

void area_pin(struct actor *a, unsigned number, size_t from, size_t count)
{
    struct area *area = &a->world->areas[number];
    size_t n;
    int error;

    if (a->pin_count == PINS_MAX || a->pinned + count > a->world->pin_pages)
        return;
    n = read_holds(area, from, count);
    error = n > 0 ? vmsm_pin(a->world->m, address(area, from), n * PAGE) : -ENOMEM;
    stepped(a);
    for (size_t p = from; p < from + n && error == 0; p++)
        atomic_fetch_add(&area->pins[p], 1);
    read_unholds(area, from, n);
    if (error == 0) {
        a->pins[a->pin_count++] = (struct pin){.area = number, .from = from, .count = n};
        a->pinned += (unsigned)n;
    } else if (error != -ENOMEM) {
        failed(a, "pin", area, from, error);
    }
}

/* The area's lock is held shared; it cannot have gone, being pinned. */
void area_unpin(struct actor *a, unsigned which)
{
    struct pin pin = a->pins[which];
    struct area *area = &a->world->areas[pin.area];
    size_t n = read_holds(area, pin.from, pin.count);
    int error = vmsm_unpin(a->world->m, address(area, pin.from), pin.count * PAGE);

    stepped(a);
    for (size_t p = pin.from; p < pin.from + pin.count && error == 0; p++)
        atomic_fetch_sub(&area->pins[p], 1);
    read_unholds(area, pin.from, n);
    if (n != pin.count || error != 0)
        complain(a->world, "unpin of %zu pages is %d: %s", pin.count, error, vmsm_last_error());
    a->pinned -= (unsigned)pin.count;
    a->pins[which] = a->pins[--a->pin_count];
}

/* ---- system calls ---- */

/*
 * A system call failed. While the control group has no room, the kernel may lack a page for its
 * own tables, and then says EFAULT whatever a handler could do.
 */
static void call_failed(struct actor *a, const char *what, const struct area *area, size_t page,
                        int error)
{
    if (error == -EFAULT && (a->world->plan->flags & DISTURB_DIP))
        atomic_fetch_add(&a->world->report->failed, 1);
    else
        failed(a, what, area, page, error);
}

/* write() from managed memory into a file, and see what came there. */
void area_system_write(struct actor *a, struct area *area, size_t from, size_t count)
{
    struct oracle_hold holds[8];
    ssize_t got = 0;
    size_t n = 0;

    for (; n < count && n < 8; n++) {
        holds[n] = oracle_read_begin(&area->oracle, from + n);
        if (!area->gone[from + n])
            continue;
        oracle_read_end(&area->oracle, &holds[n]);
        break;
    }
    if (n > 0)
        got = pwrite(a->file, address(area, from), n * PAGE, 0);
    stepped(a);
    if (got != (ssize_t)(n * PAGE))
        call_failed(a, "write()", area, from, got < 0 ? -errno : (int)got);
    else
        need(pread(a->file, a->buffer, n * PAGE, 0) == got, "reading our own file");
    for (size_t i = 0; i < n; i++) {
        if (got == (ssize_t)(n * PAGE))
            compare(a, area, &holds[i], a->buffer + i * ACCESS_PAGE_WORDS);
        oracle_read_end(&area->oracle, &holds[i]);
    }
}

/* read() into managed memory. */
void area_system_read(struct actor *a, struct area *area, size_t page)
{
    struct oracle_hold hold = oracle_write_begin(&area->oracle, page);
    uint32_t next = oracle_next(&area->oracle, &hold);
    ssize_t got;

    if (area->gone[page]) {
        oracle_write_end(&area->oracle, &hold, hold.generation, hold.torn);
        return;
    }
    oracle_page(&area->oracle, page, next, a->expected);
    need(pwrite(a->file, a->expected, PAGE, 0) == (ssize_t)PAGE, "writing our own file");
    got = pread(a->file, address(area, page), PAGE, 0);
    stepped(a);
    if (got != (ssize_t)PAGE)
        call_failed(a, "read()", area, page, got < 0 ? -errno : (int)got);
    oracle_write_end(&area->oracle, &hold, got == (ssize_t)PAGE ? next : hold.generation,
                     got != (ssize_t)PAGE);
}
