/*
 * The terminal's lines below: a block of progress that is redrawn in place,
 * and messages that go above it. On anything but a terminal, plain lines.
 * Both go to standard error, from any thread.
 */
#ifndef VMSM_CLI_CONSOLE_H
#define VMSM_CLI_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define CONSOLE_LINES 4

/* Columns of the terminal that a file is; 0: it is none. */
int terminal_width(FILE *out);
/* May it be coloured? A terminal, unless it is dumb or NO_COLOR is set. */
bool terminal_colour(FILE *out);

/* Does the block redraw in place? */
bool console_is_terminal(void);
/* Show a block of up to CONSOLE_LINES lines in place of the last one, in whole fields (two spaces
 * apart) as far as the width goes. */
void console_block(const char *const *lines, size_t count);
/* Take the block away. */
void console_clear(void);
/* One message "vmsm: …", above the block. */
__attribute__((format(printf, 1, 2))) void console_line(const char *format, ...);

#endif
