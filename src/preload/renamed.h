/*
 * What the manager's objects, and jemalloc's, call in the place of the C library's functions:
 * core.syms and jemalloc.syms have the pairs.
 */
#ifndef VMSM_PRELOAD_RENAMED_H
#define VMSM_PRELOAD_RENAMED_H

#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/types.h>

/* own.c, for the manager */
void *own_calloc(size_t count, size_t size);
void own_free(void *pointer);
char *own_strdup(const char *text);
int own_asprintf(char **out, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* print.c, for the manager */
int own_vsnprintf(char *buffer, size_t size, const char *format, va_list args);
int own_snprintf(char *buffer, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
char *own_strerror(int error);

/* thread.c, for the manager: threads that the C library does not know; attributes are the size of
 * their stack */
int own_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                       void *argument);
int own_pthread_join(pthread_t thread, void **result);

/* descriptor.c, for the manager: what they open is out of the program's way */
int own_open(const char *path, int flags, ...);
int own_mkostemp(char *name, int flags);
int own_close(int fd);
int own_epoll_create1(int flags);
int own_eventfd(unsigned value, int flags);
int own_timerfd_create(int clock, int flags);
long own_syscall(long number, ...);
int own_ring_init(unsigned entries, struct io_uring *ring, struct io_uring_params *params);
void own_ring_exit(struct io_uring *ring);

/* guard_signal.c, for the manager: what it does on SIGBUS, before the program's handler */
int own_sigaction(int signal, const struct sigaction *act, struct sigaction *old);

/* process.c, for the manager: TMPDIR is where this process's pagefile goes */
char *own_secure_getenv(const char *name);

/* heap.c, for jemalloc */
void *heap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int heap_munmap(void *address, size_t length);
int heap_madvise(void *address, size_t length, int advice);
int heap_mprotect(void *address, size_t length, int protection);
void *heap_sbrk(intptr_t increment);

/* jemalloc, under the names that it has here */
void *jemalloc_malloc(size_t size);
void *jemalloc_calloc(size_t count, size_t size);
void *jemalloc_realloc(void *pointer, size_t size);
void jemalloc_free(void *pointer);
int jemalloc_posix_memalign(void **out, size_t alignment, size_t size);
void *jemalloc_aligned_alloc(size_t alignment, size_t size);
void *jemalloc_memalign(size_t alignment, size_t size);
size_t jemalloc_malloc_usable_size(void *pointer);

#endif
