#include "core/bitmap.h"

#include <errno.h>

#include "core/check.h"

#define WORD_BITS 64u
#define GOOD_SEARCH_BLOCKS 64u /* blocks looked at for a full run before shorter ones do */

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

/* Length of the free run that starts at `bit`, at most want, within limit. */
static unsigned free_run(const struct bitmap *map, uint64_t bit, unsigned want, uint64_t limit)
{
    unsigned length = 0;

    while (length < want && bit < limit) {
        unsigned shift = (unsigned)(bit % WORD_BITS);
        uint64_t taken = atomic_load_explicit(&map->words[bit / WORD_BITS], memory_order_relaxed);
        unsigned here =
            taken >> shift ? (unsigned)__builtin_ctzll(taken >> shift) : WORD_BITS - shift;

        length += here;
        if (here < WORD_BITS - shift)
            break;
        bit += here;
    }
    return length < want ? length : want; /* may stick out over limit: the caller clips */
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

/*
 * Look at bits [from, to) for a run of at least `enough`, remembering the
 * longest seen in *best. True when enough was found.
 */
static bool search(const struct bitmap *map, uint64_t from, uint64_t to, unsigned want,
                   unsigned enough, uint64_t *best, unsigned *best_length)
{
    uint64_t bit = from;

    while (bit < to) {
        uint64_t block = bit / BITMAP_BLOCK;
        uint64_t block_end = (block + 1) * BITMAP_BLOCK;
        int32_t used = atomic_load_explicit(&map->block_used[block], memory_order_relaxed);
        unsigned length;

        if (used >= (int32_t)BITMAP_BLOCK ||
            (enough > 1 && (int32_t)BITMAP_BLOCK - used < (int32_t)enough)) {
            bit = block_end;
            continue;
        }
        length = free_run(map, bit, want, to);
        if (bit + length > to)
            length = (unsigned)(to - bit);
        if (length > *best_length) {
            *best = bit;
            *best_length = length;
            if (length >= enough)
                return true;
        }
        bit += length + 1;
        if (length == 0) { /* skip a word's taken bits at once */
            uint64_t word =
                atomic_load_explicit(&map->words[(bit - 1) / WORD_BITS], memory_order_relaxed);
            unsigned shift = (unsigned)((bit - 1) % WORD_BITS);
            uint64_t open = ~word >> shift;

            bit = open != 0 ? bit - 1 + (unsigned)__builtin_ctzll(open)
                            : bit - 1 + (WORD_BITS - shift);
        }
    }
    return false;
}

unsigned bitmap_take_run(struct bitmap *map, unsigned want, uint64_t *first)
{
    return bitmap_take_run_below(map, UINT64_MAX, want, first);
}

unsigned bitmap_take_run_below(struct bitmap *map, uint64_t end, unsigned want, uint64_t *first)
{
    for (;;) {
        uint64_t limit = atomic_load(&map->limit);
        uint64_t cursor = atomic_load_explicit(&map->cursor, memory_order_relaxed);
        uint64_t near_end, best = 0;
        unsigned length = 0, got;

        if (limit > end)
            limit = end;
        if (cursor >= limit)
            cursor = 0;
        near_end = cursor + (uint64_t)GOOD_SEARCH_BLOCKS * BITMAP_BLOCK;
        if (near_end > limit)
            near_end = limit;
        /* All of it near by; then all of it anywhere; then whatever was longest. */
        if (!search(map, cursor, near_end, want, want, &best, &length) && length < want / 4 + 1 &&
            !search(map, near_end, limit, want, want / 2 + 1, &best, &length))
            search(map, 0, cursor, want, want / 2 + 1, &best, &length);
        if (length == 0 && !search(map, 0, limit, want, 1, &best, &length))
            return 0;
        got = take_exact(map, best, length);
        atomic_store_explicit(&map->cursor, best + got, memory_order_relaxed);
        if (got > 0) {
            *first = best;
            return got;
        }
    }
}
