#include "disturb.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define CPUS_MAX 64u
#define CORRUPT_BYTES 16u
#define DEVICE_CUT (1024L * 1024) /* bytes that a cut leaves, at least */

static uint64_t between(struct disturb *d, uint64_t low, uint64_t high)
{
    return low + rng_next(&d->rng) % (high - low + 1);
}

/* ---- control groups, version 1 and 2 ---- */

static void group_path(const struct places *places, const char *file, char path[512])
{
    snprintf(path, 512, "%s/%s", places->cgroup, file);
}

static int group_write(const struct places *places, const char *file, const char *text)
{
    char path[512];
    ssize_t got;
    int fd;

    group_path(places, file, path);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    got = write(fd, text, strlen(text));
    if (got < 0)
        got = -errno;
    close(fd);
    return got < 0 ? (int)got : 0;
}

static int group_write_number(const struct places *places, const char *file, uint64_t number)
{
    char text[32];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
    return group_write(places, file, text);
}

/* The number behind `key` in a file, or the first if key is ""; 0 if there is none. */
static uint64_t group_read(const struct places *places, const char *file, const char *key)
{
    unsigned long long number = 0;
    char path[512], line[256];
    FILE *in;

    group_path(places, file, path);
    in = fopen(path, "re");
    while (in != NULL && fgets(line, sizeof(line), in) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0 &&
            sscanf(line + strlen(key), " %llu", &number) == 1)
            break;
    }
    if (in != NULL)
        fclose(in);
    return number;
}

static bool group_is_v2(const struct places *places)
{
    char path[512];

    group_path(places, "memory.max", path);
    return access(path, F_OK) == 0;
}

static const char *limit_file(const struct places *places)
{
    return group_is_v2(places) ? "memory.max" : "memory.limit_in_bytes";
}

static uint64_t group_usage(const struct places *places)
{
    return group_read(places, group_is_v2(places) ? "memory.current" : "memory.usage_in_bytes", "");
}

static uint64_t group_oom_kills(const struct places *places)
{
    return group_read(places, group_is_v2(places) ? "memory.events" : "memory.oom_control",
                      "oom_kill ");
}

static uint64_t group_limit_hits(const struct places *places)
{
    return group_is_v2(places) ? group_read(places, "memory.events", "max ")
                               : group_read(places, "memory.failcnt", "");
}

static int group_begin(struct disturb *d)
{
    const struct places *places = d->places;
    uint64_t allowance = plan_allowance(d->plan);
    bool dip = (d->plan->flags & DISTURB_DIP) != 0;
    int error;

    d->limit = allowance;
    if (d->plan->flags & PHASE_SQUEEZE)
        d->limit = between(d, d->plan->memory * 9 / 10, allowance);
    if (group_is_v2(places)) {
        group_write(places, "memory.high", "max");
    } else {
        group_write(places, "memory.limit_in_bytes", "-1");
        group_write(places, "memory.force_empty", "0");
        group_write(places, "memory.failcnt", "0");
        /* Without killing, a charge that does not fit fails, or waits if it can: so UFFDIO_COPY
         * meets ENOMEM. */
        group_write(places, "memory.oom_control", dip ? "1" : "0");
    }
    error = group_write_number(places, limit_file(places), d->limit);
    d->oom_kills = group_oom_kills(places);
    if (error == 0)
        return 0;
    snprintf(d->verdict->words, WORDS_MAX, "the control group's limit cannot be set: %s",
             strerror(-error));
    return -1;
}

int disturb_join(const struct plan *plan, const struct places *places)
{
    if (!(plan->flags & (PHASE_LIMIT | PHASE_SQUEEZE)))
        return 0;
    return group_write_number(places, "cgroup.procs", (uint64_t)getpid());
}

bool disturb_killed(const struct disturb *d)
{
    return d->limit > 0 && group_oom_kills(d->places) > d->oom_kills;
}

