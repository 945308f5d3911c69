/*
 * Streams of a process.  An outlet is read when the host granted credit and
 * the connection's queue has room; an inlet is written at once and buffers at
 * most the window it granted.
 *
 * Watches exist only while something is wanted: epoll reports hang-ups of any
 * watched descriptor, which would spin on a stream that has no credit.  The
 * idle stdin pipe is the exception: its only news, that no reader is left, is
 * passed on as STOP.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent/core.h"
#include "base/bytes.h"
#include "base/cleanup.h"

#define READS_PER_ROUND 4
/* With its header one vsock packet, which Linux cuts at 64 KiB, and whole pages
 * of the pipe. */
#define READ_MAX (60u << 10)
/* What a terminal may deliver after its session leader's end: more than the
 * kernel buffers, yet no endless writer. */
#define TTY_DRAIN_MAX (1u << 20)

/* ---- inlets ---- */

static void on_inlet(struct wslx_watch *w, int fd, uint32_t events, void *opaque);
static void inlet_broken(struct inlet *in);

void wslx_inlet_init(struct inlet *in, struct proc *p, unsigned stream)
{
	*in = (struct inlet) { .p = p, .stream = stream, .fd = -1 };
	wslx_buf_init(&in->buf, STDIN_WINDOW);
}

int wslx_inlet_open(struct inlet *in, int fd)
{
	in->fd = fd;
	in->open = true;
	in->granted = STDIN_WINDOW;
	return 0;
}

/* Not earlier than STARTED: STOP may not precede it, and a child that never
 * got to run is told of by ERROR alone. */
void wslx_inlet_start(struct inlet *in)
{
	if (in->open && !in->watch && in->stream != WSLX_STREAM_TTY &&
	    wslx_loop_watch(in->p->c->g->loop, in->fd, 0, on_inlet, in, &in->watch) < 0)
		inlet_broken(in);
}

void wslx_inlet_close(struct inlet *in)
{
	wslx_watch_free(TAKE_PTR(in->watch));
	wslx_close(&in->fd);
	wslx_buf_free(&in->buf);
	in->at = 0;
	in->open = false;
}

/* Nobody reads stdin any more. */
static void inlet_broken(struct inlet *in)
{
	wslx_inlet_close(in);
	if (!in->eof)
		wslx_conn_send(in->p->c, WSLX_AGENT_STOP, in->p->channel, in->stream, NULL, 0);
}

static void inlet_credit(struct inlet *in, size_t n)
{
	uint8_t body[4];

	in->used += (uint32_t)n;
	if (in->eof || in->used < STDIN_WINDOW / 2)
		return;
	wslx_put_le32(body, in->used);
	in->granted += in->used;
	in->used = 0;
	wslx_conn_send(in->p->c, WSLX_AGENT_CREDIT, in->p->channel, in->stream, body, sizeof(body));
}

/* Returns bytes taken, 0 = not now; closes a broken inlet. */
static size_t inlet_write(struct inlet *in, const uint8_t *p, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = write(in->fd, p + done, n - done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && in->stream == WSLX_STREAM_TTY && errno == EIO) {
			/* No process has the terminal open: input goes nowhere. */
			done = n;
			break;
		}
		if (r < 0 && errno != EAGAIN) {
			inlet_broken(in);
			return n;
		}
		if (r <= 0)
			break;
		done += (size_t)r;
	}
	inlet_credit(in, done);
	return done;
}

/* Watches for room while something is buffered. */
static void inlet_update(struct inlet *in)
{
	bool waiting = in->buf.len > in->at;

	if (!in->open)
		return;
	if (!waiting && in->eof) {
		wslx_inlet_close(in);
		return;
	}
	if (in->watch && (waiting || in->stream != WSLX_STREAM_TTY))
		wslx_watch_set_events(in->watch, waiting ? EPOLLOUT : 0);
	else if (in->watch)
		wslx_watch_free(TAKE_PTR(in->watch));
	else if (waiting && wslx_loop_watch(in->p->c->g->loop, in->fd, EPOLLOUT, on_inlet, in, &in->watch) < 0)
		inlet_broken(in);
}

static void on_inlet(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct inlet *in = opaque;
	struct conn *c = in->p->c;

	wslx_conn_enter(c);
	if (in->buf.len > in->at) {
		size_t n = inlet_write(in, in->buf.data + in->at, in->buf.len - in->at);

		if (in->open) {
			in->at += n;
			if (in->at == in->buf.len)
				in->at = in->buf.len = 0;
		}
	} else if (events & EPOLLERR) {
		inlet_broken(in);
	}
	if (!c->dead)
		inlet_update(in);
	wslx_conn_leave(c);
}

static int inlet_data(struct inlet *in, const struct wslx_agent_msg *m)
{
	const uint8_t *p = m->body;
	size_t n = m->h.len;

	if (in->eof || ((m->h.flags & WSLX_AGENT_F_EOF) && in->stream == WSLX_STREAM_TTY) ||
	    (n == 0 && !(m->h.flags & WSLX_AGENT_F_EOF)))
		return -EPROTO;
	in->eof = m->h.flags & WSLX_AGENT_F_EOF;
	if (!in->open)
		return 0;
	if (n > in->granted)
		return -EPROTO;
	in->granted -= (uint32_t)n;
	if (n && in->buf.len == in->at) {
		size_t done = inlet_write(in, p, n);

		p += done;
		n -= done;
	}
	if (n && in->open) {
		wslx_buf_consume(&in->buf, in->at);
		in->at = 0;
		/* Cannot exceed the window: it was granted. */
		if (wslx_buf_append(&in->buf, p, n) < 0)
			inlet_broken(in);
	}
	inlet_update(in);
	return 0;
}

