/*
 * Import: what is it, and who takes it.  See import.h and docs/images.md.
 *
 * Theory of operation.  Three threads: the source reads and decompresses, the
 * caller's thread parses and builds, the image's writer writes.  The caller's
 * waits are short, so that cancelling works while a pipe is silent.
 *
 * Trust boundary: the archive is hostile.  Nothing outside out_fd is written;
 * no path of the archive is ever given to the host's kernel.
 */
#include "image/import.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "image/import_internal.h"
#include "os/linux/fd.h"

#define TICK_MS 100
#define HEAD 4096u
#define RESERVE_MAX (512 * WSLX_MIB)

int wslx_import_tick(struct wslx_import_meter *m, bool last, struct wslx_err *err)
{
	int64_t now;

	if (wslx_task_cancelled(m->task))
		return wslx_err_set(err, ECANCELED, "interrupted");
	if (!m->task || !m->task->progress)
		return 0;
	now = wslx_now_ms();
	if (last || now - m->last_ms >= TICK_MS) {
		m->last_ms = now;
		wslx_task_report(m->task, &m->now);
	}
	return 0;
}

int wslx_import_free_space(int fd, uint64_t *ret)
{
	struct statvfs vfs;
	uint64_t room, reserve;

	if (fstatvfs(fd, &vfs) < 0)
		return -errno;
	/* No blocks at all: a tmpfs without a limit. */
	room = vfs.f_blocks ? (uint64_t)vfs.f_bavail * vfs.f_frsize : WSLX_IMPORT_SIZE_MAX;
	reserve = room / 16;
	*ret = room - WSLX_MIN(reserve, RESERVE_MAX);
	return 0;
}

int wslx_import_room(const struct wslx_import_params *p, uint64_t *ret, struct wslx_err *err)
{
	int r = wslx_import_free_space(p->out_fd, ret);

	if (r < 0)
		return wslx_err_sys(err, -r, "cannot look at the disk image");
	if (p->max_bytes)
		*ret = WSLX_MIN(*ret, p->max_bytes);
	return 0;
}

int wslx_import_full(const struct wslx_import_params *p, struct wslx_err *err)
{
	return wslx_err_set(err, ENOSPC, "no space left on the host's disk" WSLX_PLACE_FMT, WSLX_PLACE(p->place));
}

static int import_stream(const struct wslx_import_params *p, struct wslx_source *src, struct wslx_import_result *ret,
			 struct wslx_err *err)
{
	struct wslx_import_meter m = { .task = &p->task, .now = { .what = "importing" } };
	struct wslx_import_params with = *p;
	const void *first = NULL;
	ssize_t n;

	while ((n = wslx_source_next(src, &first)) == -EAGAIN) {
		int r = wslx_import_tick(&m, false, err);

		if (r < 0)
			return r;
	}
	if (n < 0)
		return wslx_source_error(src, err);
	/* An image may hold a tar header in its unused first block, but a tar no superblock. */
	if (wslx_import_is_ext4(first, (size_t)n) && !wslx_import_is_tar(first, (size_t)n))
		return wslx_import_image_stream(p, src, first, (size_t)n, ret, err);
	if (wslx_import_all_zero(first, (size_t)n) && n >= 512)
		return wslx_import_refuse_zeros(src, &m, err);
	if (!wslx_import_is_tar(first, (size_t)n))
		return wslx_import_refuse(first, (size_t)n, err);
	if (!with.size)
		with.size = WSLX_IMPORT_SIZE_DEFAULT;
	ret->kind = WSLX_IMPORT_TAR;
	ret->disk_size = with.size;
	return wslx_import_tar(&with, src, first, (size_t)n, ret, err);
}

static int import_any(const struct wslx_import_params *p, struct wslx_import_result *ret, struct wslx_err *err)
{
	struct wslx_source *src;
	uint8_t head[HEAD];
	struct stat st;
	off_t at;
	int r;

	if (fstat(p->in_fd, &st) < 0)
		return wslx_err_sys(err, errno, "cannot read");
	if (S_ISDIR(st.st_mode))
		return wslx_err_set(err, EISDIR, "a folder, not a tar archive, ext4 image or .wsl package");
	at = lseek(p->in_fd, 0, SEEK_CUR);
	if (S_ISREG(st.st_mode) && at >= 0 && wslx_pread_full(p->in_fd, head, sizeof(head), at) == 0 &&
	    wslx_import_is_ext4(head, sizeof(head)) && !wslx_import_is_tar(head, sizeof(head)))
		return wslx_import_image_file(p, ret, err);
	r = wslx_source_open(p->in_fd, &src);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot read");
	r = import_stream(p, src, ret, err);
	wslx_source_close(src);
	return r;
}

int wslx_import(const struct wslx_import_params *p, struct wslx_import_result *ret, struct wslx_err *err)
{
	struct wslx_import_params with = *p;
	struct wslx_import_result result = { .default_uid = -1 };
	int r;

	if (!with.max_entries)
		with.max_entries = WSLX_IMPORT_ENTRIES_DEFAULT;
	if (!with.max_memory)
		with.max_memory = WSLX_IMPORT_MEMORY_DEFAULT;
	if (with.size && (with.size < WSLX_IMPORT_SIZE_MIN || with.size > WSLX_IMPORT_SIZE_MAX))
		return wslx_err_set(err, EINVAL, "a disk must be between 64 MiB and 16 TiB large");
	r = import_any(&with, &result, err);
	if (r == 0 && !p->no_sync && fsync(p->out_fd) < 0)
		r = errno == ENOSPC || errno == EDQUOT ? wslx_import_full(p, err)
						       : wslx_err_sys(err, errno, "cannot write the disk image");
	if (r < 0) {
		/* Cancelling is not about the file. */
		if (r != -ECANCELED && p->in_name)
			wslx_err_prefix(err, "%s", p->in_name);
		return r;
	}
	*ret = result;
	return 0;
}
