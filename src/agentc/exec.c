/*
 * Processes on a connection: credit in both directions, stream ends, EXIT.
 * See agentc.h.  A channel lives in the connection's table from EXEC to EXIT;
 * frames for other channels crossed an EXIT or HANGUP and are ignored.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agentc/internal.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/text.h"

static bool receives(unsigned stream)
{
	return stream == WSLX_STREAM_STDOUT || stream == WSLX_STREAM_STDERR || stream == WSLX_STREAM_TTY;
}

static bool sends(unsigned stream)
{
	return stream == WSLX_STREAM_STDIN || stream == WSLX_STREAM_TTY;
}

/* ---- table ---- */

static struct wslx_agentc_exec **slot(struct wslx_agentc *c, uint32_t channel)
{
	struct wslx_agentc_exec **pp = &c->execs[channel % EXEC_BUCKETS];

	while (*pp && (*pp)->channel != channel)
		pp = &(*pp)->next;
	return pp;
}

static void unlink_exec(struct wslx_agentc_exec *e)
{
	struct wslx_agentc_exec **pp;

	if (!e->c)
		return;
	pp = slot(e->c, e->channel);
	*pp = e->next;
	e->c = NULL;
	e->next = NULL;
}

static void unlink_ended(struct wslx_agentc_exec *e)
{
	struct wslx_agentc_exec **pp = &e->owner->ended;

	while (*pp && *pp != e)
		pp = &(*pp)->next;
	if (*pp)
		*pp = e->next;
}

static void leave(struct wslx_agentc_exec *e)
{
	if (--e->busy == 0 && e->freed)
		free(e);
}

/* CALL(e, op, args): the callback if there is one and e was not freed. */
#define CALL(e, op, ...)                                                                                               \
	do {                                                                                                           \
		if (!(e)->freed && (e)->ops.op)                                                                        \
			(e)->ops.op((e)->opaque, __VA_ARGS__);                                                         \
	} while (0)

/* ---- start ---- */

static uint32_t new_channel(struct wslx_agentc *c)
{
	do {
		if (++c->next_channel == 0)
			c->next_channel = 1;
	} while (*slot(c, c->next_channel));
	return c->next_channel;
}

int wslx_agentc_exec_start(struct wslx_agentc *c, const struct wslx_agent_exec *params,
			   const struct wslx_agentc_exec_ops *ops, void *opaque, struct wslx_agentc_exec **ret)
{
	struct wslx_agent_exec m = *params;
	struct wslx_agentc_exec *e;
	struct wslx_buf b;
	int r;

	if (c->state == CONN_DEAD)
		return -ECONNRESET;
	if (!m.window)
		m.window = WSLX_AGENT_WINDOW_DEFAULT;
	if (m.window > WSLX_AGENT_WINDOW_MAX)
		return -EINVAL;
	e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	e->channel = new_channel(c);
	e->request_id = wslx_agentc_new_id(c);
	e->ops = *ops;
	e->opaque = opaque;
	e->window = m.window;
	for (unsigned i = 0; i < WSLX_STREAM_COUNT; i++)
		e->s[i].granted = receives(i) ? m.window : 0;
	wslx_buf_init(&b, WSLX_AGENT_MESSAGE_MAX);
	r = wslx_agent_exec_encode(&b, &m);
	if (r == 0)
		r = wslx_agentc_queue(c, WSLX_AGENT_EXEC, e->channel, e->request_id, b.data, b.len);
	wslx_buf_free(&b);
	if (r < 0) {
		free(e);
		return r;
	}
	e->c = e->owner = c;
	e->next = c->execs[e->channel % EXEC_BUCKETS];
	c->execs[e->channel % EXEC_BUCKETS] = e;
	wslx_agentc_flush(c);
	*ret = e;
	return 0;
}

/* ---- end ---- */

static void end_exec(struct wslx_agentc_exec *e, const struct wslx_agentc_exit *x)
{
	unlink_exec(e);
	e->ended = true;
	e->next = e->owner->ended;
	e->owner->ended = e;
	e->busy++;
	CALL(e, exited, x);
	leave(e);
}

