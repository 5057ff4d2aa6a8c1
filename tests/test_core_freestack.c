/*
 * The stack of free numbers: every number is given to one at a time, the last given back first.
 */
#include "core/freestack.h"
#include "machine_fixture.h"

#define NUMBERS 100u
#define THREADS 4u
#define ROUNDS 20000u

static struct sync hooks = {.backend = &sync_backend_linux};

static void order(void)
{
    struct freestack stack;
    uint32_t numbers[NUMBERS], again[3];

    freestack_init(&stack, &platform_linux, &hooks, NUMBERS);
    is(freestack_taken(&stack), 0, "at first all are free");
    is(freestack_take(&stack, 3, numbers), 3, "some are taken");
    is(freestack_taken(&stack), 3, "and counted");
    freestack_give(&stack, 2, numbers + 1);
    is(freestack_take(&stack, 2, again), 2, "others are taken");
    ok(again[0] == numbers[1] && again[1] == numbers[2], "those that came back last");
    is(freestack_take(&stack, NUMBERS, numbers), NUMBERS - 3, "the rest, though more are wanted");
    is(freestack_take(&stack, 1, again), 0, "then there are none");
    freestack_give(&stack, 0, numbers);
    freestack_give(&stack, 1, numbers);
    is(freestack_take(&stack, 2, again), 1, "but for one that is given back");
    is(again[0], numbers[0], "that one");
    freestack_fini(&stack);
}

static void give_twice(void *argument)
{
    uint32_t number = 7;

    freestack_give(argument, 1, &number);
}

static void misuse(void)
{
    struct freestack stack;
    char text[512] = "";

    freestack_init(&stack, &platform_linux, &hooks, NUMBERS);
    is(signal_of(give_twice, &stack, text, sizeof(text)), SIGABRT, "giving what is free aborts");
    ok(strstr(text, "broken invariant") != NULL, "in words");
    freestack_fini(&stack);
}

/* A number that is taken and given back by another thread at the next yield point. */
static struct freestack *disturbed;

static void disturb(struct sync *s, enum sync_point point)
{
    struct freestack *stack = disturbed;
    uint32_t numbers[3];

    (void)s;
    (void)point;
    disturbed = NULL;
    if (stack == NULL)
        return;
    freestack_take(stack, 3, numbers);
    freestack_give(stack, 1, &numbers[0]); /* the head is what it was, and what follows is not */
}

static void outrun(void)
{
    struct sync_backend backend = sync_backend_linux;
    struct sync sync = {.backend = &backend};
    struct freestack stack;
    uint32_t numbers[2];

    backend.yield = disturb;
    freestack_init(&stack, &platform_linux, &sync, NUMBERS);
    disturbed = &stack;
    is(freestack_take(&stack, 2, numbers), 2, "two are taken while others come and go");
    ok(numbers[0] == 0 && numbers[1] == 3, "none that another has");
    is(freestack_taken(&stack), 4, "and each is taken once");
    freestack_fini(&stack);
}

struct contest {
    struct freestack stack;
    _Atomic unsigned char owners[NUMBERS];
    _Atomic unsigned clashes;
    _Atomic uint32_t seed;
};

static void *take_and_give(void *argument)
{
    struct contest *c = argument;
    unsigned state = atomic_fetch_add(&c->seed, 1) * 7919 + 1;

    for (unsigned round = 0; round < ROUNDS; round++) {
        uint32_t mine[40];
        unsigned got;

        state = state * 1103515245 + 12345;
        got = freestack_take(&c->stack, 1 + (state >> 16) % 40, mine);
        for (unsigned i = 0; i < got; i++)
            c->clashes += atomic_exchange(&c->owners[mine[i]], 1);
        for (unsigned i = 0; i < got; i++)
            c->owners[mine[i]] = 0;
        freestack_give(&c->stack, got, mine);
    }
    return NULL;
}

/* 100 numbers for four threads that want up to 160. */
static void contention(void)
{
    static struct contest c;
    pthread_t ids[THREADS];

    freestack_init(&c.stack, &platform_linux, &hooks, NUMBERS);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_create(&ids[i], NULL, take_and_give, &c);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(ids[i], NULL);
    is(c.clashes, 0, "no number is given to two threads");
    is(freestack_taken(&c.stack), 0, "all come back");
    freestack_fini(&c.stack);
}

int main(void)
{
    order();
    misuse();
    outrun();
    contention();
    return done_testing();
}
