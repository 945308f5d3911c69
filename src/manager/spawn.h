/*
 * Our own daemons as processes: the supervisor of a machine, and the broker of
 * a Portal region.  Descriptors in, readiness out (docs/control-protocol.md,
 * "Starting").
 */
#ifndef WSLX_MANAGER_SPAWN_H
#define WSLX_MANAGER_SPAWN_H

#include "base/err.h"
#include "base/macros.h"
#include "manager/machine.h"
#include "proto/vmconfig.h"

#define WSLX_HELPER_FDS 4
#define WSLX_HELPER_READY (-2) /* stands for the pipe that the program reports on */

struct wslx_helper {
	const char *program; /* one of ours, as wslx_find_own() wants it */
	const char *what;    /* "the machine", in messages */
	char *const *argv;
	int fds[WSLX_HELPER_FDS]; /* become 3, 4, ...; borrowed; the last one is its log */
	int n_fds;
};

/* Starts the program in a session of its own and waits until it says that it
 * is up.  -ECANCELED leaves it starting. */
WSLX_MUST_CHECK int wslx_helper_start(const struct wslx_helper *p, const struct wslx_start_hooks *h,
				      struct wslx_err *err);
/* A fresh log; the one of the last run is kept beside it as NAME.1. */
WSLX_MUST_CHECK int wslx_log_file(const char *folder, const char *name, struct wslx_err *err);

/* Starts wslx-vmm and waits until the machine is up.  lock_fd: borrowed, held;
 * the supervisor gets a duplicate.  -ECANCELED leaves it starting. */
WSLX_MUST_CHECK int wslx_vmm_spawn(const struct wslx_vm_config *c, int lock_fd, const struct wslx_start_hooks *h,
				   struct wslx_err *err);

#endif
