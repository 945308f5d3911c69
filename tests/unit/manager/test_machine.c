/*
 * Starting, finding and stopping, against a supervisor that only pretends: one
 * machine whoever starts it, failures that say why, nothing left locked.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "home.h"
#include "machines.h"
#include "manager/distros.h"
#include "manager/gone.h"
#include "manager/lock.h"
#include "manager/machine.h"
#include "os/linux/fd.h"

struct heard {
	char text[512];
};

static void hear(void *opaque, const char *what)
{
	struct heard *h = opaque;

	snprintf(h->text + strlen(h->text), sizeof(h->text) - strlen(h->text), "%s;", what);
}

static void test_start_find_stop(void **state)
{
	struct home *h = *state;
	struct heard heard = { 0 };
	const struct wslx_start_hooks hooks = { .progress = hear, .warning = hear, .opaque = &heard, .cancel_fd = -1 };
	struct wslx_machine_info info;

	wslx_machine_query(h->m, "one", &info);
	assert_int_equal(info.state, WSLX_MACHINE_STOPPED);
	assert_int_equal(start(h, &hooks, NULL), 0);
	assert_string_equal(heard.text, "pretending;be warned;");
	wslx_machine_query(h->m, "one", &info);
	assert_int_equal(info.state, WSLX_MACHINE_RUNNING);
	assert_int_equal(info.engine, WSLX_ENGINE_TCG);
	assert_int_equal(info.cpus, 1);
	assert_true(info.memory == 64 * WSLX_MIB);
	assert_true(info.pid > 1);
	assert_int_equal(start(h, NULL, NULL), 0);
	assert_int_equal(starts(h), 1);
	assert_int_equal(wslx_machine_stop(h->m, "one", false, NULL), 0);
	wslx_machine_query(h->m, "one", &info);
	assert_int_equal(info.state, WSLX_MACHINE_STOPPED);
	assert_int_equal(wslx_machine_stop(h->m, "one", false, NULL), 0);
	assert_int_equal(start(h, NULL, NULL), 0);
	assert_int_equal(starts(h), 2);
}

static void test_failure_says_why(void **state)
{
	struct home *h = *state;
	struct heard console = { 0 };
	const struct wslx_start_hooks hooks = { .console = hear, .opaque = &console, .cancel_fd = -1 };
	struct wslx_err err = { 0 };

	setenv("FAKE_VMM", "fail", 1);
	assert_true(start(h, &hooks, &err) < 0);
	assert_string_equal(err.msg, "the machine did not start: it did not work; its console: wslx logs one");
	assert_string_equal(console.text, "line one;line two;");
	/* Of much only what led to the panic. */
	console = (struct heard) { 0 };
	setenv("FAKE_VMM", "panic", 1);
	assert_true(start(h, &hooks, &err) < 0);
	assert_string_equal(console.text, "3;4;5;6;[0.9] Kernel panic - not syncing: fake;");
	/* Of what is wrong on the host the console does not speak. */
	console = (struct heard) { 0 };
	setenv("FAKE_VMM", "host", 1);
	assert_true(start(h, &hooks, &err) < 0);
	assert_string_equal(err.msg, "the port is taken");
	assert_string_equal(console.text, "");
	setenv("FAKE_VMM", "die", 1);
	assert_int_equal(start(h, NULL, &err), -EPIPE);
	/* Nothing is locked afterwards. */
	unsetenv("FAKE_VMM");
	assert_int_equal(start(h, NULL, NULL), 0);
}

/* A program that ignores SIGCHLD gets no status from its children. */
static void test_start_without_sigchld(void **state)
{
	struct home *h = *state;
	struct wslx_err err = { 0 };

	signal(SIGCHLD, SIG_IGN);
	assert_int_equal(start(h, NULL, NULL), 0);
	assert_int_equal(wslx_machine_stop(h->m, "one", false, NULL), 0);
	setenv("FAKE_VMM", "die", 1);
	assert_int_equal(start(h, NULL, &err), -EPIPE);
	signal(SIGCHLD, SIG_DFL);
}

