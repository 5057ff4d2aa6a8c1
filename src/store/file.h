/*
 * The store `file`, inside: what its parts share.
 *
 *   file.c        the store: size, growth, locking, closing
 *   file_path.c   from a path to an open descriptor, and what to say when there is none
 *   file_mark.c   whose file it is: the mark of a pagefile in slot 0
 *   file_queue.c  requests: io_uring, or pread and pwrite one after another
 *
 * Threads meet in a file_store only to read it (fd, direct) and to set
 * `warned`. A queue belongs to the thread that uses it.
 */
#ifndef VMSM_STORE_FILE_H
#define VMSM_STORE_FILE_H

#include <stdatomic.h>
#include <sys/types.h>

#include "store/store.h"

#define SLOT_SIZE 4096u

struct file_path {
    int fd;
    bool made;      /* by us: removed at close */
    bool block;     /* a block device */
    char *absolute; /* what to remove then; NULL if there is no name */
    dev_t device;   /* which file that name must still be */
    ino_t inode;
    off_t size;      /* in bytes, when it was opened */
    char where[256]; /* for messages */
};

struct file_store {
    struct store base;
    struct file_path path;
    bool direct;        /* O_DIRECT is set */
    bool preallocate;   /* and the file system can */
    bool ring;          /* io_uring may be used */
    atomic_bool warned; /* that a queue had to do without */
};

/* Open and lock what `path` names; "" is a nameless file. 0 or a negative errno, error set. */
int file_path_open(const char *path, struct file_path *out);
/* Close, and remove the file if it was made by file_path_open(). */
void file_path_close(struct file_path *path);

/*
 * Is it a pagefile, or does it hold nothing that anybody wrote? 0, or -EEXIST (something else,
 * which is left as it is) or what reading failed with, error set. The file is locked; direct I/O is
 * off.
 */
int file_mark_check(const struct file_path *path);
/* What slot 0 of a pagefile holds. */
void file_mark_make(void *slot);

/* Can this process use io_uring? If not, a warning says why, and what it costs. */
bool file_ring_allowed(const char *where);

int file_queue_open(struct store *store, unsigned depth, struct store_queue **out);
void file_queue_close(struct store_queue *queue);
void file_queue_submit(struct store_queue *queue, struct store_io **ios, unsigned count);
unsigned file_queue_reap(struct store_queue *queue, struct store_io **done, unsigned max,
                         bool wait);
void file_queue_transfer(struct store_queue *queue, struct store_io *io);
int file_queue_fd(struct store_queue *queue);

#endif
