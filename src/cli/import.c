/* import, and install: new distributions. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "manager/distros.h"
#include "manager/kernels.h"

int cli_parse_disk_size(const char *size, uint64_t *ret, struct wslx_err *err)
{
	if (wslx_size_parse(size, ret) < 0)
		return wslx_err_set(err, EINVAL, "'%s' is no size: write something like 64G", size);
	if (*ret < WSLX_IMPORT_SIZE_MIN || *ret > WSLX_IMPORT_SIZE_MAX)
		return wslx_err_set(err, EINVAL, "a disk of %s is out of range: 64M to 16T", size);
	return 0;
}

static int parse_size(const struct cli_opts *o, uint64_t *ret, struct wslx_err *err)
{
	*ret = 0;
	return o->size ? cli_parse_disk_size(o->size, ret, err) : 0;
}

/* -: standard input. */
static int open_source(const char *file, struct wslx_err *err)
{
	int fd = !strcmp(file, "-") ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
				    : open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return wslx_err_sys(err, errno, "cannot open %s", file);
	if (!strcmp(file, "-") && isatty(fd)) {
		close(fd);
		return wslx_err_set(err, EINVAL,
				    "the standard input is a terminal; give a file, or pipe an archive in");
	}
	return fd;
}

static int import_file(struct cli *c, const struct cli_opts *o, const char *name, const char *file,
		       struct wslx_err *err)
{
	struct wslx_settings *s = malloc(sizeof(*s));
	struct wslx_new_distro p = { .name = name, .settings = s, .in_fd = -1 };
	char kernel[WSLX_NAME_MAX + 1];
	cleanup_close int fd = -1;
	int r = s ? wslx_registry_check_name(name, err) : wslx_err_sys(err, ENOMEM, "cannot import");

	if (r == 0) {
		*s = wslx_settings_default;
		r = cli_apply_settings(o, s, err);
	}
	if (r == 0)
		r = wslx_settings_check(s, err);
	if (r == 0 && s->kernel[0])
		r = wslx_kernel_choose(c->m, s->kernel, kernel, err);
	if (r == 0)
		r = parse_size(o, &p.size, err);
	if (r == 0)
		r = fd = open_source(file, err);
	if (r >= 0) {
		p.in_fd = fd;
		p.in_name = !strcmp(file, "-") ? "standard input" : file;
		p.task = cli_progress_task();
		r = wslx_distro_create(c->m, &p, NULL, err);
	}
	cli_progress_clear();
	if (r == 0 && !s->kernel[0] && wslx_kernel_choose(c->m, NULL, kernel, NULL) == -ENOENT)
		cli_warn("no kernel to run it with yet: see `wslx kernel --help`; `wslx install debian` fetches one "
			 "too");
	free(s);
	return r;
}

int cli_import(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	int r = o->version ? cli_check_version(o->version, err) : 0;

	if (r < 0)
		return r;
	if (o->vhd)
		return wslx_err_set(err, EOPNOTSUPP,
				    "a .vhdx cannot be imported as it is: `qemu-img convert -O raw FILE.vhdx FILE.img` "
				    "makes a raw image, which can be if it holds one ext4 file system");
	if (o->n_pos > 2)
		return wslx_err_set(err, EINVAL,
				    "disks are kept in %s/distros: leave the folder out, wslx import %s %s",
				    c->m->paths.data, o->pos[0], o->pos[2]);
	cli_interrupt_catch();
	r = import_file(c, o, o->pos[0], o->pos[1], err);
	if (r == 0 && isatty(STDERR_FILENO))
		fprintf(stderr, "'%s' is there. A shell in it: wslx -d %s\n", o->pos[0], o->pos[0]);
	return r;
}

/* Name and settings are good and the name is free: told before anything is
 * downloaded. */
