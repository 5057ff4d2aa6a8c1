#include "bound_stock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "content.h"
#include "plan.h"

#define WRITE_MOST 256u /* pages of a request */
#define BUDGET_BATCH 64 /* a batch is such a part of memory, */
#define BATCH_LEAST 32u /* but no less than this */
#define RING_ENTRIES 1024u
#define BUFFER_PAGES (STOCK_BATCH + STOCK_RUN)

enum { ABSENT, COMING, HERE, LEAVING, WRITING };

/* An access to a page that cannot be had would fault for ever. */
_Noreturn void stock_fail(int error)
{
    fprintf(stderr, "bound: the pager failed: %s\n", strerror(-error));
    _exit(STATUS_FAILED);
}

static void pages_map(const struct stock *s, size_t page, const char *content, size_t count)
{
    int error = range_copy(&s->range, page, content, count);

    if (error < 0)
        stock_fail(error);
}

/* ---- Pages come ---- */

/* They are there. The lock is held. */
static void pages_arrive(struct stock *s, size_t page, size_t count)
{
    memset(s->states + page, HERE, count);
    if (!s->sweeps)
        s->queue[s->head++ % s->range.pages] =
            (struct stock_piece){(uint32_t)page, (uint32_t)count};
    if (s->resident > s->most - 2 * s->batch)
        pthread_cond_signal(&s->full);
}

/* The page waits to be written, or is: from its buffer, then. The lock is held, so that it stays. */
static void page_rescue(struct stock *s, size_t page)
{
    pages_map(s, page, s->buffers + (s->places[page] - 1) * (size_t)BOUND_PAGE, 1);
    s->resident++;
    pages_arrive(s, page, 1);
}

/* Pages nobody has written yet. */
static void fresh_put(struct stock *s, size_t page, size_t count)
{
    pages_map(s, page, s->zeroes, count);
    pthread_mutex_lock(&s->lock);
    pages_arrive(s, page, count);
    pthread_mutex_unlock(&s->lock);
}

/* Those that come with the page, from begin to end. The lock is held. True: they have never been
 * written. */
static bool claim_make(struct stock *s, size_t page, size_t begin, size_t end,
                       struct stock_claim *claim)
{
    bool fresh = s->saved[page] == 0;

    while (begin < page && (fresh || s->states[begin] != ABSENT))
        begin++;
    if (fresh || end > begin + STOCK_RUN)
        end = begin + STOCK_RUN;
    if (end > s->range.pages)
        end = s->range.pages;
    *claim = (struct stock_claim){.page = begin};
    for (size_t i = 0; begin + i < end; i++) {
        bool absent = s->states[begin + i] == ABSENT && (s->saved[begin + i] == 0) == fresh;

        if (fresh && !absent)
            break;
        if (!absent)
            continue;
        s->states[begin + i] = COMING;
        s->resident++;
        claim->ours |= UINT64_C(1) << i;
        claim->count = i + 1;
    }
    s->counts.claims++;
    if (!fresh)
        s->counts.in += (unsigned)__builtin_popcountll(claim->ours);
    return fresh;
}

enum stock_answer stock_claim(struct stock *s, size_t page, size_t begin, size_t end,
                              struct stock_claim *claim)
{
    enum stock_answer answer = STOCK_BUSY;
    bool fresh = false;

    pthread_mutex_lock(&s->lock);
    while ((s->states[page] == ABSENT || s->states[page] == WRITING) &&
           s->resident + STOCK_RUN > s->most) {
        pthread_cond_signal(&s->full);
        pthread_cond_wait(&s->room, &s->lock);
    }
    if (s->states[page] == ABSENT) {
        fresh = claim_make(s, page, begin, end, claim);
        answer = fresh ? STOCK_HERE : STOCK_READ;
    } else if (s->states[page] == WRITING) {
        page_rescue(s, page);
        answer = STOCK_HERE;
    } else if (s->states[page] == HERE) {
        answer = STOCK_HERE;
    }
    pthread_mutex_unlock(&s->lock);
    if (fresh)
        fresh_put(s, claim->page, claim->count);
    return answer;
}

void stock_put(struct stock *s, const struct stock_claim *claim, const char *content)
{
    uint64_t left = claim->ours;

    while (left != 0) {
        unsigned first = (unsigned)__builtin_ctzll(left);
        uint64_t after = ~(left >> first);
        unsigned count = after != 0 ? (unsigned)__builtin_ctzll(after) : STOCK_RUN;

        pages_map(s, claim->page + first, content + first * (size_t)BOUND_PAGE, count);
        pthread_mutex_lock(&s->lock);
        pages_arrive(s, claim->page + first, count);
        pthread_mutex_unlock(&s->lock);
        left = first + count < STOCK_RUN ? left >> (first + count) << (first + count) : 0;
    }
}

void stock_protect(struct stock *s, bool on)
{
    pthread_mutex_lock(&s->lock);
    s->protects = on;
    pthread_mutex_unlock(&s->lock);
}

