/*
 * Portal between any two of host and machines: the same program everywhere, in machines static against musl.
 * bench/portal_machines.py starts it and makes ratios of its figures.
 *
 * usage: portal_across serve REGION              until standard input ends
 *        portal_across ask REGION TRIPS          prints "NAME VALUE" lines
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
#define BULK ((size_t)16 << 20)
/* Records' types. */
#define ANSWER 0u
#define TAKE 1u
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
		.size = sizeof(a), .region = region, .name = "across", .segments = 32, .timeout_ns = LIMIT
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
		while (portal_recv(c, &type, buf, sizeof(buf), &n, PORTAL_FOREVER) == 0)
			if (type == ANSWER && portal_send(c, 0, buf, n, PORTAL_FOREVER) < 0)
				break;
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

static int serve(const char *region)
{
	pthread_t records, calls;
	void *bulk;

	attach(region);
	must(portal_create(p, "bulk", BULK, NULL, &bulk), "bulk");
	memset(bulk, 2, BULK);
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

static void ask_calls(unsigned n, double *v)
{
	uint64_t buf[8] = { 0 };
	struct portal_bytes in = { .data = buf, .size = 32 }, out;
	portal_rpc *r;

	must(portal_rpc_connect(p, "call", LIMIT, &r), "connect");
	for (unsigned i = 0; i < n; i++) {
		double t = now();

		must(portal_rpc_call(r, 1, &in, buf, sizeof(buf), &out, LIMIT), "call");
		v[i] = now() - t;
	}
	printf("rpc.p50 %.0f\nrpc.p99 %.0f\n", at(v, n, 0.5), at(v, n, 0.99));
	portal_rpc_free(r);
}

/* Once before, so that both begin with the same things in the caches. */
static double copy_time(void *to, const void *from)
{
	double t;

	memcpy(to, from, BULK);
	t = now();
	memcpy(to, from, BULK);
	return now() - t;
}

static void ask_bulk(void)
{
	void *to = memory(BULK), *plain = memory(BULK);
	double a[9], b[9];
	struct portal_object o;
	const void *from;

	must(portal_wait_for(p, "bulk", LIMIT, &o), "bulk");
	must(portal_map(p, &o, &from, NULL), "map");
	for (unsigned k = 0; k < 9; k++) {
		a[k] = copy_time(to, plain);
		b[k] = copy_time(to, from);
	}
	printf("memcpy.p50 %.3f\nbulk.p50 %.3f\n", (double)BULK / at(a, 9, 0.5), (double)BULK / at(b, 9, 0.5));
}

static int ask(const char *region, unsigned trips)
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
	ask_bulk();
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
	if (argc == 4 && strcmp(verb, "ask") == 0 && atoi(argv[3]) > 0)
		return ask(argv[2], (unsigned)atoi(argv[3]));
	if (argc == 3 && strcmp(verb, "vsock-serve") == 0)
		return vsock_serve((unsigned)atoi(argv[2]));
	if (argc == 5 && strcmp(verb, "vsock-ask") == 0 && atoi(argv[4]) > 0)
		return vsock_ask(argv[2], argv[3], (unsigned)atoi(argv[4]));
	fprintf(stderr, "usage: portal_across serve REGION | ask REGION TRIPS | vsock-serve PORT | vsock-ask SOCKET "
			"PORT TRIPS\n");
	return 2;
}
