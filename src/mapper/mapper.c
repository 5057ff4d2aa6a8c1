#include "mapper/mapper.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "core/error.h"

#define SAY_AFTER 1000u /* tries, a millisecond apart */

/* Has the range a hole? The program has unmapped a part of it behind our back. */
static bool has_hole(uintptr_t base, size_t length)
{
    return msync((void *)base, length, MS_ASYNC) != 0 && errno == ENOMEM;
}

/*
 * To unmap the middle of a mapping takes a second one, which may not be had. So that part is made a
 * mapping of its own before anything is lost, by hints that mean nothing for such memory: two,
 * since one may be what it has already.
 */
int mapper_region_split(struct mapper *mapper, uintptr_t base, size_t length)
{
    static const int hints[] = {MADV_SEQUENTIAL, MADV_RANDOM};

    (void)mapper;
    for (size_t i = 0; i < sizeof(hints) / sizeof(hints[0]); i++) {
        int error = madvise((void *)base, length, hints[i]) == 0 ? 0 : errno;

        /* A hole is told by the same error as a mapping that cannot be split, and does no harm. */
        if (error == 0 || (error == ENOMEM && has_hole(base, length)))
            continue;
        return error_set(-ENOMEM,
                         "unmap: the kernel cannot split the mapping at %p (%s): the process has "
                         "too many (raise vm.max_map_count), or its control group has no memory "
                         "left",
                         (void *)base, strerror(error));
    }
    return 0;
}

/* Another thread may have taken the last mapping since: then this waits for one. What touches the
 * range meanwhile faults again and again, for nobody serves it any more. */
void mapper_region_unmap(uintptr_t base, size_t length)
{
    struct timespec pause = {.tv_nsec = 1000000};

    for (unsigned tries = 0; munmap((void *)base, length) != 0; tries++) {
        if (errno != ENOMEM) {
            log_line(LOG_ERROR, "%zu KiB at %p stay mapped, but nobody serves them: %s",
                     length >> 10, (void *)base, strerror(errno));
            return;
        }
        if (tries == SAY_AFTER)
            log_line(LOG_ERROR,
                     "unmapping %zu KiB at %p waits: the kernel has no mapping to split it off "
                     "(raise vm.max_map_count)",
                     length >> 10, (void *)base);
        nanosleep(&pause, NULL);
    }
}
