/*
 * Import: a root file system archive, or a raw ext4 image, becomes a sparse
 * ext4 disk.
 *
 * The caller gives an empty regular file and owns it: on failure it unlinks
 * it; nothing else is ever touched.  docs/images.md says what is accepted and
 * what is refused.
 */
#ifndef WSLX_IMAGE_IMPORT_H
#define WSLX_IMAGE_IMPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"
#include "image/task.h"

/* Virtual size of a new disk. */
#define WSLX_IMPORT_SIZE_DEFAULT ((uint64_t)1 << 40)
#define WSLX_IMPORT_SIZE_MIN ((uint64_t)64 << 20)
#define WSLX_IMPORT_SIZE_MAX ((uint64_t)16 << 40)
/* Entries, and bytes of memory for their metadata: at about 300 bytes an entry
 * the default memory limit is reached first. */
#define WSLX_IMPORT_ENTRIES_DEFAULT ((uint64_t)16 << 20)
#define WSLX_IMPORT_MEMORY_DEFAULT ((uint64_t)2 << 30)

struct wslx_import_params {
	int in_fd;           /* file, pipe or socket; read from its current offset; borrowed */
	const char *in_name; /* for messages: "root.tar.xz", "standard input" */
	int out_fd;          /* empty regular file, O_RDWR; borrowed */
	const char *place;   /* for messages: the folder that out_fd is in; NULL = not said */
	/* Virtual size: a tar's disk gets this size (0 = the default); a raw image
	 * keeps its own, and grows to this one if it is larger. */
	uint64_t size;
	uint64_t max_entries; /* 0 = the default */
	uint64_t max_memory;  /* 0 = the default */
	/* Of data put on the disk; 0 = no other limit than what the host's file
	 * system has free, less a reserve. */
	uint64_t max_bytes;
	bool no_sync; /* leave out the final fsync of out_fd */
	struct wslx_task task;
};

enum wslx_import_kind { WSLX_IMPORT_TAR, WSLX_IMPORT_EXT4 };

struct wslx_import_result {
	enum wslx_import_kind kind;
	uint64_t entries;    /* of the archive; 0 for an image */
	uint64_t data_bytes; /* of file content */
	uint64_t disk_size;  /* virtual size of out_fd */
	/* etc/wsl-distribution.conf, section oobe; "" and -1 when not given. */
	char default_name[65]; /* as written there: check it before use as a name */
	int64_t default_uid;
};

/* Codes besides errno's of system calls: -EINVAL nothing that can be imported,
 * -EBADMSG corrupt or truncated, -EPERM hostile, -E2BIG over a limit,
 * -ENOSPC, -ECANCELED.  err has the line for the user, ret is only valid on 0. */
WSLX_MUST_CHECK int wslx_import(const struct wslx_import_params *p, struct wslx_import_result *ret,
				struct wslx_err *err);

#endif
