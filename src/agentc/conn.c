/* One connection to an agent: handshake, requests, dispatch.  See agentc.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "agentc/internal.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"
#include "os/linux/fd.h"

#define OK_LINE_MAX 64u
/* Messages read before other watches get their turn. */
#define READS_PER_ROUND 8

static void conn_end(struct wslx_agentc *c, int code, const char *text);
static void set_events(struct wslx_agentc *c);

/* ---- life ---- */

static void release(struct wslx_agentc *c)
{
	if (c->busy == 0 && c->freed)
		free(c);
}

static void drop_io(struct wslx_agentc *c)
{
	wslx_watch_free(TAKE_PTR(c->watch));
	wslx_timer_free(TAKE_PTR(c->hello_timer));
	wslx_timer_free(TAKE_PTR(c->fail_timer));
	wslx_close(&c->fd);
	wslx_agent_tx_free(&c->tx);
	wslx_agent_tx_free(&c->early);
}

void wslx_agentc_free(struct wslx_agentc *c)
{
	if (!c || c->freed)
		return;
	c->freed = true;
	c->state = CONN_DEAD;
	wslx_agentc_exec_free_all(c);
	while (c->requests) {
		struct request *q = c->requests;

		c->requests = q->next;
		free(q);
	}
	drop_io(c);
	/* A message may be under dispatch on the stack below. */
	if (c->busy == 0)
		wslx_agent_rx_free(&c->rx);
	release(c);
}

static void enter(struct wslx_agentc *c)
{
	c->busy++;
}

static void leave(struct wslx_agentc *c)
{
	if (--c->busy == 0 && c->freed)
		wslx_agent_rx_free(&c->rx);
	release(c);
}

bool wslx_agentc_is_ready(const struct wslx_agentc *c)
{
	return c->state == CONN_READY;
}

const struct wslx_agent_hello *wslx_agentc_hello(const struct wslx_agentc *c)
{
	return c->state == CONN_READY ? &c->hello : NULL;
}

/* ---- sending ---- */

static void set_events(struct wslx_agentc *c)
{
	if (c->watch)
		wslx_watch_set_events(c->watch, EPOLLIN | (wslx_agent_tx_pending(&c->tx) ? EPOLLOUT : 0));
}

