#include <errno.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "group.h"
#include "peer.h"
#include "record.h"
#include "swap_space.h"
#include "zram.h"

#define PAGE 4096
#define SWAP_NAME "vmsm-bench.swap"
#define ALLOWANCE ((size_t)4 << 20)
#define PAGE_ALLOWANCE 12 /* bytes: 8 of page table, 4 of generation */
#define WATCH_US 5000
#define PATIENCE 10      /* seconds that processes may find no memory, before they are killed */
#define LEAST_SHARE 4    /* the group's limit is never under a quarter */
#define STEP_SHARE 64    /* the limit is lowered by no more at a time */
#define CHANGE_SHARE 128 /* a change smaller than this is not worth a reclaim */

/* Follows zram's use, and moves the group's limit; and wakes who waits for memory. */
struct watch {
    pthread_t thread;
    bool running; /* owner: the peer's thread */
    atomic_bool stop;
    uint64_t limit;        /* of group and zram together, bytes; constant while running */
    _Atomic uint64_t peak; /* the most that both had, bytes */
};

struct peer {
    int record; /* descriptor of the record, or -1 */
    struct group group;
    struct zram zram;
    char file[TEXT_PATH]; /* the swap file */
    bool file_made;
    bool remains;          /* of an earlier run, that could not be removed */
    uint64_t swap_size;    /* bytes, of the file and of zram */
    enum memory_kind kind; /* prepared */
    const char *on;        /* the swap space that is on, or NULL */
    struct watch watch;
    struct why missing[MEMORY_KINDS], notes[MEMORY_KINDS];
};

/* ---- What a killed run left ---- */

/* Say what was removed, or what to do if it cannot be. True: it is gone. */
static bool remains_say(const char *what, int error, const char *command)
{
    if (error == 0)
        complain("removed %s, left by an earlier run", what);
    else
        complain("cannot remove %s: %s; run: %s %s", what, strerror(-error), command, what);
    return error == 0;
}

static bool swap_file_remove(const char *path)
{
    int error;

    if (access(path, F_OK) < 0)
        return true;
    error = swap_off(path);
    if (error == 0 && unlink(path) < 0)
        error = -errno;
    return remains_say(path, error, "swapoff");
}

static bool zram_remains_remove(int number)
{
    struct zram zram = {.number = -1};
    int error;

    zram_name(&zram, number);
    /* Another program's by now: one that has content without our label. */
    if (access(zram.sys, F_OK) < 0 ||
        (text_number(zram.sys, "disksize") != 0 && !swap_is_ours(zram.dev)))
        return true;
    error = swap_off(zram.dev);
    if (error == 0)
        error = zram_remove(&zram);
    return remains_say(zram.dev, error, "swapoff");
}

/* One line of the record. */
static bool remains_remove(const char *line, struct peer *peer)
{
    if (strncmp(line, "swap ", 5) == 0)
        return swap_file_remove(line + 5);
    if (strncmp(line, "zram ", 5) == 0)
        return zram_remains_remove(atoi(line + 5));
    if (strncmp(line, "module ", 7) == 0)
        peer->zram.module_loaded = true;
    if (strncmp(line, "controller ", 11) == 0)
        peer->group.controller_enabled = true;
    return true;
}

/* False: something could not be removed, and stays in the record. */
static bool remains_clear(struct peer *peer)
{
    char text[RECORD_SIZE], *rest = NULL;
    bool gone = true;
    int error;

    /* Processes first: what they have in swap need not be read back. */
    if (peer->group.path[0] != '\0' && access(peer->group.path, F_OK) == 0) {
        error = group_remove(&peer->group);
        gone = remains_say(peer->group.path, error, "rmdir");
    }
    record_read(peer->record, text);
    for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest))
        gone = remains_remove(line, peer) && gone;
    gone = swap_file_remove(peer->file) && gone;
    if (!gone)
        return false;
    zram_unload(&peer->zram);
    group_restore(&peer->group);
    record_clear(peer->record);
    return true;
}

/* ---- Finding out ---- */

static void missing_all(struct peer *peer, const char *reason)
{
    for (unsigned kind = 0; kind < MEMORY_KINDS; kind++) {
        if (!memory_kind_managed(kind))
            snprintf(peer->missing[kind].text, sizeof(peer->missing[kind].text), "%s", reason);
    }
}

/* Is there a group to be had? Tried with one. */
static bool group_try(struct peer *peer)
{
    struct group *group = &peer->group;
    struct why why = {""};

    /* A line too many does no harm: nothing is taken back that was not changed. */
    if (group->version2 && !group_has_controller(group))
        record_add(peer->record, "controller", group->root);
    if (group_make(group, PAGE * 1024, true, &why) == 0 && group_remove(group) == 0)
        return true;
    missing_all(peer, why.text[0] != '\0' ? why.text : "the control group cannot be removed");
    return false;
}

