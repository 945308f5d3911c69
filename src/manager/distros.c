#include "manager/distros.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/import.h"
#include "manager/kernels.h"
#include "manager/lock.h"
#include "os/linux/fd.h"

#define IMAGES_KEPT 8
#define UNREGISTER_TRIES 20

/* ---- Creating ---- */

static int fill_disk(const struct wslx_builder *b, const struct wslx_new_distro *p, int disk_fd,
		     struct wslx_import_result *ret, struct wslx_err *err)
{
	cleanup_free char *place = wslx_path("%s/distros", b->m->paths.data);
	struct wslx_import_params ip = {
		.in_fd = p->in_fd,
		.in_name = p->in_name,
		.out_fd = disk_fd,
		.place = place,
		.size = p->size,
		.task = p->task,
	};
	struct wslx_debian_params dp = p->debian;

	if (p->in_fd >= 0)
		return wslx_import(&ip, ret, err);
	dp.out_fd = disk_fd;
	dp.place = place;
	dp.size = p->size;
	dp.task = p->task;
	return wslx_install_debian(&dp, ret, err);
}

static int build_distro(struct wslx_builder *b, const struct wslx_new_distro *p, struct wslx_import_result *ret,
			struct wslx_err *err)
{
	cleanup_close int fd = openat(b->dir_fd, WSLX_DISK_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	struct wslx_distro d = { .created = time(NULL), .settings = *p->settings };
	cleanup_free char *text = NULL;
	int r;

	if (fd < 0)
		return wslx_err_sys(err, errno, "cannot make a disk for '%s' in %s/distros", b->name, b->m->paths.data);
	r = fill_disk(b, p, fd, ret, err);
	if (r < 0)
		return r;
	strcpy(d.name, b->name);
	d.disk_size = ret->disk_size;
	d.default_uid = ret->default_uid >= 0 && ret->default_uid <= UINT32_MAX ? ret->default_uid : -1;
	r = wslx_id_new(d.id);
	if (r < 0)
		return wslx_err_sys(err, -r, "no random numbers");
	text = wslx_distro_encode(&d);
	if (!text)
		return wslx_err_sys(err, ENOMEM, "cannot register '%s'", b->name);
	return wslx_builder_commit(b, WSLX_DISTRO_JSON, text, err);
}

/* The first one becomes the default, and stays it when others come. */
static int promote(struct wslx_manager *m, struct wslx_err *err)
{
	char name[WSLX_NAME_MAX + 1];
	int r = wslx_distro_default(m, name, NULL);

	if (r == -ENOENT)
		return 0;
	return r < 0 ? r : wslx_distro_set_default(m, name, err);
}

int wslx_distro_create(struct wslx_manager *m, const struct wslx_new_distro *p, struct wslx_import_result *ret,
		       struct wslx_err *err)
{
	struct wslx_import_result result = { .default_uid = -1 };
	char kernel[WSLX_NAME_MAX + 1];
	struct wslx_builder b;
	int r = 0;

