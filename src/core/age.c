/*
 * The ager: how long ago was each valid page known to be used?
 *
 * A pass goes over all valid pages each time an eighth of the frames has been consumed: a page with
 * its access bit set becomes age 0 and loses the bit; any other grows a step older, up to 7; a page
 * of level n does so in one pass of 2^n only.
 * The soft mapper sets the bit at each access; with the others it means that the page was mapped on
 * demand, rescued, written while protected, passed by a stream that goes on, or found in use by a
 * trim (docs/ageing.md). The pass counts pages by age, which is how the trimmer knows how old its
 * victims must be.
 *
 * Levels. Nobody sees a page being hit, but when it is wanted after it was trimmed is seen, and how
 * long that took says how often it is used: a page that is back before the frames have been
 * consumed once is worth more frames' time than it had. So a trim stamps the PTE with what has been
 * consumed by then; a page that returns soon rises by a level or two, a late one sinks. The level
 * stays in the PTE wherever the page goes.
 *
 * Neighbourhoods. Where nobody sees hits, pages that are asked for are a sample of those that are
 * used. LIVELY_PAGES side by side of which far more have been asked for since the last pass than
 * elsewhere are used together: all of them are young again, but those of the highest age, which
 * may have been advised to go. (Not if more than LIVELY_MOST have: then a stream has passed.) So
 * are those of dense sections (around.c).
 */
#include "core/machine.h"

/* A stamp's unit is so many parts of the frames consumed. */
#define STAMP_PART 16u
/* With fewer frames than this a page's return says nothing. */
#define HISTORY_FRAMES 64u
#define LIVELY_PAGES 64u
#define LIVELY_LEAST 6u  /* of them, that have been asked for, */
#define LIVELY_MOST 32u  /* and no more, */
#define LIVELY_HALVES 5u /* and in halves, how many times as many as on average */
#define NEVER_LIVELY UINT32_MAX

/* What one pass has found so far. */
struct age_pass {
    uint32_t ages[PTE_AGE_MAX + 1]; /* valid pages by age */
    uint32_t accessed;              /* pages asked for since the last pass */
    uint32_t lively;                /* pages asked for that make a neighbourhood lively */
};

/* How many pages must have been asked for, if they are no more than last time on average? */
static uint32_t lively_threshold(struct machine *m)
{
    int64_t touched = atomic_load(&m->touched); /* lags pages that come and go */
    uint64_t pages = touched > 0 ? (uint64_t)touched : 1, many;

    if (!m->mapper->in_place)
        return NEVER_LIVELY; /* the access bits are true */
    many = (uint64_t)m->trimmer.accessed * LIVELY_PAGES * LIVELY_HALVES / 2 / pages;
    if (many > LIVELY_MOST)
        return NEVER_LIVELY;
    return many < LIVELY_LEAST ? LIVELY_LEAST : (uint32_t)many;
}

/* Are pages [i, end) of a neighbourhood used together? */
static bool is_lively(const struct age_pass *pass, const struct pagetable *table, size_t i,
                      size_t end)
{
    const uint64_t asked = PTE_VALID | PTE_ACCESSED;
    unsigned n = 0;

    if (pass->lively == NEVER_LIVELY)
        return false;
    for (i = pagetable_next_page(table, i, end); i < end;
         i = pagetable_next_page(table, i + 1, end))
        n += (pte_load(&table->ptes[i]) & (asked | PTE_READAHEAD)) == asked;
    return n >= pass->lively && n <= LIVELY_MOST;
}

/* Ages one page; returns its new age, or -1 if it is not valid or somebody is busy with it. */
static int age_page(struct machine *m, pte_t *pte, uint64_t word, size_t turn, bool lively)
{
    unsigned level = word & PTE_READAHEAD ? 0 : pte_level(word);
    unsigned age = pte_age(word);
    uint64_t aged;

    if ((word & (PTE_VALID | PTE_BUSY)) != PTE_VALID)
        return -1;
    if ((word & PTE_ACCESSED) || (lively && age < PTE_AGE_MAX))
        age = 0;
    else if (age < PTE_AGE_MAX && turn % (1u << level) == 0)
        age++;
    aged = pte_with_age(word & ~PTE_ACCESSED, age);
    if (aged != word && !pte_cas(&m->sync, pte, &word, aged))
        return -1;
    return (int)age;
}

/* No page of the group at i was valid, or about to become so: unless one is now, it is passed over
 * from here on. */
static void group_settle(struct machine *m, const struct pagetable *table, size_t i)
{
    struct section *section = &table->sections[i / SECTION_PAGES];

    sync_yield(&m->sync, SYNC_AT_ATOMIC);
    atomic_fetch_and(&section->groups, ~group_bit(i));
    sync_yield(&m->sync, SYNC_AT_ATOMIC);
    for (size_t end = i + GROUP_PAGES; i < end; i++) {
        if (pte_load(&table->ptes[i]) & (PTE_VALID | PTE_BUSY)) {
            atomic_fetch_or(&section->groups, group_bit(i));
            return;
        }
    }
}

static void age_section(struct machine *m, const struct region *region, size_t n,
                        struct age_pass *pass)
{
    const struct pagetable *table = region->table;
    size_t first = n * SECTION_PAGES, last = first + SECTION_PAGES, stop;
    size_t low = pagetable_index(table, region->start), high = pagetable_index(table, region->end);
    bool dense = m->mapper->in_place && around_is_dense(m, &table->sections[n]);
    size_t looked_to = 0;
    bool lively = false;