static void swap_find(struct peer *peer)
{
    struct why *why = &peer->missing[SWAP];
    int error = record_add(peer->record, "swap", peer->file);

    if (error != 0)
        why_set(why, error, "cannot write %s: %s", RECORD_PATH, strerror(-error));
    else
        peer->file_made = swap_file_make(peer->file, peer->swap_size, why) == 0;
    why_set(&peer->notes[SWAP], 0, "swap file of %.0f MiB", (double)peer->swap_size / 1048576);
}

static void zram_find(struct peer *peer)
{
    struct why *why = &peer->missing[ZRAM];
    struct zram *zram = &peer->zram;
    char number[16];
    int error;

    if (zram_load(zram, why) != 0)
        return;
    if (zram->module_loaded)
        record_add(peer->record, "module", "zram");
    if (zram_add(zram, why) != 0)
        return;
    snprintf(number, sizeof(number), "%d", zram->number);
    error = record_add(peer->record, "zram", number);
    if (error == 0)
        error = zram_format(zram, peer->swap_size);
    if (error == 0)
        error = swap_on(zram->dev);
    if (error == 0)
        error = swap_off(zram->dev);
    if (error != 0)
        why_set(why, error, "cannot swap to the zram device %s: %s", zram->dev, strerror(-error));
    if (error != 0)
        zram_remove(zram);
    why_set(&peer->notes[ZRAM], 0,
            "%s; its memory comes off the group's limit, down to a quarter of it", zram->algorithm);
}

/* Another swap space of the highest priority would take every second page. */
static void rival_find(struct peer *peer)
{
    char name[TEXT_PATH];

    if (!swap_has_rival(name, sizeof(name)))
        return;
    for (unsigned kind = SWAP; kind <= ZRAM; kind++)
        why_set(&peer->missing[kind], 0,
                "the swap space %s has the highest priority already; run: swapoff %s", name, name);
}

/* A file that lies in memory is no peer. */
static void mapped_find(struct peer *peer, const char *dir)
{
    struct statfs fs;

    if (statfs(dir, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC))
        why_set(&peer->missing[MAPPED], 0, "%s lies in memory: choose another directory", dir);
}

static void peers_find(struct peer *peer, const char *dir)
{
    struct why why = {""};

    if (geteuid() != 0) {
        missing_all(peer, "control groups and swap take root");
        return;
    }
    if (strchr(peer->file, '\n') != NULL) {
        missing_all(peer, "the directory's name has a line break");
        return;
    }
    peer->record = record_open(&why);
    if (peer->record < 0) {
        missing_all(peer, why.text);
        return;
    }
    if (group_find(&peer->group, &why) != 0)
        missing_all(peer, why.text);
    if (!remains_clear(peer)) {
        peer->remains = true;
        missing_all(peer, "what an earlier run left cannot be removed");
        return;
    }
    if (why.text[0] != '\0' || !group_try(peer))
        return;
    mapped_find(peer, dir);
    rival_find(peer);
    if (peer->missing[SWAP].text[0] == '\0') {
        swap_find(peer);
        zram_find(peer);
    }
}

int peer_open(struct peer **out, const struct peer_options *options,
              const char *missing[MEMORY_KINDS])
{
    struct peer *peer = calloc(1, sizeof(*peer));
    char *dir = realpath(options->dir, NULL);

    *out = peer;
    if (peer == NULL) {
        free(dir);
        return -ENOMEM;
    }
    peer->record = -1;
    peer->group.procs = -1;
    peer->zram.number = -1;
    peer->swap_size = (uint64_t)options->length * 2;
    if (dir == NULL ||
        snprintf(peer->file, sizeof(peer->file), "%s/" SWAP_NAME, dir) >= (int)sizeof(peer->file))
        missing_all(peer, "the directory does not exist, or its name is too long");
    else
        peers_find(peer, dir);
    free(dir);
    for (unsigned kind = 0; kind < MEMORY_KINDS; kind++)
        missing[kind] = peer->missing[kind].text[0] != '\0' ? peer->missing[kind].text : NULL;
    return 0;
}

const char *peer_note(const struct peer *peer, enum memory_kind kind)
{
    return peer->notes[kind].text;
}

size_t peer_allowance(size_t length)
{
    return ALLOWANCE + length / PAGE * PAGE_ALLOWANCE;
}

/* ---- Processes that wait for memory ---- */

/* They wait until somebody makes them look again; but not for ever, if there is none to be had.
 * since: second in which they began, 0 if none waits. */
static void wake_waiting(struct peer *peer, time_t *since)
{
    struct timespec now;

    if (!group_wake(&peer->group)) {
        *since = 0;
        return;
    }
    clock_gettime(CLOCK_BOOTTIME, &now);
    if (*since == 0)
        *since = now.tv_sec;
    if (now.tv_sec - *since < PATIENCE)
        return;
    *since = 0;
    group_kill(&peer->group);
}

/* ---- The limit that zram shares ---- */

