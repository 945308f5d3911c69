/* A distro's files as an archive. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "manager/distros.h"
#include "manager/lock.h"
#include "os/linux/holder.h"
#include "os/linux/paths.h"

/* A read lock: with a machine's write lock it does not go together, whichever
 * runtime folder that machine lives in.  A write lock if there is a journal to
 * replay, which nobody else who reads the disk may see. */
static int open_disk(const char *path, const char *name, const char *run, const struct wslx_task *task,
		     struct wslx_err *err)
{
	struct wslx_holder holder;
	char who[900];
	cleanup_close int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
	int dirty = fd < 0 ? -errno : wslx_export_is_dirty(fd);
	/* The machine may have ended just now. */
	int r = dirty < 0 ? dirty : wslx_image_lock(fd, dirty, NULL, &holder);

	if (r == -EAGAIN) {
		wslx_holder_describe(&holder, run, who, sizeof(who));
		return wslx_err_set(err, EBUSY, "the disk of '%s' is in use%s", name, who);
	}
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot use the disk %s", path);
	if (dirty) {
		r = wslx_export_replay(fd, task, err);
		if (r == -ENOSPC)
			wslx_err_prefix(err, "no space left for %s", path);
		if (r < 0)
			return r;
	}
	return TAKE_FD(fd);
}

static int check_stopped(struct wslx_manager *m, const char *name, struct wslx_err *err)
{
	struct wslx_machine_info info;

	wslx_machine_query(m, name, &info);
	if (info.state == WSLX_MACHINE_STOPPED)
		return 0;
	return wslx_err_set(err, EBUSY, "'%s' is running; stop it first: wslx terminate %s", name, name);
}

int wslx_distro_export(struct wslx_manager *m, const char *name, enum wslx_export_format format, int out_fd,
		       const char *out_name, const struct wslx_task *task, struct wslx_export_result *ret,
		       struct wslx_err *err)
{
	struct wslx_export_params p = { .out_fd = out_fd, .out_name = out_name, .format = format };
	cleanup_close int dir = -1, lock = -1, disk = -1;
	cleanup_free char *path = NULL, *run = NULL;
	char real[WSLX_NAME_MAX + 1];
	int r = wslx_store_lookup(m, WSLX_STORE_DISTROS, name, real);

	if (r < 0)
		return wslx_err_set(err, ENOENT, "there is no distribution '%s'; see `wslx list`", name);
	/* It cannot be removed meanwhile. */
	dir = wslx_store_open(m, WSLX_STORE_DISTROS, real);
	lock = dir < 0 ? dir : wslx_lock_take(dir, WSLX_LOCK_FILE, WSLX_LOCK_SHARED, false);
	if (lock < 0)
		return wslx_err_set(err, EBUSY, "the distribution '%s' is being removed", real);
	r = check_stopped(m, real, err);
	path = wslx_path("%s/distros/%s/%s", m->paths.data, real, WSLX_DISK_FILE);
	run = wslx_path("%s/%s", m->paths.run, real);
	if (r == 0 && (!path || !run))
		r = wslx_err_sys(err, ENOMEM, "cannot export");
	if (r == 0)
		r = disk = open_disk(path, real, run, task, err);
	if (r < 0)
		return r;
	p.disk_fd = disk;
	p.task = *task;
	return wslx_export(&p, ret, err);
}
