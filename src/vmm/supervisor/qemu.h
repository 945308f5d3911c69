/*
 * The tcg engine's CPU and chipset: a supervised qemu-system-x86_64.
 *
 * QEMU gets everything as descriptors, has no network of its own, writes no
 * file, and its disks and vsock are ours over vhost-user.  See qemu.c for its
 * confinement, and docs/threat-model.md for what it is worth.
 */
#ifndef WSLX_VMM_SUPERVISOR_QEMU_H
#define WSLX_VMM_SUPERVISOR_QEMU_H

#include "base/err.h"
#include "base/loop.h"
#include "proto/vmconfig.h"
#include "vmm/supervisor/open.h"
#include "vmm/supervisor/tsc.h"

enum wslx_qemu_end {
	WSLX_QEMU_POWEROFF,
	WSLX_QEMU_RESET,
	WSLX_QEMU_TRIPLE_FAULT,
	WSLX_QEMU_QUIT, /* by our own wish */
	WSLX_QEMU_FAILED,
};

struct wslx_qemu;

struct wslx_qemu_params {
	struct wslx_loop *loop;
	const struct wslx_vm_config *config;
	const struct wslx_files *files;
	int console_fd; /* QEMU's end, borrowed */
	int vsock_vhost_fd;
	const int *disk_vhost_fds;     /* one a disk, borrowed */
	int window_fd, window_link_fd; /* Portal's window and the socket of the library for it; -1 = none; borrowed */
	struct wslx_tsc_mark tsc_mark; /* of some time ago, to take the counter's rate from */
	/* The process is gone and reaped.  The object may be freed from here. */
	void (*ended)(void *opaque, enum wslx_qemu_end end, const char *text);
	void *opaque;
};

/* Path of the program, or a line that says how to get it.  Caller frees. */
WSLX_MUST_CHECK int wslx_qemu_find(char **ret, struct wslx_err *err);
WSLX_MUST_CHECK int wslx_qemu_start(const struct wslx_qemu_params *p, struct wslx_qemu **ret, struct wslx_err *err);
void wslx_qemu_quit(struct wslx_qemu *q); /* in order */
void wslx_qemu_kill(struct wslx_qemu *q);
typedef void (*wslx_qemu_reply_fn)(void *opaque, int err);
WSLX_MUST_CHECK int wslx_qemu_pause(struct wslx_qemu *q, bool on, wslx_qemu_reply_fn fn, void *opaque);
void wslx_qemu_free(struct wslx_qemu *q); /* kills it if it runs; NULL is fine */

#endif
