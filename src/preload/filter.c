/*
 * io_uring and libaio look as if the kernel had none (ENOSYS).
 *
 * Their reads write into memory while nobody is in a system call, so that nothing shows which pages
 * must stay: with the mapper `copy` a page could be trimmed between a device's write and its
 * completion, and the write would be lost. Programs that can use them can do without.
 *
 * The filter refuses io_uring_setup() and io_setup() only: without a ring or a context the other
 * calls have nothing to work on. The manager's own calls carry a word in an argument that the
 * kernel does not look at. Programs that this one starts inherit the filter, managed or not; so do
 * threads, and those that a library of the program has made before it is installed get it as well.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/error.h"
#include "preload/kernel.h"
#include "preload/preload.h"
#include "preload/renamed.h"

#define PASSWORD 0x766d736du

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)

static struct sock_filter program[] = {
    LOAD(arch),
    EQUAL(AUDIT_ARCH_X86_64, 0, 6),
    LOAD(nr),
    EQUAL(SYS_io_setup, 3, 0),
    EQUAL(SYS_io_uring_setup, 0, 3),
    LOAD(args[5]),
    EQUAL(PASSWORD, 1, 0),
    RETURN(SECCOMP_RET_ERRNO | ENOSYS),
    RETURN(SECCOMP_RET_ALLOW),
};

static long ring_setup(unsigned entries, struct io_uring_params *params, unsigned password)
{
    return kernel_call(SYS_io_uring_setup, entries, params, 0, 0, 0, password);
}

/* For all threads. 0 or an errno. */
static int install(struct sock_fprog *filter)
{
    long result =
        kernel_call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, filter);

    if (result < 0)
        return errno;
    return result == 0 ? 0 : EBUSY; /* a thread has a filter of its own */
}

void filter_install(void)
{
    struct sock_fprog filter = {.len = sizeof(program) / sizeof(program[0]), .filter = program};
    int error;

    /* An ancestor has it already, or the kernel lacks it. */
    if (ring_setup(0, NULL, 0) < 0 && errno == ENOSYS && kernel_call(SYS_io_setup, 0, NULL) < 0 &&
        errno == ENOSYS)
        return;
    error = install(&filter);
    /* Without privilege it takes this; then set-user-ID programs that it starts stay as they
     * are. */
    if (error == EACCES && kernel_prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
        error = install(&filter);
    if (error == 0)
        return;
    log_line(LOG_ERROR,
             "run: io_uring and libaio cannot be kept from the program (%s), and could lose what "
             "they read",
             strerror(error));
    _exit(125);
}

/* What io_uring_queue_init_params() does, with the word in its system call. */
int own_ring_init(unsigned entries, struct io_uring *ring, struct io_uring_params *params)
{
    long fd = ring_setup(entries, params, PASSWORD);
    int error;

    if (fd < 0)
        return -errno;
    fd = descriptor_keep((int)fd);
    error = io_uring_queue_mmap((int)fd, params, ring);
    if (error != 0) {
        own_close((int)fd);
        return error;
    }
    ring->features = params->features;
    for (unsigned i = 0; i < ring->sq.ring_entries; i++)
        ring->sq.array[i] = i;    /* each place of the ring has its own entry, for good */
    io_uring_ring_dontfork(ring); /* a child makes its own */
    return 0;
}

void own_ring_exit(struct io_uring *ring)
{
    descriptor_forget(ring->ring_fd);
    io_uring_queue_exit(ring);
}
