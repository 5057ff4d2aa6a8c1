/* machine_check(): do the books balance? */
#include "core/machine.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "core/error.h"

#define WRONG_LINES_MAX 20u

struct audit {
    unsigned wrong;
    uint64_t *owned;                   /* a bit for each slot: it has an owner */
    uint64_t slots_end;                /* bits of it */
    uint64_t slots;                    /* owned by a PTE or a frame */
    uint64_t valid, transition, paged; /* PTEs by format */
    uint64_t by_state[FRAME_STATE_COUNT];
    uint64_t pins;   /* on all frames */
    uint64_t commit; /* pages that the regions have been promised */
    int32_t guarded; /* sections with PROTECTED pages */
};

__attribute__((format(printf, 2, 3))) static void wrong(struct audit *a, const char *format, ...)
{
    char text[200];
    va_list args;

    if (++a->wrong > WRONG_LINES_MAX)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    log_line(LOG_ERROR, "check: %s", text);
}

/* A slot has one owner: a page that is in the pagefile, or a frame. */
static void audit_slot(struct machine *m, struct audit *a, uint32_t slot, const char *owner)
{
    uint64_t bit = UINT64_C(1) << (slot % 64);

    if (slot >= a->slots_end) {
        wrong(a, "slot %u is owned by a %s but beyond the pagefile", slot, owner);
        return;
    }
    if (a->owned[slot / 64] & bit) {
        wrong(a, "slot %u is owned by a %s and something else", slot, owner);
        return;
    }
    a->owned[slot / 64] |= bit;
    a->slots++;
    if (!bitmap_test(&m->pagefile.slots, slot))
        wrong(a, "slot %u is owned by a %s but not taken", slot, owner);
}

static void audit_pte(struct machine *m, struct audit *a, const struct region *region, size_t i)
{
    pte_t *pte = &region->table->ptes[i];
    uint64_t word = pte_load(pte);
    const struct frame *frame;

    if (word & PTE_BUSY)
        wrong(a, "page %p is busy while nothing runs",
              (void *)(region->table->base + i * PAGE_SIZE));
    if (word & PTE_PAGEFILE) {
        a->paged++;
        audit_slot(m, a, pte_number(word), "page");
    }
    if (!(word & (PTE_VALID | PTE_TRANSITION)))
        return;
    if (pte_number(word) >= m->frame_count) {
        wrong(a, "page %p names frame %u", (void *)(region->table->base + i * PAGE_SIZE),
              pte_number(word));
        return;
    }
    frame = &m->frames[pte_number(word)];
    a->valid += (word & PTE_VALID) != 0;
    a->transition += (word & PTE_TRANSITION) != 0;
    if (frame->pte != pte || frame->va != region->table->base + i * PAGE_SIZE)
        wrong(a, "frame %u is named by page %p but belongs to %p", pte_number(word),
              (void *)(region->table->base + i * PAGE_SIZE), (void *)frame->va);
    if ((word & PTE_VALID) ? frame->state != FRAME_ACTIVE
                           : frame->state != FRAME_STANDBY && frame->state != FRAME_MODIFIED)
        wrong(a, "frame %u of page %p is %s", pte_number(word), (void *)frame->va,
              frame_state_name(frame->state));
    if ((word & PTE_PROTECTED) && frame->slot == 0)
        wrong(a, "page %p is marked unchanged, but has no slot", (void *)frame->va);
    if (((word & PTE_PINNED) != 0) != (atomic_load(&frame->pins) > 0))
        wrong(a, "page %p is marked pinned or not, unlike its frame", (void *)frame->va);
}

/* How many pages of a section have that flag, whatever region they belong to. */
static int32_t pages_with(const struct pagetable *table, size_t n, uint64_t flag)
{
    size_t end = (n + 1) * SECTION_PAGES < table->pages ? (n + 1) * SECTION_PAGES : table->pages;
    int32_t pages = 0;

    for (size_t i = n * SECTION_PAGES; i < end; i++)
        pages += (pte_load(&table->ptes[i]) & flag) != 0;
    return pages;
}

