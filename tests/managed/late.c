/*
 * A program whose first thread has ended before there is a manager: what has no access is trimmed,
 * and has its content afterwards. TAP.
 */
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../tap.h"
#include "content.h"

#define SIZE (96UL * 1024 * 1024) /* twice that is more than the memory */

static void *go_on(void *first)
{
    char *memory, *more;

    pthread_join(*(pthread_t *)first, NULL);
    memory = content_map(SIZE);
    more = content_map(SIZE);
    ok(memory != NULL && more != NULL, "memory is mapped when the first thread has ended");
    content_fill(memory, SIZE, 1);
    is(mprotect(memory, SIZE, PROT_NONE), 0, "it loses all access");
    content_fill(more, SIZE, 2);
    content_fill(more, SIZE, 3);
    is(mprotect(memory, SIZE, PROT_READ | PROT_WRITE), 0, "and has it again");
    ok(content_holds(memory, SIZE, 1), "its content is there");
    ok(content_holds(more, SIZE, 3), "so is that of the other");
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
