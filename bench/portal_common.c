/* What all parts of the bench need: clock, quantiles, a broker on a thread, children. */
#include "portal_bench.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static char sock_path[96], sock_dir[64];
static portal_host *host;

uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void die(const char *what)
{
	perror(what);
	exit(1);
}

void must(int r, const char *what)
{
	if (r < 0) {
		errno = -r;
		die(what);
	}
}

void pin(int cpu)
{
	cpu_set_t s;

	CPU_ZERO(&s);
	CPU_SET(cpu % (int)sysconf(_SC_NPROCESSORS_ONLN), &s);
	sched_setaffinity(0, sizeof(s), &s);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

double at(double *v, size_t n, double q)
{
	size_t i = (size_t)(q * (double)(n - 1));

	qsort(v, n, sizeof(*v), by_value);
	return v[i];
}

static void *broker_main(void *arg)
{
	while (portal_host_dispatch(host, -1) == 0)
		;
	return NULL;
}

void start_broker(uint32_t segments, uint32_t each, uint32_t slots)
{
	struct portal_host_params q = { .size = sizeof(q),
					.name = "bench",
					.path = sock_path,
					.segments = segments,
					.max_each = each,
					.name_slots = slots,
					.max_names = slots };
	pthread_t t;

	strcpy(sock_dir, "/tmp/portal-bench-XXXXXX");
	if (!mkdtemp(sock_dir))
		die("mkdtemp");
	snprintf(sock_path, sizeof(sock_path), "%s/sock", sock_dir);
	must(portal_host_create(&q, &host), "portal_host_create");
	pthread_create(&t, NULL, broker_main, NULL);
	pthread_detach(t);
}

void end_broker(void)
{
	unlink(sock_path);
	rmdir(sock_dir);
}

portal *attach(uint32_t segments)
{
	struct portal_attach a = { .size = sizeof(a), .path = sock_path, .name = "bench", .segments = segments };
	portal *p;

	must(portal_attach(&a, &p), "portal_attach");
	return p;
}

int start_child(void (*fn)(void))
{
	int pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fn();
	_exit(0);
}

portal_chan *serve_one(portal *p, const char *name)
{
	portal_listener *l;
	portal_chan *c;

	must(portal_listen(p, name, NULL, &l), "listen");
	must(portal_accept(l, PORTAL_FOREVER, &c), "accept");
	return c;
}

void *shared(size_t n)
{
	void *at_ = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (at_ == MAP_FAILED)
		die("mmap");
	return at_;
}
