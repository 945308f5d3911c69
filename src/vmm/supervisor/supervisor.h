/*
 * The supervisor of one machine: docs/control-protocol.md says how it is
 * started and spoken to, supervisor.c how it works.
 */
#ifndef WSLX_VMM_SUPERVISOR_SUPERVISOR_H
#define WSLX_VMM_SUPERVISOR_SUPERVISOR_H

#include <stdbool.h>

#include "base/macros.h"

struct wslx_supervisor_args {
	int config_fd; /* taken */
	int ready_fd;  /* taken; -1 = none */
	int lock_fd;   /* held until the end; -1 = none */
	bool test_hooks, no_io_uring;
	const char *kvm_path;  /* NULL = /dev/kvm */
	const char *self_path; /* the program with --child=; NULL = /proc/self/exe */
	int stop_grace_ms; /* from the agent's SHUTDOWN to the end by force, beyond the caller's limit; 0 = default */
	unsigned panic_wait_ms;  /* from a panic on the console to the reset that must follow; 0 = default */
	int lock_wait_ms;        /* for the lock of a disk that another has; 0 = default */
	unsigned pause_limit_ms; /* for a pause, and for a resume; 0 = default */
	uint64_t start_ns;       /* CLOCK_MONOTONIC when the process started; 0 = now */
};

/* Runs the machine until it has ended.  Returns the process's exit status. */
int wslx_supervisor_run(const struct wslx_supervisor_args *args);

#endif