void stock_sweep(struct stock *s, size_t page)
{
    pthread_mutex_lock(&s->lock);
    s->sweeps = true;
    s->hand = page;
    pthread_mutex_unlock(&s->lock);
}

struct stock_counts stock_count(struct stock *s)
{
    struct stock_counts counts;

    pthread_mutex_lock(&s->lock);
    counts = s->counts;
    pthread_mutex_unlock(&s->lock);
    return counts;
}

/* ---- Pages go: the evictor ---- */

/* Wait until what the batch held last has been written. Long before a page can leave once more it
 * has: a batch is a small part of memory. */
static void batch_settle(struct stock *s, struct stock_batch *b)
{
    size_t place = (size_t)(b - s->batches) * BUFFER_PAGES;

    while (b->writing > 0) {
        struct io_uring_cqe *cqe;
        struct stock_batch *of;

        if (io_uring_wait_cqe(&s->ring, &cqe) < 0)
            continue;
        of = io_uring_cqe_get_data(cqe);
        of->writing--;
        if (cqe->res <= 0 || cqe->res % (int)BOUND_PAGE != 0)
            stock_fail(cqe->res < 0 ? cqe->res : -EIO);
        io_uring_cqe_seen(&s->ring, cqe);
    }
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < b->used; i++)
        if (s->states[b->pages[i]] == WRITING && s->places[b->pages[i]] == place + i + 1)
            s->states[b->pages[i]] = ABSENT;
    pthread_mutex_unlock(&s->lock);
    b->used = 0;
}

/* The page that leaves next; false: there is none. The lock is held. */
static bool piece_sweep(struct stock *s, struct stock_piece *piece)
{
    for (size_t i = 0; i < s->range.pages; i++) {
        size_t page = s->hand;

        s->hand = (s->hand + 1) % s->range.pages;
        if (s->states[page] == HERE) {
            *piece = (struct stock_piece){(uint32_t)page, 1};
            return true;
        }
    }
    return false;
}

/* The pages that leave next; false: there are none. The lock is held. */
static bool piece_take(struct stock *s, struct stock_piece *piece)
{
    if (s->sweeps)
        return piece_sweep(s, piece);
    if (s->tail == s->head)
        return false;
    *piece = s->queue[s->tail++ % s->range.pages];
    return true;
}

/* A batch of them, once memory is nearly full. False: there will be no more. */
static bool batch_take(struct stock *s, struct stock_batch *b, bool *protects)
{
    struct stock_piece piece;
    bool goes_on;

    b->count = 0;
    pthread_mutex_lock(&s->lock);
    while (!s->stop && s->resident <= s->most - 2 * s->batch)
        pthread_cond_wait(&s->full, &s->lock);
    for (unsigned taken = 0; taken < s->batch && piece_take(s, &piece); b->count++) {
        memset(s->states + piece.page, LEAVING, piece.count);
        b->pieces[b->count] = piece;
        taken += piece.count;
    }
    goes_on = !s->stop;
    *protects = s->protects;
    pthread_mutex_unlock(&s->lock);
    return goes_on;
}

static int piece_compare(const void *one, const void *other)
{
    const struct stock_piece *a = one, *b = other;

    return a->page < b->page ? -1 : a->page > b->page;
}

static void batch_merge(struct stock_batch *b)
{
    unsigned last = 0;

    qsort(b->pieces, b->count, sizeof(b->pieces[0]), piece_compare);
    for (unsigned i = 1; i < b->count; i++)
        if (b->pieces[last].page + b->pieces[last].count == b->pieces[i].page)
            b->pieces[last].count += b->pieces[i].count;
        else
            b->pieces[++last] = b->pieces[i];
    b->count = b->count > 0 ? last + 1 : 0;
}

/* Is the page as it is in the file? One without a generation is being filled, one that is locked
 * being touched. */
static bool page_unchanged(const struct stock *s, size_t page)
{
    uint32_t generation = atomic_load(&s->generations[page]);

    return generation != 0 && !(generation & PAGE_LOCKED) && s->saved[page] == generation + 1;
}

/* Copy pages out and send them. */
static void pages_write(struct stock *s, struct stock_batch *b, size_t page, size_t count)
{
    char *copy = b->buffer + b->used * (size_t)BOUND_PAGE;
    size_t place = (size_t)(b - s->batches) * BUFFER_PAGES;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);

    for (size_t i = page; i < page + count; i++) {
        s->saved[i] = atomic_load(&s->generations[i]) + 1;
        b->pages[b->used] = (uint32_t)i;
        s->places[i] = (uint32_t)(place + ++b->used);
    }
    memcpy(copy, s->range.base + page * BOUND_PAGE, count * BOUND_PAGE);
    io_uring_prep_write(sqe, s->file, copy, (unsigned)(count * BOUND_PAGE), page * BOUND_PAGE);
    io_uring_sqe_set_data(sqe, b);
    b->writing++;
}

