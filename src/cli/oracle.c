#include "cli/oracle.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "cli/console.h"
#include "core/error.h"

#define WRITER 0x80000000u
#define READER 0x00800000u
#define READERS 0x7f800000u
#define WRONG 0x00400000u
#define TORN 0x00200000u
#define GENERATION 0x001fffffu

#define CLEAR_SHARE 64 /* one generation in so many clears the page */
#define COMPLAINTS_MAX 20
#define STALE_SEARCH 64 /* how far back a stale copy is looked for */

/* A value before it is mixed: page << 23 | generation << 2 | word. */
#define VALUE_PAGE_SHIFT 23
#define VALUE_GENERATION_SHIFT 2

int oracle_open(struct oracle *o, uint64_t seed, uint64_t pages)
{
    char *words;
    size_t words_bytes = (pages * sizeof(uint32_t) + 7) & ~(size_t)7;

    *o = (struct oracle){.seed = seed, .pages = pages};
    o->bytes = words_bytes + (oracle_chunks(o) + 63) / 64 * sizeof(uint64_t);
    words = mmap(NULL, o->bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (words == MAP_FAILED)
        return error_set(-errno, "no memory for the oracle's %zu bytes: make --virtual smaller",
                         o->bytes);
    /* A huge page would make untouched generations cost memory. */
    madvise(words, o->bytes, MADV_NOHUGEPAGE);
    o->words = (_Atomic uint32_t *)(void *)words;
    o->held = (_Atomic uint64_t *)(void *)(words + words_bytes);
    return 0;
}

void oracle_close(struct oracle *o)
{
    if (o->words != NULL)
        munmap(o->words, o->bytes);
    o->words = NULL;
}

uint64_t oracle_chunks(const struct oracle *o)
{
    return (o->pages + ORACLE_CHUNK - 1) / ORACLE_CHUNK;
}

bool oracle_chunk_held(const struct oracle *o, uint64_t chunk)
{
    return (atomic_load_explicit(&o->held[chunk / 64], memory_order_relaxed) >> chunk % 64 & 1) !=
           0;
}

uint64_t oracle_chunks_held(const struct oracle *o)
{
    uint64_t count = 0, words = (oracle_chunks(o) + 63) / 64;

    for (uint64_t i = 0; i < words; i++)
        count +=
            (uint64_t)__builtin_popcountll(atomic_load_explicit(&o->held[i], memory_order_relaxed));
    return count;
}

size_t oracle_bytes(const struct oracle *o)
{
    size_t words = o->pages * sizeof(uint32_t), held = oracle_chunks_held(o) * 4096;

    /* A chunk's words lie in one page of memory, or two. */
    return (o->bytes - words + (words < 2 * held ? words : 2 * held) + 4095) & ~(size_t)4095;
}

static void chunk_mark(struct oracle *o, uint64_t page)
{
    uint64_t chunk = page / ORACLE_CHUNK, bit = UINT64_C(1) << chunk % 64;

    if ((atomic_load_explicit(&o->held[chunk / 64], memory_order_relaxed) & bit) == 0)
        atomic_fetch_or_explicit(&o->held[chunk / 64], bit, memory_order_relaxed);
}

static void hold_wait(unsigned *round)
{
    if (++*round > 16)
        sched_yield();
}

static struct oracle_hold hold_make(uint64_t page, uint32_t word)
{
    return (struct oracle_hold){
        .page = page, .generation = word & GENERATION, .torn = (word & TORN) != 0};
}

struct oracle_hold oracle_read_begin(struct oracle *o, uint64_t page)
{
    _Atomic uint32_t *at = &o->words[page];
    uint32_t word = atomic_load_explicit(at, memory_order_relaxed);

    chunk_mark(o, page);
    for (unsigned round = 0;;) {
        if ((word & WRITER) == 0 && (word & READERS) != READERS) {
            if (atomic_compare_exchange_weak_explicit(at, &word, word + READER,
                                                      memory_order_acquire, memory_order_relaxed))
                return hold_make(page, word);
            continue;
        }
        hold_wait(&round);
        word = atomic_load_explicit(at, memory_order_relaxed);
    }
}

void oracle_read_end(struct oracle *o, const struct oracle_hold *hold)
{
    atomic_fetch_sub_explicit(&o->words[hold->page], READER, memory_order_release);
}

struct oracle_hold oracle_write_begin(struct oracle *o, uint64_t page)
{
    _Atomic uint32_t *at = &o->words[page];
    uint32_t word = atomic_load_explicit(at, memory_order_relaxed);

    chunk_mark(o, page);
    for (unsigned round = 0;;) {
        if ((word & (WRITER | READERS)) == 0) {
            if (atomic_compare_exchange_weak_explicit(at, &word, word | WRITER,
                                                      memory_order_acquire, memory_order_relaxed))
                return hold_make(page, word);
            continue;
        }
        hold_wait(&round);
        word = atomic_load_explicit(at, memory_order_relaxed);
    }
}

void oracle_write_end(struct oracle *o, const struct oracle_hold *hold, uint32_t generation,
                      bool torn)
{
    _Atomic uint32_t *at = &o->words[hold->page];
    uint32_t wrong = atomic_load_explicit(at, memory_order_relaxed) & WRONG;

    /* Nobody else changes the word of a page that a writer has. */
    atomic_store_explicit(at, wrong | (torn ? TORN : 0) | generation, memory_order_release);
}

static uint64_t page_hash(const struct oracle *o, uint64_t page, uint32_t generation)
{
    return oracle_mix(oracle_mix(page * UINT64_C(0x9e3779b97f4a7c15) + o->seed) + generation);
}

static bool is_clearing(const struct oracle *o, uint64_t page, uint32_t generation)
{
    return generation == 0 ||
           page_hash(o, page, generation) >> 32 < (UINT64_C(1) << 32) / CLEAR_SHARE;
}

uint32_t oracle_next(const struct oracle *o, const struct oracle_hold *hold)
{
    uint32_t generation = (hold->generation + 1) & GENERATION;

    while (hold->torn && !is_clearing(o, hold->page, generation))
        generation = (generation + 1) & GENERATION;
    return generation;
}

/* An odd stride makes the positions distinct, and every position possible. */
static unsigned position_at(uint64_t hash, unsigned i)
{
    return (unsigned)((hash + i * ((hash >> 8) | 1)) % ORACLE_PAGE_WORDS);
}

static uint64_t value_mix(const struct oracle *o, uint64_t plain)
{
    return oracle_mix(plain ^ oracle_mix(o->seed + 1));
}

static uint64_t value_make(const struct oracle *o, uint64_t page, uint32_t generation, unsigned i)
{
    return value_mix(o,
                     page << VALUE_PAGE_SHIFT | (uint64_t)generation << VALUE_GENERATION_SHIFT | i);
}

/* x such that y == x ^ x >> shift */
static uint64_t unshift(uint64_t y, unsigned shift)
{
    uint64_t x = y;

    for (unsigned known = shift; known < 64; known += shift)
        x = y ^ x >> shift;
    return x;
}

/* The inverse of value_mix(); the factors are the inverses of oracle_mix()'s. */
static uint64_t value_unmix(const struct oracle *o, uint64_t value)
{
    uint64_t x = unshift(value, 31);

    x = unshift(x * UINT64_C(0x319642b2d24d8ec3), 27);
    x = unshift(x * UINT64_C(0x96de1b173f119089), 30);
    return x ^ oracle_mix(o->seed + 1);
}

void oracle_content(const struct oracle *o, uint64_t page, uint32_t generation, uint64_t salt,
                    struct oracle_content *content)
{
    uint64_t hash = page_hash(o, page, generation);

    content->clear = is_clearing(o, page, generation);
    if (content->clear)
        hash = oracle_mix(hash + salt);
    for (unsigned i = 0; i < ORACLE_WORDS; i++) {
        content->positions[i] = position_at(hash, i);
        content->values[i] = content->clear ? 0 : value_make(o, page, generation, i);
    }
}

void oracle_page(const struct oracle *o, uint64_t page, uint32_t generation,
                 uint64_t words[ORACLE_PAGE_WORDS])
{
    uint32_t first = generation;

    while (!is_clearing(o, page, first))
        first--;
    memset(words, 0, ORACLE_PAGE_WORDS * sizeof(words[0]));
    for (uint32_t g = first + 1; g <= generation; g++) {
        uint64_t hash = page_hash(o, page, g);

        for (unsigned i = 0; i < ORACLE_WORDS; i++)
            words[position_at(hash, i)] = value_make(o, page, g, i);
    }
}

static bool all_zero(const uint64_t words[ORACLE_PAGE_WORDS])
{
    for (unsigned i = 0; i < ORACLE_PAGE_WORDS; i++)
        if (words[i] != 0)
            return false;
    return true;
}

/* Generations back to one whose content the page has; 0 if none is near. */
static unsigned stale_by(const struct oracle *o, const struct oracle_hold *hold,
                         const uint64_t *found)
{
    uint64_t words[ORACLE_PAGE_WORDS];

    for (unsigned back = 1; back <= STALE_SEARCH && back <= hold->generation; back++) {
        oracle_page(o, hold->page, hold->generation - back, words);
        if (memcmp(words, found, sizeof(words)) == 0)
            return back;
    }
    return 0;
}

static unsigned words_wrong(const uint64_t *expected, const uint64_t *found)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < ORACLE_PAGE_WORDS; i++)
        wrong += expected[i] != found[i];
    return wrong;
}

