/*
 * One of several participants that talk to each other all the time and check every byte, while others are killed.
 *
 * usage: portal_soak SOCKET|REGION NUMBER PARTICIPANTS
 * Serves "echo-N" (records) and "sum-N" (calls), publishes "object-N", and uses those of the others.  Prints a line
 * after each exchange.  Ends in order when its standard input ends; with 3 when somebody else's death, or life,
 * disturbed it.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <wslx/portal.h>

#define SEC INT64_C(1000000000)
/* Long enough for a crowded host; whoever dies is noticed long before. */
#define PATIENCE (60 * SEC)
#define LOOK (SEC / 5)
#define OBJECT 4096u
#define RECORD 1500u
#define BULK 20000u

static portal *p;
static unsigned self, others;
static bool over;

static void disturbed(const char *what, int r)
{
	fprintf(stderr, "participant %u: %s: %s\n", self, what, r < 0 ? strerror(-r) : "wrong data");
	_exit(3);
}

static void must(int r, const char *what)
{
	if (r < 0)
		disturbed(what, r);
}

static bool ending(void)
{
	return __atomic_load_n(&over, __ATOMIC_RELAXED);
}

/* The peer was killed, or has not begun, or begins anew: that is what this is about. */
static bool is_death(int r)
{
	return r == -EPIPE || r == -ENOENT || r == -ECONNREFUSED || r == -ESTALE;
}

static uint64_t sum(const uint8_t *b, size_t n)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < n; i++)
		h = (h ^ b[i]) * UINT64_C(0x100000001b3);
	return h;
}

static void fill(uint8_t *b, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		b[i] = (uint8_t)(seed * 31u + i * 7u);
}

static const char *name_of(const char *what, unsigned n, char buf[32])
{
	snprintf(buf, 32, "%s-%u", what, n);
	return buf;
}

/* The one before us with that number may be dead, and not buried. */
static void publish(int (*fn)(const char *name, void *ret), const char *what, void *ret)
{
	static const struct timespec moment = { .tv_nsec = 1000000 };
	char name[32];
	int r;

	for (unsigned i = 0; (r = fn(name_of(what, self, name), ret)) == -EEXIST && i < 60000; i++)
		nanosleep(&moment, NULL);
	must(r, what);
}

/* ---- serving ---- */

static int new_listener(const char *name, void *ret)
{
	return portal_listen(p, name, NULL, ret);
}

/* False: it is closed, or dead. */
static bool echo_some(portal_chan *c)
{
	static uint8_t buf[RECORD];
	uint32_t type;
	size_t n;
	int r = 0;

	for (unsigned i = 0; i < 16 && r == 0; i++) {
		r = portal_recv(c, &type, buf, sizeof(buf), &n, 0);
		if (r == 0)
			r = portal_send(c, type + 1, buf, n, PATIENCE);
	}
	if (r < 0 && r != -EAGAIN && r != -EPIPE)
		disturbed("echo", r);
	return r != -EPIPE;
}

static void *serve_echo(void *arg)
{
	portal_listener *l;
	portal_fanin *f;

	must(portal_fanin_new(p, &f), "fanin");
	publish(new_listener, "echo", &l);
	while (!ending()) {
		portal_chan *c = NULL, *new;
		int r = portal_fanin_wait(f, l, LOOK, &c);

		if (r < 0 && r != -ETIMEDOUT)
			disturbed("fanin wait", r);
		if (r == 0 && !c && portal_accept(l, 0, &new) == 0)
			must(portal_fanin_add(f, new), "fanin add");
		if (c && !echo_some(c)) {
			portal_fanin_remove(f, c);
			portal_chan_free(c);
		}
	}
	return NULL;
}

static int new_server(const char *name, void *ret)
{
	return portal_rpc_serve(p, name, ret);
}

static void *serve_sum(void *arg)
{
	struct portal_rpc_request q;
	portal_rpc_server *s;

	publish(new_server, "sum", &s);
	while (!ending()) {
		int r = portal_rpc_next(s, &q, LOOK), status = 0;
		struct portal_bytes out = { .size = 8 };
		const void *bulk = NULL;
		uint64_t h;

		if (r == -ETIMEDOUT)
			continue;
		must(r, "next call");
		h = sum(q.in.data, q.in.size);
		if (q.in.bulk.generation) {
			status = portal_resolve(p, q.in.bulk, q.in.bulk_size, &bulk);
			h ^= status < 0 ? 0 : sum(bulk, q.in.bulk_size);
		}
		out.data = &h;
		must(portal_rpc_reply(s, &q, status, &out), "reply");
	}
	return NULL;
}

static int new_object(const char *name, void *ret)
{
	return portal_publish(p, name, *(const struct portal_handle *)ret, OBJECT, 0);
}

/* ---- using ---- */

