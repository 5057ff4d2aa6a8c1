/*
 * Programs in Go, which cannot be managed: their runtime maps memory by the C library where it is
 * linked with that (cgo), but gives it back, and protects it, by system calls of its own, which
 * this library does not see. They are known by a note that the linker puts into them.
 */
#ifndef VMSM_PRELOAD_GO_H
#define VMSM_PRELOAD_GO_H

#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define GO_REFUSED                                                                                 \
    "it is a Go program, whose runtime changes its memory by system calls that cannot be seen"

/* Is one of these notes Go's? `notes` is 4-aligned. */
static inline bool go_has_note(const char *notes, size_t length)
{
    Elf64_Nhdr header;

    for (size_t at = 0; at + sizeof(header) + 4 <= length;) {
        memcpy(&header, notes + at, sizeof(header));
        at += sizeof(header);
        if (header.n_namesz == 4 && memcmp(notes + at, "Go\0", 4) == 0)
            return true;
        if (header.n_namesz > length || header.n_descsz > length)
            return false;
        at += ((size_t)header.n_namesz + 3) & ~(size_t)3;
        at += ((size_t)header.n_descsz + 3) & ~(size_t)3;
    }
    return false;
}

#endif
