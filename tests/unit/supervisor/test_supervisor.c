/* The supervisor against a fake child: this very program, started with --child=. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "fake_child.h"
#include "os/linux/fd.h"
#include "os/linux/paths.h"
#include "proto/vmconfig.h"
#include "vmm/supervisor/console.h"
#include "vmm/supervisor/open.h"
#include "vmm/supervisor/supervisor.h"

#define WAIT_MS 30000

struct machine {
	char dir[64], run[80], state[80], disk[80], control[96];
	struct wslx_vm_config c;
	struct wslx_disk_config d;
	struct wslx_distro_config distro;
	pid_t pid;
	int ready_fd;
	unsigned panic_wait_ms, pause_limit_ms;
	char *lines; /* what was read from ready_fd */
	size_t n;
};

/* ---- the machine ------------------------------------------------------------- */

static void setup(struct machine *m, const char *fake)
{
	static char name[] = "m1", fstype[] = "ext4", empty[] = "";
	static char cmdline[128];
	int fd;

	memset(m, 0, sizeof(*m));
	strcpy(m->dir, "/tmp/wslx-test-XXXXXX");
	assert_non_null(mkdtemp(m->dir));
	snprintf(m->run, sizeof(m->run), "%s/run", m->dir);
	snprintf(m->state, sizeof(m->state), "%s/state", m->dir);
	snprintf(m->disk, sizeof(m->disk), "%s/disk.img", m->dir);
	snprintf(m->control, sizeof(m->control), "%s/control.sock", m->run);
	assert_int_equal(mkdir(m->run, 0700), 0);
	assert_int_equal(mkdir(m->state, 0700), 0);
	fd = open(m->disk, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	close(fd);
	snprintf(cmdline, sizeof(cmdline), "fake=%s", fake);
	m->d = (struct wslx_disk_config) { .path = m->disk, .serial = "root", .base = empty };
	m->distro = (struct wslx_distro_config) { .name = name, .serial = "root", .fstype = fstype, .hostname = empty };
	m->c = (struct wslx_vm_config) {
		.name = name,
		.engine = WSLX_ENGINE_KVM,
		.cpus = 1,
		.memory = 64 * WSLX_MIB,
		.runtime_dir = m->run,
		.state_dir = m->state,
		.kernel = m->disk,
		.initramfs = empty,
		.modules_serial = empty,
		.cmdline_extra = cmdline,
		.boot_timeout_ms = 20000,
		.disks = &m->d,
		.n_disks = 1,
		.distros = &m->distro,
		.n_distros = 1,
	};
	m->ready_fd = -1;
}

static void start_json(struct machine *m, const char *json)
{
	int ready[2], config = memfd_create("config", MFD_CLOEXEC);

	assert_true(config >= 0);
	assert_int_equal(wslx_write_full(config, json, strlen(json)), 0);
	assert_int_equal(lseek(config, 0, SEEK_SET), 0);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	m->pid = fork();
	assert_true(m->pid >= 0);
	if (m->pid == 0) {
		close(ready[0]);
		_exit(wslx_supervisor_run(&(struct wslx_supervisor_args) {
			.config_fd = config,
			.ready_fd = ready[1],
			.lock_fd = -1,
			.test_hooks = true,
			.kvm_path = "/dev/null",
			.stop_grace_ms = 200,
			.panic_wait_ms = m->panic_wait_ms,
			.pause_limit_ms = m->pause_limit_ms,
		}));
	}
	close(config);
	close(ready[1]);
	m->ready_fd = ready[0];
}

static void start(struct machine *m)
{
	cleanup_free char *json = NULL;

	assert_int_equal(wslx_vm_config_encode(&m->c, &json), 0);
	start_json(m, json);
}

/* The ready descriptor's last line. */
static json_t *result(struct machine *m)
{
	json_t *j;
	char *last;

	m->lines = calloc(1, 65536);
	assert_non_null(m->lines);
	for (;;) {
		struct pollfd p = { .fd = m->ready_fd, .events = POLLIN };
		ssize_t r;

		assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		r = read(m->ready_fd, m->lines + m->n, 65535 - m->n);
		assert_true(r >= 0);
		if (r == 0)
			break;
		m->n += (size_t)r;
	}
	assert_true(m->n > 0 && m->lines[m->n - 1] == '\n');
	m->lines[m->n - 1] = '\0';
	last = strrchr(m->lines, '\n');
	j = json_loads(last ? last + 1 : m->lines, 0, NULL);
	assert_non_null(j);
	return j;
}

static const char *text(json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

static void expect_ready(struct machine *m)
{
	json_t *j = result(m);

	if (strcmp(text(j, "event"), "ready") != 0)
		fail_msg("not ready: %s", text(j, "message"));
	assert_string_equal(text(j, "engine"), "kvm");
	assert_int_equal(json_integer_value(json_object_get(j, "pid")), m->pid);
	assert_true(json_integer_value(json_object_get(json_object_get(j, "timings"), "hello")) > 0);
	json_decref(j);
}

/* Fails, naming `what`, and the console's `line` if that is not NULL. */
static void expect_failed(struct machine *m, const char *what, const char *line)
{
	json_t *j = result(m), *console = json_object_get(j, "console");
	bool found = !line;

	assert_string_equal(text(j, "event"), "failed");
	if (!strstr(text(j, "message"), what))
		fail_msg("'%s' does not say '%s'", text(j, "message"), what);
	for (size_t i = 0; i < json_array_size(console); i++)
		found |= line && strstr(json_string_value(json_array_get(console, i)), line);
	assert_true(found);
	json_decref(j);
}

static int wait_end(struct machine *m)
{
	int st;

	assert_int_equal(waitpid(m->pid, &st, 0), m->pid);
	m->pid = 0;
	return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
}

static void remove_all(struct machine *m)
{
	static const char *const names[] = {
		"run/control.sock",    "run/vsock.sock", "run/vsock.sock_77", "state/console.log",
		"state/console.log.1", "state/events",   "disk.img",          "base.img"
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char path[128];

		snprintf(path, sizeof(path), "%s/%s", m->dir, names[i]);
		unlink(path);
	}
	rmdir(m->run);
	rmdir(m->state);
	assert_int_equal(rmdir(m->dir), 0);
	wslx_close(&m->ready_fd);
	free(m->lines);
}

/* ---- a control client ------------------------------------------------------------ */

static int client(struct machine *m)
{
	const struct timeval tv = { .tv_sec = WAIT_MS / 1000 };
	int fd = wslx_unix_connect(m->control, SOCK_STREAM | SOCK_CLOEXEC);

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	return fd;
}

/* As soon as there is a socket. */
static int await_client(struct machine *m)
{
	int fd;

	do
		fd = wslx_unix_connect(m->control, SOCK_STREAM | SOCK_CLOEXEC);
	while (fd < 0);
	return fd;
}

static void send_call(int fd, const char *method, const char *params)
{
	char buf[1024];
	int n = snprintf(buf, sizeof(buf), "{\"method\":\"%s%s\",\"parameters\":%s}",
			 method[0] == 'o' ? "" : "io.wslx.Machine.", method, params);

	assert_int_equal(wslx_write_full(fd, buf, (size_t)n + 1), 0);
}

static json_t *read_answer(int fd)
{
	char buf[65536];
	size_t n = 0;
	json_t *j;

	do {
		assert_int_equal(wslx_read_full(fd, buf + n, 1), 0);
		assert_true(++n < sizeof(buf));
	} while (buf[n - 1]);
	j = json_loads(buf, 0, NULL);
	assert_non_null(j);
	return j;
}

static json_t *call(struct machine *m, const char *method, const char *params)
{
	cleanup_close int fd = client(m);

	send_call(fd, method, params);
	return read_answer(fd);
}

static void call_ok(struct machine *m, const char *method, const char *params)
{
	json_t *j = call(m, method, params);

	if (json_object_get(j, "error"))
		fail_msg("%s: %s", method, text(j, "error"));
	json_decref(j);
}

static void call_fails(struct machine *m, const char *method, const char *params, const char *error)
{
	json_t *j = call(m, method, params);

	assert_string_equal(text(j, "error"), error);
	json_decref(j);
}

static void expect_state(struct machine *m, const char *state)
{
	json_t *j = call(m, "Info", "{}");

	assert_string_equal(text(json_object_get(j, "parameters"), "state"), state);
	json_decref(j);
}

/* ---- tests ---------------------------------------------------------------------------- */

static void test_life(void **state)
{
	struct machine m;
	json_t *j, *stats;

	setup(&m, "normal");
	start(&m);
	expect_ready(&m);
	assert_non_null(strstr(m.lines, "\"progress\""));
	j = call(&m, "Info", "{}");
	assert_string_equal(text(json_object_get(j, "parameters"), "name"), "m1");
	assert_string_equal(text(json_object_get(j, "parameters"), "kernel"), "6.1-fake");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "parameters"), "boots")), 1);
	json_decref(j);
	call_ok(&m, "WaitReady", "{}");
	call_ok(&m, "Pause", "{}");
	expect_state(&m, "paused");
	call_ok(&m, "Pause", "{}");
	call_fails(&m, "StopDistro", "{\"name\":\"m1\"}", "io.wslx.Machine.NotReady");
	call_ok(&m, "Resume", "{}");
	expect_state(&m, "running");
	j = call(&m, "Stats", "{}");
	stats = json_object_get(json_object_get(j, "parameters"), "stats");
	assert_int_equal(json_integer_value(json_object_get(stats, "blk0.reads")), 17);
	assert_int_equal(json_integer_value(json_object_get(stats, "vsock.opened")), 3);
	json_decref(j);
	j = call(&m, "TestConfinement", "{}");
	assert_string_equal(
		json_string_value(json_array_get(json_object_get(json_object_get(j, "parameters"), "succeeded"), 0)),
		"open");
	json_decref(j);
	call_ok(&m, "StopDistro", "{\"name\":\"m1\"}");
	call_ok(&m, "StartDistro", "{\"name\":\"m1\"}");
	call_fails(&m, "StopDistro", "{\"name\":\"m2\"}", "io.wslx.Machine.NoSuchDistro");
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	assert_int_equal(access(m.control, F_OK), -1);
	remove_all(&m);
}

