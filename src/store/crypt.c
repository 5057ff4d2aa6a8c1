/*
 * A store whose slots are encrypted and authenticated, around another one.
 *
 * Cipher: AES-256-GCM of libsodium where the processor has AES instructions, else
 * XChaCha20-Poly1305. Both work in the memory that they are given: they neither allocate nor
 * lock, so pages may be decrypted in a signal handler. (libcrypto is a little quicker, but keeps
 * its key schedule in ordinary heap memory, and allocates when a tag does not match.) A self-test
 * at open calls every function once, so that none is bound for the first time in a handler.
 *
 * Key: drawn for each run, never stored; in one page that is locked, left out of core dumps, not
 * inherited by children, and wiped at close.
 *
 * Nonce: the number of the write, 64 bits, from one counter of the store, then random bytes drawn
 * with the key. No nonce is used for two encryptions, because the counter gives each number once
 * (fetch_add; 2^64 writes do not happen) and the key dies with the counter:
 *   - a write that is retried comes in by submit() again: encrypted afresh, with a new number;
 *   - a transfer that the inner store repeats sends the same bytes, not another encryption;
 *   - a slot that is used again gets a new number, as numbers do not depend on slots;
 *   - a torn write leaves a mixture that no number fits: the next one has a new number.
 *
 * Place and time: the slot's number is authenticated with the content, and number and tag of a
 * slot's last write are kept in memory. So what is read must be what was written last,
 * to this slot: content moved from another slot, or an older version put back, is refused.
 *
 * What differs: read() results gain -EBADMSG, for all of a request when one of its slots does not
 * decrypt. Its buffers then hold nothing to be used; the others can be read by requests of their
 * own. A slot that was never written in this run does not decrypt.
 *
 * Reads are decrypted in place when they are reaped. Writes are encrypted into `bounce`, since
 * the submitter's buffers must stay as they are: a write takes a run of its pages, waits in
 * `parked` (in order) while there is none, and is sent in pieces if it is longer than all of it. At
 * least one piece is in flight while anything is parked, so reaping always gets it on.
 *
 * Of an outer write's fields, the store's own mean: done, slots encrypted so far; attempts, pieces
 * in flight.
 *
 * Memory: 24 bytes for each slot that was ever written, and 2 MiB for each queue that writes.
 */
#include <errno.h>
#include <sodium.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "core/check.h"
#include "core/error.h"
#include "core/platform.h"
#include "store/store.h"

#define SLOT_SIZE 4096u
#define SLOTS_MAX (UINT64_C(1) << 32)
#define BOUNCE_PAGES 512u
#define BOUNCE_SIZE ((size_t)BOUNCE_PAGES * SLOT_SIZE)
#define WORD_BITS 64u
#define BATCH 64u
#define TAG_SIZE 16u
#define KEY_SIZE 32u
#define NONCE_SIZE 24u /* AES-256-GCM takes the first 12: the number and 4 random bytes */

_Static_assert(TAG_SIZE == crypto_aead_aes256gcm_ABYTES, "one size of tags");
_Static_assert(TAG_SIZE == crypto_aead_xchacha20poly1305_ietf_ABYTES, "one size of tags");
_Static_assert(KEY_SIZE == crypto_aead_aes256gcm_KEYBYTES, "one size of keys");
_Static_assert(KEY_SIZE == crypto_aead_xchacha20poly1305_ietf_KEYBYTES, "one size of keys");
_Static_assert(NONCE_SIZE == crypto_aead_xchacha20poly1305_ietf_NPUBBYTES, "the longer nonce");

/* In a page of its own: see "Key". Written at open only. */
struct crypt_key {
    crypto_aead_aes256gcm_state schedule; /* AES */
    unsigned char key[KEY_SIZE];          /* XChaCha20; AES: wiped once schedule is made */
    unsigned char salt[NONCE_SIZE - sizeof(uint64_t)];
};

/* Of each slot: its last write. Owned by who owns the slot. */
struct crypt_entry {
    uint64_t number; /* 0: never written */
    unsigned char tag[TAG_SIZE];
};