static void exchange_records(unsigned peer)
{
	uint8_t out[RECORD], in[RECORD];
	portal_chan *c;
	char name[32];
	uint32_t type;
	size_t n;
	int r = portal_connect(p, name_of("echo", peer, name), 0, SEC, &c);

	if (r == -ETIMEDOUT || is_death(r))
		return;
	must(r, "connect");
	for (unsigned round = 0; round < 20; round++) {
		unsigned batch = 1 + (unsigned)rand() % 8, seed = (unsigned)rand();

		for (unsigned i = 0; i < batch && r == 0; i++) {
			fill(out, (seed + i) % RECORD, seed + i);
			r = portal_send(c, seed + i, out, (seed + i) % RECORD, PATIENCE);
		}
		for (unsigned i = 0; i < batch && r == 0; i++) {
			r = portal_recv(c, &type, in, sizeof(in), &n, PATIENCE);
			fill(out, (seed + i) % RECORD, seed + i);
			if (r == 0 && (type != seed + i + 1 || n != (seed + i) % RECORD || memcmp(in, out, n) != 0))
				disturbed("echo", 0);
		}
		if (is_death(r))
			break;
		must(r, "exchange");
	}
	portal_chan_free(c);
}

static void call(unsigned peer)
{
	struct portal_bytes in = { 0 }, out;
	uint8_t data[256], answer[64];
	struct portal_handle h;
	portal_rpc *rpc;
	char name[32];
	void *bulk;
	int r = portal_rpc_connect(p, name_of("sum", peer, name), SEC, &rpc);

	if (r == -ETIMEDOUT || is_death(r))
		return;
	must(r, "rpc connect");
	must(portal_alloc(p, BULK, &h, &bulk), "alloc");
	for (unsigned i = 0; i < 20 && r == 0; i++) {
		unsigned seed = (unsigned)rand();
		uint64_t want;

		in.data = data;
		in.size = seed % sizeof(data);
		fill(data, in.size, seed);
		want = sum(data, in.size);
		in.bulk = seed & 1 ? h : (struct portal_handle) { 0 };
		in.bulk_size = seed & 1 ? BULK : 0;
		if (seed & 1) {
			fill(bulk, BULK, seed);
			want ^= sum(bulk, BULK);
		}
		r = portal_rpc_call(rpc, 1, &in, answer, sizeof(answer), &out, PATIENCE);
		if (r == 0 && (out.size != 8 || memcmp(out.data, &want, 8) != 0))
			disturbed("sum", 0);
		if (!is_death(r))
			must(r, "call");
	}
	portal_rpc_free(rpc);
	must(portal_free(p, h), "free");
}

static void look_at_object(unsigned peer)
{
	struct portal_object o;
	uint8_t want[OBJECT];
	const void *at;
	char name[32];
	int r = portal_open(p, name_of("object", peer, name), &o);

	if (r == 0)
		r = portal_map(p, &o, &at, NULL);
	if (is_death(r))
		return;
	must(r, "object");
	fill(want, OBJECT, peer);
	if (memcmp(at, want, OBJECT) != 0)
		disturbed("object", 0);
}

static bool told_to_end(void)
{
	struct pollfd in = { .fd = 0, .events = POLLIN };
	char c;

	return poll(&in, 1, 0) > 0 && read(0, &c, 1) <= 0;
}

int main(int argc, char **argv)
{
	struct portal_attach a = { .size = sizeof(a), .name = "soak", .timeout_ns = PATIENCE };
	pthread_t echo, calls;
	struct portal_handle h;
	struct timespec seed;
	char name[32];
	void *object;

	if (argc != 4)
		return 2;
	if (strchr(argv[1], '/'))
		a.path = argv[1];
	else
		a.region = argv[1];
	self = (unsigned)strtoul(argv[2], NULL, 10);
	others = (unsigned)strtoul(argv[3], NULL, 10);
	/* In a machine that is started again the process numbers are the same ones. */
	clock_gettime(CLOCK_REALTIME, &seed);
	srand((unsigned)getpid() ^ (unsigned)seed.tv_nsec);
	setvbuf(stdout, NULL, _IOLBF, 0);
	must(portal_attach(&a, &p), "attach");
	must(portal_alloc(p, OBJECT, &h, &object), "alloc");
	fill(object, OBJECT, self);
	publish(new_object, "object", &h);
	pthread_create(&echo, NULL, serve_echo, NULL);
	pthread_create(&calls, NULL, serve_sum, NULL);
	while (!told_to_end()) {
		unsigned peer = (self + 1 + (unsigned)rand() % (others - 1)) % others;

		switch (rand() % 3) {
		case 0:
			exchange_records(peer);
			break;
		case 1:
			call(peer);
			break;
		default:
			look_at_object(peer);
			break;
		}
		puts(name_of("with", peer, name));
	}
	__atomic_store_n(&over, true, __ATOMIC_RELAXED);
	pthread_join(echo, NULL);
	pthread_join(calls, NULL);
	portal_detach(p);
	return 0;
}
