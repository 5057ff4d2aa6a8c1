/*
 * Assertions of three costs. None allocates or locks.
 *   check_always     a broken invariant here would lose data: in every build
 *   check_debug      cheap, but on hot paths: VMSM_DEBUG >= 1
 *   check_expensive  walks lists or pages: VMSM_DEBUG >= 3
 */
#ifndef VMSM_CORE_CHECK_H
#define VMSM_CORE_CHECK_H

#ifndef VMSM_DEBUG
#define VMSM_DEBUG 0
#endif

/* Prints "vmsm: broken invariant …" and aborts. */
__attribute__((noreturn, cold)) void check_failed(const char *what, const char *file, int line);

#define check_always(condition)                                                                    \
    (__builtin_expect(!!(condition), 1) ? (void)0 : check_failed(#condition, __FILE__, __LINE__))

#if VMSM_DEBUG >= 1
#define check_debug(condition) check_always(condition)
#else
#define check_debug(condition) ((void)sizeof(!!(condition)))
#endif

#if VMSM_DEBUG >= 3
#define check_expensive(condition) check_always(condition)
#else
#define check_expensive(condition) ((void)sizeof(!!(condition)))
#endif

#endif
