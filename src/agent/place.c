/* Where a process is to run. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "agent/core.h"
#include "base/cleanup.h"

/* PF_EXITING of the kernel's include/linux/sched.h, as in /proc/PID/stat (proc(5)). */
#define TASK_EXITING 0x4u

/* The number, in this /proc, of the process a pidfd is of.  -1: it has been reaped; 0: cannot tell. */
static int number_of(int pidfd)
{
	cleanup_fclose FILE *f = NULL;
	char path[64], line[128];
	int pid = 0;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Pid: %9d", &pid) == 1) /* NOLINT(cert-err34-c): the kernel's text */
			break;
	return pid;
}

/* From here on it enters no namespace and starts nothing; for its end it waits until every process of its PID
 * namespace is gone. */
static bool exiting(int pidfd)
{
	cleanup_fclose FILE *f = NULL;
	char path[64], line[512] = "", *name_end;
	unsigned flags = 0;
	int pid = number_of(pidfd);

	if (pid <= 0)
		return pid < 0;
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return errno == ENOENT;
	if (!fgets(line, sizeof(line), f))
		return errno == ESRCH;
	name_end = strrchr(line, ')'); /* the name is the process's own choice */
	return name_end && sscanf(name_end, ") %*c %*d %*d %*d %*d %*d %10u", &flags) == 1 && /* NOLINT(cert-err34-c) */
	       (flags & TASK_EXITING);
}

bool wslx_place_ended(const struct wslx_guest_place *place)
{
	struct pollfd p = { .fd = place->pidfd, .events = POLLIN };

	return place->pidfd >= 0 && (poll(&p, 1, 0) > 0 || exiting(place->pidfd));
}
