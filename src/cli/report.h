/*
 * The report of sim: one screen of text, or all of it as JSON.
 */
#ifndef VMSM_CLI_REPORT_H
#define VMSM_CLI_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "cli/sim.h"

/* At most 40 lines of 100 columns. */
void report_print(const struct sim_result *result, FILE *out);
/* A new reference, or NULL without memory. */
json_t *report_json(const struct sim_result *result);
/* {name: value} of every tunable, numbers as numbers. */
json_t *report_tunables(const struct tunables *tunables);

#endif