static void send_pending(struct wslx_agentc *c)
{
	size_t n;

	while (c->state != CONN_CONNECTING && (n = wslx_agent_tx_pending(&c->tx)) > 0) {
		ssize_t done = send(c->fd, wslx_agent_tx_head(&c->tx), n, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (done < 0) {
			/* What went wrong shows up at the next read. */
			if (errno == EINTR)
				continue;
			break;
		}
		wslx_agent_tx_sent(&c->tx, (size_t)done);
		if ((size_t)done < n)
			break;
	}
	set_events(c);
}

void wslx_agentc_flush(struct wslx_agentc *c)
{
	if (c->busy == 0 && c->state != CONN_DEAD)
		send_pending(c);
}

struct wslx_agent_tx *wslx_agentc_tx(struct wslx_agentc *c)
{
	return c->state == CONN_READY ? &c->tx : &c->early;
}

void wslx_agentc_fail_later(struct wslx_agentc *c, int code)
{
	if (c->state == CONN_DEAD || c->fail_code)
		return;
	c->fail_code = code;
	wslx_timer_arm(c->fail_timer, 0);
}

int wslx_agentc_queue(struct wslx_agentc *c, uint16_t type, uint32_t channel, uint32_t id, const void *body, size_t n)
{
	int r;

	if (c->state == CONN_DEAD)
		return -ECONNRESET;
	r = wslx_agent_tx_message(wslx_agentc_tx(c), type, WSLX_AGENT_F_MUST, channel, id, body, n);
	if (r < 0)
		wslx_agentc_fail_later(c, r);
	return r;
}

static int send_hello(struct wslx_agentc *c)
{
	struct wslx_agent_hello h = { .version_min = WSLX_AGENT_VERSION_MIN, .version_max = WSLX_AGENT_VERSION_MAX };
	struct wslx_buf b;
	int r;

	memcpy(h.agent_version, WSLX_VERSION, sizeof(WSLX_VERSION));
	wslx_buf_init(&b, 4096);
	r = wslx_agent_hello_encode(&b, &h);
	if (r == 0)
		r = wslx_agent_tx_message(&c->tx, WSLX_AGENT_HELLO, 0, 0, 0, b.data, b.len);
	wslx_buf_free(&b);
	return r;
}

/* ---- replies ---- */

uint32_t wslx_agentc_new_id(struct wslx_agentc *c)
{
	struct request *q;

	/* Wraps after four milliards; step over ids still waiting. */
	do {
		if (++c->next_id == 0)
			c->next_id = 1;
		for (q = c->requests; q && q->id != c->next_id; q = q->next)
			;
	} while (q);
	return c->next_id;
}

static struct request *take_request(struct wslx_agentc *c, uint32_t id)
{
	for (struct request **pp = &c->requests; *pp; pp = &(*pp)->next) {
		struct request *q = *pp;

		if (q->id == id) {
			*pp = q->next;
			return q;
		}
	}
	return NULL;
}

static int answer_status(struct request *q, const struct wslx_agent_msg *m)
{
	struct wslx_agent_status st;
	int r = wslx_agent_status_decode(m->body, m->h.len, &st);

	if (r < 0)
		return r;
	for (size_t i = 0; i < st.n_distros; i++)
		wslx_sanitize(st.distros[i].name);
	q->fn(q->opaque, &(struct wslx_agentc_reply) { .text = "", .status = &st });
	wslx_agent_status_free(&st);
	return 0;
}

static int answer_started(struct request *q, const struct wslx_agent_msg *m)
{
	struct wslx_agent_distro_started st;
	int r = wslx_agent_distro_started_decode(m->body, m->h.len, &st);

	if (r < 0)
		return r;
	for (size_t i = 0; i < st.n_warnings; i++)
		wslx_sanitize(st.warnings[i]);
	q->fn(q->opaque, &(struct wslx_agentc_reply) { .text = "", .started = &st });
	return 0;
}

static int answer(struct request *q, const struct wslx_agent_msg *m)
{
	struct wslx_agent_error e = { 0 };
	int r;

	if (m->h.type != WSLX_AGENT_ERROR && m->h.type != q->want)
		return -EPROTO;
	if (m->h.type == WSLX_AGENT_STATUS_REPLY)
		return answer_status(q, m);
	if (m->h.type == WSLX_AGENT_DISTRO_STARTED)
		return answer_started(q, m);
	if (m->h.type == WSLX_AGENT_ERROR || m->h.type == WSLX_AGENT_OK) {
		r = wslx_agent_error_decode(m->body, m->h.len, &e);
		if (r < 0)
			return r;
		if (m->h.type == WSLX_AGENT_OK)
			e.code = 0;
		else if (!e.code)
			e.code = EIO;
		wslx_sanitize(e.text);
	}
	q->fn(q->opaque, &(struct wslx_agentc_reply) { .code = -e.code, .text = e.text });
	return 0;
}

static int reply_frame(struct wslx_agentc *c, const struct wslx_agent_msg *m)
{
	struct request *q = take_request(c, m->h.id);
	int r;

	if (!q)
		return -EPROTO;
	r = answer(q, m);
	/* A malformed reply still is the one reply its requester gets. */
	if (r < 0 && !c->freed)
		q->fn(q->opaque, &(struct wslx_agentc_reply) { .code = r, .text = "the agent's reply is malformed" });
	free(q);
	return r;
}

static void fail_requests(struct wslx_agentc *c, int code, const char *text)
{
	while (c->requests && !c->freed) {
		struct request *q = c->requests;

		c->requests = q->next;
		q->fn(q->opaque, &(struct wslx_agentc_reply) { .code = code, .text = text });
		free(q);
	}
}

void wslx_agentc_abort(struct wslx_agentc *c)
{
	if (!c || c->freed)
		return;
	enter(c);
	c->state = CONN_DEAD; /* no new requests from the callbacks */
	fail_requests(c, -ECONNRESET, "the connection to the machine was lost");
	wslx_agentc_free(c);
	leave(c);
}

/* ---- dispatch ---- */

static int event_frame(struct wslx_agentc *c, const struct wslx_agent_msg *m)
{
	struct wslx_agent_event ev;
	int r = wslx_agent_event_decode(m->body, m->h.len, &ev);

	if (r < 0)
		return r;
	wslx_sanitize(ev.distro);
	wslx_sanitize(ev.text);
	if (c->events.event)
		c->events.event(c->opaque, &ev);
	return 0;
}

static int hello_frame(struct wslx_agentc *c, const struct wslx_agent_msg *m)
{
	struct wslx_agent_hello ours = { .version_min = WSLX_AGENT_VERSION_MIN, .version_max = WSLX_AGENT_VERSION_MAX };
	int r;

	if (m->h.type != WSLX_AGENT_HELLO || m->h.channel || m->h.id)
		return -EPROTO;
	r = wslx_agent_hello_decode(m->body, m->h.len, &c->hello);
	if (r < 0)
		return r;
	r = wslx_agent_version_pick(&ours, &c->hello);
	if (r < 0)
		return r;
	wslx_sanitize(c->hello.agent_version);
	wslx_sanitize(c->hello.kernel_release);
	wslx_timer_disarm(c->hello_timer);
	c->state = CONN_READY;
	if (wslx_agent_tx_pending(&c->early)) {
		r = wslx_buf_append(&c->tx.out, wslx_agent_tx_head(&c->early), wslx_agent_tx_pending(&c->early));
		if (r < 0)
			return r;
	}
	wslx_agent_tx_free(&c->early);
	if (c->events.ready)
		c->events.ready(c->opaque, &c->hello);
	return 0;
}

/* ERROR about the connection itself. */
static int fatal_frame(struct wslx_agentc *c, const struct wslx_agent_msg *m)
{
	struct wslx_agent_error e;

	if (wslx_agent_error_decode(m->body, m->h.len, &e) < 0)
		return -EPROTO;
	wslx_sanitize(e.text);
	conn_end(c, -(e.code ? e.code : EIO), *e.text ? e.text : "the agent gave up the connection");
	return 0;
}

static int frame(struct wslx_agentc *c, const struct wslx_agent_msg *m)
{
	if (m->h.type == WSLX_AGENT_ERROR && m->h.id == 0 && m->h.channel == 0)
		return fatal_frame(c, m);
	if (c->state == CONN_HELLO)
		return hello_frame(c, m);
	if ((m->h.flags & WSLX_AGENT_F_EOF) && m->h.type != WSLX_AGENT_DATA)
		return -EPROTO;
	switch (m->h.type) {
	case WSLX_AGENT_OK:
	case WSLX_AGENT_ERROR:
	case WSLX_AGENT_STARTED:
		if (m->h.channel)
			return wslx_agentc_exec_reply(c, m);
		return reply_frame(c, m);
	case WSLX_AGENT_PONG:
	case WSLX_AGENT_DISTRO_STARTED:
	case WSLX_AGENT_STATUS_REPLY:
		return reply_frame(c, m);
	case WSLX_AGENT_PING:
		if (m->h.len > 256)
			return -EPROTO;
		return wslx_agentc_queue(c, WSLX_AGENT_PONG, 0, m->h.id, m->body, m->h.len);
	case WSLX_AGENT_DATA:
	case WSLX_AGENT_CREDIT:
	case WSLX_AGENT_STOP:
	case WSLX_AGENT_EXIT:
		return wslx_agentc_exec_frame(c, m);
	case WSLX_AGENT_EVENT:
		return event_frame(c, m);
	case WSLX_AGENT_HELLO:
		return -EPROTO;
	default:
		/* A later version's notice; the agent may not ask anything of a host. */
		return m->h.flags & WSLX_AGENT_F_MUST ? -EPROTO : 0;
	}
}

/* "OK <port>\n".  1: consumed, 0: more needed. */
static int ok_line(struct wslx_agentc *c)
{
	const uint8_t *p = c->rx.in.data + c->rx.at;
	size_t have = c->rx.in.len - c->rx.at;
	const uint8_t *nl = memchr(p, '\n', WSLX_MIN(have, (size_t)OK_LINE_MAX));

	if (!nl)
		return have >= OK_LINE_MAX ? -EPROTO : 0;
	if (nl - p < 3 || memcmp(p, "OK ", 3) != 0)
		return -ECONNREFUSED;
	c->rx.at += (size_t)(nl - p) + 1;
	c->state = CONN_HELLO;
	return 1;
}

static int dispatch_all(struct wslx_agentc *c)
{
	struct wslx_agent_msg m;
	int r;

	if (c->state == CONN_CONNECTING) {
		r = ok_line(c);
		if (r <= 0)
			return r;
		r = send_hello(c);
		if (r < 0)
			return r;
	}
	while (!c->freed && c->state != CONN_DEAD) {
		r = wslx_agent_rx_next(&c->rx, &m);
		if (r <= 0)
			return r;
		r = frame(c, &m);
		if (r < 0)
			return r;
	}
	return 0;
}

/* 1: there may be more, 0: not now, 2: end of stream, or -errno. */
static int read_some(struct wslx_agentc *c)
{
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
	r = dispatch_all(c);
	return r < 0 ? r : (size_t)n == room;
}

static const char *why(struct wslx_agentc *c, int code)
{
	switch (code) {
	case -EPROTO:
		return "the agent broke the protocol";
	case -EPROTONOSUPPORT:
		return "the agent speaks no version of the protocol that this program speaks";
	case -ECONNREFUSED:
		return "the machine's agent does not take connections";
	case -ECONNRESET:
		return "the connection to the machine was lost";
	case -ETIMEDOUT:
		return "the machine's agent did not answer in time";
	default:
		return strerror(-code);
	}
}

static void readable(struct wslx_agentc *c)
{
	int r = 0;

	for (int i = 0; i < READS_PER_ROUND && !c->freed && c->state != CONN_DEAD; i++) {
		r = read_some(c);
		if (r != 1)
			break;
	}
	if (c->freed || c->state == CONN_DEAD || r == 0 || r == 1)
		return;
	if (r < 0)
		conn_end(c, r, why(c, r));
	else if (c->state == CONN_CONNECTING)
		conn_end(c, -ECONNREFUSED, why(c, -ECONNREFUSED));
	else
		conn_end(c, c->state == CONN_READY ? 0 : -ECONNRESET, "the agent closed the connection");
}

static void on_io(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_agentc *c = opaque;

	enter(c);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		readable(c);
	if (!c->freed && c->state != CONN_DEAD) {
		send_pending(c);
		if (c->room_wanted && wslx_agent_tx_pending(&c->tx) < WSLX_AGENT_TX_HIGH / 2) {
			wslx_agentc_exec_room_again(c);
			if (!c->freed && c->state != CONN_DEAD)
				send_pending(c);
		}
	}
	leave(c);
}

/* code 0: the agent closed in order. */
static void conn_end(struct wslx_agentc *c, int code, const char *text)
{
	struct wslx_err err = { 0 };

	if (c->state == CONN_DEAD)
		return;
	enter(c);
	c->state = CONN_DEAD;
	wslx_err_set(&err, code ? -code : ECONNRESET, "%s", text);
	drop_io(c);
	wslx_agentc_exec_lost(c, code ? code : -ECONNRESET, err.msg);
	fail_requests(c, code ? code : -ECONNRESET, err.msg);
	err.code = -code;
	if (!c->freed && c->events.closed)
		c->events.closed(c->opaque, &err);
	leave(c);
}

static void on_hello_timeout(struct wslx_timer *t, void *opaque)
{
	conn_end(opaque, -ETIMEDOUT, why(opaque, -ETIMEDOUT));
}

static void on_fail(struct wslx_timer *t, void *opaque)
{
	struct wslx_agentc *c = opaque;

	conn_end(c, c->fail_code, why(c, c->fail_code));
}

/* ---- making one ---- */

static int conn_new(struct wslx_loop *loop, int fd, const struct wslx_agentc_events *events, void *opaque,
		    enum conn_state state, struct wslx_agentc **ret)
{
	struct wslx_agentc *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->loop = loop;
	c->fd = -1;
	c->state = state;
	if (events)
		c->events = *events;
	c->opaque = opaque;
	wslx_agent_rx_init(&c->rx);
	wslx_agent_tx_init(&c->tx);
	wslx_agent_tx_init(&c->early);
	r = wslx_loop_timer(loop, on_hello_timeout, c, &c->hello_timer);
	if (r == 0)
		r = wslx_loop_timer(loop, on_fail, c, &c->fail_timer);
	if (r == 0 && state == CONN_HELLO)
		r = send_hello(c);
	if (r == 0)
		r = wslx_loop_watch(loop, fd, EPOLLIN, on_io, c, &c->watch);
	if (r < 0) {
		wslx_agentc_free(c);
		return r;
	}
	c->fd = fd;
	send_pending(c);
	*ret = c;
	return 0;
}

int wslx_agentc_new(struct wslx_loop *loop, int fd, const struct wslx_agentc_events *events, void *opaque,
		    struct wslx_agentc **ret)
{
	return conn_new(loop, fd, events, opaque, CONN_HELLO, ret);
}

int wslx_agentc_connect(struct wslx_loop *loop, const char *vsock_path, unsigned timeout_ms,
			const struct wslx_agentc_events *events, void *opaque, struct wslx_agentc **ret,
			struct wslx_err *err)
{
	char line[32];
	unsigned limit = timeout_ms ? timeout_ms : WSLX_AGENTC_CONNECT_MS;
	int64_t end = wslx_now_ms() + limit, left;
	cleanup_close int fd = wslx_unix_connect_within(vsock_path, SOCK_STREAM | SOCK_CLOEXEC, limit);
	int n, r;

	if (fd == -ETIMEDOUT)
		return wslx_err_set(err, ETIMEDOUT, "the machine at %s takes no connections: it hangs", vsock_path);
	if (fd < 0)
		return wslx_err_sys(err, -fd, "cannot reach the machine at %s", vsock_path);
	n = snprintf(line, sizeof(line), "CONNECT %u\n", WSLX_AGENT_PORT);
	/* Fits any socket buffer, so this does not block. */
	if (send(fd, line, (size_t)n, MSG_NOSIGNAL) != n)
		return wslx_err_sys(err, errno, "cannot reach the machine at %s", vsock_path);
	r = conn_new(loop, fd, events, opaque, CONN_CONNECTING, ret);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot talk to the machine's agent");
	TAKE_FD(fd);
	left = end - wslx_now_ms();
	wslx_timer_arm((*ret)->hello_timer, left > 0 ? (uint64_t)left : 0);
	return 0;
}

/* ---- requests ---- */

static int request(struct wslx_agentc *c, uint16_t type, uint16_t want, const struct wslx_buf *body,
		   wslx_agentc_reply_fn fn, void *opaque)
{
	struct request *q;
	int r;

	if (c->state == CONN_DEAD)
		return -ECONNRESET;
	q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	q->id = wslx_agentc_new_id(c);
	q->want = want;
	q->fn = fn;
	q->opaque = opaque;
	r = wslx_agentc_queue(c, type, 0, q->id, body ? body->data : NULL, body ? body->len : 0);
	if (r < 0) {
		free(q);
		return r;
	}
	q->next = c->requests;
	c->requests = q;
	wslx_agentc_flush(c);
	return 0;
}

/* Body by an encoder, then the request. */
#define REQUEST_WITH(encode, type, want)                                                                               \
	struct wslx_buf b;                                                                                             \
	int r;                                                                                                         \
	wslx_buf_init(&b, WSLX_AGENT_MESSAGE_MAX);                                                                     \
	r = encode;                                                                                                    \
	if (r == 0)                                                                                                    \
		r = request(c, type, want, &b, fn, opaque);                                                            \
	wslx_buf_free(&b);                                                                                             \
	return r

int wslx_agentc_config(struct wslx_agentc *c, const struct wslx_agent_config *m, wslx_agentc_reply_fn fn, void *opaque)
{
	REQUEST_WITH(wslx_agent_config_encode(&b, m), WSLX_AGENT_CONFIG, WSLX_AGENT_OK);
}

int wslx_agentc_distro_start(struct wslx_agentc *c, const struct wslx_agent_distro *m, wslx_agentc_reply_fn fn,
			     void *opaque)
{
	REQUEST_WITH(wslx_agent_distro_encode(&b, m), WSLX_AGENT_DISTRO_START, WSLX_AGENT_DISTRO_STARTED);
}

int wslx_agentc_distro_stop(struct wslx_agentc *c, const char *name, uint32_t timeout_ms, wslx_agentc_reply_fn fn,
			    void *opaque)
{
	struct wslx_agent_distro m = { .timeout_ms = timeout_ms };

	if (strlen(name) > WSLX_AGENT_NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(m.name, name, strlen(name) + 1);
	REQUEST_WITH(wslx_agent_distro_encode(&b, &m), WSLX_AGENT_DISTRO_STOP, WSLX_AGENT_OK);
}

int wslx_agentc_shutdown(struct wslx_agentc *c, enum wslx_agent_shutdown how, uint32_t timeout_ms,
			 wslx_agentc_reply_fn fn, void *opaque)
{
	REQUEST_WITH(wslx_agent_shutdown_encode(&b, how, timeout_ms), WSLX_AGENT_SHUTDOWN, WSLX_AGENT_OK);
}

int wslx_agentc_pause(struct wslx_agentc *c, wslx_agentc_reply_fn fn, void *opaque)
{
	return request(c, WSLX_AGENT_PAUSE, WSLX_AGENT_OK, NULL, fn, opaque);
}

int wslx_agentc_resume(struct wslx_agentc *c, wslx_agentc_reply_fn fn, void *opaque)
{
	return request(c, WSLX_AGENT_RESUME, WSLX_AGENT_OK, NULL, fn, opaque);
}

int wslx_agentc_sync(struct wslx_agentc *c, wslx_agentc_reply_fn fn, void *opaque)
{
	return request(c, WSLX_AGENT_SYNC, WSLX_AGENT_OK, NULL, fn, opaque);
}

int wslx_agentc_status(struct wslx_agentc *c, wslx_agentc_reply_fn fn, void *opaque)
{
	return request(c, WSLX_AGENT_STATUS, WSLX_AGENT_STATUS_REPLY, NULL, fn, opaque);
}

int wslx_agentc_ping(struct wslx_agentc *c, wslx_agentc_reply_fn fn, void *opaque)
{
	return request(c, WSLX_AGENT_PING, WSLX_AGENT_PONG, NULL, fn, opaque);
}
