/* The life of a machine against a fake child: this very program, started with --child=. */
#include "machine.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "os/linux/fd.h"
#include "os/linux/paths.h"
#include "os/linux/holder.h"
#include "vmm/supervisor/open.h"
#include "vmm/supervisor/run_internal.h"

static void test_life(void **state)
{
	struct machine m;
	json_t *j, *stats;

	machine_setup(&m, "normal");
	machine_start(&m);
	expect_ready(&m);
	assert_non_null(strstr(m.lines, "\"progress\""));
	j = control_call(&m, "Info", "{}");
	assert_string_equal(json_text(json_object_get(j, "parameters"), "name"), "m1");
	assert_string_equal(json_text(json_object_get(j, "parameters"), "kernel"), "6.1-fake");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "parameters"), "boots")), 1);
	json_decref(j);
	call_ok(&m, "WaitReady", "{}");
	call_ok(&m, "Pause", "{}");
	expect_state(&m, "paused");
	call_ok(&m, "Pause", "{}");
	call_fails(&m, "StopDistro", "{\"name\":\"m1\"}", "io.wslx.Machine.NotReady");
	call_ok(&m, "Resume", "{}");
	expect_state(&m, "running");
	j = control_call(&m, "Stats", "{}");
	stats = json_object_get(json_object_get(j, "parameters"), "stats");
	assert_int_equal(json_integer_value(json_object_get(stats, "blk0.reads")), 17);
	assert_int_equal(json_integer_value(json_object_get(stats, "vsock.opened")), 3);
	json_decref(j);
	j = control_call(&m, "TestConfinement", "{}");
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
	machine_remove(&m);
}

static void test_terminate_by_signal_and_force(void **state)
{
	struct machine m;

	machine_setup(&m, "normal");
	machine_start(&m);
	expect_ready(&m);
	kill(m.pid, SIGTERM);
	assert_int_equal(wait_end(&m), 0);
	machine_remove(&m);

	machine_setup(&m, "stubborn");
	machine_start(&m);
	expect_ready(&m);
	call_ok(&m, "Terminate", "{\"timeout_ms\":100}");
	assert_int_equal(wait_end(&m), 0);
	machine_remove(&m);

	machine_setup(&m, "stubborn");
	machine_start(&m);
	expect_ready(&m);
	call_ok(&m, "Terminate", "{\"force\":true}");
	assert_int_equal(wait_end(&m), 0);
	machine_remove(&m);
}

/* A guest that plays `fake` never gets ready: the message and the console's line. */
static void check_failure(const char *fake, unsigned timeout_ms, const char *what, const char *line)
{
	struct machine m;

	machine_setup(&m, fake);
	if (timeout_ms)
		m.c.boot_timeout_ms = timeout_ms;
	machine_start(&m);
	expect_failed(&m, what, line);
	assert_int_equal(wait_end(&m), 1);
	machine_remove(&m);
}

static void test_failures(void **state)
{
	check_failure("silent", 1500, "did not connect within 1500 ms", "Linux version");
	check_failure("no-hello", 5000, "no HELLO within 5000 ms", "Linux version");
	check_failure("panic", 0, "Kernel panic - not syncing: no init", "Kernel panic");
	check_failure("triple", 0, "triple fault", NULL);
	check_failure("early-reset", 0, "before its agent came up", NULL);
	check_failure("failed", 0, "no such ?[31mkernel", NULL);
	check_failure("die", 0, "ended with status 3", NULL);
	check_failure("killed", 0, "killed by signal 9", NULL);
}

static void test_reboot(void **state)
{
	struct machine m;

	machine_setup(&m, "reboot-once");
	machine_start(&m);
	expect_ready(&m);
	/* The first boot was ready, too: watch for the second. */
	while (boots(&m) < 2)
		call_ok(&m, "Ping", "{}");
	call_ok(&m, "WaitReady", "{}");
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	machine_remove(&m);

	/* A request is answered even if the reboot leaves no other sign of its end. */
	machine_setup(&m, "reset-in-stop");
	machine_start(&m);
	expect_ready(&m);
	call_fails(&m, "StopDistro", "{\"name\":\"m1\"}", "io.wslx.Machine.Failed");
	call_ok(&m, "WaitReady", "{}");
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	machine_remove(&m);

	machine_setup(&m, "reboot-always");
	machine_start(&m);
	expect_ready(&m);
	assert_int_equal(wait_end(&m), 1);
	machine_remove(&m);
}

