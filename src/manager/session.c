#include "manager/session.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"

#define HELLO_TIMEOUT_MS 60000
/* A shell that brings a job to the foreground that was running anyway does not
 * tell it. */
#define BACKGROUND_MS 200

struct session {
	const struct wslx_session_params *p;
	struct wslx_agent_exec exec;
	struct wslx_loop *loop;
	struct wslx_agentc *conn;
	struct wslx_agentc_pump *pump;
	struct wslx_watch *signal_watch, *cancel_watch;
	struct wslx_timer *background; /* looks whether the terminal is ours again */
	int signal_fd;
	bool ended, started;
	int r, status;
	enum wslx_session_loss loss;
	struct wslx_err *err;
};

/* SIGTSTP only matters on a terminal; without one the default stop is right. */
static void session_signals(sigset_t *set, bool terminal)
{
	static const int list[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT };

	sigemptyset(set);
	for (size_t i = 0; i < ARRAY_SIZE(list); i++)
		sigaddset(set, list[i]);
	if (terminal)
		sigaddset(set, SIGTSTP);
}

void wslx_session_block_signals(sigset_t *old)
{
	sigset_t set;

	session_signals(&set, false);
	sigprocmask(SIG_BLOCK, &set, old);
}

static void end(struct session *s, int r, int status)
{
	if (s->ended)
		return;
	s->ended = true;
	s->r = r;
	s->status = status;
	wslx_loop_stop(s->loop, 0);
}

static bool read_winsize(const struct session *s, struct wslx_agent_winsize *ret)
{
	struct winsize ws;

	if (s->p->winsize_fd < 0 || ioctl(s->p->winsize_fd, TIOCGWINSZ, &ws) < 0)
		return false;
	*ret = (struct wslx_agent_winsize) {
		.rows = ws.ws_row, .cols = ws.ws_col, .xpixel = ws.ws_xpixel, .ypixel = ws.ws_ypixel
	};
	return true;
}

static void send_winsize(struct session *s)
{
	struct wslx_agentc_exec *e = s->pump ? wslx_agentc_pump_exec(s->pump) : NULL;
	struct wslx_agent_winsize ws;

	if (e && (s->exec.flags & WSLX_EXEC_TTY) && read_winsize(s, &ws))
		wslx_agentc_exec_winsize(e, &ws);
}

/* ---- The terminal ---- */

static void take_terminal(struct session *s)
{
	if (!s->pump || !s->p->raw)
		return;
	if (s->p->raw(s->p->opaque))
		wslx_agentc_pump_foreground(s->pump);
	else
		wslx_timer_arm(s->background, BACKGROUND_MS);
}

static void on_background(struct wslx_timer *t, void *opaque)
{
	struct session *s = opaque;

	take_terminal(s);
	/* Nobody told us of its sizes either. */
	send_winsize(s);
}

/* ---- Signals ---- */

static void stop_self(struct session *s)
{
	if (s->p->cooked)
		s->p->cooked(s->p->opaque);
	raise(SIGSTOP);
	/* SIGCONT follows through the signalfd and makes the terminal raw again. */
}

static void on_one_signal(struct session *s, int signo)
{
	struct wslx_agentc_exec *e = s->pump ? wslx_agentc_pump_exec(s->pump) : NULL;

	switch (signo) {
	case SIGWINCH:
		send_winsize(s);
		return;
	case SIGCONT:
		take_terminal(s);
		send_winsize(s);
		return;
	case SIGTSTP:
		stop_self(s);
		return;
	default:
		break;
	}
	if (e)
		wslx_agentc_exec_signal(e, signo);
	/* Nobody to forward it to, or the terminal is gone: go. */
	if (!e || (signo == SIGHUP && (s->exec.flags & WSLX_EXEC_TTY)))
		end(s, 0, 128 + signo);
}

static void on_signal(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct signalfd_siginfo si;

	while (read(fd, &si, sizeof(si)) == (ssize_t)sizeof(si))
		on_one_signal(opaque, (int)si.ssi_signo);
}

static int watch_signals(struct session *s)
{
	bool terminal = s->exec.flags & WSLX_EXEC_TTY;
	sigset_t set;

	session_signals(&set, terminal);
	sigprocmask(SIG_BLOCK, &set, NULL);
	s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->signal_fd < 0)
		return -errno;
	return wslx_loop_watch(s->loop, s->signal_fd, EPOLLIN, on_signal, s, &s->signal_watch);
}

static void on_cancel(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct session *s = opaque;

	if (!s->ended)
		wslx_err_set(s->err, ECANCELED, "interrupted while the command ran");
	end(s, -ECANCELED, 255);
}

/* ---- The process ---- */

static void on_started(void *opaque, const struct wslx_agent_started *st)
{
	struct session *s = opaque;

	s->started = true;
	for (size_t i = 0; s->p->warning && i < st->n_warnings; i++)
		s->p->warning(s->p->opaque, st->warnings[i]);
	take_terminal(s);
	/* It may have changed between the request and now. */
	send_winsize(s);
}

