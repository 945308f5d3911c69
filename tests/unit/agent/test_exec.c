/* Host and guest side of the protocol against each other, with real processes. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"

#define ARGV(...) ((const char *const[]) { __VA_ARGS__, NULL })
#define SH(script) ARGV("sh", "-c", script)

static struct agent agent;

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

static void output_and_status(void **state)
{
	struct run r = { 0 };

	run_start(&r, &agent, SH("echo out; echo err >&2; exit 7"), 0, "npp");
	run_wait(&r);
	assert_int_equal(r.x.end, WSLX_AGENTC_EXITED);
	assert_int_equal(r.x.status, 7);
	assert_string_equal(r.out[1], "out\n");
	assert_string_equal(r.out[2], "err\n");
	assert_true(r.eof[1] && r.eof[2]);
	assert_true(r.pid > 0);
	run_free(&r);
}

static void death_by_signal(void **state)
{
	struct run r = { 0 };

	run_start(&r, &agent, SH("kill -KILL $$"), 0, "nnn");
	run_wait(&r);
	assert_int_equal(r.x.end, WSLX_AGENTC_SIGNALED);
	assert_int_equal(r.x.signal, SIGKILL);
	assert_int_equal(r.x.status, 128 + SIGKILL);
	run_free(&r);
}

static void cannot_run(void **state)
{
	struct run r = { 0 };

	/* With a stdin pipe whose reader is gone before ERROR is sent, often enough. */
	for (int i = 0; i < 50; i++) {
		run_start(&r, &agent, ARGV("/no/such/command"), 0, "ppp");
		run_wait(&r);
		assert_int_equal(r.x.end, WSLX_AGENTC_FAILED);
		run_free(&r);
	}
	run_start(&r, &agent, ARGV("/no/such/command"), 0, "npp");
	run_wait(&r);
	assert_int_equal(r.x.end, WSLX_AGENTC_FAILED);
	assert_int_equal(r.x.status, 127);
	assert_non_null(strstr(r.x.text, "no/such/command"));
	run_free(&r);
	run_start(&r, &agent, ARGV("no-such-command"), 0, "ppp");
	run_wait(&r);
	assert_int_equal(r.x.status, 127);
	assert_non_null(strstr(r.x.text, "not found"));
	run_free(&r);
	run_start(&r, &agent, ARGV("/etc/passwd"), 0, "npp");
	run_wait(&r);
	assert_int_equal(r.x.status, 126);
	run_free(&r);
	run_start(&r, &agent, ARGV(""), 0, "npp");
	run_wait(&r);
	assert_int_equal(r.x.status, 127);
	run_free(&r);
}

static void unknown_user_and_distro(void **state)
{
	struct wslx_agent_exec m = { .argv = ARGV("true"), .user = "nobody-such" };
	struct run r = { 0 };

	run_params(&r, &agent, &m);
	run_wait(&r);
	assert_int_equal(r.x.end, WSLX_AGENTC_FAILED);
	assert_int_equal(r.x.status, 255);
	assert_non_null(strstr(r.x.text, "nobody-such"));
	run_free(&r);
	m.user = NULL;
	m.distro = "absent";
	run_params(&r, &agent, &m);
	run_wait(&r);
	assert_int_equal(r.x.code, -ENOENT);
	run_free(&r);
}

static void environment_and_directory(void **state)
{
	char uid[16];
	struct wslx_agent_exec m = { .argv = ARGV("sh", "-c", "echo $A-$PATH-$HOME; pwd"),
				     .env = ARGV("A=b=c", "HOME=/nowhere"),
				     .cwd = "/no/such/dir",
				     .user = uid,
				     .streams = { 0, WSLX_STREAM_PIPE, 0 } };
	struct run r = { 0 };

	snprintf(uid, sizeof(uid), "%u", geteuid());
	run_params(&r, &agent, &m);
	run_wait(&r);
	assert_int_equal(r.x.status, 0);
	assert_ptr_equal(strstr(r.out[1], "b=c-/usr/local/sbin:"), r.out[1]);
	assert_non_null(strstr(r.out[1], "games-/nowhere\n"));
	assert_int_equal(r.n_warnings, 1);
	assert_non_null(strstr(r.warning, "/no/such/dir"));
	run_free(&r);
}

