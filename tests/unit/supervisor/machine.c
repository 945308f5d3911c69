#include "machine.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fake_child.h"
#include "os/linux/fd.h"
#include "vmm/supervisor/supervisor.h"

#define WAIT_MS 30000

/* ---- the machine ------------------------------------------------------------- */

void machine_setup(struct machine *m, const char *fake)
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

/* As the manager does. */
static void open_log(const struct machine *m)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/vmm.log", m->state);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || dup2(fd, STDERR_FILENO) < 0)
		_exit(9);
}

void machine_start_json(struct machine *m, const char *json)
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
		if (m->log)
			open_log(m);
		_exit(wslx_supervisor_run(&(struct wslx_supervisor_args) {
			.config_fd = config,
			.ready_fd = ready[1],
			.lock_fd = -1,
			.test_hooks = true,
			.kvm_path = "/dev/null",
			.stop_grace_ms = 200,
			.panic_wait_ms = m->panic_wait_ms,
			.pause_limit_ms = m->pause_limit_ms,
			.lock_wait_ms = m->lock_wait_ms,
		}));
	}
	close(config);
	close(ready[1]);
	m->ready_fd = ready[0];
}

void machine_start(struct machine *m)
{
	cleanup_free char *json = NULL;

	assert_int_equal(wslx_vm_config_encode(&m->c, &json), 0);
	machine_start_json(m, json);
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

const char *json_text(json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

void expect_ready(struct machine *m)
{
	json_t *j = result(m);

	if (strcmp(json_text(j, "event"), "ready") != 0)
		fail_msg("not ready: %s", json_text(j, "message"));
	assert_string_equal(json_text(j, "engine"), "kvm");
	assert_int_equal(json_integer_value(json_object_get(j, "pid")), m->pid);
	assert_true(json_integer_value(json_object_get(json_object_get(j, "timings"), "hello")) > 0);
	json_decref(j);
}

/* Fails, naming `what`, and the console's `line` if that is not NULL. */
void expect_failed(struct machine *m, const char *what, const char *line)
{
	json_t *j = result(m), *console = json_object_get(j, "console");
	bool found = !line;

	assert_string_equal(json_text(j, "event"), "failed");
	if (!strstr(json_text(j, "message"), what))
		fail_msg("'%s' does not say '%s'", json_text(j, "message"), what);
	for (size_t i = 0; i < json_array_size(console); i++)
		found |= line && strstr(json_string_value(json_array_get(console, i)), line);
	assert_true(found);
	json_decref(j);
}

int wait_end(struct machine *m)
{
	int st;

	assert_int_equal(waitpid(m->pid, &st, 0), m->pid);
	m->pid = 0;
	return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
}

void machine_remove(struct machine *m)
{
	static const char *const names[] = {
		"run/control.sock", "run/vsock.sock",      "run/vsock.sock_77", "state/console.log", "state/vmm.log",
		"state/vmm.log.1",  "state/console.log.1", "state/events",      "disk.img",          "base.img"
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

int control_client(struct machine *m)
{
	const struct timeval tv = { .tv_sec = WAIT_MS / 1000 };
	int fd = wslx_unix_connect(m->control, SOCK_STREAM | SOCK_CLOEXEC);

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	return fd;
}

/* As soon as there is a socket. */
int await_client(struct machine *m)
{
	int fd;

	do
		fd = wslx_unix_connect(m->control, SOCK_STREAM | SOCK_CLOEXEC);
	while (fd < 0);
	return fd;
}

void send_call(int fd, const char *method, const char *params)
{
	char buf[1024];
	int n = snprintf(buf, sizeof(buf), "{\"method\":\"%s%s\",\"parameters\":%s}",
			 method[0] == 'o' ? "" : "io.wslx.Machine.", method, params);

	assert_int_equal(wslx_write_full(fd, buf, (size_t)n + 1), 0);
}

json_t *read_answer(int fd)
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

json_t *control_call(struct machine *m, const char *method, const char *params)
{
	cleanup_close int fd = control_client(m);

	send_call(fd, method, params);
	return read_answer(fd);
}

void call_ok(struct machine *m, const char *method, const char *params)
{
	json_t *j = control_call(m, method, params);

	if (json_object_get(j, "error"))
		fail_msg("%s: %s", method, json_text(j, "error"));
	json_decref(j);
}

void call_fails(struct machine *m, const char *method, const char *params, const char *error)
{
	json_t *j = control_call(m, method, params);

	assert_string_equal(json_text(j, "error"), error);
	json_decref(j);
}

void expect_state(struct machine *m, const char *state)
{
	json_t *j = control_call(m, "Info", "{}");

	assert_string_equal(json_text(json_object_get(j, "parameters"), "state"), state);
	json_decref(j);
}

/* ---- what it does ---------------------------------------------------------- */

char *read_state(struct machine *m, const char *name)
{
	char path[128], *s = NULL;

	snprintf(path, sizeof(path), "%s/%s", m->state, name);
	assert_int_equal(wslx_read_file(AT_FDCWD, path, 1 << 20, &s, NULL), 0);
	return s;
}

bool has_panic(struct machine *m)
{
	json_t *j = control_call(m, "Info", "{}");
	bool yes = json_text(json_object_get(j, "parameters"), "panic")[0];

	json_decref(j);
	return yes;
}

json_int_t boots(struct machine *m)
{
	json_t *j = control_call(m, "Info", "{}");
	json_int_t n = json_integer_value(json_object_get(json_object_get(j, "parameters"), "boots"));

	json_decref(j);
	return n;
}

/* Until the guest's console holds `text`. */
void wait_console(struct machine *m, const char *text)
{
	bool found = false;

	while (!found) {
		char *s = read_state(m, "console.log");

		found = strstr(s, text);
		free(s);
		call_ok(m, "Ping", "{}");
	}
}

void wait_state(struct machine *m, const char *state)
{
	bool same = false;

	while (!same) {
		json_t *j = control_call(m, "Info", "{}");

		same = !strcmp(json_text(json_object_get(j, "parameters"), "state"), state);
		json_decref(j);
	}
}

void start_ready(struct machine *m, const char *fake, unsigned pause_limit_ms, unsigned panic_wait_ms)
{
	machine_setup(m, fake);
	m->pause_limit_ms = pause_limit_ms;
	m->panic_wait_ms = panic_wait_ms;
	machine_start(m);
	expect_ready(m);
}

void end_in_order(struct machine *m)
{
	call_ok(m, "Terminate", "{}");
	assert_int_equal(wait_end(m), 0);
	machine_remove(m);
}

void machine_main(int argc, char **argv)
{
	if (argc > 2 && !strncmp(argv[1], "--child=", 8))
		_exit(fake_child_main((int)strtol(argv[2] + strlen("--params="), NULL, 10)));
	signal(SIGPIPE, SIG_IGN);
	wslx_log_init("test", STDERR_FILENO, WSLX_LOG_ERROR);
}
