/*
 * The library: bytes are read as calls with odd addresses and lengths, on the software MMU, beside
 * a model that knows of every page whether it is mapped, how often it is pinned, and what every
 * byte holds. Each call must do what the model says or be refused as the model says, and a call
 * that is refused changes nothing. At the end the books balance and nothing is left in them.
 *
 * Input: four bytes that choose the settings, then calls of an opcode byte and its arguments.
 */
#include <errno.h>

#include "fuzz.h"
#include "internal.h"
#include "memory_store.h"

#define PAGE 4096u
#define AREAS 4u
#define AREA_PAGES 48u
#define CALLS_MAX 120u
#define COPY_MAX (6u * PAGE)

struct page {
    bool mapped;
    uint16_t pins;
    uint8_t content[PAGE];
};

/* Where vmsm_map() put a region; a hole in it may be given to another one later. */
struct area {
    char *base; /* NULL: not mapped yet, or all unmapped again */
    unsigned pages;
    struct page page[AREA_PAGES];
};

struct model {
    struct vmsm *m;
    struct area areas[AREAS];
    unsigned calls;
};

/* Bytes from start on; regions may touch, so a range may lie in several areas. */
struct range {
    char *start;
    size_t length;
    bool aligned;         /* start and length */
    bool covered;         /* not empty, and every byte is mapped */
    uintptr_t first, end; /* if covered: the pages it touches */
};

static struct model model;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    /* Injected failures are logged. */
    log_use_descriptor(-1);
    return 0;
}

/* ---- settings ---- */

static void set(struct tunables *t, const char *name, const char *value)
{
    must(tunables_set(t, name, value) == 0, "%s", error_last());
}

static void settings_choose(struct input *in, struct tunables *t)
{
    static const char *const every[] = {"7", "11", "23", "50"};
    unsigned bits = input_byte(in), features = input_byte(in), store = input_byte(in);
    unsigned sizes = input_byte(in);

    tunables_init(t);
    set(t, "mapper", "soft");
    set(t, "stage", bits & 1 ? "full" : bits & 2 ? "basic" : "single");
    t->memory = 256 * TUNABLE_KIB + (sizes & 3) * 64 * TUNABLE_KIB;
    t->direct = t->preallocate = false;
    t->overcommit = (bits & 4) != 0;
    t->dirty = bits & 8 ? DIRTY_PROTECT : bits & 16 ? DIRTY_HASH : DIRTY_AUTO;
    /* Worker threads one time in eight: without them a finding can be repeated exactly. */
    t->workers = (bits >> 4 & 7) == 7;
    t->more_workers = t->more_workers && t->workers;
    if (bits & 1) {
        t->batching = (features & 1) == 0;
        t->deferred = (features & 2) == 0;
        t->fine_locks = (features & 4) == 0;
        t->shared_locks = (features & 8) == 0;
        t->preserve = (features & 16) == 0;
    }
    t->read_window = sizes & 4 ? 1 : 512;
    t->touch_window = sizes & 8 ? 1 : 512;
    t->trim_batch = sizes & 16 ? 1 : 64;
    t->write_batch = sizes & 32 ? 1 : 64;
    t->store_depth = 4;
    t->hash_seed = 1;
    if (store & 1)
        set(t, "store_write_error", every[store >> 1 & 3]);
    if (store & 8)
        set(t, "store_read_error", every[store >> 4 & 3]);
    if (store & 64)
        set(t, "store_corrupt", "13");
}

/* ---- ranges ---- */

/* The page that is mapped at an address, or NULL. */
static struct page *page_at(uintptr_t va)
{
    for (unsigned n = 0; n < AREAS; n++) {
        struct area *area = &model.areas[n];
        uintptr_t base = (uintptr_t)area->base;

        if (area->base == NULL || va < base || va >= base + (size_t)area->pages * PAGE)
            continue;
        if (area->page[(va - base) / PAGE].mapped)
            return &area->page[(va - base) / PAGE];
    }
    return NULL;
}

