/*
 * All calls at random from several threads, at tight memory: content is what an oracle in ordinary
 * memory says, every call returns what its arguments deserve, nothing hangs, and the books balance.
 *
 * VMSM_STRESS_SECONDS: how long each combination runs (3). VMSM_STRESS_SEED: repeat a run's
 * choices.
 */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "memory_fixture.h"

#define THREADS 4u
#define AREAS 3u
#define AREA_PAGES 700u
#define SHARED_PAGES 384u
#define CONTESTED_PAGES 48u
#define PINS_MAX 24u /* pages that one thread keeps pinned at most */
#define HANG_SECONDS 120u
#define WRONG_LINES 5u

/* A region of one thread, or what is left of it. */
struct area {
    char *base;
    unsigned pages; /* 0: none */
    uint32_t generation[AREA_PAGES];
    bool mapped[AREA_PAGES];
    uint8_t pins[AREA_PAGES];
};

struct stress {
    struct vmsm *m;
    char *shared;    /* each thread has words of its own in each page */
    char *contested; /* any thread may do anything to any page: only the calls' results count */
    bool soft;
    const char *kind;
    uint64_t deadline; /* s */
};

struct actor {
    const struct stress *stress;
    unsigned number, pinned, wrong;
    uint64_t random, calls;
    struct area areas[AREAS];
    uint32_t shared[SHARED_PAGES]; /* what our words in the shared pages hold */
};

static const char *running = "nothing";

static void hung(int signal)
{
    static const char text[] = "Bail out! no end in sight: something hangs in ";

    (void)signal;
    if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0 ||
        write(STDOUT_FILENO, running, strlen(running)) < 0 || write(STDOUT_FILENO, "\n", 1) < 0)
        _exit(99);
    abort();
}

static uint64_t seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec;
}

/* xorshift64* */
static unsigned draw(struct actor *a, unsigned below)
{
    a->random ^= a->random >> 12;
    a->random ^= a->random << 25;
    a->random ^= a->random >> 27;
    return (unsigned)((a->random * UINT64_C(0x2545f4914f6cdd1d)) >> 33) % below;
}

__attribute__((format(printf, 2, 3))) static void complain(struct actor *a, const char *format, ...)
{
    char text[256];
    va_list args;

    if (++a->wrong > WRONG_LINES)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    note("%s, thread %u: %s", a->stress->kind, a->number, text);
}

static void expect(struct actor *a, int got, int want, const char *call, const struct area *area,
                   unsigned from, unsigned count)
{
    if (got != want)
        complain(a, "%s of %u pages from %u at %p is %d, should be %d: %s", call, count, from,
                 (void *)area->base, got, want, vmsm_last_error());
}

static char *page_at(const struct area *area, unsigned page)
{
    return area->base + page * PAGE;
}

/* ---- content ---- */

static void check_page(struct actor *a, const struct area *area, unsigned page)
{
    uint64_t words[WORDS], g = area->generation[page];
    int error = vmsm_read(a->stress->m, page_at(area, page), words, PAGE);

    expect(a, error, 0, "read", area, page, 1);
    for (size_t i = 0; i < WORDS && error == 0; i++) {
        uint64_t want = g == 0 ? 0 : word_of(page, i, g);

        if (words[i] == want)
            continue;
        complain(a, "page %u word %zu of %p is %#llx, should be %#llx (generation %llu)", page, i,
                 (void *)area->base, (unsigned long long)words[i], (unsigned long long)want,
                 (unsigned long long)g);
        return;
    }
}

/* Sometimes zeroes: a page that is trimmed as a zero page, and is not untouched. */
static void write_page(struct actor *a, struct area *area, unsigned page)
{
    static const uint64_t zeroes[WORDS];

    if (draw(a, 8) == 0) {
        area->generation[page] = 0;
        expect(a, vmsm_write(a->stress->m, page_at(area, page), zeroes, PAGE), 0, "write", area,
               page, 1);
        return;
    }
    area->generation[page] = 1 + draw(a, 1u << 30);
    expect(a, page_write(a->stress->m, area->base, page, area->generation[page]), 0, "write", area,
           page, 1);
}

/* ---- shared pages ---- */

