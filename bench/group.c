#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "group.h"

#define GROUP_NAME "vmsm-bench"
#define PROCESSES_TEXT 65536
#define REMOVE_TRIES 500 /* of 10 ms each */

/* What the two versions call their files. */
static const char *limit_name(const struct group *group)
{
    return group->version2 ? "memory.max" : "memory.limit_in_bytes";
}

/* Is `word` one of the words of `list`, which `separators` part? */
static bool list_has(const char *list, const char *separators, const char *word)
{
    size_t length = strlen(word);

    for (const char *at = list; *at != '\0';) {
        size_t n;

        at += strspn(at, separators);
        n = strcspn(at, separators);
        if (n == length && strncmp(at, word, n) == 0)
            return true;
        at += n;
    }
    return false;
}

int group_find(struct group *group, struct why *why)
{
    char line[4096], dir[TEXT_PATH / 2], type[64], flags[1024], controllers[1024];
    FILE *f = fopen("/proc/self/mounts", "re");

    *group = (struct group){.procs = -1};
    while (f != NULL && !group->version2 && fgets(line, sizeof(line), f) != NULL) {
        if (sscanf(line, "%*s %255s %63s %1023s", dir, type, flags) != 3)
            continue;
        if (strcmp(type, "cgroup2") == 0 &&
            text_read(dir, "cgroup.controllers", controllers, sizeof(controllers)) == 0 &&
            list_has(controllers, " \n", "memory"))
            group->version2 = true;
        else if (strcmp(type, "cgroup") != 0 || !list_has(flags, ",", "memory"))
            continue;
        snprintf(group->root, sizeof(group->root), "%s", dir);
        snprintf(group->path, sizeof(group->path), "%s/" GROUP_NAME, dir);
    }
    if (f != NULL)
        fclose(f);
    if (group->root[0] == '\0')
        return why_set(why, -ENOENT, "the memory controller of control groups is not mounted");
    return 0;
}

bool group_has_controller(const struct group *group)
{
    char text[1024];

    text_read(group->root, "cgroup.subtree_control", text, sizeof(text));
    return list_has(text, " \n", "memory");
}

static int controller_enable(struct group *group, struct why *why)
{
    int error;

    if (group_has_controller(group))
        return 0;
    error = text_write(group->root, "cgroup.subtree_control", "+memory");
    if (error != 0)
        return why_set(why, error, "cannot enable the memory controller in %s: %s", group->root,
                       strerror(-error));
    group->controller_enabled = true;
    return 0;
}

/* Of processes that may not use swap the kernel's other swap serves none either. */
static void swap_forbid(const struct group *group)
{
    if (group->version2)
        text_write(group->path, "memory.swap.max", "0");
    else
        text_write(group->path, "memory.swappiness", "0");
}

/* With fast swap the kernel may find all that a small group has under write-back for a moment, and
 * then kills. A process is to wait instead: see group_wake(). (Version 2 has no such setting.) */
static void killing_forbid(const struct group *group)
{
    if (!group->version2)
        text_write(group->path, "memory.oom_control", "1");
}

int group_make(struct group *group, uint64_t limit, bool swap, struct why *why)
{
    char path[TEXT_PATH + 64];
    int error = group->version2 ? controller_enable(group, why) : 0;

    if (error != 0)
        return error;
    error = group_remove(group);
    if (error == 0 && mkdir(group->path, 0755) < 0)
        error = -errno;
    if (error != 0)
        return why_set(why, error, "cannot make the control group %s: %s", group->path,
                       strerror(-error));
    group->made = true;
    error = group_limit(group, limit);
    if (error != 0) {
        why_set(why, error, "cannot set the limit of %s: %s", group->path, strerror(-error));
        goto failed;
    }
    if (swap)
        killing_forbid(group);
    else
        swap_forbid(group);
    snprintf(path, sizeof(path), "%s/cgroup.procs", group->path);
    group->procs = open(path, O_WRONLY | O_CLOEXEC);
    if (group->procs >= 0)
        return 0;
    error = why_set(why, -errno, "cannot open %s: %s", path, strerror(errno));
failed:
    group_remove(group);
    return error;
}

int group_enter(const struct group *group)
{
    return write(group->procs, "0", 1) == 1 ? 0 : -errno;
}

int group_limit(struct group *group, uint64_t limit)
{
    group->limit = limit;
    return text_write_number(group->path, limit_name(group), limit);
}

bool group_wake(const struct group *group)
{
    char text[256];

    if (group->version2 || text_read(group->path, "memory.oom_control", text, sizeof(text)) != 0 ||
        strstr(text, "under_oom 1") == NULL)
        return false;
    /* A limit that grows wakes them. */
    text_write_number(group->path, limit_name(group), group->limit + 4096);
    text_write_number(group->path, limit_name(group), group->limit);
    return true;
}

uint64_t group_charged(const struct group *group)
{
    return text_number(group->path, group->version2 ? "memory.current" : "memory.usage_in_bytes");
}

uint64_t group_peak(const struct group *group)
{
    return text_number(group->path, group->version2 ? "memory.peak" : "memory.max_usage_in_bytes");
}

void group_kill(const struct group *group)
{
    char *text = malloc(PROCESSES_TEXT);

    if (text != NULL && text_read(group->path, "cgroup.procs", text, PROCESSES_TEXT) == 0) {
        char *rest = NULL;

        for (char *word = strtok_r(text, "\n", &rest); word != NULL;
             word = strtok_r(NULL, "\n", &rest)) {
            pid_t pid = (pid_t)strtol(word, NULL, 10);

            if (pid > 1 && pid != getpid())
                kill(pid, SIGKILL);
        }
    }
    free(text);
}

int group_remove(struct group *group)
{
    int error = -EBUSY;

    if (group->procs >= 0)
        close(group->procs);
    group->procs = -1;
    /* The group of a process that has just ended is busy for a moment. */
    for (int i = 0; i < REMOVE_TRIES && error == -EBUSY; i++) {
        error = rmdir(group->path) == 0 || errno == ENOENT ? 0 : -errno;
        if (error == -EBUSY) {
            group_kill(group);
            usleep(10000);
        }
    }
    if (error == 0)
        group->made = false;
    return error;
}

void group_restore(struct group *group)
{
    if (group->controller_enabled)
        text_write(group->root, "cgroup.subtree_control", "-memory");
    group->controller_enabled = false;
}