/* From the first page that has changed to the last. */
static void piece_write(struct stock *s, struct stock_batch *b, struct stock_piece piece)
{
    size_t page = piece.page, end = page + piece.count;

    memset(s->places + page, 0, piece.count * sizeof(*s->places));
    while (page < end && page_unchanged(s, page))
        page++;
    while (page < end && page_unchanged(s, end - 1))
        end--;
    for (; page < end; page += WRITE_MOST)
        pages_write(s, b, page, end - page < WRITE_MOST ? end - page : WRITE_MOST);
}

/* They have been dropped. */
static void batch_release(struct stock *s, const struct stock_batch *b)
{
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < b->count; i++) {
        for (size_t page = b->pieces[i].page; page < b->pieces[i].page + b->pieces[i].count; page++)
            s->states[page] = s->places[page] != 0 ? WRITING : ABSENT;
        s->resident -= b->pieces[i].count;
    }
    s->counts.out += b->used;
    pthread_cond_broadcast(&s->room);
    pthread_mutex_unlock(&s->lock);
}

static void batch_evict(struct stock *s, struct stock_batch *b, bool protects)
{
    struct iovec pieces[STOCK_BATCH];
    int error = 0;

    batch_merge(b);
    for (unsigned i = 0; i < b->count; i++) {
        struct stock_piece piece = b->pieces[i];

        if (protects && error == 0)
            error = range_protect(&s->range, piece.page, piece.count, true);
        piece_write(s, b, piece);
        pieces[i] = (struct iovec){.iov_base = s->range.base + (size_t)piece.page * BOUND_PAGE,
                                   .iov_len = (size_t)piece.count * BOUND_PAGE};
    }
    if (b->used > 0 && error == 0)
        error = io_uring_submit(&s->ring);
    if (error >= 0 && b->count > 0)
        error = range_drop(pieces, b->count);
    if (error < 0)
        stock_fail(error);
    batch_release(s, b);
}

static void *evictor_main(void *argument)
{
    struct stock *s = argument;
    struct stock_batch *b = s->batches;
    bool protects;

    for (unsigned n = 1; batch_take(s, b, &protects); n++) {
        batch_evict(s, b, protects);
        b = &s->batches[n % STOCK_BATCHES];
        batch_settle(s, b);
    }
    for (unsigned i = 0; i < STOCK_BATCHES; i++)
        batch_settle(s, &s->batches[i]);
    return NULL;
}

/* ---- All of it ---- */

static int memory_make(struct stock *s)
{
    size_t pages = s->range.pages;

    s->states = calloc(pages, sizeof(*s->states));
    s->saved = calloc(pages, sizeof(*s->saved));
    s->places = calloc(pages, sizeof(*s->places));
    s->queue = calloc(pages, sizeof(*s->queue));
    s->generations = calloc(pages, sizeof(*s->generations));
    s->batches = calloc(STOCK_BATCHES, sizeof(*s->batches));
    s->zeroes = buffer_make(STOCK_RUN * (size_t)BOUND_PAGE);
    s->buffers = buffer_make(STOCK_BATCHES * BUFFER_PAGES * (size_t)BOUND_PAGE);
    if (s->states == NULL || s->saved == NULL || s->places == NULL || s->queue == NULL ||
        s->generations == NULL || s->batches == NULL || s->zeroes == NULL || s->buffers == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < STOCK_BATCHES; i++)
        s->batches[i].buffer = s->buffers + i * BUFFER_PAGES * (size_t)BOUND_PAGE;
    return 0;
}

static void memory_free(struct stock *s)
{
    range_close(&s->range);
    free(s->states);
    free(s->saved);
    free(s->places);
    free(s->queue);
    free(s->generations);
    free(s->batches);
    buffer_free(s->zeroes, STOCK_RUN * (size_t)BOUND_PAGE);
    buffer_free(s->buffers, STOCK_BATCHES * BUFFER_PAGES * (size_t)BOUND_PAGE);
}

int stock_open(struct stock *s, const struct bound *b, bool sigbus)
{
    size_t pages = b->options.region / BOUND_PAGE, budget = pages * b->options.share / 100;
    int error;

    *s = (struct stock){.file = b->content,
                        .batch = (unsigned)(budget / BUDGET_BATCH),
                        .lock = PTHREAD_MUTEX_INITIALIZER,
                        .room = PTHREAD_COND_INITIALIZER,
                        .full = PTHREAD_COND_INITIALIZER};
    s->batch = s->batch < BATCH_LEAST ? BATCH_LEAST : s->batch;
    s->batch = s->batch > STOCK_BATCH ? STOCK_BATCH : s->batch;
    s->most = budget - STOCK_BATCHES * s->batch;
    error = range_open(&s->range, pages, sigbus);
    if (error == 0)
        error = memory_make(s);
    if (error == 0)
        error = io_uring_queue_init(RING_ENTRIES, &s->ring, 0);
    if (error == 0) {
        error = -pthread_create(&s->evictor, NULL, evictor_main, s);
        if (error == 0)
            return 0;
        io_uring_queue_exit(&s->ring);
    }
    memory_free(s);
    return error;
}

void stock_close(struct stock *s)
{
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->full);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->evictor, NULL);
    io_uring_queue_exit(&s->ring);
    memory_free(s);
}
