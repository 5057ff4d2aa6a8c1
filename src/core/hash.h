/*
 * The keyed hash of a page's content (XXH3), by which a trimmed page is compared with its slot and
 * a page that comes back is verified. The secret is drawn at start, so that nobody can make two
 * pages collide on purpose. Of its 128 bits 96 are kept, since each slot has one: two pages are
 * taken for the same by chance once in 2^96 comparisons, and a machine that compares a million
 * pages a second meets that once in 10^15 years.
 * Source: XXH3, https://github.com/Cyan4973/xxHash
 */
#ifndef VMSM_CORE_HASH_H
#define VMSM_CORE_HASH_H

#include <stdbool.h>
#include <stdint.h>

#define HASH_SECRET_SIZE 192
#define HASHED_PAGE 4096

struct page_hash {
    uint32_t word[3];
};

struct hash_key {
    uint8_t secret[HASH_SECRET_SIZE];
    bool wide; /* the processor has what hash_page_wide() needs */
};

void hash_key_init(struct hash_key *key, uint64_t seed);
struct page_hash hash_page(const struct hash_key *key, const void *page);
/* What hash_page() does where it can. */
struct page_hash hash_page_wide(const struct hash_key *key, const void *page);
bool page_is_zero(const void *page);

/* What is kept of 128 bits. */
static inline struct page_hash hash_kept(uint64_t low, uint64_t high)
{
    return (struct page_hash){.word = {(uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high}};
}

static inline bool hash_equal(struct page_hash a, struct page_hash b)
{
    return a.word[0] == b.word[0] && a.word[1] == b.word[1] && a.word[2] == b.word[2];
}

#endif
