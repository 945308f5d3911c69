/* Names, channels, fan-in and RPC between participants, as threads and as processes. */
#include "support.h"

#include <sched.h>
#include <unistd.h>

#include "portal/atomic.h"
#include "portal/internal.h"

#define N 20000u

static void attach_and_names(void **state)
{
	struct portal_handle h;
	struct portal_object o;
	struct portal_info info;
	uint32_t cursor = 0;
	const void *ro;
	void *rw, *at;
	struct broker b;
	portal *p, *q;

	broker_start(&b, NULL);
	p = broker_attach(&b, "one");
	q = broker_attach(&b, "two");
	assert_non_null(p);
	assert_non_null(q);
	portal_get_info(p, &info);
	assert_string_equal(info.region, "test");
	assert_int_equal(info.self, 1);
	assert_int_equal(portal_open(q, "thing", &o), -ENOENT);
	assert_int_equal(portal_wait_for(q, "thing", 1000000, &o), -ETIMEDOUT);
	assert_int_equal(portal_create(p, "thing", 5000, &h, &at), 0);
	strcpy(at, "hello");
	assert_int_equal(portal_create(p, "thing", 5000, NULL, NULL), -EEXIST);
	assert_int_equal(portal_create(p, "bad name", 5000, NULL, NULL), -EINVAL);
	assert_int_equal(portal_wait_for(q, "thing", LONG, &o), 0);
	assert_int_equal(o.size, 5000);
	assert_int_equal(portal_map(q, &o, &ro, &rw), 0);
	assert_string_equal(ro, "hello");
	assert_null(rw);
	assert_int_equal(portal_map(p, &o, &ro, &rw), 0);
	assert_ptr_equal(rw, at);
	assert_int_equal(portal_unpublish(q, "thing"), -EACCES);
	assert_int_equal(portal_next(q, &cursor, &o), 0);
	assert_string_equal(o.name, "thing");
	assert_int_equal(portal_next(q, &cursor, &o), -ENOENT);
	assert_int_equal(portal_unpublish(p, "thing"), 0);
	assert_int_equal(portal_open(q, "thing", &o), -ENOENT);
	assert_int_equal(portal_free(p, h), 0);
	assert_int_equal(portal_resolve(q, h, 1, &ro), -ESTALE);
	portal_detach(p);
	portal_detach(q);
	broker_end(&b);
}

static int send_many(portal_chan *c)
{
	for (uint32_t i = 0; i < N; i++) {
		uint32_t buf[64];
		size_t n = 4 + 4 * (i % 60);

		for (size_t k = 0; k < n / 4; k++)
			buf[k] = i;
		if (portal_send(c, i, buf, n, LONG) < 0)
			return 1;
	}
	return 0;
}

static int recv_many(portal_chan *c)
{
	for (uint32_t i = 0; i < N; i++) {
		uint32_t buf[64], type;
		size_t n;

		if (portal_recv(c, &type, buf, sizeof(buf), &n, LONG) < 0 || type != i || n != 4 + 4 * (i % 60))
			return 1;
		for (size_t k = 0; k < n / 4; k++)
			if (buf[k] != i)
				return 2;
	}
	return 0;
}

static int records_client(void *arg)
{
	portal *p = broker_attach(arg, "client");
	portal_chan *c;
	int r;

	if (!p || portal_connect(p, "svc", 4096, LONG, &c) < 0)
		return 10;
	r = send_many(c);
	if (!r)
		r = recv_many(c);
	portal_chan_free(c);
	portal_detach(p);
	return r;
}

static void *records_client_thread(void *arg)
{
	return (void *)(intptr_t)records_client(arg);
}

/* Small rings, so that they wrap and both sides sleep. */
static void serve_records(struct broker *b)
{
	struct portal_listen params = { .size = sizeof(params), .tx_capacity = 1024 };
	portal *p = broker_attach(b, "server");
	portal_listener *l;
	portal_chan *c;
	uint32_t type;
	char buf[8];
	size_t n;

	assert_non_null(p);
	assert_int_equal(portal_listen(p, "svc", &params, &l), 0);
	assert_int_equal(portal_accept(l, LONG, &c), 0);
	assert_int_equal(recv_many(c), 0);
	assert_int_equal(send_many(c), 0);
	assert_int_equal(portal_recv(c, &type, buf, sizeof(buf), &n, LONG), -EPIPE);
	portal_chan_free(c);
	portal_listener_free(l);
	portal_detach(p);
}

static void records_between_threads(void **state)
{
	struct broker b;
	pthread_t t;
	void *r;

	broker_start(&b, NULL);
	pthread_create(&t, NULL, records_client_thread, &b);
	serve_records(&b);
	pthread_join(t, &r);
	assert_null(r);
	broker_end(&b);
}

static void records_between_processes(void **state)
{
	struct broker b;
	int pid;

	broker_start(&b, NULL);
	pid = child_start(records_client, &b);
	serve_records(&b);
	child_wait(pid);
	broker_end(&b);
}

#define EACH 32 /* channels from one participant to another */

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

struct door {
	portal_listener *l;
	portal_chan *c;
};

static void *answer_the_door(void *arg)
{
	struct door *d = arg;

	return (void *)(intptr_t)portal_accept(d->l, LONG, &d->c);
}

static void comes_in(struct visitor *v)
{
	void *r;

	pthread_join(v->t, &r);
	assert_null(r);
}

