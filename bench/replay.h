/*
 * How often page replacement would find a page, had it a number of frames for a sequence of
 * touches: no memory, no time, hits only.
 *
 *   replay_lru()    evicts the page that was touched longest ago, and can read ahead
 *   replay_min()    evicts the page whose next touch is farthest: none that reads a page when it is
 *                   touched reads fewer (L. Belady, "A study of replacement algorithms for a
 *                   virtual-storage computer", IBM Systems Journal 5(2), 1966)
 *   replay_fixed()  keeps a set of pages for good
 *
 * Where each touch is drawn without regard to those before it, by chances that stay the same, none
 * that cannot foresee them expects more hits in the long run than from keeping the most popular
 * pages (A. Aho, P. Denning, J. Ullman, "Principles of optimal page replacement", Journal of the
 * ACM 18(1), 1971). MIN has more: it knows what will be drawn.
 */
#ifndef VMSM_BENCH_REPLAY_H
#define VMSM_BENCH_REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct replay {
    const uint32_t *touches; /* pages, in order */
    size_t warm, counted; /* touches that only fill the frames, and those after them that count */
    uint32_t pages;       /* each is below; with the touches, less than 2^32 */
    uint32_t frames;      /* at least one, and `run`; empty at first */
};

/* The hits among those that count; 0 or -ENOMEM. With a page that is missed, all of the `run` pages
 * of which it is one are read; there are as many frames. */
int replay_lru(const struct replay *replay, uint32_t run, size_t *hits);
int replay_min(const struct replay *replay, size_t *hits);
size_t replay_fixed(const struct replay *replay, const bool *kept);

#endif
