/*
 * Threads of the manager: made by clone(), unknown to the C library.
 *
 * pthread_create() would not do. It reads the loader's records of libraries and allocates, on the
 * program's heap: managed memory, which nobody serves yet while a child of fork() makes its
 * threads. It takes locks that a thread may have held that is not in the child. And the C library
 * would count them: a program of one thread would have several, and one that ends by pthread_exit()
 * would not end.
 *
 * What they run needs thread-local variables that are reached at a fixed distance from the thread
 * pointer (tls_model "initial-exec"): ours, and errno. A thread has them as the first one had them
 * when the program started. Of the C library's descriptor of a thread, above the pointer, it has
 * what compiled code looks at; the rest is zero. It never allocates: own_depth is 1 for good.
 */
#include <errno.h>
#include <link.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload/kernel.h"
#include "preload/preload.h"
#include "preload/renamed.h"

/* Below the thread pointer, of all libraries that come with a program. */
#define TLS_MOST (1024UL * 1024)
#define TLS_USUAL 8192u
#define DESCRIPTOR_ROOM 8192u /* above it: more than the C library's descriptor */
#define STACK_ALIGNMENT 64u

/* Words at the thread pointer, by the processor's ABI and the C library's tcbhead_t. */
enum { WORD_TCB = 0, WORD_SELF = 2, WORD_STACK_GUARD = 5, WORD_POINTER_GUARD = 6 };

/* ---- threads of the manager ---- */

struct own_thread {
    _Atomic uint32_t id; /* the kernel sets it to 0 when the thread has ended */
    void *(*run)(void *);
    void *argument;
    char *memory; /* stack, variables, descriptor */
    size_t size;
};

/* The first thread's variables at the start. Constant after that. */
static struct {
    size_t size; /* below the thread pointer */
    char *content;
    char usual[TLS_USUAL];
} variables;

static uintptr_t *thread_pointer(void)
{
    uintptr_t *pointer;

    __asm__("mov %%fs:0, %0" : "=r"(pointer));
    return pointer;
}

static int find_lowest(struct dl_phdr_info *info, size_t size, void *argument)
{
    uintptr_t *lowest = argument, pointer = (uintptr_t)thread_pointer();
    uintptr_t start = (uintptr_t)info->dlpi_tls_data;

    (void)size;
    if (start != 0 && start < *lowest && pointer - start < TLS_MOST)
        *lowest = start;
    return 0;
}

void thread_start(void)
{
    uintptr_t pointer = (uintptr_t)thread_pointer(), lowest = pointer;

    dl_iterate_phdr(find_lowest, &lowest);
    variables.size = (pointer - lowest + STACK_ALIGNMENT - 1) & ~(size_t)(STACK_ALIGNMENT - 1);
    variables.content = variables.usual;
    if (variables.size > TLS_USUAL) {
        variables.content = kernel_mmap(NULL, variables.size, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (variables.content == MAP_FAILED)
            variables.size = 0; /* own_pthread_create() fails */
    }
    memcpy(variables.content + variables.size - (pointer - lowest), (void *)lowest,
           variables.size > 0 ? pointer - lowest : 0);
}

static int thread_main(void *argument)
{
    static const uint64_t all = ~UINT64_C(0);
    struct own_thread *thread = argument;

    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof(all));
    own_depth = 1;
    thread->run(thread->argument);
    return 0;
}

/* Lay out stack, variables and descriptor; returns the thread pointer. */
static uintptr_t *lay_out(const struct own_thread *thread)
{
    char *top = thread->memory + thread->size - DESCRIPTOR_ROOM;
    uintptr_t *pointer = (uintptr_t *)(void *)top;
    const uintptr_t *mine = thread_pointer();

    memcpy(top - variables.size, variables.content, variables.size);
    pointer[WORD_TCB] = pointer[WORD_SELF] = (uintptr_t)pointer;
    pointer[WORD_STACK_GUARD] = mine[WORD_STACK_GUARD];
    pointer[WORD_POINTER_GUARD] = mine[WORD_POINTER_GUARD];
    return pointer;
}

int own_pthread_create(pthread_t *out, const pthread_attr_t *attributes, void *(*run)(void *),
                       void *argument)
{
    static const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                             CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID |
                             CLONE_CHILD_CLEARTID;
    struct own_thread *thread = own_alloc(_Alignof(struct own_thread), sizeof(*thread));
    uintptr_t *pointer;
    size_t stack = 0;
    uint64_t before;
    int result;

    pthread_attr_getstacksize(attributes, &stack);
    if (thread == NULL || variables.size == 0)
        return ENOMEM;
    *thread = (struct own_thread){.run = run, .argument = argument};
    thread->size = (stack + variables.size + DESCRIPTOR_ROOM + VMSM_PAGE_SIZE - 1) &
                   ~(size_t)(VMSM_PAGE_SIZE - 1);
    thread->memory = kernel_mmap(NULL, thread->size, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (thread->memory == MAP_FAILED)
        return ENOMEM;
    pointer = lay_out(thread);
    /* All signals, the C library's own as well: they are for its threads. */
    gate_mask_signals(&before);
    result = clone(thread_main, (char *)pointer - variables.size, flags, thread, &thread->id,
                   pointer, &thread->id);
    result = result < 0 ? errno : 0;
    gate_restore_signals(&before);
    if (result != 0)
        kernel_munmap(thread->memory, thread->size);
    *out = (pthread_t)thread;
    return result;
}

int own_pthread_join(pthread_t id, void **result)
{
    struct own_thread *thread = (struct own_thread *)id;
    uint32_t now;

    (void)result;
    while ((now = atomic_load(&thread->id)) != 0)
        kernel_call(SYS_futex, &thread->id, FUTEX_WAIT, now, NULL, NULL, 0);
    kernel_munmap(thread->memory, thread->size);
    return 0;
}

/* ---- threads of the program ---- */

typedef int create_function(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static create_function *_Atomic libc_pthread_create; /* NULL: not looked for yet */

/* At the start, or when a library makes a thread before that. */
__attribute__((constructor(102))) static void find_create(void)
{
    create_function *found = NULL;

    kernel_find(&found, "pthread_create");
    atomic_store(&libc_pthread_create, found);
}

PRELOAD_API int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                               void *(*run)(void *), void *argument)
{
    void *stack = NULL;
    size_t size = 0;

    if (process.active && attributes != NULL &&
        pthread_attr_getstack(attributes, &stack, &size) == 0 && size > 0 &&
        memory_release((uintptr_t)stack, size) != 0)
        return EAGAIN;
    if (libc_pthread_create == NULL)
        find_create();
    return libc_pthread_create(thread, attributes, run, argument);
}