static void audit_section(struct machine *m, struct audit *a, const struct region *region, size_t n)
{
    struct pagetable *table = region->table;
    size_t low = pagetable_index(table, region->start), high = pagetable_index(table, region->end);
    int32_t valid = pages_with(table, n, PTE_VALID),
            counted = atomic_load(&table->sections[n].valid);
    int32_t guarded = pages_with(table, n, PTE_PROTECTED);

    if (guarded != atomic_load(&table->sections[n].guarded))
        wrong(a, "%d pages of the section at %p are protected, but %d are counted", guarded,
              (void *)(table->base + n * SECTION_PAGES * PAGE_SIZE),
              atomic_load(&table->sections[n].guarded));
    if (valid != counted)
        wrong(a, "%d pages of the section at %p are valid, but %d are counted", valid,
              (void *)(table->base + n * SECTION_PAGES * PAGE_SIZE), counted);
    if (atomic_load(&table->sections[n].large) && valid < (int32_t)SECTION_PAGES)
        wrong(a, "only %d pages of the large section at %p are valid", valid,
              (void *)(table->base + n * SECTION_PAGES * PAGE_SIZE));
    for (size_t i = n * SECTION_PAGES; i < (n + 1) * SECTION_PAGES; i++) {
        bool first = guarded > 0 && (pte_load(&table->ptes[i]) & PTE_PROTECTED);

        guarded = first ? 0 : guarded;
        if (i < low || i >= high)
            continue;
        a->guarded += first; /* the section's first lies in one region only */
        audit_pte(m, a, region, i);
        if ((pte_load(&table->ptes[i]) & PTE_VALID) &&
            !(atomic_load(&table->sections[n].groups) & group_bit(i)))
            wrong(a, "page %p is valid, but its group is passed over",
                  (void *)(table->base + i * PAGE_SIZE));
    }
}

static void audit_pages(struct machine *m, struct audit *a)
{
    for (unsigned r = 0; r < m->region_count; r++) {
        const struct region *region = m->regions[r];
        size_t low = pagetable_index(region->table, region->start);
        size_t high = pagetable_index(region->table, region->end);
        size_t n = low / SECTION_PAGES, end = (high + SECTION_PAGES - 1) / SECTION_PAGES;
        uint64_t content = a->valid + a->transition + a->paged;

        for (; pagetable_next_section(region->table, &n, end); n++)
            audit_section(m, a, region, n);
        content = a->valid + a->transition + a->paged - content;
        a->commit += region->table->overcommit ? content : high - low;
    }
    if (a->guarded != atomic_load(&m->guarded))
        wrong(a, "%d sections have protected pages, but %d are counted", a->guarded,
              atomic_load(&m->guarded));
}

static void audit_frames(struct machine *m, struct audit *a)
{
    uint64_t on_lists[FRAME_STATE_COUNT] = {0};

    for (uint32_t n = 0; n < m->frame_count; n++) {
        const struct frame *frame = &m->frames[n];

        a->by_state[frame->state]++;
        a->pins += atomic_load(&frame->pins);
        if (frame->slot != 0)
            audit_slot(m, a, frame->slot, "frame");
        if (frame->state == FRAME_TRANSIT || frame->state == FRAME_WRITING)
            wrong(a, "frame %u is %s while nothing runs", n, frame_state_name(frame->state));
    }
    on_lists[FRAME_FREE] = list_count(m, LIST_FREE);
    on_lists[FRAME_ZERO] = list_count(m, LIST_ZERO);
    on_lists[FRAME_STANDBY] = standby_count(m);
    on_lists[FRAME_MODIFIED] = list_count(m, LIST_MODIFIED);
    on_lists[FRAME_ACTIVE] = (uint64_t)atomic_load(&m->active);
    on_lists[FRAME_WRITING] = (uint64_t)atomic_load(&m->writing);
    for (unsigned s = 0; s < FRAME_STATE_COUNT; s++) {
        if (on_lists[s] != a->by_state[s])
            wrong(a, "%llu frames are %s but %llu are counted so",
                  (unsigned long long)a->by_state[s], frame_state_name(s),
                  (unsigned long long)on_lists[s]);
    }
    for (unsigned id = 0; id < LIST_COUNT; id++) {
        unsigned faults = framelist_check(m, id);

        if (faults > 0)
            wrong(a, "list %u is not whole (%u faults)", id, faults);
    }
}

