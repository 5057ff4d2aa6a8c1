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
 * A nameless file of `length` bytes in dir, to be measured and then closed. It is written here, for
 * writes too: extents that were never written cost nothing to read and more to write. A descriptor,
 * or a negative errno after a message; -EINTR without one: a signal came.
 */
int disk_open(const char *dir, size_t length);

/*
 * Run fio (O_DIRECT, io_uring, one job) in the file for `seconds`, and fill bytes_per_second. 0, or
 * a negative errno after a message (-ENOENT: fio is not installed); -EINTR as above.
 */
int disk_measure(int file, size_t length, double seconds, struct disk_figure *figure);

/* In words, e.g. "random reads of 4 KiB, depth 2". */
const char *disk_describe(const struct disk_figure *figure, char *text, size_t size);

#endif
