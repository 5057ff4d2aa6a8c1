/*
 * The record of what was set up on this machine, for the next start should this one be killed; and
 * the lock that lets one benchmark at a time use swap. Its file, RECORD_PATH, exists while a
 * benchmark runs, or as long as something of an earlier one is left.
 *
 * A line a thing, "swap /path/of/file", "zram 1", "module zram", "controller /path", written before
 * the thing is made (zram: at once after, the kernel chooses the number).
 */
#ifndef VMSM_BENCH_RECORD_H
#define VMSM_BENCH_RECORD_H

#include <stdbool.h>

#include "text.h"

#define RECORD_PATH "/run/vmsm-bench.lock"
#define RECORD_SIZE 4096

/* The descriptor; -EBUSY: another process has it; or another negative errno. With why. The lock is
 * the process's: children do not have it. */
int record_open(struct why *why);
/* What an earlier run left in it, RECORD_SIZE bytes at most. */
void record_read(int record, char *text);
/* Put a line at the end. 0 or a negative errno. */
int record_add(int record, const char *kind, const char *what);
/* Begin anew: all that was in it has been taken down. */
void record_clear(int record);
/* keep: something is left, the file stays for the next start. */
void record_close(int record, bool keep);

#endif
