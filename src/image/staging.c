/*
 * A scratch folder inside the kernel's folder.  Files get their names from
 * packages and images: they are opened below it only, links are not followed,
 * and there is a limit on number and size.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/kernel_internal.h"
#include "os/linux/paths.h"

#define DEPTH_MAX 64u

int wslx_staging_new(struct wslx_staging *s, int dir_fd, const struct wslx_task *task, struct wslx_err *err)
{
	wslx_remove_tree(dir_fd, WSLX_KERNEL_STAGING);
	*s = (struct wslx_staging) { .dir_fd = dir_fd, .fd = -1, .task = task };
	if (mkdirat(dir_fd, WSLX_KERNEL_STAGING, 0700) < 0)
		return wslx_err_sys(err, errno, "cannot make a folder for the kernel");
	s->fd = openat(dir_fd, WSLX_KERNEL_STAGING, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->fd < 0)
		return wslx_err_sys(err, errno, "cannot make a folder for the kernel");
	return 0;
}

void wslx_staging_end(struct wslx_staging *s)
{
	if (s->fd < 0)
		return;
	wslx_close(&s->fd);
	wslx_remove_tree(s->dir_fd, WSLX_KERNEL_STAGING);
}

int wslx_staging_create(struct wslx_staging *s, const char *path, int *ret_fd)
{
	cleanup_close int dir = -1;
	unsigned depth = 0;
	char name[256];

	if (s->files++ >= WSLX_KERNEL_FILES_MAX)
		return -E2BIG;
	for (;;) {
		size_t n = strcspn(path, "/");

		if (n == 0 || n >= sizeof(name) || (n <= 2 && strncmp(path, "..", n) == 0) || ++depth >= DEPTH_MAX)
			return -EINVAL;
		memcpy(name, path, n);
		name[n] = 0;
		path += n;
		if (!*path)
			break;
		path++;
		int at = dir < 0 ? s->fd : dir;

		if (mkdirat(at, name, 0755) < 0 && errno != EEXIST)
			return -errno;
		int next = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

		if (next < 0)
			return -errno;
		wslx_close(&dir);
		dir = next;
	}
	*ret_fd = openat(dir < 0 ? s->fd : dir, name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	return *ret_fd < 0 ? -errno : 0;
}

void wslx_staging_path(const struct wslx_staging *s, const char *sub, char *buf, size_t size)
{
	snprintf(buf, size, "/proc/self/fd/%d/%s/%s", s->dir_fd, WSLX_KERNEL_STAGING, sub);
}
