/* Both ends of everything at the same addresses, each on a thread of its own: what ThreadSanitizer is to see. */
#include "one_mapping.h"

#include <unistd.h>

#define RECORDS 6000u
#define BYTES (UINT64_C(1) << 19)
#define CAPACITY 4096u

struct ends {
	struct world w;
	portal_listener *listener;
	portal_chan *client[2], *server[2];
	unsigned n;
};

/* What a thread found: 0, or the line that went wrong. */
#define CHECK(cond)                                                                                                    \
	do {                                                                                                           \
		if (!(cond))                                                                                           \
			return (void *)(intptr_t)__LINE__;                                                             \
	} while (0)

static void join(pthread_t t)
{
	void *line;

	assert_int_equal(pthread_join(t, &line), 0);
	assert_int_equal((intptr_t)line, 0);
}

static void *connect_client(void *arg)
{
	struct ends *e = arg;

	for (unsigned i = 0; i < e->n; i++)
		CHECK(portal_connect(e->w.seat[0].p, "svc", CAPACITY, LONG, &e->client[i]) == 0);
	return NULL;
}

/* n channels between the first two seats. */
static void meet(struct ends *e, uint32_t kind, unsigned n)
{
	struct portal_listen params = { .size = sizeof(params), .kind = kind, .tx_capacity = CAPACITY };
	pthread_t t;

	world_start(&e->w);
	e->n = n;
	assert_int_equal(pthread_create(&t, NULL, connect_client, e), 0);
	assert_int_equal(portal_listen(e->w.seat[1].p, "svc", &params, &e->listener), 0);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(portal_accept(e->listener, LONG, &e->server[i]), 0);
	join(t);
}

static void part(struct ends *e)
{
	for (unsigned i = 0; i < e->n; i++) {
		portal_chan_free(e->client[i]);
		portal_chan_free(e->server[i]);
	}
	portal_listener_free(e->listener);
	world_end(&e->w);
}

/* ---- records ---- */

static size_t length_of(uint32_t i)
{
	return i * 7 % 200;
}

/* One by one, or in batches. */
static void *produce_records(void *arg)
{
	portal_chan *c = arg;

	for (uint32_t i = 0; i < RECORDS; i++) {
		void *at;

		if (i % 64 < 32) {
			uint8_t buf[200];

			memset(buf, (int)(i & 0xff), sizeof(buf));
			CHECK(portal_send(c, i, buf, length_of(i), LONG) == 0);
			continue;
		}
		CHECK(portal_reserve(c, length_of(i), &at, LONG) == 0);
		memset(at, (int)(i & 0xff), length_of(i));
		CHECK(portal_commit(c, i, length_of(i)) == 0);
		if (i % 8 == 7)
			CHECK(portal_flush(c) == 0);
	}
	CHECK(portal_flush(c) == 0);
	return NULL;
}

static bool all_are(const void *p, size_t n, uint8_t v)
{
	const uint8_t *at = p;

	for (size_t i = 0; i < n; i++)
		if (at[i] != v)
			return false;
	return true;
}

static void *consume_records(void *arg)
{
	portal_chan *c = arg;

	for (uint32_t i = 0; i < RECORDS; i++) {
		const void *at;
		uint8_t buf[200];
		uint32_t type;
		size_t n;

		if (i % 48 < 24) {
			CHECK(portal_recv(c, &type, buf, sizeof(buf), &n, LONG) == 0);
			at = buf;
		} else {
			CHECK(portal_peek(c, &type, &at, &n, LONG) == 0);
		}
		CHECK(type == i && n == length_of(i) && all_are(at, n, (uint8_t)i));
		if (i % 4 == 3)
			CHECK(portal_release(c) == 0);
	}
	CHECK(portal_release(c) == 0);
	return NULL;
}

