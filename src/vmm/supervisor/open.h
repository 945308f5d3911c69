/*
 * What the supervisor opens before anything runs: everything its children will
 * need, so that they need not open anything, and every mistake of the user's
 * shows before a process was started.
 *
 * Disk locks are open-file-description locks: a write lock on an image that
 * can be written, a read lock on a read-only one and on an overlay's base.  The
 * description is the one the children write through, so the lock lasts exactly
 * as long as anybody can still write.
 */
#ifndef WSLX_VMM_SUPERVISOR_OPEN_H
#define WSLX_VMM_SUPERVISOR_OPEN_H

#include "base/err.h"
#include "os/linux/holder.h"
#include "proto/vmconfig.h"

#define WSLX_CONFIG_MAX (1u << 20)

struct wslx_files {
	int kvm_fd; /* kvm engine */
	int kernel_fd, initramfs_fd;
	struct {
		int fd, base_fd;
	} disks[WSLX_MAX_DISKS];
	int vsock_fd;      /* listening, RUNTIME_DIR/vsock.sock */
	int net_listen_fd; /* tcg with passt: listening, RUNTIME_DIR/net.sock */
	int tap_fd;
	int runtime_dirfd;
	struct wslx_lock_wait lock_wait; /* for the disks' locks */
};

void wslx_files_init(struct wslx_files *f);
/* kvm_path: NULL = /dev/kvm. */
WSLX_MUST_CHECK int wslx_files_open(struct wslx_files *f, const struct wslx_vm_config *c, const char *kvm_path,
				    struct wslx_err *err);
/* Makes net.sock anew if the engine has one.  Before each run: QEMU removes the
 * name of a socket it was given to listen at, where it is able to. */
WSLX_MUST_CHECK int wslx_files_listen_net(struct wslx_files *f, const struct wslx_vm_config *c, struct wslx_err *err);
/* Closes all, removes the sockets from the runtime folder. */
void wslx_files_close(struct wslx_files *f);

/* Reads a configuration to its end.  fd is taken. */
WSLX_MUST_CHECK int wslx_config_read(int fd, struct wslx_vm_config **ret, struct wslx_err *err);

/* Queues of disk i: the same number for the device model and QEMU's front end. */
unsigned wslx_disk_queues(const struct wslx_vm_config *c, size_t i);
/* Path of a file in the runtime folder; caller frees. */
char *wslx_runtime_path(const struct wslx_vm_config *c, const char *name);
/* The net.mac of the configuration, or one made from the machine's name. */
void wslx_machine_mac(const struct wslx_vm_config *c, unsigned char ret[6]);

#endif