    first = first > low ? first : low;
    last = last < high ? last : high;
    for (size_t i = pagetable_next_page(table, first, last); i < last;
         i = pagetable_next_page(table, stop, last)) {
        size_t from = i;
        bool empty = true;

        stop = (i / GROUP_PAGES + 1) * GROUP_PAGES;
        if (i >= looked_to) {
            looked_to = (i / LIVELY_PAGES + 1) * LIVELY_PAGES;
            lively = dense || is_lively(pass, table, i, looked_to < last ? looked_to : last);
        }
        for (; i < stop && i < last; i++) {
            uint64_t word = pte_load(&table->ptes[i]);
            int age = age_page(m, &table->ptes[i], word, i + m->trimmer.passes, lively);

            empty = empty && !(word & (PTE_VALID | PTE_BUSY));
            if (age < 0)
                continue;
            pass->ages[age]++;
            pass->accessed += (word & PTE_ACCESSED) != 0;
        }
        if (empty && i - from == GROUP_PAGES)
            group_settle(m, table, from);
    }
}

bool age_due(struct machine *m)
{
    return atomic_load(&m->consumed) - atomic_load(&m->trimmer.aged_at) > m->active_max / AGE_PART;
}

bool age_step(struct machine *m)
{
    struct age_pass pass = {0};
    uint32_t dense = 0, valid = 0;
    uint64_t consumed = atomic_load(&m->consumed);

    if (!age_due(m))
        return false;
    large_fit(m);
    pass.lively = lively_threshold(m);
    m->trimmer.passes++;
    sync_rwlock_read(&m->sync, &m->regions_lock, SYNC_REGIONS);
    for (unsigned r = 0; r < m->region_count; r++) {
        const struct region *region = m->regions[r];
        size_t n = pagetable_index(region->table, region->start) / SECTION_PAGES;
        size_t end =
            (pagetable_index(region->table, region->end) + SECTION_PAGES - 1) / SECTION_PAGES;

        while (pagetable_next_section(region->table, &n, end)) {
            dense += atomic_load_explicit(&region->table->sections[n].valid,
                                          memory_order_relaxed) >= (int32_t)TRIM_WORTH;
            around_fade(m, &region->table->sections[n]);
            age_section(m, region, n++, &pass);
        }
    }
    sync_rwlock_unread(&m->sync, &m->regions_lock, SYNC_REGIONS);
    for (unsigned age = 0; age <= PTE_AGE_MAX; age++) {
        atomic_store_explicit(&m->trimmer.ages[age], pass.ages[age], memory_order_relaxed);
        valid += pass.ages[age];
    }
    around_learn(m, valid);
    m->trimmer.accessed = pass.accessed;
    atomic_store(&m->trimmer.dense, dense);
    atomic_store(&m->trimmer.aged_at, consumed);
    count(m, COUNTER_ageing_passes, 1);
    return false;
}

static uint64_t stamp_now(struct machine *m)
{
    uint64_t consumed = atomic_load_explicit(&m->consumed, memory_order_relaxed);

    return m->active_max < HISTORY_FRAMES ? 0
                                          : consumed * STAMP_PART / m->active_max & PTE_STAMP_MAX;
}

uint64_t age_trimmed(struct machine *m, uint64_t word)
{
    return (word & PTE_LEVEL) | stamp_now(m) << PTE_STAMP_SHIFT;
}

uint64_t age_returned(struct machine *m, uint64_t word, bool wanted)
{
    uint64_t away = (stamp_now(m) - (word >> PTE_STAMP_SHIFT)) & PTE_STAMP_MAX;
    unsigned level = pte_level(word),
             step = away < STAMP_PART / 4 || away >= STAMP_PART * 4 ? 2 : 1;

    if (!wanted || m->active_max < HISTORY_FRAMES)
        return word & PTE_LEVEL;
    if (away < STAMP_PART)
        level = level + step < PTE_LEVEL_MAX ? level + step : (unsigned)PTE_LEVEL_MAX;
    else
        level = level > step ? level - step : 0;
    return (uint64_t)level << PTE_LEVEL_SHIFT;
}

static void age_pages(struct machine *m, const struct pagetable *table, size_t low, size_t high,
                      unsigned age)
{
    for (size_t i = pagetable_next_page(table, low, high); i < high;
         i = pagetable_next_page(table, i + 1, high)) {
        pte_t *pte = &table->ptes[i];
        uint64_t word = pte_load(pte);

        if ((word & (PTE_VALID | PTE_BUSY)) == PTE_VALID)
            pte_cas(&m->sync, pte, &word, pte_with_age(word & ~PTE_ACCESSED, age));
    }
}

void age_range(struct machine *m, uintptr_t start, size_t length, unsigned age)
{
    uintptr_t end = start + length;

    SYNC_ASSERT_HELD(SYNC_REGIONS);
    while (start < end) {
        const struct region *region = region_find(m, start);
        const struct pagetable *table;
        size_t low, high, n;

        if (region == NULL)
            return;
        table = region->table;
        low = pagetable_index(table, start);
        high = pagetable_index(table, region->end < end ? region->end : end);
        n = low / SECTION_PAGES;
        while (pagetable_next_section(table, &n, (high + SECTION_PAGES - 1) / SECTION_PAGES)) {
            size_t first = n++ * SECTION_PAGES, last = first + SECTION_PAGES;

            age_pages(m, table, first > low ? first : low, last < high ? last : high, age);
        }
        start = region->end;
    }
}
