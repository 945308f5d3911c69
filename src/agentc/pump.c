/*
 * A process on real descriptors.
 *
 * Theory of operation.  Each output stream is a sink: bytes go straight to the
 * descriptor, what it does not take waits in a buffer bounded by the stream's
 * window, and credit is given back as bytes are written.  Each input stream is
 * a source that reads when its descriptor is ready and there is credit; without
 * credit its watch is removed, as a level-triggered hang-up would spin.
 *
 * The descriptors come from a shell and are shared with other processes, so
 * O_NONBLOCK may not be set on them.  Pipes and terminals are opened once more
 * through /proc/self/fd, which gives a description of our own; sockets take
 * MSG_DONTWAIT; files never block.  Where opening again is not permitted (a
 * terminal of another user after su) at most one atomic pipe write is made per
 * readiness report.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agentc/internal.h"
#include "base/cleanup.h"
#include "os/linux/fd.h"

enum fd_kind {
	FD_NONE,
	FD_DIRECT,   /* files and what epoll does not take: never blocks for long */
	FD_OWN,      /* our own non-blocking description */
	FD_SOCKET,   /* MSG_DONTWAIT */
	FD_BORROWED, /* shared and maybe blocking: small writes when ready */
};

struct end {
	struct wslx_agentc_pump *p;
	unsigned stream;
	enum fd_kind kind;
	int fd; /* a duplicate or description of our own */
	struct wslx_watch *watch;
	bool dead; /* failed, ended or not wanted any more */
};

struct sink {
	struct end e;
	struct wslx_buf buf;
	size_t at;
};

struct wslx_agentc_pump {
	struct wslx_loop *loop;
	struct wslx_agentc_exec *exec;
	void (*on_started)(void *opaque, const struct wslx_agent_started *st);
	void (*on_exit)(void *opaque, const struct wslx_agentc_exit *x);
	void *opaque;
	struct sink sinks[WSLX_STREAM_COUNT];  /* by stream: STDOUT, STDERR, TTY */
	struct end sources[WSLX_STREAM_COUNT]; /* STDIN, TTY */
	int lost;                              /* -errno; output of lost_stream */
	unsigned lost_stream;
	bool exited, reported, freed;
	unsigned busy;
	struct wslx_agentc_exit exit;
	char exit_text[WSLX_AGENT_TEXT_MAX + 1];
};

static void source_run(struct end *e);

static void leave(struct wslx_agentc_pump *p)
{
	if (--p->busy == 0 && p->freed)
		free(p);
}

/* ---- descriptors ---- */

static int open_again(int fd, int flags)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

static int end_open(struct end *e, struct wslx_agentc_pump *p, unsigned stream, int fd, int flags)
{
	struct stat st;

	e->p = p;
	e->stream = stream;
	if (fd < 0 || fstat(fd, &st) < 0)
		return fd < 0 ? -EBADF : -errno;
	e->kind = FD_BORROWED;
	if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))
		e->kind = FD_DIRECT;
	else if (S_ISSOCK(st.st_mode))
		e->kind = FD_SOCKET;
	else if (S_ISFIFO(st.st_mode) || (S_ISCHR(st.st_mode) && isatty(fd)))
		e->fd = open_again(fd, flags);
	if (e->fd >= 0)
		e->kind = FD_OWN;
	else
		e->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return e->fd < 0 ? -errno : 0;
}

static void end_close(struct end *e)
{
	wslx_watch_free(TAKE_PTR(e->watch));
	wslx_close(&e->fd);
	e->dead = true;
}

/* /dev/null and friends: epoll refuses them, and they never block. */
static int end_watch(struct end *e, uint32_t events, wslx_watch_fn fn)
{
	int r;

	if (e->watch || e->kind == FD_DIRECT)
		return 0;
	r = wslx_loop_watch(e->p->loop, e->fd, events, fn, e, &e->watch);
	if (r == -EPERM) {
		e->kind = FD_DIRECT;
		r = 0;
	}
	return r;
}

/* ---- output ---- */

