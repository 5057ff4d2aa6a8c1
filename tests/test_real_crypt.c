/*
 * An encrypted pagefile under real memory: what is found there is not what pages contain, and what
 * somebody changes there raises SIGBUS for its page alone, with a message.
 */
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "real_fixture.h"

#define PAGES 900u
#define SLOTS_SEEN 400

static const char *const kinds[] = {"mapper:copy,trap:thread", "mapper:copy,trap:sigbus",
                                    "mapper:move,trap:thread", "mapper:move,trap:sigbus"};

static int pagefile;
static char path[] = "/var/tmp/vmsm-test-XXXXXX";

static struct vmsm *open_on_file(const char *kind, const char *more, char **base)
{
    char conf[REAL_CONF_MAX];
    void *region = NULL;
    struct vmsm *m;

    if (ftruncate(pagefile, 0) != 0)
        return NULL;
    snprintf(conf, sizeof(conf), "%s,memory:1M,pagefile:%s,%s", kind, path, more);
    m = manager_or_skip(conf);
    if (m == NULL)
        return NULL;
    is(vmsm_map(m, PAGES * PAGE, &region), 0, "%s: a region", conf);
    *base = region;
    pages_write(m, region, PAGES, 1);
    is(pages_wrong(m, region, PAGES, 1), 0, "%s: filled and read back", conf);
    return m;
}

/* How many slots begin as a page of the region does. */
static unsigned plain_slots(void)
{
    unsigned found = 0;
    uint64_t words[2];

    for (long slot = 1; slot < SLOTS_SEEN; slot++) {
        if (pread(pagefile, words, sizeof(words), slot * (long)PAGE) != (ssize_t)sizeof(words))
            continue;
        for (size_t p = 0; p < PAGES; p++)
            found += words[0] == word_of(p, 0, 1) && words[1] == word_of(p, 1, 1);
    }
    return found;
}

static void test_plaintext(const char *kind, bool encrypt)
{
    char *base;
    struct vmsm *m = open_on_file(kind, encrypt ? "encrypt:on" : "encrypt:off", &base);
    unsigned found;

    if (m == NULL)
        return;
    found = plain_slots();
    if (encrypt)
        is(found, 0, "%s, encrypted: no page stands in the pagefile", kind);
    else
        ok(found > 100, "%s, not encrypted: %u pages do", kind, found);
    vmsm_destroy(m);
}

/* A bit of one slot in ten is flipped behind our back. */
static void test_changed(const char *kind)
{
    char *base;
    struct vmsm *m = open_on_file(kind, "encrypt:on", &base);
    size_t failed = 0, wrong = 0;
    struct vmsm_counters c;
    int messages;

    if (m == NULL)
        return;
    messages = log_catch();
    for (long slot = 5; slot < SLOTS_SEEN; slot += 10) {
        unsigned char byte = 0;
        off_t at = slot * (off_t)PAGE + 1234;

        if (pread(pagefile, &byte, 1, at) != 1)
            continue;
        byte ^= 4;
        if (pwrite(pagefile, &byte, 1, at) != 1)
            ok(false, "the pagefile can be changed");
    }
    for (size_t p = 0; p < PAGES; p++) {
        enum page_look look = page_look(m, base, p, 1);

        failed += look == PAGE_FAILED;
        wrong += look == PAGE_WRONG;
    }
    c = counters_of(m);
    ok(failed > 0 && failed <= SLOTS_SEEN / 10, "%s: %zu pages raised SIGBUS", kind, failed);
    is(wrong, 0, "%s: the others are right", kind);
    ok(c.decrypt_errors > 0, "%s: %llu reads did not decrypt", kind,
       (unsigned long long)c.decrypt_errors);
    is(c.hash_errors, 0, "%s: and nothing got as far as the hash", kind);
    ok(log_has(messages, "it does not decrypt: changed by somebody else, or damaged"),
       "%s: the message says why", kind);
    is(vmsm_check(m), 0, "%s: books balanced", kind);
    vmsm_destroy(m);
    close(messages);
}

/* Bits flipped by a bad disk on the way: read again, and right. */
static void test_flaky(const char *kind)
{
    char *base;
    struct vmsm *m = open_on_file(kind, "encrypt:on,store_corrupt:7,store_write_error:5", &base);
    struct vmsm_counters c;

    if (m == NULL)
        return;
    pages_write(m, base, PAGES, 2);
    is(pages_wrong(m, base, PAGES, 2), 0, "%s: every page right through a bad disk", kind);
    c = counters_of(m);
    ok(c.decrypt_errors > 0 && c.hash_errors == 0,
       "%s: the tag found what it flipped, %llu times, the hash behind it nothing", kind,
       (unsigned long long)c.decrypt_errors);
    ok(c.write_errors > 0 || c.write_ios > c.write_batches, "%s: writes failed and were repeated",
       kind);
    is(vmsm_check(m), 0, "%s: books balanced", kind);
    vmsm_destroy(m);
}

/* The key cannot be locked: no manager, a clear word, and the pagefile not left behind. */
static void test_refused(void)
{
    int status = 1;
    pid_t child;

    fflush(stdout);
    child = fork();
    if (child == 0) {
        struct rlimit none = {0, 0};
        struct vmsm *m;

        if (setrlimit(RLIMIT_MEMLOCK, &none) != 0 || (geteuid() == 0 && setuid(65534) != 0))
            _exit(4);
        if (vmsm_create(&m, "mapper:soft,memory:1M,encrypt:on") == 0)
            _exit(3);
        _exit(strstr(vmsm_last_error(), "ulimit -l") != NULL ? 0 : 2);
    }
    waitpid(child, &status, 0);
    is(status, 0, "without the right to lock memory there is no encrypted manager, in words");
}

int main(void)
{
    pagefile = mkstemp(path);
    if (pagefile < 0)
        skip_all("no file in /var/tmp: %s", strerror(errno));
    catch_sigbus();
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        test_plaintext(kinds[k], false);
        test_plaintext(kinds[k], true);
        test_changed(kinds[k]);
        test_flaky(kinds[k]);
    }
    if (SANITIZED)
        skip("a limit on locked memory: sanitizers make mlock() do nothing");
    else
        test_refused();
    close(pagefile);
    unlink(path);
    return done_testing();
}
