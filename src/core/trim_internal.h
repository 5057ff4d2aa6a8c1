/* What a trim (trim.c) and the choice of places in the pagefile (trim_place.c) share. */
#ifndef VMSM_CORE_TRIM_INTERNAL_H
#define VMSM_CORE_TRIM_INTERNAL_H

#include "core/machine.h"

/* In this order: from TRIM_CLEAN on, a page goes to a list (trim_place.c). TRIM_DROP is of trims at
 * once only. */
enum verdict { TRIM_UNDO, TRIM_ZERO, TRIM_DROP, TRIM_CLEAN, TRIM_MODIFIED };

struct trim_victims {
    unsigned count;
    unsigned bystanders; /* valid pages between the victims that are none */
    pte_t *pte[SECTION_PAGES];
    uint64_t word[SECTION_PAGES]; /* as found, without BUSY */
    uintptr_t va[SECTION_PAGES];
    uint32_t frames[SECTION_PAGES];
    uint32_t buffers[SECTION_PAGES];
    uint32_t slots[SECTION_PAGES]; /* of those trimmed at once; else homes of those changed, or 0 */
    int status[SECTION_PAGES];
    uint8_t verdict[SECTION_PAGES];
    /* Scratch: the victims that are dropped, or go to one list. */
    uintptr_t some_va[SECTION_PAGES];
    uint32_t some[SECTION_PAGES];
};

/* Pages that have been judged, all BUSY by the trim: where are those that changed to be written,
 * and which clean ones too, so that neighbours stay together? Sets slots of those that are
 * changed. */
void place_victims(struct machine *m, struct trim_victims *v);

/* Runs that place_victims() would move to one place are no victims of a trim at once: they go the
 * long way. */
void spare_pieces(struct machine *m, struct trim_victims *v);

#endif
