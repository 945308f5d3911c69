/* Raw ext4 images: checked as far as the superblock goes, copied sparse. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ext2fs/ext2fs.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "image/import_internal.h"
#include "image/proc.h"
#include "os/linux/fd.h"

#define SB_AT 1024u
#define PIECE (16 * WSLX_MIB)
#define BLOCK 4096u

bool wslx_import_is_ext4(const uint8_t *p, size_t n)
{
	const uint8_t *sb;

	if (n < SB_AT + 1024)
		return false;
	sb = p + SB_AT;
	if (wslx_get_le16(sb + 56) != 0xef53)
		return false;
	/* ext2 and ext3 too: the kernel mounts them as ext4. */
	return wslx_get_le32(sb + 24) <= 6 && wslx_get_le32(sb) != 0;
}

/* Opened as the kernel would find it; must hold something that can be started. */
static int check_image(const struct wslx_import_params *p, uint64_t file_size, uint64_t *ret_size, struct wslx_err *err)
{
	ext2_filsys fs = NULL;
	ext2_ino_t ino;
	char path[64];
	int r = 0;

	initialize_ext2_error_table();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", p->out_fd);
	errcode_t c = ext2fs_open(path, EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &fs);

	if (c)
		return wslx_err_set(err, EBADMSG, "the ext4 image is damaged or of an unknown kind: %s",
				    error_message(c));
	*ret_size = ext2fs_blocks_count(fs->super) * fs->blocksize;
	if (*ret_size > file_size)
		r = wslx_err_set(err, EBADMSG, "truncated ext4 image: %" PRIu64 " of %" PRIu64 " bytes are there",
				 file_size, *ret_size);
	else if (fs->super->s_state & EXT2_ERROR_FS)
		r = wslx_err_set(err, EBADMSG, "the ext4 image has errors: repair it with `e2fsck -f` first");
	else if (ext2fs_namei(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, "/etc", &ino) &&
		 ext2fs_namei_follow(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, "/bin/sh", &ino))
		r = wslx_err_set(err, EINVAL, "not a root file system: the image has neither /etc nor /bin/sh");
	ext2fs_free(fs);
	return r;
}

static int grow(const struct wslx_import_params *p, struct wslx_err *err)
{
	char path[64], size[32];
	const char *argv[] = { "resize2fs", "-f", path, size, NULL };
	struct wslx_proc_params run = {
		.argv = argv, .package = "e2fsprogs", .keep_fd = p->out_fd, .dir_fd = -1, .stdout_fd = -1
	};

	snprintf(path, sizeof(path), "/proc/self/fd/%d", p->out_fd);
	snprintf(size, sizeof(size), "%" PRIu64 "K", p->size / 1024);
	return wslx_proc_run(&run, &p->task, NULL, err);
}

static int complete(const struct wslx_import_params *p, uint64_t file_size, struct wslx_import_result *ret,
		    struct wslx_err *err)
{
	uint64_t fs_size = 0;
	int r = check_image(p, file_size, &fs_size, err);

	ret->kind = WSLX_IMPORT_EXT4;
	ret->disk_size = file_size;
	ret->data_bytes = fs_size;
	if (r < 0 || p->size <= file_size)
		return r;
	if (ftruncate(p->out_fd, (off_t)p->size) < 0)
		return wslx_err_sys(err, errno, "cannot grow the disk image");
	ret->disk_size = p->size;
	return grow(p, err);
}

static int write_fail(int r, struct wslx_err *err)
{
	if (r == -ENOSPC)
		return wslx_err_set(err, ENOSPC, "no space left on the host's disk");
	return wslx_err_sys(err, -r, "cannot write the disk image");
}

