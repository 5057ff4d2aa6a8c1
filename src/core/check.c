#include "core/check.h"

#include <stdlib.h>

#include "core/error.h"

void check_failed(const char *what, const char *file, int line)
{
    log_line(LOG_ERROR,
             "broken invariant: %s (%s:%d). This is a bug of vmsm; stopping before data is lost.",
             what, file, line);
    abort();
}
