/*
 * The link: SOCK_SEQPACKET between the supervisor and a confined child (the
 * VMM proper on the kvm engine, the device server on the tcg engine).
 * One message a packet, fixed little-endian layout, encoded per field.
 *
 *   offset 0  u32 type (enum wslx_link_type)
 *          4  u32 id   (pairs a request with its reply)
 *          8  u64 a
 *         16  u64 b
 *         24  u32 text length, then that many bytes of text (<= WSLX_LINK_TEXT_MAX)
 *   at most one descriptor rides along where the type says so.
 *
 * Trust boundary: the child serves a hostile guest and may have been taken
 * over.  The supervisor checks every message; a malformed one ends the child.
 */
#ifndef WSLX_VMM_LINK_H
#define WSLX_VMM_LINK_H

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

#define WSLX_LINK_TEXT_MAX 8192

enum wslx_link_type {
	/* child -> supervisor */
	WSLX_LINK_READY = 1,     /* confined, about to run guest code / serve; a = ns since exec */
	WSLX_LINK_FIRST_ENTRY,   /* a = CLOCK_MONOTONIC ns just before the first vCPU entry */
	WSLX_LINK_POWEROFF,      /* guest powered off */
	WSLX_LINK_RESET,         /* guest asked for a reset; a = wslx_reset_cause */
	WSLX_LINK_FAILED,        /* text: one line, the child ends */
	WSLX_LINK_CONNECT,       /* guest connects to host vsock port a; id pairs the reply */
	WSLX_LINK_NET_DOWN,      /* the net back end's peer went away */
	WSLX_LINK_STATS_REPLY,   /* text: "name value\n" lines */
	WSLX_LINK_PAUSED,        /* reply to PAUSE / RESUME / TEST */
	WSLX_LINK_HOST_FULL,     /* disk number id waits (a = 1) for room on the host's disk, or goes on (a = 0) */
	WSLX_LINK_WINDOW_MAPPED, /* reply to WINDOW_MAP; a = 0 or an errno value */
	/* supervisor -> child */
	WSLX_LINK_CONNECT_OK = 64, /* reply to CONNECT, with the stream socket */
	WSLX_LINK_CONNECT_REFUSED,
	WSLX_LINK_NET_FD, /* a new net back-end socket, with descriptor */
	WSLX_LINK_PAUSE,
	WSLX_LINK_RESUME,
	WSLX_LINK_STATS,
	WSLX_LINK_STOP,             /* stop the vCPUs and exit 0 */
	WSLX_LINK_TEST_CONFINEMENT, /* test hook: try open, execve, connect, an io_uring open;
				     * PAUSED reply: a = bit mask of those that succeeded (0 = confined) */
	WSLX_LINK_WINDOW_MAP,       /* Portal's window: a = first segment | segments << 32, b = wslx_window_kind, with
				     * descriptor, mapped from its beginning; of the window itself for OWN.  See window.h */
};

/* What lies under a run of window segments. */
enum wslx_window_kind {
	WSLX_WINDOW_OWN = 0,   /* the window's own memory: nobody else sees it */
	WSLX_WINDOW_READ = 1,  /* private: what the guest writes stays in copies */
	WSLX_WINDOW_WRITE = 2, /* shared */
};

enum wslx_reset_cause { WSLX_RESET_REQUESTED = 0, WSLX_RESET_TRIPLE_FAULT = 1 };

struct wslx_link_msg {
	uint32_t type;
	uint32_t id;
	uint64_t a, b;
	size_t text_len;
	char text[WSLX_LINK_TEXT_MAX + 1]; /* NUL-terminated */
	int fd;                            /* received: owned by the receiver, -1 = none; sent: borrowed */
};

/* 0 or -errno (-EPROTO: malformed). */
WSLX_MUST_CHECK int wslx_link_send(int sock, const struct wslx_link_msg *m);
/* 1: received, 0: peer closed, -EAGAIN, -EPROTO, -errno. */
WSLX_MUST_CHECK int wslx_link_recv(int sock, struct wslx_link_msg *ret);

#endif
