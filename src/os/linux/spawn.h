/*
 * Starting a program with exactly the descriptors it is meant to have.
 *
 * Theory of operation.  fork, then in the child: stdio is put in place, every
 * descriptor that is not named in `keep` is marked close-on-exec, the signal
 * state is reset, the child is tied to its parent's life, rights are dropped,
 * and the program is executed.  A failure in the child before exec comes back
 * through a pipe, with the step that failed, so the caller can say why.
 *
 * Threads: the caller must have one thread only (fork), and is the thread whose
 * death kills the child.
 */
#ifndef WSLX_OS_LINUX_SPAWN_H
#define WSLX_OS_LINUX_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/macros.h"

struct wslx_spawn {
	const char *path; /* absolute */
	char *const *argv;
	char *const *envp;     /* NULL: a minimal environment, see spawn.c */
	char *const *env_more; /* added to the minimal one; may be NULL */
	/* Stay open under their own numbers; each must be 3 or more. */
	const int *keep;
	size_t n_keep;
	int stdin_fd, stdout_fd, stderr_fd; /* -1 = /dev/null; borrowed */
	/* Gives up what the program does not need: no new privileges always; if
	 * the caller is root, also root (to nobody), all groups, and the network
	 * and IPC namespaces where they can be left. */
	bool drop_rights;
	/* Landlock: no file can be opened for writing or made, and only the
	 * system's own folders and the regular files in `keep` (which may be opened
	 * again through /proc/self/fd) can be read, as far as the kernel's ABI goes. */
	bool system_files_only;
};

/* *ret_pidfd is close-on-exec.  The child gets SIGKILL when the caller dies. */
WSLX_MUST_CHECK int wslx_spawn(const struct wslx_spawn *p, pid_t *ret_pid, int *ret_pidfd, struct wslx_err *err);

/* Looks for an executable in $PATH.  -ENOENT, -EACCES (there, but not executable). */
WSLX_MUST_CHECK int wslx_find_program(const char *name, char **ret);
/* The same in a list of folders, as it is found there and not where links lead. */
WSLX_MUST_CHECK int wslx_find_program_in(const char *path, const char *name, char **ret);
#define WSLX_DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

struct wslx_exit_status {
	int status; /* exit status, if signal is 0 */
	int signal;
};

/* Reaps a child; waits for it if it still runs. */
WSLX_MUST_CHECK int wslx_reap(int pidfd, struct wslx_exit_status *ret);
int wslx_pidfd_kill(int pidfd, int signo);

#endif
