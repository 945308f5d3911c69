/*
 * A process of a client, from EXEC to EXIT.
 *
 *   EXEC -> forked -> (status pipe ends) STARTED -> ... -> reaped -> outputs
 *   drained -> EXIT, channel free
 *                  \-> (failure record) ERROR, channel free
 *
 * Legal before STARTED: CREDIT, EOF of stdin, WINSIZE, SIGNAL, HANGUP.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/core.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"

#define PIPE_SIZE (256 << 10)

/* Descriptors made for a new process; those of the child close in any case. */
struct ends {
	int child[3];
	int parent[3];
	int master, slave;
	int status[2];
};

static struct proc **slot(struct conn *c, uint32_t channel)
{
	struct proc **pp = &c->procs[channel % PROC_BUCKETS];

	while (*pp && (*pp)->channel != channel)
		pp = &(*pp)->next;
	return pp;
}

struct proc *wslx_proc_find(struct conn *c, uint32_t channel)
{
	return *slot(c, channel);
}

static void proc_free(struct proc *p)
{
	struct proc **pp = slot(p->c, p->channel);

	if (*pp == p)
		*pp = p->next;
	if (p->pid > 0)
		wslx_guest_forget_child(p->c->g, p->pid);
	wslx_watch_free(TAKE_PTR(p->status_watch));
	wslx_close(&p->status_fd);
	wslx_buf_free(&p->status);
	for (unsigned i = 0; i < ARRAY_SIZE(p->in); i++)
		wslx_inlet_close(&p->in[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(p->out); i++)
		wslx_outlet_close(&p->out[i]);
	wslx_close(&p->tty_fd);
	p->c->g->n_procs--;
	free(p);
}

/* ---- the end ---- */

void wslx_proc_check_end(struct proc *p)
{
	struct wslx_agent_exit x = { 0 };
	struct wslx_buf b;

	if (!p->started || !p->exited)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(p->out); i++)
		if (p->out[i].open)
			return;
	if (WIFSIGNALED(p->wait_status)) {
		x.signal = (uint32_t)WTERMSIG(p->wait_status);
		x.core = WCOREDUMP(p->wait_status);
	} else {
		x.status = (uint32_t)WEXITSTATUS(p->wait_status);
	}
	wslx_buf_init(&b, 256);
	if (wslx_agent_exit_encode(&b, &x) == 0) {
		struct conn *c = p->c;
		uint32_t channel = p->channel;

		proc_free(p);
		wslx_conn_send(c, WSLX_AGENT_EXIT, channel, 0, b.data, b.len);
	} else {
		wslx_conn_drop(p->c);
	}
	wslx_buf_free(&b);
}

static void drain(struct proc *p)
{
	struct conn *c = p->c;

	if (!p->started || !p->exited)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(p->out) && !c->dead; i++)
		wslx_outlet_drain(&p->out[i]);
	if (!c->dead)
		wslx_proc_check_end(p);
}

static void on_exit_of(void *opaque, pid_t pid, int status)
{
	struct proc *p = opaque;
	struct conn *c = p->c;

	wslx_conn_enter(c);
	p->pid = 0;
	p->exited = true;
	p->wait_status = status;
	drain(p);
	wslx_conn_leave(c);
}

/* The foreground of the terminal, as long as that is the session's: a process
 * may give its terminal up, and root take it for a session of its own, which
 * is none of the client's business. */
static bool signal_foreground(const struct proc *p, int signo)
{
	pid_t session, fg, of_fg;

	if (p->tty_fd < 0 || ioctl(p->tty_fd, TIOCGSID, &session) < 0 || session != p->pid)
		return false;
	/* The kernel knows the group itself and not just its number; but it takes
	 * only those signals that have a key. */
	if (ioctl(p->tty_fd, TIOCSIG, signo) == 0)
		return true;
	if (ioctl(p->tty_fd, TIOCGPGRP, &fg) < 0 || fg <= 1)
		return false;
	/* Its last process may have ended, and the number be somebody else's.  A
	 * group that has lost its leader only has no session to show. */
	of_fg = getsid(fg);
	return (of_fg < 0 || of_fg == session) && kill(-fg, signo) == 0;
}

static void signal_group(struct proc *p, int signo)
{
	if (p->pid <= 0 || signal_foreground(p, signo))
		return;
	/* Before it made its own group it is alone. */
	if (kill(-p->pid, signo) < 0)
		kill(p->pid, signo);
}

