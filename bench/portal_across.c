/*
 * Portal between any two of host and machines: the same program everywhere, in machines static against musl.
 * bench/portal_machines.py starts it and makes ratios of its figures.
 *
 * usage: portal_across serve REGION              until standard input ends
 *        portal_across ask REGION TRIPS [MIB]    prints "NAME VALUE" lines; bulk of 1, 16 and 256 MiB up to MIB, 256
 *        portal_across vsock-serve PORT          in a machine: echoes 8 bytes at a time to one connection after another
 *        portal_across vsock-ask SOCKET PORT TRIPS  on the host: round trips to it through the machine's vsock.sock
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>
#include <wslx/portal.h>

#define SEC INT64_C(1000000000)
#define LIMIT (120 * SEC)
#define BULK_MAX ((size_t)256 << 20)
#define SEGMENTS 144 /* the largest bulk, and 32 MiB */
/* Commands with data, bench/portal_commands.c. */
#define COMMAND_BYTES 65536u
#define COMMANDS_IN_FLIGHT 8u
#define CALLS_IN_FLIGHT 64u
/* Records' types. */
#define ANSWER 0u
#define TAKE 1u
#define COMMAND 2u
/* Long enough for the peer to have gone to sleep, on any host. */
#define PAUSE_US 20000

static portal *p;