static int check_install(struct cli *c, const struct cli_opts *o, const char *name, struct wslx_settings *s,
			 uint64_t *size, struct wslx_err *err)
{
	char taken[WSLX_NAME_MAX + 1];
	int r = wslx_registry_check_name(name, err);

	if (r == 0 && wslx_store_lookup(c->m, WSLX_STORE_DISTROS, name, taken) == 0)
		return wslx_err_set(err, EEXIST,
				    "there is already a distribution '%s'; choose another name with --name", taken);
	*s = wslx_settings_default;
	if (r == 0)
		r = cli_apply_settings(o, s, err);
	if (r == 0)
		r = wslx_settings_check(s, err);
	return r < 0 ? r : parse_size(o, size, err);
}

static bool wants_another(const struct cli_opts *o)
{
	return o->size || o->suite || o->mirror || o->include || o->engine || o->kernel || o->memory || o->cpus ||
	       o->net || o->n_publish;
}

/* Is the distribution there, and cannot start for lack of the kernel that
 * `install` brings? */
static bool lacks_kernel(struct cli *c, const char *name)
{
	struct wslx_distro *d = malloc(sizeof(*d));
	char kernel[WSLX_NAME_MAX + 1];
	bool lacks = d && wslx_distro_find(c->m, name, d, NULL) == 0 &&
		     (!d->settings.kernel[0] || !strcasecmp(d->settings.kernel, WSLX_KERNEL_DEFAULT)) &&
		     wslx_kernel_choose(c->m, d->settings.kernel, kernel, NULL) == -ENOENT;

	free(d);
	return lacks;
}

static int fetch_kernel(struct cli *c, const char *name, struct wslx_err *err)
{
	struct wslx_task task = cli_progress_task();
	int r = wslx_kernel_ensure_default(c->m, &task, err);

	cli_progress_clear();
	if (r == 0)
		printf("'%s' was there without a kernel; Debian's is installed again.\n", name);
	return r;
}

static int install_debian(struct cli *c, const struct cli_opts *o, const char *name, struct wslx_err *err)
{
	struct wslx_settings *s = malloc(sizeof(*s));
	struct wslx_new_distro p = { .name = name, .settings = s, .in_fd = -1 };
	int r = s ? check_install(c, o, name, s, &p.size, err) : wslx_err_sys(err, ENOMEM, "cannot install");

	if (r == 0) {
		p.task = cli_progress_task();
		p.debian.suite = o->suite;
		p.debian.mirror = o->mirror;
		p.debian.include = o->include;
		if (!s->kernel[0])
			r = wslx_kernel_ensure_default(c->m, &p.task, err);
	}
	if (r == 0)
		r = wslx_distro_create(c->m, &p, NULL, err);
	cli_progress_clear();
	free(s);
	return r;
}

int cli_install(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	const char *what = o->n_pos ? o->pos[0] : o->distro ? o->distro : "debian", *name = o->name ? o->name : what;
	int r = o->version ? cli_check_version(o->version, err) : 0;

	if (r < 0)
		return r;
	if (o->n_pos && o->distro)
		return wslx_err_set(err, EINVAL, "'%s' and '%s': one distribution at a time", o->pos[0], o->distro);
	cli_interrupt_catch();
	if (o->from_file) {
		if (!o->name && !o->n_pos && !o->distro)
			return wslx_err_set(err, EINVAL, "--from-file needs a name too: --name NAME");
		r = import_file(c, o, name, o->from_file, err);
	} else if (strcasecmp(what, "debian") != 0) {
		return wslx_err_set(err, EINVAL,
				    "'%s' cannot be installed: debian can; anything else by wslx import NAME FILE",
				    what);
	} else if (!wants_another(o) && lacks_kernel(c, name)) {
		return fetch_kernel(c, name, err);
	} else {
		r = install_debian(c, o, name, err);
	}
	if (r == 0)
		printf("'%s' is installed. Go on with:\n"
		       "  wslx -d %s            a shell in it\n"
		       "  wslx -d %s -- CMD...  a command in it\n"
		       "  wslx run %s -- CMD... a throw-away machine over a copy of its disk\n",
		       name, name, name, name);
	return r;
}
