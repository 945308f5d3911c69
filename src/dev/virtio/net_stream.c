/*
 * Net back end: a stream socket whose frames carry a 4-byte big-endian length.
 *
 * Trust boundary: the peer (passt) parses packets from the network.  A length
 * that no frame can have means that framing is lost: the connection is given
 * up.  Checksums: between two processes of one host nothing gets damaged, so
 * received frames are marked as valid.
 */
#include "dev/virtio/net_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dev/virtio/iov.h"

#define LEN_PREFIX 4

static uint64_t stream_features(const struct wslx_net *n)
{
	return NET_F_GUEST_CSUM;
}

static int stream_attach(struct wslx_net *n)
{
	int type;
	socklen_t len = sizeof(type);

	if (getsockopt(n->fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return -errno;
	if (type != SOCK_STREAM)
		return -EPROTOTYPE;
	if (!n->pending)
		n->pending = malloc(NET_BATCH_BYTES + NET_BATCH_FRAMES * LEN_PREFIX);
	return n->pending ? 0 : -ENOMEM;
}

static int stream_start(struct wslx_net *n)
{
	return 0;
}

static int stream_parse(struct wslx_net *n, struct net_frame *ret)
{
	const uint8_t *p = n->stage + n->stage_off;
	uint32_t len;

	if (n->stage_len < LEN_PREFIX)
		return 0;
	memcpy(&len, p, LEN_PREFIX);
	len = ntohl(len);
	if (len < NET_FRAME_MIN || len > NET_FRAME_MAX + LEN_PREFIX)
		return -EPROTO;
	if (n->stage_len - LEN_PREFIX < len)
		return 0;
	*ret = (struct net_frame) { .data = p + LEN_PREFIX, .len = len, .stage_bytes = LEN_PREFIX + len };
	if (n->d.acked & NET_F_GUEST_CSUM)
		ret->hdr[0] = NET_HDR_F_DATA_VALID;
	return 1;
}

static ssize_t stream_fill(struct wslx_net *n)
{
	uint32_t room;
	ssize_t r;

	if (n->stage_len == 0)
		n->stage_off = 0;
	room = NET_STAGE_LEN - n->stage_off - n->stage_len;
	if (room < NET_FRAME_MAX && n->stage_off > n->stage_len) {
		/* At most as much to move as was consumed before. */
		memcpy(n->stage, n->stage + n->stage_off, n->stage_len);
		n->stage_off = 0;
		room = NET_STAGE_LEN - n->stage_len;
	}
	if (room == 0)
		return -ENOBUFS;
	do {
		r = recv(n->fd, n->stage + n->stage_off + n->stage_len, WSLX_MIN(room, NET_READ_MAX), MSG_DONTWAIT);
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		return errno == EAGAIN ? 0 : -errno;
	if (r == 0)
		return -ECONNRESET;
	n->stage_len += (uint32_t)r;
	return r;
}

static ssize_t send_iov(int fd, struct iovec *iov, unsigned n_iov)
{
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = n_iov };
	ssize_t r;

	do {
		r = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		return errno == EAGAIN ? 0 : -errno;
	return r;
}

/* 1: nothing is pending; 0: the peer takes no more; -errno. */
static int flush_pending(struct wslx_net *n)
{
	while (n->pending_len) {
		struct iovec iov = { n->pending + n->pending_off, n->pending_len };
		ssize_t r = send_iov(n->fd, &iov, 1);

		if (r < 0)
			return (int)r;
		if (r == 0) {
			n->want_out = true;
			return 0;
		}
		n->pending_off += (uint32_t)r;
		n->pending_len -= (uint32_t)r;
	}
	n->pending_off = 0;
	return 1;
}

struct batch {
	unsigned n_frames, n_iov, n_heads;
	uint32_t bytes;
};

/* Adds the frame in n->chain; false when it does not fit into this batch. */
static bool add_frame(struct wslx_net *n, struct batch *b)
{
	uint32_t len = net_frame_len(&n->chain), be_len;
	uint64_t have;
	unsigned cut;

	if (len < NET_FRAME_MIN || len > NET_FRAME_MAX) {
		n->n_tx_dropped++;
		return true;
	}
	if (b->n_iov + 2 > NET_BATCH_IOV || b->bytes + len + LEN_PREFIX > NET_BATCH_BYTES)
		return false;
	cut = wslx_iov_slice(n->chain.iov, n->chain.n_out, NET_HDR_LEN, len, &n->iov[b->n_iov + 1],
			     NET_BATCH_IOV - b->n_iov - 1, &have);
	if (have < len)
		return false;
	be_len = htonl(len);
	memcpy(n->prefix[b->n_frames], &be_len, LEN_PREFIX);
	n->iov[b->n_iov] = (struct iovec) { n->prefix[b->n_frames], LEN_PREFIX };
	b->n_iov += 1 + cut;
	b->bytes += len + LEN_PREFIX;
	b->n_frames++;
	n->n_tx++;
	n->n_tx_bytes += len;
	return true;
}

static int send_batch(struct wslx_net *n, const struct batch *b)
{
	ssize_t r = b->n_iov ? send_iov(n->fd, n->iov, b->n_iov) : 0;

	if (r < 0)
		return (int)r;
	if ((uint32_t)r < b->bytes) {
		n->pending_off = 0;
		n->pending_len = b->bytes - (uint32_t)r;
		wslx_iov_read(n->iov, b->n_iov, (uint64_t)r, n->pending, n->pending_len);
	}
	return 0;
}

/* One batch: as many frames as fit go out with one system call. */
static int transmit_batch(struct wslx_net *n)
{
	struct wslx_vq *vq = &n->d.vq[NET_Q_TX];
	struct batch b = { 0 };
	int r = 0, err;

	while (b.n_heads < NET_BATCH_FRAMES) {
		r = wslx_vq_pop(vq, &n->chain);
		if (r <= 0)
			break;
		if (!add_frame(n, &b)) {
			wslx_vq_unpop(vq);
			break;
		}
		n->heads[b.n_heads++] = n->chain.head;
	}
	err = send_batch(n, &b);
	for (unsigned i = 0; i < b.n_heads; i++)
		wslx_vq_push(vq, n->heads[i], 0);
	n->tx_pushed |= b.n_heads != 0;
	if (r < 0) {
		wslx_vdev_broken(&n->d, "malformed transmit queue");
		return -EINVAL;
	}
	if (err < 0)
		return err;
	return (int)b.n_heads;
}

static int stream_transmit(struct wslx_net *n)
{
	int budget = NET_BUDGET, r;

	while (budget > 0) {
		r = flush_pending(n);
		if (r <= 0)
			return r;
		r = transmit_batch(n);
		if (r < 0)
			return r;
		if (r == 0) {
			if (!wslx_vq_enable_kick(&n->d.vq[NET_Q_TX]))
				return 0;
			wslx_vq_disable_kick(&n->d.vq[NET_Q_TX]);
		}
		budget -= r;
	}
	return 1;
}

const struct net_be_ops wslx_net_stream_ops = {
	.features = stream_features,
	.attach = stream_attach,
	.start = stream_start,
	.parse = stream_parse,
	.fill = stream_fill,
	.transmit = stream_transmit,
};
