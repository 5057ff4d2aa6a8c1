#include "core/bitmap.h"

#include <errno.h>

#include "core/check.h"

#define WORD_BITS 64u
#define LOG_SEARCH_BLOCKS 4096u /* among so many the freest is looked for */
#define NEAR_BITS 16384u        /* among so many a run is looked for that is long enough */

static uint64_t blocks_of(uint64_t bits)
{
    return (bits + BITMAP_BLOCK - 1) / BITMAP_BLOCK;
}

int bitmap_init(struct bitmap *map, const struct platform *platform, struct sync *sync,
                uint64_t capacity, uint64_t limit)
{
    uint64_t blocks = blocks_of(capacity);

    map->platform = platform;
    map->sync = sync;
    map->capacity = blocks * BITMAP_BLOCK;
    atomic_init(&map->limit, limit);
    atomic_init(&map->used, 0);
    atomic_init(&map->cursor, 0);
    atomic_init(&map->near, 0);
    map->words = platform->reserve(map->capacity / 8);
    map->block_used = platform->reserve(blocks * sizeof(*map->block_used));
    if (map->words != NULL && map->block_used != NULL)
        return 0;
    bitmap_fini(map);
    return -ENOMEM;
}

void bitmap_fini(struct bitmap *map)
{
    if (map->words != NULL)
        map->platform->release(map->words, map->capacity / 8);
    if (map->block_used != NULL)
        map->platform->release(map->block_used,
                               blocks_of(map->capacity) * sizeof(*map->block_used));
    map->words = NULL;
    map->block_used = NULL;
}

/* Nothing beyond the limit has been touched. */
uint64_t bitmap_resident(const struct bitmap *map)
{
    uint64_t blocks = blocks_of(atomic_load(&map->limit));

    return map->platform->resident(map->words, blocks * BITMAP_BLOCK / 8) +
           map->platform->resident(map->block_used, blocks * sizeof(*map->block_used));
}

void bitmap_grow(struct bitmap *map, uint64_t limit)
{
    check_always(limit <= map->capacity && limit >= atomic_load(&map->limit));
    atomic_store(&map->limit, limit);
}

static void account(struct bitmap *map, uint64_t first, int count)
{
    atomic_fetch_add_explicit(&map->block_used[first / BITMAP_BLOCK], count, memory_order_relaxed);
    atomic_fetch_add_explicit(&map->used, (uint64_t)(int64_t)count, memory_order_relaxed);
}

bool bitmap_test(const struct bitmap *map, uint64_t bit)
{
    return atomic_load(&map->words[bit / WORD_BITS]) >> (bit % WORD_BITS) & 1;
}

bool bitmap_take_bit(struct bitmap *map, uint64_t bit)
{
    uint64_t mask = UINT64_C(1) << (bit % WORD_BITS);

    if (bit >= atomic_load(&map->limit))
        return false;
    if (atomic_fetch_or_explicit(&map->words[bit / WORD_BITS], mask, memory_order_acq_rel) & mask)
        return false;
    account(map, bit, 1);
    return true;
}

void bitmap_release(struct bitmap *map, uint64_t first, unsigned count)
{
    while (count > 0) {
        unsigned shift = (unsigned)(first % WORD_BITS);
        unsigned here = count < WORD_BITS - shift ? count : WORD_BITS - shift;
        uint64_t mask = (here == WORD_BITS ? ~UINT64_C(0) : (UINT64_C(1) << here) - 1) << shift;
        uint64_t old;

        sync_yield(map->sync, SYNC_AT_ATOMIC);
        old =
            atomic_fetch_and_explicit(&map->words[first / WORD_BITS], ~mask, memory_order_acq_rel);

        check_always((old & mask) == mask); /* what is released was taken, and only once */
        account(map, first, -(int)here);
        first += here;
        count -= here;
    }
}

/* Length of the free run that starts at `first`, at most want, below end. */
static unsigned free_run(const struct bitmap *map, uint64_t first, unsigned want, uint64_t end)
{
    uint64_t bit = first;
    unsigned length = 0;

    while (length < want && bit < end) {
        unsigned shift = (unsigned)(bit % WORD_BITS);
        uint64_t taken = atomic_load_explicit(&map->words[bit / WORD_BITS], memory_order_relaxed);
        unsigned here =
            taken >> shift ? (unsigned)__builtin_ctzll(taken >> shift) : WORD_BITS - shift;

        length += here;
        if (here < WORD_BITS - shift)
            break;
        bit += here;
    }
    if (length > end - first)
        length = (unsigned)(end - first);
    return length < want ? length : want;
}

/* Take [first, first + count) word by word; returns how many bits from first on were got. */
static unsigned take_exact(struct bitmap *map, uint64_t first, unsigned count)
{
    unsigned got = 0;

    while (got < count) {
        uint64_t bit = first + got;
        unsigned shift = (unsigned)(bit % WORD_BITS);
        unsigned here = count - got < WORD_BITS - shift ? count - got : WORD_BITS - shift;
        uint64_t mask = (here == WORD_BITS ? ~UINT64_C(0) : (UINT64_C(1) << here) - 1) << shift;
        _Atomic uint64_t *word = &map->words[bit / WORD_BITS];
        uint64_t old = atomic_load_explicit(word, memory_order_relaxed);

        sync_yield(map->sync, SYNC_AT_ATOMIC);
        if ((old & mask) != 0 ||
            !atomic_compare_exchange_strong_explicit(word, &old, old | mask, memory_order_acq_rel,
                                                     memory_order_relaxed))
            break;
        account(map, bit, (int)here);
        got += here;
    }
    return got;
}