/* The limit comes down to what is used now, for a moment. */
static void dip(struct disturb *d)
{
    const char *file = group_is_v2(d->places) ? "memory.high" : "memory.limit_in_bytes";
    uint64_t usage = group_usage(d->places);

    if (group_write_number(d->places, file, usage + between(d, 0, 256 * 1024)) == 0)
        d->verdict->dips++;
    torture_sleep(between(d, 1, 60) * MILLISECOND);
    if (group_is_v2(d->places))
        group_write(d->places, file, "max");
    else
        group_write_number(d->places, file, d->limit);
    d->due[AT_DIP] = torture_now() + between(d, 1, 60) * MILLISECOND;
}

/* ---- stops, processors ---- */

static void stop(struct disturb *d)
{
    uint64_t since = torture_now();

    kill(d->pid, SIGSTOP);
    torture_sleep(between(d, 1, rng_one_in(&d->rng, 8) ? 400 : 30) * MILLISECOND);
    kill(d->pid, SIGCONT);
    d->verdict->stops++;
    d->paused_ns += torture_now() - since;
    d->due[AT_STOP] = torture_now() + between(d, 1, 120) * MILLISECOND;
}

/* All threads to one processor, each to one of its own, or all to all. */
static void move_threads(struct disturb *d)
{
    unsigned cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN), way = rng_below(&d->rng, 3);
    unsigned one = rng_below(&d->rng, cpus);
    const struct dirent *entry;
    char path[64];
    DIR *tasks;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)d->pid);
    tasks = opendir(path);
    while (tasks != NULL && (entry = readdir(tasks)) != NULL) {
        cpu_set_t set;

        if (entry->d_name[0] == '.')
            continue;
        CPU_ZERO(&set);
        for (unsigned c = 0; c < cpus && way == 2; c++)
            CPU_SET(c, &set);
        if (way < 2)
            CPU_SET(way == 0 ? one : rng_below(&d->rng, cpus), &set);
        /* A thread may have ended meanwhile, or the machine's own rules forbid it. */
        if (sched_setaffinity((pid_t)strtol(entry->d_name, NULL, 10), sizeof(set), &set) == 0)
            d->verdict->moves++;
    }
    if (tasks != NULL)
        closedir(tasks);
    d->due[AT_CPU] = torture_now() + between(d, 5, 150) * MILLISECOND;
}

/* ---- a full disk ---- */

static int fill_open(struct disturb *d)
{
    const char *folder = d->plan->flags & PHASE_DEVICE ? d->places->thin_disk : d->places->small;
    char path[400];

    snprintf(path, sizeof(path), "%s/fill", folder);
    d->fill = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (d->fill >= 0) {
        unlink(path);
        /* What the last case gave up may still count as used until the journal is written. */
        return syncfs(d->fill);
    }
    snprintf(d->verdict->words, WORDS_MAX, "%s: %s", path, strerror(errno));
    return -1;
}

/* The device gives up its blocks, so that each case meets one without. */
static int device_empty(struct disturb *d)
{
    int fd = open(d->places->thin, O_RDWR | O_CLOEXEC);
    uint64_t range[2] = {0, 0};
    int result = -1;

    if (fd >= 0 && ioctl(fd, BLKGETSIZE64, &range[1]) == 0)
        result = ioctl(fd, BLKDISCARD, range);
    if (result != 0)
        snprintf(d->verdict->words, WORDS_MAX, "%s cannot be emptied: %s", d->places->thin,
                 strerror(errno));
    if (fd >= 0)
        close(fd);
    return result;
}

/* Write until there is no room for a page more. */
static void fill_up(struct disturb *d)
{
    static char block[1 << 20];
    size_t size = sizeof(block);

    while (size >= PAGE) {
        ssize_t got = write(d->fill, block, size);

        if (got <= 0)
            size /= 4;
    }
    /* Blocks that were only promised to the file are taken now. */
    if (fdatasync(d->fill) != 0 && errno != ENOSPC)
        fprintf(stderr, "torture: filling the disk: %s\n", strerror(errno));
}

/* Full for a while, free for a while. */
static void fill(struct disturb *d)
{
    if (!d->filled) {
        fill_up(d);
        d->verdict->fills++;
        d->due[AT_FILL] = torture_now() + between(d, 50, 600) * MILLISECOND;
    } else {
        if (ftruncate(d->fill, 0) != 0 || lseek(d->fill, 0, SEEK_SET) != 0)
            fprintf(stderr, "torture: emptying the disk: %s\n", strerror(errno));
        d->due[AT_FILL] = torture_now() + between(d, 50, 400) * MILLISECOND;
    }
    d->filled = !d->filled;
}

