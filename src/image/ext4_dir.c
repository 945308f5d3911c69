/*
 * Directory blocks (Linux Documentation/filesystems/ext4/directory.rst).
 *
 * A folder whose entries fit one block is linear.  A larger one gets its hash
 * index at once: entries sorted by half-MD4, leaves filled one after the
 * other, a root block that lists the leaves, and between them, from 508 leaves
 * on, one level of index nodes.
 */
#include "image/ext4_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

#define LEAF_SPACE (EXT4W_BLOCK - EXT4W_CSUM_TAIL)
/* Leaves keep some room, so that the first new names need no split. */
#define LEAF_FILL (LEAF_SPACE - LEAF_SPACE / 8)
#define DX_ROOT_AT 32u /* count and limit; behind `.`, `..` and dx_root_info */
#define DX_NODE_AT 8u
#define DX_TAIL 8u
#define DX_ROOT_LIMIT ((EXT4W_BLOCK - DX_ROOT_AT - DX_TAIL) / 8)
#define DX_NODE_LIMIT ((EXT4W_BLOCK - DX_NODE_AT - DX_TAIL) / 8)
#define FT_DIR_CSUM 0xde

uint32_t ext4w_csum(struct wslx_ext4 *e, uint32_t ino, const void *p, size_t n)
{
	uint8_t b[4];
	uint32_t crc = e->fs->csum_seed;

	wslx_put_le32(b, ino);
	crc = ext2fs_crc32c_le(crc, b, 4);
	wslx_put_le32(b, 0); /* i_generation */
	crc = ext2fs_crc32c_le(crc, b, 4);
	return ext2fs_crc32c_le(crc, p, n);
}

static uint8_t file_type(uint32_t mode)
{
	switch (mode & LINUX_S_IFMT) {
	case LINUX_S_IFREG:
		return EXT2_FT_REG_FILE;
	case LINUX_S_IFDIR:
		return EXT2_FT_DIR;
	case LINUX_S_IFCHR:
		return EXT2_FT_CHRDEV;
	case LINUX_S_IFBLK:
		return EXT2_FT_BLKDEV;
	case LINUX_S_IFIFO:
		return EXT2_FT_FIFO;
	case LINUX_S_IFSOCK:
		return EXT2_FT_SOCK;
	case LINUX_S_IFLNK:
		return EXT2_FT_SYMLINK;
	default:
		return EXT2_FT_UNKNOWN;
	}
}

static uint32_t rec_len(uint32_t name_len)
{
	return (8 + name_len + 3) & ~3u;
}

static void put_entry(uint8_t *p, uint32_t ino, uint32_t len, const char *name, uint8_t name_len, uint8_t type)
{
	wslx_put_le32(p, ino);
	wslx_put_le16(p + 4, (uint16_t)len);
	p[6] = name_len;
	p[7] = type;
	memcpy(p + 8, name, name_len);
}

/* A leaf being filled. */
struct leaf {
	uint8_t block[EXT4W_BLOCK];
	uint32_t at;   /* end of the last entry */
	uint32_t last; /* its start */
};

static void leaf_start(struct leaf *l)
{
	memset(l->block, 0, sizeof(l->block));
	l->at = l->last = 0;
}

static void leaf_put(struct leaf *l, uint32_t ino, const char *name, uint8_t name_len, uint8_t type)
{
	l->last = l->at;
	put_entry(l->block + l->at, ino, rec_len(name_len), name, name_len, type);
	l->at += rec_len(name_len);
}

/* The last entry takes what is left; an empty leaf is one unused entry. */
static int leaf_write(struct wslx_ext4 *e, struct wslx_ext4_node *dir, struct leaf *l)
{
	uint8_t *tail = l->block + LEAF_SPACE;

	wslx_put_le16(l->block + l->last + 4, (uint16_t)(LEAF_SPACE - l->last));
	wslx_put_le16(tail + 4, EXT4W_CSUM_TAIL);
	tail[7] = FT_DIR_CSUM;
	wslx_put_le32(tail + 8, ext4w_csum(e, dir->ino, l->block, LEAF_SPACE));
	return ext4w_append_block(e, dir, l->block);
}

