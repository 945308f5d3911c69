/*
 * The control socket's server: varlink's wire format (JSON, NUL-terminated).
 *
 * Theory of operation.  Each client has an input buffer of one message, an
 * output buffer, and at most one call under way; further calls wait in the
 * socket until its reply was taken.  So a client that does not read, or sends
 * faster than it is answered, stops itself and nobody else.
 *
 * A method gets a `struct wslx_call` and answers it exactly once, now or later;
 * if the client is gone by then the answer is dropped.
 *
 * Trust boundary: clients run as the same user (checked: SO_PEERCRED) but may
 * be buggy; nothing they send costs more than a client slot.
 */
#ifndef WSLX_VMM_SUPERVISOR_CONTROL_H
#define WSLX_VMM_SUPERVISOR_CONTROL_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "base/loop.h"

#define WSLX_CONTROL_MESSAGE_MAX 65536
#define WSLX_CONTROL_MAX_CLIENTS 64

struct wslx_control;
struct wslx_call;

/* params: the call's object (never NULL), borrowed. */
typedef void (*wslx_method_fn)(void *opaque, struct wslx_call *call, json_t *params);
struct wslx_method {
	const char *name; /* without the interface */
	wslx_method_fn fn;
};

struct wslx_control_params {
	struct wslx_loop *loop;
	const char *path;        /* of the socket; NULL: none, only wslx_control_adopt */
	const char *interface;   /* "io.wslx.Machine" */
	const char *product;     /* of whom: "wslx-vmm" if NULL */
	const char *description; /* varlink interface definition */
	const struct wslx_method *methods;
	size_t n_methods;
	/* The client is gone before the answer (which is still to be given).  May be NULL. */
	void (*gone)(void *opaque, const struct wslx_call *call);
	void *opaque;
};

WSLX_MUST_CHECK int wslx_control_new(const struct wslx_control_params *p, struct wslx_control **ret,
				     struct wslx_err *err);
/* Serves a connected stream socket, taken in any case. */
WSLX_MUST_CHECK int wslx_control_adopt(struct wslx_control *c, int fd);
/* Nobody new may connect; the socket is removed. */
void wslx_control_close_door(struct wslx_control *c);
size_t wslx_control_n_clients(const struct wslx_control *c);
/* Sends what is buffered as far as that goes at once, closes all, removes the
 * socket.  Calls not yet answered may still be answered (into nothing) until
 * then, never after.  NULL is fine. */
void wslx_control_free(struct wslx_control *c);

/* Its answer is dropped. */
bool wslx_call_is_oneway(const struct wslx_call *call);

/* params: taken; NULL = {}. */
void wslx_call_reply(struct wslx_call *call, json_t *params);
/* name: complete, such as "io.wslx.Machine.Failed". */
void wslx_call_error(struct wslx_call *call, const char *name, json_t *params);
/* org.varlink.service.InvalidParameter */
void wslx_call_invalid(struct wslx_call *call, const char *parameter);

#endif
