/*
 * The server's half of making links; see link.c.
 *
 * Trust boundary: offers are whatever clients wrote.  One participant holds at
 * most PER_PEER of our entries and channels, those that only we have closed among
 * them: with the usual rings 2 MiB of our arena, and an eighth of our link table.
 * So one that offers without end costs its own service only; several together may
 * use up either.  What it offers beyond that waits until one of them is free.  If
 * that is our doing nothing changes in its table: so whoever closes one, whichever
 * listener's it was, counts p->places up where the entry changes (link.c), and each
 * listener looks at all again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "portal/atomic.h"
#include "portal/directory.h"
#include "portal/gate_inline.h"
#include "portal/internal.h"

#define PER_PEER 32u
#define DEFAULT_MAX 64u
#define DEFAULT_CAPACITY (UINT64_C(64) << 10)

int portal_listen(portal *p, const char *name, const struct portal_listen *params, portal_listener **ret)
{
	struct portal_listen q = { .size = sizeof(q) };
	portal_listener *l;
	struct portal_name n;
	int r;

	if (params) {
		if (params->size != sizeof(q))
			return -EINVAL;
		q = *params;
	}
	q.kind = q.kind ? q.kind : PORTAL_RECORDS;
	q.max = q.max ? q.max : DEFAULT_MAX;
	q.tx_capacity = q.tx_capacity ? q.tx_capacity : DEFAULT_CAPACITY;
	if (wslx_portal_ring_check(q.kind, q.tx_capacity) < 0)
		return -EINVAL;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->p = p;
	l->params = q;
	l->dirty = true;
	l->told = wslx_portal_event(p) - 1;
	r = wslx_portal_name_set(l->name, name);
	if (r == 0)
		r = wslx_portal_publish_kind(p, PORTAL_SERVICE, name, (struct portal_handle) { 0 }, 0, q.kind);
	if (r == 0) {
		r = wslx_portal_find(p, l->name, &n, &l->slot);
		if (r < 0)
			(void)portal_unpublish(p, l->name);
	}
	if (r < 0) {
		free(l);
		return r;
	}
	l->generation = n.generation;
	*ret = l;
	return 0;
}

void portal_listener_free(portal_listener *l)
{
	if (!l)
		return;
	(void)portal_unpublish(l->p, l->name);
	free(l);
}

/* What was found at the door. */
struct offer {
	unsigned peer, link;
	uint64_t generation;
	struct portal_link o;
	const struct portal_link *theirs;
};

/* Our entries for that peer, those that only we have closed among them; refused ones whose offer is gone are freed
 * (channels do that themselves, the closed ones when the next one is made). */
static unsigned entries_for(portal *p, unsigned peer, const struct portal_link *theirs)
{
	unsigned n = 0;

	for (unsigned i = 0; i < PORTAL_MAX_LINKS; i++) {
		const struct portal_link *mine = &p->links[i];
		uint32_t state = PORTAL_LIFE_STATE(mine->life);
		bool gone;

		if (!p->link_used[i] || mine->peer != peer || !mine->peer_life)
			continue;
		gone = mine->peer_link >= PORTAL_MAX_LINKS ||
		       PORTAL_LOAD_ACQ(&theirs[mine->peer_link].life) != mine->peer_life;
		if (gone && state == PORTAL_LINK_REFUSED) {
			wslx_portal_link_free(p, i);
			continue;
		}
		n += !gone || state == PORTAL_LINK_OPEN;
	}
	return n;
}

/* Also if the channel is closed at our end: its records would come once more.  So the entry stays until it is at
 * theirs. */
static bool answered(const portal *p, const struct offer *f, unsigned link, uint64_t life)
{
	for (unsigned i = 0; i < PORTAL_MAX_LINKS; i++) {
		const struct portal_link *mine = &p->links[i];

		if (p->link_used[i] && mine->peer == f->peer && mine->peer_link == link && mine->peer_life == life)
			return true;
	}
	return false;
}

