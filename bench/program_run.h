/*
 * A program of Debian that is measured: what it works on, how it is run, and what a run took.
 */
#ifndef VMSM_BENCH_PROGRAM_RUN_H
#define VMSM_BENCH_PROGRAM_RUN_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "peer.h"

#define PROGRAM_ARGUMENTS 16

struct program {
    const char *name, *does; /* for the table */
    /* A shell script that makes its input in the working directory; $1: how much. NULL: none. */
    const char *make;
    unsigned size; /* how much */
    const char *arguments[PROGRAM_ARGUMENTS];
    unsigned beside; /* MiB that its libraries take before it has a manager, beside its memory */
    /* A server's: a shell script, not measured itself, that works with it and ends it; $1: how
     * much. Its output counts, and the server's does not. NULL: it is no server. */
    const char *client;
};

extern const struct program programs[];
extern const unsigned program_count;

/* How it is run. */
enum program_way {
    WAY_PLAIN,    /* as it is */
    WAY_JEMALLOC, /* with Debian's jemalloc, preloaded */
    WAY_SWAP,     /* as it is, with swap */
    WAY_MANAGED,  /* by vmsm run */
    WAY_SIGBUS,   /* by vmsm run --trap sigbus */
    WAYS
};

struct program_setup {
    const char *vmsm;     /* path of vmsm */
    const char *jemalloc; /* path of the library */
    const char *dir;      /* the working directory */
    const char *pagefile; /* of vmsm run; NULL: each run makes a new one */
    unsigned scale;       /* of the size, in percent */
    uint64_t memory;      /* of vmsm run, bytes */
    bool limited;         /* in the control group of `peer`, which is prepared */
    struct peer *peer;
    volatile sig_atomic_t *interrupted;
};

struct program_result {
    double seconds, cpu; /* the program's own processor time */
    uint64_t peak;       /* resident, bytes */
    uint64_t output;     /* a hash of it */
};

/* Make its input. 0, or a negative errno after a message. */
int program_make(const struct program *program, const struct program_setup *setup);
/* Run it once. 0, or a negative errno after a message: it ended otherwise than with status 0. */
int program_run(const struct program *program, enum program_way way,
                const struct program_setup *setup, struct program_result *result);
/* For signal handlers: end what runs. */
void program_kill(void);

#endif
