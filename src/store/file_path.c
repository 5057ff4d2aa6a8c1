/*
 * From a path to an open, locked descriptor; and what to say when there is none.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "store/file.h"

#define OPEN_FLAGS (O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY)
#define OPEN_TRIES 20

/* A device manager looks into a block device that was just closed, holding the same lock. */
#define LOCK_TRIES 150
#define LOCK_PAUSE_NS 20000000L

static int explain_link(const char *path)
{
    char target[PATH_MAX];
    struct stat st;

    if (lstat(path, &st) != 0 || !S_ISLNK(st.st_mode))
        return error_set(-ELOOP,
                         "pagefile %s: too many symbolic links on the way; give a path "
                         "without them",
                         path);
    if (realpath(path, target) == NULL)
        return error_set(-ELOOP,
                         "pagefile %s is a symbolic link, which is refused, and it leads "
                         "nowhere; give the path of a file",
                         path);
    return error_set(-ELOOP,
                     "pagefile %s is a symbolic link, which is refused; if you trust it, "
                     "give what it points to: %s",
                     path, target);
}

static int explain_permission(const char *path, int code)
{
    struct stat st;

    if (lstat(path, &st) == 0)
        return error_set(code,
                         "pagefile %s: no permission to read and write it (mode %04o, owner "
                         "%u); mend that with chmod or chown, or give another path",
                         path, st.st_mode & 07777u, st.st_uid);
    return error_set(code,
                     "pagefile %s: no permission to make a file there; give a path in a "
                     "directory that you may write to",
                     path);
}

/* What open(2) said, in words. */
static int explain_open(const char *path, int code)
{
    switch (code) {
    case -ENOENT:
        return error_set(code,
                         "pagefile %s: its directory does not exist; make it with mkdir -p, "
                         "or give another path",
                         path);
    case -ENOTDIR:
        return error_set(code,
                         "pagefile %s: a part of the path is not a directory; give another "
                         "path",
                         path);
    case -EISDIR:
        return error_set(code,
                         "pagefile %s is a directory; give the path of a file in it, or of a "
                         "block device",
                         path);
    case -ELOOP:
        return explain_link(path);
    case -EACCES:
        return explain_permission(path, code);
    case -EPERM:
        return error_set(code,
                         "pagefile %s: the file is marked immutable or append-only; undo "
                         "that with chattr -i -a, or give another path",
                         path);
    case -EROFS:
        return error_set(code,
                         "pagefile %s is on a read-only file system; remount it writable, or "
                         "give another path",
                         path);
    case -EMFILE:
        return error_set(code,
                         "pagefile %s: too few file descriptors (ulimit -n); raise the "
                         "limit",
                         path);
    case -ENFILE:
        return error_set(code,
                         "pagefile %s: the system is out of file descriptors; raise "
                         "fs.file-max with sysctl",
                         path);
    case -ENOSPC:
    case -EDQUOT:
        return error_set(code,
                         "pagefile %s: no room to make a file there (disk full, or quota "
                         "used up); free some, or give another path",
                         path);
    case -EBUSY:
        return error_set(code,
                         "pagefile %s: the device is mounted or in use; unmount it, or give "
                         "another path",
                         path);
    case -ENAMETOOLONG:
        return error_set(code, "pagefile: the path is too long (%zu bytes); give a shorter one",
                         strlen(path));
    default:
        return error_set(code, "pagefile %s cannot be opened: %s; give another path", path,
                         strerror(-code));
    }
}

static int refuse_kind(const char *path)
{
    return error_set(-EINVAL,
                     "pagefile %s is neither a file nor a block device; give another "
                     "path",
                     path);
}

/* A descriptor of the existing or new file, or a negative errno. */
static int open_named(const char *path, bool *made)
{
    struct stat st;
    int fd, flags = OPEN_FLAGS;

    *made = false;
    if (lstat(path, &st) == 0 && S_ISBLK(st.st_mode))
        flags |= O_EXCL; /* fails if it is mounted */
    for (int i = 0; i < OPEN_TRIES; i++) {
        fd = open(path, flags);
        if (fd >= 0 || errno != ENOENT)
            return fd >= 0 ? fd : -errno;
        fd = open(path, OPEN_FLAGS | O_CREAT | O_EXCL, 0600);
        if (fd >= 0) {
            *made = true;
            fchmod(fd, 0600); /* whatever the umask took away */
            return fd;
        }
        if (errno != EEXIST)
            return -errno;
    }
    return -EEXIST;
}

/*
 * The kernel holds the file of a killed process until the requests of its ring have come back,
 * which may be after its parent has seen it end: a start right after that waits.
 */
static int lock_exclusive(const struct file_path *file)
{
    struct timespec pause = {.tv_nsec = LOCK_PAUSE_NS};

    for (int i = 0; i < LOCK_TRIES; i++) {
        if (flock(file->fd, LOCK_EX | LOCK_NB) == 0)
            return 0;
        if (errno != EWOULDBLOCK && errno != EINTR) {
            log_line(LOG_WARNING,
                     "pagefile %s cannot be locked (%s): make sure that nobody else "
                     "uses it",
                     file->where, strerror(errno));
            return 0;
        }
        nanosleep(&pause, NULL);
    }
    return error_set(-EBUSY,
                     "pagefile %s is in use by another run or another manager; wait for it "
                     "to end, or give another path",
                     file->where);
}

/*
 * Whoever else may open the file reads what is in memory, or changes it; and a second name may be
 * that of a file which is needed, put here by somebody who cannot write it. A file that was made
 * just now is all right unless its file system knows no permissions. Block devices are left to who
 * administers them: their group can read every disk as it is.
 */