static void test_terminate_by_signal_and_force(void **state)
{
	struct machine m;

	setup(&m, "normal");
	start(&m);
	expect_ready(&m);
	kill(m.pid, SIGTERM);
	assert_int_equal(wait_end(&m), 0);
	remove_all(&m);

	setup(&m, "stubborn");
	start(&m);
	expect_ready(&m);
	call_ok(&m, "Terminate", "{\"timeout_ms\":100}");
	assert_int_equal(wait_end(&m), 0);
	remove_all(&m);

	setup(&m, "stubborn");
	start(&m);
	expect_ready(&m);
	call_ok(&m, "Terminate", "{\"force\":true}");
	assert_int_equal(wait_end(&m), 0);
	remove_all(&m);
}

/* A guest that plays `fake` never gets ready: the message and the console's line. */
static void check_failure(const char *fake, unsigned timeout_ms, const char *what, const char *line)
{
	struct machine m;

	setup(&m, fake);
	if (timeout_ms)
		m.c.boot_timeout_ms = timeout_ms;
	start(&m);
	expect_failed(&m, what, line);
	assert_int_equal(wait_end(&m), 1);
	remove_all(&m);
}

static void test_failures(void **state)
{
	check_failure("silent", 1500, "did not connect within 1500 ms", "Linux version");
	check_failure("no-hello", 1500, "no HELLO within 1500 ms", "Linux version");
	check_failure("panic", 0, "Kernel panic - not syncing: no init", "Kernel panic");
	check_failure("triple", 0, "triple fault", NULL);
	check_failure("early-reset", 0, "before its agent came up", NULL);
	check_failure("failed", 0, "no such ?[31mkernel", NULL);
	check_failure("die", 0, "ended with status 3", NULL);
	check_failure("killed", 0, "killed by signal 9", NULL);
}

