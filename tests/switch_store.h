/*
 * A store that a test switches, at any time, between working, holding what it is sent, and
 * failing. It stands before a real one, so what it lets pass is really written and read.
 *
 * Held requests go on when they are let go and their queue is reaped. The log says what was sent.
 */
#ifndef TESTS_SWITCH_STORE_H
#define TESTS_SWITCH_STORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "store/store.h"

#define SWITCH_LOG 4096u

struct switch_entry {
    uint64_t slot;
    uint32_t count;
    bool write;
};

struct switch_store {
    struct store base;
    struct store *inner;
    pthread_mutex_t lock; /* guards hold and the log */
    pthread_cond_t let_go;
    bool hold;
    _Atomic unsigned sleepers; /* times that a reap has slept for what is held */
    unsigned logged;
    struct switch_entry log[SWITCH_LOG];
    _Atomic int write_error, read_error, grow_error; /* 0: works */
    _Atomic int read_error_once;                     /* of the next read alone */
    _Atomic uint64_t bad_slot;                       /* writes of it fail */
    _Atomic uint64_t corrupt_slot;                   /* reads of it are altered */
    _Atomic uint64_t full_from; /* no room for slots from there on; 0: there is */
};

struct switch_queue {
    struct switch_store *store;
    struct store_queue *inner;
    struct store_io *held, *failed;
    unsigned inner_pending;
};

static inline struct switch_store *switch_of(struct store *store)
{
    return (struct switch_store *)(void *)store;
}

static inline struct switch_queue *switch_queue_of(struct store_queue *queue)
{
    return (struct switch_queue *)(void *)queue;
}

static inline int switch_grow(struct store *store, uint64_t slots)
{
    struct switch_store *s = switch_of(store);
    int error = s->grow_error;

    if (error == 0)
        error = s->inner->ops->grow(s->inner, slots);
    store->slots = s->inner->slots;
    return error;
}

static inline int switch_queue_open(struct store *store, unsigned depth, struct store_queue **queue)
{
    struct switch_queue *q = calloc(1, sizeof(*q));
    struct switch_store *s = switch_of(store);
    int error = s->inner->ops->queue_open(s->inner, depth, &q->inner);

    q->store = s;
    if (error == 0)
        *queue = (struct store_queue *)(void *)q;
    else
        free(q);
    return error;
}

static inline void switch_queue_close(struct store_queue *queue)
{
    struct switch_queue *q = switch_queue_of(queue);

    q->store->inner->ops->queue_close(q->inner);
    free(q);
}

static inline void switch_pass(struct switch_queue *q, struct store_io *io)
{
    struct switch_store *s = q->store;
    uint64_t bad = s->bad_slot;
    int error = io->write ? s->write_error : s->read_error;

    if (!io->write && error == 0)
        error = atomic_exchange(&s->read_error_once, 0);

    if (io->write && bad >= io->slot && bad < io->slot + io->count)
        error = -5;
    if (io->write && s->full_from != 0 && io->slot + io->count > s->full_from)
        error = -28;
    if (error != 0) {
        io->result = error;
        io->next = q->failed;
        q->failed = io;
        return;
    }
    q->inner_pending++;
    s->inner->ops->submit(q->inner, &io, 1);
}

static inline void switch_submit(struct store_queue *queue, struct store_io **ios, unsigned count)
{
    struct switch_queue *q = switch_queue_of(queue);
    bool hold;

    pthread_mutex_lock(&q->store->lock);
    hold = q->store->hold;
    for (unsigned i = 0; i < count && q->store->logged < SWITCH_LOG; i++)
        q->store->log[q->store->logged++] = (struct switch_entry){
            .slot = ios[i]->slot, .count = ios[i]->count, .write = ios[i]->write};
    pthread_mutex_unlock(&q->store->lock);
    for (unsigned i = 0; i < count; i++) {
        if (hold) {
            ios[i]->next = q->held;
            q->held = ios[i];
        } else {
            switch_pass(q, ios[i]);
        }
    }
}

/* Send what was held, once it may go; with wait, that is slept for. */
static inline void switch_unhold(struct switch_queue *q, bool wait)
{
    bool hold;

    pthread_mutex_lock(&q->store->lock);
    q->store->sleepers += wait && q->store->hold;
    while (wait && q->store->hold)
        pthread_cond_wait(&q->store->let_go, &q->store->lock);
    hold = q->store->hold;
    pthread_mutex_unlock(&q->store->lock);
    while (!hold && q->held != NULL) {
        struct store_io *io = q->held;

        q->held = io->next;
        switch_pass(q, io);
    }
}

/* Alter a byte of what was read. */
static inline void switch_corrupt(struct store_io *io, size_t at)
{
    for (int i = 0; i < io->iovcnt; i++) {
        if (at < io->iov[i].iov_len) {
            ((unsigned char *)io->iov[i].iov_base)[at] ^= 1u;
            return;
        }
        at -= io->iov[i].iov_len;
    }
}

static inline unsigned switch_reap(struct store_queue *queue, struct store_io **done, unsigned max,
                                   bool wait)
{
    struct switch_queue *q = switch_queue_of(queue);
    uint64_t corrupt = q->store->corrupt_slot;
    unsigned n = 0, inner;

    if (q->held != NULL)
        switch_unhold(q, wait && q->failed == NULL && q->inner_pending == 0);
    for (; n < max && q->failed != NULL; n++) {
        done[n] = q->failed;
        q->failed = q->failed->next;
    }
    if (n == max || q->inner_pending == 0)
        return n;
    inner = q->store->inner->ops->reap(q->inner, done + n, max - n, wait && n == 0);
    q->inner_pending -= inner;
    for (unsigned i = n; i < n + inner; i++) {
        if (!done[i]->write && corrupt >= done[i]->slot && corrupt < done[i]->slot + done[i]->count)
            switch_corrupt(done[i], (size_t)(corrupt - done[i]->slot) * 4096);
    }
    return n + inner;
}

/* Only handler threads ask for it. */
static inline int switch_queue_fd(struct store_queue *queue)
{
    struct switch_queue *q = switch_queue_of(queue);

    return q->store->inner->ops->queue_fd(q->inner);
}

static inline void switch_close(struct store *store)
{
    struct switch_store *s = switch_of(store);

    s->inner->ops->close(s->inner);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->let_go);
    free(s);
}

static inline struct switch_store *switch_store_open(struct store *inner)
{
    static const struct store_ops ops = {.name = "switch",
                                         .grow = switch_grow,
                                         .queue_open = switch_queue_open,
                                         .queue_close = switch_queue_close,
                                         .submit = switch_submit,
                                         .reap = switch_reap,
                                         .queue_fd = switch_queue_fd,
                                         .close = switch_close};
    struct switch_store *s = calloc(1, sizeof(*s));

    s->base = *inner;
    s->base.ops = &ops;
    s->inner = inner;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->let_go, NULL);
    return s;
}

/* Requests sent from now on are held, or those held go on. */
static inline void switch_hold(struct switch_store *s, bool hold)
{
    pthread_mutex_lock(&s->lock);
    s->hold = hold;
    if (!hold)
        pthread_cond_broadcast(&s->let_go);
    pthread_mutex_unlock(&s->lock);
}

/* Requests logged so far. */
static inline unsigned switch_logged(struct switch_store *s)
{
    unsigned n;

    pthread_mutex_lock(&s->lock);
    n = s->logged;
    pthread_mutex_unlock(&s->lock);
    return n;
}

#endif