/* Several commands at once: one machine, all served. */
static void test_many_starts_make_one_machine(void **state)
{
	struct home *h = *state;
	cleanup_free char *gate = wslx_path("%s/gate", h->dir);
	pid_t pids[5];
	int fd, status;

	assert_int_equal(mkfifo(gate, 0600), 0);
	setenv("FAKE_VMM", "gate", 1);
	setenv("FAKE_VMM_GATE", gate, 1);
	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			home_reopen(h);
			_exit(start(h, NULL, NULL) == 0 ? 0 : 1);
		}
	}
	fd = open(gate, O_WRONLY | O_CLOEXEC);
	assert_int_equal(write(fd, "g", 1), 1);
	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	close(fd);
	assert_int_equal(starts(h), 1);
}

static void test_killed_supervisor(void **state)
{
	struct home *h = *state;
	struct wslx_machine_info info;

	assert_int_equal(start(h, NULL, NULL), 0);
	wslx_machine_query(h->m, "one", &info);
	assert_int_equal(kill(info.pid, SIGKILL), 0);
	/* Found dead, or not yet: either way there is a machine in the end. */
	assert_int_equal(wslx_machine_stop(h->m, "one", true, NULL), 0);
	assert_int_equal(start(h, NULL, NULL), 0);
	assert_int_equal(starts(h), 2);
}

static void test_interrupted_start(void **state)
{
	struct home *h = *state;
	cleanup_free char *gate = wslx_path("%s/gate", h->dir);
	struct wslx_start_hooks hooks = { 0 };
	struct wslx_err err = { 0 };
	int p[2], fd;

	assert_int_equal(mkfifo(gate, 0600), 0);
	setenv("FAKE_VMM", "gate", 1);
	setenv("FAKE_VMM_GATE", gate, 1);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(write(p[1], "!", 1), 1);
	hooks.cancel_fd = p[0];
	assert_int_equal(start(h, &hooks, &err), -ECANCELED);
	/* The machine goes on starting, and serves the next command. */
	fd = open(gate, O_WRONLY | O_CLOEXEC);
	assert_int_equal(write(fd, "g", 1), 1);
	assert_int_equal(start(h, NULL, NULL), 0);
	assert_int_equal(starts(h), 1);
	close(fd);
	close(p[0]);
	close(p[1]);
}

/* A command in a machine that goes away at different times. */
static void check_crash(struct home *h, const char *mode, const char *what, bool again)
{
	static const char *const argv[] = { "true", NULL };
	const struct wslx_agent_exec exec = {
		.distro = "one",
		.argv = argv,
		.streams = { WSLX_STREAM_NULL, WSLX_STREAM_NULL, WSLX_STREAM_NULL },
	};
	cleanup_free char *vsock = wslx_machine_socket(h->m, "one", WSLX_VSOCK_SOCKET);
	const struct wslx_session_params p = {
		.vsock_path = vsock,
		.exec = &exec,
		.fds = { .in = -1, .out = -1, .err = -1, .tty_in = -1, .tty_out = -1 },
		.winsize_fd = -1,
		.cancel_fd = -1,
	};
	struct wslx_machine_session s = { 0 };
	struct wslx_err err = { 0 };

	setenv("FAKE_VMM", mode, 1);
	assert_int_equal(start(h, NULL, NULL), 0);
	assert_true(wslx_machine_session(h->m, "one", &p, &s, &err) < 0);
	if (!strstr(err.msg, what))
		fail_msg("%s: %s", mode, err.msg);
	assert_int_equal(s.again, again);
	assert_int_equal(s.status, 255);
}

