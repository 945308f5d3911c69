/* The consumer's end of a ring; see ring.h. */
#include <errno.h>

#include "portal/atomic.h"
#include "portal/fence.h"
#include "portal/ring.h"

void wslx_portal_rx_format(struct portal_rx *rx, uint32_t kind, uint32_t flags)
{
	*rx = (struct portal_rx) { .magic = PORTAL_RX_MAGIC, .kind = kind, .flags = flags };
}

void wslx_portal_rxe_init(struct wslx_portal_rxe *e, struct portal_rx *rx, const struct portal_tx *tx,
			  const uint8_t *data, uint64_t capacity)
{
	*e = (struct wslx_portal_rxe) { .rx = rx, .tx = tx, .data = data, .mask = capacity - 1 };
}

static int broken(struct wslx_portal_rxe *e)
{
	e->broken = true;
	return -EPROTO;
}

/* Takes the producer's index, if it is one that an honest producer could have. */
static int take_head(struct wslx_portal_rxe *e, uint64_t head)
{
	if (head - e->head > e->mask + 1 - (e->head - e->released))
		return broken(e);
	e->head = head;
	return 0;
}

void wslx_portal_rx_expect(const struct wslx_portal_rxe *e)
{
	PORTAL_PREFETCH(e->data + (e->pos & e->mask));
}

int wslx_portal_rx_ready(struct wslx_portal_rxe *e)
{
	int r;

	if (e->broken)
		return -EPROTO;
	if (e->head != e->pos)
		return 1;
	r = take_head(e, PORTAL_LOAD_ACQ(&e->tx->head));
	if (r < 0)
		return r;
	return e->head != e->pos;
}

int wslx_portal_rx_peek(struct wslx_portal_rxe *e, struct portal_record *ret, const void **ret_data)
{
	/* A pad is never alone: what follows it was published with it. */
	for (int i = 0; i < 2; i++) {
		uint64_t to_end = e->mask + 1 - (e->pos & e->mask), have;
		int r = wslx_portal_rx_ready(e);

		if (r <= 0)
			return r < 0 ? r : -EAGAIN;
		have = e->head - e->pos;
		if (e->pos & 7 || have < sizeof(*ret))
			return broken(e);
		wslx_portal_copy_in(ret, e->data + (e->pos & e->mask), sizeof(*ret));
		if (ret->length == PORTAL_PAD) {
			if (to_end >= have)
				return broken(e);
			e->pos += to_end;
			continue;
		}
		if (ret->length > e->mask || wslx_portal_record_size(ret->length) > (have < to_end ? have : to_end))
			return broken(e);
		*ret_data = e->data + (e->pos & e->mask) + sizeof(*ret);
		return 0;
	}
	return broken(e);
}

void wslx_portal_rx_next(struct wslx_portal_rxe *e, const struct portal_record *rec)
{
	e->pos += wslx_portal_record_size(rec->length);
}

int wslx_portal_rx_span(struct wslx_portal_rxe *e, const void **ret, size_t *ret_n)
{
	uint64_t to_end = e->mask + 1 - (e->pos & e->mask), have;
	int r = wslx_portal_rx_ready(e);

	if (r <= 0)
		return r < 0 ? r : -EAGAIN;
	have = e->head - e->pos;
	*ret = e->data + (e->pos & e->mask);
	*ret_n = have < to_end ? have : to_end;
	return 0;
}

int wslx_portal_rx_consumed(struct wslx_portal_rxe *e, size_t n)
{
	if (n > e->head - e->pos)
		return -EINVAL;
	e->pos += n;
	return 0;
}

bool wslx_portal_rx_release(struct wslx_portal_rxe *e)
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

int wslx_portal_rx_prepare_sleep(struct wslx_portal_rxe *e, uint32_t *ret_expected)
{
	uint64_t head;

	PORTAL_STORE_SEQ(&e->rx->sleeping, 1);
	if (e->fenced)
		wslx_portal_fence_all();
	head = PORTAL_LOAD_SEQ(&e->tx->head);
	*ret_expected = (uint32_t)head;
	return head != e->head;
}

void wslx_portal_rx_awake(struct wslx_portal_rxe *e)
{
	PORTAL_STORE(&e->rx->sleeping, 0);
}
