/* Frames, queues and TLVs of the agent protocol; see agent.h. */
#include "proto/agent.h"

#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "base/bytes.h"

#define FRAME_MAX (WSLX_AGENT_HEADER_SIZE + WSLX_AGENT_PAYLOAD_MAX)
#define KNOWN_FLAGS (WSLX_AGENT_F_MORE | WSLX_AGENT_F_EOF | WSLX_AGENT_F_MUST)
/* A whole frame and the start of the next. */
#define RX_CAPACITY (FRAME_MAX + 4096u)
/* Below this an emptied queue keeps its memory. */
#define TX_KEEP (512u << 10)

int wslx_agent_header_decode(const uint8_t p[WSLX_AGENT_HEADER_SIZE], struct wslx_agent_header *ret)
{
	struct wslx_agent_header h = {
		.len = wslx_get_le32(p),
		.type = wslx_get_le16(p + 4),
		.flags = wslx_get_le16(p + 6),
		.channel = wslx_get_le32(p + 8),
		.id = wslx_get_le32(p + 12),
	};

	if (h.len > WSLX_AGENT_PAYLOAD_MAX || (h.flags & ~KNOWN_FLAGS))
		return -EPROTO;
	*ret = h;
	return 0;
}

void wslx_agent_header_encode(const struct wslx_agent_header *h, uint8_t p[WSLX_AGENT_HEADER_SIZE])
{
	wslx_put_le32(p, h->len);
	wslx_put_le16(p + 4, h->type);
	wslx_put_le16(p + 6, h->flags);
	wslx_put_le32(p + 8, h->channel);
	wslx_put_le32(p + 12, h->id);
}

/* ---- receiving ---- */

void wslx_agent_rx_init(struct wslx_agent_rx *rx)
{
	*rx = (struct wslx_agent_rx) { 0 };
	wslx_buf_init(&rx->in, RX_CAPACITY);
	wslx_buf_init(&rx->body, WSLX_AGENT_MESSAGE_MAX);
}

void wslx_agent_rx_free(struct wslx_agent_rx *rx)
{
	wslx_buf_free(&rx->in);
	wslx_buf_free(&rx->body);
}

int wslx_agent_rx_space(struct wslx_agent_rx *rx, uint8_t **p, size_t *n)
{
	int r;

	/* Everything parsed moves out; what stays is less than one frame. */
	wslx_buf_consume(&rx->in, rx->at);
	rx->at = 0;
	r = wslx_buf_reserve(&rx->in, RX_CAPACITY - rx->in.len);
	if (r < 0)
		return r;
	*p = rx->in.data + rx->in.len;
	*n = RX_CAPACITY - rx->in.len;
	return 0;
}

void wslx_agent_rx_filled(struct wslx_agent_rx *rx, size_t n)
{
	rx->in.len += WSLX_MIN(n, RX_CAPACITY - rx->in.len);
}

static bool same_message(const struct wslx_agent_header *a, const struct wslx_agent_header *b)
{
	return a->type == b->type && a->channel == b->channel && a->id == b->id;
}

/* One frame of a message in several: 1 = that was the last. */
static int join(struct wslx_agent_rx *rx, const struct wslx_agent_header *h, const uint8_t *payload)
{
	int r;

	if (h->type == WSLX_AGENT_DATA)
		return -EPROTO;
	if (!rx->joining) {
		rx->joining = true;
		rx->first = *h;
		rx->body.len = 0;
	} else if (!same_message(&rx->first, h)) {
		return -EPROTO;
	}
	/* An endless run of empty frames is no message. */
	if (h->len == 0 && (h->flags & WSLX_AGENT_F_MORE))
		return -EPROTO;
	r = wslx_buf_append(&rx->body, payload, h->len);
	if (r < 0)
		return r == -EMSGSIZE ? -EPROTO : r;
	return !(h->flags & WSLX_AGENT_F_MORE);
}

int wslx_agent_rx_next(struct wslx_agent_rx *rx, struct wslx_agent_msg *ret)
{
	struct wslx_agent_header h;

	/* The last joined body was handed out by the previous call. */
	if (!rx->joining && rx->body.cap)
		wslx_buf_free(&rx->body);
	for (;;) {
		const uint8_t *p = rx->in.data ? rx->in.data + rx->at : NULL;
		size_t have = rx->in.len - rx->at;
		int r;

		if (have < WSLX_AGENT_HEADER_SIZE)
			return 0;
		r = wslx_agent_header_decode(p, &h);
		if (r < 0)
			return r;
		if (have - WSLX_AGENT_HEADER_SIZE < h.len)
			return 0;
		rx->at += WSLX_AGENT_HEADER_SIZE + h.len;
		p += WSLX_AGENT_HEADER_SIZE;
		if (!rx->joining && !(h.flags & WSLX_AGENT_F_MORE)) {
			*ret = (struct wslx_agent_msg) { .h = h, .body = p };
			return 1;
		}
		r = join(rx, &h, p);
		if (r < 0)
			return r;
		if (r > 0) {
			rx->joining = false;
			h.len = (uint32_t)rx->body.len;
			*ret = (struct wslx_agent_msg) { .h = h, .body = rx->body.data };
			return 1;
		}
	}
}

/* ---- sending ---- */

