/*
 * Numbers for people. Each returns its buffer, so that calls nest in printf().
 */
#ifndef VMSM_CLI_FORMAT_H
#define VMSM_CLI_FORMAT_H

#include <stdint.h>

struct format {
    char text[32];
};

const char *format_count(uint64_t count, struct format *f); /* 1,234,567 */
const char *format_short(double count, struct format *f);   /* 1.23M */
const char *format_bytes(uint64_t bytes, struct format *f); /* 341.3 MiB */
const char *format_time(uint64_t ns, struct format *f);     /* 12.3 us */

#endif
