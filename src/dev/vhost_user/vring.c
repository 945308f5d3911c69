/*
 * Rings of the vhost-user server: when they run, and the descriptors they
 * signal through.
 *
 * A ring runs once features, memory, size, addresses and a kick descriptor are
 * there and, with protocol features, it was enabled; GET_VRING_BASE or a
 * disable stops it.  The device is activated with the first ring; rings that
 * come later are announced by a kick.
 *
 * Stop and restart.  A front end stops all rings when its guest is paused as
 * well as when it is reset, and says nothing about which.  It gives the ring
 * positions back when it starts them again: if they are where we stopped, the
 * same driver goes on and the device is resumed with all its state; if not,
 * there is a new driver and the device is reset first.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "dev/vhost_user/server_internal.h"
#include "os/linux/fd.h"

static void signal_fd(int fd)
{
	static const uint64_t one = 1;

	/* EAGAIN: the counter is full, so the other side will look anyway. */
	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
		log_debug("vhost-user: a signal was not taken");
}

static void vhu_interrupt(void *transport, unsigned q)
{
	struct wslx_vhost_user *s = transport;

	signal_fd(s->vring[q].call_fd);
}

static void vhu_config_changed(void *transport)
{
	struct wslx_vhost_user *s = transport;

	if (s->backend_req_fd >= 0 && wslx_vhu_msg_send(s->backend_req_fd, VHU_BACKEND_CONFIG_CHANGE, 0, NULL, 0) < 0)
		log_debug("%s: the front end did not take a configuration change", s->d->name);
}

/* There is no "needs reset" in this protocol; the error descriptors come closest. */
static void vhu_needs_reset(void *transport)
{
	struct wslx_vhost_user *s = transport;

	for (unsigned i = 0; i < s->d->n_queues; i++)
		signal_fd(s->vring[i].err_fd);
}

const struct wslx_transport_ops wslx_vhu_transport_ops = {
	.interrupt = vhu_interrupt,
	.config_changed = vhu_config_changed,
	.needs_reset = vhu_needs_reset,
};

void wslx_vhu_vrings_init(struct wslx_vhost_user *s)
{
	for (unsigned i = 0; i < WSLX_VDEV_MAX_QUEUES; i++) {
		s->vring[i] = (struct vhu_vring) {
			.server = s,
			.index = i,
			.kick_fd = -1,
			.call_fd = -1,
			.err_fd = -1,
		};
	}
}

static unsigned n_running(const struct wslx_vhost_user *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < s->d->n_queues; i++)
		n += s->vring[i].running;
	return n;
}

static void quiesce(struct wslx_vhost_user *s)
{
	if (s->d->active && !s->quiesced) {
		s->d->ops->quiesce(s->d);
		s->quiesced = true;
	}
}

static void resume(struct wslx_vhost_user *s)
{
	if (s->d->active && s->quiesced) {
		s->quiesced = false;
		s->d->ops->resume(s->d);
	}
}

static void reset_device(struct wslx_vhost_user *s)
{
	if (s->d->active)
		s->d->ops->reset(s->d);
	s->d->active = s->d->broken = false;
	s->quiesced = false;
}

/* The device must be quiesced, or about to be reset. */
static void halt_ring(struct vhu_vring *v)
{
	struct wslx_vq *vq = &v->server->d->vq[v->index];

	v->base = v->stopped_at = vq->last_avail;
	wslx_vq_disable(vq);
	v->running = false;
}

static int enable_vq(struct vhu_vring *v)
{
	struct wslx_vhost_user *s = v->server;
	struct wslx_vq *vq = &s->d->vq[v->index];
	struct wslx_gpa desc, avail, used;
	int r;

	r = wslx_vhu_translate(s, v->desc_uva, &desc);
	if (r == 0)
		r = wslx_vhu_translate(s, v->avail_uva, &avail);
	if (r == 0)
		r = wslx_vhu_translate(s, v->used_uva, &used);
	if (r == 0)
		r = wslx_vq_enable(vq, s->gm, v->num, desc, avail, used, s->features & WSLX_VIRTIO_F_EVENT_IDX);
	if (r < 0)
		return r;
	vq->last_avail = v->base;
	/* Only the driver's side travels in messages; ours is in the ring. */
	vq->used_idx = wslx_get_le16((uint8_t *)vq->used_hva + 2);
	v->running = true;
	return 0;
}

static void drain_kick(int fd)
{
	uint64_t n;

	if (read(fd, &n, sizeof(n)) < 0)
		(void)0; /* nothing there */
}

