/*
 * The software MMU: how an explicit access finds its page, where nobody serves faults (trap none;
 * always so with the mapper `soft`). It owns the page for as long as it copies, so nothing can be
 * trimmed under it, and the copy itself does not fault.
 */
#include <errno.h>
#include <string.h>

#include "core/error.h"
#include "core/machine.h"

/*
 * Copy to or from a valid page that is BUSY by us. With the mapper soft it is in its frame's
 * buffer, else under its address; there, a trim of its neighbours may just now protect it against
 * writes, so a write takes the section's right to trim, and lifts what a trim has left.
 */
static void copy_page(struct machine *m, const struct region *region, uintptr_t va, uint64_t word,
                      char *buffer, size_t length, bool write)
{
    struct section *section = pagetable_section(region->table, va);
    char *content = (char *)va;
    uint32_t idle = 0;

    if (!m->mapper->in_place) {
        content = (char *)mapper_buffer(m->mapper, pte_number(word)) + va % PAGE_SIZE;
        write ? memcpy(content, buffer, length) : memcpy(buffer, content, length);
        return;
    }
    if (!write) {
        memcpy(buffer, content, length);
        return;
    }
    /* Trims do not wait for a page that is BUSY. */
    for (unsigned round = 0; !atomic_compare_exchange_strong(&section->trimming, &idle, 1);
         round++) {
        sync_relax(&m->sync, round);
        idle = 0;
    }
    m->mapper->ops->lift(m->mapper, va & ~(PAGE_SIZE - 1), PAGE_SIZE);
    memcpy(content, buffer, length);
    atomic_store(&section->trimming, 0);
}

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
            copy_page(m, region, va, word, buffer, length, write);
            if (word & PTE_READAHEAD)
                count(m, COUNTER_readahead_hits, 1);
            pte_release(m, pte, va, (word & ~PTE_READAHEAD) | PTE_ACCESSED);
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
    char piece[PAGE_SIZE]; /* the program's memory may fault, even into another manager */

    while (length > 0) {
        size_t here = PAGE_SIZE - va % PAGE_SIZE;
        enum fault_result result;

        if (here > length)
            here = length;
        if (write)
            memcpy(piece, buffer, here);
        result = access_page(m, va, piece, here, write, thread);
        if (result == FAULT_OUTSIDE)
            return error_set(-EINVAL, "%p is not mapped by this manager", (void *)va);
        if (result == FAULT_FAILED)
            return -EIO;
        if (!write)
            memcpy(buffer, piece, here);
        va += here;
        buffer += here;
        length -= here;
    }
    return 0;
}