static json_int_t boots(struct machine *m)
{
	json_t *j = call(m, "Info", "{}");
	json_int_t n = json_integer_value(json_object_get(json_object_get(j, "parameters"), "boots"));

	json_decref(j);
	return n;
}

static void test_reboot(void **state)
{
	struct machine m;

	setup(&m, "reboot-once");
	start(&m);
	expect_ready(&m);
	/* The first boot was ready, too: watch for the second. */
	while (boots(&m) < 2)
		call_ok(&m, "Ping", "{}");
	call_ok(&m, "WaitReady", "{}");
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	remove_all(&m);

	/* A request is answered even if the reboot leaves no other sign of its end. */
	setup(&m, "reset-in-stop");
	start(&m);
	expect_ready(&m);
	call_fails(&m, "StopDistro", "{\"name\":\"m1\"}", "io.wslx.Machine.Failed");
	call_ok(&m, "WaitReady", "{}");
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	remove_all(&m);

	setup(&m, "reboot-always");
	start(&m);
	expect_ready(&m);
	assert_int_equal(wait_end(&m), 1);
	remove_all(&m);
}

static char *read_state(struct machine *m, const char *name)
{
	char path[128], *s = NULL;

	snprintf(path, sizeof(path), "%s/%s", m->state, name);
	assert_int_equal(wslx_read_file(AT_FDCWD, path, 1 << 20, &s, NULL), 0);
	return s;
}

