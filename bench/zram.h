/*
 * A zram device: a compressed block device in memory, of our own, used as swap.
 */
#ifndef VMSM_BENCH_ZRAM_H
#define VMSM_BENCH_ZRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "text.h"

struct zram {
    int number;            /* -1: there is none */
    bool module_loaded;    /* by us */
    char sys[64], dev[64]; /* its directory in /sys, its node */
    char algorithm[32];    /* the kernel's default */
};

/* Have the kernel ready to make devices. 0, or a negative errno and why. */
int zram_load(struct zram *zram, struct why *why);
/* Make a device; it has no size yet. 0, or a negative errno and why. */
int zram_add(struct zram *zram, struct why *why);
/* Name a device that an earlier run made. */
void zram_name(struct zram *zram, int number);
/* Empty it, and make it a swap space of size bytes. It must not be on. */
int zram_format(struct zram *zram, uint64_t size);
/* Bytes of memory that it takes now. */
uint64_t zram_used(const struct zram *zram);
/* 0 also if there is none; or a negative errno. */
int zram_remove(struct zram *zram);
/* Take the module out if zram_load() put it in. */
void zram_unload(struct zram *zram);

#endif