static void test_crash_under_a_command(void **state)
{
	struct home *h = *state;

	check_crash(h, "crash-early",
		    "before the command ran: Kernel panic - not syncing: fake; its console: wslx logs one", true);
	check_crash(h, "killed", "before the command ran: its supervisor was killed", true);
	/* What may have run, or did, is not run again. */
	check_crash(h, "crash-starting", "and it may have run: Kernel panic - not syncing: fake", false);
	check_crash(h, "crash-running", "while the command ran: Kernel panic - not syncing: fake", false);
}

static void test_unregister_stops(void **state)
{
	struct home *h = *state;
	struct wslx_machine_info info;
	char name[WSLX_NAME_MAX + 1];

	assert_int_equal(start(h, NULL, NULL), 0);
	wslx_machine_query(h->m, "one", &info);
	assert_int_equal(wslx_distro_unregister(h->m, "ONE", NULL), 0);
	assert_int_equal(wslx_store_lookup(h->m, WSLX_STORE_DISTROS, "one", name), -ENOENT);
	assert_int_equal(faccessat(h->m->run_fd, "one", F_OK, 0), -1);
	assert_int_equal(faccessat(h->m->machines_fd, "one", F_OK, 0), -1);
}

/* It accepts nobody any more: asking ends, and so does the machine. */
static void test_stopping_one_that_hangs(void **state)
{
	struct home *h = *state;
	cleanup_free char *sock = wslx_machine_socket(h->m, "one", WSLX_CONTROL_SOCKET);
	struct wslx_err err = { 0 };
	int held[64];
	size_t n = 0;

	setenv("FAKE_VMM", "deaf", 1);
	assert_int_equal(start(h, NULL, NULL), 0);
	while ((held[n] = wslx_unix_connect(sock, SOCK_STREAM | SOCK_NONBLOCK)) >= 0)
		assert_true(++n < ARRAY_SIZE(held));
	assert_int_equal(wslx_control_call(sock, "Info", NULL, 50, NULL, &err), -ETIMEDOUT);
	assert_int_equal(wslx_machine_stop(h->m, "one", true, NULL), 0);
	while (n)
		close(held[--n]);
}

/* How long Terminate was to wait for its answer; and, in a test, that there is none, at once. */
static unsigned asked_ms;
static bool hangs;
int __real_wslx_control_call(const char *sock_path, const char *method, json_t *params, unsigned timeout_ms,
			     json_t **ret, struct wslx_err *err);
int __wrap_wslx_control_call(const char *sock_path, const char *method, json_t *params, unsigned timeout_ms,
			     json_t **ret, struct wslx_err *err);

int __wrap_wslx_control_call(const char *sock_path, const char *method, json_t *params, unsigned timeout_ms,
			     json_t **ret, struct wslx_err *err)
{
	if (strcmp(method, "Terminate") != 0)
		return __real_wslx_control_call(sock_path, method, params, timeout_ms, ret, err);
	asked_ms = timeout_ms;
	if (!hangs)
		return __real_wslx_control_call(sock_path, method, params, timeout_ms, ret, err);
	json_decref(params);
	return wslx_err_set(err, ETIMEDOUT, "it hangs");
}

/* It is there, and not only as what its parent has yet to ask for. */
static bool is_alive(const char *pid)
{
	cleanup_free char *path = wslx_path("/proc/%s/stat", pid);
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[512] = "";
	const char *end = fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 ? strrchr(text, ')') : NULL;

	return end && end[2] != 'Z' && end[2] != 'X';
}

/* Whoever says --force is not kept waiting for an answer, and finds nothing left. */
static void test_force_is_short_and_leaves_nothing(void **state)
{
	struct home *h = *state;
	cleanup_free char *file = wslx_path("%s/child", h->dir), *child = NULL;

	setenv("FAKE_VMM_CHILD", file, 1);
	setenv("FAKE_VMM", "family", 1);
	hangs = true;
	assert_int_equal(start(h, NULL, NULL), 0);
	assert_int_equal(wslx_read_file(AT_FDCWD, file, 32, &child, NULL), 0);
	assert_true(is_alive(child));
	assert_int_equal(wslx_machine_stop(h->m, "one", true, NULL), 0);
	assert_true(asked_ms <= 2000);
	assert_false(is_alive(child));
	/* Without it there is time for a shutdown. */
	setenv("FAKE_VMM", "deaf", 1);
	assert_int_equal(start(h, NULL, NULL), 0);
	assert_int_equal(wslx_machine_stop(h->m, "one", false, NULL), 0);
	assert_true(asked_ms >= 10000);
	hangs = false;
}

