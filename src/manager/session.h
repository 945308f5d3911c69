/*
 * One process in a running machine, on the caller's descriptors.
 *
 * Theory of operation.  A session is a connection to the machine's vsock.sock
 * and an event loop that lives as long as the process.  Signals, if they are to
 * be forwarded, arrive through a signalfd: they are blocked by
 * wslx_session_block_signals() early on, so that none gets lost between the
 * start of the command and that of the loop.  Terminal modes are the caller's,
 * through the two hooks.
 *
 * Threads: all of it on the caller's.
 */
#ifndef WSLX_MANAGER_SESSION_H
#define WSLX_MANAGER_SESSION_H

#include <signal.h>
#include <stdbool.h>

#include "agentc/agentc.h"
#include "base/err.h"
#include "base/macros.h"

struct wslx_session_params {
	const char *vsock_path;
	const struct wslx_agent_exec *exec; /* winsize is filled in from winsize_fd */
	struct wslx_agentc_fds fds;
	int winsize_fd;       /* terminal whose size counts; -1 = none */
	int cancel_fd;        /* readable: hang up, -ECANCELED; -1 = never */
	bool forward_signals; /* those of wslx_session_block_signals() */
	/* The terminal's modes, both may be NULL: raw when the process runs, and
	 * again after a stop; cooked before a stop.  The last restore is the caller's.
	 * raw is false while the terminal is another job's, and is called again. */
	bool (*raw)(void *opaque);
	void (*cooked)(void *opaque);
	/* A line from the agent that is not an error: the folder does not exist ... */
	void (*warning)(void *opaque, const char *text);
	void *opaque;
};

/* Blocks what a session forwards.  old may be NULL. */
void wslx_session_block_signals(sigset_t *old);

enum wslx_session_loss {
	WSLX_SESSION_KEPT,          /* nothing was lost; or the machine hangs, or does not keep to the protocol */
	WSLX_SESSION_LOST_BEFORE,   /* the machine was never asked to run it, or said that it would not for now */
	WSLX_SESSION_LOST_STARTING, /* it was asked and did not answer */
	WSLX_SESSION_LOST_RUNNING,
};

/* 0: it ran, *ret_status is what to exit with.  -errno: it never ran, or was
 * lost; err says why, *ret_loss when, and *ret_status is 126, 127 or 255. */
WSLX_MUST_CHECK int wslx_session_run(const struct wslx_session_params *p, int *ret_status,
				     enum wslx_session_loss *ret_loss, struct wslx_err *err);

#endif