static size_t own_word(const struct actor *a, unsigned page)
{
    return (page * 13 % (WORDS / THREADS)) * THREADS + a->number;
}

static void shared_check(struct actor *a, unsigned page)
{
    uint64_t *place = (uint64_t *)(void *)(a->stress->shared + page * PAGE) + own_word(a, page);
    uint64_t value = 0;

    if (a->stress->soft)
        vmsm_read(a->stress->m, place, &value, sizeof(value));
    else
        value = __atomic_load_n(place, __ATOMIC_RELAXED);
    if (value != a->shared[page])
        complain(a, "our word of shared page %u is %llu, should be %u", page,
                 (unsigned long long)value, a->shared[page]);
}

static void shared_write(struct actor *a, unsigned page)
{
    uint64_t *place = (uint64_t *)(void *)(a->stress->shared + page * PAGE) + own_word(a, page);
    uint64_t value = ++a->shared[page];

    if (a->stress->soft)
        vmsm_write(a->stress->m, place, &value, sizeof(value));
    else
        __atomic_store_n(place, value, __ATOMIC_RELAXED);
}

static void shared_step(struct actor *a)
{
    unsigned page = draw(a, SHARED_PAGES), count = 1 + draw(a, 32);
    char *start = a->stress->shared + page * PAGE;
    struct iovec range;

    if (page + count > SHARED_PAGES)
        count = SHARED_PAGES - page;
    range = (struct iovec){start, count * PAGE};
    switch (draw(a, 24)) {
    case 0:
        if (vmsm_prefault(a->stress->m, &range, 1) != 0)
            complain(a, "prefault of shared pages: %s", vmsm_last_error());
        break;
    case 1:
        if (vmsm_advise(a->stress->m, start, count * PAGE, VMSM_DONTNEED) != 0)
            complain(a, "advice for shared pages: %s", vmsm_last_error());
        break;
    case 2:
        if (vmsm_pin(a->stress->m, start, PAGE) == 0) {
            shared_write(a, page);
            if (vmsm_unpin(a->stress->m, start, PAGE) != 0)
                complain(a, "unpin of a shared page: %s", vmsm_last_error());
        }
        break;
    default:
        for (unsigned i = page; i < page + count; i++) {
            shared_check(a, i);
            if (draw(a, 2) == 0)
                shared_write(a, i);
        }
    }
}

/* ---- contested pages ---- */

static void contested_step(struct actor *a)
{
    unsigned page = draw(a, CONTESTED_PAGES), count = 1 + draw(a, CONTESTED_PAGES - page);
    char *start = a->stress->contested + page * PAGE;
    struct iovec range = {start, count * PAGE};
    uint64_t value = a->calls;
    int error = 0;

    switch (draw(a, 4)) {
    case 0:
        error = vmsm_decommit(a->stress->m, start, count * PAGE);
        if (error == -EBUSY) /* another thread's pin */
            error = 0;
        break;
    case 1:
        if (vmsm_pin(a->stress->m, start, PAGE) == 0)
            error = vmsm_unpin(a->stress->m, start, PAGE);
        break;
    case 2:
        error = vmsm_prefault(a->stress->m, &range, 1);
        break;
    default:
        for (unsigned i = 0; i < count && error == 0; i++)
            error = vmsm_write(a->stress->m, start + i * PAGE + a->number * sizeof(value), &value,
                               sizeof(value));
    }
    if (error != 0)
        complain(a, "a call for %u contested pages is %d: %s", count, error, vmsm_last_error());
}

/* ---- calls ---- */

static void map_area(struct actor *a, struct area *area)
{
    unsigned pages = 1 + draw(a, AREA_PAGES);
    void *base;
    int error = draw(a, 3) == 0 ? vmsm_reserve(a->stress->m, pages * PAGE, &base)
                                : vmsm_map(a->stress->m, pages * PAGE, &base);

    if (error != 0) {
        complain(a, "mapping %u pages: %s", pages, vmsm_last_error());
        return;
    }
    area->base = base;
    area->pages = pages;
    for (unsigned i = 0; i < pages; i++) {
        area->generation[i] = 0;
        area->mapped[i] = true;
        area->pins[i] = 0;
    }
}

