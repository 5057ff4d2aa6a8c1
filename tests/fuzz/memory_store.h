/*
 * A store in memory, in place of the store `file`: a target that includes this is linked with it
 * instead, and needs no disk. Requests are complete when they have been submitted.
 */
#ifndef TESTS_FUZZ_MEMORY_STORE_H
#define TESTS_FUZZ_MEMORY_STORE_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/error.h"
#include "store/store.h"

#define MEMORY_STORE_SLOTS UINT64_C(65536)
#define MEMORY_STORE_SLOT 4096u

struct memory_store {
    struct store base;
    char *bytes; /* MEMORY_STORE_SLOTS slots; touched ones alone take memory */
};

struct store_queue {
    struct memory_store *store;
    struct store_io *first, **last; /* complete, not reaped */
};

static int memory_store_grow(struct store *store, uint64_t slots)
{
    if (slots > MEMORY_STORE_SLOTS)
        return error_set(-ENOSPC, "the store in memory has %llu slots",
                         (unsigned long long)MEMORY_STORE_SLOTS);
    if (slots > store->slots)
        store->slots = slots;
    return 0;
}

static int memory_store_queue_open(struct store *store, unsigned depth, struct store_queue **out)
{
    struct store_queue *queue = calloc(1, sizeof(*queue));

    (void)depth;
    if (queue == NULL)
        return error_set(-ENOMEM, "no memory for a queue");
    queue->store = (struct memory_store *)(void *)store;
    queue->last = &queue->first;
    *out = queue;
    return 0;
}

static void memory_store_queue_close(struct store_queue *queue)
{
    free(queue);
}

static int memory_store_do(struct memory_store *store, const struct store_io *io)
{
    char *at = store->bytes + io->slot * MEMORY_STORE_SLOT;
    size_t total = 0;

    if (io->slot == 0 || io->count == 0 || io->slot + io->count > store->base.slots)
        abort(); /* the core asked for what is not there */
    for (int i = 0; i < io->iovcnt; i++) {
        const struct iovec *part = &io->iov[i];

        memcpy(io->write ? at + total : part->iov_base, io->write ? part->iov_base : at + total,
               part->iov_len);
        total += part->iov_len;
    }
    if (total != (size_t)io->count * MEMORY_STORE_SLOT)
        abort();
    return 0;
}

static void memory_store_submit(struct store_queue *queue, struct store_io **ios, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        ios[i]->result = memory_store_do(queue->store, ios[i]);
        ios[i]->next = NULL;
        *queue->last = ios[i];
        queue->last = &ios[i]->next;
    }
}

static unsigned memory_store_reap(struct store_queue *queue, struct store_io **done, unsigned max,
                                  bool wait)
{
    unsigned count = 0;

    (void)wait;
    while (count < max && queue->first != NULL) {
        done[count] = queue->first;
        queue->first = done[count++]->next;
    }
    if (queue->first == NULL)
        queue->last = &queue->first;
    return count;
}

static int memory_store_queue_fd(struct store_queue *queue)
{
    (void)queue;
    return -1;
}

static void memory_store_close(struct store *store)
{
    munmap(((struct memory_store *)(void *)store)->bytes, MEMORY_STORE_SLOTS * MEMORY_STORE_SLOT);
    free(store);
}

int store_file_open(const struct store_file_options *options, struct store **out)
{
    static const struct store_ops ops = {
        .name = "memory",
        .grow = memory_store_grow,
        .queue_open = memory_store_queue_open,
        .queue_close = memory_store_queue_close,
        .submit = memory_store_submit,
        .reap = memory_store_reap,
        .queue_fd = memory_store_queue_fd,
        .close = memory_store_close,
    };
    struct memory_store *store = calloc(1, sizeof(*store));

    (void)options;
    if (store == NULL)
        return error_set(-ENOMEM, "no memory for a store");
    store->base = (struct store){.ops = &ops, .slots = 1, .can_grow = true};
    store->bytes = mmap(NULL, MEMORY_STORE_SLOTS * MEMORY_STORE_SLOT, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (store->bytes == MAP_FAILED) {
        free(store);
        return error_set(-ENOMEM, "no address space for a store");
    }
    *out = &store->base;
    return 0;
}

#endif