struct crypt_store {
    struct store base;
    struct store *inner;
    bool aes;
    struct crypt_key *key;
    struct crypt_entry *entries;
    uint64_t capacity;       /* entries */
    _Atomic uint64_t writes; /* numbers given out */
};

/* A run of bounce pages under way to the inner store; the run's first page is its index. */
struct crypt_piece {
    struct store_io io;
    struct iovec iov;
    struct store_io *outer;
};

/* All fields are the queue's user's. */
struct crypt_queue {
    struct crypt_store *store;
    struct store_queue *inner;
    unsigned in_flight;                       /* requests that the inner queue has */
    struct store_io *parked;                  /* writes that wait for pages of bounce, in order */
    struct store_io *parked_last;             /* undefined if there is none */
    struct store_io *ready;                   /* complete, in any order */
    char *bounce;                             /* populated where it is used */
    uint64_t taken[BOUNCE_PAGES / WORD_BITS]; /* pages of bounce */
    char scratch[SLOT_SIZE];                  /* a page whose buffers are apart */
    struct crypt_piece pieces[BOUNCE_PAGES];
};

/* A place in a request's buffers. */
struct cursor {
    const struct iovec *iov;
    size_t at;
};

static struct crypt_queue *queue_of(struct store_queue *queue)
{
    return (struct crypt_queue *)(void *)queue;
}

/* ---- one page ---- */

static void make_nonce(const struct crypt_store *store, uint64_t number,
                       unsigned char nonce[NONCE_SIZE])
{
    memcpy(nonce, &number, sizeof(number));
    memcpy(nonce + sizeof(number), store->key->salt, sizeof(store->key->salt));
}

static void seal(struct crypt_store *store, uint64_t slot, const void *plain, void *sealed)
{
    struct crypt_entry *entry = &store->entries[slot];
    const unsigned char *place = (const unsigned char *)&slot;
    unsigned char nonce[NONCE_SIZE];

    entry->number = atomic_fetch_add_explicit(&store->writes, 1, memory_order_relaxed) + 1;
    make_nonce(store, entry->number, nonce);
    if (store->aes)
        crypto_aead_aes256gcm_encrypt_detached_afternm(sealed, entry->tag, NULL, plain, SLOT_SIZE,
                                                       place, sizeof(slot), NULL, nonce,
                                                       &store->key->schedule);
    else
        crypto_aead_xchacha20poly1305_ietf_encrypt_detached(sealed, entry->tag, NULL, plain,
                                                            SLOT_SIZE, place, sizeof(slot), NULL,
                                                            nonce, store->key->key);
}

/* Decrypt in place: 0, or -EBADMSG, and then the page holds nothing to be used. */
static int unseal(const struct crypt_store *store, uint64_t slot, void *page)
{
    const struct crypt_entry *entry = &store->entries[slot];
    const unsigned char *place = (const unsigned char *)&slot;
    unsigned char nonce[NONCE_SIZE];
    int refused;

    if (slot >= store->capacity || entry->number == 0)
        return -EBADMSG;
    make_nonce(store, entry->number, nonce);
    if (store->aes)
        refused = crypto_aead_aes256gcm_decrypt_detached_afternm(page, NULL, page, SLOT_SIZE,
                                                                 entry->tag, place, sizeof(slot),
                                                                 nonce, &store->key->schedule);
    else
        refused = crypto_aead_xchacha20poly1305_ietf_decrypt_detached(
            page, NULL, page, SLOT_SIZE, entry->tag, place, sizeof(slot), nonce, store->key->key);
    return refused == 0 ? 0 : -EBADMSG;
}

/* ---- a request's buffers ---- */

static struct cursor cursor_at(const struct store_io *io, uint32_t page)
{
    struct cursor cursor = {.iov = io->iov, .at = (size_t)page * SLOT_SIZE};

    while (cursor.at >= cursor.iov->iov_len)
        cursor.at -= (cursor.iov++)->iov_len;
    return cursor;
}

