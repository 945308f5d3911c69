/*
 * A listening socket on an event loop.
 *
 * accept() fails while the process has no descriptor left, and the connection
 * stays where it is: a loop that looks again at once spins.  So the listener
 * looks away for a moment then, and as long as its owner holds it.
 *
 * Threads: the loop's.
 */
#ifndef WSLX_BASE_LISTENER_H
#define WSLX_BASE_LISTENER_H

#include <stdbool.h>
#include <sys/socket.h>

#include "base/loop.h"
#include "base/macros.h"

struct wslx_listener;

/* fd: the new connection, taken; does not block.  May hold the listener, not free it. */
typedef void (*wslx_accept_fn)(void *opaque, int fd, const struct sockaddr *peer, socklen_t peer_len);

/* fd: listens and does not block; borrowed. */
WSLX_MUST_CHECK int wslx_listener_new(struct wslx_loop *loop, int fd, wslx_accept_fn fn, void *opaque,
				      struct wslx_listener **ret);
/* Accept nothing for now; those who connect wait. */
void wslx_listener_hold(struct wslx_listener *l, bool on);
void wslx_listener_free(struct wslx_listener *l); /* before the fd is closed; NULL is fine */

#endif
