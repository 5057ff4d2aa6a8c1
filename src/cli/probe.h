/*
 * What this kernel and this user may do, found out by trying it.
 *
 * Each probe adds findings, in the order in which doctor shows them; what the
 * verdict on mappers and traps rests on is kept as flags beside them.
 */
#ifndef VMSM_CLI_PROBE_H
#define VMSM_CLI_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FINDINGS_MAX 40

enum finding_status {
    FINDING_OK,
    FINDING_LIMITED, /* works, or will do, but not as it could */
    FINDING_MISSING,
};

struct finding {
    const char *name;
    enum finding_status status;
    char detail[80];
    const char *needed_for;
    char remedy[192]; /* a command, or what to change; "" if there is nothing to mend */
};

/* How a userfaultfd can be had. */
enum uffd_access {
    UFFD_NONE,
    UFFD_USER_ONLY, /* faults of user code only: system calls on managed memory fail */
    UFFD_DEVICE,    /* by /dev/userfaultfd */
    UFFD_FULL,      /* by the system call */
};

struct probe {
    size_t count;
    struct finding findings[FINDINGS_MAX];

    enum uffd_access uffd;
    uint64_t features; /* bits of UFFDIO_API */
    uint64_t ioctls;   /* bits of UFFDIO_REGISTER */
    bool vm_readv;
    bool in_container;
    const char *shortage; /* of what there is too little for any mapper; NULL: nothing */
};

/* Feature and ioctl bits, by number; newer than the headers that some systems install. */
#define PROBE_FEATURE_WP 0
#define PROBE_FEATURE_SIGBUS 7
#define PROBE_FEATURE_THREAD_ID 8
#define PROBE_FEATURE_EXACT_ADDRESS 11
#define PROBE_FEATURE_POISON 14
#define PROBE_FEATURE_MOVE 16
#define PROBE_IOCTL_COPY 3
#define PROBE_IOCTL_MOVE 5
#define PROBE_IOCTL_WRITEPROTECT 6
#define PROBE_IOCTL_POISON 8

/* Adds a finding; its detail is formatted. The caller fills in a remedy if there is one. */
__attribute__((format(printf, 5, 6))) struct finding *finding_add(struct probe *p, const char *name,
                                                                  enum finding_status status,
                                                                  const char *needed_for,
                                                                  const char *format, ...);

void probe_kernel(struct probe *p);
void probe_uffd(struct probe *p);    /* userfaultfd and its features */
void probe_calls(struct probe *p);   /* other system calls */
void probe_storage(struct probe *p); /* where the pagefile goes */
void probe_limits(struct probe *p);  /* limits of the process */
void probe_memory(struct probe *p);  /* memory of the machine and of the control group */
void probe_run(struct probe *p);     /* what programs need that are run unmodified; after uffd */

/* First line of a file, without its newline; false if it cannot be read. */
bool probe_file(const char *path, char *text, size_t size);
/* Does this process have a capability (CAP_…)? */
bool probe_capability(unsigned number);

#endif
