/* Inner structure of the agent's core; for server.c, session.c, proc.c, streams.c and launch.c. */
#ifndef WSLX_AGENT_CORE_H
#define WSLX_AGENT_CORE_H

#include <signal.h>

#include "agent/guest.h"

#define CHILD_BUCKETS 512u
#define PROC_BUCKETS 128u
#define GUEST_MAX_CONNS 2048u
#define GUEST_MAX_PROCS 4096u /* on all connections */
#define STDIN_WINDOW (128u << 10)

struct child {
	struct child *next;
	pid_t pid;
	wslx_guest_child_fn fn;
	void *opaque;
};

struct conn;
struct proc;

struct wslx_guest {
	struct wslx_loop *loop;
	const struct wslx_guest_ops *ops;
	void *opaque;
	struct wslx_agent_hello hello;
	int sigfd;
	struct wslx_watch *sig_watch;
	struct child *children[CHILD_BUCKETS];
	struct conn *conns;
	unsigned n_conns, n_procs;
	uint64_t next_conn;
};

struct conn {
	struct conn *next, *prev;
	struct wslx_guest *g;
	uint64_t serial;
	int fd;
	struct wslx_watch *watch;
	bool control;
	bool hello_seen;
	bool dead;      /* nothing is read or sent; torn down when `busy` is 0 */
	bool throttled; /* outputs wait for tx to drain */
	unsigned busy;
	struct wslx_agent_rx rx;
	struct wslx_agent_tx tx;
	struct proc *procs[PROC_BUCKETS];
};

/* Output: from a pipe or terminal of the process to the host. */
struct outlet {
	struct proc *p;
	unsigned stream;
	int fd;
	struct wslx_watch *watch;
	uint32_t credit;
	bool open; /* EOF not sent yet */
	/* After the leader's end: bytes still to deliver; more is not waited for. */
	bool draining;
	size_t left;
};

/* Input: from the host to a pipe or the terminal. */
struct inlet {
	struct proc *p;
	unsigned stream;
	int fd;
	struct wslx_watch *watch;
	struct wslx_buf buf;
	size_t at;
	uint32_t granted; /* bytes the host may still send */
	uint32_t used;    /* written, not granted again yet */
	bool open;        /* the process may still read */
	bool eof;         /* close after buf */
};

struct proc {
	struct proc *next; /* same bucket */
	struct conn *c;
	uint32_t channel;
	struct wslx_guest_call call; /* EXEC */
	pid_t pid;                   /* as the agent sees it; 0 once reaped */
	bool started, exited;
	int wait_status;
	int tty_fd; /* terminal's master, -1 = none */
	int status_fd;
	struct wslx_watch *status_watch;
	struct wslx_buf status;
	struct wslx_agent_started info;
	struct inlet in[2];   /* STDIN, TTY */
	struct outlet out[3]; /* STDOUT, STDERR, TTY */
};

/* Records on the status pipe, from the child before exec. */
enum launch_kind { LAUNCH_PID = 1, LAUNCH_WARNING = 2, LAUNCH_FAILED = 3 };
struct launch_record {
	uint32_t kind;
	int32_t code; /* FAILED: errno; PID: pid in its namespace */
	int32_t exit_status;
	char text[244];
};

/* session.c */
/* Queues and flushes; a full queue drops the connection. */
void wslx_conn_send(struct conn *c, uint16_t type, uint32_t channel, uint32_t id, const void *body, size_t n);
/* Sends what the socket takes, unless a callback on the stack does so at its end. */
void wslx_conn_flush(struct conn *c);
/* The same at once, to keep the queue short. */
void wslx_conn_send_now(struct conn *c);
/* Around a callback: connection and processes stay until its end. */
void wslx_conn_enter(struct conn *c);
void wslx_conn_leave(struct conn *c);
/* Ends the connection: at once, or at the end of the callback that is on the stack. */
void wslx_conn_drop(struct conn *c);
struct conn *wslx_conn_find(struct wslx_guest *g, uint64_t serial);

/* proc.c */
struct proc *wslx_proc_find(struct conn *c, uint32_t channel);
int wslx_proc_exec(struct conn *c, const struct wslx_agent_msg *m);
/* WINSIZE, SIGNAL, HANGUP */
int wslx_proc_control(struct proc *p, const struct wslx_agent_msg *m);
/* All output delivered?  Then EXIT, and p is gone. */
void wslx_proc_check_end(struct proc *p);
/* SIGHUP, close streams, forget. */
void wslx_proc_hangup(struct proc *p);

/* streams.c */
void wslx_inlet_init(struct inlet *in, struct proc *p, unsigned stream);
void wslx_outlet_init(struct outlet *out, struct proc *p, unsigned stream);
int wslx_inlet_open(struct inlet *in, int fd);
void wslx_inlet_start(struct inlet *in);
int wslx_outlet_open(struct outlet *out, int fd, uint32_t credit);
void wslx_inlet_close(struct inlet *in);
void wslx_outlet_close(struct outlet *out);
/* DATA, CREDIT, STOP.  0 or -EPROTO. */
int wslx_stream_frame(struct proc *p, const struct wslx_agent_msg *m);
/* Starts or stops reading as credit and the connection's queue allow. */
void wslx_outlet_update(struct outlet *out);
/* The process has ended: deliver what is there, then EOF. */
void wslx_outlet_drain(struct outlet *out);

/* place.c */
/* The distro's first process has ended or is about to, whether the agent has heard of it or not: nothing can be started
 * there any more.  Needs the agent's /proc. */
bool wslx_place_ended(const struct wslx_guest_place *place);

/* launch.c */
struct launch {
	const struct wslx_guest_place *place;
	const struct wslx_agent_exec *m;
	int stdio[3]; /* the child's */
	int tty_fd;   /* slave, -1 = none */
	int status_fd;
};
/* In the child: never returns. */
void wslx_launch_child(const struct launch *l) WSLX_NORETURN;

#endif
