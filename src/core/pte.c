/* Waiting for, and ending, the ownership of a page. */
#include "core/pte.h"

#include "core/check.h"
#include "core/machine.h"

/* The half of the word that has the flags. */
static _Atomic uint32_t *pte_low(pte_t *pte)
{
    return (_Atomic uint32_t *)(uintptr_t)pte;
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "pte_low() takes the first half");

bool pte_want(struct machine *m, pte_t *pte, uint64_t mark)
{
    uint64_t word = pte_load(pte);

    while (word & PTE_BUSY) {
        if ((word & mark) == mark || pte_cas(&m->sync, pte, &word, word | mark))
            return true;
    }
    return false;
}

uint64_t pte_wait(struct machine *m, pte_t *pte)
{
    for (;;) {
        uint64_t word = pte_load(pte);

        if (!(word & PTE_BUSY))
            return word;
        if (pte_want(m, pte, PTE_WANTED_PARK)) {
            word = pte_load(pte);
            if (word & PTE_WANTED_PARK)
                sync_park(&m->sync, pte_low(pte), (uint32_t)word, 0);
        }
    }
}

void pte_release(struct machine *m, pte_t *pte, uintptr_t va, uint64_t word)
{
    uint64_t old;

    check_debug(!(word & (PTE_BUSY | PTE_WANTED)));
    pte_assert_state(word);
    sync_yield(&m->sync, SYNC_AT_PTE);
    old = atomic_exchange_explicit(pte, word, memory_order_acq_rel);
    check_always(old & PTE_BUSY);
    check_debug(pte_may_become(old, word));
    if (old & PTE_WANTED_TRAP)
        m->mapper->ops->wake(m->mapper, va, PAGE_SIZE);
    if (old & PTE_WANTED_PARK)
        sync_unpark(&m->sync, pte_low(pte), INT32_MAX);
}
