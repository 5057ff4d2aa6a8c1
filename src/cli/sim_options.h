/*
 * The options of sim, and the settings that they fill in.
 */
#ifndef VMSM_CLI_SIM_OPTIONS_H
#define VMSM_CLI_SIM_OPTIONS_H

#include "cli/sim.h"

/* In tunables.memory until sim_settings_finish(): nobody has set it. Below any value allowed. */
#define SIM_MEMORY_THIRD 0

extern const struct option_info sim_options[];

void sim_settings_init(struct sim_settings *s);
/* Fill in what was left open and check what depends on several. 0, or with words in error_last().
 */
int sim_settings_finish(struct sim_settings *s);
void sim_settings_show(const struct sim_settings *s, FILE *out);

#endif
