#include "manager/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/cleanup.h"

int wslx_lock_fd(int fd, enum wslx_lock_mode mode, bool wait)
{
	struct flock fl = { .l_type = mode == WSLX_LOCK_EXCLUSIVE ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET };
	int r;

	do
		r = fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &fl) < 0 ? -errno : 0;
	while (r == -EINTR);
	return r == -EACCES ? -EAGAIN : r;
}

/* The lock counts only if the name still leads to the file that was locked:
 * its folder may have been removed, and made again, while we waited. */
static int same_file(int dirfd, const char *name, int fd)
{
	struct stat a, b;

	if (fstat(fd, &a) < 0 || fstatat(dirfd, name, &b, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

int wslx_lock_take(int dirfd, const char *name, enum wslx_lock_mode mode, bool wait)
{
	for (;;) {
		cleanup_close int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		int r;

		if (fd < 0)
			return -errno;
		r = wslx_lock_fd(fd, mode, wait);
		if (r < 0)
			return r;
		r = same_file(dirfd, name, fd);
		if (r < 0)
			return r;
		if (r)
			return TAKE_FD(fd);
	}
}

int wslx_lock_held(int dirfd, const char *name)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	cleanup_close int fd = openat(dirfd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fcntl(fd, F_OFD_GETLK, &fl) < 0)
		return -errno;
	return fl.l_type != F_UNLCK;
}
