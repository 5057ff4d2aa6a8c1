/*
 * Reading around: where pages that are not there are asked for far more than elsewhere, one brings
 * along those beside it.
 */
#include "machine_fixture.h"

#define SECTION 512u
#define GROUP 16u

/* Pages that are in the pagefile, in threads' sets of streams that have learned to read one page. */
static uintptr_t set_up_pages(struct fixture *f, const char *conf, size_t pages, mapper_open *open)
{
    uintptr_t base;

    set_up_mapper(f, conf, open);
    for (unsigned i = 0; i < STREAM_SETS; i++)
        f->m->streams.sets[i].first[0] = (struct stream_first){.window = 1};
    base = map_pages(f, pages);
    put_all(f, base, pages, 1);
    page_out(f);
    age_pass(f);
    return base;
}

/* Each fault is another thread's, or they would be a stream with steps. */
static uint32_t thread;

/* Ask for pages that are `step` apart. Returns how many came. */
static size_t ask(struct fixture *f, uintptr_t base, size_t first, size_t count, size_t step)
{
    size_t before = pages_at(f, base, SECTION, 'a');

    for (size_t i = first; i < first + count; i++)
        fault_at(f, base, i * step, ++thread);
    return pages_at(f, base, SECTION, 'a') - before;
}

/* So many pages of the group of the page come when it is asked for. */
static size_t group_of(struct fixture *f, uintptr_t base, size_t page)
{
    size_t first = page / GROUP * GROUP;
    size_t before = pages_at(f, base + first * PAGE, GROUP, 'a');

    fault_at(f, base, page, ++thread);
    return pages_at(f, base + first * PAGE, GROUP, 'a') - before;
}

static void dense(void)
{
    struct fixture f;
    uintptr_t base = set_up_pages(&f, "memory:8M,touch_window:1", 3 * SECTION, mapper_soft_open);
    uint64_t ios;

    is(ask(&f, base, 0, 102, 4), 102, "pages that are asked for come alone");
    ios = counted(&f, COUNTER_read_ios);
    is(group_of(&f, base, 453), GROUP, "when a fifth has been, one brings along its group");
    is(counted(&f, COUNTER_read_ios), ios + 1, "by one read");
    is(word_at(&f, base, 453) & PTE_READAHEAD, 0, "it was asked for");
    is(word_at(&f, base, 448) & PTE_READAHEAD, PTE_READAHEAD, "the first of the group was not");
    is(word_at(&f, base, 463) & PTE_READAHEAD, PTE_READAHEAD, "nor the last");
    is(group_of(&f, base, 1), 3,
       "of another group those come that lie beside it, and are not there");
    is(group_of(&f, base, SECTION + 100), GROUP, "so it is in the section beside");
    is(group_of(&f, base, 2 * SECTION + 100), 1, "but not in the next but one");
    is(machine_advise(f.m, base, SECTION * PAGE, VMSM_RANDOM), 0, "the program knows better");
    is(group_of(&f, base, 470), 1, "and has its way");
    is(machine_advise(f.m, base, SECTION * PAGE, VMSM_NORMAL), 0, "until it says otherwise");
    age_pass(&f);
    is(group_of(&f, base, 486), 1, "what was asked for before the last pass counts by half");
    is(wrong_of(&f, base, 3 * SECTION, 1), 0, "all is right");
    tear_down(&f);
}

/* Where all sections are asked for alike, none stands out. */
static void alike(void)
{
    struct fixture f;
    uintptr_t base = set_up_pages(&f, "memory:8M,touch_window:1", 3 * SECTION, mapper_soft_open);

    for (size_t section = 0; section < 3; section++)
        ask(&f, base + section * SECTION * PAGE, 0, 60, 2);
    age_pass(&f);
    is(ask(&f, base, 60, 100, 2), 100, "where pages are asked for everywhere they come alone");
    is(group_of(&f, base, 486), 1, "also if a fifth has been");
    tear_down(&f);
}