static void shells(void **state)
{
	struct wslx_agent_exec m = { .argv = ARGV("echo $0; exit 3"),
				     .flags = WSLX_EXEC_SHELL,
				     .streams = { 0, WSLX_STREAM_PIPE, 0 } };
	struct run r = { 0 };

	run_params(&r, &agent, &m);
	run_wait(&r);
	assert_int_equal(r.x.status, 3);
	assert_int_equal(r.out[1][0], '/');
	run_free(&r);
	m.flags |= WSLX_EXEC_LOGIN;
	run_params(&r, &agent, &m);
	run_wait(&r);
	assert_int_equal(r.x.status, 3);
	assert_int_equal(r.out[1][0], '-');
	run_free(&r);
	m.argv = ARGV("a", "b");
	run_params(&r, &agent, &m);
	run_wait(&r);
	assert_int_equal(r.x.end, WSLX_AGENTC_FAILED);
	run_free(&r);
}

static void large_argument(void **state)
{
	/* Longer than a frame; Linux takes 128 KiB in one argument. */
	size_t n = 120000;
	char *text = malloc(n + 1);
	struct run r = { 0 };

	memset(text, 'x', n);
	text[n] = 0;
	run_start(&r, &agent, ARGV("printf", "%s", text), 0, "npn");
	run_wait(&r);
	assert_int_equal(r.n_out[1], n);
	assert_memory_equal(r.out[1], text, n);
	run_free(&r);
	free(text);
}

static void half_close(void **state)
{
	struct run r = { .in = "abc", .in_left = 3, .in_close = true };

	run_start(&r, &agent, SH("cat >/dev/null; echo done"), 0, "ppn");
	run_wait(&r);
	assert_string_equal(r.out[1], "done\n");
	assert_int_equal(r.x.status, 0);
	run_free(&r);
}

static void bulk_both_ways(void **state)
{
	struct run r = { .bulk_left = 64 << 20 };

	run_start(&r, &agent, ARGV("cat"), 0, "ppn");
	run_wait(&r);
	assert_int_equal(r.x.status, 0);
	assert_int_equal(r.bulk_seen, 64 << 20);
	assert_true(r.sum_in == r.sum_out);
	run_free(&r);
}

static void closed_output(void **state)
{
	struct run r = { 0 };

	run_start(&r, &agent, SH("yes; echo $? >&2"), 0, "npp");
	while (!r.n_out[1])
		wslx_loop_once(agent.loop, 1000);
	wslx_agentc_exec_stop(r.e, WSLX_STREAM_STDOUT);
	run_wait(&r);
	/* 128 + SIGPIPE, or 1 where SIGPIPE is ignored. */
	assert_true(!strncmp(r.out[2] + r.n_out[2] - 4, "141", 3) || r.out[2][r.n_out[2] - 2] == '1');
	run_free(&r);
}

static void unread_input(void **state)
{
	struct run r = { 0 };

	run_start(&r, &agent, SH("exec <&-; echo up; while [ ! -e /dev/null/x ] && kill -0 $$; do sleep 0.05; done"), 0,
		  "ppn");
	agent_until(&agent, &r.stopped);
	assert_int_equal(wslx_agentc_exec_write(r.e, WSLX_STREAM_STDIN, "x", 1), -EPIPE);
	wslx_agentc_exec_signal(r.e, SIGTERM);
	run_wait(&r);
	assert_int_equal(r.x.status, 128 + SIGTERM);
	run_free(&r);
}

static void blocked_reader(void **state)
{
	struct run stuck[3] = { { .hold = true }, { .hold = true }, { .hold = true } }, r = { 0 };

	for (int i = 0; i < 3; i++)
		run_start(&stuck[i], &agent, ARGV("yes"), 0, "npn");
	while (stuck[0].n_out[1] + stuck[1].n_out[1] + stuck[2].n_out[1] < 3 * WSLX_AGENT_WINDOW_DEFAULT)
		wslx_loop_once(agent.loop, 1000);
	for (int i = 0; i < 3; i++) {
		run_start(&r, &agent, ARGV("echo", "free"), 0, "npn");
		run_wait(&r);
		assert_string_equal(r.out[1], "free\n");
		run_free(&r);
	}
	for (int i = 0; i < 3; i++) {
		assert_int_equal(stuck[i].n_out[1], WSLX_AGENT_WINDOW_DEFAULT);
		wslx_agentc_exec_signal(stuck[i].e, SIGKILL);
		stuck[i].hold = false;
		wslx_agentc_exec_consumed(stuck[i].e, 1, stuck[i].n_out[1]);
		run_wait(&stuck[i]);
		assert_int_equal(stuck[i].x.status, 137);
		run_free(&stuck[i]);
	}
}

