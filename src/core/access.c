/*
 * The software MMU: how an access through the mapper `soft` finds its frame. It owns the page for
 * as long as it copies, so nothing can be trimmed under it.
 */
#include <errno.h>
#include <string.h>

#include "core/error.h"
#include "core/machine.h"

bool access_try(struct machine *m, uintptr_t va, char *buffer, size_t length, bool write)
{
    struct region *region;
    bool done = false;

    machine_enter(m);
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    region = region_find(m, va);
    if (region != NULL) {
        pte_t *pte = pagetable_pte(region->table, va);
        uint64_t word = pte_load(pte);

        if ((word & PTE_VALID) && !(word & PTE_BUSY) && !(write && (word & PTE_PROTECTED)) &&
            pte_try_busy(&m->sync, pte, word)) {
            char *content = (char *)mapper_buffer(m->mapper, pte_number(word)) + va % PAGE_SIZE;

            memcpy(write ? content : buffer, write ? buffer : content, length);
            if (word & PTE_READAHEAD)
                count(m, COUNTER_readahead_hits, 1);
            word = (word & ~(uint64_t)PTE_READAHEAD) | PTE_ACCESSED | (write ? PTE_DIRTY : 0);
            pte_release(m, pte, va, word);
            done = true;
        }
    }
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    sync_rwlock_unread(&m->sync, &m->gate, SYNC_GATE);
    return done;
}

enum fault_result access_page(struct machine *m, uintptr_t va, char *buffer, size_t length,
                              bool write, uint32_t thread)
{
    while (!access_try(m, va, buffer, length, write)) {
        unsigned flags = write ? FAULT_WRITE | FAULT_PROTECT : 0;
        enum fault_result result = fault_resolve(m, va, flags, thread);

        if (result != FAULT_DONE)
            return result;
    }
    return FAULT_DONE;
}

int access_copy(struct machine *m, uintptr_t va, char *buffer, size_t length, bool write)
{
    uint32_t thread = 1 + m->sync.backend->shard(&m->sync);

    while (length > 0) {
        size_t here = PAGE_SIZE - va % PAGE_SIZE;
        enum fault_result result;

        if (here > length)
            here = length;
        result = access_page(m, va, buffer, here, write, thread);
        if (result == FAULT_OUTSIDE)
            return error_set(-EINVAL, "%p is not mapped by this manager", (void *)va);
        if (result == FAULT_FAILED)
            return -EIO;
        va += here;
        buffer += here;
        length -= here;
    }
    return 0;
}
