/*
 * The refiller and the zeroer: what makes frames and cache room out of standby, and zero
 * frames out of free ones; and slots that wait to be released together.
 *
 * Repurposing a standby frame changes the page's PTE from transition to pagefile, so its BUSY bit
 * is needed; it is only tried for, with the list exclusive and the frame locked (which keeps
 * frame.pte valid): a page that somebody is busy with is being rescued or discarded, and is passed
 * over.
 */
#include "core/check.h"
#include "core/machine.h"

#define REFILL_BATCH 256u
#define ZERO_BATCH 32u

uint32_t standby_count(struct machine *m)
{
    uint32_t sum = 0;

    for (unsigned p = 0; p < STANDBY_PRIORITIES; p++)
        sum += list_count(m, LIST_STANDBY + p);
    return sum;
}

/* Own the page of a standby frame, if nobody else does. The frame is locked and on its list. */
static bool refill_claim(struct machine *m, struct frame *frame)
{
    uint64_t word = pte_load(frame->pte);

    SYNC_ASSERT_HELD(SYNC_LIST);
    SYNC_ASSERT_HELD(SYNC_FRAME);
    frame_assert_state(m, frame);
    if ((word & PTE_BUSY) || !(word & PTE_TRANSITION) ||
        pte_number(word) != (uint32_t)(frame - m->frames))
        return false;
    return pte_try_busy(&m->sync, frame->pte, word);
}

static void repurpose(struct machine *m, unsigned count, const uint32_t *frames)
{
    pte_t *ptes[REFILL_BATCH];
    uintptr_t vas[REFILL_BATCH];
    uint32_t slots[REFILL_BATCH];

    for (unsigned i = 0; i < count; i++) {
        struct frame *frame = &m->frames[frames[i]];

        ptes[i] = frame->pte;
        vas[i] = frame->va;
        slots[i] = frame->slot;
        check_always(slots[i] != 0);
    }
    /* The content is in the slot: the PTE says so before the frame can be anything else. A fault on
     * the page may have been given up: SIGBUS stays due. */
    for (unsigned i = 0; i < count; i++)
        pte_release(m, ptes[i], vas[i],
                    pte_make(PTE_PAGEFILE, slots[i]) |
                        (pte_load(ptes[i]) & (PTE_BAD | PTE_HISTORY)));
    frame_free(m, count, frames, false);
}

unsigned refill_standby(struct machine *m, unsigned want)
{
    uint32_t frames[REFILL_BATCH];
    unsigned done = 0;

    if (!m->tunables.batching)
        want = 1;
    for (unsigned p = 0; p < STANDBY_PRIORITIES && done < want;) {
        unsigned batch = want - done < REFILL_BATCH ? want - done : REFILL_BATCH, got = 0;

        if (list_count(m, LIST_STANDBY + p) > 0)
            got = framelist_pop(m, LIST_STANDBY + p, FRAME_TRANSIT, batch, frames, refill_claim);
        if (got == 0) {
            p++;
            continue;
        }
        repurpose(m, got, frames);
        batch_stats_add(&m->counters->repurposes, got);
        done += got;
    }
    if (done > 0)
        count(m, COUNTER_pages_repurposed, done);
    return done;
}

/* How much stock the refiller keeps: cache room, or frames that are free. */
static unsigned refill_target(struct machine *m)
{
    unsigned target = m->mapper->has_cache ? cache_size(m) / 8 : m->frame_count / 64;

    return target < 1 ? 1 : target > 1024 ? 1024 : target;
}

static int64_t refill_stock(struct machine *m)
{
    return atomic_load(m->mapper->has_cache ? &m->cache_room : &m->available);
}

bool refill_needed(struct machine *m)
{
    return refill_stock(m) < (int64_t)refill_target(m) && standby_count(m) > 0;
}

bool refill_step(struct machine *m)
{
    int64_t stock = refill_stock(m), target = 2 * (int64_t)refill_target(m);
    unsigned done = 0;

    slot_release_deferred(m);
    if (stock < target)
        done = refill_standby(m, (unsigned)(target - stock));
    machine_balance(m, &m->refill_worker);
    return done > 0 && refill_needed(m);
}

bool zero_needed(struct machine *m)
{
    uint32_t target = m->frame_count / 16;

    if (!m->mapper->real_frames || !m->tunables.deferred)
        return false;
    if (target > 4096)
        target = 4096;
    return list_count(m, LIST_ZERO) < target / 2 && list_count(m, LIST_FREE) > ZERO_BATCH;
}

bool zero_step(struct machine *m)
{
    uint32_t frames[ZERO_BATCH];
    unsigned rights, got = 0;

    if (!zero_needed(m))
        return false;
    rights = frame_reserve(m, ZERO_BATCH);
    if (rights > 0)
        got = framelist_pop(m, LIST_FREE, FRAME_TRANSIT, rights, frames, NULL);
    for (unsigned i = 0; i < got; i++)
        m->mapper->ops->zero(m->mapper, frames[i]);
    framelist_push(m, LIST_ZERO, FRAME_ZERO, got, frames);
    frame_unreserve(m, rights);
    count(m, COUNTER_pages_zeroed, got);
    return got > 0;
}

void slot_release(struct machine *m, uint32_t slot)
{
    struct slot_ring *ring = &m->slot_ring;
    bool kept = false;

    if (m->tunables.deferred && sync_mutex_trylock(&m->sync, &ring->lock, SYNC_HANDOVER)) {
        if (ring->count < SLOT_RING) {
            ring->slots[ring->count++] = slot;
            kept = true;
        }
        sync_mutex_unlock(&m->sync, &ring->lock, SYNC_HANDOVER);
    }
    if (!kept)
        pagefile_release(m, slot);
}

void slot_release_deferred(struct machine *m)
{
    struct slot_ring *ring = &m->slot_ring;
    uint32_t slots[SLOT_RING];
    unsigned n;

    sync_mutex_lock(&m->sync, &ring->lock, SYNC_HANDOVER);
    n = ring->count;
    for (unsigned i = 0; i < n; i++)
        slots[i] = ring->slots[i];
    ring->count = 0;
    sync_mutex_unlock(&m->sync, &ring->lock, SYNC_HANDOVER);
    for (unsigned i = 0; i < n; i++)
        pagefile_release(m, slots[i]);
}
