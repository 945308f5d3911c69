/*
 * Mappings of Portal's window in the processes that hold the guest's memory:
 * the child, and on the tcg engine QEMU, where the preloaded library
 * (qemu_window.c) speaks the same messages on a socket of its own.
 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/fd.h"
#include "vmm/supervisor/run_internal.h"

static int error_of(uint64_t a)
{
	return !a ? 0 : a < 4096 ? -(int)a : -EIO;
}

/* One of those that were asked has answered. */
static void answered(struct window_job *j, int err)
{
	struct window_job done;

	if (err < 0 && !j->err)
		j->err = err;
	if (--j->waiting)
		return;
	done = *j;
	*j = (struct window_job) { 0 };
	done.fn(done.opaque, done.err);
}

static void on_child_mapped(void *opaque, int err, uint64_t a, const char *text)
{
	answered(opaque, err < 0 ? err : error_of(a));
}

static void qemu_lost(struct wslx_run *r, int err)
{
	wslx_watch_free(r->window.watch);
	r->window.watch = NULL;
	wslx_close(&r->window.fd);
	for (size_t i = 0; i < MAX_WINDOW_JOBS; i++) {
		struct window_job *j = &r->window.jobs[i];

		if (j->waiting && j->qemu_id) {
			j->qemu_id = 0;
			answered(j, err);
		}
	}
}

static void on_qemu(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_run *r = opaque;
	struct wslx_link_msg m;
	int e = wslx_link_recv(fd, &m);

	if (e == -EAGAIN || e == -EINTR)
		return;
	if (e == 1 && m.type == WSLX_LINK_WINDOW_MAPPED && m.id) {
		for (size_t i = 0; i < MAX_WINDOW_JOBS; i++) {
			if (r->window.jobs[i].qemu_id != m.id)
				continue;
			r->window.jobs[i].qemu_id = 0;
			answered(&r->window.jobs[i], error_of(m.a));
			return;
		}
	}
	/* Its end, of which its exit says more; or nonsense, and then it has to go. */
	if (e == 1) {
		wslx_close(&m.fd);
		log_error("QEMU answers a question about Portal's window that was not asked");
		wslx_run_kill(r);
	}
	qemu_lost(r, -ECONNRESET);
}

int wslx_run_window_watch(struct wslx_run *r)
{
	int e;

	if (r->window.fd < 0)
		return 0;
	e = wslx_fd_nonblock(r->window.fd, 1);
	return e < 0 ? e : wslx_loop_watch(r->p.loop, r->window.fd, EPOLLIN, on_qemu, r, &r->window.watch);
}

void wslx_run_window_close(struct wslx_run *r)
{
	qemu_lost(r, -ECONNRESET);
}

static int ask_qemu(struct wslx_run *r, struct window_job *j, struct wslx_link_msg *m)
{
	int e;

	if (++r->window.next_id == 0)
		r->window.next_id = 1;
	m->id = r->window.next_id;
	e = wslx_run_ask(r->window.fd, m);
	if (e < 0)
		return e;
	j->qemu_id = m->id;
	j->waiting++;
	return 0;
}

int wslx_run_window_map(struct wslx_run *r, const struct wslx_vmportal_map *map, wslx_vmportal_mapped_fn fn,
			void *opaque)
{
	struct wslx_link_msg m = {
		.type = WSLX_LINK_WINDOW_MAP,
		.a = map->first | (uint64_t)map->segments << 32,
		.b = map->kind,
		.fd = map->fd,
	};
	struct window_job *j = r->window.jobs;
	int e;

	while (j < r->window.jobs + MAX_WINDOW_JOBS && j->waiting)
		j++;
	if (j == r->window.jobs + MAX_WINDOW_JOBS)
		return -EBUSY;
	*j = (struct window_job) { .fn = fn, .opaque = opaque };
	e = wslx_run_request_msg(r, &m, WSLX_LINK_WINDOW_MAPPED, on_child_mapped, j);
	if (e < 0)
		return e;
	j->waiting++;
	/* If this one cannot be asked the answer of the other is waited for, and tells of it. */
	if (r->qemu) {
		e = ask_qemu(r, j, &m);
		j->err = e < 0 ? e : 0;
	}
	return 0;
}