/* Both ways at once. */
static void exchange(struct ends *e, void *(*produce)(void *), void *(*consume)(void *))
{
	pthread_t t[2];

	assert_int_equal(pthread_create(&t[0], NULL, produce, e->client[0]), 0);
	assert_int_equal(pthread_create(&t[1], NULL, consume, e->server[0]), 0);
	join(t[0]);
	join(t[1]);
	assert_int_equal(pthread_create(&t[0], NULL, produce, e->server[0]), 0);
	assert_int_equal(pthread_create(&t[1], NULL, consume, e->client[0]), 0);
	join(t[0]);
	join(t[1]);
}

static void records(void **state)
{
	for (int fenced = 0; fenced < 2; fenced++) {
		struct ends e;

		meet(&e, PORTAL_RECORDS, 1);
		if (fenced)
			share_fences(e.client[0], e.server[0]);
		exchange(&e, produce_records, consume_records);
		part(&e);
	}
}

/* ---- bytes ---- */

static uint8_t byte_at(uint64_t i)
{
	return (uint8_t)(i * 131 >> 3);
}

static void *produce_bytes(void *arg)
{
	uint8_t buf[777];
	size_t n, did;

	for (uint64_t at = 0; at < BYTES; at += did) {
		n = 1 + at % sizeof(buf);
		if (n > BYTES - at)
			n = BYTES - at;
		for (size_t k = 0; k < n; k++)
			buf[k] = byte_at(at + k);
		CHECK(portal_write(arg, buf, n, &did, LONG) == 0 && did && did <= n);
	}
	return NULL;
}

static void *consume_bytes(void *arg)
{
	uint8_t buf[500];
	size_t did;

	for (uint64_t at = 0; at < BYTES; at += did) {
		CHECK(portal_read(arg, buf, 1 + at % sizeof(buf), &did, LONG) == 0 && did);
		for (size_t k = 0; k < did; k++)
			CHECK(buf[k] == byte_at(at + k));
	}
	return NULL;
}

static void bytes(void **state)
{
	for (int fenced = 0; fenced < 2; fenced++) {
		struct ends e;

		meet(&e, PORTAL_BYTES, 1);
		if (fenced)
			share_fences(e.client[0], e.server[0]);
		exchange(&e, produce_bytes, consume_bytes);
		part(&e);
	}
}

/* ---- fan-in ---- */

#define EACH 2000u

static void *feed(void *arg)
{
	struct seat *s = arg;
	portal_chan *c;

	CHECK(portal_connect(s->p, "many", 1024, LONG, &c) == 0);
	for (uint32_t i = 0; i < EACH; i++)
		CHECK(portal_send(c, s->index, &i, sizeof(i), LONG) == 0);
	portal_chan_free(c);
	return NULL;
}

/* The next record of somebody's, or the end of somebody, who then has sent everything. */
static void take_turn(portal_fanin *f, portal_chan *c, uint32_t *next, unsigned *ended)
{
	uint32_t v, type;
	size_t n;
	int r = portal_recv(c, &type, &v, sizeof(v), &n, LONG);

	if (r == -EPIPE) {
		assert_int_equal(next[portal_chan_peer(c)], EACH);
		portal_fanin_remove(f, c);
		portal_chan_free(c);
		++*ended;
		return;
	}
	assert_int_equal(r, 0);
	assert_int_equal(type, portal_chan_peer(c));
	assert_int_equal(v, next[type]++);
}

static void fanin(void **state)
{
	uint32_t next[PORTAL_MAX_PARTICIPANTS] = { 0 };
	unsigned ended = 0;
	portal_listener *l;
	portal_fanin *f;
	struct world w;
	pthread_t t[3];

	world_start(&w);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&t[i], NULL, feed, &w.seat[1 + i]), 0);
	assert_int_equal(portal_listen(w.seat[0].p, "many", NULL, &l), 0);
	assert_int_equal(portal_fanin_new(w.seat[0].p, &f), 0);
	while (ended < 3) {
		portal_chan *c;

		assert_int_equal(portal_fanin_wait(f, l, LONG, &c), 0);
		if (c)
			take_turn(f, c, next, &ended);
		else if (portal_accept(l, 0, &c) == 0)
			assert_int_equal(portal_fanin_add(f, c), 0);
	}
	for (unsigned i = 0; i < 3; i++)
		join(t[i]);
	portal_fanin_free(f);
	portal_listener_free(l);
	world_end(&w);
}

