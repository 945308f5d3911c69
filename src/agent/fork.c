/* New processes of the agent, see guest.h.  Apart from the rest so that a fuzz
 * target can put its own in place. */
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/guest.h"
#include "base/cleanup.h"
#include "base/log.h"

static void reset_signals(void)
{
	sigset_t none;

	for (int s = 1; s < 65; s++)
		if (s != SIGKILL && s != SIGSTOP)
			signal(s, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int pidfd_self(void)
{
	return (int)syscall(SYS_pidfd_open, getpid(), 0);
}

pid_t wslx_guest_fork(uint64_t clone_flags, int cgroup_fd, int pidfd)
{
	struct clone_args args = { .flags = clone_flags, .exit_signal = SIGCHLD };
	cleanup_close int self = -1;
	pid_t pid;
	int saved;

	if (cgroup_fd >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)cgroup_fd;
	}
	if (pidfd >= 0) {
		self = pidfd_self();
		if (self < 0)
			return -errno;
		/* For children only; undone below, as our other children belong here. */
		if (setns(pidfd, CLONE_NEWPID) < 0)
			return -errno;
	}
	if (args.flags)
		pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	else
		pid = fork();
	saved = errno;
	if (pid == 0) {
		reset_signals();
		return 0;
	}
	if (self >= 0 && setns(self, CLONE_NEWPID) < 0)
		log_error("cannot return to our own PID namespace: %s", strerror(errno));
	return pid < 0 ? -saved : pid;
}