static void audit_rights(struct machine *m, struct audit *a)
{
    int64_t available = atomic_load(&m->available), room = atomic_load(&m->cache_room);
    int64_t active = atomic_load(&m->active);
    int64_t content = (int64_t)(a->valid + a->transition + a->paged);
    int64_t cached = (int64_t)(a->by_state[FRAME_STANDBY] + a->by_state[FRAME_MODIFIED]);
    int64_t lent = (int64_t)atomic_load(&m->lent.buffers);
    int64_t expected = m->mapper->has_cache
                           ? (int64_t)m->active_max + lent_frames(m) - large_kept(m) - active
                           : (int64_t)(a->by_state[FRAME_FREE] + a->by_state[FRAME_ZERO]);

    if (available != expected)
        wrong(a, "%lld frames are available, should be %lld", (long long)available,
              (long long)expected);
    if (m->mapper->has_cache && room != (int64_t)cache_size(m) - cached)
        wrong(a, "%lld buffers of the cache are free, should be %lld", (long long)room,
              (long long)cache_size(m) - (long long)cached);
    if (m->mapper->has_cache && (int64_t)freestack_taken(&m->buffers) != cached + lent)
        wrong(a, "%u buffers are taken, should be %lld", freestack_taken(&m->buffers),
              (long long)cached + (long long)lent);
    if (atomic_load(&m->ahead_room) != (int64_t)ahead_most(m))
        wrong(a, "%lld pages may be read ahead, should be %u",
              (long long)atomic_load(&m->ahead_room), ahead_most(m));
    if (a->valid != a->by_state[FRAME_ACTIVE])
        wrong(a, "%llu pages are valid, but %llu frames active", (unsigned long long)a->valid,
              (unsigned long long)a->by_state[FRAME_ACTIVE]);
    if ((int64_t)a->transition != cached)
        wrong(a, "%llu pages are in transition, but %lld frames trimmed",
              (unsigned long long)a->transition, (long long)cached);
    if (content != atomic_load(&m->touched))
        wrong(a, "%lld pages have content, but %lld are counted", (long long)content,
              (long long)atomic_load(&m->touched));
}

static void audit_slots(struct machine *m, struct audit *a)
{
    uint64_t used = atomic_load(&m->pagefile.slots.used);
    uint64_t bad = atomic_load(&m->pagefile.bad);

    if (used != a->slots + bad + 1)
        wrong(a, "%llu slots are taken; %llu are owned, %llu bad, and slot 0",
              (unsigned long long)used, (unsigned long long)a->slots, (unsigned long long)bad);
}

static void audit_promises(struct machine *m, struct audit *a)
{
    uint64_t commit;

    sync_mutex_lock(&m->sync, &m->pagefile.commit_lock, SYNC_COMMIT);
    commit = m->pagefile.commit;
    sync_mutex_unlock(&m->sync, &m->pagefile.commit_lock, SYNC_COMMIT);
    if (commit != a->commit)
        wrong(a, "%llu pages have been promised to the regions, but %llu are committed",
              (unsigned long long)a->commit, (unsigned long long)commit);
    if (a->pins != (uint64_t)atomic_load(&m->pinned))
        wrong(a, "frames have %llu pins, but %lld are counted", (unsigned long long)a->pins,
              (long long)atomic_load(&m->pinned));
}

/* Stop everything: no fault in flight, no worker in a step, no write under way. */
void machine_stop(struct machine *m)
{
    atomic_fetch_add(&m->gate_closing, 1);
    for (;;) {
        uint32_t key = sync_event_prepare(&m->sync, &m->writer.idle);

        sync_rwlock_write(&m->sync, &m->gate, SYNC_GATE);
        if (m->writer.in_flight == 0 && atomic_load(&m->large.pending) == 0) {
            sync_event_cancel(&m->writer.idle);
            return;
        }
        sync_rwlock_unwrite(&m->sync, &m->gate, SYNC_GATE);
        worker_kick(&m->write_worker);
        sync_event_wait(&m->sync, &m->writer.idle, key, 0);
    }
}

void machine_go(struct machine *m)
{
    sync_rwlock_unwrite(&m->sync, &m->gate, SYNC_GATE);
    sync_yield(&m->sync, SYNC_AT_ATOMIC);
    atomic_fetch_sub(&m->gate_closing, 1);
    sync_unpark(&m->sync, &m->gate_closing, INT32_MAX);
    machine_balance(m, NULL);
}

int machine_check(struct machine *m)
{
    struct audit a = {0};
    size_t bytes;

    machine_stop(m);
    a.slots_end = atomic_load(&m->pagefile.slots.limit);
    bytes = (a.slots_end / 64 + 1) * sizeof(*a.owned);
    a.owned = m->platform->reserve(bytes);
    if (a.owned == NULL) {
        machine_go(m);
        return error_set(-ENOMEM, "check: no address space to mark %llu slots",
                         (unsigned long long)a.slots_end);
    }
    slot_release_deferred(m);
    sync_rwlock_write(&m->sync, &m->regions_lock, SYNC_REGIONS);
    audit_pages(m, &a);
    sync_rwlock_unwrite(&m->sync, &m->regions_lock, SYNC_REGIONS);
    audit_frames(m, &a);
    audit_rights(m, &a);
    audit_slots(m, &a);
    audit_promises(m, &a);
    machine_go(m);
    m->platform->release(a.owned, bytes);
    if (a.wrong > 0)
        return error_set(-EUCLEAN, "the books do not balance: %u things are wrong", a.wrong);
    return 0;
}
