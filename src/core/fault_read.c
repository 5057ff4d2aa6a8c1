/* Faults that read from the pagefile. */
#include "core/fault.h"

#include <errno.h>

#include "core/check.h"
#include "core/error.h"
#include "core/fault_internal.h"
#include "core/machine.h"

#define READ_TRIES 3u
#define REAP_AT_ONCE 32u

/* The slot of page i of the run, which is BUSY by us. */
static uint32_t slot_of(const struct fault *f, unsigned i)
{
    return pte_number(pte_load(pagetable_pte(f->table, f->va + i * PAGE_SIZE)));
}

/* Where page i is read into. */
static void *content_of(const struct machine *m, const struct fault *f, unsigned i)
{
    return stage_content(m->mapper, &f->stage, f->frames, i);
}

static bool is_broken(const struct fault *f, unsigned i)
{
    return f->broken >> i & 1;
}

/* Add page i to the last piece if it continues it and is not to be read alone, or begin another.
 * False: no piece is left. */
static bool add_piece(const struct machine *m, struct fault *f, unsigned i, bool alone,
                      unsigned *iovs)
{
    struct store_io *io = f->pieces > 0 ? &f->ios[f->pieces - 1] : NULL;
    struct iovec *last = io != NULL ? &io->iov[io->iovcnt - 1] : NULL;
    char *content = content_of(m, f, i);
    uint32_t slot = slot_of(f, i);

    if (io == NULL || alone || io->slot + io->count != slot) {
        if (f->pieces == FAULT_PIECES)
            return false;
        io = &f->ios[f->pieces++];
        *io = (struct store_io){.slot = slot, .iov = &f->iovs[*iovs], .owner = f};
        last = NULL;
    }
    io->count++;
    if (last != NULL && (char *)last->iov_base + last->iov_len == content) {
        last->iov_len += PAGE_SIZE;
        return true;
    }
    f->iovs[(*iovs)++] = (struct iovec){.iov_base = content, .iov_len = PAGE_SIZE};
    io->iovcnt++;
    return true;
}

/* Hand to the store what has been prepared: one system call for the reads of many faults. */
static void send_reads(struct machine *m, struct fault_queue *queue)
{
    unsigned n = queue->unsent_count;

    if (n == 0)
        return;
    queue->unsent_count = 0;
    m->pagefile.store->ops->submit(queue->store, queue->unsent, n);
    count(m, COUNTER_read_ios, n);
    count(m, COUNTER_read_submits, 1);
}

void fault_add_reads(struct machine *m, struct fault_queue *queue, struct fault *f)
{
    f->pending = f->pieces;
    for (unsigned i = 0; i < f->pieces; i++) {
        if (queue->unsent_count == FAULT_UNSENT_MAX)
            send_reads(m, queue);
        queue->unsent[queue->unsent_count++] = &f->ios[i];
    }
}

/* Page i of the run, BUSY by us, as it was but for its flags. */
static uint64_t page_word(struct fault *f, unsigned i)
{
    uint64_t word = pte_load(pagetable_pte(f->table, f->va + i * PAGE_SIZE));

    return pte_make(PTE_PAGEFILE, pte_number(word)) | (word & PTE_HISTORY);
}

/* Give up the pages of the run from `from` on: they stay in the pagefile. */
static void give_up_pages(struct machine *m, struct fault *f, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        uintptr_t va = f->va + i * PAGE_SIZE;

        pte_release(m, pagetable_pte(f->table, va), va, page_word(f, i));
    }
}

/* How many slots, from page `from` outwards, can be read in FAULT_PIECES pieces. */
static void limit_pieces(struct machine *m, struct fault *f, unsigned from)
{
    unsigned low = from, high = from, pieces = 1;

    while (high + 1 < f->count) {
        pieces += slot_of(f, high + 1) != slot_of(f, high) + 1;
        if (pieces > FAULT_PIECES)
            break;
        high++;
    }
    while (low > 0) {
        pieces += slot_of(f, low) != slot_of(f, low - 1) + 1;
        if (pieces > FAULT_PIECES)
            break;
        low--;
    }
    give_up_pages(m, f, high + 1, f->count);
    give_up_pages(m, f, 0, low);
    f->va += low * PAGE_SIZE;
    f->count = high - low + 1;
    if (f->wanted < RUN_MAX)
        f->wanted -= low;
}

/* There is staging for `room` pages only: give up the others, and of page `from` and those before
 * it last. */
