/*
 * A thread's last failure, in words, and messages for the user.
 *
 * error_set() formats into a thread-local buffer and returns its code, so that
 * failing is one line: return error_set(-ENOSPC, "pagefile %s: …", path).
 * Nothing here allocates or locks. What a message is given may be anything (names of files, words
 * of the user): control characters become '?', so that it stays one line.
 */
#ifndef VMSM_CORE_ERROR_H
#define VMSM_CORE_ERROR_H

#include <stdbool.h>
#include <stdint.h>

#define ERROR_TEXT_MAX 512

/* In a format, for a value or a path of the user's: cut, so that what follows it is not lost. */
#define SHOWN "%.60s"
#define SHOWN_PATH "%.300s"

__attribute__((format(printf, 2, 3))) int error_set(int code, const char *format, ...);
const char *error_last(void); /* "" if none */

/* LOG_ADVICE: the system lacks something, so a slower way is taken; it looks like a warning. */
enum log_level { LOG_ERROR, LOG_WARNING, LOG_ADVICE };

/* One line "vmsm: …" on the standard error that was open when the library started. It never waits
 * for who reads that: a line that does not fit is left out, and the next that does is preceded by
 * how many that were. Only a process that reads that pipe itself, into memory that is managed, can
 * stop it: read() holds the pipe's lock over the fault, and who should serve that may be the one
 * who logs. */
__attribute__((format(printf, 2, 3))) void log_line(enum log_level level, const char *format, ...);

/*
 * As log_line(), for what may happen very often: *said counts the lines of a kind. After the first
 * LOG_REPEATED_MAX only those are shown whose number is a power of two.
 */
#define LOG_REPEATED_MAX 20u
__attribute__((format(printf, 3, 4))) void
log_repeated(_Atomic uint32_t *said, enum log_level level, const char *format, ...);

/* The descriptor that log_line() writes to; duplicated, so that closing 2 does not silence it. */
int log_descriptor(void);
void log_use_descriptor(int fd);
/* Whether LOG_ADVICE is shown (it is): who has many processes need not have it from each. */
void log_show_advice(bool show);
/* Standard error has become something else or is closed: go on there, and let go of what it was. */
void log_follow(void);

#endif