/* Whether a found word belongs to a page and generation; chance makes one up in 2^41 / pages. */
static bool value_decode(const struct oracle *o, uint64_t value, uint64_t *page,
                         uint32_t *generation)
{
    uint64_t plain = value_unmix(o, value);

    *page = plain >> VALUE_PAGE_SHIFT;
    *generation = (uint32_t)(plain >> VALUE_GENERATION_SHIFT) & GENERATION;
    return value != 0 && *page < o->pages;
}

/* How many words of the page are those of another, and of which. */
static unsigned words_foreign(const struct oracle *o, uint64_t own, const uint64_t *found,
                              uint64_t *other)
{
    unsigned count = 0;

    for (unsigned i = 0; i < ORACLE_PAGE_WORDS; i++) {
        uint32_t generation;
        uint64_t page;

        if (!value_decode(o, found[i], &page, &generation) || page == own)
            continue;
        if (count == 0)
            *other = page;
        count += page == *other;
    }
    return count;
}

static void diagnose(const struct oracle *o, const struct oracle_mismatch *m, char *text,
                     size_t size)
{
    uint64_t expected[ORACLE_PAGE_WORDS], page;
    const struct oracle_hold *hold = m->hold;
    uint32_t generation;
    unsigned wrong, back, foreign;

    if (m->second == NULL) {
        snprintf(text, size, "it could not be looked at again");
        return;
    }
    oracle_page(o, hold->page, hold->generation, expected);
    wrong = words_wrong(expected, m->second);
    back = wrong > 0 ? stale_by(o, hold, m->second) : 0;
    if (wrong == 0)
        snprintf(text, size, "a second look found it right");
    else if (all_zero(m->second))
        snprintf(text, size, "the page is all zero: its content was lost");
    else if (back > 0)
        snprintf(text, size, "a stale copy: it is generation %" PRIu32 ", %u older",
                 hold->generation - back, back);
    else if ((foreign = words_foreign(o, hold->page, m->second, &page)) > 0)
        snprintf(text, size, "it holds %u words of page %" PRIu64 "; %u of %d words are wrong",
                 foreign, page, wrong, ORACLE_PAGE_WORDS);
    else if (value_decode(o, m->found, &page, &generation))
        snprintf(text, size,
                 "the word is this page's of generation %" PRIu32 "; %u of %d words are wrong",
                 generation, wrong, ORACLE_PAGE_WORDS);
    else
        snprintf(text, size, "%u of %d words are wrong", wrong, ORACLE_PAGE_WORDS);
}

void oracle_complain(struct oracle *o, const struct oracle_mismatch *m)
{
    uint32_t old = atomic_fetch_or_explicit(&o->words[m->hold->page], WRONG, memory_order_relaxed);
    uint32_t reported;
    char text[192];

    atomic_fetch_add_explicit(&o->wrong_accesses, 1, memory_order_relaxed);
    if ((old & WRONG) != 0)
        return;
    atomic_fetch_add_explicit(&o->wrong_pages, 1, memory_order_relaxed);
    reported = atomic_fetch_add_explicit(&o->reported, 1, memory_order_relaxed);
    if (reported < COMPLAINTS_MAX) {
        diagnose(o, m, text, sizeof(text));
        console_line("WRONG DATA: page %" PRIu64 " at %p, generation %" PRIu32
                     ", word %u: expected %016" PRIx64 ", found %016" PRIx64 ": %s",
                     m->hold->page, m->address, m->hold->generation, m->position, m->expected,
                     m->found, text);
    } else if (reported == COMPLAINTS_MAX) {
        console_line("more pages are wrong; they are only counted from here on");
    }
}
