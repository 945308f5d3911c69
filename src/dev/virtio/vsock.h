/*
 * virtio-vsock (virtio 1.2, section 5.10), stream sockets.
 *
 * Host programs connect to a unix socket and send "CONNECT <port>\n"; once the
 * guest accepts they read "OK <host port>\n" and the stream follows.  A guest
 * that connects to CID 2 makes the device call connect_request(); the owner
 * answers with wslx_vsock_connect_done() at any later time.
 *
 * Guarantees: per-connection buffering never exceeds the window advertised to
 * the guest; a host program that does not read stops its own stream only;
 * connections take turns for the guest's receive buffers.
 */
#ifndef WSLX_DEV_VIRTIO_VSOCK_H
#define WSLX_DEV_VIRTIO_VSOCK_H

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "dev/dev.h"

#define WSLX_VSOCK_HOST_CID 2u
#define WSLX_VSOCK_MAX_CONNS 4096

struct wslx_vsock_params {
	struct wslx_loop *loop; /* borrowed */
	const char *name;       /* static; NULL = "vsock" */
	uint64_t guest_cid;     /* 3 .. 0xfffffffe */
	int listen_fd;          /* listening unix stream socket; taken on success; -1 = none */
	/* The guest connects to host port `port`.  Called on the loop thread;
	 * answer each id exactly once, from here or later.  NULL: refuse all. */
	void (*connect_request)(void *opaque, uint32_t id, uint32_t port);
	void *opaque;
	/* 0 = WSLX_VSOCK_MAX_CONNS, or half the descriptors this process may have. */
	unsigned max_conns;
};

WSLX_MUST_CHECK int wslx_vsock_new(const struct wslx_vsock_params *p, struct wslx_vdev **ret);

/* Any thread.  fd: connected stream socket, taken in any case; -1 = refuse. */
void wslx_vsock_connect_done(struct wslx_vdev *d, uint32_t id, int fd);

#endif
