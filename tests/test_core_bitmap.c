/*
 * The bitmap: runs lie together, every free bit is found, none is given twice.
 */
#include "core/bitmap.h"
#include "machine_fixture.h"

#define BITS (3 * BITMAP_BLOCK)
#define THREADS 4u

static struct sync hooks = {.backend = &sync_backend_linux};

static void fill(struct bitmap *map)
{
    uint64_t first;

    while (bitmap_take_run(map, 512, &first) > 0)
        continue;
}

static void runs(void)
{
    struct bitmap map;
    uint64_t first, next;

    bitmap_init(&map, &platform_linux, &hooks, BITS, BITS);
    is(bitmap_take_run(&map, 100, &first), 100, "a run as long as asked for");
    is(bitmap_take_run(&map, 300, &next), 300, "and another");
    is(next, first + 100, "taken one after the other, they lie side by side");
    bitmap_release(&map, first, 100);
    is(bitmap_take_run(&map, 50, &first), 50, "a third, after the first was released");
    is(first, next + 300, "goes on where the last ended, as a log does");
    ok(bitmap_test(&map, next + 299) && !bitmap_test(&map, 0), "bits say who is taken");
    is(map.used, 350, "used bits are counted");
    bitmap_fini(&map);
}

static void limits(void)
{
    struct bitmap map;
    uint64_t first = 0, total = 0;
    unsigned got;
    bool inside = true;

    bitmap_init(&map, &platform_linux, &hooks, BITS, 1000);
    ok(!bitmap_take_bit(&map, 1000), "a bit at the limit cannot be taken");
    while ((got = bitmap_take_run(&map, 64, &first)) > 0) {
        total += got;
        inside = inside && first + got <= 1000;
    }
    is(total, 1000, "all bits under the limit are found");
    ok(inside, "and none over it");
    bitmap_grow(&map, 1001);
    is(bitmap_take_run(&map, 64, &first), 1, "growing by one gives one");
    is(first, 1000, "the new one");
    bitmap_fini(&map);
}

static void fragments(void)
{
    struct bitmap map;
    uint64_t first, total = 0;

    bitmap_init(&map, &platform_linux, &hooks, BITS, BITS);
    fill(&map);
    is(map.used, BITS, "full");
    is(bitmap_take_run(&map, 1, &first), 0, "a full map has nothing");
    ok(!bitmap_take_bit(&map, 77), "a taken bit cannot be taken");
    bitmap_release(&map, 2 * BITMAP_BLOCK + 61, 5);
    is(bitmap_take_run(&map, 5, &first), 5, "the only free run, over a word's edge, is found");
    is(first, 2 * BITMAP_BLOCK + 61, "where it is");
    for (uint64_t bit = 0; bit < BITS; bit += 2)
        bitmap_release(&map, bit, 1);
    for (unsigned got; (got = bitmap_take_run(&map, 8, &first)) > 0; total += got) {
        if (got != 1 || first % 2 != 0)
            ok(false, "only single even bits were free, got %u at %llu", got,
               (unsigned long long)first);
    }
    is(total, BITS / 2, "every single bit is found");
    bitmap_release(&map, 100, 20);
    bitmap_release(&map, BITMAP_BLOCK + 200, 90);
    is(bitmap_take_run(&map, 128, &first), 90, "nothing fits: the longest run is taken");
    bitmap_fini(&map);
}

/* Bits of the log: from one block in order, and then from the freest. */
static void log_order(void)
{
    struct bitmap map;
    uint64_t first, total = 0;
    unsigned got;

    bitmap_init(&map, &platform_linux, &hooks, BITS, BITS);
    is(bitmap_take_log(&map, UINT64_MAX, 1000, &first), 1000, "log: a run as long as asked for");
    is(bitmap_take_log(&map, UINT64_MAX, 1000, &first), BITMAP_BLOCK - 1000, "to the block's end");
    is(bitmap_take_log(&map, UINT64_MAX, 10, &first), 10, "then");
    is(first, BITMAP_BLOCK, "the next block, none is freer");
    for (unsigned i = 0; i < 50; i++)
        bitmap_release(&map, 2 * i, 1);
    is(bitmap_take_log(&map, UINT64_MAX, 10, &first), 10, "what is released elsewhere waits");
    is(first, BITMAP_BLOCK + 10, "until the block is full");
    while (bitmap_take_log(&map, UINT64_MAX, 512, &first) > 1)
        continue;
    is(first, 0, "and until no block is freer");
    is(bitmap_take_log(&map, UINT64_MAX, 512, &first), 1, "what is free is taken run by run");
    is(first, 2, "in order");
    bitmap_release(&map, 2 * BITMAP_BLOCK, 300);
    while ((got = bitmap_take_log(&map, BITMAP_BLOCK + 5, 512, &first)) > 0)
        total += got;
    is(total, 48, "below an end: all that is free");
    ok(first < BITMAP_BLOCK, "and nothing else");
    is(bitmap_take_log(&map, UINT64_MAX, 512, &first), 300, "beyond it is more");
    is(bitmap_take_log(&map, UINT64_MAX, 512, &first), 0, "and then nothing");
    bitmap_release(&map, 5, 1);
    is(bitmap_take_log(&map, UINT64_MAX, 512, &first), 1, "a last bit is found");
    bitmap_fini(&map);
}

