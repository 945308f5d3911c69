/*
 * How our daemons start: a supervisor, its children, the broker of a region.
 *
 * Whoever starts one hands it open descriptors and names their numbers on the
 * command line.  The daemon lets go of everything else that it inherited.
 *
 * Threads: before there is a second one.
 */
#ifndef WSLX_OS_LINUX_STARTUP_H
#define WSLX_OS_LINUX_STARTUP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/macros.h"

/* --NAME=VALUE: of fd and text the one that is not NULL is set.  With neither the value is for those who read the
 * process list. */
struct wslx_startup_option {
	const char *name;
	int *fd; /* open, close-on-exec from here on; 0 to 2 are refused */
	const char **text;
};

#define WSLX_STARTUP_OPTIONS 8

struct wslx_startup {
	const char *program, *usage;
	bool operands;                                            /* may follow, for those who read the process list */
	struct wslx_startup_option options[WSLX_STARTUP_OPTIONS]; /* up to the first without a name */
};

/* Of --help and --version, too.  0: go on, 1: done, -EINVAL: said why on stderr. */
WSLX_MUST_CHECK int wslx_startup_parse(const struct wslx_startup *s, int argc, char **argv);

/* Of the caller's nothing stays: not its session, folder, umask, nor any descriptor from 3 on but those in keep (-1 is
 * none).  0 and 1 are /dev/null, and 2 is log unless that is -1. */
WSLX_MUST_CHECK int wslx_startup_detach(int log, const int *keep, size_t n);

/* What was written for us into fd, which is closed.  The caller frees *ret.  -EFBIG: it is max bytes or more. */
WSLX_MUST_CHECK int wslx_startup_read(int fd, size_t max, char **ret, size_t *ret_len);

/* As many descriptors as the caller wants, if it may; otherwise as many as it may. */
WSLX_MUST_CHECK int wslx_startup_raise_fds(unsigned wanted);

#endif
