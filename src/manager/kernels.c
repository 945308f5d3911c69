#include "manager/kernels.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "boot/unpack.h"
#include "image/debian.h"
#include "manager/lock.h"
#include "os/linux/fd.h"

void wslx_kernel_paths_free(struct wslx_kernel_paths *p)
{
	free(p->kernel);
	free(p->initramfs);
	free(p->modules);
	*p = (struct wslx_kernel_paths) { 0 };
}

int wslx_kernel_choose(struct wslx_manager *m, const char *name, char ret[WSLX_NAME_MAX + 1], struct wslx_err *err)
{
	bool named = name && *name;
	char **names = NULL;
	size_t n = 0;
	int r = wslx_store_lookup(m, WSLX_STORE_KERNELS, named ? name : WSLX_KERNEL_DEFAULT, ret);

	if (r != -ENOENT)
		return r < 0 ? wslx_err_sys(err, -r, "cannot read %s/kernels", m->paths.data) : 0;
	if (named)
		return wslx_err_set(
			err, ENOENT,
			"there is no kernel '%s'; `wslx kernel list` shows those there are, `wslx kernel add "
			"FILE --name %s` adds it",
			name, name);
	r = wslx_store_names(m, WSLX_STORE_KERNELS, &names, &n, err);
	if (r == 0 && n == 1)
		strcpy(ret, names[0]);
	else if (r == 0 && n == 0)
		r = wslx_err_set(
			err, ENOENT,
			"no kernel is installed; `wslx install debian` fetches one, `wslx kernel add FILE` adds yours");
	else if (r == 0)
		r = wslx_err_set(err, ENOENT,
				 "several kernels and none is called %s: name one, with --kernel or by wslx "
				 "config NAME kernel=KERNEL",
				 WSLX_KERNEL_DEFAULT);
	wslx_names_free(names, n);
	return r;
}

static int load_at(struct wslx_manager *m, int fd, const char *name, struct wslx_kernel_info *ret, struct wslx_err *err)
{
	cleanup_free char *text = NULL;
	size_t len = 0;
	int r = fd < 0 ? fd : wslx_read_file(fd, WSLX_KERNEL_JSON, WSLX_STATE_FILE_MAX, &text, &len);

	if (r < 0)
		return wslx_err_sys(err, -r, "cannot read %s/kernels/%s/%s", m->paths.data, name, WSLX_KERNEL_JSON);
	r = wslx_kernel_decode(text, len, ret, err);
	if (r < 0)
		wslx_err_prefix(err, "the kernel '%s' in %s/kernels", name, m->paths.data);
	return r;
}

int wslx_kernel_load(struct wslx_manager *m, const char *name, struct wslx_kernel_info *ret, struct wslx_err *err)
{
	cleanup_close int fd = wslx_store_open(m, WSLX_STORE_KERNELS, name);

	return load_at(m, fd, name, ret, err);
}

