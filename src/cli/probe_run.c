/*
 * What `vmsm run` needs beside the default mapper and trap.
 */
#include <errno.h>
#include <limits.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/probe.h"
#include "cli/program.h"
#include "core/error.h"

static const char needed[] = "vmsm run";

static void probe_library(struct probe *p)
{
    char path[PATH_MAX];
    struct finding *f;

    if (program_library(path, sizeof(path)) == 0) {
        finding_add(p, "run: library", FINDING_OK, needed, "found");
        return;
    }
    f = finding_add(p, "run: library", FINDING_MISSING, needed, "not found");
    snprintf(f->remedy, sizeof(f->remedy), "%s", error_last());
}

static void probe_served_calls(struct probe *p)
{
    bool served = p->uffd == UFFD_FULL || p->uffd == UFFD_DEVICE;
    bool guarded = p->uffd == UFFD_USER_ONLY && program_can_be_guarded();
    struct finding *f;

    f = finding_add(p, "run: system calls",
                    served    ? FINDING_OK
                    : guarded ? FINDING_LIMITED
                              : FINDING_MISSING,
                    needed, "%s",
                    served    ? "their faults are served"
                    : guarded ? "guarded, trap sigbus: 1 us each; no signals on managed stacks"
                              : "reads and writes of the program would fail (EFAULT)");
    if (!served)
        snprintf(f->remedy, sizeof(f->remedy), "as for userfaultfd");
}

/* io_uring is kept from the program by it. */
static void probe_filter(struct probe *p)
{
    uint32_t action = SECCOMP_RET_ERRNO;
    bool has = syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
    struct finding *f = finding_add(p, "run: seccomp", has ? FINDING_OK : FINDING_MISSING, needed,
                                    "%s", has ? "yes" : "no: io_uring could lose what it reads");

    if (!has)
        snprintf(f->remedy, sizeof(f->remedy), "use a kernel with CONFIG_SECCOMP_FILTER=y");
}

void probe_run(struct probe *p)
{
    probe_library(p);
    probe_served_calls(p);
    probe_filter(p);
}
