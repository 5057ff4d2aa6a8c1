#include "sim/mmu.h"

#include <errno.h>
#include <string.h>

#include "core/check.h"
#include "core/error.h"
#include "sim/arena.h"

enum { STAGE_TAKEN = 1, STAGE_LENT };

#define FOREIGN 0xa5 /* what a frame's home reads as while its page is elsewhere */

/* For the next mmu_open(); one simulation runs at a time in a process. */
static struct {
    struct schedule *schedule;
    enum tunable_mapper kind;
    uint64_t seed;
    struct mmu_faults faults;
} prepared;

static struct mmu *mmu_in(struct mapper *mapper)
{
    return (struct mmu *)(void *)mapper;
}

struct mmu *mmu_of(struct machine *m)
{
    return mmu_in(m->mapper);
}

struct mmu_page *mmu_page(struct mmu *mmu, uintptr_t va)
{
    size_t n = (va - MMU_BASE) / PAGE_SIZE;

    if (va < MMU_BASE || n >= MMU_PAGES)
        schedule_fail(mmu->schedule, "an address outside all memory");
    return &mmu->pages[n];
}

static void yield(struct mmu *mmu)
{
    schedule_yield(mmu->schedule, SYNC_AT_STEP);
}

static bool happens(struct mmu *mmu, unsigned every)
{
    bool it_does = random_once_in(&mmu->random, every);

    mmu->made += it_does;
    return it_does;
}

static void require(struct mmu *mmu, bool condition, const char *what)
{
    if (!condition)
        schedule_fail(mmu->schedule, what);
}

/* ---- memory under addresses ---- */

/* Is no more resident than the budget allows? */
static bool within_budget(const struct mmu *mmu)
{
    return mmu->present + mmu->held <= mmu->present_max + mmu->vacant_count + mmu->lent;
}

static char *page_new(struct mmu *mmu)
{
    char *memory = mmu->memory + mmu->free[mmu->present++] * PAGE_SIZE;

    require(mmu, within_budget(mmu), "more pages are resident than the budget allows");
    return memory;
}

static void page_free(struct mmu *mmu, struct mmu_page *page)
{
    memset(page->memory, FOREIGN, PAGE_SIZE);
    mmu->free[--mmu->present] = (uint32_t)((size_t)(page->memory - mmu->memory) / PAGE_SIZE);
    page->memory = NULL;
    page->read_only = false;
}

static uint8_t *section_of(struct mmu *mmu, uintptr_t va)
{
    return &mmu->sections[(va - MMU_BASE) / LARGE_SIZE];
}

static void page_wake(struct mmu *mmu, struct mmu_page *page)
{
    atomic_fetch_add(&page->wakes, 1);
    schedule_unpark(mmu->schedule, &page->wakes, INT32_MAX);
}

static int mmu_region_open(struct mapper *mapper, size_t length, uintptr_t *base)
{
    struct mmu *mmu = mmu_in(mapper);
    size_t pages = length / PAGE_SIZE, run = 0;
    size_t aligned = length >= LARGE_SIZE ? SECTION_PAGES : 1;

    yield(mmu);
    for (size_t n = 0; n < MMU_PAGES; n++) {
        run = mmu->pages[n].mapped || (run == 0 && n % aligned != 0) ? 0 : run + 1;
        if (run < pages)
            continue;
        *base = MMU_BASE + (n + 1 - pages) * PAGE_SIZE;
        for (size_t i = n + 1 - pages; i <= n; i++)
            mmu->pages[i].mapped = true;
        return 0;
    }
    return error_set(-ENOMEM, "no address space for %zu pages", pages);
}

static int mmu_region_split(struct mapper *mapper, uintptr_t base, size_t length)
{
    struct mmu *mmu = mmu_in(mapper);

    yield(mmu);
    if (happens(mmu, mmu->faults.split_every))
        return error_set(-ENOMEM, "%zu bytes at %p cannot be split off", length, (void *)base);
    return 0;
}

