/*
 * What the end-to-end tests of real memory share: the mappers and traps to go through, a manager
 * with a region and ordinary loads and stores into it, pages pushed out of memory for certain,
 * and the log caught in a file.
 *
 * A test skips what this kernel or user cannot have, with the reason (manager_or_skip()).
 */
#ifndef TESTS_REAL_FIXTURE_H
#define TESTS_REAL_FIXTURE_H

#include <sys/mman.h>
#include <unistd.h>

#include "core/error.h"
#include "memory_fixture.h"
#include "sanitizer.h"

#define REAL_CONF_MAX 512
#define REAL_SWEEPS_MAX 100u

static const char *const real_kinds[] = {"mapper:copy,trap:thread", "mapper:copy,trap:sigbus",
                                         "mapper:move,trap:thread", "mapper:move,trap:sigbus"};

#define REAL_KINDS (sizeof(real_kinds) / sizeof(real_kinds[0]))

/* A manager with one region. */
struct real {
    struct vmsm *m;
    char *base;
    size_t pages;
    char conf[REAL_CONF_MAX];
};

static inline bool real_is_copy(const char *conf)
{
    return strstr(conf, "mapper:copy") != NULL;
}

static inline bool real_is_sigbus(const char *conf)
{
    return strstr(conf, "trap:sigbus") != NULL;
}

/* False after a skip, or a failed check. The settings that format makes are r->conf. */
__attribute__((format(printf, 3, 4))) static inline bool real_open(struct real *r, size_t pages,
                                                                   const char *format, ...)
{
    void *memory;
    va_list args;

    va_start(args, format);
    vsnprintf(r->conf, sizeof(r->conf), format, args);
    va_end(args);
    r->pages = pages;
    r->m = manager_or_skip(r->conf);
    if (r->m == NULL)
        return false;
    if (vmsm_map(r->m, pages * PAGE, &memory) != 0) {
        ok(false, "%s: %zu pages mapped: %s", r->conf, pages, vmsm_last_error());
        vmsm_destroy(r->m);
        return false;
    }
    r->base = memory;
    return true;
}

/* The end of every manager: do the books balance? */
static inline void real_close(struct real *r)
{
    is(vmsm_check(r->m), 0, "%s: books balanced", r->conf);
    vmsm_destroy(r->m);
    r->m = NULL;
}

/* Pages by ordinary stores and loads. */
static inline void real_fill(char *base, size_t page, uint64_t generation)
{
    uint64_t *words = (uint64_t *)(void *)(base + page * PAGE);

    for (size_t i = 0; i < WORDS; i++)
        words[i] = word_of(page, i, generation);
}

/* generation 0: all zero */
static inline bool real_right(const char *base, size_t page, uint64_t generation)
{
    const uint64_t *words = (const uint64_t *)(const void *)(base + page * PAGE);

    for (size_t i = 0; i < WORDS; i++) {
        if (words[i] != (generation == 0 ? 0 : word_of(page, i, generation)))
            return false;
    }
    return true;
}

/* real_fill(); false if it raised SIGBUS. */
static inline bool real_try_fill(char *base, size_t page, uint64_t generation)
{
    if (sigsetjmp(touch_escape, 1) != 0)
        return false;
    touch_armed = 1;
    real_fill(base, page, generation);
    touch_armed = 0;
    return true;
}

static inline enum page_look real_look(const char *base, size_t page, uint64_t generation)
{
    bool right;

    if (sigsetjmp(touch_escape, 1) != 0)
        return PAGE_FAILED;
    touch_armed = 1;
    right = real_right(base, page, generation);
    touch_armed = 0;
    return right ? PAGE_RIGHT : PAGE_WRONG;
}

static inline void real_fill_all(const struct real *r, uint64_t generation)
{
    for (size_t p = 0; p < r->pages; p++)
        real_fill(r->base, p, generation);
}

static inline size_t real_count_wrong(const struct real *r, size_t from, size_t to,
                                      uint64_t generation)
{
    size_t wrong = 0;

    for (size_t p = from; p < to; p++)
        wrong += !real_right(r->base, p, generation);
    return wrong;
}

/* How many of the pages are under their addresses now, as the kernel sees it. */
static inline size_t real_resident(const char *base, size_t first, size_t count)
{
    unsigned char here;
    size_t n = 0;

    for (size_t p = first; p < first + count; p++) {
        if (mincore((void *)(uintptr_t)(base + p * PAGE), PAGE, &here) == 0)
            n += here & 1;
    }
    return n;
}

/*
 * Push a range out of memory: say that it is not needed, and read others, of which there must be
 * more than fit, below the page `wall`.
 */
static inline bool real_evict(const struct real *r, size_t first, size_t count, size_t wall)
{
    for (unsigned sweep = 0; sweep < REAL_SWEEPS_MAX; sweep++) {
        vmsm_advise(r->m, r->base + first * PAGE, count * PAGE, VMSM_DONTNEED);
        for (size_t p = 0; p < wall; p++) {
            if (p % 64 == 0 && real_resident(r->base, first, count) == 0)
                return true;
            if (p < first || p >= first + count)
                (void)*(volatile char *)(r->base + p * PAGE);
        }
    }
    return ok(false, "%s: pages %zu to %zu leave memory", r->conf, first, first + count - 1);
}

/* ---- what is logged ---- */

/* Messages go to a nameless file from here on; -1: there is none. */
static inline int log_catch(void)
{
    char name[] = "/tmp/vmsm-log-XXXXXX";
    int fd = mkstemp(name);

    if (fd >= 0) {
        unlink(name);
        log_use_descriptor(fd);
    }
    return fd;
}

/* Has a message with this text been logged since log_catch()? */
static inline bool log_has(int fd, const char *text)
{
    static char all[1 << 18];
    ssize_t got = pread(fd, all, sizeof(all) - 1, 0);

    if (got < 0)
        return false;
    all[got] = '\0';
    return strstr(all, text) != NULL;
}

#endif
