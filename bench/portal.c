/*
 * Portal against the bare machine: each figure beside its peer, in batches that take turns, so that whatever else runs
 * disturbs both alike.  Prints "NAME VALUE" lines; bench/portal.py makes the table.
 *
 * usage: portal_bench rtt|spsc|rpc|bulk|fan|flat|commands [ROUNDS]
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <wslx/portal.h>

#include "portal/atomic.h"
#include "portal_bench.h"

unsigned rounds;

/* ---- round trips ---- */

#define TRIPS 50u

static struct {
	_Alignas(128) uint64_t a;
	_Alignas(128) uint64_t b;
	_Alignas(128) uint64_t head;
	_Alignas(128) uint64_t tail;
	_Alignas(128) uint8_t slots[1024][64];
} * bare;
static int pair[2], there[2], back[2];

static void bare_pong(uint64_t from)
{
	for (uint64_t i = from + 1; i <= from + TRIPS; i++) {
		while (PORTAL_LOAD_ACQ(&bare->a) != i)
			;
		PORTAL_STORE_REL(&bare->b, i);
	}
}

static void bare_ping(uint64_t from)
{
	for (uint64_t i = from + 1; i <= from + TRIPS; i++) {
		PORTAL_STORE_REL(&bare->a, i);
		while (PORTAL_LOAD_ACQ(&bare->b) != i)
			;
	}
}

static void echo(portal_chan *c, unsigned n)
{
	uint64_t v;
	size_t k;

	while (n--) {
		must(portal_recv(c, NULL, &v, sizeof(v), &k, PORTAL_FOREVER), "recv");
		must(portal_send(c, 0, &v, sizeof(v), PORTAL_FOREVER), "send");
	}
}

static void call(portal_chan *c, unsigned n)
{
	uint64_t v = 1;
	size_t k;

	while (n--) {
		must(portal_send(c, 0, &v, sizeof(v), PORTAL_FOREVER), "send");
		must(portal_recv(c, NULL, &v, sizeof(v), &k, PORTAL_FOREVER), "recv");
	}
}

static void bytes_trip(int in, int out, unsigned n, int first)
{
	uint64_t v = 1;

	while (n--) {
		if (first && write(out, &v, 8) != 8)
			die("write");
		if (read(in, &v, 8) != 8)
			die("read");
		if (!first && write(out, &v, 8) != 8)
			die("write");
	}
}

static void rtt_peer(void)
{
	portal *p;
	portal_chan *c;

	pin(1);
	p = attach(0);
	c = serve_one(p, "rtt");
	for (uint64_t i = 0; i < rounds; i++) {
		bare_pong(i * TRIPS);
		echo(c, TRIPS);
		bytes_trip(pair[1], pair[1], 10, 0);
		bytes_trip(there[0], back[1], 10, 0);
	}
}

static void bench_rtt(void)
{
	double *v[4];
	static const char *const name[4] = { "bare", "ring", "unix", "pipe" };
	portal_chan *c;
	portal *p;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0 || pipe(there) < 0 || pipe(back) < 0)
		die("pipes");
	start_broker(4096, 0, 0);
	start_child(rtt_peer);
	pin(0);
	p = attach(0);
	must(portal_connect(p, "rtt", 0, PORTAL_FOREVER, &c), "connect");
	for (unsigned k = 0; k < 4; k++)
		v[k] = calloc(rounds, sizeof(double));
	for (unsigned i = 0; i < rounds; i++) {
		uint64_t t[5];

		t[0] = now();
		bare_ping((uint64_t)i * TRIPS);
		t[1] = now();
		call(c, TRIPS);
		t[2] = now();
		bytes_trip(pair[0], pair[0], 10, 1);
		t[3] = now();
		bytes_trip(back[0], there[1], 10, 1);
		t[4] = now();
		for (unsigned k = 0; k < 4; k++)
			v[k][i] = (double)(t[k + 1] - t[k]) / (k < 2 ? TRIPS : 10);
	}
	for (unsigned k = 0; k < 4; k++) {
		printf("rtt.%s.p50 %.1f\n", name[k], at(v[k], rounds, 0.5));
		printf("rtt.%s.p10 %.1f\n", name[k], at(v[k], rounds, 0.1));
	}
}

/* ---- throughput of 64-byte records ---- */

#define RECORDS 4000u
#define BATCH 32u

static void bare_produce(uint64_t *head)
{
	uint64_t payload[8] = { *head };
	uint64_t tail = PORTAL_LOAD_ACQ(&bare->tail);

	for (unsigned i = 0; i < RECORDS; i++) {
		while (*head - tail == 1024)
			tail = PORTAL_LOAD_ACQ(&bare->tail);
		payload[0] = *head;
		memcpy(bare->slots[*head % 1024], payload, 64);
		PORTAL_STORE_REL(&bare->head, ++*head);
	}
	while (PORTAL_LOAD_ACQ(&bare->tail) != *head)
		;
}

