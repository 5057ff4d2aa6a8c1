/* The smallest pagers in cells of bench: what bound_cell.c and bound_prefault.c share. */
#ifndef VMSM_BENCH_BOUND_CELL_H
#define VMSM_BENCH_BOUND_CELL_H

#include "bound_stock.h"

/* The stock has been filled, and faults are served in the faulting thread. */
int bound_prefault(struct bound *b, struct stock *stock);

#endif
