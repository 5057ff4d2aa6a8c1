/*
 * Frame lists: order, removal from the middle, refusals, and many threads editing at once, with
 * shared and with exclusive locks.
 */
#include "machine_fixture.h"

#define THREADS 4u
#define ROUNDS 1500u

static void order(struct fixture *f)
{
    struct machine *m = f->m;
    uint32_t frames[6], out[6];

    is(framelist_pop(m, LIST_FREE, FRAME_TRANSIT, 6, frames, NULL), 6, "six frames off the head");
    is(m->frames[frames[0]].state, FRAME_TRANSIT, "they are in transit");
    framelist_push(m, LIST_ZERO, FRAME_ZERO, 4, frames);
    framelist_push(m, LIST_ZERO, FRAME_ZERO, 1, frames + 4);
    framelist_push(m, LIST_ZERO, FRAME_ZERO, 1, frames + 5);
    is(list_count(m, LIST_ZERO), 6, "pushed and counted");
    is(m->frames[frames[5]].state, FRAME_ZERO, "and in the list's state");
    framelist_remove(m, &m->frames[frames[2]]);
    is(m->frames[frames[2]].state, FRAME_ZERO, "a removed frame says where it was");
    m->frames[frames[2]].state = FRAME_TRANSIT;
    sync_mutex_unlock(&m->sync, &m->frames[frames[2]].lock, SYNC_FRAME);
    is(framelist_check(m, LIST_ZERO), 0, "the list is whole without its middle");
    framelist_remove(m, &m->frames[frames[2]]);
    is(atomic_load(&m->frames[frames[2]].list), LIST_NONE, "one that is on no list stays so");
    sync_mutex_unlock(&m->sync, &m->frames[frames[2]].lock, SYNC_FRAME);
    is(framelist_pop(m, LIST_ZERO, FRAME_TRANSIT, 6, out, NULL), 5, "five are left");
    ok(out[0] == frames[0] && out[1] == frames[1] && out[2] == frames[3] && out[3] == frames[4] &&
           out[4] == frames[5],
       "first in, first out");
    is(framelist_pop(m, LIST_ZERO, FRAME_TRANSIT, 6, out, NULL), 0, "an empty list has none");
    framelist_push(m, LIST_FREE, FRAME_FREE, 6, frames);
    is(framelist_check(m, LIST_FREE), 0, "the free list is whole");
}

static bool claim_even(struct machine *m, struct frame *frame)
{
    return (frame - m->frames) % 2 == 0;
}

static bool claim_none(struct machine *m, struct frame *frame)
{
    (void)frame;
    atomic_fetch_add(&m->touched, 1); /* spare while nothing is touched */
    return false;
}

static void claims(struct fixture *f)
{
    struct machine *m = f->m;
    uint32_t before = list_count(m, LIST_FREE), frames[8];
    unsigned odd = 0;

    is(framelist_pop(m, LIST_FREE, FRAME_TRANSIT, 8, frames, claim_even), 8, "claimed ones come");
    for (unsigned i = 0; i < 8; i++)
        odd += frames[i] % 2;
    is(odd, 0, "and only they");
    is(list_count(m, LIST_FREE), before - 8, "the others stay");
    is(framelist_check(m, LIST_FREE), 0, "in a whole list");
    framelist_push(m, LIST_FREE, FRAME_FREE, 8, frames);
    is(framelist_pop(m, LIST_FREE, FRAME_TRANSIT, 2, frames, claim_none), 0, "all are refused");
    is(atomic_exchange(&m->touched, 0), 4 * 2 + 64, "after a bounded search");
}

