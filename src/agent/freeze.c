/*
 * PAUSE and RESUME.  A pause freezes the distros' cgroups, writes back, and
 * freezes their file systems, in that order, so that what is on the disks is
 * what the frozen processes left.  The work is done in a child: a freeze waits
 * for I/O, and the agent has to go on answering.
 *
 * A RESUME may come while that child works, or waits for a disk for ever.  Then
 * the processes go on at once, and both requests are answered.  The child is
 * killed; what it may have frozen up to its end is thawed after that.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent/machine.h"
#include "base/cleanup.h"
#include "base/log.h"

/* On a busy host a process in the kernel takes its time to get out of it. */
#define FREEZE_TIMEOUT_MS 20000

static int freezer(const struct distro *d, bool on)
{
	char path[512];

	snprintf(path, sizeof(path), DIR_CGROUP "/distro/%s/cgroup.freeze", d->params.name);
	return write_text(path, on ? "1" : "0");
}

static int await_frozen(const struct distro *d)
{
	char path[512], buf[128];
	cleanup_close int fd = -1;
	int64_t end = wslx_now_ms() + FREEZE_TIMEOUT_MS;

	snprintf(path, sizeof(path), DIR_CGROUP "/distro/%s/cgroup.events", d->params.name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLPRI };
		int64_t left = end - wslx_now_ms();
		ssize_t n = pread(fd, buf, sizeof(buf) - 1, 0);

		if (n < 0)
			return -errno;
		buf[n] = 0;
		if (strstr(buf, "frozen 1"))
			return 0;
		if (left <= 0)
			return -ETIMEDOUT;
		/* kernfs reports changes as POLLPRI. */
		if (poll(&p, 1, (int)left) < 0 && errno != EINTR)
			return -errno;
	}
}

static void thaw_processes(const struct machine *m)
{
	for (struct distro *d = m->distros; d; d = d->next)
		(void)freezer(d, false);
}

static void thaw(const struct machine *m)
{
	for (struct distro *d = m->distros; d; d = d->next) {
		if (d->root_fd >= 0)
			(void)ioctl(d->root_fd, FITHAW, 0);
		(void)freezer(d, false);
	}
}

static int freeze_work(void *opaque, char *text, size_t size)
{
	const struct machine *m = opaque;
	int r = 0;

	for (struct distro *d = m->distros; d && r == 0; d = d->next)
		r = freezer(d, true);
	for (struct distro *d = m->distros; d && r == 0; d = d->next) {
		r = await_frozen(d);
		if (r < 0)
			snprintf(text, size, "the processes of '%s' cannot be frozen: %s", d->params.name,
				 strerror(-r));
	}
	if (r == 0)
		sync();
	for (struct distro *d = m->distros; d && r == 0; d = d->next) {
		/* An overlay on a read-only disk has nothing to freeze. */
		if (d->root_fd >= 0 && ioctl(d->root_fd, FIFREEZE, 0) < 0 && errno != EOPNOTSUPP && errno != EBUSY)
			r = -errno;
	}
	if (r < 0) {
		thaw(m);
		if (!*text)
			snprintf(text, size, "the distros cannot be frozen: %s", strerror(-r));
	}
	return -r;
}

static int thaw_work(void *opaque, char *text, size_t size)
{
	thaw(opaque);
	return 0;
}

struct freeze {
	struct machine *m;
	struct wslx_guest_call call;
	bool answered;
	pid_t pid;
};

static void on_thawed(void *opaque, int code, const char *text)
{
	struct freeze *f = opaque;

	f->m->thaws--;
	if (!f->answered && code)
		wslx_guest_reply_error(f->m->guest, &f->call, code, "thawing was interrupted");
	else if (!f->answered)
		wslx_guest_reply_ok(f->m->guest, &f->call);
	free(f);
}

/* In a child, as it may wait for I/O.  call: NULL = nobody asks. */
static int start_thaw(struct machine *m, const struct wslx_guest_call *call)
{
	struct freeze *f = calloc(1, sizeof(*f));
	pid_t pid;

	if (!f)
		return -ENOMEM;
	*f = (struct freeze) { .m = m, .answered = !call };
	if (call)
		f->call = *call;
	pid = wslx_guest_work(m->guest, thaw_work, m, on_thawed, f);
	if (pid < 0) {
		free(f);
		return pid;
	}
	m->paused = false;
	m->thaws++;
	return 0;
}

static void on_frozen(void *opaque, int code, const char *text)
{
	struct freeze *f = opaque;
	struct machine *m = f->m;

	m->freeze = NULL;
	if (f->answered) { /* by cancel() */
		if (start_thaw(m, NULL) < 0)
			thaw(m);
	} else if (code) {
		m->paused = false; /* while it worked, requests saw the machine as paused */
		wslx_guest_reply_error(m->guest, &f->call, code, "%s", text);
	} else {
		wslx_guest_reply_ok(m->guest, &f->call);
	}
	free(f);
}

static void cancel(struct machine *m)
{
	struct freeze *f = m->freeze;

	m->paused = false;
	thaw_processes(m);
	if (f->answered)
		return;
	f->answered = true;
	(void)kill(f->pid, SIGKILL);
	wslx_guest_reply_error(m->guest, &f->call, ECANCELED, "the pause was cancelled");
}

static void start_freeze(struct machine *m, const struct wslx_guest_call *call)
{
	struct freeze *f = calloc(1, sizeof(*f));

	if (f) {
		*f = (struct freeze) { .m = m, .call = *call };
		f->pid = wslx_guest_work(m->guest, freeze_work, m, on_frozen, f);
		if (f->pid > 0) {
			m->freeze = f;
			m->paused = true;
			return;
		}
		free(f);
	}
	wslx_guest_reply_error(m->guest, call, ENOMEM, "out of memory");
}

static void resume(struct machine *m, const struct wslx_guest_call *call)
{
	if (m->freeze)
		cancel(m);
	/* The end of the machine thawed everything. */
	if (m->freeze || m->ending)
		wslx_guest_reply_ok(m->guest, call);
	else if (start_thaw(m, call) < 0)
		wslx_guest_reply_error(m->guest, call, ENOMEM, "out of memory");
}

static void pause_(struct machine *m, const struct wslx_guest_call *call)
{
	for (struct distro *d = m->distros; d; d = d->next) {
		if (d->state == DISTRO_RUNNING)
			continue;
		wslx_guest_reply_error(m->guest, call, EAGAIN, "'%s' is being started or stopped", d->params.name);
		return;
	}
	if (m->ending || m->paused)
		wslx_guest_reply_error(m->guest, call, EALREADY, "the machine is %s",
				       m->ending ? "shutting down" : "paused already");
	else if (m->freeze || m->thaws)
		wslx_guest_reply_error(m->guest, call, EAGAIN, "the end of an earlier pause is not through");
	else
		start_freeze(m, call);
}

void freeze_request(struct machine *m, const struct wslx_guest_call *call, bool on)
{
	if (on)
		pause_(m, call);
	else
		resume(m, call);
}

void freeze_thaw_now(struct machine *m)
{
	if (m->freeze) {
		cancel(m);
		return;
	}
	thaw_processes(m);
	if (start_thaw(m, NULL) < 0)
		thaw(m);
}
