/*
 * File contents.  Where a file's data lies is collected first, as runs of
 * blocks in order, because the archive names the holes ahead of the data; then
 * the runs are read straight from the disk.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "image/export_internal.h"
#include "os/linux/fd.h"

#define SIZE_MAX_FILE WSLX_IMPORT_SIZE_MAX
#define INLINE_MAX ((uint64_t)64 << 10)
#define HOLES_MAX ((size_t)64 << 10) /* more become zeros: readers keep the list in memory */

/* Where a file's data is. */
struct runs {
	struct export *e;
	const struct wslx_run *v;
	size_t n;
	uint64_t blocks; /* in all of them */
	uint64_t size;   /* of the file */
};

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

/* Zeros that are written count as content does, and beside it: the file's own
 * blocks are counted later, as they are read. */
static int use_zeros(const struct runs *l, uint64_t zeros)
{
	struct export *e = l->e;
	uint64_t left = wslx_sub_sat_u64(e->data_max, e->data);

	left = wslx_sub_sat_u64(left, l->blocks * e->fs->blocksize);
	if (zeros > left)
		return wslx_err_set(e->err, E2BIG, "%.200s has more than %zu holes", e->path, HOLES_MAX);
	e->data += zeros;
	return 0;
}

/* Names the stretches of data, unless they are the whole file. */
static int add_holes(const struct runs *l)
{
	uint64_t bs = l->e->fs->blocksize, at = 0, from = 0, zeros = 0;
	size_t holes = 0;
	int r;

	for (size_t i = 0; i < l->n; i++) {
		uint64_t start = l->v[i].lblk * bs;

		if (start > at && holes < HOLES_MAX) {
			if (at > from)
				archive_entry_sparse_add_entry(l->e->entry, (int64_t)from, (int64_t)(at - from));
			from = start;
			holes++;
		} else if (start > at) {
			zeros += start - at;
		}
		at = start + run_bytes(l, i);
	}
	r = use_zeros(l, zeros);
	if (r < 0)
		return r;
	if (!holes && at == l->size)
		return 0;
	if (at > from)
		archive_entry_sparse_add_entry(l->e->entry, (int64_t)from, (int64_t)(at - from));
	if (at < l->size)
		archive_entry_sparse_add_entry(l->e->entry, (int64_t)l->size, 0);
	return 0;
}

static int put_runs(const struct runs *l)
{
	struct export *e = l->e;
	uint64_t bs = e->fs->blocksize, at = 0;
	int r = add_holes(l);

	if (r == 0)
		r = wslx_export_header(e);
	for (size_t i = 0; r == 0 && i < l->n; i++) {
		r = put_zeros(e, l->v[i].lblk * bs - at);
		if (r == 0)
			r = put_run(e, l->v[i].pblk * bs, run_bytes(l, i));
		at = l->v[i].lblk * bs + run_bytes(l, i);
	}
	return r < 0 ? r : put_zeros(e, l->size - at);
}

/* ---- A file ---- */

static int put_inline(struct export *e, ext2_ino_t ino, struct ext2_inode_large *inode, uint64_t size)
{
	int r;

	if (size > INLINE_MAX)
		return wslx_export_damaged(e, "more in an inode than it holds");
	if (size > e->data_max - e->data)
		return wslx_export_damaged(e, "more data than the disk has room for");
	e->data += size;
	r = wslx_walk_read(&e->walk, ino, inode, e->buf, (size_t)size);
	if (r == 0)
		r = wslx_export_header(e);
	return r < 0 ? r : put_data(e, e->buf, (size_t)size);
}

int wslx_export_file(struct export *e, ext2_ino_t ino, struct ext2_inode_large *inode)
{
	struct runs l = { .e = e, .size = EXT2_I_SIZE(inode) };
	struct wslx_runs runs = { 0 };
	int r;

	if (l.size > SIZE_MAX_FILE)
		return wslx_export_damaged(e, "a file larger than can be");
	if (inode->i_flags & EXT4_ENCRYPT_FL)
		return wslx_err_set(e->err, EOPNOTSUPP, "%.200s is encrypted in the file system", e->path);
	archive_entry_set_size(e->entry, (int64_t)l.size);
	if (inode->i_flags & EXT4_INLINE_DATA_FL) {
		r = put_inline(e, ino, inode, l.size);
	} else {
		r = wslx_walk_runs(&e->walk, ino, inode, (e->data_max - e->data) / e->fs->blocksize, &runs);
		l.v = runs.v;
		l.n = runs.n;
		l.blocks = runs.blocks;
		if (r == 0)
			r = put_runs(&l);
		free(runs.v);
	}
	e->result.data_bytes = e->data;
	return r;
}
