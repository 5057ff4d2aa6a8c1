/*
 * Memory of a test under `vmsm run`, and what its pages hold.
 */
#ifndef VMSM_TESTS_MANAGED_CONTENT_H
#define VMSM_TESTS_MANAGED_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#define PAGE ((size_t)4096)

static inline char *content_map(size_t size)
{
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

static inline uint64_t content_word(size_t at, uint64_t salt)
{
    return (at + 1) * 0x9e3779b97f4a7c15u ^ salt;
}

static inline void content_fill(char *memory, size_t size, uint64_t salt)
{
    for (size_t at = 0; at < size; at += PAGE)
        *(uint64_t *)(void *)(memory + at) = content_word(at, salt);
}

static inline bool content_holds(const char *memory, size_t size, uint64_t salt)
{
    for (size_t at = 0; at < size; at += PAGE)
        if (*(const uint64_t *)(const void *)(memory + at) != content_word(at, salt))
            return false;
    return true;
}

#endif
