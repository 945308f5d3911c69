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

#include "base/arith.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "image/import_internal.h"
#include "image/proc.h"
#include "image/walk.h"
#include "os/linux/fd.h"

#define SB_AT 1024u
#define PIECE (16 * WSLX_MIB)
#define BLOCK 4096u
/* Group descriptors: eight times what 16 TiB of 4 KiB blocks need. */
#define DESCRIPTORS_MAX (64 * WSLX_MIB)
/* Of one block while paths are looked up: links lead through a folder again. */
#define VISITS_MAX 16
/* Bytes of folders that are read for it, and of the nodes that say where those
 * are: a million blocks of the usual size.  Root file systems need some dozen. */
#define LOOKUP_MAX (4 * WSLX_GIB)

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

/* The size of the file system, by its superblock: before libext2fs allocates
 * by the numbers in there, and before anything is copied. */
static int image_size(const uint8_t *sb, uint64_t *ret, struct wslx_err *err)
{
	bool is_64bit = wslx_get_le32(sb + 96) & EXT4_FEATURE_INCOMPAT_64BIT;
	uint64_t blocks = wslx_get_le32(sb + 4), per_group = wslx_get_le32(sb + 32);
	uint64_t desc_size = is_64bit ? WSLX_MAX(wslx_get_le16(sb + 254), 32) : 32, table;
	uint32_t log_block = wslx_get_le32(sb + 24);

	if (is_64bit)
		blocks |= (uint64_t)wslx_get_le32(sb + 336) << 32;
	if (log_block > 6 || per_group < 8 || !blocks)
		return wslx_err_set(err, EBADMSG, "the ext4 image is damaged or of an unknown kind");
	if (!wslx_mul_u64(blocks, (uint64_t)1024 << log_block, ret) || *ret > WSLX_IMPORT_SIZE_MAX)
		return wslx_err_set(err, E2BIG, "an image of more than %" PRIu64 " TiB", WSLX_IMPORT_SIZE_MAX >> 40);
	/* One descriptor a group, all of them in memory. */
	if (!wslx_mul_u64(blocks / per_group + 1, desc_size, &table) || table > DESCRIPTORS_MAX)
		return wslx_err_set(err, EBADMSG,
				    "the ext4 image is damaged or of an unknown kind: %" PRIu64
				    " blocks in groups of %" PRIu64,
				    blocks, per_group);
	return 0;
}

static int check_size(uint64_t fs_size, uint64_t file_size, struct wslx_err *err)
{
	if (fs_size <= file_size)
		return 0;
	return wslx_err_set(err, EBADMSG, "truncated ext4 image: %" PRIu64 " of %" PRIu64 " bytes are there", file_size,
			    fs_size);
}

int wslx_import_image_size(int fd, off_t start, uint64_t file_size, uint64_t *ret, struct wslx_err *err)
{
	uint8_t sb[1024];
	int r = wslx_pread_full(fd, sb, sizeof(sb), start + SB_AT);

	if (r < 0)
		return wslx_err_sys(err, -r, "cannot read");
	r = image_size(sb, ret, err);
	return r < 0 ? r : check_size(*ret, file_size, err);
}

/* Does it look like a root file system? */
static int check_content(ext2_filsys fs, const struct wslx_task *task, struct wslx_err *err)
{
	const struct wslx_walk_limits limits = {
		.times = VISITS_MAX,
		.pieces = LOOKUP_MAX / fs->blocksize,
		.blocks = LOOKUP_MAX / fs->blocksize,
	};
	struct wslx_walk w = { .task = task, .subject = "the ext4 image", .err = err };
	int r;

	wslx_walk_init(&w, fs, &limits);
	r = wslx_walk_exists(&w, "/etc");
	if (r == 0)
		r = wslx_walk_exists(&w, "/bin/sh");
	if (r == 0)
		return wslx_err_set(err, EINVAL, "not a root file system: the image has neither /etc nor /bin/sh");
	return r < 0 ? r : 0;
}

