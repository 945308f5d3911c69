/* A participant in a machine: window, tables, doorbell. */
#include "vm.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "portal/atomic.h"
#include "portal/internal.h"

#define ROUNDS 2000

static struct broker b;

static int setup(void **state)
{
	broker_start(&b, NULL);
	return 0;
}

static int teardown(void **state)
{
	broker_end(&b);
	return 0;
}

/* ---- both sides of an exchange ---- */

static void *doubles(void *arg)
{
	struct portal_rpc_request q;
	portal_rpc_server *s;
	intptr_t served = 0;

	if (portal_rpc_serve(arg, "double", &s) < 0)
		return (void *)-1;
	while (portal_rpc_next(s, &q, LONG) == 0) {
		int n;
		struct portal_bytes out = { .data = &n, .size = sizeof(n) };

		if (q.method == 0)
			break;
		memcpy(&n, q.in.data, sizeof(n));
		n *= 2;
		if (portal_rpc_reply(s, &q, 0, &out) == 0)
			served++;
	}
	portal_rpc_server_free(s);
	return (void *)served;
}

static void asks(portal *p, int rounds)
{
	struct portal_bytes out;
	portal_rpc *r;
	int answer;

	assert_int_equal(portal_rpc_connect(p, "double", LONG, &r), 0);
	for (int i = 0; i < rounds; i++) {
		struct portal_bytes in = { .data = &i, .size = sizeof(i) };

		assert_int_equal(portal_rpc_call(r, 1, &in, &answer, sizeof(answer), &out, LONG), 0);
		assert_int_equal(answer, 2 * i);
		/* Long enough apart that both sides sleep: the doorbell is what wakes. */
		if (i % 100 == 0)
			usleep(2000);
	}
	assert_int_equal(portal_rpc_start(r, 0, NULL, LONG, &(uint64_t) { 0 }), 0);
	portal_rpc_free(r);
}

static void exchange(portal *server, portal *client)
{
	pthread_t t;
	void *served;

	assert_non_null(server);
	assert_non_null(client);
	assert_int_equal(pthread_create(&t, NULL, doubles, server), 0);
	asks(client, ROUNDS);
	pthread_join(t, &served);
	assert_int_equal((intptr_t)served, ROUNDS);
}

static void host_serves(void **state)
{
	portal *host, *guest;
	struct portal_info info;
	static struct vm v;

	vm_start(&v, &b, "test");
	host = broker_attach(&b, "host");
	guest = vm_attach(&v);
	exchange(host, guest);
	portal_get_info(guest, &info);
	assert_string_equal(info.region, "test");
	assert_int_equal(info.self, vm_entry(&v)->participant);
	portal_detach(guest);
	portal_detach(host);
	vm_end(&v);
}

static void guest_serves(void **state)
{
	portal *host, *guest;
	static struct vm v;

	vm_start(&v, &b, "test");
	guest = vm_attach(&v);
	/* Its arena is newer than what the guest has seen. */
	host = broker_attach(&b, "host");
	exchange(guest, host);
	portal_detach(guest);
	portal_detach(host);
	vm_end(&v);
}

static void guest_to_guest(void **state)
{
	portal *one, *two;
	static struct vm v, w;

	vm_start(&v, &b, "one");
	vm_start(&w, &b, "two");
	one = vm_attach(&v);
	two = vm_attach(&w);
	exchange(one, two);
	portal_detach(one);
	portal_detach(two);
	vm_end(&v);
	vm_end(&w);
}

