/*
 * How many processes the distros may have.  The kernel's own limits are the
 * machine's: a fork bomb in a distro would leave none for the agent, for the
 * modprobe that the kernel runs, or for the kernel's threads.  So all distros
 * together get less, and each one a little less again: while one is full,
 * another can still start.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "agent/machine.h"
#include "base/cleanup.h"
#include "base/macros.h"

#define RESERVE_MIN 128u
#define RESERVE_MAX 1024u
#define STEP_MIN 16u
#define STEP_MAX 256u

void pids_divide(uint64_t pid_max, uint64_t threads_max, struct pids_limits *ret)
{
	uint64_t total = WSLX_MIN(pid_max, threads_max), reserve, step;

	reserve = WSLX_MIN(WSLX_MAX(total / 8, RESERVE_MIN), RESERVE_MAX);
	ret->all = total - WSLX_MIN(reserve, total / 2);
	step = WSLX_MIN(WSLX_MAX(ret->all / 16, STEP_MIN), STEP_MAX);
	ret->each = ret->all - WSLX_MIN(step, ret->all / 2);
}

static uint64_t read_number(const char *path)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	char buf[32];
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);

	if (n <= 0)
		return 0;
	buf[n] = 0;
	return strtoull(buf, NULL, 10);
}

int pids_limit(int dir_fd, uint64_t limit)
{
	char text[32];

	snprintf(text, sizeof(text), "%" PRIu64, limit);
	return write_text_at(dir_fd, "pids.max", text);
}

void pids_init(struct pids_limits *ret)
{
	uint64_t pid_max = read_number("/proc/sys/kernel/pid_max");
	uint64_t threads_max = read_number("/proc/sys/kernel/threads-max");

	/* Not known: better the least a kernel makes than none. */
	pids_divide(pid_max ? pid_max : 1024, threads_max ? threads_max : 1024, ret);
}
