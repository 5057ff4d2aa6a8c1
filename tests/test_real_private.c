/*
 * Whatever memory holds the content of managed pages is left out of core dumps and is not there in
 * a child: seen in /proc/self/smaps, and by children that touch it.
 */
#include <fcntl.h>
#include <sys/wait.h>

#include "core/platform.h"
#include "real_fixture.h"

SANITIZER_LEAVES_SIGNALS

#define PAGES 900u
#define MAPPINGS_MAX 4096u

static const char *const kinds[] = {"mapper:copy,trap:thread",
                                    "mapper:copy,trap:sigbus",
                                    "mapper:move,trap:thread",
                                    "mapper:move,trap:sigbus",
                                    "mapper:soft",
                                    "mapper:soft,encrypt:on"};

struct mapping {
    uintptr_t from, to;
    bool readable, anonymous, stack;
    bool dumped, forked, watched; /* watched: by userfaultfd, so that reading it may fault */
};

static struct mapping mappings[MAPPINGS_MAX];

static void read_flags(struct mapping *map, const char *flags)
{
    map->dumped = strstr(flags, " dd") == NULL;
    map->forked = strstr(flags, " dc") == NULL;
    map->watched = strstr(flags, " um") != NULL || strstr(flags, " uw") != NULL;
}

static size_t read_mappings(void)
{
    FILE *smaps = fopen("/proc/self/smaps", "r");
    char line[1024], rights[8], path[512];
    size_t n = 0;

    while (smaps != NULL && fgets(line, sizeof(line), smaps) != NULL) {
        unsigned long from, to, inode;

        path[0] = '\0';
        if (sscanf(line, "%lx-%lx %7s %*s %*s %lu %511s", &from, &to, rights, &inode, path) >= 4) {
            if (n == MAPPINGS_MAX)
                break;
            mappings[n++] = (struct mapping){.from = from,
                                             .to = to,
                                             .readable = rights[0] == 'r',
                                             .anonymous = inode == 0 && path[0] == '\0',
                                             .stack = strcmp(path, "[stack]") == 0};
        } else if (n > 0 && strncmp(line, "VmFlags:", 8) == 0) {
            read_flags(&mappings[n - 1], line);
        }
    }
    if (smaps != NULL)
        fclose(smaps);
    return n;
}

static const struct mapping *mapping_of(const void *address)
{
    size_t n = read_mappings();

    for (size_t i = 0; i < n; i++) {
        if ((uintptr_t)address >= mappings[i].from && (uintptr_t)address < mappings[i].to)
            return &mappings[i];
    }
    return NULL;
}

/* Does a page begin as some page of the region does? */
static bool is_content(int memory, uintptr_t at)
{
    uint64_t words[2];

    if (pread(memory, words, sizeof(words), (off_t)at) != (ssize_t)sizeof(words))
        return false;
    for (size_t p = 0; p < PAGES; p++) {
        if (words[0] == word_of(p, 0, 1) && words[1] == word_of(p, 1, 1))
            return true;
    }
    return false;
}

/* A page with content, of those of the mapping that are there; 0: none. Tables are sparse and may
 * be 100 GiB; what is larger is a sanitizer's. */
static uintptr_t find_content(const struct mapping *map, int memory, int pagemap)
{
    static uint64_t entries[1 << 16];

    if (map->to - map->from >= UINT64_C(1) << 40)
        return 0;
    for (uintptr_t at = map->from; at < map->to;) {
        size_t want = (map->to - at) / PAGE;
        ssize_t got;

        if (want > sizeof(entries) / sizeof(entries[0]))
            want = sizeof(entries) / sizeof(entries[0]);
        got = pread(pagemap, entries, want * sizeof(entries[0]),
                    (off_t)(at / PAGE * sizeof(entries[0])));
        if (got <= 0)
            return 0;
        for (size_t i = 0; i < (size_t)got / sizeof(entries[0]); i++, at += PAGE) {
            if (entries[i] >> 63 && is_content(memory, at))
                return at;
        }
    }
    return 0;
}

/* How a child that reads a byte there ends: the signal, or 0. */
static int child_reads(uintptr_t address)
{
    int status = 0;
    pid_t child;

    fflush(stdout);
    child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        _exit(*(volatile char *)address == 0 ? 1 : 2);
    }
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void check_private(const char *kind, const char *what, const struct mapping *map,
                          uintptr_t address)
{
    ok(!map->dumped, "%s: %s of %lu KiB is left out of core dumps", kind, what,
       (unsigned long)((map->to - map->from) >> 10));
    ok(!map->forked, "%s: and not inherited", kind);
    is(child_reads(address), SIGSEGV, "%s: a child that reads it gets SIGSEGV", kind);
}

static void test_kind(const char *kind)
{
    int memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    unsigned watched = 0, held = 0;
    char conf[REAL_CONF_MAX];
    void *region = NULL;
    struct vmsm *m;
    size_t n;

    snprintf(conf, sizeof(conf), "%s,memory:1M", kind);
    m = manager_or_skip(conf);
    if (m == NULL || memory < 0 || pagemap < 0)
        return;
    is(vmsm_map(m, PAGES * PAGE, &region), 0, "%s: a region", kind);
    pages_write(m, region, PAGES, 1);
    is(pages_wrong(m, region, PAGES, 1), 0, "%s: filled, and read back", kind);
    n = read_mappings();
    for (size_t i = 0; i < n; i++) {
        const struct mapping map = mappings[i];
        uintptr_t at;

        if (!map.readable || !map.anonymous || map.stack)
            continue;
        if (map.watched) { /* the region; and the pool of the mapper move */
            check_private(kind, "watched memory", &map, map.from);
            watched++;
        } else if ((at = find_content(&map, memory, pagemap)) != 0) {
            check_private(kind, "memory with content", &map, at);
            held++;
        }
    }
    ok(strstr(kind, "soft") != NULL || watched > 0, "%s: %u mappings are watched", kind, watched);
    ok(strstr(kind, "move") != NULL || held > 0, "%s: %u more hold content", kind, held);
    is(child_reads((uintptr_t)region), SIGSEGV, "%s: a child has no region", kind);
    is(pages_wrong(m, region, PAGES, 1), 0, "%s: after all the children, all is right", kind);
    is(vmsm_check(m), 0, "%s: books balanced", kind);
    vmsm_destroy(m);
    close(memory);
    close(pagemap);
}

/* What all tables and buffers are made of. */
static void test_platform(void)
{
    size_t size = 4UL << 20;
    char *table = platform_linux.reserve(size), *buffer = platform_linux.buffer(size);
    const struct mapping *map;

    table[0] = 1;
    map = mapping_of(table);
    ok(map != NULL && !map->dumped, "tables are left out of core dumps");
    is(child_reads((uintptr_t)table), 0, "a child has a copy of them: signal handlers look there");
    map = mapping_of(buffer);
    ok(map != NULL && !map->dumped && !map->forked, "buffers are in neither");
    if (SANITIZED)
        skip("%s maps memory of its own where the child has a hole", SANITIZER);
    else
        is(child_reads((uintptr_t)buffer), SIGSEGV, "a child that reads one gets SIGSEGV");
    platform_linux.release(table, size);
    platform_linux.release(buffer, size);
}

int main(void)
{
    test_platform();
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
        test_kind(kinds[k]);
    return done_testing();
}
