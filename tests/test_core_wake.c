/*
 * A fault whose page another thread takes between the look and the attempt leaves word with that
 * thread, whatever the page was: or else its own thread, whose fault nobody will see again, sleeps
 * for ever.
 */
#include "machine_fixture.h"

/* There is one machine at a time. */
static struct {
    struct fixture f;
    struct sync_backend backend;
    struct mapper_ops ops;
    uintptr_t base;
    pte_t *pte;        /* of the page at base */
    bool rival_comes;  /* takes the page as soon as somebody has looked at it */
    unsigned meetings; /* times that it has */
    unsigned woken;    /* wakes of the page */
} w;

/* Every attempt to take a page begins here, after the look. */
static void yield(struct sync *s, enum sync_point point)
{
    (void)s;
    if (point != SYNC_AT_PTE || !w.rival_comes)
        return;
    w.rival_comes = false;
    w.meetings++;
    atomic_fetch_or(w.pte, PTE_BUSY);
}

static void wake(struct mapper *mapper, uintptr_t va, size_t length)
{
    (void)mapper;
    w.woken += va <= w.base && w.base < va + length;
}

static void begin(const char *stage)
{
    char conf[200];

    memset(&w, 0, sizeof(w));
    snprintf(conf, sizeof(conf), "stage:%s,workers:off,touch_window:1,read_window:1", stage);
    set_up(&w.f, conf);
    w.backend = sync_backend_linux;
    w.backend.yield = yield;
    w.f.m->sync.backend = &w.backend;
    w.ops = *w.f.m->mapper->ops;
    w.ops.wake = wake;
    w.f.m->mapper->ops = &w.ops;
    w.base = map_pages(&w.f, 1);
    w.pte = pte_at(&w.f, w.base, 0);
}

/* The fault meets the rival, who then lets the page be as it was. */
static void meet(const char *stage, const char *what, unsigned flags)
{
    struct fault_queue *queue = fault_queue_get(w.f.m);
    uint64_t word = pte_load(w.pte);
    enum fault_result result;

    fault_queue_enter(w.f.m, queue);
    w.rival_comes = true;
    result = fault_begin(w.f.m, queue, w.base, FAULT_TRAP | flags, 1, sync_now(&w.f.m->sync));
    is(w.meetings, 1, "%s: a fault on %s page loses it to another thread", stage, what);
    is(result, FAULT_BUSY, "%s: and learns that it is busy", stage);
    w.woken = 0;
    pte_release(w.f.m, w.pte, w.base, word);
    is(w.woken, 1, "%s: when the page is given up its thread is woken", stage);
    fault_queue_leave(w.f.m, queue);
    fault_queue_put(w.f.m, queue);
    tear_down(&w.f);
}

static void all_formats(const char *stage)
{
    begin(stage);
    meet(stage, "an untouched", 0);

    begin(stage);
    put(&w.f, w.base, 0, 1);
    meet(stage, "a protected", FAULT_WRITE | FAULT_PROTECT);

    begin(stage);
    put(&w.f, w.base, 0, 1);
    trim_all(&w.f);
    meet(stage, "a modified", 0);

    begin(stage);
    put(&w.f, w.base, 0, 1);
    trim_all(&w.f);
    write_all(&w.f);
    meet(stage, "a standby", 0);

    begin(stage);
    put(&w.f, w.base, 0, 1);
    page_out(&w.f);
    meet(stage, "a written", 0);
}

int main(void)
{
    for (size_t i = 0; i < STAGES; i++)
        all_formats(stages[i]);
    return done_testing();
}
