/*
 * Where a nameless pagefile goes: can it be made, with direct I/O, and how
 * much room is there.
 */
#include "cli/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cli/format.h"
#include "core/tunables.h"

#define PAGE 4096
#define ROOM_WANTED (1024 * TUNABLE_MIB)

/* As the store `file` chooses it. */
static const char *pagefile_directory(void)
{
    const char *named = secure_getenv("TMPDIR");

    return named != NULL && named[0] != '\0' ? named : "/var/tmp";
}

/* A file that no name leads to. */
static int nameless_open(const char *directory, int flags)
{
    int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC | flags, 0600);
    char path[512];

    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
        return fd;
    snprintf(path, sizeof(path), "%.480s/vmsm-probe-XXXXXX", directory);
    fd = mkostemp(path, O_CLOEXEC | flags);
    if (fd >= 0)
        unlink(path);
    return fd;
}

/* 0, or the errno of what failed. */
static int direct_write(const char *directory)
{
    int fd = nameless_open(directory, O_DIRECT), error = 0;
    void *page = NULL;

    if (fd < 0)
        return errno;
    if (posix_memalign(&page, PAGE, PAGE) != 0)
        page = NULL;
    if (page == NULL) {
        error = ENOMEM;
    } else {
        memset(page, 1, PAGE);
        if (pwrite(fd, page, PAGE, 0) != PAGE)
            error = errno;
    }
    free(page);
    close(fd);
    return error;
}

static void probe_room(struct probe *p, const char *directory)
{
    struct statvfs system;
    struct format text;
    struct finding *f;
    uint64_t room;

    if (statvfs(directory, &system) != 0)
        return;
    room = (uint64_t)system.f_bavail * system.f_frsize;
    f = finding_add(p, "room on disk", room >= ROOM_WANTED ? FINDING_OK : FINDING_LIMITED,
                    "pages beyond memory", "%s in %.40s", format_bytes(room, &text), directory);
    if (f->status != FINDING_OK)
        snprintf(f->remedy, sizeof(f->remedy),
                 "name a file or block device with more room: --pagefile /path/to/pagefile");
}

void probe_storage(struct probe *p)
{
    const char *directory = pagefile_directory();
    int error = direct_write(directory), fd;
    struct finding *f;

    if (error == 0) {
        finding_add(p, "direct I/O", FINDING_OK, "pagefile", "in %.60s", directory);
        probe_room(p, directory);
        return;
    }
    fd = nameless_open(directory, 0);
    if (fd < 0) {
        f = finding_add(p, "pagefile", FINDING_MISSING, "everything", "%.40s: %s", directory,
                        strerror(errno));
        snprintf(f->remedy, sizeof(f->remedy),
                 "set TMPDIR to a directory that can be written, or: --pagefile /path/to/pagefile");
        return;
    }
    close(fd);
    f = finding_add(p, "direct I/O", FINDING_LIMITED, "pagefile not cached twice",
                    "refused in %.60s", directory);
    snprintf(f->remedy, sizeof(f->remedy),
             "name a file on ext4 or xfs, or a block device: --pagefile /path/to/pagefile");
    probe_room(p, directory);
}
