/* Who waits at a door is let in, or refused, as soon as there is a place; and who was let in has what was sent to it.
 */
#include "support.h"
#include "visit.h"

#include <sched.h>
#include <stdbool.h>

#include "portal/atomic.h"
#include "portal/internal.h"

#define EACH 32 /* channels from one participant to another */

struct stage {
	struct broker b;
	portal *server, *client;
	portal_listener *l, *side; /* "door", "side-door" */
	struct visitor v[EACH + 1];
	portal_chan *ours[EACH + 1];
};

static void setup(struct stage *g)
{
	*g = (struct stage) { 0 };
	broker_start(&g->b, NULL);
	g->server = broker_attach(&g->b, "server");
	g->client = broker_attach(&g->b, "client");
	assert_int_equal(portal_listen(g->server, "door", NULL, &g->l), 0);
	assert_int_equal(portal_listen(g->server, "side-door", NULL, &g->side), 0);
}

static void teardown(struct stage *g)
{
	for (unsigned i = 0; i <= EACH; i++) {
		portal_chan_free(g->v[i].c);
		portal_chan_free(g->ours[i]);
	}
	portal_listener_free(g->l);
	portal_listener_free(g->side);
	portal_detach(g->server);
	portal_detach(g->client);
	broker_end(&g->b);
}

/* ---- the 33rd ---- */

/* So many at the first door, the others at the second, where one more waits.  The first channel is closed at the
 * client's end only. */
static void fill_up(struct stage *g, unsigned at_first)
{
	portal_chan *none;

	for (unsigned i = 0; i < EACH; i++)
		connect_one(&g->v[i], g->client, g->server, i < at_first ? g->l : g->side, &g->ours[i]);
	leave(&g->v[0], g->server);
	knock_at(&g->v[EACH], g->client, g->server, "side-door");
	assert_int_equal(portal_accept(g->side, 0, &none), -EAGAIN);
}

static void free_first(struct stage *g)
{
	portal_chan_free(g->ours[0]);
	g->ours[0] = NULL;
}

/* They count for all listeners together: so a place at one is a place at each. */
static void a_place_at_another_door(void **state)
{
	portal_chan *up, *none;
	portal_fanin *f;
	struct stage g;
	uint32_t ev;

	setup(&g);
	fill_up(&g, 20);
	assert_int_equal(portal_accept(g.l, 0, &none), -EAGAIN);
	assert_int_equal(portal_fanin_new(g.server, &f), 0);
	assert_int_equal(portal_fanin_wait(f, g.l, 0, &up), -EAGAIN);
	assert_int_equal(portal_fanin_wait(f, g.side, 0, &up), -EAGAIN);
	ev = event_of(g.server);
	free_first(&g);
	await_event_after(g.server, ev);
	assert_int_equal(portal_fanin_wait(f, g.side, 0, &up), 0);
	assert_null(up);
	assert_int_equal(portal_accept(g.side, 0, &g.ours[EACH]), 0);
	comes_in(&g.v[EACH]);
	/* It is news once, for whoever has looked in vain too. */
	assert_int_equal(portal_accept(g.l, 0, &none), -EAGAIN);
	assert_int_equal(portal_accept(g.side, 0, &none), -EAGAIN);
	assert_int_equal(portal_fanin_wait(f, g.side, 0, &up), -EAGAIN);
	portal_fanin_free(f);
	teardown(&g);
}

/* Ends the rest when the server says that it has seen a new epoch: after it could have closed what was freed. */
struct waker {
	struct portal_doorbell_ops ops;
	const struct portal_doorbell_ops *inner;
	void *ctx;
	portal_host *h;
	bool woken;
};

static void plain_wait(void *ctx, const struct portal_wait *words, size_t n, int64_t timeout_ns)
{
	struct waker *k = ctx;

	k->inner->wait(k->ctx, words, n, timeout_ns);
}

static void wake_host(void *ctx, unsigned to, const uint32_t *word)
{
	struct waker *k = ctx;

	if (to == 0 && !k->woken) {
		k->woken = true;
		assert_int_equal(portal_host_resume(k->h), 0);
	}
	k->inner->wake(k->ctx, to, word);
}

