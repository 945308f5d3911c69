/*
 * Kernels from Debian's packages, by the host's own apt: its mirror, its keys.
 * Nothing is installed.  When the host's package lists are missing or out of
 * date, lists of our own are fetched into the target folder and thrown away.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/debian.h"
#include "image/debian_internal.h"
#include "image/kernel_internal.h"
#include "image/proc.h"

struct fetch {
	int dir_fd;
	const struct wslx_task *task;
	/* apt options for our own lists; empty strings when the host's are used */
	bool own_lists;
	char lists[600], cache[600];
};

/* argv for an apt program: options, then what the caller wants. */
static size_t begin(const struct fetch *f, const char **argv, const char *program)
{
	size_t n = 0;

	argv[n++] = program;
	argv[n++] = "-qq";
	/* apt gives up root for its downloads, and cannot write here then. */
	argv[n++] = "-o";
	argv[n++] = "APT::Sandbox::User=root";
	if (f->own_lists) {
		argv[n++] = "-o";
		argv[n++] = f->lists;
		argv[n++] = "-o";
		argv[n++] = f->cache;
		argv[n++] = "-o";
		argv[n++] = "Acquire::Languages=none";
	}
	return n;
}

static int apt(const struct fetch *f, const char *program, const char *verb, const char *arg, char **ret_out,
	       struct wslx_err *err)
{
	const char *argv[24];
	size_t n = begin(f, argv, program);

	argv[n++] = verb;
	if (strcmp(verb, "show") == 0)
		argv[n++] = "--no-all-versions";
	if (arg)
		argv[n++] = arg;
	argv[n] = NULL;

	struct wslx_proc_params run = {
		.argv = argv, .package = "apt", .keep_fd = f->dir_fd, .dir_fd = f->dir_fd, .stdout_fd = -1
	};

	return wslx_proc_run(&run, f->task, ret_out, err);
}

/* The kernel package that a metapackage depends on; itself if it is one. */
static int resolve(const struct fetch *f, const char *meta, char *buf, size_t size, struct wslx_err *err)
{
	cleanup_free char *out = NULL;
	int r = apt(f, "apt-cache", "show", meta, &out, err);

	if (r < 0)
		return r;
	snprintf(buf, size, "%s", meta);
	for (char *save, *line = strtok_r(out, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (strncmp(line, "Depends: ", 9) != 0)
			continue;
		for (char *s2, *dep = strtok_r(line + 9, ",", &s2); dep; dep = strtok_r(NULL, ",", &s2)) {
			dep += strspn(dep, " ");
			dep[strcspn(dep, " (:|")] = 0;
			/* "linux-image-6.1.0-56-cloud-amd64": the release follows. */
			if (strncmp(dep, "linux-image-", 12) == 0 && dep[12] >= '0' && dep[12] <= '9' &&
			    wslx_debian_name_ok(dep) && strlen(dep) < size) {
				strcpy(buf, dep);
				return 0;
			}
		}
	}
	return 0;
}

/* The name of the file that holds package pkg. */
static char *find_deb(int dir_fd, const char *pkg)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	size_t len = strlen(pkg);
	struct dirent *e;
	char *name = NULL;

	if (!d) {
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	while (!name && (e = readdir(d))) {
		size_t n = strlen(e->d_name);

		if (n > len + 5 && strncmp(e->d_name, pkg, len) == 0 && e->d_name[len] == '_' &&
		    strcmp(e->d_name + n - 4, ".deb") == 0)
			name = strdup(e->d_name);
	}
	closedir(d);
	return name;
}

static int try_fetch(const struct fetch *f, const char *package, char **ret, struct wslx_err *err)
{
	struct wslx_progress now = { .what = "downloading the kernel" };
	char pkg[256];
	int r = resolve(f, package, pkg, sizeof(pkg), err);

	if (r < 0)
		return r;
	wslx_task_report(f->task, &now);
	r = apt(f, "apt-get", "download", pkg, NULL, err);
	if (r < 0)
		return r;
	*ret = find_deb(f->dir_fd, pkg);
	return *ret ? 0 : wslx_err_set(err, ENOENT, "apt-get did not download %s", pkg);
}

/* Fetches package lists into the staging folder. */
static int update(struct fetch *f, struct wslx_staging *s, struct wslx_err *err)
{
	static const char *const dirs[] = { "lists", "lists/partial", "cache", "cache/archives" };
	struct wslx_progress now = { .what = "looking for packages" };
	char link[64], path[512];
	ssize_t n;

	/* Its real name: apt's download processes do not inherit descriptors. */
	snprintf(link, sizeof(link), "/proc/self/fd/%d", s->fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0 || (size_t)n >= sizeof(path) - 1)
		return wslx_err_set(err, ENAMETOOLONG, "cannot make a folder for package lists");
	path[n] = 0;
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		if (mkdirat(s->fd, dirs[i], 0755) < 0)
			return wslx_err_sys(err, errno, "cannot make a folder for package lists");
	snprintf(f->lists, sizeof(f->lists), "Dir::State::lists=%s/lists", path);
	snprintf(f->cache, sizeof(f->cache), "Dir::Cache=%s/cache", path);
	f->own_lists = true;
	wslx_task_report(f->task, &now);
	/* Sources besides Debian's may fail: what matters is whether the package
	 * can be had afterwards. */
	int r = apt(f, "apt-get", "update", NULL, NULL, err);

	return r == -ECANCELED || r == -ENOENT || r == -ENOSPC ? r : 0;
}

int wslx_kernel_fetch_debian(const char *flavour, int dir_fd, const struct wslx_task *task, char **ret,
			     struct wslx_err *err)
{
	struct fetch f = { .dir_fd = dir_fd, .task = task };
	const char *package = flavour;
	struct wslx_err first = { 0 }, second = { 0 };
	struct wslx_staging s;

	if (strcmp(flavour, "cloud") == 0)
		package = "linux-image-cloud-amd64";
	else if (strcmp(flavour, "standard") == 0)
		package = "linux-image-amd64";
	if (!wslx_debian_name_ok(package))
		return wslx_err_set(err, EINVAL, "'%.64s' is no name of a package", package);
	if (!wslx_proc_exists("apt-get"))
		return wslx_err_set(err, ENOENT,
				    "this host has no apt-get to fetch Debian's kernel with: add one with "
				    "`wslx kernel add FILE --modules DIR`");
	int r = try_fetch(&f, package, ret, &first);

	if (r == 0 || r == -ECANCELED)
		return r == 0 ? 0 : wslx_err_set(err, ECANCELED, "interrupted");
	r = wslx_staging_new(&s, dir_fd, task, err);
	if (r == 0)
		r = update(&f, &s, err);
	if (r == 0) {
		r = try_fetch(&f, package, ret, &second);
		if (r == -ECANCELED)
			wslx_err_set(err, ECANCELED, "interrupted");
		else if (r < 0)
			r = wslx_err_set(err, second.code,
					 "cannot get the kernel package %s: %s (is the network there? do apt's sources "
					 "have Debian? `sudo apt-get update` shows)",
					 package, second.msg);
	}
	wslx_staging_end(&s);
	return r;
}
