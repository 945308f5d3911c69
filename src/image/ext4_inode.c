/*
 * Inodes, extent trees, and what the group descriptors say about them (Linux
 * Documentation/filesystems/ext4/inodes.rst, ifork.rst, group_descr.rst).
 *
 * Inodes are numbered from the first free one on, so the tables are written
 * group by group in one piece each.
 */
#include "image/ext4_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "os/linux/fd.h"

#define EXTENT_MAGIC 0xf30a
#define EXTENTS_IN_INODE 4u
#define EXTENTS_IN_BLOCK 340u
#define FAST_LINK_MAX 60u
#define DIR_LINK_MAX 65000u

#define FL_INDEX 0x1000u
#define FL_EXTENTS 0x80000u

/* A node of the extent tree that its parent has to name. */
struct branch {
	uint32_t lblk;
	uint64_t pblk;
};

static void put_header(uint8_t *p, uint32_t n, uint32_t max, uint32_t depth)
{
	wslx_put_le16(p, EXTENT_MAGIC);
	wslx_put_le16(p + 2, (uint16_t)n);
	wslx_put_le16(p + 4, (uint16_t)max);
	wslx_put_le16(p + 6, (uint16_t)depth);
	wslx_put_le32(p + 8, 0);
}

static void put_extents(uint8_t *p, const struct ext4w_extent *x, uint32_t n, uint32_t max)
{
	put_header(p, n, max, 0);
	for (uint32_t i = 0; i < n; i++) {
		p += 12;
		wslx_put_le32(p, x[i].lblk);
		wslx_put_le16(p + 4, (uint16_t)x[i].len);
		wslx_put_le16(p + 6, (uint16_t)(x[i].pblk >> 32));
		wslx_put_le32(p + 8, (uint32_t)x[i].pblk);
	}
}

static void put_branches(uint8_t *p, const struct branch *b, uint32_t n, uint32_t max, uint32_t depth)
{
	put_header(p, n, max, depth);
	for (uint32_t i = 0; i < n; i++) {
		p += 12;
		wslx_put_le32(p, b[i].lblk);
		wslx_put_le32(p + 4, (uint32_t)b[i].pblk);
		wslx_put_le16(p + 8, (uint16_t)(b[i].pblk >> 32));
		wslx_put_le16(p + 10, 0);
	}
}

/* A zeroed block of the extent tree, staged; end_block() completes it. */
static int begin_block(struct wslx_ext4 *e, uint8_t **ret, uint64_t *ret_blk)
{
	uint32_t one;
	int r = ext4w_take(e, 1, ret_blk, &one);

	if (r == 0)
		r = ext4w_stage(e, *ret_blk, 1, ret, &one);
	if (r == 0)
		memset(*ret, 0, EXT4W_BLOCK);
	return r;
}

static void end_block(struct wslx_ext4 *e, uint32_t ino, uint8_t *p)
{
	wslx_put_le32(p + EXT4W_BLOCK - 4, ext4w_csum(e, ino, p, EXT4W_BLOCK - 4));
}

/* Fills i_block; *ret_blocks: blocks of the tree outside the inode. */
static int put_extent_tree(struct wslx_ext4 *e, const struct wslx_ext4_node *n, uint8_t *i_block, uint32_t *ret_blocks)
{
	uint32_t count = n->n_extents, depth = 1;
	struct branch *b;
	uint8_t *p;
	int r = 0;

	*ret_blocks = 0;
	if (count <= EXTENTS_IN_INODE) {
		put_extents(i_block, n->extents, count, EXTENTS_IN_INODE);
		return 0;
	}
	uint32_t n_b = (count + EXTENTS_IN_BLOCK - 1) / EXTENTS_IN_BLOCK;

	b = calloc(n_b, sizeof(*b));
	if (!b)
		return -ENOMEM;
	for (uint32_t i = 0; i < n_b && r == 0; i++) {
		const struct ext4w_extent *x = n->extents + (size_t)i * EXTENTS_IN_BLOCK;
		uint32_t part = count - i * EXTENTS_IN_BLOCK;

		r = begin_block(e, &p, &b[i].pblk);
		if (r < 0)
			break;
		b[i].lblk = x->lblk;
		put_extents(p, x, part < EXTENTS_IN_BLOCK ? part : EXTENTS_IN_BLOCK, EXTENTS_IN_BLOCK);
		end_block(e, n->ino, p);
		++*ret_blocks;
	}
	/* Each round folds the branches into the front of the same array. */
	for (; n_b > EXTENTS_IN_INODE && r == 0; depth++) {
		uint32_t up = (n_b + EXTENTS_IN_BLOCK - 1) / EXTENTS_IN_BLOCK;

		for (uint32_t i = 0; i < up && r == 0; i++) {
			const struct branch *from = b + (size_t)i * EXTENTS_IN_BLOCK;
			uint32_t part = n_b - i * EXTENTS_IN_BLOCK;
			struct branch here = { .lblk = from->lblk };

			r = begin_block(e, &p, &here.pblk);
			if (r < 0)
				break;
			put_branches(p, from, part < EXTENTS_IN_BLOCK ? part : EXTENTS_IN_BLOCK, EXTENTS_IN_BLOCK,
				     depth);
			end_block(e, n->ino, p);
			b[i] = here;
			++*ret_blocks;
		}
		n_b = up;
	}
	if (r == 0)
		put_branches(i_block, b, n_b, EXTENTS_IN_INODE, depth);
	free(b);
	return r;
}