	if (p->settings->kernel[0])
		r = wslx_kernel_choose(m, p->settings->kernel, kernel, err);
	if (r == 0)
		r = wslx_builder_begin(m, WSLX_STORE_DISTROS, p->name, &b, err);
	if (r < 0)
		return r;
	r = build_distro(&b, p, &result, err);
	wslx_builder_end(&b);
	if (r == 0)
		r = promote(m, err);
	if (r == 0 && ret)
		*ret = result;
	return r;
}

/* ---- Deleting ---- */

struct removal {
	struct wslx_manager *m;
	const char *name;
};

/* The machine's folders go while the name is still taken and the distro's lock
 * keeps everybody from starting it: once the name is free, they may be those
 * of another distro. */
static int remove_machine(void *opaque, struct wslx_err *err)
{
	const struct removal *rm = opaque;
	cleanup_close int dir = wslx_store_open(rm->m, WSLX_STORE_DISTROS, rm->name);
	int r;

	/* One that was started with another runtime folder is not seen, but for its disk's lock. */
	if (dir >= 0 && wslx_lock_held(dir, WSLX_DISK_FILE) > 0)
		return wslx_err_set(err, EBUSY,
				    "the disk of '%s' is in use by a machine that this command does not see; it was "
				    "started with another XDG_RUNTIME_DIR: stop it with that",
				    rm->name);
	r = wslx_machine_forget(rm->m, rm->name);
	if (r == -EBUSY)
		return wslx_err_set(err, EBUSY, "'%s' was started again meanwhile", rm->name);
	return r < 0 ? wslx_err_sys(err, -r, "cannot lock the machine '%s'", rm->name) : 0;
}

int wslx_distro_unregister(struct wslx_manager *m, const char *name, struct wslx_err *err)
{
	char real[WSLX_NAME_MAX + 1], user[WSLX_THROWAWAY_NAME];
	struct removal rm = { .m = m, .name = real };
	int r = wslx_store_lookup(m, WSLX_STORE_DISTROS, name, real);

	if (r == -ENOENT)
		return wslx_err_set(err, ENOENT, "there is no distribution '%s'; see `wslx list`", name);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot read %s/distros", m->paths.data);
	for (int i = 0; i < UNREGISTER_TRIES; i++) {
		struct timespec ts = { .tv_nsec = 50 * 1000000L };

		/* Its disk goes too: nothing in there needs to be put in order. */
		r = wslx_machine_stop(m, real, true, err);
		if (r == 0)
			r = wslx_store_remove(m, WSLX_STORE_DISTROS, real, remove_machine, &rm, err);
		if (r != -EBUSY)
			break;
		nanosleep(&ts, NULL);
	}
	if (r == -EBUSY && wslx_throwaway_over(m, real, user) == 0)
		wslx_err_set(err, EBUSY,
			     "the distribution '%s' is in use by the throw-away machine '%s' of `wslx run`: wait until "
			     "its command ends, or stop it: wslx terminate %s",
			     real, user, user);
	return r < 0 ? r : promote(m, err);
}

/* ---- What `run` runs ---- */

void wslx_run_source_free(struct wslx_throwaway_source *s)
{
	free(s->disk);
	wslx_close(&s->lock);
	*s = (struct wslx_throwaway_source) { .lock = -1 };
}

static int lock_shared(struct wslx_manager *m, enum wslx_store store, const char *name)
{
	cleanup_close int dir = wslx_store_open(m, store, name);

	return dir < 0 ? dir : wslx_lock_take(dir, WSLX_LOCK_FILE, WSLX_LOCK_SHARED, false);
}

static int source_distro(struct wslx_manager *m, const char *name, struct wslx_throwaway_source *ret,
			 struct wslx_settings *settings, struct wslx_err *err)
{
	struct wslx_distro *d = malloc(sizeof(*d));
	struct stat st;
	int r = d ? wslx_distro_find(m, name, d, err) : wslx_err_sys(err, ENOMEM, "cannot run '%s'", name);

