/*
 * Throw-away machines: `wslx run`.
 *
 * Theory of operation.  Such a machine is called run- and a random number.  Its
 * disk and logs are in state/machines/NAME, and the file `owner` there is
 * locked by the command that wants it.  When that command has died, however
 * it died, the next one gets the lock, and with it the duty to stop the
 * machine and to remove its folders.  Folders are made and owners are looked
 * at under the registry lock, so that nobody takes a machine for stale whose
 * owner is just about to lock it.
 *
 * The disk is a reflink copy where the host's file system can make one, else
 * an overlay file over the source, which then must not change: the supervisor
 * holds a read lock on it, and a running distro, whose disk changes all the
 * time, is paused while its disk is copied.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "dev/backend/overlay.h"
#include "manager/copy.h"
#include "manager/holder.h"
#include "manager/lock.h"
#include "manager/machine.h"
#include "os/linux/fd.h"

#define PREFIX "run-"
#define OWNER_FILE "owner"
#define OVERLAY_FILE "disk.wslxo"
#define SWEEP_MAX 64
#define COPY_TRIES 5

bool wslx_throwaway_is(struct wslx_manager *m, const char *name)
{
	cleanup_free char *path = wslx_path("%s/%s", name, OWNER_FILE);

	return !strncmp(name, PREFIX, strlen(PREFIX)) && path && faccessat(m->machines_fd, path, F_OK, 0) == 0;
}

static int open_folder(struct wslx_manager *m, const char *name)
{
	int fd = openat(m->machines_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	return fd < 0 ? -errno : fd;
}

/* ---- The disk ---- */

