/* What a folder names, and where a path leads.  See walk.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "image/walk.h"

#define DIRENT_HEAD 8u
#define LINKS_MAX 8

/* ---- Folders ---- */

/* The block was read with its checksum checked. */
static int walk_block(const struct wslx_walk *w, char *block, wslx_walk_name_fn fn, void *opaque)
{
	unsigned bs = w->fs->blocksize, len;
	int r = 0;

	for (unsigned at = 0; r == 0 && at < bs; at += len) {
		struct ext2_dir_entry *d = (struct ext2_dir_entry *)(void *)(block + at);

		if (bs - at < DIRENT_HEAD || ext2fs_get_rec_len(w->fs, d, &len) || len < DIRENT_HEAD || len % 4 ||
		    len > bs - at || DIRENT_HEAD + (unsigned)ext2fs_dirent_name_len(d) > len)
			return wslx_walk_damaged(w, "a folder's entry that cannot be");
		if (d->inode)
			r = fn(d->inode, d->name, (size_t)ext2fs_dirent_name_len(d), opaque);
	}
	return r;
}

static int walk_runs(struct wslx_walk *w, ext2_ino_t ino, const struct wslx_runs *runs, wslx_walk_name_fn fn,
		     void *opaque)
{
	cleanup_free char *block = malloc(w->fs->blocksize);
	int r = block ? 0 : wslx_err_sys(w->err, ENOMEM, "cannot read %.200s", w->path);

	for (size_t i = 0; r == 0 && i < runs->n; i++)
		for (uint64_t k = 0; r == 0 && k < runs->v[i].len; k++) {
			errcode_t c = ext2fs_read_dir_block4(w->fs, runs->v[i].pblk + k, block, 0, ino);

			r = c ? wslx_walk_ext2_error(w, c) : wslx_walk_step(w);
			if (r == 0)
				r = walk_block(w, block, fn, opaque);
		}
	return r;
}

struct inline_walk {
	wslx_walk_name_fn fn;
	void *opaque;
	int r;
};

static int on_dirent(ext2_ino_t dir, int kind, struct ext2_dir_entry *d, int offset, int blocksize, char *buf,
		     void *opaque)
{
	struct inline_walk *i = opaque;

	if (d->inode)
		i->r = i->fn(d->inode, d->name, (size_t)ext2fs_dirent_name_len(d), i->opaque);
	return i->r ? DIRENT_ABORT : 0;
}

/* In the inode itself: too small to be a burden. */
static int walk_inline(const struct wslx_walk *w, ext2_ino_t ino, wslx_walk_name_fn fn, void *opaque)
{
	struct inline_walk i = { .fn = fn, .opaque = opaque };
	errcode_t c = ext2fs_dir_iterate2(w->fs, ino, 0, NULL, on_dirent, &i);

	return i.r ? i.r : c ? wslx_walk_ext2_error(w, c) : 0;
}

/* All of a folder counts, before any of it is read. */
static int use_blocks(struct wslx_walk *w, uint64_t n)
{
	if (n > w->blocks)
		return w->limits.blocks < w->visits ? wslx_walk_too_much(w, w->limits.blocks, "blocks of folders")
						    : wslx_walk_damaged(w, "more data than the disk has room for");
	w->blocks -= n;
	return 0;
}

int wslx_walk_folder(struct wslx_walk *w, ext2_ino_t ino, struct ext2_inode_large *inode, wslx_walk_name_fn fn,
		     void *opaque)
{
	struct wslx_runs runs;
	int r;

	if (inode->i_flags & EXT4_INLINE_DATA_FL)
		return walk_inline(w, ino, fn, opaque);
	r = wslx_walk_runs(w, ino, inode, UINT64_MAX, &runs);
	if (r == 0)
		r = use_blocks(w, runs.blocks);
	if (r == 0)
		r = walk_runs(w, ino, &runs, fn, opaque);
	free(runs.v);
	return r;
}

/* ---- Small content ---- */

int wslx_walk_inode(const struct wslx_walk *w, ext2_ino_t ino, struct ext2_inode_large *ret)
{
	errcode_t c;

	*ret = (struct ext2_inode_large) { 0 };
	c = ext2fs_read_inode_full(w->fs, ino, (struct ext2_inode *)ret, sizeof(*ret));
	return c ? wslx_walk_ext2_error(w, c) : 0;
}

