/*
 * The kernel, the other system calls, the limits of the process and the
 * memory there is.
 */
#include "cli/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/io_uring.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cli/format.h"
#include "cli/proc_text.h"
#include "core/tunables.h"

#define PAGE 4096
#define PATH_SIZE 4096
#define CAP_IPC_LOCK_NUMBER 14
/* A manager with default settings and sim have about 24 open: userfaultfd, the pagefile, its
 * queues and their events, handler threads' events; more threads need more. */
#define DESCRIPTORS_NEEDED 32
#define DESCRIPTORS_WANTED 256

/* `vmsm sim` as it is: a region of 1 GiB, a third of that as buffers, tables, stacks. */
#define ADDRESSES_NEEDED (1536 * TUNABLE_MIB)

struct finding *finding_add(struct probe *p, const char *name, enum finding_status status,
                            const char *needed_for, const char *format, ...)
{
    struct finding *f = &p->findings[p->count < FINDINGS_MAX - 1 ? p->count++ : FINDINGS_MAX - 1];
    va_list args;

    *f = (struct finding){.name = name, .status = status, .needed_for = needed_for};
    va_start(args, format);
    vsnprintf(f->detail, sizeof(f->detail), format, args);
    va_end(args);
    return f;
}

bool probe_file(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "re");
    bool had;

    if (file == NULL)
        return false;
    had = proc_line(file, text, size);
    fclose(file);
    return had;
}

static bool file_number(const char *path, const char *key, int base, uint64_t *number)
{
    FILE *file = fopen(path, "re");
    bool found;

    if (file == NULL)
        return false;
    found = proc_number(file, key, base, number);
    fclose(file);
    return found;
}

bool probe_capability(unsigned number)
{
    uint64_t effective = 0;

    return file_number("/proc/self/status", "CapEff", 16, &effective) &&
           (effective >> number & 1) != 0;
}

void probe_kernel(struct probe *p)
{
    unsigned major = 0, minor = 0;
    struct utsname name;
    struct finding *f;
    bool enough;

    p->in_container = access("/.dockerenv", F_OK) == 0 || access("/run/.containerenv", F_OK) == 0;
    if (uname(&name) != 0)
        return;
    enough =
        proc_version(name.release, &major, &minor) && (major > 5 || (major == 5 && minor >= 7));
    f = finding_add(p, "kernel", enough ? FINDING_OK : FINDING_MISSING,
                    "mapper copy: 5.7; move: 6.8", "Linux %.40s%s", name.release,
                    p->in_container ? ", in a container" : "");
    if (!enough)
        snprintf(f->remedy, sizeof(f->remedy), "use Linux 5.7 or newer; meanwhile --mapper soft");
}

/* Two pages apart, dropped by one call on ourselves; do they read as zeroes then? */
static bool madvise_vector_works(void)
{
    char *memory = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    bool works = false;

    if (memory != MAP_FAILED && self >= 0) {
        struct iovec pages[2] = {{memory, PAGE}, {memory + (size_t)2 * PAGE, PAGE}};

        memset(memory, 1, (size_t)3 * PAGE);
        works = syscall(SYS_process_madvise, self, pages, 2, MADV_DONTNEED, 0) == 2 * PAGE &&
                memory[0] == 0 && memory[PAGE] == 1 && memory[2 * PAGE] == 0;
    }
    if (self >= 0)
        close(self);
    if (memory != MAP_FAILED)
        munmap(memory, (size_t)3 * PAGE);
    return works;
}

static void probe_vm_readv(struct probe *p)
{
    char from[16] = "probe", to[16] = "";
    struct iovec source = {from, sizeof(from)}, target = {to, sizeof(to)};
    struct finding *f;

    p->vm_readv = process_vm_readv(getpid(), &target, 1, &source, 1, 0) == (ssize_t)sizeof(from) &&
                  strcmp(from, to) == 0;
    f = finding_add(p, "process_vm_readv", p->vm_readv ? FINDING_OK : FINDING_MISSING,
                    "mapper copy", "%s", p->vm_readv ? "yes" : strerror(errno));
    if (!p->vm_readv)
        snprintf(f->remedy, sizeof(f->remedy), "%s",
                 p->in_container ? "run the container with --cap-add SYS_PTRACE or --security-opt "
                                   "seccomp=unconfined"
                                 : "allow it in the seccomp filter, or use a kernel with "
                                   "CONFIG_CROSS_MEMORY_ATTACH=y");
}

