/*
 * virtio-net (virtio 1.2, section 5.1): the device, apart from its back ends
 * (net_stream.c, net_tap.c).
 *
 * Theory of operation.  Events (a kick, a readable or writable back end) only
 * set flags and arm `work`, which runs at the end of the loop round, moves
 * frames both ways within a budget and raises at most one interrupt per queue.
 * Received frames pass through a stage: one system call fetches many of them.
 * A frame that finds no receive buffers stays there until the driver adds some;
 * what the peer sends meanwhile fills the stage, then its socket.
 *
 * Threads: the device's loop thread; set_backend gets there by itself.
 *
 * Trust boundary: lengths come from the chain's validated copy; payload is
 * never interpreted; the guest's offload header goes to the kernel only, as a
 * copy, and only when offloads were negotiated.
 */
#include "dev/virtio/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "dev/virtio/net_internal.h"
#include "os/linux/fd.h"

#define NET_CONFIG_LEN 12 /* mac, status, max_virtqueue_pairs, mtu */

static struct wslx_net *net_of(struct wslx_vdev *d)
{
	return CONTAINER_OF(d, struct wslx_net, d);
}

static bool may_work(const struct wslx_net *n)
{
	return n->d.active && !n->d.broken && !n->paused;
}

static void schedule(struct wslx_net *n)
{
	wslx_timer_arm(n->work, 0);
}

/* Level-triggered: ask only for what can be served.  A hang-up is reported in
 * any case, which is wanted even while no driver is there. */
static void update_watch(struct wslx_net *n)
{
	uint32_t events = 0;

	if (!n->watch)
		return;
	if (may_work(n)) {
		if (!n->readable)
			events |= EPOLLIN;
		if (n->want_out)
			events |= EPOLLOUT;
	}
	wslx_watch_set_events(n->watch, events);
}

static void backend_down(struct wslx_net *n, int err)
{
	if (n->fd < 0)
		return;
	log_debug("%s: back end is gone: %s", n->d.name, strerror(-err));
	wslx_watch_free(n->watch);
	n->watch = NULL;
	wslx_close(&n->fd);
	n->stage_off = n->stage_len = 0;
	n->pending_off = n->pending_len = 0;
	n->readable = n->rx_blocked = n->want_out = false;
	n->n_downs++;
	n->tell_down = true;
	schedule(n);
}

static void link_changed(struct wslx_net *n)
{
	if (n->d.active && n->d.transport_ops)
		n->d.transport_ops->config_changed(n->d.transport);
}

/* The next receive buffer.  As wslx_vq_pop; 0: and a kick will tell of more. */
static int pop_rx(struct wslx_net *n, struct wslx_chain *ch)
{
	struct wslx_vq *vq = &n->d.vq[NET_Q_RX];

	/* A guest may show a buffer and take it back for ever: after a few times
	 * it is the next round's affair. */
	for (unsigned i = 0; i < 4; i++) {
		int r = wslx_vq_pop(vq, ch);

		if (r)
			return r;
		/* Before anything is put back: the kick is to come when there is
		 * more than what did not suffice. */
		if (!wslx_vq_enable_kick(vq))
			return 0;
		wslx_vq_disable_kick(vq);
	}
	schedule(n);
	return 0;
}

/* 5.1.6.4: a frame goes into one buffer, or with MRG_RXBUF into as many as it
 * takes, which the driver must see all at once.  1 delivered or dropped, 0 no
 * buffers now, -EINVAL broken. */
