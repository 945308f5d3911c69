/* Participants that take more than their share of a server's time and memory, or of a client's. */
#include "support.h"
#include "visit.h"

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

/* ---- a ring that is never empty ---- */

/* Knows when a participant rings and sleeps, and puts a record into the other end of a ring for each that it takes. */
struct hook {
	struct portal_doorbell_ops ops;
	const struct portal_doorbell_ops *inner;
	void *ctx;
	portal_chan *other;
	uint32_t type;
	unsigned rings, sleeps;
};

static void fill(portal_chan *c, uint32_t type)
{
	struct portal_rpc_header h = { .id = UINT64_MAX };

	while (portal_send(c, type, &h, sizeof(h), 0) == 0)
		;
}

static void hooked_wait(void *ctx, const struct portal_wait *words, size_t n, int64_t timeout_ns)
{
	struct hook *h = ctx;

	h->sleeps++;
	h->inner->wait(h->ctx, words, n, timeout_ns);
}

static void hooked_wake(void *ctx, unsigned to, const uint32_t *word)
{
	struct hook *h = ctx;

	if (word && h->other) {
		h->rings++;
		fill(h->other, h->type);
	} else {
		h->inner->wake(h->ctx, to, word);
	}
}

static void hook_up(struct hook *h, portal *p, portal_chan *other, uint32_t type)
{
	*h = (struct hook) { { hooked_wait, hooked_wake }, p->ops, p->ops_ctx, other, type, 0, 0 };
	p->ops = &h->ops;
	p->ops_ctx = h;
	if (!other)
		return;
	fill(other, type);
	/* As if it waited for room. */
	PORTAL_STORE(&other->tx.tx->sleeping, 1);
}

static void unhook(const struct hook *h, portal *p)
{
	p->ops = h->inner;
	p->ops_ctx = h->ctx;
}

struct caller {
	portal *p;
	portal_rpc *r;
};

static void *connect_caller(void *arg)
{
	struct caller *c = arg;

	return (void *)(intptr_t)portal_rpc_connect(c->p, "door", LONG, &c->r);
}

/* One who calls, and the channel that it has to somebody who serves nothing. */
static void call_connect(struct stage *g, portal_listener *l, portal_rpc **ret, portal_chan **ret_chan)
{
	struct caller c = { .p = g->client };
	pthread_t t;
	void *r;

	assert_int_equal(pthread_create(&t, NULL, connect_caller, &c), 0);
	assert_int_equal(portal_accept(l, LONG, ret_chan), 0);
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, 0);
	*ret = c.r;
}

static uint64_t start(portal_rpc *r, int64_t timeout_ns)
{
	uint64_t id;

	assert_int_equal(portal_rpc_start(r, 1, NULL, timeout_ns, &id), 0);
	return id;
}

static void answers_to_nobody(void **state)
{
	const int64_t timeouts[] = { 0, SHORT };
	struct portal_rpc_header h;
	portal_listener *l;
	struct stage g;
	portal_chan *c;
	portal_rpc *r;
	struct hook k;
	uint64_t id;
	size_t n;
	int status;

	setup(&g);
	assert_int_equal(portal_listen(g.server, "door", NULL, &l), 0);
	call_connect(&g, l, &r, &c);
	hook_up(&k, g.client, c, PORTAL_RPC_RESPONSE);
	for (unsigned i = 0; i < ARRAY_SIZE(timeouts); i++) {
		id = start(r, timeouts[i]);
		assert_int_equal(portal_rpc_finish(r, id, NULL, 0, NULL, &status), -ETIMEDOUT);
	}
	assert_true(k.rings > 0);
	unhook(&k, g.client);
	assert_int_equal(portal_recv(c, NULL, &h, sizeof(h), &n, LONG), 0);
	portal_rpc_free(r);
	portal_chan_free(c);
	portal_listener_free(l);
	teardown(&g);
}

static void wait_until(int64_t t)
{
	while (wslx_portal_now() <= t)
		sched_yield();
}