static bool has_panic(struct machine *m)
{
	json_t *j = call(m, "Info", "{}");
	bool yes = text(json_object_get(j, "parameters"), "panic")[0];

	json_decref(j);
	return yes;
}

static void test_panic_later(void **state)
{
	struct machine m;
	char *s;

	setup(&m, "late-panic");
	start(&m);
	expect_ready(&m);
	assert_int_equal(wait_end(&m), 1);
	s = read_state(&m, "events");
	assert_non_null(strstr(s, "Kernel panic - not syncing: late"));
	free(s);
	remove_all(&m);

	/* Another processor still ran the agent when the kernel panicked. */
	setup(&m, "answering-panic");
	m.panic_wait_ms = 5000;
	start(&m);
	expect_ready(&m);
	assert_int_equal(wait_end(&m), 1);
	remove_all(&m);

	/* One that hangs instead of resetting. */
	setup(&m, "hanging-panic");
	m.panic_wait_ms = 50;
	start(&m);
	expect_ready(&m);
	assert_int_equal(wait_end(&m), 1);
	remove_all(&m);

	/* Anybody may print that line: the machine lives on. */
	setup(&m, "joke");
	m.panic_wait_ms = 50;
	start(&m);
	expect_ready(&m);
	while (!has_panic(&m))
		call_ok(&m, "Ping", "{}");
	while (has_panic(&m))
		call_ok(&m, "Ping", "{}");
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	remove_all(&m);
}

/* Until the guest's console holds `text`. */
static void wait_console(struct machine *m, const char *text)
{
	bool found = false;

	while (!found) {
		char *s = read_state(m, "console.log");

		found = strstr(s, text);
		free(s);
		call_ok(m, "Ping", "{}");
	}
}

static void wait_state(struct machine *m, const char *state)
{
	bool same = false;

	while (!same) {
		json_t *j = call(m, "Info", "{}");

		same = !strcmp(text(json_object_get(j, "parameters"), "state"), state);
		json_decref(j);
	}
}

static void start_ready(struct machine *m, const char *fake, unsigned pause_limit_ms, unsigned panic_wait_ms)
{
	setup(m, fake);
	m->pause_limit_ms = pause_limit_ms;
	m->panic_wait_ms = panic_wait_ms;
	start(m);
	expect_ready(m);
}

static void end_in_order(struct machine *m)
{
	call_ok(m, "Terminate", "{}");
	assert_int_equal(wait_end(m), 0);
	remove_all(m);
}

static void test_failed_pause_is_undone(void **state)
{
	struct machine m;

	/* The processors do not stop as they should: they go on, and so do the distros. */
	start_ready(&m, "refuse-stop", 0, 0);
	call_fails(&m, "Pause", "{}", "io.wslx.Machine.Failed");
	wait_console(&m, "PAUSE\nSTOP\nGO\nRESUME\n");
	expect_state(&m, "running");
	call_ok(&m, "StopDistro", "{\"name\":\"m1\"}");
	end_in_order(&m);
}