/* What there was no room for is there when there is, though nothing else has changed. */
static void room_comes_late(void **state)
{
	struct portal_info before, after, all;
	struct portal_object o;
	portal *host, *guest;
	const void *at;
	static struct vm v;
	void *to;
	int r;

	vm_start(&v, &b, "test");
	guest = vm_attach(&v);
	vm_full(&v);
	host = broker_attach(&b, "host");
	assert_int_equal(portal_create(host, "late", 4096, NULL, &to), 0);
	memcpy(to, "there", 6);
	assert_int_equal(portal_wait_for(guest, "late", LONG, &o), 0);
	while (!__atomic_load_n(&v.left_out, __ATOMIC_SEQ_CST))
		usleep(1000);
	/* All else has arrived. */
	portal_get_info(host, &all);
	do {
		r = portal_poll(guest, 1000000);
		assert_true(r == 0 || r == -ETIMEDOUT);
		portal_get_info(guest, &before);
	} while (before.epoch != all.epoch);
	assert_int_not_equal(portal_map(guest, &o, &at, NULL), 0);
	vm_room(&v);
	while (portal_map(guest, &o, &at, NULL) != 0)
		usleep(1000);
	assert_string_equal(at, "there");
	portal_get_info(guest, &after);
	assert_int_equal(before.epoch, after.epoch);
	portal_detach(guest);
	portal_detach(host);
	vm_end(&v);
}

