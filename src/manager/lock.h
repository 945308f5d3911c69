/*
 * Advisory locks on open file descriptions: dropped by the kernel when the
 * last descriptor goes, so a killed process leaves none behind, and passed on
 * by inheriting the descriptor.  docs/architecture.md has the lock order.
 */
#ifndef WSLX_MANAGER_LOCK_H
#define WSLX_MANAGER_LOCK_H

#include <stdbool.h>

#include "base/macros.h"

enum wslx_lock_mode { WSLX_LOCK_SHARED, WSLX_LOCK_EXCLUSIVE };

/* Opens (makes) the lock file name in dirfd and locks it.  Without wait:
 * -EAGAIN when another holds it.  Returns the descriptor, close-on-exec, or
 * -errno; -ENOENT when the folder is gone, also if that happened meanwhile. */
WSLX_MUST_CHECK int wslx_lock_take(int dirfd, const char *name, enum wslx_lock_mode mode, bool wait);

/* Locks a descriptor of the caller's.  0, -EAGAIN, -errno. */
WSLX_MUST_CHECK int wslx_lock_fd(int fd, enum wslx_lock_mode mode, bool wait);

/* Does anybody hold it?  1, 0 (also when the file does not exist), -errno. */
WSLX_MUST_CHECK int wslx_lock_held(int dirfd, const char *name);

#endif