static void must(int r, const char *what)
{
	if (r < 0) {
		fprintf(stderr, "portal_across: %s: %s\n", what, strerror(-r));
		exit(1);
	}
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double at(double *v, unsigned n, double q)
{
	qsort(v, n, sizeof(*v), by_value);
	return v[(unsigned)(q * (n - 1))];
}

static void attach(const char *region)
{
	struct portal_attach a = {
		.size = sizeof(a), .region = region, .name = "across", .segments = SEGMENTS, .timeout_ns = LIMIT
	};

	must(portal_attach(&a, &p), "attach");
}

static void *memory(size_t n)
{
	void *at_ = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	must(at_ == MAP_FAILED ? -errno : 0, "memory");
	memset(at_, 1, n);
	return at_;
}

/* ---- serving ---- */

static uint64_t sum(const void *data, size_t n)
{
	uint64_t s = 0;

	for (const uint64_t *v = data; n >= 8; n -= 8)
		s += *v++;
	return s;
}

/* Reads every byte in place; the completion says that it did. */
static size_t do_command(uint64_t *buf)
{
	struct portal_handle h;
	const void *data;

	memcpy(&h, buf, sizeof(h));
	must(portal_resolve(p, h, COMMAND_BYTES, &data), "data");
	*buf = sum(data, COMMAND_BYTES);
	return sizeof(*buf);
}

static void *serve_records(void *arg)
{
	portal_listener *l;
	portal_chan *c;
	uint64_t buf[8];
	uint32_t type;
	size_t n;

	must(portal_listen(p, "echo", NULL, &l), "listen");
	for (;;) {
		must(portal_accept(l, PORTAL_FOREVER, &c), "accept");
		while (portal_recv(c, &type, buf, sizeof(buf), &n, PORTAL_FOREVER) == 0) {
			if (type == COMMAND)
				n = do_command(buf);
			if (type != TAKE && portal_send(c, 0, buf, n, PORTAL_FOREVER) < 0)
				break;
		}
		portal_chan_free(c);
	}
	return NULL;
}

static void *serve_calls(void *arg)
{
	struct portal_rpc_request q;
	portal_rpc_server *s;

	must(portal_rpc_serve(p, "call", &s), "serve");
	while (portal_rpc_next(s, &q, PORTAL_FOREVER) == 0)
		must(portal_rpc_reply(s, &q, 0, &q.in), "reply");
	return NULL;
}

/* A server before this one may have ended and still be on its way out, in another machine. */
static void *make_bulk(void)
{
	double end = now() + (double)LIMIT;
	void *bulk;
	int r;

	while ((r = portal_create(p, "bulk", BULK_MAX, NULL, &bulk)) == -EEXIST && now() < end)
		(void)portal_poll(p, SEC / 100);
	must(r, "bulk");
	return bulk;
}

static int serve(const char *region)
{
	pthread_t records, calls;
	void *bulk;

	attach(region);
	bulk = make_bulk();
	memset(bulk, 2, BULK_MAX);
	pthread_create(&records, NULL, serve_records, NULL);
	pthread_create(&calls, NULL, serve_calls, NULL);
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		;
	/* The threads wait without end; the process's end is theirs. */
	_exit(0);
}

/* ---- asking ---- */

static void trip(portal_chan *c)
{
	uint64_t v = 1;
	size_t n;

	must(portal_send(c, ANSWER, &v, sizeof(v), LIMIT), "send");
	must(portal_recv(c, NULL, &v, sizeof(v), &n, LIMIT), "recv");
}

static void ask_trips(portal_chan *c, unsigned trips, double *v)
{
	for (unsigned i = 0; i < trips; i++) {
		double t = now();

		trip(c);
		v[i] = now() - t;
	}
	printf("trip.p50 %.0f\ntrip.p99 %.0f\n", at(v, trips, 0.5), at(v, trips, 0.99));
}

/* Both sleep: each way it takes a doorbell. */
static void ask_asleep(portal_chan *c, unsigned trips, double *v)
{
	for (unsigned i = 0; i < trips; i++) {
		double t;

		usleep(PAUSE_US);
		t = now();
		trip(c);
		v[i] = now() - t;
	}
	printf("asleep.p50 %.0f\n", at(v, trips, 0.5));
}

static void ask_records(portal_chan *c, unsigned n, double *v)
{
	uint64_t payload[8] = { 0 };

	for (unsigned k = 0; k < 9; k++) {
		double t = now();

		for (unsigned i = 0; i < n; i++)
			must(portal_send(c, TAKE, payload, sizeof(payload), LIMIT), "send");
		trip(c);
		v[k] = (now() - t) / n;
	}
	printf("record.p50 %.1f\n", at(v, 9, 0.5));
}

static void calls_run(portal_rpc *r, unsigned in_flight, unsigned n, double *v)
{
	uint64_t id[CALLS_IN_FLIGHT], buf[8] = { 0 };
	struct portal_bytes in = { .data = buf, .size = 32 };
	double began[CALLS_IN_FLIGHT];
	int status;

	for (unsigned i = 0; i < n + in_flight; i++) {
		unsigned k = i % in_flight;

		if (i >= in_flight) {
			must(portal_rpc_finish(r, id[k], buf, sizeof(buf), NULL, &status), "finish");
			v[i - in_flight] = now() - began[k];
		}
		if (i < n) {
			began[k] = now();
			must(portal_rpc_start(r, 1, &in, LIMIT, &id[k]), "start");
		}
	}
}

static void ask_calls(unsigned n, double *v)
{
	portal_rpc *r;

	must(portal_rpc_connect(p, "call", LIMIT, &r), "connect");
	for (unsigned k = 1; k <= CALLS_IN_FLIGHT; k *= 4) {
		double t;

		calls_run(r, k, n < k ? n : k, v); /* wakes the server */
		t = now();
		calls_run(r, k, n, v);
		printf("rpc.%u.each %.0f\n", k, (now() - t) / n);
		printf("rpc.%u.p50 %.0f\nrpc.%u.p99 %.0f\nrpc.%u.p999 %.0f\n", k, at(v, n, 0.5), k, at(v, n, 0.99), k,
		       at(v, n, 0.999));
	}
	portal_rpc_free(r);
}

/* Each with its data in memory of the asker's, which is written anew for each. */
static void commands_run(portal_chan *c, const struct portal_handle *h, void *const *data, unsigned n)
{
	uint64_t done;
	size_t k;

	for (unsigned i = 0; i < n + COMMANDS_IN_FLIGHT; i++) {
		unsigned at_ = i % COMMANDS_IN_FLIGHT;

		if (i >= COMMANDS_IN_FLIGHT) {
			must(portal_recv(c, NULL, &done, sizeof(done), &k, LIMIT), "completion");
			must(done == ((i - COMMANDS_IN_FLIGHT) & 0xff) * UINT64_C(0x0101010101010101) *
						     (COMMAND_BYTES / 8)
				     ? 0
				     : -EIO,
			     "the server saw other bytes");
		}
		if (i < n) {
			memset(data[at_], (int)i, COMMAND_BYTES);
			must(portal_send(c, COMMAND, &h[at_], sizeof(h[at_]), LIMIT), "command");
		}
	}
}

static void ask_commands(portal_chan *c, unsigned n, double *v)
{
	struct portal_handle h[COMMANDS_IN_FLIGHT];
	void *data[COMMANDS_IN_FLIGHT];

	for (unsigned i = 0; i < COMMANDS_IN_FLIGHT; i++)
		must(portal_alloc(p, COMMAND_BYTES, &h[i], &data[i]), "alloc");
	for (unsigned k = 0; k < 9; k++) {
		double t = now();

		commands_run(c, h, data, n);
		v[k] = (now() - t) / n;
	}
	printf("command.p50 %.0f\n", at(v, 9, 0.5));
	for (unsigned i = 0; i < COMMANDS_IN_FLIGHT; i++)
		must(portal_free(p, h[i]), "free");
}

/* Once before, so that both begin with the same things in the caches. */
static double copy_time(void *to, const void *from, size_t n)
{
	double t;

	memcpy(to, from, n);
	t = now();
	memcpy(to, from, n);
	return now() - t;
}

static void bulk_of(unsigned mib, const void *from)
{
	size_t n = (size_t)mib << 20;
	unsigned times = mib > 16 ? 3 : 9;
	void *to = memory(n), *plain = memory(n);
	double a[9], b[9];

	for (unsigned k = 0; k < times; k++) {
		a[k] = copy_time(to, plain, n);
		b[k] = copy_time(to, from, n);
	}
	printf("memcpy.%u.p50 %.3f\nbulk.%u.p50 %.3f\n", mib, (double)n / at(a, times, 0.5), mib,
	       (double)n / at(b, times, 0.5));
	munmap(to, n);
	munmap(plain, n);
}

static void ask_bulk(unsigned most_mib)
{
	struct portal_object o;
	const void *from;

	must(portal_wait_for(p, "bulk", LIMIT, &o), "bulk");
	must(portal_map(p, &o, &from, NULL), "map");
	for (unsigned mib = 1; mib <= most_mib; mib *= 16)
		bulk_of(mib, from);
}

static int ask(const char *region, unsigned trips, unsigned most_mib)
{
	double *v = calloc(trips > 9 ? trips : 9, sizeof(*v));
	portal_chan *c;

	must(v ? 0 : -ENOMEM, "memory");
	attach(region);
	must(portal_connect(p, "echo", 0, LIMIT, &c), "connect");
	trip(c); /* what is done the first time */
	ask_trips(c, trips, v);
	ask_records(c, trips * 4, v);
	ask_asleep(c, 40 < trips ? 40 : trips, v);
	ask_calls(trips, v);
	ask_commands(c, trips / 9 + 1, v);
	ask_bulk(most_mib);
	portal_chan_free(c);
	portal_detach(p);
	return 0;
}

/* ---- vsock, for comparison ---- */

static int vsock_serve(unsigned port)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_ANY };
	int l = socket(AF_VSOCK, SOCK_STREAM, 0), s;
	uint64_t v;

	must(l < 0 || bind(l, (void *)&a, sizeof(a)) < 0 || listen(l, 1) < 0 ? -errno : 0, "vsock");
	puts("ready");
	fflush(stdout);
	while ((s = accept(l, NULL, NULL)) >= 0) {
		while (read(s, &v, sizeof(v)) == sizeof(v) && write(s, &v, sizeof(v)) == sizeof(v))
			;
		close(s);
	}
	return 0;
}

