/*
 * userfaultfd: may this user have one, for which faults, with which features.
 */
#include "cli/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096
/* Linux 6.1; the argument of the open() that it stands for is passed by value. */
#define DEVICE_NEW _IO(UFFDIO, 0x00)
#define USER_MODE_ONLY 1
#define CAP_SYS_PTRACE_NUMBER 19

#define CONTAINER_REMEDY                                                                           \
    "run the container with --security-opt seccomp=unconfined, or a profile that allows "          \
    "userfaultfd; meanwhile --mapper soft"

struct feature {
    const char *name;
    unsigned bit;
    const char *since;
    const char *needed_for;
    enum finding_status without;
};

static const struct feature features[] = {
    {"  write protection", PROBE_FEATURE_WP, "5.7", "mapper copy", FINDING_MISSING},
    {"  SIGBUS delivery", PROBE_FEATURE_SIGBUS, "4.14", "trap sigbus", FINDING_LIMITED},
    {"  thread id", PROBE_FEATURE_THREAD_ID, "4.14", "streams told apart by thread",
     FINDING_LIMITED},
    {"  exact address", PROBE_FEATURE_EXACT_ADDRESS, "5.18", "exact addresses in traces",
     FINDING_LIMITED},
    {"  poison", PROBE_FEATURE_POISON, "6.6", "SIGBUS for a lost page alone", FINDING_LIMITED},
    {"  move", PROBE_FEATURE_MOVE, "6.8", "mapper move, large pages", FINDING_LIMITED},
};

static int device_open(void)
{
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    int fd;

    if (device < 0)
        return -1;
    fd = ioctl(device, DEVICE_NEW, O_CLOEXEC | O_NONBLOCK);
    close(device);
    return fd;
}

static int uffd_open(enum uffd_access *access, int *error)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    *access = UFFD_FULL;
    if (fd >= 0)
        return fd;
    *error = errno;
    *access = UFFD_DEVICE;
    fd = device_open();
    if (fd >= 0)
        return fd;
    *access = UFFD_USER_ONLY;
    fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY);
    if (fd < 0)
        *access = UFFD_NONE;
    return fd;
}

/* Register a page of our own to learn what may be done with one. */
static uint64_t register_ioctls(int fd)
{
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register request = {
        .range = {.start = (uintptr_t)page, .len = PAGE},
        .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
    };
    uint64_t ioctls = 0;

    if (page == MAP_FAILED)
        return 0;
    if (ioctl(fd, UFFDIO_REGISTER, &request) == 0) {
        ioctls = request.ioctls;
    } else {
        request.mode = UFFDIO_REGISTER_MODE_MISSING;
        if (ioctl(fd, UFFDIO_REGISTER, &request) == 0)
            ioctls = request.ioctls;
    }
    munmap(page, PAGE);
    return ioctls;
}

static void uffd_finding(struct probe *p, int error)
{
    static const char needed[] = "mappers copy and move";
    char setting[16] = "?";
    struct finding *f;

    probe_file("/proc/sys/vm/unprivileged_userfaultfd", setting, sizeof(setting));
    switch (p->uffd) {
    case UFFD_FULL:
        finding_add(p, "userfaultfd", FINDING_OK, needed, "%s",
                    probe_capability(CAP_SYS_PTRACE_NUMBER) ? "allowed (CAP_SYS_PTRACE)"
                                                            : "allowed to every user");
        return;
    case UFFD_DEVICE:
        finding_add(p, "userfaultfd", FINDING_OK, needed, "allowed by /dev/userfaultfd");
        return;
    case UFFD_USER_ONLY:
        f = finding_add(p, "userfaultfd", FINDING_LIMITED, needed,
                        "user code only: system calls fail");
        snprintf(f->remedy, sizeof(f->remedy),
                 "as root: sysctl -w vm.unprivileged_userfaultfd=1 (now %s)%s", setting,
                 access("/dev/userfaultfd", F_OK) == 0
                     ? ", or until the next start: chgrp YOUR-GROUP /dev/userfaultfd && "
                       "chmod g+rw /dev/userfaultfd"
                     : "");
        return;
    case UFFD_NONE:
        f = finding_add(p, "userfaultfd", FINDING_MISSING, needed, "refused: %s", strerror(error));
        if (p->in_container)
            snprintf(f->remedy, sizeof(f->remedy), CONTAINER_REMEDY);
        else if (error == ENOSYS)
            snprintf(f->remedy, sizeof(f->remedy),
                     "use a kernel with CONFIG_USERFAULTFD=y; meanwhile --mapper soft");
        else
            snprintf(f->remedy, sizeof(f->remedy),
                     "as root: sysctl -w vm.unprivileged_userfaultfd=1 (now %s); meanwhile "
                     "--mapper soft",
                     setting);
        return;
    }
}

static void feature_findings(struct probe *p)
{
    for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
        const struct feature *feature = &features[i];
        bool has = (p->features >> feature->bit & 1) != 0;
        struct finding *f = finding_add(p, feature->name, has ? FINDING_OK : feature->without,
                                        feature->needed_for, "%s", has ? "yes" : "no");

        if (!has)
            snprintf(f->remedy, sizeof(f->remedy), "use Linux %s or newer", feature->since);
    }
}

void probe_uffd(struct probe *p)
{
    struct uffdio_api api = {.api = UFFD_API};
    int error = 0, fd = uffd_open(&p->uffd, &error);

    if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0) {
        p->features = api.features;
        p->ioctls = register_ioctls(fd);
    }
    if (fd >= 0)
        close(fd);
    uffd_finding(p, error);
    if (p->uffd != UFFD_NONE)
        feature_findings(p);
}
