/*
 * A readable trace: after every step, what has changed in any page, frame or thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/check.h"
#include "sim/world.h"

struct trace {
    struct world *w;
    FILE *out;
    uint64_t words[MMU_PAGES];
    uint8_t states[4096];
    uint32_t slots[4096];
    uint64_t lines;
};

struct trace *trace_new(struct world *w, void *file)
{
    struct trace *t = calloc(1, sizeof(*t));

    check_always(t != NULL);
    t->w = w;
    t->out = file;
    return t;
}

void trace_free(struct trace *t)
{
    fflush(t->out);
    free(t);
}

static void print_word(FILE *out, uint64_t word)
{
    static const struct {
        uint64_t bit;
        const char *name;
    } bits[] = {
        {PTE_BUSY, " busy"},           {PTE_WANTED_TRAP, " wanted"},
        {PTE_WANTED_PARK, " waited"},  {PTE_ACCESSED, " accessed"},
        {PTE_READAHEAD, " ahead"},     {PTE_PINNED, " pinned"},
        {PTE_PROTECTED, " protected"}, {PTE_BAD, " bad"},
    };

    if (word & PTE_VALID)
        fprintf(out, "valid f%u age%u", pte_number(word), pte_age(word));
    else if (word & PTE_TRANSITION)
        fprintf(out, "transition f%u", pte_number(word));
    else if (word & PTE_PAGEFILE)
        fprintf(out, "pagefile s%u", pte_number(word));
    else
        fprintf(out, "untouched");
    for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++) {
        if (word & bits[i].bit)
            fputs(bits[i].name, out);
    }
}

static void begin_line(struct trace *t, const struct sync_thread *current, enum sync_point point)
{
    static const char *const points[] = {"lock", "unlock", "pte", "park", "atomic", "step"};
    const struct schedule *s = &t->w->schedule;

    fprintf(t->out, "%8" PRIu64 " %12.6f ms %2u %-12s %-6s ", s->steps, (double)s->clock / 1e6,
            current->number, current->name, points[point]);
}

static void trace_pages(struct trace *t, const struct sync_thread *current, enum sync_point point)
{
    struct machine *m = t->w->machine;

    for (unsigned r = 0; r < m->region_count; r++) {
        const struct region *region = m->regions[r];

        for (uintptr_t va = region->start; va < region->end; va += PAGE_SIZE) {
            uint64_t word = pte_load(pagetable_pte(region->table, va));
            uint64_t *last = &t->words[(va - MMU_BASE) / PAGE_SIZE];

            if (word == *last)
                continue;
            begin_line(t, current, point);
            fprintf(t->out, "page %zu: ", (size_t)((va - MMU_BASE) / PAGE_SIZE));
            print_word(t->out, *last);
            fputs(" -> ", t->out);
            print_word(t->out, word);
            fputc('\n', t->out);
            *last = word;
        }
    }
}

void trace_step(struct trace *t, const struct sync_thread *current, enum sync_point point)
{
    struct machine *m = t->w->machine;

    if (m->frames == NULL)
        return;
    if (!(atomic_load(&m->regions_lock.word) & SYNC_RW_WRITER))
        trace_pages(t, current, point);
    for (uint32_t n = 0; n < m->frame_count && n < 4096; n++) {
        const struct frame *frame = &m->frames[n];

        if (frame->state == t->states[n] && frame->slot == t->slots[n])
            continue;
        begin_line(t, current, point);
        fprintf(t->out, "frame %u: %s s%u -> %s s%u\n", n, frame_state_name(t->states[n]),
                t->slots[n], frame_state_name(frame->state), frame->slot);
        t->states[n] = frame->state;
        t->slots[n] = frame->slot;
    }
}
