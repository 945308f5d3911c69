/*
 * A command stream with a data plane: small commands on a ring, each with the handle of a buffer that holds what it is
 * about.  The consumer reads every byte in place and answers with a completion, which frees the buffer for the next
 * command.  Against a unix socket that carries command and bytes; both in batches that take turns.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "portal_bench.h"

#define IN_FLIGHT 8u
#define COMMANDS 64u /* a batch */
#define MAX_BYTES (1u << 20)

struct command {
	struct portal_handle data;
	uint64_t size, number;
};

static const size_t sizes[] = { 4096, 65536, MAX_BYTES };
static int pair[2];

static uint64_t sum(const void *data, size_t n)
{
	uint64_t s = 0;

	for (const uint64_t *v = data; n >= 8; n -= 8)
		s += *v++;
	return s;
}

/* ---- the consumer ---- */

static void take_portal(portal *p, portal_chan *c)
{
	for (unsigned i = 0; i < COMMANDS; i++) {
		struct command m;
		const void *data;
		uint64_t done;
		size_t n;

		must(portal_recv(c, NULL, &m, sizeof(m), &n, PORTAL_FOREVER), "command");
		must(portal_resolve(p, m.data, m.size, &data), "data");
		done = sum(data, m.size);
		must(portal_send(c, 0, &done, sizeof(done), PORTAL_FOREVER), "completion");
	}
}

static void read_all(int fd, void *buf, size_t n)
{
	for (char *at_ = buf; n;) {
		ssize_t r = read(fd, at_, n);

		if (r <= 0)
			die("read");
		at_ += r;
		n -= (size_t)r;
	}
}

static void take_socket(int fd, void *buf)
{
	for (unsigned i = 0; i < COMMANDS; i++) {
		struct command m;
		uint64_t done;

		read_all(fd, &m, sizeof(m));
		read_all(fd, buf, m.size);
		done = sum(buf, m.size);
		if (write(fd, &done, sizeof(done)) != sizeof(done))
			die("completion");
	}
}

static void consumer(void)
{
	void *buf = malloc(MAX_BYTES);
	portal_chan *c;
	portal *p;

	pin(1);
	p = attach(0);
	c = serve_one(p, "commands");
	for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		for (unsigned i = 0; i < rounds; i++) {
			take_portal(p, c);
			take_socket(pair[1], buf);
		}
	}
}

/* ---- the producer ---- */

static void fill(void *to, size_t n, uint64_t number)
{
	memset(to, (int)number, n);
}

static void check(uint64_t got, size_t n, uint64_t number)
{
	if (got != (number & 0xff) * UINT64_C(0x0101010101010101) * (n / 8)) {
		errno = EIO;
		die("the consumer saw other bytes");
	}
}

static void complete(portal_chan *c, size_t n, uint64_t number)
{
	uint64_t done;
	size_t k;

	must(portal_recv(c, NULL, &done, sizeof(done), &k, PORTAL_FOREVER), "completion");
	check(done, n, number);
}

static void give_portal(portal_chan *c, void *const *data, const struct portal_handle *h, size_t n)
{
	for (unsigned i = 0; i < COMMANDS + IN_FLIGHT; i++) {
		struct command m = { .data = h[i % IN_FLIGHT], .size = n, .number = i };

		if (i >= IN_FLIGHT)
			complete(c, n, i - IN_FLIGHT);
		if (i >= COMMANDS)
			continue;
		fill(data[i % IN_FLIGHT], n, i);
		must(portal_send(c, 0, &m, sizeof(m), PORTAL_FOREVER), "command");
	}
}

static void send_socket(int fd, struct command *m, void *data)
{
	struct iovec v[2] = { { m, sizeof(*m) }, { data, m->size } };

	for (size_t left = sizeof(*m) + m->size; left;) {
		ssize_t r = writev(fd, v, 2);

		if (r <= 0)
			die("writev");
		left -= (size_t)r;
		for (unsigned i = 0; i < 2; i++) {
			size_t k = (size_t)r < v[i].iov_len ? (size_t)r : v[i].iov_len;

			v[i].iov_base = (char *)v[i].iov_base + k;
			v[i].iov_len -= k;
			r -= (ssize_t)k;
		}
	}
}

static void give_socket(int fd, void *buf, size_t n)
{
	for (unsigned i = 0; i < COMMANDS + IN_FLIGHT; i++) {
		struct command m = { .size = n, .number = i };
		uint64_t done;

		if (i >= IN_FLIGHT) {
			read_all(fd, &done, sizeof(done));
			check(done, n, i - IN_FLIGHT);
		}
		if (i >= COMMANDS)
			continue;
		fill(buf, n, i);
		send_socket(fd, &m, buf);
	}
}

void bench_commands(void)
{
	double *a = calloc(rounds, sizeof(*a)), *b = calloc(rounds, sizeof(*b));
	struct portal_handle h[IN_FLIGHT];
	void *data[IN_FLIGHT], *buf = malloc(MAX_BYTES);
	portal_chan *c;
	portal *p;

	if (!a || !b || !buf || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		die("commands");
	start_broker(4096, 0, 0);
	start_child(consumer);
	pin(0);
	p = attach(32);
	for (unsigned i = 0; i < IN_FLIGHT; i++)
		must(portal_alloc(p, MAX_BYTES, &h[i], &data[i]), "alloc");
	must(portal_connect(p, "commands", 0, PORTAL_FOREVER, &c), "connect");
	for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		for (unsigned i = 0; i < rounds; i++) {
			uint64_t t = now(), u;

			give_portal(c, data, h, sizes[s]);
			u = now();
			give_socket(pair[0], buf, sizes[s]);
			a[i] = (double)(u - t) / COMMANDS;
			b[i] = (double)(now() - u) / COMMANDS;
		}
		printf("commands.%zu.portal %.0f\ncommands.%zu.unix %.0f\n", sizes[s], at(a, rounds, 0.5), sizes[s],
		       at(b, rounds, 0.5));
	}
}