/* The next page, or NULL if it does not lie in one piece (then cursor_copy()). */
static void *cursor_page(struct cursor *cursor)
{
    char *page;

    while (cursor->at == cursor->iov->iov_len)
        *cursor = (struct cursor){.iov = cursor->iov + 1};
    if (cursor->iov->iov_len - cursor->at < SLOT_SIZE)
        return NULL;
    page = (char *)cursor->iov->iov_base + cursor->at;
    cursor->at += SLOT_SIZE;
    return page;
}

/* Copy the next page to scratch, or scratch to it. */
static void cursor_copy(struct cursor *cursor, char *scratch, bool from_scratch)
{
    for (size_t done = 0; done < SLOT_SIZE;) {
        size_t here = cursor->iov->iov_len - cursor->at;
        char *buffer = (char *)cursor->iov->iov_base + cursor->at;

        if (here > SLOT_SIZE - done)
            here = SLOT_SIZE - done;
        memcpy(from_scratch ? buffer : scratch + done, from_scratch ? scratch + done : buffer,
               here);
        done += here;
        cursor->at += here;
        if (cursor->at == cursor->iov->iov_len && done < SLOT_SIZE)
            *cursor = (struct cursor){.iov = cursor->iov + 1};
    }
}

static void decrypt_read(struct crypt_queue *queue, struct store_io *io)
{
    struct cursor cursor;

    if (io->result != 0)
        return;
    cursor = cursor_at(io, 0);
    for (uint32_t i = 0; i < io->count && io->result == 0; i++) {
        struct cursor start = cursor;
        char *page = cursor_page(&cursor);

        if (page != NULL) {
            io->result = unseal(queue->store, io->slot + i, page);
            continue;
        }
        cursor_copy(&cursor, queue->scratch, false);
        io->result = unseal(queue->store, io->slot + i, queue->scratch);
        cursor_copy(&start, queue->scratch, true);
    }
}

/* ---- pieces ---- */

static bool is_taken(const struct crypt_queue *queue, unsigned page)
{
    return queue->taken[page / WORD_BITS] >> page % WORD_BITS & 1;
}

/* Take or give back a run of bounce. */
static void flip_run(struct crypt_queue *queue, unsigned first, unsigned count)
{
    for (unsigned i = first; i < first + count; i++)
        queue->taken[i / WORD_BITS] ^= UINT64_C(1) << i % WORD_BITS;
}

/* The first free run of count pages: false if there is none now. */
static bool find_run(const struct crypt_queue *queue, unsigned count, unsigned *first)
{
    unsigned run = 0;

    for (unsigned i = 0; i < BOUNCE_PAGES; i++) {
        run = is_taken(queue, i) ? 0 : run + 1;
        if (run == count) {
            *first = i + 1 - count;
            return true;
        }
    }
    return false;
}

/* Encrypt the next piece of a write; NULL if there is no room for it now. */
static struct store_io *make_piece(struct crypt_queue *queue, struct store_io *outer)
{
    unsigned left = outer->count - outer->done, first;
    unsigned count = left < BOUNCE_PAGES ? left : BOUNCE_PAGES;
    struct crypt_piece *piece;
    struct cursor cursor;

    if (!find_run(queue, count, &first))
        return NULL;
    flip_run(queue, first, count);
    piece = &queue->pieces[first];
    piece->outer = outer;
    piece->iov = (struct iovec){.iov_base = queue->bounce + (size_t)first * SLOT_SIZE,
                                .iov_len = (size_t)count * SLOT_SIZE};
    piece->io = (struct store_io){.slot = outer->slot + outer->done,
                                  .count = count,
                                  .write = true,
                                  .iov = &piece->iov,
                                  .iovcnt = 1};
    cursor = cursor_at(outer, outer->done);
    for (unsigned i = 0; i < count; i++) {
        const void *plain = cursor_page(&cursor);

        if (plain == NULL) {
            cursor_copy(&cursor, queue->scratch, false);
            plain = queue->scratch;
        }
        seal(queue->store, piece->io.slot + i, plain,
             queue->bounce + (size_t)(first + i) * SLOT_SIZE);
    }
    outer->done += count;
    outer->attempts++;
    return &piece->io;
}

