/*
 * virtio-vsock (virtio 1.2, section 5.10): the device itself.
 *
 * Theory of operation.  Four parts share vsock_internal.h: vsock_host.c (the
 * listening socket), vsock_conn.c (connections, host sockets), vsock_tx.c
 * (packets from the guest), vsock_rx.c (packets to the guest).  Whatever
 * happens, a kick, a readable socket, an answer of the owner, only changes
 * state and arms `work`; work() runs once at the end of the loop round, serves
 * both queues within a budget, and raises at most one interrupt per queue.
 *
 * Threads: all on the device's loop thread; connect_done and transport_reset
 * get there by themselves.
 *
 * Trust boundary: see vsock_tx.c for the guest, vsock_host.c for clients.
 */
#include "dev/virtio/vsock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "dev/virtio/vsock_internal.h"
#include "os/linux/fd.h"

#define VSOCK_F_STREAM (1ull << 0)
#define VSOCK_EVENT_TRANSPORT_RESET 0
#define SWEEP_MS 1000

void wslx_vsock_schedule(struct wslx_vsock *v)
{
	if (v->work)
		wslx_timer_arm(v->work, 0);
}

void wslx_vsock_arm_sweep(struct wslx_vsock *v)
{
	if (!v->sweep_armed) {
		v->sweep_armed = true;
		wslx_timer_arm(v->sweep, SWEEP_MS);
	}
}

static void on_sweep(struct wslx_timer *t, void *opaque)
{
	struct wslx_vsock *v = opaque;
	int64_t now = wslx_now_ms();

	v->sweep_armed = false;
	while (v->wait_head && v->wait_head->deadline_ms <= now) {
		log_debug("%s: no answer from the guest on port %u", v->d.name, v->wait_head->guest_port);
		wslx_vsock_conn_reset(v->wait_head);
	}
	wslx_vsock_host_sweep(v, now);
	if (v->wait_head || v->clients || v->accept_paused)
		wslx_vsock_arm_sweep(v);
}

/* 5.10.6.7: the guest's connections are gone, whatever it believes. */
static void deliver_event(struct wslx_vsock *v)
{
	struct wslx_vq *vq = &v->d.vq[VSOCK_Q_EVENT];
	struct wslx_chain *ch = &v->chain[0];
	uint8_t ev[4];
	int r;

	if (!v->owe_event || !vq->enabled)
		return;
	r = wslx_vq_pop(vq, ch);
	if (r == 0)
		return;
	if (r < 0 || ch->in_len < sizeof(ev)) {
		wslx_vdev_broken(&v->d, "malformed event buffer");
		return;
	}
	wslx_put_le32(ev, VSOCK_EVENT_TRANSPORT_RESET);
	wslx_iov_write(ch->iov + ch->n_out, ch->n_in, 0, ev, sizeof(ev));
	wslx_vq_push(vq, ch->head, sizeof(ev));
	v->owe_event = false;
	wslx_vdev_notify_used(&v->d, VSOCK_Q_EVENT);
}

static bool may_work(const struct wslx_vsock *v)
{
	return v->d.active && !v->d.broken && !v->paused;
}

static void on_work(struct wslx_timer *t, void *opaque)
{
	struct wslx_vsock *v = opaque;
	bool more = false;

	if (may_work(v))
		deliver_event(v);
	if (may_work(v))
		more = wslx_vsock_process_tx(v);
	if (may_work(v))
		more |= wslx_vsock_pump_rx(v);
	if (v->tx_blocked && v->rst_len < VSOCK_RST_RING)
		more = true;
	if (v->rx_pushed)
		wslx_vdev_notify_used(&v->d, VSOCK_Q_RX);
	if (v->tx_pushed)
		wslx_vdev_notify_used(&v->d, VSOCK_Q_TX);
	v->rx_pushed = v->tx_pushed = false;
	/* Answers given while the queues were served re-armed the timer already. */
	if (more)
		wslx_vsock_schedule(v);
}

