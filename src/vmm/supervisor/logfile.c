#include "vmm/supervisor/logfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

int wslx_logfile_next(int dirfd, const char *name)
{
	char old[NAME_MAX + 1];
	int fd, n = snprintf(old, sizeof(old), "%s.1", name);

	if (n < 0 || (size_t)n >= sizeof(old))
		return -ENAMETOOLONG;
	if (renameat(dirfd, name, dirfd, old) < 0 && errno != ENOENT)
		return -errno;
	fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? -errno : fd;
}
