/*
 * Debian as a source: root file systems by mmdebstrap, kernels from its
 * packages.  Both use the host's own apt configuration (mirror and keyring),
 * install nothing on the host and need no root.
 */
#ifndef WSLX_IMAGE_DEBIAN_H
#define WSLX_IMAGE_DEBIAN_H

#include "base/err.h"
#include "base/macros.h"
#include "image/import.h"
#include "image/task.h"

struct wslx_debian_params {
	const char *suite;   /* NULL: the host's own release if it is Debian, else "bookworm" */
	const char *mirror;  /* NULL: the host's own Debian sources */
	const char *include; /* further packages, comma-separated; NULL = none */
	int out_fd;          /* empty regular file, O_RDWR; borrowed */
	const char *place;   /* for messages: the folder that out_fd is in; NULL = not said */
	uint64_t size;       /* virtual size; 0 = the default */
	struct wslx_task task;
};

/* A root file system straight from mmdebstrap into a new disk.  When a
 * program fails, err's line ends with the last line it said.  -ENOENT: a
 * program is not installed (the line says which package has it). */
WSLX_MUST_CHECK int wslx_install_debian(const struct wslx_debian_params *p, struct wslx_import_result *ret,
					struct wslx_err *err);

/* Downloads the newest kernel package of a flavour ("cloud", "standard", or a
 * package's name) into the folder dir_fd.  *ret: the file's name there; caller
 * frees and, when done, unlinks it.  It is then given to wslx_kernel_add. */
WSLX_MUST_CHECK int wslx_kernel_fetch_debian(const char *flavour, int dir_fd, const struct wslx_task *task, char **ret,
					     struct wslx_err *err);

#endif
