/* A child process of the supervisor: started, watched and reaped on the loop. */
#ifndef WSLX_VMM_SUPERVISOR_PROC_H
#define WSLX_VMM_SUPERVISOR_PROC_H

#include <sys/types.h>

#include "base/err.h"
#include "base/loop.h"
#include "os/linux/spawn.h"

struct wslx_proc;
/* The process has ended and is reaped; *p may be freed from here. */
typedef void (*wslx_proc_exit_fn)(struct wslx_proc *p, const struct wslx_exit_status *st, void *opaque);

WSLX_MUST_CHECK int wslx_proc_start(struct wslx_loop *loop, const struct wslx_spawn *spawn, wslx_proc_exit_fn fn,
				    void *opaque, struct wslx_proc **ret, struct wslx_err *err);
pid_t wslx_proc_pid(const struct wslx_proc *p);
void wslx_proc_kill(struct wslx_proc *p, int signo); /* NULL and ended ones are fine */
/* Kills and reaps it if it still runs; no callback.  NULL is fine. */
void wslx_proc_free(struct wslx_proc *p);
/* "ended with status 1", "was killed by signal 9 (Killed)". */
void wslx_proc_describe(const struct wslx_exit_status *st, char *buf, size_t size);

#endif