/* Opened as the kernel would find it; must hold something that can be started. */
static int check_image(const struct wslx_import_params *p, uint64_t file_size, struct wslx_err *err)
{
	ext2_filsys fs = NULL;
	uint64_t size;
	char path[64];
	/* Of what was copied, whatever the source was before. */
	int r = wslx_import_image_size(p->out_fd, 0, file_size, &size, err);

	if (r < 0)
		return r;
	initialize_ext2_error_table();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", p->out_fd);
	errcode_t c = ext2fs_open(path, EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &fs);

	if (c)
		return wslx_err_set(err, EBADMSG, "the ext4 image is damaged or of an unknown kind: %s",
				    error_message(c));
	if (fs->super->s_state & EXT2_ERROR_FS)
		r = wslx_err_set(err, EBADMSG, "the ext4 image has errors: repair it with `e2fsck -f` first");
	else
		r = check_content(fs, &p->task, err);
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

	int r = wslx_proc_run(&run, &p->task, NULL, err);

	return r == -ENOSPC ? wslx_import_full(p, err) : r;
}

/* The file system, of this size, is in out_fd. */
static int complete(const struct wslx_import_params *p, uint64_t size, struct wslx_import_result *ret,
		    struct wslx_err *err)
{
	int r = check_image(p, size, err);

	ret->kind = WSLX_IMPORT_EXT4;
	ret->disk_size = size;
	ret->data_bytes = size;
	if (r < 0 || p->size <= size)
		return r;
	if (ftruncate(p->out_fd, (off_t)p->size) < 0)
		return wslx_err_sys(err, errno, "cannot grow the disk image");
	ret->disk_size = p->size;
	return grow(p, err);
}

/* One copy on its way. */
struct copy {
	const struct wslx_import_params *p;
	off_t start;         /* of the image in a file */
	uint64_t size;       /* of the file system: what follows it is left out */
	uint64_t room, used; /* bytes that are no holes */
	struct wslx_import_meter m;
	uint8_t *buf; /* a piece; for a file only */
	struct wslx_err *err;
};

static int copy_begin(struct copy *c)
{
	c->m.task = &c->p->task;
	c->m.now.what = "copying";
	return wslx_import_room(c->p, &c->room, c->err);
}

static int use_room(struct copy *c, uint64_t n)
{
	c->used += n;
	if (c->used <= c->room)
		return 0;
	return wslx_err_set(c->err, ENOSPC,
			    "the image needs more than the %" PRIu64
			    " MiB that are left to use on the host's disk" WSLX_PLACE_FMT,
			    c->room >> 20, WSLX_PLACE(c->p->place));
}

static int write_fail(struct copy *c, int r)
{
	if (r == -ENOSPC || r == -EDQUOT)
		return wslx_import_full(c->p, c->err);
	return wslx_err_sys(c->err, -r, "cannot write the disk image");
}

static bool is_zero(const uint8_t *p, size_t n)
{
	return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

/* Writes what is not zero; off and the pieces are block-aligned, but for the end. */
static int write_sparse(struct copy *c, const uint8_t *p, size_t n, uint64_t off)
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
		int r = use_room(c, data);

		if (r < 0)
			return r;
		r = data ? wslx_pwrite_full(c->p->out_fd, p, data, (off_t)off) : 0;
		if (r < 0)
			return write_fail(c, r);
		p += data;
		off += data;
		n -= data;
	}
	return 0;
}

/* The next up to n bytes by the kernel alone.  -EOPNOTSUPP: two file systems
 * that do not do this. */
static int copy_in_kernel(struct copy *c, off_t from, size_t *n)
{
	loff_t in = from, out = from - c->start;
	ssize_t got = copy_file_range(c->p->in_fd, &in, c->p->out_fd, &out, *n, 0);

	if (got < 0 && (errno == ENOSPC || errno == EDQUOT))
		return write_fail(c, -errno);
	if (got <= 0)
		return -EOPNOTSUPP;
	*n = (size_t)got;
	return use_room(c, *n);
}