/* ---- calls ---- */

#define CALLS 400u

/* Numbers inline and by handle; the answer to the latter is in the server's memory. */
static void *call(void *arg)
{
	struct seat *s = arg;
	portal_rpc *r;

	CHECK(portal_rpc_connect(s->p, "double", LONG, &r) == 0);
	for (uint32_t i = 0; i < CALLS; i++) {
		struct portal_bytes in = { .data = &i, .size = sizeof(i), .bulk_size = 64 }, out;
		uint32_t twice, *many;
		const uint32_t *answer;

		CHECK(portal_alloc(s->p, 64, &in.bulk, (void **)&many) == 0);
		for (unsigned k = 0; k < 16; k++)
			many[k] = i + k;
		CHECK(portal_rpc_call(r, 1, &in, &twice, sizeof(twice), &out, LONG) == 0);
		CHECK(out.size == sizeof(twice) && twice == 2 * i && out.bulk_size == 64);
		CHECK(portal_resolve(s->p, out.bulk, 64, (const void **)&answer) == 0);
		for (unsigned k = 0; k < 16; k++)
			CHECK(answer[k] == 2 * (i + k));
		CHECK(portal_free(s->p, in.bulk) == 0);
	}
	CHECK(portal_rpc_call(r, 0, NULL, NULL, 0, NULL, LONG) == 0);
	portal_rpc_free(r);
	return NULL;
}

static void answer_call(portal *p, portal_rpc_server *s, const struct portal_rpc_request *q)
{
	struct portal_bytes out = { .bulk_size = 64 };
	const uint32_t *from;
	uint32_t v, *to;

	assert_int_equal(q->in.size, sizeof(v));
	memcpy(&v, q->in.data, sizeof(v));
	v *= 2;
	out.data = &v;
	out.size = sizeof(v);
	assert_int_equal(portal_resolve(p, q->in.bulk, 64, (const void **)&from), 0);
	assert_int_equal(portal_alloc(p, 64, &out.bulk, (void **)&to), 0);
	for (unsigned k = 0; k < 16; k++)
		to[k] = 2 * from[k];
	assert_int_equal(portal_rpc_reply(s, q, 0, &out), 0);
}

static void calls(void **state)
{
	struct portal_rpc_request q;
	portal_rpc_server *s;
	unsigned ended = 0;
	struct world w;
	pthread_t t[2];

	world_start(&w);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, call, &w.seat[1 + i]), 0);
	assert_int_equal(portal_rpc_serve(w.seat[0].p, "double", &s), 0);
	while (ended < 2) {
		assert_int_equal(portal_rpc_next(s, &q, LONG), 0);
		if (q.method) {
			answer_call(w.seat[0].p, s, &q);
			continue;
		}
		assert_int_equal(portal_rpc_reply(s, &q, 0, NULL), 0);
		ended++;
	}
	for (unsigned i = 0; i < 2; i++)
		join(t[i]);
	portal_rpc_server_free(s);
	world_end(&w);
}

/* ---- names ---- */

#define NAMED 60u

static void name_of(char name[PORTAL_NAME_SIZE], uint32_t i)
{
	snprintf(name, PORTAL_NAME_SIZE, "thing-%u", i);
}

static void *publish(void *arg)
{
	struct seat *s = arg;

	for (uint32_t i = 0; i < NAMED; i++) {
		struct portal_handle h;
		char name[PORTAL_NAME_SIZE];
		uint32_t *at;

		name_of(name, i);
		CHECK(portal_alloc(s->p, 1024, &h, (void **)&at) == 0);
		for (unsigned k = 0; k < 256; k++)
			at[k] = i;
		CHECK(portal_publish(s->p, name, h, 1024, i) == 0);
		/* Others' entries of the index move meanwhile. */
		CHECK(portal_create(s->p, "passing", 8, &h, NULL) == 0);
		CHECK(portal_unpublish(s->p, "passing") == 0);
	}
	return NULL;
}

