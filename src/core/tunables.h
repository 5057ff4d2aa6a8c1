/*
 * Every option of the machine, defined once. From this table come the struct,
 * the parser of --set and VMSM_CONF, --help, --show-settings, the man page and
 * the JSON report.
 *
 * X(name, TYPE, default as text, minimum, maximum, help)
 *   SIZE    bytes; K, M, G, T       TIME    ns; ns, us, ms, s, m
 *   COUNT   a whole number          BOOL    on/off, yes/no, true/false, 1/0
 *   STRING  up to 255 characters, no comma; CHOICE  one of a list of words (see below)
 * Minimum and maximum are checked for SIZE, TIME and COUNT.
 *
 * `stage` is a preset: setting it sets the six features, and what is set after it
 * overrides. Values are fixed when the machine starts.
 */
#ifndef VMSM_CORE_TUNABLES_H
#define VMSM_CORE_TUNABLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define TUNABLE_KIB UINT64_C(1024)
#define TUNABLE_MIB (UINT64_C(1024) * 1024)
#define TUNABLE_TIB (UINT64_C(1024) * 1024 * 1024 * 1024)
#define TUNABLE_SECOND UINT64_C(1000000000)
#define TUNABLE_MEMORY_MIN (256 * TUNABLE_KIB)

#define TUNABLES(X)                                                                                \
    X(memory, SIZE, "256M", TUNABLE_MEMORY_MIN, 8 * TUNABLE_TIB, "budget of physical memory")      \
    X(pagefile, STRING, "", 0, 0,                                                                  \
      "where pages go: a file (made if missing) or a block device; empty: a nameless "             \
      "file in TMPDIR or /var/tmp")                                                                \
    X(pagefile_size, SIZE, "0", 0, 16 * TUNABLE_TIB,                                               \
      "size of the pagefile; 0: grow with what is mapped")                                         \
    X(pagefile_force, BOOL, "off", 0, 0,                                                           \
      "overwrite a file or device that holds something else than a pagefile")                      \
    X(preallocate, BOOL, "on", 0, 0, "reserve the pagefile's blocks on disk when it grows")        \
    X(direct, BOOL, "on", 0, 0, "use direct I/O where the file system can")                        \
    X(encrypt, BOOL, "off", 0, 0,                                                                  \
      "encrypt and authenticate what is in the pagefile, with a key of this run only")             \
    X(overcommit, BOOL, "off", 0, 0,                                                               \
      "charge commit when pages are touched instead of when they are mapped")                      \
    X(mapper, CHOICE, "copy", 0, 0, "how frames come under addresses: copy, move or soft")         \
    X(trap, CHOICE, "thread", 0, 0,                                                                \
      "how faults come to the core: thread, sigbus, none (explicit calls only), or auto: thread, " \
      "but sigbus where `vmsm run` guards system calls anyway")                                    \
    X(kernel_faults, BOOL, "on", 0, 0,                                                             \
      "trap thread: serve faults inside system calls; off: of user code only, as any user may")    \
    X(stage, CHOICE, "full", 0, 0, "preset of the six features: single, basic or full")            \
    X(batching, BOOL, "on", 0, 0, "feature: batch trims, writes, reads and map calls")             \
    X(deferred, BOOL, "on", 0, 0, "feature: leave work for later: slots, trim-behind, zeroing")    \
    X(fine_locks, BOOL, "on", 0, 0, "feature: busy bits and a lock-free pagefile, no big locks")   \
    X(shared_locks, BOOL, "on", 0, 0, "feature: lists edited by many threads at once")             \
    X(preserve, BOOL, "on", 0, 0, "feature: an unchanged page keeps its slot")                     \
    X(more_workers, BOOL, "on", 0, 0, "feature: zeroer and refiller threads")                      \
    X(workers, BOOL, "on", 0, 0, "worker threads; off: the faulting thread does all (single)")     \
    X(fault_threads, COUNT, "0", 0, 64,                                                            \
      "handler threads of trap thread; 0: one for every two processors, eight at most, and a "     \
      "spare one while memory is filled")                                                          \
    X(fault_depth, COUNT, "16", 1, 64, "faults that one handler thread keeps in flight")           \
    X(fault_poll, TIME, "200us", 0, TUNABLE_SECOND / 100,                                          \
      "how long a handler thread polls for more before it sleeps, while faults keep coming")       \
    X(cache, COUNT, "12", 2, 75,                                                                   \
      "mapper copy: most percent of memory for trimmed pages; what is idle is lent")               \
    X(read_window, COUNT, "512", 1, 512, "longest read-ahead, pages; 1: none")                     \
    X(around, COUNT, "16", 0, 16,                                                                  \
      "most pages that come together where many single ones are asked for; 0: no others come")     \
    X(touch_window, COUNT, "512", 1, 512, "longest map-ahead of first touches, pages; 1: none")    \
    X(large_share, COUNT, "16", 0, 1048576,                                                        \
      "mapper copy: what is used in a row goes by huge pages of 2 MiB, if memory is at least so "  \
      "many of them; 0: never")                                                                    \
    X(trim_batch, COUNT, "512", 1, 512, "most pages trimmed together")                             \
    X(write_batch, COUNT, "256", 1, 512, "most pages written together")                            \
    X(write_depth, COUNT, "2", 1, 8, "batches of writes in flight")                                \
    X(dirty, CHOICE, "auto", 0, 0,                                                                 \
      "how a change is noticed: hash, protect (first write faults), or auto: as it pays")          \
    X(spinning_locks, BOOL, "off", 0, 0, "locks spin instead of sleeping")                         \
    X(memory_lock, BOOL, "off", 0, 0, "lock resident pages, so that the kernel cannot swap them")  \
    X(patience, TIME, "30s", 0, 3600 * TUNABLE_SECOND,                                             \
      "how long a fault waits for a frame while the pagefile cannot be written")                   \
    X(store_depth, COUNT, "64", 1, 1024, "requests in flight in each queue of the store")          \
    X(store_delay, TIME, "0", 0, 60 * TUNABLE_SECOND,                                              \
      "test: every read and write takes this long")                                                \
    X(store_jitter, TIME, "0", 0, 60 * TUNABLE_SECOND,                                             \
      "test: and up to so long more, each time another")                                           \
    X(store_read_error, COUNT, "0", 0, UINT64_MAX, "test: every Nth read fails")                   \
    X(store_write_error, COUNT, "0", 0, UINT64_MAX, "test: every Nth write fails")                 \
    X(store_corrupt, COUNT, "0", 0, UINT64_MAX, "test: every Nth read has a bit flipped")          \
    X(store_full_after, COUNT, "0", 0, UINT64_MAX, "test: the disk is full after N written pages") \
    X(store_bad_slot, COUNT, "0", 0, UINT64_MAX, "test: slot N can never be read")                 \
    X(store_bad_write_slot, COUNT, "0", 0, UINT64_MAX, "test: slot N can never be written")        \
    X(yield_delay, TIME, "0", 0, TUNABLE_SECOND,                                                   \
      "test: threads sleep at random yield points, each time up to this long")                     \
    X(hash_seed, COUNT, "0", 0, UINT64_MAX, "test: secret of the content hash; 0: drawn at start")