/* It accepts, and says nothing: that is found out soon, and said with what to do. */
static void test_one_that_does_not_answer(void **state)
{
	struct home *h = *state;
	struct wslx_machine_info info;
	struct wslx_err err = { 0 };
	int64_t begun;

	setenv("FAKE_VMM", "deaf", 1);
	assert_int_equal(start(h, NULL, NULL), 0);
	begun = wslx_now_ms();
	wslx_machine_query(h->m, "one", &info);
	assert_true(info.silent && info.state != WSLX_MACHINE_STOPPED);
	assert_true(wslx_now_ms() - begun < 5000);
	begun = wslx_now_ms();
	assert_int_equal(start(h, NULL, &err), -EBUSY);
	assert_true(wslx_now_ms() - begun < 15000);
	assert_string_equal(err.msg, "the machine 'one' does not answer; to stop it: wslx terminate --force one");
}

/* As soon as the name is free, a machine of a newer distro may run under it. */
static void on_withdrawn(void *opaque, const struct wslx_statefile_op *op)
{
	struct home *h = opaque;

	if (op->kind != WSLX_STATEFILE_RENAME || strcmp(op->name, "one") != 0)
		return;
	assert_int_equal(mkdirat(h->m->run_fd, "one", 0700), 0);
	assert_int_equal(mkdirat(h->m->machines_fd, "one", 0700), 0);
	h->seen++;
}

/* A machine of another runtime folder shows only by the lock on its disk. */
static void test_unregister_spares_an_unseen_machine(void **state)
{
	struct home *h = *state;
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct wslx_err err = { 0 };
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/distros/one/" WSLX_DISK_FILE, h->m->paths.data);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), 0);
	assert_int_equal(wslx_distro_unregister(h->m, "one", &err), -EBUSY);
	assert_non_null(strstr(err.msg, "XDG_RUNTIME_DIR"));
	assert_int_equal(access(path, F_OK), 0);
	close(fd);
	assert_int_equal(wslx_distro_unregister(h->m, "one", NULL), 0);
}

static void test_unregister_spares_the_next_one(void **state)
{
	struct home *h = *state;
	const struct wslx_statefile_recorder rec = { on_withdrawn, h };

	assert_int_equal(start(h, NULL, NULL), 0);
	h->m->recorder = &rec;
	assert_int_equal(wslx_distro_unregister(h->m, "one", NULL), 0);
	h->m->recorder = NULL;
	assert_int_equal(h->seen, 1);
	assert_int_equal(faccessat(h->m->run_fd, "one", F_OK, 0), 0);
	assert_int_equal(faccessat(h->m->machines_fd, "one", F_OK, 0), 0);
}

static int run_one(struct home *h, struct wslx_throwaway *t, struct wslx_err *err)
{
	struct wslx_throwaway_source src = { .lock = -1 };
	struct wslx_settings s;
	int r = wslx_run_source(h->m, "one", NULL, &src, &s, err);

	if (r == 0)
		r = wslx_throwaway_start(h->m, &src, &s, NULL, t, err);
	wslx_run_source_free(&src);
	return r;
}

/* A process called `comm` that has the distro's disk locked, for ms. */
static pid_t hold_disk(struct home *h, const char *comm, unsigned ms)
{
	const struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };
	cleanup_free char *path = wslx_path("%s/distros/one/%s", h->m->paths.data, WSLX_DISK_FILE);
	int fd = open(path, O_RDWR | O_CLOEXEC), ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(wslx_lock_fd(fd, WSLX_LOCK_EXCLUSIVE, false), 0);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_NAME, comm);
		if (write(ready[1], "r", 1) == 1)
			nanosleep(&ts, NULL);
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	close(fd);
	return pid;
}

