/*
 * One run of the machine: from the start of the child processes to the end of
 * the last of them.  A reboot is a new run on the same descriptors.
 *
 * Theory of operation.  kvm engine: one child, `wslx-vmm --child=vmm`.  tcg
 * engine: `wslx-vmm --child=devices` and QEMU.  The link carries requests both
 * ways.  How the guest ended is known from the link's last word (kvm) or QMP
 * (tcg); `ended` is called once every process is reaped and all of the console
 * was read, so that a panic printed just before is never missed.
 *
 * Trust boundary: the link's other end serves a hostile guest.  Malformed
 * messages and replies to questions never asked end the child.
 */
#ifndef WSLX_VMM_SUPERVISOR_RUN_H
#define WSLX_VMM_SUPERVISOR_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "proto/vmconfig.h"
#include "vmm/supervisor/console.h"
#include "vmm/supervisor/open.h"
#include "vmm/supervisor/portal.h"

#define WSLX_GUEST_CID 3

struct wslx_run;

enum wslx_run_end {
	WSLX_RUN_POWEROFF,
	WSLX_RUN_RESET,
	WSLX_RUN_TRIPLE_FAULT,
	WSLX_RUN_STOPPED, /* by wslx_run_stop */
	WSLX_RUN_FAILED,  /* text */
};

struct wslx_run_events {
	void (*first_entry)(void *opaque, uint64_t ns); /* CLOCK_MONOTONIC; kvm engine only */
	/* The guest connects to host port `port`: answer with wslx_run_connected(). */
	void (*connect)(void *opaque, uint32_t id, uint64_t port);
	/* One of the configuration's disks waits for room on the host's, or goes on. */
	void (*host_full)(void *opaque, unsigned disk, bool full);
	void (*ended)(void *opaque, enum wslx_run_end end, const char *text); /* free the run from here */
};

struct wslx_run_params {
	struct wslx_loop *loop;
	const struct wslx_vm_config *config;
	const struct wslx_files *files;
	struct wslx_conlog *console;
	int net_fd;            /* kvm engine: stream socket to passt, or -1; borrowed */
	int window_fd;         /* Portal's window, or -1; borrowed */
	const char *self_path; /* the program with --child=; NULL = /proc/self/exe */
	bool test_hooks, no_io_uring;
	const struct wslx_run_events *events; /* all set; static */
	void *opaque;
};

WSLX_MUST_CHECK int wslx_run_start(const struct wslx_run_params *p, struct wslx_run **ret, struct wslx_err *err);
uint64_t wslx_run_spawn_ns(const struct wslx_run *r);
/* Ends the machine without asking the guest; kills what does not end by itself. */
void wslx_run_stop(struct wslx_run *r);
void wslx_run_kill(struct wslx_run *r);
/* No callbacks; NULL is fine. */
void wslx_run_free(struct wslx_run *r);

/* fd: connected stream socket, borrowed; -1 = refuse.  What cannot be sent at once is sent later. */
void wslx_run_connected(struct wslx_run *r, uint32_t id, int fd);
/* kvm engine: a new socket to passt, borrowed.  -EAGAIN, -ETOOMANYREFS: not now. */
WSLX_MUST_CHECK int wslx_run_set_net(struct wslx_run *r, int fd);

/* Puts something else into a run of Portal's window, in all processes that have it.
 * On failure (-errno) fn is not called. */
WSLX_MUST_CHECK int wslx_run_window_map(struct wslx_run *r, const struct wslx_vmportal_map *m,
					wslx_vmportal_mapped_fn fn, void *opaque);

/* err: 0 or -errno.  a: as in link.h; text: "" or the statistics. */
typedef void (*wslx_run_reply_fn)(void *opaque, int err, uint64_t a, const char *text);
/* On failure (-errno) fn is not called. */
WSLX_MUST_CHECK int wslx_run_pause(struct wslx_run *r, bool on, wslx_run_reply_fn fn, void *opaque);
WSLX_MUST_CHECK int wslx_run_stats(struct wslx_run *r, wslx_run_reply_fn fn, void *opaque);
WSLX_MUST_CHECK int wslx_run_test_confinement(struct wslx_run *r, wslx_run_reply_fn fn, void *opaque);

#endif
