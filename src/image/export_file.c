/*
 * File contents.  Where a file's data lies is collected first, as runs of
 * blocks in order, because the archive names the holes ahead of the data; then
 * the runs are read straight from the disk.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "image/export_internal.h"
#include "os/linux/fd.h"

#define SIZE_MAX_FILE WSLX_IMPORT_SIZE_MAX
#define INLINE_MAX ((uint64_t)64 << 10)
#define RUNS_MAX ((size_t)4 << 20)
#define HOLES_MAX ((size_t)64 << 10) /* more become zeros: readers keep the list in memory */
#define CANCEL_EVERY 65536u

struct run {
	uint64_t lblk, pblk, len;
};

struct runs {
	struct export *e;
	struct run *v;
	size_t n, cap;
	uint64_t size;   /* of the file */
	uint64_t blocks; /* in all runs */
	unsigned steps;
	int r;
};

/* ---- Where the data is ---- */

static int append(struct runs *l, const struct run *x)
{
	struct run *last = l->n ? &l->v[l->n - 1] : NULL;

	if (last && last->lblk + last->len == x->lblk && last->pblk + last->len == x->pblk) {
		last->len += x->len;
		return 0;
	}
	if (l->n == RUNS_MAX)
		return wslx_err_set(l->e->err, E2BIG, "%.200s is in more than %zu pieces", l->e->path, RUNS_MAX);
	if (l->n == l->cap) {
		struct run *more = reallocarray(l->v, l->cap * 2 + 64, sizeof(*more));

		if (!more)
			return wslx_err_sys(l->e->err, ENOMEM, "cannot export %.200s", l->e->path);
		l->v = more;
		l->cap = l->cap * 2 + 64;
	}
	l->v[l->n++] = *x;
	return 0;
}

/* Checks, clips to the file's size, and keeps. */
static int take(struct runs *l, uint64_t lblk, uint64_t pblk, uint64_t len)
{
	const struct export *e = l->e;
	uint64_t bs = e->fs->blocksize, end = (l->size + bs - 1) / bs;
	const struct run *last = l->n ? &l->v[l->n - 1] : NULL;
	uint64_t blocks = ext2fs_blocks_count(e->fs->super);

	if (++l->steps % CANCEL_EVERY == 0 && wslx_task_cancelled(&e->p->task))
		return wslx_err_set(e->err, ECANCELED, "interrupted");
	if (pblk < e->fs->super->s_first_data_block || pblk >= blocks || len > blocks - pblk)
		return wslx_export_damaged(l->e, "data outside the disk");
	if (last && lblk < last->lblk + last->len)
		return wslx_export_damaged(l->e, "data out of order");
	if (lblk >= end)
		return 0; /* allocated ahead */
	len = WSLX_MIN(len, end - lblk);
	l->blocks += len;
	if (l->blocks * bs > e->data_max - e->data)
		return wslx_export_damaged(l->e, "more data than the disk has room for");
	return append(l, &(struct run) { lblk, pblk, len });
}

static int take_extents(struct runs *l, ext2_ino_t ino, struct ext2_inode_large *inode)
{
	ext2_extent_handle_t h;
	struct ext2fs_extent x;
	errcode_t c = ext2fs_extent_open2(l->e->fs, ino, (struct ext2_inode *)inode, &h);
	int r = 0;

	if (c)
		return wslx_export_ext2_error(l->e, c);
	for (c = ext2fs_extent_get(h, EXT2_EXTENT_ROOT, &x); !c && r == 0;
	     c = ext2fs_extent_get(h, EXT2_EXTENT_NEXT, &x)) {
		if (!(x.e_flags & EXT2_EXTENT_FLAGS_LEAF) || x.e_flags & EXT2_EXTENT_FLAGS_SECOND_VISIT)
			continue;
		/* Reads as zeros, so it may as well be a hole. */
		if (!(x.e_flags & EXT2_EXTENT_FLAGS_UNINIT))
			r = take(l, x.e_lblk, x.e_pblk, x.e_len);
	}
	ext2fs_extent_free(h);
	if (r == 0 && c != EXT2_ET_EXTENT_NO_NEXT && c != EXT2_ET_NO_CURRENT_NODE)
		return wslx_export_ext2_error(l->e, c);
	return r;
}

static int on_block(ext2_filsys fs, blk64_t *blk, e2_blkcnt_t count, blk64_t ref, int ref_offset, void *opaque)
{
	struct runs *l = opaque;

	if (count < 0 || !*blk)
		return 0;
	l->r = take(l, (uint64_t)count, *blk, 1);
	return l->r < 0 ? BLOCK_ABORT : 0;
}

/* ext2's and ext3's way. */
static int take_blocks(struct runs *l, ext2_ino_t ino)
{
	errcode_t c = ext2fs_block_iterate3(l->e->fs, ino, BLOCK_FLAG_READ_ONLY, NULL, on_block, l);

	return l->r < 0 ? l->r : c ? wslx_export_ext2_error(l->e, c) : 0;
}

/* ---- Writing ---- */

