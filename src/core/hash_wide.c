/*
 * The hash once more, for processors with AVX2 (the Makefile compiles this file for them): it
 * takes half as long, and a page that is trimmed and read again is hashed twice. hash.c asks the
 * processor before it comes here. The hashes are the same.
 */
#define XXH_INLINE_ALL
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "core/hash.h"

struct page_hash hash_page_wide(const struct hash_key *key, const void *page)
{
    XXH128_hash_t hash =
        XXH3_128bits_withSecret(page, HASHED_PAGE, key->secret, sizeof(key->secret));

    return hash_kept(hash.low64, hash.high64);
}