static uint64_t vsock_features(struct wslx_vdev *d)
{
	return VSOCK_F_STREAM | WSLX_VIRTIO_F_INDIRECT_DESC | WSLX_VIRTIO_F_EVENT_IDX;
}

static void vsock_config_read(struct wslx_vdev *d, uint32_t off, void *buf, uint32_t len)
{
	uint8_t cfg[8];

	wslx_put_le64(cfg, vsock_of(d)->guest_cid);
	memcpy(buf, cfg + off, len);
}

static int vsock_activate(struct wslx_vdev *d)
{
	struct wslx_vsock *v = vsock_of(d);

	v->paused = false;
	wslx_vsock_schedule(v);
	return 0;
}

static void vsock_kick(struct wslx_vdev *d, unsigned q)
{
	wslx_vsock_schedule(vsock_of(d));
}

/* The guest forgot, or is about to forget, every connection.  What it sent
 * before still goes to its readers. */
static bool drop_conns(struct wslx_vsock *v)
{
	bool had = false;

	for (unsigned i = 0; i < v->n_slots_used; i++) {
		struct vsock_conn *c = &v->conns[i];

		switch (c->state) {
		case CONN_FREE:
		case CONN_GUEST_GONE:
		case CONN_LINGER:
			break;
		case CONN_GUEST_WAIT:
			wslx_vsock_conn_unhash(c);
			c->state = CONN_GUEST_GONE;
			had = true;
			break;
		default:
			had = true;
			wslx_vsock_conn_drop(c);
			break;
		}
	}
	v->rst_head = v->rst_len = 0;
	return had;
}

static void vsock_reset(struct wslx_vdev *d)
{
	struct wslx_vsock *v = vsock_of(d);

	if (drop_conns(v))
		v->owe_event = true;
	wslx_vsock_host_drop_clients(v);
	wslx_timer_disarm(v->work);
	v->paused = v->tx_blocked = v->rx_pushed = v->tx_pushed = false;
}

static void vsock_quiesce(struct wslx_vdev *d)
{
	vsock_of(d)->paused = true;
}

static void vsock_resume(struct wslx_vdev *d)
{
	vsock_of(d)->paused = false;
	wslx_vsock_schedule(vsock_of(d));
}

static void vsock_free(struct wslx_vdev *d)
{
	struct wslx_vsock *v = vsock_of(d);

	for (unsigned i = 0; i < v->n_slots_used; i++) {
		if (v->conns[i].state != CONN_FREE)
			wslx_vsock_conn_free(&v->conns[i]);
	}
	wslx_vsock_host_stop(v);
	wslx_timer_free(v->work);
	wslx_timer_free(v->sweep);
	free(v->conns);
	free(v->hash);
	free(v);
}

static size_t vsock_stats(struct wslx_vdev *d, struct wslx_stat *ret, size_t max)
{
	const struct wslx_vsock *v = vsock_of(d);
	const struct wslx_stat all[] = {
		{ "connections", v->n_conns },
		{ "opened", v->n_opened },
		{ "resets", v->n_resets },
		{ "dropped", v->n_dropped },
		{ "to_guest_packets", v->n_rx_packets },
		{ "to_guest_bytes", v->n_rx_bytes },
		{ "from_guest_packets", v->n_tx_packets },
		{ "from_guest_bytes", v->n_tx_bytes },
	};
	size_t n = WSLX_MIN(max, ARRAY_SIZE(all));

	memcpy(ret, all, n * sizeof(*ret));
	return n;
}

static const struct wslx_vdev_ops vsock_ops = {
	.features = vsock_features,
	.config_read = vsock_config_read,
	.activate = vsock_activate,
	.kick = vsock_kick,
	.reset = vsock_reset,
	.quiesce = vsock_quiesce,
	.resume = vsock_resume,
	.free = vsock_free,
	.stats = vsock_stats,
};

/* A connection is a descriptor.  Half of what the process may have stays for
 * everything else: a guest must not be able to use them up. */