/* A range of pages that are mapped, all of them, up to most; 0 pages if the area is all holes. */
static unsigned choose(struct actor *a, const struct area *area, unsigned most, unsigned *from)
{
    unsigned start = draw(a, area->pages), want = 1 + draw(a, most), count = 0;

    for (unsigned i = 0; i < area->pages && !area->mapped[start]; i++)
        start = (start + 1) % area->pages;
    while (count < want && start + count < area->pages && area->mapped[start + count])
        count++;
    *from = start;
    return count;
}

static bool any_pinned(const struct area *area, unsigned from, unsigned count)
{
    for (unsigned i = from; i < from + count; i++) {
        if (area->pins[i] > 0)
            return true;
    }
    return false;
}

static void discard(struct actor *a, struct area *area, unsigned from, unsigned count, bool unmap)
{
    int want = any_pinned(area, from, count) ? -EBUSY : 0;
    int got = unmap ? vmsm_unmap(a->stress->m, page_at(area, from), count * PAGE)
                    : vmsm_decommit(a->stress->m, page_at(area, from), count * PAGE);
    bool left = false;

    expect(a, got, want, unmap ? "unmap" : "decommit", area, from, count);
    for (unsigned i = from; got == 0 && i < from + count; i++) {
        area->generation[i] = 0;
        area->mapped[i] = !unmap;
    }
    for (unsigned i = 0; i < area->pages; i++)
        left |= area->mapped[i];
    if (!left)
        area->pages = 0;
}

static void pin(struct actor *a, struct area *area, unsigned from, unsigned count)
{
    int error;

    if (count > 8)
        count = 8;
    if (a->pinned + count > PINS_MAX)
        return;
    error = vmsm_pin(a->stress->m, page_at(area, from), count * PAGE);
    if (error == -ENOMEM)
        return;
    expect(a, error, 0, "pin", area, from, count);
    for (unsigned i = from; error == 0 && i < from + count; i++)
        area->pins[i]++;
    a->pinned += error == 0 ? count : 0;
}

static void unpin_all(struct actor *a, struct area *area)
{
    for (unsigned i = 0; i < area->pages; i++) {
        while (area->mapped[i] && area->pins[i] > 0) {
            expect(a, vmsm_unpin(a->stress->m, page_at(area, i), PAGE), 0, "unpin", area, i, 1);
            area->pins[i]--;
            a->pinned--;
        }
    }
}

static void prefault(struct actor *a, struct area *area, unsigned from, unsigned count)
{
    struct iovec ranges[2] = {{page_at(area, from), count * PAGE},
                              {page_at(area, from) + count * PAGE / 2, 1}};

    expect(a, vmsm_prefault(a->stress->m, ranges, 2), 0, "prefault", area, from, count);
}

static void area_step(struct actor *a)
{
    struct area *area = &a->areas[draw(a, AREAS)];
    unsigned from, count, kind;

    if (area->pages == 0) {
        map_area(a, area);
        return;
    }
    count = choose(a, area, draw(a, 4) == 0 ? 300 : 24, &from);
    kind = draw(a, 64);
    if (kind == 0)
        discard(a, area, from, count, true);
    else if (kind < 4)
        discard(a, area, from, count, false);
    else if (kind < 7)
        prefault(a, area, from, count);
    else if (kind < 11)
        expect(a,
               vmsm_advise(a->stress->m, page_at(area, from), count * PAGE,
                           (enum vmsm_advice)draw(a, VMSM_DONTNEED + 1)),
               0, "advise", area, from, count);
    else if (kind < 14)
        pin(a, area, from, count);
    else if (kind < 16)
        unpin_all(a, area);
    else {
        for (unsigned i = from; i < from + count; i++) {
            check_page(a, area, i);
            if (kind < 40)
                write_page(a, area, i);
        }
    }
}

static void step(struct actor *a)
{
    struct vmsm_counters c;
    unsigned kind = draw(a, 400);

    a->calls++;
    if (kind == 0 && vmsm_check(a->stress->m) != 0)
        complain(a, "in the middle: %s", vmsm_last_error());
    else if (kind == 1)
        vmsm_get_counters(a->stress->m, &c);
    else if (kind < 60)
        contested_step(a);
    else if (kind < 150)
        shared_step(a);
    else
        area_step(a);
}

