#include "core/hash.h"

#include <string.h>

#define XXH_INLINE_ALL
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

static bool processor_is_wide(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init(); /* a program may map memory before constructors have run */
    return __builtin_cpu_supports("avx2");
#else
    return false;
#endif
}

void hash_key_init(struct hash_key *key, uint64_t seed)
{
    key->wide = processor_is_wide();
    XXH3_generateSecret_fromSeed(key->secret, seed);
}

struct page_hash hash_page(const struct hash_key *key, const void *page)
{
    XXH128_hash_t hash;

    if (key->wide)
        return hash_page_wide(key, page);
    hash = XXH3_128bits_withSecret(page, HASHED_PAGE, key->secret, sizeof(key->secret));
    return hash_kept(hash.low64, hash.high64);
}

/* Compares the page with itself, shifted by a word, after the first word proved zero. */
bool page_is_zero(const void *page)
{
    const char *bytes = page;
    uint64_t first;

    memcpy(&first, bytes, sizeof(first));
    return first == 0 && memcmp(bytes, bytes + sizeof(first), HASHED_PAGE - sizeof(first)) == 0;
}
