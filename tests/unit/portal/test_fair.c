/* Participants that take more than their share of a server's time and memory, or of a client's. */
#include "support.h"

#include <sched.h>
#include <stdbool.h>

#include "base/macros.h"
#include "portal/atomic.h"
#include "portal/internal.h"

#define SHORT (SEC / 50)
#define EACH 32 /* channels from one participant to another */

struct stage {
	struct broker b;
	portal *server, *client, *bad;
};

static void setup(struct stage *g)
{
	*g = (struct stage) { 0 };
	broker_start(&g->b, NULL);
	g->server = broker_attach(&g->b, "server");
	g->client = broker_attach(&g->b, "client");
	g->bad = broker_attach(&g->b, "bad");
}

static void teardown(struct stage *g)
{
	portal_detach(g->server);
	portal_detach(g->client);
	portal_detach(g->bad);
	broker_end(&g->b);
}

/* Somebody who connects while the one who listens is in this thread. */
struct visitor {
	portal *p;
	portal_chan *c;
	pthread_t t;
};

static void *visit(void *arg)
{
	struct visitor *v = arg;

	return (void *)(intptr_t)portal_connect(v->p, "door", 0, LONG, &v->c);
}

static uint32_t event_of(const portal *p)
{
	return PORTAL_LOAD_ACQ(&p->parts[p->self].event);
}

static void await_event_after(const portal *p, uint32_t ev)
{
	while (event_of(p) == ev)
		sched_yield();
}

/* Until its offer is there and the kick has arrived. */
static void knock(struct visitor *v, portal *p, const portal *server)
{
	uint32_t ev = event_of(server), seq = PORTAL_LOAD_ACQ(&p->ctl->links_seq);

	*v = (struct visitor) { .p = p };
	assert_int_equal(pthread_create(&v->t, NULL, visit, v), 0);
	while (PORTAL_LOAD_ACQ(&p->ctl->links_seq) == seq)
		sched_yield();
	await_event_after(server, ev);
}

static void comes_in(struct visitor *v)
{
	void *r;

	pthread_join(v->t, &r);
	assert_int_equal((intptr_t)r, 0);
}

static void connect_one(struct visitor *v, portal *p, portal *server, portal_listener *l, portal_chan **ret)
{
	knock(v, p, server);
	assert_int_equal(portal_accept(l, LONG, ret), 0);
	comes_in(v);
}

/* ---- the fan-in ---- */

static void count_up(portal *p)
{
	PORTAL_STORE_SEQ(&p->ctl->links_seq, PORTAL_LOAD(&p->ctl->links_seq) + 1);
}

static void count_up_and_kick(portal *p, portal *server)
{
	uint32_t ev = event_of(server);

	count_up(p);
	wslx_portal_kick(p, server->self);
	await_event_after(server, ev);
}

static void at_the_door(portal_fanin *f, portal_listener *l)
{
	portal_chan *c = (portal_chan *)f;

	assert_int_equal(portal_fanin_wait(f, l, 0, &c), 0);
	assert_null(c);
}

static void in_the_ring(portal_fanin *f, portal_listener *l, const portal_chan *wanted)
{
	portal_chan *c = NULL;

	assert_int_equal(portal_fanin_wait(f, l, 0, &c), 0);
	assert_ptr_equal(c, wanted);
}

static void nobody(portal_fanin *f, portal_listener *l)
{
	portal_chan *c;

	assert_int_equal(portal_fanin_wait(f, l, 0, &c), -EAGAIN);
}

/* One who only counts, and is nobody's client. */
static void a_counter_that_moves(void **state)
{
	portal_chan *ours, *none;
	struct visitor v;
	portal_listener *l;
	portal_fanin *f;
	struct stage g;

	setup(&g);
	assert_int_equal(portal_listen(g.server, "door", NULL, &l), 0);
	assert_int_equal(portal_fanin_new(g.server, &f), 0);
	connect_one(&v, g.client, g.server, l, &ours);
	assert_int_equal(portal_fanin_add(f, ours), 0);
	assert_int_equal(portal_send(v.c, 1, "x", 1, 0), 0);
	for (int i = 0; i < 3; i++) {
		count_up_and_kick(g.bad, g.server);
		at_the_door(f, l);
		assert_int_equal(portal_accept(l, 0, &none), -EAGAIN);
		/* Before anything else, though there is more news already. */
		count_up_and_kick(g.bad, g.server);
		in_the_ring(f, l, ours);
	}
	at_the_door(f, l);
	assert_int_equal(portal_accept(l, 0, &none), -EAGAIN);
	/* Without a kick it is no news at all. */
	for (int i = 0; i < 3; i++) {
		count_up(g.bad);
		in_the_ring(f, l, ours);
	}
	assert_int_equal(portal_recv(ours, NULL, &(char) { 0 }, 1, &(size_t) { 0 }, 0), 0);
	count_up(g.bad);
	nobody(f, l);
	portal_fanin_free(f);
	portal_chan_free(ours);
	portal_chan_free(v.c);
	portal_listener_free(l);
	teardown(&g);
}

