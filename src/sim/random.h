/*
 * Random numbers that depend on a seed alone: SplitMix64 (Steele, Lea, Flood, "Fast splittable
 * pseudorandom number generators", OOPSLA 2014).
 */
#ifndef VMSM_SIM_RANDOM_H
#define VMSM_SIM_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

struct random {
    uint64_t state;
};

static inline uint64_t random_next(struct random *r)
{
    uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* 0 to below - 1; 0 if below is 0. */
static inline uint64_t random_below(struct random *r, uint64_t below)
{
    return below == 0 ? 0 : random_next(r) % below;
}

static inline uint64_t random_between(struct random *r, uint64_t low, uint64_t high)
{
    return low + random_below(r, high - low + 1);
}

/* True once in `every` times; never if every is 0. */
static inline bool random_once_in(struct random *r, uint64_t every)
{
    return every != 0 && random_below(r, every) == 0;
}

/* Another sequence that depends on this one's seed. */
static inline struct random random_fork(struct random *r)
{
    return (struct random){random_next(r)};
}

#endif