void wslx_agentc_exec_lost(struct wslx_agentc *c, int code, const char *text)
{
	struct wslx_agentc_exit x = { .end = WSLX_AGENTC_LOST, .status = 255, .code = code, .text = text };

	for (unsigned i = 0; i < EXEC_BUCKETS; i++)
		while (c->execs[i])
			end_exec(c->execs[i], &x);
}

void wslx_agentc_exec_free_all(struct wslx_agentc *c)
{
	for (unsigned i = 0; i < EXEC_BUCKETS; i++)
		while (c->execs[i])
			wslx_agentc_exec_free(c->execs[i]);
	while (c->ended)
		wslx_agentc_exec_free(c->ended);
}

void wslx_agentc_exec_free(struct wslx_agentc_exec *e)
{
	struct wslx_agentc *c;

	if (!e || e->freed)
		return;
	c = e->c;
	if (c) {
		uint32_t channel = e->channel;

		unlink_exec(e);
		if (c->state != CONN_DEAD) {
			(void)!wslx_agentc_queue(c, WSLX_AGENT_HANGUP, channel, 0, NULL, 0);
			wslx_agentc_flush(c);
		}
	} else {
		unlink_ended(e);
	}
	e->freed = true;
	if (e->busy == 0)
		free(e);
}

/* ---- from the agent ---- */

static int started(struct wslx_agentc_exec *e, const struct wslx_agent_msg *m)
{
	struct wslx_agent_started st;
	int r = wslx_agent_started_decode(m->body, m->h.len, &st);

	if (r < 0)
		return r;
	e->started = true;
	for (size_t i = 0; i < st.n_warnings; i++)
		wslx_sanitize(st.warnings[i]);
	for (unsigned i = 0; i < WSLX_STREAM_COUNT; i++)
		e->s[i].credit = sends(i) ? st.window : 0;
	e->busy++;
	CALL(e, started, &st);
	for (unsigned i = 0; i < WSLX_STREAM_COUNT && !e->ended; i++)
		if (sends(i) && st.window)
			CALL(e, writable, i);
	leave(e);
	return 0;
}

static int refused(struct wslx_agentc_exec *e, const struct wslx_agent_msg *m)
{
	struct wslx_agentc_exit x = { .end = WSLX_AGENTC_FAILED };
	struct wslx_agent_error err;
	int r = wslx_agent_error_decode(m->body, m->h.len, &err);

	if (r < 0)
		return r;
	wslx_sanitize(err.text);
	x.code = err.code ? -err.code : -EIO;
	x.status = err.exit_status > 0 ? err.exit_status : 255;
	x.text = *err.text ? err.text : strerror(-x.code);
	end_exec(e, &x);
	return 0;
}

int wslx_agentc_exec_reply(struct wslx_agentc *c, const struct wslx_agent_msg *m)
{
	struct wslx_agentc_exec *e = *slot(c, m->h.channel);

	if (!e)
		return 0;
	if (e->started || m->h.id != e->request_id || m->h.type == WSLX_AGENT_OK)
		return -EPROTO;
	return m->h.type == WSLX_AGENT_STARTED ? started(e, m) : refused(e, m);
}

static int data_frame(struct wslx_agentc_exec *e, const struct wslx_agent_msg *m)
{
	unsigned s = m->h.id;
	uint32_t n = m->h.len;

	if (s >= WSLX_STREAM_COUNT || !receives(s) || e->s[s].in_end || (n == 0 && !(m->h.flags & WSLX_AGENT_F_EOF)))
		return -EPROTO;
	e->busy++;
	if (n && !e->s[s].in_stopped) {
		if (n > e->s[s].granted) {
			leave(e);
			return -EPROTO;
		}
		e->s[s].granted -= n;
		e->s[s].held += n;
		if (e->ops.data)
			CALL(e, data, s, m->body, n);
		else
			wslx_agentc_exec_consumed(e, s, n);
	}
	if (m->h.flags & WSLX_AGENT_F_EOF) {
		e->s[s].in_end = true;
		CALL(e, eof, s);
	}
	leave(e);
	return 0;
}

