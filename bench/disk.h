/*
 * What the disk can do, measured by fio in the same run: the bound of every cell that waits for it.
 */
#ifndef VMSM_BENCH_DISK_H
#define VMSM_BENCH_DISK_H

#include <stdbool.h>
#include <stddef.h>

struct disk_figure {
    bool write, random;
    size_t block; /* bytes */
    unsigned depth;
    double bytes_per_second; /* NAN: could not be measured */
};

/*
 * Run fio (O_DIRECT, io_uring, one job) in a nameless file of `length` bytes in dir for `seconds`,
 * and fill bytes_per_second. The file is written first, also for writes: extents that were never
 * written cost nothing to read and more to write. 0, or a negative errno after a message (-ENOENT:
 * fio is not installed); -EINTR without one: a signal came.
 */
int disk_measure(const char *dir, size_t length, double seconds, struct disk_figure *figure);

#endif