static void daemon_holds_output(void **state)
{
	struct run r = { 0 };

	run_start(&r, &agent, SH("sleep 60 & echo pid $!"), 0, "npp");
	run_wait(&r);
	assert_int_equal(r.x.status, 0);
	assert_ptr_equal(strstr(r.out[1], "pid "), r.out[1]);
	kill(atoi(r.out[1] + 4), SIGKILL);
	run_free(&r);
}

static void many_at_once(void **state)
{
	enum { N = 300 };
	struct run *r = calloc(N, sizeof(*r));
	char text[N][16];
	unsigned up = 0;

	for (int i = 0; i < N; i++)
		run_start(&r[i], &agent, ARGV("cat"), 0, "ppn");
	for (int i = 0; i < N; i++)
		agent_until(&agent, &r[i].started);
	for (int i = 0; i < N; i++)
		up += !r[i].exited;
	assert_int_equal(up, N);
	for (int i = 0; i < N; i++) {
		snprintf(text[i], sizeof(text[i]), "%d\n", i);
		assert_int_equal(wslx_agentc_exec_write(r[i].e, 0, text[i], strlen(text[i])), strlen(text[i]));
		wslx_agentc_exec_close(r[i].e, 0);
	}
	for (int i = 0; i < N; i++) {
		run_wait(&r[i]);
		assert_string_equal(r[i].out[1], text[i]);
		run_free(&r[i]);
	}
	free(r);
}

static void terminal(void **state)
{
	struct run r = { 0 };

	run_start(&r, &agent, SH("stty size; tty; echo $TERM; read x; stty size; exit 4"), WSLX_EXEC_TTY, "ttt");
	while (!r.out[3] || !strstr(r.out[3], "xterm"))
		wslx_loop_once(agent.loop, 1000);
	assert_ptr_equal(strstr(r.out[3], "33 101\r\n/dev/pts/"), r.out[3]);
	wslx_agentc_exec_winsize(r.e, &(struct wslx_agent_winsize) { .rows = 44, .cols = 122 });
	assert_int_equal(wslx_agentc_exec_write(r.e, WSLX_STREAM_TTY, "\n", 1), 1);
	run_wait(&r);
	assert_non_null(strstr(r.out[3], "44 122"));
	assert_true(r.eof[3]);
	assert_int_equal(r.x.status, 4);
	run_free(&r);
}

static void terminal_and_pipe(void **state)
{
	struct run r = { 0 };

	run_start(&r, &agent, SH("echo piped; echo shown >&2; test -t 0"), WSLX_EXEC_TTY, "tpt");
	run_wait(&r);
	assert_int_equal(r.x.status, 0);
	assert_string_equal(r.out[1], "piped\n");
	assert_string_equal(r.out[3], "shown\r\n");
	run_free(&r);
}

static void ctrl_c(void **state)
{
	struct run r = { 0 };

	run_start(&r, &agent, SH("trap 'echo caught; exit 3' INT; echo up; while :; do sleep 0.05; done"),
		  WSLX_EXEC_TTY, "ttt");
	while (!r.out[3] || !strstr(r.out[3], "up"))
		wslx_loop_once(agent.loop, 1000);
	assert_int_equal(wslx_agentc_exec_write(r.e, WSLX_STREAM_TTY, "\x03", 1), 1);
	run_wait(&r);
	assert_non_null(strstr(r.out[3], "caught"));
	assert_int_equal(r.x.status, 3);
	run_free(&r);
}

/* ---- programs for a terminal: this one again, with --play=NAME ---- */

static const char *player; /* what it says, and exits with, when a signal comes */
static int player_status;
/* They are waited for and not handled: ThreadSanitizer keeps a signal for its handler in memory that a thread gets with
 * its first call that may block, and forgets one that comes while it does. */
static sigset_t player_signals;