/* What a machine leaves for a moment is waited for, and a program of others named. */
static void test_export_of_a_disk_in_use(void **state)
{
	struct home *h = *state;
	cleanup_close int out = memfd_create("out", MFD_CLOEXEC);
	const struct wslx_task task = { 0 };
	struct wslx_export_result res;
	struct wslx_err err = { 0 };
	char who[32];
	pid_t pid = hold_disk(h, "somebody", 60000);

	snprintf(who, sizeof(who), "process %d (somebody)", (int)pid);
	assert_int_equal(wslx_distro_export(h->m, "one", WSLX_EXPORT_TAR, out, "out", &task, &res, &err), -EBUSY);
	assert_non_null(strstr(err.msg, who));
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	pid = hold_disk(h, "wslx-devices", 300);
	/* Then it is found to be no file system. */
	assert_int_not_equal(wslx_distro_export(h->m, "one", WSLX_EXPORT_TAR, out, "out", &task, &res, &err), -EBUSY);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static bool exists(int dirfd, const char *name)
{
	return faccessat(dirfd, name, F_OK, 0) == 0;
}

static void test_throwaway(void **state)
{
	struct home *h = *state;
	struct wslx_throwaway t;
	struct wslx_err err = { 0 };
	char name[32];

	/* There will be no log to point to. */
	setenv("FAKE_VMM", "panic", 1);
	assert_true(run_one(h, &t, &err) < 0);
	assert_string_equal(err.msg, "the machine did not start: Kernel panic - not syncing: fake; more of its "
				     "console: set WSLX_LOG=info");
	unsetenv("FAKE_VMM");
	assert_int_equal(run_one(h, &t, NULL), 0);
	strcpy(name, t.name);
	assert_true(exists(h->m->run_fd, name) && exists(h->m->machines_fd, name));
	assert_true(wslx_throwaway_is(h->m, name));
	/* Its owner lives: nobody takes it. */
	wslx_throwaway_sweep(h->m);
	assert_true(exists(h->m->run_fd, name));
	wslx_throwaway_end(h->m, &t);
	assert_false(exists(h->m->run_fd, name) || exists(h->m->machines_fd, name));
}

/* While its disk is to be copied, the distro's own machine is stopped. */
static void test_throwaway_of_one_that_leaves(void **state)
{
	static const char *const modes[] = { "leaves", "leaves-paused" };
	struct home *h = *state;

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		struct wslx_throwaway t;
		struct wslx_err err = { 0 };

		setenv("FAKE_VMM", modes[i], 1);
		assert_int_equal(start(h, NULL, NULL), 0);
		unsetenv("FAKE_VMM");
		if (run_one(h, &t, &err) < 0)
			fail_msg("%s: %s", modes[i], err.msg);
		wslx_throwaway_end(h->m, &t);
	}
}

static void test_unregister_names_a_throwaway(void **state)
{
	struct home *h = *state;
	struct wslx_throwaway t;
	struct wslx_err err = { 0 };
	cleanup_free char *how = NULL;

	assert_int_equal(run_one(h, &t, NULL), 0);
	assert_true(asprintf(&how, "or stop it: wslx terminate %s", t.name) > 0);
	assert_int_equal(wslx_distro_unregister(h->m, "one", &err), -EBUSY);
	if (!strstr(err.msg, how))
		fail_msg("%s", err.msg);
	wslx_throwaway_end(h->m, &t);
	assert_int_equal(wslx_distro_unregister(h->m, "one", &err), 0);
}

