/* Processes on real descriptors. */
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"

#define SH(script) ((const char *const[]) { "sh", "-c", script, NULL })
#define NO_FDS                                                                                                         \
	{                                                                                                              \
		.in = -1, .out = -1, .err = -1, .tty_in = -1, .tty_out = -1                                            \
	}

static struct agent agent;

struct result {
	bool exited;
	struct wslx_agentc_exit x;
	char text[256];
};

static int setup(void **state)
{
	agent_start(&agent);
	return 0;
}

static int teardown(void **state)
{
	agent_stop(&agent);
	return 0;
}

static void on_exit_status(void *opaque, const struct wslx_agentc_exit *x)
{
	struct result *r = opaque;

	r->exited = true;
	r->x = *x;
	snprintf(r->text, sizeof(r->text), "%s", x->text);
}

static struct wslx_agentc_pump *start(const char *script, const struct wslx_agentc_fds *fds, struct result *res)
{
	struct wslx_agent_exec m = { .argv = SH(script), .cwd = "/" };
	struct wslx_agentc_pump *p;

	memset(res, 0, sizeof(*res));
	m.streams[0] = fds->in >= 0 ? WSLX_STREAM_PIPE : 0;
	m.streams[1] = fds->out >= 0 ? WSLX_STREAM_PIPE : 0;
	m.streams[2] = fds->err >= 0 ? WSLX_STREAM_PIPE : 0;
	assert_int_equal(wslx_agentc_exec_fds(agent.c, &m, fds, NULL, on_exit_status, res, &p), 0);
	return p;
}

static int lost_output(const struct wslx_agentc_pump *p)
{
	unsigned stream;

	return wslx_agentc_pump_lost_output(p, &stream);
}

static int temp_file(const char *content, size_t n)
{
	char path[] = "/tmp/wslx-test-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);

	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(write(fd, content, n), n);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

/* stdout and stderr share one file and its offset, and are not ordered between each other: takes the one line of
 * stderr out of what was written. */
static void take_line_out(char *back, const char *data, size_t n, const char *line)
{
	size_t len = strlen(line), at = 0;

	while (at < n && back[at] == data[at])
		at++;
	while (at && strncmp(back + at, line, len) != 0)
		at--;
	assert_memory_equal(back + at, line, len);
	memmove(back + at, back + at + len, n - at);
}

static void files(void **state)
{
	size_t n = 1 << 20;
	char *data = malloc(n), *back = malloc(n + 3);
	struct wslx_agentc_fds fds = NO_FDS;
	struct wslx_agentc_pump *p;
	struct result r;

	for (size_t i = 0; i < n; i++)
		data[i] = (char)(i * 31 + i / 999);
	fds.in = temp_file(data, n);
	fds.out = fds.err = temp_file("", 0);
	p = start("cat; echo x >&2", &fds, &r);
	agent_until(&agent, &r.exited);
	assert_int_equal(r.x.status, 0);
	assert_int_equal(lseek(fds.out, 0, SEEK_END), n + 2);
	assert_int_equal(pread(fds.out, back, n + 2, 0), n + 2);
	back[n + 2] = '\0';
	take_line_out(back, data, n, "x\n");
	assert_memory_equal(data, back, n);
	wslx_agentc_pump_free(p);
	close(fds.in);
	close(fds.out);
	free(data);
	free(back);
}

static void null_device(void **state)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct wslx_agentc_fds fds = { .in = null, .out = null, .err = null, .tty_in = -1, .tty_out = -1 };
	struct result r;
	struct wslx_agentc_pump *p = start("cat; seq 100000; exit 4", &fds, &r);

	agent_until(&agent, &r.exited);
	assert_int_equal(r.x.status, 4);
	wslx_agentc_pump_free(p);
	close(null);
}

/* The reader takes its time: nothing is lost, and the exit is reported last. */
static void slow_pipe(void **state)
{
	struct wslx_agentc_fds fds = NO_FDS;
	struct wslx_agentc_pump *p;
	char buf[5000];
	size_t got = 0;
	struct result r;
	ssize_t n;
	int fd[2];

	assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
	fds.out = fd[1];
	p = start("head -c 1000000 /dev/zero", &fds, &r);
	while (!r.exited) {
		wslx_loop_once(agent.loop, 0);
		fcntl(fd[0], F_SETFL, O_NONBLOCK);
		n = read(fd[0], buf, sizeof(buf));
		got += n > 0 ? (size_t)n : 0;
	}
	/* The caller's description was left blocking. */
	assert_false(fcntl(fd[1], F_GETFL) & O_NONBLOCK);
	wslx_agentc_pump_free(p);
	close(fd[1]);
	while ((n = read(fd[0], buf, sizeof(buf))) > 0)
		got += (size_t)n;
	assert_int_equal(got, 1000000);
	close(fd[0]);
}

static void closed_reader(void **state)
{
	struct wslx_agentc_fds fds = NO_FDS;
	struct wslx_agentc_pump *p;
	struct result r;
	char c;
	int fd[2];

	assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
	fds.out = fd[1];
	p = start("exec yes", &fds, &r);
	while (true) {
		wslx_loop_once(agent.loop, 100);
		fcntl(fd[0], F_SETFL, O_NONBLOCK);
		if (read(fd[0], &c, 1) == 1)
			break;
	}
	close(fd[0]);
	agent_until(&agent, &r.exited);
	assert_int_equal(r.x.end, WSLX_AGENTC_SIGNALED);
	assert_int_equal(r.x.signal, SIGPIPE);
	/* Nobody wanted more. */
	assert_int_equal(lost_output(p), 0);
	wslx_agentc_pump_free(p);
	close(fd[1]);
}

