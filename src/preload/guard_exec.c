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

#define TEXT_MOST (128UL * 1024) /* of one string, as the kernel has it, with its end */

/* Where the strings go. */
struct room {
    char *at;
    size_t left;
};

static long count_text(uintptr_t text, uintptr_t *page, size_t *bytes)
{
    long length = guard_text_length(text, TEXT_MOST, page);

    if (length == (long)TEXT_MOST)
        return -E2BIG;
    if (length >= 0)
        *bytes += (size_t)length + 1;
    return length;
}

/* How many strings, without the NULL, and how many bytes they and their array take. */
static long count_strings(char *const *strings, size_t *bytes)
{
    uintptr_t page = 1, text_page = 1; /* that were looked at last; none is at 1 */
    long count = 0;

    for (; strings != NULL; count++) {
        uintptr_t at = (uintptr_t)&strings[count];
        long length;

        if (at / VMSM_PAGE_SIZE != page) {
            if (guard_readable(at, sizeof(*strings)) != 0)
                return -EFAULT;
            page = at / VMSM_PAGE_SIZE;
        }
        if (strings[count] == NULL)
            break;
        length = count_text((uintptr_t)strings[count], &text_page, bytes);
        if (length < 0)
            return length;
    }
    *bytes += (size_t)(count + 1) * sizeof(char *);
    return count;
}

/* NULL: another thread has made it longer since it was counted. */
static char *copy_text(const char *text, struct room *room)
{
    char *copy = room->at;
    size_t length = strnlen(text, room->left) + 1;

    if (length > room->left)
        return NULL;
    memcpy(copy, text, length - 1);
    copy[length - 1] = '\0';
    room->at += length;
    room->left -= length;
    return copy;
}

static bool copy_strings(char *const *strings, char **array, size_t count, struct room *room)
{
    for (size_t i = 0; i < count && strings[i] != NULL; i++) {
        array[i] = copy_text(strings[i], room);
        if (array[i] == NULL)
            return false;
    }
    return true; /* the mapping is of zeroes, and so is the last one of the array */
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
    size_t bytes = 0;
    uintptr_t page = 1, b[6];
    long length = count_text(a[at], &page, &bytes), count, variables, result = -E2BIG;
    struct room room;
    char **array;

    if (length < 0)
        return length == -E2BIG ? -ENAMETOOLONG : length;
    count = count_strings(arguments, &bytes);
    variables = count < 0 ? count : count_strings(environment, &bytes);
    if (variables < 0)
        return variables;
    array = kernel_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (array == MAP_FAILED)
        return -ENOMEM;
    guard_thread.copy = array;
    guard_thread.copy_length = bytes;
    room.at = (char *)(array + count + variables + 2);
    room.left = bytes - (size_t)(count + variables + 2) * sizeof(*array);
    memcpy(b, a, sizeof(b));
    b[at] = (uintptr_t)copy_text(path, &room);
    b[at + 1] = (uintptr_t)array;
    b[at + 2] = (uintptr_t)(array + count + 1);
    if (b[at] != 0 && copy_strings(arguments, array, (size_t)count, &room) &&
        copy_strings(environment, array + count + 1, (size_t)variables, &room))
        result = kernel_raw(number, b[0], b[1], b[2], b[3], b[4], b[5]);
    guard_exec_done();
    return result;
}
