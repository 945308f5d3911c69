/* export: a distribution's files to an archive. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "manager/distros.h"

static bool ends_in(const char *file, const char *suffix)
{
	size_t n = strlen(file), k = strlen(suffix);

	return n > k && !strcasecmp(file + n - k, suffix);
}

/* A disk as it is needs no export. */
static int refuse_vhd(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	return wslx_err_set(err, EOPNOTSUPP,
			    "archives only: tar, tar.gz or tar.xz; a copy of the stopped distribution's disk: "
			    "qemu-img convert -O vhdx %s/distros/%s/%s FILE",
			    c->m->paths.data, o->pos[0], WSLX_DISK_FILE);
}

static int choose_format(struct cli *c, const struct cli_opts *o, enum wslx_export_format *ret, struct wslx_err *err)
{
	static const char *const names[] = {
		[WSLX_EXPORT_TAR] = "tar", [WSLX_EXPORT_TAR_GZ] = "tar.gz", [WSLX_EXPORT_TAR_XZ] = "tar.xz"
	};
	const char *file = o->pos[1];

	*ret = WSLX_EXPORT_TAR;
	if (o->format && (!strcasecmp(o->format, "vhd") || !strcasecmp(o->format, "vhdx")))
		return refuse_vhd(c, o, err);
	if (o->format) {
		for (size_t i = 0; i < ARRAY_SIZE(names); i++)
			if (!strcmp(o->format, names[i])) {
				*ret = (enum wslx_export_format)i;
				return 0;
			}
		return wslx_err_set(err, EINVAL, "unknown format '%s': tar, tar.gz or tar.xz", o->format);
	}
	if (ends_in(file, ".vhd") || ends_in(file, ".vhdx"))
		return refuse_vhd(c, o, err);
	if (ends_in(file, ".gz") || ends_in(file, ".tgz") || ends_in(file, ".wsl"))
		*ret = WSLX_EXPORT_TAR_GZ;
	else if (ends_in(file, ".xz") || ends_in(file, ".txz"))
		*ret = WSLX_EXPORT_TAR_XZ;
	else if (ends_in(file, ".zst") || ends_in(file, ".bz2"))
		return wslx_err_set(err, EOPNOTSUPP,
				    "tar, tar.gz and tar.xz can be written; for another: wslx export %s - | zstd >%s",
				    o->pos[0], file);
	return 0;
}

/* *ret_new: the file is ours to remove.  One that exists is not written over,
 * unless it is none that keeps anything, as a pipe. */
static int open_out(const char *file, bool *ret_new, struct wslx_err *err)
{
	cleanup_close int fd = -1;
	struct stat st;

	*ret_new = false;
	if (!strcmp(file, "-")) {
		if (isatty(STDOUT_FILENO))
			return wslx_err_set(err, EINVAL,
					    "the standard output is a terminal; give a file, or pipe the archive on");
		fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
		return fd < 0 ? wslx_err_sys(err, errno, "cannot write to the standard output") : TAKE_FD(fd);
	}
	fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0600);
	*ret_new = fd >= 0;
	if (fd < 0 && errno == EEXIST) {
		if (stat(file, &st) == 0 && S_ISREG(st.st_mode))
			return wslx_err_set(err, EEXIST, "%s exists already; remove it, or choose another name", file);
		fd = open(file, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	}
	return fd < 0 ? wslx_err_sys(err, errno, "cannot write %s", file) : TAKE_FD(fd);
}

/* It holds whatever the distribution kept from other users: 0600. */
int cli_export(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	struct wslx_export_result res = { 0 };
	enum wslx_export_format format;
	struct wslx_task task;
	cleanup_close int fd = -1;
	bool made = false;
	int r = choose_format(c, o, &format, err);

	if (r == 0)
		r = fd = open_out(o->pos[1], &made, err);
	if (r < 0)
		return r;
	cli_interrupt_catch();
	task = cli_progress_task();
	r = wslx_distro_export(c->m, o->pos[0], format, fd, &task, &res, err);
	cli_progress_clear();
	if (r == 0 && made && fsync(fd) < 0)
		r = wslx_err_sys(err, errno, "cannot write %s", o->pos[1]);
	if (r < 0 && made)
		(void)unlink(o->pos[1]);
	if (r == 0 && res.sockets)
		cli_warn("%" PRIu64 " socket%s left out: an archive cannot hold them", res.sockets,
			 res.sockets == 1 ? " was" : "s were");
	return r;
}