static void pass_on(struct crypt_queue *queue, struct store_io **ios, unsigned count)
{
    queue->in_flight += count;
    queue->store->inner->ops->submit(queue->inner, ios, count);
}

/* Send of what is parked as much as there is room for. */
static void send_parked(struct crypt_queue *queue)
{
    struct store_io *pass[BATCH], *piece;
    unsigned n = 0;

    while (queue->parked != NULL && (piece = make_piece(queue, queue->parked)) != NULL) {
        pass[n++] = piece;
        if (queue->parked->done == queue->parked->count)
            queue->parked = queue->parked->next;
        if (n == BATCH) {
            pass_on(queue, pass, n);
            n = 0;
        }
    }
    if (n > 0)
        pass_on(queue, pass, n);
    check_always(queue->parked == NULL || queue->in_flight > 0);
}

/* Is a request of the inner store a piece, or a read passed on? */
static bool is_piece(const struct crypt_queue *queue, const struct store_io *io)
{
    uintptr_t at = (uintptr_t)io, from = (uintptr_t)queue->pieces;

    return at >= from && at < from + sizeof(queue->pieces);
}

/* A piece is complete: the write that it was the last of, or NULL. */
static struct store_io *end_piece(struct crypt_queue *queue, struct crypt_piece *piece)
{
    struct store_io *outer = piece->outer;

    flip_run(queue, (unsigned)(piece - queue->pieces), piece->io.count);
    if (outer->result == 0)
        outer->result = piece->io.result;
    outer->attempts--;
    return outer->attempts == 0 && outer->done == outer->count ? outer : NULL;
}

/* ---- the queue ---- */

/* What the inner store has completed. Returns how many requests that makes complete. */
static unsigned harvest(struct crypt_queue *queue, struct store_io **done, unsigned max, bool wait)
{
    struct store_io *inner[BATCH];
    unsigned n = 0, got;

    if (queue->in_flight == 0 || max == 0)
        return 0;
    got = queue->store->inner->ops->reap(queue->inner, inner, max < BATCH ? max : BATCH, wait);
    queue->in_flight -= got;
    for (unsigned i = 0; i < got; i++) {
        struct store_io *io = inner[i];

        if (is_piece(queue, io))
            io = end_piece(queue, (struct crypt_piece *)(void *)io);
        else if (!io->write)
            decrypt_read(queue, io);
        if (io != NULL)
            done[n++] = io;
    }
    send_parked(queue);
    return n;
}

static unsigned crypt_reap(struct store_queue *base, struct store_io **done, unsigned max,
                           bool wait)
{
    struct crypt_queue *queue = queue_of(base);
    unsigned n = 0;

    while (n < max && queue->ready != NULL) {
        done[n++] = queue->ready;
        queue->ready = queue->ready->next;
    }
    do
        n += harvest(queue, done + n, max - n, wait && n == 0);
    while (wait && n == 0 && max > 0 && queue->in_flight > 0);
    return n;
}

static int crypt_queue_fd(struct store_queue *base)
{
    struct crypt_queue *queue = queue_of(base);

    return queue->store->inner->ops->queue_fd(queue->inner);
}

static void park(struct crypt_queue *queue, struct store_io *io)
{
    check_always(io->slot + io->count <= queue->store->capacity);
    io->result = 0;
    io->done = 0;
    io->attempts = 0;
    io->next = NULL;
    if (queue->parked == NULL)
        queue->parked = io;
    else
        queue->parked_last->next = io;
    queue->parked_last = io;
}

/* An inner store that completes all in submit(), so that nobody is told to reap. */
static void finish_parked(struct crypt_queue *queue)
{
    struct store_io *done[BATCH];

    while (queue->parked != NULL) {
        unsigned n = harvest(queue, done, BATCH, false);

        for (unsigned i = 0; i < n; i++) {
            done[i]->next = queue->ready;
            queue->ready = done[i];
        }
    }
}