/* The copy of a disk that nothing writes to.  -EXDEV, -EOPNOTSUPP: no reflink here. */
static int clone_disk(const char *from, int to)
{
	cleanup_close int fd = open(from, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return ioctl(to, FICLONE, fd) < 0 ? -errno : 0;
}

/* Is it r, of a call, because the machine ends, or starts anew? */
static bool leaves(struct wslx_manager *m, const char *name, int r)
{
	struct wslx_machine_info info;

	if (r == -ENOENT || r == -ECONNREFUSED || r == -ECONNRESET || r == -EAGAIN)
		return true;
	wslx_machine_query(m, name, &info);
	return info.state != WSLX_MACHINE_RUNNING && info.state != WSLX_MACHINE_PAUSED;
}

/* A running distro is paused: its processes are frozen and its file system is
 * whole, for as long as the copy takes.  *ret_left: it did not stay for that. */
static int copy_running(struct wslx_manager *m, const struct wslx_throwaway_source *src, int to,
			const struct wslx_start_hooks *h, bool *ret_left, struct wslx_err *err)
{
	cleanup_close int fd = open(src->disk, O_RDONLY | O_CLOEXEC), pause = -1;
	int r, r2;

	if (fd < 0)
		return wslx_err_sys(err, errno, "cannot copy %s", src->disk);
	pause = wslx_machine_pause(m, src->running, err);
	if (pause < 0) {
		*ret_left = leaves(m, src->running, pause);
		wslx_err_prefix(err, "cannot pause '%s' to copy its disk", src->running);
		return pause;
	}
	if (h && h->progress)
		h->progress(h->opaque, "copying the running distribution's disk");
	r = ioctl(to, FICLONE, fd) < 0 ? wslx_copy_sparse(fd, to, src->disk_size, h ? h->cancel_fd : -1) : 0;
	if (r < 0)
		wslx_err_sys(err, -r, "cannot copy %s", src->disk);
	r2 = wslx_machine_resume(m, src->running, r < 0 ? NULL : err);
	*ret_left = r == 0 && r2 < 0 && leaves(m, src->running, r2);
	return r < 0 ? r : r2;
}

/* 1: copied; 0: nothing writes to it, so that there are better ways.  One that
 * is being stopped is waited for. */
static int copy_if_running(struct wslx_manager *m, const struct wslx_throwaway_source *src, int to,
			   const struct wslx_start_hooks *h, struct wslx_err *err)
{
	for (int tries = 1;; tries++) {
		bool left = false;
		int r = src->running ? wslx_machine_settle(m, src->running, h, err) : 0;

		if (r <= 0)
			return r;
		r = copy_running(m, src, to, h, &left, err);
		if (r == 0)
			return 1;
		if (!left || tries == COPY_TRIES)
			return r;
		if (ftruncate(to, 0) < 0)
			return wslx_err_sys(err, errno, "cannot make a disk");
	}
}

/* Sets *ret_overlay when the disk is an overlay over the source. */
static int make_disk(struct wslx_manager *m, int dir, const struct wslx_throwaway_source *src,
		     const struct wslx_start_hooks *h, bool *ret_overlay, struct wslx_err *err)
{
	cleanup_close int fd = openat(dir, WSLX_DISK_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), over = -1;
	int r;

	*ret_overlay = false;
	if (fd < 0)
		return wslx_err_sys(err, errno, "cannot make a disk");
	r = copy_if_running(m, src, fd, h, err);
	if (r != 0)
		return r < 0 ? r : 0;
	if (clone_disk(src->disk, fd) == 0)
		return 0;
	(void)unlinkat(dir, WSLX_DISK_FILE, 0);
	over = openat(dir, OVERLAY_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	r = over < 0 ? -errno : wslx_overlay_create(over, src->disk_size);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot make a copy-on-write disk");
	*ret_overlay = true;
	return 0;
}

/* ---- Making one ---- */

/* Folder and owner's lock. */
static int make_folder(struct wslx_manager *m, struct wslx_throwaway *t, struct wslx_err *err)
{
	cleanup_close int lock = wslx_registry_lock(m, err), dir = -1;
	uint64_t rnd;
	int r;

	if (lock < 0)
		return lock;
	if (getrandom(&rnd, sizeof(rnd), 0) != (ssize_t)sizeof(rnd))
		return wslx_err_sys(err, EIO, "no random numbers");
	snprintf(t->name, sizeof(t->name), PREFIX "%012" PRIx64, rnd & 0xffffffffffff);
	if (mkdirat(m->machines_fd, t->name, 0700) < 0) {
		r = wslx_err_sys(err, errno, "cannot make %s/machines/%s", m->paths.state, t->name);
		t->name[0] = '\0';
		return r;
	}
	r = dir = open_folder(m, t->name);
	if (r >= 0)
		r = t->owner_fd = wslx_lock_take(dir, OWNER_FILE, WSLX_LOCK_EXCLUSIVE, false);
	return r < 0 ? wslx_err_sys(err, -r, "cannot make the machine %s", t->name) : 0;
}

int wslx_throwaway_start(struct wslx_manager *m, struct wslx_throwaway_source *src,
			 const struct wslx_settings *settings, const struct wslx_start_hooks *h,
			 struct wslx_throwaway *ret, struct wslx_err *err)
{
	struct wslx_throwaway t = { .owner_fd = -1, .source_lock = TAKE_FD(src->lock) };
	struct wslx_machine_spec spec = {
		.name = t.name, .distro = src->distro, .throwaway = true, .settings = settings
	};
	cleanup_free char *disk = NULL;
	cleanup_close int dir = -1;
	char id[WSLX_DISTRO_ID_LEN + 1];
	bool overlay = false;
	int r = make_folder(m, &t, err);

	if (r == 0) {
		r = dir = open_folder(m, t.name);
		if (r < 0)
			wslx_err_sys(err, -r, "cannot make the machine %s", t.name);
	}
	if (r >= 0)
		r = make_disk(m, dir, src, h, &overlay, err);
	if (r == 0) {
		disk = wslx_path("%s/machines/%s/%s", m->paths.state, t.name, overlay ? OVERLAY_FILE : WSLX_DISK_FILE);
		r = disk ? wslx_id_new(id) : -ENOMEM;
		if (r < 0)
			wslx_err_sys(err, -r, "cannot make the machine %s", t.name);
	}
	if (r == 0) {
		spec.id = id;
		spec.disk = disk;
		spec.base = overlay ? src->disk : NULL;
		r = wslx_machine_start_spec(m, &spec, h, err);
	}
	if (r < 0) {
		wslx_throwaway_end(m, &t);
		return r;
	}
	*ret = t;
	return 0;
}

/* ---- Ending ---- */

static void end_machine(struct wslx_manager *m, const char *name)
{
	/* What does not stop keeps its folders: a later sweep tries again. */
	int r = wslx_machine_stop(m, name, true, NULL);

	if (r == 0)
		r = wslx_machine_forget(m, name);
	if (r < 0)
		log_debug("%s: %s", name, strerror(-r));
}

void wslx_throwaway_end(struct wslx_manager *m, struct wslx_throwaway *t)
{
	if (t->name[0] && t->owner_fd >= 0)
		end_machine(m, t->name);
	else if (t->name[0])
		wslx_remove_tree(m->machines_fd, t->name);
	wslx_close(&t->owner_fd);
	wslx_close(&t->source_lock);
	t->name[0] = '\0';
}

/* The command of `run` has both open: the lock of what it runs, and its machine's. */
int wslx_throwaway_over(struct wslx_manager *m, const char *distro, char ret[WSLX_THROWAWAY_NAME])
{
	cleanup_free char *lock = wslx_path("%s/" WSLX_LOCK_FILE, distro);
	int fd = openat(m->machines_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = -ENOENT;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *d;
	struct stat source, owner;
	bool known = lock && fstatat(m->store_fd[WSLX_STORE_DISTROS], lock, &source, 0) == 0;

	while (known && dir && r < 0 && (d = readdir(dir))) {
		cleanup_free char *path = wslx_path("%s/" OWNER_FILE, d->d_name);

		if (strncmp(d->d_name, PREFIX, strlen(PREFIX)) != 0 || strlen(d->d_name) >= WSLX_THROWAWAY_NAME)
			continue;
		if (!path || fstatat(m->machines_fd, path, &owner, 0) < 0 || !wslx_held_together(&source, &owner))
			continue;
		strcpy(ret, d->d_name);
		r = 0;
	}
	if (dir)
		closedir(dir);
	return r;
}

struct stale {
	char name[32];
	int owner_fd;
};

/* Those whose owner's lock we got; it is ours now. */
static size_t collect_stale(struct wslx_manager *m, struct stale found[SWEEP_MAX])
{
	cleanup_close int lock = wslx_lock_take(m->data_fd, WSLX_LOCK_FILE, WSLX_LOCK_EXCLUSIVE, false);
	int fd = lock < 0 ? -1 : openat(m->machines_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *d;
	size_t n = 0;

	while (dir && n < SWEEP_MAX && (d = readdir(dir))) {
		cleanup_close int folder = -1;
		int owner;

		if (strncmp(d->d_name, PREFIX, strlen(PREFIX)) != 0 || strlen(d->d_name) >= sizeof(found[n].name))
			continue;
		/* A distro may be called run-something too: only an owner file tells. */
		folder = open_folder(m, d->d_name);
		if (folder < 0 || faccessat(folder, OWNER_FILE, F_OK, 0) < 0)
			continue;
		owner = wslx_lock_take(folder, OWNER_FILE, WSLX_LOCK_EXCLUSIVE, false);
		if (owner < 0)
			continue;
		strcpy(found[n].name, d->d_name);
		found[n++].owner_fd = owner;
	}
	if (dir)
		closedir(dir);
	return n;
}

void wslx_throwaway_sweep(struct wslx_manager *m)
{
	struct stale found[SWEEP_MAX];
	size_t n = collect_stale(m, found);

	for (size_t i = 0; i < n; i++) {
		end_machine(m, found[i].name);
		close(found[i].owner_fd);
	}
}
