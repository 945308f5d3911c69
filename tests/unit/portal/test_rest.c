/* A quiesced region: nobody waits longer than he said, nothing of the shared memory changes, and nothing is lost. */
#include "support.h"

#include <sched.h>
#include <stdbool.h>

#include "portal/atomic.h"
#include "portal/internal.h"

#define SHORT (SEC / 50)

/* Two participants, whose threads are this one; what is on its way to either, and offers at the server's door. */
struct region {
	struct broker b;
	portal *client, *server;
	portal_listener *records, *bytes;
	portal_chan *rec[2], *byt[2]; /* client's, server's */
	portal_rpc *rpc;
	bool connected;
	portal_rpc_server *rpc_server;
	uint8_t *was[2];
};

struct connecting {
	portal *p;
	const char *name;
	portal_chan *c;
};

static void *connect_one(void *arg)
{
	struct connecting *k = arg;

	return (void *)(intptr_t)portal_connect(k->p, k->name, 0, LONG, &k->c);
}

static void meet(struct region *g, portal_listener *l, const char *name, portal_chan *ret[2])
{
	struct connecting k = { .p = g->client, .name = name };
	pthread_t t;
	void *r;

	assert_int_equal(pthread_create(&t, NULL, connect_one, &k), 0);
	assert_int_equal(portal_accept(l, LONG, &ret[1]), 0);
	pthread_join(t, &r);
	assert_null(r);
	ret[0] = k.c;
}

static void *connect_rpc(void *arg)
{
	struct region *g = arg;
	int r = portal_rpc_connect(g->client, "rpc", LONG, &g->rpc);

	__atomic_store_n(&g->connected, true, __ATOMIC_RELEASE);
	return (void *)(intptr_t)r;
}

static void meet_rpc(struct region *g)
{
	struct portal_rpc_request q;
	pthread_t t;
	void *r;

	assert_int_equal(portal_rpc_serve(g->server, "rpc", &g->rpc_server), 0);
	assert_int_equal(pthread_create(&t, NULL, connect_rpc, g), 0);
	while (!__atomic_load_n(&g->connected, __ATOMIC_ACQUIRE))
		assert_int_equal(portal_rpc_next(g->rpc_server, &q, SHORT / 10), -ETIMEDOUT);
	pthread_join(t, &r);
	assert_null(r);
}

static void setup(struct region *g)
{
	struct portal_listen bytes = { .size = sizeof(bytes), .kind = PORTAL_BYTES };

	*g = (struct region) { 0 };
	broker_start(&g->b, NULL);
	g->client = broker_attach(&g->b, "client");
	g->server = broker_attach(&g->b, "server");
	assert_int_equal(portal_listen(g->server, "records", NULL, &g->records), 0);
	assert_int_equal(portal_listen(g->server, "bytes", &bytes, &g->bytes), 0);
	meet(g, g->records, "records", g->rec);
	meet(g, g->bytes, "bytes", g->byt);
	meet_rpc(g);
}

static void teardown(struct region *g)
{
	portal_rpc_free(g->rpc);
	portal_rpc_server_free(g->rpc_server);
	for (int i = 0; i < 2; i++) {
		portal_chan_free(g->rec[i]);
		portal_chan_free(g->byt[i]);
		free(g->was[i]);
	}
	portal_listener_free(g->records);
	portal_listener_free(g->bytes);
	portal_detach(g->client);
	portal_detach(g->server);
	broker_end(&g->b);
}

static size_t arena_size(const portal *p)
{
	return (size_t)p->view[p->own_arena].segments << PORTAL_SEGMENT_SHIFT;
}

/* Both at rest; what their memory is like. */
static void quiesce(struct region *g)
{
	portal *both[2] = { g->client, g->server };
	struct portal_quiesce q;

	(void)!portal_host_quiesce(g->b.h, 0, &q);
	for (int i = 0; i < 2; i++)
		assert_int_equal(portal_poll(both[i], 0), -EAGAIN);
	assert_int_equal(portal_host_quiesce(g->b.h, LONG, &q), 0);
	for (int i = 0; i < 2; i++) {
		g->was[i] = malloc(arena_size(both[i]));
		assert_non_null(g->was[i]);
		memcpy(g->was[i], both[i]->base + both[i]->own_off, arena_size(both[i]));
	}
}

static void resume(struct region *g)
{
	const portal *both[2] = { g->client, g->server };

	for (int i = 0; i < 2; i++)
		assert_memory_equal(g->was[i], both[i]->base + both[i]->own_off, arena_size(both[i]));
	assert_int_equal(portal_host_resume(g->b.h), 0);
}

