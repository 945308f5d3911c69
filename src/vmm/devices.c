/*
 * The device server of the tcg engine: `wslx-vmm --child=devices`.
 *
 * Theory of operation.  Each disk and the vsock device is a "unit": a device
 * model, a vhost-user server for the socket that QEMU holds the other end of,
 * and a loop with a thread of its own, so a slow disk delays nobody else.  The
 * main thread serves the link to the supervisor.  Everything is opened and
 * every thread made before the sandbox is entered; the unit threads wait for
 * that and only then look at their sockets.
 *
 * End.  When QEMU goes away all vhost-user connections close: the process
 * flushes and ends with status 0, as it does for STOP or when the supervisor
 * is gone.  A malformed vhost-user message ends it with FAILED and status 1.
 *
 * Threads: a unit's members belong to its thread while that runs.  The main
 * thread reaches them with wslx_loop_call, never the other way round.  The link
 * is written by the main thread and the units'; a packet is one system call, so
 * they need no lock.
 *
 * Trust boundary: QEMU, which runs a hostile guest (dev/vhost_user/server.c),
 * and the guest itself (the device models).
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "dev/backend/block.h"
#include "dev/backend/overlay.h"
#include "dev/backend/ring_probe.h"
#include "dev/vhost_user/server.h"
#include "dev/virtio/blk.h"
#include "dev/virtio/vsock.h"
#include "os/linux/fd.h"
#include "os/linux/sandbox.h"
#include "os/linux/startup.h"
#include "vmm/child.h"
#include "vmm/link.h"
#include "vmm/window.h"

#define MAX_STATS 32
#define LAST_WORDS_MS 1000

struct server;

struct unit {
	struct server *server;
	char name[32];
	struct wslx_loop *loop;
	struct wslx_vdev *vdev;
	struct wslx_vhost_user *vhost;
	pthread_t thread;
	bool has_thread;
	sem_t go; /* posted once the process is confined */
};

struct server {
	struct wslx_child_params *params;
	struct wslx_loop *loop;
	struct wslx_watch *link_watch;
	struct unit *units;
	size_t n_units;
	struct unit *vsock;
	struct wslx_ring_probe *ring_probe; /* test hook; NULL = none */
	struct wslx_window window;          /* Portal's, for disks' requests from and to it */
	uint64_t start_ns;
	atomic_uint n_open; /* vhost-user connections */
	atomic_int error;   /* first of a connection, -errno */
	_Atomic(struct unit *) culprit;
	bool paused;
};

static int report(struct server *s, uint32_t type, uint32_t id, uint64_t a, uint64_t b, const char *text)
{
	struct wslx_link_msg m = { .type = type, .id = id, .a = a, .b = b, .fd = -1 };

	if (text) {
		m.text_len = strnlen(text, WSLX_LINK_TEXT_MAX);
		memcpy(m.text, text, m.text_len);
	}
	return wslx_link_send(s->params->link_fd, &m);
}

/* ---- units ------------------------------------------------------------ */

/* On a unit's thread: QEMU closed the connection, or broke the protocol. */
static void on_closed(void *opaque, int err)
{
	struct unit *u = opaque;
	struct server *s = u->server;
	int none = 0;

	if (err < 0 && atomic_compare_exchange_strong(&s->error, &none, err))
		atomic_store(&s->culprit, u);
	if (atomic_fetch_sub(&s->n_open, 1) == 1 || err < 0)
		wslx_loop_stop(s->loop, 0);
}

/* On the vsock unit's thread.  A supervisor too busy to read refuses. */
static void on_connect_request(void *opaque, uint32_t id, uint32_t port)
{
	struct server *s = opaque;

	if (report(s, WSLX_LINK_CONNECT, id, port, 0, NULL) < 0)
		wslx_vsock_connect_done(s->vsock->vdev, id, -1);
}

static int open_backend(struct server *s, const struct wslx_child_disk *disk, struct wslx_loop *loop,
			struct wslx_block **ret, struct wslx_err *err)
{
	int r;

	if (disk->format == WSLX_DISK_OVERLAY) {
		const struct wslx_overlay_params p = {
			.loop = loop,
			.fd = disk->fd,
			.base_fd = disk->base_fd,
			.readonly = disk->readonly,
			.no_io_uring = s->params->no_io_uring,
			.no_sync = disk->no_sync,
		};

		return wslx_overlay_open(&p, ret, err);
	}
	r = wslx_raw_open(
		&(struct wslx_raw_params) {
			.loop = loop,
			.fd = disk->fd,
			.readonly = disk->readonly,
			.no_io_uring = s->params->no_io_uring,
			.no_sync = disk->no_sync,
		},
		ret);
	return r < 0 ? wslx_err_sys(err, -r, "cannot use it as a raw image") : 0;
}

