#include "os/linux/newfile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"

#define SELF_FD 32

static void self_path(int fd, char buf[SELF_FD])
{
	snprintf(buf, SELF_FD, "/proc/self/fd/%d", fd);
}

/* A folder may be one that can be written to but not read. */
static int open_folder(const char *path, size_t len)
{
	cleanup_free char *folder = len ? strndup(path, len) : strdup(".");
	int fd;

	if (!folder)
		return -ENOMEM;
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == EACCES)
		fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int open_unnamed(int dir_fd)
{
	cleanup_close int fd = openat(dir_fd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	char self[SELF_FD];

	if (fd < 0)
		return -errno;
	self_path(fd, self);
	return access(self, F_OK) < 0 ? -ENOENT : TAKE_FD(fd);
}

static int open_temp(struct wslx_newfile *f)
{
	uint64_t rnd;
	int fd;

	if (getrandom(&rnd, sizeof(rnd), 0) != (ssize_t)sizeof(rnd))
		return -EIO;
	snprintf(f->temp, sizeof(f->temp), WSLX_NEWFILE_TEMP "%016" PRIx64, rnd);
	fd = openat(f->dir_fd, f->temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd >= 0)
		return fd;
	f->temp[0] = '\0';
	return -errno;
}

int wslx_newfile_open(struct wslx_newfile *f, const char *path)
{
	const char *slash = strrchr(path, '/');

	*f = (struct wslx_newfile)WSLX_NEWFILE_INIT;
	f->name = slash ? slash + 1 : path;
	if (!*f->name)
		return -EINVAL;
	f->dir_fd = open_folder(path, slash ? (size_t)(slash + 1 - path) : 0);
	if (f->dir_fd < 0)
		return f->dir_fd;
	f->fd = open_unnamed(f->dir_fd);
	if (f->fd < 0)
		f->fd = open_temp(f);
	return f->fd < 0 ? f->fd : 0;
}

/* For file systems that cannot rename without replacing.  A link does not
 * replace anything either; those that have none, as vfat, leave a moment in
 * which somebody else's file could be lost. */
static int rename_otherwise(const struct wslx_newfile *f)
{
	if (linkat(f->dir_fd, f->temp, f->dir_fd, f->name, 0) == 0) {
		/* It has its name, whatever becomes of the other one. */
		(void)unlinkat(f->dir_fd, f->temp, 0);
		return 0;
	}
	if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS)
		return -errno;
	if (faccessat(f->dir_fd, f->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return -EEXIST;
	return renameat(f->dir_fd, f->temp, f->dir_fd, f->name) < 0 ? -errno : 0;
}

static int give_name(struct wslx_newfile *f)
{
	char self[SELF_FD];
	int r = 0;

	if (!f->temp[0]) {
		self_path(f->fd, self);
		return linkat(AT_FDCWD, self, f->dir_fd, f->name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
	}
	if (renameat2(f->dir_fd, f->temp, f->dir_fd, f->name, RENAME_NOREPLACE) < 0)
		r = errno == EINVAL || errno == ENOSYS ? rename_otherwise(f) : -errno;
	if (r == 0)
		f->temp[0] = '\0';
	return r;
}

/* Some folders cannot be synced on their own: not if they cannot be read, nor
 * on every file system. */
static int sync_folder(const struct wslx_newfile *f)
{
	if (fsync(f->dir_fd) == 0)
		return 0;
	if (errno != EBADF && errno != EINVAL)
		return -errno;
	return syncfs(f->fd) < 0 ? -errno : 0;
}

int wslx_newfile_publish(struct wslx_newfile *f, bool *ret_named)
{
	int r = fsync(f->fd) < 0 ? -errno : give_name(f);

	*ret_named = r == 0;
	return r == 0 ? sync_folder(f) : r;
}

void wslx_newfile_close(struct wslx_newfile *f)
{
	if (f->temp[0])
		(void)unlinkat(f->dir_fd, f->temp, 0);
	f->temp[0] = '\0';
	wslx_close(&f->fd);
	wslx_close(&f->dir_fd);
}