static int put_data(struct export *e, const uint8_t *p, size_t n)
{
	while (n) {
		la_ssize_t w = archive_write_data(e->a, p, n);

		if (w <= 0 || e->write_error)
			return wslx_export_archive_error(e);
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

/* Holes come as zeros, which libarchive leaves out without a look at them. */
static int put_zeros(struct export *e, uint64_t n)
{
	int r = 0;

	while (r == 0 && n) {
		size_t part = (size_t)WSLX_MIN(n, (uint64_t)EXPORT_ZEROS);

		r = put_data(e, e->zeros, part);
		n -= part;
		if (r == 0)
			r = wslx_import_tick(&e->meter, false, e->err);
	}
	return r;
}

static int put_run(struct export *e, uint64_t off, uint64_t n)
{
	int r = 0;

	while (r == 0 && n) {
		size_t part = (size_t)WSLX_MIN(n, (uint64_t)EXPORT_BUF);

		r = wslx_pread_full(e->p->disk_fd, e->buf, part, (off_t)off);
		if (r < 0)
			return wslx_err_sys(e->err, -r, "cannot read the disk");
		r = put_data(e, e->buf, part);
		off += part;
		n -= part;
		e->data += part;
		e->meter.now.done = e->data;
		if (r == 0)
			r = wslx_import_tick(&e->meter, false, e->err);
	}
	return r;
}

/* Bytes of run i, without what is behind the file's end. */
static uint64_t run_bytes(const struct runs *l, size_t i)
{
	uint64_t bs = l->e->fs->blocksize, from = l->v[i].lblk * bs;

	return WSLX_MIN(l->v[i].len * bs, l->size - from);
}

/* Names the stretches of data, unless they are the whole file. */
static int add_holes(const struct runs *l)
{
	uint64_t bs = l->e->fs->blocksize, at = 0, from = 0;
	size_t holes = 0;

	for (size_t i = 0; i < l->n; i++) {
		uint64_t start = l->v[i].lblk * bs;

		if (start > at && holes < HOLES_MAX) {
			if (at > from)
				archive_entry_sparse_add_entry(l->e->entry, (int64_t)from, (int64_t)(at - from));
			from = start;
			holes++;
		} else if (start > at) {
			l->e->data += start - at; /* zeros that are written */
		}
		at = start + run_bytes(l, i);
	}
	if (l->e->data > l->e->data_max)
		return wslx_err_set(l->e->err, E2BIG, "%.200s has more than %zu holes", l->e->path, HOLES_MAX);
	if (!holes && at == l->size)
		return 0;
	if (at > from)
		archive_entry_sparse_add_entry(l->e->entry, (int64_t)from, (int64_t)(at - from));
	if (at < l->size)
		archive_entry_sparse_add_entry(l->e->entry, (int64_t)l->size, 0);
	return 0;
}

static int put_header(struct export *e)
{
	return wslx_export_archive_check(e, archive_write_header(e->a, e->entry));
}

static int put_runs(const struct runs *l)
{
	struct export *e = l->e;
	uint64_t bs = e->fs->blocksize, at = 0;
	int r = add_holes(l);

	if (r == 0)
		r = put_header(e);
	for (size_t i = 0; r == 0 && i < l->n; i++) {
		r = put_zeros(e, l->v[i].lblk * bs - at);
		if (r == 0)
			r = put_run(e, l->v[i].pblk * bs, run_bytes(l, i));
		at = l->v[i].lblk * bs + run_bytes(l, i);
	}
	return r < 0 ? r : put_zeros(e, l->size - at);
}

/* ---- Small content, wherever it is ---- */

static int read_small(struct export *e, ext2_ino_t ino, struct ext2_inode_large *inode, void *buf, size_t size)
{
	ext2_file_t f;
	errcode_t c = ext2fs_file_open2(e->fs, ino, (struct ext2_inode *)inode, 0, &f);
	unsigned got = 0;

	if (c)
		return wslx_export_ext2_error(e, c);
	c = ext2fs_file_read(f, buf, (unsigned)size, &got);
	ext2fs_file_close(f);
	if (c)
		return wslx_export_ext2_error(e, c);
	return got == size ? 0 : wslx_export_damaged(e, "shorter than it says");
}

static int put_inline(struct export *e, ext2_ino_t ino, struct ext2_inode_large *inode, uint64_t size)
{
	int r;

	if (size > INLINE_MAX)
		return wslx_export_damaged(e, "more in an inode than it holds");
	r = read_small(e, ino, inode, e->buf, (size_t)size);
	if (r == 0)
		r = put_header(e);
	return r < 0 ? r : put_data(e, e->buf, (size_t)size);
}

int wslx_export_target(struct export *e, ext2_ino_t ino, struct ext2_inode_large *inode, char *ret)
{
	uint64_t size = EXT2_I_SIZE(inode);
	int r = 0;

	if (!size || size > EXPORT_PATH_MAX)
		return wslx_export_damaged(e, "a symbolic link without a target");
	if (ext2fs_is_fast_symlink((struct ext2_inode *)inode))
		memcpy(ret, inode->i_block, (size_t)WSLX_MIN(size, (uint64_t)sizeof(inode->i_block)));
	else
		r = read_small(e, ino, inode, ret, (size_t)size);
	ret[size] = '\0';
	return r == 0 && strlen(ret) != size ? wslx_export_damaged(e, "a symbolic link without a target") : r;
}

int wslx_export_file(struct export *e, ext2_ino_t ino, struct ext2_inode_large *inode)
{
	struct runs l = { .e = e, .size = EXT2_I_SIZE(inode) };
	int r;

	if (l.size > SIZE_MAX_FILE)
		return wslx_export_damaged(e, "a file larger than can be");
	if (inode->i_flags & EXT4_ENCRYPT_FL)
		return wslx_err_set(e->err, EOPNOTSUPP, "%.200s is encrypted in the file system", e->path);
	archive_entry_set_size(e->entry, (int64_t)l.size);
	if (inode->i_flags & EXT4_INLINE_DATA_FL)
		return put_inline(e, ino, inode, l.size);
	r = inode->i_flags & EXT4_EXTENTS_FL ? take_extents(&l, ino, inode) : take_blocks(&l, ino);
	if (r == 0)
		r = put_runs(&l);
	e->result.data_bytes = e->data;
	free(l.v);
	return r;
}
