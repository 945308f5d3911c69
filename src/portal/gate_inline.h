/*
 * What a channel does at the gate for every record, and asks about its peer;
 * see gate.c and ring_inline.h.
 */
#ifndef WSLX_PORTAL_GATE_INLINE_H
#define WSLX_PORTAL_GATE_INLINE_H

#include <errno.h>

#include "portal/atomic.h"
#include "portal/internal.h"

static inline uint32_t wslx_portal_event(const portal *p)
{
	return PORTAL_LOAD_ACQ(&p->parts[p->self].event);
}

/* Is that participant, in that life, still there? */
static inline bool wslx_portal_peer_alive(const portal *p, unsigned peer, uint64_t generation)
{
	return PORTAL_LOAD_ACQ(&p->parts[peer].life) == PORTAL_LIFE(generation, PORTAL_PART_LIVE);
}

/* 0, -EPIPE. */
WSLX_MUST_CHECK static inline int wslx_portal_chan_alive(const portal_chan *c)
{
	if (!wslx_portal_peer_alive(c->p, c->peer, c->peer_generation))
		return -EPIPE;
	return PORTAL_LOAD_ACQ(&c->peer_link->life) == c->peer_link_life ? 0 : -EPIPE;
}

static inline bool wslx_portal_is_to_rest(const portal *p)
{
	return PORTAL_LOAD_ACQ(&p->hdr->quiesce) & 1;
}

/* wslx_portal_gate_enter() without waiting. */
static inline bool wslx_portal_gate_try(portal *p, struct wslx_portal_gate *g)
{
	if (PORTAL_LOAD(&g->busy))
		return true;
	if (__atomic_load_n(&p->revoked, __ATOMIC_RELAXED))
		return false;
	if (p->no_membarrier)
		PORTAL_STORE_FENCE(&g->busy, 1);
	PORTAL_STORE(&g->busy, 1);
	PORTAL_LIGHT_FENCE();
	if (!(PORTAL_LOAD_ACQ(&p->hdr->quiesce) & 1))
		return true;
	PORTAL_STORE_REL(&g->busy, 0);
	return false;
}

/* As the host sees it.  Nobody who has not attached, or has gone, is in the middle of anything; and whoever attaches
 * looks at the header's word afterwards, see wslx_portal_gate_open().  id: that word, stored before with SEQ. */
static inline bool wslx_portal_gate_at_rest(const struct portal_control *ctl, uint32_t id)
{
	return PORTAL_LOAD_SEQ(&ctl->state) != PORTAL_CTL_ATTACHED || PORTAL_LOAD_ACQ(&ctl->quiesce_ack) == id;
}

/* The other half of wslx_portal_gate_try() and _enter(). */
static inline void wslx_portal_gate_leave(portal *p, struct wslx_portal_gate *g)
{
	if (p->no_membarrier)
		PORTAL_STORE_FENCE(&g->busy, 0);
	PORTAL_STORE_REL(&g->busy, 0);
	PORTAL_LIGHT_FENCE();
	if (PORTAL_LOAD_ACQ(&p->hdr->quiesce) & 1)
		(void)wslx_portal_gate_rest(p);
}

#endif
