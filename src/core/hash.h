/*
 * The keyed 128-bit hash of a page's content (XXH3), by which a trimmed page is
 * compared with its slot and a page that comes back is verified. The secret is
 * drawn at start, so that nobody can make two pages collide on purpose.
 * Source: XXH3, https://github.com/Cyan4973/xxHash
 */
#ifndef VMSM_CORE_HASH_H
#define VMSM_CORE_HASH_H

#include <stdbool.h>
#include <stdint.h>

#define HASH_SECRET_SIZE 192
#define HASHED_PAGE 4096

struct hash128 {
    uint64_t low, high;
};

struct hash_key {
    uint8_t secret[HASH_SECRET_SIZE];
    bool wide; /* the processor has what hash_page_wide() needs */
};

void hash_key_init(struct hash_key *key, uint64_t seed);
struct hash128 hash_page(const struct hash_key *key, const void *page);
/* What hash_page() does where it can. */
struct hash128 hash_page_wide(const struct hash_key *key, const void *page);
bool page_is_zero(const void *page);

static inline bool hash_equal(struct hash128 a, struct hash128 b)
{
    return a.low == b.low && a.high == b.high;
}

#endif