/* 34 bits of seconds: the low 32 in the old field, the others below the
 * nanoseconds in the extra one. */
static void put_time(uint8_t *p, size_t at, size_t extra_at, struct timespec t)
{
	const int64_t min = INT32_MIN, max = ((int64_t)1 << 34) + INT32_MIN - 1;
	int64_t sec = t.tv_sec < min ? min : t.tv_sec > max ? max : t.tv_sec;
	uint32_t nsec = t.tv_nsec >= 0 && t.tv_nsec < 1000000000 ? (uint32_t)t.tv_nsec : 0;
	uint32_t epoch = (uint32_t)((sec - (int32_t)sec) >> 32) & 3;

	wslx_put_le32(p + at, (uint32_t)sec);
	wslx_put_le32(p + extra_at, nsec << 2 | epoch);
}

static void put_device(uint8_t *i_block, uint32_t major, uint32_t minor)
{
	if (major < 256 && minor < 256)
		wslx_put_le32(i_block, major << 8 | minor);
	else
		wslx_put_le32(i_block + 4, (minor & 0xff) | (major & 0xfff) << 8 | (minor & ~0xffu) << 12);
}

static int put_inode(struct wslx_ext4 *e, struct wslx_ext4_node *n, uint8_t p[EXT4W_INODE])
{
	const struct wslx_ext4_attr *a = &n->attr;
	uint32_t tree = 0, flags = 0, links = n->nlink;
	int r = 0;

	memset(p, 0, EXT4W_INODE);
	switch (a->mode & S_IFMT) {
	case S_IFDIR:
		links = n->dir->subdirs + 2;
		if (links >= DIR_LINK_MAX)
			links = 1; /* dir_nlink: "many" */
		if (n->blocks > 1 && n->dir->count)
			flags |= FL_INDEX;
		__attribute__((fallthrough));
	case S_IFREG:
		flags |= FL_EXTENTS;
		r = put_extent_tree(e, n, p + 40, &tree);
		break;
	case S_IFLNK:
		if (n->size < FAST_LINK_MAX) {
			memcpy(p + 40, n->target, n->size);
		} else {
			flags |= FL_EXTENTS;
			r = put_extent_tree(e, n, p + 40, &tree);
		}
		break;
	case S_IFCHR:
	case S_IFBLK:
		put_device(p + 40, a->rdev_major, a->rdev_minor);
		break;
	default:
		break;
	}
	wslx_put_le16(p + 128, EXT4W_EXTRA_ISIZE);
	if (r == 0 && n->xattrs)
		r = ext4w_xattrs_write(e, n, p);
	if (r < 0)
		return r;

	uint64_t sectors = ((uint64_t)n->blocks + tree + (n->ea_block ? 1 : 0)) * (EXT4W_BLOCK / 512);

	wslx_put_le16(p, (uint16_t)a->mode);
	wslx_put_le16(p + 2, (uint16_t)a->uid);
	wslx_put_le32(p + 4, (uint32_t)n->size);
	put_time(p, 8, 140, a->atime);
	put_time(p, 12, 132, a->ctime);
	put_time(p, 16, 136, a->mtime);
	put_time(p, 144, 148, a->ctime); /* made when it got here */
	wslx_put_le16(p + 24, (uint16_t)a->gid);
	wslx_put_le16(p + 26, (uint16_t)links);
	wslx_put_le32(p + 28, (uint32_t)sectors);
	wslx_put_le32(p + 32, flags);
	wslx_put_le32(p + 104, (uint32_t)n->ea_block);
	wslx_put_le32(p + 108, (uint32_t)(n->size >> 32));
	wslx_put_le16(p + 116, (uint16_t)(sectors >> 32));
	wslx_put_le16(p + 118, (uint16_t)(n->ea_block >> 32));
	wslx_put_le16(p + 120, (uint16_t)(a->uid >> 16));
	wslx_put_le16(p + 122, (uint16_t)(a->gid >> 16));

	uint32_t crc = ext4w_csum(e, n->ino, p, EXT4W_INODE);

	wslx_put_le16(p + 124, (uint16_t)crc);
	wslx_put_le16(p + 130, (uint16_t)(crc >> 16));
	return 0;
}