/* One stretch of data between holes. */
static int copy_stretch(struct copy *c, off_t from, off_t to)
{
	bool in_kernel = true;

	while (from < to) {
		size_t n = (uint64_t)(to - from) < PIECE ? (size_t)(to - from) : (size_t)PIECE;
		int r;

		if (in_kernel) {
			r = copy_in_kernel(c, from, &n);
			if (r == -EOPNOTSUPP) {
				in_kernel = false;
				continue;
			}
		} else {
			r = wslx_pread_full(c->p->in_fd, c->buf, n, from);
			if (r < 0)
				return wslx_err_sys(c->err, -r, "cannot read");
			r = write_sparse(c, c->buf, n, (uint64_t)(from - c->start));
		}
		if (r < 0)
			return r;
		from += (off_t)n;
		c->m.now.done = (uint64_t)(from - c->start);
		r = wslx_import_tick(&c->m, false, c->err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int copy_file(struct copy *c)
{
	off_t at = c->start, end = c->start + (off_t)c->size;
	cleanup_free uint8_t *buf = malloc(PIECE);
	int r = 0;

	if (!buf)
		return wslx_err_sys(c->err, ENOMEM, "cannot copy the image");
	c->buf = buf;
	while (at < end && r == 0) {
		off_t data = lseek(c->p->in_fd, at, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			break;
		hole = data < 0 ? -1 : lseek(c->p->in_fd, data, SEEK_HOLE);
		if (hole < 0) {
			data = at;
			hole = end;
		}
		hole = WSLX_MIN(hole, end);
		r = copy_stretch(c, data, hole);
		at = hole;
	}
	return r;
}

int wslx_import_image_file(const struct wslx_import_params *p, struct wslx_import_result *ret, struct wslx_err *err)
{
	struct copy c = { .p = p, .start = lseek(p->in_fd, 0, SEEK_CUR), .err = err };
	struct stat st;
	int r;

	if (c.start < 0 || fstat(p->in_fd, &st) < 0)
		return wslx_err_sys(err, errno, "cannot read");
	r = wslx_import_image_size(p->in_fd, c.start, (uint64_t)(st.st_size - c.start), &c.size, err);
	if (r == 0)
		r = copy_begin(&c);
	if (r < 0)
		return r;
	c.m.now.total = c.size;
	bool cloned = c.start == 0 && ioctl(p->out_fd, FICLONE, p->in_fd) == 0;

	if (ftruncate(p->out_fd, (off_t)c.size) < 0)
		return wslx_err_sys(err, errno, "cannot make a disk image of %" PRIu64 " MiB", c.size >> 20);
	if (!cloned)
		r = copy_file(&c);
	if (r == 0)
		r = complete(p, c.size, ret, err);
	c.m.now.done = c.m.now.total;
	if (r == 0)
		r = wslx_import_tick(&c.m, true, err);
	return r;
}

/* A stream may go on behind the file system, and a hostile one forever. */
static int copy_stream(struct copy *c, struct wslx_source *src, const void *block, ssize_t n, uint64_t *ret_off)
{
	uint64_t off = 0, behind = 0;
	int r;

	for (;;) {
		if (n > 0) {
			size_t take = (uint64_t)n < c->size - off ? (size_t)n : (size_t)(c->size - off);

			r = write_sparse(c, block, take, off);
			if (r < 0)
				return r;
			off += take;
			behind += (uint64_t)n - take;
		}
		*ret_off = off;
		c->m.now.done = wslx_source_read_bytes(src);
		r = wslx_import_tick(&c->m, false, c->err);
		if (r < 0 || behind >= WSLX_IMPORT_DRAIN_MAX)
			return r;
		n = wslx_source_next(src, &block);
		if (n == 0)
			return 0;
		if (n < 0 && n != -EAGAIN)
			return wslx_source_error(src, c->err);
	}
}

int wslx_import_image_stream(const struct wslx_import_params *p, struct wslx_source *src, const void *first,
			     size_t first_len, struct wslx_import_result *ret, struct wslx_err *err)
{
	struct copy c = { .p = p, .err = err };
	uint64_t off = 0;
	int r = image_size((const uint8_t *)first + SB_AT, &c.size, err);

	if (r == 0)
		r = copy_begin(&c);
	if (r < 0)
		return r;
	c.m.now.total = wslx_source_total_bytes(src);
	r = copy_stream(&c, src, first, (ssize_t)first_len, &off);
	if (r == 0)
		r = check_size(c.size, off, err);
	if (r < 0)
		return r;
	if (ftruncate(p->out_fd, (off_t)off) < 0)
		return wslx_err_sys(err, errno, "cannot make a disk image of %" PRIu64 " MiB", off >> 20);
	r = complete(p, off, ret, err);
	if (r == 0)
		r = wslx_import_tick(&c.m, true, err);
	return r;
}
