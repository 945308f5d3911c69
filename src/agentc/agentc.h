/*
 * Host side of the agent protocol (proto/agent.h, docs/agent-protocol.md).
 *
 * Theory of operation.  A `struct wslx_agentc` is one connection on an event
 * loop: the control connection the agent made (supervisor), or a session made
 * through the machine's vsock.sock (everyone else).  Requests take a reply
 * callback; processes are `struct wslx_agentc_exec` objects with callbacks for
 * each stream.  Bytes that arrive for a stream are handed on at once; the
 * agent may send more only as wslx_agentc_exec_consumed() returns credit, so a
 * consumer that stops reading stops that one stream and holds at most its window.
 *
 * Threads: everything on the loop's thread.  Callbacks may call any function
 * here, wslx_agentc_free() and wslx_agentc_exec_free() of their own object included.
 *
 * Trust boundary: the guest is hostile.  A malformed or unexpected frame ends
 * the connection with -EPROTO; text from the guest has control characters
 * replaced; memory held for a connection is bounded.
 */
#ifndef WSLX_AGENTC_AGENTC_H
#define WSLX_AGENTC_AGENTC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/macros.h"
#include "proto/agent.h"

struct wslx_agentc;
struct wslx_agentc_exec;
struct wslx_agentc_pump;

struct wslx_agentc_events {
	/* HELLO was exchanged: requests may be made (earlier ones are queued). */
	void (*ready)(void *opaque, const struct wslx_agent_hello *agent);
	/* The connection is gone; last callback.  Every pending request was
	 * answered with -ECONNRESET and every exec ended before.  err says why
	 * in one line; err->code 0: the agent closed it in order. */
	void (*closed)(void *opaque, const struct wslx_err *err);
	/* Unasked notification; control connection only. */
	void (*event)(void *opaque, const struct wslx_agent_event *ev);
};

/* fd: a connected stream socket, taken on success.  events is copied; its
 * members may be NULL.  Nothing is called back from inside this call. */
WSLX_MUST_CHECK int wslx_agentc_new(struct wslx_loop *loop, int fd, const struct wslx_agentc_events *events,
				    void *opaque, struct wslx_agentc **ret);

/* A session: connects to a machine's vsock.sock and asks for WSLX_AGENT_PORT.
 * Refused or unanswered connections end in closed().  timeout_ms: from the
 * call to HELLO, 0 = WSLX_AGENTC_CONNECT_MS.  The call itself waits while the
 * socket's queue is full, no longer than that: -ETIMEDOUT. */
#define WSLX_AGENTC_CONNECT_MS 60000
WSLX_MUST_CHECK int wslx_agentc_connect(struct wslx_loop *loop, const char *vsock_path, unsigned timeout_ms,
					const struct wslx_agentc_events *events, void *opaque, struct wslx_agentc **ret,
					struct wslx_err *err);

/* Drops the connection; no further callbacks, neither of it nor of its
 * requests and execs, which are all freed with it.  NULL is fine. */
void wslx_agentc_free(struct wslx_agentc *c);

/* The same, but answers pending requests with -ECONNRESET first. */
void wslx_agentc_abort(struct wslx_agentc *c);

bool wslx_agentc_is_ready(const struct wslx_agentc *c);
/* NULL before ready. */
const struct wslx_agent_hello *wslx_agentc_hello(const struct wslx_agentc *c);

/* ---- Requests: each gets exactly one reply, unless the connection is freed (not aborted) ---- */

struct wslx_agentc_reply {
	int code;                                        /* 0 or -errno */
	const char *text;                                /* the agent's explanation, "" if none */
	const struct wslx_agent_status *status;          /* wslx_agentc_status */
	const struct wslx_agent_distro_started *started; /* wslx_agentc_distro_start */
};
typedef void (*wslx_agentc_reply_fn)(void *opaque, const struct wslx_agentc_reply *r);

WSLX_MUST_CHECK int wslx_agentc_config(struct wslx_agentc *c, const struct wslx_agent_config *m,
				       wslx_agentc_reply_fn fn, void *opaque);
WSLX_MUST_CHECK int wslx_agentc_distro_start(struct wslx_agentc *c, const struct wslx_agent_distro *m,
					     wslx_agentc_reply_fn fn, void *opaque);
/* timeout_ms: from SIGTERM to SIGKILL, 0 = the agent's default. */
WSLX_MUST_CHECK int wslx_agentc_distro_stop(struct wslx_agentc *c, const char *name, uint32_t timeout_ms,
					    wslx_agentc_reply_fn fn, void *opaque);
/* Replied when accepted; the machine then powers off or resets. */
WSLX_MUST_CHECK int wslx_agentc_shutdown(struct wslx_agentc *c, enum wslx_agent_shutdown how, uint32_t timeout_ms,
					 wslx_agentc_reply_fn fn, void *opaque);
/* Freezes the distros' processes and file systems; replied when that is so. */
WSLX_MUST_CHECK int wslx_agentc_pause(struct wslx_agentc *c, wslx_agentc_reply_fn fn, void *opaque);
WSLX_MUST_CHECK int wslx_agentc_resume(struct wslx_agentc *c, wslx_agentc_reply_fn fn, void *opaque);
WSLX_MUST_CHECK int wslx_agentc_sync(struct wslx_agentc *c, wslx_agentc_reply_fn fn, void *opaque);
WSLX_MUST_CHECK int wslx_agentc_status(struct wslx_agentc *c, wslx_agentc_reply_fn fn, void *opaque);
WSLX_MUST_CHECK int wslx_agentc_ping(struct wslx_agentc *c, wslx_agentc_reply_fn fn, void *opaque);

