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
		n->pending = malloc(LEN_PREFIX + NET_FRAME_MAX);
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
	struct mmsghdr msg[NET_BATCH_FRAMES];
	unsigned head_of[NET_BATCH_FRAMES]; /* frame -> index into n->heads */
};

/* Adds the frame in n->chain; false when it does not fit into this batch. */
static bool add_frame(struct wslx_net *n, struct batch *b)
{
	uint32_t len = net_frame_len(&n->chain), be_len;
	struct iovec *iov = &n->iov[b->n_iov];
	uint64_t have;
	unsigned cut;

	if (len < NET_FRAME_MIN || len > NET_FRAME_MAX)
		return true; /* taken, and never sent */
	if (b->n_iov + 2 > NET_BATCH_IOV)
		return false;
	cut = wslx_iov_slice(n->chain.iov, n->chain.n_out, NET_HDR_LEN, len, &iov[1], NET_BATCH_IOV - b->n_iov - 1,
			     &have);
	if (have < len)
		return false;
	be_len = htonl(len);
	memcpy(n->prefix[b->n_frames], &be_len, LEN_PREFIX);
	iov[0] = (struct iovec) { n->prefix[b->n_frames], LEN_PREFIX };
	b->msg[b->n_frames] = (struct mmsghdr) { .msg_hdr = { .msg_iov = iov, .msg_iovlen = 1 + cut } };
	b->head_of[b->n_frames] = b->n_heads;
	b->n_iov += 1 + cut;
	b->n_frames++;
	return true;
}

static size_t frame_bytes(const struct mmsghdr *m)
{
	size_t len = 0;

	for (size_t i = 0; i < m->msg_hdr.msg_iovlen; i++)
		len += m->msg_hdr.msg_iov[i].iov_len;
	return len;
}

/*
 * Each frame is a message of its own: the kernel queues a message in pieces of
 * some 48 KiB, so a piece never ends within a length.  That matters because
 * passt, as Debian 12 has it, loses the framing when what it reads ends there.
 * Returns frames sent, the last perhaps in part with its rest pending; 0: the
 * peer takes no more; -errno.
 */
static int send_frames(struct wslx_net *n, struct batch *b)
{
	struct mmsghdr *last;
	size_t len;
	int r;

	do {
		r = sendmmsg(n->fd, b->msg, b->n_frames, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		return errno == EAGAIN ? 0 : -errno;
	for (int i = 0; i < r; i++) {
		n->n_tx++;
		n->n_tx_bytes += b->msg[i].msg_len;
	}
	if (r == 0)
		return 0;
	last = &b->msg[r - 1];
	len = frame_bytes(last);
	if (last->msg_len < len) {
		n->pending_off = 0;
		n->pending_len = (uint32_t)(len - last->msg_len);
		wslx_iov_read(last->msg_hdr.msg_iov, (unsigned)last->msg_hdr.msg_iovlen, last->msg_len, n->pending,
			      n->pending_len);
	}
	return r;
}

/* One batch: as many frames as fit go out with one system call. */
static int transmit_batch(struct wslx_net *n)
{
	struct wslx_vq *vq = &n->d.vq[NET_Q_TX];
	struct batch b = { 0 };
	unsigned done;
	int r = 0, sent = 0;

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
	if (b.n_frames)
		sent = send_frames(n, &b);
	/* What was not sent goes back, in the order it came; the rest is used up. */
	done = sent >= 0 && (unsigned)sent < b.n_frames ? b.head_of[sent] : b.n_heads;
	for (unsigned i = b.n_heads; i > done; i--)
		wslx_vq_unpop(vq);
	for (unsigned i = 0; i < done; i++)
		wslx_vq_push(vq, n->heads[i], 0);
	n->tx_pushed |= done != 0;
	if (sent >= 0)
		n->n_tx_dropped += done - (unsigned)sent;
	n->want_out = sent >= 0 && (unsigned)sent < b.n_frames;
	if (r < 0) {
		wslx_vdev_broken(&n->d, "malformed transmit queue");
		return -EINVAL;
	}
	return sent < 0 ? sent : (int)done;
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
		if (n->want_out)
			return 0;
		if (r == 0) {
			if (!wslx_vq_enable_kick(&n->d.vq[NET_Q_TX]))
				return 0;
			wslx_vq_disable_kick(&n->d.vq[NET_Q_TX]);
			r = 1; /* the guest may take the frame back, for ever */
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
