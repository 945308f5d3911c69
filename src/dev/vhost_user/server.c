/*
 * vhost-user back end: the connection and its messages.
 *
 * Theory of operation.  The server is the transport of one device and lives on
 * that device's loop: messages, kicks and the device's own work never run at
 * the same time, so a change of memory or rings needs no lock, only a
 * quiesced device (vring.c, memory.c).
 *
 * Trust boundary: the front end.  A message is received whole before anything
 * is believed; length, index, number of descriptors and state are checked; any
 * violation ends the connection, and with it the device, cleanly.  Answers are
 * sent without waiting, so a front end that does not read cannot block us.
 */
#include "dev/vhost_user/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "dev/vhost_user/server_internal.h"
#include "os/linux/fd.h"

#define PROTOCOL_FEATURES (VHU_PF_MQ | VHU_PF_REPLY_ACK | VHU_PF_BACKEND_REQ | VHU_PF_CONFIG | VHU_PF_RESET_DEVICE)

static uint64_t offered(struct wslx_vhost_user *s)
{
	return s->d->ops->features(s->d) | WSLX_VIRTIO_F_VERSION_1 | VHU_F_PROTOCOL_FEATURES;
}

static int reply(struct wslx_vhost_user *s, const struct vhu_msg *m, const void *payload, uint32_t size)
{
	return wslx_vhu_msg_send(s->fd, m->request, VHU_FLAG_REPLY, payload, size);
}

static int reply_u64(struct wslx_vhost_user *s, const struct vhu_msg *m, uint64_t v)
{
	uint8_t p[8];

	wslx_put_le64(p, v);
	return reply(s, m, p, sizeof(p));
}

static int get_u64(const struct vhu_msg *m, uint64_t *ret)
{
	if (m->size != 8)
		return -EPROTO;
	*ret = wslx_get_le64(m->payload);
	return 0;
}

/* {u32 index, u32 value} */
static int get_state(struct wslx_vhost_user *s, const struct vhu_msg *m, struct vhu_vring **ret_v, uint32_t *ret_num)
{
	uint32_t index;

	if (m->size != 8)
		return -EPROTO;
	index = wslx_get_le32(m->payload);
	if (index >= s->d->n_queues)
		return -EPROTO;
	*ret_v = &s->vring[index];
	*ret_num = wslx_get_le32(m->payload + 4);
	return 0;
}

static int set_features(struct wslx_vhost_user *s, const struct vhu_msg *m)
{
	uint64_t f;
	int r = get_u64(m, &f);

	if (r < 0)
		return r;
	if (f & ~offered(s)) {
		log_debug("%s: features that were not offered: %#llx", s->d->name,
			  (unsigned long long)(f & ~offered(s)));
		return -EPROTO;
	}
	if (s->features_set && f == s->features)
		return 0;
	for (unsigned i = 0; i < s->d->n_queues; i++) {
		if (s->vring[i].running)
			return -EPROTO;
	}
	s->features = f;
	s->features_set = true;
	return 0;
}

static int set_protocol_features(struct wslx_vhost_user *s, const struct vhu_msg *m)
{
	uint64_t f;
	int r = get_u64(m, &f);

	if (r < 0)
		return r;
	if (f & ~PROTOCOL_FEATURES)
		return -EPROTO;
	s->protocol = f;
	return 0;
}

static int set_vring_num(struct wslx_vhost_user *s, const struct vhu_msg *m)
{
	struct vhu_vring *v;
	uint32_t num;
	int r = get_state(s, m, &v, &num);

	if (r < 0)
		return r;
	if (v->running || !num || (num & (num - 1)) || num > WSLX_VQ_MAX_SIZE)
		return -EPROTO;
	v->num = (uint16_t)num;
	return 0;
}

/* u32 index, u32 flags (only dirty logging, which is not offered), then the
 * front end's addresses of descriptors, used ring, avail ring, and a log. */
static int set_vring_addr(struct wslx_vhost_user *s, const struct vhu_msg *m)
{
	struct vhu_vring *v;
	uint32_t index;

	if (m->size != 40)
		return -EPROTO;
	index = wslx_get_le32(m->payload);
	if (index >= s->d->n_queues || wslx_get_le32(m->payload + 4))
		return -EPROTO;
	v = &s->vring[index];
	if (v->running)
		return -EPROTO;
	v->desc_uva = wslx_get_le64(m->payload + 8);
	v->used_uva = wslx_get_le64(m->payload + 16);
	v->avail_uva = wslx_get_le64(m->payload + 24);
	v->have_addr = true;
	return wslx_vhu_vring_update(v);
}

static int set_vring_base(struct wslx_vhost_user *s, const struct vhu_msg *m)
{
	struct vhu_vring *v;
	uint32_t base;
	int r = get_state(s, m, &v, &base);

	if (r < 0)
		return r;
	if (v->running || base > UINT16_MAX)
		return -EPROTO;
	v->base = (uint16_t)base;
	return 0;
}