static void probe_io_uring(struct probe *p)
{
    struct io_uring_params params = {0};
    int fd = (int)syscall(SYS_io_uring_setup, 4, &params), error = errno;
    char disabled[16] = "0";
    struct finding *f;

    f = finding_add(p, "io_uring", fd >= 0 ? FINDING_OK : FINDING_LIMITED, "many reads in flight",
                    "%s", fd >= 0 ? "yes" : strerror(error));
    if (fd >= 0) {
        close(fd);
        return;
    }
    probe_file("/proc/sys/kernel/io_uring_disabled", disabled, sizeof(disabled));
    if (strcmp(disabled, "0") != 0)
        snprintf(f->remedy, sizeof(f->remedy),
                 "as root: sysctl -w kernel.io_uring_disabled=0 (now %s)", disabled);
    else if (error == ENOMEM)
        snprintf(f->remedy, sizeof(f->remedy),
                 "raise the limit on locked memory: ulimit -l unlimited");
    else
        snprintf(f->remedy, sizeof(f->remedy),
                 "allow io_uring in the seccomp filter (containers: --security-opt "
                 "seccomp=unconfined)");
}

void probe_calls(struct probe *p)
{
    bool vector = madvise_vector_works();
    struct finding *f = finding_add(p, "process_madvise", vector ? FINDING_OK : FINDING_LIMITED,
                                    "trims with one call", "%s", vector ? "yes" : "no");

    if (!vector)
        snprintf(f->remedy, sizeof(f->remedy), "use Linux 6.13 or newer");
    probe_vm_readv(p);
    probe_io_uring(p);
}

static void probe_memlock(struct probe *p)
{
    struct rlimit limit = {0};
    struct format text;
    struct finding *f;
    bool enough;

    getrlimit(RLIMIT_MEMLOCK, &limit);
    enough = limit.rlim_cur == RLIM_INFINITY || probe_capability(CAP_IPC_LOCK_NUMBER);
    f = finding_add(p, "locked memory", enough ? FINDING_OK : FINDING_LIMITED, "memory_lock=on",
                    "%s", enough ? "not limited" : format_bytes(limit.rlim_cur, &text));
    if (!enough)
        snprintf(f->remedy, sizeof(f->remedy),
                 "ulimit -l unlimited (allowed by: memlock in "
                 "/etc/security/limits.conf)");
}

static void probe_descriptors(struct probe *p)
{
    struct rlimit limit = {0};
    enum finding_status status = FINDING_OK;
    struct finding *f;

    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < DESCRIPTORS_WANTED)
        status = limit.rlim_cur < DESCRIPTORS_NEEDED ? FINDING_MISSING : FINDING_LIMITED;
    f = finding_add(p, "open files", status, "queues, traps, pagefiles", "%" PRIu64,
                    (uint64_t)limit.rlim_cur);
    if (status == FINDING_OK)
        return;
    snprintf(f->remedy, sizeof(f->remedy), "ulimit -n %d%s", DESCRIPTORS_WANTED * 4,
             limit.rlim_max < DESCRIPTORS_WANTED * 4 ? " (as root: the hard limit is lower)" : "");
    if (status == FINDING_MISSING)
        p->shortage = "too few open files (ulimit -n)";
}

static void probe_addresses(struct probe *p)
{
    struct rlimit limit = {0};
    struct format text;
    struct finding *f;
    bool enough;

    getrlimit(RLIMIT_AS, &limit);
    if (limit.rlim_cur == RLIM_INFINITY) {
        finding_add(p, "address space", FINDING_OK, "regions, buffers, tables", "not limited");
        return;
    }
    enough = limit.rlim_cur >= ADDRESSES_NEEDED;
    f = finding_add(p, "address space", enough ? FINDING_LIMITED : FINDING_MISSING,
                    "regions, buffers, tables", "%s", format_bytes(limit.rlim_cur, &text));
    snprintf(f->remedy, sizeof(f->remedy), "ulimit -v unlimited%s",
             limit.rlim_max != RLIM_INFINITY ? " (as root: the hard limit is lower)" : "");
    if (!enough)
        p->shortage = "too little address space (ulimit -v)";
}

