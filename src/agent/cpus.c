/*
 * CPUs that the host had the kernel leave for later.
 *
 * Where the host emulates the CPUs, the kernel boots on one of them (see
 * src/vmm/supervisor/qemu.c for why).  The others come when its boot, which
 * changes its own code all the time, is over, and before anything else runs.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/machine.h"
#include "base/cleanup.h"
#include "base/log.h"

#define DIR_CPUS "/sys/devices/system/cpu"
#define LATE_CPUS "wslx.late_cpus"

/* Not if the user has set a number behind ours: the kernel took that one. */
static bool asked_for(void)
{
	cleanup_close int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	char text[4096];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	const char *at;

	if (n < 0)
		return false;
	text[n] = '\0';
	at = strstr(text, " " LATE_CPUS);
	return at && !strstr(at, " maxcpus=") && !strstr(at, " nosmp");
}

static void bring_up(int dir, const char *cpu)
{
	char path[64];
	int r;

	snprintf(path, sizeof(path), "%.31s/online", cpu);
	r = write_text_at(dir, path, "1");
	/* The first one has no such file. */
	if (r < 0 && r != -ENOENT)
		log_warn("%s: %s", cpu, strerror(-r));
}

void cpus_bring_up(void)
{
	struct dirent *e;
	DIR *d;

	if (!asked_for())
		return;
	d = opendir(DIR_CPUS);
	if (!d)
		return;
	while ((e = readdir(d)))
		if (!strncmp(e->d_name, "cpu", 3) && e->d_name[3] >= '0' && e->d_name[3] <= '9')
			bring_up(dirfd(d), e->d_name);
	closedir(d);
}
