/* Calls that nobody waits for any more: who serves does not see them, and who gave them up may make others. */
#include "support.h"

#include <sched.h>
#include <stdbool.h>

#include "portal/atomic.h"
#include "portal/internal.h"

#define SHORT (SEC / 50)
#define OPEN 128 /* calls under way, of one client */

struct pair {
	struct broker b;
	portal *client, *server;
	portal_rpc_server *s;
	portal_rpc *a, *other;
	portal_chan *raw; /* a client that writes its records itself */
	bool connected;
};

static void *connect_all(void *arg)
{
	struct pair *g = arg;
	int r = portal_rpc_connect(g->client, "calls", LONG, &g->other);

	if (r == 0)
		r = portal_connect(g->client, "calls", 0, LONG, &g->raw);
	if (r == 0)
		r = portal_rpc_connect(g->client, "calls", LONG, &g->a);
	__atomic_store_n(&g->connected, true, __ATOMIC_RELEASE);
	return (void *)(intptr_t)r;
}

static void setup(struct pair *g)
{
	struct portal_rpc_request q;
	pthread_t t;
	void *r;

	*g = (struct pair) { 0 };
	broker_start(&g->b, NULL);
	g->client = broker_attach(&g->b, "client");
	g->server = broker_attach(&g->b, "server");
	assert_int_equal(portal_rpc_serve(g->server, "calls", &g->s), 0);
	assert_int_equal(pthread_create(&t, NULL, connect_all, g), 0);
	while (!__atomic_load_n(&g->connected, __ATOMIC_ACQUIRE))
		assert_int_equal(portal_rpc_next(g->s, &q, SHORT / 10), -ETIMEDOUT);
	pthread_join(t, &r);
	assert_null(r);
}

static void teardown(struct pair *g)
{
	portal_rpc_free(g->a);
	portal_rpc_free(g->other);
	portal_chan_free(g->raw);
	portal_rpc_server_free(g->s);
	portal_detach(g->client);
	portal_detach(g->server);
	broker_end(&g->b);
}

static uint64_t start(portal_rpc *r, uint32_t method, int64_t timeout_ns)
{
	uint64_t id;

	assert_int_equal(portal_rpc_start(r, method, NULL, timeout_ns, &id), 0);
	return id;
}

static void give_up(portal_rpc *r, uint64_t id)
{
	int status;

	assert_int_equal(portal_rpc_cancel(r, id), 0);
	assert_int_equal(portal_rpc_finish(r, id, NULL, 0, NULL, &status), -ECANCELED);
}

static void comes(struct pair *g, uint32_t method, struct portal_rpc_request *ret)
{
	assert_int_equal(portal_rpc_next(g->s, ret, 0), 0);
	assert_int_equal(ret->method, method);
}

static void nothing_comes(struct pair *g)
{
	struct portal_rpc_request q;

	assert_int_equal(portal_rpc_next(g->s, &q, 0), -EAGAIN);
}

/* It can still call, and is answered. */
static void still_a_client(struct pair *g, portal_rpc *r)
{
	struct portal_rpc_request q;
	uint64_t id = start(r, 77, LONG);
	int status;

	comes(g, 77, &q);
	assert_int_equal(portal_rpc_reply(g->s, &q, -5, NULL), 0);
	assert_int_equal(portal_rpc_finish(r, id, NULL, 0, NULL, &status), 0);
	assert_int_equal(status, -5);
}

static void wait_until(int64_t t)
{
	while (wslx_portal_now() <= t)
		sched_yield();
}

static void budget_is_what_is_left(void **state)
{
	struct portal_rpc_request q;
	struct pair g;
	int64_t t;

	setup(&g);
	start(g.a, 1, PORTAL_FOREVER);
	start(g.a, 2, LONG);
	start(g.a, 3, PORTAL_FOREVER);
	comes(&g, 1, &q);
	assert_int_equal(q.budget_ns, PORTAL_FOREVER);
	/* The second was taken from the ring with the first. */
	t = wslx_portal_now();
	wait_until(t + SHORT);
	comes(&g, 2, &q);
	assert_true(q.budget_ns <= LONG - SHORT);
	assert_true(q.budget_ns > 0);
	comes(&g, 3, &q);
	assert_int_equal(q.budget_ns, PORTAL_FOREVER);
	teardown(&g);
}