/* Bits for what is to stay together: of the next run that is long enough, or else the longest. */
static void together(void)
{
    struct bitmap map;
    uint64_t first;

    bitmap_init(&map, &platform_linux, &hooks, BITS, BITS);
    fill(&map);
    is(bitmap_take_near(&map, UINT64_MAX, 8, &first), 0, "together: a full map has nothing");
    bitmap_release(&map, 10, 3);
    bitmap_release(&map, 40, 8);
    bitmap_release(&map, 2000, 20);
    is(bitmap_take_near(&map, UINT64_MAX, 8, &first), 8, "all that is asked for");
    is(first, 40, "where there is room for it");
    is(bitmap_take_near(&map, UINT64_MAX, 8, &first), 8, "then");
    is(first, 2000, "the next such place");
    is(bitmap_take_near(&map, UINT64_MAX, 16, &first), 12, "or else the longest run");
    is(first, 2008, "wherever it is");
    bitmap_release(&map, 2000, 20);
    is(bitmap_take_near(&map, 1000, 8, &first), 3, "but below an end");
    is(first, 10, "and from the beginning again");
    bitmap_fini(&map);
}

static void release_twice(void *argument)
{
    struct bitmap *map = argument;

    bitmap_release(map, 10, 3);
    bitmap_release(map, 12, 1);
}

static void misuse(void)
{
    struct bitmap map;
    char text[512] = "";
    uint64_t first;

    bitmap_init(&map, &platform_linux, &hooks, BITS, BITS);
    bitmap_take_run(&map, 64, &first);
    is(signal_of(release_twice, &map, text, sizeof(text)), SIGABRT, "releasing twice aborts");
    ok(strstr(text, "broken invariant") != NULL, "in words");
    bitmap_fini(&map);
}

/* Bits that are taken by another thread at the next yield point. */
static struct bitmap *robbed;

static void rob(struct sync *s, enum sync_point point)
{
    struct bitmap *map = robbed;

    (void)s;
    (void)point;
    robbed = NULL;
    if (map != NULL && !bitmap_take_bit(map, 70))
        ok(false, "bit 70 is free");
}

/* A run was free when it was found, and is not any more when it is taken. */
static void outrun(void)
{
    struct sync_backend backend = sync_backend_linux;
    struct sync sync = {.backend = &backend};
    struct bitmap map;
    uint64_t first;

    backend.yield = rob;
    bitmap_init(&map, &platform_linux, &sync, BITS, BITS);
    robbed = &map;
    is(bitmap_take_run(&map, 128, &first), 64, "a run ends at a bit that somebody took meanwhile");
    is(first, 0, "from its first on");
    is(map.used, 64 + 1, "each bit is counted once");
    bitmap_fini(&map);
}

struct contest {
    struct bitmap map;
    _Atomic unsigned char owners[BITS];
    _Atomic unsigned clashes;
    _Atomic uint32_t seed;
};

static void *take_and_release(void *argument)
{
    struct contest *c = argument;
    unsigned state = atomic_fetch_add(&c->seed, 1) * 7919 + 1;
    struct {
        uint64_t first;
        unsigned count;
    } mine[8] = {{0, 0}};

    for (unsigned round = 0; round < 1500; round++) {
        unsigned i = round % 8, got;

        for (unsigned n = 0; n < mine[i].count; n++)
            c->owners[mine[i].first + n] = 0;
        if (mine[i].count > 0)
            bitmap_release(&c->map, mine[i].first, mine[i].count);
        state = state * 1103515245 + 12345;
        got = bitmap_take_run(&c->map, 1 + (state >> 16) % 100, &mine[i].first);
        mine[i].count = got;
        for (unsigned n = 0; n < got; n++)
            c->clashes += atomic_exchange(&c->owners[mine[i].first + n], 1);
    }
    for (unsigned i = 0; i < 8; i++) {
        for (unsigned n = 0; n < mine[i].count; n++)
            c->owners[mine[i].first + n] = 0;
        bitmap_release(&c->map, mine[i].first, mine[i].count);
    }
    return NULL;
}

/* 1000 bits for four threads that want up to 3200: they meet all the time. */
static void contention(void)
{
    static struct contest c;
    pthread_t ids[THREADS];

    bitmap_init(&c.map, &platform_linux, &hooks, BITS, 1000);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_create(&ids[i], NULL, take_and_release, &c);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(ids[i], NULL);
    is(c.clashes, 0, "no bit is given to two threads");
    is(c.map.used, 0, "all come back");
    is(c.map.block_used[0], 0, "by block too");
    bitmap_fini(&c.map);
}

int main(void)
{
    runs();
    limits();
    fragments();
    log_order();
    together();
    misuse();
    outrun();
    contention();
    return done_testing();
}
