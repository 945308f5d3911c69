/*
 * Packets from the guest (virtio 1.2, 5.10.6).
 *
 * Trust boundary: a header is copied once and everything is decided on the
 * copy.  A packet with a foreign source, an impossible length or an operation
 * that its connection's state does not allow is dropped or answered by an RST;
 * none is fatal, because the guest's kernel may relay what its programs do.
 * Payload goes from guest memory straight into the host socket.
 */
#include "dev/virtio/vsock_internal.h"

#include "base/bytes.h"
#include "base/log.h"

void wslx_vsock_hdr_decode(const uint8_t in[VSOCK_HDR_LEN], struct vsock_hdr *h)
{
	h->src_cid = wslx_get_le64(in);
	h->dst_cid = wslx_get_le64(in + 8);
	h->src_port = wslx_get_le32(in + 16);
	h->dst_port = wslx_get_le32(in + 20);
	h->len = wslx_get_le32(in + 24);
	h->type = wslx_get_le16(in + 28);
	h->op = wslx_get_le16(in + 30);
	h->flags = wslx_get_le32(in + 32);
	h->buf_alloc = wslx_get_le32(in + 36);
	h->fwd_cnt = wslx_get_le32(in + 40);
}

/* The caller made sure that there is room: process_tx stops while the ring is
 * full, and one packet causes at most one entry. */
void wslx_vsock_push_rst(struct wslx_vsock *v, const struct vsock_rst *r)
{
	if (v->rst_len == VSOCK_RST_RING) {
		v->n_dropped++;
		return;
	}
	v->rst[(v->rst_head + v->rst_len++) % VSOCK_RST_RING] = *r;
	v->n_resets++;
	wslx_vsock_schedule(v);
}

static void answer_rst(struct wslx_vsock *v, const struct vsock_hdr *h)
{
	if (h->op == VSOCK_OP_RST)
		return; /* never answer a reset by a reset */
	wslx_vsock_push_rst(v, &(struct vsock_rst) {
				       .src_cid = h->dst_cid,
				       .src_port = h->dst_port,
				       .dst_port = h->src_port,
				       .type = h->type,
			       });
}

static void on_request(struct wslx_vsock *v, const struct vsock_hdr *h)
{
	struct vsock_conn *c;

	if (!v->connect_request || v->n_unanswered >= VSOCK_MAX_UNANSWERED) {
		answer_rst(v, h);
		return;
	}
	c = wslx_vsock_conn_new(v, CONN_GUEST_WAIT, h->dst_port, h->src_port);
	if (!c) {
		answer_rst(v, h);
		return;
	}
	v->n_unanswered++;
	c->peer_buf_alloc = h->buf_alloc;
	c->peer_fwd_cnt = h->fwd_cnt;
	v->connect_request(v->opaque, (uint32_t)(c - v->conns) | (uint32_t)c->generation << 16, h->dst_port);
}

static void guest_left(struct vsock_conn *c)
{
	if (c->state == CONN_GUEST_WAIT) {
		wslx_vsock_conn_unhash(c);
		c->state = CONN_GUEST_GONE;
		return;
	}
	wslx_vsock_conn_free(c);
}

/* The guest closed the connection: confirm by an RST (5.10.6.5), so that it
 * can use the port again, and write out what it sent before. */
static void guest_closed(struct wslx_vsock *v, struct vsock_conn *c, const struct vsock_hdr *h)
{
	answer_rst(v, h);
	if (c->state == CONN_UP)
		wslx_vsock_conn_drop(c);
	else
		guest_left(c);
}

/* The guest broke the rules of this connection. */
static void kill_conn(struct wslx_vsock *v, struct vsock_conn *c, const struct vsock_hdr *h)
{
	if (c->state == CONN_GUEST_WAIT) {
		/* The owner still owes an answer: the slot must stay. */
		answer_rst(v, h);
		guest_left(c);
		return;
	}
	wslx_vsock_conn_reset(c);
}

static void on_data(struct wslx_vsock *v, struct vsock_conn *c, const struct vsock_hdr *h, const struct wslx_chain *ch)
{
	if (c->state == CONN_DONE)
		return;
	if (c->state != CONN_UP || (c->guest_shut & VSOCK_SHUT_SEND) || c->rx_cnt - c->fwd_cnt > c->buf_alloc ||
	    h->len > c->buf_alloc - (c->rx_cnt - c->fwd_cnt)) {
		kill_conn(v, c, h);
		return;
	}
	v->n_tx_bytes += h->len;
	if (h->len)
		wslx_vsock_conn_deliver(c, ch->iov, ch->n_out, VSOCK_HDR_LEN, h->len);
}

