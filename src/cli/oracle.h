/*
 * The oracle: knows, outside managed memory, what every page must contain.
 *
 * A page has a generation, which each write that changes it raises. What a
 * page holds is a function of (seed, page, generation):
 *
 *   generation 0     never written: all zero
 *   clearing         one generation in 64, drawn by hash: the whole page is zeroed
 *   any other        four words at four drawn positions get new values; the
 *                    other 508 keep what earlier generations left there
 *
 * A value is an invertible mix of (page, generation, word), so a wrong word
 * found in a page can be decoded: it tells which page and generation it is from.
 *
 * One 32-bit word a page, changed only by atomic operations:
 *
 *   31      a writer has the page         20..0   generation
 *   30..23  readers that have it
 *   22      wrong: a mismatch was found; it is counted once
 *   21      torn: a write failed half-way, its content is not known until
 *           the next write, which then is a clearing one
 *
 * Chunks of 64 pages of which one was ever held are marked in a bitmap, so that what was never
 * accessed need not be gone through page by page.
 *
 * Several readers may have a page at once (so that they fault on it together);
 * a writer has it alone. Both hold it while they touch the page.
 */
#ifndef VMSM_CLI_ORACLE_H
#define VMSM_CLI_ORACLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORACLE_WORDS 4 /* words that a generation writes, and that a read checks */
#define ORACLE_PAGE_WORDS 512

struct oracle {
    uint64_t seed, pages;
    _Atomic uint32_t *words; /* one a page; anonymous memory, so untouched pages cost nothing */
    _Atomic uint64_t *held;  /* one bit a chunk, behind the words in the same mapping */
    size_t bytes;
    _Atomic uint64_t wrong_accesses, wrong_pages;
    _Atomic uint32_t reported; /* mismatches printed so far */
};

/* What a page must hold: in whole (clear) or at some positions. */
struct oracle_content {
    bool clear; /* all zero; positions are where to look */
    unsigned positions[ORACLE_WORDS];
    uint64_t values[ORACLE_WORDS];
};

/* A page that somebody has, and the state it was in then. */
struct oracle_hold {
    uint64_t page;
    uint32_t generation;
    bool torn;
};

#define ORACLE_CHUNK 64 /* pages */

int oracle_open(struct oracle *o, uint64_t seed, uint64_t pages);
void oracle_close(struct oracle *o);
/* Memory that it uses now, for the books: a page of it may not have been touched. */
size_t oracle_bytes(const struct oracle *o);

/* Was a page of the chunk (number, from 0) ever held? */
bool oracle_chunk_held(const struct oracle *o, uint64_t chunk);
uint64_t oracle_chunks(const struct oracle *o);
uint64_t oracle_chunks_held(const struct oracle *o);

struct oracle_hold oracle_read_begin(struct oracle *o, uint64_t page);
void oracle_read_end(struct oracle *o, const struct oracle_hold *hold);

struct oracle_hold oracle_write_begin(struct oracle *o, uint64_t page);
/* The generation that a write to a held page makes. */
uint32_t oracle_next(const struct oracle *o, const struct oracle_hold *hold);
/* generation: as it is now; torn: the write failed half-way, content unknown. */
void oracle_write_end(struct oracle *o, const struct oracle_hold *hold, uint32_t generation,
                      bool torn);

/* What generation wrote. salt varies the positions that are looked at in a clear page. */
void oracle_content(const struct oracle *o, uint64_t page, uint32_t generation, uint64_t salt,
                    struct oracle_content *content);
/* All 512 words of a page at a generation. */
void oracle_page(const struct oracle *o, uint64_t page, uint32_t generation,
                 uint64_t words[ORACLE_PAGE_WORDS]);

/* A word that was not what it must be. */
struct oracle_mismatch {
    const struct oracle_hold *hold;
    const void *address; /* of the page */
    unsigned position;
    uint64_t expected, found;
    const uint64_t *second; /* the whole page as found by a second look; NULL: that look failed */
};

/* Counts a mismatch and, for the first 20 pages, says what, where and what the page holds instead.
 */
void oracle_complain(struct oracle *o, const struct oracle_mismatch *mismatch);

/* The mixer used throughout: a bijection on 64 bits, splitmix64's finalizer. */
static inline uint64_t oracle_mix(uint64_t x)
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    x ^= x >> 31;
    return x;
}

#endif
