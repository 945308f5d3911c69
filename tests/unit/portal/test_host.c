/* What the host decides, and who dies. */
#include "support.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "os/linux/fd.h"
#include "portal/wire.h"

#define SPIN_SEGMENTS 4

/* Tells the parent something through a pipe that outlives the fork. */
static int pipe_to_parent[2], pipe_to_child[2];

static void pipes_open(void)
{
	assert_int_equal(pipe(pipe_to_parent), 0);
	assert_int_equal(pipe(pipe_to_child), 0);
}

static void pipes_close(void)
{
	for (int i = 0; i < 2; i++) {
		close(pipe_to_parent[i]);
		close(pipe_to_child[i]);
	}
}

static void tell(int fd)
{
	if (write(fd, "x", 1) != 1)
		_exit(99);
}

static void hear(int fd)
{
	char c;

	if (read(fd, &c, 1) != 1)
		_exit(98);
}

/* Publishes, serves one record, and waits to be killed. */
static int victim(void *arg)
{
	portal *p = broker_attach(arg, "victim");
	portal_listener *l;
	portal_chan *c;
	void *at;

	if (!p || portal_create(p, "mine", 100, NULL, &at) < 0 || portal_listen(p, "svc", NULL, &l) < 0)
		return 1;
	memset(at, 7, 100);
	if (portal_accept(l, LONG, &c) < 0 || portal_send(c, 1, "last", 5, LONG) < 0)
		return 2;
	tell(pipe_to_parent[1]);
	for (;;)
		pause();
}

static void death_is_noticed(void **state)
{
	struct portal_host_stat st;
	struct portal_object o;
	const void *ro;
	struct broker b;
	portal_chan *c;
	char buf[16];
	size_t n;
	portal *p;
	int pid;

	pipes_open();
	broker_start(&b, NULL);
	pid = child_start(victim, &b);
	p = broker_attach(&b, "survivor");
	assert_non_null(p);
	assert_int_equal(portal_wait_for(p, "mine", LONG, &o), 0);
	assert_int_equal(portal_map(p, &o, &ro, NULL), 0);
	assert_int_equal(portal_connect(p, "svc", 1024, LONG, &c), 0);
	hear(pipe_to_parent[0]);
	child_kill(pid);
	/* What was published is still read; then the wait ends because the host says so. */
	assert_int_equal(portal_recv(c, NULL, buf, sizeof(buf), &n, LONG), 0);
	assert_string_equal(buf, "last");
	assert_int_equal(portal_recv(c, NULL, buf, sizeof(buf), &n, LONG), -EPIPE);
	assert_int_equal(portal_send(c, 0, buf, 4, LONG), -EPIPE);
	/* The host has finished with it when it answers. */
	assert_int_equal(portal_host_stat(b.h, &st), 0);
	portal_chan_free(c);
	assert_int_equal(portal_open(p, "mine", &o), -ENOENT);
	assert_int_equal(portal_resolve(p, o.handle, 1, &ro), -ESTALE);
	assert_int_equal(((const char *)ro)[99], 7);
	assert_int_equal(st.died, 1);
	assert_int_equal(st.participants, 1);
	portal_detach(p);
	broker_end(&b);
	pipes_close();
}

static void stale_after_reuse(void **state)
{
	struct portal_handle h, h2;
	const void *ro;
	struct broker b;
	portal *p, *q, *r;

	/* Room for no third one. */
	broker_start(&b, &(struct portal_host_params) {
				 .size = sizeof(struct portal_host_params), .name = "test", .segments = 10 });
	p = broker_attach(&b, "first");
	q = broker_attach(&b, "reader");
	assert_int_equal(portal_alloc(p, 100, &h, NULL), 0);
	assert_int_equal(portal_resolve(q, h, 100, &ro), 0);
	assert_int_equal(portal_resolve(q, h, 129, &ro), -EFAULT);
	h2 = h;
	h2.offset += 64;
	assert_int_equal(portal_resolve(q, h2, 1, &ro), -EFAULT);
	h2 = h;
	h2.region++;
	assert_int_equal(portal_resolve(q, h2, 1, &ro), -EFAULT);
	h2 = h;
	h2.segment = UINT32_MAX;
	assert_int_equal(portal_resolve(q, h2, 1, &ro), -EFAULT);
	portal_detach(p);
	r = broker_attach(&b, "second");
	assert_int_equal(portal_alloc(r, 100, &h2, NULL), 0);
	assert_int_equal(h2.segment, h.segment);
	assert_int_equal(h2.offset, h.offset);
	assert_int_equal(portal_resolve(q, h, 1, &ro), -ESTALE);
	assert_int_equal(portal_resolve(q, h2, 1, &ro), 0);
	portal_detach(q);
	portal_detach(r);
	broker_end(&b);
}

