/*
 * Net back end: a TAP descriptor, attached to its interface by whoever opened
 * it.  With IFF_VNET_HDR the kernel's header has the layout of virtio's, and
 * checksums and segmentation are left to it where the driver agreed; the
 * kernel checks what a guest writes into the header.
 */
#include "dev/virtio/net_internal.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "dev/virtio/iov.h"

#define TAP_GUEST_OFFLOADS (NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN)
#define TAP_HOST_OFFLOADS (NET_F_CSUM | NET_F_HOST_TSO4 | NET_F_HOST_TSO6 | NET_F_HOST_ECN)

static uint64_t tap_features(const struct wslx_net *n)
{
	return n->tap_offloads;
}

static unsigned long tun_offloads(uint64_t features)
{
	unsigned long f = 0;

	if (!(features & NET_F_GUEST_CSUM))
		return 0; /* the others build on it */
	f |= TUN_F_CSUM;
	if (features & NET_F_GUEST_TSO4)
		f |= TUN_F_TSO4;
	if (features & NET_F_GUEST_TSO6)
		f |= TUN_F_TSO6;
	if ((features & NET_F_GUEST_ECN) && (f & (TUN_F_TSO4 | TUN_F_TSO6)))
		f |= TUN_F_TSO_ECN;
	return f;
}

static int tap_attach(struct wslx_net *n)
{
	struct ifreq ifr = { 0 };
	int hdr_len = NET_HDR_LEN, little = 1;
	unsigned flags;

	if (ioctl(n->fd, TUNGETIFF, &ifr) < 0)
		return -errno;
	flags = (unsigned)(unsigned short)ifr.ifr_flags;
	if (!(flags & IFF_TAP) || !(flags & IFF_NO_PI))
		return -EINVAL;
	n->tap_vnet_hdr = flags & IFF_VNET_HDR;
	n->tap_offloads = 0;
	if (!n->tap_vnet_hdr)
		return 0;
	if (ioctl(n->fd, TUNSETVNETHDRSZ, &hdr_len) < 0)
		return -errno;
	/* Refused by kernels without cross-endian support, which are little-endian here. */
	(void)ioctl(n->fd, TUNSETVNETLE, &little);
	n->tap_offloads = TAP_HOST_OFFLOADS;
	if (ioctl(n->fd, TUNSETOFFLOAD, tun_offloads(TAP_GUEST_OFFLOADS)) == 0)
		n->tap_offloads |= TAP_GUEST_OFFLOADS;
	/* Until a driver asked for more. */
	if (ioctl(n->fd, TUNSETOFFLOAD, 0ul) < 0)
		return -errno;
	return 0;
}

static int tap_start(struct wslx_net *n)
{
	uint64_t want = n->d.acked & (TAP_GUEST_OFFLOADS | TAP_HOST_OFFLOADS);

	if (want & ~n->tap_offloads)
		return -EOPNOTSUPP; /* a replacement that can do less than the first tap */
	if (n->tap_vnet_hdr && ioctl(n->fd, TUNSETOFFLOAD, tun_offloads(want)) < 0)
		return -errno;
	return 0;
}

static int tap_parse(struct wslx_net *n, struct net_frame *ret)
{
	uint32_t hdr = n->tap_vnet_hdr ? NET_HDR_LEN : 0;

	if (n->stage_len == 0)
		return 0;
	if (n->stage_len < hdr)
		return -EPROTO;
	*ret = (struct net_frame) {
		.data = n->stage + hdr,
		.len = n->stage_len - hdr,
		.stage_bytes = n->stage_len,
	};
	memcpy(ret->hdr, n->stage, hdr);
	return 1;
}

static ssize_t tap_fill(struct wslx_net *n)
{
	ssize_t r;

	if (n->stage_len)
		return -ENOBUFS; /* one frame at a time; the kernel queues the others */
	n->stage_off = 0;
	do {
		r = read(n->fd, n->stage, NET_READ_MAX);
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		return errno == EAGAIN ? 0 : -errno;
	if (r == 0)
		return -ENODEV;
	n->stage_len = (uint32_t)r;
	return r;
}

/* 1 sent or dropped, 0 the tap takes no more, -errno. */
static int send_frame(struct wslx_net *n)
{
	uint8_t hdr[NET_HDR_LEN] = { 0 };
	uint32_t len = net_frame_len(&n->chain);
	unsigned first = n->tap_vnet_hdr ? 0 : 1, end;
	uint64_t have;
	ssize_t r;

	if (len < NET_FRAME_MIN || len > NET_GSO_MAX) {
		n->n_tx_dropped++;
		return 1;
	}
	if (n->d.acked & NET_F_CSUM) {
		wslx_iov_read(n->chain.iov, n->chain.n_out, 0, hdr, sizeof(hdr));
		wslx_put_le16(hdr + NET_HDR_NUM_BUFFERS, 0);
	}
	end = 1 + wslx_iov_slice(n->chain.iov, n->chain.n_out, NET_HDR_LEN, len, &n->iov[1], NET_BATCH_IOV - 1, &have);
	n->iov[0] = (struct iovec) { hdr, sizeof(hdr) };
	do {
		r = writev(n->fd, &n->iov[first], (int)(end - first));
	} while (r < 0 && errno == EINTR);
	if (r < 0 && errno == EAGAIN)
		return 0;
	if (r < 0 && (errno == EBADFD || errno == ENODEV))
		return -errno;
	if (r < 0) {
		/* The kernel refused this frame (EINVAL: bad offload header, EIO:
		 * interface down); the next one may be better. */
		n->n_tx_dropped++;
		return 1;
	}
	n->n_tx++;
	n->n_tx_bytes += len;
	return 1;
}

static int tap_transmit(struct wslx_net *n)
{
	struct wslx_vq *vq = &n->d.vq[NET_Q_TX];

	for (int budget = NET_BUDGET; budget > 0; budget--) {
		int r = wslx_vq_pop(vq, &n->chain);

		if (r < 0) {
			wslx_vdev_broken(&n->d, "malformed transmit queue");
			return -EINVAL;
		}
		if (r == 0) {
			if (!wslx_vq_enable_kick(vq))
				return 0;
			wslx_vq_disable_kick(vq);
			continue;
		}
		r = send_frame(n);
		if (r <= 0) {
			wslx_vq_unpop(vq);
			n->want_out = r == 0;
			return r;
		}
		wslx_vq_push(vq, n->chain.head, 0);
		n->tx_pushed = true;
	}
	return 1;
}

const struct net_be_ops wslx_net_tap_ops = {
	.features = tap_features,
	.attach = tap_attach,
	.start = tap_start,
	.parse = tap_parse,
	.fill = tap_fill,
	.transmit = tap_transmit,
};
