/*
 * Log files of the state folder that somebody else fills: each has a limit, and
 * a full one becomes NAME.1, in place of the one before.
 */
#ifndef WSLX_VMM_SUPERVISOR_LOGFILE_H
#define WSLX_VMM_SUPERVISOR_LOGFILE_H

#include "base/macros.h"

/* Begins NAME anew; the one that is there becomes NAME.1.  A descriptor, or -errno. */
WSLX_MUST_CHECK int wslx_logfile_next(int dirfd, const char *name);

#endif