static void test_refused_resume(void **state)
{
	struct machine m;

	/* Thawing fails once, twice: the machine is called paused, and it is tried again. */
	start_ready(&m, "refuse-resume", 0, 0);
	call_ok(&m, "Pause", "{}");
	call_fails(&m, "Resume", "{}", "io.wslx.Machine.Failed");
	expect_state(&m, "paused");
	wait_state(&m, "running");
	wait_console(&m, "GO\nRESUME\nRESUME\nRESUME\n");
	end_in_order(&m);

	start_ready(&m, "refuse-resume", 0, 0);
	call_ok(&m, "Pause", "{}");
	call_fails(&m, "Resume", "{}", "io.wslx.Machine.Failed");
	call_fails(&m, "Resume", "{}", "io.wslx.Machine.Failed");
	call_ok(&m, "Resume", "{}");
	expect_state(&m, "running");
	call_ok(&m, "Resume", "{}");
	end_in_order(&m);
}

/* The distros' file systems cannot be written back: the pause never gets there. */
static void test_stuck_pause(void **state)
{
	struct machine m;
	json_t *j;
	int fd;

	/* Resume ends it. */
	start_ready(&m, "stuck-pause", 0, 0);
	fd = client(&m);
	send_call(fd, "Pause", "{}");
	wait_console(&m, "PAUSE\n");
	call_fails(&m, "Pause", "{}", "io.wslx.Machine.NotReady");
	call_ok(&m, "Resume", "{}");
	j = read_answer(fd);
	assert_string_equal(text(j, "error"), "io.wslx.Machine.Failed");
	json_decref(j);
	close(fd);
	expect_state(&m, "running");
	/* The agent never answered that one: there is no second. */
	call_fails(&m, "Pause", "{}", "io.wslx.Machine.NotReady");
	end_in_order(&m);

	/* So does the time limit, */
	start_ready(&m, "stuck-pause", 50, 0);
	call_fails(&m, "Pause", "{}", "io.wslx.Machine.Failed");
	wait_console(&m, "PAUSE\nRESUME\n");
	end_in_order(&m);

	/* and the end of who asked. */
	start_ready(&m, "stuck-pause", 0, 0);
	fd = client(&m);
	send_call(fd, "Pause", "{}");
	wait_console(&m, "PAUSE\n");
	close(fd);
	wait_console(&m, "PAUSE\nRESUME\n");
	end_in_order(&m);

	/* A machine that is to end goes on first. */
	start_ready(&m, "stuck-pause", 0, 0);
	fd = client(&m);
	send_call(fd, "Pause", "{}");
	wait_console(&m, "PAUSE\n");
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	close(fd);
	remove_all(&m);
}

static void test_terminate_paused(void **state)
{
	struct machine m;
	char *s;

	start_ready(&m, "normal", 0, 0);
	call_ok(&m, "Pause", "{}");
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	s = read_state(&m, "console.log");
	assert_non_null(strstr(s, "PAUSE\nSTOP\nGO\nRESUME\nSHUTDOWN\n"));
	free(s);
	remove_all(&m);

	start_ready(&m, "normal", 0, 0);
	call_ok(&m, "Pause", "{}");
	call_ok(&m, "Terminate", "{\"force\":true}");
	assert_int_equal(wait_end(&m), 0);
	s = read_state(&m, "console.log");
	assert_null(strstr(s, "SHUTDOWN\n"));
	free(s);
	remove_all(&m);
}

/* A line that looks like a panic, when nobody can say that it is none. */
static void test_panic_line_at_rest(void **state)
{
	struct machine m;
	int64_t end;

	start_ready(&m, "joke-before-pause", 0, 50);
	call_ok(&m, "Pause", "{}");
	while (!has_panic(&m))
		call_ok(&m, "Ping", "{}");
	for (end = wslx_now_ms() + 300; wslx_now_ms() < end;)
		expect_state(&m, "paused");
	call_ok(&m, "Resume", "{}");
	while (has_panic(&m))
		call_ok(&m, "Ping", "{}");
	expect_state(&m, "running");
	end_in_order(&m);

	start_ready(&m, "long-goodbye", 0, 50);
	end_in_order(&m);
}

