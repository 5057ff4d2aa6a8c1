/*
 * A manager that cannot be made says why, in words, and leaves nothing behind.
 */
#include <errno.h>

#include "machine_fixture.h"

/* Reservations: how many there have been, which is the first to fail, and what is still held. */
static unsigned reservations, first_to_fail;
static long held;

static void *reserve(size_t length)
{
    void *memory = ++reservations < first_to_fail ? platform_linux.reserve(length) : NULL;

    held += memory != NULL;
    return memory;
}

static void *buffer(size_t length)
{
    void *memory = ++reservations < first_to_fail ? platform_linux.buffer(length) : NULL;

    held += memory != NULL;
    return memory;
}

static void release(void *base, size_t length)
{
    held--;
    platform_linux.release(base, length);
}

static int create(struct machine **m, const struct platform *platform)
{
    struct store_file_options file = {.path = "", .size_slots = 1024};
    struct machine_options options = {.backend = &sync_backend_linux,
                                      .platform = platform,
                                      .mapper_open = mapper_soft_open,
                                      .pool_queues = 2};
    struct tunables t;

    tunables_init(&t);
    if (tunables_parse(&t, "mapper:soft,trap:none,memory:1M,pagefile_size:4M,workers:off") != 0 ||
        store_file_open(&file, &options.store) != 0) {
        printf("Bail out! %s\n", error_last());
        exit(1);
    }
    options.tunables = &t;
    return machine_create(&options, m);
}

/* Memory runs out at each place in turn. */
static void no_memory(void)
{
    struct platform platform = platform_linux;
    struct machine *m = NULL;
    int error;

    platform.reserve = reserve;
    platform.buffer = buffer;
    platform.release = release;
    for (first_to_fail = 1; first_to_fail < 100; first_to_fail++) {
        reservations = 0;
        error_set(0, "%s", "");
        error = create(&m, &platform);
        if (error == 0)
            break;
        is(error, -ENOMEM, "without reservation %u none is made", first_to_fail);
        ok(error_last()[0] != '\0', "in words: %s", error_last());
        is(held, 0, "nothing is left of it");
    }
    ok(first_to_fail > 5 && first_to_fail < 100, "with %u reservations one is made",
       first_to_fail - 1);
    machine_destroy(m);
    is(held, 0, "and ends without a trace");
}

/* *in: the file that it made is in the current directory under this name. */
static int create_at(const char *pagefile, const char *name, bool *in)
{
    char conf[200];
    struct vmsm *m = NULL;
    int error;

    snprintf(conf, sizeof(conf), "mapper:soft,memory:1M,pagefile:%s", pagefile);
    error = vmsm_create(&m, conf);
    *in = error == 0 && access(name, F_OK) == 0;
    vmsm_destroy(m);
    return error;
}

static void is_path(const char *pagefile, const char *name)
{
    bool in;

    is(create_at(pagefile, name, &in), 0, "%s is a path: %s", pagefile, error_last());
    ok(in, "of the file %s", name);
}

/* A STORE is a path or a URI; one of a scheme that nobody knows is no file's name. */
static void stores(void)
{
    static const char *const unknown[] = {"nbd://localhost/pages", "s3:bucket/pages",
                                          "NBD+unix:///pages", "files:/var/tmp/pages", "pages:1"};
    char directory[] = "/var/tmp/vmsm-create-XXXXXX", path[100], words[100];
    bool in;

    if (mkdtemp(directory) == NULL || chdir(directory) != 0) {
        ok(false, "a directory");
        return;
    }
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
        is(create_at(unknown[i], unknown[i], &in), -EINVAL, "%s is refused", unknown[i]);
        snprintf(words, sizeof(words), "./%s", unknown[i]);
        ok(strstr(error_last(), words) != NULL, "in words: %s", error_last());
    }
    snprintf(path, sizeof(path), "%s/s3:pages", directory);
    is_path(path, "s3:pages");
    is_path("./pages:1", "pages:1");
    is_path("1:pages", "1:pages");
    is_path("file:pages:2", "pages:2");
    is(rmdir(directory), 0, "nothing else has been made");
}

int main(void)
{
    no_memory();
    stores();
    return done_testing();
}
