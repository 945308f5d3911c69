/* Whom the end of a distro hangs up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/hangup.h"

#define MINDS true
#define IGNORES false

static void parses_what_the_kernel_writes(void **state)
{
	struct hangup_proc p;
	char path[64], buf[1024];
	int ready[2], fd;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		setsid();
		signal(SIGTERM, SIG_IGN);
		(void)!write(ready[1], "!", 1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], buf, 1), 1);
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY);
	n = read(fd, buf, sizeof(buf) - 1);
	assert_true(n > 0);
	buf[n] = '\0';
	assert_true(hangup_parse(buf, &p));
	assert_int_equal(p.pid, pid);
	assert_int_equal(p.parent, getpid());
	assert_int_equal(p.session, pid);
	assert_false(p.minds || p.terminal || p.dead);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(fd);
	close(ready[0]);
	close(ready[1]);
}

static void parses_any_name(void **state)
{
	struct hangup_proc p;

	assert_true(
		hangup_parse("7 (a) Z 1 (b)) S 5 7 5 34816 7 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99 1 2 3 4 5 6 7 8 0 0 "
			     "3686404 1 0",
			     &p));
	assert_int_equal(p.pid, 7);
	assert_int_equal(p.parent, 5);
	assert_int_equal(p.session, 5);
	assert_true(p.terminal);
	assert_false(p.minds || p.dead);
	assert_false(hangup_parse("7 (a) S 5 7 5", &p));
	assert_false(hangup_parse("7 (a", &p));
	assert_false(hangup_parse("", &p));
}

static void an_idle_shell_at_once(void **state)
{
	const struct hangup_proc all[] = {
		{ 10, 0, 10, IGNORES, true, false },  /* a client's shell */
		{ 11, 10, 10, IGNORES, true, false }, /* another one in it */
		{ 12, 10, 10, MINDS, true, true },    /* it has not been asked how it ended yet */
		{ 20, 1, 20, MINDS, false, false },   /* none of its business */
	};

	assert_true(hangup_due(all, 4, &all[0]));
	assert_true(hangup_due(all, 4, &all[1]));
	assert_false(hangup_due(all, 4, &all[2]));
	assert_false(hangup_due(all, 4, &all[3]));
}

static void a_shell_after_its_jobs(void **state)
{
	struct hangup_proc all[] = {
		{ 10, 0, 10, IGNORES, true, false },
		{ 11, 10, 10, IGNORES, true, false },
		{ 12, 11, 10, MINDS, true, false },
		{ 13, 1, 10, MINDS, true, false }, /* its parent is gone, the session is not */
	};

	/* 11 passes it on to 12, and 10 ends the session of all. */
	assert_false(hangup_due(all, 4, &all[0]));
	assert_false(hangup_due(all, 4, &all[1]));
	all[2].dead = true;
	assert_false(hangup_due(all, 4, &all[0]));
	assert_true(hangup_due(all, 4, &all[1]));
	all[3].dead = true;
	assert_true(hangup_due(all, 4, &all[0]));
}

static void only_on_a_terminal(void **state)
{
	const struct hangup_proc p = { 10, 1, 10, IGNORES, false, false };

	assert_false(hangup_due(&p, 1, &p));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parses_what_the_kernel_writes),
		cmocka_unit_test(parses_any_name),
		cmocka_unit_test(an_idle_shell_at_once),
		cmocka_unit_test(a_shell_after_its_jobs),
		cmocka_unit_test(only_on_a_terminal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
