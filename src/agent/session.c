/*
 * One connection: HELLO, dispatch of requests, the outgoing queue.
 *
 * Back-pressure: outputs are read only while the queue is below
 * WSLX_AGENT_TX_HIGH; when it is over TX_STOP (replies to a host that asks and
 * does not read) the connection is not read either until it drains.  Both hold
 * back this connection alone.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/core.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"

#define TX_STOP (2u << 20)
#define READS_PER_ROUND 4

static void set_events(struct conn *c)
{
	size_t pending = wslx_agent_tx_pending(&c->tx);

	wslx_watch_set_events(c->watch, (pending < TX_STOP ? EPOLLIN : 0) | (pending ? EPOLLOUT : 0));
}

static void free_conn(struct conn *c)
{
	struct wslx_guest *g = c->g;
	bool control = c->control;

	wslx_agent_rx_free(&c->rx);
	wslx_agent_tx_free(&c->tx);
	free(c);
	if (control && g->ops->control_lost)
		g->ops->control_lost(g->opaque);
}

static void teardown(struct conn *c)
{
	for (unsigned i = 0; i < PROC_BUCKETS; i++)
		while (c->procs[i])
			wslx_proc_hangup(c->procs[i]);
	if (c->prev)
		c->prev->next = c->next;
	else
		c->g->conns = c->next;
	if (c->next)
		c->next->prev = c->prev;
	c->g->n_conns--;
	wslx_watch_free(TAKE_PTR(c->watch));
	wslx_close(&c->fd);
	free_conn(c);
}

void wslx_conn_drop(struct conn *c)
{
	c->dead = true;
	if (c->busy == 0)
		teardown(c);
}

struct conn *wslx_conn_find(struct wslx_guest *g, uint64_t serial)
{
	struct conn *c = g->conns;

	while (c && c->serial != serial)
		c = c->next;
	return c;
}

/* ---- sending ---- */