static void mmu_region_close(struct mapper *mapper, uintptr_t base, size_t length)
{
    struct mmu *mmu = mmu_in(mapper);

    for (uintptr_t va = base; va < base + length; va += PAGE_SIZE) {
        struct mmu_page *page = mmu_page(mmu, va);

        yield(mmu);
        require(mmu, page->mapped, "addresses are given back twice");
        require(mmu, page->memory == NULL, "addresses are given back with a page still there");
        page->mapped = page->failed = false;
        page_wake(mmu, page);
    }
}

/* ---- staging ---- */

static unsigned stage_copy(struct mmu *mmu, unsigned want, struct mapper_stage *stage)
{
    uint32_t first = 0;

    if (happens(mmu, mmu->faults.stage_every))
        want = (unsigned)random_below(&mmu->random, want + 1);
    while (first < mmu->stage_pages && mmu->stage_taken[first])
        first++;
    stage->first = first;
    for (stage->count = 0; stage->count < want && first < mmu->stage_pages; stage->count++) {
        if (mmu->stage_taken[first])
            break;
        mmu->stage_taken[first++] = STAGE_TAKEN;
    }
    return stage->count;
}

static unsigned mmu_stage_take(struct mapper *mapper, unsigned want, const uint32_t *frames,
                               struct mapper_stage *stage)
{
    struct mmu *mmu = mmu_in(mapper);

    yield(mmu);
    stage->count = 0;
    if (mmu->kind == MAPPER_COPY)
        return stage_copy(mmu, want, stage);
    if (happens(mmu, mmu->faults.stage_every))
        want = (unsigned)random_below(&mmu->random, want + 1);
    for (unsigned i = 0; i < want; i++)
        mmu->clean[frames[i]] = 0;
    return want;
}

static bool mmu_stage_lend(struct mapper *mapper, unsigned pages, struct mapper_stage *stage)
{
    struct mmu *mmu = mmu_in(mapper);

    yield(mmu);
    if (happens(mmu, mmu->faults.lend_every))
        return false;
    for (uint32_t first = 0; first + pages <= mmu->stage_pages; first += pages) {
        uint32_t n = 0;

        while (n < pages && !mmu->stage_taken[first + n])
            n++;
        if (n < pages)
            continue;
        memset(mmu->stage_taken + first, STAGE_LENT, pages);
        *stage = (struct mapper_stage){.first = first, .count = pages};
        mmu->lent += pages;
        return true;
    }
    return false;
}

static void mmu_stage_give(struct mapper *mapper, struct mapper_stage *stage)
{
    struct mmu *mmu = mmu_in(mapper);

    yield(mmu);
    if (stage->count > 0 && mmu->kind == MAPPER_COPY &&
        mmu->stage_taken[stage->first] == STAGE_LENT) {
        mmu->lent -= stage->count;
        require(mmu, within_budget(mmu), "staging comes back, but its frames are Active");
    }
    for (uint32_t i = 0; i < stage->count; i++) {
        require(mmu, mmu->stage_taken[stage->first + i], "staging is given back twice");
        mmu->stage_taken[stage->first + i] = 0;
        memset(mmu->mapper.stage + (stage->first + i) * PAGE_SIZE, FOREIGN, PAGE_SIZE);
    }
    stage->count = 0;
}

static bool mmu_vacate(struct mapper *mapper, unsigned count, const uint32_t *buffers)
{
    struct mmu *mmu = mmu_in(mapper);

    for (unsigned i = 0; i < count; i++) {
        yield(mmu);
        if (happens(mmu, mmu->faults.lend_every))
            return false;
        memset(mapper_buffer(mapper, buffers[i]), 0, PAGE_SIZE);
        mmu->vacant_count += !mmu->vacant[buffers[i]];
        mmu->vacant[buffers[i]] = true;
    }
    return true;
}

/* ---- mapping ---- */