int wslx_walk_read(const struct wslx_walk *w, ext2_ino_t ino, struct ext2_inode_large *inode, void *buf, size_t size)
{
	ext2_file_t f;
	errcode_t c = ext2fs_file_open2(w->fs, ino, (struct ext2_inode *)inode, 0, &f);
	unsigned got = 0;

	if (c)
		return wslx_walk_ext2_error(w, c);
	c = ext2fs_file_read(f, buf, (unsigned)size, &got);
	ext2fs_file_close(f);
	if (c)
		return wslx_walk_ext2_error(w, c);
	return got == size ? 0 : wslx_walk_damaged(w, "shorter than it says");
}

int wslx_walk_target(const struct wslx_walk *w, ext2_ino_t ino, struct ext2_inode_large *inode, char *ret)
{
	uint64_t size = EXT2_I_SIZE(inode);
	int r = 0;

	if (!size || size > WSLX_WALK_TARGET_MAX)
		return wslx_walk_damaged(w, "a symbolic link without a target");
	if (ext2fs_is_fast_symlink((struct ext2_inode *)inode))
		memcpy(ret, inode->i_block, (size_t)WSLX_MIN(size, (uint64_t)sizeof(inode->i_block)));
	else
		r = wslx_walk_read(w, ino, inode, ret, (size_t)size);
	ret[size] = '\0';
	return r == 0 && strlen(ret) != size ? wslx_walk_damaged(w, "a symbolic link without a target") : r;
}

/* ---- Paths ---- */

struct wanted {
	const char *name;
	size_t len;
	ext2_ino_t ino; /* 0: not met */
};

static int on_name(ext2_ino_t ino, const char *name, size_t len, void *opaque)
{
	struct wanted *x = opaque;

	if (len != x->len || memcmp(name, x->name, len) != 0)
		return 0;
	x->ino = ino;
	return 1;
}

/* A way through the tree. */
struct way {
	struct wslx_walk *w;
	ext2_ino_t at;
	struct ext2_inode_large inode; /* of at */
	unsigned links;
	char rest[WSLX_WALK_TARGET_MAX + 1]; /* still to go */
};

static int go(struct way *y, ext2_ino_t ino)
{
	y->at = ino;
	return wslx_walk_inode(y->w, ino, &y->inode);
}

/* The link's target goes before the rest.  1, or 0: it leads nowhere. */
static int follow(struct way *y, ext2_ino_t ino, struct ext2_inode_large *link)
{
	char target[WSLX_WALK_TARGET_MAX + 1];
	int r = wslx_walk_target(y->w, ino, link, target);
	size_t n, rest = strlen(y->rest);

	if (r < 0)
		return r;
	n = strlen(target);
	if (++y->links > LINKS_MAX || n + 1 + rest > WSLX_WALK_TARGET_MAX)
		return 0;
	memmove(y->rest + n + 1, y->rest, rest + 1);
	memcpy(y->rest, target, n);
	y->rest[n] = '/';
	r = target[0] == '/' ? go(y, EXT2_ROOT_INO) : 0;
	return r < 0 ? r : 1;
}

/* One name on.  1, or 0: nothing is there. */
static int step(struct way *y)
{
	char name[256];
	size_t n = strcspn(y->rest, "/");
	struct wanted x = { .name = name, .len = n };
	struct ext2_inode_large inode;
	int r;

	if (n >= sizeof(name) || !S_ISDIR(y->inode.i_mode))
		return 0;
	memcpy(name, y->rest, n);
	memmove(y->rest, y->rest + n, strlen(y->rest + n) + 1);
	r = wslx_walk_folder(y->w, y->at, &y->inode, on_name, &x);
	if (r <= 0)
		return r;
	r = wslx_walk_inode(y->w, x.ino, &inode);
	if (r < 0)
		return r;
	if (S_ISLNK(inode.i_mode))
		return follow(y, x.ino, &inode);
	y->at = x.ino;
	y->inode = inode;
	return 1;
}

int wslx_walk_exists(struct wslx_walk *w, const char *path)
{
	struct way y = { .w = w };
	int r;

	if (strlen(path) > WSLX_WALK_TARGET_MAX)
		return 0;
	strcpy(y.rest, path);
	w->path = path;
	r = go(&y, EXT2_ROOT_INO);
	if (r < 0)
		return r;
	for (r = 1; r > 0;) {
		size_t slashes = strspn(y.rest, "/");

		memmove(y.rest, y.rest + slashes, strlen(y.rest + slashes) + 1);
		if (!y.rest[0])
			return 1;
		r = step(&y);
	}
	return r;
}
