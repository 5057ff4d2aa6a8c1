#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "usage.h"
#include "vmsm.h"

#define PATH_SIZE 512
#define TEXT_SIZE ((size_t)1 << 16) /* /proc/vmstat and /proc/interrupts are smaller */
#define MISSING_SIZE 1024
#define KSWAPD_MAX 16u /* one a memory node */
#define THREADS_MAX 256u
#define SECTOR 512

/* All fields: set by usage_open(), for one thread at a time. */
struct usage_source {
    const struct memory *memory;
    int vmstat, interrupts, io, disk; /* -1: the kernel has none */
    int kswapd[KSWAPD_MAX];           /* /proc/PID/schedstat */
    unsigned kswapd_count;
    int syscalls[THREADS_MAX]; /* one event a thread that was there; inherited by others */
    unsigned syscalls_count;
    bool syscalls_whole; /* every thread has one */
    char missing[MISSING_SIZE];
    char text[TEXT_SIZE];
};

static int file_open(const char *path)
{
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* The text of a file in /proc or /sys; "" if there is none. */
static const char *file_text(struct usage_source *source, int fd)
{
    size_t length = 0;

    while (fd >= 0 && length < TEXT_SIZE - 1) {
        ssize_t got = pread(fd, source->text + length, TEXT_SIZE - 1 - length, (off_t)length);

        if (got <= 0)
            break;
        length += (size_t)got;
    }
    source->text[length] = '\0';
    return source->text;
}

/* Where the line begins that has `name` first, or NULL; past the name. */
static const char *line_find(const char *text, const char *name)
{
    size_t length = strlen(name);

    for (const char *line = text; line != NULL && *line != '\0';) {
        line += strspn(line, " ");
        if (strncmp(line, name, length) == 0)
            return line + length;
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
    return NULL;
}

static uint64_t line_number(const char *text, const char *name)
{
    const char *found = line_find(text, name);

    return found != NULL ? strtoull(found, NULL, 10) : USAGE_NONE;
}

__attribute__((format(printf, 2, 3))) static void missing_add(struct usage_source *source,
                                                              const char *format, ...)
{
    size_t used = strlen(source->missing);
    va_list args;

    if (used > 0 && used < MISSING_SIZE - 3) {
        memcpy(source->missing + used, "; ", 3);
        used += 2;
    }
    va_start(args, format);
    vsnprintf(source->missing + used, MISSING_SIZE - used, format, args);
    va_end(args);
}

/* ---- kswapd ---- */

/* Kernel threads have no parent but kthreadd (2), and a name that nobody else can take with it. */
static bool is_kswapd(const char *pid)
{
    char path[PATH_SIZE], line[PATH_SIZE] = "";
    const char *name, *end;
    int parent = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%s/stat", pid);
    f = fopen(path, "re");
    if (f == NULL)
        return false;
    if (fgets(line, sizeof(line), f) == NULL)
        line[0] = '\0';
    fclose(f);
    name = strchr(line, '(');
    end = strrchr(line, ')');
    return name != NULL && end != NULL && strncmp(name, "(kswapd", 7) == 0 &&
           sscanf(end, ") %*c %d", &parent) == 1 && parent == 2;
}

static void kswapd_open(struct usage_source *source)
{
    DIR *dir = opendir("/proc");
    const struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL && source->kswapd_count < KSWAPD_MAX) {
        char path[PATH_SIZE];
        int fd;

        if (!isdigit((unsigned char)entry->d_name[0]) || !is_kswapd(entry->d_name))
            continue;
        snprintf(path, sizeof(path), "/proc/%s/schedstat", entry->d_name);
        fd = file_open(path);
        if (fd >= 0)
            source->kswapd[source->kswapd_count++] = fd;
    }
    if (dir != NULL)
        closedir(dir);
    if (source->kswapd_count == 0)
        missing_add(source, "the time of kswapd: it cannot be seen from here, or the kernel does "
                            "not keep it (/proc/PID/schedstat)");
}

/* ---- the disk ---- */

static void disk_open(struct usage_source *source, const char *dir)
{
    char path[PATH_SIZE];
    struct stat st;

    source->disk = -1;
    if (stat(dir, &st) == 0) {
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/stat", major(st.st_dev),
                 minor(st.st_dev));
        source->disk = file_open(path);
    }
    if (source->disk < 0)
        missing_add(source, "I/O requests: no single block device lies below %s", dir);
}

