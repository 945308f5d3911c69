/*
 * Portal against the bare machine: each figure beside its peer, in batches that take turns, so that whatever else runs
 * disturbs both alike.  Prints "NAME VALUE" lines; bench/portal.py makes the table.
 *
 * usage: portal_bench rtt|asleep|spsc|rpc|bulk|fan|flat|commands [ROUNDS]
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

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*fn)(void);
	} part[] = { { "rtt", bench_rtt },   { "asleep", bench_asleep },    { "spsc", bench_spsc },
		     { "rpc", bench_rpc },   { "bulk", bench_bulk },        { "fan", bench_fan },
		     { "flat", bench_flat }, { "commands", bench_commands } };

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
	fprintf(stderr, "usage: portal_bench rtt|asleep|spsc|rpc|bulk|fan|flat|commands [ROUNDS]\n");
	return 2;
}
