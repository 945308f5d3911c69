/* The limits that docs/portal.md has a table of: the last that is given, and what is said beyond. */
#include "pair.h"

#include <unistd.h>

#define SHORT (SEC / 20)

static void memory(void **state)
{
	const size_t chunk = 65536, most = 8 * 1024 * 1024 - 2 * chunk;
	struct portal_handle h;
	struct broker b;
	portal *p;
	void *at;

	broker_start(&b, NULL);
	p = broker_attach(&b, "one");
	assert_non_null(p);
	assert_int_equal(portal_alloc(p, 0, &h, &at), -EINVAL);
	assert_int_equal(portal_alloc(p, most + 1, &h, &at), -ENOMEM);
	assert_int_equal(portal_alloc(p, most, &h, &at), 0);
	assert_int_equal(portal_alloc(p, 1, &h, &at), -ENOMEM);
	portal_detach(p);
	broker_end(&b);
}

static void names(void **state)
{
	struct portal_host_params hp = { .size = sizeof(hp), .name = "few", .segments = 64, .name_slots = 8 };
	char name[2 * PORTAL_NAME_SIZE];
	struct broker b;
	portal *p;

	broker_start(&b, &hp);
	p = broker_attach(&b, "one");
	assert_non_null(p);
	for (unsigned i = 0; i < 8; i++) {
		snprintf(name, sizeof(name), "%047u", i);
		assert_int_equal(portal_create(p, name, 8, NULL, NULL), 0);
	}
	assert_int_equal(portal_create(p, "ninth", 8, NULL, NULL), -ENOSPC);
	snprintf(name, sizeof(name), "%048u", 0);
	assert_int_equal(portal_create(p, name, 8, NULL, NULL), -EINVAL);
	portal_detach(p);
	broker_end(&b);
}

static void participants(void **state)
{
	struct portal_host_params hp = { .size = sizeof(hp), .name = "full", .segments = 256 };
	portal *p[PORTAL_MAX_PARTICIPANTS - 1];
	struct portal_attach a = { .size = sizeof(a), .segments = 1 };
	struct broker b;

	broker_start(&b, &hp);
	a.path = b.path;
	for (unsigned i = 0; i < 63; i++)
		assert_int_equal(portal_attach(&a, &p[i]), 0);
	assert_int_equal(portal_attach(&a, &(portal *) { NULL }), -EUSERS);
	for (unsigned i = 0; i < 63; i++)
		portal_detach(p[i]);
	broker_end(&b);
}

static void rings(void **state)
{
	static const uint64_t bad[] = { 512, 1025, UINT64_C(2) << 30 };
	struct portal_listen params = { .size = sizeof(params) };
	portal_listener *l;
	portal_chan *c;
	struct pair p;

	pair_start(&p, PORTAL_RECORDS, 1024);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(portal_connect(p.client, "svc", bad[i], LONG, &c), -EINVAL);
		params.tx_capacity = bad[i];
		assert_int_equal(portal_listen(p.server, "other", &params, &l), -EINVAL);
	}
	/* One allocation, which there is no room for. */
	assert_int_equal(portal_connect(p.client, "svc", UINT64_C(1) << 30, LONG, &c), -ENOMEM);
	pair_end(&p);
}

/* ---- channels ---- */

struct connecting {
	portal *p;
	const char *name;
	uint64_t capacity;
	portal_chan *c;
};

static void *connect_one(void *arg)
{
	struct connecting *k = arg;

	return (void *)(intptr_t)portal_connect(k->p, k->name, k->capacity, LONG, &k->c);
}

/* The server looks until the client has its answer. */
static int connect_to(portal_listener *l, struct connecting *k, portal_chan **ret)
{
	pthread_t t;
	void *r;
	int e;

	assert_int_equal(pthread_create(&t, NULL, connect_one, k), 0);
	while ((e = portal_accept(l, SHORT, ret)) == -ETIMEDOUT && pthread_tryjoin_np(t, &r) != 0)
		;
	if (e == -ETIMEDOUT)
		return (int)(intptr_t)r;
	assert_int_equal(e, 0);
	assert_int_equal(pthread_join(t, &r), 0);
	return (int)(intptr_t)r;
}

static void refused(void **state)
{
	struct portal_listen params = { .size = sizeof(params), .max = 1, .max_capacity = 2048 };
	struct connecting k = { .name = "one", .capacity = 4096 };
	portal_chan *c = NULL, *first;
	portal_listener *l;
	struct pair p;

	pair_start(&p, PORTAL_RECORDS, 1024);
	k.p = p.client;
	assert_int_equal(portal_listen(p.server, "one", &params, &l), 0);
	assert_int_equal(connect_to(l, &k, &c), -ECONNREFUSED);
	k.capacity = 2048;
	assert_int_equal(connect_to(l, &k, &c), 0);
	first = k.c;
	assert_int_equal(connect_to(l, &k, &(portal_chan *) { NULL }), -ECONNREFUSED);
	portal_chan_free(first);
	portal_chan_free(c);
	assert_int_equal(connect_to(l, &k, &c), 0);
	portal_chan_free(k.c);
	portal_chan_free(c);
	portal_listener_free(l);
	pair_end(&p);
}