/* When time is over an answer that has come is an answer, though there are others before it. */
static void an_answer_behind_others(void **state)
{
	const int64_t timeouts[] = { 0, SHORT };
	portal_listener *l;
	struct stage g;
	portal_chan *c;
	portal_rpc *r;
	int status;

	setup(&g);
	assert_int_equal(portal_listen(g.server, "door", NULL, &l), 0);
	call_connect(&g, l, &r, &c);
	for (unsigned i = 0; i < ARRAY_SIZE(timeouts); i++) {
		struct portal_rpc_header h = { .status = -7 };
		uint64_t first = start(r, LONG), wanted;
		int64_t t = wslx_portal_now();

		wanted = start(r, timeouts[i]);
		for (h.id = first; h.id <= wanted; h.id++)
			assert_int_equal(portal_send(c, PORTAL_RPC_RESPONSE, &h, sizeof(h), 0), 0);
		wait_until(t + 2 * timeouts[i]);
		assert_int_equal(portal_rpc_finish(r, wanted, NULL, 0, NULL, &status), 0);
		assert_int_equal(status, -7);
		assert_int_equal(portal_rpc_finish(r, first, NULL, 0, NULL, &status), 0);
	}
	portal_rpc_free(r);
	portal_chan_free(c);
	portal_listener_free(l);
	teardown(&g);
}

/* ---- a server's clients ---- */

struct entrance {
	portal *p;
	uint64_t capacity;
	portal_chan *c;
	int r;
	bool done;
};

static void *enter(void *arg)
{
	struct entrance *e = arg;

	e->r = portal_connect(e->p, "door", e->capacity, LONG, &e->c);
	__atomic_store_n(&e->done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* A client that writes its records itself. */
static int client_of(portal_rpc_server *s, portal *p, uint64_t capacity, portal_chan **ret)
{
	struct entrance e = { .p = p, .capacity = capacity };
	struct portal_rpc_request q;
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, enter, &e), 0);
	while (!__atomic_load_n(&e.done, __ATOMIC_ACQUIRE))
		assert_int_equal(portal_rpc_next(s, &q, SHORT / 10), -ETIMEDOUT);
	pthread_join(t, NULL);
	*ret = e.c;
	return e.r;
}

static void too_large_a_ring(void **state)
{
	portal_rpc_server *s;
	struct stage g;
	portal_chan *c;

	setup(&g);
	assert_int_equal(portal_rpc_serve(g.server, "door", &s), 0);
	assert_int_equal(client_of(s, g.bad, 512 << 10, &c), -ECONNREFUSED);
	assert_int_equal(client_of(s, g.bad, 256 << 10, &c), 0);
	portal_chan_free(c);
	portal_rpc_server_free(s);
	teardown(&g);
}

#define BIG 30000
#define RING 65536

static int ask(portal_chan *c, uint64_t id, size_t n)
{
	static uint8_t buf[BIG];
	struct portal_rpc_header h = { .id = id };

	memcpy(buf, &h, sizeof(h));
	return portal_send(c, PORTAL_RPC_REQUEST, buf, n, 0);
}

static void handed_out(portal_rpc_server *s, uint64_t id, struct portal_rpc_request *ret)
{
	assert_int_equal(portal_rpc_next(s, ret, 0), 0);
	assert_int_equal(ret->id, id);
}

/* As long as the server takes anything from the ring. */
static uint64_t ask_for_much(portal_rpc_server *s, portal_chan *c, uint64_t id, const struct portal_rpc_request *held)
{
	uint64_t before;

	do {
		before = id;
		while (id < 128 && ask(c, id + 1, BIG) == 0)
			id++;
		assert_int_equal(portal_rpc_cancelled(s, held), 0);
	} while (id != before);
	return id;
}

/* What one client has the server keep; and all of it is served in the end. */
static void requests_of_much(void **state)
{
	struct portal_rpc_request q, held;
	portal_rpc_server *s;
	uint64_t asked;
	struct stage g;
	portal_chan *c;
	char buf[64];
	size_t n;

	setup(&g);
	assert_int_equal(portal_rpc_serve(g.server, "door", &s), 0);
	assert_int_equal(client_of(s, g.bad, RING, &c), 0);
	assert_int_equal(ask(c, 1, sizeof(struct portal_rpc_header)), 0);
	handed_out(s, 1, &held);
	asked = ask_for_much(s, c, 1, &held);
	assert_true(asked * BIG > 1 << 20);
	assert_true(asked * BIG < (1 << 20) + 2 * RING);
	for (uint64_t id = 2; id <= 128; id++) {
		handed_out(s, id, &q);
		assert_int_equal(portal_rpc_reply(s, &q, 0, NULL), 0);
		assert_int_equal(portal_recv(c, NULL, buf, sizeof(buf), &n, 0), 0);
		if (asked < 128 && ask(c, asked + 1, BIG) == 0)
			asked++;
	}
	assert_int_equal(portal_rpc_next(s, &q, 0), -EAGAIN);
	assert_int_equal(ask(c, 129, BIG), 0);
	handed_out(s, 129, &q);
	portal_chan_free(c);
	portal_rpc_server_free(s);
	teardown(&g);
}