static void late_ones_are_answered_inside(void **state)
{
	struct portal_rpc_request q;
	uint64_t late[3];
	struct pair g;
	int64_t t;
	int status;

	setup(&g);
	start(g.a, 1, LONG);
	for (int i = 0; i < 3; i++)
		late[i] = start(g.a, 2, SHORT);
	start(g.a, 3, LONG);
	comes(&g, 1, &q);
	t = wslx_portal_now();
	wait_until(t + SHORT);
	comes(&g, 3, &q);
	nothing_comes(&g);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(portal_rpc_finish(g.a, late[i], NULL, 0, NULL, &status), 0);
		assert_int_equal(status, -ETIMEDOUT);
	}
	still_a_client(&g, g.a);
	teardown(&g);
}

static void cancelled_ones_are_not_begun(void **state)
{
	struct portal_rpc_request q;
	uint64_t id[3];
	struct pair g;

	setup(&g);
	for (uint32_t i = 0; i < 3; i++)
		id[i] = start(g.a, i, LONG);
	give_up(g.a, id[0]);
	comes(&g, 1, &q);
	assert_int_equal(portal_rpc_cancelled(g.s, &q), 0);
	/* In the queue by now. */
	give_up(g.a, id[2]);
	nothing_comes(&g);
	give_up(g.a, id[1]);
	assert_int_equal(portal_rpc_cancelled(g.s, &q), 1);
	assert_int_equal(portal_rpc_reply(g.s, &q, 0, NULL), 0);
	still_a_client(&g, g.a);
	teardown(&g);
}

/* Handed out, given up by the client, and forgotten by the server. */
static void many_are_given_up(void **state)
{
	struct portal_rpc_request q;
	struct pair g;

	setup(&g);
	for (int i = 0; i < 4 * OPEN; i++) {
		uint64_t id = start(g.a, 1, PORTAL_FOREVER);

		comes(&g, 1, &q);
		give_up(g.a, id);
	}
	still_a_client(&g, g.a);
	teardown(&g);
}

/* As many as there can be at a time, again and again; each round's cancels are behind its requests in the ring. */
static void all_are_given_up(void **state)
{
	struct portal_rpc_request q;
	uint64_t id[OPEN];
	struct pair g;

	setup(&g);
	for (int round = 0; round < 4; round++) {
		for (int i = 0; i < OPEN; i++)
			id[i] = start(g.a, 1, PORTAL_FOREVER);
		assert_int_equal(portal_rpc_start(g.a, 1, NULL, LONG, &id[0]), -EBUSY);
		for (int i = 0; i < OPEN / 2; i++)
			comes(&g, 1, &q);
		for (int i = 0; i < OPEN; i++)
			give_up(g.a, id[i]);
	}
	still_a_client(&g, g.a);
	teardown(&g);
}

static void send_raw(struct pair *g, uint64_t id, uint64_t budget)
{
	struct portal_rpc_header h = { .id = id, .method = 9, .budget_ns = budget };

	assert_int_equal(portal_send(g->raw, PORTAL_RPC_REQUEST, &h, sizeof(h), 0), 0);
}

/* One that says nothing when its time is over. */
static void expired_ones_need_no_cancel(void **state)
{
	struct portal_rpc_request q;
	struct pair g;
	int64_t t;

	setup(&g);
	for (int round = 0; round < 4; round++) {
		for (int i = 0; i < OPEN; i++)
			send_raw(&g, (uint64_t)(round * OPEN + i + 1), SEC / 5);
		comes(&g, 9, &q);
		while (portal_rpc_next(g.s, &q, 0) == 0)
			;
		t = wslx_portal_now();
		wait_until(t + SEC / 5);
	}
	assert_int_equal(portal_rpc_cancelled(g.s, &q), 1);
	send_raw(&g, 10000, 0);
	comes(&g, 9, &q);
	assert_int_equal(q.id, 10000);
	teardown(&g);
}