static int vsock_connect(const char *path, const char *port)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_STREAM, 0), n = snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	char line[32], c = 0;

	must(s < 0 || n >= (int)sizeof(a.sun_path) || connect(s, (void *)&a, sizeof(a)) < 0 ? -errno : 0, path);
	n = snprintf(line, sizeof(line), "CONNECT %s\n", port);
	must(write(s, line, (size_t)n) == n ? 0 : -errno, "CONNECT");
	while (c != '\n')
		must(read(s, &c, 1) == 1 ? 0 : -EPIPE, "CONNECT");
	return s;
}

static int vsock_ask(const char *path, const char *port, unsigned trips)
{
	int s = vsock_connect(path, port);
	double *v = calloc(trips, sizeof(*v));
	uint64_t b = 1;

	must(v ? 0 : -ENOMEM, "memory");
	for (unsigned pass = 0; pass < 2; pass++) {
		unsigned n = pass ? 40 < trips ? 40 : trips : trips;

		for (unsigned i = 0; i < n; i++) {
			double t;

			if (pass)
				usleep(PAUSE_US);
			t = now();
			must(write(s, &b, sizeof(b)) == sizeof(b) && read(s, &b, sizeof(b)) == sizeof(b) ? 0 : -EPIPE,
			     "vsock");
			v[i] = now() - t;
		}
		printf("%s.p50 %.0f\n", pass ? "asleep" : "trip", at(v, n, 0.5));
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";

	if (argc == 3 && strcmp(verb, "serve") == 0)
		return serve(argv[2]);
	if ((argc == 4 || argc == 5) && strcmp(verb, "ask") == 0 && atoi(argv[3]) > 0)
		return ask(argv[2], (unsigned)atoi(argv[3]), argc == 5 ? (unsigned)atoi(argv[4]) : 256);
	if (argc == 3 && strcmp(verb, "vsock-serve") == 0)
		return vsock_serve((unsigned)atoi(argv[2]));
	if (argc == 5 && strcmp(verb, "vsock-ask") == 0 && atoi(argv[4]) > 0)
		return vsock_ask(argv[2], argv[3], (unsigned)atoi(argv[4]));
	fprintf(stderr,
		"usage: portal_across serve REGION | ask REGION TRIPS [MIB] | vsock-serve PORT | vsock-ask SOCKET "
		"PORT TRIPS\n");
	return 2;
}