static void put_page(struct mmu *mmu, uintptr_t va, const void *content, bool read_only)
{
    struct mmu_page *page = mmu_page(mmu, va);

    require(mmu, page->mapped, "a page is mapped outside every region");
    require(mmu, page->memory == NULL, "a page is mapped where one is");
    require(mmu, !page->failed, "a page is mapped where SIGBUS is due");
    page->memory = page_new(mmu);
    if (content != NULL)
        memcpy(page->memory, content, PAGE_SIZE);
    else
        memset(page->memory, 0, PAGE_SIZE);
    page->read_only = read_only;
    page_wake(mmu, page);
}

static int mmu_map(struct mapper *mapper, uintptr_t va, unsigned count, const uint32_t *frames,
                   void *const *content, unsigned flags, unsigned *done)
{
    struct mmu *mmu = mmu_in(mapper);

    for (*done = 0; *done < count; ++*done) {
        yield(mmu);
        if (mmu->kind == MAPPER_SOFT)
            continue;
        if (happens(mmu, mmu->faults.no_memory_every))
            return -ENOMEM;
        put_page(mmu, va + *done * PAGE_SIZE, content[*done], (flags & MAP_PROTECTED) != 0);
        if (mmu->kind == MAPPER_MOVE)
            memset(mapper_buffer(mapper, frames[*done]), FOREIGN, PAGE_SIZE);
    }
    return 0;
}

static void mmu_zero(struct mapper *mapper, uint32_t frame)
{
    struct mmu *mmu = mmu_in(mapper);

    yield(mmu);
    if (mmu->kind == MAPPER_COPY)
        return;
    if (!mmu->clean[frame])
        memset(mapper_buffer(mapper, frame), 0, PAGE_SIZE);
    mmu->clean[frame] = 1;
}

static int mmu_map_zero(struct mapper *mapper, uintptr_t va, unsigned count, const uint32_t *frames,
                        unsigned flags, unsigned *done)
{
    struct mmu *mmu = mmu_in(mapper);

    for (*done = 0; *done < count; ++*done) {
        const void *zeroes = NULL;

        yield(mmu);
        if (happens(mmu, mmu->faults.no_memory_every) && mmu->kind != MAPPER_SOFT)
            return -ENOMEM;
        if (mmu->kind != MAPPER_COPY) {
            mmu_zero(mapper, frames[*done]);
            mmu->clean[frames[*done]] = 0;
            zeroes = mapper_buffer(mapper, frames[*done]);
        }
        if (mmu->kind == MAPPER_SOFT)
            continue;
        put_page(mmu, va + *done * PAGE_SIZE, zeroes, (flags & MAP_PROTECTED) != 0);
        if (mmu->kind == MAPPER_MOVE)
            memset(mapper_buffer(mapper, frames[*done]), FOREIGN, PAGE_SIZE);
    }
    return 0;
}

static int mmu_protect(struct mapper *mapper, uintptr_t va, size_t length)
{
    struct mmu *mmu = mmu_in(mapper);
    bool fails = mmu->kind == MAPPER_COPY && happens(mmu, mmu->faults.protect_every);

    for (size_t at = 0; at < length && mmu->kind == MAPPER_COPY; at += PAGE_SIZE) {
        struct mmu_page *page = mmu_page(mmu, va + at);

        yield(mmu);
        if (fails && at >= length / 2)
            return -ENOMEM;
        if (page->memory != NULL)
            page->read_only = true;
    }
    return 0;
}

static void mmu_wake(struct mapper *mapper, uintptr_t va, size_t length)
{
    struct mmu *mmu = mmu_in(mapper);

    for (size_t at = 0; at < length; at += PAGE_SIZE)
        mmu_page(mmu, va + at)->waking++;
    yield(mmu);
    for (size_t at = 0; at < length; at += PAGE_SIZE) {
        mmu_page(mmu, va + at)->waking--;
        page_wake(mmu, mmu_page(mmu, va + at));
    }
}

