/* A distro that is ending takes nothing any more, and the agent can tell that from other failures. */
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/core.h"
#include "base/cleanup.h"

struct distro {
	pid_t init, inside; /* its first process, and one more in its PID namespace */
	int pidfd;
};

static _Noreturn void be_init(int out)
{
	pid_t pid = fork();

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (pid == 0) {
		/* Its number outside. */
		char self[16] = "";

		if (readlink("/proc/self", self, sizeof(self) - 1) < 0 || write(out, self, sizeof(self)) < 0)
			_exit(1);
	}
	for (;;)
		pause();
}

static void distro_start(struct distro *d)
{
	char self[16] = "";
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	d->init = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, 0);
	if (d->init < 0)
		skip();
	if (d->init == 0)
		be_init(fds[1]);
	close(fds[1]);
	assert_int_equal(read(fds[0], self, sizeof(self)), sizeof(self));
	close(fds[0]);
	d->inside = (pid_t)strtol(self, NULL, 10);
	d->pidfd = (int)syscall(SYS_pidfd_open, d->init, 0);
	assert_true(d->pidfd >= 0);
}

static void distro_free(struct distro *d)
{
	kill(d->init, SIGKILL);
	assert_int_equal(waitpid(d->init, NULL, 0), d->init);
	close(d->pidfd);
}

static void a_running_distro_has_not_ended(void **state)
{
	struct distro d;

	distro_start(&d);
	assert_false(wslx_place_ended(&(struct wslx_guest_place) { .pidfd = d.pidfd }));
	distro_free(&d);
	assert_false(wslx_place_ended(&(struct wslx_guest_place) { .pidfd = -1 }));
}

/* A traced process is there until its tracer has heard of its end, and init's own end waits for that. */
static void an_ending_distro_has_ended(void **state)
{
	struct wslx_guest_place place = { 0 };
	struct pollfd p;
	struct distro d;
	siginfo_t si;

	distro_start(&d);
	assert_int_equal(ptrace(PTRACE_SEIZE, d.inside, NULL, NULL), 0);
	kill(d.init, SIGKILL);
	assert_int_equal(waitid(P_PID, (id_t)d.inside, &si, WEXITED | WNOWAIT), 0);
	p = (struct pollfd) { .fd = d.pidfd, .events = POLLIN };
	assert_int_equal(poll(&p, 1, 0), 0);
	place.pidfd = d.pidfd;
	assert_true(wslx_place_ended(&place));
	assert_int_equal(waitpid(d.inside, NULL, 0), d.inside);
	assert_int_equal(poll(&p, 1, 60000), 1);
	assert_true(wslx_place_ended(&place));
	assert_int_equal(waitpid(d.init, NULL, 0), d.init);
	assert_true(wslx_place_ended(&place));
	close(d.pidfd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_running_distro_has_not_ended),
		cmocka_unit_test(an_ending_distro_has_ended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
