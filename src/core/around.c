/*
 * Reading around: pages beside one that was asked for come with it.
 *
 * Where single pages are asked for at random no stream is seen, and yet all pages of a place may be
 * in use: a working set that moves comes to new places page by page. Whether a page that is there
 * is used nobody sees, but one that is not there shows it by its fault. So each section counts
 * those that were asked for; the count fades by half with each ageing pass, and keeps half a
 * section at most, however long it took. Of the pages that were not there of late, some have been
 * asked for and the others still are not there: where the first are a fifth of both, and two and a
 * half times as many as on average over all pages with content, the others are likely to be asked
 * for as well: the section is dense. A page in a dense section brings along those of its group
 * (tunable `around`) that lie beside it in the pagefile too, so that all come by one request; so
 * does one in a section beside it, for a working set moves into sections of which little is known
 * yet. They do not belong to the stream's window, for that they will be used is not known, but a
 * stream goes on past them. And where nobody sees hits, all pages of a dense section are young
 * (age.c): those that came along show no other sign of use. The ager asks when the count has faded
 * already: for so much the threshold, which is learned from counts that have not, is the higher,
 * and that is meant.
 *
 * As at least a fifth of them would be asked for soon, and a page read in vain costs a sixth of a
 * fault (stream.c), that pays. Where pages are used at random, all of them alike, no section stands
 * out.
 */
#include "core/fault.h"
#include "core/machine.h"

#define ONE 1024u        /* scale of parts */
#define DENSE_LEAST 204u /* a fifth */
#define DENSE_HALVES 5u  /* in halves, how many times the average makes a section dense */
#define ASKED_LEAST 16u  /* pages that say anything */

void around_asked(struct pagetable *table, uintptr_t va, unsigned flags)
{
    /* Who asks for whole ranges asks for all that is wanted. */
    if (!(flags & FAULT_EXPLICIT))
        atomic_fetch_add_explicit(&pagetable_section(table, va)->asked, 1, memory_order_relaxed);
}

static uint64_t asked_of(const struct section *section)
{
    return atomic_load_explicit(&section->asked, memory_order_relaxed);
}

bool around_is_dense(const struct machine *m, const struct section *section)
{
    uint64_t from = atomic_load_explicit(&m->around.dense_from, memory_order_relaxed);
    uint64_t asked = asked_of(section);
    int32_t valid = atomic_load_explicit(&section->valid, memory_order_relaxed);
    uint64_t absent =
        valid < (int32_t)SECTION_PAGES ? (uint64_t)((int32_t)SECTION_PAGES - valid) : 0;

    return m->tunables.around > 0 && asked >= ASKED_LEAST && from > 0 &&
           asked * ONE >= (asked + absent) * from;
}

bool around_brings(const struct machine *m, const struct pagetable *table, uintptr_t va)
{
    size_t n = pagetable_index(table, va) / SECTION_PAGES;
    const struct section *section = &table->sections[n];

    if (around_is_dense(m, section))
        return true;
    /* Its own count tells, once it has been asked for as many pages as it has groups. */
    if (asked_of(section) * m->tunables.around >= SECTION_PAGES)
        return false;
    return (n > 0 && around_is_dense(m, section - 1)) ||
           (n + 1 < table->section_count && around_is_dense(m, section + 1));
}

void around_fade(struct machine *m, struct section *section)
{
    uint32_t asked = atomic_load_explicit(&section->asked, memory_order_relaxed);
    uint32_t kept = (asked < SECTION_PAGES ? asked : SECTION_PAGES) / 2;

    if (asked == 0)
        return;
    m->around.asked += asked;
    atomic_fetch_sub_explicit(&section->asked, asked - kept, memory_order_relaxed);
}

void around_learn(struct machine *m, uint64_t valid)
{
    int64_t touched = atomic_load(&m->touched);
    uint64_t absent = touched > (int64_t)valid ? (uint64_t)touched - valid : 0;
    uint64_t asked = m->around.asked, dense;

    m->around.asked = 0;
    dense = asked > 0 ? asked * ONE * DENSE_HALVES / 2 / (asked + absent) : 0;
    atomic_store_explicit(&m->around.dense_from,
                          (uint32_t)(dense < DENSE_LEAST ? DENSE_LEAST : dense),
                          memory_order_relaxed);
}
