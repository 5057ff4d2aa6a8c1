#include "sim/disk.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "sim/arena.h"

#define SLOT ((size_t)4096)

struct request {
    struct sim_event event;
    struct disk_queue *queue;
    struct store_io *io;
    bool early; /* a write's content is taken when it is sent, not when it completes */
};

struct disk_queue {
    struct disk *disk;
    struct store_io *complete, **complete_end;
    unsigned under_way;
    _Atomic uint32_t word; /* never changes: what those sleep on who wait for a completion */
    _Atomic uint32_t *bell;
};

struct slot_state {
    uint8_t readers, writers; /* requests under way */
    bool harmed, unreadable, unwritable;
};

struct disk {
    struct store store; /* first */
    struct schedule *schedule;
    struct random random;
    struct disk_faults faults;
    struct slot_state *slots;
    char *content;
    struct request *requests;
    uint64_t capacity;    /* slots there is memory for */
    uint64_t full_until;  /* ns */
    unsigned fail_writes; /* so many writes to come fail */
    uint64_t made, harm;
    unsigned under_way;
};

static struct disk *disk_of(struct store *store)
{
    return (struct disk *)(void *)store;
}

static struct disk_queue *queue_of(struct store_queue *queue)
{
    return (struct disk_queue *)(void *)queue;
}

static char *slot_at(const struct disk *disk, uint64_t slot)
{
    return disk->content + slot * SLOT;
}

/* ---- what goes wrong ---- */

static bool happens(struct disk *disk, unsigned every)
{
    bool it_does = random_once_in(&disk->random, every);

    disk->made += it_does;
    return it_does;
}

static void harm(struct disk *disk, uint64_t slot)
{
    disk->harm += !disk->slots[slot].harmed;
    disk->slots[slot].harmed = true;
}

static void flip_bit(struct disk *disk, char *page)
{
    uint64_t bit = random_below(&disk->random, SLOT * 8);

    page[bit / 8] = (char)(page[bit / 8] ^ (1 << bit % 8));
}

static void garbage(struct disk *disk, char *page)
{
    if (disk->schedule->policy == SCHEDULE_CHOSEN) { /* states must not differ by it */
        memset(page, 0xa5, SLOT);
        return;
    }
    memset(page, (int)random_below(&disk->random, 256), SLOT);
    flip_bit(disk, page);
}

/* Page i of a request's memory. */
static char *io_page(const struct store_io *io, unsigned i)
{
    size_t at = i * SLOT;
    int n = 0;

    while (at >= io->iov[n].iov_len)
        at -= io->iov[n++].iov_len;
    return (char *)io->iov[n].iov_base + at;
}

/* Another slot with nothing under way, in use or not; 0: the first one tried was not so. */
static uint64_t stray_slot(struct disk *disk, uint64_t slot)
{
    uint64_t other = 1 + random_below(&disk->random, disk->store.slots - 1);

    if (other == slot || disk->slots[other].readers > 0 || disk->slots[other].writers > 0)
        return 0;
    return other;
}

static void write_slot(struct disk *disk, uint64_t slot, const char *page)
{
    uint64_t other = happens(disk, disk->faults.misplaced_every) ? stray_slot(disk, slot) : 0;

    if (other != 0) {
        memcpy(slot_at(disk, other), page, SLOT);
        harm(disk, other);
        harm(disk, slot);
        return;
    }
    if (happens(disk, disk->faults.lost_every)) {
        harm(disk, slot);
        return;
    }
    memcpy(slot_at(disk, slot), page, SLOT);
    disk->slots[slot].harmed = false;
    if (disk->slots[slot].unreadable)
        harm(disk, slot);
    if (happens(disk, disk->faults.rot_every)) {
        flip_bit(disk, slot_at(disk, slot));
        harm(disk, slot);
    }
    if (happens(disk, disk->faults.bad_every)) {
        if (random_once_in(&disk->random, 2)) {
            disk->slots[slot].unwritable = true;
        } else {
            disk->slots[slot].unreadable = true;
            harm(disk, slot);
        }
    }
}

/* A failed write leaves each slot as it was, written, or as garbage. */
static void tear(struct disk *disk, const struct store_io *io)
{
    for (unsigned i = 0; i < io->count; i++) {
        uint64_t slot = io->slot + i;

        switch (random_below(&disk->random, 3)) {
        case 0:
            break;
        case 1:
            memcpy(slot_at(disk, slot), io_page(io, i), SLOT);
            break;
        default:
            garbage(disk, slot_at(disk, slot));
        }
        harm(disk, slot); /* until it is written well */
    }
}