/* ---- Processes ---- */

enum wslx_agentc_end {
	WSLX_AGENTC_EXITED,   /* status */
	WSLX_AGENTC_SIGNALED, /* signal */
	WSLX_AGENTC_FAILED,   /* never ran: text and code; status 126/127 if a shell would say so, else 255 */
	WSLX_AGENTC_LOST,     /* the connection ended first: text; status 255 */
};
struct wslx_agentc_exit {
	enum wslx_agentc_end end;
	int status; /* what a client exits with: exit status, 128 + signal, 126, 127, 255 */
	int signal;
	int code;         /* -errno with FAILED and LOST */
	const char *text; /* one line, "" if none */
};

struct wslx_agentc_exec_ops {
	/* The process runs. */
	void (*started)(void *opaque, const struct wslx_agent_started *st);
	/* Output on WSLX_STREAM_STDOUT, _STDERR or _TTY.  Call
	 * wslx_agentc_exec_consumed() when the bytes are used up, now or later. */
	void (*data)(void *opaque, unsigned stream, const uint8_t *p, size_t n);
	void (*eof)(void *opaque, unsigned stream);
	/* wslx_agentc_exec_write() on STDIN or TTY takes bytes again. */
	void (*writable)(void *opaque, unsigned stream);
	/* The process closed its end of STDIN: nobody reads it any more. */
	void (*stopped)(void *opaque, unsigned stream);
	/* Last callback: all output came before.  The object stays until
	 * wslx_agentc_exec_free() or wslx_agentc_free(). */
	void (*exited)(void *opaque, const struct wslx_agentc_exit *x);
};

/* params->window 0 means WSLX_AGENT_WINDOW_DEFAULT here. */
WSLX_MUST_CHECK int wslx_agentc_exec_start(struct wslx_agentc *c, const struct wslx_agent_exec *params,
					   const struct wslx_agentc_exec_ops *ops, void *opaque,
					   struct wslx_agentc_exec **ret);
/* Bytes wslx_agentc_exec_write() would take now. */
size_t wslx_agentc_exec_room(const struct wslx_agentc_exec *e, unsigned stream);
/* Returns how many of n bytes were taken (0: wait for writable()), or -errno
 * (-EPIPE: closed or stopped). */
WSLX_MUST_CHECK long wslx_agentc_exec_write(struct wslx_agentc_exec *e, unsigned stream, const void *p, size_t n);
/* Half-close of STDIN: the process sees the end of its input. */
void wslx_agentc_exec_close(struct wslx_agentc_exec *e, unsigned stream);
/* STDOUT, STDERR: no more wanted; the process gets SIGPIPE / EPIPE. */
void wslx_agentc_exec_stop(struct wslx_agentc_exec *e, unsigned stream);
void wslx_agentc_exec_consumed(struct wslx_agentc_exec *e, unsigned stream, size_t n);
void wslx_agentc_exec_winsize(struct wslx_agentc_exec *e, const struct wslx_agent_winsize *ws);
/* To the process group (on a terminal: its foreground process group). */
void wslx_agentc_exec_signal(struct wslx_agentc_exec *e, int signo);
/* Hangs up if the process still runs.  No further callbacks.  NULL is fine. */
void wslx_agentc_exec_free(struct wslx_agentc_exec *e);

/* ---- Processes on real descriptors, for command lines ---- */

/* Descriptors are borrowed and must stay open until exited or freed.  -1: that
 * stream is the null device.  params->streams decides: a PIPE stream uses in,
 * out or err; IS_TTY streams use tty_in/tty_out (which may equal in/out).
 * Terminal modes are the caller's business (see wslx_agentc_exec_winsize via
 * wslx_agentc_pump_exec).  Files, pipes, sockets and terminals work; O_NONBLOCK of a
 * description shared with other processes is never changed. */
struct wslx_agentc_fds {
	int in, out, err;
	int tty_in, tty_out;
};

/* on_started and on_exit may be NULL.  on_exit: after every byte of output was written
 * (or its descriptor failed).  SIGPIPE must be ignored by the caller. */
WSLX_MUST_CHECK int wslx_agentc_exec_fds(struct wslx_agentc *c, const struct wslx_agent_exec *params,
					 const struct wslx_agentc_fds *fds,
					 void (*on_started)(void *opaque, const struct wslx_agent_started *st),
					 void (*on_exit)(void *opaque, const struct wslx_agentc_exit *x), void *opaque,
					 struct wslx_agentc_pump **ret);
/* The first failure to write output that was wanted, -errno, and *ret_stream, whose; 0: none.  A reader that went away
 * (EPIPE), and a terminal, want none. */
WSLX_MUST_CHECK int wslx_agentc_pump_lost_output(const struct wslx_agentc_pump *p, unsigned *ret_stream);
/* For winsize and signals; NULL once exited. */
struct wslx_agentc_exec *wslx_agentc_pump_exec(struct wslx_agentc_pump *p);
/* A terminal is not read while it belongs to another job than ours; call this when it may be ours again. */
void wslx_agentc_pump_foreground(struct wslx_agentc_pump *p);
/* Hangs up if still running.  NULL is fine.  Must precede wslx_agentc_free() of its connection. */
void wslx_agentc_pump_free(struct wslx_agentc_pump *p);

#endif