/* Output that cannot be written is told of, whatever the process makes of it, and which stream's. */
static void full_disk(void **state)
{
	int full = open("/dev/full", O_WRONLY | O_CLOEXEC), deaf = open("/dev/null", O_RDONLY | O_CLOEXEC);
	const struct {
		const char *script;
		int out, err, lost;
		unsigned stream;
	} cases[] = {
		{ "echo x", full, -1, -ENOSPC, WSLX_STREAM_STDOUT },
		{ "echo x >&2", -1, full, -ENOSPC, WSLX_STREAM_STDERR },
		{ "echo x", deaf, full, -EBADF, WSLX_STREAM_STDOUT },
		{ "true", full, full, 0, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct wslx_agentc_fds fds = { -1, cases[i].out, cases[i].err, -1, -1 };
		struct wslx_agentc_pump *p;
		unsigned stream;
		struct result r;

		p = start(cases[i].script, &fds, &r);
		agent_until(&agent, &r.exited);
		assert_int_equal(wslx_agentc_pump_lost_output(p, &stream), cases[i].lost);
		assert_int_equal(stream, cases[i].stream);
		wslx_agentc_pump_free(p);
	}
	close(full);
	close(deaf);
}

/* Not only when it is written to. */
static void closed_idle_reader(void **state)
{
	struct wslx_agentc_fds fds = NO_FDS;
	struct wslx_agentc_pump *p;
	struct result r;
	int fd[2];

	assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
	fds.out = fd[1];
	close(fd[0]);
	p = start("trap 'exit 9' PIPE; while echo x; do sleep 0.02; done; exit 8", &fds, &r);
	agent_until(&agent, &r.exited);
	assert_true(r.x.status == 9 || r.x.status == 8 || r.x.status == 128 + SIGPIPE);
	wslx_agentc_pump_free(p);
	close(fd[1]);
}

static void socket_both_ways(void **state)
{
	struct wslx_agentc_fds fds = NO_FDS;
	struct wslx_agentc_pump *p;
	struct result r;
	char buf[16] = "";
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	fds.in = fds.out = sv[0];
	p = start("read x; echo got $x", &fds, &r);
	assert_int_equal(write(sv[1], "abc\n", 4), 4);
	agent_until(&agent, &r.exited);
	assert_int_equal(read(sv[1], buf, sizeof(buf) - 1), 8);
	assert_string_equal(buf, "got abc\n");
	wslx_agentc_pump_free(p);
	close(sv[0]);
	close(sv[1]);
}

static void pipe_input_half_closes(void **state)
{
	struct wslx_agentc_fds fds = NO_FDS;
	struct wslx_agentc_pump *p;
	struct result r;
	int fd[2];

	assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
	fds.in = fd[0];
	p = start("test $(wc -c) = 3", &fds, &r);
	assert_int_equal(write(fd[1], "abc", 3), 3);
	close(fd[1]);
	agent_until(&agent, &r.exited);
	assert_int_equal(r.x.status, 0);
	wslx_agentc_pump_free(p);
	close(fd[0]);
}

/* Nobody reads stdin: the source stops, the exit comes through. */
static void unread_input(void **state)
{
	struct wslx_agentc_fds fds = NO_FDS;
	struct wslx_agentc_pump *p;
	struct result r;
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	fds.in = fd;
	p = start("sleep 0.1; exit 6", &fds, &r);
	agent_until(&agent, &r.exited);
	assert_int_equal(r.x.status, 6);
	wslx_agentc_pump_free(p);
	close(fd);
}

static void terminal(void **state)
{
	struct wslx_agent_exec m = {
		.argv = SH("read x; echo got $x"), .flags = WSLX_EXEC_TTY, .streams = { 2, 2, 2 }, .cwd = "/"
	};
	struct wslx_agentc_fds fds = NO_FDS;
	struct wslx_agentc_pump *p;
	struct result r = { 0 };
	char buf[256] = "";
	int master, slave;
	size_t n = 0;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	fds.tty_in = fds.tty_out = slave;
	assert_int_equal(wslx_agentc_exec_fds(agent.c, &m, &fds, NULL, on_exit_status, &r, &p), 0);
	assert_int_equal(write(master, "abc\n", 4), 4);
	agent_until(&agent, &r.exited);
	fcntl(master, F_SETFL, O_NONBLOCK);
	while (n < sizeof(buf) - 1) {
		ssize_t k = read(master, buf + n, sizeof(buf) - 1 - n);

		if (k <= 0)
			break;
		n += (size_t)k;
	}
	assert_non_null(strstr(buf, "got abc"));
	wslx_agentc_pump_free(p);
	close(master);
	close(slave);
}

static void freed_early(void **state)
{
	struct wslx_agentc_fds fds = NO_FDS;
	struct wslx_agentc_pump *p;
	struct result r;
	int fd[2];

	assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
	fds.out = fd[1];
	p = start("exec yes", &fds, &r);
	wslx_agentc_pump_free(p);
	p = start("exec yes", &fds, &r);
	for (int i = 0; i < 20; i++)
		wslx_loop_once(agent.loop, 10);
	wslx_agentc_pump_free(p);
	assert_false(r.exited);
	close(fd[0]);
	close(fd[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files),
		cmocka_unit_test(null_device),
		cmocka_unit_test(slow_pipe),
		cmocka_unit_test(closed_reader),
		cmocka_unit_test(full_disk),
		cmocka_unit_test(closed_idle_reader),
		cmocka_unit_test(socket_both_ways),
		cmocka_unit_test(pipe_input_half_closes),
		cmocka_unit_test(unread_input),
		cmocka_unit_test(terminal),
		cmocka_unit_test(freed_early),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
