/*
 * Sending and receiving on a channel: ring.h's ends, with quiesce, waiting and
 * the peer's death around them.
 *
 * What a peer published before it died is still read, unless its place is used
 * again before: then -EPIPE.  So whatever was read, index, header or payload, is
 * believed only after one more look at whose it was (judge).
 */
#include <errno.h>
#include <unistd.h>

#include "portal/atomic.h"
#include "portal/gate_inline.h"
#include "portal/internal.h"
#include "portal/ring_inline.h"

#define NOT_YET INT64_MIN

/* The result of reading what the peer wrote. */
static int judge(portal_chan *c, int r)
{
	/* Loads stay in order; the host told of the death before anybody could get the place. */
	PORTAL_LIGHT_FENCE();
	if ((r < 0 && r != -EPROTO) || wslx_portal_peer_alive(c->p, c->peer, c->peer_generation))
		return r;
	return wslx_portal_chan_place(c) < 0 ? -EPIPE : r;
}

static int room(portal_chan *c)
{
	return PORTAL_LOAD_ACQ(&c->tx.rx->tail) != c->tx.tail;
}

static int sleep_tx(portal_chan *c, uint32_t ev, int64_t left)
{
	struct portal_wait w = { (const uint32_t *)(const void *)&c->tx.rx->tail, 0 };

	if (wslx_portal_tx_prepare_sleep(&c->tx, &w.expected) == 0)
		wslx_portal_sleep(c->p, ev, &w, 1, left);
	wslx_portal_tx_awake(&c->tx);
	return 0;
}

static int sleep_rx(portal_chan *c, uint32_t ev, int64_t left)
{
	struct portal_wait w = { (const uint32_t *)(const void *)&c->rx.tx->head, 0 };

	if (wslx_portal_rx_prepare_sleep(&c->rx, &w.expected) == 0)
		wslx_portal_sleep(c->p, ev, &w, 1, left);
	wslx_portal_rx_awake(&c->rx);
	return 0;
}

static int ready(portal_chan *c, bool rx)
{
	return rx ? wslx_portal_rx_ready(&c->rx) : room(c);
}

/* looks: how many it took this time.  slept_at: when it first went to sleep, 0 = not at all. */
static void learn(portal_chan *c, unsigned looks, int64_t slept_at)
{
	if (slept_at)
		wslx_portal_spin_slept(&c->spin, wslx_portal_now() - slept_at);
	else
		wslx_portal_spin_paid(&c->spin, looks);
}

/* While the region is to rest nothing is announced: its end is news for everybody, and nobody publishes before. */
static void sleep_for(portal_chan *c, bool rx, uint32_t ev, int64_t left)
{
	if (wslx_portal_gate_rest(c->p))
		wslx_portal_sleep(c->p, ev, NULL, 0, left);
	else
		(void)(rx ? sleep_rx(c, ev, left) : sleep_tx(c, ev, left));
}

/* What one who does not wait is told instead.  News are for it, too; but it makes no system call to look for them. */
static int nothing_yet(portal *p)
{
	int r = 0;

	if (wslx_portal_behind(p) || __atomic_load_n(&p->closing, __ATOMIC_RELAXED))
		r = wslx_portal_refresh(p);
	else if (!wslx_portal_host_up(p))
		r = -EPIPE;
	if (r < 0)
		return r;
	(void)wslx_portal_gate_rest(p);
	return wslx_portal_is_revoked(p) ? -EACCES : -EAGAIN;
}

/* 0: looks ready; else why not.  deadline 0: does not wait. */
static int wait_ready(portal_chan *c, bool rx, int64_t deadline)
{
	portal *p = c->p;
	int64_t slept_at = 0;

	for (;;) {
		uint32_t ev = wslx_portal_event(p);
		int64_t left;
		int r, alive;

		for (unsigned i = 0; deadline && i < c->spin.limit; i++) {
			if (rx)
				wslx_portal_rx_expect(&c->rx);
			r = ready(c, rx);
			if (r) {
				learn(c, i, slept_at);
				return judge(c, r < 0 ? r : 0);
			}
			/* Every look takes the line away from the one who is about to write into it. */
			PORTAL_PAUSE();
			if (i % 64 == 63 && wslx_portal_event(p) != ev)
				break;
		}
		alive = wslx_portal_chan_alive(c);
		r = ready(c, rx);
		if (r) {
			learn(c, 0, slept_at);
			return judge(c, r < 0 ? r : 0);
		}
		if (alive < 0)
			return alive;
		if (!deadline)
			return nothing_yet(p);
		/* Who does not wait any more is told as well, if it is known. */
		if (wslx_portal_is_revoked(p))
			return -EACCES;
		left = wslx_portal_left(deadline);
		if (left == 0) {
			wslx_portal_spin_in_vain(&c->spin);
			return -ETIMEDOUT;
		}
		if (!slept_at)
			slept_at = wslx_portal_now();
		r = wslx_portal_refresh(p);
		if (r < 0)
			return r;
		if (wslx_portal_is_revoked(p))
			return -EACCES;
		sleep_for(c, rx, ev, left);
	}
}

