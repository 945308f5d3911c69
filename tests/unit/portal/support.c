#include "support.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"

static void *broker_main(void *arg)
{
	struct broker *b = arg;

	for (;;) {
		struct pollfd p[2] = { { .fd = portal_host_fd(b->h), .events = POLLIN },
				       { .fd = b->stop[0], .events = POLLIN } };

		if (poll(p, 2, -1) < 0 || p[1].revents)
			return NULL;
		if (portal_host_dispatch(b->h, 0) < 0)
			return NULL;
	}
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
	assert_int_equal(pipe(b->stop), 0);
	assert_int_equal(pthread_create(&b->thread, NULL, broker_main, b), 0);
}

void broker_stop(struct broker *b)
{
	if (!b->thread)
		return;
	assert_int_equal(write(b->stop[1], "", 1), 1);
	pthread_join(b->thread, NULL);
	b->thread = 0;
}

void broker_end(struct broker *b)
{
	broker_stop(b);
	portal_host_destroy(b->h);
	close(b->stop[0]);
	close(b->stop[1]);
	rmdir(b->dir);
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

int child_start(int (*fn)(void *arg), void *arg)
{
	int pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(fn(arg));
	}
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