/* Who lets in one at a time hears of each, however busy the channels are. */
static void two_at_the_door(void **state)
{
	struct visitor v[3];
	portal_chan *ours[3];
	portal_listener *l;
	portal_fanin *f;
	struct stage g;

	setup(&g);
	assert_int_equal(portal_listen(g.server, "door", NULL, &l), 0);
	assert_int_equal(portal_fanin_new(g.server, &f), 0);
	connect_one(&v[0], g.client, g.server, l, &ours[0]);
	assert_int_equal(portal_fanin_add(f, ours[0]), 0);
	assert_int_equal(portal_send(v[0].c, 1, "x", 1, 0), 0);
	knock(&v[1], g.client, g.server);
	knock(&v[2], g.client, g.server);
	for (int i = 1; i < 3; i++) {
		at_the_door(f, l);
		assert_int_equal(portal_accept(l, 0, &ours[i]), 0);
		comes_in(&v[i]);
		in_the_ring(f, l, ours[0]);
	}
	for (int i = 0; i < 3; i++) {
		portal_chan_free(v[i].c);
		portal_chan_free(ours[i]);
	}
	portal_fanin_free(f);
	portal_listener_free(l);
	teardown(&g);
}

/* Neither an answer nor an end of asking; and the answer comes when there is an entry for it. */
static void no_entry_for_an_answer(void **state)
{
	bool used[PORTAL_MAX_LINKS];
	struct visitor v[2];
	portal_chan *ours[2];
	portal_listener *l;
	portal_fanin *f;
	struct stage g;
	uint32_t ev;

	setup(&g);
	assert_int_equal(portal_listen(g.server, "door", NULL, &l), 0);
	assert_int_equal(portal_fanin_new(g.server, &f), 0);
	connect_one(&v[0], g.client, g.server, l, &ours[0]);
	ev = event_of(g.server);
	portal_chan_free(v[0].c);
	await_event_after(g.server, ev);
	memcpy(used, g.server->link_used, sizeof(used));
	memset(g.server->link_used, true, sizeof(used));
	knock(&v[1], g.client, g.server);
	at_the_door(f, l);
	assert_int_equal(portal_accept(l, 0, &ours[1]), -EAGAIN);
	nobody(f, l);
	ev = event_of(g.server);
	portal_chan_free(ours[0]);
	await_event_after(g.server, ev);
	at_the_door(f, l);
	assert_int_equal(portal_accept(l, 0, &ours[1]), 0);
	comes_in(&v[1]);
	used[ours[1]->link] = true;
	memcpy(g.server->link_used, used, sizeof(used));
	portal_chan_free(v[1].c);
	portal_chan_free(ours[1]);
	portal_fanin_free(f);
	portal_listener_free(l);
	teardown(&g);
}

/* ---- channels that only the server has closed ---- */

/* They count, or a client with as many offers as there can be would have all of the server's memory. */
static void closed_at_one_end(void **state)
{
	struct visitor v[EACH + 1], other;
	portal_chan *c, *none;
	portal_listener *l;
	struct stage g;
	uint32_t ev;

	setup(&g);
	assert_int_equal(portal_listen(g.server, "door", NULL, &l), 0);
	for (int i = 0; i < EACH; i++) {
		connect_one(&v[i], g.client, g.server, l, &c);
		portal_chan_free(c);
	}
	knock(&v[EACH], g.client, g.server);
	assert_int_equal(portal_accept(l, 0, &none), -EAGAIN);
	/* Another is let in. */
	connect_one(&other, g.bad, g.server, l, &c);
	portal_chan_free(other.c);
	portal_chan_free(c);
	/* The client says that it is done, too. */
	ev = event_of(g.server);
	portal_chan_free(v[0].c);
	await_event_after(g.server, ev);
	assert_int_equal(portal_accept(l, 0, &c), 0);
	comes_in(&v[EACH]);
	portal_chan_free(c);
	for (int i = 1; i <= EACH; i++)
		portal_chan_free(v[i].c);
	portal_listener_free(l);
	teardown(&g);
}

/* Or what was in its ring would come once more. */
static void an_offer_is_answered_once(void **state)
{
	portal_chan *c, *again;
	portal_listener *l;
	struct visitor v;
	struct stage g;
	char x;
	size_t n;

	setup(&g);
	assert_int_equal(portal_listen(g.server, "door", NULL, &l), 0);
	connect_one(&v, g.client, g.server, l, &c);
	assert_int_equal(portal_send(v.c, 1, "x", 1, 0), 0);
	assert_int_equal(portal_recv(c, NULL, &x, 1, &n, 0), 0);
	portal_chan_free(c);
	count_up_and_kick(g.client, g.server);
	assert_int_equal(portal_accept(l, 0, &again), -EAGAIN);
	portal_chan_free(v.c);
	connect_one(&v, g.client, g.server, l, &c);
	portal_chan_free(v.c);
	portal_chan_free(c);
	portal_listener_free(l);
	teardown(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_counter_that_moves),      cmocka_unit_test(two_at_the_door),
		cmocka_unit_test(no_entry_for_an_answer),    cmocka_unit_test(closed_at_one_end),
		cmocka_unit_test(an_offer_is_answered_once),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