static unsigned default_max_conns(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0 || l.rlim_cur / 2 >= WSLX_VSOCK_MAX_CONNS)
		return WSLX_VSOCK_MAX_CONNS;
	return l.rlim_cur > 32 ? (unsigned)(l.rlim_cur / 2) : 16;
}

static int vsock_init(struct wslx_vsock *v, const struct wslx_vsock_params *p)
{
	unsigned n_hash = 64;
	int r;

	v->max_conns = p->max_conns ? p->max_conns : default_max_conns();
	while (n_hash < v->max_conns)
		n_hash *= 2;
	v->hash_mask = n_hash - 1;
	v->hash = calloc(n_hash, sizeof(*v->hash));
	v->conns = calloc(v->max_conns, sizeof(*v->conns));
	if (!v->hash || !v->conns)
		return -ENOMEM;
	/* Waits, on a host that has only just booted, rather than use a key
	 * that could be guessed. */
	if (getrandom(&v->hash_key, sizeof(v->hash_key), 0) != sizeof(v->hash_key))
		return -EIO;
	r = wslx_loop_timer(p->loop, on_work, v, &v->work);
	if (r == 0)
		r = wslx_loop_timer(p->loop, on_sweep, v, &v->sweep);
	if (r == 0 && p->listen_fd >= 0) {
		r = wslx_fd_nonblock(p->listen_fd, 1);
		if (r < 0)
			return r;
		v->listen_fd = p->listen_fd;
		r = wslx_vsock_host_start(v);
		if (r < 0)
			v->listen_fd = -1;
	}
	return r;
}

int wslx_vsock_new(const struct wslx_vsock_params *p, struct wslx_vdev **ret)
{
	struct wslx_vsock *v;
	int r;

	if (p->guest_cid <= WSLX_VSOCK_HOST_CID || p->guest_cid >= UINT32_MAX || p->max_conns > UINT16_MAX)
		return -EINVAL;
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->d = (struct wslx_vdev) {
		.ops = &vsock_ops,
		.name = p->name ? p->name : "vsock",
		.id = WSLX_VIRTIO_ID_VSOCK,
		.class_code = 0x078000, /* simple communication controller, other */
		.n_queues = VSOCK_N_QUEUES,
		.queue_max = { [VSOCK_Q_RX] = 256, [VSOCK_Q_TX] = 256, [VSOCK_Q_EVENT] = 16 },
		.config_len = 8,
		.loop = p->loop,
	};
	v->guest_cid = p->guest_cid;
	v->connect_request = p->connect_request;
	v->opaque = p->opaque;
	v->next_host_port = VSOCK_HOST_PORT_FIRST;
	v->listen_fd = -1;
	r = vsock_init(v, p);
	if (r < 0) {
		vsock_free(&v->d);
		return r;
	}
	*ret = &v->d;
	return 0;
}

struct done_call {
	struct wslx_vsock *v;
	uint32_t id;
	int fd;
};

static void do_connect_done(void *opaque)
{
	struct done_call *dc = opaque;
	struct wslx_vsock *v = dc->v;
	uint32_t slot = dc->id & 0xffff;
	cleanup_close int fd = dc->fd;
	struct vsock_conn *c;

	if (slot >= v->n_slots_used)
		return;
	c = &v->conns[slot];
	if (c->generation != dc->id >> 16)
		return;
	if (c->state == CONN_GUEST_GONE) {
		wslx_vsock_conn_free(c);
		return;
	}
	if (c->state != CONN_GUEST_WAIT)
		return;
	v->n_unanswered--;
	c->state = CONN_UP;
	if (fd < 0 || wslx_vsock_conn_attach(c, fd) < 0) {
		wslx_vsock_conn_reset(c);
		return;
	}
	fd = -1;
	wslx_vsock_conn_owe(c, OWE_RESPONSE);
}

void wslx_vsock_connect_done(struct wslx_vdev *d, uint32_t id, int fd)
{
	struct done_call dc = { vsock_of(d), id, fd };

	wslx_loop_call(d->loop, do_connect_done, &dc);
}