static void a_place_when_the_rest_is_over(void **state)
{
	struct portal_quiesce q;
	struct waker k;
	struct stage g;
	portal *p;

	setup(&g);
	fill_up(&g, 0);
	(void)!portal_host_quiesce(g.b.h, 0, &q);
	free_first(&g);
	assert_non_null(g.server->closing);
	/* Something to take note of. */
	assert_int_equal(portal_host_object(g.b.h, "thing", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	p = g.server;
	k = (struct waker) { { plain_wait, wake_host }, p->ops, p->ops_ctx, g.b.h, false };
	p->ops = &k.ops;
	p->ops_ctx = &k;
	assert_int_equal(portal_accept(g.side, 0, &g.ours[EACH]), -EAGAIN);
	p->ops = k.inner;
	p->ops_ctx = k.ctx;
	assert_true(k.woken);
	assert_non_null(g.server->closing);
	assert_int_equal(portal_accept(g.side, 0, &g.ours[EACH]), 0);
	comes_in(&g.v[EACH]);
	teardown(&g);
}

/* ---- a link table with no room but that of entries that nobody needs ---- */

struct table {
	portal *p;
	bool used[PORTAL_MAX_LINKS];
};

static void take_the_rest(struct table *t, portal *p)
{
	t->p = p;
	memcpy(t->used, p->link_used, sizeof(t->used));
	memset(p->link_used, true, sizeof(t->used));
}

/* What was in use before may be free by now. */
static void give_the_rest_back(const struct table *t)
{
	for (unsigned i = 0; i < PORTAL_MAX_LINKS; i++)
		t->p->link_used[i] &= t->used[i];
}

static void refused(struct stage *g, struct visitor *v, portal *p)
{
	portal_chan *none;

	knock(v, p, g->server);
	assert_int_equal(portal_accept(g->l, 0, &none), -EAGAIN);
	assert_int_equal(answer_to(v), -ECONNREFUSED);
}

static void the_entry_of_a_channel_closed_at_both_ends(void **state)
{
	struct table t;
	struct stage g;

	setup(&g);
	for (unsigned i = 0; i < 2; i++)
		connect_one(&g.v[i], g.client, g.server, g.l, &g.ours[i]);
	free_first(&g);
	leave(&g.v[0], g.server);
	g.l->params.max = 1;
	take_the_rest(&t, g.server);
	refused(&g, &g.v[2], g.client);
	give_the_rest_back(&t);
	teardown(&g);
}

static void the_entry_that_refuses_a_dead_one(void **state)
{
	struct visitor v;
	struct table t;
	struct stage g;
	unsigned number;
	portal *dead;

	setup(&g);
	connect_one(&g.v[0], g.client, g.server, g.l, &g.ours[0]);
	g.l->params.max = 1;
	dead = broker_attach(&g.b, "dead");
	refused(&g, &v, dead);
	number = dead->self;
	portal_detach(dead);
	while (PORTAL_LIFE_STATE(PORTAL_LOAD_ACQ(&g.server->parts[number].life)) == PORTAL_PART_LIVE)
		sched_yield();
	take_the_rest(&t, g.server);
	refused(&g, &g.v[1], g.client);
	give_the_rest_back(&t);
	teardown(&g);
}

/* ---- a server that has gone before its client looks ---- */

/* A client that does not wake until it may. */
struct sleeper {
	struct portal_doorbell_ops ops;
	const struct portal_doorbell_ops *inner;
	void *ctx;
	portal *p;
	uint32_t seq;
	bool asleep, may;
};

static void sleep_long(void *ctx, const struct portal_wait *words, size_t n, int64_t timeout_ns)
{
	struct sleeper *s = ctx;

	if (PORTAL_LOAD_ACQ(&s->p->ctl->links_seq) == s->seq) {
		s->inner->wait(s->ctx, words, n, timeout_ns);
		return;
	}
	__atomic_store_n(&s->asleep, true, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&s->may, __ATOMIC_ACQUIRE))
		sched_yield();
}

static void plain_wake(void *ctx, unsigned to, const uint32_t *word)
{
	struct sleeper *s = ctx;

	s->inner->wake(s->ctx, to, word);
}

static void what_was_sent_before_the_client_woke(void **state)
{
	struct sleeper s;
	struct stage g;
	portal_chan *c;
	char buf[8];
	size_t n;

	setup(&g);
	s = (struct sleeper) { { sleep_long, plain_wake },
			       g.client->ops,
			       g.client->ops_ctx,
			       g.client,
			       PORTAL_LOAD(&g.client->ctl->links_seq),
			       false,
			       false };
	g.client->ops = &s.ops;
	g.client->ops_ctx = &s;
	knock(&g.v[0], g.client, g.server);
	while (!__atomic_load_n(&s.asleep, __ATOMIC_ACQUIRE))
		sched_yield();
	assert_int_equal(portal_accept(g.l, 0, &c), 0);
	assert_int_equal(portal_send(c, 1, "parting", 8, 0), 0);
	portal_chan_free(c);
	__atomic_store_n(&s.may, true, __ATOMIC_RELEASE);
	comes_in(&g.v[0]);
	g.client->ops = s.inner;
	g.client->ops_ctx = s.ctx;
	assert_int_equal(portal_recv(g.v[0].c, NULL, buf, sizeof(buf), &n, LONG), 0);
	assert_string_equal(buf, "parting");
	assert_int_equal(portal_recv(g.v[0].c, NULL, buf, sizeof(buf), &n, LONG), -EPIPE);
	assert_int_equal(portal_send(g.v[0].c, 1, "x", 1, 0), -EPIPE);
	/* Memory and entries come back at either end. */
	leave(&g.v[0], g.server);
	connect_one(&g.v[1], g.client, g.server, g.l, &g.ours[1]);
	assert_null(g.server->zombies);
	assert_null(g.client->zombies);
	teardown(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_place_at_another_door),
		cmocka_unit_test(a_place_when_the_rest_is_over),
		cmocka_unit_test(the_entry_of_a_channel_closed_at_both_ends),
		cmocka_unit_test(the_entry_that_refuses_a_dead_one),
		cmocka_unit_test(what_was_sent_before_the_client_woke),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