static void keep_pages(struct machine *m, struct fault *f, unsigned from, unsigned room)
{
    unsigned front = from >= room ? from + 1 - room : 0;

    give_up_pages(m, f, 0, front);
    give_up_pages(m, f, front + room, f->count);
    frame_free(m, f->count - room, f->frames + room, true);
    f->va += front * PAGE_SIZE;
    f->count = room;
    if (f->wanted < RUN_MAX)
        f->wanted -= front;
}

/*
 * The run f->va, f->count is BUSY by us and `rights` frames have been reserved for it: get frames
 * and staging, prepare the reads. What there is no room for is given up, of what is next to page
 * `from` last.
 */
static enum fault_result read_run(struct machine *m, struct fault_queue *queue, struct fault *f,
                                  unsigned rights, unsigned from)
{
    uintptr_t va = f->va + from * PAGE_SIZE;
    unsigned room, iovs = 0;

    limit_pieces(m, f, from);
    frame_unreserve(m, rights - f->count);
    frame_take(m, f->count, f->frames, false);
    room = m->mapper->ops->stage_take(m->mapper, f->count, f->frames, &f->stage);
    if (room < f->count) {
        atomic_store_explicit(&m->lent.stage_short, 1, memory_order_relaxed);
        keep_pages(m, f, (unsigned)((va - f->va) >> PAGE_SHIFT), room);
        if (room == 0) {
            m->mapper->ops->stage_give(m->mapper, &f->stage);
            fault_put(queue, f);
            return FAULT_NO_FRAME;
        }
    }
    f->pieces = 0;
    f->tries = 0;
    f->broken = 0;
    for (unsigned i = 0; i < f->count; i++)
        check_always(add_piece(m, f, i, false, &iovs));
    queue->in_flight++;
    fault_add_reads(m, queue, f);
    return FAULT_PENDING;
}

/* Own the pages on both sides of va, which is BUSY by us, that are to come with it, `most` in all;
 * as extend_run(). */
static unsigned extend_around(struct machine *m, const struct region *region, uintptr_t va,
                              const struct stream_plan *plan, unsigned most, uintptr_t *first)
{
    unsigned behind = plan->behind < most ? plan->behind : most - 1, before = plan->before;
    unsigned got = extend_run(m, region, va, 1, 1 + behind, PTE_PAGEFILE, first);

    most -= got;
    if (before > most)
        before = most;
    return got - 1 + extend_run(m, region, va, -1, 1 + before, PTE_PAGEFILE, first);
}

enum fault_result fault_read_begin(struct machine *m, struct fault_queue *queue,
                                   struct region *region, uintptr_t va, uint64_t word,
                                   unsigned flags, uint32_t thread, uint64_t started)
{
    struct stream_plan plan;
    struct fault *f;
    unsigned rights, covered;

    plan_window(m, region, va, thread, false, &plan);
    if (goes_by_sections(&plan) && large_begins(m, region, va, plan.stride) && !(word & PTE_BAD)) {
        enum large_result result = large_read_begin(m, queue, region, va, flags, thread, started);

        if (result == LARGE_SOON)
            return FAULT_NO_FRAME;
        if (result == LARGE_DONE) {
            send_reads(m, queue); /* before memory is sought for more */
            window_read(m, queue, region, va, thread, &plan, SECTION_PAGES);
            return FAULT_PENDING;
        }
    }
    plan_around(m, region, va, pte_number(word), &plan);
    rights = frame_reserve(m, plan_run(m, region, va, &plan));
    if (rights == 0)
        return FAULT_NO_FRAME;
    if (!pte_try_busy(&m->sync, pagetable_pte(region->table, va), word)) {
        frame_unreserve(m, rights);
        return FAULT_BUSY;
    }
    if (word & PTE_BAD)
        m->mapper->ops->unfail(m->mapper, va);
    f = fault_get(m, queue);
    f->table = region->table;
    f->flags = flags;
    f->thread = thread;
    f->started = started;
    f->count = is_around(&plan)
                   ? extend_around(m, region, va, &plan, rights, &f->va)
                   : extend_run(m, region, va, plan.stride, rights, PTE_PAGEFILE, &f->va);
    f->wanted = (unsigned)((va - f->va) >> PAGE_SHIFT);
    if (read_run(m, queue, f, rights, f->wanted) != FAULT_PENDING)
        return FAULT_NO_FRAME;
    around_asked(region->table, va, flags);
    covered = plan.stride > 0 ? f->count - f->wanted : f->wanted + 1;
    if (is_around(&plan)) {
        plan.before = f->wanted;
        plan.behind = f->count - f->wanted - 1;
        covered = 1;
    }
    window_read(m, queue, region, va, thread, &plan, covered);
    return FAULT_PENDING;
}