static void mmu_lift(struct mapper *mapper, uintptr_t va, size_t length)
{
    struct mmu *mmu = mmu_in(mapper);

    for (size_t at = 0; at < length && mmu->kind == MAPPER_COPY; at += PAGE_SIZE) {
        yield(mmu);
        mmu_page(mmu, va + at)->read_only = false;
    }
    mmu_wake(mapper, va, length);
}

static void mmu_take(struct mapper *mapper, unsigned count, const uintptr_t *va,
                     const uint32_t *buffers, int *status)
{
    struct mmu *mmu = mmu_in(mapper);

    for (unsigned i = 0; i < count; i++) {
        struct mmu_page *page = mmu_page(mmu, va[i]);

        yield(mmu);
        status[i] = 0;
        if (mmu->kind == MAPPER_SOFT)
            continue;
        require(mmu, page->memory != NULL, "a page is taken that is not there");
        if (mmu->kind == MAPPER_MOVE && (page->in_use || happens(mmu, mmu->faults.busy_every))) {
            status[i] = -EBUSY;
            continue;
        }
        if (mmu->kind == MAPPER_COPY && mmu->vacant[buffers[i]]) {
            mmu->vacant[buffers[i]] = false;
            mmu->vacant_count--;
            require(mmu, within_budget(mmu), "the cache grows, but its frames are Active");
        }
        memcpy(mapper_buffer(mapper, buffers[i]), page->memory, PAGE_SIZE);
        if (mmu->kind == MAPPER_MOVE) {
            mmu->clean[buffers[i]] = 0;
            page_free(mmu, page);
        }
    }
}

/* Pages are about to be dropped: none may be a part of a large page, or its memory would stay. */
static void check_whole(struct mmu *mmu, unsigned count, const uintptr_t *va)
{
    for (unsigned i = 0; i < count; i++) {
        uint8_t *section = section_of(mmu, va[i]);
        uintptr_t start = va[i] & ~(LARGE_SIZE - 1);

        if (*section == MMU_LARGE)
            require(mmu,
                    va[i] == start && count - i >= SECTION_PAGES &&
                        va[i + SECTION_PAGES - 1] == start + LARGE_SIZE - PAGE_SIZE,
                    "a part of a large page is dropped: its memory would stay");
        *section = MMU_SMALL;
    }
}

static int mmu_drop(struct mapper *mapper, unsigned count, const uintptr_t *va,
                    const uint32_t *frames, int *status)
{
    struct mmu *mmu = mmu_in(mapper);

    (void)frames;
    memset(status, 0, count * sizeof(*status));
    check_whole(mmu, count, va);
    for (unsigned i = 0; i < count && mmu->kind != MAPPER_SOFT; i++) {
        yield(mmu);
        require(mmu, mmu_page(mmu, va[i])->memory != NULL, "a page is dropped that is not there");
        page_free(mmu, mmu_page(mmu, va[i]));
    }
    return 0;
}

static int mmu_fail(struct mapper *mapper, uintptr_t va)
{
    struct mmu *mmu = mmu_in(mapper);
    struct mmu_page *page = mmu_page(mmu, va);

    yield(mmu);
    require(mmu, page->memory == NULL, "SIGBUS is set where a page is");
    page->failed = mmu->kind != MAPPER_SOFT;
    page_wake(mmu, page);
    return 0;
}

static void mmu_unfail(struct mapper *mapper, uintptr_t va)
{
    struct mmu *mmu = mmu_in(mapper);

    yield(mmu);
    mmu_page(mmu, va)->failed = false;
}

/* ---- large pages ---- */

static void large_release(struct mmu *mmu, unsigned buffer)
{
    mmu->filled[buffer] = false;
    memset(mmu->larges[buffer], FOREIGN, LARGE_SIZE);
}