static bool host_full(struct machine *m)
{
	json_t *j = control_call(m, "Info", "{}");
	bool yes = json_is_true(json_object_get(json_object_get(j, "parameters"), "host_disk_full"));

	json_decref(j);
	return yes;
}

static void test_full_host_disk(void **state)
{
	struct machine m;
	char *s;

	start_ready(&m, "full-host", 0, 0);
	while (!host_full(&m))
		call_ok(&m, "Ping", "{}");
	s = read_state(&m, "events");
	assert_non_null(strstr(s, "\"host-disk-full\""));
	free(s);
	call_ok(&m, "Stats", "{}");
	assert_false(host_full(&m));
	s = read_state(&m, "events");
	assert_non_null(strstr(s, "\"host-disk-room\""));
	free(s);
	end_in_order(&m);

	/* Of a disk that there is not. */
	start_ready(&m, "full-nowhere", 0, 0);
	assert_int_equal(wait_end(&m), 1);
	machine_remove(&m);
}

static unsigned n_words;

/* As a child that lives does: one more for each that is read. */
static void on_word(void *opaque, uint32_t id, uint64_t port)
{
	const struct wslx_link_msg m = { .type = WSLX_LINK_CONNECT, .id = id, .a = port, .fd = -1 };
	const int *child = opaque;

	assert_true(++n_words < 5000);
	assert_int_equal(wslx_link_send(*child, &m), 0);
}

/* Its last words are waited for when its QEMU has ended; they had better end, too. */
static void test_no_end_of_last_words(void **state)
{
	static const struct wslx_run_events events = { .connect = on_word };
	struct wslx_run r = { .link_fd = -1, .child_gone = true, .p.events = &events };
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	r.link_fd = pair[0];
	r.p.opaque = &pair[1];
	on_word(&pair[1], 1, 77);
	wslx_run_link_drain(&r);
	assert_int_equal(r.link_fd, -1);
	assert_true(r.have_end && r.end == WSLX_RUN_FAILED);
	close(pair[1]);
}

static void test_hostile_child(void **state)
{
	struct machine m;
	char *s;

	machine_setup(&m, "nonsense");
	machine_start(&m);
	expect_ready(&m);
	assert_int_equal(wait_end(&m), 1);
	machine_remove(&m);

	/* Its last words count even if it did not hear all of ours. */
	machine_setup(&m, "deaf");
	machine_start(&m);
	expect_ready(&m);
	call_fails(&m, "Stats", "{}", "io.wslx.Machine.Failed");
	assert_int_equal(wait_end(&m), 0);
	machine_remove(&m);

	/* A process in a distro pretends to be the agent. */
	machine_setup(&m, "second-control");
	machine_start(&m);
	expect_ready(&m);
	do {
		call_ok(&m, "Ping", "{}");
		s = read_state(&m, "console.log");
	} while (!strstr(s, "refused") && (free(s), true));
	free(s);
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	machine_remove(&m);
}

/* QEMU takes the name of its network socket with it when it ends; the next run has one again. */
static void test_net_socket_of_each_run(void **state)
{
	char path[128];
	struct wslx_files f;
	struct machine m;

	machine_setup(&m, "normal");
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
	machine_remove(&m);
}

/* A process as a machine that was killed may leave for a moment: it has fd, and with it the lock. */
static pid_t pose_as_leftover(int fd)
{
	int ready[2];
	pid_t pid;
	char byte;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_NAME, "wslx-devices");
		if (write(ready[1], "r", 1) == 1)
			pause();
		_exit(1);
	}
	assert_true(pid > 0);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	close(fd);
	return pid;
}