unsigned read_ahead(struct machine *m, struct fault_queue *queue, struct region *region,
                    uintptr_t va, int stride, unsigned most)
{
    pte_t *pte = pagetable_pte(region->table, va);
    uint64_t word = pte_load(pte);
    unsigned rights;
    struct fault *f;

    if ((word & (PTE_BUSY | PTE_PAGEFILE | PTE_BAD)) != PTE_PAGEFILE || queue->free == NULL ||
        queue->ahead == FAULT_AHEAD_MAX)
        return 0;
    rights = frame_reserve_ahead(m, most < RUN_MAX ? most : RUN_MAX);
    if (rights == 0)
        return 0;
    if (!pte_try_busy(&m->sync, pte, word)) {
        frame_unreserve(m, rights);
        frame_ahead_done(m, rights);
        return 0;
    }
    f = fault_get(m, queue);
    f->table = region->table;
    f->flags = FAULT_AHEAD;
    f->thread = 0;
    f->wanted = RUN_MAX;
    f->started = 0;
    f->count = extend_run(m, region, va, stride, rights, PTE_PAGEFILE, &f->va);
    if (read_run(m, queue, f, rights, stride > 0 ? 0 : f->count - 1) != FAULT_PENDING) {
        frame_ahead_done(m, rights);
        return 0;
    }
    frame_ahead_done(m, rights - f->count);
    queue->ahead++;
    return f->count;
}

/* Note which pages of a finished round of reads are not what was written. */
static void verify(struct machine *m, struct fault *f)
{
    for (unsigned p = 0; p < f->pieces; p++) {
        const struct store_io *io = &f->ios[p];

        count(m, COUNTER_decrypt_errors, io->result == -EBADMSG);
        for (unsigned i = 0; i < f->count; i++) {
            uint32_t slot = slot_of(f, i);
            bool good = io->result == 0;

            if (slot < io->slot || slot >= io->slot + io->count)
                continue;
            if (good &&
                !hash_equal(hash_page(&m->key, content_of(m, f, i)), m->pagefile.hashes[slot])) {
                good = false;
                count(m, COUNTER_hash_errors, 1);
            }
            f->broken &= ~(UINT64_C(1) << i);
            f->broken |= (uint64_t)!good << i;
        }
    }
}

/* Read broken pages once more, each alone: one bad slot must not fail its neighbours, least of all
 * the page that was asked for. A round that mended some is not one of the tries, as it may not have
 * come to the others. True if reads are to be sent. */
static bool retry_broken(struct machine *m, struct fault_queue *queue, struct fault *f, bool mended)
{
    unsigned iovs = 0;

    if (!mended && ++f->tries >= READ_TRIES)
        return false;
    f->pieces = 0;
    if (f->wanted < f->count && is_broken(f, f->wanted))
        add_piece(m, f, f->wanted, true, &iovs);
    for (unsigned i = 0; i < f->count && f->pieces < FAULT_PIECES; i++) {
        if (is_broken(f, i) && i != f->wanted)
            add_piece(m, f, i, true, &iovs);
    }
    if (f->pieces == 0)
        return false;
    count(m, COUNTER_read_retries, f->pieces);
    fault_add_reads(m, queue, f);
    return true;
}

static const char *read_error_words(int result)
{
    if (result == 0)
        return "its content is not what was written (hash differs)";
    if (result == -EBADMSG)
        return "it does not decrypt: changed by somebody else, or damaged";
    if (result == -ENOMEM)
        return "no memory for the read (does a control group have less than this program needs?)";
    return "input/output error";
}

/* The content of a page can't be had. What was asked for gets SIGBUS; the rest is left for another
 * try. */
static bool read_failed(struct machine *m, struct fault *f, unsigned i)
{
    uintptr_t va = f->va + i * PAGE_SIZE;
    uint64_t word = page_word(f, i);
    uint32_t slot = slot_of(f, i);
    int result = 0;

    for (unsigned p = 0; p < f->pieces; p++) {
        if (f->ios[p].slot <= slot && slot < f->ios[p].slot + f->ios[p].count)
            result = f->ios[p].result;
    }
    if (i == f->wanted) {
        count(m, COUNTER_read_errors, 1);
        count(m, COUNTER_pages_lost, 1);
        count(m, COUNTER_faults_failed, (f->flags & FAULT_TRAP) != 0);
        error_set(-EIO, "the page at %p cannot be read back from slot %u of pagefile %s: %s",
                  (void *)va, slot, m->pagefile.store->where, read_error_words(result));
        log_repeated(&m->said_lost, LOG_ERROR,
                     "%s; after %u attempts the program gets SIGBUS for this page", error_last(),
                     f->tries);
        fault_fail_page(m, va);
        word |= PTE_BAD | PTE_UNREAD;
    }
    pte_release(m, pagetable_pte(f->table, va), va, word);
    return i == f->wanted;
}

