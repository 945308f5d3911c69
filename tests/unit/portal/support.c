#include "support.h"

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

/* Of a test that has failed it goes on, and is nobody else's. */
struct server {
	portal_host *h;
	pthread_t thread;
	int stop[2];
	struct server *next;
};

static struct server *servers; /* the first of those that were not stopped for good */
/* Threads that run. */
static int serving;

static void *server_main(void *arg)
{
	struct server *s = arg;

	for (;;) {
		struct pollfd p[2] = { { .fd = portal_host_fd(s->h), .events = POLLIN },
				       { .fd = s->stop[0], .events = POLLIN } };

		if (poll(p, 2, -1) < 0 || p[1].revents || portal_host_dispatch(s->h, 0) < 0)
			return NULL;
	}
}

static void server_start(struct server *s)
{
	serving++;
	assert_int_equal(pthread_create(&s->thread, NULL, server_main, s), 0);
}

static void server_stop(struct server *s)
{
	char c;

	assert_int_equal(write(s->stop[1], "", 1), 1);
	pthread_join(s->thread, NULL);
	serving--;
	/* For the next one to go on. */
	assert_int_equal(read(s->stop[0], &c, 1), 1);
}

static void server_free(struct server *s)
{
	struct server **at = &servers;

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	close(s->stop[0]);
	close(s->stop[1]);
	free(s);
}

/* Whoever forks, and not by child_start(). */
static void check_fork(void)
{
	if (!serving)
		return;
	fputs("a test forks beside a broker's thread: child_start() is for that\n", stderr);
	abort();
}

static struct server *server_new(portal_host *h)
{
	static bool checked;
	struct server *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	if (!checked)
		assert_int_equal(pthread_atfork(check_fork, NULL, NULL), 0);
	checked = true;
	s->h = h;
	assert_int_equal(pipe(s->stop), 0);
	s->next = servers;
	servers = s;
	return s;
}

void broker_go_on(struct broker *b)
{
	if (b->server)
		return;
	b->server = server_new(b->h);
	server_start(b->server);
}

void broker_start(struct broker *b, const struct portal_host_params *p)
{
	struct portal_host_params q =
		p ? *p : (struct portal_host_params) { .size = sizeof(q), .name = "test", .segments = 4096 };

	*b = (struct broker) { 0 };
	strcpy(b->dir, "/tmp/portal-test-XXXXXX");
	assert_non_null(mkdtemp(b->dir));
	snprintf(b->path, sizeof(b->path), "%s/sock", b->dir);
	q.path = b->path;
	assert_int_equal(portal_host_create(&q, &b->h), 0);
	broker_go_on(b);
}

void broker_stop(struct broker *b)
{
	if (!b->server)
		return;
	server_stop(b->server);
	server_free(b->server);
	b->server = NULL;
}

void broker_end(struct broker *b)
{
	broker_stop(b);
	portal_host_destroy(b->h);
	rmdir(b->dir);
}

int64_t broker_used_ns(const struct broker *b)
{
	struct timespec ts;
	clockid_t c;

	assert_int_equal(pthread_getcpuclockid(b->server->thread, &c), 0);
	assert_int_equal(clock_gettime(c, &ts), 0);
	return ts.tv_sec * SEC + ts.tv_nsec;
}

portal *broker_attach(struct broker *b, const char *name)
{
	struct portal_attach a = { .size = sizeof(a), .path = b->path, .name = name };
	portal *p = NULL;
	int r = portal_attach(&a, &p);

	if (r < 0)
		fprintf(stderr, "attach: %s\n", strerror(-r));
	return p;
}

int come_and_go(portal_host *h, int times)
{
	int r = 0;

	for (int i = 0; i < times && r == 0; i++) {
		r = portal_host_object(h, "thing", 1, PORTAL_NOBODY, PORTAL_EVERYBODY);
		if (r == 0)
			r = portal_host_unpublish(h, "thing");
	}
	return r;
}

struct rlimit no_more_descriptors(void)
{
	struct rlimit before, now;
	int next = dup(0);

	assert_true(next > 0);
	close(next);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	now = before;
	now.rlim_cur = (rlim_t)next;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &now), 0);
	return before;
}

int child_start(int (*fn)(void *arg), void *arg)
{
	int pid;

	fflush(NULL);
	for (struct server *s = servers; s; s = s->next)
		server_stop(s);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		servers = NULL;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(fn(arg));
	}
	for (struct server *s = servers; s; s = s->next)
		server_start(s);
	return pid;
}

void child_wait(int pid)
{
	int st = 0;

	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_true(WIFEXITED(st));
	assert_int_equal(WEXITSTATUS(st), 0);
}

void child_kill(int pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}
