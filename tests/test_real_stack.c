/*
 * The trap sigbus resolves faults on the stack of the faulting thread, down to trims, writes and
 * messages if there are no workers. What it says that it needs is enough: an alternate stack of
 * that size, with nothing below it.
 */
#include <pthread.h>
#include <sys/auxv.h>

#include "real_fixture.h"
#include "trap/trap.h"

#define PAGES 1024u
#define PAINT 0xa5
#define GUARD (32 * PAGE) /* larger than any function's frame, which could step over it */

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif

struct stack {
    unsigned char *low; /* above GUARD bytes that nobody may touch */
    size_t size;
};

struct user {
    struct real r;
    struct stack stack;
    size_t wrong, failed;
};

/* The kernel's frame, and what the handler says that it needs. A sanitizer's functions need far
 * more. */
static size_t stack_size(void)
{
    size_t frame = getauxval(AT_MINSIGSTKSZ), handler = TRAP_SIGBUS_STACK;

    if (frame == 0)
        frame = 2048;
    if (SANITIZED)
        handler *= 16;
    return (frame + handler + PAGE - 1) / PAGE * PAGE;
}

static bool stack_make(struct stack *s)
{
    unsigned char *memory;

    s->size = stack_size();
    memory =
        mmap(NULL, s->size + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, GUARD, PROT_NONE) != 0)
        return false;
    s->low = memory + GUARD;
    memset(s->low, PAINT, s->size);
    return true;
}

/* How deep has it been used? */
static size_t stack_depth(const struct stack *s)
{
    size_t clean = 0;

    while (clean < s->size && s->low[clean] == PAINT)
        clean++;
    return s->size - clean;
}

/* Fill, read and rewrite; every second page anew, so that trims find scattered pages. */
static void *use(void *argument)
{
    struct user *u = argument;
    stack_t alternate = {.ss_sp = u->stack.low, .ss_size = u->stack.size};

    if (sigaltstack(&alternate, NULL) != 0) {
        u->wrong = SIZE_MAX;
        return NULL;
    }
    for (uint64_t round = 1; round <= 3; round++) {
        for (size_t p = 0; p < PAGES; p++)
            u->failed += !real_try_fill(u->r.base, p, round);
        for (size_t p = 0; p < PAGES; p += 2)
            u->failed += !touch(u->r.base + p * PAGE);
        for (size_t p = 0; p < PAGES; p++) {
            enum page_look look = real_look(u->r.base, p, round);

            u->wrong += look == PAGE_WRONG;
            u->failed += look == PAGE_FAILED;
        }
    }
    alternate.ss_flags = SS_DISABLE;
    sigaltstack(&alternate, NULL);
    return NULL;
}

static void small_stack(const char *conf, bool fails)
{
    struct user u = {0};
    pthread_t id;

    if (!stack_make(&u.stack)) {
        ok(false, "a stack");
        return;
    }
    if (real_open(&u.r, PAGES, "trap:sigbus,memory:1M,workers:off,%s", conf)) {
        pthread_create(&id, NULL, use, &u);
        pthread_join(id, NULL);
        note("%s: %zu of %zu bytes used, the kernel's frame included", u.r.conf,
             stack_depth(&u.stack), u.stack.size);
        ok(stack_depth(&u.stack) > 0, "%s: the handler ran on its stack", u.r.conf);
        if (fails)
            ok(u.failed > 0, "%s: %zu touches failed", u.r.conf, u.failed);
        else
            is(u.failed, 0, "%s: every fault is served", u.r.conf);
        is(u.wrong, 0, "%s: every page that is shown is right", u.r.conf);
        real_close(&u.r);
    }
    munmap(u.stack.low - GUARD, u.stack.size + GUARD);
}

int main(void)
{
    log_catch();
    catch_sigbus();
    for (unsigned i = 0; i < 2; i++) {
        const char *mapper = i == 0 ? "mapper:copy" : "mapper:move";
        static const char *const more[] = {"stage:full", "stage:single",
                                           "stage:full,store_write_error:2,write_batch:4",
                                           "stage:basic,store_bad_write_slot:5"};
        char conf[100];

        for (size_t k = 0; k < sizeof(more) / sizeof(more[0]); k++) {
            snprintf(conf, sizeof(conf), "%s,%s", mapper, more[k]);
            small_stack(conf, false);
        }
        snprintf(conf, sizeof(conf), "%s,store_read_error:1", mapper);
        small_stack(conf, true);
    }
    small_stack("mapper:copy,dirty:protect", false);
    return done_testing();
}
