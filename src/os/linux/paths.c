#include "os/linux/paths.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define TREE_DEPTH_MAX 64

char *wslx_path(const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : s;
}

int wslx_mkdirs(const char *path, mode_t mode)
{
	cleanup_free char *p = strdup(path);
	struct stat st;

	if (!p)
		return -ENOMEM;
	for (char *s = p + 1; *s; s++) {
		if (*s != '/')
			continue;
		*s = '\0';
		if (mkdir(p, 0755) < 0 && errno != EEXIST)
			/* A parent that exists may be on a read-only file system. */
			if (stat(p, &st) < 0)
				return -errno;
		*s = '/';
	}
	if (mkdir(p, mode) < 0 && errno != EEXIST)
		return -errno;
	if (stat(p, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

static int remove_tree(int at, const char *name, unsigned depth)
{
	cleanup_close int fd = -1;
	DIR *dir;
	struct dirent *d;
	int r = 0;

	if (unlinkat(at, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	if (depth > TREE_DEPTH_MAX)
		return -ELOOP;
	fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir)
		return -errno;
	fd = -1;
	while (r == 0 && (d = readdir(dir)))
		if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
			r = remove_tree(dirfd(dir), d->d_name, depth + 1);
	closedir(dir);
	if (r == 0 && unlinkat(at, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}

int wslx_remove_tree(int dirfd, const char *name)
{
	return remove_tree(dirfd, name, 0);
}

/* An absolute path from an environment variable, or NULL; XDG says that
 * relative ones are to be ignored. */
static const char *env_dir(const char *name)
{
	const char *v = getenv(name);

	return v && v[0] == '/' ? v : NULL;
}

static const char *home_dir(void)
{
	const char *home = env_dir("HOME");
	const struct passwd *pw;

	if (home)
		return home;
	pw = getpwuid(getuid());
	return pw && pw->pw_dir && pw->pw_dir[0] == '/' ? pw->pw_dir : NULL;
}

static int make_private(const char *path, struct wslx_err *err)
{
	struct stat st;
	int r = wslx_mkdirs(path, 0700);

	if (r < 0)
		return wslx_err_sys(err, -r, "cannot make the folder %s", path);
	if (lstat(path, &st) < 0)
		return wslx_err_sys(err, errno, "cannot look at %s", path);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid())
		return wslx_err_set(err, EPERM, "%s is not a folder of yours; set WSLX_HOME to another place", path);
	if (st.st_mode & 077 && chmod(path, 0700) < 0)
		return wslx_err_sys(err, errno, "cannot make %s private", path);
	return 0;
}

/* As make_private, for a place where somebody else may have put something:
 * what is not private already is refused instead of mended. */
static int make_private_in_tmp(const char *path, struct wslx_err *err)
{
	struct stat st;

	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return wslx_err_sys(err, errno, "cannot make the folder %s", path);
	if (lstat(path, &st) < 0)
		return wslx_err_sys(err, errno, "cannot look at %s", path);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
		return wslx_err_set(
			err, EPERM,
			"%s is not a private folder of yours; remove it, or set XDG_RUNTIME_DIR or WSLX_HOME", path);
	return 0;
}

static bool usable_runtime(const char *dir)
{
	struct stat st;

	return dir && stat(dir, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 077) &&
	       access(dir, W_OK) == 0;
}

static int find_runtime(char **ret, struct wslx_err *err)
{
	cleanup_free char *user = wslx_path("/run/user/%u", (unsigned)geteuid());
	const char *xdg = env_dir("XDG_RUNTIME_DIR");
	cleanup_free char *path = NULL;
	int r;

	if (!usable_runtime(xdg))
		xdg = usable_runtime(user) ? user : NULL;
	path = xdg ? wslx_path("%s/wslx", xdg) : wslx_path("/tmp/wslx-%u", (unsigned)geteuid());
	if (!path)
		return wslx_err_sys(err, ENOMEM, "cannot start");
	r = xdg ? make_private(path, err) : make_private_in_tmp(path, err);
	if (r == 0)
		*ret = TAKE_PTR(path);
	return r;
}

static int open_home(struct wslx_paths *p, const char *home, struct wslx_err *err)
{
	cleanup_free char *cwd = NULL, *abs = NULL;

	if (home[0] != '/') {
		cwd = getcwd(NULL, 0);
		if (!cwd)
			return wslx_err_sys(err, errno, "WSLX_HOME is relative and the current folder is gone");
	}
	abs = cwd ? wslx_path("%s/%s", cwd, home) : strdup(home);
	if (!abs)
		return wslx_err_sys(err, ENOMEM, "cannot start");
	p->data = wslx_path("%s/data", abs);
	p->state = wslx_path("%s/state", abs);
	p->run = wslx_path("%s/run", abs);
	p->shared = p->run ? strdup(p->run) : NULL;
	return 0;
}

static int open_xdg(struct wslx_paths *p, struct wslx_err *err)
{
	const char *home = home_dir(), *data = env_dir("XDG_DATA_HOME"), *state = env_dir("XDG_STATE_HOME");

	if (!home && (!data || !state))
		return wslx_err_set(err, ENOENT, "no home folder: set HOME or WSLX_HOME");
	p->data = data ? wslx_path("%s/wslx", data) : wslx_path("%s/.local/share/wslx", home);
	p->state = state ? wslx_path("%s/wslx", state) : wslx_path("%s/.local/state/wslx", home);
	return find_runtime(&p->shared, err);
}

/* Is it where the user's data would be in the usual environment? */
static bool usual_data(const struct stat *data)
{
	const struct passwd *pw = getpwuid(geteuid());
	cleanup_free char *path = pw && pw->pw_dir ? wslx_path("%s/.local/share/wslx", pw->pw_dir) : NULL;
	struct stat st;

	return path && stat(path, &st) == 0 && st.st_dev == data->st_dev && st.st_ino == data->st_ino;
}

/* The machines' folder in the shared one: '@' is in no machine's name. */
static int find_machines(struct wslx_paths *p, struct wslx_err *err)
{
	struct stat st;

	if (stat(p->data, &st) < 0)
		return wslx_err_sys(err, errno, "cannot look at %s", p->data);
	p->run = usual_data(&st) ? strdup(p->shared)
				 : wslx_path("%s/@%llx-%llx", p->shared, (unsigned long long)st.st_dev,
					     (unsigned long long)st.st_ino);
	return p->run ? 0 : wslx_err_sys(err, ENOMEM, "cannot start");
}

int wslx_paths_open(struct wslx_paths *ret, struct wslx_err *err)
{
	const char *home = getenv("WSLX_HOME");
	struct wslx_paths p = { 0 };
	int r;

	r = home && home[0] ? open_home(&p, home, err) : open_xdg(&p, err);
	if (r == 0 && (!p.data || !p.state || !p.shared))
		r = wslx_err_sys(err, ENOMEM, "cannot start");
	if (r == 0)
		r = make_private(p.data, err);
	if (r == 0)
		r = make_private(p.state, err);
	if (r == 0 && !p.run)
		r = find_machines(&p, err);
	if (r == 0)
		r = make_private(p.run, err);
	if (r < 0) {
		wslx_paths_free(&p);
		return r;
	}
	*ret = p;
	return 0;
}

void wslx_paths_free(struct wslx_paths *p)
{
	free(p->data);
	free(p->state);
	free(p->run);
	free(p->shared);
	*p = (struct wslx_paths) { 0 };
}

static bool is_program(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

#ifndef WSLX_LIBEXECDIR
#define WSLX_LIBEXECDIR "/usr/libexec/wslx"
#endif

int wslx_find_own(const char *name, char **ret, struct wslx_err *err)
{
	/* "wslx-vmm" is built in src/vmm, beside src/cli. */
	const char *part = strchr(name, '-') ? strchr(name, '-') + 1 : name;
	const char *libexec = env_dir("WSLX_LIBEXEC");
	char exe[4096];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	char *slash;

	exe[n > 0 ? n : 0] = '\0';
	slash = strrchr(exe, '/');
	if (slash)
		*slash = '\0';
	for (int i = 0; i < 5; i++) {
		cleanup_free char *path = NULL;

		if (i == 0)
			path = libexec ? wslx_path("%s/%s", libexec, name) : NULL;
		else if (i == 4)
			path = wslx_path("%s/%s", WSLX_LIBEXECDIR, name);
		else if (slash)
			path = i == 1   ? wslx_path("%s/%s", exe, name)
			       : i == 2 ? wslx_path("%s/../%s/%s", exe, part, name)
					: wslx_path("%s/../libexec/wslx/%s", exe, name);
		if (path && is_program(path)) {
			*ret = realpath(path, NULL);
			return *ret ? 0 : wslx_err_sys(err, errno, "%s", path);
		}
	}
	return wslx_err_set(err, ENOENT, "%s is missing beside %s/wslx and in %s; set WSLX_LIBEXEC to its folder", name,
			    exe, WSLX_LIBEXECDIR);
}