/* The next offer of f->peer to this service that has no answer, into f->o; its number, or -1. */
static int find_offer(portal_listener *l, const struct portal_link *table, struct offer *f)
{
	struct portal_link *ret = &f->o;

	for (unsigned i = 0; i < PORTAL_MAX_LINKS; i++) {
		if (PORTAL_LIFE_STATE(PORTAL_LOAD_ACQ(&table[i].life)) != PORTAL_LINK_OFFER ||
		    !wslx_portal_link_read(&table[i], ret))
			continue;
		if (PORTAL_LIFE_STATE(ret->life) == PORTAL_LINK_OFFER && ret->peer == l->p->self &&
		    ret->service == l->slot && ret->service_generation == l->generation &&
		    !answered(l->p, f, i, ret->life))
			return (int)i;
	}
	return -1;
}

/* One channel for one offer; anything below 0: none. */
static int open_for(portal_listener *l, const struct offer *f, const struct portal_link *mine, portal_chan **ret)
{
	portal *p = l->p;
	portal_chan *c;
	int r;

	if (__atomic_load_n(&l->open, __ATOMIC_RELAXED) >= l->params.max)
		return -EUSERS;
	r = wslx_portal_chan_new(p, l->params.kind, l->params.tx_capacity, &c);
	if (r < 0)
		return r;
	c->peer = f->peer;
	c->peer_generation = f->generation;
	r = wslx_portal_chan_join(c, &f->o, l->params.max_capacity);
	if (r == 0)
		r = wslx_portal_link_write(p, c, PORTAL_LINK_OPEN, mine);
	if (r < 0) {
		wslx_portal_chan_close(c);
		return r;
	}
	c->peer_link = f->theirs;
	c->peer_link_life = f->o.life;
	*ret = c;
	return 0;
}

/* After our answer: did the client not give up before it could see it?  It may have come, sent and gone meanwhile. */
static bool was_seen(const struct portal_link *theirs, uint64_t life)
{
	uint64_t now = PORTAL_LOAD_SEQ(&theirs->life);

	return now == life || now == PORTAL_LIFE(PORTAL_LIFE_GENERATION(life), PORTAL_LINK_CLOSED);
}

/* 0: *ret is the new channel.  1: refused, or the client thought better of it.  -EAGAIN, -ETIMEDOUT: the region is to
 * rest, and the offer still there. */
static int answer(portal_listener *l, const struct offer *f, int64_t deadline, portal_chan **ret)
{
	struct portal_link mine = { .peer = f->peer, .peer_link = f->link, .peer_life = f->o.life };
	portal *p = l->p;
	portal_chan *c = NULL;
	bool had_more = l->more;
	int r = wslx_portal_lock_to_write(p, deadline);

	if (r < 0)
		return r;
	r = open_for(l, f, &mine, &c);
	l->more = true;
	if (r < 0) {
		/* Without an entry there is no answer; nor anything to do until one is free. */
		if (wslx_portal_link_write(p, NULL, PORTAL_LINK_REFUSED, &mine) < 0) {
			p->link_wanted = true;
			l->more = had_more;
		}
	} else if (!was_seen(f->theirs, f->o.life)) {
		wslx_portal_chan_close(c);
		r = -ECANCELED;
	}
	pthread_mutex_unlock(&p->lock);
	if (r != -ECANCELED)
		wslx_portal_kick(p, f->peer);
	if (r < 0)
		return 1;
	c->listener = l;
	__atomic_fetch_add(&l->open, 1, __ATOMIC_RELAXED);
	*ret = c;
	return 0;
}

/* An index that is used again begins to count again. */
static bool has_news(const portal_listener *l, unsigned peer, uint64_t generation, uint32_t seq)
{
	return seq != l->seen[peer] || generation != l->seen_life[peer];
}

/* Looks at one participant's table, if it changed.  0: *ret is a new channel; 1: none; -EAGAIN, -ETIMEDOUT: the region
 * is to rest, and there is an offer that remains. */