static void unwanted(void)
{
    struct fixture f;
    uintptr_t base =
        set_up_pages(&f, "memory:8M,touch_window:1,read_window:8", SECTION, mapper_soft_open);

    ask(&f, base, 0, 110, 4);
    is(group_of(&f, base, 486), 1, "a window shorter than a group is kept to");
    tear_down(&f);
}

/* A mapper that has staging for three pages of a run. */
static struct mapper_ops scarce, usual;

static unsigned stage_take_scarce(struct mapper *mapper, unsigned want, const uint32_t *frames,
                                  struct mapper_stage *stage)
{
    return usual.stage_take(mapper, want < 3 ? want : 3, frames, stage);
}

static int open_scarce(struct sync *sync, const struct mapper_options *options,
                       struct mapper **mapper)
{
    int error = mapper_soft_open(sync, options, mapper);

    if (error != 0)
        return error;
    scarce = usual = *(*mapper)->ops;
    scarce.stage_take = stage_take_scarce;
    (*mapper)->ops = &scarce;
    return 0;
}

static void scarce_staging(void)
{
    struct fixture f;
    uintptr_t base = set_up_pages(&f, "memory:8M,touch_window:1", SECTION, open_scarce);

    ask(&f, base, 0, 110, 4);
    is(group_of(&f, base, 488), 3, "with little staging fewer come");
    is(where(&f, base, 488), 'a', "among them the one that was asked for");
    is(wrong_of(&f, base, SECTION, 1), 0, "all is right");
    tear_down(&f);
}

static void scarce_frames(void)
{
    struct fixture f;
    uintptr_t base = set_up_pages(&f, "memory:8M,touch_window:1", SECTION, mapper_soft_open);
    unsigned all;

    ask(&f, base, 0, 110, 4);
    all = frame_reserve(f.m, f.m->frame_count);
    frame_unreserve(f.m, 3);
    is(group_of(&f, base, 488), 3, "with few frames fewer come");
    is(where(&f, base, 488), 'a', "among them the one that was asked for");
    frame_unreserve(f.m, all - 3);
    tear_down(&f);
}

/* Of a group that is in many places in the pagefile only the page itself comes. */
static void scattered(void)
{
    uint32_t old[8];
    struct fixture f;
    uintptr_t base = set_up_pages(&f, "memory:8M,touch_window:1", SECTION, mapper_soft_open);

    for (size_t p = 480; p < 496; p += 2) {
        old[(p - 480) / 2] = pte_number(word_at(&f, base, p));
        put(&f, base, p, 2);
        trim_all(&f);
        slot_release_deferred(f.m);
        ok(pagefile_take_slot(f.m, old[(p - 480) / 2]), "page %zu cannot go where it was", p);
        page_out(&f);
    }
    for (size_t i = 0; i < 8; i++)
        pagefile_release(f.m, old[i]);
    for (unsigned pass = 0; pass < 4; pass++)
        age_pass(&f);
    ask(&f, base, 0, 110, 4);
    is(group_of(&f, base, 488), 1, "where places in the pagefile are apart it comes alone");
    ok(holds(&f, base, 488, 2) && holds(&f, base, 489, 1), "all is right");
    tear_down(&f);
}

/* Where hits are not seen, all pages of a dense section are young. */
static void young(void)
{
    struct fixture f;
    uintptr_t base = set_up_pages(&f, "memory:8M,touch_window:1", 2 * SECTION, mapper_soft_open);

    ask(&f, base, 0, 104, 4);
    ask(&f, base + PAGE, 0, 102, 4);
    is(where(&f, base, 415), 'a', "a page has come with another");
    f.m->mapper->in_place = true;
    age_pass(&f);
    is(pte_age(word_at(&f, base, 415)), 0, "it is as young as can be");
    f.m->mapper->in_place = false;
    age_pass(&f);
    is(pte_age(word_at(&f, base, 415)), 1, "where hits are seen, only those make it so");
    tear_down(&f);
}

