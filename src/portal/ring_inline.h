/*
 * What happens to every record; see ring.h.  In a header because it is a few
 * dozen instructions, and calls would cost as much again.
 */
#ifndef WSLX_PORTAL_RING_INLINE_H
#define WSLX_PORTAL_RING_INLINE_H

#include <errno.h>

#include "portal/atomic.h"
#include "portal/ring.h"

/* ---- the producer's end ---- */

/* Takes the consumer's index, if it is one that an honest consumer could have. */
static inline int wslx_portal_tx_take_tail(struct wslx_portal_txe *e, uint64_t tail)
{
	if (tail - e->tail > e->published - e->tail) {
		e->broken = true;
		return -EPROTO;
	}
	e->tail = tail;
	return 0;
}

/* Room for n bytes behind head? */
static inline int wslx_portal_tx_need(struct wslx_portal_txe *e, uint64_t n)
{
	uint64_t capacity = e->mask + 1;
	int r;

	if (e->head + n - e->tail <= capacity)
		return 0;
	r = wslx_portal_tx_take_tail(e, PORTAL_LOAD_ACQ(&e->rx->tail));
	if (r < 0)
		return r;
	return e->head + n - e->tail <= capacity ? 0 : -EAGAIN;
}

static inline void wslx_portal_tx_put_header(struct wslx_portal_txe *e, uint64_t at, uint32_t length, uint32_t type)
{
	struct portal_record rec = { .length = length, .type = type };

	wslx_portal_copy_out(e->data + (at & e->mask), &rec, sizeof(rec));
}

/* Room for a record: -EAGAIN (full), -EMSGSIZE, -EPROTO. */
WSLX_MUST_CHECK static inline int wslx_portal_tx_reserve(struct wslx_portal_txe *e, size_t n, void **ret)
{
	uint64_t size = wslx_portal_record_size(n), to_end = e->mask + 1 - (e->head & e->mask);
	uint64_t pad = size > to_end ? to_end : 0;
	int r;

	if (e->broken)
		return -EPROTO;
	if (n > e->mask || size > (e->mask + 1) / 2)
		return -EMSGSIZE;
	r = wslx_portal_tx_need(e, pad + size);
	if (r < 0)
		return r;
	if (pad)
		wslx_portal_tx_put_header(e, e->head, PORTAL_PAD, 0);
	e->room = e->head + pad;
	e->reserved = n;
	e->has_reserved = true;
	*ret = e->data + (e->room & e->mask) + sizeof(struct portal_record);
	return 0;
}

/* Of what was reserved, n bytes; not shown yet. */
WSLX_MUST_CHECK static inline int wslx_portal_tx_commit(struct wslx_portal_txe *e, uint32_t type, size_t n)
{
	if (!e->has_reserved || n > e->reserved)
		return -EINVAL;
	wslx_portal_tx_put_header(e, e->room, (uint32_t)n, type);
	e->head = e->room + wslx_portal_record_size(n);
	e->has_reserved = false;
	return 0;
}

/* Shows what was committed.  True: the consumer sleeps, ring for it. */
WSLX_MUST_CHECK static inline bool wslx_portal_tx_publish(struct wslx_portal_txe *e)
{
	if (e->published == e->head)
		return false;
	e->published = e->head;
	if (e->light) {
		PORTAL_STORE_REL(&e->tx->head, e->head);
		PORTAL_LIGHT_FENCE();
		return PORTAL_LOAD(&e->rx->sleeping) != 0;
	}
	PORTAL_STORE_FENCE(&e->tx->head, e->head);
	return PORTAL_LOAD_SEQ(&e->rx->sleeping) != 0;
}

/* ---- the consumer's end ---- */

static inline int wslx_portal_rx_broken(struct wslx_portal_rxe *e)
{
	e->broken = true;
	return -EPROTO;
}

/* Takes the producer's index, if it is one that an honest producer could have. */
static inline int wslx_portal_rx_take_head(struct wslx_portal_rxe *e, uint64_t head)
{
	if (head - e->head > e->mask + 1 - (e->head - e->released))
		return wslx_portal_rx_broken(e);
	e->head = head;
	return 0;
}

/* Is there anything to read?  1, 0, -EPROTO. */
WSLX_MUST_CHECK static inline int wslx_portal_rx_ready(struct wslx_portal_rxe *e)
{
	int r;

	if (e->broken)
		return -EPROTO;
	if (e->head != e->pos)
		return 1;
	r = wslx_portal_rx_take_head(e, PORTAL_LOAD_ACQ(&e->tx->head));
	if (r < 0)
		return r;
	return e->head != e->pos;
}

/* While waiting: has the line where the next record will begin on its way too, instead of asking for it only when head
 * says that it is there.  The two come from another processor; one after the other they would take twice as long. */
static inline void wslx_portal_rx_expect(const struct wslx_portal_rxe *e)
{
	PORTAL_PREFETCH(e->data + (e->pos & e->mask));
}

/* Next record after those already peeked: -EAGAIN (none), -EPROTO. */
WSLX_MUST_CHECK static inline int wslx_portal_rx_peek(struct wslx_portal_rxe *e, struct portal_record *ret,
						      const void **ret_data)
{
	/* A pad is never alone: what follows it was published with it. */
	for (int i = 0; i < 2; i++) {
		uint64_t to_end = e->mask + 1 - (e->pos & e->mask), have;
		int r = wslx_portal_rx_ready(e);

		if (r <= 0)
			return r < 0 ? r : -EAGAIN;
		have = e->head - e->pos;
		if (e->pos & 7 || have < sizeof(*ret))
			return wslx_portal_rx_broken(e);
		wslx_portal_copy_in(ret, e->data + (e->pos & e->mask), sizeof(*ret));
		if (ret->length == PORTAL_PAD) {
			if (to_end >= have)
				return wslx_portal_rx_broken(e);
			e->pos += to_end;
			continue;
		}
		if (ret->length > e->mask || wslx_portal_record_size(ret->length) > (have < to_end ? have : to_end))
			return wslx_portal_rx_broken(e);
		*ret_data = e->data + (e->pos & e->mask) + sizeof(*ret);
		return 0;
	}
	return wslx_portal_rx_broken(e);
}

/* Steps over the record that peek gave. */
static inline void wslx_portal_rx_next(struct wslx_portal_rxe *e, const struct portal_record *rec)
{
	e->pos += wslx_portal_record_size(rec->length);
}

/* Gives back what was stepped over.  True: the producer sleeps, ring for it. */
WSLX_MUST_CHECK static inline bool wslx_portal_rx_release(struct wslx_portal_rxe *e)
{
	if (e->released == e->pos)
		return false;
	e->released = e->pos;
	if (e->light) {
		PORTAL_STORE_REL(&e->rx->tail, e->pos);
		PORTAL_LIGHT_FENCE();
		return PORTAL_LOAD(&e->tx->sleeping) != 0;
	}
	PORTAL_STORE_FENCE(&e->rx->tail, e->pos);
	return PORTAL_LOAD_SEQ(&e->tx->sleeping) != 0;
}

#endif
