/*
 * The agent's core: connections, processes and their streams.
 *
 * Theory of operation.  One thread, one event loop.  A `struct wslx_guest`
 * holds the connections (session.c), the processes started for them (proc.c,
 * streams.c, launch.c) and the table of all children (server.c).  What needs a
 * real machine - distros, mounts, network, shutdown - is behind `struct
 * wslx_guest_ops`, so that this part runs unprivileged on any Linux in tests.
 * Nothing here blocks: what may (mount, sync, unmount) runs in a forked child
 * whose end is an event like any other.
 *
 * Trust boundary: the host is trusted with the guest, yet every frame is
 * checked, as the same code must survive a garbled connection.  Distro
 * processes are hostile: they own the far ends of pipes and terminals, and
 * files under their root are only opened by a child that is already inside.
 */
#ifndef WSLX_AGENT_GUEST_H
#define WSLX_AGENT_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/loop.h"
#include "base/macros.h"
#include "proto/agent.h"

struct wslx_guest;

/* Who asked; stays valid when the connection is gone (the reply is dropped). */
struct wslx_guest_call {
	uint64_t conn;
	uint32_t channel;
	uint32_t id;
};

/* Where a process runs.  All -1: in the agent's own namespaces (tests). */
struct wslx_guest_place {
	const char *distro; /* for WSL_DISTRO_NAME; "" = none */
	int pidfd;          /* of the distro's init: its namespaces */
	int cgroup_fd;      /* cgroup to be born in */
	int pts_fd;         /* its /dev/pts */
};

struct wslx_guest_ops {
	/* CONFIG, DISTRO_START, DISTRO_STOP, PAUSE, RESUME, SHUTDOWN, SYNC: answer
	 * now or later.  m is valid during the call only. */
	void (*request)(void *opaque, const struct wslx_guest_call *call, const struct wslx_agent_msg *m);
	/* Borrowed descriptors.  On failure one line of text. */
	int (*place)(void *opaque, const char *distro, struct wslx_guest_place *ret, char *text, size_t size);
	/* Fills what the core does not know; distros is freed by the core. */
	void (*status)(void *opaque, struct wslx_agent_status *st);
	/* The control connection ended. */
	void (*control_lost)(void *opaque);
	/* HELLO came in on a control connection. */
	void (*control_ready)(void *opaque);
};

WSLX_MUST_CHECK int wslx_guest_new(struct wslx_loop *loop, const struct wslx_guest_ops *ops, void *opaque,
				   struct wslx_guest **ret);
void wslx_guest_free(struct wslx_guest *g);
/* What HELLO says; the strings and numbers are copied. */
void wslx_guest_set_hello(struct wslx_guest *g, const struct wslx_agent_hello *h);

/* fd is taken in any case. */
WSLX_MUST_CHECK int wslx_guest_serve(struct wslx_guest *g, int fd, bool control);

/* ---- replies ---- */
void wslx_guest_reply_ok(struct wslx_guest *g, const struct wslx_guest_call *call);
void wslx_guest_reply_error(struct wslx_guest *g, const struct wslx_guest_call *call, int code, const char *fmt, ...)
	WSLX_PRINTF(4, 5);
void wslx_guest_reply(struct wslx_guest *g, const struct wslx_guest_call *call, uint16_t type,
		      const struct wslx_buf *body);
/* To the control connection, if there is one. */
void wslx_guest_event(struct wslx_guest *g, const struct wslx_agent_event *ev);

/* ---- children ---- */
typedef void (*wslx_guest_child_fn)(void *opaque, pid_t pid, int wait_status);

/* Calls fn once when pid, a child of ours, has ended and was reaped. */
WSLX_MUST_CHECK int wslx_guest_watch_child(struct wslx_guest *g, pid_t pid, wslx_guest_child_fn fn, void *opaque);
/* The child's end is reaped but reported to nobody. */
void wslx_guest_forget_child(struct wslx_guest *g, pid_t pid);

/* fork() with namespaces: clone3 flags, a cgroup (-1 = ours) and the PID
 * namespace of pidfd (-1 = ours).  In the child signals are back at their
 * defaults.  Returns 0 in the child, the pid, or -errno. */
WSLX_MUST_CHECK pid_t wslx_guest_fork(uint64_t clone_flags, int cgroup_fd, int pidfd);

/* Runs work in a forked child with the agent's rights; its return value (0 or
 * a positive errno below 256) comes back in done.  Text the work leaves in
 * `text` (WSLX_AGENT_TEXT_MAX bytes) comes along.  Returns the child's pid, or
 * -errno; a child that was killed is code EIO. */
typedef int (*wslx_guest_work_fn)(void *opaque, char *text, size_t size);
typedef void (*wslx_guest_done_fn)(void *opaque, int code, const char *text);
WSLX_MUST_CHECK pid_t wslx_guest_work(struct wslx_guest *g, wslx_guest_work_fn work, void *work_opaque,
				      wslx_guest_done_fn done, void *opaque);

#endif