static void bare_consume(uint64_t *tail)
{
	uint64_t payload[8], head = *tail;

	for (unsigned i = 0; i < RECORDS; i++) {
		while (head == *tail)
			head = PORTAL_LOAD_ACQ(&bare->head);
		memcpy(payload, bare->slots[*tail % 1024], 64);
		if (payload[0] != *tail)
			die("bare");
		PORTAL_STORE_REL(&bare->tail, ++*tail);
	}
}

static void ring_consume(portal_chan *c)
{
	uint64_t payload[8];
	size_t n;

	for (unsigned i = 0; i < RECORDS; i++)
		must(portal_recv(c, NULL, payload, 64, &n, PORTAL_FOREVER), "recv");
	must(portal_send(c, 0, payload, 8, PORTAL_FOREVER), "send");
}

static void batch_consume(portal_chan *c)
{
	uint64_t payload[8];
	const void *p;
	size_t n;

	for (unsigned i = 0; i < RECORDS; i++) {
		must(portal_peek(c, NULL, &p, &n, PORTAL_FOREVER), "peek");
		memcpy(payload, p, 64);
		if (i % BATCH == BATCH - 1)
			must(portal_release(c), "release");
	}
	must(portal_release(c), "release");
	must(portal_send(c, 0, payload, 8, PORTAL_FOREVER), "send");
}

static void ring_produce(portal_chan *c)
{
	uint64_t payload[8] = { 0 };
	size_t n;

	for (unsigned i = 0; i < RECORDS; i++) {
		payload[0] = i;
		must(portal_send(c, 0, payload, 64, PORTAL_FOREVER), "send");
	}
	must(portal_recv(c, NULL, payload, 64, &n, PORTAL_FOREVER), "recv");
}

static void batch_produce(portal_chan *c)
{
	uint64_t payload[8] = { 0 };
	size_t n;
	void *p;

	for (unsigned i = 0; i < RECORDS; i++) {
		must(portal_reserve(c, 64, &p, PORTAL_FOREVER), "reserve");
		payload[0] = i;
		memcpy(p, payload, 64);
		must(portal_commit(c, 0, 64), "commit");
		if (i % BATCH == BATCH - 1)
			must(portal_flush(c), "flush");
	}
	must(portal_flush(c), "flush");
	must(portal_recv(c, NULL, payload, 64, &n, PORTAL_FOREVER), "recv");
}

static void spsc_peer(void)
{
	uint64_t tail = 0;
	portal_chan *c;
	portal *p;

	pin(1);
	p = attach(0);
	c = serve_one(p, "spsc");
	for (unsigned i = 0; i < rounds; i++) {
		bare_consume(&tail);
		ring_consume(c);
		batch_consume(c);
	}
}

static void bench_spsc(void)
{
	static const char *const name[3] = { "bare", "ring", "batch" };
	uint64_t head = 0;
	portal_chan *c;
	double *v[3];
	portal *p;

	start_broker(4096, 0, 0);
	start_child(spsc_peer);
	pin(0);
	p = attach(0);
	must(portal_connect(p, "spsc", 128 << 10, PORTAL_FOREVER, &c), "connect");
	for (unsigned k = 0; k < 3; k++)
		v[k] = calloc(rounds, sizeof(double));
	for (unsigned i = 0; i < rounds; i++) {
		uint64_t t[4];

		t[0] = now();
		bare_produce(&head);
		t[1] = now();
		ring_produce(c);
		t[2] = now();
		batch_produce(c);
		t[3] = now();
		for (unsigned k = 0; k < 3; k++)
			v[k][i] = (double)(t[k + 1] - t[k]) / RECORDS;
	}
	for (unsigned k = 0; k < 3; k++) {
		printf("spsc.%s.p50 %.2f\n", name[k], at(v[k], rounds, 0.5));
		printf("spsc.%s.p10 %.2f\n", name[k], at(v[k], rounds, 0.1));
	}
}

/* ---- RPC ---- */

static void rpc_peer(void)
{
	struct portal_rpc_request q;
	portal_rpc_server *s;
	portal *p;

	pin(1);
	p = attach(0);
	must(portal_rpc_serve(p, "rpc", &s), "serve");
	while (portal_rpc_next(s, &q, PORTAL_FOREVER) == 0)
		must(portal_rpc_reply(s, &q, 0, &q.in), "reply");
}