/* An empty channel, and one with a record. */
static void recv_at_rest(void **state)
{
	struct region g;
	uint32_t type;
	char buf[8];
	size_t n;

	setup(&g);
	assert_int_equal(portal_send(g.rec[0], 7, "one", 4, 0), 0);
	quiesce(&g);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(portal_recv(g.rec[i], &type, buf, sizeof(buf), &n, 0), -EAGAIN);
		assert_int_equal(portal_recv(g.rec[i], &type, buf, sizeof(buf), &n, SHORT), -ETIMEDOUT);
	}
	resume(&g);
	assert_int_equal(portal_recv(g.rec[1], &type, buf, sizeof(buf), &n, 0), 0);
	assert_int_equal(type, 7);
	assert_string_equal(buf, "one");
	assert_int_equal(portal_recv(g.rec[1], &type, buf, sizeof(buf), &n, 0), -EAGAIN);
	teardown(&g);
}

static void read_at_rest(void **state)
{
	struct region g;
	char buf[8] = "";
	size_t n;

	setup(&g);
	assert_int_equal(portal_write(g.byt[0], "bytes", 6, &n, 0), 0);
	quiesce(&g);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(portal_read(g.byt[i], buf, 3, &n, 0), -EAGAIN);
		assert_int_equal(portal_read(g.byt[i], buf, 3, &n, SHORT), -ETIMEDOUT);
	}
	resume(&g);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(portal_read(g.byt[1], buf, 3, &n, 0), 0);
	assert_int_equal(n, 3);
	assert_int_equal(portal_read(g.byt[1], buf + 3, 3, &n, 0), 0);
	assert_string_equal(buf, "bytes");
	teardown(&g);
}

/* Whoever is filling a span is not at rest, though he reads from the same channel meanwhile. */
static void span_at_rest(void **state)
{
	struct portal_quiesce q;
	struct region g;
	char buf[8];
	size_t n;
	void *at;

	setup(&g);
	assert_int_equal(portal_write(g.byt[1], "b", 1, &n, 0), 0);
	assert_int_equal(portal_write_span(g.byt[0], &at, &n, 0), 0);
	assert_int_equal(portal_read(g.byt[0], buf, sizeof(buf), &n, 0), 0);
	(void)!portal_host_quiesce(g.b.h, 0, &q);
	assert_int_equal(portal_poll(g.client, 0), -EAGAIN);
	assert_int_equal(portal_poll(g.server, 0), -EAGAIN);
	assert_int_equal(portal_host_rest(g.b.h, &q), -EAGAIN);
	assert_int_equal(q.late, UINT64_C(1) << g.client->self);
	memcpy(at, "span", 5);
	assert_int_equal(portal_wrote(g.byt[0], 5), 0);
	quiesce(&g);
	resume(&g);
	assert_int_equal(portal_read(g.byt[1], buf, sizeof(buf), &n, 0), 0);
	assert_string_equal(buf, "span");
	/* Nor does one who has used it, or made nothing of it, keep the region waiting when he reads. */
	for (int i = 0; i < 2; i++) {
		free(g.was[0]);
		free(g.was[1]);
		assert_int_equal(portal_write_span(g.byt[0], &at, &n, 0), 0);
		assert_int_equal(portal_wrote(g.byt[0], i ? n + 1 : 0), i ? -EINVAL : 0);
		assert_int_equal(portal_write(g.byt[1], "b", 1, &n, 0), 0);
		assert_int_equal(portal_read(g.byt[0], buf, sizeof(buf), &n, 0), 0);
		quiesce(&g);
		resume(&g);
	}
	teardown(&g);
}

/* Who waits for several would be told of the same record for ever. */
static void fanin_at_rest(void **state)
{
	struct region g;
	portal_chan *c;
	portal_fanin *f;

	setup(&g);
	assert_int_equal(portal_fanin_new(g.server, &f), 0);
	assert_int_equal(portal_fanin_add(f, g.rec[1]), 0);
	assert_int_equal(portal_send(g.rec[0], 7, "one", 4, 0), 0);
	quiesce(&g);
	assert_int_equal(portal_fanin_wait(f, NULL, 0, &c), -EAGAIN);
	assert_int_equal(portal_fanin_wait(f, NULL, SHORT, &c), -ETIMEDOUT);
	resume(&g);
	assert_int_equal(portal_fanin_wait(f, NULL, 0, &c), 0);
	assert_ptr_equal(c, g.rec[1]);
	portal_fanin_free(f);
	teardown(&g);
}

static void request_at_rest(void **state)
{
	struct portal_rpc_request q;
	struct region g;
	uint64_t id;

	setup(&g);
	assert_int_equal(portal_rpc_start(g.rpc, 5, NULL, LONG, &id), 0);
	quiesce(&g);
	assert_int_equal(portal_rpc_next(g.rpc_server, &q, 0), -EAGAIN);
	assert_int_equal(portal_rpc_next(g.rpc_server, &q, SHORT), -ETIMEDOUT);
	/* One that asks about another has to look, too. */
	q = (struct portal_rpc_request) { .client = 1, .id = id };
	(void)portal_rpc_cancelled(g.rpc_server, &q);
	resume(&g);
	assert_int_equal(portal_rpc_next(g.rpc_server, &q, 0), 0);
	assert_int_equal(q.method, 5);
	assert_int_equal(portal_rpc_next(g.rpc_server, &q, 0), -EAGAIN);
	teardown(&g);
}

