/*
 * exec under the guard: path, arguments and environment are given to the kernel as a copy, for
 * nothing could undo pins. A child by vfork() or posix_spawn() leaves its copy to its parent, which
 * goes on when the child has become another program.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "preload/guard.h"
#include "preload/kernel.h"
#include "preload/preload.h"

/* How many strings, without the NULL, and how many bytes they and their array take. */
static size_t count_strings(char *const *strings, size_t *bytes)
{
    size_t count = 0;

    for (; strings != NULL && strings[count] != NULL; count++)
        *bytes += strlen(strings[count]) + 1;
    *bytes += (count + 1) * sizeof(char *);
    return count;
}

static char *copy_text(const char *text, char **room)
{
    char *copy = *room;
    size_t length = strlen(text) + 1;

    memcpy(copy, text, length);
    *room += length;
    return copy;
}

static void copy_strings(char *const *strings, char **array, size_t count, char **room)
{
    for (size_t i = 0; i < count; i++)
        array[i] = copy_text(strings[i], room);
    array[count] = NULL;
}

void guard_exec_done(void)
{
    if (guard_thread.copy != NULL)
        kernel_munmap(guard_thread.copy, guard_thread.copy_length);
    guard_thread.copy = NULL;
}

long guard_exec(long number, const uintptr_t *a)
{
    unsigned at = number == SYS_execveat;
    const char *path = (const char *)a[at];
    char *const *arguments = (char *const *)a[at + 1], *const *environment =
                                                           (char *const *)a[at + 2];
    char **array, *room;
    size_t bytes, count, variables;
    uintptr_t b[6];
    long result;

    if (path == NULL)
        return kernel_raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    bytes = strlen(path) + 1;
    count = count_strings(arguments, &bytes);
    variables = count_strings(environment, &bytes);
    array = kernel_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (array == MAP_FAILED)
        return -ENOMEM;
    room = (char *)(array + count + variables + 2);
    memcpy(b, a, sizeof(b));
    copy_strings(arguments, array, count, &room);
    copy_strings(environment, array + count + 1, variables, &room);
    b[at] = (uintptr_t)copy_text(path, &room);
    b[at + 1] = (uintptr_t)array;
    b[at + 2] = (uintptr_t)(array + count + 1);
    guard_thread.copy = array;
    guard_thread.copy_length = bytes;
    result = kernel_raw(number, b[0], b[1], b[2], b[3], b[4], b[5]);
    guard_exec_done();
    return result;
}
