/*
 * A program whose first thread has ended before there is a manager: what has no access is trimmed,
 * and has its content afterwards. TAP.
 */
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../tap.h"

#define PAGE ((size_t)4096)
#define SIZE (96UL * 1024 * 1024) /* twice that is more than the memory */

static char *map(void)
{
    char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

static void fill(char *memory, uint64_t salt)
{
    for (size_t at = 0; at < SIZE; at += PAGE)
        *(uint64_t *)(void *)(memory + at) = at ^ salt;
}

static bool holds(const char *memory, uint64_t salt)
{
    for (size_t at = 0; at < SIZE; at += PAGE)
        if (*(const uint64_t *)(const void *)(memory + at) != (at ^ salt))
            return false;
    return true;
}

static void *go_on(void *first)
{
    char *memory, *more;

    pthread_join(*(pthread_t *)first, NULL);
    memory = map();
    more = map();
    ok(memory != NULL && more != NULL, "memory is mapped when the first thread has ended");
    fill(memory, 1);
    is(mprotect(memory, SIZE, PROT_NONE), 0, "it loses all access");
    fill(more, 2);
    fill(more, 3);
    is(mprotect(memory, SIZE, PROT_READ | PROT_WRITE), 0, "and has it again");
    ok(holds(memory, 1), "its content is there");
    ok(holds(more, 3), "so is that of the other");
    exit(done_testing());
}

int main(void)
{
    static pthread_t first;
    pthread_t thread;

    first = pthread_self();
    pthread_create(&thread, NULL, go_on, &first);
    pthread_exit(NULL);
}