/* Everything is right at the end, and is given back. */
static void finish(struct actor *a)
{
    for (unsigned n = 0; n < AREAS; n++) {
        struct area *area = &a->areas[n];

        unpin_all(a, area);
        for (unsigned i = 0; i < area->pages; i++) {
            if (area->mapped[i])
                check_page(a, area, i);
        }
        while (area->pages > 0) {
            unsigned from, count = choose(a, area, AREA_PAGES, &from), wrong = a->wrong;

            discard(a, area, from, count, true);
            if (a->wrong != wrong)
                return;
        }
    }
    for (unsigned i = 0; i < SHARED_PAGES; i++)
        shared_check(a, i);
}

static void *act(void *argument)
{
    struct actor *a = argument;

    while (seconds_now() < a->stress->deadline && a->wrong == 0)
        step(a);
    finish(a);
    return NULL;
}

static void check_end(const struct stress *stress)
{
    struct vmsm_counters c;

    vmsm_unmap(stress->m, stress->contested, CONTESTED_PAGES * PAGE);
    is(vmsm_unmap(stress->m, stress->shared, SHARED_PAGES * PAGE), 0, "%s: all is unmapped",
       stress->kind);
    is(vmsm_check(stress->m), 0, "%s: books balanced", stress->kind);
    c = counters_of(stress->m);
    is(c.touched_pages + c.mapped_pages + c.pinned_pages + c.commit_pages, 0,
       "%s: no page is left in the books", stress->kind);
    is(c.slots_used, 0, "%s: no slot is left", stress->kind);
    is(c.pages_lost + c.faults_failed, 0, "%s: no page was lost", stress->kind);
}

static void run(const char *kind, uint64_t seconds, uint64_t seed)
{
    static struct actor actors[THREADS];
    struct stress stress = {.kind = kind, .soft = strstr(kind, "mapper:soft") != NULL};
    pthread_t threads[THREADS];
    unsigned wrong = 0;
    uint64_t calls = 0;
    char conf[128];
    void *shared, *contested;

    snprintf(conf, sizeof(conf), "memory:2M,%s", kind);
    running = kind;
    alarm((unsigned)seconds + HANG_SECONDS);
    stress.m = manager_or_skip(conf);
    if (stress.m == NULL)
        return;
    if (!ok(vmsm_map(stress.m, SHARED_PAGES * PAGE, &shared) == 0 &&
                vmsm_map(stress.m, CONTESTED_PAGES * PAGE, &contested) == 0,
            "%s: mapped", kind))
        exit(done_testing());
    stress.shared = shared;
    stress.contested = contested;
    stress.deadline = seconds_now() + seconds;
    memset(actors, 0, sizeof(actors));
    for (unsigned i = 0; i < THREADS; i++) {
        actors[i].stress = &stress;
        actors[i].number = i;
        actors[i].random = (seed + i) * UINT64_C(0x9e3779b97f4a7c15) | 1;
        if (pthread_create(&threads[i], NULL, act, &actors[i]) != 0)
            exit(99);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        wrong += actors[i].wrong;
        calls += actors[i].calls;
    }
    is(wrong, 0, "%s: %llu steps, all right (seed %llu)", kind, (unsigned long long)calls,
       (unsigned long long)seed);
    check_end(&stress);
    vmsm_destroy(stress.m);
}

static uint64_t setting(const char *name, uint64_t standard)
{
    const char *text = getenv(name);

    return text != NULL ? strtoull(text, NULL, 10) : standard;
}

int main(void)
{
    static const char *const kinds[] = {"mapper:copy,trap:thread", "mapper:copy,trap:sigbus",
                                        "mapper:move,trap:thread", "mapper:move,trap:sigbus",
                                        "mapper:soft,trap:none"};
    uint64_t seconds = setting("VMSM_STRESS_SECONDS", 3);
    uint64_t seed = setting("VMSM_STRESS_SEED", (uint64_t)time(NULL));

    signal(SIGALRM, hung);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        run(kinds[i], seconds, seed);
    return done_testing();
}
