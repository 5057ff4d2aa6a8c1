/*
 * Write protection as the proof that a page is unchanged.
 *
 * A page that comes from the pagefile, or back from standby, may be mapped protected: PROTECTED in
 * its PTE says that it cannot have been written since, so that it holds what its slot holds. Its
 * trim needs no protecting, no copy and no hash: it is dropped, and its PTE names the slot again
 * (trim.c). But its first write faults.
 *
 *              mapped from its slot
 *   pagefile ───────────────────────▶ valid, PROTECTED ──── trim: dropped ───▶ pagefile
 *                                        │        │
 *                            first write,│        │ trim of a page that is worth a second chance
 *                                    pin ▼        ▼ (level > 0)
 *                                     valid     transition, standby
 *
 * PROTECTED is set by who maps the page, before its BUSY ends, and cleared by who holds it BUSY and
 * has lifted the protection (first write, pin, a trim that lets it off), or taken the page away
 * (trim, discard). It never comes back while the page is mapped. It goes, too, if the pagefile
 * needs the slot, or the section is found to be written (by compare-and-swap of the valid word,
 * without BUSY): the page stays protected then, as a bystander of a trim does (below), but is not
 * known unchanged. In a child of fork(), which inherits pages without their protection, it goes at
 * once (fork.c).
 *
 * dirty=protect protects every such page, dirty=auto those of sections of which less than one page
 * in CHARGE is written before it is trimmed. Trims count unchanged pages, in sections of either
 * kind; a page trimmed changed, and a first write that faulted, takes CHARGE off.
 *
 * Protection is also what a trim puts on the range of its victims, and takes off again: from
 * bystanders too, by one call for the range, without their BUSY. That call must meet no page that
 * is PROTECTED, not even one that a fault is just mapping. So
 *   - a section's `guarded` counts PROTECTED pages from before they are mapped until after;
 *   - who maps counts first, and looks at the section's `protect` then;
 *   - `protect` becomes 1 only by who holds the section's `trimming` mark. (Anybody may clear it.)
 * Hence, if a trim finds `protect` 0 and then `guarded` 0, no page is PROTECTED, and none becomes
 * so as long as it holds the mark. If not, it leaves bystanders protected, and their next write, a
 * fault on a page that nobody owns, lifts that.
 */
#include "core/check.h"
#include "core/machine.h"

#define CHARGE 64       /* unchanged pages that save what a first write costs, */
#define CHARGE_LEAST 16 /* and where frames are few, so that some writes are enough there too */
#define PROVEN 128      /* unchanged pages that turn a section, fewer where frames are few */
#define LIFT_TOGETHER 64u

static int32_t proven(const struct machine *m)
{
    int32_t part = (int32_t)(m->active_max / 8);

    return part < 1 ? 1 : part < PROVEN ? part : PROVEN;
}

/* Change a section's count, and the machine's where that begins or ends. */
static void guard_section(struct machine *m, struct section *section, int32_t change)
{
    int32_t before;

    if (change == 0)
        return;
    sync_yield(&m->sync, SYNC_AT_ATOMIC);
    before = atomic_fetch_add(&section->guarded, change);
    check_debug(before >= 0 && before + change >= 0);
    if (before == 0 || before + change == 0)
        atomic_fetch_add(&m->guarded, before == 0 ? 1 : -1);
}

static void guard(struct machine *m, struct pagetable *table, uintptr_t va, unsigned pages,
                  int32_t sign)
{
    for (unsigned i = 0, n; i < pages; i += n) {
        n = pagetable_in_section(table, va + i * PAGE_SIZE, pages - i);
        guard_section(m, pagetable_section(table, va + i * PAGE_SIZE), sign * (int32_t)n);
    }
}

static bool protects(const struct machine *m, const struct section *section)
{
    return m->tunables.dirty == DIRTY_PROTECT || atomic_load(&section->protect) != 0;
}

/* Are both sections of a run protected? */
static bool protects_run(struct machine *m, struct pagetable *table, uintptr_t va, unsigned pages)
{
    return protects(m, pagetable_section(table, va)) &&
           protects(m, pagetable_section(table, va + (pages - 1) * PAGE_SIZE));
}

bool protect_begin(struct machine *m, struct pagetable *table, uintptr_t va, unsigned pages)
{
    if (m->tunables.dirty == DIRTY_HASH || !m->tunables.preserve || !m->mapper->protects)
        return false;
    /* Not to protect is always safe: a "no" costs no atomics. A "yes" is worth nothing before the
     * pages are counted. */
    if (!protects_run(m, table, va, pages))
        return false;
    guard(m, table, va, pages, 1);
    if (protects_run(m, table, va, pages))
        return true;
    guard(m, table, va, pages, -1);
    return false;
}

void protect_end(struct machine *m, struct pagetable *table, uintptr_t va, unsigned pages)
{
    guard(m, table, va, pages, -1);
}

void protect_left(struct machine *m, struct section *section, unsigned pages)
{
    guard_section(m, section, -(int32_t)pages);
}