static int credit_frame(struct wslx_agentc_exec *e, const struct wslx_agent_msg *m)
{
	unsigned s = m->h.id;
	uint32_t n;

	if (s >= WSLX_STREAM_COUNT || !sends(s) || wslx_agent_u32_decode(m->body, m->h.len, &n) < 0 ||
	    n > WSLX_AGENT_WINDOW_MAX || e->s[s].credit > WSLX_AGENT_WINDOW_MAX - n)
		return -EPROTO;
	e->s[s].credit += n;
	if (e->s[s].starved && n) {
		e->s[s].starved = false;
		e->busy++;
		CALL(e, writable, s);
		leave(e);
	}
	return 0;
}

static int stop_frame(struct wslx_agentc_exec *e, const struct wslx_agent_msg *m)
{
	unsigned s = m->h.id;

	if (s >= WSLX_STREAM_COUNT || !sends(s) || m->h.len)
		return -EPROTO;
	if (e->s[s].out_stopped)
		return 0;
	e->s[s].out_stopped = true;
	e->busy++;
	CALL(e, stopped, s);
	leave(e);
	return 0;
}

static int exit_frame(struct wslx_agentc_exec *e, const struct wslx_agent_msg *m)
{
	struct wslx_agentc_exit x = { .end = WSLX_AGENTC_EXITED, .text = "" };
	struct wslx_agent_exit ex;
	int r = wslx_agent_exit_decode(m->body, m->h.len, &ex);

	if (r < 0)
		return r;
	x.status = (int)ex.status;
	if (ex.signal) {
		x.end = WSLX_AGENTC_SIGNALED;
		x.signal = (int)ex.signal;
		x.status = 128 + x.signal;
	}
	end_exec(e, &x);
	return 0;
}

int wslx_agentc_exec_frame(struct wslx_agentc *c, const struct wslx_agent_msg *m)
{
	struct wslx_agentc_exec *e = *slot(c, m->h.channel);

	if (m->h.channel == 0)
		return -EPROTO;
	if (!e)
		return 0;
	if (!e->started)
		return -EPROTO;
	switch (m->h.type) {
	case WSLX_AGENT_DATA:
		return data_frame(e, m);
	case WSLX_AGENT_CREDIT:
		return credit_frame(e, m);
	case WSLX_AGENT_STOP:
		return stop_frame(e, m);
	default:
		return exit_frame(e, m);
	}
}

/* ---- from the owner ---- */

size_t wslx_agentc_exec_room(const struct wslx_agentc_exec *e, unsigned stream)
{
	size_t pending;

	if (!e->c || !e->started || !sends(stream) || e->s[stream].out_end || e->s[stream].out_stopped)
		return 0;
	pending = wslx_agent_tx_pending(&e->c->tx);
	if (pending >= WSLX_AGENT_TX_HIGH)
		return 0;
	return WSLX_MIN((size_t)e->s[stream].credit, WSLX_AGENT_TX_HIGH - pending);
}

long wslx_agentc_exec_write(struct wslx_agentc_exec *e, unsigned stream, const void *p, size_t n)
{
	const uint8_t *from = p;
	size_t done = 0, room;

	if (!e->c || !sends(stream) || e->s[stream].out_end || e->s[stream].out_stopped)
		return -EPIPE;
	while (done < n && (room = wslx_agentc_exec_room(e, stream)) > 0) {
		size_t part = WSLX_MIN(n - done, WSLX_MIN(room, (size_t)WSLX_AGENT_PAYLOAD_MAX));
		uint8_t *to;
		int r = wslx_agent_tx_data_begin(&e->c->tx, part, &to);

		if (r < 0)
			return r;
		memcpy(to, from + done, part);
		wslx_agent_tx_data_end(&e->c->tx, e->channel, stream, 0, part);
		e->s[stream].credit -= (uint32_t)part;
		done += part;
		wslx_agentc_flush(e->c);
	}
	if (wslx_agentc_exec_room(e, stream) == 0) {
		e->s[stream].starved = true;
		if (wslx_agent_tx_pending(&e->c->tx) >= WSLX_AGENT_TX_HIGH)
			e->c->room_wanted = true;
	}
	return (long)done;
}

