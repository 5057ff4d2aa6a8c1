/*
 * The mark in slot 0 of a pagefile, and what to say of a file or device that has something else.
 *
 * Slot 0 holds no page. Every run writes the mark there when it opens the pagefile, so that the
 * next one knows that nothing in it is needed: pages are worth nothing without the run that wrote
 * them. Whatever has no mark is somebody's data until its owner says otherwise (pagefile_force).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"
#include "store/file.h"

#define MARK_VERSION 1u
#define LOOK_SIZE ((size_t)1024 * 1024) /* of a device, at its beginning and at its end */
#define CHUNK 16384u

/* At the beginning of slot 0; the rest of the slot is zero. */
struct mark {
    char magic[16];
    uint32_t version;
    uint32_t page_size;
};

static const char magic[16] = "vmsm pagefile\r\n";

/* Things known by a few bytes of theirs in the first chunk. */
static const struct signature {
    const char *name;
    size_t offset, length;
    const char *bytes;
} signatures[] = {
    {"an ext2, ext3 or ext4 file system", 1080, 2, "\x53\xef"},
    {"an XFS file system", 0, 4, "XFSB"},
    {"an encrypted (LUKS) volume", 0, 6, "LUKS\xba\xbe"},
    {"an LVM physical volume", 512, 8, "LABELONE"},
    {"swap space", 4086, 10, "SWAPSPACE2"},
    {"a GPT partition table", 512, 8, "EFI PART"},
    {"a boot sector or partition table", 510, 2, "\x55\xaa"},
    {"a program or library", 0, 4, "\x7f\x45LF"},
    {"a script", 0, 2, "#!"},
    {"a PDF document", 0, 5, "%PDF-"},
    {"an SQLite database", 0, 15, "SQLite format 3"},
    {"a zip archive or office document", 0, 4, "PK\x03\x04"},
    {"a gzip archive", 0, 2, "\x1f\x8b"},
    {"an image", 1, 3, "PNG"},
    {"an image", 0, 3, "\xff\xd8\xff"},
};

static bool is_text(const unsigned char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] == 0x7f || (bytes[i] < 0x20 && (bytes[i] < '\t' || bytes[i] > '\r')))
            return false;
    }
    return length > 0;
}

/* What it seems to be, by its first `length` bytes. */
static const char *kind_of(const char *bytes, size_t length)
{
    for (size_t i = 0; i < sizeof(signatures) / sizeof(signatures[0]); i++) {
        const struct signature *s = &signatures[i];

        if (s->offset + s->length <= length && memcmp(bytes + s->offset, s->bytes, s->length) == 0)
            return s->name;
    }
    return is_text((const unsigned char *)bytes, length) ? "text" : "data of unknown kind";
}

/* As much of a chunk as there is. Bytes read, or a negative errno. */
static ssize_t look(int fd, char *chunk, off_t offset)
{
    size_t got = 0;

    while (got < CHUNK) {
        ssize_t more = pread(fd, chunk + got, CHUNK - got, offset + (off_t)got);

        if (more < 0 && errno == EINTR)
            continue;
        if (more < 0)
            return -errno;
        if (more == 0)
            break;
        got += (size_t)more;
    }
    return (ssize_t)got;
}

static bool all_zero(const char *bytes, size_t length)
{
    return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}

/* Is [from, from + LOOK_SIZE) of a device zero? 1, 0 or a negative errno. */
static int device_zero(int fd, char *chunk, off_t from)
{
    for (off_t offset = from; offset < from + (off_t)LOOK_SIZE; offset += CHUNK) {
        ssize_t got = look(fd, chunk, offset);

        if (got < 0)
            return (int)got;
        if (!all_zero(chunk, (size_t)got))
            return 0;
    }
    return 1;
}

/* Nothing in it that anybody wrote? 1, 0 or a negative errno. */
static int is_blank(const struct file_path *path, char *chunk)
{
    int blank;

    if (!path->block) /* a file that was only made large holds nothing */
        return path->size == 0 || (lseek(path->fd, 0, SEEK_DATA) < 0 && errno == ENXIO);
    blank = device_zero(path->fd, chunk, 0);
    /* Volumes of some kinds are known by their end. */
    if (blank == 1 && path->size > (off_t)(2 * LOOK_SIZE))
        blank = device_zero(path->fd, chunk, path->size - (off_t)LOOK_SIZE);
    return blank;
}

static int refuse_content(const struct file_path *path, const char *chunk, size_t length)
{
    const char *kind = kind_of(chunk, length);

    if (path->block)
        return error_set(-EEXIST,
                         "pagefile %s: the device holds %s, which would be overwritten; give "
                         "another one or, if nothing on it is needed, set pagefile_force=on, or "
                         "clear it: blkdiscard -z %s",
                         path->where, kind, path->where);
    return error_set(-EEXIST,
                     "pagefile %s: the file is no pagefile but holds %s (%lld bytes), which would "
                     "be overwritten; give another path, remove it or, if it is not needed, set "
                     "pagefile_force=on",
                     path->where, kind, (long long)path->size);
}

int file_mark_check(const struct file_path *path)
{
    char chunk[CHUNK];
    ssize_t got;
    int blank;

    if (path->absolute == NULL)
        return 0;
    got = look(path->fd, chunk, 0);
    if (got >= (ssize_t)sizeof(magic) && memcmp(chunk, magic, sizeof(magic)) == 0)
        return 0; /* of any version: what follows it is not needed */
    blank = got < 0 ? (int)got : is_blank(path, chunk);
    if (blank < 0)
        return error_set(blank, "pagefile %s: what it holds cannot be read: %s; give another path",
                         path->where, strerror(-blank));
    if (blank == 1)
        return 0;
    got = look(path->fd, chunk, 0);
    return refuse_content(path, chunk, got > 0 ? (size_t)got : 0);
}

void file_mark_make(void *slot)
{
    struct mark mark = {.version = MARK_VERSION, .page_size = SLOT_SIZE};

    memcpy(mark.magic, magic, sizeof(magic));
    memset(slot, 0, SLOT_SIZE);
    memcpy(slot, &mark, sizeof(mark));
}