static void on_kick(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct vhu_vring *v = opaque;

	drain_kick(fd);
	if (v->running && v->server->d->active)
		v->server->d->ops->kick(v->server->d, v->index);
	if (events & (EPOLLHUP | EPOLLERR)) {
		/* Not an eventfd, and its other end is gone. */
		wslx_watch_free(v->kick_watch);
		v->kick_watch = NULL;
	}
}

/* Requests may have been added, and their kicks lost, before the ring ran. */
static void kick_running(struct wslx_vhost_user *s)
{
	for (unsigned i = 0; i < s->d->n_queues; i++) {
		if (s->vring[i].running)
			s->d->ops->kick(s->d, i);
	}
}

static int activate(struct wslx_vhost_user *s)
{
	int r;

	reset_device(s);
	s->d->acked = s->features & ~VHU_F_PROTOCOL_FEATURES;
	s->active_features = s->features;
	s->d->active = true;
	r = s->d->ops->activate(s->d);
	if (r < 0)
		s->d->active = false;
	return r;
}

static int start_ring(struct vhu_vring *v)
{
	struct wslx_vhost_user *s = v->server;
	bool same = s->d->active && !s->d->broken && s->features == s->active_features &&
		    (v->any_base || v->base == v->stopped_at);
	int r;

	quiesce(s);
	r = enable_vq(v);
	if (r < 0)
		return r;
	log_debug("%s: ring %u starts at %u (%s)", s->d->name, v->index, v->base, same ? "resumed" : "fresh");
	if (same) {
		resume(s);
	} else {
		r = activate(s);
		if (r < 0)
			return r;
	}
	for (unsigned i = 0; !same && i < s->d->n_queues; i++)
		s->vring[i].any_base = !s->vring[i].running;
	v->any_base = false;
	kick_running(s);
	return 0;
}

int wslx_vhu_vring_update(struct vhu_vring *v)
{
	struct wslx_vhost_user *s = v->server;
	bool want = s->features_set && s->n_regions && v->num && v->have_addr && v->kick_fd >= 0 &&
		    (v->enabled || !(s->features & VHU_F_PROTOCOL_FEATURES));

	if (want && !v->running)
		return start_ring(v);
	if (!want)
		wslx_vhu_vring_stop(v);
	return 0;
}

void wslx_vhu_vring_stop(struct vhu_vring *v)
{
	struct wslx_vhost_user *s = v->server;

	if (!v->running)
		return;
	quiesce(s);
	halt_ring(v);
	log_debug("%s: ring %u stops at %u", s->d->name, v->index, v->base);
	if (n_running(s))
		resume(s);
}

void wslx_vhu_vrings_pause(struct wslx_vhost_user *s, uint32_t *ret_mask)
{
	*ret_mask = 0;
	quiesce(s);
	for (unsigned i = 0; i < s->d->n_queues; i++) {
		if (s->vring[i].running) {
			*ret_mask |= 1u << i;
			halt_ring(&s->vring[i]);
		}
	}
}

int wslx_vhu_vrings_continue(struct wslx_vhost_user *s, uint32_t mask)
{
	for (unsigned i = 0; i < s->d->n_queues; i++) {
		int r = mask & 1u << i ? enable_vq(&s->vring[i]) : 0;

		if (r < 0)
			return r;
	}
	if (!mask)
		return 0;
	if (s->d->active) {
		resume(s);
	} else {
		int r = activate(s);

		if (r < 0)
			return r;
	}
	kick_running(s);
	return 0;
}

void wslx_vhu_device_reset(struct wslx_vhost_user *s)
{
	reset_device(s);
	for (unsigned i = 0; i < s->d->n_queues; i++) {
		if (s->vring[i].running)
			halt_ring(&s->vring[i]);
	}
}

int wslx_vhu_vring_set_kick(struct vhu_vring *v, int fd)
{
	int r;

	wslx_watch_free(v->kick_watch);
	v->kick_watch = NULL;
	wslx_close(&v->kick_fd);
	if (fd < 0)
		return 0;
	v->kick_fd = fd;
	r = wslx_fd_nonblock(fd, 1);
	if (r < 0)
		return r;
	return wslx_loop_watch(v->server->d->loop, fd, EPOLLIN, on_kick, v, &v->kick_watch);
}

void wslx_vhu_vring_close(struct vhu_vring *v)
{
	wslx_watch_free(v->kick_watch);
	v->kick_watch = NULL;
	wslx_close(&v->kick_fd);
	wslx_close(&v->call_fd);
	wslx_close(&v->err_fd);
}
