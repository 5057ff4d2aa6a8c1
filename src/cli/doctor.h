/*
 * The command doctor: its settings, and its findings as JSON.
 */
#ifndef VMSM_CLI_DOCTOR_H
#define VMSM_CLI_DOCTOR_H

#include <jansson.h>

#include "cli/probe.h"

struct doctor_settings {
    const char *json; /* NULL: none */
};

/* A new reference, or NULL without memory. */
json_t *doctor_json(const struct probe *p);

#endif