static void test_hostile_child(void **state)
{
	struct machine m;
	char *s;

	setup(&m, "nonsense");
	start(&m);
	expect_ready(&m);
	assert_int_equal(wait_end(&m), 1);
	remove_all(&m);

	/* Its last words count even if it did not hear all of ours. */
	setup(&m, "deaf");
	start(&m);
	expect_ready(&m);
	call_fails(&m, "Stats", "{}", "io.wslx.Machine.Failed");
	assert_int_equal(wait_end(&m), 0);
	remove_all(&m);

	/* A process in a distro pretends to be the agent. */
	setup(&m, "second-control");
	start(&m);
	expect_ready(&m);
	do {
		call_ok(&m, "Ping", "{}");
		s = read_state(&m, "console.log");
	} while (!strstr(s, "refused") && (free(s), true));
	free(s);
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	remove_all(&m);
}

/* A log that cannot be renamed or made for a while goes on when it can. */
static void test_console_log_comes_back(void **state)
{
	static char chunk[1 << 16];
	struct wslx_conlog *c;
	struct wslx_loop *loop;
	struct machine m;
	char old[128];
	bool found = false;

	setup(&m, "normal");
	snprintf(old, sizeof(old), "%s/console.log.1", m.state);
	memset(chunk, '.', sizeof(chunk));
	assert_int_equal(wslx_loop_new(&loop), 0);
	assert_int_equal(wslx_conlog_new(loop, m.state, NULL, NULL, &c, NULL), 0);
	assert_int_equal(mkdir(old, 0700), 0);
	for (int i = 0; i < 20; i++)
		wslx_conlog_feed(c, chunk, sizeof(chunk));
	assert_int_equal(rmdir(old), 0);
	while (!found) {
		char *s;

		wslx_conlog_feed(c, "back again\n", 11);
		s = read_state(&m, "console.log");
		found = strstr(s, "back again");
		free(s);
	}
	wslx_conlog_free(c);
	wslx_loop_free(loop);
	remove_all(&m);
}

/* QEMU takes the name of its network socket with it when it ends; the next run has one again. */
static void test_net_socket_of_each_run(void **state)
{
	char path[128];
	struct wslx_files f;
	struct machine m;

	setup(&m, "normal");
	m.c.engine = WSLX_ENGINE_TCG;
	m.c.net.mode = WSLX_NET_PASST;
	snprintf(path, sizeof(path), "%s/net.sock", m.run);
	wslx_files_init(&f);
	assert_int_equal(wslx_files_open(&f, &m.c, NULL, NULL), 0);
	for (int run = 0; run < 2; run++) {
		int fd;

		assert_int_equal(wslx_files_listen_net(&f, &m.c, NULL), 0);
		fd = wslx_unix_connect(path, SOCK_STREAM | SOCK_CLOEXEC);
		assert_true(fd >= 0);
		close(fd);
		assert_int_equal(unlink(path), 0);
	}
	wslx_files_close(&f);
	remove_all(&m);
}

static void test_disk_lock(void **state)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct machine m;
	int fd, waiter;
	json_t *j;

	setup(&m, "normal");
	fd = open(m.disk, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), 0);
	/* Held for good: the supervisor waits a while for a dying machine's last child. */
	start(&m);
	expect_failed(&m, m.disk, NULL);
	assert_int_equal(wait_end(&m), 1);
	/* Who waited for it hears why, although nobody was served yet. */
	free(m.lines);
	m.n = 0;
	wslx_close(&m.ready_fd);
	start(&m);
	waiter = await_client(&m);
	send_call(waiter, "WaitReady", "{}");
	j = read_answer(waiter);
	assert_string_equal(text(j, "error"), "io.wslx.Machine.Failed");
	assert_non_null(strstr(text(json_object_get(j, "parameters"), "message"), m.disk));
	json_decref(j);
	close(waiter);
	expect_failed(&m, m.disk, NULL);
	assert_int_equal(wait_end(&m), 1);
	/* Given up while it waits: it starts. */
	free(m.lines);
	m.n = 0;
	wslx_close(&m.ready_fd);
	start(&m);
	fl.l_type = F_UNLCK;
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), 0);
	expect_ready(&m);
	fl.l_type = F_WRLCK;
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), -1);
	/* kill -9: no orphan keeps the lock. */
	kill(m.pid, SIGKILL);
	assert_int_equal(wait_end(&m), 128 + SIGKILL);
	assert_int_equal(fcntl(fd, F_OFD_SETLKW, &fl), 0);
	close(fd);
	remove_all(&m);
}

