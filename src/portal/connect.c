/* The client's half of making a link; see link.c. */
#include <errno.h>
#include <string.h>

#include "portal/atomic.h"
#include "portal/directory.h"
#include "portal/gate_inline.h"
#include "portal/internal.h"

#define DEFAULT_CAPACITY (UINT64_C(64) << 10)

/* The server's entry that answers ours. */
bool wslx_portal_find_answer(portal_chan *c, struct portal_link *ret)
{
	portal *p = c->p;
	uint64_t my_life = c->offer_life;
	const struct portal_link *table = wslx_portal_links_of(p, c->peer);

	for (unsigned i = 0; table && i < PORTAL_MAX_LINKS; i++) {
		if (PORTAL_LOAD_SEQ(&table[i].peer_life) != my_life || !wslx_portal_link_read(&table[i], ret))
			continue;
		if (ret->peer == p->self && ret->peer_link == c->link && ret->peer_life == my_life &&
		    PORTAL_LIFE_STATE(ret->life) >= PORTAL_LINK_OPEN) {
			c->peer_link = &table[i];
			/* Refused, or closed already: nobody is there any more. */
			c->peer_link_life = PORTAL_LIFE(PORTAL_LIFE_GENERATION(ret->life), PORTAL_LINK_OPEN);
			return true;
		}
	}
	return false;
}

static int await_answer(portal_chan *c, int64_t deadline)
{
	portal *p = c->p;
	struct portal_link answer = { 0 };

	for (;;) {
		uint32_t ev = wslx_portal_event(p);
		int r = 0;
		bool found;

		pthread_mutex_lock(&p->lock);
		found = wslx_portal_find_answer(c, &answer);
		/* Of one who has closed already, too: what it has sent stays until our life word changes. */
		if (found && PORTAL_LIFE_STATE(answer.life) != PORTAL_LINK_REFUSED)
			r = wslx_portal_chan_join(c, &answer, 0);
		else if (found)
			r = -ECONNREFUSED;
		pthread_mutex_unlock(&p->lock);
		if (found)
			return r;
		if (!wslx_portal_peer_alive(p, c->peer, c->peer_generation))
			return -EPIPE;
		if (wslx_portal_is_revoked(p))
			return -EACCES;
		r = wslx_portal_await_event(p, ev, deadline);
		if (r < 0)
			return r;
	}
}

/* The blocks and the entry that offers them. */
static int put_offer(portal *p, const struct portal_name *n, uint32_t slot, uint64_t capacity, portal_chan **ret)
{
	struct portal_link l = { .peer = n->owner, .service = slot, .service_generation = n->generation };
	portal_chan *c = NULL;
	int r = wslx_portal_chan_new(p, n->tag, capacity, &c);

	if (r < 0)
		return r == -EINVAL ? -EPROTO : r;
	c->peer = n->owner;
	c->peer_generation = n->owner_generation;
	r = wslx_portal_link_write(p, c, PORTAL_LINK_OFFER, &l);
	if (r < 0) {
		wslx_portal_chan_close(c);
		return r;
	}
	c->offer_life = PORTAL_LOAD(&p->links[r].life);
	*ret = c;
	return 0;
}

static int offer(portal *p, const struct portal_name *n, uint32_t slot, uint64_t capacity, int64_t deadline,
		 portal_chan **ret)
{
	portal_chan *c = NULL;
	int r = wslx_portal_lock_to_write(p, deadline);

	if (r < 0)
		return r;
	r = put_offer(p, n, slot, capacity, &c);
	pthread_mutex_unlock(&p->lock);
	if (r < 0)
		return r;
	wslx_portal_kick(p, c->peer);
	r = await_answer(c, deadline);
	if (r < 0) {
		portal_chan_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

int portal_connect(portal *p, const char *name, uint64_t capacity, int64_t timeout_ns, portal_chan **ret)
{
	int64_t deadline = wslx_portal_deadline(timeout_ns);
	struct portal_object o;
	struct portal_name n;
	uint32_t slot = 0;
	int r = wslx_portal_wait_for_peer(p, name, timeout_ns, &o);

	if (r < 0)
		return r;
	if (capacity && wslx_portal_ring_check(PORTAL_RECORDS, capacity) < 0)
		return -EINVAL;
	r = wslx_portal_find(p, o.name, &n, &slot);
	if (r < 0)
		return r == -ENOENT ? -EPIPE : r;
	if (n.kind != PORTAL_SERVICE || n.owner >= PORTAL_MAX_PARTICIPANTS)
		return -EINVAL;
	/* Its arena may be newer than our table. */
	r = wslx_portal_refresh(p);
	if (r < 0)
		return r;
	return offer(p, &n, slot, capacity ? capacity : DEFAULT_CAPACITY, deadline, ret);
}
