/*
 * Export: the files of an ext4 disk become a tar archive, the inverse of
 * import.  Owners, modes, times, hard links, holes, device nodes, extended
 * attributes and ACLs are kept; sockets, which tar cannot hold, are left out.
 *
 * Nothing is mounted, and no privilege is needed: libext2fs reads the disk.
 *
 * Trust boundary: a guest wrote the disk.  Every number in it is checked before
 * it is used; entries, memory, work, data and attributes are bounded; a folder
 * that is met twice, a file that is met more often than it has links, or more
 * data or attributes than the disk has room for, is an error.
 */
#ifndef WSLX_IMAGE_EXPORT_H
#define WSLX_IMAGE_EXPORT_H

#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"
#include "image/task.h"

enum wslx_export_format { WSLX_EXPORT_TAR, WSLX_EXPORT_TAR_GZ, WSLX_EXPORT_TAR_XZ };

struct wslx_export_params {
	int disk_fd;          /* a regular file with an ext4 file system that nothing writes to; borrowed */
	int out_fd;           /* file or pipe; borrowed */
	const char *out_name; /* for messages; NULL = not said */
	enum wslx_export_format format;
	/* Of the archive; 0 = no other limit than, for a file, what the host's file
	 * system has free, less a reserve. */
	uint64_t max_bytes;
	struct wslx_task task;
};

struct wslx_export_result {
	uint64_t entries;
	uint64_t data_bytes; /* of file content, without holes */
	uint64_t sockets;    /* left out */
};

/* Does the file system's journal hold changes that have not reached it, as
 * after a kill?  1, 0; -errno. */
WSLX_MUST_CHECK int wslx_export_is_dirty(int disk_fd);
/* Brings them there, as the next mount would: the disk is written to. */
WSLX_MUST_CHECK int wslx_export_replay(int disk_fd, const struct wslx_task *task, struct wslx_err *err);

/* -EBADMSG: the file system is damaged; -E2BIG over a limit; -ECANCELED;
 * -EBUSY: dirty; -ENOSPC.  What was written to out_fd by then is worthless. */
WSLX_MUST_CHECK int wslx_export(const struct wslx_export_params *p, struct wslx_export_result *ret,
				struct wslx_err *err);

#endif