/* A process that looks like the supervisor of machine m9 with its lock in run/m9, and has fd open. */
static pid_t pose_as_m9(const char *run, int fd)
{
	char dir[160], lock[192];
	pid_t pid;

	snprintf(dir, sizeof(dir), "%s/m9", run);
	snprintf(lock, sizeof(lock), "%s/lock", dir);
	assert_true(mkdir(run, 0700) == 0 || errno == EEXIST);
	assert_int_equal(mkdir(dir, 0700), 0);
	pid = fork();
	if (pid == 0) {
		if (dup2(open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600), 5) != 5 || dup2(fd, 6) != 6)
			_exit(1);
		execl("/bin/sleep", "wslx-vmm [m9]", "60", NULL);
		_exit(1);
	}
	assert_true(pid > 0);
	return pid;
}

/* Who holds the disk is said, and how to get it; also where another runtime folder hides the machine. */
static void test_disk_holder(void **state)
{
	static const char *const cases[][2] = { { "", "wslx terminate m9" }, { "/wslx", "set XDG_RUNTIME_DIR=/tmp/" } };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
		char run[128], path[160];
		struct machine m;
		int fd, status;
		pid_t pid;

		setup(&m, "normal");
		snprintf(run, sizeof(run), "%s%s", m.dir, cases[i][0]);
		fd = open(m.disk, O_RDWR | O_CLOEXEC);
		assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), 0);
		pid = pose_as_m9(run, fd);
		start(&m);
		close(fd);
		expect_failed(&m, cases[i][1], NULL);
		assert_int_equal(wait_end(&m), 1);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		snprintf(path, sizeof(path), "%s/m9", run);
		assert_int_equal(wslx_remove_tree(AT_FDCWD, path), 0);
		if (cases[i][0][0])
			assert_int_equal(rmdir(run), 0);
		remove_all(&m);
	}
}

static void test_bad_start(void **state)
{
	struct machine m;

	setup(&m, "normal");
	m.c.net.mode = WSLX_NET_TAP;
	strcpy(m.c.net.tap, "wslxnosuchtap");
	start(&m);
	expect_failed(&m, "there is no TAP interface wslxnosuchtap; make it: sudo ip tuntap add", NULL);
	assert_int_equal(wait_end(&m), 1);
	remove_all(&m);

	setup(&m, "normal");
	start_json(&m, "{\"name\":");
	expect_failed(&m, "machine configuration", NULL);
	assert_int_equal(wait_end(&m), 1);
	remove_all(&m);

	setup(&m, "normal");
	m.c.kernel = (char *)"/no/such/kernel";
	start(&m);
	expect_failed(&m, "/no/such/kernel", NULL);
	assert_int_equal(wait_end(&m), 1);
	remove_all(&m);

	setup(&m, "normal");
	m.d.path = m.dir;
	start(&m);
	expect_failed(&m, "disk", NULL);
	assert_int_equal(wait_end(&m), 1);
	remove_all(&m);

	setup(&m, "normal");
	m.c.engine = WSLX_ENGINE_TCG;
	setenv("PATH", "/nowhere", 1);
	start(&m);
	setenv("PATH", "/usr/bin:/bin", 1);
	expect_failed(&m, "qemu-system-x86_64", NULL);
	assert_int_equal(wait_end(&m), 1);
	remove_all(&m);

	setup(&m, "normal");
	m.c.net.mode = WSLX_NET_PASST;
	setenv("PATH", "/nowhere", 1);
	start(&m);
	setenv("PATH", "/usr/bin:/bin", 1);
	expect_failed(&m, "passt", NULL);
	assert_int_equal(wait_end(&m), 1);
	remove_all(&m);
}