/* The gate was closed.  timeout_ns becomes *deadline only when there is something to wait for: asking the clock costs
 * more than a record. */
static int enter(portal_chan *c, int64_t timeout_ns, int64_t *deadline)
{
	if (*deadline == NOT_YET)
		*deadline = wslx_portal_deadline(timeout_ns);
	return wslx_portal_gate_enter(c->p, &c->gate, *deadline);
}

/* ---- producing ---- */

static void show(portal_chan *c)
{
	if (wslx_portal_tx_publish(&c->tx))
		wslx_portal_ring_for(c->p, c->peer, &c->tx.tx->head);
	wslx_portal_gate_leave(c->p, &c->gate);
}

static int begin_tx(portal_chan *c, int64_t timeout_ns, int64_t *deadline)
{
	int r = wslx_portal_chan_alive(c);

	return r < 0 || wslx_portal_gate_try(c->p, &c->gate) ? r : enter(c, timeout_ns, deadline);
}

/* After a failed attempt: shows what was committed, so that it does not wait for itself, and waits for room. */
static int await_room(portal_chan *c, int r, int64_t timeout_ns, int64_t *deadline)
{
	show(c);
	if (r != -EAGAIN)
		return judge(c, r);
	if (*deadline == NOT_YET)
		*deadline = wslx_portal_deadline(timeout_ns);
	return wait_ready(c, false, *deadline);
}

int portal_reserve(portal_chan *c, size_t n, void **ret, int64_t timeout_ns)
{
	int64_t deadline = NOT_YET;

	if (c->kind != PORTAL_RECORDS)
		return -EINVAL;
	for (;;) {
		int r = begin_tx(c, timeout_ns, &deadline);

		if (r < 0)
			return r;
		r = wslx_portal_tx_reserve(&c->tx, n, ret);
		if (r == 0)
			return 0;
		r = await_room(c, r, timeout_ns, &deadline);
		if (r < 0)
			return r;
	}
}

int portal_commit(portal_chan *c, uint32_t type, size_t n)
{
	/* A span is reserved, too. */
	return c->kind == PORTAL_RECORDS ? wslx_portal_tx_commit(&c->tx, type, n) : -EINVAL;
}

int portal_flush(portal_chan *c)
{
	show(c);
	return wslx_portal_chan_alive(c);
}

int portal_send(portal_chan *c, uint32_t type, const void *buf, size_t n, int64_t timeout_ns)
{
	void *at;
	int r = portal_reserve(c, n, &at, timeout_ns);

	if (r < 0)
		return r;
	wslx_portal_copy_out(at, buf, n);
	r = wslx_portal_tx_commit(&c->tx, type, n);
	show(c);
	return r;
}

int portal_write_span(portal_chan *c, void **ret, size_t *ret_n, int64_t timeout_ns)
{
	int64_t deadline = NOT_YET;

	if (c->kind != PORTAL_BYTES)
		return -EINVAL;
	for (;;) {
		int r = begin_tx(c, timeout_ns, &deadline);

		if (r < 0)
			return r;
		r = wslx_portal_tx_span(&c->tx, ret, ret_n);
		if (r == 0)
			return 0;
		r = await_room(c, r, timeout_ns, &deadline);
		if (r < 0)
			return r;
	}
}

int portal_wrote(portal_chan *c, size_t n)
{
	int r;

	if (c->kind != PORTAL_BYTES)
		return -EINVAL;
	r = wslx_portal_tx_wrote(&c->tx, n);
	show(c);
	return r;
}

int portal_write(portal_chan *c, const void *buf, size_t n, size_t *ret_n, int64_t timeout_ns)
{
	void *at;
	size_t have = 0;
	int r = n ? portal_write_span(c, &at, &have, timeout_ns) : -EINVAL;

	if (r < 0)
		return r;
	*ret_n = n < have ? n : have;
	wslx_portal_copy_out(at, buf, *ret_n);
	return portal_wrote(c, *ret_n);
}

/* ---- consuming ---- */