/* 32 to each of eight others fill a client's table. */
static void channels(void **state)
{
	enum { SERVERS = 9, EACH = 32, N = 8 * EACH };
	struct portal_listen params = { .size = sizeof(params), .tx_capacity = 1024 };
	static portal_chan *accepted[N];
	static struct connecting k[N];
	portal_listener *l[SERVERS];
	portal *client, *server[SERVERS];
	char name[SERVERS][8];
	struct broker b;
	portal_chan *c;

	broker_start(&b, NULL);
	client = broker_attach(&b, "client");
	assert_non_null(client);
	for (unsigned i = 0; i < SERVERS; i++) {
		snprintf(name[i], sizeof(name[i]), "s%u", i);
		server[i] = broker_attach(&b, name[i]);
		assert_non_null(server[i]);
		assert_int_equal(portal_listen(server[i], name[i], &params, &l[i]), 0);
	}
	for (unsigned i = 0; i < N; i++) {
		k[i] = (struct connecting) { client, name[i / EACH], 1024, NULL };
		if (i == EACH) {
			/* Nobody answers the 33rd. */
			assert_int_equal(portal_connect(client, name[0], 1024, SHORT, &c), -ETIMEDOUT);
			assert_int_equal(portal_accept(l[0], 0, &c), -EAGAIN);
		}
		assert_int_equal(connect_to(l[i / EACH], &k[i], &accepted[i]), 0);
	}
	assert_int_equal(portal_connect(client, name[8], 1024, LONG, &c), -EMFILE);
	portal_chan_free(k[0].c);
	portal_chan_free(accepted[0]);
	assert_int_equal(connect_to(l[0], &k[0], &accepted[0]), 0);
	for (unsigned i = 0; i < N; i++) {
		portal_chan_free(k[i].c);
		portal_chan_free(accepted[i]);
	}
	for (unsigned i = 0; i < SERVERS; i++) {
		portal_listener_free(l[i]);
		portal_detach(server[i]);
	}
	portal_detach(client);
	broker_end(&b);
}

/* ---- calls ---- */

struct calling {
	portal *p;
	portal_rpc *r;
};

static void *connect_rpc(void *arg)
{
	struct calling *k = arg;

	return (void *)(intptr_t)portal_rpc_connect(k->p, "rpc", LONG, &k->r);
}

static void start_and_serve(portal_rpc_server *s, struct calling *k)
{
	struct portal_rpc_request q;
	pthread_t t;
	void *r;

	assert_int_equal(pthread_create(&t, NULL, connect_rpc, k), 0);
	do
		assert_int_equal(portal_rpc_next(s, &q, SHORT), -ETIMEDOUT);
	while (pthread_tryjoin_np(t, &r) != 0);
	assert_int_equal((intptr_t)r, 0);
}

static void calls(void **state)
{
	static uint8_t most[32713];
	struct portal_bytes data = { .data = most, .size = sizeof(most) };
	struct portal_rpc_request q;
	portal_rpc_server *s;
	struct calling k;
	struct pair p;
	uint64_t id;

	pair_start(&p, PORTAL_RECORDS, 1024);
	k.p = p.client;
	assert_int_equal(portal_rpc_serve(p.server, "rpc", &s), 0);
	start_and_serve(s, &k);
	assert_int_equal(portal_rpc_start(k.r, 1, &data, LONG, &id), -EMSGSIZE);
	data.size--;
	assert_int_equal(portal_rpc_start(k.r, 1, &data, LONG, &id), 0);
	assert_int_equal(portal_rpc_next(s, &q, LONG), 0);
	assert_int_equal(q.in.size, data.size);
	for (unsigned i = 1; i < 128; i++) {
		assert_int_equal(portal_rpc_start(k.r, 2, NULL, LONG, &id), 0);
		assert_int_equal(portal_rpc_next(s, &q, LONG), 0);
	}
	assert_int_equal(portal_rpc_start(k.r, 2, NULL, LONG, &id), -EBUSY);
	portal_rpc_free(k.r);
	portal_rpc_server_free(s);
	pair_end(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory), cmocka_unit_test(names),   cmocka_unit_test(participants),
		cmocka_unit_test(rings),  cmocka_unit_test(refused), cmocka_unit_test(channels),
		cmocka_unit_test(calls),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