	if (r == 0) {
		r = ret->lock = lock_shared(m, WSLX_STORE_DISTROS, d->name);
		if (r < 0)
			wslx_err_set(err, EBUSY, "the distribution '%s' is being removed", d->name);
	}
	if (r >= 0) {
		strcpy(ret->distro, d->name);
		ret->disk = wslx_path("%s/distros/%s/%s", m->paths.data, d->name, WSLX_DISK_FILE);
		r = !ret->disk ? -ENOMEM : stat(ret->disk, &st) < 0 ? -errno : 0;
		if (r < 0)
			wslx_err_sys(err, -r, "cannot use the disk of '%s'", d->name);
	}
	if (r == 0) {
		ret->disk_size = (uint64_t)st.st_size;
		ret->default_uid = d->default_uid;
		ret->running = ret->distro;
		*settings = d->settings;
	}
	free(d);
	return r;
}

/* ---- The cache of images ---- */

static int load_image(struct wslx_manager *m, const char *id, struct wslx_image *ret)
{
	cleanup_close int fd = wslx_store_open(m, WSLX_STORE_IMAGES, id);
	cleanup_free char *text = NULL;
	size_t len = 0;
	int r = fd < 0 ? fd : wslx_read_file(fd, WSLX_IMAGE_JSON, WSLX_STATE_FILE_MAX, &text, &len);

	if (r == 0)
		r = wslx_image_decode(text, len, ret, NULL);
	return r == 0 && strcmp(ret->id, id) != 0 ? -EINVAL : r;
}

static bool same_source(const struct wslx_image *a, const struct wslx_image *b)
{
	return !strcmp(a->source, b->source) && a->source_size == b->source_size && a->source_ino == b->source_ino &&
	       a->source_mtime_ns == b->source_mtime_ns;
}

/* JSON holds no other bytes than UTF-8; what is lost here, size, inode and time
 * still tell apart. */
static void describe_source(const char *path, const struct stat *st, struct wslx_image *ret)
{
	snprintf(ret->source, sizeof(ret->source), "%s", path);
	for (char *c = ret->source; *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	ret->source_size = (uint64_t)st->st_size;
	ret->source_ino = (uint64_t)st->st_ino & INT64_MAX;
	ret->source_mtime_ns = st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

/* Finds it, with a shared lock in *ret_lock.  -ENOENT. */
static int find_image(struct wslx_manager *m, const struct wslx_image *want, struct wslx_image *ret, int *ret_lock)
{
	char **names = NULL;
	size_t n = 0;
	int r = wslx_store_names(m, WSLX_STORE_IMAGES, &names, &n, NULL);

	if (r == 0)
		r = -ENOENT;
	for (size_t i = 0; r == -ENOENT && i < n; i++)
		if (load_image(m, names[i], ret) == 0 && same_source(ret, want)) {
			*ret_lock = lock_shared(m, WSLX_STORE_IMAGES, names[i]);
			if (*ret_lock >= 0) {
				/* Last used: now. */
				(void)utimensat(m->store_fd[WSLX_STORE_IMAGES], names[i], NULL, 0);
				r = 0;
			}
		}
	wslx_names_free(names, n);
	return r;
}

/* Drops the least recently used until few enough are left; one in use stays. */
static void prune_images(struct wslx_manager *m)
{
	char **names = NULL;
	size_t n = 0, left;

	if (wslx_store_names(m, WSLX_STORE_IMAGES, &names, &n, NULL) < 0)
		return;
	for (left = n; left > IMAGES_KEPT; left--) {
		struct timespec oldest = { .tv_sec = INT64_MAX };
		size_t which = n;

		for (size_t i = 0; i < n; i++) {
			struct stat st;

			if (names[i] && fstatat(m->store_fd[WSLX_STORE_IMAGES], names[i], &st, 0) == 0 &&
			    st.st_mtim.tv_sec < oldest.tv_sec) {
				oldest = st.st_mtim;
				which = i;
			}
		}
		if (which == n)
			break;
		if (wslx_store_remove(m, WSLX_STORE_IMAGES, names[which], NULL, NULL, NULL) < 0)
			errno = 0; /* in use: it goes another time */
		free(names[which]);
		names[which] = NULL;
	}
	wslx_names_free(names, n);
}

static int build_image(struct wslx_manager *m, int in_fd, const char *in_name, const struct wslx_task *task,
		       struct wslx_image *img, struct wslx_err *err)
{
	cleanup_free char *place = wslx_path("%s/images", m->paths.data);
	struct wslx_import_params ip = { .in_fd = in_fd, .in_name = in_name, .place = place };
	struct wslx_import_result result = { .default_uid = -1 };
	cleanup_free char *text = NULL;
	cleanup_close int disk = -1;
	struct wslx_builder b;
	int r = wslx_id_new(img->id);

	if (r < 0)
		return wslx_err_sys(err, -r, "no random numbers");
	r = wslx_builder_begin(m, WSLX_STORE_IMAGES, img->id, &b, err);
	if (r < 0)
		return r;
	disk = openat(b.dir_fd, WSLX_DISK_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (disk < 0)
		r = wslx_err_sys(err, errno, "cannot make a disk in %s/images", m->paths.data);
	if (r == 0) {
		ip.out_fd = disk;
		if (task)
			ip.task = *task;
		r = wslx_import(&ip, &result, err);
	}
	if (r == 0) {
		img->disk_size = result.disk_size;
		img->default_uid =
			result.default_uid >= 0 && result.default_uid <= UINT32_MAX ? result.default_uid : -1;
		text = wslx_image_encode(img);
		r = text ? wslx_builder_commit(&b, WSLX_IMAGE_JSON, text, err)
			 : wslx_err_sys(err, ENOMEM, "cannot keep the image");
	}
	wslx_builder_end(&b);
	return r;
}

/* "debian.tar.xz" runs as "debian". */
static void image_name(const char *path, char ret[WSLX_NAME_MAX + 1])
{
	const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	size_t n = strcspn(base, ".");

	snprintf(ret, WSLX_NAME_MAX + 1, "%.*s", (int)WSLX_MIN(n, (size_t)64), base);
	for (char *c = ret; *c; c++)
		if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-", *c))
			*c = '-';
	if (!ret[0] || ret[0] == '-')
		strcpy(ret, "image");
}

static int source_file(struct wslx_manager *m, const char *file, int fd, const struct wslx_task *task,
		       struct wslx_throwaway_source *ret, struct wslx_err *err)
{
	cleanup_free char *path = realpath(file, NULL);
	struct wslx_image want = { 0 }, found;
	struct stat st;
	int r;

	if (!path || fstat(fd, &st) < 0)
		return wslx_err_sys(err, errno, "cannot use %s", file);
	if (!S_ISREG(st.st_mode))
		return wslx_err_set(err, EINVAL, "%s is no regular file", file);
	describe_source(path, &st, &want);
	r = find_image(m, &want, &found, &ret->lock);
	if (r == -ENOENT) {
		r = build_image(m, fd, file, task, &want, err);
		if (r < 0)
			return r;
		r = find_image(m, &want, &found, &ret->lock);
	}
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot use the cached image of %s", file);
	prune_images(m);
	image_name(path, ret->distro);
	ret->disk_size = found.disk_size;
	ret->default_uid = found.default_uid;
	ret->disk = wslx_path("%s/images/%s/%s", m->paths.data, found.id, WSLX_DISK_FILE);
	return ret->disk ? 0 : wslx_err_sys(err, ENOMEM, "cannot use %s", file);
}

int wslx_run_source(struct wslx_manager *m, const char *image, const struct wslx_task *task,
		    struct wslx_throwaway_source *ret, struct wslx_settings *settings, struct wslx_err *err)
{
	struct wslx_throwaway_source s = { .lock = -1, .default_uid = -1 };
	char real[WSLX_NAME_MAX + 1];
	cleanup_close int fd = -1;
	int r;

	*settings = wslx_settings_default;
	if (wslx_store_lookup(m, WSLX_STORE_DISTROS, image, real) == 0) {
		r = source_distro(m, real, &s, settings, err);
	} else {
		fd = open(image, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
		if (fd < 0 && errno == ENOENT)
			r = wslx_err_set(err, ENOENT, "there is neither a distribution nor a file '%s'", image);
		else if (fd < 0)
			r = wslx_err_sys(err, errno, "cannot open %s", image);
		else
			r = source_file(m, image, fd, task, &s, err);
	}
	if (r < 0) {
		wslx_run_source_free(&s);
		return r;
	}
	*ret = s;
	/* It points into the structure itself. */
	if (s.running)
		ret->running = ret->distro;
	return 0;
}