static int write_linear(struct wslx_ext4 *e, struct wslx_ext4_node *dir)
{
	struct leaf l;

	leaf_start(&l);
	leaf_put(&l, dir->ino, ".", 1, EXT2_FT_DIR);
	leaf_put(&l, dir->dir->parent->ino, "..", 2, EXT2_FT_DIR);
	for (struct ext4w_dentry *d = dir->dir->first; d; d = d->next)
		leaf_put(&l, d->node->ino, d->name, d->name_len, file_type(d->node->attr.mode));
	int r = leaf_write(e, dir, &l);

	/* fsck cannot allocate when it needs lost+found: as mke2fs, leave it room. */
	if (!e->read_only && dir->ino == EXT4W_FIRST_INO && !dir->dir->count)
		for (int i = 0; i < 3 && r == 0; i++) {
			leaf_start(&l);
			r = leaf_write(e, dir, &l);
		}
	return r;
}

/* First entry of each leaf, and its hash as the index has it. */
struct boundary {
	uint32_t first, hash;
};

struct index {
	struct ext4w_dentry **sorted;
	uint32_t n;
	struct boundary *leaves;
	uint32_t n_leaves;
	uint32_t n_nodes; /* index nodes below the root; 0 = the root lists the leaves */
};

static int by_hash(const void *a, const void *b)
{
	const struct ext4w_dentry *x = *(struct ext4w_dentry *const *)a, *y = *(struct ext4w_dentry *const *)b;

	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	return x->minor < y->minor ? -1 : x->minor > y->minor;
}

/* Deals the sorted entries out to leaves; called once to count, once to note. */
static uint32_t deal(const struct wslx_ext4 *e, const struct index *x, struct boundary *leaves)
{
	uint32_t space = e->read_only ? LEAF_SPACE : LEAF_FILL, used = space, n = 0;

	for (uint32_t i = 0; i < x->n; i++) {
		uint32_t len = rec_len(x->sorted[i]->name_len);

		if (used + len > space) {
			/* The low bit says that a hash continues from the leaf before. */
			if (leaves)
				leaves[n] = (struct boundary) {
					.first = i,
					.hash = x->sorted[i]->hash |
						(i && x->sorted[i - 1]->hash == x->sorted[i]->hash ? 1u : 0u),
				};
			n++;
			used = 0;
		}
		used += len;
	}
	return n;
}

/* Index entries [first, first + n) for the blocks from `block` on; the first
 * entry's hash field holds limit and count. */
static void put_index(struct wslx_ext4 *e, uint32_t ino, uint8_t *p, uint32_t at, uint32_t limit,
		      const struct boundary *b, uint32_t n, uint32_t stride, uint32_t block)
{
	uint8_t *tail = p + at + limit * 8, zero[4] = { 0 };

	for (uint32_t i = 0; i < n; i++) {
		wslx_put_le32(p + at + i * 8, b[(size_t)i * stride].hash);
		wslx_put_le32(p + at + i * 8 + 4, block + i);
	}
	wslx_put_le16(p + at, (uint16_t)limit);
	wslx_put_le16(p + at + 2, (uint16_t)n);

	uint32_t crc = ext4w_csum(e, ino, p, at + n * 8);

	crc = ext2fs_crc32c_le(crc, tail, 4);
	crc = ext2fs_crc32c_le(crc, zero, 4);
	wslx_put_le32(tail + 4, crc);
}

