/* Shared by the net*.c files only. */
#ifndef WSLX_DEV_VIRTIO_NET_INTERNAL_H
#define WSLX_DEV_VIRTIO_NET_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "dev/dev.h"
#include "dev/virtio/net.h"

enum { NET_Q_RX, NET_Q_TX, NET_N_QUEUES };

/* virtio 1.2, 5.1.3. */
#define NET_F_CSUM (1ull << 0)
#define NET_F_GUEST_CSUM (1ull << 1)
#define NET_F_MTU (1ull << 3)
#define NET_F_MAC (1ull << 5)
#define NET_F_GUEST_TSO4 (1ull << 7)
#define NET_F_GUEST_TSO6 (1ull << 8)
#define NET_F_GUEST_ECN (1ull << 9)
#define NET_F_HOST_TSO4 (1ull << 11)
#define NET_F_HOST_TSO6 (1ull << 12)
#define NET_F_HOST_ECN (1ull << 13)
#define NET_F_MRG_RXBUF (1ull << 15)
#define NET_F_STATUS (1ull << 16)

#define NET_S_LINK_UP 1

/* virtio 1.2, 5.1.6: struct virtio_net_hdr; num_buffers is always there. */
#define NET_HDR_LEN 12
#define NET_HDR_NUM_BUFFERS 10
#define NET_HDR_F_DATA_VALID 2

#define NET_FRAME_MIN 14
#define NET_FRAME_MAX 65535 /* what passt takes; larger than any frame without its virtio header */
#define NET_GSO_MAX (65536 + 64)
/* What may wait for receive buffers.  The peer throws away what its socket
 * does not take and sends it again much later, so a window's worth of TCP must
 * fit; pages are touched, and kept, only as far as they are used. */
#define NET_STAGE_LEN (4u * 1024 * 1024)
#define NET_STAGE_KEEP (256u * 1024)
#define NET_READ_MAX (256u * 1024)
#define NET_BATCH_FRAMES 64
#define NET_BATCH_IOV 512
#define NET_MAX_MERGE 128 /* receive buffers for one frame */
#define NET_BUDGET 256    /* frames, or reads, per direction before other watches get their turn */

struct wslx_net;

/* A frame that waits in the stage, with the header the guest is to see. */
struct net_frame {
	uint8_t hdr[NET_HDR_LEN];
	const uint8_t *data;
	uint32_t len;
	uint32_t stage_bytes; /* to consume from the stage */
};

struct net_be_ops {
	/* Device features this back end adds. */
	uint64_t (*features)(const struct wslx_net *n);
	/* Checks and prepares n->fd.  0 or -errno. */
	int (*attach)(struct wslx_net *n);
	/* The driver is there: offloads according to d.acked. */
	int (*start)(struct wslx_net *n);
	/* The next frame in the stage: 1 yes, 0 none yet, -EPROTO. */
	int (*parse)(struct wslx_net *n, struct net_frame *ret);
	/* One read into the stage: bytes, 0 = nothing now, -ENOBUFS = no room,
	 * other -errno = the peer is gone. */
	ssize_t (*fill)(struct wslx_net *n);
	/* Sends frames from the transmit queue.  1: budget used up; 0: queue
	 * empty or the peer takes no more (want_out set); -EINVAL: device broken;
	 * other -errno: the peer is gone. */
	int (*transmit)(struct wslx_net *n);
};

struct wslx_net {
	struct wslx_vdev d;
	const struct net_be_ops *be;
	int fd; /* -1 = link down */
	struct wslx_watch *watch;
	struct wslx_timer *work;
	uint8_t mac[6];
	uint16_t mtu;
	void (*net_down)(void *opaque);
	void *opaque;

	bool paused;
	bool tell_down;  /* net_down() not called yet */
	bool readable;   /* a read may yield something */
	bool rx_blocked; /* a frame waits for receive buffers; meanwhile only the stage fills */
	bool want_out;   /* transmission waits for the peer */
	bool rx_pushed, tx_pushed;

	uint64_t tap_offloads; /* NET_F_* the tap can do */
	bool tap_vnet_hdr;

	/* Bytes read from the back end: stage[stage_off, stage_off + stage_len). */
	uint8_t *stage;
	uint32_t stage_off, stage_len;
	uint32_t stage_high; /* touched so far */

	/* STREAM: the rest of a frame that the peer took in part.  While there is
	 * one nothing is taken from the transmit queue. */
	uint8_t *pending;
	uint32_t pending_off, pending_len;

	uint64_t n_rx, n_tx, n_rx_bytes, n_tx_bytes, n_rx_dropped, n_tx_dropped, n_downs;

	/* Scratch. */
	struct wslx_chain chain, first;
	struct iovec iov[NET_BATCH_IOV];
	uint8_t prefix[NET_BATCH_FRAMES][4];
	uint16_t heads[NET_BATCH_FRAMES];
};

extern const struct net_be_ops wslx_net_stream_ops;
extern const struct net_be_ops wslx_net_tap_ops;

/* Without the header; 0: not even that is there. */
static inline uint32_t net_frame_len(const struct wslx_chain *ch)
{
	return ch->out_len >= NET_HDR_LEN && ch->out_len - NET_HDR_LEN <= UINT32_MAX
		       ? (uint32_t)(ch->out_len - NET_HDR_LEN)
		       : 0;
}

#endif
