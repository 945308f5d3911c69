/*
 * virtio-console (virtio 1.2, section 5.3), one port without control queues.
 *
 * Output: chains are written to out_fd piece by piece; one that does not fit
 * stays the current chain until the descriptor is writable.  A reader that
 * takes nothing for STALL_MS loses output from then on, until it reads again:
 * Linux waits in a loop for its console, so an unread pipe must not stop a
 * guest CPU for good.
 *
 * Input: read straight into the guest's buffers, so nothing is kept here and a
 * guest that takes no input leaves it in the pipe.
 *
 * Trust boundary: the guest's bytes are passed on as they are; whoever shows
 * them on a terminal must escape them.
 */
#include "dev/virtio/console.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "dev/virtio/iov.h"
#include "os/linux/fd.h"

enum { Q_RX, Q_TX, N_QUEUES };

#define F_SIZE (1ull << 0)
#define F_EMERG_WRITE (1ull << 2)
#define CONFIG_LEN 12u
#define CONFIG_EMERG 8u
#define QUEUE_SIZE 128u
#define STALL_MS 1000
/* Before other watches get their turn. */
#define ROUND 64u                         /* chains */
#define ROUND_BYTES (512 * 1024u)         /* of output; a chain may hold any amount */
#define WRITE_MAX ((uint64_t)(64 * 1024)) /* by one system call */
#define PCI_CLASS_COMMUNICATION_OTHER 0x078000u

struct console {
	struct wslx_vdev d;
	int out_fd, in_fd;
	uint16_t cols, rows;
	bool paused;
	bool stalled;                            /* the reader took nothing for STALL_MS: output is dropped */
	struct wslx_watch *out_watch, *in_watch; /* present only while waited for */
	struct wslx_timer *stall, *work;
	bool have_tx; /* tx_chain is being written, tx_off bytes are done */
	uint64_t tx_off;
	uint64_t n_out, n_in, n_dropped;
	struct wslx_chain tx_chain, rx_chain;
	struct iovec iov[WSLX_VQ_MAX_CHAIN];
};

static struct console *console_of(struct wslx_vdev *d)
{
	return CONTAINER_OF(d, struct console, d);
}

static bool running(const struct console *c)
{
	return c->d.active && !c->d.broken && !c->paused;
}

static void process_tx(struct console *c);
static void process_rx(struct console *c);

/* ---- output ----------------------------------------------------------- */

static void stop_out_watch(struct console *c)
{
	wslx_watch_free(c->out_watch);
	c->out_watch = NULL;
	wslx_timer_disarm(c->stall);
}

static void on_out(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct console *c = opaque;

	stop_out_watch(c);
	c->stalled = false;
	if (events & (EPOLLERR | EPOLLHUP)) /* the reader is gone */
		wslx_close(&c->out_fd);
	process_tx(c);
}

static void on_stall(struct wslx_timer *t, void *opaque)
{
	struct console *c = opaque;

	c->stalled = true;
	process_tx(c);
}

/* Waits for out_fd; on one that cannot be waited for, output is given up. */
static void start_out_watch(struct console *c)
{
	if (c->out_watch)
		return;
	if (wslx_loop_watch(c->d.loop, c->out_fd, EPOLLOUT, on_out, c, &c->out_watch) < 0) {
		wslx_close(&c->out_fd);
		return;
	}
	if (!c->stalled)
		wslx_timer_arm(c->stall, STALL_MS);
}

/* Writes on with the current chain, at most *bytes.  True: it is done with. */
static bool write_chain(struct console *c, uint64_t *bytes)
{
	struct wslx_chain *ch = &c->tx_chain;

	while (c->tx_off < ch->out_len) {
		uint64_t len;
		unsigned n;
		ssize_t w;

		if (c->out_fd < 0 || c->stalled) {
			c->n_dropped += ch->out_len - c->tx_off;
			return true;
		}
		if (!*bytes)
			return false;
		n = wslx_iov_slice(ch->iov, ch->n_out, c->tx_off, WSLX_MIN(*bytes, WRITE_MAX), c->iov,
				   WSLX_VQ_MAX_CHAIN, &len);
		w = writev(c->out_fd, c->iov, (int)n);
		if (w > 0) {
			*bytes -= (uint64_t)w;
			c->tx_off += (uint64_t)w;
			c->n_out += (uint64_t)w;
		} else if (w < 0 && errno == EAGAIN) {
			start_out_watch(c);
			if (c->out_fd >= 0 && !c->stalled)
				return false;
		} else if (w == 0 || errno != EINTR) {
			stop_out_watch(c);
			wslx_close(&c->out_fd);
		}
	}
	return true;
}