static void range_judge(struct range *r)
{
    uintptr_t start = (uintptr_t)r->start;

    r->aligned = start % PAGE == 0 && r->length % PAGE == 0;
    r->covered = false;
    if (r->length == 0 || r->length > (size_t)2 * AREAS * AREA_PAGES * PAGE)
        return;
    r->first = start & ~(uintptr_t)(PAGE - 1);
    r->end = (start + r->length + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
    for (uintptr_t va = r->first; va < r->end; va += PAGE)
        if (page_at(va) == NULL)
            return;
    r->covered = true;
}

/* Odd starts and lengths near the pages of an area, and now and then far from any. */
static struct range range_choose(struct input *in, bool pages_only)
{
    unsigned choice = input_byte(in), page = input_byte(in) % (AREA_PAGES + 4);
    unsigned pages = input_byte(in) % (AREA_PAGES + 4);
    size_t offset = 0, extra = 0;
    struct range r = {0};

    if (!pages_only || (choice & 0x60) == 0x60) {
        offset = input_number(in, 2) % PAGE;
        extra = input_number(in, 2) % PAGE;
    }
    r.length = (size_t)pages * PAGE + extra;
    if ((choice & 0x9c) == 0x9c)
        r.length = SIZE_MAX - r.length;
    r.start = (char *)((uintptr_t)model.areas[choice % AREAS].base + (size_t)page * PAGE + offset);
    range_judge(&r);
    return r;
}

/* Pages of a covered range one after another: for (…; (page = page_next(&r, &va)) != NULL;) */
static struct page *page_next(const struct range *r, uintptr_t *va)
{
    uintptr_t at = *va == 0 ? r->first : *va;

    if (!r->covered || at >= r->end)
        return NULL;
    *va = at + PAGE;
    return page_at(at);
}

static bool range_pinned(const struct range *r)
{
    const struct page *page;

    for (uintptr_t va = 0; (page = page_next(r, &va)) != NULL;)
        if (page->pins > 0)
            return true;
    return false;
}

/* ---- what a call returned ---- */

static void check_result(const char *call, const struct range *r, int got, int want)
{
    must(got == want, "after %u calls, %s of %zu bytes at %p is %d, should be %d: %s", model.calls,
         call, r->length, (void *)r->start, got, want, vmsm_last_error());
    if (got != 0)
        failure_check(got);
}

/* ---- calls ---- */

static void call_map(struct input *in)
{
    struct area *area = &model.areas[input_byte(in) % AREAS];
    bool reserve = input_byte(in) & 1;
    size_t length = (1 + input_byte(in) % AREA_PAGES) * (size_t)PAGE;
    void *base = NULL;
    int error;

    if (area->base != NULL)
        return;
    length -= input_number(in, 2) % PAGE;
    error = reserve ? vmsm_reserve(model.m, length, &base) : vmsm_map(model.m, length, &base);
    must(error == 0, "%zu bytes: %s", length, vmsm_last_error());
    must(base != NULL && (uintptr_t)base % PAGE == 0, "%p", base);
    area->base = base;
    area->pages = (unsigned)((length + PAGE - 1) / PAGE);
    memset(area->page, 0, sizeof(area->page));
    for (unsigned i = 0; i < area->pages; i++)
        area->page[i].mapped = true;
}

static void call_map_wrong(struct input *in)
{
    static const size_t lengths[] = {0, SIZE_MAX, SIZE_MAX - PAGE + 1, (size_t)1 << 62,
                                     ((size_t)1 << 46) + 1};
    size_t length = lengths[input_byte(in) % 5];
    void *base = &model;
    int error = input_byte(in) & 1 ? vmsm_reserve(model.m, length, &base)
                                   : vmsm_map(model.m, length, &base);

    failure_check(error);
    must(error == -EINVAL, "%zu bytes: %d", length, error);
    must(base == &model, "%zu bytes were refused, but mapped at %p", length, base);
}

/* An area without a page is forgotten, so that it can be mapped again. */
static void area_settle(struct area *area)
{
    for (unsigned i = 0; i < area->pages; i++)
        if (area->page[i].mapped)
            return;
    area->base = NULL;
    area->pages = 0;
}

static void call_discard(struct input *in, bool unmap)
{
    struct range r = range_choose(in, true);
    int want = !r.aligned || !r.covered ? -EINVAL : range_pinned(&r) ? -EBUSY : 0;
    int got =
        unmap ? vmsm_unmap(model.m, r.start, r.length) : vmsm_decommit(model.m, r.start, r.length);
    struct page *page;

    check_result(unmap ? "unmap" : "decommit", &r, got, want);
    if (got != 0)
        return;
    for (uintptr_t va = 0; (page = page_next(&r, &va)) != NULL;) {
        page->mapped = !unmap;
        memset(page->content, 0, PAGE);
    }
    for (unsigned n = 0; n < AREAS; n++)
        area_settle(&model.areas[n]);
}

static void call_unmap(struct input *in)
{
    call_discard(in, true);
}

static void call_decommit(struct input *in)
{
    call_discard(in, false);
}

static void call_advise(struct input *in)
{
    unsigned advice = input_byte(in) % 7;
    struct range r = range_choose(in, true);
    int want = r.aligned && r.covered && advice <= VMSM_DONTNEED ? 0 : -EINVAL;

    if (r.length == 0 && r.aligned && advice == VMSM_WILLNEED)
        want = 0; /* nothing is needed */
    check_result("advise", &r, vmsm_advise(model.m, r.start, r.length, (enum vmsm_advice)advice),
                 want);
}

static void call_prefault(struct input *in)
{
    struct range r = range_choose(in, false), second = range_choose(in, false);
    struct iovec ranges[2] = {{r.start, r.length}, {second.start, second.length}};
    int count = (int)(input_byte(in) % 4) - 1, want = count < 0 || count > 2 ? -EINVAL : 0;

    if (count > 2)
        return;
    if ((count > 0 && r.length > 0 && !r.covered) ||
        (count > 1 && second.length > 0 && !second.covered))
        want = -EINVAL;
    check_result("prefault", &r, vmsm_prefault(model.m, ranges, count), want);
}

static void call_pin(struct input *in)
{
    struct range r = range_choose(in, false);
    struct page *page;
    int got;

    if ((input_byte(in) & 3) != 0 && r.covered) { /* mostly few pages, or none fit */
        r.length = r.length % (3 * PAGE) + 1;
        range_judge(&r);
    }
    got = vmsm_pin(model.m, r.start, r.length);
    if (got == -ENOMEM) {
        failure_check(got);
        return;
    }
    check_result("pin", &r, got, r.covered ? 0 : -EINVAL);
    for (uintptr_t va = 0; got == 0 && (page = page_next(&r, &va)) != NULL;)
        page->pins++;
}

static void call_unpin(struct input *in)
{
    struct range r = range_choose(in, false);
    bool pinned = r.covered;
    struct page *page;
    int got;

    for (uintptr_t va = 0; (page = page_next(&r, &va)) != NULL;)
        pinned &= page->pins > 0;
    got = vmsm_unpin(model.m, r.start, r.length);
    check_result("unpin", &r, got, pinned ? 0 : -EINVAL);
    for (uintptr_t va = 0; got == 0 && (page = page_next(&r, &va)) != NULL;)
        page->pins--;
}

/* What the model says of a range, as one run of bytes. */
static uint8_t *content_at(const struct range *r, size_t at, size_t *run)
{
    uintptr_t va = (uintptr_t)r->start + at;
    size_t left = PAGE - va % PAGE;

    *run = left < r->length - at ? left : r->length - at;
    return &page_at(va)->content[va % PAGE];
}

/* Copies are of a few pages; what is not covered stays as long as it is. */
static struct range copy_choose(struct input *in)
{
    struct range r = range_choose(in, false);

    if (r.covered && r.length > COPY_MAX) {
        r.length = r.length % COPY_MAX + 1;
        range_judge(&r);
    }
    return r;
}

static void call_write(struct input *in)
{
    static uint8_t bytes[COPY_MAX];
    struct range r = copy_choose(in);
    unsigned first = input_byte(in), step = input_byte(in);
    size_t run;
    int got;

    if (!r.covered) {
        got = vmsm_write(model.m, r.start, bytes, r.length);
        check_result("write", &r, got, r.length == 0 ? 0 : -EINVAL);
        return;
    }
    for (size_t i = 0; i < r.length; i++)
        bytes[i] = step == 0 ? 0 : (uint8_t)(first + i * step + i / 256);
    got = vmsm_write(model.m, r.start, bytes, r.length);
    check_result("write", &r, got, 0);
    for (size_t at = 0; at < r.length; at += run) {
        uint8_t *content = content_at(&r, at, &run);

        memcpy(content, bytes + at, run);
    }
}

static void check_content(const struct range *r)
{
    static uint8_t bytes[COPY_MAX];
    size_t run;

    memset(bytes, 0xa5, r->length);
    check_result("read", r, vmsm_read(model.m, r->start, bytes, r->length), 0);
    for (size_t at = 0; at < r->length; at += run) {
        const uint8_t *content = content_at(r, at, &run);

        must(memcmp(bytes + at, content, run) == 0,
             "after %u calls, %zu bytes at %p hold %#x…, should hold %#x…", model.calls, run,
             (void *)(r->start + at), bytes[at], content[0]);
    }
}

static void call_read(struct input *in)
{
    static uint8_t bytes[COPY_MAX];
    struct range r = copy_choose(in);

    if (r.covered)
        check_content(&r);
    else
        check_result("read", &r, vmsm_read(model.m, r.start, bytes, r.length),
                     r.length == 0 ? 0 : -EINVAL);
}

/* Many pages at once, so that few bytes of input make memory short. */
static void call_fill(struct input *in)
{
    struct area *area = &model.areas[input_byte(in) % AREAS];
    uint8_t value = input_byte(in);
    uint8_t bytes[PAGE];

    for (unsigned i = 0; i < area->pages; i++) {
        if (!area->page[i].mapped)
            continue;
        memset(bytes, value, PAGE);
        bytes[0] = (uint8_t)i;
        must(vmsm_write(model.m, area->base + (size_t)i * PAGE, bytes, PAGE) == 0, "%s",
             vmsm_last_error());
        memcpy(area->page[i].content, bytes, PAGE);
    }
}

static void area_check(struct area *area)
{
    for (unsigned i = 0; i < area->pages; i++) {
        struct range r = {.start = area->base + (size_t)i * PAGE, .length = PAGE};

        if (area->page[i].mapped)
            check_content(&r);
    }
}

static void call_sweep(struct input *in)
{
    area_check(&model.areas[input_byte(in) % AREAS]);
}

static void call_check(struct input *in)
{
    struct vmsm_counters c;
    uint64_t mapped = 0, pinned = 0;

    (void)in;
    must(vmsm_check(model.m) == 0, "%s", vmsm_last_error());
    must(vmsm_get_counters(model.m, &c) == 0, "%s", vmsm_last_error());
    for (unsigned n = 0; n < AREAS; n++) {
        for (unsigned i = 0; i < model.areas[n].pages; i++) {
            mapped += model.areas[n].page[i].mapped;
            pinned += model.areas[n].page[i].pins;
        }
    }
    must(c.mapped_pages == mapped, "%llu pages mapped, should be %llu",
         (unsigned long long)c.mapped_pages, (unsigned long long)mapped);
    must(c.pinned_pages == pinned, "%llu pins, should be %llu", (unsigned long long)c.pinned_pages,
         (unsigned long long)pinned);
    must(c.pages_lost == 0 && c.faults_failed == 0, "%llu pages were lost",
         (unsigned long long)c.pages_lost);
}

static void call_one(struct input *in)
{
    static void (*const calls[])(struct input *) = {
        call_map,   call_map_wrong, call_unmap, call_decommit, call_advise, call_prefault,
        call_pin,   call_unpin,     call_write, call_write,    call_read,   call_fill,
        call_sweep, call_check,     call_map,   call_read,
    };

    model.calls++;
    calls[input_byte(in) % 16](in);
}

/* Run by run of pages that are mapped. */
static void area_unmap(const struct area *area)
{
    for (unsigned i = 0, end; i < area->pages; i = end + 1) {
        for (end = i; end < area->pages && area->page[end].mapped;)
            end++;
        if (end > i)
            must(vmsm_unmap(model.m, area->base + (size_t)i * PAGE, (size_t)(end - i) * PAGE) == 0,
                 "%s", vmsm_last_error());
    }
}

/* Everything is right, and is given back. */
static void finish(void)
{
    struct vmsm_counters c;

    for (unsigned n = 0; n < AREAS; n++) {
        struct area *area = &model.areas[n];

        area_check(area);
        for (unsigned i = 0; i < area->pages; i++)
            for (; area->page[i].pins > 0; area->page[i].pins--)
                must(vmsm_unpin(model.m, area->base + (size_t)i * PAGE, 1) == 0, "%s",
                     vmsm_last_error());
        area_unmap(area);
    }
    must(vmsm_check(model.m) == 0, "%s", vmsm_last_error());
    vmsm_get_counters(model.m, &c);
    must(c.touched_pages + c.mapped_pages + c.pinned_pages + c.commit_pages == 0,
         "%llu touched, %llu mapped, %llu pinned, %llu promised pages are left in the books",
         (unsigned long long)c.touched_pages, (unsigned long long)c.mapped_pages,
         (unsigned long long)c.pinned_pages, (unsigned long long)c.commit_pages);
    must(c.slots_used == c.slots_bad, "%llu slots are left, of them %llu withdrawn",
         (unsigned long long)c.slots_used, (unsigned long long)c.slots_bad);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    struct tunables t;

    memset(model.areas, 0, sizeof(model.areas));
    model.calls = 0;
    settings_choose(&in, &t);
    must(vmsm_create_tuned(&model.m, &t) == 0, "%s", vmsm_last_error());
    while (input_left(&in) && model.calls < CALLS_MAX)
        call_one(&in);
    finish();
    vmsm_destroy(model.m);
    return 0;
}