/* More than there can be costs the connection, as before. */
static void too_many_are_an_error(void **state)
{
	struct portal_rpc_request q;
	struct pair g;
	char buf[64];
	size_t n;

	setup(&g);
	for (int i = 0; i <= OPEN; i++)
		send_raw(&g, (uint64_t)i + 1, 0);
	while (portal_rpc_next(g.s, &q, 0) == 0)
		;
	assert_int_equal(portal_recv(g.raw, NULL, buf, sizeof(buf), &n, 0), -EPIPE);
	still_a_client(&g, g.a);
	teardown(&g);
}

/* The answers that it does not read are kept, up to a number; then it is served no more until it reads. */
static void answers_nobody_reads(void **state)
{
	static char big[8192];
	struct portal_bytes out = { .data = big, .size = sizeof(big) };
	struct portal_rpc_request q;
	unsigned answered = 0, tries = 0;
	struct pair g;
	uint64_t id;
	int status, r = 0;

	setup(&g);
	while (r == 0) {
		id = start(g.a, 1, PORTAL_FOREVER);
		r = portal_rpc_next(g.s, &q, 0);
		if (r == 0)
			assert_int_equal(portal_rpc_reply(g.s, &q, 0, &out), 0);
		give_up(g.a, id);
		answered++;
		assert_true(answered < 1000);
	}
	assert_int_equal(r, -EAGAIN);
	assert_true(answered > OPEN);
	/* It holds up nobody else. */
	still_a_client(&g, g.other);
	do {
		id = start(g.a, 2, SHORT / 10);
		while (portal_rpc_next(g.s, &q, 0) == 0)
			assert_int_equal(portal_rpc_reply(g.s, &q, -6, NULL), 0);
		status = 0;
		(void)!portal_rpc_finish(g.a, id, NULL, 0, NULL, &status);
		assert_true(tries++ < 1000);
	} while (status != -6);
	still_a_client(&g, g.a);
	teardown(&g);
}

