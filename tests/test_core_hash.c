/*
 * The content hash tells pages apart by any one bit and any key, and zero pages are known.
 */
#include "core/hash.h"
#include "tap.h"

#define PAGE 4096u

int main(void)
{
    static unsigned char page[2 * PAGE];
    struct hash_key key, same_key, other_key;
    unsigned same = 0, not_zero = 0, differ = 0;
    bool wide;
    struct page_hash hash;

    hash_key_init(&key, 1);
    hash_key_init(&same_key, 1);
    hash_key_init(&other_key, 2);
    for (unsigned i = 0; i < PAGE; i++)
        page[i] = (unsigned char)(i * 31);
    hash = hash_page(&key, page);
    ok(hash_equal(hash, hash_page(&same_key, page)), "the same page and key hash the same");
    ok(!hash_equal(hash, hash_page(&other_key, page)), "another key gives another hash");
    wide = key.wide;
    for (unsigned i = 0; i < PAGE && wide; i++) {
        struct page_hash other;

        page[i] ^= 0x55;
        other = hash_page(&key, page);
        key.wide = false;
        differ += !hash_equal(other, hash_page(&key, page));
        key.wide = true;
        page[i] ^= 0x55;
    }
    is(differ, 0, "with and without wide registers it is the same");
    memmove(page + 1, page, PAGE);
    ok(hash_equal(hash, hash_page(&key, page + 1)), "it does not matter where the page lies");
    memmove(page, page + 1, PAGE);
    for (unsigned bit = 0; bit < PAGE * 8; bit++) {
        page[bit / 8] ^= (unsigned char)(1u << bit % 8);
        same += hash_equal(hash, hash_page(&key, page));
        page[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    is(same, 0, "every single bit changes the hash");
    page[PAGE] ^= 1;
    ok(hash_equal(hash, hash_page(&key, page)), "what lies behind the page does not");
    for (unsigned i = 0; i < 3; i++) {
        struct page_hash other = hash;

        other.word[i] ^= 1;
        ok(!hash_equal(hash, other), "word %u counts", i);
    }

    memset(page, 0, sizeof(page));
    page[PAGE] = 1;
    ok(page_is_zero(page), "a page of zeroes is known");
    for (unsigned i = 0; i < PAGE; i++) {
        page[i] = 0x80;
        not_zero += !page_is_zero(page);
        page[i] = 0;
    }
    is(not_zero, PAGE, "a byte anywhere makes it another");
    memset(page, 7, PAGE);
    ok(!page_is_zero(page), "a page of equal words is not zero");
    return done_testing();
}
