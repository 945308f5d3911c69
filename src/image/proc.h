/*
 * Programs that image operations run: mke2fs, mmdebstrap, apt-get, depmod.
 *
 * A program gets its own process group, so that a Ctrl-C reaches it through
 * us, and is told to end when this process dies.  What it says on standard
 * error (and output, unless that is taken) goes to a log of ours; its last
 * line becomes part of the message when the program fails.
 */
#ifndef WSLX_IMAGE_PROC_H
#define WSLX_IMAGE_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/macros.h"
#include "image/task.h"

struct wslx_proc_params {
	const char *const *argv;
	const char *package;    /* that has the program, for the message when it is missing */
	const char *const *env; /* "NAME=value" besides our own environment; NULL = none */
	int keep_fd;            /* passed on under its own number; -1 = none */
	int dir_fd;             /* working directory; -1 = ours */
	int stdout_fd;          /* -1: to the log */
};

struct wslx_proc {
	pid_t pid; /* 0: none */
	int log_fd;
	const char *name;
};

#define WSLX_PROC_NONE ((struct wslx_proc) { .log_fd = -1 })

WSLX_MUST_CHECK int wslx_proc_start(const struct wslx_proc_params *p, struct wslx_proc *ret, struct wslx_err *err);
/* Waits for the end; cancelled through task: kills it, -ECANCELED.  A non-zero
 * status is -ENOSPC with a message if the program said that a disk was full, else
 * -ECHILD, and so is one that could not be had because
 * the calling program ignores SIGCHLD. */
WSLX_MUST_CHECK int wslx_proc_wait(struct wslx_proc *proc, const struct wslx_task *task, struct wslx_err *err);
/* Ends the program and its group if it still runs, and frees; for clean-up. */
void wslx_proc_end(struct wslx_proc *proc);

/* Start and wait; standard output goes to *ret_out (NUL-terminated, caller
 * frees) unless ret_out is NULL. */
WSLX_MUST_CHECK int wslx_proc_run(const struct wslx_proc_params *p, const struct wslx_task *task, char **ret_out,
				  struct wslx_err *err);

/* Is there such a program?  Looks where wslx_proc_start looks. */
bool wslx_proc_exists(const char *name);

#endif
