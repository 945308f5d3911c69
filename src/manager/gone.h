/*
 * A command in a machine that may go away under it.
 *
 * Theory of operation.  A machine that crashes, is killed or powers off shows
 * first as a broken connection; why, its supervisor writes into `events` a
 * moment later, before it gives up the machine's lock.  So the reader of a
 * broken connection waits for that moment.  If the command had surely not been
 * started the machine may be started again and asked anew; if it had, or may
 * have been, it is never run a second time.
 */
#ifndef WSLX_MANAGER_GONE_H
#define WSLX_MANAGER_GONE_H

#include <stdbool.h>

#include "base/err.h"
#include "base/macros.h"
#include "manager/registry.h"
#include "manager/session.h"

struct wslx_machine_session {
	unsigned tries;
	bool again; /* the command has not run: start the machine, or find it running, and ask again */
	int status; /* what to exit with */
};

/* wslx_session_run() in the machine `name`, which is not restarted here.  s: zero at first, and kept for another try.
 */
WSLX_MUST_CHECK int wslx_machine_session(struct wslx_manager *m, const char *name, const struct wslx_session_params *p,
					 struct wslx_machine_session *s, struct wslx_err *err);

#endif
