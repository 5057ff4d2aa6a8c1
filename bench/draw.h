/*
 * What a workload draws: random numbers, a permutation of the pages, ranks of a Zipf distribution.
 * All of it repeats with the seed, and none of it needs memory in proportion to the pages.
 */
#ifndef VMSM_BENCH_DRAW_H
#define VMSM_BENCH_DRAW_H

#include <math.h>
#include <stdint.h>

#define GOLDEN UINT64_C(0x9e3779b97f4a7c15)

static inline uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static inline uint64_t random_next(uint64_t *state)
{
    *state += GOLDEN;
    return mix(*state);
}

/* Uniform in [0, bound). */
static inline uint64_t random_below(uint64_t *state, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)random_next(state) * bound) >> 64);
}

/* Uniform in [0, 1). */
static inline double random_unit(uint64_t *state)
{
    return (double)(random_next(state) >> 11) * 0x1p-53;
}

/*
 * A permutation of 0 … count - 1 in which neighbours come to lie far apart. Two rounds of a
 * multiplication and a shift, both of which can be undone, permute the numbers below the next
 * power of two; what falls beyond count is permuted again until it falls below.
 */
struct permutation {
    uint64_t count, mask;
    unsigned shift; /* half the bits or more, so that x ^ x >> shift undoes itself */
};

#define PERMUTATION_A UINT64_C(0xd1342543de82ef95)
#define PERMUTATION_B UINT64_C(0xaf251af3b0f025b5)

static inline struct permutation permutation_make(uint64_t count)
{
    struct permutation p = {.count = count, .mask = 1};
    unsigned bits = 1;

    for (; p.mask < count - 1; bits++)
        p.mask = p.mask << 1 | 1;
    p.shift = (bits + 1) / 2;
    return p;
}

/* The odd number that odd is to be multiplied with to make 1 (modulo 2^64), by Newton's method. */
static inline uint64_t inverse_of(uint64_t odd)
{
    uint64_t x = odd;

    for (int i = 0; i < 5; i++)
        x *= 2 - odd * x;
    return x;
}

static inline uint64_t permutation_round(const struct permutation *p, uint64_t x)
{
    x = (x * PERMUTATION_A) & p->mask;
    x ^= x >> p->shift;
    x = (x * PERMUTATION_B) & p->mask;
    return x ^ x >> p->shift;
}

static inline uint64_t permutation_round_back(const struct permutation *p, uint64_t x)
{
    x ^= x >> p->shift;
    x = (x * inverse_of(PERMUTATION_B)) & p->mask;
    x ^= x >> p->shift;
    return (x * inverse_of(PERMUTATION_A)) & p->mask;
}

static inline uint64_t permutation_at(const struct permutation *p, uint64_t index)
{
    do
        index = permutation_round(p, index);
    while (index >= p->count);
    return index;
}

/* The successor of page in a cycle through all pages: the order in which a count up meets them. */
static inline uint64_t cycle_next(const struct permutation *p, uint64_t page)
{
    uint64_t index = permutation_round_back(p, page);

    do {
        index = (index + 1) & p->mask;
        page = permutation_round(p, index);
    } while (page >= p->count);
    return page;
}

/*
 * Ranks 1 … count with probabilities in proportion to rank^-skew, in constant time and memory:
 * rejection-inversion, W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates
 * from monotone discrete distributions", ACM Transactions on Modeling and Computer Simulation 6(3),
 * 1996. The hat is the integral of x^-skew; the names are those of the paper. skew is not 1.
 */
struct zipf {
    double skew, count;
    double h_first, h_last; /* the range from which the hat is inverted */
    double s;               /* nearer to a rank than this is accepted without a look */
};

static inline double zipf_h(const struct zipf *z, double x)
{
    return (pow(x, 1 - z->skew) - 1) / (1 - z->skew);
}

static inline double zipf_h_inverse(const struct zipf *z, double y)
{
    return pow(1 + y * (1 - z->skew), 1 / (1 - z->skew));
}

static inline struct zipf zipf_make(uint64_t count, double skew)
{
    struct zipf z = {.skew = skew, .count = (double)count};

    z.h_first = zipf_h(&z, 1.5) - 1;
    z.h_last = zipf_h(&z, z.count + 0.5);
    z.s = 2 - zipf_h_inverse(&z, zipf_h(&z, 2.5) - pow(2, -skew));
    return z;
}

static inline uint64_t zipf_draw(const struct zipf *z, uint64_t *random)
{
    for (;;) {
        double u = z->h_last + random_unit(random) * (z->h_first - z->h_last);
        double x = zipf_h_inverse(z, u);
        double k = floor(x + 0.5);

        k = k < 1 ? 1 : k > z->count ? z->count : k;
        if (k - x <= z->s || u >= zipf_h(z, k + 0.5) - pow(k, -z->skew))
            return (uint64_t)k;
    }
}

#endif
