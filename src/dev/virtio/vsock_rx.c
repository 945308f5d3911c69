/*
 * Packets to the guest.
 *
 * Connections that have something to send form a ready list and take turns:
 * one control packet, or one read, each.  A read goes straight from the host
 * socket into the guest's receive buffers; once a stream proves to be bulky,
 * one read fills up to VSOCK_BATCH buffers.  Nothing is read without credit or
 * without a buffer, so there is no queue of data in between.
 */
#include "dev/virtio/vsock_internal.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "dev/virtio/iov.h"

void wslx_vsock_hdr_encode(const struct vsock_hdr *h, uint8_t out[VSOCK_HDR_LEN])
{
	wslx_put_le64(out, h->src_cid);
	wslx_put_le64(out + 8, h->dst_cid);
	wslx_put_le32(out + 16, h->src_port);
	wslx_put_le32(out + 20, h->dst_port);
	wslx_put_le32(out + 24, h->len);
	wslx_put_le16(out + 28, h->type);
	wslx_put_le16(out + 30, h->op);
	wslx_put_le32(out + 32, h->flags);
	wslx_put_le32(out + 36, h->buf_alloc);
	wslx_put_le32(out + 40, h->fwd_cnt);
}

/* A buffer that cannot take a header and at least one byte can never be used. */
static int pop_rx(struct wslx_vsock *v, struct wslx_chain *ch)
{
	int r = wslx_vq_pop(&v->d.vq[VSOCK_Q_RX], ch);

	if (r == 0)
		return -EAGAIN;
	if (r < 0 || ch->in_len <= VSOCK_HDR_LEN) {
		wslx_vdev_broken(&v->d, "malformed receive buffer");
		return -EINVAL;
	}
	return 0;
}

static void push_rx(struct wslx_vsock *v, const struct wslx_chain *ch, const struct vsock_hdr *h)
{
	uint8_t raw[VSOCK_HDR_LEN];

	wslx_vsock_hdr_encode(h, raw);
	wslx_iov_write(ch->iov + ch->n_out, ch->n_in, 0, raw, sizeof(raw));
	wslx_vq_push(&v->d.vq[VSOCK_Q_RX], ch->head, VSOCK_HDR_LEN + h->len);
	v->rx_pushed = true;
	v->n_rx_packets++;
	v->n_rx_bytes += h->len;
}

static struct vsock_hdr conn_hdr(struct vsock_conn *c, enum vsock_op op)
{
	c->told_fwd_cnt = c->fwd_cnt;
	c->owe &= ~OWE_CREDIT_UPDATE; /* every packet carries the credit */
	return (struct vsock_hdr) {
		.src_cid = WSLX_VSOCK_HOST_CID,
		.dst_cid = c->dev->guest_cid,
		.src_port = c->host_port,
		.dst_port = c->guest_port,
		.type = VSOCK_TYPE_STREAM,
		.op = (uint16_t)op,
		.buf_alloc = c->buf_alloc,
		.fwd_cnt = c->fwd_cnt,
	};
}

static int send_control(struct vsock_conn *c, enum vsock_op op, uint32_t flags)
{
	struct wslx_vsock *v = c->dev;
	struct vsock_hdr h;
	int r = pop_rx(v, &v->chain[0]);

	if (r < 0)
		return r;
	h = conn_hdr(c, op);
	h.flags = flags;
	push_rx(v, &v->chain[0], &h);
	return 1;
}

static int send_rst(struct wslx_vsock *v)
{
	const struct vsock_rst *rst = &v->rst[v->rst_head];
	struct vsock_hdr h = {
		.src_cid = rst->src_cid,
		.dst_cid = v->guest_cid,
		.src_port = rst->src_port,
		.dst_port = rst->dst_port,
		.type = rst->type,
		.op = VSOCK_OP_RST,
	};
	int r = pop_rx(v, &v->chain[0]);

	if (r < 0)
		return r;
	push_rx(v, &v->chain[0], &h);
	v->rst_head = (v->rst_head + 1) % VSOCK_RST_RING;
	v->rst_len--;
	return 1;
}

/* The stream from the host has ended, or (r < 0) broke. */
static void host_ended(struct vsock_conn *c, ssize_t r)
{
	c->readable = false;
	c->host_eof = true;
	if (r < 0)
		c->host_deaf = true;
	wslx_vsock_conn_check_shutdown(c);
}

/* One read into as many receive buffers as the stream deserves.  Returns
 * packets sent, 0 when the host has no more for now, -EAGAIN without buffers,
 * -EINVAL when the device broke. */
