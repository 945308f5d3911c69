#include "visit.h"

#include <sched.h>

#include "portal/atomic.h"
#include "portal/internal.h"

static void *visit(void *arg)
{
	struct visitor *v = arg;

	return (void *)(intptr_t)portal_connect(v->p, v->name, 0, LONG, &v->c);
}

uint32_t event_of(const portal *p)
{
	return PORTAL_LOAD_ACQ(&p->parts[p->self].event);
}

void await_event_after(const portal *p, uint32_t ev)
{
	while (event_of(p) == ev)
		sched_yield();
}

void knock_at(struct visitor *v, portal *p, const portal *server, const char *name)
{
	uint32_t ev = event_of(server), seq = PORTAL_LOAD_ACQ(&p->ctl->links_seq);

	*v = (struct visitor) { .p = p, .name = name };
	assert_int_equal(pthread_create(&v->t, NULL, visit, v), 0);
	while (PORTAL_LOAD_ACQ(&p->ctl->links_seq) == seq)
		sched_yield();
	await_event_after(server, ev);
}

void knock(struct visitor *v, portal *p, const portal *server)
{
	knock_at(v, p, server, "door");
}

int answer_to(struct visitor *v)
{
	void *r;

	pthread_join(v->t, &r);
	return (int)(intptr_t)r;
}

void comes_in(struct visitor *v)
{
	assert_int_equal(answer_to(v), 0);
}

void connect_one(struct visitor *v, portal *p, const portal *server, portal_listener *l, portal_chan **ret)
{
	knock_at(v, p, server, l->name);
	assert_int_equal(portal_accept(l, LONG, ret), 0);
	comes_in(v);
}

void leave(struct visitor *v, const portal *server)
{
	uint32_t ev = event_of(server);

	portal_chan_free(v->c);
	v->c = NULL;
	await_event_after(server, ev);
}
