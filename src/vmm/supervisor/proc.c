#include "vmm/supervisor/proc.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"

struct wslx_proc {
	pid_t pid;
	int pidfd; /* -1: reaped */
	struct wslx_watch *watch;
	wslx_proc_exit_fn fn;
	void *opaque;
};

static void forget(struct wslx_proc *p)
{
	wslx_watch_free(p->watch);
	p->watch = NULL;
	wslx_close(&p->pidfd);
}

static void on_exit_event(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_proc *p = opaque;
	struct wslx_exit_status st = { .signal = SIGKILL };
	int r = wslx_reap(p->pidfd, &st);

	if (r < 0)
		log_warn("cannot reap process %d: %s", (int)p->pid, strerror(-r));
	forget(p);
	p->fn(p, &st, p->opaque);
}

int wslx_proc_start(struct wslx_loop *loop, const struct wslx_spawn *spawn, wslx_proc_exit_fn fn, void *opaque,
		    struct wslx_proc **ret, struct wslx_err *err)
{
	struct wslx_proc *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return wslx_err_sys(err, ENOMEM, "cannot start %s", spawn->path);
	p->pidfd = -1;
	p->fn = fn;
	p->opaque = opaque;
	r = wslx_spawn(spawn, &p->pid, &p->pidfd, err);
	if (r == 0) {
		r = wslx_loop_watch(loop, p->pidfd, EPOLLIN, on_exit_event, p, &p->watch);
		if (r < 0)
			wslx_err_sys(err, -r, "cannot watch %s", spawn->path);
	}
	if (r < 0) {
		wslx_proc_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

pid_t wslx_proc_pid(const struct wslx_proc *p)
{
	return p->pid;
}

void wslx_proc_kill(struct wslx_proc *p, int signo)
{
	if (p && p->pidfd >= 0)
		wslx_pidfd_kill(p->pidfd, signo);
}

void wslx_proc_free(struct wslx_proc *p)
{
	struct wslx_exit_status st;

	if (!p)
		return;
	if (p->pidfd >= 0) {
		wslx_pidfd_kill(p->pidfd, SIGKILL);
		(void)!wslx_reap(p->pidfd, &st);
	}
	forget(p);
	free(p);
}

void wslx_proc_describe(const struct wslx_exit_status *st, char *buf, size_t size)
{
	if (st->signal)
		snprintf(buf, size, "was killed by signal %d (%s)", st->signal, strsignal(st->signal));
	else
		snprintf(buf, size, "ended with status %d", st->status);
}