/* The next chain to write.  1, 0 or -errno. */
static int next_tx(struct console *c)
{
	int r;

	if (c->have_tx)
		return 1;
	r = wslx_vq_pop(&c->d.vq[Q_TX], &c->tx_chain);
	if (r == 1) {
		c->have_tx = true;
		c->tx_off = 0;
	}
	return r;
}

static void process_tx(struct console *c)
{
	struct wslx_vq *vq = &c->d.vq[Q_TX];
	uint64_t bytes = ROUND_BYTES;
	unsigned budget = ROUND;
	bool pushed = false;
	int r = 0;

	if (!running(c) || !vq->enabled)
		return;
	do {
		wslx_vq_disable_kick(vq);
		while (budget && (r = next_tx(c)) > 0 && write_chain(c, &bytes)) {
			wslx_vq_push(vq, c->tx_chain.head, 0);
			c->have_tx = false;
			pushed = true;
			budget--;
		}
		if (budget && r < 0)
			wslx_vdev_broken(&c->d, "malformed transmit queue");
		if (budget && r == 0)
			budget--; /* the guest may take the chain back, for ever */
				  /* Else the watch or the timer comes back. */
	} while (!c->d.broken && budget && !c->have_tx && wslx_vq_enable_kick(vq));
	if (!budget || (c->have_tx && !bytes))
		wslx_timer_arm(c->work, 0);
	if (pushed && !c->d.broken)
		wslx_vdev_notify_used(&c->d, Q_TX);
}

/* ---- input ------------------------------------------------------------ */

static void stop_in_watch(struct console *c)
{
	wslx_watch_free(c->in_watch);
	c->in_watch = NULL;
}

static void on_in(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct console *c = opaque;

	stop_in_watch(c);
	process_rx(c);
}

/* Reads into the chain popped.  Bytes, 0: nothing now or ever. */
static ssize_t read_chain(struct console *c)
{
	struct wslx_chain *ch = &c->rx_chain;
	ssize_t n;

	do
		n = readv(c->in_fd, ch->iov + ch->n_out, (int)ch->n_in);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return n;
	if (n < 0 && errno == EAGAIN && wslx_loop_watch(c->d.loop, c->in_fd, EPOLLIN, on_in, c, &c->in_watch) == 0)
		return 0;
	wslx_close(&c->in_fd);
	return 0;
}

static void process_rx(struct console *c)
{
	struct wslx_vq *vq = &c->d.vq[Q_RX];
	unsigned budget = ROUND;
	bool pushed = false;

	if (!running(c) || !vq->enabled || c->in_fd < 0 || c->in_watch)
		return;
	wslx_vq_disable_kick(vq);
	while (budget--) {
		int r = wslx_vq_pop(vq, &c->rx_chain);
		ssize_t n;

		if (r == 0 && wslx_vq_enable_kick(vq))
			continue;
		if (r < 0 || (r == 1 && !c->rx_chain.in_len))
			wslx_vdev_broken(&c->d, "malformed receive queue");
		if (r <= 0 || c->d.broken)
			break;
		n = read_chain(c);
		if (n <= 0) {
			wslx_vq_unpop(vq);
			break;
		}
		c->n_in += (uint64_t)n;
		wslx_vq_push(vq, c->rx_chain.head, (uint32_t)n);
		pushed = true;
	}
	if (budget == UINT32_MAX)
		wslx_timer_arm(c->work, 0);
	if (pushed && !c->d.broken)
		wslx_vdev_notify_used(&c->d, Q_RX);
}

static void on_work(struct wslx_timer *t, void *opaque)
{
	process_tx(opaque);
	process_rx(opaque);
}

/* ---- device ----------------------------------------------------------- */

static uint64_t console_features(struct wslx_vdev *d)
{
	const struct console *c = console_of(d);

	return WSLX_VIRTIO_F_INDIRECT_DESC | WSLX_VIRTIO_F_EVENT_IDX | F_EMERG_WRITE | (c->cols ? F_SIZE : 0);
}

/* 5.3.4: cols, rows, max_nr_ports, emerg_wr. */
static void console_config_read(struct wslx_vdev *d, uint32_t off, void *buf, uint32_t len)
{
	const struct console *c = console_of(d);
	uint8_t cfg[CONFIG_LEN] = { 0 };

	if (off > sizeof(cfg) || len > sizeof(cfg) - off)
		return;
	wslx_put_le16(cfg, c->cols);
	wslx_put_le16(cfg + 2, c->rows);
	wslx_put_le32(cfg + 4, 1);
	memcpy(buf, cfg + off, len);
}