/* On the disk's thread.  A supervisor too busy to read does not hear of it. */
static void on_host_full(void *opaque, bool full)
{
	struct unit *u = opaque;

	if (report(u->server, WSLX_LINK_HOST_FULL, (uint32_t)(u - u->server->units), full, 0, NULL) < 0)
		log_debug("%s: a change of the host's disk was not reported", u->name);
}

static int make_disk(struct server *s, struct unit *u, size_t i, struct wslx_err *err)
{
	const struct wslx_child_disk *disk = &s->params->disks[i];
	struct wslx_block *backend = NULL;
	int r = open_backend(s, disk, u->loop, &backend, err);

	if (r < 0) {
		wslx_err_prefix(err, "disk %zu (%s)", i, disk->serial);
		return r;
	}
	backend->host_full = on_host_full;
	backend->host_full_opaque = u;
	r = wslx_blk_new(
		&(struct wslx_blk_params) {
			.loop = u->loop,
			.name = u->name,
			.backend = backend,
			.serial = disk->serial,
			.readonly = disk->readonly,
			.queues = WSLX_MIN(disk->queues, WSLX_BLK_MAX_QUEUES),
		},
		&u->vdev);
	if (r < 0) {
		wslx_block_free(backend);
		return wslx_err_sys(err, -r, "cannot make disk %zu", i);
	}
	return 0;
}

static int make_vsock(struct server *s, struct unit *u, struct wslx_err *err)
{
	int r = wslx_vsock_new(
		&(struct wslx_vsock_params) {
			.loop = u->loop,
			.name = u->name,
			.guest_cid = s->params->guest_cid,
			.listen_fd = s->params->vsock_fd,
			.connect_request = on_connect_request,
			.opaque = s,
		},
		&u->vdev);

	return r < 0 ? wslx_err_sys(err, -r, "cannot make the vsock device") : 0;
}

/* disk: -1 = vsock. */
static int add_unit(struct server *s, ssize_t disk, struct wslx_err *err)
{
	struct unit *u = &s->units[s->n_units];
	int r = wslx_loop_new(&u->loop);

	if (r < 0)
		return wslx_err_sys(err, -r, "cannot make an event loop");
	u->server = s;
	sem_init(&u->go, 0, 0);
	s->n_units++;
	if (disk < 0) {
		s->vsock = u;
		snprintf(u->name, sizeof(u->name), "vsock");
		r = make_vsock(s, u, err);
	} else {
		snprintf(u->name, sizeof(u->name), "blk%zd", disk);
		r = make_disk(s, u, (size_t)disk, err);
	}
	if (r < 0)
		return r;
	r = wslx_vhost_user_new(
		&(struct wslx_vhost_user_params) {
			.vdev = u->vdev,
			.fd = disk < 0 ? s->params->vsock_vhost_fd : s->params->disks[disk].vhost_fd,
			.window = { s->window.host, s->window.size, s->params->window_fd },
			.closed = on_closed,
			.opaque = u,
		},
		&u->vhost);
	if (r < 0)
		return wslx_err_sys(err, -r, "%s: vhost-user socket", u->name);
	atomic_fetch_add(&s->n_open, 1);
	return 0;
}

static void *unit_thread(void *opaque)
{
	struct unit *u = opaque;
	int r;

	prctl(PR_SET_NAME, u->name);
	while (sem_wait(&u->go) < 0)
		;
	r = wslx_loop_run(u->loop);
	if (r < 0)
		log_error("%s: event loop: %s", u->name, strerror(-r));
	return NULL;
}

static int start_threads(struct server *s, struct wslx_err *err)
{
	for (size_t i = 0; i < s->n_units; i++) {
		struct unit *u = &s->units[i];
		int r = pthread_create(&u->thread, NULL, unit_thread, u);

		if (r)
			return wslx_err_sys(err, r, "%s: cannot start a thread", u->name);
		u->has_thread = true;
	}
	return 0;
}

static void mark_running(void *opaque)
{
	sem_post(opaque);
}

/* Returns once all loops run: from then on wslx_loop_call goes through them. */
static int release_threads(struct server *s, struct wslx_err *err)
{
	sem_t running;
	size_t posted = 0;
	int r = 0;

	sem_init(&running, 0, 0);
	for (size_t i = 0; i < s->n_units && r == 0; i++) {
		r = wslx_loop_post(s->units[i].loop, mark_running, &running);
		posted += r == 0;
	}
	for (size_t i = 0; i < s->n_units; i++)
		sem_post(&s->units[i].go);
	while (posted) {
		if (sem_wait(&running) == 0)
			posted--;
	}
	sem_destroy(&running);
	return r < 0 ? wslx_err_sys(err, -r, "cannot start the event loops") : 0;
}