static int look_at(portal_listener *l, unsigned peer, bool anyway, int64_t deadline, portal_chan **ret)
{
	portal *p = l->p;
	const struct portal_link *table;
	const struct portal_control *ctl;
	struct offer f = { .peer = peer };
	uint32_t seq = 0;
	int link = -1, r;

	if (!peer || !wslx_portal_peer_life(p, peer, &f.generation))
		return 1;
	r = wslx_portal_lock_to_write(p, deadline);
	if (r < 0)
		return r;
	table = wslx_portal_links_of(p, peer);
	if (table) {
		ctl = (const struct portal_control *)(const void *)((const uint8_t *)table - PORTAL_LINKS_OFF);
		seq = PORTAL_LOAD_ACQ(&ctl->links_seq);
		if (anyway || has_news(l, peer, f.generation, seq)) {
			if (entries_for(p, peer, table) < PER_PEER)
				link = find_offer(l, table, &f);
			else
				p->place_wanted = true;
		}
	}
	pthread_mutex_unlock(&p->lock);
	if (link < 0) {
		l->seen[peer] = seq;
		l->seen_life[peer] = f.generation;
		return 1;
	}
	/* seen stays: there may be more of them. */
	f.link = (unsigned)link;
	f.theirs = &table[link];
	return answer(l, &f, deadline, ret);
}

static int look_around(portal_listener *l, int64_t deadline, portal_chan **ret)
{
	uint32_t now = __atomic_load_n(&l->p->places, __ATOMIC_ACQUIRE);
	bool all = l->dirty || now != l->places;

	l->dirty = l->more = false;
	l->places = now;
	for (unsigned i = 0; i < PORTAL_MAX_PARTICIPANTS; i++) {
		unsigned peer = (l->turn + i) % PORTAL_MAX_PARTICIPANTS;
		int r = look_at(l, peer, all, deadline, ret);

		if (r == 0)
			l->turn = peer + 1;
		if (r <= 0) {
			l->dirty = all;
			return r;
		}
	}
	return 1;
}

void wslx_portal_listener_left(portal_listener *l)
{
	__atomic_fetch_sub(&l->open, 1, __ATOMIC_RELAXED);
}

static bool any_news(portal_listener *l)
{
	portal *p = l->p;
	bool any = false;

	pthread_mutex_lock(&p->lock);
	for (unsigned peer = 1; !any && peer < PORTAL_MAX_PARTICIPANTS; peer++) {
		const struct portal_link *table;
		const struct portal_control *ctl;
		uint64_t generation;

		if (!wslx_portal_peer_life(p, peer, &generation))
			continue;
		table = wslx_portal_links_of(p, peer);
		if (!table)
			continue;
		ctl = (const struct portal_control *)(const void *)((const uint8_t *)table - PORTAL_LINKS_OFF);
		any = has_news(l, peer, generation, PORTAL_LOAD_ACQ(&ctl->links_seq));
	}
	pthread_mutex_unlock(&p->lock);
	return any;
}

bool wslx_portal_listener_knock(portal_listener *l, uint32_t ev)
{
	bool dirty = l->dirty || __atomic_load_n(&l->p->places, __ATOMIC_ACQUIRE) != l->places;

	if (!dirty && ev == l->told && !l->more)
		return false;
	if (!dirty && !any_news(l))
		return false;
	l->told = ev;
	return true;
}

int portal_accept(portal_listener *l, int64_t timeout_ns, portal_chan **ret)
{
	int64_t deadline = wslx_portal_deadline(timeout_ns);

	for (;;) {
		uint32_t ev = wslx_portal_event(l->p);
		int r = wslx_portal_refresh(l->p);

		if (r < 0)
			return r;
		if (wslx_portal_is_revoked(l->p))
			return -EACCES;
		r = look_around(l, deadline, ret);
		if (r <= 0)
			return r;
		r = wslx_portal_await_event(l->p, ev, deadline);
		if (r < 0)
			return r;
	}
}
