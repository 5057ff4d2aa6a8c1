#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "swap_space.h"
#include "zram.h"

#define CONTROL "/sys/class/zram-control"
#define BUSY_TRIES 200 /* of 10 ms each: udev looks into a new device */

extern char **environ;

static bool modprobe_run(const char *option)
{
    char *arguments[] = {"modprobe", (char *)(uintptr_t)option, "zram", NULL};
    posix_spawn_file_actions_t actions;
    int status = -1;
    pid_t pid;

    if (posix_spawn_file_actions_init(&actions) != 0)
        return false;
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    if (posix_spawnp(&pid, "modprobe", &actions, NULL, arguments, environ) == 0) {
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    posix_spawn_file_actions_destroy(&actions);
    return status == 0;
}

int zram_load(struct zram *zram, struct why *why)
{
    *zram = (struct zram){.number = -1};
    if (access(CONTROL, F_OK) == 0)
        return 0;
    zram->module_loaded = modprobe_run("--quiet");
    if (access(CONTROL, F_OK) == 0)
        return 0;
    return why_set(why, -ENOENT,
                   zram->module_loaded
                       ? "the module zram of this kernel makes no devices on demand"
                       : "the kernel has no zram, and modprobe zram does not bring it");
}

void zram_name(struct zram *zram, int number)
{
    zram->number = number;
    snprintf(zram->sys, sizeof(zram->sys), "/sys/block/zram%d", number);
    snprintf(zram->dev, sizeof(zram->dev), "/dev/zram%d", number);
}

/* "[lzo-rle] lzo lz4": the one in brackets is in use. */
static void algorithm_read(struct zram *zram)
{
    char text[512];
    const char *begin, *end;

    text_read(zram->sys, "comp_algorithm", text, sizeof(text));
    begin = strchr(text, '[');
    end = begin != NULL ? strchr(begin, ']') : NULL;
    snprintf(zram->algorithm, sizeof(zram->algorithm), "%.*s",
             end != NULL ? (int)(end - begin - 1) : 0, end != NULL ? begin + 1 : "");
}

int zram_add(struct zram *zram, struct why *why)
{
    char text[32];
    int error = text_read(CONTROL, "hot_add", text, sizeof(text));

    if (error != 0)
        return why_set(why, error, "cannot add a zram device (%s/hot_add): %s", CONTROL,
                       strerror(-error));
    zram_name(zram, atoi(text));
    algorithm_read(zram);
    return 0;
}

int zram_format(struct zram *zram, uint64_t size)
{
    int error = -EBUSY;

    for (int i = 0; i < BUSY_TRIES && error == -EBUSY; i++) {
        error = text_write(zram->sys, "reset", "1");
        if (error == -EBUSY)
            usleep(10000);
    }
    if (error == 0)
        error = text_write_number(zram->sys, "disksize", size);
    return error != 0 ? error : swap_format(zram->dev, size);
}

uint64_t zram_used(const struct zram *zram)
{
    uint64_t used = 0;
    char text[512];

    text_read(zram->sys, "mm_stat", text, sizeof(text));
    return sscanf(text, "%*u %*u %" SCNu64, &used) == 1 ? used : 0;
}

int zram_remove(struct zram *zram)
{
    int error = zram->number < 0 || access(zram->sys, F_OK) < 0 ? 0 : -EBUSY;

    for (int i = 0; i < BUSY_TRIES && error == -EBUSY; i++) {
        error = text_write_number(CONTROL, "hot_remove", (uint64_t)zram->number);
        if (error == -EBUSY)
            usleep(10000);
    }
    if (error == 0)
        zram->number = -1;
    return error;
}

void zram_unload(struct zram *zram)
{
    if (zram->module_loaded && !modprobe_run("-r"))
        complain("cannot take the module zram out again; run: modprobe -r zram");
    zram->module_loaded = false;
}