static int examine_rights(const struct file_path *file, const struct stat *st)
{
    unsigned mode = st->st_mode & 07777u;

    if (file->absolute == NULL) /* nameless: nobody finds it */
        return 0;
    if (file->made && (mode & 077u) != 0)
        log_line(LOG_WARNING,
                 "pagefile %s can be opened by other users (mode %04o), and its file system "
                 "does not change that: give a path on another, or set encrypt=on",
                 file->where, mode);
    if (file->made)
        return 0;
    if (st->st_uid != geteuid())
        return error_set(-EPERM,
                         "pagefile %s belongs to user %u, who could read or change what is in "
                         "memory; change its owner with chown, or give another path",
                         file->where, st->st_uid);
    if ((mode & 077u) != 0)
        return error_set(-EPERM,
                         "pagefile %s can be opened by other users (mode %04o), and would hold "
                         "what is in memory; do chmod 600, or give another path",
                         file->where, mode);
    if (st->st_nlink > 1)
        return error_set(-EPERM,
                         "pagefile %s has %lu names (hard links), so it may be a file that "
                         "somebody needs; give another path",
                         file->where, (unsigned long)st->st_nlink);
    return 0;
}

/* Is it something that can hold slots? Its size and identity. */
static int examine(struct file_path *file, nlink_t *links)
{
    struct stat st;
    uint64_t bytes = 0;

    if (fstat(file->fd, &st) != 0)
        return error_set(-errno, "pagefile %s cannot be examined: %s; give another path",
                         file->where, strerror(errno));
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return refuse_kind(file->where);
    file->block = S_ISBLK(st.st_mode);
    file->device = st.st_dev;
    file->inode = st.st_ino;
    file->size = st.st_size;
    *links = st.st_nlink;
    if (file->block) {
        if (ioctl(file->fd, BLKGETSIZE64, &bytes) != 0)
            return error_set(-errno,
                             "pagefile %s: the size of the device cannot be read: %s; "
                             "give another path",
                             file->where, strerror(errno));
        file->size = (off_t)bytes;
        return 0;
    }
    return examine_rights(file, &st);
}

/* The file must be found again at close, wherever the working directory is then. */
static int remember_path(struct file_path *file, const char *path)
{
    char directory[PATH_MAX];

    if (path[0] == '/')
        file->absolute = strdup(path);
    else if (getcwd(directory, sizeof(directory)) == NULL)
        return error_set(-errno,
                         "pagefile %s: the working directory cannot be found (%s); give an "
                         "absolute path",
                         path, strerror(errno));
    else if (asprintf(&file->absolute, "%s/%s", directory, path) < 0)
        file->absolute = NULL;
    if (file->absolute == NULL)
        return error_set(-ENOMEM, "pagefile %s: out of memory", path);
    return 0;
}

static int try_named(const char *path, struct file_path *file, bool *again)
{
    nlink_t links = 0;
    struct stat st;
    int err;

    *again = false;
    /* Before it is opened: to open some devices does something, and a socket cannot be. */
    if (lstat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode) &&
        !S_ISDIR(st.st_mode) && !S_ISLNK(st.st_mode))
        return refuse_kind(path);
    file->fd = open_named(path, &file->made);
    if (file->fd < 0)
        return explain_open(path, file->fd);
    err = lock_exclusive(file);
    if (err != 0) {
        file->made = false; /* whoever was quicker uses it now */
        return err;
    }
    err = examine(file, &links);
    if (err == 0 && links == 0)
        *again = true; /* its maker removed it just before we had the lock */
    return err;
}

static int open_path(const char *path, struct file_path *file)
{
    bool again = true;
    int err;

    snprintf(file->where, sizeof(file->where), "%s", path);
    err = remember_path(file, path);
    for (int i = 0; err == 0 && again && i < OPEN_TRIES; i++) {
        if (file->fd >= 0)
            close(file->fd);
        err = try_named(path, file, &again);
    }
    return err;
}

static int open_nameless(struct file_path *file)
{
    const char *directory = secure_getenv("TMPDIR");
    bool named = directory != NULL && directory[0] != '\0';
    char name[PATH_MAX];
    nlink_t links;

    if (!named)
        directory = "/var/tmp";
    snprintf(file->where, sizeof(file->where), "in %s (nameless)", directory);
    file->fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        if (snprintf(name, sizeof(name), "%s/vmsm-XXXXXX", directory) >= (int)sizeof(name))
            return explain_open(directory, -ENAMETOOLONG);
        file->fd = mkostemp(name, O_CLOEXEC);
        if (file->fd >= 0)
            unlink(name);
    }
    if (file->fd < 0) {
        int code = -errno;

        snprintf(name, sizeof(name), "%s/(nameless)", directory);
        explain_open(name, code);
        return error_set(code, "%s (%s)", error_last(),
                         named ? "TMPDIR names the directory"
                               : "TMPDIR can name another directory");
    }
    return examine(file, &links);
}

int file_path_open(const char *path, struct file_path *out)
{
    int err;

    *out = (struct file_path){.fd = -1};
    err = path[0] == '\0' ? open_nameless(out) : open_path(path, out);
    if (err != 0)
        file_path_close(out);
    return err;
}

void file_path_close(struct file_path *path)
{
    struct stat st;

    /* Only if the name is still our file's. */
    if (path->made && lstat(path->absolute, &st) == 0 && st.st_dev == path->device &&
        st.st_ino == path->inode)
        unlink(path->absolute);
    if (path->fd >= 0) {
        /* A ring being torn down, or a child, may keep the file open a little longer. */
        flock(path->fd, LOCK_UN);
        close(path->fd);
    }
    free(path->absolute);
    *path = (struct file_path){.fd = -1};
}