/* The first free bit of [from, to), or `to`. */
static uint64_t next_free(const struct bitmap *map, uint64_t from, uint64_t to)
{
    while (from < to) {
        unsigned shift = (unsigned)(from % WORD_BITS);
        uint64_t word = atomic_load_explicit(&map->words[from / WORD_BITS], memory_order_relaxed);
        uint64_t open = ~word >> shift;

        if (open != 0)
            return from + (unsigned)__builtin_ctzll(open);
        from += WORD_BITS - shift;
    }
    return to;
}

/* Look at bits [from, to) for a run of `want`, remembering the longest seen in *best. True when it
 * was found. A block that has too few free bits for a longer run is passed over. */
static bool search(const struct bitmap *map, uint64_t from, uint64_t to, unsigned want,
                   uint64_t *best, unsigned *best_length)
{
    uint64_t bit = from;

    while (bit < to) {
        uint64_t block = bit / BITMAP_BLOCK, block_end = (block + 1) * BITMAP_BLOCK;
        int32_t used = atomic_load_explicit(&map->block_used[block], memory_order_relaxed);
        unsigned length;

        if ((int32_t)BITMAP_BLOCK - used <= (int32_t)*best_length)
            bit = block_end;
        else
            bit = next_free(map, bit, block_end < to ? block_end : to);
        if (bit >= to || bit == block_end)
            continue;
        length = free_run(map, bit, want, to);
        if (length > *best_length) {
            *best = bit;
            *best_length = length;
        }
        if (length == want)
            return true;
        bit += length + 1;
    }
    return false;
}

unsigned bitmap_take_run(struct bitmap *map, unsigned want, uint64_t *first)
{
    for (;;) {
        uint64_t limit = atomic_load(&map->limit);
        uint64_t cursor = atomic_load_explicit(&map->cursor, memory_order_relaxed);
        uint64_t best = 0;
        unsigned length = 0, got;

        if (cursor >= limit)
            cursor = 0;
        if (!search(map, cursor, limit, want, &best, &length))
            search(map, 0, cursor, want, &best, &length);
        if (length == 0)
            return 0;
        got = take_exact(map, best, length);
        atomic_store_explicit(&map->cursor, best + got, memory_order_relaxed);
        if (got > 0) {
            *first = best;
            return got;
        }
    }
}

unsigned bitmap_take_near(struct bitmap *map, uint64_t end, unsigned want, uint64_t *first)
{
    for (;;) {
        uint64_t limit = atomic_load(&map->limit), best = 0, to;
        uint64_t bit = atomic_load_explicit(&map->near, memory_order_relaxed);
        unsigned length = 0, got;

        if (limit > end)
            limit = end;
        if (bit >= limit)
            bit = 0;
        to = limit - bit < NEAR_BITS ? limit : bit + NEAR_BITS;
        if (!search(map, bit, to, want, &best, &length) && to - bit < NEAR_BITS) {
            uint64_t rest = NEAR_BITS - (to - bit);

            search(map, 0, rest < bit ? rest : bit, want, &best, &length);
        }
        if (length == 0)
            return 0;
        got = take_exact(map, best, length);
        atomic_store_explicit(&map->near, best + got, memory_order_relaxed);
        if (got > 0) {
            *first = best;
            return got;
        }
    }
}

/* How many bits of a block below limit are free. */
static int64_t block_free(const struct bitmap *map, uint64_t block, uint64_t limit)
{
    uint64_t first = block * BITMAP_BLOCK;
    uint64_t bits = limit - first < BITMAP_BLOCK ? limit - first : BITMAP_BLOCK;

    return (int64_t)bits - atomic_load_explicit(&map->block_used[block], memory_order_relaxed);
}

/* The freest of the blocks that follow one in the ring of those below limit; false: all of them are
 * full. There may be very many: then those near by will do, unless they are full. */
static bool freest_block(const struct bitmap *map, uint64_t after, uint64_t limit, uint64_t *block)
{
    uint64_t blocks = blocks_of(limit), n = after;
    int64_t most = 0;

    for (uint64_t i = 0; i < blocks && (most == 0 || i < LOG_SEARCH_BLOCKS); i++) {
        int64_t unused;

        n = n + 1 < blocks ? n + 1 : 0;
        unused = block_free(map, n, limit);
        if (unused > most) {
            most = unused;
            *block = n;
        }
        if (most == BITMAP_BLOCK)
            break;
    }
    return most > 0;
}

unsigned bitmap_take_log(struct bitmap *map, uint64_t end, unsigned want, uint64_t *first)
{
    uint64_t limit = atomic_load(&map->limit);
    uint64_t bit = atomic_load_explicit(&map->cursor, memory_order_relaxed);

    if (limit > end)
        limit = end;
    if (limit == 0)
        return 0;
    if (bit >= limit)
        bit = limit - 1; /* and from there the search goes on */
    for (;;) {
        uint64_t block = bit / BITMAP_BLOCK, block_end = (block + 1) * BITMAP_BLOCK;
        unsigned length, got = 0;

        if (block_end > limit)
            block_end = limit;
        bit = next_free(map, bit, block_end);
        if (bit == block_end) {
            if (!freest_block(map, block, limit, &block))
                return 0;
            bit = block * BITMAP_BLOCK;
            continue;
        }
        length = free_run(map, bit, want, block_end);
        got = take_exact(map, bit, length);
        atomic_store_explicit(&map->cursor, bit + got, memory_order_relaxed);
        if (got > 0) {
            *first = bit;
            return got;
        }
    }
}