static int deliver(struct wslx_net *n, const struct net_frame *f)
{
	struct wslx_vq *vq = &n->d.vq[NET_Q_RX];
	bool merge = n->d.acked & NET_F_MRG_RXBUF;
	uint16_t heads[NET_MAX_MERGE];
	uint32_t lens[NET_MAX_MERGE], done = 0;
	unsigned count = 0, max = merge ? NET_MAX_MERGE : 1;
	uint8_t num[2];
	int r = 1;

	do {
		struct wslx_chain *ch = count ? &n->chain : &n->first;
		uint32_t at = count ? 0 : NET_HDR_LEN, part;

		r = pop_rx(n, ch);
		if (r <= 0)
			break;
		if (ch->in_len <= NET_HDR_LEN) {
			r = -EINVAL;
			break;
		}
		heads[count] = ch->head;
		part = (uint32_t)WSLX_MIN(ch->in_len - at, (uint64_t)(f->len - done));
		if (!count)
			wslx_iov_write(ch->iov + ch->n_out, ch->n_in, 0, f->hdr, NET_HDR_LEN);
		wslx_iov_write(ch->iov + ch->n_out, ch->n_in, at, f->data + done, part);
		lens[count++] = at + part;
		done += part;
	} while (done < f->len && count < max);
	if (r < 0) {
		wslx_vdev_broken(&n->d, "malformed receive buffer");
		return -EINVAL;
	}
	if (done < f->len) {
		for (unsigned i = 0; i < count; i++)
			wslx_vq_unpop(vq);
		if (r == 0)
			return 0;
		n->n_rx_dropped++; /* larger than what the driver's buffers can hold */
		return 1;
	}
	wslx_put_le16(num, (uint16_t)count);
	wslx_iov_write(n->first.iov + n->first.n_out, n->first.n_in, NET_HDR_NUM_BUFFERS, num, sizeof(num));
	wslx_vq_push_many(vq, heads, lens, count);
	n->rx_pushed = true;
	n->n_rx++;
	n->n_rx_bytes += f->len;
	return 1;
}

/* One frame from the stage.  1 done, 0 none there or no buffers for it
 * (rx_blocked), -errno: the back end must go (-EINVAL: the device broke). */
static int receive_staged(struct wslx_net *n)
{
	struct net_frame f;
	int r = n->be->parse(n, &f);

	if (r <= 0)
		return r;
	/* 5.1.4.1: nothing beyond the MTU that was offered; room for a VLAN tag. */
	if (f.len < NET_FRAME_MIN || (n->mtu && n->be == &wslx_net_stream_ops && f.len > n->mtu + NET_FRAME_MIN + 4u)) {
		n->n_rx_dropped++;
	} else {
		r = deliver(n, &f);
		if (r <= 0) {
			n->rx_blocked = r == 0;
			return r;
		}
	}
	n->stage_off += f.stage_bytes;
	n->stage_len -= f.stage_bytes;
	return 1;
}

/* Reads until the peer has no more or the stage is full.  limit: reads, at most. */
static void fill_stage(struct wslx_net *n, unsigned limit)
{
	while (n->readable && limit--) {
		ssize_t r = n->be->fill(n);

		if (r > 0) {
			n->stage_high = WSLX_MAX(n->stage_high, n->stage_off + n->stage_len);
			continue;
		}
		if (r == 0)
			n->readable = false;
		else if (r != -ENOBUFS)
			backend_down(n, (int)r);
		return;
	}
}

/* Gives memory back after a burst. */
static void trim_stage(struct wslx_net *n)
{
	if (n->stage_len || n->stage_high <= NET_STAGE_KEEP)
		return;
	madvise(n->stage + NET_STAGE_KEEP, n->stage_high - NET_STAGE_KEEP, MADV_DONTNEED);
	n->stage_off = n->stage_high = 0;
}

/* True: budget used up. */
static bool receive(struct wslx_net *n)
{
	struct wslx_vq *vq = &n->d.vq[NET_Q_RX];
	unsigned budget = NET_BUDGET;

	if (!vq->enabled)
		return false;
	wslx_vq_disable_kick(vq);
	n->rx_blocked = false;
	while (n->fd >= 0 && budget) {
		int r = receive_staged(n);

		if (n->d.broken)
			return false;
		if (r > 0) {
			budget--;
			continue;
		}
		if (r < 0) {
			backend_down(n, r);
			return false;
		}
		if (n->rx_blocked) {
			/* deliver() asked for a kick. */
			fill_stage(n, NET_STAGE_LEN / NET_READ_MAX);
			return false;
		}
		if (!n->readable) {
			trim_stage(n);
			return false;
		}
		/* Counts too: a frame may come a byte at a time. */
		fill_stage(n, 1);
		budget--;
	}
	return budget == 0;
}

/* Without a link, frames are lost as on a cable that is pulled out; they must
 * not pile up in the queue and arrive minutes later. */
