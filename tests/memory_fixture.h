/*
 * What tests of managed memory share: a manager or a skip, page content that tells its place, and
 * touches that survive SIGBUS.
 */
#ifndef TESTS_MEMORY_FIXTURE_H
#define TESTS_MEMORY_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>

#include "tap.h"
#include "vmsm.h"

#define PAGE 4096UL
#define WORDS (PAGE / sizeof(uint64_t))

/* A manager, or NULL after a skip with the reason why this kernel or user cannot have it. */
static inline struct vmsm *manager_or_skip(const char *conf)
{
    struct vmsm *m = NULL;
    int error = vmsm_create(&m, conf);

    if (error == 0)
        return m;
    if (error == -ENOSYS || error == -EPERM)
        skip("%s: %s", conf, vmsm_last_error());
    else
        ok(false, "%s: %s", conf, vmsm_last_error());
    return NULL;
}

static inline uint64_t word_of(size_t page, size_t word, uint64_t generation)
{
    return (page * WORDS + word + 1) * UINT64_C(0x9e3779b97f4a7c15) + generation;
}

/* Works with every mapper. 0 or a negative errno. */
static inline int page_write(struct vmsm *m, char *base, size_t page, uint64_t generation)
{
    uint64_t words[WORDS];

    for (size_t i = 0; i < WORDS; i++)
        words[i] = word_of(page, i, generation);
    return vmsm_write(m, base + page * PAGE, words, PAGE);
}

/* Is every word right? generation 0: all zero. */
static inline bool page_right(struct vmsm *m, const char *base, size_t page, uint64_t generation)
{
    uint64_t words[WORDS];

    if (vmsm_read(m, base + page * PAGE, words, PAGE) != 0)
        return false;
    for (size_t i = 0; i < WORDS; i++) {
        if (words[i] != (generation == 0 ? 0 : word_of(page, i, generation)))
            return false;
    }
    return true;
}

static inline size_t pages_wrong(struct vmsm *m, const char *base, size_t pages,
                                 uint64_t generation)
{
    size_t wrong = 0;

    for (size_t p = 0; p < pages; p++)
        wrong += !page_right(m, base, p, generation);
    return wrong;
}

static inline void pages_write(struct vmsm *m, char *base, size_t pages, uint64_t generation)
{
    for (size_t p = 0; p < pages; p++) {
        if (page_write(m, base, p, generation) != 0)
            ok(false, "page %zu can be written: %s", p, vmsm_last_error());
    }
}

static inline struct vmsm_counters counters_of(struct vmsm *m)
{
    struct vmsm_counters c;

    vmsm_get_counters(m, &c);
    return c;
}

static sigjmp_buf touch_escape;

static inline void touch_failed(int signal)
{
    (void)signal;
    siglongjmp(touch_escape, 1);
}

/* To be called before the manager is made: its handler hands on to this one. */
static inline void catch_sigbus(void)
{
    struct sigaction action = {.sa_handler = touch_failed, .sa_flags = SA_NODEFER};

    sigaction(SIGBUS, &action, NULL);
}

/* Read a byte; false if that raised SIGBUS. */
static inline bool touch(const volatile char *address)
{
    if (sigsetjmp(touch_escape, 1) != 0)
        return false;
    (void)*address;
    return true;
}

#endif
