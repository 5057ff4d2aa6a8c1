/*
 * Swap space: what every swap file or device has, the file, and the switching on and off.
 */
#ifndef VMSM_BENCH_SWAP_SPACE_H
#define VMSM_BENCH_SWAP_SPACE_H

#include <stdbool.h>
#include <stdint.h>

#include "text.h"

/* Make `path` a swap space of size bytes, labelled as ours. 0 or a negative errno. */
int swap_format(const char *path, uint64_t size);
/* Does it have our label? */
bool swap_is_ours(const char *path);

/* A swap file. It must not exist. It has been tried: 0, or a negative errno and why, and there is
 * none. */
int swap_file_make(const char *path, uint64_t size, struct why *why);

/* With the highest priority, so that no other swap space serves while there is room. 0, or a
 * negative errno. */
int swap_on(const char *path);
/* 0 also if it was not on; or a negative errno. */
int swap_off(const char *path);
/* Is there another swap space with the highest priority, that would serve in turn with ours? Its
 * name, or false. */
bool swap_has_rival(char *name, size_t size);

#endif
