/*
 * The lock on a disk image, and who holds it if we cannot get it.
 *
 * Theory of operation.  Whoever opens an image locks it by its open file
 * description.  Such a lock has no owner to ask for, but /proc/PID/fdinfo shows
 * it to those who may look: so we find one of our machines, by its supervisor's
 * title and the lock it inherited, or any other program.
 *
 * A machine that ended, or was killed, may leave a child that takes a moment to
 * die, and holds the lock for as long.  That is worth waiting for; a program of
 * others, or a machine that goes on running, is not.
 */
#ifndef WSLX_OS_LINUX_HOLDER_H
#define WSLX_OS_LINUX_HOLDER_H

#include <limits.h>
#include <stdbool.h>

#include "base/macros.h"

#define WSLX_HOLDER_NAME 257

struct wslx_holder {
	char pid[16]; /* "" = nobody that may be looked at */
	char comm[64];
	bool leftover;                  /* of a machine that has ended, or on its way out */
	char machine[WSLX_HOLDER_NAME]; /* "" = no machine of ours */
	char run[PATH_MAX];             /* the machine's runtime folder; "" = not known */
};

/* How a lock is waited for. */
struct wslx_lock_wait {
	int limit_ms; /* 0 = 3 s */
	/* What is done meanwhile: called again and again, and may take as long as ms.  An error of its ends the wait,
	 * and is returned.  NULL: sleeps. */
	int (*idle)(void *opaque, int ms);
	void *opaque;
};

/* Locks all of the file for writing or reading.  Waits for what may be the
 * remains of a machine, and for a machine that is ending.  wait: NULL = all
 * defaults.  -EAGAIN: *ret has it. */
WSLX_MUST_CHECK int wslx_image_lock(int fd, bool write, const struct wslx_lock_wait *wait, struct wslx_holder *ret);

/* " by ..., and how to go on": the rest of a line that ends in "in use".
 * runtime_dir: that of the machine which wants the file. */
void wslx_holder_describe(const struct wslx_holder *h, const char *runtime_dir, char *buf, size_t size);

#endif
