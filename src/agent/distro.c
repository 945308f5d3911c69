/*
 * Distros of the machine, seen from the agent.
 *
 *   WAITING (for its disk) -> SETUP (init runs distro_init.c) -> RUNNING
 *   -> STOPPING (SIGTERM sent) -> gone, when init was reaped and the disk let go
 *
 * EXEC is possible in RUNNING only.  How init ended tells what happened: the
 * kernel turns reboot(2) inside a PID namespace into the death of its init by
 * SIGHUP (restart) or SIGINT (halt, power-off), which no other process can
 * cause.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/core.h"
#include "agent/machine.h"
#include "base/cleanup.h"
#include "base/log.h"

#define CGROUP_DISTROS DIR_CGROUP "/distro"
#define LEAF "payload"
#define RELEASE_TRIES 400
#define RELEASE_PAUSE_NS 5000000

static void cgroup_path(const struct distro *d, const char *file, char *dst, size_t size)
{
	snprintf(dst, size, CGROUP_DISTROS "/%s%s%s", d->params.name, *file ? "/" : "", file);
}

static struct distro *find(struct machine *m, const char *name)
{
	struct distro *d = m->distros;

	while (d && strcmp(d->params.name, name) != 0)
		d = d->next;
	return d;
}

static bool name_ok(const char *s)
{
	return *s && strcmp(s, ".") != 0 && strcmp(s, "..") != 0 && *s != '-' &&
	       strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == strlen(s);
}

/* ---- the end ---- */

static void close_fds(struct distro *d)
{
	wslx_watch_free(TAKE_PTR(d->status_watch));
	wslx_close(&d->status_fd);
	wslx_close(&d->pidfd);
	/* These hold its mounts. */
	wslx_close(&d->root_fd);
	wslx_close(&d->pts_fd);
	wslx_close(&d->cgroup_fd);
	if (d->oom_watch >= 0)
		inotify_rm_watch(d->m->inotify_fd, d->oom_watch);
	d->oom_watch = -1;
}

static void distro_free(struct distro *d)
{
	struct distro **pp = &d->m->distros;

	while (*pp && *pp != d)
		pp = &(*pp)->next;
	if (*pp)
		*pp = d->next;
	if (d->waiting)
		device_wait_cancel(&d->wait);
	close_fds(d);
	wslx_buf_free(&d->status);
	wslx_timer_free(d->kill_timer);
	free(d);
}

