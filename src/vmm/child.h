/*
 * Start-up parameters of a confined child: everything it needs, as inherited
 * descriptors and plain values, so that it never opens a path.
 *
 * `wslx-vmm --child=vmm|devices --params=FD`: FD is a memfd with JSON.  The
 * child reads it, closes it, and every descriptor that is not named there is
 * closed by the supervisor before exec.
 */
#ifndef WSLX_VMM_CHILD_H
#define WSLX_VMM_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/vmconfig.h"

struct wslx_child_disk {
	int fd;      /* raw image, or overlay file */
	int base_fd; /* OVERLAY: base image, else -1 */
	enum wslx_disk_format format;
	bool readonly;
	bool no_sync; /* see vmconfig.h */
	char serial[WSLX_SERIAL_MAX + 1];
	unsigned queues;
	int vhost_fd; /* devices child: connected vhost-user socket, else -1 */
};

struct wslx_child_params {
	int link_fd;        /* SOCK_SEQPACKET, see link.h */
	int console_fd;     /* pipe to the supervisor: serial output; -1 on the devices child */
	int vsock_fd;       /* listening unix socket for host-to-guest connections */
	int vsock_vhost_fd; /* devices child only */
	uint64_t guest_cid; /* 3.. */
	struct wslx_child_disk *disks;
	size_t n_disks;
	/* Portal's window; 0 bytes = none. */
	uint64_t window;
	int window_fd; /* its own memory, a sealed memfd of that size */
	/* vmm child only: */
	unsigned cpus;
	uint64_t memory;
	bool shared_memory;
	int kvm_fd;
	int kernel_fd; /* ELF vmlinux or bzImage */
	int initramfs_fd;
	char *cmdline;
	enum wslx_net_mode net_mode;
	int net_fd; /* passt: connected stream socket; tap: the tap descriptor */
	uint8_t mac[6];
	/* Test hooks. */
	bool no_io_uring; /* take the thread-pool path */
	bool test_hooks;  /* answer WSLX_LINK_TEST_CONFINEMENT */
};

WSLX_MUST_CHECK int wslx_child_params_encode(const struct wslx_child_params *p, char **ret);
WSLX_MUST_CHECK int wslx_child_params_decode(const char *json, size_t len, struct wslx_child_params **ret,
					     struct wslx_err *err);
void wslx_child_params_free(struct wslx_child_params *p); /* closes nothing; NULL is fine */

/* Entry points; return the process's exit status. */
int wslx_vm_main(struct wslx_child_params *p);      /* src/vmm/vm/ : the VMM proper */
int wslx_devices_main(struct wslx_child_params *p); /* src/vmm/devices.c : vhost-user device server */

#endif