/*
 * The file behind the device is cut short for a moment: reads of what was there fail with EIO, and
 * what it held is lost.
 */
static void cut(struct disturb *d)
{
    char path[400];
    struct stat st;

    snprintf(path, sizeof(path), "%s/blocks", d->places->thin_disk);
    if (stat(path, &st) == 0 && truncate(path, (off_t)between(d, 1, 3) * DEVICE_CUT) == 0)
        d->verdict->cuts++;
    torture_sleep(between(d, 1, 60) * MILLISECOND);
    if (truncate(path, st.st_size) != 0)
        fprintf(stderr, "torture: %s: %s\n", path, strerror(errno));
    d->due[AT_CUT] = torture_now() + between(d, 100, 500) * MILLISECOND;
}

/* ---- writing over the pagefile ---- */

static void overwrite(struct disturb *d, int fd, uint64_t slot)
{
    uint64_t noise[CORRUPT_BYTES / 8] = {rng_next(&d->rng), rng_next(&d->rng)};
    off_t at = (off_t)(slot * PAGE + rng_below(&d->rng, (unsigned)(PAGE - CORRUPT_BYTES)));

    if (pwrite(fd, noise, sizeof(noise), at) == (ssize_t)sizeof(noise))
        d->verdict->slots++;
}

static void corrupt(struct disturb *d)
{
    bool all = atomic_load(&d->report->corrupt_all);
    bool running = atomic_load(&d->report->life) == LIFE_MIX;
    int fd = open(d->plan->pagefile, O_RDWR | O_CLOEXEC);
    uint64_t slots = 0;
    struct stat st;

    d->due[AT_CORRUPT] = torture_now() + between(d, 2, 40) * MILLISECOND;
    if (fd >= 0 && fstat(fd, &st) == 0)
        slots = (uint64_t)st.st_size / PAGE;
    for (unsigned i = 0; i < 2 && slots > 1 && running; i++)
        overwrite(d, fd, between(d, 1, slots - 1));
    for (uint64_t slot = 1; slot < slots && all; slot++)
        overwrite(d, fd, slot);
    if (all && fdatasync(fd) == 0)
        atomic_store(&d->report->corrupt_all, false);
    if (fd >= 0)
        close(fd);
}

/* ---- all of it ---- */

int disturb_begin(struct disturb *d)
{
    memset(d->due, 0, sizeof(d->due));
    d->fill = -1;
    d->filled = false;
    d->limit = 0;
    d->paused_ns = 0;
    if ((d->plan->flags & (PHASE_LIMIT | PHASE_SQUEEZE)) && group_begin(d) != 0)
        return -1;
    if ((d->plan->flags & PHASE_DEVICE) && device_empty(d) != 0)
        return -1;
    if ((d->plan->flags & DISTURB_FILL) && fill_open(d) != 0)
        return -1;
    return 0;
}

void disturb_tick(struct disturb *d)
{
    static void (*const does[DISTURBANCES])(struct disturb *) = {
        [AT_STOP] = stop, [AT_CPU] = move_threads, [AT_DIP] = dip,
        [AT_FILL] = fill, [AT_CORRUPT] = corrupt,  [AT_CUT] = cut,
    };

    for (unsigned i = 0; i < DISTURBANCES; i++) {
        /* Without disk or memory from the start there is no manager, and rightly so. */
        if ((i == AT_FILL || i == AT_DIP || i == AT_CUT) &&
            atomic_load(&d->report->life) == LIFE_CREATE)
            continue;
        if ((d->plan->flags & (1u << i)) && torture_now() >= d->due[i])
            does[i](d);
    }
}

void disturb_end(struct disturb *d)
{
    if (d->fill >= 0)
        close(d->fill);
    d->fill = -1;
    if (d->limit == 0)
        return;
    d->verdict->limit_hits += group_limit_hits(d->places);
    group_write(d->places, limit_file(d->places), group_is_v2(d->places) ? "max" : "-1");
}
