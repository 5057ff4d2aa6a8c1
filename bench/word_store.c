/*
 * Every request is complete when submit() returns; a queue is the list of what has not been reaped.
 */
#include "word_store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "vmsm.h"

struct word_store {
    struct store base;
    uint64_t *words; /* one a slot */
};

struct word_queue {
    struct word_store *store;
    struct store_io *first; /* complete, not reaped */
};

static int word_grow(struct store *store, uint64_t slots)
{
    return slots <= store->slots ? 0 : -ENOSPC;
}

static int word_queue_open(struct store *store, unsigned depth, struct store_queue **queue)
{
    struct word_queue *q = calloc(1, sizeof *q);

    (void)depth;
    if (q == NULL)
        return -ENOMEM;
    q->store = (struct word_store *)(void *)store;
    *queue = (struct store_queue *)(void *)q;
    return 0;
}

static void word_queue_close(struct store_queue *queue)
{
    free(queue);
}

static int word_transfer(struct word_store *store, const struct store_io *io)
{
    uint64_t slot = io->slot;

    for (int i = 0; i < io->iovcnt; i++) {
        char *page = io->iov[i].iov_base;
        const char *end = page + io->iov[i].iov_len;

        if (io->iov[i].iov_len % VMSM_PAGE_SIZE != 0)
            return -EINVAL;
        for (; page < end; page += VMSM_PAGE_SIZE, slot++) {
            if (slot >= store->base.slots)
                return -EINVAL;
            if (io->write) {
                memcpy(&store->words[slot], page, sizeof store->words[0]);
                continue;
            }
            memset(page, 0, VMSM_PAGE_SIZE);
            memcpy(page, &store->words[slot], sizeof store->words[0]);
        }
    }
    return 0;
}

static void word_submit(struct store_queue *queue, struct store_io **ios, unsigned count)
{
    struct word_queue *q = (struct word_queue *)(void *)queue;

    for (unsigned i = 0; i < count; i++) {
        ios[i]->result = word_transfer(q->store, ios[i]);
        ios[i]->next = q->first;
        q->first = ios[i];
    }
}

static unsigned word_reap(struct store_queue *queue, struct store_io **done, unsigned max,
                          bool wait)
{
    struct word_queue *q = (struct word_queue *)(void *)queue;
    unsigned n = 0;

    (void)wait;
    for (; n < max && q->first != NULL; q->first = q->first->next)
        done[n++] = q->first;
    return n;
}

static int word_queue_fd(struct store_queue *queue)
{
    (void)queue;
    return -1;
}

static void word_close(struct store *store)
{
    struct word_store *s = (struct word_store *)(void *)store;

    munmap(s->words, store->slots * sizeof s->words[0]);
    free(s);
}

int word_store_open(uint64_t slots, struct store **store)
{
    static const struct store_ops ops = {
        .name = "words",
        .grow = word_grow,
        .queue_open = word_queue_open,
        .queue_close = word_queue_close,
        .submit = word_submit,
        .reap = word_reap,
        .queue_fd = word_queue_fd,
        .close = word_close,
    };
    struct word_store *s = calloc(1, sizeof *s);

    if (s == NULL)
        return -ENOMEM;
    s->base.ops = &ops;
    s->base.slots = slots;
    snprintf(s->base.where, sizeof s->base.where, "(in memory)");
    snprintf(s->base.how, sizeof s->base.how, "first words only");
    s->words = mmap(NULL, slots * sizeof s->words[0], PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s->words == MAP_FAILED) {
        free(s);
        return -ENOMEM;
    }
    *store = &s->base;
    return 0;
}