static void on_conn_packet(struct wslx_vsock *v, struct vsock_conn *c, const struct vsock_hdr *h,
			   const struct wslx_chain *ch)
{
	if (c->state == CONN_DYING) {
		/* Our RST is on its way; the guest's makes it unnecessary. */
		if (h->op == VSOCK_OP_RST)
			wslx_vsock_conn_free(c);
		return;
	}
	c->peer_buf_alloc = h->buf_alloc;
	c->peer_fwd_cnt = h->fwd_cnt;
	if (c->readable && c->state == CONN_UP && wslx_vsock_conn_credit(c)) {
		c->credit_asked = false;
		wslx_vsock_conn_ready(c);
	}
	switch (h->op) {
	case VSOCK_OP_RESPONSE:
		if (c->state == CONN_HOST_WAIT)
			wslx_vsock_conn_came_up(c);
		else
			kill_conn(v, c, h);
		break;
	case VSOCK_OP_RST:
		guest_left(c);
		break;
	case VSOCK_OP_SHUTDOWN:
		if (c->state == CONN_HOST_WAIT) {
			wslx_vsock_conn_reset(c);
			break;
		}
		wslx_vsock_conn_guest_shutdown(c, h->flags);
		if (c->guest_shut == VSOCK_SHUT_BOTH || c->state == CONN_GUEST_WAIT)
			guest_closed(v, c, h);
		break;
	case VSOCK_OP_RW:
		on_data(v, c, h, ch);
		break;
	case VSOCK_OP_CREDIT_UPDATE:
		break;
	case VSOCK_OP_CREDIT_REQUEST:
		if (c->state == CONN_UP)
			wslx_vsock_conn_owe(c, OWE_CREDIT_UPDATE);
		break;
	default: /* a REQUEST for a connection that exists, or no operation at all */
		kill_conn(v, c, h);
		break;
	}
}

static void on_packet(struct wslx_vsock *v, const struct wslx_chain *ch)
{
	uint8_t raw[VSOCK_HDR_LEN];
	struct vsock_hdr h;
	struct vsock_conn *c;

	if (ch->out_len < VSOCK_HDR_LEN) {
		v->n_dropped++;
		return;
	}
	wslx_iov_read(ch->iov, ch->n_out, 0, raw, sizeof(raw));
	wslx_vsock_hdr_decode(raw, &h);
	v->n_tx_packets++;
	if (h.src_cid != v->guest_cid || h.len > ch->out_len - VSOCK_HDR_LEN) {
		log_guest("%s: packet with a foreign source or a wrong length", v->d.name);
		v->n_dropped++;
		return;
	}
	if (h.dst_cid != WSLX_VSOCK_HOST_CID || h.type != VSOCK_TYPE_STREAM) {
		answer_rst(v, &h);
		return;
	}
	c = wslx_vsock_conn_find(v, h.dst_port, h.src_port);
	if (c)
		on_conn_packet(v, c, &h, ch);
	else if (h.op == VSOCK_OP_REQUEST)
		on_request(v, &h);
	else
		answer_rst(v, &h);
}

bool wslx_vsock_process_tx(struct wslx_vsock *v)
{
	struct wslx_vq *vq = &v->d.vq[VSOCK_Q_TX];
	unsigned budget = VSOCK_BUDGET;

	v->tx_blocked = false;
	if (!vq->enabled)
		return false;
	wslx_vq_disable_kick(vq);
	while (budget--) {
		struct wslx_chain *ch = &v->chain[0];
		int r;

		/* 5.10.6.1: when answers have nowhere to go, leave the guest's
		 * packets where they are until it takes some of ours. */
		if (v->rst_len == VSOCK_RST_RING) {
			v->tx_blocked = true;
			return false;
		}
		r = wslx_vq_pop(vq, ch);
		if (r < 0) {
			wslx_vdev_broken(&v->d, "malformed transmit queue");
			return false;
		}
		if (r == 0) {
			if (!wslx_vq_enable_kick(vq))
				return false;
			wslx_vq_disable_kick(vq);
			continue;
		}
		on_packet(v, ch);
		/* connect_request() may have answered and used the scratch space,
		 * but never chain[0]. */
		wslx_vq_push(vq, ch->head, 0);
		v->tx_pushed = true;
	}
	return true;
}
