/* Whoever holds a lock and does not answer any more. */
#ifndef WSLX_MANAGER_HOLDER_H
#define WSLX_MANAGER_HOLDER_H

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/macros.h"

/* Kills the process that has the lock file open and is called title (argv[0],
 * as wslx_helper_start gave it), as /proc shows: its socket may have no room
 * for one more to ask.  Kills those that it started, too, and waits until all
 * have ended.  -ESRCH, -ETIMEDOUT. */
WSLX_MUST_CHECK int wslx_kill_holder(int dirfd, const char *lock, const char *title, int wait_ms);

/* Who that is; 0: nobody. */
pid_t wslx_holder_pid(int dirfd, const char *lock, const char *title);

/* Has one process both files open?  Best effort, for a message only. */
bool wslx_held_together(const struct stat *a, const struct stat *b);

/* The same as wslx_kill_holder for a confined one, whose descriptors cannot be looked at: by the
 * stream socket it listens on. */
WSLX_MUST_CHECK int wslx_kill_listener(const char *sock_path, const char *title);

#endif
