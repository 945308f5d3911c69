#include "manager/registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "manager/lock.h"
#include "os/linux/fd.h"

static const char *const store_dirs[] = { "distros", "kernels", "images" };
static const char *const store_words[] = { "distribution", "kernel", "image" };

static bool is_temp(const char *name)
{
	return !strncmp(name, WSLX_STATEFILE_TEMP, strlen(WSLX_STATEFILE_TEMP));
}

static int open_dir(int dirfd, const char *name, bool make)
{
	int fd;

	if (make && mkdirat(dirfd, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

/* A second descriptor for reading a folder: a DIR closes what it is given and
 * shares the offset of what it was dup'ed from. */
static DIR *read_dir(int dirfd)
{
	int fd = open_dir(dirfd, ".", false);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir && fd >= 0)
		close(fd);
	return dir;
}

/* ---- Leftovers ---- */

static void sweep_folder(struct wslx_manager *m, int store_fd, const char *name)
{
	cleanup_close int fd = open_dir(store_fd, name, false), lock = -1;

	if (fd >= 0) {
		lock = wslx_lock_take(fd, WSLX_LOCK_FILE, WSLX_LOCK_EXCLUSIVE, false);
		if (lock == -EAGAIN)
			return;
	}
	wslx_remove_tree(store_fd, name);
}

static void sweep_dir(struct wslx_manager *m, int fd)
{
	DIR *dir = read_dir(fd);
	const struct dirent *d;

	while (dir && (d = readdir(dir)))
		if (is_temp(d->d_name))
			sweep_folder(m, fd, d->d_name);
	if (dir)
		closedir(dir);
}

/* Temporary names are made under the registry lock, or together with the lock
 * file that guards them: so with that lock in hand, one that nobody holds was
 * left behind.  Nothing here can fail for the user; a busy registry is swept
 * by a later command. */
static void sweep(struct wslx_manager *m)
{
	cleanup_close int lock = wslx_lock_take(m->data_fd, WSLX_LOCK_FILE, WSLX_LOCK_EXCLUSIVE, false);

	if (lock < 0)
		return;
	sweep_dir(m, m->data_fd);
	for (int i = 0; i < WSLX_STORE_COUNT; i++)
		sweep_dir(m, m->store_fd[i]);
}

/* ---- Opening ---- */

static int open_folders(struct wslx_manager *m, struct wslx_err *err)
{
	m->data_fd = open_dir(AT_FDCWD, m->paths.data, false);
	if (m->data_fd < 0)
		return wslx_err_sys(err, -m->data_fd, "cannot open %s", m->paths.data);
	for (int i = 0; i < WSLX_STORE_COUNT; i++) {
		m->store_fd[i] = open_dir(m->data_fd, store_dirs[i], true);
		if (m->store_fd[i] < 0)
			return wslx_err_sys(err, -m->store_fd[i], "cannot open %s/%s", m->paths.data, store_dirs[i]);
	}
	m->run_fd = open_dir(AT_FDCWD, m->paths.run, false);
	if (m->run_fd < 0)
		return wslx_err_sys(err, -m->run_fd, "cannot open %s", m->paths.run);
	{
		cleanup_close int state = open_dir(AT_FDCWD, m->paths.state, false);

		m->machines_fd = state < 0 ? state : open_dir(state, "machines", true);
	}
	if (m->machines_fd < 0)
		return wslx_err_sys(err, -m->machines_fd, "cannot open %s/machines", m->paths.state);
	return 0;
}

int wslx_manager_open(struct wslx_manager **ret, struct wslx_err *err)
{
	struct wslx_manager *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return wslx_err_sys(err, ENOMEM, "cannot start");
	m->data_fd = m->run_fd = m->machines_fd = -1;
	for (int i = 0; i < WSLX_STORE_COUNT; i++)
		m->store_fd[i] = -1;
	r = wslx_paths_open(&m->paths, err);
	if (r == 0)
		r = open_folders(m, err);
	if (r < 0) {
		wslx_manager_free(m);
		return r;
	}
	sweep(m);
	*ret = m;
	return 0;
}

void wslx_manager_free(struct wslx_manager *m)
{
	if (!m)
		return;
	wslx_close(&m->data_fd);
	for (int i = 0; i < WSLX_STORE_COUNT; i++)
		wslx_close(&m->store_fd[i]);
	wslx_close(&m->run_fd);
	wslx_close(&m->machines_fd);
	wslx_paths_free(&m->paths);
	free(m);
}

int wslx_registry_lock(struct wslx_manager *m, struct wslx_err *err)
{
	int fd = wslx_lock_take(m->data_fd, WSLX_LOCK_FILE, WSLX_LOCK_EXCLUSIVE, true);

	return fd < 0 ? wslx_err_sys(err, -fd, "cannot lock %s/lock", m->paths.data) : fd;
}

/* ---- Names ---- */

int wslx_registry_check_name(const char *name, struct wslx_err *err)
{
	if (!wslx_name_ok(name) || name[0] == '.')
		return wslx_err_set(err, EINVAL,
				    "'%s' is no valid name: 1 to %d of A-Z a-z 0-9 . _ -, not beginning with . or -",
				    name, WSLX_NAME_MAX);
	return 0;
}

static int compare_names(const void *a, const void *b)
{
	return strcasecmp(*(char *const *)a, *(char *const *)b);
}

void wslx_names_free(char **names, size_t n)
{
	for (size_t i = 0; names && i < n; i++)
		free(names[i]);
	free(names);
}

int wslx_store_names(struct wslx_manager *m, enum wslx_store store, char ***ret, size_t *ret_n, struct wslx_err *err)
{
	DIR *dir = read_dir(m->store_fd[store]);
	const struct dirent *d;
	char **names = NULL;
	size_t n = 0;

	if (!dir)
		return wslx_err_sys(err, errno, "cannot read %s/%s", m->paths.data, store_dirs[store]);
	while ((d = readdir(dir))) {
		char **more;

		if (!wslx_name_ok(d->d_name) || d->d_name[0] == '.')
			continue;
		more = reallocarray(names, n + 1, sizeof(*names));
		if (more)
			names = more;
		if (!more || !(names[n] = strdup(d->d_name))) {
			wslx_names_free(names, n);
			closedir(dir);
			return wslx_err_sys(err, ENOMEM, "cannot read %s", store_dirs[store]);
		}
		n++;
	}
	closedir(dir);
	if (n)
		qsort(names, n, sizeof(*names), compare_names);
	*ret = names;
	*ret_n = n;
	return 0;
}

int wslx_store_lookup(struct wslx_manager *m, enum wslx_store store, const char *name, char ret[WSLX_NAME_MAX + 1])
{
	const struct dirent *d;
	int r = -ENOENT;
	DIR *dir;

	if (!wslx_name_ok(name) || name[0] == '.')
		return -ENOENT;
	if (faccessat(m->store_fd[store], name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
		strcpy(ret, name);
		return 0;
	}
	dir = read_dir(m->store_fd[store]);
	if (!dir)
		return -errno;
	while (r < 0 && (d = readdir(dir)))
		if (!strcasecmp(d->d_name, name)) {
			strcpy(ret, d->d_name);
			r = 0;
		}
	closedir(dir);
	return r;
}

int wslx_store_open(struct wslx_manager *m, enum wslx_store store, const char *name)
{
	return open_dir(m->store_fd[store], name, false);
}

/* One temporary folder that somebody works in: 1 and its name. */
static int busy_folder(int store_fd, const char *temp, const char *file, struct wslx_busy *ret)
{
	cleanup_close int fd = open_dir(store_fd, temp, false);
	cleanup_free char *name = NULL;

	if (fd < 0 || wslx_lock_held(fd, WSLX_LOCK_FILE) <= 0)
		return 0;
	if (wslx_read_file(fd, WSLX_LOCK_FILE, WSLX_NAME_MAX, &name, NULL) < 0 || !wslx_name_ok(name))
		return 0;
	strcpy(ret->name, name);
	/* What is being made gets its description last. */
	ret->removing = faccessat(fd, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
	return 1;
}

int wslx_store_busy(struct wslx_manager *m, enum wslx_store store, const char *file, struct wslx_busy **ret,
		    size_t *ret_n, struct wslx_err *err)
{
	DIR *dir = read_dir(m->store_fd[store]);
	struct wslx_busy *list = NULL;
	const struct dirent *d;
	size_t n = 0;

	if (!dir)
		return wslx_err_sys(err, errno, "cannot read %s/%s", m->paths.data, store_dirs[store]);
	while ((d = readdir(dir))) {
		struct wslx_busy *more;

		if (!is_temp(d->d_name))
			continue;
		more = reallocarray(list, n + 1, sizeof(*list));
		if (!more)
			break;
		list = more;
		n += (size_t)busy_folder(m->store_fd[store], d->d_name, file, &list[n]);
	}
	closedir(dir);
	*ret = list;
	*ret_n = n;
	return 0;
}

/* ---- Distros ---- */

int wslx_distro_find(struct wslx_manager *m, const char *name, struct wslx_distro *ret, struct wslx_err *err)
{
	cleanup_free char *text = NULL;
	cleanup_close int fd = -1;
	char real[WSLX_NAME_MAX + 1];
	size_t len = 0;
	int r = wslx_store_lookup(m, WSLX_STORE_DISTROS, name, real);

	if (r == -ENOENT)
		return wslx_err_set(err, ENOENT, "there is no distribution '%s'; see `wslx list`", name);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot read %s/distros", m->paths.data);
	fd = wslx_store_open(m, WSLX_STORE_DISTROS, real);
	r = fd < 0 ? fd : wslx_read_file(fd, WSLX_DISTRO_JSON, WSLX_STATE_FILE_MAX, &text, &len);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot read %s/distros/%s/%s", m->paths.data, real, WSLX_DISTRO_JSON);
	r = wslx_distro_decode(text, len, ret, err);
	if (r == 0 && strcmp(ret->name, real) != 0)
		r = wslx_err_set(err, EINVAL, "'name' is not the folder's");
	if (r < 0)
		wslx_err_prefix(err, "%s/distros/%s/%s", m->paths.data, real, WSLX_DISTRO_JSON);
	return r;
}

int wslx_distro_save(struct wslx_manager *m, const struct wslx_distro *d, struct wslx_err *err)
{
	cleanup_free char *text = wslx_distro_encode(d);
	cleanup_close int fd = wslx_store_open(m, WSLX_STORE_DISTROS, d->name);
	int r = !text ? -ENOMEM : fd;

	if (r >= 0) {
		sweep_dir(m, fd);
		r = wslx_statefile_write(fd, WSLX_DISTRO_JSON, text, strlen(text), m->recorder);
	}
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot write %s/distros/%s/%s", m->paths.data, d->name, WSLX_DISTRO_JSON);
	return 0;
}

static int load_config(struct wslx_manager *m, struct wslx_config *ret, struct wslx_err *err)
{
	cleanup_free char *text = NULL;
	struct wslx_err why = { 0 };
	size_t len = 0;
	int r = wslx_read_file(m->data_fd, WSLX_CONFIG_JSON, WSLX_STATE_FILE_MAX, &text, &len);

	*ret = (struct wslx_config) { 0 };
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot read %s/%s", m->paths.data, WSLX_CONFIG_JSON);
	r = wslx_config_decode(text, len, ret, &why);
	if (r < 0)
		wslx_err_set(err, why.code,
			     "%s/%s: %s; only the choice of the default distribution is in there: move the file away, "
			     "and choose it again with `wslx set-default NAME`",
			     m->paths.data, WSLX_CONFIG_JSON, why.msg);
	return r;
}

static int save_config(struct wslx_manager *m, const struct wslx_config *c, struct wslx_err *err)
{
	cleanup_free char *text = wslx_config_encode(c);
	int r = text ? wslx_statefile_write(m->data_fd, WSLX_CONFIG_JSON, text, strlen(text), m->recorder) : -ENOMEM;

	return r < 0 ? wslx_err_sys(err, -r, "cannot write %s/%s", m->paths.data, WSLX_CONFIG_JSON) : 0;
}

/* A default that is gone, or was never set, is the first by name: so a crash
 * between removing a distro and promoting another leaves nothing wrong. */
int wslx_distro_default(struct wslx_manager *m, char ret[WSLX_NAME_MAX + 1], struct wslx_err *err)
{
	struct wslx_config c;
	char **names = NULL;
	size_t n = 0;
	int r = load_config(m, &c, err);

	if (r < 0)
		return r;
	if (c.default_distro[0] && wslx_store_lookup(m, WSLX_STORE_DISTROS, c.default_distro, ret) == 0)
		return 0;
	r = wslx_store_names(m, WSLX_STORE_DISTROS, &names, &n, err);
	if (r == 0 && n)
		strcpy(ret, names[0]);
	else if (r == 0)
		r = wslx_err_set(err, ENOENT, "no distribution is installed; install one: wslx install debian");
	wslx_names_free(names, n);
	return r;
}

int wslx_distro_set_default(struct wslx_manager *m, const char *name, struct wslx_err *err)
{
	cleanup_close int lock = wslx_registry_lock(m, err);
	struct wslx_config c;
	int r = lock < 0 ? lock : load_config(m, &c, err);

	if (r < 0)
		return r;
	r = wslx_store_lookup(m, WSLX_STORE_DISTROS, name, c.default_distro);
	if (r == -ENOENT)
		return wslx_err_set(err, ENOENT, "there is no distribution '%s'; see `wslx list`", name);
	return r < 0 ? wslx_err_sys(err, -r, "cannot read %s/distros", m->paths.data) : save_config(m, &c, err);
}

/* ---- Building ---- */

static int check_free(struct wslx_manager *m, enum wslx_store store, const char *name, struct wslx_err *err)
{
	char taken[WSLX_NAME_MAX + 1];
	int r = wslx_store_lookup(m, store, name, taken);

	if (r == 0)
		return wslx_err_set(err, EEXIST, "there is already a %s '%s'; choose another name", store_words[store],
				    taken);
	return r == -ENOENT ? 0 : wslx_err_sys(err, -r, "cannot read %s/%s", m->paths.data, store_dirs[store]);
}

/* The sockets of regions lie where a distro of that name would have its machine's. */
static int check_reserved(enum wslx_store store, const char *name, struct wslx_err *err)
{
	if (store != WSLX_STORE_DISTROS || strcasecmp(name, "portal") != 0)
		return 0;
	return wslx_err_set(err, EINVAL, "no distribution can be called '%s'", name);
}

int wslx_builder_begin(struct wslx_manager *m, enum wslx_store store, const char *name, struct wslx_builder *ret,
		       struct wslx_err *err)
{
	struct wslx_builder b = { .m = m, .store = store, .dir_fd = -1, .lock_fd = -1 };
	cleanup_close int lock = -1;
	int r = wslx_registry_check_name(name, err);

	*ret = b;
	if (r == 0)
		r = check_reserved(store, name, err);
	if (r < 0)
		return r;
	strcpy(b.name, name);
	lock = wslx_registry_lock(m, err);
	r = lock < 0 ? lock : check_free(m, store, name, err);
	if (r < 0)
		return r;
	r = wslx_statefile_temp_name(b.temp, sizeof(b.temp));
	if (r == 0)
		r = b.dir_fd = open_dir(m->store_fd[store], b.temp, true);
	if (r >= 0)
		r = b.lock_fd = wslx_lock_take(b.dir_fd, WSLX_LOCK_FILE, WSLX_LOCK_EXCLUSIVE, false);
	/* Whose folder this will be, for `list --all`. */
	if (r >= 0)
		r = wslx_pwrite_full(b.lock_fd, name, strlen(name), 0);
	*ret = b;
	if (r < 0) {
		wslx_builder_end(ret);
		return wslx_err_sys(err, -r, "cannot make a folder in %s/%s", m->paths.data, store_dirs[store]);
	}
	return 0;
}

int wslx_builder_commit(struct wslx_builder *b, const char *file, const char *text, struct wslx_err *err)
{
	struct wslx_manager *m = b->m;
	cleanup_close int lock = -1;
	int r = wslx_statefile_write(b->dir_fd, file, text, strlen(text), m->recorder);

	if (r < 0)
		return wslx_err_sys(err, -r, "cannot write %s of %s in %s/%s", file, b->name, m->paths.data,
				    store_dirs[b->store]);
	lock = wslx_registry_lock(m, err);
	r = lock < 0 ? lock : check_free(m, b->store, b->name, err);
	if (r < 0)
		return r;
	r = wslx_statefile_publish(m->store_fd[b->store], b->temp, b->name, m->recorder);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot register %s in %s/%s", b->name, m->paths.data,
				    store_dirs[b->store]);
	b->temp[0] = '\0';
	return 0;
}

void wslx_builder_end(struct wslx_builder *b)
{
	if (b->dir_fd >= 0 && b->temp[0])
		wslx_remove_tree(b->m->store_fd[b->store], b->temp);
	wslx_close(&b->dir_fd);
	wslx_close(&b->lock_fd);
	b->temp[0] = '\0';
}

int wslx_store_remove(struct wslx_manager *m, enum wslx_store store, const char *name,
		      int (*guard)(void *opaque, struct wslx_err *err), void *opaque, struct wslx_err *err)
{
	cleanup_close int lock = wslx_registry_lock(m, err), fd = -1, folder_lock = -1;
	char temp[32];
	int r;

	if (lock < 0)
		return lock;
	fd = wslx_store_open(m, store, name);
	if (fd == -ENOENT)
		return wslx_err_set(err, ENOENT, "there is no %s '%s'", store_words[store], name);
	r = fd;
	if (r >= 0)
		r = folder_lock = wslx_lock_take(fd, WSLX_LOCK_FILE, WSLX_LOCK_EXCLUSIVE, false);
	if (r == -EAGAIN)
		return wslx_err_set(err, EBUSY, "%s '%s' is in use by another command", store_words[store], name);
	if (r >= 0 && guard) {
		r = guard(opaque, err);
		if (r < 0)
			return r;
	}
	if (r >= 0)
		r = wslx_statefile_withdraw(m->store_fd[store], name, temp, sizeof(temp), m->recorder);
	if (r >= 0) {
		/* It is gone for everybody; taking it apart needs no registry. */
		wslx_close(&lock);
		r = wslx_remove_tree(m->store_fd[store], temp);
	}
	return r < 0 ? wslx_err_sys(err, -r, "cannot remove %s '%s'", store_words[store], name) : 0;
}
