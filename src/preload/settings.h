/*
 * What `vmsm run` tells the library, through the environment of the program.
 */
#ifndef VMSM_PRELOAD_SETTINGS_H
#define VMSM_PRELOAD_SETTINGS_H

#define RUN_ENV_CONF "VMSM_RUN_CONF"       /* settings of the manager, as VMSM_CONF */
#define RUN_ENV_OPTIONS "VMSM_RUN_OPTIONS" /* letters and the process id of the first process */
#define RUN_ENV_REPORT "VMSM_RUN_REPORT"   /* absolute path of the report; unset: none */
#define RUN_ENV_BEFORE "VMSM_RUN_PRELOAD"  /* LD_PRELOAD as it was; unset: it was unset */

#define RUN_OPTION_STATS 's'       /* statistics on standard error at exit */
#define RUN_OPTION_NO_CHILDREN 'n' /* programs that this one starts are not managed */

#define RUN_LIBRARY "libvmsm-preload.so"

#endif