static void crypt_submit(struct store_queue *base, struct store_io **ios, unsigned count)
{
    struct crypt_queue *queue = queue_of(base);
    struct store_io *pass[BATCH];
    unsigned n = 0;

    for (unsigned i = 0; i < count; i++) {
        struct store_io *io = ios[i];

        /* A write without pages is for the inner store to refuse. */
        if (io->write && io->count > 0 && io->iovcnt > 0)
            park(queue, io);
        else
            pass[n++] = io;
        if (n == BATCH) {
            pass_on(queue, pass, n);
            n = 0;
        }
    }
    if (n > 0)
        pass_on(queue, pass, n);
    send_parked(queue);
    if (queue->parked != NULL && crypt_queue_fd(base) < 0)
        finish_parked(queue);
}

/* Pages that are populated when they are used, out of dumps and children; huge ones if it can be.
 */
static void *map_bounce(void)
{
    size_t extra = BOUNCE_SIZE, front;
    char *base = mmap(NULL, BOUNCE_SIZE + extra, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (base == MAP_FAILED)
        return NULL;
    front = (BOUNCE_SIZE - (uintptr_t)base % BOUNCE_SIZE) % BOUNCE_SIZE;
    if (front > 0)
        munmap(base, front);
    base += front;
    if (extra > front)
        munmap(base + BOUNCE_SIZE, extra - front);
    madvise(base, BOUNCE_SIZE, MADV_HUGEPAGE);
    madvise(base, BOUNCE_SIZE, MADV_DONTDUMP);
    madvise(base, BOUNCE_SIZE, MADV_DONTFORK);
    return base;
}

static void crypt_queue_close(struct store_queue *base)
{
    struct crypt_queue *queue = queue_of(base);

    /* First of all: the kernel must not read from bounce after this. */
    if (queue->inner != NULL)
        queue->store->inner->ops->queue_close(queue->inner);
    if (queue->bounce != NULL)
        munmap(queue->bounce, BOUNCE_SIZE);
    sodium_memzero(queue->scratch, sizeof(queue->scratch));
    platform_linux.release(queue, sizeof(*queue));
}

static int crypt_queue_open(struct store *base, unsigned depth, struct store_queue **out)
{
    struct crypt_store *store = (struct crypt_store *)base;
    struct crypt_queue *queue = platform_linux.reserve(sizeof(*queue));
    int error;

    if (queue == NULL)
        return error_set(-ENOMEM, "pagefile %s: out of memory for a queue", base->where);
    madvise(queue, sizeof(*queue), MADV_DONTFORK);
    queue->store = store;
    queue->bounce = map_bounce();
    if (queue->bounce == NULL)
        error =
            error_set(-ENOMEM, "pagefile %s: no address space for a queue's buffers", base->where);
    else
        error = store->inner->ops->queue_open(store->inner, depth, &queue->inner);
    if (error != 0)
        crypt_queue_close((struct store_queue *)queue);
    else
        *out = (struct store_queue *)queue;
    return error;
}

/* ---- the store ---- */

static int crypt_grow(struct store *base, uint64_t slots)
{
    struct crypt_store *store = (struct crypt_store *)base;
    int error;

    if (slots > store->capacity)
        return error_set(-ENOMEM,
                         "pagefile %s: there is address space for the tags of %llu slots only; "
                         "raise it (ulimit -v), or give a pagefile_size",
                         base->where, (unsigned long long)store->capacity);
    error = store->inner->ops->grow(store->inner, slots);
    base->slots = store->inner->slots;
    return error;
}

static void crypt_close(struct store *base)
{
    struct crypt_store *store = (struct crypt_store *)base;

    if (store->inner != NULL)
        store->inner->ops->close(store->inner);
    if (store->key != NULL) {
        sodium_memzero(store->key, sizeof(*store->key));
        munmap(store->key, sizeof(*store->key));
    }
    if (store->entries != NULL)
        platform_linux.release(store->entries, store->capacity * sizeof(*store->entries));
    platform_linux.release(store, sizeof(*store));
}

static const struct store_ops crypt_ops = {
    .name = "crypt",
    .grow = crypt_grow,
    .queue_open = crypt_queue_open,
    .queue_close = crypt_queue_close,
    .submit = crypt_submit,
    .reap = crypt_reap,
    .queue_fd = crypt_queue_fd,
    .close = crypt_close,
};

static int explain_lock(int code)
{
    struct rlimit limit = {0};

    getrlimit(RLIMIT_MEMLOCK, &limit);
    return error_set(code,
                     "encrypt: the key's page cannot be locked in memory (%s; the limit is %llu "
                     "KiB): raise the limit (`ulimit -l`, or LimitMEMLOCK= of the service)",
                     strerror(-code), (unsigned long long)(limit.rlim_cur >> 10));
}

/* The page for the key: locked, out of dumps and children. */
static int map_key(struct crypt_store *store)
{
    size_t size = sizeof(*store->key);
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        return error_set(-ENOMEM, "encrypt: no memory for the key");
    store->key = page;
    if (mlock(page, size) != 0)
        return explain_lock(-errno);
    if (madvise(page, size, MADV_DONTDUMP) != 0 || madvise(page, size, MADV_DONTFORK) != 0)
        return error_set(-errno,
                         "encrypt: the key cannot be kept out of core dumps and children: %s",
                         strerror(errno));
    return 0;
}

static int draw_key(struct crypt_store *store)
{
    struct crypt_key *key = store->key;

    if (getrandom(key->key, sizeof(key->key), 0) != (ssize_t)sizeof(key->key) ||
        getrandom(key->salt, sizeof(key->salt), 0) != (ssize_t)sizeof(key->salt))
        return error_set(-EIO, "encrypt: the kernel gave no random key");
    if (store->aes) {
        crypto_aead_aes256gcm_beforenm(&key->schedule, key->key);
        sodium_memzero(key->key, sizeof(key->key));
    }
    return 0;
}

/* Does what was sealed come back, and what was changed not? On the entry of slot 0, which no page
 * uses. */
static int test_cipher(struct crypt_store *store)
{
    static const unsigned char plain[SLOT_SIZE] = {1, 2, 3};
    unsigned char page[SLOT_SIZE];
    bool right;

    seal(store, 0, plain, page);
    right = memcmp(page, plain, SLOT_SIZE) != 0 && unseal(store, 0, page) == 0 &&
            memcmp(page, plain, SLOT_SIZE) == 0;
    seal(store, 0, plain, page);
    page[SLOT_SIZE - 1] ^= 1;
    right &= unseal(store, 0, page) == -EBADMSG;
    store->entries[0].number = 0;
    return right ? 0 : error_set(-EIO, "encrypt: the cipher of libsodium fails its self-test");
}

/* The table is address space only until it is used; with little of that, less may be promised. */
static int map_entries(struct crypt_store *store)
{
    const struct store *inner = store->inner;

    store->capacity = inner->can_grow ? SLOTS_MAX : inner->slots;
    while (true) {
        store->entries = platform_linux.reserve(store->capacity * sizeof(*store->entries));
        if (store->entries != NULL)
            return 0;
        if (!inner->can_grow || store->capacity / 16 < inner->slots || store->capacity < 16)
            return error_set(-ENOMEM, "encrypt: no address space for the tags of %llu slots",
                             (unsigned long long)inner->slots);
        store->capacity /= 16;
    }
}

int store_crypt_open(struct store *inner, enum store_cipher cipher, struct store **out)
{
    struct crypt_store *store = platform_linux.reserve(sizeof(*store));
    int error;

    if (store == NULL)
        return error_set(-ENOMEM, "encrypt: out of memory");
    store->base = *inner;
    store->base.ops = &crypt_ops;
    strncat(store->base.how, ", encrypted", sizeof(store->base.how) - strlen(inner->how) - 1);
    if (sodium_init() < 0) {
        error = error_set(-EIO, "encrypt: libsodium cannot be initialized");
        goto out;
    }
    store->aes = cipher != CIPHER_XCHACHA20 && crypto_aead_aes256gcm_is_available();
    store->inner = inner;
    error = map_entries(store);
    if (error == 0)
        error = map_key(store);
    if (error == 0)
        error = draw_key(store);
    if (error == 0)
        error = test_cipher(store);
out:
    if (error == 0) {
        *out = &store->base;
        return 0;
    }
    store->inner = NULL; /* still the caller's */
    crypt_close(&store->base);
    return error;
}
