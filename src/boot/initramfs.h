/*
 * The initramfs: an uncompressed newc cpio archive with the agent as /init, a
 * few folders, /dev/console, and the modules that must be there before the
 * root disk is.  The same input gives the same bytes.
 *
 * Inside:
 *   /init                  the agent, 0755
 *   /sbin/modprobe         symlink to /init: the kernel's module requests
 *   /modules.load          one path a line, in load order
 *   /lib/modules/VERSION/kernel/....ko   unpacked
 *   /dev (with console, null), /proc, /sys, /run, /tmp, /mnt, /etc
 */
#ifndef WSLX_BOOT_INITRAMFS_H
#define WSLX_BOOT_INITRAMFS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"

struct wslx_initramfs_params {
	const char *modules_dir;    /* .../lib/modules/VERSION; NULL: the kernel has all it needs built in */
	const char *agent_path;     /* static executable */
	const char *kernel_version; /* checked against modules_dir's VERSION, for messages; NULL = not known */
};

/* Writes the archive to out_fd (regular file, empty, from its offset on).
 * A driver that is neither built in nor a module is -ENOENT with a message
 * that names it. */
WSLX_MUST_CHECK int wslx_initramfs_build(const struct wslx_initramfs_params *p, int out_fd, struct wslx_err *err);

/* newc writer, for whoever needs another archive. */
struct wslx_cpio {
	int fd;
	uint32_t ino;
	uint64_t off;
};

void wslx_cpio_init(struct wslx_cpio *c, int fd);
/* path: without a leading slash.  mode includes the file type (S_IFREG ...);
 * data: content, or a symlink's target. */
WSLX_MUST_CHECK int wslx_cpio_add(struct wslx_cpio *c, const char *path, uint32_t mode, const void *data, size_t len);
WSLX_MUST_CHECK int wslx_cpio_add_node(struct wslx_cpio *c, const char *path, uint32_t mode, uint32_t major,
				       uint32_t minor);
/* The trailer. */
WSLX_MUST_CHECK int wslx_cpio_end(struct wslx_cpio *c);

#endif