static void report_if_done(struct wslx_agentc_pump *p)
{
	if (!p->exited || p->reported)
		return;
	for (unsigned i = 0; i < WSLX_STREAM_COUNT; i++)
		if (!p->sinks[i].e.dead && p->sinks[i].buf.len > p->sinks[i].at)
			return;
	p->reported = true;
	if (p->on_exit)
		p->on_exit(p->opaque, &p->exit);
}

static void consumed(struct end *e, size_t n)
{
	if (e->p->exec)
		wslx_agentc_exec_consumed(e->p->exec, e->stream, n);
}

static void sink_fail(struct sink *s)
{
	size_t left = s->buf.len - s->at;

	end_close(&s->e);
	wslx_buf_free(&s->buf);
	s->at = 0;
	/* A closed stdout reaches the process as SIGPIPE; a terminal that went
	 * away swallows its output. */
	consumed(&s->e, left);
	if (s->e.p->exec)
		wslx_agentc_exec_stop(s->e.p->exec, s->e.stream);
}

/* Bytes taken, -EAGAIN, or another -errno.  once: FD_BORROWED was said to be ready. */
static ssize_t sink_write(struct sink *s, const uint8_t *p, size_t n, bool ready)
{
	ssize_t r;

	if (s->e.kind == FD_BORROWED) {
		if (!ready)
			return -EAGAIN;
		n = WSLX_MIN(n, (size_t)PIPE_BUF);
	}
	do {
		r = s->e.kind == FD_SOCKET ? send(s->e.fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL) : write(s->e.fd, p, n);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static void note_loss(const struct sink *s, int r)
{
	struct wslx_agentc_pump *p = s->e.p;

	if (p->lost || r == -EPIPE || s->e.stream == WSLX_STREAM_TTY)
		return;
	p->lost = r;
	p->lost_stream = s->e.stream;
}

/* Returns bytes taken of p; the sink may be dead afterwards. */
static size_t sink_push(struct sink *s, const uint8_t *p, size_t n, bool ready)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = sink_write(s, p + done, n - done, ready);

		if (r == -EAGAIN)
			break;
		if (r < 0) {
			note_loss(s, (int)r);
			consumed(&s->e, n - done);
			sink_fail(s);
			return done;
		}
		done += (size_t)r;
		ready = false;
		if (s->e.kind == FD_BORROWED)
			break;
	}
	consumed(&s->e, done);
	return done;
}

static void on_sink(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct sink *s = CONTAINER_OF(opaque, struct sink, e);
	struct wslx_agentc_pump *p = s->e.p;

	p->busy++;
	if (s->buf.len > s->at && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
		s->at += sink_push(s, s->buf.data + s->at, s->buf.len - s->at, true);
		if (s->e.dead)
			s->at = 0;
		else if (s->at == s->buf.len)
			s->at = s->buf.len = 0;
	} else if (events & (EPOLLERR | EPOLLHUP)) {
		/* Nobody reads any more; no need to wait for the next output. */
		sink_fail(s);
	}
	if (s->e.watch)
		wslx_watch_set_events(s->e.watch, s->buf.len > s->at ? EPOLLOUT : 0);
	report_if_done(p);
	leave(p);
}

static void sink_data(struct sink *s, const uint8_t *p, size_t n)
{
	size_t done = 0;

	if (s->e.dead) {
		consumed(&s->e, n);
		return;
	}
	if (s->buf.len == s->at)
		done = sink_push(s, p, n, false);
	if (s->e.dead || done == n)
		return;
	if (s->at) {
		wslx_buf_consume(&s->buf, s->at);
		s->at = 0;
	}
	/* The window bounds what arrives; the buffer can hold all of it. */
	if (wslx_buf_append(&s->buf, p + done, n - done) < 0 || !s->e.watch) {
		note_loss(s, s->e.watch ? -ENOMEM : -EAGAIN);
		consumed(&s->e, n - done);
		sink_fail(s);
		return;
	}
	wslx_watch_set_events(s->e.watch, EPOLLOUT);
}

static void on_data(void *opaque, unsigned stream, const uint8_t *p, size_t n)
{
	struct wslx_agentc_pump *pump = opaque;

	sink_data(&pump->sinks[stream], p, n);
}

