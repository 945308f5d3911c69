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

#define FD_FIRST 3

/* ---- The child's side of fork: async-signal-safe calls only ---- */

struct child_plan {
	const char *path;
	char *const *argv;
	int fds[WSLX_HELPER_FDS];
	int n_fds; /* the last one is the log */
};

static void child_run(const struct child_plan *plan) WSLX_NORETURN;
static void child_run(const struct child_plan *plan)
{
	int high[WSLX_HELPER_FDS], end = FD_FIRST + plan->n_fds, null;
	sigset_t none;

	setsid();
	/* Out of the way first: a source may lie where another one goes. */
	for (int i = 0; i < plan->n_fds; i++) {
		high[i] = fcntl(plan->fds[i], F_DUPFD, end + plan->n_fds);
		if (high[i] < 0)
			_exit(127);
	}
	for (int i = 0; i < plan->n_fds; i++)
		if (dup2(high[i], FD_FIRST + i) < 0)
			_exit(127);
	null = open("/dev/null", O_RDWR);
	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(end - 1, 2) < 0)
		_exit(127);
	if (close_range((unsigned)end, ~0u, 0) < 0)
		_exit(127);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	execv(plan->path, plan->argv);
	_exit(127);
}

/* Through a short-lived process between, so that the program is nobody's
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
		 * pipe tells whether the program lives. */
		if (errno == ECHILD)
			return 0;
		if (errno != EINTR)
			return -errno;
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EAGAIN;
}

/* ---- Reports ---- */

struct report {
	const struct wslx_helper *p;
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
		rep->r = wslx_err_set(rep->err, EIO, "%s", message ? message : "it failed to start");
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
			return wslx_err_sys(rep->err, errno, "cannot wait for %s", rep->p->what);
		if (p[1].revents)
			return wslx_err_set(rep->err, ECANCELED, "interrupted while %s starts", rep->p->what);
		if (!p[0].revents)
			continue;
		n = read(fd, part, sizeof(part));
		if (n < 0 && errno != EINTR)
			return wslx_err_sys(rep->err, errno, "cannot read what %s says", rep->p->program);
		if (n == 0)
			return wslx_err_set(rep->err, EPIPE, "%s ended before %s was up", rep->p->program,
					    rep->p->what);
		if (n > 0 && wslx_buf_append(in, part, (size_t)n) < 0)
			return wslx_err_set(rep->err, EPROTO, "%s says too much", rep->p->program);
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

int wslx_log_file(const char *folder, const char *name, struct wslx_err *err)
{
	cleanup_free char *path = wslx_path("%s/%s", folder, name), *old = wslx_path("%s/%s.1", folder, name);
	int fd;

	/* The last run's log may be what somebody wants to see after a crash. */
	if (path && old && rename(path, old) < 0 && errno != ENOENT)
		return wslx_err_sys(err, errno, "cannot rename %s", path);
	fd = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;

	return fd < 0 ? wslx_err_sys(err, path ? errno : ENOMEM, "cannot write %s/%s", folder, name) : fd;
}

int wslx_helper_start(const struct wslx_helper *p, const struct wslx_start_hooks *h, struct wslx_err *err)
{
	struct child_plan plan = { .argv = p->argv, .n_fds = p->n_fds };
	struct report rep = { .p = p, .h = h, .err = err };
	cleanup_close int ready_r = -1, ready_w = -1;
	cleanup_free char *path = NULL;
	struct wslx_buf in;
	int pair[2], r = wslx_find_own(p->program, &path, err);

	if (r < 0)
		return r;
	if (pipe2(pair, O_CLOEXEC) < 0)
		return wslx_err_sys(err, errno, "cannot make a pipe");
	ready_r = pair[0];
	ready_w = pair[1];
	plan.path = path;
	for (int i = 0; i < p->n_fds; i++)
		plan.fds[i] = p->fds[i] == WSLX_HELPER_READY ? ready_w : p->fds[i];
	r = fork_detached(&plan);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot start %s", path);
	wslx_close(&ready_w);
	wslx_buf_init(&in, REPORT_MAX);
	r = read_reports(&rep, ready_r, &in);
	wslx_buf_free(&in);
	return r;
}

int wslx_vmm_spawn(const struct wslx_vm_config *c, int lock_fd, const struct wslx_start_hooks *h, struct wslx_err *err)
{
	cleanup_close int config = -1, log = -1;
	cleanup_free char *title = wslx_path("wslx-vmm [%s]", c->name);
	char *const argv[] = { title, "--config=3", "--ready=4", "--lock=5", "--log=6", NULL };
	struct wslx_helper p = { .program = "wslx-vmm", .what = "the machine", .argv = argv };

	if (!title)
		return wslx_err_sys(err, ENOMEM, "cannot start");
	config = config_memfd(c, err);
	if (config < 0)
		return config;
	log = wslx_log_file(c->state_dir, "vmm.log", err);
	if (log < 0)
		return log;
	p.fds[p.n_fds++] = config;
	p.fds[p.n_fds++] = WSLX_HELPER_READY;
	p.fds[p.n_fds++] = lock_fd;
	p.fds[p.n_fds++] = log;
	return wslx_helper_start(&p, h, err);
}
