/*
 * vhost-user back end: serves any wslx_vdev to a front end (QEMU) over a
 * connected unix stream socket.
 *
 * Trust boundary: the front end runs a hostile guest and may have been taken
 * over.  Every message is checked; a malformed one resets the device, closes
 * the connection and reports -EPROTO through closed().  See server.c.
 */
#ifndef WSLX_DEV_VHOST_USER_SERVER_H
#define WSLX_DEV_VHOST_USER_SERVER_H

#include <stdbool.h>

#include "base/macros.h"
#include "dev/dev.h"

struct wslx_vhost_user;

struct wslx_vhost_user_params {
	struct wslx_vdev *vdev; /* borrowed; the server is its transport and sets its gm */
	int fd;                 /* connected stream socket; taken on success */
	/* A front end that can shrink the file behind guest memory can kill this
	 * process with SIGBUS, so descriptors must be memfds sealed against
	 * shrinking.  True waives that, for a front end that is trusted not to. */
	bool allow_unsealed;
	/* Memory of the machine that is mapped already, from this file: used in
	 * place of a mapping of its own.  NULL host = none.  Outlives the server. */
	struct wslx_vhost_window {
		uint8_t *host;
		uint64_t size;
		int fd;
	} window;
	/* The connection ended: 0 = the peer closed it, else -errno.  Called on the
	 * loop thread, once; the server may be freed from it.  May be NULL. */
	void (*closed)(void *opaque, int err);
	void *opaque;
};

/* On vdev->loop's thread, or before that loop runs. */
WSLX_MUST_CHECK int wslx_vhost_user_new(const struct wslx_vhost_user_params *p, struct wslx_vhost_user **ret);
/* Resets the device, unmaps guest memory, closes the connection.  Same thread
 * rule; NULL is fine.  Free the server before its vdev. */
void wslx_vhost_user_free(struct wslx_vhost_user *s);

#endif