static int give_room(portal_chan *c, int64_t timeout_ns, int64_t *deadline)
{
	int r = wslx_portal_gate_try(c->p, &c->gate) ? 0 : enter(c, timeout_ns, deadline);

	if (r < 0)
		return r;
	if (wslx_portal_rx_release(&c->rx))
		wslx_portal_ring_for(c->p, c->peer, &c->rx.rx->tail);
	if (!c->tx.has_reserved && c->tx.head == c->tx.published)
		wslx_portal_gate_leave(c->p, &c->gate);
	return 0;
}

/* What lies between before and pos was copied out.  Unless it was the peer's, and its room could be given back, it
 * stays to be read. */
static int received(portal_chan *c, uint64_t before, int64_t timeout_ns, int64_t *deadline)
{
	int r = judge(c, 0);

	if (r == 0)
		r = give_room(c, timeout_ns, deadline);
	if (r < 0)
		c->rx.pos = before;
	return r;
}

int wslx_portal_received(portal_chan *c, uint64_t before, int64_t timeout_ns)
{
	int64_t deadline = NOT_YET;

	return received(c, before, timeout_ns, &deadline);
}

int portal_release(portal_chan *c)
{
	int64_t deadline = NOT_YET;

	return c->rx.pos == c->rx.released ? 0 : give_room(c, PORTAL_FOREVER, &deadline);
}

static int peek(portal_chan *c, uint32_t *ret_type, const void **ret, size_t *ret_n, int64_t timeout_ns,
		int64_t *deadline)
{
	struct portal_record rec;
	int r;

	if (c->kind != PORTAL_RECORDS)
		return -EINVAL;
	r = wslx_portal_rx_peek(&c->rx, &rec, ret);
	if (r == -EAGAIN) {
		*deadline = wslx_portal_deadline(timeout_ns);
		r = wait_ready(c, true, *deadline);
		if (r == 0)
			r = wslx_portal_rx_peek(&c->rx, &rec, ret);
	}
	r = judge(c, r);
	if (r < 0)
		return r;
	wslx_portal_rx_next(&c->rx, &rec);
	if (ret_type)
		*ret_type = rec.type;
	*ret_n = rec.length;
	return 0;
}

int portal_peek(portal_chan *c, uint32_t *ret_type, const void **ret, size_t *ret_n, int64_t timeout_ns)
{
	int64_t deadline = NOT_YET;

	return peek(c, ret_type, ret, ret_n, timeout_ns, &deadline);
}

int portal_recv(portal_chan *c, uint32_t *ret_type, void *buf, size_t cap, size_t *ret_n, int64_t timeout_ns)
{
	uint64_t before = c->rx.pos;
	int64_t deadline = NOT_YET;
	const void *at;
	int r = peek(c, ret_type, &at, ret_n, timeout_ns, &deadline);

	if (r < 0)
		return r;
	if (*ret_n > cap) {
		c->rx.pos = before;
		return -EMSGSIZE;
	}
	wslx_portal_copy_in(buf, at, *ret_n);
	return received(c, before, timeout_ns, &deadline);
}

static int read_span(portal_chan *c, const void **ret, size_t *ret_n, int64_t timeout_ns, int64_t *deadline)
{
	int r;

	if (c->kind != PORTAL_BYTES)
		return -EINVAL;
	r = wslx_portal_rx_span(&c->rx, ret, ret_n);
	if (r == -EAGAIN) {
		*deadline = wslx_portal_deadline(timeout_ns);
		r = wait_ready(c, true, *deadline);
		if (r == 0)
			r = wslx_portal_rx_span(&c->rx, ret, ret_n);
	}
	return judge(c, r);
}

int portal_read_span(portal_chan *c, const void **ret, size_t *ret_n, int64_t timeout_ns)
{
	int64_t deadline = NOT_YET;

	return read_span(c, ret, ret_n, timeout_ns, &deadline);
}

int portal_consumed(portal_chan *c, size_t n)
{
	int r = wslx_portal_rx_consumed(&c->rx, n);

	return r < 0 ? r : portal_release(c);
}

int portal_read(portal_chan *c, void *buf, size_t cap, size_t *ret_n, int64_t timeout_ns)
{
	uint64_t before = c->rx.pos;
	int64_t deadline = NOT_YET;
	const void *at;
	size_t have = 0;
	int r = cap ? read_span(c, &at, &have, timeout_ns, &deadline) : -EINVAL;

	if (r < 0)
		return r;
	*ret_n = cap < have ? cap : have;
	wslx_portal_copy_in(buf, at, *ret_n);
	r = wslx_portal_rx_consumed(&c->rx, *ret_n);
	return r < 0 ? r : received(c, before, timeout_ns, &deadline);
}
