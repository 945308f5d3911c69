/* The consumer's end of a ring; see ring.h. */
#include <errno.h>

#include "portal/atomic.h"
#include "portal/fence.h"
#include "portal/ring_inline.h"

void wslx_portal_rx_format(struct portal_rx *rx, uint32_t kind, uint32_t flags)
{
	*rx = (struct portal_rx) { .magic = PORTAL_RX_MAGIC, .kind = kind, .flags = flags };
}

void wslx_portal_rxe_init(struct wslx_portal_rxe *e, struct portal_rx *rx, const struct portal_tx *tx,
			  const uint8_t *data, uint64_t capacity)
{
	*e = (struct wslx_portal_rxe) { .rx = rx, .tx = tx, .data = data, .mask = capacity - 1 };
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