static void send_pending(struct conn *c)
{
	size_t n;

	while ((n = wslx_agent_tx_pending(&c->tx)) > 0) {
		ssize_t done = send(c->fd, wslx_agent_tx_head(&c->tx), n, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (done < 0) {
			if (errno == EINTR)
				continue;
			break; /* a broken connection shows at the next read */
		}
		wslx_agent_tx_sent(&c->tx, (size_t)done);
		if ((size_t)done < n)
			break;
	}
	set_events(c);
}

void wslx_conn_send_now(struct conn *c)
{
	if (!c->dead)
		send_pending(c);
}

void wslx_conn_enter(struct conn *c)
{
	c->busy++;
}

void wslx_conn_leave(struct conn *c)
{
	if (--c->busy)
		return;
	if (c->dead)
		teardown(c);
	else
		send_pending(c);
}

void wslx_conn_flush(struct conn *c)
{
	if (!c->dead && c->busy == 0)
		send_pending(c);
}

void wslx_conn_send(struct conn *c, uint16_t type, uint32_t channel, uint32_t id, const void *body, size_t n)
{
	if (c->dead)
		return;
	if (wslx_agent_tx_message(&c->tx, type, 0, channel, id, body, n) < 0) {
		log_warn("a connection does not read its replies; dropped");
		wslx_conn_drop(c);
		return;
	}
	wslx_conn_flush(c);
}

static int send_hello(struct conn *c)
{
	struct wslx_buf b;
	int r;

	wslx_buf_init(&b, 4096);
	r = wslx_agent_hello_encode(&b, &c->g->hello);
	if (r == 0)
		r = wslx_agent_tx_message(&c->tx, WSLX_AGENT_HELLO, 0, 0, 0, b.data, b.len);
	wslx_buf_free(&b);
	return r;
}

/* Tells the peer why and drops the connection. */
static void refuse(struct conn *c, int code, const char *text)
{
	struct wslx_guest_call call = { .conn = c->serial };

	log_debug("connection refused: %s", text);
	wslx_guest_reply_error(c->g, &call, code, "%s", text);
	if (c->dead)
		return;
	send_pending(c);
	wslx_conn_drop(c);
}

/* Outputs that waited for the queue. */
static void unthrottle(struct conn *c)
{
	if (!c->throttled || wslx_agent_tx_pending(&c->tx) > WSLX_AGENT_TX_HIGH / 2)
		return;
	c->throttled = false;
	for (unsigned i = 0; i < PROC_BUCKETS; i++)
		for (struct proc *p = c->procs[i]; p; p = p->next)
			for (unsigned k = 0; k < ARRAY_SIZE(p->out); k++)
				wslx_outlet_update(&p->out[k]);
}

/* ---- dispatch ---- */

static int hello(struct conn *c, const struct wslx_agent_msg *m)
{
	struct wslx_agent_hello h;
	int r;

	if (m->h.type != WSLX_AGENT_HELLO || m->h.channel || m->h.id)
		return -EPROTO;
	r = wslx_agent_hello_decode(m->body, m->h.len, &h);
	if (r < 0)
		return r;
	r = wslx_agent_version_pick(&c->g->hello, &h);
	if (r < 0)
		return r;
	c->hello_seen = true;
	if (c->control && c->g->ops->control_ready)
		c->g->ops->control_ready(c->g->opaque);
	return 0;
}

static void status(struct conn *c, const struct wslx_guest_call *call)
{
	struct wslx_agent_status st = { .execs = c->g->n_procs };
	struct wslx_buf b;

	wslx_buf_init(&b, WSLX_AGENT_MESSAGE_MAX);
	if (c->g->ops->status)
		c->g->ops->status(c->g->opaque, &st);
	if (wslx_agent_status_encode(&b, &st) == 0)
		wslx_guest_reply(c->g, call, WSLX_AGENT_STATUS_REPLY, &b);
	else
		wslx_guest_reply_error(c->g, call, ENOMEM, "no memory for a status");
	wslx_buf_free(&b);
	wslx_agent_status_free(&st);
}

static int machine_request(struct conn *c, const struct wslx_agent_msg *m)
{
	struct wslx_guest_call call = { .conn = c->serial, .channel = m->h.channel, .id = m->h.id };

	if (m->h.id == 0)
		return -EPROTO;
	if (m->h.type == WSLX_AGENT_STATUS)
		status(c, &call);
	else if (m->h.type != WSLX_AGENT_SYNC && !c->control)
		wslx_guest_reply_error(c->g, &call, EPERM, "this request belongs on the control connection");
	else if (c->g->ops->request)
		c->g->ops->request(c->g->opaque, &call, m);
	else
		wslx_guest_reply_error(c->g, &call, ENOSYS, "this agent cannot do that");
	return 0;
}

static int channel_frame(struct conn *c, const struct wslx_agent_msg *m)
{
	struct proc *p;

	if (m->h.channel == 0)
		return -EPROTO;
	p = wslx_proc_find(c, m->h.channel);
	/* It crossed our EXIT. */
	if (!p)
		return 0;
	switch (m->h.type) {
	case WSLX_AGENT_DATA:
	case WSLX_AGENT_CREDIT:
	case WSLX_AGENT_STOP:
		return wslx_stream_frame(p, m);
	default:
		return wslx_proc_control(p, m);
	}
}

static int frame(struct conn *c, const struct wslx_agent_msg *m)
{
	struct wslx_guest_call call = { .conn = c->serial, .channel = m->h.channel, .id = m->h.id };

	if (!c->hello_seen)
		return hello(c, m);
	if ((m->h.flags & WSLX_AGENT_F_EOF) && m->h.type != WSLX_AGENT_DATA)
		return -EPROTO;
	switch (m->h.type) {
	case WSLX_AGENT_PING:
		if (m->h.len > 256)
			return -EPROTO;
		wslx_conn_send(c, WSLX_AGENT_PONG, m->h.channel, m->h.id, m->body, m->h.len);
		return 0;
	case WSLX_AGENT_PONG:
		return 0;
	case WSLX_AGENT_CONFIG:
	case WSLX_AGENT_DISTRO_START:
	case WSLX_AGENT_DISTRO_STOP:
	case WSLX_AGENT_PAUSE:
	case WSLX_AGENT_RESUME:
	case WSLX_AGENT_SHUTDOWN:
	case WSLX_AGENT_STATUS:
	case WSLX_AGENT_SYNC:
		return machine_request(c, m);
	case WSLX_AGENT_EXEC:
		return wslx_proc_exec(c, m);
	case WSLX_AGENT_DATA:
	case WSLX_AGENT_CREDIT:
	case WSLX_AGENT_STOP:
	case WSLX_AGENT_WINSIZE:
	case WSLX_AGENT_SIGNAL:
	case WSLX_AGENT_HANGUP:
		return channel_frame(c, m);
	case WSLX_AGENT_ERROR:
		/* About the connection: the host gives up. */
		return m->h.id == 0 && m->h.channel == 0 ? -ECONNRESET : 0;
	case WSLX_AGENT_HELLO:
		return -EPROTO;
	default:
		if (m->h.flags & WSLX_AGENT_F_MUST)
			wslx_guest_reply_error(c->g, &call, ENOSYS, "this agent does not know message type %u",
					       m->h.type);
		return 0;
	}
}

/* 1: there may be more, 0: not now, 2: end, -errno. */
static int read_some(struct conn *c)
{
	struct wslx_agent_msg m;
	uint8_t *p;
	size_t room;
	ssize_t n;
	int r = wslx_agent_rx_space(&c->rx, &p, &room);

	if (r < 0)
		return r;
	n = recv(c->fd, p, room, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return 2;
	wslx_agent_rx_filled(&c->rx, (size_t)n);
	while (!c->dead && (r = wslx_agent_rx_next(&c->rx, &m)) > 0) {
		r = frame(c, &m);
		if (r < 0)
			break;
	}
	return r < 0 ? r : (size_t)n == room;
}

static void on_io(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct conn *c = opaque;
	int r = 1;

	wslx_conn_enter(c);
	for (int i = 0; i < READS_PER_ROUND && r == 1 && !c->dead && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)); i++)
		r = read_some(c);
	if (!c->dead && r == -EPROTO)
		refuse(c, EPROTO, "protocol violation");
	else if (!c->dead && r == -EPROTONOSUPPORT)
		refuse(c, EPROTONOSUPPORT, "no common protocol version");
	else if (!c->dead && (r < 0 || r == 2))
		wslx_conn_drop(c);
	if (!c->dead) {
		send_pending(c);
		unthrottle(c);
		send_pending(c);
	}
	wslx_conn_leave(c);
}

int wslx_guest_serve(struct wslx_guest *g, int fd, bool control)
{
	struct conn *c;
	int r;

	if (g->n_conns >= GUEST_MAX_CONNS) {
		close(fd);
		return -EUSERS;
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		close(fd);
		return -ENOMEM;
	}
	c->g = g;
	c->fd = fd;
	c->control = control;
	c->serial = ++g->next_conn;
	wslx_agent_rx_init(&c->rx);
	wslx_agent_tx_init(&c->tx);
	r = send_hello(c);
	if (r == 0)
		r = wslx_loop_watch(g->loop, fd, EPOLLIN, on_io, c, &c->watch);
	if (r < 0) {
		close(fd);
		wslx_agent_tx_free(&c->tx);
		free(c);
		return r;
	}
	c->next = g->conns;
	if (c->next)
		c->next->prev = c;
	g->conns = c;
	g->n_conns++;
	send_pending(c);
	return 0;
}