static int do_write(struct disk *disk, const struct store_io *io)
{
    if (disk->schedule->clock >= disk->full_until && happens(disk, disk->faults.full_every))
        disk->full_until = disk->schedule->clock + disk->faults.full_ns;
    if (disk->schedule->clock < disk->full_until)
        return -ENOSPC;
    for (unsigned i = 0; i < io->count; i++) {
        if (disk->slots[io->slot + i].unwritable) {
            tear(disk, io);
            return -EIO;
        }
    }
    if (disk->fail_writes > 0 || happens(disk, disk->faults.write_error_every)) {
        disk->fail_writes -= disk->fail_writes > 0;
        tear(disk, io);
        return -EIO;
    }
    for (unsigned i = 0; i < io->count; i++)
        write_slot(disk, io->slot + i, io_page(io, i));
    return 0;
}

static int do_read(struct disk *disk, const struct store_io *io)
{
    for (unsigned i = 0; i < io->count; i++) {
        if (disk->slots[io->slot + i].unreadable)
            return -EIO;
    }
    if (happens(disk, disk->faults.read_error_every))
        return -EIO;
    for (unsigned i = 0; i < io->count; i++) {
        memcpy(io_page(io, i), slot_at(disk, io->slot + i), SLOT);
        if (happens(disk, disk->faults.corrupt_every))
            flip_bit(disk, io_page(io, i));
    }
    return 0;
}

/* ---- requests ---- */

static void watch(struct disk *disk, const struct store_io *io, int change)
{
    for (unsigned i = 0; i < io->count; i++) {
        struct slot_state *slot = &disk->slots[io->slot + i];
        uint8_t *mine = io->write ? &slot->writers : &slot->readers;

        *mine = (uint8_t)(*mine + change);
        if (slot->writers > 1 || (slot->writers == 1 && slot->readers > 0))
            schedule_fail(disk->schedule, "a slot is written and used by another request at once");
    }
}

static void perform(struct disk *disk, struct store_io *io)
{
    io->result = io->write ? do_write(disk, io) : do_read(disk, io);
}

static void complete(void *argument)
{
    struct request *r = argument;
    struct disk_queue *queue = r->queue;
    struct disk *disk = queue->disk;
    struct store_io *io = r->io;

    if (!r->early)
        perform(disk, io);
    watch(disk, io, -1);
    r->io = NULL;
    io->next = NULL;
    *queue->complete_end = io;
    queue->complete_end = &io->next;
    queue->under_way--;
    disk->under_way--;
    schedule_unpark(disk->schedule, &queue->word, INT32_MAX);
    if (queue->bell != NULL) {
        atomic_fetch_add(queue->bell, 1);
        schedule_unpark(disk->schedule, queue->bell, INT32_MAX);
    }
}

static uint64_t latency(struct disk *disk)
{
    if (happens(disk, disk->faults.hang_every))
        return disk->faults.hang_ns;
    if (disk->faults.latency_min == disk->faults.latency_max)
        return disk->faults.latency_min;
    return random_between(&disk->random, disk->faults.latency_min, disk->faults.latency_max);
}

static void send(struct disk_queue *queue, struct store_io *io)
{
    struct disk *disk = queue->disk;
    struct request *r = disk->requests;

    while (r->io != NULL) {
        r++;
        if (r == disk->requests + DISK_REQUESTS)
            schedule_fail(disk->schedule, "more requests under way than there may ever be");
    }
    if (io->count == 0 || io->slot == 0 || io->slot + io->count > disk->store.slots)
        schedule_fail(disk->schedule, "a request lies outside the store");
    watch(disk, io, 1);
    *r = (struct request){.queue = queue, .io = io};
    r->event.happen = complete;
    r->event.argument = r;
    if (io->write && disk->schedule->policy != SCHEDULE_CHOSEN)
        r->early = random_once_in(&disk->random, 2);
    for (unsigned i = 0; i < io->count && !io->write; i++)
        garbage(disk, io_page(io, i)); /* nobody may look before the read is complete */
    if (r->early)
        perform(disk, io);
    queue->under_way++;
    disk->under_way++;
    schedule_at(disk->schedule, &r->event, disk->schedule->clock + latency(disk));
}

static void disk_submit(struct store_queue *base, struct store_io **ios, unsigned count)
{
    struct disk_queue *queue = queue_of(base);

    for (unsigned i = 0; i < count; i++) {
        schedule_yield(queue->disk->schedule, SYNC_AT_STEP);
        send(queue, ios[i]);
    }
}

