/*
 * The server's half of making links; see link.c.
 *
 * Trust boundary: offers are whatever clients wrote.  One participant holds at
 * most PER_PEER of our entries, so a client that offers without end costs its
 * own service only.
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

/* Our entries for that peer; those whose offer is gone are freed (the open ones' channels do that themselves). */
static unsigned entries_for(portal *p, unsigned peer, const struct portal_link *theirs)
{
	unsigned n = 0;

	for (unsigned i = 0; i < PORTAL_MAX_LINKS; i++) {
		const struct portal_link *mine = &p->links[i];

		if (!p->link_used[i] || mine->peer != peer || !mine->peer_life)
			continue;
		if (PORTAL_LIFE_STATE(mine->life) == PORTAL_LINK_REFUSED &&
		    (mine->peer_link >= PORTAL_MAX_LINKS ||
		     PORTAL_LOAD_ACQ(&theirs[mine->peer_link].life) != mine->peer_life)) {
			PORTAL_STORE_REL(&p->links[i].life, PORTAL_LIFE(++p->link_generation, PORTAL_LINK_FREE));
			p->link_used[i] = false;
			continue;
		}
		n++;
	}
	return n;
}

static bool answered(const portal *p, unsigned peer, unsigned link, uint64_t life)
{
	for (unsigned i = 0; i < PORTAL_MAX_LINKS; i++) {
		const struct portal_link *mine = &p->links[i];

		if (p->link_used[i] && mine->peer == peer && mine->peer_link == link && mine->peer_life == life)
			return true;
	}
	return false;
}

/* The next offer of that peer to this service that has no answer; its number, or -1. */
static int find_offer(portal_listener *l, unsigned peer, const struct portal_link *table, struct portal_link *ret)
{
	for (unsigned i = 0; i < PORTAL_MAX_LINKS; i++) {
		if (PORTAL_LIFE_STATE(PORTAL_LOAD_ACQ(&table[i].life)) != PORTAL_LINK_OFFER ||
		    !wslx_portal_link_read(&table[i], ret))
			continue;
		if (PORTAL_LIFE_STATE(ret->life) == PORTAL_LINK_OFFER && ret->peer == l->p->self &&
		    ret->service == l->slot && ret->service_generation == l->generation &&
		    !answered(l->p, peer, i, ret->life))
			return (int)i;
	}
	return -1;
}

static void refuse(portal *p, unsigned peer, unsigned link, uint64_t life)
{
	struct portal_link l = { .peer = peer, .peer_link = link, .peer_life = life };

	if (wslx_portal_lock_to_write(p, -1) < 0)
		return;
	(void)!wslx_portal_link_write(p, NULL, PORTAL_LINK_REFUSED, &l);
	pthread_mutex_unlock(&p->lock);
	wslx_portal_kick(p, peer);
}

/* One channel for one offer.  -EAGAIN: the client thought better of it. */
static int answer(portal_listener *l, unsigned peer, uint64_t generation, unsigned link, const struct portal_link *o,
		  const struct portal_link *theirs, portal_chan **ret)
{
	struct portal_link mine = { .peer = peer, .peer_link = link, .peer_life = o->life };
	portal *p = l->p;
	portal_chan *c = NULL;
	int r = __atomic_load_n(&l->open, __ATOMIC_RELAXED) >= l->params.max
			? -EUSERS
			: wslx_portal_chan_new(p, l->params.kind, l->params.tx_capacity, &c);

	if (r == 0) {
		c->peer = peer;
		c->peer_generation = generation;
		r = wslx_portal_lock_to_write(p, -1);
		if (r == 0) {
			r = wslx_portal_chan_join(c, o, l->params.max_capacity);
			if (r == 0)
				r = wslx_portal_link_write(p, c, PORTAL_LINK_OPEN, &mine);
			if (r >= 0) {
				c->peer_link = theirs;
				c->peer_link_life = o->life;
			}
			pthread_mutex_unlock(&p->lock);
		}
	}
	if (r < 0) {
		portal_chan_free(c);
		refuse(p, peer, link, o->life);
		return -EAGAIN;
	}
	if (PORTAL_LOAD_SEQ(&theirs->life) != o->life) {
		portal_chan_free(c);
		return -EAGAIN;
	}
	c->listener = l;
	__atomic_fetch_add(&l->open, 1, __ATOMIC_RELAXED);
	wslx_portal_kick(p, peer);
	*ret = c;
	return 0;
}

/* An index that is used again begins to count again. */
static bool has_news(const portal_listener *l, unsigned peer, uint64_t generation, uint32_t seq)
{
	return l->dirty || seq != l->seen[peer] || generation != l->seen_life[peer];
}

/* Looks at one participant's table, if it changed.  0: *ret is a new channel; -EAGAIN. */
static int look_at(portal_listener *l, unsigned peer, portal_chan **ret)
{
	portal *p = l->p;
	const struct portal_link *table;
	const struct portal_control *ctl;
	struct portal_link o;
	uint64_t generation;
	uint32_t seq = 0;
	int link = -1;

	if (!peer || !wslx_portal_peer_life(p, peer, &generation))
		return -EAGAIN;
	pthread_mutex_lock(&p->lock);
	table = wslx_portal_links_of(p, peer);
	if (table) {
		ctl = (const struct portal_control *)(const void *)((const uint8_t *)table - PORTAL_LINKS_OFF);
		seq = PORTAL_LOAD_ACQ(&ctl->links_seq);
		if (has_news(l, peer, generation, seq) && entries_for(p, peer, table) < PER_PEER)
			link = find_offer(l, peer, table, &o);
	}
	pthread_mutex_unlock(&p->lock);
	if (link < 0) {
		l->seen[peer] = seq;
		l->seen_life[peer] = generation;
		return -EAGAIN;
	}
	/* seen stays: there may be more of them. */
	return answer(l, peer, generation, (unsigned)link, &o, &table[link], ret);
}

static int look_around(portal_listener *l, portal_chan **ret)
{
	for (unsigned i = 0; i < PORTAL_MAX_PARTICIPANTS; i++) {
		unsigned peer = (l->turn + i) % PORTAL_MAX_PARTICIPANTS;

		if (look_at(l, peer, ret) == 0) {
			l->turn = peer + 1;
			return 0;
		}
	}
	l->dirty = false;
	return -EAGAIN;
}

bool wslx_portal_listener_pending(portal_listener *l)
{
	portal *p = l->p;
	bool any = l->dirty;

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
		if (look_around(l, ret) == 0)
			return 0;
		r = wslx_portal_await_event(l->p, ev, deadline);
		if (r < 0)
			return r;
	}
}
