/*
 * What a confined child says on its descriptor 2: a pipe, whose lines go into
 * the supervisor's log under the child's name.
 *
 * Trust boundary: the child may have been taken over.  Of its lines control
 * characters are replaced, at most WSLX_RELAY_LINES are written down in
 * WSLX_RELAY_WINDOW_MS, and then the pipe is left alone for the rest of that
 * time, so that a flood costs neither disk nor time.  The pipe does not block:
 * what finds no room in it is lost, and the child goes on.
 */
#ifndef WSLX_VMM_SUPERVISOR_RELAY_H
#define WSLX_VMM_SUPERVISOR_RELAY_H

#include "base/loop.h"
#include "base/macros.h"

#define WSLX_RELAY_LINES 200
#define WSLX_RELAY_WINDOW_MS 10000

struct wslx_relay;

/* program: what its lines begin with; static storage.  *ret_fd: the child's end. */
WSLX_MUST_CHECK int wslx_relay_new(struct wslx_loop *loop, const char *program, int *ret_fd, struct wslx_relay **ret);
/* Takes what has been said by now: call when the child has ended. */
void wslx_relay_drain(struct wslx_relay *r);
void wslx_relay_free(struct wslx_relay *r); /* NULL is fine */

#endif