static int discard(struct wslx_net *n)
{
	struct wslx_vq *vq = &n->d.vq[NET_Q_TX];

	for (int budget = NET_BUDGET; budget > 0; budget--) {
		int r = wslx_vq_pop(vq, &n->chain);

		if (r < 0) {
			wslx_vdev_broken(&n->d, "malformed transmit queue");
			return -EINVAL;
		}
		if (r == 0) {
			if (!wslx_vq_enable_kick(vq))
				return 0;
			wslx_vq_disable_kick(vq);
			continue;
		}
		wslx_vq_push(vq, n->chain.head, 0);
		n->tx_pushed = true;
		n->n_tx_dropped++;
	}
	return 1;
}

static bool transmit(struct wslx_net *n)
{
	struct wslx_vq *vq = &n->d.vq[NET_Q_TX];
	int r;

	if (!vq->enabled || n->want_out)
		return false;
	wslx_vq_disable_kick(vq);
	r = n->fd >= 0 ? n->be->transmit(n) : discard(n);
	if (n->d.broken)
		return false;
	if (r < 0) {
		backend_down(n, r);
		return true; /* the rest is to be discarded */
	}
	return r > 0;
}

static void on_work(struct wslx_timer *t, void *opaque)
{
	struct wslx_net *n = opaque;
	bool more = false;

	if (may_work(n))
		more = transmit(n);
	if (may_work(n))
		more |= receive(n);
	if (n->rx_pushed)
		wslx_vdev_notify_used(&n->d, NET_Q_RX);
	if (n->tx_pushed)
		wslx_vdev_notify_used(&n->d, NET_Q_TX);
	n->rx_pushed = n->tx_pushed = false;
	if (more)
		schedule(n);
	update_watch(n);
	if (n->tell_down) {
		n->tell_down = false;
		link_changed(n);
		/* Last: it may put in a new back end right away. */
		if (n->net_down)
			n->net_down(n->opaque);
	}
}

static void on_backend(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_net *n = opaque;

	if (events & EPOLLOUT)
		n->want_out = false;
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		n->readable = true;
	/* After a hang-up what is left to read still counts, if it can be taken
	 * now; otherwise the event would come again and again. */
	if ((events & (EPOLLHUP | EPOLLERR)) && (!may_work(n) || n->rx_blocked)) {
		backend_down(n, -ECONNRESET);
		return;
	}
	schedule(n);
	update_watch(n);
}

static uint64_t net_features(struct wslx_vdev *d)
{
	struct wslx_net *n = net_of(d);
	uint64_t f = NET_F_MAC | NET_F_STATUS | NET_F_MRG_RXBUF | WSLX_VIRTIO_F_INDIRECT_DESC | WSLX_VIRTIO_F_EVENT_IDX;

	if (n->mtu)
		f |= NET_F_MTU;
	return f | n->be->features(n);
}

static void net_config_read(struct wslx_vdev *d, uint32_t off, void *buf, uint32_t len)
{
	struct wslx_net *n = net_of(d);
	uint8_t cfg[NET_CONFIG_LEN];

	memcpy(cfg, n->mac, sizeof(n->mac));
	wslx_put_le16(cfg + 6, n->fd >= 0 ? NET_S_LINK_UP : 0);
	wslx_put_le16(cfg + 8, 1);
	wslx_put_le16(cfg + 10, n->mtu);
	memcpy(buf, cfg + off, len);
}

static int net_activate(struct wslx_vdev *d)
{
	struct wslx_net *n = net_of(d);

	n->paused = false;
	if (n->fd >= 0) {
		int r = n->be->start(n);

		if (r < 0)
			return r;
	}
	schedule(n);
	return 0;
}

static void net_kick(struct wslx_vdev *d, unsigned q)
{
	schedule(net_of(d));
}

static void net_reset(struct wslx_vdev *d)
{
	struct wslx_net *n = net_of(d);

	/* What was half sent must be completed, or the peer loses the frame
	 * boundaries; what was received belongs to the old driver. */
	n->paused = n->rx_blocked = n->rx_pushed = n->tx_pushed = false;
	if (n->be == &wslx_net_tap_ops)
		n->stage_off = n->stage_len = 0;
	if (n->watch)
		wslx_watch_set_events(n->watch, 0);
}

static void net_quiesce(struct wslx_vdev *d)
{
	struct wslx_net *n = net_of(d);

	n->paused = true;
	update_watch(n);
}

static void net_resume(struct wslx_vdev *d)
{
	struct wslx_net *n = net_of(d);

	n->paused = false;
	schedule(n);
}