static int mmu_large_fill(struct mapper *mapper, unsigned buffer)
{
    struct mmu *mmu = mmu_in(mapper);

    yield(mmu);
    require(mmu, !mmu->filled[buffer], "a large buffer is filled that has memory");
    if (happens(mmu, mmu->faults.large_fill_every))
        return -ENOMEM;
    mmu->filled[buffer] = true;
    mmu->held += SECTION_PAGES;
    require(mmu, within_budget(mmu), "a large buffer is filled without frames for it");
    memset(mmu->larges[buffer], 0, LARGE_SIZE);
    return 0;
}

static void *mmu_large_content(struct mapper *mapper, unsigned buffer)
{
    struct mmu *mmu = mmu_in(mapper);

    require(mmu, mmu->filled[buffer], "a large buffer is used that has no memory");
    return mmu->larges[buffer];
}

static void mmu_large_empty(struct mapper *mapper, unsigned buffer)
{
    struct mmu *mmu = mmu_in(mapper);

    yield(mmu);
    if (!mmu->filled[buffer])
        return;
    /* What was mapped page by page has taken its memory along. */
    mmu->held -= SECTION_PAGES - mmu->gone[buffer];
    mmu->gone[buffer] = 0;
    large_release(mmu, buffer);
}

/* Page i of a section moves from the buffer to its address, or back. */
static void large_put(struct mmu *mmu, uintptr_t va, unsigned buffer, unsigned i)
{
    mmu->held--;
    put_page(mmu, va + i * PAGE_SIZE, mmu->larges[buffer] + i * PAGE_SIZE, false);
    memset(mmu->larges[buffer] + i * PAGE_SIZE, FOREIGN, PAGE_SIZE);
}

static void large_get(struct mmu *mmu, uintptr_t va, unsigned buffer, unsigned i)
{
    struct mmu_page *page = mmu_page(mmu, va + i * PAGE_SIZE);

    require(mmu, page->memory != NULL, "a large page is taken of which a part is not there");
    memcpy(mmu->larges[buffer] + i * PAGE_SIZE, page->memory, PAGE_SIZE);
    page_free(mmu, page);
    mmu->held++;
}

/* Where the kernel has no huge page for it, or no page at all: by runs of small ones. */
static void map_small(struct mmu *mmu, uintptr_t va, unsigned buffer, unsigned *done)
{
    unsigned most = SECTION_PAGES;

    if (random_once_in(&mmu->random, 2))
        most = (unsigned)random_below(&mmu->random, SECTION_PAGES);
    while (*done < most) {
        unsigned run = (unsigned)random_between(&mmu->random, 1, SECTION_PAGES / 4);

        for (; run > 0 && *done < most; run--, ++*done)
            large_put(mmu, va, buffer, *done);
        yield(mmu);
    }
    mmu->gone[buffer] = (uint16_t)*done;
}

static bool mmu_large_map(struct mapper *mapper, uintptr_t va, unsigned buffer, unsigned *done)
{
    struct mmu *mmu = mmu_in(mapper);

    yield(mmu);
    require(mmu, va % LARGE_SIZE == 0, "a large page is mapped at an address that cannot be");
    require(mmu, mmu->filled[buffer] && mmu->gone[buffer] == 0,
            "a large buffer is mapped that is not full");
    *done = 0;
    *section_of(mmu, va) = MMU_SMALL;
    if (happens(mmu, mmu->faults.large_map_every)) {
        map_small(mmu, va, buffer, done);
        if (*done < SECTION_PAGES)
            return false;
    } else {
        for (; *done < SECTION_PAGES; ++*done)
            large_put(mmu, va, buffer, *done);
        *section_of(mmu, va) = MMU_LARGE;
    }
    mmu->gone[buffer] = 0;
    large_release(mmu, buffer);
    yield(mmu);
    return *section_of(mmu, va) == MMU_LARGE;
}

static bool in_use(struct mmu *mmu, uintptr_t va)
{
    for (unsigned i = 0; i < SECTION_PAGES; i++) {
        if (mmu_page(mmu, va + i * PAGE_SIZE)->in_use)
            return true;
    }
    return false;
}

