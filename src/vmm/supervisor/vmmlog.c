#include "vmm/supervisor/vmmlog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "vmm/supervisor/logfile.h"

#define NAME "vmm.log"

struct wslx_vmmlog {
	int dirfd;
};

static bool is_stderr(int dirfd)
{
	struct stat a, b;

	return fstat(STDERR_FILENO, &a) == 0 && fstatat(dirfd, NAME, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
	       S_ISREG(b.st_mode) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static void on_full(void *opaque)
{
	const struct wslx_vmmlog *v = opaque;
	cleanup_close int fd = wslx_logfile_next(v->dirfd, NAME);

	/* Without a new one the old one begins anew: it is bounded in any case. */
	if (fd < 0 || dup2(fd, STDERR_FILENO) < 0)
		(void)!ftruncate(STDERR_FILENO, 0);
}

int wslx_vmmlog_new(const char *dir, size_t max, struct wslx_vmmlog **ret, struct wslx_err *err)
{
	struct wslx_vmmlog *v = calloc(1, sizeof(*v));

	if (!v)
		return wslx_err_sys(err, ENOMEM, NAME);
	v->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (v->dirfd < 0) {
		free(v);
		return wslx_err_sys(err, errno, "cannot open the state folder %s", dir);
	}
	if (is_stderr(v->dirfd))
		wslx_log_on_size(max, on_full, v);
	*ret = v;
	return 0;
}

void wslx_vmmlog_free(struct wslx_vmmlog *v)
{
	if (!v)
		return;
	wslx_log_on_size(0, NULL, NULL);
	wslx_close(&v->dirfd);
	free(v);
}
