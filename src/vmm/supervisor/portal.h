/*
 * A machine's part in Portal regions: the supervisor is the broker's client on
 * the guest's behalf, and decides what lies where in the guest's window.
 *
 * Theory of operation.  For each grant there is a connection to that region's
 * broker (portal_broker.c).  What it hands out is mapped by the processes that
 * hold the guest's memory, at the supervisor's word (params.map), each arena in
 * a run of window segments of its own (portal_place.c).  Once all of an answer
 * is in place, the tables in the window say so (portal_page.c), and so does a
 * SYNCED to the broker.  The guest's program holds a doorbell, a vsock stream
 * that this end of answers itself (portal_bell.c): the connection is the
 * attachment, and with its end the participant leaves and another one joins.
 *
 * One thing at a time a grant: while a mapping is under way nothing is read from
 * its broker.  So what is queued here is bounded, whatever a broker sends.
 *
 * A boot is a window of its own.  Grants, and that one was revoked, outlive it.
 *
 * Trust boundary: the guest owns the window's memory, the tables included, and
 * the doorbell's bytes; the tables are written and never read.  Brokers are of
 * the same user; their messages and files are checked all the same.
 */
#ifndef WSLX_VMM_SUPERVISOR_PORTAL_H
#define WSLX_VMM_SUPERVISOR_PORTAL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "proto/vmconfig.h"

struct wslx_vmportal;

/* A run of window segments and what is to lie there; see window.h. */
struct wslx_vmportal_map {
	uint32_t first, segments;
	uint32_t kind; /* enum wslx_window_kind */
	int fd;        /* borrowed */
};

/* err: 0 or -errno; -ECONNRESET: the run is over. */
typedef void (*wslx_vmportal_mapped_fn)(void *opaque, int err);

struct wslx_vmportal_params {
	struct wslx_loop *loop;
	const char *machine; /* its name */
	uint32_t cid;
	/* Calls done once, later, from the loop, unless it fails or the boot ends. */
	int (*map)(void *opaque, const struct wslx_vmportal_map *m, wslx_vmportal_mapped_fn done, void *done_opaque);
	void (*warn)(void *opaque, const char *text);
	/* May be NULL.  Was the grant taken back, though nobody has told us yet? */
	bool (*withdrawn)(void *opaque, const char *region);
	/* What was taken away may still be there: the machine must end. */
	void (*failed)(void *opaque, const char *text);
	void *opaque;
};

WSLX_MUST_CHECK int wslx_vmportal_new(const struct wslx_vmportal_params *p, const struct wslx_portal_config *c,
				      struct wslx_vmportal **ret);
void wslx_vmportal_free(struct wslx_vmportal *p); /* NULL is fine */

/* A new window, before the processes start.  Its memory: *ret_fd, borrowed. */
WSLX_MUST_CHECK int wslx_vmportal_boot(struct wslx_vmportal *p, int *ret_fd, struct wslx_err *err);
/* They have started: joins the regions. */
void wslx_vmportal_start(struct wslx_vmportal *p);
/* The boot is over: leaves the regions. */
void wslx_vmportal_stop(struct wslx_vmportal *p);

bool wslx_vmportal_is_doorbell(const struct wslx_vmportal *p, uint64_t port);
/* The guest connects to a doorbell: the stream's end for it, or -errno. */
WSLX_MUST_CHECK int wslx_vmportal_doorbell(struct wslx_vmportal *p, uint64_t port);

/* A grant that is new, or was revoked, or on other terms than so far: what was
 * there on the old ones is taken away first.  -ENOSPC: there are as many as
 * there can be. */
WSLX_MUST_CHECK int wslx_vmportal_add(struct wslx_vmportal *p, const struct wslx_portal_grant *g);
/* The grant was taken back, whatever its broker says of it.  -ENOENT: there is none. */
WSLX_MUST_CHECK int wslx_vmportal_remove(struct wslx_vmportal *p, const char *region);
/* Tries those again that wait for their broker, or soon will. */
void wslx_vmportal_retry(struct wslx_vmportal *p);
/* [{region, as, state, access}]; NULL when there is no memory. */
json_t *wslx_vmportal_describe(const struct wslx_vmportal *p);

#endif