bool protect_none(const struct machine *m, const struct section *section)
{
    return !protects(m, section) && atomic_load(&section->guarded) == 0;
}

/* Add to what is known of a section. A long past does not outweigh what happens now. */
static int32_t learn(struct machine *m, struct section *section, int32_t clean, int32_t changed)
{
    int32_t most = 2 * proven(m), least = -proven(m);
    int32_t cost = proven(m) < CHARGE ? proven(m) : CHARGE;
    int32_t now = atomic_load_explicit(&section->clean, memory_order_relaxed);

    cost = cost < CHARGE_LEAST ? CHARGE_LEAST : cost;
    now += clean - changed * cost;
    now = now > most ? most : now < least ? least : now;
    atomic_store_explicit(&section->clean, now, memory_order_relaxed);
    return now;
}

void protect_trimmed(struct machine *m, struct section *section, unsigned clean, unsigned changed)
{
    int32_t known;

    if (m->tunables.dirty != DIRTY_AUTO || clean + changed == 0)
        return;
    check_debug(atomic_load(&section->trimming) == 1);
    known = learn(m, section, (int32_t)clean, (int32_t)changed);
    if (known < 0)
        atomic_store(&section->protect, 0);
    else if (known >= proven(m) && m->mapper->protects && m->tunables.preserve)
        atomic_store(&section->protect, 1);
}

void protect_settle(struct machine *m, struct pagetable *table, size_t n)
{
    struct section *section = &table->sections[n];
    size_t i = n * SECTION_PAGES,
           end = i + SECTION_PAGES < table->pages ? i + SECTION_PAGES : table->pages;
    int32_t settled = 0;

    if (m->tunables.dirty != DIRTY_AUTO || protects(m, section) ||
        atomic_load(&section->guarded) == 0)
        return;
    for (; i < end; i++) {
        uint64_t word = pte_load(&table->ptes[i]);

        if ((word & (PTE_VALID | PTE_BUSY | PTE_PROTECTED)) == (PTE_VALID | PTE_PROTECTED))
            settled += pte_cas(&m->sync, &table->ptes[i], &word, word & ~PTE_PROTECTED);
    }
    guard_section(m, section, -settled);
}

/* Own valid pages after va, as long as there are any side by side; *guarded counts those that are
 * PROTECTED. Returns how many, va, which is ours, included. */
static unsigned own_valid(struct machine *m, const struct region *region, uintptr_t va,
                          unsigned *guarded)
{
    unsigned most = pagetable_in_section(region->table, va, LIFT_TOGETHER), got = 1;

    for (; got < most && va + got * PAGE_SIZE < region->end; got++) {
        pte_t *pte = pagetable_pte(region->table, va + got * PAGE_SIZE);
        uint64_t word = pte_load(pte);

        if ((word & (PTE_VALID | PTE_BUSY)) != PTE_VALID || !pte_try_busy(&m->sync, pte, word))
            break;
        *guarded += (word & PTE_PROTECTED) != 0;
    }
    return got;
}

/*
 * Lift the protection of the page at va, which is BUSY by us; and of those after it if its section
 * is not protected any more: they were left so by trims before, and would fault next. *guarded of
 * them were PROTECTED.
 */
static void lift_from(struct machine *m, struct region *region, uintptr_t va, unsigned *guarded)
{
    struct section *section = pagetable_section(region->table, va);
    unsigned pages = 1;

    *guarded = 0;
    if (m->tunables.dirty == DIRTY_AUTO && !protects(m, section))
        pages = own_valid(m, region, va, guarded);
    m->mapper->ops->lift(m->mapper, va, pages * PAGE_SIZE);
    for (unsigned i = 1; i < pages; i++) {
        pte_t *pte = pagetable_pte(region->table, va + i * PAGE_SIZE);

        pte_release(m, pte, va + i * PAGE_SIZE,
                    pte_load(pte) & ~(PTE_BUSY | PTE_WANTED | PTE_PROTECTED));
    }
}

/* A write has faulted; in time that says that the section is written too often. */
static void charge(struct machine *m, struct section *section)
{
    if (learn(m, section, 0, 1) < 0)
        atomic_store(&section->protect, 0);
}

void protect_met(struct machine *m, struct region *region, uintptr_t va)
{
    struct section *section = pagetable_section(region->table, va);
    unsigned guarded;

    /* Were the section not protected, the trim would have lifted it. */
    if (m->tunables.dirty == DIRTY_AUTO && protects(m, section))
        charge(m, section);
    lift_from(m, region, va, &guarded);
    protect_end(m, region->table, va, guarded);
}

void protect_written(struct machine *m, struct region *region, uintptr_t va)
{
    unsigned guarded;

    if (m->tunables.dirty == DIRTY_AUTO)
        charge(m, pagetable_section(region->table, va));
    lift_from(m, region, va, &guarded);
    /* The page at va is still BUSY, and its PTE says PROTECTED no more when that ends. */
    protect_end(m, region->table, va, guarded + 1);
}