void wslx_proc_hangup(struct proc *p)
{
	signal_group(p, SIGHUP);
	signal_group(p, SIGCONT);
	proc_free(p);
}

/* ---- the beginning ---- */

static void reply_started(struct proc *p)
{
	struct wslx_buf b;

	p->started = true;
	p->info.window = p->in[0].open || p->in[1].open ? STDIN_WINDOW : 0;
	wslx_buf_init(&b, WSLX_AGENT_PAYLOAD_MAX);
	if (wslx_agent_started_encode(&b, &p->info) == 0)
		wslx_conn_send(p->c, WSLX_AGENT_STARTED, p->channel, p->call.id, b.data, b.len);
	wslx_buf_free(&b);
	if (p->c->dead)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(p->in); i++)
		wslx_inlet_start(&p->in[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(p->out); i++)
		wslx_outlet_update(&p->out[i]);
	drain(p);
}

static void reply_failed(struct conn *c, const struct wslx_guest_call *call, int code, int exit_status,
			 const char *text)
{
	struct wslx_agent_error e = { .code = code, .exit_status = exit_status };
	struct wslx_buf b;

	snprintf(e.text, sizeof(e.text), "%s", text);
	wslx_buf_init(&b, WSLX_AGENT_PAYLOAD_MAX);
	if (wslx_agent_error_encode(&b, &e) == 0)
		wslx_conn_send(c, WSLX_AGENT_ERROR, call->channel, call->id, b.data, b.len);
	wslx_buf_free(&b);
}

/* The status pipe is at its end: read what the child said. */
static void launched(struct proc *p)
{
	struct launch_record r;
	struct conn *c = p->c;

	wslx_watch_free(TAKE_PTR(p->status_watch));
	wslx_close(&p->status_fd);
	for (size_t at = 0; at + sizeof(r) <= p->status.len; at += sizeof(r)) {
		memcpy(&r, p->status.data + at, sizeof(r));
		r.text[sizeof(r.text) - 1] = 0;
		if (r.kind == LAUNCH_FAILED) {
			struct wslx_guest_call call = p->call;

			proc_free(p);
			reply_failed(c, &call, r.code, r.exit_status, r.text);
			return;
		}
		if (r.kind == LAUNCH_PID)
			p->info.pid = (uint32_t)r.code;
		else if (r.kind == LAUNCH_WARNING && p->info.n_warnings < WSLX_AGENT_MAX_WARNINGS)
			snprintf(p->info.warnings[p->info.n_warnings++], sizeof(p->info.warnings[0]), "%s", r.text);
	}
	wslx_buf_free(&p->status);
	reply_started(p);
}

static void on_status(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct proc *p = opaque;
	struct conn *c = p->c;
	char buf[sizeof(struct launch_record) * 4];
	ssize_t n;

	wslx_conn_enter(c);
	do {
		n = read(fd, buf, sizeof(buf));
		/* Beyond its bound more warnings are of no interest. */
		if (n > 0 && wslx_buf_append(&p->status, buf, (size_t)n) < 0)
			log_debug("too many notes from a starting process");
	} while (n > 0 || (n < 0 && errno == EINTR));
	if (n == 0 || errno != EAGAIN)
		launched(p);
	wslx_conn_leave(c);
}

/* ---- descriptors ---- */

static void ends_close(struct ends *e)
{
	for (unsigned i = 0; i < 3; i++) {
		wslx_close(&e->child[i]);
		wslx_close(&e->parent[i]);
	}
	wslx_close(&e->master);
	wslx_close(&e->slave);
	wslx_close(&e->status[0]);
	wslx_close(&e->status[1]);
}