static void disk_read(struct usage_source *source, struct usage *usage)
{
    unsigned long long reads, sectors_read, writes, sectors_written;
    const char *text = file_text(source, source->disk);

    usage->reads = usage->read_bytes = usage->writes = usage->write_bytes = USAGE_NONE;
    if (sscanf(text, "%llu %*u %llu %*u %llu %*u %llu", &reads, &sectors_read, &writes,
               &sectors_written) != 4)
        return;
    usage->reads = reads;
    usage->read_bytes = sectors_read * SECTOR;
    usage->writes = writes;
    usage->write_bytes = sectors_written * SECTOR;
}

/* ---- system calls ---- */

/* The number of the tracepoint, or a negative errno. tracefs may be mounted in either place. */
static int tracepoint_number(void)
{
    static const char *const paths[] = {
        "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id",
        "/sys/kernel/debug/tracing/events/raw_syscalls/sys_enter/id",
    };
    int number = -ENOENT;

    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]) && number < 0; i++) {
        FILE *f = fopen(paths[i], "re");

        if (f == NULL) {
            number = -errno;
            continue;
        }
        if (fscanf(f, "%d", &number) != 1)
            number = -EIO;
        fclose(f);
    }
    return number;
}

static int syscalls_open_thread(unsigned tracepoint, pid_t thread)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_TRACEPOINT, .size = sizeof(attr), .config = tracepoint, .inherit = 1};
    long fd = syscall(SYS_perf_event_open, &attr, thread, -1, -1, PERF_FLAG_FD_CLOEXEC);

    return fd < 0 ? -errno : (int)fd;
}

/* Each thread that is there (the manager's, for instance) has an event of its own. */
static void syscalls_open(struct usage_source *source)
{
    int tracepoint = tracepoint_number(), error = 0;
    const struct dirent *entry;
    DIR *dir;

    if (tracepoint < 0) {
        missing_add(source, "system calls: tracefs %s",
                    tracepoint == -ENOENT
                        ? "is not mounted (mount -t tracefs tracefs /sys/kernel/tracing)"
                        : "cannot be read without root");
        return;
    }
    dir = opendir("/proc/self/task");
    while (dir != NULL && error == 0 && (entry = readdir(dir)) != NULL) {
        int fd;

        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        fd = source->syscalls_count < THREADS_MAX
                 ? syscalls_open_thread((unsigned)tracepoint, (pid_t)atoi(entry->d_name))
                 : -E2BIG;
        if (fd >= 0)
            source->syscalls[source->syscalls_count++] = fd;
        else if (fd != -ESRCH) /* it has ended */
            error = fd;
    }
    if (dir != NULL)
        closedir(dir);
    source->syscalls_whole = error == 0 && source->syscalls_count > 0;
    if (!source->syscalls_whole)
        missing_add(source, "system calls: perf_event_open: %s", strerror(-error));
}

static uint64_t syscalls_read(const struct usage_source *source)
{
    uint64_t sum = 0;

    if (!source->syscalls_whole)
        return USAGE_NONE;
    for (unsigned i = 0; i < source->syscalls_count; i++) {
        uint64_t count;

        if (read(source->syscalls[i], &count, sizeof(count)) != (ssize_t)sizeof(count))
            return USAGE_NONE;
        sum += count;
    }
    return sum;
}

/* ---- the rest ---- */

/* Interrupts that processors got to flush; no such line where flushes are sent by other means. */
static uint64_t tlb_flushes_read(struct usage_source *source)
{
    const char *at = line_find(file_text(source, source->interrupts), "TLB:");
    uint64_t sum = 0;

    if (at == NULL)
        return USAGE_NONE;
    for (;;) {
        char *end;
        uint64_t count = strtoull(at, &end, 10);

        if (end == at || (*end != ' ' && *end != '\n'))
            return sum;
        sum += count;
        at = end;
    }
}