static void expect_hangup(int fd)
{
	char c;
	ssize_t n = recv(fd, &c, 1, 0);

	assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
}

static void test_control_clients(void **state)
{
	cleanup_free char *big = malloc(70000);
	struct machine m;
	int fds[20], fd;
	json_t *j;

	setup(&m, "normal");
	start(&m);
	expect_ready(&m);
	fd = client(&m);
	assert_int_equal(wslx_write_full(fd, "nonsense", 9), 0);
	expect_hangup(fd);
	close(fd);
	fd = client(&m);
	assert_non_null(big);
	memset(big, ' ', 70000);
	(void)!send(fd, big, 70000, MSG_NOSIGNAL);
	expect_hangup(fd);
	close(fd);
	/* Many calls at once, answered in order. */
	fd = client(&m);
	for (int i = 0; i < 50; i++)
		send_call(fd, i & 1 ? "Ping" : "Nope", "{}");
	for (int i = 0; i < 50; i++) {
		j = read_answer(fd);
		assert_int_equal(json_object_get(j, "error") != NULL, !(i & 1));
		json_decref(j);
	}
	close(fd);
	/* Clients that never read delay nobody. */
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = client(&m);
		for (int k = 0; k < 20; k++)
			send_call(fds[i], "org.varlink.service.GetInterfaceDescription",
				  "{\"interface\":\"io.wslx.Machine\"}");
	}
	call_ok(&m, "Ping", "{}");
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	call_fails(&m, "org.varlink.other.Method", "{}", "org.varlink.service.InterfaceNotFound");
	call_fails(&m, "Terminate", "{\"force\":1}", "org.varlink.service.InvalidParameter");
	call_fails(&m, "Terminate", "{\"timeout_ms\":-1}", "org.varlink.service.InvalidParameter");
	call_ok(&m, "org.varlink.service.GetInfo", "{}");
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	remove_all(&m);
}

/* Somebody waits for a machine that another started, and that fails. */
static void test_wait_ready_fails(void **state)
{
	struct machine m;
	json_t *j;
	int fd;

	setup(&m, "silent");
	m.c.boot_timeout_ms = 1000;
	start(&m);
	fd = await_client(&m);
	send_call(fd, "WaitReady", "{}");
	j = read_answer(fd);
	assert_string_equal(text(j, "error"), "io.wslx.Machine.Failed");
	assert_non_null(strstr(text(json_object_get(j, "parameters"), "message"), "time-out"));
	json_decref(j);
	close(fd);
	expect_failed(&m, "time-out", NULL);
	assert_int_equal(wait_end(&m), 1);
	remove_all(&m);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_life),
		cmocka_unit_test(test_terminate_by_signal_and_force),
		cmocka_unit_test(test_failures),
		cmocka_unit_test(test_reboot),
		cmocka_unit_test(test_panic_later),
		cmocka_unit_test(test_failed_pause_is_undone),
		cmocka_unit_test(test_refused_resume),
		cmocka_unit_test(test_stuck_pause),
		cmocka_unit_test(test_terminate_paused),
		cmocka_unit_test(test_panic_line_at_rest),
		cmocka_unit_test(test_hostile_child),
		cmocka_unit_test(test_console_log_comes_back),
		cmocka_unit_test(test_net_socket_of_each_run),
		cmocka_unit_test(test_disk_lock),
		cmocka_unit_test(test_disk_holder),
		cmocka_unit_test(test_bad_start),
		cmocka_unit_test(test_control_clients),
		cmocka_unit_test(test_wait_ready_fails),
	};

	if (argc > 2 && !strncmp(argv[1], "--child=", 8))
		return fake_child_main((int)strtol(argv[2] + strlen("--params="), NULL, 10));
	signal(SIGPIPE, SIG_IGN);
	wslx_log_init("test", STDERR_FILENO, WSLX_LOG_ERROR);
	return cmocka_run_group_tests_name("supervisor", tests, NULL, NULL);
}