static void test_disk_lock(void **state)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct machine m;
	int fd, waiter;
	pid_t leftover;
	int64_t start;
	char self[32];
	json_t *j;

	machine_setup(&m, "normal");
	fd = open(m.disk, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), 0);
	/* By a program that lives: said at once.  A reader without a lock is not to blame. */
	waiter = open(m.disk, O_RDONLY | O_CLOEXEC);
	leftover = fork();
	if (leftover == 0) {
		close(fd);
		pause();
		_exit(1);
	}
	close(waiter);
	start = wslx_now_ms();
	machine_start(&m);
	expect_failed(&m, m.disk, NULL);
	assert_true(wslx_now_ms() - start < 2000);
	assert_int_equal(wait_end(&m), 1);
	snprintf(self, sizeof(self), "process %d ", (int)getpid());
	assert_non_null(strstr(m.lines, self));
	kill(leftover, SIGKILL);
	assert_int_equal(waitpid(leftover, NULL, 0), leftover);
	/* By what may be a dying machine's last child: the supervisor waits a while. */
	leftover = pose_as_leftover(fd);
	free(m.lines);
	m.n = 0;
	wslx_close(&m.ready_fd);
	start = wslx_now_ms();
	machine_start(&m);
	expect_failed(&m, m.disk, NULL);
	assert_true(wslx_now_ms() - start >= 2900);
	assert_int_equal(wait_end(&m), 1);
	/* Meanwhile it answers, and who waits for it hears why. */
	m.lock_wait_ms = 10000;
	free(m.lines);
	m.n = 0;
	wslx_close(&m.ready_fd);
	machine_start(&m);
	waiter = await_client(&m);
	send_call(waiter, "Info", "{}");
	j = read_answer(waiter);
	assert_string_equal(json_text(json_object_get(j, "parameters"), "state"), "starting");
	json_decref(j);
	send_call(waiter, "WaitReady", "{}");
	j = read_answer(waiter);
	assert_string_equal(json_text(j, "error"), "io.wslx.Machine.Failed");
	assert_non_null(strstr(json_text(json_object_get(j, "parameters"), "message"), m.disk));
	json_decref(j);
	close(waiter);
	expect_failed(&m, m.disk, NULL);
	assert_int_equal(wait_end(&m), 1);
	/* Nor need it be waited for until it can be stopped. */
	m.lock_wait_ms = 600000;
	free(m.lines);
	m.n = 0;
	wslx_close(&m.ready_fd);
	machine_start(&m);
	waiter = await_client(&m);
	send_call(waiter, "Terminate", "{}");
	expect_failed(&m, "stopped while it started", NULL);
	assert_int_equal(wait_end(&m), 1);
	close(waiter);
	/* Given up while it waits: it starts. */
	free(m.lines);
	m.n = 0;
	wslx_close(&m.ready_fd);
	machine_start(&m);
	kill(leftover, SIGKILL);
	assert_int_equal(waitpid(leftover, NULL, 0), leftover);
	expect_ready(&m);
	fd = open(m.disk, O_RDWR | O_CLOEXEC);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), -1);
	/* kill -9: no orphan keeps the lock. */
	kill(m.pid, SIGKILL);
	assert_int_equal(wait_end(&m), 128 + SIGKILL);
	assert_int_equal(fcntl(fd, F_OFD_SETLKW, &fl), 0);
	close(fd);
	machine_remove(&m);
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
	/* Until then it looks like the test, which is another program. */
	snprintf(dir, sizeof(dir), "/proc/%d/cmdline", (int)pid);
	do {
		cleanup_close int f = open(dir, O_RDONLY | O_CLOEXEC);

		assert_true(f >= 0 && read(f, lock, sizeof(lock)) >= 0);
	} while (strncmp(lock, "wslx-vmm", 8) != 0);
	close(fd);
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

		machine_setup(&m, "normal");
		snprintf(run, sizeof(run), "%s%s", m.dir, cases[i][0]);
		fd = open(m.disk, O_RDWR | O_CLOEXEC);
		assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), 0);
		pid = pose_as_m9(run, fd);
		machine_start(&m);
		expect_failed(&m, cases[i][1], NULL);
		assert_int_equal(wait_end(&m), 1);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		snprintf(path, sizeof(path), "%s/m9", run);
		assert_int_equal(wslx_remove_tree(AT_FDCWD, path), 0);
		if (cases[i][0][0])
			assert_int_equal(rmdir(run), 0);
		machine_remove(&m);
	}
}