static void test_throwaway_of_a_killed_owner(void **state)
{
	struct home *h = *state;
	cleanup_free char *note = wslx_path("%s/note", h->dir);
	cleanup_free char *name = NULL;
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct wslx_throwaway t;
		cleanup_close int fd = open(note, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

		home_reopen(h);
		if (run_one(h, &t, NULL) < 0 || wslx_write_full(fd, t.name, strlen(t.name)) < 0)
			_exit(1);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(wslx_read_file(AT_FDCWD, note, 100, &name, NULL), 0);
	assert_true(exists(h->m->run_fd, name));
	wslx_throwaway_sweep(h->m);
	assert_false(exists(h->m->run_fd, name) || exists(h->m->machines_fd, name));
}

static void test_failed_throwaway_leaves_nothing(void **state)
{
	struct home *h = *state;
	struct wslx_throwaway t;
	struct wslx_err err = { 0 };

	setenv("FAKE_VMM", "fail", 1);
	assert_true(run_one(h, &t, &err) < 0);
	assert_string_equal(err.msg, "the machine did not start: it did not work");
	home_reopen(h);
	assert_int_equal(starts(h), 1);
	assert_false(exists(h->m->machines_fd, "one"));
	unsetenv("FAKE_VMM");
	/* The source is not locked any more. */
	assert_int_equal(wslx_distro_unregister(h->m, "one", NULL), 0);
}

/* Saved by a release that allowed more. */
static void test_too_much_memory(void **state)
{
	struct home *h = *state;
	struct wslx_distro *d = malloc(sizeof(*d));
	struct wslx_err err = { 0 };

	assert_int_equal(wslx_distro_find(h->m, "one", d, NULL), 0);
	d->settings.memory = 1024 * WSLX_GIB;
	assert_int_equal(wslx_distro_save(h->m, d, NULL), 0);
	assert_int_equal(start(h, NULL, &err), -EINVAL);
	assert_string_equal(err.msg, "memory of 1T is out of range: at most 240G; to change it: wslx config one "
				     "memory=SIZE");
	assert_int_equal(starts(h), 0);
	d->settings.memory = 4 * WSLX_GIB;
	assert_int_equal(wslx_distro_save(h->m, d, NULL), 0);
	assert_int_equal(start(h, NULL, NULL), 0);
	free(d);
}

static void test_missing_programs_are_named(void **state)
{
	struct home *h = *state;
	struct wslx_distro *d = malloc(sizeof(*d));
	struct wslx_err err = { 0 };

	assert_int_equal(wslx_distro_find(h->m, "one", d, NULL), 0);
	d->settings.net.mode = WSLX_NET_PASST;
	assert_int_equal(wslx_distro_save(h->m, d, NULL), 0);
	assert_int_equal(wslx_machine_start(h->m, d, NULL, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "passt"));
	d->settings.net.mode = WSLX_NET_NONE;
	assert_int_equal(wslx_distro_save(h->m, d, NULL), 0);
	setenv("PATH", "/nonexistent", 1);
	assert_int_equal(wslx_machine_start(h->m, d, NULL, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "qemu"));
	free(d);
}

#define T(f) cmocka_unit_test_setup_teardown(f, machines_setup, machines_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_start_find_stop),
		T(test_failure_says_why),
		T(test_start_without_sigchld),
		T(test_many_starts_make_one_machine),
		T(test_killed_supervisor),
		T(test_interrupted_start),
		T(test_stopping_one_that_hangs),
		T(test_force_is_short_and_leaves_nothing),
		T(test_one_that_does_not_answer),
		T(test_crash_under_a_command),
		T(test_unregister_stops),
		T(test_unregister_spares_an_unseen_machine),
		T(test_unregister_spares_the_next_one),
		T(test_export_of_a_disk_in_use),
		T(test_throwaway),
		T(test_throwaway_of_one_that_leaves),
		T(test_unregister_names_a_throwaway),
		T(test_throwaway_of_a_killed_owner),
		T(test_failed_throwaway_leaves_nothing),
		T(test_too_much_memory),
		T(test_missing_programs_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