static void play_part(const char *name, int status)
{
	player = name;
	player_status = status;
	sigemptyset(&player_signals);
	sigaddset(&player_signals, SIGINT);
	sigaddset(&player_signals, SIGUSR1);
	sigaddset(&player_signals, SIGCHLD);
	sigprocmask(SIG_BLOCK, &player_signals, NULL);
}

/* Until a signal comes, or the child ends: its status. */
static int play_on(void)
{
	int signo, status;

	if (sigwait(&player_signals, &signo))
		return 9;
	if (signo == SIGCHLD)
		return wait(&status) > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 9;
	(void)!write(STDOUT_FILENO, player, strlen(player));
	if (player_status < 0)
		kill(getppid(), SIGKILL);
	return player_status < 0 ? 1 : player_status;
}

/* A job in the foreground, and a leader that is to be left alone. */
static int play_foreground(void)
{
	signal(SIGTTOU, SIG_IGN);
	play_part("leader\n", 8);
	if (fork() == 0) {
		play_part("job\n", 5);
		if (setpgid(0, 0) < 0 || tcsetpgrp(0, getpid()) < 0)
			return 9;
		puts("up");
		fflush(stdout);
	}
	return play_on();
}

/* The terminal becomes that of another session, whose leader says so and kills the first one. */
static int play_lent(void)
{
	signal(SIGHUP, SIG_IGN);
	play_part("leader\n", 5);
	if (ioctl(0, TIOCNOTTY) < 0)
		return 9;
	if (fork() == 0) {
		play_part("stranger\n", -1);
		if (setsid() < 0 || ioctl(0, TIOCSCTTY, 0) < 0)
			return 9;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		puts("up");
		fflush(stdout);
	}
	return play_on();
}