/* An answer that is there already only has to be read; the record of one that was not asked for stays. */
static void answer_at_rest(void **state)
{
	struct portal_rpc_request q;
	struct portal_bytes out;
	uint64_t first, second, never;
	struct region g;
	char buf[8];
	int status;

	setup(&g);
	assert_int_equal(portal_rpc_start(g.rpc, 1, NULL, LONG, &first), 0);
	assert_int_equal(portal_rpc_start(g.rpc, 2, NULL, LONG, &second), 0);
	assert_int_equal(portal_rpc_start(g.rpc, 3, NULL, SHORT, &never), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(portal_rpc_next(g.rpc_server, &q, SHORT), 0);
		out = (struct portal_bytes) { .data = &"abc"[i], .size = 1 };
		if (q.id != never)
			assert_int_equal(portal_rpc_reply(g.rpc_server, &q, 0, &out), 0);
	}
	quiesce(&g);
	assert_int_equal(portal_rpc_finish(g.rpc, first, buf, sizeof(buf), &out, &status), 0);
	assert_int_equal(out.size, 1);
	assert_int_equal(buf[0], 'a');
	assert_int_equal(portal_rpc_finish(g.rpc, never, buf, sizeof(buf), &out, &status), -ETIMEDOUT);
	/* A call is sent, or not at all. */
	assert_int_equal(portal_rpc_call(g.rpc, 4, NULL, NULL, 0, NULL, 0), -EAGAIN);
	assert_int_equal(portal_rpc_call(g.rpc, 4, NULL, NULL, 0, NULL, SHORT), -ETIMEDOUT);
	resume(&g);
	assert_int_equal(portal_rpc_finish(g.rpc, second, buf, sizeof(buf), &out, &status), 0);
	assert_int_equal(buf[0], 'b');
	assert_int_equal(portal_rpc_next(g.rpc_server, &q, 0), -EAGAIN);
	teardown(&g);
}

static void accept_at_rest(void **state)
{
	struct connecting k;
	struct region g;
	portal_chan *c;
	pthread_t t;
	uint32_t seq;
	void *r;

	setup(&g);
	k = (struct connecting) { .p = g.client, .name = "records" };
	seq = PORTAL_LOAD_ACQ(&g.client->ctl->links_seq);
	assert_int_equal(pthread_create(&t, NULL, connect_one, &k), 0);
	while (PORTAL_LOAD_ACQ(&g.client->ctl->links_seq) == seq)
		sched_yield();
	quiesce(&g);
	assert_int_equal(portal_accept(g.records, 0, &c), -EAGAIN);
	assert_int_equal(portal_accept(g.records, SHORT, &c), -ETIMEDOUT);
	resume(&g);
	assert_int_equal(portal_accept(g.records, 0, &c), 0);
	pthread_join(t, &r);
	assert_null(r);
	portal_chan_free(c);
	portal_chan_free(k.c);
	teardown(&g);
}

static void connect_at_rest(void **state)
{
	struct region g;
	portal_chan *c;

	setup(&g);
	quiesce(&g);
	assert_int_equal(portal_connect(g.client, "records", 0, 0, &c), -EAGAIN);
	assert_int_equal(portal_connect(g.client, "records", 0, SHORT, &c), -ETIMEDOUT);
	resume(&g);
	assert_int_equal(portal_accept(g.records, 0, &c), -EAGAIN);
	teardown(&g);
}

/* The other hears of it when the region goes on and whoever freed it looks around. */
static void free_at_rest(void **state)
{
	struct region g;
	char buf[8];
	size_t n;

	setup(&g);
	quiesce(&g);
	portal_chan_free(g.rec[0]);
	g.rec[0] = NULL;
	assert_int_equal(portal_recv(g.rec[1], NULL, buf, sizeof(buf), &n, 0), -EAGAIN);
	resume(&g);
	assert_int_equal(portal_poll(g.client, 0), 0);
	assert_int_equal(portal_recv(g.rec[1], NULL, buf, sizeof(buf), &n, 0), -EPIPE);
	teardown(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(recv_at_rest),    cmocka_unit_test(read_at_rest),   cmocka_unit_test(fanin_at_rest),
		cmocka_unit_test(request_at_rest), cmocka_unit_test(answer_at_rest), cmocka_unit_test(accept_at_rest),
		cmocka_unit_test(connect_at_rest), cmocka_unit_test(free_at_rest),   cmocka_unit_test(span_at_rest),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