/* An emergency write (5.3.6.1): one character, possibly before DRIVER_OK. */
static void console_config_write(struct wslx_vdev *d, uint32_t off, const void *buf, uint32_t len)
{
	struct console *c = console_of(d);

	if (off > CONFIG_EMERG || CONFIG_EMERG - off >= len || c->out_fd < 0)
		return;
	if (write(c->out_fd, (const uint8_t *)buf + (CONFIG_EMERG - off), 1) == 1)
		c->n_out++;
	else
		c->n_dropped++;
}

static int console_activate(struct wslx_vdev *d)
{
	d->active = true;
	d->broken = false;
	process_tx(console_of(d));
	process_rx(console_of(d));
	return 0;
}

static void console_kick(struct wslx_vdev *d, unsigned q)
{
	if (q == Q_TX)
		process_tx(console_of(d));
	else if (q == Q_RX)
		process_rx(console_of(d));
}

static void stop(struct console *c)
{
	stop_out_watch(c);
	stop_in_watch(c);
	wslx_timer_disarm(c->work);
}

static void console_reset(struct wslx_vdev *d)
{
	struct console *c = console_of(d);

	d->active = false;
	d->broken = false;
	stop(c);
	c->have_tx = false;
	c->stalled = false;
	c->paused = false;
}

/* A chain half written would be written again after a restore from a saved
 * state, so what is left of it is dropped rather than repeated. */
static void console_quiesce(struct wslx_vdev *d)
{
	struct console *c = console_of(d);

	stop(c);
	c->paused = true;
	if (!c->have_tx)
		return;
	if (c->tx_off) {
		c->n_dropped += c->tx_chain.out_len - c->tx_off;
		wslx_vq_push(&d->vq[Q_TX], c->tx_chain.head, 0);
		wslx_vdev_notify_used(d, Q_TX);
	} else {
		wslx_vq_unpop(&d->vq[Q_TX]);
	}
	c->have_tx = false;
}

static void console_resume(struct wslx_vdev *d)
{
	struct console *c = console_of(d);

	c->paused = false;
	process_tx(c);
	process_rx(c);
}

static size_t console_stats(struct wslx_vdev *d, struct wslx_stat *ret, size_t max)
{
	const struct console *c = console_of(d);
	const struct wslx_stat all[] = {
		{ "out_bytes", c->n_out },
		{ "in_bytes", c->n_in },
		{ "dropped_bytes", c->n_dropped },
	};
	size_t n = WSLX_MIN(max, ARRAY_SIZE(all));

	for (size_t i = 0; i < n; i++)
		ret[i] = all[i];
	return n;
}

static void console_free(struct wslx_vdev *d)
{
	struct console *c;

	if (!d)
		return;
	c = console_of(d);
	stop_out_watch(c);
	stop_in_watch(c);
	wslx_timer_free(c->stall);
	wslx_timer_free(c->work);
	wslx_close(&c->out_fd);
	wslx_close(&c->in_fd);
	free(c);
}

static const struct wslx_vdev_ops console_ops = {
	.features = console_features,
	.config_read = console_config_read,
	.config_write = console_config_write,
	.activate = console_activate,
	.kick = console_kick,
	.reset = console_reset,
	.quiesce = console_quiesce,
	.resume = console_resume,
	.free = console_free,
	.stats = console_stats,
};

int wslx_console_new(const struct wslx_console_params *p, struct wslx_vdev **ret)
{
	struct console *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->out_fd = c->in_fd = -1;
	c->cols = p->cols;
	c->rows = p->rows;
	c->d = (struct wslx_vdev) {
		.ops = &console_ops,
		.name = p->name ? p->name : "console",
		.id = WSLX_VIRTIO_ID_CONSOLE,
		.class_code = PCI_CLASS_COMMUNICATION_OTHER,
		.n_queues = N_QUEUES,
		.queue_max = { QUEUE_SIZE, QUEUE_SIZE },
		.config_len = CONFIG_LEN,
		.loop = p->loop,
	};
	r = wslx_loop_timer(p->loop, on_stall, c, &c->stall);
	if (r == 0)
		r = wslx_loop_timer(p->loop, on_work, c, &c->work);
	if (r == 0 && p->out_fd >= 0)
		r = wslx_fd_nonblock(p->out_fd, 1);
	if (r == 0 && p->in_fd >= 0)
		r = wslx_fd_nonblock(p->in_fd, 1);
	if (r < 0) {
		console_free(&c->d);
		return r;
	}
	c->out_fd = p->out_fd;
	c->in_fd = p->in_fd;
	*ret = &c->d;
	return 0;
}
