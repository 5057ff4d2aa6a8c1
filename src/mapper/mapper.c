#include "mapper/mapper.h"

#include <errno.h>
#include <sys/mman.h>

#include "core/error.h"

/*
 * To unmap the middle of a mapping takes a second one, which may not be had. So that part is made a
 * mapping of its own before anything is lost, by a hint that means nothing for such memory.
 */
int mapper_region_split(struct mapper *mapper, uintptr_t base, size_t length)
{
    (void)mapper;
    if (madvise((void *)base, length, MADV_RANDOM) == 0)
        return 0;
    return error_set(-ENOMEM,
                     "unmap: the kernel cannot split the mapping at %p: the process has too many "
                     "(raise vm.max_map_count), or its control group has no memory left",
                     (void *)base);
}
