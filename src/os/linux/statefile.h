/*
 * State that survives a crash: a file, or a whole folder, changes from its old
 * contents to the new ones in one step, and when a function here has returned
 * the step is on the disk.
 *
 * Theory of operation.  New contents go to a temporary file in the same
 * folder; it is synced, renamed over the old one, and the folder is synced.
 * POSIX orders nothing without a sync, so a power loss may leave out any
 * subset of what was done since the last one: before the rename the old name
 * still points to the old file; the new file's contents are stable before the
 * name can point to them.  Leftover temporaries begin with
 * WSLX_STATEFILE_TEMP and are swept by whoever holds the lock of that folder.
 *
 * Every operation is told to a recorder, so that a test can replay it with any
 * subset of the not yet synced ones left out.
 *
 * Threads: none; no global state.
 */
#ifndef WSLX_OS_LINUX_STATEFILE_H
#define WSLX_OS_LINUX_STATEFILE_H

#include <stddef.h>

#include "base/macros.h"

#define WSLX_STATEFILE_TEMP ".tmp-"

enum wslx_statefile_op_kind {
	WSLX_STATEFILE_CREATE,   /* name, empty */
	WSLX_STATEFILE_WRITE,    /* data appended to name */
	WSLX_STATEFILE_SYNC,     /* contents of name */
	WSLX_STATEFILE_RENAME,   /* name to to_name */
	WSLX_STATEFILE_UNLINK,   /* name */
	WSLX_STATEFILE_SYNC_DIR, /* the folder's entries */
};

struct wslx_statefile_op {
	enum wslx_statefile_op_kind kind;
	int dirfd;
	const char *name, *to_name;
	const void *data;
	size_t len;
};

/* Called after each operation that succeeded; NULL: nobody listens. */
struct wslx_statefile_recorder {
	void (*record)(void *opaque, const struct wslx_statefile_op *op);
	void *opaque;
};

/* Makes name in dirfd hold data, mode 0600.  On failure the old state stands. */
WSLX_MUST_CHECK int wslx_statefile_write(int dirfd, const char *name, const void *data, size_t len,
					 const struct wslx_statefile_recorder *rec);

/* Renames what was built under a temporary name (a folder whose contents were
 * synced) to its name; -EEXIST if that is taken.  Both in dirfd. */
WSLX_MUST_CHECK int wslx_statefile_publish(int dirfd, const char *temp, const char *name,
					   const struct wslx_statefile_recorder *rec);

/* The inverse: takes name away in one step by renaming it to a fresh temporary
 * name, which is put in temp (at least 32 bytes); remove that at leisure. */
WSLX_MUST_CHECK int wslx_statefile_withdraw(int dirfd, const char *name, char *temp, size_t temp_size,
					    const struct wslx_statefile_recorder *rec);

/* A fresh temporary name: WSLX_STATEFILE_TEMP and random characters. */
WSLX_MUST_CHECK int wslx_statefile_temp_name(char *buf, size_t size);

/* fsync of every file and folder in the tree is the caller's; this one syncs
 * one folder by descriptor. */
WSLX_MUST_CHECK int wslx_statefile_sync_dir(int dirfd, const struct wslx_statefile_recorder *rec);

#endif