/* Scribbles without end. */
static int scribbler(void *arg)
{
	portal *p = broker_attach(arg, "scribbler");
	volatile uint32_t *at;
	void *v;

	if (!p || portal_create(p, "mine", 4096, NULL, &v) < 0)
		return 1;
	at = v;
	for (uint32_t i = 1;; i++) {
		at[i % 1024] = i;
		if (i == 4096)
			tell(pipe_to_parent[1]);
		if (i % 65536 == 0 && portal_poll(p, 0) == 0 && portal_create(p, "again", 64, NULL, NULL) == -EACCES)
			break;
	}
	tell(pipe_to_parent[1]);
	/* Lives on, and writes into nothing. */
	for (uint32_t i = 1; i < 1000000; i++)
		at[i % 1024] = i;
	tell(pipe_to_parent[1]);
	hear(pipe_to_child[0]);
	portal_detach(p);
	return 0;
}

struct poller {
	portal *p;
	int stop;
};

static void *poll_on(void *arg)
{
	struct poller *q = arg;

	while (!__atomic_load_n(&q->stop, __ATOMIC_ACQUIRE))
		(void)portal_poll(q->p, 1000000);
	return NULL;
}

static void revoke_stops_changes(void **state)
{
	struct poller q = { 0 };
	struct portal_object o;
	uint32_t before[1024];
	const void *ro;
	struct broker b;
	pthread_t t;
	int pid;

	pipes_open();
	broker_start(&b, NULL);
	pid = child_start(scribbler, &b);
	q.p = broker_attach(&b, "reader");
	assert_int_equal(portal_wait_for(q.p, "mine", LONG, &o), 0);
	assert_int_equal(portal_map(q.p, &o, &ro, NULL), 0);
	hear(pipe_to_parent[0]);
	pthread_create(&t, NULL, poll_on, &q);
	assert_int_equal(portal_host_revoke(b.h, o.owner, LONG), 0);
	memcpy(before, ro, sizeof(before));
	assert_int_not_equal(before[5], 0);
	hear(pipe_to_parent[0]);
	hear(pipe_to_parent[0]);
	assert_memory_equal(before, ro, sizeof(before));
	assert_int_equal(portal_open(q.p, "mine", &o), -ENOENT);
	tell(pipe_to_child[1]);
	child_wait(pid);
	__atomic_store_n(&q.stop, 1, __ATOMIC_RELEASE);
	pthread_join(t, NULL);
	portal_detach(q.p);
	broker_end(&b);
	pipes_close();
}

/* Revoked and gone before a reader looks: what that one has mapped the writer can still change. */
static void revoked_and_then_dead(void **state)
{
	struct portal_info info;
	struct portal_object o;
	const uint8_t *ro;
	const void *at;
	struct broker b;
	portal *p, *q;
	void *rw;

	broker_start(&b, NULL);
	q = broker_attach(&b, "reader");
	for (int seen = 0; seen < 2; seen++) {
		p = broker_attach(&b, "writer");
		portal_get_info(p, &info);
		assert_int_equal(portal_create(p, "thing", 4096, NULL, &rw), 0);
		memset(rw, 'w', 4096);
		assert_int_equal(portal_open(q, "thing", &o), 0);
		assert_int_equal(portal_map(q, &o, &at, NULL), 0);
		ro = at;
		assert_int_equal(portal_host_revoke(b.h, info.self, 0), -ETIMEDOUT);
		/* Who has looked has the host's copy, which stays. */
		if (seen)
			assert_int_equal(portal_poll(q, 0), 0);
		assert_int_equal(portal_host_remove(b.h, info.self), 0);
		assert_int_equal(portal_poll(q, 0), 0);
		memset(rw, 'x', 4096);
		assert_int_equal(ro[5], seen ? 'w' : 0);
		assert_int_equal(portal_map(q, &o, &at, NULL), -ESTALE);
		portal_detach(p);
	}
	portal_detach(q);
	broker_end(&b);
}

