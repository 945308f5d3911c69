/*
 * The user-mode network: a passt process, replaced when it dies.
 *
 * Theory of operation.  passt gets a connected stream socket and nothing else,
 * and puts itself in a sandbox; as root it becomes nobody.  It ends by itself
 * when the other end of its socket closes, so it cannot outlive the machine.
 * When it ends although the machine runs, a new one is started after a pause
 * that grows with each failure, and `connect` provides a new socket: the guest
 * keeps its address and sees lost packets.
 */
#ifndef WSLX_VMM_SUPERVISOR_PASST_H
#define WSLX_VMM_SUPERVISOR_PASST_H

#include "base/err.h"
#include "base/loop.h"
#include "proto/vmconfig.h"

/* What the guest is told to use.  Not one of the networks that hosts are often in themselves (10.0.2.0/24 is what
 * QEMU and VirtualBox give theirs): a host there could not be reached from inside. */
#define WSLX_PASST_ADDRESS "10.213.77.15"
#define WSLX_PASST_PREFIX 24
#define WSLX_PASST_GATEWAY "10.213.77.2"
#define WSLX_PASST_DNS "10.213.77.3"
#define WSLX_PASST_MTU 65520

struct wslx_passt;

struct wslx_passt_params {
	struct wslx_loop *loop;
	const struct wslx_net_config *net;
	/* A socket for passt whose other end is the machine's network device:
	 * the descriptor (passed on and closed), or -errno; -EAGAIN or
	 * -ETOOMANYREFS: not now, in a moment. */
	int (*connect)(void *opaque);
	/* passt ended after `alive_ms`; it will be tried again unless this frees
	 * the object.  text: one line. */
	void (*ended)(void *opaque, int64_t alive_ms, const char *text);
	/* A new one is at the machine's network device: it knows nothing of the guest yet. */
	void (*replaced)(void *opaque);
	void *opaque;
};

/* Can the published ports be had?  passt says nothing about those it cannot
 * bind, so they are tried here before it starts. */
WSLX_MUST_CHECK int wslx_publish_check(const struct wslx_net_config *net, struct wslx_err *err);
/* Finds the program; nothing is started yet. */
WSLX_MUST_CHECK int wslx_passt_new(const struct wslx_passt_params *p, struct wslx_passt **ret, struct wslx_err *err);
/* Also after the machine was restarted. */
WSLX_MUST_CHECK int wslx_passt_start(struct wslx_passt *p, struct wslx_err *err);
void wslx_passt_stop(struct wslx_passt *p);
void wslx_passt_free(struct wslx_passt *p); /* NULL is fine */

/* The command line, for tests; frees with wslx_passt_args_free. */
WSLX_MUST_CHECK int wslx_passt_args(const char *path, const struct wslx_net_config *net, int fd, char ***ret);
void wslx_passt_args_free(char **argv);

#endif