int wslx_agent_put_message(struct wslx_buf *out, uint16_t type, uint16_t flags, uint32_t channel, uint32_t id,
			   const void *body, size_t n)
{
	size_t frames = n ? (n + WSLX_AGENT_PAYLOAD_MAX - 1) / WSLX_AGENT_PAYLOAD_MAX : 1;
	const uint8_t *p = body;
	int r;

	if (n > WSLX_AGENT_MESSAGE_MAX)
		return -EMSGSIZE;
	r = wslx_buf_reserve(out, n + frames * WSLX_AGENT_HEADER_SIZE);
	if (r < 0)
		return r;
	do {
		size_t part = WSLX_MIN(n, (size_t)WSLX_AGENT_PAYLOAD_MAX);
		struct wslx_agent_header h = { .len = (uint32_t)part,
					       .type = type,
					       .flags = (uint16_t)(flags | (n > part ? WSLX_AGENT_F_MORE : 0)),
					       .channel = channel,
					       .id = id };

		wslx_agent_header_encode(&h, out->data + out->len);
		out->len += WSLX_AGENT_HEADER_SIZE;
		if (part) {
			memcpy(out->data + out->len, p, part);
			out->len += part;
			p += part;
			n -= part;
		}
	} while (n);
	return 0;
}

void wslx_agent_tx_init(struct wslx_agent_tx *tx)
{
	tx->at = 0;
	wslx_buf_init(&tx->out, WSLX_AGENT_TX_MAX);
}

void wslx_agent_tx_free(struct wslx_agent_tx *tx)
{
	wslx_buf_free(&tx->out);
	tx->at = 0;
}

void wslx_agent_tx_sent(struct wslx_agent_tx *tx, size_t n)
{
	tx->at += WSLX_MIN(n, wslx_agent_tx_pending(tx));
	if (tx->at < tx->out.len)
		return;
	tx->at = tx->out.len = 0;
	if (tx->out.cap > TX_KEEP)
		wslx_buf_free(&tx->out);
}

/* Moves the unsent part to the front once as much again was sent before it:
 * each byte is moved a bounded number of times. */
static void tx_compact(struct wslx_agent_tx *tx)
{
	if (tx->at && tx->at >= wslx_agent_tx_pending(tx)) {
		wslx_buf_consume(&tx->out, tx->at);
		tx->at = 0;
	}
}

int wslx_agent_tx_message(struct wslx_agent_tx *tx, uint16_t type, uint16_t flags, uint32_t channel, uint32_t id,
			  const void *body, size_t n)
{
	tx_compact(tx);
	return wslx_agent_put_message(&tx->out, type, flags, channel, id, body, n);
}

int wslx_agent_tx_data_begin(struct wslx_agent_tx *tx, size_t n, uint8_t **ret)
{
	int r;

	tx_compact(tx);
	r = wslx_buf_reserve(&tx->out, WSLX_AGENT_HEADER_SIZE + WSLX_MIN(n, (size_t)WSLX_AGENT_PAYLOAD_MAX));
	if (r < 0)
		return r;
	*ret = tx->out.data + tx->out.len + WSLX_AGENT_HEADER_SIZE;
	return 0;
}

void wslx_agent_tx_data_end(struct wslx_agent_tx *tx, uint32_t channel, uint32_t stream, uint16_t flags, size_t n)
{
	struct wslx_agent_header h = {
		.len = (uint32_t)n, .type = WSLX_AGENT_DATA, .flags = flags, .channel = channel, .id = stream
	};

	wslx_agent_header_encode(&h, tx->out.data + tx->out.len);
	tx->out.len += WSLX_AGENT_HEADER_SIZE + n;
}

/* ---- TLVs ---- */

int wslx_agent_tlv_next(struct wslx_agent_tlv_it *it, struct wslx_agent_tlv *ret)
{
	uint32_t tag, len;

	if (it->left == 0)
		return 0;
	if (it->left < 8 || ++it->count > WSLX_AGENT_TLV_MAX)
		return -EPROTO;
	tag = wslx_get_le32(it->p);
	len = wslx_get_le32(it->p + 4);
	if (len > it->left - 8)
		return -EPROTO;
	*ret = (struct wslx_agent_tlv) { .tag = tag & ~WSLX_AGENT_TLV_CRITICAL,
					 .critical = tag & WSLX_AGENT_TLV_CRITICAL,
					 .value = it->p + 8,
					 .len = len };
	it->p += 8 + (size_t)len;
	it->left -= 8 + (size_t)len;
	return 1;
}

int wslx_agent_put_tlv(struct wslx_buf *b, uint32_t tag, const void *p, size_t n)
{
	int r;

	if (n > WSLX_AGENT_MESSAGE_MAX)
		return -EMSGSIZE;
	r = wslx_buf_reserve(b, 8 + n);
	if (r < 0)
		return r;
	wslx_put_le32(b->data + b->len, tag);
	wslx_put_le32(b->data + b->len + 4, (uint32_t)n);
	if (n)
		memcpy(b->data + b->len + 8, p, n);
	b->len += 8 + n;
	return 0;
}

int wslx_agent_put_tlv_u32(struct wslx_buf *b, uint32_t tag, uint32_t v)
{
	uint8_t p[4];

	wslx_put_le32(p, v);
	return wslx_agent_put_tlv(b, tag, p, sizeof(p));
}

int wslx_agent_put_tlv_u64(struct wslx_buf *b, uint32_t tag, uint64_t v)
{
	uint8_t p[8];

	wslx_put_le64(p, v);
	return wslx_agent_put_tlv(b, tag, p, sizeof(p));
}

int wslx_agent_put_tlv_str(struct wslx_buf *b, uint32_t tag, const char *s)
{
	return wslx_agent_put_tlv(b, tag, s, strlen(s));
}