/* Words of each CHOICE, in the order of its enum. */
enum tunable_mapper { MAPPER_COPY, MAPPER_MOVE, MAPPER_SOFT };
enum tunable_trap { TRAP_THREAD, TRAP_SIGBUS, TRAP_NONE, TRAP_AUTO };
enum tunable_stage { STAGE_SINGLE, STAGE_BASIC, STAGE_FULL };
enum tunable_dirty { DIRTY_HASH, DIRTY_PROTECT, DIRTY_AUTO };

enum tunable_type {
    TUNABLE_SIZE,
    TUNABLE_TIME,
    TUNABLE_COUNT,
    TUNABLE_BOOL,
    TUNABLE_STRING,
    TUNABLE_CHOICE
};

#define TUNABLE_STRING_MAX 256

/* SIZE, TIME and COUNT are uint64_t, BOOL is bool, CHOICE is unsigned, STRING is char[256]. */
typedef uint64_t tunable_SIZE;
typedef uint64_t tunable_TIME;
typedef uint64_t tunable_COUNT;
typedef bool tunable_BOOL;
typedef unsigned tunable_CHOICE;
typedef char tunable_STRING[TUNABLE_STRING_MAX];

struct tunables {
#define TUNABLE_FIELD(name, type, value, min, max, help) tunable_##type name;
    TUNABLES(TUNABLE_FIELD)
#undef TUNABLE_FIELD
};

struct tunable_info {
    const char *name;
    enum tunable_type type;
    const char *default_text;
    uint64_t minimum, maximum;
    const char *help;
    const char *const *choices; /* NULL-terminated; NULL unless CHOICE */
    size_t offset;              /* in struct tunables */
};

extern const struct tunable_info tunable_table[];
extern const unsigned tunable_count;

/* Are two names the same, '-' counting as '_'? */
bool option_names_equal(const char *a, const char *b);
/* The tunable of this name, or NULL. */
const struct tunable_info *tunable_find(const char *name);

void tunables_init(struct tunables *t);
/* 0, or -EINVAL / -ERANGE with words (and the nearest name) in error_last(). */
int tunables_set(struct tunables *t, const char *name, const char *value);
/* "name:value,name:value"; also accepts '=' for ':'. Same errors. */
int tunables_parse(struct tunables *t, const char *conf);
/* The value as text that tunables_set() would accept; returns buffer. */
const char *tunable_print(const struct tunables *t, const struct tunable_info *info, char *buffer,
                          size_t size);
/* A line for every tunable: name, value, help. */
void tunables_show(const struct tunables *t, FILE *out);

/* Parsers that the command line shares. 0 or -EINVAL / -ERANGE with words; `what` names the option.
 */
int parse_size(const char *what, const char *text, uint64_t *bytes);
int parse_time(const char *what, const char *text, uint64_t *ns);
int parse_count(const char *what, const char *text, uint64_t *count);
/* The entry of names[] (NULL-terminated) nearest to word by edit distance, or NULL if none is near.
 */
const char *nearest_word(const char *word, const char *const *names);

#endif