/* The process ended, but part of what it said is nowhere: no success, whatever its status. */
static int check_output(struct session *s)
{
	unsigned stream = 0;
	int r = s->pump ? wslx_agentc_pump_lost_output(s->pump, &stream) : 0;

	if (r < 0)
		wslx_err_sys(s->err, -r, "cannot write standard %s", stream == WSLX_STREAM_STDERR ? "error" : "output");
	return r;
}

static void on_exit_status(void *opaque, const struct wslx_agentc_exit *x)
{
	struct session *s = opaque;
	int r;

	if (x->end == WSLX_AGENTC_EXITED || x->end == WSLX_AGENTC_SIGNALED) {
		r = check_output(s);
		end(s, r, r < 0 ? 255 : x->status);
		return;
	}
	if (x->end == WSLX_AGENTC_LOST) {
		s->loss = s->started ? WSLX_SESSION_LOST_RUNNING : WSLX_SESSION_LOST_STARTING;
		wslx_err_set(s->err, ECONNRESET, "the machine went away while the command %s%s%s",
			     s->started ? "ran" : "was started", *x->text ? ": " : "", x->text);
	} else {
		/* Not now: it is going down, or at rest. */
		if (x->code == -EAGAIN && !s->started)
			s->loss = WSLX_SESSION_LOST_BEFORE;
		wslx_err_set(s->err, x->code < 0 ? -x->code : EIO, "%s",
			     *x->text ? x->text : "the command could not be started");
	}
	end(s, x->code < 0 ? x->code : -EIO, x->status);
}

static void on_ready(void *opaque, const struct wslx_agent_hello *agent)
{
	struct session *s = opaque;
	int r;

	(void)read_winsize(s, &s->exec.winsize);
	r = wslx_agentc_exec_fds(s->conn, &s->exec, &s->p->fds, on_started, on_exit_status, s, &s->pump);
	if (r == -EMSGSIZE || r == -E2BIG) {
		wslx_err_set(s->err, E2BIG, "the command line and the environment are too large");
		end(s, -E2BIG, 126);
	} else if (r < 0) {
		wslx_err_sys(s->err, -r, "cannot start the command");
		end(s, r, 255);
	}
}

/* What a machine that is not there any more looks like; one that hangs, or speaks otherwise, looks different. */
static bool looks_gone(int code)
{
	return code == ENOENT || code == ECONNREFUSED || code == ECONNRESET || code == EPIPE;
}

/* Before the command was sent: its own end comes first, and says so. */
static void on_closed(void *opaque, const struct wslx_err *err)
{
	struct session *s = opaque;

	if (s->ended)
		return;
	if (!s->pump && looks_gone(err->code ? err->code : ECONNRESET))
		s->loss = WSLX_SESSION_LOST_BEFORE;
	wslx_err_set(s->err, err->code ? err->code : ECONNRESET, "%s",
		     err->msg[0] ? err->msg : "the agent in the machine closed the connection");
	end(s, -(err->code ? err->code : ECONNRESET), 255);
}

int wslx_session_run(const struct wslx_session_params *p, int *ret_status, enum wslx_session_loss *ret_loss,
		     struct wslx_err *err)
{
	static const struct wslx_agentc_events events = { .ready = on_ready, .closed = on_closed };
	struct session s = { .p = p, .exec = *p->exec, .err = err, .signal_fd = -1, .status = 255 };
	int r = wslx_loop_new(&s.loop);

	if (r == 0 && p->forward_signals)
		r = watch_signals(&s);
	if (r == 0)
		r = wslx_loop_timer(s.loop, on_background, &s, &s.background);
	if (r == 0 && p->cancel_fd >= 0)
		r = wslx_loop_watch(s.loop, p->cancel_fd, EPOLLIN, on_cancel, &s, &s.cancel_watch);
	if (r < 0)
		wslx_err_sys(err, -r, "cannot start a session");
	if (r == 0) {
		r = wslx_agentc_connect(s.loop, p->vsock_path, HELLO_TIMEOUT_MS, &events, &s, &s.conn, err);
		s.loss = looks_gone(-r) ? WSLX_SESSION_LOST_BEFORE : WSLX_SESSION_KEPT;
	}
	if (r == 0) {
		r = wslx_loop_run(s.loop);
		if (r < 0)
			wslx_err_sys(err, -r, "the session broke");
		else
			r = s.r;
	}
	*ret_status = s.status;
	*ret_loss = s.loss;
	wslx_agentc_pump_free(s.pump);
	wslx_agentc_free(s.conn);
	wslx_timer_free(s.background);
	wslx_watch_free(s.signal_watch);
	wslx_watch_free(s.cancel_watch);
	wslx_close(&s.signal_fd);
	wslx_loop_free(s.loop);
	return r;
}
