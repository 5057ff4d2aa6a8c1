/*
 * A store that takes no time and hardly any memory: of each slot it keeps the first 8 bytes, and
 * reads give those, then zeroes. Only for pages that have nothing but zeroes after their first
 * word; the core's hash tells if one had.
 */
#ifndef VMSM_BENCH_WORD_STORE_H
#define VMSM_BENCH_WORD_STORE_H

#include "store/store.h"

/* Of a fixed size. 0 or a negative errno. */
int word_store_open(uint64_t slots, struct store **store);

#endif