static int send_data(struct vsock_conn *c, uint32_t credit)
{
	struct wslx_vsock *v = c->dev;
	struct wslx_vq *vq = &v->d.vq[VSOCK_Q_RX];
	unsigned want = c->bulk ? VSOCK_BATCH : 1, n = 0, used = 0, n_iov = 0;
	uint64_t room[VSOCK_BATCH], total = 0;
	ssize_t got;

	while (n < want && total < credit) {
		struct wslx_chain *ch = &v->chain[n];
		int r = pop_rx(v, ch);

		if (r == -EINVAL)
			return r;
		if (r == -EAGAIN)
			break;
		n_iov += wslx_iov_slice(ch->iov + ch->n_out, ch->n_in, VSOCK_HDR_LEN, credit - total, v->iov + n_iov,
					(unsigned)ARRAY_SIZE(v->iov) - n_iov, &room[n]);
		if (room[n] == 0) { /* the iovec array is full */
			wslx_vq_unpop(vq);
			break;
		}
		total += room[n++];
	}
	if (n == 0)
		return -EAGAIN;
	do {
		got = readv(c->fd, v->iov, (int)n_iov);
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		got = errno == EAGAIN ? -EAGAIN : -errno;
	for (uint64_t left = got > 0 ? (uint64_t)got : 0; left && used < n; used++)
		left -= WSLX_MIN(left, room[used]);
	for (unsigned i = n; i > used; i--)
		wslx_vq_unpop(vq);
	if (got == -EAGAIN) {
		c->readable = c->bulk = false;
		return 0;
	}
	if (got <= 0) {
		host_ended(c, got);
		return 0;
	}
	c->bulk = (uint64_t)got == total;
	c->tx_cnt += (uint32_t)got;
	for (unsigned i = 0; i < used; i++) {
		struct vsock_hdr h = conn_hdr(c, VSOCK_OP_RW);

		h.len = (uint32_t)WSLX_MIN((uint64_t)got, room[i]);
		got -= (ssize_t)h.len;
		push_rx(v, &v->chain[i], &h);
	}
	return (int)used;
}

static int send_shutdown(struct vsock_conn *c)
{
	int r = send_control(c, VSOCK_OP_SHUTDOWN, c->told_shut);

	if (r < 0)
		return r;
	c->owe &= ~OWE_SHUTDOWN;
	if (c->told_shut == VSOCK_SHUT_BOTH) {
		wslx_vsock_conn_close_fd(c);
		c->state = CONN_DONE;
		c->owe = 0;
	}
	return r;
}

/* One control packet in the order of the flags. */
static int send_owed(struct vsock_conn *c, uint32_t owe, enum vsock_op op)
{
	int r = send_control(c, op, 0);

	if (r < 0)
		return r;
	c->owe &= ~owe;
	if (owe == OWE_RST)
		wslx_vsock_conn_free(c);
	return r;
}

/* As send_data; 0: c has nothing to send. */
static int conn_send(struct vsock_conn *c)
{
	if (c->owe & OWE_RST)
		return send_owed(c, OWE_RST, VSOCK_OP_RST);
	if (c->owe & OWE_REQUEST)
		return send_owed(c, OWE_REQUEST, VSOCK_OP_REQUEST);
	if (c->owe & OWE_RESPONSE)
		return send_owed(c, OWE_RESPONSE, VSOCK_OP_RESPONSE);
	if (c->state == CONN_UP && c->readable && !c->host_eof) {
		uint32_t credit = wslx_vsock_conn_credit(c);

		if (credit) {
			int r = send_data(c, credit);

			if (r)
				return r;
		} else if (!c->credit_asked) {
			c->credit_asked = true;
			c->owe |= OWE_CREDIT_REQUEST;
		}
	}
	if (c->owe & OWE_SHUTDOWN)
		return send_shutdown(c);
	if (c->owe & OWE_CREDIT_UPDATE)
		return send_owed(c, OWE_CREDIT_UPDATE, VSOCK_OP_CREDIT_UPDATE);
	if (c->owe & OWE_CREDIT_REQUEST)
		return send_owed(c, OWE_CREDIT_REQUEST, VSOCK_OP_CREDIT_REQUEST);
	return 0;
}

/* As send_data, for whoever's turn it is; 0: nobody has anything to send, or the
 * budget, of which each look at somebody takes one, is used up. */
static int send_next(struct wslx_vsock *v, int *budget)
{
	if (v->rst_len)
		return send_rst(v);
	while (v->ready_head && *budget > 0) {
		struct vsock_conn *c = v->ready_head;
		uint16_t generation = c->generation;
		int r = conn_send(c);

		if (r < 0)
			return r;
		if (c->state != CONN_FREE && c->generation == generation) {
			wslx_vsock_conn_unready(c);
			if (r > 0)
				wslx_vsock_conn_ready(c); /* to the tail */
		}
		if (r > 0)
			return r;
		(*budget)--;
	}
	return 0;
}

bool wslx_vsock_pump_rx(struct wslx_vsock *v)
{
	struct wslx_vq *vq = &v->d.vq[VSOCK_Q_RX];
	int budget = VSOCK_BUDGET;

	if (!vq->enabled)
		return false;
	wslx_vq_disable_kick(vq);
	while (budget > 0) {
		int r = send_next(v, &budget);

		if (r > 0) {
			budget -= r;
			continue;
		}
		if (r == -EAGAIN && wslx_vq_enable_kick(vq)) {
			wslx_vq_disable_kick(vq);
			budget--; /* the guest may take the buffer back, for ever */
			continue;
		}
		if (budget > 0)
			return false;
	}
	return true;
}
