/*
 * What each part of the arena is: a sorted array of ranges, and gaps between them that are free.
 *
 *   gap       free: mapped without access, no content
 *   MANAGED   the program's; the manager keeps its content
 *   FOREIGN   the program has put another mapping there: the manager knows the range no more
 *   DEAD      was foreign, and is unmapped: mapped without access, and never used again, unless the
 *             program asks for exactly these addresses
 *
 * A range is CHARGED from when it is first writable, as the kernel does it: until it is unmapped it
 * counts as promised. SPARSE ranges (MAP_NORESERVE) never are.
 *
 * This knows no system call. One thread at a time.
 */
#ifndef VMSM_PRELOAD_SPACE_H
#define VMSM_PRELOAD_SPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum space_kind { SPACE_FREE, SPACE_MANAGED, SPACE_FOREIGN, SPACE_DEAD };
enum space_flags { SPACE_CHARGED = 1, SPACE_SPARSE = 2 };

struct space_what {
    uint8_t kind;       /* enum space_kind */
    uint8_t protection; /* PROT_READ … of MANAGED */
    uint8_t flags;      /* enum space_flags, of MANAGED */
};

struct space_range {
    uintptr_t start, end; /* never empty */
    struct space_what what;
};

struct space {
    uintptr_t base, end;
    struct space_range *ranges; /* sorted; neighbours that touch differ */
    unsigned count, capacity;
    uint64_t charged, charged_peak; /* bytes */
};

/* ranges has room for capacity of them. */
void space_init(struct space *s, uintptr_t base, uintptr_t end, struct space_range *ranges,
                unsigned capacity);

/* The piece at `at` (a range, or a gap) as far as it goes within [at, end). */
struct space_range space_piece(const struct space *s, uintptr_t at, uintptr_t end);

/* Is it all of one kind, protection and flags? And what it is at its start. */
bool space_uniform(const struct space *s, uintptr_t start, uintptr_t end, struct space_what *what);

/* Is any of it free or dead? */
bool space_has_hole(const struct space *s, uintptr_t start, uintptr_t end);

/* Can set() be called once more? It needs two entries at most. */
static inline bool space_has_room(const struct space *s)
{
    return s->count + 2 <= s->capacity;
}

/* Make [start, end) what is said; space_has_room() is true. */
void space_set(struct space *s, uintptr_t start, uintptr_t end, struct space_what what);

/* The lowest gap of that length; 0 if there is none. alignment is a power of two. */
uintptr_t space_find(const struct space *s, size_t length, size_t alignment);

#endif
