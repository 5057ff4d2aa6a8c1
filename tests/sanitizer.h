/*
 * What a test must know of the sanitizer that it is built with: they make mlock() do nothing, need
 * memory and mappings of their own, and take signals.
 */
#ifndef TESTS_SANITIZER_H
#define TESTS_SANITIZER_H

#if defined(__has_feature)
#define SANITIZER_HAS(feature) __has_feature(feature)
#else
#define SANITIZER_HAS(feature) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || SANITIZER_HAS(address_sanitizer)
#define SANITIZER "the address sanitizer"
#define SANITIZED 1
#elif defined(__SANITIZE_THREAD__) || SANITIZER_HAS(thread_sanitizer)
#define SANITIZER "the thread sanitizer"
#define SANITIZED 1
#else
#define SANITIZER "no sanitizer"
#define SANITIZED 0
#endif

/* Once in a program: SIGSEGV and SIGBUS kill it, as they would without a sanitizer. */
#define SANITIZER_LEAVES_SIGNALS                                                                   \
    SANITIZER_ASKS __asan_default_options(void);                                                   \
    SANITIZER_ASKS __asan_default_options(void)                                                    \
    {                                                                                              \
        return "handle_segv=0:handle_sigbus=0";                                                    \
    }                                                                                              \
    SANITIZER_ASKS __tsan_default_options(void);                                                   \
    SANITIZER_ASKS __tsan_default_options(void)                                                    \
    {                                                                                              \
        return "handle_segv=0:handle_sigbus=0";                                                    \
    }
#define SANITIZER_ASKS __attribute__((visibility("default"))) const char *

#endif
