#include "replay.h"

#include <errno.h>
#include <stdlib.h>

#define NEVER UINT32_MAX

size_t replay_fixed(const struct replay *r, const bool *kept)
{
    size_t hits = 0;

    for (size_t i = r->warm; i < r->warm + r->counted; i++)
        hits += kept[r->touches[i]];
    return hits;
}

/* ---- LRU ---- */

/* The pages that are there, in the order of their last touch: after the head, which is no page, the
 * one that was touched longest ago. */
struct ring {
    uint32_t *next, *previous; /* next of a page that is not there: NEVER */
    uint32_t head, count;
};

static void ring_remove(struct ring *ring, uint32_t page)
{
    ring->next[ring->previous[page]] = ring->next[page];
    ring->previous[ring->next[page]] = ring->previous[page];
    ring->next[page] = NEVER;
    ring->count--;
}

static void ring_add(struct ring *ring, uint32_t page)
{
    uint32_t last = ring->previous[ring->head];

    ring->next[last] = ring->previous[ring->head] = page;
    ring->next[page] = ring->head;
    ring->previous[page] = last;
    ring->count++;
}

static void run_read(const struct replay *r, struct ring *ring, uint32_t page, uint32_t run)
{
    uint32_t begin = page - page % run;

    for (uint32_t p = begin; p < begin + run && p < r->pages; p++) {
        if (ring->next[p] != NEVER)
            continue;
        if (ring->count == r->frames)
            ring_remove(ring, ring->next[ring->head]);
        ring_add(ring, p);
    }
}

static size_t lru_play(const struct replay *r, struct ring *ring, uint32_t run)
{
    size_t hits = 0;

    for (uint32_t page = 0; page < r->pages; page++)
        ring->next[page] = NEVER;
    ring->head = ring->next[r->pages] = ring->previous[r->pages] = r->pages;
    for (size_t i = 0; i < r->warm + r->counted; i++) {
        uint32_t page = r->touches[i];

        if (ring->next[page] != NEVER)
            hits += i >= r->warm;
        else
            run_read(r, ring, page, run);
        ring_remove(ring, page);
        ring_add(ring, page);
    }
    return hits;
}

int replay_lru(const struct replay *r, uint32_t run, size_t *hits)
{
    struct ring ring = {.next = calloc(r->pages + 1, sizeof(*ring.next)),
                        .previous = calloc(r->pages + 1, sizeof(*ring.previous))};
    int error = -ENOMEM;

    if (ring.next != NULL && ring.previous != NULL) {
        *hits = lru_play(r, &ring, run);
        error = 0;
    }
    free(ring.next);
    free(ring.previous);
    return error;
}

/* ---- MIN ---- */

/* The largest is on top. */
struct heap {
    uint32_t *keys;
    size_t count;
};

static void heap_push(struct heap *h, uint32_t key)
{
    size_t at = h->count++;

    for (; at > 0 && h->keys[(at - 1) / 2] < key; at = (at - 1) / 2)
        h->keys[at] = h->keys[(at - 1) / 2];
    h->keys[at] = key;
}

static uint32_t heap_pop(struct heap *h)
{
    uint32_t top = h->keys[0], key = h->keys[--h->count];
    size_t at = 0;

    for (size_t child = 1; child < h->count; child = 2 * at + 1) {
        if (child + 1 < h->count && h->keys[child + 1] > h->keys[child])
            child++;
        if (h->keys[child] <= key)
            break;
        h->keys[at] = h->keys[child];
        at = child;
    }
    h->keys[at] = key;
    return top;
}

static uint32_t touch_count(const struct replay *r)
{
    return (uint32_t)(r->warm + r->counted);
}

/* For each touch, the next one of its page; of page p that is touched no more, touch_count() + p. */
static void next_find(const struct replay *r, uint32_t *next, uint32_t *met)
{
    for (uint32_t page = 0; page < r->pages; page++)
        met[page] = touch_count(r) + page;
    for (uint32_t i = touch_count(r); i-- > 0;) {
        next[i] = met[r->touches[i]];
        met[r->touches[i]] = i;
    }
}

/*
 * The heap has the next touch of each page that is there. Those that have come to pass stay in it:
 * they are less than all others, of which there are as many as frames when one is to be popped.
 */
static size_t min_play(const struct replay *r, const uint32_t *next, struct heap *heap, bool *there)
{
    uint32_t used = 0, count = touch_count(r);
    size_t hits = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t page = r->touches[i];

        if (there[page]) {
            hits += i >= r->warm;
        } else if (used < r->frames) {
            used++;
        } else {
            uint32_t key = heap_pop(heap);

            there[key < count ? r->touches[key] : key - count] = false;
        }
        there[page] = true;
        heap_push(heap, next[i]);
    }
    return hits;
}

int replay_min(const struct replay *r, size_t *hits)
{
    uint32_t *next = calloc(touch_count(r), sizeof(*next)), *met = calloc(r->pages, sizeof(*met));
    struct heap heap = {.keys = calloc(touch_count(r), sizeof(*heap.keys))};
    bool *there = calloc(r->pages, sizeof(*there));
    int error = -ENOMEM;

    if (next != NULL && met != NULL && heap.keys != NULL && there != NULL) {
        next_find(r, next, met);
        *hits = min_play(r, next, &heap, there);
        error = 0;
    }
    free(next);
    free(met);
    free(heap.keys);
    free(there);
    return error;
}
