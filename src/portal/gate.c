/*
 * Quiesce, as a participant sees it.
 *
 * Theory of operation.  The host makes header.quiesce odd.  A participant is at
 * rest when none of its threads is between the first byte of a publication and
 * the index that shows it, and none will begin one before the word is even
 * again.  Each channel has a busy flag that only its own thread writes: set,
 * look at quiesce, publish, clear, look again.  Whoever finds the word odd
 * clears his flag and tries to acknowledge: if no flag at all is set, the word
 * goes into control.quiesce_ack.  The last one to clear his finds all clear.
 *
 * "Set mine, then look at quiesce" against "look at all flags": the first is on
 * the fast path, so its barrier is only the compiler's; the second is rare and
 * runs membarrier(2), which puts a full barrier into every thread of this
 * process.  Either the flag is seen, or the thread sees quiesce odd.  Where that
 * call is forbidden the barrier is on the fast path.
 *
 * Changes under portal.lock need no flag: acknowledging takes the lock too.
 *
 * Whoever has not attached is at rest for the host, without a word of his: a
 * machine that has a grant and no program that uses it.  "Store ATTACHED, then
 * look at quiesce" against "store quiesce, then look who is attached": both with
 * full barriers.  A guest that says that it is not attached and publishes all
 * the same could as well acknowledge and publish.
 *
 * Threads: any.  portal.lock guards the list.
 */
#include <errno.h>

#include "portal/atomic.h"
#include "portal/fence.h"
#include "portal/gate_inline.h"
#include "portal/internal.h"

void wslx_portal_gate_add(portal *p, struct wslx_portal_gate *g)
{
	g->busy = 0;
	g->next = p->gates;
	p->gates = g;
}

void wslx_portal_gate_remove(portal *p, struct wslx_portal_gate *g)
{
	for (struct wslx_portal_gate **at = &p->gates; *at; at = &(*at)->next) {
		if (*at == g) {
			*at = g->next;
			return;
		}
	}
}

bool wslx_portal_gate_rest_locked(portal *p)
{
	uint32_t q = PORTAL_LOAD_ACQ(&p->hdr->quiesce);

	if (!(q & 1))
		return false;
	if (PORTAL_LOAD(&p->ctl->quiesce_ack) == q)
		return true;
	wslx_portal_fence_process();
	for (const struct wslx_portal_gate *g = p->gates; g; g = g->next)
		if (PORTAL_LOAD_ACQ(&g->busy))
			return true;
	PORTAL_STORE_REL(&p->ctl->quiesce_ack, q);
	wslx_portal_kick(p, 0);
	return true;
}

bool wslx_portal_gate_rest(portal *p)
{
	bool r;

	if (!(PORTAL_LOAD_ACQ(&p->hdr->quiesce) & 1))
		return false;
	pthread_mutex_lock(&p->lock);
	r = wslx_portal_gate_rest_locked(p);
	pthread_mutex_unlock(&p->lock);
	return r;
}

void wslx_portal_gate_open(portal *p)
{
	PORTAL_STORE_FENCE(&p->ctl->state, PORTAL_CTL_ATTACHED);
	(void)wslx_portal_gate_rest(p);
}

/* Until the word is even again, or there is nothing more to wait for, as this one is revoked: it does not write where
 * others look. */
int wslx_portal_park(portal *p, int64_t deadline)
{
	for (;;) {
		uint32_t ev = wslx_portal_event(p);
		int r;

		if (!wslx_portal_gate_rest(p) || wslx_portal_is_revoked(p))
			return 0;
		r = wslx_portal_await_event(p, ev, deadline);
		if (r < 0)
			return r;
	}
}

int wslx_portal_gate_enter(portal *p, struct wslx_portal_gate *g, int64_t deadline)
{
	for (;;) {
		int r;

		if (wslx_portal_gate_try(p, g))
			return 0;
		if (__atomic_load_n(&p->revoked, __ATOMIC_RELAXED))
			return -EACCES;
		r = wslx_portal_park(p, deadline);
		if (r < 0)
			return r;
	}
}

int wslx_portal_lock_to_write(portal *p, int64_t deadline)
{
	for (;;) {
		int r;

		pthread_mutex_lock(&p->lock);
		if (__atomic_load_n(&p->revoked, __ATOMIC_RELAXED)) {
			pthread_mutex_unlock(&p->lock);
			return -EACCES;
		}
		if (!wslx_portal_gate_rest_locked(p))
			return 0;
		pthread_mutex_unlock(&p->lock);
		r = wslx_portal_park(p, deadline);
		if (r < 0)
			return r;
	}
}

int portal_poll(portal *p, int64_t timeout_ns)
{
	int64_t deadline = wslx_portal_deadline(timeout_ns);
	uint32_t ev = wslx_portal_event(p);
	int r = wslx_portal_refresh(p);

	if (r < 0)
		return r;
	if (wslx_portal_gate_rest(p) && !wslx_portal_is_revoked(p))
		return wslx_portal_park(p, deadline);
	return timeout_ns ? wslx_portal_await_event(p, ev, deadline) : 0;
}
