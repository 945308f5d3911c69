/*
 * A new file that has its name only once all of it is there and on the disk,
 * and takes nobody's place.
 *
 * Theory of operation.  Until then it has no name at all (O_TMPFILE), so that a
 * kill leaves nothing behind; where the file system has no such files, or /proc,
 * which names them, is missing, it lies beside its place under a name that begins
 * with WSLX_NEWFILE_TEMP.  Publishing syncs the file, gives it its name, and syncs
 * the folder: what was done before is then as durable as what is done after.
 *
 * Threads: none; no global state.
 */
#ifndef WSLX_OS_LINUX_NEWFILE_H
#define WSLX_OS_LINUX_NEWFILE_H

#include <stdbool.h>

#include "base/macros.h"

#define WSLX_NEWFILE_TEMP ".wslx-export-"

struct wslx_newfile {
	int fd; /* to write to */
	int dir_fd;
	const char *name; /* in there; part of the path that was given */
	char temp[40];    /* the same; "" if it has none */
};

#define WSLX_NEWFILE_INIT                                                                                              \
	{                                                                                                              \
		.fd = -1, .dir_fd = -1                                                                                 \
	}

/* path must live as long as *f, whose file gets mode 0600.  -EINVAL: no name of a file. */
WSLX_MUST_CHECK int wslx_newfile_open(struct wslx_newfile *f, const char *path);
/* -EEXIST: something has that name.  *ret_named: the file has its name, so that
 * an error is about how durable that is. */
WSLX_MUST_CHECK int wslx_newfile_publish(struct wslx_newfile *f, bool *ret_named);
/* Without having been published, the file is gone.  Safe to call twice. */
void wslx_newfile_close(struct wslx_newfile *f);

#endif
