/* How daemons start: options, what is left of what they inherit, what was written for them. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "os/linux/startup.h"

#define HIGH 700

/* ---- options ------------------------------------------------------------------- */

struct taken {
	int config, log;
	const char *child;
};

static bool operands;

static int parse(struct taken *t, const char *a, const char *b)
{
	const struct wslx_startup s = {
		.program = "daemon",
		.usage = "usage: daemon\n",
		.operands = operands,
		.options = { { "config", .fd = &t->config },
			     { "log", .fd = &t->log },
			     { "child", .text = &t->child },
			     { .name = "name" } },
	};
	char *argv[] = { (char *)"daemon", (char *)(uintptr_t)a, (char *)(uintptr_t)b, NULL };

	*t = (struct taken) { -1, -1, NULL };
	optind = 0; /* from the start */
	return wslx_startup_parse(&s, 1 + !!a + !!b, argv);
}

static void options_are_taken(void **state)
{
	struct taken t;
	char arg[32];
	int fd = open("/dev/null", O_RDONLY);

	assert_true(fd >= 3);
	snprintf(arg, sizeof(arg), "--log=%d", fd);
	assert_int_equal(parse(&t, arg, "--child=vmm"), 0);
	assert_int_equal(t.log, fd);
	assert_int_equal(t.config, -1);
	assert_string_equal(t.child, "vmm");
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(parse(&t, "--name=anything", NULL), 0);
	assert_int_equal(parse(&t, NULL, NULL), 0);
	operands = true;
	assert_int_equal(parse(&t, "--child=vmm", "some name"), 0);
	operands = false;
	assert_int_equal(parse(&t, "--child=vmm", "some name"), -EINVAL);
	close(fd);
}

static void mistakes_are_refused(void **state)
{
	static const char *const bad[] = {
		"--log=",    "--log=x",  "--log=0", "--log=2",   "--log=-1",
		"--log=0x3", "--log=3 ", "--log",   "--log=999", "--log=99999999999999999999",
		"--other=1", "stray",    "-l"
	};
	struct taken t;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (parse(&t, bad[i], NULL) != -EINVAL || t.log >= 0)
			fail_msg("%s is taken", bad[i]);
	/* Stdio is left as it was. */
	assert_int_equal(fcntl(2, F_GETFD), 0);
}

static void questions_are_answered(void **state)
{
	struct taken t;

	assert_int_equal(parse(&t, "--help", "--log=x"), 1);
	assert_int_equal(parse(&t, "--version", NULL), 1);
}

/* ---- what was inherited ----------------------------------------------------------- */

/* fn's result is its exit status. */
static void in_a_child(int (*fn)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(fn());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static bool leads_to(int fd, const char *path)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_rdev == b.st_rdev && a.st_ino == b.st_ino;
}

/* Bits of what is not as it should be. */
static int detached(void)
{
	const int keep[] = { HIGH + 2, -1, HIGH }, log = HIGH + 4;
	int bad = 0;
	char folder[4096];

	for (int fd = HIGH; fd < HIGH + 6; fd++)
		dup2(0, fd);
	if (dup2(open("/dev/full", O_WRONLY), log) < 0)
		return 1;
	if (wslx_startup_detach(log, keep, ARRAY_SIZE(keep)) < 0)
		return 1;
	if (!leads_to(0, "/dev/null") || !leads_to(1, "/dev/null") || !leads_to(2, "/dev/full"))
		bad |= 2;
	for (int fd = 3; fd < 1024; fd++)
		if (is_open(fd) != (fd == HIGH || fd == HIGH + 2))
			bad |= 4;
	if (fcntl(HIGH, F_GETFD) != FD_CLOEXEC || fcntl(HIGH + 2, F_GETFD) != FD_CLOEXEC || fcntl(2, F_GETFD) != 0)
		bad |= 8;
	if (getsid(0) != getpid() || umask(0) != 077)
		bad |= 16;
	if (!getcwd(folder, sizeof(folder)) || strcmp(folder, "/") != 0)
		bad |= 32;
	return bad;
}

static void nothing_of_the_callers_stays(void **state)
{
	in_a_child(detached);
}

/* ---- parameters, limits --------------------------------------------------------------- */

static int read_text(const char *text, size_t max, char **ret, size_t *ret_len)
{
	int p[2];

	assert_int_equal(pipe(p), 0);
	assert_int_equal(wslx_write_full(p[1], text, strlen(text)), 0);
	close(p[1]);
	return wslx_startup_read(p[0], max, ret, ret_len);
}

static void parameters_are_read_whole(void **state)
{
	char *s = NULL;
	size_t n = 0;

	assert_int_equal(read_text("some text", 64, &s, &n), 0);
	assert_int_equal(n, 9);
	assert_memory_equal(s, "some text", 9);
	free(s);
	assert_int_equal(read_text("", 64, &s, &n), 0);
	assert_int_equal(n, 0);
	free(s);
	assert_int_equal(read_text("some text", 9, &s, &n), -EFBIG);
	assert_int_equal(read_text("some text", 4, &s, &n), -EFBIG);
	assert_int_equal(wslx_startup_read(open("/", O_RDONLY | O_DIRECTORY), 64, &s, &n), -EISDIR);
}

static int limits(void)
{
	struct rlimit l = { .rlim_cur = 64, .rlim_max = 256 };

	if (setrlimit(RLIMIT_NOFILE, &l) < 0)
		return 1;
	for (unsigned wanted = 32; wanted <= 512; wanted *= 2)
		if (wslx_startup_raise_fds(wanted) < 0 || getrlimit(RLIMIT_NOFILE, &l) < 0 ||
		    l.rlim_cur != WSLX_MIN(256, WSLX_MAX(64, wanted)) || l.rlim_max != 256)
			return 2;
	return 0;
}

static void limit_is_only_raised(void **state)
{
	in_a_child(limits);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_are_taken),         cmocka_unit_test(mistakes_are_refused),
		cmocka_unit_test(questions_are_answered),    cmocka_unit_test(nothing_of_the_callers_stays),
		cmocka_unit_test(parameters_are_read_whole), cmocka_unit_test(limit_is_only_raised),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