static void *look_up(void *arg)
{
	struct seat *s = arg;

	for (uint32_t i = 0; i < NAMED; i++) {
		uint32_t cursor = 0, seen = 0;
		struct portal_object o;
		char name[PORTAL_NAME_SIZE];
		const uint32_t *at;

		name_of(name, i);
		CHECK(portal_wait_for(s->p, name, LONG, &o) == 0 && o.tag == i);
		CHECK(portal_map(s->p, &o, (const void **)&at, NULL) == 0);
		for (unsigned k = 0; k < 256; k++)
			CHECK(at[k] == i);
		while (portal_next(s->p, &cursor, &o) == 0)
			seen += strncmp(o.name, "thing-", 6) == 0;
		CHECK(seen > i);
	}
	return NULL;
}

static void names(void **state)
{
	struct world w;
	pthread_t t[3];

	world_start(&w);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&t[i], NULL, i ? look_up : publish, &w.seat[i]), 0);
	for (unsigned i = 0; i < 3; i++)
		join(t[i]);
	world_end(&w);
}

/* ---- quiesce ---- */

#define RESTS 20u

struct stream {
	portal_chan *c;
	bool *stop;
};

static void *send_on(void *arg)
{
	const struct stream *s = arg;

	for (uint32_t i = 0; !__atomic_load_n(s->stop, __ATOMIC_RELAXED); i++)
		CHECK(portal_send(s->c, i, &i, sizeof(i), LONG) == 0);
	CHECK(portal_send(s->c, UINT32_MAX, NULL, 0, LONG) == 0);
	return NULL;
}

static void *receive_on(void *arg)
{
	const struct stream *s = arg;

	for (uint32_t i = 0;; i++) {
		uint32_t type, v;
		size_t n;

		CHECK(portal_recv(s->c, &type, &v, sizeof(v), &n, LONG) == 0);
		if (type == UINT32_MAX)
			return NULL;
		CHECK(type == i && v == i);
	}
}

static void take_a_rest(const struct ends *e)
{
	uint64_t client, server;

	assert_int_equal(portal_host_quiesce(e->w.h, LONG, NULL), 0);
	client = world_sum(&e->w, 0, e->client, e->n);
	server = world_sum(&e->w, 1, e->server, e->n);
	assert_int_equal(world_sum(&e->w, 0, e->client, e->n), client);
	assert_int_equal(world_sum(&e->w, 1, e->server, e->n), server);
	assert_int_equal(portal_host_resume(e->w.h), 0);
}

/* While the region rests its bytes may be read without asking anybody.  Each side has two threads: the last one that is
 * in the middle of something acknowledges for both. */
static void quiesce(void **state)
{
	bool stop = false;
	struct stream s[4];
	struct ends e;
	pthread_t t[4];

	meet(&e, PORTAL_RECORDS, 2);
	/* Who does nothing would not come to rest. */
	for (unsigned i = 2; i < SEATS; i++) {
		portal_detach(e.w.seat[i].p);
		e.w.seat[i].p = NULL;
	}
	for (unsigned i = 0; i < 4; i++) {
		s[i] = (struct stream) { i % 2 ? e.server[i / 2] : e.client[i / 2], &stop };
		assert_int_equal(pthread_create(&t[i], NULL, i % 2 ? receive_on : send_on, &s[i]), 0);
	}
	for (unsigned i = 0; i < RESTS; i++)
		take_a_rest(&e);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < 4; i++)
		join(t[i]);
	part(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records), cmocka_unit_test(bytes), cmocka_unit_test(fanin),
		cmocka_unit_test(calls),   cmocka_unit_test(names), cmocka_unit_test(quiesce),
	};

	alarm(300);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