void wslx_agentc_exec_room_again(struct wslx_agentc *c)
{
	c->room_wanted = false;
	for (unsigned i = 0; i < EXEC_BUCKETS && !c->freed; i++) {
		/* A callback may unlink any exec: start the bucket over after each,
		 * which ends because `starved` is cleared. */
		struct wslx_agentc_exec *e = c->execs[i];

		while (e) {
			unsigned s = e->s[WSLX_STREAM_STDIN].starved && e->s[WSLX_STREAM_STDIN].credit
					     ? WSLX_STREAM_STDIN
					     : WSLX_STREAM_TTY;

			if (!e->s[s].starved || !e->s[s].credit) {
				e = e->next;
				continue;
			}
			if (wslx_agent_tx_pending(&c->tx) >= WSLX_AGENT_TX_HIGH) {
				c->room_wanted = true;
				return;
			}
			e->s[s].starved = false;
			e->busy++;
			CALL(e, writable, s);
			leave(e);
			if (c->freed)
				return;
			e = c->execs[i];
		}
	}
}

void wslx_agentc_exec_close(struct wslx_agentc_exec *e, unsigned stream)
{
	uint8_t *p;
	struct wslx_agent_tx *tx;

	if (!e->c || stream != WSLX_STREAM_STDIN || e->s[stream].out_end)
		return;
	e->s[stream].out_end = true;
	tx = wslx_agentc_tx(e->c);
	if (wslx_agent_tx_data_begin(tx, 0, &p) < 0) {
		wslx_agentc_fail_later(e->c, -ENOMEM);
		return;
	}
	wslx_agent_tx_data_end(tx, e->channel, stream, WSLX_AGENT_F_EOF, 0);
	wslx_agentc_flush(e->c);
}

void wslx_agentc_exec_stop(struct wslx_agentc_exec *e, unsigned stream)
{
	if (!e->c || !receives(stream) || stream == WSLX_STREAM_TTY || e->s[stream].in_stopped)
		return;
	e->s[stream].in_stopped = true;
	if (e->s[stream].in_end)
		return;
	if (wslx_agentc_queue(e->c, WSLX_AGENT_STOP, e->channel, stream, NULL, 0) == 0)
		wslx_agentc_flush(e->c);
}

void wslx_agentc_exec_consumed(struct wslx_agentc_exec *e, unsigned stream, size_t n)
{
	uint8_t body[4];

	if (!receives(stream) || n > e->s[stream].held)
		return;
	e->s[stream].held -= (uint32_t)n;
	e->s[stream].used += (uint32_t)n;
	/* Half a window at a time: few CREDIT frames, and the agent still has
	 * the other half to go on with. */
	if (!e->c || e->s[stream].in_end || e->s[stream].in_stopped || e->s[stream].used < e->window / 2)
		return;
	wslx_put_le32(body, e->s[stream].used);
	e->s[stream].granted += e->s[stream].used;
	e->s[stream].used = 0;
	if (wslx_agentc_queue(e->c, WSLX_AGENT_CREDIT, e->channel, stream, body, sizeof(body)) == 0)
		wslx_agentc_flush(e->c);
}

void wslx_agentc_exec_winsize(struct wslx_agentc_exec *e, const struct wslx_agent_winsize *ws)
{
	uint8_t body[8];

	if (!e->c)
		return;
	wslx_agent_winsize_encode(ws, body);
	if (wslx_agentc_queue(e->c, WSLX_AGENT_WINSIZE, e->channel, 0, body, sizeof(body)) == 0)
		wslx_agentc_flush(e->c);
}

void wslx_agentc_exec_signal(struct wslx_agentc_exec *e, int signo)
{
	uint8_t body[4];

	if (!e->c || signo < 1 || signo > 64)
		return;
	wslx_put_le32(body, (uint32_t)signo);
	if (wslx_agentc_queue(e->c, WSLX_AGENT_SIGNAL, e->channel, 0, body, sizeof(body)) == 0)
		wslx_agentc_flush(e->c);
}
