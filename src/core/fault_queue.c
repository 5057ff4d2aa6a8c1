#include "core/fault.h"

#include <errno.h>

#include "core/check.h"
#include "core/error.h"
#include "core/fault_internal.h"
#include "core/machine.h"

/* Staging of a cache is in one piece, so each read needs one iovec; else pages are anywhere. */
static size_t fault_size(const struct machine *m)
{
    unsigned iovs = m->mapper->has_cache ? FAULT_PIECES : RUN_MAX;

    return sizeof(struct fault) + iovs * sizeof(struct iovec);
}

static size_t faults_size(const struct machine *m)
{
    return FAULT_QUEUE_DEPTH_MAX * fault_size(m);
}

int fault_queue_open(struct machine *m, struct fault_queue *queue)
{
    int error;

    queue->faults = m->platform->reserve(faults_size(m));
    if (queue->faults == NULL)
        return error_set(-ENOMEM, "no memory for a fault queue");
    error = m->pagefile.store->ops->queue_open(m->pagefile.store, (unsigned)m->tunables.store_depth,
                                               &queue->store);
    if (error != 0) {
        m->platform->release(queue->faults, faults_size(m));
        queue->faults = NULL;
        return error;
    }
    queue->free = queue->fresh = (void *)queue->faults;
    return 0;
}

uint64_t fault_queue_bytes(const struct machine *m, const struct fault_queue *queue)
{
    return table_bytes(m, queue->faults, faults_size(m));
}

void fault_queue_close(struct machine *m, struct fault_queue *queue)
{
    if (queue->faults == NULL)
        return;
    check_always(queue->in_flight == 0);
    m->pagefile.store->ops->queue_close(queue->store);
    m->platform->release(queue->faults, faults_size(m));
    queue->faults = NULL;
}

void fault_queue_enter(struct machine *m, struct fault_queue *queue)
{
    if (queue->gate_held)
        return;
    machine_enter(m);
    queue->gate_held = true;
}

void fault_queue_leave(struct machine *m, struct fault_queue *queue)
{
    if (!queue->gate_held || queue->in_flight > 0)
        return;
    queue->gate_held = false;
    sync_rwlock_unread(&m->sync, &m->gate, SYNC_GATE);
}

static struct fault_queue *pool_take(struct machine *m)
{
    struct fault_queue *queue;

    sync_mutex_lock(&m->sync, &m->pool_lock, SYNC_QUEUES);
    queue = m->pool_free;
    if (queue != NULL)
        m->pool_free = queue->next;
    sync_mutex_unlock(&m->sync, &m->pool_lock, SYNC_QUEUES);
    return queue;
}

struct fault_queue *fault_queue_get(struct machine *m)
{
    struct fault_queue *queue;

    while ((queue = pool_take(m)) == NULL) {
        uint32_t key = sync_event_prepare(&m->sync, &m->queues_event);

        queue = pool_take(m);
        if (queue != NULL) {
            sync_event_cancel(&m->queues_event);
            return queue;
        }
        sync_event_wait(&m->sync, &m->queues_event, key, 0);
    }
    return queue;
}

void fault_queue_put(struct machine *m, struct fault_queue *queue)
{
    sync_mutex_lock(&m->sync, &m->pool_lock, SYNC_QUEUES);
    queue->next = m->pool_free;
    m->pool_free = queue;
    sync_mutex_unlock(&m->sync, &m->pool_lock, SYNC_QUEUES);
    sync_event_signal(&m->sync, &m->queues_event);
}

struct fault *fault_get(const struct machine *m, struct fault_queue *queue)
{
    struct fault *fault = queue->free;
    char *next;

    check_always(fault != NULL);
    if (fault != queue->fresh) {
        queue->free = fault->next;
        return fault;
    }
    next = (char *)fault + fault_size(m);
    queue->fresh = next < queue->faults + faults_size(m) ? (void *)next : NULL;
    queue->free = queue->fresh;
    return fault;
}

void fault_put(struct fault_queue *queue, struct fault *fault)
{
    fault->next = queue->free;
    queue->free = fault;
}