/* A reader sleeps through the end of one and the beginning of the next in its place, under a lower number. */
static void place_of_a_dead_one_is_taken(void **state)
{
	struct portal_host_params hp = { .size = sizeof(hp), .name = "r", .segments = 4, .name_slots = 8 };
	struct portal_attach pa = { .size = sizeof(pa), .name = "reader", .segments = 1 };
	struct portal_object o;
	struct broker b;
	const void *at;
	portal *q;

	broker_start(&b, &hp);
	pa.path = b.path;
	assert_int_equal(portal_attach(&pa, &q), 0);
	/* The host's arena and the reader's leave two places, used in turn as are the numbers from 2 to 255. */
	assert_int_equal(come_and_go(b.h, 252), 0);
	assert_int_equal(portal_host_object(b.h, "thing", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(portal_open(q, "thing", &o), 0);
	assert_int_equal(portal_map(q, &o, &at, NULL), 0);
	assert_int_equal(portal_host_unpublish(b.h, "thing"), 0);
	assert_int_equal(come_and_go(b.h, 1), 0);
	assert_int_equal(portal_host_object(b.h, "thing", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(portal_open(q, "thing", &o), 0);
	assert_int_equal(portal_map(q, &o, &at, NULL), 0);
	portal_detach(q);
	broker_end(&b);
}

static portal *attach_small(struct broker *b, const char *name)
{
	struct portal_attach a = { .size = sizeof(a), .path = b->path, .name = name, .segments = 1 };
	portal *p = NULL;

	assert_int_equal(portal_attach(&a, &p), 0);
	return p;
}

/* A number comes again with another place; the one that lives there is not disturbed when the former place is used. */
static void former_place_of_a_number_is_taken(void **state)
{
	struct portal_host_params hp = { .size = sizeof(hp), .name = "r", .segments = 300, .name_slots = 8 };
	struct portal_object first, stays, last;
	struct broker b;
	const void *at;
	portal *q;

	broker_start(&b, &hp);
	q = attach_small(&b, "reader");
	assert_int_equal(portal_host_object(b.h, "first", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(portal_open(q, "first", &first), 0);
	assert_int_equal(portal_map(q, &first, &at, NULL), 0);
	assert_int_equal(portal_host_unpublish(b.h, "first"), 0);
	assert_int_equal(portal_poll(q, 0), 0);
	/* The numbers once round, without the host's and the reader's; the places not yet. */
	assert_int_equal(come_and_go(b.h, PORTAL_MAX_ARENAS - 3), 0);
	assert_int_equal(portal_host_object(b.h, "stays", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(portal_open(q, "stays", &stays), 0);
	assert_int_equal(stays.handle.segment, first.handle.segment + PORTAL_MAX_ARENAS - 2);
	assert_int_equal(portal_map(q, &stays, &at, NULL), 0);
	assert_int_equal(portal_map(q, &first, &at, NULL), -ESTALE);
	assert_int_equal(come_and_go(b.h, (int)(hp.segments - stays.handle.segment) - 1), 0);
	assert_int_equal(portal_host_object(b.h, "last", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(portal_open(q, "last", &last), 0);
	assert_int_equal(last.handle.segment, first.handle.segment);
	assert_int_equal(portal_map(q, &last, &at, NULL), 0);
	assert_int_equal(portal_map(q, &stays, &at, NULL), 0);
	portal_detach(q);
	broker_end(&b);
}

/* A writer with something in its arena that a reader has mapped, revoked and gone before the reader looks. */
struct gone_writer {
	portal *p, *reader;
	uint8_t *rw;
	const uint8_t *ro;
};

static void writer_goes(struct broker *b, portal *reader, struct gone_writer *ret)
{
	struct portal_info info;
	struct portal_object o;
	const void *ro;
	void *rw;

	ret->reader = reader;
	ret->p = attach_small(b, "writer");
	portal_get_info(ret->p, &info);
	assert_int_equal(portal_create(ret->p, "secret", 4096, NULL, &rw), 0);
	memset(rw, 'w', 4096);
	assert_int_equal(portal_open(reader, "secret", &o), 0);
	assert_int_equal(portal_map(reader, &o, &ro, NULL), 0);
	assert_int_equal(portal_host_revoke(b->h, info.self, 0), -ETIMEDOUT);
	assert_int_equal(portal_host_remove(b->h, info.self), 0);
	ret->rw = rw;
	ret->ro = ro;
	assert_int_equal(ret->ro[5], 'w');
}

static void assert_out_of_reach(struct gone_writer *w)
{
	assert_int_equal(portal_poll(w->reader, 0), 0);
	memset(w->rw, 'x', 4096);
	assert_int_equal(w->ro[5], 0);
	portal_detach(w->p);
	portal_detach(w->reader);
}

/* The reader hears of the next that has the writer's number, somewhere else, not of the writer's end. */
static void number_of_a_revoked_one_is_taken(void **state)
{
	for (uint64_t readers = 0;; readers = PORTAL_EVERYBODY) {
		struct gone_writer w;
		struct broker b;
		unsigned n = 0;
		char name[32];
		int r;

		broker_start(&b, NULL);
		writer_goes(&b, attach_small(&b, "reader"), &w);
		do {
			snprintf(name, sizeof(name), "o%u", n++);
			r = portal_host_object(b.h, name, 1, PORTAL_NOBODY, readers);
		} while (r == 0);
		/* All numbers but the host's and the reader's. */
		assert_int_equal(r, -EMFILE);
		assert_int_equal(n, PORTAL_MAX_ARENAS - 1);
		assert_out_of_reach(&w);
		broker_end(&b);
		if (readers)
			break;
	}
}

/* The reader hears first of one in the writer's place that it may not see. */
static void place_of_a_revoked_one_is_taken(void **state)
{
	struct portal_host_params hp = { .size = sizeof(hp), .name = "r", .segments = 4, .name_slots = 8 };
	struct gone_writer w;
	struct broker b;
	portal *reader;

	broker_start(&b, &hp);
	reader = attach_small(&b, "reader");
	/* Number 2, of which the reader knows; the writer is number 3 in place 3. */
	assert_int_equal(portal_host_object(b.h, "low", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	writer_goes(&b, reader, &w);
	assert_int_equal(portal_host_unpublish(b.h, "low"), 0);
	/* Round the numbers, so that 2 comes with place 3. */
	assert_int_equal(portal_host_object(b.h, "both", 2, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(portal_host_unpublish(b.h, "both"), 0);
	assert_int_equal(come_and_go(b.h, PORTAL_MAX_ARENAS - 5), 0);
	assert_int_equal(portal_host_object(b.h, "hidden", 1, PORTAL_NOBODY, 0), 0);
	assert_out_of_reach(&w);
	broker_end(&b);
}

static void grants_of_objects(void **state)
{
	struct poller a = { 0 }, c = { 0 };
	struct portal_info ia, ic;
	struct portal_object o;
	const void *ro;
	void *rw;
	struct broker b;
	pthread_t ta, tc;

	broker_start(&b, NULL);
	a.p = broker_attach(&b, "a");
	c.p = broker_attach(&b, "c");
	portal_get_info(a.p, &ia);
	portal_get_info(c.p, &ic);
	pthread_create(&ta, NULL, poll_on, &a);
	pthread_create(&tc, NULL, poll_on, &c);
	assert_int_equal(portal_host_object(b.h, "disk", 2, ia.self, 0), 0);
	assert_int_equal(portal_open(c.p, "disk", &o), 0);
	assert_int_equal(portal_map(c.p, &o, &ro, &rw), -EACCES);
	assert_int_equal(portal_map(a.p, &o, &ro, &rw), 0);
	assert_non_null(rw);
	strcpy(rw, "by a");
	assert_int_equal(portal_host_grant(b.h, "disk", ic.self, PORTAL_READ, LONG), 0);
	assert_int_equal(portal_map(c.p, &o, &ro, &rw), 0);
	assert_string_equal(ro, "by a");
	assert_null(rw);
	assert_int_equal(portal_host_grant(b.h, "disk", ic.self, PORTAL_WRITE, LONG), 0);
	assert_int_equal(portal_map(c.p, &o, &ro, &rw), 0);
	assert_non_null(rw);
	assert_string_equal(rw, "by a");
	strcpy(rw, "by c");
	assert_int_equal(portal_map(a.p, &o, &ro, &rw), 0);
	assert_null(rw);
	assert_string_equal(ro, "by c");
	assert_int_equal(portal_host_grant(b.h, "disk", ia.self, PORTAL_NONE, LONG), 0);
	assert_int_equal(portal_map(a.p, &o, &ro, &rw), -EACCES);
	assert_int_equal(portal_host_grant(b.h, "nothing", ia.self, PORTAL_READ, LONG), -ENOENT);
	assert_int_equal(portal_host_unpublish(b.h, "disk"), 0);
	assert_int_equal(portal_open(a.p, "disk", &o), -ENOENT);
	__atomic_store_n(&a.stop, 1, __ATOMIC_RELEASE);
	__atomic_store_n(&c.stop, 1, __ATOMIC_RELEASE);
	pthread_join(ta, NULL);
	pthread_join(tc, NULL);
	portal_detach(a.p);
	portal_detach(c.p);
	broker_end(&b);
}

static void quiesce_and_a_late_one(void **state)
{
	struct portal_quiesce q;
	struct poller a = { 0 };
	struct portal_info ia, ic;
	struct portal_handle h;
	struct broker b;
	pthread_t t;
	portal *late;

	broker_start(&b, NULL);
	a.p = broker_attach(&b, "a");
	late = broker_attach(&b, "late");
	portal_get_info(a.p, &ia);
	portal_get_info(late, &ic);
	pthread_create(&t, NULL, poll_on, &a);
	assert_int_equal(portal_host_quiesce(b.h, 2 * SEC, &q), -ETIMEDOUT);
	assert_int_equal(q.arrived, 1ull << ia.self);
	assert_int_equal(q.late, 1ull << ic.self);
	/* It comes; it does not come past. */
	assert_int_equal(portal_poll(late, 0), -EAGAIN);
	assert_int_equal(portal_host_quiesce(b.h, LONG, &q), 0);
	assert_int_equal(q.late, 0);
	assert_int_equal(portal_host_resume(b.h), 0);
	assert_int_equal(portal_host_resume(b.h), -EINVAL);
	assert_int_equal(portal_alloc(late, 64, &h, NULL), 0);
	__atomic_store_n(&a.stop, 1, __ATOMIC_RELEASE);
	pthread_join(t, NULL);
	portal_detach(a.p);
	portal_detach(late);
	broker_end(&b);
}

static void broker_ends_first(void **state)
{
	struct portal_object o;
	struct broker b;
	portal *p;

	broker_start(&b, NULL);
	p = broker_attach(&b, "orphan");
	broker_end(&b);
	assert_int_equal(portal_wait_for(p, "x", LONG, &o), -EPIPE);
	assert_int_equal(portal_poll(p, LONG), -EPIPE);
	portal_detach(p);
}

static int broker_only(void *arg)
{
	const struct broker *b = arg;
	struct portal_host_params q = { .size = sizeof(q), .name = "doomed", .path = b->path, .segments = 64 };
	portal_host *h;

	if (portal_host_create(&q, &h) < 0)
		return 1;
	tell(pipe_to_parent[1]);
	while (portal_host_dispatch(h, -1) == 0)
		;
	return 2;
}

/* Nobody tells us; the wait ends all the same. */
static void broker_is_killed(void **state)
{
	struct broker b = { .path = "/tmp/portal-doomed" };
	struct portal_object o;
	portal *p;
	int pid;

	snprintf(b.path, sizeof(b.path), "/tmp/portal-doomed-%d", getpid());
	pipes_open();
	pid = child_start(broker_only, &b);
	hear(pipe_to_parent[0]);
	p = broker_attach(&b, "orphan");
	assert_non_null(p);
	child_kill(pid);
	assert_int_equal(portal_wait_for(p, "x", PORTAL_FOREVER, &o), -EPIPE);
	portal_detach(p);
	unlink(b.path);
	pipes_close();
}

/* One who calls without end, until he is killed. */
static int caller(void *arg)
{
	portal *p = broker_attach(arg, "caller");
	portal_rpc *r;
	unsigned v = 0;
	int e = p ? portal_rpc_connect(p, "echo", LONG, &r) : -ENODEV;

	while (e == 0) {
		struct portal_bytes in = { .data = &v, .size = sizeof(v) };
		unsigned w = 0;

		e = portal_rpc_call(r, 1, &in, &w, sizeof(w), NULL, LONG);
		if (e == 0 && w != v)
			e = -EBADMSG;
		v++;
	}
	fprintf(stderr, "caller: call %u: %s\n", v, strerror(-e));
	return 1;
}

/* Calls a fixed number of times and is never disturbed. */
static int steady(void *arg)
{
	portal *p = broker_attach(arg, "steady");
	portal_rpc *r;

	if (!p || portal_rpc_connect(p, "echo", LONG, &r) < 0)
		return 1;
	for (unsigned v = 0;; v++) {
		struct portal_bytes in = { .data = &v, .size = sizeof(v) };
		unsigned w = 0;
		int e = portal_rpc_call(r, 2, &in, &w, sizeof(w), NULL, LONG);

		if (e == 7 - 100)
			return 0;
		if (e || w != v)
			return 2;
	}
}

static void killed_at_random(void **state)
{
	struct portal_rpc_request q;
	unsigned seed = 5, left = 50, seen = 0;
	struct portal_host_stat st;
	portal_rpc_server *s;
	struct broker b;
	int calm, pid;
	portal *p;

	broker_start(&b, NULL);
	calm = child_start(steady, &b);
	pid = child_start(caller, &b);
	p = broker_attach(&b, "server");
	assert_int_equal(portal_rpc_serve(p, "echo", &s), 0);
	for (;;) {
		assert_int_equal(portal_rpc_next(s, &q, LONG), 0);
		if (q.method == 2 && !left) {
			assert_int_equal(portal_rpc_reply(s, &q, 7 - 100, NULL), 0);
			break;
		}
		assert_int_equal(portal_rpc_reply(s, &q, 0, &q.in), 0);
		if (q.method != 1 || !left)
			continue;
		seen++;
		if ((unsigned)rand_r(&seed) % 64 == 0) {
			child_kill(pid);
			pid = --left ? child_start(caller, &b) : 0;
		}
	}
	assert_true(seen > 50);
	child_wait(calm);
	portal_rpc_server_free(s);
	portal_detach(p);
	assert_int_equal(portal_host_stat(b.h, &st), 0);
	assert_true(st.attached >= 52);
	broker_end(&b);
}

/* Whatever comes over the socket costs its sender the connection, nothing else. */
static void garbage_on_the_socket(void **state)
{
	struct portal_attach a = { .size = sizeof(a), .name = "x", .segments = 100000 };
	struct portal_host_stat st;
	struct broker b;
	uint32_t m[32];
	portal *p;

	broker_start(&b, NULL);
	for (unsigned i = 0; i < 64; i++) {
		int s = wslx_unix_connect(b.path, SOCK_SEQPACKET);

		assert_true(s >= 0);
		for (unsigned k = 0; k < 32; k++)
			m[k] = i * 2654435761u >> (k % 13);
		m[0] = i % 8;
		assert_true(send(s, m, i % 5 ? sizeof(m) : i, MSG_NOSIGNAL) >= 0);
		while (recv(s, m, sizeof(m), 0) > 0)
			assert_true((int32_t)m[2] < 0);
		close(s);
	}
	a.path = b.path;
	assert_int_equal(portal_attach(&a, &p), -EDQUOT);
	p = broker_attach(&b, "fine");
	assert_non_null(p);
	assert_int_equal(portal_host_stat(b.h, &st), 0);
	assert_int_equal(st.participants, 1);
	portal_detach(p);
	broker_end(&b);
}

/* A guest's VMM speaks for it: one message, then answers until DONE, whose epoch is returned. */
static uint32_t vmm_says(int s, const struct wslx_portal_msg *q)
{
	struct wslx_portal_msg m;

	assert_int_equal(send(s, q, sizeof(*q), MSG_NOSIGNAL), sizeof(*q));
	do {
		int fd = -1;
		size_t n = 1;

		assert_int_equal(wslx_recv_fds(s, &m, sizeof(m), &fd, &n, 0), sizeof(m));
		if (n)
			close(fd);
	} while (m.op != PORTAL_OP_DONE);
	return m.epoch;
}

static void guests_are_waited_for(void **state)
{
	struct wslx_portal_msg hello = { .op = PORTAL_OP_HELLO,
					 .version = PORTAL_VERSION,
					 .kind = PORTAL_KIND_GUEST,
					 .id = 3,
					 .segments = 1,
					 .name = "guest" };
	struct wslx_portal_msg sync = { .op = PORTAL_OP_SYNC }, synced = { .op = PORTAL_OP_SYNCED };
	struct portal_host_participant who = { 0 };
	uint32_t cursor = 0;
	struct broker b;
	int s;

	broker_start(&b, NULL);
	s = wslx_unix_connect(b.path, SOCK_SEQPACKET);
	assert_true(s >= 0);
	synced.epoch = vmm_says(s, &hello);
	while (portal_host_next_participant(b.h, &cursor, &who) == 0 && who.index == 0)
		;
	assert_int_equal(who.kind, PORTAL_KIND_GUEST);
	assert_int_equal(who.pid, getpid());
	assert_int_equal(who.generation, 1);
	/* What it has put in place is old, whatever the guest's own memory says. */
	assert_int_equal(send(s, &synced, sizeof(synced), MSG_NOSIGNAL), sizeof(synced));
	assert_int_equal(portal_host_revoke(b.h, who.index, SEC / 20), -ETIMEDOUT);
	synced.epoch = vmm_says(s, &sync);
	assert_int_equal(portal_host_object(b.h, "x", 1, 0, 0), 0);
	assert_int_equal(portal_host_grant(b.h, "x", who.index, PORTAL_READ, 0), -ENOENT);
	assert_int_equal(portal_host_object(b.h, "y", 1, 0, 0), 0);
	synced.epoch = vmm_says(s, &sync);
	assert_int_equal(send(s, &synced, sizeof(synced), MSG_NOSIGNAL), sizeof(synced));
	assert_int_equal(portal_host_seen(b.h, LONG), 0);
	/* A process has no business saying so. */
	close(s);
	hello.kind = PORTAL_KIND_PROCESS;
	s = wslx_unix_connect(b.path, SOCK_SEQPACKET);
	assert_true(s >= 0);
	(void)vmm_says(s, &hello);
	assert_int_equal(send(s, &synced, sizeof(synced), MSG_NOSIGNAL), sizeof(synced));
	assert_int_equal(recv(s, &synced, sizeof(synced), 0), 0);
	close(s);
	broker_end(&b);
}

static void read_only_means_it(void **state)
{
	struct broker b;
	portal *p;
	int fd;

	broker_start(&b, NULL);
	p = broker_attach(&b, "x");
	fd = portal_host_arena_fd(b.h, 1, 0);
	assert_true(fd >= 0);
	assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	assert_int_not_equal(ftruncate(fd, 0), 0);
	close(fd);
	fd = portal_host_arena_fd(b.h, 1, 1);
	assert_int_not_equal(ftruncate(fd, 0), 0);
	close(fd);
	assert_int_equal(portal_host_arena_fd(b.h, 77, 0), -ENOENT);
	portal_detach(p);
	broker_end(&b);
}

/* Connects and says nothing, many times more than the broker keeps. */
static int crowd(void *arg)
{
	const struct broker *b = arg;
	int s[300], r = 0;
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return 1;
	l.rlim_cur = l.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &l) < 0)
		return 2;
	for (unsigned i = 0; i < ARRAY_SIZE(s) && r == 0; i++) {
		s[i] = wslx_unix_connect_within(b->path, SOCK_SEQPACKET, 5000);
		r = s[i] < 0 ? 3 : 0;
	}
	tell(pipe_to_parent[1]);
	hear(pipe_to_child[0]);
	return r;
}

/* The lowest number that is free: with none below it, how many are open. */
static int next_descriptor(void)
{
	int fd = dup(0);

	assert_true(fd >= 0);
	close(fd);
	return fd;
}

static void limit_descriptors(rlim_t n)
{
	struct rlimit l;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &l), 0);
	l.rlim_cur = n;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &l), 0);
}

static void silent_crowd(void **state)
{
	struct portal_host_stat st;
	struct rlimit old;
	struct broker b;
	int pid, before;
	portal *p;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	pipes_open();
	broker_start(&b, NULL);
	before = next_descriptor();
	limit_descriptors((rlim_t)before + 150);
	pid = child_start(crowd, &b);
	hear(pipe_to_parent[0]);
	/* They are all there still, and nobody else minds. */
	p = broker_attach(&b, "fine");
	assert_non_null(p);
	assert_int_equal(portal_host_object(b.h, "x", 1, 0, 0), 0);
	assert_int_equal(portal_host_unpublish(b.h, "x"), 0);
	portal_detach(p);
	assert_int_equal(portal_host_stat(b.h, &st), 0);
	assert_int_equal(st.attached, 1);
	/* Their time is over. */
	for (unsigned i = 0; i < 100 && next_descriptor() > before; i++)
		usleep(100000);
	assert_int_equal(next_descriptor(), before);
	tell(pipe_to_child[1]);
	child_wait(pid);
	limit_descriptors(old.rlim_cur);
	broker_end(&b);
	pipes_close();
}

/* Says HELLO at once, and is heard in the end. */
static int patient(void *arg)
{
	const struct broker *b = arg;
	struct wslx_portal_msg m = { .op = PORTAL_OP_HELLO,
				     .version = PORTAL_VERSION,
				     .kind = PORTAL_KIND_PROCESS,
				     .segments = 1,
				     .name = "patient" };
	int s;

	limit_descriptors(4096);
	s = wslx_unix_connect(b->path, SOCK_SEQPACKET);
	if (s < 0 || send(s, &m, sizeof(m), MSG_NOSIGNAL) != sizeof(m))
		return 1;
	tell(pipe_to_parent[1]);
	if (recv(s, &m, sizeof(m), 0) != sizeof(m) || m.op != PORTAL_OP_WELCOME)
		return 2;
	return m.status;
}

static void no_descriptors(void **state)
{
	struct portal_info info;
	struct rlimit old;
	struct broker b;
	int64_t before;
	portal *p;
	int pid;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	pipes_open();
	broker_start(&b, NULL);
	p = broker_attach(&b, "revoked");
	portal_get_info(p, &info);
	limit_descriptors((rlim_t)next_descriptor());
	assert_int_equal(dup(0), -1);
	pid = child_start(patient, &b);
	hear(pipe_to_parent[0]);
	/* There is one who cannot be let in: it does not keep the broker awake. */
	before = broker_used_ns(&b);
	usleep(500000);
	assert_true(broker_used_ns(&b) - before < SEC / 10);
	assert_int_equal(portal_host_revoke(b.h, info.self, 0), 0);
	assert_int_equal(dup(0), -1);
	limit_descriptors(old.rlim_cur);
	child_wait(pid);
	portal_detach(p);
	broker_end(&b);
	pipes_close();
}

/* A participant takes three: what is kept for others is not touched. */
static void nearly_no_descriptors(void **state)
{
	struct rlimit old;
	struct broker b;
	int pid, n;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	pipes_open();
	broker_start(&b, NULL);
	n = next_descriptor();
	limit_descriptors((rlim_t)n + 10);
	pid = child_start(crowd, &b);
	hear(pipe_to_parent[0]);
	assert_int_equal(portal_host_object(b.h, "x", 1, 0, 0), 0);
	assert_int_equal(portal_host_object(b.h, "y", 1, 0, 0), 0);
	tell(pipe_to_child[1]);
	child_wait(pid);
	limit_descriptors(old.rlim_cur);
	broker_end(&b);
	pipes_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(death_is_noticed),
		cmocka_unit_test(stale_after_reuse),
		cmocka_unit_test(revoke_stops_changes),
		cmocka_unit_test(revoked_and_then_dead),
		cmocka_unit_test(place_of_a_dead_one_is_taken),
		cmocka_unit_test(former_place_of_a_number_is_taken),
		cmocka_unit_test(number_of_a_revoked_one_is_taken),
		cmocka_unit_test(place_of_a_revoked_one_is_taken),
		cmocka_unit_test(grants_of_objects),
		cmocka_unit_test(quiesce_and_a_late_one),
		cmocka_unit_test(broker_ends_first),
		cmocka_unit_test(broker_is_killed),
		cmocka_unit_test(killed_at_random),
		cmocka_unit_test(guests_are_waited_for),
		cmocka_unit_test(garbage_on_the_socket),
		cmocka_unit_test(read_only_means_it),
		cmocka_unit_test(silent_crowd),
		cmocka_unit_test(no_descriptors),
		cmocka_unit_test(nearly_no_descriptors),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