/* ---- input ---- */

static void source_end(struct end *e)
{
	end_close(e);
	if (e->p->exec && e->stream == WSLX_STREAM_STDIN)
		wslx_agentc_exec_close(e->p->exec, e->stream);
}

static void on_source(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct end *e = opaque;
	struct wslx_agentc_pump *p = e->p;

	p->busy++;
	source_run(e);
	leave(p);
}

static ssize_t source_read(struct end *e, uint8_t *buf, size_t n)
{
	ssize_t r;

	do {
		r = e->kind == FD_SOCKET ? recv(e->fd, buf, n, MSG_DONTWAIT) : read(e->fd, buf, n);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

/* Who reads the terminal in the background is stopped; and what is typed there is for another. */
static bool in_background(const struct end *e)
{
	pid_t group = e->stream == WSLX_STREAM_TTY ? tcgetpgrp(e->fd) : -1;

	return group > 0 && group != getpgrp();
}

/* Called when the descriptor is ready (or never blocks), and when credit came. */
static void source_run(struct end *e)
{
	uint8_t buf[65536];
	struct wslx_agentc_exec *x;

	while (!e->dead && (x = e->p->exec)) {
		size_t room = wslx_agentc_exec_room(x, e->stream);
		ssize_t n;

		if (room == 0) {
			wslx_watch_free(TAKE_PTR(e->watch));
			/* Registers the wish for writable(). */
			if (wslx_agentc_exec_write(x, e->stream, buf, 0) < 0)
				end_close(e);
			return;
		}
		if (in_background(e)) {
			wslx_watch_free(TAKE_PTR(e->watch));
			return;
		}
		n = source_read(e, buf, WSLX_MIN(room, sizeof(buf)));
		if (n == -EAGAIN)
			return;
		if (n <= 0) {
			/* EIO: a terminal that went away, or a background read. */
			source_end(e);
			return;
		}
		/* All of it fits: room was asked for just before. */
		if (wslx_agentc_exec_write(x, e->stream, buf, (size_t)n) < 0) {
			end_close(e);
			return;
		}
		if (e->kind == FD_BORROWED)
			return;
	}
}

static void on_writable(void *opaque, unsigned stream)
{
	struct wslx_agentc_pump *p = opaque;
	struct end *e = &p->sources[stream];

	if (e->dead)
		return;
	p->busy++;
	if (end_watch(e, EPOLLIN, on_source) < 0)
		source_end(e);
	else if (e->kind == FD_DIRECT)
		source_run(e);
	leave(p);
}

void wslx_agentc_pump_foreground(struct wslx_agentc_pump *p)
{
	/* Without credit for it: writable() follows. */
	if (p->exec && wslx_agentc_exec_room(p->exec, WSLX_STREAM_TTY))
		on_writable(p, WSLX_STREAM_TTY);
}

static void on_stopped(void *opaque, unsigned stream)
{
	struct wslx_agentc_pump *p = opaque;

	end_close(&p->sources[stream]);
}

/* ---- life ---- */

static void on_started(void *opaque, const struct wslx_agent_started *st)
{
	struct wslx_agentc_pump *p = opaque;

	if (p->on_started)
		p->on_started(p->opaque, st);
}

static void on_exited(void *opaque, const struct wslx_agentc_exit *x)
{
	struct wslx_agentc_pump *p = opaque;

	p->busy++;
	p->exited = true;
	p->exit = *x;
	snprintf(p->exit_text, sizeof(p->exit_text), "%s", x->text);
	p->exit.text = p->exit_text;
	for (unsigned i = 0; i < WSLX_STREAM_COUNT; i++)
		end_close(&p->sources[i]);
	wslx_agentc_exec_free(TAKE_PTR(p->exec));
	report_if_done(p);
	leave(p);
}

static const struct wslx_agentc_exec_ops pump_ops = {
	.started = on_started,
	.data = on_data,
	.writable = on_writable,
	.stopped = on_stopped,
	.exited = on_exited,
};

static int sink_open(struct wslx_agentc_pump *p, unsigned stream, int fd, size_t window)
{
	struct sink *s = &p->sinks[stream];
	int r = end_open(&s->e, p, stream, fd, O_WRONLY);

	if (r < 0)
		return r;
	wslx_buf_init(&s->buf, window);
	s->e.dead = false;
	/* Watched from the start for the reader's end. */
	return end_watch(&s->e, 0, on_sink);
}

static int source_open(struct wslx_agentc_pump *p, unsigned stream, int fd)
{
	int r = end_open(&p->sources[stream], p, stream, fd, O_RDONLY);

	if (r == 0)
		p->sources[stream].dead = false;
	return r;
}

static int open_all(struct wslx_agentc_pump *p, const struct wslx_agent_exec *m, const struct wslx_agentc_fds *fds)
{
	int r = 0;

	if (m->streams[0] == WSLX_STREAM_PIPE)
		r = source_open(p, WSLX_STREAM_STDIN, fds->in);
	if (r == 0 && m->streams[1] == WSLX_STREAM_PIPE)
		r = sink_open(p, WSLX_STREAM_STDOUT, fds->out, m->window);
	if (r == 0 && m->streams[2] == WSLX_STREAM_PIPE)
		r = sink_open(p, WSLX_STREAM_STDERR, fds->err, m->window);
	if (r == 0 && (m->flags & WSLX_EXEC_TTY) && fds->tty_in >= 0)
		r = source_open(p, WSLX_STREAM_TTY, fds->tty_in);
	if (r == 0 && (m->flags & WSLX_EXEC_TTY) && fds->tty_out >= 0)
		r = sink_open(p, WSLX_STREAM_TTY, fds->tty_out, m->window);
	return r;
}

int wslx_agentc_exec_fds(struct wslx_agentc *c, const struct wslx_agent_exec *params, const struct wslx_agentc_fds *fds,
			 void (*started)(void *opaque, const struct wslx_agent_started *st),
			 void (*on_exit)(void *opaque, const struct wslx_agentc_exit *x), void *opaque,
			 struct wslx_agentc_pump **ret)
{
	struct wslx_agentc_pump *p = calloc(1, sizeof(*p));
	struct wslx_agent_exec m = *params;
	int r;

	if (!p)
		return -ENOMEM;
	if (!m.window)
		m.window = WSLX_AGENT_WINDOW_DEFAULT;
	for (unsigned i = 0; i < 3; i++) {
		int fd = i == 0 ? fds->in : i == 1 ? fds->out : fds->err;

		if (m.streams[i] == WSLX_STREAM_PIPE && fd < 0)
			m.streams[i] = WSLX_STREAM_NULL;
	}
	p->loop = c->loop;
	p->on_started = started;
	p->on_exit = on_exit;
	p->opaque = opaque;
	for (unsigned i = 0; i < WSLX_STREAM_COUNT; i++) {
		p->sinks[i].e = (struct end) { .p = p, .stream = i, .fd = -1, .dead = true };
		p->sources[i] = p->sinks[i].e;
	}
	r = open_all(p, &m, fds);
	if (r == 0)
		r = wslx_agentc_exec_start(c, &m, &pump_ops, p, &p->exec);
	if (r < 0) {
		wslx_agentc_pump_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

int wslx_agentc_pump_lost_output(const struct wslx_agentc_pump *p, unsigned *ret_stream)
{
	*ret_stream = p->lost_stream;
	return p->lost;
}

struct wslx_agentc_exec *wslx_agentc_pump_exec(struct wslx_agentc_pump *p)
{
	return p->exec;
}

void wslx_agentc_pump_free(struct wslx_agentc_pump *p)
{
	if (!p || p->freed)
		return;
	p->freed = true;
	p->on_started = NULL;
	p->on_exit = NULL;
	for (unsigned i = 0; i < WSLX_STREAM_COUNT; i++) {
		end_close(&p->sources[i]);
		end_close(&p->sinks[i].e);
		wslx_buf_free(&p->sinks[i].buf);
		p->sinks[i].at = 0;
	}
	wslx_agentc_exec_free(TAKE_PTR(p->exec));
	if (p->busy == 0)
		free(p);
}
