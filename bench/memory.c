#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory.h"
#include "vmsm.h"

const char *const memory_kind_names[MEMORY_KINDS] = {"managed", "sigbus", "swap", "zram", "mapped"};

static int managed_open(struct memory *memory, const struct memory_options *options)
{
    void *base = NULL;
    char *conf = NULL;
    int error;

    if (asprintf(&conf, "memory:%zuK,pagefile:%s,pagefile_force:on%s%s", options->budget >> 10,
                 options->file, options->settings,
                 memory->kind == MANAGED_SIGBUS ? ",trap:sigbus" : "") < 0)
        return -ENOMEM;
    error = vmsm_create(&memory->vmsm, conf);
    if (error == 0)
        error = vmsm_map(memory->vmsm, memory->length, &base);
    if (error != 0) {
        fprintf(stderr, "%s: no managed memory (%s): %s (settings are given as --set NAME=VALUE)\n",
                program_invocation_short_name, conf, vmsm_last_error());
        vmsm_destroy(memory->vmsm);
        memory->vmsm = NULL;
    }
    free(conf);
    memory->base = base;
    memory->copies = strstr(options->settings, "mapper:move") == NULL;
    return error;
}

static int region_map(struct memory *memory, int flags, int fd)
{
    void *base = mmap(NULL, memory->length, PROT_READ | PROT_WRITE, flags, fd, 0);

    if (base == MAP_FAILED) {
        int error = errno;

        fprintf(stderr, "%s: cannot map %zu bytes for the region: %s\n",
                program_invocation_short_name, memory->length, strerror(error));
        return -error;
    }
    memory->base = base;
    return 0;
}

static int mapped_open(struct memory *memory, const char *file)
{
    int error;

    memory->fd = open(file, O_RDWR | O_CLOEXEC);
    if (memory->fd < 0) {
        error = -errno;
        fprintf(stderr, "%s: cannot open the file %s: %s\n", program_invocation_short_name, file,
                strerror(-error));
        return error;
    }
    error = region_map(memory, MAP_SHARED, memory->fd);
    if (error != 0)
        close(memory->fd);
    return error;
}

int memory_open(struct memory *memory, enum memory_kind kind, const struct memory_options *options)
{
    *memory = (struct memory){.kind = kind, .length = options->length, .fd = -1};
    switch (kind) {
    case MANAGED:
    case MANAGED_SIGBUS:
        return managed_open(memory, options);
    case SWAP:
    case ZRAM:
        return region_map(memory, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    case MAPPED:
        return mapped_open(memory, options->file);
    case MEMORY_KINDS:
        break;
    }
    return -EINVAL;
}

int memory_close(struct memory *memory)
{
    int error = 0;

    if (memory_kind_managed(memory->kind)) {
        error = vmsm_check(memory->vmsm);
        if (error != 0)
            fprintf(stderr, "%s: the books do not balance: %s\n", program_invocation_short_name,
                    vmsm_last_error());
        vmsm_destroy(memory->vmsm);
    } else {
        munmap(memory->base, memory->length);
    }
    if (memory->fd >= 0) {
        /* The next process begins with nothing of it in the page cache. */
        if (fdatasync(memory->fd) < 0)
            error = -errno;
        posix_fadvise(memory->fd, 0, 0, POSIX_FADV_DONTNEED);
        close(memory->fd);
    }
    *memory = (struct memory){.fd = -1};
    return error;
}