static int get_vring_base(struct wslx_vhost_user *s, const struct vhu_msg *m)
{
	struct vhu_vring *v;
	uint8_t p[8];
	uint32_t num;
	int r = get_state(s, m, &v, &num);

	if (r < 0)
		return r;
	wslx_vhu_vring_stop(v);
	/* The front end sets everything up anew before the next start. */
	r = wslx_vhu_vring_set_kick(v, -1);
	if (r < 0)
		return r;
	v->have_addr = false;
	v->enabled = false;
	wslx_put_le32(p, v->index);
	wslx_put_le32(p + 4, v->base);
	return reply(s, m, p, sizeof(p));
}

static int set_vring_enable(struct wslx_vhost_user *s, const struct vhu_msg *m)
{
	struct vhu_vring *v;
	uint32_t on;
	int r = get_state(s, m, &v, &on);

	if (r < 0)
		return r;
	/* QEMU's network front end sends it before it acknowledges any features. */
	if (on > 1)
		return -EPROTO;
	v->enabled = on;
	return wslx_vhu_vring_update(v);
}

static int set_vring_fd(struct wslx_vhost_user *s, struct vhu_msg *m)
{
	struct vhu_vring *v;
	uint64_t arg;
	int *slot, r = get_u64(m, &arg);
	cleanup_close int fd = -1;

	if (r < 0)
		return r;
	if ((arg & ~(uint64_t)(VHU_VRING_INDEX_MASK | VHU_VRING_NOFD)) ||
	    (arg & VHU_VRING_INDEX_MASK) >= s->d->n_queues || m->n_fds != (arg & VHU_VRING_NOFD ? 0 : 1))
		return -EPROTO;
	v = &s->vring[arg & VHU_VRING_INDEX_MASK];
	if (m->n_fds)
		fd = TAKE_FD(m->fds[0]);
	if (m->request == VHU_SET_VRING_KICK) {
		if (fd < 0)
			return -EOPNOTSUPP; /* polling of rings is not offered */
		r = wslx_vhu_vring_set_kick(v, TAKE_FD(fd));
		return r < 0 ? r : wslx_vhu_vring_update(v);
	}
	if (fd >= 0) {
		r = wslx_fd_nonblock(fd, 1);
		if (r < 0)
			return r;
	}
	slot = m->request == VHU_SET_VRING_CALL ? &v->call_fd : &v->err_fd;
	wslx_close(slot);
	*slot = TAKE_FD(fd);
	return 0;
}

/* u32 offset, u32 size, u32 flags, then the bytes. */
static int config_range(const struct vhu_msg *m, uint32_t *ret_off, uint32_t *ret_len)
{
	if (m->size < VHU_CONFIG_HDR_LEN)
		return -EPROTO;
	*ret_off = wslx_get_le32(m->payload);
	*ret_len = wslx_get_le32(m->payload + 4);
	if (*ret_off > VHU_CONFIG_MAX || *ret_len > VHU_CONFIG_MAX - *ret_off ||
	    m->size != VHU_CONFIG_HDR_LEN + *ret_len)
		return -EPROTO;
	return 0;
}

static int get_config(struct wslx_vhost_user *s, struct vhu_msg *m)
{
	uint32_t off, len;
	int r = config_range(m, &off, &len);

	if (r < 0)
		return r;
	/* Fields of later revisions that this device lacks read as zero. */
	memset(m->payload + VHU_CONFIG_HDR_LEN, 0, len);
	if (off < s->d->config_len)
		s->d->ops->config_read(s->d, off, m->payload + VHU_CONFIG_HDR_LEN,
				       WSLX_MIN(len, s->d->config_len - off));
	return reply(s, m, m->payload, m->size);
}

static int set_config(struct wslx_vhost_user *s, const struct vhu_msg *m)
{
	uint32_t off, len;
	int r = config_range(m, &off, &len);

	if (r < 0)
		return r;
	if (off > s->d->config_len || len > s->d->config_len - off)
		return -EPROTO;
	if (len && s->d->ops->config_write)
		s->d->ops->config_write(s->d, off, m->payload + VHU_CONFIG_HDR_LEN, len);
	return 0;
}

static int set_backend_req_fd(struct wslx_vhost_user *s, struct vhu_msg *m)
{
	int r;

	if (m->n_fds != 1)
		return -EPROTO;
	r = wslx_fd_nonblock(m->fds[0], 1);
	if (r < 0)
		return r;
	wslx_close(&s->backend_req_fd);
	s->backend_req_fd = TAKE_FD(m->fds[0]);
	return 0;
}

/* Requests that have an answer of their own.  1: it was one of them. */
static int handle_get(struct wslx_vhost_user *s, struct vhu_msg *m)
{
	int r;

	switch (m->request) {
	case VHU_GET_FEATURES:
		r = reply_u64(s, m, offered(s));
		break;
	case VHU_GET_PROTOCOL_FEATURES:
		r = reply_u64(s, m, PROTOCOL_FEATURES);
		break;
	case VHU_GET_QUEUE_NUM:
		r = reply_u64(s, m, s->d->n_queues);
		break;
	case VHU_GET_VRING_BASE:
		r = get_vring_base(s, m);
		break;
	case VHU_GET_CONFIG:
		r = get_config(s, m);
		break;
	default:
		return 0;
	}
	return r < 0 ? r : 1;
}