/* A name is seen before the window has its arena: what it stands for is nothing yet, and not a lie. */
static void window_comes_after_the_name(void **state)
{
	struct portal_object o, segment;
	portal *host, *guest;
	const void *at;
	static struct vm v;
	void *to;

	vm_start(&v, &b, "test");
	guest = vm_attach(&v);
	vm_slow(&v, true);
	host = broker_attach(&b, "host");
	assert_int_equal(portal_create(host, "early", 4096, NULL, &to), 0);
	memcpy(to, "there", 6);
	assert_int_equal(portal_open(guest, "early", &o), 0);
	assert_int_equal(portal_map(guest, &o, &at, NULL), -ESTALE);
	/* Of whole segments, too. */
	assert_int_equal(portal_host_object(b.h, "segment", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(portal_open(guest, "segment", &segment), 0);
	assert_int_equal(portal_map(guest, &segment, &at, NULL), -ESTALE);
	vm_slow(&v, false);
	while (portal_map(guest, &o, &at, NULL) != 0)
		assert_true(portal_poll(guest, LONG) == 0);
	assert_string_equal(at, "there");
	while (portal_map(guest, &segment, &at, NULL) != 0)
		assert_true(portal_poll(guest, LONG) == 0);
	assert_int_equal(portal_host_unpublish(b.h, "segment"), 0);
	portal_detach(guest);
	portal_detach(host);
	vm_end(&v);
}

/* ---- many threads, one doorbell ---- */

#define THREADS 6

struct talker {
	portal *p;
	char name[16];
	pthread_t t;
	int r;
};

static void *echoes(void *arg)
{
	struct talker *t = arg;
	portal_listener *l = NULL;
	portal_chan *c = NULL;
	uint32_t type;
	size_t n;
	int i;

	t->r = portal_listen(t->p, t->name, NULL, &l);
	if (t->r == 0)
		t->r = portal_accept(l, LONG, &c);
	while (t->r == 0) {
		t->r = portal_recv(c, &type, &i, sizeof(i), &n, LONG);
		if (t->r == 0)
			t->r = portal_send(c, type, &i, n, LONG);
	}
	portal_chan_free(c);
	portal_listener_free(l);
	return NULL;
}

static void *talks(void *arg)
{
	struct talker *t = arg;
	portal_chan *c = NULL;
	int back;
	size_t n;

	t->r = portal_connect(t->p, t->name, 1024, LONG, &c);
	for (int i = 0; t->r == 0 && i < 300; i++) {
		if (i % 7 == 0)
			usleep(300);
		t->r = portal_send(c, 1, &i, sizeof(i), LONG);
		if (t->r == 0)
			t->r = portal_recv(c, NULL, &back, sizeof(back), &n, LONG);
		if (t->r == 0 && back != i)
			t->r = -EBADMSG;
	}
	portal_chan_free(c);
	return NULL;
}

static void many_threads_wait(void **state)
{
	struct talker talker[THREADS], echo[THREADS];
	portal *one, *two;
	static struct vm v, w;

	vm_start(&v, &b, "one");
	vm_start(&w, &b, "two");
	one = vm_attach(&v);
	two = vm_attach(&w);
	for (int i = 0; i < THREADS; i++) {
		echo[i] = (struct talker) { .p = one };
		talker[i] = (struct talker) { .p = two };
		snprintf(echo[i].name, sizeof(echo[i].name), "echo%d", i);
		strcpy(talker[i].name, echo[i].name);
		assert_int_equal(pthread_create(&echo[i].t, NULL, echoes, &echo[i]), 0);
		assert_int_equal(pthread_create(&talker[i].t, NULL, talks, &talker[i]), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(talker[i].t, NULL);
		pthread_join(echo[i].t, NULL);
		assert_int_equal(talker[i].r, 0);
		assert_int_equal(echo[i].r, -EPIPE);
	}
	portal_detach(one);
	portal_detach(two);
	vm_end(&v);
	vm_end(&w);
}

/* A machine's program sleeps through the end of one and the beginning of the next in its place, under a lower number.
 */
static void place_of_a_dead_one_is_taken(void **state)
{
	/* The host's and the machine's arena leave one place. */
	struct portal_host_params hp = { .size = sizeof(hp), .name = "test", .segments = 6, .name_slots = 8 };
	struct portal_object o;
	struct broker small;
	static struct vm v;
	const void *at;
	portal *guest;

	broker_start(&small, &hp);
	assert_int_equal(come_and_go(small.h, PORTAL_MAX_ARENAS - 3), 0);
	vm_start(&v, &small, "test");
	guest = vm_attach(&v);
	for (int round = 0; round < 2; round++) {
		/* Number 255, then number 1. */
		assert_int_equal(portal_host_object(small.h, "thing", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
		assert_int_equal(portal_host_seen(small.h, LONG), 0);
		assert_int_equal(portal_open(guest, "thing", &o), 0);
		assert_int_equal(portal_map(guest, &o, &at, NULL), 0);
		assert_int_equal(portal_host_unpublish(small.h, "thing"), 0);
	}
	portal_detach(guest);
	vm_end(&v);
	broker_end(&small);
}

/* ---- finding ---- */

static int try_attach(struct vm *v, const char *name, portal **ret)
{
	struct portal_attach a = { .size = sizeof(a), .region = name, .timeout_ns = SEC };

	return wslx_portal_attach_guest(&a, &v->os, ret);
}

static void one_process_an_entry(void **state)
{
	portal *p, *q = NULL;
	static struct vm v;

	vm_start(&v, &b, "called");
	assert_int_equal(try_attach(&v, "test", &q), -ENOENT);
	p = vm_attach(&v);
	assert_non_null(p);
	assert_int_equal(try_attach(&v, "called", &q), -EBUSY);
	portal_detach(p);
	assert_int_equal(try_attach(&v, "called", &q), 0);
	portal_detach(q);
	vm_end(&v);
}

/* Doorbells that do not reach the machine's thread. */
static enum { REFUSES, CLOSES, IS_SILENT, IS_READY } bell_host;
static int far_end = -1;

static int lone_bell(void *opaque, uint32_t port)
{
	int pair[2];

	assert_int_equal(port, PORTAL_DOORBELL_PORT);
	if (far_end >= 0)
		close(far_end);
	far_end = -1;
	if (bell_host == REFUSES)
		return -ECONNRESET;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	if (bell_host == CLOSES)
		close(pair[1]);
	else
		far_end = pair[1];
	if (bell_host == IS_READY)
		assert_int_equal(write(pair[1], "", 1), 1);
	return pair[0];
}

static void host_that_does_not_answer(void **state)
{
	portal *q = NULL;
	static struct vm v;

	vm_start(&v, &b, "test");
	v.os.open_bell = lone_bell;
	bell_host = REFUSES;
	assert_int_equal(try_attach(&v, "test", &q), -EPIPE);
	bell_host = CLOSES;
	assert_int_equal(try_attach(&v, "test", &q), -EPIPE);
	bell_host = IS_SILENT;
	assert_int_equal(try_attach(&v, "test", &q), -ETIMEDOUT);
	vm_end(&v);
}

/* Tables of nonsense: errors, and nothing is touched outside the window. */
static void nonsense_in_the_tables(void **state)
{
	struct portal_window_arena at;
	portal *p = NULL;
	static struct vm v;

	vm_start(&v, &b, "test");
	v.os.open_bell = lone_bell;
	bell_host = IS_READY;
	at = vm_places(&v)[0];
	vm_places(&v)[0].window_segment = VM_SEGMENTS;
	assert_int_equal(try_attach(&v, "test", &p), -EPROTO);
	vm_places(&v)[0].window_segment = 0;
	assert_int_equal(try_attach(&v, "test", &p), -EPROTO);
	vm_places(&v)[0] = at;
	vm_places(&v)[0].segments = UINT32_MAX;
	assert_int_equal(try_attach(&v, "test", &p), -EPROTO);
	vm_places(&v)[0] = at;
	vm_places(&v)[0].life = 0;
	assert_int_equal(try_attach(&v, "test", &p), -EPIPE);
	vm_places(&v)[0] = at;
	vm_places(&v)[1].segments++;
	assert_int_equal(try_attach(&v, "test", &p), -EPROTO);
	vm_places(&v)[1].segments--;
	memset(vm_entry(&v)->as, 'x', sizeof(vm_entry(&v)->as));
	assert_int_equal(try_attach(&v, "test", &p), -ENOENT);
	strcpy(vm_entry(&v)->as, "test");
	vm_entry(&v)->participant = PORTAL_MAX_PARTICIPANTS;
	assert_int_equal(try_attach(&v, "test", &p), -EPROTO);
	((struct portal_window *)(void *)v.tables)->version++;
	assert_int_equal(try_attach(&v, "test", &p), -ENOENT);
	vm_end(&v);
}

/* ---- ends ---- */

static void *listens(void *arg)
{
	portal_listener *l = NULL;
	portal_chan *c = NULL;
	portal *p = arg;
	size_t n;
	char buf[16];
	int r = portal_listen(p, "svc", NULL, &l);

	if (r == 0)
		r = portal_accept(l, LONG, &c);
	if (r == 0)
		r = portal_send(c, 1, "last", 5, LONG);
	if (r == 0)
		r = portal_recv(c, NULL, buf, sizeof(buf), &n, LONG);
	portal_chan_free(c);
	portal_listener_free(l);
	return (void *)(intptr_t)r;
}

/* The guest's process dies while it waits: its peer hears of it, reads what was published, and a new process starts
 * from nothing. */
static void process_dies(void **state)
{
	portal *host, *guest;
	char buf[16] = "";
	portal_chan *c = NULL;
	uint64_t generation;
	pthread_t t;
	static struct vm v;
	void *r;
	size_t n;

	vm_start(&v, &b, "test");
	host = broker_attach(&b, "host");
	guest = vm_attach(&v);
	generation = guest->generation;
	assert_int_equal(pthread_create(&t, NULL, listens, guest), 0);
	assert_int_equal(portal_connect(host, "svc", 1024, LONG, &c), 0);
	vm_cut(&v);
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, -EPIPE);
	/* Also when the machine has its next arena already. */
	portal_detach(guest);
	guest = vm_attach(&v);
	assert_non_null(guest);
	assert_int_equal(portal_poll(host, 0), 0);
	assert_int_equal(portal_recv(c, NULL, buf, sizeof(buf), &n, LONG), 0);
	assert_string_equal(buf, "last");
	assert_int_equal(portal_recv(c, NULL, buf, sizeof(buf), &n, LONG), -EPIPE);
	portal_chan_free(c);
	assert_int_not_equal(guest->generation, generation);
	exchange(host, guest);
	portal_detach(guest);
	portal_detach(host);
	vm_end(&v);
}

/* What a dead peer had published is read in a guest too. */
static void peer_dies(void **state)
{
	portal *host, *guest;
	char buf[16] = "";
	portal_chan *c = NULL;
	pthread_t t;
	static struct vm v;
	size_t n;
	void *r;

	vm_start(&v, &b, "test");
	host = broker_attach(&b, "host");
	guest = vm_attach(&v);
	assert_int_equal(pthread_create(&t, NULL, listens, host), 0);
	assert_int_equal(portal_connect(guest, "svc", 1024, LONG, &c), 0);
	assert_int_equal(portal_send(c, 1, "x", 1, LONG), 0);
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, 0);
	portal_detach(host);
	assert_int_equal(portal_recv(c, NULL, buf, sizeof(buf), &n, LONG), 0);
	assert_string_equal(buf, "last");
	assert_int_equal(portal_recv(c, NULL, buf, sizeof(buf), &n, LONG), -EPIPE);
	portal_chan_free(c);
	portal_detach(guest);
	vm_end(&v);
}

/* ---- a dead peer's place ---- */

#define SEGMENTS 4u

struct dead_peer {
	struct vm v;
	portal *host, *guest;
	portal_listener *l;
	portal_chan *out, *in;
	unsigned arena;
	uint8_t *bytes; /* what it left */
};

static void *connects_to_host(void *arg)
{
	struct dead_peer *d = arg;

	return (void *)(intptr_t)portal_connect(d->guest, "svc", 1024, LONG, &d->in);
}

static void at_arena(unsigned arena, uint8_t *bytes, bool writes)
{
	size_t size = SEGMENTS * PORTAL_SEGMENT_SIZE;
	int fd = portal_host_arena_fd(b.h, arena, writes);

	assert_true(fd >= 0);
	if (writes)
		assert_int_equal(pwrite(fd, bytes, size, 0), size);
	else
		assert_int_equal(pread(fd, bytes, size, 0), size);
	close(fd);
}

static int hears(struct dead_peer *d, char ret[8])
{
	size_t n;

	return portal_recv(d->in, NULL, ret, 8, &n, LONG);
}

static void await_row(struct dead_peer *d, unsigned arena, enum portal_arena_state state)
{
	while (PORTAL_LIFE_STATE(PORTAL_LOAD_ACQ(&vm_places(&d->v)[arena].life)) != state)
		usleep(1000);
}

/* Three records, one of them read; then the writer is gone, and the guest's side knows. */
static void peer_leaves(struct dead_peer *d)
{
	char buf[8] = "";
	pthread_t t;
	void *r;

	vm_start(&d->v, &b, "test");
	d->host = broker_attach(&b, "host");
	d->guest = vm_attach(&d->v);
	d->arena = d->host->own_arena;
	assert_int_equal(portal_listen(d->host, "svc", NULL, &d->l), 0);
	assert_int_equal(pthread_create(&t, NULL, connects_to_host, d), 0);
	assert_int_equal(portal_accept(d->l, LONG, &d->out), 0);
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(portal_send(d->out, 1, "mine", 5, LONG), 0);
	assert_int_equal(hears(d, buf), 0);
	d->bytes = malloc(SEGMENTS * PORTAL_SEGMENT_SIZE);
	assert_non_null(d->bytes);
	at_arena(d->arena, d->bytes, false);
	/* What another may make of it: the same records, with other words. */
	for (uint64_t i = 0; i + 5 <= SEGMENTS * PORTAL_SEGMENT_SIZE; i++)
		if (memcmp(d->bytes + i, "mine", 5) == 0)
			memcpy(d->bytes + i, "hers", 5);
	portal_chan_free(d->out);
	portal_listener_free(d->l);
	portal_detach(d->host);
	await_row(d, d->arena, PORTAL_ARENA_DEAD);
}

static void peer_is_forgotten(struct dead_peer *d)
{
	free(d->bytes);
	portal_chan_free(d->in);
	portal_detach(d->guest);
	vm_end(&d->v);
}

/* Another arena comes to lie where the dead one's bytes were in the window, and says what it likes. */
static void window_place_of_a_dead_peer_is_taken(void **state)
{
	static struct dead_peer d;
	char buf[8] = "";

	peer_leaves(&d);
	assert_int_equal(hears(&d, buf), 0);
	assert_string_equal(buf, "mine");
	d.v.cursor = vm_places(&d.v)[d.arena].window_segment;
	assert_int_equal(portal_host_object(b.h, "forger", SEGMENTS, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	await_row(&d, d.arena, PORTAL_ARENA_FREE);
	await_row(&d, d.arena + 1, PORTAL_ARENA_LIVE);
	assert_int_equal(vm_places(&d.v)[d.arena + 1].window_segment, d.v.cursor - SEGMENTS);
	at_arena(d.arena + 1, d.bytes, true);
	assert_int_equal(hears(&d, buf), -EPIPE);
	assert_int_equal(portal_poll(d.guest, 0), 0);
	assert_int_equal(hears(&d, buf), -EPIPE);
	peer_is_forgotten(&d);
}

/* Its row is kept for the next that has its number, and the guest has not looked since. */
static void row_of_a_dead_peer_is_about_to_change(void **state)
{
	static struct dead_peer d;
	char buf[8] = "";
	uint64_t *life;

	peer_leaves(&d);
	life = &vm_places(&d.v)[d.arena].life;
	PORTAL_STORE_SEQ(life, PORTAL_LIFE(PORTAL_LIFE_GENERATION(*life), PORTAL_ARENA_FREE));
	assert_int_equal(hears(&d, buf), -EPIPE);
	/* In between nothing is taken away: who has a pointer into it goes on reading. */
	assert_true(d.guest->view[d.arena].mapped);
	PORTAL_STORE_SEQ(life, PORTAL_LIFE(PORTAL_LIFE_GENERATION(*life), PORTAL_ARENA_DEAD));
	assert_int_equal(hears(&d, buf), 0);
	assert_string_equal(buf, "mine");
	peer_is_forgotten(&d);
}

/* A machine that was granted the region keeps nobody waiting until a program in it attaches; and that one meets what
 * is in force. */
static void quiesce_without_a_program(void **state)
{
	struct portal_quiesce q;
	portal *guest, *host;
	static struct vm v;

	vm_start(&v, &b, "test");
	for (int round = 0; round < 2; round++) {
		assert_int_equal(portal_host_quiesce(b.h, LONG, &q), 0);
		/* Later it may just be becoming another participant. */
		if (round == 0)
			assert_int_equal(q.arrived, UINT64_C(1) << vm_entry(&v)->participant);
		guest = vm_attach(&v);
		/* At rest without having called anything. */
		assert_int_equal(portal_host_quiesce(b.h, LONG, &q), 0);
		assert_int_equal(portal_poll(guest, 0), -EAGAIN);
		assert_int_equal(portal_host_resume(b.h), 0);
		host = broker_attach(&b, "host");
		exchange(host, guest);
		portal_detach(host);
		/* Neither does one that is busy elsewhere pass for one that is not there. */
		assert_int_equal(portal_host_quiesce(b.h, SEC / 10, &q), -ETIMEDOUT);
		assert_int_equal(q.late, UINT64_C(1) << vm_entry(&v)->participant);
		portal_detach(guest);
		assert_int_equal(portal_host_quiesce(b.h, LONG, &q), 0);
		assert_int_equal(portal_host_resume(b.h), 0);
	}
	vm_end(&v);
}

static void grant_ends(void **state)
{
	struct portal_handle h;
	portal *guest;
	pthread_t t;
	static struct vm v;
	void *at, *r;

	vm_start(&v, &b, "test");
	guest = vm_attach(&v);
	assert_int_equal(portal_alloc(guest, 4096, &h, &at), 0);
	assert_int_equal(pthread_create(&t, NULL, listens, guest), 0);
	vm_withdraw(&v);
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, -EPIPE);
	/* Pointers stay good. */
	memset(at, 1, 4096);
	assert_int_equal(portal_poll(guest, LONG), -EPIPE);
	portal_detach(guest);
	vm_end(&v);
}

static struct vm *leaving;
static int (*map_before)(void *opaque, void *at, size_t len, int prot, int fd, uint64_t off);

/* All rows are cleared while the guest goes through them: the entry's life first, as the supervisor does it. */
static int map_and_leave(void *opaque, void *at, size_t len, int prot, int fd, uint64_t off)
{
	struct portal_window_entry *e = vm_entry(leaving);

	PORTAL_STORE_SEQ(&e->life, PORTAL_LIFE(PORTAL_LIFE_GENERATION(e->life) + 1, PORTAL_WINDOW_NONE));
	for (unsigned a = 0; a < PORTAL_MAX_ARENAS; a++)
		PORTAL_STORE_SEQ(&vm_places(leaving)[a].life, 0);
	return map_before(opaque, at, len, prot, fd, off);
}

/* That is the end of the region, not a revocation. */
static void grant_ends_while_the_guest_looks(void **state)
{
	static struct vm v;
	portal *guest;
	uint32_t event;

	/* The next arena has a lower number than the guest's. */
	assert_int_equal(come_and_go(b.h, PORTAL_MAX_ARENAS - 2), 0);
	vm_start(&v, &b, "test");
	guest = vm_attach(&v);
	assert_int_equal(guest->own_arena, PORTAL_MAX_ARENAS - 1);
	leaving = &v;
	map_before = v.os.map;
	v.os.map = map_and_leave;
	event = PORTAL_LOAD_ACQ(&guest->window->tables->event);
	assert_int_equal(portal_host_object(b.h, "thing", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	while (PORTAL_LOAD_ACQ(&guest->window->tables->event) == event)
		usleep(1000);
	assert_int_equal(portal_poll(guest, 0), -EPIPE);
	assert_false(guest->revoked);
	v.os.map = map_before;
	portal_detach(guest);
	vm_end(&v);
}

static void revoked_by_the_host(void **state)
{
	const uint8_t *seen;
	struct portal_object o;
	portal *guest, *host;
	const void *ro;
	uint8_t *at;
	static struct vm v;

	vm_start(&v, &b, "test");
	guest = vm_attach(&v);
	host = broker_attach(&b, "host");
	assert_int_equal(portal_create(guest, "mine", 4096, NULL, (void **)&at), 0);
	memset(at, 1, 4096);
	assert_int_equal(portal_wait_for(host, "mine", LONG, &o), 0);
	assert_int_equal(portal_map(host, &o, &ro, NULL), 0);
	seen = ro;
	assert_int_equal(portal_host_revoke(b.h, guest->self, 0), -ETIMEDOUT);
	/* Under its hands, without its doing anything. */
	for (int i = 0; i < 5000 && __atomic_load_n(at, __ATOMIC_RELAXED); i++)
		usleep(1000);
	memset(at, 2, 4096);
	assert_int_equal(portal_poll(host, 0), 0);
	assert_int_equal(seen[0], 1);
	assert_int_equal(seen[4095], 1);
	for (int i = 0; i < 5000 && !guest->revoked; i++)
		(void)portal_poll(guest, 1000000);
	assert_int_equal(portal_alloc(guest, 64, &(struct portal_handle) { 0 }, NULL), -EACCES);
	portal_detach(guest);
	portal_detach(host);
	vm_end(&v);
}

static void broker_ends(void **state)
{
	portal *guest;
	pthread_t t;
	static struct vm v;
	void *r;

	vm_start(&v, &b, "test");
	guest = vm_attach(&v);
	assert_int_equal(pthread_create(&t, NULL, listens, guest), 0);
	usleep(20000);
	broker_stop(&b);
	portal_host_destroy(b.h);
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, -EPIPE);
	portal_detach(guest);
	vm_end(&v);
	b.h = NULL;
}

/* ---- a liar ---- */

static bool lying;

/* Writes what it likes wherever it may. */
static void *lies(void *arg)
{
	portal *p = arg;
	uint64_t *at = (uint64_t *)(void *)(p->base + p->own_off), x = 88172645463325252u;

	while (__atomic_load_n(&lying, __ATOMIC_RELAXED)) {
		uint64_t range = x >> 60 < 8 ? PORTAL_CONTROL_SIZE / 8 : 4 * PORTAL_SEGMENT_SIZE / 8;

		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		__atomic_store_n(&at[(x >> 8) % range], x & 1 ? x : x >> 40, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void *connects(void *arg)
{
	portal_chan *c = NULL;

	return portal_connect(arg, "svc", 4096, LONG, &c) == 0 ? c : NULL;
}

#define PAIRS 4

static void peer_is_hostile(void **state)
{
	portal_chan *its_end[PAIRS], *my_end[PAIRS];
	portal *liar, *guest, *honest;
	portal_listener *l = NULL, *its = NULL;
	pthread_t t;
	static struct vm v, w;

	vm_start(&v, &b, "one");
	vm_start(&w, &b, "two");
	liar = vm_attach(&v);
	guest = vm_attach(&w);
	honest = broker_attach(&b, "honest");
	assert_int_equal(portal_listen(guest, "svc", NULL, &l), 0);
	/* Honest until the rings are there. */
	assert_int_equal(portal_listen(liar, "liar", NULL, &its), 0);
	for (int i = 0; i < PAIRS; i++) {
		assert_int_equal(pthread_create(&t, NULL, connects, liar), 0);
		assert_int_equal(portal_accept(l, LONG, &my_end[i]), 0);
		pthread_join(t, (void **)&its_end[i]);
		assert_non_null(its_end[i]);
	}
	lying = true;
	assert_int_equal(pthread_create(&t, NULL, lies, liar), 0);
	for (int i = 0; i < 200; i++) {
		portal_chan *c = NULL, *d = NULL;
		char buf[64];
		size_t n;

		if (portal_connect(guest, "liar", 4096, 1000000, &c) == 0) {
			(void)portal_send(c, 1, "x", 1, 1000000);
			(void)portal_recv(c, NULL, buf, sizeof(buf), &n, 1000000);
		}
		if (portal_accept(l, 1000000, &d) == 0) {
			(void)portal_send(d, 1, "x", 1, 1000000);
			(void)portal_recv(d, NULL, buf, sizeof(buf), &n, 1000000);
		}
		portal_chan_free(c);
		portal_chan_free(d);
		(void)portal_send(my_end[i % PAIRS], 1, "y", 1, 1000000);
		(void)portal_recv(my_end[i % PAIRS], NULL, buf, sizeof(buf), &n, 1000000);
		(void)portal_poll(guest, 0);
	}
	/* The others do their work meanwhile. */
	exchange(guest, honest);
	__atomic_store_n(&lying, false, __ATOMIC_RELAXED);
	pthread_join(t, NULL);
	for (int i = 0; i < PAIRS; i++)
		portal_chan_free(my_end[i]);
	portal_listener_free(l);
	portal_detach(guest);
	portal_detach(honest);
	vm_end(&v);
	/* The host has ended it: it hears so at the next call, whatever it has done to its own memory. */
	for (int i = 0; i < PAIRS; i++)
		portal_chan_free(its_end[i]);
	portal_listener_free(its);
	portal_detach(liar);
	vm_end(&w);
}

/* ---- the same name on the host ---- */

static void by_name_on_the_host(void **state)
{
	struct portal_attach a = { .size = sizeof(a), .region = "here" };
	char dir[128], path[192];
	portal *p = NULL;

	snprintf(dir, sizeof(dir), "%s/run", b.dir);
	assert_int_equal(setenv("WSLX_HOME", b.dir, 1), 0);
	assert_int_equal(portal_attach(&a, &p), -ENOENT);
	assert_int_equal(mkdir(dir, 0700), 0);
	snprintf(dir, sizeof(dir), "%s/run/portal", b.dir);
	assert_int_equal(mkdir(dir, 0700), 0);
	snprintf(path, sizeof(path), "%s/here.sock", dir);
	assert_int_equal(symlink(b.path, path), 0);
	assert_int_equal(portal_attach(&a, &p), 0);
	portal_detach(p);
	a.region = "../portal/here";
	assert_int_equal(portal_attach(&a, &p), -EINVAL);
	unlink(path);
	rmdir(dir);
	snprintf(dir, sizeof(dir), "%s/run", b.dir);
	rmdir(dir);
	unsetenv("WSLX_HOME");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(host_serves),
		T(guest_serves),
		T(guest_to_guest),
		T(window_comes_after_the_name),
		T(room_comes_late),
		cmocka_unit_test(place_of_a_dead_one_is_taken),
		T(many_threads_wait),
		T(one_process_an_entry),
		T(host_that_does_not_answer),
		T(nonsense_in_the_tables),
		T(process_dies),
		T(peer_dies),
		T(window_place_of_a_dead_peer_is_taken),
		T(row_of_a_dead_peer_is_about_to_change),
		T(quiesce_without_a_program),
		T(grant_ends),
		T(grant_ends_while_the_guest_looks),
		T(revoked_by_the_host),
		T(broker_ends),
		T(peer_is_hostile),
		T(by_name_on_the_host),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