/* The first that is too many waits until there is a place, and is seen then, though it has done nothing since. */
static void channels_of_one_participant(void **state)
{
	struct visitor v[EACH + 2] = { 0 };
	portal_chan *theirs[EACH];
	struct door d = { 0 };
	struct broker b;
	portal *p, *q;
	pthread_t t;
	uint32_t seq;
	void *r;

	broker_start(&b, NULL);
	p = broker_attach(&b, "visitor");
	q = broker_attach(&b, "host");
	assert_int_equal(portal_listen(q, "door", NULL, &d.l), 0);
	for (int i = 0; i < EACH; i++) {
		v[i].p = p;
		assert_int_equal(pthread_create(&v[i].t, NULL, visit, &v[i]), 0);
		assert_int_equal(portal_accept(d.l, LONG, &theirs[i]), 0);
		comes_in(&v[i]);
	}
	for (int i = EACH; i < EACH + 2; i++) {
		v[i].p = p;
		seq = PORTAL_LOAD_ACQ(&p->ctl->links_seq);
		assert_int_equal(pthread_create(&v[i].t, NULL, visit, &v[i]), 0);
		while (PORTAL_LOAD_ACQ(&p->ctl->links_seq) == seq)
			sched_yield();
	}
	assert_int_equal(portal_accept(d.l, 0, &d.c), -EAGAIN);
	portal_chan_free(v[0].c);
	assert_int_equal(portal_accept(d.l, 0, &d.c), -EAGAIN);
	portal_chan_free(theirs[0]);
	assert_int_equal(portal_accept(d.l, 0, &theirs[0]), 0);
	/* The second while somebody waits for it. */
	portal_chan_free(v[1].c);
	assert_int_equal(portal_accept(d.l, SEC / 20, &d.c), -ETIMEDOUT);
	assert_int_equal(pthread_create(&t, NULL, answer_the_door, &d), 0);
	portal_chan_free(theirs[1]);
	pthread_join(t, &r);
	assert_null(r);
	for (int i = EACH; i < EACH + 2; i++)
		comes_in(&v[i]);
	for (int i = 2; i < EACH + 2; i++)
		portal_chan_free(v[i].c);
	for (int i = 0; i < EACH; i++)
		portal_chan_free(i == 1 ? d.c : theirs[i]);
	portal_listener_free(d.l);
	portal_detach(p);
	portal_detach(q);
	broker_end(&b);
}

static int rpc_client(void *arg)
{
	portal *p = broker_attach(arg, "client");
	portal_rpc *r;
	uint64_t id[32];

	if (!p || portal_rpc_connect(p, "echo", LONG, &r) < 0)
		return 1;
	for (unsigned round = 0; round < 50; round++) {
		for (unsigned i = 0; i < 32; i++) {
			unsigned v = round * 32 + i;
			struct portal_bytes in = { .data = &v, .size = sizeof(v) };

			if (portal_rpc_start(r, i, &in, LONG, &id[i]) < 0)
				return 2;
		}
		for (unsigned i = 32; i--;) {
			struct portal_bytes out;
			unsigned v = 0;
			int status;

			if (portal_rpc_finish(r, id[i], &v, sizeof(v), &out, &status) < 0 || status != -(int)i ||
			    out.size != sizeof(v) || v != round * 32 + i + 1)
				return 3;
		}
	}
	/* Method 99 is never answered. */
	if (portal_rpc_call(r, 99, NULL, NULL, 0, NULL, 1000000) != -ETIMEDOUT)
		return 4;
	if (portal_rpc_start(r, 99, NULL, PORTAL_FOREVER, &id[0]) < 0 || portal_rpc_cancel(r, id[0]) < 0)
		return 5;
	if (portal_rpc_finish(r, id[0], NULL, 0, NULL, &(int) { 0 }) != -ECANCELED)
		return 6;
	if (portal_rpc_call(r, 100, NULL, NULL, 0, NULL, LONG) != 0)
		return 7;
	portal_rpc_free(r);
	portal_detach(p);
	return 0;
}

static void rpc_between_processes(void **state)
{
	struct portal_rpc_request q, held[2];
	unsigned n_held = 0, ended = 0;
	portal_rpc_server *s;
	struct broker b;
	portal *p;
	int pid[3];

	broker_start(&b, NULL);
	for (int i = 0; i < 3; i++)
		pid[i] = child_start(rpc_client, &b);
	p = broker_attach(&b, "server");
	assert_non_null(p);
	assert_int_equal(portal_rpc_serve(p, "echo", &s), 0);
	while (ended < 3) {
		unsigned v;

		assert_int_equal(portal_rpc_next(s, &q, LONG), 0);
		if (q.method == 99) {
			held[n_held++ % 2] = q;
			continue;
		}
		if (q.method == 100) {
			ended++;
			assert_int_equal(portal_rpc_reply(s, &q, 0, NULL), 0);
			continue;
		}
		assert_int_equal(q.in.size, sizeof(v));
		memcpy(&v, q.in.data, sizeof(v));
		v++;
		assert_int_equal(portal_rpc_reply(s, &q, -(int)q.method,
						  &(struct portal_bytes) { .data = &v, .size = sizeof(v) }),
				 0);
	}
	/* Some were late, or cancelled, before they could be handed out. */
	for (unsigned i = 0; i < n_held && i < 2; i++) {
		assert_true(portal_rpc_cancelled(s, &held[i]));
		assert_int_equal(portal_rpc_reply(s, &held[i], 0, NULL), 0);
	}
	for (int i = 0; i < 3; i++)
		child_wait(pid[i]);
	portal_rpc_server_free(s);
	portal_detach(p);
	broker_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(attach_and_names),          cmocka_unit_test(records_between_threads),
		cmocka_unit_test(records_between_processes), cmocka_unit_test(channels_of_one_participant),
		cmocka_unit_test(rpc_between_processes),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
