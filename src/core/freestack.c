#include "core/freestack.h"

#include <errno.h>
#include <stddef.h>

#include "core/check.h"

#define STACK_END UINT32_MAX         /* the chain ends here */
#define STACK_TAKEN (UINT32_MAX - 1) /* not in the chain */

static uint32_t first_of(uint64_t head)
{
    return (uint32_t)head;
}

/* What follows a head: another first number, and a tag that was not there before. */
static uint64_t head_after(uint64_t head, uint32_t first)
{
    return ((head >> 32) + 1) << 32 | first;
}

int freestack_init(struct freestack *stack, const struct platform *platform, struct sync *sync,
                   uint32_t capacity)
{
    stack->platform = platform;
    stack->sync = sync;
    stack->capacity = capacity;
    stack->next = platform->reserve(capacity * sizeof(*stack->next));
    if (stack->next == NULL)
        return -ENOMEM;
    for (uint32_t n = 0; n < capacity; n++)
        atomic_init(&stack->next[n], n + 1 < capacity ? n + 1 : STACK_END);
    atomic_init(&stack->head, 0);
    return 0;
}

void freestack_fini(struct freestack *stack)
{
    if (stack->next != NULL)
        stack->platform->release(stack->next, stack->capacity * sizeof(*stack->next));
    stack->next = NULL;
}

uint64_t freestack_resident(const struct freestack *stack)
{
    return stack->platform->resident(stack->next, stack->capacity * sizeof(*stack->next));
}

unsigned freestack_take(struct freestack *stack, unsigned want, uint32_t *numbers)
{
    uint64_t head = atomic_load_explicit(&stack->head, memory_order_acquire);
    unsigned got;
    uint32_t n;

    do {
        n = first_of(head);
        for (got = 0; got < want && n < stack->capacity; got++) {
            numbers[got] = n;
            n = atomic_load_explicit(&stack->next[n], memory_order_relaxed);
        }
        sync_yield(stack->sync, SYNC_AT_ATOMIC);
        /* If somebody took or gave meanwhile, the numbers met may be nonsense, and the head has
         * another tag. */
    } while (!atomic_compare_exchange_weak_explicit(&stack->head, &head, head_after(head, n),
                                                    memory_order_acq_rel, memory_order_acquire));
    for (unsigned i = 0; i < got; i++)
        atomic_store_explicit(&stack->next[numbers[i]], STACK_TAKEN, memory_order_relaxed);
    return got;
}

void freestack_give(struct freestack *stack, unsigned count, const uint32_t *numbers)
{
    uint64_t head = atomic_load_explicit(&stack->head, memory_order_relaxed);

    if (count == 0)
        return;
    for (unsigned i = 0; i < count; i++) {
        /* What is given back was taken, and only once. */
        check_always(numbers[i] < stack->capacity &&
                     atomic_exchange_explicit(&stack->next[numbers[i]],
                                              i + 1 < count ? numbers[i + 1] : STACK_END,
                                              memory_order_relaxed) == STACK_TAKEN);
    }
    do {
        atomic_store_explicit(&stack->next[numbers[count - 1]], first_of(head),
                              memory_order_relaxed);
        sync_yield(stack->sync, SYNC_AT_ATOMIC);
    } while (!atomic_compare_exchange_weak_explicit(&stack->head, &head,
                                                    head_after(head, numbers[0]),
                                                    memory_order_release, memory_order_relaxed));
}

uint32_t freestack_taken(const struct freestack *stack)
{
    uint32_t taken = 0;

    for (uint32_t n = 0; n < stack->capacity; n++)
        taken += atomic_load(&stack->next[n]) == STACK_TAKEN;
    return taken;
}