/* Something new of which nobody takes note that has no descriptor left. */
static struct rlimit news_and_no_descriptors(struct pair *g)
{
	assert_int_equal(portal_host_object(g->b.h, "new", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	return no_more_descriptors();
}

/* That the server lacks descriptors is not the fault of a client whose ring is full. */
static void answers_are_kept_without_descriptors(void **state)
{
	static char big[8000], buf[9000];
	struct portal_bytes out = { .data = big, .size = sizeof(big) };
	struct portal_rpc_request q[12], other;
	struct rlimit before;
	struct pair g;
	int r[12], next;
	size_t n;

	setup(&g);
	for (unsigned i = 0; i < ARRAY_SIZE(q); i++) {
		send_raw(&g, i + 1, 0);
		comes(&g, 9, &q[i]);
	}
	before = news_and_no_descriptors(&g);
	for (unsigned i = 0; i < ARRAY_SIZE(q); i++)
		r[i] = portal_rpc_reply(g.s, &q[i], 0, &out);
	next = portal_rpc_next(g.s, &other, 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(next, -EMFILE);
	for (unsigned i = 0; i < ARRAY_SIZE(q); i++) {
		struct portal_rpc_header h;

		assert_int_equal(r[i], 0);
		next = portal_recv(g.raw, NULL, buf, sizeof(buf), &n, 0);
		if (next == -EAGAIN) {
			nothing_comes(&g);
			next = portal_recv(g.raw, NULL, buf, sizeof(buf), &n, 0);
		}
		assert_int_equal(next, 0);
		memcpy(&h, buf, sizeof(h));
		assert_int_equal(h.id, i + 1);
	}
	teardown(&g);
}

/* The server does not count a call that is over, whatever ended it. */
static void calls_that_fail_here_are_cancelled(void **state)
{
	struct portal_rpc_request q;
	struct rlimit before;
	struct pair g;
	int status;

	setup(&g);
	assert_int_equal(portal_host_object(g.b.h, "first", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	for (int i = 0; i < OPEN; i++) {
		uint64_t id = start(g.a, 1, LONG);
		int r;

		comes(&g, 1, &q);
		before = no_more_descriptors();
		r = portal_rpc_finish(g.a, id, NULL, 0, NULL, &status);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
		assert_int_equal(r, -EMFILE);
		assert_int_equal(portal_rpc_cancelled(g.s, &q), 1);
		assert_int_equal(portal_rpc_finish(g.a, id, NULL, 0, NULL, &status), -ENOENT);
	}
	still_a_client(&g, g.a);
	teardown(&g);
}

static void *start_one(void *arg)
{
	struct pair *g = arg;
	uint64_t id;

	return (void *)(intptr_t)portal_rpc_start(g->a, 9, NULL, LONG, &id);
}

/* Calls until there is no room for as much as a cancel.  One of them. */
static uint64_t fill(struct pair *g)
{
	static char big[8000];
	const size_t sizes[] = { sizeof(big), 1000, 0 };
	uint64_t id = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		const struct portal_bytes in = { .data = big, .size = sizes[i] };
		int r;

		while ((r = portal_rpc_start(g->a, 1, &in, 0, &id)) == 0)
			;
		assert_int_equal(r, -EAGAIN);
	}
	return id;
}

/* A call has to wait until the server can be told what was cancelled before; that is of its time. */
static void budget_after_a_cancel_that_waits(void **state)
{
	struct portal_rpc_request q;
	const portal_chan *c;
	struct pair g;
	pthread_t t;
	int64_t at;
	void *r;

	setup(&g);
	give_up(g.a, fill(&g));
	/* The last that connected. */
	c = CONTAINER_OF(g.client->gates, portal_chan, gate);
	assert_int_equal(pthread_create(&t, NULL, start_one, &g), 0);
	while (!PORTAL_LOAD_ACQ(&c->tx.tx->sleeping))
		sched_yield();
	at = wslx_portal_now();
	wait_until(at + SHORT);
	do
		assert_int_equal(portal_rpc_next(g.s, &q, LONG), 0);
	while (q.method != 9);
	assert_true(q.budget_ns <= LONG - SHORT);
	pthread_join(t, &r);
	assert_null(r);
	teardown(&g);
}

/* There was no way to say so when it was cancelled. */
static void told_later(void **state)
{
	struct portal_rpc_request q;
	struct portal_quiesce rest;
	uint64_t id[OPEN];
	struct pair g;

	setup(&g);
	for (int i = 0; i < OPEN; i++)
		id[i] = start(g.a, 1, PORTAL_FOREVER);
	comes(&g, 1, &q);
	(void)!portal_host_quiesce(g.b.h, 0, &rest);
	for (int i = 0; i < OPEN; i++)
		give_up(g.a, id[i]);
	assert_int_equal(portal_host_resume(g.b.h), 0);
	still_a_client(&g, g.a);
	assert_int_equal(portal_rpc_cancelled(g.s, &q), 1);
	nothing_comes(&g);
	teardown(&g);
}

/* Another answer may be short enough. */
static void an_answer_is_too_long(void **state)
{
	static char big[40000];
	struct portal_bytes out = { .data = big, .size = sizeof(big) };
	struct portal_rpc_request q;
	struct pair g;
	uint64_t id;
	int status;

	setup(&g);
	id = start(g.a, 1, LONG);
	comes(&g, 1, &q);
	assert_int_equal(portal_rpc_reply(g.s, &q, 0, &out), -EMSGSIZE);
	assert_int_equal(portal_rpc_reply(g.s, &q, -EMSGSIZE, NULL), 0);
	assert_int_equal(portal_rpc_finish(g.a, id, NULL, 0, NULL, &status), 0);
	assert_int_equal(status, -EMSGSIZE);
	teardown(&g);
}

/* The answer stays, for a larger buffer or for nobody. */
static void a_buffer_is_too_small(void **state)
{
	struct portal_bytes out = { .data = "answer", .size = 7 };
	struct portal_rpc_request q;
	char buf[8] = "";
	uint64_t id[2];
	struct pair g;
	int status;

	setup(&g);
	for (int i = 0; i < 2; i++) {
		id[i] = start(g.a, 1, LONG);
		comes(&g, 1, &q);
		assert_int_equal(portal_rpc_reply(g.s, &q, 0, &(struct portal_bytes) { "answer", 7, { 0 }, 0 }), 0);
		assert_int_equal(portal_rpc_finish(g.a, id[i], buf, 3, &out, &status), -EMSGSIZE);
		assert_int_equal(out.size, 7);
	}
	assert_int_equal(portal_rpc_finish(g.a, id[0], buf, 6, NULL, &status), -EMSGSIZE);
	assert_int_equal(portal_rpc_finish(g.a, id[0], buf, sizeof(buf), &out, &status), 0);
	assert_int_equal(out.size, 7);
	assert_string_equal(buf, "answer");
	assert_int_equal(portal_rpc_finish(g.a, id[0], buf, sizeof(buf), &out, &status), -ENOENT);
	give_up(g.a, id[1]);
	assert_int_equal(portal_rpc_finish(g.a, id[1], buf, sizeof(buf), &out, &status), -ENOENT);
	still_a_client(&g, g.a);
	teardown(&g);
}

static void *answer_all(void *arg)
{
	struct pair *g = arg;
	struct portal_rpc_request q;

	while (portal_rpc_next(g->s, &q, LONG) == 0 && q.method != 0)
		(void)!portal_rpc_reply(g->s, &q, 0, &(struct portal_bytes) { "answer", 7, { 0 }, 0 });
	return NULL;
}

/* portal_rpc_call() keeps none, or there would be no more calls in the end. */
static void calls_with_small_buffers(void **state)
{
	struct portal_bytes out;
	struct pair g;
	pthread_t t;
	char buf[3];

	setup(&g);
	assert_int_equal(pthread_create(&t, NULL, answer_all, &g), 0);
	for (int i = 0; i < 2 * OPEN; i++) {
		assert_int_equal(portal_rpc_call(g.a, 1, NULL, buf, sizeof(buf), &out, LONG), -EMSGSIZE);
		assert_int_equal(out.size, 7);
	}
	start(g.a, 0, LONG);
	pthread_join(t, NULL);
	teardown(&g);
}

/* One who always has another call to make does not keep the next one waiting. */
static void clients_take_turns(void **state)
{
	struct portal_rpc_request q;
	unsigned served = 0;
	struct pair g;
	int status;

	setup(&g);
	for (int i = 0; i < OPEN; i++)
		start(g.other, 1, LONG);
	comes(&g, 1, &q);
	start(g.a, 2, LONG);
	do {
		assert_int_equal(portal_rpc_reply(g.s, &q, 0, NULL), 0);
		if (q.method == 1) {
			assert_int_equal(portal_rpc_finish(g.other, q.id, NULL, 0, NULL, &status), 0);
			start(g.other, 1, LONG);
		}
		assert_int_equal(portal_rpc_next(g.s, &q, 0), 0);
		assert_true(served++ < 2 * OPEN);
	} while (q.method != 2);
	teardown(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(budget_is_what_is_left),
		cmocka_unit_test(late_ones_are_answered_inside),
		cmocka_unit_test(cancelled_ones_are_not_begun),
		cmocka_unit_test(many_are_given_up),
		cmocka_unit_test(all_are_given_up),
		cmocka_unit_test(expired_ones_need_no_cancel),
		cmocka_unit_test(too_many_are_an_error),
		cmocka_unit_test(answers_nobody_reads),
		cmocka_unit_test(answers_are_kept_without_descriptors),
		cmocka_unit_test(calls_that_fail_here_are_cancelled),
		cmocka_unit_test(budget_after_a_cancel_that_waits),
		cmocka_unit_test(told_later),
		cmocka_unit_test(an_answer_is_too_long),
		cmocka_unit_test(a_buffer_is_too_small),
		cmocka_unit_test(calls_with_small_buffers),
		cmocka_unit_test(clients_take_turns),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