static void rpc_run(portal_rpc *r, unsigned in_flight, double *v, unsigned n)
{
	uint64_t id[64], began[64], buf[8] = { 0 };
	struct portal_bytes in = { .data = buf, .size = 32 };
	int status;

	for (unsigned i = 0; i < n + in_flight; i++) {
		unsigned k = i % in_flight;

		if (i >= in_flight) {
			must(portal_rpc_finish(r, id[k], buf, sizeof(buf), NULL, &status), "finish");
			v[i - in_flight] = (double)(now() - began[k]);
		}
		if (i < n) {
			began[k] = now();
			must(portal_rpc_start(r, 1, &in, PORTAL_FOREVER, &id[k]), "start");
		}
	}
}

static void bench_rpc(void)
{
	unsigned n = rounds * 10;
	double *v = calloc(n, sizeof(double));
	portal_rpc *r;
	portal *p;

	start_broker(4096, 0, 0);
	start_child(rpc_peer);
	pin(0);
	p = attach(0);
	must(portal_rpc_connect(p, "rpc", PORTAL_FOREVER, &r), "connect");
	for (unsigned k = 1; k <= 64; k *= 2) {
		uint64_t t;

		rpc_run(r, k, v, n / 10);
		t = now();
		rpc_run(r, k, v, n);
		printf("rpc.%u.each %.0f\n", k, (double)(now() - t) / n);
		printf("rpc.%u.p50 %.0f\n", k, at(v, n, 0.5));
		printf("rpc.%u.p99 %.0f\n", k, at(v, n, 0.99));
		printf("rpc.%u.p999 %.0f\n", k, at(v, n, 0.999));
	}
}

/* ---- bulk ---- */

static void bench_bulk(void)
{
	static const unsigned mib[] = { 1, 16, 256 };
	portal *p, *q;

	start_broker(4096, 1024, 0);
	p = attach(512);
	q = attach(0);
	for (unsigned i = 0; i < 3; i++) {
		size_t n = (size_t)mib[i] << 20;
		unsigned times = mib[i] == 256 ? 9 : 40;
		double a[40], b[40];
		struct portal_handle h;
		const void *from;
		void *to = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		void *plain = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		void *mine;

		must(portal_alloc(p, n, &h, &mine), "alloc");
		memset(mine, 1, n);
		memset(plain, 2, n);
		for (unsigned k = 0; k < times; k++) {
			uint64_t t[2];

			/* Each once before, so that both begin with the same things in the caches. */
			memcpy(to, plain, n);
			t[0] = now();
			memcpy(to, plain, n);
			t[1] = now();
			a[k] = (double)n / (double)(t[1] - t[0]);
			must(portal_resolve(q, h, n, &from), "resolve");
			memcpy(to, from, n);
			t[0] = now();
			must(portal_resolve(q, h, n, &from), "resolve");
			memcpy(to, from, n);
			t[1] = now();
			b[k] = (double)n / (double)(t[1] - t[0]);
		}
		printf("bulk.%u.memcpy %.3f\n", mib[i], at(a, times, 0.5));
		printf("bulk.%u.portal %.3f\n", mib[i], at(b, times, 0.5));
		must(portal_free(p, h), "free");
		munmap(to, n);
		munmap(plain, n);
	}
}

/* ---- many participants ---- */

static void fan_peer(void)
{
	uint64_t payload[8] = { 0 };
	portal_chan *c;
	portal *p = attach(0);

	must(portal_connect(p, "fan", 0, PORTAL_FOREVER, &c), "connect");
	while (portal_send(c, 0, payload, 64, PORTAL_FOREVER) == 0)
		;
}

static void bench_fan(void)
{
	for (unsigned n = 1; n <= 8; n *= 2) {
		portal_chan *c[8], *from;
		unsigned total = rounds * 100;
		uint64_t t, buf[8];
		portal_listener *l;
		portal_fanin *f;
		int pid[8];
		portal *p;
		size_t k;

		if (n == 1)
			start_broker(4096, 0, 0);
		p = attach(0);
		must(portal_fanin_new(p, &f), "fanin");
		must(portal_listen(p, "fan", NULL, &l), "listen");
		for (unsigned i = 0; i < n; i++)
			pid[i] = start_child(fan_peer);
		for (unsigned i = 0; i < n; i++) {
			must(portal_accept(l, PORTAL_FOREVER, &c[i]), "accept");
			must(portal_fanin_add(f, c[i]), "add");
		}
		t = now();
		for (unsigned i = 0; i < total;) {
			must(portal_fanin_wait(f, NULL, PORTAL_FOREVER, &from), "wait");
			for (unsigned b = 0; b < 64 && portal_recv(from, NULL, buf, sizeof(buf), &k, 0) == 0; b++)
				i++;
		}
		printf("fan.%u %.1f\n", n, (double)(now() - t) / total);
		for (unsigned i = 0; i < n; i++) {
			kill(pid[i], SIGKILL);
			waitpid(pid[i], NULL, 0);
			portal_chan_free(c[i]);
		}
		portal_listener_free(l);
		portal_fanin_free(f);
		portal_detach(p);
	}
}