/* One who reads no answers, and goes on asking until nothing more is taken. */
static uint64_t ask_and_read_nothing(portal_rpc_server *s, portal_chan *c)
{
	static uint8_t answer[8192];
	const struct portal_bytes out = { .data = answer, .size = sizeof(answer) };
	struct portal_rpc_request q, held;
	uint64_t id = 1;

	assert_int_equal(ask(c, 1, sizeof(struct portal_rpc_header)), 0);
	handed_out(s, 1, &held);
	while (ask(c, id + 1, sizeof(struct portal_rpc_header)) == 0 && portal_rpc_next(s, &q, 0) == 0) {
		assert_int_equal(q.id, ++id);
		assert_int_equal(portal_rpc_reply(s, &q, 0, &out), 0);
	}
	/* That one is in the queue, and there it stays. */
	for (uint64_t before = 0; before != id;) {
		before = id;
		while (ask(c, id + 2, BIG) == 0)
			id++;
		assert_int_equal(portal_rpc_cancelled(s, &held), 0);
	}
	return id + 1;
}

/* A ring that nobody reads for now is no reason not to sleep, nor is it forgotten. */
static void a_ring_that_stays_full(void **state)
{
	struct portal_rpc_request q;
	portal_rpc_server *s;
	uint64_t asked, last = 0;
	struct stage g;
	portal_chan *c;
	struct hook k;
	static uint8_t buf[16384];
	size_t n;

	setup(&g);
	assert_int_equal(portal_rpc_serve(g.server, "door", &s), 0);
	assert_int_equal(client_of(s, g.bad, RING, &c), 0);
	asked = ask_and_read_nothing(s, c);
	hook_up(&k, g.server, NULL, 0);
	assert_int_equal(portal_rpc_next(s, &q, SHORT), -ETIMEDOUT);
	unhook(&k, g.server);
	assert_true(k.sleeps > 0);
	while (last < asked) {
		while (portal_recv(c, NULL, buf, sizeof(buf), &n, 0) == 0)
			;
		if (portal_rpc_next(s, &q, 0) < 0)
			continue;
		assert_true(q.id > last);
		last = q.id;
		assert_int_equal(portal_rpc_reply(s, &q, 0, NULL), 0);
	}
	portal_chan_free(c);
	portal_rpc_server_free(s);
	teardown(&g);
}

/* Cancels without end. */
static void a_ring_that_is_filled_again(void **state)
{
	const unsigned most = RING / (sizeof(struct portal_record) + sizeof(struct portal_rpc_header)) + 1;
	struct portal_rpc_request q, held;
	portal_rpc_server *s;
	portal_chan *c, *honest;
	struct stage g;
	struct hook k;

	setup(&g);
	assert_int_equal(portal_rpc_serve(g.server, "door", &s), 0);
	assert_int_equal(client_of(s, g.bad, RING, &c), 0);
	assert_int_equal(client_of(s, g.client, RING, &honest), 0);
	assert_int_equal(ask(c, 1, sizeof(struct portal_rpc_header)), 0);
	handed_out(s, 1, &held);
	hook_up(&k, g.server, c, PORTAL_RPC_CANCEL);
	assert_int_equal(portal_rpc_cancelled(s, &held), 0);
	assert_in_range(k.rings, 1, most);
	assert_int_equal(portal_rpc_next(s, &q, 0), -EAGAIN);
	assert_int_equal(portal_rpc_next(s, &q, 1), -ETIMEDOUT);
	assert_int_equal(ask(honest, 1, sizeof(struct portal_rpc_header)), 0);
	handed_out(s, 1, &q);
	assert_int_equal(q.peer, g.client->self);
	unhook(&k, g.server);
	portal_chan_free(c);
	portal_chan_free(honest);
	portal_rpc_server_free(s);
	teardown(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_counter_that_moves),
		cmocka_unit_test(two_at_the_door),
		cmocka_unit_test(no_entry_for_an_answer),
		cmocka_unit_test(closed_at_one_end),
		cmocka_unit_test(an_offer_is_answered_once),
		cmocka_unit_test(answers_to_nobody),
		cmocka_unit_test(an_answer_behind_others),
		cmocka_unit_test(too_large_a_ring),
		cmocka_unit_test(requests_of_much),
		cmocka_unit_test(a_ring_that_stays_full),
		cmocka_unit_test(a_ring_that_is_filled_again),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