static void *watch_main(void *arg)
{
    struct peer *peer = arg;
    struct watch *watch = &peer->watch;
    uint64_t set = watch->limit, least = watch->limit / LEAST_SHARE;
    time_t since = 0;

    while (!atomic_load(&watch->stop)) {
        uint64_t used = zram_used(&peer->zram), both = used + group_charged(&peer->group);
        uint64_t target = used < watch->limit - least ? watch->limit - used : least;
        uint64_t change;

        /* In steps: while the kernel works towards a limit that is much lower, the old one holds,
         * and the group's threads take back what it reclaims, until it gives up, or kills. */
        if (target + watch->limit / STEP_SHARE < set)
            target = set - watch->limit / STEP_SHARE;
        change = target > set ? target - set : set - target;

        if (both > atomic_load(&watch->peak))
            atomic_store(&watch->peak, both);
        /* -EBUSY: not enough could be reclaimed by now; the next turn tries again. */
        if ((change > watch->limit / CHANGE_SHARE || (change > 0 && target == least)) &&
            group_limit(&peer->group, target) == 0)
            set = target;
        wake_waiting(peer, &since);
        usleep(WATCH_US);
    }
    return NULL;
}

/* For swap: no processes wait for memory that is there. */
static void *wake_main(void *arg)
{
    struct peer *peer = arg;
    time_t since = 0;

    while (!atomic_load(&peer->watch.stop)) {
        wake_waiting(peer, &since);
        usleep(WATCH_US);
    }
    return NULL;
}

static int watch_start(struct peer *peer, enum memory_kind kind, uint64_t limit)
{
    struct watch *watch = &peer->watch;
    sigset_t all, before;
    int error;

    atomic_store(&watch->stop, false);
    atomic_store(&watch->peak, 0);
    watch->limit = limit;
    /* Signals are for the thread that waits for children. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&watch->thread, NULL, kind == ZRAM ? watch_main : wake_main, peer);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    watch->running = error == 0;
    return -error;
}

static void watch_stop(struct peer *peer)
{
    if (!peer->watch.running)
        return;
    atomic_store(&peer->watch.stop, true);
    pthread_join(peer->watch.thread, NULL);
    peer->watch.running = false;
}

/* ---- Rounds ---- */

static int swap_release(struct peer *peer)
{
    int error = peer->on != NULL ? swap_off(peer->on) : 0;

    if (error != 0)
        complain("cannot switch off the swap on %s: %s; run: swapoff %s", peer->on,
                 strerror(-error), peer->on);
    else
        peer->on = NULL;
    return error;
}

/* End the round that was: its processes, its group, its swap. */
static int round_end(struct peer *peer)
{
    int error;

    watch_stop(peer);
    peer->kind = MANAGED;
    error = peer->group.made ? group_remove(&peer->group) : 0;
    if (error != 0)
        complain("cannot remove the control group %s: %s; run: rmdir %s", peer->group.path,
                 strerror(-error), peer->group.path);
    return swap_release(peer) != 0 ? -EBUSY : error;
}

static int swap_begin(struct peer *peer, enum memory_kind kind, uint64_t limit)
{
    const char *path = kind == SWAP ? peer->file : peer->zram.dev;
    int error = kind == ZRAM ? zram_format(&peer->zram, peer->swap_size) : 0;

    if (error == 0)
        error = swap_on(path);
    if (error == 0)
        peer->on = path;
    if (error == 0)
        error = watch_start(peer, kind, limit);
    if (error != 0)
        complain("cannot use the swap on %s: %s", path, strerror(-error));
    return error;
}

int peer_prepare(struct peer *peer, enum memory_kind kind, size_t limit)
{
    struct why why = {""};
    int error;

    if (peer->missing[kind].text[0] != '\0') {
        complain("%s is left out: %s", memory_kind_names[kind], peer->missing[kind].text);
        return -ENOTSUP;
    }
    error = round_end(peer);
    if (error != 0 || memory_kind_managed(kind))
        return error;
    error = group_make(&peer->group, limit, kind != MAPPED, &why);
    if (error != 0) {
        complain("%s", why.text);
        return error;
    }
    if (kind != MAPPED)
        error = swap_begin(peer, kind, limit);
    if (error != 0)
        round_end(peer);
    else
        peer->kind = kind;
    return error;
}

int peer_enter(struct peer *peer)
{
    return peer->kind == MANAGED ? 0 : group_enter(&peer->group);
}

uint64_t peer_peak(struct peer *peer)
{
    if (peer->kind == MANAGED)
        return 0;
    return peer->kind == ZRAM ? atomic_load(&peer->watch.peak) : group_peak(&peer->group);
}

void peer_close(struct peer *peer)
{
    bool keep;

    if (peer == NULL)
        return;
    keep = round_end(peer) != 0 || peer->remains;
    if (peer->file_made && peer->on == NULL && unlink(peer->file) < 0) {
        complain("cannot remove %s: %s", peer->file, strerror(errno));
        keep = true;
    }
    if (peer->on == NULL && zram_remove(&peer->zram) != 0) {
        complain("cannot remove %s; run: echo %d > /sys/class/zram-control/hot_remove",
                 peer->zram.dev, peer->zram.number);
        keep = true;
    }
    if (!keep) {
        zram_unload(&peer->zram);
        group_restore(&peer->group);
    }
    record_close(peer->record, keep);
    free(peer);
}
