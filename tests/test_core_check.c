/*
 * The books: they balance while everything runs, and every kind of damage is found and named.
 */
#include <errno.h>
#include <fcntl.h>

#include "machine_fixture.h"

struct scene {
    struct fixture f;
    uintptr_t base;
    int log; /* what the check says */
};

/* Page 0 is active with a slot, 1 active without, 2 on standby, 3 modified, 4 in the pagefile. */
static void scene_set(struct scene *s)
{
    set_up(&s->f, "touch_window:1,read_window:1");
    s->base = map_pages(&s->f, 8);
    put(&s->f, s->base, 0, 1);
    put(&s->f, s->base, 4, 1);
    page_out(&s->f);
    put(&s->f, s->base, 2, 1);
    trim_all(&s->f);
    write_all(&s->f);
    put(&s->f, s->base, 3, 1);
    trim_all(&s->f);
    holds(&s->f, s->base, 0, 1);
    put(&s->f, s->base, 1, 1);
}

/* The check must fail and say `words` now; afterwards the test undoes the damage. */
static void found(struct scene *s, const char *what, const char *words)
{
    int usual = log_descriptor(), error;
    char text[8192];
    ssize_t n;

    if (ftruncate(s->log, 0) != 0 || lseek(s->log, 0, SEEK_SET) != 0)
        ok(false, "the log can be emptied");
    log_use_descriptor(s->log);
    error = machine_check(s->f.m);
    log_use_descriptor(usual);
    n = pread(s->log, text, sizeof(text) - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    is(error, -EUCLEAN, "%s is found", what);
    if (!ok(strstr(text, words) != NULL, "and named: \"%s\"", words))
        note("%s", text);
}

static void mended(struct scene *s, const char *what)
{
    if (machine_check(s->f.m) != 0)
        ok(false, "without %s the books balance again", what);
}

static void frame_damage(struct scene *s)
{
    struct machine *m = s->f.m;
    struct frame *frame = frame_at(&s->f, s->base, 1);
    struct frame *standby = frame_at(&s->f, s->base, 2);
    uintptr_t va = frame->va;
    uint32_t next;

    frame->state = FRAME_STANDBY;
    found(s, "a frame in a wrong state", "is standby");
    frame->state = FRAME_TRANSIT;
    found(s, "a frame that nobody has", "while nothing runs");
    frame->state = FRAME_ACTIVE;
    mended(s, "it");
    frame->va += PAGE;
    found(s, "a frame of another page", "but belongs to");
    frame->va = va;
    mended(s, "it");
    next = standby->next;
    standby->next = (uint32_t)(standby - m->frames);
    found(s, "a broken link", "is not whole");
    standby->next = next;
    mended(s, "it");
    next = m->frames[next].prev;
    m->frames[standby->next].prev = standby->next;
    found(s, "a broken link backwards", "is not whole");
    m->frames[standby->next].prev = next;
    mended(s, "it");
    next = m->frames[m->frames[m->lists[LIST_FREE].sentinel].next].next;
    va = m->frames[next].prev;
    m->frames[next].prev = (uint32_t)(frame - m->frames);
    found(s, "a neighbour that does not point back", "is not whole");
    m->frames[next].prev = (uint32_t)va;
    mended(s, "it");
    m->lists[LIST_MODIFIED].count++;
    found(s, "a list that counts wrong", "are counted so");
    m->lists[LIST_MODIFIED].count--;
    mended(s, "it");
    standby->list = LIST_FREE;
    found(s, "a frame that thinks it is on another list", "is not whole");
    standby->list = LIST_STANDBY + standby->priority;
    mended(s, "it");
}

static void page_damage(struct scene *s)
{
    pte_t *pte = pte_at(&s->f, s->base, 1);
    uint64_t word = pte_load(pte), other = word_at(&s->f, s->base, 0);

    *pte = word | PTE_BUSY;
    found(s, "a page left busy", "is busy while nothing runs");
    *pte = other;
    found(s, "a frame of two pages", "but belongs to");
    *pte = 0;
    found(s, "a page that has lost its frame", "pages are valid");
    *pte = pte_make(PTE_VALID, s->f.m->frame_count);
    found(s, "a page of a frame that does not exist", "names frame");
    *pte = word | PTE_PINNED;
    found(s, "a pin that nobody holds", "pinned or not");
    *pte = word;
    mended(s, "it");
    frame_at(&s->f, s->base, 1)->pins = 1;
    found(s, "a pin without its mark", "pinned or not");
    frame_at(&s->f, s->base, 1)->pins = 0;
    mended(s, "it");
}

static void slot_damage(struct scene *s)
{
    struct pagefile *pf = &s->f.m->pagefile;
    uint32_t slot, paged = pte_number(word_at(&s->f, s->base, 4));
    uint32_t kept = frame_at(&s->f, s->base, 0)->slot;

    pagefile_take(s->f.m, 1, false, &slot);
    found(s, "a leaked slot", "slots are taken");
    bitmap_release(&pf->slots, slot, 1);
    mended(s, "it");
    bitmap_release(&pf->slots, paged, 1);
    found(s, "a page's slot given to all", "owned by a page but not taken");
    bitmap_take_bit(&pf->slots, paged);
    mended(s, "it");
    bitmap_release(&pf->slots, kept, 1);
    found(s, "a frame's slot given to all", "owned by a frame but not taken");
    bitmap_take_bit(&pf->slots, kept);
    mended(s, "it");
    frame_at(&s->f, s->base, 0)->slot = paged;
    found(s, "a slot of two pages", "and something else");
    found(s, "the slot that it hides", "slots are taken");
    frame_at(&s->f, s->base, 0)->slot = UINT32_MAX;
    found(s, "a slot that does not exist", "beyond the pagefile");
    frame_at(&s->f, s->base, 0)->slot = kept;
    mended(s, "it");
    pf->bad++;
    found(s, "a bad slot too many", "slots are taken");
    pf->bad--;
    mended(s, "it");
}

static void count_damage(struct scene *s)
{
    struct machine *m = s->f.m;

    m->available++;
    found(s, "a right too many", "frames are available, should be");
    m->available--;
    m->active--;
    found(s, "an active frame too few", "are active but");
    m->active++;
    m->touched++;
    found(s, "a page too many", "pages have content");
    m->touched--;
    mended(s, "it");
    m->writing++;
    found(s, "a frame being written too many", "are writing but");
    m->writing--;
    mended(s, "it");
    m->pinned++;
    found(s, "a pin too many", "frames have 0 pins");
    m->pinned--;
    mended(s, "it");
    m->pagefile.commit++;
    found(s, "a page promised to nobody", "have been promised");
    m->pagefile.commit--;
    mended(s, "it");
    pagetable_section(table_at(&s->f, s->base), s->base)->valid--;
    found(s, "a section that counts wrong", "of the section at");
    pagetable_section(table_at(&s->f, s->base), s->base)->valid++;
    mended(s, "it");
}

/* What an overcommitted region has been promised are the pages that it has touched. */
static void touched_commit(void)
{
    struct scene s = {.log = fileno(tmpfile())};

    set_up(&s.f, "touch_window:1");
    if (region_map(s.f.m, 8 * PAGE, true, &s.base) != 0)
        exit(1);
    put(&s.f, s.base, 0, 1);
    put(&s.f, s.base, 1, 0);
    trim_all(&s.f);
    is(machine_check(s.f.m), 0, "an overcommitted region: the books balance");
    is(s.f.m->pagefile.commit, 1, "one page is promised");
    s.f.m->pagefile.commit = 8;
    found(&s, "all of it promised", "1 pages have been promised to the regions, but 8");
    s.f.m->pagefile.commit = 1;
    tear_down(&s.f);
}

struct bustle {
    struct fixture f;
    uintptr_t base;
    _Atomic unsigned seed, wrong;
    _Atomic bool stop;
};

/* Each thread writes and reads pages of its own: every fourth. */
static void *bustle(void *argument)
{
    struct bustle *b = argument;
    size_t mine = atomic_fetch_add(&b->seed, 1);

    for (uint64_t generation = 1; !b->stop || generation < 3; generation++) {
        for (size_t p = mine; p < 600; p += 4)
            b->wrong += put(&b->f, b->base, p, generation) != FAULT_DONE;
        for (size_t p = mine; p < 600; p += 4)
            b->wrong += !holds(&b->f, b->base, p, generation);
    }
    return NULL;
}

static void while_running(const char *stage, const char *workers)
{
    static struct bustle b;
    pthread_t ids[4];
    unsigned unbalanced = 0;
    char conf[100];

    memset(&b, 0, sizeof(b));
    snprintf(conf, sizeof(conf), "stage:%s,workers:%s", stage, workers);
    set_up(&b.f, conf);
    b.base = map_pages(&b.f, 600);
    for (unsigned i = 0; i < 4; i++)
        pthread_create(&ids[i], NULL, bustle, &b);
    for (unsigned i = 0; i < 5; i++)
        unbalanced += machine_check(b.f.m) != 0;
    b.stop = true;
    for (unsigned i = 0; i < 4; i++)
        pthread_join(ids[i], NULL);
    is(unbalanced, 0, "%s, workers %s: books balanced while everything runs", stage, workers);
    is(b.wrong, 0, "%s, workers %s: and every access was right", stage, workers);
    tear_down(&b.f);
}

/* What the thread that checks does while a write is under way. */
static struct {
    struct fixture f;
    _Atomic unsigned parked, relaxed;
    _Atomic bool checking;
    int result;
} waiting;

static void count_park(struct sync *s, _Atomic uint32_t *word, uint32_t expected,
                       uint64_t timeout_ns)
{
    waiting.parked += word == &waiting.f.m->writer.idle.sequence;
    sync_backend_linux.park(s, word, expected, timeout_ns);
}

static void count_relax(struct sync *s, unsigned round)
{
    waiting.relaxed += waiting.checking;
    sync_backend_linux.relax(s, round);
}

static void *check_books(void *argument)
{
    (void)argument;
    waiting.result = machine_check(waiting.f.m);
    return NULL;
}

/* A write takes as long as the disk likes: the check sleeps until it is done. */
static void sleeps_through_writes(void)
{
    struct sync_backend backend = sync_backend_linux;
    struct machine *m;
    uintptr_t base;
    pthread_t id;

    set_up(&waiting.f, "touch_window:1");
    m = waiting.f.m;
    backend.park = count_park;
    backend.relax = count_relax;
    m->sync.backend = &backend;
    base = map_pages(&waiting.f, 20);
    put_all(&waiting.f, base, 20, 1);
    trim_all(&waiting.f);
    switch_hold(waiting.f.store, true);
    atomic_fetch_add(&m->waiting, 1);
    writer_step(m);
    atomic_fetch_sub(&m->waiting, 1);
    is(m->writer.in_flight, 1, "a write is under way");
    waiting.checking = true;
    pthread_create(&id, NULL, check_books, NULL);
    while (waiting.parked == 0 && waiting.relaxed < 100000)
        sched_yield();
    ok(waiting.parked > 0, "the check sleeps until it is done");
    switch_hold(waiting.f.store, false);
    writer_drain(m);
    pthread_join(id, NULL);
    is(waiting.result, 0, "then the books balance");
    waiting.checking = false;
    is(wrong_of(&waiting.f, base, 20, 1), 0, "all are right");
    tear_down(&waiting.f);
}

int main(void)
{
    struct scene s;

    s.log = fileno(tmpfile());
    scene_set(&s);
    is(machine_check(s.f.m), 0, "the books balance");
    frame_damage(&s);
    page_damage(&s);
    slot_damage(&s);
    count_damage(&s);
    ok(holds(&s.f, s.base, 0, 1) && holds(&s.f, s.base, 1, 1) && holds(&s.f, s.base, 2, 1) &&
           holds(&s.f, s.base, 3, 1) && holds(&s.f, s.base, 4, 1),
       "after all that the pages are right");
    tear_down(&s.f);
    touched_commit();
    for (size_t i = 0; i < STAGES; i++)
        while_running(stages[i], "off");
    while_running("basic", "on");
    while_running("full", "on");
    sleeps_through_writes();
    return done_testing();
}
