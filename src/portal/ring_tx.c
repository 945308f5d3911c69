/* The producer's end of a ring; see ring.h. */
#include <errno.h>

#include "portal/atomic.h"
#include "portal/fence.h"
#include "portal/ring_inline.h"

int wslx_portal_ring_check(uint32_t kind, uint64_t capacity)
{
	if (kind != PORTAL_RECORDS && kind != PORTAL_BYTES)
		return -EPROTO;
	if (capacity < PORTAL_RING_MIN || capacity > PORTAL_RING_MAX || (capacity & (capacity - 1)))
		return -EPROTO;
	return 0;
}

void wslx_portal_tx_format(struct portal_tx *tx, uint32_t kind, uint64_t capacity, uint64_t data_off, uint32_t flags)
{
	*tx = (struct portal_tx) {
		.magic = PORTAL_TX_MAGIC, .kind = kind, .capacity = capacity, .data = data_off, .flags = flags
	};
}

void wslx_portal_txe_init(struct wslx_portal_txe *e, struct portal_tx *tx, const struct portal_rx *rx, uint8_t *data,
			  uint64_t capacity)
{
	*e = (struct wslx_portal_txe) { .tx = tx, .rx = rx, .data = data, .mask = capacity - 1 };
}

int wslx_portal_tx_span(struct wslx_portal_txe *e, void **ret, size_t *ret_n)
{
	uint64_t to_end = e->mask + 1 - (e->head & e->mask), room;
	int r;

	if (e->broken)
		return -EPROTO;
	r = wslx_portal_tx_need(e, e->mask + 1);
	if (r < 0 && r != -EAGAIN)
		return r;
	room = e->mask + 1 - (e->head - e->tail);
	if (!room)
		return -EAGAIN;
	*ret = e->data + (e->head & e->mask);
	*ret_n = room < to_end ? room : to_end;
	e->reserved = *ret_n;
	e->has_reserved = true;
	return 0;
}

int wslx_portal_tx_wrote(struct wslx_portal_txe *e, size_t n)
{
	bool has = e->has_reserved;

	e->has_reserved = false;
	if (!has || n > e->reserved)
		return -EINVAL;
	e->head += n;
	return 0;
}

int wslx_portal_tx_prepare_sleep(struct wslx_portal_txe *e, uint32_t *ret_expected)
{
	uint64_t tail;

	PORTAL_STORE_SEQ(&e->tx->sleeping, 1);
	if (e->fenced)
		wslx_portal_fence_all();
	tail = PORTAL_LOAD_SEQ(&e->rx->tail);
	*ret_expected = (uint32_t)tail;
	return tail != e->tail;
}

void wslx_portal_tx_awake(struct wslx_portal_txe *e)
{
	PORTAL_STORE(&e->tx->sleeping, 0);
}