static bool asked_for_all(const struct fault *f)
{
    return f->wanted == RUN_MAX && !(f->flags & FAULT_AHEAD);
}

/* Map pages [from, to) of the run, all read well. Returns how many were mapped. */
static unsigned read_map(struct machine *m, struct fault *f, unsigned from, unsigned to)
{
    bool written = f->flags & FAULT_WRITE && f->wanted >= from && f->wanted < to;
    uintptr_t va = f->va + from * PAGE_SIZE;
    bool keeps = pagefile_has_plenty(m);
    bool protect = !written && keeps && protect_begin(m, f->table, va, to - from);
    bool keep = keeps && (protect || m->tunables.dirty != DIRTY_PROTECT);
    void *content[RUN_MAX];
    unsigned done = 0;

    for (unsigned i = from; i < to; i++)
        content[i - from] = content_of(m, f, i);
    m->mapper->ops->map(m->mapper, va, to - from, f->frames + from, content,
                        protect ? MAP_PROTECTED : 0, &done);
    count(m, COUNTER_map_calls, 1);
    batch_stats_add(&m->counters->maps, done);
    section_add_valid(f->table, va, done);
    for (unsigned i = from; i < from + done; i++) {
        uintptr_t at = f->va + i * PAGE_SIZE;
        uint32_t slot = slot_of(f, i);

        frame_attach(m, f->frames[i], pagetable_pte(f->table, at), at, keep ? slot : 0);
        pte_release(m, pagetable_pte(f->table, at), at,
                    mapped_word(m, page_word(f, i), f->frames[i],
                                i == f->wanted || asked_for_all(f), protect));
        if (!keep)
            slot_release(m, slot);
    }
    if (protect)
        protect_end(m, f->table, va + done * PAGE_SIZE, to - from - done);
    return done;
}

/* All reads of f have been reaped. False: sent again, or else the outcome is in *failed. */
static bool fault_read_finish(struct machine *m, struct fault_queue *queue, struct fault *f,
                              unsigned *failed)
{
    uint64_t before = f->broken;
    unsigned i = 0, mapped = 0;

    verify(m, f);
    if (f->broken != 0 && retry_broken(m, queue, f, (before & ~f->broken) != 0))
        return false;
    while (i < f->count) {
        unsigned to = i, done;

        while (to < f->count && !is_broken(f, to))
            to++;
        if (to > i) {
            done = read_map(m, f, i, to);
            mapped += done;
            frame_free(m, to - i - done, f->frames + i + done, true);
            give_up_pages(m, f, i + done, to);
            /* No memory: who sleeps in the fault was not mapped, so nothing else wakes it. */
            if (done < to - i && (f->flags & FAULT_TRAP))
                m->mapper->ops->wake(m->mapper, f->va, f->count * PAGE_SIZE);
            i = to;
            continue;
        }
        frame_free(m, 1, f->frames + i, true);
        if (read_failed(m, f, i) || asked_for_all(f))
            ++*failed;
        i++;
    }
    m->mapper->ops->stage_give(m->mapper, &f->stage);
    stage_given(m);
    count(m, COUNTER_pages_read, mapped);
    batch_stats_add(&m->counters->reads, f->count);
    if (f->wanted < f->count) {
        count(m, COUNTER_faults_hard, 1);
        if (mapped > 1)
            count(m, COUNTER_readahead_pages, mapped - 1);
        fault_timed(m, FAULT_KIND_HARD, f->started);
    } else if (f->flags & FAULT_AHEAD) {
        count(m, COUNTER_readahead_pages, mapped);
        frame_ahead_done(m, f->count);
        queue->ahead--;
    }
    return true;
}

/* Is all that is in flight one read, which has not been sent yet? */
static bool single_read(const struct fault_queue *queue)
{
    return queue->in_flight == 1 && queue->unsent_count == 1 &&
           ((const struct fault *)queue->unsent[0]->owner)->pending == 1;
}

/* Send what has been prepared, and fetch what is complete; a thread that would only wait for its
 * one read does it itself, if the store knows a quicker way for that. */