static unsigned disk_reap(struct store_queue *base, struct store_io **done, unsigned max, bool wait)
{
    struct disk_queue *queue = queue_of(base);
    unsigned n = 0;

    schedule_yield(queue->disk->schedule, SYNC_AT_STEP);
    while (wait && queue->complete == NULL && queue->under_way > 0)
        schedule_park(queue->disk->schedule, &queue->word, 0, 0);
    while (n < max && queue->complete != NULL) {
        done[n] = queue->complete;
        queue->complete = done[n]->next;
        if (queue->complete == NULL)
            queue->complete_end = &queue->complete;
        n++;
    }
    return n;
}

static int disk_queue_open(struct store *store, unsigned depth, struct store_queue **out)
{
    struct disk_queue *queue = platform_sim.reserve(sizeof(*queue));

    (void)depth;
    queue->disk = disk_of(store);
    queue->complete_end = &queue->complete;
    *out = (struct store_queue *)(void *)queue;
    return 0;
}

static void disk_queue_close(struct store_queue *base)
{
    struct disk_queue *queue = queue_of(base);

    if (queue->under_way > 0 || queue->complete != NULL)
        schedule_fail(queue->disk->schedule, "a queue is closed with requests in it");
    platform_sim.release(queue, sizeof(*queue));
}

static int disk_queue_fd(struct store_queue *queue)
{
    (void)queue;
    return -1;
}

static int disk_grow(struct store *store, uint64_t slots)
{
    struct disk *disk = disk_of(store);

    if (slots <= store->slots)
        return 0;
    schedule_yield(disk->schedule, SYNC_AT_STEP);
    if (slots > disk->capacity || happens(disk, disk->faults.grow_error_every))
        return error_set(-ENOSPC, "the simulated disk has no room for %llu slots",
                         (unsigned long long)slots);
    store->slots = slots;
    return 0;
}

static void disk_close(struct store *store)
{
    struct disk *disk = disk_of(store);

    platform_sim.release(disk->requests, DISK_REQUESTS * sizeof(*disk->requests));
    platform_sim.release(disk->slots, disk->capacity * sizeof(*disk->slots));
    platform_sim.release(disk->content, disk->capacity * SLOT);
    platform_sim.release(disk, sizeof(*disk));
}

static const struct store_ops disk_ops = {
    .name = "simulated",
    .grow = disk_grow,
    .queue_open = disk_queue_open,
    .queue_close = disk_queue_close,
    .submit = disk_submit,
    .reap = disk_reap,
    .queue_fd = disk_queue_fd,
    .close = disk_close,
};

struct disk *disk_open(struct schedule *s, uint64_t seed, uint64_t slots, bool fixed,
                       const struct disk_faults *faults)
{
    struct disk *disk = platform_sim.reserve(sizeof(*disk));

    disk->store.ops = &disk_ops;
    disk->store.slots = slots;
    disk->store.can_grow = !fixed;
    disk->capacity = fixed ? slots : DISK_SLOTS_MAX;
    snprintf(disk->store.where, sizeof(disk->store.where), "(simulated)");
    disk->schedule = s;
    disk->random.state = seed;
    disk->faults = *faults;
    disk->requests = platform_sim.reserve(DISK_REQUESTS * sizeof(*disk->requests));
    disk->slots = platform_sim.reserve(disk->capacity * sizeof(*disk->slots));
    disk->content = platform_sim.reserve(disk->capacity * SLOT);
    return disk;
}

struct store *disk_store(struct disk *disk)
{
    return &disk->store;
}

void disk_behave(struct disk *disk)
{
    disk->faults = (struct disk_faults){.latency_min = disk->faults.latency_min,
                                        .latency_max = disk->faults.latency_max};
    disk->full_until = 0;
}

void disk_fail_writes(struct disk *disk, unsigned count)
{
    disk->fail_writes = count;
}

const void *disk_content(const struct disk *disk, uint64_t slot)
{
    return slot_at(disk, slot);
}

bool disk_harmed(const struct disk *disk, uint64_t slot)
{
    return disk->slots[slot].harmed;
}

uint64_t disk_faults_made(const struct disk *disk)
{
    return disk->made;
}

uint64_t disk_harm_done(const struct disk *disk)
{
    return disk->harm;
}

bool disk_busy(const struct disk *disk)
{
    return disk->under_way > 0;
}

void disk_queue_bell(struct store_queue *queue, _Atomic uint32_t *bell)
{
    queue_of(queue)->bell = bell;
}

bool disk_queue_ready(struct store_queue *queue)
{
    return queue_of(queue)->complete != NULL;
}
