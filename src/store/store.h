/*
 * A store keeps the slots of a pagefile: it reads and writes runs of slots,
 * many at a time, and knows nothing of pages.
 *
 * A thread that does I/O holds a store_queue: requests are submitted to it and
 * reaped from it by that one thread. A request belongs to the store from
 * submit until it is reaped; result then says what became of all of it:
 * short transfers and interrupted calls have been completed inside.
 *
 * Slot n is bytes [n * 4096, (n + 1) * 4096) of the store. Slot 0 is never
 * used for pages.
 */
#ifndef VMSM_STORE_H
#define VMSM_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct store;
struct store_queue;

struct store_io {
    uint64_t slot;         /* first slot of the run */
    struct iovec *iov;     /* count * 4096 bytes in all, 512-aligned; not changed by the store */
    void *owner;           /* the submitter's */
    uint32_t count;        /* slots in the run, at least 1 */
    int iovcnt;            /* entries of iov in use */
    int result;            /* after reap: 0 or a negative errno */
    bool write;            /* else read */
    uint32_t done;         /* the store's: bytes transferred so far */
    uint32_t attempts;     /* the store's: how often it was sent */
    uint64_t due_ns;       /* the store's: not complete before this time (delay) */
    struct store_io *next; /* the store's */
};

struct store_ops {
    const char *name;

    /*
     * Make room for at least `slots` slots (including slot 0). Never shrinks.
     * 0, or -ENOSPC, -EFBIG, -EIO, …; after a failure the old size still holds.
     * I/O may be under way; only one thread may be in grow() at a time.
     */
    int (*grow)(struct store *store, uint64_t slots);

    /* depth: requests that may be in flight at once (more may be submitted; they wait inside); 0:
     * each is done when it is submitted. */
    int (*queue_open)(struct store *store, unsigned depth, struct store_queue **queue);
    void (*queue_close)(struct store_queue *queue);

    /* Send count requests. Never fails: a request that cannot be sent comes back with a result. */
    void (*submit)(struct store_queue *queue, struct store_io **ios, unsigned count);

    /*
     * Fetch up to max completed requests; with wait, sleep until there is at least one (if any
     * is in flight). Returns how many. Neither allocates nor takes a lock of the program.
     */
    unsigned (*reap)(struct store_queue *queue, struct store_io **done, unsigned max, bool wait);

    /*
     * Do one request to its end, here and now; nothing else of the queue is under way. The result
     * is in it as after reap(). NULL: there is no quicker way than submit() and reap().
     */
    void (*transfer)(struct store_queue *queue, struct store_io *io);

    /*
     * A descriptor that polls readable when reap() has something to do (it may still return 0), or
     * -1: every request is complete when submit() returns, and reap() never has to wait. Of reads
     * that are complete when submit() returns the descriptor need not tell (the kernel may refuse
     * the ring from one moment to the next): call reap() once more before sleeping for it.
     */
    int (*queue_fd)(struct store_queue *queue);

    /* Release everything, and the file if it was made for this run only. */
    void (*close)(struct store *store);
};

struct store {
    const struct store_ops *ops;
    uint64_t slots;  /* slots there is room for now, slot 0 included */
    bool can_grow;   /* false: block devices, fixed sizes */
    char where[256]; /* for messages: the path */
    char how[48];    /* for reports: "direct, io_uring" */
};

/*
 * The store `file`: a file (made with mode 0600 if missing, then removed at
 * close if this run made it) or a block device, by O_DIRECT and io_uring, or buffered with a
 * warning where the file system refuses O_DIRECT; plain pread/pwrite where io_uring is forbidden.
 * A file or device that holds something else than a pagefile is refused (-EEXIST), unless force:
 * slot 0 of a pagefile has a mark. path "" is a nameless file in TMPDIR or /var/tmp. The file is
 * locked against a second user. size_slots 0: it may grow; otherwise it is given that size at once.
 * preallocate: blocks are reserved on disk, so that a full disk is met here and in grow(), not
 * later. 0 or a negative errno with words in error_last().
 */
struct store_file_options {
    const char *path;
    uint64_t size_slots;
    bool direct; /* try O_DIRECT */
    bool preallocate;
    bool force; /* overwrite what is there */
};
int store_file_open(const struct store_file_options *options, struct store **store);

/*
 * A wrapper that makes a store slow or faulty, for tests and for the
 * harsh-disk configuration. Owns `inner` and closes it. Each *_every is "every Nth request of that
 * kind", counted over all queues; 0 is never.
 */
struct store_inject_options {
    uint64_t delay_ns;          /* every request takes at least this long */
    uint64_t jitter_ns;         /* and up to so long more, each another: out of order */
    uint64_t read_error_every;  /* -EIO */
    uint64_t write_error_every; /* -EIO, nothing written */
    uint64_t corrupt_every;     /* a bit of what was read is flipped */
    uint64_t full_after;        /* after this many written slots every write fails with -ENOSPC */
    uint64_t bad_slot;          /* this slot can never be read (-EIO); 0: none */
    uint64_t bad_write_slot;    /* this slot can never be written (-EIO); 0: none */
};
int store_inject_open(struct store *inner, const struct store_inject_options *options,
                      struct store **store);

/*
 * A wrapper that encrypts what the inner store holds, with a key that is drawn now and dies with
 * the store: see crypt.c. Reads that do not decrypt come back with -EBADMSG. Owns `inner` and
 * closes it, but not if opening fails: -EPERM or -ENOMEM (the key cannot be locked in memory),
 * -EIO.
 */
enum store_cipher {
    CIPHER_BEST,     /* AES-256-GCM if the processor has instructions for it, else XChaCha20 */
    CIPHER_XCHACHA20 /* XChaCha20-Poly1305, for comparison */
};
int store_crypt_open(struct store *inner, enum store_cipher cipher, struct store **store);

#endif