static int open_tty(struct ends *e, const struct wslx_guest_place *place, const struct wslx_agent_winsize *ws)
{
	struct winsize w = { .ws_row = ws->rows, .ws_col = ws->cols, .ws_xpixel = ws->xpixel, .ws_ypixel = ws->ypixel };
	int flags = O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK, unlock = 0;

	e->master = place->pts_fd >= 0 ? openat(place->pts_fd, "ptmx", flags) : open("/dev/ptmx", flags);
	if (e->master < 0 || ioctl(e->master, TIOCSPTLCK, &unlock) < 0)
		return -errno;
	/* By descriptor, never by name: names are the distro's. */
	e->slave = ioctl(e->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (e->slave < 0 || ioctl(e->master, TIOCSWINSZ, &w) < 0)
		return -errno;
	return 0;
}

static int open_pipe(struct ends *e, unsigned i)
{
	int fds[2], parent = i == 0 ? 1 : 0;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	e->parent[i] = fds[parent];
	e->child[i] = fds[!parent];
	/* Only our end: the description of the child's must block. */
	if (fcntl(e->parent[i], F_SETFL, O_NONBLOCK | (i == 0 ? O_WRONLY : O_RDONLY)) < 0)
		return -errno;
	(void)fcntl(e->parent[i], F_SETPIPE_SZ, PIPE_SIZE);
	return 0;
}

static int ends_open(struct ends *e, const struct wslx_guest_place *place, const struct wslx_agent_exec *m)
{
	int r = 0;

	*e = (struct ends) {
		.child = { -1, -1, -1 }, .parent = { -1, -1, -1 }, .master = -1, .slave = -1, .status = { -1, -1 }
	};
	if (pipe2(e->status, O_CLOEXEC) < 0 || fcntl(e->status[0], F_SETFL, O_NONBLOCK) < 0)
		r = -errno;
	if (r == 0 && (m->flags & WSLX_EXEC_TTY))
		r = open_tty(e, place, &m->winsize);
	for (unsigned i = 0; i < 3 && r == 0; i++) {
		if (m->streams[i] == WSLX_STREAM_PIPE)
			r = open_pipe(e, i);
		else if (m->streams[i] == WSLX_STREAM_IS_TTY)
			e->child[i] = fcntl(e->slave, F_DUPFD_CLOEXEC, 3);
		else
			e->child[i] = open("/dev/null", (i == 0 ? O_RDONLY : O_WRONLY) | O_CLOEXEC);
		if (r == 0 && e->child[i] < 0)
			r = -errno;
	}
	return r;
}

/* Hands the parent's ends to the streams. */
static int adopt(struct proc *p, struct ends *e, uint32_t window)
{
	int r = 0, fd;

	if (e->parent[0] >= 0)
		r = wslx_inlet_open(&p->in[0], TAKE_FD(e->parent[0]));
	for (unsigned i = 1; i < 3 && r == 0; i++)
		if (e->parent[i] >= 0)
			r = wslx_outlet_open(&p->out[i - 1], TAKE_FD(e->parent[i]), window);
	if (r == 0 && e->master >= 0) {
		fd = fcntl(e->master, F_DUPFD_CLOEXEC, 3);
		r = fd < 0 ? -errno : wslx_inlet_open(&p->in[1], fd);
	}
	if (r == 0 && e->master >= 0) {
		fd = fcntl(e->master, F_DUPFD_CLOEXEC, 3);
		r = fd < 0 ? -errno : wslx_outlet_open(&p->out[2], fd, window);
	}
	p->tty_fd = TAKE_FD(e->master);
	if (r == 0) {
		p->status_fd = TAKE_FD(e->status[0]);
		r = wslx_loop_watch(p->c->g->loop, p->status_fd, EPOLLIN, on_status, p, &p->status_watch);
	}
	return r;
}

/* ---- EXEC ---- */

static struct proc *proc_new(struct conn *c, const struct wslx_guest_call *call)
{
	struct proc *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->c = c;
	p->channel = call->channel;
	p->call = *call;
	p->tty_fd = p->status_fd = -1;
	wslx_buf_init(&p->status, 64 * sizeof(struct launch_record));
	wslx_inlet_init(&p->in[0], p, WSLX_STREAM_STDIN);
	wslx_inlet_init(&p->in[1], p, WSLX_STREAM_TTY);
	for (unsigned i = 0; i < ARRAY_SIZE(p->out); i++)
		wslx_outlet_init(&p->out[i], p, WSLX_STREAM_STDOUT + i);
	p->next = c->procs[p->channel % PROC_BUCKETS];
	c->procs[p->channel % PROC_BUCKETS] = p;
	c->g->n_procs++;
	return p;
}

static int fork_into(struct proc *p, const struct wslx_guest_place *place, const struct wslx_agent_exec *m,
		     struct ends *e)
{
	pid_t pid = wslx_guest_fork(0, place->cgroup_fd, place->pidfd);

	if (pid == 0) {
		struct launch l = { .place = place,
				    .m = m,
				    .stdio = { e->child[0], e->child[1], e->child[2] },
				    .tty_fd = e->slave,
				    .status_fd = e->status[1] };

		wslx_launch_child(&l);
	}
	if (pid < 0)
		return pid;
	p->pid = pid;
	return wslx_guest_watch_child(p->c->g, pid, on_exit_of, p);
}

static void start(struct conn *c, const struct wslx_guest_call *call, const struct wslx_agent_exec *m)
{
	struct wslx_guest_place place = { .distro = "", .pidfd = -1, .cgroup_fd = -1, .pts_fd = -1 };
	char text[256] = "";
	struct ends e;
	struct proc *p;
	int r;

	r = c->g->ops->place(c->g->opaque, m->distro ? m->distro : "", &place, text, sizeof(text));
	if (r < 0) {
		reply_failed(c, call, -r, -1, text);
		return;
	}
	r = ends_open(&e, &place, m);
	p = r < 0 ? NULL : proc_new(c, call);
	if (r == 0 && !p)
		r = -ENOMEM;
	if (r == 0) {
		r = fork_into(p, &place, m, &e);
		if (r < 0 && p->pid <= 0 && wslx_place_ended(&place))
			r = -EAGAIN;
		else if (r == -EAGAIN) /* its pids.max; to try again at once is no use */
			r = -EDQUOT;
	}
	if (r == 0)
		r = adopt(p, &e, m->window);
	ends_close(&e);
	if (r < 0) {
		if (p && p->pid > 0)
			kill(p->pid, SIGKILL);
		if (p)
			proc_free(p);
		if (r == -EAGAIN)
			snprintf(text, sizeof(text), "the distro has ended");
		else
			snprintf(text, sizeof(text), "cannot start a process: %s",
				 r == -EDQUOT ? "there are as many as the distribution may have" : strerror(-r));
		reply_failed(c, call, -r, -1, text);
	}
}

int wslx_proc_exec(struct conn *c, const struct wslx_agent_msg *msg)
{
	struct wslx_guest_call call = { .conn = c->serial, .channel = msg->h.channel, .id = msg->h.id };
	struct wslx_agent_exec m;
	size_t argc = 0;
	int r;

	if (call.channel == 0 || call.id == 0 || wslx_proc_find(c, call.channel))
		return -EPROTO;
	r = wslx_agent_exec_decode(msg->body, msg->h.len, &m);
	if (r == -EPROTO)
		return r;
	if (r < 0) {
		reply_failed(c, &call, -r, -1, r == -ENOTSUP ? "the agent is too old for this request" : strerror(-r));
		return 0;
	}
	while (m.argv[argc])
		argc++;
	if ((m.flags & WSLX_EXEC_SHELL) ? argc > 1 : (argc == 0 && !(m.flags & WSLX_EXEC_LOGIN)))
		reply_failed(c, &call, EINVAL, -1, "no command, or several where one text is wanted");
	else if (c->g->n_procs >= GUEST_MAX_PROCS)
		reply_failed(c, &call, EDQUOT, -1, "too many processes of clients run already");
	else
		start(c, &call, &m);
	wslx_agent_exec_free(&m);
	return 0;
}

/* ---- WINSIZE, SIGNAL, HANGUP ---- */

int wslx_proc_control(struct proc *p, const struct wslx_agent_msg *m)
{
	struct wslx_agent_winsize ws;
	uint32_t signo;

	switch (m->h.type) {
	case WSLX_AGENT_WINSIZE: {
		struct winsize w;

		if (wslx_agent_winsize_decode(m->body, m->h.len, &ws) < 0)
			return -EPROTO;
		w = (struct winsize) {
			.ws_row = ws.rows, .ws_col = ws.cols, .ws_xpixel = ws.xpixel, .ws_ypixel = ws.ypixel
		};
		if (p->tty_fd >= 0)
			ioctl(p->tty_fd, TIOCSWINSZ, &w);
		return 0;
	}
	case WSLX_AGENT_SIGNAL:
		if (wslx_agent_u32_decode(m->body, m->h.len, &signo) < 0 || signo < 1 || signo > 64)
			return -EPROTO;
		signal_group(p, (int)signo);
		return 0;
	default:
		if (m->h.len)
			return -EPROTO;
		wslx_proc_hangup(p);
		return 0;
	}
}