/* A frame that was written goes to its list, unless it was rescued meanwhile. */
static void returned(struct fixture *f)
{
    struct machine *m = f->m;
    uint32_t frames[4], slots[4] = {10, 11, 12, 13};
    pte_t pte = 0;
    bool kept[4];

    framelist_pop(m, LIST_FREE, FRAME_TRANSIT, 4, frames, NULL);
    for (unsigned i = 0; i < 4; i++) {
        m->frames[frames[i]].state = FRAME_WRITING;
        m->frames[frames[i]].slot = slots[i];
        m->frames[frames[i]].pte = &pte;
    }
    m->frames[frames[1]].state = FRAME_ACTIVE; /* rescued */
    m->frames[frames[2]].slot = 99;            /* rescued, trimmed and being written elsewhere */
    framelist_return(m, LIST_STANDBY, FRAME_STANDBY, 3, frames, slots, kept);
    ok(kept[0] && !kept[1] && !kept[2], "only who is still being written to that slot returns");
    is(list_count(m, LIST_STANDBY), 1, "it is on the list");
    is(m->frames[frames[0]].slot, 10, "with its slot");
    is(m->frames[frames[1]].state, FRAME_ACTIVE, "the rescued one is left alone");
    framelist_return(m, LIST_MODIFIED, FRAME_MODIFIED, 1, frames + 3, slots + 3, kept);
    is(m->frames[frames[3]].slot, 0, "one whose write failed goes to modified without a slot");
    for (unsigned i = 0; i < 4; i++) {
        framelist_remove(m, &m->frames[frames[i]]);
        m->frames[frames[i]].state = FRAME_TRANSIT;
        m->frames[frames[i]].slot = 0;
        m->frames[frames[i]].pte = NULL;
        sync_mutex_unlock(&m->sync, &m->frames[frames[i]].lock, SYNC_FRAME);
    }
    framelist_push(m, LIST_FREE, FRAME_FREE, 4, frames);
}

struct contest {
    struct fixture f;
    _Atomic unsigned seed;
    _Atomic unsigned removed, popped;
};

/* Take any frame out of the middle, if nobody else has it, and put it at the tail. */
static void *edit(void *argument)
{
    struct contest *c = argument;
    struct machine *m = c->f.m;
    unsigned state = atomic_fetch_add(&c->seed, 1) * 7919 + 1;

    for (unsigned i = 0; i < ROUNDS; i++) {
        struct frame *frame;
        uint32_t number;
        bool ours;

        state = state * 1103515245 + 12345;
        number = (state >> 16) % 24; /* few, so that neighbours leave at the same time */
        frame = &m->frames[number];
        framelist_remove(m, frame);
        ours = frame->state == FRAME_FREE || frame->state == FRAME_ZERO;
        if (ours)
            frame->state = FRAME_TRANSIT;
        sync_mutex_unlock(&m->sync, &frame->lock, SYNC_FRAME);
        if (ours)
            framelist_push(m, state & 1 ? LIST_FREE : LIST_ZERO,
                           state & 1 ? FRAME_FREE : FRAME_ZERO, 1, &number);
        c->removed += ours;
    }
    return NULL;
}

static void *pop_and_push(void *argument)
{
    struct contest *c = argument;
    struct machine *m = c->f.m;

    for (unsigned i = 0; i < ROUNDS / 4; i++) {
        uint32_t frames[7];
        unsigned n = framelist_pop(m, LIST_FREE, FRAME_TRANSIT, 7, frames, NULL);

        c->popped += n;
        framelist_push(m, LIST_ZERO, FRAME_ZERO, n, frames);
        n = framelist_pop(m, LIST_ZERO, FRAME_TRANSIT, 5, frames, NULL);
        framelist_push(m, LIST_FREE, FRAME_FREE, n, frames);
    }
    return NULL;
}

static void contention(const char *conf, const char *how)
{
    static struct contest c;
    pthread_t ids[THREADS];
    uint32_t all;

    memset(&c, 0, sizeof(c));
    set_up(&c.f, conf);
    all = c.f.m->frame_count;
    for (unsigned i = 0; i < THREADS; i++)
        pthread_create(&ids[i], NULL, i == 0 ? pop_and_push : edit, &c);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(ids[i], NULL);
    ok(c.removed > 0 && c.popped > 0, "%s: %u removals and %u pops", how, c.removed, c.popped);
    is(framelist_check(c.f.m, LIST_FREE) + framelist_check(c.f.m, LIST_ZERO), 0,
       "%s: the lists are whole", how);
    is(list_count(c.f.m, LIST_FREE) + list_count(c.f.m, LIST_ZERO), all, "%s: no frame is missing",
       how);
    tear_down(&c.f);
}

int main(void)
{
    static const char *const confs[] = {"shared_locks:on", "shared_locks:off"};

    for (size_t i = 0; i < 2; i++) {
        struct fixture f;

        set_up(&f, confs[i]);
        order(&f);
        claims(&f);
        returned(&f);
        tear_down(&f);
        contention(confs[i], confs[i]);
    }
    return done_testing();
}
