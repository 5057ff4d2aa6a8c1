/*
 * When the trimmer works, and how much it takes at a time: the marks follow the rate at which
 * frames are consumed. Which pages it takes, and how, is in trim.c.
 */
#include "core/machine.h"

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* The marks follow what is consumed in the time that a trim step takes, and for sections in the
 * time that these take to leave. */
static void set_marks(struct machine *m, uint64_t step_ns)
{
    struct trimmer *t = &m->trimmer;
    uint64_t now = sync_now(&m->sync), consumed = atomic_load(&m->consumed);
    uint64_t elapsed = now - t->rate_at;
    int64_t most = m->active_max / 8 + 1, least = m->active_max / 256 + 2, low;

    t->step_ns = (t->step_ns * 7 + step_ns) / 8;
    if (elapsed > 1000000) {
        uint64_t rate = (consumed - t->rate_consumed) * 1000000 / (elapsed / 1000);

        t->rate = (t->rate * 3 + rate) / 4;
        t->rate_at = now;
        t->rate_consumed = consumed;
    }
    low = (int64_t)(3 * t->rate * (t->step_ns / 1000) / 1000000 + large_ahead(m, t->rate));
    low = clamp(low, least, most);
    atomic_store(&m->low, (int32_t)low);
    /* The faster they go, the more are trimmed together: what is consumed in some 4 ms. */
    /* Where sections leave whole, a little more than that is asked for brings 512 pages: what is
     * not asked for is not taken from those in use. */
    most = large_wanted(m) ? least : SECTION_PAGES;
    atomic_store(&m->high, (int32_t)(low + clamp((int64_t)(t->rate / 256), least, most)));
}

unsigned trim_need(struct machine *m)
{
    int64_t have = frames_soon(m), high = atomic_load(&m->high);

    return have < high ? (unsigned)(high - have) : 0;
}

bool trim_step(struct machine *m)
{
    uint64_t started = sync_now(&m->sync);
    unsigned need, gone;

    lend_fit(m);
    need = trim_need(m);
    if (need == 0)
        return false;
    if (!m->tunables.workers)
        age_step(m);
    gone = trim_pages(m, need);
    set_marks(m, sync_now(&m->sync) - started);
    machine_balance(m, &m->trim_worker);
    return gone > 0;
}