static uint64_t cpu_read(struct usage_source *source)
{
    struct timespec time;
    uint64_t sum;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    sum = (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec;
    for (unsigned i = 0; !memory_kind_managed(source->memory->kind) && i < source->kswapd_count;
         i++)
        sum += strtoull(file_text(source, source->kswapd[i]), NULL, 10);
    return sum;
}

static void managed_read(const struct memory *memory, struct usage *usage)
{
    struct vmsm_counters c;
    uint64_t rescued;

    vmsm_get_counters(memory->vmsm, &c);
    rescued = c.faults_standby + c.faults_modified + c.faults_writing;
    usage->faults = c.faults_first_touch + rescued + c.faults_hard + c.faults_busy +
                    c.faults_protect + c.faults_stale + c.faults_failed;
    usage->faults_hard = c.faults_hard;
    usage->pages_in = c.pages_read;
    usage->pages_out = c.pages_written;
    /* The writer copies what it writes; the mapper copy what comes in, is rescued or is trimmed. */
    usage->bytes_copied = c.pages_written - c.pages_written_large - c.pages_read_large;
    if (memory->copies)
        usage->bytes_copied += c.pages_read + rescued + c.pages_rescued_ahead + c.pages_trimmed +
                               c.pages_trim_undone - c.pages_trimmed_at_once -
                               c.pages_trimmed_large;
    usage->bytes_copied *= VMSM_PAGE_SIZE;
}

static void peer_read(struct usage_source *source, struct usage *usage)
{
    struct rusage r;
    const char *text;

    getrusage(RUSAGE_SELF, &r);
    usage->faults = (uint64_t)r.ru_minflt + (uint64_t)r.ru_majflt;
    usage->faults_hard = (uint64_t)r.ru_majflt;
    usage->bytes_copied = USAGE_NONE;
    if (source->memory->kind != MAPPED) {
        text = file_text(source, source->vmstat);
        usage->pages_in = line_number(text, "pswpin ");
        usage->pages_out = line_number(text, "pswpout ");
        return;
    }
    usage->pages_in = line_number(file_text(source, source->io), "read_bytes: ");
    if (usage->pages_in != USAGE_NONE)
        usage->pages_in /= VMSM_PAGE_SIZE;
    usage->pages_out = usage->write_bytes;
    if (usage->pages_out != USAGE_NONE)
        usage->pages_out /= VMSM_PAGE_SIZE;
}

int usage_open(struct usage_source **out, const struct memory *memory, const char *dir)
{
    struct usage_source *source = calloc(1, sizeof(*source));

    *out = source;
    if (source == NULL)
        return -ENOMEM;
    source->memory = memory;
    source->vmstat = file_open("/proc/vmstat");
    source->interrupts = file_open("/proc/interrupts");
    source->io = file_open("/proc/self/io");
    disk_open(source, dir);
    if (!memory_kind_managed(memory->kind))
        kswapd_open(source);
    syscalls_open(source);
    return 0;
}

const char *usage_missing(const struct usage_source *source)
{
    return source->missing;
}

void usage_read(struct usage_source *source, struct usage *usage)
{
    disk_read(source, usage);
    usage->tlb_flushes = tlb_flushes_read(source);
    if (memory_kind_managed(source->memory->kind))
        managed_read(source->memory, usage);
    else
        peer_read(source, usage);
    usage->syscalls = syscalls_read(source);
    usage->cpu_ns = cpu_read(source);
}

static uint64_t difference(uint64_t from, uint64_t to)
{
    return from == USAGE_NONE || to == USAGE_NONE ? USAGE_NONE : to - from;
}

void usage_difference(const struct usage *from, const struct usage *to, struct usage *out)
{
#define USAGE_DIFFERENCE(name, help) out->name = difference(from->name, to->name);
    USAGES(USAGE_DIFFERENCE)
#undef USAGE_DIFFERENCE
}

void usage_close(struct usage_source *source)
{
    if (source == NULL)
        return;
    if (source->vmstat >= 0)
        close(source->vmstat);
    if (source->interrupts >= 0)
        close(source->interrupts);
    if (source->io >= 0)
        close(source->io);
    if (source->disk >= 0)
        close(source->disk);
    for (unsigned i = 0; i < source->kswapd_count; i++)
        close(source->kswapd[i]);
    for (unsigned i = 0; i < source->syscalls_count; i++)
        close(source->syscalls[i]);
    free(source);
}