static int write_index(struct wslx_ext4 *e, struct wslx_ext4_node *dir, const struct index *x)
{
	uint8_t p[EXT4W_BLOCK] = { 0 };
	uint32_t levels = x->n_nodes ? 1 : 0;
	int r;

	put_entry(p, dir->ino, 12, ".", 1, EXT2_FT_DIR);
	put_entry(p + 12, dir->dir->parent->ino, EXT4W_BLOCK - 12, "..", 2, EXT2_FT_DIR);
	p[28] = e->fs->super->s_def_hash_version;
	p[29] = 8;
	p[30] = (uint8_t)levels;
	if (levels)
		put_index(e, dir->ino, p, DX_ROOT_AT, DX_ROOT_LIMIT, x->leaves, x->n_nodes, DX_NODE_LIMIT, 1);
	else
		put_index(e, dir->ino, p, DX_ROOT_AT, DX_ROOT_LIMIT, x->leaves, x->n_leaves, 1, 1);
	r = ext4w_append_block(e, dir, p);
	for (uint32_t i = 0; i < x->n_nodes && r == 0; i++) {
		uint32_t first = i * DX_NODE_LIMIT, n = x->n_leaves - first;

		if (n > DX_NODE_LIMIT)
			n = DX_NODE_LIMIT;
		memset(p, 0, sizeof(p));
		wslx_put_le16(p + 4, EXT4W_BLOCK);
		put_index(e, dir->ino, p, DX_NODE_AT, DX_NODE_LIMIT, x->leaves + first, n, 1, 1 + x->n_nodes + first);
		r = ext4w_append_block(e, dir, p);
	}
	return r;
}

static int write_leaves(struct wslx_ext4 *e, struct wslx_ext4_node *dir, const struct index *x)
{
	struct leaf l;
	int r = 0;

	for (uint32_t i = 0; i < x->n_leaves && r == 0; i++) {
		uint32_t end = i + 1 < x->n_leaves ? x->leaves[i + 1].first : x->n;

		leaf_start(&l);
		for (uint32_t k = x->leaves[i].first; k < end; k++) {
			const struct ext4w_dentry *d = x->sorted[k];

			leaf_put(&l, d->node->ino, d->name, d->name_len, file_type(d->node->attr.mode));
		}
		r = leaf_write(e, dir, &l);
	}
	return r;
}

static int write_indexed(struct wslx_ext4 *e, struct wslx_ext4_node *dir, struct wslx_err *err)
{
	struct index x = { .n = dir->dir->count };
	uint32_t i = 0;
	int r = -ENOMEM;

	x.sorted = ext4w_alloc_mem(e, x.n * sizeof(*x.sorted));
	if (!x.sorted)
		return ext4w_fail(e, -errno, err);
	for (struct ext4w_dentry *d = dir->dir->first; d; d = d->next)
		x.sorted[i++] = d;
	qsort(x.sorted, x.n, sizeof(*x.sorted), by_hash);
	x.n_leaves = deal(e, &x, NULL);
	if (x.n_leaves > DX_ROOT_LIMIT)
		x.n_nodes = (x.n_leaves + DX_NODE_LIMIT - 1) / DX_NODE_LIMIT;
	x.leaves = calloc(x.n_leaves, sizeof(*x.leaves));
	if (x.n_nodes > DX_ROOT_LIMIT)
		r = wslx_err_set(err, EFBIG, "%u names in one folder are more than ext4 can hold", x.n);
	else if (x.leaves) {
		deal(e, &x, x.leaves);
		r = write_index(e, dir, &x);
		if (r == 0)
			r = write_leaves(e, dir, &x);
		if (r < 0)
			r = ext4w_fail(e, r, err);
	}
	free(x.leaves);
	ext4w_free_mem(e, x.sorted, x.n * sizeof(*x.sorted));
	return r;
}

int ext4w_dir_write(struct wslx_ext4 *e, struct wslx_ext4_node *dir, struct wslx_err *err)
{
	uint32_t space = LEAF_SPACE - 24;
	bool fits = true;
	int r;

	for (struct ext4w_dentry *d = dir->dir->first; d && fits; d = d->next) {
		uint32_t len = rec_len(d->name_len);

		fits = len <= space;
		space -= len;
	}
	if (fits) {
		r = write_linear(e, dir);
		if (r < 0)
			r = ext4w_fail(e, r, err);
	} else {
		r = write_indexed(e, dir, err);
	}
	dir->size = (uint64_t)dir->blocks * EXT4W_BLOCK;
	return r;
}