/* Some pages have been taken when it turns out that others cannot be: they go back. */
static int take_half(struct mmu *mmu, uintptr_t va, unsigned buffer)
{
    unsigned taken = (unsigned)random_below(&mmu->random, SECTION_PAGES);

    *section_of(mmu, va) = MMU_SMALL; /* the kernel has split it, to take some */
    for (unsigned i = 0; i < taken; i++)
        large_get(mmu, va, buffer, i);
    yield(mmu);
    for (unsigned i = 0; i < taken; i++) {
        large_put(mmu, va, buffer, i);
        if (i % RUN_MAX == RUN_MAX - 1)
            yield(mmu);
    }
    memset(mmu->larges[buffer], FOREIGN, LARGE_SIZE);
    return random_once_in(&mmu->random, 2) ? -EBUSY : -ENOENT;
}

static int mmu_large_take(struct mapper *mapper, uintptr_t va, unsigned buffer)
{
    struct mmu *mmu = mmu_in(mapper);

    yield(mmu);
    require(mmu, !mmu->filled[buffer], "a large page is taken into a buffer that has memory");
    if (in_use(mmu, va) || happens(mmu, mmu->faults.large_take_every))
        return take_half(mmu, va, buffer);
    for (unsigned i = 0; i < SECTION_PAGES; i++)
        large_get(mmu, va, buffer, i);
    mmu->filled[buffer] = true;
    *section_of(mmu, va) = MMU_SMALL;
    yield(mmu);
    return 0;
}

static bool mmu_large_split(struct mapper *mapper, uintptr_t va)
{
    struct mmu *mmu = mmu_in(mapper);
    bool refused;

    yield(mmu);
    refused = in_use(mmu, va) || happens(mmu, mmu->faults.large_split_every);
    if (*section_of(mmu, va) == MMU_SMALL)
        return true;
    *section_of(mmu, va) = refused ? MMU_UNSPLIT : MMU_SMALL;
    return !refused;
}

static void mmu_close(struct mapper *mapper)
{
    struct mmu *mmu = mmu_in(mapper);

    require(mmu, mmu->present == 0, "a page is left when the mapper is closed");
    require(mmu, mmu->held == 0, "a large buffer is left full when the mapper is closed");
    for (unsigned i = 0; i < mapper->larges; i++)
        platform_sim.release(mmu->larges[i], LARGE_SIZE);
    platform_sim.release(mmu->memory, (size_t)mmu->pages_max * PAGE_SIZE);
    platform_sim.release(mmu->free, mmu->pages_max * sizeof(*mmu->free));
    platform_sim.release(mmu->vacant, mmu->buffers);
    platform_sim.release(mapper->buffers, (size_t)mmu->buffers * PAGE_SIZE);
    platform_sim.release(mmu->clean, mmu->frames);
    if (mmu->stage_pages > 0) {
        platform_sim.release(mmu->mapper.stage, (size_t)mmu->stage_pages * PAGE_SIZE);
        platform_sim.release(mmu->stage_taken, mmu->stage_pages);
    }
    platform_sim.release(mmu, sizeof(*mmu));
}

static const struct mapper_ops mmu_ops = {
    .name = "simulated",
    .region_open = mmu_region_open,
    .region_split = mmu_region_split,
    .region_close = mmu_region_close,
    .stage_take = mmu_stage_take,
    .stage_give = mmu_stage_give,
    .stage_lend = mmu_stage_lend,
    .vacate = mmu_vacate,
    .map = mmu_map,
    .map_zero = mmu_map_zero,
    .protect = mmu_protect,
    .lift = mmu_lift,
    .take = mmu_take,
    .drop = mmu_drop,
    .fail = mmu_fail,
    .unfail = mmu_unfail,
    .wake = mmu_wake,
    .zero = mmu_zero,
    .large_fill = mmu_large_fill,
    .large_content = mmu_large_content,
    .large_empty = mmu_large_empty,
    .large_map = mmu_large_map,
    .large_take = mmu_large_take,
    .large_split = mmu_large_split,
    .close = mmu_close,
};

