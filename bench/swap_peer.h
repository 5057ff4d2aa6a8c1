/*
 * The kernel's side of a comparison: a memory control group with a limit, and a swap file.
 *
 * peer_set_up() makes both, or says in reason why it cannot (the caller then leaves the
 * peer out); peer_enter() puts the calling process into the group; peer_take_down()
 * removes whatever was made, and may be called at any stage.
 */
#ifndef BENCH_SWAP_PEER_H
#define BENCH_SWAP_PEER_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <unistd.h>

#define PEER_PATH 512
#define PEER_PAGE 4096

struct peer_settings {
    uint64_t limit, swap_size;
    const char *dir; /* where the swap file is made */
};

struct peer {
    char root[PEER_PATH / 2], group[PEER_PATH], file[PEER_PATH];
    bool version2, controller_enabled, group_made, file_made, swap_on;
    char reason[PEER_PATH * 2]; /* why there is no peer; "" if there is */
};

__attribute__((format(printf, 2, 3))) static inline bool peer_fail(struct peer *p,
                                                                   const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(p->reason, sizeof(p->reason), format, args);
    va_end(args);
    return false;
}

static inline int file_write(const char *dir, const char *name, const char *text)
{
    char path[PEER_PATH + 64];
    int fd, result = 0;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, text, strlen(text)) < 0)
        result = -errno;
    close(fd);
    return result;
}

static inline int file_read(const char *dir, const char *name, char *text, size_t size)
{
    char path[PEER_PATH + 64];
    ssize_t length = 0;
    int fd;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    length = read(fd, text, size - 1);
    close(fd);
    text[length > 0 ? length : 0] = '\0';
    return length < 0 ? -EIO : 0;
}

/* Where the memory controller is mounted: version 2 if it has it, else version 1. */
static inline bool controller_find(struct peer *p)
{
    FILE *f = fopen("/proc/self/mounts", "re");
    char line[4096], dir[PEER_PATH / 2], type[64], flags[1024], controllers[1024];

    while (f != NULL && !p->version2 && fgets(line, sizeof(line), f) != NULL) {
        if (sscanf(line, "%*s %255s %63s %1023s", dir, type, flags) != 3)
            continue;
        if (strcmp(type, "cgroup2") == 0 &&
            file_read(dir, "cgroup.controllers", controllers, sizeof(controllers)) == 0 &&
            strstr(controllers, "memory") != NULL)
            p->version2 = true;
        else if (strcmp(type, "cgroup") != 0 || strstr(flags, ",memory") == NULL)
            continue;
        snprintf(p->root, sizeof(p->root), "%s", dir);
    }
    if (f != NULL)
        fclose(f);
    return p->root[0] != '\0';
}

static inline bool group_make(struct peer *p, uint64_t limit)
{
    char text[1024] = "";
    int error;

    if (!controller_find(p))
        return peer_fail(p, "the kernel's memory control group controller is not mounted");
    if (p->version2) {
        file_read(p->root, "cgroup.subtree_control", text, sizeof(text));
        if (strstr(text, "memory") == NULL) {
            error = file_write(p->root, "cgroup.subtree_control", "+memory");
            if (error < 0)
                return peer_fail(p, "cannot enable the memory controller in %s: %s", p->root,
                                 strerror(-error));
            p->controller_enabled = true;
        }
    }
    snprintf(p->group, sizeof(p->group), "%s/vmsm-bench-swap-%d", p->root, (int)getpid());
    if (mkdir(p->group, 0755) < 0)
        return peer_fail(p, "cannot make the control group %s: %s", p->group, strerror(errno));
    p->group_made = true;
    snprintf(text, sizeof(text), "%llu", (unsigned long long)limit);
    error = file_write(p->group, p->version2 ? "memory.max" : "memory.limit_in_bytes", text);
    if (error < 0)
        return peer_fail(p, "cannot set the limit of %s: %s", p->group, strerror(-error));
    return true;
}

/* A swap file's first page: version 1, the last page's number, the magic at the end. */
static inline int swap_header_write(int fd, uint64_t size)
{
    uint8_t page[PEER_PAGE] = {0};
    uint32_t version = 1, last = (uint32_t)(size / PEER_PAGE - 1);

    memcpy(page + 1024, &version, sizeof(version));
    memcpy(page + 1028, &last, sizeof(last));
    memcpy(page + PEER_PAGE - 10, "SWAPSPACE2", 10);
    if (pwrite(fd, page, sizeof(page), 0) != (ssize_t)sizeof(page) || fsync(fd) < 0)
        return -errno;
    return 0;
}

static inline bool swap_make(struct peer *p, const char *dir, uint64_t size)
{
    int fd, error;

    snprintf(p->file, sizeof(p->file), "%s/vmsm-bench-swap-%d.swap", dir, (int)getpid());
    fd = open(p->file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return peer_fail(p, "cannot make the swap file %s: %s", p->file, strerror(errno));
    p->file_made = true;
    error = posix_fallocate(fd, 0, (off_t)size);
    if (error == 0)
        error = -swap_header_write(fd, size);
    close(fd);
    if (error != 0)
        return peer_fail(p, "cannot fill the swap file %s (%.0f MiB): %s", p->file,
                         (double)size / 1048576, strerror(error));
    /* The highest priority, so that no other swap of the machine serves the peer. */
    if (swapon(p->file, SWAP_FLAG_PREFER | SWAP_FLAG_PRIO_MASK) < 0)
        return peer_fail(p, "cannot use the swap file %s: %s%s", p->file, strerror(errno),
                         errno == EINVAL ? " (this file system may not allow swap files: --dir)"
                                         : "");
    p->swap_on = true;
    return true;
}

static inline bool peer_set_up(struct peer *p, const struct peer_settings *s)
{
    if (geteuid() != 0)
        return peer_fail(p, "making a control group and a swap file takes root");
    return group_make(p, s->limit) && swap_make(p, s->dir, s->swap_size);
}

/* Put the calling process into the group: 0 or a negative errno. */
static inline int peer_enter(const struct peer *p)
{
    return file_write(p->group, "cgroup.procs", "0");
}

/* The most that was ever charged to the group. */
static inline uint64_t peer_peak(const struct peer *p)
{
    char text[64] = "";

    file_read(p->group, p->version2 ? "memory.peak" : "memory.max_usage_in_bytes", text,
              sizeof(text));
    return strtoull(text, NULL, 10);
}

static inline void peer_take_down(struct peer *p)
{
    if (p->swap_on && swapoff(p->file) < 0)
        fprintf(stderr, "swap: cannot release %s: %s; run: swapoff %s\n", p->file, strerror(errno),
                p->file);
    if (p->file_made && unlink(p->file) < 0)
        fprintf(stderr, "swap: cannot remove %s: %s\n", p->file, strerror(errno));
    /* The group of a process that has just ended is busy for a moment. */
    for (int i = 0; p->group_made && i < 200; i++) {
        if (rmdir(p->group) == 0)
            p->group_made = false;
        else
            usleep(10000);
    }
    if (p->group_made)
        fprintf(stderr, "swap: cannot remove %s: %s\n", p->group, strerror(errno));
    if (p->controller_enabled)
        file_write(p->root, "cgroup.subtree_control", "-memory");
}

#endif
