/*
 * Where things live: XDG folders, our own programs.
 *
 * Trust boundary: the runtime folder may be under /tmp, where another local
 * user could have been first.  It is used only if it is a real folder of ours
 * that nobody else can enter.
 */
#ifndef WSLX_OS_LINUX_PATHS_H
#define WSLX_OS_LINUX_PATHS_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/macros.h"

struct wslx_paths {
	char *data;  /* distros, kernels, images, configuration */
	char *state; /* consoles and logs of machines */
	char *run;   /* sockets and locks of machines; gone after a reboot of the host */
	/* The runtime folder that all data folders of the user share.  run is this
	 * one, or, if data is not the user's usual folder, one in it: machines of
	 * the same name in other data folders are others. */
	char *shared;
};

/* WSLX_HOME, else the XDG variables, else their defaults.  Makes the three
 * folders, mode 0700. */
WSLX_MUST_CHECK int wslx_paths_open(struct wslx_paths *ret, struct wslx_err *err);
void wslx_paths_free(struct wslx_paths *p);

/* asprintf() that gives NULL when there is no memory. */
char *wslx_path(const char *fmt, ...) WSLX_PRINTF(1, 2);

/* The folder and its parents; 0 if it is there already. */
WSLX_MUST_CHECK int wslx_mkdirs(const char *path, mode_t mode);

/* Removes a file or a whole tree below dirfd without following symlinks.
 * Nothing there is no error. */
int wslx_remove_tree(int dirfd, const char *name);

/* One of our own helper programs ("wslx-vmm", "wslx-agent"): $WSLX_LIBEXEC,
 * beside the running executable (also as the build tree lays them out), then
 * the folder of the installation. */
WSLX_MUST_CHECK int wslx_find_own(const char *name, char **ret, struct wslx_err *err);

#endif