void mmu_prepare(struct schedule *s, enum tunable_mapper kind, uint64_t seed,
                 const struct mmu_faults *faults)
{
    prepared.schedule = s;
    prepared.kind = kind;
    prepared.seed = seed;
    prepared.faults = *faults;
}

int mmu_open(struct sync *sync, const struct mapper_options *options, struct mapper **mapper)
{
    struct mmu *mmu = platform_sim.reserve(sizeof(*mmu));
    bool cached = prepared.kind == MAPPER_COPY;

    mmu->schedule = prepared.schedule;
    mmu->kind = prepared.kind;
    mmu->random.state = prepared.seed;
    mmu->faults = prepared.faults;
    mmu->frames = options->frames;
    mmu->buffers = cached ? options->buffers : options->frames;
    mmu->stage_pages = cached ? options->stage : 0;
    mmu->present_max = cached ? options->active : options->frames;
    if (cached) /* while writes fail, rescues may overdraw by so much */
        mmu->present_max += mmu->present_max / 16;
    mmu->mapper = (struct mapper){.ops = &mmu_ops,
                                  .sync = sync,
                                  .has_cache = cached,
                                  .in_place = prepared.kind != MAPPER_SOFT,
                                  .real_frames = !cached,
                                  .protects = prepared.kind != MAPPER_MOVE,
                                  .larges = cached ? options->larges : 0,
                                  .fd = -1};
    mmu->mapper.buffers = platform_sim.reserve((size_t)mmu->buffers * PAGE_SIZE);
    /* What is lent may be present too. */
    mmu->pages_max = mmu->present_max + (cached ? mmu->buffers + mmu->stage_pages : 0);
    mmu->memory = platform_sim.reserve((size_t)mmu->pages_max * PAGE_SIZE);
    mmu->free = platform_sim.reserve(mmu->pages_max * sizeof(*mmu->free));
    mmu->vacant = platform_sim.reserve(mmu->buffers);
    mmu->clean = platform_sim.reserve(mmu->frames);
    for (uint32_t i = 0; i < mmu->pages_max; i++)
        mmu->free[i] = i;
    if (mmu->stage_pages > 0) {
        mmu->mapper.stage = platform_sim.reserve((size_t)mmu->stage_pages * PAGE_SIZE);
        mmu->stage_taken = platform_sim.reserve(mmu->stage_pages);
    }
    for (unsigned i = 0; i < mmu->mapper.larges; i++)
        mmu->larges[i] = platform_sim.reserve(LARGE_SIZE);
    *mapper = &mmu->mapper;
    return 0;
}

/* ---- accesses and their faults ---- */

unsigned mmu_add_bell(struct mmu *mmu, _Atomic uint32_t *bell)
{
    check_always(mmu->bell_count < sizeof(mmu->bells) / sizeof(mmu->bells[0]));
    mmu->bells[mmu->bell_count] = bell;
    return mmu->bell_count++;
}

static void post(struct mmu *mmu, uintptr_t va, unsigned flags, uint32_t thread)
{
    unsigned last = (mmu->posted_first + mmu->posted_count) % MMU_FAULTS;
    unsigned first = (unsigned)random_below(&mmu->random, mmu->bell_count);

    require(mmu, mmu->posted_count < MMU_FAULTS, "more faults are posted than threads can make");
    mmu->posted[last] = (struct pending_fault){.va = va, .flags = flags, .thread = thread};
    mmu->posted_count++;
    for (unsigned i = 0; i < mmu->bell_count; i++) {
        unsigned n = (first + i) % mmu->bell_count;

        if (!mmu->asleep[n] || mmu->unwatched[n])
            continue;
        atomic_fetch_add(mmu->bells[n], 1);
        schedule_unpark(mmu->schedule, mmu->bells[n], INT32_MAX);
        return; /* one handler is enough */
    }
}