static void net_free(struct wslx_vdev *d)
{
	struct wslx_net *n = net_of(d);

	wslx_watch_free(n->watch);
	wslx_timer_free(n->work);
	wslx_close(&n->fd);
	if (n->stage != MAP_FAILED)
		munmap(n->stage, NET_STAGE_LEN);
	free(n->pending);
	free(n);
}

static size_t net_stats(struct wslx_vdev *d, struct wslx_stat *ret, size_t max)
{
	const struct wslx_net *n = net_of(d);
	const struct wslx_stat all[] = {
		{ "link", n->fd >= 0 },        { "link_losses", n->n_downs },     { "rx_frames", n->n_rx },
		{ "rx_bytes", n->n_rx_bytes }, { "rx_dropped", n->n_rx_dropped }, { "tx_frames", n->n_tx },
		{ "tx_bytes", n->n_tx_bytes }, { "tx_dropped", n->n_tx_dropped },
	};
	size_t k = WSLX_MIN(max, ARRAY_SIZE(all));

	memcpy(ret, all, k * sizeof(*ret));
	return k;
}

static const struct wslx_vdev_ops net_ops = {
	.features = net_features,
	.config_read = net_config_read,
	.activate = net_activate,
	.kick = net_kick,
	.reset = net_reset,
	.quiesce = net_quiesce,
	.resume = net_resume,
	.free = net_free,
	.stats = net_stats,
};

/* Takes fd on success. */
static int attach(struct wslx_net *n, int fd)
{
	int r = wslx_fd_nonblock(fd, 1);

	if (r < 0)
		return r;
	n->fd = fd;
	r = n->be->attach(n);
	if (r == 0 && n->d.active)
		r = n->be->start(n);
	if (r == 0)
		r = wslx_loop_watch(n->d.loop, fd, 0, on_backend, n, &n->watch);
	if (r < 0)
		n->fd = -1;
	return r;
}

struct set_backend_call {
	struct wslx_net *n;
	int fd;
	int result;
};

static void do_set_backend(void *opaque)
{
	struct set_backend_call *c = opaque;
	struct wslx_net *n = c->n;
	bool was_up = n->fd >= 0;

	if (was_up) {
		backend_down(n, -ESHUTDOWN);
		n->tell_down = false; /* the owner knows */
	}
	if (c->fd >= 0) {
		c->result = attach(n, c->fd);
		if (c->result < 0)
			wslx_close(&c->fd);
	}
	schedule(n);
	if (was_up || n->fd >= 0)
		link_changed(n);
}

int wslx_net_set_backend(struct wslx_vdev *d, int fd)
{
	struct set_backend_call c = { net_of(d), fd, 0 };

	wslx_loop_call(d->loop, do_set_backend, &c);
	return c.result;
}

int wslx_net_new(const struct wslx_net_params *p, struct wslx_vdev **ret)
{
	struct wslx_net *n;
	int r;

	if (p->mtu && p->mtu < 1280)
		return -EINVAL;
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->d = (struct wslx_vdev) {
		.ops = &net_ops,
		.name = p->name ? p->name : "net",
		.id = WSLX_VIRTIO_ID_NET,
		.class_code = 0x020000, /* network controller, Ethernet */
		.n_queues = NET_N_QUEUES,
		.queue_max = { [NET_Q_RX] = 512, [NET_Q_TX] = 256 },
		.config_len = NET_CONFIG_LEN,
		.loop = p->loop,
	};
	n->be = p->backend == WSLX_NET_BACKEND_TAP ? &wslx_net_tap_ops : &wslx_net_stream_ops;
	n->fd = -1;
	memcpy(n->mac, p->mac, sizeof(n->mac));
	n->mtu = p->mtu;
	n->net_down = p->net_down;
	n->opaque = p->opaque;
	n->stage = mmap(NULL, NET_STAGE_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	r = n->stage != MAP_FAILED ? wslx_loop_timer(p->loop, on_work, n, &n->work) : -ENOMEM;
	if (r == 0 && p->fd >= 0)
		r = attach(n, p->fd);
	if (r < 0) {
		n->fd = -1; /* stays the caller's */
		net_free(&n->d);
		return r;
	}
	*ret = &n->d;
	return 0;
}
