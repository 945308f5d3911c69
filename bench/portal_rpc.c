/*
 * Calls with 1 to 64 of them in flight, against a unix socket with as many requests of the same size in it.  Its server
 * answers at once whatever one read gave it, so it has as little to do as a server on a socket can.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "portal_bench.h"

#define MAX_IN_FLIGHT 64u
#define INLINE_BYTES 32u
#define MESSAGE (48u + INLINE_BYTES) /* a call's header, docs/portal.md */
#define BATCHES 10u

static int pair[2];

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

static void socket_peer(void)
{
	static char buf[MAX_IN_FLIGHT * MESSAGE];
	ssize_t n;

	pin(1);
	while ((n = read(pair[1], buf, sizeof(buf))) > 0)
		if (write(pair[1], buf, (size_t)n) != n)
			die("answer");
}

static void rpc_run(portal_rpc *r, unsigned in_flight, double *v, unsigned n)
{
	uint64_t id[MAX_IN_FLIGHT], began[MAX_IN_FLIGHT], buf[INLINE_BYTES / 8] = { 0 };
	struct portal_bytes in = { .data = buf, .size = sizeof(buf) };
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

/* Reads ahead, as the ring's reader may. */
static void socket_finish(size_t *have)
{
	static char buf[MAX_IN_FLIGHT * MESSAGE];

	while (*have < MESSAGE) {
		ssize_t n = read(pair[0], buf, sizeof(buf));

		if (n <= 0)
			die("read");
		*have += (size_t)n;
	}
	*have -= MESSAGE;
}

static void socket_run(unsigned in_flight, double *v, unsigned n)
{
	uint64_t began[MAX_IN_FLIGHT];
	char message[MESSAGE] = { 0 };
	size_t have = 0;

	for (unsigned i = 0; i < n + in_flight; i++) {
		unsigned k = i % in_flight;

		if (i >= in_flight) {
			socket_finish(&have);
			v[i - in_flight] = (double)(now() - began[k]);
		}
		if (i < n) {
			began[k] = now();
			if (write(pair[0], message, MESSAGE) != MESSAGE)
				die("write");
		}
	}
}

static void show(const char *name, unsigned in_flight, double *v, unsigned n, uint64_t ns)
{
	printf("%s.%u.each %.0f\n", name, in_flight, (double)ns / n);
	printf("%s.%u.p50 %.0f\n", name, in_flight, at(v, n, 0.5));
	printf("%s.%u.p99 %.0f\n", name, in_flight, at(v, n, 0.99));
	printf("%s.%u.p999 %.0f\n", name, in_flight, at(v, n, 0.999));
}

void bench_rpc(void)
{
	unsigned each = rounds, n = each * BATCHES;
	double *v = calloc(n, sizeof(double)), *u = calloc(n, sizeof(double));
	portal_rpc *r;
	portal *p;

	if (!v || !u || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		die("rpc");
	start_broker(4096, 0, 0);
	start_child(rpc_peer);
	start_child(socket_peer);
	pin(0);
	p = attach(0);
	must(portal_rpc_connect(p, "rpc", PORTAL_FOREVER, &r), "connect");
	for (unsigned k = 1; k <= MAX_IN_FLIGHT; k *= 2) {
		uint64_t ours = 0, theirs = 0;

		for (unsigned b = 0; b < BATCHES; b++) {
			uint64_t t[3];

			/* The first ones wake the peers. */
			rpc_run(r, k, v + b * each, each / 10);
			t[0] = now();
			rpc_run(r, k, v + b * each, each);
			t[1] = now();
			socket_run(k, u + b * each, each);
			t[2] = now();
			ours += t[1] - t[0];
			theirs += t[2] - t[1];
		}
		show("rpc", k, v, n, ours);
		show("rpc.unix", k, u, n, theirs);
	}
}