void probe_limits(struct probe *p)
{
    char mode[16] = "?";
    struct finding *f;

    probe_memlock(p);
    probe_descriptors(p);
    probe_addresses(p);
    probe_file("/proc/sys/vm/overcommit_memory", mode, sizeof(mode));
    f = finding_add(p, "overcommit", strcmp(mode, "2") == 0 ? FINDING_LIMITED : FINDING_OK,
                    "regions larger than memory", "mode %s", mode);
    if (f->status == FINDING_LIMITED)
        snprintf(f->remedy, sizeof(f->remedy), "as root: sysctl -w vm.overcommit_memory=0");
}

static void probe_swap(struct probe *p)
{
    uint64_t kib = 0;
    struct format text;
    struct finding *f;

    file_number("/proc/meminfo", "SwapTotal", 10, &kib);
    f = finding_add(p, "swap of the kernel", kib > 0 ? FINDING_LIMITED : FINDING_OK,
                    "none: the budget stays in memory", "%s",
                    kib > 0 ? format_bytes(kib * 1024, &text) : "none");
    if (kib > 0)
        snprintf(f->remedy, sizeof(f->remedy),
                 "the kernel may swap out the budget itself; to forbid it: --memory-lock=on");
}

static void probe_huge_pages(struct probe *p)
{
    static const char path[] = "/sys/kernel/mm/transparent_hugepage/enabled";
    char modes[64] = "";
    struct finding *f;
    bool never;

    if (!probe_file(path, modes, sizeof(modes)))
        snprintf(modes, sizeof(modes), "not in this kernel");
    never = strstr(modes, "[always]") == NULL && strstr(modes, "[madvise]") == NULL;
    f = finding_add(p, "huge pages", never ? FINDING_LIMITED : FINDING_OK, "fast large writes",
                    "%s", modes);
    if (never)
        snprintf(f->remedy, sizeof(f->remedy), "as root: echo madvise > %s", path);
}

/* The least limit from a group up to the root; UINT64_MAX if there is none. */
static uint64_t group_limit(const char *root, const char *group, const char *file)
{
    char path[PATH_SIZE + 64], text[64], name[PATH_SIZE];
    uint64_t least = UINT64_MAX, limit;

    snprintf(name, sizeof(name), "%s", group);
    for (;;) {
        char *slash;

        snprintf(path, sizeof(path), "%s%s/%s", root, name, file);
        if (probe_file(path, text, sizeof(text)) && proc_limit(text, &limit))
            least = limit < least ? limit : least;
        slash = strrchr(name, '/');
        if (slash == NULL)
            return least;
        *slash = '\0';
    }
}

/* Of this process, by control groups of either version; UINT64_MAX if none. */
static uint64_t control_group_limit(void)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    uint64_t least = UINT64_MAX, limit;
    char line[PATH_SIZE];
    const char *group;

    if (file == NULL)
        return least;
    while (proc_line(file, line, sizeof(line))) {
        enum proc_group kind = proc_memory_group(line, &group);

        if (kind == PROC_GROUP_V2)
            limit = group_limit("/sys/fs/cgroup", group, "memory.max");
        else if (kind == PROC_GROUP_V1)
            limit = group_limit("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes");
        else
            continue;
        least = limit < least ? limit : least;
    }
    fclose(file);
    /* Version 1 says "none" by a huge number. */
    return least < 64 * TUNABLE_TIB ? least : UINT64_MAX;
}

static void probe_free_memory(struct probe *p)
{
    uint64_t kib = 0, limit = control_group_limit();
    struct format available, group;
    struct tunables defaults;
    struct finding *f;
    bool enough;

    tunables_init(&defaults);
    file_number("/proc/meminfo", "MemAvailable", 10, &kib);
    enough = kib * 1024 > defaults.memory && limit > defaults.memory;
    f = finding_add(p, "memory", enough ? FINDING_OK : FINDING_LIMITED, "--memory must fit in it",
                    "%s free%s%s", format_bytes(kib * 1024, &available),
                    limit != UINT64_MAX ? ", group limit " : "",
                    limit != UINT64_MAX ? format_bytes(limit, &group) : "");
    if (!enough)
        snprintf(f->remedy, sizeof(f->remedy),
                 "give a smaller --memory, or raise the limit of the control group");
}

void probe_memory(struct probe *p)
{
    probe_free_memory(p);
    probe_swap(p);
    probe_huge_pages(p);
}
