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

/* Where a signal that a touch raises leads to: into a function that has not returned, while armed. */
static _Thread_local sigjmp_buf touch_escape;
static _Thread_local volatile sig_atomic_t touch_armed;

static inline void touch_failed(int number)
{
    if (touch_armed) {
        touch_armed = 0;
        siglongjmp(touch_escape, 1);
    }
    /* Nobody expects it: what raised it is done again, and ends the test. */
    signal(number, SIG_DFL);
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
    touch_armed = 1;
    (void)*address;
    touch_armed = 0;
    return true;
}

/* page_write(); false if it failed or raised SIGBUS. */
static inline bool page_try_write(struct vmsm *m, char *base, size_t page, uint64_t generation)
{
    bool written;

    if (sigsetjmp(touch_escape, 1) != 0)
        return false;
    touch_armed = 1;
    written = page_write(m, base, page, generation) == 0;
    touch_armed = 0;
    return written;
}

enum page_look { PAGE_RIGHT, PAGE_WRONG, PAGE_FAILED };

/* Is every word right, or did looking raise SIGBUS? A page may leave memory between two looks. */
static inline enum page_look page_look(struct vmsm *m, const char *base, size_t page,
                                       uint64_t generation)
{
    bool right;

    if (sigsetjmp(touch_escape, 1) != 0)
        return PAGE_FAILED;
    touch_armed = 1;
    right = page_right(m, base, page, generation);
    touch_armed = 0;
    return right ? PAGE_RIGHT : PAGE_WRONG;
}

#endif