static void check_signal(const char *play, int signo, const char *who)
{
	char self[4096] = "", option[32];
	struct run r = { 0 };

	assert_true(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
	snprintf(option, sizeof(option), "--play=%s", play);
	run_start(&r, &agent, ARGV(self, option), WSLX_EXEC_TTY, "ttt");
	while (!r.exited && (!r.out[3] || !strstr(r.out[3], "up")))
		wslx_loop_once(agent.loop, 1000);
	wslx_agentc_exec_signal(r.e, signo);
	run_wait(&r);
	assert_non_null(strstr(r.out[3], who));
	assert_int_equal(r.x.status, 5);
	run_free(&r);
}

static void signals_on_a_terminal(void **state)
{
	check_signal("foreground", SIGINT, "job");
	check_signal("foreground", SIGUSR1, "job");
	check_signal("lent", SIGINT, "leader");
	check_signal("lent", SIGUSR1, "leader");
}

/* Everything a session leader wrote arrives, though a left-over has the terminal open. */
static void terminal_with_leftover(void **state)
{
	struct run r = { 0 };

	run_start(&r, &agent,
		  SH("(trap '' HUP; exec sleep 2) & i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done"),
		  WSLX_EXEC_TTY, "ttt");
	run_wait(&r);
	assert_non_null(strstr(r.out[3], "line 1999\r\n"));
	run_free(&r);
}

static void signals(void **state)
{
	struct run r = { 0 };

	run_start(&r, &agent, SH("trap 'echo got; exit 5' TERM; echo up; while :; do sleep 0.05; done"), 0, "npn");
	while (!r.n_out[1])
		wslx_loop_once(agent.loop, 1000);
	wslx_agentc_exec_signal(r.e, SIGTERM);
	run_wait(&r);
	assert_string_equal(r.out[1], "up\ngot\n");
	assert_int_equal(r.x.status, 5);
	run_free(&r);
}

static bool gone(pid_t pid)
{
	char path[64], st[512] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return true;
	if (!fgets(st, sizeof(st), f))
		st[0] = 0;
	fclose(f);
	return strstr(st, ") Z ");
}

static void hangup(void **state)
{
	struct run r = { 0 };
	uint32_t pid;

	run_start(&r, &agent, ARGV("sleep", "4321"), 0, "npn");
	agent_until(&agent, &r.started);
	pid = r.pid;
	run_free(&r);
	while (!gone((pid_t)pid))
		wslx_loop_once(agent.loop, 5);
}

static void connection_loss(void **state)
{
	struct run plain = { 0 }, tty = { 0 };
	pid_t a, b;

	run_start(&plain, &agent, ARGV("sleep", "4321"), 0, "npn");
	run_start(&tty, &agent, ARGV("sleep", "4321"), WSLX_EXEC_TTY, "ttt");
	agent_until(&agent, &plain.started);
	agent_until(&agent, &tty.started);
	a = (pid_t)plain.pid;
	b = (pid_t)tty.pid;
	agent_stop(&agent); /* drops the connection; the execs go with it */
	while (!gone(a) || !gone(b))
		usleep(1000);
	agent_start(&agent);
}

static void agent_death(void **state)
{
	struct run r = { 0 };

	run_start(&r, &agent, ARGV("sleep", "4321"), 0, "npn");
	agent_until(&agent, &r.started);
	kill(agent.pid, SIGKILL);
	run_wait(&r);
	assert_int_equal(r.x.end, WSLX_AGENTC_LOST);
	assert_int_equal(r.x.status, 255);
	kill((pid_t)r.pid, SIGKILL);
	agent_until(&agent, &agent.closed);
	run_free(&r);
	wslx_agentc_free(agent.c);
	wslx_loop_free(agent.loop);
	waitpid(agent.pid, NULL, 0);
	agent_start(&agent);
}

static void on_reply(void *opaque, const struct wslx_agentc_reply *r)
{
	bool *done = opaque;

	*done = true;
	if (r->status) {
		assert_int_equal(r->status->uptime_ms, 1234);
		/* Guest text is made harmless. */
		assert_string_equal(r->status->distros[0].name, "deb?ian");
	}
	if (r->code)
		assert_int_equal(r->code, -EBUSY);
}

static void requests(void **state)
{
	bool done[5] = { 0 };

	assert_int_equal(wslx_agentc_ping(agent.c, on_reply, &done[0]), 0);
	assert_int_equal(wslx_agentc_status(agent.c, on_reply, &done[1]), 0);
	assert_int_equal(wslx_agentc_sync(agent.c, on_reply, &done[2]), 0);
	assert_int_equal(wslx_agentc_pause(agent.c, on_reply, &done[3]), 0);
	assert_int_equal(wslx_agentc_distro_stop(agent.c, "x", 0, on_reply, &done[4]), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(done); i++)
		agent_until(&agent, &done[i]);
}

/* Bytes that are no protocol end the connection with a reason, nothing else. */
static void garbage(void **state)
{
	struct agent raw;
	uint8_t buf[4096];
	ssize_t n, all = 0;

	agent_start_raw(&raw);
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(send(raw.raw_fd, buf, sizeof(buf), MSG_NOSIGNAL), sizeof(buf));
	while ((n = recv(raw.raw_fd, buf, sizeof(buf), 0)) > 0)
		all += n;
	assert_true(all > 0);
	raw.c = NULL;
	kill(raw.pid, SIGKILL);
	waitpid(raw.pid, NULL, 0);
	close(raw.raw_fd);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(output_and_status),
		cmocka_unit_test(death_by_signal),
		cmocka_unit_test(cannot_run),
		cmocka_unit_test(unknown_user_and_distro),
		cmocka_unit_test(environment_and_directory),
		cmocka_unit_test(shells),
		cmocka_unit_test(large_argument),
		cmocka_unit_test(half_close),
		cmocka_unit_test(bulk_both_ways),
		cmocka_unit_test(closed_output),
		cmocka_unit_test(unread_input),
		cmocka_unit_test(blocked_reader),
		cmocka_unit_test(daemon_holds_output),
		cmocka_unit_test(many_at_once),
		cmocka_unit_test(terminal),
		cmocka_unit_test(terminal_and_pipe),
		cmocka_unit_test(ctrl_c),
		cmocka_unit_test(terminal_with_leftover),
		cmocka_unit_test(signals),
		cmocka_unit_test(signals_on_a_terminal),
		cmocka_unit_test(hangup),
		cmocka_unit_test(connection_loss),
		cmocka_unit_test(agent_death),
		cmocka_unit_test(requests),
		cmocka_unit_test(garbage),
	};

	if (argc > 1 && !strcmp(argv[1], "--play=foreground"))
		return play_foreground();
	if (argc > 1 && !strcmp(argv[1], "--play=lent"))
		return play_lent();
	return cmocka_run_group_tests(tests, setup, teardown);
}
