/*
 * Which files a pagefile may be: ours alone. What is made is closed to others whatever the umask;
 * what others could read, change or have put there is refused, and left as it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "store/store.h"
#include "tap.h"

#define PAGE 4096u
#define SIZE 10000

static char directory[] = "/var/tmp/vmsm-test-XXXXXX";

static const char *in_directory(const char *name)
{
    static char paths[4][512];
    static unsigned next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
    return path;
}

static int open_store(const char *path, struct store **store)
{
    struct store_file_options options = {.path = path, .size_slots = 16, .direct = true};

    *store = NULL;
    return store_file_open(&options, store);
}

/* The content that a refused file must keep. */
static void make_file(const char *path, mode_t mode)
{
    char content[SIZE];
    int fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);

    memset(content, 'v', sizeof(content));
    if (fd < 0 || write(fd, content, sizeof(content)) != SIZE || fchmod(fd, mode) != 0) {
        printf("Bail out! %s cannot be made\n", path);
        exit(1);
    }
    close(fd);
}

static bool untouched(const char *path, mode_t mode)
{
    char content[SIZE + 1];
    struct stat st;
    int fd = open(path, O_RDONLY);
    ssize_t got = read(fd, content, sizeof(content));
    bool same = got == SIZE && fstat(fd, &st) == 0 && (st.st_mode & 07777) == mode;

    for (ssize_t i = 0; i < got; i++)
        same &= content[i] == 'v';
    close(fd);
    return same;
}

static void refused(const char *what, const char *path, int code, const char *words)
{
    struct store *store;
    int err = open_store(path, &store);

    is(err, code, "%s: refused", what);
    ok(err != 0 && strstr(error_last(), words) != NULL, "%s: in words: %s", what, error_last());
    if (err == 0)
        store->ops->close(store);
}

static void test_new(void)
{
    static const mode_t masks[] = {0, 022, 0777};
    const char *path = in_directory("new");

    for (unsigned i = 0; i < 3; i++) {
        struct store *store;
        struct stat st = {0};

        umask(masks[i]);
        is(open_store(path, &store), 0, "umask %03o: a file is made", masks[i]);
        umask(022);
        ok(stat(path, &st) == 0 && (st.st_mode & 07777) == 0600, "umask %03o: its mode is 0600: %o",
           masks[i], st.st_mode & 07777u);
        if (store != NULL)
            store->ops->close(store);
        is(access(path, F_OK), -1, "umask %03o: it is gone at the end", masks[i]);
    }
}

static void test_modes(void)
{
    static const mode_t modes[] = {0640, 0604, 0620, 0666, 0601};
    const char *path = in_directory("old");
    struct store *store;

    for (unsigned i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        make_file(path, modes[i]);
        refused("a file open to others", path, -EPERM, "chmod 600");
        ok(untouched(path, modes[i]), "mode %04o: the file is as it was", modes[i]);
    }
    make_file(path, 0600);
    is(truncate(path, 0), 0, "without its content");
    is(open_store(path, &store), 0, "after chmod 600 it is used");
    if (store != NULL)
        store->ops->close(store);
    unlink(path);
}

static void test_owner(void)
{
    const char *path = in_directory("theirs");

    if (geteuid() != 0) {
        skip("another user's file: needs root, to make one");
        return;
    }
    make_file(path, 0600);
    is(chown(path, 65534, 65534), 0, "a file of another user");
    refused("a file of another user", path, -EPERM, "belongs to user 65534");
    ok(untouched(path, 0600), "another user's file is as it was");
    unlink(path);
}

static void test_links(void)
{
    const char *path = in_directory("file"), *name = in_directory("name");
    const char *inner = in_directory("way/pages");
    struct store *store;

    make_file(path, 0600);
    is(link(path, name), 0, "a second name");
    refused("a file with two names", name, -EPERM, "hard links");
    ok(untouched(path, 0600), "a file with two names is as it was");
    unlink(name);
    is(symlink(path, name), 0, "a symbolic link");
    refused("a symbolic link", name, -ELOOP, "symbolic link");
    ok(untouched(path, 0600), "what it points to is as it was");
    unlink(path);
    refused("a symbolic link to a missing file", name, -ELOOP, "leads nowhere");
    is(access(path, F_OK), -1, "the missing file was not made");
    unlink(name);

    /* A directory on the way may be a link: see docs/security.md. */
    is(symlink(directory, in_directory("way")), 0, "a link to a directory");
    is(open_store(inner, &store), 0, "is followed");
    is(access(in_directory("pages"), F_OK), 0, "to where it leads");
    if (store != NULL)
        store->ops->close(store);
    is(access(in_directory("pages"), F_OK), -1, "and the file is removed through it");
    unlink(in_directory("way"));
}

static void test_kinds(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = in_directory("thing");
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    is(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0, "a socket");
    refused("a socket", path, -EINVAL, "neither a file nor a block device");
    close(fd);
    unlink(path);
    is(mkfifo(path, 0600), 0, "a pipe");
    refused("a pipe", path, -EINVAL, "neither a file nor a block device");
    unlink(path);
    refused("a character device", "/dev/zero", -EINVAL, "neither a file nor a block device");
}

/* The lock is the file's, so it holds against another process, and against one that was quicker. */
static void test_second_user(void)
{
    const char *path = in_directory("locked");
    struct store *store, *second;
    int status = 1;
    pid_t child;

    make_file(path, 0600);
    is(truncate(path, 0), 0, "a file");
    is(open_store(path, &store), 0, "a first user of a file");
    child = fork();
    if (child == 0)
        _exit(open_store(path, &second) == -EBUSY ? 0 : 1);
    waitpid(child, &status, 0);
    is(status, 0, "a second user, in another process, is refused");
    if (store != NULL)
        store->ops->close(store);
    unlink(path);
}

int main(void)
{
    if (mkdtemp(directory) == NULL)
        skip_all("no directory in /var/tmp: %s", strerror(errno));
    test_new();
    test_modes();
    test_owner();
    test_links();
    test_kinds();
    test_second_user();
    is(rmdir(directory), 0, "nothing is left behind");
    return done_testing();
}