int wslx_kernel_examine(struct wslx_manager *m, const char *name, const struct wslx_kernel_info *info,
			struct wslx_err *err)
{
	const char *file = info->has_vmlinux ? WSLX_KERNEL_VMLINUX : WSLX_KERNEL_BZIMAGE;
	cleanup_close int dir = wslx_store_open(m, WSLX_STORE_KERNELS, name);
	cleanup_close int fd = dir < 0 ? dir : openat(dir, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	int r = fd < 0 ? wslx_err_sys(err, dir < 0 ? -dir : errno, "cannot open its %s", file) : 0;

	if (r == 0)
		r = wslx_kernel_check(fd, err);
	if (r < 0)
		wslx_err_prefix(err, "the kernel '%s' in %s/kernels", name, m->paths.data);
	return r;
}

/* The initramfs holds the agent: a newer release brings a newer one.  Two
 * commands may come here at once, so the folder's lock is held. */
static int refresh(struct wslx_manager *m, const char *name, struct wslx_kernel_info *info, struct wslx_err *err)
{
	cleanup_close int fd = wslx_store_open(m, WSLX_STORE_KERNELS, name), lock = -1;
	cleanup_free char *agent = NULL, *text = NULL;
	bool changed = false;
	int r = fd < 0 ? fd : 0;

	if (r == 0)
		r = lock = wslx_lock_take(fd, WSLX_LOCK_FILE, WSLX_LOCK_EXCLUSIVE, true);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot lock the kernel '%s'", name);
	r = load_at(m, fd, name, info, err);
	if (r == 0)
		r = wslx_find_own("wslx-agent", &agent, err);
	if (r == 0)
		r = wslx_kernel_refresh(fd, agent, info, &changed, err);
	if (r < 0 || !changed)
		return r;
	text = wslx_kernel_encode(info);
	r = text ? wslx_statefile_write(fd, WSLX_KERNEL_JSON, text, strlen(text), m->recorder) : -ENOMEM;
	return r < 0 ? wslx_err_sys(err, -r, "cannot write %s of the kernel '%s'", WSLX_KERNEL_JSON, name) : 0;
}

int wslx_kernel_prepare(struct wslx_manager *m, const char *name, struct wslx_kernel_paths *ret, struct wslx_err *err)
{
	struct wslx_kernel_paths p = { 0 };
	struct wslx_kernel_info info = { 0 };
	cleanup_free char *dir = NULL;
	int r = wslx_kernel_choose(m, name, p.name, err);

	if (r == 0)
		r = refresh(m, p.name, &info, err);
	if (r < 0)
		return r;
	if (!info.has_vmlinux && !info.has_bzimage)
		return wslx_err_set(err, EINVAL, "the kernel '%s' has no file to boot", p.name);
	dir = wslx_path("%s/kernels/%s", m->paths.data, p.name);
	if (dir) {
		p.kernel = wslx_path("%s/%s", dir, info.has_vmlinux ? WSLX_KERNEL_VMLINUX : WSLX_KERNEL_BZIMAGE);
		p.initramfs = wslx_path("%s/%s", dir, WSLX_KERNEL_INITRAMFS);
		p.modules = info.has_modules ? wslx_path("%s/%s", dir, WSLX_KERNEL_MODULES) : NULL;
	}
	if (!p.kernel || !p.initramfs || (info.has_modules && !p.modules)) {
		wslx_kernel_paths_free(&p);
		return wslx_err_sys(err, ENOMEM, "cannot prepare the kernel '%s'", name ? name : "");
	}
	*ret = p;
	return 0;
}

/* ---- Adding ---- */

/* A name from the release in the file, else from the file's own name. */
static void make_name(const char *file, char ret[WSLX_NAME_MAX + 1])
{
	cleanup_close int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	const char *base = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
	const char *under = strchr(base, '_'); /* linux-image-6.1.0-1-amd64_6.1.4-1_amd64.deb */
	size_t n = strlen(base);
	char version[128];

	if (fd >= 0 && wslx_kernel_version(fd, version, sizeof(version)) == 0) {
		snprintf(ret, WSLX_NAME_MAX + 1, "%s", version);
	} else {
		if (n > 4 && !strcmp(base + n - 4, ".deb")) {
			n = under ? (size_t)(under - base) : n - 4;
			if (!strncmp(base, "linux-image-", 12)) {
				base += 12;
				n -= 12;
			}
		}
		snprintf(ret, WSLX_NAME_MAX + 1, "%.*s", (int)WSLX_MIN(n, (size_t)64), base);
	}
	for (char *c = ret; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("._-", *c))
			*c = '-';
	if (ret[0] == '.' || ret[0] == '-' || !ret[0])
		snprintf(ret, WSLX_NAME_MAX + 1, "kernel");
}

/* Which disk is full: what is below says the name of a file, or what a program said. */
static int say_where(struct wslx_manager *m, int r, struct wslx_err *err)
{
	if (r == -ENOSPC || r == -EDQUOT)
		wslx_err_prefix(err, "no space left on the host's disk in %.400s/kernels", m->paths.data);
	return r;
}

int wslx_kernel_install(struct wslx_manager *m, const char *file, const char *name, const char *modules_dir,
			const struct wslx_task *task, char ret_name[WSLX_NAME_MAX + 1], struct wslx_err *err)
{
	struct wslx_kernel_params p = { .file = file, .modules_dir = modules_dir };
	cleanup_free char *agent = NULL, *text = NULL;
	char made[WSLX_NAME_MAX + 1];
	struct wslx_kernel_info info;
	struct wslx_builder b;
	int r;

	if (!name) {
		make_name(file, made);
		name = made;
	}
	r = wslx_find_own("wslx-agent", &agent, err);
	if (r == 0)
		r = wslx_builder_begin(m, WSLX_STORE_KERNELS, name, &b, err);
	if (r < 0)
		return r;
	p.dir_fd = b.dir_fd;
	p.agent_path = agent;
	if (task)
		p.task = *task;
	/* wslx_kernel_add wants an empty folder, but for the lock that is ours. */
	r = say_where(m, wslx_kernel_add(&p, &info, err), err);
	if (r == 0) {
		text = wslx_kernel_encode(&info);
		r = text ? wslx_builder_commit(&b, WSLX_KERNEL_JSON, text, err)
			 : wslx_err_sys(err, ENOMEM, "cannot add the kernel");
	}
	wslx_builder_end(&b);
	if (r == 0 && ret_name)
		snprintf(ret_name, WSLX_NAME_MAX + 1, "%s", name);
	return r;
}

int wslx_kernel_ensure_default(struct wslx_manager *m, const struct wslx_task *task, struct wslx_err *err)
{
	char found[WSLX_NAME_MAX + 1], temp[32];
	cleanup_free char *deb = NULL, *path = NULL;
	cleanup_close int dir = -1, lock = -1;
	int r = wslx_store_lookup(m, WSLX_STORE_KERNELS, WSLX_KERNEL_DEFAULT, found);

	if (r != -ENOENT)
		return r < 0 ? wslx_err_sys(err, -r, "cannot read %s/kernels", m->paths.data) : 0;
	/* A scratch folder beside the kernels, guarded by its lock as a builder's is. */
	r = wslx_statefile_temp_name(temp, sizeof(temp));
	if (r == 0) {
		cleanup_close int reg = wslx_registry_lock(m, err);

		if (reg < 0)
			return reg;
		r = mkdirat(m->store_fd[WSLX_STORE_KERNELS], temp, 0700) < 0 ? -errno : 0;
		if (r == 0)
			r = dir = wslx_store_open(m, WSLX_STORE_KERNELS, temp);
		if (r >= 0)
			r = lock = wslx_lock_take(dir, WSLX_LOCK_FILE, WSLX_LOCK_EXCLUSIVE, false);
	}
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot make a folder in %s/kernels", m->paths.data);
	r = say_where(m, wslx_kernel_fetch_debian("cloud", dir, task, &deb, err), err);
	if (r == 0) {
		path = wslx_path("%s/kernels/%s/%s", m->paths.data, temp, deb);
		r = path ? wslx_kernel_install(m, path, WSLX_KERNEL_DEFAULT, NULL, task, NULL, err)
			 : wslx_err_sys(err, ENOMEM, "cannot add the kernel");
		/* Another command was as quick. */
		if (r == -EEXIST)
			r = 0;
	}
	wslx_remove_tree(m->store_fd[WSLX_STORE_KERNELS], temp);
	return r;
}

/* ---- Removing ---- */

/* What a distro with these settings would start with; "" if with none. */
static void choice_of(struct wslx_manager *m, const struct wslx_distro *d, char ret[WSLX_NAME_MAX + 1])
{
	if (wslx_kernel_choose(m, d->settings.kernel, ret, NULL) < 0)
		ret[0] = '\0';
}

int wslx_kernel_users(struct wslx_manager *m, const char *kernel, struct wslx_kernel_users *ret, struct wslx_err *err)
{
	struct wslx_distro *d = malloc(sizeof(*d));
	char **names = NULL, kernel_of[WSLX_NAME_MAX + 1];
	size_t n = 0, used = 0;
	int r = d ? wslx_store_names(m, WSLX_STORE_DISTROS, &names, &n, err)
		  : wslx_err_sys(err, ENOMEM, "cannot read the distributions");

	*ret = (struct wslx_kernel_users) { 0 };
	for (size_t i = 0; r == 0 && i < n; i++) {
		if (wslx_distro_find(m, names[i], d, NULL) < 0)
			continue;
		choice_of(m, d, kernel_of);
		if (strcmp(kernel_of, kernel) != 0)
			continue;
		if (!ret->n++)
			snprintf(ret->first, sizeof(ret->first), "%s", names[i]);
		if (ret->n <= WSLX_KERNEL_USERS_NAMED)
			used += (size_t)snprintf(ret->text + used, sizeof(ret->text) - used, "%s'%s'", used ? ", " : "",
						 names[i]);
	}
	if (ret->n > WSLX_KERNEL_USERS_NAMED)
		snprintf(ret->text + used, sizeof(ret->text) - used, " and %zu more", ret->n - WSLX_KERNEL_USERS_NAMED);
	wslx_names_free(names, n);
	free(d);
	return r;
}

struct removal {
	struct wslx_manager *m;
	const char *name;
};

static int not_used_by_a_distro(void *opaque, struct wslx_err *err)
{
	const struct removal *rm = opaque;
	struct wslx_kernel_users users;
	int r = wslx_kernel_users(rm->m, rm->name, &users, err);

	if (r == 0 && users.n)
		return wslx_err_set(err, EBUSY,
				    "the kernel '%s' is that of %s; give %s another one first (wslx config %s "
				    "kernel=NAME), or remove it all the same with --force",
				    rm->name, users.text, users.n == 1 ? "it" : "them", users.first);
	return r;
}

int wslx_kernel_remove(struct wslx_manager *m, const char *name, bool force, struct wslx_err *err)
{
	char real[WSLX_NAME_MAX + 1];
	struct removal rm = { .m = m, .name = real };
	int r = wslx_store_lookup(m, WSLX_STORE_KERNELS, name, real);

	if (r < 0)
		return wslx_err_set(err, -r, "there is no kernel '%s'; see `wslx kernel list`", name);
	return wslx_store_remove(m, WSLX_STORE_KERNELS, real, force ? NULL : not_used_by_a_distro, &rm, err);
}