/* ---- flat over size and number ---- */

static void flat_one(portal *p, portal *q, const char *what, unsigned long size)
{
	struct portal_handle h[64], g;
	const void *at_;
	double a[50], r[50];

	for (unsigned k = 0; k < 50; k++) {
		uint64_t t[3];

		t[0] = now();
		for (unsigned i = 0; i < 1000; i++) {
			must(portal_alloc(p, 256, &g, NULL), "alloc");
			must(portal_free(p, g), "free");
		}
		t[1] = now();
		for (unsigned i = 0; i < 64; i++)
			must(portal_alloc(p, 256, &h[i], NULL), "alloc");
		t[1] = t[1] - t[0];
		t[0] = now();
		for (unsigned i = 0; i < 1000; i++)
			must(portal_resolve(q, h[i % 64], 256, &at_), "resolve");
		t[2] = now() - t[0];
		a[k] = (double)t[1] / 1000;
		r[k] = (double)t[2] / 1000;
		for (unsigned i = 0; i < 64; i++)
			must(portal_free(p, h[i]), "free");
	}
	printf("flat.%s.%lu.alloc %.1f\n", what, size, at(a, 50, 0.5));
	printf("flat.%s.%lu.resolve %.1f\n", what, size, at(r, 50, 0.5));
}

static void flat_names(portal *p, portal *q, unsigned n)
{
	static unsigned have;
	struct portal_handle h;
	struct portal_object o;
	static char name[200][32];
	double first[50], again[50];

	must(portal_alloc(p, 64, &h, NULL), "alloc");
	for (; have < n; have++) {
		snprintf(name[0], sizeof(name[0]), "object-%u", have);
		must(portal_publish(p, name[0], h, 64, 0), "publish");
	}
	/* Other names each time, so that nothing of them is in a cache; then the same once more. */
	for (unsigned k = 0; k < 50; k++) {
		uint64_t t[3];

		for (unsigned i = 0; i < 200; i++)
			snprintf(name[i], sizeof(name[i]), "object-%u", (i * 7919u + k * 131u) % n);
		for (unsigned pass = 0; pass < 2; pass++) {
			t[pass] = now();
			for (unsigned i = 0; i < 200; i++)
				must(portal_open(q, name[i], &o), "open");
		}
		t[2] = now();
		first[k] = (double)(t[1] - t[0]) / 200;
		again[k] = (double)(t[2] - t[1]) / 200;
	}
	printf("flat.names.%u.cold %.1f\n", n, at(first, 50, 0.5));
	printf("flat.names.%u.open %.1f\n", n, at(again, 50, 0.5));
}

static void bench_flat(void)
{
	static const uint32_t segments[] = { 2, 32, 512, 32768 };
	portal *p, *q;

	start_broker(1 << 18, 1 << 17, 1 << 21);
	q = attach(0);
	for (unsigned i = 0; i < 4; i++) {
		p = attach(segments[i]);
		flat_one(p, q, "mib", segments[i] * 2ul);
		portal_detach(p);
	}
	p = attach(1024);
	for (unsigned have = 0, n = 10; n <= 1000000; n *= 10) {
		struct portal_handle h;

		for (; have < n; have++)
			must(portal_alloc(p, 256, &h, NULL), "alloc");
		flat_one(p, q, "objects", n);
	}
	for (unsigned n = 10; n <= (rounds > 1000 ? 1000000 : 10000); n *= 10)
		flat_names(p, q, n);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*fn)(void);
	} part[] = { { "rtt", bench_rtt },          { "spsc", bench_spsc }, { "rpc", bench_rpc },
		     { "bulk", bench_bulk },        { "fan", bench_fan },   { "flat", bench_flat },
		     { "commands", bench_commands } };

	rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 1000;
	bare = mmap(NULL, sizeof(*bare), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (unsigned i = 0; argc > 1 && i < sizeof(part) / sizeof(part[0]); i++) {
		if (strcmp(argv[1], part[i].name) == 0) {
			part[i].fn();
			end_broker();
			fflush(stdout);
			_exit(0);
		}
	}
	fprintf(stderr, "usage: portal_bench rtt|spsc|rpc|bulk|fan|flat|commands [ROUNDS]\n");
	return 2;
}
