/*
 * virtio-net (virtio 1.2, section 5.1), one queue pair.
 *
 * Back ends: STREAM, a connected unix stream socket with frames prefixed by a
 * 4-byte big-endian length (what passt and QEMU's stream netdev speak); TAP, a
 * descriptor already attached to its interface.  When the peer goes away the
 * link goes down and net_down() is called; wslx_net_set_backend() brings it up
 * again under the running guest.
 */
#ifndef WSLX_DEV_VIRTIO_NET_H
#define WSLX_DEV_VIRTIO_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "dev/dev.h"

enum wslx_net_backend { WSLX_NET_BACKEND_STREAM, WSLX_NET_BACKEND_TAP };

struct wslx_net_params {
	struct wslx_loop *loop; /* borrowed */
	const char *name;       /* static; NULL = "net" */
	enum wslx_net_backend backend;
	int fd; /* taken on success; -1 = link down until set_backend */
	uint8_t mac[6];
	uint16_t mtu; /* 0 = not offered to the driver; else 1280.. */
	/* The peer went away (its descriptor is closed already).  Called on the
	 * loop thread, once per back end.  May be NULL. */
	void (*net_down)(void *opaque);
	void *opaque;
};

WSLX_MUST_CHECK int wslx_net_new(const struct wslx_net_params *p, struct wslx_vdev **ret);

/* Any thread.  Replaces the back end by another of the same kind; fd is taken
 * in any case; -1 takes the link down.  0 or -errno (link is down then). */
int wslx_net_set_backend(struct wslx_vdev *d, int fd);

#endif
