/* export: a distribution's files to an archive. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "manager/distros.h"
#include "os/linux/newfile.h"

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
	if (o->vhd || (o->format && (!strcasecmp(o->format, "vhd") || !strcasecmp(o->format, "vhdx"))))
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

/* What is written to: a new file has its name only when all of it is there, so
 * that one that was cut short, by a kill even, never looks like an archive. */
struct out {
	const char *file;
	bool new;
	struct wslx_newfile f; /* if not new, only its fd */
};

static void end_out(struct out *o)
{
	wslx_newfile_close(&o->f);
}

static int open_new(struct out *o, struct wslx_err *err)
{
	int r = wslx_newfile_open(&o->f, o->file);

	if (r == -EINVAL)
		return wslx_err_set(err, EINVAL, "'%s' is no name of a file", o->file);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot write %s", o->file);
	o->new = true;
	return 0;
}

/* One that exists is not written over, unless it is none that keeps anything,
 * as a pipe. */
static int open_out(struct out *o, struct wslx_err *err)
{
	struct stat st;

	if (!strcmp(o->file, "-")) {
		if (isatty(STDOUT_FILENO))
			return wslx_err_set(err, EINVAL,
					    "the standard output is a terminal; give a file, or pipe the archive on");
		o->f.fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
		return o->f.fd < 0 ? wslx_err_sys(err, errno, "cannot write to the standard output") : 0;
	}
	if (lstat(o->file, &st) < 0)
		return errno == ENOENT ? open_new(o, err) : wslx_err_sys(err, errno, "cannot write %s", o->file);
	if (stat(o->file, &st) == 0 && S_ISREG(st.st_mode))
		return wslx_err_set(err, EEXIST, "%s exists already; remove it, or choose another name", o->file);
	o->f.fd = open(o->file, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	return o->f.fd < 0 ? wslx_err_sys(err, errno, "cannot write %s", o->file) : 0;
}

/* Nor one that has come into being meanwhile.  Once this has returned the
 * distribution may be removed, power loss or not. */
static int publish_out(struct out *o, struct wslx_err *err)
{
	bool named;
	int r;

	/* A pipe, say, has nothing to sync. */
	if (!o->new)
		return fsync(o->f.fd) == 0 || errno == EINVAL || errno == EROFS || errno == ENOTSUP
			       ? 0
			       : wslx_err_sys(err, errno, "cannot write %s", o->file);
	r = wslx_newfile_publish(&o->f, &named);
	if (r < 0 && named)
		return wslx_err_sys(err, -r,
				    "%s is written, but may be lost if the power fails: its folder cannot be synced",
				    o->file);
	if (r == -EEXIST)
		return wslx_err_set(err, EEXIST, "%s has been made by somebody else meanwhile; it is left alone",
				    o->file);
	return r < 0 ? wslx_err_sys(err, -r, "cannot write %s", o->file) : 0;
}

int cli_export(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	cleanup_with(end_out) struct out out = { .file = o->pos[1], .f = WSLX_NEWFILE_INIT };
	struct wslx_export_result res = { 0 };
	enum wslx_export_format format;
	struct wslx_task task;
	int r = choose_format(c, o, &format, err);

	if (r == 0)
		r = open_out(&out, err);
	if (r < 0)
		return r;
	cli_interrupt_catch();
	task = cli_progress_task();
	r = wslx_distro_export(c->m, o->pos[0], format, out.f.fd,
			       strcmp(out.file, "-") != 0 ? out.file : "to the standard output", &task, &res, err);
	cli_progress_clear();
	if (r == 0)
		r = publish_out(&out, err);
	if (r == 0 && res.sockets)
		cli_warn("%" PRIu64 " socket%s left out: an archive cannot hold them", res.sockets,
			 res.sockets == 1 ? " was" : "s were");
	return r;
}