static unsigned exchange_reads(struct machine *m, struct fault_queue *queue, struct store_io **done,
                               unsigned max, bool wait)
{
    const struct store_ops *ops = m->pagefile.store->ops;

    if (wait && ops->transfer != NULL && single_read(queue)) {
        done[0] = queue->unsent[0];
        queue->unsent_count = 0;
        ops->transfer(queue->store, done[0]);
        count(m, COUNTER_read_ios, 1);
        count(m, COUNTER_read_submits, 1);
        return 1;
    }
    send_reads(m, queue);
    return ops->reap(queue->store, done, max, wait);
}

static void list_append(struct fault_list *list, struct fault *f)
{
    f->next = NULL;
    if (list->first == NULL)
        list->first = f;
    else
        list->last->next = f;
    list->last = f;
}

/* The next fault that is to be mapped, or NULL: first those that a thread waits for. */
static struct fault *list_take(struct fault_queue *queue)
{
    struct fault_list *list = queue->read.first != NULL ? &queue->read : &queue->read_ahead;
    struct fault *f = list->first;

    if (f != NULL)
        list->first = f->next;
    return f;
}

/* Send what has been prepared, and see which faults have all their reads by now. */
static void collect_reads(struct machine *m, struct fault_queue *queue, bool wait)
{
    struct store_io *done[REAP_AT_ONCE];
    unsigned n;

    do {
        n = exchange_reads(m, queue, done, REAP_AT_ONCE, wait);
        wait = false;
        for (unsigned i = 0; i < n; i++) {
            struct fault *f = done[i]->owner;

            check_always(f->pending > 0);
            if (--f->pending == 0)
                list_append(f->flags & FAULT_AHEAD ? &queue->read_ahead : &queue->read, f);
        }
    } while (n == REAP_AT_ONCE);
}

unsigned fault_reap(struct machine *m, struct fault_queue *queue, bool wait, unsigned *failed)
{
    unsigned finished = 0, failures = 0, pages = 0;

    while (queue->in_flight > 0 && pages < FAULT_REAP_PAGES) {
        struct fault *f;

        if (finished == 0 || !fault_queue_read(queue))
            collect_reads(m, queue, wait && finished == 0 && !fault_queue_read(queue));
        f = list_take(queue);
        if (f == NULL && (finished > 0 || !wait))
            break;
        if (f == NULL)
            continue;
        if (f->large != NULL)
            large_read_finish(m, queue, f);
        else if (!fault_read_finish(m, queue, f, &failures))
            continue;
        pages += f->count;
        fault_put(queue, f);
        queue->in_flight--;
        finished++;
    }
    /* The caller may sleep until what has been begun by these is back. A store without a descriptor
     * to poll has it back as soon as it is sent, and tells nobody. */
    if (finished > 0 && fault_queue_read(queue))
        send_reads(m, queue);
    else if (finished > 0)
        collect_reads(m, queue, false);
    if (failed != NULL)
        *failed += failures;
    return finished;
}

enum fault_result fault_begin_run(struct machine *m, struct fault_queue *queue, uintptr_t va,
                                  unsigned pages, unsigned *passed)
{
    enum fault_result result = FAULT_OUTSIDE;
    struct region *region;
    unsigned rights;
    struct fault *f;
    uint64_t word;
    pte_t *pte;

    *passed = 0;
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    region = region_find(m, va);
    if (region == NULL)
        goto out;
    pte = pagetable_pte(region->table, va);
    word = pte_load(pte);
    result = FAULT_DONE;
    if ((word & (PTE_VALID | PTE_BUSY)) == PTE_VALID) {
        *passed = 1;
        goto out;
    }
    result = FAULT_BUSY;
    if ((word & PTE_BUSY) || !(word & PTE_PAGEFILE) || (word & PTE_BAD))
        goto out;
    result = FAULT_NO_FRAME;
    rights = frame_reserve(m, pages < RUN_MAX ? pages : RUN_MAX);
    if (rights == 0)
        goto out;
    if (!pte_try_busy(&m->sync, pte, word)) {
        frame_unreserve(m, rights);
        result = FAULT_BUSY;
        goto out;
    }
    f = fault_get(m, queue);
    f->table = region->table;
    f->flags = FAULT_EXPLICIT;
    f->thread = 0;
    f->wanted = RUN_MAX;
    f->started = sync_now(&m->sync);
    f->count = extend_run(m, region, va, 1, rights, PTE_PAGEFILE, &f->va);
    result = read_run(m, queue, f, rights, 0);
    if (result == FAULT_PENDING)
        *passed = f->count;
out:
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    return result;
}