/* What the guest's last writes reached is made to last, even if it never asked. */
static void sync_disks(const struct wslx_child_params *p)
{
	for (size_t i = 0; i < p->n_disks; i++)
		if (!p->disks[i].readonly && !p->disks[i].no_sync && fdatasync(p->disks[i].fd) < 0)
			log_error("disk %zu: cannot sync: %s", i, strerror(errno));
}

static void stop_threads(struct server *s)
{
	for (size_t i = 0; i < s->n_units; i++) {
		struct unit *u = &s->units[i];

		if (u->has_thread) {
			sem_post(&u->go); /* it may not have been released yet */
			wslx_loop_stop(u->loop, 0);
			pthread_join(u->thread, NULL);
		}
	}
}

static void teardown(struct server *s)
{
	stop_threads(s);
	if (s->n_units)
		sync_disks(s->params); /* while their descriptors are open */
	for (size_t i = 0; i < s->n_units; i++) {
		struct unit *u = &s->units[i];

		wslx_vhost_user_free(u->vhost);
		if (u->vdev)
			u->vdev->ops->free(u->vdev);
		wslx_loop_free(u->loop);
		sem_destroy(&u->go);
	}
	s->n_units = 0;
	free(s->units);
	wslx_ring_probe_free(s->ring_probe);
	wslx_window_close(&s->window);
	wslx_loop_free(s->loop);
}

/* ---- link ------------------------------------------------------------- */

static void quiesce_one(void *opaque)
{
	struct wslx_vdev *d = opaque;

	d->ops->quiesce(d);
}

static void resume_one(void *opaque)
{
	struct wslx_vdev *d = opaque;

	d->ops->resume(d);
}

static void pause_all(struct server *s, bool on)
{
	if (s->paused == on)
		return;
	s->paused = on;
	for (size_t i = 0; i < s->n_units; i++)
		wslx_loop_call(s->units[i].loop, on ? quiesce_one : resume_one, s->units[i].vdev);
}

struct stats_call {
	struct wslx_vdev *d;
	struct wslx_stat stats[MAX_STATS];
	size_t n;
};

static void stats_one(void *opaque)
{
	struct stats_call *c = opaque;

	c->n = c->d->ops->stats ? c->d->ops->stats(c->d, c->stats, MAX_STATS) : 0;
}

static void on_window_map(struct server *s, const struct wslx_link_msg *m)
{
	int r = wslx_window_apply(&s->window, m);

	if (r < 0)
		log_error("Portal's window: %s", strerror(-r));
	(void)!report(s, WSLX_LINK_WINDOW_MAPPED, m->id, (uint64_t)-r, 0, NULL);
}

static void on_stats(struct server *s, uint32_t id)
{
	char text[WSLX_LINK_TEXT_MAX + 1];
	size_t n = 0;

	text[0] = '\0';
	for (size_t i = 0; i < s->n_units; i++) {
		struct stats_call c = { .d = s->units[i].vdev };

		wslx_loop_call(s->units[i].loop, stats_one, &c);
		for (size_t k = 0; k < c.n; k++) {
			int r = snprintf(text + n, sizeof(text) - n, "%s.%s %llu\n", s->units[i].name, c.stats[k].name,
					 (unsigned long long)c.stats[k].value);

			if (r < 0 || (size_t)r >= sizeof(text) - n) {
				text[n] = '\0'; /* whole lines only */
				break;
			}
			n += (size_t)r;
		}
	}
	if (report(s, WSLX_LINK_STATS_REPLY, id, 0, 0, text) < 0)
		log_debug("statistics not sent");
}

/* PAUSED replies: b is 0, or an errno value when the request was refused. */
static void on_test_confinement(struct server *s, uint32_t id)
{
	uint64_t leaks;

	if (!s->params->test_hooks) {
		(void)!report(s, WSLX_LINK_PAUSED, id, 0, EPERM, NULL);
		return;
	}
	leaks = wslx_sandbox_test();
	if (s->ring_probe && wslx_ring_probe_leaks(s->ring_probe))
		leaks |= WSLX_SANDBOX_LEAK_RING;
	(void)!report(s, WSLX_LINK_PAUSED, id, leaks, 0, NULL);
}

