/* The producer's end of a ring; see ring.h. */
#include <errno.h>

#include "portal/atomic.h"
#include "portal/fence.h"
#include "portal/ring.h"

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

/* Takes the consumer's index, if it is one that an honest consumer could have. */
static int take_tail(struct wslx_portal_txe *e, uint64_t tail)
{
	if (tail - e->tail > e->published - e->tail) {
		e->broken = true;
		return -EPROTO;
	}
	e->tail = tail;
	return 0;
}

/* Room for n bytes behind head? */
static int need(struct wslx_portal_txe *e, uint64_t n)
{
	uint64_t capacity = e->mask + 1;
	int r;

	if (e->head + n - e->tail <= capacity)
		return 0;
	r = take_tail(e, PORTAL_LOAD_ACQ(&e->rx->tail));
	if (r < 0)
		return r;
	return e->head + n - e->tail <= capacity ? 0 : -EAGAIN;
}

static void put_header(struct wslx_portal_txe *e, uint64_t at, uint32_t length, uint32_t type)
{
	struct portal_record rec = { .length = length, .type = type };

	wslx_portal_copy_out(e->data + (at & e->mask), &rec, sizeof(rec));
}

int wslx_portal_tx_reserve(struct wslx_portal_txe *e, size_t n, void **ret)
{
	uint64_t size = wslx_portal_record_size(n), to_end = e->mask + 1 - (e->head & e->mask);
	uint64_t pad = size > to_end ? to_end : 0;
	int r;

	if (e->broken)
		return -EPROTO;
	if (n > e->mask || size > (e->mask + 1) / 2)
		return -EMSGSIZE;
	r = need(e, pad + size);
	if (r < 0)
		return r;
	if (pad)
		put_header(e, e->head, PORTAL_PAD, 0);
	e->room = e->head + pad;
	e->reserved = n;
	e->has_reserved = true;
	*ret = e->data + (e->room & e->mask) + sizeof(struct portal_record);
	return 0;
}

int wslx_portal_tx_commit(struct wslx_portal_txe *e, uint32_t type, size_t n)
{
	if (!e->has_reserved || n > e->reserved)
		return -EINVAL;
	put_header(e, e->room, (uint32_t)n, type);
	e->head = e->room + wslx_portal_record_size(n);
	e->has_reserved = false;
	return 0;
}

int wslx_portal_tx_span(struct wslx_portal_txe *e, void **ret, size_t *ret_n)
{
	uint64_t to_end = e->mask + 1 - (e->head & e->mask), room;
	int r;

	if (e->broken)
		return -EPROTO;
	r = need(e, e->mask + 1);
	if (r < 0 && r != -EAGAIN)
		return r;
	room = e->mask + 1 - (e->head - e->tail);
	if (!room)
		return -EAGAIN;
	*ret = e->data + (e->head & e->mask);
	*ret_n = room < to_end ? room : to_end;
	e->reserved = *ret_n;
	return 0;
}

int wslx_portal_tx_wrote(struct wslx_portal_txe *e, size_t n)
{
	if (n > e->reserved)
		return -EINVAL;
	e->head += n;
	e->reserved -= n;
	return 0;
}

bool wslx_portal_tx_publish(struct wslx_portal_txe *e)
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
