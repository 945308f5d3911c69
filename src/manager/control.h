/*
 * Client of a machine's control socket, and of a region's (docs/control-protocol.md).
 *
 * Trust boundary: the supervisor runs as the same user, but may be of another
 * release, may hang, or may be going away: everything has a time limit and a
 * size limit, and members of a reply that are missing or have another type
 * read as absent.
 */
#ifndef WSLX_MANAGER_CONTROL_H
#define WSLX_MANAGER_CONTROL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "base/err.h"
#include "base/macros.h"
#include "proto/vmconfig.h"

enum wslx_machine_state {
	WSLX_MACHINE_STOPPED,
	WSLX_MACHINE_STARTING,
	WSLX_MACHINE_RUNNING,
	WSLX_MACHINE_PAUSED,
	WSLX_MACHINE_STOPPING,
};

struct wslx_machine_info {
	enum wslx_machine_state state;
	pid_t pid;               /* of the supervisor; 0 = not known */
	enum wslx_engine engine; /* AUTO = not known */
	int64_t uptime_ms, boots;
	unsigned cpus;
	uint64_t memory;
	char kernel[128]; /* release */
	bool panicked;
	bool host_disk_full; /* its writes wait for room */
	bool silent;         /* wslx_machine_query: it has a socket and does not answer */
};

/* method without the interface's name.  params is taken, NULL = none.
 * *ret: the reply's parameters, a new reference; ret may be NULL.
 * -ECONNREFUSED, -ENOENT: nobody there; -ETIMEDOUT; -EOPNOTSUPP: the supervisor
 * does not know this or cannot do it; -EAGAIN: not ready; -EPROTO. */
WSLX_MUST_CHECK int wslx_control_call(const char *sock_path, const char *method, json_t *params, unsigned timeout_ms,
				      json_t **ret, struct wslx_err *err);

/* The same of a region's broker; its own error codes come through. */
WSLX_MUST_CHECK int wslx_control_call_region(const char *sock_path, const char *method, json_t *params,
					     unsigned timeout_ms, json_t **ret, struct wslx_err *err);

WSLX_MUST_CHECK int wslx_control_info(const char *sock_path, struct wslx_machine_info *ret, struct wslx_err *err);

const char *wslx_machine_state_name(enum wslx_machine_state s);

#endif