static int handle_set(struct wslx_vhost_user *s, struct vhu_msg *m)
{
	switch (m->request) {
	case VHU_SET_FEATURES:
		return set_features(s, m);
	case VHU_SET_PROTOCOL_FEATURES:
		return set_protocol_features(s, m);
	case VHU_SET_OWNER:
		return 0;
	case VHU_RESET_OWNER:
	case VHU_RESET_DEVICE:
		wslx_vhu_device_reset(s);
		return 0;
	case VHU_SET_MEM_TABLE:
		return wslx_vhu_set_mem_table(s, m);
	case VHU_SET_VRING_NUM:
		return set_vring_num(s, m);
	case VHU_SET_VRING_ADDR:
		return set_vring_addr(s, m);
	case VHU_SET_VRING_BASE:
		return set_vring_base(s, m);
	case VHU_SET_VRING_KICK:
	case VHU_SET_VRING_CALL:
	case VHU_SET_VRING_ERR:
		return set_vring_fd(s, m);
	case VHU_SET_VRING_ENABLE:
		return set_vring_enable(s, m);
	case VHU_SET_CONFIG:
		return set_config(s, m);
	case VHU_SET_BACKEND_REQ_FD:
		return set_backend_req_fd(s, m);
	default:
		return -EPROTO;
	}
}

static int handle(struct wslx_vhost_user *s, struct vhu_msg *m)
{
	int r;

	/* Only these carry descriptors, and each checks how many. */
	if (m->n_fds && m->request != VHU_SET_MEM_TABLE && m->request != VHU_SET_VRING_KICK &&
	    m->request != VHU_SET_VRING_CALL && m->request != VHU_SET_VRING_ERR && m->request != VHU_SET_BACKEND_REQ_FD)
		return -EPROTO;
	r = handle_get(s, m);
	if (r)
		return r < 0 ? r : 0;
	r = handle_set(s, m);
	if (r == 0 && (m->flags & VHU_FLAG_NEED_REPLY) && (s->protocol & VHU_PF_REPLY_ACK))
		r = reply_u64(s, m, 0);
	return r;
}

/* Everything but the memory of s itself. */
static void shut(struct wslx_vhost_user *s)
{
	wslx_vhu_device_reset(s);
	for (unsigned i = 0; i < WSLX_VDEV_MAX_QUEUES; i++)
		wslx_vhu_vring_close(&s->vring[i]);
	wslx_gm_clear(s->gm);
	s->n_regions = 0;
	wslx_watch_free(s->watch);
	s->watch = NULL;
	wslx_close(&s->fd);
	wslx_close(&s->backend_req_fd);
	wslx_vhu_msg_clear(&s->msg);
}

static void on_socket(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_vhost_user *s = opaque;
	int r;

	/* One message a round: a front end that always has another one must not
	 * keep the loop from a pause or a stop. */
	r = wslx_vhu_msg_recv(s->fd, &s->msg);
	if (r == -EAGAIN)
		return;
	if (r == 1) {
		uint32_t request = s->msg.request;

		r = handle(s, &s->msg);
		wslx_vhu_msg_clear(&s->msg);
		if (r == 0)
			return;
		log_error("%s: vhost-user request %u: %s", s->d->name, request, strerror(-r));
	}
	shut(s);
	if (s->closed)
		s->closed(s->opaque, r); /* may free s */
}

int wslx_vhost_user_new(const struct wslx_vhost_user_params *p, struct wslx_vhost_user **ret)
{
	struct wslx_vhost_user *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->d = p->vdev;
	s->fd = s->backend_req_fd = -1;
	s->allow_unsealed = p->allow_unsealed;
	s->window = p->window;
	s->closed = p->closed;
	s->opaque = p->opaque;
	wslx_vhu_vrings_init(s);
	r = wslx_gm_new_empty(&s->gm);
	if (r == 0)
		r = wslx_fd_nonblock(p->fd, 1);
	if (r == 0)
		r = wslx_loop_watch(s->d->loop, p->fd, EPOLLIN, on_socket, s, &s->watch);
	if (r < 0) {
		wslx_gm_free(s->gm);
		free(s);
		return r;
	}
	s->fd = p->fd;
	s->d->gm = s->gm;
	s->d->transport_ops = &wslx_vhu_transport_ops;
	s->d->transport = s;
	*ret = s;
	return 0;
}

void wslx_vhost_user_free(struct wslx_vhost_user *s)
{
	if (!s)
		return;
	shut(s);
	s->d->gm = NULL;
	s->d->transport_ops = NULL;
	s->d->transport = NULL;
	wslx_gm_free(s->gm);
	free(s);
}
