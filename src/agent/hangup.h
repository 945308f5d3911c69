/*
 * Whom a distro's end hangs up.
 *
 * Theory of operation.  Everything gets SIGTERM and has its time.  Interactive
 * shells ignore SIGTERM, for one that is typed at them is not meant for them;
 * what they mind is SIGHUP, as if the terminal had gone.  But a shell passes
 * that on to its jobs, and the end of one that leads a terminal's session takes
 * the terminal from all of them, so it gets it only once nothing that minds
 * SIGTERM is left of what it has started.
 */
#ifndef WSLX_AGENT_HANGUP_H
#define WSLX_AGENT_HANGUP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/macros.h"

struct hangup_proc {
	pid_t pid, parent, session;
	bool minds;    /* SIGTERM: handles it, or ends by it */
	bool terminal; /* has one that controls it */
	bool dead;
};

struct hangup {
	int proc_fd; /* a /proc that nobody else can mount over; -1: there is none */
	pid_t *told;
	size_t n_told;
};

/* One line of /proc/PID/stat. */
WSLX_MUST_CHECK bool hangup_parse(const char *stat, struct hangup_proc *ret);
/* Is it time for that one of them? */
bool hangup_due(const struct hangup_proc *all, size_t n, const struct hangup_proc *p);
/* SIGHUP, once, to all of which that is so. */
void hangup_shells(struct hangup *h);

#endif