static void test_holder_in_words(void **state)
{
	struct wslx_holder h = { .pid = "7", .comm = "wslx-vmm", .machine = "run-1" };
	char text[256];

	wslx_holder_describe(&h, "/run/x", text, sizeof(text));
	assert_string_equal(text, " by the machine 'run-1' (process 7), a throw-away one of `wslx run`: wait until its "
				  "command ends, or stop it: wslx terminate run-1");
	strcpy(h.machine, "deb");
	wslx_holder_describe(&h, "/run/x", text, sizeof(text));
	assert_string_equal(text, " by the machine 'deb' (process 7); stop it: wslx terminate deb");
}

static void test_bad_start(void **state)
{
	struct machine m;

	machine_setup(&m, "normal");
	m.c.net.mode = WSLX_NET_TAP;
	strcpy(m.c.net.tap, "wslxnosuchtap");
	machine_start(&m);
	expect_failed(&m, "there is no TAP interface wslxnosuchtap; make it: sudo ip tuntap add", NULL);
	assert_int_equal(wait_end(&m), 1);
	machine_remove(&m);

	machine_setup(&m, "normal");
	machine_start_json(&m, "{\"name\":");
	expect_failed(&m, "machine configuration", NULL);
	assert_int_equal(wait_end(&m), 1);
	machine_remove(&m);

	machine_setup(&m, "normal");
	m.c.kernel = (char *)"/no/such/kernel";
	machine_start(&m);
	expect_failed(&m, "/no/such/kernel", NULL);
	assert_int_equal(wait_end(&m), 1);
	machine_remove(&m);

	machine_setup(&m, "normal");
	m.d.path = m.dir;
	machine_start(&m);
	expect_failed(&m, "disk", NULL);
	assert_int_equal(wait_end(&m), 1);
	machine_remove(&m);

	machine_setup(&m, "normal");
	m.c.engine = WSLX_ENGINE_TCG;
	setenv("PATH", "/nowhere", 1);
	machine_start(&m);
	setenv("PATH", "/usr/bin:/bin", 1);
	expect_failed(&m, "qemu-system-x86_64", NULL);
	assert_int_equal(wait_end(&m), 1);
	machine_remove(&m);

	machine_setup(&m, "normal");
	m.c.net.mode = WSLX_NET_PASST;
	setenv("PATH", "/nowhere", 1);
	machine_start(&m);
	setenv("PATH", "/usr/bin:/bin", 1);
	expect_failed(&m, "passt", NULL);
	assert_int_equal(wait_end(&m), 1);
	machine_remove(&m);
}

/* The child or QEMU has exited, and the loop has not come to hear of it: no reason to give the machine up. */
static void test_map_meets_the_end(void **state)
{
	const struct wslx_vmportal_map map = { .first = 1, .segments = 1, .kind = WSLX_WINDOW_READ, .fd = 0 };
	struct wslx_run r = { .link_fd = -1, .window.fd = -1 };
	int gone[2], there[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, gone), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, there), 0);
	close(gone[1]);
	assert_int_equal(wslx_run_window_map(&r, &map, NULL, NULL), -ECONNRESET);
	r.link_fd = gone[0];
	assert_int_equal(wslx_run_window_map(&r, &map, NULL, NULL), -ECONNRESET);
	r.link_fd = there[0];
	r.window.fd = gone[0];
	r.qemu = (struct wslx_qemu *)(void *)&r;
	assert_int_equal(wslx_run_window_map(&r, &map, NULL, NULL), 0);
	assert_int_equal(r.window.jobs[0].waiting, 1);
	assert_int_equal(r.window.jobs[0].err, -ECONNRESET);
	close(gone[0]);
	close(there[0]);
	close(there[1]);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_life),
		cmocka_unit_test(test_terminate_by_signal_and_force),
		cmocka_unit_test(test_failures),
		cmocka_unit_test(test_reboot),
		cmocka_unit_test(test_full_host_disk),
		cmocka_unit_test(test_no_end_of_last_words),
		cmocka_unit_test(test_hostile_child),
		cmocka_unit_test(test_net_socket_of_each_run),
		cmocka_unit_test(test_disk_lock),
		cmocka_unit_test(test_bad_start),
		cmocka_unit_test(test_disk_holder),
		cmocka_unit_test(test_holder_in_words),
		cmocka_unit_test(test_map_meets_the_end),
	};

	machine_main(argc, argv);
	return cmocka_run_group_tests_name("supervisor", tests, NULL, NULL);
}
