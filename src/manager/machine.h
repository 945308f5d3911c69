/*
 * Machines: starting, finding, stopping.
 *
 * Theory of operation.  A machine runs if its lock ($run/NAME/lock) is held:
 * the supervisor inherits the lock from the command that starts it and holds
 * it for its life, so there is never a second one, and a killed one leaves
 * nothing behind.  A command that finds the lock held asks the control socket
 * and waits until the machine is up or the lock is free again; it then tries
 * itself.  So of any number of commands that start a distro at once, one
 * starts it and all are served.
 *
 * Lock order: docs/architecture.md.  Threads: none.
 */
#ifndef WSLX_MANAGER_MACHINE_H
#define WSLX_MANAGER_MACHINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/macros.h"
#include "manager/control.h"
#include "manager/registry.h"

/* How the caller hears of a start, and stops it.  Members may be NULL; the
 * structure may be NULL. */
struct wslx_start_hooks {
	void (*progress)(void *opaque, const char *what);
	void (*warning)(void *opaque, const char *text);
	/* A start that failed in the guest: the last lines of the console, five at
	 * most, and of a panic those that led to it; before the error. */
	void (*console)(void *opaque, const char *line);
	void *opaque;
	int cancel_fd; /* readable: give up with -ECANCELED; -1 = never */
};

/* What a machine consists of. */
struct wslx_machine_spec {
	const char *name;                     /* of the machine: its folders */
	const char *distro;                   /* name inside */
	const char *id;                       /* WSLX_DISTRO_ID_LEN hexadecimal digits: disk serial, MAC */
	const char *disk;                     /* path */
	const char *base;                     /* not NULL: disk is an overlay over this file */
	bool throwaway;                       /* nobody wants the disk back after a power loss */
	const struct wslx_settings *settings; /* wslx_machine_start() reads them itself */
};

/* Starts the distro's machine, with the settings that it has by then, or finds it
 * running. */
WSLX_MUST_CHECK int wslx_machine_start(struct wslx_manager *m, const struct wslx_distro *d,
				       const struct wslx_start_hooks *h, struct wslx_err *err);
/* Starts one that must not run yet. */
WSLX_MUST_CHECK int wslx_machine_start_spec(struct wslx_manager *m, const struct wslx_machine_spec *spec,
					    const struct wslx_start_hooks *h, struct wslx_err *err);

/* STOPPED, or what the supervisor says; STARTING while it says nothing yet. */
void wslx_machine_query(struct wslx_manager *m, const char *name, struct wslx_machine_info *ret);

/* Its lock, for the caller to close: until then it does not start.  -EBUSY: it runs, starts or stops. */
WSLX_MUST_CHECK int wslx_machine_keep_out(struct wslx_manager *m, const char *name);

/* -EBUSY, and the line that says that it does not answer and what to do. */
int wslx_machine_is_silent(const char *name, struct wslx_err *err);

/* Its supervisor, answering or not, as /proc shows; 0: there is none yet. */
pid_t wslx_machine_supervisor(struct wslx_manager *m, const char *name);

/* Waits until one that starts or stops is through with it.  1: it runs, 0: it
 * does not. */
WSLX_MUST_CHECK int wslx_machine_settle(struct wslx_manager *m, const char *name, const struct wslx_start_hooks *h,
					struct wslx_err *err);

/* Stops it and waits until its lock is free; 0 also if it did not run.  One
 * that does not answer is killed. */
WSLX_MUST_CHECK int wslx_machine_stop(struct wslx_manager *m, const char *name, bool force, struct wslx_err *err);

/* Removes the folders of a machine that has stopped; -EBUSY: it runs.  Only
 * while nobody can start it, and nobody can make another one of that name. */
WSLX_MUST_CHECK int wslx_machine_forget(struct wslx_manager *m, const char *name);

/* Only asks, and does not wait: for many at once, before each is waited for. */
void wslx_machine_stop_begin(struct wslx_manager *m, const char *name, bool force);

/* Freezes it; -errno, or a lock's descriptor to keep until wslx_machine_resume.
 * If this process dies in between, whoever wants the machine next finds the
 * lock free and resumes it. */
WSLX_MUST_CHECK int wslx_machine_pause(struct wslx_manager *m, const char *name, struct wslx_err *err);
WSLX_MUST_CHECK int wslx_machine_resume(struct wslx_manager *m, const char *name, struct wslx_err *err);

/* Paths for callers; NULL = no memory. */
char *wslx_machine_socket(struct wslx_manager *m, const char *name, const char *socket);
char *wslx_machine_state_dir(struct wslx_manager *m, const char *name);

#define WSLX_CONTROL_SOCKET "control.sock"
#define WSLX_VSOCK_SOCKET "vsock.sock"
#define WSLX_CONSOLE_LOG "console.log"

/* ---- Throw-away machines (throwaway.c) ---- */

#define WSLX_THROWAWAY_NAME 32

struct wslx_throwaway {
	char name[WSLX_THROWAWAY_NAME]; /* of the machine */
	int owner_fd;                   /* lock: while it is held, the machine is wanted */
	int source_lock;                /* shared lock on what its disk lies over; -1 = none */
};

struct wslx_throwaway_source {
	char distro[WSLX_NAME_MAX + 1]; /* name inside */
	char *disk;
	uint64_t disk_size;
	const char *running; /* the machine that may be writing to disk; NULL = none can */
	int lock;            /* shared lock on its folder; taken over */
	int64_t default_uid;
};

/* Makes folders and a copy-on-write disk, starts the machine. */
WSLX_MUST_CHECK int wslx_throwaway_start(struct wslx_manager *m, struct wslx_throwaway_source *src,
					 const struct wslx_settings *settings, const struct wslx_start_hooks *h,
					 struct wslx_throwaway *ret, struct wslx_err *err);
/* Stops the machine and removes everything of it. */
void wslx_throwaway_end(struct wslx_manager *m, struct wslx_throwaway *t);
/* Ends those whose owner died.  Best effort. */
void wslx_throwaway_sweep(struct wslx_manager *m);
/* The throw-away machine whose command keeps the distro of that name from being
 * removed, because its disk lies over the distro's.  -ENOENT. */
WSLX_MUST_CHECK int wslx_throwaway_over(struct wslx_manager *m, const char *distro, char ret[WSLX_THROWAWAY_NAME]);
/* Is this the name of a throw-away machine? */
bool wslx_throwaway_is(struct wslx_manager *m, const char *name);

#endif