/* Removes the cgroup with what the distro made below it. */
static void remove_cgroups(const char *path, unsigned depth)
{
	char sub[1024];
	DIR *dir = depth < 16 ? opendir(path) : NULL;
	struct dirent *e;

	while (dir && (e = readdir(dir))) {
		if (e->d_type != DT_DIR || !strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if ((size_t)snprintf(sub, sizeof(sub), "%s/%s", path, e->d_name) < sizeof(sub))
			remove_cgroups(sub, depth + 1);
	}
	if (dir)
		closedir(dir);
	(void)rmdir(path);
}

/* In a child: the kernel lets go of the mounts a moment after the last process. */
static int release_work(void *opaque, char *text, size_t size)
{
	struct distro *d = opaque;
	struct timespec ts = { .tv_nsec = RELEASE_PAUSE_NS };
	char path[512];

	for (int i = 0; i < RELEASE_TRIES; i++) {
		/* An exclusive open fails while the device is mounted. */
		cleanup_close int fd = open(d->device, O_RDONLY | O_EXCL | O_CLOEXEC);

		if (fd >= 0 || errno != EBUSY)
			break;
		nanosleep(&ts, NULL);
	}
	cgroup_path(d, "", path, sizeof(path));
	remove_cgroups(path, 0);
	sync();
	return 0;
}

static void on_released(void *opaque, int code, const char *text)
{
	struct distro *d = opaque;
	struct machine *m = d->m;

	if (d->has_stop_call)
		wslx_guest_reply_ok(m->guest, &d->stop_call);
	distro_free(d);
	shutdown_check(m);
}

static void report_end(struct distro *d, int status)
{
	struct wslx_agent_event ev = { .kind = WSLX_AGENT_EV_DISTRO_DIED };
	int sig = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	bool reboot = sig == SIGHUP, poweroff = sig == SIGINT;

	snprintf(ev.distro, sizeof(ev.distro), "%s", d->params.name);
	ev.signal = (uint32_t)sig;
	ev.status = WIFEXITED(status) ? (uint32_t)WEXITSTATUS(status) : 0;
	if (reboot || poweroff)
		ev.kind = reboot ? WSLX_AGENT_EV_REBOOT : WSLX_AGENT_EV_POWEROFF;
	snprintf(ev.text, sizeof(ev.text), "%s %s", d->params.name,
		 reboot     ? "asked for a reboot"
		 : poweroff ? "asked to power off"
			    : "ended");
	log_info("distro %s", ev.text);
	wslx_guest_event(d->m->guest, &ev);
	if (reboot || poweroff)
		shutdown_begin(d->m, reboot ? WSLX_AGENT_REBOOT : WSLX_AGENT_POWEROFF, 0);
}

/* ---- memory shortage ---- */

static uint64_t read_oom_kills(const struct distro *d)
{
	char path[512], buf[512], *p;
	cleanup_close int fd = -1;
	ssize_t n;

	cgroup_path(d, "memory.events", path, sizeof(path));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
	if (n <= 0)
		return 0;
	buf[n] = 0;
	p = strstr(buf, "\noom_kill ");
	return p ? strtoull(p + 10, NULL, 10) : 0;
}

static void on_inotify(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct machine *m = opaque;
	char buf[4096] __attribute__((aligned(8)));

	while (read(fd, buf, sizeof(buf)) > 0)
		;
	for (struct distro *d = m->distros; d; d = d->next) {
		uint64_t n = d->oom_watch >= 0 ? read_oom_kills(d) : 0;
		struct wslx_agent_event ev = { .kind = WSLX_AGENT_EV_OOM };

		if (n <= d->oom_kills)
			continue;
		snprintf(ev.distro, sizeof(ev.distro), "%s", d->params.name);
		snprintf(ev.text, sizeof(ev.text), "out of memory: the kernel killed processes of %s", d->params.name);
		d->oom_kills = n;
		wslx_guest_event(m->guest, &ev);
	}
}

static void limit_processes(struct machine *m)
{
	cleanup_close int dir = open(CGROUP_DISTROS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r;

	pids_init(&m->pids);
	r = dir < 0 ? -errno : pids_limit(dir, m->pids.all);
	if (r < 0)
		log_warn("cannot limit the distros' processes: %s", strerror(-r));
}

int distro_init_all(struct machine *m)
{
	static const char *const controllers[] = { "+cpu", "+io", "+memory", "+pids", "+cpuset" };

	/* The agent gets a group of its own with a large share, so that no
	 * number of busy processes keeps it from answering. */
	(void)mkdir(DIR_CGROUP "/agent", 0755);
	(void)mkdir(CGROUP_DISTROS, 0755);
	for (size_t i = 0; i < ARRAY_SIZE(controllers); i++) {
		(void)write_text(DIR_CGROUP "/cgroup.subtree_control", controllers[i]);
		(void)write_text(CGROUP_DISTROS "/cgroup.subtree_control", controllers[i]);
	}
	(void)write_text(DIR_CGROUP "/agent/cgroup.procs", "0");
	(void)write_text(DIR_CGROUP "/agent/cpu.weight", "10000");
	(void)write_text(DIR_CGROUP "/agent/memory.min", "16777216");
	limit_processes(m);
	m->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (m->inotify_fd < 0)
		return -errno;
	return wslx_loop_watch(m->loop, m->inotify_fd, EPOLLIN, on_inotify, m, &m->inotify_watch);
}

/* ---- the beginning ---- */

static int open_in_root(int root, const char *path, uint64_t flags)
{
	struct open_how how = { .flags = flags | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));

	return fd < 0 ? -errno : fd;
}

/* Handles on the namespaces of an init that is ready. */
static int open_handles(struct distro *d)
{
	char path[512];
	struct statfs st;

	d->pidfd = (int)syscall(SYS_pidfd_open, d->pid, 0);
	if (d->pidfd < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/%d/root", d->pid);
	d->root_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->root_fd < 0)
		return -errno;
	d->pts_fd = open_in_root(d->root_fd, "/dev/pts", O_PATH | O_DIRECTORY);
	if (d->pts_fd < 0)
		return d->pts_fd;
	if (fstatfs(d->pts_fd, &st) < 0 || st.f_type != DEVPTS_SUPER_MAGIC)
		return -ENODEV;
	cgroup_path(d, "memory.events", path, sizeof(path));
	d->oom_watch = inotify_add_watch(d->m->inotify_fd, path, IN_MODIFY);
	d->oom_kills = read_oom_kills(d);
	return 0;
}

static void start_failed(struct distro *d, int code, const char *text)
{
	if (d->has_start_call)
		wslx_guest_reply_error(d->m->guest, &d->start_call, code, "%s", text);
	d->has_start_call = false;
	log_warn("distro %s: %s", d->params.name, text);
	if (d->pid > 0)
		kill(d->pid, SIGKILL); /* on_init_end does the rest */
	else if (d->state != DISTRO_STOPPING)
		distro_free(d);
}

static void started(struct distro *d)
{
	struct wslx_buf b;
	int r = open_handles(d);

	if (r < 0) {
		start_failed(d, -r, "its namespaces cannot be reached");
		return;
	}
	/* Told to stop meanwhile? */
	if (d->state != DISTRO_SETUP)
		return;
	d->state = DISTRO_RUNNING;
	log_info("distro %s runs", d->params.name);
	wslx_buf_init(&b, WSLX_AGENT_PAYLOAD_MAX);
	if (d->has_start_call && wslx_agent_distro_started_encode(&b, &d->info) == 0)
		wslx_guest_reply(d->m->guest, &d->start_call, WSLX_AGENT_DISTRO_STARTED, &b);
	d->has_start_call = false;
	wslx_buf_free(&b);
}

/* Returns whether init has said its last word. */
static bool setup_record(struct distro *d, const struct launch_record *r)
{
	struct wslx_agent_distro_started *info = &d->info;

	if (r->kind == LAUNCH_FAILED) {
		start_failed(d, r->code, r->text);
		return true;
	}
	if (r->kind == LAUNCH_WARNING) {
		log_warn("distro %s: %s", d->params.name, r->text);
		if (info->n_warnings < WSLX_AGENT_MAX_WARNINGS)
			snprintf(info->warnings[info->n_warnings++], sizeof(info->warnings[0]), "%s", r->text);
		return false;
	}
	info->readonly = r->code;
	if (d->pid > 0)
		started(d);
	return true;
}

static void read_setup_status(struct distro *d)
{
	struct launch_record r;
	ssize_t n;

	/* Records are written whole. */
	while ((n = read(d->status_fd, &r, sizeof(r))) == (ssize_t)sizeof(r)) {
		r.text[sizeof(r.text) - 1] = 0;
		if (setup_record(d, &r))
			break;
	}
	if (n < 0 && errno == EAGAIN)
		return;
	wslx_watch_free(TAKE_PTR(d->status_watch));
	wslx_close(&d->status_fd);
}

static void on_setup_status(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	read_setup_status(opaque);
}

static void on_init_end(void *opaque, pid_t pid, int status)
{
	struct distro *d = opaque;
	struct machine *m = d->m;
	bool running = d->state == DISTRO_RUNNING;

	d->pid = 0;
	d->state = DISTRO_STOPPING;
	/* Why it failed may still be in the pipe. */
	if (d->status_fd >= 0)
		read_setup_status(d);
	close_fds(d);
	wslx_timer_free(TAKE_PTR(d->kill_timer));
	if (d->has_start_call)
		wslx_guest_reply_error(m->guest, &d->start_call, EIO, "the init of '%s' ended while it was set up",
				       d->params.name);
	d->has_start_call = false;
	if (running)
		report_end(d, status);
	if (wslx_guest_work(m->guest, release_work, d, on_released, d) < 0)
		on_released(d, 0, "");
}

/* The distro's cgroup and the leaf its processes start in. */
static int make_cgroup(struct distro *d, int *ret_parent, int *ret_procs, int *ret_subtree)
{
	char path[512];
	int r;

	cgroup_path(d, "", path, sizeof(path));
	/* One that a distro of this name left over cannot have processes. */
	remove_cgroups(path, 0);
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return -errno;
	*ret_parent = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*ret_parent < 0 || (mkdirat(*ret_parent, LEAF, 0755) < 0 && errno != EEXIST))
		return -errno;
	r = pids_limit(*ret_parent, d->m->pids.each);
	if (r < 0)
		log_warn("cannot limit the processes of %s: %s", d->params.name, strerror(-r));
	*ret_subtree = openat(*ret_parent, "cgroup.subtree_control", O_WRONLY | O_CLOEXEC);
	*ret_procs = openat(*ret_parent, LEAF "/cgroup.procs", O_WRONLY | O_CLOEXEC);
	d->cgroup_fd = openat(*ret_parent, LEAF, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *ret_subtree < 0 || *ret_procs < 0 || d->cgroup_fd < 0 ? -errno : 0;
}

static int spawn_init(struct distro *d)
{
	cleanup_close int parent = -1, procs = -1, subtree = -1, status = -1;
	struct machine *m = d->m;
	int fds[2], r = make_cgroup(d, &parent, &procs, &subtree);
	pid_t pid;

	if (r < 0)
		return r;
	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	d->status_fd = fds[0];
	status = fds[1];
	if (fcntl(d->status_fd, F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	pid = wslx_guest_fork(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC, parent, -1);
	if (pid == 0) {
		struct distro_setup s = { .name = d->params.name,
					  .device = d->device,
					  .fstype = d->params.fstype,
					  .options = d->params.options,
					  .hostname = *d->params.hostname ? d->params.hostname : m->hostname,
					  .release = m->release,
					  .readonly = d->params.readonly,
					  .modules = m->modules_mounted,
					  .status_fd = status,
					  .procs_fd = procs,
					  .subtree_fd = subtree };

		distro_init_main(&s);
	}
	if (pid < 0)
		return pid;
	r = wslx_guest_watch_child(m->guest, pid, on_init_end, d);
	if (r < 0) {
		kill(pid, SIGKILL);
		return r;
	}
	d->pid = pid;
	r = wslx_loop_watch(m->loop, d->status_fd, EPOLLIN, on_setup_status, d, &d->status_watch);
	return r;
}

static void on_disk(struct disk_wait *w, const char *device)
{
	struct distro *d = w->opaque;
	char text[128];
	int r;

	d->waiting = false;
	if (!device) {
		snprintf(text, sizeof(text), "there is no disk with serial number '%s'", d->params.serial);
		start_failed(d, ENODEV, text);
		return;
	}
	snprintf(d->device, sizeof(d->device), "%s", device);
	d->state = DISTRO_SETUP;
	r = spawn_init(d);
	if (r < 0) {
		snprintf(text, sizeof(text), "cannot make its namespaces: %s", strerror(-r));
		start_failed(d, -r, text);
	}
}

static struct distro *distro_new(struct machine *m, const struct wslx_guest_call *call,
				 const struct wslx_agent_distro *params)
{
	struct distro *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->m = m;
	d->params = *params;
	if (!*d->params.fstype)
		strcpy(d->params.fstype, "ext4");
	if (!*d->params.options && !strcmp(d->params.fstype, "ext4"))
		strcpy(d->params.options, "discard,errors=remount-ro");
	d->pidfd = d->root_fd = d->pts_fd = d->cgroup_fd = d->status_fd = d->oom_watch = -1;
	d->start_call = *call;
	d->has_start_call = true;
	memcpy(d->wait.serial, params->serial, sizeof(d->wait.serial));
	d->wait.fn = on_disk;
	d->wait.opaque = d;
	d->next = m->distros;
	m->distros = d;
	return d;
}

void distro_start(struct machine *m, const struct wslx_guest_call *call, const struct wslx_agent_distro *params)
{
	struct distro *d;
	size_t n = 0;

	for (d = m->distros; d; d = d->next)
		n++;
	if (!name_ok(params->name) || !*params->serial) {
		wslx_guest_reply_error(m->guest, call, EINVAL, "a distro needs a name and a disk's serial number");
		return;
	}
	if (m->ending || m->paused) {
		wslx_guest_reply_error(m->guest, call, EAGAIN, "the machine is %s",
				       m->ending ? "shutting down" : "paused");
		return;
	}
	if (find(m, params->name)) {
		wslx_guest_reply_error(m->guest, call, EEXIST, "'%s' runs already", params->name);
		return;
	}
	d = n < WSLX_AGENT_MAX_DISTROS ? distro_new(m, call, params) : NULL;
	if (!d) {
		wslx_guest_reply_error(m->guest, call, ENOMEM, "too many distros in one machine");
		return;
	}
	d->waiting = true;
	if (device_wait(m, &d->wait, params->timeout_ms) < 0) {
		d->waiting = false;
		start_failed(d, ENOMEM, "out of memory");
	}
}

/* ---- stopping ---- */

static void on_kill_time(struct wslx_timer *t, void *opaque)
{
	struct distro *d = opaque;

	if (d->pid <= 0)
		return;
	log_warn("distro %s: what has not ended by now is killed", d->params.name);
	kill(d->pid, SIGKILL);
}

void distro_stop_one(struct distro *d, uint32_t timeout_ms)
{
	if (d->state == DISTRO_WAITING) {
		start_failed(d, ECANCELED, "stopped before its disk appeared");
		return;
	}
	if (d->state == DISTRO_STOPPING)
		return;
	/* An init that is still setting up does not listen yet. */
	if (d->state == DISTRO_SETUP || wslx_loop_timer(d->m->loop, on_kill_time, d, &d->kill_timer) < 0)
		kill(d->pid, SIGKILL);
	else
		wslx_timer_arm(d->kill_timer, timeout_ms ? timeout_ms : STOP_TIMEOUT_MS);
	d->state = DISTRO_STOPPING;
	kill(d->pid, SIGTERM);
}

void distro_stop(struct machine *m, const struct wslx_guest_call *call, const char *name, uint32_t timeout_ms)
{
	struct distro *d = find(m, name);

	if (!d || d->has_stop_call) {
		wslx_guest_reply_error(m->guest, call, d ? EALREADY : ENOENT,
				       d ? "'%s' is being stopped already" : "no distro '%s' runs here", name);
		return;
	}
	if (m->paused)
		freeze_thaw_now(m);
	if (d->state == DISTRO_WAITING) {
		distro_stop_one(d, 0);
		wslx_guest_reply_ok(m->guest, call);
		return;
	}
	d->stop_call = *call;
	d->has_stop_call = true;
	distro_stop_one(d, timeout_ms);
}

/* ---- for the core ---- */

int distro_place(void *opaque, const char *name, struct wslx_guest_place *ret, char *text, size_t size)
{
	struct machine *m = opaque;
	struct distro *d = NULL;

	if (m->paused || m->ending) {
		snprintf(text, size, "the machine is %s", m->ending ? "shutting down" : "paused");
		return -EAGAIN;
	}
	if (*name)
		d = find(m, name);
	else if (m->distros && !m->distros->next)
		d = m->distros;
	if (!d || d->state != DISTRO_RUNNING) {
		if (!*name)
			snprintf(text, size, "the machine has not exactly one distro; name one");
		else
			snprintf(text, size, d ? "distro '%s' is not ready" : "no distro '%s' runs in this machine",
				 name);
		return d ? -EAGAIN : -ENOENT;
	}
	*ret = (struct wslx_guest_place) {
		.distro = d->params.name, .pidfd = d->pidfd, .cgroup_fd = d->cgroup_fd, .pts_fd = d->pts_fd
	};
	return 0;
}

uint32_t distro_count_processes(const struct distro *d)
{
	char path[512], buf[32];
	cleanup_close int fd = -1;
	ssize_t n;

	cgroup_path(d, "pids.current", path, sizeof(path));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
	if (n <= 0)
		return 0;
	buf[n] = 0;
	return (uint32_t)strtoul(buf, NULL, 10);
}