static void fall_asleep(struct mmu *mmu, uintptr_t va, uint32_t wakes, uint32_t thread)
{
    require(mmu, mmu->sleeper_count < MMU_FAULTS, "more threads sleep than there are");
    mmu->sleepers[mmu->sleeper_count++] =
        (struct mmu_sleeper){.va = va & ~(PAGE_SIZE - 1), .thread = thread, .wakes = wakes};
}

static void note_taken(struct mmu *mmu, uint32_t thread, unsigned handler)
{
    for (unsigned i = 0; i < mmu->sleeper_count; i++) {
        if (mmu->sleepers[i].thread != thread)
            continue;
        mmu->sleepers[i].taken = true;
        mmu->sleepers[i].handler = handler;
    }
}

bool mmu_sleeper_lost(struct mmu *mmu, const struct mmu_sleeper *sleeper, uint64_t word)
{
    const struct mmu_page *page = mmu_page(mmu, sleeper->va);

    if (!sleeper->taken || !mmu->asleep[sleeper->handler] || page->waking > 0 ||
        atomic_load(&page->wakes) != sleeper->wakes)
        return false;
    return !(word & PTE_BUSY) || !((word & PTE_WANTED_TRAP) || mmu->reading[sleeper->handler]);
}

/* A thread that is awake again waits no more: what it posted is gone, if nobody has taken it. */
static void withdraw(struct mmu *mmu, uint32_t thread)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < mmu->sleeper_count; i++) {
        if (mmu->sleepers[i].thread != thread)
            mmu->sleepers[kept++] = mmu->sleepers[i];
    }
    mmu->sleeper_count = kept;
    kept = 0;
    for (unsigned i = 0; i < mmu->posted_count; i++) {
        struct pending_fault fault = mmu->posted[(mmu->posted_first + i) % MMU_FAULTS];

        if (fault.thread != thread)
            mmu->posted[(mmu->posted_first + kept++) % MMU_FAULTS] = fault;
    }
    mmu->posted_count = kept;
}

unsigned mmu_take_faults(struct mmu *mmu, unsigned handler, struct pending_fault *faults,
                         unsigned max)
{
    unsigned n = 0;

    for (; n < max && mmu->posted_count > 0; n++) {
        faults[n] = mmu->posted[mmu->posted_first];
        mmu->posted_first = (mmu->posted_first + 1) % MMU_FAULTS;
        mmu->posted_count--;
        note_taken(mmu, faults[n].thread, handler);
    }
    return n;
}

enum mmu_result mmu_access(struct machine *m, uintptr_t va, bool write, uint32_t thread,
                           bool sigbus, char **memory)
{
    struct mmu *mmu = mmu_of(m);

    for (;;) {
        struct mmu_page *page = mmu_page(mmu, va);
        unsigned flags = write ? FAULT_WRITE : 0;
        uint32_t wakes;

        yield(mmu);
        if (!page->mapped)
            return MMU_SIGSEGV;
        if (page->failed)
            return MMU_SIGBUS;
        if (page->memory != NULL && !(write && page->read_only)) {
            *memory = page->memory;
            return MMU_OK;
        }
        if (page->memory != NULL)
            flags |= FAULT_PROTECT;
        if (sigbus) {
            enum fault_result result = fault_resolve(m, va, flags, thread);

            if (result == FAULT_FAILED)
                return MMU_SIGBUS;
            if (result == FAULT_OUTSIDE)
                return MMU_SIGSEGV;
            continue;
        }
        wakes = atomic_load(&page->wakes);
        fall_asleep(mmu, va, wakes, thread);
        post(mmu, va & ~(PAGE_SIZE - 1), flags | FAULT_TRAP, thread);
        schedule_park(mmu->schedule, &page->wakes, wakes, 0);
        withdraw(mmu, thread);
    }
}