/* ---- outlets ---- */

void wslx_outlet_init(struct outlet *out, struct proc *p, unsigned stream)
{
	*out = (struct outlet) { .p = p, .stream = stream, .fd = -1 };
}

int wslx_outlet_open(struct outlet *out, int fd, uint32_t credit)
{
	out->fd = fd;
	out->credit = credit;
	out->open = true;
	return 0;
}

void wslx_outlet_close(struct outlet *out)
{
	wslx_watch_free(TAKE_PTR(out->watch));
	wslx_close(&out->fd);
	out->open = false;
}

static void outlet_eof(struct outlet *out)
{
	struct conn *c = out->p->c;
	uint8_t *p;

	wslx_outlet_close(out);
	if (wslx_agent_tx_data_begin(&c->tx, 0, &p) < 0) {
		wslx_conn_drop(c);
		return;
	}
	wslx_agent_tx_data_end(&c->tx, out->p->channel, out->stream, WSLX_AGENT_F_EOF, 0);
	wslx_conn_flush(c);
}

/* 1: go on, 0: not now, -1: end of stream. */
static int outlet_read(struct outlet *out)
{
	struct conn *c = out->p->c;
	size_t want = WSLX_MIN((size_t)out->credit, (size_t)READ_MAX);
	uint8_t *p;
	ssize_t n;

	if (out->draining)
		want = WSLX_MIN(want, out->left);
	if (want == 0 || wslx_agent_tx_pending(&c->tx) >= WSLX_AGENT_TX_HIGH)
		return 0;
	if (wslx_agent_tx_data_begin(&c->tx, want, &p) < 0)
		return 0;
	do {
		n = read(out->fd, p, want);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return out->draining ? -1 : 0;
	if (n <= 0)
		return -1;
	wslx_agent_tx_data_end(&c->tx, out->p->channel, out->stream, 0, (size_t)n);
	out->credit -= (uint32_t)n;
	if (out->draining) {
		out->left -= (size_t)n;
		if (out->left == 0)
			return -1;
	}
	wslx_conn_send_now(c);
	return (size_t)n == want;
}

static void on_outlet(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct outlet *out = opaque;
	struct proc *p = out->p;
	struct conn *c = p->c;
	int r = 1;

	wslx_conn_enter(c);
	for (int i = 0; i < READS_PER_ROUND && r > 0; i++)
		r = outlet_read(out);
	if (r < 0)
		outlet_eof(out);
	if (!c->dead) {
		wslx_outlet_update(out);
		wslx_proc_check_end(p);
	}
	wslx_conn_leave(c);
}

void wslx_outlet_update(struct outlet *out)
{
	struct conn *c = out->p->c;
	uint32_t events = EPOLLIN;
	bool full = wslx_agent_tx_pending(&c->tx) >= WSLX_AGENT_TX_HIGH;

	if (!out->open)
		return;
	if (full)
		c->throttled = true;
	if (full || out->credit == 0 || !out->p->started) {
		wslx_watch_free(TAKE_PTR(out->watch));
		return;
	}
	/* A terminal without data says nothing as long as a left-over process
	 * has it open; being writable, it gives us a turn to find that out. */
	if (out->draining)
		events |= EPOLLOUT;
	if (out->watch)
		wslx_watch_set_events(out->watch, events);
	else if (wslx_loop_watch(c->g->loop, out->fd, events, on_outlet, out, &out->watch) < 0)
		outlet_eof(out);
}

void wslx_outlet_drain(struct outlet *out)
{
	int n = 0;

	if (!out->open || out->draining)
		return;
	out->draining = true;
	if (out->stream == WSLX_STREAM_TTY) {
		out->left = TTY_DRAIN_MAX;
	} else {
		if (ioctl(out->fd, FIONREAD, &n) < 0 || n <= 0) {
			outlet_eof(out);
			return;
		}
		out->left = (size_t)n;
	}
	wslx_outlet_update(out);
}

/* ---- frames ---- */

static struct inlet *inlet_of(struct proc *p, uint32_t stream)
{
	return stream == WSLX_STREAM_STDIN ? &p->in[0] : stream == WSLX_STREAM_TTY ? &p->in[1] : NULL;
}

static struct outlet *outlet_of(struct proc *p, uint32_t stream)
{
	return stream >= WSLX_STREAM_STDOUT && stream < WSLX_STREAM_COUNT ? &p->out[stream - 1] : NULL;
}

static int credit(struct proc *p, const struct wslx_agent_msg *m)
{
	struct outlet *out = outlet_of(p, m->h.id);
	uint32_t n;

	if (!out || wslx_agent_u32_decode(m->body, m->h.len, &n) < 0 || n > WSLX_AGENT_WINDOW_MAX ||
	    out->credit > WSLX_AGENT_WINDOW_MAX - n)
		return -EPROTO;
	out->credit += n;
	wslx_outlet_update(out);
	return 0;
}

int wslx_stream_frame(struct proc *p, const struct wslx_agent_msg *m)
{
	struct outlet *out;

	/* Nothing may be sent before STARTED; credit may. */
	if (m->h.type == WSLX_AGENT_CREDIT)
		return credit(p, m);
	if (m->h.type == WSLX_AGENT_DATA) {
		struct inlet *in = inlet_of(p, m->h.id);
		bool only_eof = m->h.len == 0 && (m->h.flags & WSLX_AGENT_F_EOF);

		return in && (p->started || only_eof) ? inlet_data(in, m) : -EPROTO;
	}
	out = outlet_of(p, m->h.id);
	if (!out || m->h.id == WSLX_STREAM_TTY || m->h.len)
		return -EPROTO;
	wslx_outlet_close(out);
	wslx_proc_check_end(p);
	return 0;
}
