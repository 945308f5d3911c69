/*
 * virtio device models, free of any transport.
 *
 * Theory of operation.  A device (struct wslx_vdev) implements wslx_vdev_ops
 * and knows nothing of PCI or vhost-user.  A transport (dev/pci/virtio_pci.c,
 * dev/vhost_user/server.c) owns feature negotiation, queue set-up and
 * notification, and calls the ops.
 *
 * Threads: all ops run on the device's own loop thread (`vdev->loop`), so
 * device state needs no lock.  Transports on other threads (a vCPU that
 * writes to the common configuration) get there with wslx_loop_call.
 * Exceptions, callable from any thread: reading `id`, `n_queues`,
 * `config_len`.  Transport ops may be called from the loop thread only.
 *
 * Trust boundary: queues' memory, config writes and negotiated features come
 * from the guest.  After activate() a device never exits, asserts or allocates
 * without bound on guest input; on a malformed chain it calls
 * wslx_vdev_broken(), which sets DEVICE_NEEDS_RESET (virtio 1.2, 2.1.2), and
 * stops serving until reset.
 */
#ifndef WSLX_DEV_DEV_H
#define WSLX_DEV_DEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "base/macros.h"
#include "dev/virtio/vq.h"
#include "mem/gm.h"

/* virtio 1.2, section 5: device ids. */
#define WSLX_VIRTIO_ID_NET 1
#define WSLX_VIRTIO_ID_BLK 2
#define WSLX_VIRTIO_ID_CONSOLE 3
#define WSLX_VIRTIO_ID_RNG 4
#define WSLX_VIRTIO_ID_VSOCK 19
#define WSLX_VIRTIO_ID_PMEM 27

/* virtio 1.2, section 6: reserved feature bits. */
#define WSLX_VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define WSLX_VIRTIO_F_EVENT_IDX (1ull << 29)
#define WSLX_VIRTIO_F_VERSION_1 (1ull << 32)
#define WSLX_VIRTIO_F_RING_PACKED (1ull << 34)

#define WSLX_VDEV_MAX_QUEUES 32
#define WSLX_VQ_MAX_SIZE 1024

struct wslx_vdev;
struct wslx_stat;

struct wslx_transport_ops {
	/* Tell the driver that queue q has used buffers (call only when
	 * wslx_vq_should_notify says so). */
	void (*interrupt)(void *transport, unsigned q);
	void (*config_changed)(void *transport);
	void (*needs_reset)(void *transport);
};

struct wslx_vdev_ops {
	/* Device features offered; the transport adds VERSION_1. */
	uint64_t (*features)(struct wslx_vdev *d);
	/* Device-specific configuration space; the transport checked that
	 * [off, off+len) lies within config_len. */
	void (*config_read)(struct wslx_vdev *d, uint32_t off, void *buf, uint32_t len);
	void (*config_write)(struct wslx_vdev *d, uint32_t off, const void *buf, uint32_t len); /* may be NULL */
	/* DRIVER_OK.  d->vq[i].enabled tells which queues the driver set up;
	 * d->acked holds the negotiated features.  Under vhost-user a queue may
	 * be enabled later: then activate is called again for it through
	 * queue_enabled (may be NULL when the device needs nothing). */
	int (*activate)(struct wslx_vdev *d);
	/* The driver kicked queue q. */
	void (*kick)(struct wslx_vdev *d, unsigned q);
	/* Stop using all queues, complete or drop requests in flight (nothing may
	 * touch guest memory afterwards), forget the driver.  Synchronous. */
	void (*reset)(struct wslx_vdev *d);
	/* Bring requests in flight to an end and start no new ones / go on. */
	void (*quiesce)(struct wslx_vdev *d);
	void (*resume)(struct wslx_vdev *d);
	void (*free)(struct wslx_vdev *d);
	/* For `wslx stats`: fills up to max name/value pairs, returns how many. */
	size_t (*stats)(struct wslx_vdev *d, struct wslx_stat *ret, size_t max); /* may be NULL */
};

struct wslx_stat {
	const char *name;
	uint64_t value;
};

struct wslx_vdev {
	const struct wslx_vdev_ops *ops;
	const char *name;    /* "blk0", for logs and stats; static or owned by the device */
	uint32_t id;         /* WSLX_VIRTIO_ID_* */
	uint32_t class_code; /* PCI class for the pci transport */
	unsigned n_queues;
	uint16_t queue_max[WSLX_VDEV_MAX_QUEUES]; /* ring size limit, power of two */
	uint32_t config_len;
	struct wslx_loop *loop; /* borrowed: all ops run there */
	struct wslx_gm *gm;     /* borrowed; set by the transport before activate */
	struct wslx_vq vq[WSLX_VDEV_MAX_QUEUES];
	uint64_t acked; /* negotiated features, VERSION_1 included */
	bool active, broken;
	const struct wslx_transport_ops *transport_ops;
	void *transport;
};

/* For devices: raise the queue's interrupt if the driver wants it. */
void wslx_vdev_notify_used(struct wslx_vdev *d, unsigned q);
/* For devices: malformed input from the guest.  Logs (rate-limited), marks the
 * device broken, asks the driver for a reset.  The caller then returns. */
void wslx_vdev_broken(struct wslx_vdev *d, const char *why);

#endif