static bool is_zero(const uint8_t *p, size_t n)
{
	return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

/* Writes what is not zero; off and the pieces are block-aligned, but for the end. */
static int write_sparse(int fd, const uint8_t *p, size_t n, uint64_t off)
{
	while (n) {
		size_t hole = 0, data = 0;

		while (hole < n && is_zero(p + hole, n - hole < BLOCK ? n - hole : BLOCK))
			hole += n - hole < BLOCK ? n - hole : BLOCK;
		p += hole;
		off += hole;
		n -= hole;
		while (data < n && !is_zero(p + data, n - data < BLOCK ? n - data : BLOCK))
			data += n - data < BLOCK ? n - data : BLOCK;
		int r = data ? wslx_pwrite_full(fd, p, data, (off_t)off) : 0;

		if (r < 0)
			return r;
		p += data;
		off += data;
		n -= data;
	}
	return 0;
}

/* One stretch of data between holes. */
static int copy_stretch(const struct wslx_import_params *p, off_t from, off_t to, off_t start,
			struct wslx_import_meter *m, uint8_t *buf, struct wslx_err *err)
{
	bool in_kernel = true;

	while (from < to) {
		size_t n = (uint64_t)(to - from) < PIECE ? (size_t)(to - from) : (size_t)PIECE;
		int r = 0;

		if (in_kernel) {
			loff_t in = from, out = from - start;
			ssize_t got = copy_file_range(p->in_fd, &in, p->out_fd, &out, n, 0);

			if (got > 0) {
				n = (size_t)got;
			} else if (got < 0 && errno == ENOSPC) {
				r = -ENOSPC;
			} else {
				in_kernel = false; /* two file systems that do not do this */
				continue;
			}
		} else {
			r = wslx_pread_full(p->in_fd, buf, n, from);
			if (r < 0)
				return wslx_err_sys(err, -r, "cannot read");
			r = write_sparse(p->out_fd, buf, n, (uint64_t)(from - start));
		}
		if (r < 0)
			return write_fail(r, err);
		from += (off_t)n;
		m->now.done = (uint64_t)(from - start);
		r = wslx_import_tick(m, false, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int wslx_import_image_file(const struct wslx_import_params *p, struct wslx_import_result *ret, struct wslx_err *err)
{
	struct wslx_import_meter m = { .task = &p->task, .now = { .what = "copying" } };
	off_t start = lseek(p->in_fd, 0, SEEK_CUR), at = start;
	cleanup_free uint8_t *buf = NULL;
	struct stat st;
	int r = 0;

	if (start < 0 || fstat(p->in_fd, &st) < 0)
		return wslx_err_sys(err, errno, "cannot read");
	m.now.total = (uint64_t)(st.st_size - start);
	if (start != 0 || ioctl(p->out_fd, FICLONE, p->in_fd) < 0) {
		buf = malloc(PIECE);
		if (!buf)
			return wslx_err_sys(err, ENOMEM, "cannot copy the image");
		if (ftruncate(p->out_fd, st.st_size - start) < 0)
			return wslx_err_sys(err, errno, "cannot make a disk image of %" PRIu64 " MiB",
					    m.now.total >> 20);
		while (at < st.st_size && r == 0) {
			off_t data = lseek(p->in_fd, at, SEEK_DATA), hole;

			if (data < 0 && errno == ENXIO)
				break;
			hole = data < 0 ? -1 : lseek(p->in_fd, data, SEEK_HOLE);
			if (hole < 0) {
				data = at;
				hole = st.st_size;
			}
			r = copy_stretch(p, data, hole, start, &m, buf, err);
			at = hole;
		}
	}
	if (r == 0)
		r = complete(p, m.now.total, ret, err);
	m.now.done = m.now.total;
	if (r == 0)
		r = wslx_import_tick(&m, true, err);
	return r;
}

int wslx_import_image_stream(const struct wslx_import_params *p, struct wslx_source *src, const void *first,
			     size_t first_len, struct wslx_import_result *ret, struct wslx_err *err)
{
	struct wslx_import_meter m = {
		.task = &p->task,
		.now = { .what = "copying", .total = wslx_source_total_bytes(src) },
	};
	const void *block = first;
	ssize_t n = (ssize_t)first_len;
	uint64_t off = 0;
	int r = 0;

	while (r == 0) {
		if (n > 0) {
			if (off + (uint64_t)n > WSLX_IMPORT_SIZE_MAX)
				return wslx_err_set(err, E2BIG, "an image of more than %" PRIu64 " TiB",
						    WSLX_IMPORT_SIZE_MAX >> 40);
			r = write_sparse(p->out_fd, block, (size_t)n, off);
			if (r < 0)
				return write_fail(r, err);
			off += (uint64_t)n;
		}
		m.now.done = wslx_source_read_bytes(src);
		r = wslx_import_tick(&m, false, err);
		if (r < 0)
			return r;
		n = wslx_source_next(src, &block);
		if (n == 0)
			break;
		if (n < 0 && n != -EAGAIN)
			return wslx_source_error(src, err);
	}
	if (ftruncate(p->out_fd, (off_t)off) < 0)
		return wslx_err_sys(err, errno, "cannot make a disk image of %" PRIu64 " MiB", off >> 20);
	r = complete(p, off, ret, err);
	if (r == 0)
		r = wslx_import_tick(&m, true, err);
	return r;
}