/* Only the section itself tells, once it has been asked for as many pages as it has groups. */
static void beside(void)
{
    struct fixture f;
    uintptr_t base = set_up_pages(&f, "memory:8M,touch_window:1", 2 * SECTION, mapper_soft_open);

    ask(&f, base + SECTION * PAGE, 0, 31, 4);
    ask(&f, base, 0, 110, 4);
    is(group_of(&f, base + SECTION * PAGE, 200), GROUP, "who is beside goes by its neighbour");
    is(group_of(&f, base + SECTION * PAGE, 300), 1, "but not when enough is known of it");
    tear_down(&f);
}

/* Who asks for whole ranges says nothing of what is beside them. */
static void explicitly(void)
{
    struct fixture f;
    uintptr_t base = set_up_pages(&f, "memory:8M,touch_window:1", SECTION, mapper_soft_open);

    for (size_t p = 0; p < 440; p += 4) {
        struct iovec range = {.iov_base = (void *)(base + p * PAGE), .iov_len = PAGE};

        is(machine_prefault(f.m, &range, 1), 0, "page %zu is prefaulted", p);
    }
    is(group_of(&f, base, 488), 1, "pages that were prefaulted are not counted");
    tear_down(&f);
}

/* A section that has been asked for many more pages than it has keeps half of them only. */
static void often(void)
{
    struct fixture f;
    uintptr_t base = set_up_pages(&f, "memory:8M,touch_window:1", SECTION, mapper_soft_open);
    struct section *section = pagetable_section(f.m->regions[0]->table, base);

    atomic_store(&section->asked, 100000);
    age_pass(&f);
    is(atomic_load(&section->asked), SECTION / 2, "what was asked for long ago is forgotten");
    tear_down(&f);
}

static void off(void)
{
    struct fixture f;
    uintptr_t base =
        set_up_pages(&f, "memory:8M,touch_window:1,around:0", SECTION, mapper_soft_open);

    ask(&f, base, 0, 110, 4);
    is(group_of(&f, base, 488), 1, "it can be switched off");
    tear_down(&f);
}

/* All is dense. Read `pages` of each of the streams, which take turns. Returns the faults it took. */
static uint64_t scan(size_t streams, size_t pages, int stride, const char *conf)
{
    struct fixture f;
    size_t sections = (streams * pages + SECTION - 1) / SECTION;
    uintptr_t base = set_up_pages(&f, conf, streams * pages, mapper_soft_open);
    uint64_t faults = 0;

    atomic_store(&f.m->around.dense_from, 1);
    for (size_t n = 0; n < sections; n++)
        atomic_store(&pagetable_section(f.m->regions[0]->table, base + n * SECTION * PAGE)->asked,
                     SECTION);
    for (size_t i = 0; i < pages; i++) {
        for (size_t s = 0; s < streams; s++) {
            size_t page = s * pages + (stride > 0 ? i : pages - 1 - i);

            if (where(&f, base, page) == 'a')
                continue;
            fault_at(&f, base, page, 7);
            faults++;
        }
    }
    is(wrong_of(&f, base, streams * pages, 1), 0, "all is right");
    tear_down(&f);
    return faults;
}

/* Streams are seen where pages come around as they are elsewhere. */
static void streams(void)
{
    static const struct {
        size_t streams, pages;
        int stride;
        const char *what;
    } cases[] = {{1, 2048, 1, "a scan"},
                 {1, 2048, -1, "one that goes backward"},
                 {2, 1019, 1, "two that take turns"},
                 {2, 1019, -1, "and go backward"},
                 {3, 701, 1, "three that take turns"}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t faults =
            scan(cases[i].streams, cases[i].pages, cases[i].stride, "memory:64M,touch_window:1");
        uint64_t without = scan(cases[i].streams, cases[i].pages, cases[i].stride,
                                "memory:64M,touch_window:1,around:0");

        ok(faults <= without + cases[i].streams, "%s: %llu faults, %llu where none come around",
           cases[i].what, (unsigned long long)faults, (unsigned long long)without);
    }
}

int main(void)
{
    dense();
    alike();
    unwanted();
    scarce_staging();
    scarce_frames();
    scattered();
    young();
    beside();
    explicitly();
    often();
    off();
    streams();
    return done_testing();
}
