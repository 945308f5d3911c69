/*
 * Many channels, one reader: looks at each in turn, sleeps on all of them at once.
 *
 * Trust boundary: any participant can make news without end.  So the door and the
 * channels take turns, and news is no reason to wait longer than was said.
 */
#include <errno.h>
#include <stdlib.h>

#include "portal/atomic.h"
#include "portal/gate_inline.h"
#include "portal/internal.h"
#include "portal/ring_inline.h"

#define MAX_CHANS 64u /* one futex_waitv, with the event word */
#define NOT_YET INT64_MIN

struct portal_fanin {
	portal *p;
	portal_chan *chans[MAX_CHANS];
	unsigned n, turn;
	uint32_t news; /* the event word when it was last looked after */
	bool door;     /* came up the last time: channels are next */
	struct wslx_portal_spin spin;
};

int portal_fanin_new(portal *p, portal_fanin **ret)
{
	portal_fanin *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	f->p = p;
	f->news = wslx_portal_event(p) - 1;
	wslx_portal_spin_init(&f->spin);
	*ret = f;
	return 0;
}

void portal_fanin_free(portal_fanin *f)
{
	free(f);
}

int portal_fanin_add(portal_fanin *f, portal_chan *c)
{
	if (f->n == MAX_CHANS)
		return -ENOSPC;
	f->chans[f->n++] = c;
	if (c->spin.worth_ns > f->spin.worth_ns)
		wslx_portal_spin_far(&f->spin);
	return 0;
}

void portal_fanin_remove(portal_fanin *f, portal_chan *c)
{
	for (unsigned i = 0; i < f->n; i++) {
		if (f->chans[i] == c) {
			f->chans[i] = f->chans[--f->n];
			return;
		}
	}
}

static portal_chan *look(portal_fanin *f)
{
	for (unsigned i = 0; i < f->n; i++) {
		unsigned at = (f->turn + i) % f->n;

		if (wslx_portal_rx_ready(&f->chans[at]->rx)) {
			f->turn = at + 1;
			return f->chans[at];
		}
		wslx_portal_rx_expect(&f->chans[at]->rx);
	}
	return NULL;
}

/* Gone, and nothing left to read. */
static portal_chan *look_for_dead(portal_fanin *f)
{
	for (unsigned i = 0; i < f->n; i++)
		if (wslx_portal_chan_alive(f->chans[i]) < 0)
			return f->chans[i];
	return NULL;
}

static void sleep_on_all(portal_fanin *f, uint32_t ev, int64_t left)
{
	struct portal_wait w[MAX_CHANS];
	bool moved = false;

	for (unsigned i = 0; i < f->n; i++) {
		w[i].word = (const uint32_t *)(const void *)&f->chans[i]->rx.tx->head;
		moved |= wslx_portal_rx_prepare_sleep(&f->chans[i]->rx, &w[i].expected) != 0;
	}
	if (!moved)
		wslx_portal_sleep(f->p, ev, w, f->n, left);
	for (unsigned i = 0; i < f->n; i++)
		wslx_portal_rx_awake(&f->chans[i]->rx);
}

/* New arenas, the dead, whoever wants to connect.  1: something to return. */
static int look_after_news(portal_fanin *f, portal_listener *l, uint32_t ev, portal_chan **ret)
{
	int r = wslx_portal_refresh(f->p);

	if (r < 0)
		return r;
	if (wslx_portal_is_revoked(f->p))
		return -EACCES;
	*ret = look_for_dead(f);
	if (*ret)
		return 1;
	f->door = l && wslx_portal_listener_knock(l, ev);
	return f->door;
}

/* While the region is to rest nothing could be received, nor anybody let in: who came up would come up at once again.
 */
static int rest(portal *p, int64_t deadline)
{
	int r = wslx_portal_park(p, deadline);

	return r < 0 ? r : wslx_portal_is_revoked(p) ? -EACCES : 0;
}

int portal_fanin_wait(portal_fanin *f, portal_listener *l, int64_t timeout_ns, portal_chan **ret)
{
	int64_t deadline = NOT_YET, slept_at = 0;
	bool channels_first = f->door;

	f->door = false;
	for (;;) {
		uint32_t ev = wslx_portal_event(f->p);
		int64_t left;
		int r;

		if (wslx_portal_is_to_rest(f->p)) {
			if (deadline == NOT_YET)
				deadline = wslx_portal_deadline(timeout_ns);
			r = rest(f->p, deadline);
			if (r < 0)
				return r;
			continue;
		}
		/* However busy the channels are. */
		if (ev != f->news) {
			r = look_after_news(f, channels_first ? NULL : l, ev, ret);
			if (r)
				return r < 0 ? r : 0;
			if (!channels_first)
				f->news = ev;
		}
		channels_first = false;
		for (unsigned i = 0; i == 0 || (timeout_ns && i < f->spin.limit); i++) {
			*ret = look(f);
			if (*ret) {
				if (slept_at)
					wslx_portal_spin_slept(&f->spin, wslx_portal_now() - slept_at);
				else
					wslx_portal_spin_paid(&f->spin, i);
				return 0;
			}
			PORTAL_PAUSE();
			if (wslx_portal_event(f->p) != ev)
				break;
		}
		if (deadline == NOT_YET)
			deadline = wslx_portal_deadline(timeout_ns);
		left = wslx_portal_left(deadline);
		if (left && wslx_portal_event(f->p) != ev)
			continue;
		r = look_after_news(f, l, ev, ret);
		if (r)
			return r < 0 ? r : 0;
		if (left == 0 && !timeout_ns)
			return -EAGAIN;
		if (left == 0) {
			wslx_portal_spin_in_vain(&f->spin);
			return -ETIMEDOUT;
		}
		if (wslx_portal_gate_rest(f->p))
			continue;
		if (!slept_at)
			slept_at = wslx_portal_now();
		sleep_on_all(f, ev, left);
	}
}
