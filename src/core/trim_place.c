/*
 * Where pages that leave are written. Neighbours that leave together are likely to be wanted
 * together again, by one request if their slots are neighbours too; and a request costs what
 * reading or writing some pages more does.
 *
 * Where neighbours lie side by side in the pagefile, changed ones are written to the slots that
 * they had (frame.home), few clean ones between two of them too. A home is a wish: nobody owns the
 * slot, which is released as ever, and the writer takes it if it is still free.
 *
 * What lies in too many places is moved: clean pages are written anew with the changed ones, in one
 * place.
 */
#include <string.h>

#include "core/trim_internal.h"

#define JOIN_LEAST 8u /* neighbours that are likely to be wanted together again */
#define JOIN_PAGES 4u /* pages that cost as much to write, in a run, as a request more */

static uint32_t slot_of(const struct machine *m, const struct trim_victims *v, unsigned i)
{
    return m->frames[v->frames[i]].slot;
}

/* A clean page is to be written too. */
static void write_anew(struct machine *m, struct trim_victims *v, unsigned i)
{
    m->frames[v->frames[i]].hash = m->pagefile.hashes[slot_of(m, v, i)];
    v->verdict[i] = TRIM_MODIFIED;
    count(m, COUNTER_pages_trimmed_joined, 1);
}

/* The changed pages of [first, end) are written where they were, few clean ones between two of them
 * too, so that it is one request. */
static void write_home(struct machine *m, struct trim_victims *v, unsigned first, unsigned end)
{
    unsigned clean = end; /* since the last changed page, the first of them */

    for (unsigned i = first; i < end; i++) {
        if (v->verdict[i] == TRIM_CLEAN)
            continue;
        for (; clean < i && i - clean <= JOIN_PAGES; clean++) {
            v->slots[clean] = slot_of(m, v, clean);
            write_anew(m, v, clean);
        }
        v->slots[i] = slot_of(m, v, i);
        clean = i + 1;
    }
}

/* Neighbours that lie side by side in the pagefile too are best left there: what has changed of
 * them goes where it was. */
static void find_homes(struct machine *m, struct trim_victims *v)
{
    for (unsigned first = 0, end; first < v->count; first = end) {
        end = first + 1;
        if (v->verdict[first] < TRIM_CLEAN || slot_of(m, v, first) == 0)
            continue;
        while (end < v->count && v->va[end] == v->va[end - 1] + PAGE_SIZE &&
               v->verdict[end] >= TRIM_CLEAN && slot_of(m, v, end) == slot_of(m, v, end - 1) + 1)
            end++;
        if (end - first >= JOIN_LEAST)
            write_home(m, v, first, end);
    }
}

/* Where the page will be found, or 0: somewhere with other changed ones. */
static uint32_t place_of(const struct machine *m, const struct trim_victims *v, unsigned i)
{
    return v->verdict[i] == TRIM_CLEAN ? slot_of(m, v, i) : v->slots[i];
}

/* Will pages i and i + 1 still be read back by one request? */
static bool stay_together(const struct machine *m, const struct trim_victims *v, unsigned i)
{
    uint32_t here = place_of(m, v, i), next = place_of(m, v, i + 1);

    return here != 0 ? here + 1 == next : next == 0;
}

static bool worth_joining(unsigned pages, unsigned clean, unsigned pieces)
{
    return pages >= JOIN_LEAST && pages < pieces * JOIN_LEAST && clean <= (pieces - 1) * JOIN_PAGES;
}

/*
 * Neighbours that leave together will be read back together, and a request costs what writing
 * several pages does. If the slots of a run lie in too many places for its clean pages to be worth
 * keeping where they are, these are written anew with the changed ones.
 */
static void join_runs(struct machine *m, struct trim_victims *v)
{
    for (unsigned first = 0, end; first < v->count; first = end) {
        unsigned clean = v->verdict[first] == TRIM_CLEAN, pieces = 1;

        for (end = first + 1; end < v->count && v->va[end] == v->va[end - 1] + PAGE_SIZE &&
                              v->verdict[end - 1] >= TRIM_CLEAN && v->verdict[end] >= TRIM_CLEAN;
             end++) {
            clean += v->verdict[end] == TRIM_CLEAN;
            pieces += !stay_together(m, v, end - 1);
        }
        if (!worth_joining(end - first, clean, pieces))
            continue;
        for (unsigned i = first; i < end; i++) {
            if (v->verdict[i] == TRIM_CLEAN)
                write_anew(m, v, i);
            v->slots[i] = 0;
        }
    }
}

void place_victims(struct machine *m, struct trim_victims *v)
{
    memset(v->slots, 0, v->count * sizeof(v->slots[0]));
    if (atomic_load(&m->writer.failing_since) != 0)
        return; /* a clean page can leave the cache without being written */
    find_homes(m, v);
    join_runs(m, v);
}

void spare_pieces(struct machine *m, struct trim_victims *v)
{
    unsigned kept = 0;

    if (atomic_load(&m->writer.failing_since) != 0)
        return;
    for (unsigned first = 0, end; first < v->count; first = end) {
        unsigned pieces = 1;
        bool spared;

        for (end = first + 1; end < v->count && v->va[end] == v->va[end - 1] + PAGE_SIZE; end++)
            pieces += v->slots[end] != v->slots[end - 1] + 1;
        spared = worth_joining(end - first, end - first, pieces);
        for (unsigned i = first; i < end; i++) {
            if (spared) {
                pte_release(m, v->pte[i], v->va[i], v->word[i]);
                continue;
            }
            v->pte[kept] = v->pte[i];
            v->word[kept] = v->word[i];
            v->va[kept] = v->va[i];
            v->frames[kept] = v->frames[i];
            v->slots[kept++] = v->slots[i];
        }
    }
    v->count = kept;
}
