#include "manager/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "os/linux/paths.h"

#define REPORT_MAX ((size_t)256 * 1024)

/* Where the descriptors land in the supervisor. */
enum { FD_CONFIG = 3, FD_READY, FD_LOCK, FD_LOG, FD_END };

/* ---- The child's side of fork: async-signal-safe calls only ---- */

struct child_plan {
	const char *path;
	char *const *argv;
	int fds[FD_END - FD_CONFIG];
};

static void child_run(const struct child_plan *plan) WSLX_NORETURN;
static void child_run(const struct child_plan *plan)
{
	int high[ARRAY_SIZE(plan->fds)], null;
	sigset_t none;

	setsid();
	/* Out of the way first: a source may lie where another one goes. */
	for (size_t i = 0; i < ARRAY_SIZE(high); i++) {
		high[i] = fcntl(plan->fds[i], F_DUPFD, FD_END + (int)ARRAY_SIZE(high));
		if (high[i] < 0)
			_exit(127);
	}
	for (size_t i = 0; i < ARRAY_SIZE(high); i++)
		if (dup2(high[i], FD_CONFIG + (int)i) < 0)
			_exit(127);
	null = open("/dev/null", O_RDWR);
	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(FD_LOG, 2) < 0)
		_exit(127);
	if (close_range(FD_END, ~0u, 0) < 0)
		_exit(127);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	execv(plan->path, plan->argv);
	_exit(127);
}

/* Through a short-lived process between, so that the supervisor is nobody's
 * child here and leaves no zombie in a program that lives on. */
static int fork_detached(const struct child_plan *plan)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		return -errno;
	if (pid == 0) {
		pid = fork();
		if (pid == 0)
			child_run(plan);
		_exit(pid < 0);
	}
	while (waitpid(pid, &status, 0) < 0) {
		/* The program we are in ignores SIGCHLD or has waited for us: the
		 * pipe tells whether the supervisor lives. */
		if (errno == ECHILD)
			return 0;
		if (errno != EINTR)
			return -errno;
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EAGAIN;
}

/* ---- Reports ---- */

struct report {
	const struct wslx_start_hooks *h;
	struct wslx_err *err;
	bool last;
	int r;
};

static void tell_list(const json_t *list, void (*fn)(void *opaque, const char *s), void *opaque)
{
	const json_t *v;
	size_t i;

	if (!fn)
		return;
	json_array_foreach (list, i, v)
		if (json_is_string(v))
			fn(opaque, json_string_value(v));
}

static void take_line(struct report *rep, const char *line)
{
	json_t *o = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
	const char *event = json_string_value(json_object_get(o, "event"));
	const struct wslx_start_hooks *h = rep->h;

	if (event && !strcmp(event, "progress")) {
		const char *what = json_string_value(json_object_get(o, "what"));

		if (what && h && h->progress)
			h->progress(h->opaque, what);
	} else if (event && !strcmp(event, "ready")) {
		if (h)
			tell_list(json_object_get(o, "warnings"), h->warning, h->opaque);
		rep->last = true;
	} else if (event && !strcmp(event, "failed")) {
		const char *message = json_string_value(json_object_get(o, "message"));

		if (h)
			tell_list(json_object_get(o, "console"), h->console, h->opaque);
		rep->r = wslx_err_set(rep->err, EIO, "%s", message ? message : "the machine failed to start");
		rep->last = true;
	}
	json_decref(o);
}

/* Whole lines out of what has arrived. */
static void take_lines(struct report *rep, struct wslx_buf *in)
{
	while (!rep->last && in->len) {
		uint8_t *nl = memchr(in->data, '\n', in->len);

		if (!nl)
			return;
		*nl = '\0';
		take_line(rep, (const char *)in->data);
		wslx_buf_consume(in, (size_t)(nl - in->data) + 1);
	}
}

static int read_reports(struct report *rep, int fd, struct wslx_buf *in)
{
	int cancel_fd = rep->h ? rep->h->cancel_fd : -1;

	while (!rep->last) {
		struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = cancel_fd, .events = POLLIN } };
		char part[4096];
		ssize_t n;

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return wslx_err_sys(rep->err, errno, "cannot wait for the machine");
		if (p[1].revents)
			return wslx_err_set(rep->err, ECANCELED, "interrupted while the machine starts");
		if (!p[0].revents)
			continue;
		n = read(fd, part, sizeof(part));
		if (n < 0 && errno != EINTR)
			return wslx_err_sys(rep->err, errno, "cannot read what the machine says");
		if (n == 0)
			return wslx_err_set(rep->err, EPIPE, "wslx-vmm ended before the machine was up");
		if (n > 0 && wslx_buf_append(in, part, (size_t)n) < 0)
			return wslx_err_set(rep->err, EPROTO, "wslx-vmm says too much");
		take_lines(rep, in);
	}
	return rep->r;
}

static int config_memfd(const struct wslx_vm_config *c, struct wslx_err *err)
{
	cleanup_free char *json = NULL;
	cleanup_close int fd = memfd_create("wslx-vm-config", MFD_CLOEXEC);
	int r = fd < 0 ? -errno : wslx_vm_config_encode(c, &json);

	if (r == 0)
		r = wslx_write_full(fd, json, strlen(json));
	if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
		r = -errno;
	return r < 0 ? wslx_err_sys(err, -r, "cannot hand over the machine's configuration") : TAKE_FD(fd);
}

static int open_log(const struct wslx_vm_config *c, struct wslx_err *err)
{
	cleanup_free char *path = wslx_path("%s/vmm.log", c->state_dir), *old = wslx_path("%s/vmm.log.1", c->state_dir);
	int fd;

	/* The last run's log may be what somebody wants to see after a crash. */
	if (path && old && rename(path, old) < 0 && errno != ENOENT)
		return wslx_err_sys(err, errno, "cannot rename %s", path);
	fd = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;

	return fd < 0 ? wslx_err_sys(err, path ? errno : ENOMEM, "cannot write %s/vmm.log", c->state_dir) : fd;
}

int wslx_vmm_spawn(const struct wslx_vm_config *c, int lock_fd, const struct wslx_start_hooks *h, struct wslx_err *err)
{
	cleanup_close int config = -1, log = -1, ready_r = -1, ready_w = -1;
	cleanup_free char *path = NULL, *title = wslx_path("wslx-vmm [%s]", c->name);
	char *const argv[] = { title, "--config=3", "--ready=4", "--lock=5", "--log=6", NULL };
	struct child_plan plan = { .argv = argv };
	struct report rep = { .h = h, .err = err };
	struct wslx_buf in;
	int r, p[2];

	r = title ? wslx_find_own("wslx-vmm", &path, err) : wslx_err_sys(err, ENOMEM, "cannot start");
	if (r == 0)
		r = config = config_memfd(c, err);
	if (r >= 0)
		r = log = open_log(c, err);
	if (r < 0)
		return r;
	if (pipe2(p, O_CLOEXEC) < 0)
		return wslx_err_sys(err, errno, "cannot make a pipe");
	ready_r = p[0];
	ready_w = p[1];
	plan.path = path;
	plan.fds[0] = config; /* FD_CONFIG, the first */
	plan.fds[FD_READY - FD_CONFIG] = ready_w;
	plan.fds[FD_LOCK - FD_CONFIG] = lock_fd;
	plan.fds[FD_LOG - FD_CONFIG] = log;
	r = fork_detached(&plan);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot start %s", path);
	wslx_close(&ready_w);
	wslx_buf_init(&in, REPORT_MAX);
	r = read_reports(&rep, ready_r, &in);
	wslx_buf_free(&in);
	return r;
}