static struct wslx_ext4_node *node_of(struct wslx_ext4 *e, uint32_t ino)
{
	if (ino == EXT4W_ROOT_INO)
		return e->root;
	if (ino < EXT4W_FIRST_INO || ino - EXT4W_FIRST_INO >= e->n_inodes)
		return NULL; /* the journal and other reserved ones: as mke2fs made them */
	return e->inodes[ino - EXT4W_FIRST_INO];
}

/* Group g's part of the table, as far as it is used. */
static int write_table(struct wslx_ext4 *e, dgrp_t g, uint32_t used, uint8_t *buf, uint32_t *ret_dirs)
{
	uint32_t per_group = e->fs->super->s_inodes_per_group;
	off_t at = (off_t)(ext2fs_inode_table_loc(e->fs, g) * EXT4W_BLOCK);
	size_t len = (size_t)used * EXT4W_INODE;
	int r = 0;

	/* Whole blocks: what lies behind the last used inode is zero. */
	len = (len + EXT4W_BLOCK - 1) & ~(size_t)(EXT4W_BLOCK - 1);
	memset(buf, 0, len);
	if (g == 0)
		r = wslx_pread_full(e->fd, buf, EXT4W_BLOCK, at);
	for (uint32_t i = 0; i < used && r == 0; i++) {
		struct wslx_ext4_node *n = node_of(e, g * per_group + i + 1);

		if (!n)
			continue;
		if (n->dir)
			++*ret_dirs;
		r = put_inode(e, n, buf + (size_t)i * EXT4W_INODE);
	}
	if (r == 0)
		r = wslx_pwrite_full(e->fd, buf, len, at);
	return r;
}

/* mke2fs's lost+found may be gone: inode 11's place in the first block must
 * not keep it. */
static int write_tables(struct wslx_ext4 *e)
{
	uint32_t per_group = e->fs->super->s_inodes_per_group;
	uint32_t last = EXT4W_FIRST_INO + e->n_inodes - 1;
	uint8_t *buf = malloc((size_t)per_group * EXT4W_INODE + EXT4W_BLOCK);
	int r = buf ? 0 : -ENOMEM;

	for (dgrp_t g = 0; g < e->fs->group_desc_count && r == 0; g++) {
		uint32_t first = g * per_group + 1;
		uint32_t used = last < first ? 0 : last - first + 1, dirs = 0;

		/* Holes of a new file are zero: the guest need not zero them again. */
		ext2fs_bg_flags_set(e->fs, g, EXT2_BG_INODE_ZEROED);
		if (used > per_group)
			used = per_group;
		if (used) {
			r = write_table(e, g, used, buf, &dirs);
			ext2fs_bg_flags_clear(e->fs, g, EXT2_BG_INODE_UNINIT);
		}
		ext2fs_bg_used_dirs_count_set(e->fs, g, dirs);
		ext2fs_bg_free_inodes_count_set(e->fs, g, per_group - used);
		ext2fs_bg_itable_unused_set(e->fs, g, per_group - used);
	}
	free(buf);
	return r;
}

int ext4w_inodes_write(struct wslx_ext4 *e, struct wslx_err *err)
{
	struct ext2_super_block *sb = e->fs->super;
	uint8_t block[EXT4W_BLOCK];
	uint32_t last = EXT4W_FIRST_INO + e->n_inodes - 1;
	int r = 0;

	for (uint32_t i = 0; i < e->n_inodes && r == 0; i++) {
		struct wslx_ext4_node *n = e->inodes[i];

		if (!ext4w_is_link(n) || n->size < FAST_LINK_MAX)
			continue;
		memset(block, 0, sizeof(block));
		memcpy(block, n->target, n->size);
		r = ext4w_append_block(e, n, block);
	}
	if (r == 0)
		r = write_tables(e);
	if (r == 0)
		r = ext4w_xattrs_flush(e);
	if (r == 0)
		r = ext4w_writer_drain(&e->out);
	if (r < 0)
		return ext4w_fail(e, r, err);

	ext4w_commit_run(e);
	for (uint32_t ino = EXT4W_FIRST_INO; ino <= last; ino++)
		ext2fs_mark_inode_bitmap2(e->fs->inode_map, ino);
	if (last < EXT4W_FIRST_INO)
		ext2fs_unmark_inode_bitmap2(e->fs->inode_map, EXT4W_FIRST_INO);
	sb->s_free_inodes_count = sb->s_inodes_count - last;
	for (dgrp_t g = 0; g < e->fs->group_desc_count; g++)
		ext2fs_group_desc_csum_set(e->fs, g);
	ext2fs_mark_ib_dirty(e->fs);
	ext2fs_mark_super_dirty(e->fs);
	return 0;
}
