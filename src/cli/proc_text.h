/*
 * What the kernel says in files of /proc and /sys, read from any stream.
 *
 * Lines may be longer than any buffer here: what does not fit is passed over, never taken for a
 * line of its own. A number that is not written as digits alone is not a number.
 */
#ifndef VMSM_CLI_PROC_TEXT_H
#define VMSM_CLI_PROC_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* The next line without its newline, cut to size - 1 bytes; false at the end. */
bool proc_line(FILE *file, char *line, size_t size);

/* The number in base 10 or 16 after "Key:" at the start of a line ("Key:   12 kB"). */
bool proc_number(FILE *file, const char *key, int base, uint64_t *number);

/* A limit of a control group: false for "max", or what is no number. */
bool proc_limit(const char *text, uint64_t *limit);

/* "6.1.0-13-amd64": the first two numbers. */
bool proc_version(const char *release, unsigned *major, unsigned *minor);

/* Which controller of memory a line of /proc/self/cgroup tells the group of. */
enum proc_group { PROC_GROUP_NONE, PROC_GROUP_V1, PROC_GROUP_V2 };

/* "id:controllers:/path"; *path points into the line. */
enum proc_group proc_memory_group(const char *line, const char **path);

#endif