static void on_message(struct server *s, struct wslx_link_msg *m)
{
	switch (m->type) {
	case WSLX_LINK_CONNECT_OK:
		if (s->vsock)
			wslx_vsock_connect_done(s->vsock->vdev, m->id, TAKE_FD(m->fd));
		break;
	case WSLX_LINK_CONNECT_REFUSED:
		if (s->vsock)
			wslx_vsock_connect_done(s->vsock->vdev, m->id, -1);
		break;
	case WSLX_LINK_PAUSE:
	case WSLX_LINK_RESUME:
		pause_all(s, m->type == WSLX_LINK_PAUSE);
		(void)!report(s, WSLX_LINK_PAUSED, m->id, 0, 0, NULL);
		break;
	case WSLX_LINK_STATS:
		on_stats(s, m->id);
		break;
	case WSLX_LINK_WINDOW_MAP:
		on_window_map(s, m);
		break;
	case WSLX_LINK_STOP:
		wslx_loop_stop(s->loop, 0);
		break;
	case WSLX_LINK_TEST_CONFINEMENT:
		on_test_confinement(s, m->id);
		break;
	default:
		log_warn("unknown message %u from the supervisor", m->type);
		break;
	}
	wslx_close(&m->fd);
}

static void on_link(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct server *s = opaque;
	struct wslx_link_msg m;
	int r = wslx_link_recv(fd, &m);

	if (r == -EAGAIN)
		return;
	if (r == 1) {
		on_message(s, &m);
		return;
	}
	if (r < 0)
		log_error("link to the supervisor: %s", strerror(-r));
	/* It is gone, or speaks nonsense: nothing would ever end this process. */
	wslx_watch_free(s->link_watch);
	s->link_watch = NULL;
	wslx_loop_stop(s->loop, 0);
}

/* The supervisor may be slow to read the last message, but not for ever. */
static void report_failure(struct server *s, const char *text)
{
	int64_t end = wslx_now_ms() + LAST_WORDS_MS;

	log_error("%s", text);
	while (report(s, WSLX_LINK_FAILED, 0, 0, 0, text) == -EAGAIN) {
		struct pollfd p = { .fd = s->params->link_fd, .events = POLLOUT };
		int64_t left = end - wslx_now_ms();

		if (left <= 0 || poll(&p, 1, (int)left) <= 0)
			return;
	}
}

/* ---- start ------------------------------------------------------------ */

static int start(struct server *s, struct wslx_err *err)
{
	int r = wslx_sandbox_prepare(err);

	if (r < 0)
		return r;
	/* Each vsock connection is a descriptor. */
	(void)!wslx_startup_raise_fds(UINT_MAX);
	s->units = calloc(s->params->n_disks + 1, sizeof(*s->units));
	if (!s->units)
		return wslx_err_sys(err, ENOMEM, "devices");
	r = wslx_loop_new(&s->loop);
	if (r == 0)
		r = wslx_fd_nonblock(s->params->link_fd, 1);
	if (r == 0)
		r = wslx_loop_watch(s->loop, s->params->link_fd, EPOLLIN, on_link, s, &s->link_watch);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot watch the link to the supervisor");
	if (s->params->window) {
		r = wslx_window_open(s->params->window_fd, s->params->window, &s->window);
		if (r < 0)
			return wslx_err_sys(err, -r, "cannot map Portal's window");
	}
	for (size_t i = 0; i < s->params->n_disks && r == 0; i++)
		r = add_unit(s, (ssize_t)i, err);
	if (r == 0 && s->params->vsock_vhost_fd >= 0)
		r = add_unit(s, -1, err);
	if (r == 0 && !s->n_units)
		r = wslx_err_set(err, EINVAL, "no device to serve");
	if (r == 0 && s->params->test_hooks && !s->params->no_io_uring &&
	    wslx_ring_probe_new(s->loop, &s->ring_probe) < 0)
		log_debug("no io_uring to probe");
	if (r == 0)
		r = start_threads(s, err);
	if (r == 0)
		r = wslx_sandbox_enter(WSLX_SANDBOX_DEVICES, err);
	if (r == 0)
		r = release_threads(s, err);
	if (r == 0 && report(s, WSLX_LINK_READY, 0, wslx_now_ns() - s->start_ns, 0, NULL) < 0)
		r = wslx_err_set(err, EPIPE, "the supervisor is gone");
	return r;
}

int wslx_devices_main(struct wslx_child_params *p)
{
	struct server s = { .params = p, .start_ns = wslx_now_ns() };
	struct wslx_err err = { 0 };
	struct unit *culprit;
	int r;

	signal(SIGPIPE, SIG_IGN);
	r = start(&s, &err);
	if (r == 0) {
		r = wslx_loop_run(s.loop);
		if (r < 0)
			wslx_err_sys(&err, -r, "event loop");
	}
	culprit = atomic_load(&s.culprit);
	if (r == 0 && culprit)
		r = wslx_err_sys(&err, -atomic_load(&s.error), "%s: vhost-user connection", culprit->name);
	if (r < 0)
		report_failure(&s, err.msg);
	teardown(&s);
	return r < 0 ? 1 : 0;
}
